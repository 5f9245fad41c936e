//! Every public call of what a program holds of a log, made on a [`Desk`] where all of it lies ready.
//!
//! `calls` makes each of them in each situation, and holds this table against the source.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};
use wal::{
    AppendFuture, Batch, ErrorKind, Follow, Options, ReadOnly, Reader, Replay, Result,
    SealedSegment, Ticket, Wal, io::Storage,
};
use wal_tests::{eventually, kind_of, open, quiet};

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was done, or looked at.
    Done,
    /// The outcome will be told later.
    Pending,
    /// An error.
    Refused(ErrorKind),
    /// There is no more.
    Ended,
    /// What it is called on is used up.
    Gone,
}

impl<T> From<Result<T>> for Answer {
    fn from(answer: Result<T>) -> Self {
        kind_of(answer).map_or(Self::Done, Self::Refused)
    }
}

/// How a call stands to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It may wait, for room or for a record: refused whenever that would be wrong.
    Work,
    /// It never waits and is refused as the others are.
    Try,
    /// It reads: also when the log was closed or is latched.
    Ask,
    /// It belongs to the opening of a log: another process has no part in it.
    Opening,
    /// It answers no error, and looks at the log or lets go of something.
    Look,
    /// It is about memory of its own, or about files that anybody may read.
    Apart,
}

/// A public call.
pub(crate) struct Row<S: Storage> {
    /// As the source has it: `Type::function`, or `Type: Trait`; a drop that is nowhere written is `drop Type`.
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    /// What it comes to where nothing is in its way.
    pub(crate) answer: Answer,
    /// And after a close, and after a latch.
    pub(crate) closed: Answer,
    pub(crate) latched: Answer,
    pub(crate) call: fn(&mut Desk<'_, S>) -> Answer,
}

/// A log at work, and all that a program may hold of it: records that are durable, segments that are over, and one
/// record that is not durable and that nobody writes by itself.
pub(crate) struct Desk<'a, S: Storage> {
    pub(crate) wal: &'a Wal<S>,
    ticket: Option<Ticket<S>>,
    batch: Option<Batch<'a, S>>,
    append: Option<Pin<Box<AppendFuture<'a, S>>>>,
    reader: Option<Reader<S>>,
    follow: Option<Follow<S>>,
    sealed: Option<Box<dyn Iterator<Item = Result<SealedSegment<S>>> + Send + 'a>>,
    segment: Option<SealedSegment<S>>,
    /// Of the log beside this one.
    replay: Option<Replay<S>>,
    read_only: Option<ReadOnly<S>>,
    /// A third one, to be dropped.
    spare: Option<Wal<S>>,
}

/// Segments of a few frames, memory for two, and threads that do nothing by themselves for an hour.
pub(crate) fn options() -> Options {
    quiet().segment_bytes(1 << 16).pool_bytes(32 << 10)
}

/// Waits until the next segment is prepared: nothing is done any more then.
pub(crate) fn settle<S: Storage>(wal: &Wal<S>) {
    eventually("the next segment is prepared", || {
        let stats = wal.stats();
        let segments = wal.appended_lsn().get() / wal.identity().segment_bytes + 1;
        stats.segments_created + stats.segments_recycled == segments
    });
}

/// Fills the log with as many records that end in more than one segment.
pub(crate) fn fill<S: Storage>(wal: &Wal<S>) {
    for _ in 0..150 {
        wal.append_untracked(&[7; 1000]).unwrap();
    }
    wal.flush().unwrap();
}

/// A log that was filled, and rests.
pub(crate) fn filled<S: Storage>(storage: S) -> Wal<S> {
    let wal = open(&options(), storage).unwrap();
    fill(&wal);
    settle(&wal);
    wal
}

impl<'a, S: Storage + Clone> Desk<'a, S> {
    /// What is held of `wal`, the log in `storage`, which was filled; `beside` has room for two others.
    pub(crate) fn lay(wal: &'a Wal<S>, storage: &S, beside: [S; 2]) -> Self {
        let [second, third] = beside;
        filled(second.clone()).close().unwrap();
        let from = wal.start_mark();
        let mut batch = wal.batch();
        batch.push(b"of a batch").unwrap();
        Self {
            wal,
            ticket: Some(wal.append(b"not durable").unwrap()),
            batch: Some(batch),
            append: Some(Box::pin(wal.append_async(b"awaited"))),
            reader: Some(wal.read_from(from).unwrap()),
            follow: Some(wal.follow(from).unwrap()),
            sealed: Some(Box::new(wal.sealed_segments(from).unwrap())),
            segment: wal.sealed_segments(from).unwrap().next().map(Result::unwrap),
            replay: Some(options().open_in(second).unwrap()),
            read_only: Some(options().open_read_only_in(storage.clone()).unwrap()),
            spare: Some(filled(third)),
        }
    }
}

/// `value`, unless it is used up.
fn with<T>(value: Option<T>, call: impl FnOnce(T) -> Answer) -> Answer {
    value.map_or(Answer::Gone, call)
}

/// That it came back is all there is to say.
fn looked<T>(_: T) -> Answer {
    Answer::Done
}

fn poll<T>(future: Pin<&mut impl Future<Output = Result<T>>>) -> Answer {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.into(),
        Poll::Pending => Answer::Pending,
    }
}

fn told<S: Storage>(ticket: Ticket<S>) -> Answer {
    let told = Arc::new(Mutex::new(Answer::Pending));
    let tell = Arc::clone(&told);
    ticket.on_durable(move |outcome| *tell.lock().unwrap() = outcome.into());
    *told.lock().unwrap()
}

const LONG: Duration = Duration::from_secs(3600);

fn row<S: Storage>(
    name: &'static str,
    class: Class,
    call: fn(&mut Desk<'_, S>) -> Answer,
) -> Row<S> {
    let (closed, latched) = match class {
        Class::Work | Class::Try => (ErrorKind::Closed, ErrorKind::Latched),
        Class::Ask | Class::Opening | Class::Look | Class::Apart => {
            let answer = Answer::Done;
            return Row { name, class, answer, closed: answer, latched: answer, call };
        }
    };
    let (closed, latched) = (Answer::Refused(closed), Answer::Refused(latched));
    Row { name, class, answer: Answer::Done, closed, latched, call }
}

/// Every public call, but for those of values, which hold nothing of a log.
pub(crate) fn rows<S: Storage>() -> Vec<Row<S>> {
    [of_logs(), of_tickets(), of_readers(), of_others()].into_iter().flatten().collect()
}

fn of_logs<S: Storage>() -> Vec<Row<S>> {
    use Class::{Apart, Ask, Look, Try, Work};
    vec![
        row("Wal::append", Work, |desk| desk.wal.append(b"appended").into()),
        row("Wal::append_untracked", Work, |desk| desk.wal.append_untracked(b"appended").into()),
        row("Wal::try_append", Try, |desk| desk.wal.try_append(b"appended").into()),
        row("Wal::append_with", Work, |desk| desk.wal.append_with(8, |room| room.fill(3)).into()),
        row("Wal::append_async", Look, |desk| looked(desk.wal.append_async(b"never polled"))),
        row("Wal::batch", Look, |desk| looked(desk.wal.batch())),
        row("Wal::checkpoint", Work, |desk| {
            desk.wal.checkpoint(desk.wal.start_mark(), b"state").into()
        }),
        row("Wal::flush", Work, |desk| desk.wal.flush().into()),
        row("Wal::close", Work, |desk| desk.wal.close().into()),
        row("Wal::durable_lsn", Look, |desk| looked(desk.wal.durable_lsn())),
        row("Wal::appended_lsn", Look, |desk| looked(desk.wal.appended_lsn())),
        row("Wal::start_mark", Look, |desk| looked(desk.wal.start_mark())),
        row("Wal::record_bytes_max", Look, |desk| looked(desk.wal.record_bytes_max())),
        row("Wal::identity", Look, |desk| looked(desk.wal.identity())),
        row("Wal::stats", Look, |desk| looked(desk.wal.stats())),
        row("Wal: Debug", Look, |desk| looked(format!("{:?}", desk.wal))),
        row("Wal: Drop", Look, |desk| with(desk.spare.take(), looked)),
        // Reading goes on when writing does not.
        row("Wal::read_from", Ask, |desk| desk.wal.read_from(desk.wal.start_mark()).into()),
        row("Wal::follow", Ask, |desk| desk.wal.follow(desk.wal.start_mark()).into()),
        row("Wal::sealed_segments", Ask, |desk| {
            desk.wal.sealed_segments(desk.wal.start_mark()).map(looked).into()
        }),
        row("Batch::append", Work, |desk| with(desk.batch.take(), |batch| batch.append().into())),
        // A batch collects in memory of its own.
        row("Batch::push", Apart, |desk| with(desk.batch.as_mut(), |b| b.push(b"more").into())),
        row("Batch::push_with", Apart, |desk| {
            with(desk.batch.as_mut(), |batch| batch.push_with(8, |room| room.fill(4)).into())
        }),
        row("Batch::len", Look, |desk| with(desk.batch.as_ref(), |batch| looked(batch.len()))),
        row("Batch::is_empty", Look, |d| with(d.batch.as_ref(), |batch| looked(batch.is_empty()))),
        row("Batch: Debug", Look, |desk| looked(format!("{:?}", desk.batch))),
        row("drop Batch", Look, |desk| with(desk.batch.take(), looked)),
    ]
}

fn of_tickets<S: Storage>() -> Vec<Row<S>> {
    use Class::{Look, Try, Work};
    // When the log was closed all of its tickets are durable.
    let durable_by_close = |row: Row<S>, answer| Row { answer, closed: Answer::Done, ..row };
    let (done, pending) = (Answer::Done, Answer::Pending);
    let wait = row("Ticket::wait", Work, |desk: &mut Desk<'_, S>| {
        with(desk.ticket.take(), |ticket| ticket.wait().into())
    });
    let wait_timeout = row("Ticket::wait_timeout", Work, |desk: &mut Desk<'_, S>| {
        with(desk.ticket.as_ref(), |ticket| ticket.wait_timeout(LONG).into())
    });
    let on_durable =
        row("Ticket::on_durable", Try, |desk: &mut Desk<'_, S>| with(desk.ticket.take(), told));
    let future = row("Ticket: Future", Try, |desk: &mut Desk<'_, S>| {
        with(desk.ticket.as_mut(), |ticket| poll(Pin::new(ticket)))
    });
    vec![
        durable_by_close(wait, done),
        durable_by_close(wait_timeout, done),
        durable_by_close(on_durable, pending),
        durable_by_close(future, pending),
        row("Ticket::is_durable", Look, |d| with(d.ticket.as_ref(), |t| looked(t.is_durable()))),
        row("Ticket::lsn", Look, |d| with(d.ticket.as_ref(), |ticket| looked(ticket.lsn()))),
        row("Ticket::last_lsn", Look, |d| with(d.ticket.as_ref(), |t| looked(t.last_lsn()))),
        row("Ticket: Debug", Look, |desk| looked(format!("{:?}", desk.ticket))),
        row("drop Ticket", Look, |desk| with(desk.ticket.take(), looked)),
        row("AppendFuture: Future", Try, |desk| {
            with(desk.append.as_mut(), |append| poll(append.as_mut()))
        }),
        row("AppendFuture: Debug", Look, |desk| looked(format!("{:?}", desk.append))),
        row("AppendFuture: Drop", Look, |desk| with(desk.append.take(), looked)),
    ]
}

fn of_readers<S: Storage>() -> Vec<Row<S>> {
    use Class::{Ask, Look};
    vec![
        row("Reader::next_record", Ask, |desk| {
            with(desk.reader.as_mut(), |reader| reader.next_record().into())
        }),
        row("Reader: Iterator", Ask, |desk| {
            with(desk.reader.as_mut(), |reader| reader.next().map_or(Answer::Ended, Answer::from))
        }),
        row("Reader: Debug", Look, |desk| looked(format!("{:?}", desk.reader))),
        row("drop Reader", Look, |desk| with(desk.reader.take(), looked)),
        row("Follow::next", Ask, |desk| with(desk.follow.as_mut(), |follow| follow.next().into())),
        row("Follow::next_timeout", Ask, |desk| {
            with(desk.follow.as_mut(), |follow| follow.next_timeout(LONG).into())
        }),
        row("Follow: Debug", Look, |desk| looked(format!("{:?}", desk.follow))),
        row("drop Follow", Look, |desk| with(desk.follow.take(), looked)),
        row("next of sealed_segments", Ask, |desk| {
            with(desk.sealed.as_mut(), |sealed| sealed.next().map_or(Answer::Ended, Answer::from))
        }),
        row("SealedSegment::sequence", Look, |d| {
            with(d.segment.as_ref(), |segment| looked(segment.sequence()))
        }),
        row("SealedSegment::base", Look, |d| with(d.segment.as_ref(), |s| looked(s.base()))),
        row("SealedSegment::end", Look, |d| with(d.segment.as_ref(), |s| looked(s.end()))),
        row("SealedSegment::path", Look, |d| with(d.segment.as_ref(), |s| looked(s.path()))),
        row("SealedSegment: Debug", Look, |desk| looked(format!("{:?}", desk.segment))),
        row("drop SealedSegment", Look, |desk| with(desk.segment.take(), looked)),
    ]
}

fn of_others<S: Storage>() -> Vec<Row<S>> {
    use Class::{Apart, Look, Opening};
    vec![
        row("Replay::next", Opening, |d| with(d.replay.as_mut(), |replay| replay.next().into())),
        row("Replay::finish", Opening, |desk| {
            with(desk.replay.take(), |mut replay| {
                replay.skip_rest();
                replay.finish().into()
            })
        }),
        row("Replay::skip_rest", Look, |desk| {
            with(desk.replay.as_mut(), |replay| {
                replay.skip_rest();
                Answer::Done
            })
        }),
        row("Replay::checkpoint", Look, |d| {
            with(d.replay.as_ref(), |replay| looked(replay.checkpoint()))
        }),
        row("Replay::start_mark", Look, |d| with(d.replay.as_ref(), |r| looked(r.start_mark()))),
        row("Replay::report", Look, |d| with(d.replay.as_ref(), |r| looked(r.report()))),
        row("Replay: Debug", Look, |desk| looked(format!("{:?}", desk.replay))),
        row("drop Replay", Look, |desk| with(desk.replay.take(), looked)),
        row("ReadOnly::identity", Look, |d| with(d.read_only.as_ref(), |r| looked(r.identity()))),
        row("ReadOnly::start_mark", Look, |d| {
            with(d.read_only.as_ref(), |log| looked(log.start_mark()))
        }),
        row("ReadOnly::checkpoint", Look, |d| {
            with(d.read_only.as_ref(), |log| looked(log.checkpoint()))
        }),
        row("ReadOnly::tail", Apart, |d| with(d.read_only.as_ref(), |log| log.tail().into())),
        row("ReadOnly::durable_mark", Apart, |d| {
            with(d.read_only.as_ref(), |log| log.durable_mark().into())
        }),
        row("ReadOnly::refresh", Apart, |d| with(d.read_only.as_mut(), |log| log.refresh().into())),
        row("ReadOnly::segments", Apart, |d| {
            with(d.read_only.as_mut(), |log| log.segments().into())
        }),
        row("ReadOnly::records_from", Apart, |desk| {
            with(desk.read_only.as_mut(), |log| log.records_from(wal::Lsn::ZERO).into())
        }),
        row("ReadOnly::records_from_including_unproved", Apart, |desk| {
            with(desk.read_only.as_mut(), |log| {
                log.records_from_including_unproved(wal::Lsn::ZERO).into()
            })
        }),
        row("ReadOnly::verify", Apart, |d| with(d.read_only.as_mut(), |log| log.verify().into())),
        row("ReadOnly: Debug", Look, |desk| looked(format!("{:?}", desk.read_only))),
        row("drop ReadOnly", Look, |desk| with(desk.read_only.take(), looked)),
        row("ReadOnlyRecords::next", Apart, |desk| {
            with(desk.read_only.as_mut(), |log| {
                log.records_from(wal::Lsn::ZERO)
                    .and_then(|mut records| records.next().map(looked))
                    .into()
            })
        }),
        row("ReadOnlyRecords::durable_mark", Apart, |desk| {
            with(desk.read_only.as_mut(), |log| {
                log.records_from(wal::Lsn::ZERO).map(|records| records.durable_mark()).into()
            })
        }),
        row("ReadOnlyRecords: Debug", Apart, |desk| {
            with(desk.read_only.as_mut(), |log| {
                log.records_from(wal::Lsn::ZERO).map(|records| format!("{records:?}")).into()
            })
        }),
    ]
}
