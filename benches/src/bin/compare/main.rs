//! `compare`: contestants side by side on one disk, in interleaved rounds, and at the end whether
//! the log kept what it is held to.
//!
//! Each workload is a module. To add a contestant: implement
//! [`Durable`](wal_bench::measure::Durable) or [`Transfer`](wal_bench::measure::Transfer) for
//! it, and push it where the list of its workload is made.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

mod arguments;
mod beside;
mod busy;
mod durable;
mod pipeline;
mod producers;
mod replay;
mod small;

use std::{error::Error, path::PathBuf, process::ExitCode};

use wal_bench::{
    disk::{DiskFile, Fill, Method, fresh_directory},
    processes,
};
use wal_benches::{
    goals::{self, Goal},
    report,
};

use arguments::{Arguments, USAGE, Workload};

/// What a closed loop overwrites: as long as four segments of a log with default options.
const FLOOR_FILE_BYTES: u64 = 64 << 20;

/// What a workload finds out about the log.
type Outcome = Result<Vec<Goal>, Box<dyn Error>>;

fn main() -> ExitCode {
    processes::serve();
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("compare: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let directory = fresh_directory(arguments.parent.as_deref())?;
    println!("{}", report::machine(directory.path())?);
    let path = directory.path().to_path_buf();
    let mut bench = Bench { directory: path, arguments, method: Method::Dsync };
    let file = bench.file("probe", FLOOR_FILE_BYTES, Fill::Zeros)?;
    if !file.is_direct() {
        return Err("no direct I/O here: the figures would be the page cache's".into());
    }
    let probed = Method::probe(&file)?;
    drop(file);
    bench.method = bench.arguments.method.unwrap_or(probed.best());
    println!(
        "method: {}; probe, 4 KiB: {} {:?}, {} {:?}; medians of {} rounds of {:?}; {}",
        bench.method,
        Method::ALL[0],
        probed.durable[0].unwrap_or_default(),
        Method::ALL[1],
        probed.durable[1].unwrap_or_default(),
        bench.arguments.rounds,
        bench.arguments.duration,
        report::load(),
    );
    let mut goals = Vec::new();
    for &workload in &bench.arguments.only {
        goals.extend(match workload {
            Workload::Memory => small::memory(&bench)?,
            Workload::Append => small::append(&bench)?,
            Workload::Durable(writers) => durable::closed_loop(&bench, writers)?,
            Workload::Pipeline { variants } => pipeline::pipeline(&bench, variants)?,
            Workload::Producers => producers::producers(&bench)?,
            Workload::Beside => beside::beside(&bench)?,
            Workload::Busy => busy::busy(&bench)?,
            Workload::Warm => replay::warm(&bench)?,
            Workload::Replay => replay::replay(&bench)?,
        });
    }
    print!("{}", goals::summary(&goals));
    println!("{}", report::load());
    directory.close()?;
    Ok(())
}

struct Bench {
    directory: PathBuf,
    arguments: Arguments,
    method: Method,
}

impl Bench {
    /// A fresh file. Its name is free again at once: it lives as long as it is open.
    fn file(&self, name: &str, bytes: u64, fill: Fill) -> Result<DiskFile, Box<dyn Error>> {
        let path = self.directory.join(name);
        let file = DiskFile::prepare(&path, bytes, fill)?;
        std::fs::remove_file(path)?;
        Ok(file)
    }
}
