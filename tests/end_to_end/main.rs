//! The log from outside: one file for each kind of story.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails as a test does")]

// When the disk and the program misbehave.
mod async_use;
mod beside_callbacks;
mod callbacks;
mod calls;
mod commit;
mod cost;
mod executors;
mod failure;
mod finish;
mod full_disk;
mod idle_and_busy;
mod latch;
mod locking;
mod passes;
mod reading_ahead;
mod reading_live;
mod records;
mod refused;
mod room;
mod sealed;
mod space;
mod table;
mod waiting;
mod wakers;

// What the bytes on disk say.
mod cli;
mod corpus;
mod craft;
mod damage;
mod end_of_log;
mod ended;
mod golden;
mod input;
mod panics;
mod places;
mod program;
mod recovery;
mod resurrection;
mod shape;
mod source;
mod spy;
