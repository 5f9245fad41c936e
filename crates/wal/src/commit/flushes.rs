//! [`Flushes`]: the calls under way that carry a flush of the device.

/// The calls under way that carry a flush: writes of frames, a header's durable write, the sync of a slot or
/// of the directory.
///
/// Each has a number, entered under the engine's mutex before it begins, and leaves in the critical section
/// that says how it ended. A device flushes all that it cached, and may drop all of it where that fails; so
/// what is done beside another one is durable for certain only when both have ended well.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    next: u64,
    /// Numbers, ascending. A few: the frames in flight, and one of the preparer's.
    under_way: Vec<u64>,
    /// How many of them are no frame's.
    beside: u32,
}

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flusher {
    Frame,
    /// The preparer, whose shortages are harmless.
    Beside,
}

impl Flushes {
    pub(super) fn enter(&mut self, flusher: Flusher) -> u64 {
        let number = self.next;
        self.next += 1;
        if flusher == Flusher::Frame || !planted!("preparer-no-neighbour") {
            self.under_way.push(number);
        }
        self.beside += u32::from(flusher == Flusher::Beside);
        number
    }

    pub(super) fn leave(&mut self, number: u64, flusher: Flusher) {
        self.under_way.retain(|under_way| *under_way != number);
        self.beside -= u32::from(flusher == Flusher::Beside);
    }

    /// Below it all have ended.
    pub(super) fn oldest(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(self.next)
    }

    /// What is done now waits for all below this.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether one is under way that is no frame's.
    pub(super) fn is_any_beside(&self) -> bool {
        self.beside > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_holds_what_ends_beside_it() {
        let mut flushes = Flushes::default();
        let first = flushes.enter(Flusher::Frame);
        let second = flushes.enter(Flusher::Beside);
        assert!(flushes.is_any_beside());
        flushes.leave(first, Flusher::Frame);
        let held_by = flushes.next();
        assert!(flushes.oldest() < held_by, "the second may fail yet");
        let third = flushes.enter(Flusher::Frame);
        assert!(third >= held_by, "what begins later does not hold it");
        flushes.leave(second, Flusher::Beside);
        assert!(flushes.oldest() >= held_by && !flushes.is_any_beside());
        flushes.leave(third, Flusher::Frame);
        assert_eq!(flushes.oldest(), flushes.next());
    }
}
