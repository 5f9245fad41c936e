//! [`History`]: everything that was done to a disk, in one order.

use super::content::Data;
use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// What was done, and when: each operation has a beginning and, unless the lights went out first, an
/// end. Between the two, one that fails may make the device forget others.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    Begin(usize),
    End(usize),
    /// A flush that this operation carries fails, and the device forgets what it has not flushed.
    Drop(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) kind: Kind,
    /// Whether it answered `Ok`; means something only once it has ended.
    pub(crate) is_ok: bool,
    /// Whether the disk does what it says.
    pub(crate) is_honest: bool,
    /// Of a write that failed, how many of its bytes the disk took.
    pub(crate) taken: usize,
    /// Of a flush that failed, which operations are forgotten by it.
    pub(crate) dropped: Vec<usize>,
    /// Whether it is one of those that were forgotten.
    pub(crate) is_forgotten: bool,
}

/// An operation. Files go by number: their names change.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Write { file: usize, offset: usize, data: Data, durable: bool },
    SetLen { file: usize, len: usize },
    Sync { file: usize },
    Create { name: String, file: usize },
    Rename { from: String, to: String, file: usize },
    Remove { name: String },
    SyncDir,
}

impl History {
    pub(crate) fn begin(&mut self, kind: Kind, is_honest: bool) -> usize {
        let taken = if let Kind::Write { data, .. } = &kind { data.len() } else { 0 };
        let op =
            Op { kind, is_ok: false, is_honest, taken, dropped: Vec::new(), is_forgotten: false };
        self.ops.push(op);
        let op = self.ops.len() - 1;
        self.events.push(Event::Begin(op));
        op
    }

    pub(crate) fn end(&mut self, op: usize, is_ok: bool) {
        self.ops[op].is_ok = is_ok;
        self.events.push(Event::End(op));
    }

    /// A flush that `op` carries fails, and the device forgets what was `dropped`.
    pub(crate) fn drop(&mut self, op: usize, dropped: Vec<usize>) {
        for forgotten in &dropped {
            self.ops[*forgotten].is_forgotten = true;
        }
        self.ops[op].dropped = dropped;
        self.events.push(Event::Drop(op));
    }

    /// Whether a failed flush made the device forget something of `file`.
    pub(crate) fn has_dropped(&self, file: usize) -> bool {
        self.ops.iter().any(|op| op.is_forgotten && op.kind.file() == Some(file))
    }

    /// One number for all of it: that of two equal histories is equal.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.events.hash(&mut hasher);
        for op in &self.ops {
            (op.is_ok, op.taken, &op.dropped, op.to_string()).hash(&mut hasher);
            if let Kind::Write { data, .. } = &op.kind {
                data.bytes(0..data.len()).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

impl Kind {
    /// The file whose bytes it changes.
    pub(crate) fn file(&self) -> Option<usize> {
        match self {
            Self::Write { file, .. } | Self::SetLen { file, .. } => Some(*file),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Write { file, offset, data, durable } => {
                let how = if *durable { "durable write" } else { "write" };
                let what = if matches!(data, Data::Zeros(_)) { "zeros" } else { "bytes" };
                write!(f, "{how} of {} {what} at {offset} of file {file}", data.len())?;
            }
            Kind::SetLen { file, len } => write!(f, "length {len} for file {file}")?,
            Kind::Sync { file } => write!(f, "sync of file {file}")?,
            Kind::Create { name, file } => write!(f, "create {name} (file {file})")?,
            Kind::Rename { from, to, .. } => write!(f, "rename {from} to {to}")?,
            Kind::Remove { name } => write!(f, "remove {name}")?,
            Kind::SyncDir => f.write_str("sync of the directory")?,
        }
        f.write_str(if self.is_honest { "" } else { ", a lie" })
    }
}
