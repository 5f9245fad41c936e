//! A program that writes to a log the same way each time, bears every error, and says what it was
//! told.

use std::sync::Arc;
use wal::{Error, ErrorKind, Lsn, Options, Wal, format::record_bytes};
use wal_sim::{Disk, Model, Recovered, Said};

/// The smallest segments there are: sixteen blocks of 512 bytes.
pub(crate) fn options() -> Options {
    Options::new()
        .block_bytes(512)
        .segment_bytes(16 * 512)
        .frame_bytes(16 << 10)
        .pool_bytes(64 << 10)
}

pub(crate) struct Script {
    pub(crate) wal: Wal<Disk>,
    pub(crate) said: Vec<Said>,
    /// The durable mark when the log was first seen to be latched.
    pub(crate) latched_at: Option<Lsn>,
    pub(crate) next: u64,
    last: Option<Lsn>,
}

impl Script {
    pub(crate) fn open(disk: &Disk, options: &Options) -> Result<Self, Error> {
        Self::open_after(disk, options, Vec::new())
    }

    /// Opens the log after all that was `said`, which it has to hold.
    pub(crate) fn open_after(
        disk: &Disk,
        options: &Options,
        mut said: Vec<Said>,
    ) -> Result<Self, Error> {
        let mut replay = options.open_in(disk.clone())?;
        let found = Recovered::read(&mut replay)?;
        if let Err(what) = Model::of(&said).check(&found) {
            panic!("{what}\n{}", disk.story().join("\n"));
        }
        said.push(Said::Found(Arc::new(found)));
        let (wal, _) = replay.finish()?;
        said.push(Said::Finished);
        let next = u64::try_from(said.len()).unwrap() << 32;
        Ok(Self { wal, said, latched_at: None, next, last: None })
    }

    /// Appends a record of `bytes` and waits for it. Answers whether it is durable.
    pub(crate) fn append(&mut self, bytes: usize) -> Result<Lsn, Error> {
        self.append_batch(&[bytes])
    }

    pub(crate) fn append_batch(&mut self, bytes: &[usize]) -> Result<Lsn, Error> {
        let batch = self.next;
        self.next += 1;
        let records = bytes.iter().enumerate().map(|(index, bytes)| {
            let mut record = vec![u8::try_from(index).unwrap(); *bytes];
            record[..8].copy_from_slice(&batch.to_le_bytes());
            record
        });
        let records = records.collect::<Vec<_>>();
        let mut staged = self.wal.batch();
        records.iter().for_each(|record| staged.push(record).unwrap());
        self.said.push(Said::Begun { batch, records: records.into() });
        let ticket = match staged.append() {
            Ok(ticket) => ticket,
            Err(error) => {
                self.said.push(Said::Void { batch });
                return Err(self.note_latch(error));
            }
        };
        self.said.push(Said::Placed { batch, lsn: ticket.lsn() });
        let last = ticket.last_lsn();
        match ticket.wait() {
            Ok(lsn) => {
                assert_eq!(self.latched_at, None, "acknowledged after a failure");
                self.said.push(Said::Acknowledged { batch });
                self.last = Some(last);
                Ok(lsn)
            }
            Err(error) => Err(self.note_latch(error)),
        }
    }

    /// Releases everything before the last record.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Error> {
        self.last.map_or(Ok(()), |last| self.checkpoint_at(last))
    }

    pub(crate) fn checkpoint_at(&mut self, start_mark: Lsn) -> Result<(), Error> {
        let state = start_mark.get().to_le_bytes().to_vec();
        self.said.push(Said::CheckpointBegun { start_mark, state: state.clone() });
        let ticket = match self.wal.checkpoint(start_mark, &state) {
            Ok(ticket) => ticket,
            Err(error) => {
                self.said.push(Said::CheckpointVoid);
                return Err(self.note_latch(error));
            }
        };
        self.said.push(Said::CheckpointPlaced(ticket.lsn()));
        match ticket.wait() {
            Ok(_) => {
                assert_eq!(self.latched_at, None, "acknowledged after a failure");
                self.said.push(Said::CheckpointAcknowledged);
                Ok(())
            }
            Err(error) => Err(self.note_latch(error)),
        }
    }

    /// Forty steps that fill several segments and use them again, whatever fails on the way.
    pub(crate) fn write(&mut self) {
        for step in 0..40_usize {
            // What failed has said so; that nothing is acknowledged after is asserted above.
            let outcome = match step % 9 {
                8 => self.checkpoint(),
                3 | 6 => self.append_batch(&[100, 700, 20]).map(drop),
                _ => self.append(200 + 130 * (step % 7)).map(drop),
            };
            drop(outcome);
        }
    }

    pub(crate) fn close(&mut self) -> Result<(), Error> {
        self.wal.close()?;
        assert_eq!(self.latched_at, None, "closed well after a failure");
        self.said.extend([Said::Durable(self.wal.durable_lsn()), Said::Closed]);
        Ok(())
    }

    fn note_latch(&mut self, error: Error) -> Error {
        let durable = self.wal.durable_lsn();
        if let Some(frozen) = self.latched_at {
            assert_eq!(durable, frozen, "the durable mark moved after a failure");
        }
        match error.kind() {
            ErrorKind::Latched => {
                self.latched_at = Some(durable);
            }
            // Nothing was changed: the log goes on.
            ErrorKind::NoSpace => {}
            _ => assert!(self.latched_at.is_none(), "another answer after a failure: {error}"),
        }
        error
    }
}

/// Where the frame of a record begins that was written alone.
pub(crate) fn frame_of(lsn: Lsn) -> u64 {
    (lsn.get() - 64) / 512 * 512
}

/// Where a record ends.
pub(crate) fn end_of(lsn: Lsn, bytes: usize) -> u64 {
    lsn.get() + u64::try_from(record_bytes(bytes)).unwrap()
}
