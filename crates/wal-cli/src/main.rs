/*!
The `wal` command.

`wal torture` kills a writing process again and again and checks what is left; `bench` measures the log
beside what its disk can do; `append`, `dump`, `ls` and `verify` fill a log and look into it. The last
three never write and need no lock.

Exit status: 0 done and well; 1 a torture that failed, an `append` that could not go on, a torn
tail; 2 corruption; 3 the log, the output or the disk to measure cannot be read or written; 64 a wrong
command line; 128 and the signal's number for a `bench` that was interrupted.
*/
#![forbid(unsafe_code)]

mod append;
mod bench;
mod dump;
mod ls;
mod output;
mod torture;
mod verify;

use clap::{Parser, Subcommand};
use output::{EXIT_USAGE, Failure, complain};
use std::process::ExitCode;
use wal_bench::processes;

/// Fill, inspect and torture a write-ahead log.
#[derive(Debug, Parser)]
#[command(name = "wal", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill a writing process again and again, and check that no acknowledged record is lost
    ///
    /// A child appends from many threads and reports each acknowledgement. It is killed at random
    /// moments with SIGKILL, also while it recovers; then the log is reopened and every record
    /// checked bit for bit. A kill leaves what the kernel holds: losing that as well, as a power
    /// cut does, is what the simulated disk of the crate `wal-sim` is for.
    Torture(torture::Arguments),
    /// Measure the log beside what its disk can do, and print how near it comes
    ///
    /// In a fresh directory below DIR, removed afterwards, the log and the least that the disk and the
    /// processor must do for the same promise take turns, round by round. Each ratio is the median of
    /// those of single rounds; 1 is the floor itself. Interrupted, it removes its directory and exits
    /// with 128 and the signal's number; killed with SIGKILL, it leaves a directory `wal-bench-*`.
    ///
    /// R_lat: a raw durable write as long as a frame / append and wait, p50, one writer.
    /// R_grp(N): records of N writers / N in each raw write. R_bw: appends that nobody waits for /
    /// sequential durable writes. R_busy(N): records of N writers beside busy processes / without
    /// them. R_cpu: addition, copy and checksum / an append without waiting.
    /// R_rec: replay / sequential reads. R_rot: p99.9 with a new segment every second / without.
    /// R_hold: the longest hold of an acknowledgement while segments are made / a durable write where
    /// slots are recycled, fdatasync, directory sync and durable write where they are new. Of these two
    /// less is better. R_space: payload / bytes of the segments.
    #[command(verbatim_doc_comment)]
    Bench(bench::Arguments),
    /// Append records from standard input, one a line; durable when it exits with 0
    Append(append::Arguments),
    /// Print the records
    Dump(dump::Arguments),
    /// List the segments
    Ls(ls::Arguments),
    /// Read everything and say whether it is whole: exit 0 clean, 1 torn tail, 2 corruption,
    /// 3 cannot read
    Verify(verify::Arguments),
    /// The process that `torture` kills
    #[command(hide = true)]
    TortureChild(torture::ChildArguments),
}

fn main() -> ExitCode {
    // Here ends what is only to keep a processor busy beside `bench`.
    processes::serve();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for and go to standard output; a closed one is no error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments.command) {
        Ok(status) => status,
        Err(failure) => {
            if let Some(text) = failure.text() {
                complain(text);
            }
            ExitCode::from(failure.status())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Torture(arguments) => torture::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Append(arguments) => append::run(&arguments),
        Command::Dump(arguments) => dump::run(&arguments),
        Command::Ls(arguments) => ls::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::TortureChild(arguments) => torture::run_child(&arguments),
    }
}
