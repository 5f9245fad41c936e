//! Room in the open frame, or in a new one.

use super::{
    Engine, Place,
    locked::Locked,
    queue::Waiter,
    room::RoomWait,
    state::{Core, FrameMeta, Stage, ring_index},
};
use crate::{
    Lsn, Result,
    format::{
        self, CHECKPOINT_BYTES_MAX, Checkpoint, FRAME_HEADER_BYTES, Purpose, RECORD_HEADER_BYTES,
        RecordKind, record_bytes,
    },
    frame_buffer,
    io::Storage,
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

/// Why there is no room just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// It is others' turn, or all buffers are taken: room comes when a write completes.
    Memory,
    /// The next segment is not prepared.
    Segment,
    /// Nothing any more: memory of its own was granted and has to be allocated.
    Allocation,
    /// The thread that would write what nobody waits for.
    Committer,
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

impl<S: Storage> Engine<S> {
    /// Room for `request` in the open frame, or in a new one. The outer error ends the append, the
    /// inner one says what it has to wait for.
    ///
    /// Who waits has an order and no claim, see [`RoomQueue`](super::queue::RoomQueue). And a checkpoint does
    /// not queue behind appends that wait for what only it can free.
    #[inline]
    pub(super) fn reserve(
        self: &Arc<Self>,
        core: &mut Locked<'_, S>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<Result<Grant<'_>, Short>> {
        self.check_running(core)?;
        let is_alone = core.room.is_empty() || request.class == Class::Checkpoint;
        if !is_alone && !core.room.may_pass(wait.place()) {
            return Ok(Err(Short::Memory));
        }
        if let Some(frame) = core.open_frame()
            && self.fits_open(core, frame, request)
        {
            self.count_pass(core, wait);
            return Ok(Ok(self.grant(core, frame, request)));
        }
        if !is_alone && core.room.is_thread_coming_before(wait.place()) {
            return Ok(Err(Short::Memory));
        }
        match self.open_frame(core, request, wait)? {
            Ok(frame) => {
                self.count_pass(core, wait);
                let grant = self.grant(core, frame, request);
                // In what is left of it others may find room.
                self.offer_room(core);
                Ok(Ok(grant))
            }
            Err(short) => Ok(Err(short)),
        }
    }

    #[inline]
    fn count_pass(&self, core: &mut Core<S>, wait: &RoomWait) {
        if !core.room.is_empty() && core.room.passed(wait.place()) {
            core.stats.room_passes += 1;
        }
    }

    /// Whether [`Engine::reserve`] would find room for `waiter`, whoever's turn it is; or that it lacks a
    /// segment, which it did not know.
    pub(super) fn is_worth_a_look(&self, core: &Core<S>, waiter: &Waiter) -> bool {
        let request = waiter.request;
        let tail = match core.open_frame() {
            Some(frame) if self.fits_open(core, frame, request) => return true,
            Some(frame) => self.end_if_sealed(core, frame),
            None => core.tail,
        };
        // In a segment that holds no frame yet anything fits that may be appended at all.
        let bytes = FRAME_HEADER_BYTES + self.restated_bytes_at(core, tail) + request.bytes;
        let has_segment = core.segments.successor.is_some()
            || self.fits_segment(core, tail, bytes, request.class);
        if !has_segment {
            return waiter.short != Short::Segment;
        }
        let has_place = core.next - core.first < to_u64(core.frames.len());
        let has_memory = match self.fits_pool(request) {
            true => self.pool.available() > 0,
            false => core.own.is_to_be_had(waiter.is_thread()),
        };
        has_place && has_memory
    }

    /// Whether a pool buffer holds `request` wherever its frame may stand.
    pub(super) fn fits_pool(&self, request: Request) -> bool {
        FIRST_FRAME_OVERHEAD + request.bytes <= self.pool.buffer_bytes()
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
        core: &mut Locked<'_, S>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<Result<u64, Short>> {
        // The open one is sealed for it, if it can be had: else it stays open for those who fit. But when half of
        // it is used nobody waits for the rest of it: it may be written at once.
        let open = core.open_frame();
        let tail = open.map_or(core.tail, |frame| self.end_if_sealed(core, frame));
        let is_half_full = open.is_some_and(|frame| {
            let meta = core.frame(frame);
            meta.used >= meta.capacity / 2
        });
        if is_half_full {
            self.seal(core);
        }
        let bytes = |restated| FRAME_HEADER_BYTES + restated + request.bytes;
        let mut restated = self.restated_bytes_at(core, tail);
        let is_over = !self.fits_segment(core, tail, bytes(restated), request.class);
        if is_over && core.segments.successor.is_none() {
            return self.short_of_segment(core, wait);
        }
        if core.committers.running == 0 {
            return Ok(Err(Short::Committer));
        }
        if core.next - core.first >= to_u64(core.frames.len()) {
            return Ok(Err(Short::Memory));
        }
        let buffer = match self.fits_pool(request) {
            true => self.pool.take().ok_or(Short::Memory),
            false => self.take_own(core, request, wait),
        };
        let buffer = match buffer {
            Ok(buffer) => buffer,
            Err(short) => return Ok(Err(short)),
        };
        self.seal(core);
        // In a segment that holds no frame yet anything fits that may be appended at all.
        if is_over {
            self.rotate(core);
            restated = self.restated_bytes(core);
        }
        let frame = self.install(core, buffer, Purpose::Records);
        self.arm(core, frame);
        self.restate(core, frame, restated);
        // The frame before this one may have been sealed for being full: written now, not when somebody
        // waits. Once a frame.
        self.kick(core);
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
        self.restated_bytes_at(core, core.tail)
    }

    fn restated_bytes_at(&self, core: &Core<S>, tail: Lsn) -> usize {
        let base = core.segments.current().base;
        let first = base.checked_add(self.block.bytes_u64()) == Some(tail);
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

    fn short_of_segment(&self, core: &Core<S>, wait: &mut RoomWait) -> Result<Result<u64, Short>> {
        let preparer = &core.segments.preparer;
        let attempts = wait.attempts_before(preparer.attempts);
        match preparer.refusal_after(attempts) {
            Some(error) => Err(error.clone()),
            None => Ok(Err(Short::Segment)),
        }
    }

    /// Seals the open frame: no more records; the place of the next one is fixed.
    pub(super) fn seal(&self, core: &mut Core<S>) {
        let Some(frame) = core.open_frame() else { return };
        core.tail = self.end_if_sealed(core, frame);
        core.frame_mut(frame).stage = Stage::Sealed;
        core.open = false;
    }

    /// Where the next frame would go, were `frame` sealed as it is.
    fn end_if_sealed(&self, core: &Core<S>, frame: u64) -> Lsn {
        let meta = core.frame(frame);
        Lsn::new(meta.lsn.get() + to_u64(meta.used).next_multiple_of(self.block.bytes_u64()))
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
