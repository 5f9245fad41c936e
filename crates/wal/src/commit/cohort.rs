//! [`Cohort`]: how long a committer lets those join who were acknowledged last time.

use std::time::Duration;

/// A committer that seals the instant a flush completes takes only those who arrived during it.
/// Those just acknowledged come back microseconds later and wait a whole further flush: two cohorts
/// alternate and throughput sticks at half. So the committer lets as many join as returned last time,
/// within a bound.
///
/// Measured with a prototype (ext4, `RWF_DSYNC` of about 95 µs, 2 cores, 128-byte records): 4 writers
/// 21 to 34 K/s and p99 329 to 178 µs, 16 writers 81 to 101 K/s, one writer unchanged.
///
/// Those who arrived during the flush are there already and do not count as its return: else one
/// that comes late once is left behind by every commit after it.
#[derive(Debug, Default)]
pub(super) struct Cohort {
    wanted: u32,
    median: u64,
    expiries: u32,
    /// Commits since the bound was last tried in full.
    since_full: u32,
    /// After how many it is tried in full again.
    retry_after: u32,
}

/// A wait is never longer than this, however slow the device.
const BOUND_MAX: Duration = Duration::from_micros(100);
/// Each expiry halves the bound, at most so often: below a microsecond there is nothing to halve.
const EXPIRIES_MAX: u32 = 7;
/// A bound that was halved too often for anybody to make it is tried in full again after so many
/// commits, at first: else one noisy moment would stay for ever. Each full bound that expires doubles
/// it, so that those who never come back cost little.
const RETRY_AFTER_MIN: u32 = 4;
/// It is never put off for longer.
const RETRY_AFTER_MAX: u32 = 64;

impl Cohort {
    /// How many have to have joined before a committer seals without waiting: the cohort that
    /// returned last, and those who waited already. A lone writer is its own cohort and never waits.
    pub(super) fn wanted(&self) -> u32 {
        self.wanted
    }

    /// How long a committer may wait: 80 % of the median commit, at most 100 µs, halved for each
    /// expiry since the last success.
    pub(super) fn bound(&self) -> Duration {
        let bound = Duration::from_nanos(self.median / 5 * 4).min(BOUND_MAX);
        bound / (1 << self.expiries)
    }

    /// The wait ended because all had joined.
    pub(super) fn joined(&mut self) {
        self.expiries = 0;
        self.retry_after = RETRY_AFTER_MIN;
    }

    /// The wait ended because the bound had passed.
    pub(super) fn expired(&mut self) {
        if self.expiries == 0 {
            self.retry_after = (self.retry_after * 2).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
            self.since_full = 0;
        }
        self.expiries = (self.expiries + 1).min(EXPIRIES_MAX);
    }

    /// `returned` waiters were acknowledged, and `waiting` have joined the next commit already.
    pub(super) fn returned(&mut self, returned: u32, waiting: u32) {
        self.wanted = returned + waiting;
    }

    /// A commit took `time`.
    pub(super) fn took(&mut self, time: Duration) {
        self.since_full += 1;
        if self.since_full >= self.retry_after {
            (self.since_full, self.expiries) = (0, 0);
        }
        // A running median: a step towards each sample, a thirty-second of the estimate, so that
        // one slow flush moves it by 3 % where a mean would jump.
        let sample = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let step = (self.median / 32).max(100);
        self.median = match self.median {
            0 => sample,
            median if sample > median => median.saturating_add(step).min(sample),
            median => median.saturating_sub(step).max(sample),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_follows_the_median_and_its_own_expiries() {
        let mut cohort = Cohort::default();
        assert_eq!(cohort.bound(), Duration::ZERO);
        for _ in 0..100 {
            cohort.took(Duration::from_micros(50));
            cohort.returned(3, 1);
        }
        assert_eq!(cohort.wanted(), 4);
        assert_eq!(cohort.bound(), Duration::from_micros(40));
        cohort.took(Duration::from_secs(1));
        assert!(cohort.bound() < Duration::from_micros(42), "one slow flush hardly counts");
        cohort.expired();
        assert!(cohort.bound() < Duration::from_micros(21));
        cohort.joined();
        assert!(cohort.bound() >= Duration::from_micros(40));
        // A bound that expired is tried in full again soon, and later each time that was in vain.
        let mut commits_until_full = || {
            cohort.expired();
            let commits = (1..).find(|_| {
                cohort.took(Duration::from_micros(50));
                cohort.bound() >= Duration::from_micros(40)
            });
            commits.unwrap()
        };
        let waits: Vec<u32> = (0..6).map(|_| commits_until_full()).collect();
        assert_eq!(waits, [8, 16, 32, 64, 64, 64]);
        for _ in 0..10_000 {
            cohort.took(Duration::from_millis(5));
        }
        assert_eq!(cohort.bound(), BOUND_MAX);
    }
}
