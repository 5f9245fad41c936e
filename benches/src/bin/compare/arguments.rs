//! What the command line asks for.

use std::{path::PathBuf, time::Duration};

use wal_bench::disk::Method;

pub(crate) const USAGE: &str = "\
usage: compare [--rounds N] [--seconds S] [--dir DIR] [--only WORKLOAD].. [--method METHOD]
               [--replay-gib N]

  --rounds N         rounds of every contestant, at least 1 (5; fewer are not to be quoted)
  --seconds S        length of a round of one contestant (2); of a bandwidth, of producers, a quarter
  --dir DIR          where a fresh directory is made (the build's target directory)
  --only WORKLOAD    memory, append, single, group4, group16, group64, pipeline, tune, producers,
                     beside, busy, warm or replay; may be repeated (all but tune)
  --method METHOD    dsync or fdatasync (dsync, unless a probe finds the other faster)
  --replay-gib N     length of the log that is replayed and opened, in GiB (4)

The workload tune is pipeline with more sizes of frame, depth and pool.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// What the process takes with a log open. First: what others leave would be counted.
    Memory,
    /// One call, nobody waiting.
    Append,
    /// Closed loop with this many writers.
    Durable(usize),
    /// One thread that runs ahead of the disk; with the variants of the options or without.
    Pipeline { variants: bool },
    /// Many threads that append without waiting, alone and beside writers that wait.
    Producers,
    /// One writer beside somebody who fills the page cache.
    Beside,
    /// Closed loops beside processes that keep the processors busy.
    Busy,
    /// Replay from memory.
    Warm,
    /// Replay from disk, and open.
    Replay,
}

impl Workload {
    const ALL: [(&str, Self); 13] = [
        ("memory", Self::Memory),
        ("append", Self::Append),
        ("single", Self::Durable(1)),
        ("group4", Self::Durable(4)),
        ("group16", Self::Durable(16)),
        ("group64", Self::Durable(64)),
        ("pipeline", Self::Pipeline { variants: false }),
        ("tune", Self::Pipeline { variants: true }),
        ("producers", Self::Producers),
        ("beside", Self::Beside),
        ("busy", Self::Busy),
        ("warm", Self::Warm),
        ("replay", Self::Replay),
    ];
}

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    pub(crate) parent: Option<PathBuf>,
    pub(crate) only: Vec<Workload>,
    pub(crate) method: Option<Method>,
    pub(crate) replay_gib: u64,
}

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        rounds: 5,
        duration: Duration::from_secs(2),
        parent: None,
        only: Vec::new(),
        method: None,
        replay_gib: 4,
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
            "--replay-gib" => {
                let gib = value.parse().ok().filter(|gib| (1..=1024).contains(gib));
                arguments.replay_gib = gib.ok_or_else(wrong)?;
            }
            _ => return Err(format!("{word}: no such option")),
        }
    }
    if arguments.only.is_empty() {
        let all = Workload::ALL.into_iter().map(|(_, workload)| workload);
        let tune = Workload::Pipeline { variants: true };
        arguments.only = all.filter(|workload| *workload != tune).collect();
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
    fn without_arguments_everything_but_the_tuning_runs_five_times() {
        let arguments = parsed("").unwrap();
        assert_eq!((arguments.rounds, arguments.only.len()), (5, Workload::ALL.len() - 1));
    }

    #[test]
    fn arguments_are_taken_or_named() {
        let line = "--only group4 --seconds 0.5 --only replay --method dsync --replay-gib 1";
        let arguments = parsed(line).unwrap();
        assert_eq!(arguments.only, [Workload::Durable(4), Workload::Replay]);
        assert_eq!(arguments.duration, Duration::from_millis(500));
        assert_eq!(arguments.method, Some(Method::Dsync));
        assert_eq!(arguments.replay_gib, 1);
        let wrong = "--rounds 0|--seconds -1|--only all|--rounds|--fast yes|--replay-gib 0";
        for wrong in wrong.split('|') {
            let option = wrong.split(' ').next().unwrap();
            assert!(parsed(wrong).unwrap_err().starts_with(option), "{wrong}");
        }
    }
}
