//! Checksums made to fit again, so that a changed field is believed and what lies behind it is
//! reached. Written from the specification; only the checksum itself is shared with the engine.

use wal::{
    LogId,
    format::{FRAME_HEADER_BYTES, RECORD_HEADER_BYTES},
};

/// The width of a field on disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Width {
    One,
    Two,
    Four,
    Eight,
}

/// A field: where it begins, and how wide it is.
pub(super) type Field = (usize, Width);

/// The fields of an identity.
pub(super) const IDENTITY: &[Field] = &[
    (0, Width::Eight),
    (12, Width::Two),
    (14, Width::Two),
    (16, Width::Eight),
    (32, Width::Eight),
    (40, Width::Four),
    (44, Width::Four),
    (48, Width::Eight),
    (56, Width::Eight),
];

/// The fields of a segment header.
pub(super) const SEGMENT: &[Field] = &[
    (0, Width::Eight),
    (12, Width::Two),
    (14, Width::One),
    (15, Width::One),
    (16, Width::Eight),
    (32, Width::Eight),
    (40, Width::Eight),
    (48, Width::Eight),
    (56, Width::Four),
    (60, Width::Four),
    (64, Width::Eight),
];

/// The fields of a frame header.
pub(super) const FRAME: &[Field] = &[
    (0, Width::Four),
    (8, Width::Eight),
    (16, Width::Four),
    (20, Width::Four),
    (24, Width::Eight),
    (32, Width::Eight),
    (40, Width::Eight),
    (48, Width::Eight),
    (56, Width::Four),
    (60, Width::Four),
];

const CRC_OF_BLOCK: usize = 8;
const CRC_OF_FRAME: usize = 4;

/// Writes `value` to `field`, as much of it as fits.
pub(super) fn set(bytes: &mut [u8], field: Field, value: u64) {
    let (offset, width) = field;
    let width = match width {
        Width::One => 1,
        Width::Two => 2,
        Width::Four => 4,
        Width::Eight => 8,
    };
    if let Some(place) = bytes.get_mut(offset..offset + width) {
        place.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

/// Seals an identity file or the block of a segment header.
pub(super) fn seal_block(block: &mut [u8]) {
    if block.len() > CRC_OF_BLOCK + 4 {
        let crc = crc32fast::hash(&block[CRC_OF_BLOCK + 4..]);
        block[CRC_OF_BLOCK..CRC_OF_BLOCK + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Seals a frame's header and answers its CRC.
pub(super) fn seal_header(log: LogId, frame: &mut [u8]) -> u32 {
    let Some(header) = frame.get_mut(..FRAME_HEADER_BYTES) else { return 0 };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log.0);
    hasher.update(&header[CRC_OF_FRAME + 4..]);
    let crc = hasher.finalize();
    header[CRC_OF_FRAME..CRC_OF_FRAME + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Seals the records of a frame, as far as their lengths lead, for the writer that its header names.
pub(super) fn seal_records(log: LogId, frame: &mut [u8]) {
    if frame.len() < FRAME_HEADER_BYTES {
        return;
    }
    let lsn = u64_at(frame, 8);
    let payload = usize::try_from(u32_at(frame, 16)).unwrap_or(usize::MAX);
    let end = FRAME_HEADER_BYTES.saturating_add(payload).min(frame.len());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log.0);
    hasher.update(&frame[32..48]);
    let writer = u64::from(hasher.finalize());
    let mut at = FRAME_HEADER_BYTES;
    while at + RECORD_HEADER_BYTES <= end {
        let tag = u32_at(frame, at + 4);
        let length = usize::try_from(tag & 0x0fff_ffff).unwrap_or(usize::MAX);
        let next = at + RECORD_HEADER_BYTES + length.next_multiple_of(8);
        if next > end {
            return;
        }
        let place = lsn.wrapping_add(u64::try_from(at).unwrap_or(u64::MAX));
        let mixed = (((writer << 32) | writer) ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let seed = u32::try_from(mixed >> 32).unwrap_or_default();
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(&frame[at + 4..next]);
        let crc = hasher.finalize();
        frame[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        at = next;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|field| field.try_into().ok()).map_or(0, u64::from_le_bytes)
}
