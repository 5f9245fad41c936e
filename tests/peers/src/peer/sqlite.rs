//! SQLite: `journal_mode=WAL`, `synchronous=FULL`, a transaction for each record.

use super::{Ending, Failure, Files, Peer};
use rusqlite::{Connection, Error, ErrorCode, params};
use std::path::Path;

const FILE_NAME: &str = "log.sqlite";

pub(crate) struct Log(Connection);

impl Peer for Log {
    const NAME: &'static str = "sqlite";
    const VERSION: &'static str = "3.54.1, bundled by rusqlite 0.41.0";
    const MODE: &'static str = "journal_mode=WAL, synchronous=FULL, autocommit";

    fn open(dir: &Path, _files: Files) -> Result<Self, Failure> {
        Self::connect(dir).map(Self).map_err(failure)
    }

    fn append(&mut self, index: u64, record: &[u8]) -> Result<(), Failure> {
        let index = i64::try_from(index)?;
        let mut insert = self.0.prepare_cached("INSERT INTO log (number, record) VALUES (?, ?)")?;
        insert.execute(params![index, record])?;
        Ok(())
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let mut select =
            self.0.prepare("SELECT record FROM log ORDER BY number").map_err(failure)?;
        let mut rows = select.query([]).map_err(failure)?;
        while let Some(row) = rows.next().map_err(failure)? {
            into.push(row.get(0).map_err(failure)?);
        }
        Ok(Ending::Clean)
    }

    fn close(self) -> Result<(), Failure> {
        self.0.close().map_err(|(_, error)| failure(error))
    }
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
}

fn failure(error: Error) -> Failure {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Failure::Corrupt(error.to_string())
        }
        _ => error.into(),
    }
}
