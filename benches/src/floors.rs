//! Contestants that have no log: the least code that groups the records of several writers and
//! acknowledges only what is durable.

use std::{io, mem, ops::DerefMut, sync::PoisonError};

use aligned::Buffer;
use parking_lot::Mutex;
use wal_bench::{
    disk::{BLOCK_BYTES, DiskFile, Method, zeroed},
    figures::bytes_u64,
    measure::Durable,
};

/// What a group can hold: enough for 64 writers of 4 KiB, and four times that.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// The length that goes before each record of a group.
const LENGTH_BYTES: usize = size_of::<u32>();

/// The *group floor*: leader-based group commit as one would write it in an afternoon.
///
/// A writer adds its record to the group being filled. If nobody writes, it is the leader: it takes
/// all that is queued, its own record included, writes it padded to 4 KiB, and wakes everyone.
/// Otherwise it waits, and on waking either finds its record durable or becomes the next leader if
/// it is the first. One mutex, one condition variable: a [`Monitor`].
///
/// How the waiters are woken is the [`Monitor`]'s. The simplest is the base of every ratio; the other
/// two, which are faster here, stand beside it so that a table hides nothing.
#[derive(Debug)]
pub struct GroupFloor<M> {
    file: DiskFile,
    method: Method,
    group: M,
}

/// The group floor over std's mutex and condition variable, told while the mutex is held: the code
/// that comes to mind first, a loop under one lock. The base of the ratios.
pub type SimplestGroupFloor = GroupFloor<StdMonitor<true>>;

/// The group floor over std, told after the mutex is given back: nobody wakes only to find it held.
pub type StdGroupFloor = GroupFloor<StdMonitor<false>>;

/// The group floor over `parking_lot`, told after the mutex is given back.
pub type ParkingGroupFloor = GroupFloor<ParkingMonitor>;

/// What the writers of a [`GroupFloor`] share.
#[derive(Debug)]
pub struct Group {
    filling: Buffer,
    filled_bytes: usize,
    /// Away while a leader writes from it: then nobody else leads.
    spare: Option<Buffer>,
    offset: u64,
    /// The number of the last record queued. Records are counted from 1.
    queued: u64,
    /// Records up to this number are on stable storage.
    durable: u64,
}

impl<M: Monitor> GroupFloor<M> {
    /// A floor that overwrites `file`, front to back and round again.
    ///
    /// # Errors
    ///
    /// When there is no memory for two groups.
    ///
    /// # Panics
    ///
    /// Unless the file holds at least two of the largest groups.
    pub fn new(file: DiskFile, method: Method) -> io::Result<Self> {
        assert!(file.bytes() >= 2 * bytes_u64(GROUP_BYTES_MAX), "too short: {}", file.bytes());
        let group = Group {
            filling: zeroed(GROUP_BYTES_MAX)?,
            filled_bytes: 0,
            spare: Some(zeroed(GROUP_BYTES_MAX)?),
            offset: 0,
            queued: 0,
            durable: 0,
        };
        Ok(Self { file, method, group: M::new(group) })
    }
}

impl<M: Monitor> Durable for GroupFloor<M> {
    /// A write that fails ends the program: the others of its group wait for an answer.
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let mut group = self.group.lock();
        while !group.has_room(payload) {
            group = self.group.wait(group);
        }
        let mine = group.queue(payload);
        while group.durable < mine {
            let Some(spare) = group.spare.take() else {
                group = self.group.wait(group);
                continue;
            };
            let (mut taken, bytes) = group.take(spare);
            let upto = group.queued;
            let offset = group.place(bytes, self.file.bytes());
            drop(group);

            let padded = &taken.as_mut_slice()[..bytes];
            self.file.write_durable(padded, offset, self.method).expect("a floor's write failed");

            group = self.group.lock();
            group.spare = Some(taken);
            group.durable = upto;
            self.group.tell_all(group);
            return Ok(()); // A leader's own record is in the group it wrote.
        }
        Ok(())
    }
}

/// One mutex and one condition variable. Told when a group is durable, which is also when a full
/// one has room again.
pub trait Monitor: Sync {
    /// Access to the group while the mutex is held.
    type Guard<'a>: DerefMut<Target = Group>
    where
        Self: 'a;

    /// Puts `group` behind the mutex.
    fn new(group: Group) -> Self;

    /// Locks the mutex.
    fn lock(&self) -> Self::Guard<'_>;

    /// Unlocks, sleeps until told (or for no reason), locks again.
    fn wait<'a>(&'a self, guard: Self::Guard<'a>) -> Self::Guard<'a>;

    /// Tells everyone who sleeps, and unlocks.
    fn tell_all<'a>(&'a self, guard: Self::Guard<'a>);
}

/// `parking_lot`'s mutex and condition variable.
#[derive(Debug)]
pub struct ParkingMonitor(Mutex<Group>, parking_lot::Condvar);

impl Monitor for ParkingMonitor {
    type Guard<'a> = parking_lot::MutexGuard<'a, Group>;

    fn new(group: Group) -> Self {
        Self(Mutex::new(group), parking_lot::Condvar::new())
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock()
    }

    fn wait<'a>(&'a self, mut guard: Self::Guard<'a>) -> Self::Guard<'a> {
        self.1.wait(&mut guard);
        guard
    }

    fn tell_all<'a>(&'a self, guard: Self::Guard<'a>) {
        drop(guard);
        self.1.notify_all();
    }
}

/// The standard library's mutex and condition variable, told with the mutex held or after it
/// was given back. Poison is ignored: the panic that made it ends the run anyway.
#[derive(Debug)]
pub struct StdMonitor<const TOLD_UNDER_LOCK: bool>(std::sync::Mutex<Group>, std::sync::Condvar);

impl<const TOLD_UNDER_LOCK: bool> Monitor for StdMonitor<TOLD_UNDER_LOCK> {
    type Guard<'a> = std::sync::MutexGuard<'a, Group>;

    fn new(group: Group) -> Self {
        Self(std::sync::Mutex::new(group), std::sync::Condvar::new())
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, guard: Self::Guard<'a>) -> Self::Guard<'a> {
        self.1.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all<'a>(&'a self, guard: Self::Guard<'a>) {
        if TOLD_UNDER_LOCK {
            self.1.notify_all();
            drop(guard);
        } else {
            drop(guard);
            self.1.notify_all();
        }
    }
}

impl Group {
    fn has_room(&self, payload: &[u8]) -> bool {
        self.filled_bytes + LENGTH_BYTES + payload.len() <= GROUP_BYTES_MAX
    }

    /// Copies a record in; its number.
    fn queue(&mut self, payload: &[u8]) -> u64 {
        let length = u32::try_from(payload.len()).expect("a record is shorter than a group");
        let room = &mut self.filling.as_mut_slice()[self.filled_bytes..];
        room[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        room[LENGTH_BYTES..][..payload.len()].copy_from_slice(payload);
        self.filled_bytes += LENGTH_BYTES + payload.len();
        self.queued += 1;
        self.queued
    }

    /// Puts `spare` in the place of the group being filled; that one, padded with zeros to its
    /// second value.
    fn take(&mut self, spare: Buffer) -> (Buffer, usize) {
        let padded_bytes = self.filled_bytes.next_multiple_of(BLOCK_BYTES);
        self.filling.as_mut_slice()[self.filled_bytes..padded_bytes].fill(0);
        self.filled_bytes = 0;
        (mem::replace(&mut self.filling, spare), padded_bytes)
    }

    /// Where the next `bytes` go; from the front again when the file's end is too near.
    fn place(&mut self, bytes: usize, file_bytes: u64) -> u64 {
        let bytes = bytes_u64(bytes);
        if self.offset + bytes > file_bytes {
            self.offset = 0;
        }
        let offset = self.offset;
        self.offset += bytes;
        offset
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use wal_bench::disk::{Fill, fresh_directory};

    const WRITERS: u32 = 8;
    const EACH: u32 = 50;

    #[test]
    fn a_group_floor_writes_each_record_once_before_it_answers() {
        each_record_once::<ParkingMonitor>();
        each_record_once::<StdMonitor<true>>();
        each_record_once::<StdMonitor<false>>();
    }

    fn each_record_once<M: Monitor>() {
        let directory = fresh_directory(None).unwrap();
        let file = DiskFile::prepare(&directory.path().join("f"), 4 << 20, Fill::Zeros).unwrap();
        let floor = GroupFloor::<M>::new(file, Method::Dsync).unwrap();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let floor = &floor;
                scope.spawn(move || {
                    for turn in 0..EACH {
                        floor.append_durable(&(writer * EACH + turn).to_le_bytes()).unwrap();
                    }
                });
            }
        });
        let mut content = zeroed(4 << 20).unwrap();
        floor.file.read(content.as_mut_slice(), 0).unwrap();
        let mut found = records(content.as_mut_slice());
        found.sort_unstable();
        assert_eq!(found, (0..WRITERS * EACH).collect::<Vec<_>>());
    }

    /// Every 4-byte record of a written file: groups start on blocks, a zero length ends one.
    fn records(content: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        for block in content.chunks_exact(BLOCK_BYTES) {
            // 64 such records at the most are far from filling a block.
            for record in block.chunks_exact(2 * LENGTH_BYTES) {
                let (length, payload) = record.split_at(LENGTH_BYTES);
                if length == 4_u32.to_le_bytes() {
                    found.push(u32::from_le_bytes(payload.try_into().unwrap()));
                }
            }
        }
        found
    }
}
