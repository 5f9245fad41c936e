/*!
`wal-harness record`: every state that a power cut can leave, on a real file system.

A log runs on ext4, xfs or btrfs, the file system on a loop device, the loop device on a file of a FUSE
server that plays the disk and keeps every write and every flush in one order with what the log
acknowledged ([`disk`], [`stack`]). Afterwards every image that a power cut could have left is made
anew: what was settled by a flush, and any part of the rest ([`window`], [`state`], [`image`]). Each is
mounted, which replays the file system's own journal, and the log recovered ([`check`]) and held against
what it had promised ([`oracle`]).

Some of the logs that had something to cut are then recovered on a recording disk themselves, and write
on over what was cut; every state of that is tried as well: crashes in recovery, and old records that
would come back ([`explore`]).

What it does not see: a disk that lies about flushes, and FUA, which a loop device does not offer, so
that the kernel makes a write and a flush of it. Writes of the file system itself survive whole or not
at all, however many blocks they are. Writes of one block that are under way at the same time count in
the order in which they arrived.
*/

mod case;
mod check;
mod disk;
mod event;
mod explore;
mod image;
mod oracle;
mod stack;
mod state;
mod summary;
mod tear;
mod window;

pub(crate) use disk::{Arguments as DiskArguments, serve};
pub(crate) use stack::FileSystem;

use crate::{
    EXIT_BAD, EXIT_SKIPPED, complain,
    machine::{Place, interruption, missing, take_private_mounts},
    random::unpredictable,
    skip,
    subject::{Broken, Method},
};
use case::{Case, Run};
use check::{Checked, Checker};
use event::Recording;
use explore::Explorer;
use std::{
    env, fmt, fs,
    io::{self, Write},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::atomic::Ordering,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file system, or `all`
    #[arg(long, default_value = "all")]
    fs: FileSystems,
    /// How durable writes are made
    #[arg(long, default_value = "all")]
    method: Methods,
    /// The most states to try of each recording [default: 1200, and 400 on btrfs]
    #[arg(long, value_name = "N")]
    states: Option<usize>,
    /// How many records are appended in each
    #[arg(long, value_name = "N", default_value_t = 700)]
    records: u64,
    /// Repeat the choices of another run; what the machine makes of them differs
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many states are tried side by side
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// How many crashed logs are recovered on a recording disk themselves, and every state of that
    /// tried
    #[arg(long, value_name = "N", default_value_t = 4)]
    again: usize,
    /// Fail if fewer states were tried in all, those of crashed recoveries with them
    #[arg(long, value_name = "N", default_value_t = 1)]
    at_least: usize,
    /// Answer with a JSON object for each recording
    #[arg(long)]
    json: bool,
    /// Keep the recordings in this directory; those with a bad state are always kept
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Whose log: `wal`, or a program
    #[arg(long, value_name = "wal|COMMAND", default_value = "wal")]
    subject: SubjectKind,
    /// Plant a fault, which must be found
    #[arg(long = "break", value_name = "FAULT")]
    broken: Option<Broken>,
    /// Fail where it would be skipped
    #[arg(long)]
    require: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArguments {
    /// A recording that was kept
    recording: PathBuf,
    /// Which state
    #[arg(long, value_name = "K")]
    state: usize,
    /// Leave the image of the disk in this file as well
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum FileSystems {
    Ext4,
    Xfs,
    Btrfs,
    All,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Methods {
    Dsync,
    Sync,
    Cache,
    All,
}

impl FileSystems {
    pub(crate) fn list(self) -> &'static [FileSystem] {
        match self {
            Self::Ext4 => &[FileSystem::Ext4],
            Self::Xfs => &[FileSystem::Xfs],
            Self::Btrfs => &[FileSystem::Btrfs],
            Self::All => &[FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs],
        }
    }
}

impl Methods {
    fn list(self) -> &'static [Method] {
        match self {
            Self::Dsync => &[Method::Dsync],
            Self::Sync => &[Method::Sync],
            Self::Cache => &[Method::Cache],
            Self::All => &[Method::Dsync, Method::Sync, Method::Cache],
        }
    }
}

/// Whose log is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SubjectKind {
    /// This project's, recovered in this process.
    Wal,
    /// A program, with its first arguments.
    Program(String),
}

impl From<&str> for SubjectKind {
    fn from(text: &str) -> Self {
        if text == "wal" { Self::Wal } else { Self::Program(text.to_owned()) }
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wal => "wal",
            Self::Program(command) => command,
        })
    }
}

impl SubjectKind {
    fn command(&self) -> io::Result<Command> {
        match self {
            Self::Wal => {
                let mut command = Command::new(env::current_exe()?);
                command.arg("subject");
                Ok(command)
            }
            Self::Program(text) => {
                let mut words = text.split_whitespace();
                let program = words.next().ok_or_else(|| io::Error::other("no subject"))?;
                let mut command = Command::new(program);
                command.args(words);
                Ok(command)
            }
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let skipped = |what: &str| skip(format_args!("record: no {what} here"));
    let skipped_status = ExitCode::from(if arguments.require { EXIT_SKIPPED } else { 0 });
    if let Some(what) = missing(&["losetup"]) {
        skipped(&what);
        return Ok(skipped_status);
    }
    take_private_mounts()?;
    let interrupted = interruption()?;
    let place = Place::new()?;
    let seed = arguments.seed.unwrap_or_else(unpredictable);
    let explorer = Explorer { arguments, place: &place, interrupted: &interrupted };
    let mut status = ExitCode::SUCCESS;
    let mut tried = 0;
    let mut was_skipped = false;
    for file_system in arguments.fs.list() {
        if let Some(what) = missing(&[file_system.program()]) {
            skipped(&what);
            was_skipped = true;
            if arguments.require {
                status = skipped_status;
            }
            continue;
        }
        let methods = match arguments.subject {
            SubjectKind::Wal => arguments.method.list(),
            // It chooses for itself.
            SubjectKind::Program(_) => &Methods::Dsync.list()[..1],
        };
        for method in methods {
            let run = Run {
                file_system: *file_system,
                method: *method,
                seed,
                states: arguments.states.unwrap_or(file_system.states_max()),
                records: arguments.records,
                subject: arguments.subject.clone(),
                broken: arguments.broken,
                resumed: None,
            };
            let (passed, states) = explorer.run(&run)?;
            tried += states;
            if !passed {
                status = ExitCode::from(EXIT_BAD);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
    }
    if tried < arguments.at_least && !was_skipped {
        complain(format_args!("record: {tried} states, and {} were wanted", arguments.at_least));
        status = ExitCode::from(EXIT_BAD);
    }
    Ok(status)
}

fn say(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

pub(crate) fn replay(arguments: &ReplayArguments) -> io::Result<ExitCode> {
    if let Some(what) = missing(&["losetup"]) {
        skip(format_args!("replay: no {what} here"));
        return Ok(ExitCode::from(EXIT_SKIPPED));
    }
    let case = Case::new(Recording::load(&arguments.recording)?)?;
    let Some(state) = case.plan.states.get(arguments.state) else {
        return Err(io::Error::other(format!("there are {} states", case.plan.states.len())));
    };
    let window = &case.windows[state.window];
    say(format_args!("{} states; this one: {state:?}", case.plan.states.len()))?;
    say(format_args!("window: {window:?}"))?;
    say(case.promises.describe(window.end, check::last_write(state, window)))?;

    take_private_mounts()?;
    let place = Place::new()?;
    let mut checker = Checker::new(&place, "replay", &case)?;
    if let Some(path) = &arguments.image {
        checker.build(arguments.state)?;
        fs::copy(place.in_memory("replay.image"), path)?;
    }
    match checker.check(arguments.state)? {
        Ok(Checked { verdict, records }) => {
            say(format_args!("good: {verdict}, records {records:?}"))?;
        }
        Err(bad) => {
            say(format_args!("{}: {}", bad.kind, bad.text))?;
            return Ok(ExitCode::from(EXIT_BAD));
        }
    }
    Ok(ExitCode::SUCCESS)
}
