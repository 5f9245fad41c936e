//! [`Replay`]: every record that the user needs, in order, before the log can be written to.

use crate::{
    Error, ErrorKind, Lsn, Result, commit,
    format::{self, Checkpoint},
    io::{Directory, Storage},
    options::Options,
    reading::{Cursor, Found, FrameWalker, Passage, Passed, Stop, Stretch},
    recovery::{self, OpenReport, Policy, Recovered},
    slots::Segment,
};
use aligned::ForkWitness;
use std::{fmt, path::PathBuf, sync::Arc};

/// A log that was opened for writing and is being read: the way to [`Wal`](crate::Wal).
///
/// It is locked and scanned; nothing was written yet, except that a missing log was created. The
/// records are lent, not copied.
///
/// [`Replay::finish`] takes what a writer needs, the lock with it. What is left is what was found:
/// [`Replay::report`], [`Replay::start_mark`] and [`Replay::checkpoint`] go on answering.
pub struct Replay<S: Storage = Directory> {
    /// The same as in what was recovered, for as long as this is there.
    report: OpenReport,
    checkpoint: Option<(Lsn, Vec<u8>)>,
    path: PathBuf,
    /// What the writer gets; `None` once it has it, or never will.
    recovered: Option<Recovered<S>>,
    walker: FrameWalker<S::File>,
    /// Which of the live segments is being read.
    segment: usize,
    passage: Passage<S::File>,
    cursor: Cursor,
    stage: Stage,
    failure: Option<Error>,
    options: Options,
    /// Tells a forked child, which must neither read on nor write.
    witness: ForkWitness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    Reading,
    /// All was read, or the caller said that it does not want the rest.
    Over,
}

/// A record of the log: bytes that the user appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    lsn: Lsn,
    ordinal: u64,
    ends_batch: bool,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn new(record: &format::Record<'a>, ordinal: u64) -> Self {
        let format::Record { lsn, more, payload, .. } = *record;
        Self { lsn, ordinal, ends_batch: !more, payload }
    }

    /// Where it stands.
    #[must_use]
    #[inline]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Its bytes.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// How many records of any kind the log had before it.
    #[must_use]
    #[inline]
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Whether it is the last record of its batch; a record appended alone is.
    #[must_use]
    #[inline]
    pub fn ends_batch(&self) -> bool {
        self.ends_batch
    }

    /// The position just behind it: to go on from, or as a start mark that releases it.
    #[must_use]
    #[inline]
    pub fn next_lsn(&self) -> Lsn {
        let bytes = u64::try_from(format::record_bytes(self.payload.len())).unwrap_or(u64::MAX);
        Lsn::new(self.lsn.get().saturating_add(bytes))
    }
}

impl<S: Storage> Replay<S> {
    /// Locks, scans and decides. The `options` are kept for the writer.
    pub(crate) fn open(storage: S, policy: Policy, options: Options) -> Result<Self> {
        let witness = ForkWitness::new()
            .map_err(|error| Error::from_io("a page that tells a fork", error))?;
        let recovered = recovery::open(Arc::new(storage), &policy)?;
        let walker = FrameWalker::new(recovered.identity, recovered.storage.alignment());
        Ok(Self {
            report: recovered.report.clone(),
            checkpoint: recovered.checkpoint.clone(),
            path: recovered.storage.path(),
            recovered: Some(recovered),
            walker,
            segment: 0,
            passage: Passage::default(),
            cursor: Cursor::default(),
            stage: Stage::Fresh,
            failure: None,
            options,
            witness,
        })
    }

    /// The next record from the start mark on, or `None` at the log's end.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where a frame is damaged: everything that is read here was durable
    /// once. [`ErrorKind::Io`] where there is no memory for one. The same error is answered to every later call.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "it lends: an iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        // A refused call changes nothing.
        self.check_process()?;
        let start_mark = self.report.start_mark;
        loop {
            if let Some(place) = self.cursor.next(self.walker.payload(), start_mark) {
                let found = place.record(self.walker.payload());
                return Ok(found.map(|(record, ordinal)| Record::new(&record, ordinal)));
            }
            if !self.next_frame()? {
                return Ok(None);
            }
        }
    }

    /// Says that the caller does not want to read the rest, so that `finish` gives the log anyway.
    pub fn skip_rest(&mut self) {
        self.stage = Stage::Over;
        self.cursor = Cursor::default();
        self.walker.reset();
    }

    /// The latest checkpoint: the start mark and the user's own bytes.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint<'_>> {
        let (start_mark, state) = self.checkpoint.as_ref()?;
        Some(Checkpoint { start_mark: *start_mark, state })
    }

    /// Below it the user needs nothing: reading begins here.
    #[must_use]
    pub fn start_mark(&self) -> Lsn {
        self.report.start_mark
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Takes what a writer needs, once all was read without an error or the rest was skipped, and lets
    /// go of what reading held: a slot that is pinned cannot be used again.
    pub(crate) fn take_recovered(&mut self) -> Result<Recovered<S>> {
        self.check_process()?;
        commit::refuse_inside_a_closure()?;
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.stage != Stage::Over {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "records are unread: read until there are none, or call skip_rest",
            ));
        }
        let Some(recovered) = self.recovered.take() else {
            return Err(Error::new(ErrorKind::InvalidInput, "finish has given the log already")
                .with_path(&self.path));
        };
        self.walker = FrameWalker::new(recovered.identity, recovered.storage.alignment());
        self.passage = Passage::default();
        Ok(recovered)
    }

    /// Keeps what a writer needs for another call, with what has come of it so far.
    pub(crate) fn put_back(&mut self, recovered: Recovered<S>) {
        self.report = recovered.report.clone();
        self.recovered = Some(recovered);
    }

    /// What every later call answers.
    pub(crate) fn fail(&mut self, failure: Error) {
        self.failure = Some(failure);
    }

    pub(crate) fn set_report(&mut self, report: OpenReport) {
        self.report = report;
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    fn check_process(&self) -> Result<()> {
        if self.witness.same_process() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forked, "this process did not open the log")
            .with_path(&self.path))
    }

    /// Moves to the next frame; `false` at the log's end.
    #[cold]
    fn next_frame(&mut self) -> Result<bool> {
        self.cursor = Cursor::default();
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        match self.stage {
            Stage::Over => return Ok(false),
            Stage::Fresh => self.start(),
            Stage::Reading => {}
        }
        let answer = self.step();
        match &answer {
            Ok(true) => {}
            Ok(false) => self.stage = Stage::Over,
            Err(error) => self.failure = Some(error.clone()),
        }
        answer
    }

    fn start(&mut self) {
        self.stage = Stage::Reading;
        // It is taken only when all is read.
        let Some(Recovered { storage, identity, segments, tail, .. }) = &self.recovered else {
            return;
        };
        let plan = segments.iter().map(|segment| Stretch::of(segment, identity, tail.lsn));
        self.walker.read_ahead(storage, plan.collect());
    }

    fn step(&mut self) -> Result<bool> {
        let Some(Recovered { storage, segments, tail, .. }) = &self.recovered else {
            return Ok(false);
        };
        loop {
            let Some(segment) = segments.get(self.segment) else { return Ok(false) };
            let goes_on = self.segment + 1 < segments.len();
            match self.passage.step(&mut self.walker, segment, tail.lsn, goes_on) {
                Passed::Frame(cursor) => {
                    self.cursor = cursor;
                    return Ok(true);
                }
                Passed::Limit => return Ok(false),
                Passed::Segment => self.segment += 1,
                Passed::NoMemory(error) => return Err(error),
                Passed::Damage(segment, stop) => {
                    return Err(damage(&**storage, &segment, stop, tail.lsn));
                }
            }
        }
    }
}

/// The error for a place below `tail`, the log's end, where a frame should be and none is.
pub(crate) fn damage<S: Storage>(
    storage: &S,
    segment: &Segment<S::File>,
    stop: Stop,
    tail: Lsn,
) -> Error {
    let error = Error::new(ErrorKind::Corrupt, "an acknowledged frame is damaged or missing")
        .with_path(storage.path().join(&segment.slot.name))
        .with_segment(segment.sequence)
        .with_offset(stop.offset)
        .with_lsn(stop.lsn)
        .with_expected_found(
            format!("a frame that belongs, because the log goes on to lsn {tail}"),
            &stop.found,
        );
    match stop.found {
        Found::Error(source) => error.with_source(source),
        _ => error,
    }
}

impl<S: Storage> fmt::Debug for Replay<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("stage", &self.stage)
            .field("segment", &self.segment)
            .field("cursor", &self.cursor)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
