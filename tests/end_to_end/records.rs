//! What is appended is what is read: order, batches, and when records are written that nobody waits for.

use crate::craft::{home_of, save};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use wal::{
    ErrorKind, Lsn,
    format::{RECORD_HEADER_BYTES, record_bytes},
    io::Memory,
};
use wal_tests::{
    Kept, Random, eventually,
    fault::{EIO, Effect, Fault, Faulty, On},
    kind_of, open, quiet, replay, replay_when_free,
    tasks::block_on,
};

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

/// A bulk load asks about no record by itself: each has its place in the order of the calls, among those with
/// tickets, and the ticket of a later one, or a flush, speaks for all before it.
#[test]
fn records_without_a_ticket_are_durable_with_those_after_them() {
    let options = quiet();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let mut expected = Vec::new();
    for index in 0..300_u32 {
        let payload = index.to_le_bytes().repeat(1 + usize::try_from(index % 50).unwrap());
        let lsn = match index % 10 {
            9 => wal.append(&payload).unwrap().wait().unwrap(),
            _ => wal.append_untracked(&payload).unwrap(),
        };
        assert_eq!(wal.durable_lsn() > lsn, index % 10 == 9, "record {index}");
        expected.push((lsn, payload));
    }
    let last = wal.append_untracked(b"the last one").unwrap();
    expected.push((last, b"the last one".to_vec()));
    assert!(wal.flush().unwrap() > last);
    drop(wal);
    let (records, ..) = replay_when_free(&options, &storage).unwrap();
    assert!(records == expected);
}

/// The room that a closure fills in place is zero, also where a longer record of another frame stood in the
/// same memory: what it leaves alone is nobody's bytes.
#[test]
fn room_that_is_filled_in_place_shows_nothing_of_the_past() {
    let options = quiet();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    // More than the pool: every buffer has been used.
    for _ in 0..40 {
        wal.append(&[7; 9000]).unwrap().wait().unwrap();
    }
    let mut positions = Vec::new();
    for bytes in [1, 100, 5000, 9000] {
        let ticket = wal.append_with(bytes, |room| assert!(room.iter().all(|byte| *byte == 0)));
        positions.push((ticket.unwrap().wait().unwrap(), vec![0; bytes]));
    }
    drop(wal);
    let (records, ..) = replay_when_free(&options, &storage).unwrap();
    assert!(records[40..] == positions);
}

/// Room is lent as it was left, and few payloads are a multiple of eight bytes long. What is between two
/// records goes to disk as well, and must not be a piece of another one.
#[test]
fn between_records_nothing_of_the_past_is_written() {
    let storage = Memory::new();
    let wal = open(&quiet(), storage.clone()).unwrap();
    // More than the pool: every buffer has been used.
    for _ in 0..40 {
        wal.append(&[0xff; 9000]).unwrap().wait().unwrap();
    }
    let mut places = Vec::new();
    for length in 0..=16 {
        let payload = vec![0xee; length];
        let mut batch = wal.batch();
        batch.push(&payload).unwrap();
        let forms = [
            wal.append(&payload).unwrap().lsn(),
            wal.append_untracked(&payload).unwrap(),
            wal.try_append(&payload).unwrap().lsn(),
            block_on(wal.append_async(&payload)).unwrap().lsn(),
            wal.append_with(length, |room| room.fill(0xee)).unwrap().lsn(),
            batch.append().unwrap().lsn(),
        ];
        places.extend(forms.map(|lsn| (lsn.get(), length)));
    }
    let state = wal.checkpoint(Lsn::ZERO, &[0xee; 3]).unwrap();
    // A checkpoint's own start mark stands before the state.
    places.push((state.lsn().get(), 8 + 3));
    wal.flush().unwrap();
    let segment_bytes = wal.identity().segment_bytes;
    let image = save(&storage);
    for (lsn, length) in places {
        let slot = &image[&home_of(&image, lsn / segment_bytes)];
        let at = usize::try_from(lsn % segment_bytes).unwrap();
        let padding = &slot[at + RECORD_HEADER_BYTES + length..at + record_bytes(length)];
        assert!(padding.iter().all(|byte| *byte == 0), "{length} bytes at lsn {lsn}: {padding:x?}");
    }
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
        kind_of(wal.append_untracked(b"late")),
        kind_of(wal.try_append(b"late")),
        kind_of(wal.append_with(1, |_| ())),
        kind_of(block_on(wal.append_async(b"late"))),
        kind_of(batch.append()),
        kind_of(wal.checkpoint(lsn, b"")),
        kind_of(wal.flush()),
        kind_of(wal.close()),
    ];
    assert_eq!(answers, [Some(ErrorKind::Closed); 9]);
    drop(wal);
    assert!(pending.is_durable());
    assert_eq!(pending.wait().unwrap(), lsn);
    let (records, _, report) = replay(&options, storage).unwrap();
    assert_eq!(records, [(lsn, b"pending".to_vec())]);
    assert!(report.clean_close);
}

/// Two threads shut a service down. The one whose close comes second must not go on while the first still
/// writes; and when it does go on, it may open the log again.
#[test]
fn a_second_close_waits_for_the_first() {
    for _ in 0..200 {
        let disk = Faulty::in_memory();
        let control = disk.control();
        let wal = open(&quiet(), disk.clone()).unwrap();
        let gate = control.gate(On::frame());
        let ticket = wal.append(b"x").unwrap();
        thread::scope(|scope| {
            let first = scope.spawn(|| wal.close());
            control.wait_for_start(&On::frame_at(ticket.lsn().get() / 4096 * 4096));
            let second = scope.spawn(|| {
                let answer = kind_of(wal.close());
                (answer, ticket.is_durable(), kind_of(quiet().open_in(disk)))
            });
            eventually("the second waits", || control.sleeps() == 1 || second.is_finished());
            assert!(!second.is_finished() && !ticket.is_durable());
            gate.open();
            first.join().unwrap().unwrap();
            assert_eq!(second.join().unwrap(), (Some(ErrorKind::Closed), true, None));
        });
    }
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
