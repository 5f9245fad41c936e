//! What opening makes of what a crash, a disk or an earlier open left behind.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use crate::{
    craft::{
        BLOCK_BYTES, Entry, Image, Records, SEGMENT_BYTES, after_crash, append, crashed, flip,
        home_of, kind, load, open, payload, put_file, read_all, records, records_of, replay, save,
        slot, small,
    },
    spy::{Spy, Verb},
};
use std::{thread, time::Duration};
use wal::{
    Create, ErrorKind, Lsn, Options, Verdict,
    format::Purpose,
    io::{Memory, Storage},
};
use wal_tests::fault::{self, EIO, Fault, Faulty, On};

/// One bit of the last segment's header flips in a log that was not closed. A scan that only looks
/// at slots with a valid header would take the slot for a free one and the segment before it for
/// the end: every record of the last segment gone, without a word.
#[test]
fn flipped_bit_in_the_last_segments_header_loses_nothing() {
    let storage = Memory::new();
    let mut expected = Records::new();
    {
        let (_, wal, _) = open(&small(), &storage).unwrap();
        while wal.durable_lsn().get() < SEGMENT_BYTES + 4 * BLOCK_BYTES {
            expected.push(append(&wal, &payload(expected.len(), 300)));
        }
    }
    let image = save(&storage);
    let last = home_of(&image, 1);
    for bit in 0..512 * 8 {
        // Every bit of the fields, and one of each byte of the zeros that follow.
        if bit >= 64 * 8 && bit % 8 != 3 {
            continue;
        }
        let storage = load(&image);
        flip(&storage, &last, bit / 8, u32::try_from(bit % 8).unwrap());
        match read_all(&small(), &storage) {
            Ok((found, _)) => assert_eq!(found, expected, "bit {bit}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}: {error}"),
        }
    }
}

/// The same flip while the segment behind it is prepared already, and in every live segment of a
/// longer log: a hole in the sequence, at its beginning or at its end, is never "the end of the
/// log".
#[test]
fn flipped_bit_in_any_segments_header_loses_nothing() {
    let storage = Memory::new();
    let mut expected = Records::new();
    {
        let (_, wal, _) = open(&small(), &storage).unwrap();
        while wal.durable_lsn().get() < 4 * SEGMENT_BYTES + 2 * BLOCK_BYTES {
            expected.push(append(&wal, &payload(expected.len(), 9000)));
        }
        wal.close().unwrap();
    }
    let image = save(&storage);
    for sequence in 0..5 {
        let name = home_of(&image, sequence);
        for at in [0, 8, 12, 16, 32, 40, 48, 56, 63, 100, 4095] {
            let storage = load(&image);
            flip(&storage, &name, at, 1);
            match read_all(&small(), &storage) {
                Ok((found, _)) => assert_eq!(found, expected, "segment {sequence}, byte {at}"),
                Err(error) => {
                    let text = format!("segment {sequence}, byte {at}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
                }
            }
        }
    }
}

/// A backup from yesterday is put in the log's place. Byte for byte it is a healthy log; only a
/// caller who remembers how far it was can tell, and is answered.
#[test]
fn log_that_ends_before_a_remembered_record_is_refused() {
    let storage = Memory::new();
    let (_, wal, _) = open(&small(), &storage).unwrap();
    let first = append(&wal, b"first");
    let yesterday = save(&storage);
    let second = append(&wal, b"second");
    let today = save(&storage);
    drop(wal);
    let lsn = |record: &(u64, Vec<u8>)| Lsn::new(record.0);

    let expect = |at: Lsn| small().expect_at_least(at);
    assert_eq!(read_all(&expect(lsn(&second)), &load(&today)).unwrap().0.len(), 2);
    assert_eq!(read_all(&expect(lsn(&first)), &load(&yesterday)).unwrap().0.len(), 1);
    let refused = refusal(&expect(lsn(&second)), &yesterday);
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    // A place where no record begins, inside one and past the end.
    for at in [lsn(&second).get() + 8, SEGMENT_BYTES - 8, 64 * SEGMENT_BYTES] {
        let refused = refusal(&expect(Lsn::new(at)), &today);
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{at}: {refused}");
    }
    // An empty place is no log that has the record, whatever `create` says.
    let refused = expect(lsn(&second)).open_in(Memory::new()).and_then(|mut replay| {
        replay.skip_rest();
        replay.finish().map(drop)
    });
    assert!(refused.is_err(), "a new log cannot have the record");
}

/// The first refusal of an open, wherever it is noticed: at the open, in the replay, at the end.
fn refusal(options: &Options, image: &Image) -> wal::Error {
    open(options, &load(image)).map(|(found, _, report)| (found, report)).unwrap_err()
}

/// The remembered record lies below a checkpoint's start mark: it was there, and was released.
#[test]
fn released_record_satisfies_an_expectation() {
    let storage = Memory::new();
    let first = {
        let (_, wal, _) = open(&small(), &storage).unwrap();
        let first = append(&wal, b"first");
        let mut last = first.clone();
        while last.0 < 2 * SEGMENT_BYTES {
            last = append(&wal, &payload(1, 9000));
        }
        wal.checkpoint(Lsn::new(last.0), b"").unwrap().wait().unwrap();
        append(&wal, b"more");
        first
    };
    let options = small().expect_at_least(Lsn::new(first.0));
    let (found, wal, report) = open(&options, &after_crash(&storage)).unwrap();
    assert!(report.start_mark.get() > first.0);
    assert_eq!(found.len(), 2);
    wal.close().unwrap();
}

/// A caller computes a checkpoint from a stale variable and asks for a lower start mark than
/// before. Replay would begin in slots that were given back; it is refused, and nothing changes.
#[test]
fn falling_checkpoint_is_refused() {
    let storage = Memory::new();
    let (_, wal, _) = open(&small(), &storage).unwrap();
    let lsns: Vec<_> = (0..4).map(|number| append(&wal, &payload(number, 10)).0).collect();
    wal.checkpoint(Lsn::new(lsns[2]), b"two").unwrap().wait().unwrap();
    let lower = wal.checkpoint(Lsn::new(lsns[1]), b"one");
    assert_eq!(kind(&lower), Some(ErrorKind::InvalidInput));
    let past = wal.checkpoint(wal.appended_lsn().checked_add(8).unwrap(), b"past");
    assert_eq!(kind(&past), Some(ErrorKind::InvalidInput));
    assert_eq!(wal.start_mark().get(), lsns[2]);
    wal.checkpoint(Lsn::new(lsns[2]), b"two again").unwrap().wait().unwrap();
    wal.close().unwrap();
    drop((lower, past, wal));

    let mut replay = small().open_in(after_crash(&storage)).unwrap();
    let checkpoint = replay.checkpoint().expect("there is a checkpoint");
    assert_eq!((checkpoint.start_mark.get(), checkpoint.state), (lsns[2], &b"two again"[..]));
    assert_eq!(replay.start_mark().get(), lsns[2]);
    assert_eq!(replay.next().unwrap().unwrap().lsn().get(), lsns[2]);
}

/// Two checkpoints raced in an older version, and the lower one came second in the log. The maximum
/// counts: what lies below it may be gone.
#[test]
fn highest_of_two_checkpoints_counts() {
    let (mut disk, mut pen, frames) = crashed(0..4, 500);
    let marks = [frames[3].records[0].0, frames[1].records[0].0];
    for (mark, state) in marks.into_iter().zip([&b"high"[..], b"low"]) {
        pen.vouch();
        let frame = pen.frame(Purpose::Records, &[Entry::Checkpoint(mark, state)]);
        disk.put(frame.lsn, &frame.bytes);
    }
    let replay = small().open_in(disk.load()).unwrap();
    assert_eq!(replay.start_mark().get(), marks[0]);
    assert_eq!(replay.checkpoint().unwrap().state, b"high");
    drop(replay);
    assert_eq!(records(disk.load()), records_of(&frames[3..]));
}

/// A service in a crash loop: it opens, does nothing, and dies, a hundred times, through several
/// segments. Each open raises the epoch; records, start mark and state stay what they were.
#[test]
fn log_that_is_reopened_many_times_stays_the_same() {
    let storage = Memory::new();
    let (mut expected, mark, mut epoch) = {
        let (_, wal, report) = open(&small(), &storage).unwrap();
        append(&wal, b"below the mark");
        let record = append(&wal, b"stays");
        let mark = Lsn::new(record.0);
        wal.checkpoint(mark, b"state").unwrap().wait().unwrap();
        (vec![record], mark, report.epoch)
    };
    for round in 0..100 {
        let mut replay = replay(&small(), &storage).unwrap();
        assert_eq!(replay.start_mark(), mark, "round {round}");
        assert_eq!(replay.checkpoint().map(|c| c.state.to_vec()), Some(b"state".to_vec()));
        let mut found = Records::new();
        while let Some(record) = replay.next().unwrap() {
            found.push((record.lsn().get(), record.payload().to_vec()));
        }
        assert_eq!(found, expected, "round {round}");
        let (wal, report) = replay.finish().unwrap();
        assert!(report.epoch > epoch, "round {round}: {} after {epoch}", report.epoch);
        epoch = report.epoch;
        assert_eq!(report.verdict, Verdict::Clean, "round {round}: {report}");
        if round % 10 == 0 {
            expected.push(append(&wal, format!("round {round}").as_bytes()));
        }
        if round % 3 == 0 {
            wal.close().unwrap();
        }
    }
    let slots = save(&storage).keys().filter(|name| name.starts_with("slot-")).count();
    assert!(slots <= 12, "{slots} slots for a hundred empty frames");
}

/// A process dies right after its writes went to a cache, and the next one reads them from there:
/// to present them as durable before they are flushed would be a lie that a power cut tells. Every
/// slot is synced before the first byte of a frame is read.
#[test]
fn slots_are_flushed_before_anything_is_presented() {
    let storage = Memory::new();
    {
        let (_, wal, _) = open(&small(), &storage).unwrap();
        for number in 0..30 {
            append(&wal, &payload(number, 4000));
        }
    }
    let slots: Vec<_> = save(&storage).into_keys().filter(|n| n.starts_with("slot-")).collect();
    let spy = Spy::new(storage);
    let (found, _) = read_all(&small(), &spy).unwrap();
    assert_eq!(found.len(), 30);
    let events = spy.events();
    let is_frame_read = |verb: Verb, offset: u64| verb == Verb::Read && offset >= BLOCK_BYTES;
    for name in slots {
        let mine: Vec<_> = events.iter().filter(|event| event.name == name).collect();
        let sync = mine.iter().position(|event| event.verb == Verb::Sync);
        let read = mine.iter().position(|event| is_frame_read(event.verb, event.offset));
        let sync = sync.unwrap_or_else(|| panic!("{name} was never synced"));
        assert!(read.is_none_or(|read| sync < read), "{name} was read before it was synced");
    }
    let written = events.iter().find(|event| {
        matches!(event.verb, Verb::Write | Verb::WriteDurable | Verb::Create | Verb::Rename)
    });
    assert_eq!(written, None, "an open without finish() wrote");
}

/// A whole log was moved here a second ago, and whoever opens it expects one. Neither the directory's own
/// name nor the identity may be durable yet, and what is acknowledged next would go with them: an open that
/// cannot make them so is none.
#[test]
fn a_log_whose_place_cannot_be_made_durable_is_not_opened() {
    let disk = Faulty::in_memory();
    open(&small(), &disk).unwrap().1.close().unwrap();
    for create in [Create::IfMissing, Create::Never] {
        let options = small().create(create);
        for on in [On::every(fault::Verb::Create), On::every(fault::Verb::Sync).in_file("identity")]
        {
            disk.control().fail(Fault::once(on.clone(), EIO));
            let outcome = open(&options, &disk);
            assert_eq!(kind(&outcome), Some(ErrorKind::Io), "{on:?}");
            assert!(open(&options, &disk).is_ok(), "{on:?}");
        }
    }
}

/// A log of many segments is opened after a crash: what is read is one block of every slot and
/// about two segments, or a restart would take as long as the log is large.
#[test]
fn open_reads_two_segments_however_large_the_log() {
    let storage = Memory::new();
    let segment_bytes = 256 << 10;
    let options = small().segment_bytes(segment_bytes);
    {
        let (_, wal, _) = open(&options, &storage).unwrap();
        let mut last = wal.append(&payload(0, 9000)).unwrap();
        while last.lsn().get() < 40 * segment_bytes {
            last = wal.append(&payload(0, 9000)).unwrap();
        }
        last.wait().unwrap();
    }
    let replay = replay(&options, &storage).unwrap();
    let report = replay.report();
    assert!(report.segments > 40, "{report}");
    let heads = u64::from(report.slots) * BLOCK_BYTES;
    // The tail's segment, the one before it, the one prepared after it.
    let most = heads + 3 * segment_bytes + (1 << 16);
    assert!(report.bytes_read <= most, "{} bytes read, {most} are enough", report.bytes_read);
    assert!(report.bytes_read >= heads);
}

/// A log that is closed says so on the next open; one that is dropped equals a crash, and is clean
/// or torn but never an error, with every acknowledged record, wherever it stopped.
#[test]
fn close_is_clean_and_a_crash_is_never_an_error() {
    let storage = Memory::new();
    let mut expected = Records::new();
    for round in 0..60 {
        let (found, wal, report) = open(&small(), &storage).unwrap();
        assert_eq!(found, expected, "round {round}");
        let was_closed = round % 2 == 1;
        assert_eq!(report.clean_close, was_closed, "round {round}: {report}");
        if was_closed {
            assert_eq!(report.verdict, Verdict::Clean, "round {round}: {report}");
            assert!(report.cut.is_none());
        }
        for number in 0..round % 7 {
            expected.push(append(&wal, &payload(round * 10 + number, 700 * number)));
        }
        let last = report.last_record.map(Lsn::get);
        assert_eq!(last.or(found.last().map(|r| r.0)), found.last().map(|record| record.0));
        if round % 2 == 0 {
            wal.close().unwrap();
        } else {
            // Not waited for: may be lost, must not harm.
            drop(wal.append(b"in the air").unwrap());
        }
    }
}

/// A program fills a segment up to the blocks that are kept for checkpoints and closes the log at
/// once, before the next segment is prepared. Without its frame the close vouches for nothing:
/// damage to the last acknowledged record would pass for a torn tail. It has to wait for room, or
/// take it.
#[test]
fn close_vouches_also_when_the_segment_is_full() {
    let spy = Spy::new(Memory::new());
    let (_, wal, _) = open(&small(), &spy).unwrap();
    spy.hold(Verb::Create);
    let mut expected = Records::new();
    // Four blocks of a segment without a successor are reserved.
    while wal.durable_lsn().get() < SEGMENT_BYTES + 12 * BLOCK_BYTES {
        expected.push(append(&wal, &payload(expected.len(), 100)));
    }
    thread::scope(|scope| {
        let closing = scope.spawn(|| wal.close());
        // Time to find that there is no room; the outcome does not depend on it.
        thread::sleep(Duration::from_millis(50));
        spy.let_go();
        closing.join().unwrap().unwrap();
    });
    drop(wal);
    let image = save(&spy);
    let (found, report) = read_all(&small(), &load(&image)).unwrap();
    assert_eq!(found, expected);
    assert!(report.clean_close, "{report}");

    // What that is for: one bad byte in the last record of a log that was closed as it should be.
    let last = expected[expected.len() - 1].0;
    let storage = load(&image);
    flip(&storage, &home_of(&image, 1), last % SEGMENT_BYTES + 20, 0);
    let outcome = read_all(&small(), &storage);
    assert_eq!(kind(&outcome), Some(ErrorKind::Corrupt), "{outcome:?}");
}

/// A crash at the worst moment of a rotation: all frames of a segment are there, the next segment's
/// header is, and nothing in it. Then the same with the first frame torn.
#[test]
fn crash_around_a_rotation_is_a_tail() {
    let (mut disk, mut pen, mut frames) = crashed(0..0, 0);
    while pen.lsn < SEGMENT_BYTES {
        pen.vouch();
        let frame = pen.frame(Purpose::Records, &[Entry::Data(&payload(frames.len(), 100))]);
        disk.put(frame.lsn, &frame.bytes);
        frames.push(frame);
    }
    let (found, report) = read_all(&small(), &disk.load()).unwrap();
    assert_eq!(found, records_of(&frames));
    assert_eq!(report.verdict, Verdict::Clean);

    pen.vouch();
    pen.rotate(1);
    let first = pen.frame(Purpose::Records, &[Entry::Data(&payload(99, 9000))]);
    for sector in 0..first.bytes.len() / 512 {
        let mut torn = disk.clone();
        let mut bytes = first.bytes.clone();
        bytes[sector * 512..(sector + 1) * 512].fill(0);
        torn.put(first.lsn, &bytes);
        let storage = torn.load();
        let (found, wal, report) = open(&small(), &storage).unwrap();
        if bytes == first.bytes {
            assert_eq!(found.len(), frames.len() + 1, "sector {sector} holds nothing but zeros");
            continue;
        }
        assert_eq!(found, records_of(&frames), "sector {sector}");
        let mut expected = found;
        expected.push(append(&wal, b"goes on"));
        drop(wal);
        assert_eq!(report.verdict, Verdict::TornTail, "sector {sector}: {report}");
        assert_eq!(records(after_crash(&storage)), expected, "sector {sector}");
    }
}

/// Creation dies between its steps: some slots, none, a half identity under its temporary name.
/// The next open makes the log; nothing was ever acknowledged, so nothing is lost.
#[test]
fn interrupted_creation_is_finished_by_the_next_open() {
    let verbs =
        [Verb::Create, Verb::Write, Verb::Sync, Verb::WriteDurable, Verb::Rename, Verb::SyncDir];
    for first in verbs {
        let spy = Spy::new(Memory::new());
        spy.create().unwrap();
        spy.fail_power_at(first);
        assert!(open(&small(), &spy).is_err(), "{first:?}");
        let storage = after_crash(&spy);
        let (found, wal, report) = open(&small(), &storage).unwrap();
        assert!(found.is_empty());
        // Once the identity has its name the log exists.
        assert!(
            report.created || first == Verb::SyncDir || first == Verb::WriteDurable,
            "{first:?}"
        );
        let expected = vec![append(&wal, b"first")];
        wal.close().unwrap();
        drop(wal);
        assert_eq!(records(after_crash(&storage)), expected, "{first:?}");
    }
    // Half an identity and an unfinished slot.
    let storage = Memory::new();
    storage.create().unwrap();
    put_file(&storage, "identity.tmp", &[7; 1000]);
    put_file(&storage, &slot(0), &[0; 10_000]);
    let (found, wal, report) = open(&small(), &storage).unwrap();
    assert!(found.is_empty() && report.created);
    wal.close().unwrap();
    drop(wal);
    assert!(open(&small().create(Create::Never), &storage).is_ok());
}
