//! Who runs when, and what is counted.

use std::{
    io,
    sync::Barrier,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

/// Part of each run that is not counted: adaptive contestants settle, processors wake.
const WARM_UP_PART: u32 = 8;

/// A latency above this is counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// A contestant whose writers each wait for their own record.
pub trait Durable: Sync {
    /// Returns once `payload` is on stable storage. Panics if it cannot be: a benchmark with a
    /// failed write has no result.
    fn append_durable(&self, payload: &[u8]);
}

/// A contestant that moves bytes as fast as it can: writes that nobody waits for, or reads.
pub trait Transfer {
    /// Moves bytes for about `duration`. All of them count only once they are durable (writes) or
    /// in the caller's hands (reads), and the time is up to that.
    ///
    /// # Errors
    ///
    /// The first one met; the run has no result then.
    fn transfer(&self, duration: Duration) -> io::Result<Transferred>;
}

/// What a [`Transfer`] did.
#[derive(Clone, Copy, Debug)]
pub struct Transferred {
    /// Bytes moved.
    pub bytes: u64,
    /// From the first to the last of them.
    pub elapsed: Duration,
}

/// A closed loop: each writer appends its next record when its last one is durable.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Threads.
    pub writers: usize,
    /// Bytes of each record.
    pub payload_bytes: usize,
    /// What is counted; a warm-up goes before.
    pub duration: Duration,
}

/// What one contestant did in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Durable records a second.
    pub per_second: f64,
    /// Median latency, µs.
    pub p50: f64,
    /// Latency that 99 of 100 stay below, µs.
    pub p99: f64,
    /// Latency that 999 of 1000 stay below, µs.
    pub p999: f64,
    /// Processor time of the whole process for each record, µs.
    pub cpu: f64,
}

/// A value over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// All rounds of one contestant.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The contestant.
    pub name: String,
    /// One a round, in order.
    pub rounds: Vec<Figures>,
}

impl Summary {
    /// One figure over the rounds.
    #[must_use]
    pub fn spread(&self, figure: impl Fn(&Figures) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure).collect())
    }

    /// One figure as a ratio to `base`'s.
    #[must_use]
    pub fn ratio(&self, base: &Self, figure: impl Fn(&Figures) -> f64) -> Spread {
        let figures = |summary: &Self| summary.rounds.iter().map(&figure).collect::<Vec<_>>();
        Spread::of_ratio(&figures(self), &figures(base))
    }
}

/// All rounds of one [`Transfer`].
#[derive(Clone, Debug)]
pub struct TransferSummary {
    /// The contestant.
    pub name: String,
    /// MiB a second, one a round, in order.
    pub rounds: Vec<f64>,
}

impl TransferSummary {
    /// MiB a second over the rounds.
    #[must_use]
    pub fn bandwidth(&self) -> Spread {
        Spread::of(self.rounds.clone())
    }

    /// The one of `summaries` with the highest median.
    ///
    /// # Panics
    ///
    /// With none.
    #[must_use]
    pub fn best(summaries: &[Self]) -> &Self {
        let median = |summary: &&Self| summary.bandwidth().median;
        summaries.iter().max_by(|a, b| median(a).total_cmp(&median(b))).expect("at least one")
    }
}

impl Spread {
    /// Median by median, as the tables have it; the lowest and the highest of single rounds, whose
    /// two figures were measured one after the other.
    #[must_use]
    pub fn of_ratio(values: &[f64], base: &[f64]) -> Self {
        let pairs = values.iter().zip(base).map(|(value, base)| value / base).collect();
        let median = Self::of(values.to_vec()).median / Self::of(base.to_vec()).median;
        Self { median, ..Self::of(pairs) }
    }

    /// The spread of `values`.
    ///
    /// # Panics
    ///
    /// Without values.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self { median, low: values[0], high: values[values.len() - 1] }
    }
}

/// Runs `contestants` in turn, A B A B, for `rounds` rounds. What drifts (the host, its other
/// guests) drifts under all of them.
#[must_use]
pub fn interleave(
    contestants: &[(&str, &dyn Durable)],
    load: &Load,
    rounds: usize,
) -> Vec<Summary> {
    let mut summaries: Vec<_> = contestants
        .iter()
        .map(|&(name, _)| Summary { name: name.to_owned(), rounds: Vec::new() })
        .collect();
    for _ in 0..rounds {
        for (&(_, contestant), summary) in contestants.iter().zip(&mut summaries) {
            summary.rounds.push(closed_loop(contestant, load));
        }
    }
    summaries
}

/// [`interleave`] for bandwidth; each transfer runs for `duration` a round.
///
/// # Errors
///
/// The first of a transfer.
pub fn interleave_transfers(
    contestants: &[(String, &dyn Transfer)],
    duration: Duration,
    rounds: usize,
) -> io::Result<Vec<TransferSummary>> {
    let mut bandwidths = vec![Vec::new(); contestants.len()];
    for _ in 0..rounds {
        for ((_, contestant), bandwidths) in contestants.iter().zip(&mut bandwidths) {
            let moved = contestant.transfer(duration)?;
            bandwidths.push(float(moved.bytes >> 10) / 1024.0 / moved.elapsed.as_secs_f64());
        }
    }
    let named = contestants.iter().zip(bandwidths);
    Ok(named
        .map(|((name, _), bandwidths)| TransferSummary { name: name.clone(), rounds: bandwidths })
        .collect())
}

/// One round of one contestant.
///
/// A record counts for the throughput if it *ends* in the counted window, and for the latency if it
/// *starts* there: so a stall across the window's end is not forgotten, and one across its start not
/// counted twice.
pub fn closed_loop(contestant: &dyn Durable, load: &Load) -> Figures {
    let barrier = Barrier::new(load.writers + 1);
    let counting = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let write = || {
        let payload = vec![0xA5; load.payload_bytes];
        let mut latencies = histogram();
        let mut ended_count = 0;
        barrier.wait();
        while !stop.load(Ordering::Relaxed) {
            let counted_start = counting.load(Ordering::Relaxed);
            let started = Instant::now();
            contestant.append_durable(&payload);
            let elapsed = started.elapsed();
            if counted_start {
                latencies.saturating_record(nanos(elapsed));
            }
            if counting.load(Ordering::Relaxed) {
                ended_count += 1;
            }
        }
        (latencies, ended_count)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..load.writers).map(|_| scope.spawn(write)).collect();
        barrier.wait();
        thread::sleep(load.duration / WARM_UP_PART);
        counting.store(true, Ordering::Relaxed);
        let (cpu_before, started) = (process_cpu(), Instant::now());
        thread::sleep(load.duration);
        counting.store(false, Ordering::Relaxed);
        let (elapsed, cpu) = (started.elapsed(), process_cpu() - cpu_before);
        stop.store(true, Ordering::Relaxed);

        let mut latencies = histogram();
        let mut ended_count: u64 = 0;
        for thread in threads {
            let (of_thread, ended_of_thread) = thread.join().expect("a writer panicked");
            latencies.add(of_thread).expect("both histograms have the same bounds");
            ended_count += ended_of_thread;
        }
        let records = float(ended_count.max(1));
        let quantile = |quantile| float(latencies.value_at_quantile(quantile)) / 1e3;
        Figures {
            per_second: float(ended_count) / elapsed.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            cpu: cpu.as_secs_f64() * 1e6 / records,
        }
    })
}

/// The middle of `values`, the upper one of two.
pub(crate) fn median<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Processor time of all threads of this process, those that have ended included.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("processor time is not negative")
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanos(LATENCY_MAX), 3).expect("the bounds are in order")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A count as a figure.
#[must_use]
#[expect(clippy::as_conversions, reason = "no lossless form; counts stay far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Counting(AtomicU64);

    impl Durable for Counting {
        fn append_durable(&self, payload: &[u8]) {
            assert_eq!(payload.len(), 128);
            self.0.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_micros(50));
        }
    }

    #[test]
    fn every_contestant_runs_every_round() {
        let (a, b) = (Counting(AtomicU64::new(0)), Counting(AtomicU64::new(0)));
        let load = Load { writers: 3, payload_bytes: 128, duration: Duration::from_millis(20) };
        let summaries = interleave(&[("a", &a), ("b", &b)], &load, 3);
        assert_eq!(summaries.len(), 2);
        assert!(summaries.iter().all(|summary| summary.rounds.len() == 3));
        assert!(a.0.load(Ordering::Relaxed) > 0 && b.0.load(Ordering::Relaxed) > 0);
        let figures = summaries[0].rounds[0];
        assert!(figures.p50 >= 50.0 && figures.p50 <= figures.p99 && figures.p99 <= figures.p999);
    }

    #[test]
    fn a_spread_is_the_middle_and_the_ends() {
        let odd = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(odd, Spread { median: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).median.to_bits(), 2.5_f64.to_bits());
    }

    #[test]
    fn a_ratio_is_that_of_the_medians() {
        let ratio = Spread::of_ratio(&[2.0, 8.0, 4.0], &[1.0, 2.0, 8.0]);
        assert_eq!(ratio, Spread { median: 2.0, low: 0.5, high: 4.0 });
    }
}
