//! [`Slot`]: what stands where in a log that nobody writes to, by its bytes alone; and where that is on the
//! device.

use super::{Stop, mapped::program};
use std::{fs, io, ops::Range, path::PathBuf};
use wal::format::{FrameHeader, Identity, SegmentHeader};

pub(super) const BLOCK_BYTES: u64 = 4096;

const SECTOR_BYTES: u64 = 512;
const SECTORS_OF_BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES;

/// What the log names its files.
const IDENTITY_NAME: &str = "identity";
const SLOT_PREFIX: &str = "slot-";

/// A slot's file.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) path: PathBuf,
    /// The sequence of the segment in it.
    pub(super) sequence: Option<u64>,
    /// Its frames, in bytes of the file.
    pub(super) frames: Vec<Range<u64>>,
    pub(super) bytes: u64,
    extents: Vec<Extent>,
}

/// A stretch of a file, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    logical: u64,
    physical: u64,
    count: u64,
}

impl Slot {
    /// All of the log in `directory`, those of the lowest segments first.
    pub(super) fn all(directory: &std::path::Path) -> Result<Vec<Self>, Stop> {
        let identity = fs::read(directory.join(IDENTITY_NAME))?;
        let identity = Identity::decode(&identity)
            .map_err(|fault| Stop::Bad(format!("the identity: {fault:?}")))?;
        let mut slots = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(SLOT_PREFIX) {
                slots.push(Self::read(entry.path(), &identity)?);
            }
        }
        slots.sort_by_key(|slot| slot.sequence);
        Ok(slots)
    }

    fn read(path: PathBuf, identity: &Identity) -> Result<Self, Stop> {
        let file = fs::read(&path)?;
        let bytes = u64::try_from(file.len()).map_err(io::Error::other)?;
        let text = program("filefrag", &["-b512", "-v", &path.to_string_lossy()])?;
        let extents: Vec<_> = text.lines().filter_map(Extent::parse).collect();
        let header = file.first_chunk::<4096>();
        let header = header.and_then(|block| SegmentHeader::decode(identity, block).ok());
        let mut frames = Vec::new();
        let mut offset = BLOCK_BYTES;
        while let Some(header) = &header
            && let Some(block) = usize::try_from(offset).ok().and_then(|at| file.get(at..))
            && let Ok((frame, _)) = FrameHeader::decode(identity.log_id, block)
            && frame.lsn.get() == header.base.get() + offset
        {
            let end = offset + frame.frame_bytes(identity.block_bytes);
            frames.push(offset..end);
            offset = end;
        }
        let sequence = header.map(|header| header.sequence);
        Ok(Self { path, sequence, frames, bytes, extents })
    }

    /// The file's name.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The end of its frames: of its header, if it has none.
    pub(super) fn end(&self) -> u64 {
        self.frames.last().map_or(BLOCK_BYTES, |frame| frame.end)
    }

    /// The device's block at `offset`.
    pub(super) fn device_block(&self, offset: u64) -> io::Result<u64> {
        let sector = offset / SECTOR_BYTES;
        self.extents
            .iter()
            .find(|extent| (extent.logical..extent.logical + extent.count).contains(&sector))
            .map(|extent| (extent.physical + sector - extent.logical) / SECTORS_OF_BLOCK)
            .ok_or_else(|| {
                io::Error::other(format!("{} has no extent at {offset}", self.path.display()))
            })
    }
}

impl Extent {
    /// Of a line of `filefrag -v`, if it is one.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(':');
        parts.next()?.trim().parse::<u64>().ok()?;
        let mut start = || parts.next()?.split("..").next()?.trim().parse::<u64>().ok();
        let (logical, physical) = (start()?, start()?);
        let count = parts.next()?.trim().parse().ok()?;
        Some(Self { logical, physical, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read_as_filefrag_prints_them() {
        let text = "Filesystem type is: ef53\n\
            File size of slot-000000 is 131072 (256 blocks of 512 bytes)\n \
            ext:     logical_offset:        physical_offset: length:   expected: flags:\n   \
            0:        0..     127:      34816..     34943:    128:\n   \
            1:      128..     255:      40000..     40127:    128:      34944: last,eof\n\
            slot-000000: 2 extents found\n";
        let extents: Vec<_> = text.lines().filter_map(Extent::parse).collect();
        let extent = |logical, physical| Extent { logical, physical, count: 128 };
        assert_eq!(extents, [extent(0, 34816), extent(128, 40000)]);
        let slot = Slot {
            path: PathBuf::from("slot-000000"),
            sequence: None,
            frames: Vec::new(),
            bytes: 131_072,
            extents,
        };
        assert_eq!(slot.device_block(512 * 136).unwrap(), 5001);
        assert!(slot.device_block(131_072).is_err());
    }
}
