//! What a log leaves behind that ended while its preparer was at work.

use aligned::Buffer;
use wal::{
    Options,
    io::{Access, File as _, Memory, Storage},
};
use wal_tests::{
    eventually,
    fault::{Faulty, On, Verb},
    open,
};

const SEGMENT_BYTES: u64 = 1 << 16;

/// Whether each slot is a segment's length and has a header, in the order of their names.
fn slots(disk: &Faulty<Memory>) -> Vec<bool> {
    let disk = disk.inner();
    let mut names = disk.list().unwrap();
    names.retain(|name| name.starts_with("slot-"));
    names.sort_unstable();
    let is_whole = |name: &String| {
        let file = disk.open(name, Access::Read).unwrap();
        let mut block = Buffer::zeroed(disk.alignment(), 4096).unwrap();
        file.len().unwrap() == SEGMENT_BYTES
            && file.read_at(block.as_mut_slice(), 0).unwrap() > 0
            && block.as_mut_slice()[0] != 0
    };
    names.iter().map(is_whole).collect()
}

/// A log was closed, or dropped, while its next slot was being made. What was left was shorter than a segment, or a
/// slot of zeros that no segment was in: room on the disk that nobody had asked for, until the next open came upon
/// it.
#[test]
fn a_log_that_ends_leaves_no_slot_half_made() {
    for (verb, left) in
        [(Verb::WriteZeroes, 2), (Verb::Sync, 3), (Verb::SyncDir, 3), (Verb::WriteDurable, 3)]
    {
        let disk = Faulty::in_memory();
        let options = Options::new().segment_bytes(SEGMENT_BYTES).frame_bytes(16 << 10);
        let wal = open(&options, disk.clone()).unwrap();
        eventually("the first successor is prepared", || wal.stats().segments_recycled == 1);
        let on = On::every(verb);
        let on = match verb {
            Verb::SyncDir => on,
            _ => on.in_file("slot-000002"),
        };
        let gate = disk.control().gate(on);
        for _ in 0..17 {
            wal.append_untracked(&[1; 4000]).unwrap();
        }
        wal.append_untracked(b"in the next segment").unwrap();
        gate.wait_for(1);
        drop(wal);
        gate.open();
        eventually("the lock is given back", || disk.lock().is_ok());
        assert_eq!(slots(&disk), vec![true; left], "held in {verb:?}");
    }
}
