//! RocksDB: a put with `WriteOptions::set_sync`, log files used again (`recycle_log_file_num`).

use super::{Contestant, Found, Keep, Keys, Peer, Stream, other};
use rocksdb::{DB, IteratorMode, Options, WriteOptions};
use std::{io, mem, path::Path};

/// Log files that are kept to be written again.
const RECYCLED: usize = 4;

pub(crate) struct Log {
    database: DB,
    synced: WriteOptions,
    keys: Keys,
}

impl Peer for Log {
    const NAME: &'static str = "rocksdb";
    const VERSION: &'static str = "11.8.1, bundled by rocksdb 0.25.0";
    const MODE: &'static str = "put with sync";

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_recycle_log_file_num(RECYCLED);
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let database = DB::open(&options, dir).map_err(other)?;
        Ok(Self { database, synced, keys: Keys::new(keep) })
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let log = Self::open(dir, Keep::All)?;
        let mut found = Found::default();
        for item in log.database.iterator(IteratorMode::Start) {
            let (_, record) = item.map_err(other)?;
            found.add(&record);
        }
        Ok(found)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let key = self.keys.next().to_string();
        self.database.put_opt(key, payload, &self.synced).map_err(other)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Unsynced { log: self, count: 0 })))
    }

    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        self.stream()
    }

    /// Its logs go when their tables are written; the same few keys are written again.
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
        self.log.database.put(self.log.keys.next().to_string(), payload).map_err(other)?;
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        self.log.database.flush_wal(true).map_err(other)?;
        Ok(mem::take(&mut self.count))
    }
}
