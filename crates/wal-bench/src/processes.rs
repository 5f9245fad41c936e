//! Ordinary processes that keep the processors busy beside what is measured.
//!
//! They are this program again, with an argument that only [`serve`] knows. Real processes and not
//! threads: the kernel shares the processors out between strangers, and what a log's thread gives up by
//! yielding is theirs for as long as their time slice lasts.

use std::{
    env, fs,
    hint::black_box,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Signal},
};

/// The argument of a busy process; the number of its parent follows.
const BUSY: &str = "--busy-beside";

/// What a busy process says when it is.
const SAID: &[u8] = b"busy\n";

/// Additions between two looks at the parent: some milliseconds.
const TURNS: u64 = 4 << 20;

/// Whether this program calls [`serve`]. One that does not would do all of its work again in the place
/// of a busy process.
static SERVES: AtomicBool = AtomicBool::new(false);

/// For the first line of `main` of a program that uses [`BusyProcesses`]: does not return in a process
/// that is one of them.
pub fn serve() {
    SERVES.store(true, Ordering::Relaxed);
    let mut words = env::args_os().skip(1);
    if words.next().is_some_and(|word| word == BUSY) {
        let parent = words.next().and_then(|word| word.to_str()?.parse().ok());
        be_busy(parent.and_then(Pid::from_raw));
    }
}

/// Until the parent kills it or has ended, however that came. The kernel's signal tells at once, and
/// the look at the parent also where that signal was asked for too late.
fn be_busy(parent: Option<Pid>) -> ! {
    let is_child = || parent.is_some() && rustix::process::getppid() == parent;
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let said = io::stdout().write_all(SAID).and_then(|()| io::stdout().flush());
    if asked.is_ok() && said.is_ok() {
        while is_child() {
            for turn in 0..TURNS {
                black_box(turn);
            }
        }
    }
    process::exit(0)
}

/// Processor time of the processes that this one started and saw end. Zero where the kernel does not tell.
pub(crate) fn ended_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ended_ticks(&stat).map_or(Duration::ZERO, |ticks| {
        Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second()).unwrap_or(100)
    })
}

/// From `proc(5)`: the 16th and the 17th field, of which the second is a name in brackets, with anything in
/// it.
fn ended_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(13).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// Processes that are busy until this is dropped, or this process ends in any way. They are started by
/// a thread that must live as long: the kernel takes its end for the parent's.
#[derive(Debug)]
pub struct BusyProcesses {
    children: Vec<Child>,
}

impl BusyProcesses {
    /// As many as there are processors, and at least two.
    #[must_use]
    pub fn enough() -> usize {
        thread::available_parallelism().map_or(2, |processors| processors.get().max(2))
    }

    /// Starts [`enough`](Self::enough) of them, and returns when each is busy.
    ///
    /// # Errors
    ///
    /// The system's.
    ///
    /// # Panics
    ///
    /// In a program that did not call [`serve`].
    pub fn start() -> io::Result<Self> {
        assert!(SERVES.load(Ordering::Relaxed), "`serve` is for the first line of `main`");
        let mut started = Self { children: Vec::new() };
        for _ in 0..Self::enough() {
            // Not by name: the file may have been replaced meanwhile by another build.
            let child = Command::new("/proc/self/exe")
                .arg0("busy")
                .args([BUSY, &process::id().to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            started.children.push(child);
        }
        for child in &mut started.children {
            let mut said = [0; SAID.len()];
            if let Some(stdout) = &mut child.stdout {
                stdout.read_exact(&mut said)?;
            }
            if said != *SAID {
                return Err(io::Error::other("a busy process said something else"));
            }
        }
        Ok(started)
    }

    /// Their process numbers.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

impl Drop for BusyProcesses {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself, and then there is nobody to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_those_that_ended_are_behind_the_name() {
        let stat = "7 (a ) 1 (b)) R 1 2 3 4 5 6 7 8 9 10 11 12 30 40 20 0";
        assert_eq!(ended_ticks(stat), Some(70));
        assert_eq!(ended_ticks("7 (a) R 1 2"), None);
    }

    /// The program of these tests would run them all again.
    #[test]
    #[should_panic(expected = "`serve` is for the first line of `main`")]
    fn who_does_not_serve_starts_nothing() {
        let _ = BusyProcesses::start();
    }
}
