//! [`Flaky`]: a disk in memory with bad sectors, for tests.

use crate::io::{Access, File, Host, LockError, Memory, Profile, Storage, Wake, Word};
use aligned::Alignment;
use parking_lot::Mutex;
use std::{io, ops::Range, path::PathBuf, sync::Arc, time::Duration};

type Bad = Arc<Mutex<Vec<(String, Range<u64>)>>>;

/// Reads that touch a bad range fail; everything else is [`Memory`]'s.
#[derive(Clone)]
pub(crate) struct Flaky {
    memory: Memory,
    bad: Bad,
}

pub(crate) struct FlakyFile {
    file: <Memory as Storage>::File,
    name: String,
    bad: Bad,
}

impl Flaky {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { memory, bad: Bad::default() }
    }

    pub(crate) fn spoil(&self, name: &str, range: Range<u64>) {
        self.bad.lock().push((name.to_owned(), range));
    }

    fn wrap(&self, name: &str, file: <Memory as Storage>::File) -> FlakyFile {
        FlakyFile { file, name: name.to_owned(), bad: Arc::clone(&self.bad) }
    }
}

impl Storage for Flaky {
    type File = FlakyFile;
    type Lock = <Memory as Storage>::Lock;

    fn create(&self) -> io::Result<()> {
        self.memory.create()
    }
    fn lock(&self) -> Result<Self::Lock, LockError> {
        self.memory.lock()
    }
    fn ending(&self, lock: &Self::Lock) {
        self.memory.ending(lock);
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.memory.list()
    }
    fn open(&self, name: &str, access: Access) -> io::Result<FlakyFile> {
        Ok(self.wrap(name, self.memory.open(name, access)?))
    }
    fn create_file(&self, name: &str) -> io::Result<FlakyFile> {
        Ok(self.wrap(name, self.memory.create_file(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.memory.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.memory.sync_dir()
    }
    fn alignment(&self) -> Alignment {
        self.memory.alignment()
    }
    fn physical_block_bytes(&self) -> u32 {
        self.memory.physical_block_bytes()
    }
    fn depth_max(&self) -> u32 {
        self.memory.depth_max()
    }
    fn probe(&self, file: &FlakyFile, offset: u64, bytes: u64) -> io::Result<()> {
        self.memory.probe(&file.file, offset, bytes)
    }
    fn profile(&self) -> Profile {
        self.memory.profile()
    }
    fn path(&self) -> PathBuf {
        self.memory.path()
    }
}

impl Host for Flaky {
    fn now(&self) -> Duration {
        self.memory.now()
    }

    fn unix_time(&self) -> Duration {
        self.memory.unix_time()
    }

    fn random(&self) -> u64 {
        self.memory.random()
    }

    fn sleep(&self, time: Duration) {
        self.memory.sleep(time);
    }

    fn yield_now(&self) {
        self.memory.yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.memory.spawn(name, work)
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        self.memory.wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        self.memory.wake(word, who);
    }

    fn processors(&self) -> u32 {
        self.memory.processors()
    }
}

impl File for FlakyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset + u64::try_from(buffer.len()).unwrap();
        let touches = |(name, bad): &(String, Range<u64>)| {
            *name == self.name && bad.start < end && offset < bad.end
        };
        if self.bad.lock().iter().any(touches) {
            return Err(io::Error::from(rustix::io::Errno::IO));
        }
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_durable_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
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
