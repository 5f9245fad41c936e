//! Files opened past the page cache, and the two ways to make a write durable.

use std::{
    fmt, fs,
    fs::File,
    io,
    io::IoSlice,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    sync::{Barrier, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aligned::{Alignment, Buffer};
use rustix::{
    fs::{FallocateFlags, Mode, OFlags},
    io::ReadWriteFlags,
};
use tempfile::TempDir;

use crate::measure::{Transfer, Transferred, median};

/// The unit of every small write, and of alignment.
pub const BLOCK_BYTES: usize = 4096;

/// What preparation writes at once.
const PREPARE_BYTES: usize = 1 << 20;

/// Durable writes of each method that [`Method::probe`] times.
const PROBE_WRITES: usize = 400;

/// How a write is made durable. Both end with the device's cache flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `pwritev2` with `RWF_DSYNC`: one system call.
    Dsync,
    /// `pwritev2`, then `fdatasync`.
    Fdatasync,
}

impl Method {
    /// All of them, in the order of preference when they tie.
    pub const ALL: [Self; 2] = [Self::Dsync, Self::Fdatasync];

    /// The method with the lower median latency of a 4 KiB overwrite of `file`, the two taking
    /// turns; with what was measured, in the order of [`Method::ALL`]. A difference of less than
    /// 5 % is a tie, else noise would pick, and tables of two runs would not compare.
    ///
    /// # Errors
    ///
    /// Whatever a write answers.
    pub fn probe(file: &DirectFile) -> io::Result<(Self, [Duration; 2])> {
        let mut block = patterned(BLOCK_BYTES)?;
        let mut taken = [Vec::new(), Vec::new()];
        for turn in 0..PROBE_WRITES {
            for (method, taken) in Self::ALL.into_iter().zip(&mut taken) {
                let offset = bytes_u64(turn * BLOCK_BYTES) % file.bytes();
                let started = Instant::now();
                file.write_durable(block.as_mut_slice(), offset, method)?;
                taken.push(started.elapsed());
            }
        }
        let medians = taken.map(|mut taken| median(&mut taken));
        let fdatasync_wins = medians[1] < medians[0] * 19 / 20;
        let best = if fdatasync_wins { Self::Fdatasync } else { Self::Dsync };
        Ok((best, medians))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dsync => "RWF_DSYNC",
            Self::Fdatasync => "write + fdatasync",
        })
    }
}

/// What a prepared file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros: what a log finds in a fresh slot.
    Zeros,
    /// Bytes that neither compress nor repeat within a block: for files that are read.
    Pattern,
}

/// A file of fixed length, every block of it allocated and written, opened with `O_DIRECT`.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    bytes: u64,
}

impl DirectFile {
    /// Creates `path` with `bytes` bytes, and returns once they are on stable storage with the
    /// file's extents *written*: an overwrite of a merely allocated extent would cost a journal
    /// commit at each sync, and would measure that.
    ///
    /// # Errors
    ///
    /// When the file exists, the file system has no `O_DIRECT`, or there is no room.
    ///
    /// # Panics
    ///
    /// Unless `bytes` is a multiple of 1 MiB and not zero.
    pub fn prepare(path: &Path, bytes: u64, fill: Fill) -> io::Result<Self> {
        assert!(bytes > 0 && bytes.is_multiple_of(bytes_u64(PREPARE_BYTES)), "whole MiB: {bytes}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        // Allocated in one piece first: extents grown by the writes would be more and shorter.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        let mut chunk = match fill {
            Fill::Zeros => zeroed(PREPARE_BYTES)?,
            Fill::Pattern => patterned(PREPARE_BYTES)?,
        };
        for offset in (0..bytes).step_by(PREPARE_BYTES) {
            file.write_all_at(chunk.as_mut_slice(), offset)?;
        }
        file.sync_all()?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { file, bytes })
    }

    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// The file's length; it never changes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Overwrites `block` at `offset` and returns once it is on stable storage.
    ///
    /// # Errors
    ///
    /// The system's, or `WriteZero` for a short write: a floor has no retry to hide one.
    pub fn write_durable(&self, block: &[u8], offset: u64, method: Method) -> io::Result<()> {
        let flags = match method {
            Method::Dsync => ReadWriteFlags::DSYNC,
            Method::Fdatasync => ReadWriteFlags::empty(),
        };
        let written = rustix::io::pwritev2(&self.file, &[IoSlice::new(block)], offset, flags)?;
        if written != block.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "short direct write"));
        }
        if method == Method::Fdatasync {
            rustix::fs::fdatasync(&self.file)?;
        }
        Ok(())
    }

    /// Fills `block` from `offset`.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn read(&self, block: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(block, offset)
    }
}

/// Which way a [`Sequential`] transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file, past the page cache.
    Read,
    /// To the file, each block durable before its thread goes on.
    Write(Method),
}

/// The disk's own limit: `depth` threads take turns at the next block of a file, front to back and
/// round again.
#[derive(Debug)]
pub struct Sequential<'a> {
    file: &'a DirectFile,
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
    /// Unless the file is a whole number of blocks.
    pub fn new(
        file: &'a DirectFile,
        direction: Direction,
        block_bytes: usize,
        depth: usize,
    ) -> io::Result<Self> {
        assert!(file.bytes().is_multiple_of(bytes_u64(block_bytes)), "a part of a block is left");
        let buffers = (0..depth)
            .map(|_| Ok(Mutex::new(patterned(block_bytes)?)))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { file, direction, buffers, block_bytes, next_block: AtomicU64::new(0) })
    }

    /// Its place in the sweep, for the report.
    #[must_use]
    pub fn name(&self) -> String {
        format!("disk, {} KiB x {}", self.block_bytes >> 10, self.buffers.len())
    }

    /// One thread's share: blocks until the deadline; how many bytes.
    fn work(&self, block: &mut [u8], deadline: Instant) -> io::Result<u64> {
        let block_bytes = bytes_u64(block.len());
        let block_count = self.file.bytes() / block_bytes;
        let mut bytes = 0;
        while Instant::now() < deadline {
            let index = self.next_block.fetch_add(1, Ordering::Relaxed) % block_count;
            let offset = index * block_bytes;
            match self.direction {
                Direction::Read => self.file.read(block, offset)?,
                Direction::Write(method) => self.file.write_durable(block, offset, method)?,
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
                        self.work(buffer.as_mut_slice(), Instant::now() + duration)
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

/// A fresh directory below `parent`, or below the build's own `target` directory: `/tmp` may be
/// memory, where a durable write costs nothing. Removed when dropped.
///
/// # Errors
///
/// When it cannot be created.
pub fn fresh_directory(parent: Option<&Path>) -> io::Result<TempDir> {
    let parent = match parent {
        Some(parent) => parent.to_path_buf(),
        None => target_directory()?,
    };
    fs::create_dir_all(&parent)?;
    tempfile::Builder::new().prefix("wal-bench-").tempdir_in(parent)
}

/// The directory above `release/` or `debug/`, found from where this program runs.
fn target_directory() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let profile = program
        .ancestors()
        .skip(1)
        .find(|directory| directory.ends_with("release") || directory.ends_with("debug"));
    let target = profile.and_then(Path::parent).or(program.parent());
    target.map(Path::to_path_buf).ok_or_else(|| io::Error::other("the program has no directory"))
}

/// A zeroed, block-aligned buffer.
pub(crate) fn zeroed(bytes: usize) -> io::Result<Buffer> {
    Buffer::zeroed(Alignment::BLOCK_4096, bytes).map_err(io::Error::other)
}

/// A buffer of bytes that a device or a host can neither drop as zeros nor compress.
fn patterned(bytes: usize) -> io::Result<Buffer> {
    let mut buffer = zeroed(bytes)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for word in buffer.as_mut_slice().chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    Ok(buffer)
}

/// A length of memory as a length on disk.
pub(crate) fn bytes_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a usize fits in 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_file_reads_back_what_was_written_by_either_method() {
        let directory = fresh_directory(None).unwrap();
        let file = DirectFile::prepare(&directory.path().join("f"), 1 << 20, Fill::Zeros).unwrap();
        for (offset, method) in [(0, Method::Dsync), (BLOCK_BYTES, Method::Fdatasync)] {
            let mut written = patterned(BLOCK_BYTES).unwrap();
            let mut read = zeroed(BLOCK_BYTES).unwrap();
            file.write_durable(written.as_mut_slice(), bytes_u64(offset), method).unwrap();
            file.read(read.as_mut_slice(), bytes_u64(offset)).unwrap();
            assert_eq!(read.as_mut_slice(), written.as_mut_slice());
        }
        let mut rest = zeroed(BLOCK_BYTES).unwrap();
        file.read(rest.as_mut_slice(), bytes_u64(2 * BLOCK_BYTES)).unwrap();
        assert!(rest.as_mut_slice().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_transfer_moves_whole_blocks() {
        let directory = fresh_directory(None).unwrap();
        let file = DirectFile::prepare(&directory.path().join("f"), 1 << 20, Fill::Zeros).unwrap();
        for direction in [Direction::Write(Method::Dsync), Direction::Read] {
            let sequential = Sequential::new(&file, direction, 64 << 10, 2).unwrap();
            let moved = sequential.transfer(Duration::from_millis(5)).unwrap();
            assert!(moved.bytes > 0 && moved.bytes.is_multiple_of(64 << 10));
        }
    }
}
