/*!
Trying the states: each is made a file, mounted, recovered twice, and held against the promises.

Most of the time is spent waiting in mount and unmount, so several checkers work side by side. Each
has a file, a loop device that stays on it, and a base that goes forward with the states that it takes.
*/

use super::{
    SubjectKind,
    case::Case,
    image::{Base, ImageFile},
    oracle::{Bad, BadKind, Promises},
    stack::LOG_NAME,
    state::State,
    window::Window,
};
use crate::{
    machine::{Direct, LoopDevice, Mounted, Place},
    subject::{Recovered, Verdict, append_more, recover},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// How many states, one after another, a checker takes at once.
const CHUNK_STATES: usize = 16;

/// In one state in so many, the log is also appended to, closed and opened once more.
const APPEND_ONE_IN: usize = 8;

/// How many records are appended then.
const APPEND_RECORDS: u64 = 3;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    tried: AtomicUsize,
    cut: Mutex<BTreeMap<usize, Checked>>,
    /// The states that are being tried.
    under_way: Mutex<BTreeSet<usize>>,
    bad: Mutex<BTreeMap<usize, Bad>>,
}

impl Found {
    pub(super) fn tried(&self) -> usize {
        self.tried.load(Ordering::Relaxed)
    }

    /// The states in which the log had something to cut.
    pub(super) fn cut(&self) -> BTreeMap<usize, Checked> {
        lock(&self.cut).clone()
    }

    pub(super) fn under_way(&self) -> BTreeSet<usize> {
        lock(&self.under_way).clone()
    }

    /// The bad states by their number.
    pub(super) fn bad(&self) -> BTreeMap<usize, Bad> {
        lock(&self.bad).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A good state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) verdict: Verdict,
    /// The first record of the log, and the one behind its last.
    pub(super) records: Range<u64>,
}

/// Tries all states of `case` with `checkers` threads, or fewer once `enough` says so.
pub(super) fn check_all(
    place: &Place,
    name: &str,
    case: &Case,
    checkers: usize,
    found: &Found,
    enough: &AtomicBool,
) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = |number: usize| -> io::Result<()> {
        let mut checker = Checker::new(place, &format!("{name}-{number}"), case)?;
        let count = case.plan.states.len();
        loop {
            let start = next.fetch_add(CHUNK_STATES, Ordering::Relaxed);
            for state in start..(start + CHUNK_STATES).min(count) {
                if enough.load(Ordering::Relaxed) {
                    return Ok(());
                }
                lock(&found.under_way).insert(state);
                match checker.check(state)? {
                    Ok(checked) if checked.verdict == Verdict::Torn => {
                        lock(&found.cut).insert(state, checked);
                    }
                    Ok(_) => {}
                    Err(bad) => _ = lock(&found.bad).insert(state, bad),
                }
                lock(&found.under_way).remove(&state);
                found.tried.fetch_add(1, Ordering::Relaxed);
            }
            if start >= count {
                return Ok(());
            }
        }
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            (0..checkers).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a checker panicked")))
        })
    })
}

/// One that makes an image, mounts it and looks.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    case: &'a Case,
    base: Base<'a>,
    image: ImageFile,
    device: LoopDevice,
    at: PathBuf,
}

impl<'a> Checker<'a> {
    pub(super) fn new(place: &Place, name: &str, case: &'a Case) -> io::Result<Self> {
        let disk_bytes = case.run.file_system.disk_bytes();
        let path = place.in_memory(&format!("{name}.image"));
        let image = ImageFile::create(&path, disk_bytes)?;
        let device = LoopDevice::attach(&path, Direct::No)?;
        let at = place.mount_point(name)?;
        let bytes = usize::try_from(disk_bytes).map_err(io::Error::other)?;
        let base = Base::new(&case.recording.events, &case.windows, bytes);
        Ok(Self { case, base, image, device, at })
    }

    /// Makes the image of state number `number`.
    pub(super) fn build(&mut self, number: usize) -> io::Result<()> {
        let state = &self.case.plan.states[number];
        self.base.advance(state.window);
        self.image.build(&self.base, state)
    }

    /// Tries state number `number`: what the log holds. The outer error is the harness's own.
    pub(super) fn check(&mut self, number: usize) -> io::Result<Result<Checked, Bad>> {
        self.build(number)?;
        let file_system = self.case.run.file_system;
        let (device, options) = (self.device.path(), file_system.copy_options());
        let mounted = match Mounted::new(device, &self.at, file_system.name(), options) {
            Ok(mounted) => mounted,
            Err(error) => {
                return Ok(Err(Bad { kind: BadKind::NotMountable, text: error.to_string() }));
            }
        };
        let outcome = self.recover(number, &self.at.join(LOG_NAME));
        mounted.unmount()?;
        Ok(outcome)
    }

    fn recover(&self, number: usize, log: &Path) -> Result<Checked, Bad> {
        let Case { run, promises, windows, plan, .. } = self.case;
        let state = &plan.states[number];
        let window = &windows[state.window];
        let first = recover_by(&run.subject, log)?;
        let last_write = last_write(state, window);
        let next = promises.judge(&first, window.end, last_write)?;
        let again = |second: &Recovered, text: &str| Bad {
            kind: BadKind::SecondDiffers,
            text: format!("{text}: {}, {} records", second.verdict, second.records.len()),
        };
        let second = recover_by(&run.subject, log)?;
        if promises.judge(&second, window.end, last_write).is_err()
            || second.records != first.records
            || second.start != first.start
        {
            return Err(again(&second, "the second recovery"));
        }
        let appends = run.subject == SubjectKind::Wal && number.is_multiple_of(APPEND_ONE_IN);
        if appends {
            let third = caught(|| append_more(log, run.seed, next, APPEND_RECORDS))?;
            let expected = Promises::with_appended(&first, next, APPEND_RECORDS, run.seed);
            if third.records != expected || third.start != first.start {
                return Err(again(&third, "after more appends and a close"));
            }
        }
        Ok(Checked { verdict: first.verdict, records: first.start.unwrap_or(0)..next })
    }
}

/// The last write that is in the image.
pub(super) fn last_write(state: &State, window: &Window) -> usize {
    let survivors = state.survivors.iter().map(|place| window.pending[*place]);
    survivors.fold(window.last_settled, usize::max)
}

/// What the subject finds. A panic of the log is a finding as well.
pub(super) fn recover_by(subject: &SubjectKind, log: &Path) -> Result<Recovered, Bad> {
    match subject {
        SubjectKind::Wal => caught(|| recover(log)),
        SubjectKind::Program(_) => {
            let failed = |text: String| Bad { kind: BadKind::Failed, text };
            let mut command = subject.command().map_err(|error| failed(error.to_string()))?;
            let output = command
                .arg("recover")
                .arg(log)
                .output()
                .map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                return Err(failed(format!("recover ended with {}", output.status)));
            }
            Recovered::parse(&String::from_utf8_lossy(&output.stdout)).map_err(failed)
        }
    }
}

fn caught(work: impl FnOnce() -> Recovered) -> Result<Recovered, Bad> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| Bad { kind: BadKind::Failed, text: "the log panicked".to_owned() })
}
