//! [`Control`]: which calls of a [`Faulty`] storage fail, block, take their time, and what was called.

#![expect(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "nobody depends on this package"
)]

pub use crate::disk::{Faulty, FaultyFile, copy_into, snapshot};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use wal::io::{Wake, Word};

/// A guard against hanging for ever, and nothing else: no test depends on how long anything takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `EAGAIN` of Linux: what a system without room for a thread answers.
pub const EAGAIN: i32 = 11;
/// `EIO` of Linux.
pub const EIO: i32 = 5;
/// `ENOSPC` of Linux.
pub const ENOSPC: i32 = 28;

/// The calls that can be counted, failed and blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as in the traits")]
pub enum Verb {
    Create,
    CreateFile,
    Open,
    Rename,
    Remove,
    SyncDir,
    Probe,
    Spawn,
    Read,
    Write,
    WriteDurable,
    Sync,
    SetLen,
    WriteZeroes,
}

/// One call of the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was called.
    pub verb: Verb,
    /// The file or name concerned, else empty.
    pub file: String,
    /// Where in the file; zero for what has no place.
    pub offset: u64,
    /// How much; zero for what has no length.
    pub bytes: u64,
}

/// What became of a call, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The log asked for it.
    Start(Call),
    /// It answered `Ok`.
    Done(Call),
    /// It answered with an error.
    Failed(Call),
}

/// Which calls are meant.
#[derive(Clone, Debug)]
pub struct On {
    verb: Verb,
    file: Option<String>,
    offsets: Range<u64>,
}

impl On {
    /// All calls of `verb`.
    #[must_use]
    pub fn every(verb: Verb) -> Self {
        Self { verb, file: None, offsets: 0..u64::MAX }
    }

    /// Durable writes of frames: not of segment headers, which stand at offset zero.
    #[must_use]
    pub fn frame() -> Self {
        Self { verb: Verb::WriteDurable, file: None, offsets: 1..u64::MAX }
    }

    /// The durable write of the frame at `offset` of its file.
    #[must_use]
    pub fn frame_at(offset: u64) -> Self {
        Self { verb: Verb::WriteDurable, file: None, offsets: offset..offset + 1 }
    }

    /// Durable writes of segment headers.
    #[must_use]
    pub fn segment_header() -> Self {
        Self { verb: Verb::WriteDurable, file: None, offsets: 0..1 }
    }

    /// Of these, only the calls that concern the file `name`.
    #[must_use]
    pub fn in_file(self, name: &str) -> Self {
        Self { file: Some(name.to_owned()), ..self }
    }

    fn means(&self, call: &Call) -> bool {
        self.verb == call.verb
            && self.file.as_ref().is_none_or(|file| *file == call.file)
            && self.offsets.contains(&call.offset)
    }
}

/// What a failing call does to the bytes before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// All of it: only the answer is wrong.
    Whole,
    /// The first sector only.
    Torn,
    /// It never answers: the storage panics, having done nothing.
    Panics,
}

/// A failure to come.
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing before it is given to the disk"]
pub struct Fault {
    on: On,
    skip: u64,
    times: u64,
    errno: i32,
    effect: Effect,
}

impl Fault {
    /// The next of these calls fails with `errno`, once, and does nothing.
    pub fn once(on: On, errno: i32) -> Self {
        Self { on, skip: 0, times: 1, errno, effect: Effect::Nothing }
    }

    /// The next of these calls panics, once.
    pub fn panics(on: On) -> Self {
        Self { effect: Effect::Panics, ..Self::once(on, 0) }
    }

    /// All of these calls fail from now on, until [`Control::heal`].
    pub fn sticky(on: On, errno: i32) -> Self {
        Self { times: u64::MAX, ..Self::once(on, errno) }
    }

    /// Lets `calls` calls pass first.
    pub fn after(self, calls: u64) -> Self {
        Self { skip: calls, ..self }
    }

    /// What the call does to the bytes before it fails.
    pub fn with_effect(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    /// Takes its turn at a call that is meant.
    fn strike(&mut self) -> Option<(i32, Effect)> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some((self.errno, self.effect))
    }
}

/// The tester's end of a [`Faulty`]: shared by all its clones and files.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    blocking: Blocking,
    /// Read while a call has its effect, written while nothing may change.
    effects: RwLock<()>,
    /// The log's threads that have not ended.
    threads: AtomicU64,
}

/// What threads did to each other through the host.
#[derive(Debug, Default)]
pub(crate) struct Blocking {
    /// How often a thread of the test's own fell asleep, and on which words, by address.
    sleeps: AtomicU64,
    words: Mutex<BTreeSet<usize>>,
    woken: Mutex<Woken>,
    /// Sleeps and wake-ups of all threads.
    calls: AtomicU64,
}

/// How often the words were woken that threads of the test's own have slept on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// One of their sleepers.
    pub one: u64,
    /// All of their sleepers.
    pub all: u64,
}

impl Blocking {
    pub(crate) fn sleeps(&self, word: &Word) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let is_own = thread::current().name().is_none_or(|name| !name.starts_with("wal-"));
        if is_own {
            self.words.lock().insert(std::ptr::from_ref(word).addr());
            self.sleeps.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn wakes(&self, word: &Word, who: Wake) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.words.lock().contains(&std::ptr::from_ref(word).addr()) {
            let mut woken = self.woken.lock();
            match who {
                Wake::One => woken.one += 1,
                _ => woken.all += 1,
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<Verb, u64>,
    faults: Vec<Fault>,
    gates: Vec<GateState>,
    next_gate: u64,
    events: Vec<Event>,
    latency: Duration,
    frozen: Option<Duration>,
    looks_at_frozen: u64,
}

#[derive(Debug)]
struct GateState {
    number: u64,
    on: On,
    waiting: u64,
}

impl Control {
    /// How many calls of `verb` were started so far.
    #[must_use]
    pub fn count(&self, verb: Verb) -> u64 {
        self.0.state.lock().counts.get(&verb).copied().unwrap_or_default()
    }

    /// How often a thread of the test's own fell asleep in the log so far, or was about to.
    #[must_use]
    pub fn sleeps(&self) -> u64 {
        self.0.blocking.sleeps.load(Ordering::SeqCst)
    }

    /// How often the words were woken, by any thread, that threads of the test's own have slept on.
    #[must_use]
    pub fn woken(&self) -> Woken {
        *self.0.blocking.woken.lock()
    }

    pub(crate) fn blocking(&self) -> &Blocking {
        &self.0.blocking
    }

    /// How many calls of any kind were started so far, sleeps and wake-ups of all threads included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        let files: u64 = self.0.state.lock().counts.values().sum();
        files + self.0.blocking.calls.load(Ordering::SeqCst)
    }

    /// How many calls were started that write or sync anything.
    #[must_use]
    pub fn writes_and_syncs(&self) -> u64 {
        [Verb::Write, Verb::WriteDurable, Verb::WriteZeroes, Verb::Sync, Verb::SyncDir]
            .into_iter()
            .map(|verb| self.count(verb))
            .sum()
    }

    /// How many threads of the log have not ended.
    #[must_use]
    pub fn threads(&self) -> u64 {
        self.running().load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> &AtomicU64 {
        &self.0.threads
    }

    /// Everything that happened so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.state.lock().events.clone()
    }

    /// Forgets what happened so far; counts go on.
    pub fn forget_events(&self) {
        self.0.state.lock().events.clear();
    }

    /// Plants a failure.
    pub fn fail(&self, fault: Fault) {
        self.0.state.lock().faults.push(fault);
    }

    /// Ends all failures.
    pub fn heal(&self) {
        self.0.state.lock().faults.clear();
    }

    /// Blocks the calls that are meant until the gate is opened or dropped.
    pub fn gate(&self, on: On) -> Gate {
        let mut state = self.0.state.lock();
        state.next_gate += 1;
        let number = state.next_gate;
        state.gates.push(GateState { number, on, waiting: 0 });
        Gate { control: self.clone(), number }
    }

    /// Makes every durable write take at least so long, as on a disk: others get to sleep meanwhile.
    pub fn set_latency(&self, latency: Duration) {
        self.0.state.lock().latency = latency;
    }

    /// Stops the clock that the log sees, until [`Control::thaw`].
    pub fn freeze(&self, now: Duration) {
        let mut state = self.0.state.lock();
        state.frozen = Some(now);
        state.looks_at_frozen = 0;
    }

    /// Lets the clock go on.
    pub fn thaw(&self) {
        self.0.state.lock().frozen = None;
    }

    /// Waits until the log has looked at the stopped clock `times` times.
    pub fn wait_for_looks(&self, times: u64) {
        self.wait_until("looks at the clock", |state| state.looks_at_frozen >= times);
    }

    /// Waits until one of these calls has been started.
    pub fn wait_for_start(&self, on: &On) {
        let is_start = |event: &Event| matches!(event, Event::Start(call) if on.means(call));
        self.wait_until("a call", |state| state.events.iter().any(is_start));
    }

    /// The stopped clock, if it is stopped.
    pub(crate) fn look_at_frozen(&self) -> Option<Duration> {
        let mut state = self.0.state.lock();
        let frozen = state.frozen?;
        state.looks_at_frozen += 1;
        self.0.changed.notify_all();
        Some(frozen)
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.0.state.lock();
        while !condition(&state) {
            let waited = self.0.changed.wait_until(&mut state, deadline);
            assert!(!waited.timed_out(), "waited in vain for {what}");
        }
    }

    pub(crate) fn around<T>(
        &self,
        call: Call,
        work: impl FnOnce(Effect) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.0.state.lock();
        *state.counts.entry(call.verb).or_default() += 1;
        state.events.push(Event::Start(call.clone()));
        self.0.changed.notify_all();
        let fault = state
            .faults
            .iter_mut()
            .filter(|fault| fault.on.means(&call))
            .fold(None, |found, fault| found.or_else(|| fault.strike()));
        let passed = self.pass_gates(&mut state, &call);
        let latency = state.latency;
        drop(state);
        if call.verb == Verb::WriteDurable && !latency.is_zero() {
            thread::sleep(latency);
        }
        let result = match (passed, fault) {
            (false, _) => Err(io::Error::other("a test forgot a gate")),
            (true, None) => self.take_effect(|| work(Effect::Whole)),
            (true, Some((_, Effect::Panics))) => panic!("the storage panics, as the test wants it"),
            (true, Some((errno, effect))) => {
                if effect != Effect::Nothing {
                    drop(self.take_effect(|| work(effect)));
                }
                Err(io::Error::from_raw_os_error(errno))
            }
        };
        let event = if result.is_ok() { Event::Done } else { Event::Failed };
        self.0.state.lock().events.push(event(call));
        self.0.changed.notify_all();
        result
    }

    fn take_effect<T>(&self, work: impl FnOnce() -> T) -> T {
        let _moment = self.0.effects.read();
        work()
    }

    /// What `look` sees between two calls: no call has its effect meanwhile.
    pub(crate) fn between_calls<T>(&self, look: impl FnOnce() -> T) -> T {
        let _moment = self.0.effects.write();
        look()
    }

    /// Waits at every gate that means `call`; false if one was never opened.
    fn pass_gates(&self, state: &mut MutexGuard<'_, State>, call: &Call) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let closed: Vec<u64> = state
            .gates
            .iter_mut()
            .filter(|gate| gate.on.means(call))
            .map(|gate| {
                gate.waiting += 1;
                gate.number
            })
            .collect();
        self.0.changed.notify_all();
        for number in closed {
            while state.gates.iter().any(|gate| gate.number == number) {
                if self.0.changed.wait_until(state, deadline).timed_out() {
                    return false;
                }
            }
        }
        true
    }
}

/// Calls that are blocked. Opens when dropped, so that a failed test does not hang.
#[derive(Debug)]
#[must_use = "a gate that is dropped is open"]
pub struct Gate {
    control: Control,
    number: u64,
}

impl Gate {
    /// Waits until `calls` calls are blocked in the gate.
    pub fn wait_for(&self, calls: u64) {
        let number = self.number;
        self.control.wait_until("a call at the gate", |state| {
            state.gates.iter().any(|gate| gate.number == number && gate.waiting >= calls)
        });
    }

    /// How many calls are blocked in the gate.
    #[must_use]
    pub fn blocked(&self) -> u64 {
        let state = self.control.0.state.lock();
        let gate = state.gates.iter().find(|gate| gate.number == self.number);
        gate.map_or(0, |gate| gate.waiting)
    }

    /// Lets the blocked calls go on, and later ones pass.
    pub fn open(self) {
        drop(self);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.control.0.state.lock().gates.retain(|gate| gate.number != self.number);
        self.control.0.changed.notify_all();
    }
}
