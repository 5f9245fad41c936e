//! Programs whose schedules are explored: `RUSTFLAGS="--cfg wal_shuttle" cargo test --test schedules`.

#[cfg(all(wal_shuttle, wal_mutants))]
mod planted;
#[cfg(wal_shuttle)]
mod programs;

/// A build without the scheduler has nothing to explore, and must not look as if it had.
#[cfg(not(wal_shuttle))]
#[test]
fn schedules_are_explored_with_cfg_wal_shuttle() {
    eprintln!("SKIPPED: build with RUSTFLAGS=\"--cfg wal_shuttle\" to explore schedules");
}
