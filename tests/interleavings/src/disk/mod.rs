/*!
[`Disk`]: a disk in memory that knows what a power cut would leave.

| what | durable since | after a power cut |
|---|---|---|
| a write, a length | its own end if it is durable, or the end of a sync that began after it had ended | whole |
| | before | whole, absent, or torn by sectors, some of them garbage |
| | before, and a flush has failed meanwhile | its effect on the length of the file, no more: the device has dropped its cache |
| a name | the end of a sync of the directory that began after | there |
| | before | names survive as a prefix of what was done to them |

Every write and sync lets others run between its beginning and its end. Errors, lies, rot and full disks
are for `wal-sim`; here at most one durable write fails, and stays one that may survive in any part, or one
flush beside the frames.
*/

mod storage;

pub use storage::DiskLock;

use crate::threads::{Threads, below};
use parking_lot::Mutex;
use shuttle::sync::atomic::AtomicU32;
use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use wal::io::{File, Host as _, Storage as _};
use wal_sim::Random;

const SECTOR_BYTES: usize = 512;

/// A disk with one directory, in the execution it was made in. Clones are handles of the same one.
#[derive(Clone)]
pub struct Disk {
    threads: Threads,
    shared: Arc<Shared>,
}

struct Shared {
    depth: u32,
    state: Mutex<State>,
    /// Where others may run.
    switch: AtomicU32,
    /// Called before anything changes that a power cut could show.
    watcher: Mutex<Option<Watcher>>,
}

type Watcher = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    exists: bool,
    held: Option<Holder>,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    /// Everything done to names, and how much of it is durable.
    name_changes: Vec<NameChange>,
    names_durable: usize,
    /// Which durable write from now on fails.
    fails_in: Option<u64>,
    durable_writes: u64,
    /// Which flush from now on that is no frame's fails, and the number of its error.
    flush_fails_in: Option<(u64, i32)>,
}

/// Who has a [`Disk`] for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Log,
    /// A log that has ended, while calls of it are under way.
    EndedLog,
}

#[derive(Default)]
struct Content {
    /// As a program sees it that goes on.
    live: Vec<u8>,
    changes: Vec<Change>,
}

struct Change {
    kind: Kind,
    has_ended: bool,
    is_durable: bool,
    /// The device has dropped it with its cache. Whoever flushes it hears nothing of that.
    is_lost: bool,
}

enum Kind {
    Write { offset: usize, bytes: Arc<[u8]> },
    Length(usize),
}

#[derive(Clone)]
enum NameChange {
    Is(String, usize),
    Gone(String),
}

/// What a disk held when the power was cut.
#[derive(Clone, Default)]
pub struct Image {
    exists: bool,
    files: BTreeMap<String, Vec<u8>>,
}

impl Disk {
    /// An empty disk that allows `depth` durable writes of a file at once.
    #[must_use]
    pub fn new(threads: &Threads, depth: u32) -> Self {
        Self::of_image(threads, depth, &Image::default())
    }

    /// The disk that `image` says, all it holds durable.
    #[must_use]
    pub fn of_image(threads: &Threads, depth: u32, image: &Image) -> Self {
        let mut state = State { exists: image.exists, ..State::default() };
        for (name, bytes) in &image.files {
            let kind = Kind::Write { offset: 0, bytes: bytes.as_slice().into() };
            let changes = vec![Change { kind, has_ended: true, is_durable: true, is_lost: false }];
            state.name_changes.push(NameChange::Is(name.clone(), state.files.len()));
            state.names.insert(name.clone(), state.files.len());
            state.files.push(Content { live: bytes.clone(), changes });
        }
        state.names_durable = state.name_changes.len();
        let (switch, watcher) = (AtomicU32::new(0), Mutex::new(None));
        let shared = Shared { depth, state: Mutex::new(state), switch, watcher };
        Self { threads: threads.clone(), shared: Arc::new(shared) }
    }

    /// Has the durable write after `writes` more fail, part of it done.
    pub fn fail_after(&self, writes: u64) {
        self.shared.state.lock().fails_in = Some(writes);
    }

    /// Has the flush after `flushes` more fail with the error of this number: of those that are no frame's,
    /// the syncs of slots and of the directory, and a header's write. The device drops its cache, and
    /// whoever asked is told some time later.
    pub fn fail_a_flush(&self, flushes: u64, errno: i32) {
        self.shared.state.lock().flush_fails_in = Some((flushes, errno));
    }

    /// How many durable writes were begun.
    #[must_use]
    pub fn durable_writes(&self) -> u64 {
        self.shared.state.lock().durable_writes
    }

    /// Calls `watcher` before each change from now on.
    pub(crate) fn watch(&self, watcher: impl Fn() + Send + Sync + 'static) {
        *self.shared.watcher.lock() = Some(Arc::new(watcher));
    }

    /// What it holds now, for who goes on.
    #[must_use]
    pub fn image(&self) -> Image {
        let state = self.shared.state.lock();
        let content = |file: usize| state.files[file].live.clone();
        let files = state.names.iter().map(|(name, file)| (name.clone(), content(*file)));
        Image { exists: state.exists, files: files.collect() }
    }

    /// What it could hold if the power were cut now: one of the possibilities.
    #[must_use]
    pub fn crash(&self) -> Image {
        let mut random = Random::new(self.threads.random());
        let state = self.shared.state.lock();
        // A mood for all of it: where everything survives, or nothing, much of what goes wrong shows.
        let mood = random.below(4);
        let pending = state.name_changes.len() - state.names_durable;
        let survive = state.names_durable + random.index(pending + 1);
        let mut names = BTreeMap::new();
        for change in &state.name_changes[..survive] {
            match change {
                NameChange::Is(name, file) => {
                    names.retain(|_, other| other != file);
                    names.insert(name.clone(), *file);
                }
                NameChange::Gone(name) => drop(names.remove(name)),
            }
        }
        let contents: Vec<_> =
            state.files.iter().map(|file| file.after_crash(mood, &mut random)).collect();
        let files = names.into_iter().map(|(name, file)| (name, contents[file].clone()));
        Image { exists: state.exists, files: files.collect() }
    }

    fn switch(&self) {
        self.shared.switch.fetch_add(1, Ordering::SeqCst);
    }

    /// A disk is slow: a write that is begun beside another may end long before it. With a switch or two
    /// nearly every write would end before the next one began.
    fn take_its_time(&self) {
        const TURNS_MAX: u64 = 12;
        (0..=below(TURNS_MAX)).for_each(|_| self.switch());
        self.threads.pass(Duration::from_micros(50));
    }

    /// A flush that is no frame's begins; if it is the one that fails, all of its time has passed when this
    /// returns.
    fn flush_beside(&self) -> io::Result<()> {
        let Some(errno) = self.shared.state.lock().strikes_beside() else { return Ok(()) };
        self.take_its_time();
        self.about_to_change();
        self.shared.state.lock().files.iter_mut().for_each(Content::drop_cache);
        self.take_its_time();
        Err(io::Error::from_raw_os_error(errno))
    }

    fn about_to_change(&self) {
        let watcher = self.shared.watcher.lock().clone();
        if let Some(watcher) = watcher {
            watcher();
        }
    }
}

impl Content {
    /// The device drops what it has not flushed, and what it is just being given.
    fn drop_cache(&mut self) {
        self.changes.iter_mut().for_each(|change| change.is_lost |= !change.is_durable);
        let mut random = Random::new(0);
        let mut live = Vec::new();
        for change in self.changes.iter().filter(|change| change.has_ended) {
            change.apply(&mut live, Fate::Whole, &mut random);
        }
        self.live = live;
    }

    fn after_crash(&self, mood: u64, random: &mut Random) -> Vec<u8> {
        let mut bytes = Vec::new();
        for change in &self.changes {
            let fate = match (change.is_durable, mood) {
                (true, _) | (_, 0) => Fate::Whole,
                (_, 1) => Fate::Absent,
                _ => random.choose(&[Fate::Whole, Fate::Absent, Fate::Torn, Fate::Garbage]),
            };
            change.apply(&mut bytes, fate, random);
        }
        bytes
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Whole,
    Absent,
    Torn,
    Garbage,
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>, fate: Fate, random: &mut Random) {
        if fate == Fate::Absent {
            return;
        }
        match &self.kind {
            Kind::Length(length) => content.resize(*length, 0),
            Kind::Write { offset, bytes } => {
                content.resize(content.len().max(offset + bytes.len()), 0);
                if self.is_lost {
                    return;
                }
                for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let start = offset + number * SECTOR_BYTES;
                    let place = &mut content[start..start + sector.len()];
                    match fate {
                        Fate::Garbage if random.one_in(4) => random.fill(place),
                        Fate::Torn | Fate::Garbage if random.one_in(2) => {}
                        _ => place.copy_from_slice(sector),
                    }
                }
            }
        }
    }
}

/// An open file of a [`Disk`].
pub struct DiskFile {
    disk: Disk,
    file: usize,
}

impl DiskFile {
    /// A change begins, others run, and it ends.
    fn change(&self, kind: Kind, is_durable: bool) -> io::Result<()> {
        self.disk.about_to_change();
        let (number, fails) = {
            let mut state = self.disk.shared.state.lock();
            let fails = is_durable && state.strikes();
            let content = &mut state.files[self.file];
            content.changes.push(Change {
                kind,
                has_ended: false,
                is_durable: false,
                is_lost: false,
            });
            (content.changes.len() - 1, fails)
        };
        self.disk.take_its_time();
        self.disk.about_to_change();
        {
            let mut state = self.disk.shared.state.lock();
            let Content { live, changes } = &mut state.files[self.file];
            let change = &mut changes[number];
            let fate = if fails { Fate::Torn } else { Fate::Whole };
            change.apply(live, fate, &mut Random::new(self.disk.threads.random()));
            change.has_ended = true;
            change.is_durable = is_durable && !fails;
        }
        self.disk.switch();
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn write(&self, bytes: &[u8], offset: u64, is_durable: bool) -> io::Result<()> {
        self.disk.alignment().check(bytes, offset)?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(Kind::Write { offset, bytes: bytes.into() }, is_durable)
    }
}

impl State {
    /// The error of the flush that begins now, if it fails.
    fn strikes_beside(&mut self) -> Option<i32> {
        let (left, errno) = self.flush_fails_in?;
        self.flush_fails_in = left.checked_sub(1).map(|left| (left, errno));
        (left == 0).then_some(errno)
    }

    /// Whether the durable write that begins now fails.
    fn strikes(&mut self) -> bool {
        self.durable_writes += 1;
        let left = self.fails_in;
        self.fails_in = left.and_then(|left| left.checked_sub(1));
        left == Some(0)
    }
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.alignment().check(buffer, offset)?;
        self.disk.switch();
        let state = self.disk.shared.state.lock();
        let live = &state.files[self.file].live;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(live.len());
        let there = &live[start..(start + buffer.len()).min(live.len())];
        buffer[..there.len()].copy_from_slice(there);
        Ok(there.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write(bytes, offset, false)
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // A header's: it may be there all the same, and is not.
        if offset == 0 {
            self.disk.flush_beside()?;
        }
        self.write(bytes, offset, true)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.flush_beside()?;
        let covered: Vec<usize> = {
            let state = self.disk.shared.state.lock();
            let changes = state.files[self.file].changes.iter().enumerate();
            changes.filter(|(_, change)| change.has_ended).map(|(number, _)| number).collect()
        };
        self.disk.switch();
        self.disk.threads.pass(Duration::from_micros(50));
        self.disk.about_to_change();
        let mut state = self.disk.shared.state.lock();
        for number in covered {
            state.files[self.file].changes[number].is_durable = true;
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(Kind::Length(length), false)
    }

    fn write_zeroes(&self, _offset: u64, _bytes: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn len(&self) -> io::Result<u64> {
        let length = self.disk.shared.state.lock().files[self.file].live.len();
        u64::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge.into())
    }

    fn links(&self) -> io::Result<u64> {
        let state = self.disk.shared.state.lock();
        let names = state.names.values().filter(|file| **file == self.file);
        Ok(u64::try_from(names.count()).unwrap_or(u64::MAX))
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskFile").field("file", &self.file).finish_non_exhaustive()
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("names", &self.shared.state.lock().names)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.files.iter().map(|(name, bytes)| (name, bytes.len()));
        f.debug_map().entries(lengths).finish()
    }
}
