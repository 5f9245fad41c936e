//! Threads that append and never wait for their records, alone and beside writers that do: what many of
//! them are to one of them, with much memory and with the least.

use std::{
    fs, io,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use wal::{Options, Stats};
use wal_bench::{
    figures::{Spread, bytes_u64, float},
    log::RecycledLog,
    measure::{Load, Summary, closed_loop},
    report::table::{row, titled},
};
use wal_benches::{
    goals::{Bound, Goal},
    report,
};

use crate::{Bench, Outcome, pipeline::PART};

/// How many threads, and what they are to reach of the records of one.
const THREADS: [(usize, Option<f64>); 5] =
    [(1, None), (4, None), (16, Some(0.8)), (64, Some(0.8)), (256, Some(0.45))];

const RECORD_BYTES: [usize; 2] = [128, 1000];

/// The pools: the default one, and two buffers of one default frame each.
const POOLS: [(&str, Option<u64>); 2] =
    [("default pool", None), ("pool of two frames", Some(2 << 20))];

/// What the log keeps; it has slots for twice that.
const LOG_SPAN: u64 = 128 << 20;

/// Those that wait in the mixed load.
const WAITERS: usize = 4;
const WAITER_BYTES: usize = 128;

/// Those beside them: how many, and the part of what one alone can do that they append together. `None` is
/// as much as they can: the memory is always full, and who waits for a record waits for what is before it
/// in the pool, be it one producer's or many's.
const MIXED: [(usize, Option<f64>); 6] =
    [(0, None), (1, None), (16, None), (64, None), (1, Some(0.25)), (16, Some(0.25))];

/// The p99 of those that wait: to that without producers, where these leave the disk some time; and to that
/// beside one, where they leave none.
const MIXED_BOUND: f64 = 3.0;

/// Of a producer that is ahead of its pace.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn producers(bench: &Bench) -> Outcome {
    let directory = bench.directory.join("producers");
    fs::create_dir(&directory)?;
    let mut goals = Vec::new();
    for (name, pool) in POOLS {
        let options = Options::new().spare_bytes_max(2 * LOG_SPAN);
        let options =
            pool.map_or_else(|| options.clone(), |bytes| options.clone().pool_bytes(bytes));
        let path = directory.join("log");
        let log = RecycledLog::create(&path, &options, LOG_SPAN)?;
        for record_bytes in RECORD_BYTES {
            let found = alone(bench, &log, record_bytes)?;
            goals.extend(show_alone(name, record_bytes, &found));
            let one = Spread::of(found[0].per_second.clone()).median;
            goals.extend(mixed(bench, &log, name, record_bytes, one)?);
        }
        drop(log);
        fs::remove_dir_all(path)?;
    }
    fs::remove_dir(directory)?;
    Ok(goals)
}

/// One number of threads in all rounds.
#[derive(Default)]
struct Found {
    per_second: Vec<f64>,
    records: u64,
    memory_waits: u64,
    segment_waits: u64,
}

impl Found {
    fn add(&mut self, produced: &Produced) {
        self.per_second.push(produced.per_second());
        self.records += produced.records;
        self.memory_waits += produced.after.memory_waits - produced.before.memory_waits;
        self.segment_waits += produced.after.segment_waits - produced.before.segment_waits;
    }
}

fn alone(
    bench: &Bench,
    log: &RecycledLog,
    record_bytes: usize,
) -> io::Result<[Found; THREADS.len()]> {
    let mut found = THREADS.map(|_| Found::default());
    for _ in 0..bench.arguments.rounds {
        for ((threads, _), found) in THREADS.iter().zip(&mut found) {
            let producers = Producers { threads: *threads, record_bytes, pace: None };
            found.add(&producers.run(log, bench.arguments.duration / PART)?);
        }
    }
    Ok(found)
}

fn show_alone(pool: &str, record_bytes: usize, found: &[Found]) -> Vec<Goal> {
    let headings =
        ["threads", "K records/s", "ratio", "low..high", "memory waits", "segment waits"];
    let mut rows = vec![row(headings)];
    let mut goals = Vec::new();
    for ((threads, at_least), of_threads) in THREADS.iter().zip(found) {
        let ratio = Spread::of_ratio(&of_threads.per_second, &found[0].per_second);
        let rate = Spread::of(of_threads.per_second.clone());
        // For each thousand records.
        let waits = |count: u64| format!("{:.2}", float(count) * 1e3 / float(of_threads.records));
        rows.push(vec![
            threads.to_string(),
            format!("{:.1}", rate.median / 1e3),
            format!("{:.3}", ratio.median),
            format!("{:.1}..{:.1}", rate.low / 1e3, rate.high / 1e3),
            waits(of_threads.memory_waits),
            waits(of_threads.segment_waits),
        ]);
        goals.extend(at_least.map(|at_least| Goal {
            subject: format!("{threads} producers of {record_bytes} bytes, {pool} / 1"),
            bound: Bound::AtLeast(at_least),
            figure: ratio,
            detail: format!(
                "{:.1} / {:.1} K records a second",
                rate.median / 1e3,
                Spread::of(found[0].per_second.clone()).median / 1e3
            ),
        }));
    }
    let title = format!(
        "threads that append {record_bytes} bytes and do not wait, {pool}; waits for each 1000 records"
    );
    print!("{}", titled(&title, &rows));
    goals
}

/// Writers that wait, without producers and beside some; `one` is what one producer alone does in a second.
fn mixed(
    bench: &Bench,
    log: &RecycledLog,
    pool: &str,
    record_bytes: usize,
    one: f64,
) -> io::Result<[Goal; 2]> {
    let duration = bench.arguments.duration / PART;
    let load = Load { writers: WAITERS, payload_bytes: WAITER_BYTES, duration };
    let mut found = MIXED.map(|(threads, part)| {
        let pace = part.map(|part| format!(" at {part} of one's pace")).unwrap_or_default();
        let name = match threads {
            0 => "without producers".to_owned(),
            _ => format!("beside {threads}{pace}"),
        };
        Summary { name, rounds: Vec::new() }
    });
    for _ in 0..bench.arguments.rounds {
        for ((threads, part), summary) in MIXED.into_iter().zip(&mut found) {
            let producers = Producers { threads, record_bytes, pace: part.map(|part| part * one) };
            let (_, waited) = producers.run_beside(log, || closed_loop(log, &load, || ()))?;
            summary.rounds.push(waited?.figures);
        }
    }
    let title =
        format!("{WAITERS} writers that wait, beside producers of {record_bytes} bytes, {pool}");
    print!("{}", report::durable_table(&title, &found));
    let [without, one, many, .., many_paced] = found
        .each_ref()
        .map(|summary| summary.rounds.iter().map(|figures| figures.p99).collect::<Vec<_>>());
    let goal = |what: &str, p99: Vec<f64>, base: Vec<f64>| Goal {
        subject: format!("p99 beside 16 producers of {record_bytes} bytes{what}, {pool}"),
        bound: Bound::AtMost(MIXED_BOUND),
        figure: Spread::of_rounds(&p99, &base),
        detail: format!("{:.0} / {:.0} µs", Spread::of(p99).median, Spread::of(base).median),
    };
    Ok([goal(" / beside 1", many, one), goal(" at a quarter / without", many_paced, without)])
}

/// Threads that append and do not wait.
struct Producers {
    threads: usize,
    record_bytes: usize,
    /// The most records a second of all of them.
    pace: Option<f64>,
}

/// What they did until the last of their records was durable.
struct Produced {
    records: u64,
    elapsed: Duration,
    before: Stats,
    after: Stats,
}

impl Produced {
    fn per_second(&self) -> f64 {
        float(self.records) / self.elapsed.as_secs_f64()
    }
}

impl Producers {
    fn run(&self, log: &RecycledLog, duration: Duration) -> io::Result<Produced> {
        let before = log.wal().stats();
        let (records, started) = self.run_beside(log, || {
            let started = Instant::now();
            thread::sleep(duration);
            started
        })?;
        Ok(Produced { records, elapsed: started.elapsed(), before, after: log.wal().stats() })
    }

    /// Does `work` while they append, then has all they appended made durable: how many records.
    fn run_beside<T>(&self, log: &RecycledLog, work: impl FnOnce() -> T) -> io::Result<(u64, T)> {
        let barrier = Barrier::new(self.threads + 1);
        let stop = AtomicBool::new(false);
        let append = || {
            barrier.wait();
            self.append(log, &stop)
        };
        thread::scope(|scope| {
            let producers: Vec<_> = (0..self.threads).map(|_| scope.spawn(append)).collect();
            barrier.wait();
            let result = {
                let _stopping = Stopping(&stop);
                work()
            };
            let mut records = 0;
            for producer in producers {
                records +=
                    producer.join().expect("a producer panicked").map_err(io::Error::other)?;
            }
            log.wal().flush().map_err(io::Error::other)?;
            Ok((records, result))
        })
    }

    fn append(&self, log: &RecycledLog, stop: &AtomicBool) -> wal::Result<u64> {
        let record = vec![0xA5; self.record_bytes];
        let threads = float(bytes_u64(self.threads));
        let started = Instant::now();
        let mut records = 0;
        while !stop.load(Ordering::Relaxed) {
            let due = self.pace.map(|pace| pace / threads * started.elapsed().as_secs_f64());
            if due.is_some_and(|due| float(records) > due) {
                thread::sleep(PAUSE);
                continue;
            }
            log.follow(log.wal().append_untracked(&record)?)?;
            records += 1;
        }
        Ok(records)
    }
}

/// Has the producers end also when what they are beside unwinds.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
