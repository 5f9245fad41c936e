//! `R_bw`: one thread that appends 1 KiB records without waiting, on recycled slots, beside sequential
//! durable writes over written extents at the block size and depth that are best here.

use std::{io, time::Instant};

use wal::Options;

use crate::{
    bench::{Bench, best_two},
    counters::Totals,
    disk::Fill,
    figures::Spread,
    log::RecycledLog,
    measure::{Transfer, TransferSummary},
    outcome::{Outcome, Ratio},
    plan::Measurement,
    sequential::{Direction, Sequential},
};

/// Where the best is looked for. Smaller blocks are never it.
const BLOCK_BYTES: [usize; 4] = [256 << 10, 512 << 10, 1 << 20, 4 << 20];

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    let rounds = bench.settings.rounds;
    bench.say(Measurement::Bandwidth, 0, rounds + 1);
    let files = [bench.file("sweep", bench.sizes.sweep_bytes, Fill::Zeros)?];
    let direction = Direction::Write(bench.method);
    let mut limits = Vec::new();
    for block_bytes in BLOCK_BYTES {
        for depth in Sequential::DEPTHS {
            limits.push(Sequential::new(&files, direction, block_bytes, depth)?);
        }
    }
    let limits = best_two(limits, bench.settings.duration / 4)?;
    let span = bench.sizes.span_bytes;
    let options = Options::new().spare_bytes_max(2 * span);
    let path = bench.log_directory("bandwidth")?;
    let log = RecycledLog::create(&path, &options, span).map_err(io::Error::other)?;
    let created = log.wal().stats().segments_created;

    let share = bench.settings.share(3);
    let mut raw: Vec<_> = limits
        .iter()
        .map(|limit| TransferSummary { name: limit.name(), rounds: Vec::new() })
        .collect();
    let mut rates = Vec::new();
    let mut totals = Totals::new();
    for round in 0..rounds {
        bench.say(Measurement::Bandwidth, round + 1, rounds + 1);
        for (limit, summary) in limits.iter().zip(&mut raw) {
            summary.rounds.push(limit.transfer(share)?.per_second());
        }
        let (before, started) = (bench.see(&log), Instant::now());
        rates.push(log.transfer(share)?.per_second());
        totals.add(started.elapsed(), &before, &bench.see(&log));
    }

    let best = TransferSummary::best(&raw);
    let mut outcome = Outcome {
        ratios: vec![Ratio {
            name: "R_bw".to_owned(),
            value: Spread::of_rounds(&rates, &best.rounds),
            log: Spread::of(rates),
            floor: best.bandwidth(),
            unit: "MiB/s",
            meaning: format!("1 KiB records, nobody waiting / durable writes ({})", best.name),
        }],
        per_commit: vec![totals.per_commit("pipelined", bench.method)],
        ..Outcome::default()
    };
    bench.end("bandwidth", log, created, &mut outcome)?;
    Ok(outcome)
}
