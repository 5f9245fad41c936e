//! Reproducible randomness: splitmix64.

use std::hash::{BuildHasher, Hasher, RandomState};

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of numbers that a seed determines. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to before `end`, which must not be 0. The bias of the remainder does not matter here.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A place in something `length` long, which must not be 0.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(u64::try_from(length).unwrap_or(u64::MAX))).unwrap_or(0)
    }

    pub(crate) const fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// One number out of several: another input, another number.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(STEP, |mixed, part| Random::new(mixed ^ part).next())
}

/// Another seed each time, from the keys that the system gives to hash tables. Small enough to be
/// typed.
pub(crate) fn unpredictable() -> u64 {
    RandomState::new().build_hasher().finish() % 1_000_000_000
}
