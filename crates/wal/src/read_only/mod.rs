//! [`ReadOnly`]: looking at a log without touching it, also while somebody writes to it.

mod records;
mod verify;

pub use records::ReadOnlyRecords;
pub use verify::{Verification, VerifyVerdict};

use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{Checkpoint, Identity},
    io::{Access, Directory, Storage},
    reading::{FrameWalker, was_no_memory},
    recovery::{
        self, Examined, Head, Names, SegmentScan, Survey, Surveyed, Unreadable, scan_segment,
    },
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
        let walker = || FrameWalker::new(identity, storage.alignment());
        let view = look(&storage, &identity, unreadable, walker)?;
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

    /// Looks again: the log as it is now. Reads up to two segments, on the caller's thread alone.
    ///
    /// # Errors
    /// What the system answers. Damage is no error here, but where it is met.
    pub fn refresh(&mut self) -> Result<()> {
        let walker = || FrameWalker::new(self.identity, self.storage.alignment()).alone();
        self.view = look(&self.storage, &self.identity, self.unreadable, walker)?;
        Ok(())
    }

    /// What each slot holds. Reads the whole log.
    ///
    /// # Errors
    /// What the system answers. Damage is a state of a slot and no error.
    pub fn segments(&mut self) -> Result<Vec<SegmentInfo>> {
        self.refresh()?;
        let mut walker = FrameWalker::new(self.identity, self.storage.alignment());
        let slots = self.view.survey.slots.iter();
        slots.map(|surveyed| self.info(surveyed, &mut walker)).collect()
    }

    /// The records from `lsn` on, or from the start mark if that is higher, as far as they are
    /// known to be durable. Of a damaged log, the records up to the first damage, a missing segment
    /// included, and then the error; those behind it by asking again with an `lsn` behind it.
    ///
    /// Looks again first, as [`ReadOnly::refresh`]. Who then reads past the end of a segment is read ahead
    /// of, by four threads with up to 12 MiB; a record or two cost neither.
    ///
    /// # Errors
    /// What the system answers.
    pub fn records_from(&mut self, lsn: Lsn) -> Result<ReadOnlyRecords<'_, S>> {
        self.refresh()?;
        let limit = match &self.view.examined {
            Ok(examined) => examined.durable_mark,
            Err(_) => Lsn::new(u64::MAX),
        };
        Ok(ReadOnlyRecords::new(self, lsn, limit))
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
        Ok(ReadOnlyRecords::new(self, lsn, limit))
    }

    /// Reads everything that is needed and says what is wrong with it, all of it.
    ///
    /// # Errors
    /// What the system answers. Damage is no error but part of the answer.
    pub fn verify(&mut self) -> Result<Verification> {
        self.refresh()?;
        verify::verify(&self.storage, &self.identity, &self.view)
    }

    fn info(
        &self,
        surveyed: &Surveyed<S::File>,
        walker: &mut FrameWalker<S::File>,
    ) -> Result<SegmentInfo> {
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
        let Head::Valid(header) = &surveyed.head else { return Ok(info) };
        (info.sequence, info.base) = (Some(header.sequence), Some(header.base));
        if matches!(info.state, SegmentState::Free | SegmentState::Prepared) {
            return Ok(info);
        }
        let segment = Segment::new(header, Arc::clone(slot));
        let scan = match scan_segment(walker, &self.identity, segment, header.origin) {
            Ok(scan) => scan,
            Err(error) if was_no_memory(&error) => return Err(error),
            Err(_) => {
                info.state = SegmentState::Damaged;
                return Ok(info);
            }
        };
        let SegmentScan { taken, records, stop, .. } = scan;
        info.frames = u64::try_from(taken.len()).unwrap_or(u64::MAX);
        info.records = records;
        info.end = (!taken.is_empty()).then_some(stop.lsn);
        info.used_bytes = stop.offset;
        info.epoch = taken.first().zip(taken.last()).map(|(first, last)| (first.epoch, last.epoch));
        Ok(info)
    }

    /// Whether the slot of `segment` still holds it.
    fn is_still(&self, segment: &Segment<S::File>) -> Result<bool> {
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

/// Surveys and examines the log, each time with a new `walker`.
fn look<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    unreadable: Unreadable,
    walker: impl Fn() -> FrameWalker<S::File>,
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
        let examined = recovery::examine(storage, identity, &mut survey, unreadable, walker());
        if let Err(error) = &examined
            && was_no_memory(error)
        {
            return Err(error.clone());
        }
        let answer = examined.as_ref().err().map(ToString::to_string);
        if answer.is_none() || answer == before || scans == SCANS_MAX {
            let checkpoint = match &examined {
                Ok(examined) => Ok(examined.checkpoint.clone()),
                Err(_) => match recovery::checkpoint(storage, identity, &survey, walker()) {
                    Err(error) if was_no_memory(&error) => return Err(error),
                    answer => answer,
                },
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

fn is_still<S: Storage>(
    storage: &S,
    identity: &Identity,
    segment: &Segment<S::File>,
) -> Result<bool> {
    let head = Head::read(storage, identity, &segment.slot)?;
    Ok(matches!(head, Head::Valid(header) if header.sequence == segment.sequence))
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

#[cfg(test)]
mod tests;
