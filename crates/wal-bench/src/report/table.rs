//! Aligned columns of text.

use std::fmt::Write;

use crate::{
    counters::PerCommit,
    disk::Method,
    figures::{Spread, micros},
    outcome::{Distribution, Ratio},
    run::Report,
};

/// All of `report` as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let Report { machine, date, loads, settings, outcome, .. } = report;
    let mut text = format!("{machine}, {date}\n");
    let _ = writeln!(text, "{}", method(report));
    let _ = writeln!(
        text,
        "{} rounds, {:.1} s a measurement, {:.0} s in all; load {} before, {} after",
        settings.rounds,
        settings.duration.as_secs_f64(),
        report.elapsed.as_secs_f64(),
        loads[0],
        loads[1],
    );
    if !outcome.ratios.is_empty() {
        text += &titled(
            "ratios to the floor: median (lowest..highest round)",
            &ratios(&outcome.ratios),
        );
    }
    if !outcome.per_commit.is_empty() {
        text += &titled("for each commit", &per_commit(&outcome.per_commit));
    }
    if !outcome.distributions.is_empty() {
        text += &titled("latency, µs", &distributions(&outcome.distributions));
    }
    text.push('\n');
    for warning in &outcome.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    if outcome.warnings.is_empty() {
        text += "no warnings\n";
    }
    text
}

/// How durable writes were made, and what they took.
pub(crate) fn method(report: &Report) -> String {
    let taken =
        |time: Option<_>| time.map_or_else(|| "none".to_owned(), |time| figure(micros(time)));
    let [dsync, fdatasync] = Method::ALL;
    format!(
        "durable by {}, {}; 4 KiB: {dsync} {} µs, {fdatasync} {} µs, not durable {} µs",
        report.method,
        if report.direct { "direct" } else { "through the page cache" },
        taken(report.probed.of(dsync)),
        taken(report.probed.of(fdatasync)),
        figure(micros(report.probed.plain)),
    )
}

fn ratios(ratios: &[Ratio]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["", "ratio", "low..high", "log", "floor", "", ""])];
    for Ratio { name, value, log, floor, unit, meaning } in ratios {
        rows.push(vec![
            name.clone(),
            ratio(value.median),
            format!("{}..{}", ratio(value.low), ratio(value.high)),
            figure(log.median),
            figure(floor.median),
            (*unit).to_owned(),
            meaning.clone(),
        ]);
    }
    rows
}

fn per_commit(loads: &[PerCommit]) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "load", "records", "payload", "frame", "device", "calls", "flushes", "woken", "sleeps",
        "depth", "commits",
    ])];
    let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    for load in loads {
        rows.push(vec![
            load.load.clone(),
            figure(load.records),
            bytes(load.payload_bytes),
            bytes(load.frame_bytes),
            load.device_bytes.map_or_else(|| "-".to_owned(), bytes),
            known(load.calls),
            known(load.flushes),
            figure(load.woken),
            known(load.sleeps),
            figure(load.depth),
            load.commits.to_string(),
        ]);
    }
    rows
}

fn distributions(distributions: &[Distribution]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["", "p50", "p90", "p99", "p99.9", "longest", "count"])];
    for distribution in distributions {
        let mut row = vec![distribution.name.clone()];
        for share in [0.5, 0.9, 0.99, 0.999, 1.0] {
            row.push(distribution.at(share).map_or_else(|| "-".to_owned(), figure));
        }
        row.push(distribution.count.to_string());
        rows.push(row);
    }
    rows
}

/// Three digits or a whole number.
pub(crate) fn figure(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value.abs() < 9.995 => format!("{value:.2}"),
        value if value.abs() < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

pub(crate) fn ratio(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "-".to_owned() }
}

/// A spread as a figure and its ends.
pub(crate) fn spread(spread: Spread) -> String {
    let Spread { median, low, high } = spread;
    format!("{} ({}..{})", figure(median), figure(low), figure(high))
}

fn bytes(value: f64) -> String {
    match value {
        value if value < 10_240.0 => format!("{value:.0} B"),
        value if value < 10_240.0 * 1024.0 => format!("{:.0} KiB", value / 1024.0),
        value => format!("{:.0} MiB", value / 1024.0 / 1024.0),
    }
}

/// Cells as a row.
#[must_use]
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A title and its table: the first column to the left, the others to the right, and the last to the
/// left if it has no heading.
#[must_use]
pub fn titled(title: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let is_left =
        |column: usize| column == 0 || (column + 1 == columns && rows[0][column].is_empty());
    let mut text = format!("\n## {title}\n");
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = match is_left(column) {
                true => write!(line, "{gap}{cell:<width$}"),
                false => write!(line, "{gap}{cell:>width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn columns_are_aligned() {
        let rows = [row(["name", "µs"]), row(["a", "100.0"])];
        assert_eq!(titled("t", &rows), "\n## t\nname     µs\na     100.0\n");
        let rows = [row(["", "x", ""]), row(["ab", "10", "words"]), row(["c", "1", "a"])];
        assert_eq!(titled("t", &rows), "\n## t\n     x\nab  10  words\nc    1  a\n");
    }

    #[test]
    fn figures_have_three_digits() {
        let shown: Vec<_> = [0.5, 9.996, 99.96, 1234.5, f64::NAN].map(figure).to_vec();
        assert_eq!(shown, ["0.50", "10.0", "100", "1234", "-"]);
        assert_eq!(bytes(4096.0), "4096 B");
        assert_eq!(bytes(1024.0 * 1024.0), "1024 KiB");
    }

    #[test]
    fn everything_is_in_the_text() {
        let report = example();
        let text = text(&report);
        for ratio in &report.outcome.ratios {
            assert!(text.contains(&format!("\n{}", ratio.name)), "{} in {text}", ratio.name);
        }
        for part in ["0.91", "0.85..0.95", "1 writer", "warning: busy: ", "RWF_DSYNC", "ext4"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// A kernel that counts nothing: no figure is made up.
    #[test]
    fn what_is_not_known_is_a_dash() {
        let mut report = example();
        report.outcome.warnings.clear();
        report.outcome.per_commit[0].flushes = None;
        let text = text(&report);
        let line = text.lines().find(|line| line.starts_with("1 writer")).unwrap();
        assert!(line.contains(" - "), "{line}");
        assert!(text.ends_with("no warnings\n"));
    }
}
