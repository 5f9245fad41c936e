//! What is printed and written: tables of medians, and all figures as JSON.

use serde_json::{Value, json};
use wal_bench::{
    figures::Spread,
    report::table::{row, titled},
};
use wal_benches::goals::{Bound, Goal};

use crate::{
    arguments::Arguments,
    contestants::Entry,
    round::{Cell, Round, Standing},
    verify::Synced,
};

/// The contestants that were built.
pub(crate) fn list(entries: &[Entry]) -> String {
    let mut rows = vec![row(["contestant", "version", ""])];
    for entry in entries {
        let remark = entry.unranked.map(|why| format!("; not ranked: {why}")).unwrap_or_default();
        rows.push(row([entry.name, entry.version, &format!("{}{remark}", entry.mode)]));
    }
    titled("built", &rows)
}

/// What was seen of their syncs. Without any, nothing.
pub(crate) fn synced(synced: &[Synced]) -> String {
    if synced.is_empty() {
        return String::new();
    }
    let mut rows = vec![row(["contestant", "a record", "early", ""])];
    for synced in synced {
        let calls = synced.calls.iter().map(|(name, count)| format!("{name} {count:.2}"));
        let calls = calls.collect::<Vec<_>>().join(", ");
        let verdict = synced.unranked().map(|why| format!("; NOT RANKED: {why}"));
        rows.push(row([
            synced.name,
            &format!("{:.2}", synced.per_record()),
            &format!("{}/{}", synced.early, synced.traced),
            &format!("{calls}{}", verdict.unwrap_or_default()),
        ]));
    }
    titled(
        "calls that sync for each acknowledged record, by strace -c -f; acknowledged before one",
        &rows,
    )
}

/// One cell.
pub(crate) fn table(cell: &Cell) -> String {
    let mut rows = vec![row([
        "contestant",
        "records/s",
        "low..high",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "cpu µs",
        "written B/B",
        "disk B/B",
        "flushes",
        "read B/B",
        "",
    ])];
    for standing in &cell.standings {
        let spread = standing.spread(|round| Some(round.per_second));
        let figure = |figure: fn(&Round) -> Option<f64>, decimals| {
            let median = standing.spread(figure).map(|spread| spread.median);
            median.map_or_else(|| "-".to_owned(), |median| format!("{median:.decimals$}"))
        };
        let remark = standing.unranked.as_ref().map(|why| format!("not ranked: {why}"));
        rows.push(vec![
            standing.name.to_owned(),
            figure(|round| Some(round.per_second), 0),
            spread
                .map(|Spread { low, high, .. }| format!("{low:.0}..{high:.0}"))
                .unwrap_or_default(),
            figure(|round| round.p50, 1),
            figure(|round| round.p99, 1),
            figure(|round| round.p999, 1),
            figure(|round| round.cpu, 2),
            figure(|round| round.written, 2),
            figure(|round| round.disk, 2),
            figure(|round| round.flushes, 3),
            figure(|round| round.read, 2),
            remark.unwrap_or_default(),
        ]);
    }
    titled(&cell.title, &rows)
}

/// All of it.
pub(crate) fn json(
    header: &str,
    arguments: &Arguments,
    entries: &[Entry],
    synced: &[Synced],
    cells: &[Cell],
    goals: &[Goal],
) -> Value {
    let contestant =
        |entry: &Entry| json!({ "name": entry.name, "version": entry.version, "mode": entry.mode });
    let seen = |synced: &Synced| {
        json!({
            "name": synced.name,
            "calls_per_record": synced.calls,
            "traced": synced.traced,
            "early": synced.early,
            "unranked": synced.unranked(),
        })
    };
    json!({
        "header": header.lines().collect::<Vec<_>>(),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "contestants": entries.iter().map(contestant).collect::<Vec<_>>(),
        "synced": synced.iter().map(seen).collect::<Vec<_>>(),
        "cells": cells.iter().map(cell).collect::<Vec<_>>(),
        "bounds": goals.iter().map(goal).collect::<Vec<_>>(),
    })
}

fn cell(cell: &Cell) -> Value {
    json!({
        "title": cell.title,
        "workload": format!("{:?}", cell.workload).to_lowercase(),
        "writers": cell.writers,
        "payload_bytes": cell.payload_bytes,
        "is_bound": cell.is_bound,
        "standings": cell.standings.iter().map(standing).collect::<Vec<_>>(),
    })
}

fn standing(standing: &Standing) -> Value {
    let round = |round: &Round| {
        json!({
            "per_second": round.per_second,
            "p50_us": round.p50,
            "p99_us": round.p99,
            "p999_us": round.p999,
            "cpu_us": round.cpu,
            "written_per_payload_byte": round.written,
            "disk_per_payload_byte": round.disk,
            "flushes_per_record": round.flushes,
            "read_per_payload_byte": round.read,
        })
    };
    json!({
        "name": standing.name,
        "unranked": standing.unranked,
        "rounds": standing.rounds.iter().map(round).collect::<Vec<_>>(),
    })
}

fn goal(goal: &Goal) -> Value {
    let (direction, bound) = match goal.bound {
        Bound::AtLeast(bound) => ("at_least", bound),
        Bound::AtMost(bound) => ("at_most", bound),
    };
    let Spread { median, low, high } = goal.figure;
    json!({
        "subject": goal.subject,
        direction: bound,
        "median": median,
        "low": low,
        "high": high,
        "met": goal.is_met(),
        "detail": goal.detail,
    })
}
