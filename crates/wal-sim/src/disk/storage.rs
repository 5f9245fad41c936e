//! The log's own seam, on a [`Disk`].

use super::{
    Disk, DiskFile, Effect, Holder, Shared, State, Verb, content::Content, fault, history::Kind,
};
use aligned::Alignment;
use std::{cell::Cell, fmt, io, path::PathBuf, sync::Arc, time::Duration};
use wal::io::{Access, Host, LockError, Memory, Profile, Storage, Wake, Word};

impl Storage for Disk {
    type File = DiskFile;
    type Lock = DiskLock;

    fn create(&self) -> io::Result<()> {
        let begun = self.begin(Verb::Create, "", |_, _| None)?;
        match fault::error(begun.effect) {
            Some(error) => Err(error),
            None => {
                self.shared.state.lock().exists = true;
                Ok(())
            }
        }
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
        let names = |state: &mut State| Ok(state.names.keys().cloned().collect());
        self.with_names(Verb::List, "", |_, _| None, names)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<DiskFile> {
        self.with_names(
            Verb::Open,
            name,
            |_, _| None,
            |state| {
                let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
                Ok(self.file_of(file, name, access))
            },
        )
    }

    fn create_file(&self, name: &str) -> io::Result<DiskFile> {
        let number = Cell::new(0);
        let kind = |state: &mut State, _: Option<Effect>| {
            if state.names.contains_key(name) {
                return None;
            }
            // Two calls at once get two numbers, and one that fails wastes its own.
            number.set(state.files.len());
            state.files.push(Content::default());
            Some(Kind::Create { name: name.to_owned(), file: number.get() })
        };
        self.with_names(Verb::CreateFile, name, kind, |state| {
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.names.insert(name.to_owned(), number.get());
            Ok(self.file_of(number.get(), name, Access::ReadWrite))
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let kind = |state: &mut State, _: Option<Effect>| {
            let file = *state.names.get(from)?;
            Some(Kind::Rename { from: from.to_owned(), to: to.to_owned(), file })
        };
        self.with_names(Verb::Rename, from, kind, |state| {
            let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let kind = |state: &mut State, _: Option<Effect>| {
            let there = state.names.contains_key(name);
            there.then(|| Kind::Remove { name: name.to_owned() })
        };
        self.with_names(Verb::Remove, name, kind, |state| {
            state.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.with_names(Verb::SyncDir, "", |_, _| Some(Kind::SyncDir), |_| Ok(()))
    }

    fn alignment(&self) -> Alignment {
        self.shared.options.sector.alignment()
    }

    fn physical_block_bytes(&self) -> u32 {
        u32::try_from(self.shared.options.sector_bytes()).unwrap_or(u32::MAX)
    }

    fn depth_max(&self) -> u32 {
        self.shared.options.depth
    }

    fn probe(&self, file: &DiskFile, offset: u64, bytes: u64) -> io::Result<()> {
        let begun = self.begin(Verb::Probe, &file.name, |_, _| None)?;
        if let Some(error) = fault::error(begun.effect) {
            return Err(error);
        }
        if self.shared.options.probes { file.scribble(offset, bytes) } else { Ok(()) }
    }

    fn profile(&self) -> Profile {
        // `Profile` may only grow: a copy of the one that the memory storage gives is changed.
        let mut profile = Memory::new().profile();
        profile.method = self.shared.options.method;
        profile.direct = !self.shared.options.cached;
        profile.logical_block_bytes =
            u32::try_from(self.shared.options.sector_bytes()).unwrap_or(u32::MAX);
        "simulated".clone_into(&mut profile.file_system);
        profile
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("simulated")
    }
}

impl Host for Disk {
    fn now(&self) -> Duration {
        self.world.now()
    }

    fn unix_time(&self) -> Duration {
        self.world.unix_time()
    }

    fn random(&self) -> u64 {
        Host::random(&self.world)
    }

    fn sleep(&self, time: Duration) {
        self.world.sleep(time);
    }

    fn yield_now(&self) {
        self.world.yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let struck = self.shared.state.lock().faults.strike(Verb::Spawn, name);
        match fault::error(struck.map(|struck| struck.effect)) {
            Some(error) => Err(error),
            None => Host::spawn(&self.world, name, work),
        }
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        self.world.wait(word, seen, timeout);
    }

    fn wake(&self, word: &Word, who: Wake) {
        self.world.wake(word, who);
    }

    fn processors(&self) -> u32 {
        self.world.processors()
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
