//! What the model says of logs that are wrong: an oracle that is content with anything finds
//! nothing.

use crate::script::{Script, options};
use wal::Lsn;
use wal_sim::{Disk, DiskOptions, Model, Recovered, Said, World};

/// A log with five batches, the second of three records, and a checkpoint in the middle; and what its
/// program said.
fn log() -> (Vec<Said>, Recovered) {
    let disk = Disk::new(&World::new(1), &DiskOptions::new());
    let told = disk.world().run(|| {
        let mut script = Script::open(&disk, &options()).unwrap();
        script.append(100).unwrap();
        script.append_batch(&[10, 20, 30]).unwrap();
        script.checkpoint_at(Lsn::ZERO).unwrap();
        for bytes in [40, 50, 60] {
            script.append(bytes).unwrap();
        }
        script.close().unwrap();
        script.said
    });
    let again = Disk::of_image(&World::new(2), &disk.image());
    let found = again.world().run(|| {
        let mut replay = options().open_in(again.clone()).unwrap();
        Recovered::read(&mut replay).unwrap()
    });
    (told.unwrap(), found.unwrap())
}

fn complaint(change: impl FnOnce(&mut Vec<Said>, &mut Recovered)) -> String {
    let (mut said, mut found) = log();
    change(&mut said, &mut found);
    Model::of(&said).check(&found).unwrap_err()
}

/// Nothing of what was acknowledged counts as acknowledged.
fn forget_acknowledgements(said: &mut Vec<Said>) {
    said.retain(|said| {
        !matches!(said, Said::Acknowledged { .. } | Said::Durable(_) | Said::Closed)
    });
}

#[test]
fn a_log_that_is_right_is_right() {
    let (said, found) = log();
    assert_eq!(found.records.len(), 7);
    Model::of(&said).check(&found).unwrap();
}

#[test]
fn what_was_acknowledged_and_is_gone_is_lost() {
    let text = complaint(|_, found| drop(found.records.pop()));
    assert!(text.contains("was acknowledged and is lost"), "{text}");
    let text = complaint(|said, found| {
        forget_acknowledgements(said);
        said.push(Said::Durable(found.tail));
        drop(found.records.pop());
    });
    assert!(text.contains("was acknowledged and is lost"), "{text}");
}

#[test]
fn what_was_not_acknowledged_may_be_gone_from_the_end_only() {
    let (mut said, mut found) = log();
    forget_acknowledgements(&mut said);
    while found.records.len() > 4 {
        found.records.pop();
        Model::of(&said).check(&found).unwrap();
    }
    let text = complaint(|said, found| {
        forget_acknowledgements(said);
        drop(found.records.remove(4));
    });
    assert!(text.starts_with("expected a record of batch"), "{text}");
}

#[test]
fn a_batch_is_whole_or_not_there() {
    let text = complaint(|said, found| {
        said.retain(|said| !matches!(said, Said::CheckpointPlaced(_)));
        said.retain(|said| !matches!(said, Said::CheckpointAcknowledged));
        forget_acknowledgements(said);
        found.checkpoint = None;
        found.records.truncate(2);
    });
    assert!(text.starts_with("a batch is cut in two"), "{text}");
    let text = complaint(|_, found| found.records[1].ends_batch = true);
    assert!(text.contains("ends its batch: expected false, found true"), "{text}");
}

#[test]
fn other_bytes_and_other_places_are_wrong() {
    let text = complaint(|_, found| found.records[5].payload[9] ^= 1);
    assert!(text.contains("has other bytes: the first that differs is number 9"), "{text}");
    let text = complaint(|_, found| found.records[5].payload.truncate(49));
    assert!(text.contains("has other bytes: expected 50 bytes, found 49"), "{text}");
    let text = complaint(|_, found| found.records[5].lsn = Lsn::new(1));
    assert!(text.starts_with("expected a record of batch"), "{text}");
}

#[test]
fn what_nobody_wrote_and_what_was_rolled_back_is_wrong() {
    let text = complaint(|_, found| {
        let mut more = found.records[6].clone();
        more.lsn = Lsn::new(more.lsn.get() + 512);
        found.records.push(more);
    });
    assert!(text.ends_with("is there, and nobody wrote it"), "{text}");
    let text = complaint(|said, _| {
        let last = said.iter().rev().find_map(|said| match said {
            Said::Begun { batch, .. } => Some(*batch),
            _ => None,
        });
        said.push(Said::Void { batch: last.unwrap() });
    });
    assert!(text.ends_with("is there, and nobody wrote it"), "{text}");
}

/// A first recovery cut the last record; a second one finds it again.
#[test]
fn what_a_recovery_cut_never_comes_back() {
    let text = complaint(|said, found| {
        forget_acknowledgements(said);
        let mut cut = found.clone();
        cut.records.pop();
        said.extend([Said::Found(cut.into()), Said::Finished]);
    });
    assert!(text.ends_with("is there, and nobody wrote it"), "{text}");
}

/// And what it found is there for good.
#[test]
fn what_a_recovery_found_is_acknowledged() {
    let text = complaint(|said, found| {
        forget_acknowledgements(said);
        said.push(Said::Found(found.clone().into()));
        drop(found.records.pop());
    });
    assert!(text.contains("was acknowledged and is lost"), "{text}");
}

#[test]
fn what_a_reader_saw_is_durable_and_was_written() {
    let text = complaint(|said, found| {
        forget_acknowledgements(said);
        let record = found.records.pop().unwrap();
        said.push(Said::Seen { lsn: record.lsn, payload: record.payload });
    });
    assert!(text.contains("was acknowledged and is lost"), "{text}");
    let text = complaint(|said, found| {
        let lsn = found.records[0].lsn;
        said.push(Said::Seen { lsn, payload: b"never".to_vec() });
    });
    assert!(text.contains("that nobody wrote there"), "{text}");
}

#[test]
fn checkpoints_are_neither_lost_nor_made_up() {
    let text = complaint(|_, found| found.checkpoint = None);
    assert!(text.starts_with("the checkpoint with start mark 0 is lost"), "{text}");
    // Not even one that nobody was told of, if a later record is there.
    let text = complaint(|said, found| {
        said.retain(|said| !matches!(said, Said::CheckpointAcknowledged));
        found.checkpoint = None;
    });
    assert!(text.starts_with("the checkpoint with start mark 0 is lost"), "{text}");
    let text = complaint(|_, found| found.checkpoint = Some((Lsn::new(9), Vec::new())));
    assert!(text.ends_with("that nobody made"), "{text}");
}

/// A close whose closing frame is lost is no close: the next open could not tell it from a crash.
#[test]
fn a_log_that_was_closed_says_so() {
    let text = complaint(|_, found| found.clean_close = false);
    assert_eq!(text, "the log was closed, and says that it was not");
    // What was torn long ago may stand behind the closing frame, and is cut there; that frame is not.
    let (said, mut found) = log();
    (found.clean_close, found.was_cut) = (false, true);
    Model::of(&said).check(&found).unwrap();
    let text = complaint(|_, found| {
        (found.clean_close, found.was_cut) = (false, true);
        found.tail = found.records.last().unwrap().lsn;
    });
    assert!(text.contains("but was durable up to"), "{text}");
}

/// What no ticket was asked for is durable once the log is closed.
#[test]
fn a_close_acknowledges_what_was_placed() {
    let text = complaint(|said, found| {
        forget_acknowledgements(said);
        said.push(Said::Closed);
        drop(found.records.pop());
    });
    assert!(text.contains("was acknowledged and is lost"), "{text}");
    let text = complaint(|said, found| {
        said.retain(|said| !matches!(said, Said::CheckpointAcknowledged | Said::Durable(_)));
        found.checkpoint = None;
        found.records.clear();
    });
    assert!(text.contains("is lost"), "{text}");
}
