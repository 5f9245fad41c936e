//! Faults planted on purpose: each has to be found, or the exploration finds nothing at all.

use aligned::Alignment;
use std::{io, path::PathBuf, time::Duration};
use wal::io::{Access, File, Host, LockError, Profile, Storage, Wake, Word};
use wal_sim::{Disk, DiskFile, DiskLock, Explorer, Failure, LogProgram};

/// What is wrong with a [`Broken`] storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    Nothing,
    SyncDir,
    Sync,
    WriteDurable,
    /// A write that fails is said to have been done: an error swallowed on the way.
    ShortRead,
}

/// A storage between the log and the disk that forgets something.
#[derive(Clone)]
struct Broken {
    disk: Disk,
    bug: Bug,
}

struct BrokenFile {
    file: DiskFile,
    bug: Bug,
}

impl Host for Broken {
    fn now(&self) -> Duration {
        self.disk.now()
    }

    fn unix_time(&self) -> Duration {
        self.disk.unix_time()
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }

    fn sleep(&self, time: Duration) {
        self.disk.sleep(time);
    }

    fn yield_now(&self) {
        self.disk.yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.disk.spawn(name, work)
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        self.disk.wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        self.disk.wake(word, who);
    }

    fn processors(&self) -> u32 {
        self.disk.processors()
    }
}

impl Broken {
    fn file(&self, file: io::Result<DiskFile>) -> io::Result<BrokenFile> {
        file.map(|file| BrokenFile { file, bug: self.bug })
    }
}

impl Storage for Broken {
    type File = BrokenFile;
    type Lock = DiskLock;

    fn create(&self) -> io::Result<()> {
        self.disk.create()
    }

    fn lock(&self) -> Result<DiskLock, LockError> {
        self.disk.lock()
    }

    fn ending(&self, lock: &DiskLock) {
        self.disk.ending(lock);
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<BrokenFile> {
        self.file(self.disk.open(name, access))
    }

    fn create_file(&self, name: &str) -> io::Result<BrokenFile> {
        self.file(self.disk.create_file(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        if self.bug == Bug::SyncDir { Ok(()) } else { self.disk.sync_dir() }
    }

    fn alignment(&self) -> Alignment {
        self.disk.alignment()
    }

    fn physical_block_bytes(&self) -> u32 {
        self.disk.physical_block_bytes()
    }

    fn depth_max(&self) -> u32 {
        self.disk.depth_max()
    }

    fn probe(&self, file: &BrokenFile, offset: u64, bytes: u64) -> io::Result<()> {
        self.disk.probe(&file.file, offset, bytes)
    }

    fn profile(&self) -> Profile {
        self.disk.profile()
    }

    fn path(&self) -> PathBuf {
        self.disk.path()
    }
}

impl File for BrokenFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        Ok(if self.bug == Bug::ShortRead { read.min(4096) } else { read })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.bug == Bug::WriteDurable {
            return self.file.write_at(bytes, offset);
        }
        self.file.write_durable_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.bug == Bug::Sync { Ok(()) } else { self.file.sync() }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        self.file.write_zeroes(offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn links(&self) -> io::Result<u64> {
        self.file.links()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}

fn explore(bug: Bug) -> Option<Failure> {
    let program = LogProgram::new(move |disk| Broken { disk, bug });
    program.explore(&Explorer::new(6).states(4000)).err()
}

#[test]
fn a_storage_that_forgets_nothing_passes() {
    let failure = explore(Bug::Nothing);
    assert!(failure.is_none(), "{}", failure.unwrap());
}

/// The kind of fault that one file system shows and another hides.
#[test]
fn a_directory_that_is_not_synced_is_found() {
    let failure = explore(Bug::SyncDir).unwrap();
    assert!(failure.to_string().contains("state="), "{failure}");
}

#[test]
fn a_sync_that_does_nothing_is_found() {
    explore(Bug::Sync).unwrap();
}

#[test]
fn a_durable_write_that_is_not_is_found_and_made_small() {
    let failure = explore(Bug::WriteDurable).unwrap();
    let place = failure.place().to_string();
    assert!(place.contains("writers=1"), "one writer is enough to show it: {place}");
}

#[test]
fn a_read_that_ends_early_is_found() {
    explore(Bug::ShortRead).unwrap();
}
