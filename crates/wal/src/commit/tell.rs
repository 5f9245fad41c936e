//! Telling those who are not asleep: tasks and callbacks, which are the user's and not ours.

use super::{
    COMMITS, Engine,
    state::{Core, Hook, Told},
};
use crate::{Error, io::Storage};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
    time::Duration,
};

impl<S: Storage> Engine<S> {
    /// Tells those who are not asleep: last, outside every lock, and with nothing in hand, for a
    /// callback may append, wait, or take its time. A committer counts as away meanwhile, so that
    /// another is started if there is something to write. Once: a callback that waits may write a frame
    /// itself, and call back in here.
    pub(super) fn run_hooks(self: &Arc<Self>, told: Vec<Told>) {
        if told.is_empty() {
            return;
        }
        let is_committer = self.is_served_by_caller() && COMMITS.replace(false);
        if is_committer {
            let mut core = self.lock();
            core.committers.running -= 1;
            // Somebody has to see to what is not written meanwhile: to the open frame's time, to those
            // who await it, to a sealed one that may be written only when the one before is done, to
            // the last one that nothing vouches for, and to who waits for room. One that sleeps may
            // sleep for longer than that.
            if let Some(due) = self.next_due(&core) {
                self.have_looked_by(&mut core, due);
            }
            self.kick(&mut core);
        }
        tell(told);
        if is_committer {
            self.lock().committers.running += 1;
            COMMITS.set(true);
        }
    }

    /// When a committer has to look, if nobody wakes it before.
    fn next_due(&self, core: &Core<S>) -> Option<Duration> {
        let after = |is_due: bool, time| is_due.then(|| self.storage.now().saturating_add(time));
        let written = after(core.unwritten < core.next, self.settings.linger);
        let confirmed = after(core.unconfirmed, self.settings.confirm_after);
        [written, confirmed, self.room_due(core)].into_iter().flatten().min()
    }
}

/// Tells those who are not asleep: all tasks first, for a callback may take its time, or wait for what
/// one of them does.
pub(super) fn tell(mut told: Vec<Told>) {
    let is_task = |told: &mut Told| matches!(told.0, Hook::Task(_));
    told.extract_if(.., is_task).for_each(|(task, outcome)| run(task, outcome));
    told.into_iter().for_each(|(callback, outcome)| run(callback, outcome));
}

/// Tells one that is not asleep.
pub(super) fn run(hook: Hook, outcome: Result<(), Error>) {
    match hook {
        Hook::Task(task) => wake(task),
        Hook::Callback(callback) => contain(|| callback(outcome)),
    }
}

pub(super) fn wake(task: Waker) {
    contain(|| task.wake());
}

/// Lets go of a waker outside every lock: it may be the last that holds a task, whose futures and handles
/// lock when they are dropped.
pub(super) fn let_go(task: Waker) {
    contain(|| drop(task));
}

/// Runs what is not ours. Its panic is its own affair: others have to be told after it, and records to
/// be written that have their place already.
pub(super) fn contain(work: impl FnOnce()) {
    let told = catch_unwind(AssertUnwindSafe(work));
    drop(told);
}
