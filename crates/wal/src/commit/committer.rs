//! The committer threads: they write what nobody blocks for.

use super::{COMMITS, Engine, STATE_LATCHED, room::Own, state::Core, tell};
use crate::{
    Result,
    format::{FRAME_HEADER_BYTES, Purpose},
    io::Storage,
};
use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// What became of an empty frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// It is sealed, and the next to be written.
    Installed,
    /// All buffers are taken: one comes back in a moment.
    NoMemory,
    /// The segment is full and the next one not prepared.
    NoSegment,
}

/// What a committer does next.
enum Next {
    /// Write a frame: the sealed one at the front, or one that has to be written once more.
    Write(u64),
    /// Seal and write the open frame.
    Commit(u64),
    /// Write an empty frame that vouches for the last one.
    Confirm,
    /// Tell those whom another thread found.
    Tell,
    /// Allocate for a task.
    Allocate,
    /// See whether what was offered to a task was taken.
    LookAfterRoom,
    /// Sleep until woken, or for this long.
    Sleep(Option<Duration>),
}

impl<S: Storage> Engine<S> {
    /// Sees to it that a committer is awake if there is something for it to do.
    pub(super) fn kick(&self, core: &mut Core<S>) {
        let wants_open = || self.sealable(core).is_some() && core.room.needs_room();
        let is_asked = !core.untold.is_empty() || matches!(core.own, Own::Wanted { .. });
        if self.writable(core).is_some() || wants_open() {
            if core.committers.idle() > 0 {
                self.wake_committer(core);
            } else if core.committers.running < self.depth {
                self.add_committer(core);
            }
        }
        if is_asked {
            self.have_one_awake(core);
        }
    }

    /// Sees to it that a committer is awake that neither writes nor is away in a callback: what it is to do
    /// waits for no disk.
    fn have_one_awake(&self, core: &mut Core<S>) {
        if core.committers.is_any_awake() {
            return;
        }
        if core.committers.idle() > 0 {
            self.wake_committer(core);
        } else {
            self.add_committer(core);
        }
    }

    /// Sees to it that those who wait for room are looked after at `due` at the latest, whatever the disk does.
    pub(super) fn have_room_looked_after(&self, core: &mut Core<S>, due: Duration) {
        if !core.committers.looks_by(due) {
            self.have_one_awake(core);
        }
    }

    fn wake_committer(&self, core: &mut Core<S>) {
        self.committer.bump();
        core.after.wakes_committer = true;
    }

    /// Has one more started as soon as the lock is free. Without a thread the work waits for those there
    /// are.
    fn add_committer(&self, core: &mut Core<S>) {
        if !core.after.starts_committer {
            core.after.starts_committer = true;
            core.committers.running += 1;
        }
    }

    /// Sees to it that a committer looks at its clock in time for `frame`, which was opened and
    /// for which perhaps nobody will wait. While frames come, committers look once in a `linger`
    /// by themselves, so that this is no system call a frame.
    pub(super) fn arm(&self, core: &mut Core<S>, frame: u64) {
        let due = core.frame(frame).opened_at.saturating_add(self.settings.linger);
        self.have_looked_by(core, due);
    }

    /// Sees to it that a committer looks at `due` at the latest. One that is awake does, once it has done
    /// what it does; one that is away in a callback has left a word for others.
    pub(super) fn have_looked_by(&self, core: &mut Core<S>, due: Duration) {
        if core.committers.looks_by(due) {
            return;
        }
        if core.committers.idle() > 0 {
            self.wake_committer(core);
        } else if core.committers.running == 0 {
            self.add_committer(core);
        }
    }

    /// Starts a committer, which counts as running already.
    pub(super) fn start_committer(self: &Arc<Self>) -> Result<()> {
        let uncounted = Uncounted(self);
        self.spawn("wal-commit", Self::run_committer)?;
        mem::forget(uncounted);
        Ok(())
    }

    fn run_committer(self: &Arc<Self>) {
        COMMITS.set(true);
        let mut core = self.lock();
        while self.state.load(Ordering::SeqCst) < STATE_LATCHED {
            match self.next(&core) {
                Next::Write(frame) => {
                    self.write(core, frame);
                    core = self.lock();
                }
                Next::Commit(frame) => {
                    self.commit(core, frame);
                    core = self.lock();
                }
                Next::Confirm => match self.install_empty(&mut core, Purpose::Confirmation) {
                    Empty::Installed => {}
                    Empty::NoMemory => core.last_commit = self.storage.now(),
                    Empty::NoSegment => core.unconfirmed = false,
                },
                Next::Tell => {
                    let untold = mem::take(&mut core.untold);
                    drop(core);
                    self.run_hooks(untold);
                    core = self.lock();
                }
                Next::Allocate => {
                    self.allocate_for_task(core);
                    core = self.lock();
                }
                Next::LookAfterRoom => {
                    self.look_after_room(&mut core, self.storage.now());
                    drop(core);
                    core = self.lock();
                }
                Next::Sleep(time) => {
                    let wakes_at = time.map(|time| self.storage.now().saturating_add(time));
                    let asleep = core.committers.sleeps(wakes_at);
                    let seen = self.committer.read();
                    drop(core);
                    self.storage.wait(&self.committer, seen, time);
                    core = self.lock();
                    core.committers.woke(asleep);
                }
            }
        }
        core.committers.running -= 1;
        let untold = mem::take(&mut core.untold);
        drop(core);
        tell::tell(untold);
    }

    fn next(&self, core: &Core<S>) -> Next {
        if !core.untold.is_empty() {
            return Next::Tell;
        }
        if let Some(frame) = self.writable(core) {
            return Next::Write(frame);
        }
        if matches!(core.own, Own::Wanted { .. }) {
            return Next::Allocate;
        }
        let now = self.storage.now();
        let room = self.room_due(core).map(|at| at.saturating_sub(now));
        if room.is_some_and(|rest| rest.is_zero()) {
            return Next::LookAfterRoom;
        }
        match (self.next_of_frames(core, now), room) {
            (Next::Sleep(time), Some(room)) => {
                Next::Sleep(Some(time.map_or(room, |time| time.min(room))))
            }
            (next, _) => next,
        }
    }

    fn next_of_frames(&self, core: &Core<S>, now: Duration) -> Next {
        if let Some(frame) = self.sealable(core) {
            let meta = core.frame(frame);
            let age = now.saturating_sub(meta.opened_at);
            let due = self.settings.linger.saturating_sub(age);
            // Who sleeps in `wait` commits it alone; hooks, room and time have nobody else.
            let wanted = !meta.hooks.is_empty() || core.room.needs_room() || due.is_zero();
            if wanted {
                return Next::Commit(frame);
            }
            return Next::Sleep(Some(due));
        }
        let idle = now.saturating_sub(core.last_commit);
        let soon = self.settings.linger.max(Duration::from_micros(100));
        let is_all_acknowledged = core.first == core.next
            || core.unwritten == core.next && planted!("confirmed-while-held");
        if core.open || !is_all_acknowledged {
            // Whoever writes, or holds what was written, hands on.
            return Next::Sleep(Some(soon));
        }
        let confirmation = self.settings.confirm_after.saturating_sub(idle);
        match (core.unconfirmed, idle < self.settings.linger) {
            (true, _) if confirmation.is_zero() => Next::Confirm,
            // While frames come, look again soon, so that the next one need not wake anybody.
            (true, true) => Next::Sleep(Some(soon.min(confirmation))),
            (false, true) => Next::Sleep(Some(soon)),
            (true, false) => Next::Sleep(Some(confirmation)),
            (false, false) => Next::Sleep(None),
        }
    }

    /// Seals an empty frame at the tail, if there is room without touching the reserve.
    pub(super) fn install_empty(&self, core: &mut Core<S>, purpose: Purpose) -> Empty {
        let free_place = core.next - core.first < super::reserve::to_u64(core.frames.len());
        // Memory first: to move on to the next segment and then not write there would leave an empty
        // segment, which has no successor.
        let Some(buffer) = free_place.then(|| self.pool.take()).flatten() else {
            return Empty::NoMemory;
        };
        if core.open || !self.fits_empty(core) {
            return Empty::NoSegment;
        }
        let restated = self.restated_bytes(core);
        let frame = self.install(core, buffer, purpose);
        self.restate(core, frame, restated);
        self.seal(core);
        Empty::Installed
    }

    /// Whether an empty frame fits at the tail, moving on to a prepared segment if need be.
    fn fits_empty(&self, core: &mut Core<S>) -> bool {
        if self.fits_user(core, FRAME_HEADER_BYTES + self.restated_bytes(core)) {
            return true;
        }
        if core.segments.successor.is_none() {
            return false;
        }
        self.rotate(core);
        self.fits_user(core, FRAME_HEADER_BYTES + self.restated_bytes(core))
    }
}

/// A committer that counts as running and is not started yet: it does not count if it cannot be.
struct Uncounted<'a, S: Storage>(&'a Arc<Engine<S>>);

impl<S: Storage> Drop for Uncounted<'_, S> {
    /// Where there is none at all now, nobody writes, and nobody tells: whoever waits for room looks again, to hear
    /// that there is no thread, and those who are not asleep are told here.
    fn drop(&mut self) {
        let mut core = self.0.lock();
        core.committers.running -= 1;
        if core.committers.running > 0 {
            return;
        }
        let mut woken = Vec::new();
        core.room.wake_all(|_| true, &mut woken);
        core.wake(woken);
        let untold = mem::take(&mut core.untold);
        drop(core);
        tell::tell(untold);
    }
}
