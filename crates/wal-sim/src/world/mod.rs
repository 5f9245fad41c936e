/*!
[`World`]: time, chance and threads of one life of a program, all decided by a seed.

Threads are real ones, but exactly one has the **turn**. It gives it away only at *switch points*:
each call of the disk, [`wait`](Host::wait), [`sleep`](Host::sleep), [`yield_now`](Host::yield_now),
and the end of a thread. Who is next is the seed's choice. Time is virtual: it moves a little at each
switch, and to the next deadline when everybody waits. When everybody waits and there is no
deadline, the life has hung, and it says who waited for what.

A program must not block on anything else across a switch point: a lock that is held while its
holder's turn goes on, and that the next one wants, stops everything for real.

A life ends when its first thread returns, panics, or cuts the power. Threads that are left unwind
from their next switch point, so that their memory is freed; whatever they do on the way is
no longer seen by anybody.
*/

mod pool;
mod schedule;

use parking_lot::{Mutex, MutexGuard};
use schedule::{Handing, Stage, State, Why};
use std::{
    any::Any,
    cell::RefCell,
    fmt,
    future::Future,
    io,
    panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};
use wal::io::{Host, Wake, Word};

/// The world of one life of a program. Clones are handles of the same one.
///
/// ```
/// use wal_sim::World;
///
/// let world = World::new(7);
/// let inner = world.clone();
/// let sum = world.run(move || {
///     let half = inner.spawn("half", || 21);
///     half.join() * 2
/// });
/// assert_eq!(sum.unwrap(), 42);
/// ```
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// As in the state, to be read without the lock.
    is_cut: AtomicBool,
    has_begun: AtomicBool,
    /// Whether its panics are told by [`Broken`] alone.
    is_quiet: AtomicBool,
}

/// Why a life did not end by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Broken {
    /// A thread panicked.
    Panic {
        /// Its name.
        thread: String,
        /// What it said.
        message: String,
    },
    /// Everybody waited, and nothing was going to happen.
    Hang {
        /// Who waited for what.
        waiting: Vec<String>,
    },
    /// It went on and on.
    Endless,
    /// Somebody cut the power.
    PowerCut,
}

/// What unwinds a thread when the lights have gone out.
struct LightsOut;

thread_local! {
    /// Where this thread panicked last, if nobody was told.
    static PANICKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The world that this thread belongs to, and its place there.
    static CURRENT: RefCell<Option<(Arc<Shared>, usize)>> = const { RefCell::new(None) };
}

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new(seed)),
            is_cut: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            is_quiet: AtomicBool::new(false),
        }))
    }

    /// A world in which time passes only while everybody waits: what a program does takes none, and who
    /// yields sits out for a microsecond. So latencies of a disk can be measured without those of a
    /// processor. Waits never return early.
    #[must_use]
    pub fn of_free_processors(seed: u64) -> Self {
        let world = Self::new(seed);
        let mut state = world.0.state.lock();
        state.switch_nanos = 0;
        state.early_one_in = u64::MAX;
        drop(state);
        world
    }

    /// Lives one life: runs `work` as its first thread, on the calling one, and ends all others when
    /// it returns.
    ///
    /// # Errors
    /// [`Broken`] says why it did not return.
    ///
    /// # Panics
    /// If this world has been run before.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> Result<R, Broken> {
        let is_first = !self.0.has_begun.swap(true, Ordering::SeqCst);
        assert!(is_first, "a world lives once");
        let me = {
            let mut state = self.0.state.lock();
            let me = state.add("main", None);
            state.threads[me].turn.settle();
            me
        };
        let outer = CURRENT.replace(Some((Arc::clone(&self.0), me)));
        let outcome = catch_unwind(AssertUnwindSafe(work));
        self.0.end_others(me);
        CURRENT.set(outer);
        let broken = self.0.state.lock().broken.take();
        match (outcome, broken) {
            (_, Some(broken)) => Err(broken),
            (Ok(value), None) => Ok(value),
            (Err(payload), None) => Err(broken_by("main", &*payload).unwrap_or(Broken::PowerCut)),
        }
    }

    /// Runs `work` on a thread of this world.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Spawned<T> {
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        let index = self.0.spawn(name, Box::new(move || *slot.lock() = Some(work())));
        Spawned { world: self.clone(), index, result }
    }

    /// Runs `future` to its end on the calling thread.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let task = Arc::new(Task { world: self.clone(), woken: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            while !task.woken.swap(false, Ordering::SeqCst) {
                self.0.block(Why::Task, None);
            }
        }
    }

    /// Cuts the power: nothing that any thread of this world does from here on is seen by anybody.
    /// Never returns to a thread of the world.
    pub fn cut_power(&self) {
        let mut state = self.0.state.lock();
        state.break_off(Broken::PowerCut);
        self.0.is_cut.store(true, Ordering::SeqCst);
        drop(state);
        self.0.unwind();
    }

    /// Has panics in it not printed: they are expected, and told by whoever runs it.
    pub(crate) fn be_quiet(&self) {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let others = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let is_quiet = CURRENT.try_with(|current| {
                    let current = current.try_borrow().ok()?;
                    current.as_ref().map(|(shared, _)| shared.is_quiet.load(Ordering::Relaxed))
                });
                if matches!(is_quiet, Ok(Some(true))) {
                    PANICKED_AT.set(info.location().map(ToString::to_string));
                } else {
                    others(info);
                }
            }));
        });
        self.0.is_quiet.store(true, Ordering::Relaxed);
    }

    /// How often a turn was given, or kept where it might have been given.
    #[must_use]
    pub fn switches(&self) -> u64 {
        self.0.state.lock().switches
    }

    /// Has a call of the disk take `time`; `None` for ever.
    pub(crate) fn disk_takes(&self, verb: &'static str, time: Option<Duration>) {
        self.0.state.lock().idle = 0;
        match time {
            Some(Duration::ZERO) => self.0.switch(0),
            Some(time) => self.0.block(Why::Disk(verb), Some(time)),
            None => self.0.block(Why::Disk(verb), None),
        }
    }

    /// Lets those calls go on that hang for ever.
    pub(crate) fn end_hanging_calls(&self) {
        let is_hanging = |why: &Why| matches!(why, Why::Disk(_));
        self.0.state.lock().wake(is_hanging, false);
    }

    /// Whether the life is over: whatever happens now has not happened.
    pub(crate) fn is_dark(&self) -> bool {
        self.0.is_cut.load(Ordering::SeqCst)
    }
}

impl Host for World {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.state.lock().now)
    }

    fn unix_time(&self) -> Duration {
        self.now()
    }

    fn random(&self) -> u64 {
        self.0.state.lock().host_random.next()
    }

    fn sleep(&self, time: Duration) {
        self.0.block(Why::Time, Some(time));
    }

    fn yield_now(&self) {
        self.0.step_aside();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.0.spawn(name, work);
        Ok(())
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        if word.read() != seen || self.0.returns_early() {
            self.0.switch(0);
        } else {
            self.0.block(Why::Word(std::ptr::from_ref(word).addr()), timeout);
        }
    }

    fn wake(&self, word: &Word, who: Wake) {
        let address = std::ptr::from_ref(word).addr();
        self.0.state.lock().wake(|why| *why == Why::Word(address), who == Wake::One);
    }

    fn processors(&self) -> u32 {
        0
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("World")
            .field("now", &Duration::from_nanos(state.now))
            .field("threads", &state.threads.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, name: &str, work: Box<dyn FnOnce() + Send>) -> usize {
        let mut state = self.state.lock();
        let shared = Arc::clone(self);
        let index = state.threads.len();
        let job = Box::new(move || shared.live(index, work));
        state.add(name, Some(job))
    }

    /// The life of a thread but the first.
    fn live(self: Arc<Self>, me: usize, work: Box<dyn FnOnce() + Send>) -> Option<Handing> {
        self.state.lock().threads[me].turn.settle();
        CURRENT.set(Some((Arc::clone(&self), me)));
        let is_cut = self.is_cut.load(Ordering::SeqCst);
        let outcome = catch_unwind(AssertUnwindSafe(|| if is_cut { drop(work) } else { work() }));
        CURRENT.set(None);
        let mut state = self.state.lock();
        if let Err(payload) = outcome
            && let Some(broken) = broken_by(&state.threads[me].name, &*payload)
        {
            state.break_off(broken);
        }
        state.threads[me].stage = Stage::Ended;
        state.wake(|why| *why == Why::Thread(me), false);
        let next = state.choose(me);
        self.note_cut(&state);
        Some(state.hand(next))
    }

    /// Ends the life: the threads that are left unwind.
    fn end_others(&self, me: usize) {
        let mut unborn = Vec::new();
        let mut state = self.state.lock();
        state.cut();
        self.is_cut.store(true, Ordering::SeqCst);
        loop {
            for entry in &mut state.threads {
                if let Some(job) = entry.job.take() {
                    entry.stage = Stage::Ended;
                    unborn.push(job);
                }
            }
            if !unborn.is_empty() {
                drop(state);
                unborn.clear();
                state = self.state.lock();
                continue;
            }
            let next = state.choose(me);
            if next == me {
                return;
            }
            self.pass(state, me, next);
            state = self.state.lock();
        }
    }

    /// A place where another may go on.
    fn switch(&self, nanos: u64) {
        let Some(me) = self.me() else { return };
        self.unwind();
        let mut state = self.state.lock();
        state.now += nanos;
        self.go_on(state, me);
    }

    /// Lets others go on, and a microsecond pass.
    fn step_aside(&self) {
        const TIME: Duration = Duration::from_micros(1);
        let is_free = self.state.lock().switch_nanos == 0;
        // Where others take no time, a clock that the yielding thread moved would run away with every
        // thread that yields.
        if is_free { self.block(Why::Time, Some(TIME)) } else { self.switch(1000) }
    }

    fn block(&self, why: Why, time: Option<Duration>) {
        #[expect(clippy::expect_used, reason = "the caller would sleep for ever")]
        let me = self.me().expect("only threads of a world wait in it: see World::run");
        self.unwind();
        let mut state = self.state.lock();
        if !state.cut {
            let time = time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            let until = time.map(|time| state.now.saturating_add(time));
            state.threads[me].stage = Stage::Blocked { why, until };
        }
        self.go_on(state, me);
    }

    fn go_on(&self, mut state: MutexGuard<'_, State>, me: usize) {
        let next = state.choose(me);
        self.note_cut(&state);
        if next != me {
            self.pass(state, me, next);
        } else {
            drop(state);
        }
        self.unwind();
    }

    fn pass(&self, mut state: MutexGuard<'_, State>, me: usize, next: usize) {
        let own = Arc::clone(&state.threads[me].turn);
        let handing = state.hand(next);
        drop(state);
        handing.go();
        own.wait();
    }

    fn note_cut(&self, state: &State) {
        if state.cut {
            self.is_cut.store(true, Ordering::SeqCst);
        }
    }

    /// Once the lights are out a thread of the world ends here, unless it is unwinding already.
    fn unwind(&self) {
        if self.is_cut.load(Ordering::SeqCst) && !thread::panicking() && self.me().is_some() {
            resume_unwind(Box::new(LightsOut));
        }
    }

    /// The calling thread's place in this world, if it belongs to it.
    fn me(&self) -> Option<usize> {
        CURRENT.with_borrow(|current| match current {
            Some((shared, me)) if std::ptr::eq(&**shared, self) => Some(*me),
            _ => None,
        })
    }

    fn returns_early(&self) -> bool {
        let mut state = self.state.lock();
        let one_in = state.early_one_in;
        state.random.one_in(one_in)
    }
}

/// A thread of a [`World`].
#[must_use = "a thread that nobody joins ends with the life"]
pub struct Spawned<T> {
    world: World,
    index: usize,
    result: Arc<Mutex<Option<T>>>,
}

impl<T> Spawned<T> {
    /// Waits for its end.
    ///
    /// # Panics
    /// If the thread panicked: the life is over then.
    pub fn join(self) -> T {
        loop {
            if let Some(result) = self.result.lock().take() {
                return result;
            }
            let stage = self.world.0.state.lock().threads[self.index].stage;
            assert!(stage != Stage::Ended, "a thread that panicked has no result");
            self.world.0.block(Why::Thread(self.index), None);
        }
    }
}

impl<T> fmt::Debug for Spawned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawned").field("index", &self.index).finish_non_exhaustive()
    }
}

struct Task {
    world: World,
    woken: AtomicBool,
}

impl std::task::Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        // Whoever waits for another future looks again, and sleeps on.
        self.world.0.state.lock().wake(|why| *why == Why::Task, false);
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic { thread, message } => write!(f, "thread {thread} panicked: {message}"),
            Self::Hang { waiting } => {
                write!(f, "nothing can happen any more: {}", waiting.join(", "))
            }
            Self::Endless => write!(f, "no end after {} switches", schedule::SWITCHES_MAX),
            Self::PowerCut => f.write_str("the power was cut"),
        }
    }
}

impl std::error::Error for Broken {}

fn broken_by(thread: &str, payload: &(dyn Any + Send)) -> Option<Broken> {
    if payload.is::<LightsOut>() {
        return None;
    }
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    let mut message = text.unwrap_or_else(|| "something that is no text".to_owned());
    if let Some(place) = PANICKED_AT.take() {
        message = format!("{message} ({place})");
    }
    Some(Broken::Panic { thread: thread.to_owned(), message })
}
