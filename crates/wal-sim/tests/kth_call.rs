//! Each call of the disk fails once, and from then on, for every call that a program makes which
//! fills segments and uses them again.

use crate::script::{Script, options};
use wal::io::DurableMethod;
use wal_sim::{Disk, DiskOptions, Effect, Fault, Model, Random, Recovered, Said, World};

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
    for effect in [Effect::Eio, Effect::NoSpace, Effect::Short, Effect::EioButDone] {
        for call in 0..clean.calls {
            for fault in [Fault::new(effect), Fault::new(effect).sticky()] {
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
/// process that goes on and after a crash.
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
