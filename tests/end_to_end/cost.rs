//! What group commit does not do: wake in vain, call the system for each record, and burn a processor.

use crate::spy::Spy;
use std::{sync::mpsc, thread};
use wal::io::Memory;
use wal_tests::{
    eventually, eventually_prepared,
    fault::{Faulty, On, Woken},
    open, quiet,
};

/// Everyone who waits is woken at each commit, looks, and sleeps again: at 64 writers that is where the
/// time goes. When a frame is durable, who waits for it is woken, and of those who wait for the next one
/// the one that is to write it.
#[test]
fn nobody_is_woken_whose_record_is_not_durable() {
    const COMPANY: u64 = 8;
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&quiet(), disk).unwrap();
    eventually_prepared(&wal);
    let tail = wal.durable_lsn().get();
    let (first, second) = (On::frame_at(tail), On::frame_at(tail + 4096));
    let gates = [control.gate(first.clone()), control.gate(second.clone())];
    thread::scope(|scope| {
        let [first_gate, second_gate] = gates;
        let alone = wal.append(b"alone").unwrap();
        let alone = scope.spawn(|| alone.wait());
        control.wait_for_start(&first);
        let company: Vec<_> = (0..COMPANY)
            .map(|index| {
                let ticket = wal.append(&index.to_le_bytes()).unwrap();
                scope.spawn(|| ticket.wait())
            })
            .collect();
        eventually("all others sleep", || control.sleeps() == COMPANY);
        first_gate.open();
        alone.join().unwrap().unwrap();
        control.wait_for_start(&second);
        assert_eq!(control.woken(), Woken { one: 1, all: 0 }, "one, who writes the second frame");
        second_gate.open();
        for waiter in company {
            waiter.join().unwrap().unwrap();
        }
        assert_eq!(control.woken(), Woken { one: 1, all: 1 }, "and then all of them, at once");
    });
}

/// What the log asks of the disk and of other threads goes through its storage. Counted there, ten
/// thousand records that nobody waits for cost what their few frames cost.
#[test]
fn appending_makes_no_system_call_per_record() {
    const RECORDS: u64 = 10_000;
    let options = quiet().segment_bytes(64 << 20).frame_bytes(256 << 10).pool_bytes(4 << 20);
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&options, disk).unwrap();
    eventually_prepared(&wal);
    let (before, frames_before) = (control.calls(), wal.stats().frames);
    for _ in 0..RECORDS {
        drop(wal.append(&[7; 128]).unwrap());
    }
    wal.flush().unwrap();
    let (calls, frames) = (control.calls() - before, wal.stats().frames - frames_before);
    assert!(frames >= RECORDS * 128 / (256 << 10), "{frames} frames");
    // A write, a committer's wake-up and its sleep after it; and what the log's threads look after.
    assert!(calls <= 8 * frames + 40, "{calls} calls for {frames} frames");
}

/// A record is serialised in place, and that takes its time, while somebody waits for the frame that it is in.
/// Who writes the frame first gives its processor away, for the copy may need nothing else, and then sleeps;
/// looking without a pause it would burn a processor for as long as a stranger's closure likes.
#[test]
fn who_waits_for_a_copy_yields_and_then_sleeps() {
    let spy = Spy::new(Memory::new());
    let wal = open(&quiet(), spy.clone()).unwrap();
    let before = spy.rests();
    let (entered, is_in) = mpsc::channel();
    thread::scope(|scope| {
        let (wal, spy) = (&wal, &spy);
        let filling = scope.spawn(move || {
            let fill = |room: &mut [u8]| {
                entered.send(()).unwrap();
                eventually("the writer sleeps", || spy.rests().sleeps > before.sleeps);
                let yields = spy.rests().yields - before.yields;
                assert!(yields >= 100, "{yields} yields before the first sleep");
                room.fill(7);
            };
            drop(wal.append_with(100, fill).unwrap());
        });
        is_in.recv().unwrap();
        wal.append(b"in the same frame").unwrap().wait().unwrap();
        filling.join().unwrap();
    });
    wal.close().unwrap();
}
