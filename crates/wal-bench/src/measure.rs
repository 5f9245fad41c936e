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

use crate::figures::{Spread, float};

/// Part of each run that is not counted: adaptive contestants settle, processors wake.
const WARM_UP_PART: u32 = 8;

/// A latency above this is counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// A contestant whose writers each wait for their own record.
pub trait Durable: Sync {
    /// Returns once `payload` is on stable storage.
    ///
    /// # Errors
    ///
    /// The first one met; the run has no result then.
    fn append_durable(&self, payload: &[u8]) -> io::Result<()>;
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

impl Transferred {
    /// MiB a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        float(self.bytes >> 10) / 1024.0 / self.elapsed.as_secs_f64()
    }
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

/// Runs `contestants` in turn, A B A B, for `rounds` rounds. What drifts (the host, its other
/// guests) drifts under all of them.
///
/// # Errors
///
/// The first of a contestant.
pub fn interleave(
    contestants: &[(&str, &dyn Durable)],
    load: &Load,
    rounds: usize,
) -> io::Result<Vec<Summary>> {
    let mut summaries: Vec<_> = contestants
        .iter()
        .map(|&(name, _)| Summary { name: name.to_owned(), rounds: Vec::new() })
        .collect();
    for _ in 0..rounds {
        for (&(_, contestant), summary) in contestants.iter().zip(&mut summaries) {
            summary.rounds.push(closed_loop(contestant, load, || ())?.figures);
        }
    }
    Ok(summaries)
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
            bandwidths.push(contestant.transfer(duration)?.per_second());
        }
    }
    let named = contestants.iter().zip(bandwidths);
    Ok(named
        .map(|((name, _), bandwidths)| TransferSummary { name: name.clone(), rounds: bandwidths })
        .collect())
}

/// One round of one contestant, and what was seen at both ends of the counted window.
#[derive(Clone, Debug)]
pub struct Observed<T> {
    /// The usual figures.
    pub figures: Figures,
    /// Every counted latency, in ns.
    pub latencies: Histogram<u64>,
    /// The length of the window.
    pub window: Duration,
    /// What `look` saw when it began.
    pub before: T,
    /// What `look` saw when it ended.
    pub after: T,
}

/// One round of one contestant. `look` is called at both ends of the counted window, while all
/// writers are alive.
///
/// A record counts for the throughput if it *ends* in the counted window, and for the latency if it
/// *starts* there: so a stall across the window's end is not forgotten, and one across its start not
/// counted twice.
///
/// # Errors
///
/// The contestant's. The other writers end with their next record.
pub fn closed_loop<T>(
    contestant: &dyn Durable,
    load: &Load,
    look: impl Fn() -> T,
) -> io::Result<Observed<T>> {
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
            if let Err(error) = contestant.append_durable(&payload) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
            let elapsed = started.elapsed();
            if counted_start {
                latencies.saturating_record(nanos(elapsed));
            }
            if counting.load(Ordering::Relaxed) {
                ended_count += 1;
            }
        }
        Ok((latencies, ended_count))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..load.writers).map(|_| scope.spawn(write)).collect();
        barrier.wait();
        thread::sleep(load.duration / WARM_UP_PART);
        counting.store(true, Ordering::Relaxed);
        let before = look();
        let (cpu_before, started) = (process_cpu(), Instant::now());
        thread::sleep(load.duration);
        counting.store(false, Ordering::Relaxed);
        let (window, cpu) = (started.elapsed(), process_cpu() - cpu_before);
        let after = look();
        stop.store(true, Ordering::Relaxed);

        let mut latencies = histogram();
        let mut ended_count: u64 = 0;
        for thread in threads {
            let (of_thread, ended_of_thread) = thread.join().expect("a writer panicked")?;
            latencies.add(of_thread).expect("both histograms have the same bounds");
            ended_count += ended_of_thread;
        }
        let records = float(ended_count.max(1));
        let quantile = |quantile| float(latencies.value_at_quantile(quantile)) / 1e3;
        let figures = Figures {
            per_second: float(ended_count) / window.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            cpu: cpu.as_secs_f64() * 1e6 / records,
        };
        Ok(Observed { figures, latencies, window, before, after })
    })
}

/// Processor time of all threads of this process, those that have ended included.
pub(crate) fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("processor time is not negative")
}

/// For latencies in ns.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanos(LATENCY_MAX), 3).expect("the bounds are in order")
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Counting(AtomicU64);

    impl Durable for Counting {
        fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
            assert_eq!(payload.len(), 128);
            self.0.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_micros(50));
            Ok(())
        }
    }

    #[test]
    fn every_contestant_runs_every_round() {
        let (a, b) = (Counting(AtomicU64::new(0)), Counting(AtomicU64::new(0)));
        let load = Load { writers: 3, payload_bytes: 128, duration: Duration::from_millis(20) };
        let summaries = interleave(&[("a", &a), ("b", &b)], &load, 3).unwrap();
        assert_eq!(summaries.len(), 2);
        assert!(summaries.iter().all(|summary| summary.rounds.len() == 3));
        assert!(a.0.load(Ordering::Relaxed) > 0 && b.0.load(Ordering::Relaxed) > 0);
        let figures = summaries[0].rounds[0];
        assert!(figures.p50 >= 50.0 && figures.p50 <= figures.p99 && figures.p99 <= figures.p999);
    }

    struct Failing(AtomicU64);

    impl Durable for Failing {
        fn append_durable(&self, _: &[u8]) -> io::Result<()> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                10 => Err(io::Error::other("the eleventh")),
                _ => Ok(()),
            }
        }
    }

    /// One writer fails: the others end, and what failed is told.
    #[test]
    fn a_failed_write_ends_the_run() {
        let load = Load { writers: 3, payload_bytes: 1, duration: Duration::from_millis(5) };
        let failed = closed_loop(&Failing(AtomicU64::new(0)), &load, || ()).unwrap_err();
        assert_eq!(failed.to_string(), "the eleventh");
    }

    /// What is looked at is seen twice, and between the two the records of the window end.
    #[test]
    fn both_ends_of_the_window_are_seen() {
        let contestant = Counting(AtomicU64::new(0));
        let load = Load { writers: 2, payload_bytes: 128, duration: Duration::from_millis(20) };
        let seen = || contestant.0.load(Ordering::Relaxed);
        let observed = closed_loop(&contestant, &load, seen).unwrap();
        assert!(observed.after > observed.before);
        assert!(observed.window >= load.duration);
        assert!(!observed.latencies.is_empty());
    }
}
