//! `wal bench`, as a program that people run on their disks. Its figures are not judged here.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

fn bench(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wal")).arg("bench").args(words).output().unwrap()
}

/// A directory on the disk that the build is on: `/tmp` may be memory.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).unwrap().next().is_none()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Somebody asks for everything, as briefly as can be: each ratio is there, and nothing is left.
#[test]
fn every_ratio_is_measured() {
    let disk = disk();
    let (dir, page) = (disk.path().join("dir"), disk.path().join("page.html"));
    fs::create_dir(&dir).unwrap();
    let brief = ["--seconds", "0.2", "--rounds", "2", "--writers", "2,3", "--json", "--html"];
    let words = [&[dir.to_str().unwrap()], &brief[..], &[page.to_str().unwrap()]].concat();
    let output = bench(&words);
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    assert_eq!(complaint(&output), "", "progress is for terminals");
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Value = serde_json::from_str(text.trim_end()).unwrap();
    let ratios = found["ratios"].as_array().unwrap();
    let names: Vec<_> = ratios.iter().map(|ratio| ratio["name"].as_str().unwrap()).collect();
    let all = "R_lat R_grp(2) R_grp(3) R_busy(1) R_busy(2) R_busy(3) R_bw R_cpu R_rec R_rot \
               R_hold(recycled) R_hold(new) R_space(lone) R_space(full)";
    // And the same in the smallest blocks, where the device takes them.
    let names = names.join(" ");
    let rest = names.strip_prefix(all).unwrap_or_else(|| panic!("{names}"));
    assert!(["", " R_space(lone/512) R_space(full/512)"].contains(&rest), "{names}");
    for ratio in ratios {
        let figure = |key: &str| ratio[key].as_f64().unwrap_or_else(|| panic!("{key} of {ratio}"));
        let (low, median, high) = (figure("low"), figure("median"), figure("high"));
        // Nothing may be held up, and nobody get a turn beside others in so short a time.
        let name = ratio["name"].as_str().unwrap();
        let may_be_none = name.starts_with("R_hold") || name.starts_with("R_busy");
        assert!(low > 0.0 || may_be_none && low == 0.0, "{ratio}");
        assert!(low <= median && median <= high, "{ratio}");
    }
    let loads = found["per_commit"].as_array().unwrap().iter();
    let loads: Vec<_> = loads.map(|load| load["load"].as_str().unwrap()).collect();
    assert_eq!(loads, ["1 writer", "2 writers", "3 writers", "pipelined"]);
    for load in found["per_commit"].as_array().unwrap() {
        // A lone commit is at least a block and a call.
        assert!(load["frame_bytes"].as_f64().unwrap() >= 4096.0, "{load}");
        assert!(load["calls"].is_null() || load["calls"].as_f64().unwrap() > 0.9, "{load}");
    }
    assert_eq!(found["throughput"].as_array().unwrap().len(), 3);
    assert_eq!(found["timelines"].as_array().unwrap().len(), 2);
    assert_eq!(found["schema"], 1);
    let page = fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg").count(), 5);
    assert!(is_empty(&dir), "{:?}", fs::read_dir(&dir).unwrap().collect::<Vec<_>>());
}

/// One measurement, as a table.
#[test]
fn only_what_is_asked_for_is_measured() {
    let disk = disk();
    let dir = disk.path().to_str().unwrap();
    let output = bench(&[dir, "--only", "space", "--payload", "1000", "--seconds", "0.01"]);
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("R_space(lone)") && text.contains("R_space(full)"), "{text}");
    assert!(!text.contains("R_lat") && !text.contains("for each commit"), "{text}");
    // A thousand bytes of a block, and nearly all of a frame.
    let figure = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert!((0.2..0.25).contains(&figure("R_space(lone)")), "{text}");
    assert!((0.9..1.0).contains(&figure("R_space(full)")), "{text}");
    if text.contains("R_space(lone/512)") {
        // Three blocks.
        assert!((0.6..0.7).contains(&figure("R_space(lone/512)")), "{text}");
    }
    assert!(is_empty(disk.path()));
}

/// No directory, no room, no rights: a sentence that says where, and the status of what cannot be read
/// or written.
#[test]
fn places_that_cannot_be_measured_are_named() {
    let disk = disk();
    let file = disk.path().join("file");
    fs::write(&file, b"x").unwrap();
    let missing = disk.path().join("missing");
    // Nothing is ever free there.
    for place in [missing.as_path(), file.as_path(), Path::new("/proc")] {
        let output = bench(&[place.to_str().unwrap()]);
        let said = complaint(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(place.to_str().unwrap()), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(!missing.exists());

    let closed = disk.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let mut rights = fs::metadata(&closed).unwrap().permissions();
    rights.set_readonly(true);
    fs::set_permissions(&closed, rights).unwrap();
    if fs::write(closed.join("try"), b"x").is_ok() {
        // Past the test's own capture: a skip must be seen.
        let what = b"SKIPPED: a directory without write permission: this user may write anywhere\n";
        std::io::stderr().write_all(what).unwrap();
        return;
    }
    let output = bench(&[closed.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(complaint(&output).contains("closed"), "{}", complaint(&output));
}

/// The page could not be written in the end: that is said before anything is measured.
#[test]
fn page_that_cannot_be_written_is_refused_first() {
    let disk = disk();
    let dir = disk.path().to_str().unwrap();
    for page in [disk.path().join("missing/page.html"), disk.path().to_path_buf()] {
        let output = bench(&[dir, "--html", page.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(3));
        assert!(complaint(&output).contains(page.to_str().unwrap()), "{}", complaint(&output));
    }
    assert!(is_empty(disk.path()));
}

#[test]
fn wrong_command_lines_are_refused() {
    for words in
        [&[][..], &["/", "--only", "speed"], &["/", "--writers", "1"], &["/", "--rounds", "0"]]
    {
        assert_eq!(bench(words).status.code(), Some(64), "{words:?}");
    }
}

/// The system refuses a write in the middle of a run: the message says so, and nothing is left.
#[test]
fn refused_write_ends_the_run_and_leaves_nothing() {
    let disk = disk();
    // No file may be longer than a megabyte; the signal that says so is ignored, the error is not.
    let script = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" bench \"$1\" --seconds 0.1";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_wal")])
        .arg(disk.path())
        .output()
        .unwrap();
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("too large") && said.lines().count() == 1, "{said}");
    assert!(is_empty(disk.path()));
}

/// Somebody presses Ctrl-C in the middle: the directory goes, whatever the log is doing in it.
#[test]
fn interrupted_run_leaves_nothing() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let disk = disk();
        let mut child = Command::new(env!("CARGO_BIN_EXE_wal"))
            .arg("bench")
            .arg(disk.path())
            .args(["--only", "latency", "--seconds", "600"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Until the log is there, so that there is something to remove and somebody who writes to it.
        let has_log = || {
            let mut places = fs::read_dir(disk.path()).unwrap().flatten();
            places.any(|place| place.path().join("latency/identity").exists())
        };
        while !has_log() {
            assert!(child.try_wait().unwrap().is_none(), "it ended early");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let killed = Command::new("kill").args(["-s", signal]).arg(child.id().to_string()).status();
        assert!(killed.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = complaint(&output);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains("nothing is left behind") && said.lines().count() == 1, "{said}");
        assert!(output.stdout.is_empty());
        assert!(is_empty(disk.path()), "{signal}");
    }
}

/// Somebody ends the program while the processors are kept busy beside it, with or without asking: whoever
/// kept them busy ends with it.
#[test]
fn busy_processes_end_with_the_run() {
    for signal in ["INT", "KILL"] {
        let disk = disk();
        let mut child = Command::new(env!("CARGO_BIN_EXE_wal"))
            .arg("bench")
            .arg(disk.path())
            .args(["--only", "busy", "--seconds", "1", "--rounds", "1000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let id = child.id();
        while busy_processes(id).len() < 2 {
            assert!(child.try_wait().unwrap().is_none(), "it ended early");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let killed = Command::new("kill").args(["-s", signal]).arg(id.to_string()).status();
        assert!(killed.unwrap().success());
        child.wait().unwrap();
        // One that stays keeps this test from its end.
        while !busy_processes(id).is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// The numbers of the processes that are busy beside process `parent`.
fn busy_processes(parent: u32) -> Vec<String> {
    let words = format!("--busy-beside\0{parent}\0");
    let is_busy = |process: &fs::DirEntry| {
        // It may end meanwhile.
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        command.ends_with(&words)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(is_busy);
    processes.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}
