//! The first and only process of a kernel that is to die: mounts, writes, and never comes back; or has the
//! disk fail under the log, and says what came of it.

use super::{
    Part, Stop, dust, flakey,
    mapped::{Mapped, put},
};
use crate::subject::{WriteArguments, group_ends, payload, write_through};
use nix::{
    mount::MsFlags,
    sys::reboot::{RebootMode, reboot},
};
use serde_json::json;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

/// The log in the file system.
pub(super) const LOG_NAME: &str = "log";

/// What a kernel leaves whose command failed.
pub(super) const FAILED_NAME: &str = "marks/failed";

/// What a kernel leaves that has checked something itself.
pub(super) const FOUND_NAME: &str = "found";

/// Groups between two marks in the log of writes.
const GROUPS: usize = 6;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A directory of the host
    directory: PathBuf,
    #[arg(long, default_value = "kill")]
    part: Part,
    #[arg(long)]
    fs: String,
    /// Modules to load for a device over the first disk
    #[arg(long)]
    module: Vec<PathBuf>,
    /// A fault to plant where the log is written in more than one way
    #[arg(long)]
    pub(super) acknowledge_early: bool,
    /// A fault to plant where the disk cannot be read
    #[arg(long)]
    pub(super) swallow_read_errors: bool,
    #[command(flatten)]
    pub(super) write: WriteArguments,
    /// What the kernel adds to its own command line
    rest: Vec<String>,
}

/// Does not return, but for a fault of its own.
pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let outcome = work(arguments);
    if let Err(error) = &outcome {
        crate::complain(format_args!("inside: {error}"));
        let _ = fs::write(arguments.directory.join(FAILED_NAME), error.to_string());
    } else if arguments.part == Part::Kill {
        // It is to be killed.
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    }
    reboot(RebootMode::RB_POWER_OFF)?;
    outcome.map(|()| ExitCode::SUCCESS)
}

fn work(arguments: &Arguments) -> io::Result<()> {
    let Arguments { directory, fs: kind, module, write, .. } = arguments;
    put("proc", "proc", Path::new("/proc"), MsFlags::empty(), "")?;
    // Each write is the host's before the call returns: the marks outlive the kernel.
    let marks = directory.join("marks");
    put("none", "hostfs", &marks, MsFlags::MS_SYNCHRONOUS, &marks.to_string_lossy())?;
    let mounted = directory.join("mounted");
    let map = |target: &str| Mapped::new(module, target, kind, &mounted);
    let found = match arguments.part {
        Part::Trial => return fs::write(marks.join("marks"), "booted\n"),
        Part::Kill => {
            put("/dev/ubda", kind, &mounted, MsFlags::MS_NOATIME, "")?;
            return write_through(write, |inner| inner);
        }
        Part::Replay => {
            let mapped = map("log-writes /dev/ubda /dev/ubdb")?;
            mapped.mount()?;
            write_marked(write, &mapped)?;
            mapped.unmount()?;
            return mapped.remove();
        }
        Part::Dust => dust::inside(arguments, &map(dust::TARGET)?),
        Part::Flakey => flakey::inside(arguments, &map(flakey::WELL)?),
    };
    let found = match found {
        Ok(found) => found,
        Err(Stop::Bad(text)) => json!({ "bad": text }),
        Err(Stop::Failed(error)) => return Err(error),
    };
    fs::write(marks.join(FOUND_NAME), found.to_string())
}

/// Appends group after group, each waited for, and now and then marks in the log of writes how many
/// records are durable.
fn write_marked(arguments: &WriteArguments, mapped: &Mapped) -> io::Result<()> {
    let WriteArguments { dir, records, seed, .. } = arguments;
    let options = wal::Options::new().segment_bytes(128 << 10).frame_bytes(16 << 10);
    let mut replay = options.pool_bytes(128 << 10).open(dir).map_err(io::Error::other)?;
    replay.skip_rest();
    let (wal, _) = replay.finish().map_err(io::Error::other)?;
    let mut start = 0;
    for groups in group_ends(*seed, *records).chunks(GROUPS) {
        let mut tickets = Vec::new();
        for end in groups {
            let mut batch = wal.batch();
            for index in start..*end {
                batch.push(&payload(*seed, index)).map_err(io::Error::other)?;
            }
            tickets.push(batch.append().map_err(io::Error::other)?);
            start = *end;
        }
        for ticket in tickets {
            ticket.wait().map_err(io::Error::other)?;
        }
        mapped.tell(&format!("mark ack-{start}"))?;
    }
    wal.close().map_err(io::Error::other)
}
