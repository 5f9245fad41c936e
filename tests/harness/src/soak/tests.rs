//! The soak's own rules, with a shell in the place of the layers.

use super::{answer::Kind, *};
use std::sync::Arc;

/// A run that says `states` states, in the place of the simulator.
fn run(layer: &str, script: &str) -> Run {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Run { layer: layer.to_owned(), seed: 5, command, kind: Kind::Simulated }
}

/// What the journal has in the end, and the summary.
fn soak(
    time: Duration,
    interrupted: &AtomicBool,
    plan: impl FnMut(u64) -> Vec<Run>,
) -> (End, Vec<Value>, String) {
    soak_beside(1, time, interrupted, plan)
}

/// The same with `jobs` layers side by side.
fn soak_beside(
    jobs: usize,
    time: Duration,
    interrupted: &AtomicBool,
    plan: impl FnMut(u64) -> Vec<Run>,
) -> (End, Vec<Value>, String) {
    let jobs = NonZeroUsize::new(jobs).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below/journal");
    let summary = directory.path().join("summary.md");
    let mut soak = Soak {
        journal: open_journal(&path).unwrap(),
        summary: Some(&summary),
        scene: Scene::look(Path::new("."), 5, jobs, vec!["nothing: no such thing".to_owned()])
            .unwrap(),
        tally: Tally::default(),
        failed: Vec::new(),
        interrupted,
        jobs,
    };
    let mut plan = plan;
    let end = soak.rounds(time, |round| Ok(plan(round))).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (end, lines, fs::read_to_string(&summary).unwrap())
}

static NEVER: AtomicBool = AtomicBool::new(false);
const GOOD: &str = r#"echo '{"states":1000,"lives":3}'"#;

#[test]
fn a_round_that_was_begun_first_is_finished() {
    let plan = |_| vec![run("simulated", GOOD), run("simulated", GOOD)];
    let (end, lines, summary) = soak(Duration::ZERO, &NEVER, plan);
    assert_eq!(end, End::TimeIsUp);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["verdict"], "pass");
    assert_eq!(lines[2]["summary"][0]["counts"]["states"], 2000);
    assert_eq!(lines[2]["ok"], true);
    assert!(
        summary.contains("| simulated crash states, with silent faults | 2,000 |"),
        "{summary}"
    );
    assert!(summary.contains("* nothing: no such thing"), "{summary}");
    assert!(summary.contains("| end | the time was up |"), "{summary}");
}

#[test]
fn rounds_follow_while_there_is_time() {
    let mut rounds = Vec::new();
    let (end, lines, _) = soak(Duration::from_secs(3600), &NEVER, |round| {
        rounds.push(round);
        vec![run("simulated", if round < 3 { GOOD } else { "exit 1" })]
    });
    assert_eq!(end, End::Failed);
    assert_eq!(rounds, [0, 1, 2, 3]);
    assert_eq!(lines[4]["rounds"], 4);
    assert_eq!(lines[4]["summary"][0]["counts"]["states"], 3000);
}

#[test]
fn the_first_failure_ends_it() {
    let plan = |_| {
        let bad = run("bad", &format!("{GOOD}; echo the last words >&2; exit 7"));
        vec![run("simulated", GOOD), bad, run("simulated", GOOD)]
    };
    let (end, lines, summary) = soak(Duration::from_secs(3600), &NEVER, plan);
    assert_eq!(end, End::Failed);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[1]["verdict"], "fail");
    let failure = lines[1]["failure"].as_str().unwrap();
    assert!(failure.contains("the last words") && failure.contains('7'), "{failure}");
    assert_eq!(lines[2]["ok"], false);
    assert!(summary.contains("| runs that failed | 1 |"), "{summary}");
}

/// A program that ends well and has done nothing is the worst of all.
#[test]
fn a_run_that_covered_nothing_is_a_failure() {
    let (end, lines, _) = soak(Duration::ZERO, &NEVER, |_| vec![run("simulated", "exit 0")]);
    assert_eq!(end, End::Failed);
    assert_eq!(lines[0]["verdict"], "fail");
}

#[test]
fn an_interruption_ends_the_run_and_leaves_a_whole_journal() {
    let interrupted = Arc::new(AtomicBool::new(false));
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let script = format!("trap 'echo ended; exit 1' INT; touch {}; sleep 600", started.display());
    let told = Arc::clone(&interrupted);
    let teller = thread::spawn(move || {
        while !started.exists() {
            thread::yield_now();
        }
        told.store(true, Ordering::Relaxed);
    });
    let plan = |_| vec![run("simulated", GOOD), run("long", &script), run("simulated", GOOD)];
    let (end, lines, summary) = soak(Duration::from_secs(3600), &interrupted, plan);
    teller.join().unwrap();
    assert_eq!(end, End::Interrupted);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[1]["verdict"], "interrupted");
    assert_eq!(lines[2]["ok"], true);
    assert!(summary.contains("| end | it was interrupted |"), "{summary}");
    assert!(summary.contains("| runs that failed | 0 |"), "{summary}");
}

/// `script`, once `file` is there; it fails where nobody makes it.
fn once_there(file: &Path, script: &str) -> String {
    let file = file.display();
    format!(
        "n=0; until [ -e {file} ]; do n=$((n+1)); [ $n -lt 3000 ] || exit 9; sleep 0.01; done; {script}"
    )
}

#[test]
fn layers_run_side_by_side_and_are_noted_as_they_end() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let plan = |_| {
        // Each waits for what another one does, which none could alone; the first to begin ends last.
        let first = format!("touch {}; {}", at("a").display(), once_there(&at("c"), GOOD));
        let touch = format!("touch {}; {GOOD}", at("b").display());
        let second = once_there(&at("a"), &touch);
        let third = once_there(&at("b"), &format!("{GOOD}; touch {}", at("c").display()));
        vec![run("one", &first), run("two", &second), run("three", &third)]
    };
    let (end, lines, summary) = soak_beside(2, Duration::ZERO, &NEVER, plan);
    assert_eq!(end, End::TimeIsUp, "{lines:#?}");
    let names: Vec<_> = lines[..3].iter().map(|line| line["layer"].as_str().unwrap()).collect();
    assert_eq!(names[0], "two");
    assert!(names[1..].contains(&"one") && names[1..].contains(&"three"), "{names:?}");
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(summary.contains("| layers side by side | 2 at most |"), "{summary}");
    assert!(summary.contains("| one | 1 | 0 |"), "{summary}");
}

/// A directory stands for what a layer must have for itself: who cannot make it, fails.
#[test]
fn no_layer_runs_beside_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (end, lines, _) = soak_beside(3, Duration::from_secs(3600), &NEVER, |round| {
        let alone = |name: &str, then: &str| {
            let own = directory.path().join(name);
            let own = own.display();
            run(name, &format!("mkdir {own} || exit 8; {then}; rmdir {own}; {GOOD}"))
        };
        let last = run("last", if round < 4 { GOOD } else { "exit 1" });
        vec![alone("slow", "sleep 0.05"), alone("quick", "true"), last]
    });
    assert_eq!(end, End::Failed);
    let bad: Vec<_> = lines.iter().filter(|line| line["verdict"] == "fail").collect();
    assert_eq!(bad.len(), 1, "{lines:#?}");
    assert_eq!((&bad[0]["layer"], &bad[0]["round"]), (&json!("last"), &json!(4)));
    // Each round has begun whole before the next.
    assert!(lines.iter().filter(|line| line["layer"] == "slow").count() >= 4, "{lines:#?}");
}

#[test]
fn a_failure_ends_those_beside_it_and_what_is_not_begun() {
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let long = format!("trap 'echo ended; exit 1' INT; touch {}; sleep 600", started.display());
    let (end, lines, summary) = soak_beside(2, Duration::from_secs(3600), &NEVER, |_| {
        let bad = run("bad", &once_there(&started, "exit 7"));
        vec![run("long", &long), bad, run("never", GOOD)]
    });
    assert_eq!(end, End::Failed);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!((&lines[0]["layer"], &lines[0]["verdict"]), (&json!("bad"), &json!("fail")));
    assert_eq!((&lines[1]["layer"], &lines[1]["verdict"]), (&json!("long"), &json!("interrupted")));
    assert_eq!(lines[2]["ok"], false);
    assert!(summary.contains("| runs that failed | 1 |"), "{summary}");
}

#[test]
fn what_runs_when_the_time_is_up_is_awaited() {
    let directory = tempfile::tempdir().unwrap();
    let ended = directory.path().join("ended");
    let (end, lines, _) = soak_beside(2, Duration::ZERO, &NEVER, |_| {
        let touch = format!("{GOOD}; touch {}", ended.display());
        vec![run("one", &once_there(&ended, GOOD)), run("two", &touch)]
    });
    assert_eq!(end, End::TimeIsUp);
    let passed = lines.iter().filter(|line| line["verdict"] == "pass");
    assert_eq!(passed.count(), 2, "{lines:#?}");
}

#[test]
fn what_runs_once_is_not_waited_for_again() {
    let (end, lines, _) = soak(Duration::from_secs(3600), &NEVER, |round| {
        if round == 0 { vec![run("once", GOOD)] } else { Vec::new() }
    });
    assert_eq!((end, lines.len()), (End::NothingLeft, 2));
}
