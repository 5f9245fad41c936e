//! [`Swallowing`]: a directory that, if it is told to, reads zeros where the disk answers an error, to see
//! whether that is found.

use aligned::Alignment;
use std::{io, path::PathBuf, time::Duration};
use wal::io::{
    Access, Directory, DirectoryFile, DirectoryLock, File, Host, LockError, Profile, Storage, Wake,
    Word,
};

/// What becomes of a read error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadErrors {
    Answered,
    /// A planted fault.
    Swallowed,
}

/// A [`Directory`] with or without the fault.
#[derive(Debug)]
pub(super) struct Swallowing {
    pub(super) inner: Directory,
    pub(super) errors: ReadErrors,
}

/// A file of a [`Swallowing`] directory.
#[derive(Debug)]
pub(super) struct SwallowingFile {
    inner: DirectoryFile,
    errors: ReadErrors,
}

impl Swallowing {
    fn file(&self, inner: DirectoryFile) -> SwallowingFile {
        SwallowingFile { inner, errors: self.errors }
    }
}

impl Storage for Swallowing {
    type File = SwallowingFile;
    type Lock = DirectoryLock;

    fn create(&self) -> io::Result<()> {
        self.inner.create()
    }

    fn lock(&self) -> Result<DirectoryLock, LockError> {
        self.inner.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<SwallowingFile> {
        Ok(self.file(self.inner.open(name, access)?))
    }

    fn create_file(&self, name: &str) -> io::Result<SwallowingFile> {
        Ok(self.file(self.inner.create_file(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }

    fn alignment(&self) -> Alignment {
        self.inner.alignment()
    }

    fn depth_max(&self) -> u32 {
        self.inner.depth_max()
    }

    fn probe(&self, file: &SwallowingFile, offset: u64, bytes: u64) -> io::Result<()> {
        self.inner.probe(&file.inner, offset, bytes)
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

impl Host for Swallowing {
    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }

    fn sleep(&self, time: Duration) {
        self.inner.sleep(time);
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.inner.spawn(name, work)
    }

    fn unix_time(&self) -> Duration {
        self.inner.unix_time()
    }

    fn yield_now(&self) {
        self.inner.yield_now();
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        self.inner.wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        self.inner.wake(word, who);
    }
}

impl File for SwallowingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.inner.read_at(buffer, offset) {
            Err(_) if self.errors == ReadErrors::Swallowed => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            answer => answer,
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_durable_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        self.inner.write_zeroes(offset, bytes)
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
