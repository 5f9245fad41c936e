//! A process of the target `operations`: it takes the steps of a plan, and tells what the log answers.

use super::{
    operations::Witness,
    plan::{Device, How, Shape, Step, Trouble, payload},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};
use wal::{
    Error, ErrorKind, Lsn, Options, OwnedRecord, ReadOnly, Result, Ticket, Verdict, VerifyVerdict,
    Wal, io::Host as _,
};
use wal_sim::{Disk, Recovered, Said, Spawned};

/// So many tickets may be open before all are waited for.
const OPEN_MAX: usize = 8;

/// A life calls the disk less often: else somebody tries again without a pause.
const CALLS_MAX: u64 = 20_000;

/// What the closure of a record that is given up unwinds with.
struct GivenUp;

/// A program that writes to the log, and bears what fails.
pub(super) struct Process<'a> {
    disk: &'a Disk,
    witness: &'a Witness,
    options: Options,
    /// Whether a close may find no room to say that it was one.
    may_be_full: bool,
    /// Whether the disk itself may be full, also when the log is opened.
    is_small: bool,
    wal: Option<Arc<Wal<Disk>>>,
    /// Appended and not waited for.
    open: Vec<(u64, Ticket<Disk>)>,
    /// Where acknowledged records stand.
    places: Vec<Lsn>,
    /// The durable mark when the log was first seen to be latched.
    frozen: Option<Lsn>,
    followers: Vec<Spawned<()>>,
    next: u64,
}

impl<'a> Process<'a> {
    pub(super) fn new(
        disk: &'a Disk,
        witness: &'a Witness,
        (device, shape): (Device, Shape),
        number: u64,
    ) -> Self {
        Self {
            disk,
            witness,
            options: shape.options(device),
            may_be_full: shape.is_capped() || device.is_small(),
            is_small: device.is_small(),
            wal: None,
            open: Vec::new(),
            places: Vec::new(),
            frozen: None,
            followers: Vec::new(),
            next: number << 32,
        }
    }

    pub(super) fn act(&mut self, step: Step) {
        let calls = self.disk.calls_in_all();
        assert!(calls < CALLS_MAX, "{calls} calls of the disk: somebody tries without a pause");
        match step {
            Step::Fail(trouble) => return self.plant(trouble),
            Step::Heal => return self.disk.heal(),
            Step::ReadOnly => return self.read_only(),
            Step::Sleep { micros } => return self.disk.sleep(Duration::from_micros(micros.into())),
            Step::Close => return self.close(),
            Step::Die => return self.die(),
            _ => {}
        }
        let Some(wal) = self.log() else { return };
        match step {
            Step::Append { bytes, how } => self.append(&wal, usize::from(bytes) % 3000, how),
            Step::Batch { records, bytes, is_waited_for } => {
                self.append_batch(&wal, records, bytes);
                if is_waited_for {
                    self.wait_for_all();
                }
            }
            Step::Fill => self.append(&wal, usize::MAX, How::Later),
            Step::WaitForAll => self.wait_for_all(),
            Step::WaitForOne { micros } => self.wait_for_one(micros),
            Step::Flush => match wal.flush() {
                Ok(end) => {
                    assert_eq!(self.frozen, None, "flushed after a failure");
                    self.witness.hear(Said::Durable(end));
                }
                Err(error) => self.bear("flush", &error),
            },
            Step::Checkpoint { back, state, is_waited_for } => {
                self.checkpoint(&wal, back, state, is_waited_for);
            }
            Step::Read { back } => self.read(&wal, back),
            Step::Follow { back } => self.follow(&wal, back),
            _ => {}
        }
        if self.frozen.is_none() {
            self.witness.hear(Said::Durable(wal.durable_lsn()));
        }
    }

    pub(super) fn plant(&mut self, trouble: Trouble) {
        if trouble.is_about_reads() {
            self.witness.expect_failing_reads();
        }
        self.may_be_full |= trouble.is_shortage();
        self.disk.plant(trouble.fault());
    }

    /// The log, opened if it is not open. Where a fault is in the way, it opens as soon as the disk has
    /// healed. `None` where the disk is full.
    fn log(&mut self) -> Option<Arc<Wal<Disk>>> {
        if let Some(wal) = &self.wal {
            return Some(Arc::clone(wal));
        }
        let outcome = self.open_log().or_else(|error| {
            if !self.witness.bears(self.disk, &error) {
                return Err(error);
            }
            self.witness.reach("an open failed");
            self.disk.heal();
            self.open_log()
        });
        match outcome {
            Ok(wal) => self.wal = Some(Arc::new(wal)),
            Err(error) if self.is_small && error.kind() == ErrorKind::NoSpace => {
                self.witness.reach("no room to open");
            }
            Err(error) => panic!("open: {error:?}"),
        }
        self.wal.clone()
    }

    /// Opens the log for writing, and checks what it holds.
    fn open_log(&mut self) -> Result<Wal<Disk>> {
        let mut replay = loop {
            match self.options.open_in(self.disk.clone()) {
                // The last write of the handle that was dropped is still under way.
                Err(error) if error.kind() == ErrorKind::Locked => {
                    self.disk.sleep(Duration::from_micros(100));
                }
                answer => break answer?,
            }
        };
        let found = Recovered::read(&mut replay)?;
        let model = self.witness.model();
        model.check(&found).unwrap_or_else(|what| panic!("{what}"));
        let report = replay.report();
        let rare = [
            (report.verdict == Verdict::TornTail, "a torn tail"),
            (report.clean_close, "a clean close"),
            (report.segments > 1, "more than one segment"),
            (found.checkpoint.is_some(), "a checkpoint"),
            (report.cut.as_ref().is_some_and(|cut| cut.intact_frames > 0), "intact frames cut"),
            (model.has_unacknowledged(&found), "found what nobody was told of"),
            (model.has_lost(&found), "lost what nobody was told of"),
        ];
        let rare = rare.iter().filter(|(happened, _)| *happened);
        rare.for_each(|(_, what)| self.witness.reach(what));
        self.places = found.records.iter().map(|record| record.lsn).collect();
        self.witness.hear(Said::Found(Arc::new(found)));
        let (wal, _) = replay.finish()?;
        self.witness.hear(Said::Finished);
        Ok(wal)
    }

    fn close(&mut self) {
        let Some(wal) = self.wal.take() else { return };
        match wal.close() {
            Ok(()) => {
                assert_eq!(self.frozen, None, "closed well after a failure");
                self.witness.hear(Said::Durable(wal.durable_lsn()));
                if !self.may_be_full {
                    self.witness.hear(Said::Closed);
                }
                let late = wal.append(b"late").map(drop).map_err(|error| error.kind());
                assert_eq!(late, Err(ErrorKind::Closed), "appended after a close");
            }
            Err(error) => self.bear("close", &error),
        }
        // What was appended before is answered all the same.
        self.wait_for_all();
        drop(wal);
        self.forget();
    }

    fn die(&mut self) {
        self.open.clear();
        self.wal = None;
        self.forget();
    }

    /// What the process no longer knows.
    fn forget(&mut self) {
        self.frozen = None;
        // A follower of a log that is gone comes to its end.
        std::mem::take(&mut self.followers).into_iter().for_each(Spawned::join);
    }

    /// The plan ends, the process goes on until the power fails: whatever is under way is cut off.
    pub(super) fn end_of_plan(&mut self) {
        self.act(Step::Heal);
        if self.wal.as_ref().is_some_and(|wal| wal.stats().segments_recycled > 0) {
            self.witness.reach("a slot was used again");
        }
        self.followers.clear();
    }

    fn begin(&mut self, records: Vec<Vec<u8>>) -> u64 {
        let batch = self.next;
        self.next += 1;
        self.witness.hear(Said::Begun { batch, records: records.into() });
        batch
    }

    fn append(&mut self, wal: &Wal<Disk>, bytes: usize, how: How) {
        let record = payload(self.next, 0, bytes.clamp(16, wal.record_bytes_max()));
        let batch = self.begin(vec![record.clone()]);
        let outcome = match how {
            How::Try => wal.try_append(&record),
            How::Task => self.disk.world().block_on(wal.append_async(&record)),
            How::InPlace => wal.append_with(record.len(), |room| room.copy_from_slice(&record)),
            How::GiveUp => return self.give_up(wal, batch, &record),
            How::Wait | How::Later | How::CallBack => wal.append(&record),
        };
        self.placed(batch, outcome);
        match how {
            How::Wait => self.wait_for_all(),
            How::Task => {
                let Some((batch, ticket)) = self.open.pop() else { return };
                let last = ticket.last_lsn();
                let outcome = self.disk.world().block_on(ticket);
                self.answered(batch, last, outcome);
            }
            How::CallBack => {
                let Some((batch, ticket)) = self.open.pop() else { return };
                let witness = self.witness.clone();
                ticket.on_durable(move |outcome| {
                    if outcome.is_ok() {
                        witness.reach("called back");
                        witness.hear(Said::Acknowledged { batch });
                    }
                });
            }
            _ => {}
        }
    }

    /// A record whose closure unwinds is void.
    fn give_up(&mut self, wal: &Wal<Disk>, batch: u64, record: &[u8]) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            wal.append_with(record.len(), |room| {
                room.copy_from_slice(record);
                resume_unwind(Box::new(GivenUp));
            })
        }));
        match outcome {
            Err(payload) if payload.is::<GivenUp>() => self.witness.reach("given up"),
            Err(payload) => resume_unwind(payload),
            Ok(Err(error)) => return self.refused(batch, &error),
            Ok(Ok(_)) => panic!("a closure that unwound appended its record"),
        }
        self.witness.hear(Said::Void { batch });
    }

    fn append_batch(&mut self, wal: &Wal<Disk>, records: u8, bytes: u8) {
        let mut staged = wal.batch();
        let mut kept = Vec::new();
        for index in 0..u64::from(records % 6) {
            // Of the first one the content says which it is.
            let least = if index == 0 { 16 } else { 0 };
            let bytes = ((usize::from(bytes) * 8) >> (index % 4)).max(least);
            let record = payload(self.next, index, bytes);
            if staged.push(&record).is_ok() {
                kept.push(record);
            }
        }
        if kept.is_empty() {
            return;
        }
        let batch = self.begin(kept);
        let outcome = staged.append();
        self.placed(batch, outcome);
    }

    fn placed(&mut self, batch: u64, outcome: Result<Ticket<Disk>>) {
        match outcome {
            Ok(ticket) => {
                assert_eq!(self.frozen, None, "appended after a failure");
                self.witness.hear(Said::Placed { batch, lsn: ticket.lsn() });
                self.open.push((batch, ticket));
            }
            Err(error) => self.refused(batch, &error),
        }
        if self.open.len() > OPEN_MAX {
            self.wait_for_all();
        }
    }

    fn refused(&mut self, batch: u64, error: &Error) {
        match error.kind() {
            ErrorKind::NoSpace => self.witness.reach("an append was refused for want of room"),
            ErrorKind::WouldBlock => self.witness.reach("an append would have blocked"),
            _ => self.bear("append", error),
        }
        self.witness.hear(Said::Void { batch });
    }

    fn wait_for_all(&mut self) {
        for (batch, ticket) in std::mem::take(&mut self.open) {
            let last = ticket.last_lsn();
            self.answered(batch, last, ticket.wait());
        }
    }

    fn wait_for_one(&mut self, micros: u8) {
        let Some((batch, ticket)) = self.open.pop() else { return };
        match ticket.wait_timeout(Duration::from_micros(micros.into())) {
            Err(error) if error.kind() == ErrorKind::TimedOut => self.open.push((batch, ticket)),
            outcome => self.answered(batch, ticket.last_lsn(), outcome),
        }
    }

    fn answered(&mut self, batch: u64, last: Lsn, outcome: Result<Lsn>) {
        match outcome {
            Ok(lsn) => {
                let was_durable = self.frozen.is_none_or(|frozen| last < frozen);
                assert!(was_durable, "acknowledged after a failure");
                self.witness.hear(Said::Acknowledged { batch });
                self.places.push(lsn);
            }
            Err(error) => self.bear("wait", &error),
        }
    }

    /// One of the last acknowledged places.
    fn place(&self, back: u8) -> Option<Lsn> {
        let index = self.places.len().checked_sub(1 + usize::from(back) % 16);
        index.and_then(|index| self.places.get(index)).copied()
    }

    fn checkpoint(&mut self, wal: &Wal<Disk>, back: u8, state: u8, is_waited_for: bool) {
        // All that is durable, or all before an acknowledged record; at times less than before.
        let start_mark =
            if back.is_multiple_of(4) { Some(wal.durable_lsn()) } else { self.place(back) };
        let Some(start_mark) = start_mark else { return };
        let state = payload(self.next, 99, 16 + usize::from(state));
        self.next += 1;
        let falls = start_mark < wal.start_mark();
        self.witness.hear(Said::CheckpointBegun { start_mark, state: state.clone() });
        match wal.checkpoint(start_mark, &state) {
            Ok(ticket) => {
                assert_eq!(self.frozen, None, "a checkpoint after a failure");
                assert!(!falls, "the start mark falls to {start_mark}");
                self.witness.hear(Said::CheckpointPlaced(ticket.lsn()));
                if !is_waited_for {
                    return;
                }
                match ticket.wait() {
                    Ok(_) => {
                        assert_eq!(self.frozen, None, "acknowledged after a failure");
                        self.witness.hear(Said::CheckpointAcknowledged);
                    }
                    Err(error) => self.bear("checkpoint", &error),
                }
                return;
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.witness.reach("a checkpoint was refused for want of room");
            }
            // Below one that is under way.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {}
            Err(error) => self.bear("checkpoint", &error),
        }
        self.witness.hear(Said::CheckpointVoid);
    }

    fn read(&mut self, wal: &Wal<Disk>, back: u8) {
        let start = self.place(back).unwrap_or_default().max(wal.start_mark());
        let mut reader = match wal.read_from(start) {
            Ok(reader) => reader,
            Err(error) => return self.bear("read", &error),
        };
        loop {
            match reader.next_record() {
                Ok(Some(record)) => see(self.witness, &record),
                Ok(None) => return self.witness.reach("read to the end"),
                Err(error) => return self.bear("read", &error),
            }
        }
    }

    /// Reads along on a thread of its own: whatever it sees has to be durable.
    fn follow(&mut self, wal: &Wal<Disk>, back: u8) {
        let start = self.place(back).unwrap_or_default().max(wal.start_mark());
        let mut follow = match wal.follow(start) {
            Ok(follow) => follow,
            Err(error) => return self.bear("follow", &error),
        };
        let (disk, witness) = (self.disk.clone(), self.witness.clone());
        self.followers.push(self.disk.world().spawn("follower", move || {
            loop {
                match follow.next() {
                    Ok(Some(record)) => see(&witness, &record),
                    Ok(None) => return witness.reach("followed to the end"),
                    Err(error) => {
                        let is_late = error.kind() == ErrorKind::Released;
                        assert!(is_late || witness.bears(&disk, &error), "follow: {error:?}");
                        return;
                    }
                }
            }
        }));
    }

    /// Somebody else looks at the log, beside whoever writes to it.
    fn read_only(&mut self) {
        let mut log = match self.options.open_read_only_in(self.disk.clone()) {
            Ok(log) => log,
            Err(error) => return self.bear_reading(&error),
        };
        if let Err(error) = self.look(&mut log) {
            self.bear_reading(&error);
        }
    }

    fn look(&mut self, log: &mut ReadOnly<Disk>) -> Result<()> {
        let mut records = log.records_from(Lsn::ZERO)?;
        while let Some(record) = records.next()? {
            see(self.witness, &record);
        }
        self.witness.reach("somebody else looked");
        Ok(())
    }

    fn bear_reading(&mut self, error: &Error) {
        if error.kind() != ErrorKind::NotFound {
            self.bear("read only", error);
        }
    }

    /// An error is borne if something was made to fail, and fits what failed.
    fn bear(&mut self, what: &str, error: &Error) {
        let is_late = error.kind() == ErrorKind::Released || error.kind() == ErrorKind::Closed;
        assert!(is_late || self.witness.bears(self.disk, error), "{what}: {error:?}");
        let Some(wal) = self.wal.as_ref().filter(|_| error.kind() == ErrorKind::Latched) else {
            return;
        };
        let durable = wal.durable_lsn();
        if let Some(frozen) = self.frozen {
            assert_eq!(durable, frozen, "the durable mark moved after a failure");
        }
        self.frozen = Some(durable);
        self.witness.reach("latched");
    }

    /// The last life: nothing fails any more. The log holds what it must, twice the same; it can be
    /// written to and closed, and then whoever looks finds it whole.
    pub(super) fn examine(&mut self) {
        let Some(first) = self.log() else { return };
        let before = self.places.clone();
        drop(first);
        self.die();
        let Some(second) = self.log() else { return };
        assert_eq!(self.places, before, "a second recovery finds other records");
        self.append(&second, 100, How::Wait);
        drop(second);
        self.close();
        let looked = self.options.open_read_only_in(self.disk.clone()).and_then(|mut log| {
            let verification = log.verify()?;
            assert_ne!(verification.verdict, VerifyVerdict::Corrupt, "{verification:?}");
            let mut records = log.records_from_including_unproved(Lsn::ZERO)?;
            let mut found = Vec::new();
            while let Some(record) = records.next()? {
                found.push(record.lsn());
            }
            Ok(found)
        });
        let found = looked.unwrap_or_else(|error| panic!("cannot be read: {error:?}"));
        assert!(found.starts_with(&before), "a reader finds other records");
    }
}

fn see(witness: &Witness, record: &wal::Record<'_>) {
    let OwnedRecord { lsn, payload, .. } = OwnedRecord::from(*record);
    witness.hear(Said::Seen { lsn, payload });
}
