//! A storage of somebody else's that panics inside a call. The log cannot go on, and nobody may wait for a
//! thread that has gone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};
use wal::{ErrorKind, Wal, io::Memory};
use wal_tests::{
    eventually_prepared,
    fault::{Fault, Faulty, On, Verb},
    open, quiet, replay_when_free, without_hanging,
};

type Disk = Faulty<Memory>;

/// A log whose first successor is prepared, and one record in it.
fn with_a_record() -> (Disk, Wal<Disk>) {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    eventually_prepared(&wal);
    wal.append(b"kept").unwrap().wait().unwrap();
    (disk, wal)
}

fn assert_latched(disk: &Disk, wal: Wal<Disk>) {
    assert_eq!(wal.append(b"later").unwrap_err().kind(), ErrorKind::Latched);
    assert_eq!(wal.flush().unwrap_err().kind(), ErrorKind::Latched);
    assert_eq!(wal.close().unwrap_err().kind(), ErrorKind::Latched);
    drop(wal);
    let (records, ..) = replay_when_free(&quiet(), disk).unwrap();
    assert_eq!(records[0].1, b"kept");
}

/// The caller of `wait` writes the frame itself, and the panic is its own. Everybody else who waits for the
/// frame hears that it failed.
#[test]
fn a_panic_in_a_waiter_s_write_is_told_to_all_others() {
    without_hanging("a storage that panics under a waiter", || {
        let (disk, wal) = with_a_record();
        let gate = disk.control().gate(On::frame());
        disk.control().fail(Fault::panics(On::frame()));
        let writer = wal.append(b"written by who waits for it").unwrap();
        let other = wal.append(b"in the same frame").unwrap();
        let (tell, told) = mpsc::channel();
        let last = wal.append(b"called back").unwrap();
        let outcomes = thread::scope(|scope| {
            let writes = scope.spawn(move || catch_unwind(AssertUnwindSafe(|| writer.wait())));
            gate.wait_for(1);
            let waits = scope.spawn(move || other.wait());
            last.on_durable(move |outcome| tell.send(outcome).unwrap());
            gate.open();
            (writes.join().unwrap(), waits.join().unwrap())
        });
        assert!(outcomes.0.is_err(), "the panic is not swallowed");
        assert_eq!(outcomes.1.unwrap_err().kind(), ErrorKind::Latched);
        assert_eq!(told.recv().unwrap().unwrap_err().kind(), ErrorKind::Latched);
        assert_latched(&disk, wal);
    });
}

/// Nobody blocks: a committer thread writes, panics, and is gone.
#[test]
fn a_panic_in_a_committer_is_told_to_all() {
    without_hanging("a storage that panics under a committer", || {
        let (disk, wal) = with_a_record();
        disk.control().fail(Fault::panics(On::frame()));
        let (tell, told) = mpsc::channel();
        wal.append(b"lost").unwrap().on_durable(move |outcome| tell.send(outcome).unwrap());
        assert_eq!(told.recv().unwrap().unwrap_err().kind(), ErrorKind::Latched);
        assert_latched(&disk, wal);
    });
}

/// The preparer panics while it makes the next segment. Who needs that segment would wait for ever.
#[test]
fn a_panic_while_a_segment_is_prepared_is_told_to_who_needs_it() {
    for on in [On::every(Verb::CreateFile), On::every(Verb::SyncDir), On::segment_header()] {
        without_hanging("a storage that panics under the preparer", move || {
            let (disk, wal) = with_a_record();
            disk.control().fail(Fault::panics(on));
            let error = loop {
                let ticket = wal.append(&[4; 5000]);
                if let Err(error) = ticket.and_then(|ticket| ticket.wait()) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::Latched, "{error}");
            assert_latched(&disk, wal);
        });
    }
}

/// An open flushes its slots on several threads, and the storage panics under one that is not the caller's.
/// Nobody knows whether that slot is durable: to go on would be to present it as such.
#[test]
fn a_panic_while_the_slots_are_flushed_fails_the_open() {
    let options = quiet().segment_bytes(64 << 10);
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&options, disk.clone()).unwrap();
    for _ in 0..30 {
        wal.append(&[5; 15_000]).unwrap().wait().unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    let helper = || On::every(Verb::Spawn).in_file("wal-flush");
    let flush = || On::every(Verb::Sync).in_file("slot-000000");
    control.forget_events();
    control.fail(Fault::panics(flush()));
    let first = control.gate(helper());
    let error = thread::scope(|scope| {
        let first = first;
        let opening = scope.spawn(|| options.open_in(disk.clone()).map(drop));
        first.wait_for(1);
        // The caller flushes what is left once all helpers are started: until then the first is alone.
        let second = control.gate(helper());
        first.open();
        second.wait_for(1);
        control.wait_for_start(&flush());
        second.open();
        opening.join().unwrap().unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let (records, ..) = replay_when_free(&options, &disk).unwrap();
    assert_eq!(records.len(), 30);
}
