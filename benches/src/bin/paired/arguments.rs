//! What the command line asks for.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: paired A B [--rounds N] [--seconds S] [--dir DIR] [--only LOAD]..

  A, B          each a work tree of this project, or a `workload` that was built from one
  --rounds N    rounds of A and B, at least 1 (15; fewer are not to be quoted)
  --seconds S   length of a round of one of them (0.5)
  --dir DIR     where a fresh directory is made (the build's target directory)
  --only LOAD   writers-N, busy-N, producers-N, pipelined or replay; may be repeated
                (writers with 1, 4, 8, 16, 32, 64, 256; pipelined; replay; busy with 4, 16, 64)";

const LOADS: [&str; 12] = [
    "writers-1",
    "writers-4",
    "writers-8",
    "writers-16",
    "writers-32",
    "writers-64",
    "writers-256",
    "pipelined",
    "replay",
    "busy-4",
    "busy-16",
    "busy-64",
];

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) sides: [PathBuf; 2],
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) parent: Option<PathBuf>,
    pub(crate) only: Vec<String>,
}

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut sides, mut only) = (Vec::new(), Vec::new());
    let (mut rounds, mut seconds, mut parent) = (15, 0.5, None);
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            sides.push(PathBuf::from(word));
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word}: a value is missing"))?;
        let wrong = || format!("{word}: not understood: {value}");
        match word.as_str() {
            "--rounds" => {
                rounds = value.parse().ok().filter(|&rounds| rounds > 0).ok_or_else(wrong)?;
            }
            "--seconds" => {
                let parsed = value.parse().ok().filter(|seconds| (0.01..=600.0).contains(seconds));
                seconds = parsed.ok_or_else(wrong)?;
            }
            "--dir" => parent = Some(PathBuf::from(value)),
            "--only" if is_load(&value) => only.push(value),
            "--only" => return Err(wrong()),
            _ => return Err(format!("{word}: no such option")),
        }
    }
    if only.is_empty() {
        only = LOADS.map(str::to_owned).to_vec();
    }
    let sides = sides.try_into().map_err(|_| "A and B are to be named".to_owned())?;
    Ok(Arguments { sides, rounds, seconds, parent, only })
}

fn is_load(name: &str) -> bool {
    match name.split_once('-') {
        Some(("writers" | "busy" | "producers", threads)) => {
            threads.parse().is_ok_and(|threads| (1..=4096).contains(&threads))
        }
        Some(_) => false,
        None => ["pipelined", "replay"].contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn two_sides_are_enough_for_every_load() {
        let arguments = parsed("a b").unwrap();
        assert_eq!(arguments.sides, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((arguments.rounds, arguments.only.len()), (15, LOADS.len()));
        assert!(arguments.only.iter().all(|load| is_load(load)));
    }

    #[test]
    fn arguments_are_taken_or_named() {
        let arguments = parsed("a --only busy-3 b --seconds 0.1 --only replay").unwrap();
        assert_eq!(arguments.only, ["busy-3", "replay"]);
        for wrong in ["--rounds 0", "--seconds 0", "--only writers", "--only busy-0", "--fast 1"] {
            let option = wrong.split(' ').next().unwrap();
            assert!(parsed(&format!("a b {wrong}")).unwrap_err().starts_with(option), "{wrong}");
        }
        for sides in ["", "a", "a b c"] {
            assert!(parsed(sides).is_err(), "{sides}");
        }
    }
}
