//! Reading a log: all of it from disk, all of it from memory, and as much as an open needs.

use std::{fs, time::Duration};

use wal_bench::{
    disk::Fill,
    figures::{Spread, float},
    measure::{Transfer, TransferSummary, interleave_transfers},
    replaying::{OPEN_SEGMENTS, ReplayedLog, WarmLog},
    sequential::{Direction, Sequential},
};
use wal_benches::{
    goals::{Bound, Goal},
    report,
};

use crate::{
    Bench, Outcome,
    pipeline::{PART, against},
};

/// The records of the log on disk.
const RECORD_BYTES: usize = 1024;

/// The log in memory.
const WARM_RECORD_BYTES: usize = 128;
const WARM_RECORDS: u64 = 2_000_000;

pub(crate) fn replay(bench: &Bench) -> Outcome {
    let bytes = bench.arguments.replay_gib << 30;
    let path = bench.directory.join("replayed");
    let log = ReplayedLog::create(&path, RECORD_BYTES, bytes / 1024)?;
    let files = [bench.file("sweep", bytes, Fill::Pattern)?];
    let mut limits = Vec::new();
    for block_bytes in Sequential::READ_BLOCK_BYTES {
        for depth in Sequential::DEPTHS {
            limits.push(Sequential::new(&files, Direction::Read, block_bytes, depth)?);
        }
    }
    let mut contestants: Vec<(String, &dyn Transfer)> = Vec::new();
    for limit in &limits {
        contestants.push((limit.name(), limit));
    }
    contestants.push(("wal, open and replay".to_owned(), &log));

    drop_caches();
    let (duration, rounds) = (bench.arguments.duration / PART, bench.arguments.rounds);
    let summaries = interleave_transfers(&contestants, duration, rounds)?;
    let gib = bench.arguments.replay_gib;
    let title = format!("replay of {gib} GiB of {RECORD_BYTES}-byte records, and direct reads");
    print!("{}", report::transfer_table(&title, &summaries, limits.len()));
    let best = TransferSummary::best(&summaries[..limits.len()]);
    let mut goals = vec![against("replay of 1 KiB, MiB/s", 0.8, &summaries[limits.len()], best)];
    goals.extend(open(bench, &log)?);
    drop(files);
    fs::remove_dir_all(path)?;
    Ok(goals)
}

/// Opening it, beside reading what an open may read.
fn open(bench: &Bench, log: &ReplayedLog) -> Outcome {
    let floor = log.open_floor()?;
    let (mut floors, mut logs) = (Opens::default(), Opens::default());
    for _ in 0..bench.arguments.rounds {
        floors.add(floor.time()?);
        logs.add(log.time_open()?);
    }
    let subject = format!("open / {OPEN_SEGMENTS} segments and a block per slot");
    let goal = |what: &str, log: &[f64], floor: &[f64]| Goal {
        subject: format!("{subject}, {what}"),
        bound: Bound::AtMost(1.0),
        figure: Spread::of_ratio(log, floor),
        detail: format!(
            "{:.1} / {:.1}",
            Spread::of(log.to_vec()).median,
            Spread::of(floor.to_vec()).median
        ),
    };
    Ok(vec![goal("ms", &logs.ms, &floors.ms), goal("MiB", &logs.mib, &floors.mib)])
}

/// What each open took and read.
#[derive(Default)]
struct Opens {
    ms: Vec<f64>,
    mib: Vec<f64>,
}

impl Opens {
    fn add(&mut self, (time, bytes): (Duration, u64)) {
        self.ms.push(time.as_secs_f64() * 1e3);
        self.mib.push(float(bytes >> 10) / 1024.0);
    }
}

pub(crate) fn warm(bench: &Bench) -> Outcome {
    let log = WarmLog::create(WARM_RECORD_BYTES, WARM_RECORDS)?;
    let mut millions = Vec::new();
    for _ in 0..bench.arguments.rounds {
        millions.push(log.records_per_second()? / 1e6);
    }
    Ok(vec![Goal {
        subject: format!("warm replay of {WARM_RECORD_BYTES} bytes, M records/s"),
        bound: Bound::AtLeast(10.0),
        figure: Spread::of(millions),
        detail: format!("{WARM_RECORDS} records in memory"),
    }])
}

/// Direct reads bypass the page cache; this is for what does not.
fn drop_caches() {
    if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
        println!("page cache not dropped: {error}");
    }
}
