//! What happens when the disk fails: nothing is ever acknowledged again, and nothing that was is lost.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};
use wal::{
    Error, ErrorKind, Lsn, Options, Wal,
    io::{Memory, Storage as _},
};
use wal_tests::{
    Kept, eventually, eventually_prepared,
    fault::{EAGAIN, EIO, ENOSPC, Effect, Event, Fault, Faulty, On, PATIENCE, Verb},
    kind_of, open, quiet, replay, replay_when_free,
    tasks::{CountingWaker, block_on, poll_once},
    without_hanging,
};

type Disk = Faulty<Memory>;

/// A log on a disk that can fail, and its first successor prepared: its threads are at rest.
fn at_rest(options: &Options) -> (Disk, Wal<Disk>) {
    let disk = Faulty::in_memory();
    let wal = open(options, disk.clone()).unwrap();
    eventually_prepared(&wal);
    (disk, wal)
}

fn payloads(records: &[Kept]) -> Vec<&[u8]> {
    records.iter().map(|(_, payload)| payload.as_slice()).collect()
}

/// The disk answers EIO to one write. A log that goes on then acknowledges records that stand behind a
/// hole: every call has to fail, each naming what is unknown, and the mark must not move.
#[test]
fn the_first_failed_write_latches_every_call() {
    let (disk, wal) = at_rest(&quiet());
    let early = wal.append(b"early").unwrap();
    let early_lsn = early.lsn();
    wal.append(b"also early").unwrap().wait().unwrap();
    disk.control().fail(Fault::once(On::frame(), EIO));

    let lost = wal.append(b"lost").unwrap();
    let also_lost = wal.append(b"also lost").unwrap();
    let (durable, appended) = (wal.durable_lsn(), wal.appended_lsn());
    let first = lost.wait().unwrap_err();

    let mut batch = wal.batch();
    batch.push(b"in a batch").unwrap();
    let answers: [Option<Error>; 9] = [
        Some(first),
        also_lost.wait_timeout(PATIENCE).err(),
        also_lost.wait().err(),
        wal.append(b"later").err(),
        wal.try_append(b"later").err(),
        block_on(wal.append_async(b"later")).err(),
        batch.append().err(),
        wal.checkpoint(early_lsn, b"").err(),
        wal.flush().err(),
    ];
    for answer in answers.into_iter().chain([wal.close().err(), wal.close().err()]) {
        let error = answer.expect("a latched log refuses");
        assert_eq!(error.kind(), ErrorKind::Latched, "{error}");
        let (from, to) = error.range().expect("it names what is unknown");
        assert_eq!(from, durable, "{error}");
        assert!(to >= appended, "{error}");
        assert!(error.to_string().contains("os error 5"), "the cause is lost: {error}");
    }
    assert_eq!(wal.durable_lsn(), durable, "the durable mark is frozen");
    assert!(early.is_durable());
    assert_eq!(early.wait().unwrap(), early_lsn, "what was durable stays acknowledged");

    let read: Vec<Vec<u8>> =
        wal.read_from(Lsn::ZERO).unwrap().map(|record| record.unwrap().payload).collect();
    assert_eq!(read, [b"early".to_vec(), b"also early".to_vec()], "reading goes on");
}

/// The kernel reports a failed write-back once and drops the dirty pages; the next fsync of the same
/// file says Ok. A log that tries again believes it (the fsync story of PostgreSQL, 2018).
#[test]
fn nothing_is_written_or_synced_after_the_failure() {
    let options = quiet().linger(Duration::from_millis(1)).confirm_after(Duration::from_millis(1));
    let (disk, wal) = at_rest(&options);
    wal.append(b"early").unwrap().wait().unwrap();
    let control = disk.control();
    control.fail(Fault::once(On::frame(), EIO));
    let lost = wal.append(b"lost").unwrap();
    assert_eq!(kind_of(lost.wait()), Some(ErrorKind::Latched));

    let written = control.writes_and_syncs();
    for _ in 0..20 {
        assert_eq!(kind_of(wal.append(b"again")), Some(ErrorKind::Latched));
        assert_eq!(kind_of(wal.flush()), Some(ErrorKind::Latched));
        assert_eq!(kind_of(wal.close()), Some(ErrorKind::Latched));
        // Time for the log's own threads to do what they must not do: this can only miss a bug.
        thread::sleep(Duration::from_millis(1));
    }
    drop(wal);
    assert_eq!(control.writes_and_syncs(), written);
    let events = control.events();
    let is_failure =
        |event: &Event| matches!(event, Event::Failed(call) if call.verb == Verb::WriteDurable);
    let failure = events.iter().position(is_failure).unwrap();
    let later: Vec<&Event> = events[failure + 1..]
        .iter()
        .filter(|event| matches!(event, Event::Start(call) if call.verb != Verb::Read))
        .collect();
    assert_eq!(later, Vec::<&Event>::new());
}

/// A disk that fails for a second and recovers is the one that tempts: its next write succeeds. The
/// records in between are gone all the same.
#[test]
fn a_disk_that_heals_does_not_unlatch() {
    let (disk, wal) = at_rest(&quiet());
    disk.control().fail(Fault::sticky(On::frame(), EIO));
    let lost = wal.append(b"lost").unwrap();
    let durable = wal.durable_lsn();
    assert_eq!(kind_of(lost.wait_timeout(PATIENCE)), Some(ErrorKind::Latched));
    disk.control().heal();
    assert_eq!(kind_of(lost.wait_timeout(PATIENCE)), Some(ErrorKind::Latched));
    assert_eq!(kind_of(block_on(lost)), Some(ErrorKind::Latched));
    assert_eq!(kind_of(wal.append(b"healed")), Some(ErrorKind::Latched));
    assert_eq!(kind_of(wal.flush()), Some(ErrorKind::Latched));
    assert_eq!(wal.durable_lsn(), durable);
}

/// A frame carries the records of many; the thread that wrote it gets the error from the disk, and the
/// others must not be left asleep. Those whose records are in the next frame neither.
#[test]
fn every_waiter_of_a_failed_frame_is_told() {
    let (disk, wal) = at_rest(&quiet());
    let control = disk.control();
    let gate = control.gate(On::frame());
    control.fail(Fault::once(On::frame(), EIO));
    let told = Arc::new(AtomicU32::new(0));
    let tell = |told: &Arc<AtomicU32>| {
        let told = Arc::clone(told);
        move |outcome: wal::Result<Lsn>| {
            assert_eq!(kind_of(outcome), Some(ErrorKind::Latched));
            told.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| {
        let gate = gate;
        for frame in 0..2_u64 {
            let tickets: Vec<_> = (0..24).map(|_| wal.append(b"lost").unwrap()).collect();
            for (index, ticket) in tickets.into_iter().enumerate() {
                let answer = tell(&told);
                match index % 4 {
                    0 => drop(scope.spawn(move || answer(ticket.wait()))),
                    1 => drop(scope.spawn(move || answer(ticket.wait_timeout(PATIENCE)))),
                    2 => drop(scope.spawn(move || answer(block_on(ticket)))),
                    _ => ticket.on_durable(answer),
                }
            }
            if frame == 0 {
                gate.wait_for(1);
            }
        }
        gate.open();
    });
    assert_eq!(told.load(Ordering::SeqCst), 48);

    let late = wal.append(b"late");
    assert_eq!(kind_of(late), Some(ErrorKind::Latched));
}

/// All memory waits for a disk that then fails: those who wait for room are waiters too.
#[test]
fn appenders_without_room_are_told() {
    // One frame at a time: another one's success would make room before the failure is known.
    let (disk, wal) = at_rest(&quiet().pool_bytes(32 << 10).depth(1));
    let control = disk.control();
    let gate = control.gate(On::frame());
    control.fail(Fault::once(On::frame(), EIO));
    thread::scope(|scope| {
        let gate = gate;
        while kind_of(wal.try_append(&[7; 9000])).is_none() {}
        let waker = Arc::new(CountingWaker::default());
        let mut awaited = wal.append_async(&[7; 9000]);
        assert!(poll_once(&mut awaited, &waker).is_pending());
        let waits = wal.stats().memory_waits;
        let blocked = scope.spawn(|| wal.append(&[7; 9000]));
        eventually("the append waits for room", || wal.stats().memory_waits > waits);
        gate.wait_for(1);
        gate.open();
        assert_eq!(kind_of(blocked.join().unwrap()), Some(ErrorKind::Latched));
        assert_eq!(kind_of(block_on(awaited)), Some(ErrorKind::Latched));
        eventually("the future is woken", || waker.count() > 0);
    });
}

/// The disk fills up while the next segment is prepared. No append depends on it yet: that is the
/// moment to refuse, cleanly, and what was appended before must not suffer for it.
#[test]
fn a_full_disk_met_by_the_preparer_is_harmless() {
    for verb in [Verb::CreateFile, Verb::WriteZeroes, Verb::Sync, Verb::SyncDir] {
        let options = quiet();
        let (disk, wal) = at_rest(&options);
        disk.control().fail(Fault::sticky(On::every(verb), ENOSPC));
        let mut kept = Vec::new();
        let mut tickets = Vec::new();
        let refused = loop {
            match wal.append(&[1; 5000]) {
                Ok(ticket) => {
                    kept.push((ticket.lsn(), vec![1; 5000]));
                    tickets.push(ticket);
                }
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{verb:?}: {refused}");
        let files = disk.list().unwrap().len();
        for _ in 0..5 {
            assert_eq!(kind_of(wal.append(&[1; 5000])), Some(ErrorKind::NoSpace), "{verb:?}");
        }
        let more = disk.list().unwrap().len() - files;
        assert_eq!(more, 0, "{verb:?}: every refusal takes more of a disk that is full");
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        disk.control().heal();
        for _ in 0..100 {
            let ticket = wal.append(&[2; 5000]).unwrap();
            kept.push((ticket.lsn(), vec![2; 5000]));
        }
        wal.close().unwrap();
        drop(wal);
        let (records, ..) = replay(&options, disk).unwrap();
        assert!(records == kept, "{verb:?}: {} of {} records", records.len(), kept.len());
    }
}

/// A thin device answers ENOSPC to the durable write of a segment's header, after the bytes went
/// through. The preparer takes another slot for the same stretch of the log; now two slots claim it.
#[test]
fn a_segment_header_that_was_written_though_the_disk_said_full() {
    for effect in [Effect::Nothing, Effect::Torn, Effect::Whole] {
        let options = quiet();
        let (disk, wal) = at_rest(&options);
        disk.control().fail(Fault::once(On::segment_header(), ENOSPC).with_effect(effect));
        let mut kept = Vec::new();
        for _ in 0..200 {
            let payload = vec![3; 5000];
            match wal.append(&payload) {
                Ok(ticket) => kept.push((ticket.lsn(), payload)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
            }
        }
        wal.flush().unwrap();
        drop(wal);
        let (records, ..) = replay_when_free(&options, &disk)
            .unwrap_or_else(|error| panic!("{effect:?}: the log does not open: {error}"));
        assert!(records == kept, "{effect:?}: {} of {} records", records.len(), kept.len());
    }
}

/// Where overwrites allocate, the disk can be full at a commit. The frame is in an unknown state then,
/// as after any failed write.
#[test]
fn a_full_disk_at_a_commit_latches() {
    let (disk, wal) = at_rest(&quiet());
    disk.control().fail(Fault::once(On::frame(), ENOSPC));
    let lost = wal.append(b"lost").unwrap();
    let error = lost.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Latched, "{error}");
    assert_eq!(kind_of(wal.append(b"later")), Some(ErrorKind::Latched));
}

/// The device dies while the next segment is prepared: nobody waits for that write, and the next one
/// goes to the same device. The records before stay readable and recoverable.
#[test]
fn an_input_output_error_while_preparing_latches() {
    let verbs = [
        On::every(Verb::CreateFile),
        On::every(Verb::WriteZeroes),
        On::every(Verb::Sync),
        On::every(Verb::SyncDir),
        On::segment_header(),
    ];
    for on in verbs {
        let options = quiet();
        let (disk, wal) = at_rest(&options);
        disk.control().fail(Fault::sticky(on.clone(), EIO));
        let mut acknowledged = Vec::new();
        let mut appended = 0;
        let error = loop {
            assert!(appended < 1000, "{on:?}: nobody noticed");
            appended += 1;
            match wal.append(&[4; 5000]).and_then(|ticket| ticket.wait()) {
                Ok(lsn) => acknowledged.push((lsn, vec![4; 5000])),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Latched, "{on:?}: {error}");
        drop(wal);
        disk.control().heal();
        let (records, ..) = replay_when_free(&options, &disk).unwrap();
        assert!(records.starts_with(&acknowledged), "{on:?}");
        assert!(records.len() <= appended, "{on:?}");
    }
}

/// A callback is the user's code on the log's thread: if it panics, the others of its frame and the
/// log itself go on.
#[test]
fn a_panic_in_a_callback_is_its_own_affair() {
    let (_disk, wal) = at_rest(&quiet());
    let told = Arc::new(Mutex::new(Vec::new()));
    for index in 0..3 {
        let told = Arc::clone(&told);
        wal.append(b"x").unwrap().on_durable(move |outcome| {
            told.lock().unwrap().push(outcome.unwrap());
            if index != 2 {
                resume_unwind(Box::new("a callback panics"));
            }
        });
    }
    wal.flush().unwrap();
    eventually("all callbacks ran", || {
        told.try_lock().map_or_else(
            |error| match error {
                std::sync::TryLockError::Poisoned(poisoned) => poisoned.into_inner().len() == 3,
                std::sync::TryLockError::WouldBlock => false,
            },
            |told| told.len() == 3,
        )
    });
    // Durable already: the callback runs at once, on this thread.
    let durable = wal.append(b"y").unwrap();
    wal.flush().unwrap();
    durable.on_durable(|_| resume_unwind(Box::new("a callback panics")));
    wal.append(b"z").unwrap().wait().unwrap();
    wal.close().unwrap();
}

/// A serialiser panics in the middle of a record that stands between two good ones. Their frame must
/// be written, and the half-made record must never be seen, neither live nor after a crash.
#[test]
fn a_panic_while_filling_makes_the_record_void() {
    let options = quiet();
    let (disk, wal) = at_rest(&options);
    let before = wal.append(b"before").unwrap();
    for length in [0_usize, 1, 64, 5000, 40_000] {
        let filled = catch_unwind(AssertUnwindSafe(|| {
            wal.append_with(length, |room| {
                room.fill(0xAA);
                resume_unwind(Box::new("a serialiser panics"))
            })
        }));
        assert!(filled.is_err(), "the panic is the caller's");
    }
    let after = wal.append(b"after").unwrap();
    before.wait().unwrap();
    after.wait().unwrap();
    let live: Vec<Vec<u8>> =
        wal.read_from(Lsn::ZERO).unwrap().map(|record| record.unwrap().payload).collect();
    assert_eq!(live, [b"before".to_vec(), b"after".to_vec()]);
    drop(wal);
    let (records, ..) = replay_when_free(&options, &disk).unwrap();
    assert_eq!(payloads(&records), [b"before".as_slice(), b"after"]);
}

/// The same in a batch that is still being collected: the records pushed before are untouched.
#[test]
fn a_panic_while_filling_a_batch_leaves_it_as_it_was() {
    let options = quiet();
    let (disk, wal) = at_rest(&options);
    let mut batch = wal.batch();
    batch.push(b"first").unwrap();
    let filled = catch_unwind(AssertUnwindSafe(|| {
        batch.push_with(100, |_| resume_unwind(Box::new("a serialiser panics")))
    }));
    assert!(filled.is_err());
    assert_eq!(batch.len(), 1);
    batch.push(b"second").unwrap();
    batch.append().unwrap().wait().unwrap();
    wal.close().unwrap();
    drop(wal);
    let (records, ..) = replay(&options, disk).unwrap();
    assert_eq!(payloads(&records), [b"first".as_slice(), b"second"]);
}

/// A closure that waits for its own log waits for a frame that cannot be sealed before the closure
/// returns: a deadlock, so it is refused. The record itself is fine.
#[test]
fn the_log_cannot_be_used_while_filling() {
    let (_disk, wal) = at_rest(&quiet());
    let pending = wal.append(b"pending").unwrap();
    let start = pending.lsn();
    let other = wal.append(b"other").unwrap();
    let outer = wal.append_with(5, |room| {
        let mut batch = wal.batch();
        batch.push(b"inner").unwrap();
        let mut inner = wal.append_async(b"inner");
        let waker = Arc::new(CountingWaker::default());
        let polled = match poll_once(&mut inner, &waker) {
            std::task::Poll::Ready(answer) => kind_of(answer),
            std::task::Poll::Pending => None,
        };
        let answers = [
            kind_of(wal.append(b"inner")),
            kind_of(wal.try_append(b"inner")),
            kind_of(wal.append_with(1, |_| ())),
            kind_of(batch.append()),
            kind_of(wal.checkpoint(start, b"")),
            kind_of(wal.flush()),
            kind_of(pending.wait_timeout(PATIENCE)),
            kind_of(other.wait()),
            kind_of(wal.close()),
            polled,
        ];
        assert_eq!(answers, [Some(ErrorKind::InvalidInput); 10]);
        room.copy_from_slice(b"outer");
    });
    outer.unwrap().wait().unwrap();
    assert!(pending.is_durable());
    let live: Vec<Vec<u8>> =
        wal.read_from(start).unwrap().map(|record| record.unwrap().payload).collect();
    assert_eq!(live, [b"pending".to_vec(), b"other".to_vec(), b"outer".to_vec()]);
}

/// The system refuses the thread that writes what nobody waits for, once, just when the first append
/// needs it. The append fails; whoever appends after it must not queue behind it for ever.
#[test]
fn a_thread_that_cannot_be_started_holds_nobody_up() {
    let options = quiet();
    let disk = Faulty::in_memory();
    let wal = open(&options, disk.clone()).unwrap();
    eventually("the first successor is prepared", || wal.stats().segments_recycled == 1);
    wal.append(b"first").unwrap().wait().unwrap();
    wal.close().unwrap();
    drop(wal);
    let wal = open(&options, disk.clone()).unwrap();
    disk.control().fail(Fault::once(On::every(Verb::Spawn).in_file("wal-commit"), EAGAIN));
    let refused = without_hanging("an append behind one that was refused", move || {
        (0..300).filter(|_| wal.append(&[5; 5000]).is_err()).count()
    });
    assert_eq!(refused, 1, "the one that met the refusal");
}

/// Threads append and wait while the disk dies, at any of its writes and in any of three ways. What
/// was acknowledged is there after a reopen, and what is there is a prefix of what was appended.
#[test]
fn a_reopen_after_a_latch_has_everything_acknowledged() {
    for effect in [Effect::Nothing, Effect::Torn, Effect::Whole] {
        for writes in [0, 1, 2, 5, 17, 60] {
            let options = quiet();
            let (disk, wal) = at_rest(&options);
            let fault = Fault::sticky(On::frame(), EIO).after(writes).with_effect(effect);
            disk.control().fail(fault);
            let appended = Mutex::new(Vec::new());
            let acknowledged = Mutex::new(Vec::new());
            thread::scope(|scope| {
                for thread in 0..8_u8 {
                    let (wal, appended, acknowledged) = (&wal, &appended, &acknowledged);
                    scope.spawn(move || {
                        for index in 0..=u8::MAX {
                            let payload = vec![thread; 500 + usize::from(index)];
                            let Ok(ticket) = wal.append(&payload) else { return };
                            let record = (ticket.lsn(), payload);
                            appended.lock().unwrap().push(record.clone());
                            if ticket.wait().is_err() {
                                return;
                            }
                            acknowledged.lock().unwrap().push(record);
                        }
                    });
                }
            });
            drop(wal);
            let image = disk.crash();
            let mut appended = appended.into_inner().unwrap();
            appended.sort();
            let (records, ..) = replay(&options, image).unwrap();
            for record in acknowledged.into_inner().unwrap() {
                assert!(records.contains(&record), "{effect:?}, {writes}: {} lost", record.0);
            }
            assert!(appended.starts_with(&records), "{effect:?}, {writes}: not a prefix");
        }
    }
}
