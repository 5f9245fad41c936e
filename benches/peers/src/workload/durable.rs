//! A closed loop: each writer waits for its own record.

use std::io;

use wal_bench::measure::{Durable, Load, closed_loop};

use super::interleave;
use crate::{
    arguments::{Arguments, Workload},
    contestants::{Contestant, Entry, Keep},
    place::Place,
    round::{Cell, Round, Sample},
};

struct Writers<'a>(&'a dyn Contestant);

impl Durable for Writers<'_> {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        self.0.append_durable(payload)
    }
}

pub(crate) fn durable(
    arguments: &Arguments,
    entries: &[Entry],
    place: &Place,
    writers: usize,
    payload_bytes: usize,
) -> io::Result<Cell> {
    let load = Load { writers, payload_bytes, duration: arguments.duration() };
    let payload = f64::from(u32::try_from(payload_bytes).map_err(io::Error::other)?);
    let run = |contestant: &dyn Contestant| {
        let look = || Sample::now(place.disk_stat.as_deref());
        let observed = closed_loop(&Writers(contestant), &load, look)?;
        let figures = observed.figures;
        let mut round = Round {
            per_second: figures.per_second,
            p50: Some(figures.p50),
            p99: Some(figures.p99),
            p999: Some(figures.p999),
            ..Round::default()
        };
        let records = figures.per_second * observed.window.as_secs_f64();
        observed.after.count(&observed.before, records, payload, &mut round);
        round.cpu = Some(figures.cpu);
        round.read = None;
        Ok(Some(round))
    };
    let standings = interleave(place, entries, Keep::Recent, arguments.rounds, run);
    let title = format!("{writers} writer(s), {payload_bytes} bytes, each record durable");
    let (workload, is_bound) = (Workload::Durable, true);
    Ok(Cell { workload, writers, payload_bytes, title, is_bound, standings })
}
