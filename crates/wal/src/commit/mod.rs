/*!
Group commit: records go in at one end, durable writes come out at the other.

One mutex protects what changes ([`state::Core`]); the bytes of records are copied and checksummed
outside it. There is no thread between an append and the disk unless nobody waits: whoever waits
first while no frame is being written seals the open frame and writes it.

- `locked`: the mutex, and what waits until it is free
- `append`: the ways to append
- `reserve`: room in the open frame, or in a new one
- `room`, `queue`: waiting for it
- `drive`: sealing, writing, acknowledging in order, handing on
- `tell`: tasks and callbacks
- `flushes`: the calls under way whose failure may take a frame along
- `wait`: blocking, awaiting and being called back
- `cohort`, `yielding`: letting others join, and to whom the processor is given
- `committer`: the threads that write what nobody blocks for
- `ends`: the opening frame and the close
- `stop`: how everything stops: a latch, a drop, an opening that was refused
- `prepare`: the thread that makes segments before they are needed
- `threads`: these threads, counted, and waited for by a close
*/

mod append;
mod cohort;
mod committer;
mod drive;
mod ends;
mod flushes;
mod locked;
mod prepare;
mod queue;
mod reserve;
mod room;
mod state;
mod stats;
mod stop;
mod tell;
mod threads;
mod wait;
mod yielding;

#[cfg(test)]
mod tests;

pub(crate) use append::Place;
pub(crate) use ends::Verdict;
pub(crate) use room::RoomWait;
pub use stats::{COMMIT_BUCKETS, CommitHistogram, Stats};
pub(crate) use wait::Registration;

use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{Identity, WriterSeed},
    io::Storage,
    slots::{FreeSlot, Segment},
    sync::{AtomicU8, AtomicU32, AtomicU64, Mutex, ThreadId, Word, thread_local},
};
use aligned::{Alignment, Desk, ForkWitness, Pool};
use flushes::Flushes;
use locked::After;
use queue::RoomQueue;
use room::Own;
use state::{Committers, Core, FrameMeta, Preparer, Segments};
use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};
use threads::Threads;
use yielding::Yielding;

/// The last blocks of a segment that has no prepared successor, or more where blocks are small: nothing
/// but checkpoints may use them, so that a log on a full disk can always be told what it may forget.
const RESERVED_BLOCKS: u64 = 4;
/// At least so many of the largest checkpoints fit them.
const RESERVED_CHECKPOINTS: u64 = 2;

/// What the options come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) pool_bytes: u64,
    pub(crate) frame_bytes: u32,
    pub(crate) depth: u32,
    pub(crate) linger: Duration,
    pub(crate) confirm_after: Duration,
    pub(crate) log_bytes_max: u64,
    pub(crate) spare_bytes_max: u64,
}

/// Where a writer starts: what recovery found.
pub(crate) struct Start<S: Storage> {
    pub(crate) storage: Arc<S>,
    pub(crate) lock: S::Lock,
    pub(crate) identity: Identity,
    pub(crate) epoch: u64,
    pub(crate) incarnation: u64,
    pub(crate) tail: Lsn,
    pub(crate) chain: u32,
    pub(crate) ordinal: u64,
    pub(crate) segments: Vec<Segment<S::File>>,
    pub(crate) successor: Option<Segment<S::File>>,
    pub(crate) free: Vec<FreeSlot<S::File>>,
    pub(crate) next_slot_number: u32,
    pub(crate) checkpoint: Option<(Lsn, Vec<u8>)>,
    /// Whether the last segment holds a frame.
    pub(crate) begun: bool,
}

/// What an engine that was taken apart gives back.
pub(crate) struct Remains<S: Storage> {
    pub(crate) lock: S::Lock,
    pub(crate) segments: Vec<Segment<S::File>>,
    pub(crate) successor: Option<Segment<S::File>>,
    pub(crate) free: Vec<FreeSlot<S::File>>,
    pub(crate) next_slot_number: u32,
}

/// What a writer needs of the system, which may refuse it.
pub(crate) struct Resources {
    block: Alignment,
    /// How many buffers the pool has.
    count: usize,
    pool: Pool,
    witness: ForkWitness,
}

impl Resources {
    pub(crate) fn take(identity: &Identity, settings: &Settings) -> Result<Self> {
        let block = usize::try_from(identity.block_bytes)
            .ok()
            .and_then(Alignment::new)
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "block size"))?;
        let frame_bytes = usize::try_from(settings.frame_bytes).unwrap_or(usize::MAX);
        let frame_bytes = block.round_up(frame_bytes).unwrap_or(frame_bytes);
        let count = usize::try_from(settings.pool_bytes).unwrap_or(usize::MAX) / frame_bytes;
        let count = count.max(2);
        let pool = Pool::new(block, frame_bytes, count)
            .map_err(|error| Error::from_io("memory for frames", error.into()))?;
        let witness = ForkWitness::new()
            .map_err(|error| Error::from_io("a page that tells a fork", error))?;
        Ok(Self { block, count, pool, witness })
    }
}

/// The writer's half of a log, shared by the handle, its tickets, its readers and its threads.
pub(crate) struct Engine<S: Storage> {
    storage: Arc<S>,
    identity: Identity,
    block: Alignment,
    settings: Settings,
    depth: u32,
    epoch: u64,
    incarnation: u64,
    seed: WriterSeed,
    witness: ForkWitness,
    pool: Pool,
    /// The durable mark. Only grows; frozen by a failure.
    durable: AtomicU64,
    /// One of the `STATE_` numbers. Only grows.
    state: AtomicU8,
    frames: Box<[FrameSlot]>,
    core: Mutex<Core<S>>,
    /// Where committers sleep, the preparer, an open or a close without a segment, followers of the durable
    /// mark.
    committer: Word,
    preparer: Word,
    prepared: Word,
    progress: Word,
    followers: AtomicU32,
    yielding: Yielding,
    /// From a cohort of so many on a waiter yields before it sleeps.
    yields_from: u32,
    threads: Arc<Threads>,
    /// Whether the opening is over. See [`Engine::write_opening`].
    opened: AtomicU8,
    /// One of the `CLOSE_` numbers. Only grows.
    close: AtomicU8,
    /// The thread that closes the log, or has closed it.
    closer: OnceLock<ThreadId>,
}

/// What belongs to a place in the ring of frames and is used without the mutex.
#[derive(Debug, Default)]
#[repr(align(128))] // two cache lines: neighbours are filled and slept on by different threads
struct FrameSlot {
    /// Where appenders give their rooms in the frame's buffer back.
    desk: Desk,
    /// A place to sleep for those who wait for the frame. What they wait for is the durable mark.
    word: Word,
    /// How many wait for the frame: polled by a committer that lets a cohort join.
    joined: AtomicU32,
}

const STATE_RUNNING: u8 = 0;
const STATE_CLOSING: u8 = 1;
const STATE_LATCHED: u8 = 2;
const STATE_CLOSED: u8 = 3;

const NOT_OPENED: u8 = 0;
const OPENED: u8 = 1;

const CLOSE_NOT_ASKED: u8 = 0;
const CLOSE_BEGUN: u8 = 1;
const CLOSE_OVER: u8 = 2;

thread_local! {
    /// Whether this thread is inside a closure that fills a record.
    static FILLING: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread counts among the running committers of the engine that it belongs to.
    static COMMITS: Cell<bool> = const { Cell::new(false) };
}

impl<S: Storage> Engine<S> {
    /// A writer that goes on at `start`. Writes nothing yet: [`Engine::write_opening`] does.
    pub(crate) fn new(start: Start<S>, settings: Settings, resources: Resources) -> Arc<Self> {
        let identity = start.identity;
        let Resources { block, count, pool, witness } = resources;
        // Every pool buffer can be a frame, and so can one record that fits no pool buffer. A power of two: an
        // append looks up its frame three times, which would be three divisions.
        let ring = (count + 1).next_power_of_two();
        let yields_from = yielding::COHORT_PER_PROCESSOR.saturating_mul(start.storage.processors());
        let depth = settings.depth.min(start.storage.depth_max()).max(1);
        let mut segments = Segments {
            live: VecDeque::from(start.segments),
            successor: start.successor,
            free: start.free,
            next_slot_number: start.next_slot_number,
            begun: start.begun,
            preparer: Preparer::default(),
        };
        let start_mark = start.checkpoint.as_ref().map_or(Lsn::ZERO, |(mark, _)| *mark);
        segments.release(start_mark, identity.segment_bytes);
        let core = Core {
            first: 0,
            unwritten: 0,
            next: 0,
            open: false,
            frames: (0..ring).map(|_| FrameMeta::default()).collect(),
            in_flight: 0,
            flushes: Flushes::default(),
            again: 0,
            sealing: false,
            tail: start.tail,
            appended: start.tail,
            appended_frame: 0,
            ordinal: start.ordinal,
            chain: start.chain,
            writing_segment: segments.current().sequence,
            unconfirmed: false,
            last_commit: Duration::ZERO,
            segments,
            checkpoint: start.checkpoint,
            start_mark,
            room: RoomQueue::default(),
            own: Own::default(),
            cohort: cohort::Cohort::default(),
            committers: Committers::default(),
            failure: None,
            lease: Some(Arc::new(start.lock)),
            stats: Stats::default(),
            untold: Vec::new(),
            after: After::default(),
        };
        Arc::new(Self {
            storage: start.storage,
            identity,
            block,
            settings,
            depth,
            epoch: start.epoch,
            incarnation: start.incarnation,
            seed: WriterSeed::new(identity.log_id, start.epoch, start.incarnation),
            witness,
            pool,
            durable: AtomicU64::new(start.tail.get()),
            state: AtomicU8::new(STATE_RUNNING),
            frames: (0..ring).map(|_| FrameSlot::default()).collect(),
            core: Mutex::new(core),
            committer: Word::default(),
            preparer: Word::default(),
            prepared: Word::default(),
            progress: Word::default(),
            followers: AtomicU32::new(0),
            yielding: Yielding::default(),
            yields_from,
            threads: Arc::default(),
            opened: AtomicU8::new(NOT_OPENED),
            close: AtomicU8::new(CLOSE_NOT_ASKED),
            closer: OnceLock::new(),
        })
    }

    /// What holds for the whole log.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn storage(&self) -> &Arc<S> {
        &self.storage
    }

    /// The durable mark.
    pub(crate) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::SeqCst))
    }

    /// The end of the last record that was appended, or of its frame once that is durable.
    pub(crate) fn appended(&self) -> Lsn {
        self.look(|core| self.end_of_log(core)).unwrap_or_else(|| self.durable())
    }

    /// What the largest checkpoint takes in a frame of its own.
    fn checkpoint_frame_bytes(&self) -> u64 {
        reserve::to_u64(reserve::FIRST_FRAME_OVERHEAD).next_multiple_of(self.block.bytes_u64())
    }

    /// The end of a segment that user records may not enter while it has no successor.
    fn reserved_bytes(&self) -> u64 {
        let checkpoints = RESERVED_CHECKPOINTS * self.checkpoint_frame_bytes();
        checkpoints.max(RESERVED_BLOCKS * self.block.bytes_u64())
    }

    fn end_of_log(&self, core: &Core<S>) -> Lsn {
        core.appended.max(self.durable())
    }

    /// The start mark that is durable.
    pub(crate) fn start_mark(&self) -> Lsn {
        self.look(|core| core.start_mark).unwrap_or_default()
    }

    /// The counters; all zero in a forked child.
    pub(crate) fn stats(&self) -> Stats {
        self.look(|core| core.stats.clone()).unwrap_or_default()
    }

    /// Looks at the state, for calls that cannot answer `Forked`: a forked child may have inherited
    /// a locked mutex, and gets `None`.
    fn look<T>(&self, at: impl FnOnce(&Core<S>) -> T) -> Option<T> {
        self.witness.same_process().then(|| at(&self.core.lock()))
    }

    /// The segment that holds `lsn`, pinned for as long as the result lives; `None` if it was
    /// released or is not there yet.
    pub(crate) fn segment_at(&self, lsn: Lsn) -> Option<Segment<S::File>> {
        let sequence = lsn.get() / self.identity.segment_bytes;
        let core = self.core.lock();
        let live = &core.segments.live;
        // One follows the other, without a gap.
        let index = usize::try_from(sequence.checked_sub(live.front()?.sequence)?).ok()?;
        live.get(index).filter(|segment| segment.sequence == sequence).cloned()
    }

    /// Waits until the durable mark is no longer `seen`, the log ended, or `timeout` has passed.
    /// Answers whether the log still goes on.
    pub(crate) fn wait_for_progress(&self, seen: Lsn, timeout: Option<Duration>) -> Result<bool> {
        self.check_caller()?;
        self.followers.fetch_add(1, Ordering::SeqCst);
        let word = self.progress.read();
        let goes_on = self.goes_on();
        if goes_on && self.durable() == seen {
            self.storage.wait(&self.progress, word, timeout);
        }
        self.followers.fetch_sub(1, Ordering::SeqCst);
        Ok(goes_on)
    }

    /// Whether the log was neither closed nor latched.
    pub(crate) fn goes_on(&self) -> bool {
        self.state.load(Ordering::SeqCst) <= STATE_CLOSING
    }

    /// Refuses calls from a forked child and from inside a closure that fills a record. No system
    /// call, no lock: a forked child may have inherited a locked mutex.
    #[inline]
    pub(crate) fn check_caller(&self) -> Result<()> {
        if !self.witness.same_process() && !planted!("fork-not-noticed") {
            return Err(Error::new(ErrorKind::Forked, "this process did not open the log")
                .with_path(self.storage.path()));
        }
        refuse_inside_a_closure()
    }

    /// Why the log does not go on, if it does not.
    fn check_running(&self, core: &Core<S>) -> Result<()> {
        match self.state.load(Ordering::SeqCst) {
            STATE_RUNNING => Ok(()),
            STATE_LATCHED => Err(self.failure(core)),
            _ => Err(Error::new(ErrorKind::Closed, "the log was closed")),
        }
    }

    fn failure(&self, core: &Core<S>) -> Error {
        let closed = || Error::new(ErrorKind::Closed, "the log was closed");
        core.failure.clone().unwrap_or_else(closed)
    }
}

/// Refuses what may wait: the frame that the calling thread fills would wait for it.
#[inline]
pub(crate) fn refuse_inside_a_closure() -> Result<()> {
    if FILLING.get() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "called from inside a closure that fills a record",
        ));
    }
    Ok(())
}
