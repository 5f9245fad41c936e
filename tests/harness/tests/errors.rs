/*!
Each error that a real stack gives, small, on ext4. A case that is not possible here says so and is not
hidden; and a log that acknowledges too early is found, or the cases would prove nothing.
*/

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use serde_json::Value;
use std::{
    fs,
    io::{self, Write},
    process::{Command, Output},
};

const HARNESS: &str = env!("CARGO_BIN_EXE_wal-harness");

fn errors(arguments: &[&str]) -> Output {
    let output = Command::new(HARNESS)
        .args(["errors", "--require", "--json", "--seed", "7", "--kills", "60"])
        .args(arguments)
        .output()
        .unwrap();
    if output.status.code() == Some(2) {
        // Past the test's own capture: a skip must be seen.
        io::stderr().write_all(&output.stderr).unwrap();
    }
    output
}

fn answers(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the case found, for each way it was run; none where it was skipped.
fn passes(file_system: &str, name: &str) -> Vec<Value> {
    let output = errors(&["--fs", file_system, "--only", name]);
    if output.status.code() == Some(2) {
        return Vec::new();
    }
    let answers = answers(&output);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{answers:#?} {complaint}");
    assert!(!answers.is_empty(), "{name} did not run");
    for answer in &answers {
        assert_eq!(answer["verdict"], "pass", "{answer}");
        assert_eq!(answer["case"], name);
    }
    answers.into_iter().map(|mut answer| answer["found"].take()).collect()
}

#[test]
fn a_failed_write_latches() {
    for found in passes("ext4", "eio-write-range") {
        for run in found.as_array().unwrap() {
            assert!(run["failed_writes"].as_u64() > Some(0), "{run}");
            assert!(run["acknowledged"].as_u64() < run["begun"].as_u64(), "{run}");
        }
    }
}

#[test]
fn a_failed_flush_latches() {
    for found in passes("ext4", "eio-flush") {
        assert_eq!(found.as_array().unwrap().len(), 4, "{found}");
    }
}

#[test]
fn a_failed_flush_that_drops_the_cache_takes_nothing_acknowledged_along() {
    for found in passes("ext4", "eio-flush-drops") {
        assert!(found["latched"].as_u64() > Some(2), "{found}");
    }
}

#[test]
fn a_failed_write_ahead_latches() {
    for found in passes("ext4", "eio-ahead") {
        let runs = found.as_array().unwrap();
        assert_eq!(runs.len(), 2, "{found}");
        // The zeros themselves, then the flush after them.
        assert!(runs[0]["failed_writes"].as_u64() > Some(0), "{found}");
        assert!(runs[1]["failed_flushes"].as_u64() > Some(0), "{found}");
        for run in runs {
            assert!(run["acknowledged"].as_u64() > Some(0), "{run}");
            assert!(run["acknowledged"].as_u64() <= run["recovered"].as_u64(), "{run}");
        }
    }
}

#[test]
fn an_unreadable_frame_is_told() {
    for found in passes("ext4", "eio-read") {
        for run in found.as_array().unwrap() {
            // Six frames, each opened in two ways, and one of these cuts.
            assert_eq!(run["refusals"].as_array().unwrap().len(), 11, "{run}");
        }
    }
}

#[test]
fn an_unreadable_header_is_told() {
    for found in passes("ext4", "eio-read-header") {
        assert!(found["answers"].as_array().unwrap().len() > 8, "{found}");
    }
}

#[test]
fn a_thin_disk_runs_out() {
    for found in passes("ext4", "thin-enospc") {
        assert_eq!(found["latched"], false, "{found}");
        assert!(found["went_on"].as_u64() > Some(30), "{found}");
    }
}

/// Every write takes new room there, also a commit.
#[test]
fn a_thin_disk_runs_out_under_copy_on_write() {
    for found in passes("btrfs", "thin-enospc") {
        assert_eq!(found["latched"], true, "{found}");
    }
}

#[test]
fn a_full_file_system_is_freed_by_a_checkpoint() {
    for found in passes("ext4", "small-fs-full") {
        assert!(found["acknowledged"].as_u64() > found["held"].as_u64(), "{found}");
    }
}

#[test]
fn large_sectors() {
    for found in passes("ext4", "4kn") {
        assert!(found["refused"].as_str().unwrap().contains("4096"), "{found}");
    }
}

#[test]
fn a_file_system_that_is_shut_down() {
    passes("ext4", "shutdown");
    passes("xfs", "shutdown");
}

#[test]
fn a_file_system_that_makes_itself_read_only() {
    passes("ext4", "emergency-ro");
}

#[test]
fn a_file_system_that_is_read_only() {
    passes("ext4", "readonly-remount");
}

#[test]
fn a_limit_on_the_length_of_files() {
    passes("ext4", "rlimit-fsize");
}

#[test]
fn a_limit_on_the_number_of_files() {
    for found in passes("ext4", "emfile") {
        assert!(found["refusals"].as_u64() > Some(2), "{found}");
    }
}

#[test]
fn a_process_that_is_killed_at_every_call() {
    for found in passes("ext4", "kill-at-sync") {
        assert!(found["kills"].as_u64() >= Some(54), "{found}");
    }
}

/// A planted fault: acknowledged before anything is durable.
#[test]
fn an_early_acknowledgement_is_found() {
    let arguments = ["--fs", "ext4", "--acknowledge-early", "--only"];
    for name in ["eio-write-range", "eio-flush", "shutdown", "rlimit-fsize", "kill-at-sync"] {
        let output = errors(&[&arguments[..], &[name]].concat());
        if output.status.code() == Some(2) {
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(answers(&output).iter().any(|answer| answer["verdict"] == "fail"), "{name}");
    }
}

#[test]
fn nothing_is_left_behind() {
    let devices = || {
        let text = Command::new("losetup").arg("--list").output().unwrap().stdout;
        String::from_utf8(text).unwrap().matches("/errors-left-").count()
    };
    let place = tempfile::Builder::new().prefix("errors-left-").tempdir().unwrap();
    let only = "eio-flush,shutdown,emergency-ro,kill-at-sync";
    let status = Command::new(HARNESS)
        .args(["errors", "--fs", "ext4", "--kills", "6", "--only", only])
        .env("TMPDIR", place.path())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "files");
    assert_eq!(devices(), 0, "loop devices");
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains("/errors-left-"), "mounts");
}

#[test]
fn a_case_that_does_not_exist_is_a_wrong_command_line() {
    let output = Command::new(HARNESS).args(["errors", "--only", "fire"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}
