//! What the disk and the processor can do with no log between: the least that a durable record, and
//! one that nobody waits for, must cost.

use std::{
    hint::black_box,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aligned::Buffer;
use parking_lot::Mutex;

use crate::{
    disk::{DiskFile, Method, zeroed},
    figures::bytes_u64,
    measure::Durable,
};

/// The *single floor*: each record is one durable overwrite at the next place of a file, as long as
/// the log's frame would be.
#[derive(Debug)]
pub struct SingleFloor<'a> {
    file: &'a DiskFile,
    method: Method,
    /// Uncontended with one writer, where it costs some 20 ns of a write's 100 µs.
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Place {
    buffer: Buffer,
    offset: u64,
}

impl<'a> SingleFloor<'a> {
    /// A floor that overwrites `file`, `write_bytes` at a time, front to back and round again.
    ///
    /// # Errors
    ///
    /// When there is no memory for one write.
    ///
    /// # Panics
    ///
    /// When the file is shorter than one write.
    pub fn new(file: &'a DiskFile, method: Method, write_bytes: usize) -> io::Result<Self> {
        assert!(file.bytes() >= bytes_u64(write_bytes), "too short: {}", file.bytes());
        let place = Place { buffer: zeroed(write_bytes)?, offset: 0 };
        Ok(Self { file, method, place: Mutex::new(place) })
    }
}

impl Durable for SingleFloor<'_> {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let mut place = self.place.lock();
        let Place { buffer, offset } = &mut *place;
        let bytes = buffer.as_mut_slice();
        // The rest of a write for several records is as good as theirs.
        bytes[..payload.len()].copy_from_slice(payload);
        let write_bytes = bytes_u64(bytes.len());
        if *offset + write_bytes > self.file.bytes() {
            *offset = 0;
        }
        self.file.write_durable(bytes, *offset, self.method)?;
        *offset += write_bytes;
        Ok(())
    }
}

/// What the processor must do for a record that nobody waits for: one atomic addition that takes
/// its place, one copy, one checksum.
#[derive(Debug)]
pub struct ProcessorFloor<'a> {
    file: &'a DiskFile,
    memory: Buffer,
    next: AtomicU64,
}

impl<'a> ProcessorFloor<'a> {
    /// A floor whose copies go through `memory_bytes`, round and round: as much as a log's frames
    /// are, so that both find the same cache. [`ProcessorFloor::settle`] writes to the start of `file`.
    ///
    /// # Errors
    ///
    /// When there is no such memory.
    pub fn new(file: &'a DiskFile, memory_bytes: usize) -> io::Result<Self> {
        Ok(Self { file, memory: zeroed(memory_bytes)?, next: AtomicU64::new(0) })
    }

    /// How long `count` records take.
    ///
    /// # Panics
    ///
    /// When `record` is longer than the memory.
    pub fn time(&mut self, record: &[u8], count: u64) -> Duration {
        let memory = self.memory.as_mut_slice();
        let places = bytes_u64(memory.len() / record.len().max(1));
        assert!(places > 0, "a record of {} bytes is longer than the memory", record.len());
        let started = Instant::now();
        for _ in 0..count {
            let place = self.next.fetch_add(1, Ordering::AcqRel) % places;
            let offset = usize::try_from(place).unwrap_or(0) * record.len();
            let room = &mut memory[offset..][..record.len()];
            room.copy_from_slice(black_box(record));
            black_box(crc32fast::hash(room));
        }
        started.elapsed()
    }

    /// Has the disk read the memory, as it reads a log's frames, so that both write to lines that a device,
    /// or what emulates one, has read since. On the virtual disk measured it made no difference.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn settle(&mut self) -> io::Result<()> {
        self.file.write(self.memory.as_mut_slice(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{BLOCK_BYTES, Fill, fresh_directory};

    #[test]
    fn the_single_floor_writes_one_block_a_record() {
        let directory = fresh_directory(None).unwrap();
        let file = DiskFile::prepare(&directory.path().join("f"), 1 << 20, Fill::Zeros).unwrap();
        let floor = SingleFloor::new(&file, Method::Dsync, BLOCK_BYTES).unwrap();
        floor.append_durable(b"one").unwrap();
        floor.append_durable(b"two").unwrap();
        let mut content = zeroed(1 << 20).unwrap();
        floor.file.read(content.as_mut_slice(), 0).unwrap();
        assert_eq!(&content.as_mut_slice()[..3], b"one");
        assert_eq!(&content.as_mut_slice()[BLOCK_BYTES..][..3], b"two");
    }

    /// A write that does not fit behind the last one begins at the front.
    #[test]
    fn the_single_floor_goes_round_in_whole_writes() {
        let directory = fresh_directory(None).unwrap();
        let file = DiskFile::prepare(&directory.path().join("f"), 1 << 20, Fill::Zeros).unwrap();
        let floor = SingleFloor::new(&file, Method::Dsync, 96 * BLOCK_BYTES).unwrap();
        for record in [b"1", b"2", b"3"] {
            floor.append_durable(record).unwrap();
        }
        let mut content = zeroed(1 << 20).unwrap();
        floor.file.read(content.as_mut_slice(), 0).unwrap();
        assert_eq!([content.as_mut_slice()[0], content.as_mut_slice()[96 * BLOCK_BYTES]], *b"32");
    }

    #[test]
    fn the_processor_floor_copies_each_record() {
        let directory = fresh_directory(None).unwrap();
        let file = DiskFile::prepare(&directory.path().join("f"), 1 << 20, Fill::Zeros).unwrap();
        let mut floor = ProcessorFloor::new(&file, BLOCK_BYTES).unwrap();
        floor.time(b"abc", 4);
        floor.settle().unwrap();
        assert_eq!(floor.next.load(Ordering::Relaxed), 4);
        let mut content = zeroed(BLOCK_BYTES).unwrap();
        file.read(content.as_mut_slice(), 0).unwrap();
        assert_eq!(content.as_mut_slice()[..15], *b"abcabcabcabc\0\0\0");
    }
}
