//! writeahead: a write returns after its `fdatasync` (README, "Guarantees").

use super::{Ending, Failure, Files, Peer};
use futures::{StreamExt, executor::block_on};
use std::path::Path;
use writeahead::{SimpleFile, WriteAhead, WriteAheadOptions, WriteHandle};

/// Of small files.
const FILE_BYTES_MAX: u64 = 128 << 10;

pub(crate) struct Log {
    wal: WriteAhead<SimpleFile>,
    handle: WriteHandle,
}

impl Peer for Log {
    const NAME: &'static str = "writeahead";
    const VERSION: &'static str = "0.4.1";
    const MODE: &'static str = "WriteHandle::write";
    const FILES: &'static [Files] = &[Files::Default, Files::Small];

    fn open(dir: &Path, files: Files) -> Result<Self, Failure> {
        let mut options =
            WriteAheadOptions { log_dir: dir.to_path_buf(), ..WriteAheadOptions::default() };
        if files == Files::Small {
            options.max_file_size = FILE_BYTES_MAX;
        }
        let mut wal = WriteAhead::with_options(options);
        wal.start().map_err(failure)?;
        let handle = wal.writer().map_err(failure)?;
        Ok(Self { wal, handle })
    }

    fn append(&mut self, _index: u64, record: &[u8]) -> Result<(), Failure> {
        block_on(self.handle.write(record.to_vec())).map_err(failure)?;
        Ok(())
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let mut stream = self.wal.create_stream().map_err(failure)?;
        while let Some(entry) = block_on(stream.next()) {
            let (_, record) = entry.map_err(failure)?;
            into.push(record);
        }
        Ok(Ending::Clean)
    }

    fn close(self) -> Result<(), Failure> {
        // Dropping the last handle waits for the writer (README).
        Ok(())
    }
}

/// Its errors are of a kind that only text tells apart.
fn failure(error: impl std::fmt::Display) -> Failure {
    let text = format!("{error:#}");
    if text.contains("corrupted") { Failure::Corrupt(text) } else { Failure::Other(text) }
}
