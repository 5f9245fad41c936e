//! Callbacks, forks and rotations that nobody thought of: each of these once hung or harmed a log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};
use wal::{ErrorKind, Options, Wal, io::Memory};
use wal_tests::{
    eventually,
    fault::{Faulty, On},
    fork, open,
    tasks::block_on,
    without_hanging,
};

/// Small frames and few of them, nothing written for its age.
fn tight() -> Options {
    Options::new()
        .segment_bytes(1 << 20)
        .frame_bytes(16 << 10)
        .pool_bytes(32 << 10)
        .depth(1)
        .linger(Duration::from_secs(3600))
        .confirm_after(Duration::from_secs(3600))
}

/// A producer never waits and keeps the pool full. The only committer completes a frame and tells a
/// callback, which appends: it waits for room that only a committer can make, and it stands on the only
/// one.
#[test]
fn a_callback_that_appends_finds_somebody_to_make_room() {
    let wal = Arc::new(open(&tight(), Memory::new()).unwrap());
    let told = Arc::new(AtomicU32::new(0));
    without_hanging("a callback waits for the thread that it runs on", {
        let (wal, told) = (Arc::clone(&wal), Arc::clone(&told));
        move || {
            for round in 0..2000_u32 {
                let ticket = wal.append(&[7; 1000]).unwrap();
                if round % 20 == 0 {
                    let (wal, told) = (Arc::clone(&wal), Arc::clone(&told));
                    ticket.on_durable(move |outcome| {
                        let lsn = outcome.unwrap();
                        drop(wal.append(&[8; 3000]).unwrap());
                        drop(wal.checkpoint(lsn, b"from a callback"));
                        told.fetch_add(1, Ordering::SeqCst);
                    });
                }
            }
            wal.flush().unwrap();
        }
    });
    eventually("all callbacks have run", || told.load(Ordering::SeqCst) == 100);
    wal.close().unwrap();
}

/// A callback decides that it was enough and closes the log: on a thread of the log's own, which must
/// not wait for itself to end.
#[test]
fn a_callback_may_close_the_log() {
    let storage = Memory::new();
    let options = tight().linger(Duration::from_millis(1));
    let wal = Arc::new(open(&options, storage.clone()).unwrap());
    let (closed, outcome) = mpsc::channel();
    let handle = Arc::clone(&wal);
    wal.append(b"the last one").unwrap().on_durable(move |durable| {
        assert!(durable.is_ok());
        closed.send(handle.close().map_err(|error| error.kind())).unwrap();
    });
    without_hanging("close waits for its own thread", move || {
        assert_eq!(outcome.recv().unwrap(), Ok(()));
    });
    assert_eq!(wal.append(b"x").map(drop).unwrap_err().kind(), ErrorKind::Closed);
    eventually("the log can be opened again", || open(&options, storage.clone()).is_ok());
}

/// The thread that closes writes the last frame, and so runs its callbacks: one of them closes the log,
/// too, and must not wait for what waits for it.
#[test]
fn a_callback_may_close_the_log_that_is_being_closed() {
    let wal = Arc::new(open(&tight(), Memory::new()).unwrap());
    let (told, outcome) = mpsc::channel();
    let handle = Arc::clone(&wal);
    wal.append(b"the last one").unwrap().on_durable(move |durable| {
        assert!(durable.is_ok());
        told.send(handle.close().map_err(|error| error.kind())).unwrap();
    });
    without_hanging("a close waits for itself", move || {
        wal.close().unwrap_or_else(|error| assert_eq!(error.kind(), ErrorKind::Closed));
        let inner = outcome.recv().unwrap();
        assert!(inner == Ok(()) || inner == Err(ErrorKind::Closed), "{inner:?}");
    });
}

/// A callback takes its time on the log's only thread. A frame was open already, and now somebody awaits a
/// record in it without blocking for it: another thread has to be there that writes it.
#[test]
fn a_slow_callback_holds_up_nobody_who_awaits() {
    let disk = Faulty::in_memory();
    let wal = open(&tight(), disk.clone()).unwrap();
    let (go, may_end) = mpsc::channel::<()>();
    let (entered, is_in) = mpsc::channel();
    let gate = disk.control().gate(On::frame());
    let first = wal.append(b"first").unwrap();
    let frame = On::frame_at(first.lsn().get() / 4096 * 4096);
    first.on_durable(move |_| {
        entered.send(()).unwrap();
        // Ends when the test does, if not before.
        let _ = may_end.recv();
    });
    disk.control().wait_for_start(&frame);
    let second = wal.append(b"second").unwrap();
    gate.open();
    without_hanging("an awaited record that nobody writes", move || {
        is_in.recv().unwrap();
        block_on(second).unwrap();
        drop(go);
    });
}

/// Nobody waits, and records linger for an hour: a frame that is full is written all the same.
#[test]
fn a_full_frame_is_written_though_nobody_waits() {
    let wal = open(&tight().pool_bytes(1 << 20), Memory::new()).unwrap();
    let first = wal.append(&[1; 10_000]).unwrap();
    drop(wal.append(&[2; 10_000]).unwrap());
    eventually("the full frame is durable", || first.is_durable());
    assert!(wal.durable_lsn() < wal.appended_lsn(), "the second is not full");
}

/// A log that was reopened has its successor already, so that nothing had to be prepared at first; then
/// the next segment has to be there in time all the same.
#[test]
fn rotation_after_a_reopen_finds_the_next_segment_prepared() {
    let storage = Memory::new();
    let options = tight().segment_bytes(1 << 18);
    let fill = |wal: &Wal<Memory>| {
        for _ in 0..100 {
            wal.append(&[3; 1000]).unwrap().wait().unwrap();
        }
    };
    let prepared = |wal: &Wal<Memory>| {
        let stats = wal.stats();
        stats.segments_created + stats.segments_recycled
    };
    let wal = open(&options, storage.clone()).unwrap();
    fill(&wal);

    // For the second segment, and for the third, which is the successor now.
    eventually("the successor is prepared", || prepared(&wal) == 2);
    wal.close().unwrap();
    drop(wal);
    let wal = open(&options, storage).unwrap();
    assert_eq!(prepared(&wal), 0);
    let segment = || wal.append(&[4; 1000]).unwrap().wait().unwrap().get() >> 18;
    let first = segment();
    for rotation in 1..4 {
        while segment() < first + rotation {}
        eventually("the next one is prepared before it is needed", || prepared(&wal) >= rotation);
    }
    assert_eq!(wal.stats().segment_waits, 0);
}

/// A daemon opens its log, replays half of it, and forks before it finishes. Two processes would each
/// write the frame that fixes the tail, and go on from there.
#[test]
fn a_fork_during_replay_has_no_log() {
    let storage = Memory::new();
    let wal = open(&tight(), storage.clone()).unwrap();
    for _ in 0..100 {
        drop(wal.append(&[5; 1000]).unwrap());
    }
    wal.close().unwrap();
    drop(wal);
    let mut replay = tight().open_in(storage).unwrap();
    assert!(replay.next().unwrap().is_some());
    let (refused, mut replay) = fork::in_child(replay, |mut replay| {
        let read = loop {
            match replay.next() {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(error) => break error.kind() == ErrorKind::Forked,
            }
        };
        replay.skip_rest();
        let finished = replay.finish().is_err_and(|error| error.kind() == ErrorKind::Forked);
        u8::from(read && finished)
    });
    assert_eq!(refused, 1, "the child could go on");
    let mut records = 1;
    while replay.next().unwrap().is_some() {
        records += 1;
    }
    assert_eq!(records, 100);
    replay.finish().unwrap().0.close().unwrap();
}
