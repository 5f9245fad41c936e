//! [`Yielding`]: giving the processor to the log's own threads, and not to strangers.

use crate::{io::Host, sync::AtomicU64};
use std::{sync::atomic::Ordering, time::Duration};

/// From a cohort of so many on, for each processor, a waiter yields before it sleeps: 12 was best with two.
pub(super) const COHORT_PER_PROCESSOR: u32 = 6;

/// A yield that takes longer than this, and than what each of the log's own threads may have run meanwhile, went
/// to strangers.
const OWN_MAX: Duration = Duration::from_micros(500);
const OWN_EACH: Duration = Duration::from_micros(16);

/// For so many times as long nobody yields then.
const QUIET_FACTOR: u32 = 64;

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

impl<H: Host> Yields<'_, H> {
    /// How long it has yielded.
    pub(super) fn time(&self) -> Duration {
        self.now.saturating_sub(self.start)
    }

    /// Yields once, unless strangers had the processor a short while ago. Answers whether it may again.
    pub(super) fn yield_now(&mut self) -> bool {
        if nanoseconds(self.now) < self.yielding.quiet_until.load(Ordering::Relaxed) {
            return false;
        }
        self.host.yield_now();
        let before = std::mem::replace(&mut self.now, self.host.now());
        let took = self.now.saturating_sub(before);
        if took <= self.limit {
            return true;
        }
        let until = self.now.saturating_add(took.saturating_mul(QUIET_FACTOR));
        self.yielding.quiet_until.fetch_max(nanoseconds(until), Ordering::Relaxed);
        false
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
