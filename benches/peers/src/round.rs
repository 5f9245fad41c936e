//! What is known of one contestant after a round, and of all of them after a cell.

use std::{fs, path::Path, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use wal_bench::{
    counters::Counters,
    figures::{Spread, float},
};

use crate::{arguments::Workload, contestants::Entry, verify::Synced};

/// Bytes of the sectors that `/sys/block/*/stat` counts.
const SECTOR_BYTES: u64 = 512;

/// One contestant in one round. `None` is what the kernel does not tell, or what the workload has not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Round {
    /// Records a second; opens a second, where there are no records.
    pub(crate) per_second: f64,
    /// Latency, µs.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
    /// Processor time of the process for each record, µs.
    pub(crate) cpu: Option<f64>,
    /// Bytes that the process sent to the device or made dirty, for each byte of payload. The kernel
    /// counts a large folio of the page cache as a whole when a part of it is made dirty: a peer that
    /// overwrites what it wrote ahead seems to write many times what the disk sees.
    pub(crate) written: Option<f64>,
    /// Bytes that the disk wrote, the file system's own and those of others included.
    pub(crate) disk: Option<f64>,
    /// Flushes of the disk for each record.
    pub(crate) flushes: Option<f64>,
    /// Bytes that the process had the device read, for each byte of payload.
    pub(crate) read: Option<f64>,
}

/// Counts at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    counters: Counters,
    sectors: Option<u64>,
    read_bytes: Option<u64>,
    cpu: Duration,
}

impl Sample {
    pub(crate) fn now(disk_stat: Option<&Path>) -> Self {
        let stat = disk_stat.and_then(|stat| fs::read_to_string(stat).ok());
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let read = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            counters: Counters::read(disk_stat),
            sectors: stat.and_then(|stat| sectors(&stat)),
            read_bytes: read.and_then(|bytes| bytes.trim().parse().ok()),
            cpu: Duration::try_from(cpu).unwrap_or_default(),
        }
    }

    /// Fills in what was counted since `before` for `records` of `payload_bytes` each.
    pub(crate) fn count(&self, before: &Self, records: f64, payload_bytes: f64, round: &mut Round) {
        let grown = |after: Option<u64>, before: Option<u64>| {
            after.zip(before).map(|(after, before)| float(after.saturating_sub(before)))
        };
        let (records, counters) = (records.max(1.0), self.counters.since(&before.counters));
        let payload = records * payload_bytes;
        round.cpu = Some(self.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / records);
        round.written = counters.written_bytes.map(|bytes| float(bytes) / payload);
        round.disk = grown(self.sectors, before.sectors)
            .map(|sectors| sectors * float(SECTOR_BYTES) / payload);
        round.flushes = counters.flushes.map(|flushes| float(flushes) / records);
        round.read = grown(self.read_bytes, before.read_bytes).map(|bytes| bytes / payload);
    }
}

/// From the kernel's `Documentation/block/stat.rst`: the 7th number counts sectors written.
fn sectors(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// All rounds of one contestant.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) name: &'static str,
    /// Why it is not ranked, if it is not.
    pub(crate) unranked: Option<String>,
    /// One a round, in order.
    pub(crate) rounds: Vec<Round>,
}

impl Standing {
    pub(crate) fn new(entry: &Entry) -> Self {
        let unranked = entry.unranked.map(str::to_owned);
        Self { name: entry.name, unranked, rounds: Vec::new() }
    }

    /// One figure of all rounds, if all have it.
    pub(crate) fn figures(&self, figure: impl Fn(&Round) -> Option<f64>) -> Option<Vec<f64>> {
        let figures: Option<Vec<_>> = self.rounds.iter().map(figure).collect();
        figures.filter(|figures| !figures.is_empty())
    }

    pub(crate) fn spread(&self, figure: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
        self.figures(figure).map(Spread::of)
    }
}

/// Contestants that took turns under one load: this log first.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) writers: usize,
    pub(crate) payload_bytes: usize,
    /// What it is, for people.
    pub(crate) title: String,
    /// Whether this log is held to anything here: not where others do less than it must.
    pub(crate) is_bound: bool,
    pub(crate) standings: Vec<Standing>,
}

impl Cell {
    /// Marks who was seen not to sync.
    pub(crate) fn unrank(&mut self, synced: &[Synced]) {
        for standing in &mut self.standings {
            let seen = synced.iter().find(|synced| synced.name == standing.name);
            if let Some(reason) = seen.and_then(Synced::unranked) {
                standing.unranked.get_or_insert(reason);
            }
        }
    }

    /// This log, and the others that are ranked.
    pub(crate) fn ranked(&self) -> Option<(&Standing, Vec<&Standing>)> {
        let (this, others) = self.standings.split_first()?;
        let others = others.iter().filter(|other| other.unranked.is_none());
        let others: Vec<_> = others.filter(|other| !other.rounds.is_empty()).collect();
        (this.unranked.is_none() && !this.rounds.is_empty()).then_some((this, others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shared_among_records_and_bytes() {
        let sample = |flushes, bytes, sectors, cpu| Sample {
            counters: Counters {
                flushes: Some(flushes),
                written_bytes: Some(bytes),
                ..Counters::default()
            },
            sectors: Some(sectors),
            read_bytes: None,
            cpu: Duration::from_micros(cpu),
        };
        let mut round = Round::default();
        sample(15, 40960, 88, 700).count(&sample(5, 0, 8, 200), 10.0, 1024.0, &mut round);
        let expected = Round {
            cpu: Some(50.0),
            written: Some(4.0),
            disk: Some(4.0),
            flushes: Some(1.0),
            ..Round::default()
        };
        assert_eq!(round, expected);
    }

    #[test]
    fn written_sectors_are_the_seventh_number() {
        assert_eq!(sectors("1 2 3 4 5 6 7 8"), Some(7));
        assert_eq!(sectors("1 2"), None);
    }

    #[test]
    fn a_figure_that_a_round_has_not_is_none() {
        let with = Round { p50: Some(1.0), ..Round::default() };
        let standing = Standing { name: "n", unranked: None, rounds: vec![with, Round::default()] };
        assert_eq!(standing.spread(|round| round.p50), None);
        assert_eq!(standing.figures(|round| Some(round.per_second)), Some(vec![0.0, 0.0]));
    }
}
