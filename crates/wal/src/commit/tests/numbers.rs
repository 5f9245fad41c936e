//! The small parts: queues, bounds, counts, and what room is kept back.

use super::{fresh, settings};
use crate::{
    ErrorKind, Lsn,
    commit::{
        COMMIT_BUCKETS, CommitHistogram,
        cohort::Cohort,
        committer::Empty,
        reserve::{Class, FIRST_FRAME_OVERHEAD, Request, Short},
        room::{Own, RoomWait},
        state::Hook,
    },
    format::{FRAME_HEADER_BYTES, Purpose, RECORD_HEADER_BYTES, record_bytes},
    io::{Host, Memory},
};
use std::{sync::Arc, time::Duration};

const SEGMENT: u64 = 1 << 18;
const BLOCK: u64 = 4096;
/// A guard against hanging for ever, and nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// The device is asleep for a moment, or answers from its cache once: one flush moves the bound a little
/// and a lasting change moves it soon. A bound that jumps lets nobody join, or all wait too long.
#[test]
fn the_bound_follows_a_change_soon_and_a_single_flush_hardly() {
    let mut cohort = Cohort::default();
    let commit = |cohort: &mut Cohort, times: u32, micros: u64| {
        for _ in 0..times {
            cohort.took(Duration::from_micros(micros));
        }
    };
    commit(&mut cohort, 1, 50);
    assert_eq!(cohort.bound(), Duration::from_micros(40), "the first sample is the estimate");
    commit(&mut cohort, 1, 1);
    assert!(cohort.bound() > Duration::from_micros(38), "{:?}", cohort.bound());
    commit(&mut cohort, 40, 5000);
    assert_eq!(cohort.bound(), Duration::from_micros(100), "3 % a commit: 40 of them are enough");
    commit(&mut cohort, 400, 10);
    assert_eq!(cohort.bound(), Duration::from_micros(8), "and back again");
}

/// An expiry halves the bound and only so often: shifted further, it would be no number any more.
#[test]
fn the_bound_is_halved_seven_times_at_most() {
    let mut cohort = Cohort::default();
    cohort.took(Duration::from_nanos(128_000));
    let full = cohort.bound();
    for halvings in [1_u32, 2, 3, 4, 5, 6, 7, 7, 7] {
        cohort.expired();
        assert_eq!(cohort.bound(), full / (1 << halvings));
    }
    cohort.joined();
    assert_eq!(cohort.bound(), full);
}

/// A histogram that is one bucket off tells of a device twice as fast as it is.
#[test]
fn a_duration_is_counted_between_its_powers_of_two() {
    let bucket_of = |nanoseconds: u64| {
        let mut histogram = CommitHistogram::default();
        histogram.record(Duration::from_nanos(nanoseconds));
        assert_eq!((histogram.count(), histogram.total().as_nanos()), (1, nanoseconds.into()));
        histogram.buckets().iter().position(|count| *count == 1).unwrap()
    };
    assert_eq!((bucket_of(0), bucket_of(1), bucket_of(2), bucket_of(3)), (0, 0, 1, 1));
    for bit in 2..COMMIT_BUCKETS {
        assert_eq!(bucket_of(1 << bit), bit);
        assert_eq!(bucket_of((1 << bit) - 1), bit - 1);
    }
    assert_eq!(bucket_of(1 << COMMIT_BUCKETS), COMMIT_BUCKETS - 1, "the last one takes the rest");
    let mut histogram = CommitHistogram::default();
    for nanoseconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        histogram.record(Duration::from_nanos(nanoseconds));
    }
    assert_eq!(histogram.total(), Duration::from_nanos(1023));
    let upper = |percent: u32| histogram.percentile(percent).as_nanos();
    assert_eq!([upper(0), upper(10), upper(11), upper(20), upper(95)], [2, 2, 4, 4, 1024]);
    assert_eq!([upper(100), upper(1000)], [1024, 1024]);
}

/// What is kept back of a segment for checkpoints, and what is left for the longest record. A byte less
/// kept, and a full disk is a log that nobody can empty.
#[test]
fn the_last_blocks_are_kept_and_the_rest_may_be_used() {
    // The header of a frame and the largest checkpoint: 64 + 8 + 8 + 1024 bytes, in blocks.
    assert_eq!(FIRST_FRAME_OVERHEAD, FRAME_HEADER_BYTES + record_bytes(8 + 1024));
    assert_eq!(FIRST_FRAME_OVERHEAD, 1104);
    let engine = fresh(Memory::new(), SEGMENT, settings());
    assert_eq!(engine.checkpoint_frame_bytes(), BLOCK);
    assert_eq!(engine.reserved_bytes(), 4 * BLOCK, "four blocks");
    let kept = usize::try_from(5 * BLOCK).unwrap() + FIRST_FRAME_OVERHEAD + RECORD_HEADER_BYTES;
    let longest = usize::try_from(SEGMENT).unwrap() - kept;
    assert_eq!(engine.record_bytes_max(), longest);
    let place = engine.append(&vec![1; longest]).unwrap();
    engine.wait(place, None).unwrap();
    let refused = engine.append(&vec![1; longest + 1]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
    assert!(refused.expected().unwrap().contains(&longest.to_string()), "{refused}");
    // With small blocks it is two of the largest checkpoints.
    let engine = super::fresh_of(Memory::new(), SEGMENT, 512, settings());
    assert_eq!(engine.checkpoint_frame_bytes(), 3 * 512);
    assert_eq!(engine.reserved_bytes(), 6 * 512);
    engine.close().unwrap();
}

/// Somebody who follows the log is late: what it waits for has happened already. It must not fall asleep
/// over that, for nothing else may ever happen.
#[test]
fn who_is_late_does_not_wait_for_progress() {
    let engine = fresh(Memory::new(), SEGMENT, settings());
    let place = engine.append(b"happened already").unwrap();
    engine.wait(place, None).unwrap();
    let host = Arc::clone(engine.storage());
    let before = host.now();
    assert!(engine.wait_for_progress(Lsn::ZERO, Some(PATIENCE)).unwrap());
    assert!(host.now() - before < PATIENCE, "it slept until its time was over");
    engine.close().unwrap();
    assert!(!engine.wait_for_progress(engine.durable(), None).unwrap());
}

/// A commit counts its own thread and those that it wakes: that many are back in a moment, and a lone
/// writer has nobody to wait for.
#[test]
fn a_commit_counts_who_returns_from_it() {
    let engine = fresh(Memory::new(), SEGMENT, settings());
    for _ in 0..2 {
        let place = engine.append(b"alone").unwrap();
        engine.wait(place, None).unwrap();
        assert_eq!(engine.core.lock().cohort.wanted(), 1);
    }
    let place = engine.append(b"with two who are called back").unwrap();
    for _ in 0..2 {
        let mut core = engine.core.lock();
        core.frame_mut(place.frame).hooks.push(Hook::Callback(Box::new(|_| ())));
    }
    engine.wait(place, None).unwrap();
    assert_eq!(engine.core.lock().cohort.wanted(), 3);
}

/// The log has just moved on to a segment, and the next frame is an empty one, to confirm or to close. It
/// restates the checkpoint as every first frame does: else an open that reads this segment alone would
/// take the log for one without a checkpoint.
#[test]
fn an_empty_frame_at_the_head_of_a_segment_restates_the_checkpoint() {
    for moves_on_by_itself in [false, true] {
        let engine = fresh(Memory::new(), SEGMENT, settings());
        let place = engine.checkpoint(Lsn::ZERO, &[5; 1024]).unwrap();
        engine.wait(place, None).unwrap();
        engine.wait_for_segment().unwrap();
        let mut core = engine.lock();
        if moves_on_by_itself {
            core.tail = Lsn::new(SEGMENT);
        } else {
            engine.rotate(&mut core);
        }
        assert!(engine.install_empty(&mut core, Purpose::Confirmation) == Empty::Installed);
        let meta = core.frame(core.next - 1);
        assert_eq!(meta.used, FRAME_HEADER_BYTES + record_bytes(8 + 1024));
        assert_eq!((meta.records, meta.lsn), (1, Lsn::new(SEGMENT + BLOCK)));
        let front = engine.writable(&core).unwrap();
        engine.write(core, front);
        engine.close().unwrap();
    }
}

/// Memory outside the pool is for one record at a time. What was allocated and is not taken, for the append was
/// given up, or its task is not polled, is somebody else's or nobody's: else no large record is ever appended
/// again.
#[test]
fn memory_for_a_large_record_is_given_up_unused() {
    let engine = fresh(Memory::new(), 4 << 20, settings());
    let bytes = record_bytes(1 << 20);
    let request = Request { bytes, records: 1, payload_bytes: 1 << 20, class: Class::User };
    let (mut first, mut second) = (RoomWait::default(), RoomWait::default());
    // The first append starts a committer, without which there is no frame.
    engine.append(b"small").unwrap();
    let mut core = engine.lock();
    assert_eq!(
        engine.reserve(&mut core, request, &mut first).unwrap().err(),
        Some(Short::Allocation)
    );
    let asked = engine.reserve(&mut core, request, &mut second).unwrap().err();
    assert_eq!(asked, Some(Short::Memory), "one at a time");
    engine.provide(core, request, &mut first, Short::Allocation).unwrap();
    let mut core = engine.lock();
    let Own::Ready { until, .. } = core.own else { panic!("{:?}", core.own) };
    engine.look_after_room(&mut core, until.saturating_sub(Duration::from_nanos(1)));
    assert!(matches!(core.own, Own::Ready { .. }), "for whoever comes in time");
    engine.look_after_room(&mut core, until);
    assert!(matches!(core.own, Own::Free));
    drop(core);
    engine.close().unwrap();
}

/// Small records that are not waited for share a frame: one of its own for each would cost a block each.
#[test]
fn small_records_share_a_frame() {
    let engine = fresh(Memory::new(), SEGMENT, settings());
    let places: Vec<_> = (0..100).map(|_| engine.append(&[1; 100]).unwrap()).collect();
    assert!(places.iter().all(|place| place.frame == places[0].frame));
    let step = u64::try_from(record_bytes(100)).unwrap();
    assert!(places.windows(2).all(|pair| pair[0].end == pair[1].lsn));
    assert_eq!(places[1].lsn.get() - places[0].lsn.get(), step);
    engine.close().unwrap();
}

/// The checkpoint is restated once a segment. In every frame, a kilobyte of state would be most of what a
/// log of small records writes.
#[test]
fn only_the_first_frame_of_a_segment_restates_the_checkpoint() {
    let engine = fresh(Memory::new(), SEGMENT, settings());
    let place = engine.checkpoint(Lsn::ZERO, &[5; 1024]).unwrap();
    engine.wait(place, None).unwrap();
    assert_eq!(engine.restated_bytes(&engine.core.lock()), 0, "the first segment");
    engine.wait_for_segment().unwrap();
    let mut core = engine.core.lock();
    engine.rotate(&mut core);
    assert_eq!(engine.restated_bytes(&core), record_bytes(8 + 1024));
    drop(core);
    let place = engine.append(b"behind the checkpoint").unwrap();
    engine.wait(place, None).unwrap();
    assert_eq!(engine.restated_bytes(&engine.core.lock()), 0, "further on in the second");
    engine.close().unwrap();
}

/// Everything is consumed, and the log's only segment is full to the last byte. It holds the tail: released,
/// there would be no segment to go on from.
#[test]
fn the_last_segment_is_never_released() {
    let engine = fresh(Memory::new(), SEGMENT, settings());
    let mut core = engine.core.lock();
    assert!(!core.segments.frees(Lsn::new(SEGMENT), SEGMENT));
    core.segments.release(Lsn::new(SEGMENT), SEGMENT);
    assert_eq!((core.segments.live.len(), core.segments.free.len()), (1, 0));
}
