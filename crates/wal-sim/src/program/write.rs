//! The first life: writing in every way there is.

use super::{
    Settings,
    check::{self, note_closed},
    payload, settings,
};
use crate::disk::{Effect, Fault, Verb};
use crate::{explore::Life, model::Said, random::Random, world::Spawned};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};
use wal::{
    Error, ErrorKind, Lsn, Options, Ticket, Wal,
    format::record_bytes,
    io::{Host as _, Storage},
};

/// Of Linux, what says that something is short: room of a quota, memory, something else for a moment.
const SHORTAGES: [i32; 3] = [122, 12, 11];

/// What the closure of a record that is given up unwinds with.
struct GivenUp;

/// One thread that writes.
pub(super) struct Writer<S: Storage> {
    life: Life<Said>,
    wal: Arc<Wal<S>>,
    random: Random,
    /// The number of its next batch.
    next: u64,
    /// Appended and not waited for.
    open: Vec<(u64, Ticket<S>)>,
    /// Where its last acknowledged record ends.
    acknowledged: Option<Lsn>,
    may_checkpoint: bool,
}

/// Lives the first life: opens the log one to three times, and writes to it from several threads.
pub(super) fn work<S: Storage + Clone>(life: &Life<Said>, storage: &S) {
    let mut random = life.random(0);
    let Settings { options, is_capped } = settings(storage, &mut life.shared_random(0));
    let openings = random.between(1, 3);
    let writers = life.writers().max(1);
    let steps = u64::from(life.steps()) / openings / u64::from(writers) + 1;
    if random.below(5) < 2 {
        plant_a_fault(life, &mut random);
    }
    for opening in 0..openings {
        let wal = Arc::new(open(life, storage, &options));
        let followers: Vec<_> =
            random.one_in(3).then(|| follow(life, &wal, random.next())).into_iter().collect();
        let threads = (0..writers).map(|writer| {
            let first = (opening * 100 + u64::from(writer)) * 1_000_000;
            let mut own = Writer::new(life, &wal, first, random.next());
            own.may_checkpoint = writer == 0;
            life.spawn(&format!("writer-{writer}"), move |_| own.write(steps))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().for_each(Spawned::join);
        if wal.stats().segments_recycled > 0 {
            life.reach("a slot was used again");
        }
        if random.one_in(2) {
            // Past the linger, perhaps past the confirmation.
            life.world().sleep(Duration::from_micros(random.below(8000)));
        }
        match random.below(3) {
            // A drop is no close, and its followers are cut off as they stand.
            pick if pick == 0 || pick == 1 && opening + 1 == openings => drop(wal),
            _ => {
                match wal.close() {
                    Ok(()) => note_closed(life, &wal, is_capped),
                    Err(error) => bear(life, "close", &error),
                }
                drop(wal);
                followers.into_iter().for_each(Spawned::join);
            }
        }
    }
}

/// Opens the log. Where a fault is in the way, it opens as soon as the disk has healed.
fn open<S: Storage + Clone>(life: &Life<Said>, storage: &S, options: &Options) -> Wal<S> {
    let outcome = check::open(life, storage, options).or_else(|what| {
        if life.disk().faults_struck() == 0 {
            return Err(what);
        }
        life.disk().heal();
        life.reach("an open failed, and the next one did not");
        check::open(life, storage, options)
    });
    match outcome {
        Ok((wal, _)) => wal,
        Err(what) => panic!("{what}"),
    }
}

/// Has something fail at some time: once, a few times, or from then on. Half of the time it is a call that
/// carries a flush, and the device may lose its cache then: with errors that latch, and with those that say
/// that something is short for a while.
fn plant_a_fault(life: &Life<Said>, random: &mut Random) {
    let effects = [Effect::Eio, Effect::Short, Effect::EioButDone, Effect::NoSpace];
    let short = SHORTAGES.map(Effect::Refuse);
    let effect = match random.below(8) {
        0 => random.choose(&short),
        _ => random.choose(&effects),
    };
    let fault = Fault::new(effect);
    let fault = match random.below(10) {
        0 => fault.on(Verb::Sync).after(random.below(40)),
        1..4 => fault.on(Verb::WriteDurable).after(random.below(40)),
        // Of a new slot, or of a header: the preparer's, beside frames that are under way.
        4 => fault.on(Verb::SyncDir).after(random.below(12)),
        5..8 => {
            let slot = format!("slot-{:06}", random.between(1, 5));
            let verb = random.choose(&[Verb::Sync, Verb::WriteDurable]);
            fault.on(verb).in_file(&slot).after(random.below(3))
        }
        _ => fault.after(random.below(150)),
    };
    let fault = if random.one_in(2) { fault.dropping_the_cache() } else { fault };
    // The device may have failed long before it says so, and others write and flush meanwhile.
    let late = Duration::from_millis(random.choose(&[0, 0, 1, 20]));
    let fault = fault.taking(late);
    life.disk().plant(fault.times(random.choose(&[1, 1, 3, u64::MAX])));
}

/// Reads along: whatever it sees has to be durable.
fn follow<S: Storage>(life: &Life<Said>, wal: &Arc<Wal<S>>, seed: u64) -> Spawned<()> {
    let start = if Random::new(seed).one_in(2) { wal.start_mark() } else { wal.durable_lsn() };
    let follow = wal.follow(start);
    life.spawn("follower", move |life| {
        let mut follow = match follow {
            Ok(follow) => follow,
            Err(error) => return bear(life, "follow", &error),
        };
        loop {
            match follow.next() {
                Ok(Some(record)) => {
                    let payload = record.payload().to_vec();
                    life.note(Said::Seen { lsn: record.lsn(), payload });
                    life.reach("a follower saw a record");
                }
                Ok(None) => return,
                Err(error) if error.kind() == ErrorKind::Released => {
                    life.reach("a follower was overtaken by a checkpoint");
                    return;
                }
                Err(error) => return bear(life, "follow", &error),
            }
        }
    })
}

/// An error is borne if something was made to fail.
fn bear(life: &Life<Said>, what: &str, error: &Error) {
    assert!(life.disk().faults_struck() > 0, "{what}: {error}");
    if error.kind() == ErrorKind::Latched {
        life.reach("a log was latched");
    }
}

impl<S: Storage> Writer<S> {
    pub(super) fn new(life: &Life<Said>, wal: &Arc<Wal<S>>, first: u64, seed: u64) -> Self {
        Self {
            life: life.clone(),
            wal: Arc::clone(wal),
            random: Random::new(seed),
            next: first,
            open: Vec::new(),
            acknowledged: None,
            may_checkpoint: true,
        }
    }

    pub(super) fn write(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
            self.life.note(Said::Durable(self.wal.durable_lsn()));
        }
        if self.random.one_in(2) {
            self.wait_for_all();
        }
        self.open.clear();
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0..6 => {
                self.append(1);
                self.wait_for_all();
            }
            6..11 => self.append(1),
            11..14 => {
                let records = self.random.between(2, 5);
                self.append(records);
            }
            14 => self.fill_in_place(),
            15 => self.give_up(),
            16 => self.await_one(),
            17 => self.call_back(),
            18 => self.wait_a_little(),
            19 => self.flush(),
            20 => self.life.world().sleep(Duration::from_micros(self.random.below(3000))),
            _ if self.may_checkpoint => self.checkpoint(),
            _ => self.append(1),
        }
    }

    fn bytes(&mut self) -> usize {
        let most = self.wal.record_bytes_max();
        let bytes = match self.random.below(16) {
            0 => most,
            1 => 16,
            2..5 => 500 + self.random.index(3000),
            _ => 16 + self.random.index(300),
        };
        bytes.min(most)
    }

    fn begin(&mut self, records: Vec<Vec<u8>>) -> u64 {
        let batch = self.next;
        self.next += 1;
        self.life.note(Said::Begun { batch, records: records.into() });
        batch
    }

    fn record(&mut self, index: u64) -> Vec<u8> {
        let bytes = if index > 0 && self.random.one_in(8) { 0 } else { self.bytes() };
        payload(self.next, index, bytes)
    }

    fn placed(&mut self, batch: u64, outcome: Result<Ticket<S>, Error>) {
        match outcome {
            Ok(ticket) => {
                self.life.note(Said::Placed { batch, lsn: ticket.lsn() });
                self.open.push((batch, ticket));
            }
            Err(error) => self.refused(batch, &error),
        }
        if self.open.len() > 5 {
            self.wait_for_all();
        }
    }

    fn refused(&mut self, batch: u64, error: &Error) {
        match error.kind() {
            ErrorKind::NoSpace => self.life.reach("an append was refused for want of room"),
            ErrorKind::WouldBlock => self.life.reach("an append would have blocked"),
            _ => bear(&self.life, "append", error),
        }
        self.life.note(Said::Void { batch });
    }

    fn append(&mut self, count: u64) {
        if count == 1 {
            let record = self.record(0);
            let batch = self.begin(vec![record.clone()]);
            let outcome = match self.random.below(7) {
                0 => self.wal.try_append(&record),
                1 => self.life.world().clone().block_on(self.wal.append_async(&record)),
                2 => return self.append_untracked(batch, &record),
                _ => self.wal.append(&record),
            };
            self.placed(batch, outcome);
            return;
        }
        let wal = Arc::clone(&self.wal);
        let mut staged = wal.batch();
        let mut records = Vec::new();
        for index in 0..count {
            let record = self.record(index);
            if staged.push(&record).is_ok() {
                records.push(record);
            }
        }
        let batch = self.begin(records);
        let outcome = staged.append();
        self.placed(batch, outcome);
    }

    /// Of this one only the durable mark will tell.
    fn append_untracked(&mut self, batch: u64, record: &[u8]) {
        match self.wal.append_untracked(record) {
            Ok(lsn) => self.life.note(Said::Placed { batch, lsn }),
            Err(error) => self.refused(batch, &error),
        }
    }

    fn fill_in_place(&mut self) {
        let record = self.record(0);
        let batch = self.begin(vec![record.clone()]);
        let outcome = self.wal.append_with(record.len(), |room| room.copy_from_slice(&record));
        self.placed(batch, outcome);
    }

    /// A record whose closure unwinds is void.
    fn give_up(&mut self) {
        let record = self.record(0);
        let batch = self.begin(vec![record.clone()]);
        let wal = Arc::clone(&self.wal);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            wal.append_with(record.len(), |room| {
                room.copy_from_slice(&record);
                resume_unwind(Box::new(GivenUp));
            })
        }));
        match outcome {
            Err(payload) if payload.is::<GivenUp>() => self.life.reach("a writer gave a record up"),
            Err(payload) => resume_unwind(payload),
            Ok(Err(error)) => return self.refused(batch, &error),
            Ok(Ok(_)) => panic!("a closure that unwound appended its record"),
        }
        self.life.note(Said::Void { batch });
    }

    fn await_one(&mut self) {
        self.append(1);
        let Some((batch, ticket)) = self.open.pop() else { return };
        let end = ticket.last_lsn();
        let outcome = self.life.world().clone().block_on(ticket);
        self.acknowledge(batch, outcome, end);
    }

    fn call_back(&mut self) {
        self.append(1);
        let Some((batch, ticket)) = self.open.pop() else { return };
        let life = self.life.clone();
        ticket.on_durable(move |outcome| {
            if outcome.is_ok() {
                life.note(Said::Acknowledged { batch });
            }
        });
    }

    fn wait_a_little(&mut self) {
        self.append(1);
        let Some((batch, ticket)) = self.open.pop() else { return };
        match ticket.wait_timeout(Duration::from_micros(self.random.below(200))) {
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                self.life.reach("a wait was given up");
                self.open.push((batch, ticket));
            }
            outcome => self.acknowledge(batch, outcome, ticket.last_lsn()),
        }
    }

    fn flush(&mut self) {
        match self.wal.flush() {
            Ok(end) => self.life.note(Said::Durable(end)),
            Err(error) => bear(&self.life, "flush", &error),
        }
    }

    fn wait_for_all(&mut self) {
        for (batch, ticket) in std::mem::take(&mut self.open) {
            let end = ticket.last_lsn();
            self.acknowledge(batch, ticket.wait(), end);
        }
    }

    fn acknowledge(&mut self, batch: u64, outcome: wal::Result<Lsn>, last: Lsn) {
        match outcome {
            Ok(_) => {
                self.life.note(Said::Acknowledged { batch });
                self.acknowledged = Some(last);
            }
            Err(error) => bear(&self.life, "wait", &error),
        }
    }

    /// Releases what stands before the last record that this writer knows to be durable.
    fn checkpoint(&mut self) {
        let Some(last) = self.acknowledged else { return self.append(1) };
        let start_mark = match self.random.below(3) {
            0 => Lsn::new(last.get() + u64::try_from(record_bytes(0)).unwrap_or(8))
                .min(self.wal.durable_lsn()),
            _ => last,
        };
        let start_mark = start_mark.max(self.wal.start_mark());
        let bytes = self.random.index(200);
        let state = payload(self.next, 99, bytes + 16);
        self.next += 1;
        self.life.note(Said::CheckpointBegun { start_mark, state: state.clone() });
        match self.wal.checkpoint(start_mark, &state) {
            Ok(ticket) => {
                self.life.note(Said::CheckpointPlaced(ticket.lsn()));
                if self.random.one_in(4) {
                    return;
                }
                match ticket.wait() {
                    Ok(_) => self.life.note(Said::CheckpointAcknowledged),
                    Err(error) => bear(&self.life, "checkpoint", &error),
                }
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.life.note(Said::CheckpointVoid);
            }
            // A start mark in the middle of the last record is past the tail, or below one that is
            // under way: refused, and nothing has happened.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                self.life.note(Said::CheckpointVoid);
            }
            Err(error) => {
                bear(&self.life, "checkpoint", &error);
                self.life.note(Said::CheckpointVoid);
            }
        }
    }
}
