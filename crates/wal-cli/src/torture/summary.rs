//! What torture found, in words and as JSON, and its progress on a terminal.

use super::oracle::Tally;
use crate::output::{Failure, Output};
use hdrhistogram::Histogram;
use serde_json::json;
use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    time::Duration,
};

/// A latency above this is counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// What is counted besides what the oracle counts.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) seed: u64,
    pub(super) writers: u32,
    /// Reopenings that were checked.
    pub(super) cycles: u64,
    pub(super) kills: u64,
    /// Kills before the child had opened the log.
    pub(super) kills_in_open: u64,
    /// Children that were asked to close, and did.
    pub(super) closes: u64,
    /// Openings, here and in children, that cut a torn tail.
    pub(super) torn_tails: u64,
    /// From start to kill, of all children.
    pub(super) children_ran: Duration,
    pub(super) latencies_ns: Histogram<u64>,
}

impl Counts {
    pub(super) fn new(seed: u64, writers: u32) -> Self {
        let highest = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
        let latencies_ns = Histogram::new_with_max(highest, 3)
            .unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        Self {
            seed,
            writers,
            cycles: 0,
            kills: 0,
            kills_in_open: 0,
            closes: 0,
            torn_tails: 0,
            children_ran: Duration::ZERO,
            latencies_ns,
        }
    }

    fn appends_per_second(&self, tally: &Tally) -> f64 {
        let seconds = self.children_ran.as_secs_f64();
        if seconds > 0.0 { to_f64(tally.acked) / seconds } else { 0.0 }
    }

    /// The latency that `part` of the acknowledgements stay below, in µs.
    fn quantile_us(&self, part: f64) -> f64 {
        let ns = to_f64(self.latencies_ns.value_at_quantile(part));
        (ns / 100.0).round() / 10.0
    }
}

#[expect(clippy::as_conversions, reason = "a count for people: the last of 54 bits do not matter")]
const fn to_f64(count: u64) -> f64 {
    count as f64
}

/// The end of a run.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    pub(super) counts: &'a Counts,
    pub(super) tally: &'a Tally,
    /// Why the run could not go on, if it could not.
    pub(super) failed: Option<&'a str>,
    /// The directory, if it is kept.
    pub(super) kept: Option<&'a Path>,
}

impl Summary<'_> {
    /// A run that acknowledged nothing has proved nothing.
    pub(super) fn passed(&self) -> bool {
        let Tally { lost, phantom, acked, .. } = *self.tally;
        self.failed.is_none() && lost == 0 && phantom == 0 && acked > 0
    }

    fn verdict(&self) -> &'static str {
        if self.passed() { "pass" } else { "fail" }
    }

    fn failed(&self) -> Option<&str> {
        let nothing = self.tally.acked == 0;
        self.failed.or(nothing.then_some("no record was acknowledged: nothing was proved"))
    }

    pub(super) fn json(&self, output: &mut Output) -> Result<(), Failure> {
        let Self { counts, tally, .. } = self;
        output.object(&[
            ("verdict", json!(self.verdict())),
            ("cycles", json!(counts.cycles)),
            ("kills", json!(counts.kills)),
            ("kills_in_open", json!(counts.kills_in_open)),
            ("closes", json!(counts.closes)),
            ("writers", json!(counts.writers)),
            ("acked", json!(tally.acked)),
            ("recovered", json!(tally.recovered)),
            ("released", json!(tally.released)),
            ("lost", json!(tally.lost)),
            ("phantom", json!(tally.phantom)),
            ("torn_tails", json!(counts.torn_tails)),
            ("appends_per_second", json!(counts.appends_per_second(tally).round())),
            ("p50_us", json!(counts.quantile_us(0.5))),
            ("p99_us", json!(counts.quantile_us(0.99))),
            ("p999_us", json!(counts.quantile_us(0.999))),
            ("seed", json!(counts.seed)),
            ("findings", json!(tally.findings)),
            ("error", json!(self.failed())),
            ("dir", json!(self.kept.map(Path::to_string_lossy))),
        ])
    }

    pub(super) fn text(&self, output: &mut Output) -> Result<(), Failure> {
        let Self { counts, tally, .. } = self;
        output.line(format_args!(
            "{}: {} acknowledged records, {} lost, {} phantom",
            self.verdict().to_uppercase(),
            tally.acked,
            tally.lost,
            tally.phantom
        ))?;
        let Counts { cycles, kills, kills_in_open, closes, torn_tails, .. } = counts;
        output.line(format_args!(
            "  {kills} kills, {kills_in_open} of them while the log was being opened, and {closes} \
             closes; {cycles} reopenings checked, {torn_tails} torn tails"
        ))?;
        output.line(format_args!(
            "  {} records found again and checked bit for bit, {} released by checkpoints before",
            tally.recovered, tally.released
        ))?;
        output.line(format_args!(
            "  {:.0} acknowledged a second; latency p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs",
            counts.appends_per_second(tally),
            counts.quantile_us(0.5),
            counts.quantile_us(0.99),
            counts.quantile_us(0.999)
        ))?;
        output.line(format_args!("  {} writers, seed {}", counts.writers, counts.seed))?;
        for finding in &tally.findings {
            output.line(format_args!("  {finding}"))?;
        }
        let told = u64::try_from(tally.findings.len()).unwrap_or(u64::MAX);
        if told > 0 && tally.lost + tally.phantom > told {
            output.line(format_args!("  and more"))?;
        }
        if let Some(failed) = self.failed() {
            output.line(format_args!("  error: {failed}"))?;
        }
        if let Some(kept) = self.kept {
            output.line(format_args!("  the log is kept in {}", kept.display()))?;
        }
        Ok(())
    }
}

/// One line on a terminal, written over again and again. Nothing where nobody watches.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal() }
    }

    pub(super) fn show(&self, elapsed: Duration, whole: Duration, counts: &Counts, tally: &Tally) {
        if self.is_shown {
            let _ = write!(
                io::stderr(),
                "\r\x1b[K{:.0} of {} s  kills {}  acknowledged {}  lost {}  phantom {}  torn tails {}",
                elapsed.as_secs_f64(),
                whole.as_secs(),
                counts.kills,
                tally.acked,
                tally.lost,
                tally.phantom,
                counts.torn_tails
            );
        }
    }

    pub(super) fn clear(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
