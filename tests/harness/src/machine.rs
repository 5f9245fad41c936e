/*!
What the harness does to the machine: mounts, loop devices, other programs. Each is a value that
undoes itself when dropped.

All mounts are made in a mount namespace of the process's own, so that nothing that happens to the
process, not even SIGKILL, leaves one behind. Loop devices are given back by `Drop`, so that SIGKILL, and
only that, leaves those of the checkers; one over a file system that is mounted detaches itself with
the last use.
*/

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal},
};
use std::{
    env,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a file system may stay busy after its last user closed its files.
const BUSY_MAX: Duration = Duration::from_secs(20);

/// What keeps the harness from working here, if anything does.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root".to_owned());
    }
    if let Some(device) =
        ["/dev/fuse", "/dev/loop-control"].iter().find(|device| !Path::new(device).exists())
    {
        return Some((*device).to_owned());
    }
    programs.iter().find(|program| !is_installed(program)).map(|program| (*program).to_owned())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Gives this process, and what it starts later, mounts of their own. Must come before any thread.
pub(crate) fn take_private_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// Has this process killed when the one that started it is gone, however that ended.
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// Becomes true when somebody wants the process to end, which is then up to the process: it has
/// things to give back. Must come before any other thread.
pub(crate) fn interruption() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let told = Arc::clone(&interrupted);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while signals.wait().is_ok() {
            told.store(true, Ordering::Relaxed);
        }
    })?;
    Ok(interrupted)
}

/// Runs a program to its end; what it printed, or an error with what it complained about.
pub(crate) fn run_program<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}: {}", output.status, complaint.trim())))
}

/// A directory of the harness's own, with a file system in memory for what is large.
#[derive(Debug)]
pub(crate) struct Place {
    memory: Option<Mounted>,
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("wal-harness-").tempdir()?;
        let memory = directory.path().join("memory");
        std::fs::create_dir(&memory)?;
        let memory = Mounted::new("none", &memory, "tmpfs", "size=75%")?;
        Ok(Self { memory: Some(memory), directory })
    }

    /// A path in memory.
    pub(crate) fn in_memory(&self, name: &str) -> PathBuf {
        self.directory.path().join("memory").join(name)
    }

    /// A fresh directory to mount on.
    pub(crate) fn mount_point(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before the directory that it is mounted in.
        self.memory = None;
    }
}

/// A loop device.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: String,
    is_detached: bool,
}

impl LoopDevice {
    /// A device on `file`, past the page cache of the file if `direct`.
    pub(crate) fn attach(file: &Path, direct: Direct) -> io::Result<Self> {
        let direct = match direct {
            Direct::Yes => "--direct-io=on",
            Direct::No => "--direct-io=off",
        };
        let arguments = ["--find", "--show", direct].map(OsStr::new);
        let path = run_program("losetup", &[&arguments[..], &[file.as_os_str()]].concat())?;
        Ok(Self { path, is_detached: false })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Gives the device back: at once, or with its last use.
    pub(crate) fn detach(&mut self) -> io::Result<()> {
        if !self.is_detached {
            run_program("losetup", &["--detach", &self.path])?;
            self.is_detached = true;
        }
        Ok(())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            crate::complain(error);
        }
    }
}

/// Whether a loop device goes past the page cache of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direct {
    Yes,
    No,
}

/// A file system that is mounted.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
    is_gone: bool,
}

impl Mounted {
    pub(crate) fn new(device: &str, at: &Path, kind: &str, options: &str) -> io::Result<Self> {
        mount(Some(device), at, Some(kind), MsFlags::MS_NOATIME, Some(options))?;
        Ok(Self { at: at.to_path_buf(), is_gone: false })
    }

    /// What somebody else mounted at `at`.
    pub(crate) fn adopt(at: &Path) -> Self {
        Self { at: at.to_path_buf(), is_gone: false }
    }

    /// Unmounts, waiting for the last user to go.
    pub(crate) fn unmount(mut self) -> io::Result<()> {
        self.unmount_patiently()
    }

    fn unmount_patiently(&mut self) -> io::Result<()> {
        let start = Instant::now();
        while !self.is_gone {
            match umount2(&self.at, MntFlags::empty()) {
                Err(Errno::EBUSY) if start.elapsed() < BUSY_MAX => {
                    thread::sleep(Duration::from_millis(1));
                }
                outcome => {
                    // Never tried twice: a second file system may be below.
                    self.is_gone = true;
                    outcome?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.unmount_patiently().is_err() {
            let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        }
    }
}
