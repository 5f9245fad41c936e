//! A disk that does not answer.

use crate::script::{Script, options};
use std::{sync::Arc, time::Duration};
use wal::{ErrorKind, Options, io::Host as _};
use wal_sim::{
    Broken, Disk, DiskOptions, Effect, Fault, Model, Random, Recovered, Said, Verb, World,
};

/// The next frame, and not the header of a segment that is made ahead.
fn first_segment(effect: Effect) -> Fault {
    Fault::new(effect).on(Verb::WriteDurable).in_file("slot-000000")
}

/// A disk hangs for seconds, and a service must go on answering its clients: whoever waits with a
/// timeout gets control back, nothing is acknowledged meanwhile, and when the disk comes back all
/// that was appended becomes durable.
#[test]
fn a_wait_with_a_timeout_comes_back() {
    for seed in 0..50 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        world
            .run(|| {
                let script = Script::open(&disk, &options()).unwrap();
                let wal = Arc::new(script.wal);
                disk.plant(first_segment(Effect::Hang));
                let other = Arc::clone(&wal);
                let writer = world.spawn("writer", move || other.append(b"first")?.wait());
                while disk.faults_struck() == 0 {
                    world.sleep(Duration::from_micros(10));
                }
                let durable = wal.durable_lsn();
                let ticket = wal.append(b"second").unwrap();
                let before = world.now();
                let given_up = ticket.wait_timeout(Duration::from_millis(20)).unwrap_err();
                assert_eq!(given_up.kind(), ErrorKind::TimedOut);
                assert!(world.now() - before >= Duration::from_millis(20));
                assert!(!ticket.is_durable());
                assert_eq!(wal.durable_lsn(), durable, "nothing is durable while the disk hangs");
                let other = Arc::clone(&wal);
                let closer = world.spawn("closer", move || other.close());
                world.sleep(Duration::from_secs(60));
                assert_eq!(wal.durable_lsn(), durable, "a close does not make it durable either");
                disk.heal();
                writer.join().unwrap();
                closer.join().unwrap();
                ticket.wait().unwrap();
            })
            .unwrap();
    }
}

/// The handle is dropped while the disk hangs, and the program opens anew. It waits for the write that is
/// under way as long as it said, and no longer; once the disk is back, the open is its turn.
#[test]
fn an_open_waits_for_a_log_that_has_ended_as_long_as_it_may() {
    for (seed, millis) in [(1, 0), (2, 20), (3, 5000)] {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        world
            .run(|| {
                let script = Script::open(&disk, &options()).unwrap();
                let ticket = script.wal.append(b"in flight").unwrap();
                disk.plant(first_segment(Effect::Hang));
                let writer = world.spawn("writer", move || ticket.wait());
                while disk.faults_struck() == 0 {
                    world.sleep(Duration::from_micros(10));
                }
                let patient = options().lock_timeout(Duration::from_secs(3600));
                let (kind, waited) = refused(&world, &disk, &patient);
                assert_eq!(kind, ErrorKind::Locked);
                assert!(waited < Duration::from_millis(1), "a log that goes on: {waited:?}");
                drop(script.wal);
                let may = Duration::from_millis(millis);
                let bounded = match millis {
                    5000 => options(),
                    _ => options().lock_timeout(may),
                };
                let (kind, waited) = refused(&world, &disk, &bounded);
                assert_eq!(kind, ErrorKind::Locked);
                assert!(waited >= may && waited < may + Duration::from_millis(1), "{waited:?}");
                let healer = world.clone();
                let hanging = disk.clone();
                let healer = world.spawn("healer", move || {
                    healer.sleep(Duration::from_secs(2));
                    hanging.heal();
                });
                drop(patient.open_in(disk.clone()).unwrap());
                healer.join();
                assert_eq!(writer.join().unwrap_err().kind(), ErrorKind::Closed);
            })
            .unwrap();
    }
}

/// What an open answers, and after what time.
fn refused(world: &World, disk: &Disk, options: &Options) -> (ErrorKind, Duration) {
    let before = world.now();
    let error = options.open_in(disk.clone()).unwrap_err();
    (error.kind(), world.now() - before)
}

/// The disk never comes back, and the power goes: a close that had not answered promised nothing.
#[test]
fn a_close_on_a_disk_that_hangs_says_nothing() {
    for seed in 0..30 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let said = std::sync::Mutex::new(Vec::new());
        let hung = world.run(|| {
            let mut script = Script::open(&disk, &options()).unwrap();
            script.append(300).unwrap();
            *said.lock().unwrap() = script.said.clone();
            disk.plant(first_segment(Effect::Hang));
            let records = vec![b"never durable".to_vec()].into();
            said.lock().unwrap().push(Said::Begun { batch: 1, records });
            drop(script.wal.append(b"never durable").unwrap());
            let outcome = script.close();
            said.lock().unwrap().push(Said::Closed);
            outcome
        });
        let Err(Broken::Hang { waiting }) = hung else { panic!("closed: {hung:?}") };
        let disk_waits =
            waiting.iter().any(|who| who.contains("waits for the disk (durable write)"));
        assert!(disk_waits, "{waiting:?}");
        let said = said.into_inner().unwrap();
        let image = disk.crash(&mut Random::new(seed));
        let world = World::new(seed);
        let disk = Disk::of_image(&world, &image);
        let found = world.run(|| Recovered::read(&mut options().open_in(disk).unwrap()).unwrap());
        let found = found.unwrap();
        Model::of(&said).check(&found).unwrap();
    }
}

/// Two threads wait for each other. A test that hangs for real tells nobody why.
#[test]
fn a_hang_is_told_with_names() {
    let world = World::new(1);
    let inner = world.clone();
    let hung = world.run(move || {
        let never = inner.spawn("never", {
            let inner = inner.clone();
            move || inner.block_on(std::future::pending::<()>())
        });
        never.join();
    });
    let waiting =
        ["main waits for the end of never".to_owned(), "never waits for a future".to_owned()];
    assert_eq!(hung, Err(Broken::Hang { waiting: waiting.to_vec() }));
}

/// The threads of a life that is over end with it, wherever they stood.
#[test]
fn nothing_lives_on_in_the_dark() {
    let alive = Arc::new(());
    for seed in 0..200 {
        let world = World::new(seed);
        let disk = Disk::new(&world, &DiskOptions::new());
        let outcome = world.run(|| {
            let wal = Arc::new(Script::open(&disk, &options()).unwrap().wal);
            for _ in 0..3 {
                let (wal, alive) = (Arc::clone(&wal), Arc::clone(&alive));
                drop(world.spawn("writer", move || {
                    let _alive = alive;
                    loop {
                        wal.append(&[7; 300]).unwrap().wait().unwrap();
                        let last = wal.durable_lsn();
                        wal.checkpoint(last, b"").unwrap().wait().unwrap();
                    }
                }));
            }
            world.sleep(Duration::from_micros(500 + seed));
            if seed % 2 == 0 {
                world.cut_power();
            }
        });
        let expected = if seed % 2 == 0 { Err(Broken::PowerCut) } else { Ok(()) };
        assert_eq!(outcome, expected);
        assert_eq!(Arc::strong_count(&alive), 1, "seed {seed}");
    }
}

/// A disk without room refuses the header of the next segment, in a slot that is there and free. The slot
/// went back to the free ones, a free slot was reason enough to try again, and the preparer's thread asked
/// a full disk for as long as it was full, without a pause: a processor for nothing, and the log's own
/// commits behind it in the device's queue.
#[test]
fn a_full_disk_is_not_asked_without_a_pause() {
    let world = World::new(1);
    let disk = Disk::new(&world, &DiskOptions::new());
    world
        .run(|| {
            let script = Script::open(&disk, &options()).unwrap();
            let wal = script.wal;
            while wal.stats().segments_created < 2 {
                wal.append(&[1; 300]).unwrap().wait().unwrap();
            }
            disk.plant(
                Fault::new(Effect::NoSpace).on(Verb::WriteDurable).in_file("slot-000000").sticky(),
            );
            // Frees the first slot, which is wanted for the segment after the current one.
            wal.checkpoint(wal.durable_lsn(), b"").unwrap().wait().unwrap();
            while disk.faults_struck() == 0 {
                match wal.append(&[1; 300]) {
                    Ok(ticket) => drop(ticket.wait().unwrap()),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace),
                }
            }
            let before = disk.faults_struck();
            world.sleep(Duration::from_secs(10));
            let asked = disk.faults_struck() - before;
            assert!((10..=100).contains(&asked), "{asked} times in ten seconds");
            disk.heal();
            for _ in 0..100 {
                wal.append(&[1; 300]).unwrap().wait().unwrap();
                wal.checkpoint(wal.durable_lsn(), b"").unwrap().wait().unwrap();
            }
        })
        .unwrap();
}
