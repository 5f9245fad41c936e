/*!
[`Ahead`]: chunks that are read on other threads while earlier ones are looked at.

Checking is faster than a disk (crc32fast does tens of gigabytes a second), so a replay is as fast as
its reads are never interrupted: four threads keep four requests under way, and two buffers more let
them run ahead of a reader that stops to think. The reader gets chunks in the order of the plan.
Six threads with ten buffers, and checksums taken by the threads that read, were within the spread.
*/

use super::{
    memory,
    window::{CHUNK_BYTES, Filled, widen},
};
use crate::{
    Lsn,
    format::Identity,
    io::{Condition, File, Host, Storage},
    slots::{Segment, Slot},
    sync::Mutex,
};
use aligned::{Alignment, Buffer};
use std::{collections::BTreeMap, io, sync::Arc};

const THREADS: usize = 4;
const BUFFERS: usize = 6;
/// What one request asks for. Measured on a virtual disk, open and replay of 1 GiB of 1 KiB records, medians
/// of 11, in huge pages: 256 KiB 1810 MiB/s, 512 KiB 2069, 1 MiB 2098. In small pages, where a megabyte is
/// more pieces of memory than a request of this disk's may have and becomes two, 256 KiB were the best.
const REQUEST_BYTES: usize = 512 << 10;
/// Room in front of each chunk for the piece of a frame that the chunk before it ends with: as much
/// as frames are by default.
const HEADROOM_BYTES: usize = 1 << 20;

/// A part of a slot that will be read.
pub(crate) struct Stretch<F> {
    sequence: u64,
    slot: Arc<Slot<F>>,
    from: u64,
    to: u64,
}

impl<F> Stretch<F> {
    /// The frames of `segment` below `limit`.
    pub(crate) fn of(segment: &Segment<F>, identity: &Identity, limit: Lsn) -> Self {
        Self {
            sequence: segment.sequence,
            slot: Arc::clone(&segment.slot),
            from: identity.block_bytes.into(),
            to: limit.get().saturating_sub(segment.base.get()).min(identity.segment_bytes),
        }
    }
}

/// The reader's end. Its threads end when it is dropped, or at the plan's end; once it is dropped no
/// read is under way and no slot is held, so that a writer can reuse them all.
pub(super) struct Ahead<F: File> {
    shared: Arc<Shared<F>>,
    /// How many chunks were taken, and how many the plan has.
    taken: u64,
    total: u64,
    /// Whose threads they are: a forked child has none of them to wait for.
    process: u32,
}

struct Shared<F> {
    /// The two parts of each buffer.
    headroom: usize,
    chunk: usize,
    state: Mutex<State<F>>,
    /// A buffer came back.
    room: Condition,
    /// A chunk is there, or a read has ended.
    ready: Condition,
    host: Arc<dyn Host>,
}

struct State<F> {
    plan: Vec<Stretch<F>>,
    /// The next chunk to be read: its number, and where it is in the plan.
    next: u64,
    stretch: usize,
    offset: u64,
    idle: Vec<Buffer>,
    done: BTreeMap<u64, Chunk>,
    closed: bool,
    /// How many reads are under way.
    reading: usize,
}

/// What a thread read.
pub(super) struct Chunk {
    pub(super) sequence: u64,
    pub(super) filled: Filled,
    pub(super) outcome: io::Result<()>,
}

struct Job<F> {
    number: u64,
    sequence: u64,
    slot: Arc<Slot<F>>,
    offset: u64,
    bytes: usize,
    buffer: Buffer,
}

impl<F: File> Ahead<F> {
    /// Begins to read the `plan`; `None` where it is too short to be worth it, or where there is
    /// no memory or no thread for it.
    pub(super) fn start<S: Storage<File = F>>(
        storage: &Arc<S>,
        alignment: Alignment,
        plan: Vec<Stretch<F>>,
    ) -> Option<Self> {
        // No more memory than the longest stretch can use.
        let length = |part: &Stretch<F>| part.to.saturating_sub(part.from);
        let longest = plan.iter().map(length).max().filter(|longest| *longest > 0)?;
        let longest = usize::try_from(longest).unwrap_or(usize::MAX);
        let longest = alignment.round_up(longest).unwrap_or(longest);
        let (headroom, chunk) = (HEADROOM_BYTES.min(longest), CHUNK_BYTES.min(longest));
        let total = plan.iter().map(|part| length(part).div_ceil(widen(chunk))).sum();
        if total <= 2 {
            return None;
        }
        let idle = (0..BUFFERS)
            .map(|_| memory(alignment, headroom + chunk))
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        let offset = plan.first()?.from;
        let state = State {
            plan,
            next: 0,
            stretch: 0,
            offset,
            idle,
            done: BTreeMap::new(),
            closed: false,
            reading: 0,
        };
        let shared = Arc::new(Shared {
            headroom,
            chunk,
            state: Mutex::new(state),
            room: Condition::default(),
            ready: Condition::default(),
            host: Arc::<S>::clone(storage),
        });
        // Dropped on failure, which ends the threads that did start.
        let ahead = Self { shared, taken: 0, total, process: std::process::id() };
        for _ in 0..THREADS {
            let shared = Arc::clone(&ahead.shared);
            storage.spawn("wal-read-ahead", Box::new(move || shared.work())).ok()?;
        }
        Some(ahead)
    }

    /// The next chunk of the plan; `None` at its end, or if a thread died.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        if self.taken == self.total || self.process != std::process::id() {
            return None;
        }
        let mut state = self.shared.state.lock();
        loop {
            if let Some(chunk) = state.done.remove(&self.taken) {
                self.taken += 1;
                return Some(chunk);
            }
            if state.closed {
                return None;
            }
            self.shared.ready.wait(&*self.shared.host, &mut state);
        }
    }

    /// Gives a chunk's buffer back, to be filled again.
    pub(super) fn give_back(&self, buffer: Buffer) {
        if buffer.len() == self.shared.headroom + self.shared.chunk {
            self.shared.state.lock().idle.push(buffer);
            self.shared.room.notify_one(&*self.shared.host);
        }
    }
}

impl<F: File> Drop for Ahead<F> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        self.shared.close();
        let mut state = self.shared.state.lock();
        while state.reading > 0 {
            self.shared.ready.wait(&*self.shared.host, &mut state);
        }
    }
}

impl<F: File> Shared<F> {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            let _reading = Reading(self);
            let Job { number, sequence, slot, offset, bytes, mut buffer } = job;
            let target = &mut buffer.as_mut_slice()[self.headroom..][..bytes];
            let answer = read_in_pieces(&slot.file, target, offset);
            drop(slot);
            let (bytes, outcome) = match answer {
                Ok(bytes) => (bytes, Ok(())),
                Err(error) => (0, Err(error)),
            };
            let filled = Filled { buffer, headroom: self.headroom, offset, bytes };
            self.state.lock().done.insert(number, Chunk { sequence, filled, outcome });
        }
    }

    fn next_job(&self) -> Option<Job<F>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            let stretch = state.plan.get(state.stretch)?;
            let left = stretch.to.saturating_sub(state.offset);
            if left == 0 {
                state.stretch += 1;
                state.offset = state.plan.get(state.stretch).map_or(0, |next| next.from);
                continue;
            }
            let (sequence, slot) = (stretch.sequence, Arc::clone(&stretch.slot));
            let Some(buffer) = state.idle.pop() else {
                drop(slot);
                self.room.wait(&*self.host, &mut state);
                continue;
            };
            let bytes = left.min(widen(self.chunk));
            let job = Job {
                number: state.next,
                sequence,
                slot,
                offset: state.offset,
                bytes: usize::try_from(bytes).unwrap_or(self.chunk),
                buffer,
            };
            state.next += 1;
            state.offset += bytes;
            state.reading += 1;
            return Some(job);
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.plan.clear();
        self.room.notify_all(&*self.host);
        self.ready.notify_all(&*self.host);
    }
}

/// Ends a read, also one that panics: then everybody's, so that nobody waits for its chunk.
struct Reading<'a, F: File>(&'a Shared<F>);

impl<F: File> Drop for Reading<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
        self.0.state.lock().reading -= 1;
        self.0.ready.notify_all(&*self.0.host);
    }
}

/// Fills `target`, as [`File::read_at`] does, by requests of the size that the device likes best.
fn read_in_pieces(file: &impl File, target: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    for piece in target.chunks_mut(REQUEST_BYTES) {
        let bytes = file.read_at(piece, offset.saturating_add(widen(read)))?;
        read += bytes;
        if bytes < piece.len() {
            break;
        }
    }
    Ok(read)
}
