//! Opening the log after a crash, and saying what is in it.

use super::{checksum, open_patiently, payload};
use std::{fmt, path::Path};
use wal::{Error, ErrorKind, Replay, Wal, io::Directory};

/// What a subject found in its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The record that the log begins at, where the subject knows of releasing.
    pub(crate) start: Option<u64>,
    /// The numbers and checksums of the records, in the order of the log.
    pub(crate) records: Vec<(u64, u64)>,
    /// The numbers of records that ended a batch or stood alone, if the subject knows of batches.
    pub(crate) group_ends: Option<Vec<u64>>,
    pub(crate) verdict: Verdict,
}

/// How the log said that it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    #[default]
    Clean,
    /// Something that nobody was promised was cut.
    Torn,
    /// It says that something promised is damaged.
    Corrupt(String),
    /// It could not be opened for another reason.
    Failed(String),
}

impl From<Error> for Verdict {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt => Self::Corrupt(error.to_string()),
            kind => Self::Failed(format!("{kind:?}: {error}")),
        }
    }
}

/// Opens the log in `directory`, repairs it, and lets it go as a crash would.
pub(crate) fn recover(directory: &Path) -> Recovered {
    let mut recovered = Recovered::default();
    recovered.verdict = match read(directory, &mut recovered) {
        Ok((_, verdict)) => verdict,
        Err(error) => error.into(),
    };
    recovered
}

/// Appends records from number `from` on to a log that was recovered, closes it, and says what is in
/// it after another open.
pub(crate) fn append_more(directory: &Path, seed: u64, from: u64, count: u64) -> Recovered {
    let append = || -> wal::Result<()> {
        let (wal, _) = read(directory, &mut Recovered::default())?;
        for index in from..from + count {
            wal.append(&payload(seed, index))?.wait()?;
        }
        wal.close()
    };
    match append() {
        Ok(()) => recover(directory),
        Err(error) => Recovered { verdict: error.into(), ..Recovered::default() },
    }
}

fn read(directory: &Path, into: &mut Recovered) -> wal::Result<(Wal<Directory>, Verdict)> {
    let mut replay: Replay<Directory> = open_patiently(|| Ok(Directory::new(directory)))?;
    into.start = Some(start_of(&replay)?);
    let mut group_ends = Vec::new();
    while let Some(record) = replay.next()? {
        let index = number_of(record.payload());
        into.records.push((index, checksum(record.payload())));
        if record.ends_batch() {
            group_ends.push(index);
        }
    }
    into.group_ends = Some(group_ends);
    let verdict = match replay.report().verdict {
        wal::Verdict::TornTail => Verdict::Torn,
        _ => Verdict::Clean,
    };
    let (wal, _) = replay.finish()?;
    Ok((wal, verdict))
}

/// The number that a record's bytes begin with; one that no record has, if they are too few.
pub(super) fn number_of(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(u64::MAX, |number| u64::from_le_bytes(*number))
}

/// The first record that was kept, as the last checkpoint says.
fn start_of(replay: &Replay<Directory>) -> wal::Result<u64> {
    match replay.checkpoint() {
        None => Ok(0),
        Some(checkpoint) => checkpoint
            .state
            .first_chunk()
            .map(|number| u64::from_le_bytes(*number))
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a checkpoint with another state")),
    }
}

impl Recovered {
    /// Reads what a program printed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut recovered = Self::default();
        let mut verdict = None;
        for line in text.lines() {
            let wrong = || format!("not a line of the protocol: {line:?}");
            let (word, rest) = line.split_once(' ').ok_or_else(wrong)?;
            match word {
                "start" => recovered.start = Some(rest.parse().map_err(|_| wrong())?),
                "record" => {
                    let (index, sum) = rest.split_once(' ').ok_or_else(wrong)?;
                    let index = index.parse().map_err(|_| wrong())?;
                    let sum = u64::from_str_radix(sum, 16).map_err(|_| wrong())?;
                    recovered.records.push((index, sum));
                }
                "verdict" => verdict = Some(parse_verdict(rest).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        recovered.verdict = verdict.ok_or("no verdict")?;
        Ok(recovered)
    }
}

fn parse_verdict(text: &str) -> Option<Verdict> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "clean" => Some(Verdict::Clean),
        "torn" => Some(Verdict::Torn),
        "corrupt" => Some(Verdict::Corrupt(rest.to_owned())),
        "failed" => Some(Verdict::Failed(rest.to_owned())),
        _ => None,
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(start) = self.start {
            writeln!(f, "start {start}")?;
        }
        for (index, sum) in &self.records {
            writeln!(f, "record {index} {sum:016x}")?;
        }
        writeln!(f, "verdict {}", self.verdict)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |text: &str| text.replace('\n', " ");
        match self {
            Self::Clean => f.write_str("clean"),
            Self::Torn => f.write_str("torn"),
            Self::Corrupt(text) => write!(f, "corrupt {}", line(text)),
            Self::Failed(text) => write!(f, "failed {}", line(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        for verdict in [Verdict::Clean, Verdict::Torn, Verdict::Corrupt("bad frame".to_owned())] {
            let recovered = Recovered {
                start: Some(3),
                records: vec![(3, 0xAB), (4, 1)],
                group_ends: None,
                verdict,
            };
            assert_eq!(Recovered::parse(&recovered.to_string()), Ok(recovered));
        }
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(Recovered::parse("record 0 1\n").is_err(), "no verdict");
        assert!(Recovered::parse("record x 1\nverdict clean\n").is_err());
        assert!(Recovered::parse("verdict perhaps\n").is_err());
    }

    #[test]
    fn a_log_is_recovered_twice_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert_eq!(recover(&log).records, []);
        let more = append_more(&log, 5, 0, 3);
        assert_eq!(more.verdict, Verdict::Clean);
        assert_eq!(more.records.last(), Some(&(2, checksum(&payload(5, 2)))));
        assert_eq!(recover(&log), more);
    }
}
