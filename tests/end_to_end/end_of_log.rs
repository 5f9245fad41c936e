//! The end of the 64-bit log: the positions are used up, some day in a million years or after a damaged
//! header. A log that is there by hand refuses to go on, and keeps what it has.

use crate::craft::{Disk, Entry, Pen, Records, SEGMENT_BYTES, after_crash, open, read_all, small};
use wal::{
    ErrorKind, Lsn, Wal,
    format::{Origin, Purpose, SegmentHeader},
    io::{Memory, Storage},
};

/// The last segment whose end is a position.
const LAST: u64 = u64::MAX / SEGMENT_BYTES - 1;

/// A log whose oldest segment is the last but two, with one record, and its next segment prepared.
fn near_the_end() -> (Memory, Records) {
    let mut disk = Disk::new();
    let first = LAST - 2;
    disk.segment(0, first, Origin::Zeroed);
    disk.segment(1, first + 1, Origin::Recycled);
    let mut pen = Pen::new(&disk, first);
    (pen.ordinal, pen.epoch, pen.chain) = (1 << 40, 9, 0x1234_5678);
    let restated = Entry::Checkpoint(first * SEGMENT_BYTES, b"long ago");
    let frame = pen.frame(Purpose::Records, &[restated, Entry::Data(b"the first")]);
    disk.put(frame.lsn, &frame.bytes);
    (disk.load(), frame.records)
}

/// Appends until it is refused; all of it is durable then.
fn fill(wal: &Wal<impl Storage>, kept: &mut Records) {
    let refused = loop {
        let payload = vec![u8::try_from(kept.len() % 251).unwrap(); 3000];
        match wal.append(&payload) {
            Ok(ticket) => kept.push((ticket.lsn().get(), payload)),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
    assert!(refused.to_string().contains("64-bit"), "{refused}");
    wal.flush().unwrap();
}

/// Everything up to the end is there after a crash, after a close, and for who reads beside it all.
#[test]
fn the_last_segment_is_filled_and_then_all_is_refused() {
    let (storage, mut kept) = near_the_end();
    let identity = Disk::new().identity;
    assert!(SegmentHeader::new(&identity, LAST, Origin::Zeroed).is_some());
    assert!(SegmentHeader::new(&identity, LAST + 1, Origin::Zeroed).is_none());
    let (found, wal, _) = open(&small(), &storage).unwrap();
    assert_eq!(found, kept);
    fill(&wal, &mut kept);
    assert!(kept.len() > 40, "{} records in three segments", kept.len());
    assert_eq!(kept.last().unwrap().0 / SEGMENT_BYTES, LAST);
    drop(wal);
    // A crash: what is open now goes on, and is refused at the same place.
    let storage = after_crash(&storage);
    let (found, wal, _) = open(&small(), &storage).unwrap();
    assert_eq!(found, kept);
    fill(&wal, &mut kept);
    wal.close().unwrap();
    drop(wal);
    let (found, report) = read_all(&small(), &after_crash(&storage)).unwrap();
    assert_eq!(found, kept);
    assert!(report.clean_close, "{report}");
    let mut reader = small().open_read_only_in(after_crash(&storage)).unwrap();
    let mut records = reader.records_from(Lsn::new(kept[0].0)).unwrap();
    let mut found = Records::new();
    while let Some(record) = records.next().unwrap() {
        found.push((record.lsn().get(), record.payload().to_vec()));
    }
    assert_eq!(found, kept);
}

/// A checkpoint frees segments and no position: it is taken, and what is appended is refused as before.
#[test]
fn a_checkpoint_makes_no_room_behind_the_end() {
    let (storage, mut kept) = near_the_end();
    let (_, wal, _) = open(&small(), &storage).unwrap();
    fill(&wal, &mut kept);
    let mark = kept.last().unwrap().0;
    wal.checkpoint(Lsn::new(mark), b"the end").unwrap().wait().unwrap();
    let refused = wal.append(&[7; 3000]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
    kept.retain(|(lsn, _)| *lsn >= mark);
    wal.close().unwrap();
    drop(wal);
    let storage = after_crash(&storage);
    let (found, wal, _) = open(&small(), &storage).unwrap();
    assert_eq!(found, kept);
    assert_eq!(wal.start_mark(), Lsn::new(mark));
}

/// Each open of a log that was not closed takes a block for its frame. When the last is taken, it still
/// opens.
#[test]
fn a_log_without_a_block_left_is_opened_again_and_again() {
    let (storage, mut kept) = near_the_end();
    let (_, wal, _) = open(&small(), &storage).unwrap();
    fill(&wal, &mut kept);
    drop(wal);
    let mut image = after_crash(&storage);
    let mut tails = Vec::new();
    for round in 0..40 {
        let (found, wal, report) = open(&small(), &image).unwrap();
        assert_eq!(found, kept, "round {round}");
        tails.push(report.tail);
        if let Ok(ticket) = wal.append(b"") {
            kept.push((ticket.lsn().get(), Vec::new()));
            ticket.wait().unwrap();
        }
        drop(wal);
        image = after_crash(&image);
    }
    assert!(tails[0] < tails[39], "no open took a block: {tails:?}");
    assert_eq!(tails[38], tails[39], "there was room to the end: {tails:?}");
}
