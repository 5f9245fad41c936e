/*!
What a log promised, and whether it kept it: [`Ledger`].

Records are numbered and appended in this order, so that a few numbers say everything: how many were
begun, how many acknowledged, and from which one on they are kept.
*/

use crate::subject::{Recovered, Verdict, checksum, group_ends, payload};

/// Numbers of records, all of them counts from the first one on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// No record from this one on was ever appended.
    pub(crate) begun: u64,
    /// Records before this one are durable.
    pub(crate) acknowledged: u64,
    /// Records before this one may be missing.
    pub(crate) releasing: u64,
    /// Records before this one are not to be returned any more.
    pub(crate) released: u64,
}

impl Ledger {
    /// Reads what a subject wrote as marks. Half a line at the end was never said.
    pub(crate) fn from_marks(text: &str) -> Result<Self, String> {
        let mut ledger = Self::default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines().filter(|line| *line != "done") {
            let wrong = || format!("not a mark: {line:?}");
            let (word, number) = line.split_once(' ').ok_or_else(wrong)?;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let (into, count) = match word {
                "begin" => (&mut ledger.begun, number + 1),
                "ack" => (&mut ledger.acknowledged, number + 1),
                "releasing" => (&mut ledger.releasing, number),
                "released" => (&mut ledger.released, number),
                _ => return Err(wrong()),
            };
            *into = count.max(*into);
        }
        Ok(ledger)
    }

    /// How many records a log has, counted from the first ever, if it holds what was promised: all that
    /// was acknowledged and not released, without a gap, with the right bytes, and nothing else.
    ///
    /// `seed` and `records` are those of the run.
    pub(crate) fn check(&self, found: &Recovered, seed: u64, records: u64) -> Result<u64, String> {
        if let Verdict::Corrupt(text) | Verdict::Failed(text) = &found.verdict {
            return Err(format!("the log does not open: {text}; promised: {self:?}"));
        }
        let start = found.start.unwrap_or(0);
        if start < self.released || start > self.releasing {
            return Err(format!("the log begins at record {start}; promised: {self:?}"));
        }
        for (expected, (index, sum)) in (start..).zip(&found.records) {
            if *index != expected {
                return Err(format!("record {index} where {expected} should be"));
            }
            if *sum != checksum(&payload(seed, expected)) {
                return Err(format!("record {index} has other bytes"));
            }
        }
        let count = u64::try_from(found.records.len()).unwrap_or(u64::MAX);
        let end = start + count;
        if end < self.acknowledged {
            return Err(format!("LOST: the log ends before record {end}; promised: {self:?}"));
        }
        if end > self.begun {
            return Err(format!("PHANTOM: the log ends before record {end}; promised: {self:?}"));
        }
        if end > start && !group_ends(seed, records).contains(&end) {
            return Err(format!("part of a batch: the log ends before record {end}"));
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 5;
    const RECORDS: u64 = 40;

    fn holding(range: std::ops::Range<u64>) -> Recovered {
        let records = range.clone().map(|index| (index, checksum(&payload(SEED, index))));
        Recovered {
            start: Some(range.start),
            records: records.collect(),
            group_ends: None,
            verdict: Verdict::Clean,
        }
    }

    #[test]
    fn marks_are_read_up_to_the_last_whole_line() {
        let text = "begin 3\nack 1\nbegin 5\nreleasing 2\nreleased 2\nack 3\nack 2\nbegin 1";
        let ledger = Ledger { begun: 6, acknowledged: 4, releasing: 2, released: 2 };
        assert_eq!(Ledger::from_marks(text), Ok(ledger));
        assert_eq!(Ledger::from_marks("begin"), Ok(Ledger::default()));
        assert!(Ledger::from_marks("perhaps 3\n").is_err());
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_found() {
        let ends = group_ends(SEED, RECORDS);
        let (early, late) = (ends[3], ends[8]);
        let ledger = Ledger { begun: late, acknowledged: early, releasing: 2, released: 1 };
        let check = |found: &Recovered| ledger.check(found, SEED, RECORDS);
        assert_eq!(check(&holding(1..early)), Ok(early));
        assert_eq!(check(&holding(2..late)), Ok(late));
        assert!(check(&holding(1..ends[2])).unwrap_err().starts_with("LOST"));
        assert!(check(&holding(1..ends[9])).unwrap_err().starts_with("PHANTOM"));
        assert!(check(&holding(0..late)).is_err(), "released");
        assert!(check(&holding(3..late)).is_err(), "never released");
        let inside = (early + 1..late).find(|end| !ends.contains(end)).unwrap();
        assert!(check(&holding(1..inside)).is_err(), "part of a batch");

        let mut gap = holding(1..late);
        gap.records.remove(2);
        assert!(check(&gap).is_err());
        let mut other = holding(1..late);
        other.records[2].1 ^= 1;
        assert!(check(&other).is_err());
        let refused = Recovered { verdict: Verdict::Failed("no".to_owned()), ..holding(1..late) };
        assert!(check(&refused).is_err());
    }
}
