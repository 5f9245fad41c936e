/*!
What happened to the disk, and when: [`Recording`].

One list in one order: a write is submitted and later done, a flush begins and later ends, and in
between the subject says what it was promised. Only what this order allows is a crash state.

In a file: a line of JSON that says what was run, then the events, each a tag and its numbers, all
little-endian.
*/

use serde_json::Value;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A write reached the disk.
    Write { offset: u64, content: Content },
    /// The write that is event number `write` was answered.
    Done { write: u32 },
    /// A flush reached the disk.
    FlushBegin,
    /// The flush that began as event number `flush` was answered.
    FlushEnd { flush: u32 },
    /// The subject, or the harness, said something.
    Mark(String),
}

/// What a write brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// So many zeros, written or discarded.
    Zeros(u64),
}

impl Content {
    /// Zeros are kept as their number: preparing a file system writes many.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if bytes.iter().all(|byte| *byte == 0) {
            Self::Zeros(length)
        } else {
            Self::Bytes(bytes.to_vec())
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Zeros(length) => *length,
        }
    }
}

/// What was run, and what happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recording {
    /// What was run, for whoever looks at the file, and for looking again at a state.
    pub(crate) header: Value,
    pub(crate) events: Vec<Event>,
}

const WRITE: u8 = 1;
const ZEROS: u8 = 2;
const DONE: u8 = 3;
const FLUSH_BEGIN: u8 = 4;
const FLUSH_END: u8 = 5;
const MARK: u8 = 6;

/// No write or mark is longer.
const BYTES_MAX: u64 = 1 << 28;

impl Recording {
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        self.write_to(&mut out)?;
        out.flush()
    }

    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        Self::read_from(&mut BufReader::new(File::open(path)?))
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.header)?;
        for event in &self.events {
            match event {
                Event::Write { offset, content: Content::Bytes(bytes) } => {
                    out.write_all(&[WRITE])?;
                    out.write_all(&offset.to_le_bytes())?;
                    write_bytes(out, bytes)?;
                }
                Event::Write { offset, content: Content::Zeros(length) } => {
                    out.write_all(&[ZEROS])?;
                    out.write_all(&offset.to_le_bytes())?;
                    out.write_all(&length.to_le_bytes())?;
                }
                Event::Done { write } => {
                    out.write_all(&[DONE])?;
                    out.write_all(&write.to_le_bytes())?;
                }
                Event::FlushBegin => out.write_all(&[FLUSH_BEGIN])?,
                Event::FlushEnd { flush } => {
                    out.write_all(&[FLUSH_END])?;
                    out.write_all(&flush.to_le_bytes())?;
                }
                Event::Mark(text) => {
                    out.write_all(&[MARK])?;
                    write_bytes(out, text.as_bytes())?;
                }
            }
        }
        Ok(())
    }

    fn read_from(input: &mut impl BufRead) -> io::Result<Self> {
        let mut header = String::new();
        input.read_line(&mut header)?;
        let header = serde_json::from_str(&header)?;
        let mut events = Vec::new();
        while !input.fill_buf()?.is_empty() {
            let [tag] = read_array(input)?;
            events.push(match tag {
                WRITE => Event::Write {
                    offset: u64::from_le_bytes(read_array(input)?),
                    content: Content::Bytes(read_bytes(input)?),
                },
                ZEROS => Event::Write {
                    offset: u64::from_le_bytes(read_array(input)?),
                    content: Content::Zeros(u64::from_le_bytes(read_array(input)?)),
                },
                DONE => Event::Done { write: u32::from_le_bytes(read_array(input)?) },
                FLUSH_BEGIN => Event::FlushBegin,
                FLUSH_END => Event::FlushEnd { flush: u32::from_le_bytes(read_array(input)?) },
                MARK => Event::Mark(
                    String::from_utf8(read_bytes(input)?).map_err(|_| malformed("a mark"))?,
                ),
                tag => return Err(malformed(&format!("tag {tag}"))),
            });
        }
        Ok(Self { header, events })
    }
}

fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(bytes)
}

fn read_array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    input.read_exact(&mut array)?;
    Ok(array)
}

fn read_bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = u64::from_le_bytes(read_array(input)?);
    if length > BYTES_MAX {
        return Err(malformed("a length"));
    }
    let mut bytes = Vec::new();
    if u64::try_from(input.take(length).read_to_end(&mut bytes)?) != Ok(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a recording: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recording() -> Recording {
        let events = vec![
            Event::Mark("start".to_owned()),
            Event::Write { offset: 4096, content: Content::of(&[1, 2, 3]) },
            Event::Write { offset: 8192, content: Content::of(&[0; 512]) },
            Event::FlushBegin,
            Event::Done { write: 1 },
            Event::FlushEnd { flush: 3 },
        ];
        Recording { header: json!({"seed": 7}), events }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let mut bytes = Vec::new();
        recording().write_to(&mut bytes).unwrap();
        assert_eq!(Recording::read_from(&mut &bytes[..]).unwrap(), recording());
    }

    #[test]
    fn what_is_cut_short_is_refused_or_a_prefix() {
        let mut bytes = Vec::new();
        recording().write_to(&mut bytes).unwrap();
        let header = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in 0..bytes.len() {
            match Recording::read_from(&mut &bytes[..length]) {
                Ok(part) => {
                    assert!(part.events.len() < recording().events.len());
                    assert_eq!(part.events, recording().events[..part.events.len()]);
                }
                Err(_) => assert_ne!(length, header),
            }
        }
    }

    #[test]
    fn zeros_are_kept_as_their_number() {
        assert_eq!(Content::of(&[0; 4096]), Content::Zeros(4096));
        assert_eq!(Content::of(&[0, 1]), Content::Bytes(vec![0, 1]));
        assert_eq!(Content::of(&[0, 1]).len(), 2);
    }
}
