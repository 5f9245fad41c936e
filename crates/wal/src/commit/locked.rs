//! [`Locked`]: the engine's mutex, and what waits until it is free again.

use super::{Engine, state::Core, tell};
use crate::{
    io::{Storage, Wake},
    sync::{MutexGuard, Word},
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
/// do under the mutex leaves it in [`Core::after`], and it is done as soon as the mutex is free; tasks and
/// callbacks that are to be told in [`Core::untold`], for a committer.
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
    /// Wakes these threads, which wait for room.
    pub(super) woken: Vec<Arc<Word>>,
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
        // First, for it counts already, and others wait for it.
        if starts_committer {
            // A host may panic where it has no thread.
            tell::contain(|| drop(self.start_committer()));
        }
        if wakes_committer {
            self.storage.wake(&self.committer, Wake::One);
        }
        if wakes_preparer {
            self.storage.wake(&self.preparer, Wake::All);
        }
        for word in woken {
            self.storage.wake(&word, Wake::One);
        }
        drop((memory, LetGo(tasks)));
    }
}

/// Wakers that are dropped with it, which is the user's code.
pub(super) struct LetGo(Vec<Waker>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.drain(..).for_each(tell::let_go);
    }
}

impl<S: Storage> Locked<'_, S> {
    /// Gives the mutex up, with room in hand that is not filled. Nothing of the user's runs before that is given
    /// back, for it may wait for the frame: what is let go of is dropped with the answer.
    #[inline]
    pub(super) fn unlock(mut self) -> LetGo {
        LetGo(mem::take(&mut self.after.tasks))
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
        // Found by whichever thread, told by a committer: this one may have room in hand, or be one that others
        // wait for.
        if !self.core.untold.is_empty() {
            self.then.engine.kick(&mut self.core);
        }
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
