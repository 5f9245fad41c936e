//! `R_space`: payload beside what it takes of the segments: headers, padding, unused ends. For records
//! that are each durable alone, and for full frames.

use std::{fs, io};

use wal::{Options, Wal};

use crate::{
    bench::Bench,
    figures::{Spread, bytes_u64, float},
    log,
    outcome::{Outcome, Ratio},
    plan::Measurement,
};

/// Commits of one record each; every one takes at least a block.
const LONE_RECORDS: u64 = 64;

/// What goes through full frames: one default segment, and into the next.
const FULL_BYTES: u64 = 20 << 20;

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    bench.say(Measurement::Space, 0, 1);
    let path = bench.log_directory("space")?;
    let (wal, _) = log::open(&path, &Options::new()).map_err(io::Error::other)?;
    let payload = vec![0xA5; bench.settings.payload_bytes];
    let payload_bytes = bytes_u64(payload.len());
    let lone = used(&wal, LONE_RECORDS, || wal.append(&payload)?.wait().map(drop))?;
    let full_records = FULL_BYTES / payload_bytes;
    let full = used(&wal, full_records, || wal.append(&payload).map(drop))?;
    wal.close().map_err(io::Error::other)?;
    drop(wal);
    fs::remove_dir_all(path)?;
    let ratio = |name: &str, used: f64, what: &str| {
        let exact = |value: f64| Spread { median: value, low: value, high: value };
        let payload = float(payload_bytes);
        Ratio {
            name: name.to_owned(),
            value: exact(payload / used),
            log: exact(used),
            floor: exact(payload),
            unit: "B/record",
            meaning: format!("{payload_bytes} B of payload / bytes of segments, {what}"),
        }
    };
    Ok(Outcome {
        ratios: vec![
            ratio("R_space(lone)", lone, "each record committed alone"),
            ratio("R_space(full)", full, "in full frames"),
        ],
        ..Outcome::default()
    })
}

/// What `count` calls of `append` use of the log, for each.
fn used(wal: &Wal, count: u64, append: impl Fn() -> wal::Result<()>) -> io::Result<f64> {
    let measured = || -> wal::Result<u64> {
        let before = wal.flush()?.get();
        for _ in 0..count {
            append()?;
        }
        wal.flush()?;
        Ok(wal.durable_lsn().get() - before)
    };
    Ok(float(measured().map_err(io::Error::other)?) / float(count))
}
