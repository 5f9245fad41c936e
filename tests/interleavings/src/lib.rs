/*!
The log under a scheduler that may let another thread run at every lock and atomic.

`wal-sim` switches threads at each call of the disk and of the host; here `wal` is built with
`--cfg shuttle`, so that its locks and atomics are switch points too. What such an execution runs on is a
[`Disk`] in memory, which knows at each moment what a power cut could leave: some moments of every
schedule are recovered from and checked with the model of `wal-sim`.
*/
#![forbid(unsafe_code)]

#[cfg(shuttle)]
mod disk;
#[cfg(shuttle)]
mod explore;
#[cfg(shuttle)]
mod life;
#[cfg(shuttle)]
mod threads;

#[cfg(shuttle)]
pub use disk::{Disk, DiskFile, DiskLock, Image};
#[cfg(shuttle)]
pub use explore::{Effort, REPLAY_VARIABLE, SECONDS_VARIABLE, explore};
#[cfg(shuttle)]
pub use life::{Appended, Life, Setting};
#[cfg(shuttle)]
pub use threads::{FOR_EVER, Threads};
