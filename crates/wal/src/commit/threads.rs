//! The engine's own threads: counted when they start, and waited for by a close.

use super::{COMMITS, Engine};
use crate::{
    Error, Result,
    io::{Storage, Wake},
    sync::{AtomicU32, Word, thread_local},
};
use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering},
};

thread_local! {
    /// The engine that this thread belongs to, by address; 0 for everybody else's threads.
    static SERVES: Cell<usize> = const { Cell::new(0) };
}

/// How many of an engine's threads have not ended. Apart from the engine: a thread counts until it has
/// let go of that, and of all files with it.
#[derive(Debug, Default)]
pub(super) struct Threads {
    running: AtomicU32,
    ended: Word,
}

impl<S: Storage> Engine<S> {
    /// Runs `work` on a thread that [`Engine::close`] waits for.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> Result<()> {
        self.threads.running.fetch_add(1, Ordering::SeqCst);
        let share = Share {
            engine: Some(Arc::clone(self)),
            threads: Arc::clone(&self.threads),
            storage: Arc::clone(&self.storage),
        };
        let task = Box::new(move || {
            let share = share;
            if let Some(engine) = &share.engine {
                let _serving = Serving::begin(engine);
                work(engine);
            }
        });
        // A task that is not run is dropped, and does not count any more.
        self.storage
            .spawn(name, task)
            .map_err(|error| Error::from_io(format!("starting thread {name}"), error))
    }

    /// Whether the calling thread is one of the engine's own: inside a callback, say.
    pub(super) fn is_served_by_caller(&self) -> bool {
        SERVES.get() == std::ptr::from_ref(self).addr()
    }

    /// Waits until the engine's own threads have ended, but for the caller if it is one.
    pub(super) fn join_threads(&self) {
        let own = u32::from(self.is_served_by_caller());
        loop {
            let seen = self.threads.ended.read();
            if self.threads.running.load(Ordering::SeqCst) <= own {
                return;
            }
            self.storage.wait(&self.threads.ended, seen, None);
        }
    }
}

/// What a thread has of its engine, given back when it ends, also by a panic. It counts until it has let go
/// of the engine: whoever drops a log that was closed may unmount the file system that it was on.
struct Share<S: Storage> {
    /// Invariant: there until it is dropped.
    engine: Option<Arc<Engine<S>>>,
    threads: Arc<Threads>,
    storage: Arc<S>,
}

impl<S: Storage> Drop for Share<S> {
    fn drop(&mut self) {
        drop(self.engine.take());
        self.threads.running.fetch_sub(1, Ordering::SeqCst);
        self.threads.ended.bump();
        self.storage.wake(&self.threads.ended, Wake::All);
    }
}

/// What the calling thread is to an engine. That ends before the engine does: a host may use its threads
/// again, and another engine may get this one's address.
struct Serving;

impl Serving {
    fn begin<S: Storage>(engine: &Arc<Engine<S>>) -> Self {
        SERVES.set(Arc::as_ptr(engine).addr());
        Self
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        SERVES.set(0);
        COMMITS.set(false);
    }
}
