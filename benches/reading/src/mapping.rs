//! [`Mapping`]: a segment in memory that the kernel fills when it is looked at.

use std::{ffi::c_void, fs::File, io, ptr, ptr::NonNull, slice};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::sealed::Segment;

/// When pages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paging {
    /// When they are touched, with those that the kernel reads ahead of them.
    Touched,
    /// All of them before the mapping is there.
    Populated,
}

/// A segment's bytes, mapped for reading.
#[derive(Debug)]
pub(crate) struct Mapping {
    // Invariant: the start of a readable mapping of `bytes` bytes, not zero, that this value alone
    // unmaps.
    start: NonNull<c_void>,
    bytes: usize,
}

impl Mapping {
    pub(crate) fn of(segment: &Segment, paging: Paging) -> io::Result<Self> {
        let file = File::open(segment.path())?;
        let bytes = segment.bytes();
        let flags = match paging {
            Paging::Touched => MapFlags::SHARED,
            Paging::Populated => MapFlags::SHARED | MapFlags::POPULATE,
        };
        // SAFETY: without MAP_FIXED and with a null hint the kernel chooses free addresses: no existing
        // mapping changes.
        let start = unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::READ, flags, &file, 0) }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        // Invariant: just mapped. From here on every return without it unmaps it.
        let mapping = Self { start, bytes };
        if paging == Paging::Touched {
            // SAFETY: the range is the mapping made above; the advice changes no byte of it.
            unsafe { madvise(start.as_ptr(), bytes, Advice::Sequential) }?;
        }
        Ok(mapping)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let start = self.start.as_ptr().cast();
        // SAFETY: the mapping lives as long as `self` and is readable over `bytes` bytes (invariant),
        // fewer than isize::MAX, for the kernel gave them; any byte is a valid u8. The file is this
        // program's own, as long as this at least, and nobody writes or shortens it meanwhile
        // (invariant of `Segment`).
        unsafe { slice::from_raw_parts(start, self.bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // A drop neither panics nor reports: at worst the mapping stays until the process ends.
        // SAFETY: mapped in `of` with this length, unmapped nowhere else, and no reference outlives
        // `self`.
        let _ = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    }
}
