/*!
`ring killed`: what a process leaves behind that is killed with writes under way.

A process of its own takes a lock, as the log does on its directory, has four writes of 1 MiB under way to
a disk that takes half a megabyte a second from it, and is killed. A successor may begin as soon as the
lock is free: what arrives later goes over whatever it has written by then.
*/

use std::{
    fs::{File, TryLockError},
    io::{self, BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use wal_bench::{
    disk::{DiskFile, fresh_directory, zeroed},
    figures::bytes_u64,
    report::table::{row, titled},
};
use wal_benches::report;

use crate::{
    Stop,
    arguments::{HoldArguments, KilledArguments, Way},
    ring::Ring,
    target::{FILLING, WRITE_BYTES_MAX, filled, open, prepare, write_durable},
    throttle::{self, Throttle},
};

const WRITES: usize = 4;

/// All four take eight seconds.
const BYTES_PER_SECOND: u64 = 512 << 10;

/// Until the last of the threads is in its call, long before the first write has ended.
const SETTLING: Duration = Duration::from_millis(500);

/// How often the file is read. The lock is asked for every millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What has not happened by then never does.
const WATCHED_MAX: Duration = Duration::from_secs(60);

/// What the process says when its writes are under way.
const UNDER_WAY: &str = "under way";

/// What was seen after the kill, and when.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    gone: Option<Duration>,
    free: Option<Duration>,
    /// Writes on disk when the lock was free.
    there: usize,
    last: Option<Duration>,
}

pub(crate) fn run(arguments: &KilledArguments) -> Result<(), Stop> {
    let directory = fresh_directory(arguments.dir.as_deref())?;
    let throttle = Throttle::new(directory.path(), BYTES_PER_SECOND)?;
    println!("{}", report::machine(directory.path())?);
    let mut rows = vec![row(["way", "gone after", "lock free", "there then", "last arrived"])];
    for way in Way::ALL {
        let Seen { gone, free, there, last } = kill(way, directory.path(), &throttle)?;
        let there = format!("{there} of {WRITES}");
        rows.push(row([way.name(), &time(gone), &time(free), &there, &time(last)]));
    }
    let title = "a process killed with four writes of 1 MiB under way, at 512 KiB a second";
    print!("{}", titled(title, &rows));
    Ok(())
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{:.3} s", time.as_secs_f64()))
}

/// Starts the process that writes in one way, and kills it.
fn kill(way: Way, directory: &Path, throttle: &Throttle) -> Result<Seen, Stop> {
    let path = directory.join(way.name());
    let lock = directory.join(format!("{}.lock", way.name()));
    let file = prepare(&path, bytes_u64(WRITES * WRITE_BYTES_MAX))?;
    if way == Way::Ring {
        // Refused here, where it can be said why.
        drop(Ring::new(&file, WRITES)?);
    }
    File::create_new(&lock)?;
    // It ends when its standard input does: also if this process is killed.
    let mut child = Command::new(std::env::current_exe()?)
        .args(["hold", "--way", way.name(), "--file"])
        .arg(&path)
        .arg("--lock")
        .arg(&lock)
        .arg("--group")
        .arg(throttle.group())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let seen = watch(&mut child, &DiskFile::open(&path)?, &lock);
    // It has been killed already, unless something went wrong.
    let _ = child.kill();
    child.wait()?;
    seen
}

fn watch(child: &mut Child, file: &DiskFile, lock: &Path) -> Result<Seen, Stop> {
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut said)?;
    }
    if said.trim_end() != UNDER_WAY {
        return Err(io::Error::other("the process ended before it was killed").into());
    }
    thread::sleep(SETTLING);
    if is_free(lock)? {
        return Err(io::Error::other("the process has no lock").into());
    }
    if arrived(file)? > 0 {
        let what = "the disk did not become slow: a write was there before the kill";
        return Err(Stop::Refused(what.to_owned()));
    }
    child.kill()?;
    let killed = Instant::now();
    let mut looked = killed;
    let mut seen = Seen::default();
    while killed.elapsed() < WATCHED_MAX {
        if seen.gone.is_none() && child.try_wait()?.is_some() {
            seen.gone = Some(killed.elapsed());
        }
        let is_freed = seen.free.is_none() && is_free(lock)?;
        if is_freed {
            seen.free = Some(killed.elapsed());
        }
        let is_time = looked.elapsed() >= LOOK_EVERY && seen.last.is_none();
        if is_freed || is_time {
            looked = Instant::now();
            let there = arrived(file)?;
            if is_freed {
                seen.there = there;
            }
            if there == WRITES && seen.last.is_none() {
                seen.last = Some(looked - killed);
            }
        }
        if seen.gone.is_some() && seen.free.is_some() && seen.last.is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(seen)
}

/// How many of the writes are on disk from their first byte to their last.
fn arrived(file: &DiskFile) -> io::Result<usize> {
    let mut buffer = zeroed(WRITE_BYTES_MAX)?;
    let mut arrived = 0;
    for index in 0..WRITES {
        let block = buffer.as_mut_slice();
        file.read(block, bytes_u64(index * WRITE_BYTES_MAX))?;
        arrived += usize::from(block.iter().all(|&byte| byte == FILLING));
    }
    Ok(arrived)
}

/// Whether another process could begin.
fn is_free(lock: &Path) -> io::Result<bool> {
    match File::open(lock)?.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process that is killed: it waits for that. What becomes of its writes is seen from outside.
pub(crate) fn hold(arguments: &HoldArguments) -> Result<(), Stop> {
    throttle::join(&arguments.group)?;
    let lock = File::open(&arguments.lock)?;
    lock.try_lock().map_err(io::Error::from)?;
    let file = open(&arguments.file)?;
    let offset = |index| bytes_u64(index * WRITE_BYTES_MAX);
    match arguments.way {
        Way::Threads => {
            for (index, mut buffer) in filled(WRITES)?.into_iter().enumerate() {
                let file = file.try_clone()?;
                thread::spawn(move || write_durable(&file, buffer.as_mut_slice(), offset(index)));
            }
            wait_for_the_end()?;
        }
        Way::Ring => {
            let mut ring = Ring::new(&file, WRITES)?;
            for index in 0..WRITES {
                ring.start(index, WRITE_BYTES_MAX, offset(index))?;
            }
            ring.submit()?;
            wait_for_the_end()?;
        }
    }
    Ok(())
}

fn wait_for_the_end() -> io::Result<()> {
    println!("{UNDER_WAY}");
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_write_has_arrived_when_all_of_it_has() {
        let directory = fresh_directory(None).unwrap();
        let path = directory.path().join("file");
        let bytes = vec![FILLING; 2 * WRITE_BYTES_MAX];
        let file = File::create_new(&path).unwrap();
        file.set_len(bytes_u64(WRITES * WRITE_BYTES_MAX)).unwrap();
        let seen = DiskFile::open(&path).unwrap();
        assert_eq!(arrived(&seen).unwrap(), 0);
        file.write_all_at(&bytes[..bytes.len() - 1], 0).unwrap();
        assert_eq!(arrived(&seen).unwrap(), 1);
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(arrived(&seen).unwrap(), 2);
    }

    #[test]
    fn a_lock_is_free_when_nobody_has_it() {
        let directory = fresh_directory(None).unwrap();
        let path = directory.path().join("lock");
        let file = File::create_new(&path).unwrap();
        assert!(is_free(&path).unwrap());
        file.try_lock().unwrap();
        assert!(!is_free(&path).unwrap());
        drop(file);
        assert!(is_free(&path).unwrap());
    }
}
