//! `R_cpu`: one append that nobody waits for by itself, beside what the processor must do for it: one
//! atomic addition, one copy, one checksum.

use std::{
    io,
    time::{Duration, Instant},
};

use wal::{Options, Wal, format::record_bytes};

use crate::{
    bench::Bench,
    disk::Fill,
    figures::{Spread, bytes_u64, float},
    floors::ProcessorFloor,
    log::{RecycledLog, time_appends},
    outcome::{Outcome, Ratio},
    plan::Measurement,
};

/// What is appended between two flushes: two thirds of a default frame, so that nothing is written
/// meanwhile.
const BATCH_BYTES: usize = 680 << 10;

/// What the copies of the floor go through: the frames that a log fills in turns.
const FLOOR_BYTES: usize = 2 << 20;

const SPAN_BYTES: u64 = 16 << 20;

pub(crate) fn measure(bench: &Bench<'_>) -> io::Result<Outcome> {
    let rounds = bench.settings.rounds;
    bench.say(Measurement::Append, 0, rounds + 1);
    let path = bench.log_directory("append")?;
    let log = RecycledLog::create(&path, &Options::new(), SPAN_BYTES).map_err(io::Error::other)?;
    let created = log.wal().stats().segments_created;
    let record = vec![0xA5; bench.settings.payload_bytes];
    let batch = bytes_u64((BATCH_BYTES / record_bytes(record.len())).max(1));
    let file = bench.file("append-floor", bytes_u64(FLOOR_BYTES), Fill::Zeros)?;
    let mut floor = ProcessorFloor::new(&file, FLOOR_BYTES)?;
    // Half of the time: there is nothing to settle, and most of it goes to flushes off the clock.
    let share = bench.settings.share(4);

    let nanos = |taken: Duration, count: u64| taken.as_secs_f64() * 1e9 / float(count);
    let (mut floors, mut logs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        bench.say(Measurement::Append, round + 1, rounds + 1);
        let (mut taken, mut floor_taken, mut count) = (Duration::ZERO, Duration::ZERO, 0);
        let started = Instant::now();
        while count == 0 || started.elapsed() < share {
            let form = |wal: &Wal| wal.append_untracked(&record);
            floor_taken += floor.time(&record, batch);
            floor.settle()?;
            taken += time_appends(&log, batch, batch, form).map_err(io::Error::other)?;
            count += batch;
        }
        floors.push(nanos(floor_taken, count));
        logs.push(nanos(taken, count));
    }

    let mut outcome = Outcome {
        ratios: vec![Ratio {
            name: "R_cpu".to_owned(),
            value: Spread::of_rounds(&floors, &logs),
            log: Spread::of(logs),
            floor: Spread::of(floors),
            unit: "ns",
            meaning: format!(
                "atomic addition, copy and CRC-32 / append_untracked of {} B",
                record.len()
            ),
        }],
        ..Outcome::default()
    };
    bench.end("append", log, created, &mut outcome)?;
    Ok(outcome)
}
