//! [`DiskFile`]: a file of a [`Disk`].

use super::{Disk, Effect, State, Verb, content::Data, crash::garbage, fault, history::Kind};
use aligned::Alignment;
use std::{fmt, io};
use wal::io::{Access, DurableMethod, File};

/// A file of a [`Disk`]. It stays readable when its name is gone.
pub struct DiskFile {
    pub(super) disk: Disk,
    pub(super) file: usize,
    pub(super) name: String,
    pub(super) access: Access,
}

impl DiskFile {
    fn alignment(&self) -> Alignment {
        self.disk.shared.options.sector.alignment()
    }

    /// What Linux answers to a write through a descriptor opened for reading (`EBADF`).
    fn check_access(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            _ => Err(io::Error::from_raw_os_error(9)),
        }
    }

    fn check_room(&self, state: &State, offset: usize, bytes: usize) -> io::Result<()> {
        let room = self.disk.shared.options.room_bytes;
        if room == u64::MAX {
            return Ok(());
        }
        let used: usize = state.names.values().map(|file| state.files[*file].pages_used()).sum();
        let missing = state.files[self.file].pages_missing(offset..offset + bytes);
        let pages = u64::try_from(used + missing).unwrap_or(u64::MAX);
        if missing == 0 || pages <= room / 4096 { Ok(()) } else { Err(no_space()) }
    }

    /// Writes, and answers what a fault had it do instead.
    fn write(
        &self,
        verb: Verb,
        bytes: &[u8],
        offset: u64,
        durable: bool,
    ) -> io::Result<Option<Effect>> {
        self.alignment().check(bytes, offset)?;
        self.write_data(verb, Data::new(bytes), offset, durable)
    }

    fn write_data(
        &self,
        verb: Verb,
        data: Data,
        offset: u64,
        durable: bool,
    ) -> io::Result<Option<Effect>> {
        self.check_access()?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.check_room(&self.disk.shared.state.lock(), offset, data.len())?;
        let begun = self.disk.begin(verb, &self.name, |_, effect| {
            let more = if let Some(Effect::Misdirected(more)) = effect { more } else { 0 };
            let offset = offset + usize::try_from(more).unwrap_or_default();
            Some(Kind::Write { file: self.file, offset, data: data.clone(), durable })
        })?;
        let mut state = self.disk.shared.state.lock();
        let state = &mut *state;
        let Some(op) = begun.op else { return Ok(begun.effect) };
        let failure = fault::error(begun.effect);
        if let Some(effect) = begun.effect {
            let sector = self.disk.shared.options.sector_bytes();
            let taken = fault::taken(effect, data.len(), sector, &mut state.random);
            state.history.ops[op].taken = taken;
        }
        let done = &state.history.ops[op];
        // What was forgotten on its way is not there; a page cache knows nothing of that.
        let is_forgotten = done.is_forgotten && !self.disk.shared.options.cached;
        if let Kind::Write { offset, .. } = done.kind
            && !is_forgotten
        {
            state.files[self.file].write(&data, offset, 0..done.taken);
        }
        state.history.end(op, failure.is_none());
        if is_forgotten {
            let mut cursor = self.disk.cursor(&state.history);
            while cursor.step().is_some() {}
            let live = cursor.live(self.file);
            state.files[self.file] = live;
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(begun.effect),
        }
    }

    fn sync_as(&self, lies: bool) -> io::Result<()> {
        let kind = |_: &mut State, _: Option<Effect>| Some(Kind::Sync { file: self.file });
        let begun = self.disk.begin(Verb::Sync, &self.name, kind)?;
        let failure = fault::error(begun.effect);
        let mut state = self.disk.shared.state.lock();
        if let Some(op) = begun.op {
            state.history.ops[op].is_honest &= !lies;
            // Whoever hears of a failure may not rely on anything that was done all the same.
            state.history.end(op, failure.is_none());
        }
        failure.map_or(Ok(()), Err)
    }

    /// What a probe leaves: blocks of garbage, written durably.
    pub(super) fn scribble(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let block = self.alignment().bytes();
        let mut buffer =
            aligned::Buffer::zeroed(self.alignment(), block).map_err(io::Error::other)?;
        let blocks = bytes / self.alignment().bytes_u64();
        for number in 0..blocks.min(3) {
            let place = offset + number * self.alignment().bytes_u64();
            buffer.as_mut_slice()[..block].copy_from_slice(&garbage(block, place));
            self.write_durable_at(&buffer.as_mut_slice()[..block], place)?;
        }
        Ok(())
    }
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.alignment().check(buffer, offset)?;
        let begun = self.disk.begin(Verb::Read, &self.name, |_, _| None)?;
        if let Some(error) = fault::error(begun.effect) {
            return Err(error);
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(self.disk.shared.state.lock().files[self.file].read(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write(Verb::Write, bytes, offset, false).map(drop)
    }

    fn write_durable_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.disk.shared.options.method {
            DurableMethod::WriteThenSync => {
                let effect = self.write(Verb::WriteDurable, bytes, offset, false)?;
                self.sync_as(effect == Some(Effect::Lie))
            }
            _ => self.write(Verb::WriteDurable, bytes, offset, true).map(drop),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_as(false)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.check_access()?;
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let kind = |_: &mut State, _: Option<Effect>| Some(Kind::SetLen { file: self.file, len });
        let begun = self.disk.begin(Verb::SetLen, &self.name, kind)?;
        let failure = fault::error(begun.effect);
        let mut state = self.disk.shared.state.lock();
        let is_done = failure.is_none() || begun.effect == Some(Effect::EioButDone);
        if is_done {
            state.files[self.file].set_len(len);
        }
        if let Some(op) = begun.op {
            state.history.end(op, is_done);
        }
        failure.map_or(Ok(()), Err)
    }

    fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        if self.disk.shared.options.zeroes {
            let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
            self.write_data(Verb::WriteZeroes, Data::Zeros(bytes), offset, false)?;
            return Ok(true);
        }
        let begun = self.disk.begin(Verb::WriteZeroes, &self.name, |_, _| None)?;
        fault::error(begun.effect).map_or(Ok(false), Err)
    }

    fn len(&self) -> io::Result<u64> {
        let begun = self.disk.begin(Verb::Len, &self.name, |_, _| None)?;
        if let Some(error) = fault::error(begun.effect) {
            return Err(error);
        }
        let len = self.disk.shared.state.lock().files[self.file].len();
        u64::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge.into())
    }

    fn links(&self) -> io::Result<u64> {
        let state = self.disk.shared.state.lock();
        let names = state.names.values().filter(|file| **file == self.file);
        Ok(u64::try_from(names.count()).unwrap_or(u64::MAX))
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut state = self.disk.shared.state.lock();
        // Without a cache, and before a sync has failed, it says what the device has.
        if self.disk.shared.options.cached && state.history.has_dropped(self.file) {
            let mut cursor = self.disk.cursor(&state.history);
            while cursor.step().is_some() {}
            let live = cursor.live(self.file);
            state.files[self.file] = live;
        }
        Ok(())
    }
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskFile").field("name", &self.name).finish_non_exhaustive()
    }
}
