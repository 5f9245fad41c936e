//! The log as a contestant that is read.

use std::{
    fs,
    hint::black_box,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use wal::{
    Options,
    io::{Memory, Storage},
};

use crate::{
    disk::{BLOCK_BYTES, DiskFile, zeroed},
    figures::{bytes_u64, float},
    log,
    measure::{Transfer, Transferred},
};

/// What the floor of an open reads at once from the last segments.
const READ_BYTES: usize = 1 << 20;

/// How many segments an open may read, by the requirement.
pub const OPEN_SEGMENTS: usize = 2;

/// A log on disk that is opened and read from its first record to its last in each round.
#[derive(Debug)]
pub struct ReplayedLog {
    path: PathBuf,
    records: u64,
    payload_bytes: u64,
}

impl ReplayedLog {
    /// Writes a log of `records` records of `record_bytes` each, and closes it.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn create(path: &Path, record_bytes: usize, records: u64) -> wal::Result<Self> {
        let (wal, _) = log::open(path, &Options::new())?;
        fill(&wal, record_bytes, records)?;
        wal.close()?;
        let payload_bytes = records * bytes_u64(record_bytes);
        Ok(Self { path: path.to_path_buf(), records, payload_bytes })
    }

    /// Opens the log, unread: how long that took, and how many bytes the log says it read.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn time_open(&self) -> wal::Result<(Duration, u64)> {
        let started = Instant::now();
        let replay = Options::new().open(&self.path)?;
        Ok((started.elapsed(), replay.report().bytes_read))
    }

    /// The least that an open reads: the first block of every slot, and the last two segments.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open_floor(&self) -> io::Result<OpenFloor> {
        Ok(OpenFloor { slots: self.slots()? })
    }

    /// The files of its segments, in the order of the log.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn slots(&self) -> io::Result<Vec<PathBuf>> {
        let mut slots = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("slot-") {
                slots.push(path);
            }
        }
        // None was ever recycled, so the order of names is that of the segments.
        slots.sort_unstable();
        Ok(slots)
    }
}

impl Transfer for ReplayedLog {
    /// All of it, however long that takes.
    fn transfer(&self, _: Duration) -> io::Result<Transferred> {
        let started = Instant::now();
        let records = replay(&Options::new(), wal::io::Directory::new(&self.path))?;
        let elapsed = started.elapsed();
        if records != self.records {
            return Err(io::Error::other(format!("{records} of {} records", self.records)));
        }
        Ok(Transferred { bytes: self.payload_bytes, elapsed })
    }
}

/// Reads what every open of a log must, and does nothing with it.
#[derive(Debug)]
pub struct OpenFloor {
    slots: Vec<PathBuf>,
}

impl OpenFloor {
    /// Opens each file and reads it: how long that took, and how many bytes it was.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn time(&self) -> io::Result<(Duration, u64)> {
        let mut buffer = zeroed(READ_BYTES)?;
        let buffer = buffer.as_mut_slice();
        let started = Instant::now();
        let mut bytes = 0;
        let mut files = Vec::new();
        for slot in &self.slots {
            let file = DiskFile::open(slot)?;
            file.read(&mut buffer[..BLOCK_BYTES], 0)?;
            bytes += bytes_u64(BLOCK_BYTES);
            files.push(file);
        }
        for file in files.iter().rev().take(OPEN_SEGMENTS) {
            for offset in (0..file.bytes()).step_by(READ_BYTES) {
                file.read(buffer, offset)?;
                bytes += bytes_u64(READ_BYTES);
            }
        }
        Ok((started.elapsed(), bytes))
    }
}

/// A log in memory: what replay costs the processor.
#[derive(Debug)]
pub struct WarmLog {
    memory: Memory,
    records: u64,
}

impl WarmLog {
    /// Writes a log of `records` records of `record_bytes` each, and closes it.
    ///
    /// # Errors
    ///
    /// The log's.
    pub fn create(record_bytes: usize, records: u64) -> wal::Result<Self> {
        let memory = Memory::new();
        let mut replay = Options::new().open_in(memory.clone())?;
        replay.skip_rest();
        let (wal, _) = replay.finish()?;
        fill(&wal, record_bytes, records)?;
        wal.close()?;
        Ok(Self { memory, records })
    }

    /// Reads all of it once; records a second, opening not counted.
    ///
    /// # Errors
    ///
    /// The log's, or that records are missing.
    pub fn records_per_second(&self) -> io::Result<f64> {
        let mut replay = Options::new().open_in(self.memory.clone()).map_err(io::Error::other)?;
        let started = Instant::now();
        let records = count(&mut replay)?;
        let elapsed = started.elapsed();
        if records != self.records {
            return Err(io::Error::other(format!("{records} of {} records", self.records)));
        }
        Ok(float(records) / elapsed.as_secs_f64())
    }
}

fn fill<S: Storage>(wal: &wal::Wal<S>, record_bytes: usize, records: u64) -> wal::Result<()> {
    let record = vec![0xA5; record_bytes];
    for _ in 0..records {
        drop(wal.append(&record)?);
    }
    wal.flush()?;
    Ok(())
}

fn replay<S: Storage>(options: &Options, storage: S) -> io::Result<u64> {
    count(&mut options.open_in(storage).map_err(io::Error::other)?)
}

fn count<S: Storage>(replay: &mut wal::Replay<S>) -> io::Result<u64> {
    let mut records = 0;
    while let Some(record) = replay.next().map_err(io::Error::other)? {
        black_box(record.payload());
        records += 1;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fresh_directory;

    #[test]
    fn a_log_is_read_to_its_end_in_each_round() {
        let directory = fresh_directory(None).unwrap();
        let log = ReplayedLog::create(&directory.path().join("log"), 100, 1000).unwrap();
        for _ in 0..2 {
            assert_eq!(log.transfer(Duration::ZERO).unwrap().bytes, 100_000);
        }
        let (_, read) = log.time_open().unwrap();
        let (_, floor) = log.open_floor().unwrap().time().unwrap();
        assert!(read > 0 && floor > 0);
    }

    #[test]
    fn a_log_in_memory_gives_all_its_records() {
        let log = WarmLog::create(128, 1000).unwrap();
        assert!(log.records_per_second().unwrap() > 0.0);
    }
}
