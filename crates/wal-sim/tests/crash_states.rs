//! The log's own recovery, from every state that the disk can be left in.
//!
//! `WAL_SIM_STATES` says how many states are checked, `WAL_SIM_SEED` which. `examples/explore.rs` is
//! the same as a command, for millions.

use std::{env, thread};
use wal_sim::{Explorer, LogProgram};

/// What an exploration of any size has to have come across: else it tests less than it says.
const RARE: &[&str] = &[
    "a checkpoint had released something",
    "a checkpoint was lost that nobody was told of",
    "a follower saw a record",
    "a log was latched",
    "a record survived that nobody was told of",
    "a record was lost that nobody was told of",
    "a slot was used again",
    "a flush that lied was noticed",
    "a torn tail was cut",
    "a writer gave a record up",
    "an append was refused for want of room",
    "an open failed, and the next one did not",
    "died after a clean close",
    "died again",
    "died again before the first recovery was over",
    "died before there was a log",
    "intact frames above a cut",
    "more than one segment",
    "read only",
    "silent damage did no harm",
    "silent damage was cut where nothing vouched",
    "silent damage was refused with its place",
    "went on after a crash",
];

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Power fails at any moment, and again while the log recovers, and again: nothing acknowledged is
/// lost, nothing else appears, and no log is refused.
#[test]
fn every_state_recovers() {
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(8));
    let explorer = Explorer::new(number("WAL_SIM_SEED", 20))
        .states(number("WAL_SIM_STATES", 12_000))
        .states_per_life(150)
        .steps(80)
        .silent()
        .threads(threads);
    let coverage = match LogProgram::new(|disk| disk).explore(&explorer) {
        Ok(coverage) => coverage,
        Err(failure) => panic!("{}\n{failure}", failure.story().join("\n")),
    };
    println!("{coverage}");
    for what in RARE {
        assert!(coverage.count(what) > 0, "never happened: {what}\n{coverage}");
    }
}
