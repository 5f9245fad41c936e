/*!
The `ring` command: threads that block in durable writes beside one io_uring, without a log.

What `docs/design.md` says of io_uring rests on two measurements, and both are repeated by

```text
cargo run --release --manifest-path benches/ring/Cargo.toml -- speed
cargo run --release --manifest-path benches/ring/Cargo.toml -- killed
```

[`speed`] has threads in `pwritev2` with `RWF_DSYNC`, and a ring, overwrite one file in turns. [`killed`]
kills a process with writes under way to a slow disk, and sees when it is gone, when its lock is free, and
when what it wrote arrives. Below them, in this order: [`throttle`] makes the disk slow, [`ring`] is the
ring, [`target`] the file. `killed` needs root; `speed` does not, but nine MiB of locked memory, which is
more than most systems let others have (`ulimit -l`).

Exit status: 0 done; 1 it could not be done; 2 the system refuses what it would be measured with, which is
said loudly; 64 a wrong command line.
*/
#![deny(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

mod arguments;
mod killed;
mod speed;

mod throttle;

#[expect(unsafe_code, reason = "the one module for it: the kernel reads what a call named earlier")]
mod ring;
mod target;

use std::{io, process::ExitCode};

use clap::Parser;

use arguments::{Arguments, Command};

/// It could not be done.
const EXIT_FAILED: u8 = 1;
/// The system refuses what it would be measured with.
const EXIT_REFUSED: u8 = 2;
/// The command line is wrong.
const EXIT_USAGE: u8 = 64;

/// Why there are no figures.
#[derive(Debug)]
enum Stop {
    /// The system does not have, or does not allow, what is to be measured.
    Refused(String),
    /// Something went wrong.
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
        Command::Speed(arguments) => speed::run(&arguments),
        Command::Killed(arguments) => killed::run(&arguments),
        Command::Hold(arguments) => killed::hold(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Refused(what)) => {
            eprintln!("SKIPPED: {what}");
            ExitCode::from(EXIT_REFUSED)
        }
        Err(Stop::Failed(error)) => {
            eprintln!("ring: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}
