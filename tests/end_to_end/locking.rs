//! One writer at a time: in this process, among all, after a drop, after a latch, after a fork.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{self, Child, Command, Stdio},
    sync::Arc,
    task::Poll,
    thread,
    time::Duration,
};
use wal::{
    Error, ErrorKind, Lsn, Options,
    io::{Directory, Memory},
};
use wal_tests::{
    fault::{EAGAIN, EIO, Fault, Faulty, On, PATIENCE, Verb},
    fork::in_child,
    kind_of, open, quiet, replay_when_free,
    tasks::{CountingWaker, poll_once},
    without_hanging,
};

const AN_HOUR: Duration = Duration::from_secs(3600);

fn assert_locked_by<T>(answer: wal::Result<T>, pid: u32) {
    let error: Error = answer.err().expect("somebody has it");
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert_eq!(error.holder_pid(), Some(pid), "{error}");
}

/// A service closes its log and unmounts the file system that it was on. A thread of the log that had ended
/// for everybody but itself still had the segments' files open: `umount` answered "busy".
#[test]
fn a_closed_log_that_is_dropped_has_no_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log").canonicalize().unwrap_or(dir.path().join("log"));
    let is_here =
        |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(&path));
    for _ in 0..100 {
        let wal = open(&quiet().depth(4), Directory::new(&path)).unwrap();
        let tickets: Vec<_> = (0..8).map(|_| wal.append(&[7; 9000]).unwrap()).collect();
        wal.close().unwrap();
        assert!(tickets.iter().all(wal::Ticket::is_durable));
        drop((wal, tickets));
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten().filter(is_here).count();
        assert_eq!(open, 0);
    }
}

/// Two parts of a program open the same log: the second must be refused at once, by whatever path it
/// comes, from the scan of the first on, and however long it would wait for one that has ended.
#[test]
fn a_second_open_in_this_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let options = quiet().lock_timeout(AN_HOUR);
    let replay = options.open(&path).unwrap();
    assert_locked_by(options.open(&path), process::id());
    std::os::unix::fs::symlink(&path, dir.path().join("alias")).unwrap();
    assert_locked_by(options.open(dir.path().join("alias")), process::id());
    drop(replay);
    let mut replay = options.open(dir.path().join("alias")).unwrap();
    replay.skip_rest();
    let (wal, _) = replay.finish().unwrap();
    assert_locked_by(options.open(&path), process::id());
    wal.close().unwrap();
    options.open(&path).unwrap();

    let memory = Memory::new();
    let wal = open(&options, memory.clone()).unwrap();
    assert_locked_by(options.open_in(memory.clone()), process::id());
    drop(wal);
    open(&options, memory).unwrap();
}

/// A service restarts its log in the same process: it drops the handle and opens at once. The last writes of
/// the old one, or a segment that was being prepared, were under way still, and the service was refused by
/// itself (36 of 200 times, for up to 107 ms).
#[test]
fn a_log_that_was_dropped_is_opened_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = quiet().depth(4).linger(Duration::ZERO).lock_timeout(AN_HOUR);
    for round in 0..200 {
        let wal = open(&options, Directory::new(dir.path()));
        let wal = wal.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let tickets: Vec<_> = (0..4 + round % 9).map(|_| wal.append(&[7; 9000]).unwrap()).collect();
        drop(wal.checkpoint(tickets[tickets.len() - 1].lsn(), b"").unwrap());
        drop((tickets, wal));
    }
}

/// The log has ended and its last write is under way. That another process waits for it makes no sense:
/// what it would wait for may be a whole restart.
#[test]
fn another_process_does_not_wait_for_a_log_that_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new(Directory::new(dir.path()));
    let wal = open(&quiet(), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    let ticket = wal.append(b"in flight").unwrap();
    let waiter = thread::spawn(move || ticket.wait());
    gate.wait_for(1);
    drop(wal);
    let (child, answer) = other_process(dir.path());
    assert_eq!(answer, format!("Locked Some({})", process::id()));
    end(child);
    gate.open();
    assert_eq!(kind_of(waiter.join().unwrap()), Some(ErrorKind::Closed));
    open(&quiet().lock_timeout(AN_HOUR), disk).unwrap();
}

/// There is no memory for a thread, and the program may try again: meanwhile the log stays its own.
#[test]
fn a_finish_that_was_refused_keeps_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new(Directory::new(dir.path()));
    let options = quiet().lock_timeout(AN_HOUR);
    let mut replay = options.open_in(disk.clone()).unwrap();
    replay.skip_rest();
    disk.control().fail(Fault::once(On::every(Verb::Spawn).in_file("wal-prepare"), EAGAIN));
    assert_eq!(kind_of(replay.finish()), Some(ErrorKind::Io));
    assert_locked_by(options.open(dir.path()), process::id());
    let (child, answer) = other_process(dir.path());
    assert_eq!(answer, format!("Locked Some({})", process::id()));
    end(child);
    let (wal, _) = replay.finish().unwrap();
    assert_locked_by(options.open(dir.path()), process::id());
    drop(wal);
    // What is left of the replay holds nothing.
    options.open(dir.path()).unwrap();
    assert_eq!(kind_of(replay.finish()), Some(ErrorKind::InvalidInput));
}

/// The handle is dropped while a thread is still inside a write that the kernel has not finished. If
/// the lock went with the handle, that write would land in the log of the next writer.
#[test]
fn the_lock_outlives_the_handle_while_a_write_is_under_way() {
    let options = quiet().lock_timeout(AN_HOUR);
    let at_once = quiet().lock_timeout(Duration::ZERO);
    let disk = Faulty::in_memory();
    let wal = open(&options, disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    let ticket = wal.append(b"in flight").unwrap();
    let waiter = thread::spawn(move || ticket.wait());
    gate.wait_for(1);
    drop(wal);
    for _ in 0..3 {
        assert_locked_by(at_once.open_in(disk.clone()), process::id());
    }
    gate.open();
    let (records, ..) = wal_tests::replay(&options, disk.clone()).unwrap();
    assert_eq!(records.len(), 1, "the write has ended");
    let outcome = waiter.join().unwrap();
    assert_eq!(kind_of(outcome), Some(ErrorKind::Closed), "nobody may say that it is durable");
}

/// The same with the write of a segment that is being prepared.
#[test]
fn the_lock_outlives_the_handle_while_a_segment_is_prepared() {
    for verb in [Verb::WriteZeroes, Verb::Sync, Verb::SyncDir] {
        let options = quiet().lock_timeout(AN_HOUR);
        let at_once = quiet().lock_timeout(Duration::ZERO);
        let disk = Faulty::in_memory();
        let wal = open(&options, disk.clone()).unwrap();
        wal_tests::eventually("the first successor is prepared", || {
            wal.stats().segments_recycled == 1
        });
        let gate = disk.control().gate(On::every(verb));
        for _ in 0..40 {
            wal.append(&[1; 8000]).unwrap().wait().unwrap();
        }
        gate.wait_for(1);
        drop(wal);
        assert_locked_by(at_once.open_in(disk.clone()), process::id());
        gate.open();
        assert_eq!(wal_tests::replay(&options, disk.clone()).unwrap().0.len(), 40);
    }
}

/// The log latches while another write hangs. A program that reopens it to recover must wait for that
/// one; afterwards it need not drop the old handle first, for that can do nothing any more.
#[test]
fn the_lock_outlives_a_latch_while_a_write_is_under_way() {
    let options = quiet().lock_timeout(AN_HOUR);
    let at_once = quiet().lock_timeout(Duration::ZERO);
    let disk = Faulty::in_memory();
    let wal = Arc::new(open(&options, disk.clone()).unwrap());
    let tail = wal.durable_lsn().get();
    let control = disk.control();
    let gate = control.gate(On::frame_at(tail));
    control.fail(Fault::once(On::frame_at(tail + 3 * 4096), EIO));
    let tickets: Vec<_> = (0..3).map(|_| wal.append(&[7; 9000]).unwrap()).collect();
    let waiters: Vec<_> = tickets
        .into_iter()
        .map(|ticket| thread::spawn(move || ticket.wait_timeout(PATIENCE).map(drop)))
        .collect();
    gate.wait_for(1);
    while wal.append(b"").is_ok() {
        thread::yield_now();
    }
    assert_locked_by(at_once.open_in(disk.clone()), process::id());
    gate.open();
    for waiter in waiters {
        assert_eq!(kind_of(waiter.join().unwrap().map(|_| ())), Some(ErrorKind::Latched));
    }
    let (_, anew, _) = wal_tests::replay(&options, disk.clone()).unwrap();
    anew.append(b"goes on").unwrap().wait().unwrap();
    assert_eq!(kind_of(wal.append(b"")), Some(ErrorKind::Latched));
    assert_eq!(kind_of(wal.close()), Some(ErrorKind::Latched));
    drop(wal);
    assert_locked_by(options.open_in(disk), process::id());
    anew.append(b"still goes on").unwrap().wait().unwrap();
}

/// `close` gives the lock back before it returns: whoever opens next must not be refused because a
/// thread of the closed log has not quite gone.
#[test]
fn a_closed_log_can_be_opened_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20_u8 {
        let wal = open(&quiet().linger(Duration::ZERO), Directory::new(dir.path().join("log")));
        let wal = wal.unwrap_or_else(|error| panic!("round {round}: {error}"));
        for _ in 0..round {
            drop(wal.append(&[round; 9000]).unwrap());
        }
        wal.close().unwrap();
    }
}

/// The same while other threads are just being told that their records are durable.
#[test]
fn a_closed_log_can_be_opened_at_once_though_others_were_waiting() {
    let storage = Memory::new();
    for round in 0..300 {
        let wal = open(&quiet(), storage.clone());
        let wal = wal.unwrap_or_else(|error| panic!("round {round}: {error}"));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while wal.append(b"x").and_then(|ticket| ticket.wait()).is_ok() {});
            }
            while wal.stats().durable_records < 50 {
                thread::yield_now();
            }
            wal.close().unwrap();
            let anew = open(&quiet(), storage.clone());
            let anew = anew.unwrap_or_else(|error| panic!("round {round}: {error}"));
            anew.checkpoint(anew.appended_lsn(), b"").unwrap().wait().unwrap();
            anew.close().unwrap();
        });
    }
}

const HELPER_DIR: &str = "WAL_TESTS_LOCKING_DIR";

/// Not a test by itself: what the other process does in the tests below. Says what became of its open,
/// and keeps what it got until its standard input ends.
#[test]
fn the_other_process() {
    let Some(dir) = env::var_os(HELPER_DIR) else { return };
    let opened = open(&quiet().lock_timeout(AN_HOUR), Directory::new(Path::new(&dir)));
    match &opened {
        Ok(wal) => {
            wal.append(b"by the other process").unwrap().wait().unwrap();
            println!("\nANSWER opened");
        }
        Err(error) => println!("\nANSWER {:?} {:?}", error.kind(), error.holder_pid()),
    }
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    // Not dropped: the process ends with the log open.
    process::exit(0);
}

fn other_process(dir: &Path) -> (Child, String) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "locking::the_other_process", "--nocapture"])
        .env(HELPER_DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let answer = without_hanging("the other process answers", move || {
        let mut lines = BufReader::new(stdout).lines().map(|line| line.unwrap());
        lines.find_map(|line| line.strip_prefix("ANSWER ").map(str::to_owned))
    });
    (child, answer.expect("the other process answers"))
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// Two instances of a service are started by mistake: the second is told who has the log.
#[test]
fn another_process_is_refused_with_our_pid() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(&quiet(), Directory::new(dir.path())).unwrap();
    let (child, answer) = other_process(dir.path());
    assert_eq!(answer, format!("Locked Some({})", process::id()));
    end(child);
    wal.append(b"not disturbed").unwrap().wait().unwrap();
}

/// The other way round; and a process that ends without a word gives the lock back.
#[test]
fn we_are_refused_with_the_pid_of_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let (child, answer) = other_process(dir.path());
    assert_eq!(answer, "opened");
    assert_locked_by(quiet().open(dir.path()), child.id());
    end(child);
    let (records, ..) = wal_tests::replay(&quiet(), Directory::new(dir.path())).unwrap();
    assert_eq!(records[0].1, b"by the other process");
}

/// A server forks. The child has a copy of the handle and the very same open files: it must neither
/// write to the log, nor give the parent's lock away when it drops its copy.
#[test]
fn a_forked_child_can_do_nothing_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let options: Options = quiet();
    let wal = open(&options, Directory::new(dir.path())).unwrap();
    let lsn = wal.append(b"by the parent").unwrap().wait().unwrap();
    let tickets = [(); 3].map(|()| wal.append(b"pending").unwrap());
    let reader = wal.read_from(Lsn::ZERO).unwrap();
    let waker = Arc::new(CountingWaker::default());
    let (code, (wal, tickets, mut reader)) =
        in_child((wal, tickets, reader), |(wal, tickets, mut reader)| {
            let [waited, mut awaited, called_back] = tickets;
            let mut batch = wal.batch();
            batch.push(b"by the child").unwrap();
            let mut append = wal.append_async(b"by the child");
            let answers = [
                kind_of(wal.append(b"by the child")),
                kind_of(wal.try_append(b"by the child")),
                kind_of(wal.append_with(1, |_| ())),
                kind_of(batch.append()),
                kind_of(wal.checkpoint(lsn, b"")),
                kind_of(wal.flush()),
                kind_of(wal.read_from(lsn)),
                kind_of(wal.follow(lsn)),
                kind_of(reader.next_record().map(|_| ())),
                kind_of(waited.wait_timeout(Duration::from_secs(1))),
                ready(poll_once(&mut awaited, &waker)),
                ready(poll_once(&mut append, &waker)),
                kind_of(wal.close()),
            ];
            drop(append);
            called_back.on_durable(|outcome| assert_eq!(kind_of(outcome), Some(ErrorKind::Forked)));
            let is_wrong = |answer: &Option<ErrorKind>| *answer != Some(ErrorKind::Forked);
            // Everything is dropped on the way out, as in a child that returns from its main function.
            answers.iter().position(is_wrong).map_or(0, |index| u8::try_from(index).unwrap() + 1)
        });
    assert_eq!(code, 0, "the answer of this number was wrong");

    assert_locked_by(options.open(dir.path()), process::id());
    let (child, answer) = other_process(dir.path());
    assert_eq!(answer, format!("Locked Some({})", process::id()), "the lock is still ours");
    end(child);
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(reader.next_record().unwrap().unwrap().payload(), b"by the parent");
    wal.append(b"by the parent").unwrap().wait().unwrap();
    wal.close().unwrap();
    let (records, ..) = replay_when_free(&options, &Directory::new(dir.path())).unwrap();
    assert_eq!(records.len(), 5);
}

fn ready<T>(answer: Poll<wal::Result<T>>) -> Option<ErrorKind> {
    match answer {
        Poll::Ready(answer) => kind_of(answer),
        Poll::Pending => None,
    }
}
