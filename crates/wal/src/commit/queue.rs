//! [`RoomQueue`]: appenders that wait for room.

use super::reserve::{Request, Short};
use crate::{Error, sync::Word};
use std::{collections::BTreeMap, sync::Arc, task::Waker, time::Duration};

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
/// the very thread that waits behind it, or its future be forgotten. Only one that was passed so often is waited
/// for, and not for long: [`RoomQueue::give_up_on_tasks`].
///
/// Who meets a thread that was woken and may not be passed yields a few times before it queues behind it: it may be
/// served in less time than it takes to fall asleep. docs/design.md has both measured.
///
/// Measured on one word for all and strictly first come first served, 1,000 bytes, nobody waiting for
/// durability, 2 processors: 1 thread 2,949 K records/s, 8: 258, 64: 18, 256: 4. Each admission woke all.
#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    next: u64,
    /// Those who are sure to come, by their numbers: in the order in which they came.
    waiting: BTreeMap<u64, Waiter>,
    /// Tasks that were woken and not polled since. They keep their numbers, and how often they were passed.
    offered: BTreeMap<u64, Waiter>,
    /// How many of `waiting` are what.
    woken_threads: usize,
    tasks: usize,
    woken_tasks: usize,
    /// When the next task is to be woken, though nothing happens before: the one before it may never be
    /// polled.
    pub(super) next_task_at: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Waiter {
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

    /// Whether nobody may go before it any more.
    fn is_due(&self) -> bool {
        self.passes >= PASSES_MAX
    }
}

impl RoomQueue {
    /// Whether nobody waits who is sure to come.
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
        let known = place.and_then(|place| Some((place, self.remove(place)?)));
        let Some((number, mut waiter)) = known else {
            self.next += 1;
            let (is_woken, passes, refusal) = (false, 0, None);
            self.insert(self.next, Waiter { who, is_woken, passes, request, short, refusal });
            return (self.next, None);
        };
        waiter.is_woken = false;
        waiter.short = short;
        let before = std::mem::replace(&mut waiter.who, who);
        self.insert(number, waiter);
        match before {
            Who::Task(task) => (number, task),
            Who::Thread(_) => (number, None),
        }
    }

    fn insert(&mut self, number: u64, waiter: Waiter) {
        self.count(&waiter, |count| *count += 1);
        self.waiting.insert(number, waiter);
    }

    fn remove(&mut self, number: u64) -> Option<Waiter> {
        let Some(waiter) = self.waiting.remove(&number) else {
            return self.offered.remove(&number);
        };
        self.count(&waiter, |count| *count -= 1);
        Some(waiter)
    }

    fn count(&mut self, waiter: &Waiter, change: impl Fn(&mut usize)) {
        match (waiter.is_thread(), waiter.is_woken) {
            (true, true) => change(&mut self.woken_threads),
            (true, false) => {}
            (false, is_woken) => {
                change(&mut self.tasks);
                if is_woken {
                    change(&mut self.woken_tasks);
                }
            }
        }
    }

    fn find(&mut self, place: u64) -> Option<&mut Waiter> {
        self.waiting.get_mut(&place).or_else(|| self.offered.get_mut(&place))
    }

    /// Answers its task, to be dropped when the lock is free.
    #[must_use]
    pub(super) fn leave(&mut self, place: u64) -> Option<Waker> {
        match self.remove(place)?.who {
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
        self.find(place)?.refusal = Some(error);
        self.wake(place)
    }

    /// Tells the waiter at `place` to look.
    pub(super) fn wake(&mut self, place: u64) -> Option<Woken> {
        let mut waiter = self.remove(place)?;
        waiter.is_woken = true;
        let woken = match &mut waiter.who {
            Who::Thread(word) => {
                word.bump();
                Some(Woken::Thread(Arc::clone(word)))
            }
            Who::Task(task) => task.take().map(Woken::Task),
        };
        if waiter.is_thread() || waiter.is_due() || planted!("woken-task-trusted") {
            self.insert(place, waiter);
        } else {
            self.offered.insert(place, waiter);
        }
        woken
    }

    /// Whether whoever stands at `place`, or arrives, may take room before those who wait.
    pub(super) fn may_pass(&self, place: Option<u64>) -> bool {
        let first = self.before(place).next();
        planted!("no-bound-on-passing") || first.is_none_or(|waiter| !waiter.is_due())
    }

    /// Whether a thread is on its way for the memory that whoever stands at `place`, or arrives, needs.
    pub(super) fn is_thread_coming_before(&self, place: Option<u64>) -> bool {
        if planted!("woken-task-trusted") {
            return self.before(place).any(|waiter| waiter.is_woken);
        }
        let is_coming = |waiter: &Waiter| waiter.is_thread() && waiter.is_woken;
        self.woken_threads > 0 && self.before(place).any(is_coming)
    }

    /// How many wait who are sure to come.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the first waiter before `place`, or a newcomer, is a thread that was woken and may not be passed.
    pub(super) fn is_due_thread_coming_before(&self, place: Option<u64>) -> bool {
        let first = self.before(place).next();
        first.is_some_and(|waiter| waiter.is_thread() && waiter.is_woken && waiter.is_due())
    }

    /// Room was taken from `place`, or by a newcomer. Answers whether somebody was passed.
    pub(super) fn passed(&mut self, place: Option<u64>) -> bool {
        let first = self.waiting.range_mut(..place.unwrap_or(u64::MAX)).next();
        first.map(|(_, waiter)| waiter.passes += 1).is_some()
    }

    fn before(&self, place: Option<u64>) -> impl Iterator<Item = &Waiter> {
        self.waiting.range(..place.unwrap_or(u64::MAX)).map(|(_, waiter)| waiter)
    }

    /// Wakes who can go on, which `fits` says: the first thread, unless one is on its way, and one task that
    /// was not woken. A thread that was woken has the next one woken when it was served, or sleeps again.
    pub(super) fn wake_next(&mut self, fits: impl Fn(&Waiter) -> bool, woken: &mut Vec<Woken>) {
        let (mut task, mut thread) = (None, None);
        for (number, waiter) in &self.waiting {
            let is_next = match waiter.is_thread() {
                true => &mut thread,
                false => &mut task,
            };
            if !waiter.is_woken && is_next.is_none() && fits(waiter) {
                *is_next = Some(*number);
            }
            // It is on its way, or nobody may go before it any more.
            if thread.is_some() || waiter.is_woken || waiter.is_due() {
                break;
            }
        }
        for number in [task, thread].into_iter().flatten() {
            woken.extend(self.wake(number));
        }
    }

    /// Wakes those whom `wanted` names.
    pub(super) fn wake_all(&mut self, wanted: impl Fn(&Waiter) -> bool, woken: &mut Vec<Woken>) {
        let all = self.waiting.iter().filter(|(_, waiter)| wanted(waiter));
        let all: Vec<_> = all.map(|(number, _)| *number).collect();
        woken.extend(all.into_iter().filter_map(|number| self.wake(number)));
    }

    /// Waits no longer for tasks that were woken and are not polled.
    pub(super) fn give_up_on_tasks(&mut self) {
        if planted!("woken-task-trusted") || self.woken_tasks == 0 {
            return;
        }
        let is_given_up = |waiter: &Waiter| !waiter.is_thread() && waiter.is_woken;
        let all = self.waiting.iter().filter(|(_, waiter)| is_given_up(waiter));
        let all: Vec<_> = all.map(|(number, _)| *number).collect();
        for number in all {
            if let Some(waiter) = self.remove(number) {
                self.offered.insert(number, waiter);
            }
        }
    }

    /// Whether somebody waits who was not told yet that there is room.
    pub(super) fn needs_room(&self) -> bool {
        self.waiting.len() > self.woken_threads + self.woken_tasks
    }

    /// Whether there is a task that somebody has to look after: it was not woken, or others wait for it.
    pub(super) fn has_task(&self) -> bool {
        self.tasks > 0
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
        assert!(!queue.is_due_thread_coming_before(None), "nobody yields to one that sleeps");
        queue.wake_next(|_| true, &mut woken);
        assert!(queue.is_due_thread_coming_before(None));
        assert!(!queue.is_due_thread_coming_before(Some(first)), "nobody yields to itself");
        let _task = queue.leave(first);
        assert!(queue.may_pass(None), "the next one was not passed yet");
    }

    /// A task that was passed as often as may be is woken. A thread behind it took the buffer each time, for it is
    /// faster: the task is waited for. But not for ever, for it may never be polled.
    #[test]
    fn a_task_that_was_passed_too_often_is_waited_for_and_not_for_ever() {
        let mut queue = RoomQueue::default();
        let task = queue.task_waits(None, Waker::noop().clone(), small_request(), Short::Memory).0;
        let thread = thread_in(&mut queue);
        for _ in 0..PASSES_MAX {
            assert!(queue.passed(None));
        }
        let mut woken = Vec::new();
        for _ in 0..2 {
            queue.wake_next(|_| true, &mut woken);
            assert!(matches!(woken[..], [Woken::Task(_)]), "{woken:?}");
        }
        assert!(!queue.may_pass(None) && !queue.may_pass(Some(thread)) && queue.has_task());
        queue.give_up_on_tasks();
        assert!(queue.may_pass(None) && !queue.has_task());
        queue.wake_next(|_| true, &mut woken);
        assert!(matches!(woken[..], [Woken::Task(_), Woken::Thread(_)]), "{woken:?}");
        // Polled after all, it stands where it stood.
        queue.task_waits(Some(task), Waker::noop().clone(), small_request(), Short::Memory);
        assert!(!queue.may_pass(Some(thread)));
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
        assert!(before.is_none() && queue.has_task());
        let (again, before) = task(&mut queue, Some(place));
        assert!(again == place && before.is_some());
        let error = Error::new(crate::ErrorKind::Io, "no memory");
        assert!(matches!(queue.refuse(place, error), Some(Woken::Task(_))));
        assert!(queue.take_refusal(place).is_some() && queue.take_refusal(place).is_none());
        assert!(!queue.has_task() && !queue.needs_room());
        let _task = queue.leave(place);
        assert!(queue.is_empty() && queue.wake(place).is_none());
        assert_ne!(task(&mut queue, None).0, place);
    }
}
