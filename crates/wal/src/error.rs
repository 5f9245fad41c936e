//! [`Error`]: what went wrong, sorted by what the caller does next.

use crate::lsn::Lsn;
use nix::errno::Errno;
use std::{fmt, io, path::PathBuf, sync::Arc};

/// The result of every call of this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller does next. Matching on it is stable; the text of an [`Error`] is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fix the call: an option out of range, a checkpoint that would fall, a call that is not
    /// allowed here. Nothing was changed.
    InvalidInput,
    /// Fix the input: the record or batch is longer than a segment can hold. Nothing was changed.
    TooLarge,
    /// Try again, or use the form that waits: there is no room in memory just now.
    WouldBlock,
    /// The time was up first. The record is where it was: it may become durable at any moment.
    TimedOut,
    /// Free space: the disk or the log's own cap is full. Nothing that was appended before is
    /// harmed; a checkpoint or more room lets the log go on.
    NoSpace,
    /// Somebody else has the log open for writing, or still writes to it.
    Locked,
    /// This process is a fork of the one that opened the log: open it anew here.
    Forked,
    /// The log was closed, or its handle dropped, before this could be done.
    Closed,
    /// Reopen the log: a write or a sync failed. Whether the records in [`Error::range`] are on
    /// stable storage is unknown until then; where there is no range, every record that was appended
    /// is, up to [`Error::lsn`].
    Latched,
    /// Restore or salvage: bytes that were acknowledged, or that prove that others were, are
    /// damaged or missing.
    Corrupt,
    /// Start further on: these bytes were released, or another segment has taken their place.
    Released,
    /// Upgrade, or move: the log's format, block size or place is not one that works here.
    Unsupported,
    /// Create it first: there is no log here.
    NotFound,
    /// The system refused an operation before any promise depended on it. Try again once the
    /// cause, [`std::error::Error::source`], is mended.
    Io,
}

/// What went wrong, where, and what was found instead.
///
/// Cloning is cheap: one failure can be the answer to a thousand waiters.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone, Default)]
struct Context {
    path: Option<PathBuf>,
    segment: Option<u64>,
    offset: Option<u64>,
    lsn: Option<Lsn>,
    range: Option<(Lsn, Lsn)>,
    expected: Option<String>,
    found: Option<String>,
    holder_pid: Option<u32>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    what: String,
    context: Context,
    source: Option<Arc<io::Error>>,
}

impl Error {
    /// An error of `kind`; `what` says in words what was being done.
    #[must_use]
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, what: what.into(), context: Context::default(), source: None }))
    }

    /// The system's `source` met while doing `what`: [`ErrorKind::NoSpace`] where the disk, a
    /// quota or a limit on file size was reached, else [`ErrorKind::Io`].
    #[must_use]
    pub fn from_io(what: impl Into<String>, source: io::Error) -> Self {
        let kind = if is_no_space(&source) { ErrorKind::NoSpace } else { ErrorKind::Io };
        Self::new(kind, what).with_source(source)
    }

    /// What the caller does next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or directory concerned.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        self.0.context.path.as_deref()
    }

    /// The sequence number of the segment concerned.
    #[must_use]
    pub fn segment(&self) -> Option<u64> {
        self.0.context.segment
    }

    /// The offset in the file, in bytes.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.context.offset
    }

    /// The position in the log. For [`ErrorKind::Latched`] without a range: every record that was
    /// appended ends at or below it, and is durable.
    #[must_use]
    pub fn lsn(&self) -> Option<Lsn> {
        self.0.context.lsn
    }

    /// For [`ErrorKind::Latched`]: the outcome of records from the first up to, not including, the
    /// second position is unknown. `None` where there are none: what failed touched no record.
    #[must_use]
    pub fn range(&self) -> Option<(Lsn, Lsn)> {
        self.0.context.range
    }

    /// What should have been there.
    #[must_use]
    pub fn expected(&self) -> Option<&str> {
        self.0.context.expected.as_deref()
    }

    /// What was there.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.0.context.found.as_deref()
    }

    /// For [`ErrorKind::Locked`]: the process that holds the log, where it is known.
    #[must_use]
    pub fn holder_pid(&self) -> Option<u32> {
        self.0.context.holder_pid
    }

    /// The same error with the file or directory concerned.
    #[must_use]
    pub fn with_path(self, path: impl Into<PathBuf>) -> Self {
        self.with(|inner| inner.context.path = Some(path.into()))
    }

    /// The same error with the sequence number of the segment concerned.
    #[must_use]
    pub fn with_segment(self, sequence: u64) -> Self {
        self.with(|inner| inner.context.segment = Some(sequence))
    }

    /// The same error with the offset in the file, in bytes.
    #[must_use]
    pub fn with_offset(self, offset: u64) -> Self {
        self.with(|inner| inner.context.offset = Some(offset))
    }

    /// The same error with the position in the log.
    #[must_use]
    pub fn with_lsn(self, lsn: Lsn) -> Self {
        self.with(|inner| inner.context.lsn = Some(lsn))
    }

    /// The same error with the range whose outcome is unknown: from `from` up to before `to`.
    #[must_use]
    pub fn with_range(self, from: Lsn, to: Lsn) -> Self {
        self.with(|inner| inner.context.range = Some((from, to)))
    }

    /// The same error with what should have been there and what was.
    #[must_use]
    pub fn with_expected_found(
        self,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        self.with(|inner| {
            inner.context.expected = Some(expected.to_string());
            inner.context.found = Some(found.to_string());
        })
    }

    /// The same error with the process that holds the log.
    #[must_use]
    pub fn with_holder_pid(self, pid: u32) -> Self {
        self.with(|inner| inner.context.holder_pid = Some(pid))
    }

    /// The same error with the system's own error as its source.
    #[must_use]
    pub fn with_source(self, source: io::Error) -> Self {
        self.with(|inner| inner.source = Some(Arc::new(source)))
    }

    /// Whether it says that something is short for a while: room, memory, descriptors, threads. The same
    /// call may succeed once the system has some again, where nothing depends on what failed.
    pub(crate) fn is_shortage(&self) -> bool {
        match self.kind() {
            ErrorKind::NoSpace => true,
            ErrorKind::Io => self.0.source.as_deref().is_some_and(is_short),
            _ => false,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

/// Whether `error` says that there is no room: the disk, a quota, or a limit on the file's size.
fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether `error` says that there is no memory, no descriptor, or no thread to be had.
fn is_short(error: &io::Error) -> bool {
    let short = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EAGAIN];
    error.kind() == io::ErrorKind::OutOfMemory
        || error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| short.contains(&errno))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, what, context, source } = &*self.0;
        f.write_str(what)?;
        if let Some(path) = &context.path {
            write!(f, ", in {}", path.display())?;
        }
        if let Some(segment) = context.segment {
            write!(f, ", segment {segment}")?;
        }
        if let Some(offset) = context.offset {
            write!(f, ", offset {offset}")?;
        }
        match context.lsn {
            Some(lsn) if *kind == ErrorKind::Latched => {
                write!(f, ", every record that was appended is durable, up to lsn {lsn}")?;
            }
            Some(lsn) => write!(f, ", lsn {lsn}")?,
            None => {}
        }
        if let Some((from, to)) = context.range {
            write!(f, ", outcome unknown from lsn {from} to {to}")?;
        }
        if let (Some(expected), Some(found)) = (&context.expected, &context.found) {
            write!(f, ": expected {expected}, found {found}")?;
        }
        if let Some(pid) = context.holder_pid {
            write!(f, ", held by process {pid}")?;
        }
        if let Some(source) = source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| -> &(dyn std::error::Error + 'static) { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_place_expected_and_found() {
        let error = Error::new(ErrorKind::Corrupt, "frame header does not fit")
            .with_path("slot-0003")
            .with_segment(7)
            .with_offset(8192)
            .with_lsn(Lsn::new(99))
            .with_expected_found(1, 2);
        let text = error.to_string();
        for part in ["slot-0003", "segment 7", "offset 8192", "lsn 99", "expected 1, found 2"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn full_disk_is_told_from_other_failures() {
        let full = Error::from_io("grow", io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        let other = Error::from_io("grow", io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(other.kind(), ErrorKind::Io);
    }

    /// What may be tried again is told by what the system said, whoever it said it to.
    #[test]
    fn a_shortage_is_told_from_a_failed_device() {
        let of = |errno: Errno| Error::from_io("write", io::Error::from(errno));
        for errno in [
            Errno::ENOSPC,
            Errno::EDQUOT,
            Errno::EFBIG,
            Errno::ENOMEM,
            Errno::EAGAIN,
            Errno::EMFILE,
            Errno::ENFILE,
        ] {
            assert!(of(errno).is_shortage(), "{errno}");
            let latched = Error::new(ErrorKind::Latched, "a write failed");
            let latched = latched.with_source(io::Error::other(of(errno)));
            assert!(!latched.is_shortage(), "{errno} is why it latched");
        }
        for errno in [Errno::EIO, Errno::EROFS, Errno::EACCES, Errno::ENODEV, Errno::EBADF] {
            assert!(!of(errno).is_shortage(), "{errno}");
        }
        let memory = io::Error::from(io::ErrorKind::OutOfMemory);
        assert!(Error::from_io("memory for frames", memory).is_shortage());
    }
}
