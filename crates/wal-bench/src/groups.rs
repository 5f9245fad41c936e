//! `R_grp(N)`: N writers that each wait for their own record. If one raw write could carry a record of
//! each, and all were back before the next, they had N records in the time L* of that write:
//! `R_grp(N) = X(N) · L* / N`. At one half two cohorts take turns.

use std::io;

use crate::{
    bench::Bench,
    counters::Totals,
    disk::Fill,
    figures::{Spread, bytes_u64, float},
    floors::SingleFloor,
    measure::{closed_loop, histogram},
    outcome::{Distribution, Outcome, Ratio, Throughput},
    plan::{Measurement, RAW_BYTES},
};

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    let groups = &bench.settings.writers;
    let steps = groups.len() * (bench.settings.rounds + 1);
    let mut outcome = Outcome::default();
    let file = bench.file("raw", RAW_BYTES, Fill::Zeros)?;
    for (group, &writers) in groups.iter().enumerate() {
        let done = group * (bench.settings.rounds + 1);
        bench.say(Measurement::Groups, done, steps);
        let write_bytes = bench.write_bytes(writers);
        let raw = SingleFloor::new(&file, bench.method, write_bytes)?;
        let load = format!("{writers} writers");
        let log = bench.log(&load.replace(' ', "-"))?;
        let created = log.wal().stats().segments_created;

        let (mut bounds, mut rates) = (Vec::new(), Vec::new());
        let mut latencies = histogram();
        let mut totals = Totals::new();
        for round in 0..bench.settings.rounds {
            bench.say(Measurement::Groups, done + round + 1, steps);
            let floor = closed_loop(&raw, &bench.load(1, 2), || ())?;
            let seen = closed_loop(&log, &bench.load(writers, 2), || bench.see(&log))?;
            totals.add_observed(&seen);
            bounds.push(float(bytes_u64(writers)) * 1e6 / floor.figures.p50);
            rates.push(seen.figures.per_second);
            latencies += seen.latencies;
        }

        let (log_rate, bound) = (Spread::of(rates.clone()), Spread::of(bounds.clone()));
        outcome.ratios.push(Ratio {
            name: format!("R_grp({writers})"),
            value: Spread::of_rounds(&rates, &bounds),
            log: log_rate,
            floor: bound,
            unit: "records/s",
            meaning: format!(
                "{} B records of {writers} writers / {writers} in each raw {} KiB write",
                bench.settings.payload_bytes,
                write_bytes >> 10
            ),
        });
        outcome.per_commit.push(totals.per_commit(&load, bench.method));
        outcome.distributions.push(Distribution::of(&load, &latencies));
        outcome.throughput.push(Throughput { writers, log: log_rate, bound });
        bench.end(&load, log, created, &mut outcome)?;
    }
    Ok(outcome)
}
