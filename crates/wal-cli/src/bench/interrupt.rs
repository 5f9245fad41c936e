//! A run that is interrupted leaves nothing behind.

use crate::output::complain;
use nix::sys::signal::{SigSet, Signal};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What ends a run, and the exit status then: 128 and the signal's number.
const SIGNALS: [(Signal, i32); 3] =
    [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)];

/// How often the directory is tried: the log may make another file meanwhile. Once it is gone nothing
/// can be made in it.
const ATTEMPTS: u32 = 1000;

/// Signals that wait until there is something to remove.
#[derive(Debug)]
pub(super) struct Held {
    signals: SigSet,
    is_taken: Arc<AtomicBool>,
}

impl Held {
    /// To be called before there is a directory, and before there are threads: they inherit that these
    /// signals wait for the one thread that takes them.
    pub(super) fn new() -> io::Result<Self> {
        let signals: SigSet = SIGNALS.iter().map(|(signal, _)| *signal).collect();
        signals.thread_block()?;
        Ok(Self { signals, is_taken: Arc::default() })
    }

    /// From now on such a signal removes `directory` and ends the process.
    pub(super) fn remove_on_signal(&self, directory: PathBuf) -> io::Result<()> {
        let (signals, is_taken) = (self.signals, Arc::clone(&self.is_taken));
        let wait = move || {
            let Ok(signal) = signals.wait() else { return };
            is_taken.store(true, Ordering::Relaxed);
            match remove(&directory) {
                Ok(()) => complain(format_args!("bench: {signal}: nothing is left behind")),
                Err(error) => complain(format_args!(
                    "bench: {signal}: {} is left behind: {error}",
                    directory.display()
                )),
            }
            let status = SIGNALS.iter().find(|(known, _)| *known == signal);
            process::exit(status.map_or(1, |(_, status)| *status));
        };
        thread::Builder::new().name("wal-bench-signal".to_owned()).spawn(wait)?;
        Ok(())
    }

    /// Does not return if a signal was taken: what then fails does so because its files are removed,
    /// and is nothing to tell of.
    pub(super) fn give_way(&self) {
        while self.is_taken.load(Ordering::Relaxed) {
            thread::park();
        }
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    let mut removed = fs::remove_dir_all(directory);
    for _ in 0..ATTEMPTS {
        match removed {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => {
                return Ok(());
            }
            Err(_) => removed = fs::remove_dir_all(directory),
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_removed() {
        let directory = std::env::temp_dir().join(format!("wal-bench-absent-{}", process::id()));
        remove(&directory).unwrap();
        fs::create_dir_all(directory.join("log")).unwrap();
        remove(&directory).unwrap();
        assert!(!directory.exists());
    }
}
