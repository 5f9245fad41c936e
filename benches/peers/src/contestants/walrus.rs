/*!
walrus-rust: `FsyncSchedule::SyncEach`, which the documentation calls "fsync after every single write
(maximum durability)", on the default backend.

All its logs lie below one directory, which it takes from the environment: the one where every
contestant's directory is (`crate::place`). Files are 1 GiB each, and let go of only when all was read.
A stream is cut into batches, which are synced as a whole.
*/

use super::{Contestant, Found, Keep, Peer, Stream, other};
use std::{io, path::Path};
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

const TOPIC: &str = "log";

/// The most that the crate takes in a batch.
const BATCH_RECORDS: usize = 2000;

/// What is read at once. The crate limits it to 2000 records as well.
const READ_BYTES: usize = 16 << 20;

pub(crate) struct Log(Walrus);

impl Peer for Log {
    const NAME: &'static str = "walrus";
    const VERSION: &'static str = "0.2.0";
    const MODE: &'static str = "FsyncSchedule::SyncEach: O_SYNC writes and fsync";

    fn open(dir: &Path, _keep: Keep) -> io::Result<Self> {
        let key = dir.file_name().unwrap_or_default().to_string_lossy();
        // How far it was read is never written down, so that all is there to be read again.
        let consistency = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let schedule = FsyncSchedule::SyncEach;
        Walrus::with_consistency_and_schedule_for_key(&key, consistency, schedule).map(Self)
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let Self(log) = Self::open(dir, Keep::All)?;
        let mut found = Found::default();
        loop {
            let entries = log.batch_read_for_topic(TOPIC, READ_BYTES, true)?;
            if entries.is_empty() {
                return Ok(found);
            }
            for entry in entries {
                found.add(&entry.data);
            }
        }
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        self.0.append_for_topic(TOPIC, payload).map_err(other)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Batches { log: &self.0, records: Vec::new() })))
    }

    /// Only what was read can be released.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct Batches<'a> {
    log: &'a Walrus,
    records: Vec<Vec<u8>>,
}

impl Stream for Batches<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.records.push(payload.to_vec());
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        let count = self.records.len().min(BATCH_RECORDS);
        let batch: Vec<_> = self.records[..count].iter().map(Vec::as_slice).collect();
        self.log.batch_append_for_topic(TOPIC, &batch)?;
        self.records.drain(..count);
        Ok(count)
    }
}
