//! Where a measurement runs: its directory, its files, its share of the time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use wal::{
    Options,
    format::{FRAME_HEADER_BYTES, record_bytes},
};

use crate::{
    counters::Seen,
    disk::{BLOCK_BYTES, DiskFile, Fill, Method},
    log::RecycledLog,
    machine::Machine,
    measure::{Load, Transfer},
    outcome::Outcome,
    plan::{Measurement, Settings, Sizes},
    sequential::Sequential,
    warnings,
};

/// What the probe of the log is kept in, beside the log's files.
const PROBE_NAME: &str = "probe";

/// The log of writers that wait keeps one default segment: with those prepared and being released it
/// goes round three or four slots.
const SPAN_BYTES: u64 = 16 << 20;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is measured; `None` before the first.
    pub measurement: Option<Measurement>,
    /// Steps of it that are done: preparations, then rounds.
    pub done: usize,
    /// All of them.
    pub steps: usize,
}

/// What all measurements of a run share.
pub(crate) struct Bench<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) settings: &'a Settings,
    pub(crate) machine: &'a Machine,
    pub(crate) sizes: Sizes,
    /// The method of the log, and so of its floors.
    pub(crate) method: Method,
    /// The first log's probe: the later ones adopt it, so that all write alike.
    pub(crate) probe: Option<Vec<u8>>,
    pub(crate) progress: &'a dyn Fn(Progress),
}

impl Bench<'_> {
    /// Says that `done` rounds of `measurement` are over.
    pub(crate) fn say(&self, measurement: Measurement, done: usize, steps: usize) {
        (self.progress)(Progress { measurement: Some(measurement), done, steps });
    }

    /// A fresh file. Its name is free again at once: it lives as long as it is open.
    pub(crate) fn file(&self, name: &str, bytes: u64, fill: Fill) -> io::Result<DiskFile> {
        nameless_file(self.directory, name, bytes, fill)
    }

    /// An empty directory for a log, but for the probe's figures.
    pub(crate) fn log_directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir(&path)?;
        if let Some(probe) = &self.probe {
            fs::write(path.join(PROBE_NAME), probe)?;
        }
        Ok(path)
    }

    /// A log for writers that wait.
    pub(crate) fn log(&self, name: &str) -> io::Result<RecycledLog> {
        let path = self.log_directory(name)?;
        RecycledLog::create(&path, &Options::new(), SPAN_BYTES).map_err(io::Error::other)
    }

    /// A closed loop that takes one of `contestants` shares of the time.
    pub(crate) fn load(&self, writers: usize, contestants: u32) -> Load {
        let duration = self.settings.share(contestants);
        Load { writers, payload_bytes: self.settings.payload_bytes, duration }
    }

    /// The frame that holds a record of each of `writers`.
    pub(crate) fn write_bytes(&self, writers: usize) -> usize {
        let records = writers * record_bytes(self.settings.payload_bytes);
        (FRAME_HEADER_BYTES + records).next_multiple_of(BLOCK_BYTES)
    }

    pub(crate) fn see(&self, log: &RecycledLog) -> Seen {
        Seen::now(log.wal(), self.machine.queue.stat.as_deref())
    }

    /// Ends `log` and what it left, and says what is wrong with it: its files' extents, and slots it
    /// should not have made since it had made `created`.
    pub(crate) fn end(
        &self,
        load: &str,
        log: RecycledLog,
        created: u64,
        outcome: &mut Outcome,
    ) -> io::Result<()> {
        let new = log.wal().stats().segments_created - created;
        outcome.warnings.extend(warnings::fresh_slots(load, new));
        let path = log.path().to_path_buf();
        log.wal().close().map_err(io::Error::other)?;
        drop(log);
        outcome.warnings.extend(sparse_slots(load, &path)?);
        fs::remove_dir_all(path)
    }
}

/// The first segment of the log in `path` that is not all written.
fn sparse_slots(load: &str, path: &Path) -> io::Result<Option<warnings::Warning>> {
    let log = Options::new().open_read_only(path);
    let segments = log.and_then(|mut log| log.segments()).map_err(io::Error::other)?;
    // A slot without a segment may be one that was being written when the log was closed.
    for segment in segments.iter().filter(|segment| segment.sequence.is_some()) {
        let file = DiskFile::open(&path.join(&segment.file))?;
        let name = format!("{} of the log of {load}", segment.file);
        let warning = warnings::sparse_extents(&name, file.bytes(), file.written_bytes()?);
        if warning.is_some() {
            return Ok(warning);
        }
    }
    Ok(None)
}

/// A fresh file in `directory` without a name.
pub(crate) fn nameless_file(
    directory: &Path,
    name: &str,
    bytes: u64,
    fill: Fill,
) -> io::Result<DiskFile> {
    let path = directory.join(name);
    let file = DiskFile::prepare(&path, bytes, fill)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// What the log in `directory` measured when it chose how to write.
pub(crate) fn probe_of(directory: &Path) -> Option<Vec<u8>> {
    fs::read(directory.join(PROBE_NAME)).ok()
}

/// Those two of `limits` that move most in a short time each: the rounds decide between them.
pub(crate) fn best_two<'a>(
    limits: Vec<Sequential<'a>>,
    duration: Duration,
) -> io::Result<Vec<Sequential<'a>>> {
    let each = duration / u32::try_from(limits.len()).unwrap_or(u32::MAX).max(1);
    let mut found = Vec::new();
    for limit in limits {
        found.push((limit.transfer(each)?.per_second(), limit));
    }
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    found.truncate(2);
    Ok(found.into_iter().map(|(_, limit)| limit).collect())
}
