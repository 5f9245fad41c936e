//! [`SealedSegment`]: a segment that is over, as a file to be copied.

use crate::{
    Lsn, Result, Wal,
    io::{Directory, Storage},
    reader::{check_position, pin},
    slots::Segment,
};
use std::{fmt, iter, path::PathBuf, sync::Arc};

/// A segment whose frames are all durable and to which none is added: its file does not change any more.
///
/// It pins the segment, as a [`Reader`](crate::Reader) does: while this lives, a checkpoint has its slot
/// neither reused nor given back, and [`Options::log_bytes_max`](crate::Options::log_bytes_max) counts it.
/// The pin is the handle's: once the log was closed, whoever opens it again knows nothing of it, nor does the
/// parent of a forked process.
pub struct SealedSegment<S: Storage = Directory> {
    storage: Arc<S>,
    segment: Segment<S::File>,
    end: Lsn,
}

impl<S: Storage> Wal<S> {
    /// The segments that are over, oldest first, from the one that `lsn` lies in: what a follower, a
    /// backup or an archive wants whole. Each is pinned when the iterator comes to it. The log's last segment
    /// never is one of them; what it holds so far comes with [`Wal::follow`].
    ///
    /// Their files, under their own names and beside a copy of the file `identity`, are a log as of the
    /// end of the last of them, which opens if none is missing behind the start mark of the latest
    /// checkpoint *in them*: whoever begins at [`Wal::start_mark`] waits for the segment that holds
    /// that checkpoint. What a reused slot held before may follow a file's last frame; every open tells
    /// it apart from records, and may report it as torn. Nothing is checked here: who receives the bytes
    /// checks them by opening them, or frame by frame ([`format`](crate::format)). Once such a copy is
    /// written to, it is another log of the same name: nothing more of this one belongs into it.
    ///
    /// With `sendfile(2)` the bytes need not pass through the program; docs/design.md has it measured
    /// (`std::io::copy` does not use it for a socket). It sends pages and not copies: hold the segment until
    /// the follower says that it has it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let mut replay = wal::Options::new().segment_bytes(1 << 16).open(dir.path().join("wal"))?;
    /// # replay.skip_rest();
    /// # let (wal, _) = replay.finish()?;
    /// # let mut follower = Vec::new();
    /// # for _ in 0..100 { wal.append_untracked(&[7; 1000])?; }
    /// # wal.flush()?;
    /// let mut next = wal.start_mark(); // what the follower has up to now
    /// for segment in wal.sealed_segments(next)? {
    ///     let segment = segment?; // pinned, and no other is
    ///     let mut file = std::fs::File::open(segment.path())?;
    ///     std::io::copy(&mut file, &mut follower)?;
    ///     next = segment.end();
    /// }
    /// # assert!(follower.len() >= 1 << 16 && next.get() == u64::try_from(follower.len())?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Wal::read_from`]; of the iterator, [`Released`](crate::ErrorKind::Released) where a checkpoint
    /// was faster.
    pub fn sealed_segments(
        &self,
        lsn: Lsn,
    ) -> Result<impl Iterator<Item = Result<SealedSegment<S>>>> {
        let engine = self.engine();
        check_position(engine, lsn)?;
        let segment_bytes = engine.identity().segment_bytes;
        let mut sequence = lsn.get() / segment_bytes;
        Ok(iter::from_fn(move || {
            // A refused call changes nothing.
            if let Err(error) = engine.check_caller() {
                return Some(Err(error));
            }
            // A durable frame behind a segment's end: the log has moved on, and all before it is durable too.
            let is_over = engine.durable().get() > (sequence + 1).saturating_mul(segment_bytes);
            let pinned = is_over.then(|| pin(engine, sequence))?;
            sequence += 1;
            Some(pinned.map(|segment| {
                let end = segment.end(engine.identity());
                SealedSegment { storage: Arc::clone(engine.storage()), segment, end }
            }))
        }))
    }
}

impl<S: Storage> SealedSegment<S> {
    /// Which segment it is: one more for each since the log's first, which is 0.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.segment.sequence
    }

    /// Where it begins: no record of it stands below.
    #[must_use]
    pub fn base(&self) -> Lsn {
        self.segment.base
    }

    /// Where the next one begins: no record of it stands there or above.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Its file, as long as every segment of the log. In the log's directory, a name that another segment
    /// may get when this one was released.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.storage.path().join(&self.segment.slot.name)
    }
}

impl<S: Storage> fmt::Debug for SealedSegment<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segment.fmt(f)
    }
}
