//! [`Wal`]: the handle, and how it is got.

use crate::{
    Error, Lsn, OpenReport, Options, Replay, Result, Ticket,
    batch::Batch,
    commit::{Engine, Remains, Resources, Start, Stats, Verdict},
    format::{Identity, RecordKind},
    io::{Directory, Storage},
    recovery::{self, Recovered},
    ticket::AppendFuture,
};
use std::{fmt, sync::Arc};

/// A log that is open for writing.
///
/// Share it by reference or in an [`Arc`]; every call takes `&self`. Dropping it without
/// [`Wal::close`] writes nothing: what is not durable by then is lost, as in a crash. It does not wait
/// either: calls of the disk that are under way hold the lock until they return. An open in this process
/// waits for that ([`Options::lock_timeout`]), one in another is [`Locked`](crate::ErrorKind::Locked).
///
/// Every call answers [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child, and
/// [`ErrorKind::Latched`](crate::ErrorKind::Latched) after the first write or sync that failed.
pub struct Wal<S: Storage = Directory> {
    engine: Arc<Engine<S>>,
}

impl<S: Storage> Replay<S> {
    /// Makes the verdict durable and gives the log for writing.
    ///
    /// Intact frames above the cut are kept aside in a file of their own, which there is in any case
    /// where not all of the cut could be read; then an empty frame of the new epoch is written at the
    /// tail, so that what was reported as cut can never come back.
    ///
    /// Where something is short, room or memory or descriptors or threads, nothing has come of it: this
    /// keeps the lock, and may be called again. After a failed write it answers that failure at every
    /// later call. Once it has given the log, this holds no file, no memory and no lock any more.
    ///
    /// # Errors
    /// The error that [`Replay::next`] returned, if it did.
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if records are unread and
    /// [`Replay::skip_rest`] was not called, and if it has given the log already.
    /// [`NoSpace`](crate::ErrorKind::NoSpace) if there is no room for what has to be written; a log of
    /// which nothing was cut opens on a full disk too. [`Io`](crate::ErrorKind::Io) for other refusals
    /// of the system, [`Latched`](crate::ErrorKind::Latched) if the frame at the tail cannot be written.
    pub fn finish(&mut self) -> Result<(Wal<S>, OpenReport)> {
        let recovered = self.take_recovered()?;
        match start(recovered, self.options()) {
            Ok((wal, report)) => {
                self.set_report(report.clone());
                Ok((wal, report))
            }
            Err(Refused { error, recovered: Some(recovered) }) => {
                self.put_back(*recovered);
                Err(error)
            }
            Err(Refused { error, recovered: None }) => {
                self.fail(error.clone());
                Err(error)
            }
        }
    }
}

impl<S: Storage> Wal<S> {
    pub(crate) fn engine(&self) -> &Arc<Engine<S>> {
        &self.engine
    }

    /// Appends a record. It is ordered when this returns, and durable when the ticket says so. Waits
    /// while there is no room in memory. No system call unless a frame is full.
    ///
    /// # Errors
    /// [`TooLarge`](crate::ErrorKind::TooLarge) above [`Wal::record_bytes_max`];
    /// [`NoSpace`](crate::ErrorKind::NoSpace) if the next segment cannot be prepared: nothing that was
    /// appended before is harmed, and the log goes on once there is room;
    /// [`Latched`](crate::ErrorKind::Latched), [`Closed`](crate::ErrorKind::Closed),
    /// [`Forked`](crate::ErrorKind::Forked).
    #[inline]
    pub fn append(&self, payload: &[u8]) -> Result<Ticket<S>> {
        let place = self.engine.append(payload)?;
        Ok(Ticket::new(&self.engine, place))
    }

    /// The same for a record that the caller will not ask about by itself: answers where it stands. It is
    /// durable once [`Wal::durable_lsn`] is past that, which [`Wal::flush`], or the ticket of any record after
    /// it, waits for. A fifth cheaper than a ticket that is dropped.
    ///
    /// # Errors
    /// As [`Wal::append`].
    #[inline]
    pub fn append_untracked(&self, payload: &[u8]) -> Result<Lsn> {
        Ok(self.engine.append(payload)?.lsn)
    }

    /// The same, but never waits.
    ///
    /// # Errors
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) if there is no room just now, or somebody who waits for it
    /// has been passed so often that it is their turn; and those of [`Wal::append`].
    pub fn try_append(&self, payload: &[u8]) -> Result<Ticket<S>> {
        let place = self.engine.try_append(payload)?;
        Ok(Ticket::new(&self.engine, place))
    }

    /// The same, but waits for room without blocking the thread.
    ///
    /// Of those who wait for room, here or in [`Wal::append`], the next that fits is woken, in the order of
    /// arrival. A future that was woken has no claim on the room before it is polled: one that is not polled,
    /// dropped, or forgotten holds nobody up. Others may take room before the first thread, or task that came back
    /// for its room and found none, 64 times; then they wait until it has been served, for a task that is not
    /// polled one [`Options::linger`](crate::Options::linger) long. A checkpoint that frees room waits for nobody.
    pub fn append_async<'a>(&'a self, payload: &'a [u8]) -> AppendFuture<'a, S> {
        AppendFuture::new(&self.engine, payload)
    }

    /// Appends a record of `length` bytes that `fill` writes in place. The room is zero at first.
    ///
    /// `fill` should be short: the frame cannot be written before it returns. Waiting or appending
    /// inside it is [`InvalidInput`](crate::ErrorKind::InvalidInput).
    ///
    /// # Errors
    /// As [`Wal::append`].
    ///
    /// # Panics
    /// If `fill` does: the record is void then, and nobody ever reads it.
    pub fn append_with(&self, length: usize, fill: impl FnOnce(&mut [u8])) -> Result<Ticket<S>> {
        let place = self.engine.append_filled(length, RecordKind::Data, fill)?;
        Ok(Ticket::new(&self.engine, place))
    }

    /// Starts a batch: records that are all there after a crash, or none.
    pub fn batch(&self) -> Batch<'_, S> {
        Batch::new(&self.engine)
    }

    /// Says that nothing below `start_mark` is needed any more, and keeps up to 1024 bytes of the
    /// caller's own `state` with it. Logged like a record; when the ticket is durable, replay begins
    /// at `start_mark`, and slots wholly below it are reused. On a full disk it is possible as long as
    /// anything is.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `start_mark` is below an earlier one or
    /// past the tail, [`TooLarge`](crate::ErrorKind::TooLarge) for more `state`, and those of
    /// [`Wal::append`].
    pub fn checkpoint(&self, start_mark: Lsn, state: &[u8]) -> Result<Ticket<S>> {
        let place = self.engine.checkpoint(start_mark, state)?;
        Ok(Ticket::new(&self.engine, place))
    }

    /// Makes everything durable that was appended before, and returns where that ends.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn flush(&self) -> Result<Lsn> {
        self.engine.flush()
    }

    /// The durable mark: every record that ends at or below it survives a power cut.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.engine.durable()
    }

    /// Where the log ends: behind the last record that was appended, and never below the durable
    /// mark.
    #[must_use]
    pub fn appended_lsn(&self) -> Lsn {
        self.engine.appended()
    }

    /// Where a replay would begin: the start mark of the last durable checkpoint.
    #[must_use]
    pub fn start_mark(&self) -> Lsn {
        self.engine.start_mark()
    }

    /// The longest record that fits, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.engine.record_bytes_max()
    }

    /// What holds for the whole log: its id, its segment and block bytes.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.engine.identity()
    }

    /// Counters since the log was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Seals and waits for what was appended, writes an empty frame that vouches for it, ends the
    /// log's threads and gives the lock back. Later calls answer
    /// [`Closed`](crate::ErrorKind::Closed); reading through readers that exist goes on.
    ///
    /// When it has returned `Ok` the log can be opened again. A log that is latched waits for nobody, for
    /// its disk may never answer: callbacks may still be told afterwards, and the lock is held until no
    /// call of the disk is under way, as when the handle is dropped.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn close(&self) -> Result<()> {
        self.engine.close()
    }
}

impl<S: Storage> Drop for Wal<S> {
    /// Ends the log without waiting and without writing. Calls of the disk that are under way hold the
    /// lock until they return, which an open in this process waits for.
    fn drop(&mut self) {
        self.engine.abandon();
    }
}

impl<S: Storage> fmt::Debug for Wal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("log_id", &self.engine.identity().log_id)
            .field("durable", &self.engine.durable())
            .finish_non_exhaustive()
    }
}

/// A start that failed, and all that it began with if it may be tried again.
struct Refused<S: Storage> {
    error: Error,
    recovered: Option<Box<Recovered<S>>>,
}

/// Starts the writer and fixes the verdict.
fn start<S: Storage>(
    mut recovered: Recovered<S>,
    options: &Options,
) -> Result<(Wal<S>, OpenReport), Refused<S>> {
    let settings = options.settings(&recovered.identity);
    let prepared = Resources::take(&recovered.identity, &settings)
        .and_then(|resources| recovery::keep_cut(&mut recovered).map(|_| resources));
    let resources = match prepared {
        Ok(resources) => resources,
        Err(error) => {
            let recovered = error.is_shortage().then(|| Box::new(recovered));
            return Err(Refused { error, recovered });
        }
    };
    let verdict = if recovered.cut.is_some() { Verdict::Cut } else { Verdict::NothingCut };
    let begun = recovered.is_begun();
    let Recovered { storage, lock, segments, successor, free, next_slot_number, .. } = recovered;
    let start = Start {
        storage: Arc::clone(&storage),
        lock,
        identity: recovered.identity,
        epoch: recovered.epoch,
        incarnation: recovered.incarnation,
        tail: recovered.tail.lsn,
        chain: recovered.tail.previous_crc,
        ordinal: recovered.tail.next_ordinal,
        segments,
        successor,
        free,
        next_slot_number,
        checkpoint: recovered.checkpoint.clone(),
        begun,
    };
    let engine = Engine::new(start, settings, resources);
    let mut opening = Opening { engine: &engine, is_over: false };
    let written = engine.write_opening(verdict);
    opening.is_over = true;
    drop(opening);
    let Err(error) = written else {
        // What the probe measured is known only now.
        let report = OpenReport { profile: storage.profile(), ..recovered.report };
        return Ok((Wal { engine }, report));
    };
    let remains = match engine.take_apart() {
        Ok(remains) => remains,
        Err(error) => return Err(Refused { error, recovered: None }),
    };
    let Remains { lock, segments, successor, free, next_slot_number } = remains;
    let recovered =
        Recovered { storage, lock, segments, successor, free, next_slot_number, ..recovered };
    Err(Refused { error, recovered: Some(Box::new(recovered)) })
}

/// An engine that nobody has a handle of yet: if its thread unwinds, what was started ends and the lock goes.
struct Opening<'a, S: Storage> {
    engine: &'a Arc<Engine<S>>,
    is_over: bool,
}

impl<S: Storage> Drop for Opening<'_, S> {
    fn drop(&mut self) {
        if !self.is_over {
            self.engine.abandon();
        }
    }
}
