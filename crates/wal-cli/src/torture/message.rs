/*!
What a child tells its parent, over its standard output.

Every message is [`MESSAGE_BYTES`] long and written with one `write`, which a pipe keeps whole
(it is less than `PIPE_BUF`): what the child said before it was killed can be read to the end, and
never half of it.

| offset | bytes | field |
|---|---|---|
| 0 | 4 | kind, from 1 |
| 4 | 4 | writer |
| 8 | 4 | record count |
| 12 | 4 | 1 if the opened log had a torn tail |
| 16 | 8 × 4 | numbers, by kind |
*/

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
};
use wal::Lsn;

pub(super) const MESSAGE_BYTES: usize = 48;

/// No record: the position of the last record of a log that has none.
const NONE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The log is open: what `finish()` made durable before it returned.
    Opened { tail: Lsn, last_record: Option<Lsn>, torn: bool },
    /// The writer appends no sequence at or above `until` before it says so.
    Intent { writer: u32, until: u64 },
    /// The log said that these records are durable. Sent after it did.
    Acknowledged(Acknowledged),
    /// A checkpoint to `start_mark` is about to be asked for.
    CheckpointIntent { start_mark: Lsn },
    /// The log said that the checkpoint is durable.
    CheckpointAcknowledged { start_mark: Lsn },
}

/// The records of one ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) writer: u32,
    /// Of the first record.
    pub(super) sequence: u64,
    pub(super) records: u32,
    /// Of the first record.
    pub(super) first: Lsn,
    /// Of the last record.
    pub(super) last: Lsn,
    /// From before the append until after the wait.
    pub(super) latency_ns: u64,
}

impl Message {
    pub(super) fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let (kind, writer, records, torn, numbers) = match *self {
            Self::Opened { tail, last_record, torn } => {
                let last = last_record.map_or(NONE, Lsn::get);
                (1, 0, 0, u32::from(torn), [tail.get(), last, 0, 0])
            }
            Self::Intent { writer, until } => (2, writer, 0, 0, [until, 0, 0, 0]),
            Self::Acknowledged(Acknowledged {
                writer,
                sequence,
                records,
                first,
                last,
                latency_ns,
            }) => (3, writer, records, 0, [sequence, first.get(), last.get(), latency_ns]),
            Self::CheckpointIntent { start_mark } => (4, 0, 0, 0, [start_mark.get(), 0, 0, 0]),
            Self::CheckpointAcknowledged { start_mark } => {
                (5, 0, 0, 0, [start_mark.get(), 0, 0, 0])
            }
        };
        let mut bytes = [0; MESSAGE_BYTES];
        for (field, value) in bytes.chunks_exact_mut(4).zip([kind, writer, records, torn]) {
            field.copy_from_slice(&u32::to_le_bytes(value));
        }
        for (field, value) in bytes[16..].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Option<Self> {
        let mut words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let (kind, writer, records, torn) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let mut numbers = bytes[16..].as_chunks::<8>().0.iter().map(|n| u64::from_le_bytes(*n));
        let (a, b, c, d) = (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?);
        Some(match kind {
            1 => Self::Opened {
                tail: Lsn::new(a),
                last_record: (b != NONE).then_some(Lsn::new(b)),
                torn: torn == 1,
            },
            2 => Self::Intent { writer, until: a },
            3 => Self::Acknowledged(Acknowledged {
                writer,
                sequence: a,
                records,
                first: Lsn::new(b),
                last: Lsn::new(c),
                latency_ns: d,
            }),
            4 => Self::CheckpointIntent { start_mark: Lsn::new(a) },
            5 => Self::CheckpointAcknowledged { start_mark: Lsn::new(a) },
            _ => return None,
        })
    }

    /// The next message; `None` once the child is gone and everything it said is read.
    pub(super) fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut filled = 0;
        while filled < MESSAGE_BYTES {
            match input.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match Self::decode(&bytes) {
            Some(message) => Ok(Some(message)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a message of a child")),
        }
    }
}

/// The child's end of the pipe. Any number of threads may send at once.
#[derive(Debug)]
pub(super) struct Sender(File);

impl Sender {
    /// Standard output itself, without the buffer that `std` puts before it.
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        let bytes = message.encode();
        // `write_all` for its retry after a signal: a pipe takes all of so few bytes or none.
        (&self.0).write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_in_order() {
        let lsn = Lsn::new;
        let messages = [
            Message::Opened { tail: lsn(8192), last_record: Some(lsn(4160)), torn: true },
            Message::Opened { tail: lsn(0), last_record: None, torn: false },
            Message::Intent { writer: 7, until: 1 << 40 },
            Message::Acknowledged(Acknowledged {
                writer: 3,
                sequence: 11,
                records: 4,
                first: lsn(12352),
                last: lsn(12400),
                latency_ns: 105_000,
            }),
            Message::CheckpointIntent { start_mark: lsn(1) },
            Message::CheckpointAcknowledged { start_mark: lsn(2) },
        ];
        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        let mut input = bytes.as_slice();
        for message in messages {
            assert_eq!(Message::read(&mut input).unwrap(), Some(message));
        }
        assert_eq!(Message::read(&mut input).unwrap(), None);
    }

    #[test]
    fn half_a_message_and_a_foreign_one_are_errors() {
        let bytes = Message::Intent { writer: 1, until: 2 }.encode();
        let error = Message::read(&mut &bytes[..MESSAGE_BYTES - 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = Message::read(&mut &[0; MESSAGE_BYTES][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
