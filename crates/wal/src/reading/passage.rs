//! [`Passage`]: from segment to segment, over the room that no frame used.

use super::{Cursor, FrameWalker, Step, Stop, StopKind};
use crate::{Error, Lsn, io::File, slots::Segment};

/// A place where no frame belongs is either room that was left over when the log moved on to the next
/// segment, which the first frame there proves by the chain, or damage. A passage goes on to the next
/// segment and keeps the place in mind until that is known. At the head of a segment it is damage: a
/// segment has a successor only once it holds a frame, and of a walk that begins there nothing is left
/// that the next segment's first frame could be chained to.
pub(crate) struct Passage<F> {
    unused: Option<(Segment<F>, Stop)>,
}

/// What a step of a [`Passage`] came to.
pub(crate) enum Passed<F> {
    /// A frame that belongs, and the cursor at its first record.
    Frame(Cursor),
    /// The limit.
    Limit,
    /// There is nothing more in this segment.
    Segment,
    /// A frame is damaged or missing: in which segment, and where.
    Damage(Segment<F>, Stop),
    /// There is no memory to look.
    NoMemory(Error),
}

impl<F> Default for Passage<F> {
    fn default() -> Self {
        Self { unused: None }
    }
}

impl<F: File> Passage<F> {
    /// The next frame of `segment` below `limit`. The caller moves on to the next segment when told
    /// so; `goes_on` says whether there is one that has to hold a frame below the limit.
    pub(crate) fn step(
        &mut self,
        walker: &mut FrameWalker<F>,
        segment: &Segment<F>,
        limit: Lsn,
        goes_on: bool,
    ) -> Passed<F> {
        let stop = match walker.next(segment, limit) {
            Step::Frame(frame) => {
                self.unused = None;
                return Passed::Frame(Cursor::at_frame(&frame.header));
            }
            Step::Limit => return Passed::Limit,
            Step::End => return Passed::Segment,
            Step::NoMemory(error) => return Passed::NoMemory(error),
            Step::Stop(stop) => stop,
        };
        let is_head = walker.is_at_head();
        let is_unchained = stop.kind == StopKind::Unchained;
        match self.unused.take() {
            // The frame here follows another one than the last that was found.
            Some((segment, stop)) if !is_head || is_unchained => Passed::Damage(segment, stop),
            None if goes_on && !is_head => {
                self.unused = Some((segment.clone(), stop));
                Passed::Segment
            }
            _ => Passed::Damage(segment.clone(), stop),
        }
    }
}
