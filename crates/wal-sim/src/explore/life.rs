//! [`Life`]: a program from power on until the lights go out.

use super::Damage;
use crate::{
    disk::{Disk, DiskOptions, Image},
    random::{Random, mix},
    world::{Spawned, World},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// One life of a program: its world, its disk, and what it told the outside. Clones are handles of
/// the same one, for its threads.
///
/// What a program told somebody survives its death: it **notes** what it is about to do, and what it
/// promised, and whoever checks a later life reads these notes.
pub struct Life<M>(Arc<Inner<M>>);

struct Inner<M> {
    world: World,
    disk: Disk,
    number: u32,
    seed: u64,
    /// That of the first life: the same for all that come after it.
    run_seed: u64,
    size: Size,
    past: Arc<Vec<M>>,
    past_len: usize,
    damage: Option<Damage>,
    notes: Mutex<Vec<(usize, M)>>,
    reached: Mutex<BTreeMap<&'static str, u64>>,
}

/// How much a first life does. Made smaller when a failure is shrunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) steps: u32,
    pub(super) writers: u32,
}

impl<M> Life<M> {
    /// A first life, on an empty disk.
    pub(super) fn first(seed: u64, size: Size, options: &DiskOptions) -> Self {
        let world = World::new(mix(&[seed, 2]));
        let disk = Disk::new(&world, options);
        Self::new(world, disk, 0, [seed; 2], size, (Arc::default(), 0), None)
    }

    /// A life after a death that left `image`, and the first `past.1` of the notes `past.0`.
    pub(super) fn after(
        (image, damage): (&Image, Option<Damage>),
        number: u32,
        seeds: [u64; 2],
        size: Size,
        past: (Arc<Vec<M>>, usize),
    ) -> Self {
        let world = World::new(mix(&[seeds[1], 2]));
        let disk = Disk::of_image(&world, image);
        Self::new(world, disk, number, seeds, size, past, damage)
    }

    fn new(
        world: World,
        disk: Disk,
        number: u32,
        [run_seed, seed]: [u64; 2],
        size: Size,
        (past, past_len): (Arc<Vec<M>>, usize),
        damage: Option<Damage>,
    ) -> Self {
        world.be_quiet();
        let (notes, reached) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner {
            world,
            disk,
            number,
            seed,
            run_seed,
            size,
            past,
            past_len,
            damage,
            notes,
            reached,
        }))
    }

    /// Its world: time, chance and threads.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.0.disk.clone()
    }

    /// How many deaths came before it: 0 for the first life.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// What the disk did wrong and told nobody, where the exploration has it do such things: then the
    /// check judges by what can be known at all. See [`Explorer::silent`](super::Explorer::silent).
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.0.damage.as_ref()
    }

    /// How many steps a first life is asked to do. A failure is shrunk by asking for fewer.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.0.size.steps
    }

    /// How many threads a first life is asked to write from. A failure is shrunk by asking for fewer.
    #[must_use]
    pub fn writers(&self) -> u32 {
        self.0.size.writers
    }

    /// Random numbers that are the same for all lives of a run: for what a program is told at each
    /// start, its settings say.
    #[must_use]
    pub fn shared_random(&self, stream: u64) -> Random {
        Random::new(mix(&[self.0.run_seed, 6, stream]))
    }

    /// Random numbers of the life's own, another stream for each `stream`.
    #[must_use]
    pub fn random(&self, stream: u64) -> Random {
        Random::new(mix(&[self.0.seed, 3, stream]))
    }

    /// What lives before this one noted until they died, in order.
    #[must_use]
    pub fn past(&self) -> &[M] {
        &self.0.past[..self.0.past_len]
    }

    /// Notes something: whoever checks a later life knows of it, if the crash comes after this.
    pub fn note(&self, note: M) {
        let moment = self.0.disk.moment();
        if !self.0.world.is_dark() {
            self.0.notes.lock().push((moment, note));
        }
    }

    /// Counts that something rare happened: the exploration tells how often each did.
    pub fn reach(&self, what: &'static str) {
        *self.0.reached.lock().entry(what).or_default() += 1;
    }

    /// Runs `work` on a thread of its own, with a handle of this life.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Spawned<T>
    where
        M: Send + Sync + 'static,
    {
        let life = self.clone();
        self.0.world.spawn(name, move || work(&life))
    }

    pub(super) fn reached(&self) -> BTreeMap<&'static str, u64> {
        self.0.reached.lock().clone()
    }
}

impl<M: Clone> Life<M> {
    /// Everything noted so far, by lives before and by this one.
    #[must_use]
    pub fn said(&self) -> Vec<M> {
        self.all_notes().all.to_vec()
    }

    /// Everything noted, the past included; and for each moment that has notes, how many there are by
    /// then.
    pub(super) fn all_notes(&self) -> Notes<M> {
        let notes = self.0.notes.lock();
        let mut all = self.past().to_vec();
        let before = all.len();
        all.extend(notes.iter().map(|(_, note)| note.clone()));
        let moments = notes.iter().map(|(moment, _)| *moment).collect();
        Notes { all: Arc::new(all), before, moments }
    }
}

/// The notes of a life that is over.
pub(super) struct Notes<M> {
    pub(super) all: Arc<Vec<M>>,
    /// How many of them are of lives before.
    pub(super) before: usize,
    moments: Vec<usize>,
}

impl<M> Notes<M> {
    /// How many notes there were when `moment` events were over.
    pub(super) fn by(&self, moment: usize) -> usize {
        self.before + self.moments.partition_point(|at| *at <= moment)
    }
}

impl<M> Clone for Life<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> fmt::Debug for Life<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("number", &self.0.number).finish_non_exhaustive()
    }
}
