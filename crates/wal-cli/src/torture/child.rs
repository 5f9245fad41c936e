//! The process that is killed: it opens the log and appends from many threads until it dies. Now
//! and then it is asked to close instead.

use super::{
    message::{Acknowledged, Message, Sender},
    open_patiently,
    random::{Random, mix},
    record::{Stamp, checkpoint_state},
    torture_options,
};
use crate::output::{EXIT_BAD, Failure};
use std::{
    io::{self, Read},
    panic,
    path::PathBuf,
    pin::pin,
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};
use wal::{Lsn, Ticket, Wal, io::Directory};

/// How far ahead of its appends a writer announces them.
const INTENT_RECORDS: u64 = 16;

/// The most records that a writer sends at once: as a batch, or before it waits.
const TOGETHER_MAX: u64 = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    dir: PathBuf,
    #[arg(long)]
    run: u64,
    #[arg(long)]
    child: u32,
    #[arg(long)]
    writers: u32,
    #[arg(long)]
    expect: Option<u64>,
    #[arg(long)]
    canary: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    // A panic in any thread, the log's own included, ends the child: the parent must hear of it.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        hook(info);
        process::exit(101);
    }));
    let closing = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&closing);
    thread::spawn(move || obey_parent(&asked));
    match append_until_killed(arguments, &closing) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Stop::ParentIsGone) => Ok(ExitCode::SUCCESS),
        Err(Stop::Failed(text)) => Err(Failure::new(EXIT_BAD, text)),
    }
}

/// A byte asks to close; the end means that the parent is gone, and must not leave a child that
/// writes for ever.
fn obey_parent(closing: &AtomicBool) {
    let mut input = io::stdin().lock();
    let mut byte = [0];
    while let Ok(1) = input.read(&mut byte) {
        closing.store(true, Ordering::Relaxed);
    }
    process::exit(0);
}

#[derive(Debug)]
enum Stop {
    ParentIsGone,
    Failed(String),
}

impl From<wal::Error> for Stop {
    fn from(error: wal::Error) -> Self {
        Self::Failed(format!("{:?}: {error}", error.kind()))
    }
}

/// Returns only when it was asked to close, or something failed.
fn append_until_killed(arguments: &Arguments, closing: &Arc<AtomicBool>) -> Result<(), Stop> {
    let reports = Sender::stdout().map_err(|error| Stop::Failed(error.to_string()))?;
    let reports = Arc::new(reports);
    let seed = mix(&[arguments.run, u64::from(arguments.child)]);
    let mut random = Random::new(seed);

    let mut options = torture_options()
        .depth([1, 2, 4, 8][usize::try_from(random.below(4)).unwrap_or(0)])
        .linger(Duration::from_millis(random.between(1, 10)));
    if random.one_in(2) {
        options = options.frame_bytes(128 << 10);
    }
    if let Some(expected) = arguments.expect {
        options = options.expect_at_least(Lsn::new(expected));
    }
    let mut replay = open_patiently(&options, &arguments.dir)?;
    let mut last_record = None;
    if random.one_in(2) {
        while let Some(record) = replay.next()? {
            last_record = Some(record.lsn());
        }
    } else {
        replay.skip_rest();
    }
    let (wal, report) = replay.finish()?;
    send(
        &reports,
        &Message::Opened {
            tail: report.tail,
            last_record,
            torn: matches!(report.verdict, wal::Verdict::TornTail),
        },
    )?;

    let wal = Arc::new(wal);
    let (stopped, stop) = mpsc::channel();
    for writer in 0..arguments.writers {
        let mut writer = Writer {
            wal: Arc::clone(&wal),
            reports: Arc::clone(&reports),
            stamp: Stamp {
                run: arguments.run,
                child: arguments.child,
                writer,
                sequence: 0,
                batch_index: 0,
                batch_records: 1,
            },
            intended: 0,
            random: Random::new(mix(&[seed, u64::from(writer)])),
            checkpoint_in: random.between(20, 300),
            checkpoints_rarely: !arguments.child.is_multiple_of(3),
            candidate: None,
            start_mark: wal.start_mark(),
            canary: arguments.canary,
        };
        let (stopped, closing) = (stopped.clone(), Arc::clone(closing));
        thread::spawn(move || {
            let mut result = Ok(());
            while result.is_ok() && !closing.load(Ordering::Relaxed) {
                result = writer.step();
            }
            let _ = stopped.send(result);
        });
    }
    // The first to fail ends the process; else all must come to their end, or the parent's patience
    // does: a wait that never returns is found here.
    for _ in 0..arguments.writers {
        stop.recv().unwrap_or(Ok(()))?;
    }
    wal.close()?;
    Ok(())
}

fn send(reports: &Sender, message: &Message) -> Result<(), Stop> {
    reports.send(message).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::ParentIsGone,
        _ => Stop::Failed(format!("report to the parent: {error}")),
    })
}

struct Writer {
    wal: Arc<Wal>,
    reports: Arc<Sender>,
    /// Of the next record.
    stamp: Stamp,
    intended: u64,
    random: Random,
    /// Steps until this writer, if it is the first, asks for the next checkpoint.
    checkpoint_in: u64,
    /// Leave most of the records to be found again, instead of reusing slots as fast as possible.
    checkpoints_rarely: bool,
    /// What the next checkpoint may release to.
    candidate: Option<Lsn>,
    start_mark: Lsn,
    /// Acknowledge before the log does. A torture that does not notice proves nothing.
    canary: bool,
}

/// Records handed to the log under one ticket, not acknowledged yet.
struct Sent {
    sequence: u64,
    records: u32,
    first: Lsn,
    last: Lsn,
    since: Instant,
}

type Pending = (Ticket<Directory>, Sent);

impl Writer {
    /// Appends one record or several, in one of the ways the log offers, and reports them.
    fn step(&mut self) -> Result<(), Stop> {
        match self.random.below(100) {
            0..48 => {
                let (ticket, sent) = self.append()?;
                self.wait(ticket, &sent)?;
            }
            48..58 => {
                let (ticket, sent) = self.append_in_place()?;
                self.wait(ticket, &sent)?;
            }
            58..70 => {
                let (ticket, sent) = self.append_batch()?;
                self.wait(ticket, &sent)?;
            }
            70..80 => {
                for (ticket, sent) in self.append_several()? {
                    self.wait(ticket, &sent)?;
                }
            }
            80..85 => self.wait_for_last_only()?,
            85..90 => self.flush()?,
            90..95 => self.wait_by_callback()?,
            _ => self.wait_as_future()?,
        }
        if self.stamp.writer == 0 {
            self.checkpoint_in -= 1;
            if self.checkpoint_in == 0 {
                let slower = if self.checkpoints_rarely { 10 } else { 1 };
                self.checkpoint_in = slower * self.random.between(20, 300);
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    fn wait_for_last_only(&mut self) -> Result<(), Stop> {
        // The log acknowledges in order: the last one stands for all.
        let mut several = self.append_several()?;
        let Some((ticket, last)) = several.pop() else { return Ok(()) };
        ticket.wait()?;
        for (_, sent) in &several {
            self.acknowledge(sent)?;
        }
        self.acknowledge(&last)
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let several: Vec<Sent> = self.append_several()?.into_iter().map(|(_, sent)| sent).collect();
        self.wal.flush()?;
        several.iter().try_for_each(|sent| self.acknowledge(sent))
    }

    fn wait_by_callback(&mut self) -> Result<(), Stop> {
        let (ticket, sent) = self.append()?;
        let (answer, answered) = mpsc::sync_channel(1);
        ticket.on_durable(move |result| {
            let _ = answer.send(result);
        });
        let answer = answered.recv();
        answer.map_err(|_| Stop::Failed("a callback was dropped uncalled".to_owned()))??;
        self.acknowledge(&sent)
    }

    fn wait_as_future(&mut self) -> Result<(), Stop> {
        let record = self.next_record()?.to_record();
        let since = Instant::now();
        let ticket = block_on(self.wal.append_async(&record))?;
        let sent = self.sent(&ticket, 1, since);
        block_on(ticket)?;
        self.acknowledge(&sent)
    }

    fn append(&mut self) -> Result<Pending, Stop> {
        let record = self.next_record()?.to_record();
        let since = Instant::now();
        let ticket = self.wal.append(&record)?;
        let sent = self.sent(&ticket, 1, since);
        Ok((ticket, sent))
    }

    fn append_in_place(&mut self) -> Result<Pending, Stop> {
        let stamp = self.next_record()?;
        let since = Instant::now();
        let ticket = self.wal.append_with(stamp.record_bytes(), |room| stamp.write(room))?;
        let sent = self.sent(&ticket, 1, since);
        Ok((ticket, sent))
    }

    fn append_batch(&mut self) -> Result<Pending, Stop> {
        let records = u16::try_from(self.random.between(2, TOGETHER_MAX)).unwrap_or(2);
        self.intend(u64::from(records))?;
        let since = Instant::now();
        let mut batch = self.wal.batch();
        for index in 0..records {
            let stamp = Stamp { batch_index: index, batch_records: records, ..self.stamp };
            self.stamp.sequence += 1;
            if index % 2 == 0 {
                batch.push(&stamp.to_record())?;
            } else {
                batch.push_with(stamp.record_bytes(), |room| stamp.write(room))?;
            }
        }
        let ticket = batch.append()?;
        let sent = self.sent(&ticket, u32::from(records), since);
        Ok((ticket, sent))
    }

    fn append_several(&mut self) -> Result<Vec<Pending>, Stop> {
        let count = self.random.between(2, TOGETHER_MAX);
        (0..count)
            .map(|_| if self.random.one_in(5) { self.append_batch() } else { self.append() })
            .collect()
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        // Either what this writer knows to be its own, or the end of all that is durable.
        let now = if self.random.one_in(2) {
            let (ticket, sent) = self.append()?;
            self.wait(ticket, &sent)?;
            sent.first
        } else {
            self.wal.durable_lsn()
        };
        // The first one releases what older children left.
        let before = self.candidate.replace(now).unwrap_or(now);
        let start_mark = if self.checkpoints_rarely { before } else { now };
        if start_mark <= self.start_mark {
            return Ok(());
        }
        self.start_mark = start_mark;
        let state = checkpoint_state(self.stamp.run, self.stamp.child, start_mark);
        send(&self.reports, &Message::CheckpointIntent { start_mark })?;
        let ticket = self.wal.checkpoint(start_mark, &state)?;
        if self.random.one_in(3) {
            drop(ticket);
            return Ok(());
        }
        ticket.wait()?;
        send(&self.reports, &Message::CheckpointAcknowledged { start_mark })
    }

    fn next_record(&mut self) -> Result<Stamp, Stop> {
        self.intend(1)?;
        let stamp = Stamp { batch_index: 0, batch_records: 1, ..self.stamp };
        self.stamp.sequence += 1;
        Ok(stamp)
    }

    /// Announces the next `records` records unless that was done.
    fn intend(&mut self, records: u64) -> Result<(), Stop> {
        let end = self.stamp.sequence + records;
        if end <= self.intended {
            return Ok(());
        }
        self.intended = end + INTENT_RECORDS;
        let until = self.intended;
        send(&self.reports, &Message::Intent { writer: self.stamp.writer, until })
    }

    /// What `ticket` stands for: the last `records` records.
    fn sent(&self, ticket: &Ticket<Directory>, records: u32, since: Instant) -> Sent {
        let sequence = self.stamp.sequence - u64::from(records);
        Sent { sequence, records, first: ticket.lsn(), last: ticket.last_lsn(), since }
    }

    fn wait(&self, ticket: Ticket<Directory>, sent: &Sent) -> Result<(), Stop> {
        if self.canary {
            self.acknowledge(sent)?;
            ticket.wait()?;
            return Ok(());
        }
        let answered = ticket.wait()?;
        if answered != sent.first && answered != sent.last {
            let Sent { first, sequence, .. } = sent;
            return Err(Stop::Failed(format!(
                "a wait for sequence {sequence} at lsn {first} answered lsn {answered}"
            )));
        }
        self.acknowledge(sent)
    }

    fn acknowledge(&self, sent: &Sent) -> Result<(), Stop> {
        let latency_ns = u64::try_from(sent.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let acknowledged = Acknowledged {
            writer: self.stamp.writer,
            sequence: sent.sequence,
            records: sent.records,
            first: sent.first,
            last: sent.last,
            latency_ns,
        };
        send(&self.reports, &Message::Acknowledged(acknowledged))
    }
}

/// An executor of one task: enough to drive the log's futures.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
