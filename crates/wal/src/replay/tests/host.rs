//! Stories of the host and the device: threads that start late, a file that stays, sectors that are large.

use super::{replay, two_segments};
use crate::{
    ErrorKind,
    format::Identity,
    io::{Access, Host, LockError, Memory, Profile, Storage, Wake, Word},
    options::Options,
    recovery::{
        Policy,
        handmade::{BLOCK, Handmade, SEGMENT, policy, put},
        keep_cut, open,
    },
    sync::Mutex,
};
use aligned::Alignment;
use std::{io, path::PathBuf, sync::Arc, time::Duration};

type Task = Box<dyn FnOnce() + Send>;

/// [`Memory`] whose threads run when somebody waits, and not before; with sectors of a size that is told;
/// and with a name that cannot be removed.
#[derive(Clone)]
struct Told {
    memory: Memory,
    sector: usize,
    stays: &'static str,
    tasks: Arc<Mutex<Vec<Task>>>,
    started: Arc<Mutex<u32>>,
}

impl Told {
    fn new(memory: Memory) -> Self {
        let sector = memory.alignment().bytes();
        Self { memory, sector, stays: "", tasks: Arc::default(), started: Arc::default() }
    }
}

impl Storage for Told {
    type File = <Memory as Storage>::File;
    type Lock = <Memory as Storage>::Lock;

    fn create(&self) -> io::Result<()> {
        self.memory.create()
    }
    fn lock(&self) -> Result<Self::Lock, LockError> {
        self.memory.lock()
    }
    fn ending(&self, lock: &Self::Lock) {
        self.memory.ending(lock);
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.memory.list()
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File> {
        self.memory.open(name, access)
    }
    fn create_file(&self, name: &str) -> io::Result<Self::File> {
        self.memory.create_file(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        if name == self.stays {
            return Err(io::Error::from(rustix::io::Errno::IO));
        }
        self.memory.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.memory.sync_dir()
    }
    fn alignment(&self) -> Alignment {
        Alignment::new(self.sector).unwrap()
    }
    fn physical_block_bytes(&self) -> u32 {
        u32::try_from(self.sector).unwrap()
    }
    fn depth_max(&self) -> u32 {
        self.memory.depth_max()
    }
    fn probe(&self, file: &Self::File, offset: u64, bytes: u64) -> io::Result<()> {
        self.memory.probe(file, offset, bytes)
    }
    fn profile(&self) -> Profile {
        self.memory.profile()
    }
    fn path(&self) -> PathBuf {
        self.memory.path()
    }
}

impl Host for Told {
    fn now(&self) -> Duration {
        self.memory.now()
    }
    fn unix_time(&self) -> Duration {
        self.memory.unix_time()
    }
    fn random(&self) -> u64 {
        self.memory.random()
    }
    fn sleep(&self, time: Duration) {
        self.memory.sleep(time);
    }
    fn yield_now(&self) {
        self.memory.yield_now();
    }
    fn spawn(&self, _name: &str, work: Task) -> io::Result<()> {
        self.tasks.lock().push(work);
        *self.started.lock() += 1;
        Ok(())
    }
    fn wait(&self, _word: &Word, _seen: u32, _timeout: Option<Duration>) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        assert!(!tasks.is_empty(), "nobody is left who could wake the one that waits");
        tasks.into_iter().for_each(|task| task());
    }
    fn wake(&self, word: &Word, who: Wake) {
        self.memory.wake(word, who);
    }
    fn processors(&self) -> u32 {
        self.memory.processors()
    }
}

/// The threads that help to flush start late, when all is flushed already. They hold the slots all the
/// same: an open that did not wait for them would find every free slot pinned.
#[test]
fn an_open_waits_for_the_threads_that_flush() {
    for (slots, threads) in [(2, 0), (3, 0), (4, 1), (5, 1), (12, 5), (16, 7), (40, 7)] {
        let mut log = two_segments();
        for slot in 2..slots {
            log.files.insert(slot, vec![0; usize::try_from(SEGMENT).unwrap()]);
        }
        let storage = Told::new(log.storage());
        let found = open(Arc::new(storage.clone()), &policy()).unwrap();
        assert_eq!(*storage.started.lock(), threads, "{slots} slots");
        assert!(storage.tasks.lock().is_empty(), "{slots} slots: a thread that nobody waited for");
        assert_eq!(found.free.len(), usize::try_from(slots).unwrap() - 2);
        assert!(found.free.iter().all(|free| Arc::strong_count(&free.slot) == 1));
    }
}

/// What a crash left under a temporary name cannot be removed. Written over in place it could end up as
/// half of each: the error is told, and nothing was changed.
#[test]
fn a_leftover_that_stays_is_an_error() {
    let storage = Told { stays: "identity.tmp", ..Told::new(Memory::new()) };
    storage.create().unwrap();
    put(&storage.memory, "identity.tmp", &[1; 9000]);
    let error = open(Arc::new(storage.clone()), &policy()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Io);
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));

    let mut log = Handmade::new();
    log.reopen();
    let lost = log.frame(&[b"lost"]);
    log.frame(&[b"kept"]);
    log.lose(lost);
    let storage = Told { stays: "cut-1024-3.tmp", ..Told::new(log.storage()) };
    put(&storage.memory, storage.stays, &[1; 9000]);
    let mut found = open(Arc::new(storage), &policy()).unwrap();
    assert_eq!(format!("cut-{}-{}.tmp", found.tail.lsn, found.epoch), "cut-1024-3.tmp");
    let error = keep_cut(&mut found).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
}

/// On a device whose sectors are larger than the identity, the file is written in one of them and then cut
/// to its length: one that stayed longer would be refused as damaged for ever.
#[test]
fn a_log_on_large_sectors_opens_again() {
    let storage = Told { sector: 8192, ..Told::new(Memory::new()) };
    let policy = Policy { segment_bytes: 16 * 8192, block_bytes: 8192, ..policy() };
    assert!(open(Arc::new(storage.clone()), &policy).unwrap().report.created);
    let found = open(Arc::new(storage.clone()), &policy).unwrap();
    assert!(!found.report.created);
    assert_eq!(found.identity.block_bytes, 8192);
}

/// The block was to be the device's, whose direct I/O takes larger pieces than blocks are by default. What was
/// asked for had no block to give, and was refused.
#[test]
fn the_block_of_a_device_can_be_written_on_it() {
    for (sector, block_bytes) in [(512, 512), (4096, 4096), (16_384, 16_384)] {
        let storage = Told { sector, ..Told::new(Memory::new()) };
        let options = Options::new().segment_bytes(1 << 20).block_of_device();
        let replay = options.open_in(storage).unwrap();
        assert_eq!(replay.report().block_bytes, block_bytes);
    }
}

/// A log of small blocks was moved to a device with larger sectors: two blocks would share one, and writing
/// the second would put the first at risk. Neither such a log nor a new one is opened there.
#[test]
fn blocks_smaller_than_a_sector_are_refused() {
    let log = two_segments();
    assert!(replay(&log).is_ok());
    for memory in [log.storage(), Memory::new()] {
        let storage = Told { sector: 4096, ..Told::new(memory) };
        let error = open(Arc::new(storage), &policy()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.found(), Some(&*BLOCK.to_string()));
    }
    assert!(Identity::new(crate::LogId([7; 16]), 16 * BLOCK, 512, 0).is_some(), "it is valid");
}
