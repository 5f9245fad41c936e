//! Which sectors of which writes are the log's own: [`Tearable`].

use super::{
    event::{Content, Event},
    state::SECTOR_BYTES,
};
use std::{collections::BTreeMap, ops::Range};
use wal::format::{BLOCK_BYTES_DEFAULT, FrameHeader, Identity, SegmentHeader};

const BLOCK_BYTES: usize = 4096;

/// The sectors of each write that may be torn: those in which the log's own frames and segment
/// headers stand, recognised by their checksums. A write of the file system is never among them, nor
/// is one of a log of another kind.
#[derive(Debug, Default)]
pub(super) struct Tearable(BTreeMap<usize, Vec<Range<usize>>>);

impl Tearable {
    pub(super) fn find(events: &[Event]) -> Self {
        let writes = || {
            events.iter().enumerate().filter_map(|(number, event)| match event {
                Event::Write { content: Content::Bytes(bytes), .. } => Some((number, &bytes[..])),
                _ => None,
            })
        };
        let identity = writes()
            .flat_map(|(_, bytes)| bytes.chunks_exact(BLOCK_BYTES))
            .find_map(|block| Identity::decode(block).ok());
        let Some(identity) = identity else { return Self::default() };
        Self(
            writes()
                .map(|(number, bytes)| (number, log_sectors(&identity, bytes)))
                .filter(|(_, sectors)| !sectors.is_empty())
                .collect(),
        )
    }

    #[cfg(test)]
    pub(super) fn from_sectors(sectors: impl IntoIterator<Item = (usize, Range<usize>)>) -> Self {
        Self(sectors.into_iter().map(|(write, range)| (write, vec![range])).collect())
    }

    /// Those of the write that is event number `write`.
    pub(super) fn sectors(&self, write: usize) -> &[Range<usize>] {
        self.0.get(&write).map_or(&[], Vec::as_slice)
    }
}

fn log_sectors(identity: &Identity, bytes: &[u8]) -> Vec<Range<usize>> {
    let mut sectors = Vec::new();
    let mut start = 0;
    while let Some(block) = bytes.get(start..start + BLOCK_BYTES) {
        let length = if let Ok((header, _)) = FrameHeader::decode(identity.log_id, block) {
            usize::try_from(header.frame_bytes(BLOCK_BYTES_DEFAULT)).unwrap_or(BLOCK_BYTES)
        } else if SegmentHeader::decode(identity, block).is_ok() {
            BLOCK_BYTES
        } else {
            start += BLOCK_BYTES;
            continue;
        };
        // A frame may go on in the next write: the kernel splits long ones.
        let end = (start + length).min(bytes.len());
        sectors.push(start / SECTOR_BYTES..end / SECTOR_BYTES);
        start = end;
    }
    sectors
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal::format::LogId;

    #[test]
    fn only_the_log_is_torn() {
        let identity = Identity::new(LogId([7; 16]), 1 << 16, 4096, 0).unwrap();
        let mut file = vec![0; BLOCK_BYTES];
        identity.encode(&mut file);
        // Another block, a frame of two blocks, another block.
        let mut mixed = vec![0xAA; 4 * BLOCK_BYTES];
        let header = FrameHeader {
            lsn: wal::Lsn::new(4096),
            payload_bytes: 5000,
            record_count: 1,
            first_ordinal: 0,
            epoch: 1,
            incarnation: 1,
            durable_mark: wal::Lsn::new(4096),
            previous_crc: 0,
            purpose: wal::format::Purpose::Records,
        };
        header.encode(identity.log_id, &mut mixed[BLOCK_BYTES..]);
        let write = |bytes: &[u8]| Event::Write { offset: 0, content: Content::of(bytes) };
        let events = [write(&[0xAA; 8192]), write(&file), write(&mixed)];
        let tearable = Tearable::find(&events);
        assert!(tearable.sectors(0).is_empty());
        assert!(tearable.sectors(1).is_empty());
        assert_eq!(tearable.sectors(2).first(), Some(&(8..24)));
        assert_eq!(tearable.sectors(2).len(), 1);
    }

    #[test]
    fn without_a_log_nothing_is_torn() {
        let write = Event::Write { offset: 0, content: Content::of(&[1; 4096]) };
        assert!(Tearable::find(&[write]).sectors(0).is_empty());
    }
}
