//! [`OpenReport`]: what an open found, for people and for programs.

use crate::{Lsn, format::LogId, io::Profile};
use std::fmt;

/// What an open for writing found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenReport {
    /// Which log this is.
    pub log_id: LogId,
    /// Whether this open created it.
    pub created: bool,
    /// The length of its segments in bytes.
    pub segment_bytes: u64,
    /// Its block in bytes.
    pub block_bytes: u32,
    /// The epoch of this open.
    pub epoch: u64,
    /// Below it the user needs nothing.
    pub start_mark: Lsn,
    /// Where the log ends: behind its last frame, and where the next one goes.
    pub tail: Lsn,
    /// The last data record, unless the last two segments hold none.
    pub last_record: Option<Lsn>,
    /// How many records the log has had.
    pub next_ordinal: u64,
    /// How the log ends.
    pub verdict: Verdict,
    /// What was cut, if the verdict is a torn tail.
    pub cut: Option<Cut>,
    /// Whether the log was closed as it should be.
    pub clean_close: bool,
    /// How many segments hold what the user needs.
    pub segments: u32,
    /// How many slots there are.
    pub slots: u32,
    /// How many of them hold nothing that is needed.
    pub free_slots: u32,
    /// Names in the directory that are none of the log's.
    pub foreign_files: Vec<String>,
    /// What is known of the device.
    pub profile: Profile,
    /// What somebody should look at, though the log works.
    pub warnings: Vec<String>,
    /// How much was read to find all this.
    pub bytes_read: u64,
}

/// How a log ends. A corrupt one is an error instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing says that more was ever written than what is there.
    Clean,
    /// Something that nothing vouches for was being written when the log was last used. It is cut.
    TornTail,
}

/// What was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// Where: the log ends here.
    pub at: Lsn,
    /// The segment that it is in.
    pub segment: u64,
    /// The offset in that segment's file.
    pub offset: u64,
    /// What says that something was torn.
    pub fault: String,
    /// How far what was cut reaches, in bytes: to the end of the last trace of it.
    pub bytes: u64,
    /// The frames that were still intact, though one before them was not.
    pub intact_frames: u32,
    /// The records in them.
    pub intact_records: u64,
    /// The file that they were copied to, once they were. Where the device did not show all of what was
    /// cut, there is one in any case: its name ends with the epoch of this open, for later ones.
    pub kept_in: Option<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::TornTail => "torn tail",
        })
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, segment, offset, fault, bytes, .. } = self;
        write!(f, "{bytes} bytes at lsn {at} (segment {segment}, offset {offset}): {fault}")?;
        if self.intact_frames > 0 {
            let Self { intact_frames, intact_records, .. } = self;
            write!(f, "; intact frames among them: {intact_frames}, records: {intact_records}")?;
        }
        match &self.kept_in {
            Some(name) => write!(f, ", kept in {name}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.created { "created" } else { "opened" };
        writeln!(f, "log {} {verb}, epoch {}", self.log_id, self.epoch)?;
        write!(f, "ends at lsn {}: {}", self.tail, self.verdict)?;
        writeln!(f, "{}", if self.clean_close { ", closed" } else { "" })?;
        if let Some(cut) = &self.cut {
            writeln!(f, "cut {cut}")?;
        }
        write!(f, "needed from lsn {}, {} records ever", self.start_mark, self.next_ordinal)?;
        match self.last_record {
            Some(lsn) => writeln!(f, ", the last at lsn {lsn}")?,
            None => writeln!(f)?,
        }
        let Self { segments, segment_bytes, slots, free_slots, .. } = self;
        writeln!(
            f,
            "{segments} segments of {segment_bytes} bytes in {slots} slots, {free_slots} free"
        )?;
        let Profile { method, direct, file_system, .. } = &self.profile;
        let path = if *direct { "direct" } else { "buffered" };
        writeln!(f, "durable writes by {method}, {path}, on {file_system}")?;
        if !self.foreign_files.is_empty() {
            writeln!(f, "other files: {}", self.foreign_files.join(", "))?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
        write!(f, "{} bytes read", self.bytes_read)
    }
}
