/*!
Which images are tried: [`plan`].

By write, a window is tried exhaustively while it has few pending writes: every subset. Where it has
more, the ends, the prefixes, each write missing alone, and some at random. Tears are drawn at random,
and only in what the log itself wrote: a file system may rely on its own blocks being whole.

The plan is a function of the recording, the seed and the number of states, so that a state is named
by its number alone.
*/

use super::{tear::Tearable, window::Window};
use crate::random::{Random, mix};
use std::{collections::BTreeSet, ops::Range};

/// Up to so many pending writes, every subset is tried.
const EXHAUSTIVE_MAX: usize = 8;

/// With more of them, so many subsets at random besides the regular ones.
const RANDOM_SUBSETS: usize = 24;

/// One state in so many is torn, if the log has writes to tear.
const TORN_ONE_IN: usize = 4;

/// A sector: what a disk writes as one, or tears.
pub(super) const SECTOR_BYTES: usize = 512;

/// An image: a window, and what survives of its pending writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State {
    /// The window's number.
    pub(super) window: usize,
    /// The pending writes that survive, by their place among the window's.
    pub(super) survivors: Vec<usize>,
    pub(super) tear: Option<Tear>,
}

/// What becomes of one of the survivors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tear {
    /// Its place among the window's pending writes.
    pub(super) place: usize,
    /// The sectors that do not survive, by their number in the write.
    pub(super) lost: Vec<usize>,
    /// Of these, one that holds neither the old nor the new.
    pub(super) garbage: Option<usize>,
    /// What makes the garbage.
    pub(super) seed: u64,
}

/// The states of a recording.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of the windows.
    pub(super) states: Vec<State>,
    /// Whether every subset of every window is among them.
    pub(super) exhaustive: bool,
}

/// Up to `count` states, the same for the same arguments.
pub(super) fn plan(windows: &[Window], tearable: &Tearable, seed: u64, count: usize) -> Plan {
    let mut random = Random::new(mix(&[seed, 2]));
    let mut exhaustive = true;
    let mut states = Vec::new();
    for (number, window) in windows.iter().enumerate() {
        exhaustive &= window.pending.len() <= EXHAUSTIVE_MAX;
        let is_last = number + 1 == windows.len();
        states.extend(
            subsets(window.pending.len(), &mut random)
                .into_iter()
                .filter(|survivors| is_last || *survivors != window.next_settles)
                .map(|survivors| State { window: number, survivors, tear: None }),
        );
    }
    let torn = torn_states(windows, tearable, &mut random, count / TORN_ONE_IN);
    let whole_max = count.saturating_sub(torn.len());
    if states.len() > whole_max {
        exhaustive = false;
        // A partial shuffle: the first `whole_max` are a fair sample.
        for place in 0..whole_max {
            let other = place + random.index(states.len() - place);
            states.swap(place, other);
        }
        states.truncate(whole_max);
    }
    states.extend(torn);
    states.sort_unstable();
    Plan { states, exhaustive }
}

/// Every subset of `count` writes, or a choice of them.
fn subsets(count: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let members = |mask: u64| (0..count).filter(|place| mask >> place & 1 == 1).collect();
    if count <= EXHAUSTIVE_MAX {
        return (0..1_u64 << count).map(members).collect();
    }
    let mut chosen: BTreeSet<Vec<usize>> = (0..=count).map(|end| (0..end).collect()).collect();
    chosen.extend(
        (0..count).map(|missing| (0..count).filter(|place| *place != missing).collect::<Vec<_>>()),
    );
    for _ in 0..RANDOM_SUBSETS {
        chosen.insert((0..count).filter(|_| random.one_in(2)).collect());
    }
    chosen.into_iter().collect()
}

fn torn_states(
    windows: &[Window],
    tearable: &Tearable,
    random: &mut Random,
    count: usize,
) -> Vec<State> {
    let candidates: Vec<(usize, usize)> = windows
        .iter()
        .enumerate()
        .flat_map(|(number, window)| {
            let places = (0..window.pending.len())
                .filter(|place| !tearable.sectors(window.pending[*place]).is_empty());
            places.map(move |place| (number, place))
        })
        .collect();
    if candidates.is_empty() {
        return Vec::new();
    }
    (0..count)
        .map(|_| {
            let (number, place) = candidates[random.index(candidates.len())];
            let window = &windows[number];
            let survivors = (0..window.pending.len())
                .filter(|other| *other == place || random.one_in(2))
                .collect();
            let sectors = tearable.sectors(window.pending[place]);
            let tear = Some(draw_tear(place, sectors, random));
            State { window: number, survivors, tear }
        })
        .collect()
}

/// Half of the tears lose what comes after some sector, the others any sectors; always one at least.
fn draw_tear(place: usize, sectors: &[Range<usize>], random: &mut Random) -> Tear {
    let sectors: Vec<usize> = sectors.iter().cloned().flatten().collect();
    let mut lost: Vec<usize> = if random.one_in(2) {
        sectors[random.index(sectors.len())..].to_vec()
    } else {
        sectors.iter().copied().filter(|_| random.one_in(2)).collect()
    };
    if lost.is_empty() {
        lost.push(sectors[random.index(sectors.len())]);
    }
    let garbage = random.one_in(2).then(|| lost[random.index(lost.len())]);
    Tear { place, lost, garbage, seed: random.next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(pending: usize, next_settles: &[usize]) -> Window {
        Window {
            end: 0,
            newly_settled: Vec::new(),
            last_settled: 0,
            pending: (0..pending).collect(),
            next_settles: next_settles.to_vec(),
        }
    }

    #[test]
    fn few_writes_are_tried_exhaustively() {
        let windows = [window(3, &[0, 1]), window(2, &[])];
        let plan = plan(&windows, &Tearable::default(), 1, 1000);
        // Eight subsets, one of which is judged in the next window, and four.
        assert_eq!(plan.states.len(), 7 + 4);
        assert!(plan.exhaustive);
        let unique: BTreeSet<_> = plan.states.iter().collect();
        assert_eq!(unique.len(), plan.states.len());
        assert!(!plan.states.iter().any(|state| state.window == 0 && state.survivors == [0, 1]));
    }

    #[test]
    fn many_writes_are_sampled_with_both_ends() {
        let windows = [window(70, &[])];
        let plan = plan(&windows, &Tearable::default(), 1, 1000);
        assert!(!plan.exhaustive);
        let all: Vec<usize> = (0..70).collect();
        assert!(plan.states.iter().any(|state| state.survivors == all));
        assert!(plan.states.iter().any(|state| state.survivors.is_empty()));
        assert!(plan.states.iter().any(|state| state.survivors == all[1..]));
    }

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        let windows = [window(9, &[]), window(4, &[])];
        let tearable = Tearable::from_sectors([(2, 0..8)]);
        let states = |seed| plan(&windows, &tearable, seed, 40).states;
        assert_eq!(states(1), states(1));
        assert_ne!(states(1), states(2));
        assert_eq!(states(1).len(), 40);
    }

    #[test]
    fn tears_stay_in_the_sectors_of_the_log() {
        let windows = [window(3, &[])];
        let tearable = Tearable::from_sectors([(1, 2..6)]);
        let plan = plan(&windows, &tearable, 5, 400);
        let tears: Vec<_> = plan.states.iter().filter(|state| state.tear.is_some()).collect();
        assert_eq!(tears.len(), 100);
        for state in tears {
            let tear = state.tear.as_ref().unwrap();
            assert_eq!(tear.place, 1);
            assert!(state.survivors.contains(&1));
            assert!(!tear.lost.is_empty());
            assert!(tear.lost.iter().all(|sector| (2..6).contains(sector)));
            assert!(tear.garbage.is_none_or(|sector| tear.lost.contains(&sector)));
        }
    }
}
