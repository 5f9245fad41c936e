//! Making a recording: a disk that records, a loop device on it, a file system, a subject.

use super::{
    SubjectKind,
    case::Run,
    disk::MARK_NAME,
    event::{Event, Recording},
    window::START,
};
use crate::{
    fuse::Server,
    machine::{Direct, LoopDevice, Mounted, Place, run_program},
};
use std::{
    fmt, fs,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

/// A subject that is not done by then hangs.
const SUBJECT_MAX: Duration = Duration::from_secs(120);

/// The name of the log in the file system.
pub(super) const LOG_NAME: &str = "log";

/// A file system to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        }
    }

    /// About the least that each is made on.
    pub(crate) fn disk_bytes(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 300 << 20,
            Self::Btrfs => 128 << 20,
        }
    }

    /// How many states are worth their time: on btrfs a mount takes longer, and what was not synced is
    /// not reachable, so that there is less to see.
    pub(super) fn states_max(self) -> usize {
        match self {
            Self::Ext4 | Self::Xfs => 1200,
            Self::Btrfs => 400,
        }
    }

    /// A small journal where there is a choice, and nothing done later in the background.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &[
                "-q",
                "-b",
                "4096",
                "-J",
                "size=4",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
            ],
            Self::Xfs => &["-q", "-f", "-K"],
            Self::Btrfs => &["-q", "-f", "-K"],
        }
    }

    /// For mounting several copies of one file system at once.
    pub(crate) fn copy_options(self) -> &'static str {
        match self {
            Self::Xfs => "nouuid",
            Self::Ext4 | Self::Btrfs => "",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs the subject, on a fresh file system or on the one in the file `image`, and returns all that
/// happened below it.
pub(super) fn record(
    place: &Place,
    run: &Run,
    name: &str,
    image: Option<&Path>,
) -> io::Result<Recording> {
    let path = place.in_memory(&format!("{name}.raw"));
    let mut disk = start(place, run, name, &path, image)?;
    let made = if image.is_some() { Made::Already } else { Made::Now };
    let outcome = record_on(&disk, place, run, name, made);
    disk.stop()?;
    outcome?;
    let Recording { events, .. } = Recording::load(&path)?;
    fs::remove_file(&path)?;
    if !events.contains(&Event::Mark("done".to_owned())) {
        return Err(io::Error::other("the subject ended without saying that it is done"));
    }
    Ok(Recording { header: run.header(), events })
}

/// Whether the file system has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Now,
    Already,
}

fn record_on(disk: &Server, place: &Place, run: &Run, name: &str, made: Made) -> io::Result<()> {
    let mut device = LoopDevice::attach(&disk.disk(), Direct::Yes)?;
    let file_system = run.file_system;
    if made == Made::Now {
        let arguments = [file_system.arguments(), &[device.path()]].concat();
        run_program(file_system.program(), &arguments)?;
    }
    let at = place.mount_point(&format!("{name}-mounted"))?;
    let mounted = Mounted::new(device.path(), &at, file_system.name(), file_system.copy_options())?;
    // From here on it goes with the mount.
    device.detach()?;
    rustix::fs::syncfs(fs::File::open(&at)?)?;
    let marks = disk.at().join(MARK_NAME);
    OpenOptions::new().append(true).open(&marks)?.write_all(START.as_bytes())?;
    let outcome = run_subject(run, &at.join(LOG_NAME), &marks);
    mounted.unmount()?;
    outcome
}

fn run_subject(run: &Run, log: &Path, marks: &Path) -> io::Result<()> {
    let mut command = run.subject.command()?;
    let verb = if run.resumed.is_some() { "resume" } else { "write" };
    command.arg(verb).arg(log).arg(marks);
    command.args(["--records", &run.records.to_string(), "--seed", &run.seed.to_string()]);
    if let Some(crashed) = run.resumed {
        command.args(["--next", &crashed.next.to_string()]);
    }
    if run.subject == SubjectKind::Wal {
        command.args(["--method", &run.method.to_string()]);
        if let (Some(broken), None) = (run.broken, &run.resumed) {
            command.args(["--break", &broken.to_string()]);
        }
    }
    // Its own group: an interruption from the terminal is for the harness, which ends it in order.
    let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return if status.success() {
                Ok(())
            } else {
                Err(io::Error::other(format!("the subject ended with {status}")))
            };
        }
        if start.elapsed() > SUBJECT_MAX {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other("the subject hangs"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Starts the process that plays the disk.
fn start(
    place: &Place,
    run: &Run,
    name: &str,
    recording: &Path,
    image: Option<&Path>,
) -> io::Result<Server> {
    let at = place.mount_point(&format!("{name}-disk"))?;
    Server::start("disk", at, |command| {
        command.arg(recording);
        command.args(["--bytes", &run.file_system.disk_bytes().to_string()]);
        command.args(["--seed", &run.seed.to_string()]);
        if let Some(image) = image {
            command.arg("--image").arg(image);
        }
    })
}
