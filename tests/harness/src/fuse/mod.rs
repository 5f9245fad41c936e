/*!
A disk that this program plays: a FUSE server with a file `disk` for a loop device, and a second file
beside it for talk. What happens to either is up to a [`Disk`].

It is a process of its own ([`Server`]), so that nothing that waits for the disk can hold what the disk
needs. It serves from several threads: with the file opened for parallel direct writes, the kernel has
several writes under way at once, and flushes beside them.
*/

mod server;

pub(crate) use server::Server;

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::fcntl::FallocateFlags;
use std::{
    ffi::OsStr,
    io::{self, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The disk's file.
pub(crate) const DISK_NAME: &str = "disk";

const DISK: INodeNo = INodeNo(2);
const BESIDE: INodeNo = INodeNo(3);

/// How long the kernel may believe what it was told about a name: nothing ever changes.
const BELIEVE: Duration = Duration::from_secs(3600);

/// What the kernel says to a thread that takes a request over while the connection ends. Before and after it
/// is `ENODEV`, which the library takes for the end.
const ABORTED: i32 = nix::libc::ECONNABORTED;

/// What a disk makes of what is asked of it, by any of the server's threads.
pub(crate) trait Disk: Send + Sync + 'static {
    /// The name of the second file.
    const BESIDE_NAME: &'static str;

    fn bytes(&self) -> usize;

    /// Lends what is there to `answer`, which is called once; less than `length` at the disk's end.
    fn read(&self, offset: u64, length: usize, answer: impl FnOnce(Result<&[u8], Errno>));

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;

    fn zero(&self, offset: u64, length: u64, zeros: Zeros) -> Result<(), Errno>;

    /// Has everything on stable storage whose write was answered before this began.
    fn flush(&self) -> Result<(), Errno>;

    /// Somebody wrote this to the second file.
    fn tell(&self, data: &[u8]) -> Result<(), Errno>;

    /// What the second file holds.
    fn say(&self) -> String;
}

/// Zeros on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// With room of their own.
    Written,
    /// Without.
    Hole,
}

/// Serves from `threads` threads until somebody unmounts. Says `ready` when it is mounted.
pub(crate) fn serve(disk: impl Disk, at: &Path, threads: usize) -> io::Result<()> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("wal-harness".to_owned())];
    config.n_threads = Some(threads);
    match fuser::mount(Files(disk), at, &config) {
        // A thread was handed a request in the moment of the unmount, as the release of a file by a loop device
        // that goes with its last use: nobody waits for the answer. An abort at any other time fails what is
        // done on the disk.
        Err(error) if error.raw_os_error() == Some(ABORTED) => Ok(()),
        ended => ended,
    }
}

/// The two files.
#[derive(Debug)]
struct Files<D>(D);

impl<D: Disk> Files<D> {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0),
            DISK => (FileType::RegularFile, self.0.bytes()),
            BESIDE => (FileType::RegularFile, 0),
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

    fn answer_attributes(&self, inode: INodeNo, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&BELIEVE, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl<D: Disk> Filesystem for Files<D> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it the loop device waits for each write before it sends the next.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| {
            io::Error::new(io::ErrorKind::Unsupported, "the kernel has no asynchronous direct I/O")
        })?;
        let _ = config.set_max_background(64);
        // It is mounted by now: whoever opens a file waits for the end of this call.
        let mut out = io::stdout();
        writeln!(out, "{}", server::READY)?;
        out.flush()
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode = match name.to_str() {
            Some(DISK_NAME) => DISK,
            Some(name) if name == D::BESIDE_NAME => BESIDE,
            _ => return reply.error(Errno::ENOENT),
        };
        match self.attributes(inode) {
            Some(attributes) => reply.entry(&BELIEVE, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer_attributes(inode, reply);
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
        self.answer_attributes(inode, reply);
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
            let text = self.0.say();
            return reply.data(if offset == 0 { text.as_bytes() } else { &[] });
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        self.0.read(offset, length, |found| match found {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(error),
        });
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
            DISK => self.0.write(offset, data),
            _ => self.0.tell(data),
        };
        match done {
            Ok(()) => reply.written(length),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(if inode == DISK { self.0.flush() } else { Ok(()) }, reply);
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
        let zeros = if mode.contains(FallocateFlags::FALLOC_FL_PUNCH_HOLE) {
            Zeros::Hole
        } else if mode.contains(FallocateFlags::FALLOC_FL_ZERO_RANGE) {
            Zeros::Written
        } else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        if inode == DISK {
            answer(self.0.zero(offset, length, zeros), reply);
        } else {
            reply.error(Errno::EOPNOTSUPP);
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
