/*!
What the end-to-end tests share: a disk that fails on command, and the few steps that every story
begins or ends with. Everything goes through the public API of `wal`.
*/

mod disk;
pub mod fault;
pub mod fork;
pub mod fuzzing;
pub mod tasks;
pub mod watched;

use fault::PATIENCE;
use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use wal::{ErrorKind, Lsn, OpenReport, Options, Result, Wal, io::Storage};

/// A record as a test remembers it.
pub type Kept = (Lsn, Vec<u8>);

/// A log with small segments and frames, whose threads do nothing by themselves for an hour.
pub fn quiet() -> Options {
    Options::new()
        .segment_bytes(1 << 18)
        .frame_bytes(16 << 10)
        .pool_bytes(128 << 10)
        .linger(Duration::from_secs(3600))
        .confirm_after(Duration::from_secs(3600))
}

/// Opens the log for writing without looking at what it holds.
///
/// # Errors
/// Those of opening and finishing.
pub fn open<S: Storage>(options: &Options, storage: S) -> Result<Wal<S>> {
    let mut replay = options.open_in(storage)?;
    replay.skip_rest();
    Ok(replay.finish()?.0)
}

/// Opens the log for writing, and answers all its records as well.
///
/// # Errors
/// Those of opening, reading and finishing.
pub fn replay<S: Storage>(
    options: &Options,
    storage: S,
) -> Result<(Vec<Kept>, Wal<S>, OpenReport)> {
    let mut replay = options.open_in(storage)?;
    let mut records = Vec::new();
    while let Some(record) = replay.next()? {
        records.push((record.lsn(), record.payload().to_vec()));
    }
    let (wal, report) = replay.finish()?;
    Ok((records, wal, report))
}

/// The same for a log that somebody else is about to let go of: a write that is under way, or a
/// thread that has not noticed the end yet, holds the lock a little longer than the handle.
///
/// # Errors
/// Those of [`replay`].
pub fn replay_when_free<S: Storage + Clone>(
    options: &Options,
    storage: &S,
) -> Result<(Vec<Kept>, Wal<S>, OpenReport)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match replay(options, storage.clone()) {
            Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                thread::yield_now();
            }
            answer => return answer,
        }
    }
}

/// What kind of error `answer` is, if it is one.
pub fn kind_of<T>(answer: Result<T>) -> Option<ErrorKind> {
    answer.err().map(|error| error.kind())
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it never does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Waits until a log that was just opened has its next segment. Until then the preparer's flushes hold frames that are
/// written, and their memory, and its coming wakes whoever waits.
///
/// # Panics
/// If it never does.
pub fn eventually_prepared<S: Storage>(wal: &Wal<S>) {
    eventually("the next segment is prepared", || {
        let stats = wal.stats();
        stats.segments_recycled + stats.segments_created == 1
    });
}

/// Runs `work` on a thread of its own and answers what it answers.
///
/// # Panics
/// If `work` hangs or panics. A thread that hangs is left behind.
pub fn without_hanging<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // The receiver is gone only if it gave up on us.
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(answer) => answer,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("panicked: {what}"),
    }
}

/// Deterministic numbers that look random: splitmix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that `seed` begins.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
