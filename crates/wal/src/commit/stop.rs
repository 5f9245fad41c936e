//! How everything stops: a latch, a handle that is dropped, an opening that was refused.

use super::{Engine, Remains, STATE_CLOSED, STATE_LATCHED, locked::Locked, tell};
use crate::{
    Error, ErrorKind, Result,
    io::{Storage, Wake},
};
use std::sync::{Arc, atomic::Ordering};

/// Who runs what is the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teller {
    /// The calling thread.
    Here,
    /// A committer: the calling thread is one that others wait for.
    Committer,
}

impl<S: Storage> Engine<S> {
    /// Ends what was started and gives back what it was started with: for an opening that was refused
    /// before anything was written. A log that has latched is left alone, and why is the error.
    pub(crate) fn take_apart(self: Arc<Self>) -> Result<Remains<S>> {
        let mut core = self.lock();
        self.check_running(&core)?;
        // A frame may be on the disk: another writer at the same place would write over it.
        let is_untouched = core.next == 0;
        let lease = core.lease.take();
        self.end(core, STATE_CLOSED, Teller::Here);
        self.join_threads();
        if !is_untouched {
            return Err(Error::new(
                ErrorKind::Closed,
                "a frame was begun, the log cannot be opened again",
            ));
        }
        // The threads have let go of it, and there never was a handle.
        let segments = Arc::into_inner(self).map(|engine| engine.core.into_inner().segments);
        let (Some(segments), Some(lock)) = (segments, lease.and_then(Arc::into_inner)) else {
            return Err(Error::new(ErrorKind::Closed, "the log cannot be taken apart"));
        };
        Ok(Remains {
            lock,
            segments: segments.live.into(),
            successor: segments.successor,
            free: segments.free,
            next_slot_number: segments.next_slot_number,
        })
    }

    /// The first failed write or sync: nothing is ever acknowledged again. Keeps the first.
    pub(super) fn latch(&self, mut core: Locked<'_, S>, error: Error, teller: Teller) {
        if self.state.load(Ordering::SeqCst) >= STATE_LATCHED {
            drop(core);
            return;
        }
        let source = std::io::Error::other(error.clone());
        let failure = Error::new(ErrorKind::Latched, "a write or a sync failed");
        let durable = self.durable();
        // What failed may have touched no record: the preparer's write, or an empty frame.
        let mut failure = if core.appended > durable || planted!("latch-names-no-record") {
            failure.with_range(durable, core.tail.max(core.appended))
        } else {
            failure.with_lsn(durable)
        };
        failure = failure.with_source(source);
        if let Some(path) = error.path() {
            failure = failure.with_path(path);
        }
        core.failure = Some(failure);
        self.end(core, STATE_LATCHED, teller);
    }

    /// Stops everything: threads end, waiters get their answer, the lock goes as soon as no I/O is
    /// under way. Writes nothing.
    pub(super) fn end(&self, mut core: Locked<'_, S>, state: u8, teller: Teller) {
        self.state.store(state, Ordering::SeqCst);
        let answer = match state {
            STATE_LATCHED => self.failure(&core),
            _ => Error::new(ErrorKind::Closed, "the log was closed"),
        };
        let lease = core.lease.take();
        // Before anybody can hear that the log has ended: who opens it on that word waits for the lock.
        if let Some(lease) = lease.as_ref().filter(|_| !planted!("ending-not-told")) {
            self.storage.ending(lease);
        }
        let mut untold = std::mem::take(&mut core.untold);
        for frame in core.first..core.next {
            let index = core.index(frame);
            let hooks = std::mem::take(&mut core.frames[index].hooks);
            untold.extend(hooks.into_iter().map(|hook| (hook, Err(answer.clone()))));
            self.frames[index].word.bump();
        }
        let mut woken = Vec::new();
        core.room.wake_all(|_| true, &mut woken);
        core.wake(woken);
        untold.append(&mut core.untold);
        for word in [&self.committer, &self.preparer, &self.prepared, &self.progress] {
            word.bump();
        }
        if teller == Teller::Committer {
            core.untold = std::mem::take(&mut untold);
        }
        drop(core);
        drop(lease);
        for slot in &self.frames {
            self.storage.wake(&slot.word, Wake::All);
        }
        for word in [&self.committer, &self.preparer, &self.prepared, &self.progress] {
            self.storage.wake(word, Wake::All);
        }
        tell::tell(untold);
    }

    /// The handle was dropped: the same as a crash of the process, as far as the disk can tell.
    pub(crate) fn abandon(self: &Arc<Self>) {
        // In a forked child the mutex may be locked for ever, and the lock is not ours to give.
        if !self.witness.same_process() {
            return;
        }
        let core = self.lock();
        if self.state.load(Ordering::SeqCst) == STATE_CLOSED {
            return;
        }
        if self.state.load(Ordering::SeqCst) == STATE_LATCHED {
            return;
        }
        self.end(core, STATE_CLOSED, Teller::Here);
    }
}
