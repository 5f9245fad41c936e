//! What was cut, lost or left behind never comes back: frames that the disk kept behind one that it
//! lost, frames of other lives of the log, frames that a second read finds whole again.

use crate::{
    craft::{
        BLOCK_BYTES, Disk, Drawn, Entry, Pen, Records, SEGMENT_BYTES, after_crash, append, crashed,
        load, log_id, open, payload, read_all, records, records_of, replay, save, slot, small,
    },
    spy::{Spy, Verb},
};
use wal::{
    ErrorKind, LogId, Lsn, UnreadableTail, Verdict,
    format::{Fault, Frame, FrameHeader, Origin, Purpose, WriterSeed},
};

/// Three frames in flight; the disk kept the first and the third when the power went. Nothing says
/// that the second was durable, so it was never acknowledged: cut, and the third set aside.
#[test]
fn lost_frame_with_kept_successor_is_a_torn_tail() {
    let (disk, frames) = lost_second_of_three(Promise::Nothing);
    let storage = disk.load();
    let (found, report) = read_all(&small(), &storage).unwrap();
    assert_eq!(found, records_of(&frames[..1]));
    assert_eq!(report.verdict, Verdict::TornTail);
    let cut = report.cut.unwrap();
    assert_eq!(cut.at.get(), frames[1].lsn);
    assert_eq!((cut.segment, cut.offset), (0, frames[1].lsn));
    assert_eq!((cut.intact_frames, cut.intact_records), (1, 1));
    assert!(cut.bytes >= frames[2].end - frames[1].lsn, "{cut:?}");

    let before = save(&storage);
    let (_, wal, report) = open(&small(), &storage).unwrap();
    wal.close().unwrap();
    let kept = report.cut.unwrap().kept_in.expect("intact frames are copied aside");
    let after = save(&storage);
    let name = after.keys().find(|name| kept.ends_with(name.as_str())).expect("the copy is there");
    assert!(!before.contains_key(name));
    let copy = &after[name];
    let needle = &frames[2].bytes[64..][..frames[2].records[0].1.len()];
    let is_in = copy.windows(needle.len()).any(|window| window == needle);
    assert!(is_in, "the frame's bytes are in {name}");
    assert_eq!(records(after_crash(&storage)), found);
}

/// The same picture, but the third frame says that the second was durable when it was sealed: an
/// acknowledged record is gone. That is damage, and is refused with its place.
#[test]
fn lost_frame_below_a_mark_is_corruption() {
    let (disk, frames) = lost_second_of_three(Promise::SecondIsDurable);
    for options in [small(), small().unreadable_tail(UnreadableTail::TreatAsTorn)] {
        let error = read_all(&options, &disk.load()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.lsn(), Some(Lsn::new(frames[1].lsn)), "{error}");
        assert_eq!(error.segment(), Some(0), "{error}");
        assert_eq!(error.offset(), Some(frames[1].lsn), "{error}");
        assert!(error.path().is_some_and(|path| path.ends_with(slot(0))), "{error}");
        assert!(error.expected().is_some() && error.found().is_some(), "{error}");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    Nothing,
    SecondIsDurable,
}

pub(crate) fn lost_second_of_three(promise: Promise) -> (Disk, Vec<Drawn>) {
    let (mut disk, mut pen, mut frames) = crashed(0..1, 500);
    for number in 1..3 {
        if promise == Promise::SecondIsDurable {
            pen.vouch();
        }
        frames.push(pen.frame(Purpose::Records, &[Entry::Data(&payload(number, 500))]));
    }
    disk.put(frames[2].lsn, &frames[2].bytes);
    (disk, frames)
}

/// Two frames were in flight; the disk lost the first, of two blocks, and kept the second. After
/// the reopen the opening frame and a new one fill the same two blocks, and the machine crashes
/// again: the old second frame now stands exactly where the next one would. It must not come back.
#[test]
fn ghost_behind_a_new_frame_of_the_same_size_stays_dead() {
    let (mut disk, mut pen, frames) = crashed(0..1, 500);
    let lost = pen.frame(Purpose::Records, &[Entry::Data(&payload(1, 6000))]);
    let kept = pen.frame(Purpose::Records, &[Entry::Data(b"ghost")]);
    assert_eq!(lost.end - lost.lsn, 2 * BLOCK_BYTES);
    disk.put(kept.lsn, &kept.bytes);

    let storage = disk.load();
    let new = {
        let (found, wal, report) = open(&small(), &storage).unwrap();
        assert_eq!(found, records_of(&frames));
        assert_eq!(report.verdict, Verdict::TornTail);
        append(&wal, b"new")
    };
    let image = save(&storage);
    let at = usize::try_from(kept.lsn).unwrap();
    assert_eq!(image[&slot(0)][at..at + kept.bytes.len()], kept.bytes, "the ghost is still there");
    assert_eq!(
        new.0 + 5 + 3,
        kept.lsn - BLOCK_BYTES + 64 + 8,
        "the new frame ends where it begins"
    );

    let mut expected = records_of(&frames);
    expected.push(new);
    let (found, report) = read_all(&small(), &load(&image)).unwrap();
    assert_eq!(found, expected);
    assert_eq!(report.tail.get(), kept.lsn);

    // And again, for ever: each open writes one frame over what is left of it.
    let storage = load(&image);
    for _ in 0..3 {
        let (found, wal, _) = open(&small(), &storage).unwrap();
        assert_eq!(found, expected);
        drop(wal);
    }
}

/// The same story on disks made by hand, where all but one of the defences are taken away: the
/// ghost's chain, ordinal and place fit, but its epoch is the older one.
#[test]
fn ghost_of_an_older_epoch_with_a_fitting_chain_stays_dead() {
    let (mut disk, pen, mut frames) = crashed(0..1, 500);
    let mut new = pen.clone();
    new.reopen();
    new.vouch();
    frames.push(new.frame(Purpose::Records, &[Entry::Data(b"new")]));
    disk.put(frames[1].lsn, &frames[1].bytes);
    let mut old = Pen { lsn: new.lsn, chain: new.chain, ordinal: new.ordinal, ..pen };
    let ghost = old.frame(Purpose::Records, &[Entry::Data(b"ghost")]);
    disk.put(ghost.lsn, &ghost.bytes);

    let block = u32::try_from(BLOCK_BYTES).unwrap();
    let log = disk.identity.log_id;
    let ghost_frame = Frame::check(log, Lsn::new(ghost.lsn), block, &ghost.bytes).unwrap();
    let last = &frames[1].header;
    let in_this_epoch =
        FrameHeader { epoch: last.epoch, incarnation: last.incarnation, ..ghost.header };
    assert!(in_this_epoch.follows(last, frames[1].crc), "everything else fits");
    assert!(!ghost_frame.header.follows(last, frames[1].crc), "the epoch alone refuses it");
    assert_eq!(records(disk.load()), records_of(&frames));
}

/// Two opens drew the same epoch, since the first one's frames were all lost but one. The ghost's
/// chain, ordinal, place and epoch fit; only the incarnation differs, in the header and in the seed
/// of every record's checksum.
#[test]
fn ghost_of_another_incarnation_stays_dead() {
    let (mut disk, pen, mut frames) = crashed(0..1, 500);
    let mut new = pen.clone();
    new.reopen();
    new.vouch();
    frames.push(new.frame(Purpose::Records, &[Entry::Data(b"new")]));
    disk.put(frames[1].lsn, &frames[1].bytes);
    let mut other = Pen { incarnation: !new.incarnation, ..new.clone() };
    let ghost = other.frame(Purpose::Records, &[Entry::Data(b"ghost")]);
    assert!(!ghost.header.follows(&frames[1].header, frames[1].crc));

    // Even under a header that says the right incarnation the records do not fit.
    let mut forged = ghost.bytes.clone();
    let header = FrameHeader { incarnation: new.incarnation, ..ghost.header };
    header.encode(disk.identity.log_id, &mut forged);
    let block = u32::try_from(BLOCK_BYTES).unwrap();
    let answer = Frame::check(disk.identity.log_id, Lsn::new(ghost.lsn), block, &forged);
    assert!(matches!(answer, Err(Fault::RecordCrc { .. })), "{answer:?}");

    for bytes in [&ghost.bytes, &forged] {
        let mut disk = disk.clone();
        disk.put(ghost.lsn, bytes);
        assert_never_read(&disk, &frames);
    }
}

/// The ghost is of the same writer: epoch, incarnation and ordinal fit. But it was written after
/// another frame than the one that is there now, and the chain says so.
#[test]
fn ghost_that_follows_another_frame_stays_dead() {
    let (mut disk, pen, mut frames) = crashed(0..1, 500);
    let mut first = pen.clone();
    let _replaced = first.frame(Purpose::Records, &[Entry::Data(b"replaced")]);
    let ghost = first.frame(Purpose::Records, &[Entry::Data(b"ghost")]);
    // A header's checksum covers no payload: what tells the two frames apart is the mark that the
    // second one states.
    let mut second = pen;
    second.vouch();
    frames.push(second.frame(Purpose::Records, &[Entry::Data(b"replacer")]));
    disk.put(frames[1].lsn, &frames[1].bytes);
    disk.put(ghost.lsn, &ghost.bytes);
    let same_chain = FrameHeader { previous_crc: frames[1].crc, ..ghost.header };
    assert!(same_chain.follows(&frames[1].header, frames[1].crc), "everything else fits");
    assert!(!ghost.header.follows(&frames[1].header, frames[1].crc), "the chain alone refuses it");
    assert_never_read(&disk, &frames);
}

/// A disk that wrote a frame in the wrong place: everything fits but the Lsn.
#[test]
fn frame_in_another_place_stays_dead() {
    let (mut disk, mut pen, frames) = crashed(0..2, 500);
    let tail = pen.lsn;
    pen.lsn += BLOCK_BYTES;
    let misdirected = pen.frame(Purpose::Records, &[Entry::Data(b"elsewhere")]);
    assert!(misdirected.header.follows(&frames[1].header, frames[1].crc), "everything else fits");
    disk.put(tail, &misdirected.bytes);
    let (found, _) = read_all(&small(), &disk.load()).unwrap();
    assert_eq!(found, records_of(&frames));
}

/// Neither the scan nor a writer that goes on brings back what stands behind `frames`.
fn assert_never_read(disk: &Disk, frames: &[Drawn]) {
    let storage = disk.load();
    match open(&small(), &storage) {
        // To refuse is allowed: no writer of this crate leaves such a disk.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        Ok((found, wal, _)) => {
            let mut expected = records_of(frames);
            assert_eq!(found, expected);
            expected.push(append(&wal, b"later"));
            drop(wal);
            assert_eq!(records(after_crash(&storage)), expected);
        }
    }
}

/// A slot that was released and reused holds old frames behind the new ones, self-valid in every
/// byte but for another place in the log. They are neither records nor a torn tail nor damage.
#[test]
fn stale_frames_of_a_reused_slot_are_room() {
    let mut disk = Disk::new();
    disk.segment(0, 0, Origin::Zeroed);
    let mut pen = Pen::new(&disk, 0);
    while pen.lsn < SEGMENT_BYTES {
        pen.vouch();
        let frame = pen.frame(Purpose::Records, &[Entry::Data(&payload(1, 100))]);
        disk.put(frame.lsn, &frame.bytes);
    }
    disk.segment(1, 1, Origin::Zeroed);
    pen.rotate(1);
    let mark = pen.lsn;
    let mut expected = Records::new();
    pen.vouch();
    let frame = pen.frame(Purpose::Records, &[Entry::Checkpoint(mark, b"seen"), Entry::Data(b"a")]);
    disk.put(frame.lsn, &frame.bytes);
    expected.extend(frame.records);
    // Slot 0 becomes segment 2; behind its first frames the fourteen old ones still stand.
    disk.segment(0, 2, Origin::Recycled);
    pen.rotate(2);
    for number in 0..3 {
        pen.vouch();
        let data = payload(number, 50);
        let restated = Entry::Checkpoint(mark, b"seen");
        let entries = [restated, Entry::Data(&data)];
        let entries = if number == 0 { &entries[..] } else { &entries[1..] };
        let frame = pen.frame(Purpose::Records, entries);
        disk.put(frame.lsn, &frame.bytes);
        expected.extend(frame.records);
    }
    let storage = disk.load();
    let (found, report) = read_all(&small(), &storage).unwrap();
    assert_eq!(found, expected);
    assert_eq!(report.verdict, Verdict::Clean, "{report}");
    assert_eq!(report.start_mark.get(), mark);
    assert_eq!(report.tail.get(), pen.lsn);

    // Writing over them, frame by frame, with a crash after each.
    for _ in 0..6 {
        let (found, wal, report) = open(&small(), &storage).unwrap();
        assert_eq!(found, expected);
        assert_eq!(report.verdict, Verdict::Clean, "{report}");
        expected.push(append(&wal, b"over"));
    }
    assert_eq!(records(after_crash(&storage)), expected);
}

/// The last frame was damaged, the open reported it as cut and finished. Then its blocks come back:
/// the other disk of a mirror, or a controller that wakes up. Its first block is now the opening
/// frame's; the rest returns, whole. What was cut once stays cut.
#[test]
fn cut_record_does_not_come_back_with_its_later_blocks() {
    let (mut disk, mut pen, frames) = crashed(0..3, 500);
    pen.vouch();
    let long = pen.frame(Purpose::Records, &[Entry::Data(&payload(9, 9000))]);
    disk.put(long.lsn, &long.bytes);
    let healthy = disk.image.clone();
    assert_eq!(records(load(&healthy)).len(), 4);

    let at = usize::try_from(long.lsn).unwrap();
    disk.file(&slot(0))[at + 5000] ^= 1;
    let storage = disk.load();
    let (found, wal, report) = open(&small(), &storage).unwrap();
    assert_eq!(found, records_of(&frames));
    assert_eq!(report.verdict, Verdict::TornTail);
    drop(wal);

    let block = usize::try_from(BLOCK_BYTES).unwrap();
    let mut image = save(&storage);
    let file = image.get_mut(&slot(0)).unwrap();
    file[at + block..at + 3 * block]
        .copy_from_slice(&healthy[&slot(0)][at + block..at + 3 * block]);
    let storage = load(&image);
    let (found, wal, _) = open(&small(), &storage).unwrap();
    assert_eq!(found, records_of(&frames));
    let mut expected = found;
    expected.push(append(&wal, b"after"));
    drop(wal);
    assert_eq!(records(after_crash(&storage)), expected);
}

/// The disk answers wrongly once, for the last frame, and rightly ever after. What was reported as
/// cut must not be a record again on the next open, or two readers of one log would disagree.
#[test]
fn cut_record_does_not_come_back_after_a_transient_misread() {
    for bytes in [200, 9000] {
        let (disk, _, frames) = crashed(0..4, bytes);
        let last = frames.last().unwrap();
        let offsets = [last.lsn + 8, last.lsn + 64 + 20, last.end - BLOCK_BYTES + 30];
        for at in offsets {
            let spy = Spy::new(disk.load());
            spy.lie(&slot(0), at, 1);
            let (found, wal, report) = match open(&small(), &spy) {
                Ok(opened) => opened,
                Err(error) => panic!("{bytes} bytes, misread at {at}: {error}"),
            };
            assert_eq!(spy.lies_left(), 0, "the lie was heard");
            let all = records_of(&frames);
            if found == all {
                // It was read again before the verdict: also right, and nothing is cut.
                assert_eq!(report.verdict, Verdict::Clean);
            } else {
                assert_eq!(found, all[..3], "{bytes} bytes, misread at {at}");
                assert_eq!(report.verdict, Verdict::TornTail);
            }
            drop(wal);
            let (again, _) = read_all(&small(), &after_crash(&spy)).unwrap();
            assert_eq!(again, found, "{bytes} bytes, misread at {at}: the verdict was fixed");
        }
    }
}

/// The disk answers wrongly once, for a frame that is vouched for. Whatever the open says then, the
/// log must be whole on the next one.
#[test]
fn transient_misread_below_a_mark_changes_nothing() {
    let (disk, _, frames) = crashed(0..6, 500);
    let all = records_of(&frames);
    for frame in &frames[..5] {
        let spy = Spy::new(disk.load());
        spy.lie(&slot(0), frame.lsn + 80, 1);
        match open(&small(), &spy) {
            Ok((found, ..)) => assert_eq!(found, all),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        }
        assert_eq!(records(after_crash(&spy)), all);
    }
}

/// The power fails while a torn tail is being repaired: after intact frames were set aside, before
/// the opening frame; then again at each other step. Every later open reaches the same verdict and
/// the same records.
#[test]
fn crash_in_the_middle_of_a_repair_changes_nothing() {
    let (disk, frames) = lost_second_of_three(Promise::Nothing);
    let verbs = [
        Verb::Create,
        Verb::Write,
        Verb::Sync,
        Verb::Rename,
        Verb::SyncDir,
        Verb::WriteDurable,
        Verb::Remove,
    ];
    for first in verbs {
        for second in verbs {
            let mut image = disk.image.clone();
            for verb in [first, second] {
                let storage = load(&image);
                let spy = Spy::new(storage);
                let mut replay = match replay(&small(), &spy) {
                    Ok(replay) => replay,
                    // The flush before the scan needs a disk.
                    Err(error) => panic!("{error}"),
                };
                let mut found = Records::new();
                while let Some(record) = replay.next().unwrap() {
                    found.push((record.lsn().get(), record.payload().to_vec()));
                }
                assert_eq!(found, records_of(&frames[..1]), "{first:?} then {second:?}");
                spy.fail_power_at(verb);
                let finished = replay.finish();
                let is_cut = finished.is_ok();
                drop(finished);
                image = save(&spy);
                if !is_cut {
                    let (_, report) = read_all(&small(), &load(&image)).unwrap();
                    assert_eq!(report.verdict, Verdict::TornTail, "{first:?} then {second:?}");
                    let cut = report.cut.unwrap();
                    assert_eq!(cut.at.get(), frames[1].lsn);
                    assert_eq!(cut.intact_frames, 1);
                }
            }
            let storage = load(&image);
            let (found, wal, _) = open(&small(), &storage).unwrap();
            assert_eq!(found, records_of(&frames[..1]), "{first:?} then {second:?}");
            let mut expected = found;
            expected.push(append(&wal, b"at last"));
            wal.close().unwrap();
            assert_eq!(records(after_crash(&storage)), expected);
        }
    }
}

/// What a frame's records are bound to: the same bytes under another epoch, incarnation or log give
/// other checksums, so that no record of one life is one of the next.
#[test]
fn seeds_of_two_writers_differ() {
    let log = log_id();
    let seed = WriterSeed::new(log, 1, 7);
    assert_ne!(seed, WriterSeed::new(log, 2, 7));
    assert_ne!(seed, WriterSeed::new(log, 1, 8));
    assert_ne!(seed, WriterSeed::new(LogId([0; 16]), 1, 7));
}
