//! What the command line asks for.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};

use crate::contestants::{self, Entry};

/// This log and others on the same disk, in interleaved rounds
#[derive(Debug, Parser)]
#[command(name = "peers", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Rounds of every contestant; fewer than five are not to be quoted
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least_one())]
    pub(crate) rounds: usize,
    /// Length of a round of one contestant, in seconds
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Writers in the closed loop
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,16,64,256",
          value_parser = at_least_one())]
    pub(crate) writers: Vec<usize>,
    /// Bytes of each record
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128,1024,16384",
          value_parser = at_least_one())]
    pub(crate) payload: Vec<usize>,
    /// Only these contestants beside this log [default: all that were built]
    #[arg(long, value_name = "PEERS", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// What is measured
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "durable,pipelined,bulk,producers,recovery"
    )]
    pub(crate) workload: Vec<Workload>,
    /// Length of the log that is recovered and opened, in MiB of payload
    #[arg(long, value_name = "N", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) recovery_mib: u64,
    /// Where a fresh directory is made [default: the build's target directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Write all figures of all rounds to this file as well
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Name the contestants that were built, with their versions and modes
    #[arg(long)]
    pub(crate) list: bool,
    /// Only look whether each contestant syncs before it acknowledges
    #[arg(long)]
    pub(crate) verify_sync: bool,
    /// Measure without looking whether each contestant syncs
    #[arg(long)]
    pub(crate) unverified: bool,
    /// Append to a log of the one contestant in `--only`, in this directory
    #[arg(long, value_name = "DIR", hide = true, requires = "only")]
    pub(crate) append_in: Option<PathBuf>,
    /// So many records
    #[arg(long, value_name = "N", hide = true, default_value_t = 0)]
    pub(crate) records: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// A closed loop: each writer waits for its own record
    Durable,
    /// One thread with a window of 1000 records that are not durable yet
    Pipelined,
    /// One thread with 16 MiB of them
    Bulk,
    /// Several threads, each with such a window of 1000: as many as writers in the closed loop
    Producers,
    /// A long log that was closed, read from its first record to its last; and opened
    Recovery,
}

impl Arguments {
    /// The contestants that are asked for, this log first unless one of the others is to append alone.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, String> {
        let mut all = contestants::all();
        if self.only.iter().any(|name| name == contestants::canary().name) {
            all.push(contestants::canary());
        }
        if let Some(name) = self.only.iter().find(|name| all.iter().all(|e| e.name != **name)) {
            return Err(name.clone());
        }
        let this = all[0].name;
        let is_asked = |entry: &Entry| {
            let named = self.only.iter().any(|name| name == entry.name);
            let always = entry.name == this && self.append_in.is_none();
            self.only.is_empty() || named || always
        };
        Ok(all.into_iter().filter(is_asked).collect())
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn at_least_one() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    RangedU64ValueParser::<u64>::new()
        .range(1..=1 << 30)
        .map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(seconds),
        _ => Err("not a length of time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["peers"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn without_arguments_everything_runs_five_times() {
        let arguments = parsed("").unwrap();
        assert_eq!((arguments.rounds, arguments.workload.len()), (5, 5));
        assert_eq!(arguments.writers, [1, 4, 16, 64, 256]);
        assert_eq!(arguments.payload, [128, 1024, 16384]);
        assert_eq!(arguments.entries().unwrap().len(), contestants::all().len());
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in ["--rounds 0", "--seconds 0", "--seconds -1", "--writers 1,x", "--workload all"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("--only sled").unwrap().entries().err().as_deref(), Some("sled"));
    }

    /// Whoever is asked for, this log is there to be compared; but it never appends in another's place.
    #[test]
    fn this_log_is_always_first() {
        let names = |line: String| -> Vec<_> {
            let entries = parsed(&line).unwrap().entries().unwrap();
            entries.iter().map(|entry| entry.name).collect()
        };
        let other = contestants::all().last().unwrap().name;
        if other != "wal" {
            assert_eq!(names(format!("--only {other}")), ["wal", other]);
            assert_eq!(names(format!("--only {other} --append-in x")), [other]);
        }
        assert_eq!(names("--only wal --append-in x".to_owned()), ["wal"]);
    }
}
