//! What the command line asks for.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Durable writes by threads that block, and by one io_uring
#[derive(Debug, Parser)]
#[command(name = "ring", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Overwrites of one file by both, in turns
    Speed(SpeedArguments),
    /// What a killed process leaves under way, on a disk that is made slow (needs root)
    Killed(KilledArguments),
    /// The process that is killed
    #[command(hide = true)]
    Hold(HoldArguments),
}

#[derive(Debug, Args)]
pub(crate) struct SpeedArguments {
    /// Where a fresh directory is made [default: the build's target directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Rounds of both; fewer than five are not to be quoted
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Length of a round of one of them, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Length of the file that is overwritten, in MiB
    #[arg(long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    pub(crate) mib: u64,
    /// Print all figures of all rounds as JSON instead of the medians
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KilledArguments {
    /// Where a fresh directory is made [default: the build's target directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HoldArguments {
    #[arg(long)]
    pub(crate) way: Way,
    /// The file to overwrite
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// The file to lock
    #[arg(long)]
    pub(crate) lock: PathBuf,
    /// The control group to join
    #[arg(long)]
    pub(crate) group: PathBuf,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// As many threads as writes, each blocked in `pwritev2`
    Threads,
    /// One thread and one io_uring
    Ring,
}

impl Way {
    /// Both, in the order of the tables.
    pub(crate) const ALL: [Self; 2] = [Self::Threads, Self::Ring];

    /// As the tables and the command line have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Ring => "ring",
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("not a length of time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        let words = ["ring"].into_iter().chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command)
    }

    #[test]
    fn without_options_it_is_what_the_table_was_measured_with() {
        let Ok(Command::Speed(arguments)) = parsed("speed") else { panic!("speed") };
        let SpeedArguments { dir, rounds, seconds, mib, json } = arguments;
        assert_eq!((dir, rounds, seconds), (None, 5, Duration::from_secs(1)));
        assert_eq!((mib, json), (512, false));
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in ["", "speed --rounds 0", "speed --seconds 0", "speed --seconds -1", "spin"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        // Eight writes of 1 MiB are under way at once: no two of them to one place.
        assert!(parsed("speed --mib 15").is_err());
        assert!(parsed("killed --rounds 1").is_err());
    }

    /// The program starts itself with the name of the way.
    #[test]
    fn a_way_is_told_by_its_name() {
        for way in Way::ALL {
            assert_eq!(Way::from_str(way.name(), false), Ok(way));
        }
    }
}
