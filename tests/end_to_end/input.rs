//! Bad input: places that are no log's, options and records that cannot be, disks that are full.
//! Each has a typed outcome; none panics, hangs, takes memory without bound, or loses a record.

use crate::craft::{
    Disk, Entry, Pen, Records, SEGMENT_BYTES, append, edit, kind, open, payload, read_all, replay,
    save, slot, small,
};
use std::{fs, time::Duration};
use wal::{
    Create, ErrorKind, Lsn, Options, Verdict,
    format::{FrameHeader, Origin, Purpose},
    io::{Directory, Memory, Storage as _},
};

/// A file has the last number that a slot can have. It is a slot like others, and the log takes lower
/// numbers after it.
#[test]
fn slot_with_the_last_number_is_in_nobodys_way() {
    let storage = Memory::new();
    open(&small(), &storage).unwrap().1.close().unwrap();
    drop(storage.create_file("slot-4294967295").unwrap());
    let (_, wal, _) = open(&small(), &storage).unwrap();
    let expected: Vec<_> = (0..100).map(|number| append(&wal, &payload(number, 3000))).collect();
    assert!(wal.stats().segments_created > 2, "{:?}", wal.stats());
    wal.close().unwrap();
    drop(wal);
    assert_eq!(read_all(&small(), &storage).unwrap().0, expected);
}

/// Others put their own things into the directory: files, directories, names that almost look like
/// slots. They are left alone and listed.
#[test]
fn foreign_files_are_ignored_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let storage = Directory::new(&path);
    let first = {
        let (_, wal, _) = open(&small(), &storage).unwrap();
        let first = append(&wal, b"first");
        wal.close().unwrap();
        first
    };
    let names = ["notes.txt", "slot-1", "slot-000001.bak", "identity.old", "SLOT-000000", "lock~"];
    for name in names {
        fs::write(path.join(name), b"mine").unwrap();
    }
    fs::create_dir(path.join("backup")).unwrap();
    fs::write(path.join("backup/slot-000000"), b"mine").unwrap();
    let (found, wal, report) = open(&small(), &Directory::new(&path)).unwrap();
    assert_eq!(found, [first]);
    let mut expected: Vec<_> = names.into_iter().chain(["backup"]).collect();
    expected.sort_unstable();
    let mut listed = report.foreign_files.clone();
    listed.sort_unstable();
    assert_eq!(listed, expected);
    wal.close().unwrap();
    for name in names {
        assert_eq!(fs::read(path.join(name)).unwrap(), b"mine");
    }
}

/// A directory has a slot's name, or the identity's: somebody's mistake, and never a panic.
#[test]
fn directory_with_a_files_name_is_refused() {
    for name in ["slot-000000", "slot-000001", "slot-000009", "identity"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (_, wal, _) = open(&small(), &Directory::new(&path)).unwrap();
        append(&wal, b"first");
        wal.close().unwrap();
        let _ = fs::remove_file(path.join(name));
        fs::create_dir(path.join(name)).unwrap();
        let outcome = small().open(&path);
        let expected = [ErrorKind::Corrupt, ErrorKind::Io, ErrorKind::Unsupported];
        assert!(kind(&outcome).is_some_and(|kind| expected.contains(&kind)), "{name}: {outcome:?}");
    }
}

/// The path names a file, or leads through one.
#[test]
fn path_that_is_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"mine").unwrap();
    for path in [file.clone(), file.join("log")] {
        for choice in [Create::IfMissing, Create::Never, Create::New] {
            let outcome = small().create(choice).open(&path);
            let expected = [ErrorKind::Unsupported, ErrorKind::Io, ErrorKind::NotFound];
            let found = kind(&outcome);
            assert!(found.is_some_and(|kind| expected.contains(&kind)), "{outcome:?}");
            assert!(outcome.unwrap_err().path().is_some());
        }
        assert!(small().open_read_only(&path).is_err());
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

/// Nothing is there yet: an empty directory, one with nothing but a lock file, or none at all.
#[test]
fn empty_directory_is_a_place_for_a_log() {
    for leftovers in [&[][..], &["lock"], &["lock", "probe"], &["identity.tmp"]] {
        let dir = tempfile::tempdir().unwrap();
        for name in leftovers {
            fs::write(dir.path().join(name), b"1\n").unwrap();
        }
        let absent = small().create(Create::Never).open(dir.path());
        assert_eq!(kind(&absent), Some(ErrorKind::NotFound), "{leftovers:?}: {absent:?}");
        let absent = small().open_read_only(dir.path());
        assert_eq!(kind(&absent), Some(ErrorKind::NotFound), "{leftovers:?}");
        let storage = Directory::new(dir.path());
        let (found, wal, report) = open(&small().create(Create::New), &storage).unwrap();
        assert!(found.is_empty() && report.created, "{leftovers:?}: {report}");
        assert!(report.foreign_files.is_empty(), "{report}");
        let record = append(&wal, b"first");
        wal.close().unwrap();
        drop(wal);
        let again = small().create(Create::New).open(dir.path());
        assert_eq!(kind(&again), Some(ErrorKind::InvalidInput), "{again:?}");
        let (found, _) = read_all(&small().create(Create::Never), &storage).unwrap();
        assert_eq!(found, [record]);
    }
    let dir = tempfile::tempdir().unwrap();
    let missing = small().create(Create::Never).open(dir.path().join("no/such/place"));
    assert_eq!(kind(&missing), Some(ErrorKind::NotFound), "{missing:?}");
    assert!(!dir.path().join("no").exists());
}

/// Every option at and past its bounds. What is out of range is refused before anything is made.
#[test]
fn options_out_of_range_are_refused() {
    let bad = [
        Options::new().segment_bytes(0),
        Options::new().segment_bytes(4096 * 15),
        Options::new().segment_bytes((16 << 20) + 1),
        Options::new().segment_bytes((256 << 20) + 4096),
        Options::new().segment_bytes(u64::MAX),
        Options::new().block_bytes(0),
        Options::new().block_bytes(256),
        Options::new().block_bytes(4097),
        Options::new().block_bytes(128 << 10),
        Options::new().block_bytes(u32::MAX),
        Options::new().block_bytes(64 << 10).segment_bytes(15 * (64 << 10)),
        Options::new().frame_bytes(0),
        Options::new().frame_bytes(u32::MAX),
        Options::new().pool_bytes(0),
        Options::new().pool_bytes(u64::MAX),
        Options::new().depth(0),
        Options::new().depth(u32::MAX),
        Options::new().linger(Duration::MAX),
        Options::new().confirm_after(Duration::MAX),
        Options::new().lock_timeout(Duration::MAX),
        Options::new().log_bytes_max(0),
        Options::new().log_bytes_max(47 << 20),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for options in bad {
        let outcome = options.open(&path);
        assert_eq!(kind(&outcome), Some(ErrorKind::InvalidInput), "{options:?}: {outcome:?}");
        assert!(!path.exists(), "{options:?}: something was made");
    }
    let good = [
        small().segment_bytes(16 * 512).block_bytes(512),
        small().segment_bytes(16 * (64 << 10)).block_bytes(64 << 10),
        small().log_bytes_max(3 * SEGMENT_BYTES),
        small().depth(64),
    ];
    for options in good {
        let storage = Memory::new();
        let (_, wal, _) = open(&options, &storage).unwrap();
        let records = vec![append(&wal, b""), append(&wal, &payload(1, 1000))];
        wal.close().unwrap();
        drop(wal);
        assert_eq!(read_all(&options, &storage).unwrap().0, records, "{options:?}");
    }
}

/// The program's configuration changed since the log was made. A log keeps the geometry that it was
/// created with.
#[test]
fn geometry_of_an_existing_log_wins() {
    let storage = Memory::new();
    let mut records = Records::new();
    for options in [
        small(),
        small().segment_bytes(1 << 20),
        small().block_bytes(512).segment_bytes(8192),
        small().block_bytes(64 << 10).segment_bytes(2 << 20),
    ] {
        let (found, wal, report) = open(&options, &storage).unwrap();
        assert_eq!(found, records);
        assert_eq!((report.segment_bytes, report.block_bytes), (SEGMENT_BYTES, 4096));
        for number in 0..20 {
            records.push(append(&wal, &payload(number, 5000)));
        }
        wal.close().unwrap();
    }
}

/// Records of no bytes are records: each has its place, and all come back.
#[test]
fn empty_records_come_back() {
    let storage = Memory::new();
    let (_, wal, _) = open(&small(), &storage).unwrap();
    let mut lsns = Vec::new();
    let mut last = None;
    for _ in 0..5000 {
        let ticket = wal.append(b"").unwrap();
        lsns.push(ticket.lsn().get());
        last = Some(ticket);
    }
    last.unwrap().wait().unwrap();
    drop(wal);
    assert!(lsns.is_sorted_by(|a, b| a < b));
    let (found, _) = read_all(&small(), &storage).unwrap();
    assert_eq!(found, lsns.into_iter().map(|lsn| (lsn, Vec::new())).collect::<Records>());
}

/// A record one byte too long, far too long, or so long that no memory holds it; and one that just
/// fits. The refusal comes at once and harms nothing.
#[test]
fn record_longer_than_a_segment_is_refused() {
    let storage = Memory::new();
    let (_, wal, _) = open(&small(), &storage).unwrap();
    let mut records = vec![append(&wal, b"before")];
    let most = wal.record_bytes_max();
    assert!(u64::try_from(most).unwrap() < SEGMENT_BYTES);
    for bytes in [most + 1, 1 << 20, 64 << 20] {
        let outcome = wal.append(&vec![1; bytes]);
        assert_eq!(kind(&outcome), Some(ErrorKind::TooLarge), "{bytes}: {outcome:?}");
        let outcome = wal.try_append(&vec![1; bytes]);
        assert_eq!(kind(&outcome), Some(ErrorKind::TooLarge), "{bytes}");
    }
    for bytes in [most + 1, usize::MAX / 2, usize::MAX] {
        let outcome = wal.append_with(bytes, |_| panic!("there is no room to fill"));
        assert_eq!(kind(&outcome), Some(ErrorKind::TooLarge), "{bytes}");
        let mut batch = wal.batch();
        let outcome = batch.push_with(bytes, |_| panic!("there is no room to fill"));
        assert_eq!(kind(&outcome), Some(ErrorKind::TooLarge), "{bytes}");
        assert!(batch.is_empty());
    }
    for number in 0..3 {
        records.push(append(&wal, &payload(number, most)));
    }
    records.push(append(&wal, b"after"));
    let state = wal.checkpoint(Lsn::new(records[0].0), &[0; 1025]);
    assert_eq!(kind(&state), Some(ErrorKind::TooLarge));
    wal.close().unwrap();
    drop((state, wal));
    assert_eq!(read_all(&small(), &storage).unwrap().0, records);
}

/// A million records in one batch: all of them or none, and one frame to carry them.
#[test]
fn million_records_in_one_batch_come_back() {
    let options = Options::new().segment_bytes(32 << 20);
    let storage = Memory::new();
    let (_, wal, _) = open(&options, &storage).unwrap();
    let mut batch = wal.batch();
    for number in 0..1_000_000_u64 {
        batch.push(&number.to_le_bytes()).unwrap();
    }
    assert_eq!(batch.len(), 1_000_000);
    let ticket = batch.append().unwrap();
    let (first, last) = (ticket.lsn(), ticket.last_lsn());
    ticket.wait().unwrap();
    assert_eq!(last.distance_from(first), Some(16 * 999_999));
    drop(wal);

    let mut replay = replay(&options, &storage).unwrap();
    let mut count = 0_u64;
    while let Some(record) = replay.next().unwrap() {
        assert_eq!(record.payload(), count.to_le_bytes());
        assert_eq!(record.lsn().get(), first.get() + 16 * count);
        count += 1;
        assert_eq!(record.ends_batch(), count == 1_000_000);
    }
    assert_eq!(count, 1_000_000);
    drop(replay);

    // Torn anywhere, none of them is there.
    for at in [first.get() - 60, first.get() + 8_000_003, last.get() + 9] {
        edit(&storage, &slot(0), at, |byte| *byte ^= 64);
        let (found, report) = read_all(&options, &storage).unwrap();
        assert!(found.is_empty(), "{} of a million", found.len());
        assert_eq!(report.verdict, Verdict::TornTail);
        edit(&storage, &slot(0), at, |byte| *byte ^= 64);
    }
}

/// A disk with room for a few segments: it fills up, in the middle of nothing. What was
/// acknowledged stays, a checkpoint makes room, and the log goes on; so it does after a crash in
/// that state.
#[test]
fn full_disk_refuses_appends_and_harms_nothing() {
    for capacity in [0, 60 << 10, 130 << 10, 140 << 10, 200 << 10, 300 << 10, 500 << 10] {
        let storage = Memory::with_capacity(capacity);
        let opened = open(&small(), &storage);
        let Ok((_, wal, _)) = opened else {
            assert_eq!(kind(&opened), Some(ErrorKind::NoSpace), "{capacity}: {opened:?}");
            // What was taken is left for the next try, and is no log.
            continue;
        };
        let mut records = Records::new();
        let refused = loop {
            match wal.append(&payload(records.len(), 3000)) {
                Ok(ticket) => {
                    let lsn = ticket.wait().unwrap();
                    records.push((lsn.get(), payload(records.len(), 3000)));
                }
                Err(error) => break error,
            }
            assert!(u64::try_from(records.len()).unwrap() * 3000 < capacity, "{capacity}: no end");
        };
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{capacity}: {refused}");
        assert!(!records.is_empty(), "{capacity}");
        drop(wal);

        // After a crash: everything is there, and it is still full.
        let (found, wal, _) = open(&small(), &storage).unwrap();
        assert_eq!(found, records, "{capacity}");
        let is_full = kind(&wal.append(&payload(0, 20_000))) == Some(ErrorKind::NoSpace);
        assert!(is_full, "{capacity}: where should that go");
        let last = Lsn::new(records.last().unwrap().0);
        wal.checkpoint(last, b"all but the last").unwrap().wait().unwrap();
        if capacity >= 200 << 10 {
            // The first segment is free: one more than the two that a log always has.
            records.drain(..records.len() - 1);
            for number in 0..20 {
                records.push(append(&wal, &payload(number, 3000)));
                let mark = Lsn::new(records.last().unwrap().0);
                wal.checkpoint(mark, b"").unwrap().wait().unwrap();
            }
            wal.close().unwrap();
            drop(wal);
            let (found, report) = read_all(&small(), &storage).unwrap();
            assert_eq!(found, records[records.len() - 1..], "{capacity}");
            assert_eq!(report.verdict, Verdict::Clean);
        }
    }
}

/// The log's own cap is as good as a full disk: clean refusals, and a checkpoint lets it go on.
#[test]
fn cap_on_the_log_refuses_and_a_checkpoint_frees() {
    let options = small().log_bytes_max(3 * SEGMENT_BYTES);
    let storage = Memory::new();
    let (_, wal, _) = open(&options, &storage).unwrap();
    let mut last = append(&wal, b"first");
    for round in 0..5 {
        let refused = loop {
            match wal.append(&payload(round, 3000)) {
                Ok(ticket) => last = (ticket.wait().unwrap().get(), payload(round, 3000)),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
        let bytes: usize = save(&storage)
            .iter()
            .filter(|(name, _)| name.starts_with("slot-"))
            .map(|(_, bytes)| bytes.len())
            .sum();
        assert!(u64::try_from(bytes).unwrap() <= 3 * SEGMENT_BYTES, "{bytes} bytes of slots");
        wal.checkpoint(Lsn::new(last.0), b"").unwrap().wait().unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    assert_eq!(read_all(&options, &storage).unwrap().0, [last]);
}

/// Frames of hostile lengths and counts, with checksums that fit: a header that promises four
/// gigabytes, a million records, a place past the segment. No memory is taken on its word.
#[test]
fn hostile_headers_are_answered_without_allocating() {
    let mut disk = Disk::new();
    disk.segment(0, 0, Origin::Zeroed);
    disk.segment(1, 1, Origin::Zeroed);
    let mut pen = Pen::new(&disk, 0);
    let opening = pen.frame(Purpose::Opening, &[]);
    let good = pen.frame(Purpose::Records, &[Entry::Data(b"good")]);
    disk.put(opening.lsn, &opening.bytes);
    disk.put(good.lsn, &good.bytes);
    let tail = pen.lsn;
    let hostile = pen.frame(Purpose::Records, &[Entry::Data(b"bad")]);
    type Change = fn(&mut FrameHeader);
    let changes: [Change; 10] = [
        |header| header.payload_bytes = u32::MAX,
        |header| header.payload_bytes = 1 << 31,
        |header| header.payload_bytes = 0,
        |header| header.payload_bytes = 60 << 10,
        |header| header.record_count = u32::MAX,
        |header| header.record_count = 0,
        |header| header.first_ordinal = u64::MAX,
        |header| header.epoch = u64::MAX,
        |header| header.durable_mark = Lsn::new(u64::MAX),
        |header| header.lsn = Lsn::new(u64::MAX),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut header = hostile.header;
        change(&mut header);
        let mut bytes = hostile.bytes.clone();
        header.encode(disk.identity.log_id, &mut bytes);
        let mut disk = disk.clone();
        disk.put(tail, &bytes);
        let storage = disk.load();
        match open(&small(), &storage) {
            Err(error) => {
                let typed = [ErrorKind::Corrupt, ErrorKind::Unsupported].contains(&error.kind());
                assert!(typed, "change {index}: {error:?}");
            }
            Ok((found, wal, report)) => {
                assert_eq!(found, good.records, "change {index}: {report}");
                let mut expected = found;
                expected.push(append(&wal, b"on"));
                drop(wal);
                let (found, _) = read_all(&small(), &storage).unwrap();
                assert_eq!(found, expected, "change {index}");
            }
        }
    }
}
