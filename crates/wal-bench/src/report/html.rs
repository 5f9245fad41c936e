//! One page that needs nothing but itself: no script, no font, no picture from elsewhere. Light or dark
//! as the reader's system is.

use std::fmt::Write;

use crate::{
    figures::float,
    outcome::{Distribution, Outcome, Timeline},
    report::{
        svg::{Axis, Bar, Chart, Point, Scale, Series, bars, escaped},
        table::{self, figure},
    },
    run::Report,
};

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1d2125; --dim: #5c6670; --page: #ffffff; --grid: #dfe3e8;
  --c0: #1f6fd0; --c1: #c2571a; --c2: #2b8a57; --c3: #8e4ec6; --c4: #b3363f; --c5: #5f6b76; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --dim: #9aa5b1; --page: #15181b;
  --grid: #30363d; --c0: #6cb0ff; --c1: #f0975a; --c2: #62c68f; --c3: #c79bf0; --c4: #f08a90;
  --c5: #a5b0bb; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.dim { color: var(--dim); } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child, td.words { text-align: left; } th { color: var(--dim); font-weight: 500; }
.warnings li { color: var(--c4); }
figure { margin: 2rem 0; } figcaption { font-weight: 600; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .3rem 0; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--dim); } svg .label { fill: var(--text); }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--grid); } .mark { stroke: var(--dim); stroke-dasharray: 4 3; }
polyline { fill: none; stroke-width: 1.5; } line { stroke-width: 1; }
.l0 { stroke: var(--c0); } .l1 { stroke: var(--c1); } .l2 { stroke: var(--c2); }
.l3 { stroke: var(--c3); } .l4 { stroke: var(--c4); } .l5 { stroke: var(--c5); }
.c0 { fill: var(--c0); color: var(--c0); } .c1 { fill: var(--c1); color: var(--c1); }
.c2 { fill: var(--c2); color: var(--c2); } .c3 { fill: var(--c3); color: var(--c3); }
.c4 { fill: var(--c4); color: var(--c4); } .c5 { fill: var(--c5); color: var(--c5); }
";

/// The page. It is well-formed XML as well.
#[must_use]
pub fn page(report: &Report) -> String {
    let Report { machine, date, loads, settings, outcome, .. } = report;
    let mut text = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n",
    );
    text += "<head>\n<meta charset=\"utf-8\"/>\n";
    text += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n";
    let _ = writeln!(text, "<title>wal bench: {}</title>", escaped(&machine.to_string()));
    let _ = writeln!(text, "<style>{STYLE}</style>\n</head>\n<body>\n<h1>wal bench</h1>");
    let _ = writeln!(
        text,
        "<p class=\"dim\">{}, {}<br/>",
        escaped(&machine.to_string()),
        escaped(date)
    );
    let _ = writeln!(text, "{}<br/>", escaped(&table::method(report)));
    let _ = writeln!(
        text,
        "{} rounds, {:.1} s a measurement; load {} before, {} after</p>",
        settings.rounds,
        settings.duration.as_secs_f64(),
        escaped(&loads[0]),
        escaped(&loads[1]),
    );
    if !outcome.warnings.is_empty() {
        text += "<h2>Warnings</h2>\n<ul class=\"warnings\">\n";
        for warning in &outcome.warnings {
            let _ = writeln!(text, "<li>{}</li>", escaped(&warning.to_string()));
        }
        text += "</ul>\n";
    }
    text += &ratios(outcome);
    text += &per_commit(outcome);
    for chart in charts(outcome) {
        text += &chart.html();
    }
    text + "</body>\n</html>\n"
}

fn ratios(outcome: &Outcome) -> String {
    if outcome.ratios.is_empty() {
        return String::new();
    }
    let rows = outcome.ratios.iter().map(|ratio| Bar {
        name: ratio.name.clone(),
        low: ratio.value.low,
        median: ratio.value.median,
        high: ratio.value.high,
        told: format!("{}: {}", ratio.name, table::spread(ratio.value)),
    });
    let title = "Ratios to the floor: median, lowest and highest round; 1 is the floor itself";
    let mut text = bars(title, &rows.collect::<Vec<_>>());
    text += "<div class=\"wide\"><table>\n<tr><th></th><th>ratio</th><th>low..high</th><th>log</th>\
             <th>floor</th><th></th><th></th></tr>\n";
    for ratio in &outcome.ratios {
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}..{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td class=\"words\">{}</td></tr>",
            escaped(&ratio.name),
            table::ratio(ratio.value.median),
            table::ratio(ratio.value.low),
            table::ratio(ratio.value.high),
            figure(ratio.log.median),
            figure(ratio.floor.median),
            escaped(ratio.unit),
            escaped(&ratio.meaning),
        );
    }
    text + "</table></div>\n"
}

fn per_commit(outcome: &Outcome) -> String {
    if outcome.per_commit.is_empty() {
        return String::new();
    }
    let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let mut text = String::from(
        "<h2>For each commit</h2>\n<div class=\"wide\"><table>\n<tr><th>load</th><th>records</th>\
         <th>payload, B</th><th>frame, B</th><th>device, B</th><th>calls</th><th>flushes</th>\
         <th>woken</th><th>sleeps</th><th>depth</th><th>commits</th></tr>\n",
    );
    for load in &outcome.per_commit {
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(&load.load),
            figure(load.records),
            figure(load.payload_bytes),
            figure(load.frame_bytes),
            known(load.device_bytes),
            known(load.calls),
            known(load.flushes),
            figure(load.woken),
            known(load.sleeps),
            figure(load.depth),
            load.commits,
        );
    }
    text + "</table></div>\n"
}

/// Those for which there is something to show.
fn charts(outcome: &Outcome) -> Vec<Chart> {
    let Outcome { distributions, timelines, throughput, .. } = outcome;
    let of_rotation = |distribution: &&Distribution| {
        timelines.iter().any(|timeline| timeline.name == distribution.name)
    };
    let (rotation, others): (Vec<_>, Vec<_>) = distributions.iter().partition(of_rotation);
    let mut charts = Vec::new();
    if !others.is_empty() {
        charts.push(latencies("Latency of a durable record", &others));
    }
    if !throughput.is_empty() {
        charts.push(writers(outcome));
    }
    if !rotation.is_empty() {
        charts.push(latencies("Latency of one writer, with and without rotations", &rotation));
    }
    if !timelines.is_empty() {
        charts.push(timeline(timelines));
    }
    charts
}

/// Latency against the share that stays below, in nines.
fn latencies(title: &str, distributions: &[&Distribution]) -> Chart {
    let nines = |distribution: &Distribution, share: f64| {
        // The longest is one of all.
        let above = (1.0 - share).max(1.0 / float(distribution.count.max(1)));
        -above.log10()
    };
    let series = distributions.iter().map(|distribution| Series {
        name: distribution.name.clone(),
        points: distribution
            .quantiles
            .iter()
            .map(|&(share, micros)| Point {
                x: nines(distribution, share),
                y: micros,
                ends: None,
                told: format!(
                    "{}: {:.3} % in {} µs",
                    distribution.name,
                    share * 100.0,
                    figure(micros)
                ),
            })
            .collect(),
    });
    let series: Vec<_> = series.collect();
    let points = || series.iter().flat_map(|series| &series.points);
    let most = points().map(|point| point.x).fold(1.0, f64::max);
    let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
    let mut at = -1.0;
    let ticks = names.iter().map(|name| {
        at += 1.0;
        (at, (*name).to_owned())
    });
    let ticks = ticks.filter(|(at, _)| *at <= most).collect();
    Chart {
        title: title.to_owned(),
        x: Axis::with_ticks("share of the records that is durable within", 0.0, most, ticks),
        y: Axis::over("latency, µs", Scale::Log, points().map(|point| point.y)),
        series,
        marks: Vec::new(),
    }
}

/// Records a second against the number of writers.
fn writers(outcome: &Outcome) -> Chart {
    let mut sorted = outcome.throughput.clone();
    sorted.sort_by_key(|point| point.writers);
    let mut series = Vec::new();
    for (name, is_log) in [("log", true), ("a record of each writer in every raw write", false)] {
        let points = sorted.iter().map(|point| {
            let spread = if is_log { point.log } else { point.bound };
            Point {
                x: float(point.writers.try_into().unwrap_or(u64::MAX)),
                y: spread.median,
                ends: Some((spread.low, spread.high)),
                told: format!(
                    "{name}, {} writers: {} a second",
                    point.writers,
                    table::spread(spread)
                ),
            }
        });
        series.push(Series { name: name.to_owned(), points: points.collect() });
    }
    let points = || series.iter().flat_map(|series| &series.points);
    let heights = points().map(|point| point.ends.map_or(point.y, |(_, high)| high));
    Chart {
        title: "Durable records a second".to_owned(),
        y: Axis::over("records a second", Scale::Linear, heights),
        x: Axis::of_places(
            "writers",
            &series[0].points.iter().map(|point| point.x).collect::<Vec<_>>(),
        ),
        series,
        marks: Vec::new(),
    }
}

/// The longest latency of each slice of the last round.
fn timeline(timelines: &[Timeline]) -> Chart {
    let series = timelines.iter().map(|timeline| Series {
        name: timeline.name.clone(),
        points: timeline
            .longest
            .iter()
            .map(|&(second, micros)| Point {
                x: second,
                y: micros,
                ends: None,
                told: format!("{}, {second:.3} s: {} µs", timeline.name, figure(micros)),
            })
            .collect(),
    });
    let series: Vec<_> = series.collect();
    let points = || series.iter().flat_map(|series| &series.points);
    let marks = timelines.iter().flat_map(|timeline| {
        timeline.rotations.iter().map(|at| (*at, format!("new segment, {}", timeline.name)))
    });
    Chart {
        title:
            "One writer through the last round: the longest latency of each slice; dashed: a new \
                segment"
                .to_owned(),
        x: Axis::up_to("time, s", points().map(|point| point.x).fold(0.0, f64::max)),
        y: Axis::over("latency, µs", Scale::Log, points().map(|point| point.y)),
        marks: marks.collect(),
        series,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::example, warnings::Warning};

    /// Fails unless every element ends where it should and every attribute is quoted; the names of all
    /// that begin.
    fn elements(page: &str) -> Vec<String> {
        let page = page.strip_prefix("<!DOCTYPE html>").unwrap();
        let (mut open, mut all) = (Vec::new(), Vec::new());
        let mut rest = page;
        while let Some(start) = rest.find('<') {
            assert_entities(&rest[..start]);
            let end = start + rest[start..].find('>').unwrap();
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "ends out of order");
                continue;
            }
            let is_empty = tag.ends_with('/');
            let tag = tag.trim_end_matches('/');
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert_attributes(attributes);
            all.push(name.to_owned());
            if !is_empty {
                open.push(name.to_owned());
            }
        }
        assert_eq!(rest.trim(), "");
        assert!(open.is_empty(), "{open:?}");
        all
    }

    fn assert_attributes(mut attributes: &str) {
        while !attributes.trim().is_empty() {
            let (name, rest) = attributes.trim_start().split_once("=\"").unwrap();
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            assert!(is_name && !name.is_empty(), "{name}");
            let (value, rest) = rest.split_once('"').unwrap();
            assert_entities(value);
            attributes = rest;
        }
    }

    fn assert_entities(text: &str) {
        for part in text.split('&').skip(1) {
            let (name, _) = part.split_once(';').unwrap();
            assert!(["amp", "lt", "gt", "quot", "#39", "#9679"].contains(&name), "&{name};");
        }
        assert!(!text.contains('>'), "{text}");
    }

    fn count(elements: &[String], name: &str) -> usize {
        elements.iter().filter(|element| *element == name).count()
    }

    #[test]
    fn the_page_is_well_formed_with_one_point_for_each_measurement() {
        let report = example();
        let outcome = &report.outcome;
        let elements = elements(&page(&report));
        let quantiles =
            outcome.distributions.iter().map(|found| found.quantiles.len()).sum::<usize>();
        let slices = outcome.timelines.iter().map(|found| found.longest.len()).sum::<usize>();
        let points = outcome.ratios.len() + quantiles + 2 * outcome.throughput.len() + slices;
        assert_eq!(count(&elements, "circle"), points);
        // Ratios, latencies, writers, latencies of rotation, timeline.
        assert_eq!(count(&elements, "svg"), 5);
        let rows = 2 + outcome.ratios.len() + outcome.per_commit.len();
        assert_eq!(count(&elements, "tr"), rows);
    }

    /// A device, a kernel or a load with markup in its name stays text.
    #[test]
    fn what_others_wrote_is_escaped() {
        let mut report = example();
        let evil = "\"><script>alert('&')</script>";
        report.machine.device = evil.to_owned();
        report.outcome.per_commit[0].load = evil.to_owned();
        report.outcome.distributions[0].name = evil.to_owned();
        report.outcome.ratios[0].meaning = evil.to_owned();
        report.outcome.warnings[0] =
            Warning { text: evil.to_owned(), ..report.outcome.warnings[0].clone() };
        let page = page(&report);
        assert!(!elements(&page).contains(&"script".to_owned()));
        assert!(page.matches("&lt;script&gt;").count() >= 5);
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let page = page(&example()).replace("http://www.w3.org/1999/xhtml", "");
        for word in ["http", "<script", "<link", "src=", "url(", "@import", "//"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn a_page_of_one_measurement_shows_only_that() {
        let mut report = example();
        let ratios = report.outcome.ratios.split_off(1);
        assert!(!ratios.is_empty());
        report.outcome = Outcome { ratios, ..Outcome::default() };
        let elements = elements(&page(&report));
        assert_eq!((count(&elements, "svg"), count(&elements, "table")), (1, 1));
        report.outcome = Outcome::default();
        assert_eq!(count(&self::elements(&page(&report)), "svg"), 0);
    }

    /// A round too short for a single record gives figures that are none.
    #[test]
    fn figures_that_are_none_leave_no_trace() {
        let mut report = example();
        report.outcome.ratios[0].value.high = f64::NAN;
        report.outcome.throughput[0].log.median = f64::INFINITY;
        let page = page(&report);
        elements(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
