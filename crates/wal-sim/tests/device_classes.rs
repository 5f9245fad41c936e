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

/// The segments of the logs whose rotations are watched, and how many rotations.
const SEGMENT_BYTES: u64 = 1 << 20;
const ROTATIONS: u64 = 8;

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

/// How the slots of a log come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slots {
    /// A checkpoint frees them, and they are used again.
    Recycled,
    /// Each is new.
    New,
}

/// What calls that flush take on an idle device.
struct Calls {
    write: Duration,
    sync: Duration,
    directory: Duration,
}

fn calls(device: &Device) -> Calls {
    let world = World::of_free_processors(1);
    let storage = slow(&world, device);
    let run = || {
        storage.create().unwrap();
        let file = storage.create_file("file").unwrap();
        let mut block = Buffer::zeroed(Alignment::BLOCK_4096, 4096).unwrap();
        let start = storage.now();
        file.write_durable_at(block.as_mut_slice(), 0).unwrap();
        let written = storage.now();
        file.sync().unwrap();
        let synced = storage.now();
        storage.sync_dir().unwrap();
        let directory = storage.now() - synced;
        Calls { write: written - start, sync: synced - written, directory }
    };
    world.run(run).unwrap()
}

/// One writer that waits for each record, over [`ROTATIONS`] ends of segments: the longest that an
/// acknowledgement took in the life of each segment, beyond the shortest of all.
fn holds(device: &Device, slots: Slots) -> Vec<Duration> {
    let world = World::of_free_processors(1);
    let storage = slow(&world, device);
    let run = || {
        let options = Options::new().segment_bytes(SEGMENT_BYTES).frame_bytes(64 << 10);
        let mut replay = options.pool_bytes(1 << 20).open_in(storage.clone()).unwrap();
        assert!(replay.next().unwrap().is_none());
        let (wal, _) = replay.finish().unwrap();
        // Segments by their number. What is new at first is used again from the third on.
        let first = if slots == Slots::Recycled { 3 } else { 1 };
        let mut longest = vec![Duration::ZERO; usize::try_from(first + ROTATIONS).unwrap()];
        let mut shortest = Duration::MAX;
        let mut before = wal.stats();
        let mut last = 0;
        loop {
            let start = storage.now();
            let lsn = wal.append(&[1; PAYLOAD_BYTES]).unwrap().wait().unwrap();
            let taken = storage.now() - start;
            let segment = lsn.get() / SEGMENT_BYTES;
            if segment == first + ROTATIONS {
                break;
            }
            if segment != last {
                last = segment;
                if segment == first {
                    before = wal.stats();
                }
                if slots == Slots::Recycled {
                    drop(wal.checkpoint(lsn, b"").unwrap());
                }
            }
            shortest = shortest.min(taken);
            let of_segment = &mut longest[usize::try_from(segment).unwrap()];
            *of_segment = (*of_segment).max(taken);
        }
        let after = wal.stats();
        let recycled = after.segments_recycled - before.segments_recycled;
        let created = after.segments_created - before.segments_created;
        let (made, other) = match slots {
            Slots::Recycled => (recycled, created),
            Slots::New => (created, recycled),
        };
        assert!(made + 1 >= ROTATIONS && other == 0, "{slots:?}: {recycled} and {created} new");
        let of_rotations = &longest[usize::try_from(first).unwrap()..];
        of_rotations.iter().map(|longest| *longest - shortest).collect::<Vec<_>>()
    };
    world.run(run).unwrap()
}

/// The next segment is made beside the commits, by calls that flush the same device. A commit may find one
/// of them under way and wait for it; but it never waits for all that there is to be made.
#[test]
fn a_rotation_holds_up_an_acknowledgement_by_few_calls() {
    for device in [Device::HARD_DISK.jitter(0), Device::CONSUMER_NVME.jitter(0)] {
        let Calls { write, sync, directory } = calls(&device);
        for (slots, bound) in [(Slots::Recycled, write * 2), (Slots::New, sync + directory + write)]
        {
            let holds = holds(&device, slots);
            let longest = holds.iter().max().unwrap();
            println!("{:14} {slots:?}: {longest:?} of {bound:?}, {holds:?}", device.name());
            assert!(longest <= &bound, "{} {slots:?}: {holds:?} of {bound:?}", device.name());
            // They flush the same device: where nothing is seen of that, nothing was looked at.
            assert!(holds.iter().all(|hold| *hold > write / 10), "{}: {holds:?}", device.name());
        }
    }
}
