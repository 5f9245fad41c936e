//! Executors whose threads are blocked. A program awaits some of its appends and waits for others, and its
//! futures are polled by nobody while the threads that would do it stand in a call. These calls come back.

use crate::waiting::{Call, Fate, WAITING};
use std::{sync::Arc, thread};
use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinHandle, yield_now},
};
use wal::{ErrorKind, Options, Wal, io::Directory};
use wal_tests::{
    eventually,
    fault::{Control, Faulty, Gate, On},
    kind_of, open, without_hanging,
};

const MEGABYTE: usize = 1_000_000;
const TASKS: usize = 40;

type Log = Arc<Wal<Faulty<wal::io::Memory>>>;

fn one_thread() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn two_workers() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

async fn append_a_megabyte(wal: Log) -> wal::Result<wal::Lsn> {
    let payload = vec![1; MEGABYTE];
    wal.append_async(&payload).await?.await
}

/// Starts the tasks of a burst and lets them run until all the memory is taken and the others wait for it.
async fn burst(wal: &Log) -> Vec<JoinHandle<wal::Result<wal::Lsn>>> {
    let tasks =
        (0..TASKS).map(|_| tokio::spawn(append_a_megabyte(Arc::clone(wal)))).collect::<Vec<_>>();
    while wal.stats().memory_waits == 0 {
        yield_now().await;
    }
    for _ in 0..TASKS {
        yield_now().await;
    }
    tasks
}

/// Opens the gate once a thread of the program's own stands in a call of the log, asleep or in a write.
fn open_once_somebody_waits(control: Control, gate: Gate, callers: u64) {
    let before = control.sleeps();
    thread::spawn(move || {
        eventually("somebody waits", || {
            control.sleeps() + gate.blocked().saturating_sub(1) >= before + callers
        });
        gate.open();
    });
}

/// What becomes of the tasks of a burst after `call` has returned: every record of theirs is in the log, unless
/// the call was the close.
async fn end_of_burst(wal: &Log, call: Call, tasks: Vec<JoinHandle<wal::Result<wal::Lsn>>>) {
    for task in tasks {
        let outcome = task.await.unwrap();
        if call == Call::Close {
            assert!(matches!(kind_of(outcome), None | Some(ErrorKind::Closed)));
        } else {
            outcome.unwrap();
        }
    }
    if call != Call::Close {
        eventually("a record that does not wait finds room", || wal.try_append(b"small").is_ok());
        wal.close().unwrap();
    }
}

/// One thread runs a burst of tasks that wait for room, and then a call that blocks it. The call has to come
/// back: the tasks cannot be polled before it does. Room was strictly first come first served, and stood at the
/// task that had been woken first; with default options and a healthy disk nothing of it ever ended.
#[test]
fn a_call_that_blocks_the_executor_waits_behind_no_future_of_it() {
    without_hanging("a checkpoint on the executor's own thread", || {
        let place = tempfile::tempdir().unwrap();
        let log = Directory::new(place.path().join("log"));
        let wal = Arc::new(open(&Options::new(), log).unwrap());
        one_thread().block_on(async {
            let append = |wal: Arc<Wal>| async move {
                let payload = vec![1; MEGABYTE];
                wal.append_async(&payload).await.unwrap().await.unwrap()
            };
            let tasks: Vec<_> =
                (0..TASKS).map(|_| tokio::spawn(append(Arc::clone(&wal)))).collect();
            yield_now().await;
            wal.checkpoint(wal.durable_lsn(), b"").unwrap().await.unwrap();
            for task in tasks {
                task.await.unwrap();
            }
        });
        wal.close().unwrap();
    });
}

/// The same with every call that can wait, and with a disk that holds its writes up until all the memory is taken
/// and the call has begun.
#[test]
fn each_call_comes_back_on_the_only_thread_of_an_executor() {
    for call in WAITING {
        without_hanging(&format!("{call:?} on an executor's only thread"), move || {
            let disk = Faulty::in_memory();
            let wal: Log = Arc::new(open(&Options::new(), disk.clone()).unwrap());
            let gate = disk.control().gate(On::frame());
            one_thread().block_on(async {
                let ticket = wal.append(b"before the burst").unwrap();
                let tasks = burst(&wal).await;
                open_once_somebody_waits(disk.control(), gate, 1);
                call.make(&wal, ticket, b"by a thread").unwrap();
                end_of_burst(&wal, call, tasks).await;
            });
        });
    }
}

/// The same where the executor has two threads, and both of them stand in the call.
#[test]
fn each_call_comes_back_on_both_threads_of_an_executor() {
    for call in WAITING {
        without_hanging(&format!("{call:?} on both threads of an executor"), move || {
            let disk = Faulty::in_memory();
            let wal: Log = Arc::new(open(&Options::new(), disk.clone()).unwrap());
            let gate = disk.control().gate(On::frame());
            two_workers().block_on(async {
                let tickets = [(); 2].map(|()| wal.append(b"before the burst").unwrap());
                let tasks = burst(&wal).await;
                open_once_somebody_waits(disk.control(), gate, 2);
                let callers = tickets.map(|ticket| {
                    let wal = Arc::clone(&wal);
                    tokio::spawn(async move { call.make(&wal, ticket, b"by a thread") })
                });
                for caller in callers {
                    let outcome = kind_of(caller.await.unwrap());
                    let may_be_late = call == Call::Close && outcome == Some(ErrorKind::Closed);
                    assert!(outcome.is_none() || may_be_late, "{call:?}: {outcome:?}");
                }
                end_of_burst(&wal, call, tasks).await;
            });
        });
    }
}

/// An executor is shut down with its tasks in the queue for room: some are dropped with it, and some it leaks.
/// A thread that has nothing to do with it goes on.
#[test]
fn an_executor_that_is_gone_holds_nobody_up() {
    for fate in [Fate::Dropped, Fate::Forgotten] {
        without_hanging(&format!("an append after an executor was {fate:?}"), move || {
            let disk = Faulty::in_memory();
            let wal: Log = Arc::new(open(&Options::new(), disk.clone()).unwrap());
            let gate = disk.control().gate(On::frame());
            let runtime = one_thread();
            runtime.block_on(async { drop(burst(&wal).await) });
            match fate {
                Fate::Forgotten => std::mem::forget(runtime),
                _ => drop(runtime),
            }
            open_once_somebody_waits(disk.control(), gate, 1);
            wal.append(&[7; 100]).unwrap().wait().unwrap();
            wal.append(&[7; MEGABYTE]).unwrap().wait().unwrap();
            eventually("a record that does not wait finds room", || wal.try_append(b"x").is_ok());
            wal.close().unwrap();
        });
    }
}
