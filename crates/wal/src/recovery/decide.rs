/*!
What the facts at the tail mean. Pure: a small struct in, a verdict out.

The [`TABLE`] is data, and its test goes through every combination of facts and finds that exactly
one row matches. No row looks at what an earlier row decided: order does not matter.
*/

use crate::reading::StopKind;

/// What is made of a tail that the device cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unreadable {
    /// The log is not opened: what the disk does not show may be acknowledged records.
    Refused,
    /// The log ends there, as if a crash had torn it.
    Torn,
}

/// The last frame that belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LastFrame {
    /// The log has none.
    Absent,
    /// It was written to fix, confirm or close. Behind it the probe of the device may have left
    /// garbage.
    Empty,
    /// It was written for its records.
    Filled,
}

/// The place where the next frame would stand: zeros on purpose, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ground {
    /// The slot held an older segment: anything may stand here.
    Recycled,
    /// Zeros were written, and zeros there are.
    Zeroed,
    /// Zeros were written, and something else is there.
    Disturbed,
}

/// The segment prepared to follow the one that holds the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Successor {
    /// There is none.
    Absent,
    /// Nothing was written to it.
    Quiet,
    /// Zeros were written, and something else stands where its first frame should.
    Disturbed,
    /// A damaged frame header that names its place stands where its first frame should.
    Torn,
}

/// All that the verdict depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Facts {
    /// What is at the place where the next frame should be.
    pub(crate) stop: StopKind,
    /// Whether something proves that a frame there was durable.
    pub(crate) vouched: bool,
    /// Whether more segments were prepared than the next one, or the next one before this one held
    /// a frame: headers that are written only once frames are durable that are not there.
    pub(crate) stranded: bool,
    /// Whether the log has no frame although it is not at its beginning.
    pub(crate) orphaned: bool,
    /// Whether frames of the same or a later epoch stand further on, intact or not.
    pub(crate) later_frames: bool,
    /// Whether the device answers errors further on.
    pub(crate) unreadable: bool,
    pub(crate) policy: Unreadable,
    pub(crate) last: LastFrame,
    pub(crate) ground: Ground,
    pub(crate) successor: Successor,
}

/// What the facts mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Decision {
    /// The log ends here, and nothing says that more was ever written.
    Clean,
    /// The log ends here; a crash tore what came after.
    Torn(Torn),
    /// Acknowledged bytes are damaged or missing.
    Corrupt(Damage),
    /// A read error hides whether acknowledged bytes follow.
    Unreadable,
    /// A newer version wrote this.
    Unsupported,
}

/// What says that a crash tore the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Torn {
    /// The frame's header is whole, its records are not.
    Records,
    /// The frame's header is damaged.
    Header,
    /// Frames that came after are there.
    FramesAbove,
    /// The first frame of the next segment is damaged.
    Successor,
    /// There is something where zeros were.
    Garbage,
    /// The caller chose to take a read error for it.
    Unreadable,
}

/// Why the log is corrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Damage {
    /// A later frame vouches for what is not there.
    Vouched,
    /// A later segment's header vouches for it.
    Stranded,
    /// The log's first segment should not be empty.
    Orphaned,
    /// An intact frame of the present epoch follows another frame than the one that is there.
    Unchained,
}

/// A row of the table.
struct Row {
    decision: Decision,
    matches: fn(&Facts) -> bool,
}

/// No frame of a later version, at the tail or further on.
fn known(facts: &Facts) -> bool {
    facts.stop != StopKind::Unknown
}

/// No proof against the tail itself: what its bytes say decides.
fn unproved(facts: &Facts) -> bool {
    known(facts) && !facts.vouched && !facts.stranded && !facts.orphaned
}

/// The bytes at the tail could be read and have an unambiguous kind, and so could all further on,
/// or the caller does not mind.
fn readable(facts: &Facts) -> bool {
    unproved(facts)
        && !facts.unreadable
        && !matches!(facts.stop, StopKind::Unreadable | StopKind::Unchained)
}

/// Nothing at the tail claims to be a frame.
fn silent(facts: &Facts) -> bool {
    readable(facts) && !matches!(facts.stop, StopKind::TornHeader | StopKind::TornRecords)
}

/// An error of the device at the tail or further on, and nothing that goes before it.
fn hidden(facts: &Facts) -> bool {
    unproved(facts)
        && facts.stop != StopKind::Unchained
        && (facts.unreadable || facts.stop == StopKind::Unreadable)
}

/// Something stands where zeros were written, and the probe did not leave it. A ghost did: it was
/// cut by an earlier open.
fn disturbed(facts: &Facts) -> bool {
    let here = facts.ground == Ground::Disturbed && facts.stop != StopKind::Ghost;
    facts.last != LastFrame::Empty && (here || facts.successor == Successor::Disturbed)
}

const TABLE: &[Row] = &[
    // Before all proofs: what this version takes for a missing frame may be there for a later one.
    Row { decision: Decision::Unsupported, matches: |f| !known(f) },
    Row { decision: Decision::Corrupt(Damage::Vouched), matches: |f| known(f) && f.vouched },
    Row {
        decision: Decision::Corrupt(Damage::Stranded),
        matches: |f| known(f) && !f.vouched && f.stranded,
    },
    Row {
        decision: Decision::Corrupt(Damage::Orphaned),
        matches: |f| known(f) && !f.vouched && !f.stranded && f.orphaned,
    },
    Row {
        decision: Decision::Corrupt(Damage::Unchained),
        matches: |f| unproved(f) && f.stop == StopKind::Unchained,
    },
    Row {
        decision: Decision::Unreadable,
        matches: |f| hidden(f) && f.policy == Unreadable::Refused,
    },
    Row {
        decision: Decision::Torn(Torn::Unreadable),
        matches: |f| hidden(f) && f.policy == Unreadable::Torn,
    },
    Row {
        decision: Decision::Torn(Torn::Records),
        matches: |f| readable(f) && f.stop == StopKind::TornRecords,
    },
    Row {
        decision: Decision::Torn(Torn::Header),
        matches: |f| readable(f) && f.stop == StopKind::TornHeader,
    },
    Row { decision: Decision::Torn(Torn::FramesAbove), matches: |f| silent(f) && f.later_frames },
    Row {
        decision: Decision::Torn(Torn::Successor),
        matches: |f| silent(f) && !f.later_frames && f.successor == Successor::Torn,
    },
    Row {
        decision: Decision::Torn(Torn::Garbage),
        matches: |f| silent(f) && !f.later_frames && f.successor != Successor::Torn && disturbed(f),
    },
    Row {
        decision: Decision::Clean,
        matches: |f| {
            silent(f) && !f.later_frames && f.successor != Successor::Torn && !disturbed(f)
        },
    },
];

/// The verdict on the tail.
pub(crate) fn decide(facts: &Facts) -> Decision {
    if planted!("damage-is-cut") && facts.vouched {
        return Decision::Torn(Torn::Garbage);
    }
    let row = TABLE.iter().find(|row| (row.matches)(facts));
    #[expect(clippy::expect_used, reason = "the test goes through every input and finds a row")]
    row.expect("the table has a row for every input").decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const STOPS: [StopKind; 9] = [
        StopKind::Full,
        StopKind::Blank,
        StopKind::Garbage,
        StopKind::Ghost,
        StopKind::TornHeader,
        StopKind::TornRecords,
        StopKind::Unchained,
        StopKind::Unknown,
        StopKind::Unreadable,
    ];
    const QUIET: Facts = Facts {
        stop: StopKind::Blank,
        vouched: false,
        stranded: false,
        orphaned: false,
        later_frames: false,
        unreadable: false,
        policy: Unreadable::Refused,
        last: LastFrame::Filled,
        ground: Ground::Zeroed,
        successor: Successor::Quiet,
    };

    fn every_input() -> impl Iterator<Item = Facts> {
        let policies = [Unreadable::Refused, Unreadable::Torn];
        let lasts = [LastFrame::Absent, LastFrame::Empty, LastFrame::Filled];
        let grounds = [Ground::Recycled, Ground::Zeroed, Ground::Disturbed];
        let successors =
            [Successor::Absent, Successor::Quiet, Successor::Disturbed, Successor::Torn];
        let count = STOPS.len() * 2 * 3 * 3 * 4 * 32;
        (0..count).map(move |mut number| {
            let mut digit = |base: usize| {
                let digit = number % base;
                number /= base;
                digit
            };
            Facts {
                stop: STOPS[digit(STOPS.len())],
                policy: policies[digit(2)],
                last: lasts[digit(3)],
                ground: grounds[digit(3)],
                successor: successors[digit(4)],
                vouched: digit(2) == 1,
                stranded: digit(2) == 1,
                orphaned: digit(2) == 1,
                later_frames: digit(2) == 1,
                unreadable: digit(2) == 1,
            }
        })
    }

    /// The same verdicts told as a story, in order, the way a person would.
    fn oracle(f: &Facts) -> Decision {
        if f.stop == StopKind::Unknown {
            return Decision::Unsupported;
        }
        if f.vouched {
            return Decision::Corrupt(Damage::Vouched);
        }
        if f.stranded {
            return Decision::Corrupt(Damage::Stranded);
        }
        if f.orphaned {
            return Decision::Corrupt(Damage::Orphaned);
        }
        if f.stop == StopKind::Unchained {
            return Decision::Corrupt(Damage::Unchained);
        }
        if f.unreadable || f.stop == StopKind::Unreadable {
            return match f.policy {
                Unreadable::Refused => Decision::Unreadable,
                Unreadable::Torn => Decision::Torn(Torn::Unreadable),
            };
        }
        match f.stop {
            StopKind::TornRecords => return Decision::Torn(Torn::Records),
            StopKind::TornHeader => return Decision::Torn(Torn::Header),
            _ => {}
        }
        if f.later_frames {
            return Decision::Torn(Torn::FramesAbove);
        }
        if f.successor == Successor::Torn {
            return Decision::Torn(Torn::Successor);
        }
        let ghost = f.stop == StopKind::Ghost;
        let garbage_here = f.ground == Ground::Disturbed && !ghost;
        if f.last != LastFrame::Empty && (garbage_here || f.successor == Successor::Disturbed) {
            return Decision::Torn(Torn::Garbage);
        }
        Decision::Clean
    }

    #[test]
    fn every_input_matches_exactly_one_row() {
        let mut uses: HashMap<Decision, usize> = HashMap::new();
        for facts in every_input() {
            let matching: Vec<_> = TABLE.iter().filter(|row| (row.matches)(&facts)).collect();
            assert_eq!(matching.len(), 1, "{facts:?}");
            assert_eq!(decide(&facts), oracle(&facts), "{facts:?}");
            *uses.entry(decide(&facts)).or_default() += 1;
        }
        assert_eq!(uses.len(), TABLE.len(), "a row that nothing reaches");
        assert_eq!(uses.values().sum::<usize>(), 20_736);
    }

    #[test]
    fn proof_outweighs_every_wish() {
        for facts in every_input().filter(|f| f.vouched || f.stranded || f.orphaned) {
            let is_refused = matches!(decide(&facts), Decision::Corrupt(_) | Decision::Unsupported);
            assert!(is_refused, "{facts:?}");
        }
    }

    #[test]
    fn stories() {
        assert_eq!(decide(&QUIET), Decision::Clean);
        // Two frames in flight; the disk kept the second.
        let lost = Facts { later_frames: true, ..QUIET };
        assert_eq!(decide(&lost), Decision::Torn(Torn::FramesAbove));
        // The same, but the second says that the first was durable.
        assert_eq!(decide(&Facts { vouched: true, ..lost }), Decision::Corrupt(Damage::Vouched));
        // One sector of the only frame in flight.
        let torn = Facts { stop: StopKind::TornRecords, ground: Ground::Disturbed, ..QUIET };
        assert_eq!(decide(&torn), Decision::Torn(Torn::Records));
        // An older segment's frame in a recycled slot.
        let stale = Facts { stop: StopKind::Ghost, ground: Ground::Recycled, ..QUIET };
        assert_eq!(decide(&stale), Decision::Clean);
        // What the probe left behind the opening frame.
        let probed = Facts {
            stop: StopKind::Garbage,
            ground: Ground::Disturbed,
            last: LastFrame::Empty,
            ..QUIET
        };
        assert_eq!(decide(&probed), Decision::Clean);
        assert_eq!(
            decide(&Facts { last: LastFrame::Filled, ..probed }),
            Decision::Torn(Torn::Garbage)
        );
        // A bad sector above the tail.
        let bad = Facts { unreadable: true, ..QUIET };
        assert_eq!(decide(&bad), Decision::Unreadable);
        assert_eq!(
            decide(&Facts { policy: Unreadable::Torn, ..bad }),
            Decision::Torn(Torn::Unreadable)
        );
    }
}
