//! Long reads without a lock: who is read ahead of, and what a reader is told that has no memory.

use std::error::Error as _;
use wal::{ErrorKind, Lsn, Options, Result, Ticket, UnreadableTail, Wal, io::Memory};
use wal_tests::{
    Kept,
    fault::{Control, Fault, Faulty, On, Verb, snapshot},
    open, quiet,
};

/// Long enough to be read in more than two pieces: a shorter one is not worth a thread.
const SEGMENT_BYTES: u64 = 4 << 20;

/// `ENOMEM` of Linux.
const ENOMEM: i32 = 12;

fn options() -> Options {
    quiet().segment_bytes(SEGMENT_BYTES)
}

/// Appends records of many lengths up to `end`, and says which.
fn fill(wal: &Wal<Memory>, end: Lsn) -> Vec<Kept> {
    let mut kept = Vec::new();
    while wal.appended_lsn() < end {
        let payload = vec![u8::try_from(kept.len() % 251).unwrap(); kept.len() * 99_991 % 400_000];
        let lsn = wal.append(&payload).and_then(Ticket::wait).unwrap();
        kept.push((lsn, payload));
    }
    kept
}

fn spawned(control: &Control) -> u64 {
    control.count(Verb::Spawn)
}

/// A tool looks a record up, and another copies the whole log. The first one must not pay for threads and
/// megabytes that it has no use for; the second one waits for the disk if nobody reads ahead of it.
#[test]
fn only_who_reads_on_is_read_ahead_of() {
    let memory = Memory::new();
    let wal = open(&options(), memory.clone()).unwrap();
    let kept = fill(&wal, Lsn::new(7 * SEGMENT_BYTES / 2));
    let disk = Faulty::new(memory);
    let control = disk.control();
    let mut log = options().open_read_only_in(disk).unwrap();
    let opened = spawned(&control);
    assert!(opened > 0, "segments this long are read ahead of by an open");
    // The first one, and the first one of each later segment.
    for segment in 0..3 {
        let mut records = log.records_from(Lsn::new(segment * SEGMENT_BYTES)).unwrap();
        assert!(records.next().unwrap().is_some());
        assert_eq!(spawned(&control), opened, "for one record of segment {segment}");
    }
    log.refresh().unwrap();
    assert_eq!(spawned(&control), opened, "for a look");
    let mut records = log.records_from(Lsn::ZERO).unwrap();
    let mut found = Vec::new();
    while let Some(record) = records.next().unwrap() {
        found.push((record.lsn(), record.payload().to_vec()));
        if record.lsn() < Lsn::new(SEGMENT_BYTES) {
            assert_eq!(spawned(&control), opened, "for what may be one record");
        }
    }
    // Nothing proves the last one.
    assert!(kept.starts_with(&found) && found.len() + 1 == kept.len(), "{}", found.len());
    assert!(spawned(&control) > opened);
}

/// What an open for writing or a look at the log finds, unless it fails.
fn found(disk: &Faulty<Memory>, choice: UnreadableTail, is_look: bool) -> Result<Vec<Lsn>> {
    let options = options().unreadable_tail(choice);
    let mut found = Vec::new();
    if is_look {
        let mut log = options.open_read_only_in(disk.clone())?;
        let mut records = log.records_from_including_unproved(Lsn::ZERO)?;
        while let Some(record) = records.next()? {
            found.push(record.lsn());
        }
        found.push(log.tail()?);
        assert!(log.verify()?.damage.is_empty());
    } else {
        let mut replay = options.open_in(disk.clone())?;
        while let Some(record) = replay.next()? {
            found.push(record.lsn());
        }
        found.push(replay.report().tail);
    }
    Ok(found)
}

/// The kernel has no memory for one of the reads: the same read a moment later is answered. It was taken for a
/// bad sector, and an acknowledged record behind the last mark for a torn one.
#[test]
fn a_read_without_memory_is_no_bad_sector() {
    let memory = Memory::new();
    let wal = open(&options(), memory.clone()).unwrap();
    fill(&wal, Lsn::new(3 * SEGMENT_BYTES / 2));
    // As a crash leaves it, and locked by nobody.
    let memory = snapshot(&memory);
    let mut told = 0;
    for choice in [UnreadableTail::Refuse, UnreadableTail::TreatAsTorn] {
        for is_look in [false, true] {
            let whole = found(&Faulty::new(memory.clone()), choice, is_look).unwrap();
            for calls in 0.. {
                let disk = Faulty::new(memory.clone());
                disk.control().fail(Fault::sticky(On::every(Verb::Read), ENOMEM).after(calls));
                match found(&disk, choice, is_look) {
                    Ok(found) => assert_eq!(found, whole, "call {calls}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Io, "call {calls}: {error}");
                        let source = error.source().and_then(|source| source.downcast_ref());
                        let source: &std::io::Error = source.unwrap();
                        assert_eq!(source.raw_os_error(), Some(ENOMEM));
                        told += 1;
                    }
                }
                if disk.control().count(Verb::Read) <= calls {
                    break;
                }
            }
        }
    }
    assert!(told > 0);
}
