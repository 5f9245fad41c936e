//! `wal append`: records from standard input.

use crate::output::{EXIT_BAD, Failure, Output, complain};
use serde_json::json;
use std::{
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    process::ExitCode,
};
use wal::{Lsn, Options, Wal};

/// Big enough that a read call costs nothing beside the records in it.
const INPUT_BYTES: usize = 1 << 18;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directory of the log; created if there is none
    dir: PathBuf,
    /// Each record is its length, 4 bytes little-endian, and that many bytes
    #[arg(long)]
    length_prefixed: bool,
    /// Segment length of a log that is created here, in bytes
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// Answer with a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut options = Options::new();
    if let Some(bytes) = arguments.segment_bytes {
        options = options.segment_bytes(bytes);
    }
    let mut replay = options.open(&arguments.dir)?;
    replay.skip_rest();
    let (wal, report) = replay.finish()?;
    if let Some(cut) = &report.cut {
        complain(format_args!("the log had a torn tail; cut: {cut}"));
    }
    for warning in &report.warnings {
        complain(format_args!("warning: {warning}"));
    }

    let input = BufReader::with_capacity(INPUT_BYTES, io::stdin().lock());
    let records = Records::new(input, arguments.length_prefixed, wal.record_bytes_max());
    let (appended, failed) = append_all(&wal, records);
    // Whatever stopped it, what came before is made durable before anything is said about it.
    let flushed = wal.flush().map(drop).and_then(|()| wal.close());
    let flushed = match flushed {
        Ok(()) => report_appended(arguments, &appended),
        Err(error) => Err(Failure::new(EXIT_BAD, format!("not everything is durable: {error}"))),
    };
    match failed {
        Some(text) => {
            complain(text);
            flushed.map(|()| ExitCode::from(EXIT_BAD))
        }
        None => flushed.map(|()| ExitCode::SUCCESS),
    }
}

fn report_appended(arguments: &Arguments, appended: &Appended) -> Result<(), Failure> {
    let Appended { range, records, bytes } = *appended;
    let mut output = Output::new();
    if arguments.json {
        output.object(&[
            ("first", json!(range.map(|(first, _)| first.get()))),
            ("last", json!(range.map(|(_, last)| last.get()))),
            ("records", json!(records)),
            ("bytes", json!(bytes)),
        ])?;
    } else if let Some((first, last)) = range {
        output.line(format_args!("first {first} last {last} records {records} bytes {bytes}"))?;
    } else {
        output.line(format_args!("nothing appended"))?;
    }
    output.finish()
}

#[derive(Clone, Copy, Debug, Default)]
struct Appended {
    range: Option<(Lsn, Lsn)>,
    records: u64,
    bytes: u64,
}

/// Appends until the input ends or something fails, and says what failed.
fn append_all<R: BufRead>(wal: &Wal, mut records: Records<R>) -> (Appended, Option<String>) {
    let mut appended = Appended::default();
    loop {
        let record = match records.next() {
            Ok(Some(record)) => record,
            Ok(None) => return (appended, None),
            Err(text) => return (appended, Some(text)),
        };
        // The flush at the end waits for all of them at once.
        match wal.append_untracked(record) {
            Ok(lsn) => {
                appended.range = Some((appended.range.map_or(lsn, |(first, _)| first), lsn));
                appended.records += 1;
                appended.bytes += u64::try_from(record.len()).unwrap_or(u64::MAX);
            }
            Err(error) => return (appended, Some(format!("{}: {error}", records.place()))),
        }
    }
}

/// Cuts the input into records without ever holding more than one of them.
#[derive(Debug)]
struct Records<R> {
    input: R,
    length_prefixed: bool,
    record_bytes_max: usize,
    record: Vec<u8>,
    /// Of the record last returned or refused, from 1.
    number: u64,
}

impl<R: BufRead> Records<R> {
    fn new(input: R, length_prefixed: bool, record_bytes_max: usize) -> Self {
        Self { input, length_prefixed, record_bytes_max, record: Vec::new(), number: 0 }
    }

    fn next(&mut self) -> Result<Option<&[u8]>, String> {
        self.number += 1;
        self.record.clear();
        let found = if self.length_prefixed { self.read_prefixed() } else { self.read_line() };
        match found {
            Ok(true) => Ok(Some(&self.record)),
            Ok(false) => Ok(None),
            Err(text) => Err(format!("{}: {text}", self.place())),
        }
    }

    fn place(&self) -> String {
        let noun = if self.length_prefixed { "record" } else { "line" };
        format!("{noun} {} of standard input", self.number)
    }

    fn read_line(&mut self) -> Result<bool, String> {
        // One byte more than a record may have: the newline, or the proof that it is too long.
        let limit = u64::try_from(self.record_bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.record);
        read.map_err(|error| error.to_string())?;
        if self.record.last() == Some(&b'\n') {
            self.record.pop();
            return Ok(true);
        }
        if self.record.len() > self.record_bytes_max {
            return Err(format!("longer than the {} bytes of a record", self.record_bytes_max));
        }
        // The last line needs no newline.
        Ok(!self.record.is_empty())
    }

    fn read_prefixed(&mut self) -> Result<bool, String> {
        let mut prefix = Vec::with_capacity(4);
        (&mut self.input).take(4).read_to_end(&mut prefix).map_err(|error| error.to_string())?;
        if prefix.is_empty() {
            return Ok(false);
        }
        let Ok(prefix) = <[u8; 4]>::try_from(prefix.as_slice()) else {
            return Err("the input ends inside a length".to_owned());
        };
        let bytes = u32::from_le_bytes(prefix);
        if usize::try_from(bytes).unwrap_or(usize::MAX) > self.record_bytes_max {
            return Err(format!(
                "{bytes} bytes are longer than the {} bytes of a record",
                self.record_bytes_max
            ));
        }
        let read = (&mut self.input).take(u64::from(bytes)).read_to_end(&mut self.record);
        let read = read.map_err(|error| error.to_string())?;
        if u64::try_from(read).ok() != Some(u64::from(bytes)) {
            return Err(format!("the input ends after {read} of {bytes} bytes"));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(
        input: &[u8],
        length_prefixed: bool,
        buffer_bytes: usize,
    ) -> (Vec<Vec<u8>>, Option<String>) {
        let input = BufReader::with_capacity(buffer_bytes, input);
        let mut records = Records::new(input, length_prefixed, 5);
        let mut found = Vec::new();
        loop {
            match records.next() {
                Ok(Some(record)) => found.push(record.to_vec()),
                Ok(None) => return (found, None),
                Err(text) => return (found, Some(text)),
            }
        }
    }

    #[test]
    fn lines_are_cut_wherever_the_buffer_ends() {
        for buffer_bytes in 1..20 {
            let (records, failed) = cut(b"a\n\n12345\nbc\r\nend", false, buffer_bytes);
            assert_eq!(records, [&b"a"[..], b"", b"12345", b"bc\r", b"end"]);
            assert_eq!(failed, None);
        }
        assert_eq!(cut(b"", false, 8), (vec![], None));
        assert_eq!(cut(b"\n", false, 8), (vec![vec![]], None));
    }

    #[test]
    fn long_line_is_refused_by_number_after_those_before_it() {
        let (records, failed) = cut(b"12345\n123456\nnext\n", false, 3);
        assert_eq!(records, [b"12345"]);
        let failed = failed.unwrap();
        assert!(failed.starts_with("line 2 of standard input: longer than the 5"), "{failed}");
    }

    #[test]
    fn endless_line_is_refused_without_reading_it_all() {
        let mut records = Records::new(BufReader::new(io::repeat(b'x')), false, 5);
        assert!(records.next().is_err());
        assert!(records.record.capacity() < 1 << 10);
    }

    #[test]
    fn prefixed_records_are_cut_wherever_the_buffer_ends() {
        for buffer_bytes in 1..20 {
            let input = b"\x01\0\0\0a\0\0\0\0\x05\0\0\0\n2\n45";
            let (records, failed) = cut(input, true, buffer_bytes);
            assert_eq!(records, [&b"a"[..], b"", b"\n2\n45"]);
            assert_eq!(failed, None);
        }
    }

    #[test]
    fn prefixed_input_that_is_cut_or_too_long_is_refused() {
        for (input, part) in [
            (&b"\x01\0\0\0a\x02\0"[..], "record 2 of standard input: the input ends inside"),
            (b"\x01\0\0\0a\x02\0\0\0b", "the input ends after 1 of 2 bytes"),
            (b"\x01\0\0\0a\xff\xff\xff\xff", "4294967295 bytes are longer than the 5"),
        ] {
            let (records, failed) = cut(input, true, 4);
            assert_eq!(records, [b"a"]);
            let failed = failed.unwrap();
            assert!(failed.contains(part), "{failed}");
        }
    }
}
