//! [`Reader`] and [`Follow`]: reading while the log is written.

use crate::{
    Error, ErrorKind, Lsn, Record, Result, Wal,
    commit::Engine,
    format::Identity,
    io::{Directory, Storage},
    reading::{Cursor, FrameWalker, Passage, Passed, Stop},
    recovery::Head,
    replay::damage,
    slots::Segment,
};
use std::{fmt, sync::Arc, time::Duration};

/// The durable records of a log that is open for writing, in order.
///
/// It pins the segment it reads: a checkpoint does not have it reused under the reader. It ends at the
/// durable mark; asked again later, it goes on from there. It outlives the handle.
pub struct Reader<S: Storage = Directory> {
    engine: Arc<Engine<S>>,
    walker: FrameWalker<S::File>,
    /// The segment that is being read, pinned.
    segment: Option<Segment<S::File>>,
    sequence: u64,
    passage: Passage<S::File>,
    cursor: Cursor,
    from: Lsn,
    failure: Option<Error>,
}

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnedRecord {
    /// Where it stands.
    pub lsn: Lsn,
    /// How many records of any kind the log had before it.
    pub ordinal: u64,
    /// Whether it is the last record of its batch.
    pub ends_batch: bool,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl From<Record<'_>> for OwnedRecord {
    fn from(record: Record<'_>) -> Self {
        Self {
            lsn: record.lsn(),
            ordinal: record.ordinal(),
            ends_batch: record.ends_batch(),
            payload: record.payload().to_vec(),
        }
    }
}

impl<S: Storage> Wal<S> {
    /// Reads the durable records from `lsn` on, or from the first one after it: also while others
    /// append.
    ///
    /// # Errors
    /// [`ErrorKind::Released`] below the start mark; [`ErrorKind::InvalidInput`] past the tail;
    /// [`ErrorKind::Forked`].
    pub fn read_from(&self, lsn: Lsn) -> Result<Reader<S>> {
        Reader::new(self.engine(), lsn)
    }

    /// The same, but goes on with the live tail: [`Follow::next`] waits for the next durable record.
    ///
    /// # Errors
    /// As [`Wal::read_from`].
    pub fn follow(&self, lsn: Lsn) -> Result<Follow<S>> {
        Ok(Follow { reader: self.read_from(lsn)? })
    }
}

impl<S: Storage> Reader<S> {
    fn new(engine: &Arc<Engine<S>>, from: Lsn) -> Result<Self> {
        check_position(engine, from)?;
        let identity = *engine.identity();
        Ok(Self {
            engine: Arc::clone(engine),
            walker: FrameWalker::new(identity, engine.storage().alignment()),
            segment: None,
            sequence: from.get() / identity.segment_bytes,
            passage: Passage::default(),
            cursor: Cursor::default(),
            from,
            failure: None,
        })
    }

    /// The next durable record, lent; `None` while there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where a frame is damaged, [`ErrorKind::Released`] where a checkpoint was
    /// faster than the reader, or where the log was closed and opened again and the segment reused,
    /// [`ErrorKind::Io`] where there is no memory for a frame. The same is answered to every later call.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        // A refused call changes nothing.
        self.engine.check_caller()?;
        loop {
            if let Some(place) = self.cursor.next(self.walker.payload(), self.from) {
                let found = place.record(self.walker.payload());
                return Ok(found.map(|(record, ordinal)| Record::new(&record, ordinal)));
            }
            if !self.next_frame()? {
                return Ok(None);
            }
        }
    }

    fn next_frame(&mut self) -> Result<bool> {
        self.cursor = Cursor::default();
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let answer = self.step();
        if let Err(error) = &answer {
            self.failure = Some(error.clone());
        }
        answer
    }

    fn step(&mut self) -> Result<bool> {
        loop {
            // Read once: everything below was durable before, so it is there and never changes.
            let durable = if planted!("reader-past-the-mark") {
                self.engine.appended()
            } else {
                self.engine.durable()
            };
            if self.segment.is_none() {
                self.segment = self.enter(durable)?;
            }
            let Some(segment) = &self.segment else { return Ok(false) };
            // Whether the durable mark lies in a later segment.
            let is_over = durable > segment.end(self.engine.identity());
            match self.passage.step(&mut self.walker, segment, durable, is_over) {
                Passed::Frame(cursor) => {
                    self.cursor = cursor;
                    return Ok(true);
                }
                Passed::Limit => return Ok(false),
                Passed::NoMemory(error) => return Err(error),
                Passed::Segment if !is_over => return Ok(false),
                Passed::Segment => {
                    self.segment = None;
                    self.sequence += 1;
                }
                Passed::Damage(segment, stop) => {
                    return Err(self.verdict(&segment, stop, durable)?);
                }
            }
        }
    }

    /// The error for a place where no frame belongs. A pinned segment is not reused by the writer it
    /// belongs to; once that is gone, another one knows of no pins. Fails if there is no memory to look.
    fn verdict(&self, segment: &Segment<S::File>, stop: Stop, durable: Lsn) -> Result<Error> {
        let storage = &**self.engine.storage();
        if !self.engine.goes_on() && is_reused(storage, self.engine.identity(), segment)? {
            let what = "the segment was reused after the log's end";
            return Ok(Error::new(ErrorKind::Released, what)
                .with_path(storage.path().join(&segment.slot.name))
                .with_segment(segment.sequence)
                .with_lsn(stop.lsn));
        }
        Ok(damage(storage, segment, stop, durable))
    }

    /// Pins the next segment, once a frame of it is durable.
    fn enter(&self, durable: Lsn) -> Result<Option<Segment<S::File>>> {
        let identity = self.engine.identity();
        let base = self.sequence.saturating_mul(identity.segment_bytes);
        let first_frame = base.saturating_add(identity.block_bytes.into());
        if durable.get() <= first_frame {
            return Ok(None);
        }
        pin(&self.engine, self.sequence).map(Some)
    }
}

/// Refuses `lsn` if it is below the start mark or past the tail.
pub(crate) fn check_position<S: Storage>(engine: &Engine<S>, lsn: Lsn) -> Result<()> {
    engine.check_caller()?;
    let start_mark = engine.start_mark();
    if lsn < start_mark {
        return Err(Error::new(ErrorKind::Released, "the records here were released")
            .with_lsn(lsn)
            .with_expected_found(format!("at least {start_mark}"), lsn));
    }
    let appended = engine.appended();
    if lsn > appended {
        return Err(Error::new(ErrorKind::InvalidInput, "past the log's tail")
            .with_lsn(lsn)
            .with_expected_found(format!("at most {appended}"), lsn));
    }
    Ok(())
}

/// The segment `sequence`, which holds a durable frame, pinned for as long as the answer lives.
pub(crate) fn pin<S: Storage>(engine: &Engine<S>, sequence: u64) -> Result<Segment<S::File>> {
    engine.check_caller()?;
    let base = Lsn::new(sequence.saturating_mul(engine.identity().segment_bytes));
    engine.segment_at(base).ok_or_else(|| {
        Error::new(ErrorKind::Released, "a checkpoint released what comes next")
            .with_segment(sequence)
            .with_lsn(base)
    })
}

/// How often a header that makes no sense is read again: it may be just being written.
const HEADER_READS: u32 = 8;
const HEADER_PAUSE: Duration = Duration::from_millis(1);

/// Whether the slot of `segment` says that it is another segment now.
fn is_reused<S: Storage>(
    storage: &S,
    identity: &Identity,
    segment: &Segment<S::File>,
) -> Result<bool> {
    for _ in 0..HEADER_READS {
        match Head::read(storage, identity, &segment.slot)? {
            Head::Valid(header) => return Ok(header.sequence != segment.sequence),
            Head::Invalid(_) | Head::Twin { .. } | Head::Unreadable(_) => {}
        }
        storage.sleep(HEADER_PAUSE);
    }
    Ok(false)
}

impl<S: Storage> Iterator for Reader<S> {
    type Item = Result<OwnedRecord>;

    /// The next durable record, copied. Ends at the durable mark; after an error, too, but for a call that is
    /// refused ([`ErrorKind::Forked`], [`ErrorKind::InvalidInput`]): that changes nothing.
    fn next(&mut self) -> Option<Result<OwnedRecord>> {
        if self.failure.is_some() {
            return None;
        }
        self.next_record().map(|record| record.map(OwnedRecord::from)).transpose()
    }
}

/// The durable records of a log, and those that become durable later.
pub struct Follow<S: Storage = Directory> {
    reader: Reader<S>,
}

impl<S: Storage> Follow<S> {
    /// The next record, waiting until it is durable; `None` when the log was closed, dropped or
    /// latched, and all that was durable has been read.
    ///
    /// # Errors
    /// As [`Reader::next_record`].
    #[expect(clippy::should_implement_trait, reason = "it lends: an iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        self.wait(None)?;
        self.reader.next_record()
    }

    /// The same for `timeout` at most.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`], and as [`Reader::next_record`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Record<'_>>> {
        if !self.wait(Some(timeout))? {
            return Err(Error::new(ErrorKind::TimedOut, "nothing became durable"));
        }
        self.reader.next_record()
    }

    /// Waits until there is a record, or will never be one; `false` if the time was up first.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        let storage = Arc::clone(self.reader.engine.storage());
        let deadline = timeout.map(|time| storage.now().saturating_add(time));
        loop {
            let seen = self.reader.engine.durable();
            if self.reader.has_next()? {
                return Ok(true);
            }
            let remaining = deadline.map(|at| at.saturating_sub(storage.now()));
            if remaining == Some(Duration::ZERO) {
                return Ok(false);
            }
            let goes_on = self.reader.engine.wait_for_progress(seen, remaining)?;
            if !goes_on && self.reader.engine.durable() == seen {
                return Ok(true);
            }
        }
    }
}

impl<S: Storage> Reader<S> {
    /// Whether there is a durable record that was not read, without reading it.
    fn has_next(&mut self) -> Result<bool> {
        self.engine.check_caller()?;
        loop {
            let mut look = self.cursor;
            if look.next(self.walker.payload(), self.from).is_some() {
                return Ok(true);
            }
            if !self.next_frame()? {
                return Ok(false);
            }
        }
    }
}

impl<S: Storage> fmt::Debug for Reader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl<S: Storage> fmt::Debug for Follow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("reader", &self.reader).finish_non_exhaustive()
    }
}
