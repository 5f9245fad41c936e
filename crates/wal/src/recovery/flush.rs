//! Flushing all slots, several at once.

use crate::{
    io::{File, Storage},
    slots::Slot,
};
use parking_lot::Mutex;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
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

/// Makes all of every slot durable, and has the device asked for it from here on: what counts is what the
/// device has. Answers the first failure and the slot's name.
pub(super) fn flush<S: Storage>(
    storage: &S,
    slots: &[Arc<Slot<S::File>>],
) -> Result<(), (String, io::Error)> {
    let work = Arc::new(Work {
        slots: slots.to_vec(),
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        failure: Mutex::new(None),
    });
    let (ended, all_ended) = mpsc::channel::<()>();
    for _ in 1..THREADS.min(slots.len() / 2) {
        let (work, ended) = (Arc::clone(&work), ended.clone());
        let task = Box::new(move || {
            work.run();
            // Nobody may hold a slot once the caller goes on: it would count as pinned.
            drop(work);
            drop(ended);
        });
        if storage.spawn("wal-flush", task).is_err() {
            break;
        }
    }
    work.run();
    drop(ended);
    // Answers when the last sender is gone, also if a thread died.
    while all_ended.recv().is_ok() {}
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
