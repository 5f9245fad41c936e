//! [`Locked`]: the engine's mutex, and what waits until it is free again.

use super::{
    Engine,
    queue::Woken,
    state::{Core, Hook},
    tell,
};
use crate::{
    io::{Storage, Wake},
    sync::MutexGuard,
};
use aligned::Buffer;
use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::Arc,
    task::Waker,
};

/// The engine's state, locked.
///
/// Under the mutex nothing is done that takes time, or that is not ours: no system call, no thread is
/// started, no memory mapped or given back, no waker cloned, woken or dropped. Whoever finds such a thing to
/// do under the mutex leaves it in [`Core::after`], and it is done as soon as the mutex is free.
pub(super) struct Locked<'a, S: Storage> {
    core: MutexGuard<'a, Core<S>>,
    /// Behind the guard: fields are dropped in their order.
    then: Then<'a, S>,
}

/// What is done when the mutex is free.
#[derive(Default)]
pub(super) struct After {
    /// Wakes a committer that sleeps.
    pub(super) wakes_committer: bool,
    /// Starts a committer, which counts as running already.
    pub(super) starts_committer: bool,
    pub(super) wakes_preparer: bool,
    /// Wakes these, who wait for room.
    pub(super) woken: Vec<Woken>,
    /// Drops these.
    pub(super) tasks: Vec<Waker>,
    pub(super) memory: Vec<Buffer>,
}

impl After {
    #[inline]
    fn is_empty(&self) -> bool {
        !(self.wakes_committer | self.starts_committer | self.wakes_preparer)
            && self.woken.is_empty()
            && self.tasks.is_empty()
            && self.memory.is_empty()
    }
}

struct Then<'a, S: Storage> {
    engine: &'a Arc<Engine<S>>,
    after: Option<After>,
}

impl<S: Storage> Engine<S> {
    #[inline]
    pub(super) fn lock(self: &Arc<Self>) -> Locked<'_, S> {
        Locked { core: self.core.lock(), then: Then { engine: self, after: None } }
    }

    #[cold]
    fn act(self: &Arc<Self>, after: After) {
        let After { wakes_committer, starts_committer, wakes_preparer, woken, tasks, memory } =
            after;
        if wakes_committer {
            self.storage.wake(&self.committer, Wake::One);
        }
        if wakes_preparer {
            self.storage.wake(&self.preparer, Wake::All);
        }
        for waiter in woken {
            match waiter {
                Woken::Thread(word) => self.storage.wake(&word, Wake::One),
                Woken::Task(task) => tell::wake(task),
            }
        }
        if starts_committer {
            // A host may panic where it has no thread.
            tell::contain(|| drop(self.start_committer()));
        }
        tasks.into_iter().for_each(tell::let_go);
        drop(memory);
    }
}

impl<S: Storage> Locked<'_, S> {
    /// Leaves tasks that are to be woken to a committer: this thread runs nothing of the user's.
    pub(super) fn leave_tasks_to_a_committer(&mut self) {
        let woken = mem::take(&mut self.after.woken);
        for waiter in woken {
            match waiter {
                Woken::Task(task) => self.untold.push((Hook::Task(task), Ok(()))),
                thread @ Woken::Thread(_) => self.after.woken.push(thread),
            }
        }
        if !self.untold.is_empty() {
            let engine = self.then.engine;
            engine.kick(self);
        }
    }
}

impl<S: Storage> Deref for Locked<'_, S> {
    type Target = Core<S>;

    #[inline]
    fn deref(&self) -> &Core<S> {
        &self.core
    }
}

impl<S: Storage> DerefMut for Locked<'_, S> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Core<S> {
        &mut self.core
    }
}

impl<S: Storage> Drop for Locked<'_, S> {
    #[inline]
    fn drop(&mut self) {
        if !self.core.after.is_empty() {
            self.then.after = Some(mem::take(&mut self.core.after));
        }
    }
}

impl<S: Storage> Drop for Then<'_, S> {
    #[inline]
    fn drop(&mut self) {
        if let Some(after) = self.after.take() {
            self.engine.act(after);
        }
    }
}
