//! Explores the log itself: `--states N --seed S --threads N --json --silent`. Ends with 1 if
//! a state does not recover, and says which. With `--silent` the disk also does wrong without a word.

#![expect(clippy::print_stdout, reason = "this is a command")]

use std::{env, process::ExitCode, time::Instant};
use wal_sim::{Coverage, Explorer, LogProgram};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let place = arguments.iter().position(|argument| argument == name);
        let value = place.and_then(|place| arguments.get(place + 1));
        value.and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let is_json = arguments.iter().any(|argument| argument == "--json");
    let start = Instant::now();
    let explorer = Explorer::new(number("--seed", 1))
        .states(number("--states", 300_000))
        .steps(80)
        .threads(usize::try_from(number("--threads", 2)).unwrap_or(1));
    let is_silent = arguments.iter().any(|argument| argument == "--silent");
    let explorer = if is_silent { explorer.silent() } else { explorer };
    let program = LogProgram::new(|disk| disk);
    let outcome = program.explore(&explorer);
    let seconds = start.elapsed().as_secs_f64();
    match outcome {
        Ok(coverage) if is_json => println!("{}", json(&coverage, seconds)),
        Ok(coverage) => println!("{coverage}\n{seconds:.1} s"),
        Err(failure) if is_json => {
            println!(
                "{{\"what\":{:?},\"replay\":\"{}\",\"seconds\":{seconds:.1}}}",
                failure.what(),
                failure.place()
            );
            return ExitCode::FAILURE;
        }
        Err(failure) => {
            println!("{}\n{failure}", failure.story().join("\n"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// One line. The names of rare things hold nothing that would have to be escaped.
fn json(coverage: &Coverage, seconds: f64) -> String {
    let reached = coverage.reached().iter().map(|(what, count)| format!("\"{what}\":{count}"));
    format!(
        "{{\"states\":{},\"lives\":{},\"seconds\":{seconds:.1},\"reached\":{{{}}}}}",
        coverage.states(),
        coverage.lives(),
        reached.collect::<Vec<_>>().join(",")
    )
}
