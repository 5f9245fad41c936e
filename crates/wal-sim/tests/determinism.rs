//! One seed decides everything.

use crate::script::{Script, options};
use std::sync::Arc;
use wal::io::Host as _;
use wal_sim::{Disk, DiskOptions, Explorer, Image, Life, LogProgram, Random, Said, World};

/// A log to begin with. When it was created is the one thing in it that no seed decides.
fn beginning() -> Image {
    let world = World::new(1);
    let disk = Disk::new(&world, &DiskOptions::new());
    world.run(|| Script::open(&disk, &options()).unwrap().wal.close().unwrap()).unwrap();
    disk.image()
}

fn live(image: &Image, seed: u64) -> (u64, u64, u128) {
    let world = World::new(seed);
    let disk = Disk::of_image(&world, image);
    world
        .run(|| {
            let script = Script::open(&disk, &options()).unwrap();
            let wal = Arc::new(script.wal);
            let writers: Vec<_> = (0..4_u8)
                .map(|writer| {
                    let wal = Arc::clone(&wal);
                    world.spawn(&format!("writer-{writer}"), move || {
                        let mut random = Random::new(u64::from(writer));
                        for _ in 0..12 {
                            let payload = vec![writer; random.index(900)];
                            let ticket = wal.append(&payload).unwrap();
                            if random.one_in(2) {
                                ticket.wait().unwrap();
                            }
                        }
                    })
                })
                .collect();
            writers.into_iter().for_each(wal_sim::Spawned::join);
            wal.close().unwrap();
        })
        .unwrap();
    (disk.digest(), world.switches(), world.now().as_nanos())
}

/// A failure that cannot be had again cannot be mended.
#[test]
fn the_same_seed_gives_the_same_history() {
    let image = beginning();
    let mut digests: Vec<u64> = (0..20)
        .map(|seed| {
            let first = live(&image, seed);
            assert_eq!(first, live(&image, seed), "seed {seed}");
            first.0
        })
        .collect();
    digests.sort_unstable();
    digests.dedup();
    assert!(digests.len() > 15, "seeds hardly matter: {} histories of 20", digests.len());
}

/// What an exploration does depends on its seed alone.
#[test]
fn the_same_seed_explores_the_same() {
    let explore = || {
        let explorer = Explorer::new(5).states(600);
        LogProgram::new(|disk| disk).explore(&explorer).unwrap().to_string()
    };
    assert_eq!(explore(), explore());
}

/// The line that a failure prints leads back to it.
#[test]
fn a_failure_is_found_again_by_its_line() {
    let program = LogProgram::new(|disk| disk);
    let work = |life: &Life<Said>| program.work(life);
    // A check that is never content with a log that holds ten records.
    let check = |life: &Life<Said>| {
        let placed = life.past().iter().filter(|said| matches!(said, Said::Placed { .. }));
        if placed.count() > 10 { Err("more than ten".to_owned()) } else { Ok(()) }
    };
    let explorer = Explorer::new(3).states(5000);
    let failure = explorer.explore(work, check).unwrap_err();
    assert_eq!(failure.what(), "more than ten");
    let place = failure.place().to_string().parse().unwrap();
    let again = explorer.replay(&place, work, check).unwrap_err();
    assert_eq!((again.what(), again.place()), (failure.what(), failure.place()));
    assert_eq!(again.story(), failure.story());
    assert!(explorer.replay(&place, work, |_| Ok(())).is_ok());
}
