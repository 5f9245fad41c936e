/*!
`paired`: two commits of the log beside each other, under the same loads, in rounds A B, B A, A B.

`cargo run --release -p wal-benches --bin paired -- OTHER . --rounds 15` builds the program `workload`
(one file, `benches/src/bin/workload.rs` of *this* tree) with the crate `wal` of the tree `OTHER` and with
that of this one, in the same way, and runs the two in turns. Nothing is written into either tree. Each of
the two may also be a `workload` that was built already. What is printed is B to A: the median of the
ratios of single rounds, with the lowest and the highest. An A/A run (`paired -- . .`) says what noise is.

`busy-N` is `writers-N` beside ordinary processes that keep the processors busy.
*/

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

mod arguments;
mod side;

use std::{error::Error, process::ExitCode};

use wal_bench::{
    disk::fresh_directory,
    figures::Spread,
    processes::{self, BusyProcesses},
    report::table::{row, titled},
};
use wal_benches::report;

use arguments::{Arguments, USAGE};
use side::{Figures, Side};

/// What goes before the name of a load that has busy processes beside it.
const BUSY: &str = "busy-";

/// A load's name without busy processes.
const WRITERS: &str = "writers-";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    processes::serve();
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("paired: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paired: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let directory = fresh_directory(arguments.parent.as_deref())?;
    let sides = ["A", "B"].into_iter().zip(&arguments.sides);
    let sides = sides.map(|(name, path)| Side::new(name, path, directory.path()));
    let sides = sides.collect::<Outcome<Vec<_>>>()?;
    println!("{}", report::machine(directory.path())?);
    for side in &sides {
        println!("{side}");
    }
    println!(
        "{} rounds of {} s each, {} busy processes; {}",
        arguments.rounds,
        arguments.seconds,
        BusyProcesses::enough(),
        report::load()
    );
    let mut rows = vec![row(HEADINGS)];
    for load in &arguments.only {
        let rounds = compare(&sides, load, arguments)?;
        rows.extend(rows_of(load, &rounds));
        // Each as soon as it is known; the whole table at the end.
        for row in &rows[rows.len() - Figure::of(&rounds).len()..] {
            eprintln!("{}", row.join("  "));
        }
    }
    print!("{}", titled("B / A: median of the rounds' ratios", &rows));
    println!("{}", report::load());
    directory.close()?;
    Ok(())
}

const HEADINGS: [&str; 6] = ["load", "figure", "B / A", "low..high", "A", "B"];

/// What A and B did in each round.
type Rounds = Vec<[Figures; 2]>;

/// One round that is not counted, in which each side makes its log, and then as many as are asked for.
fn compare(sides: &[Side], load: &str, arguments: &Arguments) -> Outcome<Rounds> {
    let (is_busy, load) = match load.strip_prefix(BUSY) {
        Some(writers) => (true, format!("{WRITERS}{writers}")),
        None => (false, load.to_owned()),
    };
    for side in sides {
        side.run(&load, arguments.seconds)?;
    }
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        let beside = if is_busy { Some(BusyProcesses::start()?) } else { None };
        let first = round % 2;
        let earlier = sides[first].run(&load, arguments.seconds)?;
        let later = sides[1 - first].run(&load, arguments.seconds)?;
        drop(beside);
        rounds.push(if first == 0 { [earlier, later] } else { [later, earlier] });
    }
    Ok(rounds)
}

/// A figure that both sides have.
struct Figure {
    name: &'static str,
    sides: [Vec<f64>; 2],
}

impl Figure {
    fn of(rounds: &Rounds) -> Vec<Self> {
        type Of = fn(&Figures) -> Option<f64>;
        let rate: Of = |figures| Some(figures.per_second);
        let p99: Of = |figures| figures.p99;
        let cpu: Of = |figures| Some(figures.cpu);
        let all = [("records/s", rate), ("p99 µs", p99), ("cpu µs", cpu)];
        let known = all.into_iter().filter_map(|(name, figure)| {
            let side = |side: usize| rounds.iter().map(|round| figure(&round[side])).collect();
            let (a, b): (Option<Vec<_>>, Option<Vec<_>>) = (side(0), side(1));
            Some(Self { name, sides: [a?, b?] })
        });
        known.collect()
    }
}

fn rows_of(load: &str, rounds: &Rounds) -> Vec<Vec<String>> {
    let figures = Figure::of(rounds);
    let rows = figures.iter().map(|Figure { name, sides: [a, b] }| {
        let ratio = Spread::of_rounds(b, a);
        let [a, b] = [a, b].map(|figures| shown(Spread::of(figures.clone()).median));
        let ends = format!("{:.2}..{:.2}", ratio.low, ratio.high);
        row([load, name, &format!("{:.3}", ratio.median), &ends, &a, &b])
    });
    rows.collect()
}

fn shown(figure: f64) -> String {
    if figure < 1000.0 { format!("{figure:.2}") } else { format!("{figure:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_later_to_earlier_whoever_began() {
        let figures = |per_second, p99| Figures { per_second, p99, cpu: 2.0 };
        let rounds = vec![
            [figures(100.0, Some(8.0)), figures(200.0, Some(4.0))],
            [figures(100.0, Some(8.0)), figures(120.0, Some(8.0))],
            [figures(10.0, Some(8.0)), figures(15.0, Some(6.0))],
        ];
        let rows = rows_of("writers-4", &rounds);
        assert_eq!(rows[0][..4], ["writers-4", "records/s", "1.500", "1.20..2.00"]);
        assert_eq!(rows[1][..4], ["writers-4", "p99 µs", "0.750", "0.50..1.00"]);
        assert_eq!(rows[2][2], "1.000");
    }

    /// Nobody waits in some loads: they have no latency, and no ratio of one.
    #[test]
    fn what_a_load_has_not_is_in_no_row() {
        let figures = Figures { per_second: 1.0, p99: None, cpu: 1.0 };
        assert_eq!(rows_of("pipelined", &vec![[figures; 2]]).len(), 2);
    }
}
