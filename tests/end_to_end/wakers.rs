//! Wakers and callbacks, which are the user's and may wait for the log, on threads that others wait for.
//!
//! Whoever opened a frame woke the next task that waits for room, before it had filled its own: a waker that waited
//! for the log waited for the thread that it ran on. And a task or a callback was told by a committer when that had
//! done its write, which a disk that hangs never ends.

use std::{
    sync::{Arc, mpsc},
    task::Context,
    time::Duration,
};
use wal::{ErrorKind, Options, Wal, io::Memory};
use wal_tests::{
    eventually, eventually_prepared,
    fault::{EIO, Fault, Faulty, Gate, On},
    kind_of, open, quiet,
    tasks::{CountingWaker, poll_once},
    watched::{Moment, watched},
    without_hanging,
};

type Log = Wal<Faulty<Memory>>;

/// Fits a buffer of the pool, and little beside it.
const BIG: usize = 14_000;

/// Two buffers.
fn tight() -> Options {
    quiet().pool_bytes(32 << 10).frame_bytes(16 << 10).segment_bytes(1 << 20)
}

/// A log whose two frames are held in their writes, one gate for each. Until the process ends, for a future that is
/// kept borrows it.
fn exhausted(options: &Options) -> (&'static Arc<Log>, Gate, Gate) {
    let disk = Faulty::in_memory();
    let wal: &'static Arc<Log> =
        Box::leak(Box::new(Arc::new(open(options, disk.clone()).unwrap())));
    eventually_prepared(wal);
    // The opening frame stands before them.
    let first = wal.appended_lsn().get().next_multiple_of(4096);
    let gates = [first, first + (16 << 10)].map(|offset| disk.control().gate(On::frame_at(offset)));
    while wal.try_append(&[1; BIG]).is_ok() {}
    let [first, second] = gates;
    first.wait_for(1);
    (wal, first, second)
}

/// A thread takes the buffer that came back, and in what is left of it a task finds room. Its executor flushes the log
/// when it is woken, and the flush waits for the thread's own record, which is not copied yet.
#[test]
fn a_waker_that_flushes_the_log_waits_for_no_room_of_its_own_thread() {
    let (wal, first, second) = exhausted(&tight());
    let never_polled = Arc::new(CountingWaker::default());
    let mut starved = wal.append_async(&[2; BIG]);
    assert!(poll_once(&mut starved, &never_polled).is_pending());
    let (tell, told) = mpsc::channel();
    let log = Arc::clone(wal);
    let waker = watched(move |moment| {
        if moment == Moment::Woken {
            // The receiver is gone only if it gave up on us.
            let _ = tell.send(log.flush().is_ok());
        }
    });
    let mut small = Box::pin(wal.append_async(b"finds room in what is left"));
    assert!(small.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    first.open();
    eventually("a buffer is back", || never_polled.count() > 0);
    without_hanging("a thread that wakes a task", || wal.append_untracked(&[3; 10_000]).unwrap());
    second.open();
    let is_flushed = without_hanging("a waker that flushes", move || told.recv());
    assert_eq!(is_flushed, Ok(true));
    without_hanging("a close", || wal.close().unwrap());
}

/// There is room, and the first task that was told of it is never polled. The next one is told after a `linger`,
/// though the only committer is in a write that does not end.
#[test]
fn the_next_task_is_told_of_room_while_the_disk_hangs() {
    let options = tight().depth(1).linger(Duration::from_millis(1));
    let (wal, first, second) = exhausted(&options);
    let wakers = [(); 3].map(|()| Arc::new(CountingWaker::default()));
    let mut futures: Vec<_> = wakers.iter().map(|_| wal.append_async(&[2; BIG])).collect();
    for (future, waker) in futures.iter_mut().zip(&wakers) {
        assert!(poll_once(future, waker).is_pending());
    }
    first.open();
    second.wait_for(1);
    eventually("all are told, one after the other", || {
        wakers.iter().all(|waker| waker.count() > 0)
    });
    assert_eq!(second.blocked(), 1, "the disk hangs");
    second.open();
}

/// The preparer's write fails, and the only committer is in a write that does not end. Whoever waits without being
/// asleep hears that the log has latched.
#[test]
fn a_callback_hears_of_a_latch_while_the_disk_hangs() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let header = On::segment_header().in_file("slot-000001");
    let prepares = control.gate(header.clone());
    control.fail(Fault::once(header, EIO));
    let wal = open(&tight().depth(1), disk).unwrap();
    prepares.wait_for(1);
    let hangs = control.gate(On::frame());
    let (tell, told) = mpsc::channel();
    let again = tell.clone();
    // The receiver is gone only if it gave up on us.
    let first = move |outcome| tell.send(kind_of(outcome)).unwrap_or_default();
    let second = move |outcome| again.send(kind_of(outcome)).unwrap_or_default();
    wal.append(b"first").unwrap().on_durable(first);
    hangs.wait_for(1);
    wal.append(b"second").unwrap().on_durable(second);
    prepares.open();
    for _ in 0..2 {
        let kind = told.recv_timeout(Duration::from_secs(60)).expect("nobody told it");
        assert_eq!(kind, Some(ErrorKind::Latched));
    }
    assert_eq!(hangs.blocked(), 1, "the disk hangs");
    hangs.open();
}
