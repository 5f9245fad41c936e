//! [`Contest`]: ways that move the same bytes, in turns, from a cold page cache and from a warm one.

use std::{
    fs::{self, File},
    io,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use wal_bench::{
    figures::{Spread, float},
    measure::Transferred,
    report::table::{row, titled},
};

use crate::{sealed::Sealed, ways::Way};

/// Whether there is a cold page cache to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caches {
    /// They are dropped before each cold round: those of the whole machine, but not of its host.
    Dropped,
    /// They are what they are, and the cold rounds are not cold.
    Kept,
}

/// Has the kernel forget every clean page, and what it knows of files.
pub(crate) fn drop_caches() -> io::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3")
}

/// What one way did, over the rounds.
#[derive(Debug, Default)]
struct Rounds {
    /// MiB a second.
    rates: Vec<f64>,
    /// Seconds of processor time a GiB: of all threads of this process, the follower's included, and none
    /// of the kernel's own.
    cpu: Vec<f64>,
}

/// A way, and what it did from a cold cache and from a warm one.
type Entry<'a> = (Way<'a>, [Rounds; 2]);

/// Ways that all have to move `bytes` bytes.
pub(crate) struct Contest<'a> {
    title: &'static str,
    bytes: u64,
    entries: Vec<Entry<'a>>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(title: &'static str, bytes: u64, ways: Vec<Way<'a>>) -> Self {
        let entries = ways.into_iter().map(|way| (way, Default::default())).collect();
        Self { title, bytes, entries }
    }

    /// One round of each way, cold and then warm. A way that moves more or less than it has to is an
    /// error.
    pub(crate) fn round(&mut self, sealed: &Sealed, caches: Caches) -> io::Result<()> {
        for (way, [cold, warm]) in &mut self.entries {
            if caches == Caches::Dropped {
                drop_caches()?;
            }
            cold.add(way, self.bytes)?;
            for segment in sealed.segments() {
                io::copy(&mut File::open(segment.path())?, &mut io::sink())?;
            }
            warm.add(way, self.bytes)?;
        }
        Ok(())
    }

    /// A table of medians. Ratios are to the first way, of medians to medians.
    pub(crate) fn table(&self, caches: Caches) -> String {
        let cold = if caches == Caches::Dropped { "cold MiB/s" } else { "NOT COLD MiB/s" };
        let [ratio, spread, cpu] = ["ratio", "low..high", "cpu s/GiB"];
        let mut rows =
            vec![row(["way", cold, ratio, spread, cpu, "warm MiB/s", ratio, spread, cpu])];
        let (_, bases) = &self.entries[0];
        for (way, found) in &self.entries {
            let mut cells = vec![way.name.clone()];
            for (rounds, base) in found.iter().zip(bases) {
                let Spread { median, low, high } = Spread::of(rounds.rates.clone());
                cells.push(format!("{median:.0}"));
                cells.push(format!("{:.2}", median / Spread::of(base.rates.clone()).median));
                cells.push(format!("{low:.0}..{high:.0}"));
                cells.push(format!("{:.2}", Spread::of(rounds.cpu.clone()).median));
            }
            rows.push(cells);
        }
        titled(self.title, &rows)
    }

    /// All rounds.
    pub(crate) fn json(&self) -> Value {
        let rounds = |rounds: &Rounds| {
            let Rounds { rates, cpu } = rounds;
            json!({ "mib_per_second": rates, "cpu_seconds_per_gib": cpu })
        };
        let way = |(way, [cold, warm]): &Entry<'_>| {
            let [cold, warm] = [rounds(cold), rounds(warm)];
            json!({ "name": way.name, "cold": cold, "warm": warm })
        };
        let ways: Vec<_> = self.entries.iter().map(way).collect();
        json!({ "title": self.title, "bytes": self.bytes, "ways": ways })
    }
}

impl Rounds {
    fn add(&mut self, way: &Way<'_>, expected: u64) -> io::Result<()> {
        let (cpu, started) = (process_cpu(), Instant::now());
        let bytes = (way.work)()?;
        let moved = Transferred { bytes, elapsed: started.elapsed() };
        let cpu = process_cpu().saturating_sub(cpu).as_secs_f64();
        if bytes != expected {
            return Err(io::Error::other(format!("{}: {bytes} of {expected} bytes", way.name)));
        }
        self.rates.push(moved.per_second());
        self.cpu.push(cpu / (float(bytes) / f64::from(1 << 30)));
        Ok(())
    }
}

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("processor time is not negative")
}
