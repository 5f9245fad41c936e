//! Making a failure smaller: fewer steps, fewer writers, fewer deaths' details.

use super::{Coverage, Failure, Job, Place, life::Size};
use crate::disk::{Choice, Fate, NamesFate};

/// At most so many attempts to find the same with less.
const ATTEMPTS_MAX: u32 = 60;

impl<M: Clone + Send + Sync + 'static> Job<'_, M> {
    /// The smallest failure found like `failure`.
    pub(super) fn shrink(&self, failure: Failure) -> Failure {
        let mut attempts = 0;
        let smaller = self.shrink_size(failure, &mut attempts);
        self.shrink_choices(smaller, &mut attempts)
    }

    fn shrink_size(&self, mut best: Failure, attempts: &mut u32) -> Failure {
        loop {
            let Size { steps, writers } = best.place.size;
            let smaller = [
                Size { steps: steps / 2, writers },
                Size { steps, writers: writers - 1 },
                Size { steps: steps - steps / 4, writers },
                Size { steps: steps - 1, writers },
            ];
            let candidates = smaller
                .into_iter()
                .filter(|size| size.steps > 0 && size.writers > 0 && *size != best.place.size);
            let mut found = None;
            for size in candidates {
                *attempts += 1;
                if *attempts > ATTEMPTS_MAX / 2 {
                    return best;
                }
                let mut coverage = Coverage::default();
                if let Err(failure) = self.run_of(best.place.run, size, &mut coverage) {
                    found = Some(failure);
                    break;
                }
            }
            match found {
                Some(failure) => best = failure,
                None => return best,
            }
        }
    }

    /// Has every write survive whole, or not at all, that need not be torn.
    fn shrink_choices(&self, mut best: Failure, attempts: &mut u32) -> Failure {
        for death in 0..best.place.deaths.len() {
            for write in 0..best.place.deaths[death].choice.writes.len() {
                for fate in [Fate::Whole, Fate::Absent] {
                    let same = best.place.deaths.get(death).map(|death| &death.choice);
                    let is_simple = same.is_none_or(|choice: &Choice| {
                        choice
                            .writes
                            .get(write)
                            .is_none_or(|old| *old == fate || *old == Fate::Whole)
                    });
                    if is_simple || *attempts > ATTEMPTS_MAX {
                        continue;
                    }
                    *attempts += 1;
                    let mut place = best.place.clone();
                    place.deaths[death].choice.writes[write] = fate;
                    best = self.try_place(place, best);
                }
            }
            if let NamesFate::Subset(_) = best.place.deaths[death].choice.names {
                let mut place = best.place.clone();
                place.deaths[death].choice.names = NamesFate::Prefix(usize::MAX);
                best = self.try_place(place, best);
            }
        }
        best
    }

    fn try_place(&self, place: Place, best: Failure) -> Failure {
        let deaths = place.deaths.len();
        match self.replay(&place) {
            // An earlier life may fail now: simpler still.
            Err(failure) if failure.place.deaths.len() <= deaths => failure,
            _ => best,
        }
    }
}
