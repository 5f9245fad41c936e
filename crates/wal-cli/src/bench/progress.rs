//! One line on standard error that says how far a run is, where somebody can see it.

use std::io::{self, IsTerminal as _, Write as _};
use wal_bench::{Progress, plan::Measurement};

/// Nothing at all if standard error is no terminal.
#[derive(Debug)]
pub(super) struct Line {
    is_shown: bool,
}

impl Line {
    pub(super) fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal() }
    }

    pub(super) fn show(&self, progress: Progress) {
        if self.is_shown {
            // Nobody needs it: an error is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{}", text(progress));
        }
    }

    pub(super) fn clear(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn text(progress: Progress) -> String {
    let Progress { measurement, done, steps } = progress;
    let name = measurement.map_or("looking at the disk", Measurement::name);
    match done {
        0 => format!("{name}: preparing"),
        done => format!("{name}: {done} of {steps}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_runs_and_how_far_it_is() {
        let progress = Progress { measurement: None, done: 0, steps: 1 };
        assert_eq!(text(progress), "looking at the disk: preparing");
        let progress = Progress { measurement: Some(Measurement::Space), done: 2, steps: 6 };
        assert_eq!(text(progress), "space: 2 of 6");
    }
}
