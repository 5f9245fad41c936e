//! Going on after a crash: the recovery itself, and what is appended in the place of what was lost.

use super::{
    ResumeArguments, group_ends, open_patiently, payload, payload_again,
    prepare::{Marks, choose, directory},
    recover::number_of,
};
use std::io;

/// A resumed run may append so many records more than the run that crashed.
pub(crate) const EXTRA_RECORDS: u64 = 100;

/// How many groups are appended.
const GROUPS: usize = 12;

/// Opens the log, which must hold all records before number `next` and no other, and appends the same
/// groups that were lost, with other bytes.
pub(super) fn resume(arguments: &ResumeArguments) -> io::Result<()> {
    let ResumeArguments { dir, marks, records, seed, next, method } = arguments;
    let marks = Marks::open(marks)?;
    choose(dir, *method)?;
    let mut replay = open_patiently(|| directory(dir, *method)).map_err(io::Error::other)?;
    let mut last = None;
    while let Some(record) = replay.next().map_err(io::Error::other)? {
        let number = number_of(record.payload());
        if number >= *next || record.payload() != payload(*seed, number) {
            return Err(io::Error::other(format!("record {number}, though {next} is missing")));
        }
        last = Some(number);
    }
    if last.is_some_and(|last| last + 1 != *next) {
        return Err(io::Error::other(format!("the last record is {last:?} and not before {next}")));
    }
    let (wal, _) = replay.finish().map_err(io::Error::other)?;
    marks.put("settled")?;
    let ends = group_ends(*seed, records + EXTRA_RECORDS);
    let mut start = *next;
    for end in ends.into_iter().filter(|end| end > next).take(GROUPS) {
        marks.put(&format!("begin {}", end - 1))?;
        let mut batch = wal.batch();
        for index in start..end {
            batch.push(&payload_again(*seed, index)).map_err(io::Error::other)?;
        }
        batch.append().map_err(io::Error::other)?.wait().map_err(io::Error::other)?;
        marks.put(&format!("ack {}", end - 1))?;
        start = end;
    }
    wal.close().map_err(io::Error::other)?;
    marks.put("done")
}
