//! [`Threads`]: time, chance, threads and sleep of one execution.

use shuttle::{
    rand::{RngCore as _, thread_rng},
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use wal::io::{Host, Wake, Word};

/// A sleep of this length or more ends by being woken only: a missed wake-up must not be mended by a
/// clock, but found as a deadlock.
pub const FOR_EVER: Duration = Duration::from_secs(1800);

/// The threads of one execution, and its virtual time. Clones are handles of the same one.
///
/// Time moves a little whenever somebody yields, by a timeout when that runs out, and otherwise not at
/// all: a sleep with a timeout ends whenever the scheduler likes.
#[derive(Clone)]
pub struct Threads(Arc<Shared>);

struct Shared {
    nanos: AtomicU64,
    /// Who sleeps on which word, by its address.
    sleepers: Mutex<BTreeMap<usize, Vec<Arc<Condvar>>>>,
    /// One in so many sleeps ends at once for no reason; 0: none does.
    early_one_in: u64,
}

impl Threads {
    /// Time begins. One in `early_one_in` sleeps ends at once for no reason, as the contract allows; 0 for
    /// none, so that a missed wake-up is not hidden by it.
    #[must_use]
    pub fn new(early_one_in: u64) -> Self {
        let (nanos, sleepers) = (AtomicU64::new(1), Mutex::new(BTreeMap::new()));
        Self(Arc::new(Shared { nanos, sleepers, early_one_in }))
    }

    /// Lets time pass without letting others run.
    pub(crate) fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    fn sleepers(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Arc<Condvar>>>> {
        self.0.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sleep that nobody ends runs out after a few turns of others.
    fn doze(&self, address: usize, me: &Arc<Condvar>, time: Duration) {
        for _ in 0..1 + below(3) {
            thread::yield_now();
        }
        let mut sleepers = self.sleepers();
        let queue = sleepers.entry(address).or_default();
        if let Some(place) = queue.iter().position(|other| Arc::ptr_eq(other, me)) {
            queue.remove(place);
            self.pass(time);
        }
    }
}

impl Host for Threads {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.nanos.load(Ordering::SeqCst))
    }

    fn unix_time(&self) -> Duration {
        self.now()
    }

    fn random(&self) -> u64 {
        thread_rng().next_u64()
    }

    fn sleep(&self, time: Duration) {
        self.pass(time);
        thread::yield_now();
    }

    fn yield_now(&self) {
        self.pass(Duration::from_micros(10));
        thread::yield_now();
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
    }

    fn wait(&self, word: &Word, seen: u32, timeout: Option<Duration>) {
        if self.0.early_one_in > 0 && below(self.0.early_one_in) == 0 {
            return thread::yield_now();
        }
        let address = std::ptr::from_ref(word).addr();
        let mut sleepers = self.sleepers();
        // Whoever changes the word from here on has to pass the lock to wake: looking and falling asleep
        // are one step.
        if word.read() != seen {
            return;
        }
        let me = Arc::new(Condvar::new());
        sleepers.entry(address).or_default().push(Arc::clone(&me));
        if let Some(time) = timeout.filter(|time| *time < FOR_EVER) {
            drop(sleepers);
            return self.doze(address, &me, time);
        }
        let sleeps = |sleepers: &BTreeMap<usize, Vec<Arc<Condvar>>>| {
            let queue = sleepers.get(&address);
            queue.is_some_and(|queue| queue.iter().any(|other| Arc::ptr_eq(other, &me)))
        };
        while sleeps(&sleepers) {
            sleepers = me.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self, word: &Word, who: Wake) {
        let address = std::ptr::from_ref(word).addr();
        let mut sleepers = self.sleepers();
        let Some(queue) = sleepers.get_mut(&address) else { return };
        let woken = match who {
            // Nothing says that it is the one who sleeps longest.
            Wake::One if !queue.is_empty() => vec![queue.remove(index(queue.len()))],
            _ => std::mem::take(queue),
        };
        woken.iter().for_each(|sleeper| sleeper.notify_one());
    }

    fn processors(&self) -> u32 {
        0
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// The scheduler's own chance, so that a schedule that is replayed makes the same choices.
pub(crate) fn below(end: u64) -> u64 {
    thread_rng().next_u64() % end.max(1)
}

pub(crate) fn index(length: usize) -> usize {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    usize::try_from(below(length)).unwrap_or(0)
}
