//! [`ReadOnlyRecords`]: from record to record of a log that somebody may be writing to.

use super::ReadOnly;
use crate::{
    Error, ErrorKind, Lsn, Result,
    io::{Directory, Storage},
    reading::{Cursor, FrameWalker, Passage, Passed, Stop, Stretch},
    replay::{Record, damage},
    slots::Segment,
};
use std::fmt;

/// The records of a [`ReadOnly`], in order.
pub struct ReadOnlyRecords<'a, S: Storage = Directory> {
    log: &'a ReadOnly<S>,
    walker: FrameWalker<S::File>,
    segments: Vec<Segment<S::File>>,
    index: usize,
    from: Lsn,
    limit: Lsn,
    passage: Passage<S::File>,
    cursor: Cursor,
    reads_ahead: bool,
    failure: Option<Error>,
}

impl<'a, S: Storage> ReadOnlyRecords<'a, S> {
    /// Those of `log` from `lsn` on that end at or below `limit`.
    pub(super) fn new(log: &'a ReadOnly<S>, lsn: Lsn, limit: Lsn) -> Self {
        let from = lsn.max(log.start_mark());
        let segments = log.view.segments(&log.identity);
        let ends_before = |segment: &Segment<S::File>| segment.end(&log.identity) <= from;
        let mut index = segments.iter().take_while(|segment| ends_before(segment)).count();
        // Of a damaged log, the segment that holds `from` may be missing. Where the start mark is not known
        // either, the oldest one there is may be the oldest that is needed.
        let is_missing = |segment: &Segment<S::File>| segment.base > from;
        let is_known = index > 0 || log.view.checkpoint.is_ok();
        if is_known && segments.get(index).is_some_and(is_missing) {
            index = segments.len();
        }
        Self {
            index,
            log,
            walker: FrameWalker::new(log.identity, log.storage.alignment()),
            segments,
            from,
            limit,
            passage: Passage::default(),
            cursor: Cursor::default(),
            reads_ahead: false,
            failure: None,
        }
    }

    /// Below it everything is known to be durable. Records above it are yielded only by
    /// [`ReadOnly::records_from_including_unproved`]. Of a damaged log nobody knows: the highest there is.
    #[must_use]
    pub fn durable_mark(&self) -> Lsn {
        match &self.log.view.examined {
            Ok(examined) => examined.durable_mark,
            Err(_) => Lsn::new(u64::MAX),
        }
    }

    /// The next record, or `None` at the end of what is known to be durable.
    ///
    /// # Errors
    /// [`ErrorKind::Released`] if the writer has reused the segment meanwhile;
    /// [`ErrorKind::Corrupt`] where a frame is damaged; [`ErrorKind::Io`] where there is no memory for
    /// one. The same is answered to every later call.
    #[expect(clippy::should_implement_trait, reason = "it lends: an iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
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
            let Some(segment) = self.segments.get(self.index) else { return self.end() };
            // Of a damaged log, the neighbour may be missing, and the next one be behind the hole.
            let next = self.segments.get(self.index + 1);
            let goes_on = next.is_some_and(|next| next.base == segment.end(&self.log.identity));
            match self.passage.step(&mut self.walker, segment, self.limit, goes_on) {
                Passed::Frame(cursor) => {
                    self.cursor = cursor;
                    return Ok(true);
                }
                Passed::Limit => return self.end(),
                Passed::NoMemory(error) => return Err(error),
                Passed::Segment if goes_on => {
                    self.index += 1;
                    self.read_ahead();
                }
                Passed::Segment => return self.end(),
                Passed::Damage(damaged, stop) => {
                    let is_reused = !self.log.is_still(segment)?;
                    return Err(self.verdict(&damaged, stop, is_reused)?);
                }
            }
        }
    }

    /// Whoever has read to the end of a segment is not there for a record or two: from here on the rest is
    /// read ahead.
    fn read_ahead(&mut self) {
        if std::mem::replace(&mut self.reads_ahead, true) {
            return;
        }
        let rest = self.segments.iter().skip(self.index);
        let plan = rest.map(|segment| Stretch::of(segment, &self.log.identity, self.limit));
        self.walker.read_ahead(&self.log.storage, plan.collect());
    }

    /// The end of the records; of a damaged log, that is its damage.
    fn end(&self) -> Result<bool> {
        match &self.log.view.examined {
            Ok(_) => Ok(false),
            Err(error) => Err(error.clone()),
        }
    }

    /// The error for a place where no frame belongs: whoever reads a log in use looks at the headers
    /// once more, of this segment and of the next, before calling anything damaged.
    /// Fails if there is no memory to look.
    fn verdict(
        &self,
        segment: &Segment<S::File>,
        stop: Stop,
        is_next_reused: bool,
    ) -> Result<Error> {
        if is_next_reused || !self.log.is_still(segment)? {
            return Ok(Error::new(ErrorKind::Released, "the segment was reused meanwhile")
                .with_path(self.log.storage.path().join(&segment.slot.name))
                .with_segment(segment.sequence)
                .with_lsn(stop.lsn));
        }
        Ok(match &self.log.view.examined {
            Err(error) => error.clone(),
            Ok(_) => damage(&*self.log.storage, segment, stop, self.limit),
        })
    }
}

impl<S: Storage> fmt::Debug for ReadOnlyRecords<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyRecords")
            .field("cursor", &self.cursor)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
