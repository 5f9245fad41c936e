//! The two ends of a writer's life: the opening frame and the close.

use super::{Engine, STATE_CLOSED, STATE_CLOSING, STATE_LATCHED, STATE_RUNNING};
use crate::{Error, ErrorKind, Lsn, Result, format::Purpose, io::Storage};
use std::sync::{Arc, atomic::Ordering};

/// Whether the place where the log ends has to be fixed by a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was cut: on a full disk the frame may be left out, the next one fixes the epoch.
    NothingCut,
    /// Something was cut, and must never come back.
    Cut,
}

/// Blocks that are tried by the probe of the durable write, above the tail.
const PROBE_BLOCKS: u64 = 32;

impl<S: Storage> Engine<S> {
    /// Writes one empty frame of the new epoch at the tail: what was reported as cut can never come
    /// back after that. Then lets the storage choose how durable writes are made, on the blocks above,
    /// and starts preparing the next segment.
    pub(crate) fn write_opening(self: &Arc<Self>, verdict: Verdict) -> Result<()> {
        if self.install_last_resort(Purpose::Opening, verdict)? {
            let core = self.core.lock();
            let Some(front) = self.writable_front(&core) else {
                return Err(Error::new(ErrorKind::Latched, "the opening frame cannot be written"));
            };
            self.write(core, front);
        }
        let mut core = self.core.lock();
        self.check_running(&core)?;
        let current = core.segments.current().clone();
        let offset = core.tail.distance_from(current.base).unwrap_or(u64::MAX);
        let bytes = PROBE_BLOCKS * self.block.bytes_u64();
        if core.segments.begun && offset.saturating_add(bytes) <= self.identity.segment_bytes {
            let _lease = core.lease.clone();
            drop(core);
            let file = &current.slot.file;
            if let Err(error) = self.storage.probe(file, offset, bytes) {
                let path = self.storage.path().join(&current.slot.name);
                let error = Error::from_io("probing durable writes", error).with_path(path);
                self.latch(self.core.lock(), error);
            }
            core = self.core.lock();
        }
        self.check_running(&core)?;
        if core.segments.successor.is_none() || !core.segments.free.is_empty() {
            self.wake_preparer(&mut core)?;
        }
        Ok(())
    }

    /// Puts an empty frame at the tail, waiting for the next segment if need be. On a full disk it may
    /// use the reserved blocks as long as they hold a checkpoint after it; else it may be left out if
    /// nothing was cut. Answers whether there is one.
    fn install_last_resort(self: &Arc<Self>, purpose: Purpose, verdict: Verdict) -> Result<bool> {
        if self.install_empty(&mut self.core.lock(), purpose) {
            return Ok(true);
        }
        let prepared = self.wait_for_segment();
        let mut core = self.core.lock();
        if self.install_empty(&mut core, purpose) {
            return Ok(true);
        }
        let Err(full) = prepared else {
            return Err(Error::new(ErrorKind::NoSpace, "no room for an empty frame"));
        };
        if full.kind() != ErrorKind::NoSpace {
            return Err(full);
        }
        let buffer = self.fits_before_checkpoint(&core).then(|| self.pool.take()).flatten();
        match (buffer, verdict) {
            (Some(buffer), _) => {
                self.install(&mut core, buffer, purpose);
                self.seal(&mut core);
                Ok(true)
            }
            (None, Verdict::NothingCut) => Ok(false),
            (None, Verdict::Cut) => Err(full),
        }
    }

    /// Makes everything that was appended durable.
    pub(crate) fn flush(self: &Arc<Self>) -> Result<Lsn> {
        self.check_caller()?;
        let core = self.core.lock();
        self.check_running(&core)?;
        let end = core.appended;
        let place = super::Place { lsn: end, last_lsn: end, end, frame: core.appended_frame };
        drop(core);
        self.wait(place, None)?;
        Ok(end)
    }

    /// Seals, waits, confirms; then gives the lock back. Calls that come later get `Closed`.
    pub(crate) fn close(self: &Arc<Self>) -> Result<()> {
        self.check_caller()?;
        let running = self.state.compare_exchange(
            STATE_RUNNING,
            STATE_CLOSING,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        if running.is_err() {
            let core = self.core.lock();
            return self.check_running(&core);
        }
        let outcome = self.drain();
        let core = self.core.lock();
        if self.state.load(Ordering::SeqCst) < STATE_LATCHED {
            self.end(core, STATE_CLOSED);
        } else {
            drop(core);
        }
        self.join_threads();
        outcome
    }

    fn drain(self: &Arc<Self>) -> Result<()> {
        let core = self.core.lock();
        let (end, frame) = (core.appended, core.appended_frame);
        drop(core);
        // A record whose closure still runs is appended: sealing waits for it.
        self.wait(super::Place { lsn: end, last_lsn: end, end, frame }, None)?;
        if !self.install_last_resort(Purpose::Close, Verdict::NothingCut)? {
            return Ok(());
        }
        let core = self.core.lock();
        let (end, frame) = (core.tail, core.next - 1);
        drop(core);
        self.wait(super::Place { lsn: end, last_lsn: end, end, frame }, None)
    }
}
