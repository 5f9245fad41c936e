//! [`FrameWalker`]: frames in order.

use super::{
    ahead::{Ahead, Stretch},
    is_no_memory,
    window::{Window, widen},
};
use crate::{
    Error, Lsn, Result,
    format::{FRAME_HEADER_BYTES, Fault, Frame, FrameHeader, Identity, Purpose},
    io::{File, Storage},
    slots::Segment,
};
use aligned::Alignment;
use std::{fmt, io, ops::Range, sync::Arc};

/// Steps from frame to frame, checks each one once, and checks that they follow each other.
///
/// The frame that [`FrameWalker::next`] lent last stays available by [`FrameWalker::payload`], so
/// that whoever lends records one by one need not hold the borrow.
pub(crate) struct FrameWalker<F: File> {
    identity: Identity,
    block: usize,
    window: Window,
    ahead: Option<Ahead<F>>,
    is_alone: bool,
    /// The segment it is in.
    sequence: Option<u64>,
    /// Where in that segment's file the next frame should be.
    at: u64,
    previous: Option<(FrameHeader, u32)>,
    /// The payload of the last frame, as a place of the window.
    payload: Range<usize>,
}

/// What [`FrameWalker::next`] came to.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A frame that belongs.
    Frame(Frame<'a>),
    /// The limit, exactly where a frame ended.
    Limit,
    /// The end of the segment, exactly where a frame ended.
    End,
    /// No frame that belongs. Asking again answers the same.
    Stop(Stop),
    /// There is no memory to look: what stands there is not known, and no verdict may depend on it.
    NoMemory(Error),
}

/// Where no frame belongs, and what is there.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) lsn: Lsn,
    /// The same place in the slot's file.
    pub(crate) offset: u64,
    pub(crate) kind: StopKind,
    pub(crate) found: Found,
}

/// What the bytes say at the place where no frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StopKind {
    /// The segment is full: there is no such place.
    Full,
    /// A frame header's worth of zeros.
    Blank,
    /// Bytes of no frame.
    Garbage,
    /// A frame of this log that was there before: an older epoch, or another place.
    Ghost,
    /// A damaged frame header that names this place.
    TornHeader,
    /// A valid header for this place, of an epoch that is not over, and records that are not.
    TornRecords,
    /// A self-valid frame for this place that does not follow the frame before it.
    Unchained,
    /// A header for this place whose purpose this version does not know.
    Unknown,
    /// The device answers an error.
    Unreadable,
}

/// The particulars of a [`Stop`].
#[derive(Debug)]
pub(crate) enum Found {
    /// The segment ends here.
    Nothing,
    /// What is wrong with the bytes.
    Fault(Fault),
    /// A header whose frame would reach past the end of what may hold frames.
    Overlong { bytes: u64 },
    /// A frame of an epoch before the last frame's.
    OlderEpoch { found: u64, last: u64 },
    /// A frame that follows another one than the last.
    Unchained { epoch: u64, ordinal: u64, previous_crc: u32 },
    /// The system's answer.
    Error(io::Error),
}

/// What stands at a block, whatever stands before it.
#[derive(Debug)]
pub(crate) enum Sight {
    /// No frame header of this log for this place.
    Nothing,
    /// A valid header for this place, and whether the rest of the frame is intact.
    Frame { header: FrameHeader, intact: bool },
    /// A valid header for this place whose purpose this version does not know, and its epoch.
    Unknown { fault: Fault, epoch: u64 },
    /// The device answers an error.
    Unreadable(io::Error),
}

impl<F: File> FrameWalker<F> {
    /// A walker through segments of the log `identity`. Takes memory at its first step: up to two chunks, or
    /// as long as frames are.
    pub(crate) fn new(identity: Identity, alignment: Alignment) -> Self {
        Self {
            identity,
            block: usize::try_from(identity.block_bytes).unwrap_or(usize::MAX),
            window: Window::new(alignment, identity.segment_bytes),
            ahead: None,
            is_alone: false,
            sequence: None,
            at: 0,
            previous: None,
            payload: 0..0,
        }
    }

    /// The same for a look at a log that others may repeat often: nothing is ever read ahead of it.
    pub(crate) fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }

    /// Reads the `plan` on other threads from now on, while the walker walks it.
    pub(crate) fn read_ahead<S: Storage<File = F>>(
        &mut self,
        storage: &Arc<S>,
        plan: Vec<Stretch<F>>,
    ) {
        // What the last plan took first.
        self.ahead = None;
        if !self.is_alone {
            self.ahead = Ahead::start(storage, storage.alignment(), plan);
        }
    }

    /// The next frame of `segment`, as long as it begins below `limit`, which must be the end of a
    /// frame and is never read past.
    ///
    /// A segment other than the last one's begins at its first frame, which must follow the last
    /// frame if the segments are neighbours and is else taken at its word.
    pub(crate) fn next(&mut self, segment: &Segment<F>, limit: Lsn) -> Step<'_> {
        if self.sequence != Some(segment.sequence) {
            self.enter(segment.sequence);
        }
        self.payload = 0..0;
        let lsn = Lsn::new(segment.base.get().saturating_add(self.at));
        let room = limit.get().saturating_sub(segment.base.get());
        let end = room.min(self.identity.segment_bytes);
        if self.at >= self.identity.segment_bytes {
            return Step::End;
        }
        if lsn >= limit {
            return Step::Limit;
        }
        let (header, crc) = match self.header(segment, lsn, end) {
            Ok(header) => header,
            Err(stop) => return stop.into_step(segment),
        };
        let bytes = header.frame_bytes(self.identity.block_bytes);
        let place = match self.fetch(segment, usize::try_from(bytes).unwrap_or(usize::MAX), end) {
            Ok(place) => place,
            Err(error) => {
                return self.stop(lsn, StopKind::Unreadable, error.into()).into_step(segment);
            }
        };
        let payload_bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        let first = place.start + FRAME_HEADER_BYTES;
        let (log_id, block_bytes) = (self.identity.log_id, self.identity.block_bytes);
        let (at, follows) = (self.at, self.follows(&header));
        let whole = self.window.slice(place);
        match Frame::check_body(log_id, header, crc, block_bytes, whole) {
            Err(fault) => {
                let kind = StopKind::TornRecords;
                Step::Stop(Stop { lsn, offset: at, kind, found: Found::Fault(fault) })
            }
            Ok(_) if !follows => {
                let FrameHeader { epoch, first_ordinal: ordinal, previous_crc, .. } = header;
                let found = Found::Unchained { epoch, ordinal, previous_crc };
                Step::Stop(Stop { lsn, offset: at, kind: StopKind::Unchained, found })
            }
            Ok(frame) => {
                self.payload = first..first + payload_bytes;
                self.previous = Some((header, crc));
                self.at += bytes;
                Step::Frame(frame)
            }
        }
    }

    /// The payload of the frame that the last [`FrameWalker::next`] lent; else empty.
    #[inline]
    pub(crate) fn payload(&mut self) -> &[u8] {
        self.window.slice(self.payload.clone())
    }

    /// Whether no frame of the segment was found yet.
    pub(super) fn is_at_head(&self) -> bool {
        self.at <= u64::from(self.identity.block_bytes)
    }

    /// How much was read in all.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.window.bytes_read()
    }

    /// What stands at `offset` of `segment`, which the walker moves to. Ends the walk: the next
    /// step begins a segment anew. An error if there is no memory to look.
    pub(crate) fn sight(&mut self, segment: &Segment<F>, offset: u64) -> Result<Sight> {
        if self.sequence != Some(segment.sequence) {
            self.enter(segment.sequence);
        }
        (self.at, self.previous, self.payload) = (offset, None, 0..0);
        let lsn = Lsn::new(segment.base.get().saturating_add(offset));
        let end = self.identity.segment_bytes;
        let (header, crc) = match self.header(segment, lsn, end) {
            Ok(header) => header,
            Err(Stop { found: Found::Error(error), .. }) if is_no_memory(&error) => {
                return Err(no_memory(segment, offset, error));
            }
            Err(Stop { found: Found::Error(error), .. }) => return Ok(Sight::Unreadable(error)),
            Err(Stop {
                kind: StopKind::Unknown,
                found: Found::Fault(fault @ Fault::Purpose { epoch, .. }),
                ..
            }) => return Ok(Sight::Unknown { fault, epoch }),
            Err(_) => return Ok(Sight::Nothing),
        };
        let bytes = usize::try_from(header.frame_bytes(self.identity.block_bytes));
        let intact = match self.fetch(segment, bytes.unwrap_or(usize::MAX), end) {
            Err(error) if is_no_memory(&error) => return Err(no_memory(segment, offset, error)),
            // The rest is unreadable: torn, as far as anybody can tell.
            Err(_) => false,
            Ok(place) => {
                let (log_id, block_bytes) = (self.identity.log_id, self.identity.block_bytes);
                let whole = self.window.slice(place);
                Frame::check_body(log_id, header, crc, block_bytes, whole).is_ok()
            }
        };
        Ok(Sight::Frame { header, intact })
    }

    /// The bytes of the block at `offset` of `segment`, which the walker moves to; fewer where the
    /// file is shorter, and none where the device does not show them. An error if there is no memory.
    pub(crate) fn block(&mut self, segment: &Segment<F>, offset: u64) -> Result<&[u8]> {
        if self.sequence != Some(segment.sequence) {
            self.enter(segment.sequence);
        }
        (self.at, self.previous, self.payload) = (offset, None, 0..0);
        let place = match self.fetch(segment, self.block, self.identity.segment_bytes) {
            Ok(place) => place,
            Err(error) if is_no_memory(&error) => return Err(no_memory(segment, offset, error)),
            Err(_) => 0..0,
        };
        Ok(self.window.slice(place))
    }

    /// Forgets what was read and where it was.
    pub(crate) fn reset(&mut self) {
        (self.sequence, self.previous, self.payload) = (None, None, 0..0);
        self.window.reset();
    }

    fn enter(&mut self, sequence: u64) {
        if self.sequence.is_none_or(|last| last.checked_add(1) != Some(sequence)) {
            self.previous = None;
        }
        self.window.reset();
        self.sequence = Some(sequence);
        self.at = u64::from(self.identity.block_bytes);
    }

    /// The valid header that stands where the next frame should be, if it can be one.
    fn header(
        &mut self,
        segment: &Segment<F>,
        lsn: Lsn,
        end: u64,
    ) -> Result<(FrameHeader, u32), Stop> {
        let place = match self.fetch(segment, self.block, end) {
            Ok(place) => place,
            Err(_) if planted!("read-error-is-the-end") => {
                return Err(self.stop(lsn, StopKind::Blank, Found::Nothing));
            }
            Err(error) => return Err(self.stop(lsn, StopKind::Unreadable, error.into())),
        };
        let last = self.previous.map(|(header, _)| header.epoch);
        // Behind a close only a later writer's frame can be torn: any other damaged header is older.
        let closed = self.previous.filter(|(last, _)| last.purpose == Purpose::Close);
        let log_id = self.identity.log_id;
        let bytes = self.window.slice(place);
        let (header, crc) = match FrameHeader::decode(log_id, bytes) {
            Ok(header) => header,
            Err(fault) => {
                let kind = match (&fault, FrameHeader::claim(bytes, lsn)) {
                    (Fault::Blank, _) => StopKind::Blank,
                    (_, None) => StopKind::Garbage,
                    (Fault::Purpose { epoch, .. }, _) if Some(*epoch) < last => StopKind::Ghost,
                    (Fault::Purpose { .. }, _) => StopKind::Unknown,
                    (_, Some(claim)) => match &closed {
                        Some((close, crc)) if !claim.may_follow(close, *crc) => StopKind::Ghost,
                        _ => StopKind::TornHeader,
                    },
                };
                return Err(self.stop(lsn, kind, Found::Fault(fault)));
            }
        };
        if header.lsn != lsn {
            let found = Found::Fault(Fault::Place { found: header.lsn });
            return Err(self.stop(lsn, StopKind::Ghost, found));
        }
        let last = last.filter(|_| !planted!("epoch-may-fall"));
        if let Some(last) = last.filter(|last| header.epoch < *last) {
            let found = Found::OlderEpoch { found: header.epoch, last };
            return Err(self.stop(lsn, StopKind::Ghost, found));
        }
        let bytes = header.frame_bytes(self.identity.block_bytes);
        if bytes > end.saturating_sub(self.at) {
            return Err(self.stop(lsn, StopKind::TornRecords, Found::Overlong { bytes }));
        }
        Ok((header, crc))
    }

    fn follows(&self, header: &FrameHeader) -> bool {
        match &self.previous {
            Some((previous, crc)) => header.follows(previous, *crc),
            // The first frame of all has nothing before it; of another segment's, nobody knows.
            None if self.sequence == Some(0) => {
                header.previous_crc == 0 && header.first_ordinal == 0
            }
            None => true,
        }
    }

    /// Where in the window the `bytes` bytes of the segment are from `self.at` on, or as many of
    /// them as the file has.
    #[inline]
    fn fetch(&mut self, segment: &Segment<F>, bytes: usize, end: u64) -> io::Result<Range<usize>> {
        if let Some(place) = self.window.get(self.at, bytes) {
            return Ok(place);
        }
        self.fetch_cold(segment, bytes, end)
    }

    #[cold]
    fn fetch_cold(
        &mut self,
        segment: &Segment<F>,
        bytes: usize,
        end: u64,
    ) -> io::Result<Range<usize>> {
        while let Some(ahead) = &mut self.ahead {
            let Some(chunk) = ahead.take() else {
                self.ahead = None;
                break;
            };
            let first = chunk.filled.offset;
            let last = first.saturating_add(widen(chunk.filled.bytes));
            let is_same = chunk.sequence == segment.sequence;
            let is_passed = chunk.sequence < segment.sequence
                || (is_same && chunk.outcome.is_ok() && last <= self.at);
            if is_passed {
                ahead.give_back(chunk.filled.buffer);
                continue;
            }
            let continues = first == self.window.end() && self.window.get(self.at, 0).is_some();
            let is_next = is_same && (continues || first <= self.at);
            if !is_next || chunk.outcome.is_err() {
                // Another way through the log than the plan's, or a sector that cannot be read and
                // has to be found: one block at a time from here on.
                self.ahead = None;
                break;
            }
            for buffer in self.window.install(self.at, bytes, chunk.filled)?.into_iter().flatten() {
                ahead.give_back(buffer);
            }
            if let Some(place) = self.window.get(self.at, bytes) {
                return Ok(place);
            }
        }
        if self.ahead.is_none() {
            self.window.load(&segment.slot.file, self.at, bytes, end)?;
        }
        Ok(self.window.get(self.at, bytes).or_else(|| self.window.find(self.at)).unwrap_or(0..0))
    }

    fn stop(&self, lsn: Lsn, kind: StopKind, found: Found) -> Stop {
        Stop { lsn, offset: self.at, kind, found }
    }
}

impl From<io::Error> for Found {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the end of the segment"),
            Self::Fault(fault) => fault.fmt(f),
            Self::Overlong { bytes } => write!(f, "a frame of {bytes} bytes, more than fit"),
            Self::OlderEpoch { found, last } => {
                write!(f, "a frame of epoch {found}, older than {last}")
            }
            Self::Unchained { epoch, ordinal, previous_crc } => write!(
                f,
                "an intact frame of epoch {epoch}, ordinal {ordinal} that follows another frame, \
                 of CRC {previous_crc:08x}"
            ),
            Self::Error(error) => write!(f, "a read error: {error}"),
        }
    }
}

impl Stop {
    /// What a walk in `segment` comes to that ends here.
    fn into_step<F>(self, segment: &Segment<F>) -> Step<'static> {
        match self.found {
            Found::Error(error) if is_no_memory(&error) => {
                Step::NoMemory(no_memory(segment, self.offset, error))
            }
            _ => Step::Stop(self),
        }
    }

    /// The end of a segment that frames fill to the last block.
    pub(crate) fn full<F>(segment: &Segment<F>, identity: &Identity) -> Self {
        Self {
            lsn: segment.end(identity),
            offset: identity.segment_bytes,
            kind: StopKind::Full,
            found: Found::Nothing,
        }
    }
}

fn no_memory<F>(segment: &Segment<F>, offset: u64, error: io::Error) -> Error {
    Error::from_io("read a segment: there is no memory for it", error)
        .with_path(&segment.slot.name)
        .with_segment(segment.sequence)
        .with_offset(offset)
}
