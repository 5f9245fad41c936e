//! Where the inputs come from that a fuzzer begins with: chosen from many by what they reach.

use super::{
    Reached,
    decode::{decode, pack, simplest},
    operations, recover,
};
use crate::Random;
use std::collections::BTreeMap;

/// An input to begin with.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "nobody depends on this package")]
pub struct Seed {
    /// The target that it is for.
    pub target: &'static str,
    /// The name of its file.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

/// How many random inputs are tried.
const TRIES: u64 = 6000;
/// How many are kept for each thing that can be reached.
const KEPT_FOR_EACH: usize = 2;
const BYTES_MAX: usize = 4000;

/// Inputs that together reach whatever was reached at all. The same every time.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut runs = Chosen::new("recover");
    let mut files = Chosen::new("decode");
    let mut plans = Chosen::new("operations");
    for (number, bytes) in (0..).zip(simplest()) {
        files.consider(&mut seeds, &decode(&bytes), number, &bytes);
    }
    for number in 0..TRIES {
        let mut random = Random::new(number);
        let length = 24 + random.below(360);
        let bytes: Vec<_> =
            (0..length).map(|_| u8::try_from(random.below(256)).unwrap_or_default()).collect();
        let (reached, image) = recover::run(&bytes);
        runs.consider(&mut seeds, &reached, number, &bytes);
        plans.consider(&mut seeds, &operations(&bytes), number, &bytes);
        let mend = if number % 2 == 0 { 0 } else { 0xff };
        if let Some(packed) = pack(&image, mend).filter(|packed| packed.len() < BYTES_MAX) {
            let reached = decode(&packed);
            files.consider(&mut seeds, &reached, number, &packed);
        }
    }
    seeds
}

struct Chosen {
    target: &'static str,
    counts: BTreeMap<&'static str, usize>,
}

impl Chosen {
    fn new(target: &'static str) -> Self {
        Self { target, counts: BTreeMap::new() }
    }

    fn consider(&mut self, seeds: &mut Vec<Seed>, reached: &Reached, number: u64, bytes: &[u8]) {
        let is_scarce =
            |name: &&&str| self.counts.get(**name).copied().unwrap_or_default() < KEPT_FOR_EACH;
        let Some(scarce) = reached.iter().find(is_scarce) else { return };
        let name: String =
            scarce.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        let name = format!("{}-{number}", name.replace("--", "-"));
        for name in reached {
            *self.counts.entry(name).or_default() += 1;
        }
        seeds.push(Seed { target: self.target, name, bytes: bytes.to_vec() });
    }
}
