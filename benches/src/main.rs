//! `compare`: contestants side by side on one disk, in interleaved rounds.
//!
//! To add a contestant: implement [`Durable`] or [`Transfer`] for it, and push it where the list of
//! its workload is made (`durable`, `bandwidth`).

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use wal_benches::{
    disk::{DirectFile, Direction, Fill, Method, Sequential, fresh_directory},
    floors::{ParkingGroupFloor, SimplestGroupFloor, SingleFloor, StdGroupFloor},
    log::RecycledLog,
    measure::{Durable, Load, Transfer, interleave, interleave_transfers},
    report,
};

const USAGE: &str = "\
usage: compare [--rounds N] [--seconds S] [--dir DIR] [--only WORKLOAD].. [--method METHOD]

  --rounds N         rounds of every contestant, at least 1 (5; fewer are not to be quoted)
  --seconds S        length of a round of one contestant (2); of a cell of a sweep, a quarter
  --dir DIR          where a fresh directory is made (the build's target directory)
  --only WORKLOAD    single, group4, group16, group64, write or read; may be repeated (all)
  --method METHOD    dsync or fdatasync (dsync, unless a probe finds the other faster)";

/// Bytes of each record of the closed loops.
const RECORD_BYTES: usize = 128;

/// What a closed loop overwrites: as long as four segments of a log with default options.
const FLOOR_FILE_BYTES: u64 = 64 << 20;

/// What the bandwidths are measured over.
const SWEEP_FILE_BYTES: u64 = 1 << 30;

/// A cell of a sweep runs for this part of a round.
const SWEEP_PART: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    /// Closed loop with this many writers.
    Durable(usize),
    Write,
    Read,
}

impl Workload {
    const ALL: [(&str, Self); 6] = [
        ("single", Self::Durable(1)),
        ("group4", Self::Durable(4)),
        ("group16", Self::Durable(16)),
        ("group64", Self::Durable(64)),
        ("write", Self::Write),
        ("read", Self::Read),
    ];
}

#[derive(Debug)]
struct Arguments {
    rounds: usize,
    duration: Duration,
    parent: Option<PathBuf>,
    only: Vec<Workload>,
    method: Option<Method>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("compare: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let directory = fresh_directory(arguments.parent.as_deref())?;
    let bench = Bench { directory: directory.path().to_path_buf(), arguments };
    println!("{}", report::machine(directory.path())?);
    let (probed, medians) = Method::probe(&bench.file("probe", FLOOR_FILE_BYTES, Fill::Zeros)?)?;
    let method = arguments.method.unwrap_or(probed);
    println!(
        "method: {method}; probe, 4 KiB: {} {:?}, {} {:?}; medians of {} rounds of {:?}",
        Method::ALL[0],
        medians[0],
        Method::ALL[1],
        medians[1],
        arguments.rounds,
        arguments.duration,
    );
    for &workload in &arguments.only {
        match workload {
            Workload::Durable(writers) => bench.durable(writers, method)?,
            Workload::Write => {
                let blocks = Sequential::WRITE_BLOCK_BYTES;
                let title = "sequential durable direct writes";
                bench.bandwidth(title, Fill::Zeros, Direction::Write(method), &blocks)?;
            }
            Workload::Read => {
                let blocks = Sequential::READ_BLOCK_BYTES;
                let title = "sequential direct reads";
                bench.bandwidth(title, Fill::Pattern, Direction::Read, &blocks)?;
            }
        }
    }
    directory.close()?;
    Ok(())
}

struct Bench<'a> {
    directory: PathBuf,
    arguments: &'a Arguments,
}

impl Bench<'_> {
    /// Writers that each wait for their own record. The floor of one writer is the single floor,
    /// of several the group floor.
    fn durable(&self, writers: usize, method: Method) -> Result<(), Box<dyn Error>> {
        let file = |name| self.file(name, FLOOR_FILE_BYTES, Fill::Zeros);
        let single = SingleFloor::new(file("single")?, method)?;
        let group = SimplestGroupFloor::new(file("group")?, method)?;
        let unlocked = StdGroupFloor::new(file("group-std")?, method)?;
        let parking = ParkingGroupFloor::new(file("group-parking")?, method)?;
        let path = self.directory.join(format!("log-{writers}"));
        let log = RecycledLog::create(&path, &wal::Options::new())?;
        let mut contestants: Vec<(&str, &dyn Durable)> = Vec::new();
        if writers == 1 {
            contestants.push(("single floor", &single));
        }
        contestants.push(("group floor", &group));
        contestants.push(("group floor, unlock first", &unlocked));
        contestants.push(("group floor, parking_lot", &parking));
        contestants.push(("wal", &log));

        let load = Load { writers, payload_bytes: RECORD_BYTES, duration: self.arguments.duration };
        let summaries = interleave(&contestants, &load, self.arguments.rounds);
        let title = format!("{writers} writer(s), {RECORD_BYTES} bytes, each record durable");
        print!("{}", report::durable_table(&title, &summaries));
        drop(log);
        std::fs::remove_dir_all(path)?;
        Ok(())
    }

    /// The disk's own limits over block sizes and depths.
    fn bandwidth(
        &self,
        title: &str,
        fill: Fill,
        direction: Direction,
        block_sizes: &[usize],
    ) -> Result<(), Box<dyn Error>> {
        let file = self.file("sweep", SWEEP_FILE_BYTES, fill)?;
        let mut limits = Vec::new();
        for &block_bytes in block_sizes {
            for depth in Sequential::DEPTHS {
                limits.push(Sequential::new(&file, direction, block_bytes, depth)?);
            }
        }
        let mut contestants: Vec<(String, &dyn Transfer)> = Vec::new();
        for limit in &limits {
            contestants.push((limit.name(), limit));
        }
        // The log goes here.

        let duration = self.arguments.duration / SWEEP_PART;
        let summaries = interleave_transfers(&contestants, duration, self.arguments.rounds)?;
        print!("{}", report::transfer_table(title, &summaries, limits.len()));
        Ok(())
    }

    /// A fresh file. Its name is free again at once: it lives as long as it is open.
    fn file(&self, name: &str, bytes: u64, fill: Fill) -> Result<DirectFile, Box<dyn Error>> {
        let path = self.directory.join(name);
        let file = DirectFile::prepare(&path, bytes, fill)?;
        std::fs::remove_file(path)?;
        Ok(file)
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        rounds: 5,
        duration: Duration::from_secs(2),
        parent: None,
        only: Vec::new(),
        method: None,
    };
    while let Some(word) = words.next() {
        // `cargo bench` hands this to every target.
        if word == "--bench" {
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word}: a value is missing"))?;
        let wrong = || format!("{word}: not understood: {value}");
        match word.as_str() {
            "--rounds" => {
                arguments.rounds =
                    value.parse().ok().filter(|&rounds| rounds > 0).ok_or_else(wrong)?;
            }
            "--seconds" => {
                let seconds = value.parse().ok().filter(|&seconds: &f64| seconds > 0.0);
                arguments.duration = seconds
                    .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                    .ok_or_else(wrong)?;
            }
            "--dir" => arguments.parent = Some(PathBuf::from(value)),
            "--only" => {
                let known = Workload::ALL.into_iter().find(|(name, _)| *name == value);
                arguments.only.push(known.ok_or_else(wrong)?.1);
            }
            "--method" => {
                arguments.method = Some(match value.as_str() {
                    "dsync" => Method::Dsync,
                    "fdatasync" => Method::Fdatasync,
                    _ => return Err(wrong()),
                });
            }
            _ => return Err(format!("{word}: no such option")),
        }
    }
    if arguments.only.is_empty() {
        arguments.only = Workload::ALL.map(|(_, workload)| workload).to_vec();
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn without_arguments_everything_runs_five_times() {
        let arguments = parsed("").unwrap();
        assert_eq!((arguments.rounds, arguments.only.len()), (5, Workload::ALL.len()));
    }

    #[test]
    fn arguments_are_taken_or_named() {
        let arguments = parsed("--only group4 --seconds 0.5 --only read --method dsync").unwrap();
        assert_eq!(arguments.only, [Workload::Durable(4), Workload::Read]);
        assert_eq!(arguments.duration, Duration::from_millis(500));
        assert_eq!(arguments.method, Some(Method::Dsync));
        for wrong in ["--rounds 0", "--seconds -1", "--only all", "--rounds", "--fast yes"] {
            let option = wrong.split(' ').next().unwrap();
            assert!(parsed(wrong).unwrap_err().starts_with(option), "{wrong}");
        }
    }
}
