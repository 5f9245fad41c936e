//! The engine on its own: a log made by hand, no recovery.

mod numbers;

use super::{
    flushes::Flusher,
    state::{FrameMeta, Stage},
    *,
};
use crate::{
    format::{LogId, Origin},
    io::{File, Memory},
    slots::Slot,
};
use std::ops::ControlFlow;

pub(super) fn settings() -> Settings {
    Settings {
        pool_bytes: 4 << 20,
        frame_bytes: 512 << 10,
        depth: 4,
        linger: Duration::from_millis(10),
        confirm_after: Duration::from_secs(1),
        log_bytes_max: u64::MAX,
        spare_bytes_max: 64 << 20,
    }
}

pub(super) fn fresh<S: Storage>(
    storage: S,
    segment_bytes: u64,
    settings: Settings,
) -> Arc<Engine<S>> {
    fresh_of(storage, segment_bytes, 4096, settings)
}

fn fresh_of<S: Storage>(
    storage: S,
    segment_bytes: u64,
    block_bytes: u32,
    settings: Settings,
) -> Arc<Engine<S>> {
    storage.create().unwrap();
    let Ok(lock) = storage.lock() else { panic!("nobody else has it") };
    let identity = Identity::new(LogId([7; 16]), segment_bytes, block_bytes, 0).unwrap();
    let block = Alignment::new(usize::try_from(block_bytes).unwrap()).unwrap();
    let slot = Slot::create(&storage, 0).unwrap();
    let done =
        slot.fill_with_zeros(block, segment_bytes, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(done.is_continue());
    slot.file.sync().unwrap();
    let header = slot.write_header(block, &identity, 0, Origin::Zeroed).unwrap();
    let start = Start {
        storage: Arc::new(storage),
        lock,
        identity,
        epoch: 1,
        incarnation: 42,
        tail: Lsn::new(block_bytes.into()),
        chain: 0,
        ordinal: 0,
        segments: vec![Segment::new(&header, Arc::new(slot))],
        successor: None,
        free: Vec::new(),
        next_slot_number: 1,
        checkpoint: None,
        begun: false,
    };
    let resources = Resources::take(&identity, &settings).unwrap();
    let engine = Engine::new(start, settings, resources);
    engine.write_opening(Verdict::NothingCut).unwrap();
    engine
}

#[test]
fn records_become_durable_across_segments() {
    let engine = fresh(Memory::new(), 1 << 18, settings());
    let mut last = Lsn::ZERO;
    for i in 0..2000_u32 {
        let place = engine.append(&vec![1; 1000]).unwrap();
        assert!(place.lsn > last);
        last = place.lsn;
        if i % 7 == 0 {
            engine.wait(place, None).unwrap();
            assert!(engine.is_durable(place.end));
        }
    }
    engine.flush().unwrap();
    engine.close().unwrap();
    assert_eq!(engine.append(b"x").unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn closed_loop_writers_share_frames_and_all_get_their_answer() {
    let engine = fresh(Memory::new(), 1 << 20, settings());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let place = engine.append(&[7; 128]).unwrap();
                    engine.wait(place, None).unwrap();
                    assert!(engine.is_durable(place.end));
                }
            });
        }
    });
    let stats = engine.stats();
    assert_eq!(stats.records, 4000);
    assert_eq!(stats.durable_records, 4000);
    engine.close().unwrap();
}

/// Two frames are in flight on a disk with a volatile cache. The earlier one is done; the later one's
/// flush may already have failed and taken the earlier one's bytes with it: not durable before both.
#[test]
fn a_frame_waits_for_the_writes_that_were_under_way_when_it_was_done() {
    let engine = fresh(Memory::new(), 1 << 20, settings());
    let mut core = engine.lock();
    let (first, second) = (core.first, core.first + 1);
    core.unwritten += 2;
    core.next += 2;
    let mut flushes = Vec::new();
    for frame in [first, second] {
        *core.frame_mut(frame) = FrameMeta { stage: Stage::Writing, ..FrameMeta::default() };
        flushes.push(core.flushes.enter(Flusher::Frame));
    }
    let done = |core: &mut Core<Memory>, frame: u64, flush: u64| {
        core.flushes.leave(flush, Flusher::Frame);
        let held_by = core.flushes.next();
        core.frame_mut(frame).stage = Stage::Done;
        core.frame_mut(frame).held_by = held_by;
    };
    assert_eq!(core.durable_front(), None);
    done(&mut core, first, flushes[0]);
    assert_eq!(core.durable_front(), None, "the later write may have failed");
    done(&mut core, second, flushes[1]);
    assert_eq!(core.durable_front(), Some(first));
    // The same, had another one been started only afterwards.
    let later = core.flushes.enter(Flusher::Frame);
    assert_eq!(core.durable_front(), Some(first));
    core.flushes.leave(later, Flusher::Frame);
    core.unwritten -= 2;
    core.next -= 2;
}

/// A record that fits no pool buffer gets memory of its own, one record at a time, and gives it back.
#[test]
fn large_records_take_turns() {
    let engine = fresh(Memory::new(), 4 << 20, settings());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let place = engine.append(&vec![9; 2 << 20]).unwrap();
                    engine.wait(place, None).unwrap();
                }
            });
        }
    });
    assert!(matches!(engine.core.lock().own, Own::Free));
    assert_eq!(engine.stats().durable_records, 20);
    engine.close().unwrap();
}
