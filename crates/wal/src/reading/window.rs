//! [`Window`]: a stretch of one file in aligned memory.

use super::memory;
use crate::io::File;
use aligned::{Alignment, Buffer};
use std::{io, ops::Range};

/// What is read at once.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// The memory of a window whose frames are not larger: a chunk, and as much again for what is left
/// of the one before.
const CAPACITY_BYTES: usize = 2 * CHUNK_BYTES;

/// Consecutive bytes of one file: those that were read and are still wanted.
#[derive(Debug)]
pub(crate) struct Window {
    alignment: Alignment,
    capacity_max: usize,
    buffer: Option<Buffer>,
    /// The buffer of a frame that was larger than a chunk's headroom, for the next one.
    spare: Option<Buffer>,
    /// Where in the buffer the window begins. Invariant: `start + len` is in the buffer, and both
    /// are multiples of the alignment.
    start: usize,
    len: usize,
    /// Where in the file the window begins.
    offset: u64,
    /// A chunk up to here could not be read whole: reads that begin below ask for no more than is
    /// needed, so that one bad sector costs the frame that it is in and no other.
    careful_until: u64,
    bytes_read: u64,
}

impl Window {
    /// An empty window over files of at most `file_bytes`. Memory is taken at the first use.
    pub(super) fn new(alignment: Alignment, file_bytes: u64) -> Self {
        let file_bytes = usize::try_from(file_bytes).unwrap_or(usize::MAX);
        Self {
            alignment,
            capacity_max: CAPACITY_BYTES.min(file_bytes),
            buffer: None,
            spare: None,
            start: 0,
            len: 0,
            offset: 0,
            careful_until: 0,
            bytes_read: 0,
        }
    }

    /// Forgets its bytes: another file comes next, or the same one may have changed.
    pub(super) fn reset(&mut self) {
        (self.start, self.len, self.offset, self.careful_until) = (0, 0, 0, 0);
    }

    /// How much was read in all.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Where in [`Window::slice`]'s numbering the bytes from file offset `at` on are, as many as
    /// there are.
    #[inline]
    pub(super) fn find(&self, at: u64) -> Option<Range<usize>> {
        let skip = usize::try_from(at.checked_sub(self.offset)?).ok()?;
        (skip <= self.len).then(|| self.start + skip..self.start + self.len)
    }

    /// The place of the `bytes` bytes from file offset `at` on, if the window has them.
    #[inline]
    pub(super) fn get(&self, at: u64, bytes: usize) -> Option<Range<usize>> {
        let found = self.find(at)?;
        (found.len() >= bytes).then(|| found.start..found.start + bytes)
    }

    /// The bytes of a place that [`Window::get`] answered. Places go stale with the next
    /// [`Window::load`] or [`Window::install`].
    #[inline]
    pub(super) fn slice(&mut self, place: Range<usize>) -> &[u8] {
        match &mut self.buffer {
            Some(buffer) => buffer.as_mut_slice().get(place).unwrap_or_default(),
            None => &[],
        }
    }

    /// Reads on until the window has the `bytes` bytes from `at` on; never past `end`. A later
    /// [`Window::get`] that finds too few means that the file is shorter.
    pub(super) fn load(
        &mut self,
        file: &impl File,
        at: u64,
        bytes: usize,
        end: u64,
    ) -> io::Result<()> {
        let keep = self.compact(at, bytes)?;
        let from = at.saturating_add(widen(keep));
        let missing = bytes.saturating_sub(keep);
        let most = if from < self.careful_until { missing } else { missing.max(CHUNK_BYTES) };
        let left = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let Some(buffer) = &mut self.buffer else { return Ok(()) };
        let room = &mut buffer.as_mut_slice()[keep..];
        let most = most.min(left).min(room.len());
        let read = match file.read_at(&mut room[..most], from) {
            Err(_) if most > missing => {
                self.careful_until = from.saturating_add(widen(most));
                file.read_at(&mut room[..missing], from)?
            }
            answer => answer?,
        };
        self.bytes_read += widen(read);
        // What ends inside a block ends before it: no frame does.
        let read = read - read % self.alignment.bytes();
        self.len = keep + read;
        Ok(())
    }

    /// Moves what the window has from `at` on to the start of a buffer with room for `bytes`, and
    /// answers how much that is.
    fn compact(&mut self, at: u64, bytes: usize) -> io::Result<usize> {
        let kept = self.find(at).unwrap_or(0..0);
        let wanted = bytes.max(self.capacity_max);
        match &mut self.buffer {
            Some(buffer) if buffer.len() >= bytes => {
                buffer.as_mut_slice().copy_within(kept.clone(), 0);
            }
            held => {
                let mut larger = memory(self.alignment, wanted)?;
                if let Some(held) = held {
                    let bytes = &held.as_mut_slice()[kept.clone()];
                    larger.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
                }
                self.buffer = Some(larger);
            }
        }
        (self.start, self.len, self.offset) = (0, kept.len(), at);
        Ok(kept.len())
    }

    /// Takes over a chunk that somebody else read: `chunk.bytes` of the file from `chunk.offset`
    /// on, which continue the window or begin it. What the window still has from `at` on goes in
    /// front of it. Answers the buffers that are no longer needed.
    pub(super) fn install(
        &mut self,
        at: u64,
        bytes: usize,
        chunk: Filled,
    ) -> io::Result<[Option<Buffer>; 2]> {
        self.bytes_read += widen(chunk.bytes);
        let kept = match self.find(at) {
            Some(kept) if self.end() == chunk.offset => kept,
            _ => 0..0,
        };
        let fresh = chunk.bytes - chunk.bytes % self.alignment.bytes();
        let is_enough = kept.len() + fresh >= bytes;
        if kept.len() > chunk.headroom || !(is_enough || kept.is_empty()) {
            return self.collect(at, bytes, kept, chunk);
        }
        let Filled { mut buffer, headroom, offset, .. } = chunk;
        let start = headroom - kept.len();
        if let Some(old) = &mut self.buffer {
            let old = &old.as_mut_slice()[kept.clone()];
            buffer.as_mut_slice()[start..headroom].copy_from_slice(old);
        }
        (self.start, self.len) = (start, kept.len() + fresh);
        self.offset = offset - widen(kept.len());
        let pooled_bytes = buffer.len();
        match self.buffer.replace(buffer) {
            Some(old) if old.len() > pooled_bytes => {
                self.spare = Some(old);
                Ok([None, None])
            }
            old => Ok([old, None]),
        }
    }

    /// The second half of [`Window::install`], for a frame that is larger than the chunk's
    /// headroom: its pieces are collected in a buffer of its own, kept for the next such frame.
    fn collect(
        &mut self,
        at: u64,
        bytes: usize,
        kept: Range<usize>,
        chunk: Filled,
    ) -> io::Result<[Option<Buffer>; 2]> {
        let Filled { mut buffer, headroom, bytes: fresh, .. } = chunk;
        let fresh = fresh - fresh % self.alignment.bytes();
        let capacity = self.buffer.as_ref().map_or(0, Buffer::len);
        let is_collecting = self.start == 0 && self.offset == at && self.len + fresh <= capacity;
        let mut old = None;
        if !is_collecting {
            let most = bytes.max(kept.len() + fresh) + CHUNK_BYTES;
            let mut own = match self.spare.take() {
                Some(spare) if spare.len() >= most => spare,
                _ => memory(self.alignment, most)?,
            };
            if let Some(held) = &mut self.buffer {
                let held = &held.as_mut_slice()[kept.clone()];
                own.as_mut_slice()[..held.len()].copy_from_slice(held);
            }
            (self.start, self.len, self.offset) = (0, kept.len(), at);
            old = self.buffer.replace(own);
        }
        if let Some(own) = &mut self.buffer {
            let source = &buffer.as_mut_slice()[headroom..headroom + fresh];
            own.as_mut_slice()[self.len..self.len + fresh].copy_from_slice(source);
            self.len += fresh;
        }
        Ok([old, Some(buffer)])
    }

    /// The file offset behind the window's last byte.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(widen(self.len))
    }
}

/// A chunk of a file that was read into the middle of a buffer.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) buffer: Buffer,
    /// Where in the buffer the chunk begins.
    pub(super) headroom: usize,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// How much of it there was.
    pub(super) bytes: usize,
}

/// In-memory lengths as file offsets.
pub(super) fn widen(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
