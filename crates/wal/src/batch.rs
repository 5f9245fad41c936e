//! [`Batch`]: records that are all there after a crash, or none.

use crate::{
    Error, ErrorKind, Result, Ticket,
    commit::Engine,
    format::{RECORD_HEADER_BYTES, record_bytes},
    io::{Directory, Storage},
};
use std::{fmt, sync::Arc};

/// Records that are appended together: after a crash all of them are there, or none.
///
/// They are collected in memory of the batch's own and cost nothing of the log's until
/// [`Batch::append`]. Dropping a batch forgets them.
#[must_use = "a batch does nothing before `append`"]
pub struct Batch<'a, S: Storage = Directory> {
    engine: &'a Arc<Engine<S>>,
    /// Laid out as in a frame, the headers still zero.
    staged: Vec<u8>,
    lengths: Vec<u32>,
}

impl<'a, S: Storage> Batch<'a, S> {
    pub(crate) fn new(engine: &'a Arc<Engine<S>>) -> Self {
        Self { engine, staged: Vec::new(), lengths: Vec::new() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if the batch would no longer fit a segment; it stays as it was.
    pub fn push(&mut self, payload: &[u8]) -> Result<()> {
        self.push_with(payload.len(), |room| room.copy_from_slice(payload))
    }

    /// Adds a record of `length` bytes that `fill` writes in place. The room is zero at first. If
    /// `fill` panics the batch stays as it was.
    ///
    /// # Errors
    /// As [`Batch::push`].
    pub fn push_with(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let limit = RECORD_HEADER_BYTES + self.engine.record_bytes_max();
        let start = self.staged.len();
        let end = start.saturating_add(RECORD_HEADER_BYTES).saturating_add(length);
        let header_length = u32::try_from(length).ok().filter(|_| end <= limit);
        let Some(header_length) = header_length else {
            return Err(Error::new(ErrorKind::TooLarge, "a batch longer than a segment holds")
                .with_expected_found(format!("at most {limit} bytes"), end));
        };
        // Truncated again unless the whole record is in: also when `fill` panics.
        let mut growing = Growing { staged: &mut self.staged, end: start };
        growing.staged.resize(start + record_bytes(length), 0);
        let first = start + RECORD_HEADER_BYTES;
        fill(&mut growing.staged[first..first + length]);
        growing.end = growing.staged.len();
        drop(growing);
        self.lengths.push(header_length);
        Ok(())
    }

    /// How many records it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Appends them all, in order, as one. Waits for room. The ticket's
    /// [`lsn`](Ticket::lsn) is the first record's, its [`last_lsn`](Ticket::last_lsn) the last one's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an empty batch, [`ErrorKind::TooLarge`] if it fits no segment,
    /// and those of [`Wal::append`](crate::Wal::append). Nothing was appended then.
    pub fn append(self) -> Result<Ticket<S>> {
        if self.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "an empty batch has no place"));
        }
        let place = self.engine.append_batch(&self.staged, &self.lengths)?;
        Ok(Ticket::new(self.engine, place))
    }
}

struct Growing<'a> {
    staged: &'a mut Vec<u8>,
    end: usize,
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        self.staged.truncate(self.end);
    }
}

impl<S: Storage> fmt::Debug for Batch<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("records", &self.lengths.len()).finish_non_exhaustive()
    }
}
