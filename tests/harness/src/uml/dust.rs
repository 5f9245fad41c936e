/*!
Blocks that cannot be read, by the kernel's own dm-dust.

Inside, a log of several segments is written, some of them in slots that were used before, and dropped or
closed. Then one block after the other is bad: a segment's header, a frame's, one in the midst of a
frame, the room behind the last one, a slot that is free. Each time the log is opened, by either
choice of what an unreadable tail is, and read to its end.

What was acknowledged and cannot be read is refused, with its place and the device's own error, and nothing
is changed by that. Where the end of the log cannot be read it is refused, or cut if the caller said so.
Anything else costs nothing. With the block readable again everything is there.
*/

use super::{
    METHODS, Outcome, Part, Run, Stop, expect,
    inside::Arguments,
    layout::{BLOCK_BYTES, Slot},
    mapped::Mapped,
    work::Work,
};
use crate::{
    errors::Ledger,
    record::FileSystem,
    subject::{Careless, Neglect, checksum, payload},
};
use rustix::fs::{Advice, fadvise, syncfs};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    fs::{self, File},
    io::{self, Read},
    ops::ControlFlow,
    path::PathBuf,
    thread,
    time::Duration,
};
use wal::{Error, ErrorKind, Lsn, UnreadableTail, Verdict, io::Directory};

/// The device-mapper's target, with blocks as long as the log's.
pub(super) const TARGET: &str = "dust /dev/ubda 0 4096";

/// Enough for ten segments.
const RECORDS: u64 = 500;
const SEGMENT_BYTES: u64 = 128 << 10;

/// Where a checkpoint releases what comes before, so that slots are used again; and where the log ends, so
/// that one is free. In the midst of a segment: no frame there is the first or the last one.
const RELEASED_TO: u64 = 4 * SEGMENT_BYTES + SEGMENT_BYTES / 2;
const WRITTEN_TO: u64 = 7 * SEGMENT_BYTES + SEGMENT_BYTES / 2;

const EIO: i32 = 5;

/// How often a lock is looked for that a dropped log gives back when its threads are gone.
const LOOKS_MAX: u32 = 10_000;
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// The last frame, if nobody vouches for its records.
const LAST: &str = "last frame";

/// What a writer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nobody vouches for the last frame.
    Dropped,
    /// The last frame has no records, and vouches for those before it.
    Closed,
}

/// What is in a block, as far as the log may need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    /// Part of a frame that a later one vouches for, which begins there.
    Promised { frame: u64 },
    /// A segment's header: the log is refused, or opened whole. Never is it a shorter one.
    Header,
    /// Part of the last frame, or what may be one.
    Tail,
    /// Nothing that is or could be needed.
    Nothing,
}

/// A block that is to go bad.
#[derive(Debug)]
struct Aim<'a> {
    what: &'static str,
    slot: &'a Slot,
    offset: u64,
    content: Content,
}

/// What an open came to, with the number of records where it gave all that it has.
#[derive(Debug)]
enum Opened {
    Whole(u64, Verdict),
    Refused(Error),
}

/// The log and the device below it.
struct Scene<'a> {
    work: &'a Work,
    mapped: &'a Mapped,
    neglects: Option<Neglect>,
    /// How often which answer came.
    answers: BTreeMap<String, u64>,
}

/// On the host: boots, and says what was found.
pub(super) fn run(
    run: &Run<'_>,
    file_system: FileSystem,
    modules: &[PathBuf],
) -> io::Result<Outcome> {
    run.check_inside(Part::Dust, file_system, modules, RECORDS)
}

pub(super) fn inside(arguments: &Arguments, mapped: &Mapped) -> Result<Value, Stop> {
    mapped.mount()?;
    let mut found = Vec::new();
    for (ending, method) in [Ending::Dropped, Ending::Closed].into_iter().zip(METHODS) {
        let path = arguments.write.dir.with_extension(method.to_string());
        let work = Work::new(path, method, arguments.write.seed, RECORDS)
            .with_segment_bytes(SEGMENT_BYTES);
        write(&work, ending)?;
        let neglects = arguments.swallow_read_errors.then_some(Neglect::ReadErrors);
        let mut scene = Scene { work: &work, mapped, neglects, answers: BTreeMap::new() };
        found.push(scene.check(ending)?);
    }
    mapped.unmount()?;
    mapped.remove()?;
    Ok(Value::Array(found))
}

fn write(work: &Work, ending: Ending) -> Result<(), Stop> {
    let wal = work.create()?;
    work.alone_up_to(&wal, Lsn::new(RELEASED_TO))?;
    work.release(&wal)?;
    work.alone_up_to(&wal, Lsn::new(WRITTEN_TO))?;
    match ending {
        Ending::Dropped => drop(wal),
        Ending::Closed => wal.close()?,
    }
    // The next open flushes what it finds, and so do those that are compared.
    syncfs(File::open(work.path())?).map_err(io::Error::from)?;
    Ok(())
}

impl Scene<'_> {
    fn check(&mut self, ending: Ending) -> Result<Value, Stop> {
        // A writer that was dropped has let go of its lock, and of its files.
        self.check_whole("before any block is bad")?;
        let slots = Slot::all(self.work.path())?;
        let live = live(&slots, self.work)?;
        let aims = aims(&slots, &live, ending);
        let used = live.last().and_then(|slot| slot.sequence).unwrap_or(0) + 1;
        let count = u64::try_from(slots.len()).unwrap_or(u64::MAX);
        expect(used > count, || format!("{used} segments in {count} slots: none used again"))?;
        let before = self.files()?;
        self.mapped.tell("enable")?;
        for aim in &aims {
            let block = aim.slot.device_block(aim.offset)?;
            self.mapped.tell(&format!("addbadblock {block}"))?;
            self.check_bad(aim)?;
            self.mapped.tell(&format!("removebadblock {block}"))?;
            let after = self.files()?;
            expect(after == before, || format!("{}: a refusal changed something", aim.place()))?;
            self.check_whole(&aim.place())?;
        }
        let answers = std::mem::take(&mut self.answers);
        let end = match ending {
            Ending::Dropped => self.check_cut(&live)?,
            Ending::Closed => self.work.check_recovered(self.work.ledger())?,
        };
        self.mapped.tell("disable")?;
        Ok(json!({
            "method": self.work.method().to_string(),
            "ending": format!("{ending:?}"),
            "slots": count,
            "segments": used,
            "live": live.len(),
            "blocks": aims.len(),
            "answers": answers,
            "recovered": end,
        }))
    }

    /// Opens with a bad block, by either choice, and reads without opening for writing.
    fn check_bad(&mut self, aim: &Aim<'_>) -> Result<(), Stop> {
        let place = aim.place();
        for policy in [UnreadableTail::Refuse, UnreadableTail::TreatAsTorn] {
            let opened = self.open(policy)?;
            let kept = self.work.ledger().acknowledged;
            let is_good = match (&opened, aim.content) {
                (Opened::Refused(error), Content::Promised { .. } | Content::Header) => {
                    self.check_refusal(aim, error)?;
                    true
                }
                (Opened::Refused(error), Content::Tail) => {
                    self.check_refusal(aim, error)?;
                    policy == UnreadableTail::Refuse && error.kind() == ErrorKind::Io
                }
                (Opened::Whole(count, verdict), Content::Tail) => {
                    // What is cut may have been acknowledged: the caller wanted it so.
                    *verdict == Verdict::TornTail
                        && policy == UnreadableTail::TreatAsTorn
                        && (*count == kept || *count < kept && aim.what == LAST)
                }
                (Opened::Whole(count, verdict), Content::Header | Content::Nothing) => {
                    *count == kept && *verdict == Verdict::Clean
                }
                _ => false,
            };
            expect(is_good, || format!("{place}, {policy:?}: {opened:?}"))?;
            let answer = match &opened {
                Opened::Whole(_, verdict) => format!("{}: {verdict:?}", aim.what),
                Opened::Refused(error) => format!("{}: {:?}", aim.what, error.kind()),
            };
            *self.answers.entry(answer).or_default() += 1;
        }
        if matches!(aim.content, Content::Promised { .. }) {
            let error = self.read_only()?.err();
            let error = error.ok_or_else(|| {
                Stop::Bad(format!("{place}: a reader saw a shorter log, or read past it"))
            })?;
            self.check_refusal(aim, &error).map_err(|stop| match stop {
                Stop::Bad(text) => Stop::Bad(format!("a reader without a lock: {text}")),
                failed => failed,
            })?;
        }
        Ok(())
    }

    fn check_refusal(&self, aim: &Aim<'_>, error: &Error) -> Result<(), Stop> {
        let place = aim.place();
        let known = [ErrorKind::Corrupt, ErrorKind::Io].contains(&error.kind());
        expect(known, || format!("{place}: {error:?}"))?;
        let is_named = error.path() == Some(&aim.slot.path)
            && error.segment() == aim.slot.sequence
            && [Some(aim.begins()), Some(aim.offset)].contains(&error.offset());
        expect(is_named, || format!("{place}: another place: {error:?}"))?;
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let is_device = source.and_then(io::Error::raw_os_error) == Some(EIO);
        expect(is_device, || format!("{place}: not the device's own error: {error:?}"))
    }

    /// Every block can be read: everything is there. Nothing is written.
    fn check_whole(&self, place: &str) -> Result<(), Stop> {
        let opened = self.open(UnreadableTail::Refuse)?;
        let is_whole = matches!(opened, Opened::Whole(count, Verdict::Clean)
            if count == self.work.ledger().acknowledged);
        expect(is_whole, || format!("{place}, with every block readable: {opened:?}"))
    }

    /// The last frame, that nobody vouches for, is given up by name. The next one is written to its place,
    /// and the block is good again; what was given up never comes back. Answers how many records are left.
    fn check_cut(&self, live: &[&Slot]) -> Result<u64, Stop> {
        let Some((slot, frame)) = live.last().and_then(|slot| Some((slot, slot.frames.last()?)))
        else {
            return Err(Stop::Bad("the log has no frame".to_owned()));
        };
        self.mapped.tell(&format!("addbadblock {}", slot.device_block(frame.start)?))?;
        let options = self.work.options().unreadable_tail(UnreadableTail::TreatAsTorn);
        let mut replay = options.open_in(self.storage())?;
        let mut left = self.work.ledger().released;
        while replay.next()?.is_some() {
            left += 1;
        }
        let (wal, report) = replay.finish()?;
        drop(wal);
        let begun = self.work.ledger().begun;
        let cut = report.cut.map(|cut| (cut.segment, cut.offset));
        let expected = slot.sequence.map(|sequence| (sequence, frame.start));
        expect(cut == expected && left < begun, || {
            format!("{left} of {begun} records are left, and cut was {cut:?}, not {expected:?}")
        })?;
        // Only the write can have made it readable.
        let ledger = Ledger { acknowledged: left, begun: left, ..self.work.ledger() };
        self.work.check_recovered(ledger)
    }

    fn storage(&self) -> Careless {
        Careless { inner: Directory::new(self.work.path()), neglects: self.neglects }
    }

    fn open(&self, policy: UnreadableTail) -> Result<Opened, Stop> {
        let options = self.work.options().unreadable_tail(policy);
        let mut count = self.work.ledger().released;
        let mut looks = 0;
        let mut replay = loop {
            match options.open_in(self.storage()) {
                // It stays with the log that was dropped until its threads are gone.
                Err(error) if error.kind() == ErrorKind::Locked && looks < LOOKS_MAX => {
                    looks += 1;
                    thread::sleep(LOOK_PAUSE);
                }
                Err(error) => return Ok(Opened::Refused(error)),
                Ok(replay) => break replay,
            }
        };
        let refused = loop {
            let step = match replay.next() {
                Ok(Some(record)) if self.is_record(count, record.payload()) => {
                    count += 1;
                    ControlFlow::Continue(())
                }
                Ok(Some(_)) => return Err(Stop::Bad(format!("record {count} has other bytes"))),
                Ok(None) => ControlFlow::Break(None),
                Err(error) => ControlFlow::Break(Some(error)),
            };
            if let ControlFlow::Break(end) = step {
                break end;
            }
        };
        let verdict = replay.report().verdict;
        match refused {
            // What cannot be read once must not be passed over the second time, nor be repaired away.
            Some(error) => match replay.finish() {
                Ok(_) => Err(Stop::Bad(format!("finished in spite of {error:?}"))),
                Err(_) => Ok(Opened::Refused(error)),
            },
            None => Ok(Opened::Whole(count, verdict)),
        }
    }

    fn is_record(&self, number: u64, bytes: &[u8]) -> bool {
        checksum(bytes) == checksum(&payload(self.work.seed(), number))
    }

    /// Reads all records without a lock; how many were there. Where the checkpoint cannot be read there may
    /// be some that were released.
    fn read_only(&self) -> Result<wal::Result<u64>, Stop> {
        let released = self.work.ledger().released;
        let mut next = None;
        let mut reader = match self.work.options().open_read_only_in(self.storage()) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let from = reader.start_mark();
        let mut records = match reader.records_from(from) {
            Ok(records) => records,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match records.next() {
                Ok(Some(record)) => {
                    let first = number_of(record.payload()).min(released);
                    let number = next.unwrap_or(first);
                    let text = || format!("a reader without a lock: not record {number}");
                    expect(self.is_record(number, record.payload()), text)?;
                    next = Some(number + 1);
                }
                Ok(None) => return Ok(Ok(next.unwrap_or(released))),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// What is in each file of the log, from the device.
    fn files(&self) -> io::Result<BTreeMap<PathBuf, u64>> {
        let entries = fs::read_dir(self.work.path())?;
        entries
            .map(|entry| {
                let path = entry?.path();
                let mut file = File::open(&path)?;
                fadvise(&file, 0, None, Advice::DontNeed)?;
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Ok((path, checksum(&bytes)))
            })
            .collect()
    }
}

/// The number that a record's bytes begin with.
fn number_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(u64::MAX, |number| u64::from_le_bytes(*number))
}

/// The slots that hold what is not released, the one with the tail last.
fn live<'a>(slots: &'a [Slot], work: &Work) -> Result<Vec<&'a Slot>, Stop> {
    let reader = work.options().open_read_only(work.path())?;
    let start = reader.start_mark().get() / SEGMENT_BYTES;
    let is_live = |slot: &&Slot| !slot.frames.is_empty() && slot.sequence >= Some(start);
    let live: Vec<_> = slots.iter().filter(is_live).collect();
    expect(live.len() > 2, || format!("{} live segments", live.len()))?;
    Ok(live)
}

fn aims<'a>(slots: &'a [Slot], live: &[&'a Slot], ending: Ending) -> Vec<Aim<'a>> {
    let mut aims = Vec::new();
    let last_sequence = live.last().and_then(|slot| slot.sequence);
    for (number, slot) in live.iter().enumerate() {
        let is_last = number + 1 == live.len();
        let mut aim = |what, offset, content| aims.push(Aim { what, slot, offset, content });
        aim("header", 0, Content::Header);
        let last = slot.frames.len() - 1;
        // The one before the last is the last one with records, if the log was closed.
        for index in BTreeSet::from([0, last / 2, last.saturating_sub(1), last]) {
            let frame = &slot.frames[index];
            let (what, content) = match (is_last && index == last, ending) {
                (false, _) => ("frame", Content::Promised { frame: frame.start }),
                (true, Ending::Dropped) => (LAST, Content::Tail),
                (true, Ending::Closed) => ("close", Content::Tail),
            };
            aim(what, frame.start, content);
        }
        let long = slot.frames.iter().find(|frame| frame.end - frame.start > 2 * BLOCK_BYTES);
        if let Some(frame) = long.filter(|frame| !is_last || frame.end < slot.end()) {
            let content = Content::Promised { frame: frame.start };
            aim("inside a frame", frame.start + 2 * BLOCK_BYTES, content);
        }
        if is_last {
            aim("room behind", slot.end(), Content::Tail);
            aim("room at the end", slot.bytes - BLOCK_BYTES, Content::Tail);
        } else if let Some(frame) = slot.frames.last() {
            // A frame before a new segment takes all that is left.
            let is_room = frame.end < slot.bytes;
            let frame = Content::Promised { frame: frame.start };
            let content = if is_room { Content::Nothing } else { frame };
            aim("end of a segment", slot.bytes - BLOCK_BYTES, content);
        }
    }
    let others = slots.iter().filter(|slot| !live.iter().any(|live| live.path == slot.path));
    for slot in others {
        let what = if slot.sequence > last_sequence { "successor" } else { "free" };
        // Frames that nobody vouches for may stand in the successor.
        let content = if what == "free" { Content::Nothing } else { Content::Tail };
        let mut aim = |offset, content| aims.push(Aim { what, slot, offset, content });
        aim(0, Content::Header);
        aim(BLOCK_BYTES, content);
        aim(slot.bytes / 2, content);
    }
    aims
}

impl Aim<'_> {
    /// Where what the block is part of begins.
    fn begins(&self) -> u64 {
        match self.content {
            Content::Promised { frame } => frame,
            _ => self.offset,
        }
    }

    fn place(&self) -> String {
        let Self { what, slot, offset, .. } = self;
        let name = slot.name();
        let sequence = slot.sequence.map_or("no segment".to_owned(), |it| format!("segment {it}"));
        format!("{what}, {name}, {sequence}, offset {offset} unreadable")
    }
}
