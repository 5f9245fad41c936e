//! The engine's own threads: how many write, who is woken, and what an idle log does. Nothing.

use crate::craft::{home_of, load, save};
use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};
use wal::{ErrorKind, Lsn, Ticket, Wal, io::Memory};
use wal_tests::{
    eventually, eventually_prepared,
    fault::{Control, EIO, Event, Fault, Faulty, On, PATIENCE, Verb},
    fork::in_child,
    kind_of, open, quiet, replay,
    tasks::{CountingWaker, poll_once},
    without_hanging,
};

type Disk = Faulty<Memory>;

/// Two of these do not fit one frame of [`quiet`].
const BIG: [u8; 9000] = [7; 9000];
/// What a frame with one of them takes on disk.
const BIG_FRAME_BYTES: u64 = 3 * 4096;
const LINGER: Duration = Duration::from_millis(1);
const MIB: usize = 1 << 20;

/// Waits until none of the log's threads does anything any more.
fn wait_for_silence(control: &Control) {
    eventually("silence", || {
        let calls = control.calls();
        thread::sleep(20 * LINGER);
        calls == control.calls()
    });
}

/// The device takes four writes at once, and full frames come faster than it writes: four threads write
/// them. With fewer a fast device idles, and one more is a thread too many for the log's life. A fifth
/// thread, which waits for the last frame, may not write it before one of the four has ended.
#[test]
fn as_many_threads_write_as_the_device_takes() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&quiet().pool_bytes(256 << 10).depth(4), disk.clone()).unwrap();
    let threads = control.count(Verb::Spawn);
    // The first of the four has written something already, and sleeps.
    wal.append(b"called back").unwrap().on_durable(|outcome| assert!(outcome.is_ok()));
    wait_for_silence(&control);
    let gate = control.gate(On::frame());
    let mut tickets: Vec<Ticket<Disk>> = vec![wal.append(&BIG).unwrap()];
    for blocked in 1..=4 {
        tickets.push(wal.append(&BIG).unwrap());
        gate.wait_for(blocked);
    }
    tickets.extend((0..5).map(|_| wal.append(&BIG).unwrap()));
    let sleeps = control.sleeps();
    thread::scope(|scope| {
        let gate = gate;
        scope.spawn(|| tickets[8].wait_timeout(PATIENCE).unwrap());
        eventually("the fifth sleeps", || control.sleeps() > sleeps);
        assert_eq!(gate.blocked(), 4);
        gate.open();
    });
    wal.flush().unwrap();
    assert_eq!(control.count(Verb::Spawn), threads + 4);
}

/// Full frames come in a burst when all committers sleep: the first one that wakes is for the first frame,
/// and whoever filled the others saw it asleep still. They are written beside each other all the same.
#[test]
fn a_burst_after_an_idle_moment_is_written_at_depth() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&quiet().pool_bytes(256 << 10).depth(3), disk.clone()).unwrap();
    wal.append(b"called back").unwrap().on_durable(|outcome| assert!(outcome.is_ok()));
    for _ in 0..10 {
        wait_for_silence(&control);
        let gate = control.gate(On::frame());
        let tickets: Vec<Ticket<Disk>> = (0..4).map(|_| wal.append(&BIG).unwrap()).collect();
        gate.wait_for(3);
        gate.open();
        wal.flush().unwrap();
        assert!(tickets.iter().all(Ticket::is_durable));
    }
}

/// The counters are what an operator has: a frame is counted once, with all that it takes on the device.
#[test]
fn what_is_written_is_counted() {
    let wal = open(&quiet(), Memory::new()).unwrap();
    let before = wal.stats();
    for count in 1..4 {
        wal.append(&BIG).unwrap().wait().unwrap();
        let now = wal.stats();
        assert_eq!(now.frames - before.frames, count);
        assert_eq!(now.frame_bytes - before.frame_bytes, count * BIG_FRAME_BYTES);
        assert_eq!(now.records - before.records, count);
        assert_eq!(now.durable_records - before.durable_records, count);
        assert_eq!(now.payload_bytes - before.payload_bytes, count * 9000);
    }
}

/// Replication follows the log and sleeps. A record becomes durable, the log stays open, and nothing else
/// ever happens: the follower must have been woken by that one commit.
#[test]
fn a_follower_that_sleeps_is_woken_by_a_commit() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let mut follow = wal.follow(Lsn::ZERO).unwrap();
    let sleeps = control.sleeps();
    let follower = thread::spawn(move || {
        let record = follow.next().unwrap().unwrap();
        (record.lsn(), record.payload().to_vec())
    });
    eventually("the follower sleeps", || control.sleeps() > sleeps);
    // Or is about to: then it has seen what there is, and a wake-up would be missed if it could be.
    let lsn = wal.append(b"news").unwrap().wait().unwrap();
    let found = without_hanging("nobody told the follower", || follower.join().unwrap());
    assert_eq!(found, (lsn, b"news".to_vec()));
}

/// After a burst the log is idle, and its threads sleep until it is time to confirm, in an hour. A record
/// that nobody waits for must not have to wait for that; and until then the idle log does nothing at all.
#[test]
fn a_record_lingers_no_longer_on_an_idle_log() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&quiet().linger(LINGER), disk.clone()).unwrap();
    for _ in 0..3 {
        wal.append(b"waited for").unwrap().wait().unwrap();
        wait_for_silence(&control);
        let frames = wal.stats().frames;
        let ticket = wal.append(b"nobody waits for it").unwrap();
        eventually("it is written", || ticket.is_durable());
        wait_for_silence(&control);
        assert_eq!(wal.stats().frames, frames + 1, "nothing is confirmed before its time");
    }
}

/// A write hangs in the device for longer than a log has to be idle before it confirms its last frame. A
/// confirmation now would vouch for nothing, and the frame that it is for would never get another.
#[test]
fn nothing_is_confirmed_while_a_write_is_under_way() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let wal = open(&quiet().linger(LINGER).confirm_after(LINGER), disk.clone()).unwrap();
    let frames = wal.stats().frames;
    wal.append(b"confirmed").unwrap().wait().unwrap();
    eventually("it is confirmed", || wal.stats().frames == frames + 2);
    wait_for_silence(&control);
    let gate = control.gate(On::frame());
    thread::scope(|scope| {
        let gate = gate;
        scope.spawn(|| wal.append(b"hangs").unwrap().wait().unwrap());
        gate.wait_for(1);
        // The committer looks once in a linger. Too few looks would only miss the bug.
        thread::sleep(20 * LINGER);
        assert_eq!(gate.blocked(), 1);
        gate.open();
    });
    eventually("it is confirmed", || wal.stats().frames == frames + 4);
}

/// A log goes idle, and while its last frame is being confirmed, by a device that takes one write at a time,
/// it is closed: the closing frame has to wait. Whoever closes waits for that very frame; at the place of
/// the next one, which never comes, nobody would tell it that the closing frame was written.
#[test]
fn a_close_beside_a_confirmation_hears_of_its_own_frame() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    let options = quiet().depth(1).linger(LINGER).confirm_after(LINGER);
    let wal = Arc::new(open(&options, disk.clone()).unwrap());
    let record = control.gate(On::frame());
    let ticket = wal.append(b"confirmed").unwrap();
    let confirmation = thread::scope(|scope| {
        let record = record;
        scope.spawn(|| ticket.wait().unwrap());
        record.wait_for(1);
        // Not for the record's own frame, which stands at its gate already.
        let confirmation = control.gate(On::frame());
        record.open();
        confirmation
    });
    confirmation.wait_for(1);
    let sleeps = control.sleeps();
    let closing = thread::spawn(move || wal.close());
    eventually("the close sleeps", || control.sleeps() > sleeps);
    assert_eq!(confirmation.blocked(), 1);
    confirmation.open();
    without_hanging("nobody told the close", move || closing.join().unwrap()).unwrap();
    assert!(options.open_in(disk.crash()).unwrap().report().clean_close);
}

/// A thread lets its cohort join before it seals; meanwhile the frame fills up, a committer writes it, and
/// the write fails. When the first thread goes on, another full frame waits to be written: it must not be,
/// for nothing is written after a failure.
#[test]
fn a_failure_while_a_cohort_joins_stops_its_committer() {
    let disk = Faulty::in_memory();
    let wal = Arc::new(open(&quiet().depth(1), disk.clone()).unwrap());
    let control = disk.control();
    wait_for_company(&control, &wal);
    disk.freeze_clock();
    let company = wal.append(b"waits for company").unwrap();
    let joiner = thread::spawn(move || company.wait().map(drop));
    control.wait_for_looks(1000);
    control.forget_events();
    control.fail(Fault::once(On::frame(), EIO));
    // The first fills the frame, the others seal one each.
    let others: Vec<_> = (0..3).map(|_| wal.append(&BIG)).collect();
    eventually("the failure is known", || kind_of(wal.flush()) == Some(ErrorKind::Latched));
    control.thaw();
    let answer = without_hanging("the committer", move || joiner.join().unwrap());
    assert_eq!(kind_of(answer), Some(ErrorKind::Latched));
    drop(others);
    let is_write = |event: &Event| matches!(event, Event::Start(call) if call.verb == Verb::WriteDurable && call.offset > 0);
    assert_eq!(control.events().iter().filter(|event| is_write(event)).count(), 1);
    let stats = wal.stats();
    assert_eq!((stats.cohort_waits, stats.cohort_expiries), (1, 1));
}

/// A commit that two others return from, so that the next one waits for company.
fn wait_for_company(control: &Control, wal: &Wal<Disk>) {
    // A frame that is held by the preparer's flush has its own writer sleep, too.
    eventually_prepared(wal);
    thread::scope(|scope| {
        let gate = control.gate(On::frame());
        let first = wal.append(b"first").unwrap();
        let others = [wal.append(b"second").unwrap(), wal.append(b"third").unwrap()];
        scope.spawn(|| first.wait().unwrap());
        gate.wait_for(1);
        for other in others {
            other.on_durable(|outcome| assert!(outcome.is_ok()));
        }
        gate.open();
    });
    assert_eq!(wal.stats().acknowledged_waiters, 2);
}

/// The disk is full and so is the segment. "Would block" promises room as soon as a write completes: a
/// program that may not block would ask for it until the end of its days.
#[test]
fn try_append_tells_of_a_full_disk() {
    let segment_bytes = 64 << 10;
    let disk = Memory::with_capacity(4096 + 2 * segment_bytes);
    let wal = open(&quiet().segment_bytes(segment_bytes), disk).unwrap();
    eventually("the disk is full", || match wal.try_append(&BIG) {
        Ok(ticket) => ticket.wait().is_err(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => error.kind() == ErrorKind::NoSpace,
    });
}

/// A program forks while two of its tasks wait for room, and the child drops the first. In the child
/// nothing may come of it: not a wake-up, and not a look at a mutex that may be locked for ever.
#[test]
fn a_cancelled_append_does_nothing_in_a_forked_child() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet().pool_bytes(32 << 10), disk.clone()).unwrap();
    eventually_prepared(&wal);
    let gate = disk.control().gate(On::frame());
    while wal.try_append(&BIG).is_ok() {}
    let bells: [Arc<CountingWaker>; 2] = Default::default();
    let tasks = bells.each_ref().map(|bell| {
        let mut task = wal.append_async(&BIG);
        assert!(poll_once(&mut task, bell).is_pending());
        task
    });
    let (rung, tasks) = in_child(tasks, |[first, second]| {
        drop(first);
        let rung = bells[1].count();
        drop(second);
        u8::from(rung > 0)
    });
    assert_eq!(rung, 0);
    drop(tasks);
    gate.open();
    wal.flush().unwrap();
}

/// The head of a long slot is gone: its header, and the first mebibyte. Frames that are needed stand behind
/// it, further than one look reaches. Taken for free, the slot would lose its segment without a word.
#[test]
fn a_frame_far_behind_in_a_slot_without_a_header_is_found() {
    let options = quiet().segment_bytes(4 << 20);
    let disk = Memory::new();
    let wal = open(&options, disk.clone()).unwrap();
    while wal.durable_lsn().get() < (6 << 20) {
        wal.append(&vec![3; 900_000]).unwrap().wait().unwrap();
    }
    drop(wal);
    let mut image = save(&disk);
    image.retain(|name, _| name == "identity" || name.starts_with("slot-"));
    assert!(replay(&options, load(&image)).is_ok());
    let home = home_of(&image, 1);
    image.get_mut(&home).unwrap()[..MIB].fill(0);
    let Err(error) = replay(&options, load(&image)) else { panic!("a segment was lost") };
    assert_eq!((error.kind(), error.segment()), (ErrorKind::Corrupt, Some(1)), "{error}");
}

/// A frame is opened, its time begins. A record that nobody waits for is not written before that time is
/// over, however long the machine has been up: else every small record would take a block of its own.
#[test]
fn a_record_lingers_as_long_as_it_may() {
    let disk = Faulty::in_memory();
    let control = disk.control();
    control.freeze(Duration::from_secs(1_000_000));
    let wal = open(&quiet(), disk.clone()).unwrap();
    let ticket = wal.append(b"has an hour").unwrap();
    wait_for_silence(&control);
    assert!(!ticket.is_durable());
    control.freeze(Duration::from_secs(1_000_000 + 3600));
    // Somebody comes by, and the hour is over.
    let second = wal.append(&BIG).unwrap();
    let third = wal.append(&BIG).unwrap();
    eventually("the full frame is written", || ticket.is_durable() && second.is_durable());
    drop(third);
}

/// The probe of the device writes garbage above the tail: so much of it as was decided, and none where it
/// would reach past the segment's end.
#[test]
fn the_probe_stays_inside_its_segment() {
    const PROBE_BYTES: u64 = 32 * 4096;
    let segment_bytes = 64 * 4096;
    let options = quiet().segment_bytes(segment_bytes);
    let mut disk = Faulty::in_memory();
    let mut probes = [0_u32; 2];
    for _ in 0..16 {
        let control = disk.control();
        let wal = open(&options, disk.clone()).unwrap();
        let offset = match wal.durable_lsn().get() % segment_bytes {
            // The segment is full, and the next one not prepared yet.
            0 => segment_bytes,
            offset => offset,
        };
        let fits = offset + PROBE_BYTES <= segment_bytes;
        let calls: Vec<_> = control
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Start(call) if call.verb == Verb::Probe => Some((call.offset, call.bytes)),
                _ => None,
            })
            .collect();
        assert_eq!(calls, if fits { vec![(offset, PROBE_BYTES)] } else { vec![] }, "at {offset}");
        probes[usize::from(fits)] += 1;
        wal.append(&[1; 15_000]).unwrap().wait().unwrap();
        drop(wal);
        disk = Faulty::new(disk.crash());
    }
    assert!(probes.iter().all(|count| *count > 2), "{probes:?}");
}

/// The last write fails in the close. Whoever still holds a ticket is told that the log failed, and not
/// that it was closed as it should be.
#[test]
fn a_close_that_fails_is_a_failure_for_ever() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let ticket = wal.append(b"lost").unwrap();
    disk.control().fail(Fault::once(On::frame(), EIO));
    assert_eq!(kind_of(wal.close()), Some(ErrorKind::Latched));
    assert_eq!(kind_of(ticket.wait()), Some(ErrorKind::Latched));
}

/// Making the next slot fails for want of something that comes back: space, descriptors, memory, or a name
/// that an earlier attempt left behind. Nothing depends on the slot yet: an append may be refused, the log
/// must not be latched. And a number whose slot never came to be is used again.
#[test]
fn a_shortage_while_preparing_is_over_when_it_is_over() {
    const EAGAIN: i32 = 11;
    const ENOMEM: i32 = 12;
    const EEXIST: i32 = 17;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOSPC: i32 = 28;
    let segment_bytes: u64 = 64 << 10;
    for errno in [EAGAIN, ENOMEM, EEXIST, ENFILE, EMFILE, ENOSPC] {
        let disk = Faulty::in_memory();
        let wal = open(&quiet().segment_bytes(segment_bytes), disk.clone()).unwrap();
        disk.control().fail(Fault::sticky(On::every(Verb::CreateFile), errno));
        let refused = loop {
            if let Err(error) = wal.append(&BIG) {
                break error;
            }
        };
        assert_ne!(refused.kind(), ErrorKind::Latched, "{errno}: {refused}");
        assert!(wal.stats().segment_waits > 0, "{errno}");
        disk.control().heal();
        eventually("the log goes on", || match wal.append(&BIG) {
            Ok(ticket) => ticket.wait().unwrap().get() > 4 * segment_bytes,
            Err(error) if error.kind() == ErrorKind::Latched => panic!("{errno}: {error}"),
            Err(_) => false,
        });
        wal.close().unwrap();
        let (_, wal, report) = replay(&quiet(), disk.crash()).unwrap();
        drop(wal);
        if errno != EEXIST {
            let names = save(disk.inner());
            let slots =
                u32::try_from(names.keys().filter(|n| n.starts_with("slot-")).count()).unwrap();
            let last = names.keys().next_back().unwrap();
            assert_eq!(*last, format!("slot-{:06}", slots - 1), "{errno}: no number is left out");
        }
        assert!(report.clean_close, "{errno}");
    }
}

/// The disk is full, and the program ends as it should. The last blocks have room for the frame that says
/// so, beside the checkpoint that they are kept for. If there is room again by then, the next segment is
/// prepared first: that an earlier preparation failed is no reason not to try.
#[test]
fn a_log_on_a_full_disk_is_closed_cleanly() {
    const ENOSPC: i32 = 28;
    let segment_bytes = 64 << 10;
    let options = quiet().segment_bytes(segment_bytes);
    for has_room_again in [false, true] {
        let disk = Faulty::in_memory();
        let wal = open(&options, disk.clone()).unwrap();
        disk.control().fail(Fault::sticky(On::every(Verb::CreateFile), ENOSPC));
        while let Ok(ticket) = wal.append(b"a block each") {
            ticket.wait().unwrap();
        }
        if has_room_again {
            disk.control().heal();
        }
        wal.close().unwrap();
        let replay = options.open_in(disk.crash()).unwrap();
        let report = replay.report();
        assert!(report.clean_close);
        assert_eq!(report.slots, 2 + u32::from(has_room_again));
    }
}

/// A thread waits for the next frame while one is being written, and gives up. Then somebody is to be
/// called back from that frame. Were the thread still counted as asleep there, it would be sent the word
/// that the frame is to be written, and nobody else.
#[test]
fn who_gave_up_waiting_is_not_asked_to_write() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let gate = disk.control().gate(On::frame());
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let gate = gate;
        scope.spawn(|| wal.append(b"first").unwrap().wait().unwrap());
        gate.wait_for(1);
        let second = wal.append(b"second").unwrap();
        assert_eq!(kind_of(second.wait_timeout(2 * LINGER)), Some(ErrorKind::TimedOut));
        second.on_durable(move |outcome| sender.send(outcome.map(drop)).unwrap());
        gate.open();
    });
    receiver.recv_timeout(PATIENCE).expect("nobody wrote the frame").unwrap();
}

/// Somebody reads the oldest segment, which a checkpoint has freed: its slot takes room on the disk and
/// cannot be used. The log wants another slot, and the cap that its user set is reached.
#[test]
fn the_cap_counts_a_freed_slot_that_somebody_reads() {
    let segment_bytes = 64 << 10;
    let options = quiet().segment_bytes(segment_bytes).log_bytes_max(4 * segment_bytes);
    let disk = Memory::new();
    let wal = open(&options, disk.clone()).unwrap();
    let slots = || save(&disk).keys().filter(|name| name.starts_with("slot-")).count();
    let first = wal.append(&BIG).unwrap().wait().unwrap();
    let mut reader = wal.read_from(first).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().payload, BIG);
    for round in 0..3 {
        let mark = wal.flush().unwrap();
        wal.checkpoint(mark, b"").unwrap().wait().unwrap();
        let refused = loop {
            if let Err(error) = wal.append(&BIG) {
                break error;
            }
        };
        assert_eq!((refused.kind(), slots()), (ErrorKind::NoSpace, 4), "{round}: {refused}");
    }
    drop(reader);
    eventually("the slot is used again", || wal.append(&BIG).is_ok());
    assert_eq!(slots(), 4);
}
