//! What `linger` and `confirm_after` promise, beside a callback that takes its time.
//!
//! A committer that ran a callback had said before when it would look at its clock again, and was believed: a
//! record that was appended meanwhile, and for which nobody waited, was written when the callback was over. A
//! committer that slept without a time-out was not woken for it.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};
use wal::{Lsn, Options, Wal, io::Memory};
use wal_tests::{
    eventually,
    fault::{Faulty, On},
    without_hanging,
};

type Log = Wal<Faulty<Memory>>;

const LINGER: Duration = Duration::from_millis(50);

fn lingering(depth: u32) -> Options {
    Options::new()
        .segment_bytes(1 << 20)
        .frame_bytes(16 << 10)
        .pool_bytes(256 << 10)
        .depth(depth)
        .linger(LINGER)
        .confirm_after(Duration::from_millis(1))
}

/// What the threads of a log were doing before a callback blocks one of them.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// Nothing yet.
    New,
    /// All of them wrote at once, then each fell asleep; the last frame is vouched for, so that they sleep until
    /// they are woken.
    AtRest,
    /// They wrote just now, and look at their clocks again soon.
    Busy,
    /// A record lingered, and the time that a committer had set itself has passed.
    Lingered,
}

const STATES: [(Before, u32); 8] = [
    (Before::New, 1),
    (Before::New, 4),
    (Before::AtRest, 1),
    (Before::AtRest, 2),
    (Before::AtRest, 4),
    (Before::Busy, 2),
    (Before::Lingered, 2),
    (Before::Lingered, 4),
];

/// Which thread is blocked.
#[derive(Clone, Copy, Debug)]
enum Blocked {
    /// The committer that is woken for the callback.
    Committer,
    /// The committer that writes a record because it has lingered, before anybody asks for a callback. Nobody is
    /// woken for it, and the others sleep on, without a time-out if they were at rest.
    Lingerer,
    /// A thread of the program's own, which waits for its record and writes it.
    Waiter,
}

/// Lets as many committers run as there may be, each in a write of its own.
fn have_all_write(wal: &Log, disk: &Faulty<Memory>, depth: u32) {
    let gate = disk.control().gate(On::frame());
    let tickets: Vec<_> = (0..=depth).map(|_| wal.append(&[1; 15_000]).unwrap()).collect();
    gate.wait_for(depth.into());
    gate.open();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

/// Waits until the last frame is vouched for and nothing is written any more.
fn rest(wal: &Log) {
    eventually("the last frame is vouched for", || {
        let before = wal.stats().frames;
        thread::sleep(LINGER * 2);
        wal.stats().frames == before
    });
}

fn prepare(wal: &Log, disk: &Faulty<Memory>, before: Before, depth: u32) {
    match before {
        Before::New => {}
        Before::AtRest => {
            have_all_write(wal, disk, depth);
            rest(wal);
        }
        Before::Busy => have_all_write(wal, disk, depth),
        Before::Lingered => {
            have_all_write(wal, disk, depth);
            let lingered = wal.append(b"nobody waits").unwrap();
            eventually("it has lingered", || lingered.is_durable());
        }
    }
}

/// Appends a record whose callback blocks its thread until the answer is dropped; comes back when it has been
/// called, with where it stands. Does `meanwhile` when the record is being written, if its committer has lingered.
fn block(
    wal: &Arc<Log>,
    disk: &Faulty<Memory>,
    blocked: Blocked,
    meanwhile: impl FnOnce(),
) -> (mpsc::Sender<()>, Lsn) {
    let (go, may_end) = mpsc::channel::<()>();
    let (entered, is_in) = mpsc::channel();
    let callback = move |outcome: wal::Result<Lsn>| {
        // Both ends may be gone if the test failed.
        let _ = entered.send(outcome.unwrap());
        let _ = may_end.recv();
    };
    let ticket = wal.append(b"told").unwrap();
    match blocked {
        Blocked::Committer => {
            ticket.on_durable(callback);
            meanwhile();
        }
        Blocked::Lingerer => {
            // A confirmation of what was there before may be under way: it comes first, and is not held up.
            let block = u64::from(wal.identity().block_bytes);
            let gate = disk.control().gate(On::frame_at(ticket.lsn().get() / block * block));
            gate.wait_for(1);
            ticket.on_durable(callback);
            meanwhile();
            gate.open();
        }
        Blocked::Waiter => {
            ticket.on_durable(callback);
            let wal = Arc::clone(wal);
            // Whether it writes the frame or a committer does is theirs to settle.
            thread::spawn(move || wal.flush().map(drop));
            meanwhile();
        }
    }
    let lsn = is_in.recv().unwrap();
    (go, lsn)
}

/// A record that nobody waits for is durable after `linger`, and vouched for after `confirm_after`, though
/// `callbacks` threads of the log stand in callbacks.
fn lingers(before: Before, blocked: Blocked, depth: u32, callbacks: u32, pause: Duration) {
    let what = format!("{before:?}, {blocked:?}, depth {depth}, {callbacks} callbacks, {pause:?}");
    without_hanging(&what.clone(), move || {
        let disk = Faulty::in_memory();
        let wal = Arc::new(open_log(depth, &disk));
        prepare(&wal, &disk, before, depth);
        let gates: Vec<_> = (0..callbacks).map(|_| block(&wal, &disk, blocked, || ())).collect();
        thread::sleep(pause);
        let second = wal.append(b"nobody waits").unwrap();
        eventually(&format!("a record has lingered: {what}"), || second.is_durable());
        let block = u64::from(wal.identity().block_bytes);
        // The durable mark stands at the end of the record's block until a frame behind it is durable.
        eventually(&format!("the last frame is vouched for: {what}"), || {
            wal.durable_lsn().get() / block > second.lsn().get() / block + 1
        });
        // Once more, when the committer that did this has gone to sleep.
        thread::sleep(pause);
        let third = wal.append(b"nobody waits").unwrap();
        eventually(&format!("another record has lingered: {what}"), || third.is_durable());
        drop(gates);
        wal.close().unwrap();
    });
}

fn open_log(depth: u32, disk: &Faulty<Memory>) -> Log {
    wal_tests::open(&lingering(depth), disk.clone()).unwrap()
}

fn in_each_state(blocked: Blocked) {
    for before in [Before::New, Before::AtRest, Before::Busy, Before::Lingered] {
        for (depth, callbacks) in [(1, 1), (2, 1), (2, 2), (4, 1), (4, 3)] {
            // At once; and when whatever time a committer had set itself has passed.
            for pause in [Duration::ZERO, LINGER * 2] {
                lingers(before, blocked, depth, callbacks, pause);
            }
        }
    }
}

/// See [`lingers`].
#[test]
fn a_record_lingers_no_longer_beside_a_callback_on_a_committer() {
    in_each_state(Blocked::Committer);
}

/// See [`lingers`].
#[test]
fn a_record_lingers_no_longer_beside_a_callback_on_who_lingered() {
    in_each_state(Blocked::Lingerer);
}

/// See [`lingers`].
#[test]
fn a_record_lingers_no_longer_beside_a_callback_on_a_waiter() {
    in_each_state(Blocked::Waiter);
}

/// The record was appended while the frame before it was being written, and its frame stands open when the
/// callback begins: nobody is woken by it any more.
#[test]
fn a_record_that_was_there_before_the_callback_lingers_no_longer() {
    for (before, depth) in STATES {
        without_hanging(&format!("{before:?}, depth {depth}"), move || {
            let disk = Faulty::in_memory();
            let wal = Arc::new(open_log(depth, &disk));
            prepare(&wal, &disk, before, depth);
            let mut second = None;
            let append = || second = Some(wal.append(b"nobody waits").unwrap());
            let (go, _) = block(&wal, &disk, Blocked::Lingerer, append);
            let second = second.unwrap();
            eventually("the second record has lingered", || second.is_durable());
            drop(go);
            wal.close().unwrap();
        });
    }
}

/// Nothing is appended while the callback stands: the frame that it was told of is vouched for, whatever the other
/// threads were doing.
#[test]
fn the_last_frame_is_vouched_for_beside_a_callback() {
    for (before, depth) in STATES {
        for blocked in [Blocked::Committer, Blocked::Lingerer, Blocked::Waiter] {
            without_hanging(&format!("{before:?}, {blocked:?}, depth {depth}"), move || {
                let disk = Faulty::in_memory();
                let wal = Arc::new(open_log(depth, &disk));
                prepare(&wal, &disk, before, depth);
                // Not what was appended last: that may be what vouches for it, by now.
                let (go, last) = block(&wal, &disk, blocked, || ());
                let block = u64::from(wal.identity().block_bytes);
                eventually("the last frame is vouched for", || {
                    wal.durable_lsn().get() / block > last.get() / block
                });
                drop(go);
                wal.close().unwrap();
            });
        }
    }
}
