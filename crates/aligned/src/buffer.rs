//! Aligned, zeroed memory that several threads fill at once.

use std::{
    alloc::Layout,
    error, fmt, io,
    ops::{Deref, DerefMut},
};

use crate::{alignment::Alignment, raw::Span};

/// Owned memory whose address and length are multiples of its [`Alignment`], zeroed.
///
/// It is either an allocation of its own ([`Buffer::zeroed`]) or lent by a [`Pool`](crate::Pool),
/// to which it returns when it is dropped. A pooled buffer that is forgotten
/// ([`mem::forget`](std::mem::forget)) is lost to its pool, nothing worse.
///
/// # Filling it
///
/// Several threads may fill a shared buffer at once: [`reserve`](Buffer::reserve) moves a cursor
/// and lends what it passed over as a [`Room`]. No two rooms overlap, and a forgotten room merely
/// leaves its bytes as they were.
///
/// # Looking at it
///
/// Whatever looks at the bytes of the whole buffer takes `&mut self`, so that the borrow checker
/// proves that no room is still being written. For that reason there is no `as_slice(&self)` and
/// no `Deref`: while `&Buffer` is held, another thread may be writing to a room of it, and a
/// shared view of those bytes would be a data race.
///
/// ```
/// use aligned::{Alignment, Buffer};
///
/// let mut buffer = Buffer::zeroed(Alignment::SECTOR_512, 1000)?;
/// assert_eq!(buffer.len(), 1024);
///
/// let mut second = buffer.reserve(3).and_then(|_first| buffer.reserve(2)).unwrap();
/// second.copy_from_slice(b"hi");
/// assert_eq!(buffer.filled(), b"\0\0\0hi");
/// assert_eq!(buffer.padded(Alignment::SECTOR_512).len(), 512);
/// # Ok::<(), aligned::AllocError>(())
/// ```
///
/// ```compile_fail,E0502
/// # use aligned::{Alignment, Buffer};
/// let mut buffer = Buffer::zeroed(Alignment::SECTOR_512, 512)?;
/// let room = buffer.reserve(10);
/// buffer.filled(); // refused: the room is still borrowed
/// drop(room);
/// # Ok::<(), aligned::AllocError>(())
/// ```
pub struct Buffer {
    span: Span,
    // Invariant: every byte at or above the larger of the span's cursor and its `dirty` is zero. Rooms
    // lie below the cursor; whoever may write above it raises `dirty` first.
    //
    // Whether the user was shown all of it, so that the bytes above the cursor are theirs. Before that
    // those up to `dirty` may be left from the slot's earlier uses: they are zeroed when they are lent
    // or shown, and never seen before, but in a room of a `LentBuffer`. Zeroed there and not when the buffer
    // comes back: what is lent is filled next, so that its lines are wanted in the cache anyway, while
    // zeroing half a megabyte that was just written costs a tenth of a core at a gigabyte a second.
    is_shown: bool,
    alignment: Alignment,
}

impl Buffer {
    /// A buffer with an allocation of its own, of `bytes` bytes rounded up to a multiple of
    /// `alignment`. All its pages are touched here, none in the hot path. From 2 MiB on it is mapped by
    /// itself, in huge pages where the kernel has them, and the system's again when it is dropped.
    ///
    /// # Errors
    ///
    /// [`AllocErrorKind::TooLarge`] if the length overflows, [`AllocErrorKind::OutOfMemory`] if
    /// the system refuses. It never aborts the process.
    pub fn zeroed(alignment: Alignment, bytes: usize) -> Result<Self, AllocError> {
        let error = |kind| AllocError { kind, alignment, bytes, count: 1 };
        let layout = alignment
            .round_up(bytes)
            .and_then(|len| Layout::from_size_align(len, alignment.bytes()).ok())
            .ok_or(error(AllocErrorKind::TooLarge))?;
        let span = Span::zeroed(layout).ok_or(error(AllocErrorKind::OutOfMemory))?;
        // Invariant: a new allocation, all zero.
        Ok(Self { span, is_shown: false, alignment })
    }

    /// A buffer over an aligned slot of a pool, or over a span that was lent and came back.
    pub(crate) fn over(span: Span, alignment: Alignment) -> Self {
        // Invariant: what is not zero above the cursor is below what the span's user before said.
        Self { span, is_shown: false, alignment }
    }

    /// The span, which knows how far it was written.
    pub(crate) fn into_span(self) -> Span {
        self.span
    }

    /// The bytes reserved so far, also those whose room was never written.
    #[inline]
    pub fn filled(&mut self) -> &mut [u8] {
        let used = self.used();
        &mut self.span.bytes()[..used]
    }

    /// All bytes, reserved or not: to read a file into, for example. The cursor stays where it is.
    ///
    /// From here on the whole buffer counts as written, so [`clear`](Buffer::clear) and the return
    /// to a pool zero all of it, and a room reserved later need not begin as zeros.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        if !self.is_shown {
            let stale = self.used()..self.written();
            self.span.bytes()[stale].fill(0);
            self.span.set_dirty(self.len());
            self.is_shown = true;
        }
        self.span.bytes()
    }

    /// The bytes reserved so far and zeros up to the next multiple of `block`: what a write wants.
    ///
    /// The zeros cost nothing where nobody has written. What an earlier use or
    /// [`as_mut_slice`](Buffer::as_mut_slice) may have left in that stretch is zeroed now.
    ///
    /// # Panics
    ///
    /// If the next multiple lies behind the buffer's end, which cannot happen while
    /// [`len`](Buffer::len) is a multiple of `block`, as it is for any block up to
    /// [`alignment`](Buffer::alignment).
    #[inline]
    pub fn padded(&mut self, block: Alignment) -> &[u8] {
        let (used, len) = (self.used(), self.len());
        let end = block.round_up(used).filter(|&end| end <= len);
        let end = end.unwrap_or_else(|| panic!("no block of {block} bytes at {used} of {len}"));
        let stale = used..self.span.dirty().clamp(used, end);
        let bytes = &mut self.span.bytes()[..end];
        bytes[stale].fill(0);
        bytes
    }

    /// Zeroes whatever was written and moves the cursor back to the start, so that the buffer
    /// never shows bytes of an earlier use.
    #[inline]
    pub fn clear(&mut self) {
        let written = self.written();
        self.span.bytes()[..written].fill(0);
        // Invariant: all bytes are zero now.
        self.span.rewind();
        self.span.set_dirty(0);
        self.is_shown = false;
    }

    /// How far it may hold anything but zeros.
    fn written(&self) -> usize {
        self.span.dirty().max(self.used())
    }

    /// Lends the next `bytes` bytes, or `None`, and no change, if fewer than that are left.
    ///
    /// Lock-free: one load and one compare-and-exchange when nobody interferes. The bytes are
    /// zero, unless [`as_mut_slice`](Buffer::as_mut_slice) was used since the last
    /// [`clear`](Buffer::clear).
    #[inline]
    #[must_use]
    pub fn reserve(&self, bytes: usize) -> Option<Room<'_>> {
        let (offset, bytes) = self.span.carve(bytes)?;
        // What no earlier use reached is zero already, and what was shown is the user's own.
        let stale = if self.is_shown { 0 } else { self.span.dirty() };
        let stale = stale.saturating_sub(offset).min(bytes.len());
        bytes[..stale].fill(0);
        Some(Room { offset, bytes })
    }

    /// The length in bytes: a multiple of [`alignment`](Buffer::alignment). It never changes.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "is it no bytes long, or nothing reserved?")]
    pub fn len(&self) -> usize {
        self.span.len()
    }

    /// How many bytes were reserved. While others reserve, it may have grown already.
    #[inline]
    #[must_use]
    pub fn used(&self) -> usize {
        self.span.cursor()
    }

    /// How many bytes are left to reserve. While others reserve, it may have shrunk already.
    #[inline]
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.len() - self.used()
    }

    /// What its address and length are multiples of.
    #[inline]
    #[must_use]
    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Its number in its pool, from 0 to one below [`Pool::capacity`](crate::Pool::capacity), or
    /// `None` if it has an allocation of its own. It begins at that multiple of
    /// [`Pool::buffer_bytes`](crate::Pool::buffer_bytes) in [`Pool::region`](crate::Pool::region).
    #[inline]
    #[must_use]
    pub fn pool_index(&self) -> Option<u32> {
        // A pool has at most 65,536 buffers: never `None` for a pooled one.
        self.span.slot().and_then(|index| u32::try_from(index).ok())
    }
}

impl fmt::Debug for Buffer {
    /// Sizes only: the bytes may be being written, and are the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("used", &self.used())
            .field("alignment", &self.alignment.bytes())
            .field("pool_index", &self.pool_index())
            .finish()
    }
}

/// A stretch of a [`Buffer`] that only its holder can write. Dereferences to the bytes.
#[must_use = "its bytes are reserved: unwritten, they stay zero"]
pub struct Room<'a> {
    offset: usize,
    bytes: &'a mut [u8],
}

impl<'a> Room<'a> {
    /// Where in the buffer it begins, in bytes.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The bytes, for as long as the buffer is borrowed: to split between a header and a payload.
    #[inline]
    #[must_use]
    pub fn into_slice(self) -> &'a mut [u8] {
        self.bytes
    }
}

impl Deref for Room<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for Room<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl fmt::Debug for Room<'_> {
    /// Sizes only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, bytes } = self;
        f.debug_struct("Room").field("offset", offset).field("len", &bytes.len()).finish()
    }
}

/// Memory that could not be had. Converts to an [`io::Error`] of the matching kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    pub(crate) kind: AllocErrorKind,
    pub(crate) alignment: Alignment,
    pub(crate) bytes: usize,
    pub(crate) count: usize,
}

/// What to do about an [`AllocError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AllocErrorKind {
    /// Ask for less: the sizes overflow, or a pool was asked for more buffers than it can have.
    TooLarge,
    /// Free something, or ask for less: the system refused.
    OutOfMemory,
}

impl AllocError {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> AllocErrorKind {
        self.kind
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, alignment, bytes, count } = self;
        let why = match kind {
            AllocErrorKind::TooLarge => "too large",
            AllocErrorKind::OutOfMemory => "out of memory",
        };
        write!(f, "cannot allocate {count} x {bytes} bytes, aligned to {alignment}: {why}")
    }
}

impl error::Error for AllocError {}

impl From<AllocError> for io::Error {
    fn from(error: AllocError) -> Self {
        let kind = match error.kind {
            AllocErrorKind::TooLarge => io::ErrorKind::InvalidInput,
            AllocErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests;
