//! What is shown of a [`Report`](crate::run::Report): a [`mod@table`] for people, [`json`] for programs, a
//! page in [`html`] for both.

pub mod html;
pub mod json;
mod svg;
pub mod table;

/// A report with something in every place.
#[cfg(test)]
pub(crate) fn example() -> crate::run::Report {
    use crate::{
        counters::PerCommit,
        disk::{Method, Probed},
        figures::Spread,
        machine::{Machine, Queue},
        outcome::{Distribution, Outcome, Ratio, Throughput, Timeline},
        plan::Settings,
        run::Report,
        warnings,
    };
    use std::time::Duration;

    let spread = |low, median, high| Spread { median, low, high };
    let ratio = |name: &str, median: f64| Ratio {
        name: name.to_owned(),
        value: spread(median - 0.06, median, median + 0.04),
        log: spread(150.0, 160.0, 170.0),
        floor: spread(140.0, 145.0, 150.0),
        unit: "µs",
        meaning: "the log / its floor".to_owned(),
    };
    let distribution = |name: &str| Distribution {
        name: name.to_owned(),
        count: 2000,
        quantiles: vec![(0.0, 90.0), (0.5, 120.0), (0.9, 180.0), (0.99, 400.0), (1.0, 3000.0)],
    };
    let timeline = |name: &str, rotations: &[f64]| Timeline {
        name: name.to_owned(),
        longest: vec![(0.05, 130.0), (0.15, 900.0), (0.25, 140.0)],
        rotations: rotations.to_vec(),
    };
    let throughput = |writers, median| Throughput {
        writers,
        log: spread(median - 100.0, median, median + 100.0),
        bound: spread(median, median + 500.0, median + 900.0),
    };
    Report {
        date: "2026-11-22 12:00 UTC".to_owned(),
        elapsed: Duration::from_secs(50),
        settings: Settings::default(),
        machine: Machine {
            kernel: "6.18.0".to_owned(),
            processor: Some("A Processor".to_owned()),
            processors: 2,
            file_system: "ext4".to_owned(),
            device: "/dev/vda".to_owned(),
            queue: Queue {
                write_cache: Some("write back".to_owned()),
                fua: Some(false),
                logical_block_bytes: Some(512),
                physical_block_bytes: Some(4096),
                scheduler: Some("none".to_owned()),
                rotational: Some(false),
                stat: None,
            },
        },
        loads: ["0.10 0.20 0.30".to_owned(), "1.00 0.50 0.40".to_owned()],
        method: Method::Dsync,
        direct: true,
        probed: Probed {
            durable: [Some(Duration::from_micros(120)), Some(Duration::from_micros(130))],
            plain: Duration::from_micros(40),
        },
        outcome: Outcome {
            ratios: vec![ratio("R_lat", 0.91), ratio("R_grp(4)", 0.7), ratio("R_rot", 1.5)],
            per_commit: vec![PerCommit {
                load: "1 writer".to_owned(),
                commits: 1000,
                records: 1.0,
                payload_bytes: 128.0,
                frame_bytes: 4096.0,
                calls: Some(1.0),
                device_bytes: Some(4200.0),
                woken: 1.0,
                sleeps: Some(1.01),
                flushes: Some(1.02),
                depth: 0.95,
            }],
            distributions: vec![
                distribution("raw write"),
                distribution("1 writer"),
                distribution("with rotations"),
            ],
            throughput: vec![throughput(4, 20_000.0), throughput(1, 6000.0)],
            timelines: vec![
                timeline("without rotations", &[]),
                timeline("with rotations", &[0.15]),
            ],
            warnings: warnings::busy(Some(0.5)).into_iter().collect(),
        },
    }
}
