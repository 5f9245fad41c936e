//! On a real disk: the build directory, for a temporary one is often not.

use super::*;
use std::{io::Write as _, process};
use tempfile::TempDir;

const BLOCK: usize = 4096;
const LENGTH: u64 = 4096;

fn on_disk() -> TempDir {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/io-tests");
    fs::create_dir_all(&target).unwrap();
    TempDir::new_in(target).unwrap()
}

fn blocks(count: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(Alignment::BLOCK_4096, count * BLOCK).unwrap();
    buffer.as_mut_slice().fill(byte);
    buffer
}

fn round_trip(directory: &Directory) {
    let file = directory.create_file("a").unwrap();
    let (mut written, mut read) = (blocks(3, 7), blocks(4, 9));
    file.write_at(written.as_mut_slice(), 0).unwrap();
    file.sync().unwrap();
    written.as_mut_slice()[BLOCK..2 * BLOCK].fill(8);
    file.write_durable_at(&written.as_mut_slice()[BLOCK..2 * BLOCK], LENGTH).unwrap();
    file.drop_cache().unwrap();
    drop(file);

    directory.rename("a", "b").unwrap();
    directory.sync_dir().unwrap();
    let file = directory.open("b", Access::Read).unwrap();
    assert_eq!((file.len().unwrap(), file.links().unwrap()), (3 * LENGTH, 1));
    assert_eq!(file.read_at(read.as_mut_slice(), 0).unwrap(), 3 * BLOCK);
    assert_eq!(read.as_mut_slice()[..3 * BLOCK], *written.as_mut_slice());
    assert_eq!(file.read_at(read.as_mut_slice(), 3 * LENGTH).unwrap(), 0);
    assert!(file.write_at(written.as_mut_slice(), 0).is_err());
}

#[test]
fn bytes_come_back_through_direct_io() {
    let place = on_disk();
    let directory = Directory::new(place.path());
    directory.create().unwrap();
    // Known before there is a file, and left behind by nothing.
    assert!(directory.alignment().bytes() >= 512);
    assert_eq!(directory.list().unwrap(), Vec::<String>::new());
    round_trip(&directory);
    assert!(directory.profile().direct, "{:?}", directory.profile());
    assert!(directory.depth_max() > 1);
}

#[test]
fn bytes_come_back_through_the_page_cache() {
    let place = on_disk();
    let directory = Directory::buffered(place.path());
    round_trip(&directory);
    assert_eq!((directory.depth_max(), directory.alignment()), (1, Alignment::ANY));
    let file = directory.open("b", Access::ReadWrite).unwrap();
    directory.probe(&file, 0, LENGTH).unwrap();
    let Profile { method, direct, .. } = directory.profile();
    assert_eq!((method, direct), (DurableMethod::WriteThenSync, false));
}

#[test]
fn a_file_system_in_memory_works_as_well() {
    let Ok(place) = TempDir::new_in("/dev/shm") else {
        // Past the test's own capture: a skip must be seen.
        io::stderr().write_all(b"SKIPPED: a log in memory: there is no /dev/shm\n").unwrap();
        return;
    };
    let directory = Directory::new(place.path());
    directory.create().unwrap();
    round_trip(&directory);
    let file = directory.open("b", Access::ReadWrite).unwrap();
    directory.probe(&file, 0, LENGTH).unwrap();
    let Profile { method, file_system, .. } = directory.profile();
    assert_eq!((method, file_system.as_str()), (DurableMethod::WriteThenSync, "tmpfs"));
}

#[test]
fn what_is_misaligned_never_reaches_the_kernel() {
    let place = on_disk();
    let directory = Directory::new(place.path());
    directory.create().unwrap();
    let file = directory.create_file("a").unwrap();
    let mut buffer = blocks(2, 1);
    let buffer = buffer.as_mut_slice();
    let answers = [
        file.write_at(&buffer[..BLOCK], 1),
        file.write_at(&buffer[..BLOCK - 1], 0),
        file.write_durable_at(&buffer[1..=BLOCK], 0),
        file.read_at(&mut buffer[1..=BLOCK], 0).map(drop),
    ];
    for answer in answers {
        let error = answer.unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (io::ErrorKind::InvalidInput, None));
    }
    assert_eq!(file.len().unwrap(), 0);
}

#[test]
fn a_file_that_ends_inside_a_block_is_read_to_its_end() {
    let place = on_disk();
    let directory = Directory::new(place.path());
    directory.create().unwrap();
    let file = directory.create_file("a").unwrap();
    file.write_at(blocks(2, 5).as_mut_slice(), 0).unwrap();
    file.set_len(LENGTH + 100).unwrap();
    let mut read = blocks(3, 0);
    assert_eq!(file.read_at(read.as_mut_slice(), 0).unwrap(), BLOCK + 100);
    assert!(read.as_mut_slice()[..BLOCK + 100].iter().all(|byte| *byte == 5));
}

#[test]
fn a_reader_writes_nothing() {
    let place = on_disk();
    let path = place.path();
    let directory = Directory::new(path);
    assert_eq!(directory.alignment(), Alignment::BLOCK_4096);
    fs::write(path.join("small"), "x").unwrap();
    let entries = || fs::read_dir(path).unwrap().count();
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let file = directory.open("small", Access::Read).unwrap();
    assert_eq!(file.read_at(blocks(1, 0).as_mut_slice(), 0).unwrap(), 1);
    assert_eq!((entries(), fs::metadata(path).unwrap().modified().unwrap()), (1, modified));
    let missing = Directory::new(path.join("none"));
    assert_eq!(missing.list().unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(missing.open("a", Access::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(entries(), 1);
}

#[test]
fn the_directory_is_made_with_all_above_it() {
    let place = on_disk();
    let directory = Directory::new(place.path().join("a/b/c"));
    directory.create().unwrap();
    directory.create().unwrap();
    assert!(directory.path().is_dir());

    fs::write(place.path().join("file"), "").unwrap();
    for path in ["file", "file/below"] {
        let error = Directory::new(place.path().join(path)).create().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{path}");
    }
}

#[test]
fn a_probe_is_remembered_until_its_file_is_damaged() {
    let place = on_disk();
    let probed = |expected: bool| {
        let directory = Directory::new(place.path());
        directory.create().unwrap();
        assert_eq!(directory.profile().method, DurableMethod::WriteThenSync);
        let file = directory.open("a", Access::ReadWrite).unwrap();
        directory.probe(&file, LENGTH, 8 * LENGTH).unwrap();
        let mut first = blocks(1, 0);
        file.read_at(first.as_mut_slice(), 0).unwrap();
        assert_eq!(first.as_mut_slice()[0], 3, "written outside the range");
        let profile = directory.profile();
        assert_eq!(profile.remembered, expected);
        profile
    };
    let directory = Directory::new(place.path());
    directory.create().unwrap();
    directory.create_file("a").unwrap().write_at(blocks(9, 3).as_mut_slice(), 0).unwrap();

    let first = probed(false);
    if !place.path().join(probe::PROBE_NAME).exists() {
        return; // A file system that is not trusted with RWF_DSYNC.
    }
    assert!(first.write_dsync.is_some() && first.write_then_sync.is_some());
    assert_eq!(probed(true), Profile { remembered: true, ..first });

    let file = place.path().join(probe::PROBE_NAME);
    let whole = fs::read(&file).unwrap();
    for bad in [&whole[..whole.len() / 2], &whole[1..], b"", &[0xff; 9000]] {
        fs::write(&file, bad).unwrap();
        probed(false);
    }
}

#[test]
fn zeros_are_written_or_left_to_the_caller() {
    let place = on_disk();
    let directory = Directory::new(place.path());
    directory.create().unwrap();
    let file = directory.create_file("a").unwrap();
    let written = file.write_zeroes(0, 4 * LENGTH).unwrap();
    assert_eq!(file.len().unwrap(), if written { 4 * LENGTH } else { 0 });
    file.set_len(4 * LENGTH).unwrap();
    assert_eq!(file.read_at(blocks(4, 1).as_mut_slice(), 0).unwrap(), 4 * BLOCK);
}

#[test]
fn the_lock_is_exclusive_here_and_through_any_path() {
    let place = on_disk();
    let link = place.path().join("link");
    let real = place.path().join("real");
    let directory = Directory::new(&real);
    directory.create().unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();

    let lock = directory.lock().unwrap();
    for path in [&real, &link] {
        let refused = Directory::new(path).lock();
        assert!(matches!(refused, Err(LockError::Held { pid }) if pid == Some(process::id())));
    }
    // Another process: `flock` exits with 1 if it would have to wait.
    for path in [real.clone(), real.join("lock")] {
        let other = process::Command::new("flock").arg("-n").arg(path).arg("true").status();
        assert!(other.map_or(true, |status| status.code() == Some(1)));
    }
    drop(lock);
    let again = directory.lock().unwrap();
    let written = fs::read_to_string(real.join("lock")).unwrap();
    assert_eq!(written, format!("{}\n", process::id()));
    drop(again);
}

/// A log that has ended holds the lock while its last writes are under way. Whoever opens anew here can
/// tell that from one that goes on; a second process cannot, and the next holder is not taken for the last.
#[test]
fn a_log_that_has_ended_is_told_from_one_that_goes_on() {
    let place = on_disk();
    let directory = Directory::new(place.path());
    for _ in 0..2 {
        let lock = directory.lock().unwrap();
        assert!(matches!(directory.lock(), Err(LockError::Held { .. })));
        directory.ending(&lock);
        for _ in 0..2 {
            assert!(matches!(Directory::new(place.path()).lock(), Err(LockError::Ending)));
        }
        let other = process::Command::new("flock").arg("-n").arg(place.path()).arg("true").status();
        assert!(other.map_or(true, |status| status.code() == Some(1)), "it is still held");
        drop(lock);
    }
    assert!(directory.processors() > 0);
}

#[test]
fn a_holder_in_another_process_is_named() {
    let place = on_disk();
    let directory = Directory::new(place.path());
    fs::write(place.path().join("lock"), "12345\n").unwrap();
    for held in [place.path().to_owned(), place.path().join("lock")] {
        let holder = fs::File::open(held).unwrap();
        // A lock of another open file is a lock of another, whichever process it is in.
        holder.lock().unwrap();
        let refused = directory.lock();
        assert!(matches!(refused, Err(LockError::Held { pid: Some(12345) })), "{refused:?}");
        drop(holder);
    }
    drop(directory.lock().unwrap());
    let missing = Directory::new(place.path().join("none")).lock();
    assert!(
        matches!(missing, Err(LockError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
    );
}

#[test]
fn a_short_write_goes_on_and_a_stuck_one_is_an_error() {
    let bytes = vec![1; 4 * BLOCK];
    let mut calls = Vec::new();
    let mut answers = vec![Ok(2 * BLOCK), Err(io::ErrorKind::Interrupted.into()), Ok(BLOCK)];
    let written = write_all(Alignment::BLOCK_4096, &bytes, LENGTH, |rest, offset| {
        calls.push((rest.len() / BLOCK, offset / LENGTH));
        answers.pop().unwrap_or(Ok(rest.len()))
    });
    written.unwrap();
    assert_eq!(calls, [(4, 1), (3, 2), (3, 2), (1, 4)]);

    let stuck = write_all(Alignment::BLOCK_4096, &bytes, 0, |_, _| Ok(0));
    assert_eq!(stuck.unwrap_err().kind(), io::ErrorKind::WriteZero);
    let torn = write_all(Alignment::BLOCK_4096, &bytes, 0, |_, _| Ok(100));
    assert!(torn.is_err());
    let past_the_end = write_all(Alignment::ANY, &bytes, u64::MAX, |_, _| Ok(1));
    assert_eq!(past_the_end.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
