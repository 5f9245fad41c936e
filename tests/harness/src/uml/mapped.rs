//! [`Mapped`]: what device-mapper makes of the first disk, inside, with a file system on it; and the
//! modules for it.

use super::kernel::Kernel;
use crate::machine::run_program;
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount, umount},
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The device's name.
const NAME: &str = "mapped";

/// All targets need it.
const CORE: &str = "drivers/md/dm-mod.ko";

/// Threads of a log that was dropped let go of its files a little later.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// The modules for the device-mapper's target `name`, each after those that it needs, if this kernel has
/// them.
pub(super) fn modules(kernel: &Kernel, name: &str) -> Option<[PathBuf; 2]> {
    Some([kernel.module(CORE)?, kernel.module(&format!("drivers/md/dm-{name}.ko"))?])
}

/// A device over the first disk, of which device-mapper's target makes something.
#[derive(Debug)]
pub(super) struct Mapped {
    sectors: String,
    kind: String,
    at: PathBuf,
}

impl Mapped {
    /// Makes the device. `target` is its table without the range; `kind` is the file system on the disk,
    /// `at` where it is to be mounted.
    pub(super) fn new(
        modules: &[PathBuf],
        target: &str,
        kind: &str,
        at: &Path,
    ) -> io::Result<Self> {
        put("sysfs", "sysfs", Path::new("/sys"), MsFlags::empty(), "")?;
        for module in modules {
            finit_module(File::open(module)?, c"", ModuleInitFlags::empty())
                .map_err(|error| io::Error::other(format!("{}: {error}", module.display())))?;
        }
        let sectors = fs::read_to_string("/sys/block/ubda/size")?.trim().to_owned();
        let mapped = Self { sectors, kind: kind.to_owned(), at: at.to_path_buf() };
        dmsetup(&["create", NAME, "--table", &mapped.table(target)])?;
        Ok(mapped)
    }

    fn table(&self, target: &str) -> String {
        format!("0 {} {target}", self.sectors)
    }

    pub(super) fn mount(&self) -> io::Result<()> {
        let device = format!("/dev/mapper/{NAME}");
        put(&device, &self.kind, &self.at, MsFlags::MS_NOATIME, "")
    }

    /// Waits for the last user to go.
    pub(super) fn unmount(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            match umount(&self.at) {
                Err(Errno::EBUSY) if start.elapsed() < BUSY_MAX => {
                    thread::sleep(Duration::from_millis(1));
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Tells the target something.
    pub(super) fn tell(&self, words: &str) -> io::Result<()> {
        dmsetup(&["message", NAME, "0", words])
    }

    /// Has another target take over, under whoever uses the device: nobody writes in between, and nothing
    /// is flushed for it.
    pub(super) fn become_target(&self, target: &str) -> io::Result<()> {
        dmsetup(&["suspend", "--noflush", "--nolockfs", NAME])?;
        dmsetup(&["load", NAME, "--table", &self.table(target)])?;
        dmsetup(&["resume", NAME])
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        dmsetup(&["remove", NAME])
    }
}

pub(super) fn put(
    device: &str,
    kind: &str,
    at: &Path,
    flags: MsFlags,
    options: &str,
) -> io::Result<()> {
    mount(Some(device), at, Some(kind), flags, Some(options))
        .map_err(|error| io::Error::other(format!("mount {device} at {}: {error}", at.display())))
}

fn dmsetup(arguments: &[&str]) -> io::Result<()> {
    // There is no udev: it makes the device's node itself.
    program("dmsetup", arguments).map(drop)
}

/// Runs a program of the host, inside, where nobody set a path.
pub(super) fn program(name: &str, arguments: &[&str]) -> io::Result<String> {
    let words = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DM_DISABLE_UDEV=1", name];
    run_program("env", &[&words[..], arguments].concat())
}
