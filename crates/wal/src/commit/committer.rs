//! The committer threads: they write what nobody blocks for.

use super::{COMMITS, Engine, STATE_LATCHED, state::Core};
use crate::{
    Result,
    format::{FRAME_HEADER_BYTES, Purpose},
    io::{Storage, Wake},
};
use std::{
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
    /// Write the sealed frame at the front.
    Write(u64),
    /// Seal and write the open frame.
    Commit(u64),
    /// Write an empty frame that vouches for the last one.
    Confirm,
    /// Sleep until woken, or for this long.
    Sleep(Option<Duration>),
}

impl<S: Storage> Engine<S> {
    /// Sees to it that a committer is awake if there is a full frame to write.
    pub(super) fn kick(self: &Arc<Self>, core: &mut Core<S>) -> Result<()> {
        let wanted_open = self.sealable(core).is_some() && !core.room.is_empty();
        if self.writable_front(core).is_none() && !wanted_open {
            return Ok(());
        }
        if core.committers.idle > 0 {
            self.committer.bump();
            self.storage.wake(&self.committer, Wake::One);
        } else if core.committers.running < self.depth {
            self.start_committer(core)?;
        }
        Ok(())
    }

    /// Starts the first committer, before anything can depend on it.
    pub(super) fn have_committer(self: &Arc<Self>, core: &mut Core<S>) -> Result<()> {
        if core.committers.running == 0 { self.start_committer(core) } else { Ok(()) }
    }

    /// Sees to it that a committer looks at its clock in time for `frame`, which was opened and
    /// for which perhaps nobody will wait. While frames come, committers look once in a `linger`
    /// by themselves, so that this is no system call a frame.
    pub(super) fn arm(&self, core: &mut Core<S>, frame: u64) {
        let due = core.frame(frame).opened_at.saturating_add(self.settings.linger);
        if core.committers.wakes_at.is_none_or(|at| at > due) {
            core.committers.wakes_at = Some(due);
            self.committer.bump();
            self.storage.wake(&self.committer, Wake::One);
        }
    }

    fn start_committer(self: &Arc<Self>, core: &mut Core<S>) -> Result<()> {
        let started = self.spawn("wal-commit", Self::run_committer);
        if started.is_ok() {
            core.committers.running += 1;
        } else if core.committers.running == 0 {
            return started;
        }
        // One committer is enough for everything but depth.
        Ok(())
    }

    fn run_committer(self: &Arc<Self>) {
        COMMITS.set(true);
        let mut core = self.core.lock();
        while self.state.load(Ordering::SeqCst) < STATE_LATCHED {
            match self.next(&core) {
                Next::Write(front) => {
                    self.write(core, front);
                    core = self.core.lock();
                }
                Next::Commit(frame) => {
                    self.commit(core, frame);
                    core = self.core.lock();
                }
                Next::Confirm => match self.install_empty(&mut core, Purpose::Confirmation) {
                    Empty::Installed => {}
                    Empty::NoMemory => core.last_commit = self.storage.now(),
                    Empty::NoSegment => core.unconfirmed = false,
                },
                Next::Sleep(time) => {
                    core.committers.idle += 1;
                    core.committers.wakes_at =
                        time.map(|time| self.storage.now().saturating_add(time));
                    let seen = self.committer.read();
                    drop(core);
                    self.storage.wait(&self.committer, seen, time);
                    core = self.core.lock();
                    core.committers.idle -= 1;
                }
            }
        }
        core.committers.running -= 1;
    }

    fn next(&self, core: &Core<S>) -> Next {
        if let Some(front) = self.writable_front(core) {
            return Next::Write(front);
        }
        let now = self.storage.now();
        if let Some(frame) = self.sealable(core) {
            let meta = core.frame(frame);
            let age = now.saturating_sub(meta.opened_at);
            let due = self.settings.linger.saturating_sub(age);
            // Who sleeps in `wait` commits it alone; hooks, room and time have nobody else.
            let wanted = !meta.hooks.is_empty() || !core.room.is_empty() || due.is_zero();
            if wanted {
                return Next::Commit(frame);
            }
            return Next::Sleep(Some(due));
        }
        let idle = now.saturating_sub(core.last_commit);
        let soon = self.settings.linger.max(Duration::from_micros(100));
        if core.open || core.in_flight > 0 {
            // Whoever writes hands on.
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
