//! Ways to read all records of the log, every frame checked.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::{Advice, fadvise};
use wal_bench::{disk::DiskFile, figures::bytes_u64};

use crate::{
    mapping::{Mapping, Paging},
    sealed::{Sealed, Segment, THREADS},
};

/// One of the ways that are compared.
pub(crate) struct Way<'a> {
    pub(crate) name: String,
    /// Moves everything once; how many bytes that was.
    pub(crate) work: Box<dyn Fn() -> io::Result<u64> + 'a>,
}

impl<'a> Way<'a> {
    pub(crate) fn new(name: impl Into<String>, work: impl Fn() -> io::Result<u64> + 'a) -> Self {
        Self { name: name.into(), work: Box::new(work) }
    }
}

/// All of them; the first is the log's own. A way answers with the bytes of the records that it saw.
pub(crate) fn checked(sealed: &Sealed) -> Vec<Way<'_>> {
    let replay = || sealed.replay().map_err(io::Error::other);
    let mut ways = vec![Way::new("the log's replay", replay)];
    for (name, paging) in [("mapped", Paging::Touched), ("mapped, populated", Paging::Populated)] {
        ways.extend(by_segment(name, sealed, move |segment, _| {
            sealed.check(segment, Mapping::of(segment, paging)?.bytes())
        }));
    }
    ways.extend(by_segment("page cache, read", sealed, |segment, buffer| {
        cached(segment)?.read_exact_at(buffer, 0)?;
        sealed.check(segment, buffer)
    }));
    // A disk may like one long request, which the kernel cuts into its own, or many under way.
    for (name, request) in [("direct, whole", usize::MAX), ("direct, 256 KiB", 256 << 10)] {
        ways.extend(by_segment(name, sealed, move |segment, buffer| {
            let file = DiskFile::open(segment.path())?;
            let mut at = 0;
            for piece in buffer.chunks_mut(request) {
                file.read(piece, at)?;
                at += bytes_u64(piece.len());
            }
            sealed.check(segment, buffer)
        }));
    }
    ways
}

/// The same by one thread and by several.
fn by_segment<'a>(
    name: &str,
    sealed: &'a Sealed,
    read: impl Fn(&Segment, &mut [u8]) -> io::Result<u64> + Sync + Copy + 'a,
) -> [Way<'a>; 2] {
    [1, THREADS].map(|threads| {
        Way::new(format!("{name} x {threads}"), move || sealed.on_each(threads, read))
    })
}

/// A segment's file, to be read through the page cache from beginning to end.
pub(crate) fn cached(segment: &Segment) -> io::Result<File> {
    let file = File::open(segment.path())?;
    fadvise(&file, 0, None, Advice::Sequential)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use wal_bench::disk::fresh_directory;

    /// A way that skips a frame is fast, and no comparison.
    #[test]
    fn every_way_sees_one_changed_bit_in_every_segment() {
        let directory = fresh_directory(None).unwrap();
        let sealed = Sealed::write(directory.path(), 4).unwrap();
        assert!(sealed.segments().len() > THREADS);
        let ways = checked(&sealed);
        for segment in sealed.segments() {
            let file = OpenOptions::new().read(true).write(true).open(segment.path()).unwrap();
            let at = u64::try_from(segment.bytes() / 2).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            file.sync_all().unwrap();
            let deaf: Vec<_> =
                ways.iter().filter(|way| (way.work)().is_ok()).map(|way| &way.name).collect();
            assert!(deaf.is_empty(), "{}: {deaf:?}", segment.path().display());
            file.write_all_at(&byte, at).unwrap();
            file.sync_all().unwrap();
        }
        for way in &ways {
            assert_eq!((way.work)().unwrap(), sealed.payload_bytes, "{}", way.name);
        }
    }
}
