//! [`Device`] and [`FileSystem`]: what lies below a directory, asked of the kernel or tried out.

use super::host;
use aligned::{Alignment, Buffer};
use nix::fcntl::OFlag;
use rustix::{
    fs::{AtFlags, StatxFlags},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Whether direct I/O works in a directory, and what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) direct: bool,
    pub(super) alignment: Alignment,
    pub(super) logical_block_bytes: u32,
}

const BLOCK_BYTES: u32 = 4096;

impl Device {
    /// Direct I/O with the largest block that any device has: right wherever direct I/O works.
    pub(super) const ASSUMED: Self =
        Self { direct: true, alignment: Alignment::BLOCK_4096, logical_block_bytes: BLOCK_BYTES };

    /// Reads and writes through the page cache.
    pub(super) const BUFFERED: Self =
        Self { direct: false, alignment: Alignment::ANY, logical_block_bytes: BLOCK_BYTES };

    /// Finds out without writing, by a file in `directory`. `None` if no file there can tell.
    pub(super) fn of_directory(directory: &Path) -> Option<Self> {
        fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
            // Shorter files may lie inside their inode (ext4 inline_data), where direct I/O does
            // not work although it does for the log's own.
            let metadata = entry.metadata().ok()?;
            let is_typical = metadata.is_file() && metadata.len() >= u64::from(BLOCK_BYTES);
            is_typical.then(|| Self::of_file(&entry.path())).flatten()
        })
    }

    /// Finds out without writing, by the file at `path`. `None` if it cannot be opened.
    pub(super) fn of_file(path: &Path) -> Option<Self> {
        let opened = File::options().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
        Self::judge(opened, |file, block| file.read_at(block, 0).map(drop))
    }

    /// Finds out by writing a block to a nameless file in `directory`, or to one that has a name
    /// for an instant. `None` if that cannot be made.
    pub(super) fn of_new_file(directory: &Path) -> Option<Self> {
        let write = |file: &File, block: &mut [u8]| file.write_all_at(block, 0);
        let nameless = File::options()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_TMPFILE | OFlag::O_DIRECT).bits())
            .open(directory);
        // EINVAL may mean either flag here, so that it proves nothing yet.
        if nameless.is_ok() {
            return Self::judge(nameless, write);
        }
        let path = directory.join(format!("probe.{:016x}.tmp", host::random()));
        let named = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(OFlag::O_DIRECT.bits())
            .open(&path);
        // A refused O_DIRECT can leave the file behind: Linux creates before it checks.
        let _ = fs::remove_file(&path);
        Self::judge(named, write)
    }

    fn judge(
        opened: io::Result<File>,
        attempt: impl FnOnce(&File, &mut [u8]) -> io::Result<()>,
    ) -> Option<Self> {
        let file = match opened {
            Ok(file) => file,
            Err(error) if is_invalid(&error) => return Some(Self::BUFFERED),
            Err(_) => return None,
        };
        let device = match asked(&file) {
            Asked::Impossible => return Some(Self::BUFFERED),
            Asked::Needs { memory_bytes, offset_bytes } => {
                let bytes = memory_bytes.max(offset_bytes).max(512);
                let alignment = usize::try_from(bytes).ok().and_then(Alignment::new)?;
                Self { direct: true, alignment, logical_block_bytes: offset_bytes }
            }
            Asked::Silent => Self::ASSUMED,
        };
        // Some accept the flag and refuse the I/O. Any other error is not about direct I/O: it
        // will be met again where it matters.
        let bytes = device.alignment.bytes().max(4096);
        let mut block = Buffer::zeroed(device.alignment, bytes).ok()?;
        match attempt(&file, block.as_mut_slice()) {
            Err(error) if is_invalid(&error) => Some(Self::BUFFERED),
            _ => Some(device),
        }
    }
}

/// The physical block of the device that `path` is on, or would be, in bytes. `None` where the kernel does
/// not say: a file system of several devices, or of none, has a number that no device has.
pub(super) fn physical_block_bytes(path: &Path) -> Option<u32> {
    let existing = path.ancestors().find_map(|path| fs::metadata(path).ok())?;
    let (major, minor) = (rustix::fs::major(existing.dev()), rustix::fs::minor(existing.dev()));
    // A partition has the queue of its disk.
    ["queue", "../queue"].iter().find_map(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/physical_block_size");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    })
}

fn is_invalid(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

enum Asked {
    Needs {
        memory_bytes: u32,
        offset_bytes: u32,
    },
    Impossible,
    /// The kernel (before 6.1) or the file system does not say.
    Silent,
}

fn asked(file: &File) -> Asked {
    let Ok(answer) = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return Asked::Silent;
    };
    if answer.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Asked::Silent;
    }
    match (answer.stx_dio_mem_align, answer.stx_dio_offset_align) {
        (0, _) | (_, 0) => Asked::Impossible,
        (memory_bytes, offset_bytes) => Asked::Needs { memory_bytes, offset_bytes },
    }
}

/// What is known of a kind of file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) magic: u64,
    pub(super) name: String,
    /// Whether an overwrite may need new room. True where it is not known.
    pub(super) overwrites_allocate: bool,
    /// Whether `RWF_DSYNC` is worth its name. A FUSE server is not told of it where the kernel
    /// bypasses the cache for the file (measured on 6.18: no FUSE_FSYNC follows the write), and
    /// stacked or remote file systems may sit on such a one: there `fdatasync` is the only way.
    pub(super) honours_dsync: bool,
}

/// Magic number, name, overwrites allocate, honours RWF_DSYNC.
const FILE_SYSTEMS: [(u64, &str, bool, bool); 15] = [
    (0xef53, "ext4", false, true),
    (0x5846_5342, "xfs", false, true),
    (0xf2f5_2010, "f2fs", false, true),
    (0x9123_683e, "btrfs", true, true),
    (0xca45_1a4e, "bcachefs", true, false),
    (0x2fc1_2fc1, "zfs", true, false),
    (0x3434, "nilfs2", true, false),
    (0x0102_1994, "tmpfs", false, false),
    (0x8584_58f6, "ramfs", false, false),
    (0x4d44, "vfat", false, false),
    (0x794c_7630, "overlay", true, false),
    (0x6573_5546, "fuse", true, false),
    (0x6969, "nfs", true, false),
    (0xff53_4d42, "cifs", true, false),
    (0x0102_1997, "9p", true, false),
];

impl FileSystem {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let magic = rustix::fs::statfs(path)?.f_type;
        // Sign-extended on 32-bit machines.
        let magic = u64::try_from(i128::from(magic) & 0xffff_ffff).unwrap_or_default();
        let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
        Ok(match known {
            Some(&(_, name, overwrites_allocate, honours_dsync)) => {
                Self { magic, name: name.to_owned(), overwrites_allocate, honours_dsync }
            }
            None => Self {
                magic,
                name: format!("{magic:#x}"),
                overwrites_allocate: true,
                honours_dsync: false,
            },
        })
    }
}
