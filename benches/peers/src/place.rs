//! Where the logs are: a directory for each, which is gone when its cell is over.

use std::{
    cell::Cell,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use wal_bench::machine::Machine;

use crate::contestants::{Contestant, Entry, Keep};

/// A log that grew longer than this is begun anew between two rounds.
const LONG_BYTES: u64 = 1 << 30;

/// The unit in which a file's allocated space is told.
const STAT_BLOCK_BYTES: u64 = 512;

/// The directory that all logs are in.
#[derive(Debug)]
pub(crate) struct Place {
    base: PathBuf,
    /// The counters of the whole disk, if it is one.
    pub(crate) disk_stat: Option<PathBuf>,
    next: Cell<u32>,
}

impl Place {
    pub(crate) fn new(base: &Path) -> io::Result<Self> {
        let base = base.canonicalize()?;
        let disk_stat = Machine::of(&base)?.queue.stat;
        Ok(Self { base, disk_stat, next: Cell::new(0) })
    }

    /// A directory that nobody had before, right below the base: a name alone says which it is.
    pub(crate) fn fresh(&self, name: &str) -> io::Result<PathBuf> {
        self.next.set(self.next.get() + 1);
        let path = self.base.join(format!("{name}-{}", self.next.get()));
        fs::create_dir(&path)?;
        Ok(path)
    }
}

/// A contestant through all rounds of a cell.
pub(crate) struct Lane<'a> {
    place: &'a Place,
    entry: &'a Entry,
    keep: Keep,
    path: PathBuf,
    open: Box<dyn Contestant>,
}

impl<'a> Lane<'a> {
    pub(crate) fn open(place: &'a Place, entry: &'a Entry, keep: Keep) -> io::Result<Self> {
        let path = place.fresh(entry.name)?;
        let open = (entry.open)(&path, keep)?;
        Ok(Self { place, entry, keep, path, open })
    }

    pub(crate) fn contestant(&self) -> &dyn Contestant {
        &*self.open
    }

    /// Itself, or a new one in its place if it is too long; then `true`, for it is not warm yet.
    pub(crate) fn renewed(self) -> io::Result<(Self, bool)> {
        if allocated(&self.path)? < LONG_BYTES {
            return Ok((self, false));
        }
        let Self { place, entry, keep, .. } = self;
        self.end()?;
        Ok((Self::open(place, entry, keep)?, true))
    }

    /// Closes it, and leaves it where it is.
    pub(crate) fn close(self) -> io::Result<PathBuf> {
        self.open.close()?;
        Ok(self.path)
    }

    /// Closes and removes it.
    pub(crate) fn end(self) -> io::Result<()> {
        fs::remove_dir_all(self.close()?)
    }
}

/// What the files in `path` take of the disk: holes do not count.
fn allocated(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated(&entry.path())?,
            Ok(metadata) => metadata.blocks() * STAT_BLOCK_BYTES,
            // Its owner removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_take_nothing_and_files_below_count() {
        let directory = wal_bench::disk::fresh_directory(None).unwrap();
        fs::File::create(directory.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir(directory.path().join("below")).unwrap();
        let file = fs::File::create(directory.path().join("below/written")).unwrap();
        io::Write::write_all(&mut &file, &[1; 1 << 16]).unwrap();
        file.sync_all().unwrap();
        let bytes = allocated(directory.path()).unwrap();
        assert!((1 << 16..1 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn every_directory_is_fresh() {
        let directory = wal_bench::disk::fresh_directory(None).unwrap();
        let place = Place::new(directory.path()).unwrap();
        assert_ne!(place.fresh("a").unwrap(), place.fresh("a").unwrap());
    }
}
