//! `R_lat`: one writer that waits for each record, beside a raw durable overwrite that is as long as
//! its frame, by the same method, one at a time.

use std::io;

use crate::{
    bench::Bench,
    counters::Totals,
    disk::Fill,
    figures::Spread,
    floors::SingleFloor,
    measure::{closed_loop, histogram},
    outcome::{Distribution, Outcome, Ratio, Throughput},
    plan::{Measurement, RAW_BYTES},
};

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    let rounds = bench.settings.rounds;
    bench.say(Measurement::Latency, 0, rounds + 1);
    let file = bench.file("raw", RAW_BYTES, Fill::Zeros)?;
    let write_bytes = bench.write_bytes(1);
    let raw = SingleFloor::new(&file, bench.method, write_bytes)?;
    let log = bench.log("latency")?;
    let created = log.wal().stats().segments_created;
    let load = bench.load(1, 2);

    let (mut raw_p50, mut log_p50) = (Vec::new(), Vec::new());
    let (mut raw_latencies, mut log_latencies) = (histogram(), histogram());
    let (mut bounds, mut rates) = (Vec::new(), Vec::new());
    let mut totals = Totals::new();
    for round in 0..rounds {
        bench.say(Measurement::Latency, round + 1, rounds + 1);
        let floor = closed_loop(&raw, &load, || ())?;
        let seen = closed_loop(&log, &load, || bench.see(&log))?;
        totals.add_observed(&seen);
        raw_p50.push(floor.figures.p50);
        log_p50.push(seen.figures.p50);
        bounds.push(1e6 / floor.figures.p50);
        rates.push(seen.figures.per_second);
        raw_latencies += floor.latencies;
        log_latencies += seen.latencies;
    }

    let payload = bench.settings.payload_bytes;
    let mut outcome = Outcome {
        ratios: vec![Ratio {
            name: "R_lat".to_owned(),
            value: Spread::of_rounds(&raw_p50, &log_p50),
            log: Spread::of(log_p50),
            floor: Spread::of(raw_p50),
            unit: "µs",
            meaning: format!(
                "raw durable {} KiB write / {payload} B record of one writer, p50",
                write_bytes >> 10
            ),
        }],
        per_commit: vec![totals.per_commit("1 writer", bench.method)],
        distributions: vec![
            Distribution::of("raw write", &raw_latencies),
            Distribution::of("1 writer", &log_latencies),
        ],
        throughput: vec![Throughput {
            writers: 1,
            log: Spread::of(rates),
            bound: Spread::of(bounds),
        }],
        ..Outcome::default()
    };
    bench.end("latency", log, created, &mut outcome)?;
    Ok(outcome)
}
