/*!
Which writes a power cut could lose, and when: [`windows`].

A **window** reaches from one flush that settled something to the next. Within it the same writes are
**settled**: those that were done before a flush began that has ended. All others that reached the disk
by the window's end are **pending**: any subset of them may survive, and each of those that do may be
torn.

An image is judged by the promises at the end of its window, the last moment at which it can be what
is left; but nothing may be in it that began after the last of its own writes reached the disk.
*/

use super::event::Event;

/// What the harness writes to the marks once the file system is mounted and synced.
pub(super) const START: &str = "start";

/// A stretch of a recording in which the same writes are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The number of the event that ends it.
    pub(super) end: usize,
    /// The writes settled at its beginning that were not in the window before.
    pub(super) newly_settled: Vec<usize>,
    /// The last write that is settled.
    pub(super) last_settled: usize,
    /// The writes that may be lost, in the order in which they reached the disk.
    pub(super) pending: Vec<usize>,
    /// Which of them, by their place there, are settled in the next window: the image with just these
    /// is judged there.
    pub(super) next_settles: Vec<usize>,
}

/// All windows from the mark [`START`] on, in order.
///
/// Writes before the mark are settled in the first one.
pub(super) fn windows(events: &[Event]) -> Vec<Window> {
    let is_start = |event: &Event| *event == Event::Mark(START.to_owned());
    let Some(start) = events.iter().position(is_start) else { return Vec::new() };
    let mut windows: Vec<Window> = Vec::new();
    let mut newly_settled: Vec<usize> =
        (0..start).filter(|number| matches!(events[*number], Event::Write { .. })).collect();
    let mut last_settled = newly_settled.last().copied().unwrap_or(0);
    let mut pending: Vec<usize> = Vec::new();
    let mut done_at = vec![usize::MAX; events.len()];
    for (number, event) in events.iter().enumerate().skip(start) {
        match event {
            Event::Write { .. } => pending.push(number),
            Event::Done { write } => done_at[index(*write)] = number,
            Event::FlushEnd { flush } => {
                let is_covered = |write: &usize| done_at[*write] < index(*flush);
                let covered: Vec<usize> = pending.iter().copied().filter(is_covered).collect();
                if covered.is_empty() {
                    continue;
                }
                let next_settles =
                    (0..pending.len()).filter(|place| is_covered(&pending[*place])).collect();
                let newly_settled = std::mem::replace(&mut newly_settled, covered.clone());
                windows.push(Window {
                    end: number,
                    newly_settled,
                    last_settled,
                    pending: pending.clone(),
                    next_settles,
                });
                last_settled = covered.iter().fold(last_settled, |last, write| last.max(*write));
                pending.retain(|write| !is_covered(write));
            }
            Event::FlushBegin | Event::Mark(_) => {}
        }
    }
    windows.push(Window {
        end: events.len(),
        newly_settled,
        last_settled,
        pending,
        next_settles: Vec::new(),
    });
    windows
}

/// A number of an event as a place in the list.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::event::Content, *};

    fn write() -> Event {
        Event::Write { offset: 0, content: Content::Zeros(512) }
    }

    fn mark() -> Event {
        Event::Mark(START.to_owned())
    }

    #[test]
    fn a_flush_settles_what_was_done_before_it_began() {
        let events = [
            write(),                      // 0: before the start
            mark(),                       // 1
            write(),                      // 2
            write(),                      // 3
            Event::Done { write: 2 },     // 4
            Event::FlushBegin,            // 5
            Event::Done { write: 3 },     // 6: too late for this flush
            write(),                      // 7
            Event::FlushEnd { flush: 5 }, // 8
        ];
        let windows = windows(&events);
        assert_eq!(windows.len(), 2);
        assert_eq!(windows[0].newly_settled, [0]);
        assert_eq!(windows[0].pending, [2, 3, 7]);
        assert_eq!(windows[0].next_settles, [0]);
        assert_eq!((windows[0].end, windows[0].last_settled), (8, 0));
        assert_eq!(windows[1].newly_settled, [2]);
        assert_eq!(windows[1].pending, [3, 7]);
        assert_eq!((windows[1].end, windows[1].last_settled), (9, 2));
    }

    #[test]
    fn a_flush_that_never_ended_settles_nothing() {
        let events = [mark(), write(), Event::Done { write: 1 }, Event::FlushBegin];
        let windows = windows(&events);
        assert_eq!(windows.len(), 1);
        assert_eq!(windows[0].pending, [1]);
    }

    #[test]
    fn overlapping_flushes_each_settle_their_own() {
        let events = [
            mark(),                       // 0
            write(),                      // 1
            Event::Done { write: 1 },     // 2
            Event::FlushBegin,            // 3
            write(),                      // 4
            Event::Done { write: 4 },     // 5
            Event::FlushBegin,            // 6
            Event::FlushEnd { flush: 6 }, // 7: covers both
            Event::FlushEnd { flush: 3 }, // 8: covers what is settled already
        ];
        let windows = windows(&events);
        assert_eq!(windows.len(), 2);
        assert_eq!(windows[1].newly_settled, [1, 4]);
        assert!(windows[1].pending.is_empty());
    }

    #[test]
    fn nothing_is_explored_before_the_start() {
        let events = [write(), Event::Done { write: 0 }, Event::FlushBegin];
        assert!(windows(&events).is_empty());
    }
}
