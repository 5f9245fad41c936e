//! What opening makes of what a crash, a disk or an earlier open left behind.

use crate::craft::{
    BLOCK_BYTES, Disk, Drawn, Entry, Image, Pen, Records, SEGMENT_BYTES, Spy, Verb, append, flip,
    kind, load, open, payload, put_file, read_all, replay, save, slot, small,
};
use std::ops::Range;
use wal::{
    Create, ErrorKind, Lsn, Options, Verdict,
    format::{Fault, Frame, FrameHeader, Origin, Purpose, WriterSeed},
    io::{Memory, Storage},
};

/// A first segment with an opening frame and `frames` frames of one record of `bytes` bytes, each
/// vouching for the one before, and a second segment prepared: what a writer leaves that dies.
fn crashed(frames: Range<usize>, bytes: usize) -> (Disk, Pen, Vec<Drawn>) {
    let mut disk = Disk::new();
    disk.segment(0, 0, Origin::Zeroed);
    disk.segment(1, 1, Origin::Zeroed);
    let mut pen = Pen::new(&disk, 0);
    let opening = pen.frame(Purpose::Opening, &[]);
    disk.put(opening.lsn, &opening.bytes);
    let mut drawn = Vec::new();
    for number in frames {
        pen.vouch();
        let frame = pen.frame(Purpose::Records, &[Entry::Data(&payload(number, bytes))]);
        disk.put(frame.lsn, &frame.bytes);
        drawn.push(frame);
    }
    (disk, pen, drawn)
}

fn records_of(frames: &[Drawn]) -> Records {
    frames.iter().flat_map(|frame| frame.records.clone()).collect()
}

/// The same bytes as a machine that lost power sees them: nothing of the old process is left.
fn after_crash(storage: &impl Storage) -> Memory {
    load(&save(storage))
}

fn records(storage: Memory) -> Records {
    read_all(&small(), &storage).unwrap().0
}

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
    let last = slot_of_segment(&image, 1);
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
/// longer log: a hole in the sequence, at its beginning or at its end, is never "the end of the log".
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
        let name = slot_of_segment(&image, sequence);
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

/// The slot that says it is segment `sequence`.
fn slot_of_segment(image: &Image, sequence: u64) -> String {
    let is_it = |bytes: &[u8]| bytes[..8] == *b"walSegmt" && bytes[32..40] == sequence.to_le_bytes();
    let (name, _) = image.iter().find(|(_, bytes)| is_it(bytes)).unwrap();
    name.clone()
}

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
    for options in [small(), small().unreadable_tail(wal::UnreadableTail::TreatAsTorn)] {
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
enum Promise {
    Nothing,
    SecondIsDurable,
}

fn lost_second_of_three(promise: Promise) -> (Disk, Vec<Drawn>) {
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

/// Two frames were in flight; the disk lost the first, of two blocks, and kept the second. After the
/// reopen the opening frame and a new one fill the same two blocks, and the machine crashes again:
/// the old second frame now stands exactly where the next one would. It must not come back.
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
    assert_eq!(new.0 + 5 + 3, kept.lsn - BLOCK_BYTES + 64 + 8, "the new frame ends where it begins");

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
    let in_this_epoch = FrameHeader { epoch: last.epoch, incarnation: last.incarnation, ..ghost.header };
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
    file[at + block..at + 3 * block].copy_from_slice(&healthy[&slot(0)][at + block..at + 3 * block]);
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

/// A caller computes a checkpoint from a stale variable and asks for a lower start mark than before.
/// Replay would begin in slots that were given back; it is refused, and nothing changes.
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

/// A log of many segments is opened after a crash: what is read is one block of every slot and about
/// two segments, or a restart would take as long as the log is large.
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
            let _ = wal.append(b"in the air").unwrap();
        }
    }
}

/// A program fills a segment to its end and closes the log at once, faster than the next segment is
/// prepared. The close has to wait for room: without its frame nothing vouches for the last record,
/// and damage to it would pass for a torn tail although the log was closed as it should be.
#[test]
fn close_vouches_also_when_the_segment_is_full() {
    for round in 0..100 {
        let storage = Memory::new();
        let (_, wal, _) = open(&small(), &storage).unwrap();
        let longest = append(&wal, &payload(round, wal.record_bytes_max()));
        wal.close().unwrap();
        drop(wal);
        let (found, report) = read_all(&small(), &storage).unwrap();
        assert_eq!(found, [longest], "round {round}");
        assert!(report.clean_close, "round {round}: {report}");
    }
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
        assert!(report.created || first == Verb::SyncDir || first == Verb::WriteDurable, "{first:?}");
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

/// What a frame's records are bound to: the same bytes under another epoch, incarnation or log give
/// other checksums, so that no record of one life is one of the next.
#[test]
fn seeds_of_two_writers_differ() {
    let log = crate::craft::log_id();
    let seed = WriterSeed::new(log, 1, 7);
    assert_ne!(seed, WriterSeed::new(log, 2, 7));
    assert_ne!(seed, WriterSeed::new(log, 1, 8));
    assert_ne!(seed, WriterSeed::new(wal::LogId([0; 16]), 1, 7));
}
