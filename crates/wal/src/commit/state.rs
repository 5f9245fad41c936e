//! [`Core`]: what the engine's mutex protects.

use super::{
    cohort::Cohort,
    flushes::Flushes,
    locked::After,
    queue::{RoomQueue, Woken},
    room::Own,
    stats::Stats,
};
use crate::{
    Error, Lsn,
    format::{FRAME_HEADER_BYTES, Purpose},
    io::Storage,
    slots::{FreeSlot, Segment},
};
use aligned::{Buffer, LentBuffer};
use std::{collections::VecDeque, sync::Arc, task::Waker, time::Duration};

/// Everything about the log that changes, behind one mutex.
///
/// Frames have numbers that only grow; number `n` lives in place `n % ring`. Their life:
///
/// | numbers | state |
/// |---|---|
/// | below `first` | durable, their place is free |
/// | `first..unwritten` | being written, or done and held: by an earlier frame, or by a flush beside it |
/// | `unwritten..next` | sealed and waiting, the last one open if `open` |
pub(super) struct Core<S: Storage> {
    /// The oldest frame that is not durable.
    pub(super) first: u64,
    /// The next frame whose write is to be started.
    pub(super) unwritten: u64,
    /// The next frame to be opened.
    pub(super) next: u64,
    /// Whether frame `next - 1` still takes records.
    pub(super) open: bool,
    pub(super) frames: Box<[FrameMeta<S>]>,
    /// Writes of frames under way.
    pub(super) in_flight: u32,
    /// Every call under way that carries a flush, those writes included.
    pub(super) flushes: Flushes,
    /// How many frames have to be written once more.
    pub(super) again: u32,
    /// Whether somebody lets a cohort join before sealing.
    pub(super) sealing: bool,
    /// Where the next frame goes, once the open one is sealed.
    pub(super) tail: Lsn,
    /// The end of the last record that was appended.
    pub(super) appended: Lsn,
    /// The number of the next frame at `appended`: who waits for it waits for all.
    pub(super) appended_frame: u64,
    /// How many records the log has.
    pub(super) ordinal: u64,
    /// The CRC of the last header whose write was started.
    pub(super) chain: u32,
    /// The segment of the last frame whose write was started.
    pub(super) writing_segment: u64,
    /// Whether the last frame's durability is vouched for by no later header.
    pub(super) unconfirmed: bool,
    pub(super) last_commit: Duration,
    pub(super) segments: Segments<S>,
    /// The latest checkpoint that was appended: what the next segment restates.
    pub(super) checkpoint: Option<(Lsn, Vec<u8>)>,
    /// The start mark that is durable.
    pub(super) start_mark: Lsn,
    pub(super) room: RoomQueue,
    /// The one buffer outside the pool.
    pub(super) own: Own,
    pub(super) cohort: Cohort,
    pub(super) committers: Committers,
    pub(super) failure: Option<Error>,
    /// Held by the handle until close, drop or latch, and by every I/O that is under way.
    pub(super) lease: Option<Arc<S::Lock>>,
    pub(super) stats: Stats,
    /// Whom a committer has to tell: those whom a thread found that runs nothing of the user's.
    pub(super) untold: Vec<Told>,
    /// What is done when the mutex is given up. Invariant: empty whenever it is free.
    pub(super) after: After,
}

/// The committer threads.
#[derive(Debug, Default)]
pub(super) struct Committers {
    /// Those that are not away in a callback.
    pub(super) running: u32,
    /// How many of them are in a write, which takes as long as the disk takes.
    pub(super) writing: u32,
    next: u64,
    asleep: Vec<Asleep>,
}

/// A committer that sleeps.
#[derive(Debug)]
struct Asleep {
    number: u64,
    /// When it wakes by itself, if it does.
    wakes_at: Option<Duration>,
}

impl Committers {
    /// How many sleep, and look again when woken.
    pub(super) fn idle(&self) -> usize {
        self.asleep.len()
    }

    /// Whether one is awake, and looks for something to do when it is done with what it does: no write, and
    /// nothing of the user's.
    pub(super) fn is_any_awake(&self) -> bool {
        let away = usize::try_from(self.writing).unwrap_or(usize::MAX).saturating_add(self.idle());
        usize::try_from(self.running).unwrap_or(0) > away
    }

    /// Whether one of those that sleep looks by itself at `due`, or before.
    pub(super) fn looks_by(&self, due: Duration) -> bool {
        let looks = |asleep: &Asleep| asleep.wakes_at.is_some_and(|at| at <= due);
        self.asleep.iter().any(|asleep| looks(asleep) || planted!("sleeping-committer-trusted"))
    }

    /// One goes to sleep, until `wakes_at` at the latest. Answers what [`Committers::woke`] wants.
    pub(super) fn sleeps(&mut self, wakes_at: Option<Duration>) -> u64 {
        self.next += 1;
        self.asleep.push(Asleep { number: self.next, wakes_at });
        self.next
    }

    pub(super) fn woke(&mut self, number: u64) {
        self.asleep.retain(|asleep| asleep.number != number);
    }
}

/// The segments and slots that the writer knows.
pub(super) struct Segments<S: Storage> {
    /// Contiguous, oldest first. The last one holds the tail. Invariant: never empty.
    pub(super) live: VecDeque<Segment<S::File>>,
    /// The next one, prepared: its header is durable.
    pub(super) successor: Option<Segment<S::File>>,
    pub(super) free: Vec<FreeSlot<S::File>>,
    pub(super) next_slot_number: u32,
    /// Whether a frame of the current segment is durable: before, it may have no successor.
    pub(super) begun: bool,
    pub(super) preparer: Preparer,
}

/// What the preparer does and what came of it.
#[derive(Debug, Default)]
pub(super) struct Preparer {
    /// How many attempts at a segment were begun.
    pub(super) attempts: u64,
    /// How many of them had been when room was last freed: what these find is out of date.
    pub(super) outdated: u64,
    /// Which one was refused last.
    pub(super) refused: u64,
    /// The last refusal for want of space, until an attempt succeeds or room is freed.
    pub(super) failed: Option<Error>,
    /// When that was.
    pub(super) refused_at: Duration,
    /// Whether an append waits for the segment: try again though it failed, and without gentleness.
    pub(super) urgent: bool,
}

impl Preparer {
    /// Attempt `attempt` failed, harmlessly: those who waited for a segment before it began hear of `error`.
    pub(super) fn refuse(&mut self, attempt: u64, error: Error, now: Duration) {
        if attempt <= self.outdated && !planted!("old-refusal-believed") {
            return;
        }
        self.failed = Some(error);
        self.refused_at = now;
        self.refused = attempt;
    }

    /// Why there is no segment, for somebody who has needed one since `attempts` had been begun.
    pub(super) fn refusal_after(&self, attempts: u64) -> Option<&Error> {
        self.failed.as_ref().filter(|_| self.refused > attempts)
    }

    /// Room was freed: a refusal from before says nothing about now.
    fn outdate(&mut self) {
        self.outdated = self.attempts;
        self.failed = None;
    }
}

impl<S: Storage> Segments<S> {
    pub(super) fn current(&self) -> &Segment<S::File> {
        #[expect(clippy::expect_used, reason = "the invariant of `live`")]
        self.live.back().expect("a writable log has a segment at its tail")
    }

    /// Whether `start_mark` releases a segment.
    pub(super) fn frees(&self, start_mark: Lsn, segment_bytes: u64) -> bool {
        let end = |oldest: &Segment<S::File>| oldest.base.checked_add(segment_bytes);
        self.live.len() > 1 && self.live.front().and_then(end).is_some_and(|end| end <= start_mark)
    }

    /// Moves the segments that lie wholly below `start_mark` to the free slots.
    pub(super) fn release(&mut self, start_mark: Lsn, segment_bytes: u64) {
        while self.frees(start_mark, segment_bytes) {
            if let Some(released) = self.live.pop_front() {
                self.free.push(FreeSlot::released(released.slot));
                self.preparer.outdate();
            }
        }
    }
}

/// How far a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    Sealed,
    Writing,
    /// Written and flushed. Durable for certain only when it is not held any more.
    Done,
    /// Done, but beside a flush that was refused for want of something: to be written once more.
    Again,
}

/// What is known of a frame besides its bytes.
pub(super) struct FrameMeta<S: Storage> {
    pub(super) stage: Stage,
    pub(super) purpose: Purpose,
    pub(super) lsn: Lsn,
    /// Its memory; with the writer once its write is started.
    pub(super) buffer: Option<LentBuffer>,
    /// The same, filled and complete, while it may have to be written once more.
    pub(super) written: Option<Buffer>,
    /// What its buffer can hold, header included.
    pub(super) capacity: usize,
    /// What is taken, header included.
    pub(super) used: usize,
    pub(super) records: u32,
    pub(super) first_ordinal: u64,
    /// None once it is durable: a frame must not pin its segment.
    pub(super) segment: Option<Segment<S::File>>,
    /// The start mark of a checkpoint in it.
    pub(super) checkpoint: Option<Lsn>,
    pub(super) opened_at: Duration,
    /// When it was written and flushed.
    pub(super) done_at: Duration,
    /// When it is done: the flushes below this one have to end before it is durable for certain. See
    /// [`Core::durable_front`].
    pub(super) held_by: u64,
    /// While it is written: a flush beside it was refused for want of something, and its device may have
    /// dropped what it cached.
    pub(super) is_doubtful: bool,
    /// Threads asleep, waiting for it.
    pub(super) sleepers: u32,
    /// Who else wants to know.
    pub(super) hooks: Vec<Hook>,
}

impl<S: Storage> Default for FrameMeta<S> {
    fn default() -> Self {
        Self {
            stage: Stage::Done,
            purpose: Purpose::Records,
            lsn: Lsn::ZERO,
            buffer: None,
            written: None,
            capacity: 0,
            used: FRAME_HEADER_BYTES,
            records: 0,
            first_ordinal: 0,
            segment: None,
            checkpoint: None,
            opened_at: Duration::ZERO,
            done_at: Duration::ZERO,
            held_by: 0,
            is_doubtful: false,
            sleepers: 0,
            hooks: Vec::new(),
        }
    }
}

/// Somebody who is told without being asleep.
pub(super) enum Hook {
    Task(Waker),
    Callback(Callback),
}

/// Somebody who is to be told, and what.
pub(super) type Told = (Hook, Result<(), Error>);

/// What a ticket's callback is boxed to.
pub(super) type Callback = Box<dyn FnOnce(Result<(), Error>) + Send>;

impl<S: Storage> Core<S> {
    pub(super) fn index(&self, frame: u64) -> usize {
        ring_index(frame, self.frames.len())
    }

    pub(super) fn frame(&self, frame: u64) -> &FrameMeta<S> {
        &self.frames[self.index(frame)]
    }

    pub(super) fn frame_mut(&mut self, frame: u64) -> &mut FrameMeta<S> {
        let index = self.index(frame);
        &mut self.frames[index]
    }

    /// The open frame's number.
    pub(super) fn open_frame(&self) -> Option<u64> {
        self.open.then(|| self.next - 1)
    }

    /// The oldest frame, if it is durable for certain.
    ///
    /// Its own write has succeeded, and so has every flush that was under way at that moment, by whichever
    /// thread. The second half is not pedantry. Two calls are under way on a disk with a volatile cache; the
    /// flush of the other one fails and the disk drops what it cached, the frame with it; then the frame's
    /// own flush starts, finds nothing to do, and answers Ok.
    pub(super) fn durable_front(&self) -> Option<u64> {
        let first = self.first;
        if first == self.unwritten || self.frame(first).stage != Stage::Done {
            return None;
        }
        let is_held = self.flushes.oldest() < self.frame(first).held_by;
        (!is_held || planted!("writes-under-way-forgotten")).then_some(first)
    }

    /// Wakes those who wait for room: threads when the mutex is free, tasks by a committer.
    pub(super) fn wake(&mut self, woken: impl IntoIterator<Item = Woken>) {
        for woken in woken {
            match woken {
                Woken::Thread(word) => self.after.woken.push(word),
                Woken::Task(task) => self.untold.push((Hook::Task(task), Ok(()))),
            }
        }
    }

    /// A frame that has to be written once more, the oldest first.
    pub(super) fn again_front(&self) -> Option<u64> {
        let is_again = |frame: &u64| self.frame(*frame).stage == Stage::Again;
        (self.again > 0).then(|| (self.first..self.unwritten).find(is_again)).flatten()
    }

    /// The flush `number` was refused for want of something: what was done or written beside it may have
    /// gone with the device's cache. It holds nothing that was acknowledged, and is written once more.
    pub(super) fn refuse_flush(&mut self, number: u64) {
        for frame in self.first..self.unwritten {
            let meta = self.frame_mut(frame);
            match meta.stage {
                Stage::Done if meta.held_by > number => {
                    meta.stage = Stage::Again;
                    self.again += 1;
                }
                Stage::Writing => meta.is_doubtful = true,
                _ => {}
            }
        }
    }

    /// The frame at the front of those that wait to be written, if it is sealed.
    pub(super) fn sealed_front(&self) -> Option<u64> {
        let sealed_end = if self.open { self.next - 1 } else { self.next };
        (self.unwritten < sealed_end).then_some(self.unwritten)
    }
}

/// The place of frame `frame` in a ring of `length`.
pub(super) fn ring_index(frame: u64, length: usize) -> usize {
    debug_assert!(length.is_power_of_two(), "the ring's length");
    let mask = u64::try_from(length - 1).unwrap_or(u64::MAX);
    usize::try_from(frame & mask).unwrap_or(0)
}
