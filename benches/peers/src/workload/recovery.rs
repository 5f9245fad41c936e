/*!
A long log that was closed: opened and read to its end, and only opened.

All logs at once would not fit on many disks. So each of the others is written, measured beside this log,
and removed; this log is written once. Before each reading the page cache is dropped, where that is
allowed.
*/

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use wal_bench::figures::{bytes_u64, float};

use super::stream::{Until, push, window_of};
use crate::{
    arguments::{Arguments, Workload},
    contestants::{Entry, Found, Keep},
    place::{Lane, Place},
    round::{Cell, Round, Sample, Standing},
};

/// The length of each record.
const RECORD_BYTES: usize = 1024;

/// Writers of a log where every append waits.
const WRITERS: u64 = 64;

pub(crate) fn recovery(
    arguments: &Arguments,
    entries: &[Entry],
    place: &Place,
    add: &mut impl FnMut(Cell),
) -> io::Result<()> {
    let records = arguments.recovery_mib << 10;
    let Some((this, others)) = entries.split_first() else { return Ok(()) };
    let this = Written { entry: this, path: write(place, this, records)? };
    for other in others.iter().filter(|other| !other.is_variant) {
        let path = match write(place, other, records) {
            Ok(path) => path,
            Err(error) => {
                let mut standing = Standing::new(other);
                standing.unranked = Some(format!("failed to write: {error}"));
                let standings = vec![Standing::new(this.entry), standing];
                add(cell(arguments, other, Reading::All, standings));
                continue;
            }
        };
        let other = Written { entry: other, path };
        let standings =
            rounds(arguments, [&this, &other], |written| written.recover(place, records));
        add(cell(arguments, other.entry, Reading::All, standings));
        if !other.entry.opens_by_reading {
            let standings = rounds(arguments, [&this, &other], |written| written.open(place));
            add(cell(arguments, other.entry, Reading::None, standings));
        }
        fs::remove_dir_all(&other.path)?;
    }
    fs::remove_dir_all(&this.path)
}

/// What is done with a log that was closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It is opened, and every record is read.
    All,
    /// It is opened.
    None,
}

/// This log is held to something only beside one that checks what it reads. An opening alone has no
/// measure in common: a store that trusts its pages reads a few, a log looks for its tail.
fn cell(arguments: &Arguments, other: &Entry, reading: Reading, standings: Vec<Standing>) -> Cell {
    let title = format!(
        "{} MiB of {RECORD_BYTES}-byte records opened{}, beside {}{}",
        arguments.recovery_mib,
        if reading == Reading::All { " and read" } else { "" },
        other.name,
        if other.checks { "" } else { ", which checks nothing" },
    );
    let is_bound = reading == Reading::All && other.checks;
    let workload = Workload::Recovery;
    Cell { workload, writers: 1, payload_bytes: RECORD_BYTES, title, is_bound, standings }
}

/// Both in turn, for all rounds.
fn rounds(
    arguments: &Arguments,
    both: [&Written<'_>; 2],
    run: impl Fn(&Written<'_>) -> io::Result<Round>,
) -> Vec<Standing> {
    let mut standings = both.map(|written| Standing::new(written.entry));
    for _ in 0..arguments.rounds {
        for (written, standing) in both.iter().zip(&mut standings) {
            match run(written) {
                Ok(round) => standing.rounds.push(round),
                Err(error) => standing.unranked = Some(format!("failed: {error}")),
            }
        }
    }
    standings.into()
}

/// A log that was closed.
struct Written<'a> {
    entry: &'a Entry,
    path: PathBuf,
}

impl Written<'_> {
    fn recover(&self, place: &Place, records: u64) -> io::Result<Round> {
        drop_caches()?;
        let before = Sample::now(place.disk_stat.as_deref());
        let started = Instant::now();
        let found = (self.entry.recover)(&self.path)?;
        let elapsed = started.elapsed();
        let after = Sample::now(place.disk_stat.as_deref());
        let written = Found { records, bytes: records * bytes_u64(RECORD_BYTES) };
        if found != written {
            let Found { records, bytes } = found;
            return Err(io::Error::other(format!(
                "{records} records of {bytes} bytes came back, not {} of {}",
                written.records, written.bytes
            )));
        }
        let per_second = float(records) / elapsed.as_secs_f64();
        let mut round = Round { per_second, ..Round::default() };
        after.count(&before, float(records), float(bytes_u64(RECORD_BYTES)), &mut round);
        (round.written, round.disk, round.flushes) = (None, None, None);
        Ok(round)
    }

    /// As a program does that goes on to append. What it does at its end is not counted.
    fn open(&self, place: &Place) -> io::Result<Round> {
        drop_caches()?;
        let before = Sample::now(place.disk_stat.as_deref());
        let started = Instant::now();
        let log = (self.entry.open)(&self.path, Keep::All)?;
        let elapsed = started.elapsed();
        let after = Sample::now(place.disk_stat.as_deref());
        log.close()?;
        let mut counted = Round::default();
        after.count(&before, 1.0, 1.0, &mut counted);
        let per_second = 1.0 / elapsed.as_secs_f64();
        let p50 = Some(elapsed.as_secs_f64() * 1e6);
        Ok(Round { per_second, p50, cpu: counted.cpu, ..Round::default() })
    }
}

/// Writes a log of `records` records, as fast as it goes, and closes it.
fn write(place: &Place, entry: &Entry, records: u64) -> io::Result<PathBuf> {
    let lane = Lane::open(place, entry, Keep::All)?;
    let contestant = lane.contestant();
    let payload = vec![0xA5; RECORD_BYTES];
    let is_written = match contestant.stream()? {
        Some(mut stream) => {
            push(&mut *stream, &payload, window_of(RECORD_BYTES), Until::Records(records))?;
            true
        }
        None => false,
    };
    if !is_written {
        thread::scope(|scope| {
            let write = |writer| {
                let share = records / WRITERS + u64::from(writer < records % WRITERS);
                (0..share).try_for_each(|_| contestant.append_durable(&payload))
            };
            let writers: Vec<_> =
                (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            writers.into_iter().try_for_each(|writer| {
                writer.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")))
            })
        })?;
    }
    lane.close()
}

/// What is dirty goes to the disk first, or it would stay.
fn drop_caches() -> io::Result<()> {
    rustix::fs::sync();
    if let Err(error) = fs::write(Path::new("/proc/sys/vm/drop_caches"), "3") {
        println!("page cache not dropped: {error}");
    }
    Ok(())
}
