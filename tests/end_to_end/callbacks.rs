//! Callbacks, forks and rotations that nobody thought of: each of these once hung or harmed a log.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};
use wal::{ErrorKind, Options, Wal, io::Memory};
use wal_tests::{
    eventually,
    fault::{EIO, Fault, Faulty, On},
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

/// A log whose preparer has done its work, and wakes nobody any more.
fn at_rest(options: &Options, disk: Faulty<Memory>) -> Arc<Wal<Faulty<Memory>>> {
    let wal = open(options, disk).unwrap();
    eventually("the successor is prepared", || wal.stats().segments_recycled == 1);
    Arc::new(wal)
}

/// Wakes nobody before the write that it names has begun.
struct WakesAfter(Faulty<Memory>, On);

impl Wake for WakesAfter {
    fn wake(self: Arc<Self>) {
        self.0.control().wait_for_start(&self.1);
    }
}

/// A callback takes its time on the log's only thread. Before it was called, a waiter had begun to write the
/// next frame; behind that stands a full one, which has to wait its turn, and none is open. When the waiter
/// is done nobody is left to write the last one: somebody has to have taken the thread's place, though there
/// was nothing to do just then.
#[test]
fn a_slow_callback_holds_up_no_full_frame() {
    let disk = Faulty::in_memory();
    let wal = at_rest(&tight().pool_bytes(48 << 10), disk.clone());
    let (go, may_end) = mpsc::channel::<()>();
    let (entered, is_in) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let first = wal.append(b"first").unwrap();
    let frames = [0, 4096].map(|after| On::frame_at(first.lsn().get() / 4096 * 4096 + after));
    let [first_gate, second_gate] = frames.clone().map(|frame| disk.control().gate(frame));
    first.on_durable(move |_| {
        entered.send(()).unwrap();
        // Ends when the test does, if not before.
        let _ = may_end.recv();
    });
    disk.control().wait_for_start(&frames[0]);
    let second = wal.append(&[2; 14_000]).unwrap();
    let third = wal.append(&[3; 14_000]).unwrap();
    third.on_durable(move |outcome| tell.send(outcome.is_ok()).unwrap());
    let waiter = thread::spawn(move || second.wait().map(drop));
    // There is no room for it, so that the third frame is sealed. And its task is what holds the thread up
    // until the waiter writes.
    let mut append = Box::pin(append_alone(Arc::clone(&wal)));
    let [_, frame] = frames;
    let waker = Waker::from(Arc::new(WakesAfter(disk, frame)));
    assert!(poll(&mut append, &waker).is_pending());
    first_gate.open();
    without_hanging("a frame that nobody writes", move || {
        is_in.recv().unwrap();
        second_gate.open();
        waiter.join().unwrap().unwrap();
        assert!(told.recv().unwrap());
        drop(go);
    });
}

/// A callback takes its time on the log's only thread, and nothing else is appended. The frame that it was
/// told of has to be vouched for meanwhile, or the log's last record stays without proof for as long.
#[test]
fn a_slow_callback_holds_up_no_confirmation() {
    let disk = Faulty::in_memory();
    let wal = at_rest(&tight().confirm_after(Duration::from_millis(1)), disk);
    let (go, may_end) = mpsc::channel::<()>();
    let (entered, is_in) = mpsc::channel();
    let before = wal.stats().frames;
    wal.append(b"the last one").unwrap().on_durable(move |_| {
        entered.send(()).unwrap();
        // Ends when the test does, if not before.
        let _ = may_end.recv();
    });
    without_hanging("a callback that is never called", move || is_in.recv().unwrap());
    eventually("the last frame is vouched for", || wal.stats().frames == before + 2);
    drop(go);
}

/// The waker of a task that holds something: dropped with the last of its wakers, as an executor does it.
struct Holds<T>(T);

impl<T: Send + Sync + 'static> Wake for Holds<T> {
    fn wake(self: Arc<Self>) {}
}

fn held_by_a_waker(what: impl Any + Send) -> Waker {
    Waker::from(Arc::new(Holds(std::sync::Mutex::new(what))))
}

fn poll<F: Future>(future: &mut Pin<Box<F>>, waker: &Waker) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}

/// Asks for the next frame's room. There is none while two frames are held up.
async fn append_alone(wal: Arc<Wal<Faulty<Memory>>>) -> wal::Result<()> {
    wal.append_async(&[7; 15_000]).await.map(drop)
}

/// A ticket moves to another task while it is awaited. Its first task is gone, and the waker that it left
/// with the log is the last that holds it; it owns the log. Dropped under the log's mutex, it locked it
/// again, for ever.
#[test]
fn a_waker_may_be_the_last_that_holds_the_log() {
    let disk = Faulty::in_memory();
    let wal = open(&tight(), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    without_hanging("a log that is dropped under its own mutex", move || {
        let mut ticket = Box::pin(wal.append(b"awaited").unwrap());
        assert!(poll(&mut ticket, &held_by_a_waker(wal)).is_pending());
        assert!(poll(&mut ticket, Waker::noop()).is_pending());
        let Poll::Ready(Err(error)) = poll(&mut ticket, Waker::noop()) else {
            panic!("the log was dropped");
        };
        assert_eq!(error.kind(), ErrorKind::Closed);
    });
    gate.open();
}

/// The same in the queue for room, where a task holds another append that waits there: when its waker is
/// replaced, and when the append that it waits with is dropped.
#[test]
fn a_waker_may_be_the_last_that_holds_an_append() {
    let disk = Faulty::in_memory();
    let wal = at_rest(&tight(), disk.clone());
    let gate = disk.control().gate(On::frame());
    for _ in 0..2 {
        drop(wal.append(&[1; 15_000]).unwrap());
    }
    let log = Arc::clone(&wal);
    without_hanging("an append that is dropped under the log's mutex", move || {
        let queued = || {
            let mut append = Box::pin(append_alone(Arc::clone(&log)));
            assert!(poll(&mut append, Waker::noop()).is_pending());
            append
        };
        let mut append = Box::pin(append_alone(Arc::clone(&log)));
        assert!(poll(&mut append, &held_by_a_waker(queued())).is_pending());
        assert!(poll(&mut append, Waker::noop()).is_pending());
        assert!(poll(&mut append, &held_by_a_waker(queued())).is_pending());
        drop(append);
    });
    gate.open();
    wal.append(b"room for all").unwrap().wait().unwrap();
    wal.close().unwrap();
}

/// An executor that is shut down.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("the executor is gone");
    }
}

/// A task waits for room, and its executor is gone: to wake it panics. That is no affair of those who are
/// told after it, be it that a frame was written or that the write failed.
#[test]
fn a_waker_that_panics_takes_nobody_along() {
    for fails in [false, true] {
        let disk = Faulty::in_memory();
        let wal = at_rest(&tight(), disk.clone());
        let (tell, told) = mpsc::channel();
        let gate = disk.control().gate(On::frame());
        if fails {
            disk.control().fail(Fault::sticky(On::frame(), EIO));
        }
        wal.append(&[1; 15_000]).unwrap().on_durable(move |outcome| {
            tell.send(outcome.map_err(|error| error.kind()).map(drop)).unwrap();
        });
        drop(wal.append(&[2; 15_000]).unwrap());
        let mut append = Box::pin(append_alone(Arc::clone(&wal)));
        assert!(poll(&mut append, &Waker::from(Arc::new(Panics))).is_pending());
        gate.open();
        let told = without_hanging("a callback that is never called", move || told.recv());
        let expected = if fails { Err(ErrorKind::Latched) } else { Ok(()) };
        assert_eq!(told, Ok(expected));
    }
}

/// Behind a thread that waits for room stands a task whose executor is gone. The thread gets its room and
/// wakes the task, which panics: by then its record has its place in the log, and has to be written there.
#[test]
fn a_waker_that_panics_leaves_no_record_unwritten() {
    let storage = Memory::new();
    let disk = Faulty::new(storage.clone());
    let wal = at_rest(&tight(), disk.clone());
    let gate = disk.control().gate(On::frame());
    for _ in 0..2 {
        drop(wal.append(&[1; 15_000]).unwrap());
    }
    let log = Arc::clone(&wal);
    let appender = thread::spawn(move || log.append(&[3; 5000]).map(drop));
    eventually("the thread waits for room", || wal.stats().memory_waits == 1);
    let mut append = Box::pin(append_alone(Arc::clone(&wal)));
    assert!(poll(&mut append, &Waker::from(Arc::new(Panics))).is_pending());
    gate.open();
    let appended = without_hanging("an append without room", move || appender.join());
    assert!(
        appended.is_ok_and(|appended| appended.is_ok()),
        "the task's panic is not the thread's"
    );
    drop(append);
    wal.close().unwrap();
    let mut replay = tight().open_in(storage).unwrap();
    let mut last = None;
    while let Some(record) = replay.next().unwrap() {
        last = Some(record.payload().to_vec());
    }
    assert_eq!(last, Some(vec![3; 5000]));
}

/// A ticket moves to another task while it is awaited, and the last waker of the first one panics when it is
/// dropped. That is no affair of the second task.
#[test]
fn a_waker_that_panics_when_it_is_dropped_harms_nobody() {
    struct PanicsAtItsEnd;
    impl Drop for PanicsAtItsEnd {
        fn drop(&mut self) {
            panic!("the executor is gone");
        }
    }
    let disk = Faulty::in_memory();
    let wal = open(&tight(), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    let mut ticket = Box::pin(wal.append(b"awaited").unwrap());
    assert!(poll(&mut ticket, &Waker::from(Arc::new(Holds(PanicsAtItsEnd)))).is_pending());
    assert!(poll(&mut ticket, Waker::noop()).is_pending());
    gate.open();
    block_on(ticket).unwrap();
    wal.close().unwrap();
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
