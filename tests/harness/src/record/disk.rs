/*!
The disk that records: everything that happens to it, and to the file `mark` for the subject, becomes an
event, in one order. It is kept in memory.

Some writes are answered a little later than they could be: the kernel has several under way at once,
and flushes beside them. A write that was not answered when a flush began is not covered by it.
*/

use super::event::{Content, Event, Recording};
use crate::{
    fuse::{self, Zeros},
    machine::die_with_parent,
    random::Random,
};
use fuser::Errno;
use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

pub(super) const MARK_NAME: &str = "mark";

const THREADS: usize = 4;

/// One write in so many is answered late, by up to so much.
const LATE_ONE_IN: u64 = 2;
const LATE_US_MAX: u64 = 500;

/// An image is taken over in writes of so many bytes.
const LOAD_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to mount
    at: PathBuf,
    /// Where to leave the recording once it is unmounted
    recording: PathBuf,
    /// The size of the disk in bytes
    #[arg(long)]
    bytes: u64,
    /// What is on the disk at first
    #[arg(long)]
    image: Option<PathBuf>,
    #[arg(long)]
    seed: u64,
}

/// Serves until somebody unmounts. Says `ready` when it is mounted.
pub(crate) fn serve(arguments: &Arguments) -> io::Result<ExitCode> {
    die_with_parent()?;
    let bytes = usize::try_from(arguments.bytes).map_err(io::Error::other)?;
    let state =
        State { bytes: vec![0; bytes], events: Vec::new(), random: Random::new(arguments.seed) };
    let state = Arc::new(Mutex::new(state));
    if let Some(image) = &arguments.image {
        lock(&state).load(&mut File::open(image)?)?;
    }
    fuse::serve(Disk(Arc::clone(&state)), &arguments.at, THREADS)?;
    let events = std::mem::take(&mut lock(&state).events);
    Recording { header: serde_json::Value::Null, events }.save(&arguments.recording)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
    random: Random,
}

impl State {
    /// Appends an event, and returns its number.
    fn log(&mut self, event: Event) -> u32 {
        let number = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        self.events.push(event);
        number
    }

    /// Takes over an image, as writes that everybody knows to be settled.
    fn load(&mut self, image: &mut impl Read) -> io::Result<()> {
        let mut offset = 0;
        while offset < self.bytes.len() {
            let end = (offset + LOAD_BYTES).min(self.bytes.len());
            image.read_exact(&mut self.bytes[offset..end])?;
            let content = Content::of(&self.bytes[offset..end]);
            if matches!(content, Content::Bytes(_)) {
                let offset = u64::try_from(offset).map_err(io::Error::other)?;
                self.log(Event::Write { offset, content });
            }
            offset = end;
        }
        Ok(())
    }

    fn lateness(&mut self) -> Option<Duration> {
        self.random
            .one_in(LATE_ONE_IN)
            .then(|| Duration::from_micros(self.random.below(LATE_US_MAX)))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Logs a write, waits now and then, and logs that it is done. `None` beyond the disk's end.
    fn change(&self, offset: u64, content: Content) -> Option<()> {
        let mut state = lock(&self.0);
        let start = usize::try_from(offset).ok()?;
        let length = usize::try_from(content.len()).ok()?;
        let room = state.bytes.get_mut(start..start.checked_add(length)?)?;
        match &content {
            Content::Bytes(bytes) => room.copy_from_slice(bytes),
            Content::Zeros(_) => room.fill(0),
        }
        let write = state.log(Event::Write { offset, content });
        let late = state.lateness();
        drop(state);
        if let Some(time) = late {
            thread::sleep(time);
        }
        lock(&self.0).log(Event::Done { write });
        Some(())
    }
}

impl fuse::Disk for Disk {
    const BESIDE_NAME: &'static str = MARK_NAME;

    fn bytes(&self) -> usize {
        lock(&self.0).bytes.len()
    }

    fn read(&self, offset: u64, length: usize, answer: impl FnOnce(Result<&[u8], Errno>)) {
        let state = lock(&self.0);
        let end = state.bytes.len();
        let start = usize::try_from(offset).map_or(end, |start| start.min(end));
        answer(Ok(&state.bytes[start..start.saturating_add(length).min(end)]));
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.change(offset, Content::of(data)).ok_or(Errno::ENOSPC)
    }

    /// A hole is zeros like any.
    fn zero(&self, offset: u64, length: u64, _: Zeros) -> Result<(), Errno> {
        self.change(offset, Content::Zeros(length)).ok_or(Errno::ENOSPC)
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut state = lock(&self.0);
        let flush = state.log(Event::FlushBegin);
        let late = state.lateness();
        drop(state);
        if let Some(time) = late {
            thread::sleep(time);
        }
        lock(&self.0).log(Event::FlushEnd { flush });
        Ok(())
    }

    fn tell(&self, data: &[u8]) -> Result<(), Errno> {
        let text = String::from_utf8_lossy(data).trim_end().to_owned();
        lock(&self.0).log(Event::Mark(text));
        Ok(())
    }

    /// Nobody reads it.
    fn say(&self) -> String {
        String::new()
    }
}
