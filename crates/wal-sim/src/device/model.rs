//! [`Device`]: the latency of a class of disks, and the queue in which its calls stand.

use crate::random::Random;
use std::time::Duration;

/// How long a disk takes: for a write, for its bytes, and until what was written is durable.
///
/// It serves [`depth`](Device::depth) writes at once, which share its bandwidth. A flush covers every
/// write that ended before it began; one runs at a time, and those who ask while it runs share the next,
/// as they do in Linux (`block/blk-flush.c`). Where the flush takes no time the device has no volatile
/// cache: a write is durable when it ends.
///
/// The presets are classes and not products. Where their figures come from is said at each; the sources
/// are A. Freund's table of durable 8 KiB writes (<https://gist.github.com/anarazel/b527e5317bb7d58483a9858f5f2435ca>)
/// and Pebble's measurement of written extents (<https://github.com/cockroachdb/pebble/pull/92>).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Device {
    name: &'static str,
    write: Duration,
    bytes_per_second: u64,
    depth: u32,
    flush: Duration,
    jitter_percent: u32,
}

impl Device {
    /// Optane: 12 µs a write, durable by itself, eight at once, 2.2 GB/s. Durable 8 KiB writes were seen
    /// to take 29 µs, half of it in the kernel.
    pub const OPTANE: Self =
        Self::new("optane", Duration::from_micros(12), 2_200_000_000).at_once(8).jitter(5);

    /// NVMe with power-loss protection: 20 µs a write, durable by itself, 32 at once, 2 GB/s. Local disks
    /// of a cloud's machines were seen to take 28 to 30 µs.
    pub const PLP_NVME: Self =
        Self::new("plp-nvme", Duration::from_micros(20), 2_000_000_000).at_once(32).jitter(20);

    /// NVMe without: 15 µs into its cache, 32 at once, 3 GB/s, and a flush of 2 ms. Seen: 0.2 to 5.8 ms
    /// for a durable write.
    pub const CONSUMER_NVME: Self =
        Self::new("consumer-nvme", Duration::from_micros(15), 3_000_000_000)
            .at_once(32)
            .flush(Duration::from_millis(2))
            .jitter(20);

    /// A disk behind a network: 1 ms a write, durable by itself, 64 at once, 250 MB/s.
    pub const NETWORK_BLOCK: Self =
        Self::new("network-block", Duration::from_millis(1), 250_000_000).at_once(64).jitter(30);

    /// A hard disk with its cache on: 50 µs into the cache, one at a time, 180 MB/s, and a flush of 12 ms,
    /// which was seen.
    pub const HARD_DISK: Self = Self::new("hard-disk", Duration::from_micros(50), 180_000_000)
        .flush(Duration::from_millis(12))
        .jitter(30);

    /// All presets, from the fastest to the slowest.
    pub const PRESETS: [Self; 5] =
        [Self::OPTANE, Self::PLP_NVME, Self::CONSUMER_NVME, Self::NETWORK_BLOCK, Self::HARD_DISK];

    /// A device of this name that takes `write` for each write, and for its bytes on top of that what
    /// `bytes_per_second` says. One write at a time, durable by itself, always the same.
    pub const fn new(name: &'static str, write: Duration, bytes_per_second: u64) -> Self {
        Self { name, write, bytes_per_second, depth: 1, flush: Duration::ZERO, jitter_percent: 0 }
    }

    /// How many writes it serves at once; at least one. The writes share the bandwidth.
    pub const fn at_once(self, writes: u32) -> Self {
        Self { depth: if writes == 0 { 1 } else { writes }, ..self }
    }

    /// How long a flush takes. Zero for a device without a volatile cache.
    pub const fn flush(self, flush: Duration) -> Self {
        Self { flush, ..self }
    }

    /// By how much of its time a write or a flush may take longer, in per cent, evenly spread.
    pub const fn jitter(self, percent: u32) -> Self {
        Self { jitter_percent: percent, ..self }
    }

    /// The preset of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::PRESETS.into_iter().find(|device| device.name == name)
    }

    /// What it is called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How many writes it serves at once.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether a write that ended may be lost by a power cut until a flush has ended, too.
    #[must_use]
    pub fn has_volatile_cache(&self) -> bool {
        !self.flush.is_zero()
    }

    fn transfer(&self, bytes: usize) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn with_jitter(&self, time: Duration, random: &mut Random) -> Duration {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let spread = nanos / 100 * u64::from(self.jitter_percent);
        time + Duration::from_nanos(random.below(spread))
    }
}

/// The calls that a device serves and will serve. Times are those of the host's clock.
#[derive(Debug)]
pub(super) struct Queue {
    device: Device,
    random: Random,
    /// When each of its places is free again.
    places: Vec<Duration>,
    /// When the bytes of all writes so far have been transferred.
    transferred: Duration,
    /// The last flush that runs or will: from, to.
    flush: (Duration, Duration),
}

impl Queue {
    pub(super) fn new(device: Device, seed: u64) -> Self {
        let places = vec![Duration::ZERO; usize::try_from(device.depth).unwrap_or(1)];
        let flush = (Duration::ZERO, Duration::ZERO);
        Self { device, random: Random::new(seed), places, transferred: Duration::ZERO, flush }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// When a write of `bytes` ends that is asked for at `now`.
    pub(super) fn write(&mut self, now: Duration, bytes: usize) -> Duration {
        let service = self.device.with_jitter(self.device.write, &mut self.random);
        self.transferred = self.transferred.max(now) + self.device.transfer(bytes);
        let Some(place) = self.places.iter_mut().min() else { return now };
        // The last byte of it has passed when all before it have, and it takes its own time after that.
        let end = (*place).max(now).max(self.transferred) + service;
        *place = end;
        end
    }

    /// When everything is durable that had been written when it is asked for, at `now`.
    pub(super) fn flush(&mut self, now: Duration) -> Duration {
        if !self.device.has_volatile_cache() {
            return now;
        }
        let (from, to) = self.flush;
        // One that has not begun covers this caller's writes as well.
        if now > from {
            let time = self.device.with_jitter(self.device.flush, &mut self.random);
            let from = now.max(to);
            self.flush = (from, from + time);
        }
        self.flush.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn writes_stand_in_line_when_all_places_are_taken() {
        let mut queue = Queue::new(Device::new("", 10 * MICRO, u64::MAX).at_once(2), 1);
        assert_eq!(queue.write(MICRO, 4096), 11 * MICRO);
        assert_eq!(queue.write(2 * MICRO, 4096), 12 * MICRO);
        assert_eq!(queue.write(3 * MICRO, 4096), 21 * MICRO);
        assert_eq!(queue.write(100 * MICRO, 4096), 110 * MICRO);
    }

    #[test]
    fn bytes_of_all_writes_share_the_bandwidth() {
        let mut queue = Queue::new(Device::new("", MICRO, 1_000_000_000).at_once(8), 1);
        assert_eq!(queue.write(Duration::ZERO, 1000), 2 * MICRO);
        assert_eq!(queue.write(Duration::ZERO, 1000), 3 * MICRO);
        assert_eq!(queue.write(50 * MICRO, 1000), 52 * MICRO, "an idle bus owes nothing");
    }

    #[test]
    fn a_flush_is_shared_by_those_who_ask_before_it_begins() {
        let device = Device::new("", MICRO, u64::MAX).flush(100 * MICRO);
        let mut queue = Queue::new(device, 1);
        assert_eq!(queue.flush(10 * MICRO), 110 * MICRO);
        // It runs already: what was written since then needs the next one, together.
        assert_eq!(queue.flush(20 * MICRO), 210 * MICRO);
        assert_eq!(queue.flush(90 * MICRO), 210 * MICRO);
        assert_eq!(queue.flush(111 * MICRO), 310 * MICRO);
        assert_eq!(queue.flush(500 * MICRO), 600 * MICRO);
    }

    #[test]
    fn without_a_volatile_cache_a_flush_is_free() {
        let mut queue = Queue::new(Device::OPTANE, 1);
        assert_eq!(queue.flush(7 * MICRO), 7 * MICRO);
    }

    #[test]
    fn jitter_only_adds_and_never_more_than_its_part() {
        let mut queue = Queue::new(Device::new("", 100 * MICRO, u64::MAX).jitter(20), 3);
        let times: Vec<_> = (0..1000)
            .map(|turn| {
                let now = turn * Duration::from_secs(1);
                queue.write(now, 512) - now
            })
            .collect();
        assert!(times.iter().all(|time| (100 * MICRO..120 * MICRO).contains(time)));
        assert!(times.iter().any(|time| *time > 110 * MICRO));
    }

    #[test]
    fn presets_are_found_by_their_names() {
        for device in Device::PRESETS {
            assert_eq!(Device::named(device.name()), Some(device));
        }
        assert_eq!(Device::named("floppy"), None);
    }
}
