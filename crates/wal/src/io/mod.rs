/*!
The seam between the log and the disk: [`Storage`] is a directory of files, [`File`] one of them.

Only the verbs that the log calls are here, each with its durability duty. All I/O is positional,
and every read and write obeys the three rules of direct I/O: address, offset and length are
multiples of [`Storage::alignment`]. Its other half, [`Host`], lends time, randomness, threads and
every way to sleep, so that a simulator owns everything that could make two runs differ.

[`Directory`] is the real one, [`Memory`] the one for tests and for logs that need not survive.
*/

mod condition;
mod device;
mod directory;
mod host;
mod lock;
mod memory;
mod probe;

pub(crate) use condition::Condition;
pub use directory::{Directory, DirectoryFile};
pub use lock::DirectoryLock;
pub use memory::{Memory, MemoryFile, MemoryLock};

pub use crate::sync::{Wake, Word};

use aligned::Alignment;
use std::{fmt, io, time::Duration};

/// What the log runs in: the only source of time, chance and threads, and the place where its threads
/// sleep until others have done something.
///
/// Beside it, threads meet at locks that are held for a few instructions. Who writes a frame waits for the
/// copies into it that have not ended, by [`Host::yield_now`] and [`Host::sleep`]: a closure given to
/// [`append_with`](crate::Wal::append_with) is such a copy. So a simulator that runs one thread at a
/// time may let another run in every call here and in [`Storage`], but for [`Host::now`],
/// [`Host::unix_time`], [`Host::random`], [`Host::processors`], [`Storage::ending`], [`Storage::profile`] and
/// [`Storage::path`]: these
/// may be called with a lock held. [`Host::spawn`], [`Host::wake`] and every call of a file are not.
pub trait Host: Send + Sync + 'static {
    /// Time since some moment in the past that never changes. Never goes back.
    fn now(&self) -> Duration;

    /// The date, since the beginning of 1970. A log keeps the one of its creation, and decides nothing by
    /// it.
    fn unix_time(&self) -> Duration;

    /// A random number: unpredictable for the real thing, from the seed for a simulated one.
    fn random(&self) -> u64;

    /// Lets at least this much time pass.
    fn sleep(&self, time: Duration);

    /// Lets others run, and a little time pass.
    fn yield_now(&self);

    /// Runs `work` on a thread of its own, named `name`. If there is no thread to be had, `work` is
    /// dropped before this returns.
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()>;

    /// Sleeps while `word` is `seen`: until woken, or until `timeout` has passed. Looking at the word
    /// and falling asleep are one step. May return early for no reason.
    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>);

    /// Wakes those who sleep on `word`.
    fn wake(&self, word: &Word, who: Wake);

    /// How many processors there are for the log's threads: from how many waiters on each yields before it
    /// sleeps. Of none every waiter yields, which is for a simulator.
    fn processors(&self) -> u32;
}

/// A directory that holds one log's files.
///
/// # Durability duties
/// A name that was created, renamed or removed may be lost, or may come back, until
/// [`Storage::sync_dir`] has returned `Ok`.
pub trait Storage: Host {
    /// A file of the directory.
    type File: File;
    /// Exclusive use of the directory for writing; given back when dropped.
    type Lock: Send + Sync + 'static;

    /// Makes the directory and those above it if they are not there, durably (each is synced in
    /// its parent). One that exists is left as it is, but its name is made durable: a crash may
    /// have come between, or it was just moved here. Called by every open for writing. `NotADirectory` if something else has the name.
    fn create(&self) -> io::Result<()>;

    /// Takes the directory for writing, for this process and against every other. Never waits.
    fn lock(&self) -> Result<Self::Lock, LockError>;

    /// The log that took `lock` has ended. It is given back when the calls that are under way have
    /// returned; until then [`Storage::lock`] answers [`LockError::Ending`] in this process.
    fn ending(&self, lock: &Self::Lock);

    /// The names of all entries, in no order: those that the storage keeps for itself, such as a
    /// lock file, and what others put there as well. `NotFound` if there is no such directory.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens the file `name` that exists, for reading and, unless `access` says otherwise, writing.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;

    /// Creates the file `name`, empty, for reading and writing; `AlreadyExists` if it is there.
    fn create_file(&self, name: &str) -> io::Result<Self::File>;

    /// Gives the file `from` the name `to`, replacing what had it, atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the name. Open files stay readable.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals so far durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// What the address, offset and length of every read and write must be multiples of: the
    /// logical block of the device, or 1 where the file system does not care.
    fn alignment(&self) -> Alignment;

    /// What the device writes at once without having read before, in bytes: for a log whose block is to be
    /// that. 4096 where it is not known.
    fn physical_block_bytes(&self) -> u32;

    /// How many durable writes to one file may be under way at once: 1 where two concurrent syncs
    /// could hide each other's failure.
    fn depth_max(&self) -> u32;

    /// Chooses how [`File::write_durable_at`] works by timing the candidates on the blocks of
    /// `file` from `offset` on, `bytes` long, which hold nothing of worth, are already written, and
    /// hold zeros or garbage afterwards. A storage with one way, or one that remembers an earlier
    /// probe of the same device, returns at once and writes nothing. An error is that of a failed
    /// write; that a candidate is not supported is none.
    fn probe(&self, file: &Self::File, offset: u64, bytes: u64) -> io::Result<()>;

    /// What is known of the device and of the way durable writes are made, for the open report.
    fn profile(&self) -> Profile;

    /// Where the directory is, for error messages.
    fn path(&self) -> std::path::PathBuf;
}

/// A file of a [`Storage`]: positional I/O at aligned addresses, offsets and lengths.
#[expect(clippy::len_without_is_empty, reason = "a file that holds a log is asked for its length")]
pub trait File: Send + Sync + 'static {
    /// Fills `buffer` from `offset` on and returns how many bytes there were before the end of the
    /// file; the rest of `buffer` is unspecified. An interrupted read is retried.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. Nothing is durable before [`File::sync`]. An interrupted
    /// write is retried, a short one continued; one that makes no progress is an error.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, over blocks that were written before. When it returns
    /// `Ok` they survive a power cut. An error says nothing about what survives.
    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything durable that was written before the call, by anybody, and the file's size. Works
    /// on a file that was opened for reading, too.
    fn sync(&self) -> io::Result<()>;

    /// Makes the file exactly `bytes` long without promising room on the device.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Tries to turn the whole range into *written* zeros in one step, durable after
    /// [`File::sync`]; `false` where the system cannot and the caller must write the zeros.
    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// How many names the file has: more than one where somebody keeps a hard link as a copy.
    fn links(&self) -> io::Result<u64>;

    /// Forgets cached bytes, so that the next read comes from the device. Free where reads are
    /// direct.
    fn drop_cache(&self) -> io::Result<()>;
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Why a directory could not be taken for writing.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody has it, in this process or another; the process, where it is known.
    Held {
        /// The holder's process id.
        pid: Option<u32>,
    },
    /// This process has it for a log that has ended: it comes back by itself once the calls that
    /// are under way have returned.
    Ending,
    /// The system refused.
    Io(io::Error),
}

/// How a durable write is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DurableMethod {
    /// One call: the write itself carries the sync (`pwritev2` with `RWF_DSYNC`).
    WriteDsync,
    /// Two calls: the write, then `fdatasync`.
    WriteThenSync,
    /// There is no stable storage below: nothing survives the process.
    None,
}

impl fmt::Display for DurableMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteDsync => "RWF_DSYNC",
            Self::WriteThenSync => "write + fdatasync",
            Self::None => "none",
        })
    }
}

/// What is known of the device, for the open report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// How durable writes are made.
    pub method: DurableMethod,
    /// Whether reads and writes bypass the page cache.
    pub direct: bool,
    /// The device's logical block in bytes.
    pub logical_block_bytes: u32,
    /// The name of the file system, where it is known.
    pub file_system: String,
    /// Whether an overwrite may need new room on the device (copy-on-write file systems): there a
    /// full disk can fail a commit.
    pub overwrites_allocate: bool,
    /// What the probe measured for [`DurableMethod::WriteDsync`]: the median of one block.
    pub write_dsync: Option<Duration>,
    /// What the probe measured for [`DurableMethod::WriteThenSync`]: the median of one block.
    pub write_then_sync: Option<Duration>,
    /// Whether the figures come from an earlier probe of the same device.
    pub remembered: bool,
}

/// The same answer of the system once more: `io::Error` cannot be cloned.
pub(crate) fn copied(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
