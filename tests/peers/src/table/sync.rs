/*!
One system call fails that should make a record durable, and then all is well again.

`strace` makes it fail, once. Which one: a run without a failure is watched, and the last sync of some
kind between the marks of one record, in the thread that makes the marks if it makes syncs, is the one
that fails in the second run. The call itself is not made, and what was written stays in the page cache:
what is looked at is what the peer says and does afterwards.
*/

use super::{Found, subject};
use crate::{
    peer::{self, Files},
    skip,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How many records are appended.
const RECORDS: u64 = 60;

/// In whose append the call fails.
const HIT: u64 = 30;

/// A program that is not done by then waits for ever.
const RUN_MAX: Duration = Duration::from_secs(20);

/// What came of one failed call.
#[derive(Debug)]
pub(super) struct FailedSync {
    pub(super) calls: &'static str,
    pub(super) outcome: Result<Outcome, String>,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The call that failed.
    pub(super) call: String,
    /// How often, which should be once.
    pub(super) injected: usize,
    /// What was answered for the record.
    pub(super) answer: &'static str,
    /// The first record whose append answered with an error.
    pub(super) first_error: Option<u64>,
    pub(super) errors: usize,
    /// How many records were acknowledged after this one.
    pub(super) acknowledged_after: usize,
    pub(super) end: String,
    /// After another open: how many acknowledged records are missing, whether a record is there whose
    /// append answered with an error, and the verdict.
    pub(super) missing: usize,
    pub(super) found_in_error: usize,
    pub(super) verdict: String,
}

pub(super) fn fail_all(peer: &peer::Entry, seed: u64) -> io::Result<Vec<FailedSync>> {
    if Command::new("strace").arg("-V").output().is_err() {
        skip("sync: no strace here");
        return Ok(Vec::new());
    }
    let fail = |calls: &&'static str| Ok(FailedSync { calls, outcome: fail(peer, calls, seed)? });
    peer.injected.iter().map(fail).collect()
}

fn fail(peer: &peer::Entry, calls: &'static str, seed: u64) -> io::Result<Result<Outcome, String>> {
    let place = tempfile::tempdir()?;
    let watched = place.path().join("watched");
    let trace = format!("trace={calls},write");
    run_traced(peer, place.path(), &watched, &[&trace], seed)?;
    let Some((call, ordinal)) = last_sync(&fs::read_to_string(&watched)?, calls) else {
        return Ok(Err(format!("none of {calls} was made for record {HIT}")));
    };
    let place = tempfile::tempdir()?;
    let watched = place.path().join("watched");
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:error=EIO:when={ordinal}");
    let end = run_traced(peer, place.path(), &watched, &[&trace, &inject], seed)?;
    let injected = fs::read_to_string(&watched)?.matches("(INJECTED)").count();
    let mut outcome = Outcome { call, injected, end, ..Outcome::default() };
    let marks = Marks::read(&fs::read_to_string(place.path().join("marks"))?);
    if marks.is_closing && !marks.is_done {
        outcome.end = format!("error of close, {}", outcome.end);
    }
    outcome.first_error = marks.errors.first().copied();
    outcome.errors = marks.errors.len();
    let hit = outcome.first_error.unwrap_or(HIT);
    outcome.acknowledged_after = marks.acknowledged.iter().filter(|ack| **ack > hit).count();
    outcome.answer = if outcome.first_error.is_some() {
        "error"
    } else if marks.acknowledged.contains(&HIT) {
        "acknowledged"
    } else {
        "none"
    };
    let found = Found::of(peer, &place.path().join("log"), Files::Small)?;
    let is_there = |number: &u64| found.records.iter().any(|(found, _)| found == number);
    outcome.missing = marks.acknowledged.iter().filter(|number| !is_there(number)).count();
    outcome.found_in_error = marks.errors.iter().filter(|number| is_there(number)).count();
    outcome.verdict = found.verdict;
    Ok(Ok(outcome))
}

/// Runs the peer under `strace`, which writes to `watched`; how it ended.
fn run_traced(
    peer: &peer::Entry,
    place: &Path,
    watched: &Path,
    expressions: &[&str],
    seed: u64,
) -> io::Result<String> {
    let program = subject(peer)?;
    let mut command = Command::new("strace");
    command.arg("-f").arg("-o").arg(watched).args(["-e", "signal=none"]);
    for expression in expressions {
        command.args(["-e", expression]);
    }
    command.arg(program.get_program()).args(program.get_args());
    command.arg("write").arg(place.join("log")).arg(place.join("marks"));
    command.args(["--records", &RECORDS.to_string(), "--seed", &seed.to_string()]);
    command.args(["--on-error", "go-on"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.process_group(0).spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(ended(status));
        }
        if start.elapsed() > RUN_MAX {
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let Some(group) = group {
                kill_process_group(group, Signal::KILL)?;
            }
            child.wait()?;
            return Ok(format!("waited for ever (killed after {} s)", RUN_MAX.as_secs()));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(0) => "in order".to_owned(),
        Some(101) => "by a panic".to_owned(),
        _ => status.to_string(),
    }
}

/// The last of `calls` for record [`HIT`]: its name, and the how-manieth of this name it is in its
/// thread, which is how `strace` counts.
fn last_sync(watched: &str, calls: &str) -> Option<(String, usize)> {
    let (begin, ack) = (format!("\"begin {HIT}\\n\""), format!("\"ack {HIT}\\n\""));
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut inside = Vec::new();
    let mut is_inside = false;
    for line in watched.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if call == "write" {
            is_inside |= arguments.contains(&begin);
            if arguments.contains(&ack) {
                let own = inside.iter().rev().find(|(by, _, _)| *by == thread);
                let (_, call, ordinal) = own.or(inside.last())?;
                return Some((String::from(*call), *ordinal));
            }
        } else if calls.split(',').any(|name| name == call) {
            let count = counts.entry((thread, call)).or_default();
            *count += 1;
            if is_inside {
                inside.push((thread, call, *count));
            }
        }
    }
    None
}

/// What the program said while it ran.
#[derive(Debug, Default, PartialEq, Eq)]
struct Marks {
    acknowledged: Vec<u64>,
    errors: Vec<u64>,
    is_closing: bool,
    is_done: bool,
}

impl Marks {
    fn read(text: &str) -> Self {
        let mut marks = Self::default();
        for line in text.lines() {
            marks.is_closing |= line == "closing";
            marks.is_done |= line == "done";
            match line.split_once(' ').map(|(word, number)| (word, number.parse())) {
                Some(("ack", Ok(number))) => marks.acknowledged.push(number),
                Some(("error", Ok(number))) => marks.errors.push(number),
                _ => {}
            }
        }
        marks
    }
}

impl FailedSync {
    pub(super) fn json(&self) -> Value {
        match &self.outcome {
            Err(text) => json!({ "calls": self.calls, "not_injected": text }),
            Ok(outcome) => json!({
                "call": outcome.call,
                "injected": outcome.injected,
                "answer": outcome.answer,
                "first_error": outcome.first_error,
                "errors": outcome.errors,
                "acknowledged_after": outcome.acknowledged_after,
                "end": outcome.end,
                "acknowledged_missing": outcome.missing,
                "found_in_error": outcome.found_in_error,
                "verdict": outcome.verdict,
            }),
        }
    }

    pub(super) const HEADINGS: &'static str = "call that failed | how often | its record | \
                                               errors in all | acknowledged after it | program ended \
                                               | acknowledged and missing after reopening | in error \
                                               and found | verdict";

    /// The cells of the table.
    pub(super) fn cells(&self) -> String {
        match &self.outcome {
            Err(text) => format!("{text} | | | | | | | |"),
            Ok(outcome) => format!(
                "{} | {} | {} | {} | {} | {} | {} | {} | {}",
                outcome.call,
                outcome.injected,
                outcome.answer,
                outcome.errors,
                outcome.acknowledged_after,
                outcome.end,
                outcome.missing,
                outcome.found_in_error,
                outcome.verdict,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_that_fails_is_the_last_before_the_acknowledgement() {
        let watched = "\
            7 fsync(3) = 0\n\
            8 fdatasync(4) = 0\n\
            7 fdatasync(4 <unfinished ...>\n\
            7 <... fdatasync resumed>) = 0\n\
            7 write(5, \"begin 30\\n\", 9) = 9\n\
            7 fdatasync(4) = 0\n\
            8 fsync(4) = 0\n\
            7 write(5, \"ack 30\\n\", 7) = 7\n\
            7 fdatasync(4) = 0\n";
        assert_eq!(last_sync(watched, "fsync,fdatasync"), Some(("fdatasync".to_owned(), 2)));
        // No own call: that of the other thread.
        assert_eq!(last_sync(&watched.replace("7 fdata", "9 data"), "fsync"), {
            Some(("fsync".to_owned(), 1))
        });
        assert_eq!(last_sync(watched, "msync"), None);
    }

    #[test]
    fn marks_are_told_apart() {
        let marks = Marks::read("begin 0\nack 0\nbegin 1\nerror 1\nclosing\n");
        let (acknowledged, errors) = (vec![0], vec![1]);
        assert_eq!(marks, Marks { acknowledged, errors, is_closing: true, is_done: false });
    }
}
