/*!
fjall: an insert, then `persist` with `PersistMode::SyncData`, which is an `fdatasync`: on Linux what a
reader needs is on stable storage after it, and `SyncAll` only costs more.

Its journal is not compressed, for all records of a run are alike.
*/

use super::{Contestant, Found, Keep, Keys, Peer, Stream, other};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::{io, mem, path::Path};

pub(crate) struct Log {
    database: Database,
    records: Keyspace,
    keys: Keys,
}

impl Log {
    fn insert(&self, payload: &[u8]) -> io::Result<()> {
        self.records.insert(self.keys.next().to_string(), payload).map_err(other)
    }

    fn persist(&self) -> io::Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(other)
    }
}

impl Peer for Log {
    const NAME: &'static str = "fjall";
    const VERSION: &'static str = "3.1.13";
    const MODE: &'static str = "insert, then persist(SyncData)";
    const OPENS_BY_READING: bool = true;

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let database = Database::builder(dir)
            .journal_compression(CompressionType::None)
            .open()
            .map_err(other)?;
        let records = database.keyspace("log", KeyspaceCreateOptions::default).map_err(other)?;
        Ok(Self { database, records, keys: Keys::new(keep) })
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let log = Self::open(dir, Keep::All)?;
        let mut found = Found::default();
        for item in log.records.iter() {
            found.add(&item.value().map_err(other)?);
        }
        Ok(found)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        self.insert(payload)?;
        self.persist()
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Unsynced { log: self, count: 0 })))
    }

    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        self.stream()
    }

    /// Its journals go when their tables are written; the same few keys are written again.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct Unsynced<'a> {
    log: &'a Log,
    count: usize,
}

impl Stream for Unsynced<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.log.insert(payload)?;
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        self.log.persist()?;
        Ok(mem::take(&mut self.count))
    }
}
