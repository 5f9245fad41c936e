//! Places: file systems, devices with large sectors, disks that are full or may not be written.
//! Most of this needs root and loop devices; what cannot be made is skipped, loudly.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use crate::craft::{Records, append, kind, open, payload, read_all, skipped, small};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use wal::{
    ErrorKind, Lsn, VerifyVerdict,
    io::{Directory, Memory, Storage as _},
};

/// A file system that is there as long as this is.
struct Mount {
    dir: tempfile::TempDir,
    device: Option<String>,
}

/// Runs a command, and answers what it printed or what went wrong.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), complaint.trim()))
}

impl Mount {
    /// A tmpfs of `size`, as mount(8) writes sizes.
    fn tmpfs(size: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mount = Self { dir, device: None };
        let option = format!("size={size}");
        run("mount", &["-t", "tmpfs", "-o", &option, "none", mount.point()])?;
        Ok(mount)
    }

    /// A new file system of `kind` and `bytes` on a loop device with sectors of `sector_bytes`.
    fn device(kind: &str, sector_bytes: u32, bytes: u64) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = dir.path().with_extension("image");
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        let sector = sector_bytes.to_string();
        let image = image.to_str().unwrap();
        let attached = run("losetup", &["--find", "--show", "--sector-size", &sector, image]);
        // Unlinked at once: the device keeps it as long as it is attached.
        fs::remove_file(image).map_err(|error| error.to_string())?;
        let device = attached?;
        let mount = Self { dir, device: Some(device.clone()) };
        let quiet = if kind == "ext4" { "-qF" } else { "-qf" };
        run(&format!("mkfs.{kind}"), &[quiet, &device])?;
        run("mount", &["-t", kind, &device, mount.point()])?;
        Ok(mount)
    }

    fn point(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Not mounted, if making it failed. Lazily, for a thread may still hold a file.
        let _ = run("umount", &["--lazy", self.point()]);
        if let Some(device) = &self.device {
            let _ = run("losetup", &["--detach", device]);
        }
    }
}

/// The mount, or a loud word.
fn or_skip(mount: Result<Mount, String>) -> Option<Mount> {
    mount.map_err(|why| skipped(&why)).ok()
}

fn fill(path: &Path, records: usize) -> Records {
    let (_, wal, _) = open(&small(), &Directory::new(path)).unwrap();
    let records = (0..records).map(|number| append(&wal, &payload(number, 700 * number))).collect();
    wal.close().unwrap();
    records
}

/// A log on each file system that people use, and on one in memory: made, filled over several
/// segments, dropped, reopened, checkpointed, closed and verified.
#[test]
fn every_file_system_keeps_a_log() {
    let mounts = [
        ("ext4", or_skip(Mount::device("ext4", 512, 64 << 20))),
        ("xfs", or_skip(Mount::device("xfs", 512, 320 << 20))),
        ("btrfs", or_skip(Mount::device("btrfs", 4096, 256 << 20))),
        ("tmpfs", or_skip(Mount::tmpfs("16m"))),
    ];
    for (name, mount) in mounts {
        let Some(mount) = mount else { continue };
        let storage = Directory::new(mount.log());
        let (_, wal, report) = open(&small(), &storage).unwrap();
        assert!(report.profile.file_system.starts_with(&name[..3]), "{name}: {report}");
        let mut records: Records =
            (0..40).map(|number| append(&wal, &payload(number, 250 * number))).collect();
        drop(wal);
        let (found, wal, report) = open(&small(), &Directory::new(mount.log())).unwrap();
        assert_eq!(found, records, "{name}");
        assert!(report.segments > 2, "{name}: {report}");
        let mark = records[30].0;
        wal.checkpoint(Lsn::new(mark), b"thirty").unwrap().wait().unwrap();
        records.push(append(&wal, b"after"));
        wal.close().unwrap();
        drop(wal);
        let (found, report) = read_all(&small(), &Directory::new(mount.log())).unwrap();
        assert_eq!(found, records[30..], "{name}");
        assert!(report.clean_close, "{name}: {report}");
        let verified = small().open_read_only(mount.log()).unwrap().verify().unwrap();
        assert_eq!(verified.verdict, VerifyVerdict::Clean, "{name}: {verified:?}");
    }
}

/// A log with blocks of 512 bytes is copied to a disk whose sectors are 4096 bytes long: eight of
/// its blocks would share a sector, and each write would risk seven that are acknowledged. Refused,
/// with both numbers. The same blocks are fine where they were made.
#[test]
fn small_blocks_are_refused_on_large_sectors() {
    let Some(small_sectors) = or_skip(Mount::device("ext4", 512, 32 << 20)) else { return };
    let Some(large_sectors) = or_skip(Mount::device("ext4", 4096, 32 << 20)) else { return };
    let options = small().block_bytes(512);
    let (_, wal, report) = open(&options, &Directory::new(small_sectors.log())).unwrap();
    if !report.profile.direct {
        skipped("the loop device of 512-byte sectors has no direct I/O");
        return;
    }
    let record = append(&wal, b"in a small block");
    wal.close().unwrap();
    drop(wal);
    copy(&small_sectors.log(), &large_sectors.log());
    let before = names_and_bytes(&large_sectors.log());
    let refused = small().open(large_sectors.log()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    let text = refused.to_string();
    assert!(text.contains("512") && text.contains("4096"), "{text}");
    let mut after = names_and_bytes(&large_sectors.log());
    after.retain(|(name, _)| name != "lock");
    assert!(before.iter().filter(|(name, _)| name != "lock").eq(&after), "something was written");
    let created = options.open(large_sectors.dir.path().join("new")).unwrap_err();
    assert_eq!(created.kind(), ErrorKind::Unsupported, "{created}");
    let (found, _) = read_all(&options, &Directory::new(small_sectors.log())).unwrap();
    assert_eq!(found, [record]);
}

/// A log with blocks of 4096 bytes moves from a disk with small sectors to one with large ones and
/// back, and is written on both.
#[test]
fn log_moves_between_sector_sizes() {
    let Some(small_sectors) = or_skip(Mount::device("ext4", 512, 32 << 20)) else { return };
    let Some(large_sectors) = or_skip(Mount::device("ext4", 4096, 32 << 20)) else { return };
    let mut records = fill(&small_sectors.log(), 20);
    let mut last = small_sectors.log();
    let others = [large_sectors.log(), small_sectors.dir.path().join("back")];
    for (path, bytes) in others.into_iter().zip([4096, 512]) {
        copy(&last, &path);
        let (found, wal, report) = open(&small(), &Directory::new(&path)).unwrap();
        assert_eq!(found, records);
        if report.profile.direct {
            assert_eq!(report.profile.logical_block_bytes, bytes, "{report}");
        }
        records.push(append(&wal, &payload(99, 5000)));
        wal.close().unwrap();
        drop(wal);
        assert_eq!(read_all(&small(), &Directory::new(&path)).unwrap().0, records);
        last = path;
    }
}

/// A log of small lone commits takes the device's own blocks where they are small. It is created by the first
/// open and keeps what it got; another device's blocks, or none that anybody knows, make no difference to it.
#[test]
fn the_block_may_be_that_of_the_device() {
    let mounts = [
        (or_skip(Mount::device("ext4", 512, 32 << 20)), 512),
        (or_skip(Mount::device("ext4", 4096, 32 << 20)), 4096),
        (or_skip(Mount::tmpfs("32m")), 4096),
    ];
    for (mount, block_bytes) in mounts {
        let Some(mount) = mount else { continue };
        let directory = Directory::new(mount.log());
        assert_eq!(directory.physical_block_bytes(), block_bytes);
        let (_, wal, _) = open(&small().block_of_device(), &directory).unwrap();
        assert_eq!(wal.identity().block_bytes, block_bytes);
        let before = wal.durable_lsn();
        let record = append(&wal, b"alone");
        assert_eq!(wal.durable_lsn().get().next_multiple_of(block_bytes.into()) - before.get(), {
            u64::from(block_bytes)
        });
        wal.close().unwrap();
        drop(wal);
        let (found, wal, _) = open(&small(), &directory).unwrap();
        assert_eq!((found, wal.identity().block_bytes), (vec![record], block_bytes));
    }
}

/// A log of small segments, with the blocks of its disk, was copied to a disk whose blocks are larger. No log
/// of such sizes can be made there; this one is there already. It was refused with the settings that made it.
#[test]
fn sizes_are_held_against_the_device_only_where_a_log_is_made() {
    let storage = Memory::new();
    let (_, wal, _) = open(&small().segment_bytes(16 << 10).block_bytes(512), &storage).unwrap();
    let record = append(&wal, b"first");
    wal.close().unwrap();
    drop(wal);
    let of_device = small().segment_bytes(16 << 10).block_of_device();
    assert!(storage.physical_block_bytes() > 1024);
    let (found, _) = read_all(&of_device, &storage).unwrap();
    assert_eq!(found, [record]);
    let new = Memory::new();
    let refused = of_device.open_in(new.clone());
    assert_eq!(kind(&refused), Some(ErrorKind::InvalidInput), "{refused:?}");
    assert!(new.list().is_err(), "something was made");
    // What no disk has room for is refused everywhere.
    for segment_bytes in [15 * 512, (16 << 10) + 256, 512 << 20] {
        let refused =
            small().segment_bytes(segment_bytes).block_of_device().open_in(storage.clone());
        assert_eq!(kind(&refused), Some(ErrorKind::InvalidInput), "{refused:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for (name, bytes) in names_and_bytes(from) {
        fs::write(to.join(name), bytes).unwrap();
    }
}

fn names_and_bytes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort_unstable();
    names.into_iter().map(|name| (name.clone(), fs::read(path.join(name)).unwrap())).collect()
}

/// The file system is mounted for reading only, as it is after an error or in a container. Opening
/// for writing says so; reading works.
#[test]
fn read_only_file_system_can_be_read() {
    let mounts = [or_skip(Mount::tmpfs("16m")), or_skip(Mount::device("ext4", 512, 32 << 20))];
    for mount in mounts.into_iter().flatten() {
        let records = fill(&mount.log(), 12);
        if let Err(why) = run("mount", &["-o", "remount,ro", mount.point()]) {
            skipped(&why);
            continue;
        }
        for path in [mount.log(), mount.dir.path().join("new")] {
            let refused = small().open(&path).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Io, "{refused:?}");
            assert!(refused.path().is_some(), "{refused:?}");
            let source = std::error::Error::source(&refused).expect("the system's own answer");
            assert!(source.to_string().contains("ead-only"), "{source}");
        }
        let mut log = small().open_read_only(mount.log()).unwrap();
        let mut found = Records::new();
        let mut reading = log.records_from(Lsn::ZERO).unwrap();
        while let Some(record) = reading.next().unwrap() {
            found.push((record.lsn().get(), record.payload().to_vec()));
        }
        assert_eq!(found, records);
        assert_eq!(log.verify().unwrap().verdict, VerifyVerdict::Clean);
    }
}

/// The log's directory is a link to a disk that is not mounted. Nothing can be made there, and "it exists
/// already" would send the user to look for a log.
#[test]
fn a_link_to_nowhere_is_no_directory() {
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join("log");
    std::os::unix::fs::symlink(place.path().join("not mounted"), &link).unwrap();
    let error = wal::Options::new().open(&link).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Unsupported, Some(&*link)), "{error}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

/// Disks so small that the log fills them: appends are refused, what was acknowledged stays,
/// through a crash and a reopen on the full disk, and a checkpoint lets it go on.
#[test]
fn full_disk_is_survived() {
    let mounts = [
        or_skip(Mount::tmpfs("1m")),
        or_skip(Mount::tmpfs("150k")),
        or_skip(Mount::device("ext4", 512, 3 << 20)),
        or_skip(Mount::device("ext4", 4096, 4 << 20)),
    ];
    for mount in mounts.into_iter().flatten() {
        let (_, wal, _) = open(&small(), &Directory::new(mount.log())).unwrap();
        let mut records = Records::new();
        let refused = loop {
            match wal.append(&payload(records.len(), 3000)) {
                Ok(ticket) => {
                    let lsn = ticket.wait().unwrap();
                    records.push((lsn.get(), payload(records.len(), 3000)));
                }
                Err(error) => break error,
            }
            assert!(records.len() < 4000, "a disk of a few megabytes holds no end of records");
        };
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
        drop(wal);
        let (found, wal, _) = open(&small(), &Directory::new(mount.log())).unwrap();
        assert_eq!(found, records);
        let last = records.last().unwrap().clone();
        wal.checkpoint(Lsn::new(last.0), b"").unwrap().wait().unwrap();
        wal.close().unwrap();
        drop(wal);
        let (found, wal, _) = open(&small(), &Directory::new(mount.log())).unwrap();
        assert_eq!(found, [last]);
        if records.len() > 50 {
            append(&wal, &payload(1, 3000));
        }
        wal.close().unwrap();
    }
}

/// A disk too small for a log at all, or full from the start.
#[test]
fn creation_on_a_full_disk_says_so_and_can_be_repeated() {
    let Some(mount) = or_skip(Mount::tmpfs("256k")) else { return };
    let ballast = mount.dir.path().join("ballast");
    fs::write(&ballast, vec![1; 200 << 10]).unwrap();
    let outcome = small().open(mount.log());
    assert_eq!(kind(&outcome), Some(ErrorKind::NoSpace), "{outcome:?}");
    fs::remove_file(ballast).unwrap();
    let records = fill(&mount.log(), 3);
    let (found, _) = read_all(&small(), &Directory::new(mount.log())).unwrap();
    assert_eq!(found, records);
}
