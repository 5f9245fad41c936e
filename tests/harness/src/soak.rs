/*!
`wal-harness soak`: every layer in turn, with fresh seeds, for hours.

A round goes through all layers that this machine can run; what is missing is said once, loudly. The
journal gets a line of JSON for each run: what was run, with which seed, what it covered, how it ended. The
first failure ends the soak, with the command that shows it again.
*/

use crate::{complain, machine, skip};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant, SystemTime},
};

/// Every layer in turn, for hours
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long, in hours; a round that was begun is finished
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    hours: f64,
    /// The first round's seed; each round takes the next
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where a line is added for each run
    #[arg(long, value_name = "FILE", default_value = "soak.jsonl")]
    journal: PathBuf,
    /// Simulated states a round
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    simulated: u64,
    /// Block-level states a round and file system
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    recorded: u64,
    /// Seconds a round for each fuzz target, and for killed processes
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
}

/// One run of a layer.
struct Run {
    layer: String,
    command: Command,
    /// Which numbers of the answer count what was covered.
    counts: &'static [&'static str],
}

const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// What a recording on this file system needs and this machine has not.
fn missing_for(name: &str) -> Option<String> {
    let maker = format!("mkfs.{name}");
    machine::missing(&["losetup", "mount", &maker])
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut journal = OpenOptions::new().create(true).append(true).open(&arguments.journal)?;
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    });
    let has_fuzzer = prepare(&root)?;
    let start = Instant::now();
    let end = Duration::from_secs_f64(arguments.hours * 3600.0);
    let mut covered = BTreeMap::<String, u64>::new();
    let mut round = 0;
    while round == 0 || start.elapsed() < end {
        for run in runs(&root, arguments, seed.wrapping_add(round), has_fuzzer)? {
            let text = format!("{:?}", run.command);
            let layer = run.layer.clone();
            let (answer, seconds, failure) = one(run, &mut covered)?;
            let line = json!({
                "round": round, "layer": layer, "seed": seed.wrapping_add(round), "command": text,
                "seconds": seconds, "answer": answer, "ok": failure.is_none(),
            });
            writeln!(journal, "{line}")?;
            journal.sync_data()?;
            if let Some(failure) = failure {
                complain(format!("{layer} failed in round {round}: {text}\n{failure}"));
                summary(&mut journal, &covered, start.elapsed(), round + 1, false)?;
                return Ok(ExitCode::FAILURE);
            }
        }
        round += 1;
    }
    summary(&mut journal, &covered, start.elapsed(), round, true)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds all programs first; answers whether there is a fuzzer.
fn prepare(root: &Path) -> io::Result<bool> {
    let cargo = |arguments: &[&str]| -> io::Result<bool> {
        Ok(Command::new("cargo").current_dir(root).args(arguments).status()?.success())
    };
    let simulated = ["build", "--release", "--locked", "-p", "wal-sim", "--example", "explore"];
    let killed = ["build", "--release", "--locked", "-p", "wal-cli"];
    if !cargo(&simulated)? || !cargo(&killed)? {
        return Err(io::Error::other("the programs cannot be built"));
    }
    let fuzzer = Command::new("cargo").args(["fuzz", "--version"]).output();
    let has_fuzzer = fuzzer.is_ok_and(|output| output.status.success());
    if !has_fuzzer {
        skip("soak: fuzzing: there is no cargo-fuzz (cargo install cargo-fuzz --locked)");
    }
    for name in FILE_SYSTEMS {
        if let Some(missing) = missing_for(name) {
            skip(format!("soak: {name}: {missing}"));
        }
    }
    Ok(has_fuzzer)
}

fn runs(root: &Path, arguments: &Arguments, seed: u64, has_fuzzer: bool) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let seed = seed.to_string();
    let mut simulated = Command::new("cargo");
    simulated.current_dir(root).args(["run", "--quiet", "--release", "--locked", "-p", "wal-sim"]);
    simulated.args(["--example", "explore", "--", "--threads", "2", "--json", "--seed", &seed]);
    simulated.args(["--states", &arguments.simulated.to_string()]);
    runs.push(Run { layer: "simulated".to_owned(), command: simulated, counts: &["states"] });
    for name in FILE_SYSTEMS {
        if missing_for(name).is_none() {
            let mut recorded = Command::new(std::env::current_exe()?);
            recorded.args(["record", "--json", "--fs", name, "--seed", &seed, "--states"]);
            recorded.arg(arguments.recorded.to_string());
            let counts = &["states", "again_states"];
            runs.push(Run { layer: format!("recorded on {name}"), command: recorded, counts });
        }
    }
    let mut killed = Command::new("cargo");
    killed.current_dir(root).args(["run", "--quiet", "--release", "--locked", "-p", "wal-cli"]);
    killed.args(["--", "torture", "--json", "--seconds", &arguments.seconds.to_string()]);
    runs.push(Run { layer: "killed".to_owned(), command: killed, counts: &["cycles", "acked"] });
    for target in ["decode", "recover"].into_iter().filter(|_| has_fuzzer) {
        let mut fuzzed = Command::new("cargo");
        fuzzed.current_dir(root.join("fuzz")).env("RUSTC_BOOTSTRAP", "1");
        fuzzed.args(["fuzz", "run", "-s", "address", target, "--", "-detect_leaks=0"]);
        fuzzed.args([format!("-seed={seed}"), format!("-max_total_time={}", arguments.seconds)]);
        runs.push(Run { layer: format!("fuzzed {target}"), command: fuzzed, counts: &[] });
    }
    Ok(runs)
}

/// Runs one; answers what it said, how long it took, and its last words if it failed.
fn one(
    mut run: Run,
    covered: &mut BTreeMap<String, u64>,
) -> io::Result<(Value, f64, Option<String>)> {
    let start = Instant::now();
    let output = run.command.stdin(Stdio::null()).output()?;
    let seconds = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    // One JSON object a line, or none; of several, what each covered counts.
    let answers: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for answer in &answers {
        for count in run.counts {
            let number = answer[count].as_u64().unwrap_or_default();
            *covered.entry(format!("{}: {count}", run.layer)).or_default() += number;
        }
    }
    *covered.entry(format!("{}: seconds", run.layer)).or_default() += start.elapsed().as_secs();
    let is_covered = run.counts.is_empty() || !answers.is_empty();
    let failure = (!output.status.success() || !is_covered).then(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = text.lines().chain(errors.lines()).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    });
    Ok((Value::Array(answers), seconds, failure))
}

fn summary(
    journal: &mut File,
    covered: &BTreeMap<String, u64>,
    time: Duration,
    rounds: u64,
    is_good: bool,
) -> io::Result<()> {
    let line = json!({
        "summary": covered, "rounds": rounds, "seconds": time.as_secs(), "ok": is_good,
    });
    writeln!(journal, "{line}")?;
    writeln!(io::stdout(), "{line}")?;
    journal.sync_data()
}
