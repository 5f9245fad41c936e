//! What files there are, and what each slot's first block says.

use super::flush;
use crate::{
    Error, ErrorKind, Lsn, Result,
    format::{HeaderFault, IDENTITY_BYTES, Identity, SegmentHeader},
    io::{Access, File, Storage},
    reading,
    slots::{Slot, slot_number},
};
use std::{collections::BTreeMap, fmt, io, sync::Arc};

/// The identity file.
pub(crate) const IDENTITY_NAME: &str = "identity";
/// What it is called until it is whole.
pub(crate) const IDENTITY_TEMPORARY_NAME: &str = "identity.tmp";
/// What the names of files begin with that keep frames that were cut.
pub(crate) const CUT_PREFIX: &str = "cut-";
/// Names that belong to the storage.
const STORAGE_NAMES: [&str; 3] = ["lock", "probe", "probe.tmp"];

/// The names in a log's directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) identity: bool,
    pub(crate) slots: Vec<u32>,
    pub(crate) cuts: Vec<String>,
    pub(crate) foreign: Vec<String>,
}

/// A slot and what its first block says.
pub(crate) struct Surveyed<F> {
    pub(crate) slot: Arc<Slot<F>>,
    pub(crate) bytes: u64,
    pub(crate) head: Head,
}

/// What a slot's first block says.
#[derive(Debug)]
pub(crate) enum Head {
    Valid(SegmentHeader),
    Invalid(HeaderFault),
    /// Another slot says that it is the same segment, and is taken for it.
    Twin {
        sequence: u64,
    },
    Unreadable(io::Error),
}

/// All slots.
pub(crate) struct Survey<F> {
    pub(crate) slots: Vec<Surveyed<F>>,
    /// Of the opens that left a file of what they cut.
    pub(crate) highest_cut_epoch: u64,
    pub(crate) foreign: Vec<String>,
    pub(crate) bytes_read: u64,
}

impl Names {
    /// Sorts the directory's entries.
    pub(crate) fn list<S: Storage>(storage: &S) -> Result<Self> {
        let mut entries = storage.list().map_err(|error| directory_error(storage, error))?;
        entries.sort_unstable();
        let mut names = Self::default();
        for name in entries {
            if name == IDENTITY_NAME {
                names.identity = true;
            } else if let Some(number) = slot_number(&name) {
                names.slots.push(number);
            } else if name.starts_with(CUT_PREFIX) {
                names.cuts.push(name);
            } else if name != IDENTITY_TEMPORARY_NAME && !STORAGE_NAMES.contains(&name.as_str()) {
                names.foreign.push(name);
            }
        }
        names.slots.sort_unstable();
        Ok(names)
    }

    /// The highest epoch in the name of a file of cut frames, of those that an open gave: anybody can
    /// give a file a name.
    fn highest_cut_epoch(&self) -> u64 {
        self.cuts.iter().filter_map(|name| cut_epoch(name)).max().unwrap_or(0)
    }

    /// A number that no slot has: the one after the highest, or if there is none, the lowest.
    pub(crate) fn next_slot_number(&self) -> u32 {
        let Some(last) = self.slots.last() else { return 0 };
        last.checked_add(1).unwrap_or_else(|| {
            let mut numbers = self.slots.iter().zip(0..);
            numbers.find(|(slot, number)| *slot != number).map_or(u32::MAX, |(_, number)| number)
        })
    }
}

/// The name of the file that keeps what the open of this epoch cut.
pub(super) fn cut_name(at: Lsn, epoch: u64) -> String {
    format!("{CUT_PREFIX}{at}-{epoch}")
}

/// No open ever had a higher one: each rises by 2^32 at the most, and there were not that many.
const CUT_EPOCH_MAX: u64 = 1 << 63;

/// The epoch in a name that [`cut_name`] gave.
fn cut_epoch(name: &str) -> Option<u64> {
    let (at, epoch) = name.strip_prefix(CUT_PREFIX)?.split_once('-')?;
    let (at, epoch) = (at.parse().ok().map(Lsn::new)?, epoch.parse().ok()?);
    (epoch <= CUT_EPOCH_MAX && cut_name(at, epoch) == name).then_some(epoch)
}

impl<F: File> Survey<F> {
    /// Opens every slot and reads its first block.
    pub(crate) fn take<S: Storage<File = F>>(
        storage: &Arc<S>,
        identity: &Identity,
        names: Names,
        access: Access,
    ) -> Result<Self> {
        let highest_cut_epoch = names.highest_cut_epoch();
        let mut opened = Vec::with_capacity(names.slots.len());
        for number in names.slots {
            let slot = Slot::open(&**storage, number, access).map_err(|error| {
                slot_error(&**storage, &crate::slots::slot_name(number), "open a slot", error)
            })?;
            opened.push(Arc::new(slot));
        }
        if access == Access::ReadWrite && !planted!("not-flushed-at-open") {
            // After a crash of the process alone, what is read next may be in a cache and nowhere
            // else, and so may a whole log that was just copied here; what is presented as durable
            // has to be.
            flush::flush(storage, &opened)
                .map_err(|(name, error)| slot_error(&**storage, &name, "flush a slot", error))?;
        }
        let mut slots = Vec::with_capacity(opened.len());
        for slot in opened {
            let failed =
                |error| slot_error(&**storage, &slot.name, "look up a slot's length", error);
            let bytes = slot.file.len().map_err(failed)?;
            let head = Head::read(&**storage, identity, &slot)?;
            slots.push(Surveyed { slot, bytes, head });
        }
        let count = u64::try_from(slots.len()).unwrap_or(u64::MAX);
        let bytes_read = count.saturating_mul(identity.block_bytes.into());
        Ok(Self { slots, highest_cut_epoch, foreign: names.foreign, bytes_read })
    }

    /// Which slots say that they are which segment.
    pub(crate) fn by_sequence(&self) -> BTreeMap<u64, Vec<usize>> {
        let mut map: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, surveyed) in self.slots.iter().enumerate() {
            if let Head::Valid(header) = &surveyed.head {
                map.entry(header.sequence).or_default().push(index);
            }
        }
        map
    }
}

impl Head {
    /// Reads a slot's first block. An error only if there is no memory to look.
    pub(crate) fn read<S: Storage>(
        storage: &S,
        identity: &Identity,
        slot: &Slot<S::File>,
    ) -> Result<Self> {
        let block_bytes = usize::try_from(identity.block_bytes).unwrap_or(usize::MAX);
        match reading::read_head(&slot.file, storage.alignment(), block_bytes) {
            Err(error) if reading::is_no_memory(&error) => {
                Err(slot_error(storage, &slot.name, "read a slot's header", error))
            }
            Err(error) => Ok(Self::Unreadable(error)),
            Ok(block) => Ok(match SegmentHeader::decode(identity, &block) {
                Ok(header) => Self::Valid(header),
                Err(fault) => Self::Invalid(fault),
            }),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid(header) => write!(f, "the header of segment {}", header.sequence),
            Self::Invalid(fault) => fault.fmt(f),
            Self::Twin { sequence } => write!(f, "a second header of segment {sequence}"),
            Self::Unreadable(error) => write!(f, "a read error: {error}"),
        }
    }
}

/// Makes the identity file durable, which is there: without it the slots are no log, and it may have
/// been copied here with them.
pub(super) fn flush_identity<S: Storage>(storage: &S) -> Result<()> {
    let file = storage.open(IDENTITY_NAME, Access::Read);
    let flushed = file.and_then(|file| file.sync().and_then(|()| file.drop_cache()));
    flushed.map_err(|error| slot_error(storage, IDENTITY_NAME, "flush the log's identity", error))
}

/// Reads the identity file, which is there.
pub(crate) fn read_identity<S: Storage>(storage: &S) -> Result<Identity> {
    let failed = |error| slot_error(storage, IDENTITY_NAME, "read the log's identity", error);
    let damaged = |found: String| {
        Error::new(ErrorKind::Corrupt, "the log's identity is damaged")
            .with_path(storage.path().join(IDENTITY_NAME))
            .with_expected_found(format!("{IDENTITY_BYTES} valid bytes"), found)
    };
    let file = storage.open(IDENTITY_NAME, Access::Read).map_err(failed)?;
    let bytes = file.len().map_err(failed)?;
    if usize::try_from(bytes) != Ok(IDENTITY_BYTES) {
        return Err(damaged(format!("{bytes} bytes")));
    }
    let head = reading::read_head(&file, storage.alignment(), IDENTITY_BYTES).map_err(failed)?;
    let identity = Identity::decode(&head).map_err(|fault| match fault {
        HeaderFault::Version { .. } => Error::new(ErrorKind::Unsupported, "the log's format")
            .with_path(storage.path().join(IDENTITY_NAME))
            .with_expected_found(format!("version {}", crate::format::VERSION), fault),
        _ => damaged(fault.to_string()),
    })?;
    check_alignment(storage, identity.block_bytes)?;
    Ok(identity)
}

/// Refuses blocks that the device cannot write alone.
pub(crate) fn check_alignment<S: Storage>(storage: &S, block_bytes: u32) -> Result<()> {
    let alignment = storage.alignment();
    if alignment.is_aligned(block_bytes.into()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "the log's block is smaller than what the device writes at once: two blocks would share \
         one of its own, and writing one would risk the other",
    )
    .with_path(storage.path())
    .with_expected_found(format!("a multiple of {alignment} bytes"), block_bytes))
}

/// `error` met at the log's directory itself.
pub(crate) fn directory_error<S: Storage>(storage: &S, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotADirectory => {
            Error::new(ErrorKind::Unsupported, "the log's place is no directory").with_source(error)
        }
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, "there is no log here").with_source(error)
        }
        _ => Error::from_io("use the log's directory", error),
    }
    .with_path(storage.path())
}

/// `error` met at one of the log's files while doing `what`.
pub(crate) fn slot_error<S: Storage>(
    storage: &S,
    name: &str,
    what: &str,
    error: io::Error,
) -> Error {
    Error::from_io(what, error).with_path(storage.path().join(name))
}
