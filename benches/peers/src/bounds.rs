/*!
What this log is held to in each cell, beside the others that are ranked.

More records a second than the fastest of them: 1.6 times with 4 writers, 1.5 with 16 and 1.3 with 64 at
128 bytes, 1.8 with 16 and 2.3 with 64 at 16 KiB, and at least as many elsewhere. A lower p99 than the
fastest one's; less processor time a record than any of them, with 16 writers at most 0.7 times; and never
more bytes on the device than the least. Those are what the whole disk wrote: only there is it seen what
the file system adds for a file that grows. So nothing else may write meanwhile.

Where it is held to nothing ([`Cell::is_bound`]) the ratio is told all the same ([`ratios`]).
*/

use wal_bench::{
    figures::Spread,
    report::table::{row, titled},
};
use wal_benches::goals::{Bound, Goal};

use crate::{
    arguments::Workload,
    round::{Cell, Round, Standing},
};

type Figure = fn(&Round) -> Option<f64>;

pub(crate) fn goals(cells: &[Cell]) -> Vec<Goal> {
    cells.iter().filter(|cell| cell.is_bound).flat_map(of_cell).collect()
}

/// The ratios of the cells that are not bound. Without any, nothing.
pub(crate) fn ratios(cells: &[Cell]) -> String {
    let mut rows = vec![row(["to the fastest of the others", "median", "low..high", ""])];
    for goal in cells.iter().filter(|cell| !cell.is_bound).flat_map(of_cell) {
        let Spread { median, low, high } = goal.figure;
        let ends = format!("{low:.2}..{high:.2}");
        rows.push(row([&goal.subject, &format!("{median:.2}"), &ends, &goal.detail]));
    }
    if rows.len() == 1 {
        return String::new();
    }
    titled("ratios that are held to nothing", &rows)
}

fn of_cell(cell: &Cell) -> Vec<Goal> {
    let Some((this, others)) = cell.ranked() else { return Vec::new() };
    let median = |standing: &Standing, figure: Figure| standing.spread(figure).map(|s| s.median);
    let least = |figure: Figure| {
        let known = others.iter().filter(|other| median(other, figure).is_some());
        known.copied().min_by(|a, b| {
            median(a, figure).unwrap_or(f64::MAX).total_cmp(&median(b, figure).unwrap_or(f64::MAX))
        })
    };
    let rate: Figure = |round| Some(round.per_second);
    let p99: Figure = |round| round.p99;
    let fastest = others
        .iter()
        .copied()
        .max_by(|a, b| median(a, rate).unwrap_or(0.0).total_cmp(&median(b, rate).unwrap_or(0.0)));
    let cpu_bound =
        if cell.workload == Workload::Durable && cell.writers == 16 { 0.7 } else { 1.0 };
    let mut wanted: Vec<(&str, Figure, Option<&Standing>, Bound)> =
        vec![("records/s", rate, fastest, Bound::AtLeast(rate_bound(cell)))];
    if cell.workload == Workload::Durable {
        wanted.extend([
            ("p99", p99, fastest, Bound::AtMost(1.0)),
            ("cpu", |round| round.cpu, least(|round| round.cpu), Bound::AtMost(cpu_bound)),
            ("device bytes", |r| r.disk, least(|r| r.disk), Bound::AtMost(1.0)),
        ]);
    }
    let goal = |(what, figure, other, bound): (&str, Figure, Option<&Standing>, Bound)| {
        let other = other?;
        let (ours, theirs) = (this.figures(figure)?, other.figures(figure)?);
        let detail = format!(
            "{:.2} / {:.2} ({})",
            Spread::of(ours.clone()).median,
            Spread::of(theirs.clone()).median,
            other.name
        );
        let subject = format!("{}, {what}", cell.title);
        Some(Goal { subject, bound, figure: Spread::of_ratio(&ours, &theirs), detail })
    };
    wanted.into_iter().filter_map(goal).collect()
}

/// How many times the records of the fastest peer.
fn rate_bound(cell: &Cell) -> f64 {
    match (cell.workload, cell.writers, cell.payload_bytes) {
        (Workload::Durable, 4, 128) => 1.6,
        (Workload::Durable, 16, 128) => 1.5,
        (Workload::Durable, 64, 128) => 1.3,
        (Workload::Durable, 16, 16384) => 1.8,
        (Workload::Durable, 64, 16384) => 2.3,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(name: &'static str, unranked: Option<&str>, per_second: f64, cpu: f64) -> Standing {
        let round = Round {
            per_second,
            p99: Some(100.0),
            cpu: Some(cpu),
            disk: Some(2.0),
            ..Round::default()
        };
        Standing { name, unranked: unranked.map(str::to_owned), rounds: vec![round; 3] }
    }

    fn cell(standings: Vec<Standing>) -> Cell {
        let title = "title".to_owned();
        let workload = Workload::Durable;
        Cell { workload, writers: 16, payload_bytes: 128, title, is_bound: true, standings }
    }

    #[test]
    fn the_fastest_that_is_ranked_counts_and_the_least_for_what_it_costs() {
        let goals = goals(&[cell(vec![
            standing("this", None, 150.0, 6.0),
            standing("liar", Some("why"), 1e9, 0.1),
            standing("fast", None, 100.0, 20.0),
            standing("frugal", None, 50.0, 10.0),
        ])]);
        let met: Vec<_> = goals.iter().map(Goal::is_met).collect();
        assert_eq!(met, [true, true, true, true]);
        assert!(goals[0].detail.contains("fast"), "{}", goals[0].detail);
        assert_eq!(goals[0].bound, Bound::AtLeast(1.5));
        assert!(goals[2].detail.contains("frugal"), "{}", goals[2].detail);
        assert_eq!(goals[2].bound, Bound::AtMost(0.7));
    }

    #[test]
    fn a_bound_that_is_not_kept_is_not_met() {
        let goals = goals(&[cell(vec![
            standing("this", None, 149.0, 8.0),
            standing("fast", None, 100.0, 10.0),
        ])]);
        let met: Vec<_> = goals.iter().map(Goal::is_met).collect();
        assert_eq!(met, [false, true, false, true]);
    }

    #[test]
    fn a_cell_that_is_not_bound_has_a_ratio_only() {
        let standings = vec![standing("this", None, 1.0, 1.0), standing("fast", None, 2.0, 1.0)];
        let free = [Cell { is_bound: false, ..cell(standings.clone()) }];
        assert!(goals(&free).is_empty());
        assert!(ratios(&free).contains("0.50"), "{}", ratios(&free));
        assert!(ratios(&[cell(standings)]).is_empty());
    }

    #[test]
    fn nobody_to_compare_with_is_no_goal() {
        assert!(goals(&[cell(vec![standing("this", None, 1.0, 1.0)])]).is_empty());
        assert!(goals(&[cell(Vec::new())]).is_empty());
    }
}
