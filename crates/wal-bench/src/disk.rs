//! Files opened past the page cache where that can be, and the two ways to make a write durable.

use std::{
    fmt, fs,
    fs::File,
    io,
    io::IoSlice,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aligned::{Alignment, Buffer};
use rustix::{
    fs::{Advice, FallocateFlags, Mode, OFlags, SeekFrom},
    io::{Errno, ReadWriteFlags},
};
use tempfile::TempDir;

use crate::figures::{bytes_u64, median};

/// The unit of every small write, and of alignment.
pub const BLOCK_BYTES: usize = 4096;

/// What preparation writes at once.
const PREPARE_BYTES: usize = 1 << 20;

/// Durable writes of each method that [`Method::probe`] times.
const PROBE_WRITES: usize = 400;

/// A slow disk is asked less often.
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

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

    /// Times a 4 KiB overwrite of `file` by each method, the two taking turns, and then by neither.
    ///
    /// # Errors
    ///
    /// Whatever a write answers; that a method is not supported is none.
    pub fn probe(file: &DiskFile) -> io::Result<Probed> {
        let mut block = patterned(BLOCK_BYTES)?;
        let mut taken = [Vec::new(), Vec::new()];
        let started = Instant::now();
        for turn in 0..PROBE_WRITES {
            let offset = bytes_u64(turn * BLOCK_BYTES) % file.bytes();
            for (method, taken) in Self::ALL.into_iter().zip(&mut taken) {
                let started = Instant::now();
                match file.write_durable(block.as_mut_slice(), offset, method) {
                    Ok(()) => taken.push(started.elapsed()),
                    Err(error) if is_unsupported(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            if started.elapsed() > PROBE_TIME_MAX {
                break;
            }
        }
        let mut plain = Vec::new();
        let started = Instant::now();
        for turn in 0..PROBE_WRITES {
            let offset = bytes_u64(turn * BLOCK_BYTES) % file.bytes();
            let started_one = Instant::now();
            file.write(block.as_mut_slice(), offset)?;
            plain.push(started_one.elapsed());
            if started.elapsed() > PROBE_TIME_MAX {
                break;
            }
        }
        let durable = taken.map(|mut taken| (!taken.is_empty()).then(|| median(&mut taken)));
        Ok(Probed { durable, plain: median(&mut plain) })
    }
}

/// What a 4 KiB overwrite took, as medians.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// By each of [`Method::ALL`]; `None` where the file system does not have it.
    pub durable: [Option<Duration>; 2],
    /// Without making it durable.
    pub plain: Duration,
}

impl Probed {
    /// By `method`.
    #[must_use]
    pub fn of(&self, method: Method) -> Option<Duration> {
        let known = Method::ALL.into_iter().zip(self.durable);
        known.into_iter().find(|&(known, _)| known == method).and_then(|(_, time)| time)
    }

    /// The faster method. A difference of less than 5 % is a tie, else noise would pick, and tables
    /// of two runs would not compare.
    #[must_use]
    pub fn best(&self) -> Method {
        match self.durable {
            [Some(dsync), Some(fdatasync)] if fdatasync >= dsync * 19 / 20 => Method::Dsync,
            [Some(_), None] => Method::Dsync,
            _ => Method::Fdatasync,
        }
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

/// A file of fixed length, every block of it allocated and written, opened with `O_DIRECT` where the
/// file system has it.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    bytes: u64,
    direct: bool,
}

impl DiskFile {
    /// Creates `path` with `bytes` bytes, and returns once they are on stable storage with the
    /// file's extents *written*: an overwrite of a merely allocated extent would cost a journal
    /// commit at each sync, and would measure that.
    ///
    /// # Errors
    ///
    /// When the file exists, or there is no room.
    ///
    /// # Panics
    ///
    /// Unless `bytes` is a multiple of 1 MiB and not zero.
    pub fn prepare(path: &Path, bytes: u64, fill: Fill) -> io::Result<Self> {
        assert!(bytes > 0 && bytes.is_multiple_of(bytes_u64(PREPARE_BYTES)), "whole MiB: {bytes}");
        // In two steps: a refused O_DIRECT leaves the file behind.
        File::options().write(true).create_new(true).open(path)?;
        let (file, direct) = open(path, OFlags::RDWR | OFlags::CLOEXEC)?;
        // Allocated in one piece first: extents grown by the writes would be more and shorter.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP) => {}
            done => done?,
        }
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
        Ok(Self { file, bytes, direct })
    }

    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, direct) = open(path, OFlags::RDONLY | OFlags::CLOEXEC)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes, direct })
    }

    /// Whether reads and writes bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// How many of its bytes are in written extents: a hole, and room that is only allocated, are
    /// not.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn written_bytes(&self) -> io::Result<u64> {
        let mut written = 0;
        let mut offset = 0;
        while offset < self.bytes {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            offset = rustix::fs::seek(&self.file, SeekFrom::Hole(data))?;
            written += offset - data;
        }
        Ok(written)
    }

    /// Forgets what the page cache holds of it. Direct reads need nothing of the kind.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn drop_cache(&self) -> io::Result<()> {
        if !self.direct {
            rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
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
        match method {
            Method::Dsync => self.write_with(block, offset, ReadWriteFlags::DSYNC),
            Method::Fdatasync => {
                self.write_with(block, offset, ReadWriteFlags::empty())?;
                Ok(rustix::fs::fdatasync(&self.file)?)
            }
        }
    }

    /// Overwrites `block` at `offset`; nothing is durable.
    ///
    /// # Errors
    ///
    /// As [`DiskFile::write_durable`].
    pub fn write(&self, block: &[u8], offset: u64) -> io::Result<()> {
        self.write_with(block, offset, ReadWriteFlags::empty())
    }

    fn write_with(&self, block: &[u8], offset: u64, flags: ReadWriteFlags) -> io::Result<()> {
        let written = rustix::io::pwritev2(&self.file, &[IoSlice::new(block)], offset, flags)?;
        if written != block.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "short write"));
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

fn open(path: &Path, flags: OFlags) -> io::Result<(File, bool)> {
    let direct = match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::RUSR | Mode::WUSR) {
        Ok(file) => return Ok((File::from(file), true)),
        Err(Errno::INVAL) => false,
        Err(error) => return Err(error.into()),
    };
    Ok((File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?), direct))
}

fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [Errno::OPNOTSUPP, Errno::INVAL].map(|errno| Some(errno.raw_os_error()));
    unsupported.contains(&error.raw_os_error())
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
///
/// # Errors
///
/// When there is no memory.
pub fn zeroed(bytes: usize) -> io::Result<Buffer> {
    Buffer::zeroed(Alignment::BLOCK_4096, bytes).map_err(io::Error::other)
}

/// A buffer of bytes that a device or a host can neither drop as zeros nor compress.
pub(crate) fn patterned(bytes: usize) -> io::Result<Buffer> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_file_reads_back_what_was_written_by_either_method() {
        let directory = fresh_directory(None).unwrap();
        let file = DiskFile::prepare(&directory.path().join("f"), 1 << 20, Fill::Zeros).unwrap();
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

    /// Blocks that are only allocated cost a journal commit at each sync, and a hole is read from
    /// nowhere: neither is taken for a written one.
    #[test]
    fn written_extents_are_told_from_the_others() {
        let directory = fresh_directory(None).unwrap();
        let path = directory.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(DiskFile::open(&path).unwrap().written_bytes().unwrap(), 1 << 20);
        let path = directory.path().join("whole");
        let whole = DiskFile::prepare(&path, 2 << 20, Fill::Zeros).unwrap();
        assert_eq!(whole.written_bytes().unwrap(), 2 << 20);
    }

    #[test]
    fn the_probe_prefers_one_call_unless_two_are_clearly_faster() {
        let us = Duration::from_micros;
        let best = |dsync, fdatasync| Probed { durable: [dsync, fdatasync], plain: us(9) }.best();
        assert_eq!(best(Some(us(100)), Some(us(99))), Method::Dsync);
        assert_eq!(best(Some(us(100)), Some(us(90))), Method::Fdatasync);
        assert_eq!(best(None, Some(us(100))), Method::Fdatasync);
        assert_eq!(best(Some(us(100)), None), Method::Dsync);
    }

    #[test]
    fn both_methods_are_probed() {
        let directory = fresh_directory(None).unwrap();
        let file = DiskFile::prepare(&directory.path().join("f"), 1 << 20, Fill::Zeros).unwrap();
        let probed = Method::probe(&file).unwrap();
        assert!(probed.of(Method::Fdatasync).is_some_and(|time| time > Duration::ZERO));
        assert!(probed.plain > Duration::ZERO);
    }
}
