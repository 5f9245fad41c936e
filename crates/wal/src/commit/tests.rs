//! The engine on its own: a log made by hand, no recovery.

use super::*;
use crate::{
    format::{LogId, Origin, RecordKind},
    io::{Directory, File, Memory},
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
    storage.create().unwrap();
    let Ok(lock) = storage.lock() else { panic!("nobody else has it") };
    let identity = Identity::new(LogId([7; 16]), segment_bytes, 4096, 0).unwrap();
    let slot = Slot::create(&storage, 0).unwrap();
    let done = slot
        .fill_with_zeros(Alignment::BLOCK_4096, segment_bytes, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(done.is_continue());
    slot.file.sync().unwrap();
    let header = slot.write_header(Alignment::BLOCK_4096, &identity, 0, Origin::Zeroed).unwrap();
    let start = Start {
        storage: Arc::new(storage),
        lock,
        identity,
        epoch: 1,
        incarnation: 42,
        tail: Lsn::new(4096),
        chain: 0,
        ordinal: 0,
        segments: vec![Segment::new(&header, Arc::new(slot))],
        successor: None,
        free: Vec::new(),
        next_slot_number: 1,
        checkpoint: None,
        begun: false,
    };
    let engine = Engine::new(start, settings).unwrap();
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
fn many_writers_on_a_real_disk() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/engine-test");
    let _ = std::fs::remove_dir_all(&dir);
    let engine = fresh(Directory::new(&dir), 16 << 20, settings());
    for writers in [1, 2, 4, 16, 64] {
        let before = std::time::Instant::now();
        let stats = engine.stats();
        let each = 40_000 / writers / if writers == 1 { 4 } else { 1 };
        std::thread::scope(|scope| {
            for _ in 0..writers {
                scope.spawn(|| {
                    for _ in 0..each {
                        let place = engine.append(&[7; 128]).unwrap();
                        engine.wait(place, None).unwrap();
                    }
                });
            }
        });
        let rate = f64::from(each * writers) / before.elapsed().as_secs_f64();
        let after = engine.stats();
        println!(
            "{writers}: {rate:.0}/s frames {} cohort {} expired {} p50 {:?}",
            after.frames - stats.frames,
            after.cohort_waits - stats.cohort_waits,
            after.cohort_expiries - stats.cohort_expiries,
            after.commit_histogram.percentile(50)
        );
    }
    let before = std::time::Instant::now();
    let count = 1_000_000;
    for _ in 0..count {
        let _ = engine.append_filled(1024, RecordKind::Data, |room| room.fill(3)).unwrap();
    }
    engine.flush().unwrap();
    println!("1 KiB: {:.0} MiB/s", f64::from(count) / 1024.0 / before.elapsed().as_secs_f64());
    engine.close().unwrap();
    println!("{:?}", engine.stats());
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn append_cost() {
    let settings = Settings { pool_bytes: 64 << 20, ..settings() };
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/append-test");
    let _ = std::fs::remove_dir_all(&dir);
    let engine = fresh(Directory::new(&dir), 64 << 20, settings);
    for _ in 0..12 {
        let before = std::time::Instant::now();
        let count = 200_000;
        for _ in 0..count {
            let _ = engine.append(&[7; 128]).unwrap();
        }
        let time = before.elapsed();
        engine.flush().unwrap();
        println!("{:.0} ns", time.as_nanos() as f64 / f64::from(count));
    }
    engine.close().unwrap();
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn closed_loop_probe() {
    let writers: u32 = std::env::var("W").map_or(64, |w| w.parse().unwrap());
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/loop-test");
    let _ = std::fs::remove_dir_all(&dir);
    let engine = fresh(Directory::new(&dir), 16 << 20, settings());
    let before = std::time::Instant::now();
    let each = 600_000 / writers / if writers < 16 { 4 } else { 1 };
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                for _ in 0..each {
                    let place = engine.append(&[7; 128]).unwrap();
                    engine.wait(place, None).unwrap();
                }
            });
        }
    });
    let rate = f64::from(each * writers) / before.elapsed().as_secs_f64();
    let stats = engine.stats();
    let wall = before.elapsed().as_micros() as f64 / stats.frames as f64;
    let write = stats.commit_histogram.total().as_micros() as f64 / stats.frames as f64;
    println!(
        "RESULT {writers}: {rate:.0}/s cycle {wall:.0} write {write:.0} frames {} per {:.1} cohort {} expired {}",
        stats.frames,
        f64::from(each * writers) / stats.frames as f64,
        stats.cohort_waits,
        stats.cohort_expiries
    );
    engine.close().unwrap();
    let _ = std::fs::remove_dir_all(&dir);
}
