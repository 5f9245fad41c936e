//! `R_rec`: opening and replaying a log of 1 KiB records, beside sequential reads of the very same
//! files at the block size and depth that are best here.
//!
//! Where reads are direct no page cache helps either side; where they are not, the files are dropped
//! from it before each. A cache of the host's is beyond reach.

use std::{fs, io, time::Duration};

use crate::{
    bench::{Bench, best_two},
    disk::DiskFile,
    figures::Spread,
    measure::{Transfer, TransferSummary},
    outcome::{Outcome, Ratio},
    plan::Measurement,
    replaying::ReplayedLog,
    sequential::{Direction, Sequential},
};

const RECORD_BYTES: usize = 1024;

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    let rounds = bench.settings.rounds;
    bench.say(Measurement::Recovery, 0, rounds + 1);
    let path = bench.log_directory("recovery")?;
    let records = bench.sizes.replay_bytes / 1024;
    let log = ReplayedLog::create(&path, RECORD_BYTES, records).map_err(io::Error::other)?;
    let slots = log.slots()?;
    let files = slots.iter().map(|slot| DiskFile::open(slot));
    let files = files.collect::<io::Result<Vec<_>>>()?;
    let mut limits = Vec::new();
    for block_bytes in Sequential::READ_BLOCK_BYTES {
        for depth in Sequential::DEPTHS {
            limits.push(Sequential::new(&files, Direction::Read, block_bytes, depth)?);
        }
    }
    let drop_caches = || files.iter().try_for_each(DiskFile::drop_cache);
    drop_caches()?;
    let limits = best_two(limits, bench.settings.duration / 4)?;

    let share = bench.settings.share(3);
    let mut raw: Vec<_> = limits
        .iter()
        .map(|limit| TransferSummary { name: limit.name(), rounds: Vec::new() })
        .collect();
    let mut rates = Vec::new();
    for round in 0..rounds {
        bench.say(Measurement::Recovery, round + 1, rounds + 1);
        let mut of_limits = || {
            for (limit, summary) in limits.iter().zip(&mut raw) {
                drop_caches()?;
                summary.rounds.push(limit.transfer(share)?.per_second());
            }
            io::Result::Ok(())
        };
        // All of it, however long that takes.
        let mut of_log = || {
            drop_caches()?;
            rates.push(log.transfer(Duration::ZERO)?.per_second());
            io::Result::Ok(())
        };
        // Who reads first is no one's privilege.
        if round % 2 == 0 {
            of_limits()?;
            of_log()?;
        } else {
            of_log()?;
            of_limits()?;
        }
    }

    let best = TransferSummary::best(&raw);
    let outcome = Outcome {
        ratios: vec![Ratio {
            name: "R_rec".to_owned(),
            value: Spread::of_rounds(&rates, &best.rounds),
            log: Spread::of(rates),
            floor: best.bandwidth(),
            unit: "MiB/s",
            meaning: format!(
                "open and replay of {} MiB / reads of the same files ({})",
                bench.sizes.replay_bytes >> 20,
                best.name
            ),
        }],
        ..Outcome::default()
    };
    drop(limits);
    drop(files);
    fs::remove_dir_all(path)?;
    Ok(outcome)
}
