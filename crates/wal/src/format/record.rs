//! Records: header, seed, encoding in place.

use super::{LogId, frame::Fault, get, put};
use crate::lsn::Lsn;

/// The length of a record's header in bytes.
pub const RECORD_HEADER_BYTES: usize = 8;
/// The longest payload that a record's header can state, in bytes. What fits in a segment is less.
pub const RECORD_PAYLOAD_MAX: usize = (1 << LENGTH_BITS) - 1;

const RECORD_ALIGN: usize = 8;
const CRC: usize = 0;
const TAG: usize = CRC + 4;

const LENGTH_BITS: u32 = 28;
const KIND_SHIFT: u32 = LENGTH_BITS;
const MORE: u32 = 1 << 30;
const UNUSED: u32 = 1 << 31;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the kinds of a format version are known for ever")]
#[repr(u8)]
pub enum RecordKind {
    /// The user's bytes.
    Data = 1,
    /// Room whose writer gave up: no bytes of anybody.
    Void = 2,
    /// A start mark and the user's own bytes.
    Checkpoint = 3,
}

impl RecordKind {
    const fn bits(self) -> u32 {
        match self {
            Self::Data => 1 << KIND_SHIFT,
            Self::Void => 2 << KIND_SHIFT,
            Self::Checkpoint => 3 << KIND_SHIFT,
        }
    }

    const fn from_tag(tag: u32) -> Option<Self> {
        match (tag >> KIND_SHIFT) & 3 {
            1 => Some(Self::Data),
            2 => Some(Self::Void),
            3 => Some(Self::Checkpoint),
            _ => None,
        }
    }
}

/// Whether more records of the same batch follow a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Position {
    /// More records of the batch follow.
    Inner,
    /// The batch ends here; a record alone is a batch.
    Last,
}

/// What binds the records of one writer (one open for writing) to their log and to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterSeed(u32);

impl WriterSeed {
    /// The seed of the writer that opened `log` as `epoch` and drew `incarnation`.
    #[must_use]
    pub fn new(log: LogId, epoch: u64, incarnation: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&log.0);
        if !planted!("record-sum-without-writer") {
            hasher.update(&epoch.to_le_bytes());
            hasher.update(&incarnation.to_le_bytes());
        }
        Self(hasher.finalize())
    }

    /// The seed of the record at `lsn`.
    #[expect(clippy::as_conversions, reason = "the shift leaves 32 bits")]
    fn at(self, lsn: Lsn) -> u32 {
        if planted!("record-sum-without-place") {
            return self.0;
        }
        let writer = u64::from(self.0);
        let place = ((writer << 32) | writer) ^ lsn.get();
        (place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }
}

/// The room that a record with a payload of `payload_bytes` takes in a frame: header, payload and
/// zeros up to a multiple of 8.
///
/// # Panics
/// If `payload_bytes` is above [`RECORD_PAYLOAD_MAX`].
#[must_use]
#[inline]
pub const fn record_bytes(payload_bytes: usize) -> usize {
    assert!(
        payload_bytes <= RECORD_PAYLOAD_MAX,
        "a payload's length is checked before it gets here"
    );
    RECORD_HEADER_BYTES + payload_bytes.next_multiple_of(RECORD_ALIGN)
}

/// Completes the record at `lsn` in `room`, whose payload of `payload_bytes` is already in place
/// after the header: writes the zeros, the tag and the CRC.
///
/// # Panics
/// If `room` is not exactly [`record_bytes`] long.
#[inline]
pub fn encode_record(
    room: &mut [u8],
    seed: WriterSeed,
    lsn: Lsn,
    kind: RecordKind,
    payload_bytes: usize,
) {
    encode(room, seed, lsn, kind, Position::Last, payload_bytes);
}

#[inline]
pub(crate) fn encode(
    room: &mut [u8],
    seed: WriterSeed,
    lsn: Lsn,
    kind: RecordKind,
    position: Position,
    payload_bytes: usize,
) {
    assert!(room.len() == record_bytes(payload_bytes), "a record fills its room exactly");
    room[RECORD_HEADER_BYTES + payload_bytes..].fill(0);
    let more = match position {
        Position::Inner => MORE,
        Position::Last => 0,
    };
    #[expect(clippy::as_conversions, reason = "record_bytes bounds the length to 28 bits")]
    let tag = payload_bytes as u32 | kind.bits() | more;
    put(room, TAG, tag.to_le_bytes());
    let crc = crc(seed.at(lsn), &room[TAG..]);
    put(room, CRC, crc.to_le_bytes());
}

#[inline]
fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// A record of a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<'a> {
    /// Where it stands.
    pub lsn: Lsn,
    /// What it is.
    pub kind: RecordKind,
    /// Whether more records of the same batch follow.
    pub more: bool,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// The records of a frame, in order.
///
/// Made only from a frame whose every record was checked, so stepping cannot fail.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    // Invariant: a whole number of records, each checked by `Records::check`.
    rest: &'a [u8],
    lsn: Lsn,
}

impl<'a> Records<'a> {
    /// Checks that `payload` is exactly `count` valid records, the first one at `lsn`.
    pub(super) fn check(
        payload: &'a [u8],
        lsn: Lsn,
        seed: WriterSeed,
        count: u32,
    ) -> Result<Self, Fault> {
        let mut rest = payload;
        let mut at = lsn;
        let mut found = 0_u32;
        let mut more = false;
        while !rest.is_empty() {
            let (record, bytes) = check_one(rest, at, seed)?;
            more = record.more;
            found += 1;
            rest = &rest[bytes..];
            at = advance(at, bytes);
        }
        if found != count {
            return Err(Fault::RecordCount { expected: count, found });
        }
        if more {
            return Err(Fault::BatchOpen);
        }
        // Invariant: the loop went over all of `payload`, record by record.
        Ok(Self { rest: payload, lsn })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (record, bytes) = parse(self.rest, self.lsn)?;
        self.rest = self.rest.get(bytes..)?;
        self.lsn = advance(self.lsn, bytes);
        Some(record)
    }
}

/// The record at the start of `rest` and the room it takes, without looking at its CRC.
#[inline]
pub(crate) fn parse(rest: &[u8], lsn: Lsn) -> Option<(Record<'_>, usize)> {
    if rest.len() < RECORD_HEADER_BYTES {
        return None;
    }
    let tag = u32::from_le_bytes(get(rest, TAG));
    let kind = RecordKind::from_tag(tag)?;
    if tag & UNUSED != 0 {
        return None;
    }
    let length = usize::try_from(tag & ((1 << LENGTH_BITS) - 1)).ok()?;
    let bytes = record_bytes(length);
    let payload = rest.get(..bytes)?.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length)?;
    Some((Record { lsn, kind, more: tag & MORE != 0, payload }, bytes))
}

fn check_one(rest: &[u8], lsn: Lsn, seed: WriterSeed) -> Result<(Record<'_>, usize), Fault> {
    let (record, bytes) = parse(rest, lsn).ok_or(Fault::RecordHeader { lsn })?;
    let expected = crc(seed.at(lsn), &rest[TAG..bytes]);
    let found = u32::from_le_bytes(get(rest, CRC));
    if expected != found && !planted!("record-sum-not-checked") {
        return Err(Fault::RecordCrc { lsn, expected, found });
    }
    Ok((record, bytes))
}

/// Inside a segment, whose end is a valid Lsn: cannot overflow.
#[expect(clippy::as_conversions, reason = "usize is at most 64 bits wide")]
fn advance(lsn: Lsn, bytes: usize) -> Lsn {
    Lsn::new(lsn.get().wrapping_add(bytes as u64))
}

const _: () = assert!(TAG + 4 == RECORD_HEADER_BYTES);
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(KIND_SHIFT + 2 == MORE.trailing_zeros() && MORE << 1 == UNUSED);
