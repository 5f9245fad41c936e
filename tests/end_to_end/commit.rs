//! Group commit: what is acknowledged and when, and who writes.

use std::{
    ops::Range,
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};
use wal::{
    ErrorKind, Ticket, Wal,
    io::{Directory, Memory, Storage},
};
use wal_tests::{
    Random, eventually, eventually_prepared,
    fault::{Call, EIO, Event, Fault, Faulty, Gate, On, PATIENCE, Verb},
    kind_of, open, quiet, replay,
    tasks::{CountingWaker, block_on, poll_once},
    without_hanging,
};

type Disk = Faulty<Memory>;

/// Two of these do not fit one frame of [`quiet`].
const BIG: [u8; 9000] = [7; 9000];

/// What a frame with one of them takes on disk.
const BIG_FRAME_BYTES: u64 = 3 * 4096;

/// How many durable writes have ended, acknowledged or not.
fn writes_ended<S: Storage>(wal: &Wal<S>) -> u64 {
    wal.stats().commit_histogram.count()
}

/// Four frames of one record each: three sealed and in flight at once, written by threads that wait for
/// them, the fourth open. The writes of `gated` are blocked, that of `failing` is going to fail. `story`
/// gets the tickets meanwhile, and opens the gates.
fn in_flight(
    gated: Range<u64>,
    failing: Option<u64>,
    story: impl FnOnce(&Disk, &Wal<Disk>, &[Ticket<Disk>], Vec<Gate>),
) {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&quiet().depth(4), disk.clone()).unwrap();
    let tail = wal.durable_lsn().get();
    let frame = |index: u64| On::frame_at(tail + index * BIG_FRAME_BYTES);
    let gates: Vec<_> = gated.map(|index| control.gate(frame(index))).collect();
    if let Some(index) = failing {
        control.fail(Fault::once(frame(index), EIO));
    }
    let tickets: Vec<_> = (0..4).map(|_| wal.append(&BIG).unwrap()).collect();
    thread::scope(|scope| {
        let gates = gates;
        for ticket in &tickets[..3] {
            scope.spawn(|| drop(ticket.wait_timeout(PATIENCE)));
        }
        for index in 0..3 {
            control.wait_for_start(&frame(index));
        }
        story(&disk, &wal, &tickets, gates);
    });
}

/// Frame N hangs in the device while N+1 and N+2 are done. Had they been acknowledged, a crash now would
/// lose them: recovery stops at the hole.
#[test]
fn nothing_is_acknowledged_behind_a_hole() {
    in_flight(0..1, None, |disk, wal, tickets, mut gates| {
        let durable = wal.durable_lsn();
        eventually("the later frames are written", || writes_ended(wal) == 3);
        assert!(tickets.iter().all(|ticket| !ticket.is_durable()));
        assert_eq!(wal.durable_lsn(), durable);
        let (records, _, report) = replay(&quiet(), disk.crash()).unwrap();
        assert!(records.is_empty(), "the frames behind the hole are cut");
        let cut = report.cut.expect("and the report says so");
        assert_eq!((cut.at, cut.intact_frames, cut.intact_records), (durable, 2, 2));

        gates.remove(0).open();
        for ticket in &tickets[..3] {
            assert_eq!(ticket.wait_timeout(PATIENCE).unwrap(), ticket.lsn());
        }
    });
}

/// Frame N is done while N+1 is still under way on a disk with a volatile cache. If N+1's flush fails,
/// the disk may have dropped what it cached, N with it: N is durable only when N+1 has succeeded too.
#[test]
fn a_frame_waits_for_the_writes_that_were_under_way_with_it() {
    in_flight(0..2, None, |_, wal, tickets, mut gates| {
        let second = gates.pop().unwrap();
        gates.remove(0).open();
        eventually("the first and the third are written", || writes_ended(wal) == 3);
        assert!(!tickets[0].is_durable(), "the second may still take it along");
        second.open();
        for ticket in &tickets[..3] {
            ticket.wait_timeout(PATIENCE).unwrap();
        }
    });
}

/// The same, and the second write does fail: the first frame's record must not be acknowledged, then or
/// ever after, though its own write said Ok.
#[test]
fn a_later_write_that_fails_takes_the_earlier_frame_along() {
    in_flight(0..2, Some(1), |_, wal, tickets, mut gates| {
        let durable = wal.durable_lsn();
        let second = gates.pop().unwrap();
        gates.remove(0).open();
        eventually("the first and the third are written", || writes_ended(wal) == 3);
        second.open();
        for ticket in tickets {
            assert_eq!(kind_of(ticket.wait_timeout(PATIENCE)), Some(ErrorKind::Latched));
        }
        assert_eq!(wal.durable_lsn(), durable);
    });
}

/// The other way round: the second write fails while the first is still under way. When that one says
/// Ok, well after the failure, it acknowledges nothing.
#[test]
fn a_write_that_ends_after_the_failure_acknowledges_nothing() {
    in_flight(0..2, Some(1), |_, wal, tickets, mut gates| {
        let durable = wal.durable_lsn();
        let second = gates.pop().unwrap();
        second.open();
        assert_eq!(kind_of(tickets[1].wait_timeout(PATIENCE)), Some(ErrorKind::Latched));
        gates.remove(0).open();
        eventually("the first and the third are written", || writes_ended(wal) == 3);
        assert_eq!(kind_of(tickets[0].wait_timeout(PATIENCE)), Some(ErrorKind::Latched));
        assert_eq!(wal.durable_lsn(), durable);
    });
}

/// Callbacks and the mark may not run ahead of one another or backwards, whatever the order in which
/// writes end.
#[test]
fn acknowledgements_come_in_the_order_of_the_log() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet().depth(4).linger(Duration::from_millis(1)), disk).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for index in 0..400_usize {
                    let ticket = wal.append(&BIG[..index * 20]).unwrap();
                    let seen = Arc::clone(&seen);
                    if index % 3 == 0 {
                        let before = wal.durable_lsn();
                        let lsn = ticket.wait().unwrap();
                        assert!(wal.durable_lsn() > lsn);
                        assert!(wal.durable_lsn() >= before);
                    } else {
                        ticket.on_durable(move |outcome| {
                            seen.lock().unwrap().push(outcome.unwrap());
                        });
                    }
                }
            });
        }
    });
    wal.close().unwrap();
    let count = 4 * (0..400).filter(|index| index % 3 != 0).count();
    eventually("all callbacks ran", || seen.lock().unwrap().len() == count);
}

/// A disk that hangs holds the thread inside the write; everybody else can have themselves back, and
/// nothing about their records changes by it.
#[test]
fn a_wait_on_a_disk_that_hangs_can_be_given_up() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    thread::scope(|scope| {
        let gate = gate;
        let first = wal.append(b"first").unwrap();
        let second = wal.append(b"second").unwrap();
        let writer = scope.spawn(|| first.wait());
        gate.wait_for(1);
        let third = wal.append(b"third").unwrap();
        for ticket in [&second, &third] {
            for time in [Duration::ZERO, Duration::from_millis(3)] {
                assert_eq!(kind_of(ticket.wait_timeout(time)), Some(ErrorKind::TimedOut));
                assert!(!ticket.is_durable());
            }
        }
        gate.open();
        writer.join().unwrap().unwrap();
        assert_eq!(second.wait_timeout(PATIENCE).unwrap(), second.lsn());
        third.wait().unwrap();
    });
}

/// Who seals next is handed on to one sleeper. If that one gives up in the same instant, it has to pass
/// it on, or the others sleep for ever: with an hour's linger, nobody else comes to look.
fn baton_survives<S: Storage>(storage: S, rounds: u64) {
    let wal = Arc::new(open(&quiet(), storage).unwrap());
    without_hanging("the baton was lost", move || {
        let barrier = Barrier::new(16);
        thread::scope(|scope| {
            for thread in 0..16 {
                let (wal, barrier) = (&wal, &barrier);
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    barrier.wait();
                    for _ in 0..rounds {
                        let ticket = wal.append(&thread.to_le_bytes()).unwrap();
                        match random.below(8) {
                            0 => drop(ticket),
                            1 => assert!(block_on(ticket).is_ok()),
                            2 => {
                                // Awaited for a moment, then no longer wanted.
                                let mut ticket = ticket;
                                let waker = Arc::new(CountingWaker::default());
                                let _ = poll_once(&mut ticket, &waker);
                            }
                            3 => ticket.on_durable(|outcome| assert!(outcome.is_ok())),
                            _ => loop {
                                let time = Duration::from_micros(random.below(200));
                                match ticket.wait_timeout(time) {
                                    Ok(_) => break,
                                    Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
                                }
                            },
                        }
                    }
                });
            }
        });
        wal.flush().unwrap();
        wal.close().unwrap();
        assert_eq!(wal.stats().durable_records, wal.stats().records);
    });
}

/// See [`baton_survives`]: in memory, where writes end before anybody is asleep.
#[test]
fn the_baton_survives_time_outs_in_memory() {
    baton_survives(Memory::new(), 2000);
}

/// See [`baton_survives`]: with a disk's latency, where most are asleep.
#[test]
fn the_baton_survives_time_outs_with_latency() {
    let disk = Faulty::in_memory();
    disk.control().set_latency(Duration::from_micros(50));
    baton_survives(disk, 300);
}

/// See [`baton_survives`]: on a disk.
#[test]
fn the_baton_survives_time_outs_on_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    baton_survives(Directory::new(dir.path().join("log")), 100);
}

/// A thread lets its cohort join before it seals; meanwhile the frame fills up and another thread, which
/// waits for the next frame, writes it. That other one cannot seal its own frame while the first still
/// waits for company, so it falls asleep; the first finds its record durable and leaves. Who was to
/// seal the next frame? With an hour's linger, the sleeper finds out in an hour.
#[test]
fn the_baton_survives_a_cohort_whose_frame_was_written_by_another() {
    let disk = Faulty::in_memory();
    let wal = Arc::new(open(&quiet(), disk.clone()).unwrap());
    // Nothing holds a frame that is done, so that its own thread acknowledges it.
    eventually_prepared(&wal);
    let control = disk.control();
    // A commit that two others return from, so that the next one waits for company.
    thread::scope(|scope| {
        let gate = control.gate(On::frame());
        let first = wal.append(b"first").unwrap();
        let others = [wal.append(b"second").unwrap(), wal.append(b"third").unwrap()];
        scope.spawn(|| first.wait().unwrap());
        gate.wait_for(1);
        for other in others {
            other.on_durable(|outcome| assert!(outcome.is_ok()));
        }
        gate.open();
    });
    assert_eq!(wal.stats().acknowledged_waiters, 2);

    disk.freeze_clock();
    let company = wal.append(b"waits for company").unwrap();
    let joiner = thread::spawn(move || company.wait());
    control.wait_for_looks(1000);
    // Fills the frame, and opens the next one.
    let full = wal.append(&[7; 16_350]).unwrap();
    let other = thread::spawn(move || full.wait());
    eventually("the first frame is written by the other", || {
        let stats = wal.stats();
        stats.records - stats.durable_records == 1
    });
    // Let the other fall asleep: it has nothing else to do. Too early would only miss the bug.
    thread::sleep(Duration::from_millis(20));
    control.thaw();
    without_hanging("the baton was lost", move || {
        joiner.join().unwrap().unwrap();
        other.join().unwrap().unwrap();
    });
}

/// The writes of a segment must all be durable before the first frame of the next one is written:
/// recovery takes a frame there as proof of everything before it.
#[test]
fn no_frame_is_written_before_the_segment_before_is_durable() {
    let options = quiet().depth(4).linger(Duration::from_millis(1));
    let disk = Faulty::in_memory();
    disk.control().set_latency(Duration::from_micros(100));
    let wal = open(&options, disk.clone()).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for index in 0..200 {
                    let ticket = wal.append(&BIG).unwrap();
                    if index % 10 == 0 {
                        ticket.wait().unwrap();
                    }
                }
            });
        }
    });
    wal.close().unwrap();
    let is_frame = |call: &Call| call.verb == Verb::WriteDurable && call.offset > 0;
    let mut under_way: Vec<String> = Vec::new();
    let mut files_changed = 0;
    let mut last_file = String::new();
    for event in disk.control().events() {
        match event {
            Event::Start(call) if is_frame(&call) => {
                assert!(under_way.iter().all(|file| *file == call.file), "{under_way:?} {call:?}");
                files_changed += u32::from(last_file != call.file);
                last_file.clone_from(&call.file);
                under_way.push(call.file);
            }
            Event::Done(call) | Event::Failed(call) if is_frame(&call) => {
                let index = under_way.iter().position(|file| *file == call.file).unwrap();
                under_way.swap_remove(index);
            }
            _ => {}
        }
    }
    assert!(files_changed > 20, "{files_changed} segments");
}
