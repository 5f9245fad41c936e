//! redb: a transaction for each record, `Durability::Immediate`, two-phase commit.

use super::{Ending, Failure, Files, Peer};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError,
};
use std::path::Path;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

const FILE_NAME: &str = "log.redb";

/// Opens as it does by default.
pub(crate) const TRUSTING: bool = false;
/// Opens with `set_check_integrity_on_open`.
pub(crate) const CHECKING: bool = true;

pub(crate) struct Log<const CHECKS: bool>(Database);

impl<const CHECKS: bool> Peer for Log<CHECKS> {
    const NAME: &'static str = if CHECKS { "redb-checked" } else { "redb" };
    const VERSION: &'static str = "4.5.0";
    const MODE: &'static str = if CHECKS {
        "Durability::Immediate, two-phase commit, check_integrity_on_open"
    } else {
        "Durability::Immediate, two-phase commit"
    };

    fn open(dir: &Path, _files: Files) -> Result<Self, Failure> {
        let mut builder = Builder::new();
        builder.set_check_integrity_on_open(CHECKS);
        builder.create(dir.join(FILE_NAME)).map(Self).map_err(|error| match error {
            DatabaseError::Storage(error) => failure(error),
            error => error.into(),
        })
    }

    fn append(&mut self, index: u64, record: &[u8]) -> Result<(), Failure> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        transaction.open_table(RECORDS)?.insert(index, record)?;
        Ok(transaction.commit()?)
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let table = match self.0.begin_read()?.open_table(RECORDS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Ending::Clean),
            Err(TableError::Storage(error)) => return Err(failure(error)),
            table => table?,
        };
        for item in table.iter().map_err(failure)? {
            let (_, record) = item.map_err(failure)?;
            into.push(record.value().to_vec());
        }
        Ok(Ending::Clean)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}

fn failure(error: StorageError) -> Failure {
    match error {
        StorageError::Corrupted(text) => Failure::Corrupt(text),
        error => error.into(),
    }
}
