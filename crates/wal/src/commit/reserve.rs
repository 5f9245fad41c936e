//! Room in the open frame, and what an append does when there is none.

use super::{
    Engine, Place, drive,
    state::{Core, FrameMeta, Stage, ring_index},
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{
        self, CHECKPOINT_BYTES_MAX, Checkpoint, FRAME_HEADER_BYTES, Purpose, RECORD_HEADER_BYTES,
        RecordKind, record_bytes,
    },
    frame_buffer,
    io::{Storage, Wake},
    sync::MutexGuard,
};
use aligned::{Buffer, LentRoom};
use std::sync::{Arc, atomic::Ordering};

/// What an append asks room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) bytes: usize,
    pub(super) records: u32,
    pub(super) payload_bytes: usize,
    pub(super) class: Class,
}

/// Who may use a segment's last blocks when it has no successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    User,
    Checkpoint,
}

/// How an append that finds no room goes on. One per call; remembers its place in the queue.
#[derive(Debug, Default)]
pub(crate) struct RoomWait {
    place: Option<u64>,
    /// How many attempts at a segment had been begun when this append first needed one.
    attempts: Option<u64>,
    own: Own,
}

/// The memory of a record that fits no pool buffer: there is one for the whole log, so that memory
/// stays bounded whatever is appended.
#[derive(Debug, Default)]
enum Own {
    /// Not needed, or not granted yet.
    #[default]
    None,
    /// Granted: this append is the one that may allocate, outside the lock.
    Granted,
    /// Allocated.
    Ready(Buffer),
}

/// Why there is no room just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// Others wait already, or all buffers are taken: room comes when a write completes.
    Memory,
    /// The next segment is not prepared.
    Segment,
    /// Nothing any more: memory of its own was granted and has to be allocated.
    Allocation,
}

/// Room that was granted, every byte of which is to be written. The frame is not written before it is
/// dropped.
pub(super) struct Grant<'a> {
    pub(super) room: LentRoom<'a>,
    pub(super) place: Place,
}

/// The most that fits beside a record in the first frame of a segment: its header and the
/// checkpoint that is restated there.
pub(super) const FIRST_FRAME_OVERHEAD: usize =
    FRAME_HEADER_BYTES + record_bytes(8 + CHECKPOINT_BYTES_MAX);

impl RoomWait {
    /// Lets another append have the memory outside the pool.
    pub(super) fn give_back_own<S: Storage>(&mut self, core: &mut Core<S>) {
        if !matches!(std::mem::take(&mut self.own), Own::None) {
            core.own_granted = false;
        }
    }

    /// Whether nothing is held that others may wait for.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.place.is_none() && matches!(self.own, Own::None)
    }
}

impl<S: Storage> Engine<S> {
    /// A record that fits no pool buffer gets one of its own, and a frame of its own.
    pub(super) fn allocate_own(&self, wait: &mut RoomWait, request: Request) -> Result<()> {
        match Buffer::zeroed(self.block, FIRST_FRAME_OVERHEAD + request.bytes) {
            Ok(buffer) => {
                wait.own = Own::Ready(buffer);
                Ok(())
            }
            Err(error) => {
                self.leave(self.core.lock(), wait);
                Err(Error::new(ErrorKind::Io, format!("memory for a large record: {error}")))
            }
        }
    }

    /// Memory for a new frame.
    fn take_buffer(
        &self,
        core: &mut Core<S>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<Buffer, Short> {
        if FIRST_FRAME_OVERHEAD + request.bytes <= self.pool.buffer_bytes() {
            return self.pool.take().ok_or(Short::Memory);
        }
        match std::mem::take(&mut wait.own) {
            Own::Ready(buffer) => Ok(buffer),
            Own::None if core.own_granted => Err(Short::Memory),
            Own::None | Own::Granted => {
                core.own_granted = true;
                wait.own = Own::Granted;
                Err(Short::Allocation)
            }
        }
    }

    /// Reserves, and waits for room as long as that may help.
    #[inline]
    pub(super) fn reserve_waiting(
        self: &Arc<Self>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<(Grant<'_>, MutexGuard<'_, Core<S>>)> {
        loop {
            let mut core = self.core.lock();
            let short = match self.reserve(&mut core, request, wait) {
                Ok(Ok(grant)) => return Ok((grant, core)),
                Ok(Err(short)) => short,
                Err(error) => {
                    self.leave(core, wait);
                    return Err(error);
                }
            };
            if short == Short::Allocation {
                drop(core);
                self.allocate_own(wait, request)?;
                continue;
            }
            self.join_queue(&mut core, wait, short);
            // What is in its way is written by the committers. Writing it here would have one thread
            // fewer produce while the others drain: 1.3 to 1.7 times less bandwidth, measured.
            if let Err(error) = self.kick_for(&mut core, short) {
                self.leave(core, wait);
                return Err(error);
            }
            let seen = self.room.read();
            drop(core);
            self.storage.wait(&self.room, seen, None);
        }
    }

    /// Sees to it that somebody makes the room that is short.
    pub(super) fn kick_for(self: &Arc<Self>, core: &mut Core<S>, short: Short) -> Result<()> {
        if short == Short::Segment {
            self.want_segment(core)?;
        }
        self.kick(core)
    }

    pub(super) fn join_queue(&self, core: &mut Core<S>, wait: &mut RoomWait, short: Short) -> u64 {
        if let Some(place) = wait.place {
            return place;
        }
        match short {
            Short::Memory | Short::Allocation => core.stats.memory_waits += 1,
            Short::Segment => core.stats.segment_waits += 1,
        }
        let place = core.room.join();
        wait.place = Some(place);
        place
    }

    /// Ends an append's wait: leaves the queue, if it was in it, gives back what was granted and not
    /// used, and lets the next one look.
    #[inline]
    pub(super) fn leave(&self, core: MutexGuard<'_, Core<S>>, wait: &mut RoomWait) {
        if !wait.is_over() {
            self.leave_cold(core, wait);
        }
    }

    #[cold]
    fn leave_cold(&self, mut core: MutexGuard<'_, Core<S>>, wait: &mut RoomWait) {
        let own_task = wait.place.take().and_then(|place| core.room.leave(place));
        wait.give_back_own(&mut core);
        let others = !core.room.is_empty();
        let task = core.room.take_front_task();
        if others {
            self.room.bump();
        }
        drop(core);
        if others {
            self.storage.wake(&self.room, Wake::All);
        }
        task.into_iter().for_each(drive::wake);
        drive::let_go(own_task);
    }

    /// Room for `request` in the open frame, or in a new one. The outer error ends the append, the
    /// inner one says what it has to wait for.
    #[inline]
    pub(super) fn reserve(
        self: &Arc<Self>,
        core: &mut MutexGuard<'_, Core<S>>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<Result<Grant<'_>, Short>> {
        self.check_running(core)?;
        // Who holds what others queue for must not queue behind them. And a checkpoint does not queue
        // behind appends that wait for what only it can free.
        let holds_own = !matches!(wait.own, Own::None);
        let its_turn = holds_own || core.room.is_empty() || core.room.is_turn_of(wait.place);
        if !its_turn && request.class == Class::User {
            return Ok(Err(Short::Memory));
        }
        if let Some(frame) = core.open_frame() {
            if self.fits_open(core, frame, request) {
                return Ok(Ok(self.grant(core, frame, request)));
            }
            self.seal(core);
        }
        match self.open_frame(core, request, wait)? {
            Ok(frame) => Ok(Ok(self.grant(core, frame, request))),
            Err(short) => Ok(Err(short)),
        }
    }

    #[inline]
    fn fits_open(&self, core: &Core<S>, frame: u64, request: Request) -> bool {
        let meta = core.frame(frame);
        let used = meta.used + request.bytes;
        used <= meta.capacity && self.fits_segment(core, meta.lsn, used, request.class)
    }

    /// Whether a frame at `lsn` of `bytes` fits the current segment.
    #[inline]
    fn fits_segment(&self, core: &Core<S>, lsn: Lsn, bytes: usize, class: Class) -> bool {
        let current = core.segments.current();
        let reserved = match (class, &core.segments.successor) {
            (Class::User, None) if !planted!("reserve-not-kept") => self.reserved_bytes(),
            _ => 0,
        };
        let limit = current.base.get() + self.identity.segment_bytes - reserved;
        let block = self.block.bytes_u64();
        // No overflow: a segment ends inside the 64-bit log and a frame is at most a segment long.
        lsn.get() + to_u64(bytes).next_multiple_of(block) <= limit
    }

    /// Whether a frame of `bytes` at the tail fits without touching the reserved blocks.
    pub(super) fn fits_user(&self, core: &Core<S>, bytes: usize) -> bool {
        self.fits_segment(core, core.tail, bytes, Class::User)
    }

    /// Whether an empty frame at the tail leaves room for a checkpoint, if it uses them.
    pub(super) fn fits_before_checkpoint(&self, core: &Core<S>) -> bool {
        let bytes = self.block.bytes_u64() + self.checkpoint_frame_bytes();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.fits_segment(core, core.tail, bytes, Class::Checkpoint)
    }

    /// Takes the room: from here on the record has its place in the log.
    #[inline]
    fn grant<'a>(&'a self, core: &mut Core<S>, frame: u64, request: Request) -> Grant<'a> {
        let index = core.index(frame);
        let meta = &mut core.frames[index];
        let offset = meta.used;
        let lsn = advance(meta.lsn, offset);
        #[expect(clippy::expect_used, reason = "only the start of its write takes it away")]
        let buffer = meta.buffer.as_mut().expect("an open frame has a buffer");
        assert!(buffer.used() == offset, "rooms are granted in the order of the log");
        #[expect(clippy::expect_used, reason = "the frame's capacity is the buffer's length")]
        let room = buffer.reserve(&self.frames[index].desk, request.bytes).expect("room is there");
        meta.used += request.bytes;
        meta.records += request.records;
        let end = advance(lsn, request.bytes);
        core.ordinal += u64::from(request.records);
        core.appended = end;
        core.appended_frame = frame;
        core.stats.records += u64::from(request.records);
        core.stats.payload_bytes += to_u64(request.payload_bytes);
        Grant { room, place: Place { lsn, last_lsn: lsn, end, frame } }
    }

    /// Opens a frame that `request` fits in.
    fn open_frame(
        self: &Arc<Self>,
        core: &mut MutexGuard<'_, Core<S>>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<Result<u64, Short>> {
        let restated = loop {
            let restated = self.restated_bytes(core);
            let bytes = FRAME_HEADER_BYTES + restated + request.bytes;
            if self.fits_segment(core, core.tail, bytes, request.class) {
                break restated;
            }
            if core.segments.successor.is_none() {
                return self.short_of_segment(core, wait);
            }
            self.rotate(core);
        };
        if core.next - core.first >= to_u64(core.frames.len()) {
            return Ok(Err(Short::Memory));
        }
        self.have_committer(core)?;
        let buffer = match self.take_buffer(core, request, wait) {
            Ok(buffer) => buffer,
            Err(short) => return Ok(Err(short)),
        };
        let frame = self.install(core, buffer, Purpose::Records);
        self.arm(core, frame);
        self.restate(core, frame, restated);
        // The frame before this one may have been sealed for being full: written now, not when somebody
        // waits. Once a frame.
        self.kick(core)?;
        Ok(Ok(frame))
    }

    /// Makes `buffer` the open frame at the tail.
    pub(super) fn install(&self, core: &mut Core<S>, buffer: Buffer, purpose: Purpose) -> u64 {
        let frame = core.next;
        let index = ring_index(frame, core.frames.len());
        let capacity = buffer.len();
        let buffer = frame_buffer::lend(&self.frames[index].desk, buffer);
        let segment = core.segments.current().clone();
        let meta = &mut core.frames[index];
        let hooks = std::mem::take(&mut meta.hooks);
        *meta = FrameMeta {
            stage: Stage::Open,
            purpose,
            lsn: core.tail,
            buffer: Some(buffer),
            capacity,
            first_ordinal: core.ordinal,
            segment: Some(segment),
            opened_at: self.storage.now(),
            hooks,
            ..FrameMeta::default()
        };
        self.frames[index].joined.store(0, Ordering::SeqCst);
        core.next += 1;
        core.open = true;
        frame
    }

    /// What the checkpoint takes that the next frame has to restate.
    pub(super) fn restated_bytes(&self, core: &Core<S>) -> usize {
        let base = core.segments.current().base;
        let first = base.checked_add(self.block.bytes_u64()) == Some(core.tail);
        match &core.checkpoint {
            _ if planted!("checkpoint-not-restated") => 0,
            Some((_, state)) if first && base > Lsn::ZERO => record_bytes(8 + state.len()),
            _ => 0,
        }
    }

    /// Writes the latest checkpoint again at the head of `frame`, so that opening the log finds it
    /// in the last segment. Under the lock: once a segment, a kilobyte at most.
    pub(super) fn restate(&self, core: &mut Core<S>, frame: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let request = Request { bytes, records: 1, payload_bytes: 0, class: Class::Checkpoint };
        let appended = (core.appended, core.appended_frame);
        let Grant { mut room, place } = self.grant(core, frame, request);
        (core.appended, core.appended_frame) = appended;
        if let Some((start_mark, state)) = &core.checkpoint {
            let checkpoint = Checkpoint { start_mark: *start_mark, state };
            let length = checkpoint.payload_bytes();
            checkpoint.encode(&mut room[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length]);
            format::encode_record(&mut room, self.seed, place.lsn, RecordKind::Checkpoint, length);
        }
    }

    /// The pointer swap that rotation costs.
    pub(super) fn rotate(&self, core: &mut Core<S>) {
        let Some(successor) = core.segments.successor.take() else { return };
        core.tail = advance(successor.base, self.block.bytes());
        core.segments.live.push_back(successor);
        core.segments.begun = false;
    }

    fn short_of_segment(
        self: &Arc<Self>,
        core: &mut MutexGuard<'_, Core<S>>,
        wait: &mut RoomWait,
    ) -> Result<Result<u64, Short>> {
        let preparer = &core.segments.preparer;
        let attempts = *wait.attempts.get_or_insert(preparer.attempts);
        match preparer.refusal_after(attempts) {
            Some(error) => Err(error.clone()),
            None => Ok(Err(Short::Segment)),
        }
    }

    /// Seals the open frame: no more records; the place of the next one is fixed.
    pub(super) fn seal(&self, core: &mut Core<S>) {
        let Some(frame) = core.open_frame() else { return };
        let block = self.block.bytes_u64();
        let meta = core.frame_mut(frame);
        meta.stage = Stage::Sealed;
        let bytes = to_u64(meta.used).next_multiple_of(block);
        core.tail = Lsn::new(core.frame(frame).lsn.get() + bytes);
        core.open = false;
    }
}

#[inline]
pub(super) fn advance(lsn: Lsn, bytes: usize) -> Lsn {
    Lsn::new(lsn.get() + to_u64(bytes))
}

#[expect(clippy::as_conversions, reason = "usize is at most 64 bits wide")]
pub(super) const fn to_u64(bytes: usize) -> u64 {
    bytes as u64
}
