/*!
What a crash leaves: a pure function of a stretch of history and a [`Choice`].

Every write is in one of three states at the moment of the crash:

| state | since | after the crash |
|---|---|---|
| pending | it began | whole, absent, torn, or only its effect on the file's size: the choice says |
| durable | a sync of the file that *began after* the write had ended has ended, or it was a durable write and has ended | whole |
| dropped | a sync failed, of its file or, where the device lost its cache, of anything, and the disk or the kernel forgot it then | gone, also for those who read on: a later sync that answers `Ok` says nothing about it, nor does one that is under way, nor the write's own if it was durable |

The same holds for names and the sync of the directory. Names survive as a prefix of what was done
to them, as a journaling file system keeps them, or, if the disk is told so, as any subset. A name is
never dropped: the file system has it in memory, and writes it again with the next sync of the directory.
But one that is under way when the device loses its cache may answer `Ok` and have settled nothing.
*/

use super::{
    choice::{Choice, Fate},
    content::{Content, Data},
    history::{Event, History, Kind},
};
use crate::random::{Random, mix};
use std::{collections::BTreeMap, ops::Range};

/// Goes along a history and knows what of it is durable.
pub(crate) struct Cursor<'h> {
    history: &'h History,
    tearing: Tearing,
    at: usize,
    files: Vec<FileState>,
    base_names: BTreeMap<String, usize>,
    names: Vec<Pending>,
    /// What the syncs that are under way will make durable.
    syncs: BTreeMap<usize, Vec<usize>>,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    /// All that is durable, up to the first operation that is not.
    base: Content,
    /// From the first operation that is not durable on.
    tail: Vec<Pending>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    op: usize,
    has_ended: bool,
    is_durable: bool,
    /// The device has lost its bytes with its cache. The file's size is the file system's, and stays.
    is_hollow: bool,
}

/// How a torn write is torn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tearing {
    pub(crate) sector_bytes: usize,
    /// Whether room that a file got and never wrote reads as garbage.
    pub(crate) stale: bool,
}

impl<'h> Cursor<'h> {
    /// At the beginning of `history`, on a disk that held `files` under `names`, all of it durable.
    pub(crate) fn new(
        history: &'h History,
        files: &[Content],
        names: &BTreeMap<String, usize>,
        tearing: Tearing,
    ) -> Self {
        let state = |base: &Content| FileState { base: base.clone(), tail: Vec::new() };
        Self {
            history,
            tearing,
            at: 0,
            files: files.iter().map(state).collect(),
            base_names: names.clone(),
            names: Vec::new(),
            syncs: BTreeMap::new(),
        }
    }

    /// How many events are behind it.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// How many writes are not durable.
    pub(crate) fn writes_pending(&self) -> usize {
        let tails = self.files.iter().flat_map(|file| &file.tail);
        tails.filter(|pending| !pending.is_durable).count()
    }

    /// How many changes of names are not durable.
    pub(crate) fn names_pending(&self) -> usize {
        self.names.len()
    }

    /// Takes the next event. Answers whether a crash behind it can leave what one before could not,
    /// or `None` at the end.
    pub(crate) fn step(&mut self) -> Option<bool> {
        let event = *self.history.events.get(self.at)?;
        self.at += 1;
        Some(match event {
            Event::Begin(op) => self.begin(op),
            Event::End(op) => self.end(op),
            Event::Drop(op) => {
                let history = self.history;
                self.drop_ops(op, &history.ops[op].dropped);
                false
            }
        })
    }

    fn begin(&mut self, op: usize) -> bool {
        let pending = Pending { op, has_ended: false, is_durable: false, is_hollow: false };
        match &self.history.ops[op].kind {
            Kind::Write { file, .. } | Kind::SetLen { file, .. } => {
                self.file(*file).tail.push(pending);
                true
            }
            Kind::Create { .. } | Kind::Rename { .. } | Kind::Remove { .. } => {
                self.names.push(pending);
                true
            }
            Kind::Sync { file } => {
                let covered = covered(&self.file(*file).tail);
                self.syncs.insert(op, covered);
                false
            }
            Kind::SyncDir => {
                let covered = covered(&self.names);
                self.syncs.insert(op, covered);
                false
            }
        }
    }

    fn end(&mut self, op: usize) -> bool {
        let (history, tearing) = (self.history, self.tearing);
        let done = &history.ops[op];
        let sync = self.syncs.remove(&op).unwrap_or_default();
        match &done.kind {
            Kind::Write { file, durable, .. } => {
                let settles = *durable && done.is_ok && done.is_honest;
                let state = self.file(*file);
                if let Some(pending) = state.tail.iter_mut().find(|pending| pending.op == op) {
                    pending.has_ended = true;
                    pending.is_durable = settles;
                }
                state.fold(history, tearing);
                !done.is_ok
            }
            Kind::SetLen { file, .. } => {
                let tail = &mut self.file(*file).tail;
                if done.is_ok {
                    mark_ended(tail, op);
                } else {
                    tail.retain(|pending| pending.op != op);
                }
                !done.is_ok
            }
            Kind::Create { .. } | Kind::Rename { .. } | Kind::Remove { .. } => {
                if done.is_ok {
                    mark_ended(&mut self.names, op);
                } else {
                    self.names.retain(|pending| pending.op != op);
                }
                !done.is_ok
            }
            Kind::Sync { file } => {
                let state = self.file(*file);
                if done.is_ok && done.is_honest {
                    settle(&mut state.tail, &sync);
                }
                state.fold(history, tearing);
                false
            }
            Kind::SyncDir => {
                if done.is_ok && done.is_honest {
                    settle(&mut self.names, &sync);
                }
                self.fold_names();
                false
            }
        }
    }

    fn file(&mut self, file: usize) -> &mut FileState {
        if self.files.len() <= file {
            self.files.resize_with(file + 1, FileState::default);
        }
        &mut self.files[file]
    }

    fn fold_names(&mut self) {
        let durable = self.names.iter().take_while(|pending| pending.is_durable).count();
        for pending in self.names.drain(..durable) {
            rename(&mut self.base_names, &self.history.ops[pending.op].kind);
        }
    }

    /// The writes to `file` that have ended and are not durable: what a failing sync may drop.
    pub(crate) fn may_be_dropped(&self, file: usize) -> Vec<usize> {
        let tail = self.files.get(file).map_or(&[][..], |state| &state.tail[..]);
        let loose = tail.iter().filter(|pending| pending.has_ended && !pending.is_durable);
        loose.map(|pending| pending.op).collect()
    }

    /// Everything that a device holds in its cache or is just being given, but for `own`, of all files; and
    /// the names that a sync of the directory which is under way was to settle.
    pub(crate) fn unflushed(&self, own: usize) -> Vec<usize> {
        let history = self.history;
        let loose = self.files.iter().flat_map(|file| &file.tail).filter(|pending| {
            let is_write = matches!(history.ops[pending.op].kind, Kind::Write { .. });
            is_write && !pending.is_durable && pending.op != own
        });
        let under_way = self.syncs.iter().filter(|(sync, _)| **sync != own);
        let names = under_way.flat_map(|(_, covered)| covered.iter().copied());
        let names = names.filter(|op| history.ops[*op].kind.file().is_none());
        loose.map(|pending| pending.op).chain(names).collect()
    }

    /// They were forgotten when the flush that `own` carries failed: those of its file as if they had never
    /// been, of others the bytes. Names that the device was just being given are given to it again, later.
    pub(crate) fn drop_ops(&mut self, own: usize, dropped: &[usize]) {
        let (history, tearing) = (self.history, self.tearing);
        let own = match history.ops[own].kind {
            Kind::Sync { file } => Some(file),
            _ => None,
        };
        for (number, file) in self.files.iter_mut().enumerate() {
            if own == Some(number) {
                file.tail.retain(|pending| !pending.has_ended || !dropped.contains(&pending.op));
            }
            for pending in file.tail.iter_mut().filter(|pending| dropped.contains(&pending.op)) {
                pending.is_hollow = true;
            }
            file.fold(history, tearing);
        }
        for covered in self.syncs.values_mut() {
            covered.retain(|op| history.ops[*op].kind.file().is_some() || !dropped.contains(op));
        }
    }

    /// What whoever goes on reads in `file`.
    pub(crate) fn live(&self, file: usize) -> Content {
        let Some(state) = self.files.get(file) else { return Content::default() };
        let mut content = state.base.clone();
        for pending in state.tail.iter().filter(|pending| pending.has_ended) {
            apply(self.history, &mut content, pending, Fate::Whole, self.tearing);
        }
        content
    }

    /// What the disk holds after a crash here.
    pub(crate) fn image(&self, choice: &Choice) -> BTreeMap<String, Content> {
        let mut names = self.base_names.clone();
        for (index, pending) in self.names.iter().enumerate() {
            if choice.names.survives(index) || pending.is_durable {
                rename(&mut names, &self.history.ops[pending.op].kind);
            }
        }
        let mut fates = choice.writes.iter().copied();
        let mut contents: Vec<Content> = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let mut content = file.base.clone();
            for pending in &file.tail {
                let fate = if pending.is_durable {
                    Fate::Whole
                } else {
                    fates.next().unwrap_or(Fate::Absent)
                };
                apply(self.history, &mut content, pending, fate, self.tearing);
            }
            contents.push(content);
        }
        let file = |index: usize| contents.get(index).cloned().unwrap_or_default();
        names.into_iter().map(|(name, index)| (name, file(index))).collect()
    }

    /// What `choice` does here, in words.
    pub(crate) fn tell(&self, choice: &Choice) -> Vec<String> {
        let pending = self.files.iter().flat_map(|file| &file.tail);
        let pending = pending.filter(|pending| !pending.is_durable);
        let fate = |index: usize| choice.writes.get(index).copied().unwrap_or(Fate::Absent);
        let mut told: Vec<_> = pending
            .enumerate()
            .map(|(index, Pending { op, .. })| {
                format!("  at the crash {op} is {}: {}", fate(index), self.history.ops[*op])
            })
            .collect();
        for (index, Pending { op, .. }) in self.names.iter().enumerate() {
            let survives = choice.names.survives(index);
            let fate = if survives { "whole" } else { "absent" };
            told.push(format!("  at the crash {op} is {fate}: {}", self.history.ops[*op]));
        }
        told
    }
}

impl FileState {
    fn fold(&mut self, history: &History, tearing: Tearing) {
        let durable = self.tail.iter().take_while(|pending| pending.is_durable).count();
        for pending in self.tail.drain(..durable) {
            apply(history, &mut self.base, &pending, Fate::Whole, tearing);
        }
    }
}

/// What a crash with this `fate`, or who reads on, finds of an operation.
fn apply(
    history: &History,
    content: &mut Content,
    pending: &Pending,
    fate: Fate,
    tearing: Tearing,
) {
    let op = &history.ops[pending.op];
    let (offset, data) = match &op.kind {
        Kind::Write { offset, data, .. } => (*offset, data),
        Kind::SetLen { len, .. } => {
            if fate != Fate::Absent {
                content.set_len(*len);
            }
            return;
        }
        _ => return,
    };
    // Once a write has failed, what it left is known; before, all of it may be there.
    let bytes = if pending.has_ended { op.taken } else { data.len() };
    let fate = if pending.is_hollow && fate != Fate::Absent { Fate::Size } else { fate };
    if fate == Fate::Absent || bytes == 0 {
        return;
    }
    let before = content.len();
    content.grow(offset + bytes);
    if tearing.stale && content.len() > before && fate != Fate::Whole {
        let seed = u64::try_from(offset + before).unwrap_or_default();
        let garbage = garbage(content.len() - before, seed);
        content.write(&Data::new(&garbage), before, 0..garbage.len());
    }
    match fate {
        Fate::Absent | Fate::Size => {}
        Fate::Whole => content.write(data, offset, 0..bytes),
        Fate::Torn(seed) => {
            tear(content, data, offset, bytes, seed, tearing.sector_bytes);
        }
        Fate::Garbage(seed) => {
            tear(content, data, offset, bytes, seed, tearing.sector_bytes);
            spoil(content, offset, bytes, seed, tearing.sector_bytes);
        }
    }
}

fn mark_ended(tail: &mut [Pending], op: usize) {
    for pending in tail.iter_mut().filter(|pending| pending.op == op) {
        pending.has_ended = true;
    }
}

/// What a sync that begins now will make durable: what has ended.
fn covered(tail: &[Pending]) -> Vec<usize> {
    tail.iter().filter(|pending| pending.has_ended).map(|pending| pending.op).collect()
}

/// A sync of what was `covered` has ended well.
fn settle(tail: &mut [Pending], covered: &[usize]) {
    for pending in tail.iter_mut().filter(|pending| covered.contains(&pending.op)) {
        pending.is_durable = true;
    }
}

pub(crate) fn rename(names: &mut BTreeMap<String, usize>, kind: &Kind) {
    match kind {
        Kind::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        // What a directory keeps is which file a name is of: also where the old name never was.
        Kind::Rename { from, to, file } => {
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
        Kind::Remove { name } => {
            names.remove(name);
        }
        _ => {}
    }
}

fn sectors(bytes: usize, sector_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..bytes).step_by(sector_bytes);
    starts.map(move |start| start..(start + sector_bytes).min(bytes))
}

fn tear(
    content: &mut Content,
    data: &Data,
    offset: usize,
    bytes: usize,
    seed: u32,
    sector_bytes: usize,
) {
    let mut random = Random::new(seed.into());
    // A prefix, a suffix or any mixture: disks do all three.
    let shape = random.below(4);
    let count = bytes.div_ceil(sector_bytes);
    let border = random.index(count + 1);
    for (index, sector) in sectors(bytes, sector_bytes).enumerate() {
        let survives = match shape {
            0 => index < border,
            1 => index >= border,
            _ => random.one_in(2),
        };
        if survives {
            content.write(data, offset, sector);
        }
    }
}

fn spoil(content: &mut Content, offset: usize, bytes: usize, seed: u32, sector_bytes: usize) {
    let mut random = Random::new(mix(&[seed.into(), 1]));
    let sector = random.index(bytes.div_ceil(sector_bytes));
    let Some(range) = sectors(bytes, sector_bytes).nth(sector) else { return };
    let first = random.index(range.len());
    let length = 1 + random.index(range.len() - first);
    let garbage = garbage(length, random.next());
    let mut sector = vec![0; range.len()];
    content.read(&mut sector, offset + range.start);
    sector[first..first + length].copy_from_slice(&garbage);
    content.write(&Data::new(&sector), offset + range.start, 0..sector.len());
}

pub(crate) fn garbage(bytes: usize, seed: u64) -> Vec<u8> {
    let mut garbage = vec![0; bytes];
    Random::new(seed ^ 0x5bd1_e995).fill(&mut garbage);
    garbage
}
