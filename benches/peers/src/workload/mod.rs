//! What is measured: contestants take turns, round by round, so that what drifts (the host, its other
//! guests) drifts under all of them.

mod durable;
mod producers;
mod recovery;
mod stream;

pub(crate) use durable::durable;
pub(crate) use producers::producers;
pub(crate) use recovery::recovery;
pub(crate) use stream::stream;

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    contestants::{Contestant, Entry, Keep},
    place::{Lane, Place},
    round::{Round, Standing},
};

/// How often a contestant is asked to let go of what is not needed.
const RELEASE_EVERY: Duration = Duration::from_millis(100);

/// All `entries` for `rounds` rounds of `run`, after one that is not counted. Who fails is out, and
/// says why; the others go on.
fn interleave(
    place: &Place,
    entries: &[Entry],
    keep: Keep,
    rounds: usize,
    run: impl Fn(&dyn Contestant) -> io::Result<Option<Round>>,
) -> Vec<Standing> {
    let mut standings: Vec<_> = entries.iter().map(Standing::new).collect();
    let mut lanes: Vec<_> =
        entries.iter().map(|entry| Some(Lane::open(place, entry, keep))).collect();
    // The first is the one that is not counted.
    for round in 0..=rounds {
        for (slot, standing) in lanes.iter_mut().zip(&mut standings) {
            let Some(lane) = slot.take() else { continue };
            match turn(lane, round == 0, &run) {
                Ok((lane, Some(figures))) => {
                    *slot = Some(Ok(lane));
                    if round > 0 {
                        standing.rounds.push(figures);
                    }
                }
                Ok((lane, None)) => out(standing, "not offered".to_owned(), lane.end()),
                Err(error) => out(standing, format!("failed: {error}"), Ok(())),
            }
        }
    }
    for (lane, standing) in lanes.into_iter().zip(&mut standings) {
        if let Some(Ok(lane)) = lane
            && let Err(error) = lane.end()
        {
            out(standing, format!("failed at its end: {error}"), Ok(()));
        }
    }
    standings
}

/// One contestant in one round.
fn turn<'a>(
    lane: io::Result<Lane<'a>>,
    is_first: bool,
    run: &impl Fn(&dyn Contestant) -> io::Result<Option<Round>>,
) -> io::Result<(Lane<'a>, Option<Round>)> {
    // What others left in the page cache would be written on this one's time.
    rustix::fs::sync();
    let (lane, is_cold) = if is_first { (lane?, false) } else { lane?.renewed()? };
    if is_cold {
        releasing(lane.contestant(), || run(lane.contestant()))?;
    }
    let figures = releasing(lane.contestant(), || run(lane.contestant()))?;
    Ok((lane, figures))
}

fn out(standing: &mut Standing, why: String, end: io::Result<()>) {
    standing.rounds.clear();
    standing.unranked = Some(match end {
        Ok(()) => why,
        Err(error) => format!("{why}; at its end: {error}"),
    });
}

/// `run`, while a thread beside it has the contestant let go of what is not needed.
fn releasing<T>(contestant: &dyn Contestant, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let releaser = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                contestant.release()?;
                thread::park_timeout(RELEASE_EVERY);
            }
            Ok(())
        });
        let result = run();
        stop.store(true, Ordering::Relaxed);
        releaser.thread().unpark();
        let released: io::Result<()> =
            releaser.join().unwrap_or_else(|_| Err(io::Error::other("a release panicked")));
        released.and(result)
    })
}
