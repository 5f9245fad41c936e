/*!
A kernel that dies under the log, a few times, and devices that fail under it; and planted faults, which must
be found: a log that acknowledges too early, one that reads zeros for what cannot be read. Without User-Mode Linux this says so and is not hidden.
*/

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use serde_json::Value;
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

const HARNESS: &str = env!("CARGO_BIN_EXE_wal-harness");

/// `None`, after saying so, where it was skipped.
fn uml(arguments: &[&str]) -> Option<(Output, Vec<Value>)> {
    let output = Command::new(HARNESS)
        .args(["uml", "--require", "--json"])
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
    let text = String::from_utf8_lossy(&output.stdout);
    let answers = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Some((output, answers))
}

#[test]
fn a_kernel_may_die_at_any_moment() {
    let Some((output, answers)) = uml(&["--cycles", "4", "--no-replay", "--seed", "7"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{answers:#?}");
    assert_eq!(answers.len(), 4);
    let acknowledged = |answer: &Value| answer["found"]["acknowledged"].as_u64().unwrap();
    assert!(answers.iter().map(acknowledged).sum::<u64>() > 100, "{answers:#?}");
}

#[test]
fn every_durable_point_of_a_log_of_writes_holds() {
    let Some((output, answers)) = uml(&["--only", "replay", "--seed", "7"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{answers:#?}");
    assert_eq!(answers.len(), 2);
    for answer in &answers {
        assert!(answer["found"]["states"].as_u64() > Some(15), "{answer}");
        assert!(answer["found"]["marks"].as_u64() > Some(10), "{answer}");
        assert!(answer["found"]["flushes"].as_u64() > Some(10), "{answer}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    let Some((output, answers)) = uml(&["--only", "dust", "--seed", "7"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{answers:#?}");
    assert_eq!(answers.len(), 2);
    for log in answers.iter().flat_map(|answer| answer["found"].as_array().unwrap()) {
        let count = |what: &str| log["answers"][what].as_u64().unwrap_or(0);
        assert!(log["live"].as_u64() > Some(2), "{log}");
        assert!(log["segments"].as_u64() > log["slots"].as_u64(), "no slot was used again: {log}");
        assert!(count("frame: Corrupt") > 10 && count("inside a frame: Corrupt") > 1, "{log}");
        assert_eq!((count("room behind: Io"), count("room behind: TornTail")), (1, 1), "{log}");
        assert!(count("free: Clean") > 1, "{log}");
    }
}

#[test]
fn swallowed_read_errors_are_found() {
    let arguments = ["--only", "dust", "--swallow-read-errors", "--seed", "7"];
    let Some((output, answers)) = uml(&arguments) else { return };
    assert_eq!(output.status.code(), Some(1), "{answers:#?}");
    for answer in &answers {
        assert!(answer["text"].as_str().unwrap().contains("unreadable"), "{answer}");
    }
}

#[test]
fn a_device_that_refuses_writes_latches_the_log_and_loses_nothing() {
    let Some((output, answers)) = uml(&["--only", "flakey", "--seed", "7"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{answers:#?}");
    assert_eq!(answers.len(), 2);
    for answer in &answers {
        let runs = answer["found"].as_array().unwrap();
        let of = |device: &str| runs.iter().filter(|run| run["device"] == device).count();
        assert_eq!((of("error_writes"), of("drop_writes")), (2, 4), "{answer}");
        for run in runs.iter().filter(|run| run["device"] == "drop_writes") {
            assert!(run["lost"].as_u64() > Some(0), "a lie that costs nothing: {run}");
        }
    }
}

#[test]
fn an_early_acknowledgement_of_a_refused_write_is_found() {
    let arguments = ["--only", "flakey", "--acknowledge-early", "--seed", "7"];
    let Some((output, answers)) = uml(&arguments) else { return };
    assert_eq!(output.status.code(), Some(1), "{answers:#?}");
    for answer in &answers {
        assert!(answer["text"].as_str().unwrap().contains("EARLY"), "{answer}");
    }
}

/// Not every moment to die at shows it: about one in three does.
#[test]
fn an_early_acknowledgement_is_found() {
    for attempt in 0..6 {
        let seed = attempt.to_string();
        let arguments = ["--cycles", "5", "--no-replay", "--acknowledge-early", "--seed", &seed];
        let Some((output, answers)) = uml(&arguments) else { return };
        let texts = answers.iter().filter_map(|answer| answer["text"].as_str());
        if texts.filter(|text| text.contains("LOST")).count() > 0 {
            assert_eq!(output.status.code(), Some(1), "{answers:#?}");
            return;
        }
    }
    panic!("thirty kernels died, and nothing was missing");
}

#[test]
fn nothing_is_left_behind() {
    let place = tempfile::Builder::new().prefix("uml-left-").tempdir().unwrap();
    let status = Command::new(HARNESS)
        .args(["uml", "--cycles", "1", "--no-replay"])
        .env("TMPDIR", place.path())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "files");
    let name = place.path().file_name().unwrap().to_str().unwrap();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(name), "a process");
    }
    let devices = Command::new("losetup").arg("--list").output().unwrap().stdout;
    assert!(!String::from_utf8(devices).unwrap().contains(name), "loop devices");
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(name), "mounts");
}

/// A stand-in for a kernel: says `words` and is gone, after its trial if `boots`.
fn stand_in(boots: bool, words: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let program = root.path().join("usr/bin/linux.uml");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    // What it is to write, and where, stands in the command line of its first process: `inside`, a directory,
    // the log, the marks.
    let trial = r#"
for word in "$@"; do [ "$word" = trial ] && trial=yes; done
while [ "$1" != inside ]; do shift; done
[ "$trial" ] && { echo booted > "$4"; exit 0; }"#;
    let trial = if boots { trial } else { "" };
    fs::write(&program, format!("#!/bin/sh\n{trial}\ncat <<'END'\n{words}\nEND\nexit 1\n"))
        .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    root
}

fn uml_of(root: &tempfile::TempDir, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(HARNESS);
    command.args(["uml", "--cycles", "1", "--kernel"]).arg(root.path()).args(arguments);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// On a processor with AMX, User-Mode Linux 6.1 panicked while it started its first process. That was told
/// as a failure of the log's test, and nothing could land there.
#[test]
fn a_kernel_that_cannot_boot_here_is_like_one_that_is_not_there() {
    let words =
        "put_fp_registers: ptrace failed\nKernel panic - not syncing: Segfault with no mm\nRIP: 0";
    let root = stand_in(false, words);
    let (status, complaint) = uml_of(&root, &[]);
    assert_eq!(status, Some(0), "{complaint}");
    let skipped = complaint.lines().find(|line| line.starts_with("SKIPPED: uml: ")).unwrap();
    if skipped.contains("linux.uml") {
        assert!(skipped.contains("Kernel panic - not syncing: Segfault with no mm"), "{skipped}");
        assert!(complaint.contains("put_fp_registers"), "{complaint}");
    } else {
        // No root, or no device.
        io::stderr().write_all(complaint.as_bytes()).unwrap();
    }
    assert_eq!(uml_of(&root, &["--require"]).0, Some(2));
}

#[test]
fn a_harness_that_fails_in_its_trial_is_no_skip() {
    let root =
        stand_in(false, "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00004000");
    let (status, complaint) = uml_of(&root, &[]);
    if complaint.starts_with("SKIPPED: uml: no ") {
        // No root, or no device.
        io::stderr().write_all(complaint.as_bytes()).unwrap();
        return;
    }
    assert_eq!(status, Some(3), "{complaint}");
}

#[test]
fn a_kernel_that_booted_once_and_fails_later_is_no_skip() {
    let root = stand_in(true, "Kernel panic - not syncing: later");
    let (status, complaint) = uml_of(&root, &[]);
    if complaint.starts_with("SKIPPED: uml: no ") {
        // No root, or no device.
        io::stderr().write_all(complaint.as_bytes()).unwrap();
        return;
    }
    assert_eq!(status, Some(3), "{complaint}");
    assert!(complaint.contains("no mark came") && !complaint.contains("SKIPPED"), "{complaint}");
}

#[test]
fn where_there_is_no_kernel_it_is_said() {
    let empty = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let path = empty.path().to_str().unwrap();
        Command::new(HARNESS).args(["uml", "--kernel", path]).args(more).output().unwrap()
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("SKIPPED: uml: "));
    assert_eq!(run(&["--require"]).status.code(), Some(2));
}
