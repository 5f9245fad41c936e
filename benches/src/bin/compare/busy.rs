//! Closed loops beside ordinary processes that keep the processors busy: what the log's threads give up
//! by yielding or sleeping, strangers take.

use std::fs;

use wal_bench::{
    log::RecycledLog,
    measure::{Load, Summary, closed_loop},
    processes::BusyProcesses,
};
use wal_benches::report;

use crate::{Bench, Outcome};

/// The numbers of writers.
const WRITERS: [usize; 6] = [1, 4, 8, 16, 64, 256];
const RECORD_BYTES: usize = 128;
const LOG_SPAN: u64 = 16 << 20;

/// The same log with and without them, round by round. It is held to nothing here: what may be expected is
/// a ratio to another commit, and that is what `paired` is for.
pub(crate) fn busy(bench: &Bench) -> Outcome {
    let path = bench.directory.join("log");
    let log = RecycledLog::create(&path, &wal::Options::new(), LOG_SPAN)?;
    for writers in WRITERS {
        let load =
            Load { writers, payload_bytes: RECORD_BYTES, duration: bench.arguments.duration };
        let mut found = ["wal", "wal beside busy processes"]
            .map(|name| Summary { name: name.to_owned(), rounds: Vec::new() });
        for _ in 0..bench.arguments.rounds {
            found[0].rounds.push(closed_loop(&log, &load, || ())?.figures);
            let beside = BusyProcesses::start()?;
            found[1].rounds.push(closed_loop(&log, &load, || ())?.figures);
            drop(beside);
        }
        let title = format!(
            "{writers} writer(s), {RECORD_BYTES} bytes, each record durable, {} busy processes",
            BusyProcesses::enough()
        );
        print!("{}", report::durable_table(&title, &found));
    }
    drop(log);
    fs::remove_dir_all(path)?;
    Ok(Vec::new())
}
