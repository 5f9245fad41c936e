/*!
The target `recover`: a log that the engine itself wrote, damaged, and opened.

What must hold of a log that was not forged, of which every record was acknowledged:

1. It is refused, or what it yields is byte for byte the beginning of what was appended, from the
   start mark on, without a gap, batches whole.
2. What is *provable* is not lost without a word: it is refused, or it reaches at least to the
   highest durable mark in any frame header that still stands where it was, and to the end of the
   first frame of every segment whose successor has a header. Below that, it is what was there.
3. Where only the last frames are torn, and nothing proves that they were durable, it opens.
4. Undamaged, it is all there, and says whether it was closed.

Files may be taken back to an earlier state, which no log can notice alone: then (1) allows the
beginning of any state that there ever was. Where checksums were mended over changed fields, only
what [`trial`](super::trial) asks of any bytes is left.
*/

use super::{
    Reached,
    edits::{Nature, Past, apply, lag_marks},
    image::{Image, Known, proven},
    script::{End, Phase, Script, Step},
    tame::Tame,
    trial::{self, Answer, Bytes, Found, Read},
};
use crate::{Random, fault::PATIENCE};
use arbitrary::{Arbitrary, Unstructured};
use std::{thread, time::Instant};
use wal::{
    Create, ErrorKind, Lsn, Options, Result, Verdict, Wal,
    format::{self, Identity, SegmentHeader},
};

/// More than a script can fill.
const CAPACITY: u64 = 64 << 20;

/// Most records are small, so that a log of few slots holds many.
const SMALL: u16 = 0xd000;
const SMALL_BYTES_MAX: usize = 700;

/// Everything that was ever appended, as one life of the log knew it.
#[derive(Clone, Debug, Default)]
struct Timeline {
    records: Vec<Read>,
    /// Where each checkpoint stands, and its start mark.
    checkpoints: Vec<(u64, u64)>,
}

/// What is known of the log so far.
#[derive(Default)]
struct History {
    now: Timeline,
    /// What was true once, and the files of then.
    timelines: Vec<Timeline>,
    images: Vec<Image>,
    number: u64,
}

/// Runs the script in `data`.
pub fn recover(data: &[u8]) -> Reached {
    run(data).0
}

/// The same, and the files that it ends with.
pub(super) fn run(data: &[u8]) -> (Reached, Image) {
    let mut reached = Reached::new();
    let mut image = Image::default();
    let Ok(script) = Script::arbitrary(&mut Unstructured::new(data)) else {
        return (reached, image);
    };
    let options = script.shape.options();
    let mut history = History::default();
    image = create(&options);
    for phase in &script.phases {
        let (next, goes_on) = live(&options, &image, phase, &mut history, &mut reached);
        image = next;
        if !goes_on {
            break;
        }
    }
    (reached, image)
}

/// A log without a record, and spare slots: making one at a time costs the engine a pause.
fn create(options: &Options) -> Image {
    const SPARES: u32 = 3;
    let storage = Tame::new(0, CAPACITY, &Image::default());
    let replay = options.open_in(storage.clone()).expect("a log can be created");
    let slot_bytes = super::image::narrow(replay.report().segment_bytes);
    drop(replay);
    storage.settle();
    let mut image = storage.save();
    for number in 2..2 + SPARES {
        image.files.insert(format!("slot-{number:06}"), vec![0; slot_bytes]);
    }
    image
}

/// One life and what comes after it: the damaged files, and whether the log opens again.
fn live(
    options: &Options,
    image: &Image,
    phase: &Phase,
    history: &mut History,
    reached: &mut Reached,
) -> (Image, bool) {
    let seed = history.number + 1;
    let storage = Tame::new(seed, CAPACITY, image);
    let mut replay = options.clone().create(Create::IfMissing).open_in(storage.clone());
    if let Ok(replay) = &mut replay {
        trial::drain(replay).expect("a log that was examined can be read");
    }
    let (wal, _) =
        replay.and_then(|mut replay| replay.finish()).expect("a log that was examined opens");
    wait_for_successor(&storage, wal.identity(), wal.appended_lsn());
    for (index, step) in phase.steps.iter().enumerate() {
        act(&wal, *step, history).expect("nothing stands in the way of an append");
        wait_for_successor(&storage, wal.identity(), wal.appended_lsn());
        if index == phase.steps.len() / 2 {
            let image = storage.save();
            history.images.push(lagging(image, phase.lag));
        }
    }
    if phase.end == End::Close {
        wal.close().expect("nothing stands in the way of a close");
    }
    drop(wal);
    storage.settle();
    let image = lagging(storage.save(), phase.lag);
    history.images.push(image.clone());
    history.timelines.push(history.now.clone());
    let frames = image.frames();
    check_written(&frames, &history.now);
    let past = Past { frames: &frames, images: &history.images };
    let mut damaged = image.clone();
    let natures = phase.edits.iter().map(|edit| apply(&mut damaged, &past, *edit));
    let mut nature = natures.max().unwrap_or_default();
    if damaged == image {
        nature = Nature::Whole;
    }
    let bytes = if nature == Nature::Forged { Bytes::Hostile } else { Bytes::Own };
    let answer = trial::examine(&damaged, CAPACITY, bytes, reached);
    if nature == Nature::Forged {
        reached.insert("forged");
        return (damaged, false);
    }
    check_creation(&damaged, &frames);
    judge(&answer, nature, &damaged, &frames, phase.end, history);
    let Answer::Opened(found) = answer else { return (damaged, false) };
    history.now = continued(history, &found).expect("it was just judged");
    (damaged, true)
}

fn lagging(mut image: Image, lag: usize) -> Image {
    if lag > 0 {
        let frames = image.frames();
        lag_marks(&mut image, &frames, lag);
    }
    image
}

/// Does one step and waits until it is durable.
fn act(wal: &Wal<Tame>, step: Step, history: &mut History) -> Result<()> {
    let most = wal.record_bytes_max();
    match step {
        Step::Append { bytes } => {
            let is_small = bytes < SMALL;
            let bytes = usize::from(bytes) % if is_small { SMALL_BYTES_MAX } else { most + 1 };
            let payload = payload(history, bytes);
            let lsn = wal.append(&payload)?.wait()?.get();
            history.now.records.push(Read { lsn, ends_batch: true, payload });
        }
        Step::Group { records, bytes } => {
            let mut last = None;
            for _ in 0..=records % 8 {
                let payload = payload(history, usize::from(bytes));
                let ticket = wal.append(&payload)?;
                let lsn = ticket.lsn().get();
                history.now.records.push(Read { lsn, ends_batch: true, payload });
                last = Some(ticket);
            }
            last.map(wal::Ticket::wait).transpose()?;
        }
        Step::Batch { records, bytes } => {
            let mut batch = wal.batch();
            let mut payloads = Vec::new();
            for _ in 0..=records % 8 {
                let payload = payload(history, usize::from(bytes));
                batch.push(&payload)?;
                payloads.push(payload);
            }
            let mut lsn = batch.append()?.wait()?.get();
            let count = payloads.len();
            for (index, payload) in payloads.into_iter().enumerate() {
                let bytes = super::image::widen(format::record_bytes(payload.len()));
                let ends_batch = index + 1 == count;
                history.now.records.push(Read { lsn, ends_batch, payload });
                lsn += bytes;
            }
        }
        Step::Checkpoint { back, state } => {
            let records = &history.now.records;
            let mark = records.len().checked_sub(1 + usize::from(back)).map(|at| records[at].lsn);
            let mark = Lsn::new(mark.unwrap_or(0)).max(wal.start_mark());
            let lsn = wal.checkpoint(mark, &vec![state; usize::from(state)])?.wait()?.get();
            history.now.checkpoints.push((lsn, mark.get()));
        }
    }
    Ok(())
}

fn payload(history: &mut History, bytes: usize) -> Vec<u8> {
    history.number += 1;
    let mut random = Random::new(history.number);
    (0..bytes).map(|_| u8::try_from(random.below(256)).unwrap_or_default()).collect()
}

/// Waits until the segment after the one that ends at or holds `end` is prepared, so that what is on
/// disk does not depend on which thread was faster.
fn wait_for_successor(storage: &Tame, identity: &Identity, end: Lsn) {
    let current = end.get().saturating_sub(1) / identity.segment_bytes;
    let block = super::image::narrow(identity.block_bytes.into());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let heads = storage.heads("slot-", block);
        let mut headers =
            heads.iter().filter_map(|head| SegmentHeader::decode(identity, head).ok());
        if headers.any(|header| header.sequence == current + 1) {
            return;
        }
        assert!(Instant::now() < deadline, "the next segment is never prepared");
        thread::yield_now();
    }
}

/// Undamaged files hold what was acknowledged, from the oldest segment on.
fn check_written(frames: &[Known], now: &Timeline) {
    let written: Vec<_> = frames.iter().flat_map(|frame| frame.records.iter()).collect();
    let oldest = frames.first().map_or(u64::MAX, Known::lsn);
    let start = now.checkpoints.iter().map(|(_, mark)| *mark).max().unwrap_or(0);
    let needed = now.records.iter().find(|record| record.lsn >= start);
    assert!(needed.is_none_or(|record| record.lsn >= oldest), "needed, and not on disk");
    let known = now.records.iter().filter(|record| record.lsn >= oldest);
    let known: Vec<_> = known.map(|record| (record.lsn, &record.payload)).collect();
    let written: Vec<_> = written.into_iter().map(|(lsn, payload)| (*lsn, payload)).collect();
    let first = written.iter().zip(&known).find(|(written, known)| written != known);
    let place = first.map(|(_, known)| known.0);
    assert!(written.len() == known.len(), "{} of {} on disk", written.len(), known.len());
    assert!(place.is_none(), "acknowledged, and not on disk: lsn {place:?}");
}

/// A log that lost its identity and still has a frame is not taken for a place without a log.
fn check_creation(image: &Image, frames: &[Known]) {
    if image.files.contains_key("identity") {
        return;
    }
    let survives = |frame: &Known| {
        let range = frame.offset..frame.offset + frame.bytes.len();
        image.slots().any(|(_, bytes)| bytes.get(range.clone()) == Some(&frame.bytes[..]))
    };
    if !frames.iter().any(survives) {
        return;
    }
    let storage = Tame::new(3, CAPACITY, image);
    let outcome = super::script::options().open_in(storage.clone());
    let kind = outcome.err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::Corrupt), "a new log over an old one");
    assert!(storage.save() == *image, "a refused creation wrote something");
}

/// Holds `answer` against what is known, by the rules at the head of this file.
fn judge(
    answer: &Answer,
    nature: Nature,
    image: &Image,
    frames: &[Known],
    end: End,
    history: &History,
) {
    let harm = |frame: &&Known| {
        let range = frame.offset..frame.offset + frame.bytes.len();
        let bytes = image.files.get(&frame.file).and_then(|bytes| bytes.get(range));
        bytes != Some(&frame.bytes[..])
    };
    let proven = image.identity().map_or(0, |identity| proven(image, &identity, frames));
    let hurt: Vec<_> = frames.iter().filter(harm).collect();
    let found = match answer {
        Answer::Opened(found) => found,
        Answer::Refused(error) | Answer::Broken(error) => {
            let is_excused = hurt.first().is_some_and(|first| first.lsn() < proven)
                // Slots were reused because of it.
                || hurt.iter().any(|frame| frame.has_checkpoint);
            assert!(nature > Nature::Torn || is_excused, "refused without proof: {error:?}");
            return;
        }
    };
    assert!(found.tail >= proven, "lost without a word: {} is below {proven}", found.tail);
    let Some(timeline) = continued(history, found) else {
        let lsns: Vec<_> = found.records.iter().map(|record| record.lsn).collect();
        panic!("never there so: from {} to {}: {lsns:?}", found.start, found.tail);
    };
    let below = |records: &[Read]| -> Vec<Read> {
        let wanted = |record: &&Read| record.lsn >= found.start && record.lsn < proven;
        records.iter().filter(wanted).cloned().collect()
    };
    assert!(below(&timeline.records) == below(&history.now.records), "durable records changed");
    if nature == Nature::Whole {
        let last = frames.last().map_or(0, Known::end);
        assert_eq!(found.tail, last, "whole, and not all there");
        // What an earlier life left above the cut is seen, and taken for torn once more.
        let is_first = history.timelines.len() == 1;
        assert!(found.verdict == Verdict::Clean || !is_first, "whole, and torn");
        assert_eq!(found.clean_close, end == End::Close);
    }
    if let (Nature::Torn, Some(first)) = (nature, hurt.first()) {
        assert!(found.tail >= first.lsn() || first.is_first, "an intact frame was cut");
    }
}

/// Which state of the log `found` is the beginning of, cut where it ends.
fn continued(history: &History, found: &Found) -> Option<Timeline> {
    let mut states = std::iter::once(&history.now).chain(history.timelines.iter().rev());
    states.find_map(|state| {
        let mut state = state.clone();
        state.records.retain(|record| record.lsn < found.tail);
        state.checkpoints.retain(|(lsn, _)| *lsn < found.tail);
        let start = state.checkpoints.iter().map(|(_, mark)| *mark).max().unwrap_or(0);
        let expected = state.records.iter().filter(|record| record.lsn >= start);
        (start == found.start && expected.eq(found.records.iter())).then_some(state)
    })
}
