//! Memory that runs out when a test says so: no allocator can be asked for that.

use std::{cell::Cell, io};

thread_local! {
    /// How many allocations of this thread succeed before one fails.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Runs `work`, whose allocation number `fails` on this thread fails, if it gets so far. Says whether it did.
pub(crate) fn with_failure<T>(fails: u32, work: impl FnOnce() -> T) -> (T, bool) {
    LEFT.set(Some(fails));
    let answer = work();
    (answer, LEFT.replace(None).is_none())
}

/// One more allocation.
pub(super) fn allocate() -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => {
            LEFT.set(None);
            Err(io::ErrorKind::OutOfMemory.into())
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}
