//! `wal bench`: the log beside the floors of the user's own disk.
//!
//! The keys of its `--json` are listed in [`wal_bench::report::json`].

mod interrupt;
mod progress;

use crate::output::{EXIT_UNREADABLE, Failure, Output};
use interrupt::Held;
use progress::Line;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use wal_bench::{
    plan::{Measurement, PAYLOAD_BYTES_MAX, Settings, WRITERS_MAX},
    report::{html, json, table},
    run::{self, Place},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A directory on the disk to measure
    dir: PathBuf,
    /// Rounds in which log and floor take turns; fewer than 5 are not to be quoted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds for each measurement, its rounds together; for rotation two and a half times that
    #[arg(long, value_name = "S", default_value_t = 4.0, value_parser = seconds)]
    seconds: f64,
    /// Only these, with commas between: latency, groups, busy, bandwidth, append, recovery, rotation, space
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = measurement)]
    only: Vec<Measurement>,
    /// Groups of so many writers, with commas between
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [4, 16, 64], value_parser = writers)]
    writers: Vec<usize>,
    /// Bytes of each record where records are small: latency, groups, busy, append, rotation, space
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload)]
    payload: usize,
    /// Answer with a JSON object: schema, wal_version, date, seconds, settings, machine, method, ratios,
    /// per_commit, distributions, throughput, timelines, warnings
    #[arg(long)]
    json: bool,
    /// Also write a page with charts, which needs nothing but itself
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let Some(path) = &arguments.html {
        check_page(path)?;
    }
    let settings = arguments.settings();
    let signals = Held::new().map_err(|error| failure(&error))?;
    let place = Place::below(&arguments.dir).map_err(|error| failure(&error))?;
    let directory = place.path().to_path_buf();
    signals.remove_on_signal(directory).map_err(|error| failure(&error))?;
    let line = Line::new();
    let found = run::run(&place, &settings, &|progress| line.show(progress));
    line.clear();
    let removed = place.remove();
    if found.is_err() || removed.is_err() {
        signals.give_way();
    }
    let report = found.map_err(|error| {
        Failure::new(EXIT_UNREADABLE, format!("bench in {}: {error}", arguments.dir.display()))
    })?;
    removed.map_err(|error| failure(&error))?;

    let mut output = Output::new();
    if arguments.json {
        output.object(&json::fields(&report))?;
    } else {
        output.line(format_args!("{}", table::text(&report).trim_end()))?;
    }
    output.finish()?;
    if let Some(path) = &arguments.html {
        fs::write(path, html::page(&report)).map_err(|error| page_failure(path, &error))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn settings(&self) -> Settings {
        let mut writers = self.writers.clone();
        writers.sort_unstable();
        writers.dedup();
        let only = if self.only.is_empty() { Measurement::ALL.to_vec() } else { self.only.clone() };
        Settings {
            rounds: self.rounds.into(),
            duration: Duration::from_secs_f64(self.seconds),
            only,
            writers,
            payload_bytes: self.payload,
        }
    }
}

fn failure(error: &io::Error) -> Failure {
    Failure::new(EXIT_UNREADABLE, format!("bench: {error}"))
}

/// Whether a page could be written to `path`, as far as that can be told without making it: before
/// minutes are spent.
fn check_page(path: &Path) -> Result<(), Failure> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let found = match (fs::metadata(parent), path.is_dir()) {
        (Err(error), _) => Err(error),
        (Ok(found), _) if !found.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        (Ok(_), true) => Err(io::ErrorKind::IsADirectory.into()),
        (Ok(_), false) => Ok(()),
    };
    found.map_err(|error| page_failure(path, &error))
}

fn page_failure(path: &Path, error: &io::Error) -> Failure {
    Failure::new(EXIT_UNREADABLE, format!("{}: {error}", path.display()))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "from 0.01 to 3600".to_owned())
}

fn measurement(text: &str) -> Result<Measurement, String> {
    Measurement::named(text).ok_or_else(|| {
        let names: Vec<_> = Measurement::ALL.iter().map(|known| known.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

fn writers(text: &str) -> Result<usize, String> {
    let writers = text.parse().ok().filter(|writers| (2..=WRITERS_MAX).contains(writers));
    writers.ok_or_else(|| format!("from 2 to {WRITERS_MAX}"))
}

fn payload(text: &str) -> Result<usize, String> {
    let payload = text.parse().ok().filter(|payload| (1..=PAYLOAD_BYTES_MAX).contains(payload));
    payload.ok_or_else(|| format!("from 1 to {PAYLOAD_BYTES_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &str) -> Result<Settings, clap::Error> {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        Ok(Line::try_parse_from(words)?.arguments.settings())
    }

    #[test]
    fn without_options_everything_is_measured() {
        let settings = parsed("/disk").unwrap();
        let default = Settings::default();
        assert_eq!(settings.only, default.only);
        assert_eq!(settings.writers, default.writers);
        assert_eq!(settings.rounds, default.rounds);
        assert_eq!(settings.duration, default.duration);
        assert_eq!(settings.payload_bytes, default.payload_bytes);
    }

    #[test]
    fn options_are_taken_or_refused() {
        let line =
            "--only space,latency --writers 8,2,8 --seconds 0.5 --payload 1 --rounds 2 /disk";
        let settings = parsed(line).unwrap();
        assert_eq!(settings.only, [Measurement::Space, Measurement::Latency]);
        assert_eq!(settings.writers, [2, 8]);
        assert_eq!(settings.duration, Duration::from_millis(500));
        assert_eq!((settings.payload_bytes, settings.rounds), (1, 2));
        for wrong in [
            "",
            "/disk --only all",
            "/disk --writers 1",
            "/disk --writers 257",
            "/disk --seconds 0",
            "/disk --seconds nan",
            "/disk --payload 0",
            "/disk --payload 65537",
            "/disk --rounds 0",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
