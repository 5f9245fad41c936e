//! `R_busy(N)`: N writers that each wait for their own record, beside ordinary processes that keep the
//! processors busy, and without them. There is no floor: how much a kernel leaves to a program that
//! sleeps and wakes beside such as never do is its own affair, but what the program gives away on top of
//! that by yielding to them shows.

use std::io;

use crate::{
    bench::Bench,
    figures::Spread,
    measure::closed_loop,
    outcome::{Outcome, Ratio},
    plan::Measurement,
    processes::BusyProcesses,
};

/// Whether `ratio` is one of these: they have no floor that could be passed.
pub(crate) fn is_of_busy(ratio: &str) -> bool {
    ratio.starts_with("R_busy")
}

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    let rounds = bench.settings.rounds;
    let groups = [1].iter().chain(&bench.settings.writers);
    let steps = (bench.settings.writers.len() + 1) * rounds + 1;
    bench.say(Measurement::Busy, 0, steps);
    let log = bench.log("busy")?;
    let created = log.wal().stats().segments_created;
    let mut outcome = Outcome::default();
    let mut done = 0;
    for &writers in groups {
        let load = bench.load(writers, 2);
        let (mut without, mut beside) = (Vec::new(), Vec::new());
        let (mut p99_without, mut p99_beside) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            done += 1;
            bench.say(Measurement::Busy, done, steps);
            let alone = closed_loop(&log, &load, || ())?.figures;
            let processes = BusyProcesses::start()?;
            let busy = closed_loop(&log, &load, || ())?.figures;
            drop(processes);
            without.push(alone.per_second);
            beside.push(busy.per_second);
            p99_without.push(alone.p99);
            p99_beside.push(busy.p99);
        }
        outcome.ratios.push(Ratio {
            name: format!("R_busy({writers})"),
            value: Spread::of_rounds(&beside, &without),
            log: Spread::of(beside),
            floor: Spread::of(without),
            unit: "records/s",
            meaning: format!(
                "{writers} writer(s) beside {} busy processes / without them; p99 {:.0} / {:.0} µs",
                BusyProcesses::enough(),
                Spread::of(p99_beside).median,
                Spread::of(p99_without).median,
            ),
        });
    }
    bench.end("busy", log, created, &mut outcome)?;
    Ok(outcome)
}
