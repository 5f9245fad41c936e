//! Damage of every kind: flipped bytes, lost blocks, bad sectors, hostile fields.

use super::{refused, replay, two_segments};
use crate::{
    ErrorKind, Lsn, Result,
    format::{FrameHeader, LogId, Origin, Purpose},
    options::Options,
    read_only::{ReadOnly, VerifyVerdict},
    recovery::{
        Policy, Recovered,
        flaky::Flaky,
        handmade::{BLOCK, Handmade, SEGMENT, get, policy, put},
        keep_cut, open,
    },
    replay::Replay,
};
use std::{ops::Range, sync::Arc};

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

/// Recovery looks at the last two segments. Damage at the head of an older one is found by whoever reads
/// there: it is no unused room, although the next segment's first frame has nothing to be chained to.
#[test]
fn a_lost_head_of_an_older_segment_is_found_by_every_reader() {
    let mut log = two_segments();
    log.rotate(2);
    log.frame(&[b"seven"]);
    log.rotate(3);
    log.frame(&[b"eight"]);
    let whole = log.clone();
    log.checkpoint(SEGMENT + BLOCK, b"");
    // The oldest segment of all, and the one that holds the start mark; their first frames, and the
    // first of a segment between.
    for (good, oldest) in [(whole, 0), (log, 1)] {
        for sequence in oldest..3 {
            for at in 0..BLOCK {
                let mut bad = good.clone();
                let lsn = sequence * SEGMENT + BLOCK;
                bad.at(lsn + at, 1)[0] ^= 0x11;
                let story = format!("segment {sequence}, byte {at}, oldest {oldest}");
                let error = replay(&bad).err().unwrap_or_else(|| panic!("{story}: opened"));
                assert_eq!((error.kind(), error.lsn()), (ErrorKind::Corrupt, Some(Lsn::new(lsn))));
                let mut reader = ReadOnly::open(bad.storage(), false).unwrap();
                assert_eq!(reader.verify().unwrap().verdict, VerifyVerdict::Corrupt, "{story}");
                let mut records = reader.records_from(Lsn::ZERO).unwrap();
                let end = loop {
                    match records.next() {
                        Ok(Some(record)) => assert!(record.lsn().get() < lsn, "{story}"),
                        Ok(None) => panic!("{story}: read to the end"),
                        Err(error) => break error,
                    }
                };
                assert_eq!((end.kind(), end.lsn()), (ErrorKind::Corrupt, Some(Lsn::new(lsn))));
            }
        }
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

fn open_flaky(
    log: &Handmade,
    slot: u32,
    bad: Range<u64>,
    unreadable_is_torn: bool,
) -> Result<Recovered<Flaky>> {
    let storage = Flaky::new(log.storage());
    storage.spoil(&format!("slot-{slot:06}"), bad);
    open(Arc::new(storage), &Policy { unreadable_is_torn, ..policy() })
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

/// Two opens crashed behind a block that went bad with them: the epochs that they gave themselves
/// cannot be read. A new one must be above them all the same, or their frames would be its own.
#[test]
fn an_epoch_is_above_those_that_cannot_be_read() {
    let mut log = two_segments();
    let bad = log.lsn - SEGMENT..log.lsn - SEGMENT + 1;
    for _ in 0..2 {
        log.reopen();
        log.empty(Purpose::Opening);
    }
    let hidden = log.epoch;
    let readable = replay(&log).unwrap().0.report.epoch;
    assert_eq!(readable, hidden + 1, "one more than what is seen");
    // Both opening frames, and the rest of the slot.
    let found = open_flaky(&log, 1, bad.start..SEGMENT, true).unwrap();
    assert!(found.report.epoch > hidden, "{} must be above {hidden}", found.report.epoch);
}

/// The tail could not be read and was taken for torn; the writer that went on there acknowledged records,
/// was opened again, and acknowledged more. Then the same blocks could not be read once more. A second rise
/// by the same step over the same visible epochs landed on the first: once the disk showed the rest again,
/// the frames that were given up were of the new writer's epoch, vouched, and had the log refused. They
/// are ghosts.
#[test]
fn an_epoch_is_above_one_that_rose_over_the_same_blocks() {
    let mut log = two_segments();
    let tail = (log.lsn, log.crc, log.ordinal);
    let bad = log.lsn - SEGMENT..SEGMENT;
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for _ in 0..3 {
        let memory = log.storage();
        for (name, bytes) in &kept {
            put(&memory, name, bytes);
        }
        let storage = Flaky::new(memory.clone());
        storage.spoil("slot-000001", bad.clone());
        let policy = Policy { unreadable_is_torn: true, ..policy() };
        let mut found = open(Arc::new(storage), &policy).unwrap();
        assert_eq!(found.tail.lsn.get(), tail.0);
        let name = keep_cut(&mut found).unwrap().expect("the epoch is left in a name");
        assert!(kept.iter().all(|(known, _)| *known != name));
        kept.push((name.clone(), get(&memory, &name)));
        // The new writer's opening frame, and the disk shows the rest again.
        (log.lsn, log.crc, log.ordinal) = tail;
        log.records.retain(|lsn, _| *lsn < tail.0);
        log.epoch = found.epoch - 1;
        log.reopen();
        let after = log.open().unwrap().tail.lsn.get();
        assert_eq!(after, log.lsn, "what was given up proves nothing");
        // It goes on, and so does the next one.
        for _ in 0..2 {
            for payload in [&b"acknowledged"[..], &[7; 900]] {
                log.mark = log.lsn;
                log.frame(&[payload]);
            }
            log.empty(Purpose::Close);
            log.reopen();
        }
        assert_eq!(replay(&log).unwrap().1, log.records);
    }
}

/// The first frame of the oldest segment is taken at its word, and so is its count of the records before
/// it. Near the last number there is, the log opened, and its first append overflowed.
#[test]
fn a_count_of_records_that_had_no_room_is_refused() {
    let counting_from = |ordinal| {
        let mut log = Handmade::new();
        log.reopen();
        log.rotate(1);
        log.ordinal = ordinal;
        log.checkpoint(SEGMENT, b"state");
        log.empty(Purpose::Close);
        log.files.get_mut(&0).unwrap().fill(0);
        log
    };
    for ordinal in [u64::MAX - 4, 1 << 63, 2 * SEGMENT / 8] {
        let log = counting_from(ordinal);
        assert_eq!(refused(&log).kind(), ErrorKind::Corrupt, "{ordinal}");
        let mut reader = ReadOnly::open(log.storage(), false).unwrap();
        assert_eq!(reader.tail().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(reader.verify().unwrap().verdict, VerifyVerdict::Corrupt);
    }
    assert!(counting_from(SEGMENT / 8).open().is_ok(), "a record takes eight bytes");
}

/// The first frame of the last segment cannot be read, and frames after it say that it was durable. The
/// error names that block and not the room before it, and has the device's own error as its source.
#[test]
fn an_unreadable_head_of_the_last_segment_is_named() {
    let log = two_segments();
    let error = open_flaky(&log, 1, BLOCK..BLOCK + 1, false).err().unwrap();
    assert_eq!((error.kind(), error.lsn()), (ErrorKind::Corrupt, Some(Lsn::new(SEGMENT + BLOCK))));
    assert_eq!((error.segment(), error.offset()), (Some(1), Some(BLOCK)));
    assert!(std::error::Error::source(&error).is_some());
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
    log.rotate(2);
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

/// Frames whose sums fit and whose fields are anything: the answer may be any but a panic, a loop,
/// or memory without bound.
#[test]
fn hostile_frames_are_answered() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..3000 {
        let mut log = two_segments();
        if random(2) == 0 {
            log.segment(2, 2, Origin::Recycled);
        }
        for _ in 0..1 + random(3) {
            let lsn = random(2 * SEGMENT / BLOCK) * BLOCK;
            if lsn.is_multiple_of(SEGMENT) {
                continue;
            }
            let pick = |random: &mut dyn FnMut(u64) -> u64, usual: u64| match random(4) {
                0 => usual,
                1 => usual + random(3) * BLOCK,
                2 => u64::MAX - random(3),
                _ => random(1 << 40),
            };
            let usual_lsn = if random(8) == 0 { pick(&mut random, lsn) } else { lsn };
            let header = FrameHeader {
                lsn: Lsn::new(usual_lsn),
                payload_bytes: u32::try_from(pick(&mut random, 0) % (1 << 32)).unwrap(),
                record_count: u32::try_from(random(3)).unwrap(),
                first_ordinal: pick(&mut random, log.ordinal),
                epoch: pick(&mut random, 2),
                incarnation: pick(&mut random, log.incarnation),
                durable_mark: Lsn::new(pick(&mut random, lsn)),
                previous_crc: log.crc,
                purpose: Purpose::Records,
            };
            let bytes = log.at(lsn, 512);
            header.encode(LogId([7; 16]), bytes);
        }
        match replay(&log) {
            Ok((found, _)) => assert!(found.report.to_string().contains("ends at"), "{round}"),
            Err(error) => assert!(!error.to_string().is_empty(), "{round}"),
        }
        let mut reader = ReadOnly::open(log.storage(), false).unwrap();
        let _ = reader.verify().unwrap();
        let _ = reader.segments().unwrap();
        let mut records = reader.records_from(Lsn::ZERO).unwrap();
        while let Ok(Some(_)) = records.next() {}
    }
}
