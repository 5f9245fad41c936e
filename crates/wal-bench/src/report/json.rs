/*!
One JSON object. `null` is what this machine does not tell, or what was not measured.

| key | value |
|---|---|
| `schema` | 1; raised when a key changes its meaning or goes |
| `wal_version` | the version of the log |
| `date`, `seconds` | when the run began, UTC; how long it took |
| `settings` | `rounds`, `seconds`, `only`, `writers`, `payload_bytes` as asked for |
| `machine` | `kernel`, `processor`, `processors`, `file_system`, `device`, `write_cache`, `fua`, `logical_block_bytes`, `physical_block_bytes`, `scheduler`, `rotational`, `load_before`, `load_after` |
| `method` | `name`, `direct`, and what 4 KiB took: `rwf_dsync_us`, `fdatasync_us`, `plain_us` |
| `ratios` | a list: `name`, `median`, `low`, `high`; `log` and `floor`, each with `median`, `low`, `high`; `unit` of these two; `meaning` |
| `per_commit` | a list: `load`, `commits`, and for each commit `records`, `payload_bytes`, `frame_bytes`, `calls`, `device_bytes`, `woken`, `sleeps`, `flushes`; `depth` |
| `distributions` | a list: `name`, `count`, `p50_us`, `p90_us`, `p99_us`, `p999_us`, `max_us`, `quantiles` as pairs of share and µs |
| `throughput` | a list: `writers`; `log` and `bound` in records a second, each with `median`, `low`, `high` |
| `timelines` | a list: `name`, `longest` as pairs of second and µs, `rotations` in seconds |
| `warnings` | a list: `kind`, `text` |
*/

use serde_json::{Value, json};

use crate::{
    counters::PerCommit,
    disk::Method,
    figures::{Spread, micros},
    outcome::{Distribution, Ratio, Throughput, Timeline},
    run::Report,
};

/// Raised when a key changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// The fields of the object, in order.
#[must_use]
pub fn fields(report: &Report) -> Vec<(&'static str, Value)> {
    let outcome = &report.outcome;
    let warnings = outcome.warnings.iter();
    vec![
        ("schema", json!(SCHEMA)),
        ("wal_version", json!(env!("CARGO_PKG_VERSION"))),
        ("date", json!(report.date)),
        ("seconds", json!(report.elapsed.as_secs_f64())),
        ("settings", settings(report)),
        ("machine", machine(report)),
        ("method", method(report)),
        ("ratios", list(&outcome.ratios, ratio)),
        ("per_commit", list(&outcome.per_commit, per_commit)),
        ("distributions", list(&outcome.distributions, distribution)),
        ("throughput", list(&outcome.throughput, throughput)),
        ("timelines", list(&outcome.timelines, timeline)),
        (
            "warnings",
            warnings.map(|found| json!({"kind": found.kind.name(), "text": found.text})).collect(),
        ),
    ]
}

fn list<T>(items: &[T], shown: fn(&T) -> Value) -> Value {
    items.iter().map(shown).collect()
}

fn settings(report: &Report) -> Value {
    let settings = &report.settings;
    let only: Vec<_> = settings.only.iter().map(|measurement| measurement.name()).collect();
    json!({
        "rounds": settings.rounds,
        "seconds": settings.duration.as_secs_f64(),
        "only": only,
        "writers": settings.writers,
        "payload_bytes": settings.payload_bytes,
    })
}

fn machine(report: &Report) -> Value {
    let machine = &report.machine;
    json!({
        "kernel": machine.kernel,
        "processor": machine.processor,
        "processors": machine.processors,
        "file_system": machine.file_system,
        "device": machine.device,
        "write_cache": machine.queue.write_cache,
        "fua": machine.queue.fua,
        "logical_block_bytes": machine.queue.logical_block_bytes,
        "physical_block_bytes": machine.queue.physical_block_bytes,
        "scheduler": machine.queue.scheduler,
        "rotational": machine.queue.rotational,
        "load_before": report.loads[0],
        "load_after": report.loads[1],
    })
}

fn method(report: &Report) -> Value {
    json!({
        "name": report.method.to_string(),
        "direct": report.direct,
        "rwf_dsync_us": report.probed.of(Method::Dsync).map(micros),
        "fdatasync_us": report.probed.of(Method::Fdatasync).map(micros),
        "plain_us": micros(report.probed.plain),
    })
}

fn spread(spread: &Spread) -> Value {
    json!({"median": spread.median, "low": spread.low, "high": spread.high})
}

fn ratio(ratio: &Ratio) -> Value {
    json!({
        "name": ratio.name,
        "median": ratio.value.median,
        "low": ratio.value.low,
        "high": ratio.value.high,
        "log": spread(&ratio.log),
        "floor": spread(&ratio.floor),
        "unit": ratio.unit,
        "meaning": ratio.meaning,
    })
}

fn per_commit(load: &PerCommit) -> Value {
    json!({
        "load": load.load,
        "commits": load.commits,
        "records": load.records,
        "payload_bytes": load.payload_bytes,
        "frame_bytes": load.frame_bytes,
        "calls": load.calls,
        "device_bytes": load.device_bytes,
        "woken": load.woken,
        "sleeps": load.sleeps,
        "flushes": load.flushes,
        "depth": load.depth,
    })
}

fn distribution(distribution: &Distribution) -> Value {
    json!({
        "name": distribution.name,
        "count": distribution.count,
        "p50_us": distribution.at(0.5),
        "p90_us": distribution.at(0.9),
        "p99_us": distribution.at(0.99),
        "p999_us": distribution.at(0.999),
        "max_us": distribution.at(1.0),
        "quantiles": distribution.quantiles,
    })
}

fn throughput(point: &Throughput) -> Value {
    json!({"writers": point.writers, "log": spread(&point.log), "bound": spread(&point.bound)})
}

fn timeline(timeline: &Timeline) -> Value {
    json!({
        "name": timeline.name,
        "longest": timeline.longest,
        "rotations": timeline.rotations,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::report::example;

    /// Every key, with those inside as `outer.inner`; of a list, those of its first object.
    fn keys(prefix: &str, value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    let name = format!("{prefix}{name}");
                    keys(&format!("{name}."), value, found);
                    found.insert(name);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| keys(prefix, value, found)),
            _ => {}
        }
    }

    /// Programs read these: a key that goes or changes needs another schema.
    #[test]
    fn keys_are_those_that_are_documented() {
        let object: Value = fields(&example())
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let mut found = BTreeSet::new();
        keys("", &object, &mut found);
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, KEYS);
        let documented = include_str!("json.rs");
        let (table, _) = documented.split_once("*/").unwrap();
        for key in KEYS {
            let last = key.rsplit('.').next().unwrap();
            assert!(table.contains(&format!("`{last}`")), "{key} is in no table");
        }
    }

    const KEYS: &[&str] = &[
        "date",
        "distributions",
        "distributions.count",
        "distributions.max_us",
        "distributions.name",
        "distributions.p50_us",
        "distributions.p90_us",
        "distributions.p999_us",
        "distributions.p99_us",
        "distributions.quantiles",
        "machine",
        "machine.device",
        "machine.file_system",
        "machine.fua",
        "machine.kernel",
        "machine.load_after",
        "machine.load_before",
        "machine.logical_block_bytes",
        "machine.physical_block_bytes",
        "machine.processor",
        "machine.processors",
        "machine.rotational",
        "machine.scheduler",
        "machine.write_cache",
        "method",
        "method.direct",
        "method.fdatasync_us",
        "method.name",
        "method.plain_us",
        "method.rwf_dsync_us",
        "per_commit",
        "per_commit.calls",
        "per_commit.commits",
        "per_commit.depth",
        "per_commit.device_bytes",
        "per_commit.flushes",
        "per_commit.frame_bytes",
        "per_commit.load",
        "per_commit.payload_bytes",
        "per_commit.records",
        "per_commit.sleeps",
        "per_commit.woken",
        "ratios",
        "ratios.floor",
        "ratios.floor.high",
        "ratios.floor.low",
        "ratios.floor.median",
        "ratios.high",
        "ratios.log",
        "ratios.log.high",
        "ratios.log.low",
        "ratios.log.median",
        "ratios.low",
        "ratios.meaning",
        "ratios.median",
        "ratios.name",
        "ratios.unit",
        "schema",
        "seconds",
        "settings",
        "settings.only",
        "settings.payload_bytes",
        "settings.rounds",
        "settings.seconds",
        "settings.writers",
        "throughput",
        "throughput.bound",
        "throughput.bound.high",
        "throughput.bound.low",
        "throughput.bound.median",
        "throughput.log",
        "throughput.log.high",
        "throughput.log.low",
        "throughput.log.median",
        "throughput.writers",
        "timelines",
        "timelines.longest",
        "timelines.name",
        "timelines.rotations",
        "wal_version",
        "warnings",
        "warnings.kind",
        "warnings.text",
    ];
}
