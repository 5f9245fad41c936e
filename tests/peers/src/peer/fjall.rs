//! fjall: an insert, then `persist` with `PersistMode::SyncAll`, so that its journal is looked at.

use super::{Ending, Failure, Files, Peer, key};
use fjall::{Database, Error, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;

pub(crate) struct Log {
    database: Database,
    records: Keyspace,
}

impl Peer for Log {
    const NAME: &'static str = "fjall";
    const VERSION: &'static str = "3.1.13";
    const MODE: &'static str = "insert, then persist(SyncAll)";

    fn open(dir: &Path, _files: Files) -> Result<Self, Failure> {
        let database = Database::builder(dir).open().map_err(failure)?;
        let records = database.keyspace("log", KeyspaceCreateOptions::default).map_err(failure)?;
        Ok(Self { database, records })
    }

    fn append(&mut self, index: u64, record: &[u8]) -> Result<(), Failure> {
        self.records.insert(key(index), record)?;
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        for item in self.records.iter() {
            into.push(item.value().map_err(failure)?.to_vec());
        }
        Ok(Ending::Clean)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::JournalRecovery(_)
        | Error::InvalidTrailer
        | Error::InvalidTag(_)
        | Error::Decompress(_)
        | Error::Unrecoverable => Failure::Corrupt(error.to_string()),
        _ => error.into(),
    }
}
