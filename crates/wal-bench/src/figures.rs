//! Numbers over the rounds of a run.

use std::time::Duration;

/// A value over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Median by median, as the tables have it; the lowest and the highest of single rounds, whose
    /// two figures were measured one after the other.
    #[must_use]
    pub fn of_ratio(values: &[f64], base: &[f64]) -> Self {
        let pairs = values.iter().zip(base).map(|(value, base)| value / base).collect();
        let median = Self::of(values.to_vec()).median / Self::of(base.to_vec()).median;
        Self { median, ..Self::of(pairs) }
    }

    /// The ratios of single rounds, whose two figures were measured one after the other: what
    /// drifts from round to round drifts under both.
    ///
    /// # Panics
    ///
    /// Without rounds.
    #[must_use]
    pub fn of_rounds(values: &[f64], base: &[f64]) -> Self {
        Self::of(values.iter().zip(base).map(|(value, base)| value / base).collect())
    }

    /// The spread of `values`.
    ///
    /// # Panics
    ///
    /// Without values.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self { median, low: values[0], high: values[values.len() - 1] }
    }
}

/// The middle of `values`, the upper one of two.
pub(crate) fn median<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// A count as a figure.
#[must_use]
#[expect(clippy::as_conversions, reason = "no lossless form; counts stay far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A length of memory as a length on disk.
#[must_use]
pub fn bytes_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a usize fits in 64 bits")
}

/// A duration in microseconds.
#[must_use]
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The whole part of a figure that is not negative; what does not fit is the largest count.
#[must_use]
#[expect(clippy::as_conversions, reason = "the cast saturates, and takes what is no number as 0")]
pub fn count(figure: f64) -> u64 {
    figure as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_the_ends() {
        let odd = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!(odd, Spread { median: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).median.to_bits(), 2.5_f64.to_bits());
    }

    #[test]
    fn a_ratio_is_that_of_the_medians() {
        let ratio = Spread::of_ratio(&[2.0, 8.0, 4.0], &[1.0, 2.0, 8.0]);
        assert_eq!(ratio, Spread { median: 2.0, low: 0.5, high: 4.0 });
    }

    /// The disk doubles its speed after the first round: the ratio of each round is what it was.
    #[test]
    fn what_drifts_under_both_is_not_in_the_ratios_of_rounds() {
        let ratio = Spread::of_rounds(&[5.0, 10.0, 10.0], &[10.0, 20.0, 20.0]);
        assert_eq!(ratio, Spread { median: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn figures_become_counts() {
        assert_eq!([count(2.9), count(-1.0), count(f64::NAN), count(1e300)], [2, 0, 0, u64::MAX]);
    }
}
