//! `R_rot`: the p99.9 of one writer that waits, with about one new segment a second, beside the same
//! without. Both logs recycle their slots. What each rotation holds up is [`holds`]'s.

use std::{
    io,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use wal::Options;

use crate::{
    bench::Bench,
    disk::Fill,
    figures::{Spread, bytes_u64, count, float, micros},
    floors::SingleFloor,
    holds,
    log::RecycledLog,
    measure::{Durable, closed_loop, histogram, nanos},
    outcome::{Distribution, Outcome, Ratio, Timeline},
    plan::{Measurement, RAW_BYTES},
};

/// What the ratio is called.
pub(crate) const NAME: &str = "R_rot";

/// A round must be long enough for a p99.9, and for a rotation: this many times the share.
const PARTS: u32 = 5;

/// A segment lasts for this part of a round at the pace of raw writes: a writer that is somewhat slower
/// still meets its end.
const SEGMENT_PART: f64 = 0.7;

/// How many slices a round has on the timeline.
const SLICES: u32 = 200;

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    let rounds = bench.settings.rounds;
    bench.say(Measurement::Rotation, 0, rounds + 1);
    let write_bytes = bench.write_bytes(1);
    let Pace { fastest, mean } = pace(bench, write_bytes)?;
    let segment_of = |rate, time| bench.sizes.segment_bytes(write_bytes, rate, time);
    // Not longer than half of what the longest segment lasts: the log without rotations must stay in one.
    let longest = float(bench.sizes.segment_bytes_max) / float(bytes_u64(write_bytes)) / fastest;
    let round_time = bench.settings.share(2) * PARTS / 2;
    let round_time = round_time.min(Duration::from_secs_f64(longest / 2.0));
    let rotation_time = round_time.min(Duration::from_secs(1)).mul_f64(SEGMENT_PART);

    let log = |name: &str, segment: u64| -> io::Result<RecycledLog> {
        let options = Options::new().segment_bytes(segment).spare_bytes_max(4 * segment);
        let path = bench.log_directory(name)?;
        RecycledLog::create(&path, &options, segment).map_err(io::Error::other)
    };
    let rotating = log("rotating", segment_of(mean, rotation_time))?;
    let still = log("still", segment_of(fastest, round_time * 2))?;
    let logs = [("without rotations", &still), ("with rotations", &rotating)];

    let created = logs.map(|(_, log)| log.wal().stats().segments_created);
    let mut p999 = [Vec::new(), Vec::new()];
    let mut latencies = [histogram(), histogram()];
    let mut rotations = [0, 0];
    let mut timelines = Vec::new();
    for round in 0..rounds {
        bench.say(Measurement::Rotation, round + 1, rounds + 1);
        timelines.clear();
        let room = count(fastest * round_time.as_secs_f64()) * bytes_u64(write_bytes);
        make_room(&still, room)?;
        for (index, &(name, log)) in logs.iter().enumerate() {
            let round = write_through(log, name, bench.settings.payload_bytes, round_time)?;
            p999[index].push(float(round.latencies.value_at_quantile(0.999)) / 1e3);
            rotations[index] += round.timeline.rotations.len();
            latencies[index] += round.latencies;
            timelines.push(round.timeline);
        }
    }

    let [without, with] = p999;
    let mut outcome = Outcome {
        ratios: vec![Ratio {
            name: NAME.to_owned(),
            value: Spread::of_rounds(&with, &without),
            log: Spread::of(with),
            floor: Spread::of(without),
            unit: "µs",
            meaning: format!(
                "p99.9 with {} rotations in {:.1} s / with {}; less is better",
                rotations[1],
                round_time.as_secs_f64() * float(bytes_u64(rounds)),
                rotations[0],
            ),
        }],
        distributions: logs
            .iter()
            .zip(&latencies)
            .map(|((name, _), latencies)| Distribution::of(name, latencies))
            .collect(),
        timelines,
        ..Outcome::default()
    };
    let [still_created, rotating_created] = created;
    bench.end("rotation, without", still, still_created, &mut outcome)?;
    bench.end("rotation", rotating, rotating_created, &mut outcome)?;
    holds::measure(bench, &mut outcome)?;
    Ok(outcome)
}

/// How many durable writes a second there are to expect.
struct Pace {
    /// If nothing ever took longer than the median.
    fastest: f64,
    mean: f64,
}

/// That of raw writes, as it is now: a log is never faster for long.
fn pace(bench: &Bench<'_>, write_bytes: usize) -> io::Result<Pace> {
    let file = bench.file("raw", RAW_BYTES, Fill::Zeros)?;
    let raw = SingleFloor::new(&file, bench.method, write_bytes)?;
    let figures = closed_loop(&raw, &bench.load(1, 2), || ())?.figures;
    Ok(Pace { fastest: 1e6 / figures.p50.max(1.0), mean: figures.per_second.max(1.0) })
}

/// Goes on to the next segment, off the clock, unless this one has room for `bytes`.
fn make_room(log: &RecycledLog, bytes: u64) -> io::Result<()> {
    let segment_bytes = log.report().segment_bytes;
    let left = |log: &RecycledLog| segment_bytes - log.wal().appended_lsn().get() % segment_bytes;
    let before = left(log);
    if before < bytes {
        // A megabyte more: the rest may be too short for a record.
        log.append_through(before + (1 << 20)).map_err(io::Error::other)?;
    }
    Ok(())
}

struct Round {
    latencies: Histogram<u64>,
    timeline: Timeline,
}

/// One writer, each of whose records is durable before the next.
fn write_through(
    log: &RecycledLog,
    name: &str,
    payload_bytes: usize,
    time: Duration,
) -> io::Result<Round> {
    let payload = vec![0xA5; payload_bytes];
    let segment_bytes = log.report().segment_bytes;
    let segment = || log.wal().durable_lsn().get() / segment_bytes;
    let slice = (time / SLICES).max(Duration::from_micros(1));
    let mut latencies = histogram();
    let mut longest = Vec::new();
    let mut rotations = Vec::new();
    let mut in_slice: Option<(u64, Duration)> = None;
    let mut last_segment = segment();
    let started = Instant::now();
    let middle = |index: u64| (float(index) + 0.5) * slice.as_secs_f64();
    loop {
        let before = started.elapsed();
        if before >= time {
            break;
        }
        log.append_durable(&payload)?;
        let after = started.elapsed();
        let taken = after - before;
        latencies.saturating_record(nanos(taken));
        if segment() != last_segment {
            last_segment = segment();
            rotations.push(after.as_secs_f64());
        }
        let index = nanos(after) / nanos(slice);
        in_slice = match in_slice {
            Some((old, max)) if old == index => Some((old, max.max(taken))),
            full => {
                longest.extend(full.map(|(old, max)| (middle(old), micros(max))));
                Some((index, taken))
            }
        };
    }
    longest.extend(in_slice.map(|(old, max)| (middle(old), micros(max))));
    Ok(Round { latencies, timeline: Timeline { name: name.to_owned(), longest, rotations } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fresh_directory;

    fn log(path: &std::path::Path) -> RecycledLog {
        let segment = 256 << 10;
        let options = Options::new().segment_bytes(segment).spare_bytes_max(4 * segment);
        RecycledLog::create(path, &options, segment).unwrap()
    }

    /// A writer goes through several segments: each new one is seen, and every slice has one point.
    #[test]
    fn rotations_are_seen_where_they_are() {
        let directory = fresh_directory(None).unwrap();
        let log = log(&directory.path().join("log"));
        let segment = || log.wal().durable_lsn().get() / (256 << 10);
        let before = segment();
        // Long enough for one on any disk: it ends by what was seen.
        let mut seen = 0;
        while seen == 0 {
            let time = Duration::from_millis(50);
            let round = write_through(&log, "log", 4000, time).unwrap();
            seen += u64::try_from(round.timeline.rotations.len()).unwrap();
            let points = &round.timeline.longest;
            assert!(!points.is_empty() && points.is_sorted_by(|a, b| a.0 < b.0), "{points:?}");
            assert!(bytes_u64(points.len()) <= round.latencies.len());
        }
        assert_eq!(seen, segment() - before);
    }

    #[test]
    fn room_is_made_once() {
        let directory = fresh_directory(None).unwrap();
        let log = log(&directory.path().join("log"));
        log.append_durable(b"x").unwrap();
        let before = log.wal().appended_lsn();
        make_room(&log, 1).unwrap();
        assert_eq!(log.wal().appended_lsn(), before);
        make_room(&log, 256 << 10).unwrap();
        assert!(log.wal().appended_lsn().get() / (256 << 10) > before.get() / (256 << 10));
    }
}
