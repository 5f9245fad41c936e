//! Buffers that are filled by those who hold none of their owner's borrows.

use crate::{
    alignment::Alignment,
    buffer::Buffer,
    raw::{LentSpan, Returns, Stretch},
};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// The place where the rooms of a [`LentBuffer`] are given back.
///
/// One that is kept by threads which fill rooms; made once and used for one buffer after the other.
#[derive(Clone)]
pub struct Desk(Arc<Returns>);

/// A [`Buffer`] that its owner shares out room by room, and gets back whole when every room has been
/// given back.
///
/// Unlike a [`Room`](crate::Room), which borrows its buffer, a [`LentRoom`] borrows only the [`Desk`]. So
/// the owner may keep the buffer behind a lock, lend a room inside it, and have it filled outside. A room
/// costs one atomic addition, when it is given back.
///
/// Dropped while rooms are out, it leaks the memory and its desk is of no more use: nothing worse.
///
/// ```
/// use aligned::{Alignment, Buffer, Desk};
///
/// let desk = Desk::new();
/// let mut lent = desk.lend(Buffer::zeroed(Alignment::SECTOR_512, 512)?);
/// let mut room = lent.reserve(&desk, 5).unwrap();
/// assert!(lent.reclaim().is_none()); // one room is out
///
/// room.copy_from_slice(b"hello");
/// drop(room);
/// let mut buffer = lent.reclaim().unwrap();
/// assert_eq!(buffer.filled(), b"hello");
/// # Ok::<(), aligned::AllocError>(())
/// ```
pub struct LentBuffer {
    span: LentSpan,
    alignment: Alignment,
}

/// A stretch of a [`LentBuffer`] that only its holder can write. Dereferences to the bytes; dropping it
/// gives it back.
#[must_use = "dropped at once it is given back unwritten"]
pub struct LentRoom<'a>(Stretch<'a>);

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// A desk for one buffer at a time.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Returns::new()))
    }

    /// Begins to lend `buffer`. Rooms begin where its cursor is.
    ///
    /// # Panics
    ///
    /// If the buffer before this one was not reclaimed.
    #[must_use]
    pub fn lend(&self, buffer: Buffer) -> LentBuffer {
        let alignment = buffer.alignment();
        LentBuffer { span: LentSpan::new(buffer.into_span(), &self.0), alignment }
    }
}

impl LentBuffer {
    /// Lends the next `bytes` bytes, or `None`, and no change, if fewer than that are left. They are
    /// whatever they were: whoever gets them writes every one.
    ///
    /// # Panics
    ///
    /// If `desk` is not the one that lends this buffer.
    #[inline]
    #[must_use]
    pub fn reserve<'a>(&mut self, desk: &'a Desk, bytes: usize) -> Option<LentRoom<'a>> {
        self.span.carve(&desk.0, bytes).map(LentRoom)
    }

    /// The buffer, once every room was given back. There is nothing here any more then.
    #[must_use]
    pub fn reclaim(&mut self) -> Option<Buffer> {
        self.span.reclaim().map(|span| Buffer::over(span, self.alignment))
    }

    /// How many bytes were reserved.
    #[inline]
    #[must_use]
    pub fn used(&self) -> usize {
        self.span.cursor()
    }
}

impl Deref for LentRoom<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for LentRoom<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl fmt::Debug for LentBuffer {
    /// Sizes only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentBuffer").field("used", &self.used()).finish_non_exhaustive()
    }
}

impl fmt::Debug for LentRoom<'_> {
    /// Sizes only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentRoom").field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;
    use std::{mem, sync::Mutex, thread};

    fn buffer() -> Buffer {
        Buffer::zeroed(Alignment::SECTOR_512, 512).unwrap()
    }

    #[test]
    fn rooms_are_disjoint_and_stay_when_the_owner_moves() {
        let desk = Desk::new();
        let mut lent = desk.lend(buffer());
        let mut first = lent.reserve(&desk, 100).unwrap();
        let mut second = lent.reserve(&desk, 412).unwrap();
        assert!(lent.reserve(&desk, 1).is_none());
        assert_eq!(lent.used(), 512);
        let mut moved = Box::new(lent);
        first.fill(1);
        second.fill(2);
        assert!(moved.reclaim().is_none());
        drop(first);
        assert!(moved.reclaim().is_none(), "one is still out");
        drop(second);
        let mut buffer = moved.reclaim().unwrap();
        assert!(moved.reclaim().is_none() && moved.reserve(&desk, 0).is_none(), "it has gone");
        assert_eq!(moved.used(), 0);
        let filled = buffer.filled();
        assert!(filled[..100].iter().all(|byte| *byte == 1));
        assert!(filled[100..].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn rooms_begin_behind_what_the_buffer_holds_and_are_not_wiped() {
        let desk = Desk::new();
        let mut mine = buffer();
        mine.as_mut_slice().fill(9);
        mine.reserve(3).unwrap().fill(7);
        let mut lent = desk.lend(mine);
        let mut room = lent.reserve(&desk, 2).unwrap();
        assert_eq!(*room, [9, 9]);
        room.fill(8);
        drop(room);
        let mut mine = lent.reclaim().unwrap();
        assert_eq!(mine.filled(), [7, 7, 7, 8, 8]);
        assert!(mine.padded(Alignment::SECTOR_512)[5..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_pooled_buffer_comes_back_and_shows_nothing_of_its_past() {
        let pool = Pool::new(Alignment::SECTOR_512, 512, 1).unwrap();
        let desk = Desk::new();
        for round in 0..3 {
            let mut lent = desk.lend(pool.take().unwrap());
            assert_eq!(pool.available(), 0);
            let mut room = lent.reserve(&desk, 300 - round * 100).unwrap();
            room.fill(9);
            drop(room);
            if round == 1 {
                drop(lent); // without asking for it: it comes back all the same
            } else {
                let mut buffer = lent.reclaim().unwrap();
                let used = buffer.used();
                assert!(buffer.padded(Alignment::SECTOR_512)[used..].iter().all(|byte| *byte == 0));
            }
            assert_eq!(pool.available(), 1);
        }
    }

    #[test]
    fn what_may_still_be_written_is_leaked_and_not_lent_again() {
        let pool = Pool::new(Alignment::SECTOR_512, 512, 1).unwrap();
        let desk = Desk::new();
        let mut lent = desk.lend(pool.take().unwrap());
        let mut room = lent.reserve(&desk, 5).unwrap();
        drop(lent);
        room.fill(1);
        drop(room);
        assert_eq!(pool.available(), 0);
        // A room that was forgotten is out for ever.
        let other = Desk::new();
        let mut lent = other.lend(buffer());
        mem::forget(lent.reserve(&other, 5).unwrap());
        assert!(lent.reclaim().is_none());
        mem::forget(lent); // not the leak that is looked for
    }

    #[test]
    #[should_panic = "one span at a time"]
    fn a_desk_has_one_buffer() {
        let desk = Desk::new();
        let _first = desk.lend(buffer());
        let _second = desk.lend(buffer());
    }

    #[test]
    #[should_panic = "the returns of this span"]
    fn a_room_is_given_back_where_it_was_lent() {
        let (desk, other) = (Desk::new(), Desk::new());
        let mut lent = desk.lend(buffer());
        let _room = lent.reserve(&other, 1);
    }

    #[test]
    fn threads_fill_while_the_owner_lends_and_collects() {
        let rounds = if cfg!(miri) { 3 } else { 200 };
        let pool = Pool::new(Alignment::SECTOR_512, 4096, 2).unwrap();
        let desk = Desk::new();
        for round in 0..rounds {
            let frame = Mutex::new(Some(desk.lend(pool.take().unwrap())));
            thread::scope(|scope| {
                for writer in 1..=4_u8 {
                    let (desk, frame) = (&desk, &frame);
                    scope.spawn(move || {
                        loop {
                            let mut guard = frame.lock().unwrap();
                            let Some(lent) = guard.as_mut() else { return };
                            let Some(mut room) = lent.reserve(desk, 10) else { return };
                            drop(guard);
                            room.fill(writer);
                        }
                    });
                }
                while frame.lock().unwrap().as_ref().is_some_and(|lent| lent.used() < 400) {
                    thread::yield_now();
                }
                let mut lent = frame.lock().unwrap().take().unwrap();
                let mut buffer = loop {
                    match lent.reclaim() {
                        Some(buffer) => break buffer,
                        None => thread::yield_now(),
                    }
                };
                let whole = |room: &[u8]| room[0] != 0 && room.iter().all(|byte| *byte == room[0]);
                assert!(buffer.filled().chunks(10).all(whole), "round {round}");
            });
        }
    }
}
