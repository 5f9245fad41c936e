//! [`RoomQueue`]: appenders that wait for room.

use super::reserve::{Request, Short};
use crate::{Error, sync::Word};
use std::{collections::VecDeque, sync::Arc, task::Waker, time::Duration};

/// So often those who come later take room before the first waiter that is sure to take its own.
pub(super) const PASSES_MAX: u32 = 64;

/// Appenders that wait for room.
///
/// Their order is that in which they are woken, and no claim: whoever arrives and fits is served, unless
///
/// * a *thread* that was woken stands before it, and it needs a new frame: the memory is that thread's;
/// * the first waiter that is sure to come, a thread, or a task that was polled since it was woken, was
///   passed [`PASSES_MAX`] times: then nobody goes before it.
///
/// A task that was woken and not polled since has no claim at all. It may never be: its executor may be
/// the very thread that waits behind it, or its future be forgotten.
///
/// Measured on one word for all and strictly first come first served, 1,000 bytes, nobody waiting for
/// durability, 2 processors: 1 thread 2,949 K records/s, 8: 258, 64: 18, 256: 4. Each admission woke all.
#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    next: u64,
    waiting: VecDeque<Waiter>,
    /// When the next task is to be woken, though nothing happens before: the one before it may never be
    /// polled.
    pub(super) next_task_at: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    who: Who,
    /// Told that there is room, and not back since.
    is_woken: bool,
    /// How often others took room before it.
    passes: u32,
    pub(super) request: Request,
    pub(super) short: Short,
    /// Why it waits in vain, found out by somebody else.
    refusal: Option<Error>,
}

#[derive(Debug)]
enum Who {
    Thread(Arc<Word>),
    Task(Option<Waker>),
}

/// Who is to be woken.
#[derive(Debug)]
pub(super) enum Woken {
    Thread(Arc<Word>),
    Task(Waker),
}

impl Waiter {
    pub(super) fn is_thread(&self) -> bool {
        matches!(self.who, Who::Thread(_))
    }

    /// Whether it is sure to come for its room.
    fn has_claim(&self) -> bool {
        self.is_thread() || !self.is_woken || planted!("woken-task-trusted")
    }

    fn wake(&mut self) -> Option<Woken> {
        self.is_woken = true;
        match &mut self.who {
            Who::Thread(word) => {
                word.bump();
                Some(Woken::Thread(Arc::clone(word)))
            }
            Who::Task(task) => task.take().map(Woken::Task),
        }
    }
}

impl RoomQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A thread waits, asleep on `word`: anew, or again at its place.
    pub(super) fn thread_waits(
        &mut self,
        place: Option<u64>,
        word: &Arc<Word>,
        request: Request,
        short: Short,
    ) -> u64 {
        self.wait(place, Who::Thread(Arc::clone(word)), request, short).0
    }

    /// A task waits: anew, or again at its place. Answers the waker that was there, to be dropped when
    /// the lock is free.
    pub(super) fn task_waits(
        &mut self,
        place: Option<u64>,
        task: Waker,
        request: Request,
        short: Short,
    ) -> (u64, Option<Waker>) {
        self.wait(place, Who::Task(Some(task)), request, short)
    }

    fn wait(
        &mut self,
        place: Option<u64>,
        who: Who,
        request: Request,
        short: Short,
    ) -> (u64, Option<Waker>) {
        if let Some(waiter) = place.and_then(|place| self.find(place)) {
            waiter.is_woken = false;
            waiter.short = short;
            let before = std::mem::replace(&mut waiter.who, who);
            let before = match before {
                Who::Task(task) => task,
                Who::Thread(_) => None,
            };
            return (waiter.number, before);
        }
        self.next += 1;
        let (is_woken, passes, refusal) = (false, 0, None);
        let number = self.next;
        self.waiting.push_back(Waiter { number, who, is_woken, passes, request, short, refusal });
        (number, None)
    }

    fn find(&mut self, place: u64) -> Option<&mut Waiter> {
        self.waiting.iter_mut().find(|waiter| waiter.number == place)
    }

    /// Answers its task, to be dropped when the lock is free.
    #[must_use]
    pub(super) fn leave(&mut self, place: u64) -> Option<Waker> {
        let index = self.waiting.iter().position(|waiter| waiter.number == place)?;
        match self.waiting.remove(index)?.who {
            Who::Task(task) => task,
            Who::Thread(_) => None,
        }
    }

    /// Why the waiter at `place` waits in vain, if somebody found out.
    pub(super) fn take_refusal(&mut self, place: u64) -> Option<Error> {
        self.find(place)?.refusal.take()
    }

    /// Tells the waiter at `place` that it waits in vain.
    pub(super) fn refuse(&mut self, place: u64, error: Error) -> Option<Woken> {
        let waiter = self.find(place)?;
        waiter.refusal = Some(error);
        waiter.wake()
    }

    /// Tells the waiter at `place` to look.
    pub(super) fn wake(&mut self, place: u64) -> Option<Woken> {
        self.find(place)?.wake()
    }

    /// Whether whoever stands at `place`, or arrives, may take room before those who wait.
    pub(super) fn may_pass(&self, place: Option<u64>) -> bool {
        let may_be_passed = |waiter: &Waiter| waiter.passes < PASSES_MAX;
        planted!("no-bound-on-passing") || self.claimant_before(place).is_none_or(may_be_passed)
    }

    /// Whether a thread is on its way for the memory that whoever stands at `place`, or arrives, needs.
    pub(super) fn is_thread_coming_before(&self, place: Option<u64>) -> bool {
        let is_sure = |waiter: &Waiter| waiter.is_thread() || planted!("woken-task-trusted");
        self.before(place).any(|waiter| is_sure(waiter) && waiter.is_woken)
    }

    /// Room was taken from `place`, or by a newcomer. Answers whether somebody was passed.
    pub(super) fn passed(&mut self, place: Option<u64>) -> bool {
        let first = self.waiting.iter_mut().take_while(|waiter| Some(waiter.number) != place);
        match first.into_iter().find(|waiter| waiter.has_claim()) {
            Some(waiter) => {
                waiter.passes += 1;
                true
            }
            None => false,
        }
    }

    fn claimant_before(&self, place: Option<u64>) -> Option<&Waiter> {
        self.before(place).find(|waiter| waiter.has_claim())
    }

    fn before(&self, place: Option<u64>) -> impl Iterator<Item = &Waiter> {
        self.waiting.iter().take_while(move |waiter| Some(waiter.number) != place)
    }

    /// Wakes who can go on, which `fits` says: the first thread, unless one is on its way, and one task that
    /// was not woken. A thread that was woken has the next one woken when it was served, or sleeps again.
    pub(super) fn wake_next(&mut self, fits: impl Fn(&Waiter) -> bool, woken: &mut Vec<Woken>) {
        let mut has_woken_task = false;
        for waiter in &mut self.waiting {
            match (waiter.is_thread(), waiter.is_woken) {
                (true, true) => return,
                (false, true) => {}
                (false, false) if has_woken_task => {}
                (is_thread, false) if fits(waiter) => {
                    woken.extend(waiter.wake());
                    if is_thread {
                        return;
                    }
                    has_woken_task = true;
                }
                // It keeps its claim.
                (_, false) if waiter.passes >= PASSES_MAX => return,
                (_, false) => {}
            }
        }
    }

    /// Wakes those whom `wanted` names.
    pub(super) fn wake_all(&mut self, wanted: impl Fn(&Waiter) -> bool, woken: &mut Vec<Woken>) {
        let all = self.waiting.iter_mut().filter(|waiter| wanted(waiter));
        woken.extend(all.filter_map(Waiter::wake));
    }

    /// Whether somebody waits who was not told yet that there is room.
    pub(super) fn needs_room(&self) -> bool {
        self.waiting.iter().any(|waiter| !waiter.is_woken)
    }

    /// Whether there is a task that was not woken.
    pub(super) fn has_task_asleep(&self) -> bool {
        self.waiting.iter().any(|waiter| !waiter.is_thread() && !waiter.is_woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::reserve::Class;

    /// A request for a block of a frame, or less.
    fn small_request() -> Request {
        Request { bytes: 64, records: 1, payload_bytes: 40, class: Class::User }
    }

    fn thread_in(queue: &mut RoomQueue) -> u64 {
        queue.thread_waits(None, &Arc::default(), small_request(), Short::Memory)
    }

    /// The queue says who is woken, and not who may take: a thread that was woken has the memory it was woken for, a
    /// task that was woken has nothing until it is polled.
    #[test]
    fn a_woken_thread_has_a_claim_and_a_woken_task_has_none() {
        let mut queue = RoomQueue::default();
        let task = queue.task_waits(None, Waker::noop().clone(), small_request(), Short::Memory).0;
        let thread = thread_in(&mut queue);
        let mut woken = Vec::new();
        queue.wake_next(|_| true, &mut woken);
        assert!(matches!(woken[..], [Woken::Task(_), Woken::Thread(_)]), "{woken:?}");
        assert!(queue.is_thread_coming_before(None));
        assert!(!queue.is_thread_coming_before(Some(thread)), "it stands before nobody but itself");
        assert!(queue.leave(thread).is_none());
        assert!(!queue.is_thread_coming_before(None) && queue.may_pass(None));
        for _ in 0..2 * PASSES_MAX {
            assert!(
                !queue.passed(None),
                "a task that is not polled is not passed, it is not there"
            );
        }
        // Polled, it is there again.
        queue.task_waits(Some(task), Waker::noop().clone(), small_request(), Short::Memory);
        assert!(queue.passed(None));
    }

    /// Who comes later may go first, and only so often: a large record beside small ones would never be appended.
    #[test]
    fn nobody_is_passed_more_often_than_the_bound() {
        let mut queue = RoomQueue::default();
        let first = thread_in(&mut queue);
        let second = thread_in(&mut queue);
        for _ in 0..PASSES_MAX {
            assert!(queue.may_pass(None) && queue.passed(None));
        }
        assert!(
            !queue.may_pass(None) && !queue.may_pass(Some(second)) && queue.may_pass(Some(first))
        );
        let mut woken = Vec::new();
        queue.wake_next(|waiter| waiter.short == Short::Segment, &mut woken);
        assert!(woken.is_empty(), "the first does not fit, and nobody may pass it any more");
        let _task = queue.leave(first);
        assert!(queue.may_pass(None), "the next one was not passed yet");
    }

    /// Two threads wait for room, and there is room for both: the second is told when the first leaves, or by nobody.
    #[test]
    fn who_leaves_the_queue_tells_the_next() {
        let mut queue = RoomQueue::default();
        let (first, second) = (thread_in(&mut queue), thread_in(&mut queue));
        let mut woken = Vec::new();
        for _ in 0..2 {
            queue.wake_next(|_| true, &mut woken);
            assert_eq!(woken.len(), 1, "one at a time");
        }
        let _task = queue.leave(first);
        queue.wake_next(|_| true, &mut woken);
        assert_eq!(woken.len(), 2);
        let _task = queue.leave(second);
        assert!(queue.is_empty() && !queue.needs_room());
    }

    /// A place is nobody else's, a waker that is replaced is given back, and whoever waits in vain hears of it once.
    #[test]
    fn a_place_is_kept_until_it_is_left() {
        let mut queue = RoomQueue::default();
        let task = |queue: &mut RoomQueue, place| {
            queue.task_waits(place, Waker::noop().clone(), small_request(), Short::Memory)
        };
        let (place, before) = task(&mut queue, None);
        assert!(before.is_none() && queue.has_task_asleep());
        let (again, before) = task(&mut queue, Some(place));
        assert!(again == place && before.is_some());
        let error = Error::new(crate::ErrorKind::Io, "no memory");
        assert!(matches!(queue.refuse(place, error), Some(Woken::Task(_))));
        assert!(queue.take_refusal(place).is_some() && queue.take_refusal(place).is_none());
        assert!(!queue.has_task_asleep() && !queue.needs_room());
        let _task = queue.leave(place);
        assert!(queue.is_empty() && queue.wake(place).is_none());
        assert_ne!(task(&mut queue, None).0, place);
    }
}
