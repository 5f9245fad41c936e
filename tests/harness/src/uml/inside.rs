//! The first and only process of a kernel that is to die: mounts, writes, and never comes back.

use crate::{
    machine::run_program,
    subject::{WriteArguments, group_ends, payload, write_through},
};
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

/// The log in the file system.
pub(super) const LOG_NAME: &str = "log";

/// The device that dm-log-writes makes.
const MAPPED: &str = "logged";

/// Groups between two marks in the log of writes.
const GROUPS: usize = 6;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A directory of the host
    directory: PathBuf,
    #[arg(long)]
    fs: String,
    /// Modules to load; then writes are logged to a second disk
    #[arg(long)]
    module: Vec<PathBuf>,
    #[command(flatten)]
    write: WriteArguments,
    /// What the kernel adds to its own command line
    rest: Vec<String>,
}

/// Does not return, but for a fault of its own.
pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let outcome = work(arguments);
    if let Err(error) = &outcome {
        crate::complain(format_args!("inside: {error}"));
        let _ = fs::write(arguments.directory.join("marks/failed"), error.to_string());
    } else if arguments.module.is_empty() {
        // It is to be killed.
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    }
    reboot(RebootMode::RB_POWER_OFF)?;
    outcome.map(|()| ExitCode::SUCCESS)
}

fn work(arguments: &Arguments) -> io::Result<()> {
    let Arguments { directory, fs: kind, .. } = arguments;
    put("proc", "proc", Path::new("/proc"), MsFlags::empty(), "")?;
    // Each write is the host's before the call returns: the marks outlive the kernel.
    let marks = directory.join("marks");
    put("none", "hostfs", &marks, MsFlags::MS_SYNCHRONOUS, &marks.to_string_lossy())?;
    let mounted = directory.join("mounted");
    if arguments.module.is_empty() {
        put("/dev/ubda", kind, &mounted, MsFlags::MS_NOATIME, "")?;
        write_through(&arguments.write, |inner| inner)
    } else {
        map(arguments)?;
        let device = format!("/dev/mapper/{MAPPED}");
        put(&device, kind, &mounted, MsFlags::MS_NOATIME, "")?;
        write_marked(&arguments.write)?;
        nix::mount::umount(&mounted)?;
        dmsetup(&["remove", MAPPED])
    }
}

fn put(device: &str, kind: &str, at: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    mount(Some(device), at, Some(kind), flags, Some(options))
        .map_err(|error| io::Error::other(format!("mount {device} at {}: {error}", at.display())))
}

/// Puts dm-log-writes on the first disk, with the second for its log.
fn map(arguments: &Arguments) -> io::Result<()> {
    put("sysfs", "sysfs", Path::new("/sys"), MsFlags::empty(), "")?;
    for module in &arguments.module {
        finit_module(File::open(module)?, c"", ModuleInitFlags::empty())
            .map_err(|error| io::Error::other(format!("{}: {error}", module.display())))?;
    }
    let sectors = fs::read_to_string("/sys/block/ubda/size")?;
    let table = format!("0 {} log-writes /dev/ubda /dev/ubdb", sectors.trim());
    dmsetup(&["create", MAPPED, "--table", &table])
}

fn dmsetup(arguments: &[&str]) -> io::Result<()> {
    // There is no udev: it makes the device's node itself. And there is nobody who set a path.
    let words = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DM_DISABLE_UDEV=1", "dmsetup"];
    run_program("env", &[&words[..], arguments].concat()).map(drop)
}

/// Appends group after group, each waited for, and now and then marks in the log of writes how many
/// records are durable.
fn write_marked(arguments: &WriteArguments) -> io::Result<()> {
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
        dmsetup(&["message", MAPPED, "0", &format!("mark ack-{start}")])?;
    }
    wal.close().map_err(io::Error::other)
}
