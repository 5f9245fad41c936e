/*!
A disk that fails as it is told to: a FUSE server with a file `disk`, kept in memory, for a loop
device, and a file `ctl` that takes a [`Fault`] and gives a [`Tally`].

It knows what is the log's own by the bytes: a write that holds a block with a frame's magic number is
a commit, whatever the file system made of its place, and a read is of a frame if the disk holds one
there. So no extent has to be looked up, and a file system that moves data is no harder than one that
does not.
*/

use crate::machine::die_with_parent;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::FallocateFlags;
use std::{
    ffi::OsStr,
    fmt,
    io::{self, Write},
    ops::Range,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(super) const DISK_NAME: &str = "disk";
pub(super) const CONTROL_NAME: &str = "ctl";

const DISK: INodeNo = INodeNo(2);
const CONTROL: INodeNo = INodeNo(3);

/// How long the kernel may believe what it was told about a name: nothing ever changes.
const BELIEVE: Duration = Duration::from_secs(3600);

const THREADS: usize = 2;

/// Frames and headers stand at multiples of it, on the disk as in their file.
const BLOCK_BYTES: usize = 4096;

/// What the format gives a frame, a segment header and an identity to begin with.
const FRAME_MAGIC: &[u8] = b"walF";
const SEGMENT_MAGIC: &[u8] = b"walSegmt";
const IDENTITY_MAGIC: &[u8] = b"walIdent";

/// Where a frame has its Lsn, and a segment header its sequence.
const FRAME_LSN: Range<usize> = 8..16;
const SEGMENT_SEQUENCE: Range<usize> = 32..40;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to mount
    at: PathBuf,
    /// The size of the disk in bytes
    #[arg(long)]
    bytes: u64,
}

/// What the disk does wrong from now on, besides what it does wrong already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing any more.
    Heal,
    /// Writes of frames answer EIO, and leave what was there.
    Write(Times),
    /// Flushes answer EIO, and what they become of what was written since the last one.
    Flush(Times, Cache),
    /// Reads of something of the log answer EIO.
    Read(Target),
    /// Only so many blocks that were never written may be written; more is ENOSPC.
    Room(u64),
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    Once,
    Always,
}

/// What becomes of the frames that were written since the last flush, when one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    /// They are on the disk all the same.
    Kept,
    /// They are gone, though the disk had taken them.
    Lost,
}

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The frame at this Lsn.
    Frame(u64),
    /// The header of this segment.
    Segment(u64),
    /// The identity.
    Identity,
}

/// How often the disk said no, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) writes: u64,
    pub(super) flushes: u64,
    pub(super) reads: u64,
    pub(super) refusals: u64,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Once => "once",
            Self::Always => "always",
        })
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Lost => "lost",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(lsn) => write!(f, "frame {lsn}"),
            Self::Segment(sequence) => write!(f, "segment {sequence}"),
            Self::Identity => f.write_str("identity"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heal => f.write_str("heal"),
            Self::Write(times) => write!(f, "write {times}"),
            Self::Flush(times, cache) => write!(f, "flush {times} {cache}"),
            Self::Read(target) => write!(f, "read {target}"),
            Self::Room(blocks) => write!(f, "room {blocks}"),
        }
    }
}

impl Times {
    fn parse(word: &str) -> Option<Self> {
        [Self::Once, Self::Always].into_iter().find(|times| times.to_string() == word)
    }
}

impl FromStr for Fault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<_> = text.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().map_err(drop);
        Ok(match words[..] {
            ["heal"] => Self::Heal,
            ["write", times] => Self::Write(Times::parse(times).ok_or(())?),
            ["flush", times, cache] => {
                let cache = [Cache::Kept, Cache::Lost]
                    .into_iter()
                    .find(|known| known.to_string() == cache)
                    .ok_or(())?;
                Self::Flush(Times::parse(times).ok_or(())?, cache)
            }
            ["read", "frame", lsn] => Self::Read(Target::Frame(number(lsn)?)),
            ["read", "segment", sequence] => Self::Read(Target::Segment(number(sequence)?)),
            ["read", "identity"] => Self::Read(Target::Identity),
            ["room", blocks] => Self::Room(number(blocks)?),
            _ => return Err(()),
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writes, flushes, reads, refusals } = self;
        writeln!(f, "{writes} {flushes} {reads} {refusals}")
    }
}

impl FromStr for Tally {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[writes, flushes, reads, refusals]) => {
                Ok(Self { writes, flushes, reads, refusals })
            }
            _ => Err(io::Error::other(format!("not the tally of a disk: {text:?}"))),
        }
    }
}

impl Target {
    fn is_in(self, block: &[u8]) -> bool {
        let number = |range: Range<usize>| {
            block.get(range).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_le_bytes(*bytes))
        };
        match self {
            Self::Frame(lsn) => block.starts_with(FRAME_MAGIC) && number(FRAME_LSN) == Some(lsn),
            Self::Segment(sequence) => {
                block.starts_with(SEGMENT_MAGIC) && number(SEGMENT_SEQUENCE) == Some(sequence)
            }
            Self::Identity => block.starts_with(IDENTITY_MAGIC),
        }
    }
}

/// Serves until somebody unmounts. Says `ready` when it is mounted.
pub(crate) fn serve(arguments: &Arguments) -> io::Result<ExitCode> {
    die_with_parent()?;
    let bytes = usize::try_from(arguments.bytes).map_err(io::Error::other)?;
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("wal-harness".to_owned())];
    config.n_threads = Some(THREADS);
    fuser::mount(Disk(Mutex::new(State::new(bytes))), &arguments.at, &config)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Disk(Mutex<State>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    /// Which blocks were ever written: those of a thin device that have room of their own.
    written: Vec<bool>,
    /// Where frames were written since the last flush, and what was there.
    unflushed: Vec<(usize, Vec<u8>)>,
    write: Option<Times>,
    flush: Option<(Times, Cache)>,
    read: Option<Target>,
    room: Option<u64>,
    tally: Tally,
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
            tally: Tally::default(),
        }
    }

    fn obey(&mut self, fault: Fault) {
        match fault {
            Fault::Heal => {
                (self.write, self.flush, self.read, self.room) = (None, None, None, None);
            }
            Fault::Write(times) => self.write = Some(times),
            Fault::Flush(times, cache) => self.flush = Some((times, cache)),
            Fault::Read(target) => self.read = Some(target),
            Fault::Room(blocks) => self.room = Some(blocks),
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
        self.take_room(&range)?;
        if is_frame {
            self.unflushed.push((range.start, self.bytes[range.clone()].to_vec()));
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
    fn zero(&mut self, offset: u64, length: u64, is_hole: bool) -> Result<(), Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        let range = self.range(offset, length)?;
        if is_hole {
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
        let Some((times, cache)) = self.flush else {
            self.unflushed.clear();
            return Ok(());
        };
        if times == Times::Once {
            self.flush = None;
        }
        self.tally.flushes += 1;
        let unflushed = std::mem::take(&mut self.unflushed);
        if cache == Cache::Lost {
            // The latest first, so that what was there at first comes back.
            for (start, before) in unflushed.into_iter().rev() {
                self.bytes[start..start + before.len()].copy_from_slice(&before);
            }
        }
        Err(Errno::EIO)
    }
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0),
            DISK => (FileType::RegularFile, self.state().bytes.len()),
            CONTROL => (FileType::RegularFile, 0),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size: u64::try_from(size).ok()?,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        })
    }

    fn control(&self, data: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        self.state().obey(text.parse().map_err(|()| Errno::EINVAL)?);
        Ok(())
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it the loop device waits for each write before it sends the next.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| {
            io::Error::new(io::ErrorKind::Unsupported, "the kernel has no asynchronous direct I/O")
        })?;
        let _ = config.set_max_background(64);
        // It is mounted by now: whoever opens a file waits for the end of this call.
        let mut out = io::stdout();
        writeln!(out, "ready")?;
        out.flush()
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode = match name.to_str() {
            Some(DISK_NAME) => DISK,
            Some(CONTROL_NAME) => CONTROL,
            _ => return reply.error(Errno::ENOENT),
        };
        match self.attributes(inode) {
            Some(attributes) => reply.entry(&BELIEVE, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&BELIEVE, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&BELIEVE, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        if inode == CONTROL {
            let text = state.tally.to_string();
            return reply.data(if offset == 0 { text.as_bytes() } else { &[] });
        }
        match state.read(offset, usize::try_from(size).unwrap_or(usize::MAX)) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Ok(length) = u32::try_from(data.len()) else { return reply.error(Errno::EINVAL) };
        let done = match inode {
            CONTROL => self.control(data),
            _ => self.state().write(offset, data),
        };
        match done {
            Ok(()) => reply.written(length),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let done = if inode == DISK { self.state().flush() } else { Ok(()) };
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_truncate(mode);
        let is_hole = mode.contains(FallocateFlags::FALLOC_FL_PUNCH_HOLE);
        if inode != DISK || !(is_hole || mode.contains(FallocateFlags::FALLOC_FL_ZERO_RANGE)) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.state().zero(offset, length, is_hole) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(lsn: u64) -> Vec<u8> {
        let mut block = vec![7; BLOCK_BYTES];
        block[..4].copy_from_slice(FRAME_MAGIC);
        block[FRAME_LSN].copy_from_slice(&lsn.to_le_bytes());
        block
    }

    #[test]
    fn a_fault_is_understood_as_it_is_written() {
        let faults = [
            Fault::Heal,
            Fault::Write(Times::Always),
            Fault::Flush(Times::Once, Cache::Lost),
            Fault::Read(Target::Frame(4096)),
            Fault::Read(Target::Segment(3)),
            Fault::Read(Target::Identity),
            Fault::Room(9),
        ];
        for fault in faults {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert_eq!("flush".parse::<Fault>(), Err(()));
        let tally = Tally { writes: 1, flushes: 2, reads: 3, refusals: 4 };
        assert_eq!(tally.to_string().parse::<Tally>().unwrap(), tally);
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
        state.zero(0, 4096, true).unwrap();
        assert!(state.write(0, &[4; BLOCK_BYTES]).is_err());
        assert_eq!(state.tally.refusals, 2);
    }
}
