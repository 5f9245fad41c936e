//! [`Kernel`]: User-Mode Linux, found or fetched; [`Boot`]: one of it that is to run.

use super::Part;
use crate::machine::{Place, run_program};
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const PACKAGE: &str = "user-mode-linux";

/// These measure for seconds what nobody needs here.
const LEFT_OUT: &str = "raid6_select_algo,calibrate_xor_blocks,register_xor_blocks";

/// A kernel that has not come to a mark by then never does.
pub(super) const BOOT_MAX: Duration = Duration::from_secs(30);

/// A kernel that does not end by itself by then never does.
const RUN_MAX: Duration = Duration::from_secs(120);

/// User-Mode Linux.
#[derive(Debug)]
pub(super) struct Kernel {
    program: PathBuf,
    /// Where its modules are, by version.
    modules: PathBuf,
}

impl Kernel {
    /// Below `root`, or where the package is installed, or where it was fetched to before. Or why there is
    /// none.
    pub(super) fn find(root: Option<&Path>, fetch: bool) -> Result<Self, String> {
        let cache = cache();
        let roots = match root {
            Some(root) => vec![root.to_path_buf()],
            None => [Some(PathBuf::from("/")), cache.clone()].into_iter().flatten().collect(),
        };
        let find = || roots.iter().find_map(|root| Self::below(root));
        if let Some(kernel) = find() {
            return Ok(kernel);
        }
        let into = root.map(Path::to_path_buf).or(cache).filter(|_| fetch);
        let Some(into) = into else {
            return Err(format!(
                "no User-Mode Linux here: apt-get install {PACKAGE}, or --fetch once"
            ));
        };
        fetch_into(&into).map_err(|error| format!("{PACKAGE} cannot be had: {error}"))?;
        find().ok_or_else(|| format!("{PACKAGE} holds no kernel"))
    }

    /// Boots once, writes a mark and halts; or why it cannot, with its last words.
    ///
    /// A kernel may be there and not run on this processor: User-Mode Linux 6.1 sets aside less room for
    /// registers than a processor with AMX has, and panics at its first process.
    pub(super) fn try_boot(&self, place: &Place) -> io::Result<Result<(), String>> {
        let mut boot = Boot::new(self, place, Part::Trial.name(), &[])?;
        boot.inside(&[
            "--part",
            Part::Trial.name(),
            "--fs",
            "none",
            "--seed",
            "0",
            "--records",
            "0",
        ]);
        let running = boot.start()?;
        let has_halted = running.ends_within(BOOT_MAX)?;
        let has_failed = running.directory.join(super::inside::FAILED_NAME).exists();
        if has_failed || command_ended(&running.console()) {
            return Err(running.failure("it boots, and what runs in it failed"));
        }
        let has_marked = fs::metadata(running.marks())?.len() > 0;
        Ok(match (has_marked, has_halted) {
            (true, true) => Ok(()),
            (true, false) => Err(running.last_words("it boots and does not halt")),
            (false, _) => Err(running.last_words("it does not boot")),
        })
    }

    fn below(root: &Path) -> Option<Self> {
        let program = root.join("usr/bin/linux.uml");
        let modules = root.join("usr/lib/uml/modules");
        program.is_file().then_some(Self { program, modules })
    }

    /// The file of the module `name`, a path below the version's directory.
    pub(super) fn module(&self, name: &str) -> Option<PathBuf> {
        fs::read_dir(&self.modules)
            .ok()?
            .flatten()
            .map(|version| version.path().join("kernel").join(name))
            .find(|path| path.is_file())
    }
}

/// Whether the first process ended by itself, not by a signal, before it could leave a word: no fault of the
/// kernel's.
fn command_ended(console: &str) -> bool {
    let (_, status) = console.split_once("Attempted to kill init! exitcode=0x").unwrap_or_default();
    let status = status.get(..8).and_then(|status| u32::from_str_radix(status, 16).ok());
    status.is_some_and(|status| status & 0x7f == 0)
}

fn cache() -> Option<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("wal-harness/uml"))
}

/// Downloads the package and unpacks it; it is not installed.
fn fetch_into(into: &Path) -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let output = Command::new("timeout")
        .args(["120", "apt-get", "download", PACKAGE])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let package = fs::read_dir(directory.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .ok_or_else(|| io::Error::other("nothing was downloaded"))?;
    fs::create_dir_all(into)?;
    run_program("dpkg-deb", &[OsStr::new("--extract"), package.as_os_str(), into.as_os_str()])?;
    Ok(())
}

/// A kernel that is to run, with its disks and its own directory.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    kernel: &'a Kernel,
    disks: Vec<PathBuf>,
    /// Everything of it that outlives it.
    directory: PathBuf,
    arguments: Vec<OsString>,
}

/// A kernel that runs, or did.
#[derive(Debug)]
pub(super) struct Running {
    program: PathBuf,
    child: Child,
    is_gone: bool,
    directory: PathBuf,
}

impl<'a> Boot<'a> {
    pub(super) fn new(
        kernel: &'a Kernel,
        place: &Place,
        name: &str,
        disks: &[&Path],
    ) -> io::Result<Self> {
        let directory = place.in_memory(name);
        for inner in ["", "marks", "mounted", "memory", "control"] {
            fs::create_dir(directory.join(inner))?;
        }
        File::create(directory.join("marks/marks"))?;
        let disks = disks.iter().map(|disk| disk.to_path_buf()).collect();
        Ok(Self { kernel, disks, directory, arguments: Vec::new() })
    }

    /// More for the command inside.
    pub(super) fn inside<S: AsRef<OsStr>>(&mut self, arguments: &[S]) {
        self.arguments.extend(arguments.iter().map(|argument| argument.as_ref().to_os_string()));
    }

    pub(super) fn start(self) -> io::Result<Running> {
        let Self { kernel, disks, directory, arguments } = self;
        // Dies with this process, and then with its own processes, which it traces.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&kernel.program);
        command.args(["mem=192M", "con0=null,fd:1", "con=null", "ssl=null", "quiet", "panic=-1"]);
        command.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
        command.arg(format!("initcall_blacklist={LEFT_OUT}"));
        command.arg(format!("uml_dir={}/", directory.join("control").display()));
        for (number, disk) in disks.iter().enumerate() {
            command.arg(format!("ubd{number}={}", disk.display()));
        }
        command.arg(format!("init={}", env::current_exe()?.display()));
        let log = directory.join("mounted").join(super::inside::LOG_NAME);
        command.args(["--", "inside"]).arg(&directory);
        command.arg(log).arg(directory.join("marks/marks")).args(arguments);
        command.env("TMPDIR", directory.join("memory"));
        let console = File::create(directory.join("console"))?;
        command.stdin(Stdio::null()).stderr(console.try_clone()?).stdout(console);
        // A group, so that all of its processes can be killed at once.
        let child = command.process_group(0).spawn()?;
        Ok(Running { program: kernel.program.clone(), child, is_gone: false, directory })
    }
}

impl Running {
    pub(super) fn marks(&self) -> PathBuf {
        self.directory.join("marks/marks")
    }

    pub(super) fn is_alive(&self) -> io::Result<bool> {
        // Its number stays its own, so that its group can still be named.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        Ok(waitid(Id::Pid(self.group()?), flags)? == WaitStatus::StillAlive)
    }

    fn group(&self) -> io::Result<Pid> {
        i32::try_from(self.child.id()).map(Pid::from_raw).map_err(io::Error::other)
    }

    /// Kills it, from one moment to the next, with what it left if it had ended by itself.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        if !self.is_gone {
            killpg(self.group()?, Signal::SIGKILL)?;
            self.child.wait()?;
            self.is_gone = true;
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub(super) fn finish(&self) -> io::Result<()> {
        if self.ends_within(RUN_MAX)? { Ok(()) } else { Err(self.failure("it does not end")) }
    }

    fn ends_within(&self, time: Duration) -> io::Result<bool> {
        let start = Instant::now();
        while self.is_alive()? {
            if start.elapsed() > time {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }

    /// An error; what the kernel said last is shown.
    pub(super) fn failure(&self, what: &str) -> io::Error {
        super::show(&self.console());
        io::Error::other(format!("the kernel: {what}"))
    }

    /// `what`, and why in the kernel's own words: of a panic its name, for what it prints last is registers.
    fn last_words(&self, what: &str) -> String {
        let console = self.console();
        super::show(&console);
        let mut lines = console.lines().rev().map(str::trim).filter(|line| !line.is_empty());
        let panic = lines.clone().find(|line| line.contains("Kernel panic"));
        let words = panic.or_else(|| lines.next()).unwrap_or("nothing");
        format!("{}: {what}; its last words: {words}", self.program.display())
    }

    fn console(&self) -> String {
        let bytes = fs::read(self.directory.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
