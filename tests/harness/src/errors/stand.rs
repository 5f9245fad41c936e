//! [`Stand`]: a file system that is mounted on a disk that fails as it is told to.

use super::disk::{CONTROL_NAME, DISK_NAME, Fault, Tally};
use crate::{
    machine::{Direct, LoopDevice, Mounted, Place, run_program},
    record::FileSystem,
};
use std::{
    env, fs,
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// How a stand differs from the usual one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build {
    pub(super) file_system: FileSystem,
    /// The size of the disk; by default what the file system needs at least.
    pub(super) bytes: Option<u64>,
    pub(super) sector_bytes: u32,
    /// More to mount with.
    pub(super) options: &'static str,
}

impl Build {
    pub(super) fn of(file_system: FileSystem) -> Self {
        Self { file_system, bytes: None, sector_bytes: 512, options: "" }
    }
}

/// A disk, a loop device on it, and a file system on that. Dropped in this order: what is mounted,
/// which takes the loop device with it, then the disk.
#[derive(Debug)]
pub(super) struct Stand {
    mounted: Option<Mounted>,
    disk: Server,
    build: Build,
    /// The loop device of the moment.
    device: String,
    at: PathBuf,
}

impl Stand {
    pub(super) fn new(place: &Place, name: &str, build: Build) -> io::Result<Self> {
        let Build { file_system, bytes, .. } = build;
        let disk = Server::start(
            place.mount_point(&format!("{name}-disk"))?,
            bytes.unwrap_or(file_system.disk_bytes()),
        )?;
        let at = place.mount_point(&format!("{name}-mounted"))?;
        let mut stand = Self { mounted: None, disk, build, device: String::new(), at };
        let mut device = stand.attach()?;
        let arguments = [file_system.arguments(), &[device.path()]].concat();
        run_program(file_system.program(), &arguments)?;
        stand.mount(&mut device)?;
        rustix::fs::syncfs(fs::File::open(&stand.at)?)?;
        Ok(stand)
    }

    fn attach(&self) -> io::Result<LoopDevice> {
        let device = LoopDevice::attach(&self.disk.at.join(DISK_NAME), Direct::Yes)?;
        if self.build.sector_bytes != 512 {
            let bytes = self.build.sector_bytes.to_string();
            run_program("losetup", &["--sector-size", &bytes, device.path()])?;
        }
        Ok(device)
    }

    fn mount(&mut self, device: &mut LoopDevice) -> io::Result<()> {
        let Build { file_system, options, .. } = self.build;
        let mounted = Mounted::new(device.path(), &self.at, file_system.name(), options)?;
        device.path().clone_into(&mut self.device);
        // From here on it goes with the mount.
        device.detach()?;
        self.mounted = Some(mounted);
        Ok(())
    }

    /// Unmounts, which everybody must have left, and mounts again: nothing that was cached is left.
    pub(super) fn remount(&mut self) -> io::Result<()> {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount()?;
        }
        let mut device = self.attach()?;
        self.mount(&mut device)
    }

    /// Where the file system is mounted.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    pub(super) fn file_system(&self) -> FileSystem {
        self.build.file_system
    }

    /// The name of the loop device of the moment, without its directory.
    pub(super) fn device_name(&self) -> &str {
        self.device.trim_start_matches("/dev/")
    }

    /// Tells the disk what to do wrong.
    pub(super) fn fault(&self, fault: Fault) -> io::Result<()> {
        let mut control = OpenOptions::new().write(true).open(self.disk.at.join(CONTROL_NAME))?;
        control.write_all(fault.to_string().as_bytes())
    }

    /// What the disk did wrong so far.
    pub(super) fn tally(&self) -> io::Result<Tally> {
        fs::read_to_string(self.disk.at.join(CONTROL_NAME))?.parse()
    }
}

/// The process that plays the disk.
#[derive(Debug)]
struct Server {
    child: Child,
    at: PathBuf,
    mounted: Option<Mounted>,
}

impl Server {
    fn start(at: PathBuf, bytes: u64) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("faulty-disk").arg(&at).args(["--bytes", &bytes.to_string()]);
        // Its own group: an interruption from the terminal is for the harness.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let mut answer = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut answer)?;
        }
        if answer.trim() != "ready" {
            child.kill()?;
            return Err(io::Error::other(format!("the disk ended with {}", child.wait()?)));
        }
        let mounted = Some(Mounted::adopt(&at));
        Ok(Self { child, at, mounted })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The loop device may need a moment to let go, for which the unmount waits.
        self.mounted = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
