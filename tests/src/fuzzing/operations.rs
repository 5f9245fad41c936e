/*!
The target `operations`: a log that is used in every way on a disk that fails, and that dies, and is
opened again.

The input is a [`Plan`]: lives on a simulated disk, one after the other, with the calls that fail, the
order of threads, and what each power cut leaves. What the log answers is told to `wal-sim`'s model,
which says what the next life must find: nothing acknowledged is lost, nothing else appears, batches are
whole. Besides, here:

1. A second recovery finds what the first one found.
2. After a failed write or sync nothing is appended or acknowledged but what was durable before, and
   the durable mark stands still.
3. What a reader sees, in this process or another, was durable.
4. A write, sync or name that fails is never told as corruption; a log whose disk has healed opens.
5. Nobody waits for ever, and nobody asks the disk again and again.
*/

use super::{
    Reached,
    plan::{Life, Plan, Tape},
    process::Process,
};
use arbitrary::{Arbitrary, Unstructured};
use parking_lot::Mutex;
use std::sync::Arc;
use wal::{Error, ErrorKind};
use wal_sim::{Broken, Disk, Model, Said, World};

/// What outlives the process: what it told others, and what was reached. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Witness(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    said: Vec<Said>,
    reached: Reached,
    /// Whether this life may find things that cannot be read: they are told as damage.
    reads_may_fail: bool,
}

impl Witness {
    pub(super) fn hear(&self, said: Said) {
        self.0.lock().said.push(said);
    }

    pub(super) fn reach(&self, what: &'static str) {
        self.0.lock().reached.insert(what);
    }

    pub(super) fn model(&self) -> Model {
        let said = self.0.lock().said.clone();
        Model::of(&said)
    }

    /// From here on this life may find things that cannot be read.
    pub(super) fn expect_failing_reads(&self) {
        self.0.lock().reads_may_fail = true;
    }

    /// Whether `error` may come of a fault that was planted. None of them damages what was
    /// acknowledged.
    pub(super) fn bears(&self, disk: &Disk, error: &Error) -> bool {
        let is_told = error.kind() != ErrorKind::Corrupt || self.0.lock().reads_may_fail;
        disk.faults_struck() > 0 && is_told
    }
}

/// Runs the plan in `data`.
pub fn operations(data: &[u8]) -> Reached {
    let witness = Witness::default();
    if let Ok(plan) = Plan::arbitrary(&mut Unstructured::new(data)) {
        run(plan, &witness);
    }
    witness.0.lock().reached.clone()
}

fn run(plan: Plan, witness: &Witness) {
    let Plan { disk: device, shape, lives } = plan;
    let mut image = None;
    for (number, life) in (0..).zip(lives) {
        let world = World::new(life.schedule.into());
        let disk = match &image {
            Some(image) => Disk::of_image(&world, image),
            None => Disk::new(&world, &device.options(shape)),
        };
        let Life { faults, steps, mut tape, .. } = life;
        witness.0.lock().reads_may_fail = false;
        let mut process = Process::new(&disk, witness, (device, shape), number);
        faults.into_iter().for_each(|fault| process.plant(fault));
        // When the lights go out in a call, the process does not come back from it.
        let outcome = world.run(move || {
            steps.into_iter().for_each(|step| process.act(step));
            process.end_of_plan();
        });
        match outcome {
            Ok(()) => witness.reach("died between calls"),
            Err(Broken::PowerCut) => witness.reach("died in a call"),
            Err(broken) => panic!("{broken}\n{}", disk.story().join("\n")),
        }
        image = Some(crash(&disk, &mut tape));
    }
    let world = World::new(0);
    let disk = match &image {
        Some(image) => Disk::of_image(&world, image),
        None => Disk::new(&world, &device.options(shape)),
    };
    let outcome = world.run(|| Process::new(&disk, witness, (device, shape), 999).examine());
    if let Err(broken) = outcome {
        panic!("{broken}\n{}", disk.story().join("\n"));
    }
}

fn crash(disk: &Disk, tape: &mut Tape) -> wal_sim::Image {
    disk.crash_by(|end| tape.below(end))
}
