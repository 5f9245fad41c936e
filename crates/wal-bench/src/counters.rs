//! What the kernel counts: calls, bytes, sleeps, flushes. And what that is for each commit.

use std::{fs, path::Path, time::Duration};

use wal::Stats;

use crate::{disk::Method, figures::float, measure::Observed};

/// Counts at a moment; they only grow. `None` is what this kernel does not count or not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of this process that write.
    pub write_calls: Option<u64>,
    /// Bytes that this process sent to the device, or made dirty in the page cache.
    pub written_bytes: Option<u64>,
    /// Times that a living thread of this process went to sleep.
    pub sleeps: Option<u64>,
    /// Flushes that the disk has done, whoever asked for them.
    pub flushes: Option<u64>,
}

impl Counters {
    /// As they are now. `disk_stat` is [`Queue::stat`](crate::machine::Queue::stat).
    #[must_use]
    pub fn read(disk_stat: Option<&Path>) -> Self {
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let stat = disk_stat.and_then(|stat| fs::read_to_string(stat).ok());
        Self {
            write_calls: field(&io, "syscw:"),
            written_bytes: field(&io, "write_bytes:"),
            sleeps: sleeps(),
            flushes: stat.and_then(|stat| flushes(&stat)),
        }
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = |after: Option<u64>, before: Option<u64>| {
            after.zip(before).map(|(after, before)| after.saturating_sub(before))
        };
        Self {
            write_calls: grown(self.write_calls, before.write_calls),
            written_bytes: grown(self.written_bytes, before.written_bytes),
            sleeps: grown(self.sleeps, before.sleeps),
            flushes: grown(self.flushes, before.flushes),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        Self {
            write_calls: sum(self.write_calls, other.write_calls),
            written_bytes: sum(self.written_bytes, other.written_bytes),
            sleeps: sum(self.sleeps, other.sleeps),
            flushes: sum(self.flushes, other.flushes),
        }
    }
}

/// The number after `name` in a text of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// From the kernel's `Documentation/block/stat.rst`: the 16th number counts flushes, since Linux 5.5.
fn flushes(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(15)?.parse().ok()
}

fn sleeps() -> Option<u64> {
    let mut sum = 0;
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        // A thread may end meanwhile.
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        sum += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    Some(sum)
}

/// The log and the kernel, seen at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) stats: Stats,
    pub(crate) counters: Counters,
}

impl Seen {
    pub(crate) fn now(wal: &wal::Wal, disk_stat: Option<&Path>) -> Self {
        Self { stats: wal.stats(), counters: Counters::read(disk_stat) }
    }
}

/// Sums over the rounds of one load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    window: Duration,
    frames: u64,
    records: u64,
    frame_bytes: u64,
    payload_bytes: u64,
    woken: u64,
    write_time: Duration,
    counters: Counters,
}

impl Totals {
    pub(crate) fn new() -> Self {
        Self {
            window: Duration::ZERO,
            frames: 0,
            records: 0,
            frame_bytes: 0,
            payload_bytes: 0,
            woken: 0,
            write_time: Duration::ZERO,
            counters: Counters {
                write_calls: Some(0),
                written_bytes: Some(0),
                sleeps: Some(0),
                flushes: Some(0),
            },
        }
    }

    pub(crate) fn add_observed(&mut self, observed: &Observed<Seen>) {
        self.add(observed.window, &observed.before, &observed.after);
    }

    pub(crate) fn add(&mut self, window: Duration, before: &Seen, after: &Seen) {
        let (old, new) = (&before.stats, &after.stats);
        self.window += window;
        self.frames += new.frames - old.frames;
        self.records += new.durable_records - old.durable_records;
        self.frame_bytes += new.frame_bytes - old.frame_bytes;
        self.payload_bytes += new.payload_bytes - old.payload_bytes;
        self.woken += new.acknowledged_waiters - old.acknowledged_waiters;
        self.write_time +=
            new.commit_histogram.total().saturating_sub(old.commit_histogram.total());
        self.counters = self.counters.plus(&after.counters.since(&before.counters));
    }

    /// All of it for each commit. A run without commits has none: everything is zero.
    pub(crate) fn per_commit(&self, load: &str, method: Method) -> PerCommit {
        let commits = float(self.frames.max(1));
        let each = |count: u64| float(count) / commits;
        let known = |count: Option<u64>| count.map(each);
        let syncs = if method == Method::Fdatasync && self.frames > 0 { 1.0 } else { 0.0 };
        PerCommit {
            load: load.to_owned(),
            commits: self.frames,
            records: each(self.records),
            payload_bytes: each(self.payload_bytes),
            frame_bytes: each(self.frame_bytes),
            calls: known(self.counters.write_calls).map(|calls| calls + syncs),
            device_bytes: known(self.counters.written_bytes),
            woken: each(self.woken),
            sleeps: known(self.counters.sleeps),
            flushes: known(self.counters.flushes),
            depth: self.write_time.as_secs_f64() / self.window.as_secs_f64().max(1e-9),
        }
    }
}

/// What each commit of a load took: one frame, made durable. `None` is what the kernel does not tell.
#[derive(Clone, Debug, PartialEq)]
pub struct PerCommit {
    /// The load, such as `16 writers`.
    pub load: String,
    /// How many commits were counted.
    pub commits: u64,
    /// Records in each.
    pub records: f64,
    /// Their payload.
    pub payload_bytes: f64,
    /// The frame they were in, padding included.
    pub frame_bytes: f64,
    /// System calls that write or sync. Those that sleep and wake are not counted by the kernel:
    /// [`sleeps`](Self::sleeps) says what they come to.
    pub calls: Option<f64>,
    /// Bytes sent to the device by the whole process: frames, segments prepared ahead.
    pub device_bytes: Option<f64>,
    /// Waiters that were told, whether they slept or not.
    pub woken: f64,
    /// Times that a thread went to sleep: to wait for the disk, for a record, for work.
    pub sleeps: Option<f64>,
    /// Flushes of the disk, those of others included.
    pub flushes: Option<f64>,
    /// How many durable writes were under way at once, on the average.
    pub depth: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let io = "syscr: 7\nsyscw: 12\nwrite_bytes: 4096\n";
        assert_eq!(field(io, "syscw:"), Some(12));
        assert_eq!(field(io, "write_bytes:"), Some(4096));
        assert_eq!(field(io, "absent:"), None);
        let stat = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17";
        assert_eq!(flushes(stat), Some(16));
        // A kernel before 5.5.
        assert_eq!(flushes("1 2 3 4 5 6 7 8 9 10 11"), None);
    }

    #[test]
    fn what_is_not_known_at_one_end_is_not_known_between() {
        let before = Counters { write_calls: Some(5), sleeps: Some(9), ..Counters::default() };
        let after = Counters { write_calls: Some(8), flushes: Some(1), ..Counters::default() };
        let since = after.since(&before);
        assert_eq!(since, Counters { write_calls: Some(3), ..Counters::default() });
        assert_eq!(since.plus(&since).write_calls, Some(6));
    }

    #[test]
    fn this_process_is_counted() {
        let before = Counters::read(None);
        for _ in 0..10 {
            std::thread::sleep(Duration::from_micros(100));
        }
        let since = Counters::read(None).since(&before);
        assert!(since.sleeps.is_some_and(|sleeps| sleeps >= 10), "{since:?}");
        assert_eq!(since.flushes, None);
    }

    #[test]
    fn commits_share_what_was_counted() {
        let totals = Totals {
            window: Duration::from_secs(2),
            frames: 4,
            records: 64,
            frame_bytes: 4 * 4096,
            payload_bytes: 64 * 128,
            woken: 60,
            write_time: Duration::from_secs(1),
            counters: Counters { write_calls: Some(4), flushes: Some(6), ..Counters::default() },
        };
        let each = totals.per_commit("16 writers", Method::Fdatasync);
        assert_eq!((each.calls, each.flushes, each.sleeps), (Some(2.0), Some(1.5), None));
        assert_eq!(
            (each.records.to_bits(), each.depth.to_bits()),
            (16_f64.to_bits(), 0.5_f64.to_bits())
        );
        let none = Totals::new().per_commit("nobody", Method::Fdatasync);
        assert_eq!((none.commits, none.calls), (0, Some(0.0)));
    }
}
