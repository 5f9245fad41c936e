//! The preparer: makes the next segment before it is needed, and gives back slots nobody needs.

use super::{
    Engine, STATE_LATCHED, flushes::Flusher, locked::Locked, reserve::to_u64, state::Core,
    stop::Teller,
};
use crate::{
    Error, ErrorKind, Result,
    format::{Origin, SegmentHeader},
    io::{File, Storage, Wake},
    slots::{self, FreeSlot, Segment, Slot},
};
use std::{
    io,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Between two steps of zeroing when there is time. 1 MiB steps every 10 ms into another file leave
/// the p99 of a lone durable writer at 175 µs (139 without); bursts of 16 MiB bring its p99.9 to
/// 5.4 ms (ext4 on a virtual disk).
const GENTLE_PAUSE: Duration = Duration::from_millis(10);

/// Between two looks at slots that are to be given back and that somebody still reads.
const PINNED_PAUSE: Duration = Duration::from_millis(100);

/// Between two tries where there was no room and nobody is in need.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// What the preparer does next.
enum Task<S: Storage> {
    /// Make segment `sequence`, in a free slot if there is one.
    Prepare {
        attempt: u64,
        sequence: u64,
        free: Option<FreeSlot<S::File>>,
        number: u32,
    },
    /// Remove slots that are more than is kept.
    GiveBack(FreeSlot<S::File>),
    Sleep(Option<Duration>),
    End,
}

impl<S: Storage> Engine<S> {
    /// Asks for the next segment on behalf of an append that cannot go on without it.
    pub(super) fn want_segment(&self, core: &mut Core<S>) {
        core.segments.preparer.urgent = true;
        self.wake_preparer(core);
    }

    /// Lets the preparer look at what there is to do.
    pub(super) fn wake_preparer(&self, core: &mut Core<S>) {
        self.preparer.bump();
        core.after.wakes_preparer = true;
    }

    pub(super) fn run_preparer(self: &Arc<Self>) {
        let _unwinding = Unwinding(self);
        loop {
            let mut core = self.lock();
            let seen = self.preparer.read();
            let task = self.next_task(&mut core);
            let lease = core.lease.clone();
            drop(core);
            match task {
                Task::End => return,
                Task::Sleep(time) => {
                    drop(lease);
                    self.storage.wait(&self.preparer, seen, time);
                }
                Task::Prepare { attempt, sequence, free, number } => {
                    let made = self.prepare(sequence, free, number);
                    self.publish(attempt, number, made);
                }
                Task::GiveBack(free) => self.give_back(&free),
            }
        }
    }

    /// Waits until there is a next segment, or the preparer says why there is none.
    pub(super) fn wait_for_segment(self: &Arc<Self>) -> Result<()> {
        let mut core = self.lock();
        let attempts = core.segments.preparer.attempts;
        while core.segments.successor.is_none() {
            self.check_waitable(&core)?;
            match core.segments.preparer.refusal_after(attempts) {
                Some(error) => return Err(error.clone()),
                None => self.want_segment(&mut core),
            }
            let seen = self.prepared.read();
            drop(core);
            self.storage.wait(&self.prepared, seen, None);
            core = self.lock();
        }
        Ok(())
    }

    fn next_task(&self, core: &mut Core<S>) -> Task<S> {
        if self.state.load(Ordering::SeqCst) >= STATE_LATCHED {
            return Task::End;
        }
        let segments = &mut core.segments;
        // An empty segment has no successor: only the immediate successor has a header.
        let missing = segments.successor.is_none() && segments.begun;
        if missing {
            // After a refusal, only a free slot or somebody in need is a reason to try again. Nothing is
            // given back meanwhile: the first slot that is freed is the one needed. A slot may be full of
            // holes, or its own header refused: a disk without room is not asked again at once.
            let refused = segments.preparer.failed.is_some() && !segments.preparer.urgent;
            if refused {
                let again_at = segments.preparer.refused_at.saturating_add(REFUSED_PAUSE);
                let rest = again_at.saturating_sub(self.storage.now());
                if segments.free.is_empty() || !rest.is_zero() {
                    return Task::Sleep((!segments.free.is_empty()).then_some(rest));
                }
            }
            let free = take_usable(&mut segments.free);
            if refused && free.is_none() {
                return Task::Sleep(Some(REFUSED_PAUSE)); // all of them pinned
            }
            let number = segments.next_slot_number;
            if free.is_none() {
                segments.next_slot_number = number.saturating_add(1);
            }
            let sequence = segments.current().sequence + 1;
            segments.preparer.attempts += 1;
            let attempt = segments.preparer.attempts;
            return Task::Prepare { attempt, sequence, free, number };
        }
        let spare = to_u64(segments.free.len()) * self.identity.segment_bytes;
        if spare <= self.settings.spare_bytes_max {
            return Task::Sleep(None);
        }
        match take_usable(&mut segments.free) {
            Some(free) => Task::GiveBack(free),
            // Pinned. Nobody says when a reader lets go.
            None => Task::Sleep(Some(PINNED_PAUSE)),
        }
    }

    fn prepare(
        self: &Arc<Self>,
        sequence: u64,
        free: Option<FreeSlot<S::File>>,
        number: u32,
    ) -> Result<Made<S>, Failed<S>> {
        if SegmentHeader::new(&self.identity, sequence, Origin::Zeroed).is_none() {
            return Err(Error::new(ErrorKind::NoSpace, "the end of the 64-bit log").into());
        }
        let recycled = free.is_some();
        let FreeSlot { slot, origin, .. } = match free {
            Some(free) => self.reuse(free)?,
            None => self.create_slot(number)?,
        };
        let header = self.flush_beside("writing a segment header", &slot, || {
            slot.write_header(self.block, &self.identity, sequence, origin)
        });
        match header {
            Ok(header) => Ok(Made { segment: Segment::new(&header, slot), recycled }),
            // The header may be there all the same. Used first the next time, so that no other
            // slot is given the same header.
            Err(error) => Err(Failed { error, slot: Some(FreeSlot { slot, origin, full: true }) }),
        }
    }

    /// Makes a call that flushes the device, which counts among those that hold frames: entered before it
    /// begins, and out again in the critical section that says how it ended. A failure latches there: were
    /// anything done before, frames would be acknowledged meanwhile that it may have taken along.
    fn flush_beside<T>(
        self: &Arc<Self>,
        what: &str,
        slot: &Slot<S::File>,
        call: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        let mut core = self.lock();
        if self.state.load(Ordering::SeqCst) == STATE_LATCHED {
            // Nothing more is asked of a device that has failed. A log that was closed finishes its slot.
            return Err(self.failure(&core));
        }
        let flush = core.flushes.enter(Flusher::Beside);
        drop(core);
        let outcome = call().map_err(|error| self.slot_error(what, slot, error));
        let mut core = self.lock();
        match &outcome {
            Err(error) if !is_shortage(error) => {
                self.latch(core, error.clone(), Teller::Committer);
                return outcome;
            }
            Err(_) if !planted!("shortage-counts-as-success") => core.refuse_flush(flush),
            _ => {}
        }
        core.flushes.leave(flush, Flusher::Beside);
        if self.state.load(Ordering::SeqCst) >= STATE_LATCHED {
            // Something else has failed meanwhile, or the log was dropped: who waited has been told so.
            return outcome;
        }
        if core.again > 0 || core.durable_front().is_some() {
            self.acknowledge_beside(core);
        }
        outcome
    }

    /// Acknowledges what was held by a flush that has ended, and has others tell those who are not asleep:
    /// this thread runs nothing of the user's, for that may wait for a segment.
    fn acknowledge_beside(self: &Arc<Self>, mut core: Locked<'_, S>) {
        // Frames to be written once more have nobody yet who writes them.
        self.kick(&mut core);
        if core.durable_front().is_none() {
            return;
        }
        let mut hand_on = self.acknowledge(&mut core, self.storage.now());
        core.untold.extend(hand_on.hooks.drain(..).map(|hook| (hook, Ok(()))));
        self.kick(&mut core);
        drop(core);
        let (_, memory) = self.hand_on(Some(hand_on));
        let is_own = memory.iter().any(|buffer| buffer.pool_index().is_none());
        let is_any = !memory.is_empty();
        drop(memory);
        // Places in the ring are free, if no memory.
        let mut core = self.lock();
        if is_any {
            self.take_back(&mut core, is_own);
        } else {
            self.offer_room(&mut core);
        }
    }

    /// A slot that held an older segment, or was not filled to its end. One that somebody else links
    /// to, as a copy, is replaced: what they keep must not change under them.
    fn reuse(self: &Arc<Self>, free: FreeSlot<S::File>) -> Result<FreeSlot<S::File>, Failed<S>> {
        let FreeSlot { slot, origin, full } = free;
        if slot.file.links().map_or(true, |links| links != 1) && !planted!("links-ignored") {
            self.storage.remove(&slot.name).map_err(|error| {
                self.slot_error("replacing a slot that has a second link", &slot, error)
            })?;
            return self.create_slot(slot.number);
        }
        if full {
            return Ok(FreeSlot { slot, origin, full });
        }
        match self.fill(&slot) {
            Ok(()) => Ok(FreeSlot { slot, origin: Origin::Zeroed, full: true }),
            Err(error) => Err(Failed { error, slot: Some(FreeSlot { slot, origin, full }) }),
        }
    }

    fn create_slot(self: &Arc<Self>, number: u32) -> Result<FreeSlot<S::File>, Failed<S>> {
        self.check_cap()?;
        let name = slots::slot_name(number);
        let slot = Slot::create(&*self.storage, number).map_err(|error| {
            Error::from_io("creating a slot", error).with_path(self.storage.path().join(&name))
        })?;
        let made = self.fill(&slot).and_then(|()| {
            if planted!("name-not-synced") {
                return Ok(());
            }
            self.flush_beside("syncing the directory", &slot, || self.storage.sync_dir())
        });
        if let Err(error) = made {
            // What was taken is given back: a full disk is somebody else's problem too, and a log that was
            // closed meanwhile leaves nothing half made. If that fails as well, or is undone by a crash, the
            // slot is found free by the next open. After a failure nothing is touched any more.
            if is_shortage(&error) || error.kind() == ErrorKind::Closed {
                drop(self.storage.remove(&name));
            }
            return Err(error.into());
        }
        Ok(FreeSlot { slot: Arc::new(slot), origin: Origin::Zeroed, full: true })
    }

    /// Writes zeros over the whole slot, gently, and makes them durable. Where they go through the page
    /// cache each step is synced by itself, so that no sync has much to write: it holds frames meanwhile.
    fn fill(self: &Arc<Self>, slot: &Slot<S::File>) -> Result<()> {
        let bytes = self.identity.segment_bytes;
        let sync = || self.flush_beside("syncing a slot of zeros", slot, || slot.file.sync());
        let is_cached = !self.storage.profile().direct;
        let mut synced = Ok(());
        let mut pace = |done: u64| {
            if is_cached && done < bytes {
                synced = sync();
            }
            if synced.is_ok() { self.pace(done) } else { ControlFlow::Break(()) }
        };
        let filled = slot.fill_with_zeros(self.block, bytes, &mut pace);
        synced?;
        let filled = filled.map_err(|error| {
            let error = self.slot_error("writing zeros", slot, error);
            if !is_shortage(&error) {
                self.latch(self.lock(), error.clone(), Teller::Committer);
            }
            error
        })?;
        match filled {
            ControlFlow::Break(()) => Err(Error::new(ErrorKind::Closed, "the log was closed")),
            ControlFlow::Continue(()) if planted!("zeros-not-synced") => Ok(()),
            ControlFlow::Continue(()) => sync(),
        }
    }

    /// Zeroing keeps ahead of twice the fill of the current segment, and else takes its time.
    fn pace(&self, done: u64) -> ControlFlow<()> {
        let core = self.core.lock();
        if self.state.load(Ordering::SeqCst) >= STATE_LATCHED {
            return ControlFlow::Break(());
        }
        let base = core.segments.current().base;
        let filled = core.tail.distance_from(base).unwrap_or(0);
        let gentle = !core.segments.preparer.urgent && done > filled.saturating_mul(2);
        let seen = self.preparer.read();
        drop(core);
        if gentle {
            self.storage.wait(&self.preparer, seen, Some(GENTLE_PAUSE));
        }
        ControlFlow::Continue(())
    }

    fn check_cap(&self) -> Result<()> {
        let core = self.core.lock();
        let count = core.segments.live.len()
            + core.segments.free.len()
            + usize::from(core.segments.successor.is_some());
        let bytes = (to_u64(count) + 1).saturating_mul(self.identity.segment_bytes);
        if bytes <= self.settings.log_bytes_max {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NoSpace, "the log's own cap is reached: a checkpoint frees room")
            .with_path(self.storage.path())
            .with_expected_found(format!("at most {} bytes", self.settings.log_bytes_max), bytes))
    }

    /// Hands the prepared segment to the writer, or its failure to those who wait for it. No space is
    /// harmless, and so is any other shortage, for no append depends on the slot yet. Anything else
    /// latches.
    fn publish(self: &Arc<Self>, attempt: u64, number: u32, made: Result<Made<S>, Failed<S>>) {
        let mut core = self.lock();
        core.segments.preparer.urgent = false;
        match made {
            Ok(Made { segment, recycled }) => {
                core.segments.preparer.failed = None;
                core.segments.successor = Some(segment);
                if recycled {
                    core.stats.segments_recycled += 1;
                } else {
                    core.stats.segments_created += 1;
                }
                self.offer_room(&mut core);
            }
            Err(Failed { error, slot }) if is_in_the_way(&error) || is_shortage(&error) => {
                // A number whose slot was cleaned away is used again; one that is in somebody's way is not.
                let is_free_again = slot.is_none() && !is_in_the_way(&error);
                if is_free_again && core.segments.next_slot_number == number.saturating_add(1) {
                    core.segments.next_slot_number = number;
                }
                core.segments.free.splice(0..0, slot);
                core.segments.preparer.refuse(attempt, error, self.storage.now());
                self.tell_of_refusal(&mut core);
            }
            Err(Failed { error, slot }) => {
                // An engine that is taken apart has it in its list.
                core.segments.free.splice(0..0, slot);
                self.latch(core, error, Teller::Committer);
                return;
            }
        }
        self.prepared.bump();
        drop(core);
        self.storage.wake(&self.prepared, Wake::All);
    }

    /// A name that cannot be removed stays: the slot is found free by the next open.
    fn give_back(self: &Arc<Self>, free: &FreeSlot<S::File>) {
        // Not synced: a name that comes back after a crash is a slot below the start mark, free again.
        let name = slots::slot_name(free.slot.number);
        if self.storage.remove(&name).is_ok() {
            self.lock().stats.slots_removed += 1;
        }
    }

    fn slot_error(&self, what: &str, slot: &Slot<S::File>, error: io::Error) -> Error {
        Error::from_io(what, error).with_path(self.storage.path().join(&slot.name))
    }
}

/// Latches the log if the preparer's thread unwinds: nobody may wait for a segment for ever.
struct Unwinding<'a, S: Storage>(&'a Arc<Engine<S>>);

impl<S: Storage> Drop for Unwinding<'_, S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::new(ErrorKind::Io, "a panic while a segment was prepared");
            self.0.latch(self.0.lock(), error, Teller::Committer);
        }
    }
}

struct Made<S: Storage> {
    segment: Segment<S::File>,
    recycled: bool,
}

/// A preparation that failed, and the slot that it had, if that is to be used first the next time.
struct Failed<S: Storage> {
    error: Error,
    slot: Option<FreeSlot<S::File>>,
}

impl<S: Storage> From<Error> for Failed<S> {
    fn from(error: Error) -> Self {
        Self { error, slot: None }
    }
}

/// Whether `error` is a shortage: no record depends on the slot yet, so that it can be tried again.
/// Anything else comes from the device.
fn is_shortage(error: &Error) -> bool {
    error.is_shortage() && !planted!("full-disk-latches")
}

/// A free slot that no reader holds. Pinned ones stay in the list until they are let go.
fn take_usable<F: File>(free: &mut Vec<FreeSlot<F>>) -> Option<FreeSlot<F>> {
    let is_usable =
        |free: &FreeSlot<F>| Arc::strong_count(&free.slot) == 1 || planted!("pins-ignored");
    let index = free.iter().position(is_usable)?;
    Some(free.remove(index))
}

fn is_in_the_way(error: &Error) -> bool {
    source(error).is_some_and(|source| source.kind() == io::ErrorKind::AlreadyExists)
}

fn source(error: &Error) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}
