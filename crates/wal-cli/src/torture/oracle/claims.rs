//! What one writer claims, against what is found of it.

use super::{Known, Tally};
use crate::torture::message::Acknowledged;
use std::collections::VecDeque;
use wal::Lsn;

/// What one writer of one child said, and how much of it was found.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// No sequence at or above can have been appended.
    pub(super) intended: u64,
    /// In the order of the sequences.
    acknowledged: VecDeque<Acknowledged>,
    /// Records found of the first of `acknowledged`.
    found: u32,
    /// The sequence that must come next; `None` before the first one is found.
    pub(super) next: Option<u64>,
}

impl Claims {
    pub(super) fn announce(&mut self, until: u64) {
        self.intended = self.intended.max(until);
    }

    /// Takes the acknowledgement, unless it is of records never announced or out of order.
    pub(super) fn acknowledge(&mut self, acknowledged: Acknowledged) -> bool {
        let last_end = self.acknowledged.back().map_or(0, Acknowledged::end);
        let fits = acknowledged.sequence >= last_end && acknowledged.end() <= self.intended;
        if fits {
            self.acknowledged.push_back(acknowledged);
        }
        fits
    }

    /// Takes note of a record found, and settles what must have come before it.
    pub(super) fn find(&mut self, known: Known, start_mark: Lsn, tally: &mut Tally) {
        while self.acknowledged.front().is_some_and(|first| first.end() <= known.sequence) {
            self.settle_first(known.child, start_mark, tally);
        }
        let Some(first) = self.acknowledged.front() else { return };
        if known.sequence < first.sequence {
            return; // appended, but the child was killed before it could report this one
        }
        let is_first = known.sequence == first.sequence;
        let is_last = known.sequence + 1 == first.end();
        let misplaced = (is_first && known.lsn != first.first)
            || (is_last && known.lsn != first.last)
            || !(first.first..=first.last).contains(&known.lsn);
        if misplaced {
            let Known { lsn, .. } = known;
            let Acknowledged { first, last, .. } = first;
            tally.phantom(format_args!(
                "at lsn {lsn}: {known}, acknowledged at lsn {first} to {last}"
            ));
        }
        self.found += 1;
    }

    /// Nothing more will be found: what was acknowledged must have been by now, or be released.
    pub(super) fn settle(&mut self, child: u32, start_mark: Lsn, tally: &mut Tally) {
        while !self.acknowledged.is_empty() {
            self.settle_first(child, start_mark, tally);
        }
    }

    /// The first of those acknowledged must be found by now, or released.
    fn settle_first(&mut self, child: u32, start_mark: Lsn, tally: &mut Tally) {
        let Some(acknowledged) = self.acknowledged.pop_front() else { return };
        let missing = acknowledged.records.saturating_sub(std::mem::take(&mut self.found));
        let Acknowledged { writer, sequence, records, first, last, .. } = acknowledged;
        if missing == 0 {
            return;
        }
        if last < start_mark {
            tally.released += u64::from(missing);
            return;
        }
        tally.lost(u64::from(missing), format_args!(
            "child {child}, writer {writer}, sequence {sequence}, acknowledged at lsn {first} to \
             {last}: {missing} of {records} missing"
        ));
    }
}

impl Acknowledged {
    /// The sequence after its last record.
    fn end(&self) -> u64 {
        self.sequence.saturating_add(u64::from(self.records))
    }
}
