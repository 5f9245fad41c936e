//! What is asked of the log again after it was refused, or after it was answered.
//!
//! A reader that was asked inside a closure that fills a record, or in a forked child, refused, and then yielded
//! its last frame's records once more, with lsn 0. A future that was polled after it had appended, appended again.

use crate::table::{fill, options};
use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use wal::{
    ErrorKind, Follow, Lsn, Reader, Record, Replay, Result, Ticket, Wal,
    io::{Directory, Memory, Storage},
};
use wal_tests::{
    Kept, eventually,
    fault::{EIO, Fault, Faulty, On},
    fork::in_child,
    kind_of, open, quiet,
    tasks::{CountingWaker, poll_once},
    without_hanging,
};

/// Records of 40 small frames and some large ones.
fn keep<S: Storage>(wal: &Wal<S>) -> Vec<Kept> {
    let mut kept = Vec::new();
    for frame in 0..8_u8 {
        for record in 0..5_u8 {
            let payload = vec![frame * 5 + record; 10 + 700 * usize::from(record)];
            kept.push((wal.append(&payload).unwrap().lsn(), payload));
        }
        wal.flush().unwrap();
    }
    kept
}

fn owned(record: Record<'_>) -> Kept {
    (record.lsn(), record.payload().to_vec())
}

/// What yields records, one at a time.
enum Source<S: Storage> {
    Reader(Reader<S>),
    Iterator(Reader<S>),
    Follow(Follow<S>),
    FollowTimeout(Follow<S>),
    Replay(Box<Replay<S>>),
}

/// Not so long that a follower that has seen everything holds a test up.
const SOON: Duration = Duration::from_millis(1);

impl<S: Storage> Source<S> {
    /// All ways to read `wal`.
    fn of(wal: &Wal<S>) -> [Self; 4] {
        let from = wal.start_mark();
        [
            Self::Reader(wal.read_from(from).unwrap()),
            Self::Iterator(wal.read_from(from).unwrap()),
            Self::Follow(wal.follow(from).unwrap()),
            Self::FollowTimeout(wal.follow(from).unwrap()),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Reader(_) => "Reader::next_record",
            Self::Iterator(_) => "Reader: Iterator",
            Self::Follow(_) => "Follow::next",
            Self::FollowTimeout(_) => "Follow::next_timeout",
            Self::Replay(_) => "Replay::next",
        }
    }

    fn next(&mut self) -> Result<Option<Kept>> {
        match self {
            Self::Reader(reader) => Ok(reader.next_record()?.map(owned)),
            Self::Iterator(reader) => {
                Ok(reader.next().transpose()?.map(|record| (record.lsn, record.payload)))
            }
            Self::Follow(follow) => Ok(follow.next()?.map(owned)),
            Self::FollowTimeout(follow) => match follow.next_timeout(SOON) {
                Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
                answer => Ok(answer?.map(owned)),
            },
            Self::Replay(replay) => Ok(replay.next()?.map(owned)),
        }
    }

    /// The next `count` records.
    fn take(&mut self, count: usize) -> Vec<Kept> {
        (0..count).map(|_| self.next().unwrap().expect("there are more")).collect()
    }
}

/// A reader is asked again and again where it is refused: it may yield what it has in memory, and is refused from
/// then on. Answers what it yielded and the kinds of three refusals.
fn ask<S: Storage>(source: &mut Source<S>) -> (Vec<Kept>, [Option<ErrorKind>; 3]) {
    let mut yielded = Vec::new();
    let first = loop {
        match source.next() {
            Ok(Some(record)) if yielded.len() < 1000 => yielded.push(record),
            answer => break kind_of(answer),
        }
    };
    (yielded, [first, kind_of(source.next()), kind_of(source.next())])
}

/// A reader is asked inside a closure that fills a record, which is refused. Asked again outside, it goes on where
/// it was, and yields nothing twice.
#[test]
fn a_refused_call_does_not_move_a_reader() {
    let wal = open(&quiet(), Memory::new()).unwrap();
    for number in 0..3_u8 {
        drop(wal.append(&[number]).unwrap());
    }
    wal.flush().unwrap();
    let mut reader = wal.read_from(wal.start_mark()).unwrap();
    while reader.next_record().unwrap().is_some() {}
    let ticket = wal.append_with(1, |_| assert!(reader.next_record().is_err())).unwrap();
    let lsn = ticket.wait().unwrap();
    let record = reader.next_record().unwrap().expect("the record that was filled");
    assert_eq!(record.lsn(), lsn);
    assert!(reader.next_record().unwrap().is_none());
}

/// The same for all who read, wherever they are: in the midst of a frame, between two, and at the end.
#[test]
fn all_who_read_go_on_where_they_were_refused() {
    for read in [0, 1, 4, 5, 6, 17, 39, 40] {
        for index in 0..4 {
            without_hanging("a reader that was refused", move || {
                let wal = open(&options(), Memory::new()).unwrap();
                let mut kept = keep(&wal);
                let mut source = Source::of(&wal).into_iter().nth(index).unwrap();
                let name = source.name();
                let mut found = source.take(read);
                let mut asked = None;
                let fill = |room: &mut [u8]| {
                    room.fill(99);
                    asked = Some(ask(&mut source));
                };
                let ticket = wal.append_with(3, fill).unwrap();
                kept.push((ticket.wait().unwrap(), vec![99; 3]));
                let (yielded, refusals) = asked.unwrap();
                assert_eq!(refusals, [Some(ErrorKind::InvalidInput); 3], "{name} after {read}");
                found.extend(yielded);
                found.extend(source.take(kept.len() - found.len()));
                assert!(found == kept, "{name} after {read}");
                wal.close().unwrap();
                assert_eq!(source.next().unwrap(), None, "{name} after {read}");
            });
        }
    }
}

/// A log is replayed inside a closure that fills a record of another one. Whether it is refused there or not, it
/// yields each record once.
#[test]
fn a_replay_inside_a_closure_goes_on_where_it_was() {
    for read in [0, 1, 5, 17, 40] {
        let (storage, other) = (Memory::new(), open(&quiet(), Memory::new()).unwrap());
        let wal = open(&options(), storage.clone()).unwrap();
        let kept = keep(&wal);
        wal.close().unwrap();
        let mut source = Source::Replay(Box::new(options().open_in(storage).unwrap()));
        let mut found = source.take(read);
        let fill = |_: &mut [u8]| {
            let (yielded, refusals) = ask(&mut source);
            let is_right =
                |kind: &Option<ErrorKind>| kind.is_none() || *kind == Some(ErrorKind::InvalidInput);
            assert!(refusals.iter().all(is_right), "{refusals:?}");
            found.extend(yielded);
        };
        other.append_with(3, fill).unwrap().wait().unwrap();
        while let Some(record) = source.next().unwrap() {
            found.push(record);
        }
        assert!(found == kept, "after {read}");
    }
}

/// A child goes on reading where its parent was: it may see what is in memory, never anything twice and never at
/// lsn 0, and is refused from then on. The parent does not notice.
fn goes_on_in_the_parent(kept: &[Kept], mut source: Source<Directory>, read: usize) {
    let name = source.name();
    assert!(source.take(read) == kept[..read]);
    let (answer, mut source) = in_child(source, |mut source| {
        let (yielded, refusals) = ask(&mut source);
        let is_next = kept[read..].starts_with(&yielded);
        let is_refused = refusals == [Some(ErrorKind::Forked); 3];
        u8::from(is_next) + 2 * u8::from(is_refused)
    });
    assert_eq!(answer & 1, 1, "{name} after {read}: the child saw other records");
    assert_eq!(answer & 2, 2, "{name} after {read}: the child was not refused");
    assert!(source.take(kept.len() - read) == kept[read..], "{name} after {read}");
}

/// See [`goes_on_in_the_parent`].
#[test]
fn all_who_read_are_refused_in_a_child_and_go_on_in_the_parent() {
    for read in [0, 1, 4, 5, 6, 17, 39] {
        without_hanging("a reader and its child", move || {
            let place = tempfile::tempdir().unwrap();
            let log = Directory::new(place.path().join("log"));
            let wal = open(&options(), log.clone()).unwrap();
            let kept = keep(&wal);
            for source in Source::of(&wal) {
                goes_on_in_the_parent(&kept, source, read);
            }
            wal.close().unwrap();
            drop(wal);
            let replay = Box::new(options().open_in(log).unwrap());
            goes_on_in_the_parent(&kept, Source::Replay(replay), read);
        });
    }
}

/// A program forks while it reads a log ahead that it opened for reading. Its child has none of the threads that
/// read: it sees the rest all the same, or is refused, and does not wait for them.
#[test]
fn a_child_does_not_wait_for_those_who_read_ahead_for_its_parent() {
    without_hanging("a child that reads on", || {
        let place = tempfile::tempdir().unwrap();
        let log = Directory::new(place.path().join("log"));
        let wal = open(&options(), log.clone()).unwrap();
        (0..10).for_each(|_| fill(&wal));
        wal.close().unwrap();
        let mut log = options().open_read_only_in(log).unwrap();
        let mut records = log.records_from(Lsn::ZERO).unwrap();
        for _ in 0..400 {
            records.next().unwrap().unwrap();
        }
        let (is_right, mut records) = in_child(records, |mut records| {
            let mut count = 400;
            let end = loop {
                match records.next() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break None,
                    Err(error) => break Some(error.kind()),
                }
            };
            u8::from((end.is_none() && count == 1500) || end == Some(ErrorKind::Forked))
        });
        assert_eq!(is_right, 1, "the child misses records, or fails otherwise");
        for _ in 400..1500 {
            records.next().unwrap().unwrap();
        }
        assert!(records.next().unwrap().is_none());
    });
}

/// Segments that are over are asked for inside a closure: what is refused is yielded afterwards, and nothing left
/// out.
#[test]
fn sealed_segments_go_on_where_they_were_refused() {
    let wal = open(&options(), Memory::new()).unwrap();
    fill(&wal);
    fill(&wal);
    let all: Vec<_> = sequences(&wal).collect();
    assert!(all.len() >= 3, "{all:?}");
    for asked in 0..all.len() {
        let mut segments = sequences(&wal);
        let mut found: Vec<_> = segments.by_ref().take(asked).collect();
        let mut refused = Vec::new();
        let fill = |_: &mut [u8]| refused.extend([segments.next(), segments.next()]);
        wal.append_with(1, fill).unwrap().wait().unwrap();
        let expected = Some(Err(ErrorKind::InvalidInput));
        assert_eq!(refused, [expected, expected], "after {asked}");
        found.extend(segments);
        assert_eq!(found, all, "after {asked}");
    }
}

fn sequences<S: Storage>(wal: &Wal<S>) -> impl Iterator<Item = Result<u64, ErrorKind>> {
    let segments = wal.sealed_segments(wal.start_mark()).unwrap();
    segments.map(|segment| segment.map(|it| it.sequence()).map_err(|error| error.kind()))
}

/// The kind of error of a future that is ready.
fn ready<T>(answer: Poll<Result<T>>) -> Option<ErrorKind> {
    match answer {
        Poll::Ready(answer) => kind_of(answer),
        Poll::Pending => panic!("it was ready before"),
    }
}

/// A future of an append is polled once more by an executor of little care. Its record has its place; the log
/// has to take no other.
#[test]
fn an_append_that_is_polled_after_it_was_ready_appends_nothing() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet().pool_bytes(32 << 10), disk.clone()).unwrap();
    let seen = |wal: &Wal<_>| (wal.appended_lsn(), wal.stats().records);
    let again = |append: &mut wal::AppendFuture<'_, Faulty<Memory>>, before| {
        for _ in 0..3 {
            let mut context = Context::from_waker(Waker::noop());
            let answer = ready(pin!(&mut *append).poll(&mut context));
            assert_eq!(answer, Some(ErrorKind::InvalidInput));
            assert_eq!(seen(&wal), before, "nothing was appended");
        }
    };
    let waker = Arc::new(CountingWaker::default());
    // At once.
    let mut append = wal.append_async(b"once");
    assert_eq!(ready(poll_once(&mut append, &waker)), None);
    again(&mut append, seen(&wal));
    // When it was refused.
    let longer = vec![0; wal.record_bytes_max() + 1];
    let mut append = wal.append_async(&longer);
    assert_eq!(ready(poll_once(&mut append, &waker)), Some(ErrorKind::TooLarge));
    again(&mut append, seen(&wal));
    // When it had waited.
    let gate = disk.control().gate(On::frame());
    while wal.try_append(&[1; 9000]).is_ok() {}
    let mut append = wal.append_async(&[2; 9000]);
    assert!(poll_once(&mut append, &waker).is_pending());
    gate.open();
    eventually("there is room", || waker.count() > 0);
    let mut ticket = None;
    eventually("it appends", || match poll_once(&mut append, &waker) {
        Poll::Ready(appended) => {
            ticket = Some(appended.unwrap());
            true
        }
        Poll::Pending => false,
    });
    again(&mut append, seen(&wal));
    ticket.unwrap().wait().unwrap();
    wal.close().unwrap();
    assert_eq!(
        wal.read_from(Lsn::ZERO).unwrap().count(),
        usize::try_from(wal.stats().records).unwrap()
    );
}

/// A ticket that is polled after it was ready answers as before: also when the log was closed meanwhile, or is
/// latched.
#[test]
fn a_ticket_that_is_polled_after_it_was_ready_answers_the_same() {
    let disk = Faulty::in_memory();
    let wal = open(&quiet(), disk.clone()).unwrap();
    let waker = Arc::new(CountingWaker::default());
    let answers = |ticket: &mut Ticket<_>| {
        [(); 3].map(|()| match poll_once(ticket, &waker) {
            Poll::Ready(answer) => answer.map_err(|error| error.kind()),
            Poll::Pending => panic!("it is known"),
        })
    };
    let mut durable = wal.append(b"durable").unwrap();
    assert!(poll_once(&mut durable, &waker).is_pending());
    wal.flush().unwrap();
    assert_eq!(answers(&mut durable), [Ok(durable.lsn()); 3]);
    disk.control().fail(Fault::sticky(On::frame(), EIO));
    let mut lost = wal.append(b"lost").unwrap();
    assert!(poll_once(&mut lost, &waker).is_pending());
    assert_eq!(kind_of(wal.flush()), Some(ErrorKind::Latched));
    assert_eq!(answers(&mut lost), [Err(ErrorKind::Latched); 3]);
    assert_eq!(answers(&mut durable), [Ok(durable.lsn()); 3]);
    drop(wal);
    assert_eq!(answers(&mut lost), [Err(ErrorKind::Latched); 3]);
    assert_eq!(answers(&mut durable), [Ok(durable.lsn()); 3]);
}

/// A log is opened inside a closure that fills a record of another one. It was refused only after its opening frame
/// was written, and the next try wrote over the header of the segment that this had begun.
#[test]
fn a_finish_that_is_refused_has_done_nothing() {
    let (wal, disk) = (open(&options(), Memory::new()).unwrap(), Memory::new());
    let other = open(&options(), disk.clone()).unwrap();
    let kept = keep(&other);
    drop(other);
    let mut replay = None;
    eventually("the lock is given back", || {
        replay = options().open_in(disk.clone()).ok();
        replay.is_some()
    });
    let mut replay = replay.unwrap();
    replay.skip_rest();
    let names = disk.list().unwrap();
    let mut kind = None;
    let ticket = wal.append_with(8, |_| kind = kind_of(replay.finish()));
    ticket.unwrap().wait().unwrap();
    assert_eq!(kind, Some(ErrorKind::InvalidInput));
    assert_eq!(names, disk.list().unwrap());
    let (other, _) = replay.finish().unwrap();
    other.append(b"after all").unwrap().wait().unwrap();
    other.close().unwrap();
    let mut replay = options().open_in(disk).unwrap();
    let mut count = 0;
    while replay.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, kept.len() + 1);
}
