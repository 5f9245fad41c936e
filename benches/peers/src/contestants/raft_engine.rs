/*!
raft-engine: `Engine::write` with `sync`, and records as the entries of groups, one group a writer.

Log files are recycled and written with zeros ahead, which is off by default; compression is off, for
all records of a run are alike.
*/

use super::{Contestant, Found, Keep, Peer, Stream, other};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use std::{
    io, mem,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// As long as the segments of the log that it stands beside.
const FILE_BYTES: ReadableSize = ReadableSize::mb(16);

/// What is read at once; a group's entries are too many for memory.
const READ_COUNT: u64 = 1024;

pub(crate) struct Log {
    engine: Engine,
    /// Groups that no writer uses at the moment: the entries of a group are in one order.
    idle: Mutex<Vec<Group>>,
    groups: AtomicU64,
}

/// The next entry of a group.
#[derive(Clone, Copy)]
struct Group {
    id: u64,
    next_index: u64,
}

/// Its index is the number that it begins with.
#[derive(Clone, Debug)]
struct Record;

impl MessageExt for Record {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
    }
}

impl Group {
    /// `payload` with its first bytes made the index, and not longer for it where it has as many.
    fn batch(&mut self, payload: &[u8]) -> io::Result<LogBatch> {
        let mut value = payload.to_vec();
        value.resize(payload.len().max(size_of::<u64>()), 0);
        value[..size_of::<u64>()].copy_from_slice(&self.next_index.to_le_bytes());
        self.next_index += 1;
        let mut entry = BytesValue::new();
        entry.set_value(value);
        let mut batch = LogBatch::default();
        batch.add_entries::<Record>(self.id, &[entry]).map_err(other)?;
        Ok(batch)
    }
}

impl Log {
    fn take_group(&self) -> Group {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| {
            let id = self.groups.fetch_add(1, Ordering::Relaxed) + 1;
            Group { id, next_index: 1 }
        })
    }

    fn give_back(&self, group: Group) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(group);
    }
}

impl Peer for Log {
    const NAME: &'static str = "raft-engine";
    const VERSION: &'static str = "0.4.2";
    const MODE: &'static str = "Engine::write, sync, recycled and prefilled files";
    const OPENS_BY_READING: bool = true;

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let dir = dir.to_string_lossy().into_owned();
        let mut config = Config {
            dir,
            batch_compression_threshold: ReadableSize(0),
            target_file_size: FILE_BYTES,
            ..Config::default()
        };
        if keep != Keep::All {
            config.enable_log_recycle = true;
            config.prefill_for_recycle = true;
            config.purge_threshold = ReadableSize::mb(if keep == Keep::Recent { 64 } else { 256 });
        }
        let engine = Engine::open(config).map_err(other)?;
        Ok(Self { engine, idle: Mutex::default(), groups: AtomicU64::new(0) })
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let Self { engine, .. } = Self::open(dir, Keep::All)?;
        let mut found = Found::default();
        for group in engine.raft_groups() {
            let (Some(first), Some(last)) = (engine.first_index(group), engine.last_index(group))
            else {
                continue;
            };
            let mut entries = Vec::new();
            let mut from = first;
            while from <= last {
                let to = (from + READ_COUNT).min(last + 1);
                engine
                    .fetch_entries_to::<Record>(group, from, to, None, &mut entries)
                    .map_err(other)?;
                for entry in entries.drain(..) {
                    found.add(&entry.value);
                }
                from = to;
            }
        }
        Ok(found)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let mut group = self.take_group();
        let mut batch = group.batch(payload)?;
        self.engine.write(&mut batch, true).map_err(other)?;
        self.give_back(group);
        Ok(())
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Unsynced { log: self, group: self.take_group(), count: 0 })))
    }

    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        self.stream()
    }

    fn release(&self) -> io::Result<()> {
        for group in self.engine.raft_groups() {
            if let Some(last) = self.engine.last_index(group) {
                self.engine.compact_to(group, last);
            }
        }
        self.engine.purge_expired_files().map(drop).map_err(other)
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct Unsynced<'a> {
    log: &'a Log,
    group: Group,
    count: usize,
}

impl Stream for Unsynced<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut batch = self.group.batch(payload)?;
        self.log.engine.write(&mut batch, false).map_err(other)?;
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        self.log.engine.sync().map_err(other)?;
        Ok(mem::take(&mut self.count))
    }
}

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        self.log.give_back(self.group);
    }
}
