//! [`Yielding`]: giving the processor to the log's own threads, and not to strangers.

use crate::{
    io::Host,
    sync::{AtomicU64, Mutex},
};
use std::{sync::atomic::Ordering, time::Duration};

/// From a cohort of so many on, for each processor, a waiter yields before it sleeps: 12 was best with two.
pub(super) const COHORT_PER_PROCESSOR: u32 = 6;

/// A yield that takes longer than this, and than what each of the log's own threads may have run meanwhile, was
/// lost to others.
const OWN_MAX: Duration = Duration::from_micros(500);
const OWN_EACH: Duration = Duration::from_micros(16);

/// So much may be lost before it counts, and so much of the time that passes is forgiven. A virtual machine
/// whose processor is taken away for 10 ms, a few times a second, has lost a few per cent, and not by yielding;
/// beside busy processes it is nearly every yield.
const LOST_MAX: Duration = Duration::from_millis(20);
const FORGIVEN_PART: u32 = 8;

/// For so many times as long as the last loss nobody yields then, and for a second at most.
const QUIET_FACTOR: u32 = 64;
const QUIET_MAX: Duration = Duration::from_secs(1);

/// Whether to yield: a thread that yields goes on when those have run that wait for its processor. Where they are
/// the log's own that is what it is for, and takes microseconds. Where they are other programs it takes their
/// time slices.
///
/// Measured beside two busy processes, on two processors: waits bounded at 36 us took 1 to 2.3 ms, and 4, 16 and 64
/// writers fell to 3.6, 18.6 and 54.6 K records/s; with this 34.8, 101 and 311.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// Nobody yields before this time, in nanoseconds of the host's clock.
    quiet_until: AtomicU64,
    lost: Mutex<Lost>,
}

/// What yields have lost to others.
#[derive(Debug, Default)]
struct Lost {
    /// Less what was forgiven.
    time: Duration,
    /// Up to when it was counted.
    until: Duration,
}

/// One thread's yields, one after the other.
pub(super) struct Yields<'a, H: Host> {
    yielding: &'a Yielding,
    host: &'a H,
    start: Duration,
    now: Duration,
    limit: Duration,
}

impl Yielding {
    /// Begins to yield, where `own` threads of the log's callers may have something to do.
    pub(super) fn begin<'a, H: Host>(&'a self, host: &'a H, own: u32) -> Yields<'a, H> {
        let now = host.now();
        let limit = OWN_MAX.saturating_add(OWN_EACH.saturating_mul(own));
        Yields { yielding: self, host, start: now, now, limit }
    }
}

impl Lost {
    /// Adds what was lost from `start` to `now`. What several threads lost at the same time was lost once.
    /// Answers whether it is too much.
    fn add(&mut self, start: Duration, now: Duration) -> bool {
        let forgiven = now.saturating_sub(self.until) / FORGIVEN_PART;
        let lost = now.saturating_sub(start.max(self.until));
        let time = self.time.saturating_sub(forgiven).saturating_add(lost);
        self.time = time.min(LOST_MAX);
        self.until = self.until.max(now);
        time > LOST_MAX
    }
}

impl<H: Host> Yields<'_, H> {
    /// How long it has yielded.
    pub(super) fn time(&self) -> Duration {
        self.now.saturating_sub(self.start)
    }

    /// Yields once, unless too much was lost by it a short while ago. Answers whether it may again.
    pub(super) fn yield_now(&mut self) -> bool {
        if nanoseconds(self.now) < self.yielding.quiet_until.load(Ordering::Relaxed) {
            return false;
        }
        self.host.yield_now();
        let before = std::mem::replace(&mut self.now, self.host.now());
        let took = self.now.saturating_sub(before);
        if took <= self.limit || !self.yielding.lost.lock().add(before, self.now) {
            return true;
        }
        let quiet = took.saturating_mul(QUIET_FACTOR).min(QUIET_MAX);
        let until = nanoseconds(self.now.saturating_add(quiet));
        self.yielding.quiet_until.fetch_max(until, Ordering::Relaxed);
        false
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{io::Wake, sync::Word};
    use std::io;

    /// A host whose yields take as long as the test says.
    #[derive(Default)]
    struct Clock {
        now: Mutex<Duration>,
        takes: Mutex<Duration>,
        yields: Mutex<u32>,
    }

    impl Clock {
        fn pass(&self, time: Duration) {
            *self.now.lock() += time;
        }
    }

    impl Host for Clock {
        fn now(&self) -> Duration {
            *self.now.lock()
        }
        fn unix_time(&self) -> Duration {
            Duration::ZERO
        }
        fn random(&self) -> u64 {
            0
        }
        fn sleep(&self, time: Duration) {
            self.pass(time);
        }
        fn yield_now(&self) {
            *self.yields.lock() += 1;
            self.pass(*self.takes.lock());
        }
        fn spawn(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn wait(&self, _: &Word, _: u32, _: Option<Duration>) {}
        fn wake(&self, _: &Word, _: Wake) {}
        fn processors(&self) -> u32 {
            2
        }
    }

    const OWN: u32 = 16;

    /// Yields once; answers whether it may again.
    fn yield_once(yielding: &Yielding, clock: &Clock, takes: Duration) -> bool {
        *clock.takes.lock() = takes;
        yielding.begin(clock, OWN).yield_now()
    }

    /// The log's own threads ran, each for as long as they take: that is what yielding is for.
    #[test]
    fn time_that_its_own_threads_take_is_no_loss() {
        let (yielding, clock) = (Yielding::default(), Clock::default());
        for _ in 0..10_000 {
            assert!(yield_once(&yielding, &clock, OWN_MAX + OWN_EACH * OWN));
        }
    }

    /// Two busy processes had the processor at nearly every yield, for their time slices: waits bounded at 36 us took
    /// milliseconds. After a few nobody yields for 64 times as long, and then it is tried again.
    #[test]
    fn it_yields_no_more_where_strangers_have_the_processor() {
        let (yielding, clock) = (Yielding::default(), Clock::default());
        let slice = Duration::from_millis(3);
        let first = (0..).take_while(|_| yield_once(&yielding, &clock, slice)).count();
        assert!(first < 10, "{first} slices were lost");
        let (quiet_from, before) = (clock.now(), *clock.yields.lock());
        while clock.now() < quiet_from + slice * (QUIET_FACTOR - 1) {
            assert!(!yield_once(&yielding, &clock, slice));
            clock.pass(Duration::from_micros(100));
        }
        assert_eq!(*clock.yields.lock(), before);
        clock.pass(slice);
        assert!(yield_once(&yielding, &clock, Duration::from_micros(3)));
        // All in all no more is lost than is forgiven.
        let (from, before) = (clock.now(), *clock.yields.lock());
        while clock.now() < from + Duration::from_secs(10) {
            yield_once(&yielding, &clock, slice);
            clock.pass(Duration::from_micros(100));
        }
        let lost = slice * (*clock.yields.lock() - before);
        assert!(lost < Duration::from_secs(10) / FORGIVEN_PART + 2 * LOST_MAX, "{lost:?}");
    }

    /// The processor itself was taken away, from all threads at once and for milliseconds, now and then: that was no
    /// yield's doing, and every later commit went without its cohort for half a second.
    #[test]
    fn a_machine_that_stands_still_now_and_then_silences_nobody() {
        let (yielding, clock) = (Yielding::default(), Clock::default());
        for _ in 0..100 {
            // Sixteen threads were yielding at that moment.
            let mut yields: Vec<_> = (0..OWN).map(|_| yielding.begin(&clock, OWN)).collect();
            clock.pass(Duration::from_millis(10));
            *clock.takes.lock() = Duration::ZERO;
            for yields in &mut yields {
                assert!(yields.yield_now());
            }
            clock.pass(Duration::from_millis(200));
        }
    }

    /// A process that was stopped for an hour yields again soon.
    #[test]
    fn nobody_is_silenced_for_longer_than_a_second() {
        let (yielding, clock) = (Yielding::default(), Clock::default());
        assert!(!yield_once(&yielding, &clock, Duration::from_secs(3600)));
        clock.pass(QUIET_MAX);
        assert!(yield_once(&yielding, &clock, Duration::ZERO));
    }
}
