/*!
redb: a transaction for each record, `Durability::Immediate`.

In one phase, the default, which is one sync a commit and as durable: the second phase protects from who
chooses the bytes. A stream's records are in one transaction.
*/

use super::{Contestant, Found, Keep, Keys, Peer, Stream, other};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use std::{io, mem, path::Path};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

const FILE_NAME: &str = "log.redb";

pub(crate) struct Log {
    database: Database,
    keys: Keys,
}

impl Log {
    fn begin(&self) -> io::Result<WriteTransaction> {
        let mut transaction = self.database.begin_write().map_err(other)?;
        transaction.set_durability(Durability::Immediate).map_err(other)?;
        Ok(transaction)
    }

    fn insert(&self, transaction: &WriteTransaction, payload: &[u8]) -> io::Result<()> {
        let mut table = transaction.open_table(RECORDS).map_err(other)?;
        table.insert(self.keys.next(), payload).map(drop).map_err(other)
    }
}

impl Peer for Log {
    const NAME: &'static str = "redb";
    const VERSION: &'static str = "4.5.0";
    const MODE: &'static str = "a transaction each, Durability::Immediate";
    const CHECKS: bool = false;

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let database = Database::create(dir.join(FILE_NAME)).map_err(other)?;
        Ok(Self { database, keys: Keys::new(keep) })
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let log = Self::open(dir, Keep::All)?;
        let transaction = log.database.begin_read().map_err(other)?;
        let table = transaction.open_table(RECORDS).map_err(other)?;
        let mut found = Found::default();
        for item in table.iter().map_err(other)? {
            let (_, record) = item.map_err(other)?;
            found.add(record.value());
        }
        Ok(found)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let transaction = self.begin()?;
        self.insert(&transaction, payload)?;
        transaction.commit().map_err(other)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Open { log: self, transaction: None, count: 0 })))
    }

    /// The same few keys are written again.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct Open<'a> {
    log: &'a Log,
    transaction: Option<WriteTransaction>,
    count: usize,
}

impl Stream for Open<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let transaction = match &mut self.transaction {
            Some(transaction) => transaction,
            none => none.insert(self.log.begin()?),
        };
        self.log.insert(transaction, payload)?;
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        if let Some(transaction) = self.transaction.take() {
            transaction.commit().map_err(other)?;
        }
        Ok(mem::take(&mut self.count))
    }
}
