//! What a single call costs, and what an open log takes.

use std::{error::Error, fs};

use wal::{Options, Wal};
use wal_bench::{
    figures::{Spread, float},
    log::{RecycledLog, time_appends},
};
use wal_benches::goals::{Bound, Goal};

use crate::{Bench, Outcome};

/// The record of the timed calls.
const RECORD: [u8; 128] = [0xA5; 128];

/// Appends between two flushes: two thirds of a default frame, so that nothing is written meanwhile.
const BATCH_RECORDS: u64 = 2048;

const APPENDS: u64 = 200 * BATCH_RECORDS;

const LOG_SPAN: u64 = 64 << 20;

/// How long the logs are whose writers' memory is watched.
const MEMORY_SPANS: [u64; 2] = [64 << 20, 1 << 30];

/// What two measurements of the same process may differ by, whatever is measured: a pool buffer of 1 MiB
/// counts from its first use on, and an allocator keeps what it likes. If a slot's zeros or a segment's
/// records were kept, it would be 960 MiB.
const MEMORY_NOISE_MIB: f64 = 4.0;

pub(crate) fn append(bench: &Bench) -> Outcome {
    let path = bench.directory.join("append");
    let log = RecycledLog::create(&path, &Options::new(), LOG_SPAN)?;
    let form = |wal: &Wal| Ok(wal.append(&RECORD)?.lsn());
    let mut nanos = Vec::new();
    for _ in 0..bench.arguments.rounds {
        let taken = time_appends(&log, APPENDS, BATCH_RECORDS, form)?;
        nanos.push(taken.as_secs_f64() * 1e9 / float(APPENDS));
    }
    drop(log);
    fs::remove_dir_all(path)?;
    Ok(vec![Goal {
        subject: "append of 128 bytes, nobody waiting, ns".to_owned(),
        bound: Bound::AtMost(150.0),
        figure: Spread::of(nanos),
        detail: format!("{APPENDS} calls a round, flushed each {BATCH_RECORDS} off the clock"),
    }])
}

pub(crate) fn memory(bench: &Bench) -> Outcome {
    let path = bench.directory.join("memory");
    // A small pool is all in use, and resident, whatever the disk's pace; of a large one nobody knows how much.
    let options = Options::new().pool_bytes(4 << 20);
    let grown = |span: u64| -> Result<f64, Box<dyn Error>> {
        let before = resident_mib()?;
        let log = RecycledLog::create(&path, &options, span)?;
        log.append_through(2 * MEMORY_SPANS[1])?;
        let grown = resident_mib()? - before;
        drop(log);
        fs::remove_dir_all(&path)?;
        Ok(grown)
    };
    // The first writer of a process leaves the allocator warm: it is not what is compared.
    grown(MEMORY_SPANS[0])?;
    let (mut added, mut smalls, mut larges) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.arguments.rounds {
        let [small, large] = [grown(MEMORY_SPANS[0])?, grown(MEMORY_SPANS[1])?];
        added.push(large - small);
        smalls.push(small);
        larges.push(large);
    }
    let [small, large] = [smalls, larges].map(|grown| Spread::of(grown).median);
    Ok(vec![Goal {
        subject: "resident memory of a writer: what a log 16 times as long adds, MiB".to_owned(),
        bound: Bound::AtMost(MEMORY_NOISE_MIB),
        figure: Spread::of(added),
        detail: format!("{small:.1} MiB at 64 MiB, {large:.1} MiB at 1 GiB; the pool is 4 MiB"),
    }])
}

/// What the process has in memory. From `proc(5)`: the field `VmRSS` of `status`, in KiB.
fn resident_mib() -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|resident| resident.trim().strip_suffix(" kB"));
    let kib: u64 = kib.ok_or("no VmRSS in /proc/self/status")?.parse()?;
    Ok(float(kib) / 1024.0)
}
