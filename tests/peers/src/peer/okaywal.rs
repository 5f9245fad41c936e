/*!
okaywal: `EntryWriter::commit` returns after its `fdatasync` (README, "How OkayWAL works").

Records come back through a callback, which here does what that of `examples/basic.rs` does: an entry
that was not written to its end is left out, an error goes on to the caller.
*/

use super::{Ending, Failure, Files, Peer};
use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Large enough that no run fills it: what a full segment holds is handed to the user for good, and
/// would not be found again.
const SEGMENT_BYTES: u32 = 4 << 20;

pub(crate) struct Log {
    wal: WriteAheadLog,
    found: Arc<Mutex<Found>>,
}

#[derive(Clone, Debug, Default)]
struct Found {
    records: Vec<Vec<u8>>,
    ending: Ending,
}

#[derive(Debug)]
struct Manager(Arc<Mutex<Found>>);

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match entry.read_all_chunks()? {
            Some(chunks) => found.records.extend(chunks),
            None => found.ending = Ending::Torn,
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> io::Result<()> {
        Err(io::Error::other("a segment is full"))
    }
}

impl Peer for Log {
    const NAME: &'static str = "okaywal";
    const VERSION: &'static str = "0.3.1";
    const MODE: &'static str = "EntryWriter::commit";

    fn open(dir: &Path, _files: Files) -> Result<Self, Failure> {
        let found = Arc::default();
        let wal = Configuration::default_for(dir)
            .preallocate_bytes(SEGMENT_BYTES)
            .checkpoint_after_bytes(u64::from(SEGMENT_BYTES / 4 * 3))
            .open(Manager(Arc::clone(&found)))
            .map_err(failure)?;
        Ok(Self { wal, found })
    }

    fn append(&mut self, _index: u64, record: &[u8]) -> Result<(), Failure> {
        let mut entry = self.wal.begin_entry()?;
        entry.write_chunk(record)?;
        entry.commit()?;
        Ok(())
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut found.records);
        Ok(found.ending)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.wal.shutdown()?)
    }
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidData => Failure::Corrupt(error.to_string()),
        _ => error.into(),
    }
}
