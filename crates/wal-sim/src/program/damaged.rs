/*!
A later life on a disk that did wrong and told nobody.

| what the disk did | what the log may do |
|---|---|
| lost or moved a write, or turned a bit | be whole; be refused with the place of the damage; be cut, if no frame that is there says that the log was durable further on |
| said that a flush was done | the same, and lose anything: nobody can know. That it did is noticed by the [`Model`]. If a recovery's opening frame is not there for it, what that recovery had cut may be there again |

In no case is anything there that nobody wrote, or part of a batch.
*/

use super::settings;
use crate::{
    disk::Image,
    explore::{Damage, Life},
    model::{Model, Recovered, Said},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};
use wal::{
    Error, ErrorKind, Lsn,
    format::{FrameHeader, Identity, Purpose, SegmentHeader},
    io::Storage,
};

/// Recovers the log, and says what is wrong with its answer, if anything is.
pub(super) fn check<S: Storage + Clone>(
    life: &Life<Said>,
    storage: &S,
    damage: &Damage,
) -> Result<(), String> {
    let image = life.disk().image();
    let options = settings(storage, &mut life.shared_random(0)).options;
    let model = Model::of(&life.said());
    let outcome = options.open_in(storage.clone());
    let outcome = outcome.and_then(|mut replay| Recovered::read(&mut replay));
    match outcome {
        Ok(found) => {
            let beginning = model.check_beginning(&found);
            beginning.or_else(|what| {
                let may_be_undone = damage.is_lie()
                    && model.contradiction().is_none()
                    && before_undone_recoveries(life, damage, &image)
                        .any(|model| model.check_beginning(&found).is_ok());
                if !may_be_undone {
                    return Err(what);
                }
                life.reach("a flush that lied undid a recovery");
                Ok(())
            })?;
            let is_whole = model.check(&found).is_ok();
            let proven = proven(&image);
            if !damage.is_lie() && found.tail < proven {
                let tail = found.tail;
                return Err(format!("cut at lsn {tail}, though durable up to {proven} with proof"));
            }
            life.reach(match (damage.is_lie(), is_whole) {
                (true, true) => "a flush that lied did no harm",
                (true, false) => "a flush that lied was noticed",
                (false, true) => "silent damage did no harm",
                (false, false) => "silent damage was cut where nothing vouched",
            });
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            // A checkpoint that is lost leaves its segments, which are used again, to be asked for.
            let took_checkpoint = error.lsn().is_some_and(|lsn| lsn < model.start_mark_max());
            let places = places(damage.honest(), &image);
            life.reach(if damage.is_lie() {
                "what a flush that lied left was refused"
            } else if names_place(&error, &places, damage) {
                "silent damage was refused with its place"
            } else if took_checkpoint {
                "silent damage took a checkpoint along and was refused"
            } else {
                let places = places.keys();
                return Err(format!("the damage is in {places:?}, the log says: {error:?}"));
            });
        }
        Err(error) => return Err(format!("open: {error}")),
    }
    Ok(())
}

/// The models of what had been said when recoveries of the life began that the disk lied to: those whose
/// opening frame, which keeps what it cut from coming back, is not there, though it would be on an honest disk.
fn before_undone_recoveries(
    life: &Life<Said>,
    damage: &Damage,
    image: &Image,
) -> impl Iterator<Item = Model> {
    let past = life.past();
    let (due, there) = (openings(damage.honest()), openings(image));
    let founds = past.iter().enumerate().skip(damage.notes_before());
    founds.filter_map(move |(index, said)| match said {
        Said::Found(found) if due.contains(&found.epoch) && !there.contains(&found.epoch) => {
            Some(Model::of(&past[..index]))
        }
        _ => None,
    })
}

/// The epochs whose opening frame is there.
fn openings(image: &Image) -> BTreeSet<u64> {
    let headers = headers(image).into_iter();
    let openings = headers.filter(|header| header.purpose == Purpose::Opening);
    openings.map(|header| header.epoch).collect()
}

/// The highest durable mark that a frame's header says which stands where it belongs.
fn proven(image: &Image) -> Lsn {
    headers(image).iter().map(|header| header.durable_mark).max().unwrap_or_default()
}

/// The valid headers of frames that stand where they belong.
fn headers(image: &Image) -> Vec<FrameHeader> {
    let Some(identity) = identity(image) else { return Vec::new() };
    let mut headers = Vec::new();
    for name in image.names().iter().filter(|name| name.starts_with("slot-")) {
        let bytes = image.read(name).unwrap_or_default();
        let blocks = (0..bytes.len()).step_by(block_bytes(&identity));
        for offset in blocks {
            let Ok((header, _)) = FrameHeader::decode(identity.log_id, &bytes[offset..]) else {
                continue;
            };
            if header.lsn.get() % identity.segment_bytes == widen(offset) {
                headers.push(header);
            }
        }
    }
    headers
}

/// Where `image` differs from what an honest disk would hold: from the first to the last byte of each
/// stretch of sectors.
fn places(honest: &Image, image: &Image) -> BTreeMap<String, Vec<Range<usize>>> {
    const SECTOR_BYTES: usize = 512;
    let mut places: BTreeMap<String, Vec<Range<usize>>> = BTreeMap::new();
    for name in honest.names().into_iter().chain(image.names()) {
        let (one, other) = (honest.read(&name), image.read(&name));
        let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
        let sector = |bytes: &[u8], start: usize| {
            bytes.get(start..bytes.len().min(start + SECTOR_BYTES)).unwrap_or_default().to_vec()
        };
        let starts = (0..one.len().max(other.len())).step_by(SECTOR_BYTES);
        let differ = starts.filter(|start| sector(&one, *start) != sector(&other, *start));
        let ranges: Vec<_> = differ.map(|start| start..start + SECTOR_BYTES).collect();
        if !ranges.is_empty() {
            places.insert(name, ranges);
        }
    }
    places
}

/// Whether `error` says a place that is damaged: the frame or block that it names, or the one that
/// should follow where a segment ends.
fn names_place(
    error: &Error,
    places: &BTreeMap<String, Vec<Range<usize>>>,
    damage: &Damage,
) -> bool {
    let Some(identity) = identity(damage.honest()) else { return true };
    let block = block_bytes(&identity);
    let path = error.path().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    let ranges = path.and_then(|name| places.get(name));
    let touches = |ranges: &[Range<usize>], place: Range<usize>| {
        ranges.iter().any(|range| range.start < place.end && place.start < range.end)
    };
    // Of what stood there, or of a block.
    let length = |bytes: &[u8], offset: usize| {
        let rest = bytes.get(offset..).unwrap_or_default();
        let frame = FrameHeader::decode(identity.log_id, rest);
        let length = frame.map(|(header, _)| header.frame_bytes(identity.block_bytes));
        length.map_or(block, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    };
    if let (Some(name), Some(ranges)) = (path, ranges) {
        let Some(offset) = error.offset().and_then(|offset| usize::try_from(offset).ok()) else {
            return true;
        };
        let bytes = damage.honest().read(name).unwrap_or_default();
        if touches(ranges, offset..offset.saturating_add(length(&bytes, offset))) {
            return true;
        }
    }
    // The head of a segment: its own header is not there to say which one it is, or the segment before
    // it is told to go on to nothing.
    places.iter().any(|(name, ranges)| {
        let bytes = damage.honest().read(name).unwrap_or_default();
        let head_bytes = block.saturating_add(length(&bytes, block));
        let is_head = name == "identity" || touches(ranges, 0..head_bytes);
        let header = SegmentHeader::decode(&identity, &bytes).ok();
        let sequence = header.map(|header| header.sequence);
        let next = error.lsn().map(|lsn| lsn.get().div_ceil(identity.segment_bytes));
        is_head && (next.is_none() || sequence.is_none() || sequence == next)
    })
}

fn identity(image: &Image) -> Option<Identity> {
    Identity::decode(&image.read("identity")?).ok()
}

fn block_bytes(identity: &Identity) -> usize {
    usize::try_from(identity.block_bytes).unwrap_or(4096)
}

fn widen(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
