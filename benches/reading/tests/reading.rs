//! The program itself, for a moment: every way moves all of a small log, in both rounds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

/// Runs the program in a directory below the build's, and leaves the machine's caches alone.
fn reading(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reading"));
    command.args("--mib 4 --rounds 2 --keep-caches".split(' ')).args(words.split_whitespace());
    let output = command.arg("--dir").arg(Path::new(env!("CARGO_TARGET_TMPDIR"))).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("CACHES ARE NOT DROPPED"), "{errors}");
    output
}

fn names(ways: &Value) -> Vec<&str> {
    ways.as_array().unwrap().iter().map(|way| way["name"].as_str().unwrap()).collect()
}

/// That each moved the same bytes the program sees to in every round; here, that none was left out.
#[test]
fn all_ways_move_the_same_bytes() {
    let value: Value = serde_json::from_slice(&reading("--json").stdout).unwrap();
    let [read, sent] = [0, 1].map(|number| &value["contests"][number]);
    assert_eq!(read["bytes"], 4 << 20);
    let sent_bytes = sent["bytes"].as_u64().unwrap();
    assert!(sent_bytes > 4 << 20 && sent_bytes < 5 << 20, "{sent_bytes}");
    let expected = [
        "the log's replay",
        "mapped x 1",
        "mapped x 4",
        "mapped, populated x 1",
        "mapped, populated x 4",
        "page cache, read x 1",
        "page cache, read x 4",
        "direct, whole x 1",
        "direct, whole x 4",
        "direct, 256 KiB x 1",
        "direct, 256 KiB x 4",
    ];
    assert_eq!(names(&read["ways"]), expected);
    let expected = ["sendfile", "direct, one ahead, + write", "mapped + write"];
    assert_eq!(names(&sent["ways"]), expected);
    for way in [read, sent].iter().flat_map(|contest| contest["ways"].as_array().unwrap()) {
        for rounds in [&way["cold"], &way["warm"]] {
            assert_eq!(rounds["mib_per_second"].as_array().unwrap().len(), 2, "{way}");
            assert_eq!(rounds["cpu_seconds_per_gib"].as_array().unwrap().len(), 2, "{way}");
        }
    }
}

/// A table whose cold figures are warm must say so where it is quoted from.
#[test]
fn a_table_says_that_it_is_not_cold() {
    let text = String::from_utf8(reading("").stdout).unwrap();
    assert!(text.contains("NOT COLD MiB/s") && !text.contains(" cold MiB/s"), "{text}");
    assert!(text.contains("\nmapped + write "), "{text}");
}

#[test]
fn a_wrong_command_line_is_told() {
    for words in [&["--mib", "0"][..], &["--rounds"], &["--log"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_reading")).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
}
