/*!
The subject: a program that appends to a log and says what it was promised, and that reads the log
again after a crash. The log of this project is one; any other can be with a program of some sixty
lines, started in two ways.

# `COMMAND write DIR MARKS --records N --seed S`

Makes a log in `DIR`, whose parent exists, and appends records number 0 to N - 1 in this order. The
bytes of a record are a pure function of seed and number, see [`mod@payload`]. What it does and is told
it writes to the file `MARKS`, one line with one `write(2)` each, before it goes on. The file needs
no sync: a mark is known when the call returns.

| line | when | means |
|---|---|---|
| `begin I` | before record I is appended | records up to I may be found from now on |
| `ack I` | after the log said so | records up to I are durable: they must be found |
| `releasing I` | before the log is told | records below I may be missing from now on |
| `released I` | after the log said so | the log begins at record I or later |
| `done` | at the end | the program did all it wanted |

A `begin` may run ahead of the appends, an `ack` may speak for several, and several threads may
write them. Exit status 0, or the recording is not used.

# `COMMAND recover DIR`

Opens the log, which may not exist yet, reads and repairs it as after any crash, and prints one line
for each record in the order of the log, then one with the verdict:

```text
start I                 the log begins at record I; may be left out where nothing is released
record I CHECKSUM       FNV-1a of the record's bytes, 64 bits, in hexadecimal
verdict clean           or: torn (something was cut), corrupt TEXT, failed TEXT
```

It is started twice for each state, and must answer the same.

The log's own subject knows a third verb, `resume`, which recovers a log on a recording disk, writes the
mark `settled` once it could be opened for writing, and appends in the place of what was lost.
*/

mod payload;
mod prepare;
mod recover;
mod resume;
mod storage;
mod workload;

pub(crate) use payload::{checksum, group_ends, payload, payload_again};
pub(crate) use prepare::{choose, directory};
pub(crate) use recover::{Recovered, Verdict, append_more, recover};
pub(crate) use resume::EXTRA_RECORDS;
pub(crate) use storage::{Careless, Neglect};
pub(crate) use workload::write_through;

use crate::{EXIT_BAD, complain};
use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};
use wal::{ErrorKind, Options, Replay, io::Storage};

/// The smallest there is, so that the log moves to another segment every dozen commits.
const SEGMENT_BYTES: u64 = 64 << 10;

/// How long a log may still be locked after who held it is gone.
const LOCKED_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Append records and say what was promised
    Write(WriteArguments),
    /// Open the log after a crash, append other records in the place of what was lost
    Resume(ResumeArguments),
    /// Open the log, and print what is in it
    Recover {
        /// The log
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct WriteArguments {
    /// The log, which does not exist
    pub(crate) dir: PathBuf,
    /// Where marks go
    pub(crate) marks: PathBuf,
    #[arg(long)]
    pub(crate) records: u64,
    #[arg(long)]
    pub(crate) seed: u64,
    /// How durable writes are made
    #[arg(long, default_value = "dsync")]
    method: Method,
    /// A fault to plant
    #[arg(long = "break")]
    broken: Option<Broken>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArguments {
    /// The log
    dir: PathBuf,
    /// Where marks go
    marks: PathBuf,
    /// The records of the run that crashed
    #[arg(long)]
    records: u64,
    #[arg(long)]
    seed: u64,
    /// The first record that is missing
    #[arg(long)]
    next: u64,
    #[arg(long, default_value = "dsync")]
    method: Method,
}

/// How durable writes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    /// `RWF_DSYNC`
    Dsync,
    /// Write, then `fdatasync`
    Sync,
    /// The same through the page cache, as where direct I/O is refused
    Cache,
}

/// A fault planted to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Broken {
    /// Acknowledge before waiting
    #[value(name = "ack-before-sync")]
    EarlyAck,
    /// Never sync a directory
    #[value(name = "no-dir-sync")]
    LazyDirectory,
    /// Never sync a file
    #[value(name = "no-sync")]
    LazyFiles,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dsync => "dsync",
            Self::Sync => "sync",
            Self::Cache => "cache",
        })
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EarlyAck => "ack-before-sync",
            Self::LazyDirectory => "no-dir-sync",
            Self::LazyFiles => "no-sync",
        })
    }
}

/// The log's own subject as a program.
pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    match &arguments.command {
        Command::Write(arguments) => Ok(status(workload::write(arguments))),
        Command::Resume(arguments) => Ok(status(resume::resume(arguments))),
        Command::Recover { dir } => {
            let mut out = io::stdout().lock();
            write!(out, "{}", recover(dir))?;
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn status(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("subject: {error}"));
            ExitCode::from(EXIT_BAD)
        }
    }
}

/// Everything small, so that frames fill, slots are recycled and given back, and an idle log
/// confirms itself within a run of half a second.
fn options() -> Options {
    Options::new()
        .segment_bytes(SEGMENT_BYTES)
        .frame_bytes(16 << 10)
        .pool_bytes(128 << 10)
        .spare_bytes_max(2 * SEGMENT_BYTES)
        .linger(Duration::from_millis(1))
        .confirm_after(Duration::from_millis(10))
}

/// Opens the log, waiting a while for the lock: it stays with a log dropped in this process until
/// its last write is done.
fn open_patiently<S: Storage>(storage: impl Fn() -> io::Result<S>) -> wal::Result<Replay<S>> {
    let start = Instant::now();
    loop {
        let storage = storage().map_err(|error| wal::Error::from_io("the storage", error))?;
        match options().open_in(storage) {
            Err(error) if error.kind() == ErrorKind::Locked && start.elapsed() < LOCKED_MAX => {
                thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}
