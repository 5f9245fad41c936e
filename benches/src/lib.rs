//! Hand-written floors beside the log in one process, and the goals it is held to.
//!
//! A *floor* is the simplest code that gives the same promise as the log: what is acknowledged is
//! on stable storage. A figure of the log means something only as a ratio to a floor of the same
//! run, for the disk of a virtual machine drifts by tens of per cent within minutes. So contestants
//! take turns, round by round, and each figure is a median over the rounds.
//!
//! What measures is the crate `wal-bench`. Here are [`floors`] (contestants with several writers and
//! no log), [`report`] (what is printed) and [`goals`] (what the log is held to). The binary `compare`
//! ties them; `paired` holds one commit of the log against another; the criterion benchmark `append`
//! looks at single calls.

#![forbid(unsafe_code)]
#![expect(clippy::exhaustive_enums, reason = "never published: its user is the program beside it")]
#![expect(clippy::exhaustive_structs, reason = "the same")]

pub mod floors;
pub mod goals;
pub mod report;
