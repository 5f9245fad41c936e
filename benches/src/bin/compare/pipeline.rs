//! One thread that appends without waiting, beside the disk's own durable bandwidth.

use std::fs;

use wal::Options;
use wal_bench::{
    disk::Fill,
    figures::Spread,
    log::{FreshLog, RecycledLog},
    measure::{Transfer, TransferSummary, interleave_transfers},
    sequential::{Direction, Sequential},
};
use wal_benches::{
    goals::{Bound, Goal},
    report,
};

use crate::{Bench, Outcome};

/// A bandwidth is measured for this part of a round.
pub(crate) const PART: u32 = 4;

/// What the disk's own writes go round.
const FILE_BYTES: u64 = 512 << 20;

/// What the log keeps; it has slots for twice that.
const LOG_SPAN: u64 = 256 << 20;

/// Frame KiB, depth and pool MiB of the logs beside the one with default options.
const VARIANTS: [(u32, u32, u64); 9] = [
    (256, 8, 16),
    (512, 8, 8),
    (512, 8, 16),
    (1024, 2, 8),
    (1024, 4, 8),
    (1024, 8, 16),
    (1024, 8, 32),
    (2048, 4, 16),
    (2048, 8, 32),
];

pub(crate) fn pipeline(bench: &Bench, variants: bool) -> Outcome {
    let files = [bench.file("sweep", FILE_BYTES, Fill::Zeros)?];
    let mut limits = Vec::new();
    for block_bytes in Sequential::WRITE_BLOCK_BYTES {
        for depth in Sequential::DEPTHS {
            let direction = Direction::Write(bench.method);
            limits.push(Sequential::new(&files, direction, block_bytes, depth)?);
        }
    }
    let directory = bench.directory.join("pipeline");
    fs::create_dir(&directory)?;
    let spare = Options::new().spare_bytes_max(2 * LOG_SPAN);
    let mut options = vec![("wal, default options".to_owned(), spare.clone())];
    for (frame, depth, pool) in VARIANTS.into_iter().take(if variants { usize::MAX } else { 0 }) {
        options.push((
            format!("wal, {frame} KiB x {depth}, pool {pool} MiB"),
            spare.clone().frame_bytes(frame << 10).depth(depth).pool_bytes(pool << 20),
        ));
    }
    let mut logs = Vec::new();
    for (name, options) in &options {
        let log = RecycledLog::create(&directory.join(logs.len().to_string()), options, LOG_SPAN)?;
        logs.push((name.clone(), log));
    }
    let fresh = FreshLog::new(&directory, &Options::new());

    let mut contestants: Vec<(String, &dyn Transfer)> = Vec::new();
    for limit in &limits {
        contestants.push((limit.name(), limit));
    }
    for (name, log) in &logs {
        contestants.push((name.clone(), log));
    }
    contestants.push(("wal, fresh slots".to_owned(), &fresh));
    let duration = bench.arguments.duration / PART;
    let created = || logs.iter().map(|(_, log)| log.wal().stats().segments_created).sum::<u64>();
    let before = created();
    let summaries = interleave_transfers(&contestants, duration, bench.arguments.rounds)?;
    if created() != before {
        return Err("a slot was created where all should be recycled".into());
    }
    let title = "one writer of 1 KiB records, nobody waiting, and sequential durable writes";
    print!("{}", report::transfer_table(title, &summaries, limits.len()));
    let stats = logs[0].1.wal().stats();
    println!(
        "wal, default options: {} KiB a frame, {} waits for memory, {} for a segment, commits p50 \
         {:?} p99 {:?}",
        stats.frame_bytes / stats.frames.max(1) / 1024,
        stats.memory_waits,
        stats.segment_waits,
        stats.commit_histogram.percentile(50),
        stats.commit_histogram.percentile(99),
    );
    drop(logs);
    fs::remove_dir_all(directory)?;
    let best = TransferSummary::best(&summaries[..limits.len()]);
    Ok(vec![against("pipelined 1 KiB, MiB/s", 0.85, &summaries[limits.len()], best)])
}

/// The goal that `log` reaches a part of what the disk does at its best.
pub(crate) fn against(
    subject: &str,
    at_least: f64,
    log: &TransferSummary,
    best: &TransferSummary,
) -> Goal {
    Goal {
        subject: format!("{subject} / disk"),
        bound: Bound::AtLeast(at_least),
        figure: Spread::of_ratio(&log.rounds, &best.rounds),
        detail: format!(
            "{:.0} MiB/s / {:.0} ({})",
            log.bandwidth().median,
            best.bandwidth().median,
            best.name
        ),
    }
}
