//! Durations counted in buckets whose bounds double: a fixed array without allocation.

use std::time::Duration;

/// Number of buckets with a bound. The last one ends at 2^24 µs, which is 16.8 seconds. Longer
/// durations are counted without a bound.
pub const BUCKETS: usize = 25;

/// Numbers of durations by length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    beyond: u64,
    sum_ns: u64,
}

impl Histogram {
    /// Counts a duration in nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        // Find the smallest n for which the duration is at most 2^n µs: the number of bits of (ns -
        // 1) / 1000.
        let below = nanoseconds.saturating_sub(1) / 1_000;
        let doublings = u64::BITS - below.leading_zeros();
        *self
            .counts
            .get_mut(doublings as usize)
            .unwrap_or(&mut self.beyond) += 1;
        self.sum_ns = self.sum_ns.saturating_add(nanoseconds);
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.beyond += other.beyond;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.beyond
    }

    /// Returns the sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// Returns each bound with the number of durations up to it.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let mut count = 0;
        self.counts.iter().enumerate().map(move |(at, more)| {
            count += more;
            (Duration::from_micros(1 << at), count)
        })
    }

    /// Returns the bound below which this share of the durations lies; 0.5 gives the median.
    /// Returns `None` if there are no durations, or the result is beyond the last bound.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of 2^53 would take centuries"
    )]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = self.count() as f64 * share;
        self.cumulative()
            .find(|&(_, count)| count > 0 && count as f64 >= wanted)
            .map(|(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::none(0, Some(1))]
    #[case::the_smallest_bound(1_000, Some(1))]
    #[case::just_above(1_001, Some(2))]
    #[case::a_millisecond(1_000_000, Some(1_024))]
    #[case::the_largest_bound(16_777_216_000, Some(16_777_216))]
    #[case::beyond(16_777_216_001, None)]
    #[case::huge(u64::MAX, None)]
    fn a_duration_counts_below_the_next_bound(#[case] ns: u64, #[case] micros: Option<u64>) {
        let mut histogram = Histogram::default();
        histogram.record(ns);
        assert_eq!(histogram.quantile(1.0), micros.map(Duration::from_micros));
        assert_eq!(histogram.count(), 1);
        assert_eq!(histogram.sum(), Duration::from_nanos(ns));
    }

    #[test]
    fn quantiles_are_bounds_that_the_share_keeps() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for _ in 0..98 {
            histogram.record(3_000);
        }
        histogram.record(100_000);
        histogram.record(u64::MAX);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(4)));
        assert_eq!(histogram.quantile(0.99), Some(Duration::from_micros(128)));
        assert_eq!(histogram.quantile(1.0), None);
        assert_eq!(histogram.cumulative().last().map(|(_, n)| n), Some(99));
    }
}
