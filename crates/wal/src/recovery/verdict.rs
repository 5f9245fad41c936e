//! From facts to an answer: a log with its tail, or an error that names place and proof.

use super::{
    Tail,
    decide::{Damage, Decision, Torn, Unreadable, decide},
    layout::{self, Layout},
    report::Cut,
    scan::{self, Proof, Scan, found_instead},
    survey::Survey,
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{FrameHeader, Identity, RECORD_HEADER_BYTES, RecordKind},
    io::{File, Storage, copied},
    reading::{FrameWalker, Step, StopKind},
    slots::{Segment, Slot},
};
use std::sync::Arc;

/// What a log turned out to be.
pub(crate) struct Examined<F> {
    pub(crate) tail: Tail,
    pub(crate) layout: Layout<F>,
    pub(crate) checkpoint: Option<(Lsn, Vec<u8>)>,
    pub(crate) cut: Option<CutTail<F>>,
    pub(crate) last_record: Option<Lsn>,
    /// Everything below it was durable, for some frame says so.
    pub(crate) durable_mark: Lsn,
    pub(crate) highest_epoch: u64,
    pub(crate) bytes_read: u64,
}

/// What was torn, and what of it is still intact.
#[derive(Debug)]
pub(crate) struct CutTail<F> {
    pub(crate) cut: Cut,
    pub(crate) frames: Vec<CutFrame<F>>,
    /// Whether it could not all be read, so that there may be frames of higher epochs in it.
    pub(crate) has_unread: bool,
    /// Whether the file that keeps them has its name, and the directory was not synced after that.
    pub(crate) is_half_kept: bool,
}

/// An intact frame above the cut.
#[derive(Debug)]
pub(crate) struct CutFrame<F> {
    pub(crate) header: FrameHeader,
    pub(crate) slot: Arc<Slot<F>>,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Scans the log, checks that it is whole, and decides where it ends. Reads only.
pub(crate) fn examine<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    survey: &mut Survey<S::File>,
    policy: Unreadable,
    mut walker: FrameWalker<S::File>,
) -> Result<Examined<S::File>> {
    scan::settle_twins(identity, survey, &mut walker)?;
    let scan = scan::scan(storage, identity, survey, &mut walker)?;
    let layout = layout::plan(&**storage, identity, survey, &scan)?;
    let cut = judge(&**storage, identity, &scan, policy)?;
    let previous = scan.last();
    let next_ordinal = previous
        .map_or(0, |(header, _)| header.first_ordinal.saturating_add(header.record_count.into()));
    check_ordinal(&**storage, scan.tail_lsn(), next_ordinal)?;
    Ok(Examined {
        tail: Tail {
            lsn: scan.tail_lsn(),
            previous,
            next_ordinal,
            previous_crc: previous.map_or(0, |(_, crc)| crc),
        },
        checkpoint: scan.checkpoint().cloned(),
        last_record: scan.chain.iter().rev().find_map(|scan| scan.last_record),
        durable_mark: scan.durable_mark(),
        highest_epoch: scan.highest_epoch.max(layout.highest_epoch),
        bytes_read: walker.bytes_read() + survey.bytes_read + layout.bytes_read,
        cut,
        layout,
    })
}

/// The latest checkpoint that the end of a damaged log names. An error if there is no telling: every
/// segment's first frame restates the latest one, so one such frame is enough.
pub(crate) fn checkpoint<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    survey: &Survey<S::File>,
    mut walker: FrameWalker<S::File>,
) -> Result<Option<(Lsn, Vec<u8>)>> {
    let scan = scan::scan(storage, identity, survey, &mut walker)?;
    let checkpoint = scan.checkpoint().cloned();
    let start_mark = checkpoint.as_ref().map_or(Lsn::ZERO, |(start_mark, _)| *start_mark);
    if scan.last().is_some() && start_mark <= scan.tail_lsn() {
        return Ok(checkpoint);
    }
    Err(Error::new(ErrorKind::Corrupt, "the log's end does not say where it begins")
        .with_path(storage.path()))
}

/// Refuses a log that says it had more records than there was room for before its end: the count is that
/// of the oldest segment's first frame, taken at its word, and would overflow under the next appends.
fn check_ordinal<S: Storage>(storage: &S, tail: Lsn, next_ordinal: u64) -> Result<()> {
    let room = tail.get() / u64::try_from(RECORD_HEADER_BYTES).unwrap_or(u64::MAX);
    if next_ordinal <= room {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "the log counts more records than it had room for")
        .with_path(storage.path())
        .with_lsn(tail)
        .with_expected_found(format!("at most {room}"), next_ordinal))
}

/// What the tail's facts come to: nothing to cut, a cut, or an error.
fn judge<S: Storage>(
    storage: &S,
    identity: &Identity,
    scan: &Scan<S::File>,
    policy: Unreadable,
) -> Result<Option<CutTail<S::File>>> {
    let stop = &scan.tail().stop;
    let at = |kind, what: &str, segment: &Segment<S::File>, offset: u64| {
        Error::new(kind, what)
            .with_path(storage.path().join(&segment.slot.name))
            .with_segment(segment.sequence)
            .with_offset(offset)
            .with_lsn(Lsn::new(segment.base.get().saturating_add(offset)))
    };
    let here = |kind, what: &str| at(kind, what, &scan.tail().segment, stop.offset);
    match decide(&scan.facts(policy)) {
        Decision::Clean => Ok(None),
        Decision::Torn(torn) => Ok(Some(cut(identity, scan, torn))),
        Decision::Corrupt(damage) => {
            let (what, expected) = explain(scan, damage);
            // The damage is where the frame at the tail is bad; or the first one of the next segment, if the
            // log went on there: then what stands at the tail is room that was left.
            let tail = (&scan.tail().segment, stop.offset, &stop.found);
            let (segment, offset, found) = scan.lost_frame().unwrap_or(tail);
            let error = at(ErrorKind::Corrupt, what, segment, offset);
            Err(found_instead(error, expected, found))
        }
        Decision::Unsupported => {
            let (what, expected) = ("a frame's purpose", "one that this version knows");
            Err(match scan.unknown() {
                None => {
                    here(ErrorKind::Unsupported, what).with_expected_found(expected, &stop.found)
                }
                Some((segment, offset, fault)) => at(ErrorKind::Unsupported, what, segment, offset)
                    .with_expected_found(expected, fault),
            })
        }
        Decision::Unreadable => {
            let what = "read the end of the log: what is there may have been acknowledged";
            Err(match scan.unreadable() {
                None => here(ErrorKind::Io, what),
                Some((segment, offset, error)) => {
                    at(ErrorKind::Io, what, segment, offset).with_source(copied(error))
                }
            })
        }
    }
}

/// What is wrong, and what should have been there, with the proof.
fn explain<F: File>(scan: &Scan<F>, damage: Damage) -> (&'static str, String) {
    match damage {
        Damage::Vouched => {
            let expected = match scan.proof() {
                Some(Proof::Mark(frame)) => format!(
                    "a frame, because the frame at lsn {} of epoch {} says that all below lsn {} is \
                     durable",
                    frame.lsn, frame.epoch, frame.durable_mark
                ),
                Some(Proof::Successor(frame)) => format!(
                    "the frames before the one at lsn {} of epoch {}, which was written when all \
                     before it were durable",
                    frame.lsn, frame.epoch
                ),
                None => "a frame".to_owned(),
            };
            ("an acknowledged frame is damaged or missing", expected)
        }
        Damage::Stranded => {
            let expected = match scan.beyond.last() {
                Some(beyond) => format!(
                    "a frame, because segment {} was prepared, which happens when the one before \
                     it holds a durable frame",
                    beyond.segment.sequence
                ),
                None => "a frame".to_owned(),
            };
            ("an acknowledged frame is damaged or missing", expected)
        }
        Damage::Orphaned => (
            "the log's first segment lost its first frame",
            "a frame, because the segments before it were released".to_owned(),
        ),
        Damage::Unchained => {
            let expected = match scan.last() {
                Some((last, crc)) => {
                    format!("a frame that follows the one at lsn {}, of CRC {crc:08x}", last.lsn)
                }
                None => "the first frame of all".to_owned(),
            };
            ("two frames of the log do not fit together", expected)
        }
    }
}

/// What is cut, and how far it reaches.
fn cut<F: File>(identity: &Identity, scan: &Scan<F>, torn: Torn) -> CutTail<F> {
    let stop = &scan.tail().stop;
    let mut end = stop.lsn.get().saturating_add(match stop.kind {
        StopKind::Full | StopKind::Blank | StopKind::Ghost => 0,
        _ => identity.block_bytes.into(),
    });
    let (mut frames, mut intact_records) = (Vec::new(), 0_u64);
    for (segment, header, intact) in scan.later_frames() {
        let bytes = header.frame_bytes(identity.block_bytes);
        end = end.max(header.lsn.get().saturating_add(bytes));
        if intact {
            intact_records += u64::from(header.record_count);
            let offset = header.lsn.get().saturating_sub(segment.base.get());
            frames.push(CutFrame { header, slot: Arc::clone(&segment.slot), offset, bytes });
        }
    }
    // A torn frame whose header is whole says how long it was.
    for (header, _) in scan.tail().sightings.iter().filter(|(header, _)| header.lsn == stop.lsn) {
        end = end.max(header.lsn.get().saturating_add(header.frame_bytes(identity.block_bytes)));
    }
    let fault = match torn {
        Torn::Records => format!("a frame whose records are torn: {}", stop.found),
        Torn::Header => format!("a frame whose header is torn: {}", stop.found),
        Torn::FramesAbove => {
            format!("{}, and frames of the same life of the log after it", stop.found)
        }
        Torn::Successor => "the next segment's first frame is torn".to_owned(),
        Torn::Garbage => "something where zeros were".to_owned(),
        Torn::Unreadable => match scan.unreadable() {
            Some((_, _, error)) => format!("unreadable, and so taken for torn: {error}"),
            None => "unreadable, and so taken for torn".to_owned(),
        },
    };
    let cut = Cut {
        at: stop.lsn,
        segment: scan.tail().segment.sequence,
        offset: stop.offset,
        fault,
        bytes: end.saturating_sub(stop.lsn.get()),
        intact_frames: u32::try_from(frames.len()).unwrap_or(u32::MAX),
        intact_records,
        kept_in: None,
    };
    CutTail { cut, frames, has_unread: scan.unreadable().is_some(), is_half_kept: false }
}

/// Refuses a log that lost the record at `anchor`: neither is it there nor was it released.
pub(crate) fn check_anchor<S: Storage>(
    storage: &S,
    identity: &Identity,
    examined: &Examined<S::File>,
    anchor: Lsn,
) -> Result<()> {
    let start_mark = examined.checkpoint.as_ref().map_or(Lsn::ZERO, |(mark, _)| *mark);
    if anchor < start_mark {
        return Ok(());
    }
    let tail = examined.tail.lsn;
    let refused = |found: String| {
        Error::new(ErrorKind::Corrupt, "the log lacks a record that it should have")
            .with_path(storage.path())
            .with_lsn(anchor)
            .with_expected_found(format!("a record at lsn {anchor}"), found)
    };
    let holds =
        |segment: &&Segment<S::File>| (segment.base..segment.end(identity)).contains(&anchor);
    let Some(segment) = examined.layout.live.iter().find(holds).filter(|_| anchor < tail) else {
        return Err(refused(format!("a log that ends at lsn {tail}")));
    };
    let mut walker = FrameWalker::new(*identity, storage.alignment());
    loop {
        match walker.next(segment, tail) {
            Step::Frame(frame) => {
                let bytes = frame.header.frame_bytes(identity.block_bytes);
                if frame.header.lsn.checked_add(bytes).is_some_and(|end| end <= anchor) {
                    continue;
                }
                let is_there = frame
                    .records()
                    .any(|record| record.lsn == anchor && record.kind != RecordKind::Void);
                return if is_there {
                    Ok(())
                } else {
                    Err(refused("none that starts there".into()))
                };
            }
            Step::NoMemory(error) => return Err(error),
            Step::End | Step::Limit => return Err(refused("room without a frame".to_owned())),
            Step::Stop(stop) => {
                return Err(refused(stop.found.to_string()).with_offset(stop.offset));
            }
        }
    }
}
