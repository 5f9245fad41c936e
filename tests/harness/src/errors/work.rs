/*!
[`Work`]: what is appended in this process while the disk fails, and what the log answers.

Groups of records are appended under a lock, so that their numbers are the order of the log, and waited
for outside it: commits are shared as ever. Every answer that says durable goes into the ledger.
*/

use super::{Stop, expect, ledger::Ledger};
use crate::subject::{
    Method, append_more, checksum, choose, directory, group_ends, payload, recover,
};
use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use wal::{Error, ErrorKind, Lsn, Options, Ticket, Wal, io::Directory};

/// How many groups each of the writers appends before it waits for them: with many, full frames are in
/// flight together.
const AHEAD: [usize; 4] = [1, 1, 3, 24];

/// Where an open log waits so long before it vouches for its last frame that it never does.
const NEVER: Duration = Duration::from_secs(3600);

/// A log, and what is known of it.
#[derive(Debug)]
pub(super) struct Work {
    path: PathBuf,
    method: Method,
    seed: u64,
    records: u64,
    segment_bytes: u64,
    /// A planted fault: acknowledged before it is durable.
    early: bool,
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

/// How a thread's work ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// There was nothing left to append.
    Done,
    /// An append answered this.
    Append(Error),
    /// A wait answered this.
    Wait(Error),
}

impl Ended {
    pub(super) fn error(&self) -> Option<&Error> {
        match self {
            Self::Done => None,
            Self::Append(error) | Self::Wait(error) => Some(error),
        }
    }
}

impl Work {
    /// Up to `records` records in a log at `path`, which does not exist.
    pub(super) fn new(path: PathBuf, method: Method, seed: u64, records: u64) -> Self {
        let ends = group_ends(seed, records).into();
        let line = Line { ends, ledger: Ledger::default(), acknowledged_lsn: None, last: None };
        let (segment_bytes, early, line) = (256 << 10, false, Mutex::new(line));
        Self { path, method, seed, records, segment_bytes, early, line }
    }

    /// The same with the fault planted, or without.
    pub(super) fn with_early(self, early: bool) -> Self {
        Self { early, ..self }
    }

    /// The same with other segments.
    pub(super) fn with_segment_bytes(self, segment_bytes: u64) -> Self {
        Self { segment_bytes, ..self }
    }

    /// The same log after it was moved.
    pub(super) fn moved_to(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.line().ledger
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn options(&self) -> Options {
        Options::new()
            .segment_bytes(self.segment_bytes)
            .frame_bytes(16 << 10)
            .pool_bytes(128 << 10)
            .spare_bytes_max(2 * self.segment_bytes)
            .linger(Duration::from_millis(1))
            .confirm_after(NEVER)
    }

    /// Makes the log, or opens it again, for writing by its method. All records are read.
    pub(super) fn open(&self) -> Result<Wal<Directory>, Stop> {
        choose(&self.path, self.method)?;
        let mut replay = self.options().open_in(directory(&self.path, self.method)?)?;
        while replay.next()?.is_some() {}
        let (wal, report) = replay.finish()?;
        let found = report.profile.method;
        // Else the case would prove something else.
        expect(found == self.method.of_storage(), || format!("the log writes by {found}"))?;
        Ok(wal)
    }

    /// Appends and waits in one thread, for so many groups or until something fails.
    pub(super) fn alone(&self, wal: &Wal<Directory>, groups: usize) -> Ended {
        for _ in 0..groups {
            let ended = self.step(wal, 1);
            if ended.error().is_some() || self.line().ends.is_empty() {
                return ended;
            }
        }
        Ended::Done
    }

    /// Appends up to `ahead` groups, and then waits for each, whatever the others answer: what is
    /// acknowledged behind a failure must not be.
    fn step(&self, wal: &Wal<Directory>, ahead: usize) -> Ended {
        let mut ended = Ended::Done;
        let mut tickets = Vec::new();
        while tickets.len() < ahead {
            match self.append(wal) {
                Ok(Some(ticket)) => tickets.push(ticket),
                Ok(None) => break,
                Err(error) => {
                    ended = Ended::Append(error);
                    break;
                }
            }
        }
        for (end, ticket) in tickets {
            if let Err(error) = self.wait(end, ticket) {
                ended = Ended::Wait(error);
            }
        }
        ended
    }

    /// Appends and waits in several threads until something fails or nothing is left. `trouble` is
    /// made by one of them in the midst, once `after` records are durable.
    pub(super) fn together(
        &self,
        wal: &Wal<Directory>,
        after: u64,
        trouble: impl FnOnce() -> io::Result<()> + Send,
    ) -> io::Result<Vec<Ended>> {
        self.together_of(AHEAD.len(), wal, after, trouble)
    }

    /// The same with fewer threads.
    pub(super) fn together_of(
        &self,
        writers: usize,
        wal: &Wal<Directory>,
        after: u64,
        trouble: impl FnOnce() -> io::Result<()> + Send,
    ) -> io::Result<Vec<Ended>> {
        let trouble = Mutex::new(Some(trouble));
        let writer = |ahead: usize| -> io::Result<Ended> {
            loop {
                let step = self.step(wal, ahead);
                if step.error().is_some() || self.line().ends.is_empty() {
                    return Ok(step);
                }
                if self.ledger().acknowledged >= after {
                    let trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                    trouble.map_or(Ok(()), |trouble| trouble())?;
                }
            }
        };
        thread::scope(|scope| {
            let writer = &writer;
            let writers: Vec<_> = AHEAD
                .into_iter()
                .take(writers)
                .map(|ahead| scope.spawn(move || writer(ahead)))
                .collect();
            writers
                .into_iter()
                .map(|writer| {
                    writer.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
                })
                .collect()
        })
    }

    /// Appends the next group, if there is one. One that was refused is the next again.
    fn append(&self, wal: &Wal<Directory>) -> wal::Result<Option<(u64, Ticket)>> {
        let mut line = self.line();
        let Some(end) = line.ends.front().copied() else { return Ok(None) };
        let start = line.last.map_or(0, |(end, _)| end);
        let before = line.ledger.begun;
        line.ledger.begun = end;
        let append = || {
            let mut batch = wal.batch();
            (start..end).try_for_each(|index| batch.push(&payload(self.seed, index)))?;
            batch.append()
        };
        match append() {
            Ok(ticket) => {
                line.ends.pop_front();
                line.last = Some((end, ticket.last_lsn()));
                Ok(Some((end, ticket)))
            }
            Err(error) => {
                // An append that fails leaves nothing behind, unless the log is latched.
                if error.kind() != ErrorKind::Latched {
                    line.ledger.begun = before;
                }
                Err(error)
            }
        }
    }

    fn wait(&self, end: u64, ticket: Ticket) -> wal::Result<()> {
        let last = ticket.last_lsn();
        if self.early {
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

    /// Releases every record but those of the last group.
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

    /// What must hold once a write or a sync failed: nothing was or is acknowledged from there on, every
    /// call says so.
    pub(super) fn check_latched(
        &self,
        wal: &Wal<Directory>,
        ended: &[Ended],
    ) -> Result<Error, Stop> {
        // Where the failure touched no record, nothing is unknown, and it says up to where all is durable.
        let found = ended.iter().filter_map(Ended::error).find_map(|error| {
            let range = error.range().or_else(|| error.lsn().map(|durable| (durable, durable)));
            range.filter(|_| error.kind() == ErrorKind::Latched).map(|range| (error, range))
        });
        let Some((error, (from, to))) = found else {
            return Err(Stop::Bad(format!("nobody was told that the log is latched: {ended:?}")));
        };
        for other in ended.iter().filter_map(Ended::error) {
            expect(other.kind() == ErrorKind::Latched, || format!("another answer: {other:?}"))?;
        }
        expect(from <= to, || format!("a range that ends before it begins: {error}"))?;
        let acknowledged = self.line().acknowledged_lsn;
        expect(acknowledged < Some(from), || {
            format!("acknowledged at {acknowledged:?}, though unknown from {from} on")
        })?;
        let durable = wal.durable_lsn();
        expect(durable <= from, || format!("durable up to {durable}, but unknown from {from} on"))?;
        self.check_deaf(wal)?;
        expect(wal.durable_lsn() == durable, || "the durable mark moved after a failure".into())?;
        Ok(error.clone())
    }

    fn check_deaf(&self, wal: &Wal<Directory>) -> Result<(), Stop> {
        let (_, lsn) = self.line().last.unwrap_or((0, Lsn::ZERO));
        let answers = [
            ("append", wal.append(b"late").map(drop)),
            ("append_untracked", wal.append_untracked(b"late").map(drop)),
            ("try_append", wal.try_append(b"late").map(drop)),
            ("append_with", wal.append_with(8, |_| ()).map(drop)),
            ("checkpoint", wal.checkpoint(wal.start_mark().max(lsn), b"").map(drop)),
            ("flush", wal.flush().map(drop)),
        ];
        for (call, answer) in answers {
            let kind = answer.as_ref().err().map(Error::kind);
            expect(kind == Some(ErrorKind::Latched), || {
                format!("{call} answers {answer:?} when the log is latched")
            })?;
        }
        Ok(())
    }

    /// Reads what the open log gives, which must be what was acknowledged, and maybe more.
    pub(super) fn check_readable(&self, wal: &Wal<Directory>) -> Result<(), Stop> {
        Ok(self.read(wal)??)
    }

    /// The same, but the log may say that it cannot read where nobody can: a file system that is shut down
    /// or has lost its own tables does not even read. It may not make anything up.
    pub(super) fn check_readable_where_possible(
        &self,
        wal: &Wal<Directory>,
    ) -> Result<String, Stop> {
        let Err(unreadable) = self.read(wal)? else { return Ok("and read on".to_owned()) };
        let is_readable = || -> io::Result<()> {
            for entry in fs::read_dir(&self.path)? {
                fs::read(entry?.path())?;
            }
            Ok(())
        };
        match is_readable() {
            Ok(()) => Err(unreadable.into()),
            Err(_) => Ok(format!("and {unreadable}")),
        }
    }

    fn read(&self, wal: &Wal<Directory>) -> Result<wal::Result<()>, Stop> {
        let ledger = self.ledger();
        let mut next = ledger.released;
        let mut read = || -> wal::Result<Option<u64>> {
            let mut reader = wal.read_from(wal.start_mark())?;
            while let Some(record) = reader.next_record()? {
                if checksum(record.payload()) != checksum(&payload(self.seed, next)) {
                    return Ok(Some(next));
                }
                next += 1;
            }
            Ok(None)
        };
        match read() {
            Err(error) => return Ok(Err(error)),
            Ok(Some(wrong)) => {
                return Err(Stop::Bad(format!("read beside the writer: not record {wrong}")));
            }
            Ok(None) => {}
        }
        expect((ledger.acknowledged..=ledger.begun).contains(&next), || {
            format!("read beside the writer: the log ends before record {next}; {ledger:?}")
        })?;
        Ok(Ok(()))
    }

    /// Recovers the log, twice, as a program that starts again does; holds it against the ledger; and
    /// sees that it goes on. Answers how many records it had.
    pub(super) fn check_recovered(&self) -> Result<u64, Stop> {
        let ledger = self.ledger();
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
