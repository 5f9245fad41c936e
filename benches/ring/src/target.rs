//! The file that is overwritten: written zeros, direct.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use aligned::Buffer;
use rustix::{fs::OFlags, io::ReadWriteFlags};
use wal_bench::disk::{DiskFile, Fill, zeroed};

use crate::Stop;

/// Every byte that is written over the zeros.
pub(crate) const FILLING: u8 = 7;

/// The longest write.
pub(crate) const WRITE_BYTES_MAX: usize = 1 << 20;

/// Creates `path` with `bytes` zeros on stable storage, and opens it for both ways.
pub(crate) fn prepare(path: &Path, bytes: u64) -> Result<File, Stop> {
    let file = DiskFile::prepare(path, bytes, Fill::Zeros)?;
    if !file.is_direct() {
        return Err(Stop::Refused("the file system has no O_DIRECT".to_owned()));
    }
    Ok(open(path)?)
}

/// Opens a prepared file for direct reads and writes.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    File::options().read(true).write(true).custom_flags(direct).open(path)
}

/// `count` buffers of the longest write, each full of [`FILLING`].
pub(crate) fn filled(count: usize) -> io::Result<Vec<Buffer>> {
    let filled = |_| {
        let mut buffer = zeroed(WRITE_BYTES_MAX)?;
        buffer.as_mut_slice().fill(FILLING);
        Ok(buffer)
    };
    (0..count).map(filled).collect()
}

/// Overwrites `block` at `offset` and returns once it is on stable storage.
pub(crate) fn write_durable(file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    let block_list = [IoSlice::new(block)];
    let written = rustix::io::pwritev2(file, &block_list, offset, ReadWriteFlags::DSYNC)?;
    if written == block.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
