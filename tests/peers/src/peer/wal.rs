//! This project's log.

use super::{Ending, Failure, Files, Peer};
use std::path::Path;
use wal::{ErrorKind, Options, Verdict, Wal};

/// Of small files.
const SEGMENT_BYTES: u64 = 64 << 10;

pub(crate) struct Log {
    wal: Wal,
    records: Vec<Vec<u8>>,
    ending: Ending,
}

impl Peer for Log {
    const NAME: &'static str = "wal";
    const VERSION: &'static str = "this tree";
    const MODE: &'static str = "append, then Ticket::wait";
    const FILES: &'static [Files] = &[Files::Default, Files::Small];

    fn open(dir: &Path, files: Files) -> Result<Self, Failure> {
        Self::replay(dir, files).map_err(|error| match error.kind() {
            ErrorKind::Corrupt => Failure::Corrupt(error.to_string()),
            _ => error.into(),
        })
    }

    fn append(&mut self, _index: u64, record: &[u8]) -> Result<(), Failure> {
        self.wal.append(record)?.wait()?;
        Ok(())
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        into.append(&mut self.records);
        Ok(self.ending)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.wal.close()?)
    }
}

impl Log {
    fn replay(dir: &Path, files: Files) -> wal::Result<Self> {
        let options = match files {
            Files::Default => Options::new(),
            Files::Small => Options::new().segment_bytes(SEGMENT_BYTES),
        };
        let mut replay = options.open(dir)?;
        let mut records = Vec::new();
        while let Some(record) = replay.next()? {
            records.push(record.payload().to_vec());
        }
        let (wal, report) = replay.finish()?;
        let ending = match report.verdict {
            Verdict::TornTail => Ending::Torn,
            _ => Ending::Clean,
        };
        Ok(Self { wal, records, ending })
    }
}
