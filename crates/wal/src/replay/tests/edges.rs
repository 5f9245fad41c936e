//! Stories where two quantities are equal, a list has more than one entry, or an error has a place to name:
//! one comparison the other way round, and they end badly.

use super::{refused, replay, two_segments};
use crate::{
    ErrorKind, Lsn,
    format::{Frame, LogId, Origin},
    io::{Access, File, Storage},
    options::Options,
    recovery::{
        Missing, Policy, Verdict,
        flaky::Flaky,
        handmade::{BLOCK, Handmade, SEGMENT, get, policy, put},
        keep_cut, open,
    },
    replay::Replay,
    slots::slot_name,
};
use std::sync::Arc;

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

/// Everything was consumed before the log was closed: the start mark is the tail itself, and nothing is
/// past the log's end.
#[test]
fn a_start_mark_may_be_the_tail() {
    let mut log = two_segments();
    log.checkpoint(log.lsn + BLOCK, b"all of it");
    let (found, records) = replay(&log).unwrap();
    assert_eq!(found.checkpoint.unwrap().0, found.tail.lsn);
    assert!(records.is_empty());
}

/// A user remembers the start mark and asks for the record there. Below it everything was released; at it
/// there is a record, or the log is not the one that is meant.
#[test]
fn an_anchor_at_the_start_mark_is_looked_for() {
    let mut log = two_segments();
    let first = *log.records.range(SEGMENT..).next().unwrap().0;
    log.checkpoint(first, b"");
    let ask = |log: &Handmade, lsn: u64| {
        let policy = Policy { expect_at_least: Some(Lsn::new(lsn)), ..policy() };
        open(Arc::new(log.storage()), &policy).map(drop)
    };
    assert!(ask(&log, first).is_ok());
    let mut other = two_segments();
    other.checkpoint(first - 8, b"");
    assert_eq!(ask(&other, first - 8).unwrap_err().kind(), ErrorKind::Corrupt);
    let error = ask(&log, log.lsn).unwrap_err();
    assert!(error.found().unwrap().contains(&format!("ends at lsn {}", log.lsn)), "{error}");
}

/// A slot that was being zeroed when the power went is shorter than a segment, one that is being reused is
/// not: only the first needs to be filled.
#[test]
fn a_free_slot_that_is_not_full_says_so() {
    let mut log = two_segments();
    log.checkpoint(SEGMENT, b"");
    assert!(log.open().unwrap().free[0].full);
    log.files.get_mut(&0).unwrap().truncate(length(SEGMENT - BLOCK));
    assert!(!log.open().unwrap().free[0].full);
}

/// A warning that is always there is read by nobody.
#[test]
fn only_a_file_that_is_too_long_is_warned_of() {
    let log = two_segments();
    assert_eq!(log.open().unwrap().report.warnings, [""; 0]);
    let storage = log.storage();
    let file = storage.open("slot-000001", Access::ReadWrite).unwrap();
    file.set_len(SEGMENT + BLOCK).unwrap();
    let warnings = open(Arc::new(storage), &policy()).unwrap().report.warnings;
    assert_eq!(warnings.len(), 1);
    for words in ["slot-000001", &(SEGMENT + BLOCK).to_string(), &SEGMENT.to_string()] {
        assert!(warnings[0].contains(words), "{warnings:?}");
    }
}

/// The header of a slot is gone, and nothing in the slot tells which segment it was. Whoever has to mend
/// that needs the place, and the names of the slots that it may have been.
#[test]
fn a_missing_segment_names_the_slots_that_it_may_have_been() {
    let mut log = two_segments();
    log.files.insert(0, vec![0; length(SEGMENT)]);
    let error = refused(&log);
    assert_eq!((error.kind(), error.segment()), (ErrorKind::Corrupt, Some(0)));
    let found = error.found().unwrap();
    assert!(found.contains("slot-000000: all zeros"), "{found}");
    assert!(!found.contains("slot-000001"), "it is good: {found}");
    log.files.remove(&0);
    assert_eq!(refused(&log).found(), Some("none"));
}

/// The damaged header is that of the segment that begins at the Lsn which the error names.
#[test]
fn a_damaged_header_is_named_by_where_its_segment_begins() {
    let mut log = two_segments();
    log.files.get_mut(&1).unwrap()[100] ^= 1;
    assert_eq!(refused(&log).lsn(), Some(Lsn::new(SEGMENT)));
}

/// Slot 0 became segment 2 and its header went bad. Behind the frames of segment 2 those of segment 0 still
/// stand, or before them, for the first frame of segment 2 never reached the disk. The highest one tells
/// what the slot is; taken for free, it would lose a segment without a word.
#[test]
fn the_highest_frame_of_a_slot_without_a_header_tells_what_it_is() {
    let mut log = two_segments();
    log.checkpoint(SEGMENT, b"");
    let before = log.files[&0].clone();
    log.mark = log.lsn;
    log.segment(2, 0, Origin::Recycled);
    log.enter(2);
    log.frame(&[b"seven"]);
    log.frame(&[b"eight"]);
    log.files.get_mut(&0).unwrap()[100] ^= 1;
    let mut late = log.clone();
    let block = length(BLOCK);
    late.files.get_mut(&0).unwrap()[block..2 * block].copy_from_slice(&before[block..2 * block]);
    for (story, log) in [("older frames behind", log), ("older frames before", late)] {
        let error = refused(&log);
        let place = (error.kind(), error.segment(), error.lsn());
        assert_eq!(place, (ErrorKind::Corrupt, Some(2), Some(Lsn::new(2 * SEGMENT))), "{story}");
    }
}

/// The report says what was read, to the byte: "two segments however large the log" is a promise.
#[test]
fn what_was_read_is_counted() {
    let mut log = Handmade::new();
    log.reopen();
    let read = |log: &Handmade| log.open().unwrap().report.bytes_read;
    let base = read(&log);
    // The heads of two slots, all of segment 0 behind its head, all of the slot that is free.
    assert!(base >= 2 * BLOCK + (SEGMENT - BLOCK) + SEGMENT, "{base}");
    assert!(base < 4 * SEGMENT, "{base}");
    for slots in 1..4 {
        log.files.insert(7 + u32::try_from(slots).unwrap(), vec![0; length(SEGMENT)]);
        assert_eq!(read(&log), base + slots * (BLOCK + SEGMENT), "{slots} more slots");
    }
    // Of a slot that was released, its head and the first frame, which may be newer.
    let mut log = two_segments();
    log.rotate(2);
    log.checkpoint(2 * SEGMENT, b"");
    let with = read(&log);
    log.files.remove(&0);
    assert_eq!(with, read(&log) + 2 * BLOCK);
}

/// What lies in a file behind its segment belongs to nobody: not to a free slot, and not to a log that ends
/// exactly with its segment.
#[test]
fn bytes_behind_a_segment_mean_nothing() {
    let mut log = Handmade::new();
    log.reopen();
    while log.lsn < SEGMENT {
        log.mark = log.lsn;
        log.frame(&[b"fill"]);
    }
    for slot in 0..2 {
        log.files.get_mut(&slot).unwrap().resize(length(SEGMENT + 2 * BLOCK), 0xaa);
    }
    let found = log.open().unwrap();
    assert_eq!((found.report.verdict, found.tail.lsn.get()), (Verdict::Clean, SEGMENT));
    assert_eq!((found.free.len(), found.free[0].origin), (1, Origin::Zeroed));
    let storage = Flaky::new(log.storage());
    storage.spoil("slot-000000", SEGMENT..SEGMENT + BLOCK);
    assert!(open(Arc::new(storage), &policy()).is_ok());
    // The same with room left before the segment's end.
    let storage = Flaky::new(two_segments().storage());
    let file = storage.open("slot-000001", Access::ReadWrite).unwrap();
    file.set_len(SEGMENT + BLOCK).unwrap();
    storage.spoil("slot-000001", SEGMENT..SEGMENT + BLOCK);
    assert!(open(Arc::new(storage), &policy()).is_ok());
}

/// Three frames were in flight behind one that was lost. The copy holds them one after the other, whatever
/// their lengths.
#[test]
fn every_frame_that_is_cut_is_kept() {
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    let lost = log.frame(&[b"lost"]);
    let payloads: [&[u8]; 3] = [b"first", &[2; 1500], b"third"];
    let kept = payloads.map(|payload| log.frame(&[payload]));
    log.lose(lost);
    let storage = log.storage();
    let mut found = open(Arc::new(storage.clone()), &policy()).unwrap();
    let name = keep_cut(&mut found).unwrap().unwrap();
    let copy = get(&storage, &name);
    let mut offset = 4096;
    for (lsn, payload) in kept.into_iter().zip(payloads) {
        let block = u32::try_from(BLOCK).unwrap();
        let frame = Frame::check(LogId([7; 16]), Lsn::new(lsn), block, &copy[offset..]).unwrap();
        assert_eq!(frame.records().next().unwrap().payload, payload);
        offset += length(frame.header.frame_bytes(block));
    }
    assert_eq!(copy.len(), offset);
    let text = found.report.to_string();
    for words in [
        "torn tail",
        &format!("cut {} bytes at lsn {lost}", found.report.cut.as_ref().unwrap().bytes),
        "intact frames among them: 3, records: 3",
        &name,
    ] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }
}

/// Nothing intact was behind the cut, and nothing was kept: the report does not speak of it.
#[test]
fn a_report_tells_how_the_log_ended() {
    let mut log = two_segments();
    let text = log.open().unwrap().report.to_string();
    assert!(text.contains(&format!("ends at lsn {}: clean\n", log.lsn)), "{text}");
    let torn = log.frame(&[&[1; 1200]]);
    log.at(torn + 700, 1)[0] ^= 1;
    let report = log.open().unwrap().report;
    let (text, cut) = (report.to_string(), report.cut.unwrap());
    assert!(text.contains(&format!("ends at lsn {torn}: torn tail\n")), "{text}");
    assert!(!text.contains("intact") && !text.contains("kept"), "{text}");
    // The header is whole and says how long the frame was.
    assert_eq!(cut.bytes, 3 * BLOCK);
}

/// The first frame of the next segment is torn; before it nothing was written, so nothing is cut there.
#[test]
fn a_cut_in_front_of_nothing_has_no_length() {
    let mut log = two_segments();
    log.segment(2, 2, Origin::Zeroed);
    log.enter(2);
    let torn = log.frame(&[b"torn"]);
    log.at(torn, 512)[50] ^= 1;
    assert_eq!(log.open().unwrap().report.cut.unwrap().bytes, 0);
}

/// Two frames were cut and the new writer has written over the first only. The second is a ghost behind a
/// ghost: no frame of this life of the log, and no torn tail for evermore.
#[test]
fn a_second_ghost_is_no_torn_tail() {
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    let tail = (log.lsn, log.crc, log.ordinal);
    let lost = log.frame(&[b"lost"]);
    for payload in [b"ghost one", b"ghost two"] {
        log.frame(&[payload]);
    }
    log.lose(lost);
    (log.lsn, log.crc, log.ordinal) = tail;
    log.reopen();
    let found = log.open().unwrap();
    assert_eq!((found.report.verdict, found.tail.lsn.get()), (Verdict::Clean, log.lsn));
}

/// Two frames in flight in one segment; the first is torn behind its header, the second intact. They were
/// written side by side, and the second proves nothing.
#[test]
fn a_torn_frame_before_an_intact_one_of_its_segment_is_torn() {
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    let torn = log.frame(&[b"torn"]);
    log.frame(&[b"intact"]);
    log.at(torn + 70, 1)[0] ^= 1;
    let cut = log.open().unwrap().report.cut.unwrap();
    assert_eq!((cut.at.get(), cut.intact_frames), (torn, 1));
}

/// An acknowledged frame is gone, and elsewhere a sector cannot be read. The error names the frame that is
/// gone: the sector is another matter.
#[test]
fn damage_is_named_and_not_the_bad_sector_elsewhere() {
    let mut log = two_segments();
    let lost = log.frame(&[b"acknowledged"]);
    log.mark = log.lsn;
    log.frame(&[b"knows"]);
    log.lose(lost);
    let tail_slot = (1, lost - SEGMENT + 5 * BLOCK);
    let mut begun = log.clone();
    begun.segment(2, 2, Origin::Zeroed);
    for (story, log, (slot, at)) in [
        ("further on in the same segment", &log, tail_slot),
        ("in the next segment, not at its head", &begun, (2, 3 * BLOCK)),
    ] {
        let storage = Flaky::new(log.storage());
        storage.spoil(&format!("slot-{slot:06}"), at..at + 1);
        let error = open(Arc::new(storage), &policy()).err().unwrap();
        let place = (error.kind(), error.segment(), error.lsn());
        assert_eq!(place, (ErrorKind::Corrupt, Some(1), Some(Lsn::new(lost))), "{story}");
    }
}

/// The identity was lost, and what is left says what it was: a place with slots is not an empty one.
#[test]
fn a_log_without_an_identity_is_not_taken_for_no_log() {
    let refuse = Policy { create: Missing::Refuse, ..policy() };
    let answer = |names: &[&str]| {
        let storage = crate::io::Memory::new();
        storage.create().unwrap();
        for name in names {
            put(&storage, name, b"x");
        }
        let error = open(Arc::new(storage), &refuse).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        error.to_string()
    };
    assert!(answer(&[]).contains("there is no log here"));
    assert!(answer(&["notes.txt"]).contains("there is no log here"));
    for names in [&["slot-000000"][..], &["cut-99-1"], &["cut-99-1", "slot-000000"]] {
        let text = answer(names);
        assert!(text.contains("no identity"), "{names:?}: {text}");
    }
}

/// Somebody copied slots about, and the highest number there can be is taken. A new slot gets the lowest
/// number that is free, and never one that is not.
#[test]
fn a_slot_number_is_found_when_the_highest_is_taken() {
    let next = |numbers: &[u32]| {
        let mut log = Handmade::new();
        for number in numbers {
            log.files.insert(*number, vec![0; length(SEGMENT)]);
        }
        log.open().unwrap().next_slot_number
    };
    assert_eq!(next(&[]), 2);
    assert_eq!(next(&[5]), 6);
    assert_eq!(next(&[u32::MAX]), 2, "beside 0 and 1");
    assert_eq!(next(&[2, 4, u32::MAX]), 3);
}

/// Three slots say that they are the same segment: two that a full disk left behind, and the one in use.
#[test]
fn three_headers_of_one_segment_are_settled() {
    let mut log = Handmade::new();
    log.reopen();
    log.mark = log.lsn;
    log.frame(&[b"one"]);
    for slot in [1, 2, 3] {
        log.segment(1, slot, Origin::Zeroed);
    }
    log.enter(1);
    log.frame(&[b"two"]);
    let (found, records) = replay(&log).unwrap();
    assert_eq!((records, found.free.len()), (log.records.clone(), 2));
    assert_eq!(found.segments[1].slot.number, 3);
}

/// A creation was interrupted in a place whose slots are longer than one look: what is in their later parts
/// counts as well, and a frame there was a log once.
#[test]
fn a_frame_far_behind_in_an_unfinished_slot_was_a_log_once() {
    const LOOK: u64 = 1 << 20;
    for bytes in [2 * LOOK, 3 * LOOK - 4096] {
        for (at, byte) in [(LOOK + 512, b'w'), (bytes - 4096, b'w'), (bytes - 1, 7)] {
            let storage = crate::io::Memory::new();
            storage.create().unwrap();
            let mut slot = vec![0; length(bytes)];
            let at = length(at);
            slot[at] = byte;
            if byte == b'w' {
                slot[at..at + 4].copy_from_slice(b"walF");
            }
            put(&storage, "slot-000001", &slot);
            let answer = open(Arc::new(storage.clone()), &policy());
            let names = storage.list().unwrap();
            let is_aside = names.iter().any(|name| name.starts_with("set-aside-"));
            if byte == b'w' {
                assert_eq!(answer.err().unwrap().kind(), ErrorKind::Corrupt, "{at} of {bytes}");
                assert!(!is_aside);
            } else {
                assert!(answer.unwrap().report.created && is_aside, "{at} of {bytes}");
            }
        }
    }
}

/// A record without a byte, alone and as the last of its frame: its header is all there is.
#[test]
fn empty_records_come_back() {
    let mut log = Handmade::new();
    log.reopen();
    log.frame(&[b""]);
    log.frame(&[b"x", b""]);
    let mut replay = Replay::open(log.storage(), policy(), Options::default()).unwrap();
    let mut lengths = Vec::new();
    while let Some(record) = replay.next().unwrap() {
        lengths.push(record.payload().len());
    }
    assert_eq!(lengths, [0, 1, 0]);
}

/// A slot is used again, and a frame of its older segment went bad long ago. It stands where the next frame
/// will, and names another place: it is what an older life left, and no torn tail.
#[test]
fn a_damaged_frame_of_an_older_segment_is_no_torn_tail() {
    let mut log = two_segments();
    log.checkpoint(SEGMENT, b"");
    log.mark = log.lsn;
    log.segment(2, 0, Origin::Recycled);
    log.enter(2);
    log.frame(&[b"seven"]);
    let tail = log.lsn;
    assert_eq!(&*log.at(tail, 4), b"walF", "an older frame stands there");
    log.at(tail + 20, 1)[0] ^= 1;
    let found = log.open().unwrap();
    assert_eq!((found.report.verdict, found.tail.lsn.get()), (Verdict::Clean, tail));
}

/// A log that a later version went on with: behind a torn frame stands one of a purpose that this version
/// does not know. It may prove that the torn one was acknowledged, and it may be a frame that counts. It
/// was not seen, the log was cut and opened, and from then on refused. It is refused at once, wherever it
/// stands; but not over a frame that is older than the log's last one, which is dead.
#[test]
fn a_frame_of_a_later_version_is_refused_wherever_it_stands() {
    let with_unknown = |is_torn: bool, is_older: bool| {
        let mut log = two_segments();
        let torn = log.frame(&[b"torn"]);
        let unknown = log.frame(&[b"of a later version"]);
        log.records.retain(|lsn, _| *lsn < torn);
        let header = log.at(unknown, 64);
        header[60..64].copy_from_slice(&9_u32.to_le_bytes());
        if is_older {
            header[32..40].copy_from_slice(&0_u64.to_le_bytes());
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[7; 16]);
        crc.update(&header[8..64]);
        header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        if is_torn {
            log.at(torn + 64, 1)[0] ^= 1;
        }
        (log, unknown)
    };
    for is_torn in [true, false] {
        let (log, unknown) = with_unknown(is_torn, false);
        let error = refused(&log);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(error.lsn(), Some(Lsn::new(unknown)), "{error}");
        assert!(with_unknown(is_torn, true).0.open().is_ok());
        // In a slot that lost its header: not free, and not of this version.
        let (mut log, _) = with_unknown(is_torn, false);
        log.at(SEGMENT, 1)[0] ^= 1;
        assert_eq!(refused(&log).kind(), ErrorKind::Unsupported);
    }
    // A frame that this version knows stands behind, and vouches for more than it can read.
    let (mut log, unknown) = with_unknown(false, false);
    log.mark = log.lsn;
    log.frame(&[b"knows"]);
    let error = refused(&log);
    assert_eq!((error.kind(), error.lsn()), (ErrorKind::Unsupported, Some(Lsn::new(unknown))));
}

/// Anybody can give a file a name. One like those of cut frames, with an epoch near the last one there can
/// be, made the next rise of the epoch the last one of the log.
#[test]
fn a_name_that_no_open_gave_has_no_epoch() {
    for name in ["cut-0-18446744069414584319", "cut-x-18446744073709551615", "cut-7-007", "cut-5"] {
        let mut log = two_segments();
        let tail = log.frame(&[b"unreadable"]);
        let storage = Flaky::new(log.storage());
        storage.create_file(name).unwrap();
        let place = tail % SEGMENT;
        storage.spoil(&slot_name(u32::try_from(tail / SEGMENT).unwrap()), place..place + BLOCK);
        let policy = Policy { unreadable_is_torn: true, ..policy() };
        let recovered = open(Arc::new(storage), &policy).unwrap();
        assert_eq!(recovered.epoch, (1 << 32) + log.epoch, "{name}");
    }
}
