//! [`Sealed`]: a log that was written and closed, as the files that it left.

use std::{
    hint::black_box,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use aligned::Buffer;
use wal::{
    Lsn, Options,
    format::{Frame, Identity, RecordKind, SegmentHeader},
};
use wal_bench::{disk::zeroed, figures::bytes_u64, log};

/// What every record has.
pub(crate) const RECORD_BYTES: usize = 1024;
/// As many threads as read ahead of the log's replay.
pub(crate) const THREADS: usize = 4;
/// What segments have by default. A log that is shorter than some of these has smaller ones, so that
/// all threads find work.
const SEGMENT_BYTES: u64 = 16 << 20;
const SEGMENTS_MIN: u64 = 8;

/// A segment's file, as far as it holds frames.
// Invariant: a file of this program's own, in a directory that it made and removes, at least `bytes`
// long. Nobody else knows of it, and the log that wrote it is closed.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    bytes: usize,
}

impl Segment {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What its header and its frames take: whole blocks.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A log on disk that nobody writes any more.
#[derive(Debug)]
pub(crate) struct Sealed {
    path: PathBuf,
    options: Options,
    pub(crate) identity: Identity,
    segments: Vec<Segment>,
    /// One a thread, kept from round to round. Each lock is taken by one thread, for a whole run.
    buffers: Vec<Mutex<Buffer>>,
    /// What its records have.
    pub(crate) payload_bytes: u64,
}

impl Sealed {
    /// Writes a log of `mib` MiB of records into `directory`, which must be this program's own, and
    /// closes it.
    pub(crate) fn write(directory: &Path, mib: u64) -> io::Result<Self> {
        let path = directory.join("log");
        let payload_bytes = mib << 20;
        let segment_bytes = (payload_bytes / SEGMENTS_MIN).next_multiple_of(1 << 20);
        let options = Options::new().segment_bytes(segment_bytes.min(SEGMENT_BYTES));
        append(&path, &options, payload_bytes).map_err(io::Error::other)?;
        let (identity, segments) = files(&path, &options).map_err(io::Error::other)?;
        let longest = segments.iter().map(Segment::bytes).max().unwrap_or(0);
        let buffers = (0..THREADS).map(|_| Ok(Mutex::new(zeroed(longest)?)));
        let buffers = buffers.collect::<io::Result<_>>()?;
        Ok(Self { path, options, identity, segments, buffers, payload_bytes })
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What its segments take.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| bytes_u64(segment.bytes)).sum()
    }

    /// Opens the log and reads its records as its user does; their bytes.
    pub(crate) fn replay(&self) -> wal::Result<u64> {
        let mut replay = self.options.open(&self.path)?;
        let mut payload_bytes = 0;
        while let Some(record) = replay.next()? {
            payload_bytes += bytes_u64(black_box(record.payload()).len());
        }
        Ok(payload_bytes)
    }

    /// Checks every frame in the `bytes` of a segment and looks at every record; their bytes.
    pub(crate) fn check(&self, segment: &Segment, bytes: &[u8]) -> io::Result<u64> {
        let wrong = |what: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {what}", segment.path.display()))
        };
        let Identity { log_id, block_bytes, .. } = self.identity;
        let mut at = usize::try_from(block_bytes).map_err(io::Error::other)?;
        let header = SegmentHeader::decode(&self.identity, &bytes[..at]);
        let base = header.map_err(|fault| wrong(&fault))?.base;
        let mut payload_bytes = 0;
        while at < bytes.len() {
            let lsn = Lsn::new(base.get() + bytes_u64(at));
            let frame = Frame::check(log_id, lsn, block_bytes, &bytes[at..]);
            let frame = frame.map_err(|fault| wrong(&fault))?;
            for record in frame.records().filter(|record| record.kind == RecordKind::Data) {
                payload_bytes += bytes_u64(black_box(record.payload).len());
            }
            let frame_bytes = frame.header.frame_bytes(block_bytes);
            at += usize::try_from(frame_bytes).map_err(io::Error::other)?;
        }
        Ok(payload_bytes)
    }

    /// Has `threads` threads take turns at the next segment. Each has memory of its own, aligned and as
    /// long as the segment. The sum of the answers.
    pub(crate) fn on_each(
        &self,
        threads: usize,
        work: impl Fn(&Segment, &mut [u8]) -> io::Result<u64> + Sync,
    ) -> io::Result<u64> {
        let next = AtomicUsize::new(0);
        let take_turns = |buffer: &Mutex<Buffer>| {
            let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut sum = 0;
            while let Some(segment) = self.segments.get(next.fetch_add(1, Ordering::Relaxed)) {
                sum += work(segment, &mut buffer.as_mut_slice()[..segment.bytes])?;
            }
            Ok(sum)
        };
        thread::scope(|scope| {
            let buffers = self.buffers[..threads].iter();
            let threads: Vec<_> =
                buffers.map(|buffer| scope.spawn(|| take_turns(buffer))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a reader panicked")).sum()
        })
    }
}

/// The records: bytes that a disk, or what is behind it, can neither drop as zeros nor compress.
fn append(path: &Path, options: &Options, payload_bytes: u64) -> wal::Result<()> {
    let (wal, _) = log::open(path, options)?;
    let mut record = [0; RECORD_BYTES];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..payload_bytes / bytes_u64(RECORD_BYTES) {
        for word in record.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        wal.append_untracked(&record)?;
    }
    wal.close()
}

/// Who the log is, and the files of the segments that hold frames, in the order of the log.
fn files(path: &Path, options: &Options) -> wal::Result<(Identity, Vec<Segment>)> {
    let mut log = options.open_read_only(path)?;
    let mut segments = log.segments()?;
    segments.retain(|segment| segment.frames > 0);
    segments.sort_by_key(|segment| segment.sequence);
    let of = |segment: wal::SegmentInfo| Segment {
        path: path.join(segment.file),
        bytes: usize::try_from(segment.used_bytes).expect("a segment is mapped whole"),
    };
    Ok((*log.identity(), segments.into_iter().map(of).collect()))
}
