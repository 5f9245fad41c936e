//! Waiting for room: at a place in the queue, asleep or awaited; and the one buffer outside the pool.

use super::{
    Engine,
    locked::Locked,
    reserve::{FIRST_FRAME_OVERHEAD, Grant, Request, Short},
    state::Core,
};
use crate::{Error, ErrorKind, Result, io::Storage, sync::Word};
use aligned::Buffer;
use std::{sync::Arc, task::Waker, time::Duration};

/// How an append that finds no room goes on. One per call; remembers its place in the queue.
#[derive(Debug, Default)]
pub(crate) struct RoomWait {
    place: Option<u64>,
    /// How many attempts at a segment had been begun when this append first needed one.
    attempts: Option<u64>,
    /// Where a thread sleeps. `None` until it has to, and for a task.
    word: Option<Arc<Word>>,
    is_counted: bool,
    /// How often it has yielded to a thread that is on its way, rather than sleep behind it.
    yields: u32,
    /// Whether it is a task, which must not map or touch large memory where it is polled.
    is_task: bool,
}

/// The memory of a record that fits no pool buffer: there is one for the whole log, so that memory
/// stays bounded whatever is appended.
///
/// It stands here, and never with somebody who waits: a future that is not polled must not hold what others
/// need.
#[derive(Debug, Default)]
pub(super) enum Own {
    #[default]
    Free,
    /// The task at this place asked for so many bytes: a committer gives back what was there and too small, and
    /// allocates.
    Wanted { place: Option<u64>, bytes: usize, old: Option<Buffer> },
    /// Somebody allocates, outside the lock.
    Allocating,
    /// There for whoever can use it, until it is given up.
    Ready { buffer: Buffer, until: Duration },
    /// In a frame that is not written yet.
    InUse,
}

impl Own {
    /// Whether it is worth to look again, for a thread or a task that needs it.
    pub(super) fn is_to_be_had(&self, by_thread: bool) -> bool {
        match self {
            Self::Free | Self::Ready { .. } => true,
            // A thread allocates itself.
            Self::Wanted { .. } => by_thread,
            Self::Allocating | Self::InUse => false,
        }
    }
}

/// So often an append yields to threads that it must not pass, before it queues behind them.
const YIELDS_MAX: u32 = 16;

impl RoomWait {
    /// Of a task.
    pub(crate) fn of_task() -> Self {
        Self { is_task: true, ..Self::default() }
    }

    #[inline]
    pub(super) fn place(&self) -> Option<u64> {
        self.place
    }

    /// How many attempts at a segment had been begun when this append first needed one: now, if it does.
    pub(super) fn attempts_before(&mut self, now: u64) -> u64 {
        *self.attempts.get_or_insert(now)
    }

    /// Whether nobody waits.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.place.is_none()
    }
}

impl<S: Storage> Engine<S> {
    /// Reserves, and waits for room as long as that may help.
    #[inline]
    pub(super) fn reserve_waiting(
        self: &Arc<Self>,
        request: Request,
        wait: &mut RoomWait,
    ) -> Result<(Grant<'_>, Locked<'_, S>)> {
        loop {
            let mut core = self.lock();
            match self.reserve(&mut core, request, wait) {
                Ok(Ok(grant)) => {
                    self.leave(&mut core, wait);
                    return Ok((grant, core));
                }
                Ok(Err(short)) => self.wait_for_room(core, request, wait, short)?,
                Err(error) => {
                    self.leave(&mut core, wait);
                    return Err(error);
                }
            }
        }
    }

    /// Sees to what is short, or sleeps until somebody has.
    #[cold]
    fn wait_for_room<'a>(
        self: &'a Arc<Self>,
        mut core: Locked<'a, S>,
        request: Request,
        wait: &mut RoomWait,
        short: Short,
    ) -> Result<()> {
        if matches!(short, Short::Allocation | Short::Committer) {
            return self.provide(core, request, wait, short);
        }
        // Whoever may not be passed any more was woken: it takes its room in the time that falling asleep takes,
        // and nobody has to be woken again.
        if wait.yields < YIELDS_MAX && core.room.is_due_thread_coming_before(wait.place) {
            wait.yields += 1;
            let own = u32::try_from(core.room.len()).unwrap_or(u32::MAX);
            drop(core);
            self.yielding.begin(&*self.storage, own).yield_now();
            return Ok(());
        }
        let Some(word) = wait.word.clone() else {
            // Made outside the lock, and then it looks again. Whether there is a segment may be known by then:
            // there was none.
            if short == Short::Segment {
                Self::count_wait(&mut core, wait, short);
            }
            drop(core);
            wait.word = Some(Arc::default());
            return Ok(());
        };
        Self::count_wait(&mut core, wait, short);
        let seen = word.read();
        wait.place = Some(core.room.thread_waits(wait.place, &word, request, short));
        // What it was woken for others may use.
        self.offer_room(&mut core);
        // What is in its way is written by the committers. Writing it here would have one thread
        // fewer produce while the others drain: 1.3 to 1.7 times less bandwidth, measured.
        self.kick_for(&mut core, short);
        drop(core);
        self.storage.wait(&word, seen, None);
        Ok(())
    }

    /// Gets what the caller can get itself, outside the lock.
    pub(super) fn provide<'a>(
        self: &'a Arc<Self>,
        mut core: Locked<'a, S>,
        request: Request,
        wait: &mut RoomWait,
        short: Short,
    ) -> Result<()> {
        let provided = if short == Short::Committer {
            core.committers.running += 1;
            drop(core);
            self.start_committer()
        } else {
            drop(core);
            self.allocate_own(request.bytes)
        };
        if provided.is_err() {
            self.leave(&mut self.lock(), wait);
        }
        provided
    }

    /// Sees to it that somebody makes the room that is short.
    pub(super) fn kick_for(self: &Arc<Self>, core: &mut Core<S>, short: Short) {
        if short == Short::Segment {
            self.want_segment(core);
        }
        self.kick(core);
    }

    fn count_wait(core: &mut Core<S>, wait: &mut RoomWait, short: Short) {
        if !std::mem::replace(&mut wait.is_counted, true) {
            match short {
                Short::Segment => core.stats.segment_waits += 1,
                _ => core.stats.memory_waits += 1,
            }
        }
    }

    /// A task waits for room: `task` is woken when it may be there.
    pub(super) fn join_as_task(
        self: &Arc<Self>,
        core: &mut Core<S>,
        request: Request,
        wait: &mut RoomWait,
        short: Short,
        task: Waker,
    ) {
        Self::count_wait(core, wait, short);
        let (place, before) = core.room.task_waits(wait.place, task, request, short);
        wait.place = Some(place);
        core.after.tasks.extend(before);
        if let Own::Wanted { place: asker @ None, .. } = &mut core.own {
            *asker = Some(place);
        }
        self.offer_room(core);
        self.kick_for(core, short);
    }

    /// Ends an append's wait: leaves the queue, if it was in it, and lets the next one look.
    #[inline]
    pub(super) fn leave(&self, core: &mut Core<S>, wait: &mut RoomWait) {
        if !wait.is_over() {
            self.leave_cold(core, wait);
        }
    }

    #[cold]
    fn leave_cold(&self, core: &mut Core<S>, wait: &mut RoomWait) {
        let task = wait.place.take().and_then(|place| core.room.leave(place));
        core.after.tasks.extend(task);
        self.offer_room(core);
    }

    /// Wakes who can go on, of those who wait for room.
    #[inline]
    pub(super) fn offer_room(&self, core: &mut Core<S>) {
        if !core.room.is_empty() {
            self.wake_next(core);
        }
    }

    #[cold]
    fn wake_next(&self, core: &mut Core<S>) {
        if planted!("room-not-offered") {
            return;
        }
        let mut room = std::mem::take(&mut core.room);
        let mut woken = Vec::new();
        room.wake_next(|waiter| self.is_worth_a_look(core, waiter), &mut woken);
        core.room = room;
        core.stats.room_wakes += u64::try_from(woken.len()).unwrap_or(0);
        core.wake(woken);
        self.arm_room(core);
    }

    /// Has a committer wake the next task that waits for room, after a while: the one that was woken may
    /// never be polled.
    fn arm_room(&self, core: &mut Core<S>) {
        if !core.room.has_task() {
            core.room.next_task_at = None;
        } else if core.room.next_task_at.is_none() {
            let due = self.storage.now().saturating_add(self.patience());
            core.room.next_task_at = Some(due);
            self.have_room_looked_after(core, due);
        }
    }

    /// How long what was offered to a task waits for it.
    fn patience(&self) -> Duration {
        self.settings.linger.max(Duration::from_micros(100))
    }

    /// Has all look who wait for a segment: there is a reason why there is none.
    pub(super) fn tell_of_refusal(&self, core: &mut Core<S>) {
        let mut woken = Vec::new();
        core.room.wake_all(|waiter| waiter.short == Short::Segment, &mut woken);
        core.wake(woken);
        self.offer_room(core);
    }

    /// Memory for a record that fits no pool buffer: its frame is its own.
    pub(super) fn take_own(
        &self,
        core: &mut Core<S>,
        request: Request,
        wait: &RoomWait,
    ) -> Result<Buffer, Short> {
        let bytes = FIRST_FRAME_OVERHEAD + request.bytes;
        let mut old = None;
        match std::mem::take(&mut core.own) {
            Own::Ready { buffer, .. } if buffer.len() >= bytes => {
                core.own = Own::InUse;
                return Ok(buffer);
            }
            // Not given back where a task is polled.
            Own::Ready { buffer, .. } if wait.is_task => old = Some(buffer),
            Own::Ready { buffer, .. } => core.after.memory.push(buffer),
            Own::Wanted { old: before, .. } if wait.is_task => old = before,
            Own::Wanted { old, .. } => core.after.memory.extend(old),
            Own::Free => {}
            busy @ (Own::Allocating | Own::InUse) => {
                core.own = busy;
                return Err(Short::Memory);
            }
        }
        if wait.is_task {
            core.own = Own::Wanted { place: wait.place, bytes: request.bytes, old };
            return Err(Short::Memory);
        }
        core.own = Own::Allocating;
        Err(Short::Allocation)
    }

    /// Allocates it, outside the lock, and leaves it for whoever can use it.
    fn allocate_own(self: &Arc<Self>, bytes: usize) -> Result<()> {
        let made = Buffer::zeroed(self.block, FIRST_FRAME_OVERHEAD + bytes).map_err(|error| {
            Error::new(ErrorKind::Io, format!("memory for a large record: {error}"))
        });
        let until = self.storage.now().saturating_add(self.patience());
        let mut core = self.lock();
        match made {
            Ok(buffer) => {
                core.own = Own::Ready { buffer, until };
                self.have_room_looked_after(&mut core, until);
                Ok(())
            }
            Err(error) => {
                core.own = Own::Free;
                // Whoever came meanwhile waits for it.
                self.offer_room(&mut core);
                Err(error)
            }
        }
    }

    /// Of a committer: allocates for the task that asked, touches the memory, so that the task need not wait
    /// for the kernel where it is polled, and wakes it.
    pub(super) fn allocate_for_task<'a>(self: &'a Arc<Self>, mut core: Locked<'a, S>) {
        let (place, bytes, old) = match std::mem::replace(&mut core.own, Own::Allocating) {
            Own::Wanted { place, bytes, old } => (place, bytes, old),
            other => {
                core.own = other;
                return;
            }
        };
        drop(core);
        drop(old);
        let made = self.allocate_touched(bytes);
        let until = self.storage.now().saturating_add(self.patience());
        let mut core = self.lock();
        let woken = match made {
            Ok(buffer) => {
                core.own = Own::Ready { buffer, until };
                place.and_then(|place| core.room.wake(place))
            }
            Err(error) => {
                core.own = Own::Free;
                place.and_then(|place| core.room.refuse(place, error))
            }
        };
        core.wake(woken);
        self.offer_room(&mut core);
    }

    fn allocate_touched(&self, bytes: usize) -> Result<Buffer> {
        let made = Buffer::zeroed(self.block, FIRST_FRAME_OVERHEAD + bytes);
        let mut buffer = made.map_err(|error| {
            Error::new(ErrorKind::Io, format!("memory for a large record: {error}"))
        })?;
        buffer.as_mut_slice().fill(0);
        Ok(buffer)
    }

    /// When somebody has to look after those who wait for room, if nothing happens before.
    pub(super) fn room_due(&self, core: &Core<S>) -> Option<Duration> {
        let given_up = match &core.own {
            Own::Ready { until, .. } => Some(*until),
            _ => None,
        };
        [core.room.next_task_at, given_up].into_iter().flatten().min()
    }

    /// Of a committer: what was offered to somebody who did not come is given up, or offered to the next.
    pub(super) fn look_after_room(&self, core: &mut Core<S>, now: Duration) {
        if let Own::Ready { until, .. } = &core.own
            && *until <= now
            && let Own::Ready { buffer, .. } = std::mem::take(&mut core.own)
        {
            core.after.memory.push(buffer);
        }
        if core.room.next_task_at.is_some_and(|at| at <= now) {
            core.room.next_task_at = None;
            core.room.give_up_on_tasks();
        }
        self.offer_room(core);
    }
}
