//! Each call of the disk fails once, and from then on, for every call that a program makes which
//! fills segments and uses them again.

use crate::script::{Script, options};
use std::time::Duration;
use wal::{
    ErrorKind, Options,
    io::{DurableMethod, Host as _},
};
use wal_sim::{Disk, DiskOptions, Effect, Fault, Image, Model, Random, Recovered, Said, World};

const EDQUOT: i32 = 122;

/// What a run came to.
struct Lived {
    disk: Disk,
    said: Vec<Said>,
    calls: u64,
    recycled: u64,
    created: u64,
    latched: bool,
}

fn live(kind: &DiskOptions, fault: Option<Fault>) -> Lived {
    let world = World::new(9);
    let disk = Disk::new(&world, kind);
    if let Some(fault) = fault {
        disk.plant(fault);
    }
    let lived = world.run(|| {
        let (mut said, mut latched) = (Vec::new(), false);
        let (mut recycled, mut created) = (0, 0);
        for opening in 0..2 {
            let script = Script::open_after(&disk, &options(), said.clone());
            // Who cannot open the log goes away, and comes back when the disk has healed.
            let Ok(mut script) = script else {
                // It may have said that it is open before it failed.
                said.retain(|said| !matches!(said, Said::Closed));
                break;
            };
            script.write();
            if opening == 0 {
                drop(script.close());
            }
            let stats = script.wal.stats();
            recycled += stats.segments_recycled;
            created += stats.segments_created;
            latched |= script.latched_at.is_some();
            said = script.said;
        }
        // The same process goes on after the disk was mended: what it reads is what the disk says
        // now, not what would have survived.
        let calls = disk.calls_in_all();
        disk.heal();
        let mut script = Script::open_after(&disk, &options(), said).unwrap();
        script.append(50).unwrap();
        script.close().unwrap();
        (script.said, calls, recycled, created, latched)
    });
    let (said, calls, recycled, created, latched) = lived.unwrap();
    Lived { disk, said, calls, recycled, created, latched }
}

/// The power fails behind `lived`: in several ways, and the log holds what it must.
fn crash(lived: &Lived, random: &mut Random) {
    for _ in 0..3 {
        let image = lived.disk.crash(random);
        let world = World::new(random.next());
        let disk = Disk::of_image(&world, &image);
        let found = world.run(|| {
            let mut replay = options().open_in(disk.clone()).unwrap();
            Recovered::read(&mut replay).unwrap()
        });
        Model::of(&lived.said).check(&found.unwrap()).unwrap();
    }
}

fn sweep(kind: &DiskOptions) -> u64 {
    let clean = live(kind, None);
    assert!(clean.recycled > 1, "segments are used again: {}", clean.recycled);
    assert!(clean.created > 1, "segments are made: {}", clean.created);
    assert!(!clean.latched);
    let mut random = Random::new(4);
    let (mut struck, mut latched) = (0, 0);
    let effects = [Effect::Eio, Effect::NoSpace, Effect::Short, Effect::EioButDone];
    let wide = [Effect::Eio, Effect::Refuse(EDQUOT)];
    let wide = wide.map(|effect| Fault::new(effect).dropping_the_cache());
    for fault in effects.map(Fault::new).into_iter().chain(wide) {
        for call in 0..clean.calls {
            for fault in [fault.clone(), fault.clone().sticky()] {
                let lived = live(kind, Some(fault.after(call)));
                struck += lived.disk.faults_struck().min(1);
                latched += u64::from(lived.latched);
                crash(&lived, &mut random);
            }
        }
    }
    assert!(latched > clean.calls, "faults hardly ever matter: {latched} of {struck}");
    assert!(struck > latched, "every fault latches, also those that need not: {latched}");
    clean.calls
}

/// The second error of a disk comes when the program handles the first one. After any of them: no
/// acknowledgement follows a failed write or sync, and what was acknowledged is there, for the
/// process that goes on and after a crash. A flush that fails may take along what others had not flushed.
#[test]
fn each_call_fails_when_durable_writes_are_one_call() {
    assert!(sweep(&DiskOptions::new()) > 150);
}

/// The same where the sync is a call of its own, which can fail by itself.
#[test]
fn each_call_fails_when_durable_writes_are_two_calls() {
    assert!(sweep(&DiskOptions::new().method(DurableMethod::WriteThenSync)) > 250);
}

/// A full disk: appends are refused cleanly, checkpoints are not, and nothing is lost.
#[test]
fn a_full_disk_is_no_failure() {
    // The identity, two slots of two pages each, and a few pages.
    for pages in 5..12 {
        let kind = DiskOptions::new().room_bytes(pages * 4096);
        let lived = live(&kind, None);
        assert!(!lived.latched, "{pages} pages");
        crash(&lived, &mut Random::new(pages));
    }
}

/// Segments that several frames in flight fit.
fn roomy() -> Options {
    Options::new()
        .block_bytes(512)
        .segment_bytes(64 << 10)
        .frame_bytes(16 << 10)
        .pool_bytes(128 << 10)
        .depth(4)
}

/// A log as a crash left it while frames were in flight that nobody waited for.
fn crashed(seed: u64) -> Image {
    let world = World::new(seed);
    let disk = Disk::new(&world, &DiskOptions::new());
    let mut random = Random::new(seed);
    let image = world.run(|| {
        let script = Script::open(&disk, &roomy()).unwrap();
        for number in 0..1 + random.below(14) {
            drop(script.wal.append(&vec![u8::try_from(number).unwrap(); 9000]).unwrap());
        }
        world.sleep(Duration::from_micros(random.below(500)));
        disk.crash(&mut random)
    });
    image.unwrap()
}

/// What came of a finish of which one call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    /// It needed no such call.
    NotStruck,
    Harmless,
    Again,
    Over,
}

fn is_retried(error: &wal::Error) -> bool {
    error.kind() == ErrorKind::NoSpace || error.to_string().starts_with("starting thread")
}

/// Opens `image`, has call number `call` of the finish fail once, and finishes again. Then a record is
/// acknowledged, the power fails, and all is there.
fn finish_twice(image: &Image, effect: Effect, call: u64) -> (Finish, bool) {
    let world = World::new(call);
    let disk = Disk::of_image(&world, image);
    let lived = world.run(|| {
        let mut replay = roomy().open_in(disk.clone()).unwrap();
        let found = Recovered::read(&mut replay).unwrap();
        disk.plant(Fault::new(effect).after(call));
        let (outcome, (wal, _)) = match replay.finish() {
            Ok(open) if disk.faults_struck() == 0 => (Finish::NotStruck, open),
            Ok(open) => (Finish::Harmless, open),
            // A thread that cannot be started is no write, whatever the reason.
            Err(error) if is_retried(&error) => {
                let second = roomy().open_in(disk.clone()).unwrap_err();
                assert_eq!(second.kind(), ErrorKind::Locked, "call {call}");
                (Finish::Again, replay.finish().unwrap())
            }
            Err(error) => {
                let again = replay.finish().map(drop).expect_err(&error.to_string());
                assert_eq!(again.to_string(), error.to_string(), "call {call}");
                let mut anew = roomy().open_in(disk.clone()).unwrap();
                let records = Recovered::read(&mut anew).unwrap().records;
                assert_eq!(records, found.records, "call {call}");
                (Finish::Over, anew.finish().unwrap())
            }
        };
        disk.heal();
        wal.append(b"goes on").unwrap().wait().unwrap();
        (outcome, found)
    });
    let (outcome, found) = lived.unwrap();
    let image = disk.crash(&mut Random::new(call));
    let world = World::new(call + 1);
    let disk = Disk::of_image(&world, &image);
    let after = world.run(|| Recovered::read(&mut roomy().open_in(disk).unwrap()).unwrap());
    let mut records = after.unwrap().records;
    assert_eq!(records.pop().map(|record| record.payload), Some(b"goes on".to_vec()));
    assert_eq!(records, found.records, "call {call}");
    (outcome, found.was_cut)
}

/// A log that a crash left is opened, and the disk is full for one moment, or fails once: at every call. What met
/// a full disk is called again and has all that there was; only a frame's own write is more than that.
#[test]
fn a_finish_is_called_again_whichever_call_found_no_room() {
    let (mut again, mut again_cut, mut over) = (0, 0, 0);
    for seed in 0..200 {
        let image = crashed(seed);
        for effect in [Effect::NoSpace, Effect::Eio] {
            let outcomes = (0..200).map(|call| finish_twice(&image, effect, call));
            for (outcome, was_cut) in outcomes.take_while(|(found, _)| *found != Finish::NotStruck)
            {
                again += u32::from(outcome == Finish::Again);
                again_cut += u32::from(outcome == Finish::Again && was_cut);
                over += u32::from(outcome == Finish::Over);
            }
        }
    }
    assert!(again_cut > 50 && again > again_cut && over > 100, "{again} {again_cut} {over}");
}
