//! One commit: seal, write, acknowledge in order, hand on.

use super::{
    COMMITS, Engine, STATE_LATCHED,
    reserve::{advance, to_u64},
    state::{Core, Hook, Stage},
};
use crate::{
    Error, Lsn,
    format::{FRAME_HEADER_BYTES, FrameHeader, Purpose},
    frame_buffer,
    io::{File, Storage, Wake},
    slots::Segment,
    sync::{self, MutexGuard},
};
use aligned::LentBuffer;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

/// A write that was started: everything it needs without the lock.
struct Job<S: Storage> {
    frame: u64,
    header: [u8; FRAME_HEADER_BYTES],
    segment: Segment<S::File>,
    offset: u64,
    /// Keeps the directory locked for as long as the write is under way.
    _lease: Option<Arc<S::Lock>>,
}

/// What is done once the lock is released again.
struct HandOn {
    /// The frames that became durable: whoever sleeps there wakes.
    woken: std::ops::Range<u64>,
    sleepers: u32,
    hooks: Vec<Hook>,
    /// Where the thread sleeps that seals next.
    baton: Option<usize>,
    committer: bool,
    preparer: bool,
}

impl<S: Storage> Engine<S> {
    /// The frame at the front, if its write may be started now: frames of a segment are written
    /// only when all of the segment before are durable.
    pub(super) fn writable_front(&self, core: &Core<S>) -> Option<u64> {
        let front = core.sealed_front()?;
        let sequence = core.frame(front).segment.as_ref()?.sequence;
        let same_segment = sequence == core.writing_segment;
        let same_segment = same_segment || planted!("next-segment-too-early");
        let may = core.in_flight == 0 || (core.in_flight < self.depth && same_segment);
        (may && self.state.load(Ordering::SeqCst) < STATE_LATCHED).then_some(front)
    }

    /// The open frame, if somebody may seal and write it now: a frame that is not full is written
    /// only alone. Several small ones in flight cost more CPU than they hide (measured: 16 writers
    /// 79 K/s at depth 1, 68 K/s at depth 4).
    pub(super) fn sealable(&self, core: &Core<S>) -> Option<u64> {
        let idle = core.in_flight == 0 && !core.sealing && core.unwritten + 1 == core.next;
        let runs = self.state.load(Ordering::SeqCst) < STATE_LATCHED;
        core.open_frame().filter(|_| idle && runs)
    }

    /// Writes the sealed frame at the front and acknowledges what became durable by it.
    pub(super) fn write(self: &Arc<Self>, mut core: MutexGuard<'_, Core<S>>, front: u64) {
        let Some((job, lent)) = self.start(&mut core, front) else { return };
        // Another full frame may be waiting behind this one: whoever filled it saw a committer asleep
        // that had been woken for this one. Without a thread it waits for this one.
        contain(|| drop(self.kick(&mut core)));
        drop(core);
        let mut started = Started { engine: self, ended: false };
        sync::point();
        let mut buffer = frame_buffer::collect(lent, |turns| self.wait_for_a_copy(turns));
        let before = self.storage.now();
        let result = if self.witness.same_process() {
            let bytes = frame_buffer::complete(&mut buffer, &job.header, self.block);
            write_frame(&job.segment.slot.file, bytes, job.offset)
        } else {
            Err(std::io::Error::other("this process did not open the log"))
        };
        let time = self.storage.now().saturating_sub(before);
        let result = result.map_err(|source| self.write_error(&job, source));
        let frame = job.frame;
        // Before anybody hears of it: who closes the log on that word must find it unlocked, and a
        // segment that is released by it free.
        drop(job);
        started.ended = true;
        let hooks = match result {
            Ok(()) => self.complete(frame, time),
            Err(error) => {
                self.fail(error);
                Vec::new()
            }
        };
        // Given back only now: those who wait for the records need not wait for that.
        let is_own = buffer.pool_index().is_none();
        drop(buffer);
        self.offer_room(is_own);
        self.run_hooks(hooks);
    }

    /// Fixes the header of frame `front`, in the order of the log, and counts the write.
    fn start(&self, core: &mut Core<S>, front: u64) -> Option<(Job<S>, LentBuffer)> {
        let segment = core.frame(front).segment.clone()?;
        let index = core.index(front);
        let meta = &mut core.frames[index];
        assert!(meta.stage == Stage::Sealed, "only a sealed frame is written, and once");
        let buffer = meta.buffer.take()?;
        meta.stage = Stage::Writing;
        let header = FrameHeader {
            lsn: meta.lsn,
            payload_bytes: u32::try_from(meta.used - FRAME_HEADER_BYTES).ok()?,
            record_count: meta.records,
            first_ordinal: meta.first_ordinal,
            epoch: self.epoch,
            incarnation: self.incarnation,
            durable_mark: if planted!("mark-stuck-at-zero") { Lsn::ZERO } else { self.durable() },
            previous_crc: core.chain,
            purpose: meta.purpose,
        };
        let offset = meta.lsn.distance_from(segment.base)?;
        core.unconfirmed = meta.purpose == Purpose::Records && !planted!("idle-not-confirmed");
        let mut bytes = [0; FRAME_HEADER_BYTES];
        core.chain = header.encode(self.identity.log_id, &mut bytes);
        core.writing_segment = segment.sequence;
        core.unwritten += 1;
        core.in_flight += 1;
        let lease = core.lease.clone();
        let job = Job { frame: front, header: bytes, segment, offset, _lease: lease };
        Some((job, buffer))
    }

    /// Somebody still fills a room of the frame that is to be written. A copy needs a processor and
    /// nothing else; a closure that takes its time is looked for once in a while.
    fn wait_for_a_copy(&self, turns: u32) {
        const YIELDS: u32 = 1000;
        const PAUSE: Duration = Duration::from_micros(100);
        match turns {
            0..YIELDS => self.storage.yield_now(),
            _ => self.storage.sleep(PAUSE),
        }
    }

    /// A write succeeded: the durable mark moves over the frames that are done without a gap.
    fn complete(self: &Arc<Self>, frame: u64, time: Duration) -> Vec<Hook> {
        let mut core = self.core.lock();
        core.in_flight -= 1;
        core.last_commit = self.storage.now();
        core.stats.commit_histogram.record(time);
        let started = core.unwritten;
        let meta = core.frame_mut(frame);
        meta.stage = Stage::Done;
        meta.started = started;
        if self.state.load(Ordering::SeqCst) >= STATE_LATCHED {
            return Vec::new();
        }
        let mut hand_on = HandOn {
            woken: core.first..core.first,
            sleepers: 0,
            hooks: Vec::new(),
            baton: None,
            committer: false,
            preparer: false,
        };
        let mut durable = self.durable();
        while core.durable_front().is_some() {
            durable = self.retire(&mut core, &mut hand_on);
        }
        if planted!("acknowledged-out-of-order") && frame >= core.first {
            let meta = core.frame(frame);
            durable = durable.max(advance(meta.lsn, meta.used));
        }
        self.durable.store(durable.get(), Ordering::SeqCst);
        for frame in hand_on.woken.clone() {
            self.frames[core.index(frame)].word.bump();
        }
        let returned = hand_on.sleepers + u32::try_from(hand_on.hooks.len()).unwrap_or(u32::MAX);
        core.stats.acknowledged_waiters += u64::from(returned);
        // The committer itself waits without being asleep.
        let waiting = core
            .open_frame()
            .map_or(0, |frame| self.frames[core.index(frame)].joined.load(Ordering::SeqCst));
        core.cohort.committed(time, returned + 1, waiting);
        self.pass_baton(&core, &mut hand_on);
        let ring = core.frames.len();
        drop(core);
        self.hand_on(hand_on, ring)
    }

    /// Tells those who are not asleep: last, outside every lock, and with nothing in hand, for a
    /// callback may append, wait, or take its time. A committer counts as away meanwhile, so that
    /// another is started if there is something to write. Once: a callback that waits may write a frame
    /// itself, and call back in here.
    fn run_hooks(self: &Arc<Self>, hooks: Vec<Hook>) {
        if hooks.is_empty() {
            return;
        }
        let is_committer = self.is_served_by_caller() && COMMITS.replace(false);
        if is_committer {
            let mut core = self.core.lock();
            core.committers.running -= 1;
            // Somebody has to see to what is not written meanwhile: to the open frame's time, to those
            // who await it, to a sealed one that may be written only when the one before is done, and to
            // the last one that nothing vouches for.
            let stand_in = match core.committers.idle {
                0 if core.unwritten < core.next || core.unconfirmed => {
                    self.have_committer(&mut core)
                }
                _ => Ok(()),
            };
            // Without a thread the work waits for this one: no worse than before.
            let started = self.kick(&mut core);
            drop((core, stand_in, started));
        }
        tell(hooks, &Ok(()));
        if is_committer {
            self.core.lock().committers.running += 1;
            COMMITS.set(true);
        }
    }

    /// Takes the oldest frame off the ring: it is durable. Returns its end.
    fn retire(&self, core: &mut Core<S>, hand_on: &mut HandOn) -> Lsn {
        let index = core.index(core.first);
        let block = self.block.bytes_u64();
        let meta = &mut core.frames[index];
        let bytes = to_u64(meta.used).next_multiple_of(block);
        let end = advance(meta.lsn, usize::try_from(bytes).unwrap_or(0));
        let segment = meta.segment.take().map(|segment| segment.sequence);
        let checkpoint = meta.checkpoint.take();
        let records = meta.records;
        hand_on.sleepers += std::mem::take(&mut meta.sleepers);
        hand_on.hooks.append(&mut meta.hooks);
        core.stats.frames += 1;
        core.stats.frame_bytes += bytes;
        core.stats.durable_records += u64::from(records);
        if segment == Some(core.segments.current().sequence) && !core.segments.begun {
            core.segments.begun = true;
            hand_on.preparer = core.segments.successor.is_none();
        }
        if let Some(start_mark) = checkpoint {
            if start_mark > core.start_mark || planted!("start-mark-may-fall") {
                core.start_mark = start_mark;
            }
            let start_mark = core.start_mark;
            core.segments.release(start_mark, self.identity.segment_bytes);
            hand_on.preparer = true;
        }
        core.first += 1;
        hand_on.woken.end = core.first;
        end
    }

    /// Finds who commits next, if there is something to commit: a thread that is asleep in `wait`
    /// for the earliest frame, else a committer thread.
    pub(super) fn find_baton(&self, core: &Core<S>) -> Option<Baton> {
        let front = self.writable_front(core);
        let open = self.sealable(core);
        if front.is_none() && open.is_none() {
            return None;
        }
        let asleep = |frame: &u64| core.frame(*frame).sleepers > 0;
        if let Some(frame) = (core.unwritten..core.next).find(asleep) {
            return Some(Baton::Sleeper(core.index(frame)));
        }
        let wanted = |frame: u64| !core.frame(frame).hooks.is_empty() || !core.room.is_empty();
        let somebody = front.is_some() || open.is_some_and(wanted);
        somebody.then_some(Baton::Committer)
    }

    fn pass_baton(&self, core: &Core<S>, hand_on: &mut HandOn) {
        if planted!("baton-dropped") {
            return;
        }
        match self.find_baton(core) {
            Some(Baton::Sleeper(index)) => {
                self.frames[index].word.bump();
                hand_on.baton = Some(index);
            }
            Some(Baton::Committer) => {
                self.committer.bump();
                hand_on.committer = true;
            }
            None => {}
        }
    }

    /// Passes on a baton that was not used: its holder's time was up, or its write failed to be
    /// needed.
    pub(super) fn pass_unused_baton(&self, core: MutexGuard<'_, Core<S>>) {
        match self.find_baton(&core) {
            Some(Baton::Sleeper(index)) => {
                self.frames[index].word.bump();
                drop(core);
                self.storage.wake(&self.frames[index].word, Wake::One);
            }
            Some(Baton::Committer) => {
                self.committer.bump();
                drop(core);
                self.storage.wake(&self.committer, Wake::One);
            }
            None => {}
        }
    }

    /// The next committer first, so that the disk is busy while the others wake. Answers whom to tell
    /// after that.
    fn hand_on(&self, hand_on: HandOn, ring: usize) -> Vec<Hook> {
        if let Some(index) = hand_on.baton {
            self.storage.wake(&self.frames[index].word, Wake::One);
        }
        if hand_on.committer {
            self.storage.wake(&self.committer, Wake::One);
        }
        if hand_on.sleepers > 0 {
            for frame in hand_on.woken.clone() {
                let slot = &self.frames[super::state::ring_index(frame, ring)];
                self.storage.wake(&slot.word, Wake::All);
            }
        }
        if hand_on.preparer {
            self.preparer.bump();
            self.storage.wake(&self.preparer, Wake::All);
        }
        if self.followers.load(Ordering::SeqCst) > 0 {
            self.progress.bump();
            self.storage.wake(&self.progress, Wake::All);
        }
        hand_on.hooks
    }

    /// Buffers came back: lets those look who wait for room.
    fn offer_room(&self, is_own: bool) {
        let mut core = self.core.lock();
        if is_own {
            core.own_granted = false;
        }
        if core.room.is_empty() || planted!("room-not-offered") {
            return;
        }
        let task = core.room.take_front_task();
        self.room.bump();
        drop(core);
        self.storage.wake(&self.room, Wake::All);
        task.into_iter().for_each(wake);
    }

    fn write_error(&self, job: &Job<S>, source: std::io::Error) -> Error {
        Error::from_io("writing a frame", source)
            .with_path(self.storage.path().join(&job.segment.slot.name))
            .with_segment(job.segment.sequence)
            .with_offset(job.offset)
    }

    fn fail(&self, error: Error) {
        let mut core = self.core.lock();
        core.in_flight -= 1;
        self.latch(core, error);
    }
}

/// The durable write of a frame.
fn write_frame(file: &impl File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    if planted!("acknowledged-before-durable") {
        return file.write_at(bytes, offset);
    }
    match file.write_durable_at(bytes, offset) {
        Err(_) if planted!("failed-sync-retried") => file.sync(),
        Err(_) if planted!("failure-not-latched") => Ok(()),
        Err(error)
            if planted!("full-disk-acknowledged")
                && error.kind() == std::io::ErrorKind::StorageFull =>
        {
            Ok(())
        }
        answer => answer,
    }
}

/// Who commits next.
pub(super) enum Baton {
    /// One that sleeps on the word of this place in the ring.
    Sleeper(usize),
    Committer,
}

/// A write that was started and has not ended: if its thread unwinds, nobody may wait for ever.
struct Started<'a, S: Storage> {
    engine: &'a Engine<S>,
    ended: bool,
}

impl<S: Storage> Drop for Started<'_, S> {
    fn drop(&mut self) {
        if !self.ended {
            let mut core = self.engine.core.lock();
            core.in_flight -= 1;
            let error = Error::new(crate::ErrorKind::Io, "a panic while a frame was written");
            self.engine.latch(core, error);
        }
    }
}

/// Tells those who are not asleep: all tasks first, for a callback may take its time, or wait for what
/// one of them does.
pub(super) fn tell(mut hooks: Vec<Hook>, outcome: &Result<(), Error>) {
    let is_task = |hook: &mut Hook| matches!(hook, Hook::Task(_));
    hooks.extract_if(.., is_task).for_each(|task| run(task, outcome));
    hooks.into_iter().for_each(|callback| run(callback, outcome));
}

/// Tells one that is not asleep.
pub(super) fn run(hook: Hook, outcome: &Result<(), Error>) {
    match hook {
        Hook::Task(task) => wake(task),
        Hook::Callback(callback) => contain(|| callback(outcome.clone())),
    }
}

pub(super) fn wake(task: Waker) {
    contain(|| task.wake());
}

/// Lets go of a waker outside every lock: it may be the last that holds a task, whose futures and handles
/// lock when they are dropped.
pub(super) fn let_go(task: Option<Waker>) {
    contain(|| drop(task));
}

/// Runs what is not ours. Its panic is its own affair: others have to be told after it, and records to
/// be written that have their place already.
fn contain(work: impl FnOnce()) {
    let told = catch_unwind(AssertUnwindSafe(work));
    drop(told);
}
