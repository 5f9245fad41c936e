/*!
[`Model`]: what a log must hold after a crash, told as simply as possible.

A program that writes to a log says what it does: [`Said`]. From that list the model knows for each
batch whether it was begun, where it stands, and whether it was acknowledged. After a crash the log
must hold

1. from the start mark on, the batches in the order of their places, without a gap, each record the
   same bytes at the same place,
2. whole batches, or nothing of them,
3. at least all that was acknowledged,
4. nothing else: nothing that was rolled back, nothing that nobody wrote,
5. a checkpoint that was said, not older than the last acknowledged one, nor than one that stands
   below a record that is there.
*/

mod recovered;

pub use recovered::Recovered;

use std::{fmt, sync::Arc};
use wal::{Lsn, OwnedRecord, format::record_bytes};

/// What a program that writes to a log says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Said {
    /// Batch `batch` will be appended now: these records.
    Begun {
        /// Its number, another for each batch.
        batch: u64,
        /// The payloads.
        records: Arc<[Vec<u8>]>,
    },
    /// It was appended, and its first record stands here.
    Placed {
        /// Which one.
        batch: u64,
        /// Where.
        lsn: Lsn,
    },
    /// It is durable: a ticket said so.
    Acknowledged {
        /// Which one.
        batch: u64,
    },
    /// It was refused, or its writer gave up: it may never be seen.
    Void {
        /// Which one.
        batch: u64,
    },
    /// Everything that ends at or below this place is durable.
    Durable(Lsn),
    /// A reader saw this record: its batch is durable.
    Seen {
        /// Where.
        lsn: Lsn,
        /// What.
        payload: Vec<u8>,
    },
    /// A checkpoint will be made now. They are made one after the other.
    CheckpointBegun {
        /// Below it nothing is needed any more.
        start_mark: Lsn,
        /// The program's own bytes.
        state: Vec<u8>,
    },
    /// The last checkpoint begun stands here.
    CheckpointPlaced(Lsn),
    /// The last checkpoint begun is durable.
    CheckpointAcknowledged,
    /// The last checkpoint begun was refused.
    CheckpointVoid,
    /// The log was opened and read to its end, and this is what it held: durable from now on.
    Found(Arc<Recovered>),
    /// The log that was found was opened for writing: what it did not hold may never come back.
    Finished,
    /// The log was closed: everything that was placed before is durable, though no ticket said so. Whoever
    /// says before what [`Wal::durable_lsn`](wal::Wal::durable_lsn) is now, as [`Said::Durable`], asks
    /// for the closing frame, too.
    Closed,
}

/// What a log must hold.
#[derive(Clone, Debug, Default)]
pub struct Model {
    batches: Vec<Batch>,
    checkpoints: Vec<Checkpoint>,
    found: Option<Arc<Recovered>>,
    durable: Lsn,
    is_closed: bool,
    /// The first thing that was said and cannot be.
    contradiction: Option<String>,
}

#[derive(Clone, Debug)]
struct Batch {
    number: u64,
    records: Arc<[Vec<u8>]>,
    lsn: Option<Lsn>,
    is_acknowledged: bool,
    is_void: bool,
}

#[derive(Clone, Debug)]
struct Checkpoint {
    start_mark: Lsn,
    state: Vec<u8>,
    lsn: Option<Lsn>,
    is_acknowledged: bool,
    is_void: bool,
}

/// A record that may be in the log.
struct Expected<'a> {
    lsn: Lsn,
    payload: &'a [u8],
    batch: &'a Batch,
    ends_batch: bool,
}

impl Model {
    /// The model of everything that was `said`, in order.
    #[must_use]
    pub fn of(said: &[Said]) -> Self {
        let mut model = Self::default();
        said.iter().for_each(|said| model.hear(said));
        model
    }

    /// Hears one thing more.
    pub fn hear(&mut self, said: &Said) {
        match said {
            Said::Closed => self.is_closed = true,
            // Whoever opens it writes a frame that says so; tickets and readers may be told much later.
            Said::Found(_) | Said::Finished | Said::Begun { .. } | Said::CheckpointBegun { .. } => {
                self.is_closed = false;
            }
            _ => {}
        }
        match said {
            Said::Begun { batch, records } => self.batches.push(Batch {
                number: *batch,
                records: Arc::clone(records),
                lsn: None,
                is_acknowledged: false,
                is_void: false,
            }),
            Said::Placed { batch, lsn } => self.with(*batch, |batch| batch.lsn = Some(*lsn)),
            Said::Acknowledged { batch } => self.with(*batch, |batch| batch.is_acknowledged = true),
            Said::Void { batch } => self.with(*batch, |batch| batch.is_void = true),
            Said::Durable(lsn) => self.durable = self.durable.max(*lsn),
            Said::Seen { lsn, payload } => self.see(*lsn, payload),
            Said::CheckpointBegun { start_mark, state } => self.checkpoints.push(Checkpoint {
                start_mark: *start_mark,
                state: state.clone(),
                lsn: None,
                is_acknowledged: false,
                is_void: false,
            }),
            Said::CheckpointPlaced(lsn) => self.with_last(|last| last.lsn = Some(*lsn)),
            Said::CheckpointAcknowledged => self.with_last(|last| last.is_acknowledged = true),
            Said::CheckpointVoid => self.with_last(|last| last.is_void = true),
            Said::Found(found) => self.find(found),
            Said::Finished => self.finish(),
            Said::Closed => self.close(),
        }
    }

    /// Checks what an open found.
    ///
    /// # Errors
    /// What is wrong, with what was expected and what was found.
    pub fn check(&self, found: &Recovered) -> Result<(), String> {
        self.check_beginning(found)?;
        self.check_checkpoint(found)?;
        let unplaced = self.place_by_content(found);
        let expected = self.expected(found.start_mark(), &unplaced);
        let rest = expected.get(found.records.len()..).unwrap_or_default();
        if let Some(lost) =
            rest.iter().find(|due| due.batch.is_acknowledged || due.end() <= self.durable)
        {
            return Err(format!(
                "{lost} was acknowledged and is lost: the log ends at lsn {} with {} records",
                found.tail,
                found.records.len()
            ));
        }
        if found.tail < self.durable {
            return Err(format!(
                "the log ends at lsn {}, but was durable up to {}",
                found.tail, self.durable
            ));
        }
        // What was torn long ago may stand right behind the closing frame, garbage that names that very place
        // and a later epoch: nobody can tell it from what a later open would leave there. The closing
        // frame itself is below the durable mark, and is not cut.
        let is_behind = found.was_cut && found.tail >= self.durable;
        if self.is_closed && !found.clean_close && !is_behind {
            return Err("the log was closed, and says that it was not".to_owned());
        }
        Ok(())
    }

    /// Checks that what an open found is the beginning of what it should be, whatever else is lost: in
    /// order, without a gap, whole batches, nothing else.
    ///
    /// # Errors
    /// What is wrong, with what was expected and what was found.
    pub fn check_beginning(&self, found: &Recovered) -> Result<(), String> {
        if let Some(contradiction) = &self.contradiction {
            return Err(contradiction.clone());
        }
        if let (Some((start_mark, _)), None) = (&found.checkpoint, self.effective(found)) {
            return Err(format!("a checkpoint with start mark {start_mark} that nobody made"));
        }
        let unplaced = self.place_by_content(found);
        let expected = self.expected(found.start_mark(), &unplaced);
        let mut ends_batch = true;
        for (index, record) in found.records.iter().enumerate() {
            let Some(due) = expected.get(index) else {
                return Err(format!("{} is there, and nobody wrote it", name(record)));
            };
            if due.lsn != record.lsn {
                return Err(format!("expected {due}, found {}", name(record)));
            }
            if due.payload != record.payload {
                return Err(format!(
                    "{due} has other bytes: {}",
                    differ(due.payload, &record.payload)
                ));
            }
            if due.ends_batch != record.ends_batch {
                return Err(format!(
                    "{due} ends its batch: expected {}, found {}",
                    due.ends_batch, record.ends_batch
                ));
            }
            ends_batch = due.ends_batch;
        }
        if !ends_batch {
            return Err(format!(
                "a batch is cut in two behind {}",
                found.records.last().map(name).unwrap_or_default()
            ));
        }
        Ok(())
    }

    /// The place of the last record that was acknowledged, and was not released by the log that was
    /// `found`.
    #[must_use]
    pub fn last_acknowledged(&self, found: &Recovered) -> Option<Lsn> {
        let batches = self.batches.iter().filter(|batch| batch.is_acknowledged && !batch.is_void);
        batches.filter_map(|batch| batch.lsn).filter(|lsn| *lsn >= found.start_mark()).max()
    }

    /// Whether a batch that was never acknowledged is in the log that was `found`.
    #[must_use]
    pub fn has_unacknowledged(&self, found: &Recovered) -> bool {
        let is_there = |lsn: Lsn| found.records.iter().any(|record| record.lsn == lsn);
        let mut pending =
            self.batches.iter().filter(|batch| !batch.is_acknowledged && !batch.is_void);
        pending.any(|batch| batch.lsn.is_some_and(is_there))
    }

    /// Whether a batch that was placed is not in the log that was `found`, nor released.
    #[must_use]
    pub fn has_lost(&self, found: &Recovered) -> bool {
        let last = found.records.last().map(|record| record.lsn);
        let pending = self.batches.iter().filter(|batch| !batch.is_void);
        pending
            .filter_map(|batch| batch.lsn)
            .any(|lsn| Some(lsn) > last && lsn >= found.start_mark())
    }

    /// Whether the last checkpoint is not the one in effect.
    #[must_use]
    pub fn has_lost_checkpoint(&self, found: &Recovered) -> bool {
        let last = self.checkpoints.iter().rposition(|checkpoint| !checkpoint.is_void);
        last > self.effective(found)
    }

    /// The first thing that was said and cannot be.
    pub(crate) fn contradiction(&self) -> Option<&str> {
        self.contradiction.as_deref()
    }

    /// The highest start mark that a checkpoint ever asked for.
    pub(crate) fn start_mark_max(&self) -> Lsn {
        let marks = self.checkpoints.iter().filter(|checkpoint| !checkpoint.is_void);
        marks.map(|checkpoint| checkpoint.start_mark).max().unwrap_or_default()
    }

    fn with(&mut self, number: u64, change: impl FnOnce(&mut Batch)) {
        match self.batches.iter_mut().rev().find(|batch| batch.number == number) {
            Some(batch) => change(batch),
            None => {
                let text = format!("batch {number} was never begun");
                self.contradiction.get_or_insert(text);
            }
        }
    }

    fn with_last(&mut self, change: impl FnOnce(&mut Checkpoint)) {
        if let Some(last) = self.checkpoints.last_mut() {
            change(last);
        }
    }

    /// What was found is durable, by its place or, if that is unknown, by its content.
    fn find(&mut self, found: &Arc<Recovered>) {
        for (index, lsn) in self.place_by_content(found) {
            self.batches[index].lsn = Some(lsn);
        }
        for batch in self.batches.iter_mut().filter(|batch| !batch.is_void) {
            let is_there = |lsn: Lsn| found.records.iter().any(|record| record.lsn == lsn);
            batch.is_acknowledged |= batch.lsn.is_some_and(is_there);
        }
        if let Some(index) = self.effective(found) {
            self.checkpoints[index].is_acknowledged = true;
        }
        self.found = Some(Arc::clone(found));
    }

    fn finish(&mut self) {
        let Some(found) = self.found.take() else { return };
        for batch in self.batches.iter_mut().filter(|batch| !batch.is_acknowledged) {
            batch.is_void = true;
        }
        let effective = self.effective(&found);
        for (index, checkpoint) in self.checkpoints.iter_mut().enumerate() {
            checkpoint.is_void |= Some(index) > effective;
        }
        self.durable = self.durable.max(found.tail);
    }

    fn close(&mut self) {
        for batch in self.batches.iter_mut().filter(|batch| batch.lsn.is_some()) {
            batch.is_acknowledged = true;
        }
        for checkpoint in self.checkpoints.iter_mut().filter(|checkpoint| checkpoint.lsn.is_some())
        {
            checkpoint.is_acknowledged = true;
        }
    }

    /// Which checkpoint is in effect.
    fn effective(&self, found: &Recovered) -> Option<usize> {
        let (start_mark, state) = found.checkpoint.as_ref()?;
        self.checkpoints.iter().rposition(|checkpoint| {
            !checkpoint.is_void
                && checkpoint.start_mark == *start_mark
                && checkpoint.state == *state
        })
    }

    fn check_checkpoint(&self, found: &Recovered) -> Result<(), String> {
        let effective = self.effective(found);
        let last = found.records.last().map(|record| record.lsn);
        let due = self.checkpoints.iter().rposition(|checkpoint| {
            let is_below = checkpoint.lsn.is_some() && checkpoint.lsn < last;
            !checkpoint.is_void && (checkpoint.is_acknowledged || is_below)
        });
        match due.filter(|_| due > effective) {
            Some(due) => Err(format!(
                "the checkpoint with start mark {} is lost, found {:?}",
                self.checkpoints[due].start_mark,
                found.checkpoint.as_ref().map(|(start_mark, _)| start_mark)
            )),
            None => Ok(()),
        }
    }

    /// A reader saw a record: it has to be one that was written, and there, and is durable.
    fn see(&mut self, lsn: Lsn, payload: &[u8]) {
        // By its place; by its bytes only where nobody has heard of the place yet.
        let fits = |batch: &Batch| match batch.lsn {
            Some(_) => batch.places().any(|(place, record)| place == lsn && record == payload),
            None => batch.records.iter().any(|record| !record.is_empty() && record == payload),
        };
        match self.batches.iter_mut().rev().find(|batch| !batch.is_void && fits(batch)) {
            Some(batch) => batch.is_acknowledged = true,
            None => {
                let text = format!("a reader saw a record at lsn {lsn} that nobody wrote there");
                self.contradiction.get_or_insert(text);
            }
        }
    }

    /// The batches that were begun and are there, though nobody heard where: their index and place.
    fn place_by_content(&self, found: &Recovered) -> Vec<(usize, Lsn)> {
        let unplaced = self.batches.iter().enumerate();
        let unplaced = unplaced.filter(|(_, batch)| batch.lsn.is_none() && !batch.is_void);
        let places = unplaced.filter_map(|(index, batch)| {
            let first = batch.records.first()?;
            let record = found.records.iter().find(|record| record.payload == *first)?;
            Some((index, record.lsn))
        });
        places.collect()
    }

    /// Everything that may be there from `start_mark` on, in order.
    fn expected(&self, start_mark: Lsn, unplaced: &[(usize, Lsn)]) -> Vec<Expected<'_>> {
        let place = |index: usize, batch: &Batch| {
            let by_content = unplaced.iter().find(|(other, _)| *other == index);
            batch.lsn.or(by_content.map(|(_, lsn)| *lsn))
        };
        let batches = self.batches.iter().enumerate().filter(|(_, batch)| !batch.is_void);
        let mut placed: Vec<_> = batches
            .filter_map(|(index, batch)| place(index, batch).map(|lsn| (lsn, batch)))
            .collect();
        placed.sort_by_key(|(lsn, _)| *lsn);
        let records = placed.into_iter().flat_map(|(lsn, batch)| {
            batch.places_from(lsn).enumerate().map(move |(index, (lsn, payload))| Expected {
                lsn,
                payload,
                batch,
                ends_batch: index + 1 == batch.records.len(),
            })
        });
        records.filter(|record| record.lsn >= start_mark).collect()
    }
}

impl Batch {
    /// Where each record stands, if that is known.
    fn places(&self) -> impl Iterator<Item = (Lsn, &Vec<u8>)> {
        self.lsn.into_iter().flat_map(|lsn| self.places_from(lsn))
    }

    /// Where each record stands if the first stands at `first`: one after the other.
    fn places_from(&self, first: Lsn) -> impl Iterator<Item = (Lsn, &Vec<u8>)> {
        let mut next = first.get();
        self.records.iter().map(move |payload| {
            let lsn = Lsn::new(next);
            next += u64::try_from(record_bytes(payload.len())).unwrap_or(u64::MAX);
            (lsn, payload)
        })
    }
}

impl Expected<'_> {
    fn end(&self) -> Lsn {
        let bytes = u64::try_from(record_bytes(self.payload.len())).unwrap_or(u64::MAX);
        Lsn::new(self.lsn.get().saturating_add(bytes))
    }
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.payload.len();
        write!(f, "a record of batch {} ({bytes} bytes) at lsn {}", self.batch.number, self.lsn)
    }
}

fn name(record: &OwnedRecord) -> String {
    format!("a record of {} bytes at lsn {}", record.payload.len(), record.lsn)
}

fn differ(expected: &[u8], found: &[u8]) -> String {
    if expected.len() != found.len() {
        return format!("expected {} bytes, found {}", expected.len(), found.len());
    }
    let place = expected.iter().zip(found).position(|(expected, found)| expected != found);
    format!("the first that differs is number {}", place.unwrap_or_default())
}
