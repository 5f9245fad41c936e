//! Long reads without a lock: other threads read ahead.

use wal::{Lsn, Options, Ticket, Wal, io::Memory};
use wal_tests::{
    Kept,
    fault::{Faulty, Verb},
    open, quiet,
};

const SEGMENT_BYTES: u64 = 64 << 10;

fn options() -> Options {
    quiet().segment_bytes(SEGMENT_BYTES)
}

/// Appends records of many lengths up to `end`, and says which.
fn fill(wal: &Wal<Memory>, end: Lsn) -> Vec<Kept> {
    let mut kept = Vec::new();
    while wal.appended_lsn() < end {
        let payload = vec![u8::try_from(kept.len() % 251).unwrap(); kept.len() * 997 % 9000];
        let lsn = wal.append(&payload).and_then(Ticket::wait).unwrap();
        kept.push((lsn, payload));
    }
    kept
}

/// A tool looks a record up, and another copies the whole log. The first one must not pay for threads and
/// megabytes that it has no use for; the second one waits for the disk if nobody reads ahead of it.
#[test]
fn only_who_reads_on_is_read_ahead_of() {
    let memory = Memory::new();
    let wal = open(&options(), memory.clone()).unwrap();
    let kept = fill(&wal, Lsn::new(12 * SEGMENT_BYTES));
    let disk = Faulty::new(memory);
    let control = disk.control();
    let mut log = options().open_read_only_in(disk).unwrap();
    let mut records = log.records_from(Lsn::ZERO).unwrap();
    let threads = control.count(Verb::Spawn);
    let mut found = Vec::new();
    while let Some(record) = records.next().unwrap() {
        found.push((record.lsn(), record.payload().to_vec()));
        if record.next_lsn() < Lsn::new(SEGMENT_BYTES) {
            assert_eq!(control.count(Verb::Spawn), threads, "for what may be one record");
        }
    }
    // Nothing proves the last one.
    assert!(kept.starts_with(&found) && found.len() + 1 == kept.len(), "{}", found.len());
    assert!(control.count(Verb::Spawn) > threads);
}
