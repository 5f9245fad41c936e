//! [`Word`]: a place to sleep.

use rustix::thread::futex;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// A number that threads sleep on until it changes.
///
/// What a thread waits *for* is never here: it reads the word, looks at the condition, and sleeps
/// only if the word is still what it read. Whoever makes a condition true changes the word first and
/// wakes afterwards, so no wake-up can be missed.
///
/// A futex and not a condition variable: the woken take no lock, which at 64 waiters is the
/// difference between one system call and 64 hand-overs of a mutex.
#[derive(Debug, Default)]
pub(crate) struct Word(AtomicU32);

impl Word {
    /// The number now; what [`Word::sleep`] wants to see unchanged.
    pub(crate) fn read(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Changes the number, so that whoever read it before does not fall asleep.
    pub(crate) fn bump(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Sleeps until woken, unless the number is no longer `seen`, or until `timeout` has passed.
    /// May return early for no reason: callers look at their condition again.
    pub(crate) fn sleep(&self, seen: u32, timeout: Option<Duration>) {
        let timeout = timeout.map(|time| futex::Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        // Every outcome (woken, changed, interrupted, timed out) has the same answer: look again.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, seen, timeout.as_ref());
    }

    /// Wakes one sleeper, if there is one.
    pub(crate) fn wake_one(&self) {
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
    }

    /// Wakes every sleeper.
    pub(crate) fn wake_all(&self) {
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, u32::MAX >> 1);
    }
}
