//! Time, randomness and threads of the machine, for the storages that are not simulated.

use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// Time since the first call in this process.
pub(super) fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// A number that nobody can predict.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => u64::from_le_bytes(bytes),
        // Only a sandbox that forbids the call gets here. The keys of the standard library's
        // hash tables are random as well, from wherever it found them.
        _ => RandomState::new().hash_one(now()),
    }
}

/// Runs `work` on a thread named `name` that nobody joins.
pub(super) fn spawn(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
