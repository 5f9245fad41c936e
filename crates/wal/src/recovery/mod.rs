/*!
Opening a log: scan, decide, repair.

- `survey`: which files there are, what each slot's first block says
- `flush`: every slot flushed before anything in it is believed
- `create`: a new log
- `scan`: the last segments, read block by block, and whatever proves something
- `layout`: which slots the log needs, all of them there, none damaged
- `decide`: what the facts at the tail mean; a pure table
- `verdict`: the table's answer as a cut or as an error that names the proof
- `repair`: the only writing, and only of copies
- `report`: what is told

Everything before `repair` reads only, except that a missing log is created.
*/

mod create;
mod decide;
mod flush;
mod layout;
mod repair;
mod report;
mod scan;
mod survey;
mod verdict;

pub(crate) use decide::Unreadable;
pub(crate) use repair::keep_cut;
pub use report::{Cut, OpenReport, Verdict};
pub(crate) use scan::{SegmentScan, scan_segment};
pub(crate) use survey::{Head, Names, Survey, Surveyed, read_identity};
pub(crate) use verdict::{CutTail, Examined, check_anchor, checkpoint, examine};

use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{FrameHeader, Identity, Purpose},
    io::{Access, LockError, Storage},
    reading::FrameWalker,
    slots::{FreeSlot, Segment},
};
use std::{io, sync::Arc, time::Duration};
use survey::directory_error;

/// What becomes of a log that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is created; one that exists is opened.
    Create,
    /// It is an error.
    Refuse,
    /// It is created; one that exists is an error.
    CreateOnly,
}

/// What an open has to know of the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) create: Missing,
    /// For a new log only, like the block and the time.
    pub(crate) segment_bytes: u64,
    pub(crate) block_bytes: u32,
    /// Whether the block is what direct I/O is aligned to, where that is more. Nobody knows it before the
    /// directory is there.
    pub(crate) block_may_grow: bool,
    /// Seconds since 1970-01-01 UTC.
    pub(crate) created_at: u64,
    pub(crate) unreadable_is_torn: bool,
    pub(crate) expect_at_least: Option<Lsn>,
    /// How long a log of this process that has ended is waited for.
    pub(crate) lock_timeout: Duration,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    /// Where the next frame goes. May be the end of its segment.
    pub(crate) lsn: Lsn,
    /// The last frame that belongs: its header and the CRC of it.
    pub(crate) previous: Option<(FrameHeader, u32)>,
    /// The ordinal of the next record.
    pub(crate) next_ordinal: u64,
    /// The CRC that the next frame names.
    pub(crate) previous_crc: u32,
}

/// What opening found: all that a writer needs to go on. Nothing has been written yet.
pub(crate) struct Recovered<S: Storage> {
    pub(crate) storage: Arc<S>,
    pub(crate) lock: S::Lock,
    pub(crate) identity: Identity,
    /// For the new writer: above every epoch seen anywhere.
    pub(crate) epoch: u64,
    pub(crate) incarnation: u64,
    pub(crate) tail: Tail,
    /// Live, contiguous, oldest first; the last one holds the tail. Invariant: never empty.
    pub(crate) segments: Vec<Segment<S::File>>,
    /// The one after the last, prepared: it has a header. Frames that were cut may stand in it, all
    /// of epochs below the new writer's.
    pub(crate) successor: Option<Segment<S::File>>,
    pub(crate) free: Vec<FreeSlot<S::File>>,
    pub(crate) next_slot_number: u32,
    /// The highest start mark and the user's own bytes beside it.
    pub(crate) checkpoint: Option<(Lsn, Vec<u8>)>,
    /// What was torn, if something was.
    pub(crate) cut: Option<CutTail<S::File>>,
    pub(crate) report: OpenReport,
}

impl<S: Storage> Recovered<S> {
    /// Whether the last segment holds a frame that belongs: before, it may have no successor.
    pub(crate) fn is_begun(&self) -> bool {
        let base = self.segments.last().map_or(Lsn::ZERO, |segment| segment.base);
        self.tail.previous.is_some_and(|(header, _)| header.lsn > base)
    }
}

/// Locks the log, creates it if it may, scans it and decides what it is.
pub(crate) fn open<S: Storage>(storage: Arc<S>, policy: &Policy) -> Result<Recovered<S>> {
    let lock = lock(&*storage, policy)?;
    let names = Names::list(&*storage)?;
    let (identity, created, names) = match (names.identity, policy.create) {
        (true, Missing::CreateOnly) => {
            return Err(Error::new(ErrorKind::InvalidInput, "there is a log here already")
                .with_path(storage.path()));
        }
        (true, _) => {
            survey::flush_identity(&*storage)?;
            (read_identity(&*storage)?, false, names)
        }
        (false, Missing::Refuse) if names.slots.is_empty() && names.cuts.is_empty() => {
            return Err(
                Error::new(ErrorKind::NotFound, "there is no log here").with_path(storage.path())
            );
        }
        (false, Missing::Refuse) => {
            return Err(Error::new(ErrorKind::NotFound, "there are slots here, but no identity")
                .with_path(storage.path()));
        }
        (false, _) => {
            let identity = create::create(&*storage, policy, &names)?;
            (identity, true, Names::list(&*storage)?)
        }
    };
    // A creation whose process crashed may have renamed the identity and not synced the directory.
    storage.sync_dir().map_err(|error| directory_error(&*storage, error))?;
    let next_slot_number = names.next_slot_number();
    let mut survey = Survey::take(&storage, &identity, names, Access::ReadWrite)?;
    let unreadable = if policy.unreadable_is_torn { Unreadable::Torn } else { Unreadable::Refused };
    let walker = FrameWalker::new(identity, storage.alignment());
    let examined = examine(&storage, &identity, &mut survey, unreadable, walker)?;
    if let Some(anchor) = policy.expect_at_least.filter(|_| !planted!("anchor-ignored")) {
        check_anchor(&*storage, &identity, &examined, anchor)?;
    }
    recover(storage, lock, identity, survey, examined, next_slot_number, created)
}

fn lock<S: Storage>(storage: &S, policy: &Policy) -> Result<S::Lock> {
    if policy.create == Missing::Refuse {
        // Nothing that follows must be what makes the directory.
        Names::list(storage)?;
    }
    // One that is there may have been copied here a second ago, too: its own name has to be durable.
    storage.create().map_err(|error| match error.kind() {
        // What a system answers whose directory is a file.
        io::ErrorKind::AlreadyExists => {
            directory_error(storage, io::ErrorKind::NotADirectory.into())
        }
        _ => directory_error(storage, error),
    })?;
    take_lock(storage, policy.lock_timeout).map_err(|error| match error {
        LockError::Io(error) => directory_error(storage, error),
        LockError::Ending => {
            let what = "a log of this process that has ended still writes";
            Error::new(ErrorKind::Locked, what)
                .with_path(storage.path())
                .with_holder_pid(std::process::id())
        }
        LockError::Held { pid } => {
            let error = Error::new(ErrorKind::Locked, "the log is open for writing")
                .with_path(storage.path());
            match pid {
                Some(pid) => error.with_holder_pid(pid),
                None => error,
            }
        }
    })
}

/// Between two looks for a lock that is about to come back: about what one write takes.
const LOCK_PAUSE: Duration = Duration::from_micros(200);

/// Takes the lock. Waits only for a log of this process that has ended: nobody else's is known to end.
fn take_lock<S: Storage>(storage: &S, timeout: Duration) -> Result<S::Lock, LockError> {
    let end = storage.now().saturating_add(timeout);
    loop {
        match storage.lock() {
            Err(LockError::Ending) if storage.now() < end => storage.sleep(LOCK_PAUSE),
            answer => return answer,
        }
    }
}

/// By how much the epoch rises over an unreadable tail that is taken for torn: the epochs that its
/// frames name are unknown, each is one open for writing, and more than so many have not been crammed
/// in behind the last durable mark that could be read. One of them may have risen so itself: its epoch
/// stands in the name of the file of what it cut, and this is a rise above that as well.
const EPOCH_STEP_UNREADABLE: u64 = 1 << 32;

fn recover<S: Storage>(
    storage: Arc<S>,
    lock: S::Lock,
    identity: Identity,
    survey: Survey<S::File>,
    examined: Examined<S::File>,
    next_slot_number: u32,
    created: bool,
) -> Result<Recovered<S>> {
    let has_unread = examined.cut.as_ref().is_some_and(|cut| cut.has_unread);
    let (known, step) = match examined.highest_epoch {
        highest if planted!("epoch-not-raised") && highest > 0 => (highest, 0),
        highest if has_unread => (highest.max(survey.highest_cut_epoch), EPOCH_STEP_UNREADABLE),
        highest => (highest, 1),
    };
    let epoch = known.checked_add(step).ok_or_else(|| {
        Error::new(
            ErrorKind::Corrupt,
            "a frame or a file of cut ones names the last epoch there can be",
        )
        .with_path(storage.path())
    })?;
    let Examined { tail, layout, checkpoint, cut, last_record, .. } = examined;
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let last = tail.previous.map(|(header, _)| header.purpose);
    let report = OpenReport {
        log_id: identity.log_id,
        created,
        segment_bytes: identity.segment_bytes,
        block_bytes: identity.block_bytes,
        epoch,
        start_mark: checkpoint.as_ref().map_or(Lsn::ZERO, |(start_mark, _)| *start_mark),
        tail: tail.lsn,
        last_record,
        next_ordinal: tail.next_ordinal,
        verdict: if cut.is_some() { Verdict::TornTail } else { Verdict::Clean },
        cut: cut.as_ref().map(|cut| cut.cut.clone()),
        clean_close: last == Some(Purpose::Close) && cut.is_none(),
        segments: count(layout.live.len()),
        slots: count(survey.slots.len()),
        free_slots: count(layout.free.len()),
        foreign_files: survey.foreign,
        profile: storage.profile(),
        warnings: layout.warnings,
        bytes_read: examined.bytes_read,
    };
    Ok(Recovered {
        incarnation: if planted!("epoch-not-raised") { 1 } else { storage.random() },
        storage,
        lock,
        identity,
        epoch,
        tail,
        segments: layout.live,
        successor: layout.successor,
        free: layout.free,
        next_slot_number,
        checkpoint,
        cut,
        report,
    })
}

#[cfg(test)]
pub(crate) mod flaky;
#[cfg(test)]
pub(crate) mod handmade;
