//! The log as a contestant, kept in the state of a log that has run for a while.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use wal::{Lsn, Options, Stats, Wal};

use crate::measure::Durable;

/// What the warm-up writes: enough segments of the default size that slots are created, released
/// and used again before anything is counted.
const WARM_UP_BYTES: u64 = 80 << 20;

/// The log moves its start mark this often. One default segment, so that three or four slots are in
/// use by turns, as the floors overwrite a file that is as long.
pub const CHECKPOINT_BYTES: u64 = 16 << 20;

/// A log with default options or others, whose start mark follows its end: slots are recycled, and
/// the log stays short however long it runs.
#[derive(Debug)]
pub struct RecycledLog {
    wal: Wal,
    /// The last start mark asked for. It only decides who asks for the next one.
    mark: AtomicU64,
}

impl RecycledLog {
    /// A new log in `path`, warmed up.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn create(path: &Path, options: &Options) -> wal::Result<Self> {
        let log = Self { wal: open(path, options)?, mark: AtomicU64::new(0) };
        log.append_through(WARM_UP_BYTES)?;
        Ok(log)
    }

    /// Appends `bytes` in records of 1 KiB, releasing what lies behind.
    fn append_through(&self, bytes: u64) -> wal::Result<()> {
        let record = [0xA5; 1024];
        for _ in 0..bytes / 1024 {
            let ticket = self.wal.append(&record)?;
            self.follow(ticket.lsn())?;
        }
        self.wal.flush()?;
        Ok(())
    }

    /// Moves the start mark to the durable mark if `lsn` is far enough past the last one. Waits for
    /// nothing.
    fn follow(&self, lsn: Lsn) -> wal::Result<()> {
        let mark = self.mark.load(Ordering::Relaxed);
        if lsn.get() < mark + CHECKPOINT_BYTES {
            return Ok(());
        }
        let next = self.wal.durable_lsn();
        let is_mine = next.get() > mark
            && self
                .mark
                .compare_exchange(mark, next.get(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_mine {
            // Whenever it is durable is soon enough.
            drop(self.wal.checkpoint(next, b"")?);
        }
        Ok(())
    }

    /// The log's own counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.wal.stats()
    }
}

impl Durable for RecycledLog {
    fn append_durable(&self, payload: &[u8]) {
        let lsn = self.wal.append(payload).expect("an append failed").wait().expect("not durable");
        self.follow(lsn).expect("a checkpoint failed");
    }
}

/// The log in `path` for writing, whatever is in it unread.
///
/// # Errors
///
/// The log's.
pub fn open(path: &Path, options: &Options) -> wal::Result<Wal> {
    let mut replay = options.open(path)?;
    replay.skip_rest();
    Ok(replay.finish()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fresh_directory;

    #[test]
    fn a_warm_log_recycles_its_slots_and_stays_short() {
        let directory = fresh_directory(None).unwrap();
        let options = Options::new().segment_bytes(1 << 20);
        let log = RecycledLog::create(&directory.path().join("log"), &options).unwrap();
        let before = log.stats();
        assert!(before.segments_recycled > 0, "{before:?}");
        log.append_through(2 * CHECKPOINT_BYTES).unwrap();
        log.append_durable(b"durable");
        let after = log.stats();
        assert!(after.segments_recycled > before.segments_recycled, "{after:?}");
        assert!(log.wal.start_mark().get() + 3 * CHECKPOINT_BYTES > log.wal.appended_lsn().get());
    }
}
