//! [`Fault`]: what a disk is told to do wrong, and [`Tally`], what it did; both as text.

use std::{fmt, io, ops::Range, str::FromStr};

/// What the format gives a frame, a segment header and an identity to begin with.
pub(super) const FRAME_MAGIC: &[u8] = b"walF";
pub(super) const SEGMENT_MAGIC: &[u8] = b"walSegmt";
const IDENTITY_MAGIC: &[u8] = b"walIdent";

/// Where a frame has its Lsn, and a segment header its sequence.
pub(super) const FRAME_LSN: Range<usize> = 8..16;
const SEGMENT_SEQUENCE: Range<usize> = 32..40;

/// What the disk does wrong from now on, besides what it does wrong already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing any more.
    Heal,
    /// Writes of frames answer EIO, and leave what was there.
    Write(Times),
    /// Flushes answer EIO, and what they become of what was written since the last one.
    Flush(Times, Cache),
    /// Reads of something of the log answer EIO.
    Read(Target),
    /// Only so many blocks that were never written may be written; more is ENOSPC.
    Room(u64),
    /// What a log writes ahead of itself answers EIO.
    Zeros(Step),
    /// Of the flushes that have something to flush that a log writes ahead of itself, zeros or a segment's
    /// header, this many pass, and the next one answers EIO, once. Everything of the log that was written
    /// since the flush before is gone.
    Drop(u64),
}

/// Of writing zeros ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Every write that is nothing but zeros, and long.
    Write,
    /// The first flush after such a write.
    Sync,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    Once,
    Always,
}

/// What becomes of the frames that were written since the last flush, when one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    /// They are on the disk all the same.
    Kept,
    /// They are gone, though the disk had taken them.
    Lost,
}

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The frame at this Lsn.
    Frame(u64),
    /// The header of this segment.
    Segment(u64),
    /// The identity.
    Identity,
}

/// How often the disk said no, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) writes: u64,
    pub(super) flushes: u64,
    pub(super) reads: u64,
    pub(super) refusals: u64,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Once => "once",
            Self::Always => "always",
        })
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Lost => "lost",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Sync => "sync",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(lsn) => write!(f, "frame {lsn}"),
            Self::Segment(sequence) => write!(f, "segment {sequence}"),
            Self::Identity => f.write_str("identity"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heal => f.write_str("heal"),
            Self::Write(times) => write!(f, "write {times}"),
            Self::Flush(times, cache) => write!(f, "flush {times} {cache}"),
            Self::Read(target) => write!(f, "read {target}"),
            Self::Room(blocks) => write!(f, "room {blocks}"),
            Self::Zeros(step) => write!(f, "zeros {step}"),
            Self::Drop(flushes) => write!(f, "drop {flushes}"),
        }
    }
}

impl Times {
    fn parse(word: &str) -> Option<Self> {
        [Self::Once, Self::Always].into_iter().find(|times| times.to_string() == word)
    }
}

impl FromStr for Fault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<_> = text.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().map_err(drop);
        Ok(match words[..] {
            ["heal"] => Self::Heal,
            ["write", times] => Self::Write(Times::parse(times).ok_or(())?),
            ["flush", times, cache] => {
                let cache = [Cache::Kept, Cache::Lost]
                    .into_iter()
                    .find(|known| known.to_string() == cache)
                    .ok_or(())?;
                Self::Flush(Times::parse(times).ok_or(())?, cache)
            }
            ["read", "frame", lsn] => Self::Read(Target::Frame(number(lsn)?)),
            ["read", "segment", sequence] => Self::Read(Target::Segment(number(sequence)?)),
            ["read", "identity"] => Self::Read(Target::Identity),
            ["room", blocks] => Self::Room(number(blocks)?),
            ["drop", flushes] => Self::Drop(number(flushes)?),
            ["zeros", "write"] => Self::Zeros(Step::Write),
            ["zeros", "sync"] => Self::Zeros(Step::Sync),
            _ => return Err(()),
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writes, flushes, reads, refusals } = self;
        writeln!(f, "{writes} {flushes} {reads} {refusals}")
    }
}

impl FromStr for Tally {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[writes, flushes, reads, refusals]) => {
                Ok(Self { writes, flushes, reads, refusals })
            }
            _ => Err(io::Error::other(format!("not the tally of a disk: {text:?}"))),
        }
    }
}

impl Target {
    /// Whether it stands at the beginning of `block`.
    pub(super) fn is_in(self, block: &[u8]) -> bool {
        let number = |range: Range<usize>| {
            block.get(range).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_le_bytes(*bytes))
        };
        match self {
            Self::Frame(lsn) => block.starts_with(FRAME_MAGIC) && number(FRAME_LSN) == Some(lsn),
            Self::Segment(sequence) => {
                block.starts_with(SEGMENT_MAGIC) && number(SEGMENT_SEQUENCE) == Some(sequence)
            }
            Self::Identity => block.starts_with(IDENTITY_MAGIC),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_understood_as_it_is_written() {
        let faults = [
            Fault::Heal,
            Fault::Write(Times::Always),
            Fault::Flush(Times::Once, Cache::Lost),
            Fault::Read(Target::Frame(4096)),
            Fault::Read(Target::Segment(3)),
            Fault::Read(Target::Identity),
            Fault::Room(9),
            Fault::Zeros(Step::Write),
            Fault::Zeros(Step::Sync),
            Fault::Drop(2),
        ];
        for fault in faults {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert_eq!("flush".parse::<Fault>(), Err(()));
        let tally = Tally { writes: 1, flushes: 2, reads: 3, refusals: 4 };
        assert_eq!(tally.to_string().parse::<Tally>().unwrap(), tally);
    }
}
