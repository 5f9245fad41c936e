//! A file that is written and never synced: who looks for syncs must find that there are none.

use super::{Contestant, Found, Keep, Peer, Stream};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};
use wal_bench::figures::bytes_u64;

const FILE_NAME: &str = "log";

pub(crate) struct Log(File);

impl Peer for Log {
    const NAME: &'static str = "unsynced";
    const VERSION: &'static str = "none";
    const MODE: &'static str = "write, and nothing else";

    fn open(dir: &Path, _keep: Keep) -> io::Result<Self> {
        File::options().create(true).append(true).open(dir.join(FILE_NAME)).map(Self)
    }

    /// It has no records: all of it is one.
    fn recover(dir: &Path) -> io::Result<Found> {
        Ok(Found { records: 1, bytes: bytes_u64(fs::read(dir.join(FILE_NAME))?.len()) })
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        (&self.0).write_all(payload)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        Ok(None)
    }

    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}
