//! Group commit as its users see it: order, waiting, back-pressure, the end.

use std::{
    ops::Range,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use wal::{
    ErrorKind, Lsn, Ticket, Wal,
    io::{Directory, Memory, Storage},
};
use wal_tests::{
    Kept, Random, eventually,
    fault::{Call, EIO, Effect, Event, Fault, Faulty, Gate, On, PATIENCE, Verb},
    kind_of, open, quiet, replay, replay_when_free,
    tasks::{CountingWaker, block_on, join_all, poll_once},
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

/// A ticket is a handle, not the record: dropped ones are written like the others, by the next flush.
#[test]
fn dropped_tickets_change_nothing() {
    let options = quiet();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let kept: Vec<Kept> = (0..100_u8)
        .map(|index| {
            let payload = vec![index; 100];
            (wal.append(&payload).unwrap().lsn(), payload)
        })
        .collect();
    let appended = wal.appended_lsn();
    let end = wal.flush().unwrap();
    assert_eq!(end, appended);
    assert!(wal.durable_lsn() >= end);
    assert_eq!(wal.flush().unwrap(), end, "a second one has nothing to do");
    drop(wal);
    assert_eq!(replay_when_free(&options, &storage).unwrap().0, kept);
}

/// A program appends and never waits: after `linger` the records are written without anybody's help.
#[test]
fn what_nobody_waits_for_is_written_after_linger() {
    let options = quiet().linger(Duration::from_millis(1));
    let wal = open(&options, Memory::new()).unwrap();
    for _ in 0..5 {
        let ticket = wal.append(b"nobody waits").unwrap();
        eventually("it is durable", || ticket.is_durable());
    }
}

/// The last frame has nobody after it to prove that it was once acknowledged: damage there looks like
/// a torn write. A log that goes idle writes an empty frame that vouches for it, once.
#[test]
fn an_idle_log_confirms_its_last_frame_once() {
    let options = quiet().linger(Duration::from_millis(1)).confirm_after(Duration::from_millis(2));
    let wal = open(&options, Memory::new()).unwrap();
    for _ in 0..3 {
        let frames = wal.stats().frames;
        let lsn = wal.append(b"x").unwrap().wait().unwrap();
        eventually("a confirmation", || wal.stats().frames == frames + 2);
        assert!(wal.durable_lsn().distance_from(lsn) > Some(4096), "the mark moved over it");
        // Time for a second one that must not come: this can only miss a bug.
        thread::sleep(Duration::from_millis(10));
        assert_eq!(wal.stats().frames, frames + 2);
    }
}

/// A transfer is a debit and a credit. The disk dies in the middle of the frame that holds both, at any
/// of its sectors: neither may be there afterwards, and an earlier batch must be there whole.
#[test]
fn a_batch_is_there_whole_or_not_at_all() {
    let options = quiet();
    for effect in [Effect::Nothing, Effect::Torn, Effect::Whole] {
        let disk = Faulty::in_memory();
        let wal = open(&options, disk.clone()).unwrap();
        let append = |name: &str| {
            let mut batch = wal.batch();
            for part in 0..3 {
                batch.push(format!("{name} {part}").as_bytes()).unwrap();
            }
            batch.push_with(3000, |room| room.fill(9)).unwrap();
            assert_eq!(batch.len(), 4);
            batch.append().unwrap()
        };
        let first = append("first");
        assert!(first.last_lsn() > first.lsn());
        first.wait().unwrap();
        disk.control().fail(Fault::once(On::frame(), EIO).with_effect(effect));
        assert_eq!(kind_of(append("second").wait()), Some(ErrorKind::Latched));
        drop(wal);
        let (records, ..) = replay(&options, disk.crash()).unwrap();
        let whole = if effect == Effect::Whole { 8 } else { 4 };
        assert_eq!(records.len(), whole, "{effect:?}");
        assert_eq!(records[0].1, b"first 0");
        assert_eq!(records[3].1, [9; 3000]);
    }
}

/// Batches from many threads never interleave, whether they fit a frame or need memory of their own.
#[test]
fn batches_do_not_interleave() {
    let options = quiet();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    thread::scope(|scope| {
        for thread in 0..8_u8 {
            let wal = &wal;
            scope.spawn(move || {
                for round in 0..40_u8 {
                    let mut batch = wal.batch();
                    let length = if round % 10 == 0 { 4000 } else { 300 };
                    for part in 0..6_u8 {
                        let mut payload = vec![0; length];
                        payload[..3].copy_from_slice(&[thread, round, part]);
                        batch.push(&payload).unwrap();
                    }
                    batch.append().unwrap().wait().unwrap();
                }
            });
        }
    });
    let empty = wal.batch();
    assert!(empty.is_empty());
    assert_eq!(kind_of(empty.append()), Some(ErrorKind::InvalidInput));
    wal.close().unwrap();
    drop(wal);
    let mut replay = options.open_in(storage).unwrap();
    let mut count = 0_usize;
    let mut open_batch = Vec::new();
    while let Some(record) = replay.next().unwrap() {
        count += 1;
        open_batch.push((record.payload()[0], record.payload()[1], record.payload()[2]));
        if record.ends_batch() {
            let (thread, round, _) = open_batch[0];
            let expected: Vec<_> = (0..6).map(|part| (thread, round, part)).collect();
            assert_eq!(open_batch, expected);
            open_batch.clear();
        }
    }
    assert_eq!(count, 8 * 40 * 6);
}

/// Sixty-four threads, records of all sizes, some waited for and some not: the log is exactly what was
/// appended, in the order of the positions that were handed out.
#[test]
fn sixty_four_threads_get_one_order() {
    let options = quiet().pool_bytes(256 << 10);
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let kept = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..64_u64 {
            let (wal, kept) = (&wal, &kept);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let mut mine: Vec<Kept> = Vec::new();
                for index in 0..300_u64 {
                    let extra = match random.below(50) {
                        0 => random.below(20_000),
                        _ => random.below(300),
                    };
                    let mut payload = thread.to_le_bytes().to_vec();
                    payload.extend(index.to_le_bytes());
                    payload.resize(16 + usize::try_from(extra).unwrap(), 1);
                    let ticket = wal.append(&payload).unwrap();
                    let lsn = ticket.lsn();
                    assert!(mine.last().is_none_or(|(last, _)| *last < lsn), "only grows");
                    mine.push((lsn, payload));
                    if random.below(4) == 0 {
                        assert_eq!(ticket.wait().unwrap(), lsn);
                        assert!(wal.durable_lsn() > lsn);
                    }
                }
                kept.lock().unwrap().extend(mine);
            });
        }
    });
    wal.flush().unwrap();
    let stats = wal.stats();
    assert_eq!(stats.records, 64 * 300);
    assert!(stats.durable_records >= 64 * 300);
    drop(wal);
    let mut kept = kept.into_inner().unwrap();
    kept.sort();
    let (records, ..) = replay_when_free(&options, &storage).unwrap();
    assert_eq!(records.len(), kept.len());
    assert!(records == kept);
}

/// A record of no bytes is a record: it has a position of its own and comes back.
#[test]
fn records_of_no_bytes_are_records() {
    let options = quiet();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let mut positions = Vec::new();
    for _ in 0..1000 {
        positions.push(wal.append(b"").unwrap().lsn());
    }
    positions.push(wal.append_with(0, |room| assert!(room.is_empty())).unwrap().wait().unwrap());
    wal.close().unwrap();
    drop(wal);
    let (records, ..) = replay(&options, storage).unwrap();
    let expected: Vec<Kept> = positions.into_iter().map(|lsn| (lsn, Vec::new())).collect();
    assert_eq!(records, expected);
}

/// After a close every call says so, and the records appended before it are durable though nobody
/// waited: also for tickets that outlive the handle.
#[test]
fn a_close_makes_durable_and_then_refuses() {
    let options = quiet();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let pending = wal.append(b"pending").unwrap();
    let lsn = pending.lsn();
    wal.close().unwrap();
    let mut batch = wal.batch();
    batch.push(b"late").unwrap();
    let answers = [
        kind_of(wal.append(b"late")),
        kind_of(wal.try_append(b"late")),
        kind_of(wal.append_with(1, |_| ())),
        kind_of(block_on(wal.append_async(b"late"))),
        kind_of(batch.append()),
        kind_of(wal.checkpoint(lsn, b"")),
        kind_of(wal.flush()),
        kind_of(wal.close()),
    ];
    assert_eq!(answers, [Some(ErrorKind::Closed); 8]);
    drop(wal);
    assert!(pending.is_durable());
    assert_eq!(pending.wait().unwrap(), lsn);
    let (records, _, report) = replay(&options, storage).unwrap();
    assert_eq!(records, [(lsn, b"pending".to_vec())]);
    assert!(report.clean_close);
}

/// A handle that is dropped without a close is a crash: nothing more is written, and who waits for a
/// record that was not durable by then is told, however they wait.
#[test]
fn tickets_outlive_a_dropped_handle() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let durable = wal.append(b"durable").unwrap();
    wal.flush().unwrap();
    let [waited, awaited, called_back] = [(); 3].map(|()| wal.append(b"lost").unwrap());
    let early = wal.append(b"lost").unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let tell = |told: &Arc<AtomicU64>| {
        let told = Arc::clone(told);
        move |outcome: wal::Result<Lsn>| {
            assert_eq!(kind_of(outcome), Some(ErrorKind::Closed));
            told.fetch_add(1, Ordering::SeqCst);
        }
    };
    // A callback is somebody who waits: keep the committer from writing for it.
    let gate = disk.control().gate(On::frame());
    early.on_durable(tell(&told));
    drop(wal);
    gate.open();
    eventually("the callback ran", || told.load(Ordering::SeqCst) == 1);
    assert_eq!(kind_of(waited.wait()), Some(ErrorKind::Closed));
    assert_eq!(kind_of(block_on(awaited)), Some(ErrorKind::Closed));
    called_back.on_durable(tell(&told));
    assert_eq!(told.load(Ordering::SeqCst), 2, "at once: the outcome is known");
    assert!(durable.wait().is_ok());
}

/// Appends until all memory waits for the disk.
fn fill_memory(wal: &Wal<Disk>) -> Vec<Ticket<Disk>> {
    let mut tickets = Vec::new();
    loop {
        match wal.try_append(&BIG) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                return tickets;
            }
        }
    }
}

/// The disk hangs and all memory is taken: `try_append` says so at once, and room is given to those who
/// wait in the order in which they came, threads and tasks alike.
#[test]
fn room_is_given_first_come_first_served() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet().pool_bytes(32 << 10), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    thread::scope(|scope| {
        let gate = gate;
        let first = fill_memory(&wal);
        assert!((1..=3).contains(&first.len()), "{} frames in memory", first.len());
        gate.wait_for(1);
        let waker = Arc::new(CountingWaker::default());
        let mut order = Vec::new();
        let mut threads = Vec::new();
        let mut tasks = Vec::new();
        for index in 0..8 {
            let waits = wal.stats().memory_waits;
            if index % 2 == 0 {
                threads.push(scope.spawn(|| wal.append(&BIG).unwrap().lsn()));
            } else {
                let mut task = wal.append_async(&BIG);
                assert!(poll_once(&mut task, &waker).is_pending());
                tasks.push(task);
            }
            eventually("it waits for room", || wal.stats().memory_waits > waits);
        }
        assert_eq!(kind_of(wal.try_append(b"jumps the queue")), Some(ErrorKind::WouldBlock));
        gate.open();
        let awaited = block_on(join_all(tasks));
        let mut awaited = awaited.into_iter().map(|ticket| ticket.unwrap().lsn());
        for thread in threads {
            order.push(thread.join().unwrap());
            order.extend(awaited.next());
        }
        assert!(order.is_sorted(), "{order:?}");
        assert!(first.iter().all(|ticket| ticket.lsn() < order[0]));
        wal.flush().unwrap();
    });
}

/// A task waits for room and is cancelled, before its turn comes or just when it has come: those behind
/// it get their room all the same.
#[test]
fn an_append_that_is_no_longer_wanted_gives_its_place_up() {
    for cancelled_at_its_turn in [false, true] {
        let disk = Faulty::in_memory();
        let wal = open(&quiet().pool_bytes(32 << 10), disk.clone()).unwrap();
        let gate = disk.control().gate(On::frame());
        let first = fill_memory(&wal);
        gate.wait_for(1);
        let wakers = [(); 2].map(|()| Arc::new(CountingWaker::default()));
        let mut unwanted = wal.append_async(&BIG);
        assert!(poll_once(&mut unwanted, &wakers[0]).is_pending());
        let mut behind = wal.append_async(&BIG);
        assert!(poll_once(&mut behind, &wakers[1]).is_pending());
        if cancelled_at_its_turn {
            gate.open();
            eventually("its turn comes", || wakers[0].count() > 0);
            drop(unwanted);
        } else {
            drop(unwanted);
            gate.open();
        }
        eventually("the turn of the one behind it", || wakers[1].count() > 0);
        let ticket = block_on(behind).unwrap();
        assert!(first.iter().all(|earlier| earlier.lsn() < ticket.lsn()));
        ticket.wait().unwrap();
        assert_eq!(wal.stats().records, u64::try_from(first.len()).unwrap() + 1);
    }
}

/// A record that fits no buffer of the pool gets memory and a frame of its own, also while the others
/// keep the pool busy.
#[test]
fn records_larger_than_a_buffer_fit() {
    let options = quiet();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let kept = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (wal, kept) = (&wal, &kept);
            scope.spawn(move || {
                for length in [10, 20_000, 100, 100_000, 16_384, 16_300, 50, 200_000] {
                    let payload = vec![thread; length];
                    let ticket = match thread {
                        0 => block_on(wal.append_async(&payload)).unwrap(),
                        1 => wal.append_with(length, |room| room.fill(thread)).unwrap(),
                        _ => wal.append(&payload).unwrap(),
                    };
                    kept.lock().unwrap().push((ticket.wait().unwrap(), payload));
                }
            });
        }
    });
    wal.close().unwrap();
    drop(wal);
    let mut kept = kept.into_inner().unwrap();
    kept.sort();
    assert!(replay(&options, storage).unwrap().0 == kept);
}

/// Two threads append records that fit no buffer. One is granted the memory for such records and goes to
/// allocate it; the other comes first in the queue meanwhile, and waits for that memory. The first must
/// not queue behind the second.
#[test]
fn threads_with_large_records_do_not_wait_for_each_other() {
    // So long that it takes milliseconds to allocate: the others come in between.
    const LENGTH: usize = 20 << 20;
    let wal = Arc::new(open(&quiet().segment_bytes(32 << 20), Memory::new()).unwrap());
    let barrier = Arc::new(Barrier::new(3));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (wal, barrier) = (Arc::clone(&wal), Arc::clone(&barrier));
            thread::spawn(move || {
                for _ in 0..4 {
                    barrier.wait();
                    wal.append_with(LENGTH, |_| ()).unwrap().wait().unwrap();
                    let _ = wal.checkpoint(wal.durable_lsn(), b"");
                }
            })
        })
        .collect();
    without_hanging("appends of large records", move || {
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        wal.close().unwrap();
    });
}

/// The longest record fits wherever the tail is, also in the first frame of a segment, where the latest
/// checkpoint is restated, be it as long as it can be; one byte more is refused and changes nothing.
#[test]
fn the_longest_record_fits_and_one_byte_more_does_not() {
    for block_bytes in [512, 4096, 16_384] {
        let options =
            quiet().segment_bytes(16 * u64::from(block_bytes).max(4096)).block_bytes(block_bytes);
        let storage = Memory::new();
        let wal = open(&options, storage.clone()).unwrap();
        let most = wal.record_bytes_max();
        assert!(most > 40_000, "{most}");
        let mut kept: Vec<Kept> = Vec::new();
        let mut append = |wal: &Wal<Memory>, length: usize| {
            let ticket = wal.append(&vec![1; length]).unwrap();
            kept.push((ticket.lsn(), vec![1; length]));
            ticket.wait().unwrap()
        };
        for length in [most, 1, most, most, 5000, most] {
            append(&wal, length);
        }
        wal.checkpoint(Lsn::ZERO, &[8; 1024]).unwrap().wait().unwrap();
        for length in [most, most, 1, most - 1] {
            append(&wal, length);
        }
        let (appended, records) = (wal.appended_lsn(), wal.stats().records);
        let longer = vec![1; most + 1];
        let mut batch = wal.batch();
        batch.push(b"fits").unwrap();
        let answers = [
            kind_of(wal.append(&longer)),
            kind_of(wal.try_append(&longer)),
            kind_of(wal.append_with(most + 1, |_| ())),
            kind_of(wal.append_with(usize::MAX, |_| ())),
            kind_of(block_on(wal.append_async(&longer))),
            kind_of(batch.push(&longer[..most])),
            kind_of(batch.push_with(usize::MAX, |_| ())),
            kind_of(wal.checkpoint(Lsn::ZERO, &[0; 1025])),
        ];
        assert_eq!(answers, [Some(ErrorKind::TooLarge); 8]);
        assert_eq!(batch.len(), 1);
        assert_eq!((wal.appended_lsn(), wal.stats().records), (appended, records));
        let mut full_batch = wal.batch();
        full_batch.push(&longer[..most]).unwrap();
        let ticket = full_batch.append().unwrap();
        kept.push((ticket.lsn(), longer[..most].to_vec()));
        ticket.wait().unwrap();
        wal.close().unwrap();
        drop(wal);
        let (records, ..) = replay(&options, storage).unwrap();
        assert!(records == kept, "block {block_bytes}");
    }
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
