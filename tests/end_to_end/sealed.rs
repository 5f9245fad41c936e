//! Segments that are over, shipped whole to a follower.

use nix::sys::sendfile::sendfile;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
};
use wal::{
    ErrorKind, Lsn, Result, SealedSegment, Wal,
    io::{Directory, Memory, Storage},
};
use wal_tests::{
    Kept, eventually,
    fault::{Faulty, On},
    kind_of, open, quiet, replay,
};

const SEGMENT_BYTES: u64 = 64 << 10;

/// Appends `count` records that fill some segments.
fn append<S: Storage>(wal: &Wal<S>, count: u8) -> Vec<Kept> {
    let mut kept = Vec::new();
    for index in 0..count {
        let payload = vec![index; 2000 + 10 * usize::from(index)];
        kept.push((wal.append_untracked(&payload).unwrap(), payload));
    }
    wal.flush().unwrap();
    kept
}

/// A log with small segments, and the directory of a follower that knows which log it is.
fn leader_and_follower(directory: &Path) -> (Wal, PathBuf) {
    let (leader, follower) = (directory.join("leader"), directory.join("follower"));
    let wal = open(&quiet().segment_bytes(SEGMENT_BYTES), Directory::new(&leader)).unwrap();
    fs::create_dir(&follower).unwrap();
    fs::copy(leader.join("identity"), follower.join("identity")).unwrap();
    (wal, follower)
}

/// Has the kernel send what `follower` does not have over a socket.
fn ship(segments: &[SealedSegment], follower: &Path) {
    let (out, mut socket) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for segment in segments {
                let file = File::open(segment.path()).unwrap();
                let mut left = usize::try_from(SEGMENT_BYTES).unwrap();
                while left > 0 {
                    let sent = sendfile(&out, &file, None, left).unwrap();
                    assert!(sent > 0, "{segment:?} is {left} bytes too short");
                    left -= sent;
                }
            }
        });
        for segment in segments {
            let mut bytes = vec![0; usize::try_from(SEGMENT_BYTES).unwrap()];
            socket.read_exact(&mut bytes).unwrap();
            let name = segment.path().file_name().unwrap().to_owned();
            File::create(follower.join(name)).unwrap().write_all(&bytes).unwrap();
        }
    });
}

fn sealed<S: Storage>(wal: &Wal<S>, lsn: Lsn) -> Result<Vec<SealedSegment<S>>> {
    wal.sealed_segments(lsn)?.collect()
}

/// The records that an open of a copy of the log finds.
fn records(path: &Path) -> Vec<Kept> {
    replay(&quiet(), Directory::new(path)).unwrap().0
}

fn below(kept: &[Kept], end: Lsn) -> Vec<Kept> {
    kept.iter().filter(|(lsn, _)| *lsn < end).cloned().collect()
}

/// A follower gets every segment when it is over, and is asked to take the leader's place: it opens with all
/// that those segments hold, and is written to. Slots that the leader uses again come under the names that
/// they had.
#[test]
fn a_follower_that_got_the_sealed_segments_is_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let (wal, follower) = leader_and_follower(directory.path());
    let (mut kept, mut names) = (Vec::new(), BTreeSet::new());
    let (mut next, mut shipped) = (Lsn::ZERO, 0);
    for round in 0..4 {
        kept.extend(append(&wal, 100));
        let sealed = sealed(&wal, next).unwrap();
        assert!(sealed.len() > 2, "{sealed:?}");
        for segment in &sealed {
            assert_eq!(segment.base(), next);
            assert_eq!(segment.base().get(), segment.sequence() * SEGMENT_BYTES);
            next = segment.end();
        }
        assert!(next < wal.durable_lsn());
        ship(&sealed, &follower);
        names.extend(sealed.iter().map(SealedSegment::path));
        shipped += sealed.len();
        drop(sealed);
        // A copy of the copy: an open writes.
        let copy = directory.path().join(format!("round-{round}"));
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&follower).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let (found, promoted, report) = replay(&quiet(), Directory::new(&copy)).unwrap();
        let start_mark = report.start_mark;
        let due: Vec<_> = below(&kept, next).into_iter().filter(|it| it.0 >= start_mark).collect();
        assert!(found == due, "{} records of {}", found.len(), due.len());
        assert_eq!(report.log_id, wal.identity().log_id);
        promoted.append(b"the follower's own").unwrap().wait().unwrap();
        promoted.close().unwrap();
        assert_eq!(records(&copy).len(), due.len() + 1);
        // In a segment that comes with the next round.
        wal.checkpoint(next, b"").unwrap().wait().unwrap();
    }
    assert!(shipped > names.len(), "no slot was used again");
}

/// A follower that begins late gets what the leader still has. The checkpoint that says that the rest is not
/// needed stands in the leader's last segment: until that is over, the follower's log lacks what came before.
#[test]
fn a_late_follower_waits_for_the_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let (wal, follower) = leader_and_follower(directory.path());
    let mut kept = append(&wal, 150);
    let start_mark = kept[100].0;
    wal.checkpoint(start_mark, b"").unwrap().wait().unwrap();
    let first = sealed(&wal, wal.start_mark()).unwrap();
    assert!(first.len() > 1 && first[0].base() <= start_mark);
    ship(&first, &follower);
    let opened = quiet().open_in(Directory::new(&follower)).map(drop);
    assert_eq!(kind_of(opened), Some(ErrorKind::Corrupt));
    kept.extend(append(&wal, 150));
    let next = first.last().unwrap().end();
    let rest = sealed(&wal, next).unwrap();
    ship(&rest, &follower);
    let due = below(&kept[100..], rest.last().unwrap().end());
    assert!(records(&follower) == due);
}

/// A checkpoint releases segments that are just being sent, more than are kept for reuse or none of them
/// kept at all. Their bytes stay until that is over.
#[test]
fn a_sealed_segment_is_neither_reused_nor_given_back_under_its_reader() {
    for spare_bytes in [u64::MAX, 0] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wal");
        let options = quiet().segment_bytes(SEGMENT_BYTES).spare_bytes_max(spare_bytes);
        let wal = open(&options, Directory::new(&path)).unwrap();
        append(&wal, 100);
        let held = sealed(&wal, Lsn::ZERO).unwrap();
        let files: Vec<_> = held.iter().map(SealedSegment::path).collect();
        let before: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
        let release = || {
            wal.checkpoint(wal.durable_lsn(), b"").unwrap().wait().unwrap();
            append(&wal, 200);
        };
        for _ in 0..3 {
            release();
        }
        assert_eq!(kind_of(sealed(&wal, Lsn::ZERO)), Some(ErrorKind::Released));
        // Others were.
        if spare_bytes == 0 {
            eventually("a slot is given back", || wal.stats().slots_removed > 0);
        } else {
            eventually("a slot is used again", || wal.stats().segments_recycled > 0);
        }
        assert!(files.iter().zip(&before).all(|(path, before)| fs::read(path).unwrap() == *before));
        drop(held);
        if spare_bytes == 0 {
            eventually("they are given back", || {
                release();
                !files.iter().any(|path| path.exists())
            });
            continue;
        }
        eventually("they are used again", || {
            release();
            // Through the page cache, which has seen the bytes of before.
            files.iter().zip(&before).all(|(path, before)| fs::read(path).unwrap() != *before)
        });
        for segment in sealed(&wal, wal.start_mark()).unwrap() {
            let header = fs::read(segment.path()).unwrap();
            assert_eq!(header[32..40], segment.sequence().to_le_bytes(), "{segment:?}");
        }
    }
}

/// The log has moved on, and the last frames of the segment before are still being written. Who ships that
/// segment now ships a hole, and never asks for it again.
#[test]
fn a_segment_is_sealed_once_all_of_it_is_durable() {
    let disk = Faulty::new(Memory::new());
    let wal = open(&quiet().segment_bytes(SEGMENT_BYTES), disk.clone()).unwrap();
    assert!(sealed(&wal, Lsn::ZERO).unwrap().is_empty());
    append(&wal, 20);
    assert!(sealed(&wal, Lsn::ZERO).unwrap().is_empty(), "it is the last one");
    let gate = disk.control().gate(On::frame());
    let mut written = 0;
    while wal.appended_lsn().get() < SEGMENT_BYTES + 4096 {
        wal.append_untracked(&[7; 1000]).unwrap();
        written += 1;
    }
    assert!(written > 0);
    gate.wait_for(1);
    assert!(wal.durable_lsn().get() < SEGMENT_BYTES);
    assert!(sealed(&wal, Lsn::ZERO).unwrap().is_empty(), "frames of it are in flight");
    gate.open();
    wal.flush().unwrap();
    let over = sealed(&wal, Lsn::ZERO).unwrap();
    assert_eq!(over.iter().map(SealedSegment::sequence).collect::<Vec<_>>(), [0]);
    let inside = over[0].base().checked_add(5000).unwrap();
    assert_eq!(sealed(&wal, inside).unwrap().len(), 1, "the one that it lies in");
    assert!(sealed(&wal, over[0].end()).unwrap().is_empty());
    let past = wal.appended_lsn().checked_add(1).unwrap();
    assert_eq!(kind_of(sealed(&wal, past)), Some(ErrorKind::InvalidInput));
}
