//! Trying all states of a recording, then crashing some of the recoveries as well: [`Explorer`].

use super::{
    Arguments, SubjectKind,
    case::{Case, Run},
    check::{Checked, Found, check_all},
    image::{Base, ImageFile},
    say, stack,
    summary::{Again, Progress, Summary},
};
use crate::{EXIT_BAD, complain, machine::Place, random::Random};
use std::{
    fs, io,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A state that is not tried by then hangs.
const STATE_MAX: Duration = Duration::from_secs(120);

/// How many bad states of a recording are told one by one.
const TOLD_MAX: usize = 5;

/// How many states of a recovery are tried: more than there are, but for the tears.
const AGAIN_STATES_MAX: usize = 150;

/// What all runs share.
#[derive(Debug)]
pub(super) struct Explorer<'a> {
    pub(super) arguments: &'a Arguments,
    pub(super) place: &'a Place,
    pub(super) interrupted: &'a AtomicBool,
}

impl Explorer<'_> {
    /// Records `run` and tries its states, and those of some recoveries; whether all is well, and how
    /// many states that is.
    pub(super) fn run(&self, run: &Run) -> io::Result<(bool, usize)> {
        let name = format!("{}-{}", run.file_system, run.method);
        let start = Instant::now();
        let progress = Progress::new();
        progress.show(format_args!("{name}: recording"));
        let case = Case::new(stack::record(self.place, run, &name, None)?)?;
        let found = self.try_all(&case, &name)?;
        let mut again = Again::default();
        if run.subject == SubjectKind::Wal {
            self.recover_again(&case, &found, &name, &mut again)?;
        }
        progress.clear();
        let summary = Summary::new(&case, &found, again, start.elapsed());
        if self.arguments.json {
            say(summary.json())?
        } else {
            say(&summary)?
        }
        self.tell(&case, &found, &name)?;
        Ok((summary.passed(), summary.states()))
    }

    fn try_all(&self, case: &Case, name: &str) -> io::Result<Found> {
        let found = Found::default();
        let count = case.plan.states.len();
        let checkers = usize::from(self.arguments.jobs);
        let progress = Progress::new();
        thread::scope(|scope| {
            let work = || check_all(self.place, name, case, checkers, &found, self.interrupted);
            let checking = scope.spawn(work);
            let mut last = (0, Instant::now());
            while !checking.is_finished() {
                let (tried, bad) = (found.tried(), found.bad().len());
                if last.0 != tried {
                    last = (tried, Instant::now());
                } else if last.1.elapsed() > STATE_MAX {
                    self.hangs(case, &found, name);
                }
                progress.show(format_args!("{name}: {tried} of {count} states, {bad} bad"));
                thread::sleep(Duration::from_millis(20));
            }
            checking.join().unwrap_or_else(|_| Err(io::Error::other("the checkers panicked")))
        })?;
        Ok(found)
    }

    /// Takes some of the logs that had something to cut, has each recovered on a recording disk and
    /// written on, and tries the states of that.
    fn recover_again(
        &self,
        case: &Case,
        found: &Found,
        name: &str,
        again: &mut Again,
    ) -> io::Result<()> {
        let mut cut: Vec<(usize, Checked)> = found.cut().into_iter().collect();
        let mut random = Random::new(case.run.seed);
        for turn in 0..self.arguments.again {
            if cut.is_empty() || self.interrupted.load(Ordering::Relaxed) {
                break;
            }
            let (state, checked) = cut.swap_remove(random.index(cut.len()));
            let name = format!("{name}-again{turn}");
            let image = self.image(case, state, &name)?;
            let crashed = case.crashed(state, &checked);
            let run = Run { states: AGAIN_STATES_MAX, resumed: Some(crashed), ..case.run.clone() };
            let resumed = Case::new(stack::record(self.place, &run, &name, Some(&image))?)?;
            fs::remove_file(&image)?;
            let found = self.try_all(&resumed, &name)?;
            again.recordings += 1;
            again.states += found.tried();
            again.bad += found.bad().len();
            self.tell(&resumed, &found, &name)?;
        }
        Ok(())
    }

    fn image(&self, case: &Case, state: usize, name: &str) -> io::Result<PathBuf> {
        let path = self.place.in_memory(&format!("{name}.start"));
        let disk_bytes = case.run.file_system.disk_bytes();
        let bytes = usize::try_from(disk_bytes).map_err(io::Error::other)?;
        let mut base = Base::new(&case.recording.events, &case.windows, bytes);
        let state = &case.plan.states[state];
        base.advance(state.window);
        ImageFile::create(&path, disk_bytes)?.build(&base, state)?;
        Ok(path)
    }

    /// Keeps the recording if that is wanted or something is bad, and tells what is.
    fn tell(&self, case: &Case, found: &Found, name: &str) -> io::Result<()> {
        let bad = found.bad();
        if bad.is_empty() && self.arguments.keep.is_none() {
            return Ok(());
        }
        let path = case.keep(self.arguments.keep.as_deref(), name)?;
        for (number, bad) in bad.iter().take(TOLD_MAX) {
            complain(format_args!("{name}, state {number}: {}: {}", bad.kind, bad.text));
        }
        if let Some(number) = bad.keys().next() {
            let path = path.display();
            complain(format_args!("look again: wal-harness replay {path} --state {number}"));
        }
        Ok(())
    }

    /// Ends the process: a thread that hangs cannot be ended otherwise. Loop devices stay behind.
    fn hangs(&self, case: &Case, found: &Found, name: &str) -> ! {
        let states = found.under_way();
        complain(format_args!("no end in {STATE_MAX:?} of one of the states {states:?}"));
        match case.keep(self.arguments.keep.as_deref(), name) {
            Ok(path) => {
                let path = path.display();
                complain(format_args!("look again: wal-harness replay {path} --state .."));
            }
            Err(error) => complain(error),
        }
        std::process::exit(EXIT_BAD.into())
    }
}
