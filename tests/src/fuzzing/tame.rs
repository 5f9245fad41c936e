//! [`Tame`]: a storage in memory that repeats itself.

use super::image::Image;
use crate::{Random, fault::PATIENCE};
use aligned::{Alignment, Buffer};
use parking_lot::{Condvar, Mutex};
use std::{io, path::PathBuf, sync::Arc, thread, time::Duration};
use wal::io::{
    Access, File, Host, LockError, Memory, MemoryFile, MemoryLock, Profile, Storage, Wake, Word,
};

/// A [`Memory`] whose random numbers come from a seed and that knows when the log's threads have
/// ended: the same input does the same twice, and a thread that hangs or panics is found.
#[derive(Clone, Debug)]
pub(super) struct Tame {
    memory: Memory,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    random: Mutex<Random>,
    threads: Mutex<Threads>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Threads {
    running: u32,
    panicked: bool,
}

impl Tame {
    /// The files of `image`, with room for `capacity` bytes.
    pub(super) fn new(seed: u64, capacity: u64, image: &Image) -> Self {
        let memory = Memory::with_capacity(capacity);
        memory.create().expect("memory can be made a directory");
        for (name, bytes) in &image.files {
            put(&memory, name, bytes).expect("an image fits");
        }
        let shared = Shared {
            random: Mutex::new(Random::new(seed)),
            threads: Mutex::default(),
            ended: Condvar::new(),
        };
        Self { memory, shared: Arc::new(shared) }
    }

    /// Waits until all threads that the log started have ended.
    pub(super) fn settle(&self) {
        let mut threads = self.shared.threads.lock();
        while threads.running > 0 {
            let hangs = self.shared.ended.wait_for(&mut threads, PATIENCE).timed_out();
            assert!(!hangs, "a thread of the log never ends");
        }
        assert!(!threads.panicked, "a thread of the log panicked");
    }

    /// All files as they are.
    pub(super) fn save(&self) -> Image {
        let names = self.memory.list().expect("memory has a list");
        let files = names.into_iter().map(|name| {
            let bytes = get(&self.memory, &name).expect("memory can be read");
            (name, bytes)
        });
        Image { files: files.collect() }
    }

    /// The first `bytes` bytes of every file whose name begins with `prefix`.
    pub(super) fn heads(&self, prefix: &str, bytes: usize) -> Vec<Vec<u8>> {
        let names = self.memory.list().expect("memory has a list");
        let names = names.into_iter().filter(|name| name.starts_with(prefix));
        let read = |name: String| {
            let file = self.memory.open(&name, Access::Read)?;
            let mut buffer = Buffer::zeroed(self.memory.alignment(), bytes)?;
            let read = file.read_at(buffer.as_mut_slice(), 0)?;
            Ok::<_, io::Error>(buffer.as_mut_slice()[..read].to_vec())
        };
        // One that is gone again was taken back meanwhile.
        names.filter_map(|name| read(name).ok()).collect()
    }
}

fn put(memory: &Memory, name: &str, bytes: &[u8]) -> io::Result<()> {
    const PAGE: usize = 4096;
    let file = memory.create_file(name)?;
    let mut buffer = Buffer::zeroed(memory.alignment(), PAGE)?;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        // What is zero takes no room.
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let buffer = buffer.as_mut_slice();
        buffer[..page.len()].copy_from_slice(page);
        buffer[page.len()..].fill(0);
        file.write_at(buffer, u64::try_from(index * PAGE).unwrap_or(u64::MAX))?;
    }
    file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

fn get(memory: &Memory, name: &str) -> io::Result<Vec<u8>> {
    let file = memory.open(name, Access::Read)?;
    let bytes = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut buffer = Buffer::zeroed(memory.alignment(), bytes.max(1))?;
    let read = file.read_at(buffer.as_mut_slice(), 0)?;
    Ok(buffer.as_mut_slice()[..read].to_vec())
}

impl Storage for Tame {
    type File = MemoryFile;
    type Lock = MemoryLock;

    fn create(&self) -> io::Result<()> {
        self.memory.create()
    }

    fn lock(&self) -> Result<MemoryLock, LockError> {
        self.memory.lock()
    }

    fn ending(&self, lock: &MemoryLock) {
        self.memory.ending(lock);
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.memory.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<MemoryFile> {
        self.memory.open(name, access)
    }

    fn create_file(&self, name: &str) -> io::Result<MemoryFile> {
        self.memory.create_file(name)
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
        1
    }

    fn probe(&self, file: &MemoryFile, offset: u64, bytes: u64) -> io::Result<()> {
        self.memory.probe(file, offset, bytes)
    }

    fn profile(&self) -> Profile {
        self.memory.profile()
    }

    fn path(&self) -> PathBuf {
        self.memory.path()
    }
}

impl Host for Tame {
    fn now(&self) -> Duration {
        self.memory.now()
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&self) -> u64 {
        self.shared.random.lock().below(u64::MAX)
    }

    fn sleep(&self, _time: Duration) {
        thread::yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.shared.threads.lock().running += 1;
        let end = End(Arc::clone(&self.shared));
        self.memory.spawn(
            name,
            Box::new(move || {
                let _end = end;
                work();
            }),
        )
    }

    fn yield_now(&self) {
        thread::yield_now();
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

/// Counts a thread's end, also one by a panic, or that it never began.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut threads = self.0.threads.lock();
        threads.running -= 1;
        threads.panicked |= thread::panicking();
        self.0.ended.notify_all();
    }
}
