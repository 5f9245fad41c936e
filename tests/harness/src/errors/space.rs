//! There is no room: on a disk that promised some, and in a file system.

use super::{Scene, Stop, expect, fault::Fault, stand::Stand, work::Ended};
use crate::record::FileSystem;
use rustix::fs::FallocateFlags;
use serde_json::{Value, json};
use std::{fs::File, io, path::Path};
use wal::{Error, ErrorKind};

const RECORDS: u64 = 8000;
/// So many go through the slots that a checkpoint frees.
const MORE: u64 = 800;
const SEGMENT_BYTES: u64 = 128 << 10;
/// How much room the log finds in the file system that is full.
const ROOM_BYTES: u64 = 1 << 20;
const STEP_BYTES: u64 = 64 << 10;

/// A thin disk runs out of room after the file system promised some. Where overwrites stay in place, the
/// segments that were written ahead go on; the preparation of the next one fails, which harms nothing:
/// appends answer `NoSpace`, and once there is room the same log goes on. Where every write takes new
/// room (btrfs), a commit fails and latches the log. Either way nothing that was acknowledged is missing
/// afterwards.
pub(super) fn thin(scene: &Scene<'_>) -> Result<Value, Stop> {
    let mut stand = scene.stand()?;
    let work = scene.work(&stand, "log", RECORDS).with_segment_bytes(SEGMENT_BYTES);
    let wal = work.open()?;
    let ended = work.together(&wal, 40, || stand.fault(Fault::Room(0)))?;
    let before = work.ledger();
    let tally = stand.tally()?;
    expect(tally.refusals > 0, || format!("the disk refused nothing: {ended:?}"))?;
    expect(ended.iter().all(|ended| ended.error().is_some()), || format!("went on: {ended:?}"))?;
    let latched = ended.iter().filter_map(Ended::error).any(is_latched);
    if latched {
        work.check_latched(&wal, &ended)?;
        work.check_readable_where_possible(&wal)?;
        // What was written ahead has its room; xfs may lose its own journal's, and with it everything.
        expect(scene.file_system != FileSystem::Ext4, || format!("latched: {ended:?}"))?;
    } else {
        expect(scene.file_system != FileSystem::Btrfs, || format!("not latched: {ended:?}"))?;
        expect(ended.iter().all(is_full), || format!("another answer: {ended:?}"))?;
        work.check_readable(&wal)?;
    }
    stand.fault(Fault::Heal)?;
    let mut went_on = 0;
    if !latched {
        let ended = work.alone(&wal, 40);
        expect(ended.error().is_none(), || format!("there is room again: {ended:?}"))?;
        went_on = work.ledger().acknowledged - before.acknowledged;
        work.check_readable(&wal)?;
        wal.close()?;
    }
    drop(wal);
    stand.remount()?;
    let end = work.check_recovered()?;
    Ok(json!({
        "refusals": tally.refusals,
        "latched": latched,
        "acknowledged": before.acknowledged,
        "went_on": went_on,
        "recovered": end,
        "error": ended.iter().find_map(Ended::error).map(Error::to_string),
    }))
}

/// A file system is full but for a few segments. Appends fill them and then answer `NoSpace`, again and
/// again, and nothing before is harmed: it is read, and a checkpoint frees it. Then the log goes on, for
/// more than it held, in the same slots.
pub(super) fn full(scene: &Scene<'_>) -> Result<Value, Stop> {
    let mut stand = scene.stand()?;
    let work = scene.work(&stand, "log", RECORDS).with_segment_bytes(SEGMENT_BYTES);
    let wal = work.open()?;
    fill(&stand, &stand.at().join("ballast"))?;
    let ended = work.together(&wal, 0, || Ok(()))?;
    expect(ended.iter().all(is_full), || format!("expected NoSpace: {ended:?}"))?;
    let held = work.ledger();
    for _ in 0..3 {
        let ended = work.alone(&wal, 1);
        expect(is_full(&ended), || format!("still full: {ended:?}"))?;
        work.check_readable(&wal)?;
    }
    let mut rounds = 0;
    while work.ledger().acknowledged < held.acknowledged + MORE {
        work.release(&wal)?;
        let before = work.ledger().acknowledged;
        let ended = work.alone(&wal, 60);
        expect(ended.error().is_none_or(is_no_space), || format!("after a release: {ended:?}"))?;
        expect(work.ledger().acknowledged > before, || format!("nothing was freed: {ended:?}"))?;
        work.check_readable(&wal)?;
        rounds += 1;
    }
    let recycled = wal.stats().segments_recycled;
    expect(recycled > 0, || "no segment was recycled".to_owned())?;
    drop(wal);
    stand.remount()?;
    // The rest of the check makes no segment that there is no room for.
    std::fs::remove_file(stand.at().join("ballast"))?;
    let end = work.check_recovered()?;
    Ok(json!({
        "held": held.acknowledged,
        "rounds": rounds,
        "segments_recycled": recycled,
        "acknowledged": work.ledger().acknowledged,
        "recovered": end,
        "error": ended.iter().find_map(Ended::error).map(Error::to_string),
    }))
}

/// Leaves only a little room.
fn fill(stand: &Stand, ballast: &Path) -> io::Result<()> {
    let file = File::create(ballast)?;
    let mut bytes = 0;
    let room = || -> io::Result<u64> {
        let found = rustix::fs::statvfs(stand.at())?;
        Ok(found.f_bavail * found.f_frsize)
    };
    loop {
        let step = room()?.saturating_sub(ROOM_BYTES) / STEP_BYTES * STEP_BYTES;
        if step == 0 {
            return file.sync_all();
        }
        // The file system needs some for itself: by and by.
        let step = (step / 2).max(STEP_BYTES);
        rustix::fs::fallocate(&file, FallocateFlags::empty(), bytes, step)?;
        bytes += step;
    }
}

fn is_latched(error: &Error) -> bool {
    error.kind() == ErrorKind::Latched
}

fn is_no_space(error: &Error) -> bool {
    error.kind() == ErrorKind::NoSpace
}

fn is_full(ended: &Ended) -> bool {
    matches!(ended, Ended::Append(error) if is_no_space(error))
}
