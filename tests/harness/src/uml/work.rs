/*!
[`Work`]: what is appended inside, in this process, while the disk is well and while it is not.

Groups of records are appended under a lock, so that their numbers are the order of the log, and waited for
outside it: commits are shared as ever. Every answer that says durable goes into the ledger.
*/

use super::{Stop, expect};
use crate::{
    errors::Ledger,
    subject::{Method, append_more, choose, directory, group_ends, payload, recover},
};
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use wal::{Error, ErrorKind, Lsn, Options, Ticket, Wal, io::Directory};

/// How many groups each of the writers appends before it waits for them.
const AHEAD: [usize; 4] = [1, 1, 3, 12];

/// Where an open log waits so long before it vouches for its last frame that it never does.
const NEVER: Duration = Duration::from_secs(3600);

/// Between two groups, while somebody makes trouble.
const WHILE_MADE: Duration = Duration::from_millis(2);

/// When a ticket is said to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledge {
    Durable,
    /// A planted fault.
    Appended,
}

/// A log, and what is known of it.
#[derive(Debug)]
pub(super) struct Work {
    path: PathBuf,
    method: Method,
    seed: u64,
    records: u64,
    segment_bytes: u64,
    acknowledge: Acknowledge,
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    ends: VecDeque<u64>,
    ledger: Ledger,
    /// The highest place that was acknowledged.
    acknowledged_lsn: Option<Lsn>,
    /// Where the last group stands that was appended.
    last: Option<(u64, Lsn)>,
}

impl Work {
    /// Up to `records` records in a log at `path`, which does not exist.
    pub(super) fn new(path: PathBuf, method: Method, seed: u64, records: u64) -> Self {
        let ends = group_ends(seed, records).into();
        let line = Line { ends, ledger: Ledger::default(), acknowledged_lsn: None, last: None };
        let (segment_bytes, acknowledge) = (256 << 10, Acknowledge::Durable);
        Self { path, method, seed, records, segment_bytes, acknowledge, line: Mutex::new(line) }
    }

    pub(super) fn with_segment_bytes(self, segment_bytes: u64) -> Self {
        Self { segment_bytes, ..self }
    }

    pub(super) fn with_acknowledge(self, acknowledge: Acknowledge) -> Self {
        Self { acknowledge, ..self }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.line().ledger
    }

    /// Whether everything was appended.
    fn is_over(&self) -> bool {
        self.line().ends.is_empty()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn options(&self) -> Options {
        Options::new()
            .segment_bytes(self.segment_bytes)
            .frame_bytes(16 << 10)
            .pool_bytes(128 << 10)
            .spare_bytes_max(4 * self.segment_bytes)
            .linger(Duration::from_millis(1))
            .confirm_after(NEVER)
    }

    /// Makes the log, for writing by its method.
    pub(super) fn create(&self) -> Result<Wal<Directory>, Stop> {
        choose(&self.path, self.method)?;
        let mut replay = self.options().open_in(directory(&self.path, self.method)?)?;
        replay.skip_rest();
        let (wal, report) = replay.finish()?;
        let found = report.profile.method;
        // Else it would prove something else.
        expect(found == self.method.of_storage(), || format!("the log writes by {found}"))?;
        Ok(wal)
    }

    /// Appends and waits for so many groups in one thread: a frame for each.
    pub(super) fn alone(&self, wal: &Wal<Directory>, groups: usize) -> wal::Result<()> {
        (0..groups).try_for_each(|_| self.step(wal, 1))
    }

    /// The same until the log is durable up to `lsn`.
    pub(super) fn alone_up_to(&self, wal: &Wal<Directory>, lsn: Lsn) -> Result<(), Stop> {
        while wal.durable_lsn() < lsn {
            expect(!self.is_over(), || format!("too few records to come to {lsn}"))?;
            self.alone(wal, 1)?;
        }
        Ok(())
    }

    /// Appends up to `ahead` groups, and then waits for each, whatever the others answer: what is
    /// acknowledged behind a failure must not be.
    fn step(&self, wal: &Wal<Directory>, ahead: usize) -> wal::Result<()> {
        let mut outcome = Ok(());
        let mut tickets = Vec::new();
        while tickets.len() < ahead {
            match self.append(wal) {
                Ok(Some(ticket)) => tickets.push(ticket),
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        for (end, ticket) in tickets {
            if let Err(error) = self.wait(end, ticket) {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Appends and waits in several threads until something fails or nothing is left, and answers how each
    /// of them ended. `trouble` is made by one of them in the midst, once `after` records are durable.
    pub(super) fn together(
        &self,
        wal: &Wal<Directory>,
        after: u64,
        trouble: impl FnOnce() -> io::Result<()> + Send,
    ) -> io::Result<Vec<wal::Result<()>>> {
        let trouble = Mutex::new(Some(trouble));
        let is_made = AtomicBool::new(false);
        let writer = |ahead: usize| -> io::Result<wal::Result<()>> {
            loop {
                let step = self.step(wal, ahead);
                if step.is_err() || self.is_over() {
                    return Ok(step);
                }
                if self.ledger().acknowledged < after || is_made.load(Ordering::Relaxed) {
                    continue;
                }
                match trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    Some(trouble) => {
                        trouble()?;
                        is_made.store(true, Ordering::Relaxed);
                    }
                    // Making it takes longer than appending all there is.
                    None => thread::sleep(WHILE_MADE),
                }
            }
        };
        thread::scope(|scope| {
            let writer = &writer;
            let writers: Vec<_> =
                AHEAD.into_iter().map(|ahead| scope.spawn(move || writer(ahead))).collect();
            writers
                .into_iter()
                .map(|writer| {
                    writer.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
                })
                .collect()
        })
    }

    /// Appends the next group, if there is one.
    fn append(&self, wal: &Wal<Directory>) -> wal::Result<Option<(u64, Ticket)>> {
        let mut line = self.line();
        let Some(end) = line.ends.front().copied() else { return Ok(None) };
        let start = line.last.map_or(0, |(end, _)| end);
        // Of one that is refused by a latched log, part may be on the disk all the same.
        line.ledger.begun = end;
        let mut batch = wal.batch();
        (start..end).try_for_each(|index| batch.push(&payload(self.seed, index)))?;
        let ticket = batch.append()?;
        line.ends.pop_front();
        line.last = Some((end, ticket.last_lsn()));
        Ok(Some((end, ticket)))
    }

    fn wait(&self, end: u64, ticket: Ticket) -> wal::Result<()> {
        let last = ticket.last_lsn();
        if self.acknowledge == Acknowledge::Appended {
            self.acknowledge(end, last);
        }
        ticket.wait()?;
        self.acknowledge(end, last);
        Ok(())
    }

    fn acknowledge(&self, end: u64, last: Lsn) {
        let mut line = self.line();
        line.ledger.acknowledged = line.ledger.acknowledged.max(end);
        line.acknowledged_lsn = line.acknowledged_lsn.max(Some(last));
    }

    /// Releases every record but the last of the last group.
    pub(super) fn release(&self, wal: &Wal<Directory>) -> wal::Result<()> {
        let (first, lsn) = {
            let mut line = self.line();
            let Some((end, lsn)) = line.last else { return Ok(()) };
            line.ledger.releasing = end - 1;
            (end - 1, lsn)
        };
        wal.checkpoint(lsn, &first.to_le_bytes())?.wait()?;
        self.line().ledger.released = first;
        Ok(())
    }

    /// What must hold once a write failed: everybody was told, nothing was or is acknowledged from there
    /// on, and what is durable is read on.
    pub(super) fn check_latched(
        &self,
        wal: &Wal<Directory>,
        ended: &[wal::Result<()>],
    ) -> Result<Error, Stop> {
        let errors: Vec<&Error> = ended.iter().filter_map(|ended| ended.as_ref().err()).collect();
        expect(errors.len() == ended.len(), || format!("not everybody was told: {ended:?}"))?;
        for error in &errors {
            expect(error.kind() == ErrorKind::Latched, || format!("another answer: {error:?}"))?;
        }
        // Where the failure touched no record, nothing is unknown, and it says up to where all is durable.
        let found = errors.iter().find_map(|error| {
            let range = error.range().or_else(|| error.lsn().map(|durable| (durable, durable)));
            Some((*error, range?))
        });
        let Some((error, (from, to))) = found else {
            return Err(Stop::Bad(format!("nobody was told what is unknown: {ended:?}")));
        };
        expect(from <= to, || format!("a range that ends before it begins: {error}"))?;
        let (acknowledged, last) = {
            let line = self.line();
            (line.acknowledged_lsn, line.last.map_or(Lsn::ZERO, |(_, lsn)| lsn))
        };
        expect(acknowledged < Some(from), || {
            format!("EARLY: acknowledged at {acknowledged:?}, though unknown from {from} on")
        })?;
        let durable = wal.durable_lsn();
        expect(durable <= from, || format!("durable up to {durable}, but unknown from {from} on"))?;
        let answers = [
            ("append", wal.append(b"late").map(drop)),
            ("append_untracked", wal.append_untracked(b"late").map(drop)),
            ("try_append", wal.try_append(b"late").map(drop)),
            ("checkpoint", wal.checkpoint(wal.start_mark().max(last), b"").map(drop)),
            ("flush", wal.flush().map(drop)),
        ];
        for (call, answer) in answers {
            let kind = answer.as_ref().err().map(Error::kind);
            expect(kind == Some(ErrorKind::Latched), || {
                format!("{call} answers {answer:?} when the log is latched")
            })?;
        }
        expect(wal.durable_lsn() == durable, || "the durable mark moved after a failure".into())?;
        self.check_readable(wal)?;
        Ok(error.clone())
    }

    /// Reads what the open log gives: what was acknowledged, and maybe more.
    fn check_readable(&self, wal: &Wal<Directory>) -> Result<(), Stop> {
        let ledger = self.ledger();
        let mut next = ledger.released;
        let mut reader = wal.read_from(wal.start_mark())?;
        while let Some(record) = reader.next_record()? {
            expect(record.payload() == payload(self.seed, next), || {
                format!("read beside the writer: not record {next}")
            })?;
            next += 1;
        }
        expect((ledger.acknowledged..=ledger.begun).contains(&next), || {
            format!("read beside the writer: the log ends before record {next}; {ledger:?}")
        })
    }

    /// Recovers the log, twice, as a program that starts again does; holds it against `ledger`; and sees
    /// that it goes on. Answers how many records it had.
    pub(super) fn check_recovered(&self, ledger: Ledger) -> Result<u64, Stop> {
        let first = recover(&self.path);
        let end = ledger.check(&first, self.seed, self.records).map_err(Stop::Bad)?;
        let second = recover(&self.path);
        let same = (&second.records, second.start) == (&first.records, first.start);
        expect(same, || format!("the second recovery differs: {}", second.verdict))?;
        let more = append_more(&self.path, self.seed, end, 3);
        let expected = end + 3;
        let found = more.start.unwrap_or(0) + u64::try_from(more.records.len()).unwrap_or(0);
        expect(found == expected, || {
            format!("after three more: {found} records instead of {expected}, {}", more.verdict)
        })?;
        Ok(end)
    }
}
