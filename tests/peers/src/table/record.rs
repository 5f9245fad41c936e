//! The recorder of `wal-harness` below a peer.

use super::{Arguments, number};
use crate::{peer, skip};
use serde_json::{Value, json};
use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const HARNESS: &str = "wal-harness";

/// What came of it.
#[derive(Debug)]
pub(super) enum Recorded {
    Tried(Value, Vec<String>),
    /// The harness could not make a recording, and says why.
    Failed(String),
    /// It could not be asked.
    Skipped(String),
}

pub(super) fn record(peer: &peer::Entry, arguments: &Arguments, seed: u64) -> io::Result<Recorded> {
    let harness = arguments.harness.clone().unwrap_or_else(find);
    let mut command = Command::new(&harness);
    command.args(["record", "--require", "--json", "--fs", "ext4", "--again", "0"]);
    command.args(["--states", &arguments.states.to_string()]);
    command.args(["--records", &arguments.records.to_string(), "--seed", &seed.to_string()]);
    if let Some(keep) = &arguments.keep {
        command.arg("--keep").arg(keep);
    }
    if peer.name == "wal" {
        // Its own subject moves more blocks: batches, threads, checkpoints.
        command.args(["--method", "dsync"]);
    } else {
        let program = env::current_exe()?;
        command.arg("--subject").arg(format!("{} {}", program.display(), peer.name));
    }
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            let text = format!("{}: {error}", harness.display());
            skip(&text);
            return Ok(Recorded::Skipped(text));
        }
    };
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(2) {
        skip(complaints.trim());
        return Ok(Recorded::Skipped(complaints.trim().to_owned()));
    }
    match serde_json::from_slice(&output.stdout) {
        Ok(value) => {
            let told = |line: &&str| line.contains(", state ");
            let told = complaints.lines().filter(told).map(str::to_owned).collect();
            Ok(Recorded::Tried(value, told))
        }
        Err(_) => Ok(Recorded::Failed(complaints.trim().replace('\n', "; "))),
    }
}

/// Beside this program, where a shared target directory puts it, in its own package, or wherever the
/// path has it.
fn find() -> PathBuf {
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.join(HARNESS)));
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../harness/target");
    let built = ["debug", "release"].map(|profile| target.join(profile).join(HARNESS));
    let mut candidates = beside.into_iter().chain(built);
    candidates.find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(HARNESS))
}

impl Recorded {
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Tried(value, told) => json!({ "summary": value, "bad": told }),
            Self::Failed(text) => json!({ "not_recorded": text }),
            Self::Skipped(text) => json!({ "skipped": text }),
        }
    }

    /// What was told of single bad states.
    pub(super) fn told(&self) -> &[String] {
        if let Self::Tried(_, told) = self { told } else { &[] }
    }

    pub(super) const HEADINGS: &'static str = "states | of them torn | lost | phantom | says corrupt \
                                               | cannot be opened | second recovery differs";
}

/// The cells of the table.
impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tried(value, _) => {
                let names = ["states", "torn", "lost", "phantom", "corrupt_verdicts", "failed"];
                names.iter().try_for_each(|name| write!(f, "{} | ", number(value, name)))?;
                write!(f, "{}", number(value, "second_recovery_differs"))
            }
            Self::Failed(text) => write!(f, "not recorded: {text} | | | | | |"),
            Self::Skipped(text) => write!(f, "skipped: {text} | | | | | |"),
        }
    }
}
