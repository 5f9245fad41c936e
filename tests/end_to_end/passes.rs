//! Who passes whom in the queue for room, and how often.
//!
//! Room was given in the order of arrival. One appender that waited made all who came after it wait, though the
//! open frame had room for them, and each admission woke all of them: with 256 threads a log did a hundredth of
//! what it does with one. Now who comes passes the queue if the open frame has room for it, until the first
//! that waits and is awake has been passed [`PASSES_MAX`] times. These tests count; they take no time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};
use wal::{ErrorKind, Options, Wal, io::Memory};
use wal_tests::{
    eventually,
    fault::{Faulty, On},
    kind_of, open, quiet,
    tasks::{CountingWaker, poll_once},
    without_hanging,
};

type Log = Arc<Wal<Faulty<Memory>>>;

/// How often the first of the queue is passed before those who come queue behind it.
const PASSES_MAX: u64 = 64;

/// Two buffers, and nothing that is written for its age.
fn tight() -> Options {
    quiet().pool_bytes(32 << 10).segment_bytes(1 << 20)
}

/// Fits a buffer of the pool, and little beside it.
const BIG: usize = 14_000;
/// Fits none.
const HUGE: usize = 40_000;
const SMALL: [u8; 16] = [3; 16];

/// Appends small records without waiting until one is refused; answers how many had room.
fn pass(wal: &Log) -> u64 {
    let mut passed = 0;
    loop {
        match wal.try_append(&SMALL) {
            Ok(ticket) => {
                drop(ticket);
                passed += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return passed;
            }
        }
        assert!(passed < 100_000, "the open frame has no end");
    }
}

/// A thread waits for memory of its own, which another record has. Others find room in the pool and pass it, 64 times
/// and no more; then they queue, until it is served.
#[test]
fn a_thread_that_waits_is_passed_so_often_and_no_more() {
    let disk = Faulty::in_memory();
    let wal: Log = Arc::new(open(&tight(), disk.clone()).unwrap());
    let gate = disk.control().gate(On::frame());
    wal.append_untracked(&[1; HUGE]).unwrap();
    let waits = wal.stats().memory_waits;
    let waiter = {
        let wal = Arc::clone(&wal);
        thread::spawn(move || wal.append(&[4; HUGE]).map(|ticket| ticket.lsn()))
    };
    eventually("it waits", || wal.stats().memory_waits > waits);
    gate.wait_for(1);
    let before = wal.stats().room_passes;
    assert_eq!(pass(&wal), PASSES_MAX);
    assert_eq!(wal.stats().room_passes - before, PASSES_MAX, "each is counted");
    // Those who are refused do not come in by asking again.
    for _ in 0..100 {
        assert_eq!(kind_of(wal.try_append(&SMALL)), Some(ErrorKind::WouldBlock));
    }
    gate.open();
    let lsn = without_hanging("a thread that was passed", move || waiter.join().unwrap().unwrap());
    assert!(wal.appended_lsn() > lsn);
    // Nobody waits any more: who comes passes nobody.
    let passes = wal.stats().room_passes;
    eventually("there is room again", || wal.try_append(&SMALL).is_ok());
    drop(wal.append(&SMALL).unwrap());
    assert_eq!(wal.stats().room_passes, passes);
    wal.close().unwrap();
}

/// A record that needs a frame of its own finds no memory for it. The open frame stays open: those who fit it wait
/// for nothing, whatever became of the other.
#[test]
fn a_record_without_room_closes_no_frame_that_others_fit() {
    let disk = Faulty::in_memory();
    let wal: Log = Arc::new(open(&tight(), disk.clone()).unwrap());
    let gate = disk.control().gate(On::frame());
    wal.append_untracked(&[1; BIG]).unwrap();
    wal.append_untracked(&[2; 3000]).unwrap();
    gate.wait_for(1);
    assert_eq!(kind_of(wal.try_append(&[3; BIG])), Some(ErrorKind::WouldBlock));
    wal.append_untracked(&SMALL).unwrap();
    let waker = Arc::new(CountingWaker::default());
    let mut append = wal.append_async(&[4; BIG]);
    assert!(poll_once(&mut append, &waker).is_pending());
    without_hanging("a small record", {
        let wal = Arc::clone(&wal);
        move || wal.append_untracked(&SMALL).unwrap()
    });
    drop(append);
    gate.open();
    wal.close().unwrap();
}

/// A future that waits and is not polled is passed as often as there is room: it is not awake, and holds nobody up.
/// Polled since it was woken, it is one who waits like any other.
#[test]
fn a_future_that_is_not_polled_counts_for_nobody() {
    let disk = Faulty::in_memory();
    let wal: Log = Arc::new(open(&tight().linger(Duration::from_millis(1)), disk.clone()).unwrap());
    let gate = disk.control().gate(On::frame());
    while wal.try_append(&[1; BIG]).is_ok() {}
    let waker = Arc::new(CountingWaker::default());
    let mut append = wal.append_async(&[4; BIG]);
    assert!(poll_once(&mut append, &waker).is_pending());
    gate.open();
    eventually("it is woken", || waker.count() > 0);
    for _ in 0..PASSES_MAX * 8 {
        drop(wal.append(&SMALL).unwrap());
    }
    wal.flush().unwrap();
    let ticket = loop {
        match poll_once(&mut append, &waker) {
            Poll::Ready(ticket) => break ticket.unwrap(),
            Poll::Pending => {
                let woken = waker.count();
                eventually("it is woken again", || waker.count() > woken);
            }
        }
    };
    ticket.wait().unwrap();
    wal.close().unwrap();
}

/// Threads that append small records without end, beside some whose records fill a frame: each of the latter is
/// served, and for each of them no more than the bound passed it, whatever the schedule was.
#[test]
fn who_waits_for_a_whole_frame_is_served_beside_a_crowd() {
    const CROWD: usize = 8;
    const RECORDS: u64 = 40;
    let wal: Log = Arc::new(open(&tight(), Faulty::in_memory()).unwrap());
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (log, over, count) = (Arc::clone(&wal), Arc::clone(&is_over), Arc::clone(&served));
    without_hanging("a crowd that passes", move || {
        thread::scope(|scope| {
            for _ in 0..CROWD {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        log.append_untracked(&SMALL).unwrap();
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..RECORDS {
                        log.append_untracked(&[4; BIG]).unwrap();
                        if count.fetch_add(1, Ordering::SeqCst) + 1 == 2 * RECORDS {
                            over.store(true, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
    });
    assert_eq!(served.load(Ordering::SeqCst), 2 * RECORDS);
    let stats = wal.stats();
    let waits = stats.memory_waits + stats.segment_waits;
    assert!(
        stats.room_passes <= PASSES_MAX * waits,
        "{} passes beside {waits} waits",
        stats.room_passes
    );
    wal.close().unwrap();
}

/// A buffer that comes back wakes those who can go on with it, not all who wait: with two buffers and 32 threads,
/// the wake-ups are a few for each frame and not 32.
#[test]
fn not_all_who_wait_are_woken_for_one_buffer() {
    const THREADS: u64 = 32;
    const RECORDS: u64 = 20;
    let disk = Faulty::in_memory();
    let wal: Log = Arc::new(open(&tight(), disk.clone()).unwrap());
    let gate = disk.control().gate(On::frame());
    let sleeps = disk.control().sleeps();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let wal = Arc::clone(&wal);
            thread::spawn(move || {
                for _ in 0..RECORDS {
                    // One fills a frame, so that each needs a buffer of its own.
                    wal.append_untracked(&[5; BIG]).unwrap();
                }
            })
        })
        .collect();
    eventually("most of them wait", || disk.control().sleeps() >= sleeps + THREADS - 4);
    gate.open();
    without_hanging("threads that each fill frames", move || {
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let stats = wal.stats();
    let frames = THREADS * RECORDS;
    assert!(stats.room_wakes >= 1, "somebody was woken");
    assert!(
        stats.room_wakes <= 4 * frames,
        "{} wake-ups for {frames} frames of {THREADS} threads",
        stats.room_wakes
    );
    wal.close().unwrap();
}
