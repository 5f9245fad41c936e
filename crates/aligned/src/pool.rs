//! A bounded number of equal buffers in one region.

use std::{alloc::Layout, fmt, ops::Range, sync::Arc};

use crate::{
    alignment::Alignment,
    buffer::{AllocError, AllocErrorKind, Buffer},
    raw::Lot,
};

/// A fixed number of equal [`Buffer`]s, all in one region that was touched beforehand.
///
/// Taking one allocates nothing, waits for nobody and never faults a page in. A buffer returns
/// when it is dropped, also while unwinding, and what it held is zeroed before anyone is lent or
/// shown it again, but for the rooms of a [`LentBuffer`](crate::LentBuffer).
///
/// A clone is another handle on the same pool. The memory is freed when the last handle *and* the
/// last buffer are gone, in whatever order.
///
/// ```
/// use aligned::{Alignment, Pool};
///
/// let pool = Pool::new(Alignment::BLOCK_4096, 16 * 1024, 2)?;
/// let (one, two) = (pool.take(), pool.take());
/// assert!(one.is_some() && two.is_some());
/// assert!(pool.take().is_none());
///
/// drop(one);
/// assert_eq!(pool.available(), 1);
/// # Ok::<(), aligned::AllocError>(())
/// ```
#[derive(Clone)]
pub struct Pool {
    lot: Arc<Lot>,
    // Invariant: divides the region's address and the slots' size.
    alignment: Alignment,
}

impl Pool {
    /// The most buffers a pool can have.
    pub const COUNT_MAX: usize = 65_536;

    /// A pool of `count` buffers, 0 to [`Pool::COUNT_MAX`], of `buffer_bytes` bytes each, rounded
    /// up to a multiple of `alignment`. The region begins at a multiple of 4096 bytes at least, so
    /// that the kernel can register it whole.
    ///
    /// A region of 2 MiB or more is mapped by itself, in huge pages where the kernel has them
    /// (`MADV_HUGEPAGE`): fewer pieces of memory for each direct request, fewer misses for who fills it.
    ///
    /// Touches all of it: about a millisecond for each few MiB.
    ///
    /// # Errors
    ///
    /// [`AllocErrorKind::TooLarge`] if `count` is above the limit or the size overflows,
    /// [`AllocErrorKind::OutOfMemory`] if the system refuses the region. (The bookkeeping
    /// beside it, at most 8 KiB, is allocated as a `Box` is.)
    pub fn new(
        alignment: Alignment,
        buffer_bytes: usize,
        count: usize,
    ) -> Result<Self, AllocError> {
        let error = |kind| AllocError { kind, alignment, bytes: buffer_bytes, count };
        let region_alignment = alignment.max(Alignment::BLOCK_4096);
        let sizes = alignment.round_up(buffer_bytes).and_then(|slot_bytes| {
            let bytes = slot_bytes.checked_mul(count)?;
            let layout = Layout::from_size_align(bytes, region_alignment.bytes()).ok()?;
            (count <= Self::COUNT_MAX).then_some((slot_bytes, layout))
        });
        let (slot_bytes, layout) = sizes.ok_or(error(AllocErrorKind::TooLarge))?;
        let lot = Lot::new(layout, slot_bytes, count).ok_or(error(AllocErrorKind::OutOfMemory))?;
        // Invariant: the layout's alignment is a multiple of it, the slot was rounded up to one.
        Ok(Self { lot, alignment })
    }

    /// A buffer that shows nothing but zeros, with nothing reserved, or `None` if all are out.
    ///
    /// Lock-free. While others take and return buffers, `None` means that each was seen out at
    /// some moment of the call, not all at the same one.
    #[must_use]
    pub fn take(&self) -> Option<Buffer> {
        self.lot.take().map(|span| Buffer::over(span, self.alignment))
    }

    /// How many buffers could be taken. While others take and return, it may have changed already.
    #[must_use]
    pub fn available(&self) -> usize {
        self.lot.free_count()
    }

    /// How many buffers there are, taken or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.lot.slot_count()
    }

    /// The length of each buffer in bytes: a multiple of [`alignment`](Pool::alignment).
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.lot.slot_bytes()
    }

    /// What the address and the length of each buffer are multiples of.
    #[must_use]
    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// The addresses of the region that holds all buffers, without gaps and in the order of
    /// [`Buffer::pool_index`]: to register it with the kernel in one piece. The addresses are
    /// valid as long as the pool or one of its buffers lives.
    #[must_use]
    pub fn region(&self) -> Range<usize> {
        let start = self.lot.address();
        start..start + self.buffer_bytes() * self.capacity()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("capacity", &self.capacity())
            .field("available", &self.available())
            .field("buffer_bytes", &self.buffer_bytes())
            .field("alignment", &self.alignment.bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    fn is_zero(buffer: &mut Buffer) -> bool {
        buffer.as_mut_slice().iter().all(|&byte| byte == 0)
    }

    #[test]
    fn lends_each_buffer_once() {
        let block = Alignment::new(65536).unwrap();
        for alignment in [Alignment::ANY, Alignment::SECTOR_512, Alignment::BLOCK_4096, block] {
            for count in [0, 1, 63, 64, 65, 130] {
                let pool = Pool::new(alignment, 100, count).unwrap();
                let mut out: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
                assert_eq!((out.len(), pool.capacity(), pool.available()), (count, count, 0));
                let region = pool.region();
                assert_eq!(region.len(), count * pool.buffer_bytes());
                let mut seen = BTreeSet::new();
                for buffer in &mut out {
                    let index = usize::try_from(buffer.pool_index().unwrap()).unwrap();
                    assert!(seen.insert(index));
                    let at = buffer.as_mut_slice().as_ptr().addr();
                    assert_eq!(at, region.start + index * pool.buffer_bytes());
                    assert!(region.contains(&at));
                    assert_eq!(alignment.check(buffer.as_mut_slice(), 0), Ok(()));
                    assert_eq!(buffer.len(), pool.buffer_bytes());
                    assert_eq!(buffer.alignment(), pool.alignment());
                }
                out.pop();
                assert_eq!(pool.available(), usize::from(count > 0));
            }
        }
    }

    #[test]
    fn zero_after_reuse() {
        let pool = Pool::new(Alignment::SECTOR_512, 1024, 1).unwrap();
        for reserved in [0, 1, 511, 512, 513, 1024] {
            let mut buffer = pool.take().unwrap();
            assert_eq!(buffer.used(), 0);
            buffer.reserve(reserved).unwrap().fill(0xab);
            buffer.filled().fill(0xcd);
            drop(buffer);
            let mut buffer = pool.take().unwrap();
            assert!(is_zero(&mut buffer), "after {reserved} bytes");
            buffer.as_mut_slice().fill(0xef);
            drop(buffer);
            assert!(is_zero(&mut pool.take().unwrap()));
        }
    }

    #[test]
    fn returned_while_unwinding() {
        let pool = Pool::new(Alignment::SECTOR_512, 512, 1).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let buffer = pool.take().unwrap();
            buffer.reserve(512).unwrap().fill(1);
            panic!("while {} buffers are left", pool.available());
        }));
        assert!(caught.is_err());
        assert!(is_zero(&mut pool.take().unwrap()));
    }

    #[test]
    fn buffers_outlive_every_handle() {
        let pool = Pool::new(Alignment::BLOCK_4096, 4096, 2).unwrap();
        let another = pool.clone();
        let (mut one, mut two) = (pool.take().unwrap(), another.take().unwrap());
        assert!(pool.take().is_none(), "a clone is the same pool");
        drop((pool, another));
        one.as_mut_slice().fill(1);
        drop(one);
        two.as_mut_slice().fill(2);
        assert!(two.as_mut_slice().iter().all(|&byte| byte == 2));
    }

    #[test]
    fn threads_never_hold_the_same_buffer() {
        let rounds = if cfg!(miri) { 20 } else { 5_000 };
        let pool = Pool::new(Alignment::SECTOR_512, 512, 70).unwrap();
        let held: Vec<_> = (0..70).map(|_| AtomicBool::new(false)).collect();
        thread::scope(|scope| {
            let writers = (1..=8_u8).map(|writer| {
                let (pool, held) = (&pool, &held);
                scope.spawn(move || {
                    for round in 0..rounds {
                        let mut out: Vec<_> =
                            std::iter::from_fn(|| pool.take()).take(1 + round % 12).collect();
                        for buffer in &mut out {
                            let index = usize::try_from(buffer.pool_index().unwrap()).unwrap();
                            assert!(!held[index].swap(true, Ordering::Relaxed));
                            assert!(is_zero(buffer));
                            buffer.as_mut_slice().fill(writer);
                        }
                        for mut buffer in out {
                            let index = usize::try_from(buffer.pool_index().unwrap()).unwrap();
                            assert!(buffer.as_mut_slice().iter().all(|&byte| byte == writer));
                            held[index].store(false, Ordering::Relaxed);
                        }
                    }
                })
            });
            let writers: Vec<_> = writers.collect();
            // The scope would wait too, but by means that a race detector does not see.
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
        assert_eq!(pool.available(), 70);
    }

    #[test]
    fn limits_are_errors() {
        let kind = |bytes, count| {
            let pool = Pool::new(Alignment::SECTOR_512, bytes, count);
            pool.map(|pool| pool.available()).map_err(|error| error.kind())
        };
        assert_eq!(kind(1, Pool::COUNT_MAX), Ok(Pool::COUNT_MAX));
        assert_eq!(kind(1, Pool::COUNT_MAX + 1), Err(AllocErrorKind::TooLarge));
        assert_eq!(kind(usize::MAX, 1), Err(AllocErrorKind::TooLarge));
        assert_eq!(kind(1 << 60, 16), Err(AllocErrorKind::TooLarge));
        assert_eq!(kind(0, 3), Ok(3));
        if !cfg!(miri) {
            assert_eq!(kind(1 << 60, 4), Err(AllocErrorKind::OutOfMemory));
        }
    }

    #[test]
    fn shows_sizes_only() {
        let pool = Pool::new(Alignment::SECTOR_512, 512, 2).unwrap();
        let buffer = pool.take();
        assert_eq!(
            format!("{pool:?}"),
            "Pool { capacity: 2, available: 1, buffer_bytes: 512, alignment: 512 }"
        );
        drop(buffer);
    }
}
