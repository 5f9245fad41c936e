//! The program itself, for a moment.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "what is skipped is said loudly")]

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

/// It refuses: the system does not have what is to be measured.
const EXIT_REFUSED: i32 = 2;

fn ring(words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ring"));
    command.args(words.split_whitespace()).output().unwrap()
}

/// Runs it in a directory of its own below the build's; `None` where the system refuses.
fn speed(words: &str) -> Option<String> {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let brief = format!("speed --rounds 1 --seconds 0.02 --mib 16 {words} --dir");
    let output = ring(&format!("{brief} {}", base.display()));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(EXIT_REFUSED) {
        assert!(errors.starts_with("SKIPPED: "), "{errors}");
        eprint!("{errors}");
        return None;
    }
    assert!(output.status.success(), "{errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn both_ways_write_in_every_cell() {
    let Some(text) = speed("--json") else { return };
    let value: Value = serde_json::from_str(&text).unwrap();
    let cells = value["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 9);
    for cell in cells {
        for way in ["threads", "ring"] {
            let rounds = cell[way].as_array().unwrap();
            assert_eq!(rounds.len(), 1, "{cell}");
            let figure = |name: &str| rounds[0][name].as_f64().unwrap();
            assert!(figure("per_second") > 0.0 && figure("p50_us") > 0.0, "{cell}");
            assert!(figure("p50_us") <= figure("p99_us"), "{cell}");
        }
    }
}

#[test]
fn the_table_has_both_ways() {
    let Some(text) = speed("") else { return };
    for way in ["threads ", "ring "] {
        assert_eq!(text.lines().filter(|line| line.starts_with(way)).count(), 9, "{text}");
    }
    assert!(text.contains("of the whole machine"), "{text}");
}

#[test]
fn a_wrong_command_line_is_told_of() {
    for words in ["", "speed --rounds 0", "killed --fast"] {
        assert_eq!(ring(words).status.code(), Some(64), "{words}");
    }
    assert!(ring("--help").status.success());
}
