//! What a disk moves when nothing but it is in the way.

use std::{
    io,
    sync::{
        Barrier, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aligned::Buffer;

use crate::{
    disk::{DiskFile, Method, patterned},
    figures::bytes_u64,
    measure::{Transfer, Transferred},
};

/// Which way a [`Sequential`] transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file, past the page cache.
    Read,
    /// To the file, each block durable before its thread goes on.
    Write(Method),
}

/// A buffer of this length, as the log's are together, is mapped in huge pages: the same block is fewer
/// pieces of memory for the disk, and faster by up to a half.
const HUGE_PAGE: usize = 2 << 20;

/// The disk's own limit: `depth` threads take turns at the next block of files that are equally
/// long, one after the other, front to back and round again.
#[derive(Debug)]
pub struct Sequential<'a> {
    files: &'a [DiskFile],
    direction: Direction,
    /// One a thread, kept from round to round. Each lock is taken by one thread, for a whole run.
    buffers: Vec<Mutex<Buffer>>,
    block_bytes: usize,
    next_block: AtomicU64,
}

impl<'a> Sequential<'a> {
    /// Block sizes at which the write bandwidth is looked for.
    pub const WRITE_BLOCK_BYTES: [usize; 7] =
        [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
    /// Block sizes at which the read bandwidth is looked for; 128 KiB and 4 MiB were no faster.
    pub const READ_BLOCK_BYTES: [usize; 3] = [256 << 10, 512 << 10, 1 << 20];
    /// Depths, in threads.
    pub const DEPTHS: [usize; 3] = [1, 2, 4];

    /// A transfer of `block_bytes` at a time by `depth` threads.
    ///
    /// # Errors
    ///
    /// When there is no memory for the buffers.
    ///
    /// # Panics
    ///
    /// Without files, or unless all are the same whole number of blocks.
    pub fn new(
        files: &'a [DiskFile],
        direction: Direction,
        block_bytes: usize,
        depth: usize,
    ) -> io::Result<Self> {
        assert!(
            files[0].bytes().is_multiple_of(bytes_u64(block_bytes)),
            "a part of a block is left"
        );
        assert!(files.iter().all(|file| file.bytes() == files[0].bytes()), "lengths differ");
        let buffers = (0..depth)
            .map(|_| Ok(Mutex::new(patterned(block_bytes.max(HUGE_PAGE))?)))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { files, direction, buffers, block_bytes, next_block: AtomicU64::new(0) })
    }

    /// Its place in the sweep, for the report.
    #[must_use]
    pub fn name(&self) -> String {
        format!("disk, {} KiB x {}", self.block_bytes >> 10, self.buffers.len())
    }

    /// One thread's share: blocks until the deadline; how many bytes.
    fn work(&self, block: &mut [u8], deadline: Instant) -> io::Result<u64> {
        let block_bytes = bytes_u64(block.len());
        let blocks_each = self.files[0].bytes() / block_bytes;
        let block_count = blocks_each * bytes_u64(self.files.len());
        let mut bytes = 0;
        while Instant::now() < deadline {
            let index = self.next_block.fetch_add(1, Ordering::Relaxed) % block_count;
            let file = usize::try_from(index / blocks_each).unwrap_or(0);
            let (file, offset) = (&self.files[file], index % blocks_each * block_bytes);
            match self.direction {
                Direction::Read => file.read(block, offset)?,
                Direction::Write(method) => file.write_durable(block, offset, method)?,
            }
            bytes += block_bytes;
        }
        Ok(bytes)
    }
}

impl Transfer for Sequential<'_> {
    fn transfer(&self, duration: Duration) -> io::Result<Transferred> {
        let barrier = Barrier::new(self.buffers.len() + 1);
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .buffers
                .iter()
                .map(|buffer| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
                        barrier.wait();
                        let block = &mut buffer.as_mut_slice()[..self.block_bytes];
                        self.work(block, Instant::now() + duration)
                    })
                })
                .collect();
            barrier.wait();
            let started = Instant::now();
            let mut bytes = 0;
            for thread in threads {
                bytes += thread.join().expect("a transfer thread panicked")?;
            }
            Ok(Transferred { bytes, elapsed: started.elapsed() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fill, fresh_directory};

    #[test]
    fn a_transfer_moves_whole_blocks() {
        let directory = fresh_directory(None).unwrap();
        let file = |name| DiskFile::prepare(&directory.path().join(name), 1 << 20, Fill::Zeros);
        let files = [file("a").unwrap(), file("b").unwrap()];
        for direction in [Direction::Write(Method::Dsync), Direction::Read] {
            let sequential = Sequential::new(&files, direction, 64 << 10, 2).unwrap();
            let moved = sequential.transfer(Duration::from_millis(5)).unwrap();
            assert!(moved.bytes > 0 && moved.bytes.is_multiple_of(64 << 10));
        }
    }
}
