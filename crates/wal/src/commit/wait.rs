//! Waiting for durability: asleep, awaited, called back; and the cohort.

use super::{
    Engine, STATE_LATCHED,
    append::Place,
    locked::Locked,
    state::{Callback, Core, Hook},
};
use crate::{Error, ErrorKind, Lsn, Result, io::Storage};
use std::{
    sync::{Arc, atomic::Ordering},
    task::{Poll, Waker},
    time::Duration,
};

/// So often a waiter of a large cohort yields before it sleeps. Measured with 128 bytes on two processors, medians
/// of 7 rounds: 16 yields from a cohort of 12 on, 16 writers 1.36 times, 64: 1.31, 256: 1.40; 8 yields 1.28, 1.29
/// and 1.30 times.
const WAITER_YIELDS: u32 = 16;

/// Where an awaited ticket left its waker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registration(usize);

impl<S: Storage> Engine<S> {
    /// Whether `end` is durable. What every wait is for; everything else is only a place to sleep.
    #[inline]
    pub(crate) fn is_durable(&self, end: Lsn) -> bool {
        self.durable() >= end
    }

    /// Blocks until `place` is durable, for `timeout` at most.
    pub(crate) fn wait(self: &Arc<Self>, place: Place, timeout: Option<Duration>) -> Result<()> {
        if self.is_durable(place.end) {
            return Ok(());
        }
        self.check_caller()?;
        let deadline = timeout.map(|time| self.storage.now().saturating_add(time));
        let mut slept = false;
        loop {
            let mut core = self.lock();
            // Only a frame that is not durable still counts its sleepers.
            if slept && place.frame >= core.first {
                core.frame_mut(place.frame).sleepers -= 1;
                self.frames[core.index(place.frame)].joined.fetch_sub(1, Ordering::SeqCst);
            }
            if self.is_durable(place.end) {
                return Ok(());
            }
            self.check_waitable(&core)?;
            let remaining = deadline.map(|at| at.saturating_sub(self.storage.now()));
            if remaining == Some(Duration::ZERO) {
                self.pass_unused_baton(core);
                return Err(Error::new(ErrorKind::TimedOut, "not durable yet").with_lsn(place.lsn));
            }
            slept = false;
            if let Some(frame) = self.writable(&core) {
                self.write(core, frame);
            } else if self.sealable(&core) == Some(place.frame) {
                self.commit(core, place.frame);
            } else {
                self.sleep(core, place.frame, remaining);
                slept = true;
            }
            if self.is_durable(place.end) {
                return Ok(());
            }
        }
    }

    /// Sleeps until `frame` is durable, or somebody is wanted who writes. In a large cohort it yields first:
    /// whoever runs meanwhile may be the one who is waited for, and the frame's word tells without a system
    /// call of either side.
    fn sleep(&self, mut core: Locked<'_, S>, frame: u64, timeout: Option<Duration>) {
        let index = core.index(frame);
        core.frames[index].sleepers += 1;
        let slot = &self.frames[index];
        slot.joined.fetch_add(1, Ordering::SeqCst);
        let seen = slot.word.read();
        let wanted = core.cohort.wanted();
        drop(core);
        let mut timeout = timeout;
        if wanted >= self.yields_from {
            let mut yields = self.yielding.begin(&*self.storage, wanted);
            for _ in 0..WAITER_YIELDS {
                if slot.word.read() != seen {
                    return;
                }
                if !yields.yield_now() {
                    break;
                }
            }
            timeout = timeout.map(|time| time.saturating_sub(yields.time()));
        }
        let seen = if planted!("word-read-behind-the-yields") { slot.word.read() } else { seen };
        self.storage.wait(&slot.word, seen, timeout);
    }

    /// Seals the open frame, once its cohort has joined, and writes it.
    pub(super) fn commit<'a>(self: &'a Arc<Self>, mut core: Locked<'a, S>, frame: u64) {
        let wanted = core.cohort.wanted();
        if wanted > 1 && !planted!("cohort-left-behind") {
            core = self.let_join(core, frame, wanted);
        }
        if core.open_frame() == Some(frame) {
            self.seal(&mut core);
        }
        match self.writable(&core) {
            Some(front) => self.write(core, front),
            // Another thread wrote the frame meanwhile, and could not seal the next one while this one
            // stood here: whoever sleeps there has to hear of it.
            None => self.pass_unused_baton(core),
        }
    }

    /// Lets those join who were acknowledged by the commit before, within a bound. Yields rather
    /// than sleeps: they are runnable, and a wake-up costs as much as what is waited for.
    fn let_join<'a>(
        self: &'a Arc<Self>,
        mut core: Locked<'a, S>,
        frame: u64,
        wanted: u32,
    ) -> Locked<'a, S> {
        let slot = &self.frames[core.index(frame)];
        // The committer has joined too, without being asleep.
        let all_joined = || slot.joined.load(Ordering::SeqCst) + 1 >= wanted;
        if all_joined() {
            return core;
        }
        let bound = core.cohort.bound();
        core.sealing = true;
        drop(core);
        let mut yields = self.yielding.begin(&*self.storage, wanted);
        let (mut joined, mut may_yield) = (false, true);
        while !joined && may_yield && yields.time() < bound {
            may_yield = yields.yield_now();
            joined = all_joined();
        }
        let mut core = self.lock();
        core.sealing = false;
        core.stats.cohort_waits += 1;
        if joined {
            core.cohort.joined();
        } else {
            core.stats.cohort_expiries += 1;
            // Where strangers had the processor, that says nothing about the cohort.
            if may_yield {
                core.cohort.expired();
            }
        }
        core
    }

    /// A step of an awaited ticket.
    pub(crate) fn poll_durable(
        self: &Arc<Self>,
        place: Place,
        registration: &mut Option<Registration>,
        task: &Waker,
    ) -> Poll<Result<()>> {
        if self.is_durable(place.end) {
            return Poll::Ready(Ok(()));
        }
        if let Err(error) = self.check_caller() {
            return Poll::Ready(Err(error));
        }
        // Cloned, and dropped where it is not needed, outside the lock: it is not ours.
        let task = task.clone();
        let mut core = self.lock();
        if self.is_durable(place.end) {
            core.after.tasks.push(task);
            return Poll::Ready(Ok(()));
        }
        if let Err(error) = self.check_waitable(&core) {
            core.after.tasks.push(task);
            return Poll::Ready(Err(error));
        }
        let hooks = &mut core.frame_mut(place.frame).hooks;
        match registration.and_then(|Registration(index)| hooks.get_mut(index)) {
            Some(Hook::Task(waker)) => {
                let before = std::mem::replace(waker, task);
                core.after.tasks.push(before);
            }
            _ => {
                *registration = Some(Registration(hooks.len()));
                hooks.push(Hook::Task(task));
                self.joined_unasleep(core, place.frame);
            }
        }
        Poll::Pending
    }

    /// Calls `callback` once `place` is durable, or it is known that it will not be. At once if it
    /// is known already, else from the thread that finds out.
    pub(crate) fn call_back(self: &Arc<Self>, place: Place, callback: Callback) {
        let known = match self.check_caller() {
            Err(error) => Some(Err(error)),
            Ok(()) if self.is_durable(place.end) => Some(Ok(())),
            Ok(()) => None,
        };
        if let Some(outcome) = known {
            super::tell::run(Hook::Callback(callback), outcome);
            return;
        }
        let mut core = self.lock();
        let outcome = match self.check_waitable(&core) {
            _ if self.is_durable(place.end) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                core.frame_mut(place.frame).hooks.push(Hook::Callback(callback));
                self.joined_unasleep(core, place.frame);
                return;
            }
        };
        drop(core);
        super::tell::run(Hook::Callback(callback), outcome);
    }

    /// Somebody waits for `frame` without blocking: a committer thread has to write it, if nobody
    /// else is about to.
    fn joined_unasleep(self: &Arc<Self>, core: Locked<'_, S>, frame: u64) {
        self.frames[core.index(frame)].joined.fetch_add(1, Ordering::SeqCst);
        self.pass_unused_baton(core);
    }

    /// Waiting is in vain once nothing more is written.
    pub(super) fn check_waitable(&self, core: &Core<S>) -> Result<()> {
        match self.state.load(Ordering::SeqCst) {
            STATE_LATCHED => Err(self.failure(core)),
            super::STATE_CLOSED => Err(Error::new(
                ErrorKind::Closed,
                "the log was closed or dropped before the record was durable",
            )),
            _ => Ok(()),
        }
    }
}
