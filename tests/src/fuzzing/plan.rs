//! What an input of `operations` asks for: a disk, a log's shape, and its lives, each with its faults,
//! what is done in it, and what the power cut at its end leaves.

use arbitrary::{Arbitrary, Result, Unstructured};
use std::time::Duration;
use wal::{Options, io::DurableMethod};
use wal_sim::{DiskOptions, Effect, Fault, Random, Sector, Verb};

const LIVES_MAX: usize = 4;
const STEPS_MAX: usize = 24;
const FAULTS_MAX: usize = 3;
const TAPE_BYTES_MAX: usize = 32;

/// The whole input.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) disk: Device,
    pub(super) shape: Shape,
    pub(super) lives: Vec<Life>,
}

/// The kind of disk: its bits.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Device {
    kind: u16,
    /// How many pages are left when the log has been created; from 16 on, no end of them.
    room: u8,
}

/// How the log is opened.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Shape {
    size: u8,
    depth: u8,
    times: u8,
    /// How many segments the log may have, if that is limited.
    cap: u8,
}

/// One life of the log, from power on until the lights go out.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// The order of threads.
    pub(super) schedule: u16,
    pub(super) faults: Vec<Trouble>,
    pub(super) steps: Vec<Step>,
    /// What becomes of each write that was not durable.
    pub(super) tape: Tape,
}

/// What a program does.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Step {
    Append {
        bytes: u16,
        how: How,
    },
    Batch {
        records: u8,
        bytes: u8,
        is_waited_for: bool,
    },
    /// A record as large as there can be: two of them fill a segment.
    Fill,
    WaitForAll,
    WaitForOne {
        micros: u8,
    },
    Flush,
    Sleep {
        micros: u16,
    },
    Checkpoint {
        back: u8,
        state: u8,
        is_waited_for: bool,
    },
    Read {
        back: u8,
    },
    Follow {
        back: u8,
    },
    ReadOnly,
    Fail(Trouble),
    Heal,
    Close,
    /// The process dies, the machine goes on.
    Die,
}

/// How a record is appended, and its outcome heard of.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum How {
    Wait,
    Later,
    Try,
    Task,
    InPlace,
    GiveUp,
    CallBack,
}

/// A call that goes wrong.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Trouble {
    effect: u8,
    verb: u8,
    after: u8,
    times: u8,
}

/// Numbers that the input says one by one: a byte for each that is asked for.
#[derive(Clone, Debug)]
pub(super) struct Tape(Vec<u8>);

impl<'a> Arbitrary<'a> for Plan {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let (disk, shape) = (u.arbitrary()?, u.arbitrary()?);
        Ok(Self { disk, shape, lives: some(u, LIVES_MAX)? })
    }
}

impl<'a> Arbitrary<'a> for Life {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let schedule = u.arbitrary()?;
        let (faults, steps) = (some(u, FAULTS_MAX)?, some(u, STEPS_MAX)?);
        Ok(Self { schedule, faults, steps, tape: Tape(some(u, TAPE_BYTES_MAX)?) })
    }
}

/// Up to `most` of something, as many as the next byte says, or as there are.
fn some<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>, most: usize) -> Result<Vec<T>> {
    let count = usize::from(u.arbitrary::<u8>()?) % (most + 1);
    let next = (0..count).map_while(|_| (!u.is_empty()).then(|| u.arbitrary()));
    next.collect()
}

impl Device {
    fn has(self, bit: u16) -> bool {
        self.kind >> bit & 1 == 1
    }

    pub(super) fn sector_bytes(self) -> u32 {
        if self.has(0) { 4096 } else { 512 }
    }

    /// Whether it may be full.
    pub(super) fn is_small(self) -> bool {
        self.room < 16
    }

    pub(super) fn options(self, shape: Shape) -> DiskOptions {
        let mut options = DiskOptions::new().depth(1 << (self.kind >> 1 & 3));
        if self.has(0) {
            options = options.sector(Sector::Bytes4096);
        }
        if self.has(3) {
            options = options.method(DurableMethod::WriteThenSync);
        }
        if self.has(4) {
            options = options.stale_bytes();
        }
        if self.has(5) {
            options = options.any_names();
        }
        if self.has(6) {
            options = options.probes();
        }
        if self.has(7) {
            options = options.write_zeroes();
        }
        if self.has(8) {
            options = options.latency(Duration::ZERO, Duration::ZERO);
        }
        if self.has(9) && self.has(10) {
            options = options.cached();
        }
        if self.is_small() {
            // The identity, two slots, and a slot that is being made and taken back.
            let slot = shape.segment_bytes(self).div_ceil(4096);
            let pages = 2 + 2 * slot + u64::from(self.room) * slot / 4;
            options = options.room_bytes(pages * 4096);
        }
        options
    }
}

impl Shape {
    fn block_bytes(self, disk: Device) -> u32 {
        if self.size.is_multiple_of(8) { 4096 } else { disk.sector_bytes() }
    }

    fn segment_bytes(self, disk: Device) -> u64 {
        u64::from(self.block_bytes(disk)) * if self.size & 16 == 0 { 16 } else { 24 }
    }

    /// Whether the log itself may be full.
    pub(super) fn is_capped(self) -> bool {
        self.cap & 3 == 0
    }

    pub(super) fn options(self, disk: Device) -> Options {
        let segment = self.segment_bytes(disk);
        let micros =
            |choices: [u64; 4], bits: u8| Duration::from_micros(choices[usize::from(bits & 3)]);
        let options = Options::new()
            .block_bytes(self.block_bytes(disk))
            .segment_bytes(segment)
            .frame_bytes(16 << 10)
            .pool_bytes([32, 48, 128, 32][usize::from(self.depth >> 2 & 3)] << 10)
            .depth(1 + u32::from(self.depth & 3))
            .linger(micros([0, 50, 2000, 1_000_000], self.times))
            .confirm_after(micros([100, 3000, 100_000, 10_000_000], self.times >> 2))
            .spare_bytes_max(segment * [0, 1, 8, 8][usize::from(self.times >> 4 & 3)]);
        if self.is_capped() {
            options.log_bytes_max(segment * (3 + u64::from(self.cap >> 2 & 3)))
        } else {
            options
        }
    }
}

impl Trouble {
    /// Whether it is about room: such a disk may have none for what says that a log was closed.
    pub(super) fn is_shortage(self) -> bool {
        matches!(self.effect(), Effect::NoSpace)
    }

    /// Whether it may be that something cannot be read.
    pub(super) fn is_about_reads(self) -> bool {
        let fails = matches!(self.effect(), Effect::Eio | Effect::Short | Effect::EioButDone);
        fails && matches!(self.verb(), None | Some(Verb::Read))
    }

    fn effect(self) -> Effect {
        const EFFECTS: [Effect; 8] = [
            Effect::Eio,
            Effect::Eio,
            Effect::NoSpace,
            Effect::Short,
            Effect::EioButDone,
            Effect::Late(Duration::from_millis(3)),
            Effect::PowerCut,
            Effect::PowerCut,
        ];
        EFFECTS[usize::from(self.effect) % EFFECTS.len()]
    }

    fn verb(self) -> Option<Verb> {
        const VERBS: [Option<Verb>; 16] = [
            None,
            None,
            None,
            None,
            Some(Verb::WriteDurable),
            Some(Verb::WriteDurable),
            Some(Verb::Sync),
            Some(Verb::Sync),
            Some(Verb::SyncDir),
            Some(Verb::Write),
            Some(Verb::Read),
            Some(Verb::CreateFile),
            Some(Verb::Rename),
            Some(Verb::Remove),
            Some(Verb::Open),
            Some(Verb::Spawn),
        ];
        VERBS[usize::from(self.verb) % VERBS.len()]
    }

    pub(super) fn fault(self) -> Fault {
        let fault = Fault::new(self.effect()).after(self.after.into());
        let fault = match self.verb() {
            Some(verb) => fault.on(verb),
            None => fault,
        };
        match self.times % 4 {
            0 | 1 => fault,
            2 => fault.times(1 + u64::from(self.times / 4)),
            _ => fault.sticky(),
        }
    }
}

impl Tape {
    /// The next number below `end`. Where the input ends, everything stays as it was written.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        let byte = if self.0.is_empty() { 0 } else { self.0.remove(0) };
        if end <= 256 { u64::from(byte) % end } else { Random::new(byte.into()).below(end) }
    }
}

/// The bytes of a record: another's differ.
pub(super) fn payload(batch: u64, index: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(batch.wrapping_mul(31).wrapping_add(index));
    (0..bytes).map(|_| u8::try_from(random.below(256)).unwrap_or_default()).collect()
}
