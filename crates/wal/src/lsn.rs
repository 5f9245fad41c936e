//! [`Lsn`]: where a record stands in the endless log.

use std::fmt;

/// A record's byte position in the endless log: the base of its segment plus its offset there.
///
/// It only grows, and one that was given to an acknowledged record is never given to another.
/// It is an address, not a count: the distance between two records includes headers and padding.
/// There are no operators on purpose; the checked methods say what can overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The beginning of the log. No record stands here: the first segment's header does.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` after the beginning of the log.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This position as bytes after the beginning of the log.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `bytes` further on, or `None` past the end of the 64-bit log.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// How many bytes this position lies past `earlier`, or `None` if it lies before it.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
