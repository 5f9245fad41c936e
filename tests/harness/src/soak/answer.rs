//! [`Kind`]: how the programs of a layer say what they covered.

use serde_json::Value;
use std::collections::BTreeMap;

/// What was covered, by name.
pub(super) type Counts = BTreeMap<&'static str, u64>;

pub(super) const STATES: &str = "states";
pub(super) const AGAIN: &str = "states of recoveries";
pub(super) const TORN: &str = "torn";
pub(super) const ACKNOWLEDGED: &str = "acknowledged";
pub(super) const CASES: &str = "cases";
pub(super) const PLANTED: &str = "planted bugs found";
pub(super) const EXECUTIONS: &str = "executions";
pub(super) const PROCESSES: &str = "processes killed";
pub(super) const KERNELS: &str = "kernels killed";
pub(super) const SCHEDULES: &str = "schedules";
pub(super) const LOST: &str = "lost";
pub(super) const PHANTOM: &str = "phantom";

/// How a layer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Simulated,
    Recorded,
    Killed,
    Errors,
    Kernels,
    /// The kernel's own log of writes.
    Writes,
    Schedules,
    Fuzzed,
    Planted,
}

/// Where a number is.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// In each object of JSON, by its path.
    Path(&'static str),
    /// The number of objects that passed.
    Passes,
    /// Before this word, in each line of the standard output or error that has it.
    Before(&'static str),
}

impl Kind {
    /// What it counts. The first is never 0, or nothing was proved.
    const fn counts(self) -> &'static [(&'static str, Source)] {
        use Source::{Before, Passes, Path};
        match self {
            Self::Simulated => &[(STATES, Path("/states")), ("lives", Path("/lives"))],
            Self::Recorded => &[
                (STATES, Path("/states")),
                (AGAIN, Path("/again_states")),
                (TORN, Path("/torn")),
                ("logs with something to cut", Path("/cut")),
                (LOST, Path("/lost")),
                (PHANTOM, Path("/phantom")),
            ],
            Self::Killed => &[
                (ACKNOWLEDGED, Path("/acked")),
                (PROCESSES, Path("/kills")),
                ("torn tails", Path("/torn_tails")),
                (LOST, Path("/lost")),
                (PHANTOM, Path("/phantom")),
            ],
            Self::Errors => &[(CASES, Passes), (PROCESSES, Path("/found/kills"))],
            Self::Kernels => &[(KERNELS, Passes), (ACKNOWLEDGED, Path("/found/acknowledged"))],
            Self::Writes => &[
                (STATES, Path("/found/states")),
                ("flushes", Path("/found/flushes")),
                ("FUA", Path("/found/fua")),
            ],
            Self::Schedules => {
                &[(SCHEDULES, Before("random schedules")), (SCHEDULES, Before("ranked ones"))]
            }
            Self::Fuzzed => &[(EXECUTIONS, Before("runs in"))],
            Self::Planted => &[(PLANTED, Before("of "))],
        }
    }

    pub(super) fn read(self, out: &str, errors: &str) -> Counts {
        let answers: Vec<Value> =
            out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut counts = Counts::new();
        for (name, source) in self.counts() {
            let number: u64 = match source {
                Source::Path(path) => {
                    answers.iter().filter_map(|answer| answer.pointer(path)?.as_u64()).sum()
                }
                Source::Passes => {
                    let passes = answers.iter().filter(|answer| answer["verdict"] == "pass");
                    u64::try_from(passes.count()).unwrap_or(u64::MAX)
                }
                Source::Before(word) => {
                    out.lines().chain(errors.lines()).filter_map(|line| before(line, word)).sum()
                }
            };
            *counts.entry(name).or_default() += number;
        }
        counts
    }

    /// Whether there is anything that proves something.
    pub(super) fn is_covered(self, counts: &Counts) -> bool {
        self.counts().first().is_some_and(|(name, _)| counts.get(name) > Some(&0))
    }
}

/// The number that stands before `word`.
fn before(line: &str, word: &str) -> Option<u64> {
    let (text, _) = line.split_once(word)?;
    text.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_where_programs_say_them() {
        let fuzzed = Kind::Fuzzed.read("", "#5 DONE cov: 3\nDone 123 runs in 5 second(s)\n");
        assert_eq!(fuzzed[EXECUTIONS], 123);
        let line = "programs: 60 random schedules, 40 ranked ones";
        let schedules = Kind::Schedules.read("", &format!("{line}\n{line}\n"));
        assert_eq!(schedules[SCHEDULES], 200);
        let planted = Kind::Planted.read("| name | found |\n\n42 of 42 planted bugs found\n", "");
        assert_eq!(planted["planted bugs found"], 42);
        let text = r#"{"verdict":"pass","found":{"acknowledged":7}}"#;
        let kernels = Kind::Kernels.read(&format!("{text}\n{text}\nno JSON\n"), "");
        assert_eq!((kernels[KERNELS], kernels["acknowledged"]), (2, 14));
    }

    #[test]
    fn nothing_is_not_enough() {
        for kind in [Kind::Simulated, Kind::Errors, Kind::Schedules, Kind::Fuzzed, Kind::Planted] {
            assert!(!kind.is_covered(&kind.read("", "")), "{kind:?}");
        }
        let kind = Kind::Recorded;
        assert!(!kind.is_covered(&kind.read(r#"{"states":0,"again_states":5}"#, "")));
        assert!(kind.is_covered(&kind.read(r#"{"states":1}"#, "")));
    }
}
