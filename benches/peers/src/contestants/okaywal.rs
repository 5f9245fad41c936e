/*!
okaywal: `EntryWriter::commit` returns after its `fdatasync` (README, "How OkayWAL works").

A segment that is full is handed to the user, who here needs nothing of it: it is used again. What a
stream appends are the chunks of one entry, for nothing else is acknowledged later.
*/

use super::{Contestant, Found, Keep, Peer, Stream};
use okaywal::{
    Configuration, Entry, EntryId, EntryWriter, LogManager, SegmentReader, WriteAheadLog,
};
use std::{
    io, mem,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// As long as the segments of the log that it stands beside. With those of 1 MiB, the default, a
/// checkpoint comes every few records of 16 KiB.
const SEGMENT_BYTES: u32 = 16 << 20;

pub(crate) struct Log(WriteAheadLog);

#[derive(Debug)]
struct Manager(Arc<Mutex<Found>>);

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let chunks = entry.read_all_chunks()?;
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in chunks.iter().flatten() {
            found.add(chunk);
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn open_into(dir: &Path, keep: Keep, found: Arc<Mutex<Found>>) -> io::Result<Self> {
        let checkpoint_bytes = match keep {
            Keep::Recent | Keep::Stream => u64::from(SEGMENT_BYTES / 4 * 3),
            // What was checkpointed would not be found again.
            Keep::All => u64::MAX,
        };
        Configuration::default_for(dir)
            .preallocate_bytes(SEGMENT_BYTES)
            .checkpoint_after_bytes(checkpoint_bytes)
            .open(Manager(found))
            .map(Self)
    }
}

impl Peer for Log {
    const NAME: &'static str = "okaywal";
    const VERSION: &'static str = "0.3.1";
    const MODE: &'static str = "EntryWriter::commit";
    const OPENS_BY_READING: bool = true;

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        Self::open_into(dir, keep, Arc::default())
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let found = Arc::default();
        Self::open_into(dir, Keep::All, Arc::clone(&found))?.0.shutdown()?;
        Ok(*found.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit().map(drop)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Chunks { log: &self.0, entry: None, count: 0 })))
    }

    /// Done by its own thread when a segment is full.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        self.0.shutdown()
    }
}

struct Chunks<'a> {
    log: &'a WriteAheadLog,
    entry: Option<EntryWriter<'a>>,
    count: usize,
}

impl Stream for Chunks<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let entry = match &mut self.entry {
            Some(entry) => entry,
            none => none.insert(self.log.begin_entry()?),
        };
        entry.write_chunk(payload)?;
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        if let Some(entry) = self.entry.take() {
            entry.commit()?;
        }
        Ok(mem::take(&mut self.count))
    }
}
