/*!
`wal-harness soak`: every layer in turn, with fresh seeds, for hours.

A round goes through all layers that this machine can run ([`layers`]), as many side by side as it is told
([`rotation`]); what is missing is said, loudly. The journal gets a line of JSON for each run when it ends:
what was run, with which seed, what it covered ([`answer`]), how it ended. The first failure ends the soak:
what runs beside it is told to end, and the last line is the command that shows it again. In the end, and
after each run in case there is none, [`summary`] tells what was covered.

Everything is built before the clock starts, and the same programs run to the end, whatever becomes of
the source meanwhile.
*/

mod answer;
mod child;
mod layers;
mod rotation;
mod summary;

use crate::{
    EXIT_BAD, EXIT_SKIPPED, EXIT_USAGE, complain,
    machine::{interruption, run_program},
    skip,
};
use child::{Finished, PAUSE, RUN_MAX, Running, Told};
use layers::{Layer, Ready};
use rotation::{Next, Rotation};
use serde_json::{Value, json};
use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    mem,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};
use summary::{End, Scene, Tally};

/// How many lines of a failed run are told.
const LINES_MAX: usize = 40;

/// Every layer in turn, for hours
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long, in hours; the first round is finished, however long it takes
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    hours: f64,
    /// How many layers run side by side
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Only these layers
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Say which layers there are, and what keeps them from running here
    #[arg(long)]
    list: bool,
    /// The first round's seed; each round takes the next
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where a line is added for each run [default: soak/journal.jsonl where everything is built]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Where to write what was covered, in Markdown
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
    /// Test the soak itself: acknowledge before anything is durable, where a layer can have that
    /// planted, which must end it
    #[arg(long = "acknowledge-early", hide = true)]
    early: bool,
    /// Fail where a layer would be skipped
    #[arg(long)]
    require: bool,
}

/// How much of each layer is in a round. Six rounds of these take an hour on two cores.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Effort {
    /// Simulated states a round
    #[arg(long, value_name = "N", default_value_t = 900_000)]
    simulated: u64,
    /// The most block-level states of each recording on ext4 and xfs, and an eighth of it on btrfs
    #[arg(long, value_name = "N", default_value_t = 4_000)]
    recorded: u64,
    /// Records that are appended in each recording
    #[arg(long, value_name = "N", default_value_t = 1_500)]
    records: u64,
    /// Kills by `errors` on each file system, by each method
    #[arg(long, value_name = "N", default_value_t = 12)]
    kills: u64,
    /// Kernels killed a round
    #[arg(long, value_name = "N", default_value_t = 8)]
    kernels: u64,
    /// Seconds a round for killed processes
    #[arg(long, value_name = "N", default_value_t = 25)]
    seconds: u64,
    /// Seconds a round for each fuzz target
    #[arg(long, value_name = "N", default_value_t = 52)]
    fuzzed: u64,
}

/// One run of a layer.
#[derive(Debug)]
struct Run {
    layer: String,
    seed: u64,
    command: Command,
    kind: answer::Kind,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// With its last words.
    Failed(String),
    /// It was told to end.
    Interrupted,
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let layers = layers::all(&root)?;
    if let Some(name) =
        arguments.only.iter().find(|name| !layers.iter().any(|layer| layer.name == **name))
    {
        let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
        complain(format_args!("no layer is called {name}; there are {}", names.join(", ")));
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let is_chosen =
        |layer: &&Layer| arguments.only.is_empty() || arguments.only.contains(&layer.name);
    let chosen: Vec<_> = layers.iter().filter(is_chosen).collect();
    if arguments.list {
        return list(&chosen);
    }
    let interrupted = interruption()?;
    let mut left_out = Vec::new();
    for layer in &chosen {
        if let Some(missing) = &layer.missing {
            skip(format_args!("soak: {}: {missing}", layer.name));
            left_out.push(format!("{}: {missing}", layer.name));
        }
    }
    if arguments.require && !left_out.is_empty() {
        return Ok(ExitCode::from(EXIT_SKIPPED));
    }
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    });
    // Before the journal is there, which would be one more file in the tree.
    let scene = Scene::look(&root, seed, arguments.jobs, left_out)?;
    let mut ready = Vec::new();
    for layer in chosen.iter().filter(|layer| layer.missing.is_none()) {
        ready.push(layer.build(&root)?);
        if interrupted.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    if ready.is_empty() {
        skip("soak: nothing is left to run");
        return Ok(ExitCode::SUCCESS);
    }
    let path = match &arguments.journal {
        Some(path) => path.clone(),
        None => layers::target(&root).join("soak/journal.jsonl"),
    };
    complain(format_args!("soak: seed {seed}, journal {}", path.display()));
    let mut soak = Soak {
        journal: open_journal(&path)?,
        summary: arguments.summary.as_deref(),
        scene,
        tally: Tally::default(),
        failed: Vec::new(),
        interrupted: &interrupted,
        jobs: arguments.jobs,
    };
    let hours = Duration::from_secs_f64(arguments.hours * 3600.0);
    let end = soak.rounds(hours, |round| {
        let due = ready.iter().filter(|ready| round == 0 || !ready.is_once());
        let run = |ready: &Ready| ready.run(arguments, seed.wrapping_add(round));
        due.map(run).collect()
    })?;
    Ok(if end == End::Failed { ExitCode::from(EXIT_BAD) } else { ExitCode::SUCCESS })
}

fn list(layers: &[&Layer]) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    for layer in layers {
        let Layer { name, about, missing, .. } = layer;
        let missing = missing.as_ref().map(|missing| format!(" (not here: {missing})"));
        writeln!(out, "{name:16} {about}{}", missing.unwrap_or_default())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open_journal(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// A soak under way.
struct Soak<'a> {
    journal: File,
    summary: Option<&'a Path>,
    scene: Scene,
    tally: Tally,
    /// The commands that failed, to be told last.
    failed: Vec<String>,
    interrupted: &'a AtomicBool,
    jobs: NonZeroUsize,
}

impl Soak<'_> {
    /// Runs what `plan` has for each round, until the time is up or one fails.
    fn rounds(
        &mut self,
        time: Duration,
        plan: impl FnMut(u64) -> io::Result<Vec<Run>>,
    ) -> io::Result<End> {
        let start = Instant::now();
        let mut rotation = Rotation::new(plan);
        let mut running: Vec<Running> = Vec::new();
        // Why nothing is begun any more.
        let mut end = None;
        loop {
            if self.interrupted.load(Ordering::Relaxed) && end != Some(End::Failed) {
                end = Some(End::Interrupted);
            }
            while end.is_none() && running.len() < self.jobs.get() {
                let runs = |layer: &str| running.iter().any(|other| other.run.layer == layer);
                match rotation.next(start.elapsed() >= time, runs)? {
                    Next::Begin(round, run) => {
                        self.tally.rounds = self.tally.rounds.max(round + 1);
                        running.push(Running::begin(round, *run)?);
                    }
                    Next::Wait => break,
                    Next::TimeIsUp => end = Some(End::TimeIsUp),
                    Next::Nothing => end = Some(End::NothingLeft),
                }
            }
            let ended = take_ended(&mut running)?;
            for (one, finished) in &ended {
                match self.tell(one, finished)? {
                    Outcome::Failed(_) => end = Some(End::Failed),
                    Outcome::Passed | Outcome::Interrupted => {}
                }
                self.tally.seconds = start.elapsed().as_secs_f64();
                self.summarise(End::StillRunning)?;
            }
            match end {
                Some(end) if running.is_empty() => return self.end(end),
                Some(End::Failed | End::Interrupted) => {
                    running.iter_mut().for_each(|one| one.tell(Told::SoakEnds));
                }
                _ => {}
            }
            if ended.is_empty() {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Tells of one that has ended.
    fn tell(&mut self, one: &Running, finished: &Finished) -> io::Result<Outcome> {
        let Running { run: Run { layer, seed, command, kind }, round, .. } = one;
        let Finished { status, seconds, out, errors } = finished;
        let text = format!("{command:?}");
        let counts = kind.read(out, errors);
        let outcome = match status {
            // What was interrupted from outside while it ended is no witness either.
            _ if self.interrupted.load(Ordering::Relaxed) => Outcome::Interrupted,
            Ok(status) if status.success() && kind.is_covered(&counts) => Outcome::Passed,
            Ok(status) => Outcome::Failed(last_words(out, errors, *status)),
            Err(Told::Hangs) => Outcome::Failed(format!("no end in {RUN_MAX:?}")),
            Err(Told::SoakEnds) => Outcome::Interrupted,
        };
        for line in errors.lines().filter(|line| line.starts_with("SKIPPED: ")) {
            if self.scene.leave_out(line.trim_start_matches("SKIPPED: ")) {
                skip(line.trim_start_matches("SKIPPED: "));
            }
        }
        let (word, failure) = match &outcome {
            Outcome::Passed => ("pass", None),
            Outcome::Failed(words) => ("fail", Some(words)),
            Outcome::Interrupted => ("interrupted", None),
        };
        let told = summary::in_words(&counts);
        complain(format_args!(
            "soak: round {round}: {layer}, seed {seed}: {word}, {seconds:.1} s, {told}"
        ));
        let answers: Vec<Value> =
            out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        self.note(&json!({
            "round": round, "layer": layer, "seed": seed, "command": text, "seconds": seconds,
            "counts": counts, "answer": answers, "verdict": word, "failure": failure,
        }))?;
        if let Some(failure) = failure {
            complain(format_args!("soak: {layer} failed in round {round}: {text}\n{failure}"));
            self.failed.push(text);
        }
        self.tally.add(layer, *seconds, counts, &outcome);
        Ok(outcome)
    }

    fn end(&mut self, end: End) -> io::Result<End> {
        self.summarise(end)?;
        let line = self.tally.json(end);
        self.note(&line)?;
        writeln!(io::stdout(), "{line}")?;
        for command in &self.failed {
            complain(format_args!("soak: to see it fail again: {command}"));
        }
        Ok(end)
    }

    /// One line, whole whatever comes after.
    fn note(&mut self, line: &Value) -> io::Result<()> {
        self.journal.write_all(format!("{line}\n").as_bytes())?;
        self.journal.sync_data()
    }

    fn summarise(&self, end: End) -> io::Result<()> {
        let Some(path) = self.summary else { return Ok(()) };
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, summary::markdown(&self.scene, &self.tally, end))?;
        fs::rename(unfinished, path)
    }
}

/// Takes those out that have ended.
fn take_ended(running: &mut Vec<Running>) -> io::Result<Vec<(Running, Finished)>> {
    let mut ended = Vec::new();
    for mut one in mem::take(running) {
        match one.poll()? {
            Some(finished) => ended.push((one, finished)),
            None => running.push(one),
        }
    }
    Ok(ended)
}

fn last_words(out: &str, errors: &str, status: ExitStatus) -> String {
    let status = format!("it ended with {status}");
    let lines: Vec<_> = out.lines().chain(errors.lines()).chain([status.as_str()]).collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

#[cfg(test)]
mod tests;
