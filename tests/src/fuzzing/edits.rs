//! How files are damaged.

use super::{
    image::{Image, Known, crc_field, log_id, narrow},
    script::{Edit, Spot, Value, Wound},
    seal::{FRAME, Field, IDENTITY, SEGMENT, Width, seal_block, seal_header, seal_records, set},
};
use crate::Random;
use wal::{
    LogId,
    format::{FRAME_HEADER_BYTES, Identity, Purpose, SegmentHeader},
};

const SECTOR: usize = 512;
const DURABLE_MARK: Field = (48, Width::Eight);
const PREVIOUS_CRC: Field = (56, Width::Four);

/// How far the files went from what the log wrote. Later ones are worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nature {
    /// Not at all.
    #[default]
    Whole,
    /// As a crash does while the last frames are written.
    Torn,
    /// As a disk, or a person, does.
    Damaged,
    /// As only a forger does: checksums fit bytes that the log never wrote.
    Forged,
}

/// What edits can draw on.
pub(super) struct Past<'a> {
    /// The frames before the first edit.
    pub(super) frames: &'a [Known],
    /// The files at earlier times, oldest first.
    pub(super) images: &'a [Image],
}

/// Does `edit` to `image`, as far as there is something to do it to.
pub(super) fn apply(image: &mut Image, past: &Past<'_>, edit: Edit) -> Nature {
    edit_bytes(image, past, edit).map_or(Nature::Whole, |()| nature(edit))
}

fn nature(edit: Edit) -> Nature {
    match edit {
        Edit::Tear { .. } => Nature::Torn,
        Edit::ForgeFrame { .. }
        | Edit::ForgeRecord { .. }
        | Edit::ForgeSegment { .. }
        | Edit::ForgeIdentity { .. } => Nature::Forged,
        _ => Nature::Damaged,
    }
}

fn edit_bytes(image: &mut Image, past: &Past<'_>, edit: Edit) -> Option<()> {
    match edit {
        Edit::Tear { back, sectors, wound } => tear(image, past, back, sectors, wound),
        Edit::Flip { spot, bit } => {
            let (name, at) = place(image, spot)?;
            image.files.get_mut(&name)?[at] ^= 1 << (bit % 8);
            Some(())
        }
        Edit::FlipFrame { frame, at, bit } => {
            let known = pick(past.frames, frame)?;
            let at = known.offset + usize::from(at) % known.bytes.len();
            *image.files.get_mut(&known.file)?.get_mut(at)? ^= 1 << (bit % 8);
            Some(())
        }
        Edit::Wound { spot, sectors, wound } => {
            let (name, at) = place(image, spot)?;
            let first = at / SECTOR;
            (first..=first + usize::from(sectors % 16))
                .for_each(|sector| hurt(image, past, &name, sector, wound));
            Some(())
        }
        Edit::Copy { from, to, sectors } => copy(image, from, to, sectors),
        Edit::Swap { one, other, sectors } => {
            let before = image.clone();
            copy(image, one, other, sectors)?;
            let (name, at) = place(&before, one)?;
            let (source, from) = place(&before, other)?;
            put_stretch(image, &before, (&source, from), (&name, at), sectors)
        }
        Edit::Truncate { spot } => {
            let (name, at) = place(image, spot)?;
            image.files.get_mut(&name)?.truncate(at);
            Some(())
        }
        Edit::Extend { spot } => {
            let (name, at) = place(image, spot)?;
            let bytes = image.files.get_mut(&name)?;
            bytes.resize(bytes.len() + at, 0);
            Some(())
        }
        Edit::Rollback { spot, age } => roll_back(image, past, spot, age),
        Edit::Foreign { file } => foreign(image, file),
        Edit::Remove { .. }
        | Edit::Duplicate { .. }
        | Edit::Rename { .. }
        | Edit::SwapFiles { .. } => edit_names(image, edit),
        Edit::ForgeFrame { .. }
        | Edit::ForgeRecord { .. }
        | Edit::ForgeSegment { .. }
        | Edit::ForgeIdentity { .. } => forge(image, past, edit),
    }
}

fn edit_names(image: &mut Image, edit: Edit) -> Option<()> {
    let slot = |number: u8| format!("slot-{:06}", number % 6);
    match edit {
        Edit::Remove { file } => {
            let name = name(image, file)?;
            image.files.remove(&name).map(drop)
        }
        Edit::Duplicate { file, number } => {
            let bytes = image.files.get(&name(image, file)?)?.clone();
            image.files.insert(slot(number), bytes);
            Some(())
        }
        Edit::Rename { file, number } => {
            let name = name(image, file)?;
            let bytes = image.files.remove(&name)?;
            image.files.insert(slot(number), bytes);
            Some(())
        }
        Edit::SwapFiles { one, other } => {
            let (one, other) = (name(image, one)?, name(image, other)?);
            let (first, second) = (image.files.get(&one)?.clone(), image.files.remove(&other)?);
            image.files.insert(one, second);
            image.files.insert(other, first);
            Some(())
        }
        _ => None,
    }
}

fn tear(image: &mut Image, past: &Past<'_>, back: u8, sectors: u16, wound: Wound) -> Option<()> {
    let index = past.frames.len().checked_sub(1 + usize::from(back % 4))?;
    let known = past.frames.get(index)?;
    let first = known.offset / SECTOR;
    for sector in 0..known.bytes.len() / SECTOR {
        if sectors & (1 << (sector % 16)) != 0 {
            hurt(image, past, &known.file, first + sector, wound);
        }
    }
    Some(())
}

/// Replaces one sector, if the file has it.
fn hurt(image: &mut Image, past: &Past<'_>, name: &str, sector: usize, wound: Wound) {
    let range = sector * SECTOR..(sector + 1) * SECTOR;
    let Some(bytes) = image.files.get_mut(name).and_then(|bytes| bytes.get_mut(range.clone()))
    else {
        return;
    };
    match wound {
        Wound::Zeros => bytes.fill(0),
        Wound::Garbage(seed) => {
            let mut random = Random::new(u64::from(seed));
            bytes.fill_with(|| u8::try_from(random.below(256)).unwrap_or_default());
        }
        Wound::Old => {
            let old = past.images.iter().rev().filter_map(|image| image.files.get(name));
            let mut old = old.filter_map(|file| file.get(range.clone()));
            match old.find(|old| **old != *bytes) {
                Some(old) => bytes.copy_from_slice(old),
                None => bytes.fill(0),
            }
        }
    }
}

fn copy(image: &mut Image, from: Spot, to: Spot, sectors: u8) -> Option<()> {
    let (source, start) = place(image, from)?;
    let (target, at) = place(image, to)?;
    let before = image.clone();
    put_stretch(image, &before, (&source, start), (&target, at), sectors)
}

fn put_stretch(
    image: &mut Image,
    before: &Image,
    (source, start): (&str, usize),
    (target, at): (&str, usize),
    sectors: u8,
) -> Option<()> {
    let (start, at) = (start / SECTOR * SECTOR, at / SECTOR * SECTOR);
    let source = before.files.get(source)?.get(start..)?;
    let target = image.files.get_mut(target)?.get_mut(at..)?;
    let wanted = SECTOR * (1 + usize::from(sectors % 32));
    let bytes = wanted.min(source.len()).min(target.len());
    target[..bytes].copy_from_slice(&source[..bytes]);
    Some(())
}

fn roll_back(image: &mut Image, past: &Past<'_>, spot: Spot, age: u8) -> Option<()> {
    let (name, at) = place(image, spot)?;
    let old = pick(past.images, age)?.files.get(&name)?;
    let at = at / SECTOR * SECTOR;
    let bytes = image.files.get_mut(&name)?;
    bytes.truncate(at);
    bytes.extend_from_slice(old.get(at..).unwrap_or_default());
    Some(())
}

fn foreign(image: &mut Image, file: u8) -> Option<()> {
    let name = name(image, file)?;
    let own = image.identity()?;
    let identity =
        Identity::new(LogId([0x77; 16]), own.segment_bytes, own.block_bytes, own.created)?;
    let bytes = image.files.get_mut(&name)?;
    if name == "identity" {
        bytes.fill(0);
        identity.encode(bytes);
        return Some(());
    }
    let header = SegmentHeader::decode(&own, bytes).ok()?;
    let header = SegmentHeader::new(&identity, header.sequence, header.origin)?;
    let block = bytes.get_mut(..narrow(own.block_bytes.into()))?;
    block.fill(0);
    header.encode(&identity, block);
    Some(())
}

fn forge(image: &mut Image, past: &Past<'_>, edit: Edit) -> Option<()> {
    let log = log_id(image);
    match edit {
        Edit::ForgeFrame { frame, field, value, rechain } => {
            let index = usize::from(frame) % past.frames.len().max(1);
            let known = past.frames.get(index)?;
            let bytes = image.files.get_mut(&known.file)?.get_mut(known.offset..)?;
            change(bytes, FRAME, field, value)?;
            // The records are sealed for the writer that the header names now.
            seal_records(log, bytes);
            let crc = seal_header(log, bytes);
            if rechain {
                chain(image, log, &past.frames[index + 1..], crc);
            }
            Some(())
        }
        Edit::ForgeRecord { frame, at, byte } => {
            let known = pick(past.frames, frame)?;
            let bytes = image.files.get_mut(&known.file)?.get_mut(known.offset..)?;
            let payload = known.bytes.len().checked_sub(FRAME_HEADER_BYTES)?;
            *bytes.get_mut(FRAME_HEADER_BYTES + usize::from(at) % payload.max(1))? = byte;
            seal_records(log, bytes);
            Some(())
        }
        Edit::ForgeSegment { file, field, value } => {
            let block = narrow(image.identity()?.block_bytes.into());
            let name = name(image, file).filter(|name| name != "identity")?;
            let bytes = image.files.get_mut(&name)?.get_mut(..block)?;
            change(bytes, SEGMENT, field, value)?;
            seal_block(bytes);
            Some(())
        }
        Edit::ForgeIdentity { field, value } => {
            let bytes = image.files.get_mut("identity")?;
            change(bytes, IDENTITY, field, value)?;
            seal_block(bytes);
            Some(())
        }
        _ => None,
    }
}

fn change(bytes: &mut [u8], fields: &[Field], field: u8, value: Value) -> Option<()> {
    let field = fields[usize::from(field) % fields.len()];
    let mut present = [0; 8];
    let rest = bytes.get(field.0..)?;
    let length = rest.len().min(8);
    present[..length].copy_from_slice(&rest[..length]);
    let value = match value {
        Value::Exactly(number) => number,
        Value::Plus(number) => u64::from_le_bytes(present).wrapping_add_signed(number.into()),
        Value::BelowMax(number) => u64::MAX - u64::from(number),
    };
    set(bytes, field, value);
    Some(())
}

/// Makes `frames` follow a frame whose CRC is `crc`.
fn chain(image: &mut Image, log: LogId, frames: &[Known], mut crc: u32) {
    for known in frames {
        let bytes = image.files.get_mut(&known.file).and_then(|file| file.get_mut(known.offset..));
        let Some(bytes) = bytes else { return };
        set(bytes, PREVIOUS_CRC, crc.into());
        crc = seal_header(log, bytes);
    }
}

/// Makes the durable marks of the last life lag behind by `lag` frames more, as they do in a log
/// that had several frames in flight: the opening frame is durable before any other of its life, and
/// a segment's frames before the first one of the next.
pub(super) fn lag_marks(image: &mut Image, frames: &[Known], lag: usize) {
    let log = log_id(image);
    let Some(last) = frames.last() else { return };
    let Some(opening) = frames.iter().rposition(|known| known.header.purpose == Purpose::Opening)
    else {
        return;
    };
    let mut previous: Option<u32> = None;
    let mut first_of_segment = 0;
    for (index, known) in frames.iter().enumerate() {
        if known.is_first {
            first_of_segment = index;
        }
        let may_lag = known.header.purpose == Purpose::Records
            && known.header.epoch == last.header.epoch
            && index > opening;
        let Some(bytes) = image.files.get_mut(&known.file) else { return };
        let bytes = &mut bytes[known.offset..];
        if may_lag && lag > 0 {
            let durable = index.saturating_sub(1 + lag);
            let durable = durable.max(opening).max(first_of_segment.saturating_sub(1));
            set(bytes, DURABLE_MARK, frames[durable].end());
        }
        if let Some(previous) = previous {
            set(bytes, PREVIOUS_CRC, previous.into());
        }
        // The first frame keeps what it says of one that is gone.
        let is_same = bytes[..FRAME_HEADER_BYTES] == known.bytes[..FRAME_HEADER_BYTES];
        let crc = if is_same { crc_field(bytes) } else { seal_header(log, bytes) };
        previous = Some(crc);
    }
}

/// The `index`th file, round and round.
fn name(image: &Image, index: u8) -> Option<String> {
    let count = image.files.len();
    image.files.keys().nth(usize::from(index) % count.max(1)).cloned()
}

/// A byte of a file.
fn place(image: &Image, spot: Spot) -> Option<(String, usize)> {
    let name = name(image, spot.file)?;
    let bytes = image.files.get(&name)?.len();
    (bytes > 0).then(|| (name, usize::from(spot.at) % bytes))
}

fn pick<T>(all: &[T], index: u8) -> Option<&T> {
    all.get(usize::from(index) % all.len().max(1))
}
