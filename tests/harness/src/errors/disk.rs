/*!
A disk that fails as it is told to, kept in memory, with a file `ctl` that takes a [`Fault`] and gives a
[`Tally`].

It knows what is the log's own by the bytes: a write that holds a block with a frame's magic number is
a commit, whatever the file system made of its place, a long one of nothing but zeros is a segment that
is written ahead, and a read is of a frame if the disk holds one there. So no extent has to be looked
up, and a file system that moves data is no harder than one that does not.
*/

use super::fault::{Cache, FRAME_MAGIC, Fault, SEGMENT_MAGIC, Step, Tally, Target, Times};
use crate::{
    fuse::{self, Zeros},
    machine::die_with_parent,
};
use fuser::Errno;
use std::{
    io,
    ops::Range,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

pub(super) const CONTROL_NAME: &str = "ctl";

const THREADS: usize = 2;

/// What a flush takes that fails and drops the cache.
const FLUSH_TIME: Duration = Duration::from_millis(2);

/// Frames and headers stand at multiples of it, on the disk as in their file.
const BLOCK_BYTES: usize = 4096;

/// No file system writes so many zeros of its own in one piece, once it is made.
const ZEROS_BYTES_MIN: usize = 32 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to mount
    at: PathBuf,
    /// The size of the disk in bytes
    #[arg(long)]
    bytes: u64,
}

/// Serves until somebody unmounts. Says `ready` when it is mounted.
pub(crate) fn serve(arguments: &Arguments) -> io::Result<ExitCode> {
    die_with_parent()?;
    let bytes = usize::try_from(arguments.bytes).map_err(io::Error::other)?;
    fuse::serve(Disk(Mutex::new(State::new(bytes))), &arguments.at, THREADS)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Disk(Mutex<State>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    /// Which blocks were ever written: those of a thin device that have room of their own.
    written: Vec<bool>,
    /// What the log has written since the last flush.
    unflushed: Vec<Unflushed>,
    write: Option<Times>,
    flush: Option<(Times, Cache)>,
    read: Option<Target>,
    room: Option<u64>,
    zeros: Option<Step>,
    /// Zeros were written ahead that no flush has met.
    has_zeros: bool,
    /// How many more flushes of what is written ahead pass before one drops everything.
    drop: Option<u64>,
    tally: Tally,
}

/// A write that no flush has met yet.
#[derive(Debug)]
struct Unflushed {
    what: What,
    start: usize,
    /// What was there.
    before: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Frame,
    /// Zeros for a slot, or a segment's header.
    Ahead,
}

impl State {
    fn new(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes],
            written: vec![false; bytes / BLOCK_BYTES],
            unflushed: Vec::new(),
            write: None,
            flush: None,
            read: None,
            room: None,
            zeros: None,
            has_zeros: false,
            drop: None,
            tally: Tally::default(),
        }
    }

    fn obey(&mut self, fault: Fault) {
        match fault {
            Fault::Heal => {
                (self.write, self.flush, self.read, self.room) = (None, None, None, None);
                (self.zeros, self.has_zeros, self.drop) = (None, false, None);
            }
            Fault::Write(times) => self.write = Some(times),
            Fault::Flush(times, cache) => self.flush = Some((times, cache)),
            Fault::Read(target) => self.read = Some(target),
            Fault::Room(blocks) => self.room = Some(blocks),
            Fault::Zeros(step) => self.zeros = Some(step),
            Fault::Drop(flushes) => self.drop = Some(flushes),
        }
    }

    fn range(&self, offset: u64, length: usize) -> Result<Range<usize>, Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(length).ok_or(Errno::EINVAL)?;
        if end <= self.bytes.len() { Ok(start..end) } else { Err(Errno::EINVAL) }
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<&[u8], Errno> {
        let start = usize::try_from(offset).map_or(self.bytes.len(), |at| at.min(self.bytes.len()));
        let range = start..start.saturating_add(length).min(self.bytes.len());
        // A target is met in any part of its block.
        let first = range.start / BLOCK_BYTES * BLOCK_BYTES;
        let is_bad = |target: Target| {
            self.bytes[first..range.end].chunks(BLOCK_BYTES).any(|block| target.is_in(block))
        };
        if self.read.is_some_and(is_bad) {
            self.tally.reads += 1;
            return Err(Errno::EIO);
        }
        Ok(&self.bytes[range])
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let range = self.range(offset, data.len())?;
        let is_frame = data.chunks(BLOCK_BYTES).any(|block| block.starts_with(FRAME_MAGIC));
        if is_frame && let Some(times) = self.write {
            if times == Times::Once {
                self.write = None;
            }
            self.tally.writes += 1;
            return Err(Errno::EIO);
        }
        let is_ahead = data.len() >= ZEROS_BYTES_MIN && data.iter().all(|byte| *byte == 0);
        if is_ahead && self.zeros == Some(Step::Write) {
            self.tally.writes += 1;
            return Err(Errno::EIO);
        }
        self.has_zeros |= is_ahead && self.zeros == Some(Step::Sync);
        self.take_room(&range)?;
        let is_header = data.chunks(BLOCK_BYTES).any(|block| block.starts_with(SEGMENT_MAGIC));
        if is_frame || is_ahead || is_header {
            let what = if is_frame { What::Frame } else { What::Ahead };
            let before = self.bytes[range.clone()].to_vec();
            self.unflushed.push(Unflushed { what, start: range.start, before });
        }
        self.bytes[range].copy_from_slice(data);
        Ok(())
    }

    /// Finds room for the blocks of `range` that have none.
    fn take_room(&mut self, range: &Range<usize>) -> Result<(), Errno> {
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let blocks = blocks.start..blocks.end.min(self.written.len());
        let new = self.written[blocks.clone()].iter().filter(|written| !**written).count();
        let new = u64::try_from(new).map_err(|_| Errno::EINVAL)?;
        if let Some(room) = &mut self.room {
            let Some(left) = room.checked_sub(new) else {
                self.tally.refusals += 1;
                return Err(Errno::ENOSPC);
            };
            *room = left;
        }
        self.written[blocks].fill(true);
        Ok(())
    }

    /// Zeros: with room of their own, or, where they are a hole, without.
    fn zero(&mut self, offset: u64, length: u64, zeros: Zeros) -> Result<(), Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        let range = self.range(offset, length)?;
        if zeros == Zeros::Hole {
            let blocks = range.start.div_ceil(BLOCK_BYTES)..range.end / BLOCK_BYTES;
            if blocks.start < blocks.end {
                self.written[blocks].fill(false);
            }
        } else {
            self.take_room(&range)?;
        }
        self.bytes[range].fill(0);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        if self.has_zeros {
            (self.zeros, self.has_zeros) = (None, false);
            self.tally.flushes += 1;
            return Err(Errno::EIO);
        }
        let Some((times, cache)) = self.flush else {
            self.unflushed.clear();
            return Ok(());
        };
        if times == Times::Once {
            self.flush = None;
        }
        self.tally.flushes += 1;
        self.take_back(|what| cache == Cache::Lost && what == What::Frame);
        Err(Errno::EIO)
    }

    /// Whether the flush that begins now fails and drops the cache.
    fn drops_now(&mut self) -> bool {
        let is_ahead = self.unflushed.iter().any(|unflushed| unflushed.what == What::Ahead);
        let Some(left) = self.drop.filter(|_| is_ahead) else { return false };
        self.drop = left.checked_sub(1);
        left == 0
    }

    fn drop_cache(&mut self) {
        self.tally.flushes += 1;
        self.take_back(|_| true);
    }

    /// What is not flushed is forgotten, and what was there before comes back in its place.
    fn take_back(&mut self, is_meant: impl Fn(What) -> bool) {
        // The latest first, so that what was there at first comes back.
        for Unflushed { what, start, before } in
            std::mem::take(&mut self.unflushed).into_iter().rev()
        {
            if is_meant(what) {
                self.bytes[start..start + before.len()].copy_from_slice(&before);
            }
        }
    }
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fuse::Disk for Disk {
    const BESIDE_NAME: &'static str = CONTROL_NAME;

    fn bytes(&self) -> usize {
        self.state().bytes.len()
    }

    fn read(&self, offset: u64, length: usize, answer: impl FnOnce(Result<&[u8], Errno>)) {
        answer(self.state().read(offset, length));
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.state().write(offset, data)
    }

    fn zero(&self, offset: u64, length: u64, zeros: Zeros) -> Result<(), Errno> {
        self.state().zero(offset, length, zeros)
    }

    fn flush(&self) -> Result<(), Errno> {
        if self.state().drops_now() {
            // Others go on writing meanwhile, and flush behind this one.
            thread::sleep(FLUSH_TIME);
            self.state().drop_cache();
            return Err(Errno::EIO);
        }
        self.state().flush()
    }

    fn tell(&self, data: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        self.state().obey(text.parse().map_err(|()| Errno::EINVAL)?);
        Ok(())
    }

    fn say(&self) -> String {
        self.state().tally.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fault::FRAME_LSN, *};

    fn frame(lsn: u64) -> Vec<u8> {
        let mut block = vec![7; BLOCK_BYTES];
        block[..4].copy_from_slice(FRAME_MAGIC);
        block[FRAME_LSN].copy_from_slice(&lsn.to_le_bytes());
        block
    }

    #[test]
    fn a_failed_flush_takes_back_only_frames_since_the_last_good_one() {
        let mut state = State::new(4 * BLOCK_BYTES);
        state.write(0, &frame(1)).unwrap();
        state.flush().unwrap();
        state.write(4096, &frame(2)).unwrap();
        state.write(8192, &[9; BLOCK_BYTES]).unwrap();
        state.obey(Fault::Flush(Times::Once, Cache::Lost));
        assert!(state.flush().is_err());
        assert_eq!(state.bytes[..4], *FRAME_MAGIC);
        assert_eq!(state.bytes[4096..8192], [0; BLOCK_BYTES]);
        assert_eq!(state.bytes[8192..12288], [9; BLOCK_BYTES]);
        assert!(state.flush().is_ok());
    }

    #[test]
    fn a_flush_that_drops_takes_all_of_the_log_along() {
        let mut state = State::new(4 * BLOCK_BYTES);
        let mut header = [5; BLOCK_BYTES];
        header[..8].copy_from_slice(SEGMENT_MAGIC);
        state.obey(Fault::Drop(1));
        state.write(0, &header).unwrap();
        assert!(!state.drops_now() && state.flush().is_ok());
        state.write(4096, &frame(1)).unwrap();
        assert!(!state.drops_now() && state.flush().is_ok(), "nothing was written ahead");
        state.write(4096, &frame(2)).unwrap();
        state.write(8192, &header).unwrap();
        state.write(12288, &[9; BLOCK_BYTES]).unwrap();
        assert!(state.drops_now());
        state.drop_cache();
        assert_eq!(state.bytes[4096..8192], frame(1));
        assert_eq!(state.bytes[8192..12288], [0; BLOCK_BYTES]);
        assert_eq!(state.bytes[12288..], [9; BLOCK_BYTES], "the file system's own");
        assert!(!state.drops_now() && state.flush().is_ok());
        assert_eq!(state.tally.flushes, 1);
    }

    #[test]
    fn only_what_is_aimed_at_fails() {
        let mut state = State::new(4 * BLOCK_BYTES);
        state.write(0, &frame(5)).unwrap();
        state.write(4096, &frame(6)).unwrap();
        state.obey(Fault::Read(Target::Frame(6)));
        assert!(state.read(0, 4096).is_ok());
        assert!(state.read(0, 8192).is_err());
        assert!(state.read(4096 + 512, 512).is_err());
        state.obey(Fault::Write(Times::Once));
        assert!(state.write(8192, &[1; BLOCK_BYTES]).is_ok());
        assert!(state.write(8192, &frame(7)).is_err());
        assert!(state.write(8192, &frame(7)).is_ok());
    }

    #[test]
    fn a_thin_disk_refuses_new_blocks_only() {
        let mut state = State::new(4 * BLOCK_BYTES);
        state.write(0, &[1; BLOCK_BYTES]).unwrap();
        state.obey(Fault::Room(1));
        assert!(state.write(0, &[2; 2 * BLOCK_BYTES]).is_ok());
        assert!(state.write(0, &[3; 2 * BLOCK_BYTES]).is_ok());
        assert!(state.write(8192, &[2; BLOCK_BYTES]).is_err());
        state.zero(0, 4096, Zeros::Hole).unwrap();
        assert!(state.write(0, &[4; BLOCK_BYTES]).is_err());
        assert_eq!(state.tally.refusals, 2);
    }

    #[test]
    fn what_is_written_ahead_fails_by_its_zeros() {
        let mut state = State::new(16 * BLOCK_BYTES);
        let zeros = [0; ZEROS_BYTES_MIN];
        state.obey(Fault::Zeros(Step::Write));
        assert!(state.write(0, &zeros).is_err());
        assert!(state.write(0, &zeros[..BLOCK_BYTES]).is_ok());
        assert!(state.write(0, &[1; ZEROS_BYTES_MIN]).is_ok());
        state.obey(Fault::Zeros(Step::Sync));
        assert!(state.flush().is_ok());
        assert!(state.write(0, &zeros).is_ok());
        assert!(state.flush().is_err());
        assert!(state.flush().is_ok());
    }
}
