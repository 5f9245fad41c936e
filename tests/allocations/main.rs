//! The hot path allocates nothing: counted, not believed. A binary of its own, for it replaces the
//! allocator of the whole process.

use parking_lot::{Condvar, Mutex};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};
use wal::{Options, io::Memory};
use wal_tests::open;

struct Counting;

thread_local! {
    /// How often this thread allocated; `None` while nobody counts. Without a destructor and constant,
    /// so that looking at it allocates nothing.
    static ALLOCATIONS: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get().map(|count| count + 1));
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
// SAFETY: every call goes to `System` with the same arguments, and its answer comes back unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`; the pointer came from `System`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates on this thread.
fn allocations(mut work: impl FnMut()) -> u64 {
    ALLOCATIONS.set(Some(0));
    work();
    ALLOCATIONS.take().unwrap_or_default()
}

/// Lets this thread sleep once in `parking_lot`, whose table of sleepers is allocated with the first
/// one of the process. An append that meets the preparer at the lock would else be the first.
fn sleep_once() {
    let mutex = Mutex::new(());
    Condvar::new().wait_for(&mut mutex.lock(), Duration::from_micros(1));
}

/// A log that allocates a little for each record does so a hundred thousand times a second, and takes
/// the allocator's locks while others wait for it. Appending, in any of its forms, and waiting on one
/// thread must not; nor a whole commit.
#[test]
fn the_hot_path_allocates_nothing() {
    assert!(allocations(|| drop(vec![1; 100])) > 0, "the count counts");
    // At depth 1 the one committer is there after the first record. A deeper log starts the others when
    // it first has so much to write at once, each by the thread that appends just then.
    let options = Options::new()
        .depth(1)
        .segment_bytes(64 << 20)
        .linger(Duration::from_secs(3600))
        .confirm_after(Duration::from_secs(3600));
    sleep_once();
    let wal = open(&options, Memory::new()).unwrap();
    let payload = [7; 128];
    let append = || drop(wal.append(&payload).unwrap());
    let append_with = || drop(wal.append_with(128, |room| room.fill(7)).unwrap());
    let wait = || assert!(wal.append(&payload).unwrap().wait().is_ok());
    let flush = || assert!(wal.flush().is_ok());
    for _ in 0..1000 {
        append();
        append_with();
        wait();
    }
    let repeat = |work: &dyn Fn(), times: u32| allocations(|| (0..times).for_each(|_| work()));
    assert_eq!(repeat(&append, 10_000), 0, "append");
    assert_eq!(repeat(&append_with, 10_000), 0, "append_with");
    // Memory allocates a page where it is written for the first time. The first segment was filled with
    // zeros at creation, so that its pages are there.
    assert_eq!(repeat(&wait, 1000), 0, "append and wait");
    append();
    assert_eq!(repeat(&flush, 1), 0, "flush");
}
