//! One log opened in every way there is, and the answers compared.
//!
//! Whatever the bytes are: nothing panics or hangs, reading writes nothing, the same bytes get the
//! same answer twice, a log that only reads agrees with one that would write, and what was read once
//! is there again after `finish`, with what is appended behind it.

use super::{Reached, image::Image, script::options, tame::Tame};
use wal::{
    Create, Cut, Error, ErrorKind, Lsn, Options, Replay, Result, Verdict, Verification,
    VerifyVerdict, Wal, io::Storage,
};

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) lsn: u64,
    pub(super) ends_batch: bool,
    pub(super) payload: Vec<u8>,
}

/// What reading a log came to.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// It does not open.
    Refused(Error),
    /// It opens, and damage is met further on.
    Broken(Error),
    /// It opens, and all of it can be read.
    Opened(Found),
}

/// What an open log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) records: Vec<Read>,
    pub(super) start: u64,
    pub(super) tail: u64,
    pub(super) verdict: Verdict,
    pub(super) cut: Option<Cut>,
    pub(super) clean_close: bool,
    pub(super) epoch: u64,
    pub(super) next_ordinal: u64,
}

/// Whether the log may say no where it would have to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    /// The log wrote them, whatever became of them later.
    Own,
    /// Anybody did: numbers may be at the end of what can be counted.
    Hostile,
}

/// Epochs, ordinals and places from here on may have no successor.
const NEAR_THE_END: u64 = u64::MAX - (1 << 40);

/// Opens the log in `image`, with room for `capacity` bytes, in all ways.
pub(super) fn examine(image: &Image, capacity: u64, bytes: Bytes, reached: &mut Reached) -> Answer {
    let storage = Tame::new(1, capacity, image);
    let looked = look(&storage, reached);
    let answer = read(&storage);
    let again = read(&storage);
    assert_same(&answer, &again, "asked twice");
    assert!(storage.save() == *image, "reading wrote something");
    agree(&looked, &answer);
    name(&answer, reached);
    if let Answer::Opened(found) = &answer {
        resume(image, capacity, bytes, found, reached);
    }
    answer
}

fn name(answer: &Answer, reached: &mut Reached) {
    reached.insert(match answer {
        Answer::Opened(Found { verdict: Verdict::TornTail, .. }) => "torn tail",
        Answer::Opened(_) => "clean",
        Answer::Broken(_) => "corrupt further on",
        Answer::Refused(error) => match error.kind() {
            ErrorKind::Corrupt => match error.to_string() {
                text if text.starts_with("an acknowledged frame") => "corrupt: frame",
                text if text.starts_with("a segment is missing") => "corrupt: segment missing",
                text if text.starts_with("a segment's file was cut") => "corrupt: short file",
                text if text.starts_with("a slot belongs to another") => "corrupt: other log",
                text if text.starts_with("a slot holds frames") => "corrupt: bad header",
                text if text.starts_with("two frames of the log") => "corrupt: unchained",
                text if text.starts_with("the log's first segment") => "corrupt: orphaned",
                text if text.starts_with("the log's identity is dam") => "corrupt: identity",
                text if text.starts_with("the log has an identity") => "corrupt: no segment",
                text if text.starts_with("the start mark") => "corrupt: start mark",
                _ => "corrupt: other",
            },
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::NotFound => "not found",
            _ => "refused for another reason",
        },
    });
}

/// What somebody sees who only reads.
struct Looked {
    tail: Result<Lsn>,
    verification: Verification,
    proved: Vec<Read>,
    all: Vec<Read>,
    failure: Option<Error>,
}

fn look(storage: &Tame, reached: &mut Reached) -> Result<Looked> {
    let mut log = options().open_read_only_in(storage.clone())?;
    let slots = log.segments().expect("memory can be read");
    let slots_there = storage.list().expect("memory has a list");
    assert!(slots.len() <= slots_there.len(), "more slots than files");
    let verification = log.verify().expect("memory can be read");
    assert_eq!(
        verification.verdict == VerifyVerdict::Corrupt,
        !verification.damage.is_empty(),
        "{verification:?}"
    );
    reached.insert(match verification.verdict {
        VerifyVerdict::Clean => "verify: clean",
        VerifyVerdict::TornTail => "verify: torn tail",
        VerifyVerdict::Corrupt => "verify: corrupt",
        _ => "verify: something new",
    });
    let mut records = log.records_from(Lsn::ZERO).expect("memory can be read");
    let mut proved = Vec::new();
    while let Ok(Some(record)) = records.next() {
        proved.push(kept(&record));
    }
    let mut records = log.records_from_including_unproved(Lsn::ZERO).expect("memory can be read");
    let mut all = Vec::new();
    let failure = loop {
        match records.next() {
            Ok(Some(record)) => all.push(kept(&record)),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    storage.settle();
    Ok(Looked { tail: log.tail(), verification, proved, all, failure })
}

/// Opens, reads everything, and lets go without writing.
fn read(storage: &Tame) -> Answer {
    let mut replay = match open(storage) {
        Ok(replay) => replay,
        Err(error) => return Answer::Refused(error),
    };
    let answer = match drain(&mut replay) {
        Ok(found) => Answer::Opened(found),
        Err(error) => {
            let again = replay.next().err().map(|error| error.to_string());
            assert_eq!(again, Some(error.to_string()), "a failure is answered once only");
            let refused = replay.finish().err().map(|error| error.to_string());
            assert_eq!(refused, Some(error.to_string()), "finish forgets a failure");
            Answer::Broken(error)
        }
    };
    storage.settle();
    answer
}

pub(super) fn open(storage: &Tame) -> Result<Replay<Tame>> {
    open_with(storage, &options())
}

pub(super) fn open_with(storage: &Tame, options: &Options) -> Result<Replay<Tame>> {
    let answer = options.clone().create(Create::Never).open_in(storage.clone());
    storage.settle();
    if let Err(error) = &answer {
        let is_expected = matches!(
            error.kind(),
            ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::NotFound
        );
        assert!(is_expected, "{error:?}");
        assert!(error.path().is_some(), "no path in {error:?}");
    }
    answer
}

pub(super) fn drain(replay: &mut Replay<Tame>) -> Result<Found> {
    let mut records = Vec::new();
    while let Some(record) = replay.next()? {
        records.push(kept(&record));
    }
    let report = replay.report();
    assert_eq!(report.cut.is_some(), report.verdict == Verdict::TornTail, "{report}");
    if let Some(cut) = &report.cut {
        assert_eq!(cut.at, report.tail, "{report}");
    }
    assert!(records.is_sorted_by(|one: &Read, other| one.lsn < other.lsn), "order");
    if let (Some(first), Some(last)) = (records.first(), records.last()) {
        assert!(first.lsn >= report.start_mark.get(), "a record below the start mark");
        assert!(last.lsn < report.tail.get(), "a record behind the tail");
        assert!(last.ends_batch, "part of a batch");
    }
    Ok(Found {
        start: report.start_mark.get(),
        tail: report.tail.get(),
        verdict: report.verdict,
        cut: report.cut.clone(),
        clean_close: report.clean_close,
        epoch: report.epoch,
        next_ordinal: report.next_ordinal,
        records,
    })
}

fn kept(record: &wal::Record<'_>) -> Read {
    let (lsn, ends_batch) = (record.lsn().get(), record.ends_batch());
    Read { lsn, ends_batch, payload: record.payload().to_vec() }
}

fn assert_same(one: &Answer, other: &Answer, what: &str) {
    match (one, other) {
        (Answer::Refused(one), Answer::Refused(other))
        | (Answer::Broken(one), Answer::Broken(other)) => {
            assert_eq!(one.to_string(), other.to_string(), "{what}");
        }
        (Answer::Opened(one), Answer::Opened(other)) => assert!(one == other, "{what}"),
        _ => panic!("{what}: two answers"),
    }
}

/// A reader and a writer see the same log.
fn agree(looked: &Result<Looked>, answer: &Answer) {
    match (looked, answer) {
        (Err(one), Answer::Refused(other)) => assert_eq!(one.kind(), other.kind()),
        (Ok(looked), Answer::Refused(error)) => {
            let kind = looked.tail.as_ref().err().map(Error::kind);
            assert_eq!(kind, Some(error.kind()), "{error}");
            assert_eq!(looked.verification.verdict, VerifyVerdict::Corrupt, "{error}");
            assert!(looked.failure.is_some(), "read to the end, though {error}");
        }
        (Ok(looked), Answer::Broken(error)) => {
            assert_eq!(looked.verification.verdict, VerifyVerdict::Corrupt, "{error}");
            assert!(looked.failure.is_some(), "read to the end, though {error}");
        }
        (Ok(looked), Answer::Opened(found)) => {
            let tail = looked.tail.as_ref().expect("a log that opens has a tail");
            assert_eq!(tail.get(), found.tail);
            let expected = match found.verdict {
                Verdict::TornTail => VerifyVerdict::TornTail,
                _ => VerifyVerdict::Clean,
            };
            assert_eq!(looked.verification.verdict, expected, "{:?}", looked.verification);
            assert!(looked.failure.is_none(), "{:?}", looked.failure);
            assert!(looked.all == found.records, "a reader sees other records");
            assert!(found.records.starts_with(&looked.proved), "proved records are no prefix");
        }
        (Err(error), _) => panic!("cannot be read, though it opens: {error}"),
    }
}

/// Finishes, comes again, appends, comes again.
fn resume(image: &Image, capacity: u64, bytes: Bytes, found: &Found, reached: &mut Reached) {
    let storage = Tame::new(2, capacity, image);
    let Some(wal) = finish(&storage, bytes, found, reached) else { return };
    drop(wal);
    storage.settle();
    reached.insert("finished");
    let is_last = found.epoch >= NEAR_THE_END || found.next_ordinal >= NEAR_THE_END;
    if bytes == Bytes::Hostile && is_last {
        reached.insert("at the end of numbers");
        return;
    }
    let second = match read(&storage) {
        Answer::Opened(second) => second,
        answer => panic!("finished, and then {answer:?}"),
    };
    assert!(second.records == found.records, "finished, and then other records");
    // Behind the tail there may be damaged headers of frames that were cut long ago. What looks like a
    // torn frame once it is next is told as one, and holds no record of anybody.
    let is_further = |cut: &Cut| cut.at.get() > found.tail && cut.intact_records == 0;
    assert!(second.cut.as_ref().is_none_or(is_further), "cut {:?} twice", second.cut);
    assert!(second.tail >= found.tail && second.epoch > found.epoch);
    assert_eq!(second.start, found.start);
    let Some(wal) = finish(&storage, bytes, &second, reached) else { return };
    let was_cut = found.cut.is_some() || second.cut.is_some();
    let mut expected = second.records;
    match append(&wal, &mut expected) {
        Ok(()) => {}
        Err(error) if bytes == Bytes::Hostile && error.kind() == ErrorKind::NoSpace => {
            reached.insert("no space");
            return;
        }
        Err(error) => panic!("nothing can be appended: {error:?}"),
    }
    drop(wal);
    storage.settle();
    match read(&storage) {
        Answer::Opened(third) => {
            assert!(third.records == expected, "appended, and then other records");
            match &third.cut {
                Some(cut) => assert!(is_further(cut), "closed, and then {cut:?}"),
                None => assert!(third.clean_close || was_cut, "closed, and not clean"),
            }
        }
        answer => panic!("closed, and then {answer:?}"),
    }
    reached.insert("appended");
}

fn finish(storage: &Tame, bytes: Bytes, found: &Found, reached: &mut Reached) -> Option<Wal<Tame>> {
    let mut replay = open(storage).expect("it opened before");
    let again = drain(&mut replay).expect("it could be read before");
    assert!(again == *found, "opened again, and other");
    match replay.finish() {
        Ok((wal, report)) => {
            assert_eq!(report.tail.get(), found.tail);
            Some(wal)
        }
        Err(error) => {
            let is_excused = bytes == Bytes::Hostile
                && matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Latched);
            assert!(is_excused, "cannot be finished: {error:?}");
            reached.insert("not finished");
            None
        }
    }
}

fn append(wal: &Wal<Tame>, expected: &mut Vec<Read>) -> Result<()> {
    for number in 0..3_u8 {
        let payload = vec![number; 100 * usize::from(number)];
        let lsn = wal.append(&payload)?.wait()?.get();
        expected.push(Read { lsn, ends_batch: true, payload });
    }
    wal.close()
}
