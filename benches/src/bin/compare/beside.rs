//! Somebody else's writes: what the log suffers from a neighbour that fills the page cache, beside what
//! the disk alone suffers.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use wal_bench::{
    disk::{BLOCK_BYTES, Fill},
    figures::Spread,
    floors::SingleFloor,
    log::RecycledLog,
    measure::{Durable, Figures, Load, Summary, closed_loop},
};
use wal_benches::{
    goals::{Bound, Goal},
    report,
};

use crate::{Bench, FLOOR_FILE_BYTES, Outcome};

const RECORD_BYTES: usize = 128;
const LOG_SPAN: u64 = 16 << 20;
/// What the neighbour goes round: more than the kernel lets be dirty for long.
const NEIGHBOUR_BYTES: u64 = 1 << 30;
const NEIGHBOUR_WRITE_BYTES: usize = 1 << 20;
/// How long it is alone before anybody is measured: the first write-back has to have begun.
const HEAD_START: Duration = Duration::from_secs(1);

/// One writer on the log and one on the single floor, without and with a neighbour that writes as `dd` does:
/// through the page cache, as fast as it may.
pub(crate) fn beside(bench: &Bench) -> Outcome {
    let single_file = bench.file("single", FLOOR_FILE_BYTES, Fill::Zeros)?;
    let single = SingleFloor::new(&single_file, bench.method, BLOCK_BYTES)?;
    let path = bench.directory.join("log");
    let log = RecycledLog::create(&path, &wal::Options::new(), LOG_SPAN)?;
    let contestants: [&dyn Durable; 2] = [&single, &log];
    let duration = bench.arguments.duration;
    let load = Load { writers: 1, payload_bytes: RECORD_BYTES, duration };
    let names = ["single floor", "single floor beside writes", "wal", "wal beside writes"];
    let mut found = names.map(|name| Summary { name: name.to_owned(), rounds: Vec::new() });
    for _ in 0..bench.arguments.rounds {
        for (number, contestant) in contestants.iter().enumerate() {
            found[2 * number].rounds.push(closed_loop(*contestant, &load, || ())?.figures);
        }
        let measured = beside_writes(&bench.directory.join("neighbour"), || {
            contestants.map(|contestant| closed_loop(contestant, &load, || ()))
        })?;
        for (number, observed) in measured.into_iter().enumerate() {
            found[2 * number + 1].rounds.push(observed?.figures);
        }
    }
    print!("{}", report::durable_table("1 writer beside a buffered writer", &found));
    drop(log);
    fs::remove_dir_all(path)?;

    let p99 =
        |summary: &Summary| summary.rounds.iter().map(|f: &Figures| f.p99).collect::<Vec<_>>();
    let [floor, floor_beside, log, log_beside] = found.each_ref().map(p99);
    let moved = |beside: &[f64], alone: &[f64]| -> Vec<f64> {
        beside.iter().zip(alone).map(|(beside, alone)| beside / alone).collect()
    };
    let (floor, log) = (moved(&floor_beside, &floor), moved(&log_beside, &log));
    Ok(vec![Goal {
        subject: "p99 beside buffered writes, times that without / the same of the single floor"
            .to_owned(),
        bound: Bound::AtMost(1.0),
        figure: Spread::of_rounds(&log, &floor),
        detail: format!("{:.2} / {:.2}", Spread::of(log).median, Spread::of(floor).median),
    }])
}

/// Runs `work` while another thread overwrites the file `path` through the page cache.
fn beside_writes<R>(path: &Path, work: impl FnOnce() -> R) -> io::Result<R> {
    let file = File::create(path)?;
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let block = vec![0x5A; NEIGHBOUR_WRITE_BYTES];
            let mut offset = 0;
            while !done.load(Ordering::Relaxed) {
                file.write_all_at(&block, offset)?;
                offset = (offset + (1 << 20)) % NEIGHBOUR_BYTES;
            }
            Ok::<_, io::Error>(())
        });
        thread::sleep(HEAD_START);
        let result = work();
        done.store(true, Ordering::Relaxed);
        neighbour.join().expect("the neighbour panicked").map(|()| result)
    });
    drop(file);
    fs::remove_file(path)?;
    // What it left dirty is dropped with the file; what is being written would be in the next round's way.
    rustix::fs::sync();
    result
}
