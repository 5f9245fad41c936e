/*!
raft-log, and chunked-wal below it: `append` and `flush` with `sync` and a callback, which comes after
the worker's `fdatasync`.

In two forms: the worker waits 1 ms for company by default, which decides what one writer gets, or not
at all. An append needs the log exclusively, so writers share it by a mutex; they wait outside it.
*/

use super::{Contestant, Found, Keep, Peer, Stream, other};
use raft_log::{Config, RaftLog, Types, api::raft_log_writer::RaftLogWriter};
use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

/// As it is by default.
pub(crate) const WAITING: bool = true;
/// Without a wait for company.
pub(crate) const AT_ONCE: bool = false;

/// As long as the segments of the log that it stands beside: whole chunks are released.
const CHUNK_BYTES: usize = 16 << 20;

/// Entries that are kept in memory as well: few, for nobody reads them.
const CACHE_BYTES: usize = 16 << 20;

pub(crate) struct Log<const WAITS: bool>(Mutex<RaftLog<Plain>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plain;

type Id = (u64, u64);

impl Types for Plain {
    type LogId = Id;
    type LogPayload = Vec<u8>;
    type Vote = Id;
    type Callback = SyncSender<io::Result<()>>;
    type UserData = String;

    fn log_index(id: &Id) -> u64 {
        id.1
    }

    fn payload_size(payload: &Vec<u8>) -> u64 {
        wal_bench::figures::bytes_u64(payload.len())
    }
}

impl<const WAITS: bool> Log<WAITS> {
    fn lock(&self) -> MutexGuard<'_, RaftLog<Plain>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record, and asks to be told when it is durable.
    fn append(&self, payload: &[u8]) -> io::Result<Receiver<io::Result<()>>> {
        let payload = payload.to_vec();
        let (sender, receiver) = sync_channel(1);
        let mut log = self.lock();
        let index = log.log_state().last().map_or(0, |(_, index)| index + 1);
        log.append([((1, index), payload)])?;
        log.flush(true, Some(sender))?;
        Ok(receiver)
    }
}

fn wait(receiver: &Receiver<io::Result<()>>) -> io::Result<()> {
    receiver.recv().map_err(other)?
}

impl<const WAITS: bool> Peer for Log<WAITS> {
    const NAME: &'static str = if WAITS { "raft-log" } else { "raft-log-at-once" };
    const VERSION: &'static str = "0.4.6";
    const MODE: &'static str =
        if WAITS { "append, flush with sync, callback" } else { "the same, flush_batch_wait 0" };
    const OPENS_BY_READING: bool = true;
    const IS_VARIANT: bool = !WAITS;

    fn open(dir: &Path, _keep: Keep) -> io::Result<Self> {
        let mut config = Config::new(dir.to_string_lossy());
        config.wal.chunk_max_size = Some(CHUNK_BYTES);
        config.log_cache_capacity = Some(CACHE_BYTES);
        if !WAITS {
            config.wal.flush_batch_wait = Some(Duration::ZERO);
        }
        Ok(Self(Mutex::new(RaftLog::open(Arc::new(config))?)))
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let log = Self::open(dir, Keep::All)?;
        let log = log.lock();
        let mut found = Found::default();
        for entry in log.read(0, u64::MAX) {
            let (_, record) = entry?;
            found.add(&record);
        }
        Ok(found)
    }
}

impl<const WAITS: bool> Contestant for Log<WAITS> {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        wait(&self.append(payload)?)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Callbacks { log: self, receivers: VecDeque::new() })))
    }

    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        self.stream()
    }

    fn release(&self) -> io::Result<()> {
        let mut log = self.lock();
        let last = log.log_state().last().copied();
        if let Some(last) = last {
            log.purge(last)?;
        }
        // The next flush removes the chunks.
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        self.lock().wait_worker_idle()
    }
}

struct Callbacks<'a, const WAITS: bool> {
    log: &'a Log<WAITS>,
    receivers: VecDeque<Receiver<io::Result<()>>>,
}

impl<const WAITS: bool> Stream for Callbacks<'_, WAITS> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.receivers.push_back(self.log.append(payload)?);
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        let Some(receiver) = self.receivers.pop_front() else { return Ok(0) };
        wait(&receiver)?;
        Ok(1)
    }
}
