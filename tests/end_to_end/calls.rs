//! Every public call in every situation that a program may be in: at work, in a forked child, inside a closure that
//! fills a record, after a close, after a latch, in a callback, and while a waker is cloned, woken or dropped.
//!
//! Each of these had a call that was forgotten: `sealed_segments` answered `Ok` in a forked child, or hung there,
//! and a waker whose clone looked at the statistics waited for the thread that it ran on.

use crate::{
    source::{self, Tests, code},
    table::{Answer, Class, Desk, Row, filled, rows},
};
use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Waker},
    thread,
};
use wal::{
    ErrorKind, Lsn, Stats, Wal,
    io::{Directory, Memory, Storage},
};
use wal_tests::{
    fault::{EIO, Fault, Faulty, On},
    fork::in_child,
    kind_of, quiet,
    watched::{Moment, watched},
    without_hanging,
};

type Disk = Faulty<Memory>;

/// Makes each call in one situation and tells all those that came to something else than they should. The first
/// that hangs is the last that is made.
fn each<S: Storage>(
    situation: &str,
    check: impl Fn(&Row<S>) -> Option<String> + Copy + Send + 'static,
) {
    let mut wrong = Vec::new();
    for row in rows::<S>() {
        let name = row.name;
        let what = format!("{name} {situation}");
        let checked =
            catch_unwind(AssertUnwindSafe(|| without_hanging(&what, move || check(&row))));
        match checked {
            Ok(None) => {}
            Ok(Some(complaint)) => wrong.push(format!("{name}: {complaint}")),
            Err(panic) => {
                let told = panic.downcast_ref::<String>().map_or("panics", String::as_str);
                wrong.push(told.to_owned());
                if told.starts_with("hangs") {
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{situation}:\n{}", wrong.join("\n"));
}

/// What is told later may have been told by the time that one looks.
fn differs(answer: Answer, expected: Answer) -> Option<String> {
    let is_early = (answer, expected) == (Answer::Done, Answer::Pending);
    (answer != expected && !is_early).then(|| format!("{answer:?} instead of {expected:?}"))
}

/// A log on a disk that can fail, and two others beside it.
fn in_memory() -> (Wal<Disk>, Disk, [Disk; 2]) {
    let disk = Faulty::in_memory();
    (filled(disk.clone()), disk, [Faulty::in_memory(), Faulty::in_memory()])
}

/// The table is right where nothing is in the way: else it would say nothing of the other situations.
#[test]
fn each_call_does_its_work() {
    each("at work", |row| {
        let (wal, disk, beside) = in_memory();
        let mut desk = Desk::lay(&wal, &disk, beside);
        differs((row.call)(&mut desk), row.answer)
    });
}

/// A program closes its log and goes on using what it holds of it.
#[test]
fn each_call_is_answered_after_a_close() {
    each("after a close", |row| {
        let (wal, disk, beside) = in_memory();
        let mut desk = Desk::lay(&wal, &disk, beside);
        wal.close().unwrap();
        differs((row.call)(&mut desk), row.closed)
    });
}

/// The same after a write that failed.
#[test]
fn each_call_is_answered_after_a_latch() {
    each("after a latch", |row| {
        let (wal, disk, beside) = in_memory();
        let mut desk = Desk::lay(&wal, &disk, beside);
        disk.control().fail(Fault::sticky(On::frame(), EIO));
        assert_eq!(kind_of(wal.flush()), Some(ErrorKind::Latched));
        differs((row.call)(&mut desk), row.latched)
    });
}

/// Everything that can be seen of a log.
fn seen<S: Storage>(wal: &Wal<S>) -> (Lsn, Lsn, Lsn, Stats) {
    (wal.appended_lsn(), wal.durable_lsn(), wal.start_mark(), wal.stats())
}

/// A closure that fills a record calls the log. What might wait for the closure itself is refused and changes
/// nothing; afterwards the same object does what it was asked for.
#[test]
fn each_call_is_answered_inside_a_closure_that_fills_a_record() {
    each("inside a closure", |row| {
        let (wal, disk, beside) = in_memory();
        let mut desk = Desk::lay(&wal, &disk, beside);
        let mut outcome = None;
        let ticket = wal.append_with(8, |room| {
            room.fill(9);
            let before = seen(&wal);
            let answer = (row.call)(&mut desk);
            outcome = Some((answer, before == seen(&wal)));
        });
        let ticket = ticket.unwrap();
        let (answer, is_unchanged) = outcome.unwrap();
        let refused = Answer::Refused(ErrorKind::InvalidInput);
        let is_right = match row.class {
            Class::Work | Class::Try | Class::Ask => answer == refused,
            Class::Look => answer == Answer::Done,
            Class::Opening | Class::Apart => answer == Answer::Done || answer == refused,
        };
        if !is_right {
            return Some(format!("{answer:?}"));
        }
        if !is_unchanged {
            return Some("it changed the log".to_owned());
        }
        // An append that was refused is over; what was used up is gone.
        let again = (row.call)(&mut desk);
        let is_over = match row.name {
            "AppendFuture: Future" => again == refused,
            _ => again == Answer::Gone,
        };
        if answer == refused && !is_over {
            return differs(again, row.answer).map(|complaint| format!("afterwards {complaint}"));
        }
        kind_of(ticket.wait()).map(|kind| format!("the record that was filled: {kind:?}"))
    });
}

/// Told by a child in the one byte that it has.
fn as_byte(answer: Answer) -> u8 {
    match answer {
        Answer::Done => 0,
        Answer::Pending => 1,
        Answer::Gone => 2,
        Answer::Refused(ErrorKind::Forked) => 3,
        Answer::Refused(ErrorKind::InvalidInput) => 4,
        Answer::Refused(_) => 5,
        Answer::Ended => 6,
    }
}

/// The bytes of every file of a log.
fn bytes_of(path: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Does `work` while another thread locks and unlocks the log's mutex.
fn while_it_is_locked<S: Storage, T>(wal: &Wal<S>, work: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let _ = wal.stats();
            }
        });
        let _over = Over(&is_over);
        work()
    })
}

fn in_a_child(row: &Row<Directory>) -> Option<String> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("log");
    let log = Directory::new(&path);
    let beside = ["second", "third"].map(|name| Directory::new(place.path().join(name)));
    let wal = filled(log.clone());
    let desk = Desk::lay(&wal, &log, beside);
    let before = (bytes_of(&path), seen(&wal));
    let mut answers = BTreeSet::new();
    // The child finds the log's mutex as it is when it is born: locked, as often as not.
    let mut desk = while_it_is_locked(&wal, || {
        (0..4).fold(desk, |desk, _| {
            let (answer, desk) = in_child(desk, |mut desk| {
                let first = as_byte((row.call)(&mut desk));
                let again = as_byte((row.call)(&mut desk));
                // A refusal is no outcome that is remembered as another one.
                if again == first || again == as_byte(Answer::Gone) { first } else { 7 }
            });
            answers.insert(answer);
            desk
        })
    });
    let refused = as_byte(Answer::Refused(ErrorKind::Forked));
    let is_right = |code: &u8| match row.class {
        Class::Work | Class::Try | Class::Ask | Class::Opening => *code == refused,
        Class::Look => *code == as_byte(Answer::Done),
        Class::Apart => *code == as_byte(Answer::Done) || *code == refused,
    };
    if !answers.iter().all(is_right) {
        return Some(format!("{answers:?}; {refused} is `Forked`, 0 is done"));
    }
    if before != (bytes_of(&path), seen(&wal)) {
        return Some("the child changed the log".to_owned());
    }
    let locked = quiet().open(&path).expect_err("the lock is still ours");
    assert_eq!((locked.kind(), locked.holder_pid()), (ErrorKind::Locked, Some(process::id())));
    let answer = (row.call)(&mut desk);
    differs(answer, row.answer).map(|complaint| format!("in the parent {complaint}"))
}

/// A server forks. The child has a copy of everything, and may do nothing with it: each call that can answer an
/// error answers `Forked`, again and again, the others come back, and the parent finds all as it was.
#[test]
fn each_call_is_answered_in_a_forked_child() {
    each::<Directory>("in a forked child", in_a_child);
}

/// A callback may append, wait, and close the log.
#[test]
fn each_call_does_its_work_in_a_callback() {
    each("in a callback", |row| {
        let (wal, disk, beside) = in_memory();
        let wal = Arc::new(wal);
        let (tell, told) = mpsc::channel();
        let (handle, call) = (Arc::clone(&wal), row.call);
        wal.append(b"the cause").unwrap().on_durable(move |_| {
            let mut desk = Desk::lay(&handle, &disk, beside);
            // The receiver is gone only if it gave up on us.
            let _ = tell.send(call(&mut desk));
        });
        let Ok(answer) = told.recv() else { return Some("it panics".to_owned()) };
        differs(answer, row.answer)
    });
}

/// What a waker of a test does: at one moment, once, a call.
fn calls_at(moment: Moment, call: impl FnOnce() + Send + 'static) -> (Waker, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let call = Mutex::new(Some((call, tell)));
    let waker = watched(move |now| {
        let call = (now == moment).then(|| call.lock().unwrap().take()).flatten();
        if let Some((call, tell)) = call {
            call();
            // The receiver is gone only if it gave up on us.
            let _ = tell.send(());
        }
    });
    (waker, told)
}

/// Fills the memory while nothing is written.
fn exhaust(wal: &Wal<Disk>) {
    while wal.try_append(&[1; 9000]).is_ok() {}
}

/// What is polled with a waker that calls the log.
#[derive(Clone, Copy, Debug)]
enum Polled {
    Ticket,
    Append,
}

/// Makes the call of `row` while a waker is at `moment`: cloned by a poll, replaced by another, or woken.
fn in_a_waker(row: &Row<Disk>, polled: Polled, moment: Moment) -> Option<String> {
    // What waits for the disk in a waker that a poll clones or drops has the poll wait for it, and here nothing is
    // written before that is over.
    if matches!(row.class, Class::Work) && moment != Moment::Woken {
        return None;
    }
    let (wal, disk, beside) = in_memory();
    // Until the process ends, for the waker of a future of this log holds what borrows it.
    let wal: &'static Wal<Disk> = Box::leak(Box::new(wal));
    let mut desk = Desk::lay(wal, &disk, beside);
    let gate = disk.control().gate(On::frame());
    let mut ticket = wal.append(b"awaited").unwrap();
    let mut append = Box::pin(wal.append_async(&[2; 9000]));
    if matches!(polled, Polled::Append) {
        exhaust(wal);
    }
    let call = row.call;
    let (waker, told) = calls_at(moment, move || {
        call(&mut desk);
    });
    let mut poll = |waker: &Waker| {
        let mut context = Context::from_waker(waker);
        match polled {
            Polled::Ticket => std::pin::Pin::new(&mut ticket).poll(&mut context).is_pending(),
            Polled::Append => append.as_mut().poll(&mut context).is_pending(),
        }
    };
    assert!(poll(&waker), "nothing is written");
    if moment == Moment::Dropped {
        drop(waker);
        assert!(poll(Waker::noop()), "nothing is written");
    }
    gate.open();
    told.recv().is_err().then(|| "it panics".to_owned())
}

/// Each call in a waker at `moment`.
fn each_in_a_waker(moment: Moment) {
    each("in a waker of a ticket", move |row| in_a_waker(row, Polled::Ticket, moment));
    each("in a waker of an append", move |row| in_a_waker(row, Polled::Append, moment));
}

/// An executor keeps its tasks' statistics in their wakers, and looks at the log whenever one is cloned. The log
/// cloned it under its own mutex, and the look waited for that.
#[test]
fn each_call_comes_back_while_a_waker_is_cloned() {
    each_in_a_waker(Moment::Cloned);
}

/// The same for wakers that are dropped.
#[test]
fn each_call_comes_back_while_a_waker_is_dropped() {
    each_in_a_waker(Moment::Dropped);
}

/// The same for wakers that are woken: an executor may poll in them.
#[test]
fn each_call_comes_back_while_a_waker_is_woken() {
    each_in_a_waker(Moment::Woken);
}

/// The types whose values hold nothing of a log, and those that only say how one is opened.
const VALUES: &[&str] = &[
    "Checkpoint",
    "CommitHistogram",
    "Cut",
    "Directory",
    "Error",
    "FrameHeader",
    "Frame",
    "Identity",
    "Lsn",
    "Memory",
    "OpenReport",
    "Options",
    "OwnedRecord",
    "Record",
    "WriterSeed",
    "SegmentHeader",
    "Verdict",
    "Word",
];

/// The public calls of the source: `Type::function`, and `Type: Trait` for the types of the table.
fn public_calls() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, text) in source::sources("crates/wal/src/") {
        if name.ends_with("tests.rs") {
            continue;
        }
        let code = code(&text, Tests::Drop);
        for (at, _) in code.match_indices("\nimpl") {
            let rest = &code[at + 1..];
            let (header, body) = rest.split_once('{').unwrap();
            let body = &body[..body.find("\n}").unwrap_or(body.len())];
            let header = header.split("where").next().unwrap();
            let (subject, of_trait) = match header.split_once(" for ") {
                Some((of_trait, subject)) => (subject, Some(of_trait)),
                None => (without_generics(header), None),
            };
            let word = |text: &str| {
                let text = text.trim();
                let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
                let path = &text[..end.unwrap_or(text.len())];
                path.rsplit("::").next().unwrap().to_owned()
            };
            let subject = word(subject);
            if let Some(of_trait) = of_trait {
                found.insert(format!("{subject}: {}", word(without_generics(of_trait))));
                continue;
            }
            for line in body.lines().map(str::trim) {
                let line = line.strip_prefix("pub const ").or_else(|| line.strip_prefix("pub "));
                if let Some(function) = line.and_then(|line| line.strip_prefix("fn ")) {
                    found.insert(format!("{subject}::{}", word(function)));
                }
            }
        }
    }
    found
}

/// What follows `impl` and its parameters.
fn without_generics(header: &str) -> &str {
    let rest = header.trim_start_matches("impl");
    if !rest.starts_with('<') {
        return rest;
    }
    let mut depth = 0;
    for (at, character) in rest.char_indices() {
        match character {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &rest[at + 1..];
        }
    }
    rest
}

/// Somebody adds a call and nobody thinks of forks and closures: each public call of the source is in the table, or
/// is one of a value.
#[test]
fn no_call_is_forgotten() {
    let found = public_calls();
    let names: BTreeSet<_> = rows::<Memory>().into_iter().map(|row| row.name).collect();
    let subject = |name: &str| name.split(':').next().unwrap().to_owned();
    let handles: BTreeSet<_> =
        names.iter().filter(|name| name.contains("::")).map(|name| subject(name)).collect();
    let mut wrong = Vec::new();
    for call in &found {
        let subject = subject(call);
        let is_in_table = names.contains(call.as_str());
        let is_call = call.contains("::");
        let is_value = VALUES.contains(&subject.as_str());
        if handles.contains(&subject) && !is_in_table {
            wrong.push(format!("{call} is not in the table"));
        } else if is_call && !is_in_table && !is_value {
            wrong.push(format!("{call} is neither in the table nor of a value"));
        }
    }
    for name in names {
        let is_written = name.contains("::") || name.contains(": ");
        if is_written && !found.contains(name) {
            wrong.push(format!("{name} is in the table and not in the source"));
        }
    }
    assert!(found.len() > 100, "only {} calls: the test reads the source wrongly", found.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
