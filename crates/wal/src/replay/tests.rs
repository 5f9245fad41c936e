//! Stories of opens and replays, on logs made by hand.

mod bad_blocks;
mod damage;
mod edges;
mod host;
mod lost_frames;
mod tails;

use super::Replay;
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{LogId, Origin, Purpose, RecordKind},
    io::{File, Memory, Storage},
    options::Options,
    recovery::{
        Missing, Policy, Recovered, Verdict,
        handmade::{BLOCK, Handmade, SEGMENT, get, policy, put},
        open,
    },
};
use std::{collections::BTreeMap, sync::Arc};

type Found = (Recovered<Memory>, BTreeMap<u64, Vec<u8>>);

/// Everything a replay yields.
fn replay(log: &Handmade) -> Result<Found> {
    let mut replay = Replay::open(log.storage(), policy(), Options::default())?;
    let mut records = BTreeMap::new();
    while let Some(record) = replay.next()? {
        records.insert(record.lsn().get(), record.payload().to_vec());
    }
    Ok((replay.take_recovered()?, records))
}

fn refused(log: &Handmade) -> Error {
    let Err(error) = log.open() else { panic!("the log was opened") };
    error
}

/// Two segments: three frames fill a part of the first, which the second's frames follow.
fn two_segments() -> Handmade {
    let mut log = Handmade::new();
    log.reopen();
    for payload in [&b"one"[..], &[2; 900], b"three"] {
        log.mark = log.lsn;
        log.frame(&[payload, b"tail"]);
    }
    log.rotate(1);
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
    let never = Policy { create: Missing::Refuse, ..policy() };
    let new = Policy { create: Missing::CreateOnly, ..policy() };
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
    // Frames, whole or not, were a log once.
    for spoiled in [None, Some(9), Some(70)] {
        let mut used = Handmade::new();
        let frame = used.frame(&[b"x"]);
        if let Some(at) = spoiled {
            used.at(frame + at, 1)[0] ^= 0xff;
        }
        let storage = used.storage();
        storage.remove("identity").unwrap();
        let error = open(Arc::new(storage), &policy()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("slot-000000"), "{error}");
    }
}

/// The power fails while the first segment's header is written: the block is torn, and one of its sectors
/// is garbage. Nothing was ever promised: the next open makes a log.
#[test]
fn a_torn_first_header_starts_over() {
    let log = Handmade::new();
    for at in 0..BLOCK {
        let storage = Memory::new();
        storage.create().unwrap();
        let mut torn = log.files[&0].clone();
        torn[usize::try_from(at).unwrap()] ^= 0x5a;
        put(&storage, "slot-000000", &torn);
        put(&storage, "slot-000001", &log.files[&1]);
        let found = open(Arc::new(storage.clone()), &policy()).unwrap();
        assert!(found.report.created, "byte {at}");
        assert_eq!(storage.list().unwrap().len(), 3, "byte {at}: nothing is set aside");
    }
}

/// The power fails while the slots are filled with zeros, and leaves garbage in one sector. There is no
/// frame, so nothing was promised; and in case it was somebody's file after all, it is kept.
#[test]
fn garbage_in_an_unfinished_slot_is_set_aside() {
    let log = Handmade::new();
    for (slot, at) in [(0, BLOCK), (0, SEGMENT - 1), (1, 0), (1, 700)] {
        let storage = Memory::new();
        storage.create().unwrap();
        let mut torn = log.files[&slot].clone();
        torn[usize::try_from(at).unwrap()] ^= 0x5a;
        let name = format!("slot-{slot:06}");
        put(&storage, &name, &torn);
        let found = open(Arc::new(storage.clone()), &policy()).unwrap();
        assert!(found.report.created, "{name} {at}");
        let names = storage.list().unwrap();
        let aside = names.iter().find(|name| name.starts_with("set-aside-")).unwrap();
        assert!(aside.ends_with(&name));
        assert_eq!(get(&storage, aside), torn);
    }
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
fn a_missing_middle_segment_is_corruption() {
    let mut log = two_segments();
    log.rotate(2);
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
    log.rotate(2);
    log.frame(&[b"seven"]);
    let copy = log.files[&0].clone();
    log.files.insert(5, copy);
    assert_eq!(log.open().unwrap().free.len(), 2);
}

#[test]
fn a_second_header_without_frames_is_what_a_full_disk_leaves() {
    // The write of a header answered "no space" and was made all the same; the writer prepared
    // another slot for the same segment.
    for (first, second) in [(1, 2), (2, 1)] {
        let mut log = Handmade::new();
        log.reopen();
        log.mark = log.lsn;
        log.frame(&[b"one"]);
        log.segment(1, first, Origin::Zeroed);
        log.segment(1, second, Origin::Zeroed);
        let found = log.open().unwrap();
        assert_eq!((found.free.len(), found.segments.len()), (1, 1));
        assert!(found.successor.is_some());
        log.mark = log.lsn;
        log.enter(1);
        log.frame(&[b"two"]);
        let (found, records) = replay(&log).unwrap();
        assert_eq!((records, found.free.len()), (log.records.clone(), 1));
        assert_eq!(found.segments[1].slot.number, second);
        // Long after, in the middle of the log.
        for sequence in 2..5 {
            log.segment(sequence, u32::try_from(sequence).unwrap() + 2, Origin::Zeroed);
            log.mark = log.lsn;
            log.enter(sequence);
            log.frame(&[b"more"]);
        }
        let (found, records) = replay(&log).unwrap();
        assert_eq!((records, found.free.len()), (log.records.clone(), 1));
    }
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
    log.rotate(2);
    log.frame(&[b"seven"]);
    log.rotate(3);
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
    assert_eq!(replay.take_recovered().err().unwrap().to_string(), error.to_string());
}

#[test]
fn unread_records_are_skipped_only_by_name() {
    let log = two_segments();
    let mut replay = Replay::open(log.storage(), policy(), Options::default()).unwrap();
    assert!(replay.next().unwrap().is_some());
    let error = replay.take_recovered().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let mut replay = Replay::open(log.storage(), policy(), Options::default()).unwrap();
    replay.skip_rest();
    assert!(replay.next().unwrap().is_none());
    assert!(replay.take_recovered().is_ok());
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
        let policy = Policy { expect_at_least: Some(Lsn::new(lsn)), ..policy() };
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

#[test]
fn a_slot_reads_as_long_as_it_is() {
    let log = two_segments();
    let storage = log.storage();
    let file = storage.open("slot-000001", crate::io::Access::ReadWrite).unwrap();
    file.set_len(SEGMENT + 4096).unwrap();
    let found = open(Arc::new(storage), &policy()).unwrap();
    assert_eq!(found.report.warnings.len(), 1);
}

#[test]
fn a_released_predecessor_may_be_half_of_something_else() {
    let mut log = two_segments();
    log.checkpoint(SEGMENT, b"");
    // Being zeroed for its next use when the power went: the old header still stands.
    log.files.get_mut(&0).unwrap()[1024..5000].fill(0);
    let (found, records) = replay(&log).unwrap();
    assert_eq!((found.segments.len(), found.free.len()), (1, 1));
    assert_eq!(records, log.records.split_off(&SEGMENT));
}
