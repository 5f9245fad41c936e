//! The log's own recovery, from every state that the disk can be left in.
//!
//! `WAL_SIM_STATES` says how many states are checked, `WAL_SIM_SEED` which. `examples/explore.rs` is
//! the same as a command, for millions.

use crate::script::{Script, options};
use aligned::Buffer;
use std::{env, thread, time::Duration};
use wal::{
    ErrorKind, Lsn, VerifyVerdict,
    io::{File as _, Host as _, Storage as _},
};
use wal_sim::{Disk, DiskOptions, Explorer, Image, Life, LogProgram, Random, World};

/// What an exploration of any size has to have come across: else it tests less than it says.
const RARE: &[&str] = &[
    "a checkpoint had released something",
    "a checkpoint was lost that nobody was told of",
    "a follower saw a record",
    "a log was latched",
    "a record survived that nobody was told of",
    "a record was lost that nobody was told of",
    "a slot was used again",
    "a flush that lied was noticed",
    "a torn tail was cut",
    "a writer gave a record up",
    "an append was refused for want of room",
    "an open failed, and the next one did not",
    "died after a clean close",
    "died again",
    "died again before the first recovery was over",
    "died before there was a log",
    "intact frames above a cut",
    "more than one segment",
    "read only",
    "silent damage did no harm",
    "silent damage was cut where nothing vouched",
    "silent damage was refused with its place",
    "went on after a crash",
];

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Power fails at any moment, and again while the log recovers, and again: nothing acknowledged is
/// lost, nothing else appears, and no log is refused.
#[test]
fn every_state_recovers() {
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(8));
    let explorer = Explorer::new(number("WAL_SIM_SEED", 20))
        .states(number("WAL_SIM_STATES", 12_000))
        .states_per_life(150)
        .steps(80)
        .silent()
        .threads(threads);
    let coverage = match LogProgram::new(|disk| disk).explore(&explorer) {
        Ok(coverage) => coverage,
        Err(failure) => panic!("{}\n{failure}", failure.story().join("\n")),
    };
    println!("{coverage}");
    for what in RARE {
        assert!(coverage.count(what) > 0, "never happened: {what}\n{coverage}");
    }
}

/// A whole log is put in its place by a copy, which nobody syncs. It is opened, a record is acknowledged,
/// and the power goes: all slots were flushed before anything was acknowledged, and the identity was not.
/// A log without it is refused for ever, acknowledged record and all.
#[test]
fn a_log_that_was_just_copied_here_keeps_its_identity() {
    let on_disk = |seed, work: &dyn Fn(&Disk)| {
        let disk = Disk::new(&World::new(seed), &DiskOptions::new());
        disk.world().run(|| work(&disk)).unwrap();
        disk
    };
    let original = on_disk(1, &|disk| {
        let mut script = Script::open(disk, &options()).unwrap();
        script.append(100).unwrap();
        script.close().unwrap();
    });
    let original = original.image();
    for seed in 0..50 {
        let disk = on_disk(seed, &|disk| {
            copy(&original, disk);
            let wal = open(disk);
            wal.append(b"acknowledged").unwrap().wait().unwrap();
        });
        let image = disk.crash(&mut Random::new(seed));
        let disk = Disk::of_image(&World::new(seed), &image);
        let last = disk.world().run(|| open(&disk).read_from(Lsn::ZERO).unwrap().last());
        let last = last.unwrap().unwrap().unwrap();
        assert_eq!(last.payload, b"acknowledged", "seed {seed}");
    }
}

/// The power fails while a log is being made, on a file system that keeps names in any combination. What was
/// not finished is begun again; but an identity whose slots have lost their names is a log that lost
/// everything, and refused for ever.
#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let open = |life: &Life<u64>| -> wal::Result<()> {
        let mut replay = options().open_in(life.disk())?;
        life.reach(if replay.report().created { "it is made" } else { "it is there" });
        replay.skip_rest();
        replay.finish().map(drop)
    };
    let explorer = Explorer::new(0).disk(DiskOptions::new().any_names()).states(3000);
    let explored = explorer.explore(
        move |life| drop(open(life)),
        move |life| open(life).map_err(|error| error.to_string()),
    );
    let coverage = match explored {
        Ok(coverage) => coverage,
        Err(failure) => panic!("{}\n{failure}", failure.story().join("\n")),
    };
    assert!(
        coverage.count("it is made") > 100 && coverage.count("it is there") > 100,
        "{coverage}"
    );
}

fn open(disk: &Disk) -> wal::Wal<Disk> {
    let mut replay = options().open_in(disk.clone()).unwrap();
    while replay.next().unwrap().is_some() {}
    replay.finish().unwrap().0
}

fn copy(image: &Image, disk: &Disk) {
    disk.create().unwrap();
    for name in image.names() {
        let bytes = image.read(&name).unwrap();
        let file = disk.create_file(&name).unwrap();
        let mut buffer = Buffer::zeroed(disk.alignment(), bytes.len()).unwrap();
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(&bytes);
        file.write_at(&buffer.as_mut_slice()[..bytes.len()], 0).unwrap();
    }
}

/// A log goes idle, and while the frame that confirms it is being written, it is closed: all records are
/// durable, so the closing frame is written beside the other, and the power cut leaves only that. The
/// log is merely torn, and an open for writing said so; but every reader took the closing frame's place
/// for proof that all before it was durable, and called the log corrupt.
#[test]
fn a_close_beside_a_lost_confirmation_is_no_damage_to_a_reader() {
    let work = |life: &Life<u64>| {
        let options =
            options().confirm_after(Duration::from_micros(300)).linger(Duration::from_micros(100));
        let Ok(mut script) = Script::open(&life.disk(), &options) else { return };
        script.append(100).unwrap();
        life.world().sleep(Duration::from_micros(200 + life.random(7).below(400)));
        script.close().unwrap();
    };
    let check = |life: &Life<u64>| {
        let mut log = match options().open_read_only_in(life.disk()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            answer => answer.map_err(|error| error.to_string())?,
        };
        let verified = log.verify().map_err(|error| error.to_string())?;
        if verified.verdict == VerifyVerdict::Corrupt {
            return Err(format!("verify: {:?}", verified.damage));
        }
        let (mark, tail) = (log.durable_mark(), log.tail());
        let mut records = log.records_from(Lsn::ZERO).map_err(|error| error.to_string())?;
        loop {
            match records.next() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(format!("mark {mark:?}, tail {tail:?}: {error}")),
            }
        }
    };
    if let Err(failure) = Explorer::new(0).states(3000).explore(work, check) {
        panic!("{}\n{failure}", failure.what());
    }
}
