/*!
`wal-harness uml`: a kernel that dies.

User-Mode Linux is a kernel that is a process ([`kernel`]). First it has to boot and halt, once: where it
cannot, as on a processor that it does not know, that is a skip like that of a kernel that is not there. One
that fails later is a failure. It boots in a second with the host's own files
for a root, mounts a file system image, and runs the subject ([`inside`]), whose marks leave through a
synchronous mount of a host directory. The host kills the kernel at a random moment: what it had in its
page cache, its journal's memory, and its queues is gone. Then the image is mounted on the host and the log
recovered and held against the marks.

Other runs go through the kernel's own device-mapper ([`mapped`]). dm-log-writes keeps every write with its
FLUSH and FUA flags: the state at each of these is mounted and recovered ([`replay`]). dm-dust has sectors
that cannot be read ([`dust`]), dm-flakey refuses writes for a while, or loses them ([`flakey`]): there the
log is held to its word inside, and nothing dies.

What it does not see: what a killed kernel had given to the host stays, in any order or none, so that the
loss of a disk's cache is for `record`.
*/

mod dust;
mod flakey;
mod inside;
mod kernel;
mod layout;
mod mapped;
mod replay;
mod work;

pub(crate) use inside::{Arguments as InsideArguments, run as run_inside};

use crate::{
    EXIT_BAD, EXIT_SKIPPED, complain,
    errors::Ledger,
    machine::{
        Direct, LoopDevice, Mounted, Place, interruption, missing, run_program, take_private_mounts,
    },
    random::{Random, mix, unpredictable},
    record::FileSystem,
    skip,
    subject::{Method, append_more, recover},
};
use kernel::{BOOT_MAX, Boot, Kernel};
use serde_json::{Value, json};
use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

const PROGRAMS: [&str; 4] = ["losetup", "setpriv", "mkfs.ext4", "mkfs.xfs"];
const FILE_SYSTEMS: [FileSystem; 2] = [FileSystem::Ext4, FileSystem::Xfs];
const METHODS: [Method; 2] = [Method::Dsync, Method::Sync];

/// More than is appended before the kernel is killed.
const RECORDS: u64 = 20_000;
/// The kernel lives on for up to so long after the first mark.
const LIFE_US_MAX: u64 = 600_000;
const MARK_MAX: Duration = Duration::from_millis(200);
/// In most cycles it is killed so soon after a mark.
const AFTER_MARK_US_MAX: u64 = 800;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often the kernel is killed
    #[arg(long, value_name = "N", default_value_t = 10)]
    cycles: u64,
    /// Leave out the runs through device-mapper: all parts but `kill`
    #[arg(long, conflicts_with = "only")]
    no_replay: bool,
    /// Only these
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the package user-mode-linux was unpacked [default: /, then ~/.cache/wal-harness/uml]
    #[arg(long, value_name = "DIR")]
    kernel: Option<PathBuf>,
    /// Get the package with apt-get, if it is not there
    #[arg(long)]
    fetch: bool,
    /// Repeat the choices of another run; what the machine makes of them differs
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Plant a fault, acknowledging before anything is durable, which must be found
    #[arg(long = "acknowledge-early")]
    early: bool,
    /// Plant a fault, reading zeros where the disk answers an error, which must be found
    #[arg(long)]
    swallow_read_errors: bool,
    /// Answer with a JSON object for each kernel
    #[arg(long)]
    json: bool,
    /// Fail where it would be skipped
    #[arg(long)]
    require: bool,
}

/// What there is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The kernel boots, writes a mark and halts: asked before anything else, whatever is to run
    Trial,
    /// The kernel is killed
    Kill,
    /// dm-log-writes, and every state that it promises
    Replay,
    /// dm-dust: sectors that cannot be read
    Dust,
    /// dm-flakey: writes that are refused, or lost
    Flakey,
}

/// A part that needs a device of device-mapper's.
struct OnDevice {
    part: Part,
    /// The target, without its prefix.
    target: &'static str,
    programs: &'static [&'static str],
    run: fn(&Run<'_>, FileSystem, &[PathBuf]) -> io::Result<Outcome>,
}

const ON_DEVICES: &[OnDevice] = &[
    OnDevice { part: Part::Replay, target: "log-writes", programs: &["dmsetup"], run: replay::run },
    OnDevice {
        part: Part::Dust,
        target: "dust",
        programs: &["dmsetup", "filefrag"],
        run: dust::run,
    },
    OnDevice { part: Part::Flakey, target: "flakey", programs: &["dmsetup"], run: flakey::run },
];

/// What came of one kernel.
enum Outcome {
    Passed(Value),
    Skipped(String),
    Bad(String),
}

/// Why a check inside is over.
enum Stop {
    /// The log did not keep its word.
    Bad(String),
    /// It could not be asked.
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// An error of the log where none is expected.
impl From<wal::Error> for Stop {
    fn from(error: wal::Error) -> Self {
        Self::Bad(format!("an error where none should be: {error:?}"))
    }
}

fn expect(holds: bool, text: impl FnOnce() -> String) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Bad(text())) }
}

/// What keeps a kernel from dying here, if anything does; none is fetched. Another process asks, for a boot
/// needs mounts of its own.
pub(crate) fn missing_here() -> Option<String> {
    let mut command = Command::new(env::current_exe().ok()?);
    let output = command.args(["uml", "--only", "trial", "--require"]).output().ok()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let skipped = complaint.lines().find_map(|line| line.strip_prefix("SKIPPED: uml: "));
    let is_skipped = output.status.code() == Some(EXIT_SKIPPED.into());
    skipped.filter(|_| is_skipped).map(str::to_owned)
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let skipped_status = ExitCode::from(if arguments.require { EXIT_SKIPPED } else { 0 });
    if let Some(what) = missing(&PROGRAMS) {
        skip(format_args!("uml: no {what} here"));
        return Ok(skipped_status);
    }
    let kernel = match Kernel::find(arguments.kernel.as_deref(), arguments.fetch) {
        Ok(kernel) => kernel,
        Err(why) => {
            skip(format_args!("uml: {why}"));
            return Ok(skipped_status);
        }
    };
    take_private_mounts()?;
    let interrupted = interruption()?;
    let place = Place::new()?;
    if let Err(why) = kernel.try_boot(&place)? {
        skip(format_args!("uml: {why}"));
        return Ok(skipped_status);
    }
    let seed = arguments.seed.unwrap_or_else(unpredictable);
    let run = Run { arguments, kernel: &kernel, place: &place, seed };
    let (mut is_bad, mut is_skipped) = (false, false);
    for cycle in 0..if run.wants(Part::Kill) { arguments.cycles } else { 0 } {
        let outcome = run.say(&format!("cycle {cycle}"), || run.cycle(cycle))?;
        is_bad |= matches!(outcome, Outcome::Bad(_));
        if interrupted.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    for on_device in ON_DEVICES.iter().filter(|on_device| run.wants(on_device.part)) {
        for file_system in FILE_SYSTEMS {
            let name = format!("dm-{} {file_system}", on_device.target);
            let outcome = run.say(&name, || run.on_device(on_device, file_system))?;
            is_bad |= matches!(outcome, Outcome::Bad(_));
            is_skipped |= matches!(outcome, Outcome::Skipped(_));
            if interrupted.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
    }
    Ok(match (is_bad, is_skipped) {
        (true, _) => ExitCode::from(EXIT_BAD),
        (false, true) => skipped_status,
        (false, false) => ExitCode::SUCCESS,
    })
}

struct Run<'a> {
    arguments: &'a Arguments,
    kernel: &'a Kernel,
    place: &'a Place,
    seed: u64,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Kill => "kill",
            Self::Replay => "replay",
            Self::Dust => "dust",
            Self::Flakey => "flakey",
        }
    }
}

impl Run<'_> {
    fn wants(&self, part: Part) -> bool {
        let Arguments { only, no_replay, .. } = self.arguments;
        (only.is_empty() || only.contains(&part)) && (part == Part::Kill || !no_replay)
    }

    fn on_device(&self, on_device: &OnDevice, file_system: FileSystem) -> io::Result<Outcome> {
        let OnDevice { target, programs, run, .. } = on_device;
        if let Some(program) = missing(programs) {
            return Ok(Outcome::Skipped(format!("no {program} here")));
        }
        match mapped::modules(self.kernel, target) {
            None => Ok(Outcome::Skipped(format!("the kernel has no dm-{target}"))),
            Some(modules) => run(self, file_system, &modules),
        }
    }

    /// Boots a kernel that holds the log to its word itself, on a device over a fresh file system.
    fn check_inside(
        &self,
        part: Part,
        file_system: FileSystem,
        modules: &[PathBuf],
        records: u64,
    ) -> io::Result<Outcome> {
        let seed = mix(&[self.seed, u64::MAX]) % 1_000_000_000;
        let name = format!("{}-{file_system}", part.name());
        let image = self.image(&name, file_system)?;
        let mut boot = Boot::new(self.kernel, self.place, &name, &[&image])?;
        boot.inside(&["--part", part.name(), "--fs", file_system.name()]);
        boot.inside(&["--seed", &seed.to_string(), "--records", &records.to_string()]);
        for module in modules {
            boot.inside(&["--module".as_ref(), module.as_os_str()]);
        }
        if self.arguments.early {
            boot.inside(&["--acknowledge-early"]);
        }
        if self.arguments.swallow_read_errors {
            boot.inside(&["--swallow-read-errors"]);
        }
        let running = boot.start()?;
        running.finish()?;
        let found = fs::read_to_string(running.marks().with_file_name(inside::FOUND_NAME));
        let Ok(found) = found else {
            return Err(running.failure("it found nothing"));
        };
        fs::remove_file(&image)?;
        let found: Value = serde_json::from_str(&found)?;
        Ok(match found["bad"].as_str() {
            Some(text) => Outcome::Bad(format!("{file_system}: {text}")),
            None => Outcome::Passed(found),
        })
    }

    fn say(&self, name: &str, run: impl FnOnce() -> io::Result<Outcome>) -> io::Result<Outcome> {
        let start = Instant::now();
        let outcome = run()?;
        let seconds = start.elapsed().as_secs_f64();
        let (word, text, found) = match &outcome {
            Outcome::Passed(found) => ("pass", None, Some(found)),
            Outcome::Skipped(why) => {
                skip(format_args!("uml: {name}: {why}"));
                ("skipped", Some(why), None)
            }
            Outcome::Bad(text) => ("fail", Some(text), None),
        };
        let mut out = io::stdout().lock();
        if self.arguments.json {
            let answer = json!({
                "run": name,
                "seed": self.seed,
                "seconds": seconds,
                "verdict": word,
                "text": text,
                "found": found,
            });
            writeln!(out, "{answer}")?;
        } else {
            let rest = found.map(ToString::to_string).or(text.cloned()).unwrap_or_default();
            writeln!(out, "{word:7} {name}, seed {}, {seconds:.2} s: {rest}", self.seed)?;
        }
        out.flush()?;
        Ok(outcome)
    }

    /// Boots, has the subject write, kills the kernel, and looks at what is left.
    fn cycle(&self, cycle: u64) -> io::Result<Outcome> {
        let seed = mix(&[self.seed, cycle]) % 1_000_000_000;
        let mut random = Random::new(seed);
        let file_system = FILE_SYSTEMS[random.index(FILE_SYSTEMS.len())];
        let method = METHODS[random.index(METHODS.len())];
        let name = format!("cycle-{cycle}");
        let image = self.image(&name, file_system)?;
        let mut boot = Boot::new(self.kernel, self.place, &name, &[&image])?;
        boot.inside(&["--fs", file_system.name()]);
        boot.inside(&["--method", &method.to_string(), "--seed", &seed.to_string()]);
        boot.inside(&["--records", &RECORDS.to_string()]);
        if self.arguments.early {
            boot.inside(&["--break", "ack-before-sync"]);
        }
        let start = Instant::now();
        let mut running = boot.start()?;
        while fs::metadata(running.marks())?.len() == 0 {
            if start.elapsed() > BOOT_MAX || !running.is_alive()? {
                return Err(running.failure("no mark came"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        let booted = start.elapsed();
        thread::sleep(Duration::from_micros(random.below(LIFE_US_MAX)));
        if !random.one_in(4) {
            await_mark(&running.marks())?;
            thread::sleep(Duration::from_micros(random.below(AFTER_MARK_US_MAX)));
        }
        if !running.is_alive()? {
            return Err(running.failure("it ended by itself"));
        }
        running.kill()?;
        let text = fs::read_to_string(running.marks())?;
        let ledger = Ledger::from_marks(&text).map_err(io::Error::other)?;
        let checked = self.look(&name, file_system, &image, |log| {
            let found = recover(log);
            let end = ledger.check(&found, seed, RECORDS)?;
            let again = recover(log);
            if again.records != found.records {
                return Err(format!("the second recovery differs: {}", again.verdict));
            }
            let more = append_more(log, seed, end, 3);
            if more.records.last().is_none_or(|(last, _)| *last != end + 2) {
                return Err(format!("after three more: {}", more.verdict));
            }
            Ok(json!({
                "fs": file_system.name(),
                "method": method.to_string(),
                "boot_seconds": booted.as_secs_f64(),
                "begun": ledger.begun,
                "acknowledged": ledger.acknowledged,
                "released": ledger.released,
                "recovered": end,
                "log": found.verdict.to_string(),
            }))
        })?;
        fs::remove_file(&image)?;
        Ok(match checked {
            Ok(found) => Outcome::Passed(found),
            Err(text) => Outcome::Bad(format!("{file_system} {method}: {text}")),
        })
    }

    /// A new file system in memory.
    fn image(&self, name: &str, file_system: FileSystem) -> io::Result<PathBuf> {
        let path = self.place.in_memory(&format!("{name}.image"));
        File::create(&path)?.set_len(file_system.disk_bytes())?;
        let text = path.to_string_lossy();
        run_program(file_system.program(), &[file_system.arguments(), &[&text]].concat())?;
        Ok(path)
    }

    /// Mounts the image, which replays the file system's own journal, and looks at the log in it.
    fn look<T>(
        &self,
        name: &str,
        file_system: FileSystem,
        image: &Path,
        check: impl FnOnce(&Path) -> Result<T, String>,
    ) -> io::Result<Result<T, String>> {
        let mut device = LoopDevice::attach(image, Direct::No)?;
        let at = self.place.mount_point(&format!("{name}-looked-at"))?;
        let options = file_system.copy_options();
        let mounted = match Mounted::new(device.path(), &at, file_system.name(), options) {
            Ok(mounted) => mounted,
            Err(error) => return Ok(Err(format!("the file system does not mount: {error}"))),
        };
        // From here on it goes with the mount.
        device.detach()?;
        let found = check(&at.join(inside::LOG_NAME));
        mounted.unmount()?;
        fs::remove_dir(&at)?;
        Ok(found)
    }
}

/// Waits a while for the next mark: the kernel's clock is coarse, so that the subject sleeps for most of
/// its time, and a random moment is seldom one in which something happens.
fn await_mark(marks: &Path) -> io::Result<()> {
    let start = Instant::now();
    let before = fs::metadata(marks)?.len();
    while start.elapsed() < MARK_MAX && fs::metadata(marks)?.len() == before {
        thread::yield_now();
    }
    Ok(())
}

/// What went wrong with a kernel, on standard error, where it is long.
fn show(text: &str) {
    for line in text.lines().rev().take(45).collect::<Vec<_>>().into_iter().rev() {
        complain(format_args!("kernel: {line}"));
    }
}
