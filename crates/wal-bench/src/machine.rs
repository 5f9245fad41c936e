//! The machine, as far as a figure depends on it: kernel, processors, file system, device.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a directory lies on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name, where the kernel tells it.
    pub processor: Option<String>,
    /// How many processors this process may use.
    pub processors: usize,
    /// The type of the file system, such as `ext4`.
    pub file_system: String,
    /// What is mounted, such as `/dev/vda`.
    pub device: String,
    /// The device's queue; empty where there is no block device of its own.
    pub queue: Queue,
}

/// What the kernel says of a block device. `None` is what it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// `write back`: there is a volatile cache that must be flushed; `write through`: there is none.
    pub write_cache: Option<String>,
    /// Whether a single write can be made durable without flushing the cache.
    pub fua: Option<bool>,
    /// The smallest write.
    pub logical_block_bytes: Option<u64>,
    /// The smallest write that the device does not turn into reading, changing and writing.
    pub physical_block_bytes: Option<u64>,
    /// The scheduler in use.
    pub scheduler: Option<String>,
    /// Whether it turns.
    pub rotational: Option<bool>,
    /// Where the counters of the whole disk are.
    pub stat: Option<PathBuf>,
}

impl Machine {
    /// What `directory` lies on.
    ///
    /// # Errors
    ///
    /// When `directory` cannot be resolved.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let path = directory.canonicalize()?;
        let mount = mount_of(&mounts, &path.to_string_lossy());
        let (file_system, device) = mount
            .as_ref()
            .map_or(("unknown", "unknown"), |mount| (mount.file_system, mount.device));
        Ok(Self {
            kernel: kernel.trim().to_owned(),
            processor: processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            file_system: file_system.to_owned(),
            device: device.to_owned(),
            queue: mount.map(|mount| Queue::of(mount.device_number)).unwrap_or_default(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, processors, file_system, device, queue, .. } = self;
        write!(f, "Linux {kernel}, {processors} cpus, {file_system} on {device}")?;
        if let Some(cache) = &queue.write_cache {
            let fua = if queue.fua == Some(true) { "fua" } else { "no fua" };
            write!(f, " ({cache}, {fua})")?;
        }
        Ok(())
    }
}

impl Queue {
    /// Of the block device with this number, as `mountinfo` writes it.
    fn of(device_number: &str) -> Self {
        let device = Path::new("/sys/dev/block").join(device_number);
        // A partition has no queue of its own, and no count of flushes; its disk's are one up.
        let candidates = [device.clone(), device.join("..")];
        let disk = candidates.into_iter().find(|device| device.join("queue").is_dir());
        disk.map(|disk| Self::of_disk(&disk)).unwrap_or_default()
    }

    fn of_disk(disk: &Path) -> Self {
        let text = |name: &str| {
            let text = fs::read_to_string(disk.join("queue").join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        let flag = |name| text(name).map(|text| text == "1");
        let bytes = |name| text(name).and_then(|text| text.parse().ok());
        Self {
            write_cache: text("write_cache"),
            fua: flag("fua"),
            logical_block_bytes: bytes("logical_block_size"),
            physical_block_bytes: bytes("physical_block_size"),
            scheduler: text("scheduler").map(|text| chosen(&text)),
            rotational: flag("rotational"),
            stat: Some(disk.join("stat")).filter(|stat| stat.is_file()),
        }
    }
}

/// The one of a list that stands in brackets, or all of it: `[none] mq-deadline`.
fn chosen(list: &str) -> String {
    let bracketed = list.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or(list, |(chosen, _)| chosen).to_owned()
}

/// How busy the machine is: the averages of the runnable threads over 1, 5 and 15 minutes.
#[must_use]
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<_> = load.split(' ').take(3).collect();
    averages.join(" ")
}

/// One line of `mountinfo`, as far as it is told.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    device_number: &'a str,
    file_system: &'a str,
    device: &'a str,
}

/// The mount with the longest mount point that `path` lies below. Fields, from `proc(5)`: id,
/// parent, major:minor, root, mount point, options, any number more, `-`, type, source.
fn mount_of<'a>(mounts: &'a str, path: &str) -> Option<Mount<'a>> {
    let below = |point: &str| Path::new(path).starts_with(point);
    let mounts = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ');
        let (device_number, point) = (place.nth(2)?, place.nth(1)?);
        let mut kind = kind.split(' ');
        let mount = Mount { device_number, file_system: kind.next()?, device: kind.next()? };
        below(point).then_some((point.len(), mount))
    });
    // The last of equals: a later mount hides an earlier one.
    mounts.max_by_key(|&(length, _)| length).map(|(_, mount)| mount)
}

/// The first name of a processor in `/proc/cpuinfo`; some architectures have none.
fn processor(cpuinfo: &str) -> Option<String> {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(name.trim_start_matches(['\t', ' ', ':']).to_owned())
}

/// A time since 1970 as a date and a minute. The days are counted in years that begin in March, so
/// that the leap day is the last of a year.
#[must_use]
pub fn utc(since_1970: Duration) -> String {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let minutes = since_1970.as_secs() / 60;
    let days = minutes / (24 * 60) + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_795_327_200, "2026-11-22 06:00 UTC"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds)), date);
        }
    }

    #[test]
    fn the_innermost_mount_wins() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                      2 1 8:2 / /data rw shared:1 - xfs /dev/b rw\n\
                      3 1 0:9 / /database rw - tmpfs none rw\n";
        assert_eq!(mount_of(mounts, "/data/wal").map(|mount| mount.file_system), Some("xfs"));
        assert_eq!(mount_of(mounts, "/dat").map(|mount| mount.device), Some("/dev/a"));
        assert_eq!(mount_of("nonsense", "/"), None);
    }

    #[test]
    fn the_queue_of_a_disk_is_read_as_far_as_it_is_there() {
        let disk = tempfile::tempdir().unwrap();
        let queue = disk.path().join("queue");
        fs::create_dir(&queue).unwrap();
        for (name, text) in [
            ("write_cache", "write back\n"),
            ("fua", "0\n"),
            ("logical_block_size", "512\n"),
            ("physical_block_size", "4096\n"),
            ("scheduler", "[none] mq-deadline kyber\n"),
        ] {
            fs::write(queue.join(name), text).unwrap();
        }
        let found = Queue::of_disk(disk.path());
        let expected = Queue {
            write_cache: Some("write back".to_owned()),
            fua: Some(false),
            logical_block_bytes: Some(512),
            physical_block_bytes: Some(4096),
            scheduler: Some("none".to_owned()),
            rotational: None,
            stat: None,
        };
        assert_eq!(found, expected);
        assert_eq!(chosen("none"), "none");
    }

    #[test]
    fn a_processor_may_have_a_name() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A Processor\nmodel name\t: another\n";
        assert_eq!(processor(cpuinfo).as_deref(), Some("A Processor"));
        assert_eq!(processor("processor\t: 0\n"), None);
    }
}
