//! [`Running`]: a program that runs, and how it is ended.

use super::Run;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A run that is not done by then hangs.
pub(super) const RUN_MAX: Duration = Duration::from_secs(3600);

/// How long a run that was told to end may take to give back what it has.
const LEAVE_MAX: Duration = Duration::from_secs(30);

/// How long to wait before looking again whether something ended.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// One that was begun. Dropped, it is ended.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) run: Run,
    pub(super) round: u64,
    child: Child,
    begun: Instant,
    told: Option<(Told, Instant)>,
    is_gone: bool,
    out: File,
    errors: File,
}

/// Why one was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It had its time.
    Hangs,
    /// The soak ends.
    SoakEnds,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(super) struct Finished {
    /// One that was told to end is no witness.
    pub(super) status: Result<ExitStatus, Told>,
    pub(super) seconds: f64,
    pub(super) out: String,
    pub(super) errors: String,
}

impl Running {
    pub(super) fn begin(round: u64, mut run: Run) -> io::Result<Self> {
        let (out, errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
        // A group of its own: an interruption from the terminal is for the soak, which passes it on.
        run.command.process_group(0).stdin(Stdio::null());
        run.command.stdout(out.try_clone()?).stderr(errors.try_clone()?);
        let child = run.command.spawn()?;
        let (begun, told, is_gone) = (Instant::now(), None, false);
        Ok(Self { run, round, child, begun, told, is_gone, out, errors })
    }

    /// Asks it to end, and what it started; only once.
    pub(super) fn tell(&mut self, why: Told) {
        if self.told.is_none() && !self.is_gone {
            self.told = Some((why, Instant::now()));
            self.signal(Signal::SIGINT);
        }
    }

    /// How it ended, if it did.
    pub(super) fn poll(&mut self) -> io::Result<Option<Finished>> {
        let Some(status) = self.look()? else { return Ok(None) };
        let mut text = [String::new(), String::new()];
        for (file, text) in [&mut self.out, &mut self.errors].into_iter().zip(&mut text) {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        let [out, errors] = text;
        let status = self.told.map_or(Ok(status), |(why, _)| Err(why));
        Ok(Some(Finished { status, seconds: self.begun.elapsed().as_secs_f64(), out, errors }))
    }

    fn look(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.is_gone = status.is_some();
        match self.told {
            _ if self.is_gone => {}
            Some((_, since)) if since.elapsed() > LEAVE_MAX => self.signal(Signal::SIGKILL),
            None if self.begun.elapsed() > RUN_MAX => self.tell(Told::Hangs),
            _ => {}
        }
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // All of it may be gone already.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl Drop for Running {
    /// Of use only where the soak itself fails: else it is gone.
    fn drop(&mut self) {
        self.tell(Told::SoakEnds);
        while !self.is_gone && self.look().is_ok() {
            thread::sleep(PAUSE);
        }
    }
}
