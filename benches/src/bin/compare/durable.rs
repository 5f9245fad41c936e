//! Closed loops: writers that each wait for their own record.

use std::fs;

use wal_bench::{
    disk::{BLOCK_BYTES, Fill},
    floors::SingleFloor,
    log::RecycledLog,
    measure::{Durable, Figures, Load, Summary, interleave},
};
use wal_benches::{
    floors::{ParkingGroupFloor, SimplestGroupFloor, StdGroupFloor},
    goals::{Bound, Goal},
    report,
};

use crate::{Bench, FLOOR_FILE_BYTES, Outcome};

/// Bytes of each record.
const RECORD_BYTES: usize = 128;

/// The log keeps one default segment: with those prepared and being released it goes round three or
/// four slots, as the floors go round a file that is as long.
const LOG_SPAN: u64 = 16 << 20;

/// The floor of one writer is the single floor, of several the group floor in its simplest form;
/// its stronger forms stand beside it.
pub(crate) fn closed_loop(bench: &Bench, writers: usize) -> Outcome {
    let file = |name| bench.file(name, FLOOR_FILE_BYTES, Fill::Zeros);
    let single_file = file("single")?;
    let single = SingleFloor::new(&single_file, bench.method, BLOCK_BYTES)?;
    let group = SimplestGroupFloor::new(file("group")?, bench.method)?;
    let unlocked = StdGroupFloor::new(file("group-unlocked")?, bench.method)?;
    let parking = ParkingGroupFloor::new(file("group-parking")?, bench.method)?;
    let path = bench.directory.join("log");
    let log = RecycledLog::create(&path, &wal::Options::new(), LOG_SPAN)?;
    let mut contestants: Vec<(&str, &dyn Durable)> = Vec::new();
    if writers == 1 {
        contestants.push(("single floor", &single));
    }
    contestants.push(("group floor", &group));
    if writers > 1 {
        contestants.push(("group floor, told unlocked", &unlocked));
        contestants.push(("group floor, parking_lot", &parking));
    }
    contestants.push(("wal", &log));

    let load = Load { writers, payload_bytes: RECORD_BYTES, duration: bench.arguments.duration };
    let before = log.wal().stats();
    let summaries = interleave(&contestants, &load, bench.arguments.rounds)?;
    let after = log.wal().stats();
    let title = format!("{writers} writer(s), {RECORD_BYTES} bytes, each record durable");
    print!("{}", report::durable_table(&title, &summaries));
    println!(
        "wal: {} segments recycled, {} created, {} waits for one; {} of {} cohort waits expired",
        after.segments_recycled - before.segments_recycled,
        after.segments_created - before.segments_created,
        after.segment_waits - before.segment_waits,
        after.cohort_expiries - before.cohort_expiries,
        after.cohort_waits - before.cohort_waits,
    );
    drop(log);
    fs::remove_dir_all(path)?;
    let (floor, log) = (&summaries[0], &summaries[summaries.len() - 1]);
    Ok(goals(writers, floor, log))
}

fn goals(writers: usize, floor: &Summary, log: &Summary) -> Vec<Goal> {
    let goal = |what: &str, unit: &str, bound, figure: fn(&Figures) -> f64| Goal {
        subject: format!("{writers} writer(s), {what} / {}", floor.name),
        bound,
        figure: log.ratio(floor, figure),
        detail: format!(
            "{:.0} / {:.0} {unit}",
            log.spread(figure).median,
            floor.spread(figure).median
        ),
    };
    let at_least = match writers {
        1 => return vec![goal("p50", "µs", Bound::AtMost(1.11), |figures| figures.p50)],
        2..16 => 1.6,
        16..64 => 1.7,
        _ => 2.3,
    };
    vec![
        goal("records", "a second", Bound::AtLeast(at_least), |figures| figures.per_second),
        goal("p99", "µs", Bound::AtMost(1.0), |figures| figures.p99),
    ]
}
