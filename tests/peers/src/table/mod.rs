/*!
`wal-peers table`: every peer through the same three tests.

[`mod@record`] recovers every state in which a power cut could have left an ext4 below the peer; [`flip`]
changes one bit of a record that was acknowledged; [`sync`] has one system call fail that makes records
durable. What comes out is counts, and what the peer answered.
*/

mod flip;
mod outcome;
mod record;
mod sync;

use crate::{
    peer::{self, Files},
    random,
};
use clap::ValueEnum;
use outcome::Row;
use serde_json::Value;
use std::{
    env, fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The most crash states to try of each peer
    #[arg(long, value_name = "N", default_value_t = 400)]
    states: usize,
    /// How many records are appended under the recorder
    #[arg(long, value_name = "N", default_value_t = 700)]
    records: u64,
    /// How many records are hit by a flipped bit, one after another
    #[arg(long, value_name = "N", default_value_t = 20)]
    flips: usize,
    /// Repeat the choices of another run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Answer with a JSON object for each peer
    #[arg(long)]
    json: bool,
    /// Only these
    #[arg(long, value_name = "PEER,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these tests
    #[arg(
        long,
        value_name = "TEST,...",
        value_delimiter = ',',
        default_value = "record,flip,sync"
    )]
    tests: Vec<Test>,
    /// The `wal-harness` to record with [default: the one that was built beside this program, in its own
    /// package, or in the path]
    #[arg(long, value_name = "PATH")]
    harness: Option<PathBuf>,
    /// Keep the recordings of bad states here
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Test {
    /// Crash states
    Record,
    /// A flipped bit
    Flip,
    /// A failed sync
    Sync,
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let peers = peer::all();
    if let Some(name) =
        arguments.only.iter().find(|name| !peers.iter().any(|peer| peer.name == **name))
    {
        return Err(io::Error::other(format!("no such peer here: {name:?}")));
    }
    let seed = arguments.seed.unwrap_or_else(random::unpredictable);
    let mut rows = Vec::new();
    for peer in peers {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|name| name == peer.name) {
            continue;
        }
        let wants = |test| arguments.tests.contains(&test);
        progress(peer.name);
        let mut row = Row::new(&peer);
        if wants(Test::Record) {
            row.recorded = Some(record::record(&peer, arguments, seed)?);
        }
        if wants(Test::Flip) {
            row.flipped = flip::flip_all(&peer, arguments.flips, seed)?;
        }
        if wants(Test::Sync) {
            row.failed_syncs = sync::fail_all(&peer, seed)?;
        }
        if arguments.json {
            say(row.json(seed))?;
        }
        rows.push(row);
    }
    if !arguments.json {
        say(outcome::text(&rows, seed, &setting()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// When, on what, and by which command.
fn setting() -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = said("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let words: Vec<_> = env::args().skip(1).collect();
    format!("{date}, Linux {}, `wal-peers {}`", kernel.trim(), words.join(" "))
}

fn say(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn progress(text: &str) {
    if io::stderr().is_terminal() {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// This program as a subject.
fn subject(peer: &peer::Entry) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(peer.name);
    Ok(command)
}

/// What a subject found.
#[derive(Debug, Default)]
struct Found {
    /// Number and checksum of each record.
    records: Vec<(u64, u64)>,
    /// Its last line, without the word `verdict`; how it ended, if it has none.
    verdict: String,
    has_verdict: bool,
}

impl Found {
    /// Recovers the log in `dir`.
    fn of(peer: &peer::Entry, dir: &Path, files: Files) -> io::Result<Self> {
        let mut command = subject(peer)?;
        command.arg("recover").arg(dir).args(["--files", name(files).as_str()]);
        let output = command.output()?;
        let mut found = Self::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let words: Vec<_> = line.splitn(3, ' ').collect();
            match words[..] {
                ["record", number, sum] => {
                    let sum = u64::from_str_radix(sum, 16).map_err(io::Error::other)?;
                    found.records.push((number.parse().map_err(io::Error::other)?, sum));
                }
                ["verdict", ..] => {
                    found.verdict = line.trim_start_matches("verdict ").to_owned();
                    found.has_verdict = true;
                }
                _ => {}
            }
        }
        if !found.has_verdict {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let complaint = complaint.lines().next().unwrap_or_default().to_owned();
            found.verdict = format!("ended with {}: {complaint}", output.status);
        }
        Ok(found)
    }

    fn is_refused(&self) -> bool {
        !matches!(self.verdict.as_str(), "clean" | "torn")
    }
}

/// As it is on a command line.
fn name(files: Files) -> String {
    format!("{files:?}").to_lowercase()
}

/// A number as JSON has it.
fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}
