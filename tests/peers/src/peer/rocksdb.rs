//! RocksDB: a put with `WriteOptions::set_sync`, so that its log is looked at.

use super::{Ending, Failure, Files, Peer, key};
use rocksdb::{DB, Error, ErrorKind, IteratorMode, Options, WriteOptions};
use std::path::Path;

pub(crate) struct Log(DB);

impl Peer for Log {
    const NAME: &'static str = "rocksdb";
    const VERSION: &'static str = "11.8.1, bundled by rocksdb 0.25.0";
    const MODE: &'static str = "put with sync, the default recovery mode";

    fn open(dir: &Path, _files: Files) -> Result<Self, Failure> {
        let mut options = Options::default();
        options.create_if_missing(true);
        DB::open(&options, dir).map(Self).map_err(failure)
    }

    fn append(&mut self, index: u64, record: &[u8]) -> Result<(), Failure> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.0.put_opt(key(index), record, &options)?)
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        for item in self.0.iterator(IteratorMode::Start) {
            let (_, record) = item.map_err(failure)?;
            into.push(record.into_vec());
        }
        Ok(Ending::Clean)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}

fn failure(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Corruption => Failure::Corrupt(error.to_string()),
        _ => error.into(),
    }
}
