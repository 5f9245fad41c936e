//! open-wal: `commit` is a write and an `fdatasync` (README).

use super::{Ending, Failure, Files, Peer};
use open_wal::{Lsn, TailState, Wal, WalConfig, WalError};
use std::path::Path;

/// Of small files, with room for the longest record.
const SMALL: WalConfig = WalConfig { segment_size: 64 << 10, max_record_size: 32 << 10 };

pub(crate) struct Log {
    wal: Wal,
    ending: Ending,
}

impl Peer for Log {
    const NAME: &'static str = "open-wal";
    const VERSION: &'static str = "0.2.1";
    const MODE: &'static str = "append, then Wal::commit";
    const FILES: &'static [Files] = &[Files::Default, Files::Small];

    fn open(dir: &Path, files: Files) -> Result<Self, Failure> {
        let config = match files {
            Files::Default => WalConfig::default(),
            Files::Small => SMALL,
        };
        let (wal, report) = Wal::open(dir, config).map_err(failure)?;
        let ending = match report.tail_state {
            TailState::Clean => Ending::Clean,
            TailState::TruncatedAt { .. } => Ending::Torn,
        };
        Ok(Self { wal, ending })
    }

    fn append(&mut self, _index: u64, record: &[u8]) -> Result<(), Failure> {
        let lsn = self.wal.append(record)?;
        let durable = self.wal.commit()?;
        if durable < lsn {
            return Err(Failure::Other(format!("committed up to {durable}, not to {lsn}")));
        }
        Ok(())
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let mut reader = self.wal.reader_from(Lsn(0)).map_err(failure)?;
        while let Some(record) = reader.next() {
            let (_, record) = record.map_err(failure)?;
            into.push(record.to_vec());
        }
        Ok(self.ending)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}

fn failure(error: WalError) -> Failure {
    match error {
        WalError::Corruption { .. }
        | WalError::TornMidLog { .. }
        | WalError::BadSegmentHeader
        | WalError::ContiguityViolation => Failure::Corrupt(error.to_string()),
        _ => error.into(),
    }
}
