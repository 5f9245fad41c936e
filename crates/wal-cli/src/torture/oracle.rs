/*!
Says what is lost and what is phantom.

The oracle knows three things:

* **history**: what the last reopening found. It made its verdict durable, so that from then on
  nothing of it may change, but for what a checkpoint releases at its head;
* **children** that ran since: what each of their writers announced before it appended (no other
  record can exist) and what the log acknowledged (must exist, at that Lsn);
* **marks**: the checkpoints that they announced (no other start mark can exist) and the highest one
  acknowledged (the start mark cannot be below).

A reopened log must then be: the history from the start mark on, record for record; after it the
children in the order they ran, and of each writer its records from the first on without a gap,
each once, each bit for bit, batches whole or not at all, up to at least the last one acknowledged.
What of this is missing is *lost*; what else is there is *phantom*.

Memory is bounded by the live part of the log and by what a child can say in its short life.
*/

mod claims;

use self::claims::Claims;
use super::{
    message::Message,
    record::{Stamp, checkpoint_state},
};
use std::{collections::VecDeque, fmt};
use wal::Lsn;

/// How many findings are kept in words; the rest is only counted.
const FINDINGS_MAX: usize = 20;

#[derive(Debug)]
pub(super) struct Oracle {
    run: u64,
    writers: u32,
    history: VecDeque<Known>,
    /// Where the log ended when the history was settled.
    settled_tail: Lsn,
    settled_mark: Option<Mark>,
    children: Vec<Child>,
    marks: Vec<Mark>,
    mark_acknowledged: Option<Lsn>,
    tally: Tally,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Records acknowledged.
    pub(super) acked: u64,
    /// Records found again after a kill, each counted once.
    pub(super) recovered: u64,
    /// Records acknowledged and released by a checkpoint before they could be looked for.
    pub(super) released: u64,
    pub(super) lost: u64,
    pub(super) phantom: u64,
    /// The first few of the lost and the phantom in words.
    pub(super) findings: Vec<String>,
}

/// A record whose content was checked: what remains to be known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    lsn: Lsn,
    child: u32,
    writer: u32,
    sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    child: u32,
    start_mark: Lsn,
}

#[derive(Debug)]
struct Child {
    number: u32,
    /// What the log was when the child had opened it.
    opened: Option<Opened>,
    writers: Vec<Claims>,
}

#[derive(Clone, Copy, Debug)]
struct Opened {
    tail: Lsn,
    last_record: Option<Lsn>,
    last_found: bool,
}

/// A record as the reopened log gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) lsn: Lsn,
    pub(super) payload: &'a [u8],
    pub(super) ends_batch: bool,
}

impl Oracle {
    pub(super) fn new(run: u64, writers: u32) -> Self {
        Self {
            run,
            writers,
            history: VecDeque::new(),
            settled_tail: Lsn::ZERO,
            settled_mark: None,
            children: Vec::new(),
            marks: Vec::new(),
            mark_acknowledged: None,
            tally: Tally::default(),
        }
    }

    pub(super) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The last record that must be there, unless it is released.
    pub(super) fn last_settled(&self) -> Option<Lsn> {
        self.history.back().map(|known| known.lsn)
    }

    /// A child is about to start: what is absorbed from now on is its word.
    pub(super) fn child_starts(&mut self, number: u32) {
        let writers = (0..self.writers).map(|_| Claims::default()).collect();
        self.children.push(Child { number, opened: None, writers });
    }

    /// Takes the word of the child last started; `false` if no child can have said this.
    #[must_use]
    pub(super) fn absorb(&mut self, message: &Message) -> bool {
        let Some(child) = self.children.last_mut() else { return false };
        match *message {
            Message::Opened { tail, last_record, .. } => {
                child.opened = Some(Opened { tail, last_record, last_found: false });
                let number = child.number;
                if tail < self.settled_tail {
                    let before = self.settled_tail;
                    self.tally.lost(1, format_args!(
                        "child {number} opened a log that ends at lsn {tail}, but ended at {before}"
                    ));
                }
            }
            Message::Intent { writer, until } => {
                let Some(claims) = child.claims(writer) else { return false };
                claims.announce(until);
            }
            Message::Acknowledged(acknowledged) => {
                let Some(claims) = child.claims(acknowledged.writer) else { return false };
                if !claims.acknowledge(acknowledged) {
                    return false;
                }
                self.tally.acked += u64::from(acknowledged.records);
            }
            Message::CheckpointIntent { start_mark } => {
                self.marks.push(Mark { child: child.number, start_mark });
            }
            Message::CheckpointAcknowledged { start_mark } => {
                self.mark_acknowledged = self.mark_acknowledged.max(Some(start_mark));
            }
        }
        true
    }

    /// Begins to check a reopened log, whose checkpoint is given as its start mark and state.
    pub(super) fn check(&mut self, checkpoint: Option<(Lsn, &[u8])>) -> Check<'_> {
        let mark = self.check_mark(checkpoint);
        // A start mark that nobody asked for releases nothing.
        let start_mark = match (mark, checkpoint) {
            (Some(mark), _) => mark.start_mark,
            (None, Some((found, _))) => {
                let asked = self.marks.iter().chain(&self.settled_mark).map(|mark| mark.start_mark);
                asked.filter(|asked| *asked <= found).max().unwrap_or(Lsn::ZERO)
            }
            (None, None) => Lsn::ZERO,
        };
        while self.history.front().is_some_and(|known| known.lsn < start_mark) {
            self.history.pop_front();
        }
        Check {
            oracle: self,
            start_mark,
            mark,
            last_lsn: None,
            history_index: 0,
            child_index: 0,
            batch: None,
            fresh: Vec::new(),
        }
    }

    /// Which announced checkpoint this is. Tells the loss of an acknowledged one too.
    fn check_mark(&mut self, checkpoint: Option<(Lsn, &[u8])>) -> Option<Mark> {
        let settled = self.settled_mark.map(|mark| mark.start_mark);
        let least = self.mark_acknowledged.max(settled);
        if let Some(least) = least
            && checkpoint.is_none_or(|(start_mark, _)| start_mark < least)
        {
            let found = checkpoint.map_or_else(|| "none".to_owned(), |(lsn, _)| lsn.to_string());
            self.tally.lost(
                1,
                format_args!(
                    "the checkpoint to start mark {least} was acknowledged; found: {found}"
                ),
            );
        }
        let (start_mark, state) = checkpoint?;
        let mut asked = self.marks.iter().chain(&self.settled_mark).copied();
        let run = self.run;
        let fits = |mark: &Mark| {
            mark.start_mark == start_mark && checkpoint_state(run, mark.child, start_mark) == state
        };
        let mark = asked.find(fits);
        if mark.is_none() {
            self.tally.phantom(format_args!(
                "a checkpoint to start mark {start_mark} with {} bytes of state was never asked for",
                state.len()
            ));
        }
        mark
    }

    /// What was checked is history from now on: a `finish()` that made it durable has returned, and
    /// the log ends at `tail`.
    pub(super) fn settle(&mut self, checked: Checked, tail: Lsn) {
        self.tally.recovered += u64::try_from(checked.fresh.len()).unwrap_or(u64::MAX);
        self.history.extend(checked.fresh);
        self.settled_tail = tail;
        self.settled_mark = checked.mark;
        self.children.clear();
        self.marks.clear();
        self.mark_acknowledged = None;
    }
}

impl Tally {
    fn lost(&mut self, records: u64, what: fmt::Arguments<'_>) {
        self.lost += records;
        self.find("lost", what);
    }

    fn phantom(&mut self, what: fmt::Arguments<'_>) {
        self.phantom += 1;
        self.find("phantom", what);
    }

    fn find(&mut self, word: &str, what: fmt::Arguments<'_>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(format!("{word}: {what}"));
        }
    }
}

impl Child {
    fn claims(&mut self, writer: u32) -> Option<&mut Claims> {
        self.writers.get_mut(usize::try_from(writer).ok()?)
    }
}

/// One walk through a reopened log.
#[derive(Debug)]
pub(super) struct Check<'o> {
    oracle: &'o mut Oracle,
    start_mark: Lsn,
    mark: Option<Mark>,
    last_lsn: Option<Lsn>,
    /// How much of the history was found.
    history_index: usize,
    /// The child whose records are being found.
    child_index: usize,
    /// The record before, if its batch goes on.
    batch: Option<Stamp>,
    fresh: Vec<Known>,
}

/// What a walk found that was not history yet.
#[derive(Debug)]
#[must_use]
pub(super) struct Checked {
    fresh: Vec<Known>,
    mark: Option<Mark>,
}

impl Check<'_> {
    /// The next record of the log.
    pub(super) fn record(&mut self, seen: Seen<'_>) {
        let Seen { lsn, payload, ends_batch } = seen;
        if self.last_lsn.is_some_and(|last| lsn <= last) {
            self.phantom(lsn, "not above the record before it");
        }
        self.last_lsn = self.last_lsn.max(Some(lsn));
        if lsn < self.start_mark {
            let start_mark = self.start_mark;
            self.phantom(lsn, format_args!("replayed below the start mark {start_mark}"));
            return;
        }
        let stamp = match Stamp::read(self.oracle.run, payload) {
            Ok(stamp) => stamp,
            Err(what) => return self.phantom(lsn, what),
        };
        self.check_batch(lsn, &stamp, ends_batch);
        for child in &mut self.oracle.children {
            if let Some(opened) = &mut child.opened
                && opened.last_record == Some(lsn)
            {
                opened.last_found = true;
            }
        }
        let Stamp { child, writer, sequence, .. } = stamp;
        let known = Known { lsn, child, writer, sequence };
        if !self.is_history(known) {
            self.check_fresh(known);
        }
    }

    /// The log ends here.
    pub(super) fn end(mut self) -> Checked {
        for index in self.history_index..self.oracle.history.len() {
            self.lost_history(self.oracle.history[index], "the log ends before it");
        }
        if let Some(stamp) = self.batch.take() {
            let records = stamp.batch_records;
            self.oracle.tally.phantom(format_args!(
                "the log ends with {} of the {records} records of a batch, at {stamp}",
                stamp.batch_index + 1
            ));
        }
        let Oracle { children, tally, .. } = &mut *self.oracle;
        for child in children.iter_mut() {
            for claims in &mut child.writers {
                claims.settle(child.number, self.start_mark, tally);
            }
        }
        for child in &*children {
            // Counted only where no other loss explains it: it may have been acknowledged as well.
            if let Some(Opened { last_record: Some(lsn), last_found: false, .. }) = child.opened
                && lsn >= self.start_mark
                && tally.lost == 0
            {
                tally.lost(
                    1,
                    format_args!(
                        "the record at lsn {lsn}, last in the log when child {} opened it",
                        child.number
                    ),
                );
            }
        }
        Checked { fresh: self.fresh, mark: self.mark }
    }

    fn check_batch(&mut self, lsn: Lsn, stamp: &Stamp, ends_batch: bool) {
        match self.batch.take() {
            Some(before) => {
                let successor = Stamp {
                    sequence: before.sequence + 1,
                    batch_index: before.batch_index + 1,
                    ..before
                };
                if *stamp != successor {
                    self.phantom(lsn, format_args!("{stamp}, inside the batch of {before}"));
                }
            }
            None if stamp.batch_index != 0 => {
                let index = stamp.batch_index;
                self.phantom(lsn, format_args!("{stamp}, record {index} of a batch without head"));
            }
            None => {}
        }
        let is_last = stamp.batch_index.checked_add(1) == Some(stamp.batch_records);
        if is_last != ends_batch {
            self.phantom(lsn, format_args!("{stamp}, of another batch than it was appended in"));
        }
        self.batch = (!is_last && !ends_batch).then_some(*stamp);
    }

    /// Whether `known` belongs to the history, or intrudes into it.
    fn is_history(&mut self, known: Known) -> bool {
        while let Some(expected) = self.oracle.history.get(self.history_index).copied() {
            if expected == known {
                self.history_index += 1;
                return true;
            }
            if known.lsn < expected.lsn {
                self.phantom(known.lsn, format_args!("{known}, absent when last reopened"));
                return true;
            }
            self.lost_history(expected, format_args!("found {known} at lsn {}", known.lsn));
            self.history_index += 1;
        }
        false
    }

    fn check_fresh(&mut self, known: Known) {
        if let Some(what) = self.intrusion(known) {
            self.phantom(known.lsn, format_args!("{known}, {what}"));
            return;
        }
        let Oracle { children, tally, settled_tail, .. } = &mut *self.oracle;
        let Some(index) = children.iter().position(|child| child.number == known.child) else {
            return;
        };
        self.child_index = index;
        let child = &mut children[index];
        let begin = child.opened.map_or(*settled_tail, |opened| opened.tail);
        let Some(claims) = child.claims(known.writer) else { return };
        // Before the first one found, those below the start mark may be released.
        let released = claims.next.is_none() && self.start_mark > begin;
        let expected = claims.next.unwrap_or(0);
        if known.sequence > expected && !released {
            let lsn = known.lsn;
            tally.phantom(format_args!("at lsn {lsn}: {known}, but {expected} must come next"));
        }
        claims.next = Some(known.sequence + 1);
        claims.find(known, self.start_mark, tally);
        self.fresh.push(known);
    }

    /// Why `known` cannot stand where it does, whatever else is missing.
    fn intrusion(&self, known: Known) -> Option<String> {
        let Oracle { children, settled_tail, .. } = &*self.oracle;
        let Some(index) = children.iter().position(|child| child.number == known.child) else {
            return Some("of a child that did not run since the log was last reopened".to_owned());
        };
        if index < self.child_index {
            return Some(format!("after a record of child {}", children[self.child_index].number));
        }
        if known.lsn < *settled_tail {
            return Some(format!("below lsn {settled_tail}, where the log ended before it"));
        }
        let mut later = children[index + 1..].iter();
        if let Some(child) =
            later.find(|child| child.opened.is_some_and(|opened| known.lsn >= opened.tail))
        {
            return Some(format!("came back after child {} had opened the log", child.number));
        }
        let writer = usize::try_from(known.writer).ok();
        let Some(claims) = writer.and_then(|writer| children[index].writers.get(writer)) else {
            return Some("of a writer that does not exist".to_owned());
        };
        if known.sequence >= claims.intended {
            return Some(format!("never appended: announced were those below {}", claims.intended));
        }
        let expected = claims.next.unwrap_or(0);
        (known.sequence < expected)
            .then(|| format!("again or out of order: {expected} must come next"))
    }

    fn phantom(&mut self, lsn: Lsn, what: impl fmt::Display) {
        self.oracle.tally.phantom(format_args!("at lsn {lsn}: {what}"));
    }

    fn lost_history(&mut self, expected: Known, instead: impl fmt::Display) {
        let lsn = expected.lsn;
        self.oracle
            .tally
            .lost(1, format_args!("{expected} at lsn {lsn}, there when last reopened; {instead}"));
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { child, writer, sequence, .. } = self;
        write!(f, "child {child}, writer {writer}, sequence {sequence}")
    }
}

#[cfg(test)]
mod tests;
