/*!
[`Device`]: how slow a disk is; [`Slow`]: any storage made as slow as one.

Group commit is a bet on the time that a durable write takes, and that time differs a thousandfold
between devices. A policy that was measured on one disk is measured on the others here: in virtual time
over a [`Disk`](crate::Disk), where processors are free and the same seed gives the same figures, or
in real time over any storage, where the processor's share shows.
*/

mod model;
mod storage;

pub use model::Device;
pub use storage::{Slow, SlowFile};
