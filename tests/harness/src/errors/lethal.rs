//! [`Lethal`]: a directory in which the process is killed at a certain call.

use super::kill::Moment;
use aligned::Alignment;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use wal::io::{
    Access, Directory, DirectoryFile, DirectoryLock, File, Host, LockError, Profile, Storage, Wake,
    Word,
};

/// A [`Directory`] that counts the calls that change something.
#[derive(Debug)]
pub(super) struct Lethal {
    inner: Directory,
    trap: Trap,
}

/// A file of a [`Lethal`] directory.
#[derive(Debug)]
pub(super) struct LethalFile {
    inner: DirectoryFile,
    directory: Directory,
    trap: Trap,
}

/// Which call kills.
#[derive(Clone, Debug)]
struct Trap {
    at: u64,
    moment: Moment,
    /// Of all threads, over all opens.
    calls: Arc<AtomicU64>,
}

impl Trap {
    /// Makes the call, or dies before, in the midst of, or after it.
    fn spring<T>(
        &self,
        amid: impl FnOnce() -> io::Result<()>,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 != self.at {
            return call();
        }
        match self.moment {
            Moment::Before => {}
            Moment::Amid => amid()?,
            Moment::After => drop(call()?),
        }
        die()
    }

    /// The same for a call that has no midst.
    fn spring_whole<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.spring(|| Ok(()), call)
    }
}

fn die() -> ! {
    let _ = kill(Pid::this(), Signal::SIGKILL);
    loop {
        thread::park();
    }
}

impl Lethal {
    pub(super) fn new(inner: Directory, at: u64, moment: Moment, calls: Arc<AtomicU64>) -> Self {
        Self { inner, trap: Trap { at, moment, calls } }
    }

    fn file(&self, inner: DirectoryFile) -> LethalFile {
        LethalFile { inner, directory: self.inner.clone(), trap: self.trap.clone() }
    }
}

impl LethalFile {
    /// Half of the blocks, or a single block without a sync.
    fn write_half(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let block = self.directory.alignment().bytes();
        let half = bytes.len() / 2 / block * block;
        self.inner.write_at(if half == 0 { bytes } else { &bytes[..half] }, offset)
    }
}

impl Storage for Lethal {
    type File = LethalFile;
    type Lock = DirectoryLock;

    fn create(&self) -> io::Result<()> {
        self.trap.spring_whole(|| self.inner.create())
    }

    fn lock(&self) -> Result<DirectoryLock, LockError> {
        self.inner.lock()
    }

    fn ending(&self, lock: &DirectoryLock) {
        self.inner.ending(lock);
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<LethalFile> {
        Ok(self.file(self.inner.open(name, access)?))
    }

    fn create_file(&self, name: &str) -> io::Result<LethalFile> {
        Ok(self.file(self.trap.spring_whole(|| self.inner.create_file(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.trap.spring_whole(|| self.inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.trap.spring_whole(|| self.inner.remove(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.trap.spring_whole(|| self.inner.sync_dir())
    }

    fn alignment(&self) -> Alignment {
        self.inner.alignment()
    }

    fn physical_block_bytes(&self) -> u32 {
        self.inner.physical_block_bytes()
    }

    fn depth_max(&self) -> u32 {
        self.inner.depth_max()
    }

    fn probe(&self, file: &LethalFile, offset: u64, bytes: u64) -> io::Result<()> {
        self.inner.probe(&file.inner, offset, bytes)
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

impl Host for Lethal {
    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn unix_time(&self) -> Duration {
        self.inner.unix_time()
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }

    fn sleep(&self, time: Duration) {
        self.inner.sleep(time);
    }

    fn yield_now(&self) {
        self.inner.yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.inner.spawn(name, work)
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        self.inner.wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        self.inner.wake(word, who);
    }

    fn processors(&self) -> u32 {
        self.inner.processors()
    }
}

impl File for LethalFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.trap.spring(|| self.write_half(bytes, offset), || self.inner.write_at(bytes, offset))
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = || self.inner.write_durable_at(bytes, offset);
        self.trap.spring(|| self.write_half(bytes, offset), write)
    }

    fn sync(&self) -> io::Result<()> {
        self.trap.spring_whole(|| self.inner.sync())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.trap.spring_whole(|| self.inner.set_len(bytes))
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        self.trap.spring_whole(|| self.inner.write_zeroes(offset, bytes))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn links(&self) -> io::Result<u64> {
        self.inner.links()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.inner.drop_cache()
    }
}
