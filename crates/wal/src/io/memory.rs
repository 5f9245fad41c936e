//! [`Memory`]: a directory that lives in memory, for tests and for logs that need not survive.

use super::{Access, DurableMethod, File, Host, LockError, Profile, Storage, Wake, Word, host};
use aligned::Alignment;
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt, io,
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A directory in memory. Clones are handles of the same one: its bytes live as long as one does.
///
/// It models the crash of a process: every write survives it, synced or not. It does not model a
/// power cut. Like a disk it can be full: room is taken by pages that were written, not by a
/// file's length, and given back when a file has neither name nor handle.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    /// `None` until the directory is made.
    files: Mutex<Option<BTreeMap<String, Arc<Node>>>>,
    room: Arc<Room>,
    /// One of the `LOCK_` numbers.
    lock: AtomicU8,
}

struct Room {
    pages_max: u64,
    pages_used: AtomicU64,
}

struct Node {
    content: Mutex<Content>,
    links: AtomicU64,
    room: Arc<Room>,
}

#[derive(Default)]
struct Content {
    len: u64,
    // Invariant: every page begins below `len`, what lies past it is zero, and each was taken from
    // the room.
    pages: BTreeMap<u64, Box<[u8]>>,
}

const PAGE_BYTES: usize = 4096;
const PAGE_LENGTH: u64 = 4096;
const DEPTH_MAX: u32 = 4;

const LOCK_FREE: u8 = 0;
const LOCK_HELD: u8 = 1;
/// For a log that has ended.
const LOCK_ENDING: u8 = 2;

impl Memory {
    /// An empty place without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(u64::MAX)
    }

    /// An empty place with room for `bytes`, counted in whole pages of 4096 bytes. Writes that
    /// need more answer [`io::ErrorKind::StorageFull`] and change nothing.
    #[must_use]
    pub fn with_capacity(bytes: u64) -> Self {
        let room = Room { pages_max: bytes / PAGE_LENGTH, pages_used: AtomicU64::new(0) };
        Self(Arc::new(Shared {
            files: Mutex::new(None),
            room: Arc::new(room),
            lock: AtomicU8::new(LOCK_FREE),
        }))
    }

    fn with_files<T>(
        &self,
        work: impl FnOnce(&mut BTreeMap<String, Arc<Node>>) -> io::Result<T>,
    ) -> io::Result<T> {
        work(self.0.files.lock().as_mut().ok_or(io::ErrorKind::NotFound)?)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("pages_used", &self.0.room.pages_used)
            .field("pages_max", &self.0.room.pages_max)
            .finish_non_exhaustive()
    }
}

impl Storage for Memory {
    type File = MemoryFile;
    type Lock = MemoryLock;

    fn create(&self) -> io::Result<()> {
        self.0.files.lock().get_or_insert_default();
        Ok(())
    }

    fn lock(&self) -> Result<MemoryLock, LockError> {
        self.with_files(|_| Ok(())).map_err(LockError::Io)?;
        let taken =
            self.0.lock.compare_exchange(LOCK_FREE, LOCK_HELD, Ordering::AcqRel, Ordering::Acquire);
        match taken {
            Ok(_) => Ok(MemoryLock(Arc::clone(&self.0))),
            Err(LOCK_ENDING) => Err(LockError::Ending),
            Err(_) => Err(LockError::Held { pid: Some(process::id()) }),
        }
    }

    fn ending(&self, lock: &MemoryLock) {
        lock.0.lock.store(LOCK_ENDING, Ordering::Release);
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.with_files(|files| Ok(files.keys().cloned().collect()))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<MemoryFile> {
        self.with_files(|files| {
            let node = Arc::clone(files.get(name).ok_or(io::ErrorKind::NotFound)?);
            Ok(MemoryFile { node, access })
        })
    }

    fn create_file(&self, name: &str) -> io::Result<MemoryFile> {
        self.with_files(|files| {
            let Entry::Vacant(vacant) = files.entry(name.to_owned()) else {
                return Err(io::ErrorKind::AlreadyExists.into());
            };
            let node = Arc::new(Node {
                content: Mutex::default(),
                links: AtomicU64::new(1),
                room: Arc::clone(&self.0.room),
            });
            vacant.insert(Arc::clone(&node));
            Ok(MemoryFile { node, access: Access::ReadWrite })
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with_files(|files| {
            let node = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            let replaced = files.insert(to.to_owned(), node);
            if let Some(replaced) = replaced {
                replaced.links.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with_files(|files| {
            let node = files.remove(name).ok_or(io::ErrorKind::NotFound)?;
            node.links.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.with_files(|_| Ok(()))
    }

    fn alignment(&self) -> Alignment {
        Alignment::SECTOR_512
    }

    fn physical_block_bytes(&self) -> u32 {
        4096
    }

    fn depth_max(&self) -> u32 {
        DEPTH_MAX
    }

    fn probe(&self, _file: &MemoryFile, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn profile(&self) -> Profile {
        Profile {
            method: DurableMethod::None,
            direct: false,
            logical_block_bytes: 512,
            file_system: "memory".to_owned(),
            overwrites_allocate: false,
            write_dsync: None,
            write_then_sync: None,
            remembered: false,
        }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }
}

impl Host for Memory {
    fn now(&self) -> Duration {
        host::now()
    }

    fn unix_time(&self) -> Duration {
        host::unix_time()
    }

    fn random(&self) -> u64 {
        host::random()
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }

    fn yield_now(&self) {
        thread::yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        host::spawn(name, work)
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        host::wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        host::wake(word, who);
    }

    fn processors(&self) -> u32 {
        host::processors()
    }
}

/// Exclusive use of a [`Memory`], given back when dropped.
pub struct MemoryLock(Arc<Shared>);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.lock.store(LOCK_FREE, Ordering::Release);
    }
}

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLock").finish_non_exhaustive()
    }
}

/// A file of a [`Memory`].
pub struct MemoryFile {
    node: Arc<Node>,
    access: Access,
}

impl MemoryFile {
    fn content_mut(&self) -> io::Result<MutexGuard<'_, Content>> {
        if self.access != Access::ReadWrite {
            // What Linux answers to a write through a descriptor opened for reading (EBADF).
            return Err(io::Error::from(rustix::io::Errno::BADF));
        }
        Ok(self.node.content.lock())
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.node.content.lock().len;
        f.debug_struct("MemoryFile").field("len", &len).finish_non_exhaustive()
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Alignment::SECTOR_512.check(buffer, offset)?;
        let content = self.node.content.lock();
        let left = usize::try_from(content.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = left.min(buffer.len());
        for piece in pieces(offset, bytes) {
            let target = &mut buffer[piece.from..piece.from + piece.bytes];
            match content.pages.get(&piece.page) {
                Some(page) => target.copy_from_slice(&page[piece.start..][..piece.bytes]),
                None => target.fill(0),
            }
        }
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        Alignment::SECTOR_512.check(bytes, offset)?;
        let mut content = self.content_mut()?;
        content.grow(offset, bytes.len(), &self.node.room)?;
        for piece in pieces(offset, bytes.len()) {
            let source = &bytes[piece.from..piece.from + piece.bytes];
            content.page(piece.page)[piece.start..][..piece.bytes].copy_from_slice(source);
        }
        Ok(())
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.content_mut()?;
        if bytes.div_ceil(PAGE_LENGTH) > self.node.room.pages_max && bytes > content.len {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let cut = content.pages.split_off(&bytes.div_ceil(PAGE_LENGTH));
        self.node.room.give_back(&cut);
        if bytes < content.len
            && let Some(page) = content.pages.get_mut(&(bytes / PAGE_LENGTH))
        {
            let start = usize::try_from(bytes % PAGE_LENGTH).unwrap_or(PAGE_BYTES);
            page[start..].fill(0);
        }
        content.len = bytes;
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        let mut content = self.content_mut()?;
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::StorageFull)?;
        content.grow(offset, bytes, &self.node.room)?;
        for piece in pieces(offset, bytes) {
            content.page(piece.page)[piece.start..][..piece.bytes].fill(0);
        }
        Ok(true)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.node.content.lock().len)
    }

    fn links(&self) -> io::Result<u64> {
        Ok(self.node.links.load(Ordering::Relaxed))
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Content {
    /// Takes room for all missing pages of the range, or none, and lengthens the file.
    fn grow(&mut self, offset: u64, bytes: usize, room: &Room) -> io::Result<()> {
        let length = u64::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = offset.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
        let range = offset / PAGE_LENGTH..end.div_ceil(PAGE_LENGTH);
        if range.is_empty() || length == 0 {
            return Ok(());
        }
        let present = self.pages.range(range.clone()).count();
        let wanted = range.end - range.start;
        room.take(wanted - u64::try_from(present).unwrap_or(wanted))?;
        self.len = self.len.max(end);
        Ok(())
    }

    fn page(&mut self, page: u64) -> &mut [u8] {
        self.pages.entry(page).or_insert_with(|| vec![0; PAGE_BYTES].into_boxed_slice())
    }
}

impl Room {
    fn take(&self, pages: u64) -> io::Result<()> {
        let add = |used: u64| used.checked_add(pages).filter(|sum| *sum <= self.pages_max);
        match self.pages_used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn give_back(&self, pages: &BTreeMap<u64, Box<[u8]>>) {
        let pages = u64::try_from(pages.len()).unwrap_or_default();
        self.pages_used.fetch_sub(pages, Ordering::Relaxed);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.room.give_back(&self.content.get_mut().pages);
    }
}

/// The part of a range that lies in one page.
struct Piece {
    page: u64,
    /// Where it begins in the page.
    start: usize,
    /// Where it begins in the range.
    from: usize,
    bytes: usize,
}

fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = Piece> {
    let mut page = offset / PAGE_LENGTH;
    let mut start = usize::try_from(offset % PAGE_LENGTH).unwrap_or_default();
    let mut from = 0;
    std::iter::from_fn(move || {
        let piece = Piece { page, start, from, bytes: (PAGE_BYTES - start).min(bytes - from) };
        (page, start, from) = (page + 1, 0, from + piece.bytes);
        (piece.bytes > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests;
