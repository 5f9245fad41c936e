/*!
The harness finds what it is for, and nothing else: faults are planted in the log and must be found, and
the log as it is must not be blamed. Where the machine lacks something, that is said and not hidden.
*/

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use serde_json::Value;
use std::{
    fs,
    io::{self, Write},
    process::{Command, Output},
};

const HARNESS: &str = env!("CARGO_BIN_EXE_wal-harness");

/// `None`, after saying so, where it was skipped.
fn record(arguments: &[&str]) -> Option<(Output, Value)> {
    let keep = tempfile::tempdir().unwrap();
    let output = Command::new(HARNESS)
        .args(["record", "--require", "--json", "--seed", "7", "--records", "120"])
        .arg("--keep")
        .arg(keep.path())
        .args(arguments)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) {
        // Past the test's own capture: a skip must be seen.
        io::stderr().write_all(complaint.as_bytes()).unwrap();
        return None;
    }
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}: {complaint}", output.status);
    let answer = serde_json::from_slice(&output.stdout).unwrap();
    if output.status.code() == Some(1) {
        assert!(complaint.contains("look again: wal-harness replay"), "{complaint}");
        look_again(&complaint);
    }
    Some((output, answer))
}

/// What the harness says is the way to see a bad state again is one.
fn look_again(complaint: &str) {
    let (_, command) = complaint.split_once("look again: wal-harness ").unwrap();
    let command = command.lines().next().unwrap();
    let output = Command::new(HARNESS).args(command.split(' ')).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{command}: {text}");
}

fn number(answer: &Value, name: &str) -> u64 {
    answer[name].as_u64().unwrap()
}

#[test]
fn an_early_acknowledgement_is_found() {
    let early = ["--fs", "ext4", "--method", "dsync", "--states", "300", "--again", "0", "--break"];
    let Some((_, answer)) = record(&[&early[..], &["ack-before-sync"]].concat()) else { return };
    assert!(number(&answer, "lost") > 10, "{answer}");
    assert_eq!(answer["verdict"], "fail");
}

#[test]
fn a_directory_that_is_never_synced_is_found() {
    let never = ["--fs", "ext4", "--method", "dsync", "--states", "300", "--again", "0", "--break"];
    let Some((_, answer)) = record(&[&never[..], &["no-dir-sync"]].concat()) else { return };
    // The log misses its identity and says so; what it had acknowledged is out of reach.
    assert!(number(&answer, "lost") + number(&answer, "corrupt_verdicts") > 0, "{answer}");
}

#[test]
fn writes_that_are_never_synced_are_found() {
    let never = ["--fs", "xfs", "--method", "sync", "--states", "300", "--again", "0", "--break"];
    let Some((_, answer)) = record(&[&never[..], &["no-sync"]].concat()) else { return };
    let bad = ["lost", "phantom", "corrupt_verdicts"].map(|kind| number(&answer, kind));
    assert!(bad.iter().sum::<u64>() > 50, "{answer}");
}

#[test]
fn a_sound_log_is_not_blamed() {
    let Some((output, answer)) = record(&["--fs", "ext4", "--method", "sync"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{answer}");
    assert_eq!(answer["verdict"], "pass");
    assert_eq!(answer["exhaustive"], true);
    assert!(number(&answer, "states") > 100, "{answer}");
    assert!(number(&answer, "torn") > 50, "{answer}");
    assert!(number(&answer, "again_states") > 50, "{answer}");
}

/// The log's own subject stands in for a program of somebody else.
#[test]
fn another_program_can_be_the_subject() {
    let subject = format!("{HARNESS} subject");
    let arguments = ["--fs", "ext4", "--states", "60", "--subject", &subject];
    let Some((output, answer)) = record(&arguments) else { return };
    assert_eq!(output.status.code(), Some(0), "{answer}");
    assert!(number(&answer, "states") > 50, "{answer}");
}

#[test]
fn nothing_is_left_behind() {
    let devices = || {
        let text = Command::new("losetup").arg("--list").output().unwrap().stdout;
        String::from_utf8(text).unwrap().matches("/nothing-left-").count()
    };
    let keep = tempfile::tempdir().unwrap();
    let place = tempfile::Builder::new().prefix("nothing-left-").tempdir().unwrap();
    let status = Command::new(HARNESS)
        .args(["record", "--fs", "ext4", "--method", "dsync", "--states", "20", "--records", "40"])
        .env("TMPDIR", place.path())
        .arg("--keep")
        .arg(keep.path())
        .status()
        .unwrap();
    assert!(status.code().is_some());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "files");
    assert_eq!(devices(), 0, "loop devices");
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains("/nothing-left-"), "mounts");
}

#[test]
fn a_command_line_that_is_wrong_has_a_status_of_its_own() {
    let output = Command::new(HARNESS).args(["record", "--fs", "fat"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}
