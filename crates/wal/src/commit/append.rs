//! Appending: room in the open frame, and what happens when there is none.

use super::{
    Engine, FILLING, RESERVED_BLOCKS,
    state::{Core, FrameMeta, Stage, ring_index},
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{
        self, CHECKPOINT_BYTES_MAX, Checkpoint, FRAME_HEADER_BYTES, Position, Purpose,
        RECORD_HEADER_BYTES, RecordKind, record_bytes,
    },
    io::Storage,
};
use aligned::{Buffer, Room};
use parking_lot::{MutexGuard, RwLockReadGuard};
use std::{sync::Arc, task::Waker};

/// Where an append ended up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The record, or the first of a batch.
    pub(crate) lsn: Lsn,
    /// The last record of a batch, else the same.
    pub(crate) last_lsn: Lsn,
    /// Durable once the durable mark is here.
    pub(crate) end: Lsn,
    /// The number of its frame.
    pub(crate) frame: u64,
}

/// What an append asks room for.
#[derive(Clone, Copy, Debug)]
struct Request {
    bytes: usize,
    records: u32,
    payload_bytes: usize,
    class: Class,
}

/// Who may use a segment's last blocks when it has no successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    User,
    Checkpoint,
}

/// How an append that finds no room goes on. One per call; remembers its place in the queue.
#[derive(Debug, Default)]
pub(crate) struct RoomWait {
    place: Option<u64>,
    /// How many preparations had failed when this append first needed one.
    failures: Option<u64>,
    /// The buffer of a record that fits no pool buffer, allocated outside the lock.
    own: Option<Buffer>,
}

/// Why there is no room just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    /// Others wait already, or all buffers are taken: room comes when a write completes.
    Memory,
    /// The next segment is not prepared.
    Segment,
}

/// Room that was granted. The guard keeps the frame from being written before the copy has ended.
struct Grant<'a> {
    guard: RwLockReadGuard<'a, Option<Buffer>>,
    offset: usize,
    place: Place,
}

/// The most that fits beside a record in the first frame of a segment: its header and the
/// checkpoint that is restated there.
const FIRST_FRAME_OVERHEAD: usize = FRAME_HEADER_BYTES + record_bytes(8 + CHECKPOINT_BYTES_MAX);

impl<S: Storage> Engine<S> {
    /// The most room that the records of one frame can take, headers included: what an empty
    /// segment holds without its reserved blocks.
    fn frame_room_max(&self) -> u64 {
        let blocks = (1 + RESERVED_BLOCKS) * self.block.bytes_u64();
        self.identity.segment_bytes - blocks - to_u64(FIRST_FRAME_OVERHEAD)
    }

    /// The longest payload of a record that can be appended, in bytes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        let room = usize::try_from(self.frame_room_max()).unwrap_or(usize::MAX);
        room - RECORD_HEADER_BYTES
    }

    /// Appends one record. `wait` says what to do without room: `Some` to wait, `None` to refuse.
    #[inline]
    pub(crate) fn append(self: &Arc<Self>, payload: &[u8]) -> Result<Place> {
        self.append_filled(payload.len(), RecordKind::Data, |room| room.copy_from_slice(payload))
    }

    /// The same, but answers [`ErrorKind::WouldBlock`] instead of waiting.
    pub(crate) fn try_append(self: &Arc<Self>, payload: &[u8]) -> Result<Place> {
        self.check_caller()?;
        let mut wait = RoomWait::default();
        let request = self.request_one(payload.len(), Class::User)?;
        self.allocate_own(&mut wait, request)?;
        let mut core = self.core.lock();
        match self.reserve(&mut core, request, &mut wait)? {
            Ok(grant) => {
                let room = take_room(&grant, request.bytes);
                drop(core);
                self.encode(room, grant.place.lsn, RecordKind::Data, payload.len(), |room| {
                    room.copy_from_slice(payload);
                });
                Ok(grant.place)
            }
            Err(short) => {
                let refused = (short == Short::Segment)
                    .then(|| core.segments.preparer.failed.clone())
                    .flatten();
                self.kick_for(&mut core, short)?;
                let would_block =
                    || Error::new(ErrorKind::WouldBlock, "no room in memory just now");
                Err(refused.unwrap_or_else(would_block))
            }
        }
    }

    /// One step of an append that waits without blocking: `None` means that `task` will be woken.
    pub(crate) fn poll_append(
        self: &Arc<Self>,
        payload: &[u8],
        wait: &mut RoomWait,
        task: &Waker,
    ) -> Result<Option<Place>> {
        self.check_caller()?;
        let request = self.request_one(payload.len(), Class::User)?;
        self.allocate_own(wait, request)?;
        let mut core = self.core.lock();
        match self.reserve(&mut core, request, wait) {
            Ok(Ok(grant)) => {
                let room = take_room(&grant, request.bytes);
                self.leave_queue(core, wait);
                self.encode(room, grant.place.lsn, RecordKind::Data, payload.len(), |room| {
                    room.copy_from_slice(payload);
                });
                Ok(Some(grant.place))
            }
            Ok(Err(short)) => {
                let place = self.join_queue(&mut core, wait, short);
                core.room.set_task(place, task.clone());
                self.kick_for(&mut core, short)?;
                Ok(None)
            }
            Err(error) => {
                self.leave_queue(core, wait);
                Err(error)
            }
        }
    }

    /// Gives back the place in the queue of an append that is no longer wanted.
    pub(crate) fn cancel_append(&self, wait: &mut RoomWait) {
        if wait.place.is_some() && self.witness.same_process() {
            let core = self.core.lock();
            self.leave_queue(core, wait);
        }
    }

    /// Appends one record whose `length` bytes `fill` writes in place. Waits for room.
    #[inline]
    pub(crate) fn append_filled(
        self: &Arc<Self>,
        length: usize,
        kind: RecordKind,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Place> {
        self.check_caller()?;
        let class = match kind {
            RecordKind::Checkpoint => Class::Checkpoint,
            RecordKind::Data | RecordKind::Void => Class::User,
        };
        let request = self.request_one(length, class)?;
        let mut wait = RoomWait::default();
        self.allocate_own(&mut wait, request)?;
        let (grant, core) = self.reserve_waiting(request, &mut wait)?;
        let room = take_room(&grant, request.bytes);
        self.leave_queue(core, &mut wait);
        self.encode(room, grant.place.lsn, kind, length, fill);
        Ok(grant.place)
    }

    /// Appends the records of a batch, which `staged` holds with room for their headers, as
    /// [`record_bytes`] lays them out; `lengths` are those of their payloads.
    pub(crate) fn append_batch(self: &Arc<Self>, staged: &[u8], lengths: &[u32]) -> Result<Place> {
        self.check_caller()?;
        let records = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
        let payload_bytes = lengths.iter().map(|length| to_usize(*length)).sum();
        let request = Request { bytes: staged.len(), records, payload_bytes, class: Class::User };
        if to_u64(staged.len()) > self.frame_room_max() {
            return Err(self.too_large("batch", staged.len()));
        }
        let mut wait = RoomWait::default();
        self.allocate_own(&mut wait, request)?;
        let (grant, core) = self.reserve_waiting(request, &mut wait)?;
        let mut room = take_room(&grant, request.bytes);
        self.leave_queue(core, &mut wait);
        room.copy_from_slice(staged);
        let mut lsn = grant.place.lsn;
        let mut rest = &mut room[..];
        let mut place = grant.place;
        for (index, length) in lengths.iter().enumerate() {
            let bytes = record_bytes(to_usize(*length));
            let (record, after) = rest.split_at_mut(bytes);
            let last = index + 1 == lengths.len();
            let position = if last { Position::Last } else { Position::Inner };
            format::encode(record, self.seed, lsn, RecordKind::Data, position, to_usize(*length));
            place.last_lsn = lsn;
            lsn = advance(lsn, bytes);
            rest = after;
        }
        Ok(place)
    }

    /// Appends a checkpoint.
    pub(crate) fn checkpoint(self: &Arc<Self>, start_mark: Lsn, state: &[u8]) -> Result<Place> {
        self.check_caller()?;
        if state.len() > CHECKPOINT_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "a checkpoint's own bytes")
                .with_expected_found(format!("at most {CHECKPOINT_BYTES_MAX}"), state.len()));
        }
        let checkpoint = Checkpoint { start_mark, state };
        let length = checkpoint.payload_bytes();
        let request = self.request_one(length, Class::Checkpoint)?;
        // Before it takes room, for a refusal must not eat a full disk's last blocks; and again in
        // the critical section that orders it, for of two racing checkpoints the lower one may come
        // second. Only then its room becomes void.
        self.check_start_mark(&self.core.lock(), start_mark)?;
        let mut wait = RoomWait::default();
        let (grant, mut core) = self.reserve_waiting(request, &mut wait)?;
        let room = take_room(&grant, request.bytes);
        let accepted = self.check_start_mark(&core, start_mark);
        if accepted.is_ok() {
            let held = core.checkpoint.get_or_insert_with(|| (start_mark, Vec::new()));
            held.0 = start_mark;
            held.1.clear();
            held.1.extend_from_slice(state);
            core.frame_mut(grant.place.frame).checkpoint = Some(start_mark);
        }
        self.leave_queue(core, &mut wait);
        let kind = if accepted.is_ok() { RecordKind::Checkpoint } else { RecordKind::Void };
        self.encode(room, grant.place.lsn, kind, length, |room| checkpoint.encode(room));
        accepted.map(|()| grant.place)
    }

    /// A start mark never falls, and never passes the tail.
    fn check_start_mark(&self, core: &Core<S>, start_mark: Lsn) -> Result<()> {
        let lowest = core.checkpoint.as_ref().map_or(Lsn::ZERO, |(mark, _)| *mark);
        let tail = self.end_of_log(core);
        if (lowest..=tail).contains(&start_mark) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "a start mark only grows, up to the tail")
            .with_lsn(start_mark)
            .with_expected_found(format!("{lowest} to {tail}"), start_mark))
    }

    fn request_one(&self, length: usize, class: Class) -> Result<Request> {
        if length > self.record_bytes_max() {
            return Err(self.too_large("record", length));
        }
        Ok(Request { bytes: record_bytes(length), records: 1, payload_bytes: length, class })
    }

    fn too_large(&self, what: &str, bytes: usize) -> Error {
        Error::new(ErrorKind::TooLarge, format!("a {what} longer than a segment holds"))
            .with_path(self.storage.path())
            .with_expected_found(format!("at most {} bytes", self.record_bytes_max()), bytes)
    }

    /// A record that fits no pool buffer gets one of its own, and a frame of its own.
    fn allocate_own(&self, wait: &mut RoomWait, request: Request) -> Result<()> {
        let bytes = FIRST_FRAME_OVERHEAD + request.bytes;
        let fits_pool = bytes <= self.pool.buffer_bytes();
        if fits_pool || wait.own.is_some() {
            return Ok(());
        }
        let buffer = Buffer::zeroed(self.block, bytes).map_err(|error| {
            Error::new(ErrorKind::Io, format!("memory for a large record: {error}"))
        })?;
        wait.own = Some(buffer);
        Ok(())
    }

    /// Reserves, and waits for room as long as that may help.
    #[inline]
    fn reserve_waiting(
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
                    self.leave_queue(core, wait);
                    return Err(error);
                }
            };
            self.join_queue(&mut core, wait, short);
            // Who waits for room is a waiter of what is in its way, and may write it.
            if let Some(front) = self.writable_front(&core) {
                self.write(core, front);
                continue;
            }
            self.kick_for(&mut core, short)?;
            let seen = self.room.read();
            drop(core);
            self.room.sleep(seen, None);
        }
    }

    /// Sees to it that somebody makes the room that is short.
    fn kick_for(self: &Arc<Self>, core: &mut Core<S>, short: Short) -> Result<()> {
        if short == Short::Segment {
            self.want_segment(core)?;
        }
        self.kick(core)
    }

    fn join_queue(&self, core: &mut Core<S>, wait: &mut RoomWait, short: Short) -> u64 {
        if let Some(place) = wait.place {
            return place;
        }
        match short {
            Short::Memory => core.stats.memory_waits += 1,
            Short::Segment => core.stats.segment_waits += 1,
        }
        let place = core.room.join();
        wait.place = Some(place);
        place
    }

    /// Leaves the queue, if this append was in it, and lets the next one look.
    fn leave_queue(&self, mut core: MutexGuard<'_, Core<S>>, wait: &mut RoomWait) {
        let Some(place) = wait.place.take() else { return };
        core.room.leave(place);
        let others = !core.room.is_empty();
        let task = core.room.take_front_task();
        if others {
            self.room.bump();
        }
        drop(core);
        if others {
            self.room.wake_all();
        }
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Room for `request` in the open frame, or in a new one. The outer error ends the append, the
    /// inner one says what it has to wait for.
    #[inline]
    fn reserve(
        self: &Arc<Self>,
        core: &mut MutexGuard<'_, Core<S>>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<Result<Grant<'_>, Short>> {
        self.check_running(core)?;
        // A checkpoint does not queue behind appends that wait for what only it can free.
        let its_turn = core.room.is_turn_of(wait.place) || core.room.is_empty();
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
            (Class::User, None) => RESERVED_BLOCKS * self.block.bytes_u64(),
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

    /// The same for one that may use them.
    pub(super) fn fits_reserve(&self, core: &Core<S>, bytes: usize) -> bool {
        self.fits_segment(core, core.tail, bytes, Class::Checkpoint)
    }

    /// Takes the room: from here on the record has its place in the log.
    #[inline]
    fn grant<'a>(&'a self, core: &mut Core<S>, frame: u64, request: Request) -> Grant<'a> {
        let index = core.index(frame);
        let meta = &mut core.frames[index];
        let offset = meta.used;
        let lsn = advance(meta.lsn, offset);
        meta.used += request.bytes;
        meta.records += request.records;
        let end = advance(lsn, request.bytes);
        core.ordinal += u64::from(request.records);
        core.appended = end;
        core.appended_frame = frame;
        core.stats.records += u64::from(request.records);
        core.stats.payload_bytes += to_u64(request.payload_bytes);
        // Nobody owns the buffer of an open frame, so this cannot wait.
        let guard = self.frames[index].buffer.share();
        Grant { guard, offset, place: Place { lsn, last_lsn: lsn, end, frame } }
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
        let Some(buffer) = wait.own.take().or_else(|| self.pool.take()) else {
            return Ok(Err(Short::Memory));
        };
        let frame = self.install(core, buffer, Purpose::Records);
        self.arm(core, frame);
        self.restate(core, frame, restated);
        Ok(Ok(frame))
    }

    /// Makes `buffer` the open frame at the tail.
    pub(super) fn install(&self, core: &mut Core<S>, buffer: Buffer, purpose: Purpose) -> u64 {
        let frame = core.next;
        let index = ring_index(frame, core.frames.len());
        let capacity = buffer.len();
        self.frames[index].buffer.install(buffer);
        let segment = core.segments.current().clone();
        let meta = &mut core.frames[index];
        let hooks = std::mem::take(&mut meta.hooks);
        *meta = FrameMeta {
            stage: Stage::Open,
            purpose,
            lsn: core.tail,
            capacity,
            first_ordinal: core.ordinal,
            segment: Some(segment),
            opened_at: self.storage.now(),
            hooks,
            ..FrameMeta::default()
        };
        self.frames[index].joined.store(0, std::sync::atomic::Ordering::SeqCst);
        core.next += 1;
        core.open = true;
        frame
    }

    /// What the checkpoint takes that the next frame has to restate.
    pub(super) fn restated_bytes(&self, core: &Core<S>) -> usize {
        let base = core.segments.current().base;
        let first = base.checked_add(self.block.bytes_u64()) == Some(core.tail);
        match &core.checkpoint {
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
        let grant = self.grant(core, frame, request);
        (core.appended, core.appended_frame) = appended;
        let mut room = take_room(&grant, bytes);
        if let Some((start_mark, state)) = &core.checkpoint {
            let checkpoint = Checkpoint { start_mark: *start_mark, state };
            let length = checkpoint.payload_bytes();
            checkpoint.encode(&mut room[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length]);
            let lsn = grant.place.lsn;
            format::encode_record(&mut room, self.seed, lsn, RecordKind::Checkpoint, length);
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
        let failures = *wait.failures.get_or_insert(core.segments.preparer.failures);
        match &core.segments.preparer.failed {
            Some(error) if core.segments.preparer.failures > failures => Err(error.clone()),
            _ => Ok(Err(Short::Segment)),
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

    /// Fills and checksums a record in its room, outside the lock.
    #[inline]
    fn encode(
        &self,
        mut room: Room<'_>,
        lsn: Lsn,
        kind: RecordKind,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let mut filling = Filling { engine: self, room: &mut room, lsn, length, done: false };
        FILLING.set(true);
        fill(&mut filling.room[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length]);
        format::encode_record(filling.room, self.seed, lsn, kind, length);
        filling.done = true;
    }
}

/// Makes the record void if the closure that fills it panics.
struct Filling<'a, S: Storage> {
    engine: &'a Engine<S>,
    room: &'a mut [u8],
    lsn: Lsn,
    length: usize,
    done: bool,
}

impl<S: Storage> Drop for Filling<'_, S> {
    fn drop(&mut self) {
        FILLING.set(false);
        if !self.done {
            let Self { room, lsn, length, .. } = self;
            room.fill(0);
            format::encode_record(room, self.engine.seed, *lsn, RecordKind::Void, *length);
        }
    }
}

/// The room itself. The buffer's cursor and the frame's `used` move together: both under the lock.
#[inline]
fn take_room<'a>(grant: &'a Grant<'_>, bytes: usize) -> Room<'a> {
    #[expect(clippy::expect_used, reason = "a grant is only made where both hold")]
    let buffer = grant.guard.as_ref().expect("an open frame has a buffer");
    #[expect(clippy::expect_used, reason = "the frame's capacity is the buffer's length")]
    let room = buffer.reserve(bytes).expect("granted room is there");
    assert!(buffer.used() == grant.offset + bytes, "rooms are granted in the order of the log");
    room
}

#[inline]
pub(super) fn advance(lsn: Lsn, bytes: usize) -> Lsn {
    Lsn::new(lsn.get() + to_u64(bytes))
}

#[expect(clippy::as_conversions, reason = "usize is at most 64 bits wide")]
pub(super) const fn to_u64(bytes: usize) -> u64 {
    bytes as u64
}

fn to_usize(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
