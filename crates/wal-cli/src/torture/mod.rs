/*!
`wal torture`: kill, reopen, check.

A **cycle** runs a child, kills it at a random moment, sometimes runs and kills others while they
recover, then reopens the log here and walks through all of it with the [`oracle`]. Now and then the
child is asked to close instead: then every call must come back, and no tail be torn.
*/

mod child;
mod message;
mod oracle;
mod place;
mod random;
mod record;
mod summary;

pub(crate) use child::{Arguments as ChildArguments, run as run_child};

use crate::output::{EXIT_BAD, EXIT_UNREADABLE, Failure, Output};
use message::Message;
use oracle::{Oracle, Seen};
use place::Place;
use random::{Random, mix, unpredictable};
use std::{
    env,
    io::{BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use summary::{Counts, Progress, Summary};
use wal::{ErrorKind, Options, Replay, Verdict, io::Directory};

/// Small, so that the log rotates and reuses slots all the time.
const SEGMENT_BYTES: u64 = 1 << 20;

/// A writing child lives at least and at most so long after it opened the log.
const LIFE_MS: (u64, u64) = (5, 400);

/// A child that did not open the log by then hangs.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// A child that did not close the log by then hangs: a wait or an append never came back.
const CLOSE_MAX: Duration = Duration::from_secs(60);

/// How long a log may still be locked after who held it is gone.
const LOCKED_MAX: Duration = Duration::from_secs(10);

/// How much of what a failed child wrote to standard error is shown.
const COMPLAINT_BYTES_MAX: usize = 4 << 10;

const SIGKILL: i32 = 9;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directory for the log, empty or absent; it is not removed [default: a fresh one under
    /// ./target, removed unless something was found]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How long to go on
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u64,
    /// Threads of the child that append
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    writers: u32,
    /// Answer with a JSON object
    #[arg(long)]
    json: bool,
    /// Keep the directory
    #[arg(long)]
    keep: bool,
    /// Repeat the choices of another run; what the machine makes of them differs
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Torture even a file system in memory
    #[arg(long)]
    allow_tmpfs: bool,
    /// Test the torture itself: the child acknowledges too early, which must be found
    #[arg(long, hide = true)]
    canary: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let seed = arguments.seed.unwrap_or_else(unpredictable);
    let name = format!("wal-torture-{}-{seed:016x}", std::process::id());
    let place = Place::prepare(arguments.dir.as_deref(), &name, arguments.allow_tmpfs)?;
    let executable = env::current_exe().map_err(|error| {
        Failure::new(EXIT_UNREADABLE, format!("where is this program? {error}"))
    })?;
    let run = mix(&[seed]);
    let mut torture = Torture {
        executable: &executable,
        dir: place.dir(),
        run,
        canary: arguments.canary,
        random: Random::new(seed),
        oracle: Oracle::new(run, arguments.writers),
        counts: Counts::new(seed, arguments.writers),
        children: 0,
        open_time: Duration::from_millis(20),
        closed: false,
    };

    let progress = Progress::new();
    let whole = Duration::from_secs(arguments.seconds);
    let start = Instant::now();
    let mut failed = None;
    while failed.is_none() && start.elapsed() < whole && torture.is_unscathed() {
        failed = torture.cycle().err();
        progress.show(start.elapsed(), whole, &torture.counts, torture.oracle.tally());
    }
    progress.clear();

    let Torture { oracle, counts, .. } = torture;
    let mut summary =
        Summary { counts: &counts, tally: oracle.tally(), failed: failed.as_deref(), kept: None };
    let passed = summary.passed();
    let dir = place.dir().to_path_buf();
    if arguments.keep || !passed || place.remove() {
        summary.kept = Some(&dir);
    }
    let mut output = Output::new();
    let said = if arguments.json { summary.json(&mut output) } else { summary.text(&mut output) };
    match said.and_then(|()| output.finish()) {
        Err(failure) if failure.text().is_some() => Err(failure),
        // Whether or not somebody reads the answer, the status tells the verdict.
        _ if passed => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(EXIT_BAD)),
    }
}

/// The options under which the log is tortured, by parent and child alike: whoever comes first
/// creates it.
fn torture_options() -> Options {
    Options::new().segment_bytes(SEGMENT_BYTES)
}

/// Opens the log, waiting a while for the lock: it stays with a log dropped in this process until
/// its last write is done.
fn open_patiently(options: &Options, dir: &Path) -> wal::Result<Replay<Directory>> {
    let start = Instant::now();
    loop {
        match options.open(dir) {
            Err(error) if error.kind() == ErrorKind::Locked && start.elapsed() < LOCKED_MAX => {
                thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

struct Torture<'a> {
    executable: &'a Path,
    dir: &'a Path,
    run: u64,
    canary: bool,
    random: Random,
    oracle: Oracle,
    counts: Counts,
    /// How many were started.
    children: u32,
    /// How long a child lately took from its start to having opened the log.
    open_time: Duration,
    /// The last child closed the log, so that nothing can be torn.
    closed: bool,
}

/// When to kill a child.
#[derive(Clone, Copy, Debug)]
enum Moment {
    AfterStart(Duration),
    AfterOpen(Duration),
    /// Do not kill: ask to close, so long after it opened the log.
    Never(Duration),
}

impl Torture<'_> {
    fn is_unscathed(&self) -> bool {
        let tally = self.oracle.tally();
        tally.lost == 0 && tally.phantom == 0
    }

    fn cycle(&mut self) -> Result<(), String> {
        let mut moment = if self.random.one_in(6) { self.in_open() } else { self.in_life() };
        if let Moment::AfterOpen(delay) = moment
            && self.random.one_in(10)
        {
            moment = Moment::Never(delay);
        }
        self.live_and_die(moment)?;
        self.closed = matches!(moment, Moment::Never(_));
        while self.random.one_in(5) {
            let moment = if self.random.one_in(4) { self.in_life() } else { self.in_open() };
            self.live_and_die(moment)?;
            self.closed = false;
        }
        let verdict = self
            .reopen_and_check()
            .map_err(|error| format!("reopen: {:?}: {error}", error.kind()))?;
        let torn = matches!(verdict, Verdict::TornTail);
        self.counts.torn_tails += u64::from(torn);
        if torn && self.closed {
            return Err("a torn tail after the log was closed".to_owned());
        }
        Ok(())
    }

    fn in_life(&mut self) -> Moment {
        Moment::AfterOpen(Duration::from_millis(self.random.between(LIFE_MS.0, LIFE_MS.1)))
    }

    /// Anywhere from the start to a little after the log is open.
    fn in_open(&mut self) -> Moment {
        let open_us = u64::try_from(self.open_time.as_micros()).unwrap_or(u64::MAX / 2);
        Moment::AfterStart(Duration::from_micros(self.random.between(0, open_us + open_us / 4)))
    }

    /// One child, from start to kill, and all it had to say.
    fn live_and_die(&mut self, moment: Moment) -> Result<(), String> {
        self.children += 1;
        self.oracle.child_starts(self.children);
        let start = Instant::now();
        let mut child = self.spawn().map_err(|error| format!("start a child: {error}"))?;
        // Held open: the child ends itself when it is closed, with this process or before.
        let stdin = child.stdin.take();
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (stdin, child.stdout.take(), child.stderr.take())
        else {
            return Err("a child without pipes".to_owned());
        };

        let (oracle, counts) = (&mut self.oracle, &mut self.counts);
        let (opened_now, opened) = mpsc::channel();
        let (life, opened_after, complaint, listened) = thread::scope(|scope| {
            let listener = scope.spawn(move || listen(stdout, oracle, counts, &opened_now));
            let complaint = scope.spawn(move || read_complaint(stderr));
            let (life, opened_after) = wait_for(moment, &opened, start);
            let is_killed = !matches!(moment, Moment::Never(_));
            let life = life
                .and_then(|()| if is_killed { Ok(()) } else { ask_to_close(&mut stdin, &opened) });
            // Does nothing to a child that is gone.
            let _ = child.kill();
            let life = life.and_then(|()| expect_end(&mut child, is_killed));
            // Reaped whatever happened; a second wait gives the same answer.
            let _ = child.wait();
            let listened = listener.join().unwrap_or_else(|_| Err("the listener died".to_owned()));
            (life, opened_after, complaint.join().unwrap_or_default(), listened)
        });

        self.counts.children_ran += start.elapsed();
        let number = self.children;
        let with_complaint = |what: String| {
            let complaint = complaint.trim();
            let colon = if complaint.is_empty() { "" } else { ": " };
            format!("child {number} {what}{colon}{complaint}")
        };
        life.and(listened).map_err(with_complaint)?;

        if matches!(moment, Moment::Never(_)) {
            self.counts.closes += 1;
        } else {
            self.counts.kills += 1;
        }
        if let Some(opened_after) = opened_after {
            self.open_time = (self.open_time * 3 + opened_after) / 4;
        } else {
            self.counts.kills_in_open += 1;
        }
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(self.executable);
        command.arg("torture-child").arg(self.dir);
        command.args(["--run", &self.run.to_string()]);
        command.args(["--child", &self.children.to_string()]);
        command.args(["--writers", &self.counts.writers.to_string()]);
        if let Some(expected) = self.oracle.last_settled() {
            command.args(["--expect", &expected.to_string()]);
        }
        if self.canary {
            command.arg("--canary");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    fn reopen_and_check(&mut self) -> wal::Result<Verdict> {
        let mut replay = open_patiently(&torture_options(), self.dir)?;
        let verdict = replay.report().verdict;
        let checkpoint = replay
            .checkpoint()
            .map(|checkpoint| (checkpoint.start_mark, checkpoint.state.to_vec()));
        let checkpoint = checkpoint.as_ref().map(|(start_mark, state)| (*start_mark, &state[..]));
        let mut check = self.oracle.check(checkpoint);
        while let Some(record) = replay.next()? {
            check.record(Seen {
                lsn: record.lsn(),
                payload: record.payload(),
                ends_batch: record.ends_batch(),
            });
        }
        let checked = check.end();
        let (wal, report) = replay.finish()?;
        self.oracle.settle(checked, report.tail);
        self.counts.cycles += 1;
        if self.random.one_in(2) {
            wal.close()?;
        }
        // Else it is dropped, which equals the crash of a process.
        Ok(verdict)
    }
}

/// Waits until it is time to kill: whether the child lives to see it, and when it opened the log.
fn wait_for(
    moment: Moment,
    opened: &mpsc::Receiver<Instant>,
    start: Instant,
) -> (Result<(), String>, Option<Duration>) {
    let until_open = match moment {
        Moment::AfterStart(delay) => delay,
        Moment::AfterOpen(_) | Moment::Never(_) => OPEN_MAX,
    };
    let opened_at = match opened.recv_timeout(until_open) {
        Ok(opened_at) => opened_at,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let life = match moment {
                Moment::AfterStart(_) => Ok(()),
                _ => Err(format!("did not open the log within {} s", OPEN_MAX.as_secs())),
            };
            return (life, None);
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => return (Err(ended_early()), None),
    };
    let kill_at = match moment {
        Moment::AfterStart(delay) => start + delay,
        Moment::AfterOpen(delay) | Moment::Never(delay) => opened_at + delay,
    };
    let opened_after = Some(opened_at.saturating_duration_since(start));
    // Nothing more is sent: the channel only tells whether the listener has come to the end.
    match opened.recv_timeout(kill_at.saturating_duration_since(Instant::now())) {
        Err(mpsc::RecvTimeoutError::Disconnected) => (Err(ended_early()), opened_after),
        _ => (Ok(()), opened_after),
    }
}

fn ended_early() -> String {
    "ended by itself".to_owned()
}

/// Asks a child to close the log and waits until it is gone.
fn ask_to_close(stdin: &mut ChildStdin, opened: &mpsc::Receiver<Instant>) -> Result<(), String> {
    stdin.write_all(b"c").map_err(|error| format!("could not be asked to close: {error}"))?;
    match opened.recv_timeout(CLOSE_MAX) {
        Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
        _ => Err(format!(
            "did not close within {} s: a call of the log does not return",
            CLOSE_MAX.as_secs()
        )),
    }
}

fn expect_end(child: &mut Child, is_killed: bool) -> Result<(), String> {
    let status = child.wait().map_err(|error| format!("cannot be waited for: {error}"))?;
    let is_expected = if is_killed { status.signal() == Some(SIGKILL) } else { status.success() };
    if is_expected { Ok(()) } else { Err(format!("ended: {status}")) }
}

/// Takes the child's word until all it said before it died is read.
fn listen(
    stdout: ChildStdout,
    oracle: &mut Oracle,
    counts: &mut Counts,
    opened: &mpsc::Sender<Instant>,
) -> Result<(), String> {
    let mut input = BufReader::with_capacity(1 << 16, stdout);
    while let Some(message) = Message::read(&mut input).map_err(|error| error.to_string())? {
        match &message {
            Message::Opened { torn, .. } => {
                counts.torn_tails += u64::from(*torn);
                let _ = opened.send(Instant::now());
            }
            Message::Acknowledged(acknowledged) => {
                counts.latencies_ns.saturating_record(acknowledged.latency_ns);
            }
            _ => {}
        }
        if !oracle.absorb(&message) {
            return Err(format!("said what cannot be: {message:?}"));
        }
    }
    Ok(())
}

/// The beginning of what a child wrote to standard error; the rest is read so that it never blocks.
fn read_complaint(mut stderr: ChildStderr) -> String {
    let mut complaint = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut bytes) {
        let room = COMPLAINT_BYTES_MAX - complaint.len();
        complaint.extend_from_slice(&bytes[..read.min(room)]);
    }
    String::from_utf8_lossy(&complaint).into_owned()
}
