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
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below/journal");
    let summary = directory.path().join("summary.md");
    let mut soak = Soak {
        journal: open_journal(&path).unwrap(),
        summary: Some(&summary),
        scene: Scene::look(Path::new("."), 5, vec!["nothing: no such thing".to_owned()]).unwrap(),
        tally: Tally::default(),
        interrupted,
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
    assert!(summary.contains("| simulated states | 2,000 |"), "{summary}");
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
