//! Room in memory: back-pressure, its order, and records of every length.

use std::{
    sync::{Arc, Barrier, Mutex},
    thread,
};
use wal::{ErrorKind, Lsn, Options, Ticket, Wal, io::Memory};
use wal_tests::{
    Kept, eventually,
    fault::{Faulty, On},
    kind_of, open, quiet, replay,
    tasks::{CountingWaker, block_on, join_all, poll_once},
    without_hanging,
};

type Disk = Faulty<Memory>;

/// Two of these do not fit one frame of [`quiet`].
const BIG: [u8; 9000] = [7; 9000];

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

/// The disk hangs and all memory is taken: `try_append` says so at once, threads that wait are woken in the order in
/// which they came, and tasks among them hold none of them up and get their room too.
#[test]
fn threads_that_wait_for_room_get_it_in_their_order() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet().pool_bytes(32 << 10), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    thread::scope(|scope| {
        let gate = gate;
        let first = fill_memory(&wal);
        assert!((1..=3).contains(&first.len()), "{} frames in memory", first.len());
        gate.wait_for(1);
        let waker = Arc::new(CountingWaker::default());
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
        assert_eq!(kind_of(wal.try_append(&BIG)), Some(ErrorKind::WouldBlock));
        gate.open();
        // Not before the threads are done is any of the tasks polled.
        let order: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(order.is_sorted(), "{order:?}");
        assert!(first.iter().all(|ticket| ticket.lsn() < order[0]));
        assert!(block_on(join_all(tasks)).into_iter().all(|ticket| ticket.is_ok()));
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
        eventually("the next segment is prepared: that wakes every task", || {
            let stats = wal.stats();
            stats.segments_created + stats.segments_recycled == 1
        });
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

/// Threads append and do not wait for their records. Once one of them found no room, all who came later queued
/// behind it, though the open frame had room for them, and each admission woke all of them: of 66,576 appends
/// 64,700 waited, and 256 threads did a hundredth of what one does. Who is short of memory waits for a buffer, and
/// that holds a thousand of these records.
#[test]
fn of_many_who_append_few_wait() {
    const THREADS: u64 = 64;
    const RECORDS: u64 = 250;
    let options = Options::new().pool_bytes(4 << 20);
    let wal = Arc::new(open(&options, Memory::new()).unwrap());
    let log = Arc::clone(&wal);
    without_hanging("threads that append and do not wait", move || {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..RECORDS {
                        log.append_untracked(&[7; 1000]).unwrap();
                    }
                });
            }
        });
    });
    let (records, waits) = (wal.stats().records, wal.stats().memory_waits);
    assert_eq!(records, THREADS * RECORDS);
    assert!(waits * 4 < records, "of {records} appends {waits} waited");
    wal.close().unwrap();
}
