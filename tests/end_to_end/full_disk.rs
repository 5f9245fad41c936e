//! A full disk, and a checkpoint that frees room on it: who is told that there is none, and who is not.

use crate::{
    craft::{append, open, payload, small},
    spy::{Spy, Verb},
};
use std::thread;
use wal::{ErrorKind, Lsn, io::Memory};

/// On a full disk one thread waits for a segment that is just being tried; another writes a
/// checkpoint that frees two, and appends. The failure of a try that began before the checkpoint
/// must not be the answer to an append that came after it: there is room.
#[test]
fn append_after_a_checkpoint_is_not_answered_by_an_older_failure() {
    let disk = Memory::with_capacity(200 << 10);
    let spy = Spy::new(disk);
    let (_, wal, _) = open(&small(), &spy).unwrap();
    let mut last = append(&wal, b"first").0;
    while let Ok(ticket) = wal.append(&payload(1, 3000)) {
        last = ticket.wait().unwrap().get();
    }
    spy.hold(Verb::Create);
    thread::scope(|scope| {
        let early = scope.spawn(|| wal.append(b"early").map(|ticket| ticket.lsn()));
        while !spy.is_holding() {
            thread::yield_now();
        }
        wal.checkpoint(Lsn::new(last), b"").unwrap().wait().unwrap();
        let waits = || wal.stats().segment_waits + wal.stats().memory_waits;
        let before = waits();
        let late = scope.spawn(|| wal.append(b"late").map(|ticket| ticket.lsn()));
        // It queues for the segment, or for its turn behind the other.
        while waits() == before && !late.is_finished() {
            thread::yield_now();
        }
        spy.let_go();
        // Whichever way the first one ends, it came before there was room.
        let _ = early.join().unwrap();
        let late = late.join().unwrap();
        assert!(late.is_ok(), "two segments are free: {late:?}");
    });
    wal.close().unwrap();
}

/// The same, and nobody waits for the segment that is being tried: a call that may not block asked for it,
/// and went away. Its failure is not the answer to whoever comes after the checkpoint, blocking or not.
#[test]
fn a_try_from_before_the_checkpoint_answers_nobody_after_it() {
    for blocks in [true, false] {
        let spy = Spy::new(Memory::with_capacity(200 << 10));
        let (_, wal, _) = open(&small(), &spy).unwrap();
        let mut last = append(&wal, b"first").0;
        while let Ok(ticket) = wal.append(&payload(1, 3000)) {
            last = ticket.wait().unwrap().get();
        }
        spy.hold(Verb::Create);
        assert!(wal.try_append(&payload(1, 3000)).is_err(), "there is no room yet");
        while !spy.is_holding() {
            thread::yield_now();
        }
        wal.checkpoint(Lsn::new(last), b"").unwrap().wait().unwrap();
        let late = thread::scope(|scope| {
            let waits = || wal.stats().segment_waits;
            let before = waits();
            let late = scope.spawn(|| match blocks {
                true => wal.append(b"late").map(drop),
                false => loop {
                    match wal.try_append(b"late") {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                        answer => break answer.map(drop),
                    }
                },
            });
            // One of the two is asleep, and the other is told what the last try came to.
            while blocks && waits() == before && !late.is_finished() {
                thread::yield_now();
            }
            spy.let_go();
            late.join().unwrap()
        });
        assert!(late.is_ok(), "two segments are free: {late:?}");
        wal.close().unwrap();
    }
}

/// The replay of a log on a full disk reads ahead on threads of its own, and on a busy machine one
/// of them has not even started when the replay is over. It holds the segments that it would have
/// read: freed by a checkpoint, they must be room for the next append, and not pinned by nobody's
/// reading.
#[test]
fn freed_segments_are_room_though_a_replay_thread_is_late() {
    let disk = Memory::with_capacity(200 << 10);
    let last = {
        let (_, wal, _) = open(&small(), &disk).unwrap();
        let mut last = append(&wal, b"first").0;
        while let Ok(ticket) = wal.append(&payload(1, 3000)) {
            last = ticket.wait().unwrap().get();
        }
        last
    };
    let spy = Spy::new(disk);
    spy.delay_threads("wal-read-ahead");
    let (_, wal, _) = open(&small(), &spy).unwrap();
    wal.checkpoint(Lsn::new(last), b"").unwrap().wait().unwrap();
    let appended = wal.append(&payload(2, 20_000)).and_then(|ticket| ticket.wait());
    spy.start_late_threads();
    assert!(appended.is_ok(), "two of three segments are free: {appended:?}");
    wal.close().unwrap();
}
