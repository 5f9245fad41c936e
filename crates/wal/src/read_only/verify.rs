//! Reading everything, on several threads, and collecting all that is wrong.

use super::{View, is_still};
use crate::{
    Error, Lsn, Result,
    format::{Identity, Origin},
    io::{Condition, Storage, copied},
    reading::{Found, FrameWalker, Stop, StopKind, was_no_memory},
    recovery::{Cut, Head, SegmentScan, scan_segment},
    replay::damage,
    slots::Segment,
    sync::Mutex,
};
use std::{collections::VecDeque, sync::Arc};

/// Threads that check at once. Two saturate the disks measured; more help where checking is slower
/// than reading.
const THREADS_MAX: usize = 4;

/// What [`ReadOnly::verify`](super::ReadOnly::verify) found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// All in one word.
    pub verdict: VerifyVerdict,
    /// How many segments were read.
    pub segments: u64,
    /// How many frames were found intact and in their place.
    pub frames: u64,
    /// How many records they have.
    pub records: u64,
    /// How much was read.
    pub bytes: u64,
    /// What an open for writing would cut.
    pub cut: Option<Cut>,
    /// All damage, each with its place and the proof that it is no torn tail.
    pub damage: Vec<Error>,
    /// Below it everything was durable, for a frame says so.
    pub durable_mark: Lsn,
    /// Where the log ends.
    pub tail: Lsn,
}

/// The state of a log in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VerifyVerdict {
    /// All is there.
    Clean,
    /// All that was acknowledged is there, as far as anything proves; something was cut off while
    /// it was being written.
    TornTail,
    /// Something that was acknowledged is damaged or missing.
    Corrupt,
}

/// What the threads share.
struct Work<S: Storage> {
    storage: Arc<S>,
    identity: Identity,
    state: Mutex<WorkState<S::File>>,
    done: Condition,
}

struct WorkState<F> {
    waiting: VecDeque<(usize, Segment<F>, Origin)>,
    results: Vec<Option<Result<SegmentScan<F>>>>,
    left: usize,
    bytes: u64,
}

pub(super) fn verify<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    view: &View<S>,
) -> Result<Verification> {
    let segments = view.segments(identity);
    let (results, bytes) = scan_all(storage, identity, view, &segments);
    let mut answer = Verification {
        verdict: VerifyVerdict::Clean,
        segments: u64::try_from(segments.len()).unwrap_or(u64::MAX),
        frames: 0,
        records: 0,
        bytes,
        cut: None,
        damage: Vec::new(),
        durable_mark: Lsn::ZERO,
        tail: Lsn::ZERO,
    };
    let mut scans = Vec::new();
    for (segment, result) in segments.iter().zip(results) {
        match result {
            Some(Ok(scan)) => {
                answer.frames += u64::try_from(scan.taken.len()).unwrap_or(u64::MAX);
                answer.records += scan.records;
                scans.push(scan);
            }
            Some(Err(error)) if was_no_memory(&error) => return Err(error),
            Some(Err(error)) => answer.damage.push(error),
            None => answer.damage.push(unread(segment)),
        }
    }
    let end = match &view.examined {
        Ok(examined) => {
            answer.durable_mark = examined.durable_mark;
            answer.tail = examined.tail.lsn;
            answer.cut = examined.cut.as_ref().map(|cut| cut.cut.clone());
            examined.tail.lsn
        }
        Err(_) => {
            let marks = scans.iter().flat_map(|scan| scan.headers().map(|h| h.durable_mark));
            answer.durable_mark = marks.max().unwrap_or(Lsn::ZERO);
            answer.tail = scans.last().map_or(Lsn::ZERO, |scan| scan.stop.lsn);
            answer.durable_mark
        }
    };
    for (index, scan) in scans.iter().enumerate() {
        let next = scans.get(index + 1);
        check(&**storage, identity, scan, next, end, &mut answer.damage)?;
    }
    if let Err(error) = &view.examined {
        let place = |error: &Error| (error.segment(), error.offset());
        if !answer.damage.iter().any(|known| place(known) == place(error)) {
            answer.damage.push(error.clone());
        }
    }
    answer.verdict = match (&answer.damage[..], &answer.cut) {
        ([], None) => VerifyVerdict::Clean,
        ([], Some(_)) => VerifyVerdict::TornTail,
        _ => VerifyVerdict::Corrupt,
    };
    Ok(answer)
}

/// Adds what is wrong with one segment: where its frames break off although the log goes on to
/// `end`, and each further hole between the frames that are left.
fn check<S: Storage>(
    storage: &S,
    identity: &Identity,
    scan: &SegmentScan<S::File>,
    next: Option<&SegmentScan<S::File>>,
    end: Lsn,
    found: &mut Vec<Error>,
) -> Result<()> {
    if scan.stop.lsn >= end {
        return Ok(());
    }
    let follows = next.and_then(|next| next.first).zip(scan.last);
    let is_whole = follows.is_some_and(|((first, _), (last, crc))| first.follows(&last, crc));
    let is_neighbour = next.is_some_and(|next| next.segment.sequence == scan.segment.sequence + 1);
    // Room that no frame used.
    if is_whole && is_neighbour {
        return Ok(());
    }
    // A segment that was reused meanwhile was released, and so were all before it.
    let is_reused = |scan: &SegmentScan<S::File>| {
        is_still(storage, identity, &scan.segment).map(|is_still| !is_still)
    };
    if is_reused(scan)? || next.map(is_reused).transpose()?.unwrap_or(false) {
        return Ok(());
    }
    let stop = copy(&scan.stop);
    found.push(damage(storage, &scan.segment, stop, end));
    let later = scan.sightings.iter().filter(|(header, _)| {
        header.lsn > scan.stop.lsn && scan.last.is_none_or(|(last, _)| header.epoch >= last.epoch)
    });
    let mut expected: Option<Lsn> = None;
    for (header, intact) in later {
        let is_hole = !intact || expected.is_some_and(|expected| expected != header.lsn);
        let hole = if *intact { expected.unwrap_or(header.lsn) } else { header.lsn };
        if is_hole && expected.is_some() {
            let stop = Stop {
                lsn: hole,
                offset: hole.get().saturating_sub(scan.segment.base.get()),
                kind: StopKind::Garbage,
                found: Found::Nothing,
            };
            found.push(damage(storage, &scan.segment, stop, end));
        }
        expected = header.lsn.checked_add(header.frame_bytes(identity.block_bytes));
    }
    Ok(())
}

/// The same stop once more, its system error reduced to number and text.
fn copy(stop: &Stop) -> Stop {
    let found = match &stop.found {
        Found::Nothing => Found::Nothing,
        Found::Fault(fault) => Found::Fault(*fault),
        Found::Overlong { bytes } => Found::Overlong { bytes: *bytes },
        Found::OlderEpoch { found, last } => Found::OlderEpoch { found: *found, last: *last },
        Found::Unchained { epoch, ordinal, previous_crc } => {
            Found::Unchained { epoch: *epoch, ordinal: *ordinal, previous_crc: *previous_crc }
        }
        Found::Error(error) => Found::Error(copied(error)),
    };
    Stop { lsn: stop.lsn, offset: stop.offset, kind: stop.kind, found }
}

fn unread<F>(segment: &Segment<F>) -> Error {
    Error::new(crate::ErrorKind::Io, "a segment was not read: its thread died")
        .with_path(&segment.slot.name)
        .with_segment(segment.sequence)
}

type Results<F> = Vec<Option<Result<SegmentScan<F>>>>;

/// Reads all segments, on as many threads as there may be, this one included.
fn scan_all<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    view: &View<S>,
    segments: &[Segment<S::File>],
) -> (Results<S::File>, u64) {
    let origin = |segment: &Segment<S::File>| {
        let is_it = |slot: u32| slot == segment.slot.number;
        let mut slots = view.survey.slots.iter();
        match slots.find(|surveyed| is_it(surveyed.slot.number)).map(|surveyed| &surveyed.head) {
            Some(Head::Valid(header)) => header.origin,
            _ => Origin::Recycled,
        }
    };
    let waiting = segments.iter().enumerate();
    let waiting = waiting.map(|(index, segment)| (index, segment.clone(), origin(segment)));
    let state = WorkState {
        waiting: waiting.collect(),
        results: segments.iter().map(|_| None).collect(),
        left: segments.len(),
        bytes: 0,
    };
    let work = Arc::new(Work {
        storage: Arc::clone(storage),
        identity: *identity,
        state: Mutex::new(state),
        done: Condition::default(),
    });
    for _ in 1..THREADS_MAX.min(segments.len()) {
        let helper = Arc::clone(&work);
        // Without a helper the rest is done here.
        if storage.spawn("wal-verify", Box::new(move || helper.run())).is_err() {
            break;
        }
    }
    work.run();
    let mut state = work.state.lock();
    while state.left > 0 {
        work.done.wait(&**storage, &mut state);
    }
    (std::mem::take(&mut state.results), state.bytes)
}

impl<S: Storage> Work<S> {
    fn run(&self) {
        let mut walker = FrameWalker::new(self.identity, self.storage.alignment());
        let mut read = 0;
        loop {
            let Some((index, segment, origin)) = self.state.lock().waiting.pop_front() else {
                return;
            };
            let mut slot = Slot { work: self, index, result: None, bytes: 0 };
            slot.result = Some(scan_segment(&mut walker, &self.identity, segment, origin));
            slot.bytes = walker.bytes_read() - read;
            read = walker.bytes_read();
        }
    }
}

/// Hands a result in when dropped, also by a panic, so that nobody waits for ever.
struct Slot<'a, S: Storage> {
    work: &'a Work<S>,
    index: usize,
    result: Option<Result<SegmentScan<S::File>>>,
    bytes: u64,
}

impl<S: Storage> Drop for Slot<'_, S> {
    fn drop(&mut self) {
        let mut state = self.work.state.lock();
        if let Some(place) = state.results.get_mut(self.index) {
            *place = self.result.take();
        }
        state.left -= 1;
        state.bytes += self.bytes;
        self.work.done.notify_all(&*self.work.storage);
    }
}
