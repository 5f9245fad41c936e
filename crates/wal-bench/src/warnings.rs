//! What makes figures doubtful: each a function from what was measured to a verdict.

use std::{fmt, fs, time::Duration};

use crate::{
    disk::Method,
    figures::{float, micros},
    machine::Queue,
};

/// Something that somebody should know before quoting a figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// What was found, for people.
    pub text: String,
}

/// What a [`Warning`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// A durable write takes hardly longer than one that is not, though there is a cache to flush.
    FlushFree,
    /// The same, with a device that says it can make a single write durable.
    FuaIgnored,
    /// A measured file has holes or extents that were never written.
    SparseExtents,
    /// Reads and writes go through the page cache.
    Buffered,
    /// The file system is in memory.
    InMemory,
    /// An overwrite may need new room.
    OverwritesAllocate,
    /// How durable writes are made was chosen by an earlier probe.
    MethodRemembered,
    /// How durable writes are made is not what is fastest now.
    MethodSlower,
    /// Slots were written twice where all should have been recycled.
    FreshSlots,
    /// Others had the processors.
    Busy,
    /// The log did better than its floor.
    BeyondFloor,
}

impl WarningKind {
    /// Its name in the reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FlushFree => "flush-free",
            Self::FuaIgnored => "fua-ignored",
            Self::SparseExtents => "sparse-extents",
            Self::Buffered => "buffered",
            Self::InMemory => "in-memory",
            Self::OverwritesAllocate => "overwrites-allocate",
            Self::MethodRemembered => "method-remembered",
            Self::MethodSlower => "method-slower",
            Self::FreshSlots => "fresh-slots",
            Self::Busy => "busy",
            Self::BeyondFloor => "beyond-floor",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.text)
    }
}

impl WarningKind {
    fn because(self, text: impl Into<String>) -> Option<Warning> {
        Some(Warning { kind: self, text: text.into() })
    }
}

/// A flush that is free was not made, or not by the disk: a durable write that takes less than 1.5
/// times as long as another, on a device that says it has a volatile cache. One that says it has none
/// has nothing to flush.
#[must_use]
pub fn flush_free(
    durable: Duration,
    plain: Duration,
    method: Method,
    queue: &Queue,
) -> Option<Warning> {
    let has_cache = queue.write_cache.as_deref() == Some("write back");
    if !has_cache || durable >= plain * 3 / 2 {
        return None;
    }
    let by_fua = method == Method::Dsync && queue.fua == Some(true);
    let kind = if by_fua { WarningKind::FuaIgnored } else { WarningKind::FlushFree };
    kind.because(format!(
        "a durable 4 KiB write takes {:.0} µs, one that is not {:.0} µs, and the device says it has \
         a volatile cache: what is durable here may not survive a power cut",
        micros(durable),
        micros(plain),
    ))
}

/// A file is not what it should be made of: its bytes and those of them in written extents.
#[must_use]
pub fn sparse_extents(file: &str, bytes: u64, written_bytes: u64) -> Option<Warning> {
    if written_bytes >= bytes {
        return None;
    }
    WarningKind::SparseExtents.because(format!(
        "only {written_bytes} of the {bytes} bytes of {file} are in written extents: each sync may \
         pay for a journal commit"
    ))
}

/// The log and its floors go through the page cache.
#[must_use]
pub fn buffered(direct: bool) -> Option<Warning> {
    if direct {
        return None;
    }
    WarningKind::Buffered.because(
        "there is no direct I/O here: log and floors go through the page cache, with one sync at a \
         time",
    )
}

/// Nothing there is ever durable.
#[must_use]
pub fn in_memory(file_system: &str) -> Option<Warning> {
    if !["tmpfs", "ramfs"].contains(&file_system) {
        return None;
    }
    WarningKind::InMemory.because(format!(
        "{file_system} is in memory: a durable write costs nothing and means nothing"
    ))
}

/// An overwrite may need new room, and new extents.
#[must_use]
pub fn overwrites_allocate(overwrites_allocate: bool, file_system: &str) -> Option<Warning> {
    if !overwrites_allocate {
        return None;
    }
    WarningKind::OverwritesAllocate.because(format!(
        "on {file_system} an overwrite may need new room: what was written before is no cheaper to \
         write again"
    ))
}

/// The log chose how durable writes are made by figures of another day.
#[must_use]
pub fn method_remembered(remembered: bool, method: Method) -> Option<Warning> {
    if !remembered {
        return None;
    }
    WarningKind::MethodRemembered.because(format!(
        "{method} was chosen by an earlier probe of this device, which may have changed since"
    ))
}

/// The method of the log takes more than 1.2 times as long as the other. Less than that is noise of
/// the short probe that chose it.
#[must_use]
pub fn method_slower(
    method: Method,
    taken: Option<Duration>,
    other: Method,
    other_taken: Option<Duration>,
) -> Option<Warning> {
    let (taken, other_taken) = (taken?, other_taken?);
    if taken <= other_taken * 6 / 5 {
        return None;
    }
    WarningKind::MethodSlower.because(format!(
        "the log writes with {method}, which takes {:.0} µs for 4 KiB now; {other} takes {:.0} µs",
        micros(taken),
        micros(other_taken),
    ))
}

/// Slots were created while a log that should recycle its own was measured.
#[must_use]
pub fn fresh_slots(load: &str, created: u64) -> Option<Warning> {
    if created == 0 {
        return None;
    }
    WarningKind::FreshSlots.because(format!(
        "{created} slots were created during {load} where all should be recycled: what went there \
         was written twice"
    ))
}

/// Others used more than a fifth of the processors while this ran. `others` is their share; `None`
/// where the kernel does not tell.
#[must_use]
pub fn busy(others: Option<f64>) -> Option<Warning> {
    let others = others?;
    if others <= 0.2 {
        return None;
    }
    WarningKind::Busy.because(format!(
        "others used {:.0} % of the processors during the run: do not quote these figures",
        others * 100.0
    ))
}

/// The log is better than what bounds it by more than noise: then the bound was disturbed, and the ratio
/// says nothing. A lone raw writer that waits for a processor after each write is such a bound.
#[must_use]
pub fn beyond_floor(ratio: &str, value: f64) -> Option<Warning> {
    if value.is_nan() || value <= 1.15 {
        return None;
    }
    WarningKind::BeyondFloor.because(format!(
        "{ratio} is {value:.2}, and no log is faster than its floor: the floor was disturbed, perhaps by \
         others on this machine"
    ))
}

/// Time of all processors of the machine, in the kernel's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    all: u64,
    /// Stolen ones included: the host's other guests had them.
    busy: u64,
    processors: u64,
}

impl Ticks {
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// Fields, from `proc(5)`: user, nice, system, idle, iowait, irq, softirq, steal; what guests
    /// used follows, and is in the first two already.
    fn parse(stat: &str) -> Option<Self> {
        let processors = stat.lines().filter(|line| is_processor(line)).count();
        let fields = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> =
            fields.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let idle = fields.get(3)? + fields.get(4)?;
        let all: u64 = fields.iter().sum();
        Some(Self { all, busy: all - idle, processors: u64::try_from(processors).ok()? })
    }

    /// The share of the processors that others had since `before`, if this process used `own` of
    /// them in `elapsed`.
    pub(crate) fn of_others(&self, before: &Self, own: Duration, elapsed: Duration) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        let busy = self.busy.saturating_sub(before.busy);
        let own = own.as_secs_f64() / (elapsed.as_secs_f64() * float(self.processors));
        Some((float(busy) / float(all) - own).max(0.0)).filter(|share| share.is_finite())
    }
}

fn is_processor(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(warning: Option<Warning>) -> Option<WarningKind> {
        warning.map(|warning| warning.kind)
    }

    fn queue(write_cache: &str, fua: bool) -> Queue {
        let write_cache = Some(write_cache.to_owned());
        Queue { write_cache, fua: Some(fua), ..Queue::default() }
    }

    #[test]
    fn a_free_flush_is_suspicious_only_where_there_is_something_to_flush() {
        let us = Duration::from_micros;
        let verdict =
            |durable, queue: &Queue, method| kind(flush_free(us(durable), us(100), method, queue));
        let back = queue("write back", false);
        assert_eq!(verdict(149, &back, Method::Dsync), Some(WarningKind::FlushFree));
        assert_eq!(verdict(150, &back, Method::Dsync), None);
        let fua = queue("write back", true);
        assert_eq!(verdict(120, &fua, Method::Dsync), Some(WarningKind::FuaIgnored));
        assert_eq!(verdict(120, &fua, Method::Fdatasync), Some(WarningKind::FlushFree));
        assert_eq!(verdict(100, &queue("write through", false), Method::Dsync), None);
        // No block device that could say.
        assert_eq!(verdict(100, &Queue::default(), Method::Dsync), None);
    }

    #[test]
    fn holes_are_named_with_their_file() {
        assert_eq!(sparse_extents("f", 4096, 4096), None);
        // The file system may count what lies behind the end.
        assert_eq!(sparse_extents("f", 4096, 8192), None);
        let found = sparse_extents("slot-1", 4096, 0).unwrap();
        assert!(found.text.contains("slot-1") && found.to_string().starts_with("sparse-extents: "));
    }

    #[test]
    fn what_the_log_says_of_itself_is_passed_on() {
        assert_eq!(kind(buffered(false)), Some(WarningKind::Buffered));
        assert_eq!(buffered(true), None);
        assert_eq!(kind(in_memory("tmpfs")), Some(WarningKind::InMemory));
        assert_eq!(in_memory("ext4"), None);
        assert_eq!(kind(overwrites_allocate(true, "btrfs")), Some(WarningKind::OverwritesAllocate));
        assert_eq!(overwrites_allocate(false, "ext4"), None);
        let remembered = method_remembered(true, Method::Dsync);
        assert_eq!(kind(remembered), Some(WarningKind::MethodRemembered));
        assert_eq!(method_remembered(false, Method::Dsync), None);
        assert_eq!(kind(fresh_slots("bandwidth", 2)), Some(WarningKind::FreshSlots));
        assert_eq!(fresh_slots("bandwidth", 0), None);
    }

    #[test]
    fn a_method_that_is_clearly_slower_is_named() {
        let us = |us| Some(Duration::from_micros(us));
        let verdict =
            |taken, other| kind(method_slower(Method::Dsync, taken, Method::Fdatasync, other));
        assert_eq!(verdict(us(121), us(100)), Some(WarningKind::MethodSlower));
        assert_eq!(verdict(us(120), us(100)), None);
        assert_eq!(verdict(us(121), None), None);
        assert_eq!(verdict(None, us(100)), None);
    }

    #[test]
    fn a_machine_that_others_use_is_busy() {
        assert_eq!(kind(busy(Some(0.21))), Some(WarningKind::Busy));
        assert_eq!(busy(Some(0.2)), None);
        assert_eq!(busy(None), None);
    }

    #[test]
    fn a_log_beyond_its_floor_is_no_good_news() {
        let found = beyond_floor("R_lat", 1.2);
        assert_eq!(kind(found.clone()), Some(WarningKind::BeyondFloor));
        assert!(found.is_some_and(|found| found.text.starts_with("R_lat is 1.20")));
        assert_eq!(beyond_floor("R_lat", 1.15), None);
        assert_eq!(beyond_floor("R_lat", f64::NAN), None);
        assert_eq!(kind(beyond_floor("R_lat", f64::INFINITY)), Some(WarningKind::BeyondFloor));
    }

    #[test]
    fn ticks_of_others_are_those_that_are_not_ours() {
        let parse = |first: &str| Ticks::parse(&format!("{first}\ncpu0 1\ncpu1 1\nintr 5\n"));
        let before = parse("cpu  100 0 100 800 0 0 0 0 0 0").unwrap();
        // 400 ticks of two processors are 2 s; 200 were busy, which is 1 s of both; we had 0.5 s.
        let after = parse("cpu  200 0 150 1000 0 0 0 50 0 0").unwrap();
        let second = Duration::from_secs(1);
        let others = after.of_others(&before, second / 2, 2 * second).unwrap();
        assert!((others - 0.375).abs() < 1e-9, "{others}");
        assert_eq!(before.of_others(&before, second, second), None);
        assert_eq!(after.of_others(&before, 10 * second, second), Some(0.0));
        assert_eq!(Ticks::parse("nonsense"), None);
        assert!(Ticks::now().is_some());
    }

    #[test]
    fn names_are_different() {
        let kinds = [
            WarningKind::FlushFree,
            WarningKind::FuaIgnored,
            WarningKind::SparseExtents,
            WarningKind::Buffered,
            WarningKind::InMemory,
            WarningKind::OverwritesAllocate,
            WarningKind::MethodRemembered,
            WarningKind::MethodSlower,
            WarningKind::FreshSlots,
            WarningKind::Busy,
            WarningKind::BeyondFloor,
        ];
        let names: std::collections::BTreeSet<_> = kinds.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), kinds.len());
    }
}
