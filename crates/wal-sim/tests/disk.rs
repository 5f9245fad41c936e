//! The rules of the simulated disk itself: if it keeps what a real one may lose, nothing is tested.

use aligned::{Alignment, Buffer};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use wal::io::{Access, DurableMethod, File as _, Host as _, LockError, Storage as _};
use wal_sim::{Disk, DiskOptions, Effect, Fault, Random, Sector, Spawned, Verb, World};

/// Aligned memory of exactly so many sectors.
struct Block(Buffer, usize);

impl Block {
    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0.as_mut_slice()[..self.1]
    }
}

fn block(byte: u8, sectors: usize) -> Block {
    let mut buffer = Buffer::zeroed(Alignment::BLOCK_4096, sectors * 512).unwrap();
    buffer.as_mut_slice().fill(byte);
    Block(buffer, sectors * 512)
}

/// Lives on a disk of this kind, and answers all images of file `name` that 600 crashes left.
fn crashes(kind: &DiskOptions, name: &str, work: impl FnOnce(&Disk)) -> BTreeSet<Option<Vec<u8>>> {
    let world = World::new(1);
    let disk = Disk::new(&world, kind);
    world.run(|| work(&disk)).unwrap();
    let mut random = Random::new(1);
    (0..600).map(|_| disk.crash(&mut random).read(name)).collect()
}

/// A file of eight sectors, durable, and its name too.
fn old_file(disk: &Disk) -> wal_sim::DiskFile {
    disk.create().unwrap();
    let file = disk.create_file("file").unwrap();
    file.write_at(block(1, 8).as_mut_slice(), 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    file
}

fn is_old(image: Option<&Vec<u8>>) -> bool {
    image.is_some_and(|bytes| *bytes == vec![1; 4096])
}

fn is_new(image: Option<&Vec<u8>>) -> bool {
    image.is_some_and(|bytes| *bytes == vec![2; 4096])
}

#[test]
fn what_was_not_synced_survives_in_any_part() {
    let images = crashes(&DiskOptions::new(), "file", |disk| {
        old_file(disk).write_at(block(2, 8).as_mut_slice(), 0).unwrap();
    });
    assert!(images.iter().any(|image| is_old(image.as_ref())));
    assert!(images.iter().any(|image| is_new(image.as_ref())));
    let bytes = || images.iter().flatten();
    let is_mixed = |bytes: &&Vec<u8>| bytes.contains(&1) && bytes.contains(&2);
    assert!(bytes().filter(is_mixed).count() > 20, "torn");
    let is_garbage = |bytes: &&Vec<u8>| bytes.iter().any(|byte| *byte > 2);
    assert!(bytes().filter(is_garbage).count() > 20, "garbage");
    let no_garbage = bytes().filter(|bytes| !is_garbage(bytes));
    for bytes in no_garbage {
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|b| *b == sector[0])));
    }
}

#[test]
fn what_was_synced_survives() {
    for method in [DurableMethod::WriteDsync, DurableMethod::WriteThenSync] {
        let kind = DiskOptions::new().method(method);
        let images = crashes(&kind, "file", |disk| {
            old_file(disk).write_durable_at(block(2, 8).as_mut_slice(), 0).unwrap();
        });
        assert!(images.iter().all(|image| is_new(image.as_ref())), "{method}");
    }
}

#[test]
fn a_durable_write_makes_nothing_else_durable() {
    let images = crashes(&DiskOptions::new(), "file", |disk| {
        let file = old_file(disk);
        file.write_at(block(2, 4).as_mut_slice(), 0).unwrap();
        file.write_durable_at(block(2, 4).as_mut_slice(), 2048).unwrap();
    });
    assert!(images.iter().flatten().any(|bytes| bytes[..2048] == [1; 2048]));
    assert!(images.iter().flatten().all(|bytes| bytes[2048..] == [2; 2048]));
}

/// Two threads, and a write that is still under way when the sync begins: the sync says nothing
/// about it.
#[test]
fn a_sync_does_not_cover_what_had_not_ended() {
    let kind = DiskOptions::new().latency(Duration::from_micros(100), Duration::ZERO);
    let images = crashes(&kind, "file", |disk| {
        let file = Arc::new(old_file(disk));
        let late = Fault::new(Effect::Late(Duration::from_micros(50))).on(Verb::Write);
        disk.plant(late);
        let other = Arc::clone(&file);
        let writer = disk.world().spawn("writer", move || {
            other.write_at(block(2, 8).as_mut_slice(), 0).unwrap();
        });
        disk.world().sleep(Duration::from_micros(60));
        file.sync().unwrap();
        writer.join();
    });
    assert!(images.iter().any(|image| is_old(image.as_ref())));
}

/// The kernel forgets that a page is dirty when its sync failed; the next sync has nothing to do,
/// and says so.
#[test]
fn a_sync_after_one_that_failed_means_nothing() {
    let mut lost = 0;
    for seed in 0..40 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let read = world.run(|| {
            let file = old_file(&disk);
            file.write_at(block(2, 8).as_mut_slice(), 0).unwrap();
            disk.plant(Fault::new(Effect::Eio).on(Verb::Sync));
            file.sync().unwrap_err();
            file.sync().unwrap();
            let mut read = block(0, 8);
            file.read_at(read.as_mut_slice(), 0).unwrap();
            read.as_mut_slice().to_vec()
        });
        // What it says then is at least the truth.
        let read = read.unwrap();
        assert_eq!(disk.crash(&mut Random::new(seed)).read("file").unwrap(), read);
        lost += u32::from(is_old(Some(&read)));
    }
    assert!((5..35).contains(&lost), "{lost} of 40");
}

/// The flush of one file fails, and the device drops its cache: what another file was given and had not
/// flushed is gone, also where its durable write was just under way. Both hear nothing of it.
#[test]
fn a_failed_flush_takes_along_what_others_had_not_flushed() {
    for method in [DurableMethod::WriteDsync, DurableMethod::WriteThenSync] {
        for seed in 0..40 {
            let world = World::new(seed);
            let kind = DiskOptions::new().method(method);
            let disk = Disk::new(&world, &kind.latency(Duration::from_micros(100), Duration::ZERO));
            let answers = world.run(|| {
                let file = Arc::new(old_file(&disk));
                let beside = disk.create_file("beside").unwrap();
                let failing = Fault::new(Effect::NoSpace).on(Verb::Sync).in_file("beside");
                disk.plant(failing.dropping_the_cache());
                file.write_at(block(2, 2).as_mut_slice(), 0).unwrap();
                let verb = match method {
                    DurableMethod::WriteDsync => Verb::WriteDurable,
                    _ => Verb::Sync,
                };
                let slow = Fault::new(Effect::Late(Duration::from_micros(500)));
                disk.plant(slow.on(verb).in_file("file"));
                let other = Arc::clone(&file);
                let writer = world.spawn("writer", move || {
                    other.write_durable_at(block(2, 4).as_mut_slice(), 1024)
                });
                world.sleep(Duration::from_micros(150));
                let error = beside.sync().unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                (writer.join().is_ok(), file.sync().is_ok())
            });
            assert_eq!(answers.unwrap(), (true, true), "seed {seed}");
            let image = disk.crash(&mut Random::new(seed));
            assert!(is_old(image.read("file").as_ref()), "seed {seed}: {:#?}", disk.story());
        }
    }
}

/// A sync of the directory is under way when the device drops its cache: it may answer `Ok` and have
/// settled nothing. The file system has the names in memory, and the next sync settles them.
#[test]
fn a_sync_of_the_directory_beside_a_failed_flush_may_settle_nothing() {
    let mut lost = 0;
    for seed in 0..40 {
        let world = World::new(seed);
        let disk = Disk::new(
            &world,
            &DiskOptions::new().latency(Duration::from_micros(100), Duration::ZERO),
        );
        let images = world.run(|| {
            let file = old_file(&disk);
            drop(disk.create_file("new").unwrap());
            disk.plant(Fault::new(Effect::Eio).on(Verb::Sync).dropping_the_cache());
            let other = disk.clone();
            let syncing = world.spawn("sync", move || other.sync_dir().unwrap());
            world.sleep(Duration::from_micros(10));
            file.sync().unwrap_err();
            syncing.join();
            let after_one = disk.crash(&mut Random::new(seed));
            disk.sync_dir().unwrap();
            [after_one, disk.crash(&mut Random::new(seed))]
        });
        let [after_one, after_two] = images.unwrap();
        lost += u32::from(after_one.read("new").is_none());
        assert!(after_two.read("new").is_some(), "seed {seed}");
    }
    assert!((5..40).contains(&lost), "{lost} of 40");
}

/// A page cache keeps what a failed sync marked clean: it is read, and no crash leaves it, until the
/// cache is dropped.
#[test]
fn a_cache_may_say_what_the_device_does_not_have() {
    let mut differed = 0;
    for seed in 0..60 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new().cached());
        let read = world.run(|| {
            let file = old_file(&disk);
            file.write_at(block(2, 8).as_mut_slice(), 0).unwrap();
            disk.plant(Fault::new(Effect::Eio).on(Verb::Sync));
            file.sync().unwrap_err();
            file.sync().unwrap();
            let read = || {
                let mut read = block(0, 8);
                file.read_at(read.as_mut_slice(), 0).unwrap();
                read.as_mut_slice().to_vec()
            };
            let cached = read();
            file.drop_cache().unwrap();
            (cached, read())
        });
        let (cached, device) = read.unwrap();
        assert_eq!(disk.crash(&mut Random::new(seed)).read("file").unwrap(), device);
        differed += u32::from(cached != device);
    }
    assert!((5..45).contains(&differed), "{differed} of 60");
}

/// Zeros that are written in one call are a write like any other: lost in part until a sync.
#[test]
fn zeros_in_one_call_need_a_sync() {
    let kind = DiskOptions::new().write_zeroes();
    let images = crashes(&kind, "file", |disk| {
        assert!(old_file(disk).write_zeroes(0, 4096).unwrap());
    });
    assert!(images.len() > 10 && images.iter().any(|image| is_old(image.as_ref())));
    let images = crashes(&kind, "file", |disk| {
        let file = old_file(disk);
        assert!(file.write_zeroes(0, 4096).unwrap());
        file.sync().unwrap();
    });
    assert_eq!(images, BTreeSet::from([Some(vec![0; 4096])]));
    crashes(&DiskOptions::new(), "file", |disk| {
        assert!(!old_file(disk).write_zeroes(0, 4096).unwrap());
    });
}

#[test]
fn names_are_lost_until_the_directory_is_synced() {
    let create = |disk: &Disk| {
        old_file(disk);
        let file = disk.create_file("new").unwrap();
        file.write_at(block(2, 8).as_mut_slice(), 0).unwrap();
        file.sync().unwrap();
        disk.rename("new", "file").unwrap();
    };
    let images = crashes(&DiskOptions::new(), "file", create);
    assert_eq!(images.len(), 2, "one or the other, and always whole");
    assert!(images.iter().all(|image| is_old(image.as_ref()) || is_new(image.as_ref())));
    let temporary = crashes(&DiskOptions::new(), "new", create);
    assert!(temporary.contains(&None));
    assert!(temporary.iter().flatten().any(|bytes| *bytes == vec![2; 4096]));
    let images = crashes(&DiskOptions::new(), "file", |disk| {
        create(disk);
        disk.sync_dir().unwrap();
    });
    assert!(images.iter().all(|image| is_new(image.as_ref())));
}

#[test]
fn sizes_are_lost_and_may_come_without_their_bytes() {
    let grow = |disk: &Disk| {
        let file = old_file(disk);
        file.write_at(block(2, 8).as_mut_slice(), 4096).unwrap();
    };
    let lengths = |kind: &DiskOptions| -> BTreeSet<usize> {
        crashes(kind, "file", grow).into_iter().flatten().map(|bytes| bytes.len()).collect()
    };
    assert_eq!(lengths(&DiskOptions::new()), BTreeSet::from([4096, 8192]));
    let zeros = crashes(&DiskOptions::new(), "file", grow);
    assert!(zeros.iter().flatten().any(|bytes| bytes.len() == 8192 && bytes[4096..] == [0; 4096]));
    let stale = crashes(&DiskOptions::new().stale_bytes(), "file", grow);
    let is_stale = |bytes: &&Vec<u8>| bytes.len() == 8192 && bytes[4096..].iter().any(|b| *b > 2);
    assert!(stale.iter().flatten().filter(is_stale).count() > 20);
}

#[test]
fn large_sectors_are_not_torn_inside() {
    let kind = DiskOptions::new().sector(Sector::Bytes4096);
    let images = crashes(&kind, "file", |disk| {
        disk.create().unwrap();
        let file = disk.create_file("file").unwrap();
        file.write_at(block(1, 16).as_mut_slice(), 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(block(2, 16).as_mut_slice(), 0).unwrap();
        let unaligned = file.write_at(&block(2, 8).as_mut_slice()[..512], 0).unwrap_err();
        assert_eq!(unaligned.kind(), std::io::ErrorKind::InvalidInput);
    });
    let clean = images.iter().flatten().filter(|bytes| bytes.iter().all(|byte| *byte <= 2));
    for bytes in clean {
        assert!(bytes.chunks(4096).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    }
}

#[test]
fn faults_strike_when_and_as_long_as_they_should() {
    let world = World::new(1);
    let disk = Disk::new(&world, &DiskOptions::new());
    world
        .run(|| {
            let file = old_file(&disk);
            disk.plant(Fault::new(Effect::Eio).on(Verb::Sync).in_file("file").after(1).times(2));
            let answers: Vec<_> = (0..5).map(|_| file.sync().is_ok()).collect();
            assert_eq!(answers, [true, false, false, true, true]);
            disk.plant(Fault::new(Effect::NoSpace).on(Verb::CreateFile).sticky());
            for _ in 0..3 {
                let full = disk.create_file("other").unwrap_err();
                assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            }
            disk.heal();
            disk.create_file("other").unwrap();
            assert_eq!(disk.calls(Verb::CreateFile), 5);
            let before = disk.world().now();
            disk.plant(Fault::new(Effect::Late(Duration::from_secs(5))).on(Verb::Read));
            file.read_at(block(0, 8).as_mut_slice(), 0).unwrap();
            assert!(disk.world().now() - before >= Duration::from_secs(5));
        })
        .unwrap();
}

#[test]
fn a_short_write_leaves_its_beginning() {
    let mut lengths = BTreeSet::new();
    for seed in 0..60 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        world
            .run(|| {
                let file = old_file(&disk);
                disk.plant(Fault::new(Effect::Short).on(Verb::Write));
                file.write_at(block(2, 8).as_mut_slice(), 0).unwrap_err();
                let mut read = block(0, 8);
                file.read_at(read.as_mut_slice(), 0).unwrap();
                let bytes = read.as_mut_slice();
                let taken = bytes.iter().take_while(|byte| **byte == 2).count();
                assert!(bytes[taken..].iter().all(|byte| *byte == 1));
                lengths.insert(taken);
            })
            .unwrap();
    }
    assert!(lengths.len() == 8 && !lengths.contains(&4096), "{lengths:?}");
}

#[test]
fn a_disk_has_as_much_room_as_it_was_given() {
    let world = World::new(1);
    let disk = Disk::new(&world, &DiskOptions::new().room_bytes(3 * 4096));
    world
        .run(|| {
            let file = old_file(&disk);
            file.write_at(block(2, 16).as_mut_slice(), 4096).unwrap();
            let full = file.write_at(block(2, 8).as_mut_slice(), 3 * 4096).unwrap_err();
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            file.write_at(block(3, 24).as_mut_slice(), 0).unwrap();
            disk.remove("file").unwrap();
            let file = disk.create_file("other").unwrap();
            file.write_at(block(2, 24).as_mut_slice(), 0).unwrap();
        })
        .unwrap();
}

#[test]
fn a_directory_is_locked_once_and_files_are_what_they_were_opened_for() {
    let world = World::new(1);
    let disk = Disk::new(&world, &DiskOptions::new());
    world
        .run(|| {
            assert!(matches!(disk.lock(), Err(LockError::Io(_))), "there is no directory");
            assert_eq!(disk.list().unwrap_err().kind(), std::io::ErrorKind::NotFound);
            old_file(&disk);
            let lock = disk.lock().unwrap();
            assert!(matches!(disk.lock(), Err(LockError::Held { .. })));
            disk.ending(&lock);
            assert!(matches!(disk.lock(), Err(LockError::Ending)));
            assert!(matches!(disk.lock(), Err(LockError::Ending)));
            drop(lock);
            disk.lock().unwrap();
            let file = disk.open("file", Access::Read).unwrap();
            file.write_at(block(2, 8).as_mut_slice(), 0).unwrap_err();
            assert_eq!((file.len().unwrap(), file.links().unwrap()), (4096, 1));
            let there = disk.create_file("file").unwrap_err();
            assert_eq!(there.kind(), std::io::ErrorKind::AlreadyExists);
            assert!(disk.rot("file", 9, 1) && !disk.rot("file", 4096, 1));
            let mut read = block(0, 8);
            file.read_at(read.as_mut_slice(), 0).unwrap();
            assert_eq!(read.as_mut_slice()[8..11], [1, 0, 1]);
        })
        .unwrap();
}

/// Writes of several threads complete in another order than they began.
#[test]
fn what_is_in_flight_together_ends_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..40 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let order = world.run(|| {
            let file = Arc::new(old_file(&disk));
            let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let (file, order) = (Arc::clone(&file), Arc::clone(&order));
                    world.spawn("writer", move || {
                        file.write_durable_at(block(2, 1).as_mut_slice(), number * 512).unwrap();
                        order.lock().push(number);
                    })
                })
                .collect();
            threads.into_iter().for_each(Spawned::join);
            order.lock().clone()
        });
        orders.insert(order.unwrap());
    }
    assert_eq!(orders.len(), 6, "{orders:?}");
}
