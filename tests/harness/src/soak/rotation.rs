/*!
[`Rotation`]: what runs next.

Rounds are begun in their order, and each begins when all runs of the one before have begun; some of those
may still run. A layer waits for its own run of the round before, and those behind it in the round go first
meanwhile: never do two runs of one layer run at once, so that a fuzz target's corpus has one writer and the
planted bugs' own target directory one build. Different layers share nothing that has a fixed name:
directories, mounts and kernels are each process's own, and loop devices are given out by the kernel.
*/

use super::Run;
use std::{collections::VecDeque, io};

/// What runs next, of what `plan` has for each round.
pub(super) struct Rotation<P> {
    plan: P,
    /// What has not begun, with its round.
    due: VecDeque<(u64, Run)>,
    /// How many rounds were planned.
    planned: u64,
}

/// What to do.
pub(super) enum Next {
    /// Begin this one, of this round.
    Begin(u64, Box<Run>),
    /// Wait until one ends.
    Wait,
    /// The time is up.
    TimeIsUp,
    /// No layer has anything to do in this round, nor would it in the next.
    Nothing,
}

impl<P: FnMut(u64) -> io::Result<Vec<Run>>> Rotation<P> {
    pub(super) const fn new(plan: P) -> Self {
        Self { plan, due: VecDeque::new(), planned: 0 }
    }

    /// What is next while the layers run for which `runs` is true. The first round goes on when the time is
    /// up, and nothing else does.
    pub(super) fn next(
        &mut self,
        is_time_up: bool,
        runs: impl Fn(&str) -> bool,
    ) -> io::Result<Next> {
        if self.due.is_empty() {
            let round = self.planned;
            if round > 0 && is_time_up {
                return Ok(Next::TimeIsUp);
            }
            self.due.extend((self.plan)(round)?.into_iter().map(|run| (round, run)));
            if self.due.is_empty() {
                return Ok(Next::Nothing);
            }
            self.planned += 1;
        }
        // All that is due is of one round.
        if is_time_up && self.planned > 1 {
            return Ok(Next::TimeIsUp);
        }
        let free = self.due.iter().position(|(_, run)| !runs(&run.layer));
        let next = free.and_then(|place| self.due.remove(place));
        Ok(next.map_or(Next::Wait, |(round, run)| Next::Begin(round, Box::new(run))))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::answer::Kind, *};
    use std::process::Command;

    /// A rotation through these layers, each in every round.
    fn rotation(layers: &'static [&str]) -> Rotation<impl FnMut(u64) -> io::Result<Vec<Run>>> {
        Rotation::new(move |round| {
            let run = |layer: &&str| Run {
                layer: (*layer).to_owned(),
                seed: round,
                command: Command::new("true"),
                kind: Kind::Simulated,
            };
            Ok(layers.iter().map(run).collect())
        })
    }

    /// What is next, in short: the layer and its round.
    fn next(
        rotation: &mut Rotation<impl FnMut(u64) -> io::Result<Vec<Run>>>,
        is_time_up: bool,
        running: &[&str],
    ) -> String {
        match rotation.next(is_time_up, |layer| running.contains(&layer)).unwrap() {
            Next::Begin(round, run) => {
                assert_eq!(run.seed, round);
                format!("{}{round}", run.layer)
            }
            Next::Wait => "wait".to_owned(),
            Next::TimeIsUp => "time is up".to_owned(),
            Next::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn one_after_the_other_and_round_after_round() {
        let mut rotation = rotation(&["a", "b", "c"]);
        let begun: Vec<_> = (0..7).map(|_| next(&mut rotation, false, &[])).collect();
        assert_eq!(begun, ["a0", "b0", "c0", "a1", "b1", "c1", "a2"]);
    }

    #[test]
    fn no_layer_runs_beside_itself_and_those_behind_it_go_first() {
        let mut rotation = rotation(&["a", "b", "c"]);
        assert_eq!(next(&mut rotation, false, &[]), "a0");
        assert_eq!(next(&mut rotation, false, &["a"]), "b0");
        assert_eq!(next(&mut rotation, false, &["a", "b"]), "c0");
        assert_eq!(next(&mut rotation, false, &["a", "c"]), "b1");
        assert_eq!(next(&mut rotation, false, &["a", "b"]), "c1");
        // The next round waits for the last of this one to begin, not to end.
        assert_eq!(next(&mut rotation, false, &["a"]), "wait");
        assert_eq!(next(&mut rotation, false, &["b", "c"]), "a1");
        assert_eq!(next(&mut rotation, false, &["a", "b", "c"]), "wait");
        assert_eq!(next(&mut rotation, false, &["a", "b"]), "c2");
    }

    #[test]
    fn the_time_ends_all_but_the_first_round() {
        let mut rotation = rotation(&["a", "b"]);
        assert_eq!(next(&mut rotation, true, &[]), "a0");
        assert_eq!(next(&mut rotation, true, &["a"]), "b0");
        assert_eq!(next(&mut rotation, true, &["a", "b"]), "time is up");
        assert_eq!(next(&mut rotation, false, &[]), "a1");
        assert_eq!(next(&mut rotation, true, &["a"]), "time is up");
        assert_eq!(next(&mut rotation, true, &[]), "time is up");
    }

    #[test]
    fn a_round_of_nothing_is_not_asked_for_again_and_again() {
        assert_eq!(next(&mut rotation(&[]), false, &[]), "nothing");
    }
}
