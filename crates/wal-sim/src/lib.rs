/*!
A simulated disk that can fail in every way, and a harness that finds what a program loses on it.

It is what the log of [`wal`] is tested with, and it is for programs that embed the log: their recovery
has to be tested as well. A program is run once on a [`Disk`], in a [`World`] whose time, chance and
threads are a seed's; then [`Explorer`] has it die at every moment of that run, in every way in which
the disk may keep or lose what was not durable, and checks its recovery each time: thousands of states a
second. A failure is shrunk, and told in one line that leads back to it.

# Example: a key-value store

The store puts each pair into the log; a checkpoint carries the whole map and frees the log before it.

```
use std::collections::BTreeMap;
use wal::{Lsn, Options, Wal};
use wal_sim::{Disk, Explorer, Life};

struct Store {
    wal: Wal<Disk>,
    map: BTreeMap<u8, u8>,
}

impl Store {
    fn open(disk: Disk) -> wal::Result<Self> {
        let small = Options::new().block_bytes(512).segment_bytes(8192);
        let small = small.frame_bytes(16 << 10).pool_bytes(32 << 10);
        let mut replay = small.open_in(disk)?;
        let mut map = BTreeMap::new();
        if let Some(checkpoint) = replay.checkpoint() {
            map.extend(checkpoint.state.chunks(2).map(|pair| (pair[0], pair[1])));
        }
        while let Some(record) = replay.next()? {
            map.insert(record.payload()[0], record.payload()[1]);
        }
        Ok(Self { wal: replay.finish()?.0, map })
    }

    fn put(&mut self, key: u8, value: u8) -> wal::Result<Lsn> {
        let lsn = self.wal.append(&[key, value])?.wait()?;
        self.map.insert(key, value);
        Ok(lsn)
    }

    /// What is in the map is durable: nothing of the log is needed for it any more.
    fn checkpoint(&self) -> wal::Result<Lsn> {
        let state: Vec<u8> = self.map.iter().flat_map(|(key, value)| [*key, *value]).collect();
        self.wal.checkpoint(self.wal.durable_lsn(), &state)?.wait()
    }
}

/// What the store told its clients: that a pair was put.
type Put = (u8, u8);

fn work(life: &Life<Put>) {
    let mut store = Store::open(life.disk()).unwrap();
    for value in 1..40 {
        store.put(value % 4, value).unwrap();
        life.note((value % 4, value));
        if value % 10 == 0 {
            store.checkpoint().unwrap();
        }
    }
}

/// After a crash each key has the last value that a client was told of, or the next one.
fn check(life: &Life<Put>) -> Result<(), String> {
    let store = Store::open(life.disk()).map_err(|error| error.to_string())?;
    let told: BTreeMap<u8, u8> = life.past().iter().copied().collect();
    for (key, value) in told {
        match store.map.get(&key) {
            Some(found) if *found == value || *found == value + 4 => {}
            found => return Err(format!("key {key}: told {value}, found {found:?}")),
        }
    }
    Ok(())
}

let explorer = Explorer::new(1).states(400);
explorer.explore(work, check).unwrap();
```

The same store with its recovery broken: it forgets the map in the checkpoint. It works for as long as
nobody restarts it after a checkpoint, and is found at once:

```
# use std::collections::BTreeMap;
# use wal::{Lsn, Options, Wal};
# use wal_sim::{Disk, Explorer, Life};
# struct Store { wal: Wal<Disk>, map: BTreeMap<u8, u8> }
# impl Store {
fn open(disk: Disk) -> wal::Result<Store> {
    let small = Options::new().block_bytes(512).segment_bytes(8192);
    let small = small.frame_bytes(16 << 10).pool_bytes(32 << 10);
    let mut replay = small.open_in(disk)?;
    let mut map = BTreeMap::new();
    while let Some(record) = replay.next()? {
        map.insert(record.payload()[0], record.payload()[1]);
    }
    Ok(Store { wal: replay.finish()?.0, map })
}
#     fn put(&mut self, key: u8, value: u8) -> wal::Result<Lsn> {
#         let lsn = self.wal.append(&[key, value])?.wait()?;
#         self.map.insert(key, value);
#         Ok(lsn)
#     }
#     fn checkpoint(&self) -> wal::Result<Lsn> {
#         let state: Vec<u8> = self.map.iter().flat_map(|(key, value)| [*key, *value]).collect();
#         self.wal.checkpoint(self.wal.durable_lsn(), &state)?.wait()
#     }
# }
# fn work(life: &Life<(u8, u8)>) {
#     let mut store = Store::open(life.disk()).unwrap();
#     for value in 1..40 {
#         store.put(value % 4, value).unwrap();
#         life.note((value % 4, value));
#         if value % 10 == 0 {
#             store.checkpoint().unwrap();
#         }
#     }
# }
# fn check(life: &Life<(u8, u8)>) -> Result<(), String> {
#     let store = Store::open(life.disk()).map_err(|error| error.to_string())?;
#     let told: BTreeMap<u8, u8> = life.past().iter().copied().collect();
#     for (key, value) in told {
#         match store.map.get(&key) {
#             Some(found) if *found == value || *found == value + 4 => {}
#             found => return Err(format!("key {key}: told {value}, found {found:?}")),
#         }
#     }
#     Ok(())
# }
let explorer = Explorer::new(1).states(400);
let failure = explorer.explore(work, check).unwrap_err();
assert!(failure.what().contains("told"));
println!("{failure}"); // ends with the line to set WAL_SIM_REPLAY to
```

# What is simulated

| fault | how |
|---|---|
| the process dies, the machine goes on | drop everything without closing, and open the same [`Disk`] again |
| the power fails | every write and name that was not durable survives whole, in part, or not at all; see [`Explorer`], [`Disk::crash`] |
| a torn write | by sectors of 512 or 4096 bytes, in any combination, garbage inside one of them |
| writes that were in flight together | end in any order, survive in any combination |
| a write that was in flight when a sync began | is not covered by it |
| file sizes | survive without their bytes, or not; what was never written reads as zeros or as what another file left there |
| names | survive as a prefix of what was done to them, or in any combination, until the directory is synced |
| the power fails again while the program recovers | [`Explorer::deaths`] |
| `EIO`, `ENOSPC` and other shortages, a write cut short | at any call, once, several times, or for good: [`Fault`] |
| a failed sync | forgets some of what was cached, also for those who read on; the next one answers `Ok` |
| a failed flush, of any call that carries one | may drop the device's cache: what was written to any file and not flushed, and what was just being written; every later flush answers `Ok`, also that of a durable write which was under way: [`Fault::dropping_the_cache`] |
| a page cache that differs from the device | after a failed sync it says what was written, the device what was there before: [`DiskOptions::cached`] |
| zeros written in one call | [`DiskOptions::write_zeroes`] |
| a flush that lies, a write that is lost or goes elsewhere | [`Effect::Lie`], [`Effect::Lost`], [`Effect::Misdirected`] |
| bit rot | [`Disk::rot`], [`Image::flip`] |
| a slow disk, one that hangs | in virtual time: [`Effect::Late`], [`Effect::Hang`]; the latencies of whole classes of devices: [`Slow`] |
| a full disk | [`DiskOptions::room_bytes`] |
| a race | the seed decides who goes on at each switch point: [`World`] |

# What is not

* A file system whose own structures are damaged, or that becomes read-only.
* Names and sizes that a failed flush took along for good: a file system has them in memory, and one whose
  journal cannot be flushed becomes read-only. They stay pending, also names that a sync of the directory which
  is under way was to settle; a sync of a file settles its size, though the bytes are gone.
* A crash of the process alone that leaves another picture than the cache has: a program that reads back
  unsynced bytes and then promises them is found only by way of a later power cut.
* Two writes to the same sectors at once: they take effect in the order in which they began.
* Memory that changes by itself, and races between two switch points.
* Interrupted (`EINTR`) and continued system calls: the log's real storage calls again by itself, below
  this seam. A write that ends short for good is [`Effect::Short`].

# Where to look

* [`Explorer`], [`Life`]: exploring a program. [`LogProgram`]: the log itself as one.
* [`Disk`], [`DiskOptions`], [`Fault`], [`Image`]: the disk.
* [`World`]: time, chance and threads.
* [`Device`], [`Slow`]: how a program does on disks that are not at hand.
* [`Model`], [`Said`]: what a log must hold, for programs that write to one.
*/
#![forbid(unsafe_code)]

mod device;
mod disk;
mod explore;
mod model;
mod program;
mod random;
mod world;

pub use device::{Device, Slow, SlowFile};
pub use disk::{Disk, DiskFile, DiskLock, DiskOptions, Effect, Fault, Image, Sector, Verb};
pub use explore::{Coverage, Damage, Explorer, Failure, Life, Place, REPLAY_VARIABLE};
pub use model::{Model, Recovered, Said};
pub use program::LogProgram;
pub use random::Random;
pub use world::{Broken, Spawned, World};
