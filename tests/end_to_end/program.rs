//! The `wal` program, built and run.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use serde_json::Value;
use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

/// The program, built once, beside the test itself and in the same profile.
pub(crate) static WAL: LazyLock<PathBuf> = LazyLock::new(|| {
    // <target>/<profile>/deps/end_to_end-<hash>
    let test = std::env::current_exe().unwrap();
    let profile_dir = test.parent().unwrap().parent().unwrap();
    let target_dir = profile_dir.parent().unwrap();
    let profile = match profile_dir.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let built = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--package", "wal-cli", "--profile", profile])
        .arg("--target-dir")
        .arg(target_dir)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    profile_dir.join("wal")
});

pub(crate) fn wal(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(&*WAL)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // On a thread of its own: a program that answers before it has read all must not wait for us.
    // One that stops reading early breaks the pipe, and its answer tells why.
    let writing = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

pub(crate) fn status(output: &Output) -> i32 {
    let code = output.status.code();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!complaint.contains("panicked"), "{complaint}");
    code.unwrap_or_else(|| panic!("{:?}: {complaint}", output.status))
}

/// The output of a run that must go well.
pub(crate) fn good(arguments: &[&str], input: &[u8]) -> String {
    let output = wal(arguments, input);
    assert_eq!(status(&output), 0, "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A place for a log that is gone afterwards.
pub(crate) struct Place {
    _dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    Place { _dir: dir, path }
}

impl Place {
    pub(crate) fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }
}
