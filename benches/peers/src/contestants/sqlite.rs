/*!
SQLite: `journal_mode=WAL`, `synchronous=FULL`, a transaction for each record.

Writers share one connection by a mutex: there is one writer at a time anyway, and with a connection each
they wait by sleeping. A stream's records are in one transaction.
*/

use super::{Contestant, Found, Keep, Keys, Peer, Stream, other};
use rusqlite::{Connection, Error, params};
use std::{
    io, mem,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

const FILE_NAME: &str = "log.sqlite";

pub(crate) struct Log {
    connection: Mutex<Connection>,
    keys: Keys,
}

impl Log {
    fn connect(dir: &Path) -> Result<Connection, Error> {
        let connection = Connection::open(dir.join(FILE_NAME))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY, record BLOB NOT NULL)",
            [],
        )?;
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, connection: &Connection, payload: &[u8]) -> io::Result<()> {
        let number = i64::try_from(self.keys.next()).map_err(other)?;
        let sql = "INSERT OR REPLACE INTO log (number, record) VALUES (?, ?)";
        let insert = || connection.prepare_cached(sql)?.execute(params![number, payload]);
        insert().map(drop).map_err(other)
    }
}

impl Peer for Log {
    const NAME: &'static str = "sqlite";
    const VERSION: &'static str = "3.54.1, bundled by rusqlite 0.41.0";
    const MODE: &'static str = "journal_mode=WAL, synchronous=FULL, autocommit";
    const CHECKS: bool = false;

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let connection = Mutex::new(Self::connect(dir).map_err(other)?);
        Ok(Self { connection, keys: Keys::new(keep) })
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let read = || {
            let connection = Self::connect(dir)?;
            let mut select = connection.prepare("SELECT record FROM log ORDER BY number")?;
            let mut rows = select.query([])?;
            let mut found = Found::default();
            while let Some(row) = rows.next()? {
                found.add(row.get_ref(0)?.as_blob()?);
            }
            Ok::<_, Error>(found)
        };
        read().map_err(other)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        self.insert(&self.lock(), payload)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Open { log: self, connection: self.lock(), count: 0 })))
    }

    /// The same few rows are written again.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        let connection = self.connection.into_inner().unwrap_or_else(PoisonError::into_inner);
        connection.close().map_err(|(_, error)| other(error))
    }
}

struct Open<'a> {
    log: &'a Log,
    connection: MutexGuard<'a, Connection>,
    count: usize,
}

impl Stream for Open<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.count == 0 {
            self.connection.execute_batch("BEGIN IMMEDIATE").map_err(other)?;
        }
        self.log.insert(&self.connection, payload)?;
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        if self.count > 0 {
            self.connection.execute_batch("COMMIT").map_err(other)?;
        }
        Ok(mem::take(&mut self.count))
    }
}
