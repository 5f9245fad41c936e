//! A whole run: the place it is in, what is found out first, one measurement after the other.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;
use wal::{
    Options,
    io::{DurableMethod, Profile},
};

use crate::{
    append, bandwidth,
    bench::{Bench, Progress, nameless_file, probe_of},
    busy,
    disk::{Fill, Method, Probed},
    figures::float,
    groups, holds, latency, log,
    machine::{self, Machine, utc},
    measure::process_cpu,
    outcome::Outcome,
    plan::{Measurement, RAW_BYTES, Settings, Sizes},
    processes, recovery, rotation, space,
    warnings::{self, Ticks, Warning},
};

/// The directory of a run: a fresh one on the disk that is measured. Removed with all that is in it
/// when dropped.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
    free_bytes: u64,
}

/// How the directory's name begins. One that is left over was left by a run that was killed.
pub const PLACE_PREFIX: &str = "wal-bench-";

impl Place {
    /// A fresh directory in `parent`, which exists.
    ///
    /// # Errors
    ///
    /// With the name of `parent` in its text: when it is missing, is no directory, cannot be written,
    /// or has too little room ([`io::ErrorKind::StorageFull`]).
    pub fn below(parent: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", parent.display()))
        };
        if !fs::metadata(parent).map_err(named)?.is_dir() {
            return Err(named(io::ErrorKind::NotADirectory.into()));
        }
        let about = rustix::fs::statvfs(parent).map_err(|errno| named(errno.into()))?;
        let free_bytes = about.f_bavail.saturating_mul(about.f_frsize);
        if free_bytes < Sizes::FREE_BYTES_MIN {
            let text = format!(
                "{} MiB are free, a run needs {}",
                free_bytes >> 20,
                Sizes::FREE_BYTES_MIN >> 20
            );
            return Err(named(io::Error::new(io::ErrorKind::StorageFull, text)));
        }
        let directory = tempfile::Builder::new().prefix(PLACE_PREFIX).tempdir_in(parent);
        // tempfile's own error names the directory that it tried to make.
        Ok(Self { directory: directory?, free_bytes })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn remove(self) -> io::Result<()> {
        self.directory.close()
    }
}

/// All that a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// When it began.
    pub date: String,
    /// How long it took.
    pub elapsed: Duration,
    /// What was asked for.
    pub settings: Settings,
    /// Where it ran.
    pub machine: Machine,
    /// The load averages before and after.
    pub loads: [String; 2],
    /// How log and floors made their writes durable.
    pub method: Method,
    /// Whether they went past the page cache.
    pub direct: bool,
    /// What 4 KiB took.
    pub probed: Probed,
    /// What was measured.
    pub outcome: Outcome,
}

/// Measures the log and its floors in `place`.
///
/// # Errors
///
/// The first of a floor or of the log; nothing is measured then.
pub fn run(place: &Place, settings: &Settings, progress: &dyn Fn(Progress)) -> io::Result<Report> {
    let date = utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let started = Instant::now();
    let own_cpu = || process_cpu() + processes::ended_cpu();
    let (ticks, own) = (Ticks::now(), own_cpu());
    let load_before = machine::load();
    progress(Progress { measurement: None, done: 0, steps: 1 });
    let machine = Machine::of(place.path())?;
    let Found { sizes, probed, profile, probe, mut warnings } = find_out(place, settings)?;
    let method = method_of(&profile);
    warnings.extend(warnings_of(&machine, &profile, &probed));

    let bench = Bench {
        directory: place.path(),
        settings,
        machine: &machine,
        sizes,
        method,
        probe,
        progress,
    };
    let mut outcome = Outcome { warnings, ..Outcome::default() };
    for measurement in Measurement::ALL {
        if settings.only.contains(&measurement) {
            outcome.extend(match measurement {
                Measurement::Latency => latency::measure(&bench)?,
                Measurement::Groups => groups::measure(&bench)?,
                Measurement::Busy => busy::measure(&bench)?,
                Measurement::Bandwidth => bandwidth::measure(&bench)?,
                Measurement::Append => append::measure(&bench)?,
                Measurement::Recovery => recovery::measure(&bench)?,
                Measurement::Rotation => rotation::measure(&bench)?,
                Measurement::Space => space::measure(&bench)?,
            });
        }
    }

    let bounded = outcome.ratios.iter().filter(|ratio| has_floor(&ratio.name));
    let beyond =
        bounded.filter_map(|ratio| warnings::beyond_floor(&ratio.name, ratio.value.median));
    let beyond: Vec<_> = beyond.collect();
    outcome.warnings.extend(beyond);
    let elapsed = started.elapsed();
    let used = own_cpu().saturating_sub(own);
    let others = Ticks::now().zip(ticks);
    let others = others.and_then(|(after, before)| after.of_others(&before, used, elapsed));
    outcome.warnings.extend(warnings::busy(others));
    Ok(Report {
        date,
        elapsed,
        settings: settings.clone(),
        machine,
        loads: [load_before, machine::load()],
        method,
        direct: profile.direct,
        probed,
        outcome,
    })
}

/// Whether a ratio above 1 says that something is wrong. Of rotations and holds more is worse, and no floor
/// is passed; and what is beside busy processes has none.
fn has_floor(ratio: &str) -> bool {
    ![rotation::NAME, holds::RECYCLED, holds::NEW].contains(&ratio) && !busy::is_of_busy(ratio)
}

/// What must be known before the first measurement.
struct Found {
    sizes: Sizes,
    probed: Probed,
    profile: Profile,
    probe: Option<Vec<u8>>,
    warnings: Vec<Warning>,
}

fn find_out(place: &Place, settings: &Settings) -> io::Result<Found> {
    let started = Instant::now();
    let file = nameless_file(place.path(), "probed", RAW_BYTES, Fill::Zeros)?;
    let per_second = float(RAW_BYTES) / started.elapsed().as_secs_f64();
    let sizes = Sizes::choose(per_second, settings.duration, place.free_bytes)
        .ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
    let probed = Method::probe(&file)?;
    let warning = warnings::sparse_extents("the raw file", file.bytes(), file.written_bytes()?);
    drop(file);

    let path = place.path().join("probing");
    let (wal, report) = log::open(&path, &Options::new()).map_err(io::Error::other)?;
    wal.close().map_err(io::Error::other)?;
    drop(wal);
    let probe = probe_of(&path);
    fs::remove_dir_all(path)?;
    let warnings = warning.into_iter().collect();
    Ok(Found { sizes, probed, profile: report.profile, probe, warnings })
}

fn method_of(profile: &Profile) -> Method {
    match profile.method {
        DurableMethod::WriteDsync => Method::Dsync,
        _ => Method::Fdatasync,
    }
}

fn warnings_of(machine: &Machine, profile: &Profile, probed: &Probed) -> Vec<Warning> {
    let method = method_of(profile);
    let other = if method == Method::Dsync { Method::Fdatasync } else { Method::Dsync };
    let durable = probed.of(method);
    let found = [
        warnings::in_memory(&machine.file_system),
        durable.and_then(|durable| {
            warnings::flush_free(durable, probed.plain, method, &machine.queue)
        }),
        warnings::buffered(profile.direct),
        warnings::overwrites_allocate(profile.overwrites_allocate, &machine.file_system),
        warnings::method_remembered(profile.remembered, method),
        warnings::method_slower(method, durable, other, probed.of(other)),
    ];
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fresh_directory;

    #[test]
    fn a_place_is_made_only_where_there_is_a_directory() {
        let parent = fresh_directory(None).unwrap();
        let missing = parent.path().join("missing");
        let error = Place::below(&missing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("missing"), "{error}");
        assert!(!missing.exists());
        let file = parent.path().join("file");
        fs::write(&file, b"x").unwrap();
        assert_eq!(Place::below(&file).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_place_is_gone_when_it_is_dropped() {
        let parent = fresh_directory(None).unwrap();
        let place = Place::below(parent.path()).unwrap();
        fs::create_dir(place.path().join("log")).unwrap();
        fs::write(place.path().join("log/slot"), b"x").unwrap();
        assert!(place.path().starts_with(parent.path()));
        drop(place);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
