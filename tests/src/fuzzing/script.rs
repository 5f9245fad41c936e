//! What an input of `recover` asks for: a log's shape, and its lives, each with what is done in it,
//! how it ends, and what becomes of the files before the next one.

use arbitrary::{Arbitrary, Result, Unstructured};
use std::time::Duration;
use wal::Options;

const PHASES_MAX: usize = 3;
const STEPS_MAX: usize = 20;
const EDITS_MAX: usize = 6;
const AN_HOUR: Duration = Duration::from_secs(3600);

/// The whole input.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) shape: Shape,
    pub(super) phases: Vec<Phase>,
}

/// Block and segment.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Shape {
    Tiny,
    Small,
    Wide,
    Usual,
}

/// One life of the log.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
    /// How many frames the durable marks lag behind, as with several frames in flight.
    pub(super) lag: usize,
    pub(super) edits: Vec<Edit>,
}

/// What a program does.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Step {
    Append { bytes: u16 },
    Group { records: u8, bytes: u8 },
    Batch { records: u8, bytes: u8 },
    Checkpoint { back: u8, state: u8 },
}

/// How a life ends.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Crash,
    Close,
}

/// A place in a file.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) file: u8,
    pub(super) at: u16,
}

/// What a sector holds that was not written.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Wound {
    Zeros,
    Garbage(u8),
    /// What was there before.
    Old,
}

/// A number for a field.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Value {
    Exactly(u64),
    Plus(i8),
    /// So much below the highest there is.
    BelowMax(u8),
}

/// What becomes of the files.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Edit {
    /// Sectors of one of the last frames are not what was written.
    Tear {
        back: u8,
        sectors: u16,
        wound: Wound,
    },
    Flip {
        spot: Spot,
        bit: u8,
    },
    FlipFrame {
        frame: u8,
        at: u16,
        bit: u8,
    },
    Wound {
        spot: Spot,
        sectors: u8,
        wound: Wound,
    },
    Copy {
        from: Spot,
        to: Spot,
        sectors: u8,
    },
    Swap {
        one: Spot,
        other: Spot,
        sectors: u8,
    },
    Truncate {
        spot: Spot,
    },
    Extend {
        spot: Spot,
    },
    Remove {
        file: u8,
    },
    Duplicate {
        file: u8,
        number: u8,
    },
    Rename {
        file: u8,
        number: u8,
    },
    SwapFiles {
        one: u8,
        other: u8,
    },
    /// From the block at the spot on, the file is as it was once.
    Rollback {
        spot: Spot,
        age: u8,
    },
    /// The file is another log's.
    Foreign {
        file: u8,
    },
    /// From here on the checksums are mended: bytes that no writer wrote, and that fit.
    ForgeFrame {
        frame: u8,
        field: u8,
        value: Value,
        rechain: bool,
    },
    ForgeRecord {
        frame: u8,
        at: u16,
        byte: u8,
    },
    ForgeSegment {
        file: u8,
        field: u8,
        value: Value,
    },
    ForgeIdentity {
        field: u8,
        value: Value,
    },
}

impl<'a> Arbitrary<'a> for Script {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let shape = u.arbitrary()?;
        let phases = some(u, PHASES_MAX)?;
        Ok(Self { shape, phases })
    }
}

impl<'a> Arbitrary<'a> for Phase {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let steps = some(u, STEPS_MAX)?;
        let (end, lag) = (u.arbitrary()?, u.arbitrary::<u8>()?);
        let edits = some(u, EDITS_MAX)?;
        Ok(Self { steps, end, lag: usize::from(lag % 4), edits })
    }
}

/// Up to `most` of something, as many as the next byte says.
fn some<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>, most: usize) -> Result<Vec<T>> {
    let count = usize::from(u.arbitrary::<u8>()?) % (most + 1);
    (0..count).map(|_| u.arbitrary()).collect()
}

impl Shape {
    /// A log of this shape in which nothing is written but what is asked for.
    pub(super) fn options(self) -> Options {
        let (block, blocks) = match self {
            Self::Tiny => (512, 16),
            Self::Small => (512, 32),
            Self::Wide => (1024, 16),
            Self::Usual => (4096, 16),
        };
        options().block_bytes(block).segment_bytes(u64::from(block) * blocks)
    }
}

/// Small buffers, and threads that do nothing by themselves.
pub(super) fn options() -> Options {
    Options::new()
        .segment_bytes(16 * 512)
        .block_bytes(512)
        .frame_bytes(16 << 10)
        .pool_bytes(64 << 10)
        .depth(1)
        .spare_bytes_max(u64::MAX)
        .linger(AN_HOUR)
        .confirm_after(AN_HOUR)
}
