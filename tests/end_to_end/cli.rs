//! The `wal` command, as a program that other programs and people run.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use crate::{
    craft::{Disk, Entry, Pen, flip, payload, skipped, slot, small, unpack},
    program::{Place, WAL, good, objects, place, status, wal},
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use wal::format::{Origin, Purpose};

fn texts(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["text"].as_str().unwrap()).collect()
}

/// Lines go in through a pipe and come out of a dump, in order and byte for byte, over two runs;
/// the last line needs no newline, and an empty one is a record.
#[test]
fn lines_that_are_appended_are_dumped() {
    let place = place();
    let dir = place.text();
    let said = good(&["append", dir, "--segment-bytes", "65536"], b"one\n\ntwo \xc3\xa4\n");
    assert!(said.contains("records 3 bytes 9"), "{said}");
    let said = good(&["append", dir, "--json"], b"three");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["records"], &said["bytes"]), (&1.into(), &5.into()));
    let records = objects(&good(&["dump", dir, "--json"], b""));
    assert_eq!(texts(&records), ["one", "", "two ä", "three"]);
    assert_eq!(records[3]["lsn"], said["first"]);
    assert_eq!(records[3]["lsn"], said["last"]);
    let lsns: Vec<_> = records.iter().map(|record| record["lsn"].as_u64().unwrap()).collect();
    assert!(lsns.is_sorted_by(|a, b| a < b), "{lsns:?}");
    assert!(records.iter().all(|record| record["ends_batch"] == true));

    let nothing = good(&["append", dir], b"");
    assert!(nothing.contains("nothing"), "{nothing}");
    let text = good(&["dump", dir], b"");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].ends_with("\tone") && lines[1].ends_with("\t0\t"), "{lines:?}");
}

/// Somebody pipes a file without newlines into the log. What came before the monster is durable,
/// and the message says which line it was; nothing of it, and nothing after it, is there.
#[test]
fn line_that_is_too_long_loses_nothing_before_it() {
    let place = place();
    let dir = place.text();
    let input =
        [b"before\nalso before\n".to_vec(), vec![b'x'; 70_000], b"\nafter\n".to_vec()].concat();
    let output = wal(&["append", dir, "--segment-bytes", "65536"], &input);
    assert_eq!(status(&output), 1, "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("line 3"), "{complaint}");
    assert!(complaint.contains("bytes"), "{complaint}");
    let records = objects(&good(&["dump", dir, "--json"], b""));
    assert_eq!(texts(&records), ["before", "also before"]);
    assert_eq!(status(&wal(&["verify", dir], b"")), 0);
}

/// Records that hold newlines and bytes of no text, with their lengths before them; input that ends
/// inside one, and a length of four gigabytes.
#[test]
fn length_prefixed_records_keep_every_byte() {
    let place = place();
    let dir = place.text();
    let payloads = [b"a\nb".to_vec(), Vec::new(), vec![0xff, 0, 10], payload(1, 30_000)];
    let mut input = Vec::new();
    for payload in &payloads {
        input.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        input.extend_from_slice(payload);
    }
    let append = ["append", dir, "--length-prefixed", "--segment-bytes", "65536"];
    good(&append, &input);
    let hex = |payload: &Vec<u8>| payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected: Vec<String> = payloads.iter().map(hex).collect();
    let dumped = || -> Vec<String> {
        let records = objects(&good(&["dump", dir, "--json", "--hex"], b""));
        records.iter().map(|record| record["hex"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(dumped(), expected);

    for bad in [&b"\x05\0\0\0abc"[..], b"\x05\0", b"\xff\xff\xff\xff"] {
        let output = wal(&append, &[b"\x01\0\0\0z", bad].concat());
        assert_eq!(status(&output), 1, "{output:?}");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(complaint.contains("record 2"), "{complaint}");
    }
    assert_eq!(dumped()[4..], ["7a", "7a", "7a"]);
}

/// A log too long to look at whole: from a place on, so many records, in hexadecimal.
#[test]
fn dump_begins_and_ends_where_it_is_told() {
    let place = place();
    let dir = place.text();
    let input: String = (0..200).map(|number| format!("record {number}\n")).collect();
    good(&["append", dir, "--segment-bytes", "65536"], input.as_bytes());
    let all = objects(&good(&["dump", dir, "--json"], b""));
    assert_eq!(all.len(), 200);
    let from = all[50]["lsn"].to_string();
    let some = objects(&good(&["dump", dir, "--json", "--from", &from, "--limit", "3"], b""));
    assert_eq!(some, all[50..53]);
    let between = (all[50]["lsn"].as_u64().unwrap() + 1).to_string();
    let some = objects(&good(&["dump", dir, "--json", "--from", &between, "--limit", "1"], b""));
    assert_eq!(some, all[51..52]);
    assert_eq!(good(&["dump", dir, "--limit", "0"], b""), "");
    assert_eq!(good(&["dump", dir, "--from", "18446744073709551615"], b""), "");
    let hex = good(&["dump", dir, "--hex", "--limit", "1"], b"");
    assert!(hex.trim_end().ends_with("\t7265636f72642030"), "{hex}");
}

/// `wal dump | head`: the reader has seen enough and leaves. No message, no failure.
#[test]
fn dump_closes_quietly_when_nobody_reads_on() {
    let place = place();
    let dir = place.text();
    let line = [vec![b'y'; 999], b"\n".to_vec()].concat();
    good(&["append", dir], &line.repeat(4000));
    for arguments in [&["dump", dir][..], &["dump", dir, "--json"]] {
        let mut child = Command::new(&*WAL)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut first).unwrap();
        assert!(first.len() > 999, "{first}");
        drop(reader);
        let mut complaint = String::new();
        child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        assert_eq!(complaint, "");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// The list of segments, for people and for programs: in the order of the log, with what each
/// holds.
#[test]
fn ls_shows_what_is_where() {
    let place = place();
    let dir = place.text();
    let line = [vec![b'y'; 9_999], b"\n".to_vec()].concat();
    good(&["append", dir, "--segment-bytes", "65536"], &line.repeat(20));
    let segments = objects(&good(&["ls", dir, "--json"], b""));
    let states: Vec<_> = segments.iter().map(|s| s["state"].as_str().unwrap()).collect();
    assert!(states.starts_with(&["live", "live"]), "{states:?}");
    assert_eq!(states.iter().filter(|state| **state == "active").count(), 1, "{states:?}");
    for (index, segment) in segments.iter().enumerate() {
        for key in [
            "file",
            "slot",
            "state",
            "sequence",
            "base",
            "end",
            "used_bytes",
            "segment_bytes",
            "frames",
            "records",
            "epoch_first",
            "epoch_last",
        ] {
            assert!(segment.get(key).is_some(), "{key} in {segment}");
        }
        assert_eq!(segment["sequence"], index, "{segment}");
        assert_eq!(segment["base"], index * 65_536, "{segment}");
        assert!(place.path.join(segment["file"].as_str().unwrap()).exists());
    }
    let records: u64 = segments.iter().map(|s| s["records"].as_u64().unwrap()).sum();
    assert_eq!(records, 20, "{segments:?}");
    let text = good(&["ls", dir], b"");
    assert_eq!(text.lines().count(), segments.len() + 1, "{text}");
    assert!(text.contains("SEQUENCE") && text.contains("active"), "{text}");
}

/// `verify` in a script: 0 for a log that is whole, 1 for a torn tail, 2 for damage, 3 for what
/// cannot be read at all, 64 for a wrong command line. Nothing that only looks changes a byte.
#[test]
fn status_of_verify_tells_what_it_found() {
    let (torn, corrupt) = damaged();
    let whole = place();
    good(&["append", whole.text(), "--segment-bytes", "65536"], b"one\ntwo\n");
    let absent = place();
    for (place, expected, word) in [
        (&whole, 0, "clean"),
        (&torn, 1, "torn_tail"),
        (&corrupt, 2, "corrupt"),
        (&absent, 3, "unreadable"),
    ] {
        let before = contents(&place.path);
        let output = wal(&["verify", place.text()], b"");
        assert_eq!(status(&output), expected, "{output:?}");
        let output = wal(&["verify", place.text(), "--json"], b"");
        assert_eq!(status(&output), expected, "{output:?}");
        let said = objects(&String::from_utf8(output.stdout).unwrap());
        let verdict = said.last().unwrap();
        assert_eq!((&verdict["type"], &verdict["verdict"]), (&"verdict".into(), &word.into()));
        let damages: Vec<_> = said.iter().filter(|said| said["type"] == "damage").collect();
        match expected {
            0 => assert!(damages.is_empty()),
            1 => assert!(verdict["cut"]["at"].is_u64(), "{verdict}"),
            2 => {
                let damage = damages[0];
                for key in ["path", "segment", "offset", "lsn", "expected", "found"] {
                    assert!(!damage[key].is_null(), "{key} in {damage}");
                }
            }
            _ => {}
        }
        for command in ["ls", "dump"] {
            let output = wal(&[command, place.text()], b"");
            let status = status(&output);
            assert!([0, expected].contains(&status), "{command}: {output:?}");
        }
        assert_eq!(contents(&place.path), before, "{word}: something was written");
    }
    assert!(!absent.path.exists());
    for bad in [&["verify"][..], &["nonsense"], &["dump", "x", "--limit", "many"], &[]] {
        assert_eq!(status(&wal(bad, b"")), 64, "{bad:?}");
    }
    assert!(good(&["--help"], b"").contains("verify"));
    assert!(good(&["--version"], b"").contains("0."));
}

/// A log with a torn tail, and the same with a damaged frame that a later one vouches for.
fn damaged() -> (Place, Place) {
    let mut disk = Disk::new();
    disk.segment(0, 0, Origin::Zeroed);
    disk.segment(1, 1, Origin::Zeroed);
    let mut pen = Pen::new(&disk, 0);
    let mut frames = Vec::new();
    for number in 0..4 {
        let frame = pen.frame(Purpose::Records, &[Entry::Data(&payload(number, 200))]);
        disk.put(frame.lsn, &frame.bytes);
        pen.vouch();
        frames.push(frame);
    }
    let places = [frames[3].lsn, frames[1].lsn].map(|lsn| {
        let storage = disk.load();
        flip(&storage, &slot(0), lsn + 100, 3);
        let place = place();
        unpack(&crate::craft::save(&storage), &place.path);
        place
    });
    let [torn, corrupt] = places;
    (torn, corrupt)
}

fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut contents: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    contents.sort_unstable();
    contents
}

/// A service died right after a commit. Its last record is there, and nothing behind it says that it was
/// acknowledged: who looks for it in the dump has to hear of it.
#[test]
fn dump_tells_of_records_that_nothing_proves() {
    let (disk, _, frames) = crate::craft::crashed(0..3, 50);
    let place = place();
    unpack(&crate::craft::save(&disk.load()), &place.path);
    let dump = |arguments: &[&str]| {
        let output = wal(&[&["dump", place.text()], arguments].concat(), b"");
        assert_eq!(status(&output), 0, "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap().lines().count();
        (lines, String::from_utf8(output.stderr).unwrap())
    };
    let (lines, complaint) = dump(&[]);
    assert_eq!(lines, 2);
    let lsn = frames[2].records[0].0;
    assert!(complaint.contains(&format!("1 more from lsn {lsn} on")), "{complaint}");
    assert_eq!(
        dump(&["--limit", "1"]),
        (1, String::new()),
        "there was more, but none was asked for"
    );
    // A close vouches for it.
    assert_eq!(status(&wal(&["append", place.text()], b"")), 0);
    assert_eq!(dump(&[]), (3, String::new()));
}

/// Backups run as a user who may read the log's directory and not write there. Looking works; an append
/// is refused with the place and the reason, and changes nothing.
#[test]
fn a_directory_that_may_not_be_written_is_read_all_the_same() {
    const NOBODY: u32 = 65534;
    let place = place();
    good(&["append", place.text()], b"one\ntwo\n");
    // Where another user gets at it.
    let program = place.path.with_file_name("wal");
    fs::copy(&*WAL, &program).unwrap();
    for (path, mode) in
        [(place.path.parent().unwrap(), 0o755), (&program, 0o755), (&place.path, 0o555)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for (path, _) in contents(&place.path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    }
    let before = contents(&place.path);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg(place.text()).stdin(Stdio::null());
        // Root may write everywhere.
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.output().unwrap()
    };
    for looking in ["verify", "ls", "dump"] {
        let output = run(&[looking]);
        assert_eq!(status(&output), 0, "{looking}: {output:?}");
    }
    assert!(String::from_utf8(run(&["dump"]).stdout).unwrap().contains("two"));
    let output = run(&["append"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status(&output), 3, "{complaint}");
    assert!(
        complaint.contains("ermission denied") && complaint.contains(place.text()),
        "{complaint}"
    );
    assert_eq!(contents(&place.path), before);
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// An append to a damaged log must not "repair" it, and one to a torn log says what it cut.
#[test]
fn append_tells_what_it_cut_and_refuses_damage() {
    let (torn, corrupt) = damaged();
    let before = contents(&corrupt.path);
    let output = wal(&["append", corrupt.text()], b"more\n");
    assert_eq!(status(&output), 2, "{output:?}");
    let after: Vec<_> = contents(&corrupt.path);
    let after: Vec<_> = after.into_iter().filter(|(path, _)| !path.ends_with("lock")).collect();
    assert_eq!(after, before);

    let output = wal(&["append", torn.text()], b"more\n");
    assert_eq!(status(&output), 0, "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("torn"), "{complaint}");
    assert_eq!(status(&wal(&["verify", torn.text()], b"")), 0);
    assert_eq!(good(&["dump", torn.text()], b"").lines().count(), 4);
}

/// Two writers start on one log: the second is told who has it, and changes nothing. Readers need
/// no lock.
#[test]
fn second_writer_is_told_who_has_the_log() {
    let place = place();
    let mut replay = small().open(&place.path).unwrap();
    replay.skip_rest();
    let (log, _) = replay.finish().unwrap();
    log.append(b"mine").unwrap().wait().unwrap();
    log.append(b"vouches for it").unwrap().wait().unwrap();
    let output = wal(&["append", place.text()], b"theirs\n");
    assert_eq!(status(&output), 3, "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains(&std::process::id().to_string()), "{complaint}");
    let dumped = good(&["dump", place.text()], b"");
    assert!(dumped.contains("mine") && !dumped.contains("theirs"), "{dumped}");
    good(&["ls", place.text()], b"");
    log.close().unwrap();
}

/// A limit on the size of files is reached in the middle of a pipe. What was acknowledged is there.
#[test]
fn limit_on_file_size_is_a_clean_error() {
    let place = place();
    let dir = place.text();
    good(&["append", dir, "--segment-bytes", "65536"], b"first\n");
    // The kernel's signal would end the program as a crash; ignored, the write fails instead.
    // Blocks of 512 or 1024 bytes, depending on the shell: either is less than a segment.
    let script = "trap '' XFSZ; ulimit -f 40 || exit 77; exec \"$0\" append \"$1\"";
    let lines: String = (0..3000).map(|number| format!("line {number}\n")).collect();
    let input = lines.repeat(10);
    let mut child = Command::new("sh")
        .args(["-c", script, WAL.to_str().unwrap(), dir])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    if output.status.code() == Some(77) {
        skipped("this shell cannot limit the size of files");
        return;
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!([1, 3].contains(&status(&output)), "{output:?}");
    assert!(!complaint.is_empty());
    let dumped = good(&["dump", dir], b"");
    assert!(dumped.lines().next().unwrap().ends_with("first"), "{complaint}: {dumped}");
    assert_eq!(status(&wal(&["append", dir], b"goes on\n")), 0);
    assert!([0, 1].contains(&status(&wal(&["verify", dir], b""))));
}

/// The torture that a user runs to convince himself: it must pass, say so in the form that was
/// promised, and have done something.
#[test]
fn torture_passes_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let path = path.to_str().unwrap();
    let said = good(&["torture", "--seconds", "3", "--json", "--dir", path, "--allow-tmpfs"], b"");
    let summary: Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!(summary["verdict"], "pass", "{summary}");
    for key in ["cycles", "kills", "acked", "recovered"] {
        assert!(summary[key].as_u64().is_some_and(|count| count > 0), "{key}: {summary}");
    }
    for key in ["lost", "phantom"] {
        assert_eq!(summary[key], 0, "{key}: {summary}");
    }
    for key in ["torn_tails", "appends_per_second", "p50_us", "p99_us", "p999_us", "seed"] {
        assert!(summary[key].is_number(), "{key}: {summary}");
    }
    assert!(summary["error"].is_null() && summary["findings"] == Value::Array(Vec::new()));
}

/// A harness that cannot fail proves nothing: with a child that acknowledges too early the torture
/// must find lost records.
#[test]
fn torture_finds_a_planted_bug() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let path = path.to_str().unwrap();
    let arguments =
        ["torture", "--seconds", "20", "--json", "--canary", "--dir", path, "--allow-tmpfs"];
    let output = wal(&arguments, b"");
    assert_eq!(status(&output), 1, "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["verdict"], "fail", "{summary}");
    assert!(summary["lost"].as_u64().is_some_and(|count| count > 0), "{summary}");
}
