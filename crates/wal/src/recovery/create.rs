//! Making a new log: everything durable before the identity's name makes it a log.

use super::{
    Policy,
    survey::{
        IDENTITY_NAME, IDENTITY_TEMPORARY_NAME, Names, check_alignment, directory_error, slot_error,
    },
};
use crate::{
    Error, ErrorKind, Result,
    format::{FrameHeader, IDENTITY_BYTES, Identity, LogId, Origin},
    io::{Access, File, Storage},
    reading,
    slots::{Slot, slot_name},
};
use aligned::Buffer;
use std::{io, ops::ControlFlow};

const STEP_BYTES: usize = 1 << 20;
/// The smallest block there can be: every frame begins at a multiple of it.
const BLOCK_BYTES_MIN: usize = 512;

/// Makes a log where there is none, or where an earlier creation was interrupted.
pub(super) fn create<S: Storage>(storage: &S, policy: &Policy, names: &Names) -> Result<Identity> {
    let policy = &fitted(storage, policy);
    let identity = identity(storage, policy)?;
    for (name, leftover) in leftovers(storage, policy, names)? {
        let gone = match leftover {
            Leftover::Unfinished => storage.remove(&name),
            Leftover::Unknown => {
                let aside = format!("set-aside-{:016x}-{name}", storage.random());
                storage.rename(&name, &aside)
            }
        };
        gone.map_err(|error| slot_error(storage, &name, "clear away an unfinished slot", error))?;
    }
    // Two slots, so that the first segment's successor needs no room that may be gone by then.
    let slots = [new_slot(storage, &identity, 0)?, new_slot(storage, &identity, 1)?];
    sync_dir(storage)?;
    let [first, _] = &slots;
    first.write_header(storage.alignment(), &identity, 0, Origin::Zeroed).map_err(|error| {
        slot_error(storage, &first.name, "write the first segment's header", error)
    })?;
    write_identity(storage, &identity)
        .map_err(|error| slot_error(storage, IDENTITY_NAME, "write the log's identity", error))?;
    sync_dir(storage)?;
    Ok(identity)
}

/// The policy with a block that can be written alone.
fn fitted<S: Storage>(storage: &S, policy: &Policy) -> Policy {
    let least = if policy.block_may_grow { storage.alignment().bytes() } else { 0 };
    let least = u32::try_from(least).unwrap_or(u32::MAX);
    Policy { block_bytes: policy.block_bytes.max(least), ..*policy }
}

fn identity<S: Storage>(storage: &S, policy: &Policy) -> Result<Identity> {
    let mut id = [0; 16];
    let (first, second) = id.split_at_mut(8);
    first.copy_from_slice(&storage.random().to_le_bytes());
    second.copy_from_slice(&storage.random().to_le_bytes());
    let Policy { segment_bytes, block_bytes, created_at, .. } = *policy;
    let identity = Identity::new(LogId(id), segment_bytes, block_bytes, created_at);
    let identity = identity.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "segment_bytes and block_bytes do not fit")
            .with_expected_found(
                "a block that is a power of two from 512 to 65536 and a segment of 16 blocks or \
                 more, a multiple of the block, up to 256 MiB",
                format!("a segment of {segment_bytes} bytes with a block of {block_bytes}"),
            )
    })?;
    check_alignment(storage, block_bytes)?;
    Ok(identity)
}

/// What is in a slot of a place that has no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leftover {
    /// Zeros, and in the first slot's first block whatever a torn write of a header left.
    Unfinished,
    /// No frame, and something else than zeros: torn zeros, most likely. Kept under another name.
    Unknown,
}

/// What an interrupted creation left. An error if it is more than that: a frame, or what is made only of
/// frames. Then this was a log once.
fn leftovers<S: Storage>(
    storage: &S,
    policy: &Policy,
    names: &Names,
) -> Result<Vec<(String, Leftover)>> {
    let lost = |name: &str, found: &str| {
        Error::new(ErrorKind::Corrupt, "the log's identity is missing")
            .with_path(storage.path().join(name))
            .with_expected_found("nothing but an unfinished creation without it", found)
    };
    if let Some(name) = names.cuts.first() {
        return Err(lost(name, "frames that were cut from a log"));
    }
    let mut found = Vec::new();
    for number in &names.slots {
        let name = slot_name(*number);
        let failed = |error| slot_error(storage, &name, "read a slot", error);
        let file = storage.open(&name, Access::Read).map_err(failed)?;
        if *number > 1 {
            return Err(lost(&name, "more than two slots"));
        }
        // The header goes to the first slot, in one write of a block.
        let header_bytes = if *number == 0 { policy.block_bytes } else { 0 };
        match look_through(storage, &file, header_bytes).map_err(failed)? {
            None => return Err(lost(&name, "a slot that was used")),
            Some(leftover) => found.push((name, leftover)),
        }
    }
    Ok(found)
}

/// What is in `file`, whose first `header_bytes` may be anything; `None` if there may be a frame.
fn look_through<S: Storage>(
    storage: &S,
    file: &S::File,
    header_bytes: u32,
) -> io::Result<Option<Leftover>> {
    let mut buffer = Buffer::zeroed(storage.alignment(), STEP_BYTES).map_err(io::Error::other)?;
    let buffer = buffer.as_mut_slice();
    let header_bytes = usize::try_from(header_bytes).unwrap_or(usize::MAX);
    let mut leftover = Leftover::Unfinished;
    let mut offset = 0;
    loop {
        let read = file.read_at(buffer, offset)?;
        let skip = if offset == 0 { header_bytes.min(read) } else { 0 };
        if !reading::is_zero(&buffer[..read]) {
            if buffer[..read].chunks(BLOCK_BYTES_MIN).any(FrameHeader::is_marked) {
                return Ok(None);
            }
            if !reading::is_zero(&buffer[skip..read]) {
                leftover = Leftover::Unknown;
            }
        }
        if read < buffer.len() {
            return Ok(Some(leftover));
        }
        offset += u64::try_from(read).unwrap_or(u64::MAX);
    }
}

fn new_slot<S: Storage>(storage: &S, identity: &Identity, number: u32) -> Result<Slot<S::File>> {
    let failed =
        |error| slot_error(storage, &slot_name(number), "create a slot and fill it", error);
    let slot = Slot::create(storage, number).map_err(failed)?;
    let mut never_pause = |_| ControlFlow::Continue(());
    let _ = slot
        .fill_with_zeros(storage.alignment(), identity.segment_bytes, &mut never_pause)
        .map_err(failed)?;
    slot.file.sync().map_err(failed)?;
    Ok(slot)
}

fn write_identity<S: Storage>(storage: &S, identity: &Identity) -> io::Result<()> {
    match storage.remove(IDENTITY_TEMPORARY_NAME) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create_file(IDENTITY_TEMPORARY_NAME)?;
    let mut buffer =
        Buffer::zeroed(storage.alignment(), IDENTITY_BYTES).map_err(io::Error::other)?;
    let bytes = buffer.as_mut_slice();
    identity.encode(&mut bytes[..IDENTITY_BYTES]);
    file.write_at(bytes, 0)?;
    if bytes.len() != IDENTITY_BYTES {
        // A device whose blocks are larger than the file.
        file.set_len(u64::try_from(IDENTITY_BYTES).unwrap_or(u64::MAX))?;
    }
    file.sync()?;
    storage.rename(IDENTITY_TEMPORARY_NAME, IDENTITY_NAME)
}

fn sync_dir<S: Storage>(storage: &S) -> Result<()> {
    storage.sync_dir().map_err(|error| directory_error(storage, error))
}
