//! The program itself, for a moment: every contestant that was built appends, runs ahead, and gives its
//! records back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

/// Runs the program in a directory of its own below the build's.
fn peers(words: &str) -> Output {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_peers"));
    command.args(words.split_whitespace()).arg("--dir").arg(base);
    command.output().unwrap()
}

/// The same, and what it wrote down.
fn measured(name: &str, words: &str) -> Value {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    let brief = "--rounds 1 --seconds 0.02 --unverified";
    let output = peers(&format!("{brief} {words} --json {}", path.display()));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fs::remove_file(path).unwrap();
    value
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// The names of the contestants that were built.
fn built(value: &Value) -> Vec<&str> {
    list(&value["contestants"]).iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

/// Why a contestant has no figures, by name: those for which that is right.
const EXCUSED: [(&str, &str, &str); 6] = [
    ("recovery", "nodedb-wal", "records of"),
    ("producers", "okaywal", "not offered"),
    ("producers", "walrus", "not offered"),
    ("producers", "redb", "not offered"),
    ("producers", "sqlite", "not offered"),
    ("producers", "nodedb-wal", "not offered"),
];

/// In each cell everyone has a round, or is excused.
fn assert_complete(value: &Value) {
    for cell in list(&value["cells"]) {
        for standing in list(&cell["standings"]) {
            let is_excused = EXCUSED.iter().any(|(workload, name, why)| {
                cell["workload"] == *workload
                    && standing["name"] == *name
                    && standing["unranked"].as_str().is_some_and(|text| text.contains(why))
            });
            let rounds = list(&standing["rounds"]);
            assert!(is_excused || rounds.len() == 1, "{}: {standing}", cell["title"]);
            let is_positive = |round: &Value| round["per_second"].as_f64().unwrap() > 0.0;
            assert!(rounds.iter().all(is_positive), "{}: {standing}", cell["title"]);
        }
    }
}

#[test]
fn everyone_appends_and_runs_ahead() {
    let words = "--workload durable,pipelined,bulk,producers --writers 3 --payload 100";
    let value = measured("write", words);
    let cells = list(&value["cells"]);
    assert_eq!(cells.len(), 4);
    for cell in cells {
        assert_eq!(list(&cell["standings"]).len(), built(&value).len());
    }
    assert_complete(&value);
    if built(&value).len() > 1 {
        assert!(list(&value["bounds"]).len() >= 3, "{}", value["bounds"]);
    }
}

/// As many records as were written: who has fewer is told of.
#[test]
fn everyone_gives_its_records_back() {
    let value = measured("recovery", "--workload recovery --recovery-mib 3");
    let cells = list(&value["cells"]);
    for name in built(&value).iter().filter(|name| **name != "wal") {
        let is_there = |cell: &Value| cell["standings"][1]["name"].as_str() == Some(name);
        // Other forms of one have its files.
        let is_form = ["-at-once", "-direct"].iter().any(|form| name.ends_with(form));
        assert_eq!(cells.iter().any(is_there), !is_form, "{name}");
    }
    assert_complete(&value);
    for cell in cells {
        let names: Vec<_> = list(&cell["standings"]).iter().map(|s| &s["name"]).collect();
        assert_eq!((names.len(), names[0].as_str()), (2, Some("wal")));
    }
}

#[test]
fn who_never_syncs_is_found_out() {
    let output = peers("--verify-sync --only unsynced");
    assert!(output.status.success());
    if String::from_utf8_lossy(&output.stderr).contains("SKIPPED") {
        eprintln!("SKIPPED: no strace here: whether a contestant syncs is not verified");
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |name| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("unsynced ").contains("256 of 256 acknowledged before a sync"), "{text}");
    assert!(!line("wal ").contains("NOT RANKED") && line("wal ").contains(" 0/256 "), "{text}");
}

#[test]
fn a_wrong_command_line_is_told_of() {
    for words in ["--only sled", "--workload all", "--rounds 0"] {
        assert_eq!(peers(words).status.code(), Some(64), "{words}");
    }
    let output = peers("--list");
    assert!(output.status.success() && output.stdout.len() > 100);
}
