//! What a log that has latched says is known.

use std::time::Duration;
use wal::{ErrorKind, Wal, io::Memory};
use wal_tests::{
    eventually,
    fault::{EIO, Fault, Faulty, On, Verb},
    open, quiet,
};

/// All is durable, nobody appends, and the disk fails a segment that is being prepared. The answer was that the
/// outcome is unknown "from lsn 73728 to 73728": of no record, in words that made somebody restore a backup.
/// What is known is said instead.
#[test]
fn a_failure_that_touched_no_record_says_what_is_durable() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    eventually("the first successor is prepared", || wal.stats().segments_recycled == 1);
    let gate = disk.control().gate(On::every(Verb::Sync));
    disk.control().fail(Fault::once(On::every(Verb::Sync), EIO));
    for _ in 0..40 {
        wal.append(&[1; 8000]).unwrap().wait().unwrap();
    }
    gate.wait_for(1);
    gate.open();
    assert_knows_what_is_durable(&wal);
}

/// The same where the empty frame cannot be written that vouches for the last record.
#[test]
fn a_failed_confirmation_says_what_is_durable() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet().confirm_after(Duration::from_millis(1)), disk.clone()).unwrap();
    // Behind the opening frame and that of the record.
    let next = wal.durable_lsn().get() + 4096;
    disk.control().fail(Fault::once(On::frame_at(next), EIO));
    wal.append(b"only").unwrap().wait().unwrap();
    assert_knows_what_is_durable(&wal);
}

fn assert_knows_what_is_durable(wal: &Wal<Faulty<Memory>>) {
    eventually("the log latches", || wal.flush().is_err());
    let error = wal.flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Latched, "{error}");
    assert_eq!((error.range(), error.lsn()), (None, Some(wal.durable_lsn())), "{error}");
    let text = error.to_string();
    let known =
        format!("every record that was appended is durable, up to lsn {}", wal.durable_lsn());
    assert!(text.contains(&known) && text.contains("os error 5"), "{text}");
    assert!(!text.contains("unknown"), "{text}");
}
