//! The payload of a checkpoint record.

use super::{get, put};
use crate::lsn::Lsn;

/// The most of the user's own bytes that a checkpoint can carry.
pub const CHECKPOINT_BYTES_MAX: usize = 1024;

const START_MARK: usize = 0;
const STATE: usize = START_MARK + 8;

/// What a checkpoint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the fields of a format version are fixed")]
pub struct Checkpoint<'a> {
    /// Below it the user needs nothing.
    pub start_mark: Lsn,
    /// The user's own bytes.
    pub state: &'a [u8],
}

impl<'a> Checkpoint<'a> {
    /// How long the payload is, in bytes.
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        STATE + self.state.len()
    }

    /// Writes the payload.
    ///
    /// # Panics
    /// If `payload` is not exactly [`Checkpoint::payload_bytes`] long.
    pub fn encode(&self, payload: &mut [u8]) {
        put(payload, START_MARK, self.start_mark.get().to_le_bytes());
        payload[STATE..].copy_from_slice(self.state);
    }

    /// Reads the payload of a checkpoint record; `None` if it is too short or too long for one.
    #[must_use]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let state = payload.get(STATE..)?;
        let start_mark = Lsn::new(u64::from_le_bytes(get(payload, START_MARK)));
        (state.len() <= CHECKPOINT_BYTES_MAX).then_some(Self { start_mark, state })
    }
}
