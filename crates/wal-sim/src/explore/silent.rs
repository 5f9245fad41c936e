//! [`Damage`]: what a disk did wrong and told nobody.

use crate::{
    disk::{Event, History, Image, Kind},
    random::Random,
};
use std::{fmt, str::FromStr};

/// One silent fault, by the number of the operation that it befell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// A write that was acknowledged and went nowhere.
    Lost { op: usize },
    /// A write that went so many bytes further on.
    Misdirected { op: usize, bytes: usize },
    /// A bit of what a write wrote that is another one now.
    Rotten { op: usize, bit: usize },
    /// A sync or durable write that made nothing durable.
    Lie { op: usize },
}

/// What a disk did wrong in an earlier life and told nobody: a write that was lost or went elsewhere,
/// rot, or a flush that lied. See [`Explorer::silent`](super::Explorer::silent).
#[derive(Clone, Debug)]
pub struct Damage {
    pub(super) silent: Silent,
    pub(super) honest: Image,
    pub(super) notes_before: usize,
}

impl Damage {
    /// Whether it is a flush that lied: what was acknowledged may be lost then, and nobody can know.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        matches!(self.silent, Silent::Lie { .. })
    }

    /// What an honest disk would hold. Where it differs is the damage, unless a flush lied.
    #[must_use]
    pub fn honest(&self) -> &Image {
        &self.honest
    }

    /// How many of [`Life::past`](super::Life::past) were noted before the life began whose disk did this.
    #[must_use]
    pub fn notes_before(&self) -> usize {
        self.notes_before
    }
}

impl Silent {
    /// One that may have befallen the first `at` events of `history`.
    pub(super) fn any(history: &History, at: usize, random: &mut Random) -> Option<Self> {
        let ended = history.events.iter().take(at).filter_map(|event| match event {
            Event::End(op) if history.ops[*op].is_ok => Some(*op),
            _ => None,
        });
        let lies = random.one_in(4);
        let may = |op: &usize| match &history.ops[*op].kind {
            Kind::Write { data, durable, .. } => {
                if lies {
                    *durable
                } else {
                    data.bytes(0..data.len()).is_some()
                }
            }
            Kind::Sync { .. } | Kind::SyncDir => lies,
            _ => false,
        };
        let candidates: Vec<_> = ended.filter(may).collect();
        if candidates.is_empty() {
            return None;
        }
        // One of the last, or any. A later flush that is honest makes up for one that lied.
        let recent = if lies { 2 } else { 8 };
        let is_recent = lies || random.one_in(2);
        let first = if is_recent { candidates.len().saturating_sub(recent) } else { 0 };
        let op = candidates[first + random.index(candidates.len() - first)];
        let Kind::Write { data, .. } = &history.ops[op].kind else { return Some(Self::Lie { op }) };
        Some(match random.below(3) {
            _ if lies => Self::Lie { op },
            0 => Self::Lost { op },
            1 => Self::Misdirected { op, bytes: random.choose(&[512, 1536, 4096]) },
            _ => Self::Rotten { op, bit: random.index(8 * data.len()) },
        })
    }

    /// Makes it so.
    pub(super) fn befall(self, history: &mut History) {
        match self {
            Self::Lost { op } => history.ops[op].taken = 0,
            Self::Misdirected { op, bytes } => {
                if let Kind::Write { offset, .. } = &mut history.ops[op].kind {
                    *offset += bytes;
                }
            }
            Self::Lie { op } => history.ops[op].is_honest = false,
            Self::Rotten { .. } => {}
        }
    }

    /// The same for what befalls bytes at rest, in the file `name` that the operation wrote to.
    pub(super) fn befall_at_rest(self, history: &History, name: &str, image: &mut Image) {
        let Self::Rotten { op, bit } = self else { return };
        if let Kind::Write { offset, .. } = &history.ops[op].kind {
            image.flip(name, offset + bit / 8, 1 << (bit % 8));
        }
    }

    /// Which operation it befell.
    pub(super) fn op(self) -> usize {
        match self {
            Self::Lost { op }
            | Self::Misdirected { op, .. }
            | Self::Rotten { op, .. }
            | Self::Lie { op } => op,
        }
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { op } => write!(f, "lost{op}"),
            Self::Misdirected { op, bytes } => write!(f, "moved{op}+{bytes}"),
            Self::Rotten { op, bit } => write!(f, "rot{op}+{bit}"),
            Self::Lie { op } => write!(f, "lie{op}"),
        }
    }
}

impl FromStr for Silent {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse().map_err(|_| ());
        let two = |text: &str| {
            let (op, more) = text.split_once('+').ok_or(())?;
            Ok((number(op)?, number(more)?))
        };
        if let Some(op) = text.strip_prefix("lost") {
            return Ok(Self::Lost { op: number(op)? });
        }
        if let Some(op) = text.strip_prefix("lie") {
            return Ok(Self::Lie { op: number(op)? });
        }
        if let Some(rest) = text.strip_prefix("moved") {
            return two(rest).map(|(op, bytes)| Self::Misdirected { op, bytes });
        }
        let rest = text.strip_prefix("rot").ok_or(())?;
        two(rest).map(|(op, bit)| Self::Rotten { op, bit })
    }
}
