/*!
The `peers` command: this log and others on the same disk, in one process, in interleaved rounds.

`cargo run --release --manifest-path benches/peers/Cargo.toml` measures all that was built, in all
workloads; `-- --help` says what can be left out. Each contestant is in the strongest durable mode that it
has (`--list`), is first looked at with `strace -c -f` (`--verify-sync` does only that), and is warmed up
by a run that is not counted. A peer that makes fewer calls that sync than it acknowledges records is
marked and not ranked, and so is one that does not give back what it acknowledged. At the end stands, for
each cell, the ratio of this log to the fastest of the others and what it is held to.

All of it takes some three hours and 20 GiB of disk, and a machine that does nothing else.

[`contestants`] has a module for each log; to add one, implement `Contestant` and `Peer` for it and name
it in `contestants::all`. [`workload`] has what is measured, [`place`] where.

Exit status: 0 done, whether the bounds were met or not; 1 it could not be done; 64 a wrong command line.
*/
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

mod arguments;
mod bounds;
mod contestants;
mod place;
mod report;
mod round;
mod verify;
mod workload;

use std::{
    env,
    error::Error,
    path::Path,
    process::{Command, ExitCode},
};

use clap::{Parser, error::ErrorKind};
use wal_bench::disk::fresh_directory;
use wal_benches::{goals, report as machine};

use arguments::{Arguments, Workload};
use contestants::Entry;
use place::Place;
use round::Cell;
use verify::Synced;

/// It could not be done.
const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 64;

/// What the program tells itself through the environment: the directory that everything is in.
const DIRECTORY: &str = "WAL_PEERS_DIRECTORY";

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    let entries = match arguments.entries() {
        Ok(entries) => entries,
        Err(name) => {
            eprintln!("peers: not built, or not known: {name}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let result = if arguments.list {
        print!("{}", report::list(&entries));
        Ok(ExitCode::SUCCESS)
    } else if let Some(dir) = &arguments.append_in {
        verify::append(&entries[0], dir, arguments.records).map(|()| ExitCode::SUCCESS)
    } else if let Some(directory) = env::var_os(DIRECTORY) {
        run(&arguments, &entries, Path::new(&directory)).map(|()| ExitCode::SUCCESS)
    } else {
        run_again(&arguments)
    };
    result.unwrap_or_else(|error| {
        eprintln!("peers: {error}");
        ExitCode::from(EXIT_FAILED)
    })
}

/// In a process that finds the directory in its environment: one of the logs looks for it there. Here
/// the directory is removed afterwards, whatever became of that process.
fn run_again(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let directory = fresh_directory(arguments.dir.as_deref())?;
    let status = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(DIRECTORY, directory.path())
        .env("WALRUS_DATA_DIR", directory.path())
        .env("WALRUS_QUIET", "1")
        .status()?;
    directory.close()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(EXIT_FAILED)))
}

fn run(arguments: &Arguments, entries: &[Entry], directory: &Path) -> Result<(), Box<dyn Error>> {
    let place = Place::new(directory)?;
    let header = format!(
        "{}\nmedians of {} rounds of {} s; {}",
        machine::machine(directory)?,
        arguments.rounds,
        arguments.seconds,
        machine::load(),
    );
    println!("{header}");
    let synced = if arguments.unverified && !arguments.verify_sync {
        println!("calls that sync: not looked at");
        Vec::new()
    } else {
        verify::verify(&place, entries)?
    };
    print!("{}", report::synced(&synced));
    if arguments.verify_sync {
        return Ok(());
    }
    let cells = measure(arguments, entries, &place, &synced)?;
    let goals = bounds::goals(&cells);
    print!("{}", bounds::ratios(&cells));
    print!("{}", goals::summary(&goals));
    println!("{}", machine::load());
    if let Some(path) = &arguments.json {
        let value = report::json(&header, arguments, entries, &synced, &cells, &goals);
        std::fs::write(path, format!("{value:#}\n"))?;
    }
    Ok(())
}

/// Cell by cell, each printed when it is done.
fn measure(
    arguments: &Arguments,
    entries: &[Entry],
    place: &Place,
    synced: &[Synced],
) -> Result<Vec<Cell>, Box<dyn Error>> {
    let mut cells = Vec::new();
    let mut add = |mut cell: Cell| {
        cell.unrank(synced);
        print!("{}", report::table(&cell));
        cells.push(cell);
    };
    for workload in &arguments.workload {
        match workload {
            Workload::Durable => {
                for &payload_bytes in &arguments.payload {
                    for &writers in &arguments.writers {
                        add(workload::durable(arguments, entries, place, writers, payload_bytes)?);
                    }
                }
            }
            Workload::Pipelined | Workload::Bulk => {
                for &payload_bytes in &arguments.payload {
                    add(workload::stream(arguments, entries, place, *workload, payload_bytes)?);
                }
            }
            Workload::Producers => {
                for &payload_bytes in &arguments.payload {
                    for &threads in &arguments.writers {
                        add(workload::producers(
                            arguments,
                            entries,
                            place,
                            threads,
                            payload_bytes,
                        )?);
                    }
                }
            }
            Workload::Recovery => workload::recovery(arguments, entries, place, &mut add)?,
        }
    }
    Ok(cells)
}
