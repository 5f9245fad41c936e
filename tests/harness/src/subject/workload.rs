/*!
What the log's own subject does: everything that moves blocks.

In turns: records appended one by one, each waited for; four threads that append and wait for their
own; a burst that nobody waits for until its end, so that full frames are in flight together; a
checkpoint in between, so that segments are released, recycled and given back; and a new open, after
a close or after none. A quarter of the groups are batches.

Threads append under a lock, so that the order of the records' numbers is the order of the log. They
wait outside it: commits are shared as ever.
*/

use super::{
    Broken, WriteArguments, group_ends, open_patiently, payload,
    prepare::{Marks, choose, directory},
    recover::number_of,
    storage::{Careless, Neglect},
};
use crate::random::{Random, mix};
use std::{
    collections::VecDeque,
    io,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};
use wal::{
    Lsn, Ticket, Wal,
    io::{Directory, Storage},
};

const WRITERS: usize = 4;

/// How many groups one turn of each kind takes.
const SOLO_GROUPS: usize = 8;
const SHARED_GROUPS: usize = 32;
const BURST_GROUPS: usize = 16;

/// After so many groups of the shared turn one thread makes a checkpoint while the others go on.
const CHECKPOINT_EVERY: u64 = 11;

/// A checkpoint keeps so many groups: about two segments.
const KEPT_GROUPS: usize = 24;

pub(super) fn write(arguments: &WriteArguments) -> io::Result<()> {
    let WriteArguments { dir, method, broken, .. } = arguments;
    choose(dir, *method)?;
    let neglects = match broken {
        Some(Broken::LazyDirectory) => Some(Neglect::DirectorySyncs),
        Some(Broken::LazyFiles) => Some(Neglect::FileSyncs),
        Some(Broken::EarlyAck) | None => None,
    };
    match neglects {
        Some(_) => {
            let storage = || Ok(Careless { inner: directory(dir, *method)?, neglects });
            Workload::new(arguments, storage)?.run()
        }
        None => Workload::new(arguments, || directory(dir, *method))?.run(),
    }
}

/// The same in a storage that `wrap` puts around the directory.
pub(crate) fn write_through<S: Storage>(
    arguments: &WriteArguments,
    wrap: impl Fn(Directory) -> S + Sync,
) -> io::Result<()> {
    let WriteArguments { dir, method, .. } = arguments;
    choose(dir, *method)?;
    Workload::new(arguments, || Ok(wrap(directory(dir, *method)?)))?.run()
}

struct Workload<'a, S, F: Fn() -> io::Result<S>> {
    arguments: &'a WriteArguments,
    storage: F,
    marks: Marks,
    line: Mutex<Line>,
    /// Held while a checkpoint is made: a second one could be lower.
    checkpoint: Mutex<()>,
}

/// What is still to be appended, and what was.
struct Line {
    ends: VecDeque<u64>,
    next: u64,
    /// Where the latest groups stand.
    groups: VecDeque<(u64, Lsn)>,
    released: u64,
}

impl<'a, S: Storage, F: Fn() -> io::Result<S> + Sync> Workload<'a, S, F> {
    fn new(arguments: &'a WriteArguments, storage: F) -> io::Result<Self> {
        let WriteArguments { records, seed, marks, .. } = arguments;
        let ends = group_ends(*seed, *records).into();
        let line = Line { ends, next: 0, groups: VecDeque::new(), released: 0 };
        let marks = Marks::open(marks)?;
        Ok(Self { arguments, storage, marks, line: Mutex::new(line), checkpoint: Mutex::new(()) })
    }

    fn run(&self) -> io::Result<()> {
        let mut random = Random::new(mix(&[self.arguments.seed, 1]));
        while !lock(&self.line).ends.is_empty() {
            let wal = self.open()?;
            self.solo(&wal)?;
            self.shared(&wal)?;
            self.burst(&wal)?;
            self.checkpoint(&wal)?;
            self.solo(&wal)?;
            if random.one_in(2) {
                wal.close().map_err(io::Error::other)?;
            }
            // Else it is dropped, which equals the crash of a process.
        }
        self.open()?.close().map_err(io::Error::other)?;
        self.marks.put("done")
    }

    /// Opens the log, and expects every record that was appended before and not released.
    fn open(&self) -> io::Result<Wal<S>> {
        let mut replay = open_patiently(&self.storage).map_err(io::Error::other)?;
        let line = lock(&self.line);
        let mut next = line.released;
        while let Some(record) = replay.next().map_err(io::Error::other)? {
            if record.payload() != payload(self.arguments.seed, next) {
                let found = number_of(record.payload());
                return Err(io::Error::other(format!("record {found} where {next} should be")));
            }
            next += 1;
        }
        if next != line.next {
            return Err(io::Error::other(format!("{next} records instead of {}", line.next)));
        }
        let (wal, report) = replay.finish().map_err(io::Error::other)?;
        let found = report.profile.method;
        // Else the run would prove something else.
        if found != self.arguments.method.of_storage() {
            return Err(io::Error::other(format!("the log writes by {found}")));
        }
        Ok(wal)
    }

    /// One thread, each group waited for.
    fn solo(&self, wal: &Wal<S>) -> io::Result<()> {
        for _ in 0..SOLO_GROUPS {
            let Some((range, ticket)) = self.append(wal)? else { break };
            self.wait(&range, ticket)?;
        }
        Ok(())
    }

    /// Several threads, each waiting for its own, and now and then a checkpoint.
    fn shared(&self, wal: &Wal<S>) -> io::Result<()> {
        let writer = || -> io::Result<()> {
            for _ in 0..SHARED_GROUPS / WRITERS {
                let Some((range, ticket)) = self.append(wal)? else { break };
                self.wait(&range, ticket)?;
                if range.contains(&(range.end / CHECKPOINT_EVERY * CHECKPOINT_EVERY)) {
                    self.checkpoint(wal)?;
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(writer)).collect();
            writers.into_iter().try_for_each(|writer| {
                writer.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
            })
        })
    }

    /// One thread that waits at the end only.
    fn burst(&self, wal: &Wal<S>) -> io::Result<()> {
        let mut pending = Vec::new();
        for _ in 0..BURST_GROUPS {
            pending.extend(self.append(wal)?);
        }
        pending.into_iter().try_for_each(|(range, ticket)| self.wait(&range, ticket))
    }

    /// Appends the next group, if there is one.
    fn append(&self, wal: &Wal<S>) -> io::Result<Option<(Range<u64>, Ticket<S>)>> {
        let seed = self.arguments.seed;
        let mut line = lock(&self.line);
        let Some(end) = line.ends.pop_front() else { return Ok(None) };
        let range = line.next..end;
        self.marks.put(&format!("begin {}", end - 1))?;
        let ticket = if end - range.start == 1 {
            wal.append(&payload(seed, range.start))
        } else {
            let mut batch = wal.batch();
            for index in range.clone() {
                batch.push(&payload(seed, index)).map_err(io::Error::other)?;
            }
            batch.append()
        };
        let ticket = ticket.map_err(io::Error::other)?;
        line.groups.push_back((range.start, ticket.lsn()));
        line.next = end;
        Ok(Some((range, ticket)))
    }

    fn wait(&self, range: &Range<u64>, ticket: Ticket<S>) -> io::Result<()> {
        let acknowledge = || self.marks.put(&format!("ack {}", range.end - 1));
        if self.arguments.broken == Some(Broken::EarlyAck) {
            acknowledge()?;
        }
        ticket.wait().map_err(io::Error::other)?;
        acknowledge()
    }

    /// Releases all but the latest groups.
    fn checkpoint(&self, wal: &Wal<S>) -> io::Result<()> {
        let _one = lock(&self.checkpoint);
        let (first, lsn) = {
            let mut line = lock(&self.line);
            while line.groups.len() > KEPT_GROUPS {
                line.groups.pop_front();
            }
            let Some(front) = line.groups.front() else { return Ok(()) };
            *front
        };
        self.marks.put(&format!("releasing {first}"))?;
        let state = first.to_le_bytes();
        wal.checkpoint(lsn, &state).and_then(Ticket::wait).map_err(io::Error::other)?;
        lock(&self.line).released = first;
        self.marks.put(&format!("released {first}"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
