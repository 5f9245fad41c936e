/*!
The journal of fsys: `append`, then `sync_through` with `SyncMode::Full`, the default.

Before it is opened for appending, which cuts off what the reader stopped at, it is read as the
documentation of `JournalTailState` says: a bad magic or length is damage, the rest a torn tail.
*/

use super::{Ending, Failure, Files, Peer};
use fsys::{JournalHandle, JournalReader, JournalTailState, builder};
use std::path::Path;

const FILE_NAME: &str = "journal";

pub(crate) struct Log {
    journal: JournalHandle,
    records: Vec<Vec<u8>>,
    ending: Result<Ending, Failure>,
}

impl Peer for Log {
    const NAME: &'static str = "fsys";
    const VERSION: &'static str = "1.1.3";
    const MODE: &'static str = "append, then sync_through, SyncMode::Full, buffered";

    fn open(dir: &Path, _files: Files) -> Result<Self, Failure> {
        let path = dir.join(FILE_NAME);
        let mut records = Vec::new();
        let ending =
            if path.exists() { Self::scan(&path, &mut records) } else { Ok(Ending::Clean) };
        let journal = builder().build()?.journal(&path)?;
        Ok(Self { journal, records, ending })
    }

    fn append(&mut self, _index: u64, record: &[u8]) -> Result<(), Failure> {
        let lsn = self.journal.append(record)?;
        Ok(self.journal.sync_through(lsn)?)
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        into.append(&mut self.records);
        self.ending.clone()
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.journal.close()?)
    }
}

impl Log {
    fn scan(path: &Path, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let mut reader = JournalReader::open(path)?;
        for record in reader.iter() {
            into.push(record?.payload);
        }
        match reader.tail_state() {
            JournalTailState::CleanEnd => Ok(Ending::Clean),
            state @ (JournalTailState::BadMagic | JournalTailState::LengthOverflow) => {
                Err(Failure::Corrupt(format!("{state:?}")))
            }
            _ => Ok(Ending::Torn),
        }
    }
}
