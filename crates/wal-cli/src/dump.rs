//! `wal dump`: the records.

use crate::output::{Failure, Output, complain};
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};
use wal::{Lsn, Options};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directory of the log
    dir: PathBuf,
    /// Begin with the first record at or after this position
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    from: u64,
    /// Print so many records at most
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// One JSON object a line; payloads that are not UTF-8 are in hexadecimal
    #[arg(long)]
    json: bool,
    /// All payloads in hexadecimal
    #[arg(long)]
    hex: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut log = Options::new().open_read_only(&arguments.dir)?;
    let mut output = Output::new();
    let dumped = dump(arguments, &mut log, &mut output);
    // What was read goes out before the error that ended it is told.
    output.finish()?;
    dumped.map(|()| ExitCode::SUCCESS)
}

fn dump(
    arguments: &Arguments,
    log: &mut wal::ReadOnly,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut records = log.records_from_including_unproved(Lsn::new(arguments.from))?;
    let durable_mark = records.durable_mark();
    let mut left = arguments.limit;
    let mut unproved: Option<(Lsn, u64)> = None;
    while left > 0 {
        let record = match records.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            // Nobody promised what is not shown.
            Err(_) if unproved.is_some() => break,
            Err(error) => return Err(error.into()),
        };
        if record.lsn() >= durable_mark {
            unproved.get_or_insert((record.lsn(), 0)).1 += 1;
            continue;
        }
        left -= 1;
        let line = Line {
            lsn: record.lsn(),
            ordinal: record.ordinal(),
            ends_batch: record.ends_batch(),
            payload: record.payload(),
        };
        output.with(|out| {
            if arguments.json {
                line.json(out, arguments.hex)
            } else {
                line.text(out, arguments.hex)
            }
        })?;
    }
    // Whoever looks for the last record has to hear of it.
    if let Some((first, count)) = unproved {
        complain(format_args!(
            "{count} more from lsn {first} on are not shown: nothing in the log proves yet that they \
             were durable, because the frame after them is missing. An open for writing keeps them."
        ));
    }
    Ok(())
}

struct Line<'a> {
    lsn: Lsn,
    ordinal: u64,
    ends_batch: bool,
    payload: &'a [u8],
}

impl Line<'_> {
    fn text(&self, out: &mut dyn Write, hex: bool) -> io::Result<()> {
        // `+`: more records of the same batch follow.
        let more = if self.ends_batch { "" } else { "+" };
        write!(out, "{}{more}\t{}\t{}\t", self.lsn, self.ordinal, self.payload.len())?;
        if hex {
            write_hex(out, self.payload)?
        } else {
            write_escaped(out, self.payload)?
        }
        out.write_all(b"\n")
    }

    fn json(&self, out: &mut dyn Write, hex: bool) -> io::Result<()> {
        let Self { lsn, ordinal, ends_batch, payload } = *self;
        write!(out, "{{\"lsn\":{lsn},\"ordinal\":{ordinal},\"ends_batch\":{ends_batch},")?;
        write!(out, "\"bytes\":{},", payload.len())?;
        match str::from_utf8(payload) {
            Ok(text) if !hex => {
                out.write_all(b"\"text\":")?;
                serde_json::to_writer(&mut *out, text)?;
            }
            _ => {
                out.write_all(b"\"hex\":\"")?;
                write_hex(out, payload)?;
                out.write_all(b"\"")?;
            }
        }
        out.write_all(b"}\n")
    }
}

fn write_hex(out: &mut dyn Write, payload: &[u8]) -> io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 512];
    for chunk in payload.chunks(digits.len() / 2) {
        for (pair, byte) in digits.chunks_exact_mut(2).zip(chunk) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        out.write_all(&digits[..2 * chunk.len()])?;
    }
    Ok(())
}

/// UTF-8 as it is; control characters, the backslash and other bytes escaped, so that a record is
/// one line and cannot drive the terminal.
fn write_escaped(out: &mut dyn Write, payload: &[u8]) -> io::Result<()> {
    for chunk in payload.utf8_chunks() {
        let text = chunk.valid();
        let mut plain_from = 0;
        for (at, character) in text.char_indices() {
            if character == '\\' || character.is_control() {
                out.write_all(&text.as_bytes()[plain_from..at])?;
                write!(out, "{}", character.escape_default())?;
                plain_from = at + character.len_utf8();
            }
        }
        out.write_all(&text.as_bytes()[plain_from..])?;
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(payload: &[u8]) -> Line<'_> {
        Line { lsn: Lsn::new(4160), ordinal: 7, ends_batch: true, payload }
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_one_line_whatever_the_bytes() {
        let text = written(|out| line(b"a\\\n\x1bz\xffb\xc3\xa4").text(out, false));
        assert_eq!(text, "4160\t7\t9\ta\\\\\\n\\u{1b}z\\xffb\u{e4}\n");
        assert_eq!(written(|out| line(b"\x00\xab").text(out, true)), "4160\t7\t2\t00ab\n");
        let inner = Line { ends_batch: false, ..line(b"") };
        assert_eq!(written(|out| inner.text(out, false)), "4160+\t7\t0\t\n");
    }

    #[test]
    fn json_parses_and_tells_text_from_bytes() {
        for (payload, hex, key, value) in [
            (&b"a\n\"\xc3\xa4"[..], false, "text", "a\n\"\u{e4}"),
            (b"\xff\x01", false, "hex", "ff01"),
            (b"ab", true, "hex", "6162"),
        ] {
            let text = written(|out| line(payload).json(out, hex));
            assert_eq!(text.lines().count(), 1);
            let object: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(object[key], value);
            assert_eq!(object["lsn"], 4160);
            assert_eq!(object["bytes"], payload.len());
        }
    }

    #[test]
    fn hex_of_more_than_a_chunk_is_whole() {
        let payload: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let hex = written(|out| write_hex(out, &payload));
        assert_eq!(hex.len(), 2000);
        assert_eq!(&hex[510..514], "ff00");
    }
}
