/*!
[`Disk`]: a disk that remembers everything that was done to it, and can fail in every way.

It implements the log's own [`Storage`], in a [`World`]. What it holds *now* is what a program sees
that goes on; what it would hold after a crash is in its history: see [`Disk::crash`], and `explore`,
which tries many crashes after one life.
*/

mod choice;
mod content;
mod crash;
mod fault;
mod file;
mod history;
mod image;
mod loss;
mod options;
mod storage;

pub(crate) use choice::{Choice, Fate, NamesFate};
pub(crate) use crash::{Cursor, Tearing};
pub use fault::{Effect, Fault, Verb};
pub use file::DiskFile;
pub(crate) use history::{Event, History, Kind};
pub use image::Image;
pub use options::{DiskOptions, Sector};
pub use storage::DiskLock;

use crate::{random::Random, world::World};
use content::Content;
use fault::Faults;
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};
use wal::io::{Access, Host as _};

/// A simulated disk with one directory. Clones are handles of the same one.
///
/// ```
/// use wal_sim::{Disk, DiskOptions, World};
///
/// let world = World::new(1);
/// let disk = Disk::new(&world, &DiskOptions::new());
/// world.run(|| {
///     let mut replay = wal::Options::new().segment_bytes(64 << 10).open_in(disk.clone()).unwrap();
///     assert!(replay.next().unwrap().is_none());
///     let (wal, _) = replay.finish().unwrap();
///     wal.append(b"hello").unwrap().wait().unwrap();
/// })
/// .unwrap();
/// assert!(disk.moment() > 0);
/// ```
#[derive(Clone)]
pub struct Disk {
    world: World,
    shared: Arc<Shared>,
}

struct Shared {
    options: DiskOptions,
    state: Mutex<State>,
    /// What it held when this life began, all of it durable.
    origin: Origin,
}

#[derive(Clone, Debug, Default)]
struct Origin {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
}

struct State {
    random: Random,
    exists: bool,
    held: Option<Holder>,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    history: History,
    faults: Faults,
    rotten: u64,
}

/// Who has a [`Disk`] for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Log,
    /// A log that has ended, while calls of it are under way.
    EndedLog,
}

/// A call that was begun.
struct Begun {
    effect: Option<Effect>,
    op: Option<usize>,
}

impl Disk {
    /// An empty disk in `world`, without even the directory.
    #[must_use]
    pub fn new(world: &World, options: &DiskOptions) -> Self {
        Self::with(world, options.clone(), Origin::default(), false)
    }

    /// The disk that `image` says, in another `world`: all it holds is durable.
    #[must_use]
    pub fn of_image(world: &World, image: &Image) -> Self {
        let mut origin = Origin::default();
        for (name, content) in &image.files {
            origin.names.insert(name.clone(), origin.files.len());
            origin.files.push(content.clone());
        }
        Self::with(world, image.options.clone(), origin, image.exists)
    }

    fn with(world: &World, options: DiskOptions, origin: Origin, exists: bool) -> Self {
        let state = State {
            random: Random::new(world.random()),
            exists,
            held: None,
            files: origin.files.clone(),
            names: origin.names.clone(),
            history: History::default(),
            faults: Faults::default(),
            rotten: 0,
        };
        let shared = Shared { options, state: Mutex::new(state), origin };
        Self { world: world.clone(), shared: Arc::new(shared) }
    }

    /// The world it belongs to.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What kind of disk it is.
    pub fn options(&self) -> &DiskOptions {
        &self.shared.options
    }

    /// Has calls go wrong.
    pub fn plant(&self, fault: Fault) {
        self.shared.state.lock().faults.plant(fault);
    }

    /// Forgets all faults that were planted; calls that hang return.
    pub fn heal(&self) {
        self.shared.state.lock().faults.clear();
        self.world.end_hanging_calls();
    }

    /// How often `verb` was called.
    #[must_use]
    pub fn calls(&self, verb: Verb) -> u64 {
        self.shared.state.lock().faults.count(verb)
    }

    /// How often anything was called.
    #[must_use]
    pub fn calls_in_all(&self) -> u64 {
        self.shared.state.lock().faults.count_all()
    }

    /// How many calls went wrong because a fault said so.
    #[must_use]
    pub fn faults_struck(&self) -> u64 {
        self.shared.state.lock().faults.struck()
    }

    /// Where its history is: the number of beginnings and ends of operations that change something or
    /// make it durable.
    #[must_use]
    pub fn moment(&self) -> usize {
        self.shared.state.lock().history.events.len()
    }

    /// One number for everything that was done to it, in its order: the same for the same seed.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.shared.state.lock().history.digest()
    }

    /// Everything that was done to it, in words.
    #[must_use]
    pub fn story(&self) -> Vec<String> {
        let state = self.shared.state.lock();
        let tell = |event: &Event| match *event {
            Event::Begin(op) => format!("{op} begins: {}", state.history.ops[op]),
            Event::End(op) if state.history.ops[op].is_ok => format!("{op} ends"),
            Event::End(op) => {
                format!("{op} fails, {} bytes taken", state.history.ops[op].taken)
            }
            Event::Drop(op) => {
                format!("{op} cannot flush, forgotten: {:?}", state.history.ops[op].dropped)
            }
        };
        state.history.events.iter().map(tell).collect()
    }

    /// What it holds now, as a program sees it that goes on.
    #[must_use]
    pub fn image(&self) -> Image {
        let state = self.shared.state.lock();
        let file = |index: usize| state.files[index].clone();
        let files = state.names.iter().map(|(name, index)| (name.clone(), file(*index)));
        Image { files: files.collect(), exists: state.exists, options: self.options().clone() }
    }

    /// What it could hold if the power failed now: one of many possibilities, chosen by `random`.
    #[must_use]
    pub fn crash(&self, random: &mut Random) -> Image {
        self.crash_by(|end| random.below(end))
    }

    /// The same, chosen by `below`, which answers a number below the one that it is given. So a
    /// fuzzer's input says what becomes of each write that was not durable: the numbers 0 to 4 of 16
    /// keep it whole, 5 to 7 lose it, the others tear it.
    #[must_use]
    pub fn crash_by(&self, mut below: impl FnMut(u64) -> u64) -> Image {
        let history = self.history();
        let mut cursor = self.cursor(&history);
        while cursor.step().is_some() {}
        let limits = self.options().limits();
        let choice =
            Choice::any(cursor.writes_pending(), cursor.names_pending(), limits, &mut below);
        self.image_at(&cursor, &choice)
    }

    /// Changes bytes at rest, durably: `mask` is laid over the byte at `offset` of file `name`.
    /// Answers whether there is such a byte.
    pub fn rot(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut state = self.shared.state.lock();
        let Some(&file) = state.names.get(name) else { return false };
        let Ok(offset) = usize::try_from(offset) else { return false };
        let sector = self.options().sector_bytes();
        let start = offset / sector * sector;
        let mut bytes = vec![0; sector];
        let there = state.files[file].read(&mut bytes, start);
        if offset - start >= there {
            return false;
        }
        bytes[offset - start] ^= mask;
        let data = content::Data::new(&bytes[..there]);
        state.files[file].write(&data, start, 0..there);
        let op =
            state.history.begin(Kind::Write { file, offset: start, data, durable: true }, true);
        state.history.end(op, true);
        state.rotten += 1;
        true
    }

    pub(crate) fn history(&self) -> History {
        self.shared.state.lock().history.clone()
    }

    pub(crate) fn cursor<'h>(&self, history: &'h History) -> Cursor<'h> {
        let Origin { files, names } = &self.shared.origin;
        Cursor::new(history, files, names, self.tearing())
    }

    /// The name that a file has now.
    pub(crate) fn name_of(&self, file: usize) -> Option<String> {
        let state = self.shared.state.lock();
        let named = state.names.iter().find(|(_, number)| **number == file);
        named.map(|(name, _)| name.clone())
    }

    pub(crate) fn image_at(&self, cursor: &Cursor<'_>, choice: &Choice) -> Image {
        let exists = self.shared.state.lock().exists;
        let files = cursor.image(choice);
        Image { files, exists, options: self.options().clone() }
    }

    fn tearing(&self) -> Tearing {
        let options = self.options();
        Tearing { sector_bytes: options.sector_bytes(), stale: options.stale }
    }

    /// Counts a call, and writes its beginning in the history, if it changes something; then lets its
    /// time pass.
    fn begin(
        &self,
        verb: Verb,
        name: &str,
        kind: impl FnOnce(&mut State, Option<Effect>) -> Option<Kind>,
    ) -> io::Result<Begun> {
        if self.world.is_dark() {
            return Err(io::Error::other("there is no power"));
        }
        let mut state = self.shared.state.lock();
        let struck = state.faults.strike(verb, name);
        let effect = struck.map(|struck| struck.effect);
        let op = kind(&mut state, effect).map(|kind| {
            let is_honest = effect != Some(Effect::Lie);
            state.history.begin(kind, is_honest)
        });
        if effect == Some(Effect::PowerCut) {
            drop(state);
            self.world.cut_power();
            return Err(io::Error::other("there is no power"));
        }
        let options = &self.shared.options;
        let takes_time = matches!(
            verb,
            Verb::Write | Verb::WriteDurable | Verb::Sync | Verb::SyncDir | Verb::WriteZeroes
        );
        let mut time = Duration::ZERO;
        if takes_time {
            let spread = u64::try_from(options.latency.spread.as_nanos()).unwrap_or(u64::MAX);
            time = options.latency.least + Duration::from_nanos(state.random.below(spread));
        }
        let time = match effect {
            Some(Effect::Hang) => None,
            _ => Some(time + struck.map_or(Duration::ZERO, |struck| struck.late)),
        };
        let loses = op.filter(|_| self.loses(verb, effect));
        let half = loses.map(|_| Duration::from_nanos(state.random.below(nanos(time) + 1)));
        drop(state);
        // Whoever is told of it may be told much later than the device forgets.
        let time = if let (Some(op), Some(half)) = (loses, half) {
            self.world.disk_takes(verb_name(verb), Some(half));
            if !self.world.is_dark() {
                self.forget(op, struck.is_some_and(|struck| struck.drops_cache));
            }
            time.map(|time| time.saturating_sub(half))
        } else {
            time
        };
        self.world.disk_takes(verb_name(verb), time);
        if self.world.is_dark() {
            return Err(io::Error::other("there is no power"));
        }
        Ok(Begun { effect, op })
    }

    /// A call that needs the directory, and does `work` with it unless a fault says otherwise.
    fn with_names<T>(
        &self,
        verb: Verb,
        name: &str,
        kind: impl FnOnce(&mut State, Option<Effect>) -> Option<Kind>,
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let begun = self.begin(verb, name, kind)?;
        let mut state = self.shared.state.lock();
        let failure = fault::error(begun.effect);
        let does_it = failure.is_none() || begun.effect == Some(Effect::EioButDone);
        let result = match (state.exists, does_it) {
            (false, _) => Err(io::ErrorKind::NotFound.into()),
            (true, true) => work(&mut state),
            (true, false) => Err(io::ErrorKind::Other.into()),
        };
        if let Some(op) = begun.op {
            // What was done is in the history, whatever the caller is told.
            let is_ok = result.is_ok() && (failure.is_none() || !is_sync(&state, op));
            state.history.end(op, is_ok);
        }
        match failure {
            Some(error) => Err(error),
            None => result,
        }
    }

    fn file_of(&self, file: usize, name: &str, access: Access) -> DiskFile {
        DiskFile { disk: self.clone(), file, name: name.to_owned(), access }
    }
}

fn nanos(time: Option<Duration>) -> u64 {
    u64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX - 1)
}

fn is_sync(state: &State, op: usize) -> bool {
    matches!(state.history.ops[op].kind, Kind::SyncDir | Kind::Sync { .. })
}

fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Write => "write",
        Verb::WriteDurable => "durable write",
        Verb::Sync => "sync",
        Verb::SyncDir => "sync of the directory",
        Verb::Read => "read",
        _ => "call",
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("Disk")
            .field("names", &state.names)
            .field("moment", &state.history.events.len())
            .finish_non_exhaustive()
    }
}
