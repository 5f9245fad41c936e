//! [`LentSpan`]: a span that one thread shares out while others fill what they got.

use super::Span;
use std::{
    marker::PhantomData,
    mem,
    ptr::{self, NonNull},
    sync::{Arc, atomic::Ordering},
};

#[cfg(wal_loom)]
use loom::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(not(wal_loom))]
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// Where the stretches of a [`LentSpan`] are counted when they come back. On a cache line of its own: it
/// is touched by whoever has just filled one.
#[repr(align(64))]
pub(crate) struct Returns {
    // Invariant: while a LentSpan uses it, how many of that span's stretches were dropped; else 0.
    returned: AtomicUsize,
    // Invariant: set iff a LentSpan uses it, or was dropped while stretches of it were out.
    is_used: AtomicBool,
}

impl Returns {
    pub(crate) fn new() -> Self {
        Self { returned: AtomicUsize::new(0), is_used: AtomicBool::new(false) }
    }
}

/// A span whose owner lends stretches of it that may outlive every borrow of the owner, and gets it
/// back when all of them have come back.
///
/// Dropped before that it leaks the memory, and the use of its [`Returns`]: nothing worse.
pub(crate) struct LentSpan {
    // Invariant: `Some` until `reclaim`. Till then nobody reads or writes its bytes through it.
    span: Option<Span>,
    // Invariant: no other LentSpan uses it. Alive as long as this, so that no other has its address.
    returns: Arc<Returns>,
    // How many stretches were made.
    lent: usize,
}

impl LentSpan {
    /// # Panics
    ///
    /// If another span uses `returns`.
    pub(crate) fn new(span: Span, returns: &Arc<Returns>) -> Self {
        // Acquire: sees the zero that the use before left behind.
        assert!(!returns.is_used.swap(true, Ordering::Acquire), "one span at a time");
        Self { span: Some(span), returns: Arc::clone(returns), lent: 0 }
    }

    /// Lends the next `bytes` bytes; `None`, and no change, if so many are not left.
    ///
    /// # Panics
    ///
    /// If `returns` are those of another span.
    #[inline]
    pub(crate) fn carve<'a>(&mut self, returns: &'a Returns, bytes: usize) -> Option<Stretch<'a>> {
        assert!(ptr::eq(returns, &raw const *self.returns), "the returns of this span");
        let span = self.span.as_ref()?;
        // Relaxed, and no exchange: `&mut self` proves that nobody else moves the cursor.
        let offset = span.cursor.load(Ordering::Relaxed);
        // No overflow: the cursor is <= len (invariant of the span).
        if bytes > span.len - offset {
            return None;
        }
        // Rooms of no bytes can be made, and forgotten, for ever: the count must not come round again.
        self.lent = self.lent.checked_add(1)?;
        // Invariant: the sum is <= len (checked) and >= the cursor it replaces.
        span.cursor.store(offset + bytes, Ordering::Relaxed);
        // SAFETY: offset <= len, so the result is inside the allocation or one past its end.
        let start = unsafe { span.start.add(offset) };
        // Invariant: the cursor moved over exactly these bytes and never goes back before `reclaim`, so no
        // other stretch covers them. The span, and with it the memory, stays until the count that was
        // just raised is matched, which this stretch's drop alone can do; or it is leaked.
        Some(Stretch { start, len: bytes, returns, filler: PhantomData })
    }

    /// How many bytes were lent.
    #[inline]
    pub(crate) fn cursor(&self) -> usize {
        self.span.as_ref().map_or(0, Span::cursor)
    }

    /// The span, once every stretch came back; the returns are free for another then.
    pub(crate) fn reclaim(&mut self) -> Option<Span> {
        // Acquire: together with the Release of every stretch's drop it orders what was written there
        // before what the caller does with the span.
        let is_back = self.returns.returned.load(Ordering::Acquire) == self.lent;
        // Taken before, the returns may be another's: their count is not looked at.
        let span = self.span.take_if(|_| is_back)?;
        // Invariant of the returns: nobody uses them, and their count is zero again. Release: for the
        // next user's Acquire.
        self.returns.returned.store(0, Ordering::Relaxed);
        self.returns.is_used.store(false, Ordering::Release);
        Some(span)
    }
}

impl Drop for LentSpan {
    fn drop(&mut self) {
        if self.span.is_some() && self.reclaim().is_none() {
            // Somebody may still write to it.
            mem::forget(self.span.take());
        }
    }
}

/// A part of a [`LentSpan`] that only its holder reaches, until it is dropped.
pub(crate) struct Stretch<'a> {
    // Invariant: `len` initialised bytes from `start` on, inside an allocation that lives until this
    // value's drop was counted, and covered by no other stretch.
    start: NonNull<u8>,
    len: usize,
    returns: &'a Returns,
    filler: PhantomData<&'a mut [u8]>,
}

// SAFETY: it is an exclusive borrow of plain bytes, and a count in an atomic.
unsafe impl Send for Stretch<'_> {}
// SAFETY: `&Stretch` lends the bytes for reading only.
unsafe impl Sync for Stretch<'_> {}

impl Stretch<'_> {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: valid for reads of `len` initialised bytes (invariant); nobody writes them while
        // `&self` is borrowed, for that takes `&mut` of this value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: valid for reads and writes of `len` initialised bytes that nobody else reaches
        // (invariant), for as long as `&mut self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Stretch<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: who counts it sees what was written. The last use of the bytes was before.
        self.returns.returned.fetch_add(1, Ordering::Release);
    }
}
