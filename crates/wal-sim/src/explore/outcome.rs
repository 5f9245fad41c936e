//! [`Coverage`] and [`Failure`]: what an exploration comes to.

use super::{Life, Place, REPLAY_VARIABLE};
use std::{collections::BTreeMap, fmt};

/// What an exploration went through.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    pub(super) states: u64,
    pub(super) lives: u64,
    pub(super) reached: BTreeMap<&'static str, u64>,
}

/// What an exploration found: a state from which the program does not recover.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(super) place: Place,
    pub(super) what: String,
    pub(super) story: Vec<String>,
}

impl Coverage {
    /// How many states were checked.
    #[must_use]
    pub fn states(&self) -> u64 {
        self.states
    }

    /// How many lives were lived, the first ones and the recoveries.
    #[must_use]
    pub fn lives(&self) -> u64 {
        self.lives
    }

    /// How often each of the rare things happened that lives said they [reached](Life::reach).
    #[must_use]
    pub fn reached(&self) -> &BTreeMap<&'static str, u64> {
        &self.reached
    }

    /// How often `what` happened.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.reached.get(what).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.lives += other.lives;
        for (what, count) in &other.reached {
            *self.reached.entry(what).or_default() += count;
        }
    }

    pub(super) fn lived<M>(&mut self, life: &Life<M>) {
        self.lives += 1;
        for (what, count) in life.reached() {
            *self.reached.entry(what).or_default() += count;
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states, {} lives", self.states, self.lives)?;
        self.reached.iter().try_for_each(|(what, count)| write!(f, "\n{count:>10} {what}"))
    }
}

impl Failure {
    /// Where it was found.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What was wrong.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What was done to the disk in the life that found it, in words.
    #[must_use]
    pub fn story(&self) -> &[String] {
        &self.story
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, what, .. } = self;
        write!(f, "{what}\nwal-sim: {place}\n(again: {REPLAY_VARIABLE}='{place}')")
    }
}

impl std::error::Error for Failure {}
