//! [`FrameBuffer`]: the memory of one frame while appenders fill it and while it is written.

use crate::{
    format::FRAME_HEADER_BYTES,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use aligned::{Alignment, Buffer};

/// A place for the buffer of one frame.
///
/// | who | holds | sees |
/// |---|---|---|
/// | an appender | the shared guard, from reservation to the end of its copy | its own room |
/// | the writer | the exclusive guard, from sealing to completion | the whole frame |
///
/// The writer gets its guard only when the last copy has ended, and rooms are disjoint by
/// construction, so no byte is ever written by two or read while it is written.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer(RwLock<Option<Buffer>>);

impl FrameBuffer {
    /// Puts an empty `buffer` in place, with room for the frame header taken.
    ///
    /// # Panics
    /// If the buffer of the frame that had this place before is still there.
    pub(crate) fn install(&self, buffer: Buffer) {
        let header_fits = buffer.reserve(FRAME_HEADER_BYTES).is_some();
        assert!(header_fits, "a frame buffer holds at least a block");
        let mut place = self.0.write();
        assert!(place.is_none(), "a frame's place is reused only after its buffer has left it");
        *place = Some(buffer);
    }

    /// The buffer for appenders: take it in the critical section that reserves, so that the frame
    /// cannot be sealed in between.
    pub(crate) fn share(&self) -> RwLockReadGuard<'_, Option<Buffer>> {
        self.0.read()
    }

    /// The buffer for the writer: waits for copies that are still going on.
    pub(crate) fn own(&self) -> RwLockWriteGuard<'_, Option<Buffer>> {
        self.0.write()
    }
}

/// Completes a frame whose records are all in place: puts the header in its room and lends all
/// blocks, the padding zero.
pub(crate) fn complete<'a>(
    buffer: &'a mut Buffer,
    header: &[u8; FRAME_HEADER_BYTES],
    block: Alignment,
) -> &'a [u8] {
    buffer.filled()[..FRAME_HEADER_BYTES].copy_from_slice(header);
    buffer.padded(block)
}
