/*!
Reading: frames in order, from one segment after the other.

A [`FrameWalker`] reads large aligned stretches and lends each frame that belongs; it says where and
why it stops, and leaves to others what that means. Nothing here ever writes.

- `window`: a stretch of a file in aligned memory
- `ahead`: the next stretches, read on other threads meanwhile
- `cursor`: records in a frame that was checked
- `walker`: frames, their chain, and what stands where none belongs
- `passage`: from one segment to the next, telling unused room from damage
*/

mod ahead;
mod cursor;
mod passage;
mod walker;
mod window;

pub(crate) use ahead::Stretch;
pub(crate) use cursor::Cursor;
pub(crate) use passage::{Passage, Passed};
pub(crate) use walker::{Found, FrameWalker, Sight, Step, Stop, StopKind};

use crate::{Error, io::File};
use aligned::{Alignment, Buffer};
use std::io;

/// Zeroed memory to read into. Where there is none the error is of a kind of its own: see [`is_no_memory`].
pub(crate) fn memory(alignment: Alignment, bytes: usize) -> io::Result<Buffer> {
    #[cfg(test)]
    scarce::allocate()?;
    Buffer::zeroed(alignment, bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))
}

/// Whether a read failed for want of memory, the log's own or the kernel's. Then nobody has looked at the
/// bytes: a verdict that takes them for unreadable could cut or condemn what is sound, so whoever meets
/// this ends with it.
pub(crate) fn is_no_memory(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}

/// The same of an error that has the system's as its source.
pub(crate) fn was_no_memory(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.is_some_and(is_no_memory)
}

/// Reads the first `bytes` bytes of a file. The answer is shorter where the file is.
pub(crate) fn read_head(
    file: &impl File,
    alignment: Alignment,
    bytes: usize,
) -> io::Result<Vec<u8>> {
    read_piece(file, alignment, 0, bytes)
}

/// Reads `bytes` bytes of `file` from `offset` on, or fewer if it ends before that.
pub(crate) fn read_piece(
    file: &impl File,
    alignment: Alignment,
    offset: u64,
    bytes: usize,
) -> io::Result<Vec<u8>> {
    let mut buffer = memory(alignment, bytes)?;
    let buffer = buffer.as_mut_slice();
    let read = file.read_at(buffer, offset)?.min(bytes);
    Ok(buffer[..read].to_vec())
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Whole lines at a time: the slots that this looks through are megabytes long.
    let (lines, rest) = bytes.as_chunks::<64>();
    lines.iter().all(|line| *line == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
pub(crate) mod scarce;
#[cfg(test)]
mod tests;
