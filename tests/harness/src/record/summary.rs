//! What a run found, in words and as JSON, and its progress on a terminal.

use super::{
    case::Case,
    check::Found,
    event::Event,
    oracle::{Bad, BadKind},
    window::START,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal, Write},
    time::Duration,
};

/// What came of one recording, and of the recoveries that were recorded in turn.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    case: &'a Case,
    counts: Counts,
    tried: usize,
    torn: usize,
    /// In how many states the log had something to cut.
    cut: usize,
    bad: BTreeMap<BadKind, usize>,
    again: Again,
    time: Duration,
}

/// What came of recoveries that were crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) recordings: usize,
    pub(super) states: usize,
    pub(super) bad: usize,
}

impl<'a> Summary<'a> {
    pub(super) fn new(case: &'a Case, found: &Found, again: Again, time: Duration) -> Self {
        let mut bad = BTreeMap::new();
        for Bad { kind, .. } in found.bad().values() {
            *bad.entry(*kind).or_default() += 1;
        }
        Self {
            case,
            counts: Counts::of(&case.recording.events),
            tried: found.tried(),
            torn: case.plan.states.iter().filter(|state| state.tear.is_some()).count(),
            cut: found.cut().len(),
            bad,
            again,
            time,
        }
    }

    pub(super) fn passed(&self) -> bool {
        self.bad.is_empty() && self.again.bad == 0 && self.tried > 0
    }

    /// How many states were tried, those of crashed recoveries with them.
    pub(super) fn states(&self) -> usize {
        self.tried + self.again.states
    }

    fn count(&self, kind: BadKind) -> usize {
        self.bad.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn json(&self) -> Value {
        let Self { case: Case { run, plan, .. }, counts, again, .. } = self;
        json!({
            "fs": run.file_system.name(),
            "subject": run.subject.to_string(),
            "method": run.method_name(),
            "seed": run.seed,
            "writes": counts.writes,
            "flushes": counts.flushes,
            "marks": counts.marks,
            "writes_at_once": counts.writes_at_once,
            "flushes_beside_writes": counts.flushes_beside_writes,
            "states": self.tried,
            "torn": self.torn,
            "cut": self.cut,
            "exhaustive": plan.exhaustive && self.tried == plan.states.len(),
            "lost": self.count(BadKind::Lost),
            "phantom": self.count(BadKind::Phantom),
            "corrupt_verdicts": self.count(BadKind::CorruptVerdict),
            "second_recovery_differs": self.count(BadKind::SecondDiffers),
            "not_mountable": self.count(BadKind::NotMountable),
            "failed": self.count(BadKind::Failed),
            "again_recordings": again.recordings,
            "again_states": again.states,
            "again_bad": again.bad,
            "seconds": self.time.as_secs_f64(),
            "verdict": if self.passed() { "pass" } else { "fail" },
        })
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case: Case { run, plan, .. }, tried, torn, cut, again, .. } = self;
        let Counts { writes, flushes, marks, writes_at_once, flushes_beside_writes } = self.counts;
        let (file_system, method, seed) = (run.file_system, run.method_name(), run.seed);
        writeln!(
            f,
            "{file_system}, {method}, seed {seed}: {writes} writes, up to {writes_at_once} at once, \
             {flushes} flushes, {flushes_beside_writes} beside a write, {marks} marks"
        )?;
        let every = if plan.exhaustive { "every subset of writes" } else { "a sample" };
        writeln!(f, "  {tried} states: {every}, {torn} torn; {cut} logs had something to cut")?;
        let Again { recordings, states, bad } = again;
        if *recordings > 0 {
            writeln!(f, "  {states} states of {recordings} recoveries, {bad} of them bad")?;
        }
        let seconds = self.time.as_secs_f64();
        let all = u32::try_from(tried + states).unwrap_or(u32::MAX);
        let rate = f64::from(all) / seconds.max(0.001) * 60.0;
        writeln!(f, "  {seconds:.1} s, {rate:.0} states a minute")?;
        if self.passed() {
            return write!(f, "  nothing lost, nothing that should not be there");
        }
        write!(f, "  BAD:")?;
        self.bad.iter().try_for_each(|(kind, count)| write!(f, " {count} {kind};"))
    }
}

/// What is in a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    writes: usize,
    flushes: usize,
    marks: usize,
    /// The most writes that the disk had not answered at one time.
    writes_at_once: usize,
    /// Flushes that began while the disk had a write to answer.
    flushes_beside_writes: usize,
}

impl Counts {
    fn of(events: &[Event]) -> Self {
        let mut counts = Self::default();
        let mut under_way = 0_usize;
        let start = Event::Mark(START.to_owned());
        for event in events.iter().skip_while(|event| **event != start).skip(1) {
            match event {
                Event::Write { .. } => {
                    counts.writes += 1;
                    under_way += 1;
                    counts.writes_at_once = counts.writes_at_once.max(under_way);
                }
                Event::Done { .. } => under_way = under_way.saturating_sub(1),
                Event::FlushBegin => {
                    counts.flushes += 1;
                    counts.flushes_beside_writes += usize::from(under_way > 0);
                }
                Event::FlushEnd { .. } => {}
                Event::Mark(_) => counts.marks += 1,
            }
        }
        counts
    }
}

/// A line on a terminal that is written over again and again; nothing elsewhere.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal() }
    }

    pub(super) fn show(&self, text: impl fmt::Display) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    pub(super) fn clear(&self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::{super::event::Content, *};

    #[test]
    fn overlap_is_counted() {
        let write = Event::Write { offset: 0, content: Content::Zeros(512) };
        let events = [
            write.clone(),
            Event::Mark(START.to_owned()),
            write.clone(),
            write,
            Event::FlushBegin,
            Event::Done { write: 2 },
            Event::Done { write: 3 },
            Event::FlushEnd { flush: 4 },
            Event::FlushBegin,
        ];
        let counts = Counts::of(&events);
        assert_eq!((counts.writes, counts.writes_at_once), (2, 2));
        assert_eq!((counts.flushes, counts.flushes_beside_writes), (2, 1));
    }
}
