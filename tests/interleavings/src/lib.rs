/*!
The log under a scheduler that may let another thread run at every lock and atomic.

`wal-sim` switches threads at each call of the disk and of the host; here `wal` is built with
`--cfg wal_shuttle`, so that its locks and atomics are switch points too. What such an execution runs on is a
[`Disk`] in memory, which knows at each moment what a power cut could leave: some moments of every
schedule are recovered from and checked with the model of `wal-sim`.
*/
#![forbid(unsafe_code)]

#[cfg(wal_shuttle)]
mod disk;
#[cfg(wal_shuttle)]
mod explore;
#[cfg(wal_shuttle)]
mod life;
#[cfg(wal_shuttle)]
mod threads;

#[cfg(wal_shuttle)]
pub use disk::{Disk, DiskFile, DiskLock, Image};
#[cfg(wal_shuttle)]
pub use explore::{Effort, REPLAY_VARIABLE, SECONDS_VARIABLE, explore};
#[cfg(wal_shuttle)]
pub use life::{Appended, Life, Setting};
#[cfg(wal_shuttle)]
pub use threads::{FOR_EVER, Threads};
