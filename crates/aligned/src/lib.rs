/*!
Sector-aligned memory for direct I/O. This crate does no I/O itself.

# Overview

* [`Alignment`] is a power of two, and the one place where the three rules of direct I/O are
  checked: [`Alignment::check`] looks at a buffer's address, its offset in the file, its length.
* [`Buffer`] is owned, aligned, zeroed memory that several threads fill at once without a lock:
  [`Buffer::reserve`] lends each of them a [`Room`] that overlaps no other.
* [`Desk`] and [`LentBuffer`] do the same for a buffer that stays behind its owner's lock while its
  rooms are filled outside.
* [`Pool`] is a bounded number of buffers in one region, all of it touched beforehand, so that
  taking one neither allocates nor faults.
* [`ForkWitness`] tells a process from its forked child without a system call.

# Example

```
use aligned::{Alignment, Pool};

let pool = Pool::new(Alignment::BLOCK_4096, 64 * 1024, 4)?;
let mut buffer = pool.take().ok_or("all four are out")?;

std::thread::scope(|threads| {
    for name in [b"ann", b"bob"] {
        let buffer = &buffer;
        threads.spawn(move || buffer.reserve(3).map(|mut room| room.copy_from_slice(name)));
    }
});

let block = buffer.padded(Alignment::BLOCK_4096);
assert_eq!(block.len(), 4096);
assert!(block[6..].iter().all(|&byte| byte == 0));
Alignment::BLOCK_4096.check(block, 8192)?; // ready to be written at this offset
# Ok::<(), Box<dyn std::error::Error>>(())
```

# Why

A `Vec<u8>` promises an alignment of 1, and its spare room is uninitialised: whoever pads a block
from it writes whatever was there before to disk. Here memory is zeroed when it is allocated, and
what an earlier use left before it is lent or shown again: the bytes behind the filled part are
zero, always. The one exception says so: a [`LentRoom`] is as it was left, for whoever copies over all of
it anyway.

All unsafe code of the crate is in one module, `raw`, behind types whose methods are safe.
*/

#![deny(unsafe_code)]

mod alignment;
mod buffer;
mod fork;
mod lent;
mod pool;
#[expect(unsafe_code, reason = "the one module for it; the others see safe types only")]
mod raw;

pub use crate::{
    alignment::{Alignment, Misaligned, Rule},
    buffer::{AllocError, AllocErrorKind, Buffer, Room},
    fork::ForkWitness,
    lent::{Desk, LentBuffer, LentRoom},
    pool::Pool,
};
