/*!
One flipped bit in a record that was acknowledged, with others acknowledged behind it.

A log is written in a plain directory and closed, or its program ends at once as if it were killed; then
one bit in the middle of one record's bytes is changed in a copy of the files, and the copy is
recovered. Where the files hold the bytes several times (a log and the tables made from it, pages left
over), each copy of them is tried until one makes a difference.
*/

use super::{Found, name, subject};
use crate::{
    payload::{checksum, payload},
    peer::{self, Files},
    random::{Random, mix},
};
use rustix::fs::SeekFrom;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// How many records are appended, each acknowledged.
const RECORDS: u64 = 300;

/// Records of such a length have a middle, and seldom lie on more than one page.
const LENGTHS: std::ops::Range<usize> = 64..2000;

/// So many bytes tell a record from all others.
const NEEDLE_BYTES: usize = 16;

/// What came of all positions.
#[derive(Debug, Default)]
pub(super) struct Flipped {
    /// How the program ended that wrote the log, and how large it made its files.
    pub(super) written: String,
    /// What is wrong without any flipped bit, if anything.
    pub(super) unharmed: Option<String>,
    pub(super) positions: usize,
    pub(super) outcomes: BTreeMap<Outcome, usize>,
    /// How many acknowledged records were missing, for each position where the log opened all the same.
    pub(super) missing: Vec<usize>,
    /// What was answered where it did not open.
    pub(super) answers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// It did not open, or reading ended with an error.
    Refused,
    /// It opened, with acknowledged records missing, and says that something was cut.
    Reported,
    /// It opened, with acknowledged records missing, and says nothing.
    Swallowed,
    /// It opened, and a record has other bytes.
    OtherBytes,
    /// The program that opened it ended by itself.
    Died,
    /// All records are there.
    NoEffect,
    /// The bytes of the record are nowhere in the files.
    NotFound,
}

impl Outcome {
    pub(super) const ALL: [Self; 7] = [
        Self::Refused,
        Self::Reported,
        Self::Swallowed,
        Self::OtherBytes,
        Self::Died,
        Self::NoEffect,
        Self::NotFound,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reported => "opened, cut reported",
            Self::Swallowed => "opened, cut not reported",
            Self::OtherBytes => "opened, other bytes",
            Self::Died => "program ended",
            Self::NoEffect => "no effect",
            Self::NotFound => "bytes not found",
        }
    }
}

pub(super) fn flip_all(
    peer: &peer::Entry,
    positions: usize,
    seed: u64,
) -> io::Result<Vec<Flipped>> {
    let mut flipped = Vec::new();
    for files in peer.files {
        for end in ["close", "exit"] {
            flipped.push(flip(peer, end, *files, positions, seed)?);
        }
    }
    Ok(flipped)
}

fn flip(
    peer: &peer::Entry,
    end: &str,
    files: Files,
    positions: usize,
    seed: u64,
) -> io::Result<Flipped> {
    let place = tempfile::tempdir()?;
    let (log, copy) = (place.path().join("log"), place.path().join("copy"));
    let mut command = subject(peer)?;
    command.arg("write").arg(&log).arg(place.path().join("marks"));
    command.args(["--records", &RECORDS.to_string(), "--seed", &seed.to_string()]);
    let output = command.args(["--end", end, "--files", &name(files)]).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{}: {output:?}", peer.name)));
    }
    let written = match files {
        Files::Default => end.to_owned(),
        Files::Small => format!("{end}, small files"),
    };
    let mut flipped = Flipped { written, positions, ..Flipped::default() };
    copy_log(&log, &copy)?;
    let found = Found::of(peer, &copy, files)?;
    if judge(&found, seed) != (Outcome::NoEffect, 0) {
        let count = found.records.len();
        flipped.unharmed = Some(format!("{}, {count} of {RECORDS} records", found.verdict));
    }
    let chosen = choose(positions, seed);
    let needles: Vec<_> = chosen.iter().map(|index| middle(&payload(seed, *index))).collect();
    for places in occurrences(&log, &needles)? {
        let mut worst = (Outcome::NotFound, 0);
        for (file, offset) in places {
            copy_log(&log, &copy)?;
            flip_bit(&copy.join(file), offset + u64::try_from(NEEDLE_BYTES / 2).unwrap_or(0))?;
            let found = Found::of(peer, &copy, files)?;
            worst = judge(&found, seed);
            let answer = found.verdict.replace(&copy.display().to_string(), "DIR");
            if matches!(worst.0, Outcome::Refused | Outcome::Died) {
                flipped.answers.push(answer);
            }
            if worst.0 != Outcome::NoEffect {
                break;
            }
        }
        *flipped.outcomes.entry(worst.0).or_default() += 1;
        if matches!(worst.0, Outcome::Reported | Outcome::Swallowed | Outcome::OtherBytes) {
            flipped.missing.push(worst.1);
        }
    }
    Ok(flipped)
}

/// The records that are hit: neither among the first nor among the last.
fn choose(count: usize, seed: u64) -> Vec<u64> {
    let mut random = Random::new(mix(&[seed, 2]));
    let mut left: Vec<_> = (RECORDS / 10..RECORDS * 9 / 10)
        .filter(|index| LENGTHS.contains(&payload(seed, *index).len()))
        .collect();
    let count = count.min(left.len());
    let mut chosen: Vec<_> =
        (0..count).map(|_| left.swap_remove(random.index(left.len()))).collect();
    chosen.sort_unstable();
    chosen
}

fn middle(record: &[u8]) -> [u8; NEEDLE_BYTES] {
    let start = record.len() / 2 - NEEDLE_BYTES / 2;
    let mut needle = [0; NEEDLE_BYTES];
    needle.copy_from_slice(&record[start..start + NEEDLE_BYTES]);
    needle
}

/// What became of the log, and how many of its records are missing.
fn judge(found: &Found, seed: u64) -> (Outcome, usize) {
    let is_right = |(number, sum): &&(u64, u64)| {
        *number < RECORDS && checksum(&payload(seed, *number)) == *sum
    };
    let right = found.records.iter().filter(is_right).count();
    let missing = usize::try_from(RECORDS).unwrap_or(0).saturating_sub(right);
    let outcome = if !found.has_verdict {
        Outcome::Died
    } else if found.is_refused() {
        Outcome::Refused
    } else if right < found.records.len() {
        Outcome::OtherBytes
    } else if missing == 0 {
        Outcome::NoEffect
    } else if found.verdict == "torn" {
        Outcome::Reported
    } else {
        Outcome::Swallowed
    };
    (outcome, missing)
}

/// Where each of `needles` stands in the files below `dir`: their paths in it, and offsets.
fn occurrences(dir: &Path, needles: &[[u8; NEEDLE_BYTES]]) -> io::Result<Vec<Vec<(PathBuf, u64)>>> {
    let mut places = vec![Vec::new(); needles.len()];
    for path in files(dir)? {
        let name = path.strip_prefix(dir).map_err(io::Error::other)?;
        for (start, bytes) in data(&path)? {
            for (offset, window) in (start..).zip(bytes.windows(NEEDLE_BYTES)) {
                if let Some(which) = needles.iter().position(|needle| needle == window) {
                    places[which].push((name.to_path_buf(), offset));
                }
            }
        }
    }
    Ok(places)
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What is in a file but for its holes, which can be a gigabyte.
fn data(path: &Path) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let file = File::open(path)?;
    let mut extents = Vec::new();
    let mut end = 0;
    // An error says that there is no data from here on.
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(end)) {
        end = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, start)?;
        extents.push((start, bytes));
    }
    Ok(extents)
}

fn copy_log(log: &Path, copy: &Path) -> io::Result<()> {
    if copy.exists() {
        fs::remove_dir_all(copy)?;
    }
    // It leaves holes as they are.
    let output = Command::new("cp").arg("-a").arg(log).arg(copy).output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(format!("{output:?}"))) }
}

fn flip_bit(path: &Path, offset: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 0x10], offset)
}

impl Flipped {
    pub(super) fn json(&self) -> Value {
        let Self { written, unharmed, positions, outcomes, missing, answers } = self;
        let outcomes: BTreeMap<_, _> =
            outcomes.iter().map(|(outcome, count)| (outcome.name(), count)).collect();
        json!({
            "written": written,
            "records": RECORDS,
            "positions": positions,
            "without_a_flip": unharmed,
            "outcomes": outcomes,
            "missing": missing,
            "answers": answers,
        })
    }

    /// The cells of the table.
    pub(super) fn cells(&self) -> String {
        let mut cells: Vec<_> = Outcome::ALL
            .iter()
            .map(|outcome| self.outcomes.get(outcome).copied().unwrap_or(0).to_string())
            .collect();
        cells.push(match (self.missing.iter().min(), self.missing.iter().max()) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            _ => String::new(),
        });
        cells.join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 3;

    fn found(count: u64, verdict: &str) -> Found {
        Found {
            records: (0..count).map(|index| (index, checksum(&payload(SEED, index)))).collect(),
            verdict: verdict.to_owned(),
            has_verdict: true,
        }
    }

    #[test]
    fn an_outcome_is_what_the_log_answered() {
        let missing = usize::try_from(RECORDS).unwrap() - 7;
        let judged = |found: &Found| judge(found, SEED);
        assert_eq!(judged(&found(RECORDS, "clean")), (Outcome::NoEffect, 0));
        assert_eq!(judged(&found(7, "clean")), (Outcome::Swallowed, missing));
        assert_eq!(judged(&found(7, "torn")), (Outcome::Reported, missing));
        assert_eq!(judged(&found(7, "corrupt here")).0, Outcome::Refused);
        assert_eq!(judged(&found(7, "failed somehow")).0, Outcome::Refused);
        let mut other = found(RECORDS, "clean");
        other.records[9].1 ^= 1;
        assert_eq!(judged(&other), (Outcome::OtherBytes, 1));
        assert_eq!(judged(&Found::default()).0, Outcome::Died);
    }

    #[test]
    fn bytes_are_found_wherever_they_stand_and_one_bit_changes() {
        let dir = tempfile::tempdir().unwrap();
        let record = payload(SEED, choose(1, SEED)[0]);
        let needle = middle(&record);
        fs::create_dir(dir.path().join("below")).unwrap();
        let sparse = File::create(dir.path().join("below/sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        sparse.write_all_at(&record, 700 << 20).unwrap();
        fs::write(dir.path().join("plain"), &record).unwrap();
        let start = u64::try_from(record.len() / 2 - NEEDLE_BYTES / 2).unwrap();
        let expected = vec![("below/sparse".into(), (700 << 20) + start), ("plain".into(), start)];
        assert_eq!(occurrences(dir.path(), &[needle]).unwrap(), [expected]);
        flip_bit(&dir.path().join("plain"), start).unwrap();
        let flipped = fs::read(dir.path().join("plain")).unwrap();
        let changed = flipped.iter().zip(&record).map(|(new, old)| (new ^ old).count_ones());
        assert_eq!(changed.sum::<u32>(), 1);
    }
}
