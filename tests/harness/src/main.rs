/*!
The `wal-harness` command: durability tests that need a machine, with root and a kernel of its own.

`record` runs a log on a real file system over a disk that records every block write, and then
mounts and recovers every state in which a power cut could have left that disk. `soak` runs every layer
of the tests in turn for hours.

`errors` has the disk, the file system and the system answer errors, and kills the process at each of
its calls.

`uml` kills a whole kernel that the log runs on.

Exit status: 0 nothing bad was found, or the check was skipped, which is said loudly; 1 something
bad was found; 2 skipped though `--require` was given; 3 the harness itself failed; 64 a wrong
command line.
*/
#![forbid(unsafe_code)]

mod errors;
mod fuse;
mod machine;
mod random;
mod record;
mod soak;
mod subject;
mod uml;

use clap::{Parser, Subcommand};
use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// Something bad was found.
const EXIT_BAD: u8 = 1;
/// Something is missing here, and it was required.
const EXIT_SKIPPED: u8 = 2;
/// The harness could not do its work.
const EXIT_FAILED: u8 = 3;
/// The command line is wrong.
const EXIT_USAGE: u8 = 64;

/// Durability tests that need a machine.
#[derive(Debug, Parser)]
#[command(name = "wal-harness", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record every block write below a real file system, and recover every crash state
    Record(record::Arguments),
    /// Look again at one state of a recording that was kept
    Replay(record::ReplayArguments),
    /// Every layer in turn, with fresh seeds, for hours
    Soak(soak::Arguments),
    /// The process that writes and recovers: what a log of another kind would bring
    Subject(subject::Arguments),
    /// Have the real stack answer errors, and hold the log to its word
    Errors(errors::Arguments),
    /// Kill a kernel in the midst of it all, and see what is left
    Uml(uml::Arguments),
    /// The first process of that kernel
    #[command(hide = true)]
    Inside(uml::InsideArguments),
    /// The process that plays a disk that fails
    #[command(hide = true)]
    FaultyDisk(errors::DiskArguments),
    /// A process that writes and is killed at a certain call
    #[command(hide = true)]
    Killed(errors::KillArguments),
    /// The process that plays the disk
    #[command(hide = true)]
    Disk(record::DiskArguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let status = match arguments.command {
        Command::Record(arguments) => record::run(&arguments),
        Command::Replay(arguments) => record::replay(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Subject(arguments) => subject::run(&arguments),
        Command::Errors(arguments) => errors::run(&arguments),
        Command::Uml(arguments) => uml::run(&arguments),
        Command::Inside(arguments) => uml::run_inside(&arguments),
        Command::FaultyDisk(arguments) => errors::serve(&arguments),
        Command::Killed(arguments) => errors::run_killed(&arguments),
        Command::Disk(arguments) => record::serve(&arguments),
    };
    status.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(EXIT_FAILED)
    })
}

/// Says `text` on standard error. A closed standard error is no reason to fail.
fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "wal-harness: {text}");
}

/// Says loudly what was not checked.
fn skip(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "SKIPPED: {text}");
}
