//! Whose turn it is: the state of a [`World`](super::World) and the choice of the next thread.

use super::{Broken, pool};
use crate::random::Random;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
};

/// After so many switches a life counts as endless.
pub(super) const SWITCHES_MAX: u64 = 20_000_000;

/// After so many switches in which nobody did anything but sleep or yield, a life has hung: threads
/// that look at a clock from time to time wait like any other.
const IDLE_MAX: u64 = 100_000;

/// What a switch takes, so that even a program that never sleeps sees time pass.
const SWITCH_NANOS: u64 = 50;

/// The whole state of a world. Under one lock that only the thread whose turn it is takes.
pub(super) struct State {
    pub(super) random: Random,
    pub(super) host_random: Random,
    /// Nanoseconds since the world began.
    pub(super) now: u64,
    /// What a switch takes.
    pub(super) switch_nanos: u64,
    pub(super) threads: Vec<Entry>,
    pub(super) switches: u64,
    /// How many switches ago something happened: a call of the disk, a wake-up, a thread's end.
    pub(super) idle: u64,
    /// A thread that could go on gives its turn away once in so many times.
    pub(super) switch_one_in: u64,
    /// A wait returns for no reason once in so many times.
    pub(super) early_one_in: u64,
    pub(super) cut: bool,
    pub(super) broken: Option<Broken>,
    runnable: Vec<usize>,
}

/// A thread of the world.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) stage: Stage,
    pub(super) turn: Arc<Turn>,
    /// What it will do, until it has its first turn.
    pub(super) job: Option<pool::Job>,
}

/// | stage | goes on when |
/// |---|---|
/// | `Runnable` | it is chosen |
/// | `Blocked` | `until` has passed, or somebody makes it runnable |
/// | `Ended` | never |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Runnable,
    Blocked { why: Why, until: Option<u64> },
    Ended,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A change of the word at this address.
    Word(usize),
    Time,
    /// The disk, in this call.
    Disk(&'static str),
    /// The end of a thread.
    Thread(usize),
    /// A waker.
    Task,
}

/// The place where a thread of the system waits for its turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    go: AtomicBool,
    thread: OnceLock<Thread>,
}

/// A turn on its way to somebody else. Given outside the lock.
pub(super) enum Handing {
    Wake(Arc<Turn>),
    Start(pool::Job),
}

impl Turn {
    /// Said by the thread itself, while it has the turn.
    pub(super) fn settle(&self) {
        let _ = self.thread.set(thread::current());
    }

    pub(super) fn wait(&self) {
        while !self.go.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }

    fn give(&self) {
        self.go.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Handing {
    pub(super) fn go(self) {
        match self {
            Self::Wake(turn) => turn.give(),
            Self::Start(job) => pool::run(job),
        }
    }
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // From always to seldom: some races want many switches, some want few at the right place.
        let switch_one_in = random.choose(&[1, 2, 4, 16]);
        let early_one_in = random.choose(&[8, 64, 1 << 20]);
        Self {
            host_random: Random::new(random.next()),
            random,
            now: 0,
            switch_nanos: SWITCH_NANOS,
            threads: Vec::new(),
            switches: 0,
            idle: 0,
            switch_one_in,
            early_one_in,
            cut: false,
            broken: None,
            runnable: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &str, job: Option<pool::Job>) -> usize {
        let entry =
            Entry { name: name.to_owned(), stage: Stage::Runnable, turn: Arc::default(), job };
        self.threads.push(entry);
        self.threads.len() - 1
    }

    /// Makes those runnable who wait for what `means` says, one of them chosen by the seed, or all.
    pub(super) fn wake(&mut self, means: impl Fn(&Why) -> bool, one: bool) {
        let is_meant =
            |entry: &Entry| matches!(&entry.stage, Stage::Blocked { why, .. } if means(why));
        let mut chosen = None;
        if one {
            let count = self.threads.iter().filter(|entry| is_meant(entry)).count();
            if count == 0 {
                return;
            }
            chosen = Some(self.random.index(count));
        }
        let sleepers = self.threads.iter_mut().filter(|entry| is_meant(entry));
        for (number, entry) in sleepers.enumerate() {
            if chosen.is_none_or(|chosen| chosen == number) {
                self.idle = 0;
                entry.stage = Stage::Runnable;
            }
        }
    }

    /// The lights go out: everybody goes on, to unwind.
    pub(super) fn cut(&mut self) {
        self.cut = true;
        for entry in &mut self.threads {
            if matches!(entry.stage, Stage::Blocked { .. }) {
                entry.stage = Stage::Runnable;
            }
        }
    }

    /// Ends the life for a reason; the first one counts.
    pub(super) fn break_off(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
        self.cut();
    }

    /// Whose turn is next, if `me` has it now.
    pub(super) fn choose(&mut self, me: usize) -> usize {
        self.switches += 1;
        self.now += self.switch_nanos;
        self.idle += 1;
        if self.idle > IDLE_MAX && !self.cut {
            let waiting = self.waiting();
            self.break_off(Broken::Hang { waiting });
        }
        if self.switches > SWITCHES_MAX && !self.cut {
            self.break_off(Broken::Endless);
        }
        loop {
            if self.cut {
                return self.next_in_the_dark(me);
            }
            self.wake_those_whose_time_has_come();
            self.runnable.clear();
            let threads = self.threads.iter().enumerate();
            self.runnable.extend(
                threads.filter(|(_, entry)| entry.stage == Stage::Runnable).map(|(index, _)| index),
            );
            match self.runnable.len() {
                0 => {}
                1 => return self.runnable[0],
                count => {
                    let stays = self.threads[me].stage == Stage::Runnable
                        && !self.random.one_in(self.switch_one_in);
                    if stays {
                        return me;
                    }
                    let chosen = self.random.index(count);
                    return self.runnable[chosen];
                }
            }
            let deadlines = self.threads.iter().filter_map(|entry| match entry.stage {
                Stage::Blocked { until, .. } => until,
                _ => None,
            });
            match deadlines.min() {
                Some(until) => self.now = self.now.max(until),
                None => {
                    let waiting = self.waiting();
                    self.break_off(Broken::Hang { waiting });
                }
            }
        }
    }

    /// Takes the turn from whoever has it, for `next`.
    pub(super) fn hand(&mut self, next: usize) -> Handing {
        let entry = &mut self.threads[next];
        match entry.job.take() {
            Some(job) => Handing::Start(job),
            None => Handing::Wake(Arc::clone(&entry.turn)),
        }
    }

    /// Round and round, so that nobody who unwinds waits for ever for another who has to.
    fn next_in_the_dark(&self, me: usize) -> usize {
        let count = self.threads.len();
        let others = (1..=count).map(|step| (me + step) % count);
        let mut awake = others.filter(|index| self.threads[*index].stage == Stage::Runnable);
        awake.next().unwrap_or(me)
    }

    fn wake_those_whose_time_has_come(&mut self) {
        for entry in &mut self.threads {
            if matches!(entry.stage, Stage::Blocked { until: Some(until), .. } if until <= self.now)
            {
                entry.stage = Stage::Runnable;
            }
        }
    }

    /// Who waits for what, in words.
    fn waiting(&self) -> Vec<String> {
        // Addresses differ from run to run: words are numbered in the order of those who wait.
        let mut words = BTreeMap::new();
        let mut number = |address: usize| {
            let count = words.len() + 1;
            *words.entry(address).or_insert(count)
        };
        let blocked = self.threads.iter().filter_map(|entry| match entry.stage {
            Stage::Blocked { why, .. } => Some((&entry.name, why)),
            _ => None,
        });
        let told = blocked.map(|(name, why)| match why {
            Why::Word(address) => format!("{name} waits to be woken (word {})", number(address)),
            Why::Time => format!("{name} sleeps"),
            Why::Disk(verb) => format!("{name} waits for the disk ({verb})"),
            Why::Thread(other) => {
                format!("{name} waits for the end of {}", self.threads[other].name)
            }
            Why::Task => format!("{name} waits for a future"),
        });
        told.collect()
    }
}
