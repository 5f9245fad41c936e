//! [`ReadOnly`]: looking at a log without touching it, also while somebody writes to it.

mod verify;

pub use verify::{Verification, VerifyVerdict};

use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{Checkpoint, Identity},
    io::{Access, Directory, Storage},
    reading::{Cursor, FrameWalker, Passage, Passed, Stop, Stretch},
    recovery::{
        self, Examined, Head, Names, SegmentScan, Survey, Surveyed, Unreadable, scan_segment,
    },
    replay::{Record, damage},
    slots::Segment,
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// How often a scan that finds damage is repeated before it is believed: a writer that is at work
/// changes the log under the reader's eyes. Two answers in a row that are the same end it earlier.
const SCANS_MAX: u32 = 16;

/// A log opened for reading: no lock, no write, no repair.
///
/// It may be in use. What it yields lies below the highest durable mark that it read, so all of it
/// was on stable storage. A damaged log opens as well; only its identity must be readable.
pub struct ReadOnly<S: Storage = Directory> {
    storage: Arc<S>,
    identity: Identity,
    unreadable: Unreadable,
    view: View<S>,
}

/// The log as it was when somebody last looked.
struct View<S: Storage> {
    survey: Survey<S::File>,
    /// The error is damage.
    examined: Result<Examined<S::File>>,
    /// The latest checkpoint. The error is that nobody knows: the log is damaged there.
    checkpoint: Result<Option<(Lsn, Vec<u8>)>>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The slot's number.
    pub slot: u32,
    /// Its file's name.
    pub file: String,
    /// Which segment it is, if it is one.
    pub sequence: Option<u64>,
    /// Where the segment begins.
    pub base: Option<Lsn>,
    /// The end of its last frame.
    pub end: Option<Lsn>,
    /// What its header and its frames take.
    pub used_bytes: u64,
    /// How many frames it has.
    pub frames: u64,
    /// How many records they have.
    pub records: u64,
    /// The epochs of its first and its last frame.
    pub epoch: Option<(u64, u64)>,
    /// What it is there for.
    pub state: SegmentState,
}

/// What a slot is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SegmentState {
    /// It holds records that are needed.
    Live,
    /// It holds the log's end.
    Active,
    /// It will be the next one.
    Prepared,
    /// It holds nothing that is needed.
    Free,
    /// It is not what it should be.
    Damaged,
}

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

impl<S: Storage> ReadOnly<S> {
    /// Opens the log in `storage`.
    pub(crate) fn open(storage: S, unreadable_is_torn: bool) -> Result<Self> {
        let storage = Arc::new(storage);
        let names = Names::list(&*storage)?;
        if !names.identity {
            return Err(
                Error::new(ErrorKind::NotFound, "there is no log here").with_path(storage.path())
            );
        }
        let identity = recovery::read_identity(&*storage)?;
        let unreadable = if unreadable_is_torn { Unreadable::Torn } else { Unreadable::Refused };
        let view = look(&storage, &identity, unreadable)?;
        Ok(Self { storage, identity, unreadable, view })
    }

    /// What holds for the whole log.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Below it the user needs nothing, as far as is known: 0 if the log is damaged where that is
    /// said.
    #[must_use]
    pub fn start_mark(&self) -> Lsn {
        self.checkpoint().map_or(Lsn::ZERO, |checkpoint| checkpoint.start_mark)
    }

    /// The latest checkpoint, as far as is known.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint<'_>> {
        let (start_mark, state) = self.view.checkpoint.as_ref().ok()?.as_ref()?;
        Some(Checkpoint { start_mark: *start_mark, state })
    }

    /// Where an open for writing would go on.
    ///
    /// # Errors
    /// The one that an open for writing would answer, if the log is damaged.
    pub fn tail(&self) -> Result<Lsn> {
        self.view.examined.as_ref().map(|found| found.tail.lsn).map_err(Clone::clone)
    }

    /// Below it everything is on stable storage, for a frame says so.
    ///
    /// # Errors
    /// As for [`ReadOnly::tail`].
    pub fn durable_mark(&self) -> Result<Lsn> {
        self.view.examined.as_ref().map(|found| found.durable_mark).map_err(Clone::clone)
    }

    /// Looks again: the log as it is now.
    ///
    /// # Errors
    /// What the system answers. Damage is no error here, but where it is met.
    pub fn refresh(&mut self) -> Result<()> {
        self.view = look(&self.storage, &self.identity, self.unreadable)?;
        Ok(())
    }

    /// What each slot holds. Reads the whole log.
    ///
    /// # Errors
    /// What the system answers. Damage is a state of a slot and no error.
    pub fn segments(&mut self) -> Result<Vec<SegmentInfo>> {
        self.refresh()?;
        let mut walker = FrameWalker::new(self.identity, self.storage.alignment());
        let infos = self.view.survey.slots.iter().map(|surveyed| self.info(surveyed, &mut walker));
        Ok(infos.collect())
    }

    /// The records from `lsn` on, or from the start mark if that is higher, as far as they are
    /// known to be durable. Of a damaged log, the records up to the first damage, a missing segment
    /// included, and then the error; those behind it by asking again with an `lsn` behind it.
    ///
    /// Who reads past the end of a segment is read ahead of, by four threads with up to 12 MiB.
    ///
    /// # Errors
    /// What the system answers.
    pub fn records_from(&mut self, lsn: Lsn) -> Result<ReadOnlyRecords<'_, S>> {
        self.refresh()?;
        let limit = match &self.view.examined {
            Ok(examined) => examined.durable_mark,
            Err(_) => Lsn::new(u64::MAX),
        };
        Ok(self.records(lsn, limit))
    }

    /// As [`ReadOnly::records_from`], and after those the records that nothing proves durable: those
    /// that an open for writing would keep.
    ///
    /// # Errors
    /// What the system answers.
    pub fn records_from_including_unproved(&mut self, lsn: Lsn) -> Result<ReadOnlyRecords<'_, S>> {
        self.refresh()?;
        let limit = match &self.view.examined {
            Ok(examined) => examined.tail.lsn,
            Err(_) => Lsn::new(u64::MAX),
        };
        Ok(self.records(lsn, limit))
    }

    /// Reads everything that is needed and says what is wrong with it, all of it.
    ///
    /// # Errors
    /// What the system answers. Damage is no error but part of the answer.
    pub fn verify(&mut self) -> Result<Verification> {
        self.refresh()?;
        verify::verify(&self.storage, &self.identity, &self.view)
    }

    fn records(&self, lsn: Lsn, limit: Lsn) -> ReadOnlyRecords<'_, S> {
        let from = lsn.max(self.start_mark());
        let segments = self.view.segments(&self.identity);
        let ends_before = |segment: &Segment<S::File>| segment.end(&self.identity) <= from;
        let mut index = segments.iter().take_while(|segment| ends_before(segment)).count();
        // Of a damaged log, the segment that holds `from` may be missing. Where the start mark is not known
        // either, the oldest one there is may be the oldest that is needed.
        let is_missing = |segment: &Segment<S::File>| segment.base > from;
        let is_known = index > 0 || self.view.checkpoint.is_ok();
        if is_known && segments.get(index).is_some_and(is_missing) {
            index = segments.len();
        }
        ReadOnlyRecords {
            index,
            log: self,
            walker: FrameWalker::new(self.identity, self.storage.alignment()),
            segments,
            from,
            limit,
            passage: Passage::default(),
            cursor: Cursor::default(),
            reads_ahead: false,
            failure: None,
        }
    }

    fn info(&self, surveyed: &Surveyed<S::File>, walker: &mut FrameWalker<S::File>) -> SegmentInfo {
        let slot = &surveyed.slot;
        let mut info = SegmentInfo {
            slot: slot.number,
            file: slot.name.clone(),
            sequence: None,
            base: None,
            end: None,
            used_bytes: 0,
            frames: 0,
            records: 0,
            epoch: None,
            state: self.view.state(slot.number),
        };
        let Head::Valid(header) = &surveyed.head else { return info };
        (info.sequence, info.base) = (Some(header.sequence), Some(header.base));
        if matches!(info.state, SegmentState::Free | SegmentState::Prepared) {
            return info;
        }
        let segment = Segment::new(header, Arc::clone(slot));
        let Ok(scan) = scan_segment(walker, &self.identity, segment, header.origin) else {
            info.state = SegmentState::Damaged;
            return info;
        };
        let SegmentScan { taken, records, stop, .. } = scan;
        info.frames = u64::try_from(taken.len()).unwrap_or(u64::MAX);
        info.records = records;
        info.end = (!taken.is_empty()).then_some(stop.lsn);
        info.used_bytes = stop.offset;
        info.epoch = taken.first().zip(taken.last()).map(|(first, last)| (first.epoch, last.epoch));
        info
    }

    /// Whether the slot of `segment` still holds it.
    fn is_still(&self, segment: &Segment<S::File>) -> bool {
        is_still(&*self.storage, &self.identity, segment)
    }
}

impl<S: Storage> View<S> {
    /// The segments that are needed, or if that is not known, all there are; oldest first. Of a damaged
    /// log, some between them may be missing.
    fn segments(&self, identity: &Identity) -> Vec<Segment<S::File>> {
        if let Ok(examined) = &self.examined {
            return examined.layout.live.clone();
        }
        let valid = self.survey.slots.iter().filter_map(|surveyed| match &surveyed.head {
            Head::Valid(header) => {
                Some((header.sequence, Segment::new(header, Arc::clone(&surveyed.slot))))
            }
            Head::Invalid(_) | Head::Twin { .. } | Head::Unreadable(_) => None,
        });
        let checkpoint = self.checkpoint.as_ref().ok().and_then(Option::as_ref);
        let start_mark = checkpoint.map_or(Lsn::ZERO, |(start_mark, _)| *start_mark);
        let valid = valid.collect::<BTreeMap<_, _>>().into_values();
        valid.filter(|segment| segment.end(identity) >= start_mark).collect()
    }

    fn state(&self, number: u32) -> SegmentState {
        let Ok(examined) = &self.examined else {
            let damaged = |surveyed: &&Surveyed<S::File>| {
                surveyed.slot.number == number && !matches!(surveyed.head, Head::Valid(_))
            };
            return match self.survey.slots.iter().find(damaged) {
                Some(_) => SegmentState::Damaged,
                None => SegmentState::Live,
            };
        };
        let is = |segment: &Segment<S::File>| segment.slot.number == number;
        match examined.layout.live.split_last() {
            Some((tail, _)) if is(tail) => SegmentState::Active,
            Some((_, older)) if older.iter().any(is) => SegmentState::Live,
            _ if examined.layout.successor.as_ref().is_some_and(is) => SegmentState::Prepared,
            _ => SegmentState::Free,
        }
    }
}

fn look<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    unreadable: Unreadable,
) -> Result<View<S>> {
    let mut before: Option<String> = None;
    let mut scans = 1;
    loop {
        let survey = Names::list(&**storage)
            .and_then(|names| Survey::take(storage, identity, names, Access::Read));
        let mut survey = match survey {
            Ok(survey) => survey,
            // A slot that was given back between the list and the look.
            Err(error) if scans < SCANS_MAX && is_missing(&error) => {
                scans += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let examined = recovery::examine(storage, identity, &mut survey, unreadable);
        let answer = examined.as_ref().err().map(ToString::to_string);
        if answer.is_none() || answer == before || scans == SCANS_MAX {
            let checkpoint = match &examined {
                Ok(examined) => Ok(examined.checkpoint.clone()),
                Err(_) => recovery::checkpoint(storage, identity, &survey),
            };
            return Ok(View { survey, examined, checkpoint });
        }
        before = answer;
        scans += 1;
    }
}

fn is_missing(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|error| error.downcast_ref());
    source.is_some_and(|error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound)
}

fn is_still<S: Storage>(storage: &S, identity: &Identity, segment: &Segment<S::File>) -> bool {
    let head = Head::read(storage, identity, &segment.slot.file);
    matches!(head, Head::Valid(header) if header.sequence == segment.sequence)
}

impl<S: Storage> ReadOnlyRecords<'_, S> {
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
    /// [`ErrorKind::Corrupt`] where a frame is damaged. The same is answered to every later call.
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
                Passed::Segment if goes_on => {
                    self.index += 1;
                    self.read_ahead();
                }
                Passed::Segment => return self.end(),
                Passed::Damage(damaged, stop) => {
                    let is_reused = !self.log.is_still(segment);
                    return Err(self.verdict(&damaged, stop, is_reused));
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
    fn verdict(&self, segment: &Segment<S::File>, stop: Stop, is_next_reused: bool) -> Error {
        if is_next_reused || !self.log.is_still(segment) {
            return Error::new(ErrorKind::Released, "the segment was reused meanwhile")
                .with_path(self.log.storage.path().join(&segment.slot.name))
                .with_segment(segment.sequence)
                .with_lsn(stop.lsn);
        }
        match &self.log.view.examined {
            Err(error) => error.clone(),
            Ok(_) => damage(&*self.log.storage, segment, stop, self.limit),
        }
    }
}

impl<S: Storage> fmt::Debug for ReadOnly<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnly")
            .field("path", &self.storage.path())
            .field("identity", &self.identity)
            .field("tail", &self.tail())
            .finish_non_exhaustive()
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

#[cfg(test)]
mod tests;
