//! Every unsafe operation of the crate, and all the state that its soundness rests on: no file outside
//! can break a proof made here, whatever it calls in whatever order.
//!
//! | type | owns | hands out |
//! |---|---|---|
//! | [`Region`] | one allocation, initialised with zeros | nothing by itself |
//! | [`Lot`] | a region cut into equal slots, and which of them are free | one [`Span`] a slot |
//! | [`Span`] | a stretch of a region that no other span covers | disjoint `&mut [u8]` |
//! | [`LentSpan`] | a span that is being filled, and how much of it is out | disjoint [`Stretch`]es |
//! | [`WipedPage`] | one page of its own mapping | one atomic word |

use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{Arc, atomic::Ordering},
};

mod lent;
mod region;
mod wiped_page;

pub(crate) use lent::{LentSpan, Returns, Stretch};
use region::Region;
pub(crate) use wiped_page::WipedPage;
#[cfg(test)]
pub(crate) use wiped_page::ask_child;

// With `--cfg wal_loom` what buffers and pools share is explored in every order: see `tests/interleavings`.
// The name is not loom's own: who explores a program of theirs with `--cfg loom` has buffers as they are.
#[cfg(all(wal_loom, not(debug_assertions)))]
compile_error!(
    "buffers under loom are for the tests of their orders: no optimised build may have them"
);
#[cfg(wal_loom)]
use loom::sync::atomic::{AtomicU64, AtomicUsize};
#[cfg(not(wal_loom))]
use std::sync::atomic::{AtomicU64, AtomicUsize};

/// A region cut into slots of equal size, lent out one by one.
pub(crate) struct Lot {
    region: Region,
    // Invariant: slot_bytes * slot_count <= region.layout.size().
    slot_bytes: usize,
    slot_count: usize,
    // Invariant: bit `i % 64` of word `i / 64` is set iff slot `i` exists and no span covers it.
    // Words are not spread over cache lines: a slot is taken once a frame, not once a record.
    free: Box<[AtomicU64]>,
    // How far each slot was written in its uses so far. Written before the slot's bit is set, read
    // after it was cleared: by the one who has the slot.
    written: Box<[AtomicUsize]>,
}

impl Lot {
    /// `slot_count` slots of `slot_bytes` bytes, in an allocation of their `layout`; `None` if the
    /// system refuses.
    ///
    /// # Panics
    ///
    /// If the slots do not fill the layout exactly.
    pub(crate) fn new(layout: Layout, slot_bytes: usize, slot_count: usize) -> Option<Arc<Self>> {
        assert_eq!(slot_bytes.checked_mul(slot_count), Some(layout.size()), "slots fill the lot");
        let region = Region::zeroed(layout)?;
        let mut left = slot_count;
        let free = (0..slot_count.div_ceil(64))
            .map(|_| {
                let here = left.min(64);
                left -= here;
                // `here` is 1..=64: that many low bits.
                AtomicU64::new(u64::MAX >> (64 - here))
            })
            .collect();
        let written = (0..slot_count).map(|_| AtomicUsize::new(0)).collect();
        // Invariant: the product is no more than the layout's size (asserted); no span exists yet,
        // and the bits of the slots are set, no others.
        Some(Arc::new(Self { region, slot_bytes, slot_count, free, written }))
    }

    /// The lowest free slot, or `None` if none was seen free. Lock-free; never allocates.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Span> {
        // Lowest first: what was returned last is likely still in the cache, and memory beyond
        // the most ever out at once stays out of it.
        let index = (0..).zip(&self.free).find_map(|(at, word)| Some(at * 64 + claim(word)?))?;
        // SAFETY: the bit was set, so index < slot_count and index * slot_bytes is inside the
        // allocation (both invariants), which is at most isize::MAX bytes, being a Layout.
        let start = unsafe { self.region.start().add(index * self.slot_bytes) };
        let lender = Some((Arc::clone(self), index));
        // Invariant: the slot's slot_bytes bytes lie in the allocation, which the Arc keeps and
        // whose bytes are initialised. `claim` cleared the bit and it alone does, so no other
        // span covers them; only the drop of this span sets it again.
        let (len, cursor) = (self.slot_bytes, AtomicUsize::new(0));
        let dirty = self.written[index].load(Ordering::Relaxed);
        Some(Span { start, len, cursor, dirty, lender, owned: None })
    }

    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    pub(crate) fn slot_count(&self) -> usize {
        self.slot_count
    }

    /// How many slots are free: exact only while nobody takes or returns one.
    pub(crate) fn free_count(&self) -> usize {
        let ones = self.free.iter().map(|word| word.load(Ordering::Relaxed).count_ones());
        ones.map(|count| usize::try_from(count).unwrap_or(usize::MAX)).sum()
    }

    /// The address of the first slot; the others follow without gaps.
    pub(crate) fn address(&self) -> usize {
        // Exposed, for the number is meant for the kernel, or to be made a pointer again.
        self.region.start().as_ptr().expose_provenance()
    }

    fn put_back(&self, index: usize) {
        // Release: the next taker's Acquire sees every write made through the span.
        self.free[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
    }
}

/// Clears the lowest bit that is set, and answers its number, 0..64.
fn claim(word: &AtomicU64) -> Option<usize> {
    // Clearing the lowest set bit changes zero to nothing else: zero is None.
    let lower = |bits: u64| (bits != 0).then(|| bits & (bits - 1));
    let bits = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, lower).ok()?;
    usize::try_from(bits.trailing_zeros()).ok()
}

/// A stretch of memory of which this value is the only owner.
///
/// Aligned to a cache line, and in this order, so that what each `carve` touches is one line that
/// no neighbour's cursor shares.
#[repr(C, align(64))]
pub(crate) struct Span {
    // Invariant: `len` bytes from `start` on are initialised, inside one allocation that lives as
    // long as `owned` or `lender` does, and no other span covers any of them.
    start: NonNull<u8>,
    len: usize,
    // Invariant: <= len. Under `&self` it only grows, so each value is passed over once; bytes at
    // or above it were lent by no `carve` since the last `rewind`.
    cursor: AtomicUsize,
    // Up to where the bytes above the cursor may hold anything but zeros: told to the slot's next use.
    dirty: usize,
    lender: Option<(Arc<Lot>, usize)>,
    // Held so that the memory is freed with the span, and not before.
    owned: Option<Region>,
}

// SAFETY: a span owns its bytes alone (invariant); its owner, a Region or an Arc<Lot>, is Send.
unsafe impl Send for Span {}
// SAFETY: `&Span` reaches bytes through `carve` only, which lends each byte to one caller, as
// sending a `&mut [u8]` to that caller's thread would; the cursor is atomic.
unsafe impl Sync for Span {}

impl Span {
    /// A span with an allocation of its own; `None` if the system refuses.
    pub(crate) fn zeroed(layout: Layout) -> Option<Self> {
        let region = Region::zeroed(layout)?;
        // Invariant: the whole of a new, initialised allocation (perhaps one byte less), kept in
        // `owned` and known to nobody else.
        let (start, len, cursor) = (region.start(), layout.size(), AtomicUsize::new(0));
        Some(Self { start, len, cursor, dirty: 0, lender: None, owned: Some(region) })
    }

    /// Every byte. The exclusive borrow proves that nothing carved is still in use.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `start` is non-null, aligned for u8 and valid for reads and writes of `len`
        // initialised bytes of one allocation, at most isize::MAX (invariant). For the lifetime of
        // the `&mut self` borrow nobody else reaches them: no other span covers them, and all
        // `carve` lent was borrowed from `&self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Lends the next `bytes` bytes and tells where they begin; `None`, and no change, if so many
    /// are not left.
    ///
    /// Compare-and-exchange, not `fetch_add`: an addition that turns out too large cannot be taken
    /// back without others having seen it, and would leave a hole at the end that looks filled.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "each byte is lent once: the cursor never goes back")]
    pub(crate) fn carve(&self, bytes: usize) -> Option<(usize, &mut [u8])> {
        // Relaxed throughout: the cursor shares out bytes, it publishes none. Who may look at them
        // holds `&mut self`, and got it in a way that orders it after every room.
        let mut offset = self.cursor.load(Ordering::Relaxed);
        loop {
            // No overflow: the cursor is <= len (invariant).
            if bytes > self.len - offset {
                return None;
            }
            // Invariant: the sum is <= len (checked) and >= the cursor it replaces.
            let seen = self.cursor.compare_exchange_weak(
                offset,
                offset + bytes,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match seen {
                Ok(_) => break,
                Err(now) => offset = now,
            }
        }
        // SAFETY: offset <= len, so the result is inside the allocation or one past its end.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: non-null, aligned for u8, and valid for reads and writes of `bytes` initialised
        // bytes of one allocation, for offset + bytes <= len (invariant of the span). The exchange
        // moved the cursor from `offset` over exactly these bytes; it only grows while `&self` is
        // borrowed, so no other `carve` passes over them, and `bytes` and `rewind` need `&mut`.
        let room = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) };
        Some((offset, room))
    }

    /// Makes every byte available to `carve` again.
    #[inline]
    pub(crate) fn rewind(&mut self) {
        // Invariant: 0 <= len; what was lent before is no longer borrowed (`&mut self`).
        self.cursor.store(0, Ordering::Relaxed);
    }

    /// How many bytes were carved off.
    #[inline]
    pub(crate) fn cursor(&self) -> usize {
        self.cursor.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Up to where the bytes above the cursor may hold anything but zeros.
    #[inline]
    pub(crate) fn dirty(&self) -> usize {
        self.dirty
    }

    /// Keeps in mind up to where the bytes above the cursor may hold anything but zeros.
    #[inline]
    pub(crate) fn set_dirty(&mut self, bytes: usize) {
        self.dirty = bytes;
    }

    /// The slot's number, if the span came from a [`Lot`].
    #[inline]
    pub(crate) fn slot(&self) -> Option<usize> {
        self.lender.as_ref().map(|&(_, index)| index)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some((lot, index)) = &self.lender {
            // Ordered by the slot's bit: set with Release after this, cleared with Acquire before
            // the next load.
            lot.written[*index].store(self.cursor().max(self.dirty), Ordering::Relaxed);
            lot.put_back(*index);
        }
    }
}
