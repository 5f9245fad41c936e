/*!
A device that refuses writes for a while, and one that takes them and forgets them, by the kernel's own
dm-flakey.

Inside, four writers append. Once some records are durable every write answers EIO (`error_writes`): the log
latches, everybody is told, and what is durable is read on. The device is well again: for this handle nothing
changes. It refuses again, and no new open answers Ok. It is well for good, the file system is mounted anew, and the log has what was acknowledged, of the rest a prefix, and
goes on.

Or the device says Ok and keeps nothing, no write and no flush (`drop_writes`). No log survives that, and none
promises to: what was acknowledged before it began must be there, and what is lost is counted. Where the
device then keeps what comes after, later frames vouch for what is missing: the log is refused.
*/

use super::{
    METHODS, Outcome, Part, Run, Stop, expect,
    inside::Arguments,
    mapped::Mapped,
    work::{Acknowledge, Work},
};
use crate::{
    errors::Ledger,
    record::FileSystem,
    subject::{Method, Verdict, recover},
};
use rustix::fs::syncfs;
use serde_json::{Value, json};
use std::{fs::File, io, path::PathBuf};

/// The targets: up or down for longer than anything lasts.
pub(super) const WELL: &str = "flakey /dev/ubda 0 3600 0";
const REFUSING: &str = "flakey /dev/ubda 0 0 3600 1 error_writes";
const LYING: &str = "flakey /dev/ubda 0 0 3600 1 drop_writes";

const RECORDS: u64 = 1000;
/// So many records are durable before the device begins to fail.
const AFTER: u64 = 60;

/// All is in the first segment and the next one is prepared with it: what a file system makes of lost
/// writes of its own is not asked.
const SEGMENT_BYTES: u64 = 1 << 20;
const GROUPS_BEFORE: usize = 30;
const GROUPS_LOST: usize = 5;
const GROUPS_AFTER: usize = 5;

/// On the host: boots, and says what was found.
pub(super) fn run(
    run: &Run<'_>,
    file_system: FileSystem,
    modules: &[PathBuf],
) -> io::Result<Outcome> {
    run.check_inside(Part::Flakey, file_system, modules, RECORDS)
}

pub(super) fn inside(arguments: &Arguments, mapped: &Mapped) -> Result<Value, Stop> {
    let work = |name: &str, method: Method| {
        let path = arguments.write.dir.with_extension(format!("{name}-{method}"));
        let acknowledge = match arguments.acknowledge_early {
            true => Acknowledge::Appended,
            false => Acknowledge::Durable,
        };
        Work::new(path, method, arguments.write.seed, RECORDS).with_acknowledge(acknowledge)
    };
    mapped.mount()?;
    let mut found = Vec::new();
    for method in METHODS {
        found.push(refuse(&work("refused", method), mapped)?);
    }
    for method in METHODS {
        let work = |name| work(name, method).with_segment_bytes(SEGMENT_BYTES);
        found.push(lie(&work("cut"), mapped, Then::PowerCut)?);
        found.push(lie(&work("gone-on"), mapped, Then::Honest)?);
    }
    mapped.unmount()?;
    mapped.remove()?;
    Ok(Value::Array(found))
}

fn refuse(work: &Work, mapped: &Mapped) -> Result<Value, Stop> {
    let wal = work.create()?;
    syncfs(File::open(work.path())?).map_err(io::Error::from)?;
    let ended = work.together(&wal, AFTER, || mapped.become_target(REFUSING))?;
    let error = work.check_latched(&wal, &ended)?;
    mapped.become_target(WELL)?;
    // A device that is well again changes nothing for this handle.
    work.check_latched(&wal, &ended)?;
    drop(wal);
    // A new open has to write, too.
    mapped.become_target(REFUSING)?;
    let refused = recover(work.path()).verdict;
    let is_failed = matches!(refused, Verdict::Failed(_));
    expect(is_failed, || format!("nothing can be written, and the log is {refused}"))?;
    mapped.become_target(WELL)?;
    mapped.unmount()?;
    mapped.mount()?;
    let ledger = work.ledger();
    let end = work.check_recovered(ledger)?;
    Ok(json!({
        "device": "error_writes",
        "method": work.method().to_string(),
        "begun": ledger.begun,
        "acknowledged": ledger.acknowledged,
        "recovered": end,
        "error": error.to_string(),
        "opened_meanwhile": refused.to_string(),
    }))
}

/// What comes after a device has lied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It forgets what it lied about.
    PowerCut,
    /// It keeps what is written from then on.
    Honest,
}

fn lie(work: &Work, mapped: &Mapped, then: Then) -> Result<Value, Stop> {
    let wal = work.create()?;
    work.alone(&wal, GROUPS_BEFORE)?;
    syncfs(File::open(work.path())?).map_err(io::Error::from)?;
    let (before, missing) = (work.ledger(), wal.durable_lsn());
    mapped.become_target(LYING)?;
    work.alone(&wal, GROUPS_LOST)?;
    let lied = work.ledger();
    if then == Then::Honest {
        mapped.become_target(WELL)?;
        work.alone(&wal, GROUPS_AFTER)?;
    }
    drop(wal);
    mapped.unmount()?;
    mapped.become_target(WELL)?;
    mapped.mount()?;
    let after = work.ledger();
    let answer = |lost: u64, verdict: &Verdict| {
        json!({
            "device": "drop_writes",
            "then": format!("{then:?}"),
            "method": work.method().to_string(),
            "acknowledged": after.acknowledged,
            "acknowledged_before_the_lie": before.acknowledged,
            "lost": lost,
            "promised": "nothing: a flush that lies (C6)",
            "log": verdict.to_string(),
        })
    };
    let seen = recover(work.path());
    match then {
        Then::PowerCut => {
            // What was acknowledged before must be there, and nothing may be made up.
            let end = work.check_recovered(Ledger { begun: lied.begun, ..before })?;
            let lost = lied.acknowledged.saturating_sub(end);
            expect(lost > 0, || format!("the device kept what it was told to drop: {lied:?}"))?;
            Ok(answer(lost, &seen.verdict))
        }
        Then::Honest => {
            let is_refused = matches!(&seen.verdict, Verdict::Corrupt(text)
                if text.contains(&format!("lsn {missing}: expected")));
            expect(is_refused, || {
                format!("missing from lsn {missing} on: {after:?}, and the log is {}", seen.verdict)
            })?;
            Ok(answer(lied.acknowledged - before.acknowledged, &seen.verdict))
        }
    }
}
