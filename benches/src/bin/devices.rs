//! `devices`: group commit on classes of disks that are not at hand, in real time: what the processors
//! add to what the policy alone gives away (`cargo test -p wal-sim device_classes`, in virtual time).
//!
//! A log in memory, each of whose writes and flushes takes the time of a preset, beside one durable write
//! after the other on the same, as long as the frame that has a record of each writer.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

use aligned::{Alignment, Buffer};
use parking_lot::Mutex;
use std::{
    error::Error,
    io,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use wal::{
    Options, Wal,
    format::{FRAME_HEADER_BYTES, record_bytes},
    io::{File as _, Memory, Storage as _},
};
use wal_bench::{
    figures::{Spread, bytes_u64, float},
    measure::{Durable, Figures, Load, closed_loop},
};
use wal_benches::report;
use wal_sim::{Device, Slow, SlowFile};

const USAGE: &str = "\
usage: devices [--device NAME] [--writers N[,N...]] [--rounds N] [--seconds S]
  --device    only this preset
  --writers   how many writers wait (1,4,8,16,64)
  --rounds    how often log and floor take turns (5)
  --seconds   how long each runs in a round (0.3)";

const PAYLOAD_BYTES: usize = 128;
const BLOCK_BYTES: usize = 4096;
const SEGMENT_BYTES: u64 = 4 << 20;
/// What the log keeps: memory is all that it is on.
const SPAN_BYTES: u64 = 8 << 20;

struct Arguments {
    devices: Vec<Device>,
    writers: Vec<usize>,
    rounds: usize,
    duration: Duration,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("devices: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("devices: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        devices: Device::PRESETS.to_vec(),
        writers: vec![1, 4, 8, 16, 64],
        rounds: 5,
        duration: Duration::from_millis(300),
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
        let bad = || format!("{word} {value}: not understood");
        match word.as_str() {
            "--device" => arguments.devices = vec![Device::named(&value).ok_or_else(bad)?],
            "--writers" => {
                let writers = value.split(',').map(|text| text.parse().ok().filter(|n| *n > 0));
                arguments.writers = writers.collect::<Option<_>>().ok_or_else(bad)?;
            }
            "--rounds" => {
                arguments.rounds = value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?;
            }
            "--seconds" => {
                let seconds = value.parse().ok().filter(|s| (0.01..1000.0).contains(s));
                arguments.duration = Duration::from_secs_f64(seconds.ok_or_else(bad)?);
            }
            _ => return Err(format!("{word}: no such option")),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    println!("{}", report::machine(&std::env::current_dir()?)?);
    println!(
        "medians of {} rounds of {:?}; {}",
        arguments.rounds,
        arguments.duration,
        report::load()
    );
    println!(
        "{:14} {:>7} {:>10} {:>10} {:>20} {:>9} {:>9} {:>10}",
        "device",
        "writers",
        "log/s",
        "limit/s",
        "R_grp (low-high)",
        "p50 us",
        "p99 us",
        "cpu us/rec"
    );
    for device in &arguments.devices {
        for writers in &arguments.writers {
            compare(arguments, device, *writers)?;
        }
    }
    println!("{}", report::load());
    Ok(())
}

fn compare(arguments: &Arguments, device: &Device, writers: usize) -> Result<(), Box<dyn Error>> {
    let log = Log::new(device)?;
    let frame = FRAME_HEADER_BYTES + writers * record_bytes(PAYLOAD_BYTES);
    let floor = Floor::new(device, frame.next_multiple_of(BLOCK_BYTES))?;
    let load =
        |writers| Load { writers, payload_bytes: PAYLOAD_BYTES, duration: arguments.duration };
    let mut found: Vec<Figures> = Vec::new();
    let mut limits = Vec::new();
    for _ in 0..arguments.rounds {
        found.push(closed_loop(&log, &load(writers), || ())?.figures);
        let alone = closed_loop(&floor, &load(1), || ())?.figures.per_second;
        limits.push(alone * float(bytes_u64(writers)));
    }
    let of = |figure: fn(&Figures) -> f64| found.iter().map(figure).collect::<Vec<_>>();
    let median = |figure| Spread::of(of(figure)).median;
    let ratio = Spread::of_rounds(&of(|figures| figures.per_second), &limits);
    let spread = format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.low, ratio.high);
    println!(
        "{:14} {writers:>7} {:>10.0} {:>10.0} {spread:>20} {:>9.0} {:>9.0} {:>10.2}",
        device.name(),
        median(|figures| figures.per_second),
        Spread::of(limits).median,
        median(|figures| figures.p50),
        median(|figures| figures.p99),
        median(|figures| figures.cpu),
    );
    Ok(())
}

/// A log in memory as slow as a device. Its start mark follows its end.
struct Log {
    wal: Wal<Slow<Memory>>,
    mark: AtomicU64,
    /// Held while a start mark is asked for: an earlier one after a later one is refused.
    asking: Mutex<()>,
}

impl Log {
    fn new(device: &Device) -> wal::Result<Self> {
        let storage = Slow::in_real_time(Memory::new(), device.clone(), 7);
        let options = Options::new().segment_bytes(SEGMENT_BYTES).spare_bytes_max(2 * SPAN_BYTES);
        let mut replay = options.open_in(storage)?;
        replay.skip_rest();
        let (wal, _) = replay.finish()?;
        Ok(Self { wal, mark: AtomicU64::new(0), asking: Mutex::new(()) })
    }
}

impl Durable for Log {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let lsn = self.wal.append(payload).and_then(wal::Ticket::wait).map_err(io::Error::other)?;
        if lsn.get() < self.mark.load(Ordering::Relaxed) + SPAN_BYTES {
            return Ok(());
        }
        let Some(_asking) = self.asking.try_lock() else { return Ok(()) };
        let mark = self.wal.durable_lsn();
        if mark.get() >= self.mark.load(Ordering::Relaxed) + SPAN_BYTES {
            self.mark.store(mark.get(), Ordering::Relaxed);
            drop(self.wal.checkpoint(mark, b"").map_err(io::Error::other)?);
        }
        Ok(())
    }
}

/// Durable writes of the same length, one after the other.
struct Floor {
    file: SlowFile<Memory>,
    buffer: Mutex<Buffer>,
}

impl Floor {
    fn new(device: &Device, bytes: usize) -> io::Result<Self> {
        let storage = Slow::in_real_time(Memory::new(), device.clone(), 7);
        storage.create()?;
        let file = storage.create_file("floor")?;
        let buffer = Buffer::zeroed(Alignment::BLOCK_4096, bytes).map_err(io::Error::other)?;
        Ok(Self { file, buffer: Mutex::new(buffer) })
    }
}

impl Durable for Floor {
    fn append_durable(&self, payload: &[u8]) -> io::Result<()> {
        let mut buffer = self.buffer.lock();
        let bytes = buffer.as_mut_slice();
        bytes[..payload.len()].copy_from_slice(payload);
        self.file.write_durable_at(bytes, 0)
    }
}
