/*!
The log beside the physical floors of the disk it is on.

A *floor* is the least that the disk or the processor must do for the same promise: what is acknowledged
is on stable storage. A figure of the log means something only as a ratio to a floor of the same run, for
a disk drifts by tens of per cent within minutes. So log and floor take turns, round by round, in one
process, and each ratio is the median of those of single rounds, with the lowest and the highest beside it.

| ratio | the log's share of it |
|---|---|
| `R_lat` | p50 of a raw durable overwrite as long as the frame / p50 of append and wait, one writer |
| `R_grp(N)` | X(N) · L* / N: records a second of N writers, L* the raw latency of a frame with a record of each |
| `R_bw` | payload of appends that nobody waits for, recycled slots / sequential durable writes at their best |
| `R_cpu` | an atomic addition, a copy and a checksum / an append that waits for nobody |
| `R_rec` | payload of open and replay / sequential reads of the same files at their best |
| `R_busy(N)` | records a second of N writers beside ordinary processes that keep the processors busy / without them |
| `R_rot` | p99.9 of one writer with a new segment about every second / without; less is better |
| `R_hold` | the longest hold of an acknowledgement by the calls that make a segment / one durable write, where the slot is recycled; / one fdatasync, one directory sync and one durable write, where it is new; less is better |
| `R_space` | payload / bytes of the segments, for records committed alone and in full frames, in blocks of 4096 bytes and of 512 |

[`run::run`] measures in a [`run::Place`] what [`plan::Settings`] ask for; its [`run::Report`] is shown by
[`report`]. Each ratio has a module of its own. Below them, in this order: [`measure`] (who runs when), [`processes`] (who is in the way),
[`floors`], [`log`] and [`replaying`] (the contestants), [`counters`] (what each commit took), [`machine`],
[`mod@warnings`], [`sequential`], [`disk`], [`figures`].
*/
#![forbid(unsafe_code)]
#![expect(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "its users are `wal bench` and the benchmarks beside it"
)]

pub mod report;
pub mod run;

mod append;
mod bandwidth;
mod busy;
mod groups;
mod holds;
mod latency;
mod recovery;
mod rotation;
mod space;

mod bench;
pub mod outcome;
pub mod plan;

pub mod floors;
pub mod log;
pub mod replaying;

pub mod counters;
pub mod disk;
pub mod figures;
pub mod machine;
pub mod measure;
pub mod processes;
pub mod sequential;
pub mod warnings;

pub use bench::Progress;
