//! Blocks that cannot be read, and what a refusal has to name: the slot, the segment, the place, and what the
//! device said.

use crate::{
    ErrorKind, Lsn, Result,
    io::{Access, File, Host, Memory, Storage},
    options::Options,
    read_only::SegmentInfo,
    recovery::flaky::Flaky,
};
use aligned::Buffer;
use std::time::Duration;

/// Segments that are long enough are read ahead by other threads, in large pieces. A bad block in one of them
/// is found at its place, with the device's error, as if each frame had been asked for alone; and the frames
/// around it are there.
#[test]
fn a_bad_block_is_named_where_segments_are_read_ahead() {
    let memory = Memory::new();
    let options = Options::new().segment_bytes(8 << 20);
    let mut replay = options.open_in(memory.clone()).unwrap();
    assert!(replay.next().unwrap().is_none());
    let (wal, _) = replay.finish().unwrap();
    let mut frames = Vec::new();
    // Two and a half segments.
    while wal.appended_lsn() < Lsn::new(20 << 20) {
        let ticket = wal.append(&[7; 200_000]).unwrap();
        frames.push(ticket.lsn().get() - 64);
        ticket.wait().unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    // At the head of a frame, and inside of it.
    let places = frames.iter().skip(3).step_by(7).zip([0, 100_000].into_iter().cycle());
    for (at, further) in places.map(|(at, further)| (*at, further)) {
        let segment = at / (8 << 20);
        let offset = at % (8 << 20);
        let storage = Flaky::new(memory.clone());
        storage.spoil(&format!("slot-{segment:06}"), offset + further..offset + further + 1);
        let opened = options.open_in(storage).map(|mut replay| {
            let mut found = 0;
            loop {
                match replay.next() {
                    Ok(Some(_)) => found += 1,
                    Ok(None) => panic!("a bad block went unnoticed"),
                    Err(error) => return (found, error),
                }
            }
        });
        let error = match opened {
            Ok((found, error)) => {
                assert_eq!(found, frames.iter().filter(|frame| **frame < at).count());
                error
            }
            Err(error) => error,
        };
        assert_eq!((error.kind(), error.segment()), (ErrorKind::Corrupt, Some(segment)), "{error}");
        // The frame, or the block itself.
        let block = (offset + further) / 4096 * 4096;
        assert!([Some(offset), Some(block)].contains(&error.offset()), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

/// A log of segments of 64 KiB, the oldest released and their slots used again; and its records.
fn log_of_many_segments() -> (Memory, Options, Vec<Lsn>) {
    let memory = Memory::new();
    let options = Options::new().segment_bytes(64 << 10).frame_bytes(16 << 10);
    let options = options.pool_bytes(64 << 10);
    let mut replay = options.open_in(memory.clone()).unwrap();
    assert!(replay.next().unwrap().is_none());
    let (wal, _) = replay.finish().unwrap();
    let mut records = Vec::new();
    for number in 0..80_usize {
        let lsn = wal.append(&vec![7; 1000 + number * 997 % 9000]).unwrap().wait().unwrap();
        records.push(lsn);
        if number == 50 {
            wal.checkpoint(records[40], b"").unwrap().wait().unwrap();
        }
    }
    wal.close().unwrap();
    records.drain(..40);
    (memory, options, records)
}

/// One block of a log that is several segments long, of which the oldest were released and their slots used
/// again, cannot be read: whichever it is, either nothing is lost by it, or the refusal names the slot, the
/// segment, the block or the frame that it is in, and what the device said. A checkpoint that went with it
/// made the segments that were released long ago look like what is missing.
#[test]
fn whichever_block_is_bad_the_refusal_names_it() {
    let (memory, options, records) = log_of_many_segments();
    let sound = replay_all(&options, memory.clone()).unwrap();
    assert_eq!(sound, records);
    let names = Flaky::new(memory.clone()).list().unwrap();
    let slots = names.iter().filter(|name| name.starts_with("slot-"));
    let (mut refused, mut harmless) = (0, 0);
    for (slot, block) in slots.flat_map(|slot| (0..16).map(move |block| (slot, block * 4096))) {
        let storage = Flaky::new(memory.clone());
        storage.spoil(slot, block..block + 1);
        let at_open = options.open_in(storage.clone()).is_err();
        let error = match replay_all(&options, storage) {
            Ok(found) => {
                assert_eq!(found, sound, "{slot}, block at {block}");
                harmless += 1;
                continue;
            }
            Err(error) => error,
        };
        let story = format!("{slot}, block at {block}: {error:?}");
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io), "{story}");
        assert!(error.path().is_some_and(|path| path.ends_with(slot)), "{story}");
        // Who reads on meets the frame: none is longer than four blocks.
        let offset = error.offset().unwrap();
        let first = if at_open { block } else { block.saturating_sub(3 * 4096) };
        assert!((first..=block).contains(&offset), "{story}");
        let segment = error.segment().unwrap();
        assert_eq!(error.lsn(), Some(Lsn::new(segment * (64 << 10) + offset)), "{story}");
        assert!(std::error::Error::source(&error).is_some(), "{story}");
        refused += 1;
    }
    // How many slots were used again, or not yet, is for the preparer to say.
    assert!(refused > 40 && harmless > 0, "{refused} refused, {harmless} harmless");
}

/// The same where the frame with the latest checkpoint is rotten, and the device says nothing: the frame is what
/// is named, and not the segments that were released. Whichever byte it is, and also where the whole write was
/// lost or went elsewhere.
#[test]
fn a_rotten_frame_with_the_latest_checkpoint_is_named() {
    let (memory, options, _) = log_of_many_segments();
    let tail = last_used_slot(&options, &memory);
    let file = memory.open(&tail.file, Access::ReadWrite).unwrap();
    let mut sound = Buffer::zeroed(memory.alignment(), 4096).unwrap();
    let mut block = Buffer::zeroed(memory.alignment(), 4096).unwrap();
    file.read_at(sound.as_mut_slice(), 4096).unwrap();
    let flips = (0..80).map(|at| [at..at + 1, 0..0]);
    for (rot, zeros) in flips.chain([[0..0, 0..64], [0..0, 0..4096]]).map(<(_, _)>::from) {
        block.as_mut_slice().copy_from_slice(sound.as_mut_slice());
        block.as_mut_slice()[rot.clone()].iter_mut().for_each(|byte| *byte ^= 1);
        block.as_mut_slice()[zeros.clone()].fill(0);
        file.write_at(block.as_mut_slice(), 4096).unwrap();
        let error = replay_all(&options, memory.clone()).unwrap_err();
        let story = format!("bytes {rot:?} flipped, {zeros:?} zero: {error:?}");
        assert_eq!((error.kind(), error.segment()), (ErrorKind::Corrupt, tail.sequence), "{story}");
        assert_eq!(error.offset(), Some(4096), "{story}");
    }
}

/// The same, and the process died at once, the segments that the checkpoint released given back already: no
/// later frame says that the rotten one was durable. It may have been the last, or the segments are lost.
/// The refusal has both.
#[test]
fn a_rotten_checkpoint_with_nothing_after_it_is_named_beside_what_is_missing() {
    let memory = Memory::new();
    let options = Options::new().segment_bytes(64 << 10).frame_bytes(16 << 10).pool_bytes(64 << 10);
    let options = options.spare_bytes_max(0).confirm_after(Duration::from_secs(3600));
    let mut replay = options.open_in(memory.clone()).unwrap();
    assert!(replay.next().unwrap().is_none());
    let (wal, _) = replay.finish().unwrap();
    let mut last = Lsn::ZERO;
    while last.get() < 6 * (64 << 10) {
        last = wal.append(&[7; 5000]).unwrap().wait().unwrap();
    }
    let checkpoint = wal.checkpoint(last, b"").unwrap().wait().unwrap();
    let slots = || memory.list().unwrap().iter().filter(|name| name.starts_with("slot-")).count();
    let start = memory.now();
    while slots() > 2 {
        assert!(memory.now() < start + Duration::from_secs(60), "the segments are given back");
        memory.yield_now();
    }
    drop(wal);
    let tail = last_used_slot(&options, &memory);
    let file = memory.open(&tail.file, Access::ReadWrite).unwrap();
    let at = checkpoint.get() % (64 << 10) / 4096 * 4096;
    let mut block = Buffer::zeroed(memory.alignment(), 4096).unwrap();
    file.read_at(block.as_mut_slice(), at).unwrap();
    block.as_mut_slice()[70] ^= 1;
    file.write_at(block.as_mut_slice(), at).unwrap();
    let error = replay_all(&options, memory.clone()).unwrap_err();
    assert_eq!((error.kind(), error.segment()), (ErrorKind::Corrupt, Some(0)), "{error:?}");
    assert!(error.to_string().contains("a segment is missing"), "{error}");
    let source = std::error::Error::source(&error).expect("what else it may be").to_string();
    assert!(source.contains("may say where the log begins"), "{source}");
    assert!(source.contains(&tail.file), "{source}");
}

/// The slot that the log's end is in.
fn last_used_slot(options: &Options, memory: &Memory) -> SegmentInfo {
    let log = options.open_read_only_in(memory.clone()).unwrap().segments().unwrap();
    log.into_iter().filter(|slot| slot.frames > 0).max_by_key(|slot| slot.sequence).unwrap()
}

/// A segment in the middle is gone, and a slot that is free cannot be read, nor a block behind the tail: what is
/// missing is the segment. Neither has anything to do with it.
#[test]
fn a_missing_segment_is_what_is_missing() {
    let (memory, options, _) = log_of_many_segments();
    let log = options.open_read_only_in(memory.clone()).unwrap().segments().unwrap();
    let mut live: Vec<_> = log.iter().filter(|slot| slot.frames > 0).collect();
    live.sort_by_key(|slot| slot.sequence);
    let (gone, tail) = (live[live.len() - 3], live[live.len() - 1]);
    memory.remove(&gone.file).unwrap();
    let free = memory.create_file("slot-000900").unwrap();
    free.set_len(64 << 10).unwrap();
    for bad in [&tail.file, "slot-000900"] {
        let storage = Flaky::new(memory.clone());
        storage.spoil(bad, (64 << 10) - 10..64 << 10);
        let error = replay_all(&options, storage).unwrap_err();
        assert_eq!((error.kind(), error.segment()), (ErrorKind::Corrupt, gone.sequence), "{error}");
        assert!(error.to_string().contains("a segment is missing"), "{error}");
    }
}

/// The places of all records of the log.
fn replay_all(options: &Options, storage: impl Storage) -> Result<Vec<Lsn>> {
    let mut replay = options.open_in(storage)?;
    let mut found = Vec::new();
    while let Some(record) = replay.next()? {
        found.push(record.lsn());
    }
    Ok(found)
}
