//! The two ends of a writer's life: the opening frame and the close.

use super::{
    CLOSE_BEGUN, CLOSE_NOT_ASKED, CLOSE_OVER, Engine, OPENED, STATE_CLOSED, STATE_CLOSING,
    STATE_LATCHED, STATE_RUNNING, committer::Empty, stop::Teller,
};
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::Purpose,
    io::{Storage, Wake},
    sync::current_thread,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Whether the place where the log ends has to be fixed by a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was cut: on a full disk the frame may be left out, the next one fixes the epoch.
    NothingCut,
    /// Something was cut, and must never come back.
    Cut,
}

/// Between two looks for a buffer that is about to come back.
const MEMORY_PAUSE: Duration = Duration::from_micros(100);

/// Blocks that are tried by the probe of the durable write, above the tail.
const PROBE_BLOCKS: u64 = 32;

impl<S: Storage> Engine<S> {
    /// Writes one empty frame of the new epoch at the tail: what was reported as cut can never come
    /// back after that. Then lets the storage choose how durable writes are made, on the blocks above,
    /// and starts preparing the next segment.
    ///
    /// Once the frame is being written, an error is a log that has latched. What the system may refuse for
    /// want of something is asked for before that, so that it can be asked for again.
    pub(crate) fn write_opening(self: &Arc<Self>, verdict: Verdict) -> Result<()> {
        self.start_preparer()?;
        if !planted!("verdict-not-fixed") && self.install_last_resort(Purpose::Opening, verdict)? {
            self.wait_for_last_frame()?;
        }
        let mut core = self.lock();
        self.check_running(&core)?;
        let current = core.segments.current().clone();
        let offset = core.tail.distance_from(current.base).unwrap_or(u64::MAX);
        let bytes = PROBE_BLOCKS * self.block.bytes_u64();
        if core.segments.begun && offset.saturating_add(bytes) <= self.identity.segment_bytes {
            let lease = core.lease.clone();
            drop(core);
            let file = &current.slot.file;
            if let Err(error) = self.storage.probe(file, offset, bytes) {
                let path = self.storage.path().join(&current.slot.name);
                let error = Error::from_io("probing durable writes", error).with_path(path);
                // Where something is short, durable writes are made as they were for the opening frame.
                if !error.is_shortage() {
                    self.latch(self.lock(), error, Teller::Here);
                }
            }
            drop(lease);
            core = self.lock();
        }
        self.check_running(&core)?;
        self.opened.store(OPENED, Ordering::SeqCst);
        self.wake_preparer(&mut core);
        Ok(())
    }

    /// Also if there is nothing to prepare yet: at the next rotation it has to be there.
    fn start_preparer(self: &Arc<Self>) -> Result<()> {
        let work = |engine: &Arc<Self>| {
            engine.wait_for_opening();
            engine.run_preparer();
        };
        self.spawn("wal-prepare", work)
    }

    /// Holds the preparer back while the verdict is made durable and durable writes are timed, unless
    /// the opening frame itself needs a segment.
    fn wait_for_opening(self: &Arc<Self>) {
        loop {
            let core = self.lock();
            let seen = self.preparer.read();
            let is_over = self.opened.load(Ordering::SeqCst) == OPENED
                || self.state.load(Ordering::SeqCst) >= STATE_LATCHED;
            if is_over || core.segments.preparer.urgent {
                return;
            }
            drop(core);
            self.storage.wait(&self.preparer, seen, None);
        }
    }

    /// Puts an empty frame at the tail, waiting for the next segment if need be. On a full disk it may
    /// use the reserved blocks as long as they hold a checkpoint after it; else it may be left out if
    /// nothing was cut. Answers whether there is one.
    fn install_last_resort(self: &Arc<Self>, purpose: Purpose, verdict: Verdict) -> Result<bool> {
        let mut full = None;
        let (full, mut core) = loop {
            let mut core = self.lock();
            match (self.install_empty(&mut core, purpose), full.take()) {
                (Empty::Installed, _) => return Ok(true),
                (Empty::NoSegment, Some(error)) => break (error, core),
                (Empty::NoSegment, None) => {
                    drop(core);
                    full = self.wait_for_segment().err();
                }
                // Whoever wrote the last frame is just giving its buffer back.
                (Empty::NoMemory, error) => {
                    full = error;
                    drop(core);
                    self.storage.sleep(MEMORY_PAUSE);
                }
            }
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
        let core = self.lock();
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
        let first = self.close.compare_exchange(
            CLOSE_NOT_ASKED,
            CLOSE_BEGUN,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        if first.is_err() {
            self.wait_for_close();
            let core = self.lock();
            return self.check_running(&core);
        }
        let closing = Closing(self);
        self.closer.get_or_init(current_thread);
        let running = self.state.compare_exchange(
            STATE_RUNNING,
            STATE_CLOSING,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        if running.is_err() {
            drop(closing);
            let core = self.lock();
            return self.check_running(&core);
        }
        let outcome = self.drain();
        let core = self.lock();
        // A latched log waits for nobody: what failed one write may hang the next.
        if self.state.load(Ordering::SeqCst) < STATE_LATCHED {
            self.end(core, STATE_CLOSED, Teller::Here);
            self.join_threads();
        }
        outcome
    }

    /// Waits until whoever closes the log has done so: unless it is latched, it can be opened again when
    /// any close returns. Not in a callback that the one who closes waits for, however many other logs
    /// are being closed in between.
    fn wait_for_close(&self) {
        let is_waited_for = self.closer.get() == Some(&current_thread());
        while !is_waited_for && !self.is_served_by_caller() {
            let seen = self.progress.read();
            if self.close.load(Ordering::SeqCst) == CLOSE_OVER {
                return;
            }
            self.storage.wait(&self.progress, seen, None);
        }
    }

    fn drain(self: &Arc<Self>) -> Result<()> {
        let core = self.lock();
        let (end, frame) = (core.appended, core.appended_frame);
        drop(core);
        // A record whose closure still runs is appended: sealing waits for it.
        let place = super::Place { lsn: end, last_lsn: end, end, frame };
        if !planted!("closed-while-held") {
            self.wait(place, None)?;
        }
        let leaves_out = planted!("close-not-confirmed");
        if leaves_out || !self.install_last_resort(Purpose::Close, Verdict::NothingCut)? {
            return Ok(());
        }
        self.wait_for_last_frame()
    }

    /// Waits until the frame that was sealed last is durable, and writes it, if nobody else does.
    fn wait_for_last_frame(self: &Arc<Self>) -> Result<()> {
        let core = self.lock();
        let (end, frame) = (core.tail, core.next - 1);
        drop(core);
        self.wait(super::Place { lsn: end, last_lsn: end, end, frame }, None)
    }
}

/// A close that was begun: tells those who wait for it when it is over, also by a panic.
struct Closing<'a, S: Storage>(&'a Engine<S>);

impl<S: Storage> Drop for Closing<'_, S> {
    fn drop(&mut self) {
        self.0.close.store(CLOSE_OVER, Ordering::SeqCst);
        self.0.progress.bump();
        self.0.storage.wake(&self.0.progress, Wake::All);
    }
}
