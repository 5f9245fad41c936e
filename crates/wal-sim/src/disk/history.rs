//! [`History`]: everything that was done to a disk, in one order.

use super::content::Data;
use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// What was done, and when: each operation has a beginning and, unless the lights went out first, an
/// end.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    Begin(usize),
    End(usize),
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
    /// Of a sync that failed, which writes are forgotten by it.
    pub(crate) dropped: Vec<usize>,
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
        self.ops.push(Op { kind, is_ok: false, is_honest, taken, dropped: Vec::new() });
        let op = self.ops.len() - 1;
        self.events.push(Event::Begin(op));
        op
    }

    pub(crate) fn end(&mut self, op: usize, is_ok: bool) {
        self.ops[op].is_ok = is_ok;
        self.events.push(Event::End(op));
    }

    /// Whether a failed sync of `file` made the device forget something.
    pub(crate) fn has_dropped(&self, file: usize) -> bool {
        let is_sync = |kind: &Kind| matches!(kind, Kind::Sync { file: other } if *other == file);
        self.ops.iter().any(|op| !op.dropped.is_empty() && is_sync(&op.kind))
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
