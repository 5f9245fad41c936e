//! [`Server`]: the process that plays a disk.

use super::DISK_NAME;
use crate::machine::Mounted;
use std::{
    env,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// What it says when it is mounted.
pub(super) const READY: &str = "ready";

/// A process of this program that serves at a directory.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    at: PathBuf,
    mounted: Option<Mounted>,
}

impl Server {
    /// Starts this program with `verb`, the directory, and what `more` adds, and waits until it serves.
    pub(crate) fn start(
        verb: &str,
        at: PathBuf,
        more: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(verb).arg(&at);
        more(&mut command);
        // Its own group: an interruption from the terminal is for the harness, which ends it in order.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let mut answer = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut answer)?;
        }
        if answer.trim() != READY {
            child.kill()?;
            return Err(io::Error::other(format!("the disk ended with {}", child.wait()?)));
        }
        let mounted = Some(Mounted::adopt(&at));
        Ok(Self { child, at, mounted })
    }

    /// The disk's file, for a loop device.
    pub(crate) fn disk(&self) -> PathBuf {
        self.at.join(DISK_NAME)
    }

    /// Where the files are.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts it, and waits until it has left what it had to leave.
    pub(crate) fn stop(&mut self) -> io::Result<()> {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount()?;
        }
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the disk ended with {status}")))
        }
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
