//! [`Fault`]: a call of the disk that goes wrong.

use crate::random::Random;
use std::{collections::BTreeMap, io, time::Duration};

/// The calls of a disk, for faults and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "named as in the log's traits")]
pub enum Verb {
    Create,
    List,
    Open,
    CreateFile,
    Rename,
    Remove,
    SyncDir,
    Read,
    Write,
    WriteDurable,
    Sync,
    SetLen,
    WriteZeroes,
    Len,
    Probe,
    Spawn,
}

/// What a call does instead of what it should. `EINTR` is not among them: the real storage calls again
/// when it is interrupted, so that the log never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Answers `EIO`. Of a write, the disk may have taken any part.
    Eio,
    /// Answers `ENOSPC`, and has done nothing.
    NoSpace,
    /// Answers the error of this number, as `NoSpace` does: a quota, memory, or something else that is
    /// short for a while.
    Refuse(i32),
    /// Takes the first sectors of a write, and then answers `EIO`. Other calls just answer it.
    Short,
    /// Has done all of it, and answers `EIO`.
    EioButDone,
    /// A sync or durable write that answers `Ok` and makes nothing durable.
    Lie,
    /// A write that answers `Ok` and goes nowhere.
    Lost,
    /// A write that answers `Ok` and goes so many bytes further on.
    Misdirected(u64),
    /// Takes so much longer, and does what it should. With another effect: [`Fault::taking`].
    Late(Duration),
    /// Does not return before [`Disk::heal`](super::Disk::heal).
    Hang,
    /// The lights go out when it has begun: [`World::cut_power`](crate::World::cut_power).
    PowerCut,
}

/// Calls that go wrong: which, from when on, how often, and how.
///
/// ```
/// use wal_sim::{Effect, Fault, Verb};
///
/// let fault = Fault::new(Effect::Eio).on(Verb::Sync).in_file("slot-000001").after(3).sticky();
/// # let _ = fault;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing before it is planted in a disk"]
pub struct Fault {
    effect: Effect,
    verb: Option<Verb>,
    file: Option<String>,
    skip: u64,
    times: u64,
    drops_cache: bool,
    late: Duration,
}

impl Fault {
    /// The next call that can have this `effect` has it, once.
    pub fn new(effect: Effect) -> Self {
        let (skip, times, drops_cache, late) = (0, 1, false, Duration::ZERO);
        Self { effect, verb: None, file: None, skip, times, drops_cache, late }
    }

    /// Only calls of `verb`.
    pub fn on(self, verb: Verb) -> Self {
        Self { verb: Some(verb), ..self }
    }

    /// Only calls that concern the file `name`.
    pub fn in_file(self, name: &str) -> Self {
        Self { file: Some(name.to_owned()), ..self }
    }

    /// Lets `calls` calls pass first.
    pub fn after(self, calls: u64) -> Self {
        Self { skip: calls, ..self }
    }

    /// So many calls, and then the disk has healed.
    pub fn times(self, calls: u64) -> Self {
        Self { times: calls, ..self }
    }

    /// All calls from then on.
    pub fn sticky(self) -> Self {
        self.times(u64::MAX)
    }

    /// A call that carries a flush and fails has the device forget all that it has not flushed, of every
    /// file, and what it was just being given. Default: the seed says whether it does, and how much of it.
    pub fn dropping_the_cache(self) -> Self {
        Self { drops_cache: true, ..self }
    }

    /// The call takes so much longer, whatever it does: others begin and end beside it.
    pub fn taking(self, late: Duration) -> Self {
        Self { late, ..self }
    }

    fn means(&self, verb: Verb, file: &str) -> bool {
        let can = match self.effect {
            Effect::Lie => matches!(verb, Verb::Sync | Verb::SyncDir | Verb::WriteDurable),
            Effect::Lost | Effect::Misdirected(_) => {
                matches!(verb, Verb::Write | Verb::WriteDurable)
            }
            // Nothing else needs room.
            Effect::NoSpace | Effect::Refuse(_) => matches!(
                verb,
                Verb::CreateFile
                    | Verb::Write
                    | Verb::WriteDurable
                    | Verb::WriteZeroes
                    | Verb::SetLen
                    | Verb::Rename
                    | Verb::Sync
                    | Verb::SyncDir
            ),
            Effect::Late(_) | Effect::Hang | Effect::PowerCut => verb != Verb::Spawn,
            Effect::Eio | Effect::Short | Effect::EioButDone => true,
        };
        can && self.verb.is_none_or(|own| own == verb)
            && self.file.as_ref().is_none_or(|own| own == file)
    }

    /// Takes its turn at a call that is meant.
    fn strike(&mut self) -> Option<Struck> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        let late = match self.effect {
            Effect::Late(late) => late,
            _ => self.late,
        };
        Some(Struck { effect: self.effect, drops_cache: self.drops_cache, late })
    }
}

/// What a call does because of a fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Struck {
    pub(super) effect: Effect,
    pub(super) drops_cache: bool,
    pub(super) late: Duration,
}

/// The faults of a disk, and how often what was called.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    planted: Vec<Fault>,
    counts: BTreeMap<Verb, u64>,
    struck: u64,
}

impl Faults {
    pub(super) fn plant(&mut self, fault: Fault) {
        self.planted.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.planted.clear();
    }

    pub(super) fn count(&self, verb: Verb) -> u64 {
        self.counts.get(&verb).copied().unwrap_or_default()
    }

    pub(super) fn count_all(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(super) fn struck(&self) -> u64 {
        self.struck
    }

    /// Counts a call and answers what it does instead.
    pub(super) fn strike(&mut self, verb: Verb, file: &str) -> Option<Struck> {
        *self.counts.entry(verb).or_default() += 1;
        let mut found = None;
        for fault in self.planted.iter_mut().filter(|fault| fault.means(verb, file)) {
            if found.is_none() {
                found = fault.strike();
            }
        }
        self.struck += u64::from(found.is_some());
        found
    }
}

/// What the caller gets, if that is an error.
pub(super) fn error(effect: Option<Effect>) -> Option<io::Error> {
    // Numbers of Linux, so that the log sees what it would see there.
    let errno = match effect? {
        Effect::Eio | Effect::Short | Effect::EioButDone => 5,
        Effect::NoSpace => 28,
        Effect::Refuse(errno) => errno,
        _ => return None,
    };
    Some(io::Error::from_raw_os_error(errno))
}

/// How many of `bytes` a failing write takes.
pub(super) fn taken(effect: Effect, bytes: usize, sector: usize, random: &mut Random) -> usize {
    let sectors = bytes.div_ceil(sector);
    match effect {
        Effect::NoSpace | Effect::Refuse(_) | Effect::Lost => 0,
        Effect::Short => (random.index(sectors) * sector).min(bytes),
        Effect::Eio => (random.index(sectors + 1) * sector).min(bytes),
        _ => bytes,
    }
}
