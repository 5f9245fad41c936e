//! What a soak covered: [`Tally`], and in words and in Markdown.

use super::{
    Outcome,
    answer::{
        ACKNOWLEDGED, AGAIN, CASES, Counts, EXECUTIONS, KERNELS, LOST, PHANTOM, PLANTED, PROCESSES,
        SCHEDULES, STATES, TORN,
    },
    run_program,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet, env, fmt::Write as _, fs, io, num::NonZeroUsize, path::Path, thread,
};

/// How a soak ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has not.
    StillRunning,
    TimeIsUp,
    /// What there is runs once.
    NothingLeft,
    Interrupted,
    Failed,
}

impl End {
    const fn in_words(self) -> &'static str {
        match self {
            Self::StillRunning => "it runs, or was killed",
            Self::TimeIsUp => "the time was up",
            Self::NothingLeft => "nothing was left to run",
            Self::Interrupted => "it was interrupted",
            Self::Failed => "**a run failed**",
        }
    }
}

/// Where it runs, and of what.
#[derive(Debug)]
pub(super) struct Scene {
    command: String,
    begun: String,
    commit: String,
    kernel: String,
    processor: String,
    device: String,
    compiler: String,
    seed: u64,
    jobs: NonZeroUsize,
    left_out: BTreeSet<String>,
}

impl Scene {
    pub(super) fn look(
        root: &Path,
        seed: u64,
        jobs: NonZeroUsize,
        left_out: Vec<String>,
    ) -> io::Result<Self> {
        let say = |program: &str, arguments: &[&str]| {
            run_program(program, arguments).unwrap_or_else(|_| "unknown".to_owned())
        };
        let path = root.to_string_lossy();
        let commit = say("git", &["-C", &path, "rev-parse", "HEAD"]);
        let changed = run_program("git", &["-C", &path, "status", "--porcelain"]);
        let changed = match changed.map(|text| text.lines().count()) {
            Ok(0) => "the tree as committed".to_owned(),
            Ok(count) => format!("**{count} files of the tree are not as committed**"),
            Err(_) => "whether the tree is as committed is unknown".to_owned(),
        };
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let count = thread::available_parallelism()?;
        Ok(Self {
            command: env::args().skip(1).collect::<Vec<_>>().join(" "),
            begun: say("date", &["-u", "+%Y-%m-%d %H:%M:%S UTC"]),
            commit: format!("{commit}, {changed}"),
            kernel: say("uname", &["-srm"]),
            processor: format!("{count} × {}", model.map_or("unknown", |(_, name)| name.trim())),
            device: device(&path),
            compiler: say("rustc", &["--version"]),
            seed,
            jobs,
            left_out: left_out.into_iter().collect(),
        })
    }

    /// Whether it is new that this was left out.
    pub(super) fn leave_out(&mut self, text: &str) -> bool {
        self.left_out.insert(text.to_owned())
    }
}

/// What the tree is on, where processes are killed; the other layers bring disks of their own.
fn device(path: &str) -> String {
    let found = run_program("findmnt", &["-no", "SOURCE,FSTYPE,OPTIONS", "-T", path]);
    let Ok(found) = found else { return "unknown".to_owned() };
    let found = found.split_whitespace().collect::<Vec<_>>().join(", ");
    let name = found.split(',').next().unwrap_or_default().trim_start_matches("/dev/");
    // A partition has no queue of its own; then it is not said.
    let queue = Path::new("/sys/class/block").join(name).join("queue");
    let say = |file: &str| fs::read_to_string(queue.join(file)).map(|text| text.trim().to_owned());
    match (say("write_cache"), say("fua")) {
        (Ok(cache), Ok(fua)) => format!("{found}; cache: {cache}, fua: {fua}"),
        _ => found,
    }
}

/// What was covered so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) rounds: u64,
    pub(super) seconds: f64,
    layers: Vec<Covered>,
}

#[derive(Debug)]
struct Covered {
    name: String,
    runs: u64,
    failures: u64,
    seconds: f64,
    counts: Counts,
}

impl Tally {
    pub(super) fn add(&mut self, name: &str, seconds: f64, counts: Counts, outcome: &Outcome) {
        let place = self.layers.iter().position(|layer| layer.name == name);
        let place = place.unwrap_or_else(|| {
            let (name, counts) = (name.to_owned(), Counts::new());
            self.layers.push(Covered { name, runs: 0, failures: 0, seconds: 0.0, counts });
            self.layers.len() - 1
        });
        let layer = &mut self.layers[place];
        layer.runs += 1;
        layer.failures += u64::from(matches!(outcome, Outcome::Failed(_)));
        layer.seconds += seconds;
        for (name, count) in counts {
            *layer.counts.entry(name).or_default() += count;
        }
    }

    /// How much of `count` all layers have whose names begin with `name`.
    fn total(&self, name: &str, count: &str) -> u64 {
        let layers = self.layers.iter().filter(|layer| layer.name.starts_with(name));
        layers.filter_map(|layer| layer.counts.get(count)).sum()
    }

    fn failures(&self) -> u64 {
        self.layers.iter().map(|layer| layer.failures).sum()
    }

    pub(super) fn json(&self, end: End) -> Value {
        let layers = self.layers.iter().map(|layer| {
            let Covered { name, runs, failures, seconds, counts } = layer;
            json!({
                "layer": name, "runs": runs, "failures": failures, "seconds": seconds,
                "counts": counts,
            })
        });
        json!({
            "summary": layers.collect::<Vec<_>>(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "end": end.in_words().trim_matches('*'),
            "ok": end != End::Failed,
        })
    }
}

/// What was covered, in one line.
pub(super) fn in_words(counts: &Counts) -> String {
    let text = counts.iter().map(|(name, count)| format!("{} {name}", grouped(*count)));
    text.collect::<Vec<_>>().join(", ")
}

/// The whole of `docs/soak.md`.
pub(super) fn markdown(scene: &Scene, tally: &Tally, end: End) -> String {
    let mut text = String::from(
        "# What the last soak covered

`wal-harness soak` runs each layer of [testing.md](testing.md) in turn, with fresh seeds each round, until the
first failure or until the time is up. Only layers with runs below were part of it.

",
    );
    totals(&mut text, tally);
    let Scene { command, begun, commit, kernel, processor, device, compiler, .. } = scene;
    let Scene { seed, jobs, left_out, .. } = scene;
    let rows = [
        ("command", format!("`wal-harness {command}`")),
        ("begun", begun.clone()),
        ("commit", commit.clone()),
        ("kernel", kernel.clone()),
        ("processors", processor.clone()),
        ("device of the tree", device.clone()),
        ("compiler", compiler.clone()),
        ("seeds", format!("{seed}, and one more each round")),
        ("layers side by side", format!("{jobs} at most")),
        (
            "time",
            format!("{:.0} s, builds not counted; {} rounds begun", tally.seconds, tally.rounds),
        ),
        ("end", end.in_words().to_owned()),
    ];
    text.push_str("\n## Where and how\n\n");
    table(&mut text, rows);
    text.push_str("\n## Layers\n\n| layer | runs | failed | seconds | covered |\n");
    text.push_str("|---|---|---|---|---|\n");
    for Covered { name, runs, failures, seconds, counts } in &tally.layers {
        let covered = in_words(counts);
        let _ = writeln!(text, "| {name} | {runs} | {failures} | {seconds:.0} | {covered} |");
    }
    if !left_out.is_empty() {
        text.push_str("\n## Left out on this machine\n\n");
        for what in left_out {
            let _ = writeln!(text, "* {what}");
        }
    }
    text
}

fn totals(text: &mut String, tally: &Tally) {
    let first = tally.total("recorded", STATES);
    let again = tally.total("recorded", AGAIN);
    let of_all = |count| grouped(tally.total("", count));
    let states = format!(
        "{}: {}, and {} of recoveries that were crashed in turn",
        grouped(first + again),
        grouped(first),
        grouped(again)
    );
    let rows = [
        ("simulated crash states, with silent faults", grouped(tally.total("simulated", STATES))),
        ("block-level states of ext4, xfs and btrfs", states),
        ("of them torn inside a write", of_all(TORN)),
        (
            "durable points of a kernel's log of writes",
            grouped(tally.total("kernel-writes", STATES)),
        ),
        ("records acknowledged to another process", of_all(ACKNOWLEDGED)),
        ("processes killed", of_all(PROCESSES)),
        ("kernels killed", of_all(KERNELS)),
        ("schedules inside the engine", of_all(SCHEDULES)),
        ("cases of errors", of_all(CASES)),
        ("planted bugs found", of_all(PLANTED)),
        ("executions of the fuzz targets, under ASan", executions(tally)),
        ("lost records", of_all(LOST)),
        (
            "phantom records: never appended, or with other bytes (silent corruption)",
            of_all(PHANTOM),
        ),
        ("runs that failed", grouped(tally.failures())),
    ];
    table(text, rows);
}

/// By target.
fn executions(tally: &Tally) -> String {
    let of_layer = |layer: &Covered| {
        let Covered { name, seconds, counts, .. } = layer;
        let count = grouped(*counts.get(EXECUTIONS)?);
        Some(format!("`{}` {count} in {seconds:.0} s", name.trim_start_matches("fuzzed-")))
    };
    let mut targets: Vec<_> = tally.layers.iter().filter_map(of_layer).collect();
    // Side by side they end in any order.
    targets.sort_unstable();
    if targets.is_empty() { "0".to_owned() } else { targets.join(", ") }
}

fn table<const N: usize>(text: &mut String, rows: [(&str, String); N]) {
    text.push_str("| | |\n|---|---|\n");
    for (name, what) in rows {
        let _ = writeln!(text, "| {name} | {what} |");
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
