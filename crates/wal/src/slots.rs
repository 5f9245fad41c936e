//! Slots: the files of segments. Mechanics only; who uses which slot for what is decided above.

use crate::{
    Lsn,
    format::{Identity, Origin, SegmentHeader},
    io::{Access, File, Storage},
};
use aligned::{Alignment, Buffer};
use std::{fmt, io, ops::ControlFlow, sync::Arc};

/// How much is zeroed between two calls of the pacer: on the disk measured, beside a lone durable
/// writer, steps of 1 MiB every 10 ms moved its 99th percentile from 139 to 175 µs.
pub(crate) const ZERO_STEP_BYTES: u64 = 1 << 20;

const NAME_PREFIX: &str = "slot-";

/// A segment's file. Its name never changes.
pub(crate) struct Slot<F> {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) file: F,
}

/// A slot that holds the stretch of the log from `base` on.
pub(crate) struct Segment<F> {
    pub(crate) sequence: u64,
    pub(crate) base: Lsn,
    pub(crate) slot: Arc<Slot<F>>,
}

/// A slot that holds nothing that the log needs.
pub(crate) struct FreeSlot<F> {
    pub(crate) slot: Arc<Slot<F>>,
    /// `Zeroed` only if every byte of it is known to be zero.
    pub(crate) origin: Origin,
    /// Whether it has a segment's length, all of it written once.
    pub(crate) full: bool,
}

impl<F: File> Slot<F> {
    /// Creates the file of slot `number`, empty. The name is durable after
    /// [`Storage::sync_dir`].
    pub(crate) fn create<S: Storage<File = F>>(storage: &S, number: u32) -> io::Result<Self> {
        let name = slot_name(number);
        let file = storage.create_file(&name)?;
        Ok(Self { number, name, file })
    }

    /// Opens the file of slot `number`, which exists.
    pub(crate) fn open<S: Storage<File = F>>(
        storage: &S,
        number: u32,
        access: Access,
    ) -> io::Result<Self> {
        let name = slot_name(number);
        let file = storage.open(&name, access)?;
        Ok(Self { number, name, file })
    }

    /// Writes zeros over the whole segment, durable after [`File::sync`]. `pace` is called after
    /// each step with the bytes done so far and may end the work, to which the answer is `Break`.
    pub(crate) fn fill_with_zeros(
        &self,
        alignment: Alignment,
        segment_bytes: u64,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        if self.file.write_zeroes(0, segment_bytes)? {
            return Ok(pace(segment_bytes));
        }
        let step = usize::try_from(ZERO_STEP_BYTES.min(segment_bytes)).unwrap_or(usize::MAX);
        let mut zeros = Buffer::zeroed(alignment, step).map_err(io::Error::from)?;
        let mut done = 0;
        while done < segment_bytes {
            let bytes = ZERO_STEP_BYTES.min(segment_bytes - done);
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            self.file.write_at(&zeros.as_mut_slice()[..length], done)?;
            done += bytes;
            if pace(done).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Makes the slot segment `sequence`: writes its header, durable when this returns `Ok`.
    pub(crate) fn write_header(
        &self,
        alignment: Alignment,
        identity: &Identity,
        sequence: u64,
        origin: Origin,
    ) -> io::Result<SegmentHeader> {
        let header = SegmentHeader::new(identity, sequence, origin)
            .ok_or_else(|| io::Error::other("the 64-bit log is full"))?;
        let bytes = usize::try_from(identity.block_bytes).unwrap_or(usize::MAX);
        let mut block = Buffer::zeroed(alignment, bytes).map_err(io::Error::from)?;
        let block = &mut block.as_mut_slice()[..bytes];
        header.encode(identity, block);
        self.file.write_durable_at(block, 0)?;
        Ok(header)
    }
}

impl<F> Segment<F> {
    /// The segment whose header was found in, or written to, `slot`.
    pub(crate) fn new(header: &SegmentHeader, slot: Arc<Slot<F>>) -> Self {
        Self { sequence: header.sequence, base: header.base, slot }
    }

    /// The first position behind the segment.
    pub(crate) fn end(&self, identity: &Identity) -> Lsn {
        // Cannot overflow: `SegmentHeader` has no sequence whose end is past the 64-bit log.
        Lsn::new(self.base.get().saturating_add(identity.segment_bytes))
    }
}

impl<F> FreeSlot<F> {
    /// A slot whose segment was released.
    pub(crate) fn released(slot: Arc<Slot<F>>) -> Self {
        Self { slot, origin: Origin::Recycled, full: true }
    }
}

impl<F> Clone for Segment<F> {
    fn clone(&self) -> Self {
        Self { sequence: self.sequence, base: self.base, slot: Arc::clone(&self.slot) }
    }
}

impl<F> fmt::Debug for Slot<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl<F> fmt::Debug for Segment<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} in {}", self.sequence, self.slot.name)
    }
}

impl<F> fmt::Debug for FreeSlot<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}, full {}", self.slot.name, self.origin, self.full)
    }
}

/// The name of slot `number`.
pub(crate) fn slot_name(number: u32) -> String {
    format!("{NAME_PREFIX}{number:06}")
}

/// The slot that a file of this name is; `None` unless it is exactly a slot's name.
pub(crate) fn slot_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix(NAME_PREFIX)?.parse().ok()?;
    (slot_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::LogId, io::Memory};

    #[test]
    fn only_exact_names_are_slots() {
        for number in [0, 1, 999_999, 1_000_000, u32::MAX] {
            assert_eq!(slot_number(&slot_name(number)), Some(number));
        }
        for name in ["slot-", "slot-1", "slot-+00001", "slot-0000001", "slot-000001.tmp", "slot"] {
            assert_eq!(slot_number(name), None, "{name}");
        }
    }

    #[test]
    fn zeros_stop_when_the_pacer_says_so() {
        let storage = Memory::new();
        storage.create().unwrap();
        let slot = Slot::create(&storage, 0).unwrap();
        let bytes = 3 * ZERO_STEP_BYTES;
        let mut calls = Vec::new();
        let flow = slot.fill_with_zeros(storage.alignment(), bytes, &mut |done| {
            calls.push(done);
            ControlFlow::Break(())
        });
        assert_eq!(flow.unwrap(), ControlFlow::Break(()));
        assert_eq!(calls.len(), 1);
    }

    #[test]
    fn a_header_written_is_a_header_read() {
        let storage = Memory::new();
        storage.create().unwrap();
        let slot = Slot::create(&storage, 7).unwrap();
        let identity = Identity::new(LogId([3; 16]), 1 << 16, 4096, 0).unwrap();
        let header =
            slot.write_header(storage.alignment(), &identity, 5, Origin::Recycled).unwrap();
        let mut block = Buffer::zeroed(storage.alignment(), 4096).unwrap();
        assert_eq!(slot.file.read_at(block.as_mut_slice(), 0).unwrap(), 4096);
        assert_eq!(SegmentHeader::decode(&identity, block.as_mut_slice()), Ok(header));
        assert_eq!(header.base, Lsn::new(5 << 16));
    }
}
