//! A disk that says nothing of what it did wrong.

use crate::script::{Script, end_of, frame_of, options};
use wal::{Error, ErrorKind, Lsn};
use wal_sim::{
    Disk, DiskOptions, Effect, Fault, Image, Model, Random, Recovered, Said, Verb, World,
};

/// What an open of `image` answers.
fn recover(image: &Image) -> Result<Recovered, Error> {
    let world = World::new(1);
    let disk = Disk::of_image(&world, image);
    let found = world.run(|| {
        let mut replay = options().open_in(disk)?;
        Recovered::read(&mut replay)
    });
    found.unwrap()
}

/// A log of a few segments, each record in a frame of its own, closed.
fn closed_log(disk: &Disk) -> (Vec<(Lsn, usize)>, Vec<Said>) {
    let mut script = Script::open(disk, &options()).unwrap();
    let records = (0..14).map(|step| {
        let bytes = 100 + 160 * (step % 6);
        (script.append(bytes).unwrap(), bytes)
    });
    let records = records.collect();
    script.close().unwrap();
    (records, script.said)
}

fn on_a_disk<T>(disk: &Disk, work: impl FnOnce() -> T) -> T {
    disk.world().run(work).unwrap()
}

/// One byte of an acknowledged record rots. Cutting the log there would throw away all that follows:
/// it is refused, and the error names the frame that the byte is in.
#[test]
fn rot_in_the_middle_is_refused_with_its_place() {
    let disk = Disk::new(&World::new(2), &DiskOptions::new());
    let (records, said) = on_a_disk(&disk, || closed_log(&disk));
    let image = disk.image();
    let model = Model::of(&said);
    let mut refused = 0;
    for (lsn, bytes) in records {
        let segment = lsn.get() / 8192;
        let name = format!("slot-{segment:06}");
        let (first, end) = (frame_of(lsn) % 8192, (end_of(lsn, bytes) - 1) % 8192 + 1);
        for place in (first..end).step_by(37).chain([end - 1]) {
            let mut rotten = image.clone();
            let mask = u8::try_from(1 + place % 255).unwrap();
            assert!(rotten.flip(&name, usize::try_from(place).unwrap(), mask));
            match recover(&rotten) {
                // Only what does not matter.
                Ok(found) => model.check(&found).unwrap_or_else(|what| panic!("{place}: {what}")),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    // Where the segment before is full, the place between the two is its end.
                    let found = error.lsn().unwrap().get();
                    let is_first = first == 512 && found == segment * 8192;
                    assert!(found == frame_of(lsn) || is_first, "byte {place}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// All of the rest of the disk, byte after byte: whatever rots, the log is refused or is whole.
#[test]
fn rot_anywhere_is_refused_or_harmless() {
    let disk = Disk::new(&World::new(2), &DiskOptions::new());
    let (_, said) = on_a_disk(&disk, || closed_log(&disk));
    let image = disk.image();
    let model = Model::of(&said);
    let mut harmless = 0;
    for name in image.names() {
        let bytes = image.read(&name).unwrap().len();
        for place in (0..bytes).step_by(53) {
            let mut rotten = image.clone();
            assert!(rotten.flip(&name, place, 0x10));
            match recover(&rotten) {
                Ok(mut found) => {
                    harmless += 1;
                    // The close frame vouches for others and nobody vouches for it.
                    found.clean_close = true;
                    // It may be cut, and is no record.
                    let last = found.records.last().unwrap();
                    let records_end = end_of(last.lsn, last.payload.len());
                    found.tail = found.tail.max(Lsn::new(records_end.next_multiple_of(512) + 512));
                    model.check(&found).unwrap_or_else(|what| panic!("{name} {place}: {what}"));
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} {place}: {error}")
                }
            }
        }
    }
    assert!(harmless > 20, "{harmless}");
}

/// A write that the disk acknowledged and never did, and one that it did elsewhere. What follows
/// proves that it was durable: refused, at the place where it should be.
#[test]
fn lost_and_misdirected_writes_are_refused_with_their_place() {
    for effect in [Effect::Lost, Effect::Misdirected(512), Effect::Misdirected(3 * 512)] {
        for write in 2..9 {
            let disk = Disk::new(&World::new(3), &DiskOptions::new().depth(1));
            let lost = on_a_disk(&disk, || {
                let mut script = Script::open(&disk, &options()).unwrap();
                let mut lost = None;
                for step in 0..10 {
                    if step == write {
                        let fault = Fault::new(effect).on(Verb::WriteDurable);
                        disk.plant(fault.in_file("slot-000000"));
                    }
                    let struck = disk.faults_struck();
                    let lsn = script.append(200).unwrap();
                    if disk.faults_struck() > struck {
                        lost = Some(lsn);
                    }
                }
                script.close().unwrap();
                lost
            });
            let lost = lost.unwrap();
            let error = recover(&disk.image()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{effect:?}: {error}");
            assert_eq!(error.offset(), Some(frame_of(lost)), "{effect:?}: {error}");
        }
    }
}

/// A slot is used again, and the disk acknowledges the header of its new segment and never writes it. The
/// one that it had says that the segment was released: the slot was taken for free, and the newest segment,
/// acknowledged and with proof, was gone without a word.
#[test]
fn a_lost_header_of_a_recycled_slot_is_refused_with_its_place() {
    for effect in [Effect::Lost, Effect::Misdirected(4 * 512)] {
        let disk = Disk::new(&World::new(4), &DiskOptions::new());
        let segment = on_a_disk(&disk, || {
            let mut script = Script::open(&disk, &options()).unwrap();
            while script.wal.stats().segments_created < 2 {
                script.append(300).unwrap();
            }
            // The first slot becomes free, and is used for a segment again.
            disk.plant(Fault::new(effect).on(Verb::WriteDurable).in_file("slot-000000"));
            script.checkpoint().unwrap();
            while disk.faults_struck() == 0 {
                script.append(300).unwrap();
            }
            let segment = script.wal.durable_lsn().get() / 8192 + 1;
            let mut last = Lsn::ZERO;
            while script.wal.durable_lsn().get() < segment * 8192 + 2048 {
                last = script.append(300).unwrap();
            }
            assert_eq!(last.get() / 8192, segment);
            segment
        });
        let error = recover(&disk.image()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{effect:?}: {error}");
        assert!(error.path().is_some_and(|path| path.ends_with("slot-000000")), "{error}");
        assert_eq!(error.offset(), Some(0), "{error}");
        assert_eq!(error.lsn(), Some(Lsn::new(segment * 8192)), "{error}");
    }
}

/// A disk whose flush lies breaks the one promise that nothing above it can mend. This is what it
/// looks like, and that the simulation shows it.
#[test]
fn a_lying_disk_loses_what_was_acknowledged() {
    let mut lost = 0;
    for seed in 0..40 {
        let disk = Disk::new(&World::new(seed), &DiskOptions::new());
        let said = on_a_disk(&disk, || {
            let mut script = Script::open(&disk, &options()).unwrap();
            disk.plant(Fault::new(Effect::Lie).sticky());
            for _ in 0..4 {
                script.append(300).unwrap();
            }
            script.said
        });
        let found = recover(&disk.crash(&mut Random::new(seed)));
        let is_kept = found.is_ok_and(|found| Model::of(&said).check(&found).is_ok());
        lost += u32::from(!is_kept);
    }
    assert!(lost > 20, "{lost} of 40");
}
