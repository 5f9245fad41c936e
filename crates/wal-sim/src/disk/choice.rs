//! [`Choice`]: what a crash does with everything that was not durable.

use crate::random::mix;
use std::{fmt, str::FromStr};

/// What a crash does with each write that was not durable, and with the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) writes: Vec<Fate>,
    pub(crate) names: NamesFate,
}

/// What a crash may do at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) any_names: bool,
    pub(crate) garbage: bool,
}

/// What a crash does with one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Whole,
    Absent,
    /// Each sector by itself, as this seed says.
    Torn(u32),
    /// The same, and one of its sectors is garbage.
    Garbage(u32),
    /// Only the file's size.
    Size,
}

/// What a crash does with what was done to names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamesFate {
    /// The first so many survive.
    Prefix(usize),
    /// Those survive whose bit is set.
    Subset(u64),
}

impl Choice {
    /// One number for it.
    pub(crate) fn number(&self) -> u64 {
        let bytes = self.to_string().into_bytes();
        bytes.into_iter().fold(0, |number, byte| mix(&[number, byte.into()]))
    }

    /// Any one of those there are. `below` answers a number below the one that it is given.
    pub(crate) fn any(
        writes: usize,
        names: usize,
        limits: Limits,
        below: &mut dyn FnMut(u64) -> u64,
    ) -> Self {
        let seed = |below: &mut dyn FnMut(u64) -> u64| {
            u32::try_from(below(u64::MAX) >> 32).unwrap_or_default()
        };
        let writes = (0..writes).map(|_| match below(16) {
            0..5 => Fate::Whole,
            5..8 => Fate::Absent,
            8..13 => Fate::Torn(seed(below)),
            13..15 if limits.garbage => Fate::Garbage(seed(below)),
            _ => Fate::Size,
        });
        let writes = writes.collect();
        let names = if limits.any_names && below(2) == 0 {
            NamesFate::Subset(below(u64::MAX))
        } else {
            let prefixes = u64::try_from(names).unwrap_or(u64::MAX).saturating_add(1);
            NamesFate::Prefix(usize::try_from(below(prefixes)).unwrap_or(names))
        };
        Self { writes, names }
    }

    /// All choices of whole or absent, and of the names' prefix; `None` if there are more than `most`.
    pub(crate) fn every(writes: usize, names: usize, most: usize) -> Option<Vec<Self>> {
        let subsets = 1_usize.checked_shl(u32::try_from(writes).ok()?)?;
        if writes >= 16 || subsets.checked_mul(names + 1)? > most {
            return None;
        }
        let fates = move |bits: usize| {
            let fate = move |bit| if bits >> bit & 1 == 1 { Fate::Whole } else { Fate::Absent };
            (0..writes).map(fate).collect::<Vec<_>>()
        };
        let all = (0..subsets).flat_map(|bits| {
            (0..=names)
                .map(move |count| Self { writes: fates(bits), names: NamesFate::Prefix(count) })
        });
        Some(all.collect())
    }
}

impl NamesFate {
    pub(super) fn survives(self, index: usize) -> bool {
        match self {
            Self::Prefix(count) => index < count,
            Self::Subset(bits) => bits >> (index % 64) & 1 == 1,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Absent => "absent",
            Self::Torn(_) => "torn",
            Self::Garbage(_) => "torn, with garbage",
            Self::Size => "only a length",
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fate in &self.writes {
            match fate {
                Fate::Whole => f.write_str("w")?,
                Fate::Absent => f.write_str("a")?,
                Fate::Size => f.write_str("s")?,
                Fate::Torn(seed) => write!(f, "t{seed:08x}")?,
                Fate::Garbage(seed) => write!(f, "g{seed:08x}")?,
            }
        }
        match self.names {
            NamesFate::Prefix(count) => write!(f, "/{count}"),
            NamesFate::Subset(bits) => write!(f, "/x{bits:x}"),
        }
    }
}

impl FromStr for Choice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (mut rest, names) = text.split_once('/').ok_or(())?;
        let mut writes = Vec::new();
        while let Some(letter) = rest.chars().next() {
            let seed = || u32::from_str_radix(rest.get(1..9).ok_or(())?, 16).map_err(|_| ());
            let (fate, length) = match letter {
                'w' => (Fate::Whole, 1),
                'a' => (Fate::Absent, 1),
                's' => (Fate::Size, 1),
                't' => (Fate::Torn(seed()?), 9),
                'g' => (Fate::Garbage(seed()?), 9),
                _ => return Err(()),
            };
            writes.push(fate);
            rest = &rest[length..];
        }
        let names = match names.strip_prefix('x') {
            Some(bits) => NamesFate::Subset(u64::from_str_radix(bits, 16).map_err(|_| ())?),
            None => NamesFate::Prefix(names.parse().map_err(|_| ())?),
        };
        Ok(Self { writes, names })
    }
}
