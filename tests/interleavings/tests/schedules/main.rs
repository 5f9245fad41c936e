//! Programs whose schedules are explored: `RUSTFLAGS="--cfg shuttle" cargo test --test schedules`.

#[cfg(all(shuttle, mutants))]
mod planted;
#[cfg(shuttle)]
mod programs;

/// A build without the scheduler has nothing to explore, and must not look as if it had.
#[cfg(not(shuttle))]
#[test]
fn schedules_are_explored_with_cfg_shuttle() {
    eprintln!("SKIPPED: build with RUSTFLAGS=\"--cfg shuttle\" to explore schedules");
}
