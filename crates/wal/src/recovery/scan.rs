/*!
Scanning: walking the last segments and gathering whatever proves something. Writes nothing.

Which segments matter is not known before they are read. The rule that makes two or three enough: a
segment's header is written only when a frame of the segment before it is durable, and its first frame
only when *all* frames of the segment before it are. So the log ends in the last segment that holds a
frame, or in the one before it if that frame does not belong.
*/

mod lost;

use super::{
    decide::{Facts, Ground, LastFrame, Successor, Unreadable},
    survey::{Head, Survey, Surveyed},
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{Checkpoint, Claim, Fault, Frame, FrameHeader, Identity, Origin, Purpose, RecordKind},
    io::{File, Storage, copied},
    reading::{self, Found, FrameWalker, Sight, Step, Stop, StopKind, Stretch},
    slots::Segment,
};
use std::{collections::BTreeMap, io, sync::Arc};

/// One segment, read from its first frame to its last block.
pub(crate) struct SegmentScan<F> {
    pub(crate) segment: Segment<F>,
    /// The frames that follow each other from the first one on, which is taken at its word.
    pub(crate) taken: Vec<FrameHeader>,
    pub(crate) first: Option<(FrameHeader, u32)>,
    pub(crate) last: Option<(FrameHeader, u32)>,
    pub(crate) records: u64,
    pub(crate) last_record: Option<Lsn>,
    /// The highest start mark among them, and what the user put beside it.
    pub(crate) checkpoint: Option<(Lsn, Vec<u8>)>,
    /// Where they end.
    pub(crate) stop: Stop,
    pub(crate) ground: Ground,
    /// What a damaged header there names.
    claim: Option<Claim>,
    /// Headers valid for their place from there on, and whether their frames are intact.
    pub(crate) sightings: Vec<(FrameHeader, bool)>,
    /// Headers from the stop on whose purpose this version does not know.
    unknown: Vec<Unknown>,
    /// The first block from there on that the device refuses to show.
    pub(crate) unreadable: Option<(u64, io::Error)>,
}

/// The segments around the tail.
pub(crate) struct Scan<F> {
    /// The tail's segment, and before it its predecessor where that is needed: their frames follow
    /// each other. Invariant: never empty.
    pub(crate) chain: Vec<SegmentScan<F>>,
    /// Segments prepared after the tail's: nothing in them belongs.
    pub(crate) beyond: Vec<SegmentScan<F>>,
    /// Above every epoch seen anywhere.
    pub(crate) highest_epoch: u64,
    /// The first frame of the next segment, real, though the one before it is not whole.
    successor_frame: Option<FrameHeader>,
    has_predecessor: bool,
}

/// What proves that the place of a stop once held a durable frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// A frame that says how far the log was durable when it was sealed.
    Mark(FrameHeader),
    /// A frame of a later segment, which is written only when this one is durable.
    Successor(FrameHeader),
}

/// A header at or behind the stop whose purpose this version does not know.
pub(crate) struct Unknown {
    offset: u64,
    epoch: u64,
    fault: Fault,
}

/// Reads one segment.
pub(crate) fn scan_segment<F: File>(
    walker: &mut FrameWalker<F>,
    identity: &Identity,
    segment: Segment<F>,
    origin: Origin,
) -> Result<SegmentScan<F>> {
    walker.reset();
    let mut scan = SegmentScan {
        stop: Stop::full(&segment, identity),
        segment,
        taken: Vec::new(),
        first: None,
        last: None,
        records: 0,
        last_record: None,
        checkpoint: None,
        ground: Ground::Recycled,
        claim: None,
        sightings: Vec::new(),
        unknown: Vec::new(),
        unreadable: None,
    };
    let end = scan.segment.end(identity);
    loop {
        let segment = scan.segment.clone();
        match walker.next(&segment, end) {
            Step::Frame(frame) => scan.take(&frame)?,
            Step::End | Step::Limit => break,
            Step::NoMemory(error) => return Err(error),
            Step::Stop(stop) => {
                scan.stop = stop;
                break;
            }
        }
    }
    scan.look_further(walker, identity, origin)?;
    Ok(scan)
}

impl<F: File> SegmentScan<F> {
    fn take(&mut self, frame: &Frame<'_>) -> Result<()> {
        self.taken.push(frame.header);
        self.first.get_or_insert((frame.header, frame.crc));
        self.last = Some((frame.header, frame.crc));
        self.records += u64::from(frame.header.record_count);
        for record in frame.records() {
            match record.kind {
                RecordKind::Void => {}
                RecordKind::Data => self.last_record = Some(record.lsn),
                RecordKind::Checkpoint => {
                    let checkpoint = Checkpoint::decode(record.payload).ok_or_else(|| {
                        self.corrupt("a checkpoint makes no sense", record.lsn)
                            .with_expected_found("8 to 1032 bytes", record.payload.len())
                    })?;
                    let known = self.checkpoint.as_ref().map(|(start_mark, _)| *start_mark);
                    if known.is_none_or(|known| checkpoint.start_mark >= known) {
                        let state = checkpoint.state.to_vec();
                        self.checkpoint = Some((checkpoint.start_mark, state));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at every block from the stop on.
    fn look_further(
        &mut self,
        walker: &mut FrameWalker<F>,
        identity: &Identity,
        origin: Origin,
    ) -> Result<()> {
        let is_over = self.stop.kind == StopKind::Blank && planted!("zeros-end-the-log");
        if self.stop.kind == StopKind::Full || is_over {
            return Ok(());
        }
        let block = walker.block(&self.segment, self.stop.offset)?;
        if self.stop.kind == StopKind::TornHeader {
            self.claim = FrameHeader::claim(block, self.stop.lsn);
        }
        if origin == Origin::Zeroed {
            self.ground = if reading::is_zero(block) { Ground::Zeroed } else { Ground::Disturbed };
        }
        let block_bytes = u64::from(identity.block_bytes);
        let mut offset = self.stop.offset;
        while offset < identity.segment_bytes {
            let bytes = match walker.sight(&self.segment, offset)? {
                Sight::Nothing => block_bytes,
                Sight::Unknown { fault, epoch } => {
                    self.unknown.push(Unknown { offset, epoch, fault });
                    block_bytes
                }
                Sight::Frame { header, intact } => {
                    self.sightings.push((header, intact));
                    if intact { header.frame_bytes(identity.block_bytes) } else { block_bytes }
                }
                Sight::Unreadable(error) => {
                    self.unreadable.get_or_insert((offset, error));
                    block_bytes
                }
            };
            offset = offset.saturating_add(bytes);
        }
        Ok(())
    }

    /// All headers valid for their place, in order of place.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &FrameHeader> {
        self.taken.iter().chain(self.sightings.iter().map(|(header, _)| header))
    }

    fn highest_epoch(&self) -> u64 {
        self.headers().map(|header| header.epoch).max().unwrap_or(0)
    }

    fn start_mark(&self) -> Lsn {
        self.checkpoint.as_ref().map_or(Lsn::ZERO, |(start_mark, _)| *start_mark)
    }

    fn corrupt(&self, what: &str, lsn: Lsn) -> Error {
        Error::new(ErrorKind::Corrupt, what)
            .with_path(&self.segment.slot.name)
            .with_segment(self.segment.sequence)
            .with_lsn(lsn)
    }
}

/// Reads the segments that the tail can be in.
pub(crate) fn scan<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    survey: &Survey<S::File>,
    walker: &mut FrameWalker<S::File>,
) -> Result<Scan<S::File>> {
    let by_sequence = survey.by_sequence();
    let Some(top) = by_sequence.keys().next_back().copied() else {
        return Err(no_segment(&**storage, survey));
    };
    let mut read =
        |sequence: u64| read_segment(storage, identity, survey, &by_sequence, walker, sequence);
    let mut last = read(top)?;
    let mut beyond = Vec::new();
    let before = |sequence: u64| sequence.checked_sub(1).filter(|s| by_sequence.contains_key(s));
    if last.headers().next().is_none()
        && let Some(sequence) = before(top)
    {
        beyond.push(last);
        last = read(sequence)?;
    }
    let sequence = last.segment.sequence;
    let previous = before(sequence).map(read).transpose()?;
    let scans = [Some(&last), previous.as_ref(), beyond.first()];
    let highest_epoch = scans.into_iter().flatten().map(SegmentScan::highest_epoch).max();
    let mut scan = Scan {
        chain: Vec::new(),
        beyond,
        highest_epoch: highest_epoch.unwrap_or(0),
        successor_frame: None,
        has_predecessor: previous.is_some(),
    };
    let Some(previous) = previous else {
        scan.chain.push(last);
        return Ok(scan);
    };
    // The epoch never falls along the log: a first frame older than something before it was cut once
    // and is a ghost, however intact it is.
    let real = last.first.filter(|(first, _)| first.epoch >= previous.highest_epoch());
    let Some((first, _)) = real else {
        scan.chain.push(previous);
        scan.beyond.insert(0, last);
        return Ok(scan);
    };
    if last.start_mark() >= last.segment.base {
        // The predecessor was released, and may be half of something else by now.
        scan.chain.push(last);
    } else if previous.last.is_some_and(|(header, crc)| first.follows(&header, crc)) {
        scan.chain = vec![previous, last];
    } else {
        scan.successor_frame = Some(first);
        scan.chain.push(previous);
        scan.beyond.insert(0, last);
    }
    Ok(scan)
}

fn read_segment<S: Storage>(
    storage: &Arc<S>,
    identity: &Identity,
    survey: &Survey<S::File>,
    by_sequence: &BTreeMap<u64, Vec<usize>>,
    walker: &mut FrameWalker<S::File>,
    sequence: u64,
) -> Result<SegmentScan<S::File>> {
    let index = by_sequence.get(&sequence).and_then(|indexes| indexes.first());
    let surveyed = index.and_then(|index| survey.slots.get(*index));
    let Some(Surveyed { slot, head: Head::Valid(header), .. }) = surveyed else {
        return Err(no_segment(&**storage, survey));
    };
    let segment = Segment::new(header, Arc::clone(slot));
    walker.read_ahead(storage, vec![Stretch::of(&segment, identity, segment.end(identity))]);
    scan_segment(walker, identity, segment, header.origin)
}

/// Of several slots that say that they are the same segment, takes the one that holds its frames.
///
/// A disk that says "full" when a header is made durable may have written it all the same; then the
/// writer prepares another slot. The others become slots without a header: they are free unless a
/// frame in them is needed, and that is corruption.
pub(crate) fn settle_twins<F: File>(
    identity: &Identity,
    survey: &mut Survey<F>,
    walker: &mut FrameWalker<F>,
) -> Result<()> {
    for (sequence, indexes) in survey.by_sequence() {
        if indexes.len() < 2 || planted!("twins-not-settled") {
            continue;
        }
        let mut holder = indexes.first().copied();
        for index in &indexes {
            let Some(surveyed) = survey.slots.get(*index) else { continue };
            let Head::Valid(header) = &surveyed.head else { continue };
            let segment = Segment::new(header, Arc::clone(&surveyed.slot));
            let scan = scan_segment(walker, identity, segment, header.origin)?;
            if scan.headers().next().is_some() {
                holder = Some(*index);
                break;
            }
        }
        for index in indexes.iter().filter(|index| Some(**index) != holder) {
            if let Some(surveyed) = survey.slots.get_mut(*index) {
                surveyed.head = Head::Twin { sequence };
            }
        }
    }
    Ok(())
}

/// The error for a log none of whose slots says that it is a segment.
fn no_segment<S: Storage>(storage: &S, survey: &Survey<S::File>) -> Error {
    let found =
        survey.slots.iter().map(|surveyed| format!("{}: {}", surveyed.slot.name, surveyed.head));
    let found: Vec<_> = found.collect();
    Error::new(ErrorKind::Corrupt, "the log has an identity and no segment")
        .with_path(storage.path())
        .with_expected_found("a valid segment header", format!("[{}]", found.join("; ")))
}

impl<F: File> Scan<F> {
    /// The scan of the segment that holds the tail.
    pub(crate) fn tail(&self) -> &SegmentScan<F> {
        #[expect(clippy::expect_used, reason = "the invariant of `chain`")]
        self.chain.last().expect("the scan has a segment for the tail")
    }

    /// Where the next frame goes.
    pub(crate) fn tail_lsn(&self) -> Lsn {
        self.tail().stop.lsn
    }

    /// The last frame that belongs.
    pub(crate) fn last(&self) -> Option<(FrameHeader, u32)> {
        self.chain.iter().rev().find_map(|scan| scan.last)
    }

    fn last_epoch(&self) -> u64 {
        self.last().map_or(0, |(header, _)| header.epoch)
    }

    /// Frames further on than the tail that are not older than the last one that belongs.
    pub(crate) fn later_frames(&self) -> impl Iterator<Item = (&Segment<F>, FrameHeader, bool)> {
        let (tail, epoch) = (self.tail_lsn(), self.last_epoch());
        let here =
            self.tail().sightings.iter().map(move |sighting| (&self.tail().segment, *sighting));
        let beyond = self.beyond.iter().flat_map(|scan| {
            let taken = scan.taken.iter().map(|header| (*header, true));
            taken
                .chain(scan.sightings.iter().copied())
                .map(move |sighting| (&scan.segment, sighting))
        });
        here.chain(beyond)
            .filter(move |(_, (header, _))| header.epoch >= epoch && header.lsn > tail)
            .map(|(segment, (header, intact))| (segment, header, intact))
    }

    /// What proves that a durable frame once stood at the tail.
    pub(crate) fn proof(&self) -> Option<Proof> {
        let tail = self.tail_lsn();
        if let Some(frame) = self.successor_frame {
            return Some(Proof::Successor(frame));
        }
        let marks = self.chain.iter().flat_map(|scan| scan.taken.iter().copied());
        let marks = marks.chain(self.later_frames().map(|(_, header, _)| header));
        let highest = marks.max_by_key(|header| header.durable_mark);
        if let Some(header) = highest.filter(|header| header.durable_mark > tail) {
            return Some(Proof::Mark(header));
        }
        // Its header is from this life of the log, so it was written, and then the next segment's
        // frames only after it was durable. Anything less may be what earlier lives left behind in
        // room that this one did not use.
        let was_written = self.tail().stop.kind == StopKind::TornRecords;
        // And only by this writer or a later one: a frame there of an older writer was there first, for
        // the one that is torn here is where a later open found the log's end, and crashed itself.
        let torn = self.tail().sightings.first().filter(|(header, _)| header.lsn == tail);
        let epoch = torn.map_or(0, |(header, _)| header.epoch);
        let is_beyond = |segment: &Segment<F>| segment.sequence > self.tail().segment.sequence;
        let mut later = self.later_frames().filter(|_| was_written);
        later
            .find(|(segment, header, _)| is_beyond(segment) && header.epoch >= epoch)
            .map(|(_, header, _)| Proof::Successor(header))
    }

    /// The highest mark of all frames that belong and all that follow: what is below it was
    /// acknowledged or could have been. Never past the tail.
    pub(crate) fn durable_mark(&self) -> Lsn {
        let taken = self.chain.iter().flat_map(|scan| scan.taken.iter().copied());
        let all = taken.chain(self.later_frames().map(|(_, header, _)| header));
        // Every other frame is written when all records before it are known to be durable.
        let mark = |header: FrameHeader| match header.purpose {
            Purpose::Records => header.durable_mark,
            Purpose::Opening | Purpose::Confirmation | Purpose::Close => {
                header.durable_mark.max(header.lsn)
            }
        };
        // A close may be written beside an idle log's confirmation, which holds no record, and be the
        // only one of the two that survives.
        all.map(mark).max().unwrap_or(Lsn::ZERO).min(self.tail_lsn())
    }

    /// The latest checkpoint: the one with the highest start mark.
    pub(crate) fn checkpoint(&self) -> Option<&(Lsn, Vec<u8>)> {
        self.chain.iter().filter_map(|scan| scan.checkpoint.as_ref()).max_by_key(|(mark, _)| *mark)
    }

    /// A frame of a later version at the tail or further on, that is not older than the last one that
    /// belongs: where, and what it is.
    pub(crate) fn unknown(&self) -> Option<(&Segment<F>, u64, &Fault)> {
        let epoch = self.last_epoch();
        let mut all = std::iter::once(self.tail())
            .chain(&self.beyond)
            .flat_map(|scan| scan.unknown.iter().map(move |unknown| (&scan.segment, unknown)));
        all.find(|(_, unknown)| unknown.epoch >= epoch)
            .map(|(segment, unknown)| (segment, unknown.offset, &unknown.fault))
    }

    /// All that the verdict depends on.
    pub(crate) fn facts(&self, policy: Unreadable) -> Facts {
        let tail = self.tail();
        let is_begun = tail.last.is_some();
        let last = match self.last() {
            None => LastFrame::Absent,
            Some((header, _)) if header.purpose == Purpose::Records => LastFrame::Filled,
            Some(_) => LastFrame::Empty,
        };
        // Behind a close a damaged header is older, as in the same segment, unless a later writer's.
        let closed = self.last().filter(|(last, _)| last.purpose == Purpose::Close);
        let is_newer =
            |claim: Claim| closed.is_none_or(|(close, crc)| claim.may_follow(&close, crc));
        let successor = self.beyond.first().map_or(Successor::Absent, |scan| {
            if scan.first.is_none() && scan.claim.is_some_and(is_newer) {
                Successor::Torn
            } else if scan.first.is_none() && scan.ground == Ground::Disturbed {
                Successor::Disturbed
            } else {
                Successor::Quiet
            }
        });
        Facts {
            // Wherever it stands: a later version's frames may prove what this one cannot read.
            stop: self.unknown().map_or(tail.stop.kind, |_| StopKind::Unknown),
            vouched: self.proof().is_some(),
            stranded: self.beyond.len() > 1 || (!is_begun && !self.beyond.is_empty()),
            orphaned: !is_begun && tail.segment.sequence > 0 && !self.has_predecessor,
            later_frames: self.later_frames().next().is_some(),
            unreadable: self.unreadable().is_some(),
            policy,
            last,
            ground: tail.ground,
            successor,
        }
    }
}

/// Says what was expected and `found` at the place that `error` names; the device's own error is the source.
pub(super) fn found_instead(error: Error, expected: String, found: &Found) -> Error {
    let error = error.with_expected_found(expected, found);
    match found {
        Found::Error(source) => error.with_source(copied(source)),
        _ => error,
    }
}
