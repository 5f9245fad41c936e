//! Every order, and every outcome that the memory model allows, of what threads do to a buffer and a pool:
//! `RUSTFLAGS="--cfg wal_loom" cargo test --test orders`.
//!
//! The code is that of `aligned`, its atomics replaced. Loom does not see plain memory, so each stretch of it
//! has a shadow: a cell that loom watches, touched whenever the bytes are.

#![cfg_attr(wal_loom, expect(clippy::unwrap_used, reason = "a test ends where it is surprised"))]

/// A build without loom has nothing to explore, and must not look as if it had.
#[cfg(not(wal_loom))]
#[test]
fn orders_are_explored_with_cfg_wal_loom() {
    eprintln!("SKIPPED: build with RUSTFLAGS=\"--cfg wal_loom\" to explore orders");
}

#[cfg(wal_loom)]
mod buffers {
    use aligned::{Alignment, Buffer, Desk, Pool};
    use loom::{cell::UnsafeCell, model::Builder, sync::Mutex, thread};
    use std::sync::Arc;

    const BYTES: usize = 512;
    const CELL_BYTES: usize = 128;

    /// What loom watches in place of the bytes of one buffer.
    struct Shadow(Vec<UnsafeCell<()>>);

    // SAFETY: nobody looks where a cell points to. That two threads are at one is what loom finds.
    unsafe impl Sync for Shadow {}

    impl Shadow {
        fn new() -> Arc<Self> {
            Arc::new(Self((0..BYTES / CELL_BYTES).map(|_| UnsafeCell::new(())).collect()))
        }

        /// Fails the model if another thread is at the same bytes, or was and this one cannot know.
        fn write(&self, offset: usize, bytes: usize) {
            let first = offset / CELL_BYTES;
            let last = (offset + bytes).div_ceil(CELL_BYTES);
            self.0[first..last].iter().for_each(|cell| cell.with_mut(|_| thread::yield_now()));
        }

        fn read(&self, bytes: usize) {
            let cells = &self.0[..bytes.div_ceil(CELL_BYTES)];
            cells.iter().for_each(|cell| cell.with(|_| ()));
        }
    }

    /// All orders, but for those in which more than `preemptions` threads are interrupted.
    fn explore(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
        let mut builder = Builder::new();
        builder.preemption_bound = preemptions;
        builder.check(model);
    }

    /// Takes a room and fills it; answers how long it is, 0 if there was none.
    fn fill(buffer: &Buffer, shadow: &Shadow, bytes: usize) -> usize {
        let Some(mut room) = buffer.reserve(bytes) else { return 0 };
        assert!(room.iter().all(|byte| *byte == 0), "a room begins as zeros");
        shadow.write(room.offset(), room.len());
        room.fill(1);
        room.len()
    }

    /// More is wanted than there is: rooms never overlap, none is lost, and whoever has joined the threads
    /// sees what they wrote.
    fn rooms(threads: &'static [&'static [usize]], preemptions: Option<usize>) {
        explore(preemptions, || {
            let buffer = Arc::new(Buffer::zeroed(Alignment::SECTOR_512, BYTES).unwrap());
            let shadow = Shadow::new();
            let threads: Vec<_> = threads
                .iter()
                .map(|lengths| {
                    let (buffer, shadow) = (Arc::clone(&buffer), Arc::clone(&shadow));
                    thread::spawn(move || {
                        lengths.iter().map(|bytes| fill(&buffer, &shadow, *bytes)).sum::<usize>()
                    })
                })
                .collect();
            let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            let mut buffer = Arc::into_inner(buffer).unwrap();
            assert_eq!(buffer.used(), taken);
            shadow.read(taken);
            assert!(buffer.filled().iter().all(|byte| *byte == 1), "no room is left empty");
        });
    }

    #[test]
    fn rooms_of_two_threads_never_overlap() {
        rooms(&[&[256, 128], &[128, 256]], None);
    }

    #[test]
    fn rooms_of_three_threads_never_overlap() {
        rooms(&[&[256], &[128, 128], &[256]], Some(3));
    }

    /// As the engine does it: appenders take rooms under a lock and fill them outside, the writer takes the
    /// buffer away under the lock and waits until all rooms are back. It reads nothing that is still being
    /// written, and sees all that was.
    fn lent(lengths: &'static [usize], preemptions: Option<usize>) {
        explore(preemptions, move || {
            let desk = Desk::new();
            let buffer = Buffer::zeroed(Alignment::SECTOR_512, BYTES).unwrap();
            let frame = Arc::new(Mutex::new(Some(desk.lend(buffer))));
            let shadow = Shadow::new();
            let appenders: Vec<_> = lengths
                .iter()
                .map(|bytes| {
                    let (desk, frame, shadow) =
                        (desk.clone(), Arc::clone(&frame), Arc::clone(&shadow));
                    thread::spawn(move || {
                        let mut lent = frame.lock().unwrap();
                        let Some(lent_buffer) = lent.as_mut() else { return 0 };
                        let offset = lent_buffer.used();
                        let mut room = lent_buffer.reserve(&desk, *bytes).unwrap();
                        drop(lent);
                        assert!(room.iter().all(|byte| *byte == 0), "a room begins as zeros");
                        shadow.write(offset, room.len());
                        room.fill(1);
                        room.len()
                    })
                })
                .collect();
            let mut lent = frame.lock().unwrap().take().unwrap();
            let mut buffer = loop {
                match lent.reclaim() {
                    Some(buffer) => break buffer,
                    None => thread::yield_now(),
                }
            };
            let used = buffer.used();
            shadow.read(used);
            assert!(buffer.padded(Alignment::SECTOR_512)[..used].iter().all(|byte| *byte == 1));
            // The desk is free for the next buffer, whose rooms are counted from the start.
            let mut next = desk.lend(buffer);
            assert!(next.reclaim().is_some(), "nothing of it is out");
            let taken: usize = appenders.into_iter().map(|thread| thread.join().unwrap()).sum();
            assert_eq!(used, taken, "who comes later finds no buffer");
        });
    }

    #[test]
    fn nobody_reads_while_a_room_is_written() {
        lent(&[128, 256], Some(3));
    }

    #[test]
    fn nobody_reads_while_one_of_three_rooms_is_written() {
        lent(&[128, 128, 128], Some(2));
    }

    /// Each buffer has one holder at a time, who knows all that the holder before did to it, so that none of
    /// that is ever shown again.
    fn pool(count: usize, threads: usize, preemptions: Option<usize>) {
        explore(preemptions, move || {
            let pool = Pool::new(Alignment::SECTOR_512, BYTES, count).unwrap();
            let shadows: Vec<_> = (0..count).map(|_| Shadow::new()).collect();
            let use_one = move |pool: &Pool, shadows: &[Arc<Shadow>], bytes: usize| {
                let Some(buffer) = pool.take() else { return };
                let index = usize::try_from(buffer.pool_index().unwrap()).unwrap();
                let taken = fill(&buffer, &shadows[index], bytes);
                assert_eq!(taken, bytes, "a buffer that was taken is empty");
            };
            let threads: Vec<_> = (1..threads)
                .map(|number| {
                    let (pool, shadows) = (pool.clone(), shadows.clone());
                    thread::spawn(move || use_one(&pool, &shadows, number * CELL_BYTES))
                })
                .collect();
            use_one(&pool, &shadows, BYTES);
            use_one(&pool, &shadows, CELL_BYTES);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(pool.available(), count, "all came back");
        });
    }

    #[test]
    fn two_threads_share_one_buffer_of_a_pool() {
        pool(1, 2, None);
    }

    #[test]
    fn three_threads_share_two_buffers_of_a_pool() {
        pool(2, 3, Some(3));
    }
}
