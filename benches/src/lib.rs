//! Hand-written floors and the disk's own limits, measured beside the log in one process.
//!
//! A *floor* is the simplest code that gives the same promise as the log: what is acknowledged is
//! on stable storage. A figure of the log means something only as a ratio to a floor of the same
//! run, for the disk of a virtual machine drifts by tens of per cent within minutes. So contestants
//! take turns, round by round, and each figure is a median over the rounds.
//!
//! Reading order: [`disk`] (files and durable writes), [`floors`] (the contestants without a log),
//! [`log`] (the log as a contestant that writes), [`replaying`] (the log as one that is read),
//! [`measure`] (who runs when), [`report`] (what is printed), [`goals`] (what it is held to). The
//! binary `compare` ties them; the criterion benchmark `append` looks at single calls.

#![forbid(unsafe_code)]
#![expect(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "never published: its users are the programs beside it"
)]

pub mod disk;
pub mod floors;
pub mod goals;
pub mod log;
pub mod measure;
pub mod replaying;
pub mod report;
