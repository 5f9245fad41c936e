//! The disk answers EIO to writes and flushes in the midst of the work.

use super::{
    Scene, Stop, expect,
    fault::{Cache, Fault, Step, Times},
};
use serde_json::{Value, json};

const RECORDS: u64 = 400;
/// Enough for a segment more than are prepared when a log begins.
const RECORDS_AHEAD: u64 = 4000;
const SEGMENT_BYTES_AHEAD: u64 = 128 << 10;
/// So many records are durable before the disk begins to fail.
const AFTER: u64 = 60;
/// A flush that fails may be one of the file system's own, which the log need not hear of.
const ATTEMPTS_MAX: usize = 5;

/// The disk answers EIO to a write of a frame, once or from then on, in the midst of four writers. The
/// kernel says so to the one write and then forgets: a later `fdatasync` answers Ok. The log latches:
/// nothing at or above the range it names is acknowledged, every later call answers the same, and what
/// is durable is read on, while the disk still fails. Once it does not, a new open finds every
/// acknowledged record.
pub(super) fn write(scene: &Scene<'_>) -> Result<Value, Stop> {
    let mut found = Vec::new();
    for times in [Times::Once, Times::Always] {
        let latched = latch(scene, &times.to_string(), Fault::Write(times))?;
        let Some(latched) = latched else {
            return Err(Stop::Bad(format!("a write failed {times}, and nobody was told")));
        };
        found.push(latched);
    }
    Ok(Value::Array(found))
}

/// The disk answers EIO to a flush, once or from then on, and the frames that were in its cache are
/// there all the same, or gone. After the one error the next flush answers Ok, with the data gone: so
/// nothing may be acknowledged by it. The log latches and goes on reading; a new open on the healed disk
/// finds every acknowledged record.
pub(super) fn flush(scene: &Scene<'_>) -> Result<Value, Stop> {
    let mut found = Vec::new();
    for (times, cache) in [
        (Times::Once, Cache::Kept),
        (Times::Once, Cache::Lost),
        (Times::Always, Cache::Kept),
        (Times::Always, Cache::Lost),
    ] {
        let latched = (0..ATTEMPTS_MAX).find_map(|attempt| {
            let name = format!("{times}-{cache}-{attempt}");
            latch(scene, &name, Fault::Flush(times, cache)).transpose()
        });
        let Some(latched) = latched else {
            return Err(Stop::Bad(format!("{ATTEMPTS_MAX} flushes failed, and nobody was told")));
        };
        found.push(latched?);
    }
    Ok(Value::Array(found))
}

/// The disk answers EIO to the zeros that are written ahead into the next slot, or to the flush after
/// them. Nobody waits for that write, and no record depends on it yet; but the next one goes to the same
/// device, and what an error left there nobody knows: the log latches. Everything acknowledged before is
/// read on where the file system still reads, and is there after a new open on the healed disk, which
/// prepares the slot anew and goes on.
pub(super) fn ahead(scene: &Scene<'_>) -> Result<Value, Stop> {
    let mut found = Vec::new();
    // What is written is answered to who wrote it, at once; a flush may be somebody else's.
    for (step, attempts) in [(Step::Write, 1), (Step::Sync, ATTEMPTS_MAX)] {
        let latched = (0..attempts).find_map(|attempt| {
            let name = format!("{step}-{attempt}");
            latch(scene, &name, Fault::Zeros(step)).transpose()
        });
        let Some(latched) = latched else {
            let text = format!("a {step} ahead failed, {attempts} times, and nobody was told");
            return Err(Stop::Bad(text));
        };
        found.push(latched?);
    }
    Ok(Value::Array(found))
}

/// Has the disk fail and holds the log to its word. `None` if the log never heard of it; then too it
/// must have kept what it promised.
fn latch(scene: &Scene<'_>, name: &str, fault: Fault) -> Result<Option<Value>, Stop> {
    let mut stand = scene.stand_as(name, super::Build::of(scene.file_system))?;
    let is_ahead = matches!(fault, Fault::Zeros(_));
    let work = if is_ahead {
        scene.work(&stand, "log", RECORDS_AHEAD).with_segment_bytes(SEGMENT_BYTES_AHEAD)
    } else {
        scene.work(&stand, "log", RECORDS)
    };
    // A file system that could not write its own tables need not read either.
    let check_readable = |wal: &_| match is_ahead {
        true => work.check_readable_where_possible(wal).map(drop),
        false => work.check_readable(wal),
    };
    let wal = work.open()?;
    let ended = work.together(&wal, AFTER, || stand.fault(fault))?;
    let tally = stand.tally()?;
    expect(tally.writes + tally.flushes > 0, || format!("the disk never failed: {ended:?}"))?;
    let is_latched = ended.iter().any(|ended| ended.error().is_some());
    let error = if is_latched {
        let error = work.check_latched(&wal, &ended)?;
        check_readable(&wal)?;
        // A disk that is well again changes nothing for this handle.
        stand.fault(Fault::Heal)?;
        work.check_latched(&wal, &ended)?;
        check_readable(&wal)?;
        Some(error.to_string())
    } else {
        None
    };
    drop(wal);
    stand.fault(Fault::Heal)?;
    stand.remount()?;
    let ledger = work.ledger();
    let end = work.check_recovered()?;
    Ok(error.map(|error| {
        json!({
            "fault": fault.to_string(),
            "failed_writes": tally.writes,
            "failed_flushes": tally.flushes,
            "begun": ledger.begun,
            "acknowledged": ledger.acknowledged,
            "recovered": end,
            "error": error,
        })
    }))
}
