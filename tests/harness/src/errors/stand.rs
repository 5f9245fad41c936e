//! [`Stand`]: a file system that is mounted on a disk that fails as it is told to.

use super::{
    disk::CONTROL_NAME,
    fault::{Fault, Tally},
};
use crate::{
    fuse::Server,
    machine::{Direct, LoopDevice, Mounted, Place, run_program},
    record::FileSystem,
};
use std::{
    fs,
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
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
        let bytes = bytes.unwrap_or(file_system.disk_bytes()).to_string();
        let disk = place.mount_point(&format!("{name}-disk"))?;
        let disk = Server::start("faulty-disk", disk, |command| {
            command.args(["--bytes", &bytes]);
        })?;
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
        let device = LoopDevice::attach(&self.disk.disk(), Direct::Yes)?;
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
        let mut control = OpenOptions::new().write(true).open(self.disk.at().join(CONTROL_NAME))?;
        control.write_all(fault.to_string().as_bytes())
    }

    /// What the disk did wrong so far.
    pub(super) fn tally(&self) -> io::Result<Tally> {
        fs::read_to_string(self.disk.at().join(CONTROL_NAME))?.parse()
    }
}
