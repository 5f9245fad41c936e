//! Reproducible randomness: splitmix64.

use std::hash::{BuildHasher, Hasher, RandomState};

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of numbers that a seed determines. Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to before `end`, which must not be 0. The bias of the remainder does not matter here.
    pub(super) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) const fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    pub(super) const fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// One number out of several: another input, another number.
pub(super) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(STEP, |mixed, part| Random::new(mixed ^ part).next())
}

/// Another seed each time, from the keys that the system gives to hash tables.
pub(super) fn unpredictable() -> u64 {
    RandomState::new().build_hasher().finish()
}
