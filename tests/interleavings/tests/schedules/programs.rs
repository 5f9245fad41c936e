//! What the log is asked to do while the scheduler chooses who goes on.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use shuttle::{future, rand::RngCore as _, thread};
use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use wal::{Error, ErrorKind, Lsn, OwnedRecord, Ticket, Wal};
use wal_interleavings::{Appended, Disk, Effort, Life, Setting, explore};
use wal_sim::Said;

type Log = Arc<Wal<Disk>>;

fn append(life: &Life, wal: &Log, bytes: usize) -> wal::Result<Appended> {
    life.append(vec![life.payload(bytes)], |records| wal.append(&records[0]))
}

fn append_batch(life: &Life, wal: &Log, lengths: &[usize]) -> wal::Result<Appended> {
    let records = lengths.iter().map(|bytes| life.payload(*bytes)).collect();
    life.append(records, |records| {
        let mut batch = wal.batch();
        records.iter().try_for_each(|record| batch.push(record))?;
        batch.append()
    })
}

/// A thread with its own handles.
fn spawn(
    life: &Life,
    wal: &Log,
    work: impl FnOnce(&Life, &Log) + Send + 'static,
) -> thread::JoinHandle<()> {
    let (life, wal) = (life.clone(), Arc::clone(wal));
    thread::spawn(move || work(&life, &wal))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Each writer waits for its record before it appends the next: the baton goes round, cohorts form.
#[test]
fn writers_in_a_closed_loop() {
    explore("writers in a closed loop", Effort::each(800), || {
        let (life, wal) = Life::begin(&Setting::new());
        let writer = |life: &Life, wal: &Log| {
            for _ in 0..3 {
                life.wait(append(life, wal, 40).unwrap()).unwrap();
            }
        };
        join([0; 3].map(|_| spawn(&life, &wal, writer)));
        life.close(&wal);
        life.check();
    });
}

/// One gives up waiting, one waits with a timeout again and again, one forgets its ticket: the baton
/// that any of them was handed goes on to somebody who uses it.
#[test]
fn timeouts_and_dropped_tickets() {
    explore("timeouts and dropped tickets", Effort::each(800), || {
        let (life, wal) = Life::begin(&Setting::new().early_one_in(16));
        let patient = spawn(&life, &wal, |life, wal| {
            let appended = append_batch(life, wal, &[30, 700, 8]).unwrap();
            life.wait(appended).unwrap();
            life.wait(append(life, wal, 20).unwrap()).unwrap();
        });
        let impatient = spawn(&life, &wal, |life, wal| {
            for _ in 0..2 {
                let Appended { batch, ticket } = append(life, wal, 50).unwrap();
                match ticket.wait_timeout(Duration::from_micros(70)) {
                    Ok(_) => life.say(Said::Acknowledged { batch }),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
                }
            }
        });
        let forgetful = spawn(&life, &wal, |life, wal| {
            drop(append_batch(life, wal, &[10, 10]).unwrap());
            life.wait(append(life, wal, 60).unwrap()).unwrap();
        });
        join([patient, impatient, forgetful]);
        life.close(&wal);
        life.check();
    });
}

/// Tickets that are awaited, called back, and polled once and dropped: nobody blocks, so that a committer
/// thread has to hear of each.
#[test]
fn awaited_tickets() {
    explore("awaited tickets", Effort::each(800), || {
        let (life, wal) = Life::begin(&Setting::new());
        let task = |life: &Life, wal: &Log| {
            for _ in 0..2 {
                let Appended { batch, ticket } = append(life, wal, 40).unwrap();
                future::block_on(ticket).unwrap();
                life.say(Said::Acknowledged { batch });
            }
        };
        let fickle = |life: &Life, wal: &Log| {
            let Appended { ticket, .. } = append(life, wal, 40).unwrap();
            let mut ticket = Some(ticket);
            future::block_on(std::future::poll_fn(|context| {
                let polled = ticket.as_mut().map(|ticket| std::pin::pin!(ticket).poll(context));
                drop((polled, ticket.take()));
                Poll::Ready(())
            }));
            life.wait(append(life, wal, 40).unwrap()).unwrap();
        };
        let caller = |life: &Life, wal: &Log| {
            let Appended { batch, ticket } = append(life, wal, 40).unwrap();
            let teller = life.clone();
            ticket.on_durable(move |outcome| {
                outcome.unwrap();
                teller.say(Said::Acknowledged { batch });
            });
        };
        let threads =
            [spawn(&life, &wal, task), spawn(&life, &wal, fickle), spawn(&life, &wal, caller)];
        join(threads);
        life.close(&wal);
        life.check();
    });
}

/// Segments of a few records: moving on, preparing, releasing and reusing them beside the writers.
#[test]
fn rotation_and_release() {
    explore("rotation and release", Effort::each(300), || {
        let (life, wal) = Life::begin(&Setting::new().segment_bytes(8 << 10));
        let writer = |life: &Life, wal: &Log| {
            for _ in 0..6 {
                life.wait(append(life, wal, 1500).unwrap()).unwrap();
            }
        };
        let releaser = spawn(&life, &wal, |life, wal| {
            for state in [[1; 9], [2; 9]] {
                let appended = append(life, wal, 900).unwrap();
                let start_mark = appended.ticket.lsn();
                life.wait(appended).unwrap();
                life.say(Said::CheckpointBegun { start_mark, state: state.to_vec() });
                let ticket = wal.checkpoint(start_mark, &state).unwrap();
                life.say(Said::CheckpointPlaced(ticket.lsn()));
                ticket.wait().unwrap();
                life.say(Said::CheckpointAcknowledged);
            }
        });
        let reader = spawn(&life, &wal, |life, wal| {
            let Ok(reader) = wal.read_from(Lsn::ZERO) else { return };
            for record in reader {
                match record {
                    Ok(record) => life.see(record),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Released, "{error}"),
                }
                thread::yield_now();
            }
        });
        let writers = [0; 2].map(|_| spawn(&life, &wal, writer));
        join(writers.into_iter().chain([releaser, reader]));
        life.close(&wal);
        life.check();
    });
}

/// A close comes between an append and its wait: what it does not refuse is durable when it answers.
#[test]
fn close_beside_appends() {
    explore("close beside appends", Effort::each(800), || {
        let (life, wal) = Life::begin(&Setting::new());
        let writer = |life: &Life, wal: &Log| {
            for _ in 0..4 {
                let outcome = append(life, wal, 40).and_then(|appended| life.wait(appended));
                if let Err(error) = outcome {
                    assert_eq!(error.kind(), ErrorKind::Closed);
                    return;
                }
            }
        };
        let reporter = spawn(&life, &wal, |life, wal| {
            for _ in 0..3 {
                life.say(Said::Durable(wal.durable_lsn()));
                thread::yield_now();
            }
        });
        let threads = [spawn(&life, &wal, writer), spawn(&life, &wal, writer), reporter];
        wal.close().unwrap();
        join(threads);
        life.say(Said::Durable(wal.durable_lsn()));
        life.say(Said::Closed);
        life.check();
    });
}

/// The handle is dropped in the middle, as if the process had died: waiters come back with an answer.
#[test]
fn a_dropped_handle() {
    explore("a dropped handle", Effort::each(600), || {
        let (life, wal) = Life::begin(&Setting::new());
        let waiter = |life: &Life, appended: Appended| {
            let life = life.clone();
            thread::spawn(move || match life.wait(appended) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            })
        };
        let appended = [0; 3].map(|_| append(&life, &wal, 40).unwrap());
        let waiters = appended.map(|appended| waiter(&life, appended));
        drop(wal);
        join(waiters);
        life.check();
    });
}

/// A durable write fails while others wait, sleep, and are about to append: everybody is told, nothing is
/// acknowledged after it, and what was acknowledged before is there.
#[test]
fn a_failing_write() {
    explore("a failing write", Effort::each(800), || {
        let (life, wal) = Life::begin(&Setting::new());
        life.disk().fail_after(shuttle::rand::thread_rng().next_u64() % 4);
        let writer = |life: &Life, wal: &Log| {
            for _ in 0..4 {
                let outcome = append(life, wal, 40).and_then(|appended| life.wait(appended));
                if let Err(error) = outcome {
                    assert_eq!(error.kind(), ErrorKind::Latched);
                    let again = wal.append(b"too late").unwrap_err();
                    assert_eq!(again.kind(), ErrorKind::Latched);
                    return;
                }
            }
        };
        let task = |life: &Life, wal: &Log| {
            let Ok(Appended { batch, ticket }) = append(life, wal, 40) else { return };
            match future::block_on(ticket) {
                Ok(_) => life.say(Said::Acknowledged { batch }),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Latched),
            }
        };
        join([spawn(&life, &wal, writer), spawn(&life, &wal, writer), spawn(&life, &wal, task)]);
        drop(wal);
        life.check();
    });
}

/// A flush of the preparer fails beside frames that are written, and the device drops its cache: with an
/// error that latches, or for want of something. A frame's own flush finds nothing to do then, and answers
/// `Ok`; nothing that was acknowledged is lost all the same.
#[test]
fn a_failing_flush_of_the_preparer() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    explore("a failing flush of the preparer", Effort::each(500), || {
        let (life, wal) = Life::begin(&Setting::new().segment_bytes(8 << 10));
        let random = shuttle::rand::thread_rng().next_u64();
        let errno = if random.is_multiple_of(2) { EIO } else { ENOSPC };
        life.disk().fail_a_flush(random / 2 % 6, errno);
        let writer = move |life: &Life, wal: &Log| {
            for _ in 0..6 {
                let outcome = append(life, wal, 1500).and_then(|appended| life.wait(appended));
                match outcome {
                    Err(error) if error.kind() == ErrorKind::Latched && errno == EIO => return,
                    Err(error) => assert!(error.kind() == ErrorKind::NoSpace && errno == ENOSPC),
                    Ok(()) => {}
                }
            }
        };
        join([spawn(&life, &wal, writer), spawn(&life, &wal, writer)]);
        drop(wal);
        life.check();
    });
}

/// A follower reads beside the writers: what it sees is durable, in order, and nothing is left out.
#[test]
fn a_follower() {
    explore("a follower", Effort::each(400), || {
        let (life, wal) = Life::begin(&Setting::new());
        let first = append(&life, &wal, 40).unwrap();
        let mut follow = wal.follow(first.ticket.lsn()).unwrap();
        let follower = {
            let life = life.clone();
            thread::spawn(move || {
                let mut count = 0;
                while let Some(record) = follow.next().unwrap() {
                    count += 1;
                    life.see(OwnedRecord::from(record));
                }
                assert_eq!(count, 5, "a follower of a closed log has seen it all");
            })
        };
        let writer = |life: &Life, wal: &Log| {
            for _ in 0..2 {
                life.wait(append(life, wal, 40).unwrap()).unwrap();
            }
        };
        join([spawn(&life, &wal, writer), spawn(&life, &wal, writer)]);
        wal.close().unwrap();
        join([follower]);
        life.say(Said::Durable(wal.durable_lsn()));
        life.say(Said::Closed);
        life.check();
    });
}

/// Believes the durable mark whenever it has moved, for about as long as the others write.
fn believe(life: &Life, wal: &Log) {
    let mut seen = Lsn::ZERO;
    for _ in 0..200 {
        let mark = wal.durable_lsn();
        if mark > seen {
            life.believe(mark);
            seen = mark;
        }
        thread::yield_now();
    }
}

/// Memory for two frames, and records that fill half of one: appends queue for room, blocked and awaited,
/// and two full frames are in flight at once.
#[test]
fn a_queue_for_room() {
    explore("a queue for room", Effort::each(500), || {
        let setting = Setting::new().segment_bytes(128 << 10).pool_bytes(32 << 10);
        let (life, wal) = Life::begin(&setting);
        let writer = |life: &Life, wal: &Log| {
            let appended = [0; 3].map(|_| append(life, wal, 7000).unwrap());
            for appended in appended {
                life.wait(appended).unwrap();
            }
        };
        let task = |life: &Life, wal: &Log| {
            for _ in 0..2 {
                let append = |records: &[Vec<u8>]| future::block_on(wal.append_async(&records[0]));
                let appended = life.append(vec![life.payload(7000)], append).unwrap();
                let Appended { batch, ticket } = appended;
                future::block_on(ticket).unwrap();
                life.say(Said::Acknowledged { batch });
            }
        };
        let threads = [writer, writer, task, believe].map(|thread| spawn(&life, &wal, thread));
        join(threads);
        life.close(&wal);
        life.check();
    });
}

/// Polls an append once, and answers it if it has no room.
fn poll_once(life: &Life, wal: &Log) -> Option<impl Future> {
    let payload = life.payload(7000);
    let (log, copy) = (Arc::clone(wal), payload.clone());
    let mut future = Box::pin(async move { log.append_async(&copy).await });
    let mut is_pending = false;
    let poll = |_: &[Vec<u8>]| {
        let mut context = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut context) {
            Poll::Ready(appended) => appended,
            Poll::Pending => {
                is_pending = true;
                Err(Error::new(ErrorKind::WouldBlock, "nothing is appended while nobody polls"))
            }
        }
    };
    let appended = life.append(vec![payload], poll);
    assert!(is_pending == appended.is_err(), "a record that fits is refused only without room");
    is_pending.then_some(future)
}

/// The same memory, and futures that wait for it, are woken or not, and are never polled again: some are kept, some
/// dropped late, and some forgotten. Threads that append, release and flush go on beside them and behind them.
#[test]
fn futures_that_are_never_polled_again() {
    explore("futures that are never polled again", Effort::each(500), || {
        let times = [Duration::from_micros(200), Duration::from_millis(1)];
        let setting =
            Setting::new().segment_bytes(128 << 10).pool_bytes(32 << 10).times(times[0], times[1]);
        let (life, wal) = Life::begin(&setting);
        let writer = |life: &Life, wal: &Log| {
            let appended = [0; 3].map(|_| append(life, wal, 7000).unwrap());
            for appended in appended {
                life.wait(appended).unwrap();
            }
        };
        let small = |life: &Life, wal: &Log| {
            life.wait(append_batch(life, wal, &[40, 90]).unwrap()).unwrap();
            let (start_mark, state) = (Lsn::ZERO, vec![7; 9]);
            life.say(Said::CheckpointBegun { start_mark, state: state.clone() });
            let ticket = wal.checkpoint(start_mark, &state).unwrap();
            life.say(Said::CheckpointPlaced(ticket.lsn()));
            ticket.wait().unwrap();
            life.say(Said::CheckpointAcknowledged);
            life.say(Said::Durable(wal.flush().unwrap()));
        };
        let careless = |life: &Life, wal: &Log| {
            for round in 0..4 {
                match (poll_once(life, wal), round % 2) {
                    (Some(future), 0) => std::mem::forget(future),
                    (Some(future), _) => {
                        thread::yield_now();
                        drop(future);
                    }
                    (None, _) => {}
                }
            }
        };
        let threads = [writer, small, careless].map(|thread| spawn(&life, &wal, thread));
        // Kept until the threads have gone on without them.
        let mut kept = Vec::new();
        for _ in 0..3 {
            kept.extend(poll_once(&life, &wal));
            thread::yield_now();
        }
        join(threads);
        // Nothing stands in the way of one that comes now, either.
        life.wait(append(&life, &wal, 40).unwrap()).unwrap();
        drop(kept);
        life.close(&wal);
        life.check();
    });
}

/// Full frames that nobody waits for, then a flush: they end in any order, and are acknowledged in that of
/// the log.
#[test]
fn full_frames_in_flight() {
    explore("full frames in flight", Effort::each(3000), || {
        let setting = Setting::new().segment_bytes(128 << 10);
        let (life, wal) = Life::begin(&setting);
        let writer = |life: &Life, wal: &Log| {
            let appended = [0; 4].map(|_| append(life, wal, 15_000).unwrap());
            for appended in appended {
                life.wait(appended).unwrap();
            }
        };
        let flusher = spawn(&life, &wal, |life, wal| {
            for _ in 0..2 {
                drop(append(life, wal, 40).unwrap());
                life.say(Said::Durable(wal.flush().unwrap()));
            }
        });
        join([spawn(&life, &wal, writer), spawn(&life, &wal, believe), flusher]);
        life.close(&wal);
        life.check();
    });
}

/// The same where a segment holds one frame or two: no frame is written before the segment before it is
/// durable, and frames of one segment are in flight together.
#[test]
fn full_frames_across_segments() {
    explore("full frames across segments", Effort::each(3000), || {
        let (life, wal) = Life::begin(&Setting::new());
        let writer = |life: &Life, wal: &Log| {
            for _ in 0..2 {
                let appended = [9_000, 5_000].map(|bytes| append(life, wal, bytes).unwrap());
                for appended in appended {
                    life.wait(appended).unwrap();
                }
            }
        };
        let pipelined = spawn(&life, &wal, |life, wal| {
            let appended = [0; 4].map(|_| append(life, wal, 15_000).unwrap());
            appended.into_iter().for_each(|appended| life.wait(appended).unwrap());
        });
        join([spawn(&life, &wal, writer), pipelined]);
        life.close(&wal);
        life.check();
    });
}

/// Time passes: what nobody waits for is written after a while, and an idle log vouches for its last frame,
/// beside writers who wait.
#[test]
fn time_passes() {
    explore("time passes", Effort::each(300), || {
        let times = [Duration::from_micros(200), Duration::from_millis(1)];
        let (life, wal) = Life::begin(&Setting::new().times(times[0], times[1]));
        let writer = |life: &Life, wal: &Log| {
            let forgotten: Ticket<Disk> = append(life, wal, 40).unwrap().ticket;
            life.wait(append(life, wal, 40).unwrap()).unwrap();
            assert!(forgotten.is_durable(), "it stands before one that is");
        };
        join([spawn(&life, &wal, writer), spawn(&life, &wal, writer)]);
        drop(append(&life, &wal, 40).unwrap());
        life.close(&wal);
        life.check();
    });
}
