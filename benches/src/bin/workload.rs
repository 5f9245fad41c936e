//! `workload`: one log under one load for a moment, and what that came to. The half of `paired` that is
//! built with each of the commits that are compared.
//!
//! `workload DIR LOAD SECONDS` prints one line of `name=figure`. The log stays in `DIR` and is gone on
//! with by the next call, so that only the first one makes its slots. A process each time: where the
//! linker and the kernel put things is drawn anew in every round, and is no part of a ratio's median.
//!
//! Whatever it takes is in this file, and it uses nothing but the public interface of `wal`: the same
//! source is built against any commit that has it.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

use std::{
    env,
    error::Error,
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use wal::{Lsn, Options, Wal};

const USAGE: &str = "\
usage: workload DIR LOAD SECONDS

  writers-N     N threads that each wait for their record of 128 bytes
  producers-N   N threads of records of 1000 bytes, nobody waiting
  pipelined     one thread of records of 1024 bytes, nobody waiting
  replay        a log of 1024-byte records, opened and read through again and again";

const WRITER_BYTES: usize = 128;
const PRODUCER_BYTES: usize = 1000;
const PIPELINED_BYTES: usize = 1024;

/// What a log of writers that wait keeps, and one that is run ahead of. It has slots for twice that.
const WRITER_SPAN: u64 = 16 << 20;
const PIPELINED_SPAN: u64 = 128 << 20;

/// The records of the log that is replayed: 256 MiB of them.
const REPLAYED_RECORDS: u64 = 256 << 10;

/// Part of a load that goes before what is counted.
const WARM_UP_PART: u32 = 4;

/// In ns: a latency above this is counted as this.
const LATENCY_MAX: u64 = 60_000_000_000;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What is printed.
struct Figures {
    per_second: f64,
    /// µs; only where somebody waits.
    p99: Option<f64>,
    /// Processor time of the process for each record, µs.
    cpu: f64,
}

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    let [directory, load, seconds] = &words[..] else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(Path::new(directory), load, seconds) {
        Ok(Figures { per_second, p99, cpu }) => {
            let p99 = p99.map(|p99| format!(" p99_us={p99:.3}")).unwrap_or_default();
            println!("per_second={per_second:.3}{p99} cpu_us={cpu:.5}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("workload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, load: &str, seconds: &str) -> Outcome<Figures> {
    let duration = Duration::try_from_secs_f64(seconds.parse()?)?;
    let (name, threads) = match load.split_once('-') {
        Some((name, threads)) => (name, threads.parse()?),
        None => (load, 1),
    };
    fs::create_dir_all(directory)?;
    match name {
        "writers" => {
            let log = Log::open(directory.join("writers"), WRITER_SPAN)?;
            writers(&log, threads, duration)
        }
        "producers" | "pipelined" => {
            let log = Log::open(directory.join("pipelined"), PIPELINED_SPAN)?;
            let bytes = if name == "pipelined" { PIPELINED_BYTES } else { PRODUCER_BYTES };
            producers(&log, threads, bytes, duration / WARM_UP_PART)?;
            producers(&log, threads, bytes, duration)
        }
        "replay" => replay(&directory.join("replay"), duration),
        _ => Err(USAGE.into()),
    }
}

/// A log whose start mark follows its end, so that its slots are used again and again.
struct Log {
    wal: Wal,
    span: u64,
    /// The last start mark asked for.
    mark: AtomicU64,
    /// Held while one is asked for: an earlier one after a later one is refused.
    asking: Mutex<()>,
}

impl Log {
    fn open(path: PathBuf, span: u64) -> Outcome<Self> {
        let is_new = !path.exists();
        let wal = open(&path, &Options::new().spare_bytes_max(2 * span))?;
        let mut log = Self { wal, span: 2 * span, mark: AtomicU64::new(0), asking: Mutex::new(()) };
        if is_new {
            // Once through as many slots as it will have, then round them with what it will keep.
            log.append_through(2 * span)?;
            log.span = span;
            log.append_through(2 * span)?;
        }
        log.span = span;
        Ok(log)
    }

    fn append_through(&self, bytes: u64) -> wal::Result<()> {
        for _ in 0..bytes / 1024 {
            self.follow(self.wal.append_untracked(&[0xA5; PIPELINED_BYTES])?)?;
        }
        self.wal.flush().map(drop)
    }

    /// Moves the start mark to the durable mark if `lsn` is far enough past the last one.
    fn follow(&self, lsn: Lsn) -> wal::Result<()> {
        let is_due = || lsn.get() >= self.mark.load(Ordering::Relaxed) + self.span;
        if !is_due() {
            return Ok(());
        }
        // Whoever does not get the lock leaves it to the one who has it.
        let Ok(_asking) = self.asking.try_lock() else { return Ok(()) };
        if is_due() {
            let mark = self.wal.durable_lsn();
            self.mark.store(mark.get(), Ordering::Relaxed);
            drop(self.wal.checkpoint(mark, b"")?);
        }
        Ok(())
    }
}

fn open(path: &Path, options: &Options) -> wal::Result<Wal> {
    let mut replay = options.open(path)?;
    replay.skip_rest();
    Ok(replay.finish()?.0)
}

/// A record counts if it ends in the counted window, and its latency if it starts there.
fn writers(log: &Log, threads: usize, duration: Duration) -> Outcome<Figures> {
    let barrier = Barrier::new(threads + 1);
    let (counting, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let write = || -> Outcome<_> {
        let mut latencies = histogram()?;
        let mut ended: u64 = 0;
        barrier.wait();
        while !stop.load(Ordering::Relaxed) {
            let is_counted = counting.load(Ordering::Relaxed);
            let started = Instant::now();
            let lsn = log.wal.append(&[0xA5; WRITER_BYTES]).and_then(wal::Ticket::wait);
            log.follow(lsn.inspect_err(|_| stop.store(true, Ordering::Relaxed))?)?;
            if is_counted {
                latencies.saturating_record(u64::try_from(started.elapsed().as_nanos())?);
            }
            ended += u64::from(counting.load(Ordering::Relaxed));
        }
        Ok((latencies, ended))
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..threads).map(|_| scope.spawn(write)).collect();
        barrier.wait();
        thread::sleep(duration / WARM_UP_PART);
        counting.store(true, Ordering::Relaxed);
        let (cpu, started) = (cpu()?, Instant::now());
        thread::sleep(duration);
        counting.store(false, Ordering::Relaxed);
        let taken = Taken::since(cpu, started)?;
        stop.store(true, Ordering::Relaxed);
        let (mut latencies, mut ended) = (histogram()?, 0);
        for writer in writers {
            let (of_writer, ended_of_writer) = writer.join().map_err(|_| "a writer panicked")??;
            latencies.add(of_writer)?;
            ended += ended_of_writer;
        }
        let p99 = float(latencies.value_at_quantile(0.99)) / 1e3;
        Ok(Figures { p99: Some(p99), ..taken.shared_by(ended) })
    })
}

/// All records count, and the time is up to when the last one is durable.
fn producers(log: &Log, threads: usize, bytes: usize, duration: Duration) -> Outcome<Figures> {
    let barrier = Barrier::new(threads + 1);
    let stop = AtomicBool::new(false);
    let record = vec![0xA5; bytes];
    let produce = || -> wal::Result<u64> {
        let mut appended = 0;
        barrier.wait();
        while !stop.load(Ordering::Relaxed) {
            log.follow(log.wal.append_untracked(&record)?)?;
            appended += 1;
        }
        Ok(appended)
    };
    thread::scope(|scope| {
        let producers: Vec<_> = (0..threads).map(|_| scope.spawn(produce)).collect();
        barrier.wait();
        let (cpu, started) = (cpu()?, Instant::now());
        thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        let mut appended = 0;
        for producer in producers {
            appended += producer.join().map_err(|_| "a producer panicked")??;
        }
        log.wal.flush()?;
        Ok(Taken::since(cpu, started)?.shared_by(appended))
    })
}

/// Opened and read to its end, again and again until the time is over.
fn replay(path: &Path, duration: Duration) -> Outcome<Figures> {
    if !path.exists() {
        let wal = open(path, &Options::new())?;
        for _ in 0..REPLAYED_RECORDS {
            wal.append_untracked(&[0xA5; PIPELINED_BYTES])?;
        }
        wal.close()?;
    }
    let (cpu, started) = (cpu()?, Instant::now());
    let mut records = 0;
    while records == 0 || started.elapsed() < duration {
        let before = records;
        let mut replay = Options::new().open(path)?;
        while let Some(record) = replay.next()? {
            black_box(record.payload());
            records += 1;
        }
        if records - before != REPLAYED_RECORDS {
            return Err(format!("{} of {REPLAYED_RECORDS} records", records - before).into());
        }
    }
    Ok(Taken::since(cpu, started)?.shared_by(records))
}

/// What something took.
struct Taken {
    elapsed: Duration,
    cpu: Duration,
}

impl Taken {
    fn since(cpu_before: Duration, started: Instant) -> Outcome<Self> {
        Ok(Self { elapsed: started.elapsed(), cpu: cpu()? - cpu_before })
    }

    fn shared_by(&self, records: u64) -> Figures {
        Figures {
            per_second: float(records) / self.elapsed.as_secs_f64(),
            p99: None,
            cpu: self.cpu.as_secs_f64() * 1e6 / float(records.max(1)),
        }
    }
}

/// Processor time of all threads of this process.
fn cpu() -> Outcome<Duration> {
    Ok(Duration::try_from(clock_gettime(ClockId::ProcessCPUTime))?)
}

fn histogram() -> Outcome<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_MAX, 3)?)
}

#[expect(clippy::as_conversions, reason = "no lossless form; counts stay far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
