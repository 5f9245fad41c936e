//! What is printed: aligned tables of medians and ratios, and the line that says where and when.

use std::{
    fmt::Write,
    fs, io,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::measure::{Spread, Summary, TransferSummary};

/// The machine, as far as a figure depends on it: one line to keep beside every table.
///
/// # Errors
///
/// When `directory` cannot be resolved.
pub fn machine(directory: &Path) -> io::Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = directory.canonicalize()?;
    let disk = match mount_of(&mounts, &path.to_string_lossy()) {
        Some(mount) => mount.to_string(),
        None => "unknown disk".to_owned(),
    };
    let date = utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    Ok(format!("Linux {}, {processors} cpus, {disk}, {date}, {}", kernel.trim(), commit()))
}

/// How busy the machine is: figures of a busy one are not to be quoted.
#[must_use]
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<_> = load.split(' ').take(3).collect();
    format!("load {}", averages.join(" "))
}

/// A table of closed-loop figures. Ratios are to the first contestant, of medians to medians;
/// for latency and processor time lower is better.
#[must_use]
pub fn durable_table(title: &str, summaries: &[Summary]) -> String {
    let mut rows = vec![row([
        "contestant",
        "records/s",
        "ratio",
        "low..high",
        "p50 µs",
        "ratio",
        "p99 µs",
        "ratio",
        "p99.9 µs",
        "cpu µs",
    ])];
    for summary in summaries {
        let base = &summaries[0];
        let rate = summary.spread(|figures| figures.per_second);
        let p50 = summary.spread(|figures| figures.p50).median;
        let p99 = summary.spread(|figures| figures.p99).median;
        rows.push(vec![
            summary.name.clone(),
            format!("{:.0}", rate.median),
            format!("{:.2}", rate.median / base.spread(|figures| figures.per_second).median),
            low_to_high(rate),
            format!("{p50:.1}"),
            format!("{:.2}", p50 / base.spread(|figures| figures.p50).median),
            format!("{p99:.1}"),
            format!("{:.2}", p99 / base.spread(|figures| figures.p99).median),
            format!("{:.1}", summary.spread(|figures| figures.p999).median),
            format!("{:.2}", summary.spread(|figures| figures.cpu).median),
        ]);
    }
    table(title, &rows)
}

/// A table of bandwidths. Ratios are to the best of the first `limits` contestants: those that
/// are the disk's own.
///
/// # Panics
///
/// With no limits to compare with.
#[must_use]
pub fn transfer_table(title: &str, summaries: &[TransferSummary], limits: usize) -> String {
    let best = TransferSummary::best(&summaries[..limits]);
    let best_median = best.bandwidth().median;
    let mut rows = vec![row(["contestant", "MiB/s", "ratio", "low..high"])];
    for summary in summaries {
        let bandwidth = summary.bandwidth();
        rows.push(vec![
            summary.name.clone(),
            format!("{:.0}", bandwidth.median),
            format!("{:.2}", bandwidth.median / best_median),
            low_to_high(bandwidth),
        ]);
    }
    let mut text = table(title, &rows);
    let _ = writeln!(text, "best: {}, {:.0} MiB/s", best.name, best_median);
    text
}

fn low_to_high(spread: Spread) -> String {
    format!("{:.0}..{:.0}", spread.low, spread.high)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// The first column to the left, the others to the right.
pub(crate) fn table(title: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = format!("\n## {title}\n");
    for row in rows {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

/// One line of `mountinfo`, as far as it is told.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    device_number: &'a str,
    file_system: &'a str,
    device: &'a str,
}

impl std::fmt::Display for Mount<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.file_system, self.device)?;
        // A partition has no queue of its own; its disk's is one up.
        let device = format!("/sys/dev/block/{}", self.device_number);
        let queue = |name: &str| {
            ["queue", "../queue"]
                .iter()
                .find_map(|queue| fs::read_to_string(format!("{device}/{queue}/{name}")).ok())
        };
        if let Some(cache) = queue("write_cache") {
            write!(f, " ({}", cache.trim())?;
            f.write_str(match queue("fua").as_deref().map(str::trim) {
                Some("1") => ", fua)",
                _ => ", no fua)",
            })?;
        }
        Ok(())
    }
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

/// What was built, or that nobody knows.
fn commit() -> String {
    let directory = env!("CARGO_MANIFEST_DIR");
    let answer = Command::new("git")
        .args(["-C", directory, "describe", "--always", "--dirty"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    answer.map_or_else(|| "no commit".to_owned(), |answer| format!("commit {}", answer.trim()))
}

/// A time since 1970 as a date and a minute. The days are counted in years that begin in March, so
/// that the leap day is the last of a year.
fn utc(since_1970: Duration) -> String {
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
    fn columns_are_aligned() {
        let rows = [row(["name", "µs"]), row(["a", "100.0"])];
        assert_eq!(table("t", &rows), "\n## t\nname     µs\na     100.0\n");
    }
}
