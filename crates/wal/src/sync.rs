//! Locks and atomics, and [`Word`]: a place to sleep.
//!
//! The engine takes whatever threads share from here. With `--cfg wal_shuttle` it is of a scheduler that may
//! let another thread run at each use of it: `tests/interleavings` is built like that, and nothing else.
//! The name is the log's own: who explores a program of theirs with `--cfg shuttle` has a log as it is.

#[cfg(all(wal_shuttle, not(debug_assertions)))]
compile_error!(
    "a log under a scheduler is for the tests of its schedules: no optimised build may have it"
);

#[cfg(not(wal_shuttle))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(wal_shuttle)]
pub(crate) use scheduled::{LocalCell, Mutex, MutexGuard, thread_local};
#[cfg(wal_shuttle)]
pub(crate) use shuttle::{
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize},
    thread::ThreadId,
};
use std::sync::atomic::Ordering;
#[cfg(not(wal_shuttle))]
pub(crate) use std::{
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize},
    thread::ThreadId,
    thread_local,
};

/// A number that threads sleep on until it changes.
///
/// What a thread waits *for* is never here: it reads the word, looks at the condition, and sleeps
/// ([`Host::wait`](crate::io::Host::wait)) only if the word is still what it read. Whoever makes a
/// condition true changes the word first and wakes afterwards, so no wake-up can be missed.
///
/// A futex and not a condition variable: the woken take no lock, which at 64 waiters is the
/// difference between one system call and 64 hand-overs of a mutex.
#[derive(Debug, Default)]
pub struct Word {
    number: AtomicU32,
    /// The system call needs the machine's own.
    #[cfg(wal_shuttle)]
    futex: std::sync::atomic::AtomicU32,
}

impl Word {
    /// The number now; what [`Host::wait`](crate::io::Host::wait) wants to see unchanged.
    #[must_use]
    pub fn read(&self) -> u32 {
        self.number.load(Ordering::SeqCst)
    }

    /// Changes the number, so that whoever read it before does not fall asleep.
    pub(crate) fn bump(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
    }

    /// The number itself, for the system call that sleeps on its address.
    #[cfg(not(wal_shuttle))]
    pub(crate) fn futex(&self) -> &AtomicU32 {
        &self.number
    }

    /// A number that never changes: no thread of the scheduler may sleep in the kernel.
    #[cfg(wal_shuttle)]
    pub(crate) fn futex(&self) -> &std::sync::atomic::AtomicU32 {
        &self.futex
    }
}

/// The thread that calls: no other ever is the same.
pub(crate) fn current_thread() -> ThreadId {
    #[cfg(wal_shuttle)]
    use shuttle::thread;
    #[cfg(not(wal_shuttle))]
    use std::thread;
    thread::current().id()
}

/// Where the scheduler may let another thread run though nothing is shared here: while a thread holds what
/// others wait for.
#[inline(always)]
pub(crate) fn point() {
    #[cfg(wal_shuttle)]
    shuttle::hint::spin_loop();
}

/// How many of those who sleep on a [`Word`] are woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wake {
    /// One, if there is one.
    One,
    /// Everyone.
    All,
}

/// The scheduler's locks as parking_lot has them: they do not poison.
#[cfg(wal_shuttle)]
mod scheduled {
    use std::{
        cell::Cell,
        ops::{Deref, DerefMut},
        sync::PoisonError,
    };

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, held: Some(self.hold()) }
        }

        fn hold(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        /// Invariant: `None` inside [`MutexGuard::unlocked`] only, which has the guard borrowed.
        held: Option<shuttle::sync::MutexGuard<'a, T>>,
    }

    impl<T> MutexGuard<'_, T> {
        /// Gives the mutex up while `work` runs.
        pub(crate) fn unlocked<R>(this: &mut Self, work: impl FnOnce() -> R) -> R {
            this.held = None;
            let result = work();
            this.held = Some(this.mutex.hold());
            result
        }
    }

    #[expect(clippy::expect_used, reason = "the invariant of the field")]
    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.held.as_ref().expect("a guard holds its mutex")
        }
    }

    #[expect(clippy::expect_used, reason = "the invariant of the field")]
    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().expect("a guard holds its mutex")
        }
    }

    /// A cell for each thread of the scheduler: the threads of the machine are not its own.
    pub(crate) struct LocalCell<T: 'static>(pub(crate) shuttle::thread::LocalKey<Cell<T>>);

    impl<T: Copy> LocalCell<T> {
        pub(crate) fn get(&'static self) -> T {
            self.0.with(Cell::get)
        }

        pub(crate) fn set(&'static self, value: T) {
            self.0.with(|cell| cell.set(value));
        }

        pub(crate) fn replace(&'static self, value: T) -> T {
            self.0.with(|cell| cell.replace(value))
        }
    }

    macro_rules! thread_cells {
        ($($(#[$meta:meta])* static $name:ident: Cell<$type:ty> = const { $init:expr };)*) => {
            $($(#[$meta])*
            static $name: $crate::sync::LocalCell<$type> =
                $crate::sync::LocalCell(shuttle::thread::LocalKey {
                    init: || $init,
                    _p: std::marker::PhantomData,
                });)*
        };
    }
    pub(crate) use thread_cells as thread_local;
}
