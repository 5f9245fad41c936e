//! What is printed: aligned tables of medians and ratios, and the line that says where and when.

use std::{
    fmt::Write,
    io,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use wal_bench::{
    figures::Spread,
    machine::{self, Machine, utc},
    measure::{Summary, TransferSummary},
    report::table::{row, titled},
};

/// The machine, as far as a figure depends on it: one line to keep beside every table.
///
/// # Errors
///
/// When `directory` cannot be resolved.
pub fn machine(directory: &Path) -> io::Result<String> {
    let machine = Machine::of(directory)?;
    let date = utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    Ok(format!("{machine}, {date}, {}", commit()))
}

/// How busy the machine is: figures of a busy one are not to be quoted.
#[must_use]
pub fn load() -> String {
    format!("load {}", machine::load())
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
    titled(title, &rows)
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
    let mut text = titled(title, &rows);
    let _ = writeln!(text, "best: {}, {:.0} MiB/s", best.name, best_median);
    text
}

fn low_to_high(spread: Spread) -> String {
    format!("{:.0}..{:.0}", spread.low, spread.high)
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
