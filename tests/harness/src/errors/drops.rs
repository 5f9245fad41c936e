//! A flush of what the log writes ahead fails, and the disk drops everything it has not flushed.

use super::{Build, Scene, Stop, expect, fault::Fault, stand::Stand, work::Work};
use serde_json::{Value, json};
use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use wal::{ErrorKind, Wal, io::Directory};

/// Enough for some thirty segments.
const RECORDS: u64 = 3000;
const SEGMENT_BYTES: u64 = 64 << 10;
/// Between two checkpoints: slots are used again, and not only made.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);
const LOOK_PAUSE: Duration = Duration::from_micros(200);

/// While one to four threads write and segments of 64 KiB are made and used again, a flush fails that was to
/// make the next segment durable, each time another one. The disk drops all that the log has written
/// since the flush before, frames of others among it, whose own flush finds nothing to do and answers Ok:
/// acknowledged records were gone, and the log opened as clean. Nothing acknowledged may be missing
/// after a remount; and nothing that begins after the disk has said EIO is acknowledged any more.
pub(super) fn flush(scene: &Scene<'_>) -> Result<Value, Stop> {
    let (mut latched, mut failed, mut bad) = (0_u64, 0_u64, Vec::new());
    for run in 0..scene.drops {
        match once(scene, run) {
            Ok(Outcome { has_failed, is_latched }) => {
                failed += u64::from(has_failed);
                latched += u64::from(is_latched);
            }
            // All of them are run, so that it is known how often it happens.
            Err(Stop::Bad(text)) => bad.push(format!("run {run}: {text}")),
            Err(stop) => return Err(stop),
        }
    }
    let count = bad.len();
    expect(bad.is_empty(), || format!("{count} of {} runs: {}", scene.drops, bad.join("; ")))?;
    expect(latched > 0, || format!("{failed} flushes failed, and nobody was told"))?;
    Ok(json!({ "runs": scene.drops, "failed": failed, "latched": latched }))
}

struct Outcome {
    has_failed: bool,
    is_latched: bool,
}

fn once(scene: &Scene<'_>, run: u64) -> Result<Outcome, Stop> {
    let mut stand = scene.stand_as(&format!("-{run}"), Build::of(scene.file_system))?;
    let work = scene.work(&stand, "log", RECORDS).with_segment_bytes(SEGMENT_BYTES);
    let wal = work.open()?;
    let writers = 1 + usize::try_from(run % 4).unwrap_or(0);
    let is_over = AtomicBool::new(false);
    let (ended, begun) = thread::scope(|scope| {
        let releaser = scope.spawn(|| release(&work, &wal, &is_over));
        let watcher = scope.spawn(|| watch(&work, &stand, &is_over));
        let ended =
            work.together_of(writers, &wal, 40 + 60 * run, || stand.fault(Fault::Drop(run % 5)));
        is_over.store(true, Ordering::SeqCst);
        let released = releaser.join().unwrap_or_else(|_| Err(panicked()));
        let begun = watcher.join().unwrap_or_else(|_| Err(panicked().into()));
        released.and(ended).map_err(Stop::from).and_then(|ended| Ok((ended, begun?)))
    })?;
    let error = ended.iter().find_map(|ended| ended.error());
    let is_latched = error.is_some_and(|error| error.kind() == ErrorKind::Latched);
    if is_latched {
        work.check_latched(&wal, &ended)?;
        let acknowledged = work.ledger().acknowledged;
        expect(begun.is_none_or(|begun| acknowledged <= begun), || {
            format!(
                "record {} began after the EIO and was acknowledged: {begun:?}",
                acknowledged - 1
            )
        })?;
    }
    drop(wal);
    stand.fault(Fault::Heal)?;
    stand.remount()?;
    work.check_recovered()?;
    Ok(Outcome { has_failed: begun.is_some(), is_latched })
}

/// Releases what is behind, again and again.
fn release(work: &Work, wal: &Wal<Directory>, is_over: &AtomicBool) -> io::Result<()> {
    while !is_over.load(Ordering::SeqCst) {
        match work.release(wal) {
            Ok(()) => thread::sleep(RELEASE_PAUSE),
            Err(error) if error.kind() == ErrorKind::Latched => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NoSpace => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(())
}

/// How many records were begun when it was seen that the disk had said EIO, if it did: whoever comes later
/// comes after the error.
fn watch(work: &Work, stand: &Stand, is_over: &AtomicBool) -> Result<Option<u64>, Stop> {
    while !is_over.load(Ordering::SeqCst) {
        if stand.tally()?.flushes > 0 {
            return Ok(Some(work.ledger().begun));
        }
        thread::sleep(LOOK_PAUSE);
    }
    Ok((stand.tally()?.flushes > 0).then(|| work.ledger().begun))
}

fn panicked() -> io::Error {
    io::Error::other("a thread of the case panicked")
}
