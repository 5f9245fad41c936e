//! Frames: header, chain, validity.

use super::{LogId, Records, WriterSeed, first_nonzero, get, put};
use crate::lsn::Lsn;
use std::fmt;

/// The length of a frame's header in bytes.
pub const FRAME_HEADER_BYTES: usize = 64;

const MAGIC_BYTES: [u8; 4] = *b"walF";

const MAGIC: usize = 0;
const CRC: usize = MAGIC + 4;
const LSN: usize = CRC + 4;
const PAYLOAD_BYTES: usize = LSN + 8;
const RECORD_COUNT: usize = PAYLOAD_BYTES + 4;
const FIRST_ORDINAL: usize = RECORD_COUNT + 4;
const EPOCH: usize = FIRST_ORDINAL + 8;
const INCARNATION: usize = EPOCH + 8;
const DURABLE_MARK: usize = INCARNATION + 8;
const PREVIOUS_CRC: usize = DURABLE_MARK + 8;
const PURPOSE: usize = PREVIOUS_CRC + 4;
const END: usize = PURPOSE + 4;

/// Why a frame was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the purposes of a format version are known for ever")]
#[repr(u32)]
pub enum Purpose {
    /// For its records.
    Records = 1,
    /// To fix where the log ends after an open for writing: the first frame of its epoch.
    Opening = 2,
    /// To carry the durable mark past the frames before it once the log went idle.
    Confirmation = 3,
    /// The same as the last act of a clean close.
    Close = 4,
}

impl Purpose {
    const fn number(self) -> u32 {
        match self {
            Self::Records => 1,
            Self::Opening => 2,
            Self::Confirmation => 3,
            Self::Close => 4,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Records),
            2 => Some(Self::Opening),
            3 => Some(Self::Confirmation),
            4 => Some(Self::Close),
            _ => None,
        }
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the fields of a format version are fixed")]
pub struct FrameHeader {
    /// Where the frame stands.
    pub lsn: Lsn,
    /// The bytes of its records, with their headers.
    pub payload_bytes: u32,
    /// How many records it has.
    pub record_count: u32,
    /// How many records the log had before it.
    pub first_ordinal: u64,
    /// Which open for writing wrote it.
    pub epoch: u64,
    /// The random number of that open.
    pub incarnation: u64,
    /// All bytes of the log below were on stable storage when the frame was sealed.
    pub durable_mark: Lsn,
    /// The CRC field of the frame before it in the log.
    pub previous_crc: u32,
    /// Why it was written.
    pub purpose: Purpose,
}

impl FrameHeader {
    /// Writes the header at the start of `frame` and returns its CRC, for the next frame's
    /// [`FrameHeader::previous_crc`].
    ///
    /// # Panics
    /// If `frame` is shorter than [`FRAME_HEADER_BYTES`].
    pub fn encode(&self, log: LogId, frame: &mut [u8]) -> u32 {
        let header = &mut frame[..FRAME_HEADER_BYTES];
        put(header, MAGIC, MAGIC_BYTES);
        put(header, LSN, self.lsn.get().to_le_bytes());
        put(header, PAYLOAD_BYTES, self.payload_bytes.to_le_bytes());
        put(header, RECORD_COUNT, self.record_count.to_le_bytes());
        put(header, FIRST_ORDINAL, self.first_ordinal.to_le_bytes());
        put(header, EPOCH, self.epoch.to_le_bytes());
        put(header, INCARNATION, self.incarnation.to_le_bytes());
        put(header, DURABLE_MARK, self.durable_mark.get().to_le_bytes());
        put(header, PREVIOUS_CRC, self.previous_crc.to_le_bytes());
        put(header, PURPOSE, self.purpose.number().to_le_bytes());
        let crc = header_crc(log, header);
        put(header, CRC, crc.to_le_bytes());
        crc
    }

    /// Reads a header of the log `log` from the first bytes of a block, and its CRC.
    ///
    /// What it says is what an encoder of this log wrote; whether it was meant for this place is
    /// for the caller to compare.
    ///
    /// # Errors
    /// [`Fault`] if there is no whole, valid header of this log.
    pub fn decode(log: LogId, bytes: &[u8]) -> Result<(Self, u32), Fault> {
        let Some(header) = bytes.get(..FRAME_HEADER_BYTES) else {
            return Err(Fault::Short { found: bytes.len() });
        };
        if get(header, MAGIC) != MAGIC_BYTES {
            return Err(if first_nonzero(header).is_none() { Fault::Blank } else { Fault::Magic });
        }
        let expected = header_crc(log, header);
        let found = u32::from_le_bytes(get(header, CRC));
        if expected != found && !planted!("length-before-its-sum") {
            let lsn = Lsn::new(u64::from_le_bytes(get(header, LSN)));
            return Err(Fault::HeaderCrc { lsn, expected, found });
        }
        let number = u32::from_le_bytes(get(header, PURPOSE));
        let Some(purpose) = Purpose::from_number(number) else {
            let epoch = u64::from_le_bytes(get(header, EPOCH));
            let lsn = Lsn::new(u64::from_le_bytes(get(header, LSN)));
            return Err(Fault::Purpose { found: number, lsn, epoch });
        };
        let header = Self {
            lsn: Lsn::new(u64::from_le_bytes(get(header, LSN))),
            payload_bytes: u32::from_le_bytes(get(header, PAYLOAD_BYTES)),
            record_count: u32::from_le_bytes(get(header, RECORD_COUNT)),
            first_ordinal: u64::from_le_bytes(get(header, FIRST_ORDINAL)),
            epoch: u64::from_le_bytes(get(header, EPOCH)),
            incarnation: u64::from_le_bytes(get(header, INCARNATION)),
            durable_mark: Lsn::new(u64::from_le_bytes(get(header, DURABLE_MARK))),
            previous_crc: u32::from_le_bytes(get(header, PREVIOUS_CRC)),
            purpose,
        };
        Ok((header, found))
    }

    /// The length of the whole frame in bytes, in blocks of `block_bytes`.
    #[must_use]
    pub fn frame_bytes(&self, block_bytes: u32) -> u64 {
        (64 + u64::from(self.payload_bytes)).next_multiple_of(u64::from(block_bytes))
    }

    /// Whether this frame can follow `previous`, whose header has the CRC `previous_crc`: the chain,
    /// the count of records and the writer fit.
    #[must_use]
    pub fn follows(&self, previous: &Self, previous_crc: u32) -> bool {
        let same_writer = self.epoch == previous.epoch && self.incarnation == previous.incarnation;
        let ordinal = previous.first_ordinal.checked_add(u64::from(previous.record_count));
        let is_chained = self.previous_crc == previous_crc || planted!("chain-not-checked");
        is_chained
            && ordinal == Some(self.first_ordinal)
            && (self.epoch > previous.epoch || same_writer)
    }

    /// Whether these bytes begin as every frame header does, valid or not.
    pub(crate) fn is_marked(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC_BYTES)
    }

    /// What these bytes, no valid header, may be what is left of, if that was meant for `lsn`.
    pub(crate) fn claim(bytes: &[u8], lsn: Lsn) -> Option<Claim> {
        let is_whole = bytes.len() >= FRAME_HEADER_BYTES;
        (is_whole && get(bytes, LSN) == lsn.get().to_le_bytes()).then(|| Claim {
            epoch: u64::from_le_bytes(get(bytes, EPOCH)),
            previous_crc: u32::from_le_bytes(get(bytes, PREVIOUS_CRC)),
        })
    }
}

/// What a damaged header names: as wrong as the rest of it may be. For the verdict on a torn write, never for
/// trust.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    epoch: u64,
    previous_crc: u32,
}

impl Claim {
    /// Whether this may be what a later writer wrote after the closing frame `close`, whose header has the
    /// CRC `crc`. Behind a close its own writer writes nothing, and what was there before it names neither
    /// a later epoch nor this frame as the one before: a header that names one of them may be the later
    /// writer's, damaged where the other is.
    pub(crate) fn may_follow(&self, close: &FrameHeader, crc: u32) -> bool {
        self.epoch > close.epoch || self.previous_crc == crc
    }
}

/// A frame that is self-valid: every byte was checked.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// The CRC field of its header.
    pub crc: u32,
    records: Records<'a>,
}

impl<'a> Frame<'a> {
    /// Checks the frame of the log `log` that should stand at `lsn`, from its first byte on.
    /// `bytes` must reach at least to its end; a caller that does not know how long it is decodes
    /// the header first.
    ///
    /// # Errors
    /// [`Fault`] unless the frame is self-valid, by the module's definition.
    pub fn check(log: LogId, lsn: Lsn, block_bytes: u32, bytes: &'a [u8]) -> Result<Self, Fault> {
        let (header, crc) = FrameHeader::decode(log, bytes)?;
        if header.lsn != lsn {
            return Err(Fault::Place { found: header.lsn });
        }
        Self::check_body(log, header, crc, block_bytes, bytes)
    }

    /// The second half of [`Frame::check`], for a `header` that was decoded from these `bytes`.
    pub(crate) fn check_body(
        log: LogId,
        header: FrameHeader,
        crc: u32,
        block_bytes: u32,
        bytes: &'a [u8],
    ) -> Result<Self, Fault> {
        let whole = usize::try_from(header.frame_bytes(block_bytes)).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(..whole) else {
            return Err(Fault::Short { found: bytes.len() });
        };
        let payload_bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        let (payload, padding) = bytes[FRAME_HEADER_BYTES..].split_at(payload_bytes);
        let first = Lsn::new(header.lsn.get().wrapping_add(64));
        let seed = WriterSeed::new(log, header.epoch, header.incarnation);
        let records = Records::check(payload, first, seed, header.record_count)?;
        if let Some(offset) = first_nonzero(padding) {
            return Err(Fault::Padding { offset: FRAME_HEADER_BYTES + payload_bytes + offset });
        }
        Ok(Self { header, crc, records })
    }

    /// Its records, in order.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        self.records.clone()
    }
}

/// Why there is no valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The header is all zeros: nothing was ever written here.
    Blank,
    /// The frame ends before its header says so.
    Short {
        /// How many bytes there were.
        found: usize,
    },
    /// Something else than a frame header.
    Magic,
    /// The header was changed, torn, or belongs to another log.
    HeaderCrc {
        /// The place that it names, which may be as wrong as the rest.
        lsn: Lsn,
        /// The sum of the bytes that are there.
        expected: u32,
        /// The sum that was written.
        found: u32,
    },
    /// A valid header of this log that was meant for another place.
    Place {
        /// The place it was meant for.
        found: Lsn,
    },
    /// A purpose that this version does not know.
    Purpose {
        /// Its number.
        found: u32,
        /// The place it was meant for.
        lsn: Lsn,
        /// The epoch of the writer that knew it.
        epoch: u64,
    },
    /// A record's header makes no sense.
    RecordHeader {
        /// The record's place.
        lsn: Lsn,
    },
    /// A record was changed, torn, or written for another place or by another writer.
    RecordCrc {
        /// The record's place.
        lsn: Lsn,
        /// The sum of the bytes that are there.
        expected: u32,
        /// The sum that was written.
        found: u32,
    },
    /// The payload holds another number of records than the header says.
    RecordCount {
        /// What the header says.
        expected: u32,
        /// How many there are.
        found: u32,
    },
    /// The last record says that more of its batch follow.
    BatchOpen,
    /// There is a byte that is not zero after the payload.
    Padding {
        /// Where, from the frame's first byte on.
        offset: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("zeros"),
            Self::Short { found } => write!(f, "only {found} bytes of a frame"),
            Self::Magic => f.write_str("bytes that are no frame header"),
            Self::HeaderCrc { expected, found, .. } => write!(
                f,
                "a frame header with CRC {found:08x} over bytes whose CRC is {expected:08x}"
            ),
            Self::Place { found } => write!(f, "a frame of lsn {found}"),
            Self::Purpose { found, .. } => write!(f, "a frame of unknown purpose {found}"),
            Self::RecordHeader { lsn } => write!(f, "no record header at lsn {lsn}"),
            Self::RecordCrc { lsn, expected, found } => write!(
                f,
                "a record at lsn {lsn} with CRC {found:08x} over bytes whose CRC is {expected:08x}"
            ),
            Self::RecordCount { expected, found } => {
                write!(f, "{found} records under a header of {expected}")
            }
            Self::BatchOpen => f.write_str("a batch without an end"),
            Self::Padding { offset } => write!(f, "a non-zero byte at {offset} in the padding"),
        }
    }
}

fn header_crc(log: LogId, header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log.0);
    hasher.update(&header[LSN..END]);
    hasher.finalize()
}

const _: () = assert!(END == FRAME_HEADER_BYTES);
const _: () = assert!(LSN == 8 && EPOCH == 32 && DURABLE_MARK == 48 && PURPOSE == 60);
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(8));
