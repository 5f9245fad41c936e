//! Stories of opens, on logs made by hand.

use super::{
    Missing, Recovered, Verdict,
    flaky::Flaky,
    handmade::{BLOCK, Handmade, SEGMENT, get, policy, put},
    keep_cut, open,
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{Frame, LogId, Origin, Purpose, RecordKind},
    io::{File, Memory, Storage},
    options::Options,
    replay::Replay,
};
use std::{collections::BTreeMap, sync::Arc};

/// Everything a replay yields.
fn replay(log: &Handmade) -> Result<(Recovered<Memory>, BTreeMap<u64, Vec<u8>>)> {
    let mut replay = Replay::open(log.storage(), policy(), Options::default())?;
    let mut records = BTreeMap::new();
    while let Some(record) = replay.next()? {
        records.insert(record.lsn().get(), record.payload().to_vec());
    }
    Ok((replay.into_recovered()?.0, records))
}

fn refused(log: &Handmade) -> Error {
    let Err(error) = log.open() else { panic!("the log was opened") };
    error
}

fn cut_at(log: &Handmade) -> Option<u64> {
    log.open().unwrap().report.cut.map(|cut| cut.at.get())
}

/// Two segments: three frames fill a part of the first, which the second's frames follow.
fn two_segments() -> Handmade {
    let mut log = Handmade::new();
    log.reopen();
    for payload in [&b"one"[..], &[2; 900], b"three"] {
        log.mark = log.lsn;
        log.frame(&[payload, b"tail"]);
    }
    log.segment(1, 1, Origin::Zeroed);
    log.mark = log.lsn;
    log.enter(1);
    for payload in [&b"four"[..], &[5; 700], b"six"] {
        log.frame(&[payload]);
        log.mark = log.lsn;
    }
    log
}

#[test]
fn a_new_log_is_empty_and_opens_again() {
    let storage = Memory::new();
    let found = open(Arc::new(storage.clone()), &policy()).unwrap();
    assert!(found.report.created);
    assert_eq!((found.epoch, found.tail.lsn.get(), found.segments.len()), (1, BLOCK, 1));
    assert_eq!((found.free.len(), found.next_slot_number), (1, 2));
    assert_eq!(found.free[0].origin, Origin::Zeroed);
    assert!(found.free[0].full && found.successor.is_none() && !found.is_begun());
    assert_eq!(found.report.verdict, Verdict::Clean);
    drop(found);
    let found = open(Arc::new(storage.clone()), &policy()).unwrap();
    assert!(!found.report.created);
    let held = open(Arc::new(storage), &policy());
    assert_eq!(held.err().map(|error| error.kind()), Some(ErrorKind::Locked));
}

#[test]
fn create_says_what_becomes_of_a_missing_log() {
    let never = super::Policy { create: Missing::Refuse, ..policy() };
    let new = super::Policy { create: Missing::CreateOnly, ..policy() };
    let storage = Memory::new();
    let kind = |answer: Result<Recovered<Memory>>| answer.err().map(|error| error.kind());
    assert_eq!(kind(open(Arc::new(storage.clone()), &never)), Some(ErrorKind::NotFound));
    assert_eq!(kind(open(Arc::new(storage.clone()), &new)), None);
    assert_eq!(kind(open(Arc::new(storage.clone()), &new)), Some(ErrorKind::InvalidInput));
    assert_eq!(kind(open(Arc::new(storage), &never)), None);
}

#[test]
fn an_interrupted_creation_starts_over() {
    let log = Handmade::new();
    let slots = |numbers: &[u32]| {
        let storage = Memory::new();
        storage.create().unwrap();
        for number in numbers {
            put(&storage, &format!("slot-{number:06}"), &log.files[number]);
        }
        storage
    };
    for numbers in [&[][..], &[0], &[1], &[0, 1]] {
        let storage = slots(numbers);
        put(&storage, "identity.tmp", &[1; 700]);
        let found = open(Arc::new(storage), &policy()).unwrap();
        assert!(found.report.created, "{numbers:?}");
    }
    let mut used = Handmade::new();
    used.frame(&[b"x"]);
    let storage = used.storage();
    storage.remove("identity").unwrap();
    let error = open(Arc::new(storage), &policy()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("slot-000000"), "{error}");
}

#[test]
fn an_identity_without_a_segment_is_no_new_log() {
    let mut log = Handmade::new();
    log.files.clear();
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
    log.files.insert(0, vec![0; usize::try_from(SEGMENT).unwrap()]);
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
}

#[test]
fn all_records_come_back_in_order() {
    let log = two_segments();
    let (found, records) = replay(&log).unwrap();
    assert_eq!(records, log.records);
    assert_eq!(found.tail.lsn.get(), log.lsn);
    assert_eq!((found.tail.next_ordinal, found.tail.previous_crc), (log.ordinal, log.crc));
    assert_eq!((found.epoch, found.report.verdict), (3, Verdict::Clean));
    assert_eq!((found.segments.len(), found.free.len()), (2, 0));
    assert!(found.is_begun());
    assert_eq!(found.report.last_record.map(Lsn::get), records.keys().next_back().copied());
}

#[test]
fn a_closed_log_says_so() {
    let mut log = two_segments();
    assert!(!log.open().unwrap().report.clean_close);
    log.empty(Purpose::Close);
    assert!(log.open().unwrap().report.clean_close);
}

#[test]
fn one_flipped_bit_in_the_last_header_loses_no_segment() {
    let mut log = two_segments();
    log.files.get_mut(&1).unwrap()[100] ^= 1;
    let error = refused(&log);
    assert_eq!((error.kind(), error.segment()), (ErrorKind::Corrupt, Some(1)));
    assert!(error.path().is_some_and(|path| path.ends_with("slot-000001")), "{error}");
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
fn stale_frames_of_a_recycled_slot_mean_nothing() {
    let mut log = two_segments();
    log.checkpoint(SEGMENT, b"state");
    // Slot 0 becomes segment 2: the frames of segment 0 are still in it.
    log.mark = log.lsn;
    log.segment(2, 0, Origin::Recycled);
    let found = log.open().unwrap();
    assert_eq!((found.report.verdict, found.tail.lsn.get()), (Verdict::Clean, log.lsn));
    assert_eq!(found.successor.map(|segment| segment.sequence), Some(2));
    assert_eq!((found.segments.len(), found.segments[0].sequence), (1, 1));
    log.enter(2);
    log.frame(&[b"seven"]);
    let (found, records) = replay(&log).unwrap();
    assert_eq!((found.report.verdict, found.tail.lsn.get()), (Verdict::Clean, log.lsn));
    assert_eq!(records, log.records.split_off(&SEGMENT));
}

#[test]
fn unused_room_is_not_damage() {
    let mut log = two_segments();
    // Garbage in the room that the first segment did not use.
    let unused = usize::try_from(SEGMENT - 2 * BLOCK).unwrap();
    log.files.get_mut(&0).unwrap()[unused..][..100].fill(0xaa);
    assert_eq!(replay(&log).unwrap().1, log.records);
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
fn a_missing_middle_segment_is_corruption() {
    let mut log = two_segments();
    log.segment(2, 2, Origin::Zeroed);
    log.mark = log.lsn;
    log.enter(2);
    log.frame(&[b"seven"]);
    assert_eq!(replay(&log).unwrap().1, log.records);
    for slot in 0..3 {
        let mut hole = log.clone();
        hole.files.remove(&slot);
        let answer = hole.open().map(|found| found.tail.lsn.get());
        match slot {
            // The last one, and nothing left of it: only an anchor tells.
            2 => assert!(answer.is_ok()),
            _ => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Corrupt),
        }
    }
}

#[test]
fn two_copies_of_a_segment_are_corruption_unless_released() {
    let mut log = two_segments();
    for slot in 0..2 {
        let mut twins = log.clone();
        let copy = twins.files[&slot].clone();
        twins.files.insert(5, copy);
        assert_eq!(refused(&twins).kind(), ErrorKind::Corrupt);
    }
    log.checkpoint(SEGMENT, b"");
    log.segment(2, 2, Origin::Zeroed);
    log.mark = log.lsn;
    log.enter(2);
    log.frame(&[b"seven"]);
    let copy = log.files[&0].clone();
    log.files.insert(5, copy);
    assert_eq!(log.open().unwrap().free.len(), 2);
}

#[test]
fn a_short_file_is_corruption_if_it_is_needed() {
    let log = two_segments();
    for slot in 0..2 {
        for bytes in [BLOCK, 3 * BLOCK, SEGMENT - BLOCK, SEGMENT - 1] {
            let mut short = log.clone();
            short.files.get_mut(&slot).unwrap().truncate(usize::try_from(bytes).unwrap());
            let error = refused(&short);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "slot {slot}, {bytes} bytes: {error}");
        }
    }
}

#[test]
fn a_segment_prepared_too_early_is_corruption() {
    let mut log = two_segments();
    log.segment(2, 2, Origin::Zeroed);
    assert!(log.open().is_ok());
    log.segment(3, 3, Origin::Zeroed);
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
    let mut empty = Handmade::new();
    empty.segment(1, 1, Origin::Zeroed);
    assert_eq!(refused(&empty).kind(), ErrorKind::Corrupt);
}

#[test]
fn the_highest_start_mark_wins_and_later_at_equal_ones() {
    let mut log = two_segments();
    log.checkpoint(SEGMENT + BLOCK, b"first");
    log.checkpoint(SEGMENT + 2 * BLOCK, b"second");
    log.checkpoint(SEGMENT + 2 * BLOCK, b"third");
    log.checkpoint(BLOCK, b"lower");
    let found = log.open().unwrap();
    let (mark, state) = found.checkpoint.clone().unwrap();
    assert_eq!((mark.get(), &state[..]), (SEGMENT + 2 * BLOCK, &b"third"[..]));
    assert_eq!((found.segments.len(), found.free.len()), (1, 1));
    let records = replay(&log).unwrap().1;
    assert_eq!(records, log.records.split_off(&mark.get()));
    log.checkpoint(log.lsn + 2 * BLOCK, b"past the tail");
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
}

#[test]
fn damage_in_an_older_segment_ends_the_replay_with_an_error() {
    let mut log = two_segments();
    log.segment(2, 2, Origin::Zeroed);
    log.mark = log.lsn;
    log.enter(2);
    log.frame(&[b"seven"]);
    log.segment(3, 3, Origin::Zeroed);
    log.mark = log.lsn;
    log.enter(3);
    log.frame(&[b"eight"]);
    let damaged = *log.records.keys().nth(2).unwrap();
    log.at(damaged, 12)[9] ^= 1;
    let mut replay = Replay::open(log.storage(), policy(), Options::default()).unwrap();
    let mut count = 0;
    let error = loop {
        match replay.next() {
            Ok(record) => assert!(record.is_some()),
            Err(error) => break error,
        }
        count += 1;
    };
    assert_eq!((count, error.kind(), error.segment()), (2, ErrorKind::Corrupt, Some(0)));
    assert_eq!(replay.next().unwrap_err().to_string(), error.to_string());
    assert_eq!(replay.into_recovered().err().unwrap().to_string(), error.to_string());
}

#[test]
fn unread_records_are_skipped_only_by_name() {
    let log = two_segments();
    let mut replay = Replay::open(log.storage(), policy(), Options::default()).unwrap();
    assert!(replay.next().unwrap().is_some());
    let error = replay.into_recovered().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let mut replay = Replay::open(log.storage(), policy(), Options::default()).unwrap();
    replay.skip_rest();
    assert!(replay.next().unwrap().is_none());
    assert!(replay.into_recovered().is_ok());
}

#[test]
fn only_data_records_are_handed_out() {
    let mut log = Handmade::new();
    log.reopen();
    let records = [RecordKind::Void, RecordKind::Data, RecordKind::Void, RecordKind::Data];
    let records: Vec<_> = records.into_iter().map(|kind| (kind, b"bytes".to_vec())).collect();
    log.frame_of(&records);
    log.checkpoint(BLOCK, b"");
    let mut replay = Replay::open(log.storage(), policy(), Options::default()).unwrap();
    let mut ordinals = Vec::new();
    while let Some(record) = replay.next().unwrap() {
        assert!(record.ends_batch());
        assert_eq!(record.next_lsn().get(), record.lsn().get() + 16);
        ordinals.push(record.ordinal());
    }
    assert_eq!(ordinals, [1, 3]);
}

#[test]
fn an_anchor_finds_what_nothing_else_can() {
    let mut log = two_segments();
    let places: Vec<u64> = log.records.keys().copied().collect();
    let ask = |log: &Handmade, lsn: u64| {
        let policy = super::Policy { expect_at_least: Some(Lsn::new(lsn)), ..policy() };
        open(Arc::new(log.storage()), &policy).map(drop)
    };
    for place in &places {
        assert!(ask(&log, *place).is_ok());
        let error = ask(&log, place + 8).unwrap_err();
        assert_eq!((error.kind(), error.lsn()), (ErrorKind::Corrupt, Some(Lsn::new(place + 8))));
    }
    assert!(ask(&log, log.lsn).is_err());
    log.checkpoint(SEGMENT, b"");
    assert!(ask(&log, places[0] + 1).is_ok(), "released");
    // The last frame is gone without a trace.
    let last = *places.last().unwrap();
    let mut cut = two_segments();
    cut.lose(last / BLOCK * BLOCK);
    assert!(cut.open().is_ok());
    assert!(ask(&cut, last).is_err());
}

#[test]
fn another_version_and_larger_blocks_are_unsupported() {
    let mut log = two_segments();
    log.identity[12] = 9;
    let crc = crc32fast::hash(&log.identity[12..]);
    log.identity[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(refused(&log).kind(), ErrorKind::Unsupported);
    let mut damaged = two_segments();
    damaged.identity[40] ^= 1;
    assert_eq!(refused(&damaged).kind(), ErrorKind::Corrupt);
    damaged.identity.truncate(100);
    assert_eq!(refused(&damaged).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_slot_of_another_log_is_left_alone() {
    let mut log = two_segments();
    let other = crate::format::Identity::new(LogId([8; 16]), SEGMENT, 512, 0).unwrap();
    let mut bytes = vec![0; usize::try_from(SEGMENT).unwrap()];
    let header = crate::format::SegmentHeader::new(&other, 9, Origin::Zeroed).unwrap();
    header.encode(&other, &mut bytes[..512]);
    log.files.insert(7, bytes);
    assert_eq!(refused(&log).kind(), ErrorKind::Corrupt);
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
fn files_of_others_are_told() {
    let log = two_segments();
    let storage = log.storage();
    for name in ["notes.txt", "slot-1", "lock", "probe", "cut-99-1"] {
        put(&storage, name, b"x");
    }
    let found = open(Arc::new(storage), &policy()).unwrap();
    assert_eq!(found.report.foreign_files, ["notes.txt", "slot-1"]);
    assert!(found.report.to_string().contains("notes.txt"));
}

/// What an open of a damaged log may answer: an error, or a log that has all records that something
/// vouches for, none changed.
fn check_damaged(log: &Handmade, good: &Handmade, vouched: u64, story: &str) {
    match replay(log) {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{story}: {error}");
        }
        Ok((_, records)) => {
            for (lsn, payload) in &records {
                assert_eq!(good.records.get(lsn), Some(payload), "{story}");
            }
            let missing = good.records.iter().find(|(lsn, _)| !records.contains_key(*lsn));
            if let Some((lsn, _)) = missing {
                assert!(*lsn >= vouched, "{story}: lsn {lsn} is gone, vouched to {vouched}");
            }
        }
    }
}

#[test]
fn every_flipped_byte_is_found_or_harmless() {
    let good = two_segments();
    let last_frame = good.records.keys().next_back().unwrap() / BLOCK * BLOCK;
    for slot in 0..2 {
        for at in 0..good.files[&slot].len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut log = good.clone();
                log.files.get_mut(&slot).unwrap()[at] ^= flip;
                check_damaged(&log, &good, last_frame, &format!("slot {slot}, byte {at}"));
            }
        }
    }
    for at in 0..good.identity.len() {
        let mut log = good.clone();
        log.identity[at] ^= 0x10;
        assert!(log.open().is_err(), "byte {at} of the identity");
    }
}

#[test]
fn every_truncation_is_found() {
    let good = two_segments();
    for slot in 0..2 {
        for bytes in (0..good.files[&slot].len()).step_by(37) {
            let mut log = good.clone();
            log.files.get_mut(&slot).unwrap().truncate(bytes);
            let outcome = log.open();
            assert!(outcome.is_err() || (slot, bytes < 512) == (1, true), "{slot} {bytes}");
        }
    }
}

#[test]
fn every_lost_block_is_found_or_harmless() {
    let good = two_segments();
    let last_frame = good.records.keys().next_back().unwrap() / BLOCK * BLOCK;
    let block = usize::try_from(BLOCK).unwrap();
    for slot in 0..2 {
        for number in 0..good.files[&slot].len() / block {
            for fill in [0x00, 0xff, 0x77] {
                let mut log = good.clone();
                log.files.get_mut(&slot).unwrap()[number * block..][..block].fill(fill);
                check_damaged(&log, &good, last_frame, &format!("slot {slot}, block {number}"));
            }
        }
    }
}

#[test]
fn a_slot_reads_as_long_as_it_is() {
    let log = two_segments();
    let storage = log.storage();
    let file = storage.open("slot-000001", crate::io::Access::ReadWrite).unwrap();
    file.set_len(SEGMENT + 4096).unwrap();
    let found = open(Arc::new(storage), &policy()).unwrap();
    assert_eq!(found.report.warnings.len(), 1);
}

fn open_flaky(
    log: &Handmade,
    slot: u32,
    bad: std::ops::Range<u64>,
    unreadable_is_torn: bool,
) -> Result<Recovered<Flaky>> {
    let storage = Flaky::new(log.storage());
    storage.spoil(&format!("slot-{slot:06}"), bad);
    open(Arc::new(storage), &super::Policy { unreadable_is_torn, ..policy() })
}

#[test]
fn a_read_error_above_every_mark_is_refused_unless_the_caller_says_torn() {
    let mut log = two_segments();
    let last = log.records.keys().next_back().unwrap() / BLOCK * BLOCK;
    // In the last frame, which nobody vouches for; in the room behind it; far behind it.
    for (at, tail) in [(last, last), (log.lsn, log.lsn), (2 * SEGMENT - BLOCK, log.lsn)] {
        let bad = at - SEGMENT..at - SEGMENT + 10;
        let error = open_flaky(&log, 1, bad.clone(), false).err().unwrap();
        assert_eq!((error.kind(), error.lsn()), (ErrorKind::Io, Some(Lsn::new(at))));
        assert_eq!((error.segment(), error.offset()), (Some(1), Some(at - SEGMENT)));
        let found = open_flaky(&log, 1, bad, true).unwrap();
        assert_eq!(found.report.cut.map(|cut| cut.at.get()), Some(tail));
    }
    // Once somebody vouches for the frame, nobody may call it torn.
    log.empty(Purpose::Close);
    let bad = last - SEGMENT..last - SEGMENT + 10;
    for torn in [false, true] {
        let error = open_flaky(&log, 1, bad.clone(), torn).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn a_read_error_where_it_matters_not_is_survived() {
    let mut log = two_segments();
    // Room that no frame of the first segment used.
    assert!(open_flaky(&log, 0, SEGMENT - 10..SEGMENT, false).is_ok());
    // The header of a slot that holds nothing, but not of one that does.
    log.files.insert(2, vec![0; usize::try_from(SEGMENT).unwrap()]);
    let found = open_flaky(&log, 2, 0..1, false).unwrap();
    assert_eq!((found.free.len(), found.free[0].origin), (1, Origin::Recycled));
    for slot in [0, 1] {
        assert!(open_flaky(&log, slot, 0..1, true).is_err());
    }
    let error = open_flaky(&log, 2, 0..SEGMENT, true).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn a_bad_sector_in_an_older_segment_costs_the_records_before_it_nothing() {
    let mut log = two_segments();
    log.segment(2, 2, Origin::Zeroed);
    log.mark = log.lsn;
    log.enter(2);
    log.frame(&[b"seven"]);
    let storage = Flaky::new(log.storage());
    let third = *log.records.keys().nth(4).unwrap();
    storage.spoil("slot-000000", third..third + 1);
    let mut replay = Replay::open(storage, policy(), Options::default()).unwrap();
    for _ in 0..4 {
        assert!(replay.next().unwrap().is_some());
    }
    let error = replay.next().unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(third / BLOCK * BLOCK)));
}
