//! [`Careless`]: a directory with a fault, to see whether that is found.

use aligned::Alignment;
use std::{io, path::PathBuf, time::Duration};
use wal::io::{
    Access, Directory, DirectoryFile, DirectoryLock, File, Host, LockError, Profile, Storage, Wake,
    Word,
};

/// What a [`Careless`] directory does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neglect {
    /// It is never synced.
    DirectorySyncs,
    /// Its files never are.
    FileSyncs,
    /// Zeros are read where the disk answers an error.
    ReadErrors,
}

/// A [`Directory`], perhaps with one fault planted.
#[derive(Debug)]
pub(crate) struct Careless {
    pub(crate) inner: Directory,
    pub(crate) neglects: Option<Neglect>,
}

/// A file of a [`Careless`] directory.
#[derive(Debug)]
pub(crate) struct CarelessFile {
    inner: DirectoryFile,
    neglects: Option<Neglect>,
}

impl Careless {
    fn file(&self, inner: DirectoryFile) -> CarelessFile {
        CarelessFile { inner, neglects: self.neglects }
    }
}

impl Storage for Careless {
    type File = CarelessFile;
    type Lock = DirectoryLock;

    fn create(&self) -> io::Result<()> {
        self.inner.create()
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

    fn open(&self, name: &str, access: Access) -> io::Result<CarelessFile> {
        Ok(self.file(self.inner.open(name, access)?))
    }

    fn create_file(&self, name: &str) -> io::Result<CarelessFile> {
        Ok(self.file(self.inner.create_file(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        match self.neglects {
            Some(Neglect::DirectorySyncs) => Ok(()),
            _ => self.inner.sync_dir(),
        }
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

    fn probe(&self, file: &CarelessFile, offset: u64, bytes: u64) -> io::Result<()> {
        self.inner.probe(&file.inner, offset, bytes)
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

impl Host for Careless {
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

    fn processors(&self) -> u32 {
        self.inner.processors()
    }
}

impl File for CarelessFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.inner.read_at(buffer, offset) {
            Err(_) if self.neglects == Some(Neglect::ReadErrors) => {
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
        match self.neglects {
            Some(Neglect::FileSyncs) => self.inner.write_at(bytes, offset),
            _ => self.inner.write_durable_at(bytes, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.neglects {
            Some(Neglect::FileSyncs) => Ok(()),
            _ => self.inner.sync(),
        }
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
