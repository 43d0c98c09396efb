//! Waiting time before the next attempt to connect: doubled each time, with a random part.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// The first wait, without jitter.
const FIRST: Duration = Duration::from_millis(200);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(10);

/// Waiting times of growing length.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Starts over after a good connection.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Returns the next waiting time. Half of it is random, so that agents that lost the same
    /// collector do not reconnect all at once.
    pub(super) fn wait(&mut self) -> Duration {
        self.wait_by(RandomState::new().hash_one(0))
    }

    fn wait_by(&mut self, chance: u64) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(LONGEST);
        let range = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_nanos(chance % range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_over_after_a_good_connection() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..10).map(|_| backoff.wait_by(0).as_millis()).collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000]
        );
        backoff.reset();
        assert_eq!(backoff.wait_by(0).as_millis(), 100);
    }

    #[test]
    fn chance_stays_within_the_second_half() {
        for chance in [1, 12_345_678_901, u64::MAX] {
            let wait = Backoff::new().wait_by(chance);
            assert!((FIRST / 2..FIRST).contains(&wait), "{wait:?}");
        }
        let mut backoff = Backoff::new();
        assert!((FIRST / 2..FIRST).contains(&backoff.wait()));
    }
}
