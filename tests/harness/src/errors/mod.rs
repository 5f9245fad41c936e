/*!
`wal-harness errors`: what the log makes of a stack that says no.

Each case is a log on a real file system, that on a loop device, that on a disk that fails as it is
told to ([`fault`], [`disk`], [`stand`]); or a full file system, a limit of the process, a killed process. Records
are appended from several threads ([`work`]) and what was promised is held against what is found
([`ledger`]).

What it does not see: a disk that answers wrong bytes, and one that never answers.
*/

mod disk;
mod drops;
mod eio;
mod fault;
mod kill;
mod ledger;
mod lethal;
mod limits;
mod place;
mod reading;
mod space;
mod stand;
mod work;

pub(crate) use disk::{Arguments as DiskArguments, serve};
pub(crate) use kill::{Arguments as KillArguments, run as run_killed};
pub(crate) use ledger::Ledger;

use crate::{
    EXIT_BAD, EXIT_FAILED, EXIT_SKIPPED, complain,
    machine::{Place, interruption, missing, take_private_mounts},
    random::{mix, unpredictable},
    record::{FileSystem, FileSystems},
    skip,
    subject::Method,
};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};
use stand::{Build, Stand};
use std::{
    fmt,
    io::{self, Write},
    process::{self, ExitCode},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use work::Work;

/// A case that is not done by then hangs, which is a failure of its own.
const CASE_MAX: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file system, or `all`
    #[arg(long, default_value = "all")]
    fs: FileSystems,
    /// Only these cases
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = one_of_the_names)]
    only: Vec<&'static str>,
    /// Repeat the choices of another run; what the machine makes of them differs
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How often `kill-at-sync` kills on each file system, by each method
    #[arg(long, value_name = "N", default_value_t = 60)]
    kills: u64,
    /// How often `eio-flush-drops` fails a flush on each file system, by each method
    #[arg(long, value_name = "N", default_value_t = 8)]
    drops: u64,
    /// Answer with a JSON object for each case
    #[arg(long)]
    json: bool,
    /// Plant a fault, acknowledging before anything is durable, which must be found
    #[arg(long = "acknowledge-early")]
    early: bool,
    /// Fail where it would be skipped
    #[arg(long)]
    require: bool,
}

/// A case: something goes wrong, and the log answers.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    run: fn(&Scene<'_>) -> Result<Value, Stop>,
    file_systems: &'static [FileSystem],
    methods: &'static [Method],
}

const ALL: &[FileSystem] = &[FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];
const IN_PLACE: &[FileSystem] = &[FileSystem::Ext4, FileSystem::Xfs];
const EXT4: &[FileSystem] = &[FileSystem::Ext4];
const BOTH: &[Method] = &[Method::Dsync, Method::Sync];
const DSYNC: &[Method] = &[Method::Dsync];

const CASES: &[Case] = &[
    Case { name: "eio-write-range", run: eio::write, file_systems: ALL, methods: BOTH },
    Case { name: "eio-flush", run: eio::flush, file_systems: ALL, methods: BOTH },
    Case { name: "eio-flush-drops", run: drops::flush, file_systems: IN_PLACE, methods: BOTH },
    Case { name: "eio-ahead", run: eio::ahead, file_systems: ALL, methods: BOTH },
    Case { name: "eio-read", run: reading::tail, file_systems: ALL, methods: DSYNC },
    Case { name: "eio-read-header", run: reading::header, file_systems: ALL, methods: DSYNC },
    Case { name: "thin-enospc", run: space::thin, file_systems: ALL, methods: BOTH },
    Case { name: "small-fs-full", run: space::full, file_systems: IN_PLACE, methods: BOTH },
    Case { name: "4kn", run: place::large_sectors, file_systems: IN_PLACE, methods: DSYNC },
    Case { name: "shutdown", run: place::shutdown, file_systems: IN_PLACE, methods: BOTH },
    Case { name: "emergency-ro", run: place::emergency, file_systems: EXT4, methods: BOTH },
    Case { name: "readonly-remount", run: place::read_only, file_systems: ALL, methods: DSYNC },
    Case { name: "rlimit-fsize", run: limits::file_size, file_systems: ALL, methods: BOTH },
    Case { name: "emfile", run: limits::descriptors, file_systems: EXT4, methods: DSYNC },
    Case { name: "kill-at-sync", run: kill::sweep, file_systems: ALL, methods: BOTH },
];

fn one_of_the_names(text: &str) -> Result<&'static str, String> {
    let known = CASES.iter().map(|case| case.name).find(|name| *name == text);
    known.ok_or_else(|| {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        format!("one of {}", names.join(", "))
    })
}

/// Where a case runs.
struct Scene<'a> {
    place: &'a Place,
    /// A name that no other scene has.
    name: String,
    file_system: FileSystem,
    method: Method,
    seed: u64,
    kills: u64,
    drops: u64,
    early: bool,
}

impl Scene<'_> {
    fn stand(&self) -> io::Result<Stand> {
        self.stand_as("", Build::of(self.file_system))
    }

    fn stand_as(&self, name: &str, build: Build) -> io::Result<Stand> {
        Stand::new(self.place, &format!("{}{name}", self.name), build)
    }

    /// A log on `stand`, which has none of this name.
    fn work(&self, stand: &Stand, name: &str, records: u64) -> Work {
        let path = stand.at().join(name);
        Work::new(path, self.method, self.seed, records).with_early(self.early)
    }
}

/// Why a case ended before its end.
#[derive(Debug)]
enum Stop {
    /// The log did something wrong.
    Bad(String),
    /// Something is missing here.
    Skipped(String),
    /// The harness could not do its work.
    Harness(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Harness(error)
    }
}

impl From<wal::Error> for Stop {
    fn from(error: wal::Error) -> Self {
        Self::Bad(format!("an error where none belongs: {error:?}"))
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(text) | Self::Skipped(text) => f.write_str(text),
            Self::Harness(error) => write!(f, "the harness: {error}"),
        }
    }
}

/// Ends the case as bad unless `holds`.
fn expect(holds: bool, text: impl FnOnce() -> String) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Bad(text())) }
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let skipped_status = ExitCode::from(if arguments.require { EXIT_SKIPPED } else { 0 });
    if let Some(what) = missing(&["losetup"]) {
        skip(format_args!("errors: no {what} here"));
        return Ok(skipped_status);
    }
    take_private_mounts()?;
    let interrupted = interruption()?;
    // A write past a limit is to answer an error and not to kill.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block()?;
    let runner = Runner {
        arguments,
        place: Place::new()?,
        seed: arguments.seed.unwrap_or_else(unpredictable),
        watch: Watch::start()?,
        worst: Worst::default(),
    };
    runner.run(&interrupted)
}

struct Runner<'a> {
    arguments: &'a Arguments,
    place: Place,
    seed: u64,
    watch: Watch,
    worst: Worst,
}

/// How the run ends, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Worst {
    #[default]
    Passed,
    Skipped,
    Failed,
    Bad,
}

impl Runner<'_> {
    fn run(mut self, interrupted: &AtomicBool) -> io::Result<ExitCode> {
        let only = &self.arguments.only;
        let chosen = |case: &&Case| only.is_empty() || only.contains(&case.name);
        for case in CASES.iter().filter(chosen) {
            for file_system in self.arguments.fs.list() {
                if !case.file_systems.contains(file_system) {
                    continue;
                }
                for method in case.methods {
                    let ended = self.run_one(case, *file_system, *method)?;
                    self.worst = self.worst.max(ended);
                    if interrupted.load(Ordering::Relaxed) {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                }
            }
        }
        Ok(match self.worst {
            Worst::Bad => ExitCode::from(EXIT_BAD),
            Worst::Failed => ExitCode::from(EXIT_FAILED),
            Worst::Skipped if self.arguments.require => ExitCode::from(EXIT_SKIPPED),
            Worst::Skipped | Worst::Passed => ExitCode::SUCCESS,
        })
    }

    fn run_one(&self, case: &Case, fs: FileSystem, method: Method) -> io::Result<Worst> {
        let name = format!("{} {fs} {method}", case.name);
        let scene = Scene {
            place: &self.place,
            name: name.replace(' ', "-"),
            file_system: fs,
            method,
            seed: mix(&[self.seed]) % 1_000_000_000,
            kills: self.arguments.kills,
            drops: self.arguments.drops,
            early: self.arguments.early,
        };
        let start = Instant::now();
        self.watch.expect(&name);
        let outcome = match missing(&[fs.program()]) {
            Some(what) => Err(Stop::Skipped(format!("no {what} here"))),
            None => (case.run)(&scene),
        };
        self.watch.relax();
        let (word, worst) = match &outcome {
            Ok(_) => ("pass", Worst::Passed),
            Err(Stop::Bad(_)) => ("fail", Worst::Bad),
            Err(Stop::Skipped(_)) => ("skipped", Worst::Skipped),
            Err(Stop::Harness(_)) => ("fail", Worst::Failed),
        };
        let text = outcome.as_ref().err().map(Stop::to_string);
        if let Err(Stop::Skipped(why)) = &outcome {
            skip(format_args!("errors: {name}: {why}"));
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut out = io::stdout().lock();
        if self.arguments.json {
            let answer = json!({
                "case": case.name,
                "fs": fs.name(),
                "method": method.to_string(),
                "seed": self.seed,
                "seconds": seconds,
                "verdict": word,
                "text": text,
                "found": outcome.ok(),
            });
            writeln!(out, "{answer}")?;
        } else {
            let text = text.map(|text| format!(": {text}")).unwrap_or_default();
            writeln!(out, "{word:7} {name}, seed {}, {seconds:.2} s{text}", self.seed)?;
        }
        out.flush()?;
        Ok(worst)
    }
}

/// Ends the process if a case hangs: what it would give back goes with its mounts.
struct Watch(Arc<Mutex<Option<(String, Instant)>>>);

impl Watch {
    fn start() -> io::Result<Self> {
        let watched = Arc::new(Mutex::new(None::<(String, Instant)>));
        let seen = Arc::clone(&watched);
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(200));
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((name, since)) = &*seen
                    && since.elapsed() > CASE_MAX
                {
                    complain(format_args!("{name} hangs"));
                    process::exit(EXIT_BAD.into());
                }
            }
        })?;
        Ok(Self(watched))
    }

    fn expect(&self, name: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((name.to_owned(), Instant::now()));
    }

    fn relax(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
