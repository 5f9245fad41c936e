//! A log that cannot be opened just now: something is short, and the program tries again with what it has.

use crate::{
    craft::{
        BLOCK_BYTES, Disk, Entry, Image, Pen, SEGMENT_BYTES, payload, records_of, save, small,
    },
    resurrection::{Promise, lost_second_of_three},
};
use std::time::Duration;
use wal::{
    ErrorKind, Lsn, Options, Replay, Verdict, Wal,
    format::{Origin, Purpose},
    io::{Directory, Memory},
};
use wal_tests::{
    Kept, eventually,
    fault::{EAGAIN, EIO, ENOSPC, Fault, Faulty, On, Verb},
    kind_of, quiet, replay,
};

/// `ENOMEM`, `ENFILE`, `EMFILE`, `EFBIG` and `EDQUOT` of Linux, and the two that have names here.
const SHORTAGES: [i32; 7] = [ENOSPC, EAGAIN, 12, 23, 24, 27, 122];

/// What a finish may do before the frame at the tail is written.
const BEFORE_THE_OPENING: [Verb; 7] = [
    Verb::CreateFile,
    Verb::Write,
    Verb::Read,
    Verb::Sync,
    Verb::Rename,
    Verb::SyncDir,
    Verb::Spawn,
];

fn opened(image: &Image, options: &Options) -> (Faulty<Memory>, Replay<Faulty<Memory>>) {
    let disk = Faulty::new(crate::craft::load(image));
    let mut replay = options.open_in(disk.clone()).unwrap();
    while replay.next().unwrap().is_some() {}
    (disk, replay)
}

/// Nothing is left of a call that was refused but the lock.
fn assert_is_held(disk: &Faulty<Memory>, options: &Options) {
    eventually("no thread of the log is left", || disk.control().threads() == 0);
    let patient = options.clone().lock_timeout(Duration::from_secs(3600));
    assert_eq!(kind_of(patient.open_in(disk.clone())), Some(ErrorKind::Locked));
}

fn assert_goes_on(disk: &Faulty<Memory>, wal: Wal<Faulty<Memory>>, kept: &[Kept]) {
    let lsn = wal.append(b"goes on").unwrap().wait().unwrap();
    drop(wal);
    let (found, ..) = replay(&small(), disk.crash()).unwrap();
    let mut expected = kept.to_vec();
    expected.push((lsn, b"goes on".to_vec()));
    assert_eq!(found, expected);
}

fn kept(records: crate::craft::Records) -> Vec<Kept> {
    records.into_iter().map(|(lsn, payload)| (Lsn::new(lsn), payload)).collect()
}

/// A log with a torn tail is opened while the process has no descriptor, no memory, no thread left, or the disk
/// no room, at any step: the frames above the cut are half copied, or the copy has its name and the directory
/// was not synced. The program had to drop all that it had replayed and read the log again.
#[test]
fn a_finish_that_met_a_shortage_is_called_again() {
    let (log, frames) = lost_second_of_three(Promise::Nothing);
    let records = kept(records_of(&frames[..1]));
    let above = &frames[2].bytes;
    for errno in SHORTAGES {
        for verb in BEFORE_THE_OPENING {
            let what = format!("{verb:?}, errno {errno}");
            let (disk, mut replay) = opened(&log.image, &small());
            disk.control().fail(Fault::sticky(On::every(verb), errno));
            for _ in 0..3 {
                let error = replay.finish().map(drop).expect_err(&what);
                assert!(
                    matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Io),
                    "{what}: {error}"
                );
                assert_eq!(replay.report().verdict, Verdict::TornTail, "{what}");
                assert!(replay.next().unwrap().is_none());
                assert_is_held(&disk, &small());
            }
            disk.control().heal();
            let (wal, report) = replay.finish().expect(&what);
            let cut = report.cut.clone().unwrap();
            assert_eq!((cut.at.get(), cut.intact_frames), (frames[1].lsn, 1), "{what}");
            let image = save(&disk.crash());
            let name = cut.kept_in.expect(&what);
            assert!(image[&name].windows(above.len()).any(|bytes| bytes == above), "{what}");
            assert!(!image.keys().any(|name| name.ends_with(".tmp")), "{what}");
            assert_goes_on(&disk, wal, &records);
        }
    }
}

/// The copy of what is cut had its name when the sync of the directory was refused. To sync once more proves
/// nothing about what the first one may have dropped: the copy is made anew.
#[test]
fn a_copy_whose_name_was_not_synced_is_made_again() {
    let (log, frames) = lost_second_of_three(Promise::Nothing);
    let (disk, mut replay) = opened(&log.image, &small());
    let control = disk.control();
    control.fail(Fault::once(On::every(Verb::SyncDir), ENOSPC));
    assert_eq!(kind_of(replay.finish()), Some(ErrorKind::NoSpace));
    let (writes, syncs) = (control.count(Verb::Write), control.count(Verb::Sync));
    let (wal, _) = replay.finish().unwrap();
    assert_eq!(control.count(Verb::Write), 2 * writes);
    assert!(control.count(Verb::Sync) > syncs);
    assert_goes_on(&disk, wal, &kept(records_of(&frames[..1])));
}

/// The last segment is full to its end, so that the frame that fixes the verdict needs the next one, and
/// there is no descriptor for it: the thread that makes segments answers, and has to be gone after that.
#[test]
fn a_finish_that_needs_a_segment_is_called_again() {
    let mut log = Disk::new();
    log.segment(0, 0, Origin::Zeroed);
    let mut pen = Pen::new(&log, 0);
    let mut frames = Vec::new();
    while pen.lsn < SEGMENT_BYTES {
        frames.push(pen.frame(Purpose::Records, &[Entry::Data(&payload(frames.len(), 3000))]));
        pen.vouch();
    }
    assert_eq!(pen.lsn, SEGMENT_BYTES, "{BLOCK_BYTES} bytes a frame");
    for frame in &frames {
        log.put(frame.lsn, &frame.bytes);
    }
    // Where there is no room, the frame may be left out: nothing was cut.
    for errno in SHORTAGES.into_iter().filter(|errno| ![ENOSPC, 27, 122].contains(errno)) {
        for on in [On::every(Verb::CreateFile), On::every(Verb::Sync), On::segment_header()] {
            let (disk, mut replay) = opened(&log.image, &small());
            disk.control().fail(Fault::sticky(on.clone(), errno));
            for _ in 0..2 {
                let error = replay.finish().map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io, "{on:?}, errno {errno}: {error}");
                assert_is_held(&disk, &small());
            }
            disk.control().heal();
            let (wal, report) = replay.finish().unwrap();
            assert_eq!((report.verdict, report.tail.get()), (Verdict::Clean, SEGMENT_BYTES));
            assert_goes_on(&disk, wal, &kept(records_of(&frames)));
        }
    }
}

/// A write failed. What the disk holds now is unknown: whoever tries again with the same replay would believe
/// what was read before. Every later call answers that failure, though the disk has healed.
#[test]
fn a_finish_that_met_a_failed_write_is_over() {
    let (log, frames) = lost_second_of_three(Promise::Nothing);
    let steps = [
        (On::every(Verb::Write), ErrorKind::Io),
        (On::every(Verb::Sync), ErrorKind::Io),
        (On::every(Verb::SyncDir), ErrorKind::Io),
        (On::frame(), ErrorKind::Latched),
    ];
    for (on, kind) in steps {
        let (disk, mut replay) = opened(&log.image, &small());
        let control = disk.control();
        control.fail(Fault::once(on.clone(), EIO));
        let first = replay.finish().map(drop).unwrap_err();
        assert_eq!(first.kind(), kind, "{on:?}: {first}");
        assert!(first.to_string().contains("os error 5"), "{on:?}: {first}");
        let written = control.writes_and_syncs();
        for _ in 0..3 {
            let again = replay.finish().map(drop).unwrap_err();
            assert_eq!((again.kind(), again.to_string()), (kind, first.to_string()), "{on:?}");
        }
        assert_eq!(control.writes_and_syncs(), written, "{on:?}");
        eventually("no thread of the log is left", || control.threads() == 0);
        // What is left holds nothing: the log is read again beside it.
        let (found, wal, _) = wal_tests::replay(&small(), disk.clone()).unwrap();
        assert_eq!(found, kept(records_of(&frames[..1])), "{on:?}");
        assert_goes_on(&disk, wal, &found);
        assert_eq!(replay.report().verdict, Verdict::TornTail, "{on:?}");
    }
}

/// Durable writes are timed when the frame at the tail is durable, and a shortage then cannot be answered: the
/// call would begin again behind its own frame. They are made as they were for that frame. A write that fails
/// is what it is everywhere.
#[test]
fn a_probe_without_memory_is_no_failure() {
    for errno in SHORTAGES.into_iter().chain([EIO]) {
        let (disk, mut replay) = opened(&Image::new(), &quiet());
        disk.control().fail(Fault::once(On::every(Verb::Probe), errno));
        match replay.finish() {
            Ok((wal, _)) => assert_goes_on(&disk, wal, &[]),
            Err(error) => {
                assert_eq!((error.kind(), errno), (ErrorKind::Latched, EIO), "{error}");
                let again = replay.finish().map(drop).unwrap_err();
                assert_eq!(again.to_string(), error.to_string());
            }
        }
        assert_eq!(disk.control().count(Verb::Probe), 1);
    }
}

/// A program keeps its replay, for the report, as long as it keeps the log. It must pin nothing: a file that it
/// held open kept a file system from being unmounted, and a slot from being used again.
#[test]
fn a_replay_that_gave_the_log_holds_nothing_and_still_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let open_files = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let here = |fd: &std::fs::DirEntry| {
            std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(&path))
        };
        fds.filter(here).count()
    };
    let wal = wal_tests::open(&quiet(), Directory::new(&path)).unwrap();
    let mark = wal.append(&[3; 9000]).unwrap().wait().unwrap();
    drop(wal.append(&[4; 9000]).unwrap());
    wal.checkpoint(mark, b"state").unwrap().wait().unwrap();
    wal.close().unwrap();
    drop(wal);

    let mut replay = quiet().open(&path).unwrap();
    while replay.next().unwrap().is_some() {}
    assert!(open_files() > 0);
    let (wal, report) = replay.finish().unwrap();
    for _ in 0..2 {
        assert_eq!(kind_of(replay.finish()), Some(ErrorKind::InvalidInput));
        assert!(replay.next().unwrap().is_none());
    }
    wal.append(b"not disturbed").unwrap().wait().unwrap();
    wal.close().unwrap();
    drop(wal);
    assert_eq!(open_files(), 0);
    assert_eq!(replay.report().epoch, report.epoch);
    assert_eq!(replay.report().profile, report.profile);
    assert_eq!(replay.start_mark(), mark);
    assert_eq!(replay.checkpoint().map(|found| found.state), Some(&b"state"[..]));
    wal_tests::open(&quiet(), Directory::new(&path)).unwrap();
}
