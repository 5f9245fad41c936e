//! The log from an executor: nothing that is polled ever blocks.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};
use wal::{
    ErrorKind,
    io::{Directory, Memory, Storage},
};
use wal_tests::{
    Kept, eventually,
    fault::{EIO, Fault, Faulty, On},
    kind_of, open, quiet, replay,
    tasks::{CountingWaker, block_on, join_all, poll_once},
};

/// Many tasks on several executors await their records, in no particular order, with nobody blocking in
/// `wait`: a thread of the log's own has to write all of them.
fn tasks_are_served<S: Storage + Clone>(storage: S, records: u64) {
    let options = quiet();
    let wal = open(&options, storage.clone()).unwrap();
    let kept = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (wal, kept) = (&wal, &kept);
            scope.spawn(move || {
                let mut tickets = Vec::new();
                let mut mine: Vec<Kept> = Vec::new();
                for index in 0..records {
                    let payload = [thread.to_le_bytes(), index.to_le_bytes()].concat();
                    let ticket = block_on(wal.append_async(&payload)).unwrap();
                    mine.push((ticket.lsn(), payload));
                    tickets.push(ticket);
                    if index % 20 == 19 {
                        tickets.reverse();
                        let answers = block_on(join_all(std::mem::take(&mut tickets)));
                        let mut answers: Vec<_> =
                            answers.into_iter().map(|answer| answer.unwrap()).collect();
                        answers.reverse();
                        let newest = mine[mine.len() - 20..].iter().map(|(lsn, _)| *lsn);
                        assert!(newest.eq(answers), "each ticket answers its own position");
                    }
                }
                kept.lock().unwrap().extend(mine);
            });
        }
    });
    wal.close().unwrap();
    drop(wal);
    let mut kept = kept.into_inner().unwrap();
    kept.sort();
    assert!(replay(&options, storage).unwrap().0 == kept);
}

/// See [`tasks_are_served`].
#[test]
fn tasks_are_served_in_memory() {
    tasks_are_served(Memory::new(), 400);
}

/// See [`tasks_are_served`].
#[test]
fn tasks_are_served_on_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    tasks_are_served(Directory::new(dir.path().join("log")), 100);
}

/// The disk hangs. An executor that polls a ticket or an append must get its thread back at once: here
/// the executor is the test's own thread, and it is also the one that ends the hang.
#[test]
fn a_poll_never_blocks_on_the_disk() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet().pool_bytes(32 << 10), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    let waker = Arc::new(CountingWaker::default());
    let mut first = wal.append(b"first").unwrap();
    assert!(poll_once(&mut first, &waker).is_pending());
    gate.wait_for(1);
    let mut second = wal.append(b"second").unwrap();
    for _ in 0..3 {
        assert!(poll_once(&mut first, &waker).is_pending());
        assert!(poll_once(&mut second, &waker).is_pending());
    }
    // The memory runs out, and appends are pending, too. They may be woken in vain.
    let woken = Arc::new(CountingWaker::default());
    let mut appends = Vec::new();
    let mut pending = 0;
    while pending < 3 {
        let mut append = wal.append_async(&[7; 9000]);
        match poll_once(&mut append, &woken) {
            Poll::Ready(ticket) => drop(ticket.unwrap()),
            Poll::Pending => {
                pending += 1;
                appends.push(append);
            }
        }
    }
    assert_eq!(waker.count(), 0, "nothing has happened yet");
    gate.open();
    eventually("both are told", || waker.count() >= 2);
    let lsn = first.lsn();
    assert_eq!(block_on(first).unwrap(), lsn);
    let lsn = second.lsn();
    assert_eq!(block_on(second).unwrap(), lsn);
    for ticket in block_on(join_all(appends)) {
        block_on(ticket.unwrap()).unwrap();
    }
}

/// A future moves between tasks: only the waker of the last poll may be relied on.
#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    let wakers = [(); 2].map(|()| Arc::new(CountingWaker::default()));
    let mut ticket = wal.append(b"moves").unwrap();
    for waker in &wakers {
        assert!(poll_once(&mut ticket, waker).is_pending());
    }
    gate.open();
    eventually("the last one is woken", || wakers[1].count() == 1);
    assert_eq!(wakers[0].count(), 0);
    assert!(poll_once(&mut ticket, &wakers[0]).is_ready());
}

/// A select drops the ticket that lost: those that were awaited beside it, and the record itself, do
/// not care.
#[test]
fn a_dropped_ticket_takes_nobody_along() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    let waker = Arc::new(CountingWaker::default());
    let mut tickets: Vec<_> = (0..6).map(|_| wal.append(b"x").unwrap()).collect();
    for ticket in &mut tickets {
        assert!(poll_once(ticket, &waker).is_pending());
    }
    let mut index = 0;
    tickets.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    gate.open();
    let lsns: Vec<_> = tickets.iter().map(|ticket| ticket.lsn()).collect();
    let answers = block_on(join_all(tickets));
    assert!(answers.into_iter().map(|answer| answer.unwrap()).eq(lsns));
    let (from, records) = (wal.read_from(wal::Lsn::ZERO).unwrap(), 6);
    assert_eq!(from.count(), records);
}

/// A task that never waits for durability, only for room, is held to the speed of the disk and no
/// faster, with a few frames of memory.
#[test]
fn a_task_without_room_waits_and_goes_on() {
    let disk = Faulty::in_memory();
    disk.control().set_latency(Duration::from_micros(50));
    let wal = open(&quiet().pool_bytes(32 << 10), disk.clone()).unwrap();
    let last = block_on(async {
        let mut last = None;
        for _ in 0..500 {
            last = Some(wal.append_async(&[1; 3000]).await.unwrap());
        }
        last.unwrap().await.unwrap()
    });
    assert!(wal.durable_lsn() > last);
    assert!(wal.stats().memory_waits > 0);
    assert_eq!(wal.stats().records, 500);
}

/// A chain of work: each callback appends the next record. It runs outside every lock, so it may.
#[test]
fn a_callback_may_append() {
    let wal = Arc::new(open(&quiet(), Memory::new()).unwrap());
    let rounds = Arc::new(AtomicU64::new(0));
    fn next<S: Storage>(wal: &Arc<wal::Wal<S>>, rounds: &Arc<AtomicU64>) {
        let (again, counted) = (Arc::clone(wal), Arc::clone(rounds));
        wal.append(b"link").unwrap().on_durable(move |outcome| {
            outcome.unwrap();
            if counted.fetch_add(1, Ordering::SeqCst) < 99 {
                next(&again, &counted);
            }
        });
    }
    next(&wal, &rounds);
    eventually("the chain is done", || rounds.load(Ordering::SeqCst) == 100);
}

/// The outcome is known already: a future is ready at its first poll, a callback runs before
/// `on_durable` returns, for success and for failure.
#[test]
fn known_outcomes_are_told_at_once() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let waker = Arc::new(CountingWaker::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut awaited = wal.append(b"durable").unwrap();
    let called_back = wal.append(b"durable").unwrap();
    wal.flush().unwrap();
    let tell = || {
        let told = Arc::clone(&told);
        move |outcome| told.lock().unwrap().push(kind_of(outcome))
    };
    assert!(poll_once(&mut awaited, &waker).is_ready());
    called_back.on_durable(tell());
    assert_eq!(*told.lock().unwrap(), [None]);

    disk.control().fail(Fault::once(On::frame(), EIO));
    let mut awaited = wal.append(b"lost").unwrap();
    let called_back = wal.append(b"lost").unwrap();
    assert_eq!(kind_of(wal.flush()), Some(ErrorKind::Latched));
    let Poll::Ready(outcome) = poll_once(&mut awaited, &waker) else { panic!("it is known") };
    assert_eq!(kind_of(outcome), Some(ErrorKind::Latched));
    called_back.on_durable(tell());
    assert_eq!(*told.lock().unwrap(), [None, Some(ErrorKind::Latched)]);
    assert_eq!(waker.count(), 0);
}
