use super::{FrameWalker, Step, StopKind, Stretch, is_zero};
use crate::{
    Lsn,
    format::{
        FRAME_HEADER_BYTES, FrameHeader, Identity, LogId, Origin, Purpose, RECORD_HEADER_BYTES,
        RecordKind, SegmentHeader, WriterSeed, encode_record, record_bytes,
    },
    io::{Memory, Storage},
    slots::{Segment, Slot},
};
use aligned::Buffer;
use std::sync::Arc;

const SEGMENT_BYTES: u64 = 8 << 20;
const BLOCK: u64 = 4096;

type MemoryFile = <Memory as Storage>::File;

fn identity() -> Identity {
    Identity::new(LogId([4; 16]), SEGMENT_BYTES, 4096, 0).unwrap()
}

/// Segments whose frames have one record each, of the lengths given, and where the frames are.
fn segments(
    storage: &Memory,
    lengths: impl Iterator<Item = usize>,
) -> (Vec<Segment<MemoryFile>>, Vec<(Lsn, usize)>) {
    storage.create().unwrap();
    let (mut images, mut places) = (Vec::<Vec<u8>>::new(), Vec::new());
    let (mut at, mut crc) = (usize::MAX, 0);
    for (ordinal, length) in lengths.enumerate() {
        let payload_bytes = record_bytes(length);
        let bytes = (FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(4096);
        if at.saturating_add(bytes) > usize::try_from(SEGMENT_BYTES).unwrap() {
            images.push(vec![0; usize::try_from(SEGMENT_BYTES).unwrap()]);
            at = 4096;
        }
        let base = u64::try_from(images.len() - 1).unwrap() * SEGMENT_BYTES;
        let lsn = base + u64::try_from(at).unwrap();
        let image = &mut images.last_mut().unwrap()[at..at + bytes];
        let room = &mut image[FRAME_HEADER_BYTES..][..payload_bytes];
        room[RECORD_HEADER_BYTES..].fill(u8::try_from(ordinal % 251).unwrap());
        let seed = WriterSeed::new(LogId([4; 16]), 1, 1);
        encode_record(room, seed, Lsn::new(lsn + 64), RecordKind::Data, length);
        let header = FrameHeader {
            lsn: Lsn::new(lsn),
            payload_bytes: u32::try_from(payload_bytes).unwrap(),
            record_count: 1,
            first_ordinal: u64::try_from(ordinal).unwrap(),
            epoch: 1,
            incarnation: 1,
            durable_mark: Lsn::ZERO,
            previous_crc: crc,
            purpose: Purpose::Records,
        };
        crc = header.encode(LogId([4; 16]), image);
        places.push((Lsn::new(lsn), length));
        at += bytes;
    }
    let mut segments = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let slot = Slot::create(storage, u32::try_from(number).unwrap()).unwrap();
        let mut buffer = Buffer::zeroed(storage.alignment(), image.len()).unwrap();
        buffer.as_mut_slice().copy_from_slice(image);
        crate::io::File::write_at(&slot.file, buffer.as_mut_slice(), 0).unwrap();
        let sequence = u64::try_from(number).unwrap();
        let header = SegmentHeader::new(&identity(), sequence, Origin::Zeroed).unwrap();
        segments.push(Segment::new(&header, Arc::new(slot)));
    }
    (segments, places)
}

fn lengths() -> impl Iterator<Item = usize> {
    // Blocks, frames of about a chunk's headroom, of several chunks, and one of nearly a segment.
    let mixed = [10, 4000, 90_000, 500_000, 524_200, 530_000, 1 << 20, 1_048_000, 3_000_000];
    mixed.into_iter().cycle().take(45).chain([8_380_000, 7, 8_000_000]).chain([100; 300])
}

fn walk(
    walker: &mut FrameWalker<MemoryFile>,
    segments: &[Segment<MemoryFile>],
) -> Vec<(Lsn, usize)> {
    let mut found = Vec::new();
    for segment in segments {
        loop {
            match walker.next(segment, Lsn::new(u64::MAX)) {
                Step::Frame(frame) => {
                    let record = frame.records().next().unwrap();
                    let ordinal = u8::try_from(frame.header.first_ordinal % 251).unwrap();
                    assert!(record.payload.iter().all(|byte| *byte == ordinal));
                    found.push((frame.header.lsn, record.payload.len()));
                }
                Step::End => break,
                Step::Stop(stop) => {
                    assert_eq!(stop.kind, StopKind::Blank, "{stop:?}");
                    break;
                }
                Step::Limit => panic!("there is none"),
                Step::NoMemory(error) => panic!("{error}"),
            }
        }
    }
    found
}

fn plan(segments: &[Segment<MemoryFile>]) -> Vec<Stretch<MemoryFile>> {
    let end = |segment: &Segment<MemoryFile>| segment.end(&identity());
    segments.iter().map(|segment| Stretch::of(segment, &identity(), end(segment))).collect()
}

#[test]
fn frames_of_every_size_come_in_order_with_and_without_help() {
    let storage = Arc::new(Memory::new());
    let (segments, places) = segments(&storage, lengths());
    let mut alone = FrameWalker::new(identity(), storage.alignment());
    assert_eq!(walk(&mut alone, &segments), places);
    for _ in 0..20 {
        let mut helped = FrameWalker::new(identity(), storage.alignment());
        helped.read_ahead(&storage, plan(&segments));
        assert_eq!(walk(&mut helped, &segments), places);
    }
}

#[test]
fn another_way_than_the_plan_is_walked_all_the_same() {
    let storage = Arc::new(Memory::new());
    let (segments, places) = segments(&storage, lengths());
    let mut walker = FrameWalker::new(identity(), storage.alignment());
    walker.read_ahead(&storage, plan(&segments[3..]));
    assert_eq!(walk(&mut walker, &segments), places);
    let mut walker = FrameWalker::new(identity(), storage.alignment());
    walker.read_ahead(&storage, plan(&segments));
    let base = segments[5].base;
    let expected: Vec<_> = places.iter().copied().filter(|(lsn, _)| *lsn >= base).collect();
    assert_eq!(walk(&mut walker, &segments[5..]), expected);
}

#[test]
fn a_walker_that_is_gone_holds_no_slot() {
    // A writer reuses only slots that nobody holds.
    let storage = Arc::new(Memory::new());
    let (segments, places) = segments(&storage, lengths());
    for steps in (0..places.len()).step_by(9) {
        let mut walker = FrameWalker::new(identity(), storage.alignment());
        walker.read_ahead(&storage, plan(&segments));
        for segment in segments.iter().take(steps / 9) {
            let _ = walker.next(segment, Lsn::new(u64::MAX));
        }
        drop(walker);
        assert!(segments.iter().all(|segment| Arc::strong_count(&segment.slot) == 1));
    }
}

#[test]
fn nothing_is_read_past_the_limit() {
    // A frame above the limit may still be being written: what was read of it must not be kept.
    let storage = Arc::new(Memory::new());
    let (segments, places) = segments(&storage, [100_usize; 20].into_iter());
    let slot = &segments[0].slot;
    let mut block = Buffer::zeroed(storage.alignment(), 4096).unwrap();
    let mut walker = FrameWalker::new(identity(), storage.alignment());
    for (lsn, _) in &places {
        let whole = {
            crate::io::File::read_at(&slot.file, block.as_mut_slice(), lsn.get()).unwrap();
            block.as_mut_slice().to_vec()
        };
        block.as_mut_slice().fill(0x55);
        crate::io::File::write_at(&slot.file, block.as_mut_slice(), lsn.get()).unwrap();
        assert!(matches!(walker.next(&segments[0], *lsn), Step::Limit));
        block.as_mut_slice().copy_from_slice(&whole);
        crate::io::File::write_at(&slot.file, block.as_mut_slice(), lsn.get()).unwrap();
        let limit = Lsn::new(lsn.get() + BLOCK);
        assert!(
            matches!(walker.next(&segments[0], limit), Step::Frame(frame) if frame.header.lsn == *lsn)
        );
    }
}

#[test]
fn zeros_are_zeros() {
    for length in [0, 1, 63, 64, 65, 4096] {
        let mut bytes = vec![0; length];
        assert!(is_zero(&bytes));
        for at in 0..length {
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
            bytes[at] = 0;
        }
    }
}
