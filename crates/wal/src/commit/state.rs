//! [`Core`]: what the engine's mutex protects.

use super::{cohort::Cohort, stats::Stats};
use crate::{
    Error, Lsn,
    format::{FRAME_HEADER_BYTES, Purpose},
    io::Storage,
    slots::{FreeSlot, Segment},
};
use aligned::LentBuffer;
use std::{collections::VecDeque, sync::Arc, task::Waker, time::Duration};

/// Everything about the log that changes, behind one mutex.
///
/// Frames have numbers that only grow; number `n` lives in place `n % ring`. Their life:
///
/// | numbers | state |
/// |---|---|
/// | below `first` | durable, their place is free |
/// | `first..unwritten` | being written, or done while an earlier one is not |
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
    /// Writes under way.
    pub(super) in_flight: u32,
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
    /// Whether the one buffer outside the pool is in use.
    pub(super) own_granted: bool,
    pub(super) cohort: Cohort,
    pub(super) committers: Committers,
    pub(super) failure: Option<Error>,
    /// Held by the handle until close, drop or latch, and by every I/O that is under way.
    pub(super) lease: Option<Arc<S::Lock>>,
    pub(super) stats: Stats,
}

/// The committer threads.
#[derive(Debug, Default)]
pub(super) struct Committers {
    pub(super) running: u32,
    pub(super) idle: u32,
    /// When one of them wakes by itself, if it does.
    pub(super) wakes_at: Option<Duration>,
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
    pub(super) running: bool,
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
    Done,
}

/// What is known of a frame besides its bytes.
pub(super) struct FrameMeta<S: Storage> {
    pub(super) stage: Stage,
    pub(super) purpose: Purpose,
    pub(super) lsn: Lsn,
    /// Its memory; with the writer once its write is started.
    pub(super) buffer: Option<LentBuffer>,
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
    /// When it is done: the end of the frames whose write had been started by then. See
    /// [`Core::durable_front`].
    pub(super) started: u64,
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
            capacity: 0,
            used: FRAME_HEADER_BYTES,
            records: 0,
            first_ordinal: 0,
            segment: None,
            checkpoint: None,
            opened_at: Duration::ZERO,
            started: 0,
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

/// What a ticket's callback is boxed to.
pub(super) type Callback = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Appenders that wait for room, first come first served.
#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    next: u64,
    waiting: VecDeque<Place>,
}

#[derive(Debug)]
struct Place {
    number: u64,
    task: Option<Waker>,
}

impl RoomQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn join(&mut self) -> u64 {
        self.next += 1;
        self.waiting.push_back(Place { number: self.next, task: None });
        self.next
    }

    /// Whether it is the turn of `place`, or of a newcomer if it is none.
    pub(super) fn is_turn_of(&self, place: Option<u64>) -> bool {
        self.waiting.front().map(|first| first.number) == place
    }

    /// Answers its task, to be dropped outside the lock.
    #[must_use]
    pub(super) fn leave(&mut self, place: u64) -> Option<Waker> {
        let index = self.waiting.iter().position(|waiting| waiting.number == place)?;
        self.waiting.remove(index).and_then(|left| left.task)
    }

    /// Answers the task that was there before, to be dropped outside the lock.
    #[must_use]
    pub(super) fn set_task(&mut self, place: u64, task: Waker) -> Option<Waker> {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.number == place)?;
        waiting.task.replace(task)
    }

    /// The task at the front, if the front is one: threads look for themselves.
    pub(super) fn take_front_task(&mut self) -> Option<Waker> {
        self.waiting.front_mut().and_then(|first| first.task.take())
    }

    pub(super) fn take_all_tasks(&mut self) -> Vec<Waker> {
        self.waiting.iter_mut().filter_map(|waiting| waiting.task.take()).collect()
    }
}

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
    /// Its own write has succeeded, and so has every write that was under way at that moment. The
    /// second half is not pedantry. Two frames are in flight on a disk with a volatile cache; the
    /// later one's flush fails and the disk drops what it cached, the earlier frame with it; then the
    /// earlier one's own flush starts, finds nothing to do, and answers Ok.
    pub(super) fn durable_front(&self) -> Option<u64> {
        let first = self.first;
        if first == self.unwritten || self.frame(first).stage != Stage::Done {
            return None;
        }
        if planted!("writes-under-way-forgotten") {
            return Some(first);
        }
        let done = |frame: u64| self.frame(frame).stage == Stage::Done;
        (first..self.frame(first).started).all(done).then_some(first)
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
