//! Threads of the system that are used again: a life of a program takes less time than to start one.

use super::schedule::Handing;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    thread::{self, Thread},
};

/// What a thread does, and whose turn it is afterwards.
pub(super) type Job = Box<dyn FnOnce() -> Option<Handing> + Send>;

struct Worker {
    thread: Thread,
    job: Mutex<Option<Job>>,
}

/// Those with nothing to do. Bounded by the most that were ever busy at once.
static IDLE: Mutex<Vec<Arc<Worker>>> = Mutex::new(Vec::new());

/// Runs `job` on a thread of its own.
///
/// # Panics
/// If the system has no thread left: a simulation cannot go on without.
pub(super) fn run(job: Job) {
    let idle = IDLE.lock().pop();
    if let Some(worker) = idle {
        *worker.job.lock() = Some(job);
        worker.thread.unpark();
        return;
    }
    #[expect(clippy::expect_used, reason = "said in the contract")]
    thread::Builder::new()
        .name("wal-sim".to_owned())
        .spawn(move || work(job))
        .expect("the system starts a thread");
}

fn work(first: Job) {
    let worker = Arc::new(Worker { thread: thread::current(), job: Mutex::new(Some(first)) });
    loop {
        let job = worker.job.lock().take();
        let Some(job) = job else {
            thread::park();
            continue;
        };
        let handing = job();
        // Idle before the turn goes on: whoever gets it may want a thread.
        IDLE.lock().push(Arc::clone(&worker));
        if let Some(handing) = handing {
            handing.go();
        }
    }
}
