//! [`Contestant`]: a log that is measured; one file for each.

#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "fsys")]
mod fsys;
#[cfg(feature = "nodedb")]
mod nodedb;
#[cfg(feature = "okaywal")]
mod okaywal;
#[cfg(feature = "raft-engine")]
mod raft_engine;
#[cfg(feature = "raft-log")]
mod raft_log;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sqlite")]
mod sqlite;
mod unsynced;
mod wal;
#[cfg(feature = "walrus")]
mod walrus;
#[cfg(feature = "writeahead")]
mod writeahead;

use std::{fmt, io, path::Path};

/// A log that is open for appending, in the strongest durable mode that it has.
pub(crate) trait Contestant: Send + Sync {
    /// Returns when the peer says that `payload` is durable. Called by all writers at once.
    fn append_durable(&self, payload: &[u8]) -> io::Result<()>;

    /// Appends by one thread that runs ahead of the disk, or `None` where every append waits.
    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>>;

    /// The same for one of several threads that do so at once, or `None` where one keeps out the others.
    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(None)
    }

    /// Lets go of what the user needs no longer, as programs do now and then while they write: called
    /// ten times a second, by a thread of its own.
    fn release(&self) -> io::Result<()>;

    /// The orderly end.
    fn close(self: Box<Self>) -> io::Result<()>;
}

/// Appends that nobody waits for at once.
pub(crate) trait Stream {
    /// Appends without waiting for this record; may wait for earlier ones.
    fn append(&mut self, payload: &[u8]) -> io::Result<()>;

    /// Returns when at least the oldest record is durable that was not yet: how many of them are now.
    fn settle(&mut self) -> io::Result<usize>;
}

/// How a contestant is told to keep its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Few, so that files are used again: each writer waits for its record.
    Recent,
    /// Few, but a few hundred MiB of them: one thread that runs ahead.
    Stream,
    /// All, to be read again.
    All,
}

/// What was found in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Found {
    fn add(&mut self, record: &[u8]) {
        self.records += 1;
        self.bytes += wal_bench::figures::bytes_u64(record.len());
    }
}

/// How a log is opened, which needs its type.
trait Peer: Contestant + Sized + 'static {
    const NAME: &'static str;
    const VERSION: &'static str;
    /// How it is made durable.
    const MODE: &'static str;
    /// Why it is measured but not ranked, where that is known without looking.
    const UNRANKED: Option<&'static str> = None;
    /// Whether its open reads every record, so that there is no opening apart from recovery.
    const OPENS_BY_READING: bool = false;
    /// Whether it is another form of one before it, whose files it has: it is not recovered again.
    const IS_VARIANT: bool = false;
    /// Whether a record that is read again was held against a checksum.
    const CHECKS: bool = true;

    /// Opens the log in `dir`, a directory that exists, or makes one there.
    fn open(dir: &Path, keep: Keep) -> io::Result<Self>;

    /// Opens a log that was closed, and reads every record in it.
    fn recover(dir: &Path) -> io::Result<Found>;
}

/// A contestant that was built.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) unranked: Option<&'static str>,
    pub(crate) opens_by_reading: bool,
    pub(crate) is_variant: bool,
    pub(crate) checks: bool,
    pub(crate) open: fn(&Path, Keep) -> io::Result<Box<dyn Contestant>>,
    pub(crate) recover: fn(&Path) -> io::Result<Found>,
}

impl Entry {
    fn of<P: Peer>() -> Self {
        Self {
            name: P::NAME,
            version: P::VERSION,
            mode: P::MODE,
            unranked: P::UNRANKED,
            opens_by_reading: P::OPENS_BY_READING,
            is_variant: P::IS_VARIANT,
            checks: P::CHECKS,
            open: |dir, keep| Ok(Box::new(P::open(dir, keep)?)),
            recover: P::recover,
        }
    }
}

/// All that were built, this log first.
pub(crate) fn all() -> Vec<Entry> {
    vec![
        Entry::of::<wal::Log>(),
        #[cfg(feature = "writeahead")]
        Entry::of::<writeahead::Log>(),
        #[cfg(feature = "raft-engine")]
        Entry::of::<raft_engine::Log>(),
        #[cfg(feature = "okaywal")]
        Entry::of::<okaywal::Log>(),
        #[cfg(feature = "fsys")]
        Entry::of::<fsys::Log<{ fsys::WINDOW }>>(),
        #[cfg(feature = "fsys")]
        Entry::of::<fsys::Log<{ fsys::AT_ONCE }>>(),
        #[cfg(feature = "fsys")]
        Entry::of::<fsys::Log<{ fsys::DIRECT }>>(),
        #[cfg(feature = "raft-log")]
        Entry::of::<raft_log::Log<{ raft_log::WAITING }>>(),
        #[cfg(feature = "raft-log")]
        Entry::of::<raft_log::Log<{ raft_log::AT_ONCE }>>(),
        #[cfg(feature = "walrus")]
        Entry::of::<walrus::Log>(),
        #[cfg(feature = "fjall")]
        Entry::of::<fjall::Log>(),
        #[cfg(feature = "redb")]
        Entry::of::<redb::Log>(),
        #[cfg(feature = "sqlite")]
        Entry::of::<sqlite::Log>(),
        #[cfg(feature = "nodedb")]
        Entry::of::<nodedb::Log>(),
        #[cfg(feature = "rocksdb")]
        Entry::of::<rocksdb::Log>(),
    ]
}

/// Who promises what it does not do: there only when it is asked for by name.
pub(crate) fn canary() -> Entry {
    Entry::of::<unsynced::Log>()
}

/// An error of a peer, as text.
fn other(error: impl fmt::Display) -> io::Error {
    io::Error::other(error.to_string().replace('\n', " "))
}

/// Numbers for the records of a store that has keys.
#[cfg(any(feature = "fjall", feature = "redb", feature = "rocksdb", feature = "sqlite"))]
#[derive(Debug)]
struct Keys {
    next: std::sync::atomic::AtomicU64,
    /// How many keys there are before the first comes again: a store stays small by being overwritten.
    count: u64,
}

#[cfg(any(feature = "fjall", feature = "redb", feature = "rocksdb", feature = "sqlite"))]
impl Keys {
    /// Few enough for every store to keep them in memory, more than there are writers or records that
    /// wait in a window.
    const RECENT: u64 = 4096;

    fn new(keep: Keep) -> Self {
        let count = match keep {
            Keep::Recent => Self::RECENT,
            // More than a window of records that are not durable yet.
            Keep::Stream => 256 * Self::RECENT,
            Keep::All => u64::MAX,
        };
        Self { next: 0.into(), count }
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.count
    }
}
