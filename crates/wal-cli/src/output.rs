//! Standard output, standard error and exit status, the same for every command.

use serde_json::Value;
use std::{
    fmt,
    io::{self, BufWriter, StdoutLock, Write},
};
use wal::{Error, ErrorKind};

/// The command did what it could and the answer is bad.
pub(crate) const EXIT_BAD: u8 = 1;
/// Acknowledged bytes are damaged.
pub(crate) const EXIT_CORRUPT: u8 = 2;
/// The log cannot be read at all, or the answer not be written.
pub(crate) const EXIT_UNREADABLE: u8 = 3;
/// The command line is wrong. clap's own 2 would read as corruption.
pub(crate) const EXIT_USAGE: u8 = 64;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    text: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: u8, text: impl Into<String>) -> Self {
        Self { status, text: Some(text.into()) }
    }

    /// Nobody reads what is written: `wal dump | head`. Not an error.
    pub(crate) const fn nobody_reads() -> Self {
        Self { status: 0, text: None }
    }

    pub(crate) const fn status(&self) -> u8 {
        self.status
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let corrupt = error.kind() == ErrorKind::Corrupt;
        Self::new(if corrupt { EXIT_CORRUPT } else { EXIT_UNREADABLE }, error.to_string())
    }
}

/// Says `text` on standard error. A closed standard error is no reason to fail, let alone panic.
pub(crate) fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "wal: {text}");
}

/// Buffered standard output. [`Output::finish`] must end it: a drop would swallow an error.
#[derive(Debug)]
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()) }
    }

    /// Lets `write` write.
    pub(crate) fn with(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        write(&mut self.out).map_err(|error| output_failure(&error))
    }

    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) -> Result<(), Failure> {
        self.with(|out| writeln!(out, "{line}"))
    }

    /// One JSON object on a line of its own, its fields in the order given.
    pub(crate) fn object(&mut self, fields: &[(&str, Value)]) -> Result<(), Failure> {
        self.with(|out| write_object(out, fields))
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| output_failure(&error))
    }
}

fn output_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::nobody_reads()
    } else {
        Failure::new(EXIT_UNREADABLE, format!("standard output: {error}"))
    }
}

fn write_object(out: &mut dyn Write, fields: &[(&str, Value)]) -> io::Result<()> {
    out.write_all(b"{")?;
    for (index, (name, value)) in fields.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(out, "{comma}\"{name}\":{value}")?;
    }
    out.write_all(b"}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn object_keeps_the_order_and_is_one_line() {
        let mut line = Vec::new();
        let fields = [("z", json!("a\n\"b\"")), ("a", json!([1, null])), ("m", json!(2.5))];
        write_object(&mut line, &fields).unwrap();
        assert_eq!(line, b"{\"z\":\"a\\n\\\"b\\\"\",\"a\":[1,null],\"m\":2.5}\n");
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["z"], "a\n\"b\"");
    }

    #[test]
    fn corruption_has_a_status_of_its_own() {
        assert_eq!(Failure::from(Error::new(ErrorKind::Corrupt, "x")).status(), EXIT_CORRUPT);
        assert_eq!(Failure::from(Error::new(ErrorKind::NotFound, "x")).status(), EXIT_UNREADABLE);
    }
}
