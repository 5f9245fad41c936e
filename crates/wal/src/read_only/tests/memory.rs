//! Memory that runs out in the middle of an open or a read. Nobody has looked at the bytes then, and no verdict
//! may say that they are bad.

use super::{ReadOnly, log};
use crate::{
    ErrorKind, Lsn, Result,
    format::Origin,
    io::{Host, Memory},
    options::{Options, UnreadableTail},
    reading::{scarce, was_no_memory},
    recovery::handmade::SEGMENT,
    replay::Record,
};

/// All records, and the error that ends them unless it is the lack of memory.
fn read<'a>(mut next: impl FnMut() -> Result<Option<(u64, usize)>> + 'a) -> Result<String> {
    let mut found = Vec::new();
    loop {
        match next() {
            Ok(Some(place)) => found.push(place),
            Ok(None) => return Ok(format!("{found:?}")),
            Err(error) if was_no_memory(&error) => return Err(error),
            Err(error) => return Ok(format!("{found:?} {error:?}")),
        }
    }
}

fn place(record: Record<'_>) -> (u64, usize) {
    (record.lsn().get(), record.payload().len())
}

/// What an open for writing finds.
fn opened(storage: &Memory, options: &Options) -> Result<String> {
    let mut replay = options.open_in(storage.clone())?;
    let records = read(|| Ok(replay.next()?.map(place)))?;
    let report = replay.report();
    Ok(format!("{:?} {:?} {} {records}", report.verdict, report.cut, report.tail))
}

/// What somebody finds who may only look.
fn looked(storage: &Memory, unreadable_is_torn: bool) -> Result<String> {
    let mut log = ReadOnly::open(storage.clone(), unreadable_is_torn)?;
    let marks = format!("{:?} {:?} {}", log.tail(), log.durable_mark(), log.start_mark());
    let segments = log.segments()?;
    let verified = log.verify()?;
    let mut records = log.records_from_including_unproved(Lsn::ZERO)?;
    let records = read(|| Ok(records.next()?.map(place)))?;
    Ok(format!("{marks} {segments:?} {:?} {:?} {records}", verified.verdict, verified.damage))
}

/// Lets each allocation fail once, and says how many there were.
fn starve(what: &str, work: impl Fn() -> Result<String>) -> u32 {
    let text = |answer: Result<String>| answer.unwrap_or_else(|error| format!("{error:?}"));
    let whole = text(work());
    let mut told = 0;
    for fails in 0.. {
        let (answer, has_failed) = scarce::with_failure(fails, &work);
        if !has_failed {
            break;
        }
        match answer {
            Err(error) if was_no_memory(&error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "{what}, allocation {fails}: {error}");
                told += 1;
            }
            answer => assert_eq!(text(answer), whole, "{what}, allocation {fails}"),
        }
    }
    told
}

/// The last record is longer than the window that reads it, it was acknowledged, and nothing after it says so.
/// The memory for it was refused: the log ended before it, and was written over from there.
#[test]
fn what_no_memory_was_left_for_is_not_cut() {
    let options = Options::new().segment_bytes(4 << 20);
    let storage = Memory::new();
    let mut replay = options.open_in(storage.clone()).unwrap();
    assert!(replay.next().unwrap().is_none());
    let (wal, _) = replay.finish().unwrap();
    for bytes in [10, 3_000_000, 2_000_000, 200_000, 3_000_000] {
        wal.append(&vec![1; bytes]).unwrap().wait().unwrap();
    }
    drop(wal);
    // A thread of the log may hold the lock a little longer.
    while options.open_in(storage.clone()).is_err_and(|error| error.kind() == ErrorKind::Locked) {
        storage.yield_now();
    }
    for choice in [UnreadableTail::Refuse, UnreadableTail::TreatAsTorn] {
        let options = options.clone().unreadable_tail(choice);
        assert!(starve("open", || opened(&storage, &options)) > 4);
        let is_torn = choice == UnreadableTail::TreatAsTorn;
        assert!(starve("look", || looked(&storage, is_torn)) > 4);
    }
}

/// Sound, torn, with a damaged frame, with slots whose header is gone, and looked through for frames, and with
/// one whose header is older than its frames.
#[test]
fn a_lack_of_memory_is_no_damage() {
    let sound = log();
    let mut torn = log();
    torn.mark = 0;
    let lost = torn.frame(&[b"lost"]);
    torn.at(lost + 70, 1)[0] ^= 1;
    let mut damaged = log();
    damaged.at(SEGMENT + 700, 1)[0] ^= 1;
    let mut headless = log();
    headless.at(SEGMENT, 1)[0] ^= 1;
    let mut missing = log();
    missing.files.remove(&1);
    missing.files.insert(7, vec![9; missing.files[&0].len()]);
    let mut outdated = log();
    outdated.segment(0, 1, Origin::Zeroed);
    outdated.files.remove(&0);
    for (what, log) in [
        ("sound", sound),
        ("torn", torn),
        ("damaged", damaged),
        ("headless", headless),
        ("missing", missing),
        ("outdated", outdated),
    ] {
        let storage = log.storage();
        for choice in [UnreadableTail::Refuse, UnreadableTail::TreatAsTorn] {
            let options = Options::new().unreadable_tail(choice);
            assert!(starve(what, || opened(&storage, &options)) > 2, "{what}");
            let is_torn = choice == UnreadableTail::TreatAsTorn;
            assert!(starve(what, || looked(&storage, is_torn)) > 4, "{what}");
        }
    }
}
