//! Feeds the oracle honest and doctored logs: it must accept the first and name every fault of the
//! others. A torture whose oracle cannot say "lost" proves nothing.

use super::*;
use crate::torture::message::Acknowledged;

const RUN: u64 = 0x5eed;

#[derive(Clone, Debug)]
struct Fake {
    lsn: u64,
    payload: Vec<u8>,
    ends_batch: bool,
}

/// A log that is always right, and the oracle that hears of it.
struct World {
    oracle: Oracle,
    log: Vec<Fake>,
    tail: u64,
    child: u32,
    sequences: [u64; 2],
    checkpoint: Option<(u64, Vec<u8>)>,
}

impl World {
    fn new() -> Self {
        let oracle = Oracle::new(RUN, 2);
        let mut world =
            Self { oracle, log: vec![], tail: 4096, child: 0, sequences: [0; 2], checkpoint: None };
        world.start_child();
        world
    }

    fn start_child(&mut self) {
        self.child += 1;
        self.sequences = [0; 2];
        self.oracle.child_starts(self.child);
        self.tell(Message::Opened {
            tail: Lsn::new(self.tail),
            last_record: self.log.last().map(|fake| Lsn::new(fake.lsn)),
            torn: false,
        });
    }

    fn tell(&mut self, message: Message) {
        assert!(self.oracle.absorb(&message), "{message:?}");
    }

    fn append(&mut self, writer: u32, records: u16) -> Acknowledged {
        let sequence = &mut self.sequences[usize::try_from(writer).unwrap()];
        let first_sequence = *sequence;
        let first = self.tail;
        let mut last = first;
        for batch_index in 0..records {
            let stamp = Stamp {
                run: RUN,
                child: self.child,
                writer,
                sequence: *sequence,
                batch_index,
                batch_records: records,
            };
            *sequence += 1;
            last = self.tail;
            let payload = stamp.to_record();
            self.tail += 8 + u64::try_from(payload.len()).unwrap();
            let ends_batch = batch_index + 1 == records;
            self.log.push(Fake { lsn: last, payload, ends_batch });
        }
        let until = *sequence;
        self.tell(Message::Intent { writer, until });
        Acknowledged {
            writer,
            sequence: first_sequence,
            records: u32::from(records),
            first: Lsn::new(first),
            last: Lsn::new(last),
            latency_ns: 1,
        }
    }

    fn append_acknowledged(&mut self, writer: u32, records: u16) {
        let acknowledged = self.append(writer, records);
        self.tell(Message::Acknowledged(acknowledged));
    }

    fn checkpoint(&mut self, start_mark: u64) {
        let state = checkpoint_state(RUN, self.child, Lsn::new(start_mark));
        self.tell(Message::CheckpointIntent { start_mark: Lsn::new(start_mark) });
        self.tell(Message::CheckpointAcknowledged { start_mark: Lsn::new(start_mark) });
        self.checkpoint = Some((start_mark, state));
        self.log.retain(|fake| fake.lsn >= start_mark);
    }

    /// Some of everything: two writers, batches, one record without acknowledgement at the end.
    fn busy() -> Self {
        let mut world = Self::new();
        for round in 0..20 {
            world.append_acknowledged(round % 2, 1);
            world.append_acknowledged(1, 3);
            world.append_acknowledged(0, 1);
        }
        let _ = world.append(0, 1);
        world
    }

    fn reopen(&mut self) {
        let checkpoint =
            self.checkpoint.as_ref().map(|(mark, state)| (Lsn::new(*mark), &state[..]));
        let mut check = self.oracle.check(checkpoint);
        for fake in &self.log {
            let Fake { lsn, payload, ends_batch } = fake;
            check.record(Seen { lsn: Lsn::new(*lsn), payload, ends_batch: *ends_batch });
        }
        let checked = check.end();
        self.tail += 4096;
        self.oracle.settle(checked, Lsn::new(self.tail));
    }

    fn expect(&self, lost: u64, phantom: u64, part: &str) {
        let tally = self.oracle.tally();
        assert_eq!((tally.lost, tally.phantom), (lost, phantom), "{:#?}", tally.findings);
        let told = part.is_empty() || tally.findings.iter().any(|finding| finding.contains(part));
        assert!(told, "{part}: {:#?}", tally.findings);
    }
}

#[test]
fn honest_logs_pass_over_many_children() {
    let mut world = World::busy();
    for round in 0..10 {
        world.reopen();
        world.expect(0, 0, "");
        world.start_child();
        world.append_acknowledged(0, 1);
        let middle = world.tail;
        world.append_acknowledged(1, 4);
        world.append_acknowledged(0, 1);
        if round % 3 == 0 {
            world.checkpoint(middle);
        }
        if round % 2 == 0 {
            world.start_child(); // a second kill before anybody looks
            world.append_acknowledged(1, 2);
        }
    }
    world.reopen();
    world.expect(0, 0, "");
    let tally = world.oracle.tally().clone();
    assert!(tally.released > 0 && tally.acked > 0);
    assert_eq!(tally.acked + 1, tally.recovered + tally.released, "one was not acknowledged");
    assert!(world.oracle.history.len() <= world.log.len(), "released records are forgotten");
}

#[test]
fn unacknowledged_record_may_be_missing_and_may_be_there() {
    let mut world = World::busy();
    world.log.pop();
    world.reopen();
    world.expect(0, 0, "");
}

#[test]
fn acknowledged_record_missing_at_the_end_is_lost() {
    let mut world = World::busy();
    world.log.truncate(world.log.len() - 2);
    world.reopen();
    world.expect(1, 0, "sequence 29, acknowledged at lsn");
}

#[test]
fn empty_log_has_lost_everything() {
    let mut world = World::busy();
    let acked = world.oracle.tally().acked;
    world.log.clear();
    world.reopen();
    world.expect(acked, 0, "missing");
}

#[test]
fn record_missing_in_the_middle_is_lost_and_its_successor_out_of_order() {
    let mut world = World::busy();
    world.log.remove(0);
    world.reopen();
    world.expect(1, 1, "writer 0, sequence 0, acknowledged");
}

#[test]
fn record_found_twice_is_phantom() {
    let mut world = World::busy();
    let again = Fake { lsn: world.tail, ..world.log[0].clone() };
    world.log.push(again);
    world.reopen();
    world.expect(0, 1, "again or out of order");
}

#[test]
fn swapped_contents_are_out_of_order() {
    let mut world = World::new();
    for _ in 0..4 {
        world.append_acknowledged(0, 1);
    }
    let other = world.log[2].payload.clone();
    world.log[2].payload = std::mem::replace(&mut world.log[1].payload, other);
    world.reopen();
    assert!(world.oracle.tally().phantom > 0, "{:?}", world.oracle.tally());
}

#[test]
fn flipped_bit_is_phantom_and_the_record_lost() {
    let mut world = World::busy();
    let last = world.log.len() - 2;
    *world.log[last].payload.last_mut().unwrap() ^= 1;
    world.reopen();
    // The unacknowledged one after it misses its predecessor.
    world.expect(1, 2, "at lsn");
}

#[test]
fn record_that_nobody_announced_is_phantom() {
    let mut world = World::busy();
    let sequence = world.sequences[0];
    let stamp = Stamp { run: RUN, child: 1, writer: 0, sequence, batch_index: 0, batch_records: 1 };
    world.log.push(Fake { lsn: world.tail, payload: stamp.to_record(), ends_batch: true });
    world.reopen();
    world.expect(0, 1, "never appended");
}

#[test]
fn foreign_bytes_and_another_run_are_phantom() {
    let mut world = World::busy();
    world.log.push(Fake { lsn: world.tail, payload: b"hello".to_vec(), ends_batch: true });
    let stamp =
        Stamp { run: 1, child: 1, writer: 0, sequence: 0, batch_index: 0, batch_records: 1 };
    world.log.push(Fake { lsn: world.tail + 64, payload: stamp.to_record(), ends_batch: true });
    world.reopen();
    world.expect(0, 2, "5 bytes that no writer appended");
}

#[test]
fn record_elsewhere_than_acknowledged_is_phantom() {
    let mut world = World::busy();
    let last = world.log.len() - 2;
    world.log[last].lsn += 8;
    world.reopen();
    world.expect(0, 1, "acknowledged at lsn");
}

#[test]
fn lsn_that_does_not_grow_is_phantom() {
    let mut world = World::new();
    world.append_acknowledged(0, 1);
    let _ = world.append(1, 1);
    world.log[1].lsn = world.log[0].lsn;
    world.reopen();
    world.expect(0, 1, "not above the record before it");
}

#[test]
fn half_a_batch_is_phantom_even_if_nobody_acknowledged_it() {
    let mut world = World::new();
    world.append_acknowledged(0, 1);
    let _ = world.append(1, 3);
    world.log.pop();
    world.reopen();
    world.expect(0, 1, "ends with 2 of the 3 records of a batch");
}

#[test]
fn torn_and_interleaved_batches_are_phantom() {
    let mut world = World::new();
    world.append_acknowledged(1, 3);
    world.append_acknowledged(0, 1);
    let mut headless = World::new();
    headless.append_acknowledged(1, 3);
    headless.checkpoint = None;
    headless.log.remove(0);
    headless.reopen();
    assert!(headless.oracle.tally().findings.iter().any(|f| f.contains("without head")));

    let between = world.log.remove(3);
    world.log.insert(1, Fake { lsn: world.log[0].lsn + 1, ..between });
    world.reopen();
    assert!(world.oracle.tally().findings.iter().any(|f| f.contains("inside the batch")));

    let mut joined = World::new();
    joined.append_acknowledged(0, 1);
    joined.append_acknowledged(0, 1);
    joined.log[0].ends_batch = false;
    joined.reopen();
    joined.expect(0, 1, "of another batch");
}

#[test]
fn history_must_not_change_once_it_was_seen() {
    let mut lost = World::busy();
    lost.reopen();
    lost.log.pop(); // not acknowledged, but found and settled
    lost.reopen();
    lost.expect(1, 0, "there when last reopened");

    let mut cut = World::busy();
    let cut_off = cut.log.pop().unwrap();
    cut.reopen();
    cut.log.push(cut_off); // cut then, back now
    cut.reopen();
    cut.expect(0, 1, "did not run since");

    let mut inserted = World::busy();
    let missing = inserted.log.pop().unwrap();
    let last = inserted.log.pop().unwrap();
    inserted.reopen();
    let lost = inserted.oracle.tally().lost;
    inserted.log.push(Fake { lsn: last.lsn - 8, ..missing });
    inserted.reopen();
    inserted.expect(lost, 1, "did not run since");
}

#[test]
fn record_cut_by_a_later_child_must_not_come_back() {
    let mut world = World::busy();
    let cut_off = world.log.pop().unwrap();
    world.tail = cut_off.lsn;
    world.start_child(); // opened without it, and was killed before it appended
    world.log.push(cut_off);
    world.reopen();
    world.expect(0, 1, "came back after child 2 had opened the log");
}

#[test]
fn record_seen_by_a_later_child_must_stay() {
    let mut world = World::busy();
    world.start_child(); // saw the last record, which nobody acknowledged
    world.log.pop();
    world.reopen();
    world.expect(1, 0, "last in the log when child 2 opened it");
}

#[test]
fn older_child_after_a_younger_one_is_phantom() {
    let mut world = World::busy();
    let old = world.log.pop().unwrap();
    world.tail = old.lsn;
    world.start_child();
    world.append_acknowledged(0, 1);
    world.log.push(Fake { lsn: world.tail, ..old });
    world.reopen();
    world.expect(0, 1, "after a record of child 2");
}

#[test]
fn tail_must_not_fall() {
    let mut world = World::busy();
    world.reopen();
    world.tail = 4096;
    world.start_child();
    world.expect(1, 0, "but ended at");
}

#[test]
fn released_records_are_not_lost_and_others_are() {
    let mut world = World::busy();
    let start_mark = world.log[40].lsn;
    assert!(world.log[39].ends_batch);
    world.checkpoint(start_mark);
    world.log.remove(0);
    world.reopen();
    assert!(world.oracle.tally().lost > 0);
    assert_eq!(world.oracle.tally().released, 40);
}

#[test]
fn start_mark_that_nobody_asked_for_releases_nothing() {
    let mut world = World::busy();
    let start_mark = world.log[40].lsn;
    world.log.drain(..40);
    world.checkpoint = Some((start_mark, vec![]));
    world.reopen();
    assert_eq!(world.oracle.tally().lost, 40);
    assert!(world.oracle.tally().findings[0].contains("never asked for"));
}

#[test]
fn checkpoint_must_not_be_lost_nor_change() {
    let mut gone = World::busy();
    let start_mark = gone.log[40].lsn;
    gone.checkpoint(start_mark);
    gone.checkpoint = None;
    gone.reopen();
    assert!(gone.oracle.tally().lost > 0);

    let mut changed = World::busy();
    changed.checkpoint(start_mark);
    changed.checkpoint.as_mut().unwrap().1.push(0);
    changed.reopen();
    assert!(changed.oracle.tally().phantom > 0);

    let mut fallen = World::busy();
    let log = fallen.log.clone();
    fallen.checkpoint(start_mark);
    let early = fallen.checkpoint.clone();
    fallen.checkpoint(log[60].lsn);
    fallen.checkpoint = early;
    fallen.log = log.into_iter().filter(|fake| fake.lsn >= start_mark).collect();
    fallen.reopen();
    fallen.expect(1, 0, "was acknowledged; found");
}

#[test]
fn record_below_the_start_mark_is_phantom() {
    let mut world = World::busy();
    let below = world.log[39].clone();
    world.checkpoint(world.log[40].lsn);
    world.log.insert(0, below);
    world.reopen();
    world.expect(0, 1, "below the start mark");
}

#[test]
fn words_that_no_child_can_say_are_refused() {
    let mut oracle = Oracle::new(RUN, 2);
    assert!(!oracle.absorb(&Message::Intent { writer: 0, until: 1 }), "no child yet");
    oracle.child_starts(1);
    assert!(!oracle.absorb(&Message::Intent { writer: 2, until: 1 }), "no such writer");
    let acknowledged = Acknowledged {
        writer: 0,
        sequence: 0,
        records: 1,
        first: Lsn::new(1),
        last: Lsn::new(1),
        latency_ns: 0,
    };
    assert!(!oracle.absorb(&Message::Acknowledged(acknowledged)), "never announced");
    assert!(oracle.absorb(&Message::Intent { writer: 0, until: 1 }));
    assert!(oracle.absorb(&Message::Acknowledged(acknowledged)));
    assert!(!oracle.absorb(&Message::Acknowledged(acknowledged)), "twice");
}

#[test]
fn findings_are_bounded() {
    let mut world = World::new();
    for _ in 0..1000 {
        world.append_acknowledged(0, 1);
    }
    world.log.clear();
    world.reopen();
    world.expect(1000, 0, "");
    assert_eq!(world.oracle.tally().findings.len(), FINDINGS_MAX);
}
