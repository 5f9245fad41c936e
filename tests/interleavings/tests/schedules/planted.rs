//! Planted bugs: each has to be found by the programs named for it, and the schedule that is printed has to
//! find it again.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::{env, process::Command};
use wal_interleavings::REPLAY_VARIABLE;

/// The name of a bug, as `tests/mutants` has it, and the program whose schedules show it.
const PLANTED: &[(&str, &str)] = &[
    ("baton-dropped", "writers_in_a_closed_loop"),
    ("baton-dropped", "timeouts_and_dropped_tickets"),
    ("baton-dropped", "awaited_tickets"),
    ("room-not-offered", "a_queue_for_room"),
    ("acknowledged-out-of-order", "full_frames_in_flight"),
    ("acknowledged-before-durable", "writers_in_a_closed_loop"),
    ("acknowledged-before-durable", "a_dropped_handle"),
    ("next-segment-too-early", "full_frames_across_segments"),
    ("failure-not-latched", "a_failing_write"),
    ("failed-sync-retried", "a_failing_write"),
    ("reader-past-the-mark", "a_follower"),
    ("batch-without-bonds", "timeouts_and_dropped_tickets"),
    ("released-before-the-checkpoint", "rotation_and_release"),
    ("name-not-synced", "rotation_and_release"),
    ("zeros-not-synced", "rotation_and_release"),
    ("checkpoint-not-restated", "rotation_and_release"),
    ("close-not-confirmed", "close_beside_appends"),
    ("preparer-no-neighbour", "a_failing_flush_of_the_preparer"),
    ("shortage-counts-as-success", "a_failing_flush_of_the_preparer"),
    ("word-read-behind-the-yields", "writers_in_a_closed_loop"),
];

/// Programs that find no planted bug would find no other.
#[test]
fn every_planted_bug_is_found_and_found_again() {
    let mut missed = Vec::new();
    for (bug, program) in PLANTED {
        match run(program, bug, None) {
            None => missed.push(format!("{bug} by {program}")),
            Some(schedule) if run(program, bug, Some(&schedule)).is_none() => {
                missed.push(format!("{bug} by {program} replayed"));
            }
            Some(_) => {}
        }
    }
    assert!(missed.is_empty(), "not found: {}", missed.join(", "));
}

/// Runs a program of this very binary with a bug in it; answers the schedule that shows the bug.
fn run(program: &str, bug: &str, schedule: Option<&str>) -> Option<String> {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("programs::{program}"), "--nocapture"]);
    command.env("WAL_MUTANT", bug).env("RUST_BACKTRACE", "0");
    if let Some(schedule) = schedule {
        command.env(REPLAY_VARIABLE, schedule);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("running 1 test"), "there is no program {program}");
    if output.status.success() {
        return None;
    }
    let (_, after) = told.split_once("failing schedule:\n\"").unwrap();
    Some(after.split('"').next().unwrap().to_owned())
}
