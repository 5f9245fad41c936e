//! [`Slow`]: a storage whose writes and flushes take the time of a [`Device`].

use super::model::{Device, Queue};
use parking_lot::Mutex;
use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};
use wal::io::{Access, DurableMethod, File, Host, LockError, Profile, Storage, Wake, Word};

/// A storage made as slow as a [`Device`]. Only writes and syncs take its time: reads, names and sizes are
/// as fast as the storage below. A sync of the directory writes a block, as a journal does, and flushes.
///
/// ```
/// use std::time::Duration;
/// use wal::io::Host as _;
/// use wal_sim::{Device, Disk, DiskOptions, Slow, World};
///
/// let world = World::of_free_processors(1);
/// let disk = Disk::new(&world, &DiskOptions::new().latency(Duration::ZERO, Duration::ZERO));
/// let slow = Slow::new(disk, Device::NETWORK_BLOCK, 1);
/// world.run(|| {
///     let mut replay = wal::Options::new().segment_bytes(64 << 10).open_in(slow.clone()).unwrap();
///     assert!(replay.next().unwrap().is_none());
///     let (wal, _) = replay.finish().unwrap();
///     let before = slow.now();
///     wal.append(b"hello").unwrap().wait().unwrap();
///     let time = slow.now() - before;
///     assert!(time >= Duration::from_millis(1) && time < Duration::from_micros(1400));
/// })
/// .unwrap();
/// ```
#[derive(Debug)]
pub struct Slow<S> {
    inner: Arc<S>,
    clock: Arc<Clock>,
}

/// A file of a [`Slow`] storage.
pub struct SlowFile<S: Storage> {
    inner: S::File,
    storage: Slow<S>,
}

/// What a sync of the directory writes.
const JOURNAL_BYTES: usize = 4096;

#[derive(Debug)]
struct Clock {
    queue: Mutex<Queue>,
    /// How much of a time the processor spins through, because sleeps of a real host end late.
    spin: Duration,
}

impl<S: Storage> Slow<S> {
    /// `storage` as slow as `device`, whose jitter follows `seed`. For a storage whose host sleeps
    /// exactly as long as it is told: a [`Disk`](crate::Disk).
    pub fn new(storage: S, device: Device, seed: u64) -> Self {
        Self::with(storage, device, seed, Duration::ZERO)
    }

    /// The same in real time, over a storage that is itself much faster than `device`. The last 100 µs of
    /// each call are spent spinning, for the kernel wakes a thread tens of microseconds late: so a device
    /// that is faster than that costs processor time as no real one does.
    pub fn in_real_time(storage: S, device: Device, seed: u64) -> Self {
        Self::with(storage, device, seed, Duration::from_micros(100))
    }

    fn with(storage: S, device: Device, seed: u64, spin: Duration) -> Self {
        let queue = Mutex::new(Queue::new(device, seed));
        Self { inner: Arc::new(storage), clock: Arc::new(Clock { queue, spin }) }
    }

    /// Lets time pass until `end`.
    fn pass_until(&self, end: Duration) {
        loop {
            let left = end.saturating_sub(self.inner.now());
            if left.is_zero() {
                return;
            }
            if left > self.clock.spin {
                self.inner.sleep(left - self.clock.spin);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn take_write(&self, bytes: usize) {
        let end = self.clock.queue.lock().write(self.inner.now(), bytes);
        self.pass_until(end);
    }

    fn take_flush(&self) {
        let end = self.clock.queue.lock().flush(self.inner.now());
        self.pass_until(end);
    }
}

impl<S> Clone for Slow<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), clock: Arc::clone(&self.clock) }
    }
}

impl<S: Storage> Slow<S> {
    fn file(&self, inner: S::File) -> SlowFile<S> {
        SlowFile { inner, storage: self.clone() }
    }
}

impl<S: Storage> Host for Slow<S> {
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

impl<S: Storage> Storage for Slow<S> {
    type File = SlowFile<S>;
    type Lock = S::Lock;

    fn create(&self) -> io::Result<()> {
        self.inner.create()
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

    fn open(&self, name: &str, access: Access) -> io::Result<SlowFile<S>> {
        self.inner.open(name, access).map(|file| self.file(file))
    }

    fn create_file(&self, name: &str) -> io::Result<SlowFile<S>> {
        self.inner.create_file(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.take_write(JOURNAL_BYTES);
        self.inner.sync_dir()?;
        self.take_flush();
        Ok(())
    }

    fn alignment(&self) -> aligned::Alignment {
        self.inner.alignment()
    }

    fn physical_block_bytes(&self) -> u32 {
        self.inner.physical_block_bytes()
    }

    fn depth_max(&self) -> u32 {
        self.inner.depth_max().min(self.clock.queue.lock().device().depth())
    }

    fn probe(&self, file: &SlowFile<S>, offset: u64, bytes: u64) -> io::Result<()> {
        self.inner.probe(&file.inner, offset, bytes)
    }

    fn profile(&self) -> Profile {
        let mut profile = self.inner.profile();
        profile.method = DurableMethod::WriteDsync;
        self.clock.queue.lock().device().name().clone_into(&mut profile.file_system);
        profile
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

impl<S: Storage> File for SlowFile<S> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.storage.take_write(bytes.len());
        self.inner.write_at(bytes, offset)
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.storage.take_write(bytes.len());
        self.inner.write_durable_at(bytes, offset)?;
        self.storage.take_flush();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()?;
        self.storage.take_flush();
        Ok(())
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

impl<S: Storage> fmt::Debug for SlowFile<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowFile").finish_non_exhaustive()
    }
}
