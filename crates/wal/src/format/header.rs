//! The identity file and the segment header.

use super::{VERSION, first_nonzero, get, put};
use crate::lsn::Lsn;
use std::fmt;

/// The block of a log whose creator did not choose, in bytes.
pub const BLOCK_BYTES_DEFAULT: u32 = 4096;
/// The smallest block in bytes: the smallest sector that disks have.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// The largest block in bytes.
pub const BLOCK_BYTES_MAX: u32 = 65536;
/// The longest segment in bytes: a record's length has 28 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 28;
/// The length of the identity file in bytes.
pub const IDENTITY_BYTES: usize = 4096;

const IDENTITY_MAGIC: [u8; 8] = *b"walIdent";
const SEGMENT_MAGIC: [u8; 8] = *b"walSegmt";
const CHECKSUM_CRC32: u8 = 1;

// Shared by both headers.
const MAGIC: usize = 0;
const CRC: usize = MAGIC + 8;
const VERSION_AT: usize = CRC + 4;
const AFTER_CRC: usize = VERSION_AT;
const KIND: usize = VERSION_AT + 2;
const LOG_ID: usize = KIND + 2;
const FIRST: usize = LOG_ID + 16;

const IDENTITY_SEGMENT_BYTES: usize = FIRST;
const IDENTITY_BLOCK_BYTES: usize = IDENTITY_SEGMENT_BYTES + 8;
const IDENTITY_CREATED: usize = IDENTITY_BLOCK_BYTES + 8;
const IDENTITY_END: usize = IDENTITY_CREATED + 8;
/// What no field covers, from one place up to another: zeros, like everything behind the last field.
const IDENTITY_GAPS: [(usize, usize); 2] =
    [(KIND, LOG_ID), (IDENTITY_BLOCK_BYTES + 4, IDENTITY_CREATED)];

const SEGMENT_ORIGIN: usize = KIND + 1;
const SEGMENT_SEQUENCE: usize = FIRST;
const SEGMENT_BASE: usize = SEGMENT_SEQUENCE + 8;
const SEGMENT_SEGMENT_BYTES: usize = SEGMENT_BASE + 8;
const SEGMENT_BLOCK_BYTES: usize = SEGMENT_SEGMENT_BYTES + 8;
const SEGMENT_END: usize = SEGMENT_BLOCK_BYTES + 8;
const SEGMENT_GAPS: [(usize, usize); 1] = [(SEGMENT_BLOCK_BYTES + 4, SEGMENT_END)];

/// What tells one log from every other: 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "it is its bytes")]
pub struct LogId(pub [u8; 16]);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What holds for the whole log and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// Which log this is.
    pub log_id: LogId,
    /// The length of every segment in bytes, its header block included.
    pub segment_bytes: u64,
    /// The block in bytes.
    pub block_bytes: u32,
    /// When the log was created, in seconds since 1970-01-01 UTC. For people only.
    pub created: u64,
}

impl Identity {
    /// An identity of a new log.
    ///
    /// `None` unless the block is a power of two from [`BLOCK_BYTES_MIN`] to [`BLOCK_BYTES_MAX`]
    /// and the segment a multiple of it: at least 16 blocks and at most [`SEGMENT_BYTES_MAX`].
    #[must_use]
    pub fn new(log_id: LogId, segment_bytes: u64, block_bytes: u32, created: u64) -> Option<Self> {
        let block = u64::from(block_bytes);
        let block_fits = block_bytes.is_power_of_two()
            && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes);
        let segment_fits = block_fits
            && segment_bytes.is_multiple_of(block)
            && segment_bytes >= 16 * block
            && segment_bytes <= SEGMENT_BYTES_MAX;
        segment_fits.then_some(Self { log_id, segment_bytes, block_bytes, created })
    }

    /// Writes the identity over `file`, which must be [`IDENTITY_BYTES`] of zeros.
    pub fn encode(&self, file: &mut [u8]) {
        put(file, MAGIC, IDENTITY_MAGIC);
        put(file, VERSION_AT, VERSION.to_le_bytes());
        put(file, LOG_ID, self.log_id.0);
        put(file, IDENTITY_SEGMENT_BYTES, self.segment_bytes.to_le_bytes());
        put(file, IDENTITY_BLOCK_BYTES, self.block_bytes.to_le_bytes());
        put(file, IDENTITY_CREATED, self.created.to_le_bytes());
        seal(file);
    }

    /// Reads what [`Identity::encode`] wrote.
    ///
    /// # Errors
    /// [`HeaderFault`] unless every byte is as an encoder of this version writes it.
    pub fn decode(file: &[u8]) -> Result<Self, HeaderFault> {
        open(file, IDENTITY_BYTES, IDENTITY_MAGIC, &IDENTITY_GAPS, IDENTITY_END)?;
        Self::new(
            LogId(get(file, LOG_ID)),
            u64::from_le_bytes(get(file, IDENTITY_SEGMENT_BYTES)),
            u32::from_le_bytes(get(file, IDENTITY_BLOCK_BYTES)),
            u64::from_le_bytes(get(file, IDENTITY_CREATED)),
        )
        .ok_or(HeaderFault::Field("segment or block bytes"))
    }
}

/// What was in a slot before it became a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "both origins of a format version are known for ever")]
#[repr(u8)]
pub enum Origin {
    /// Zeros, written on purpose.
    Zeroed = 1,
    /// The frames of an older, released segment.
    Recycled = 2,
}

/// The first block of a segment: nothing that is not known when it is prepared ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentHeader {
    /// The log it belongs to.
    pub log_id: LogId,
    /// 0 for the first segment, its predecessor's plus 1 for every other.
    pub sequence: u64,
    /// Where the segment begins in the log.
    pub base: Lsn,
    /// What the slot held before.
    pub origin: Origin,
}

impl SegmentHeader {
    /// The header of segment `sequence` of the log `identity`; `None` past the end of the 64-bit
    /// log.
    #[must_use]
    pub fn new(identity: &Identity, sequence: u64, origin: Origin) -> Option<Self> {
        let base = sequence.checked_mul(identity.segment_bytes)?;
        base.checked_add(identity.segment_bytes)?;
        Some(Self { log_id: identity.log_id, sequence, base: Lsn::new(base), origin })
    }

    /// Writes the header over `block`, one block of zeros.
    pub fn encode(&self, identity: &Identity, block: &mut [u8]) {
        put(block, MAGIC, SEGMENT_MAGIC);
        put(block, VERSION_AT, VERSION.to_le_bytes());
        block[KIND] = CHECKSUM_CRC32;
        block[SEGMENT_ORIGIN] = match self.origin {
            Origin::Zeroed => 1,
            Origin::Recycled => 2,
        };
        put(block, LOG_ID, self.log_id.0);
        put(block, SEGMENT_SEQUENCE, self.sequence.to_le_bytes());
        put(block, SEGMENT_BASE, self.base.get().to_le_bytes());
        put(block, SEGMENT_SEGMENT_BYTES, identity.segment_bytes.to_le_bytes());
        put(block, SEGMENT_BLOCK_BYTES, identity.block_bytes.to_le_bytes());
        seal(block);
    }

    /// Reads the header of a segment of the log `identity` from its first block.
    ///
    /// # Errors
    /// [`HeaderFault`] unless every byte is as an encoder of this version writes it for this log.
    pub fn decode(identity: &Identity, block: &[u8]) -> Result<Self, HeaderFault> {
        let block_bytes = usize::try_from(identity.block_bytes).unwrap_or(usize::MAX);
        open(block, block_bytes, SEGMENT_MAGIC, &SEGMENT_GAPS, SEGMENT_END)?;
        if block[KIND] != CHECKSUM_CRC32 {
            return Err(HeaderFault::Field("checksum kind"));
        }
        let origin = match block[SEGMENT_ORIGIN] {
            1 => Origin::Zeroed,
            2 => Origin::Recycled,
            _ => return Err(HeaderFault::Field("origin")),
        };
        let log_id = LogId(get(block, LOG_ID));
        if log_id != identity.log_id {
            return Err(HeaderFault::OtherLog { found: log_id });
        }
        if u64::from_le_bytes(get(block, SEGMENT_SEGMENT_BYTES)) != identity.segment_bytes {
            return Err(HeaderFault::Field("segment bytes"));
        }
        if u32::from_le_bytes(get(block, SEGMENT_BLOCK_BYTES)) != identity.block_bytes {
            return Err(HeaderFault::Field("block bytes"));
        }
        let sequence = u64::from_le_bytes(get(block, SEGMENT_SEQUENCE));
        let base = u64::from_le_bytes(get(block, SEGMENT_BASE));
        match Self::new(identity, sequence, origin) {
            Some(header) if header.base.get() == base => Ok(header),
            _ => Err(HeaderFault::Field("sequence or base")),
        }
    }
}

/// Why a block is not the header it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderFault {
    /// All zeros: nothing was ever written.
    Blank,
    /// Fewer bytes than the header has.
    Short {
        /// How many there were.
        found: usize,
    },
    /// Another kind of file.
    Magic,
    /// The format is of a version that this crate does not know.
    Version {
        /// The version that was found.
        found: u16,
    },
    /// Bytes were changed.
    Crc {
        /// The sum of the bytes that are there.
        expected: u32,
        /// The sum that was written.
        found: u32,
    },
    /// A valid header of another log.
    OtherLog {
        /// The log it belongs to.
        found: LogId,
    },
    /// A field that no encoder of this version writes so.
    Field(&'static str),
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("all zeros"),
            Self::Short { found } => write!(f, "only {found} bytes"),
            Self::Magic => f.write_str("another magic"),
            Self::Version { found } => write!(f, "format version {found}"),
            Self::Crc { expected, found } => {
                write!(f, "CRC {found:08x} over bytes whose CRC is {expected:08x}")
            }
            Self::OtherLog { found } => write!(f, "a segment of log {found}"),
            Self::Field(name) => write!(f, "an impossible value in field {name}"),
        }
    }
}

fn seal(block: &mut [u8]) {
    let crc = crc32fast::hash(&block[AFTER_CRC..]);
    put(block, CRC, crc.to_le_bytes());
}

fn open(
    block: &[u8],
    bytes: usize,
    magic: [u8; 8],
    gaps: &[(usize, usize)],
    end: usize,
) -> Result<(), HeaderFault> {
    if block.len() < bytes {
        return Err(HeaderFault::Short { found: block.len() });
    }
    let block = &block[..bytes];
    if first_nonzero(block).is_none() {
        return Err(HeaderFault::Blank);
    }
    if get(block, MAGIC) != magic {
        return Err(HeaderFault::Magic);
    }
    let version = u16::from_le_bytes(get(block, VERSION_AT));
    let expected = crc32fast::hash(&block[AFTER_CRC..]);
    let found = u32::from_le_bytes(get(block, CRC));
    if expected != found {
        return Err(HeaderFault::Crc { expected, found });
    }
    if version != VERSION {
        return Err(HeaderFault::Version { found: version });
    }
    let mut unused = gaps.iter().map(|gap| &block[gap.0..gap.1]).chain([&block[end..]]);
    if unused.any(|bytes| first_nonzero(bytes).is_some()) {
        return Err(HeaderFault::Field("zeros"));
    }
    Ok(())
}

const _: () = assert!(FIRST == 32 && IDENTITY_END == 56 && SEGMENT_END == 64);
const _: () = assert!(SEGMENT_ORIGIN == 15 && IDENTITY_CREATED == 48);
const _: () = assert!(IDENTITY_END <= IDENTITY_BYTES);
