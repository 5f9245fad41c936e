//! What a measurement finds.

use hdrhistogram::Histogram;

use crate::{
    counters::PerCommit,
    figures::{Spread, float},
    warnings::Warning,
};

/// A figure of the log beside its floor.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// Such as `R_lat` or `R_grp(16)`.
    pub name: String,
    /// Over the rounds. 1 is the floor itself; of `R_rot` and `R_hold` less is better.
    pub value: Spread,
    /// What the log did.
    pub log: Spread,
    /// What the floor did.
    pub floor: Spread,
    /// The unit of both.
    pub unit: &'static str,
    /// What the log did, and what the floor is.
    pub meaning: String,
}

/// The latencies of all rounds of one contestant.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The contestant.
    pub name: String,
    /// How many were counted.
    pub count: u64,
    /// Shares of all, rising, and what they stay at or below, µs. The last is the longest of all.
    pub quantiles: Vec<(f64, f64)>,
}

/// The steps of a [`Distribution`] in each factor of ten of what lies above.
const STEPS_OF_TEN: u32 = 10;

impl Distribution {
    /// Of latencies in ns.
    #[must_use]
    pub fn of(name: &str, latencies: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| float(nanos) / 1e3;
        let mut quantiles = Vec::new();
        let mut above: f64 = 1.0;
        // A share that leaves less than one above it says nothing that the longest does not.
        while above * float(latencies.len()) >= 1.0 {
            let below = 1.0 - above;
            quantiles.push((below, micros(latencies.value_at_quantile(below))));
            above /= 10_f64.powf(1.0 / f64::from(STEPS_OF_TEN));
        }
        if !latencies.is_empty() {
            quantiles.push((1.0, micros(latencies.max())));
        }
        Self { name: name.to_owned(), count: latencies.len(), quantiles }
    }

    /// What `share` of all stay at or below, µs: the first of the quantiles that covers it. None of
    /// nothing.
    #[must_use]
    pub fn at(&self, share: f64) -> Option<f64> {
        // A step's share is a power of ten only up to rounding.
        let found = self.quantiles.iter().find(|(below, _)| *below >= share - 1e-9);
        found.map(|&(_, micros)| micros)
    }
}

/// Durable records a second with so many writers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// How many.
    pub writers: usize,
    /// Of the log.
    pub log: Spread,
    /// Of a raw write for all of them that all wait for.
    pub bound: Spread,
}

/// One writer through a round, in slices of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// The contestant.
    pub name: String,
    /// The middle of a slice in which a record became durable, in seconds, and the longest latency in
    /// it, µs.
    pub longest: Vec<(f64, f64)>,
    /// When the first record of a new segment became durable, in seconds.
    pub rotations: Vec<f64>,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the order of the measurements.
    pub ratios: Vec<Ratio>,
    /// What each commit took.
    pub per_commit: Vec<PerCommit>,
    /// Of the writers that wait.
    pub distributions: Vec<Distribution>,
    /// By the number of writers, rising.
    pub throughput: Vec<Throughput>,
    /// Without and with rotations.
    pub timelines: Vec<Timeline>,
    /// What makes figures doubtful.
    pub warnings: Vec<Warning>,
}

impl Outcome {
    pub(crate) fn extend(&mut self, other: Self) {
        self.ratios.extend(other.ratios);
        self.per_commit.extend(other.per_commit);
        self.distributions.extend(other.distributions);
        self.throughput.extend(other.throughput);
        self.timelines.extend(other.timelines);
        for warning in other.warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::histogram;

    #[test]
    fn a_distribution_reaches_as_far_as_its_counts() {
        let mut latencies = histogram();
        for micros in 1..=1000 {
            latencies.record(micros * 1000).unwrap();
        }
        let found = Distribution::of("d", &latencies);
        assert_eq!(found.count, 1000);
        let shares: Vec<_> = found.quantiles.iter().map(|(share, _)| *share).collect();
        assert!(shares.is_sorted(), "{shares:?}");
        let about = |share: f64, expected: f64| {
            let found = found.at(share).unwrap();
            assert!((found / expected - 1.0).abs() < 0.02, "{share}: {found}");
        };
        about(0.9, 900.0);
        about(0.99, 990.0);
        about(0.999, 999.0);
        about(1.0, 1000.0);
        assert!(found.quantiles.len() < 40, "{}", found.quantiles.len());
    }

    #[test]
    fn a_distribution_of_nothing_is_empty() {
        let found = Distribution::of("d", &histogram());
        assert_eq!((found.quantiles.len(), found.at(0.5)), (0, None));
    }
}
