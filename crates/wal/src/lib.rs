/*!
An embeddable write-ahead log.

A program appends records, is told when they are on stable storage, and gets every one of them back
after a crash, with a report that proves what was cut and why. `Ok` from a durable wait means: survives
a power cut. After a failed write or sync nothing ever answers `Ok` again until the log is reopened.

```
# fn main() -> wal::Result<()> {
# let dir = tempfile::tempdir().unwrap();
# let path = dir.path().join("wal");
let mut replay = wal::Options::new().open(&path)?; // locked and scanned
while let Some(record) = replay.next()? {
    println!("{}: {:?}", record.lsn(), record.payload()); // lent, not copied
}
let (wal, _report) = replay.finish()?; // fixes the tail; the only way to a writable log

let ticket = wal.append(b"debit alice 10")?; // ordered; not durable yet
let lsn = ticket.wait()?; // durable now. or: ticket.await, or a callback

let mut batch = wal.batch(); // all of it after a crash, or none
batch.push(b"debit alice 10")?;
batch.push(b"credit bob 10")?;
batch.append()?.wait()?;

wal.append_with(8, |room| room.copy_from_slice(&7_u64.to_le_bytes()))?.wait()?;
wal.checkpoint(lsn, b"my own state")?.wait()?; // frees what lies before
for record in wal.read_from(lsn)? {
    println!("{:?}", record?.payload);
}
wal.close()
# }
```

# Where to look

* [`Options`] opens a log, [`Replay`] reads it, [`Wal`] writes it, [`Ticket`] waits.
* [`mod@format`] is the specification of every byte on disk.
* [`io`] is the seam to the disk: [`io::Directory`] is the real one, [`io::Memory`] the one for tests.
* [`Error`] is sorted by what the caller does next.
*/
#![forbid(unsafe_code)]

#[macro_use]
mod planted;

mod batch;
mod commit;
mod error;
pub mod format;
mod frame_buffer;
pub mod io;
mod log;
mod lsn;
mod options;
mod read_only;
mod reader;
mod reading;
mod recovery;
mod replay;
mod sealed;
mod slots;
mod sync;
mod ticket;

pub use batch::Batch;
pub use commit::{COMMIT_BUCKETS, CommitHistogram, Stats};
pub use error::{Error, ErrorKind, Result};
pub use format::{Checkpoint, LogId};
pub use log::Wal;
pub use lsn::Lsn;
pub use options::{Create, Options, UnreadableTail};
pub use read_only::{
    ReadOnly, ReadOnlyRecords, SegmentInfo, SegmentState, Verification, VerifyVerdict,
};
pub use reader::{Follow, OwnedRecord, Reader};
pub use recovery::{Cut, OpenReport, Verdict};
pub use replay::{Record, Replay};
pub use sealed::SealedSegment;
pub use ticket::{AppendFuture, Ticket};

/// The README's example is compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
