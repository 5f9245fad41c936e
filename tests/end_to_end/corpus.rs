//! Every input that a fuzzer began with, kept or failed on, given to its target again.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use crate::source::root;
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};
use wal_tests::{
    fuzzing::{Reached, TARGETS, Target},
    without_hanging,
};

/// Inputs that must be there, and as small as this.
const BYTES_MAX: usize = 4096;

/// What each corpus has to lead to, so that no kind of log is forgotten.
const EVERY_VERDICT: &[&str] = &[
    "clean",
    "torn tail",
    "corrupt: frame",
    "corrupt: bad header",
    "corrupt: other log",
    "corrupt: identity",
    "finished",
    "appended",
];
const DECODED: &[&str] = &["an identity", "a segment header", "a frame header", "created"];
const RECOVERED: &[&str] = &["corrupt further on", "corrupt: segment missing", "forged"];

const OPERATED: &[&str] = &[
    "died in a call",
    "died between calls",
    "a torn tail",
    "a clean close",
    "a checkpoint",
    "more than one segment",
    "found what nobody was told of",
    "lost what nobody was told of",
    "latched",
    "an open failed",
    "called back",
    "given up",
    "read to the end",
    "followed to the end",
    "somebody else looked",
];

/// The inputs of `target` in `fuzz/corpus` or `fuzz/findings`, in order.
fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = root().join("fuzz").join(folder).join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    let is_replayed = |name: &str| name != ".gitkeep";
    paths.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_replayed));
    paths.sort_unstable();
    paths
}

/// What all inputs of a target reach together. Every failure is told, not only the first.
fn replay(name: &'static str) -> Reached {
    let target: Target = TARGETS.iter().find(|(known, _)| *known == name).unwrap().1;
    let corpus = inputs("corpus", name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut reached = Reached::new();
    let mut failed = Vec::new();
    for path in corpus.into_iter().chain(inputs("findings", name)) {
        let data = fs::read(&path).unwrap();
        assert!(data.len() <= BYTES_MAX, "{path:?} is too large");
        let what = path.display().to_string();
        let outcome =
            catch_unwind(AssertUnwindSafe(|| without_hanging(&what, move || target(&data))));
        match outcome {
            Ok(names) => reached.extend(names),
            Err(_) => failed.push(what),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    reached
}

/// Bytes that nobody vouches for: a parser panics on a length, loops over a count of nothing, or
/// believes the second time what it refused the first.
#[test]
fn corpus_of_decode_is_harmless() {
    let reached = replay("decode");
    for name in EVERY_VERDICT.iter().chain(DECODED) {
        assert!(reached.contains(name), "no input reaches: {name}");
    }
}

/// Logs that the engine wrote, damaged in every way that a fuzzer thought of.
#[test]
fn corpus_of_recover_keeps_its_promises() {
    let reached = replay("recover");
    for name in EVERY_VERDICT.iter().chain(RECOVERED) {
        assert!(reached.contains(name), "no input reaches: {name}");
    }
}

/// Lives of a log on a disk that fails and loses power, as a fuzzer thought of them.
#[test]
fn corpus_of_operations_keeps_its_promises() {
    let reached = replay("operations");
    for name in OPERATED {
        assert!(reached.contains(name), "no input reaches: {name}");
    }
}
