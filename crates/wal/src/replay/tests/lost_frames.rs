//! A frame is bad where the log ends, and what it says is wanted: where the log begins, or what should be in
//! its place. Which of two bad places is named, and what is not blamed.

use super::{refused, two_segments};
use crate::{
    Error, ErrorKind, Lsn,
    format::{FRAME_HEADER_BYTES, LogId, Origin},
    recovery::{
        flaky::Flaky,
        handmade::{BLOCK, Handmade, SEGMENT, policy},
        open,
    },
    slots::slot_name,
};
use std::sync::Arc;

/// What a refusal is about: its kind, and the segment and the place that it names.
fn place(error: &Error) -> (ErrorKind, Option<u64>, Option<u64>) {
    (error.kind(), error.segment(), error.lsn().map(Lsn::get))
}

/// A log whose only checkpoint is its last frame, and where that stands. The segment that it released is gone.
fn begins_at_its_last_frame() -> (Handmade, u64) {
    let mut log = two_segments();
    let checkpoint = log.checkpoint(SEGMENT + BLOCK, b"");
    log.files.remove(&0);
    (log, checkpoint)
}

const UNKNOWN_BEGINNING: &str = "a frame that may say where the log begins is bad";

/// The frame with the checkpoint is rotten, and what proves that it was durable is not a mark but the first
/// frame of the next segment. The rotten frame is named, and not the segment that it released.
#[test]
fn a_rotten_checkpoint_before_an_intact_segment_is_named() {
    let (mut log, checkpoint) = begins_at_its_last_frame();
    log.rotate(2);
    log.frame(&[b"seven"]);
    log.at(checkpoint + 70, 1)[0] ^= 1;
    let error = refused(&log);
    assert_eq!(place(&error), (ErrorKind::Corrupt, Some(1), Some(checkpoint)), "{error}");
    assert!(error.to_string().contains(UNKNOWN_BEGINNING), "{error}");
}

/// The same where the device refuses to show the frame, and nothing comes after it.
#[test]
fn an_unreadable_checkpoint_with_nothing_after_it_is_named() {
    let (log, checkpoint) = begins_at_its_last_frame();
    let storage = Flaky::new(log.storage());
    storage.spoil(&slot_name(1), checkpoint - SEGMENT..checkpoint - SEGMENT + 1);
    let error = open(Arc::new(storage), &policy()).err().unwrap();
    assert_eq!(place(&error), (ErrorKind::Corrupt, Some(1), Some(checkpoint)), "{error}");
    assert!(error.to_string().contains(UNKNOWN_BEGINNING), "{error}");
    assert!(std::error::Error::source(&error).is_some(), "{error}");
}

/// A segment is full to its end, the next one follows some other frame, and an older one is missing. No frame
/// is bad that could say where the log begins: what is missing is the segment.
#[test]
fn a_full_segment_has_no_bad_frame_at_its_end() {
    let mut log = two_segments();
    while log.lsn < 2 * SEGMENT {
        log.mark = log.lsn;
        log.frame(&[b"fill"]);
    }
    log.rotate(2);
    log.crc ^= 1;
    log.frame(&[b"follows another one"]);
    let error = refused(&log);
    assert_eq!(place(&error), (ErrorKind::Corrupt, Some(1), Some(2 * SEGMENT)), "{error}");
    log.files.remove(&0);
    let error = refused(&log);
    assert_eq!(place(&error), (ErrorKind::Corrupt, Some(0), Some(0)), "{error}");
    assert!(error.to_string().contains("a segment is missing"), "{error}");
}

/// Two acknowledged frames are bad, the last of a segment and the first of the next. The first of them is
/// where the log is damaged, whatever became of the second.
#[test]
fn of_two_lost_frames_the_first_is_named() {
    for is_unreadable in [false, true] {
        let mut log = two_segments();
        let first = log.frame(&[b"acknowledged"]);
        log.rotate(2);
        let second = log.frame(&[b"acknowledged, too"]);
        log.mark = log.lsn;
        log.frame(&[b"knows"]);
        log.at(first + 70, 1)[0] ^= 1;
        log.at(second + 20, 1)[0] ^= 1;
        let storage = Flaky::new(log.storage());
        if is_unreadable {
            storage.spoil(&slot_name(1), first - SEGMENT..first - SEGMENT + 1);
        }
        let error = open(Arc::new(storage), &policy()).err().unwrap();
        assert_eq!(place(&error), (ErrorKind::Corrupt, Some(1), Some(first)), "{error}");
    }
}

/// Makes the frame at the head of `bytes` one of a later version, of a purpose that nobody knows yet.
fn of_a_later_version(bytes: &mut [u8]) {
    let header = &mut bytes[..FRAME_HEADER_BYTES];
    header[60..64].copy_from_slice(&9_u32.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&LogId([7; 16]).0);
    crc.update(&header[8..]);
    header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// Slot 0 became segment 2 under a later version, and its header went bad. Frames of segment 0 still stand
/// behind the one of segment 2, or before it. The highest one tells that the slot is needed; by the lowest it
/// would be free, and what the later version wrote lost without a word.
#[test]
fn the_highest_frame_of_a_later_version_tells_what_a_slot_is() {
    for (older, newer) in [(5, 1), (1, 5)] {
        let mut log = two_segments();
        log.checkpoint(SEGMENT, b"");
        log.lsn = older * BLOCK;
        let released = log.frame(&[b"old"]);
        of_a_later_version(log.at(released, FRAME_HEADER_BYTES));
        log.segment(2, 0, Origin::Recycled);
        log.lsn = 2 * SEGMENT + newer * BLOCK;
        let needed = log.frame(&[b"new"]);
        of_a_later_version(log.at(needed, FRAME_HEADER_BYTES));
        log.at(2 * SEGMENT + 100, 1)[0] ^= 1;
        let error = refused(&log);
        assert_eq!((error.kind(), error.lsn()), (ErrorKind::Unsupported, Some(Lsn::new(needed))));
    }
}

/// A user keeps copies of its log's own files in the log. In a slot that was released and lost its header
/// stands a frame that is valid, and needed, and elsewhere: nothing in that slot is.
#[test]
fn a_copy_of_a_frame_makes_no_slot_needed() {
    for is_of_a_later_version in [false, true] {
        let mut log = two_segments();
        let last = log.lsn;
        log.checkpoint(SEGMENT, b"");
        let mut copy = log.at(last, usize::try_from(BLOCK).unwrap()).to_vec();
        if is_of_a_later_version {
            of_a_later_version(&mut copy);
        }
        let at = (last - SEGMENT) / BLOCK + 1;
        log.at(at * BLOCK, copy.len()).copy_from_slice(&copy);
        log.at(100, 1)[0] ^= 1;
        assert_eq!(log.open().unwrap().free.len(), 1);
    }
}

/// A slot was released, and lost its header. What a later version wrote to it was released as well: that
/// nobody knows its purpose is no reason to keep it.
#[test]
fn a_released_frame_of_a_later_version_needs_no_slot() {
    let mut log = two_segments();
    log.checkpoint(SEGMENT, b"");
    of_a_later_version(log.at(BLOCK, FRAME_HEADER_BYTES));
    log.at(100, 1)[0] ^= 1;
    assert_eq!(log.open().unwrap().free.len(), 1);
}
