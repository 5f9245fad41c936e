//! The process has reached a limit: the length of a file, the number of its files.

use super::{Scene, Stop, expect, work::Ended};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::{fs::File, io, os::fd::AsRawFd};
use wal::{Error, ErrorKind};

const RECORDS: u64 = 2000;
const SEGMENT_BYTES: u64 = 128 << 10;

/// A limit of this process, lowered until dropped. Other threads of the harness do not come near it.
struct Lowered {
    resource: Resource,
    soft: u64,
    hard: u64,
}

impl Lowered {
    fn to(resource: Resource, limit: u64) -> io::Result<Self> {
        let (soft, hard) = getrlimit(resource)?;
        setrlimit(resource, limit, hard)?;
        Ok(Self { resource, soft, hard })
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        if let Err(error) = setrlimit(self.resource, self.soft, self.hard) {
            crate::complain(error);
        }
    }
}

/// The length of files is limited (`RLIMIT_FSIZE`, EFBIG). A log whose segments are longer cannot be
/// made, and the error is that there is no space. One that exists and is open: the preparation of the next
/// segment fails, and appends answer the same; a commit past the limit latches. Nothing that was
/// acknowledged is missing once the limit is gone.
pub(super) fn file_size(scene: &Scene<'_>) -> Result<Value, Stop> {
    let stand = scene.stand()?;
    let work = scene.work(&stand, "log", RECORDS).with_segment_bytes(SEGMENT_BYTES);
    let refused = {
        let _limit = Lowered::to(Resource::RLIMIT_FSIZE, SEGMENT_BYTES / 2)?;
        let new = work.options().open(stand.at().join("new"));
        let error = new.err().ok_or_else(|| Stop::Bad("made a log past the limit".to_owned()))?;
        expect(error.kind() == ErrorKind::NoSpace, || format!("a new log: {error:?}"))?;
        error
    };
    // What was left of the attempt is no log, and does not keep one from being made.
    let again = super::Work::new(stand.at().join("new"), scene.method, scene.seed, 40);
    let wal = again.with_segment_bytes(SEGMENT_BYTES);
    let opened = wal.open()?;
    let ended = wal.alone(&opened, usize::MAX);
    expect(ended.error().is_none(), || format!("{ended:?}"))?;
    drop(opened);
    wal.check_recovered()?;

    // Half a segment: first the commit that reaches it fails, or the preparation, whichever is first.
    let wal = work.open()?;
    let ended = {
        let _limit = Lowered::to(Resource::RLIMIT_FSIZE, SEGMENT_BYTES / 2)?;
        let ended = work.together(&wal, 0, || Ok(()))?;
        work.check_latched(&wal, &ended)?;
        work.check_readable(&wal)?;
        ended
    };
    work.check_latched(&wal, &ended)?;
    drop(wal);
    let latched_at = work.check_recovered()?;
    Ok(json!({
        "refused": refused.to_string(),
        "latched": ended.iter().find_map(Ended::error).map(Error::to_string),
        "recovered": latched_at,
    }))
}

/// The process may open no more files (EMFILE). An open is refused with the system's reason and leaves
/// the log as it was; a log that is open goes on in what it has, its appends then fail cleanly, and go on
/// once there are descriptors again.
pub(super) fn descriptors(scene: &Scene<'_>) -> Result<Value, Stop> {
    let stand = scene.stand()?;
    let work = scene.work(&stand, "log", RECORDS).with_segment_bytes(SEGMENT_BYTES);
    let wal = work.open()?;
    let ended = work.alone(&wal, 20);
    expect(ended.error().is_none(), || format!("{ended:?}"))?;
    let ended = {
        let _limit = Lowered::to(Resource::RLIMIT_NOFILE, lowest_descriptor()?)?;
        let ended = work.together(&wal, 0, || Ok(()))?;
        work.check_readable(&wal)?;
        ended
    };
    let is_clean = |ended: &Ended| {
        matches!(ended, Ended::Append(error)
            if matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace))
    };
    expect(ended.iter().all(is_clean), || format!("without descriptors: {ended:?}"))?;
    let before = work.ledger().acknowledged;
    let after = work.alone(&wal, 60);
    expect(after.error().is_none(), || format!("with descriptors again: {after:?}"))?;
    let went_on = work.ledger().acknowledged - before;
    wal.close()?;
    drop(wal);

    // Each number of descriptors that is too small for an open, one after the other.
    let mut refusals = 0;
    let floor = lowest_descriptor()?;
    for spare in 0..40 {
        let opened = {
            let _limit = Lowered::to(Resource::RLIMIT_NOFILE, floor + spare)?;
            let opened = work.options().open(work.path());
            // Made while there is a limit, read when there is none.
            opened.map(|mut replay| {
                let mut count = 0;
                while matches!(replay.next(), Ok(Some(_))) {
                    count += 1;
                }
                count
            })
        };
        match opened {
            Ok(count) => {
                let expected = work.ledger().acknowledged;
                expect(count == expected, || format!("{count} records of {expected}"))?;
                break;
            }
            Err(error) => {
                expect(error.kind() == ErrorKind::Io, || format!("{spare} left: {error:?}"))?;
                refusals += 1;
            }
        }
    }
    expect(refusals > 2, || format!("only {refusals} refusals"))?;
    let end = work.check_recovered()?;
    Ok(json!({
        "refusals": refusals,
        "went_on": went_on,
        "recovered": end,
        "error": ended.iter().find_map(Ended::error).map(Error::to_string),
    }))
}

/// A limit that leaves none free: the lowest that is.
fn lowest_descriptor() -> io::Result<u64> {
    u64::try_from(File::open("/dev/null")?.as_raw_fd()).map_err(io::Error::other)
}
