/*!
The memory of one frame while appenders fill it and while it is written.

| who | holds | sees |
|---|---|---|
| an appender | a [`LentRoom`], from its reservation under the engine's mutex to the end of its copy | its own room |
| the writer | the [`Buffer`], from the return of the last room to completion | the whole frame |

Rooms are disjoint by construction and the buffer is had only when none is out, so no byte is ever
written by two or read while it is written. Lending costs nothing but what the mutex costs anyway;
giving back is one atomic addition.
*/

use crate::format::FRAME_HEADER_BYTES;
use aligned::{Buffer, Desk, LentBuffer, LentRoom};
use std::hint;

/// So often a writer looks for the last room without giving its processor away: a copy of a few
/// hundred bytes takes less.
const SPINS: u32 = 100;

/// Begins to lend an empty `buffer`, the room for the frame header taken.
///
/// # Panics
/// If the buffer of the frame that had this desk before was not collected.
pub(crate) fn lend(desk: &Desk, buffer: Buffer) -> LentBuffer {
    let mut lent = desk.lend(buffer);
    let header: Option<LentRoom<'_>> = lent.reserve(desk, FRAME_HEADER_BYTES);
    assert!(header.is_some(), "a frame buffer holds at least a block");
    lent
}

/// Waits for copies that are still going on; `pause` gives the processor to whoever makes them, and is
/// told how often it was asked before.
pub(crate) fn collect(mut lent: LentBuffer, mut pause: impl FnMut(u32)) -> Buffer {
    let mut turns = 0;
    loop {
        if let Some(buffer) = lent.reclaim() {
            return buffer;
        }
        match turns {
            0..SPINS => hint::spin_loop(),
            _ => pause(turns - SPINS),
        }
        turns = turns.saturating_add(1);
    }
}

/// Completes a frame whose records are all in place: puts the header in its room.
pub(crate) fn complete(buffer: &mut Buffer, header: &[u8; FRAME_HEADER_BYTES]) {
    buffer.filled()[..FRAME_HEADER_BYTES].copy_from_slice(header);
}
