//! The rules of the source that a machine can check.

use crate::source::{Tests, code, expand, files, paths, root, sources};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// The floor of each module of `wal`. A file imports from floors below its own.
const FLOORS: &[(&str, u8)] = &[
    ("lsn", 0),
    ("error", 0),
    ("sync", 0),
    ("planted", 0),
    ("format", 1),
    ("io", 1),
    ("frame_buffer", 2),
    ("slots", 2),
    ("reading", 2),
    ("commit", 3),
    ("recovery", 3),
    ("batch", 4),
    ("log", 4),
    ("options", 4),
    ("read_only", 4),
    ("reader", 4),
    ("replay", 4),
    ("sealed", 4),
    ("ticket", 4),
];

/// The highest floor is what users see, all of one piece: its files may import each other.
const TOP: u8 = 4;

/// Steps along one floor that are allowed, each with its reason.
const ALONG: &[(&str, &str, &str)] = &[
    ("error", "lsn", "an error names a place in the log"),
    ("reading", "slots", "what is read is a segment, and that is a slot with a place"),
];

/// A module reaches up, a test passes, and the engine cannot be understood from the ground any
/// more. Every import of the crate goes down, or along where it is said so.
#[test]
fn imports_go_down() {
    let sources = sources("crates/wal/src/");
    let exports = exports(&sources["crates/wal/src/lib.rs"]);
    let only_tests = test_files(&sources);
    let floor = |module: &str| FLOORS.iter().find(|(name, _)| *name == module).map(|row| row.1);
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    let mut seen = 0;
    for (name, text) in &sources {
        let inner = name.strip_prefix("crates/wal/src/").unwrap();
        if inner == "lib.rs" || only_tests.contains(name) {
            continue;
        }
        let module = inner.split('/').next().unwrap().trim_end_matches(".rs");
        let Some(own) = floor(module) else {
            wrong.push(format!("{name}: module {module} stands on no floor"));
            continue;
        };
        let depth = match inner.trim_end_matches("/mod.rs").matches('/').count() {
            0 => 1,
            deeper => deeper + 1,
        };
        for path in paths(&code(text, Tests::Drop)) {
            let Some(target) = target(&path, depth, &exports) else { continue };
            seen += 1;
            let Some(other) = floor(&target) else {
                wrong.push(format!("{name}: {path} is of no known module"));
                continue;
            };
            let along = ALONG.iter().find(|row| row.0 == module && row.1 == target);
            if let Some(row) = along {
                used.insert((row.0, row.1));
            }
            let is_allowed =
                target == module || other < own || (own == TOP && other == TOP) || along.is_some();
            if !is_allowed {
                wrong.push(format!("{name} (floor {own}) imports {path} (floor {other})"));
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found: the test reads the source wrongly");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (from, to, reason) in ALONG {
        assert!(used.contains(&(*from, *to)), "{from} no longer imports {to} ({reason})");
    }
}

/// Which module each name at the crate's root comes from.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let lib = code(lib, Tests::Drop);
    let mut exports = BTreeMap::new();
    for statement in lib.split(';') {
        let Some((_, tree)) = statement.split_once("pub use ") else { continue };
        for path in expand(tree) {
            let parts: Vec<_> = path.split("::").collect();
            exports.insert(parts[parts.len() - 1].to_owned(), parts[0].to_owned());
        }
    }
    assert!(exports.get("Error").is_some_and(|module| module == "error"), "{exports:?}");
    exports
}

/// The files that are compiled for tests only.
fn test_files(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, text) in sources {
        let code = code(text, Tests::Keep);
        for after in code.split("#[cfg(test)]").skip(1) {
            let Some((item, _)) = after.split_once(';') else { continue };
            let Some(module) = item.trim().rsplit("mod ").next().filter(|_| item.contains("mod "))
            else {
                continue;
            };
            let directory = match name.strip_suffix("/mod.rs") {
                Some(directory) => directory,
                None => name.trim_end_matches(".rs"),
            };
            let directory = directory.trim_end_matches("/lib");
            found.insert(format!("{directory}/{module}.rs"));
            found.insert(format!("{directory}/{module}/mod.rs"));
        }
    }
    found
}

/// The module at the crate's root that `path` leads to; `None` if it stays in its own module tree.
/// `depth` is how many `super` lead out of the file's own module to the crate.
fn target(path: &str, depth: usize, exports: &BTreeMap<String, String>) -> Option<String> {
    let mut parts: Vec<_> = path.split("::").filter(|part| !part.is_empty()).collect();
    let supers = parts.iter().take_while(|part| **part == "super").count();
    if supers > 0 {
        if supers < depth {
            return None;
        }
        parts.drain(..supers);
    } else {
        parts.remove(0);
    }
    let first = *parts.first()?;
    if FLOORS.iter().any(|(module, _)| *module == first) {
        return Some(first.to_owned());
    }
    Some(exports.get(first).cloned().unwrap_or_else(|| first.to_owned()))
}

/// What makes two runs differ, or a thread sleep: only `io` may use it, where a simulator takes its place.
const HOST_ONLY: &[&str] = &[
    "thread::spawn",
    "thread::Builder",
    "thread::sleep",
    "thread::yield_now",
    "thread::park",
    "Instant",
    "SystemTime",
    "Condvar",
    "mpsc",
    "Barrier",
    "futex::",
    "getrandom",
    "std::fs",
];

/// A simulator owns time, chance, threads and sleep only as long as nothing goes around it.
#[test]
fn nothing_goes_around_the_host() {
    let mut wrong = Vec::new();
    let sources = sources("crates/wal/src/");
    let only_tests = test_files(&sources);
    let others = sources
        .iter()
        .filter(|(name, _)| !name.starts_with("crates/wal/src/io/") && !only_tests.contains(*name));
    for (name, text) in others {
        let code = code(text, Tests::Drop);
        let used = HOST_ONLY.iter().filter(|word| code.contains(**word));
        wrong.extend(used.map(|word| format!("{name} uses {word}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let host = &sources["crates/wal/src/io/host.rs"];
    assert!(
        host.contains("futex::") && host.contains("thread::Builder"),
        "the words are the right ones"
    );
}

/// A lock that is no switch point is one whose races no schedule shows: the engine takes what threads share
/// from `sync`. What stands below every simulation, in `io`, has no need to.
#[test]
fn what_threads_share_comes_from_one_place() {
    let mut wrong = Vec::new();
    let sources = sources("crates/wal/src/");
    let only_tests = test_files(&sources);
    let is_sync = |name: &str| name.ends_with("/sync.rs") || name.starts_with("crates/wal/src/io/");
    let others = sources.iter().filter(|(name, _)| !only_tests.contains(*name) && !is_sync(name));
    let words = ["parking_lot", "atomic::Atomic", "atomic::{Atomic"];
    for (name, text) in others {
        let code = code(text, Tests::Drop);
        wrong.extend(words.iter().filter(|word| code.contains(**word)).map(|word| (name, word)));
        let takes_cells = code.contains("thread_local! {");
        if takes_cells && !code.contains("thread_local}") {
            wrong.push((name, &"thread_local!"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Files that may be longer than [`LINES_MAX`], each with its reason.
const LONG: &[(&str, &str)] = &[];

const LINES_MAX: usize = 500;

/// A file that nobody can hold in the head hides what it does.
#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let mut long = Vec::new();
    for (name, text) in sources("") {
        let lines = text.lines().count();
        if lines > LINES_MAX && !LONG.iter().any(|(file, _)| *file == name) {
            long.push(format!("{name}: {lines} lines"));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Where `unsafe` may stand, and what for.
const UNSAFE: &[(&str, &str)] = &[
    ("crates/aligned/src/raw.rs", "aligned memory, and who reaches which bytes of it"),
    ("crates/aligned/src/raw/lent.rs", "memory that is filled without a borrow of its owner"),
    ("crates/aligned/src/raw/region.rs", "memory of the allocator's, or mapped in huge pages"),
    ("crates/aligned/src/raw/wiped_page.rs", "the page that tells a fork"),
    ("benches/ring/src/ring.rs", "a ring: the kernel reads what a call named earlier"),
    ("benches/reading/src/mapping.rs", "mapped segments, which a benchmark compares with reads"),
    ("tests/src/fork.rs", "fork, which only a test of forks calls"),
    ("tests/src/watched.rs", "a waker that hears of its clones"),
    ("tests/allocations/main.rs", "an allocator that counts"),
    ("tests/interleavings/tests/orders.rs", "cells that loom watches, which threads share"),
];

/// The engine says `forbid(unsafe_code)`; this says it for every file, also for those of a crate
/// that forgets to.
#[test]
fn unsafe_code_is_where_it_is_allowed() {
    let mut wrong = Vec::new();
    for (name, text) in sources("") {
        let code = code(&text, Tests::Keep);
        let is_token = |at: usize| {
            let before = code[..at].chars().next_back();
            let after = code[at + 6..].trim_start();
            let starts = ["{", "fn ", "impl", "extern", "trait"];
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                && starts.iter().any(|start| after.starts_with(start))
        };
        let count = code.match_indices("unsafe").filter(|(at, _)| is_token(*at)).count();
        if count > 0 && !UNSAFE.iter().any(|(file, _)| *file == name) {
            wrong.push(format!("{name}: {count} times"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for name in ["wal", "wal-bench", "wal-cli", "wal-sim"] {
        for file in ["lib.rs", "main.rs"] {
            let path = root().join("crates").join(name).join("src").join(file);
            let Ok(text) = fs::read_to_string(&path) else { continue };
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{} does not forbid it",
                path.display()
            );
        }
    }
}

/// The module that says what the bytes mean must not depend on anything but bytes: a clock or a
/// file in it, and the same log decodes differently twice.
#[test]
fn format_is_pure() {
    let forbidden = [
        "std::fs",
        "std::io",
        "std::net",
        "std::path",
        "std::process",
        "std::sync",
        "std::thread",
        "std::time",
        "std::env",
        "Vec<",
        "Vec::",
        "vec!",
        "String",
        "Box<",
        "Box::",
        ".to_vec(",
        ".to_owned(",
        ".to_string(",
        "format!",
        "println!",
        "Instant",
        "SystemTime",
        "rand",
    ];
    let mut wrong = Vec::new();
    for (name, text) in sources("crates/wal/src/format/") {
        if name.ends_with("/tests.rs") {
            continue;
        }
        let code = code(&text, Tests::Drop);
        for token in forbidden {
            if code.contains(token) {
                wrong.push(format!("{name}: {token}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A library's first page is a table of contents.
#[test]
fn library_roots_hold_no_code() {
    let roots: Vec<_> = sources("crates/")
        .into_iter()
        .filter(|(name, _)| name.ends_with("/src/lib.rs") && name.matches('/').count() == 3)
        .collect();
    assert!(roots.len() >= 2, "{roots:?}");
    for (name, text) in roots {
        let code = code(&text, Tests::Keep);
        for statement in code.split(';') {
            let mut rest = statement.trim();
            // The README's examples are tests that way.
            if rest.contains("#[cfg(doctest)]") {
                continue;
            }
            while rest.starts_with('#') {
                rest = rest[rest.find(']').map_or(rest.len(), |end| end + 1)..].trim();
            }
            let starts = ["mod ", "pub mod ", "use ", "pub use "];
            let is_entry = rest.is_empty() || starts.iter().any(|start| rest.starts_with(start));
            assert!(is_entry, "{name}: {rest}");
        }
    }
}

/// What each crate may depend on, for its users and for its tests. A dependency is a decision.
const DEPENDENCIES: &[(&str, &[&str], &[&str])] = &[
    ("aligned", &["rustix"], &["nix"]),
    ("wal", &["aligned", "crc32fast", "nix", "parking_lot", "rustix"], &["tempfile"]),
    (
        "wal-bench",
        &[
            "aligned",
            "crc32fast",
            "hdrhistogram",
            "parking_lot",
            "rustix",
            "serde_json",
            "tempfile",
            "wal",
        ],
        &[],
    ),
    (
        "wal-cli",
        &["clap", "hdrhistogram", "nix", "rustix", "serde_json", "wal", "wal-bench"],
        &["tempfile"],
    ),
    ("wal-sim", &["aligned", "parking_lot", "wal"], &["tempfile"]),
];

/// What explores schedules and orders takes the place of locks and atomics, and is in no ordinary build: the
/// crate, the only section it may stand in, and what it is.
const EXPLORERS: &[(&str, &str, &str)] = &[
    ("aligned", "target.'cfg(wal_loom)'.dependencies", "loom"),
    ("wal", "target.'cfg(wal_shuttle)'.dependencies", "shuttle"),
];

/// Somebody adds a crate for one function; from then on every user builds it and trusts its
/// authors.
#[test]
fn crates_depend_on_what_was_decided() {
    let manifests = files().into_iter().filter(|(name, _)| {
        name.starts_with("crates/")
            && name.ends_with("/Cargo.toml")
            && name.matches('/').count() == 2
    });
    for (name, path) in manifests {
        let folder = name.split('/').nth(1).unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(&format!("name = \"{folder}\"")), "{name}: folder and crate differ");
        let Some((_, normal, dev)) = DEPENDENCIES.iter().find(|row| row.0 == folder) else {
            panic!("{name}: nobody decided what it may depend on");
        };
        let mut section = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']').to_owned();
                continue;
            }
            let dependency = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if dependency.is_empty() || line.starts_with('#') || !section.ends_with("dependencies")
            {
                continue;
            }
            let is_dev = section.ends_with("dev-dependencies");
            let allowed = normal.contains(&dependency)
                || (is_dev && dev.contains(&dependency))
                || EXPLORERS.contains(&(folder, section.as_str(), dependency));
            assert!(allowed, "{name}: {dependency} in [{section}]");
        }
    }
}

/// Numbers narrow without a word, and host-endian bytes are another format on another machine: the
/// lints that forbid both must stay on.
#[test]
fn lints_of_the_workspace_stay_on() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for lint in [
        "missing_docs",
        "unsafe_op_in_unsafe_fn",
        "undocumented_unsafe_blocks",
        "as_conversions",
        "big_endian_bytes",
        "host_endian_bytes",
        "unwrap_used",
        "allow_attributes",
    ] {
        assert!(text.contains(&format!("\n{lint} = ")), "{lint}");
    }
    for (name, path) in files() {
        if name.ends_with("/Cargo.toml") && !name.starts_with("fuzz/") {
            let manifest = fs::read_to_string(path).unwrap();
            assert!(manifest.contains("[lints]\nworkspace = true"), "{name}");
        }
    }
}

/// Names of the place where a file happened to be written mean nothing to who reads it.
#[test]
fn no_file_names_its_workplace() {
    // In pieces, for this file is read as well.
    let words = [["/wo", "rk/"], ["sess", "ion"], ["helper ag", "ent"], ["/ro", "ot/"]];
    let mut wrong = Vec::new();
    for (name, path) in files() {
        let Ok(text) = fs::read_to_string(path) else { continue };
        if name == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            if words.iter().any(|word| lower.contains(&word.concat())) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The checks above read the source with a reader of their own. What it makes of a few lines.
#[test]
fn the_reader_of_the_source_reads() {
    let text =
        "use crate::{a::{B, c}, d as e}; // crate::no\nlet s = \"crate::no\"; x(crate::f::g());";
    let code = code(text, Tests::Keep);
    let found = paths(&code);
    let expected = ["crate::a::B", "crate::a::c", "crate::d", "crate::f::g"];
    assert!(found.iter().eq(expected.iter()), "{found:?}");
    let exports = BTreeMap::from([("B".to_owned(), "lsn".to_owned())]);
    assert_eq!(target("super::io::File", 1, &exports), Some("io".to_owned()));
    assert_eq!(target("super::append", 2, &exports), None);
    assert_eq!(target("super::super::B", 2, &exports), Some("lsn".to_owned()));
    assert_eq!(target("crate::B", 1, &exports), Some("lsn".to_owned()));
}
