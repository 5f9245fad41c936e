//! Full disks, caps, and slots that are used again: a log is never wedged.

use aligned::Buffer;
use std::{collections::BTreeSet, fs, sync::mpsc, thread, time::Duration};
use wal::{
    ErrorKind, Lsn, Options, Wal,
    io::{Directory, File as _, Memory, Storage},
};
use wal_tests::{
    Kept, Random, eventually,
    fault::{ENOSPC, Fault, Faulty, On, Verb, copy_into},
    kind_of, open, quiet, replay, replay_when_free,
};

const SEGMENT_BYTES: u64 = 64 << 10;

fn small() -> Options {
    quiet().segment_bytes(SEGMENT_BYTES)
}

/// Room for the identity and `segments` segments.
fn disk_of(segments: u64) -> Memory {
    Memory::with_capacity(4096 + segments * SEGMENT_BYTES)
}

/// Appends records of `length` bytes until there is no space; they are durable then.
fn fill<S: Storage>(wal: &Wal<S>, length: usize, kept: &mut Vec<Kept>) {
    loop {
        let payload = vec![u8::try_from(kept.len() % 251).unwrap(); length];
        match wal.append(&payload) {
            Ok(ticket) => kept.push((ticket.lsn(), payload)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                break;
            }
        }
    }
    wal.flush().unwrap();
}

fn slots(storage: &impl Storage) -> BTreeSet<String> {
    storage.list().unwrap().into_iter().filter(|name| name.starts_with("slot-")).collect()
}

/// What a replay has to give.
fn from(mark: Lsn, kept: &[Kept]) -> Vec<Kept> {
    kept.iter().filter(|(lsn, _)| *lsn >= mark).cloned().collect()
}

/// The disk, or the cap that the user set, is full. Appends say so and harm nothing; the one call that
/// frees room still works, and after it the log goes on.
#[test]
fn a_full_log_goes_on_after_a_checkpoint() {
    let cases = [(disk_of(4), small()), (Memory::new(), small().log_bytes_max(4 * SEGMENT_BYTES))];
    for (storage, options) in cases {
        let wal = open(&options, storage.clone()).unwrap();
        let mut kept = Vec::new();
        fill(&wal, 3000, &mut kept);
        let full = kept.len();
        assert!(full > 40, "{full} records of 3000 bytes in four segments of 64 KiB");
        let before = slots(&storage);
        for _ in 0..20 {
            assert_ne!(kind_of(wal.try_append(&[1; 3000])), None);
            // Last, for it waits until what it asked for, and the other, has been tried.
            assert_eq!(kind_of(wal.append(&[1; 3000])), Some(ErrorKind::NoSpace));
        }
        assert_eq!(slots(&storage), before, "refused appends leave nothing behind");
        assert_eq!(slots(&storage).len(), 4);

        let mark = kept[full - 1].0;
        wal.checkpoint(mark, b"what the user keeps").unwrap().wait().unwrap();
        assert_eq!(wal.start_mark(), mark);
        fill(&wal, 3000, &mut kept);
        assert!(kept.len() > full + 20, "{} more records", kept.len() - full);
        assert_eq!(slots(&storage).len(), 4);
        wal.close().unwrap();
        drop(wal);
        let (records, wal, report) = replay(&options, storage).unwrap();
        assert_eq!(report.start_mark, mark);
        assert!(records == from(mark, &kept));
        wal.close().unwrap();
    }
}

/// Months of a log on a disk that is always full: filled, told what it may forget, closed or killed,
/// reopened, in all orders. It must never be stuck, and never forget more than it was told to.
#[test]
fn full_disks_never_wedge_the_log() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let capped = seed % 2 == 0;
        let options = if capped { small().log_bytes_max(3 * SEGMENT_BYTES) } else { small() };
        let storage = if capped { Memory::new() } else { disk_of(2 + seed % 3) };
        let mut kept: Vec<Kept> = Vec::new();
        let mut mark = Lsn::ZERO;
        let mut wal = open(&options, storage.clone()).unwrap();
        for round in 0..30 {
            let length = usize::try_from(random.below(9000)).unwrap();
            fill(&wal, length, &mut kept);
            let reopen = |wal: Wal<Memory>, is_closed: bool, mark: Lsn, kept: &[Kept]| {
                if is_closed {
                    wal.close().unwrap();
                }
                drop(wal);
                let (records, wal, report) = replay_when_free(&options, &storage).unwrap();
                assert_eq!(report.start_mark, mark, "seed {seed}, round {round}");
                assert!(records == from(mark, kept), "seed {seed}, round {round}");
                wal
            };
            if round % 3 != 0 {
                wal = reopen(wal, random.below(2) == 0, mark, &kept);
                // Full or not any more: both are fine, being stuck is not.
                if let Ok(ticket) = wal.append(&[0; 20_000]) {
                    kept.push((ticket.lsn(), vec![0; 20_000]));
                }
            }
            mark = kept.last().unwrap().0;
            let state = vec![7; usize::try_from(random.below(1025)).unwrap()];
            let freed = wal.checkpoint(mark, &state).and_then(|ticket| ticket.wait());
            freed.unwrap_or_else(|error| panic!("seed {seed}, round {round}: wedged: {error}"));
            if round % 5 == 0 {
                wal = reopen(wal, random.below(2) == 0, mark, &kept);
            }
            // Not at once: see `a_replay_that_has_ended_pins_nothing`.
            let mut ticket = None;
            eventually("room after the checkpoint", || {
                ticket = wal.append(&[9; 100]).ok();
                ticket.is_some()
            });
            let ticket = ticket.unwrap();
            kept.push((ticket.lsn(), vec![9; 100]));
        }
    }
}

/// The threads that read ahead for a replay end a moment after it. As long as one of them holds on to a
/// slot, a checkpoint frees it in vain: on a full disk the next append is refused though there is room.
#[test]
fn a_replay_that_has_ended_pins_nothing() {
    let options = small();
    let storage = disk_of(4);
    let wal = open(&options, storage.clone()).unwrap();
    fill(&wal, 3000, &mut Vec::new());
    wal.close().unwrap();
    drop(wal);
    for round in 0..300 {
        let image = Memory::with_capacity(4096 + 4 * SEGMENT_BYTES);
        copy_into(&storage, &image).unwrap();
        let (records, wal, _) = replay(&options, image).unwrap();
        let (mark, _) = records.last().unwrap();
        wal.checkpoint(*mark, b"").unwrap().wait().unwrap();
        let ticket = wal.append(&[1; 3000]);
        let ticket = ticket.unwrap_or_else(|error| panic!("round {round}: {error}"));
        ticket.wait().unwrap();
    }
}

/// A log on a full disk is restarted again and again before anybody has a chance to free room. Each
/// restart wants to write a frame; the last block must stay free for the checkpoint, be its state as
/// long as it can be.
#[test]
fn restarts_leave_room_for_the_checkpoint() {
    let mut wedged: Vec<u32> = Vec::new();
    for block_bytes in [4096, 2048, 1024, 512] {
        let options = small().block_bytes(block_bytes);
        let storage = disk_of(3);
        let wal = open(&options, storage.clone()).unwrap();
        let mut kept = Vec::new();
        fill(&wal, 1000, &mut kept);
        drop(wal);
        for _ in 0..12 {
            let (records, wal, _) = replay_when_free(&options, &storage).unwrap();
            assert!(records == kept);
            assert_eq!(kind_of(wal.append(&[1; 1000])), Some(ErrorKind::NoSpace));
            wal.close().unwrap();
        }
        let wal = open(&options, storage).unwrap();
        let mark = kept.last().unwrap().0;
        match wal.checkpoint(mark, &[5; 1024]).and_then(|ticket| ticket.wait()) {
            Ok(_) => drop(wal.append(&[1; 1000]).unwrap()),
            Err(_) => wedged.push(block_bytes),
        }
    }
    assert!(wedged.is_empty(), "{wedged:?}: blocks with which the log is stuck");
}

/// A confused program asks for checkpoints that cannot be. On a full disk there are four blocks left for
/// the one that frees room: a refusal must not eat any of them.
#[test]
fn a_refused_checkpoint_consumes_nothing() {
    let wal = open(&small(), disk_of(3)).unwrap();
    let mut kept = Vec::new();
    let first = wal.append(b"first").unwrap().wait().unwrap();
    let second = wal.append(b"second").unwrap().wait().unwrap();
    wal.checkpoint(second, b"").unwrap().wait().unwrap();
    fill(&wal, 3000, &mut kept);
    let appended = wal.appended_lsn();
    for _ in 0..50 {
        let past = appended.checked_add(1).unwrap();
        assert_eq!(kind_of(wal.checkpoint(first, b"")), Some(ErrorKind::InvalidInput), "falls");
        assert_eq!(
            kind_of(wal.checkpoint(past, b"")),
            Some(ErrorKind::InvalidInput),
            "past the tail"
        );
        assert_eq!(kind_of(wal.checkpoint(second, &[0; 1025])), Some(ErrorKind::TooLarge));
    }
    assert_eq!(wal.appended_lsn(), appended);
    assert_eq!(wal.start_mark(), second);
    wal.checkpoint(appended, b"").unwrap().wait().unwrap();
    wal.append(&[1; 3000]).unwrap().wait().unwrap();
}

/// A program checkpoints on a timer and has nothing new to forget: on a full disk, each of these eats a
/// block of what is kept for the checkpoint that does free room. When it comes, it must find a block.
#[test]
fn checkpoints_that_free_nothing_leave_room_for_one_that_does() {
    let wal = open(&small(), disk_of(3)).unwrap();
    let mut kept = Vec::new();
    fill(&wal, 3000, &mut kept);
    for _ in 0..20 {
        match wal.checkpoint(Lsn::ZERO, b"nothing new").and_then(|ticket| ticket.wait()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
    }
    let mark = kept.last().unwrap().0;
    let freed = wal.checkpoint(mark, b"").and_then(|ticket| ticket.wait());
    freed.unwrap_or_else(|error| panic!("wedged: {error}"));
    wal.append(&[1; 3000]).unwrap().wait().unwrap();
}

/// What was forgotten stays forgotten: the start mark and the state kept with it survive any number of
/// segments and reopens, and a lower mark is refused after them too.
#[test]
fn the_start_mark_never_falls() {
    let options = small();
    let storage = Memory::new();
    let mut kept: Vec<Kept> = Vec::new();
    let mut mark = Lsn::ZERO;
    let mut state = Vec::new();
    for round in 0..20_u8 {
        let (records, wal, report) = replay_when_free(&options, &storage).unwrap();
        assert_eq!(report.start_mark, mark);
        assert_eq!(wal.start_mark(), mark);
        assert!(records == from(mark, &kept));
        if let Some((below, _)) = kept.iter().rev().find(|(lsn, _)| *lsn < mark) {
            assert_eq!(kind_of(wal.checkpoint(*below, b"")), Some(ErrorKind::InvalidInput));
        }
        for _ in 0..usize::from(round) * 7 {
            let payload = vec![round; 3000];
            kept.push((wal.append(&payload).unwrap().lsn(), payload));
        }
        wal.flush().unwrap();
        if round % 4 == 1 {
            mark = kept[kept.len() / 2].0;
            state = vec![round; 10 * usize::from(round)];
            wal.checkpoint(mark, &state).unwrap().wait().unwrap();
        }
        if round % 2 == 0 {
            wal.close().unwrap();
        }
        drop(wal);
        let opened = options.open_in(storage.clone());
        // A thread of the log just dropped may have it for an instant.
        if let Ok(replay) = opened {
            let found = replay.checkpoint().map(|found| (found.start_mark, found.state.to_vec()));
            assert_eq!(found.unwrap_or_default(), (mark, state.clone()));
        }
    }
}

/// A checkpoint counts once it is durable and not before: killed in between, the log replays from where
/// it did, and a segment that the new mark would have released is still there.
#[test]
fn a_checkpoint_that_was_not_durable_frees_nothing() {
    let options = small().spare_bytes_max(0);
    let disk = Faulty::in_memory();
    let wal = open(&options, disk.clone()).unwrap();
    let mut kept = Vec::new();
    for index in 0..100_u8 {
        let payload = vec![index; 3000];
        kept.push((wal.append(&payload).unwrap().wait().unwrap(), payload));
    }
    let gate = disk.control().gate(On::frame());
    let ticket = wal.checkpoint(kept[90].0, b"").unwrap();
    assert_eq!(wal.start_mark(), Lsn::ZERO);
    // Time enough to give slots back that are not free. Too little would only miss the bug.
    thread::sleep(Duration::from_millis(50));
    let image = disk.crash();
    gate.open();
    ticket.wait().unwrap();
    assert_eq!(wal.start_mark(), kept[90].0);
    let (records, _, report) = replay(&options, image).unwrap();
    assert_eq!(report.start_mark, Lsn::ZERO);
    assert!(records == kept);
    assert!(replay(&options, disk.crash()).unwrap().0 == kept[90..]);
}

/// A log that is kept short uses the same few files for ever: no byte is allocated anew.
#[test]
fn slots_are_used_again() {
    let options = small();
    let storage = Memory::new();
    let wal = open(&options, storage.clone()).unwrap();
    let mut kept: Vec<Kept> = Vec::new();
    for index in 0..2000_usize {
        let payload = vec![u8::try_from(index % 251).unwrap(); 2000];
        let lsn = wal.append(&payload).unwrap().wait().unwrap();
        kept.push((lsn, payload));
        if index % 10 == 0 {
            wal.checkpoint(lsn, b"").unwrap().wait().unwrap();
        }
    }
    let stats = wal.stats();
    assert!(stats.segments_recycled > 50, "{stats:?}");
    assert!(stats.segments_created < 4, "{stats:?}");
    assert!(slots(&storage).len() <= 5, "{:?}", slots(&storage));
    let mark = wal.start_mark();
    drop(wal);
    assert!(replay_when_free(&options, &storage).unwrap().0 == from(mark, &kept));
}

/// A full segment is kept as a hard link, which costs nothing. The log goes on and would use the slot
/// again: it takes another file, and what was kept stays what it was.
#[test]
fn a_slot_that_somebody_links_to_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (log, kept) = (place.path().join("log"), place.path().join("kept"));
    let wal = open(&small(), Directory::new(&log)).unwrap();
    let append = |index: u8| wal.append(&[index; 3000]).unwrap().wait().unwrap();
    for index in 0..60 {
        append(index);
    }
    let first = log.join("slot-000000");
    fs::hard_link(&first, &kept).unwrap();
    let before = fs::read(&kept).unwrap();
    for index in 60..250_u8 {
        let lsn = append(index);
        if index % 10 == 0 {
            wal.checkpoint(lsn, b"").unwrap().wait().unwrap();
        }
    }
    assert!(wal.stats().segments_recycled > 4, "{:?}", wal.stats());
    assert!(fs::read(&kept).unwrap() == before);
    assert!(fs::read(&first).unwrap() != before, "the log went on in another file of that name");
}

/// A reader was away for a day and the log grew; now a checkpoint frees forty segments at once. What is
/// more than is to be kept goes back to the file system.
#[test]
fn surplus_slots_are_given_back() {
    for (options, spare) in [
        (small().spare_bytes_max(0), 0),
        (small().spare_bytes_max(2 * SEGMENT_BYTES), 2),
        (small(), 8),
    ] {
        let storage = Memory::new();
        let wal = open(&options, storage.clone()).unwrap();
        let mut last = Lsn::ZERO;
        for _ in 0..40 * 15 {
            last = wal.append(&[1; 4000]).unwrap().lsn();
        }
        wal.flush().unwrap();
        assert!(slots(&storage).len() >= 40);
        wal.checkpoint(last, b"").unwrap().wait().unwrap();
        // The one that holds the mark, the one that holds the tail, its successor, and the spares.
        eventually("the rest is removed", || slots(&storage).len() <= 3 + spare);
        assert!(wal.stats().slots_removed >= 30);
        for _ in 0..100 {
            wal.append(&[2; 4000]).unwrap().wait().unwrap();
        }
        wal.close().unwrap();
        drop(wal);
        let (records, ..) = replay(&options, storage).unwrap();
        assert_eq!(records.len(), 101, "spare {spare}");
    }
}

/// The disk is full and shared, and the user wants no spare slots. A checkpoint frees some: the first one
/// is what the log needs to go on, and must not be given to the neighbour, who takes all he can get.
#[test]
fn a_freed_slot_is_not_given_back_while_it_is_needed() {
    let storage = disk_of(4);
    let wal = open(&small().spare_bytes_max(0), storage.clone()).unwrap();
    let mut kept = Vec::new();
    fill(&wal, 3000, &mut kept);
    assert_eq!(slots(&storage).len(), 4);
    let neighbour = storage.create_file("neighbour").unwrap();
    wal.checkpoint(kept.last().unwrap().0, b"").unwrap().wait().unwrap();
    eventually("what is not needed is given back", || slots(&storage).len() <= 3);
    let mut taken = 0;
    let mut page = Buffer::zeroed(storage.alignment(), 4096).unwrap();
    let mut patience = 200;
    while patience > 0 {
        match neighbour.write_at(page.as_mut_slice(), taken) {
            Ok(()) => taken += 4096,
            Err(_) => {
                patience -= 1;
                thread::sleep(Duration::from_micros(100));
            }
        }
    }
    let ticket = wal.append(&[1; 20_000]).unwrap_or_else(|error| panic!("wedged: {error}"));
    ticket.wait().unwrap();
}

/// A callback takes its time on the thread that wrote its record. Meanwhile the segment of that record is
/// released, and the log needs its slot: the callback must not hold on to it.
#[test]
fn a_slow_callback_pins_nothing() {
    let wal = open(&small(), disk_of(2)).unwrap();
    let (begin, begun) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    wal.append(b"called back").unwrap().on_durable(move |outcome| {
        outcome.unwrap();
        begin.send(()).unwrap();
        // Ends when the other end is dropped.
        let _ = ended.recv();
    });
    begun.recv().unwrap();
    let mut kept = Vec::new();
    fill(&wal, 3000, &mut kept);
    wal.checkpoint(kept.last().unwrap().0, b"").unwrap().wait().unwrap();
    let ticket = wal.append(&[1; 20_000]).map(|ticket| ticket.wait());
    drop(end);
    ticket.unwrap_or_else(|error| panic!("refused: {error}")).unwrap();
}

/// The cap is a promise about the disk: at no time do the slots take more, whatever is refused, freed
/// and reopened.
#[test]
fn the_cap_is_never_exceeded() {
    let options = small().log_bytes_max(5 * SEGMENT_BYTES);
    let storage = Memory::new();
    let mut wal = open(&options, storage.clone()).unwrap();
    for _ in 0..10 {
        let mut kept = Vec::new();
        fill(&wal, 2500, &mut kept);
        assert!(slots(&storage).len() <= 5, "{:?}", slots(&storage));
        wal.checkpoint(kept[kept.len() / 2].0, b"").unwrap().wait().unwrap();
        drop(wal);
        wal = replay_when_free(&options, &storage).unwrap().1;
        assert!(slots(&storage).len() <= 5, "{:?}", slots(&storage));
    }
}

/// `segment_bytes` is documented to matter at creation only. A program that opens an existing log and
/// names only a cap must have the cap held against the log's own segments, not against the default.
#[test]
fn the_cap_is_measured_in_the_segments_of_the_log() {
    let storage = Memory::new();
    open(&small(), storage.clone()).unwrap().close().unwrap();
    let options = Options::new().log_bytes_max(4 * SEGMENT_BYTES);
    let wal = open(&options, storage.clone()).unwrap();
    let mut kept = Vec::new();
    fill(&wal, 3000, &mut kept);
    assert!(slots(&storage).len() <= 4);
}

/// A slot was being filled when the process died; the next one goes on with it and finds the disk full.
/// The slot must not be forgotten: when there is room it is the one to use.
#[test]
fn a_slot_that_could_not_be_filled_is_not_forgotten() {
    let options = small();
    let disk = Faulty::in_memory();
    let wal = open(&options, disk.clone()).unwrap();
    eventually("the first successor is prepared", || wal.stats().segments_recycled == 1);
    let gate = disk.control().gate(On::every(Verb::WriteZeroes));
    let tickets: Vec<_> = (0..17).map(|_| wal.append(&[1; 4000]).unwrap()).collect();
    wal.flush().unwrap();
    gate.wait_for(1);
    let disk = Faulty::new(disk.crash());
    gate.open();
    drop((tickets, wal));
    assert_eq!(slots(&disk).len(), 3, "one of them not filled");

    disk.control().fail(Fault::sticky(On::every(Verb::WriteZeroes), ENOSPC));
    let wal = open(&options, disk.clone()).unwrap();
    fill(&wal, 3000, &mut Vec::new());
    for _ in 0..5 {
        assert_eq!(kind_of(wal.append(&[1; 3000])), Some(ErrorKind::NoSpace));
    }
    disk.control().heal();
    wal.append(&[1; 3000]).unwrap().wait().unwrap();
    assert_eq!(slots(&disk).len(), 3, "{:?}", slots(&disk));
}
