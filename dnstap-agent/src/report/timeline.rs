//! Counts over time in a bounded number of buckets: when the time does not fit into them, each becomes twice as long.

use std::collections::VecDeque;

use dnstap_core::model::KindCounts;
use dnstap_proto::message::Type;

/// Buckets at most: more than a plot has room for would not be seen.
const MOST: u64 = 240;

/// Length of the first buckets, in nanoseconds: 1 ms.
const SHORTEST: u64 = 1_000_000;

/// Response codes that are counted by themselves; those from here on count together.
const RCODES: usize = 24;

/// Messages by type and by response code over time.
#[derive(Debug)]
pub(super) struct Timeline {
    width_ns: u64,
    /// Buckets of this length before the first one since 1970.
    first: u64,
    buckets: VecDeque<Bucket>,
}

/// What happened in one bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// Messages by type.
    pub(super) kinds: KindCounts,
    /// Responses by response code; the last one is for all that are larger.
    pub(super) rcodes: [u64; RCODES + 1],
}

impl Bucket {
    fn add(&mut self, other: &Self) {
        for (kind, count) in other.kinds.iter() {
            self.kinds.add(kind, count);
        }
        for (count, more) in self.rcodes.iter_mut().zip(other.rcodes) {
            *count += more;
        }
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width_ns: SHORTEST,
            first: 0,
            buckets: VecDeque::new(),
        }
    }
}

impl Timeline {
    /// Counts a message of that time (nanoseconds since 1970), and its response code if it is a response.
    pub(super) fn count(&mut self, at: u64, kind: Type, rcode: Option<u16>) {
        let Some(bucket) = self.bucket(at) else {
            return;
        };
        bucket.kinds.count(kind);
        if let Some(rcode) = rcode {
            bucket.rcodes[usize::from(rcode).min(RCODES)] += 1;
        }
    }

    /// Length of each bucket, in nanoseconds.
    pub(super) fn width_ns(&self) -> u64 {
        self.width_ns
    }

    /// All buckets with the times at which they begin (nanoseconds since 1970), without gaps.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u64, &Bucket)> {
        (self.first..)
            .zip(&self.buckets)
            .map(|(number, bucket)| (number * self.width_ns, bucket))
    }

    /// The bucket of that time, after room was made for it.
    fn bucket(&mut self, at: u64) -> Option<&mut Bucket> {
        if self.buckets.is_empty() {
            self.first = at / self.width_ns;
            self.buckets.push_back(Bucket::default());
        }
        let mut number = at / self.width_ns;
        while number.max(self.last()) - number.min(self.first) >= MOST {
            self.double();
            number = at / self.width_ns;
        }
        while number < self.first {
            self.buckets.push_front(Bucket::default());
            self.first -= 1;
        }
        while number > self.last() {
            self.buckets.push_back(Bucket::default());
        }
        self.buckets
            .get_mut(usize::try_from(number - self.first).ok()?)
    }

    fn last(&self) -> u64 {
        self.first + (self.buckets.len() as u64).saturating_sub(1)
    }

    fn double(&mut self) {
        let mut merged: VecDeque<Bucket> = VecDeque::new();
        let first = self.first / 2;
        for (number, bucket) in (self.first..).zip(&self.buckets) {
            if number / 2 - first == merged.len() as u64 {
                merged.push_back(Bucket::default());
            }
            if let Some(last) = merged.back_mut() {
                last.add(bucket);
            }
        }
        (self.first, self.buckets) = (first, merged);
        self.width_ns *= 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_is_counted_whatever_the_times_and_memory_is_bounded(times in prop::collection::vec(any::<u64>(), 1..50)) {
            let mut timeline = Timeline::default();
            for at in &times {
                timeline.count(*at, Type::ClientResponse, Some(3));
            }
            let of = |bucket: &Bucket| (bucket.kinds.total(), bucket.rcodes[3]);
            let all = timeline.buckets().map(|(_, bucket)| of(bucket));
            let all = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            prop_assert_eq!(all, (times.len() as u64, times.len() as u64));
            prop_assert!(timeline.buckets.len() as u64 <= MOST);
        }
    }

    #[test]
    fn a_message_is_in_the_bucket_of_its_time_after_buckets_were_merged() {
        let mut timeline = Timeline::default();
        let second = 1_000_000_000;
        for at in [100, 100, 101, 90, 400] {
            timeline.count(at * second, Type::ClientQuery, None);
        }
        let width = timeline.width_ns();
        assert_eq!(width, SHORTEST << 11);
        let counted: Vec<_> = timeline
            .buckets()
            .map(|(begin, bucket)| (begin, bucket.kinds.of(Type::ClientQuery)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let begin = |at: u64| at * second / width * width;
        assert_eq!(
            counted,
            [
                (begin(90), 1),
                (begin(100), 2),
                (begin(101), 1),
                (begin(400), 1)
            ]
        );
    }

    #[test]
    fn rcodes_without_a_place_of_their_own_count_together() {
        let mut timeline = Timeline::default();
        for rcode in [24, 4095, u16::MAX, 23] {
            timeline.count(1, Type::AuthResponse, Some(rcode));
        }
        let (_, bucket) = timeline.buckets().next().expect("a bucket");
        assert_eq!(bucket.rcodes[23..], [1, 3]);
    }
}
