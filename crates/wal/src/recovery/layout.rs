//! Which slots hold what the log needs, and which hold nothing that it needs.

use super::{
    scan::{Scan, found_instead},
    survey::{Head, Survey, Surveyed, slot_error},
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{Fault, FrameHeader, HeaderFault, Identity, Origin, SegmentHeader, VERSION},
    io::{File, Storage, copied},
    reading::{self, Found},
    slots::{FreeSlot, Segment},
};
use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

const STEP_BYTES: usize = 1 << 20;

/// What every slot is good for.
pub(crate) struct Layout<F> {
    /// Contiguous, oldest first, the last one holds the tail.
    pub(crate) live: Vec<Segment<F>>,
    pub(crate) successor: Option<Segment<F>>,
    pub(crate) free: Vec<FreeSlot<F>>,
    /// Of the frames found in slots that are no segment.
    pub(crate) highest_epoch: u64,
    pub(crate) warnings: Vec<String>,
    pub(crate) bytes_read: u64,
}

struct Planner<'a, S: Storage> {
    storage: &'a S,
    identity: &'a Identity,
    start_mark: Lsn,
    /// The sequence of the tail's segment.
    tail: u64,
    layout: Layout<S::File>,
}

/// What was found in a slot without a header.
struct Contents {
    zero: bool,
    /// The frame that stands highest in the log.
    highest: Option<(u64, FrameHeader)>,
    highest_epoch: u64,
    /// The highest frame whose purpose this version does not know: where, its Lsn, what was found.
    unknown: Option<(u64, Lsn, Fault)>,
}

/// Sorts the slots, and refuses if one that the log needs is missing, damaged or there twice.
pub(crate) fn plan<S: Storage>(
    storage: &S,
    identity: &Identity,
    survey: &Survey<S::File>,
    scan: &Scan<S::File>,
) -> Result<Layout<S::File>> {
    let start_mark = scan.checkpoint().map_or(Lsn::ZERO, |(start_mark, _)| *start_mark);
    if start_mark > scan.tail_lsn() {
        return Err(Error::new(ErrorKind::Corrupt, "the start mark lies past the log's end")
            .with_path(storage.path())
            .with_lsn(start_mark)
            .with_expected_found(format!("at most lsn {}", scan.tail_lsn()), start_mark));
    }
    let layout = Layout {
        live: Vec::new(),
        successor: None,
        free: Vec::new(),
        highest_epoch: 0,
        warnings: Vec::new(),
        bytes_read: 0,
    };
    let tail = scan.tail().segment.sequence;
    let mut planner = Planner { storage, identity, start_mark, tail, layout };
    planner.place_segments(survey, scan)?;
    planner.place_others(survey)?;
    Ok(planner.layout)
}

impl<S: Storage> Planner<'_, S> {
    /// Places the slots whose header is valid.
    fn place_segments(&mut self, survey: &Survey<S::File>, scan: &Scan<S::File>) -> Result<()> {
        let oldest = self.oldest();
        let mut needed = BTreeSet::new();
        for surveyed in &survey.slots {
            let Head::Valid(header) = &surveyed.head else { continue };
            if header.sequence < oldest {
                self.check_header_age(surveyed, header)?;
                self.layout.free.push(FreeSlot {
                    slot: Arc::clone(&surveyed.slot),
                    origin: Origin::Recycled,
                    full: surveyed.bytes >= self.identity.segment_bytes,
                });
                continue;
            }
            self.check_length(surveyed, header.sequence)?;
            needed.insert(header.sequence);
            let segment = Segment::new(header, Arc::clone(&surveyed.slot));
            if header.sequence == self.tail.saturating_add(1) {
                self.layout.successor = Some(segment);
            } else if header.sequence <= self.tail {
                self.layout.live.push(segment);
            }
        }
        self.layout.live.sort_unstable_by_key(|segment| segment.sequence);
        let missing = (oldest..=self.tail).find(|sequence| !needed.contains(sequence));
        match missing {
            None => Ok(()),
            Some(_) if planted!("missing-segment-overlooked") => Ok(()),
            Some(sequence) => {
                for surveyed in &survey.slots {
                    if let Head::Valid(header) = &surveyed.head {
                        self.check_header_age(surveyed, header)?;
                    }
                }
                // Only what is older than all that is there may have been released.
                let is_oldest = needed.first().is_none_or(|first| *first > sequence);
                if let Some((segment, offset, found)) = scan.lost_frame().filter(|_| is_oldest) {
                    return Err(self.unknown_beginning(segment, offset, found));
                }
                match self.place_others(survey) {
                    // A frame that was merely torn has taken nothing along: what it restates was durable
                    // elsewhere. But it may have been durable and the last, with a checkpoint in it.
                    Ok(()) => {
                        let missing = self.missing(sequence, survey);
                        Err(match scan.torn_frame().filter(|_| is_oldest) {
                            None => missing,
                            Some((segment, offset, found)) => missing.with_source(
                                io::Error::other(self.unknown_beginning(segment, offset, found)),
                            ),
                        })
                    }
                    Err(error) if reading::was_no_memory(&error) => Err(error),
                    // A slot that may be the one that is missing cannot be read.
                    Err(error) if error.kind() == ErrorKind::Io => {
                        Err(self.missing(sequence, survey).with_source(io::Error::other(error)))
                    }
                    // A slot that holds its frames, and not its header, is the better answer.
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Refuses a slot whose first frame is of a later segment than its header, and needed: the header of
    /// that segment was durable before the frame was written, so a disk that shows the one and not the
    /// other has lost a write.
    fn check_header_age(
        &mut self,
        surveyed: &Surveyed<S::File>,
        header: &SegmentHeader,
    ) -> Result<()> {
        let (offset, segment_bytes) =
            (u64::from(self.identity.block_bytes), self.identity.segment_bytes);
        let length = usize::try_from(offset).unwrap_or(usize::MAX);
        let alignment = self.storage.alignment();
        let block = match reading::read_piece(&surveyed.slot.file, alignment, offset, length) {
            Ok(block) => block,
            Err(error) if reading::is_no_memory(&error) => {
                return Err(slot_error(self.storage, &surveyed.slot.name, "read a slot", error));
            }
            // What cannot be read proves nothing.
            Err(_) => return Ok(()),
        };
        self.layout.bytes_read += widen(block.len());
        let (lsn, unknown) = match FrameHeader::decode(self.identity.log_id, &block) {
            Ok((frame, _)) => (frame.lsn, None),
            Err(fault @ Fault::Purpose { lsn, .. }) => (lsn, Some(fault)),
            Err(_) => return Ok(()),
        };
        let sequence = lsn.get() / segment_bytes;
        let is_needed = sequence > header.sequence && sequence >= self.oldest();
        if lsn.get() % segment_bytes != offset || !is_needed {
            return Ok(());
        }
        if let Some(fault) = unknown {
            return Err(self.unsupported(surveyed, offset, lsn, &fault));
        }
        Err(self
            .corrupt("a slot's header is older than its frames", surveyed)
            .with_segment(sequence)
            .with_offset(0)
            .with_lsn(Lsn::new(lsn.get() - offset))
            .with_expected_found(
                format!("the header of the segment of the frame at lsn {lsn}"),
                format!("the header of segment {}", header.sequence),
            ))
    }

    fn check_length(&mut self, surveyed: &Surveyed<S::File>, sequence: u64) -> Result<()> {
        let expected = self.identity.segment_bytes;
        if surveyed.bytes < expected {
            return Err(self
                .corrupt("a segment's file was cut short", surveyed)
                .with_segment(sequence)
                .with_expected_found(format!("{expected} bytes"), surveyed.bytes));
        }
        if surveyed.bytes > expected {
            let (name, bytes) = (&surveyed.slot.name, surveyed.bytes);
            let warning = format!("{name} is {bytes} bytes long, a segment is {expected}");
            self.layout.warnings.push(warning);
        }
        Ok(())
    }

    /// The error for segments that are missing, or were released: the frame that would tell is bad.
    fn unknown_beginning(&self, segment: &Segment<S::File>, offset: u64, found: &Found) -> Error {
        let what =
            "a frame that may say where the log begins is bad, and segments before it are missing";
        let error = Error::new(ErrorKind::Corrupt, what)
            .with_path(self.storage.path().join(&segment.slot.name))
            .with_segment(segment.sequence)
            .with_offset(offset)
            .with_lsn(Lsn::new(segment.base.get().saturating_add(offset)));
        found_instead(error, format!("segments {} to {}", self.oldest(), self.tail), found)
    }

    /// The error for a segment that no slot holds. Tells which slot it may have been.
    fn missing(&self, sequence: u64, survey: &Survey<S::File>) -> Error {
        let base = Lsn::new(sequence.saturating_mul(self.identity.segment_bytes));
        let others =
            survey.slots.iter().filter(|surveyed| !matches!(surveyed.head, Head::Valid(_)));
        let others = others.map(|surveyed| format!("{}: {}", surveyed.slot.name, surveyed.head));
        let others: Vec<_> = others.collect();
        let found = match others.as_slice() {
            [] => "none".to_owned(),
            others => format!("none; slots without a valid header: {}", others.join("; ")),
        };
        Error::new(ErrorKind::Corrupt, "a segment is missing")
            .with_path(self.storage.path())
            .with_segment(sequence)
            .with_lsn(base)
            .with_expected_found(format!("segments {} to {}", self.oldest(), self.tail), found)
    }

    /// Places the slots whose header is not valid: free only if no frame in them is needed.
    fn place_others(&mut self, survey: &Survey<S::File>) -> Result<()> {
        for surveyed in &survey.slots {
            let fault = match &surveyed.head {
                Head::Valid(_) => continue,
                Head::Invalid(HeaderFault::OtherLog { found }) => {
                    return Err(self
                        .corrupt("a slot belongs to another log", surveyed)
                        .with_offset(0)
                        .with_expected_found(format!("log {}", self.identity.log_id), found));
                }
                Head::Invalid(HeaderFault::Version { found }) => {
                    return Err(Error::new(ErrorKind::Unsupported, "a segment's format")
                        .with_path(self.path(surveyed))
                        .with_expected_found(VERSION, found));
                }
                head => head.to_string(),
            };
            let contents = self.look_through(surveyed)?;
            if let Some((offset, lsn, fault)) = &contents.unknown
                && lsn.get() / self.identity.segment_bytes >= self.oldest()
            {
                return Err(self.unsupported(surveyed, *offset, *lsn, fault));
            }
            if let Some((offset, frame)) = contents.highest
                && frame.lsn.get() / self.identity.segment_bytes >= self.oldest()
            {
                let base = frame.lsn.get() - offset;
                let error = self
                    .corrupt("a slot holds frames that are needed, and is no segment", surveyed)
                    .with_segment(base / self.identity.segment_bytes)
                    .with_offset(0)
                    .with_lsn(Lsn::new(base))
                    .with_expected_found(
                        format!("the header of the segment of the frame at lsn {}", frame.lsn),
                        fault,
                    );
                return Err(match &surveyed.head {
                    Head::Unreadable(source) => error.with_source(copied(source)),
                    _ => error,
                });
            }
            self.layout.highest_epoch = self.layout.highest_epoch.max(contents.highest_epoch);
            let full = surveyed.bytes >= self.identity.segment_bytes;
            let origin = if contents.zero { Origin::Zeroed } else { Origin::Recycled };
            let slot = Arc::clone(&surveyed.slot);
            self.layout.free.push(FreeSlot { slot, origin, full });
        }
        Ok(())
    }

    /// Reads a whole slot for frame headers that are valid at their offset.
    fn look_through(&mut self, surveyed: &Surveyed<S::File>) -> Result<Contents> {
        let failed = |error, offset| {
            Error::from_io("read a slot without a valid header, to know whether it is free", error)
                .with_path(self.storage.path().join(&surveyed.slot.name))
                .with_offset(offset)
        };
        let step = usize::try_from(self.identity.segment_bytes).unwrap_or(STEP_BYTES);
        let memory = reading::memory(self.storage.alignment(), STEP_BYTES.min(step));
        let mut memory = memory.map_err(|error| failed(error, 0))?;
        let buffer = memory.as_mut_slice();
        let block = usize::try_from(self.identity.block_bytes).unwrap_or(usize::MAX);
        let mut contents = Contents { zero: true, highest: None, highest_epoch: 0, unknown: None };
        let mut offset = 0;
        // An unreadable header needs no second try: it is known to be none.
        if matches!(surveyed.head, Head::Unreadable(_)) {
            offset = u64::from(self.identity.block_bytes);
            contents.zero = false;
        }
        while offset < surveyed.bytes.min(self.identity.segment_bytes) {
            let read = surveyed.slot.file.read_at(buffer, offset);
            let read = read.map_err(|error| failed(error, offset))?;
            self.layout.bytes_read += widen(read);
            for (index, block) in buffer[..read].chunks(block).enumerate() {
                let at = offset + widen(index) * u64::from(self.identity.block_bytes);
                contents.look_at(self.identity, block, at);
            }
            if read < buffer.len() {
                break;
            }
            offset += widen(read);
        }
        Ok(contents)
    }

    /// The sequence of the oldest segment that is needed. The tail may be the end of its segment
    /// and the start mark as well: that segment stays.
    fn oldest(&self) -> u64 {
        (self.start_mark.get() / self.identity.segment_bytes).min(self.tail)
    }

    fn path(&self, surveyed: &Surveyed<S::File>) -> PathBuf {
        self.storage.path().join(&surveyed.slot.name)
    }

    fn unsupported(
        &self,
        surveyed: &Surveyed<S::File>,
        offset: u64,
        lsn: Lsn,
        fault: &Fault,
    ) -> Error {
        Error::new(ErrorKind::Unsupported, "a frame's purpose")
            .with_path(self.path(surveyed))
            .with_offset(offset)
            .with_lsn(lsn)
            .with_expected_found("one that this version knows", fault)
    }

    fn corrupt(&self, what: &str, surveyed: &Surveyed<S::File>) -> Error {
        Error::new(ErrorKind::Corrupt, what).with_path(self.path(surveyed))
    }
}

impl Contents {
    fn look_at(&mut self, identity: &Identity, block: &[u8], offset: u64) {
        if reading::is_zero(block) {
            return;
        }
        self.zero = false;
        let is_here = |lsn: Lsn| lsn.get() % identity.segment_bytes == offset;
        let header = match FrameHeader::decode(identity.log_id, block) {
            Ok((header, _)) if is_here(header.lsn) => header,
            Err(fault @ Fault::Purpose { lsn, .. }) if is_here(lsn) => {
                if self.unknown.as_ref().is_none_or(|(_, highest, _)| lsn > *highest) {
                    self.unknown = Some((offset, lsn, fault));
                }
                return;
            }
            _ => return,
        };
        self.highest_epoch = self.highest_epoch.max(header.epoch);
        if self.highest.is_none_or(|(_, highest)| header.lsn > highest.lsn) {
            self.highest = Some((offset, header));
        }
    }
}

fn widen(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
