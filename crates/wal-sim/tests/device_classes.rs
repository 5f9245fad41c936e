//! Group commit on disks that are not at hand, in virtual time: what the policy alone gives away.

use aligned::{Alignment, Buffer};
use std::time::Duration;
use wal::{
    Options, Wal,
    format::record_bytes,
    io::{Access, File as _, Host as _, Storage as _},
};
use wal_sim::{Device, Disk, DiskOptions, Slow, World};

const PAYLOAD_BYTES: usize = 128;
/// Commits that are not counted: the cohort has to be learnt.
const COMMITS_BEFORE: usize = 50;
const COMMITS: usize = 400;

fn slow(world: &World, device: &Device) -> Slow<Disk> {
    let disk = DiskOptions::new().latency(Duration::ZERO, Duration::ZERO);
    Slow::new(Disk::new(world, &disk), device.clone(), 7)
}

/// What one durable write of `bytes` takes on average, alone.
fn alone(device: &Device, bytes: usize) -> f64 {
    let world = World::of_free_processors(1);
    let storage = slow(&world, device);
    let run = || {
        storage.create().unwrap();
        drop(storage.create_file("file").unwrap());
        let file = storage.open("file", Access::ReadWrite).unwrap();
        let mut buffer = Buffer::zeroed(Alignment::BLOCK_4096, bytes).unwrap();
        let begin = storage.now();
        for _ in 0..COMMITS {
            file.write_durable_at(buffer.as_mut_slice(), 0).unwrap();
        }
        (storage.now() - begin).as_secs_f64()
    };
    world.run(run).unwrap() / 400.0
}

/// Durable records a second of `writers` closed loops.
fn per_second(device: &Device, writers: usize) -> f64 {
    let world = World::of_free_processors(1);
    let storage = slow(&world, device);
    let inner = world.clone();
    let run = move || {
        let options = Options::new().segment_bytes(4 << 20).frame_bytes(64 << 10);
        let mut replay = options.pool_bytes(1 << 20).open_in(storage.clone()).unwrap();
        assert!(replay.next().unwrap().is_none());
        let (wal, _) = replay.finish().unwrap();
        let wal = std::sync::Arc::new(wal);
        let append = |wal: &Wal<Slow<Disk>>, times: usize| {
            for _ in 0..times {
                wal.append(&[1; PAYLOAD_BYTES]).unwrap().wait().unwrap();
            }
        };
        let writers: Vec<_> = (0..writers)
            .map(|_| {
                let (wal, storage) = (wal.clone(), storage.clone());
                inner.spawn("writer", move || {
                    append(&wal, COMMITS_BEFORE);
                    let begin = storage.now();
                    append(&wal, COMMITS);
                    (storage.now() - begin).as_secs_f64()
                })
            })
            .collect();
        writers.into_iter().map(|writer| 400.0 / writer.join()).sum::<f64>()
    };
    world.run(run).unwrap()
}

/// A committer that seals the instant a flush completes takes only those who arrived during it; those it
/// has just acknowledged wait a whole further flush. Two cohorts alternate, and every device gives half of
/// what it could.
#[test]
fn group_commit_leaves_nobody_behind_on_any_device() {
    for device in Device::PRESETS {
        for writers in [1, 8, 64] {
            let frame = 64 + writers * record_bytes(PAYLOAD_BYTES);
            let bytes = frame.next_multiple_of(4096);
            #[expect(clippy::as_conversions, reason = "64 at the most")]
            let limit = writers as f64 / alone(&device, bytes);
            let reached = per_second(&device, writers) / limit;
            println!("{:14} {writers:3} writers: {reached:.2} of {limit:9.0}/s", device.name());
            assert!(reached >= 0.85, "{}: {writers} writers reach {reached:.2}", device.name());
        }
    }
}
