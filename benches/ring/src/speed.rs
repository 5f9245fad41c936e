/*!
`ring speed`: durable overwrites by threads and by a ring, in turns on one file.

Both go through the file in order, with as many writes under way as the cell says. Processor time is that
of the whole machine: what the kernel's workers do for either is charged to no process. So it counts
everything else that runs as well.
*/

use std::{
    fs::{self, File},
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aligned::Buffer;
use serde_json::{Value, json};
use wal_bench::{
    disk::fresh_directory,
    figures::{Spread, bytes_u64, float, micros},
    report::table::{row, titled},
};
use wal_benches::report;

use crate::{
    Stop,
    arguments::{SpeedArguments, Way},
    ring::Ring,
    target::{WRITE_BYTES_MAX, filled, prepare, write_durable},
};

/// Lengths of a write.
const WRITE_BYTES: [usize; 3] = [4 << 10, 64 << 10, WRITE_BYTES_MAX];

/// How many writes are under way.
const IN_FLIGHT: [usize; 3] = [1, 4, IN_FLIGHT_MAX];

const IN_FLIGHT_MAX: usize = 8;

/// What makes a figure doubtful that no second run shows.
const NOTE: &str = "cpu: of the whole machine, whatever else runs included";

/// One length of writes, so many of them under way.
#[derive(Clone, Copy, Debug)]
struct Load {
    write_bytes: usize,
    in_flight: usize,
    duration: Duration,
}

/// What both ways write with.
struct Stage {
    file: File,
    file_bytes: u64,
    buffers: Vec<Buffer>,
    ring: Ring,
}

/// One way in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Round {
    per_second: f64,
    /// Latencies and processor time of a write, µs.
    p50: f64,
    p99: f64,
    cpu: f64,
}

/// One load, and the rounds of each of [`Way::ALL`].
struct Cell {
    load: Load,
    rounds: [Vec<Round>; 2],
}

pub(crate) fn run(arguments: &SpeedArguments) -> Result<(), Stop> {
    let directory = fresh_directory(arguments.dir.as_deref())?;
    let file_bytes = arguments.mib << 20;
    let file = prepare(&directory.path().join("overwritten"), file_bytes)?;
    let buffers = filled(IN_FLIGHT_MAX)?;
    let ring = Ring::new(&file, IN_FLIGHT_MAX)?;
    let mut stage = Stage { file, file_bytes, buffers, ring };
    stage.probe()?;

    let header = report::machine(directory.path())?;
    let begun = report::load();
    let mut cells = Vec::new();
    for write_bytes in WRITE_BYTES {
        for in_flight in IN_FLIGHT {
            let load = Load { write_bytes, in_flight, duration: arguments.seconds };
            let mut rounds = [Vec::new(), Vec::new()];
            for _ in 0..arguments.rounds {
                for (way, rounds) in Way::ALL.into_iter().zip(&mut rounds) {
                    rounds.push(stage.measure(way, &load)?);
                }
            }
            cells.push(Cell { load, rounds });
        }
    }
    let loads = [begun, report::load()];
    if arguments.json {
        println!("{:#}", json(&header, &loads, arguments, &cells));
    } else {
        let SpeedArguments { rounds, seconds, mib, .. } = arguments;
        let seconds = seconds.as_secs_f64();
        println!("{header}\nmedians of {rounds} rounds of {seconds} s, a file of {mib} MiB");
        println!("{} before, {} after", loads[0], loads[1]);
        print!("{}", table(&cells));
        println!("{NOTE}");
    }
    Ok(())
}

impl Stage {
    /// A write in each way: whether the file system has `RWF_DSYNC`.
    fn probe(&mut self) -> Result<(), Stop> {
        let load = Load { write_bytes: WRITE_BYTES[0], in_flight: 1, duration: Duration::ZERO };
        for way in Way::ALL {
            self.measure(way, &load).map_err(|error| match error.kind() {
                io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => {
                    Stop::Refused(format!("no RWF_DSYNC for {}: {error}", way.name()))
                }
                _ => Stop::Failed(error),
            })?;
        }
        Ok(())
    }

    fn measure(&mut self, way: Way, load: &Load) -> io::Result<Round> {
        let busy_before = busy()?;
        let started = Instant::now();
        let latencies = match way {
            Way::Threads => self.threads(load)?,
            Way::Ring => self.ring(load)?,
        };
        let elapsed = started.elapsed();
        Ok(Round::of(latencies, elapsed, busy()?.saturating_sub(busy_before)))
    }

    /// What each write took by threads that block in it.
    fn threads(&mut self, load: &Load) -> io::Result<Vec<Duration>> {
        let Self { file, file_bytes, buffers, .. } = self;
        let (file, file_bytes) = (&*file, *file_bytes);
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let write = |buffer: &mut Buffer| {
            let block = &buffer.as_mut_slice()[..load.write_bytes];
            let mut latencies = Vec::new();
            loop {
                let offset = next.fetch_add(bytes_u64(block.len()), Ordering::Relaxed);
                let started = Instant::now();
                write_durable(file, block, offset % file_bytes)?;
                latencies.push(started.elapsed());
                if stop.load(Ordering::Relaxed) {
                    return Ok(latencies);
                }
            }
        };
        thread::scope(|scope| {
            let write = &write;
            let buffers = buffers.iter_mut().take(load.in_flight);
            let writers: Vec<_> =
                buffers.map(|buffer| scope.spawn(move || write(buffer))).collect();
            thread::sleep(load.duration);
            stop.store(true, Ordering::Relaxed);
            let mut all = Vec::new();
            for writer in writers {
                let latencies: io::Result<Vec<_>> = writer.join().expect("a writer panicked");
                all.extend(latencies?);
            }
            Ok(all)
        })
    }

    /// What each write took by the ring: from its start until its end was seen.
    fn ring(&mut self, load: &Load) -> io::Result<Vec<Duration>> {
        let started = Instant::now();
        let mut begun = vec![started; load.in_flight];
        let mut ended: Vec<_> = (0..load.in_flight).collect();
        let mut latencies = Vec::new();
        let mut offset = 0;
        loop {
            for index in ended.drain(..) {
                if latencies.is_empty() || started.elapsed() < load.duration {
                    begun[index] = Instant::now();
                    self.ring.start(index, load.write_bytes, offset % self.file_bytes)?;
                    offset += bytes_u64(load.write_bytes);
                }
            }
            if !self.ring.is_busy() {
                return Ok(latencies);
            }
            self.ring.wait(&mut ended)?;
            latencies.extend(ended.iter().map(|&index| begun[index].elapsed()));
        }
    }
}

impl Round {
    fn of(mut latencies: Vec<Duration>, elapsed: Duration, busy: Duration) -> Self {
        latencies.sort_unstable();
        let at = |percent| micros(latencies[(latencies.len() - 1) * percent / 100]);
        let count = float(bytes_u64(latencies.len()));
        Self {
            per_second: count / elapsed.as_secs_f64(),
            p50: at(50),
            p99: at(99),
            cpu: micros(busy) / count,
        }
    }
}

/// What all processors have worked since the machine began.
fn busy() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks = busy_ticks(&stat).ok_or_else(|| io::Error::other("/proc/stat: not understood"))?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_micros(ticks * 1_000_000 / per_second))
}

/// The first line of `/proc/stat`, fields from `proc_stat(5)`: user, nice, system, idle, iowait, irq,
/// softirq. Waiting is no work, and what guests take is in the first two.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let fields = fields.take(7).map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let [user, nice, system, _idle, _waiting, irq, soft_irq] = fields[..] else { return None };
    Some(user + nice + system + irq + soft_irq)
}

fn table(cells: &[Cell]) -> String {
    let mut rows = vec![row(["way", "KiB", "in flight", "writes/s", "p50 µs", "p99 µs", "cpu µs"])];
    for Cell { load, rounds } in cells {
        for (way, rounds) in Way::ALL.into_iter().zip(rounds) {
            let median = |figure: fn(&Round) -> f64| {
                format!("{:.1}", Spread::of(rounds.iter().map(figure).collect()).median)
            };
            rows.push(vec![
                way.name().to_owned(),
                (load.write_bytes >> 10).to_string(),
                load.in_flight.to_string(),
                median(|round| round.per_second),
                median(|round| round.p50),
                median(|round| round.p99),
                median(|round| round.cpu),
            ]);
        }
    }
    titled("durable overwrites (RWF_DSYNC, direct), both in turns", &rows)
}

fn json(header: &str, loads: &[String; 2], arguments: &SpeedArguments, cells: &[Cell]) -> Value {
    let round = |round: &Round| {
        json!({
            "per_second": round.per_second,
            "p50_us": round.p50,
            "p99_us": round.p99,
            "cpu_us": round.cpu,
        })
    };
    let cell = |Cell { load, rounds: [threads, ring] }: &Cell| {
        json!({
            "write_bytes": load.write_bytes,
            "in_flight": load.in_flight,
            "threads": threads.iter().map(round).collect::<Vec<_>>(),
            "ring": ring.iter().map(round).collect::<Vec<_>>(),
        })
    };
    json!({
        "header": header,
        "load": loads,
        "note": NOTE,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds.as_secs_f64(),
        "file_bytes": arguments.mib << 20,
        "cells": cells.iter().map(cell).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_counted_over_its_whole_time() {
        let latencies = (1..=200).rev().map(Duration::from_micros).collect();
        let round = Round::of(latencies, Duration::from_millis(100), Duration::from_millis(1));
        assert_eq!(round, Round { per_second: 2000.0, p50: 100.0, p99: 198.0, cpu: 5.0 });
        let one = Round::of(vec![Duration::from_micros(3)], Duration::from_secs(1), Duration::ZERO);
        assert_eq!(one, Round { per_second: 1.0, p50: 3.0, p99: 3.0, cpu: 0.0 });
    }

    #[test]
    fn idle_processors_do_no_work() {
        let stat = "cpu  1000 200 30 9999 8888 4 5 7777 600 60\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(1239));
        for wrong in ["", "cpu", "cpu  1 2 3", "cpu0 1 2 3 4 5 6 7", "cpu  1 2 3 4 5 x 7"] {
            assert_eq!(busy_ticks(wrong), None, "{wrong}");
        }
    }
}
