/*!
nodedb-wal: `GroupCommitter::submit`, direct I/O and a double-write buffer, as by default.

Not ranked: of what it acknowledged it gives back only what its first flush held, for its reader stops at
the padding that direct I/O needs. Its file only grows: it is begun anew between rounds.
*/

use super::{Contestant, Found, Keep, Peer, Stream, other};
use nodedb_wal::{
    GroupCommitter, WalWriter, group_commit::PendingWrite, reader::WalReader, record::RecordType,
    writer::WalWriterConfig,
};
use std::{
    io, mem,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

const FILE_NAME: &str = "log.wal";

pub(crate) struct Log {
    writer: Mutex<WalWriter>,
    committer: GroupCommitter,
}

impl Peer for Log {
    const NAME: &'static str = "nodedb-wal";
    const VERSION: &'static str = "0.4.0";
    const MODE: &'static str = "GroupCommitter::submit, direct";
    const UNRANKED: Option<&'static str> = Some("does not give back what it acknowledged");

    fn open(dir: &Path, _keep: Keep) -> io::Result<Self> {
        let config = WalWriterConfig::default();
        let writer = WalWriter::open(&dir.join(FILE_NAME), config).map_err(other)?;
        Ok(Self { writer: Mutex::new(writer), committer: GroupCommitter::new() })
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let mut found = Found::default();
        for record in WalReader::open(&dir.join(FILE_NAME)).map_err(other)?.records() {
            found.add(&record.map_err(other)?.payload);
        }
        Ok(found)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let write = PendingWrite {
            record_type: RECORD_TYPE,
            tenant_id: 1,
            vshard_id: 0,
            database_id: 0,
            payload: payload.to_vec(),
        };
        self.committer.submit(&self.writer, write).map(drop).map_err(other)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(Box::new(Unsynced { writer, count: 0 })))
    }

    /// Nothing can be released of a file.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct Unsynced<'a> {
    writer: MutexGuard<'a, WalWriter>,
    count: usize,
}

#[expect(clippy::as_conversions, reason = "the crate's own discriminant")]
const RECORD_TYPE: u32 = RecordType::Put as u32;

impl Stream for Unsynced<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.writer.append(RECORD_TYPE, 1, 0, 0, payload).map_err(other)?;
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        self.writer.sync().map_err(other)?;
        Ok(mem::take(&mut self.count))
    }
}
