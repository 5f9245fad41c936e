//! Time, randomness, threads and sleep of the machine, for the storages that are not simulated.

use crate::sync::{Wake, Word};
use rustix::{
    rand::{GetRandomFlags, getrandom},
    thread::futex,
};
use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    sync::LazyLock,
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Time since the first call in this process.
pub(super) fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// The date, since the beginning of 1970; the beginning itself for a clock that is older.
pub(super) fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
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

/// Sleeps while `word` is `seen`, in the kernel.
pub(super) fn wait(word: &Word, seen: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|time| futex::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    // Every outcome (woken, changed, interrupted, timed out) has the same answer: look again.
    let _ = futex::wait(word.futex(), futex::Flags::PRIVATE, seen, timeout.as_ref());
}

/// How many processors this process may run on, as it was when first asked; 1 where the system
/// does not say.
pub(super) fn processors() -> u32 {
    static COUNT: LazyLock<u32> = LazyLock::new(|| {
        thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
    });
    *COUNT
}

/// Wakes those who sleep on `word` in this process.
pub(super) fn wake(word: &Word, who: Wake) {
    let count = match who {
        Wake::One => 1,
        Wake::All => u32::MAX >> 1,
    };
    let _ = futex::wake(word.futex(), futex::Flags::PRIVATE, count);
}
