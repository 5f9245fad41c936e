/*!
The soak from outside, with a small budget: it runs what it is told to, says what it covered, and ends at
the first failure, which is a planted one.
*/

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use serde_json::Value;
use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Output},
};

const HARNESS: &str = env!("CARGO_BIN_EXE_wal-harness");

/// With the journal's lines and the summary; `None`, after saying so, where it was skipped.
fn soak(arguments: &[&str]) -> Option<(Output, Vec<Value>, String)> {
    let directory = tempfile::tempdir().unwrap();
    let (journal, summary) =
        (directory.path().join("journal"), directory.path().join("summary.md"));
    let output = Command::new(HARNESS)
        .args(["soak", "--require", "--hours", "0", "--seed", "7"])
        .args(["--recorded", "40", "--records", "40", "--kills", "2"])
        .arg("--journal")
        .arg(&journal)
        .arg("--summary")
        .arg(&summary)
        .args(arguments)
        .output()
        .unwrap();
    if output.status.code() == Some(2) {
        // Past the test's own capture: a skip must be seen.
        io::stderr().write_all(&output.stderr).unwrap();
        return None;
    }
    let text = fs::read_to_string(&journal).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Some((output, lines, fs::read_to_string(&summary).unwrap()))
}

#[test]
fn a_round_of_one_layer() {
    let Some((output, lines, summary)) = soak(&["--only", "recorded-ext4"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{lines:#?}");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_eq!(lines[0]["layer"], "recorded-ext4");
    assert_eq!(lines[0]["verdict"], "pass");
    assert!(lines[0]["counts"]["states"].as_u64() > Some(40), "{lines:#?}");
    assert_eq!(lines[1]["ok"], true);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("round 0: recorded-ext4, seed 7: pass"), "{told}");
    for line in ["| lost records | 0 |", "| end | the time was up |", "| seeds | 7, and"] {
        assert!(summary.contains(line), "{summary}");
    }
}

#[test]
fn two_layers_side_by_side() {
    let chosen = ["--only", "recorded-ext4,recorded-xfs", "--jobs", "2"];
    let Some((output, lines, summary)) = soak(&chosen) else { return };
    assert_eq!(output.status.code(), Some(0), "{lines:#?}");
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let mut names: Vec<_> = lines[..2].iter().map(|line| line["layer"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [Some("recorded-ext4"), Some("recorded-xfs")]);
    assert!(lines[..2].iter().all(|line| line["verdict"] == "pass"), "{lines:#?}");
    assert!(summary.contains("| layers side by side | 2 at most |"), "{summary}");
}

#[test]
fn the_first_failure_ends_it() {
    let planted = ["--only", "recorded-ext4,errors", "--acknowledge-early"];
    let Some((output, lines, summary)) = soak(&planted) else { return };
    assert_eq!(output.status.code(), Some(1), "{lines:#?}");
    assert_eq!(lines.len(), 2, "the errors came after a failure: {lines:#?}");
    assert_eq!(lines[0]["layer"], "recorded-ext4");
    assert_eq!(lines[0]["verdict"], "fail");
    assert!(lines[0]["counts"]["lost"].as_u64() > Some(0), "{lines:#?}");
    assert!(lines[0]["failure"].as_str().unwrap().contains("wal-harness replay"), "{lines:#?}");
    assert_eq!(lines[1]["ok"], false);
    assert!(summary.contains("| runs that failed | 1 |"), "{summary}");
    let told = String::from_utf8_lossy(&output.stderr);
    let last = told.lines().last().unwrap();
    assert!(last.contains("again: ") && last.ends_with(r#""--seed" "7""#), "{told}");
}

#[test]
fn every_fuzz_target_is_a_layer() {
    let output = Command::new(HARNESS).args(["soak", "--list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let fixed =
        ["simulated", "killed", "errors", "kernels", "kernel-writes", "schedules", "planted"];
    for name in fixed.into_iter().chain(["recorded-ext4", "recorded-xfs", "recorded-btrfs"]) {
        assert!(names.contains(&name), "{name}: {text}");
    }
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
    let targets: Vec<_> =
        fs::read_dir(targets).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(targets.len() > 1);
    for target in targets {
        let name = format!("fuzzed-{}", target.file_stem().unwrap().to_str().unwrap());
        assert!(names.contains(&name.as_str()), "{name}: {text}");
    }
}

#[test]
fn a_layer_that_is_none_is_refused() {
    let output = Command::new(HARNESS).args(["soak", "--only", "nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("recorded-ext4"));
}
