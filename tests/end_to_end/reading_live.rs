//! Reading while the log is written.

use aligned::Buffer;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use wal::{
    ErrorKind, Follow, Lsn, Result, Wal,
    io::{Access, Directory, File as _, Memory, Storage},
};
use wal_tests::{
    Kept, eventually,
    fault::{Control, EIO, Event, Fault, Faulty, On, PATIENCE, Verb},
    kind_of, open, quiet,
};

/// A payload that says where it belongs: damage and mix-ups show.
fn payload(index: usize, length: usize) -> Vec<u8> {
    let mut bytes = index.to_string().into_bytes();
    bytes.resize(length.max(8), u8::try_from(index % 251).unwrap());
    bytes
}

fn read_all<S: Storage>(wal: &Wal<S>, from: Lsn) -> Result<Vec<Kept>> {
    wal.read_from(from)?.map(|record| record.map(|record| (record.lsn, record.payload))).collect()
}

fn next_owned<S: Storage>(follow: &mut Follow<S>) -> Result<Option<Kept>> {
    Ok(follow.next()?.map(|record| (record.lsn(), record.payload().to_vec())))
}

/// A record is in memory, its write is under way or not even begun. A reader that shows it, shows
/// something that a crash takes back.
#[test]
fn only_what_is_durable_is_read() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let first = wal.append(b"first").unwrap().wait().unwrap();
    let mut reader = wal.read_from(Lsn::ZERO).unwrap();
    assert_eq!(reader.next_record().unwrap().unwrap().lsn(), first);
    let gate = disk.control().gate(On::frame());
    thread::scope(|scope| {
        let gate = gate;
        let second = wal.append(b"second").unwrap();
        let lsn = second.lsn();
        let waiter = scope.spawn(|| second.wait());
        gate.wait_for(1);
        let third = wal.append(b"third").unwrap();
        assert!(reader.next_record().unwrap().is_none());
        assert_eq!(read_all(&wal, Lsn::ZERO).unwrap().len(), 1);
        assert!(wal.read_from(third.lsn()).unwrap().next().is_none());
        gate.open();
        waiter.join().unwrap().unwrap();
        // The same reader goes on.
        assert_eq!(reader.next_record().unwrap().unwrap().lsn(), lsn);
        assert!(reader.next_record().unwrap().is_none());
        third.wait().unwrap();
        assert_eq!(reader.next_record().unwrap().unwrap().payload(), b"third");
    });
    let past = wal.appended_lsn().checked_add(1).unwrap();
    assert_eq!(kind_of(wal.read_from(past)), Some(ErrorKind::InvalidInput));
}

/// Readers start anywhere: at a record, between two, at the very end. They get the first record from
/// there on, each with its own number, in one segment or over many.
#[test]
fn a_reader_may_start_anywhere() {
    let wal = open(&quiet().segment_bytes(64 << 10), Memory::new()).unwrap();
    let kept: Vec<Kept> = (0..150)
        .map(|index| {
            let bytes = payload(index, index * 37 % 5000);
            (wal.append(&bytes).unwrap().lsn(), bytes)
        })
        .collect();
    wal.flush().unwrap();
    for (index, (lsn, _)) in kept.iter().enumerate() {
        assert!(read_all(&wal, *lsn).unwrap() == kept[index..]);
        let behind = lsn.checked_add(1).unwrap();
        assert!(read_all(&wal, behind).unwrap() == kept[index + 1..]);
    }
    let mut ordinal = None;
    for record in wal.read_from(Lsn::ZERO).unwrap() {
        let record = record.unwrap();
        assert!(record.ends_batch);
        assert!(ordinal.is_none_or(|last| last < record.ordinal));
        ordinal = Some(record.ordinal);
    }
    assert!(read_all(&wal, wal.appended_lsn()).unwrap().is_empty());
}

/// Writers and readers at once, over many segments: each pass over the log sees a prefix of what was
/// appended, and never less than was durable when it began.
fn passes_see_prefixes<S: Storage>(storage: S, records: usize) {
    let wal = open(&quiet().segment_bytes(64 << 10).linger(Duration::from_millis(1)), storage);
    let wal = wal.unwrap();
    let done = AtomicBool::new(false);
    let passes = Mutex::new(Vec::new());
    let mut kept: Vec<Kept> = Vec::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let last = done.load(Ordering::SeqCst);
                    let durable = wal.durable_lsn();
                    let pass = read_all(&wal, Lsn::ZERO).unwrap();
                    passes.lock().unwrap().push((durable, pass));
                    if last {
                        break;
                    }
                }
            });
        }
        for index in 0..records {
            let bytes = payload(index, index * 31 % 3000);
            let ticket = wal.append(&bytes).unwrap();
            kept.push((ticket.lsn(), bytes));
            if index % 16 == 0 {
                ticket.wait().unwrap();
            }
        }
        wal.flush().unwrap();
        done.store(true, Ordering::SeqCst);
    });
    let passes = passes.into_inner().unwrap();
    assert!(passes.iter().any(|(_, pass)| pass.len() == kept.len()));
    for (durable, pass) in passes {
        assert!(kept.starts_with(&pass));
        let at_least = kept.iter().filter(|(lsn, _)| *lsn < durable).count();
        assert!(pass.len() >= at_least, "{} of {at_least} durable records", pass.len());
    }
}

/// See [`passes_see_prefixes`].
#[test]
fn passes_see_prefixes_in_memory() {
    passes_see_prefixes(Memory::new(), 1500);
}

/// See [`passes_see_prefixes`].
#[test]
fn passes_see_prefixes_on_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    passes_see_prefixes(Directory::new(dir.path().join("log")), 600);
}

/// Replicas follow the log while several threads write. Each gets every record once, in order, and is
/// told when the log is closed.
#[test]
fn followers_get_everything_in_order() {
    let wal = open(&quiet().segment_bytes(64 << 10), Memory::new()).unwrap();
    let kept = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let followers: Vec<_> = (0..3)
            .map(|_| {
                let mut follow = wal.follow(Lsn::ZERO).unwrap();
                scope.spawn(move || {
                    let mut got = Vec::new();
                    while let Some(record) = next_owned(&mut follow).unwrap() {
                        got.push(record);
                    }
                    assert!(next_owned(&mut follow).unwrap().is_none(), "and stays there");
                    got
                })
            })
            .collect();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (wal, kept) = (&wal, &kept);
                scope.spawn(move || {
                    for index in 0..400 {
                        let bytes = payload(writer * 1000 + index, index * 17 % 1500);
                        let ticket = wal.append(&bytes).unwrap();
                        kept.lock().unwrap().push((ticket.lsn(), bytes));
                        if index % 3 == 0 {
                            ticket.wait().unwrap();
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        wal.close().unwrap();
        let mut kept = kept.lock().unwrap();
        kept.sort();
        for follower in followers {
            let got = follower.join().unwrap();
            assert_eq!(got.len(), kept.len());
            assert!(got == *kept);
        }
    });
}

/// A follower of an idle log can have itself back; afterwards it has missed nothing.
#[test]
fn a_follower_can_give_up_waiting() {
    let wal = open(&quiet(), Memory::new()).unwrap();
    let mut follow = wal.follow(Lsn::ZERO).unwrap();
    for round in 0..3_u8 {
        for time in [Duration::ZERO, Duration::from_millis(2)] {
            assert_eq!(kind_of(follow.next_timeout(time).map(|_| ())), Some(ErrorKind::TimedOut));
        }
        let lsn = wal.append(&[round]).unwrap().wait().unwrap();
        let record = follow.next_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!((record.lsn(), record.payload()), (lsn, [round].as_slice()));
    }
}

/// The log ends, by a close, a drop or a failure, while a follower sleeps: it is woken, gets what was
/// durable and then the end. It must not sleep for ever.
#[test]
fn a_follower_is_told_when_the_log_ends() {
    for end in 0..3 {
        let disk = Faulty::in_memory();
        let wal = open(&quiet(), disk.clone()).unwrap();
        let mut follow = wal.follow(Lsn::ZERO).unwrap();
        wal.append(b"durable").unwrap().wait().unwrap();
        let follower = thread::spawn(move || {
            let first = next_owned(&mut follow).unwrap().unwrap();
            (first.1, next_owned(&mut follow).unwrap())
        });
        let lost = wal.append(b"never durable").unwrap();
        match end {
            0 => {
                disk.control().fail(Fault::once(On::frame(), EIO));
                assert_eq!(kind_of(lost.wait()), Some(ErrorKind::Latched));
            }
            1 => drop(wal),
            _ => {
                disk.control().fail(Fault::once(On::frame(), EIO));
                assert_eq!(kind_of(wal.close()), Some(ErrorKind::Latched));
            }
        }
        eventually("the follower ends", || follower.is_finished());
        assert_eq!(follower.join().unwrap(), (b"durable".to_vec(), None), "end {end}");
    }
}

/// Whoever asks for what was released is told to start further on, and not given whatever stands there
/// now.
#[test]
fn what_was_released_is_not_read() {
    let wal = open(&quiet().segment_bytes(64 << 10), Memory::new()).unwrap();
    let mut kept = Vec::new();
    for index in 0..100 {
        let bytes = payload(index, 3000);
        kept.push((wal.append(&bytes).unwrap().wait().unwrap(), bytes));
    }
    let mut lagging = wal.read_from(Lsn::ZERO).unwrap();
    assert_eq!(lagging.next_record().unwrap().unwrap().lsn(), kept[0].0);
    let mark = kept[70].0;
    wal.checkpoint(mark, b"").unwrap().wait().unwrap();
    assert_eq!(kind_of(wal.read_from(Lsn::ZERO)), Some(ErrorKind::Released));
    assert_eq!(kind_of(wal.read_from(kept[69].0)), Some(ErrorKind::Released));
    assert_eq!(kind_of(wal.follow(kept[69].0)), Some(ErrorKind::Released));
    assert!(read_all(&wal, mark).unwrap() == kept[70..]);
    // The slots are written over.
    for index in 0..100 {
        wal.append(&payload(1000 + index, 3000)).unwrap().wait().unwrap();
    }
    // The one that was reading has the rest of its segment, untouched, and is told then.
    let mut index = 1;
    let error = loop {
        match lagging.next_record() {
            Ok(record) => {
                let record = record.expect("it is not at the end");
                assert_eq!((record.lsn(), record.payload()), (kept[index].0, &*kept[index].1));
                index += 1;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Released, "{error}");
    assert!(index > 5, "{index} records of its segment");
    assert_eq!(kind_of(lagging.next_record().map(|_| ())), Some(ErrorKind::Released));
    assert!(Iterator::next(&mut lagging).is_none());
}

/// A slow reader holds a segment that was released, on a log that may not grow: the log must do without
/// that slot rather than write over it, and have it back when the reader is gone.
#[test]
fn a_segment_that_is_being_read_is_not_reused() {
    let options = quiet().segment_bytes(64 << 10).log_bytes_max(4 * (64 << 10));
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let fill = |seed: usize| {
        let mut kept = Vec::new();
        loop {
            let bytes = payload(seed + kept.len(), 3000);
            match wal.append(&bytes) {
                Ok(ticket) => kept.push((ticket.wait().unwrap(), bytes)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                    return kept;
                }
            }
        }
    };
    let kept = fill(0);
    let mut reader = wal.read_from(Lsn::ZERO).unwrap();
    reader.next_record().unwrap().unwrap();
    let mut filled = Vec::new();
    for round in 1..=3 {
        wal.checkpoint(wal.appended_lsn(), b"").unwrap().wait().unwrap();
        filled.push(fill(round * 1000).len());
    }
    let mut index = 1;
    while let Ok(Some(record)) = reader.next_record() {
        assert_eq!((record.lsn(), record.payload()), (kept[index].0, &*kept[index].1));
        index += 1;
    }
    assert!(index > 5, "{index} records of the pinned segment");
    drop(reader);
    wal.checkpoint(wal.appended_lsn(), b"").unwrap().wait().unwrap();
    let freed = fill(9000).len();
    assert!(filled.iter().all(|count| *count < freed), "{filled:?} with the pin, {freed} without");
}

/// A reader may outlive its log. Whoever opens the log next knows nothing of its pins, releases what it
/// reads and reuses the slot: the reader is told so, and not that the log is damaged.
#[test]
fn a_reader_that_outlives_its_log_is_told_what_was_reused() {
    let options = quiet().segment_bytes(64 << 10).log_bytes_max(4 * (64 << 10));
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let fill = |wal: &Wal<Memory>| {
        while let Ok(ticket) = wal.append(&payload(1, 3000)) {
            ticket.wait().unwrap();
        }
    };
    fill(&wal);
    let mut reader = wal.read_from(Lsn::ZERO).unwrap();
    reader.next_record().unwrap().unwrap();
    let mut late = wal.read_from(Lsn::ZERO).unwrap();
    wal.close().unwrap();
    reader.next_record().unwrap().expect("what nobody touched is still read");

    let wal = open(&options, storage).unwrap();
    wal.checkpoint(wal.appended_lsn(), b"").unwrap().wait().unwrap();
    fill(&wal);
    assert!(wal.stats().segments_recycled > 2);
    let told = loop {
        match reader.next_record() {
            Ok(found) => assert!(found.is_some(), "it ended before it was told"),
            Err(error) => break error,
        }
    };
    assert_eq!(told.kind(), ErrorKind::Released, "{told}");
    let told = late.next_record().map(|_| ()).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Released, "it had not begun to read: {told}");
}

/// The head of a segment that is long full goes bad while the log is in use, and a live reader comes to
/// it first: nothing of what was acknowledged may be skipped in silence.
#[test]
fn a_live_reader_finds_a_lost_head() {
    let storage = Memory::new();
    let wal = open(&quiet().segment_bytes(64 << 10), storage.clone()).unwrap();
    while wal.stats().segments_created + wal.stats().segments_recycled < 4 {
        wal.append(&payload(1, 3000)).unwrap().wait().unwrap();
    }
    let name = "slot-000000";
    let file = storage.open(name, Access::ReadWrite).unwrap();
    let mut block = Buffer::zeroed(storage.alignment(), 4096).unwrap();
    file.write_at(block.as_mut_slice(), 4096).unwrap();
    let told = wal.read_from(Lsn::ZERO).unwrap().next_record().map(|_| ()).unwrap_err();
    assert_eq!((told.kind(), told.offset()), (ErrorKind::Corrupt, Some(4096)));
}

/// Backups and tools look at the log while the service writes, without its lock. What they see must be a
/// prefix of what was appended, whatever is being written or recycled at that moment; they may be told
/// that they came too late, and never that the log is damaged. Some stop to think in the middle, while others
/// read ahead of them and their slots are used again.
fn read_only_sees_prefixes<S: Storage + Clone>(storage: S, rounds: usize) {
    let options = quiet().segment_bytes(64 << 10).linger(Duration::from_millis(1));
    let wal = open(&options, storage.clone()).unwrap();
    let kept = Mutex::new(Vec::<Kept>::new());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut index = 0;
            while !done.load(Ordering::SeqCst) {
                let bytes = payload(index, index * 31 % 3000);
                // Known to the test before any reader can see it.
                let mut kept = kept.lock().unwrap();
                let ticket = wal.append(&bytes).unwrap();
                kept.push((ticket.lsn(), bytes));
                // More than a few segments: long reads are read ahead, of slots that are used again meanwhile.
                let mark = kept[kept.len().saturating_sub(400)].0;
                drop(kept);
                if index % 8 == 0 {
                    ticket.wait().unwrap();
                }
                if index % 50 == 0 && index > 500 {
                    wal.checkpoint(mark, b"").unwrap().wait().unwrap();
                }
                index += 1;
            }
        });
        struct Finish<'a>(&'a AtomicBool);
        impl Drop for Finish<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let finish = Finish(&done);
        let (mut round, mut seen, mut read_ahead, mut overtaken) = (0, 0, 0, 0);
        // On, until it has met what it is about; who stops to think meets it.
        while round < rounds || ([seen, read_ahead, overtaken].contains(&0) && round < 100 * rounds)
        {
            round += 1;
            assert!(!writer.is_finished(), "the writer failed");
            let disk = Faulty::new(storage.clone());
            let control = disk.control();
            let mut stops = round % 8 == 0;
            let mut got = Vec::new();
            let read = || -> Result<()> {
                let mut log = options.open_read_only_in(disk)?;
                let mut records = log.records_from(Lsn::ZERO)?;
                while let Some(record) = records.next()? {
                    got.push((record.lsn(), record.payload().to_vec()));
                    if stops && control.count(Verb::Spawn) > 0 {
                        stops = false;
                        let recycled = wal.stats().segments_recycled;
                        eventually("all slots are used again", || {
                            wal.stats().segments_recycled > recycled + 32
                        });
                    }
                }
                Ok(())
            };
            let answer = read();
            let was_read_ahead = is_read_ahead(&control);
            read_ahead += usize::from(was_read_ahead);
            if let Err(error) = answer {
                assert_eq!(error.kind(), ErrorKind::Released, "round {round}: {error}");
                overtaken += usize::from(was_read_ahead && !got.is_empty());
            }
            let kept = kept.lock().unwrap();
            let Some((first, _)) = got.first() else { continue };
            let start = kept.iter().position(|(lsn, _)| lsn == first).expect("it was appended");
            assert!(kept[start..].starts_with(&got), "round {round}: not what was appended");
            seen += got.len();
        }
        drop(finish);
        assert!(seen > 0, "nothing was ever read");
        assert!(read_ahead > 0, "nobody was ever read ahead of");
        assert!(overtaken > 0, "no slot was used again under a reader that is read ahead of");
    });
}

/// Whether the log has started a thread there that reads ahead.
fn is_read_ahead(control: &Control) -> bool {
    let mut events = control.events().into_iter();
    events.any(|event| matches!(event, Event::Start(call) if call.file == "wal-read-ahead"))
}

/// See [`read_only_sees_prefixes`].
#[test]
fn a_read_only_open_sees_prefixes_in_memory() {
    read_only_sees_prefixes(Memory::new(), 200);
}

/// See [`read_only_sees_prefixes`].
#[test]
fn a_read_only_open_sees_prefixes_on_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    read_only_sees_prefixes(Directory::new(dir.path().join("log")), 100);
}

/// A tool that only looks must not change a byte, also where a repair would be due.
#[test]
fn a_read_only_open_writes_nothing() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    for index in 0..50 {
        wal.append(&payload(index, 500)).unwrap().wait().unwrap();
    }
    drop(wal.append(b"lost").unwrap());
    drop(wal);
    let image = Faulty::new(disk.crash());
    let mut log = quiet().open_read_only_in(image.clone()).unwrap();
    let mut records = log.records_from(Lsn::ZERO).unwrap();
    let mut count = 0;
    while records.next().unwrap().is_some() {
        count += 1;
    }
    // The last frame has nobody after it to vouch for it.
    assert!((49..=50).contains(&count), "{count} records");
    log.verify().unwrap();
    log.segments().unwrap();
    assert_eq!(image.control().writes_and_syncs(), 0);
}
