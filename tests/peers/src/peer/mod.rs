//! [`Peer`]: what a log has to bring; one file for each.

#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "fsys")]
mod fsys;
#[cfg(feature = "okaywal")]
mod okaywal;
#[cfg(feature = "open-wal")]
mod open_wal;
#[cfg(feature = "raft-engine")]
mod raft_engine;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sqlite")]
mod sqlite;
mod wal;
#[cfg(feature = "walrus")]
mod walrus;
#[cfg(feature = "writeahead")]
mod writeahead;

use crate::subject::{self, RecoverArguments, WriteArguments};
use clap::ValueEnum;
use std::{error::Error, ffi::OsString, fmt, io, path::Path, process::ExitCode};

/// The calls that make something durable, whoever makes them.
const SYNC_CALLS: &str = "fsync,fdatasync,msync,sync_file_range,pwritev2,syncfs,sync";

/// A log under test.
pub(crate) trait Peer: Sized {
    const NAME: &'static str;
    const VERSION: &'static str;
    /// How it is made durable, for the table.
    const MODE: &'static str;
    /// The sizes of file that it can be told to use.
    const FILES: &'static [Files] = &[Files::Default];
    /// Which system calls are to fail, in one run for each set.
    const INJECTED: &'static [&'static str] = &[SYNC_CALLS];

    /// What it wants to be told through the environment.
    fn environment(_dir: &Path) -> Vec<(&'static str, OsString)> {
        Vec::new()
    }

    /// Opens the log in `dir`, a directory that exists, or makes one there.
    fn open(dir: &Path, files: Files) -> Result<Self, Failure>;

    /// Appends record number `index`, and returns when the peer says that it is durable.
    fn append(&mut self, index: u64, record: &[u8]) -> Result<(), Failure>;

    /// Reads all records in the order of the log into `into`, which keeps what came before an error.
    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure>;

    /// The orderly end.
    fn close(self) -> Result<(), Failure>;
}

/// How large the files are that make up the log, where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Files {
    /// As it is without being told: all records of a run are in the one that is written.
    Default,
    /// Small enough that a run moves to another many times.
    Small,
}

/// What the peer says of its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing of interest.
    #[default]
    Clean,
    /// That something was cut off.
    Torn,
}

/// What the peer says went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The log is damaged.
    Corrupt(String),
    /// Anything else.
    Other(String),
}

impl Failure {
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self.to_string())
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(text) => write!(f, "corrupt {}", text.replace('\n', " ")),
            Self::Other(text) => write!(f, "failed {}", text.replace('\n', " ")),
        }
    }
}

/// A peer that was built.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) files: &'static [Files],
    pub(crate) injected: &'static [&'static str],
    pub(crate) environment: fn(&Path) -> Vec<(&'static str, OsString)>,
    pub(crate) write: fn(&WriteArguments) -> io::Result<ExitCode>,
    pub(crate) recover: fn(&RecoverArguments) -> io::Result<ExitCode>,
}

impl Entry {
    fn of<P: Peer>() -> Self {
        Self {
            name: P::NAME,
            version: P::VERSION,
            mode: P::MODE,
            files: P::FILES,
            injected: P::INJECTED,
            environment: P::environment,
            write: subject::write::<P>,
            recover: subject::recover::<P>,
        }
    }
}

/// All that were built, this log first.
pub(crate) fn all() -> Vec<Entry> {
    vec![
        Entry::of::<wal::Log>(),
        #[cfg(feature = "writeahead")]
        Entry::of::<writeahead::Log>(),
        #[cfg(feature = "open-wal")]
        Entry::of::<open_wal::Log>(),
        #[cfg(feature = "okaywal")]
        Entry::of::<okaywal::Log>(),
        #[cfg(feature = "raft-engine")]
        Entry::of::<raft_engine::Log>(),
        #[cfg(feature = "fsys")]
        Entry::of::<fsys::Log>(),
        #[cfg(feature = "walrus")]
        Entry::of::<walrus::Log>(),
        #[cfg(feature = "fjall")]
        Entry::of::<fjall::Log>(),
        #[cfg(feature = "redb")]
        Entry::of::<redb::Log<{ redb::TRUSTING }>>(),
        #[cfg(feature = "redb")]
        Entry::of::<redb::Log<{ redb::CHECKING }>>(),
        #[cfg(feature = "sqlite")]
        Entry::of::<sqlite::Log>(),
        #[cfg(feature = "rocksdb")]
        Entry::of::<rocksdb::Log>(),
    ]
}

/// A key that sorts like the number.
#[cfg(any(feature = "fjall", feature = "rocksdb"))]
fn key(index: u64) -> String {
    format!("{index:020}")
}
