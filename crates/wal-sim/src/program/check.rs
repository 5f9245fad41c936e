//! Every later life: recovering, comparing, and going on a little.

use super::{Settings, damaged, settings, write::Writer};
use crate::{
    explore::Life,
    model::{Model, Recovered, Said},
};
use std::{sync::Arc, time::Duration};
use wal::{
    ErrorKind, Lsn, OpenReport, Options, OwnedRecord, Verdict, VerifyVerdict, Wal, io::Storage,
};

/// Recovers the log and says what is wrong with it, if anything is.
pub(super) fn check<S: Storage + Clone>(life: &Life<Said>, storage: &S) -> Result<(), String> {
    if let Some(damage) = life.damage() {
        return damaged::check(life, storage, damage);
    }
    let mut random = life.random(0);
    let Settings { options, is_capped } = settings(storage, &mut life.shared_random(0));
    if life.number() > 1 {
        life.reach("died again");
        if !was_ever_open(life) {
            life.reach("died again before the first recovery was over");
        }
    }
    let read_only = if random.one_in(4) { Some(read_only(life, storage)?) } else { None };
    let anchored = random.one_in(4);
    let options = if anchored { anchor(life, options) } else { options };
    let (wal, found) = open(life, storage, &options)?;
    if let Some(Some(records)) = read_only
        && records != found.records
    {
        return Err(format!(
            "a read-only open found {} records, one for writing {}",
            records.len(),
            found.records.len()
        ));
    }
    if random.one_in(3) {
        // A process that ends and is started again finds the same.
        drop(wal);
        let (wal, again) = open(life, storage, &options)?;
        if again.records != found.records || again.checkpoint != found.checkpoint {
            return Err(format!(
                "a second recovery found {} records, the first {}",
                again.records.len(),
                found.records.len()
            ));
        }
        return go_on(life, wal, is_capped, random.next());
    }
    go_on(life, wal, is_capped, random.next())
}

fn was_ever_open(life: &Life<Said>) -> bool {
    life.past().iter().any(|said| matches!(said, Said::Finished))
}

/// A few records more: what a later crash cuts may not come back among them.
fn go_on<S: Storage>(
    life: &Life<Said>,
    wal: Wal<S>,
    is_capped: bool,
    seed: u64,
) -> Result<(), String> {
    let mut random = crate::random::Random::new(seed);
    if !random.one_in(4) {
        return Ok(());
    }
    let wal = Arc::new(wal);
    let first = u64::from(life.number()) * 10_000_000_000;
    let steps = random.between(1, 5);
    Writer::new(life, &wal, first, random.next()).write(steps);
    life.reach("went on after a crash");
    if random.one_in(2) {
        wal.close().map_err(|error| format!("close: {error}"))?;
        note_closed(life, &wal, is_capped);
    }
    Ok(())
}

/// The closing frame is durable. Where the log is capped there may be no room for it.
pub(super) fn note_closed<S: Storage>(life: &Life<Said>, wal: &Wal<S>, is_capped: bool) {
    life.note(Said::Durable(wal.durable_lsn()));
    if !is_capped {
        life.note(Said::Closed);
    }
}

/// Opens the log for writing, compares what it holds with what was said, and says what it found.
pub(super) fn open<S: Storage + Clone>(
    life: &Life<Said>,
    storage: &S,
    options: &Options,
) -> Result<(Wal<S>, Arc<Recovered>), String> {
    let opened = match options.clone().lock_timeout(Duration::ZERO).open_in(storage.clone()) {
        // The last write of the handle that was dropped is still under way.
        Err(error) if error.kind() == ErrorKind::Locked => {
            life.reach("an open came before the last write had ended");
            options.open_in(storage.clone())
        }
        opened => opened,
    };
    let mut replay = opened.map_err(|error| format!("open: {error}"))?;
    let found = Recovered::read(&mut replay).map_err(|error| format!("replay: {error}"))?;
    let found = Arc::new(found);
    let model = Model::of(&life.said());
    model.check(&found)?;
    note_what_is_rare(life, replay.report(), &model, &found);
    life.note(Said::Found(Arc::clone(&found)));
    let (wal, report) = replay.finish().map_err(|error| format!("finish: {error}"))?;
    life.note(Said::Finished);
    if report.tail != found.tail {
        return Err(format!("the tail moved from {} to {}", found.tail, report.tail));
    }
    Ok((wal, found))
}

/// What a read-only open finds; `None` where there is no log yet.
fn read_only<S: Storage + Clone>(
    life: &Life<Said>,
    storage: &S,
) -> Result<Option<Vec<OwnedRecord>>, String> {
    let mut log = match Options::new().open_read_only_in(storage.clone()) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("read-only open: {error}")),
    };
    let failed = |error| format!("read-only: {error}");
    let verified = log.verify().map_err(failed)?;
    if verified.verdict == VerifyVerdict::Corrupt {
        return Err(format!("verify: {:?}", verified.damage));
    }
    let mut proved = log.records_from(Lsn::ZERO).map_err(failed)?;
    let mut proved_count = 0;
    while proved.next().map_err(failed)?.is_some() {
        proved_count += 1;
    }
    let mut records = log.records_from_including_unproved(Lsn::ZERO).map_err(failed)?;
    let mark = records.durable_mark();
    let mut found = Vec::new();
    while let Some(record) = records.next().map_err(failed)? {
        found.push(OwnedRecord::from(record));
    }
    let below = found.iter().filter(|record| record.lsn < mark).count();
    if below != proved_count {
        return Err(format!("read-only: {proved_count} of {below} records below {mark}"));
    }
    life.reach("read only");
    Ok(Some(found))
}

/// With the last place that was acknowledged as an anchor, the log opens all the same.
fn anchor(life: &Life<Said>, options: Options) -> Options {
    let model = Model::of(&life.said());
    match model.last_acknowledged(&Recovered::default()) {
        Some(lsn) => options.expect_at_least(lsn),
        None => options,
    }
}

fn note_what_is_rare(life: &Life<Said>, report: &OpenReport, model: &Model, found: &Recovered) {
    let rare = [
        (report.created && life.number() > 0, "died before there was a log"),
        (report.verdict == Verdict::TornTail, "a torn tail was cut"),
        (report.cut.as_ref().is_some_and(|cut| cut.intact_frames > 0), "intact frames above a cut"),
        (report.clean_close && life.number() > 0, "died after a clean close"),
        (report.segments > 1, "more than one segment"),
        (report.start_mark > Lsn::ZERO, "a checkpoint had released something"),
        (report.free_slots > 1, "more than one free slot"),
        (model.has_unacknowledged(found), "a record survived that nobody was told of"),
        (model.has_lost(found), "a record was lost that nobody was told of"),
        (model.has_lost_checkpoint(found), "a checkpoint was lost that nobody was told of"),
        (report.foreign_files.is_empty() && report.epoch > 3, "the fourth epoch or a later one"),
    ];
    for (happened, what) in rare {
        if happened {
            life.reach(what);
        }
    }
}
