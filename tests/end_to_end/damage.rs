//! Damage: every byte of a log changed, every length cut, files gone, doubled or replaced. The
//! outcome is typed; none panics, hangs, takes memory without bound, or loses a record without a
//! word.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use crate::craft::{
    BLOCK_BYTES, Image, Records, SEGMENT_BYTES, append, crc32, flip, home_of, kind, load, open,
    payload, put_file, read_all, save, slot, small, unpack, wait_for_successor,
};
use std::{collections::BTreeMap, fs, ops::Range, thread};
use wal::{
    Create, ErrorKind, Lsn, Verdict, VerifyVerdict,
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
        subject("closed, in five segments", 90, End::Close),
        subject("crashed after the first frame of its second segment", 27, End::Crash),
        subject("crashed when its first segment was full", 26, End::Crash),
        subject("crashed before", 18, End::Crash),
        subject("crashed and reopened", 42, End::Reopen),
    ]
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
    assert_eq!(places, [(1, 15), (1, 14), (4, 2), (1, 2), (1, 0), (0, 15), (1, 13)]);
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
    let crc = crc32(0, &identity[12..]);
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

/// A segment in the middle is gone, or the first, or the last; and a segment is there twice. Each
/// is a hole or a contradiction in what was acknowledged.
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
        match read_all(&small(), &load(&doubled)) {
            // Nothing was written to it yet: one is as good as the other.
            Ok((found, _)) if sequence == 5 => assert_eq!(found, records),
            outcome => {
                assert_eq!(kind(&outcome), Some(ErrorKind::Corrupt), "segment {sequence} twice");
            }
        }

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

    // Everything from some segment on: an older state of the log, as far as its bytes can tell.
    // Only who remembers more is told.
    let mut older = image;
    older.remove(&home_of(&older, 5));
    older.remove(&home_of(&older, 4));
    let (found, _) = read_all(&small(), &load(&older)).unwrap();
    assert_eq!(found, records[..found.len()]);
    assert!(found.len() < records.len());
    let expecting = small().expect_at_least(Lsn::new(records[records.len() - 1].0));
    assert_eq!(kind(&read_all(&expecting, &load(&older))), Some(ErrorKind::Corrupt));
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
