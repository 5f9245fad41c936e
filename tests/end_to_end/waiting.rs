//! Every call that can wait for room, beside futures that wait for it and are polled by nobody.
//!
//! Room was strictly first come first served. A future that had been woken and was not polled, because it was
//! kept, forgotten, or of an executor whose threads stood in calls of the log themselves, had it for itself for
//! ever: everybody behind it waited, and `try_append` of any thread answered `WouldBlock`.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};
use wal::{ErrorKind, Options, Ticket, Wal, io::Storage};
use wal_tests::{
    eventually, eventually_prepared,
    fault::{Faulty, On},
    kind_of, open, quiet, replay_when_free,
    tasks::{CountingWaker, block_on, poll_once},
    without_hanging,
};

/// The calls that can wait for room, or for what waits for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Append,
    AppendUntracked,
    AppendWith,
    Batch,
    Checkpoint,
    Flush,
    Wait,
    WaitTimeout,
    Close,
}

/// All of them.
pub(crate) const WAITING: [Call; 9] = [
    Call::Append,
    Call::AppendUntracked,
    Call::AppendWith,
    Call::Batch,
    Call::Checkpoint,
    Call::Flush,
    Call::Wait,
    Call::WaitTimeout,
    Call::Close,
];

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

impl Call {
    /// Makes the call and waits for what came of it. What is appended is `payload`; `ticket` is of a record that
    /// was appended before.
    pub(crate) fn make<S: Storage>(
        self,
        wal: &Wal<S>,
        ticket: Ticket<S>,
        payload: &[u8],
    ) -> wal::Result<()> {
        match self {
            Self::Append => wal.append(payload)?.wait().map(drop),
            Self::AppendUntracked => {
                wal.append_untracked(payload)?;
                wal.flush().map(drop)
            }
            Self::AppendWith => {
                let fill = |room: &mut [u8]| room.copy_from_slice(payload);
                wal.append_with(payload.len(), fill)?.wait().map(drop)
            }
            Self::Batch => {
                let mut batch = wal.batch();
                batch.push(payload)?;
                batch.append()?.wait().map(drop)
            }
            Self::Checkpoint => wal.checkpoint(wal.start_mark(), b"state")?.wait().map(drop),
            Self::Flush => wal.flush().map(drop),
            Self::Wait => ticket.wait().map(drop),
            Self::WaitTimeout => ticket.wait_timeout(LONG).map(drop),
            Self::Close => wal.close(),
        }
    }

    fn appends(self) -> bool {
        matches!(self, Self::Append | Self::AppendUntracked | Self::AppendWith | Self::Batch)
    }
}

/// What becomes of the futures that wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Kept, and polled by nobody.
    Held,
    /// Dropped when room has come.
    Dropped,
    /// Never polled again and never dropped.
    Forgotten,
    /// Polled again only when the call has returned.
    Starved,
}

const FATES: [Fate; 4] = [Fate::Held, Fate::Dropped, Fate::Forgotten, Fate::Starved];

/// When the call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// While all memory is taken: it waits.
    BeforeThereIsRoom,
    /// When room has come and a future was woken for it.
    AfterAFutureWasWoken,
}

/// One case: which call, with how long a record and by how many threads, beside which futures.
#[derive(Clone, Copy, Debug)]
struct Case {
    call: Call,
    bytes: usize,
    callers: usize,
    when: When,
    /// How long the records are that the futures append.
    awaited: &'static [usize],
    fate: Fate,
}

/// Records that fit a frame beside others, that fill more than half of one, and that fit no buffer of the pool.
const SMALL: usize = 100;
const BIG: usize = 9000;
const LARGE: usize = 40_000;

/// Two buffers, and a committer that looks after those who wait every millisecond.
fn tight() -> Options {
    quiet().pool_bytes(32 << 10).segment_bytes(1 << 20).linger(Duration::from_millis(1))
}

type Log = Arc<Wal<Faulty<wal::io::Memory>>>;
type Append = Pin<Box<dyn Future<Output = wal::Result<Ticket<Faulty<wal::io::Memory>>>> + Send>>;

/// A payload that no other record has.
fn payload(bytes: usize) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let mut payload = vec![number.to_le_bytes()[0]; bytes];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload
}

fn append(wal: &Log, payload: Vec<u8>) -> Append {
    let wal = Arc::clone(wal);
    Box::pin(async move { wal.append_async(&payload).await })
}

/// Fills the memory while nothing is written, until not even a small record finds room.
fn exhaust(wal: &Log) {
    for bytes in [BIG, SMALL] {
        let error = loop {
            if let Err(error) = wal.try_append(&payload(bytes)) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// Futures that wait for room, each polled once. One whose record finds room at once, for a large record may get
/// memory of its own, is no use here.
fn futures(
    wal: &Log,
    awaited: &[usize],
    waker: &Arc<CountingWaker>,
    kept: &mut Vec<Vec<u8>>,
) -> Vec<(Append, Vec<u8>)> {
    let mut pending = Vec::new();
    for bytes in awaited.iter().cycle().take(20) {
        let payload = payload(*bytes);
        let mut future = append(wal, payload.clone());
        match poll_once(&mut future, waker) {
            Poll::Pending => pending.push((future, payload)),
            Poll::Ready(ticket) => {
                drop(ticket.unwrap());
                kept.push(payload);
            }
        }
        if pending.len() == 4 {
            return pending;
        }
    }
    panic!("of 20 futures only {} found no room", pending.len());
}

fn run(case: Case) {
    let Case { call, callers, when, .. } = case;
    let disk = Faulty::in_memory();
    let wal: Log = Arc::new(open(&tight(), disk.clone()).unwrap());
    eventually_prepared(&wal);
    let gate = disk.control().gate(On::frame());
    // For those who wait for a record and append none.
    let mut tickets: Vec<_> = (0..callers).map(|_| wal.append(b"before").unwrap()).collect();
    exhaust(&wal);
    gate.wait_for(1);
    let waker = Arc::new(CountingWaker::default());
    let mut kept = Vec::new();
    let mut pending = futures(&wal, case.awaited, &waker, &mut kept);
    if case.fate == Fate::Forgotten {
        pending.drain(..).for_each(|(future, _)| std::mem::forget(future));
    }
    let mut spawn = || {
        let (wal, payload) = (Arc::clone(&wal), payload(case.bytes));
        let ticket = tickets.pop().unwrap();
        if call.appends() {
            kept.push(payload.clone());
        }
        thread::spawn(move || call.make(&wal, ticket, &payload))
    };
    let threads: Vec<_> = match when {
        When::BeforeThereIsRoom => {
            let before = disk.control().sleeps() + gate.blocked();
            let threads = (0..callers).map(|_| spawn()).collect();
            let control = disk.control();
            eventually("a caller waits", || control.sleeps() + gate.blocked() > before);
            gate.open();
            threads
        }
        When::AfterAFutureWasWoken => {
            gate.open();
            eventually("a future is woken", || waker.count() > 0);
            (0..callers).map(|_| spawn()).collect()
        }
    };
    if case.fate == Fate::Dropped {
        eventually("a future is woken", || waker.count() > 0);
        pending.clear();
    }
    for thread in threads {
        let outcome = kind_of(thread.join().unwrap());
        let may_be_late = call == Call::Close && outcome == Some(ErrorKind::Closed);
        assert!(outcome.is_none() || may_be_late, "{outcome:?}");
    }
    finish(case, &wal, pending, &mut kept);
    wal.close().unwrap_or_else(|error| assert_eq!(error.kind(), ErrorKind::Closed));
    drop(wal);
    if case.fate != Fate::Forgotten {
        assert_kept(&disk, &kept);
    }
}

/// When the calls have returned: a record that does not wait finds room, and futures that are polled at last get
/// theirs.
fn finish(case: Case, wal: &Log, pending: Vec<(Append, Vec<u8>)>, kept: &mut Vec<Vec<u8>>) {
    if case.call != Call::Close {
        eventually("a record that does not wait finds room", || {
            wal.try_append(&payload(SMALL)).is_ok()
        });
    }
    if case.fate != Fate::Starved {
        return;
    }
    for (future, payload) in pending {
        match block_on(future) {
            Ok(ticket) => {
                ticket.wait().unwrap();
                kept.push(payload);
            }
            Err(error) => {
                assert_eq!((case.call, error.kind()), (Call::Close, ErrorKind::Closed));
            }
        }
    }
}

/// Each record that was acknowledged is in the log, once.
fn assert_kept(disk: &Faulty<wal::io::Memory>, kept: &[Vec<u8>]) {
    let (records, ..) = replay_when_free(&tight(), disk).unwrap();
    let mut found: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for (_, payload) in records {
        *found.entry(payload).or_default() += 1;
    }
    for payload in kept {
        assert_eq!(found.get(payload), Some(&1), "a record of {} bytes", payload.len());
    }
    found.retain(|payload, _| payload != b"before");
    assert!(found.values().all(|count| *count == 1), "nothing is in the log twice");
}

/// `call` comes back, whatever the futures beside it are and whatever becomes of them.
fn comes_back(call: Call) {
    let lengths: &[usize] = if call.appends() { &[SMALL, BIG, LARGE] } else { &[SMALL] };
    for awaited in [&[SMALL][..], &[BIG], &[LARGE], &[LARGE, SMALL, BIG]] {
        for fate in FATES {
            for when in [When::BeforeThereIsRoom, When::AfterAFutureWasWoken] {
                for (bytes, callers) in lengths.iter().flat_map(|bytes| [(*bytes, 1), (*bytes, 3)])
                {
                    let case = Case { call, bytes, callers, when, awaited, fate };
                    without_hanging(&format!("{case:?}"), move || run(case));
                }
            }
        }
    }
}

/// See [`comes_back`].
#[test]
fn an_append_waits_behind_no_future() {
    comes_back(Call::Append);
}

/// See [`comes_back`].
#[test]
fn an_untracked_append_waits_behind_no_future() {
    comes_back(Call::AppendUntracked);
}

/// See [`comes_back`].
#[test]
fn an_append_in_place_waits_behind_no_future() {
    comes_back(Call::AppendWith);
}

/// See [`comes_back`].
#[test]
fn a_batch_waits_behind_no_future() {
    comes_back(Call::Batch);
}

/// See [`comes_back`].
#[test]
fn a_checkpoint_waits_behind_no_future() {
    comes_back(Call::Checkpoint);
}

/// See [`comes_back`].
#[test]
fn a_flush_waits_behind_no_future() {
    comes_back(Call::Flush);
}

/// See [`comes_back`].
#[test]
fn a_wait_stands_behind_no_future() {
    comes_back(Call::Wait);
    comes_back(Call::WaitTimeout);
}

/// See [`comes_back`].
#[test]
fn a_close_waits_behind_no_future() {
    comes_back(Call::Close);
}

/// A library keeps futures and polls them when it likes. A thread that has nothing to do with it appends 100
/// bytes, and again and again, and a second one does.
#[test]
fn futures_that_are_kept_block_no_stranger() {
    for bytes in [SMALL, BIG, LARGE] {
        let disk = Faulty::in_memory();
        let wal: Log = Arc::new(open(&tight(), disk.clone()).unwrap());
        let gate = disk.control().gate(On::frame());
        exhaust(&wal);
        let waker = Arc::new(CountingWaker::default());
        let pending = futures(&wal, &[bytes], &waker, &mut Vec::new());
        gate.open();
        let log = Arc::clone(&wal);
        without_hanging(&format!("strangers beside futures of {bytes} bytes"), move || {
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..300 {
                            log.append_untracked(&[3; 100]).unwrap();
                        }
                        log.flush().unwrap();
                    });
                }
            });
        });
        drop(pending);
        wal.close().unwrap();
    }
}

/// A service is busy, one of its threads after another finds no room, and its futures are woken and starve. The
/// last event of the log must not be that a buffer came back and nobody was told: each future is woken in the
/// end, though none of those before it is ever polled.
#[test]
fn every_future_is_woken_in_the_end() {
    let disk = Faulty::in_memory();
    let wal: Log = Arc::new(open(&tight(), disk.clone()).unwrap());
    let gate = disk.control().gate(On::frame());
    exhaust(&wal);
    let wakers: Vec<_> = (0..12).map(|_| Arc::new(CountingWaker::default())).collect();
    let mut pending = Vec::new();
    for waker in &wakers {
        let mut future = append(&wal, payload(BIG));
        assert!(poll_once(&mut future, waker).is_pending());
        pending.push(future);
    }
    gate.open();
    for (index, waker) in wakers.iter().enumerate() {
        eventually(&format!("future {index} is woken"), || waker.count() > 0);
    }
    // From the last to the first: none waits for one that is not polled.
    for future in pending.into_iter().rev() {
        without_hanging("a future that was woken and is polled at last", || {
            block_on(future).unwrap().wait().unwrap();
        });
    }
    wal.close().unwrap();
}
