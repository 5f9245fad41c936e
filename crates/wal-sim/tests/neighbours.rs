//! Flushes that fail beside a frame's own, on a device that drops its cache then.

use crate::script::{Script, options};
use std::{sync::Arc, time::Duration};
use wal::{
    Error, ErrorKind, Lsn, Options, Wal,
    io::{DurableMethod, Host as _},
};
use wal_sim::{
    Disk, DiskOptions, Effect, Fault, Model, Random, Recovered, Said, Spawned, Verb, World,
};

const EDQUOT: i32 = 122;

/// Writers that wait for each record, on small segments; now and then one releases what is behind.
fn write(disk: &Disk, wal: &Arc<Wal<Disk>>, said: &Arc<parking_lot::Mutex<Vec<Said>>>) {
    let writer = |number: u64| {
        let (wal, said, disk) = (Arc::clone(wal), Arc::clone(said), disk.clone());
        disk.world().clone().spawn("writer", move || {
            for step in 0..25 {
                let batch = number * 1000 + step;
                let record = vec![u8::try_from(batch % 251).unwrap(); 300];
                said.lock().push(Said::Begun { batch, records: vec![record.clone()].into() });
                let ticket = match wal.append(&record) {
                    Ok(ticket) => ticket,
                    Err(error) => {
                        said.lock().push(Said::Void { batch });
                        if !bears(&disk, &error) {
                            continue;
                        }
                        return;
                    }
                };
                said.lock().push(Said::Placed { batch, lsn: ticket.lsn() });
                match ticket.wait() {
                    Ok(_) => said.lock().push(Said::Acknowledged { batch }),
                    Err(error) => {
                        assert!(bears(&disk, &error), "{error}");
                        return;
                    }
                }
            }
        })
    };
    let threads = [1, 2].map(writer);
    threads.into_iter().for_each(Spawned::join);
}

/// Whether it is the end of the log; else something was short for a while.
fn bears(disk: &Disk, error: &Error) -> bool {
    assert!(disk.faults_struck() > 0, "{error}");
    assert!(matches!(error.kind(), ErrorKind::Latched | ErrorKind::NoSpace), "{error}");
    error.kind() == ErrorKind::Latched
}

/// What came of a fault, over many seeds.
#[derive(Debug, Default)]
struct Found {
    struck: u32,
    latched: u32,
}

/// Has `fault` befall the preparer beside two writers, and the power fail at the end: nothing that was
/// acknowledged may be lost, neither for who goes on nor after the crash.
fn suffer(fault: &Fault, method: DurableMethod, seeds: u64) -> Found {
    let mut found = Found::default();
    for seed in 0..seeds {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new().method(method));
        let said = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let latched = world.run(|| {
            let options: Options = options().spare_bytes_max(0);
            let script = Script::open(&disk, &options).unwrap();
            *said.lock() = script.said;
            let wal = Arc::new(script.wal);
            disk.plant(fault.clone());
            write(&disk, &wal, &said);
            matches!(wal.append(b"is it"), Err(error) if error.kind() == ErrorKind::Latched)
        });
        let latched = latched.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        found.latched += u32::from(latched);
        found.struck += u32::from(disk.faults_struck() > 0);
        let mut said = said.lock().clone();
        said.retain(|said| !matches!(said, Said::Closed));
        let mut random = Random::new(seed);
        for _ in 0..4 {
            let later = Disk::of_image(&World::new(seed), &disk.crash(&mut random));
            let recovered = later.world().run(|| {
                let mut replay = options().open_in(later.clone())?;
                Recovered::read(&mut replay)
            });
            let outcome = match recovered.unwrap() {
                Ok(recovered) => Model::of(&said).check(&recovered),
                Err(error) => Err(error.to_string()),
            };
            if let Err(what) = outcome {
                panic!("seed {seed}, {fault:?}: {what}\n{}", disk.story().join("\n"));
            }
        }
    }
    found
}

const METHODS: [DurableMethod; 2] = [DurableMethod::WriteDsync, DurableMethod::WriteThenSync];

/// The preparer's sync of a new slot gets `EIO`, and the device drops its cache: a frame that another
/// thread had written and not yet flushed was gone, its own flush found nothing to do and answered `Ok`,
/// and the record was acknowledged; the log latched too late, after it had tidied up.
#[test]
fn a_failed_sync_of_the_preparer_takes_no_acknowledged_record_along() {
    for method in METHODS {
        for fault in preparers(Effect::Eio) {
            let found = suffer(&fault, method, 60);
            assert!(found.struck > 50 && found.latched == found.struck, "{fault:?}: {found:?}");
        }
    }
}

/// The same with an error that latches nothing, for no record depends on the slot. The device dropped its
/// cache all the same: a frame that ended under the preparer's call, or was just being written, is gone
/// although its own flush answered `Ok`. Such a call is no success: the frames are written once more.
#[test]
fn a_shortage_of_the_preparer_takes_no_acknowledged_record_along() {
    for method in METHODS {
        for effect in [Effect::NoSpace, Effect::Refuse(EDQUOT)] {
            for fault in preparers(effect) {
                let found = suffer(&fault, method, 60);
                assert!(found.struck > 50 && found.latched == 0, "{fault:?}: {found:?}");
            }
        }
    }
}

/// The preparer's calls that carry a flush: of a new slot's zeros, of its name, and of its header.
fn preparers(effect: Effect) -> [Fault; 3] {
    let fault = Fault::new(effect).dropping_the_cache();
    [
        fault.clone().on(Verb::Sync).in_file("slot-000002"),
        fault.clone().on(Verb::SyncDir),
        // The first write of a new slot that is durable is its header's.
        fault.on(Verb::WriteDurable).in_file("slot-000002"),
    ]
}

/// A frame ends while the preparer's sync is under way, which answers `ENOSPC` long after: the device has
/// dropped its cache, and the frame is not acknowledged on the word of its own flush. It is written
/// again, and then it is.
#[test]
fn a_frame_that_ends_under_a_refused_sync_is_written_once_more() {
    for seed in 0..100 {
        let world = World::new(seed);
        let kind = DiskOptions::new().latency(Duration::from_micros(100), Duration::ZERO);
        let disk = Disk::new(&world, &kind);
        let lsn = world.run(|| {
            let mut script = Script::open(&disk, &options()).unwrap();
            let refused = Fault::new(Effect::NoSpace).on(Verb::Sync).in_file("slot-000002");
            disk.plant(refused.dropping_the_cache());
            while disk.faults_struck() == 0 {
                script.append(300).unwrap();
            }
            // The sync has begun; the device drops its cache at some moment before it answers.
            disk.sleep(Duration::from_nanos(seed * 1000));
            let ticket = script.wal.append(b"beside it").unwrap();
            let lsn = ticket.lsn();
            ticket.wait().unwrap();
            lsn
        });
        let lsn = lsn.unwrap();
        let later = Disk::of_image(&World::new(seed), &disk.crash(&mut Random::new(seed)));
        let last = later.world().run(|| {
            let mut replay = options().open_in(later.clone()).unwrap();
            let mut last = None;
            while let Some(record) = replay.next().unwrap() {
                last = Some((record.lsn(), record.payload().to_vec()));
            }
            last
        });
        let told = disk.story().join("\n");
        assert_eq!(last.unwrap(), Some((lsn, b"beside it".to_vec())), "seed {seed}\n{told}");
    }
}

/// The preparer's sync got `EIO`; the log removed the slot and synced the directory again, and only then
/// latched: up to 604 appends that began after the error were acknowledged meanwhile. Nothing that begins
/// after it is, however long the next call of any thread takes.
#[test]
fn nothing_that_begins_after_the_error_is_acknowledged() {
    for method in METHODS {
        for seed in 0..60 {
            let world = World::new(seed);
            let disk = Disk::new(&world, &DiskOptions::new().method(method));
            let later = world.run(|| {
                let script = Script::open(&disk, &options()).unwrap();
                disk.plant(Fault::new(Effect::Eio).on(Verb::Sync).in_file("slot-000002"));
                let slow = Fault::new(Effect::Late(Duration::from_millis(50)));
                disk.plant(slow.on(Verb::SyncDir).sticky());
                let mut later = 0;
                loop {
                    let is_told = disk.story().iter().any(|line| line.contains(" fails"));
                    match script.wal.append(&[1; 300]).and_then(|ticket| ticket.wait()) {
                        Ok(_) => later += u32::from(is_told),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Latched, "{error}");
                            return later;
                        }
                    }
                }
            });
            assert_eq!(later.unwrap(), 0, "seed {seed}: acknowledged after an error");
        }
    }
}

/// Appends until the preparer syncs a slot of zeros, which is to fail as `fault` says; then one record more, whose
/// frame is being written for a while, so that the device may forget it before it is flushed.
fn append_under(disk: &Disk, wal: &Wal<Disk>, fault: Fault) -> Lsn {
    disk.plant(fault.on(Verb::Sync).in_file("slot-000002"));
    while disk.faults_struck() == 0 {
        let ticket = wal.append(&[1; 300]).unwrap();
        while !ticket.is_durable() && disk.faults_struck() == 0 {
            disk.sleep(Duration::from_micros(10));
        }
        // The preparer takes its time, and there is room left when it syncs.
        let pause = disk.now() + Duration::from_millis(50);
        while disk.now() < pause && disk.faults_struck() == 0 {
            disk.sleep(Duration::from_micros(100));
        }
    }
    disk.plant(Fault::new(Effect::Late(Duration::from_millis(20))).on(Verb::WriteDurable));
    let ticket = wal.append(b"beside it").unwrap();
    let lsn = ticket.lsn();
    ticket.on_durable(drop);
    lsn
}

/// Waits for nothing.
fn vouching() -> Options {
    options().linger(Duration::ZERO).confirm_after(Duration::ZERO)
}

/// How an open of a crash state ends.
fn open_after(disk: &Disk, seed: u64) -> Result<Recovered, Error> {
    let later = Disk::of_image(&World::new(seed), &disk.crash(&mut Random::new(seed)));
    let recovered = later.world().run(|| {
        let mut replay = options().open_in(later.clone())?;
        Recovered::read(&mut replay)
    });
    recovered.unwrap()
}

/// A frame was written under the preparer's failing sync; its own flush answered `Ok`, and the device had dropped
/// it. The log was closed: the frame that vouches for all before it was durable behind a hole, before the sync had
/// said that it failed.
#[test]
fn a_close_waits_until_all_before_it_is_acknowledged() {
    for seed in 0..200 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let failing = Fault::new(Effect::Eio).dropping_the_cache();
        let found = world.run(|| {
            let wal = Arc::new(Script::open(&disk, &vouching()).unwrap().wal);
            append_under(&disk, &wal, failing.taking(Duration::from_millis(60)));
            world.sleep(Duration::from_millis(1));
            let before = disk.calls(Verb::WriteDurable);
            let closer = Arc::clone(&wal);
            let closer = world.spawn("closer", move || closer.close());
            world.sleep(Duration::from_millis(40));
            let written = disk.calls(Verb::WriteDurable) - before;
            let found = open_after(&disk, seed);
            let closed = closer.join();
            (written, found, closed)
        });
        let (written, found, closed) = found.unwrap();
        let told = disk.story().join("\n");
        assert_eq!(written, 0, "seed {seed}: before it was known that the sync had failed\n{told}");
        assert!(found.is_ok(), "seed {seed}: {found:?}\n{told}");
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::Latched, "seed {seed}");
    }
}

/// A frame is held by the preparer's sync. Another one fails: the log has latched, and who waited for the first was
/// told that its outcome is unknown. The sync ended well, and had it acknowledged all the same: the mark moved.
#[test]
fn nothing_is_acknowledged_behind_a_latch() {
    for seed in 0..50 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let late = Fault::new(Effect::Late(Duration::from_millis(60)));
        let marks = world.run(|| {
            let wal = Script::open(&disk, &vouching()).unwrap().wal;
            append_under(&disk, &wal, late);
            world.sleep(Duration::from_millis(30));
            disk.plant(Fault::new(Effect::Eio).on(Verb::WriteDurable));
            let failed = wal.append(b"fails").and_then(|ticket| ticket.wait());
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Latched);
            let before = wal.durable_lsn();
            world.sleep(Duration::from_millis(200));
            (before, wal.durable_lsn())
        });
        let (before, after) = marks.unwrap();
        assert_eq!(before, after, "seed {seed}\n{}", disk.story().join("\n"));
    }
}

/// A frame was written under the preparer's sync, and held by it. The log was idle and confirmed its last frame,
/// with a header that could not vouch for one that was not acknowledged yet; and then it did not confirm it again.
#[test]
fn a_confirmation_waits_until_all_before_it_is_acknowledged() {
    for seed in 0..50 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let late = Fault::new(Effect::Late(Duration::from_millis(60)));
        let lsn = world.run(|| {
            let wal = Script::open(&disk, &vouching()).unwrap().wal;
            let lsn = append_under(&disk, &wal, late);
            world.sleep(Duration::from_millis(200));
            lsn
        });
        let lsn = lsn.unwrap();
        let told = disk.story().join("\n");
        let mut image = disk.image();
        let name = format!("slot-{:06}", lsn.get() / 8192);
        assert!(image.flip(&name, usize::try_from(lsn.get() % 8192).unwrap(), 1));
        let rotten = Disk::of_image(&World::new(seed), &image);
        let found = rotten.world().run(|| {
            let mut replay = options().open_in(rotten.clone())?;
            Recovered::read(&mut replay)
        });
        let error = found.unwrap().expect_err(&format!("seed {seed}: no damage\n{told}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "seed {seed}: {error}\n{told}");
    }
}
