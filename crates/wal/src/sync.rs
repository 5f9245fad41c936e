//! [`Word`]: a place to sleep.

use std::sync::atomic::{AtomicU32, Ordering};

/// A number that threads sleep on until it changes.
///
/// What a thread waits *for* is never here: it reads the word, looks at the condition, and sleeps
/// ([`Host::wait`](crate::io::Host::wait)) only if the word is still what it read. Whoever makes a
/// condition true changes the word first and wakes afterwards, so no wake-up can be missed.
///
/// A futex and not a condition variable: the woken take no lock, which at 64 waiters is the
/// difference between one system call and 64 hand-overs of a mutex.
#[derive(Debug, Default)]
pub struct Word(AtomicU32);

impl Word {
    /// The number now; what [`Host::wait`](crate::io::Host::wait) wants to see unchanged.
    #[must_use]
    pub fn read(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Changes the number, so that whoever read it before does not fall asleep.
    pub(crate) fn bump(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// The number itself, for the system call that sleeps on its address.
    pub(crate) fn futex(&self) -> &AtomicU32 {
        &self.0
    }
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
