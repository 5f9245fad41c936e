//! `wal ls`: the segments.

use crate::output::{Failure, Output};
use serde_json::json;
use std::{fmt, path::PathBuf, process::ExitCode};
use wal::{Options, SegmentInfo};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directory of the log
    dir: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut log = Options::new().open_read_only(&arguments.dir)?;
    let segment_bytes = log.identity().segment_bytes;
    let mut segments = log.segments()?;
    // In the order of the log; slots that hold no segment come last.
    segments.sort_by_key(|segment| (segment.sequence.is_none(), segment.sequence, segment.slot));
    let mut output = Output::new();
    if !arguments.json {
        output.line(format_args!(
            "{:<12} {:>8} {:>14} {:>14} {:>10} {:>10} {:>8} {:>9} {:>9}  STATE",
            "FILE", "SEQUENCE", "BASE", "END", "USED", "CAPACITY", "FRAMES", "RECORDS", "EPOCH"
        ))?;
    }
    for segment in &segments {
        if arguments.json {
            json_line(&mut output, segment, segment_bytes)?;
        } else {
            text_line(&mut output, segment, segment_bytes)?;
        }
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn json_line(
    output: &mut Output,
    segment: &SegmentInfo,
    segment_bytes: u64,
) -> Result<(), Failure> {
    output.object(&[
        ("file", json!(segment.file)),
        ("slot", json!(segment.slot)),
        ("state", json!(state(segment))),
        ("sequence", json!(segment.sequence)),
        ("base", json!(segment.base.map(wal::Lsn::get))),
        ("end", json!(segment.end.map(wal::Lsn::get))),
        ("used_bytes", json!(segment.used_bytes)),
        ("segment_bytes", json!(segment_bytes)),
        ("frames", json!(segment.frames)),
        ("records", json!(segment.records)),
        ("epoch_first", json!(segment.epoch.map(|(first, _)| first))),
        ("epoch_last", json!(segment.epoch.map(|(_, last)| last))),
    ])
}

fn text_line(
    output: &mut Output,
    segment: &SegmentInfo,
    segment_bytes: u64,
) -> Result<(), Failure> {
    let epoch = segment.epoch.map_or_else(dash, |(first, last)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    output.line(format_args!(
        "{:<12} {:>8} {:>14} {:>14} {:>10} {:>10} {:>8} {:>9} {:>9}  {}",
        segment.file,
        segment.sequence.map_or_else(dash, shown),
        segment.base.map_or_else(dash, shown),
        segment.end.map_or_else(dash, shown),
        segment.used_bytes,
        segment_bytes,
        segment.frames,
        segment.records,
        epoch,
        state(segment)
    ))
}

fn dash() -> String {
    "-".to_owned()
}

fn shown(value: impl fmt::Display) -> String {
    value.to_string()
}

fn state(segment: &SegmentInfo) -> String {
    format!("{:?}", segment.state).to_lowercase()
}
