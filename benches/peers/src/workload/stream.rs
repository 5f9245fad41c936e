//! One thread that runs ahead of the disk, by a window of records that are not durable yet.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use wal_bench::figures::{bytes_u64, float};

use super::interleave;
use crate::{
    arguments::{Arguments, Workload},
    contestants::{Contestant, Entry, Keep, Stream},
    place::Place,
    round::{Cell, Round, Sample},
};

/// Records in the window of the pipelined load.
pub(super) const PIPELINED: usize = 1000;

/// Bytes in the window of the bulk load.
const BULK_BYTES: usize = 16 << 20;

/// A latency above this, in ns, is counted as this.
const LATENCY_MAX: u64 = 60_000_000_000;

pub(crate) fn stream(
    arguments: &Arguments,
    entries: &[Entry],
    place: &Place,
    workload: Workload,
    payload_bytes: usize,
) -> io::Result<Cell> {
    let window = match workload {
        Workload::Bulk => window_of(payload_bytes),
        _ => PIPELINED,
    };
    let duration = arguments.duration();
    let run = |contestant: &dyn Contestant| {
        let Some(mut stream) = contestant.stream()? else { return Ok(None) };
        let before = Sample::now(place.disk_stat.as_deref());
        let started = Instant::now();
        let until = Until::Elapsed(duration);
        let (records, latencies) = push(&mut *stream, &vec![0xA5; payload_bytes], window, until)?;
        let elapsed = started.elapsed();
        let after = Sample::now(place.disk_stat.as_deref());
        let mut round =
            Round { per_second: float(records) / elapsed.as_secs_f64(), ..Round::default() };
        if workload == Workload::Pipelined {
            let quantile = |q| Some(float(latencies.value_at_quantile(q)) / 1e3);
            (round.p50, round.p99, round.p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
        }
        after.count(&before, float(records), float(bytes_u64(payload_bytes)), &mut round);
        round.read = None;
        Ok(Some(round))
    };
    let standings = interleave(place, entries, Keep::Stream, arguments.rounds, run);
    let title = format!("one thread, {payload_bytes} bytes, {window} records not durable yet");
    Ok(Cell { workload, writers: 1, payload_bytes, title, is_bound: true, standings })
}

/// Records in the window of the bulk load.
pub(super) fn window_of(payload_bytes: usize) -> usize {
    (BULK_BYTES / payload_bytes).max(1)
}

/// How long a stream goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    Elapsed(Duration),
    Records(u64),
}

/// Appends `payload` until then, and returns when all of it is durable: how many records, and how
/// long each was not, in ns.
pub(super) fn push(
    stream: &mut dyn Stream,
    payload: &[u8],
    window: usize,
    until: Until,
) -> io::Result<(u64, Histogram<u64>)> {
    let mut latencies = Histogram::new_with_bounds(1, LATENCY_MAX, 3).map_err(io::Error::other)?;
    let mut starts: VecDeque<Instant> = VecDeque::new();
    let mut records = 0;
    let started = Instant::now();
    let mut settle = |stream: &mut dyn Stream, starts: &mut VecDeque<Instant>| {
        let count = stream.settle()?;
        if count == 0 || count > starts.len() {
            return Err(io::Error::other("a stream miscounts its records"));
        }
        let now = Instant::now();
        for start in starts.drain(..count) {
            let nanos = u64::try_from((now - start).as_nanos()).unwrap_or(u64::MAX);
            latencies.saturating_record(nanos);
        }
        Ok(())
    };
    loop {
        let now = Instant::now();
        let is_done = match until {
            Until::Elapsed(duration) => now - started >= duration,
            Until::Records(count) => records >= count,
        };
        if is_done {
            break;
        }
        starts.push_back(now);
        stream.append(payload)?;
        records += 1;
        if starts.len() >= window {
            settle(stream, &mut starts)?;
        }
    }
    while !starts.is_empty() {
        settle(stream, &mut starts)?;
    }
    Ok((records, latencies))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes all durable at once, or one at a time.
    struct Counting {
        waiting: usize,
        most: usize,
        at_once: bool,
    }

    impl Stream for Counting {
        fn append(&mut self, _: &[u8]) -> io::Result<()> {
            self.waiting += 1;
            self.most = self.most.max(self.waiting);
            Ok(())
        }

        fn settle(&mut self) -> io::Result<usize> {
            let settled = if self.at_once { self.waiting } else { 1 };
            self.waiting -= settled;
            Ok(settled)
        }
    }

    #[test]
    fn the_window_is_kept_and_emptied() {
        for at_once in [false, true] {
            let mut stream = Counting { waiting: 0, most: 0, at_once };
            let (records, latencies) = push(&mut stream, b"x", 7, Until::Records(100)).unwrap();
            assert_eq!((records, latencies.len()), (100, 100));
            assert_eq!((stream.waiting, stream.most), (0, 7));
        }
    }

    #[test]
    fn a_stream_that_settles_nothing_is_an_error() {
        struct Stuck;
        impl Stream for Stuck {
            fn append(&mut self, _: &[u8]) -> io::Result<()> {
                Ok(())
            }
            fn settle(&mut self) -> io::Result<usize> {
                Ok(0)
            }
        }
        assert!(push(&mut Stuck, b"x", 2, Until::Records(3)).is_err());
    }
}
