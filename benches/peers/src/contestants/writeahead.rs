/*!
writeahead: a write returns after its `fdatasync` (README, "Guarantees").

A stream's writes are futures that are polled once, so that each is in the queue of the writer's thread,
which is long enough for all of them.
*/

use super::{Contestant, Found, Keep, Peer, Stream, other};
use futures::{
    FutureExt, StreamExt, executor::block_on, future::BoxFuture, stream::FuturesOrdered,
};
use std::{io, path::Path};
use writeahead::{SimpleFile, WriteAhead, WriteAheadOptions, WriteHandle};

/// More than writers or records in a window. The default, 64, makes them wait for room.
const QUEUE_CAPACITY: usize = 1 << 16;

/// Where it goes on to another file, and then lets go of old ones.
const FILE_BYTES: u64 = 256 << 20;

pub(crate) struct Log {
    wal: WriteAhead<SimpleFile>,
    handle: WriteHandle,
}

impl Peer for Log {
    const NAME: &'static str = "writeahead";
    const VERSION: &'static str = "0.4.1";
    const MODE: &'static str = "WriteHandle::write";

    fn open(dir: &Path, keep: Keep) -> io::Result<Self> {
        let mut options = WriteAheadOptions {
            log_dir: dir.to_path_buf(),
            queue_capacity: QUEUE_CAPACITY,
            ..WriteAheadOptions::default()
        };
        if keep != Keep::All {
            options.max_file_size = FILE_BYTES;
            options.retention.max_total_size = 2 * FILE_BYTES;
        }
        let mut wal = WriteAhead::with_options(options);
        wal.start().map_err(other)?;
        let handle = wal.writer().map_err(other)?;
        Ok(Self { wal, handle })
    }

    fn recover(dir: &Path) -> io::Result<Found> {
        let log = Self::open(dir, Keep::All)?;
        let mut stream = log.wal.create_stream().map_err(other)?;
        let mut found = Found::default();
        while let Some(entry) = block_on(stream.next()) {
            let (_, record) = entry.map_err(other)?;
            found.add(&record);
        }
        Ok(found)
    }
}

impl Contestant for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        block_on(self.handle.write(payload.to_vec())).map(drop).map_err(other)
    }

    fn stream(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        let futures = FuturesOrdered::new();
        Ok(Some(Box::new(Writes { handle: &self.handle, futures, early: 0 })))
    }

    fn producer(&self) -> io::Result<Option<Box<dyn Stream + '_>>> {
        self.stream()
    }

    /// Done by its writer, up to what its options say.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        // Dropping the last handle waits for the writer (README).
        Ok(())
    }
}

struct Writes<'a> {
    handle: &'a WriteHandle,
    futures: FuturesOrdered<BoxFuture<'a, io::Result<()>>>,
    /// How many were durable when they were looked at in passing.
    early: usize,
}

impl Stream for Writes<'_> {
    fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let (handle, payload) = (self.handle, payload.to_vec());
        let write = async move { handle.write(payload).await.map(drop).map_err(other) };
        self.futures.push_back(write.boxed());
        // Polls what was just pushed; what is ready may be an older one.
        if let Some(Some(done)) = self.futures.next().now_or_never() {
            done?;
            self.early += 1;
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<usize> {
        if self.early == 0
            && let Some(done) = block_on(self.futures.next())
        {
            done?;
            self.early = 1;
        }
        Ok(std::mem::take(&mut self.early))
    }
}
