//! The disk answers EIO to reads when the log is opened.

use super::{
    Scene, Stop, expect,
    fault::{Fault, Target},
    stand::Stand,
    work::Work,
};
use crate::subject::{checksum, payload};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use wal::{Error, ErrorKind, UnreadableTail, Verdict, format::FRAME_HEADER_BYTES};

/// Enough for four segments.
const RECORDS: u64 = 300;
const SEGMENT_BYTES: u64 = 128 << 10;
const BLOCK_BYTES: u64 = 4096;

/// So many groups are appended before a checkpoint.
const GROUPS_RELEASED: usize = 70;

/// What a checkpoint released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Released {
    Nothing,
    Some,
}

/// What an open came to.
#[derive(Debug)]
enum Opened {
    /// So many records, released ones included, and how the log said that it ends.
    Whole(u64, Verdict),
    Refused(Error),
}

/// A frame cannot be read. If it is the last one, which nothing vouches for, the log is refused: what
/// cannot be read today may be readable tomorrow; `UnreadableTail::TreatAsTorn` cuts it instead, and says
/// so. If it is any other, a later frame proves that it was durable: the log is refused either way, and
/// the error says where. Never is there a shorter log without a word.
/// The same where a checkpoint released what comes first.
pub(super) fn tail(scene: &Scene<'_>) -> Result<Value, Stop> {
    let stand = scene.stand()?;
    let all = unreadable_frames(scene, &stand, Released::Nothing)?;
    let some = unreadable_frames(scene, &stand, Released::Some)?;
    Ok(json!([all, some]))
}

fn unreadable_frames(scene: &Scene<'_>, stand: &Stand, kept: Released) -> Result<Value, Stop> {
    let (work, frames) = write(scene, stand, kept)?;
    let mut refusals = Vec::new();
    let last = frames.len() - 1;
    let aims = [0, last / 4, last / 2, last - 2, last - 1, last];
    for aim in aims {
        stand.fault(Fault::Heal)?;
        stand.fault(Fault::Read(Target::Frame(frames[aim])))?;
        let failed = stand.tally()?.reads;
        for policy in [UnreadableTail::Refuse, UnreadableTail::TreatAsTorn] {
            let opened = open(&work, policy)?;
            let is_cut = aim == last && policy == UnreadableTail::TreatAsTorn;
            match &opened {
                Opened::Refused(error) if !is_cut || is_vouched(error, frames[aim]) => {
                    check_refusal(&work, error, frames[aim], aim == last)?;
                    refusals.push(error.to_string());
                }
                Opened::Whole(_, Verdict::TornTail) if is_cut => {}
                _ => {
                    let lsn = frames[aim];
                    let text = format!("frame {lsn} unreadable, {policy:?}: {opened:?}");
                    return Err(Stop::Bad(text));
                }
            }
        }
        expect(stand.tally()?.reads > failed, || "the disk never failed".to_owned())?;
    }
    stand.fault(Fault::Heal)?;
    let end = work.check_recovered()?;
    Ok(json!({ "frames": frames.len(), "recovered": end, "refusals": refusals }))
}

/// A segment's header or the identity cannot be read. The log is refused, or opened whole, since frames
/// say where they stand; it is never taken for a new one, or for a shorter one.
pub(super) fn header(scene: &Scene<'_>) -> Result<Value, Stop> {
    let stand = scene.stand()?;
    let (work, frames) = write(scene, &stand, Released::Nothing)?;
    let live = frames.last().map_or(0, |lsn| lsn / SEGMENT_BYTES);
    let mut answers = Vec::new();
    let targets = (0..=live).map(Target::Segment).chain([Target::Identity]);
    for target in targets {
        stand.fault(Fault::Heal)?;
        stand.fault(Fault::Read(target))?;
        let failed = stand.tally()?.reads;
        for policy in [UnreadableTail::Refuse, UnreadableTail::TreatAsTorn] {
            let opened = open(&work, policy)?;
            if let Opened::Whole(count, _) = opened {
                let acknowledged = work.ledger().acknowledged;
                expect(count == acknowledged, || format!("{target} is unreadable: {opened:?}"))?;
            }
            if let Opened::Refused(error) = &opened {
                let known = [ErrorKind::Corrupt, ErrorKind::Io].contains(&error.kind());
                expect(known, || format!("{target} is unreadable: {error:?}"))?;
                expect(error.path().is_some(), || format!("no place: {error:?}"))?;
            }
            answers.push(format!("{target}: {opened:?}"));
        }
        expect(stand.tally()?.reads > failed, || "the disk never failed".to_owned())?;
    }
    stand.fault(Fault::Heal)?;
    let end = work.check_recovered()?;
    Ok(json!({ "recovered": end, "answers": answers }))
}

/// A log of several segments whose last frame has nobody after it, and where its frames stand.
fn write(scene: &Scene<'_>, stand: &Stand, kept: Released) -> Result<(Work, Vec<u64>), Stop> {
    let name = format!("log-{kept:?}");
    let work = scene.work(stand, &name, RECORDS).with_segment_bytes(SEGMENT_BYTES);
    let wal = work.open()?;
    if kept == Released::Some {
        let ended = work.alone(&wal, GROUPS_RELEASED);
        expect(ended.error().is_none(), || format!("{ended:?}"))?;
        work.release(&wal)?;
    }
    // One thread that waits for each group: a frame for each.
    let ended = work.alone(&wal, usize::MAX);
    expect(ended.error().is_none(), || format!("{ended:?}"))?;
    let header = u64::try_from(FRAME_HEADER_BYTES).unwrap_or(0);
    let mut frames = Vec::new();
    let mut reader = wal.read_from(wal.start_mark())?;
    // What is kept begins with the last record of a batch.
    let mut begins_frame = kept == Released::Nothing;
    while let Some(record) = reader.next_record()? {
        if begins_frame {
            // In a segment's first frame the checkpoint comes before it.
            frames.push((record.lsn().get() - header) / BLOCK_BYTES * BLOCK_BYTES);
        }
        begins_frame = record.ends_batch();
    }
    drop(wal);
    Ok((work, frames))
}

fn open(work: &Work, policy: UnreadableTail) -> Result<Opened, Stop> {
    let options = work.options().unreadable_tail(policy);
    let mut replay = loop {
        match options.open(work.path()) {
            // It stays with the log that was dropped until its threads are gone.
            Err(error) if error.kind() == ErrorKind::Locked => std::thread::yield_now(),
            Err(error) => return Ok(Opened::Refused(error)),
            Ok(replay) => break replay,
        }
    };
    let mut count = work.ledger().released;
    let seed = work.seed();
    let refused = loop {
        let step = match replay.next() {
            Ok(Some(record)) if checksum(record.payload()) == checksum(&payload(seed, count)) => {
                count += 1;
                ControlFlow::Continue(())
            }
            Ok(Some(_)) => return Err(Stop::Bad(format!("record {count} has other bytes"))),
            Ok(None) => ControlFlow::Break(None),
            Err(error) => ControlFlow::Break(Some(error)),
        };
        if let ControlFlow::Break(end) = step {
            break end;
        }
    };
    let verdict = replay.report().verdict;
    match refused {
        // What cannot be read once must not be passed over the second time, nor be repaired away.
        Some(error) => match replay.finish() {
            Ok(_) => Err(Stop::Bad(format!("finished in spite of {error:?}"))),
            Err(_) => Ok(Opened::Refused(error)),
        },
        None => Ok(Opened::Whole(count, verdict)),
    }
}

fn check_refusal(work: &Work, error: &Error, lsn: u64, is_last: bool) -> Result<(), Stop> {
    let unproved = is_last && !is_vouched(error, lsn);
    let wanted = if unproved { ErrorKind::Io } else { ErrorKind::Corrupt };
    expect(error.kind() == wanted, || format!("expected {wanted:?}: {error:?}"))?;
    let place = (error.segment(), error.offset());
    let (segment, offset) = (lsn / SEGMENT_BYTES, lsn % SEGMENT_BYTES);
    let is_named = place == (Some(segment), Some(offset));
    expect(is_named, || format!("expected segment {segment}, offset {offset}: {error:?}"))?;
    let is_in_log = error.path().is_some_and(|path| path.starts_with(work.path()));
    expect(is_in_log, || format!("no place: {error:?}"))
}

/// Whether a frame is the first of its segment, but for the log's own first.
fn is_first(lsn: u64) -> bool {
    lsn > SEGMENT_BYTES && lsn % SEGMENT_BYTES == BLOCK_BYTES
}

/// Whether the last frame is proved all the same: the segment after its own is prepared once its own holds
/// a durable frame, and it is the first there.
fn is_vouched(error: &Error, lsn: u64) -> bool {
    is_first(lsn) && error.kind() == ErrorKind::Corrupt
}
