/*!
The target `decode`: bytes that nobody vouches for, given to everything that decodes.

An input is taken twice: as one header, frame and record after the other, and as a directory of
files. Whatever decodes is encoded again and must give the same bytes; the directory is opened in
every way there is (see [`trial`](super::trial)).

A directory is a byte that says which checksums are mended, and then files: what its name is, its
length in units of 64 bytes (2 bytes), a count, and so many pieces, each with a place in units of 64
bytes (2 bytes), a length (1 byte) and its bytes. What no piece covers is zero.
*/

use super::{
    Reached,
    image::{Image, log_id, narrow},
    seal::{seal_block, seal_header, seal_records},
    tame::Tame,
    trial::{self, Bytes},
};
use arbitrary::{Arbitrary, Result, Unstructured};
use wal::{
    Create, LogId, Lsn,
    format::{
        Checkpoint, FRAME_HEADER_BYTES, Frame, FrameHeader, IDENTITY_BYTES, Identity, Origin,
        Purpose, RecordKind, SegmentHeader, WriterSeed, encode_record, record_bytes,
    },
};

const CAPACITY: u64 = 4 << 20;
const UNIT: usize = 64;
/// A mebibyte.
const UNITS_MAX: usize = 1 << 14;
const FILES_MAX: usize = 8;
const PIECES_MAX: usize = 255;
const PIECE_BYTES_MAX: usize = 3 * UNIT;

const MEND_IDENTITY: u8 = 1;
const MEND_SEGMENTS: u8 = 2;
const MEND_RECORDS: u8 = 4;
const MEND_FRAMES: u8 = 8;

/// Decodes `data` in all ways.
pub fn decode(data: &[u8]) -> Reached {
    let mut reached = Reached::new();
    headers(data, &mut reached);
    frames(data, &mut reached);
    let Ok(Directory { mend, mut image }) = Directory::arbitrary(&mut Unstructured::new(data))
    else {
        return reached;
    };
    mend_all(&mut image, mend);
    trial::examine(&image, CAPACITY, Bytes::Hostile, &mut reached);
    create(&image, &mut reached);
    reached
}

/// How much memory [`decode`] may take: what is on the disk, and what its identity allows a frame to
/// be, once for each thread that reads and once more while a buffer grows.
#[must_use]
pub fn memory_max(data: &[u8]) -> usize {
    const FIXED: usize = 96 << 20;
    const FRAMES: usize = 10;
    let directory = Directory::arbitrary(&mut Unstructured::new(data)).ok();
    let identity = directory.and_then(|Directory { mend, mut image }| {
        mend_all(&mut image, mend);
        image.identity()
    });
    FIXED + FRAMES * identity.map_or(0, |identity| narrow(identity.segment_bytes))
}

fn headers(data: &[u8], reached: &mut Reached) {
    let tiny = Identity::new(LogId([7; 16]), 8192, 512, 1).expect("a small log");
    let mut file = vec![0; IDENTITY_BYTES];
    let length = data.len().min(file.len());
    file[..length].copy_from_slice(&data[..length]);
    for is_mended in [false, true] {
        if is_mended {
            seal_block(&mut file);
        }
        if let Ok(identity) = Identity::decode(&file) {
            reached.insert("an identity");
            let mut again = vec![0; IDENTITY_BYTES];
            identity.encode(&mut again);
            assert!(again == file, "{identity:?} is encoded otherwise");
        }
    }
    let mut block = file[..512].to_vec();
    for is_mended in [false, true] {
        if is_mended {
            seal_block(&mut block);
        }
        if let Ok(header) = SegmentHeader::decode(&tiny, &block) {
            reached.insert("a segment header");
            let mut again = vec![0; 512];
            header.encode(&tiny, &mut again);
            assert!(again == block, "{header:?} is encoded otherwise");
            assert!(matches!(header.origin, Origin::Zeroed | Origin::Recycled));
        }
    }
    // Lengths that no header has.
    let _ = Identity::decode(data);
    let _ = SegmentHeader::decode(&tiny, data);
    if let Some(checkpoint) = Checkpoint::decode(data) {
        let mut again = vec![0; checkpoint.payload_bytes()];
        checkpoint.encode(&mut again);
        assert_eq!(again, data);
    }
}

fn frames(data: &[u8], reached: &mut Reached) {
    let log = LogId([7; 16]);
    let mut bytes = data.to_vec();
    for is_mended in [false, true] {
        if is_mended {
            seal_records(log, &mut bytes);
            seal_header(log, &mut bytes);
        }
        let Ok((header, crc)) = FrameHeader::decode(log, &bytes) else { continue };
        reached.insert("a frame header");
        let mut again = [0; FRAME_HEADER_BYTES];
        assert_eq!(header.encode(log, &mut again), crc);
        assert_eq!(again, bytes[..FRAME_HEADER_BYTES]);
        assert!(header.frame_bytes(512).is_multiple_of(512));
        let _ = header.follows(&header, crc);
        let elsewhere = Lsn::new(!header.lsn.get());
        assert!(Frame::check(log, elsewhere, 512, &bytes).is_err(), "valid in two places");
        if let Ok(frame) = Frame::check(log, header.lsn, 512, &bytes) {
            reached.insert("a frame");
            let count = frame.records().count();
            assert_eq!(u32::try_from(count), Ok(header.record_count));
            for record in frame.records().filter(|record| record.kind == RecordKind::Checkpoint) {
                let _ = Checkpoint::decode(record.payload);
            }
            assert!(frame.records().last().is_none_or(|record| !record.more));
        }
    }
}

/// Makes a log there, if nothing is in the way.
fn create(image: &Image, reached: &mut Reached) {
    if image.files.contains_key("identity") {
        return;
    }
    let storage = Tame::new(4, CAPACITY, image);
    let options = super::script::options().create(Create::IfMissing);
    let Ok(mut replay) = options.open_in(storage.clone()) else { return };
    assert!(replay.report().created);
    assert!(matches!(replay.next(), Ok(None)), "a new log holds records");
    drop(replay);
    storage.settle();
    reached.insert("created");
    trial::examine(&storage.save(), CAPACITY, Bytes::Own, reached);
}

/// One of everything that has a header of its own, and a place without a log.
pub(super) fn simplest() -> Vec<Vec<u8>> {
    let tiny = Identity::new(LogId([7; 16]), 8192, 512, 1).expect("a small log");
    let mut identity = vec![0; IDENTITY_BYTES];
    tiny.encode(&mut identity);
    identity.truncate(UNIT);
    let mut segment = vec![0; 512];
    let header = SegmentHeader::new(&tiny, 3, Origin::Recycled).expect("a third segment");
    header.encode(&tiny, &mut segment);
    let log = tiny.log_id;
    let mut frame = vec![0; 512];
    let (lsn, payload_bytes) = (Lsn::new(512), 5);
    let record_bytes = record_bytes(payload_bytes);
    let header = FrameHeader {
        lsn,
        payload_bytes: u32::try_from(record_bytes).expect("a few bytes"),
        record_count: 1,
        first_ordinal: 0,
        epoch: 1,
        incarnation: 2,
        durable_mark: lsn,
        previous_crc: 0,
        purpose: Purpose::Records,
    };
    header.encode(log, &mut frame);
    let room = &mut frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + record_bytes];
    let place = Lsn::new(512 + 64);
    let seed = WriterSeed::new(log, header.epoch, header.incarnation);
    encode_record(room, seed, place, RecordKind::Data, payload_bytes);
    vec![identity, segment, frame, vec![0]]
}

struct Directory {
    mend: u8,
    image: Image,
}

impl<'a> Arbitrary<'a> for Directory {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mend = u.arbitrary()?;
        let mut image = Image::default();
        while !u.is_empty() && image.files.len() < FILES_MAX {
            let name = name(u.arbitrary()?);
            let units = usize::from(u.arbitrary::<u16>()?) % (UNITS_MAX + 1);
            let mut bytes = vec![0; units * UNIT];
            for _ in 0..u.arbitrary::<u8>()? {
                let at = usize::from(u.arbitrary::<u16>()?) * UNIT;
                let length = usize::from(u.arbitrary::<u8>()?).min(u.len());
                let piece = u.bytes(length)?;
                let Some(place) = bytes.get_mut(at..) else { continue };
                let length = length.min(place.len());
                place[..length].copy_from_slice(&piece[..length]);
            }
            image.files.insert(name, bytes);
        }
        Ok(Self { mend, image })
    }
}

const NAMES: [&str; 6] = ["identity", "identity.tmp", "cut-5000-2", "lock", "notes", "slot-1"];

fn name(number: u8) -> String {
    match NAMES.get(usize::from(number)) {
        Some(name) => (*name).to_owned(),
        None if number == u8::MAX => format!("slot-{}", u32::MAX),
        None => format!("slot-{:06}", (usize::from(number) - NAMES.len()) % 8),
    }
}

fn number(name: &str) -> Option<u8> {
    let known = NAMES.iter().position(|known| *known == name);
    let slot = || Some(NAMES.len() + name.strip_prefix("slot-")?.parse::<usize>().ok()?);
    u8::try_from(known.or_else(slot)?).ok()
}

/// The bytes that lay `image`, if it can be said so.
pub(super) fn pack(image: &Image, mend: u8) -> Option<Vec<u8>> {
    let mut data = vec![mend];
    for (name, bytes) in &image.files {
        data.push(number(name)?);
        let units = u16::try_from(bytes.len().div_ceil(UNIT)).ok()?;
        data.extend(units.to_le_bytes());
        let units: Vec<_> = bytes.chunks(UNIT).enumerate().collect();
        let is_used = |unit: &(usize, &[u8])| unit.1.iter().any(|byte| *byte != 0);
        let used: Vec<_> = units.into_iter().filter(is_used).collect();
        let runs = used.chunk_by(|one, other| one.0 + 1 == other.0);
        let pieces: Vec<_> = runs.flat_map(|run| run.chunks(PIECE_BYTES_MAX / UNIT)).collect();
        data.push(
            u8::try_from(pieces.len()).ok().filter(|count| usize::from(*count) < PIECES_MAX)?,
        );
        for piece in pieces {
            let bytes: Vec<_> = piece.iter().flat_map(|unit| unit.1.iter().copied()).collect();
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            data.extend(u16::try_from(piece[0].0).ok()?.to_le_bytes());
            data.push(u8::try_from(end).ok()?);
            data.extend_from_slice(&bytes[..end]);
        }
    }
    Some(data)
}

/// Mends the checksums that `mend` names, wherever something claims to have one.
fn mend_all(image: &mut Image, mend: u8) {
    if let Some(bytes) = image.files.get_mut("identity").filter(|_| mend & MEND_IDENTITY != 0) {
        seal_block(bytes);
    }
    let log = log_id(image);
    let block = image.identity().map_or(512, |identity| narrow(identity.block_bytes.into()));
    for (name, bytes) in &mut image.files {
        if !name.starts_with("slot-") {
            continue;
        }
        if mend & MEND_SEGMENTS != 0
            && let Some(head) = bytes.get_mut(..block)
            && head.starts_with(b"walSegmt")
        {
            seal_block(head);
        }
        for at in (block..bytes.len()).step_by(block) {
            let frame = &mut bytes[at..];
            if !frame.starts_with(b"walF") {
                continue;
            }
            if mend & MEND_RECORDS != 0 {
                seal_records(log, frame);
            }
            if mend & MEND_FRAMES != 0 {
                seal_header(log, frame);
            }
        }
    }
}
