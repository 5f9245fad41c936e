//! [`Faulty`]: a storage that does what its [`Control`] says, and copies of what a disk holds.

use crate::fault::{Call, Control, Effect, Verb};
use aligned::{Alignment, Buffer};
use std::{io, path::PathBuf, sync::atomic::Ordering, time::Duration};
use wal::io::{Access, File, Host, LockError, Memory, Profile, Storage, Wake, Word};

/// A storage that does what its [`Control`] says and otherwise what the one below does.
#[derive(Clone, Debug)]
pub struct Faulty<S> {
    inner: S,
    control: Control,
}

impl Faulty<Memory> {
    /// A faulty storage over an empty memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(Memory::new())
    }
}

impl<S: Storage> Faulty<S> {
    /// A storage over `inner` that has no fault yet.
    #[must_use]
    pub fn new(inner: S) -> Self {
        Self { inner, control: Control::default() }
    }

    /// The tester's end.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The storage below.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Stops the clock that the log sees.
    pub fn freeze_clock(&self) {
        self.control.freeze(self.inner.now());
    }

    /// The bytes as they are at one moment: what a crash of the process would leave. The log's own threads
    /// may be at work, and a name that is moved while the names are copied would be in neither place.
    #[must_use]
    pub fn crash(&self) -> Memory {
        self.control.between_calls(|| snapshot(&self.inner))
    }

    fn named<T>(
        &self,
        verb: Verb,
        name: &str,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let call = Call { verb, file: name.to_owned(), offset: 0, bytes: 0 };
        self.control.around(call, |_| work())
    }

    fn file(&self, inner: S::File, name: &str) -> FaultyFile<S::File> {
        FaultyFile { inner, name: name.to_owned(), control: self.control.clone() }
    }
}

impl<S: Storage> Storage for Faulty<S> {
    type File = FaultyFile<S::File>;
    type Lock = S::Lock;

    fn create(&self) -> io::Result<()> {
        self.named(Verb::Create, "", || self.inner.create())
    }

    fn lock(&self) -> Result<S::Lock, LockError> {
        self.inner.lock()
    }

    fn ending(&self, lock: &S::Lock) {
        self.inner.ending(lock);
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Self::File> {
        let inner = self.named(Verb::Open, name, || self.inner.open(name, access))?;
        Ok(self.file(inner, name))
    }

    fn create_file(&self, name: &str) -> io::Result<Self::File> {
        let inner = self.named(Verb::CreateFile, name, || self.inner.create_file(name))?;
        Ok(self.file(inner, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.named(Verb::Rename, from, || self.inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.named(Verb::Remove, name, || self.inner.remove(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.named(Verb::SyncDir, "", || self.inner.sync_dir())
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

    fn probe(&self, file: &Self::File, offset: u64, bytes: u64) -> io::Result<()> {
        let call = Call { verb: Verb::Probe, file: file.name.clone(), offset, bytes };
        self.control.around(call, |_| self.inner.probe(&file.inner, offset, bytes))
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

impl<S: Storage> Host for Faulty<S> {
    fn now(&self) -> Duration {
        self.control.look_at_frozen().unwrap_or_else(|| self.inner.now())
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
        let running = Running::begin(&self.control);
        let work = Box::new(move || {
            let _running = running;
            work();
        });
        self.named(Verb::Spawn, name, || self.inner.spawn(name, work))
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        self.control.blocking().sleeps(word);
        self.inner.wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        self.control.blocking().wakes(word, who);
        self.inner.wake(word, who);
    }

    fn processors(&self) -> u32 {
        self.inner.processors()
    }
}

/// A thread of the log, until it has ended or is known never to begin.
struct Running(Control);

impl Running {
    fn begin(control: &Control) -> Self {
        control.running().fetch_add(1, Ordering::SeqCst);
        Self(control.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running().fetch_sub(1, Ordering::SeqCst);
    }
}

/// A file of a [`Faulty`].
#[derive(Debug)]
pub struct FaultyFile<F> {
    inner: F,
    name: String,
    control: Control,
}

impl<F: File> FaultyFile<F> {
    fn call<T>(
        &self,
        verb: Verb,
        offset: u64,
        bytes: u64,
        work: impl FnOnce(Effect) -> io::Result<T>,
    ) -> io::Result<T> {
        self.control.around(Call { verb, file: self.name.clone(), offset, bytes }, work)
    }
}

const SECTOR_BYTES: usize = 512;

fn touched(bytes: &[u8], effect: Effect) -> &[u8] {
    if effect == Effect::Torn { &bytes[..SECTOR_BYTES.min(bytes.len())] } else { bytes }
}

impl<F: File> File for FaultyFile<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = widen(buffer.len());
        self.call(Verb::Read, offset, bytes, |_| self.inner.read_at(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.call(Verb::Write, offset, widen(bytes.len()), |effect| {
            self.inner.write_at(touched(bytes, effect), offset)
        })
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.call(Verb::WriteDurable, offset, widen(bytes.len()), |effect| {
            self.inner.write_durable_at(touched(bytes, effect), offset)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Verb::Sync, 0, 0, |_| self.inner.sync())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.call(Verb::SetLen, 0, bytes, |_| self.inner.set_len(bytes))
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        self.call(Verb::WriteZeroes, offset, bytes, |_| self.inner.write_zeroes(offset, bytes))
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

/// A copy of all bytes in `storage` as they are, in a memory of its own that nobody has locked.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn snapshot(storage: &impl Storage) -> Memory {
    let copy = Memory::new();
    copy_into(storage, &copy).expect("bytes that were written can be copied");
    copy
}

/// Copies all bytes in `storage` into the empty `copy`, which may have a limit of its own.
///
/// # Errors
/// Those of reading and writing.
pub fn copy_into(storage: &impl Storage, copy: &Memory) -> io::Result<()> {
    const CHUNK_BYTES: usize = 1 << 20;
    copy.create()?;
    let mut buffer = Buffer::zeroed(storage.alignment().max(copy.alignment()), CHUNK_BYTES)
        .map_err(io::Error::other)?;
    for name in storage.list()? {
        let source = storage.open(&name, Access::Read)?;
        let target = copy.create_file(&name)?;
        let length = source.len()?;
        let mut offset = 0;
        while offset < length {
            let chunk = buffer.as_mut_slice();
            let read = source.read_at(chunk, offset)?;
            if read == 0 {
                break;
            }
            chunk[read..].fill(0);
            target.write_at(&chunk[..read.next_multiple_of(SECTOR_BYTES)], offset)?;
            offset += widen(read);
        }
        target.set_len(length)?;
    }
    Ok(())
}

fn widen(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
