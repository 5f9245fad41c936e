//! The log's own seam, on a [`Disk`].

use super::{Content, Disk, DiskFile, Holder, NameChange, Shared};
use aligned::Alignment;
use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};
use wal::io::{Access, DurableMethod, Host, LockError, Memory, Profile, Storage, Wake, Word};

impl Storage for Disk {
    type File = DiskFile;
    type Lock = DiskLock;

    fn create(&self) -> io::Result<()> {
        self.shared.state.lock().exists = true;
        Ok(())
    }

    fn lock(&self) -> Result<DiskLock, LockError> {
        let mut state = self.shared.state.lock();
        if !state.exists {
            return Err(LockError::Io(io::ErrorKind::NotFound.into()));
        }
        match state.held {
            Some(Holder::Log) => return Err(LockError::Held { pid: None }),
            Some(Holder::EndedLog) => return Err(LockError::Ending),
            None => state.held = Some(Holder::Log),
        }
        Ok(DiskLock(Arc::clone(&self.shared)))
    }

    fn ending(&self, lock: &DiskLock) {
        lock.0.state.lock().held = Some(Holder::EndedLog);
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.shared.state.lock();
        if !state.exists {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<DiskFile> {
        let state = self.shared.state.lock();
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(DiskFile { disk: self.clone(), file })
    }

    fn create_file(&self, name: &str) -> io::Result<DiskFile> {
        self.switch();
        self.about_to_change();
        let mut state = self.shared.state.lock();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.names.insert(name.to_owned(), file);
        state.name_changes.push(NameChange::Is(name.to_owned(), file));
        Ok(DiskFile { disk: self.clone(), file })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.switch();
        self.about_to_change();
        let mut state = self.shared.state.lock();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.name_changes.push(NameChange::Is(to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.switch();
        self.about_to_change();
        let mut state = self.shared.state.lock();
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.name_changes.push(NameChange::Gone(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.flush_beside()?;
        let covered = self.shared.state.lock().name_changes.len();
        self.switch();
        self.about_to_change();
        let mut state = self.shared.state.lock();
        state.names_durable = state.names_durable.max(covered);
        Ok(())
    }

    fn alignment(&self) -> Alignment {
        Alignment::SECTOR_512
    }

    fn physical_block_bytes(&self) -> u32 {
        4096
    }

    fn depth_max(&self) -> u32 {
        self.shared.depth
    }

    fn probe(&self, _file: &DiskFile, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn profile(&self) -> Profile {
        // `Profile` may only grow: a copy of the one that the memory storage gives is changed.
        let mut profile = Memory::new().profile();
        profile.method = DurableMethod::WriteDsync;
        profile.direct = true;
        profile.logical_block_bytes = 512;
        "simulated".clone_into(&mut profile.file_system);
        profile
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("simulated")
    }
}

impl Host for Disk {
    fn now(&self) -> Duration {
        self.threads.now()
    }

    fn unix_time(&self) -> Duration {
        self.threads.unix_time()
    }

    fn random(&self) -> u64 {
        self.threads.random()
    }

    fn sleep(&self, time: Duration) {
        self.threads.sleep(time);
    }

    fn yield_now(&self) {
        self.threads.yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.threads.spawn(name, work)
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        self.threads.wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        self.threads.wake(word, who);
    }

    fn processors(&self) -> u32 {
        self.threads.processors()
    }
}

/// Exclusive use of a [`Disk`], given back when dropped.
pub struct DiskLock(Arc<Shared>);

impl Drop for DiskLock {
    fn drop(&mut self) {
        self.0.state.lock().held = None;
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskLock").finish_non_exhaustive()
    }
}
