//! What is asked for, and how large the files are that it takes.

use std::{fmt, time::Duration};

use crate::figures::{bytes_u64, count, float};

/// A measurement: a module of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// One writer that waits, beside a raw durable overwrite.
    Latency,
    /// Several writers that wait, beside the same of a frame that holds a record of each.
    Groups,
    /// Writers that wait, with and without processes that keep the processors busy.
    Busy,
    /// One thread that runs ahead of the disk, beside sequential durable writes.
    Bandwidth,
    /// One call that waits for nobody, beside what the processor must do for it.
    Append,
    /// Replay, beside sequential reads.
    Recovery,
    /// One writer that waits, with and without new segments; and the longest wait around one.
    Rotation,
    /// What is used of the segments.
    Space,
}

impl Measurement {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 8] = [
        Self::Latency,
        Self::Groups,
        Self::Busy,
        Self::Bandwidth,
        Self::Append,
        Self::Recovery,
        Self::Rotation,
        Self::Space,
    ];

    /// Its name on the command line and in the reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Groups => "groups",
            Self::Busy => "busy",
            Self::Bandwidth => "bandwidth",
            Self::Append => "append",
            Self::Recovery => "recovery",
            Self::Rotation => "rotation",
            Self::Space => "space",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measurement| measurement.name() == name)
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often the contestants of a measurement take turns; at least 1.
    pub rounds: usize,
    /// How long a measurement runs, its rounds and contestants together.
    pub duration: Duration,
    /// What is measured.
    pub only: Vec<Measurement>,
    /// How many writers each group has; from 2 to [`WRITERS_MAX`].
    pub writers: Vec<usize>,
    /// The bytes of a record where records are small; from 1 to [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
}

/// The most writers: a frame with the longest record of each is a quarter of the raw file.
pub const WRITERS_MAX: usize = 256;

/// The longest record.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

impl Default for Settings {
    fn default() -> Self {
        Self {
            rounds: 5,
            duration: Duration::from_secs(4),
            only: Measurement::ALL.to_vec(),
            writers: vec![4, 16, 64],
            payload_bytes: 128,
        }
    }
}

impl Settings {
    /// How long one of `contestants` runs in one round.
    #[must_use]
    pub fn share(&self, contestants: u32) -> Duration {
        let rounds = u32::try_from(self.rounds).unwrap_or(u32::MAX).max(1);
        self.duration / rounds / contestants.max(1)
    }
}

/// The length of the file that raw writes go round.
pub const RAW_BYTES: u64 = 64 << 20;

const MIB: u64 = 1 << 20;

/// How large files are: what the disk moves in a part of the time, within limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The file of sequential writes.
    pub sweep_bytes: u64,
    /// What the pipelined log keeps; it has slots for twice that.
    pub span_bytes: u64,
    /// The payload of the log that is replayed.
    pub replay_bytes: u64,
    /// The longest segment of the logs whose rotation is measured.
    pub segment_bytes_max: u64,
}

impl Sizes {
    /// What the smallest run needs to be free. Nothing is ever larger than a third of what is free.
    pub const FREE_BYTES_MIN: u64 = 512 * MIB;

    /// For a disk that writes `bytes_per_second`, where `free_bytes` are free; `None` if they are not
    /// enough.
    #[must_use]
    pub fn choose(bytes_per_second: f64, duration: Duration, free_bytes: u64) -> Option<Self> {
        if free_bytes < Self::FREE_BYTES_MIN {
            return None;
        }
        // An eighth: each file is written before it is measured.
        let moved = count(bytes_per_second * duration.as_secs_f64() / 8.0);
        let within = |bytes: u64, low: u64, high: u64| {
            let high = high.min(free_bytes / 8);
            (bytes.clamp(low.min(high), high) / (16 * MIB)).max(1) * (16 * MIB)
        };
        Some(Self {
            sweep_bytes: within(moved, 64 * MIB, 512 * MIB),
            span_bytes: within(moved / 8, 32 * MIB, 256 * MIB),
            replay_bytes: within(moved, 32 * MIB, 1024 * MIB),
            segment_bytes_max: within(u64::MAX, 32 * MIB, 256 * MIB),
        })
    }

    /// The length of a segment that takes `write_bytes` at a time, `per_second` times a second, for
    /// about `time`: a whole number of blocks.
    #[must_use]
    pub fn segment_bytes(&self, write_bytes: usize, per_second: f64, time: Duration) -> u64 {
        const SEGMENT_BYTES_MIN: u64 = 256 << 10;
        let bytes = float(bytes_u64(write_bytes)) * per_second * time.as_secs_f64();
        let bytes = count(bytes).clamp(SEGMENT_BYTES_MIN, self.segment_bytes_max);
        bytes / SEGMENT_BYTES_MIN * SEGMENT_BYTES_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_found_by_their_names() {
        for measurement in Measurement::ALL {
            assert_eq!(Measurement::named(measurement.name()), Some(measurement));
        }
        assert_eq!(Measurement::named("all"), None);
    }

    #[test]
    fn the_time_is_shared() {
        let settings =
            Settings { rounds: 4, duration: Duration::from_secs(2), ..Settings::default() };
        assert_eq!(settings.share(5), Duration::from_millis(100));
    }

    #[test]
    fn files_are_as_large_as_the_disk_is_fast_within_limits() {
        let second = Duration::from_secs(1);
        let free = 1 << 40;
        let fast = Sizes::choose(1e12, second, free).unwrap();
        assert_eq!((fast.sweep_bytes, fast.replay_bytes), (512 * MIB, 1024 * MIB));
        let slow = Sizes::choose(1e6, second, free).unwrap();
        assert_eq!((slow.sweep_bytes, slow.replay_bytes), (64 * MIB, 32 * MIB));
        let odd = Sizes::choose(1e9, second, free).unwrap();
        assert!(odd.sweep_bytes.is_multiple_of(16 * MIB) && odd.span_bytes > 0, "{odd:?}");
        assert_eq!(Sizes::choose(1e9, second, Sizes::FREE_BYTES_MIN - 1), None);
    }

    /// All files that exist at once fit into what is free, on the smallest disk and on a large one.
    #[test]
    fn nothing_is_larger_than_the_room() {
        for free in [Sizes::FREE_BYTES_MIN, 1 << 30, 4 << 30, 1 << 40] {
            let sizes = Sizes::choose(1e12, Duration::from_secs(100), free).unwrap();
            // Slots for twice the span, and some prepared ahead; a log keeps three segments.
            assert!(sizes.sweep_bytes + 3 * sizes.span_bytes < free, "{sizes:?}");
            assert!(2 * sizes.replay_bytes < free, "{sizes:?}");
            assert!(6 * sizes.segment_bytes_max < free, "{sizes:?}");
        }
    }

    #[test]
    fn a_segment_lasts_about_as_long_as_asked() {
        let sizes = Sizes::choose(1e9, Duration::from_secs(1), 1 << 40).unwrap();
        let segment = sizes.segment_bytes(4096, 10_000.0, Duration::from_secs(1));
        assert_eq!(segment, 40_960_000 / (256 << 10) * (256 << 10));
        assert_eq!(sizes.segment_bytes(4096, 1.0, Duration::ZERO), 256 << 10);
        assert_eq!(sizes.segment_bytes(4096, 1e9, Duration::from_secs(9)), 256 * MIB);
    }
}
