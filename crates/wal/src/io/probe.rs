//! Choosing the durable write: timing the candidates, and remembering what was found.

use super::DurableMethod;
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    time::{Duration, Instant},
};

/// The file that keeps the figures. Losing it costs another probe.
pub(super) const PROBE_NAME: &str = "probe";
const TEMPORARY_NAME: &str = "probe.tmp";

/// One unmeasured, the others measured.
const SAMPLES_MAX: usize = 10;
/// A slow disk is asked less often: opening a log must not take seconds.
const TIME_MAX: Duration = Duration::from_millis(200);
const FILE_BYTES_MAX: u64 = 4096;

/// What a durable write of one block took, by each method that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) write_dsync: Option<Duration>,
    pub(super) write_then_sync: Option<Duration>,
}

impl Figures {
    /// The faster method; what was not measured is not chosen. One call in place of two where the
    /// disk makes no difference: it costs less processor time, and the medians of a few samples of
    /// equal methods differ by some per cent.
    pub(super) fn choice(self) -> DurableMethod {
        const TIE_PERCENT: u32 = 5;
        let tied = |time: Duration| time.saturating_add(time / 100 * TIE_PERCENT);
        match (self.write_dsync, self.write_then_sync) {
            (Some(dsync), Some(then_sync)) if dsync <= tied(then_sync) => DurableMethod::WriteDsync,
            (Some(_), None) => DurableMethod::WriteDsync,
            _ => DurableMethod::WriteThenSync,
        }
    }
}

/// Times both methods in turns, so that a disk busy for a while slows both. `write` makes the n-th
/// durable write by the method given.
pub(super) fn measure(
    mut write: impl FnMut(DurableMethod, u64) -> io::Result<()>,
) -> io::Result<Figures> {
    let start = Instant::now();
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut dsync_works = true;
    let mut position = 0;
    for sample in 0..SAMPLES_MAX {
        for method in [DurableMethod::WriteThenSync, DurableMethod::WriteDsync] {
            let is_dsync = method == DurableMethod::WriteDsync;
            if is_dsync && !dsync_works {
                continue;
            }
            let before = Instant::now();
            match write(method, position) {
                Err(error) if is_dsync && is_unsupported(&error) => dsync_works = false,
                outcome => outcome?,
            }
            position += 1;
            // The first of each also pays for what is loaded or allocated once.
            if sample > 0 && (!is_dsync || dsync_works) {
                times[usize::from(is_dsync)].push(before.elapsed());
            }
        }
        if sample > 0 && start.elapsed() > TIME_MAX {
            break;
        }
    }
    let [then_sync, dsync] = times.map(median);
    Ok(Figures { write_dsync: dsync.filter(|_| dsync_works), write_then_sync: then_sync })
}

/// Whether the system refused `RWF_DSYNC` itself, before anything was written.
fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// The figures kept in `directory`, if they were measured under the same `key`. Whatever cannot be
/// read or understood counts as none: the probe is simply made again.
pub(super) fn recall(directory: &Path, key: &str) -> Option<Figures> {
    let mut text = String::new();
    let file = File::open(directory.join(PROBE_NAME)).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let mut lines = text.strip_prefix(key)?.lines();
    let figures = Figures {
        write_dsync: parse(lines.next()?, "write-dsync-ns ")?,
        write_then_sync: parse(lines.next()?, "write-then-sync-ns ")?,
    };
    let is_whole = lines.next()? == method_line(figures) && lines.next().is_none();
    is_whole.then_some(figures)
}

/// Keeps `figures` in `directory`. Replaced as a whole but not made durable: a torn one is ignored.
pub(super) fn remember(directory: &Path, key: &str, figures: Figures) -> io::Result<()> {
    let text = |figure: Option<Duration>| {
        figure.map_or_else(|| "none".to_owned(), |time| time.as_nanos().to_string())
    };
    let contents = format!(
        "{key}write-dsync-ns {}\nwrite-then-sync-ns {}\n{}\n",
        text(figures.write_dsync),
        text(figures.write_then_sync),
        method_line(figures),
    );
    let temporary = directory.join(TEMPORARY_NAME);
    fs::write(&temporary, contents)?;
    fs::rename(&temporary, directory.join(PROBE_NAME))
}

fn method_line(figures: Figures) -> String {
    format!("method {}", figures.choice())
}

/// The outer `None`: not understood. The inner: not measured.
#[expect(clippy::option_option, reason = "two ways to have no figure, with different answers")]
fn parse(line: &str, name: &str) -> Option<Option<Duration>> {
    match line.strip_prefix(name)? {
        "none" => Some(None),
        number => Some(Some(Duration::from_nanos(number.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_is_not_supported_is_not_chosen() {
        let figures = measure(|method, _| match method {
            DurableMethod::WriteDsync => {
                Err(io::Error::from_raw_os_error(rustix::io::Errno::OPNOTSUPP.raw_os_error()))
            }
            _ => Ok(()),
        });
        let figures = figures.unwrap();
        assert_eq!(figures.write_dsync, None);
        assert_eq!(figures.choice(), DurableMethod::WriteThenSync);
    }

    #[test]
    fn a_failed_write_is_an_error_and_not_a_choice() {
        let failed = measure(|_, _| Err(io::Error::other("disk")));
        assert_eq!(failed.unwrap_err().to_string(), "disk");
    }

    #[test]
    fn the_faster_one_is_chosen() {
        let figures = |dsync, then_sync| Figures {
            write_dsync: Some(Duration::from_micros(dsync)),
            write_then_sync: Some(Duration::from_micros(then_sync)),
        };
        assert_eq!(figures(95, 110).choice(), DurableMethod::WriteDsync);
        assert_eq!(figures(120, 110).choice(), DurableMethod::WriteThenSync);
        assert_eq!(figures(104, 100).choice(), DurableMethod::WriteDsync, "a tie is one call");
        assert_eq!(figures(106, 100).choice(), DurableMethod::WriteThenSync);
    }

    #[test]
    fn a_slow_disk_is_asked_less() {
        let mut writes = 0;
        let figures = measure(|_, _| {
            writes += 1;
            std::thread::sleep(Duration::from_millis(60));
            Ok(())
        });
        assert!(figures.unwrap().write_dsync.is_some());
        assert_eq!(writes, 4);
    }
}
