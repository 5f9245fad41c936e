//! [`Ticket`]: what stands for a record that is not durable yet.

use crate::{
    Error, ErrorKind, Lsn, Result,
    commit::{Engine, Place, Registration, RoomWait},
    io::{Directory, Storage},
};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// A record or batch that was appended: ordered, not durable yet.
///
/// Wait for it, await it from any executor, or leave a callback. Dropping it changes nothing about the
/// record. It outlives the handle: after a close it answers what it would have answered before, after
/// a drop it answers [`ErrorKind::Closed`](crate::ErrorKind::Closed) unless the record was durable.
#[must_use = "an appended record is not durable before its ticket says so"]
pub struct Ticket<S: Storage = Directory> {
    engine: Arc<Engine<S>>,
    place: Place,
    registration: Option<Registration>,
}

impl<S: Storage> Ticket<S> {
    #[inline]
    pub(crate) fn new(engine: &Arc<Engine<S>>, place: Place) -> Self {
        Self { engine: Arc::clone(engine), place, registration: None }
    }

    /// Blocks until the record survives a power cut, and returns its Lsn. The calling thread writes
    /// to the disk itself if nobody else does.
    ///
    /// # Errors
    /// [`Latched`](crate::ErrorKind::Latched) if a write or a sync failed: the outcome is unknown.
    /// [`Closed`](crate::ErrorKind::Closed), [`Forked`](crate::ErrorKind::Forked), and
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) inside a closure that fills a record.
    pub fn wait(self) -> Result<Lsn> {
        self.engine.wait(self.place, None)?;
        Ok(self.place.lsn)
    }

    /// The same for `timeout` at most. A time-out gives the caller back and changes nothing about the
    /// record. While this thread is itself inside the write, it cannot be given back: a disk that
    /// hangs holds one caller, not all.
    ///
    /// # Errors
    /// [`TimedOut`](crate::ErrorKind::TimedOut), and those of [`Ticket::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Lsn> {
        self.engine.wait(self.place, Some(timeout))?;
        Ok(self.place.lsn)
    }

    /// Calls `callback` with the outcome: at once if it is known, else from the thread that completes
    /// the write, outside every lock. It should be short; its panics are caught and dropped.
    ///
    /// It may append, wait, and close the log. But callbacks that one thread has to call are called one
    /// after another, behind the tasks that it wakes: a callback that waits for what another one does, or
    /// for a thread that waits for it, may wait for ever. Two threads that close two logs, each in a
    /// callback of the other's, are such a pair.
    ///
    /// Inside a closure that fills a record, and in a forked child, the outcome is known:
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) or [`Forked`](crate::ErrorKind::Forked),
    /// unless the record is durable already.
    pub fn on_durable(self, callback: impl FnOnce(Result<Lsn>) + Send + 'static) {
        let lsn = self.place.lsn;
        let callback = Box::new(move |outcome: Result<(), Error>| callback(outcome.map(|()| lsn)));
        self.engine.call_back(self.place, callback);
    }

    /// Whether the record survives a power cut. Never waits.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.engine.is_durable(self.place.end)
    }

    /// Where the record stands; the first one of a batch.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.place.lsn
    }

    /// Where the last record of a batch stands; the same as [`Ticket::lsn`] for a single record.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.place.last_lsn
    }
}

impl<S: Storage> Future for Ticket<S> {
    type Output = Result<Lsn>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Lsn>> {
        let this = self.get_mut();
        this.engine
            .poll_durable(this.place, &mut this.registration, context.waker())
            .map(|outcome| outcome.map(|()| this.place.lsn))
    }
}

impl<S: Storage> fmt::Debug for Ticket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("lsn", &self.place.lsn).finish_non_exhaustive()
    }
}

/// An append that waits for room without blocking. See [`Wal::append_async`](crate::Wal::append_async).
///
/// It holds nothing that others need: dropped, forgotten, or woken and not polled, it holds nobody up. Polled
/// after it was ready it appends nothing, and answers [`InvalidInput`](crate::ErrorKind::InvalidInput).
#[must_use = "futures do nothing unless polled"]
pub struct AppendFuture<'a, S: Storage = Directory> {
    engine: &'a Arc<Engine<S>>,
    payload: &'a [u8],
    wait: RoomWait,
    is_over: bool,
}

impl<'a, S: Storage> AppendFuture<'a, S> {
    pub(crate) fn new(engine: &'a Arc<Engine<S>>, payload: &'a [u8]) -> Self {
        Self { engine, payload, wait: RoomWait::of_task(), is_over: false }
    }
}

impl<S: Storage> Future for AppendFuture<'_, S> {
    type Output = Result<Ticket<S>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Err(error) = this.engine.check_caller() {
            this.is_over = true;
            return Poll::Ready(Err(error));
        }
        if this.is_over {
            let error = Error::new(ErrorKind::InvalidInput, "polled after it was ready");
            return Poll::Ready(Err(error));
        }
        let polled = this.engine.poll_append(this.payload, &mut this.wait, context.waker());
        let Some(outcome) = polled.transpose() else { return Poll::Pending };
        this.is_over = true;
        Poll::Ready(outcome.map(|place| Ticket::new(this.engine, place)))
    }
}

impl<S: Storage> Drop for AppendFuture<'_, S> {
    fn drop(&mut self) {
        self.engine.cancel_append(&mut self.wait);
    }
}

impl<S: Storage> fmt::Debug for AppendFuture<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendFuture").field("bytes", &self.payload.len()).finish_non_exhaustive()
    }
}
