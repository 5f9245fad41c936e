//! Flushing all slots, several at once.

use crate::{
    io::{Condition, File, Host, Storage},
    slots::Slot,
    sync::{AtomicUsize, Mutex},
};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

/// The threads that flush, the caller's included. One flush of the device answers all that wait for one:
/// 265 slots took 30 ms one after the other, as long as reading two segments.
const THREADS: usize = 8;

struct Work<F> {
    slots: Vec<Arc<Slot<F>>>,
    next: AtomicUsize,
    done: AtomicUsize,
    failure: Mutex<Option<(String, io::Error)>>,
}

/// How many helpers have not ended.
struct Helpers {
    running: Mutex<usize>,
    ended: Condition,
    host: Arc<dyn Host>,
}

/// Counts a helper's end, also while it unwinds.
struct HelperEnd(Arc<Helpers>);

impl Drop for HelperEnd {
    fn drop(&mut self) {
        *self.0.running.lock() -= 1;
        self.0.ended.notify_all(&*self.0.host);
    }
}

/// Makes all of every slot durable, and has the device asked for it from here on: what counts is what the
/// device has. Answers the first failure and the slot's name.
pub(super) fn flush<S: Storage>(
    storage: &Arc<S>,
    slots: &[Arc<Slot<S::File>>],
) -> Result<(), (String, io::Error)> {
    let work = Arc::new(Work {
        slots: slots.to_vec(),
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        failure: Mutex::new(None),
    });
    let helpers = Arc::new(Helpers {
        running: Mutex::new(0),
        ended: Condition::default(),
        host: Arc::<S>::clone(storage),
    });
    for _ in 1..THREADS.min(slots.len() / 2) {
        let work = Arc::clone(&work);
        *helpers.running.lock() += 1;
        let end = HelperEnd(Arc::clone(&helpers));
        let task = Box::new(move || {
            work.run();
            // Nobody may hold a slot once the caller goes on: it would count as pinned.
            drop(work);
            drop(end);
        });
        if storage.spawn("wal-flush", task).is_err() {
            break;
        }
    }
    work.run();
    let mut running = helpers.running.lock();
    while *running > 0 {
        helpers.ended.wait(&**storage, &mut running);
    }
    drop(running);
    match work.failure.lock().take() {
        Some(failure) => Err(failure),
        None if work.done.load(Ordering::SeqCst) == slots.len() => Ok(()),
        None => Err((String::new(), io::Error::other("a thread died while it flushed"))),
    }
}

impl<F: File> Work<F> {
    fn run(&self) {
        while let Some(slot) = self.slots.get(self.next.fetch_add(1, Ordering::SeqCst)) {
            match slot.file.sync().and_then(|()| slot.file.drop_cache()) {
                Ok(()) => {
                    self.done.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => {
                    self.failure.lock().get_or_insert((slot.name.clone(), error));
                }
            }
        }
    }
}
