//! `wal verify`: is the log whole?

use crate::output::{EXIT_BAD, EXIT_CORRUPT, EXIT_UNREADABLE, Failure, Output};
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};
use wal::{Error, ErrorKind, Lsn, Options, Verification, VerifyVerdict};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directory of the log
    dir: PathBuf,
    /// One JSON object a line: each damage, then the verdict
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let verified = Options::new().open_read_only(&arguments.dir).and_then(|mut log| log.verify());
    let mut output = Output::new();
    let status = match &verified {
        Ok(verification) => status(verification.verdict),
        Err(error) if error.kind() == ErrorKind::Corrupt => EXIT_CORRUPT,
        Err(_) => EXIT_UNREADABLE,
    };
    let said = match &verified {
        Ok(verification) if arguments.json => say_json(&mut output, verification),
        Ok(verification) => say_text(&mut output, verification),
        Err(error) if arguments.json => say_json_error(&mut output, error, status),
        Err(_) => Ok(()),
    };
    // Whether or not somebody reads the answer, the status tells the verdict.
    match said.and_then(|()| output.finish()) {
        Err(failure) if failure.text().is_some() => return Err(failure),
        _ => {}
    }
    match verified {
        Err(error) => Err(Failure::new(status, error.to_string())),
        Ok(_) => Ok(ExitCode::from(status)),
    }
}

fn status(verdict: VerifyVerdict) -> u8 {
    if matches!(verdict, VerifyVerdict::Clean) {
        0
    } else if matches!(verdict, VerifyVerdict::TornTail) {
        EXIT_BAD
    } else {
        EXIT_CORRUPT
    }
}

fn verdict_word(status: u8) -> &'static str {
    match status {
        0 => "clean",
        EXIT_BAD => "torn_tail",
        EXIT_CORRUPT => "corrupt",
        _ => "unreadable",
    }
}

fn say_text(output: &mut Output, verification: &Verification) -> Result<(), Failure> {
    for damage in &verification.damage {
        output.line(format_args!("damage: {damage}"))?;
    }
    if let Some(cut) = &verification.cut {
        output.line(format_args!(
            "torn tail: at lsn {}, segment {}, offset {}: {}",
            cut.at, cut.segment, cut.offset, cut.fault
        ))?;
        output.line(format_args!(
            "           {} bytes would be cut, with {} intact frames of {} records; \
             no durable mark reaches that far (the highest is {})",
            cut.bytes, cut.intact_frames, cut.intact_records, verification.durable_mark
        ))?;
    }
    output.line(format_args!(
        "{}: {} segments, {} frames, {} records, {} bytes; durable mark {}, tail {}",
        verdict_word(status(verification.verdict)).replace('_', " "),
        verification.segments,
        verification.frames,
        verification.records,
        verification.bytes,
        verification.durable_mark,
        verification.tail
    ))
}

fn say_json(output: &mut Output, verification: &Verification) -> Result<(), Failure> {
    for damage in &verification.damage {
        say_json_damage(output, damage)?;
    }
    let cut = verification.cut.as_ref().map(|cut| {
        json!({
            "at": cut.at.get(), "segment": cut.segment, "offset": cut.offset,
            "fault": cut.fault, "bytes": cut.bytes,
            "intact_frames": cut.intact_frames, "intact_records": cut.intact_records,
        })
    });
    output.object(&[
        ("type", json!("verdict")),
        ("verdict", json!(verdict_word(status(verification.verdict)))),
        ("segments", json!(verification.segments)),
        ("frames", json!(verification.frames)),
        ("records", json!(verification.records)),
        ("bytes", json!(verification.bytes)),
        ("durable_mark", json!(verification.durable_mark.get())),
        ("tail", json!(verification.tail.get())),
        ("damage", json!(verification.damage.len())),
        ("cut", json!(cut)),
    ])
}

fn say_json_error(output: &mut Output, error: &Error, status: u8) -> Result<(), Failure> {
    say_json_damage(output, error)?;
    output.object(&[("type", json!("verdict")), ("verdict", json!(verdict_word(status)))])
}

fn say_json_damage(output: &mut Output, damage: &Error) -> Result<(), Failure> {
    output.object(&[
        ("type", json!("damage")),
        ("kind", json!(format!("{:?}", damage.kind()))),
        ("path", json!(damage.path().map(|path| path.to_string_lossy()))),
        ("segment", json!(damage.segment())),
        ("offset", json!(damage.offset())),
        ("lsn", json!(damage.lsn().map(Lsn::get))),
        ("expected", json!(damage.expected())),
        ("found", json!(damage.found())),
        ("text", json!(damage.to_string())),
    ])
}
