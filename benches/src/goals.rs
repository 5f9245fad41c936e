//! What the log is held to, and whether it kept it in this run.

use std::fmt;

use wal_bench::{figures::Spread, report::table::titled};

/// One requirement and what was measured for it.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What it is about, such as `4 writers / group floor`.
    pub subject: String,
    /// What it must keep.
    pub bound: Bound,
    /// The figure that is held against the bound, over the rounds.
    pub figure: Spread,
    /// The figures behind a ratio, or where the figure comes from.
    pub detail: String,
}

/// A limit on a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Higher is better.
    AtLeast(f64),
    /// Lower is better.
    AtMost(f64),
}

impl Goal {
    /// Whether the median keeps the bound.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.figure.median >= bound,
            Bound::AtMost(bound) => self.figure.median <= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

/// All of them in a table, and how many were met.
#[must_use]
pub fn summary(goals: &[Goal]) -> String {
    let mut rows = vec![
        ["requirement", "bound", "median", "low..high", "met", ""].map(str::to_owned).to_vec(),
    ];
    for goal in goals {
        let Spread { median, low, high } = goal.figure;
        rows.push(vec![
            goal.subject.clone(),
            goal.bound.to_string(),
            format!("{median:.2}"),
            format!("{low:.2}..{high:.2}"),
            if goal.is_met() { "yes" } else { "NO" }.to_owned(),
            goal.detail.clone(),
        ]);
    }
    let met = goals.iter().filter(|goal| goal.is_met()).count();
    let text = titled("requirements; a ratio's low and high are those of single rounds", &rows);
    format!("{text}{met} of {} met\n", goals.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_kept_from_its_own_side() {
        let goal = |bound| Goal {
            subject: "s".to_owned(),
            bound,
            figure: Spread { median: 1.5, low: 1.0, high: 9.0 },
            detail: String::new(),
        };
        let goals = [
            goal(Bound::AtLeast(1.5)),
            goal(Bound::AtLeast(1.6)),
            goal(Bound::AtMost(1.5)),
            goal(Bound::AtMost(1.4)),
        ];
        let met: Vec<_> = goals.iter().map(Goal::is_met).collect();
        assert_eq!(met, [true, false, true, false]);
        assert!(summary(&goals).contains("2 of 4 met"));
    }
}
