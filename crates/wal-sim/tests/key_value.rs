//! A key-value store built on the log, as somebody would who embeds it; and the ways to get its
//! recovery wrong.

use std::collections::BTreeMap;
use wal::{Lsn, Options, Wal};
use wal_sim::{Disk, DiskOptions, Explorer, Failure, Life};

/// What the store told its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// It will be put.
    Begun(u8, u8),
    /// It was put.
    Done(u8, u8),
}

/// How the store is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    Nothing,
    /// Tells the client before the log has answered.
    TellsEarly,
    /// Forgets the map that its checkpoints carry.
    ForgetsCheckpoint,
    /// Checkpoints what is not in the map yet.
    ReleasesTooMuch,
    /// Applies the two halves of a swap by themselves.
    SwapsInTwo,
}

struct Store {
    wal: Wal<Disk>,
    map: BTreeMap<u8, u8>,
    end: Lsn,
    bug: Bug,
}

impl Store {
    fn open(disk: &Disk, bug: Bug) -> Self {
        let options = Options::new()
            .block_bytes(512)
            .segment_bytes(16 * 512)
            .frame_bytes(16 << 10)
            .pool_bytes(32 << 10);
        let mut replay = options.open_in(disk.clone()).unwrap();
        let mut map = BTreeMap::new();
        if let Some(checkpoint) = replay.checkpoint()
            && bug != Bug::ForgetsCheckpoint
        {
            map.extend(checkpoint.state.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        let mut end = replay.start_mark();
        while let Some(record) = replay.next().unwrap() {
            map.insert(record.payload()[0], record.payload()[1]);
            end = record.next_lsn();
        }
        let (wal, _) = replay.finish().unwrap();
        Self { wal, map, end, bug }
    }

    fn put(&mut self, life: &Life<Told>, pairs: &[(u8, u8)]) {
        for (key, value) in pairs {
            life.note(Told::Begun(*key, *value));
        }
        let mut batch = self.wal.batch();
        for (key, value) in pairs {
            // Some bulk, so that segments fill.
            let mut record = vec![0; 400];
            record[..2].copy_from_slice(&[*key, *value]);
            if self.bug == Bug::SwapsInTwo {
                let _ = self.wal.append(&record).unwrap().wait().unwrap();
            } else {
                batch.push(&record).unwrap();
            }
        }
        let tell = || pairs.iter().for_each(|(key, value)| life.note(Told::Done(*key, *value)));
        if self.bug == Bug::TellsEarly {
            tell();
        }
        if !batch.is_empty() {
            let ticket = batch.append().unwrap();
            let last = ticket.last_lsn();
            ticket.wait().unwrap();
            self.end = Lsn::new(last.get() + 408);
        }
        tell();
        self.map.extend(pairs.iter().copied());
    }

    fn checkpoint(&self) {
        let state: Vec<u8> = self.map.iter().flat_map(|(key, value)| [*key, *value]).collect();
        if self.bug == Bug::ReleasesTooMuch {
            let _ = self.wal.append(&[0; 4]).unwrap().wait().unwrap();
            self.wal.checkpoint(self.wal.durable_lsn(), &[]).unwrap().wait().unwrap();
            return;
        }
        self.wal.checkpoint(self.end, &state).unwrap().wait().unwrap();
    }
}

/// Keys 1 and 2 always hold the same number, once there is one; others one each.
fn work(life: &Life<Told>, bug: Bug) {
    let mut store = Store::open(&life.disk(), bug);
    for step in 1..=life.steps().min(200) {
        let value = u8::try_from(step).unwrap();
        match step % 4 {
            0 => store.checkpoint(),
            1 => store.put(life, &[(1, value), (2, value)]),
            _ => store.put(life, &[(3 + value % 8, value)]),
        }
    }
}

fn check(life: &Life<Told>, bug: Bug) -> Result<(), String> {
    let store = Store::open(&life.disk(), bug);
    // What was done last of each key is there, or something that was begun after it.
    let mut allowed: BTreeMap<u8, Vec<Option<u8>>> = BTreeMap::new();
    for told in life.past() {
        match told {
            Told::Begun(key, value) => {
                allowed.entry(*key).or_insert_with(|| vec![None]).push(Some(*value));
            }
            Told::Done(key, value) => {
                allowed.insert(*key, vec![Some(*value)]);
            }
        }
    }
    for (key, allowed) in allowed {
        let found = store.map.get(&key).copied();
        if !allowed.contains(&found) {
            return Err(format!("key {key}: expected one of {allowed:?}, found {found:?}"));
        }
    }
    if store.map.get(&1) != store.map.get(&2) {
        return Err(format!("half a swap: {:?}", store.map));
    }
    Ok(())
}

fn explore(bug: Bug) -> Result<u64, Failure> {
    let explorer = Explorer::new(8).states(3000).steps(24).disk(DiskOptions::new());
    let coverage = explorer.explore(|life| work(life, bug), |life| check(life, bug))?;
    Ok(coverage.states())
}

#[test]
fn a_store_that_is_right_passes() {
    assert!(explore(Bug::Nothing).unwrap() >= 3000);
}

#[test]
fn a_store_that_tells_early_is_found() {
    let failure = explore(Bug::TellsEarly).unwrap_err();
    assert!(failure.what().starts_with("key "), "{failure}");
}

#[test]
fn a_store_that_forgets_its_checkpoint_is_found() {
    explore(Bug::ForgetsCheckpoint).unwrap_err();
}

#[test]
fn a_store_that_releases_too_much_is_found() {
    explore(Bug::ReleasesTooMuch).unwrap_err();
}

#[test]
fn a_store_that_swaps_in_two_is_found() {
    let failure = explore(Bug::SwapsInTwo).unwrap_err();
    assert!(failure.what().starts_with("half a swap"), "{failure}");
}
