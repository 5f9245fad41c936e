//! [`Directory`]: a real directory, with direct I/O where the file system has it.

use super::{
    Access, DirectoryLock, DurableMethod, File, Host, LockError, Profile, Storage, Wake, Word,
    device::{self, Device, FileSystem},
    host,
    probe::{self, Figures},
};
use aligned::{Alignment, Buffer};
use nix::{fcntl::OFlag, sys::utsname::uname};
use parking_lot::Mutex;
use rustix::{
    fs::{Advice, FallocateFlags},
    io::{Errno, ReadWriteFlags},
};
use std::{
    fs::{self, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A directory of the file system. Clones are handles of the same one.
///
/// Files are opened with `O_DIRECT`: what a write's completion means is then the device's business
/// and not the page cache's, and a failed write is reported by that write. Whether the directory
/// can do so is found out once, at first use; where it cannot, all its files go through the page
/// cache, durable writes are made one at a time, and [`Profile::direct`] says so.
///
/// Beside the log's files it keeps two of its own there: `lock`, which names the process that
/// writes, and `probe`, which keeps what [`Storage::probe`] measured. Both may be deleted.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Unset until a file could tell, or one may be written to find out.
    device: OnceLock<Device>,
    /// Whether this handle was used to write: before that nothing may be written to find out.
    is_writer: AtomicBool,
    /// Whether [`DurableMethod::WriteDsync`] is the method. A hint that every write reads: it
    /// orders nothing, for either method is correct at any time.
    uses_dsync: AtomicBool,
    figures: Mutex<Option<(Figures, Source)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Measured,
    Remembered,
}

/// How many direct durable writes may be under way at once. Measured on ext4 over a virtio disk
/// with 2 cores, 256 KiB writes of recycled extents, GiB/s at depth 1, 2, 4, 8: 1.0, 1.5, 2.2, 2.6.
/// Each doubling gained less, and each frame more lengthens the tail that nothing vouches for.
const DEPTH_DIRECT: u32 = 8;
const PROBE_BLOCK_BYTES: usize = 4096;
/// `FALLOC_FL_WRITE_ZEROES`, since Linux 6.17: extents that are zero and count as written.
const FALLOCATE_WRITE_ZEROES: u32 = 0x80;

impl Shared {
    fn method(&self) -> DurableMethod {
        if self.uses_dsync.load(Ordering::Relaxed) {
            DurableMethod::WriteDsync
        } else {
            DurableMethod::WriteThenSync
        }
    }
}

impl Directory {
    /// The directory at `path`, which need not exist. Nothing is done yet. A relative path stays
    /// what it means now, whatever the process changes its working directory to.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self(Arc::new(Shared {
            path: std::path::absolute(&path).unwrap_or(path),
            device: OnceLock::new(),
            is_writer: AtomicBool::new(false),
            uses_dsync: AtomicBool::new(false),
            figures: Mutex::new(None),
        }))
    }

    /// The directory at `path` as [`Directory::new`] has it, but always through the page cache.
    /// Slower, and one durable write at a time: for tests of that way, and for file systems whose
    /// direct I/O is not to be trusted.
    #[must_use]
    pub fn buffered(path: impl Into<PathBuf>) -> Self {
        let directory = Self::new(path);
        directory.0.device.get_or_init(|| Device::BUFFERED);
        directory
    }

    fn device(&self) -> Option<Device> {
        if let Some(device) = self.0.device.get() {
            return Some(*device);
        }
        let is_writer = self.0.is_writer.load(Ordering::Relaxed);
        let new_file = || is_writer.then(|| Device::of_new_file(&self.0.path)).flatten();
        let found = Device::of_directory(&self.0.path).or_else(new_file)?;
        Some(*self.0.device.get_or_init(|| found))
    }

    fn device_for(&self, path: &Path) -> Device {
        let found = self.device().or_else(|| {
            let found = Device::of_file(path)?;
            Some(*self.0.device.get_or_init(|| found))
        });
        found.unwrap_or(Device::ASSUMED)
    }

    fn open_with(&self, name: &str, options: &mut OpenOptions) -> io::Result<DirectoryFile> {
        let path = self.0.path.join(name);
        let Device { direct, alignment, .. } = self.device_for(&path);
        if direct {
            options.custom_flags(OFlag::O_DIRECT.bits());
        }
        let file = options.read(true).open(path)?;
        Ok(DirectoryFile { file, direct, alignment, shared: Arc::clone(&self.0) })
    }

    fn will_write(&self) {
        self.0.is_writer.store(true, Ordering::Relaxed);
    }

    fn adopt(&self, figures: Figures, source: Source) {
        *self.0.figures.lock() = Some((figures, source));
        let uses_dsync = figures.choice() == DurableMethod::WriteDsync;
        self.0.uses_dsync.store(uses_dsync, Ordering::Relaxed);
    }

    /// What figures are worth something for: the same device, file system, kernel and block.
    fn probe_key(&self, file_system: &FileSystem, block_bytes: usize) -> io::Result<String> {
        let device = fs::metadata(&self.0.path)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let kernel = uname()?;
        Ok(format!(
            "wal probe 1\ndevice {major}:{minor}\nfile-system {:#x}\nkernel {}\nblock {block_bytes}\n",
            file_system.magic,
            kernel.release().to_string_lossy(),
        ))
    }
}

impl Storage for Directory {
    type File = DirectoryFile;
    type Lock = DirectoryLock;

    fn create(&self) -> io::Result<()> {
        self.will_write();
        create_durably(&self.0.path)
    }

    fn lock(&self) -> Result<DirectoryLock, LockError> {
        self.will_write();
        DirectoryLock::take(&self.0.path)
    }

    fn ending(&self, lock: &DirectoryLock) {
        lock.mark_ending();
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name());
        // A name that is not UTF-8 is none of ours: changed or not, nobody asks for it.
        fs::read_dir(&self.0.path)?
            .map(|entry| name(entry).map(|name| name.to_string_lossy().into_owned()))
            .collect()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<DirectoryFile> {
        self.open_with(name, OpenOptions::new().write(access == Access::ReadWrite))
    }

    fn create_file(&self, name: &str) -> io::Result<DirectoryFile> {
        self.will_write();
        self.open_with(name, OpenOptions::new().write(true).create_new(true))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.path.join(from), self.0.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_directory(&self.0.path)
    }

    fn alignment(&self) -> Alignment {
        self.device().unwrap_or(Device::ASSUMED).alignment
    }

    fn physical_block_bytes(&self) -> u32 {
        device::physical_block_bytes(&self.0.path).unwrap_or(4096)
    }

    fn depth_max(&self) -> u32 {
        if self.device().unwrap_or(Device::ASSUMED).direct { DEPTH_DIRECT } else { 1 }
    }

    fn probe(&self, file: &DirectoryFile, offset: u64, bytes: u64) -> io::Result<()> {
        let file_system = FileSystem::of(&self.0.path)?;
        // Without direct I/O there is one sync at a time, and so nothing to gain.
        if !file.direct || !file_system.honours_dsync {
            return Ok(());
        }
        let block_bytes = PROBE_BLOCK_BYTES.max(file.alignment.bytes());
        let key = self.probe_key(&file_system, block_bytes)?;
        if let Some(figures) = probe::recall(&self.0.path, &key) {
            self.adopt(figures, Source::Remembered);
            return Ok(());
        }
        let mut block = Buffer::zeroed(file.alignment, block_bytes)?;
        let block = &*block.as_mut_slice();
        let step = length(block_bytes);
        let Some(blocks) = bytes.checked_div(step).filter(|blocks| *blocks > 0) else {
            return Ok(());
        };
        let figures = probe::measure(|method, position| {
            file.write_durable_by(method, block, offset + position % blocks * step)
        })?;
        self.adopt(figures, Source::Measured);
        // Only saves the next open a few milliseconds.
        let _ = probe::remember(&self.0.path, &key, figures);
        Ok(())
    }

    fn profile(&self) -> Profile {
        let device = self.device().unwrap_or(Device::ASSUMED);
        let file_system = FileSystem::of(&self.0.path);
        let figures = *self.0.figures.lock();
        let (Figures { write_dsync, write_then_sync }, source) =
            figures.unwrap_or((Figures::default(), Source::Measured));
        Profile {
            method: self.0.method(),
            direct: device.direct,
            logical_block_bytes: device.logical_block_bytes,
            overwrites_allocate: file_system.as_ref().is_ok_and(|found| found.overwrites_allocate),
            file_system: file_system.map_or_else(|_| "unknown".to_owned(), |found| found.name),
            write_dsync,
            write_then_sync,
            remembered: source == Source::Remembered,
        }
    }

    fn path(&self) -> PathBuf {
        self.0.path.clone()
    }
}

impl Host for Directory {
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

/// A file of a [`Directory`].
#[derive(Debug)]
pub struct DirectoryFile {
    file: fs::File,
    // Invariant: as the file was opened, whatever the directory learns afterwards.
    direct: bool,
    alignment: Alignment,
    shared: Arc<Shared>,
}

impl DirectoryFile {
    fn write_durable_by(&self, method: DurableMethod, bytes: &[u8], offset: u64) -> io::Result<()> {
        if method != DurableMethod::WriteDsync {
            self.write_at(bytes, offset)?;
            return self.sync();
        }
        self.alignment.check(bytes, offset)?;
        // Each call that returns has made durable what it wrote, so that the rest after a short
        // one is all that is left to do.
        write_all(self.alignment, bytes, offset, |rest, offset| {
            let rest = [IoSlice::new(rest)];
            Ok(rustix::io::pwritev2(&self.file, &rest, offset, ReadWriteFlags::DSYNC)?)
        })
    }
}

impl File for DirectoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.alignment.check(buffer, offset)?;
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], position(offset, done)?) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            // Only the file's end cuts a block, and going on from there would be misaligned.
            if !done.is_multiple_of(self.alignment.bytes()) {
                if position(offset, done)? < self.len()? {
                    return Err(io::Error::other("a direct read ended inside a block"));
                }
                break;
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.alignment.check(bytes, offset)?;
        write_all(self.alignment, bytes, offset, |rest, offset| self.file.write_at(rest, offset))
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_durable_by(self.shared.method(), bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // Also makes the size durable: without it the bytes could not be read back.
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        let mode = FallocateFlags::from_bits_retain(FALLOCATE_WRITE_ZEROES);
        loop {
            match rustix::fs::fallocate(&self.file, mode, offset, bytes) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn links(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.nlink())
    }

    fn drop_cache(&self) -> io::Result<()> {
        if !self.direct {
            rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }
}

fn write_all(
    alignment: Alignment,
    bytes: &[u8],
    offset: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match write(&bytes[done..], position(offset, done)?) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !done.is_multiple_of(alignment.bytes()) {
            return Err(io::Error::other("a direct write ended inside a block"));
        }
        if planted!("short-write-ignored") {
            break;
        }
    }
    Ok(())
}

fn position(offset: u64, done: usize) -> io::Result<u64> {
    offset.checked_add(length(done)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn length(bytes: usize) -> u64 {
    // Linux has no machine whose addresses are wider than 64 bits.
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Makes `path` and the directories above it that are missing, top down, each durable in its
/// parent before the next is made. A crash of this very function so leaves at most the lowest one
/// that exists not yet durable: that one is made so again.
fn create_durably(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match fs::metadata(existing) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(existing),
            Err(error) => return Err(error),
        }
        existing = existing.parent().ok_or(io::ErrorKind::NotFound)?;
    }
    match existing.parent().map_or(Ok(()), sync_directory) {
        // Whoever may not read the parent did not make the directory in it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        synced => synced?,
    }
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made?,
        }
        path.parent().map_or(Ok(()), sync_directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
