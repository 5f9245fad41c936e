//! Several threads that each run ahead of the disk, by a window of records that are not durable yet.

use std::{
    io,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use wal_bench::figures::{bytes_u64, float};

use super::{
    interleave,
    stream::{PIPELINED, Until, push},
};
use crate::{
    arguments::{Arguments, Workload},
    contestants::{Contestant, Entry, Keep},
    place::Place,
    round::{Cell, Round, Sample},
};

/// This log is held to nothing here: who lets several threads run ahead often has them do so in memory that
/// nothing bounds.
pub(crate) fn producers(
    arguments: &Arguments,
    entries: &[Entry],
    place: &Place,
    threads: usize,
    payload_bytes: usize,
) -> io::Result<Cell> {
    let until = Until::Elapsed(arguments.duration());
    let run = |contestant: &dyn Contestant| {
        if contestant.producer()?.is_none() {
            return Ok(None);
        }
        let before = Sample::now(place.disk_stat.as_deref());
        let (records, elapsed) = at_once(contestant, threads, payload_bytes, until)?;
        let after = Sample::now(place.disk_stat.as_deref());
        let mut round =
            Round { per_second: float(records) / elapsed.as_secs_f64(), ..Round::default() };
        after.count(&before, float(records), float(bytes_u64(payload_bytes)), &mut round);
        round.read = None;
        Ok(Some(round))
    };
    let standings = interleave(place, entries, Keep::Stream, arguments.rounds, run);
    let title = format!(
        "{threads} thread(s), {payload_bytes} bytes, {PIPELINED} records of each not durable yet"
    );
    let (workload, is_bound) = (Workload::Producers, false);
    Ok(Cell { workload, writers: threads, payload_bytes, title, is_bound, standings })
}

/// How many records all of them appended, and how long it took until the last was durable.
fn at_once(
    contestant: &dyn Contestant,
    threads: usize,
    payload_bytes: usize,
    until: Until,
) -> io::Result<(u64, Duration)> {
    let payload = vec![0xA5; payload_bytes];
    let barrier = Barrier::new(threads + 1);
    let produce = || {
        let stream = contestant.producer();
        // Also who has none: the others wait here for all.
        barrier.wait();
        let mut stream = stream?.ok_or_else(|| io::Error::other("offered once, not again"))?;
        push(&mut *stream, &payload, PIPELINED, until).map(|(records, _)| records)
    };
    thread::scope(|scope| {
        let producers: Vec<_> = (0..threads).map(|_| scope.spawn(produce)).collect();
        barrier.wait();
        let started = Instant::now();
        let mut records = 0;
        for producer in producers {
            records += producer.join().map_err(|_| io::Error::other("a producer panicked"))??;
        }
        Ok((records, started.elapsed()))
    })
}
