//! [`explore`]: many schedules of one program.

use shuttle::{
    Config, MaxSteps, Runner,
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler},
};
use std::{env, sync::Arc, time::Duration};

/// Set to the schedule that a failure printed, with one test chosen by its name, it replays that.
pub const REPLAY_VARIABLE: &str = "WAL_INTERLEAVINGS_REPLAY";

/// How many seconds each scheduler is given for each program, instead of a fixed number of schedules.
pub const SECONDS_VARIABLE: &str = "WAL_INTERLEAVINGS_SECONDS";

/// The same everywhere, so that what fails in one place fails in every other.
const SEED: u64 = 20_261_122;

/// One more than how often the second scheduler lets a thread be overtaken that could go on: most races need
/// one or two.
const DEPTH: usize = 3;

const STACK_BYTES: usize = 128 << 10;

/// No program of these takes a tenth of it: who does goes round in circles.
const STEPS_MAX: usize = 200_000;

/// How many schedules are tried.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Effort {
    /// By a scheduler that lets any thread go on at each switch point.
    pub random: usize,
    /// By one that lets the most important one go on, and changes its mind a few times: PCT.
    pub ranked: usize,
}

impl Effort {
    /// So many by each.
    #[must_use]
    pub const fn each(schedules: usize) -> Self {
        Self { random: schedules, ranked: schedules }
    }
}

/// Runs `program` under many schedules. A panic or a deadlock in one of them is told with the schedule.
///
/// # Panics
/// If one of them fails, or if what the environment asks for cannot be read.
#[expect(clippy::print_stderr, reason = "how much was tried is the result")]
pub fn explore(name: &str, effort: Effort, program: impl Fn() + Send + Sync + 'static) {
    let program = Arc::new(program);
    if let Ok(schedule) = env::var(REPLAY_VARIABLE) {
        // As it was printed, the quotes and the breaks of its lines left in or not.
        let digits: String = schedule.chars().filter(char::is_ascii_hexdigit).collect();
        run(ReplayScheduler::new_from_encoded(&digits), &program, None);
        eprintln!("{name}: replayed, and nothing failed");
        return;
    }
    #[expect(clippy::expect_used, reason = "the caller asked for something else")]
    let time = env::var(SECONDS_VARIABLE)
        .ok()
        .map(|text| Duration::from_secs(text.parse().expect("a number of seconds")));
    let count = |schedules| if time.is_some() { usize::MAX } else { schedules };
    let random = RandomScheduler::new_from_seed(SEED, count(effort.random));
    let random = run(random, &program, time);
    let ranked = PctScheduler::new_from_seed(SEED, DEPTH, count(effort.ranked));
    let ranked = run(ranked, &program, time);
    eprintln!("{name}: {random} random schedules, {ranked} ranked ones");
}

fn run(
    scheduler: impl Scheduler + 'static,
    program: &Arc<impl Fn() + Send + Sync + 'static>,
    time: Option<Duration>,
) -> usize {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.max_time = time;
    config.silence_warnings = true;
    let program = Arc::clone(program);
    Runner::new(scheduler, config).run(move || program())
}
