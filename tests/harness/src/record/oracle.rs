/*!
What must, may and must not be found: [`Promises`].

The log is a prefix of the records 0, 1, 2 and so on, without what was released: it begins where the
last checkpoint says, has no gap, ends with a whole group, and every record has the bytes that its
number gives it. It holds at least what was acknowledged when the power went, and nothing that had not
begun when the last write of the image reached the disk.
*/

use super::{
    case::{Crashed, Run},
    event::Event,
};
use crate::subject::{
    EXTRA_RECORDS, Recovered, Verdict, checksum, group_ends, payload, payload_again,
};
use std::{collections::BTreeSet, fmt};

/// What was said of the log, and when.
#[derive(Debug)]
pub(super) struct Promises {
    begun: Rising,
    acknowledged: Rising,
    releasing: Rising,
    released: Rising,
    /// The checksum of each record, and of each that is appended after a crash.
    sums: Vec<u64>,
    sums_again: Vec<u64>,
    /// Where groups end, before a crash and after it.
    group_ends_first: BTreeSet<u64>,
    group_ends_again: BTreeSet<u64>,
    starts: BTreeSet<u64>,
    resumed: Option<Crashed>,
    /// The event with which the recovery of a crashed log was done: from then on, nothing may bring
    /// back what it cut.
    settled: Option<usize>,
}

/// A number that only grows, and when it did.
#[derive(Debug)]
struct Rising(Vec<(usize, u64)>);

impl Rising {
    fn raise(&mut self, event: usize, to: u64) {
        let to = self.0.last().map_or(to, |(_, highest)| to.max(*highest));
        self.0.push((event, to));
    }

    /// What it was just before event number `event`.
    fn before(&self, event: usize) -> u64 {
        let count = self.0.partition_point(|(at, _)| *at < event);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// What is wrong with a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) kind: BadKind,
    pub(super) text: String,
}

/// What kind of wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BadKind {
    /// Acknowledged, or below something that was found, and missing.
    Lost,
    /// Never appended, released long ago, not whole, or with other bytes.
    Phantom,
    /// The log says that it is damaged, though nothing but a power cut happened.
    CorruptVerdict,
    /// A second recovery, or one after more appends, found something else than it should.
    SecondDiffers,
    /// The file system itself cannot be mounted.
    NotMountable,
    /// The log could not be opened, or the subject failed.
    Failed,
}

impl fmt::Display for BadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Phantom => "phantom",
            Self::CorruptVerdict => "corrupt verdict",
            Self::SecondDiffers => "second recovery differs",
            Self::NotMountable => "not mountable",
            Self::Failed => "failed",
        })
    }
}

fn bad<T>(kind: BadKind, text: impl Into<String>) -> Result<T, Bad> {
    Err(Bad { kind, text: text.into() })
}

impl Promises {
    /// Reads the marks among `events`, which are those of `run`. A mark that is none is an error: the
    /// subject does not keep to the protocol.
    pub(super) fn read(events: &[Event], run: &Run) -> Result<Self, String> {
        let mut promises = Self::at_first(run);
        for (number, event) in events.iter().enumerate() {
            let Event::Mark(text) = event else { continue };
            if text == "settled" {
                promises.settled = Some(number);
            }
            let Some((word, value)) = text.split_once(' ') else { continue };
            let value: u64 = value.parse().map_err(|_| format!("not a mark: {text:?}"))?;
            match word {
                "begin" => promises.begun.raise(number, value + 1),
                "ack" => promises.acknowledged.raise(number, value + 1),
                "releasing" => {
                    promises.releasing.raise(number, value);
                    promises.starts.insert(value);
                }
                "released" => promises.released.raise(number, value),
                _ => return Err(format!("not a mark: {text:?}")),
            }
        }
        Ok(promises)
    }

    /// What holds before anything happens. A run that goes on after a crash has its records to begin
    /// with.
    fn at_first(run: &Run) -> Self {
        let Run { seed, records, resumed, .. } = *run;
        let extra = if resumed.is_some() { EXTRA_RECORDS } else { 0 };
        let nothing = Crashed { start: 0, next: 0, begun: 0, releasing: 0 };
        let crashed = resumed.unwrap_or(nothing);
        let group_ends_first: BTreeSet<u64> = group_ends(seed, records).into_iter().collect();
        // The last group of a run is cut short by its end; a run that goes on has it whole.
        let longer = group_ends(seed, records + extra).into_iter();
        let kept = group_ends_first.range(..=crashed.next).copied();
        let group_ends_again = kept.chain(longer.filter(|end| *end > crashed.next)).collect();
        let sums = |bytes: fn(u64, u64) -> Vec<u8>, count| {
            (0..count).map(|index| checksum(&bytes(seed, index))).collect()
        };
        Self {
            begun: Rising(vec![(0, crashed.next)]),
            acknowledged: Rising(vec![(0, crashed.next)]),
            releasing: Rising(vec![(0, crashed.start)]),
            released: Rising(vec![(0, crashed.start)]),
            sums: sums(payload, records),
            sums_again: sums(payload_again, records + extra),
            group_ends_first,
            group_ends_again,
            starts: BTreeSet::from([crashed.start]),
            resumed,
            settled: None,
        }
    }

    /// Before which record all had perhaps begun, and were perhaps released, in an image whose last
    /// write is event number `last_write`.
    pub(super) fn possible(&self, last_write: usize) -> (u64, u64) {
        (self.begun.before(last_write), self.releasing.before(last_write))
    }

    /// The crash whose recovery was not done when the power went, just before event number `end`.
    fn unsettled(&self, end: usize) -> Option<Crashed> {
        self.resumed.filter(|_| self.settled.is_none_or(|settled| settled >= end))
    }

    /// Of record number `index`, as it was first appended, or as it was after the crash.
    fn sum(&self, index: u64, unsettled: Option<Crashed>) -> Option<u64> {
        let is_again =
            unsettled.is_none() && self.resumed.is_some_and(|crashed| index >= crashed.next);
        let sums = if is_again { &self.sums_again } else { &self.sums };
        sums.get(to_usize(index)).copied()
    }

    /// Holds what was `recovered` against the promises: of an image that can be left by a power cut
    /// just before event number `end`, and whose last write is event number `last_write`. Where the
    /// log ends, if all is well.
    pub(super) fn judge(
        &self,
        recovered: &Recovered,
        end: usize,
        last_write: usize,
    ) -> Result<u64, Bad> {
        match &recovered.verdict {
            Verdict::Clean | Verdict::Torn => {}
            Verdict::Corrupt(text) => return bad(BadKind::CorruptVerdict, text),
            Verdict::Failed(text) => return bad(BadKind::Failed, text),
        }
        let first = recovered.records.first().map(|(index, _)| *index);
        let start = recovered.start.or(first).unwrap_or(0);
        let unsettled = self.unsettled(end);
        self.judge_start(start, end, last_write)?;
        let mut next = start;
        for (index, sum) in &recovered.records {
            if *index > next && self.sum(*index, unsettled) == Some(*sum) {
                return bad(BadKind::Lost, format!("record {next} is missing before {index}"));
            }
            if *index != next || self.sum(next, unsettled) != Some(*sum) {
                return bad(BadKind::Phantom, format!("record {index} where {next} should be"));
            }
            next += 1;
        }
        let acknowledged = self.acknowledged.before(end);
        if next < acknowledged {
            let text =
                format!("the log ends before record {next}; acknowledged before {acknowledged}");
            return bad(BadKind::Lost, text);
        }
        let begun =
            unsettled.map_or_else(|| self.begun.before(last_write), |crashed| crashed.begun);
        if next > begun {
            return bad(BadKind::Phantom, format!("record {} had not begun", next - 1));
        }
        self.judge_groups(recovered, next, unsettled)?;
        Ok(next)
    }

    /// What must and may be found, in words.
    pub(super) fn describe(&self, end: usize, last_write: usize) -> String {
        format!(
            "records: acknowledged before {}, begun before {}, released before {}, perhaps before {}",
            self.acknowledged.before(end),
            self.begun.before(last_write),
            self.released.before(end),
            self.releasing.before(last_write),
        )
    }

    /// What is to be found once `count` records more were appended to a log that held `found` and ends
    /// before record `next`.
    pub(super) fn with_appended(
        found: &Recovered,
        next: u64,
        count: u64,
        seed: u64,
    ) -> Vec<(u64, u64)> {
        let appended = (next..next + count).map(|index| (index, checksum(&payload(seed, index))));
        found.records.iter().copied().chain(appended).collect()
    }

    fn judge_start(&self, start: u64, end: usize, last_write: usize) -> Result<(), Bad> {
        let released = self.released.before(end);
        if start < released {
            let text = format!("the log begins at record {start}; released before {released}");
            return bad(BadKind::Phantom, text);
        }
        let is_known = match self.unsettled(end) {
            Some(crashed) => start <= crashed.releasing,
            None => start <= self.releasing.before(last_write) && self.starts.contains(&start),
        };
        if !is_known {
            return bad(BadKind::Lost, format!("record {start} is the first; it was not released"));
        }
        Ok(())
    }

    /// Whether the log ends with a whole group, and says of the same records that they end one.
    fn judge_groups(
        &self,
        recovered: &Recovered,
        next: u64,
        unsettled: Option<Crashed>,
    ) -> Result<(), Bad> {
        let is_first = unsettled.is_some();
        let ends = if is_first { &self.group_ends_first } else { &self.group_ends_again };
        let Some(found) = &recovered.group_ends else { return Ok(()) };
        let start = recovered.start.unwrap_or(0);
        let expected = ends.range(start + 1..).take_while(|group| **group <= next);
        if expected.map(|group| group - 1).ne(found.iter().copied()) {
            return bad(BadKind::Phantom, format!("the batches end with records {found:?}"));
        }
        let is_whole = next == start || ends.contains(&next);
        if is_whole {
            Ok(())
        } else {
            bad(BadKind::Phantom, format!("part of a batch, up to record {}", next - 1))
        }
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 11;
    const RECORDS: u64 = 40;

    fn run() -> Run {
        Run {
            file_system: super::super::stack::FileSystem::Ext4,
            method: crate::subject::Method::Dsync,
            seed: SEED,
            states: 1,
            records: RECORDS,
            subject: super::super::SubjectKind::Wal,
            broken: None,
            resumed: None,
        }
    }

    fn mark(text: &str) -> Event {
        Event::Mark(text.to_owned())
    }

    /// Three groups begun, two acknowledged, the first released; the marks at 1 to 7.
    fn promises() -> (Promises, [u64; 3]) {
        let ends = group_ends(SEED, RECORDS);
        let [a, b, c] = [ends[0], ends[1], ends[2]];
        let marks = [
            mark("start"),
            mark(&format!("begin {}", a - 1)),
            mark(&format!("ack {}", a - 1)),
            mark(&format!("begin {}", b - 1)),
            mark(&format!("ack {}", b - 1)),
            mark(&format!("releasing {a}")),
            mark(&format!("released {a}")),
            mark(&format!("begin {}", c - 1)),
        ];
        (Promises::read(&marks, &run()).unwrap(), [a, b, c])
    }

    fn log(start: u64, end: u64) -> Recovered {
        let ends = group_ends(SEED, RECORDS);
        Recovered {
            start: Some(start),
            records: (start..end).map(|index| (index, checksum(&payload(SEED, index)))).collect(),
            group_ends: Some(
                ends.iter()
                    .filter(|group| (start + 1..=end).contains(*group))
                    .map(|g| g - 1)
                    .collect(),
            ),
            verdict: Verdict::Clean,
        }
    }

    fn kind(outcome: Result<u64, Bad>) -> BadKind {
        outcome.unwrap_err().kind
    }

    #[test]
    fn a_log_that_kept_its_promises_is_good() {
        let (promises, [a, b, c]) = promises();
        assert_eq!(promises.judge(&log(a, b), 8, 8), Ok(b));
        assert_eq!(promises.judge(&log(a, c), 8, 8), Ok(c));
        // Before the acknowledgement, and before the release was known to be durable.
        assert_eq!(promises.judge(&log(0, a), 4, 4), Ok(a));
        assert_eq!(promises.judge(&log(0, b), 6, 6), Ok(b));
        assert_eq!(promises.judge(&log(0, 0), 1, 1), Ok(0));
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let (promises, [a, _, _]) = promises();
        assert_eq!(kind(promises.judge(&log(0, 0), 3, 3)), BadKind::Lost);
        assert_eq!(kind(promises.judge(&log(a, a), 8, 8)), BadKind::Lost);
        assert_eq!(kind(promises.judge(&log(a, a), 5, 5)), BadKind::Lost, "not released yet");
    }

    #[test]
    fn a_gap_is_a_loss_and_other_bytes_are_a_phantom() {
        let (promises, [a, _, c]) = promises();
        let mut gap = log(0, c);
        gap.records.remove(0);
        assert_eq!(kind(promises.judge(&gap, 4, 8)), BadKind::Lost);
        let mut other = log(a, c);
        other.records[0].1 ^= 1;
        assert_eq!(kind(promises.judge(&other, 8, 8)), BadKind::Phantom);
        let mut twice = log(a, c);
        let first = twice.records[0];
        twice.records.insert(0, first);
        assert_eq!(kind(promises.judge(&twice, 8, 8)), BadKind::Phantom);
    }

    #[test]
    fn nothing_comes_from_the_future_or_back_from_the_past() {
        let (promises, [_, b, c]) = promises();
        // The third group begins with event 7: an image without later writes cannot hold it.
        assert_eq!(kind(promises.judge(&log(0, c), 6, 6)), BadKind::Phantom);
        assert_eq!(kind(promises.judge(&log(0, b), 8, 8)), BadKind::Phantom, "released");
    }

    #[test]
    fn part_of_a_batch_is_bad() {
        let ends = group_ends(SEED, RECORDS);
        let batch = ends.windows(2).find(|pair| pair[1] - pair[0] > 1).unwrap()[1];
        let marks = [mark(&format!("begin {}", RECORDS - 1))];
        let promises = Promises::read(&marks, &run()).unwrap();
        assert_eq!(promises.judge(&log(0, batch), 1, 1), Ok(batch));
        assert_eq!(kind(promises.judge(&log(0, batch - 1), 1, 1)), BadKind::Phantom);
    }

    #[test]
    fn a_verdict_of_corruption_is_bad() {
        let (promises, _) = promises();
        let recovered = Recovered { verdict: Verdict::Corrupt("x".to_owned()), ..log(0, 0) };
        assert_eq!(kind(promises.judge(&recovered, 1, 1)), BadKind::CorruptVerdict);
    }

    /// A log that ends after its fifth group, though the sixth had begun.
    fn crashed() -> (Crashed, u64) {
        let ends = group_ends(SEED, RECORDS);
        (Crashed { start: 0, next: ends[4], begun: ends[5], releasing: 0 }, ends[5])
    }

    #[test]
    fn what_was_cut_never_comes_back() {
        let (crashed, more) = crashed();
        let run = Run { resumed: Some(crashed), ..run() };
        let marks = [mark("start"), mark("settled"), mark(&format!("begin {}", more - 1))];
        let promises = Promises::read(&marks, &run).unwrap();
        assert_eq!(promises.judge(&log(0, crashed.next), 3, 3), Ok(crashed.next));
        assert_eq!(kind(promises.judge(&log(0, crashed.next - 1), 3, 3)), BadKind::Lost);
        assert_eq!(kind(promises.judge(&log(0, more), 3, 3)), BadKind::Phantom, "the old bytes");
        let mut again = log(0, more);
        for record in &mut again.records[usize::try_from(crashed.next).unwrap()..] {
            record.1 = checksum(&payload_again(SEED, record.0));
        }
        assert_eq!(promises.judge(&again, 3, 3), Ok(more));
        assert_eq!(kind(promises.judge(&again, 3, 2)), BadKind::Phantom, "not begun");
    }

    #[test]
    fn what_was_cut_may_be_whole_until_the_recovery_is_done() {
        let (crashed, more) = crashed();
        let run = Run { resumed: Some(crashed), ..run() };
        let promises = Promises::read(&[mark("start"), mark("settled")], &run).unwrap();
        assert_eq!(promises.judge(&log(0, more), 1, 1), Ok(more));
        assert_eq!(promises.judge(&log(0, crashed.next), 1, 1), Ok(crashed.next));
        let further = group_ends(SEED, RECORDS)[6];
        assert_eq!(kind(promises.judge(&log(0, further), 1, 1)), BadKind::Phantom, "never begun");
        assert_eq!(kind(promises.judge(&log(0, more), 2, 1)), BadKind::Phantom, "done");
    }

    #[test]
    fn a_run_that_is_resumed_at_its_end_goes_on_with_new_groups() {
        let all = group_ends(SEED, RECORDS + EXTRA_RECORDS);
        let is_inside = |records: &u64| !all.contains(records);
        let records = (1..RECORDS).find(is_inside).unwrap();
        let whole = Crashed { start: 0, next: records, begun: records, releasing: 0 };
        let part = Crashed { next: group_ends(SEED, records)[0], ..whole };
        let ends = |crashed| {
            Promises::at_first(&Run { records, resumed: Some(crashed), ..run() }).group_ends_again
        };
        assert!(ends(whole).contains(&records));
        assert!(!ends(part).contains(&records));
    }

    #[test]
    fn a_mark_that_is_none_is_refused() {
        assert!(Promises::read(&[mark("ack x")], &run()).is_err());
        assert!(Promises::read(&[mark("acked 1")], &run()).is_err());
        assert!(Promises::read(&[mark("done")], &run()).is_ok());
    }
}
