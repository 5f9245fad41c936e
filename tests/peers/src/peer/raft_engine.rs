//! raft-engine: `Engine::write` with `sync`, and records as the entries of one group.

use super::{Ending, Failure, Files, Peer};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, Error, LogBatch, MessageExt, ReadableSize};
use std::path::Path;

/// The one group that all records belong to.
const GROUP: u64 = 1;

/// Of small files.
const FILE_BYTES: ReadableSize = ReadableSize::kb(128);

pub(crate) struct Log(Engine);

/// Its index is the number that it begins with, and one more: none may be zero.
#[derive(Clone, Debug)]
struct Record;

impl MessageExt for Record {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number)) + 1
    }
}

impl Peer for Log {
    const NAME: &'static str = "raft-engine";
    const VERSION: &'static str = "0.4.2";
    const MODE: &'static str = "Engine::write, sync";
    const FILES: &'static [Files] = &[Files::Default, Files::Small];

    fn open(dir: &Path, files: Files) -> Result<Self, Failure> {
        let mut config = Config { dir: dir.to_string_lossy().into_owned(), ..Config::default() };
        if files == Files::Small {
            config.target_file_size = FILE_BYTES;
        }
        Engine::open(config).map(Self).map_err(failure)
    }

    fn append(&mut self, _index: u64, record: &[u8]) -> Result<(), Failure> {
        let mut entry = BytesValue::new();
        entry.set_value(record.to_vec());
        let mut batch = LogBatch::default();
        batch.add_entries::<Record>(GROUP, &[entry])?;
        self.0.write(&mut batch, true)?;
        Ok(())
    }

    fn read(&mut self, into: &mut Vec<Vec<u8>>) -> Result<Ending, Failure> {
        let Self(engine) = self;
        let (Some(first), Some(last)) = (engine.first_index(GROUP), engine.last_index(GROUP))
        else {
            return Ok(Ending::Clean);
        };
        for index in first..=last {
            let entry = engine.get_entry::<Record>(GROUP, index).map_err(failure)?;
            into.extend(entry.map(|mut entry| entry.take_value()));
        }
        Ok(Ending::Clean)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Corruption(_) | Error::Codec(_) => Failure::Corrupt(error.to_string()),
        _ => error.into(),
    }
}
