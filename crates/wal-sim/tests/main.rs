//! The log, and the simulation itself, under every fault the disk can have.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod callbacks;
mod crash_states;
mod determinism;
mod device_classes;
mod disk;
mod hang;
mod key_value;
mod kth_call;
mod model;
mod neighbours;
mod planted;
mod script;
mod silent;
