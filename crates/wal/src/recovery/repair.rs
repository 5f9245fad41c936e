//! Keeping what was cut. The only code of recovery that writes, and it writes copies.

use super::{
    CutTail, Recovered,
    survey::{cut_name, slot_error},
};
use crate::{
    Error, ErrorKind, Result,
    format::Frame,
    io::{File, Storage},
};
use aligned::{AllocError, Buffer};
use std::io;

/// The text at the head of a file of cut frames takes this much.
const HEAD_BYTES: usize = 4096;

/// Copies the intact frames above the cut into a file, durably, and answers its name; `None` if
/// there are none and all of what is cut was read. Where it was not, the name is what matters: it has
/// the epoch of this open, and the frames of this open may be what cannot be read the next time.
///
/// The file is a head of text, 4096 bytes or a block if that is more, and then the frames one after
/// the other, each as it stood in the log. It gets its name when it is whole: after a crash in the
/// middle the same frames are found and the same file is made, or where not all was read, one more of a
/// higher epoch. Nothing here ever removes one.
///
/// After an error it may be called again: what is there without having been synced is written anew.
pub(crate) fn keep_cut<S: Storage>(recovered: &mut Recovered<S>) -> Result<Option<String>> {
    let is_kept = |cut: &&CutTail<S::File>| cut.has_unread || !cut.frames.is_empty();
    let Some(cut) = recovered.cut.as_ref().filter(is_kept) else {
        return Ok(None);
    };
    if cut.cut.kept_in.is_some() {
        return Ok(cut.cut.kept_in.clone());
    }
    let name = cut_name(cut.cut.at, recovered.epoch);
    let storage = &*recovered.storage;
    let failed = |error| slot_error(storage, &name, "keep the frames that are cut", error);
    let names = storage.list().map_err(failed)?;
    if !names.contains(&name) || cut.is_half_kept {
        write(recovered, &name)?;
    }
    if let Err(error) = storage.sync_dir() {
        let error = failed(error);
        recovered.cut.iter_mut().for_each(|cut| cut.is_half_kept = true);
        return Err(error);
    }
    for cut in recovered.cut.iter_mut().map(|cut| &mut cut.cut).chain(&mut recovered.report.cut) {
        cut.kept_in = Some(name.clone());
    }
    Ok(Some(name))
}

fn write<S: Storage>(recovered: &Recovered<S>, name: &str) -> Result<()> {
    let storage = &*recovered.storage;
    let temporary = format!("{name}.tmp");
    let failed = |error| slot_error(storage, name, "keep the frames that are cut", error);
    let written = write_to(recovered, name, &temporary)
        .and_then(|()| storage.rename(&temporary, name).map_err(failed));
    if written.as_ref().is_err_and(Error::is_shortage) {
        // What was taken is given back. If that fails as well, the next call removes it.
        drop(storage.remove(&temporary));
    }
    written
}

fn write_to<S: Storage>(recovered: &Recovered<S>, name: &str, temporary: &str) -> Result<()> {
    let Recovered { storage, identity, cut: Some(cut), .. } = recovered else { return Ok(()) };
    let failed = |error| slot_error(&**storage, name, "keep the frames that are cut", error);
    let no_memory = |error: AllocError| failed(error.into());
    match storage.remove(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = storage.create_file(temporary).map_err(failed)?;
    let block_bytes = usize::try_from(identity.block_bytes).unwrap_or(usize::MAX);
    let mut head =
        Buffer::zeroed(storage.alignment(), HEAD_BYTES.max(block_bytes)).map_err(no_memory)?;
    let head = head.as_mut_slice();
    let text = format!(
        "wal cut frames, version 1\nlog {}\nblock {block_bytes}\ncut at lsn {}\nby epoch {}\n\
         frames {}\nrecords {}\nbecause {}\n",
        identity.log_id,
        cut.cut.at,
        recovered.epoch,
        cut.cut.intact_frames,
        cut.cut.intact_records,
        cut.cut.fault
    );
    let length = text.len().min(HEAD_BYTES);
    head[..length].copy_from_slice(&text.as_bytes()[..length]);
    file.write_at(head, 0).map_err(failed)?;
    let mut offset = u64::try_from(head.len()).unwrap_or(u64::MAX);
    for frame in &cut.frames {
        // Bounded by the segment when it was found.
        let bytes = usize::try_from(frame.bytes).unwrap_or(usize::MAX);
        let mut buffer = Buffer::zeroed(storage.alignment(), bytes).map_err(no_memory)?;
        let buffer = &mut buffer.as_mut_slice()[..bytes];
        let place =
            |error| slot_error(&**storage, &frame.slot.name, "read a frame that is cut", error);
        let read = frame.slot.file.read_at(buffer, frame.offset).map_err(place)?;
        let checked =
            Frame::check(identity.log_id, frame.header.lsn, identity.block_bytes, &buffer[..read]);
        if let Err(fault) = checked {
            return Err(Error::new(ErrorKind::Io, "a frame that is cut reads differently now")
                .with_path(storage.path().join(&frame.slot.name))
                .with_offset(frame.offset)
                .with_lsn(frame.header.lsn)
                .with_expected_found("the intact frame seen before", fault));
        }
        file.write_at(buffer, offset).map_err(failed)?;
        offset += frame.bytes;
    }
    file.sync().map_err(failed)
}
