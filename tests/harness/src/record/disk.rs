/*!
The disk: a FUSE server with a file `disk`, kept in memory, for a loop device, and a file `mark` for
the subject. Everything that happens to either becomes an event, in one order.

It is a process of its own, so that nothing that waits for the disk can hold what the disk needs. It
serves from several threads, and some writes are answered a little later than they could be: with the
file opened for parallel direct writes, the kernel has several under way at once, and flushes beside
them. A write that was not answered when a flush began is not covered by it.
*/

use super::event::{Content, Event, Recording};
use crate::{machine::die_with_parent, random::Random};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::FallocateFlags;
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(super) const DISK_NAME: &str = "disk";
pub(super) const MARK_NAME: &str = "mark";

const DISK: INodeNo = INodeNo(2);
const MARK: INodeNo = INodeNo(3);

/// How long the kernel may believe what it was told about a name: nothing ever changes.
const BELIEVE: Duration = Duration::from_secs(3600);

const THREADS: usize = 4;

/// One write in so many is answered late, by up to so much.
const LATE_ONE_IN: u64 = 2;
const LATE_US_MAX: u64 = 500;

/// An image is taken over in writes of so many bytes.
const LOAD_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to mount
    at: PathBuf,
    /// Where to leave the recording once it is unmounted
    recording: PathBuf,
    /// The size of the disk in bytes
    #[arg(long)]
    bytes: u64,
    /// What is on the disk at first
    #[arg(long)]
    image: Option<PathBuf>,
    #[arg(long)]
    seed: u64,
}

/// Serves until somebody unmounts. Says `ready` when it is mounted.
pub(crate) fn serve(arguments: &Arguments) -> io::Result<ExitCode> {
    die_with_parent()?;
    let bytes = usize::try_from(arguments.bytes).map_err(io::Error::other)?;
    let state =
        State { bytes: vec![0; bytes], events: Vec::new(), random: Random::new(arguments.seed) };
    let state = Arc::new(Mutex::new(state));
    if let Some(image) = &arguments.image {
        lock(&state).load(&mut File::open(image)?)?;
    }
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("wal-harness".to_owned())];
    config.n_threads = Some(THREADS);
    fuser::mount(Disk(Arc::clone(&state)), &arguments.at, &config)?;
    let events = std::mem::take(&mut lock(&state).events);
    Recording { header: serde_json::Value::Null, events }.save(&arguments.recording)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
    random: Random,
}

impl State {
    /// Appends an event, and returns its number.
    fn log(&mut self, event: Event) -> u32 {
        let number = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        self.events.push(event);
        number
    }

    /// Takes over an image, as writes that everybody knows to be settled.
    fn load(&mut self, image: &mut impl Read) -> io::Result<()> {
        let mut offset = 0;
        while offset < self.bytes.len() {
            let end = (offset + LOAD_BYTES).min(self.bytes.len());
            image.read_exact(&mut self.bytes[offset..end])?;
            let content = Content::of(&self.bytes[offset..end]);
            if matches!(content, Content::Bytes(_)) {
                let offset = u64::try_from(offset).map_err(io::Error::other)?;
                self.log(Event::Write { offset, content });
            }
            offset = end;
        }
        Ok(())
    }

    fn lateness(&mut self) -> Option<Duration> {
        self.random
            .one_in(LATE_ONE_IN)
            .then(|| Duration::from_micros(self.random.below(LATE_US_MAX)))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Logs a write, waits now and then, and logs that it is done. `None` beyond the disk's end.
    fn write_disk(&self, offset: u64, content: Content) -> Option<()> {
        let mut state = lock(&self.0);
        let start = usize::try_from(offset).ok()?;
        let length = usize::try_from(content.len()).ok()?;
        let room = state.bytes.get_mut(start..start.checked_add(length)?)?;
        match &content {
            Content::Bytes(bytes) => room.copy_from_slice(bytes),
            Content::Zeros(_) => room.fill(0),
        }
        let write = state.log(Event::Write { offset, content });
        let late = state.lateness();
        drop(state);
        if let Some(time) = late {
            thread::sleep(time);
        }
        lock(&self.0).log(Event::Done { write });
        Some(())
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0),
            DISK => (FileType::RegularFile, lock(&self.0).bytes.len()),
            MARK => (FileType::RegularFile, 0),
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
            Some(MARK_NAME) => MARK,
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
        if inode != DISK {
            return reply.data(&[]);
        }
        let state = lock(&self.0);
        let end = state.bytes.len();
        let start = usize::try_from(offset).map_or(end, |start| start.min(end));
        let wanted = usize::try_from(size).unwrap_or(usize::MAX);
        reply.data(&state.bytes[start..start.saturating_add(wanted).min(end)]);
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
        if inode == MARK {
            let text = String::from_utf8_lossy(data).trim_end().to_owned();
            lock(&self.0).log(Event::Mark(text));
        } else if self.write_disk(offset, Content::of(data)).is_none() {
            return reply.error(Errno::ENOSPC);
        }
        reply.written(length);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if inode == DISK {
            let mut state = lock(&self.0);
            let flush = state.log(Event::FlushBegin);
            let late = state.lateness();
            drop(state);
            if let Some(time) = late {
                thread::sleep(time);
            }
            lock(&self.0).log(Event::FlushEnd { flush });
        }
        reply.ok();
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
        let zeros = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let zeroes = FallocateFlags::from_bits_truncate(mode).intersects(zeros);
        if inode != DISK || !zeroes {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.write_disk(offset, Content::Zeros(length)) {
            Some(()) => reply.ok(),
            None => reply.error(Errno::ENOSPC),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
