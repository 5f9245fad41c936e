//! One commit: seal, write, acknowledge in order, hand on.

use super::{
    COMMITS, Engine, STATE_LATCHED,
    flushes::Flusher,
    locked::Locked,
    reserve::{advance, to_u64},
    room::Own,
    state::{Core, Hook, Stage, Told},
    stop::Teller,
};
use crate::{
    Error, Lsn,
    format::{FRAME_HEADER_BYTES, FrameHeader, Purpose},
    frame_buffer,
    io::{File, Storage, Wake},
    slots::Segment,
    sync,
};
use aligned::{Buffer, LentBuffer};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// A write that was started: everything it needs without the lock.
struct Job<S: Storage> {
    frame: u64,
    /// Its number among the calls that flush.
    flush: u64,
    segment: Segment<S::File>,
    offset: u64,
    /// Keeps the directory locked for as long as the write is under way.
    _lease: Option<Arc<S::Lock>>,
}

/// The memory of a frame whose write was started.
enum Memory {
    /// Others may still fill their rooms; the header is put in when they have.
    Lent(LentBuffer, [u8; FRAME_HEADER_BYTES]),
    /// It was written before.
    Complete(Buffer),
}

/// What is done once the lock is released again.
pub(super) struct HandOn {
    /// The frames that became durable: whoever sleeps there wakes.
    woken: std::ops::Range<u64>,
    sleepers: u32,
    pub(super) hooks: Vec<Hook>,
    /// Those found by a thread that runs nothing of the user's.
    untold: Vec<Told>,
    /// Memory that was kept for a second write that is not needed.
    memory: Vec<Buffer>,
    /// Where the thread sleeps that seals next.
    baton: Option<usize>,
    committer: bool,
    preparer: bool,
}

impl<S: Storage> Engine<S> {
    /// The frame whose write may be started now, if there is one: one that has to be written once more, or
    /// the sealed one at the front.
    ///
    /// The first frame of a segment waits until all before it are *acknowledged*; that none is being written
    /// is not enough, for one that is held may have to be written once more, and would be missing before
    /// a frame that vouches for it. So do frames that vouch and hold nothing: an idle log's, and a close's.
    pub(super) fn writable(&self, core: &Core<S>) -> Option<u64> {
        if core.in_flight >= self.depth || self.state.load(Ordering::SeqCst) >= STATE_LATCHED {
            return None;
        }
        if let Some(again) = core.again_front() {
            return Some(again);
        }
        let front = core.sealed_front()?;
        let meta = core.frame(front);
        let begins_segment = meta.segment.as_ref()?.sequence != core.writing_segment
            && !planted!("next-segment-too-early");
        let vouches = match meta.purpose {
            Purpose::Confirmation => !planted!("confirmed-while-held"),
            Purpose::Close => !planted!("closed-while-held"),
            Purpose::Records | Purpose::Opening => false,
        };
        let is_alone = core.first == front;
        (is_alone || !(begins_segment || vouches)).then_some(front)
    }

    /// The open frame, if somebody may seal and write it now: a frame that is not full is written
    /// only alone. Several small ones in flight cost more CPU than they hide (measured: 16 writers
    /// 79 K/s at depth 1, 68 K/s at depth 4).
    pub(super) fn sealable(&self, core: &Core<S>) -> Option<u64> {
        let idle = core.in_flight == 0 && !core.sealing && core.unwritten + 1 == core.next;
        let runs = self.state.load(Ordering::SeqCst) < STATE_LATCHED;
        core.open_frame().filter(|_| idle && runs && core.again == 0)
    }

    /// Writes `frame`, which is [`Engine::writable`], and acknowledges what became durable by it.
    pub(super) fn write<'a>(self: &'a Arc<Self>, mut core: Locked<'a, S>, frame: u64) {
        let Some((job, memory)) = self.start(&mut core, frame) else { return };
        let is_committer = self.is_served_by_caller() && COMMITS.get();
        core.committers.writing += u32::from(is_committer);
        if let Some(due) = self.room_due(&core).filter(|_| is_committer) {
            self.have_room_looked_after(&mut core, due);
        }
        // Another full frame may be waiting behind this one: whoever filled it saw a committer asleep
        // that had been woken for this one. Without a thread it waits for this one.
        self.kick(&mut core);
        drop(core);
        let mut started = Started { engine: self, is_committer, ended: false };
        sync::point();
        let mut buffer = self.collect(memory);
        let before = self.storage.now();
        let result = if self.witness.same_process() {
            write_frame(&job.segment.slot.file, buffer.padded(self.block), job.offset)
        } else {
            Err(std::io::Error::other("this process did not open the log"))
        };
        let time = self.storage.now().saturating_sub(before);
        let result = result.map_err(|source| self.write_error(&job, source));
        let (frame, flush) = (job.frame, job.flush);
        // Before anybody hears of it: who closes the log on that word must find it unlocked, and a
        // segment that is released by it free.
        drop(job);
        let core = started.end();
        let (hand_on, buffer) = match result {
            Ok(()) => self.complete(core, frame, flush, time, buffer),
            Err(error) => {
                self.latch(core, error, Teller::Here);
                (None, Some(buffer))
            }
        };
        let (told, kept) = self.hand_on(hand_on);
        // Given back only now: those who wait for the records need not wait for that.
        let is_any = buffer.is_some() || !kept.is_empty();
        let is_own = buffer.iter().chain(&kept).any(|buffer| buffer.pool_index().is_none());
        drop((buffer, kept));
        if is_any {
            self.take_back(&mut self.lock(), is_own);
        }
        self.run_hooks(told);
    }

    /// The frame, whole, once every room was given back.
    fn collect(&self, memory: Memory) -> Buffer {
        match memory {
            Memory::Complete(buffer) => buffer,
            Memory::Lent(lent, header) => {
                let mut buffer = frame_buffer::collect(lent, |turns| self.wait_for_a_copy(turns));
                frame_buffer::complete(&mut buffer, &header);
                buffer
            }
        }
    }

    /// Counts the write of `frame`, and fixes its header, in the order of the log, if it is the first one.
    fn start(&self, core: &mut Core<S>, frame: u64) -> Option<(Job<S>, Memory)> {
        let segment = core.frame(frame).segment.clone()?;
        let offset = core.frame(frame).lsn.distance_from(segment.base)?;
        let memory = if core.frame(frame).stage == Stage::Again {
            core.again -= 1;
            Memory::Complete(core.frame_mut(frame).written.take()?)
        } else {
            self.fix(core, frame, segment.sequence)?
        };
        core.frame_mut(frame).stage = Stage::Writing;
        core.in_flight += 1;
        let flush = core.flushes.enter(Flusher::Frame);
        let lease = core.lease.clone();
        Some((Job { frame, flush, segment, offset, _lease: lease }, memory))
    }

    /// Fixes the header of the sealed frame at the front.
    fn fix(&self, core: &mut Core<S>, front: u64, sequence: u64) -> Option<Memory> {
        let index = core.index(front);
        let meta = &mut core.frames[index];
        assert!(meta.stage == Stage::Sealed, "only a sealed frame is written, and once");
        let buffer = meta.buffer.take()?;
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
        core.unconfirmed = meta.purpose == Purpose::Records && !planted!("idle-not-confirmed");
        let mut bytes = [0; FRAME_HEADER_BYTES];
        core.chain = header.encode(self.identity.log_id, &mut bytes);
        core.writing_segment = sequence;
        core.unwritten += 1;
        Some(Memory::Lent(buffer, bytes))
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

    /// A write succeeded: the durable mark moves over the frames that are done without a gap. Answers
    /// what is to be handed on, and the buffer, unless it may be needed once more.
    fn complete(
        self: &Arc<Self>,
        mut core: Locked<'_, S>,
        frame: u64,
        flush: u64,
        time: Duration,
        buffer: Buffer,
    ) -> (Option<HandOn>, Option<Buffer>) {
        core.flushes.leave(flush, Flusher::Frame);
        let now = self.storage.now();
        core.last_commit = now;
        core.stats.commit_histogram.record(time);
        core.cohort.took(time);
        let held_by = core.flushes.next();
        let is_beside = core.flushes.is_any_beside();
        let meta = core.frame_mut(frame);
        let is_doubtful = std::mem::take(&mut meta.is_doubtful);
        meta.stage = if is_doubtful { Stage::Again } else { Stage::Done };
        meta.held_by = held_by;
        meta.done_at = now;
        core.again += u32::from(is_doubtful);
        if self.state.load(Ordering::SeqCst) >= STATE_LATCHED {
            return (None, Some(buffer));
        }
        let buffer = match is_beside || is_doubtful {
            true => {
                core.frame_mut(frame).written = Some(buffer);
                None
            }
            false => Some(buffer),
        };
        let mut hand_on = self.acknowledge(&mut core, now);
        // A committer that looked when a record had just been appended sleeps for a `linger`.
        if core.unconfirmed {
            self.have_looked_by(&mut core, now.saturating_add(self.settings.confirm_after));
        }
        if planted!("acknowledged-out-of-order") && frame >= core.first {
            let meta = core.frame(frame);
            let end = self.durable().max(advance(meta.lsn, meta.used));
            self.durable.store(end.get(), Ordering::SeqCst);
        }
        // This thread has nothing better to do.
        hand_on.untold.append(&mut core.untold);
        (Some(hand_on), buffer)
    }

    /// Takes the frames off the ring that are durable for certain, and moves the durable mark over them.
    /// Answers whom to tell.
    pub(super) fn acknowledge(&self, core: &mut Core<S>, now: Duration) -> HandOn {
        let mut hand_on = HandOn {
            woken: core.first..core.first,
            sleepers: 0,
            hooks: Vec::new(),
            untold: Vec::new(),
            memory: Vec::new(),
            baton: None,
            committer: false,
            preparer: false,
        };
        let mut durable = self.durable();
        while core.durable_front().is_some() {
            let held = now.saturating_sub(core.frame(core.first).done_at);
            core.stats.longest_hold = core.stats.longest_hold.max(held);
            durable = self.retire(core, &mut hand_on);
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
        core.cohort.returned(returned + 1, waiting);
        self.pass_baton(core, &mut hand_on);
        hand_on
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
        hand_on.memory.extend(meta.written.take());
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
        let front = self.writable(core);
        let open = self.sealable(core);
        if front.is_none() && open.is_none() {
            return None;
        }
        let asleep = |frame: &u64| core.frame(*frame).sleepers > 0;
        if let Some(frame) = (core.unwritten..core.next).find(asleep) {
            return Some(Baton::Sleeper(core.index(frame)));
        }
        let wanted = |frame: u64| !core.frame(frame).hooks.is_empty() || core.room.needs_room();
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
    pub(super) fn pass_unused_baton(&self, core: Locked<'_, S>) {
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
    /// after that, and the memory that is free.
    pub(super) fn hand_on(&self, hand_on: Option<HandOn>) -> (Vec<Told>, Vec<Buffer>) {
        let Some(hand_on) = hand_on else { return (Vec::new(), Vec::new()) };
        if let Some(index) = hand_on.baton {
            self.storage.wake(&self.frames[index].word, Wake::One);
        }
        if hand_on.committer {
            self.storage.wake(&self.committer, Wake::One);
        }
        if hand_on.sleepers > 0 {
            for frame in hand_on.woken.clone() {
                let slot = &self.frames[super::state::ring_index(frame, self.frames.len())];
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
        let mut told = hand_on.untold;
        told.extend(hand_on.hooks.into_iter().map(|hook| (hook, Ok(()))));
        (told, hand_on.memory)
    }

    /// Buffers came back, the one outside the pool among them if `is_own`: lets those look who wait for
    /// room.
    pub(super) fn take_back(&self, core: &mut Core<S>, is_own: bool) {
        if is_own {
            core.own = Own::Free;
        }
        self.offer_room(core);
    }

    fn write_error(&self, job: &Job<S>, source: std::io::Error) -> Error {
        Error::from_io("writing a frame", source)
            .with_path(self.storage.path().join(&job.segment.slot.name))
            .with_segment(job.segment.sequence)
            .with_offset(job.offset)
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
    engine: &'a Arc<Engine<S>>,
    /// Whether its thread counts among the committers.
    is_committer: bool,
    ended: bool,
}

impl<'a, S: Storage> Started<'a, S> {
    /// It has ended: counts it no more.
    fn end(&mut self) -> Locked<'a, S> {
        self.ended = true;
        let mut core = self.engine.lock();
        core.in_flight -= 1;
        core.committers.writing -= u32::from(self.is_committer);
        core
    }
}

impl<S: Storage> Drop for Started<'_, S> {
    fn drop(&mut self) {
        if !self.ended {
            let error = Error::new(crate::ErrorKind::Io, "a panic while a frame was written");
            self.engine.latch(self.end(), error, Teller::Here);
        }
    }
}
