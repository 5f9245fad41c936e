//! Bad input: damaged, missing and foreign files, and calls that cannot be granted. Each has a typed
//! outcome; none panics, hangs, takes memory without bound, or loses a record without a word.

use crate::craft::{
    BLOCK_BYTES, Image, Records, SEGMENT_BYTES, append, edit, flip, kind, load, open, payload,
    put_file, read_all, save, slot, small, unpack,
};
use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    thread,
    time::{Duration, Instant},
};
use wal::{
    Create, ErrorKind, Lsn, Options, Verdict, VerifyVerdict,
    io::{Access, Directory, File, Memory, Storage},
};

/// A small log and what is known of it.
struct Subject {
    name: &'static str,
    image: Image,
    records: Records,
    /// The places of the last frame that holds a record, if nothing vouches for it, and how many
    /// records it has: by slot name, offsets in the file.
    unvouched: Option<(String, Range<u64>, usize)>,
    /// Where the log ends.
    tail: u64,
}

/// About fifty records in two segments, among them empty ones, a batch, one of several blocks and a
/// void; dropped or closed.
fn subject(name: &'static str, records_max: usize, end: End) -> Subject {
    let storage = Memory::new();
    let mut records = Records::new();
    let (_, wal, _) = open(&small(), &storage).unwrap();
    let mut number = 0;
    let mut begun = wal.appended_lsn();
    while records.len() < records_max {
        begun = wal.appended_lsn();
        number += 1;
        match number % 9 {
            3 => {
                let mut batch = wal.batch();
                let payloads: Vec<_> = (0..8).map(|i| payload(number * 10 + i, 3 * i)).collect();
                for payload in &payloads {
                    batch.push(payload).unwrap();
                }
                let ticket = batch.append().unwrap();
                let mut lsn = ticket.lsn().get();
                ticket.wait().unwrap();
                for payload in payloads {
                    let bytes = u64::try_from(wal::format::record_bytes(payload.len())).unwrap();
                    records.push((lsn, payload));
                    lsn += bytes;
                }
            }
            5 => records.push(append(&wal, b"")),
            7 => records.push(append(&wal, &payload(number, 9000))),
            _ => records.push(append(&wal, &payload(number, 20 * number))),
        }
    }
    wait_for_successor(&storage);
    // The next segment's header is written only when this one's first frame is durable, and so
    // vouches for it.
    let first_of_segment = begun.get() <= SEGMENT_BYTES + BLOCK_BYTES;
    let vouched = first_of_segment && wal.appended_lsn().get() > SEGMENT_BYTES;
    match end {
        End::Close => wal.close().unwrap(),
        End::Crash | End::Reopen => {}
    }
    drop(wal);
    if let End::Reopen = end {
        drop(open(&small(), &storage).unwrap());
    }
    let unvouched = matches!(end, End::Crash).then(|| {
        let last = records.last().unwrap().0;
        (last, records.iter().filter(|(lsn, _)| *lsn >= begun.get()).count())
    });
    let unvouched = unvouched.filter(|_| !vouched);
    let (found, report) = read_all(&small(), &storage).unwrap();
    assert_eq!(found, records);
    let image = save(&storage);
    let tail = report.tail.get();
    let unvouched = unvouched.map(|(last, count)| {
        let first = records[records.len() - count].0;
        let frame = first / BLOCK_BYTES * BLOCK_BYTES;
        assert!(last < tail);
        let home = home_of(&image, frame / SEGMENT_BYTES);
        let end = tail - frame / SEGMENT_BYTES * SEGMENT_BYTES;
        (home, frame % SEGMENT_BYTES..end, count)
    });
    Subject { name, image, records, unvouched, tail }
}

/// Waits until the segment after the last one that holds a frame is prepared: before, nothing would
/// tell that the last one is missing.
fn wait_for_successor(storage: &Memory) {
    let start = Instant::now();
    loop {
        let image = save(storage);
        let sequences = image.values().filter(|bytes| bytes.starts_with(b"walSegmt"));
        let is_empty = |bytes: &&Vec<u8>| bytes[4096..].iter().all(|byte| *byte == 0);
        if sequences.filter(is_empty).count() == 1 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "no segment is prepared");
        thread::yield_now();
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
enum End {
    Close,
    Crash,
    Reopen,
}

fn subjects() -> Vec<Subject> {
    vec![
        subject("closed", 44, End::Close),
        subject("crashed", 44, End::Crash),
        subject("crashed after the first frame of its second segment", 27, End::Crash),
        subject("crashed when its first segment was full", 26, End::Crash),
        subject("crashed before", 18, End::Crash),
        subject("crashed and reopened", 42, End::Reopen),
    ]
}

/// The slot that says it is segment `sequence`.
fn home_of(image: &Image, sequence: u64) -> String {
    let is_it = |bytes: &[u8]| {
        bytes.len() >= 40 && bytes[..8] == *b"walSegmt" && bytes[32..40] == sequence.to_le_bytes()
    };
    image.iter().find(|(_, bytes)| is_it(bytes)).unwrap().0.clone()
}

impl Subject {
    /// Which bytes of file `name` belong to the identity, a header or a frame.
    fn used(&self, name: &str) -> Range<u64> {
        let bytes = &self.image[name];
        if name == "identity" {
            return 0..4096;
        }
        if bytes[..8] != *b"walSegmt" {
            return 0..0;
        }
        let base = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
        let end = self.tail.saturating_sub(base).clamp(BLOCK_BYTES, SEGMENT_BYTES);
        // Behind the last frame of a segment that is full enough nothing stands but zeros.
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let written = u64::try_from(bytes.len() - zeros).unwrap();
        0..end.min(written.next_multiple_of(BLOCK_BYTES))
    }

    /// Whether `at` of `name` lies in the one frame that nothing vouches for.
    fn is_unvouched(&self, name: &str, at: Range<u64>) -> bool {
        self.unvouched.as_ref().is_some_and(|(home, range, _)| {
            home == name && at.start < range.end && range.start < at.end
        })
    }

    /// Judges what opening `storage` made of a change to `at` of file `name`.
    fn judge(&self, storage: &Memory, name: &str, at: Range<u64>, what: &str) -> Outcome {
        let text = || format!("{}: {what} {name} at {at:?}", self.name);
        let (found, report) = match read_all(&small(), storage) {
            Ok(opened) => opened,
            Err(error) => {
                let kind = error.kind();
                let is_typed = matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported);
                assert!(is_typed, "{}: {error:?}", text());
                assert!(error.path().is_some(), "{}: no path in {error}", text());
                return Outcome::Refused;
            }
        };
        if found == self.records {
            return Outcome::Complete;
        }
        let count = self.unvouched.as_ref().map_or(0, |(.., count)| *count);
        let kept = &self.records[..self.records.len() - count];
        assert!(self.is_unvouched(name, at.clone()), "{}: {report}", text());
        assert_eq!(found, kept, "{}", text());
        assert_eq!(report.verdict, Verdict::TornTail, "{}", text());
        assert!(report.cut.is_some(), "{}", text());
        Outcome::Torn
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Complete,
    Torn,
    Refused,
}

/// Every byte of a log flips, one at a time: in the identity, the headers, the records, the padding
/// and the empty room. Damage to what was acknowledged is refused; damage to room that nobody uses
/// refuses nothing; only the one frame that nobody vouches for may be cut.
#[test]
fn every_flipped_byte_is_found_or_harmless() {
    let subjects = subjects();
    let place = |subject: &Subject| {
        (subject.tail / SEGMENT_BYTES, subject.tail % SEGMENT_BYTES / BLOCK_BYTES)
    };
    let places: Vec<_> = subjects.iter().map(place).collect();
    assert_eq!(places, [(1, 15), (1, 14), (1, 2), (1, 0), (0, 15), (1, 13)]);
    thread::scope(|scope| {
        for subject in &subjects {
            scope.spawn(|| {
                let storage = load(&subject.image);
                let mut tally = BTreeMap::<Outcome, u32>::new();
                for (name, bytes) in &subject.image {
                    let used = subject.used(name);
                    for (index, byte) in bytes.iter().enumerate() {
                        let at = u64::try_from(index).unwrap();
                        // Zeros are many: all those of the identity and the headers, and every
                        // thirteenth of padding and room, which visits every bit in turn.
                        let is_head = name == "identity" || at < 256;
                        if *byte == 0 && !is_head && at % 13 != 0 {
                            continue;
                        }
                        flip(&storage, name, at, u32::try_from(index % 8).unwrap());
                        let outcome = subject.judge(&storage, name, at..at + 1, "flipped");
                        *tally.entry(outcome).or_default() += 1;
                        if !used.contains(&at) {
                            let text = format!("{}: room of {name} at {at}", subject.name);
                            assert_eq!(outcome, Outcome::Complete, "{text}");
                        }
                        flip(&storage, name, at, u32::try_from(index % 8).unwrap());
                    }
                }
                assert_eq!(save(&storage), subject.image, "an open without finish() wrote");
                assert!(tally[&Outcome::Refused] > 1000, "{}: {tally:?}", subject.name);
                assert!(tally[&Outcome::Complete] > 1000, "{}: {tally:?}", subject.name);
                let torn = tally.get(&Outcome::Torn).is_some_and(|count| *count > 50);
                assert_eq!(torn, subject.unvouched.is_some(), "{}: {tally:?}", subject.name);
            });
        }
    });
}

/// The same flips, and then life goes on: whatever was accepted is finished, appended to, crashed
/// and opened again, and nothing that was accepted changes. A sample, since each writes.
#[test]
fn log_that_was_accepted_with_a_flipped_byte_goes_on() {
    for subject in subjects() {
        for (name, bytes) in &subject.image {
            for at in (0..u64::try_from(bytes.len()).unwrap()).step_by(331) {
                let storage = load(&subject.image);
                flip(&storage, name, at, 2);
                let Ok((mut found, wal, _)) = open(&small(), &storage) else { continue };
                found.push(append(&wal, &payload(1, 3000)));
                found.push(append(&wal, &payload(2, 100)));
                drop(wal);
                let (again, _) = read_all(&small(), &load(&save(&storage))).unwrap();
                assert_eq!(again, found, "{}: flipped {name} at {at}", subject.name);
            }
        }
    }
}

/// A copy that stopped half-way: each file ends early, at every block, and at every byte around the
/// ends of blocks that hold something.
#[test]
fn every_truncation_is_found_or_harmless() {
    for subject in subjects() {
        for (name, bytes) in &subject.image {
            let length = u64::try_from(bytes.len()).unwrap();
            let mut cuts: Vec<u64> = (0..length).step_by(512).collect();
            let used = subject.used(name).end;
            for block in (0..=used.min(length)).step_by(4096) {
                cuts.extend((block.saturating_sub(9)..block + 70).filter(|cut| *cut < length));
            }
            for cut in cuts {
                let mut image = subject.image.clone();
                image.get_mut(name).unwrap().truncate(usize::try_from(cut).unwrap());
                subject.judge(&load(&image), name, cut..length, "truncated");
            }
        }
    }
}

/// Verification reads everything, and its verdict never contradicts the open: what it calls clean
/// opens whole, and what the open refuses it does not call clean.
#[test]
fn verification_agrees_with_the_open() {
    for subject in subjects() {
        for (name, bytes) in &subject.image {
            for at in (0..u64::try_from(bytes.len()).unwrap()).step_by(97) {
                let storage = load(&subject.image);
                flip(&storage, name, at, 5);
                let text = format!("{}: flipped {name} at {at}", subject.name);
                let verdict = small()
                    .open_read_only_in(storage.clone())
                    .and_then(|mut log| log.verify())
                    .map(|verification| verification.verdict);
                let opened = read_all(&small(), &storage);
                match (verdict, opened) {
                    (Ok(VerifyVerdict::Clean), Ok((found, report))) => {
                        assert_eq!(found, subject.records, "{text}");
                        assert_eq!(report.verdict, Verdict::Clean, "{text}");
                    }
                    (Ok(VerifyVerdict::TornTail), Ok((_, report))) => {
                        assert_eq!(report.verdict, Verdict::TornTail, "{text}");
                    }
                    (Ok(VerifyVerdict::Corrupt), _) => {}
                    (Err(error), _) => {
                        let kind = error.kind();
                        let typed = [ErrorKind::Corrupt, ErrorKind::Unsupported].contains(&kind);
                        assert!(typed, "{text}: {error:?}");
                    }
                    (verdict, opened) => {
                        panic!("{text}: verified as {verdict:?}, opened as {:?}", kind(&opened));
                    }
                }
            }
        }
    }
}

/// Somebody copied the wrong file over a segment: random bytes, zeros, text, another log's segment.
#[test]
fn foreign_bytes_as_a_segment_are_refused() {
    let subject = subject("closed", 44, End::Close);
    let other = self::subject("other", 44, End::Close);
    let length = usize::try_from(SEGMENT_BYTES).unwrap();
    for sequence in 0..2 {
        let name = home_of(&subject.image, sequence);
        let replacements = [
            payload(1, length),
            payload(2, 100),
            vec![0; length],
            vec![0xff; length],
            Vec::new(),
            b"hello\n".repeat(length / 6),
            other.image[&home_of(&other.image, sequence)].clone(),
        ];
        for (index, bytes) in replacements.into_iter().enumerate() {
            let mut image = subject.image.clone();
            image.insert(name.clone(), bytes);
            let outcome = read_all(&small(), &load(&image));
            let text = format!("segment {sequence}, replacement {index}");
            assert_eq!(kind(&outcome), Some(ErrorKind::Corrupt), "{text}: {outcome:?}");
        }
    }
}

/// The identity is garbage, missing, empty, too long, another log's, or of a version to come. Slots
/// that were used are there: this is never taken for a place where a new log can be made.
#[test]
fn damaged_identity_never_starts_a_new_log() {
    let subject = subject("closed", 44, End::Close);
    let other = self::subject("other", 3, End::Close);
    let mut longer = subject.image["identity"].clone();
    longer.push(0);
    let replacements =
        [payload(1, 4096), vec![0; 4096], Vec::new(), other.image["identity"].clone(), longer];
    for (index, bytes) in replacements.into_iter().enumerate() {
        let mut image = subject.image.clone();
        image.insert("identity".to_owned(), bytes);
        assert_refused_unchanged(&image, ErrorKind::Corrupt, &format!("identity {index}"));
    }
    let mut image = subject.image.clone();
    image.remove("identity");
    assert_refused_unchanged(&image, ErrorKind::Corrupt, "no identity");

    // Version 2, with a checksum that fits.
    let mut image = subject.image.clone();
    let identity = image.get_mut("identity").unwrap();
    identity[12] = 2;
    let crc = crate::craft::crc32(0, &identity[12..]);
    identity[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_refused_unchanged(&image, ErrorKind::Unsupported, "version 2");
}

fn assert_refused_unchanged(image: &Image, expected: ErrorKind, text: &str) {
    for choice in [Create::IfMissing, Create::Never, Create::New] {
        let storage = load(image);
        let outcome = open(&small().create(choice), &storage);
        let expected = match (choice, image.contains_key("identity")) {
            (Create::New, true) => &[expected, ErrorKind::InvalidInput][..],
            (Create::Never, false) => &[expected, ErrorKind::NotFound],
            _ => &[expected],
        };
        let found = kind(&outcome);
        assert!(found.is_some_and(|kind| expected.contains(&kind)), "{text}: {outcome:?}");
        drop(outcome);
        assert_eq!(&save(&storage), image, "{text}: something was written");
    }
    let outcome = small().open_read_only_in(load(image)).and_then(|mut log| log.verify());
    assert!(
        outcome.as_ref().map_or(true, |found| found.verdict == VerifyVerdict::Corrupt),
        "{text}: {outcome:?}"
    );
}

/// A segment in the middle is gone, or the first, or the last; and a segment is there twice. Each is
/// a hole or a contradiction in what was acknowledged.
#[test]
fn missing_and_doubled_segments_are_corruption() {
    let storage = Memory::new();
    let mut records = Records::new();
    {
        let (_, wal, _) = open(&small(), &storage).unwrap();
        while wal.durable_lsn().get() < 4 * SEGMENT_BYTES + 3 * BLOCK_BYTES {
            records.push(append(&wal, &payload(records.len(), 9000)));
        }
        wait_for_successor(&storage);
        wal.close().unwrap();
    }
    let image = save(&storage);
    for sequence in 0..6 {
        let name = home_of(&image, sequence);
        let mut doubled = image.clone();
        doubled.insert(slot(77), image[&name].clone());
        let outcome = read_all(&small(), &load(&doubled));
        assert_eq!(kind(&outcome), Some(ErrorKind::Corrupt), "segment {sequence} is there twice");

        let mut missing = image.clone();
        missing.remove(&name);
        let outcome = read_all(&small(), &load(&missing));
        if sequence == 5 {
            assert_eq!(outcome.unwrap().0, records, "it was only prepared");
        } else {
            assert_eq!(kind(&outcome), Some(ErrorKind::Corrupt), "segment {sequence} is missing");
        }
    }
    // All of them, but not the identity.
    let only = Image::from([("identity".to_owned(), image["identity"].clone())]);
    assert_refused_unchanged(&only, ErrorKind::Corrupt, "an identity without a segment");

    // Everything from some segment on: an older state of the log, as far as its bytes can tell. Only
    // who remembers more is told.
    let mut older = image;
    older.remove(&home_of(&older, 5));
    older.remove(&home_of(&older, 4));
    let (found, _) = read_all(&small(), &load(&older)).unwrap();
    assert_eq!(found, records[..found.len()]);
    assert!(found.len() < records.len());
    let expecting = small().expect_at_least(Lsn::new(records[records.len() - 1].0));
    assert_eq!(kind(&read_all(&expecting, &load(&older))), Some(ErrorKind::Corrupt));
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
        Options::new().linger(std::time::Duration::MAX),
        Options::new().confirm_after(std::time::Duration::MAX),
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

    let mut replay = crate::craft::replay(&options, &storage).unwrap();
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

/// A disk with room for a few segments: it fills up, in the middle of nothing. What was acknowledged
/// stays, a checkpoint makes room, and the log goes on; so it does after a crash in that state.
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
    use crate::craft::{Disk, Entry, Pen};
    use wal::format::{FrameHeader, Origin, Purpose};
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

/// Random blocks everywhere behind the log's last frame, as a thin device may hand them out: a tail
/// at most, whatever they are.
#[test]
fn random_blocks_behind_the_tail_are_not_records() {
    let subject = subject("crashed", 44, End::Crash);
    for seed in 0..200_usize {
        let storage = load(&subject.image);
        let name = home_of(&subject.image, subject.tail / SEGMENT_BYTES);
        let file = storage.open(&name, Access::ReadWrite).unwrap();
        let mut at = subject.tail % SEGMENT_BYTES;
        let mut block = aligned::Buffer::zeroed(storage.alignment(), 4096).unwrap();
        while at < SEGMENT_BYTES {
            block.as_mut_slice().copy_from_slice(&payload(seed * 100, 4096));
            if seed % 3 > 0 {
                block.as_mut_slice()[..4].copy_from_slice(b"walF");
            }
            if seed % 3 > 1 {
                let lsn = subject.tail / SEGMENT_BYTES * SEGMENT_BYTES + at;
                block.as_mut_slice()[8..16].copy_from_slice(&lsn.to_le_bytes());
            }
            file.write_at(block.as_mut_slice(), at).unwrap();
            at += 4096;
        }
        drop(file);
        let (found, _) = read_all(&small(), &storage).unwrap();
        assert_eq!(found, subject.records, "seed {seed}");
    }
}

/// The files of a log in memory, unpacked into a directory, are the same log: the two storages have
/// one format.
#[test]
fn log_moves_between_storages() {
    let subject = subject("closed", 44, End::Close);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    unpack(&subject.image, &path);
    let directory = Directory::new(&path);
    assert_eq!(read_all(&small(), &directory).unwrap().0, subject.records);
    let (found, wal, report) = open(&small(), &Directory::buffered(&path)).unwrap();
    assert_eq!(found, subject.records);
    assert!(!report.profile.direct, "{report}");
    let more = append(&wal, b"more");
    wal.close().unwrap();
    drop(wal);

    let back = Memory::new();
    back.create().unwrap();
    for name in fs::read_dir(&path).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        put_file(&back, &name, &fs::read(path.join(&name)).unwrap());
    }
    let mut expected = subject.records;
    expected.push(more);
    assert_eq!(read_all(&small(), &back).unwrap().0, expected);
}
