//! This project's log: `append`, then `Ticket::wait`.

use super::{Contestant, Found, Keep, Peer, Stream, other};
use std::{collections::VecDeque, io, path::Path};
use wal::{Options, Ticket, Wal};
use wal_bench::{
    log::{self, RecycledLog},
    measure::Durable,
};

/// The log keeps one default segment, and goes round three or four slots.
const RECENT_BYTES: u64 = 16 << 20;

/// What is kept of a stream; there are slots for twice that.
const STREAM_BYTES: u64 = 256 << 20;

pub(crate) enum Log {
    Recycled(Box<RecycledLog>),
    Kept(Wal),
}

impl Log {
    fn wal(&self) -> &Wal {
        match self {
            Self::Recycled(log) => log.wal(),
            Self::Kept(wal) => wal,
        }
    }
}

impl Peer for Log {
    const NAME: &'static str = "wal";
    const VERSION: &'static str = "this tree";
    const MODE: &'static str = "append, then Ticket::wait";

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let recycled = |options, bytes| {
            RecycledLog::create(dir, options, bytes).map(|log| Self::Recycled(Box::new(log)))
        };
        match keep {
            Keep::Recent => recycled(&Options::new(), RECENT_BYTES),
            Keep::Stream => {
                recycled(&Options::new().spare_bytes_max(2 * STREAM_BYTES), STREAM_BYTES)
            }
            Keep::All => log::open(dir, &Options::new()).map(|(wal, _)| Self::Kept(wal)),
        }
        .map_err(other)
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let replay = || {
            let mut found = Found::default();
            let mut replay = Options::new().open(dir)?;
            while let Some(record) = replay.next()? {
                found.add(record.payload());
            }
            let (wal, _) = replay.finish()?;
            wal.close()?;
            Ok::<_, wal::Error>(found)
        };
        replay().map_err(other)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        match self {
            Self::Recycled(log) => log.append_durable(payload),
            Self::Kept(wal) => {
                let append = || wal.append(payload)?.wait();
                append().map(drop).map_err(other)
            }
        }
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Tickets { log: self, tickets: VecDeque::new() })))
    }

    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        self.stream()
    }

    /// The start mark follows from where it is appended.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        self.wal().close().map_err(other)
    }
}

struct Tickets<'a> {
    log: &'a Log,
    tickets: VecDeque<Ticket>,
}

impl Stream for Tickets<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.tickets.push_back(self.log.wal().append(payload).map_err(other)?);
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        let Some(ticket) = self.tickets.pop_front() else { return Ok(0) };
        let lsn = ticket.wait().map_err(other)?;
        if let Log::Recycled(log) = self.log {
            log.follow(lsn).map_err(other)?;
        }
        Ok(1)
    }
}
