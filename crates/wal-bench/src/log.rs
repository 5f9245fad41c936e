//! The log as a contestant that writes, kept in the state of a log that has run for a while.

use std::{
    cell::Cell,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use wal::{Lsn, OpenReport, Options, Wal};

use crate::measure::{Durable, Transfer, Transferred};

/// The records of the pipelined contestants and of the warm-up.
const RECORD: [u8; 1024] = [0xA5; 1024];
const RECORD_BYTES: u64 = 1024;

/// Appends between two looks at the clock: some 100 µs.
const BURST_RECORDS: u64 = 256;

/// A log whose start mark follows its end: slots are recycled, and the log stays short however long
/// it runs.
#[derive(Debug)]
pub struct RecycledLog {
    path: PathBuf,
    wal: Wal,
    report: OpenReport,
    /// How far the end may run ahead before the start mark follows.
    span: u64,
    /// The last start mark asked for.
    mark: AtomicU64,
    /// Held while a start mark is asked for: an earlier one after a later one is refused.
    asking: Mutex<()>,
}

impl RecycledLog {
    /// A new log in `path`, of which about `span` bytes are kept. When this returns it has slots for
    /// twice that, all written before, and has gone round them for a while. `options` should allow
    /// as many spare ones.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn create(path: &Path, options: &Options, span: u64) -> wal::Result<Self> {
        let mut log = Self::create_cold(path, options, 2 * span)?;
        log.append_through(2 * span)?;
        log.span = span;
        log.append_through(2 * span)?;
        Ok(log)
    }

    /// The same as it is when it is new: its first slots are written, none was used.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn create_cold(path: &Path, options: &Options, span: u64) -> wal::Result<Self> {
        let (wal, report) = open(path, options)?;
        let path = path.to_path_buf();
        Ok(Self { path, wal, report, span, mark: AtomicU64::new(0), asking: Mutex::new(()) })
    }

    /// Appends `bytes` of payload in records of 1 KiB without waiting, then makes them durable.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn append_through(&self, bytes: u64) -> wal::Result<()> {
        for _ in 0..bytes / RECORD_BYTES {
            let ticket = self.wal.append(&RECORD)?;
            self.follow(ticket.lsn())?;
        }
        self.wal.flush()?;
        Ok(())
    }

    /// The log itself.
    #[must_use]
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its opening found, and what is known of the device.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Moves the start mark to the durable mark if `lsn` is far enough past the last one. Waits for
    /// nothing.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn follow(&self, lsn: Lsn) -> wal::Result<()> {
        let is_due = || lsn.get() >= self.mark.load(Ordering::Relaxed) + self.span;
        if !is_due() {
            return Ok(());
        }
        // Whoever does not get the lock leaves it to the one who has it.
        let Ok(_asking) = self.asking.try_lock() else { return Ok(()) };
        if is_due() {
            let mark = self.wal.durable_lsn();
            self.mark.store(mark.get(), Ordering::Relaxed);
            // Whenever it is durable is soon enough.
            drop(self.wal.checkpoint(mark, b"")?);
        }
        Ok(())
    }
}

impl Durable for RecycledLog {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let append = || self.follow(self.wal.append(payload)?.wait()?);
        append().map_err(io::Error::other)
    }
}

impl Transfer for RecycledLog {
    fn transfer(&self, duration: Duration) -> io::Result<Transferred> {
        pipeline(&self.wal, duration, |lsn| self.follow(lsn)).map_err(io::Error::other)
    }
}

/// A log that is new in each round and releases nothing: every slot is written twice, once with
/// zeros.
#[derive(Debug)]
pub struct FreshLog {
    directory: PathBuf,
    options: Options,
    round: Cell<u32>,
}

impl FreshLog {
    /// Logs below `directory`, which exists. Each is removed when its round is over.
    #[must_use]
    pub fn new(directory: &Path, options: &Options) -> Self {
        let (directory, options) = (directory.to_path_buf(), options.clone());
        Self { directory, options, round: Cell::new(0) }
    }
}

impl Transfer for FreshLog {
    fn transfer(&self, duration: Duration) -> io::Result<Transferred> {
        self.round.set(self.round.get() + 1);
        let path = self.directory.join(format!("fresh-{}", self.round.get()));
        let (wal, _) = open(&path, &self.options).map_err(io::Error::other)?;
        let moved = pipeline(&wal, duration, |_| Ok(())).map_err(io::Error::other)?;
        wal.close().map_err(io::Error::other)?;
        fs::remove_dir_all(path)?;
        Ok(moved)
    }
}

/// One thread that appends records of 1 KiB without waiting: the log lets it run ahead of the disk
/// as far as its memory reaches. Payload bytes, until the last one is durable.
fn pipeline(
    wal: &Wal,
    duration: Duration,
    after_burst: impl Fn(Lsn) -> wal::Result<()>,
) -> wal::Result<Transferred> {
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < duration {
        for _ in 0..BURST_RECORDS {
            wal.append_untracked(&RECORD)?;
            bytes += RECORD_BYTES;
        }
        after_burst(wal.appended_lsn())?;
    }
    wal.flush()?;
    Ok(Transferred { bytes, elapsed: started.elapsed() })
}

/// The log in `path` for writing, whatever is in it unread; with what the opening found.
///
/// # Errors
///
/// The log's.
pub fn open(path: &Path, options: &Options) -> wal::Result<(Wal, OpenReport)> {
    let mut replay = options.open(path)?;
    replay.skip_rest();
    replay.finish()
}

/// Appends `count` records to `log` without waiting, `form` by form, and returns how long these
/// calls took. They are made durable and released off the clock, `batch` at a time, so that with
/// batches smaller than the memory none waits for room.
///
/// # Errors
///
/// The log's.
pub fn time_appends(
    log: &RecycledLog,
    count: u64,
    batch: u64,
    mut form: impl FnMut(&Wal) -> wal::Result<Lsn>,
) -> wal::Result<Duration> {
    let mut taken = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let now = left.min(batch);
        let started = Instant::now();
        for _ in 0..now {
            form(&log.wal)?;
        }
        taken += started.elapsed();
        left -= now;
        log.wal.flush()?;
        log.follow(log.wal.durable_lsn())?;
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fresh_directory;

    const SPAN: u64 = 8 << 20;

    fn options() -> Options {
        Options::new().segment_bytes(1 << 20).spare_bytes_max(2 * SPAN)
    }

    #[test]
    fn a_warm_log_recycles_its_slots_and_stays_short() {
        let directory = fresh_directory(None).unwrap();
        let log = RecycledLog::create(&directory.path().join("log"), &options(), SPAN).unwrap();
        let before = log.wal.stats();
        assert!(before.segments_recycled > 0, "{before:?}");
        log.append_through(3 * SPAN).unwrap();
        log.append_durable(b"durable").unwrap();
        let moved = log.transfer(Duration::from_millis(20)).unwrap();
        assert!(moved.bytes >= BURST_RECORDS * RECORD_BYTES);
        let after = log.wal.stats();
        assert!(after.segments_recycled > before.segments_recycled, "{after:?}");
        assert!(log.wal.start_mark().get() + 3 * SPAN > log.wal.appended_lsn().get());
    }

    #[test]
    fn a_fresh_log_is_gone_after_its_round() {
        let directory = fresh_directory(None).unwrap();
        let log = FreshLog::new(directory.path(), &options());
        for _ in 0..2 {
            assert!(log.transfer(Duration::from_millis(5)).unwrap().bytes > 0);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_append_is_made_in_batches_and_is_durable() {
        let directory = fresh_directory(None).unwrap();
        let log = RecycledLog::create(&directory.path().join("log"), &options(), SPAN).unwrap();
        let before = log.wal.stats().records;
        let form = |wal: &Wal| Ok(wal.append(b"record")?.lsn());
        assert!(time_appends(&log, 25, 10, form).unwrap() > Duration::ZERO);
        assert_eq!(log.wal.stats().records - before, 25);
        assert_eq!(log.wal.durable_lsn(), log.wal.appended_lsn());
    }
}
