/*!
[`Explorer`]: lives a program's life, kills it in every way, and has each recovery checked.

One life of the program gives thousands of states: every moment of its history is a possible end,
and for each there are all the ways in which the disk may keep or lose what was not durable. The
program is not run again for them; only its recovery is, once a state.
*/

mod life;
mod outcome;
mod place;
mod shrink;
mod silent;

pub use life::Life;
pub use outcome::{Coverage, Failure};
pub use place::Place;
pub use silent::Damage;

use crate::{
    disk::{Choice, Cursor, Disk, DiskOptions, History, Image, Kind},
    random::{Random, mix},
};
use life::{Notes, Size};
use parking_lot::Mutex;
use place::Death;
use silent::Silent;
use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

/// The variable that holds the [`Place`] to go straight to.
pub const REPLAY_VARIABLE: &str = "WAL_SIM_REPLAY";

/// At most so many choices of a moment are tried exhaustively.
const EXHAUSTIVE_MAX: usize = 48;
/// So many torn choices of a moment are tried besides.
const TORN_PER_MOMENT: usize = 4;
/// After so many states of a life that was itself a recovery it is enough.
const NESTED_STATES_MAX: usize = 24;
/// Beside one of so many states, one that is damaged as well.
const SILENT_ONE_IN: u64 = 16;

/// Explores what a program loses in a crash.
///
/// A program is two closures. The first lives its first life: it works, and notes what it promises.
/// The second recovers in a later life, and answers what is wrong, if anything is, given the notes.
///
/// ```
/// use wal_sim::{Explorer, Life};
/// use wal::io::{Access, File as _, Storage as _};
///
/// // A program that keeps one number, each time in a file of its own.
/// fn work(life: &Life<u8>) {
///     let disk = life.disk();
///     disk.create().unwrap();
///     for number in 1..=4 {
///         let file = disk.create_file(&number.to_string()).unwrap();
///         let mut buffer = aligned::Buffer::zeroed(aligned::Alignment::SECTOR_512, 4096).unwrap();
///         buffer.as_mut_slice().fill(number);
///         file.write_at(buffer.as_mut_slice(), 0).unwrap();
///         file.sync().unwrap();
///         disk.sync_dir().unwrap(); // without this line the name is lost, and it is found out
///         life.note(number);
///     }
/// }
///
/// fn check(life: &Life<u8>) -> Result<(), String> {
///     let Some(promised) = life.past().last() else { return Ok(()) };
///     let file = life.disk().open(&promised.to_string(), Access::Read);
///     let file = file.map_err(|error| format!("{promised} is lost: {error}"))?;
///     let mut buffer = aligned::Buffer::zeroed(aligned::Alignment::SECTOR_512, 4096).unwrap();
///     file.read_at(buffer.as_mut_slice(), 0).unwrap();
///     let is_whole = buffer.as_mut_slice().iter().all(|byte| byte == promised);
///     if is_whole { Ok(()) } else { Err(format!("{promised} is damaged")) }
/// }
///
/// let coverage = Explorer::new(1).states(200).explore(work, check).unwrap();
/// assert!(coverage.states() >= 200);
/// ```
#[derive(Clone, Debug)]
#[must_use = "an explorer does nothing before `explore`"]
pub struct Explorer {
    seed: u64,
    states: u64,
    states_per_life: usize,
    size: Size,
    threads: usize,
    deaths: u32,
    disk: Option<DiskOptions>,
    is_silent: bool,
}

/// The two closures, and how far the exploration is.
struct Job<'a, M> {
    explorer: &'a Explorer,
    work: &'a (dyn Fn(&Life<M>) + Sync),
    check: &'a (dyn Fn(&Life<M>) -> Result<(), String> + Sync),
}

/// A run of the program, and where in it the exploration is.
struct Path {
    run: u64,
    seed: u64,
    size: Size,
    deaths: Vec<Death>,
}

impl Explorer {
    /// 1000 states, 40 steps from up to 4 writers, up to 3 deaths, on any kind of disk.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            states: 1000,
            states_per_life: 400,
            size: Size { steps: 40, writers: 4 },
            threads: 1,
            deaths: 3,
            disk: None,
            is_silent: false,
        }
    }

    /// Goes on until so many states were checked. Default 1000.
    pub fn states(self, states: u64) -> Self {
        Self { states, ..self }
    }

    /// Of one first life, checks about so many states, spread over all it has. Default 400.
    pub fn states_per_life(self, states: usize) -> Self {
        Self { states_per_life: states.max(1), ..self }
    }

    /// A first life is asked for up to so many steps. Default 40.
    pub fn steps(self, steps: u32) -> Self {
        Self { size: Size { steps: steps.max(1), ..self.size }, ..self }
    }

    /// A first life is asked to write from up to so many threads. Default 4.
    pub fn writers(self, writers: u32) -> Self {
        Self { size: Size { writers: writers.max(1), ..self.size }, ..self }
    }

    /// Explores so many lives at once, each on a thread of its own. Default 1.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads: threads.max(1), ..self }
    }

    /// Up to so many crashes, one in the recovery from the other. Default 3.
    pub fn deaths(self, deaths: u32) -> Self {
        Self { deaths: deaths.max(1), ..self }
    }

    /// On this kind of disk. Default [`DiskOptions::any`], another for each life.
    pub fn disk(self, options: DiskOptions) -> Self {
        Self { disk: Some(options), ..self }
    }

    /// Now and then damages a state besides: an acknowledged write is lost or went elsewhere, a bit is
    /// another one, or a flush made nothing durable. [`Life::damage`] says so to the check, which has
    /// to judge it by other rules; nothing dies again after it. Default no such states.
    pub fn silent(self) -> Self {
        Self { is_silent: true, ..self }
    }

    /// Explores, or goes straight to the [`Place`] that `WAL_SIM_REPLAY` says.
    ///
    /// # Errors
    /// The first state that is wrong, shrunk as far as that was possible.
    ///
    /// # Panics
    /// If `WAL_SIM_REPLAY` holds something else.
    pub fn explore<M: Clone + Send + Sync + 'static>(
        &self,
        work: impl Fn(&Life<M>) + Sync,
        check: impl Fn(&Life<M>) -> Result<(), String> + Sync,
    ) -> Result<Coverage, Failure> {
        let job = Job { explorer: self, work: &work, check: &check };
        if let Ok(line) = env::var(REPLAY_VARIABLE) {
            let Ok(place) = line.parse() else {
                panic!("{REPLAY_VARIABLE} holds no place: {line}")
            };
            return job.replay(&place);
        }
        job.all().map_err(|failure| {
            let smallest = job.shrink(failure);
            // Once more, for the whole story.
            job.replay(&smallest.place).err().unwrap_or(smallest)
        })
    }

    /// Goes straight to `place`.
    ///
    /// # Errors
    /// What was found there, if it still is.
    pub fn replay<M: Clone + Send + Sync + 'static>(
        &self,
        place: &Place,
        work: impl Fn(&Life<M>) + Sync,
        check: impl Fn(&Life<M>) -> Result<(), String> + Sync,
    ) -> Result<Coverage, Failure> {
        Job { explorer: self, work: &work, check: &check }.replay(place)
    }
}

impl<M: Clone + Send + Sync + 'static> Job<'_, M> {
    fn all(&self) -> Result<Coverage, Failure> {
        let next_run = AtomicU64::new(0);
        let states = AtomicU64::new(0);
        let has_failed = AtomicBool::new(false);
        let outcome = Mutex::new(Ok::<_, Failure>(Coverage::default()));
        let live = || {
            while states.load(Ordering::SeqCst) < self.explorer.states
                && !has_failed.load(Ordering::SeqCst)
            {
                let mut coverage = Coverage::default();
                let result = self.run(next_run.fetch_add(1, Ordering::SeqCst), &mut coverage);
                states.fetch_add(coverage.states, Ordering::SeqCst);
                let mut outcome = outcome.lock();
                match (&mut *outcome, result) {
                    (Ok(all), Ok(())) => all.add(&coverage),
                    (outcome, Err(failure)) => {
                        has_failed.store(true, Ordering::SeqCst);
                        // Of two at once, always the same one.
                        let is_first = match outcome {
                            Ok(_) => true,
                            Err(other) => failure.place.run < other.place.run,
                        };
                        if is_first {
                            *outcome = Err(failure);
                        }
                    }
                    (Err(_), Ok(())) => {}
                }
            }
        };
        if self.explorer.threads == 1 {
            live();
        } else {
            thread::scope(|scope| {
                for _ in 0..self.explorer.threads {
                    scope.spawn(live);
                }
            });
        }
        outcome.into_inner()
    }

    /// A run of any size up to the one that was asked for.
    fn run(&self, run: u64, coverage: &mut Coverage) -> Result<(), Failure> {
        let Size { steps, writers } = self.explorer.size;
        let mut random = Random::new(mix(&[self.explorer.seed, run, 4]));
        let steps = random.between(u64::from(steps.div_ceil(4)), steps.into());
        let writers = random.between(1, writers.into());
        let size = Size {
            steps: u32::try_from(steps).unwrap_or(1),
            writers: u32::try_from(writers).unwrap_or(1),
        };
        self.run_of(run, size, coverage)
    }

    fn run_of(&self, run: u64, size: Size, coverage: &mut Coverage) -> Result<(), Failure> {
        let mut path = self.path(run, size);
        let life = self.first_life(&path)?;
        coverage.lived(&life);
        self.die(&life, &mut path, self.explorer.states_per_life, coverage)
    }

    fn path(&self, run: u64, size: Size) -> Path {
        Path { run, seed: mix(&[self.explorer.seed, run]), size, deaths: Vec::new() }
    }

    fn first_life(&self, path: &Path) -> Result<Life<M>, Failure> {
        let mut random = Random::new(mix(&[path.seed, 1]));
        let options = self.explorer.disk.clone().unwrap_or_else(|| DiskOptions::any(&mut random));
        let life = Life::first(path.seed, path.size, &options);
        match life.world().run(|| (self.work)(&life)) {
            Ok(()) => Ok(life),
            Err(broken) => Err(self.failure(path, broken.to_string(), life.disk().story())),
        }
    }

    /// Checks about `states` of the states in which `life` may have ended.
    fn die(
        &self,
        life: &Life<M>,
        path: &mut Path,
        states: usize,
        coverage: &mut Coverage,
    ) -> Result<(), Failure> {
        let disk = life.disk();
        let history = disk.history();
        let notes = life.all_notes();
        let limits = disk.options().limits();
        let all = count_choices(&mut disk.cursor(&history), &notes);
        let mut random =
            Random::new(mix(&[path.seed, 5, path.deaths.len().try_into().unwrap_or(0)]));
        let mut silent = Random::new(random.clone().next());
        let mut cursor = disk.cursor(&history);
        let mut moments = Moments::default();
        while moments.step(&mut cursor, &notes) {
            let (writes, names) = (cursor.writes_pending(), cursor.names_pending());
            let mut choices = Choice::every(writes, names, EXHAUSTIVE_MAX).unwrap_or_default();
            let torn = if writes + names > 0 { TORN_PER_MOMENT } else { 0 };
            let sampled = if choices.is_empty() { EXHAUSTIVE_MAX + torn } else { torn };
            choices.extend(
                (0..sampled)
                    .map(|_| Choice::any(writes, names, limits, &mut |end| random.below(end))),
            );
            choices.retain(|_| random.index(all.max(1)) < states);
            for choice in choices {
                let image = disk.image_at(&cursor, &choice);
                let past = (Arc::clone(&notes.all), notes.by(cursor.at()));
                path.deaths.push(Death { at: cursor.at(), choice, silent: None });
                let later = self.later_life((&image, None), path, past.clone())?;
                coverage.lived(&later);
                coverage.states += 1;
                let deaths = u32::try_from(path.deaths.len()).unwrap_or(u32::MAX);
                if deaths < self.explorer.deaths && random.one_in(8) {
                    // Now and then every moment of a recovery, else a few.
                    let nested = if random.one_in(16) { NESTED_STATES_MAX } else { 3 };
                    self.die(&later, path, nested, coverage)?;
                }
                let Some(death) = path.deaths.pop() else { continue };
                if self.explorer.is_silent
                    && silent.one_in(SILENT_ONE_IN)
                    && let Some(death) = damaged(&disk, &history, &death, &mut silent)
                {
                    let (image, damage) = end(&disk, &history, &death, notes.before);
                    path.deaths.push(death);
                    coverage.lived(&self.later_life((&image, damage), path, past)?);
                    coverage.states += 1;
                    path.deaths.pop();
                }
            }
        }
        Ok(())
    }

    fn later_life(
        &self,
        image: (&Image, Option<Damage>),
        path: &Path,
        past: (Arc<Vec<M>>, usize),
    ) -> Result<Life<M>, Failure> {
        let number = u32::try_from(path.deaths.len()).unwrap_or(u32::MAX);
        let seed = path.deaths.iter().fold(path.seed, |seed, death| {
            mix(&[seed, death.at.try_into().unwrap_or(0), death.choice.number()])
        });
        let life = Life::after(image, number, [path.seed, seed], path.size, past);
        let what = match life.world().run(|| (self.check)(&life)) {
            Ok(Ok(())) => return Ok(life),
            Ok(Err(what)) => what,
            Err(broken) => broken.to_string(),
        };
        Err(self.failure(path, what, life.disk().story()))
    }

    fn failure(&self, path: &Path, what: String, story: Vec<String>) -> Failure {
        let Path { run, size, deaths, .. } = path;
        let place =
            Place { seed: self.explorer.seed, run: *run, size: *size, deaths: deaths.clone() };
        Failure { place, what, story }
    }

    fn replay(&self, place: &Place) -> Result<Coverage, Failure> {
        let explorer = Explorer { seed: place.seed, ..self.explorer.clone() };
        let job = Job { explorer: &explorer, work: self.work, check: self.check };
        let mut story = Vec::new();
        job.go_to(place, &mut story).map_err(|failure| {
            story.extend(failure.story);
            Failure { story, ..failure }
        })
    }

    fn go_to(&self, place: &Place, story: &mut Vec<String>) -> Result<Coverage, Failure> {
        let mut coverage = Coverage::default();
        let mut path = self.path(place.run, place.size);
        let mut life = self.first_life(&path)?;
        coverage.lived(&life);
        for death in &place.deaths {
            let disk = life.disk();
            let history = disk.history();
            let notes = life.all_notes();
            let mut cursor = disk.cursor(&history);
            while cursor.at() < death.at && cursor.step().is_some() {}
            let (image, damage) = end(&disk, &history, death, notes.before);
            story.extend(disk.story().into_iter().take(cursor.at()));
            story.extend(cursor.tell(&death.choice));
            story.extend(death.silent.map(|silent| format!("  told to nobody: {silent}")));
            let past = (Arc::clone(&notes.all), notes.by(cursor.at()));
            path.deaths.push(death.clone());
            life = self.later_life((&image, damage), &path, past)?;
            coverage.lived(&life);
            coverage.states += 1;
        }
        Ok(coverage)
    }
}

/// A death at the same moment, with damage that nobody was told of.
fn damaged(disk: &Disk, history: &History, death: &Death, random: &mut Random) -> Option<Death> {
    let silent = Silent::any(history, death.at, random)?;
    let mut history = history.clone();
    silent.befall(&mut history);
    let mut cursor = disk.cursor(&history);
    while cursor.at() < death.at && cursor.step().is_some() {}
    // A flush that lied leaves more that may be lost.
    let (writes, names) = (cursor.writes_pending(), cursor.names_pending());
    let limits = disk.options().limits();
    let choice = Choice::any(writes, names, limits, &mut |end| random.below(end));
    Some(Death { at: death.at, choice, silent: Some(silent) })
}

/// What the disk holds after `death`, in a life that had so many notes from those before it.
fn end(
    disk: &Disk,
    history: &History,
    death: &Death,
    notes_before: usize,
) -> (Image, Option<Damage>) {
    let image = |history: &History| {
        let mut cursor = disk.cursor(history);
        while cursor.at() < death.at && cursor.step().is_some() {}
        disk.image_at(&cursor, &death.choice)
    };
    let honest = image(history);
    let Some(silent) = death.silent else { return (honest, None) };
    let mut other = history.clone();
    silent.befall(&mut other);
    let mut damaged = image(&other);
    if let Some(Kind::Write { file, .. }) = history.ops.get(silent.op()).map(|op| &op.kind)
        && let Some(name) = disk.name_of(*file)
    {
        silent.befall_at_rest(history, &name, &mut damaged);
    }
    (damaged, Some(Damage { silent, honest, notes_before }))
}

/// Goes along a history to the moments where a crash can leave something new, or where more has been
/// promised since.
#[derive(Default)]
struct Moments {
    has_begun: bool,
    notes: usize,
}

impl Moments {
    fn step<M>(&mut self, cursor: &mut Cursor<'_>, notes: &Notes<M>) -> bool {
        let mut is_new = !self.has_begun;
        if self.has_begun {
            match cursor.step() {
                Some(new) => is_new = new,
                None => return false,
            }
        }
        self.has_begun = true;
        loop {
            let count = notes.by(cursor.at());
            if is_new || count != self.notes {
                self.notes = count;
                return true;
            }
            match cursor.step() {
                Some(new) => is_new = new,
                None => return false,
            }
        }
    }
}

/// How many choices there are at all moments together.
fn count_choices<M>(cursor: &mut Cursor<'_>, notes: &Notes<M>) -> usize {
    let mut moments = Moments::default();
    let mut count = 0;
    while moments.step(cursor, notes) {
        let (writes, names) = (cursor.writes_pending(), cursor.names_pending());
        let subsets = 1_usize.checked_shl(u32::try_from(writes).unwrap_or(u32::MAX));
        let every = subsets.and_then(|subsets| subsets.checked_mul(names + 1));
        count += every.unwrap_or(EXHAUSTIVE_MAX).min(EXHAUSTIVE_MAX);
        if writes + names > 0 {
            count += TORN_PER_MOMENT;
        }
    }
    count
}
