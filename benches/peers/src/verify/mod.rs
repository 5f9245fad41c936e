/*!
Whether a contestant syncs before it acknowledges, as the kernel sees it.

One writer appends, each record after the one before was acknowledged, in a process of its own. `strace -c
-f` counts the calls that sync, in two runs, without records and with [`RECORDS`], so that what opening and
closing take is not counted. A third run is traced call by call: whoever acknowledges a record without a
call that synced since the acknowledgement before is not ranked ([`order`]). Writes to a file that was
opened with `O_DSYNC` are not seen: none of the contestants relies on them alone.
*/

mod order;

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use wal_bench::figures::float;

use crate::{
    contestants::{Entry, Keep},
    place::Place,
};

/// The calls that make something durable, whoever makes them.
const SYNC_CALLS: &str = "fsync,fdatasync,msync,sync_file_range,pwritev2,syncfs,sync";

/// Only asks the device for its writes, and waits for them: a volatile cache is not flushed.
const NO_FLUSH: &str = "sync_file_range";

/// Records of the second run.
const RECORDS: u64 = 256;

/// The length of each.
const RECORD: [u8; 128] = [0xA5; 128];

/// What was seen of one contestant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Synced {
    pub(crate) name: &'static str,
    /// Calls for each acknowledged record, by name, those that flush the device.
    pub(crate) calls: BTreeMap<String, f64>,
    /// Records whose acknowledgement was seen in the trace.
    pub(crate) traced: u64,
    /// How many of these nothing was synced for.
    pub(crate) early: u64,
    /// Why nothing was seen.
    pub(crate) failure: Option<String>,
}

impl Synced {
    pub(crate) fn per_record(&self) -> f64 {
        self.calls.values().sum()
    }

    /// Why it is not ranked, if it is not.
    pub(crate) fn unranked(&self) -> Option<String> {
        match (&self.failure, self.traced) {
            (Some(failure), _) => Some(failure.clone()),
            (None, 0) => Some("no acknowledgement was seen".to_owned()),
            (None, _) if self.early == 0 => None,
            (None, traced) => {
                Some(format!("{} of {traced} acknowledged before a sync", self.early))
            }
        }
    }
}

/// Looks at each of `entries`, or says loudly that nobody can.
pub(crate) fn verify(place: &Place, entries: &[Entry]) -> Result<Vec<Synced>, Box<dyn Error>> {
    let found = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no strace here: whether a contestant syncs is not verified");
        return Ok(Vec::new());
    }
    let look = |entry: &Entry| {
        look(place, entry).unwrap_or_else(|error| Synced {
            name: entry.name,
            calls: BTreeMap::new(),
            traced: 0,
            early: 0,
            failure: Some(error.to_string()),
        })
    };
    Ok(entries.iter().map(look).collect())
}

fn look(place: &Place, entry: &Entry) -> io::Result<Synced> {
    let count = |records| strace(place, entry, &["-c"], SYNC_CALLS, records);
    let without = parse(&count(0)?);
    let mut calls = BTreeMap::new();
    for (name, count) in parse(&count(RECORDS)?) {
        let more = count.saturating_sub(without.get(&name).copied().unwrap_or(0));
        if more > 0 && name != NO_FLUSH {
            calls.insert(name, float(more) / float(RECORDS));
        }
    }
    let trace = strace(place, entry, &[], &format!("{SYNC_CALLS},write"), RECORDS)?;
    let (traced, early) = order::acknowledged(&trace);
    Ok(Synced { name: entry.name, calls, traced, early, failure: None })
}

/// What strace writes of a process that appends `records`.
fn strace(
    place: &Place,
    entry: &Entry,
    options: &[&str],
    calls: &str,
    records: u64,
) -> io::Result<String> {
    let dir = place.fresh(entry.name)?;
    let path = dir.with_extension("strace");
    let output = Command::new("strace")
        .arg("-f")
        .args(options)
        .arg("-o")
        .arg(&path)
        .arg(format!("--trace={calls}"))
        .arg(env::current_exe()?)
        .args(["--only", entry.name, "--records", &records.to_string(), "--append-in"])
        .arg(&dir)
        .stdout(Stdio::null())
        .output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().unwrap_or_default();
        return Err(io::Error::other(format!("under strace: {} {last}", output.status)));
    }
    let text = fs::read_to_string(&path)?;
    fs::remove_dir_all(dir)?;
    fs::remove_file(path)?;
    Ok(text)
}

/// The table of `strace -c`: the share of time, seconds, microseconds a call, calls, errors where there
/// were any, and the name.
fn parse(summary: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let name = words.last().filter(|name| SYNC_CALLS.split(',').any(|call| call == **name))?;
        Some(((*name).to_owned(), words.get(3)?.parse().ok()?))
    };
    summary.lines().filter_map(line).collect()
}

/// What runs under strace.
pub(crate) fn append(entry: &Entry, dir: &Path, records: u64) -> Result<(), Box<dyn Error>> {
    let log = (entry.open)(dir, Keep::All)?;
    let mut out = io::stdout();
    let mut mark = || out.write_all(order::MARK).and_then(|()| out.flush());
    mark()?;
    for _ in 0..records {
        log.append_durable(&RECORD)?;
        mark()?;
    }
    log.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_from_the_summary() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.00    0.123456          48       256           fdatasync
  1.00    0.001234         617         2         1 fsync
------ ----------- ----------- --------- --------- ----------------
100.00    0.124690          48       258         1 total
";
        let calls = parse(summary);
        assert_eq!(calls.get("fdatasync"), Some(&256));
        assert_eq!(calls.get("fsync"), Some(&2));
        assert_eq!(calls.len(), 2);
    }

    #[test]
    fn one_early_acknowledgement_is_one_too_many() {
        let synced = |traced, early| {
            let calls = BTreeMap::from([("fdatasync".to_owned(), 1.0)]);
            Synced { name: "n", calls, traced, early, failure: None }
        };
        assert_eq!(synced(256, 0).unranked(), None);
        assert!(synced(256, 1).unranked().is_some());
        assert!(synced(0, 0).unranked().is_some());
        let failed = Synced { failure: Some("why".to_owned()), ..synced(256, 0) };
        assert_eq!(failed.unranked().as_deref(), Some("why"));
    }
}
