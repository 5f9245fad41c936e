//! [`DiskOptions`]: what kind of disk is simulated.

use super::choice::Limits;
use crate::random::Random;
use aligned::Alignment;
use std::time::Duration;
use wal::io::DurableMethod;

/// What kind of disk is simulated.
///
/// ```
/// use wal_sim::{DiskOptions, Sector};
///
/// let disk = DiskOptions::new().sector(Sector::Bytes4096).depth(1).room_bytes(1 << 20);
/// # let _ = disk;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct DiskOptions {
    pub(super) sector: Sector,
    pub(super) method: DurableMethod,
    pub(super) depth: u32,
    pub(super) room_bytes: u64,
    pub(super) latency: Latency,
    pub(super) stale: bool,
    pub(super) any_names_survive: bool,
    pub(super) probes: bool,
    pub(super) whole_sectors: bool,
    pub(super) zeroes: bool,
    pub(super) cached: bool,
}

/// The unit of the disk: everything is aligned to it, and a torn write is torn at its borders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sector {
    /// That of older disks, and of those that emulate one.
    Bytes512,
    /// That of disks with large blocks.
    Bytes4096,
}

/// How long a write or a sync takes: `least`, and up to `spread` more, as the seed says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) least: Duration,
    pub(super) spread: Duration,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            sector: Sector::Bytes512,
            method: DurableMethod::WriteDsync,
            depth: 4,
            room_bytes: u64::MAX,
            latency: Latency {
                least: Duration::from_micros(20),
                spread: Duration::from_micros(100),
            },
            stale: false,
            any_names_survive: false,
            probes: false,
            whole_sectors: false,
            zeroes: false,
            cached: false,
        }
    }
}

impl DiskOptions {
    /// 512-byte sectors, durable writes in one call, four at once, 20 to 120 µs each, endless room.
    pub fn new() -> Self {
        Self::default()
    }

    /// Any kind: sector, method, depth and latency as `random` says, and now and then stale bytes,
    /// names that survive in any combination, a probe that leaves garbage, zeros in one call, and a
    /// page cache.
    pub fn any(random: &mut Random) -> Self {
        let least = Duration::from_micros(random.choose(&[0, 0, 20, 100]));
        let spread = Duration::from_micros(random.choose(&[0, 10, 100, 1000]));
        let any = Self {
            sector: random.choose(&[Sector::Bytes512, Sector::Bytes512, Sector::Bytes4096]),
            method: random.choose(&[DurableMethod::WriteDsync, DurableMethod::WriteThenSync]),
            depth: random.choose(&[1, 2, 4]),
            latency: Latency { least, spread },
            stale: random.one_in(2),
            any_names_survive: random.one_in(2),
            probes: random.one_in(4),
            zeroes: random.one_in(3),
            ..Self::default()
        };
        if random.one_in(5) { any.cached() } else { any }
    }

    /// The unit of alignment and of tearing. Default 512 bytes.
    pub fn sector(self, sector: Sector) -> Self {
        Self { sector, ..self }
    }

    /// How durable writes are made: each by itself, or by a write and a sync of the file. Default
    /// each by itself.
    pub fn method(self, method: DurableMethod) -> Self {
        Self { method, ..self }
    }

    /// How many durable writes may be under way at once. Default 4.
    pub fn depth(self, writes: u32) -> Self {
        Self { depth: writes.max(1), ..self }
    }

    /// How much fits, in bytes, counted in pages of 4096. Default no limit.
    pub fn room_bytes(self, bytes: u64) -> Self {
        Self { room_bytes: bytes, ..self }
    }

    /// How long writes and syncs take: `least`, and up to `spread` more. What takes time completes in
    /// another order than it began. Default 20 and 100 µs.
    pub fn latency(self, least: Duration, spread: Duration) -> Self {
        Self { latency: Latency { least, spread }, ..self }
    }

    /// After a crash, room that a file got and whose bytes did not survive holds what another file
    /// left there, and not zeros.
    pub fn stale_bytes(self) -> Self {
        Self { stale: true, ..self }
    }

    /// Names that were not synced survive a crash in any combination, and not only those that were
    /// made first.
    pub fn any_names(self) -> Self {
        Self { any_names_survive: true, ..self }
    }

    /// A sector is written as a whole or not at all, and never garbage.
    pub fn whole_sectors(self) -> Self {
        Self { whole_sectors: true, ..self }
    }

    /// Writes zeros over a range in one call ([`File::write_zeroes`](wal::io::File::write_zeroes)):
    /// cheap, torn like any write, durable after a sync. Default: the caller has to write them.
    pub fn write_zeroes(self) -> Self {
        Self { zeroes: true, ..self }
    }

    /// Reads and writes go through a page cache, and durable writes are a write and a sync, one at a
    /// time. When a sync fails, the cache may still say what was written while the device has what was
    /// there before, and a later sync finds nothing to do: who reads it without
    /// [`File::drop_cache`](wal::io::File::drop_cache) believes what no crash will leave. Default: what
    /// a failed sync forgot is not read either.
    pub fn cached(self) -> Self {
        Self { cached: true, method: DurableMethod::WriteThenSync, depth: 1, ..self }
    }

    /// The probe of durable writes writes garbage, as a real one does.
    pub fn probes(self) -> Self {
        Self { probes: true, ..self }
    }

    /// What a crash may do.
    pub(crate) fn limits(&self) -> Limits {
        Limits { any_names: self.any_names_survive, garbage: !self.whole_sectors }
    }

    pub(crate) fn sector_bytes(&self) -> usize {
        self.sector.alignment().bytes()
    }
}

impl Sector {
    pub(crate) const fn alignment(self) -> Alignment {
        match self {
            Self::Bytes512 => Alignment::SECTOR_512,
            Self::Bytes4096 => Alignment::BLOCK_4096,
        }
    }
}
