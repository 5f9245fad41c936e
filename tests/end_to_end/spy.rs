//! A storage that watches, lies, waits and loses power.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use parking_lot::Mutex;
use std::{
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use wal::io::{
    Access, File, Host, LockError, Memory, MemoryFile, MemoryLock, Profile, Storage, Wake, Word,
};

/// A [`Memory`] that notes what is done to it, and on request answers a read wrongly, holds a call
/// or loses power.
#[derive(Clone, Debug)]
pub(crate) struct Spy {
    inner: Memory,
    state: Arc<Mutex<SpyState>>,
}

#[derive(Debug, Default)]
struct SpyState {
    events: Vec<Event>,
    lie: Option<Lie>,
    power_fails_at: Option<Verb>,
    held: Option<Verb>,
    is_holding: bool,
    late_threads: Option<(String, u32)>,
    may_start: bool,
    is_off: bool,
    rests: Rests,
}

/// How often somebody gave way to other threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rests {
    pub(crate) yields: u32,
    pub(crate) sleeps: u32,
}

/// Something that was done to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) verb: Verb,
    pub(crate) offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Read,
    Write,
    WriteDurable,
    Sync,
    Create,
    Rename,
    Remove,
    SyncDir,
}

/// Reads of `name` that reach byte `at` answer it inverted, so many times.
#[derive(Clone, Debug)]
struct Lie {
    name: String,
    at: u64,
    times: u32,
}

impl Spy {
    pub(crate) fn new(inner: Memory) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// The next `times` reads of byte `at` of `name` are wrong.
    pub(crate) fn lie(&self, name: &str, at: u64, times: u32) {
        self.state.lock().lie = Some(Lie { name: name.to_owned(), at, times });
    }

    /// How many wrong answers are left.
    pub(crate) fn lies_left(&self) -> u32 {
        self.state.lock().lie.as_ref().map_or(0, |lie| lie.times)
    }

    /// The power fails just before the next `verb`: it and all changes after it fail.
    pub(crate) fn fail_power_at(&self, verb: Verb) {
        self.state.lock().power_fails_at = Some(verb);
    }

    /// Lets nobody do `verb` before [`Spy::let_go`].
    pub(crate) fn hold(&self, verb: Verb) {
        self.state.lock().held = Some(verb);
    }

    /// Whether somebody is held.
    pub(crate) fn is_holding(&self) -> bool {
        self.state.lock().is_holding
    }

    pub(crate) fn let_go(&self) {
        let mut state = self.state.lock();
        (state.held, state.is_holding) = (None, false);
    }

    /// Of the threads named `name` all but the first are not run before
    /// [`Spy::start_late_threads`]: a busy machine. Two seconds at most, so that whoever waits for
    /// them does not hang.
    pub(crate) fn delay_threads(&self, name: &str) {
        self.state.lock().late_threads = Some((name.to_owned(), 1));
    }

    pub(crate) fn start_late_threads(&self) {
        self.state.lock().may_start = true;
    }

    pub(crate) fn rests(&self) -> Rests {
        self.state.lock().rests
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.state.lock().events.clone()
    }

    fn note(&self, name: &str, verb: Verb, offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        while state.held == Some(verb) {
            state.is_holding = true;
            drop(state);
            thread::sleep(Duration::from_micros(200));
            state = self.state.lock();
        }
        if state.power_fails_at == Some(verb) {
            state.is_off = true;
        }
        if state.is_off && verb != Verb::Read {
            return Err(io::Error::other("the power has failed"));
        }
        state.events.push(Event { name: name.to_owned(), verb, offset });
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct SpyFile {
    inner: MemoryFile,
    name: String,
    spy: Spy,
}

impl Spy {
    fn file(&self, name: &str, inner: MemoryFile) -> SpyFile {
        SpyFile { inner, name: name.to_owned(), spy: self.clone() }
    }
}

impl Storage for Spy {
    type File = SpyFile;
    type Lock = MemoryLock;

    fn create(&self) -> io::Result<()> {
        self.inner.create()
    }

    fn lock(&self) -> Result<MemoryLock, LockError> {
        self.inner.lock()
    }

    fn ending(&self, lock: &MemoryLock) {
        self.inner.ending(lock);
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<SpyFile> {
        Ok(self.file(name, self.inner.open(name, access)?))
    }

    fn create_file(&self, name: &str) -> io::Result<SpyFile> {
        self.note(name, Verb::Create, 0)?;
        Ok(self.file(name, self.inner.create_file(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.note(to, Verb::Rename, 0)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.note(name, Verb::Remove, 0)?;
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.note("", Verb::SyncDir, 0)?;
        self.inner.sync_dir()
    }

    fn alignment(&self) -> aligned::Alignment {
        self.inner.alignment()
    }

    fn physical_block_bytes(&self) -> u32 {
        self.inner.physical_block_bytes()
    }

    fn depth_max(&self) -> u32 {
        self.inner.depth_max()
    }

    fn probe(&self, file: &SpyFile, offset: u64, bytes: u64) -> io::Result<()> {
        self.inner.probe(&file.inner, offset, bytes)
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

impl Host for Spy {
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
        self.state.lock().rests.sleeps += 1;
        self.inner.sleep(time);
    }

    fn yield_now(&self) {
        self.state.lock().rests.yields += 1;
        self.inner.yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let is_late = match &mut self.state.lock().late_threads {
            Some((late, first)) if late == name => {
                let is_first = *first > 0;
                *first = 0;
                !is_first
            }
            _ => false,
        };
        if !is_late {
            return self.inner.spawn(name, work);
        }
        let spy = self.clone();
        let work = move || {
            let start = Instant::now();
            while !spy.state.lock().may_start && start.elapsed() < Duration::from_secs(2) {
                thread::sleep(Duration::from_millis(1));
            }
            work();
        };
        self.inner.spawn(name, Box::new(work))
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

impl File for SpyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.spy.note(&self.name, Verb::Read, offset)?;
        let read = self.inner.read_at(buffer, offset)?;
        let mut state = self.spy.state.lock();
        if let Some(lie) = state.lie.as_mut().filter(|lie| lie.name == self.name)
            && let Some(at) = lie.at.checked_sub(offset)
            && let Some(byte) = buffer[..read].get_mut(usize::try_from(at).unwrap())
            && lie.times > 0
        {
            *byte = !*byte;
            lie.times -= 1;
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.spy.note(&self.name, Verb::Write, offset)?;
        self.inner.write_at(bytes, offset)
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.spy.note(&self.name, Verb::WriteDurable, offset)?;
        self.inner.write_durable_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.spy.note(&self.name, Verb::Sync, 0)?;
        self.inner.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.spy.note(&self.name, Verb::Write, 0)?;
        self.inner.set_len(bytes)
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        self.spy.note(&self.name, Verb::Write, offset)?;
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
