//! [`DirectoryLock`]: exclusive use of a directory, within this process and among all.

use super::LockError;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process,
};

/// The file that is locked and that names the holder.
pub(super) const LOCK_NAME: &str = "lock";

/// Directories that this process holds, by device and inode so that no second path leads around
/// it, with the process that took them. After a fork the child sees a copy of its parent's
/// entries: they are not its own, and the pid tells; there the kernel's lock alone decides.
///
/// The kernel's lock would refuse a second open here as well, but a container's or network file
/// system may not implement it, and two logs in one process are the likelier mistake.
static HELD: Mutex<BTreeMap<(u64, u64), Holder>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Copy, Debug)]
struct Holder {
    pid: u32,
    /// Whether the log has ended that it is held for.
    is_ending: bool,
}

/// Exclusive use of a directory, given back when dropped.
///
/// Two locks are held. The one on the directory itself is the one to rely on: a `lock` file that
/// someone removes, because an error message named it, is created anew and locked by the next
/// process while the first still writes. The one on the `lock` file is for file systems that
/// cannot lock a directory (NFS wants a descriptor open for writing), and it says who holds it.
///
/// A forked child has the same open files. Dropping its copy of the guard only closes them: to
/// unlock there would take the lock from the parent, for both share one lock. As long as a child
/// neither drops the guard nor executes another program (the files are close-on-exec), it keeps
/// the lock of a parent that died without dropping its own.
#[derive(Debug)]
pub struct DirectoryLock {
    directory: File,
    file: File,
    key: (u64, u64),
    pid: u32,
}

impl DirectoryLock {
    /// Takes `directory`, or says who has it. Never waits.
    pub(super) fn take(directory: &Path) -> Result<Self, LockError> {
        let handle = File::open(directory).map_err(LockError::Io)?;
        let metadata = handle.metadata().map_err(LockError::Io)?;
        if !metadata.is_dir() {
            return Err(LockError::Io(io::ErrorKind::NotADirectory.into()));
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(LOCK_NAME))
            .map_err(LockError::Io)?;

        let pid = process::id();
        let key = (metadata.dev(), metadata.ino());
        let mut held = HELD.lock();
        let own = held.get(&key).filter(|holder| holder.pid == pid);
        if let Some(holder) = own.filter(|_| !planted!("second-opener-let-in")) {
            let error = LockError::Held { pid: Some(pid) };
            return Err(if holder.is_ending { LockError::Ending } else { error });
        }
        held.insert(key, Holder { pid, is_ending: false });
        drop(held);
        // From here on the guard exists: every early return takes the entry out again.
        let mut guard = Self { directory: handle, file, key, pid };
        match guard.directory.try_lock() {
            Ok(()) => {}
            Err(_) if planted!("second-opener-let-in") => return Ok(guard),
            Err(TryLockError::WouldBlock) => return Err(guard.held_by_another()),
            // Left to the lock on the file.
            Err(TryLockError::Error(_)) => {}
        }
        match guard.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(guard.held_by_another()),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        guard.write_pid().map_err(LockError::Io)?;
        Ok(guard)
    }

    /// Notes that the log has ended that took this.
    pub(super) fn mark_ending(&self) {
        let mut held = HELD.lock();
        if let Some(holder) = held.get_mut(&self.key).filter(|holder| holder.pid == self.pid) {
            holder.is_ending = true;
        }
    }

    fn held_by_another(&mut self) -> LockError {
        // A holder that has not written its pid yet leaves an empty file, or the pid of the one
        // before it: a message can be wrong for an instant, the refusal cannot.
        let mut text = String::new();
        let read = (&self.file).take(32).read_to_string(&mut text);
        LockError::Held { pid: read.ok().and_then(|_| text.trim().parse().ok()) }
    }

    fn write_pid(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all(format!("{}\n", self.pid).as_bytes())
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        if process::id() != self.pid {
            return;
        }
        // Unlocked by name and not by closing: a child forked meanwhile holds the same open files
        // and would keep the lock. An error leaves nothing to do; closing follows at once.
        let _ = self.file.unlock();
        let _ = self.directory.unlock();
        // Last, so that no other thread finds the entry gone and the lock still held.
        HELD.lock().remove(&self.key);
    }
}
