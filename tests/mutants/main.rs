//! Tests the tests: every planted bug must be found by the layer that is named for it.
//!
//! ```sh
//! cargo run -p wal-tests --bin mutants             # each bug against the test that is named for it
//! cargo run -p wal-tests --bin mutants -- --full   # and against every layer as a whole
//! cargo run -p wal-tests --bin mutants -- --only acknowledged-before-durable
//! ```
//!
//! One build with `--cfg wal_mutants` holds them all, in a target directory of its own; the environment
//! variable `WAL_MUTANT` chooses one. A test that hangs past its time finds the bug, too.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command")]

mod table;

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};
use table::{Layer, MUTANTS, Mutant};

/// A test that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(45);
/// A whole layer may take so long.
const PATIENCE_LAYER: Duration = Duration::from_secs(900);
/// Tests that look at the machine or the source and not at the engine.
const ASIDE: [&str; 4] = ["shape::", "cli::torture", "golden::", "places::"];

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Hung,
    /// There was no such test.
    Absent,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let is_full = arguments.iter().any(|argument| argument == "--full");
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let chosen: Vec<&Mutant> =
        MUTANTS.iter().filter(|mutant| only.is_none_or(|only| mutant.name == only)).collect();
    if chosen.is_empty() {
        eprintln!("there is no such planted bug");
        return ExitCode::from(64);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Err(complaint) = check_names(&root) {
        eprintln!("{complaint}");
        return ExitCode::FAILURE;
    }
    let Some(programs) = build(&root) else { return ExitCode::FAILURE };
    if !baseline(&root, &programs, &chosen) {
        return ExitCode::FAILURE;
    }
    if judge(&root, &programs, &chosen, is_full) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The planted bugs of the source are those of the table.
fn check_names(root: &Path) -> Result<(), String> {
    let mut planted = BTreeSet::new();
    let mut folders = vec![root.join("crates/wal/src")];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{folder:?}: {error}"))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "planted.rs") {
                let text =
                    fs::read_to_string(&path).map_err(|error| format!("{path:?}: {error}"))?;
                let names = text.split("planted!(\"").skip(1);
                planted.extend(names.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
            }
        }
    }
    let listed: BTreeSet<String> = MUTANTS.iter().map(|mutant| mutant.name.to_owned()).collect();
    let odd: Vec<_> = planted.symmetric_difference(&listed).collect();
    if odd.is_empty() && listed.len() == MUTANTS.len() {
        return Ok(());
    }
    Err(format!("planted and not in the table, in it and not planted, or in it twice: {odd:?}"))
}

/// Builds the tests with the planted bugs in them; answers the programs by layer.
fn build(root: &Path) -> Option<BTreeMap<Layer, PathBuf>> {
    let flags = env::var("RUSTFLAGS").unwrap_or_default();
    let packages = Layer::ALL.map(|layer| layer.target().0);
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["test", "--no-run", "--locked", "--message-format", "json-render-diagnostics"])
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .args(["--target-dir", "target/mutants"])
        .env("RUSTFLAGS", format!("{flags} --cfg wal_mutants"))
        .env_remove("CARGO_TARGET_DIR")
        .stderr(Stdio::inherit())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    let mut programs = BTreeMap::new();
    for message in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let (Some(program), Some(name)) =
            (message["executable"].as_str(), message["target"]["name"].as_str())
        else {
            continue;
        };
        let id = message["package_id"].as_str().unwrap_or_default();
        for layer in Layer::ALL {
            let (package, target) = layer.target();
            let is_package =
                id.contains(&format!("/{package}#")) || id.contains(&format!("/{package} "));
            let is_home = package == "wal-tests" && id.contains("/tests#");
            let is_lib = message["target"]["kind"].to_string().contains("lib");
            if (is_package || is_home) && name == target && (is_lib || layer != Layer::Unit) {
                programs.insert(layer, PathBuf::from(program));
            }
        }
    }
    let missing: Vec<_> =
        Layer::ALL.into_iter().filter(|layer| !programs.contains_key(layer)).collect();
    if missing.is_empty() {
        return Some(programs);
    }
    eprintln!("no test program for {missing:?}");
    None
}

/// Every named test passes without a bug: else it would find anything.
fn baseline(root: &Path, programs: &BTreeMap<Layer, PathBuf>, chosen: &[&Mutant]) -> bool {
    let tests: BTreeSet<_> = chosen.iter().map(|mutant| (mutant.layer, mutant.test)).collect();
    let mut is_good = true;
    for (layer, test) in tests {
        let outcome = run(root, programs, layer, Some(test), None);
        if outcome != Outcome::Passed {
            eprintln!("without a bug, {test}: {outcome:?}");
            is_good = false;
        }
    }
    is_good
}

fn judge(
    root: &Path,
    programs: &BTreeMap<Layer, PathBuf>,
    chosen: &[&Mutant],
    is_full: bool,
) -> bool {
    println!("| planted bug | {} | found by | story |", Layer::ALL.map(Layer::heading).join(" | "));
    println!("|---|{}---|---|", "---|".repeat(Layer::ALL.len()));
    let mut survivors = Vec::new();
    for mutant in chosen {
        let named = run(root, programs, mutant.layer, Some(mutant.test), Some(mutant.name));
        let cells = Layer::ALL.map(|layer| match layer {
            _ if layer == mutant.layer => word(named),
            _ if is_full => word(run(root, programs, layer, None, Some(mutant.name))),
            _ => "",
        });
        println!(
            "| {} | {} | `{}` | {} |",
            mutant.name,
            cells.join(" | "),
            mutant.test,
            mutant.story
        );
        if !matches!(named, Outcome::Failed | Outcome::Hung) {
            survivors.push(mutant.name);
        }
    }
    println!();
    println!("{} of {} planted bugs found", chosen.len() - survivors.len(), chosen.len());
    if !survivors.is_empty() {
        eprintln!("not found: {}", survivors.join(", "));
    }
    survivors.is_empty()
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "-",
        Outcome::Failed => "found",
        Outcome::Hung => "found (hangs)",
        Outcome::Absent => "no such test",
    }
}

/// Runs one test of `layer`, or all of them, with the bug `mutant` or with none.
fn run(
    root: &Path,
    programs: &BTreeMap<Layer, PathBuf>,
    layer: Layer,
    test: Option<&str>,
    mutant: Option<&str>,
) -> Outcome {
    let folder = match layer {
        Layer::Unit => "crates/wal",
        Layer::EndToEnd => "tests",
        Layer::Simulated => "crates/wal-sim",
    };
    let mut command = Command::new(&programs[&layer]);
    command.current_dir(root.join(folder)).env_remove("WAL_MUTANT").env("RUST_BACKTRACE", "0");
    match test {
        Some(test) => command.args(["--exact", test]),
        None => command.args(ASIDE.iter().flat_map(|aside| ["--skip", aside])),
    };
    if let Some(mutant) = mutant {
        command.env("WAL_MUTANT", mutant);
    }
    let log = tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file)));
    let Ok((mut log, out)) = log else { return Outcome::Absent };
    let Ok(errors) = out.try_clone() else { return Outcome::Absent };
    let Ok(mut child) = command.stdout(out).stderr(errors).spawn() else { return Outcome::Absent };
    let patience = if test.is_some() { PATIENCE } else { PATIENCE_LAYER };
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if !status.success() => return Outcome::Failed,
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => {
                // It ends at once, and whatever this answers, it has hung.
                let _ = child.kill();
                let _ = child.wait();
                return Outcome::Hung;
            }
        }
    }
    let mut text = String::new();
    let read = std::io::Seek::rewind(&mut log)
        .and_then(|()| std::io::Read::read_to_string(&mut log, &mut text));
    if read.is_ok() && test.is_some() && !text.contains("1 passed") {
        return Outcome::Absent;
    }
    Outcome::Passed
}
