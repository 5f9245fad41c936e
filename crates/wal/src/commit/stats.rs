//! Counters.

use std::time::Duration;

/// How many buckets [`Stats::commit_histogram`] has.
pub const COMMIT_BUCKETS: usize = 40;

/// What the log did since it was opened. A snapshot; no figure ever falls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records appended, checkpoints included.
    pub records: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Frames made durable.
    pub frames: u64,
    /// Bytes of these frames, padding included: what went to the device.
    pub frame_bytes: u64,
    /// Records made durable.
    pub durable_records: u64,
    /// Threads and tasks that were told that their records are durable, and had waited for it.
    pub acknowledged_waiters: u64,
    /// Times that a committer let the cohort of the commit before join.
    pub cohort_waits: u64,
    /// Of these, the times that the bound passed first.
    pub cohort_expiries: u64,
    /// Times that an append found no room in memory and waited.
    pub memory_waits: u64,
    /// Times that an append took room while somebody waited for room before it.
    pub room_passes: u64,
    /// Times that somebody who waited for room was told to look.
    pub room_wakes: u64,
    /// Times that an append found no prepared segment and waited.
    pub segment_waits: u64,
    /// Segments prepared from slots that held an older one.
    pub segments_recycled: u64,
    /// Segments prepared in new slots, which writes every byte twice.
    pub segments_created: u64,
    /// Slots given back to the file system.
    pub slots_removed: u64,
    /// The longest that a frame was held which was written and flushed: another flush was under way beside it, of an
    /// earlier frame or of a segment that was being prepared, and its failure might have taken the frame along.
    pub longest_hold: Duration,
    /// How long the durable writes took: bucket `i` counts those from 2^i ns to 2^(i+1) ns.
    pub commit_histogram: CommitHistogram,
}

/// Durations of durable writes in buckets of powers of two nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitHistogram {
    buckets: [u64; COMMIT_BUCKETS],
    total: Duration,
}

impl Default for CommitHistogram {
    fn default() -> Self {
        Self { buckets: [0; COMMIT_BUCKETS], total: Duration::ZERO }
    }
}

impl CommitHistogram {
    pub(super) fn record(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let bucket = usize::try_from(nanoseconds.ilog2()).unwrap_or(COMMIT_BUCKETS);
        self.buckets[bucket.min(COMMIT_BUCKETS - 1)] += 1;
        self.total = self.total.saturating_add(time);
    }

    /// The counts: bucket `i` holds durations from 2^i ns to 2^(i+1) ns.
    #[must_use]
    pub fn buckets(&self) -> &[u64; COMMIT_BUCKETS] {
        &self.buckets
    }

    /// How many durations were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }

    /// The upper bound of the bucket that holds the `percent`-th percentile; zero when empty.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Duration {
        let wanted = self.count().saturating_mul(percent.min(100).into()).div_ceil(100);
        let mut seen = 0_u64;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return Duration::from_nanos(2_u64 << bucket);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_right_bucket() {
        let mut histogram = CommitHistogram::default();
        assert_eq!(histogram.percentile(50), Duration::ZERO);
        for _ in 0..99 {
            histogram.record(Duration::from_nanos(100));
        }
        histogram.record(Duration::from_secs(1 << 40));
        assert_eq!(histogram.percentile(50), Duration::from_nanos(128));
        assert_eq!(histogram.percentile(99), Duration::from_nanos(128));
        assert_eq!(histogram.percentile(100), Duration::from_nanos(2 << (COMMIT_BUCKETS - 1)));
        assert_eq!(histogram.count(), 100);
    }
}
