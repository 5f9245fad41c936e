//! The files of a log as bytes, and the frames in them as a child would find them: by walking from
//! block to block.

use std::collections::BTreeMap;
use wal::{
    LogId, Lsn,
    format::{FRAME_HEADER_BYTES, Frame, FrameHeader, Identity, RecordKind, SegmentHeader},
};

/// The names and bytes of all files of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// A frame that was written, and where.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) file: String,
    pub(super) offset: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) header: FrameHeader,
    pub(super) sequence: u64,
    /// Whether it is the first one of its segment.
    pub(super) is_first: bool,
    pub(super) has_checkpoint: bool,
    pub(super) records: Vec<(u64, Vec<u8>)>,
}

impl Known {
    pub(super) fn lsn(&self) -> u64 {
        self.header.lsn.get()
    }

    pub(super) fn end(&self) -> u64 {
        self.lsn() + widen(self.bytes.len())
    }
}

impl Image {
    /// What its identity file says, if it is whole.
    pub(super) fn identity(&self) -> Option<Identity> {
        Identity::decode(self.files.get("identity")?).ok()
    }

    /// The files that are slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.files.iter().filter(|(name, _)| name.starts_with("slot-"))
    }

    /// Which segment the first block of `bytes` says that it begins.
    pub(super) fn segment(identity: &Identity, bytes: &[u8]) -> Option<SegmentHeader> {
        SegmentHeader::decode(identity, bytes).ok()
    }

    /// All frames of an undamaged log from the oldest segment that is still there without a gap,
    /// in order.
    pub(super) fn frames(&self) -> Vec<Known> {
        let Some(identity) = self.identity() else { return Vec::new() };
        // Two slots can say that they are one segment: the log took one of them, and left the other.
        let mut homes: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (name, bytes) in self.slots() {
            if let Some(header) = Self::segment(&identity, bytes) {
                homes.entry(header.sequence).or_default().push((name, bytes));
            }
        }
        let Some((top, _)) = homes.last_key_value() else { return Vec::new() };
        let oldest = (0..=*top).rev().take_while(|sequence| homes.contains_key(sequence)).last();
        let mut frames: Vec<Known> = Vec::new();
        for sequence in oldest.unwrap_or(*top)..=*top {
            let longest = |before: Option<&Known>| {
                let slots = homes[&sequence].iter();
                let found =
                    slots.map(|(name, bytes)| walk(&identity, sequence, name, bytes, before));
                found.max_by_key(Vec::len).unwrap_or_default()
            };
            let found = longest(frames.last());
            if !found.is_empty() {
                frames.extend(found);
                continue;
            }
            // Not the next one of what is before: a ghost that an earlier life cut, or all before
            // was released and then damaged.
            let found = longest(None);
            let epoch = frames.last().map_or(0, |last| last.header.epoch);
            if found.first().is_some_and(|first| first.header.epoch >= epoch) {
                frames = found;
            }
        }
        frames
    }
}

fn walk(
    identity: &Identity,
    sequence: u64,
    file: &str,
    bytes: &[u8],
    before: Option<&Known>,
) -> Vec<Known> {
    let block = narrow(identity.block_bytes.into());
    let base = sequence * identity.segment_bytes;
    let mut found: Vec<Known> = Vec::new();
    let mut offset = block;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let lsn = Lsn::new(base + widen(offset));
        let frame = Frame::check(identity.log_id, lsn, identity.block_bytes, rest);
        let Ok(frame) = frame else { break };
        let last = found.last().or(before);
        let follows = |known: &Known| {
            let crc = crc_field(&known.bytes);
            frame.header.follows(&known.header, crc)
        };
        if !last.is_none_or(follows) {
            break;
        }
        let length = narrow(frame.header.frame_bytes(identity.block_bytes));
        let known = Known {
            file: file.to_owned(),
            offset,
            bytes: rest[..length].to_vec(),
            header: frame.header,
            sequence,
            is_first: found.is_empty(),
            has_checkpoint: frame.records().any(|record| record.kind == RecordKind::Checkpoint),
            records: frame
                .records()
                .filter(|record| record.kind == RecordKind::Data)
                .map(|record| (record.lsn.get(), record.payload.to_vec()))
                .collect(),
        };
        offset += length;
        found.push(known);
    }
    found
}

/// The CRC field of a frame's header.
pub(super) fn crc_field(frame: &[u8]) -> u32 {
    frame[4..8].try_into().map_or(0, u32::from_le_bytes)
}

/// What proves, in a damaged log, that all below some place was durable: the highest durable mark of
/// the `frames` it once had whose header still stands where it was, and that a segment is prepared
/// only when the one before it holds a durable frame.
pub(super) fn proven(image: &Image, identity: &Identity, frames: &[Known]) -> u64 {
    let mut proven = 0;
    for (_, bytes) in image.slots() {
        let segment = Image::segment(identity, bytes).map(|header| header.sequence);
        for known in frames {
            let is_home = segment.is_none_or(|sequence| sequence == known.sequence);
            let header = bytes.get(known.offset..known.offset + FRAME_HEADER_BYTES);
            if is_home && header == Some(&known.bytes[..FRAME_HEADER_BYTES]) {
                proven = proven.max(known.header.durable_mark.get());
            }
            if known.is_first && segment == Some(known.sequence + 1) {
                proven = proven.max(known.end());
            }
        }
    }
    proven
}

/// The log's id, or zeros where nothing says it.
pub(super) fn log_id(image: &Image) -> LogId {
    image.identity().map_or(LogId([0; 16]), |identity| identity.log_id)
}

/// In-memory lengths as file offsets.
pub(super) fn widen(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// File offsets as in-memory lengths.
pub(super) fn narrow(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
