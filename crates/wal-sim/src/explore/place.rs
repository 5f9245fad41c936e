//! [`Place`]: where an exploration found something, in one line.

use super::{life::Size, silent::Silent};
use crate::disk::Choice;
use std::{fmt, str::FromStr};

/// Where an exploration found something. Its text is one line; given back in the environment variable
/// `WAL_SIM_REPLAY`, the same exploration goes straight there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) seed: u64,
    pub(super) run: u64,
    pub(super) size: Size,
    pub(super) deaths: Vec<Death>,
}

/// When the lights went out, and what the disk did then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) at: usize,
    pub(super) choice: Choice,
    pub(super) silent: Option<Silent>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, run, size: Size { steps, writers }, deaths } = self;
        write!(f, "seed={seed:#x} run={run} steps={steps} writers={writers} state=")?;
        if deaths.is_empty() {
            return f.write_str("alive");
        }
        for (index, Death { at, choice, silent }) in deaths.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{at}:{choice}")?;
            if let Some(silent) = silent {
                write!(f, "!{silent}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let field = |name: &str| {
            let word = text.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.and_then(|word| word.strip_prefix('=')).ok_or(())
        };
        let number = |name: &str| field(name)?.parse().map_err(|_| ());
        let seed = field("seed")?.strip_prefix("0x").ok_or(())?;
        let mut deaths = Vec::new();
        let state = field("state")?;
        for death in state.split(',').filter(|_| state != "alive") {
            let (at, choice) = death.split_once(':').ok_or(())?;
            let (choice, silent) = match choice.split_once('!') {
                Some((choice, silent)) => (choice, Some(silent.parse()?)),
                None => (choice, None),
            };
            let at = at.parse().map_err(|_| ())?;
            deaths.push(Death { at, choice: choice.parse()?, silent });
        }
        Ok(Self {
            seed: u64::from_str_radix(seed, 16).map_err(|_| ())?,
            run: field("run")?.parse().map_err(|_| ())?,
            size: Size { steps: number("steps")?, writers: number("writers")? },
            deaths,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_from_its_line() {
        for line in [
            "seed=0x2a run=3 steps=40 writers=2 state=alive",
            "seed=0x2a run=3 steps=40 writers=2 state=117:/0",
            "seed=0x2a run=3 steps=40 writers=2 state=117:w/0!lost12",
            "seed=0x2a run=3 steps=40 writers=2 state=9:/0,11:a/1!moved4+512",
            "seed=0x2a run=3 steps=40 writers=2 state=11:/0!rot4+9999",
            "seed=0x2a run=3 steps=40 writers=2 state=11:/0!lie4",
            "seed=0xffffffffffffffff run=0 steps=1 writers=1 state=9:wat0000000ag12345678s/2,4:/xff",
        ] {
            let place: Place = line.parse().unwrap();
            assert_eq!(place.to_string(), line);
        }
        let wrong = "seed=0x1 run=1 steps=1 writers=1 state=1:";
        let wrong = ["q/0", "w/0!gone3", "w/0!rot3"].map(|state| format!("{wrong}{state}"));
        for line in ["", "seed=1"].into_iter().chain(wrong.iter().map(String::as_str)) {
            assert_eq!(line.parse::<Place>(), Err(()), "{line}");
        }
    }
}
