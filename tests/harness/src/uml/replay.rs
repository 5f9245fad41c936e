/*!
A run through dm-log-writes, and every state that its log promises.

The target keeps the writes in the order in which they became durable, with the flags that the file system
gave them: a write with FUA when it is done, any other with the next FLUSH. So the image up to a FLUSH or a
FUA is the least that a power cut at that moment leaves. It is mounted and recovered: the log is there up
to the last mark, and nothing is damaged.
*/

use super::{Outcome, Run, kernel::Boot};
use crate::{
    errors::Ledger,
    random::{Random, mix},
    record::FileSystem,
    subject::recover,
};
use rustix::{fs::SeekFrom, io::Errno};
use serde_json::json;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const RECORDS: u64 = 240;
const LOG_BYTES: u64 = 256 << 20;
/// So many states are looked at, the last among them.
const STATES_MAX: usize = 24;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SUPER_BYTES: usize = 28;
const ENTRY_BYTES: usize = 32;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// Sectors of the disk, whatever those of the log are.
const SECTOR_BYTES: u64 = 512;

/// One entry of the log.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Where it goes, in bytes.
    offset: u64,
    flags: u64,
    data: Vec<u8>,
    /// The length of what is discarded.
    bytes: u64,
}

/// A place in the log of writes up to which everything is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    /// So many entries.
    entries: usize,
    /// So many records were marked as durable by then.
    acknowledged: u64,
}

pub(super) fn run(
    run: &Run<'_>,
    file_system: FileSystem,
    modules: &[PathBuf],
) -> io::Result<Outcome> {
    let seed = mix(&[run.seed, u64::MAX]) % 1_000_000_000;
    let name = format!("replay-{file_system}");
    let image = run.image(&name, file_system)?;
    let disk = image.with_extension("disk");
    copy_data(&image, &disk)?;
    let log = image.with_extension("writes");
    File::create(&log)?.set_len(LOG_BYTES)?;
    let mut boot = Boot::new(run.kernel, run.place, &name, &[&disk, &log])?;
    boot.inside(&["--part", "replay", "--fs", file_system.name(), "--seed", &seed.to_string()]);
    boot.inside(&["--records", &RECORDS.to_string()]);
    for module in modules {
        boot.inside(&["--module".as_ref(), module.as_os_str()]);
    }
    let running = boot.start()?;
    running.finish()?;
    if running.marks().with_file_name("failed").exists() {
        return Err(running.failure("it failed"));
    }
    fs::remove_file(&disk)?;
    let entries = read(&mut File::open(&log)?)?;
    fs::remove_file(&log)?;
    let checked = check(run, file_system, &image, &entries, seed)?;
    fs::remove_file(&image)?;
    Ok(match checked {
        Ok(states) => {
            let count =
                |flags: u64| entries.iter().filter(|entry| entry.flags & flags != 0).count();
            Outcome::Passed(json!({
                "entries": entries.len(),
                "flushes": count(FLUSH),
                "fua": count(FUA),
                "marks": count(MARK),
                "states": states,
            }))
        }
        Err(text) => Outcome::Bad(format!("{file_system}: {text}")),
    })
}

/// Builds and looks at the states, and says how many. `image` is what was there before the first entry.
fn check(
    run: &Run<'_>,
    file_system: FileSystem,
    image: &Path,
    entries: &[Entry],
    seed: u64,
) -> io::Result<Result<usize, String>> {
    let points = points(entries);
    if points.last().is_none_or(|last| last.acknowledged != RECORDS) {
        return Ok(Err(format!("the log of writes has no end: {:?}", points.last())));
    }
    let chosen = choose(&points, seed);
    let file = OpenOptions::new().write(true).open(image)?;
    let copy = image.with_extension("state");
    let mut done = 0;
    for point in &chosen {
        for entry in &entries[done..point.entries] {
            apply(&file, entry)?;
        }
        done = point.entries;
        copy_data(image, &copy)?;
        let ledger =
            Ledger { begun: RECORDS, acknowledged: point.acknowledged, ..Ledger::default() };
        let name = format!("state-{file_system}-{done}");
        let found = run.look(&name, file_system, &copy, |log| {
            let found = recover(log);
            ledger.check(&found, seed, RECORDS)
        })?;
        if let Err(text) = found {
            return Ok(Err(format!("{done} of {} writes: {text}", entries.len())));
        }
    }
    fs::remove_file(&copy)?;
    Ok(Ok(chosen.len()))
}

/// Copies a file and leaves out its holes, of which an image mostly consists.
fn copy_data(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    let end = from.metadata()?.len();
    to.set_len(end)?;
    let mut at = 0;
    let mut bytes = Vec::new();
    while at < end {
        let start = match rustix::fs::seek(&from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = rustix::fs::seek(&from, SeekFrom::Hole(start))?;
        bytes.resize(usize::try_from(at - start).map_err(io::Error::other)?, 0);
        from.read_exact_at(&mut bytes, start)?;
        to.write_all_at(&bytes, start)?;
    }
    Ok(())
}

fn points(entries: &[Entry]) -> Vec<Point> {
    let (mut acknowledged, mut points) = (0, Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        if entry.flags & MARK != 0 {
            let text = String::from_utf8_lossy(&entry.data);
            let text = text.trim_end_matches('\0');
            acknowledged = text
                .strip_prefix("ack-")
                .and_then(|number| number.parse().ok())
                .unwrap_or(acknowledged);
        }
        // What a flush covers stands before it; it may carry data of its own, which is not covered.
        if entry.flags & FLUSH != 0 {
            points.push(Point { entries: index, acknowledged });
        }
        if entry.flags & FUA != 0 {
            points.push(Point { entries: index + 1, acknowledged });
        }
    }
    points.push(Point { entries: entries.len(), acknowledged });
    points
}

/// Some of the points, in their order, the last among them.
fn choose(points: &[Point], seed: u64) -> Vec<Point> {
    let mut random = Random::new(seed);
    let mut chosen: Vec<_> = points.to_vec();
    while chosen.len() > STATES_MAX {
        let last = chosen.len() - 1;
        chosen.remove(random.index(last));
    }
    chosen
}

fn apply(file: &File, entry: &Entry) -> io::Result<()> {
    if entry.flags & DISCARD != 0 {
        let zeros = vec![0; usize::try_from(entry.bytes).map_err(io::Error::other)?];
        return file.write_all_at(&zeros, entry.offset);
    }
    if entry.flags & MARK != 0 {
        return Ok(());
    }
    file.write_all_at(&entry.data, entry.offset)
}

/// Reads the log of writes as the kernel left it.
fn read(log: &mut impl Read) -> io::Result<Vec<Entry>> {
    let wrong = |what: &str| io::Error::other(format!("not a log of dm-log-writes: {what}"));
    let mut first = vec![0; 512];
    log.read_exact(&mut first)?;
    if first.len() < SUPER_BYTES || number(&first, 0) != MAGIC {
        return Err(wrong("its magic number"));
    }
    let count = usize::try_from(number(&first, 16)).map_err(io::Error::other)?;
    let sector = usize::try_from(number(&first, 24) & 0xFFFF_FFFF).map_err(io::Error::other)?;
    if !(512..=65536).contains(&sector) {
        return Err(wrong("its sectors"));
    }
    io::copy(&mut log.take(u64::try_from(sector - 512).unwrap_or(0)), &mut io::sink())?;
    let mut entries = Vec::new();
    let mut head = vec![0; sector];
    for _ in 0..count {
        log.read_exact(&mut head)?;
        let (offset, sectors, flags) = (number(&head, 0), number(&head, 8), number(&head, 16));
        let length = usize::try_from(number(&head, 24)).map_err(io::Error::other)?;
        let unit = u64::try_from(sector).unwrap_or(SECTOR_BYTES);
        let bytes = sectors * unit;
        let data = if flags & DISCARD != 0 {
            Vec::new()
        } else if flags & MARK != 0 {
            // Its text stands behind its head, in the same sector.
            head.get(ENTRY_BYTES..ENTRY_BYTES + length).ok_or_else(|| wrong("a mark"))?.to_vec()
        } else {
            let mut data = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
            log.read_exact(&mut data)?;
            data
        };
        entries.push(Entry { offset: offset * unit, flags, data, bytes });
    }
    Ok(entries)
}

fn number(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |number| u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(flags: u64, data: &[u8]) -> Entry {
        Entry { offset: 0, flags, data: data.to_vec(), bytes: 0 }
    }

    #[test]
    fn a_point_stands_before_a_flush_and_behind_a_fua() {
        let entries = [
            entry(0, b"data"),
            entry(FLUSH, b""),
            entry(MARK, b"ack-7\0"),
            entry(FUA, b"data"),
            entry(FLUSH | FUA, b"data"),
        ];
        let point = |entries, acknowledged| Point { entries, acknowledged };
        let expected = [point(1, 0), point(4, 7), point(4, 7), point(5, 7), point(5, 7)];
        assert_eq!(points(&entries), expected);
    }

    #[test]
    fn a_log_is_read_as_the_kernel_writes_it() {
        let mut log = vec![0; 512 * 5];
        log[..8].copy_from_slice(&MAGIC.to_le_bytes());
        log[16..24].copy_from_slice(&2_u64.to_le_bytes());
        log[24..28].copy_from_slice(&512_u32.to_le_bytes());
        for (at, value) in [(512, 9_u64), (520, 1), (528, FUA), (536, 0)] {
            log[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        log[1024..1536].fill(0xAB);
        for (at, value) in [(1536, 0_u64), (1544, 0), (1552, MARK), (1560, 5)] {
            log[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        log[1568..1573].copy_from_slice(b"ack-3");
        let entries = read(&mut &log[..]).unwrap();
        let write = Entry { offset: 9 * 512, flags: FUA, data: vec![0xAB; 512], bytes: 512 };
        let mark = Entry { offset: 0, flags: MARK, data: b"ack-3".to_vec(), bytes: 0 };
        assert_eq!(entries, [write, mark]);
    }
}
