//! The place itself changes: its sectors, whether it may be written, whether it is there at all.

use super::{
    Scene, Stop, expect,
    stand::{Build, Stand},
    work::{Ended, Work},
};
use crate::{
    machine::run_program,
    record::FileSystem,
    subject::{checksum, payload},
};
use serde_json::{Value, json};
use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use wal::{
    Error, ErrorKind,
    io::{Directory, Storage},
};

const RECORDS: u64 = 400;
/// Enough to be in the midst of when a program that was started then does its work.
const RECORDS_LOSING: u64 = 8000;
const AFTER: u64 = 60;
const BUSY_MAX: Duration = Duration::from_secs(10);

/// A disk whose sectors have 4096 bytes, where a shorter direct write is EINVAL. The log works and says
/// what it found. One that was made on sectors of 512 bytes is moved there: with blocks of 4096 bytes it
/// opens and goes on, with blocks of 512 bytes it is refused as unsupported, with both sizes named. A log
/// moved the other way opens.
pub(super) fn large_sectors(scene: &Scene<'_>) -> Result<Value, Stop> {
    let build = Build { sector_bytes: 4096, ..Build::of(scene.file_system) };
    let large = scene.stand_as("-4096", build)?;
    let small = scene.stand_as("-512", Build::of(scene.file_system))?;
    let mut profiles = Vec::new();
    for (stand, sector_bytes) in [(&large, 4096), (&small, 512)] {
        let work = scene.work(stand, "log", RECORDS);
        let wal = work.open()?;
        let ended = work.together(&wal, 0, || Ok(()))?;
        expect(ended.iter().all(|ended| ended.error().is_none()), || format!("{ended:?}"))?;
        wal.close()?;
        let directory = Directory::new(work.path());
        let (alignment, profile) = (directory.alignment(), directory.profile());
        if sector_bytes == 512 && profile.logical_block_bytes != 512 {
            return Err(Stop::Skipped(format!("no disk of 512-byte sectors: {profile:?}")));
        }
        expect(profile.direct && alignment.bytes() == sector_bytes, || {
            format!("on {sector_bytes}-byte sectors: {profile:?}, alignment {alignment:?}")
        })?;
        profiles.push(format!("{profile:?}"));
        work.check_recovered()?;
    }
    let fine = small.at().join("fine");
    let refused_here = make_fine(scene, &fine)?;
    expect(refused_here.is_none(), || format!("blocks of 512 bytes: {refused_here:?}"))?;
    let moved = large.at().join("moved");
    copy(&fine, &moved)?;
    let refused = make_fine(scene, &moved)?;
    let text = refused.as_ref().map(Error::to_string).unwrap_or_default();
    let is_said = refused.as_ref().map(Error::kind) == Some(ErrorKind::Unsupported)
        && text.contains("512")
        && text.contains("4096");
    expect(is_said, || format!("moved to larger sectors: {refused:?}"))?;
    let new = make_fine(scene, &large.at().join("new"))?;
    expect(new.as_ref().map(Error::kind) == Some(ErrorKind::Unsupported), || {
        format!("made on larger sectors: {new:?}")
    })?;
    for (from, to) in [(&small, &large), (&large, &small)] {
        let work = scene.work(from, "moving", RECORDS);
        let wal = work.open()?;
        work.alone(&wal, 30);
        wal.close()?;
        let work = work.moved_to(to.at().join("moved-whole"));
        copy(&from.at().join("moving"), work.path())?;
        work.check_recovered()?;
    }
    Ok(json!({ "profiles": profiles, "refused": text }))
}

/// Opens or makes a log with blocks of 512 bytes, and appends one record.
fn make_fine(scene: &Scene<'_>, path: &Path) -> Result<Option<Error>, Stop> {
    let options = wal::Options::new().segment_bytes(64 << 10).block_bytes(512);
    let append = || -> wal::Result<()> {
        let mut replay = options.open(path)?;
        while replay.next()?.is_some() {}
        let (wal, _) = replay.finish()?;
        wal.append(&payload(scene.seed, 0))?.wait()?;
        wal.close()
    };
    Ok(append().err())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The file system is shut down in the midst of four writers: from one moment to the next every call
/// answers EIO, and what was not durable is gone; once with its journal written out first, once without.
/// The log latches. After an unmount and a mount every acknowledged record is there.
pub(super) fn shutdown(scene: &Scene<'_>) -> Result<Value, Stop> {
    if let Err(error) = run_program("xfs_io", &["-V"]) {
        return Err(Stop::Skipped(format!("no xfs_io here: {error}")));
    }
    let mut found = Vec::new();
    for command in ["shutdown", "shutdown -f"] {
        let name = if command == "shutdown" { "-hard" } else { "-flushed" };
        let mut stand = scene.stand_as(name, Build::of(scene.file_system))?;
        let at = stand.at().to_path_buf();
        let shut =
            || run_program("xfs_io", &["-x", "-c", command, &at.to_string_lossy()]).map(drop);
        found.push(lose(scene, &mut stand, shut)?);
    }
    Ok(Value::Array(found))
}

/// Works until `trouble`, which ends all writing, and mounts again.
fn lose(
    scene: &Scene<'_>,
    stand: &mut Stand,
    trouble: impl FnOnce() -> io::Result<()> + Send,
) -> Result<Value, Stop> {
    let work = scene.work(stand, "log", RECORDS_LOSING);
    let wal = work.open()?;
    let ended = work.together(&wal, AFTER, trouble)?;
    let error = check_stopped(&work, &wal, &ended)?;
    drop(wal);
    stand.remount()?;
    let ledger = work.ledger();
    let end = work.check_recovered()?;
    Ok(json!({
        "begun": ledger.begun,
        "acknowledged": ledger.acknowledged,
        "recovered": end,
        "error": error,
    }))
}

fn check_stopped(work: &Work, wal: &wal::Wal, ended: &[Ended]) -> Result<String, Stop> {
    let error = work.check_latched(wal, ended)?;
    let read = work.check_readable_where_possible(wal)?;
    Ok(format!("{error}; {read}"))
}

/// ext4 finds an error of its own and makes itself read-only, in the midst of four writers: every write
/// answers EROFS from then on. The log latches, and reading goes on. After an unmount and a mount
/// every acknowledged record is there.
pub(super) fn emergency(scene: &Scene<'_>) -> Result<Value, Stop> {
    let build = Build { options: "errors=remount-ro", ..Build::of(scene.file_system) };
    let mut stand = scene.stand_as("", build)?;
    let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", stand.device_name());
    if !Path::new(&trigger).exists() {
        return Err(Stop::Skipped(format!("no {trigger} here")));
    }
    lose(scene, &mut stand, || fs::write(&trigger, "a fault that was asked for"))
}

/// A file system is mounted read-only. An open for writing is refused with the system's own reason and
/// leaves the log as it was; one for reading only gives every record.
pub(super) fn read_only(scene: &Scene<'_>) -> Result<Value, Stop> {
    let mut stand = scene.stand()?;
    let work = scene.work(&stand, "log", RECORDS);
    let wal = work.open()?;
    let ended = work.alone(&wal, 60);
    expect(ended.error().is_none(), || format!("{ended:?}"))?;
    wal.close()?;
    drop(wal);
    remount(&stand, "remount,ro")?;
    let refused = match work.options().open(work.path()) {
        Ok(replay) => Err(Stop::Bad(format!("opened for writing: {replay:?}"))),
        Err(error) => Ok(error),
    }?;
    let source = std::error::Error::source(&refused).map(ToString::to_string);
    expect(refused.kind() == ErrorKind::Io && source.is_some(), || format!("{refused:?}"))?;
    let count = read_only_records(scene, &work)?;
    let acknowledged = work.ledger().acknowledged;
    expect(count == acknowledged, || format!("{count} records of {acknowledged}"))?;
    let fresh = work.options().open(stand.at().join("new"));
    let kind = fresh.as_ref().err().map(Error::kind);
    expect(kind == Some(ErrorKind::Io), || format!("a new log: {fresh:?}"))?;
    remount(&stand, "remount,rw")?;
    stand.remount()?;
    let end = work.check_recovered()?;
    let is_ext4 = stand.file_system() == FileSystem::Ext4;
    expect(!is_ext4 || end == acknowledged, || format!("{end} records"))?;
    Ok(json!({ "refused": refused.to_string(), "records": count }))
}

/// Waits for the threads of a log that was just closed, which hold its files.
fn remount(stand: &Stand, options: &str) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match run_program("mount", &["-o", options, &stand.at().to_string_lossy()]) {
            Err(_) if start.elapsed() < BUSY_MAX => thread::sleep(Duration::from_millis(5)),
            done => return done.map(drop),
        }
    }
}

fn read_only_records(scene: &Scene<'_>, work: &Work) -> Result<u64, Stop> {
    let mut reader = work.options().open_read_only(work.path())?;
    let start = reader.start_mark();
    let mut records = reader.records_from(start)?;
    let mut count = 0;
    while let Some(record) = records.next()? {
        let is_right = checksum(record.payload()) == checksum(&payload(scene.seed, count));
        expect(is_right, || format!("record {count} has other bytes"))?;
        count += 1;
    }
    Ok(count)
}
