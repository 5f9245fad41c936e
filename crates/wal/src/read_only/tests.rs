mod memory;

use super::{ReadOnly, SegmentState, VerifyVerdict};
use crate::{
    ErrorKind, Lsn,
    format::{Origin, Purpose},
    io::{Access, File, Memory, Storage},
    recovery::handmade::{BLOCK, Handmade, SEGMENT},
};
use aligned::Buffer;
use std::collections::BTreeMap;

/// Three segments, the last frame of which nobody vouches for.
fn log() -> Handmade {
    let mut log = Handmade::new();
    log.reopen();
    for sequence in 0..3 {
        if sequence > 0 {
            log.segment(sequence, u32::try_from(sequence).unwrap(), Origin::Zeroed);
            log.enter(sequence);
        }
        for number in 0..10 {
            let payload = format!("record {number} of {sequence}");
            log.frame(&[payload.as_bytes(), &[0; 600]]);
            log.mark = log.lsn;
        }
    }
    log
}

fn open(log: &Handmade) -> ReadOnly<Memory> {
    ReadOnly::open(log.storage(), false).unwrap()
}

fn read(reader: &mut ReadOnly<Memory>, from: u64) -> Result<BTreeMap<u64, Vec<u8>>, crate::Error> {
    let mut found = BTreeMap::new();
    let mut records = reader.records_from(Lsn::new(from))?;
    while let Some(record) = records.next()? {
        found.insert(record.lsn().get(), record.payload().to_vec());
    }
    Ok(found)
}

#[test]
fn only_what_is_known_to_be_durable_is_yielded() {
    let mut log = log();
    let mut reader = open(&log);
    let last = log.records.keys().nth_back(1).copied().unwrap() / BLOCK * BLOCK;
    assert_eq!(reader.durable_mark().unwrap().get(), last);
    assert_eq!(reader.tail().unwrap().get(), log.lsn);
    let proved: BTreeMap<_, _> = log.records.range(..last).map(|(a, b)| (*a, b.clone())).collect();
    assert_eq!(read(&mut reader, 0).unwrap(), proved);
    let mut all = reader.records_from_including_unproved(Lsn::ZERO).unwrap();
    let mut count = 0;
    while all.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, log.records.len());
    log.empty(Purpose::Confirmation);
    let mut reader = open(&log);
    assert_eq!(read(&mut reader, 0).unwrap(), log.records);
    for from in log.records.keys().step_by(7) {
        let expected: BTreeMap<_, _> =
            log.records.range(from..).map(|(a, b)| (*a, b.clone())).collect();
        assert_eq!(read(&mut reader, *from).unwrap(), expected);
    }
    assert!(read(&mut reader, u64::MAX).unwrap().is_empty());
}

fn read_to_damage(log: &Handmade, from: u64) -> (Vec<u64>, ErrorKind) {
    let mut reader = open(log);
    let mut records = reader.records_from(Lsn::new(from)).unwrap();
    let mut found = Vec::new();
    loop {
        match records.next() {
            Ok(Some(record)) => found.push(record.lsn().get()),
            Ok(None) => panic!("a damaged log ended without an error"),
            Err(error) => return (found, error.kind()),
        }
    }
}

/// The header of the second of three segments is damaged. Whoever read the log went from the first segment
/// to the third as if nothing were missing, and heard of the damage only at the end; and damage at the end
/// of the first one was taken for room that no frame used.
#[test]
fn nothing_behind_a_missing_segment_is_yielded() {
    let mut log = log();
    let all: Vec<u64> = log.records.keys().copied().collect();
    log.at(SEGMENT, 1)[0] ^= 1;
    let is_in_first = |lsn: &u64| *lsn < SEGMENT;
    let first: Vec<u64> = all.iter().copied().filter(is_in_first).collect();
    assert_eq!(read_to_damage(&log, 0), (first, ErrorKind::Corrupt));
    // Whoever begins inside the hole is told at once; whoever begins behind it has said so.
    assert_eq!(read_to_damage(&log, SEGMENT + BLOCK), (Vec::new(), ErrorKind::Corrupt));
    let third: Vec<u64> = all.iter().copied().filter(|lsn| *lsn > 2 * SEGMENT).collect();
    assert_eq!(read_to_damage(&log, 2 * SEGMENT), (third, ErrorKind::Corrupt));
    // A hole at the end of the first segment, and one behind it.
    let fourth = all[6] / BLOCK * BLOCK;
    log.at(fourth + 80, 1)[0] ^= 1;
    assert_eq!(read_to_damage(&log, 0), (all[..6].to_vec(), ErrorKind::Corrupt));
    // The oldest one that is needed.
    log.at(0, 1)[0] ^= 1;
    assert_eq!(read_to_damage(&log, 0), (Vec::new(), ErrorKind::Corrupt));
}

/// The log's end lost its first frame, and the segment before it: nobody knows where the log begins. It was
/// taken to begin at its beginning, which was released, and nothing was read of what is there.
#[test]
fn a_damaged_log_that_begins_nobody_knows_where_is_read_from_what_is_there() {
    let mut log = log();
    log.rotate(3);
    let first = log.frame(&[b"the last"]);
    log.at(first + 10, 1)[0] ^= 1;
    log.files.remove(&0);
    log.files.remove(&2);
    let second = SEGMENT..2 * SEGMENT;
    let there: Vec<u64> = log.records.range(second).map(|(lsn, _)| *lsn).collect();
    assert_eq!(read_to_damage(&log, 0), (there, ErrorKind::Corrupt));
}

/// A slot that still holds a released segment stands before a hole that is none: the segments in it
/// were released too. Of a damaged log that was forgotten; reading began there, and never got further.
#[test]
fn a_damaged_log_is_read_from_its_start_mark() {
    let mut log = log();
    log.checkpoint(2 * SEGMENT, b"state");
    log.mark = log.lsn;
    log.frame(&[b"lost"]);
    log.mark = log.lsn;
    let lost = log.lsn;
    log.frame(&[b"lost, too"]);
    log.mark = log.lsn;
    log.frame(&[b"knows"]);
    // Segment 1 was reused, segment 0 was not.
    log.files.remove(&1);
    let needed: Vec<u64> =
        log.records.keys().copied().filter(|lsn| (2 * SEGMENT..lost).contains(lsn)).collect();
    log.at(lost, 1)[0] ^= 1;
    assert_eq!(read_to_damage(&log, 0), (needed, ErrorKind::Corrupt));
    let mut reader = open(&log);
    assert_eq!(reader.start_mark(), Lsn::new(2 * SEGMENT));
    assert_eq!(reader.checkpoint().unwrap().state, b"state");
    assert_eq!(reader.verify().unwrap().damage.len(), 1);
}

#[test]
fn it_takes_no_lock_and_writes_nothing() {
    let log = log();
    let storage = log.storage();
    let _held = storage.lock().unwrap();
    let mut reader = ReadOnly::open(storage.clone(), false).unwrap();
    assert!(!read(&mut reader, 0).unwrap().is_empty());
    assert_eq!(reader.verify().unwrap().verdict, VerifyVerdict::Clean);
    assert_eq!(storage.list().unwrap().len(), 4);
    let missing = Memory::new();
    let error = ReadOnly::open(missing.clone(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    missing.create().unwrap();
    let error = ReadOnly::open(missing, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn segments_are_listed_with_what_they_hold() {
    let mut log = log();
    log.checkpoint(SEGMENT + BLOCK, b"");
    log.mark = log.lsn;
    log.segment(3, 7, Origin::Zeroed);
    let infos = open(&log).segments().unwrap();
    let states: Vec<_> = infos.iter().map(|info| (info.slot, info.state)).collect();
    let expected = [
        (0, SegmentState::Free),
        (1, SegmentState::Live),
        (2, SegmentState::Active),
        (7, SegmentState::Prepared),
    ];
    assert_eq!(states, expected);
    assert_eq!((infos[1].frames, infos[1].records, infos[1].epoch), (10, 20, Some((2, 2))));
    assert_eq!(infos[2].end.map(Lsn::get), Some(log.lsn));
}

#[test]
fn verify_tells_clean_torn_and_corrupt_and_finds_all_damage() {
    let good = log();
    let found = open(&good).verify().unwrap();
    assert_eq!((found.verdict, found.segments, found.frames), (VerifyVerdict::Clean, 3, 31));
    let mut torn = good.clone();
    torn.at(good.lsn - BLOCK, 9)[8] ^= 1;
    let found = open(&torn).verify().unwrap();
    assert_eq!(found.verdict, VerifyVerdict::TornTail);
    assert!(found.cut.is_some());
    // One hole in the first segment, two in the second.
    let mut bad = good.clone();
    let frames: Vec<u64> = good.records.keys().step_by(2).map(|lsn| lsn / BLOCK * BLOCK).collect();
    for frame in [frames[3], frames[13], frames[16]] {
        bad.at(frame, 99)[98] ^= 4;
    }
    let mut reader = open(&bad);
    let found = reader.verify().unwrap();
    assert_eq!(found.verdict, VerifyVerdict::Corrupt);
    let places: Vec<_> = found.damage.iter().filter_map(crate::Error::lsn).map(Lsn::get).collect();
    assert_eq!(places, [frames[3], frames[13], frames[16]]);
    let mut records = reader.records_from(Lsn::ZERO).unwrap();
    let mut count = 0;
    let error = loop {
        match records.next() {
            Ok(record) => count += usize::from(record.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!((count, error.kind()), (6, ErrorKind::Corrupt));
}

#[test]
fn a_log_too_damaged_to_open_can_be_read_up_to_the_damage() {
    let mut bad = log();
    bad.files.get_mut(&1).unwrap()[3] ^= 1;
    let mut reader = open(&bad);
    assert_eq!(reader.tail().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(reader.verify().unwrap().verdict, VerifyVerdict::Corrupt);
    let damaged = |info: &&super::SegmentInfo| info.state == SegmentState::Damaged;
    assert_eq!(reader.segments().unwrap().iter().filter(damaged).count(), 1);
    assert_eq!(read(&mut reader, 0).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_segment_that_was_reused_is_released_and_not_damaged() {
    let log = log();
    let storage = log.storage();
    let mut reader = ReadOnly::open(storage.clone(), false).unwrap();
    let mut records = reader.records_from(Lsn::ZERO).unwrap();
    let mut count = 0;
    let error = loop {
        match records.next() {
            Ok(record) => assert!(record.is_some()),
            Err(error) => break error,
        }
        count += 1;
        if count == 3 {
            let mut reused = log.clone();
            reused.segment(9, 1, Origin::Recycled);
            reused.files.get_mut(&1).unwrap()[512..2048].fill(1);
            write(&storage, 1, 0, &reused.files[&1]);
        }
    };
    assert_eq!(error.kind(), ErrorKind::Released);
}

#[test]
fn a_log_that_is_being_written_reads_without_a_false_alarm() {
    // A whole life, made beforehand and written block by block while readers look.
    let mut log = Handmade::new();
    let start = log.clone();
    let mut writes: Vec<(u32, usize, usize)> = Vec::new();
    log.reopen();
    for sequence in 0..12_u64 {
        let slot = u32::try_from(sequence).unwrap();
        if sequence > 0 {
            log.segment(sequence, slot, Origin::Zeroed);
            writes.push((slot, 0, 512));
            log.enter(sequence);
        }
        for _ in 0..20 {
            let lsn = log.frame(&[b"while somebody reads"]);
            let offset = usize::try_from(lsn % SEGMENT).unwrap();
            writes.push((slot, offset, 512));
            log.mark = log.lsn;
        }
    }
    writes.insert(0, (0, 512, 512));
    let storage = start.storage();
    for slot in 2..12 {
        let zeros = vec![0; usize::try_from(SEGMENT).unwrap()];
        crate::recovery::handmade::put(&storage, &crate::slots::slot_name(slot), &zeros);
    }
    let writer = {
        let (storage, files) = (storage.clone(), log.files.clone());
        std::thread::spawn(move || {
            for (slot, offset, bytes) in writes {
                write(&storage, slot, offset, &files[&slot][offset..offset + bytes]);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        })
    };
    let mut seen = 0;
    while !writer.is_finished() {
        let mut reader = ReadOnly::open(storage.clone(), false).unwrap();
        assert!(reader.tail().is_ok(), "{:?}", reader.tail());
        let records = read(&mut reader, 0).unwrap();
        assert!(records.len() >= seen);
        seen = records.len();
        assert_ne!(reader.verify().unwrap().verdict, VerifyVerdict::Corrupt);
    }
    writer.join().unwrap();
}

fn write(storage: &Memory, slot: u32, offset: usize, bytes: &[u8]) {
    let file = storage.open(&crate::slots::slot_name(slot), Access::ReadWrite).unwrap();
    let mut buffer = Buffer::zeroed(storage.alignment(), bytes.len()).unwrap();
    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    file.write_at(&buffer.as_mut_slice()[..bytes.len()], u64::try_from(offset).unwrap()).unwrap();
}
