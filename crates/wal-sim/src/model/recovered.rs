//! [`Recovered`]: what an open of the log found, to be held against the model.

use wal::{Lsn, OwnedRecord, Replay, io::Storage};

/// What an open of the log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The start mark and the program's own bytes, if there is a checkpoint.
    pub checkpoint: Option<(Lsn, Vec<u8>)>,
    /// The records from there on.
    pub records: Vec<OwnedRecord>,
    /// Where the log ends.
    pub tail: Lsn,
    /// The epoch of this open.
    pub epoch: u64,
    /// Whether it says that it was closed.
    pub clean_close: bool,
    /// Whether it took something for a torn frame.
    pub was_cut: bool,
}

impl Recovered {
    /// Reads a log that was just opened to its end.
    ///
    /// # Errors
    /// What the log answers.
    pub fn read<S: Storage>(replay: &mut Replay<S>) -> wal::Result<Self> {
        let mut records = Vec::new();
        while let Some(record) = replay.next()? {
            records.push(OwnedRecord::from(record));
        }
        let checkpoint = replay.checkpoint();
        Ok(Self {
            checkpoint: checkpoint.map(|found| (found.start_mark, found.state.to_vec())),
            records,
            tail: replay.report().tail,
            epoch: replay.report().epoch,
            clean_close: replay.report().clean_close,
            was_cut: replay.report().cut.is_some(),
        })
    }

    pub(super) fn start_mark(&self) -> Lsn {
        self.checkpoint.as_ref().map_or(Lsn::ZERO, |(start_mark, _)| *start_mark)
    }
}
