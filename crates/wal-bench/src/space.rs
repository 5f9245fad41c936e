//! `R_space`: payload beside what it takes of the segments: headers, padding, unused ends. For records
//! that are each durable alone, and for full frames.

use std::{fs, io, path::Path};

use wal::{ErrorKind, Options, Wal};

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

/// Blocks that a log may have, and what they are called: the default, which every device takes, and the
/// smallest, where this one does.
const BLOCKS: [(u32, &str); 2] = [(4096, ""), (512, "/512")];

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    bench.say(Measurement::Space, 0, 1);
    let payload = vec![0xA5; bench.settings.payload_bytes];
    let mut ratios = Vec::new();
    for (block_bytes, mark) in BLOCKS {
        let path = bench.log_directory("space")?;
        let found = in_blocks(&path, block_bytes, mark, &payload);
        fs::remove_dir_all(path)?;
        if let Some(found) = found.map_err(io::Error::other)? {
            ratios.extend(found);
        }
    }
    Ok(Outcome { ratios, ..Outcome::default() })
}

/// Both ratios of a log with blocks of `block_bytes`; `None` where the device's are larger.
fn in_blocks(
    path: &Path,
    block_bytes: u32,
    mark: &str,
    payload: &[u8],
) -> wal::Result<Option<[Ratio; 2]>> {
    let (wal, _) = match log::open(path, &Options::new().block_bytes(block_bytes)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(None),
        opened => opened?,
    };
    let payload_bytes = bytes_u64(payload.len());
    let lone = used(&wal, LONE_RECORDS, || wal.append(payload)?.wait().map(drop))?;
    let full_records = FULL_BYTES / payload_bytes;
    let full = used(&wal, full_records, || wal.append(payload).map(drop))?;
    wal.close()?;
    let ratio = |name: &str, used: f64, what: &str| {
        let exact = |value: f64| Spread { median: value, low: value, high: value };
        let payload = float(payload_bytes);
        Ratio {
            name: format!("R_space({name}{mark})"),
            value: exact(payload / used),
            log: exact(used),
            floor: exact(payload),
            unit: "B/record",
            meaning: format!(
                "{payload_bytes} B of payload / bytes of segments, {what}, blocks of {block_bytes} B"
            ),
        }
    };
    let lone = ratio("lone", lone, "each record committed alone");
    Ok(Some([lone, ratio("full", full, "in full frames")]))
}

/// What `count` calls of `append` use of the log, for each.
fn used(wal: &Wal, count: u64, append: impl Fn() -> wal::Result<()>) -> wal::Result<f64> {
    let before = wal.flush()?.get();
    for _ in 0..count {
        append()?;
    }
    wal.flush()?;
    Ok(float(wal.durable_lsn().get() - before) / float(count))
}
