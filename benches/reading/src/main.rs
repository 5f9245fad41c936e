/*!
The `reading` command: ways to read sealed segments, and to ship them, on the same disk in one process.

`cargo run --release --manifest-path benches/reading/Cargo.toml` writes a log of 1 GiB in records of 1 KiB and
then compares, in interleaved rounds, each from a cold page cache and from a warm one:

* its records, every frame checked: the log's own replay, its opening included, which reads ahead with
  four threads, past the page cache, and delivers in order; and without a log around them, in no order:
  segments mapped (as they are touched, and populated), read through the page cache, and read direct into
  aligned memory (in one request, and in several), each by one thread and by four that take
  turns at the next segment;
* its bytes, nothing checked, to a thread that reads a local socket away: `sendfile`, direct reads and
  `write`, mapped and `write`.

Figures are of payload for the first and of the segments' used bytes for the second. The caches of the
whole machine are dropped before each cold round, for which it must be root; `--keep-caches` leaves them
alone. Those of a virtual machine's host are out of reach.

[`sealed`] has the log and what its segments are checked for, [`ways`] and [`shipping`] what is compared,
[`contest`] who runs when. All `unsafe` stands in [`mapping`].

Exit status: 0 done; 1 it could not be done; 2 a wrong command line.
*/
#![deny(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

mod contest;
#[expect(unsafe_code, reason = "mapped files, which nobody else changes")]
mod mapping;
mod sealed;
mod shipping;
mod ways;

use std::{error::Error, path::PathBuf, process::ExitCode};

use serde_json::json;
use wal_bench::disk::{DiskFile, fresh_directory};
use wal_benches::report;

use contest::{Caches, Contest};
use sealed::{RECORD_BYTES, Sealed};

const USAGE: &str = "\
usage: reading [--dir DIR] [--mib N] [--rounds N] [--keep-caches] [--json]
  --dir          where the log is written, in a directory that is removed afterwards (the build's)
  --mib          how long it is (1024)
  --rounds       how often all take turns (5)
  --keep-caches  drops no caches: the cold rounds are not cold
  --json         all rounds as one JSON object instead of tables";

struct Arguments {
    dir: Option<PathBuf>,
    mib: u64,
    rounds: u64,
    caches: Caches,
    json: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("reading: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reading: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments =
        Arguments { dir: None, mib: 1024, rounds: 5, caches: Caches::Dropped, json: false };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        let count = |value: String, max: u64| match value.parse() {
            Ok(count) if (1..=max).contains(&count) => Ok(count),
            _ => Err(format!("{word} {value}: not a number from 1 to {max}")),
        };
        match word.as_str() {
            "--dir" => arguments.dir = Some(value()?.into()),
            "--mib" => arguments.mib = count(value()?, 1 << 20)?,
            "--rounds" => arguments.rounds = count(value()?, 1000)?,
            "--keep-caches" => arguments.caches = Caches::Kept,
            "--json" => arguments.json = true,
            _ => return Err(format!("{word}: no such option")),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { mib, rounds, .. } = *arguments;
    let caches = caches(arguments.caches);
    let directory = fresh_directory(arguments.dir.as_deref())?;
    let sealed = Sealed::write(directory.path(), mib)?;
    let segments = sealed.segments();
    let direct = DiskFile::open(segments[0].path())?.is_direct();
    let header = format!(
        "{}\n{mib} MiB in records of {RECORD_BYTES} bytes, {} segments of {} MiB, {}; \
         medians of {rounds} rounds; {}",
        report::machine(directory.path())?,
        segments.len(),
        sealed.identity.segment_bytes >> 20,
        if direct { "direct I/O" } else { "DIRECT I/O IS REFUSED" },
        report::load(),
    );
    if !arguments.json {
        println!("{header}");
    }
    let (read, sent) = ("records read, every frame checked", "segments sent, nothing checked");
    let mut contests = [
        Contest::new(read, sealed.payload_bytes, ways::checked(&sealed)),
        Contest::new(sent, sealed.bytes(), shipping::shipped(&sealed)),
    ];
    for _ in 0..rounds {
        for contest in &mut contests {
            contest.round(&sealed, caches)?;
        }
    }
    if arguments.json {
        let value = json!({
            "header": header.lines().collect::<Vec<_>>(),
            "direct": direct,
            "caches_dropped": caches == Caches::Dropped,
            "contests": contests.iter().map(Contest::json).collect::<Vec<_>>(),
        });
        println!("{value:#}");
    } else {
        for contest in &contests {
            print!("{}", contest.table(caches));
        }
        println!("{}", report::load());
    }
    Ok(directory.close()?)
}

/// What there will be, said loudly if the cold rounds are not cold.
fn caches(wanted: Caches) -> Caches {
    let why = match wanted {
        Caches::Kept => "as asked for".to_owned(),
        Caches::Dropped => match contest::drop_caches() {
            Ok(()) => return Caches::Dropped,
            Err(error) => error.to_string(),
        },
    };
    eprintln!("reading: CACHES ARE NOT DROPPED, {why}: the cold rounds are not cold");
    Caches::Kept
}
