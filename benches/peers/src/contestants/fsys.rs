/*!
The journal of fsys: `append`, then `sync_through` with `SyncMode::Full`, the default.

In three forms, for none is the fastest everywhere: with the group commit's window as it is by default,
without a window, and without one on direct I/O. Its one file only grows: it is begun anew between
rounds.
*/

use super::{Contestant, Found, Keep, Peer, Stream, other};
use fsys::{JournalHandle, JournalOptions, JournalReader, Lsn, builder};
use std::{io, mem, path::Path};

const FILE_NAME: &str = "journal";

/// As it is by default.
pub(crate) const WINDOW: u8 = 0;
/// Without a wait for company.
pub(crate) const AT_ONCE: u8 = 1;
/// Without a wait, and past the page cache.
pub(crate) const DIRECT: u8 = 2;

pub(crate) struct Log<const FORM: u8>(JournalHandle);

impl<const FORM: u8> Peer for Log<FORM> {
    const NAME: &'static str = match FORM {
        WINDOW => "fsys",
        AT_ONCE => "fsys-at-once",
        _ => "fsys-direct",
    };
    const VERSION: &'static str = "1.1.3";
    const MODE: &'static str = match FORM {
        WINDOW => "append, then sync_through, SyncMode::Full",
        AT_ONCE => "the same, no group commit window",
        _ => "the same, no group commit window, direct",
    };
    const OPENS_BY_READING: bool = true;
    const IS_VARIANT: bool = FORM != WINDOW;

    fn open(dir: &Path, _keep: Keep) -> io::Result<Self> {
        let mut options = JournalOptions::new().direct(FORM == DIRECT);
        if FORM != WINDOW {
            options = options.group_commit_window(None);
        }
        let handle = builder().build().map_err(other)?;
        let journal = handle.journal_with(dir.join(FILE_NAME), options).map_err(other)?;
        if FORM == DIRECT && !journal.is_direct_active() {
            return Err(other("no direct I/O here"));
        }
        Ok(Self(journal))
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let mut reader = JournalReader::open(&dir.join(FILE_NAME)).map_err(other)?;
        let mut found = Found::default();
        for record in reader.iter() {
            found.add(&record.map_err(other)?.payload);
        }
        Ok(found)
    }
}

impl<const FORM: u8> Contestant for Log<FORM> {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let lsn = self.0.append(payload).map_err(other)?;
        self.0.sync_through(lsn).map_err(other)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(Some(Box::new(Unsynced { journal: &self.0, last: None, count: 0 })))
    }

    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        self.stream()
    }

    /// Nothing can be released.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        self.0.close().map_err(other)
    }
}

struct Unsynced<'a> {
    journal: &'a JournalHandle,
    last: Option<Lsn>,
    count: usize,
}

impl Stream for Unsynced<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.last = Some(self.journal.append(payload).map_err(other)?);
        self.count += 1;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        if let Some(lsn) = self.last.take() {
            self.journal.sync_through(lsn).map_err(other)?;
        }
        Ok(mem::take(&mut self.count))
    }
}
