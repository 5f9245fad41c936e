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

use crate::io::File;
use aligned::{Alignment, Buffer};
use std::io;

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
    let mut buffer = Buffer::zeroed(alignment, bytes).map_err(io::Error::other)?;
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
mod tests;
