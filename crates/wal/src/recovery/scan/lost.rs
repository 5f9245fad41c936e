//! What is bad at the end of the log, and where: for the verdict, and for whoever misses segments.

use super::{Proof, Scan, SegmentScan};
use crate::{
    io::File,
    reading::{Found, StopKind},
    slots::Segment,
};
use std::io;

impl<F: File> Scan<F> {
    /// The first block from the tail on that the device refuses to show.
    pub(crate) fn unreadable(&self) -> Option<(&Segment<F>, u64, &io::Error)> {
        let tail = self.tail();
        if let (None, Found::Error(error)) = (&tail.unreadable, &tail.stop.found) {
            // It refused once, and somewhere in the frame.
            return Some((&tail.segment, tail.stop.offset, error));
        }
        std::iter::once(tail).chain(&self.beyond).find_map(|scan| {
            scan.unreadable.as_ref().map(|(offset, error)| (&scan.segment, *offset, error))
        })
    }

    /// The frame at the tail, or the first one of the segment after it, if it is bad and no torn write: it cannot
    /// be read, or a later frame says that it was durable. In which segment, where it is bad, and how.
    pub(crate) fn lost_frame(&self) -> Option<(&Segment<F>, u64, &Found)> {
        let tail = self.tail();
        let sequence = tail.segment.sequence.saturating_add(1);
        let next = self.beyond.first().filter(|scan| scan.segment.sequence == sequence);
        let next = next.filter(|scan| scan.first.is_none());
        let was_durable = |scan: &SegmentScan<F>| match self.proof() {
            Some(Proof::Mark(frame)) => frame.durable_mark > scan.stop.lsn,
            Some(Proof::Successor(_)) => scan.segment.sequence == tail.segment.sequence,
            None => false,
        };
        let is_lost = |scan: &&SegmentScan<F>| match scan.stop.kind {
            StopKind::Full => false,
            StopKind::Unreadable => true,
            _ => was_durable(scan),
        };
        // What is no frame at all may be room that the log left when it went on in the next segment.
        let is_frame = self.torn_frame().is_some() || tail.stop.kind == StopKind::Unreadable;
        let here = || Some(tail).filter(is_lost);
        let scan = here().filter(|_| is_frame).or_else(|| next.filter(is_lost)).or_else(here)?;
        let offset = match (&scan.stop.found, &scan.unreadable) {
            (Found::Error(_), Some((offset, _))) => *offset,
            _ => scan.stop.offset,
        };
        Some((&scan.segment, offset, &scan.stop.found))
    }

    /// The frame at the tail, if it is torn, or durable and rotten since: nothing tells.
    pub(crate) fn torn_frame(&self) -> Option<(&Segment<F>, u64, &Found)> {
        let SegmentScan { segment, stop, .. } = self.tail();
        let is_torn = matches!(stop.kind, StopKind::TornHeader | StopKind::TornRecords);
        is_torn.then_some((segment, stop.offset, &stop.found))
    }
}
