//! [`Options`]: how a log is opened.

use crate::{
    Error, ErrorKind, Lsn, Result,
    commit::Settings,
    format::{BLOCK_BYTES_DEFAULT, BLOCK_BYTES_MIN, Identity, LogId},
    io::{Directory, Storage},
    read_only::ReadOnly,
    recovery::{self, Policy},
    replay::Replay,
};
use std::{path::Path, time::Duration};

/// Whether a log is created where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Create {
    /// A log that is missing is created, one that exists is opened.
    #[default]
    IfMissing,
    /// A log that is missing is [`ErrorKind::NotFound`].
    Never,
    /// A log that exists is [`ErrorKind::InvalidInput`].
    New,
}

/// What is made of a tail that the device cannot read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnreadableTail {
    /// The log is not opened: what cannot be read today may be readable tomorrow.
    #[default]
    Refuse,
    /// The log ends there, as if the last write had been torn. Never below a durable mark. A file
    /// `cut-…` is left in the log's directory, with the intact frames behind the end, if there are any:
    /// while it is there, what could not be read never comes back, however often that happens.
    TreatAsTorn,
}

/// The block of a log that is created.
#[derive(Clone, Copy, Debug)]
enum Block {
    Bytes(u32),
    OfDevice,
}

/// How a log is opened. Settings are checked once, when it is.
///
/// ```
/// # fn main() -> wal::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let options = wal::Options::new().segment_bytes(1 << 20).pool_bytes(4 << 20);
/// let mut replay = options.open(dir.path().join("log"))?;
/// assert!(replay.next()?.is_none());
/// let (wal, report) = replay.finish()?;
/// assert!(report.created);
/// wal.close()
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    segment_bytes: u64,
    block: Block,
    pool_bytes: u64,
    frame_bytes: u32,
    depth: u32,
    linger: Duration,
    confirm_after: Duration,
    lock_timeout: Duration,
    log_bytes_max: u64,
    spare_bytes_max: Option<u64>,
    expect_at_least: Option<Lsn>,
    unreadable_tail: UnreadableTail,
    create: Create,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            block: Block::Bytes(BLOCK_BYTES_DEFAULT),
            pool_bytes: 16 << 20,
            frame_bytes: 1 << 20,
            depth: 4,
            linger: Duration::from_millis(10),
            confirm_after: Duration::from_secs(1),
            lock_timeout: Duration::from_secs(5),
            log_bytes_max: u64::MAX,
            spare_bytes_max: None,
            expect_at_least: None,
            unreadable_tail: UnreadableTail::default(),
            create: Create::default(),
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The length of every segment in bytes, used when the log is created: a multiple of the block,
    /// from 16 blocks to 256 MiB. Default 16 MiB. A record is at most a few blocks shorter. Opening
    /// reads up to two segments.
    pub fn segment_bytes(self, bytes: u64) -> Self {
        Self { segment_bytes: bytes, ..self }
    }

    /// The block in bytes, used when the log is created: a power of two from 512 to 65536, not below
    /// the device's logical block. Default 4096. A lone commit takes a whole block.
    pub fn block_bytes(self, bytes: u32) -> Self {
        Self { block: Block::Bytes(bytes), ..self }
    }

    /// The block is the device's physical one if that is smaller than 4096 bytes, else 4096, but never below
    /// what direct I/O to it is aligned to; used when the log is created. Where it is 512 a small lone commit
    /// takes an eighth of the room, and as much less of it is written and read again. Not the default: a log
    /// with small blocks cannot be opened on a device with larger ones, wherever it is copied to; and not
    /// every disk that calls its blocks small writes small ones as fast.
    pub fn block_of_device(self) -> Self {
        Self { block: Block::OfDevice, ..self }
    }

    /// The memory for frames in bytes, from two frames to 1 GiB. Default 16 MiB. Appends wait, or
    /// answer [`ErrorKind::WouldBlock`], while all of it waits for the disk.
    pub fn pool_bytes(self, bytes: u64) -> Self {
        Self { pool_bytes: bytes, ..self }
    }

    /// What a frame holds before it is written though nobody waits, in bytes: from 16 KiB to 64 MiB,
    /// rounded up to blocks. Default 1 MiB. A longer record gets a frame, and memory, of its own.
    pub fn frame_bytes(self, bytes: u32) -> Self {
        Self { frame_bytes: bytes, ..self }
    }

    /// How many full frames may be in flight at once, from 1 to 64. Default 4. The storage may allow
    /// less. Frames that are not full are always written one at a time.
    pub fn depth(self, frames: u32) -> Self {
        Self { depth: frames, ..self }
    }

    /// After what time records are written that nobody waits for. Default 10 ms; up to an hour.
    pub fn linger(self, time: Duration) -> Self {
        Self { linger: time, ..self }
    }

    /// After what idle time an empty frame is written that vouches for the last one. Default 1 s; up
    /// to a day. Until then damage to the last frame cannot be told from a torn write.
    pub fn confirm_after(self, time: Duration) -> Self {
        Self { confirm_after: time, ..self }
    }

    /// How long an open waits for a log of this process that was dropped or has latched, and whose last
    /// calls of the disk are still under way. Default 5 s; up to an hour, and zero for not at all. A log
    /// that goes on, and any of another process, is [`ErrorKind::Locked`] at once.
    pub fn lock_timeout(self, time: Duration) -> Self {
        Self { lock_timeout: time, ..self }
    }

    /// The most that the log's segments may take on disk, in bytes: at least three segments. Default
    /// no limit. At the limit, appends answer [`ErrorKind::NoSpace`] until a checkpoint frees room.
    pub fn log_bytes_max(self, bytes: u64) -> Self {
        Self { log_bytes_max: bytes, ..self }
    }

    /// How much of what a checkpoint frees is kept for reuse, in bytes; the rest goes back to the
    /// file system. Default eight segments. Reuse spares writing every byte twice.
    pub fn spare_bytes_max(self, bytes: u64) -> Self {
        Self { spare_bytes_max: Some(bytes), ..self }
    }

    /// Refuses a log that ends before the record at `lsn`, or does not have it: for callers who
    /// remember how far they were. The one thing that tells an old copy from the log.
    pub fn expect_at_least(self, lsn: Lsn) -> Self {
        Self { expect_at_least: Some(lsn), ..self }
    }

    /// What is made of a tail that cannot be read. Default: the log is not opened.
    pub fn unreadable_tail(self, choice: UnreadableTail) -> Self {
        Self { unreadable_tail: choice, ..self }
    }

    /// Whether a missing log is created. Default: it is.
    pub fn create(self, choice: Create) -> Self {
        Self { create: choice, ..self }
    }

    /// Opens the log in directory `path` for writing: takes the lock, flushes, scans, decides. Not a
    /// byte of an existing log is written before [`Replay::finish`]. Scanning, and the replay after it,
    /// are read ahead of by four threads with up to 12 MiB.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] while somebody else has it, or a log of this process that has ended still
    /// writes to it after [`Options::lock_timeout`]; [`ErrorKind::Corrupt`]
    /// for damage to what was acknowledged, [`ErrorKind::Unsupported`] for another format version or
    /// a device with larger blocks, [`ErrorKind::NotFound`] and [`ErrorKind::InvalidInput`] as
    /// [`Create`] says, [`ErrorKind::InvalidInput`] for settings out of range, [`ErrorKind::NoSpace`]
    /// and [`ErrorKind::Io`] for the system's refusals.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Replay<Directory>> {
        self.open_in(Directory::new(path.as_ref()))
    }

    /// The same in any [`Storage`].
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open_in<S: Storage>(&self, storage: S) -> Result<Replay<S>> {
        self.check()?;
        let (block_bytes, block_may_grow) = match self.block {
            Block::Bytes(bytes) => (bytes, false),
            // What is no power of two, or too small for a log, is refused below.
            Block::OfDevice => (storage.physical_block_bytes().min(BLOCK_BYTES_DEFAULT), true),
        };
        let policy = Policy {
            segment_bytes: self.segment_bytes,
            block_bytes,
            block_may_grow,
            created_at: storage.unix_time().as_secs(),
            create: match self.create {
                Create::IfMissing => recovery::Missing::Create,
                Create::Never => recovery::Missing::Refuse,
                Create::New => recovery::Missing::CreateOnly,
            },
            expect_at_least: self.expect_at_least,
            lock_timeout: self.lock_timeout,
            unreadable_is_torn: self.unreadable_tail == UnreadableTail::TreatAsTorn,
        };
        // What is for a new log is held against the device, and against the cap, only where there is no log,
        // and before anything is made. One that is there has what it got, and the cap is held against that.
        let too_small = || out_of_range("log_bytes_max", "at least three segments");
        let is_capped = self.log_bytes_max / 3 < self.segment_bytes;
        let fits = are_sizes(self.segment_bytes, block_bytes);
        let is_new = || !recovery::Names::list(&storage).is_ok_and(|names| names.identity);
        if (is_capped || !fits) && is_new() {
            return Err(if fits { too_small() } else { sizes_out_of_range() });
        }
        let replay = Replay::open(storage, policy, self.clone())?;
        if self.log_bytes_max / 3 < replay.report().segment_bytes {
            return Err(too_small());
        }
        Ok(replay)
    }

    /// Opens the log in directory `path` for reading only: without the lock, without writing,
    /// without repairing, also while another process writes. Its scan is read ahead of, as
    /// [`Options::open`]'s is; what is looked up in it later is not.
    ///
    /// # Errors
    /// As [`Options::open`], without [`ErrorKind::Locked`].
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<ReadOnly<Directory>> {
        self.open_read_only_in(Directory::new(path.as_ref()))
    }

    /// The same in any [`Storage`].
    ///
    /// # Errors
    /// As [`Options::open_read_only`].
    pub fn open_read_only_in<S: Storage>(&self, storage: S) -> Result<ReadOnly<S>> {
        ReadOnly::open(storage, self.unreadable_tail == UnreadableTail::TreatAsTorn)
    }

    /// The settings of the writer, for a log of `identity`, which may differ from what a new one
    /// would be.
    pub(crate) fn settings(&self, identity: &Identity) -> Settings {
        Settings {
            pool_bytes: self.pool_bytes,
            frame_bytes: self.frame_bytes.max(identity.block_bytes),
            depth: self.depth,
            linger: self.linger,
            confirm_after: self.confirm_after,
            log_bytes_max: self.log_bytes_max,
            spare_bytes_max: self
                .spare_bytes_max
                .unwrap_or_else(|| identity.segment_bytes.saturating_mul(8)),
        }
    }

    /// Refuses what is wrong wherever it is used.
    fn check(&self) -> Result<()> {
        let block_bytes = match self.block {
            Block::Bytes(bytes) => bytes,
            // With the smallest one there is; with the device's own where there is no log yet.
            Block::OfDevice => BLOCK_BYTES_MIN,
        };
        if !are_sizes(self.segment_bytes, block_bytes) {
            return Err(sizes_out_of_range());
        }
        if !(16 << 10..=64 << 20).contains(&self.frame_bytes) {
            return Err(out_of_range("frame_bytes", "16 KiB to 64 MiB"));
        }
        if !(2 * u64::from(self.frame_bytes)..=1 << 30).contains(&self.pool_bytes) {
            return Err(out_of_range("pool_bytes", "two frames to 1 GiB"));
        }
        if !(1..=64).contains(&self.depth) {
            return Err(out_of_range("depth", "1 to 64"));
        }
        if self.linger > Duration::from_secs(3600) {
            return Err(out_of_range("linger", "up to an hour"));
        }
        if self.confirm_after > Duration::from_secs(86400) {
            return Err(out_of_range("confirm_after", "up to a day"));
        }
        if self.lock_timeout > Duration::from_secs(3600) {
            return Err(out_of_range("lock_timeout", "up to an hour"));
        }
        Ok(())
    }
}

/// Whether a log can have them.
fn are_sizes(segment_bytes: u64, block_bytes: u32) -> bool {
    Identity::new(LogId([0; 16]), segment_bytes, block_bytes, 0).is_some()
}

fn sizes_out_of_range() -> Error {
    out_of_range("segment_bytes or block_bytes", "16 blocks to 256 MiB, 512 to 65536")
}

fn out_of_range(option: &str, range: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("option {option} is out of range ({range})"))
}
