/*!
walrus-rust: `FsyncSchedule::SyncEach`, which the documentation calls "fsync after every single write
(maximum durability)", on the default backend.

What is read is not consumed, so that a second recovery finds it again: one batch of all records.
*/

use super::{Ending, Failure, Files, Peer, SYNC_CALLS};
use std::{ffi::OsString, path::Path};
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

const TOPIC: &str = "log";

/// What is read at once: more than a run appends. The crate limits it to 2000 records as well.
const READ_BYTES_MAX: usize = 1 << 30;

pub(crate) struct Log(Walrus);

impl Peer for Log {
    const NAME: &'static str = "walrus-rust";
    const VERSION: &'static str = "0.2.0";
    const MODE: &'static str = "FsyncSchedule::SyncEach: O_SYNC writes and fsync";
    const INJECTED: &'static [&'static str] = &[SYNC_CALLS, "pwrite64"];

    fn environment(dir: &Path) -> Vec<(&'static str, OsString)> {
        vec![("WALRUS_DATA_DIR", dir.into()), ("WALRUS_QUIET", "1".into())]
    }

    fn open(_dir: &Path, _files: Files) -> Result<Self, Failure> {
        let schedule = FsyncSchedule::SyncEach;
        let mode = ReadConsistency::StrictlyAtOnce;
        Ok(Self(Walrus::with_consistency_and_schedule(mode, schedule)?))
    }

    fn append(&mut self, _index: u64, record: &[u8]) -> Result<(), Failure> {
        Ok(self.0.append_for_topic(TOPIC, record)?)
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let entries = self.0.batch_read_for_topic(TOPIC, READ_BYTES_MAX, false)?;
        into.extend(entries.into_iter().map(|entry| entry.data));
        Ok(Ending::Clean)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}
