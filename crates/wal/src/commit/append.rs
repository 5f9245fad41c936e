//! Appending: room in the open frame, and what happens when there is none.

use super::{
    Engine, FILLING,
    locked::{LetGo, Locked},
    reserve::{Class, FIRST_FRAME_OVERHEAD, Grant, Request, Short, advance, to_u64},
    room::RoomWait,
    state::Core,
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{
        self, CHECKPOINT_BYTES_MAX, Checkpoint, Position, RECORD_HEADER_BYTES, RecordKind,
        record_bytes,
    },
    io::Storage,
    sync,
};
use aligned::LentRoom;
use std::{sync::Arc, task::Waker};

/// There is no room just now; the lock is still held.
type NoRoom<'a, S> = (Locked<'a, S>, Short);

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

impl<S: Storage> Engine<S> {
    /// The most room that the records of one frame can take, headers included: what an empty
    /// segment holds without its reserved blocks.
    fn frame_room_max(&self) -> u64 {
        let kept = self.block.bytes_u64() + self.reserved_bytes();
        self.identity.segment_bytes - kept - to_u64(FIRST_FRAME_OVERHEAD)
    }

    /// The longest payload of a record that can be appended, in bytes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        let room = usize::try_from(self.frame_room_max()).unwrap_or(usize::MAX);
        room - RECORD_HEADER_BYTES
    }

    /// Appends one record. `wait` says what to do without room: `Some` to wait, `None` to refuse.
    #[inline]
    pub(crate) fn append(self: &Arc<Self>, payload: &[u8]) -> Result<Place> {
        self.check_caller()?;
        let request = self.request_one(payload.len(), Class::User)?;
        let (Grant { room, place }, _let_go) = self.take_room(request)?;
        self.copy(room, place.lsn, payload);
        Ok(place)
    }

    /// Room for `request`, waiting for it; and what is let go of when it is filled.
    #[inline]
    fn take_room(self: &Arc<Self>, request: Request) -> Result<(Grant<'_>, LetGo)> {
        let (grant, core) = self.reserve_waiting(request, &mut RoomWait::default())?;
        Ok((grant, core.unlock()))
    }

    /// The same, but answers [`ErrorKind::WouldBlock`] instead of waiting.
    pub(crate) fn try_append(self: &Arc<Self>, payload: &[u8]) -> Result<Place> {
        self.check_caller()?;
        let request = self.request_one(payload.len(), Class::User)?;
        match self.reserve_now(request, &mut RoomWait::default())? {
            Ok((Grant { room, place }, _let_go)) => {
                self.copy(room, place.lsn, payload);
                Ok(place)
            }
            Err((mut core, short)) => {
                self.kick_for(&mut core, short);
                let refused = (short == Short::Segment)
                    .then(|| core.segments.preparer.failed.clone())
                    .flatten();
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
        // Outside the lock, like its drop: it is not ours.
        let task = task.clone();
        match self.reserve_now(request, wait)? {
            Ok((Grant { room, place }, _let_go)) => {
                self.copy(room, place.lsn, payload);
                Ok(Some(place))
            }
            Err((mut core, short)) => {
                self.join_as_task(&mut core, request, wait, short, task);
                Ok(None)
            }
        }
    }

    /// Room if there is some, or what is short, the lock still held.
    fn reserve_now<'a>(
        self: &'a Arc<Self>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<Result<(Grant<'a>, LetGo), NoRoom<'a, S>>> {
        loop {
            let mut core = self.lock();
            if let Some(error) = wait.place().and_then(|place| core.room.take_refusal(place)) {
                self.leave(&mut core, wait);
                return Err(error);
            }
            match self.reserve(&mut core, request, wait) {
                Ok(Ok(grant)) => {
                    self.leave(&mut core, wait);
                    return Ok(Ok((grant, core.unlock())));
                }
                Ok(Err(short @ (Short::Allocation | Short::Committer))) => {
                    self.provide(core, request, wait, short)?;
                }
                Ok(Err(short)) => return Ok(Err((core, short))),
                Err(error) => {
                    self.leave(&mut core, wait);
                    return Err(error);
                }
            }
        }
    }

    /// Gives back the place in the queue of an append that is no longer wanted.
    pub(crate) fn cancel_append(self: &Arc<Self>, wait: &mut RoomWait) {
        if !wait.is_over() && self.witness.same_process() {
            self.leave(&mut self.lock(), wait);
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
        let (Grant { room, place }, _let_go) = self.take_room(request)?;
        self.encode(room, place.lsn, kind, length, fill);
        Ok(place)
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
        let (Grant { mut room, mut place }, _let_go) = self.take_room(request)?;
        room.copy_from_slice(staged);
        let mut lsn = place.lsn;
        let mut rest = &mut room[..];
        for (index, length) in lengths.iter().enumerate() {
            let bytes = record_bytes(to_usize(*length));
            let (record, after) = rest.split_at_mut(bytes);
            let last = index + 1 == lengths.len();
            let is_end = last || planted!("batch-without-bonds");
            let position = if is_end { Position::Last } else { Position::Inner };
            format::encode(record, self.seed, lsn, RecordKind::Data, position, to_usize(*length));
            place.last_lsn = lsn;
            lsn = advance(lsn, bytes);
            rest = after;
        }
        // Before what is let go of.
        drop(room);
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
        // Before it takes room, for a refusal must not eat a full disk's last blocks; and again in
        // the critical section that orders it, for of two racing checkpoints the lower one may come
        // second. Only then its room becomes void.
        let core = self.lock();
        self.check_start_mark(&core, start_mark)?;
        // The last blocks on a full disk are for the checkpoint that frees a slot, not for those that
        // say nothing new.
        let frees = core.segments.frees(start_mark, self.identity.segment_bytes);
        drop(core);
        let class = if frees { Class::Checkpoint } else { Class::User };
        let request = self.request_one(length, class)?;
        let mut wait = RoomWait::default();
        let (Grant { room, place }, mut core) = self.reserve_waiting(request, &mut wait)?;
        let accepted = self.check_start_mark(&core, start_mark);
        if accepted.is_ok() {
            let held = core.checkpoint.get_or_insert_with(|| (start_mark, Vec::new()));
            held.0 = start_mark;
            held.1.clear();
            held.1.extend_from_slice(state);
            core.frame_mut(place.frame).checkpoint = Some(start_mark);
            if planted!("released-before-the-checkpoint") {
                core.segments.release(start_mark, self.identity.segment_bytes);
                self.wake_preparer(&mut core);
            }
        }
        let _let_go = core.unlock();
        let kind = if accepted.is_ok() { RecordKind::Checkpoint } else { RecordKind::Void };
        self.encode(room, place.lsn, kind, length, |room| checkpoint.encode(room));
        accepted.map(|()| place)
    }

    /// A start mark never falls, and never passes the tail.
    fn check_start_mark(&self, core: &Core<S>, start_mark: Lsn) -> Result<()> {
        let lowest = match &core.checkpoint {
            Some((mark, _)) if !planted!("start-mark-may-fall") => *mark,
            _ => Lsn::ZERO,
        };
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

    /// Copies a record into its room and checksums it, outside the lock.
    #[inline]
    fn copy(&self, mut room: LentRoom<'_>, lsn: Lsn, payload: &[u8]) {
        sync::point();
        room[RECORD_HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
        format::encode_record(&mut room, self.seed, lsn, RecordKind::Data, payload.len());
    }

    /// Has a record filled in its room, which is zeros at first, and checksums it, outside the lock.
    #[inline]
    fn encode(
        &self,
        mut room: LentRoom<'_>,
        lsn: Lsn,
        kind: RecordKind,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let mut filling = Filling { engine: self, room: &mut room, lsn, length, done: false };
        filling.room.fill(0);
        FILLING.set(true);
        sync::point();
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

fn to_usize(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
