/*!
The process is killed at each of its calls in turn, while the kernel lives on.

The subject runs as a process of its own in a storage that ends it ([`Lethal`](super::lethal)).
*/

use super::{Ledger, Scene, Stop, expect, lethal::Lethal};
use crate::subject::{WriteArguments, recover, write_through};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, File},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const RECORDS: u64 = 300;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// At which call that changes something, counted from 1
    #[arg(long)]
    at: u64,
    /// When, in that call
    #[arg(long)]
    moment: Moment,
    #[command(flatten)]
    write: WriteArguments,
}

/// When, in a call, a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Moment {
    Before,
    /// When half of the blocks are written, or all of them and not synced.
    Amid,
    After,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::Amid => "amid",
            Self::After => "after",
        })
    }
}

/// The process that is killed. One that comes to its end says how many calls there were.
pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let Arguments { at, moment, write } = arguments;
    let calls = Arc::new(AtomicU64::new(0));
    write_through(write, |inner| Lethal::new(inner, *at, *moment, Arc::clone(&calls)))?;
    fs::write(write.marks.with_extension("calls"), calls.load(Ordering::Relaxed).to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The process is killed with SIGKILL at its first, second, and so on call that changes something on
/// disk: before the call, in its midst with a frame written by half or not synced, and after it and
/// before anybody heard. So a process can die at any time; the kernel, with all it had taken over, lives
/// on. The next open finds every acknowledged record, no other, and what comes before is whole.
pub(super) fn sweep(scene: &Scene<'_>) -> Result<Value, Stop> {
    let stand = scene.stand()?;
    let (status, _) = write(scene, stand.at(), "whole", u64::MAX, Moment::Before)?;
    if !status.success() {
        return Err(io::Error::other(format!("the subject ended with {status}")).into());
    }
    let calls = fs::read_to_string(stand.at().join("whole.calls"))?;
    let calls: u64 = calls.parse().map_err(io::Error::other)?;
    fs::remove_dir_all(stand.at().join("whole"))?;
    let mut kills = BTreeMap::<Moment, u64>::new();
    let mut verdicts = BTreeMap::<String, u64>::new();
    for round in 0..scene.kills {
        let moment =
            [Moment::Before, Moment::Amid, Moment::After][usize::try_from(round % 3).unwrap_or(0)];
        // The making of the log call by call, then what can be had of the rest.
        let at = if round < scene.kills / 2 {
            round / 3 + 1
        } else {
            1 + (round - scene.kills / 2) * calls / scene.kills.div_ceil(2)
        };
        let name = format!("log-{round}");
        let (status, ledger) = write(scene, stand.at(), &name, at, moment)?;
        let log = stand.at().join(&name);
        let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
        if signal == Some(Signal::SIGKILL) {
            *kills.entry(moment).or_default() += 1;
        } else if !status.success() {
            return Err(Stop::Bad(format!("killed {moment} call {at}: it ended with {status}")));
        }
        let found = recover(&log);
        let place = |text| Stop::Bad(format!("killed {moment} call {at} of {calls}: {text}"));
        ledger.check(&found, scene.seed, RECORDS).map_err(place)?;
        let again = recover(&log);
        expect(again.records == found.records, || {
            format!("killed {moment} call {at}: the second recovery differs: {}", again.verdict)
        })?;
        *verdicts.entry(found.verdict.to_string()).or_default() += 1;
        fs::remove_dir_all(&log)?;
    }
    let killed: u64 = kills.values().sum();
    // Threads take turns as they like, so that a late call may not come.
    expect(killed * 10 > scene.kills * 9, || format!("only {killed} kills of {}", scene.kills))?;
    let kills: Vec<_> = kills.iter().map(|(moment, count)| format!("{count} {moment}")).collect();
    Ok(json!({ "calls": calls, "kills": killed, "moments": kills, "verdicts": verdicts }))
}

/// Runs the subject until it is killed or done; how it ended, and what it had promised by then.
fn write(
    scene: &Scene<'_>,
    at: &Path,
    name: &str,
    call: u64,
    moment: Moment,
) -> Result<(ExitStatus, Ledger), Stop> {
    let marks = at.join(name).with_extension("marks");
    File::create(&marks)?;
    let mut command = Command::new(env::current_exe()?);
    command.args(["killed", "--at", &call.to_string(), "--moment", &moment.to_string()]);
    command.arg(at.join(name)).arg(&marks);
    command.args(["--records", &RECORDS.to_string(), "--seed", &scene.seed.to_string()]);
    command.args(["--method", &scene.method.to_string()]);
    if scene.early {
        command.args(["--break", "ack-before-sync"]);
    }
    let status = command.stdin(Stdio::null()).process_group(0).status()?;
    let text = fs::read_to_string(&marks)?;
    fs::remove_file(&marks)?;
    let ledger = Ledger::from_marks(&text).map_err(io::Error::other)?;
    Ok((status, ledger))
}
