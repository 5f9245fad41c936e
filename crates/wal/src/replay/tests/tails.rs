//! Stories of how a log ends: what is torn, what is corrupt, and what must never come back.

use super::{refused, replay, two_segments};
use crate::{
    ErrorKind, Lsn,
    format::{Frame, LogId, Origin, Purpose},
    read_only::{ReadOnly, VerifyVerdict},
    recovery::{
        Verdict,
        handmade::{BLOCK, Handmade, SEGMENT, get, policy},
        keep_cut, open,
    },
};
use std::sync::Arc;

fn cut_at(log: &Handmade) -> Option<u64> {
    log.open().unwrap().report.cut.map(|cut| cut.at.get())
}

#[test]
fn a_lost_frame_that_nothing_vouches_for_is_cut_and_what_follows_kept() {
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    let kept = log.frame(&[b"acknowledged"]);
    let lost = log.frame(&[b"in flight, lost"]);
    let above = log.frame(&[b"in flight, kept"]);
    log.lose(lost);
    let storage = log.storage();
    let mut found = open(Arc::new(storage.clone()), &policy()).unwrap();
    let cut = found.report.cut.clone().unwrap();
    assert_eq!((cut.at.get(), cut.segment, cut.offset), (lost, 0, lost));
    assert_eq!((cut.intact_frames, cut.intact_records, cut.bytes), (1, 1, 2 * BLOCK));
    assert!(kept < lost);
    for _ in 0..2 {
        // The second time is an open that crashed after the copy was made.
        drop(found);
        found = open(Arc::new(storage.clone()), &policy()).unwrap();
        let name = keep_cut(&mut found).unwrap().unwrap();
        assert_eq!(name, format!("cut-{lost}-3"));
        assert_eq!(found.report.cut.as_ref().unwrap().kept_in.as_deref(), Some(&*name));
        let copy = get(&storage, &name);
        let block = u32::try_from(BLOCK).unwrap();
        let frame = Frame::check(LogId([7; 16]), Lsn::new(above), block, &copy[4096..]).unwrap();
        assert_eq!(frame.records().next().unwrap().payload, b"in flight, kept");
    }
    assert!(get(&storage, "slot-000000") == log.files[&0], "nothing else was written");
}

#[test]
fn a_lost_frame_that_a_mark_vouches_for_is_corruption() {
    let mut log = Handmade::new();
    log.reopen();
    let lost = log.frame(&[b"acknowledged"]);
    log.mark = log.lsn;
    let witness = log.frame(&[b"knows"]);
    log.lose(lost);
    let error = refused(&log);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let place = (error.segment(), error.offset(), error.lsn());
    assert_eq!(place, (Some(0), Some(lost), Some(Lsn::new(lost))));
    assert!(error.expected().unwrap().contains(&witness.to_string()), "{error}");
}

#[test]
fn a_mark_counts_though_its_frame_is_torn() {
    let mut log = Handmade::new();
    log.reopen();
    let lost = log.frame(&[b"acknowledged"]);
    log.mark = log.lsn;
    let witness = log.frame(&[b"knows"]);
    log.lose(lost);
    log.at(witness, 512)[80] ^= 1;
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_lost_opening_frame_is_vouched_for_by_its_successors() {
    let mut log = Handmade::new();
    log.reopen();
    log.frame(&[b"x"]);
    let opening = log.reopen();
    log.mark = log.lsn;
    log.frame(&[b"y"]);
    log.lose(opening);
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
}

#[test]
fn ghosts_of_an_older_epoch_do_not_come_back() {
    // Epoch 2: a (kept), b (lost), c (kept). Cut at b; epoch 3 writes as much as b was.
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    log.frame(&[b"a"]);
    let b = log.frame(&[b"b"]);
    let c = log.frame(&[b"c"]);
    log.lose(b);
    let found = log.open().unwrap();
    assert_eq!((found.tail.lsn.get(), found.epoch), (b, 3));
    (log.lsn, log.crc) = (b, found.tail.previous_crc);
    log.ordinal = found.tail.next_ordinal;
    log.reopen();
    assert_eq!(log.lsn, c, "the new frame ends where the ghost begins");
    log.records.retain(|at, _| *at < b);
    let (found, records) = replay(&log).unwrap();
    assert_eq!(records, log.records);
    assert_eq!((found.tail.lsn.get(), found.report.verdict), (c, Verdict::Clean));
    // And with a record as the last frame.
    log.mark = log.lsn;
    log.frame(&[b"over the ghost"]);
    assert_eq!(replay(&log).unwrap().1, log.records);
}

#[test]
fn each_guard_against_a_ghost_holds_alone() {
    // The frame after the tail is intact and in place. What is wrong is one thing at a time.
    let base = || {
        let mut log = Handmade::new();
        log.reopen();
        log.mark = log.lsn;
        log.frame(&[b"a"]);
        log.mark = 0;
        log
    };
    let mut older = base();
    older.epoch -= 1;
    let tail = older.frame(&[b"older epoch"]);
    assert_eq!(older.open().unwrap().tail.lsn.get(), tail);
    // The other guards find a frame of the present epoch, which no crash leaves there.
    let changes: [fn(&mut Handmade); 3] =
        [|log| log.incarnation += 1, |log| log.crc ^= 1, |log| log.ordinal += 1];
    for change in changes {
        let mut log = base();
        change(&mut log);
        log.frame(&[b"does not follow"]);
        assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn the_epoch_rises_above_everything_seen() {
    let mut log = two_segments();
    let tail = log.lsn;
    log.lsn += BLOCK;
    log.epoch = 40;
    log.frame(&[b"cut, of a later epoch"]);
    let found = log.open().unwrap();
    assert_eq!((found.epoch, found.tail.lsn.get()), (41, tail));
}

#[test]
fn the_tail_may_be_the_end_of_its_segment() {
    let mut log = Handmade::new();
    log.reopen();
    while log.lsn < SEGMENT {
        log.mark = log.lsn;
        log.frame(&[b"fill"]);
    }
    assert_eq!(log.open().unwrap().tail.lsn.get(), SEGMENT);
    log.segment(1, 1, Origin::Zeroed);
    let found = log.open().unwrap();
    assert_eq!((found.tail.lsn.get(), found.segments.len()), (SEGMENT, 1));
    assert_eq!(found.successor.map(|segment| segment.sequence), Some(1));
    log.enter(1);
    log.mark = SEGMENT;
    log.frame(&[b"next"]);
    let (found, records) = replay(&log).unwrap();
    assert_eq!((found.segments.len(), records), (2, log.records));
}

#[test]
fn a_torn_first_frame_of_the_next_segment_is_torn() {
    let mut log = two_segments();
    log.segment(2, 2, Origin::Zeroed);
    let tail = log.lsn;
    log.enter(2);
    let torn = log.frame(&[b"torn"]);
    log.at(torn, 512)[50] ^= 1;
    let found = log.open().unwrap();
    assert_eq!(found.report.cut.map(|cut| cut.at.get()), Some(tail));
    assert_eq!(found.successor.map(|segment| segment.sequence), Some(2));
    // Two in flight there, the second intact: its mark says that the first was never durable.
    log.enter(2);
    log.mark = tail;
    let first = log.frame(&[b"lost"]);
    log.frame(&[b"kept"]);
    log.lose(first);
    let found = log.open().unwrap();
    assert_eq!(found.report.cut.map(|cut| (cut.at.get(), cut.intact_frames)), Some((tail, 1)));
}

#[test]
fn garbage_at_the_tail_of_a_zeroed_slot_is_a_torn_write() {
    let mut log = two_segments();
    let tail = log.lsn;
    log.at(tail, 300)[200] = 1;
    assert_eq!(cut_at(&log), Some(tail));
    // Behind an opening frame it may be the probe's.
    log.at(tail, 300).fill(0);
    log.reopen();
    let tail = log.lsn;
    log.at(tail, 300)[200] = 1;
    assert_eq!(cut_at(&log), None);
}

#[test]
fn a_segments_first_frame_once_misread_does_not_come_back() {
    // An open could not read the first frame of segment 1, cut the log in segment 0 and said so.
    // Now the frame reads well again. Its checkpoint would even release what was written since.
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    log.frame(&[b"kept"]);
    let (tail, crc, ordinal) = (log.lsn, log.crc, log.ordinal);
    log.segment(1, 1, Origin::Zeroed);
    log.enter(1);
    log.checkpoint(SEGMENT, b"of another life");
    (log.lsn, log.crc, log.ordinal) = (tail, crc, ordinal);
    log.reopen();
    log.frame(&[b"written since"]);
    let (found, records) = replay(&log).unwrap();
    assert_eq!((records, found.tail.lsn.get()), (log.records.clone(), log.lsn));
    assert!(found.checkpoint.is_none());
    assert_eq!(found.successor.map(|segment| segment.sequence), Some(1));
    // And when the writer gets there, it writes over it.
    log.mark = log.lsn;
    log.enter(1);
    log.frame(&[b"over it"]);
    assert_eq!(replay(&log).unwrap().1, log.records);
}

/// Three frames were torn in a crash. The next open cuts them, writes, and closes, and does not get as far
/// as the third: its damaged header still names its place. The log was closed all the same.
#[test]
fn a_torn_header_from_before_a_close_is_no_torn_tail() {
    let mut log = Handmade::new();
    log.reopen();
    log.frame(&[b"kept"]);
    let tail = (log.lsn, log.crc, log.ordinal);
    for _ in 0..3 {
        let torn = log.frame(&[b"torn"]);
        log.at(torn + 20, 1)[0] ^= 0xff;
        log.records.retain(|lsn, _| *lsn < torn);
    }
    assert_eq!(cut_at(&log), Some(tail.0));
    (log.lsn, log.crc, log.ordinal) = tail;
    log.reopen();
    let crashed = log.clone();
    assert!(
        crashed.open().unwrap().report.cut.is_some(),
        "a torn frame of the new writer, perhaps"
    );
    log.empty(Purpose::Close);
    let report = log.open().unwrap().report;
    assert!(report.clean_close && report.cut.is_none(), "{report}");
    // What a later open would have left there is torn.
    let torn = log.reopen();
    torn_wherever_it_is_damaged(&log, torn);
}

/// The opening frame at `torn`, right behind a close, is told as torn for whatever byte of its header is
/// damaged: also where that makes it one of the close's epoch, or of another chain. Only what does not name
/// its place is nothing.
fn torn_wherever_it_is_damaged(log: &Handmade, torn: u64) {
    for (at, mask) in (0..64).flat_map(|at| [(at, 1), (at, 0xff)]) {
        let mut log = log.clone();
        log.at(torn + at, 1)[0] ^= mask;
        let report = log.open().unwrap().report;
        let names_its_place = !(8..16).contains(&at);
        assert_eq!(report.cut.is_some(), names_its_place, "byte {at}, {mask:#x}: {report}");
        assert_eq!(report.clean_close, !names_its_place, "byte {at}, {mask:#x}: {report}");
    }
}

/// The same where the close fills its segment to the last block, and what an older writer left stands where the
/// next segment's first frame will.
#[test]
fn a_damaged_header_in_the_segment_after_a_close_is_older() {
    let mut log = Handmade::new();
    log.reopen();
    log.segment(1, 1, Origin::Zeroed);
    let tail = (log.lsn, log.crc, log.ordinal);
    log.enter(1);
    let torn = log.frame(&[b"torn"]);
    log.at(torn + 20, 1)[0] ^= 0xff;
    log.records.retain(|lsn, _| *lsn < torn);
    (log.lsn, log.crc, log.ordinal) = tail;
    log.reopen();
    while log.lsn < SEGMENT - BLOCK {
        log.mark = log.lsn;
        log.frame(&[b"acknowledged"]);
    }
    let report = log.open().unwrap().report;
    assert!(report.cut.is_some(), "a torn frame of this writer, perhaps");
    log.mark = log.lsn;
    log.empty(Purpose::Close);
    assert_eq!(log.lsn, SEGMENT);
    let report = log.open().unwrap().report;
    assert!(report.clean_close && report.cut.is_none(), "{report}");
    // So it would be with the close's epoch; of a later one, nobody can know.
    for (epoch, is_torn) in [(log.epoch, false), (log.epoch + 1, true)] {
        let mut log = log.clone();
        log.at(torn + 32, 8).copy_from_slice(&epoch.to_le_bytes());
        let report = log.open().unwrap().report;
        assert_eq!((report.cut.is_some(), report.clean_close), (is_torn, !is_torn), "{report}");
    }
    // What a later open would have left there is torn.
    log.enter(1);
    let torn = log.reopen();
    torn_wherever_it_is_damaged(&log, torn);
}

/// A log went idle and was closed while its confirmation was being written: nothing was left to wait for,
/// so the closing frame went beside it, and the power cut kept only that one. Its place is past the
/// log's end, and is no proof of anything: no record stood before it that was not durable.
#[test]
fn a_close_beside_a_lost_confirmation_vouches_for_nothing_past_the_tail() {
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    log.frame(&[b"acknowledged"]);
    let lost = log.empty(Purpose::Confirmation);
    log.purpose = Purpose::Close;
    log.mark = lost;
    log.frame_of(&[]);
    log.lose(lost);
    assert_eq!(cut_at(&log), Some(lost));
    let mut reader = ReadOnly::open(log.storage(), false).unwrap();
    assert_eq!(reader.durable_mark().unwrap(), Lsn::new(lost));
    assert_eq!(reader.verify().unwrap().verdict, VerifyVerdict::TornTail);
    let mut records = reader.records_from(Lsn::ZERO).unwrap();
    assert_eq!(records.next().unwrap().unwrap().payload(), b"acknowledged");
    assert!(records.next().unwrap().is_none());
}

/// The power failed with two frames in flight in the second segment, and kept the later one. Recovery found
/// the log's end in the first segment, and the power failed again while it wrote its opening frame there:
/// the header is whole, the rest of the block is not. That frame was written last of all, whatever stands
/// in the segment after it.
#[test]
fn a_torn_opening_frame_before_an_older_frame_is_torn() {
    let mut log = Handmade::new();
    log.reopen();
    log.frame(&[b"kept"]);
    let tail = log.lsn;
    let (crc, ordinal) = (log.crc, log.ordinal);
    log.segment(1, 1, Origin::Zeroed);
    log.enter(1);
    let lost = log.frame(&[b"lost"]);
    let later = log.frame(&[b"never acknowledged"]);
    log.lose(lost);
    log.records.retain(|lsn, _| *lsn < later);
    assert_eq!(cut_at(&log), Some(tail), "before the second crash");
    (log.lsn, log.crc, log.ordinal) = (tail, crc, ordinal);
    let opening = log.reopen();
    assert_eq!(opening, tail);
    for at in 64..BLOCK {
        let mut torn = log.clone();
        torn.at(opening + at, 1)[0] = 0x5a;
        assert_eq!(cut_at(&torn), Some(tail), "byte {at}");
        assert_eq!(replay(&torn).unwrap().1, log.records, "byte {at}");
    }
    // A frame of the same writer there would have been written after this one was durable.
    log.lsn = later;
    log.frame(&[b"of the new writer"]);
    log.at(opening + 64, 1)[0] = 0x5a;
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_damaged_predecessor_is_corruption_whatever_the_marks_say() {
    // No mark reaches this far, but the next segment has a frame.
    let mut log = Handmade::new();
    log.frame(&[b"one"]);
    let damaged = log.frame(&[b"two"]);
    log.segment(1, 1, Origin::Zeroed);
    log.enter(1);
    log.frame(&[b"three"]);
    assert_eq!(replay(&log).unwrap().1, log.records);
    log.lose(damaged);
    let error = refused(&log);
    assert_eq!((error.kind(), error.lsn()), (ErrorKind::Corrupt, Some(Lsn::new(damaged))));
}
