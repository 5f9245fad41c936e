//! [`Layer`]: what there is to run, and what this machine lacks for it; [`Ready`]: one that is built.

use super::{Arguments, Run, answer::Kind, run_program};
use crate::{machine, uml};
use serde_json::Value;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// libFuzzer's own seeds are so small.
const FUZZER_SEED_MAX: u64 = 0xFFFF_FFFF;

/// An input that takes longer hangs. In seconds.
const INPUT_SECONDS_MAX: u64 = 60;

/// The corpus has none that is longer.
const INPUT_BYTES_MAX: usize = 4096;

/// What there is.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) about: &'static str,
    /// What keeps it from running here.
    pub(super) missing: Option<String>,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Simulated,
    Recorded(&'static str),
    Errors,
    Killed,
    Kernels,
    Writes,
    Schedules,
    Fuzzed(String),
    Planted,
}

/// One whose program is built.
#[derive(Debug)]
pub(super) struct Ready {
    name: String,
    what: What,
    program: PathBuf,
    root: PathBuf,
}

/// All there are, in the order in which they run: what is over soon comes first.
pub(super) fn all(root: &Path) -> io::Result<Vec<Layer>> {
    let layer =
        |name: &str, about, missing, what| Layer { name: name.to_owned(), about, missing, what };
    let no_devices = lacking(&["losetup", "mount"]);
    let no_kernel = uml::missing_here();
    let no_fuzzer = run_program("cargo", &["fuzz", "--version"]).err();
    let no_fuzzer =
        no_fuzzer.map(|_| "no cargo-fuzz here (cargo install cargo-fuzz --locked)".to_owned());
    let mut layers = vec![layer(
        "killed",
        "a process that writes is killed, and what is left is checked",
        None,
        What::Killed,
    )];
    for name in FILE_SYSTEMS {
        let missing = lacking(&["losetup", "mount", &format!("mkfs.{name}")]);
        let about = "crash states of a real file system over a disk that records";
        layers.push(layer(&format!("recorded-{name}"), about, missing, What::Recorded(name)));
    }
    layers.push(layer("errors", "the real stack answers errors", no_devices, What::Errors));
    layers.extend([
        layer("kernels", "a kernel dies under the log", no_kernel.clone(), What::Kernels),
        layer(
            "kernel-writes",
            "each durable point of the kernel's own log of writes",
            no_kernel.or_else(|| lacking(&["dmsetup"])),
            What::Writes,
        ),
        layer(
            "schedules",
            "threads interleaved inside the engine, with power cuts",
            None,
            What::Schedules,
        ),
    ]);
    for target in targets(root)? {
        let about = "inputs that a fuzzer makes, with AddressSanitizer";
        let name = format!("fuzzed-{target}");
        layers.push(layer(&name, about, no_fuzzer.clone(), What::Fuzzed(target)));
    }
    let about = "crash states of a simulated disk and world";
    layers.push(layer("simulated", about, None, What::Simulated));
    let about = "each planted bug is found by its test; in the first round only";
    layers.push(layer("planted", about, None, What::Planted));
    Ok(layers)
}

fn lacking(programs: &[&str]) -> Option<String> {
    machine::missing(programs).map(|what| format!("no {what} here"))
}

/// The fuzz targets, by their files: a new one joins by itself.
fn targets(root: &Path) -> io::Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(root.join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str())
            && path.extension().is_some_and(|extension| extension == "rs")
        {
            targets.push(name.to_owned());
        }
    }
    targets.sort_unstable();
    Ok(targets)
}

/// Where everything is built. What needs flags of its own is built below it, so that nothing is built
/// twice.
pub(super) fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

impl Layer {
    pub(super) fn build(&self, root: &Path) -> io::Result<Ready> {
        let aside = target(root).join("soak");
        let program = match &self.what {
            What::Simulated => {
                let what = ["build", "--release", "-p", "wal-sim", "--example", "explore"];
                executable(root, &target(root), &what, "", "explore")?
            }
            What::Killed => {
                let what = ["build", "--release", "-p", "wal-cli"];
                executable(root, &target(root), &what, "", "wal")?
            }
            What::Planted => {
                let what = ["build", "-p", "wal-tests", "--bin", "mutants"];
                executable(root, &target(root), &what, "", "mutants")?
            }
            What::Schedules => {
                let what = ["test", "--no-run", "--test", "schedules"];
                let at = root.join("tests/interleavings");
                executable(&at, &aside.join("shuttle"), &what, "--cfg wal_shuttle", "schedules")?
            }
            What::Fuzzed(name) => fuzzer(root, &aside.join("asan"), name)?,
            What::Recorded(_) | What::Errors | What::Kernels | What::Writes => env::current_exe()?,
        };
        let (name, what, root) = (self.name.clone(), self.what.clone(), root.to_path_buf());
        Ok(Ready { name, what, program, root })
    }
}

/// Has cargo build, and answers where the program of this name is.
fn executable(
    at: &Path,
    target: &Path,
    what: &[&str],
    flags: &str,
    name: &str,
) -> io::Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.current_dir(at).args(what).args(["--locked", "--message-format"]);
    command.arg("json-render-diagnostics").env("CARGO_TARGET_DIR", target);
    if !flags.is_empty() {
        command.env("RUSTFLAGS", flags);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = messages
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program
        .filter(|_| output.status.success())
        .ok_or_else(|| io::Error::other(format!("{name} cannot be built")))
}

fn fuzzer(root: &Path, target: &Path, name: &str) -> io::Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.current_dir(root.join("fuzz")).env("RUSTC_BOOTSTRAP", "1");
    command.args(["fuzz", "build", "-s", "address", "--target-dir"]).arg(target).arg(name);
    if !command.stdin(Stdio::null()).status()?.success() {
        return Err(io::Error::other(format!("the fuzz target {name} cannot be built")));
    }
    let version = run_program("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(target.join(host.unwrap_or_default()).join("release").join(name))
}

impl Ready {
    /// Whether its answer would be the same in every round.
    pub(super) fn is_once(&self) -> bool {
        self.what == What::Planted
    }

    pub(super) fn run(&self, arguments: &Arguments, seed: u64) -> io::Result<Run> {
        let effort = arguments.effort;
        let mut command = Command::new(&self.program);
        command.current_dir(&self.root);
        let text = seed.to_string();
        let (words, kind): (Vec<String>, _) = match &self.what {
            What::Simulated => {
                let words = format!("--threads 2 --json --silent --states {}", effort.simulated);
                (split(&words), Kind::Simulated)
            }
            What::Recorded(name) => {
                let states = effort.recorded / if *name == "btrfs" { 8 } else { 1 };
                let (records, broken) = (effort.records, "--break ack-before-sync");
                let broken = if arguments.early { broken } else { "" };
                let words = format!(
                    "record --json --fs {name} --states {states} --records {records} {broken}"
                );
                (split(&words), Kind::Recorded)
            }
            What::Errors => {
                let words = format!("errors --json --kills {}", effort.kills);
                (early(&words, arguments), Kind::Errors)
            }
            What::Killed => {
                let canary = if arguments.early { "--canary" } else { "" };
                let words = format!("torture --json --seconds {} {canary}", effort.seconds);
                (split(&words), Kind::Killed)
            }
            What::Kernels => {
                let words = format!("uml --json --no-replay --cycles {}", effort.kernels);
                (early(&words, arguments), Kind::Kernels)
            }
            What::Writes => (split("uml --json --cycles 0"), Kind::Writes),
            What::Schedules => {
                command.env("SHUTTLE_RANDOM_SEED", &text);
                (split("--nocapture"), Kind::Schedules)
            }
            What::Fuzzed(target) => {
                // Not at the process's end either: a thread that is just ending counts as a leak there.
                command.env("ASAN_OPTIONS", "detect_leaks=0");
                (self.fuzz(target, effort.fuzzed, seed)?, Kind::Fuzzed)
            }
            What::Planted => (Vec::new(), Kind::Planted),
        };
        command.args(words);
        if !matches!(kind, Kind::Schedules | Kind::Fuzzed | Kind::Planted) {
            command.args(["--seed", &text]);
        }
        Ok(Run { layer: self.name.clone(), seed, command, kind })
    }

    /// What is new goes to a corpus of the soak's own, which it keeps from round to round; the committed
    /// ones are only read.
    fn fuzz(&self, target: &str, seconds: u64, seed: u64) -> io::Result<Vec<String>> {
        let fuzz = self.root.join("fuzz");
        let new = super::layers::target(&self.root).join("soak/corpus").join(target);
        let artifacts = fuzz.join("artifacts").join(target);
        fs::create_dir_all(&new)?;
        fs::create_dir_all(&artifacts)?;
        let committed = ["corpus", "findings"].map(|name| fuzz.join(name).join(target));
        let inputs = [new].into_iter().chain(committed.into_iter().filter(|path| path.is_dir()));
        let mut words: Vec<_> = inputs.map(|path| path.display().to_string()).collect();
        words.extend(split(&format!(
            "-seed={} -max_total_time={seconds} -timeout={INPUT_SECONDS_MAX} \
             -max_len={INPUT_BYTES_MAX} -detect_leaks=0 -artifact_prefix={}/",
            // Its 0 is a seed that it makes up.
            seed % FUZZER_SEED_MAX + 1,
            artifacts.display()
        )));
        Ok(words)
    }
}

fn split(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn early(text: &str, arguments: &Arguments) -> Vec<String> {
    let early = if arguments.early { "--acknowledge-early" } else { "" };
    split(&format!("{text} {early}"))
}
