//! Reads the source tree, for the tests of its shape.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where the workspace is.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All files below the workspace's root, but what is built or not the project's, by their path
/// relative to it, in order.
pub(crate) fn files() -> BTreeMap<String, PathBuf> {
    let root = root();
    let mut files = BTreeMap::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                let is_built = name == "target" || name == ".git";
                if !is_built {
                    directories.push(entry.path());
                }
            } else if kind.is_file() {
                let path = entry.path();
                let relative = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(relative, path);
            }
        }
    }
    assert!(files.contains_key("crates/wal/src/lib.rs"), "this is not the source tree");
    files
}

/// The Rust files whose path begins with `prefix`, with their text.
pub(crate) fn sources(prefix: &str) -> BTreeMap<String, String> {
    let wanted = |name: &String| name.starts_with(prefix) && name.ends_with(".rs");
    let files = files().into_iter().filter(|(name, _)| wanted(name));
    files.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect()
}

/// The code without comments, and with the contents of its strings and characters gone. Test
/// modules at the end of a file go as well if `tests` says so.
pub(crate) fn code(text: &str, tests: Tests) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("/*") {
            rest = &rest[rest.find("*/").map_or(rest.len(), |end| end + 2)..];
        } else if let Some(raw) = raw_string(rest) {
            code.push_str("\"\"");
            rest = &rest[raw..];
        } else if character == '"' {
            code.push_str("\"\"");
            rest = &rest[string_end(rest)..];
        } else {
            // A quoted quote would begin a string that never ends.
            let quoted =
                ["'\"'", "'\\\"'", "b'\"'"].iter().find(|quoted| rest.starts_with(**quoted));
            let bytes = quoted.map_or(character.len_utf8(), |quoted| quoted.len());
            code.push_str(if quoted.is_some() { "' '" } else { &rest[..bytes] });
            rest = &rest[bytes..];
        }
    }
    match tests {
        Tests::Keep => code,
        Tests::Drop => {
            let end = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
            code[..end].to_owned()
        }
    }
}

/// What is made of a test module at the end of a file.
#[derive(Clone, Copy)]
pub(crate) enum Tests {
    Keep,
    Drop,
}

fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    let body = hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let length = body.find(&end)? + end.len();
    Some(rest.len() - body.len() + length)
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// All paths that begin with `crate` or `super`: imports, with their braces expanded, and those in
/// the code.
pub(crate) fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let starts = code.match_indices("crate::").chain(code.match_indices("super::"));
    for (at, _) in starts {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let is_import = code[..at].trim_end().ends_with("use")
            || code[..at].rsplit(';').next().is_some_and(|line| line.contains("use {"));
        let length = if is_import {
            code[at..].find(';').unwrap_or(0)
        } else {
            let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            code[at..].find(|c| !is_part(c)).unwrap_or(0)
        };
        found.extend(expand(&code[at..at + length]));
    }
    found
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
pub(crate) fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return vec![path.trim().trim_end_matches("::").to_owned()];
    };
    let prefix = &tree[..open];
    let inner = tree[open + 1..].rsplit_once('}').map_or("", |(inner, _)| inner);
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for character in inner.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(character);
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(&format!("{prefix}{}", part.trim()))).collect()
}
