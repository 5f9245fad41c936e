/*!
What the fuzzers run. Each target is one function from bytes to what was reached on the way; it
panics where the log broke a promise. libFuzzer feeds them in `fuzz/`, and `cargo test` replays
every input that was ever worth keeping.

- `tame`: a storage in memory that repeats itself
- `image`: the files of a log as bytes, and frames found in them without the engine
- `seal`: checksums made to fit again, so that a changed field is believed
- `script`: what an input of `recover` asks for
- `edits`: how files are damaged
- `trial`: one log opened in every way there is, the answers compared
- `plan`, `process`: what an input of `operations` asks for, and the process that does it
- `decode`, `recover`, `operations`: the targets
- `seeds`: where the inputs come from that a fuzzer begins with

A further target is a function here, its name in [`TARGETS`], and a file in `fuzz/fuzz_targets`.
*/

mod decode;
mod edits;
mod image;
mod operations;
mod plan;
mod process;
mod recover;
mod script;
mod seal;
mod seeds;
mod tame;
mod trial;

pub use decode::{decode, memory_max};
pub use operations::operations;
pub use recover::recover;
pub use seeds::{Seed, seeds};

use std::collections::BTreeSet;

/// What an input led to, by name: for those who choose inputs, and to see that none is dead weight.
pub type Reached = BTreeSet<&'static str>;

/// A target.
pub type Target = fn(&[u8]) -> Reached;

/// All targets, by the name of their folder.
pub const TARGETS: &[(&str, Target)] =
    &[("decode", decode), ("recover", recover), ("operations", operations)];
