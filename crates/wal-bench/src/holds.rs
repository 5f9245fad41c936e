//! `R_hold`: the longest that a frame is held which is written and flushed, while the segment after the next is
//! made in calls that flush the device. The log counts it ([`Stats::longest_hold`](wal::Stats::longest_hold)).
//!
//! One writer that waits goes over the end of a segment, and on until the next one is prepared, a few times; the
//! longest of its holds is a sample. `R_rot` cannot see it: it is a p99.9 with one rotation a second. What the
//! device takes for a commit beside the zeros of a new slot is no hold, and stands in the latencies of `R_rot`.

use std::{
    fs::{self, File},
    io,
    time::{Duration, Instant},
};

use wal::Options;

use crate::{
    bench::Bench,
    disk::{BLOCK_BYTES, DiskFile, Fill, zeroed},
    figures::{Spread, bytes_u64, median, micros},
    log::RecycledLog,
    measure::Durable,
    outcome::{Outcome, Ratio},
};

/// What the ratios are called. In both, less is better.
pub(crate) const RECYCLED: &str = "R_hold(recycled)";
pub(crate) const NEW: &str = "R_hold(new)";

/// Rotations of which the longest hold is a sample.
const ROTATIONS: u32 = 4;

/// So many commits before the end of a segment what is appended is waited for.
const COMMITS_LEFT: u64 = 40;

/// How long a segment may take to be prepared. A log that does not get there in that time is not one whose
/// holds could be told.
const PREPARED_WITHIN: Duration = Duration::from_secs(60);

/// A segment that is filled in moments: it is filled off the clock but for its end.
const SEGMENT_BYTES: u64 = 4 << 20;

pub(crate) fn measure(bench: &Bench<'_>, outcome: &mut Outcome) -> io::Result<()> {
    let rounds = bench.settings.rounds;
    let file = bench.file("hold", 1 << 20, Fill::Zeros)?;
    let options = Options::new().segment_bytes(SEGMENT_BYTES).spare_bytes_max(8 * SEGMENT_BYTES);
    let (mut holds, mut calls) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        let taken = Calls::time(bench, &file)?;
        for (index, name) in ["hold-recycled", "hold-new"].into_iter().enumerate() {
            let path = bench.log_directory(name)?;
            let log = match index {
                0 => RecycledLog::create(&path, &options, SEGMENT_BYTES),
                // It keeps all that it has.
                _ => RecycledLog::create_cold(&path, &options, u64::MAX),
            };
            let log = log.map_err(io::Error::other)?;
            for _ in 0..ROTATIONS {
                rotate(&log, bench.settings.payload_bytes, bench.write_bytes(1))?;
            }
            holds[index].push(micros(log.wal().stats().longest_hold));
            calls[index].push(micros(if index == 0 { taken.write } else { taken.all() }));
            log.wal().close().map_err(io::Error::other)?;
            drop(log);
            fs::remove_dir_all(path)?;
        }
    }
    let names = [
        (RECYCLED, "one durable write"),
        (NEW, "an fdatasync, a directory sync and a durable write"),
    ];
    for (((name, floor), holds), calls) in names.into_iter().zip(holds).zip(calls) {
        let value = Spread::of_rounds(&holds, &calls);
        outcome.ratios.push(Ratio {
            name: name.to_owned(),
            value,
            unit: "µs",
            meaning: format!(
                "longest hold of an acknowledgement in {ROTATIONS} rotations / {floor}; \
                 less is better",
            ),
            log: Spread::of(holds),
            floor: Spread::of(calls),
        });
    }
    Ok(())
}

/// What the calls of the preparer take by themselves: medians.
struct Calls {
    write: Duration,
    sync: Duration,
    directory: Duration,
}

impl Calls {
    fn all(&self) -> Duration {
        self.write + self.sync + self.directory
    }

    /// A durable write of a block; a sync of a file that was just made and sized; one of its directory.
    fn time(bench: &Bench<'_>, file: &DiskFile) -> io::Result<Self> {
        const TIMES: u64 = 9;
        let mut block = zeroed(BLOCK_BYTES)?;
        let path = bench.directory.join("hold-sized");
        let directory = File::open(bench.directory)?;
        let mut taken = [const { Vec::new() }; 3];
        for turn in 0..TIMES {
            let started = Instant::now();
            file.write_durable(block.as_mut_slice(), turn * bytes_u64(BLOCK_BYTES), bench.method)?;
            taken[0].push(started.elapsed());
            let sized = File::create_new(&path)?;
            sized.set_len(SEGMENT_BYTES)?;
            let started = Instant::now();
            sized.sync_data()?;
            taken[1].push(started.elapsed());
            let started = Instant::now();
            directory.sync_all()?;
            taken[2].push(started.elapsed());
            fs::remove_file(&path)?;
        }
        let [write, sync, directory] = taken.map(|mut taken| median(&mut taken));
        Ok(Self { write, sync, directory })
    }
}

/// Over the end of a segment, and on until the next one is prepared, each record waited for.
fn rotate(log: &RecycledLog, payload_bytes: usize, frame_bytes: usize) -> io::Result<()> {
    let payload = vec![0xA5; payload_bytes];
    let segment_bytes = log.report().segment_bytes;
    let segment = || log.wal().durable_lsn().get() / segment_bytes;
    let prepared = || {
        let stats = log.wal().stats();
        stats.segments_created + stats.segments_recycled
    };
    let left = segment_bytes - log.wal().appended_lsn().get() % segment_bytes;
    log.append_through(left.saturating_sub(COMMITS_LEFT * bytes_u64(frame_bytes)))
        .map_err(io::Error::other)?;
    let (first, had) = (segment(), prepared());
    let started = Instant::now();
    // The commit that ends after the last call of the preparer is the last that it may have held up.
    loop {
        let is_over = segment() > first && prepared() > had;
        log.append_durable(&payload)?;
        if is_over {
            return Ok(());
        }
        if started.elapsed() > PREPARED_WITHIN {
            return Err(io::Error::other("no segment was prepared"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fresh_directory;

    /// Each sample goes over the end of one segment, and ends when the next is there: of slots that are
    /// used again, and of new ones.
    #[test]
    fn a_sample_is_a_rotation() {
        let directory = fresh_directory(None).unwrap();
        let options = Options::new().segment_bytes(1 << 20).spare_bytes_max(8 << 20);
        let recycled = RecycledLog::create(&directory.path().join("recycled"), &options, 1 << 20);
        let new = RecycledLog::create_cold(&directory.path().join("new"), &options, u64::MAX);
        for (log, is_new) in [(recycled.unwrap(), false), (new.unwrap(), true)] {
            rotate(&log, 128, BLOCK_BYTES).unwrap();
            let segment = || log.wal().durable_lsn().get() >> 20;
            let (before, at) = (log.wal().stats(), segment());
            rotate(&log, 128, BLOCK_BYTES).unwrap();
            rotate(&log, 128, BLOCK_BYTES).unwrap();
            let after = log.wal().stats();
            assert_eq!(segment(), at + 2);
            let created = after.segments_created - before.segments_created;
            let recycled = after.segments_recycled - before.segments_recycled;
            assert_eq!([created, recycled], if is_new { [2, 0] } else { [0, 2] });
        }
    }
}
