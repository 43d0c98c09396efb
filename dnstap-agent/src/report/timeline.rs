//! Counts over time in a bounded number of buckets. When there are too many, the buckets become
//! longer. Only buckets with messages are stored, so one message with a wrong time takes one bucket
//! and does not lengthen the others.

use std::collections::BTreeMap;

use dnstap_core::model::KindCounts;
use dnstap_proto::message::Type;

/// Most buckets of a plot. More would be too narrow to see.
const SHOWN: u64 = 240;

/// Most buckets that are stored. They are more than the shown ones, so that a few outliers leave
/// enough for the rest.
const MOST: usize = 4 * 240;

/// Length of the first buckets, in nanoseconds: 1 ms.
const SHORTEST: u64 = 1_000_000;

/// Distance in nanoseconds within which messages always belong together: a minute.
const NEAR: u64 = 60_000_000_000;

/// Number of response codes with a count of their own. All higher codes are counted together.
const RCODES: usize = 24;

/// Messages by type and by response code over time.
#[derive(Debug)]
pub(super) struct Timeline {
    width_ns: u64,
    /// Buckets by their number, counted in buckets of this length since 1970.
    buckets: BTreeMap<u64, Bucket>,
}

/// Counts of one bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// Messages by type.
    pub(super) kinds: KindCounts,
    /// Responses by response code; the last one is for all that are larger.
    pub(super) rcodes: [u64; RCODES + 1],
    /// Times of the first and the last message; `None` if there is no message.
    span: Option<(u64, u64)>,
}

impl Bucket {
    fn add(&mut self, other: &Self) {
        for (kind, count) in other.kinds.iter() {
            self.kinds.add(kind, count);
        }
        for (count, more) in self.rcodes.iter_mut().zip(other.rcodes) {
            *count += more;
        }
        if let Some((first, last)) = other.span {
            self.cover(first);
            self.cover(last);
        }
    }

    fn cover(&mut self, at: u64) {
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
    }
}

/// The period of nearly all messages, for plots.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// Length of each bucket, in nanoseconds.
    pub(super) width_ns: u64,
    /// All buckets with their start times (nanoseconds since 1970), without gaps.
    pub(super) buckets: Vec<(u64, Bucket)>,
    /// Messages before and after that period: their number, and the times of the first and the
    /// last.
    pub(super) outside: Vec<(u64, u64, u64)>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width_ns: SHORTEST,
            buckets: BTreeMap::new(),
        }
    }
}

impl Timeline {
    /// Counts a message with this time (nanoseconds since 1970), and its response code if it is a
    /// response.
    pub(super) fn count(&mut self, at: u64, kind: Type, rcode: Option<u16>) {
        let bucket = self.buckets.entry(at / self.width_ns).or_default();
        bucket.kinds.count(kind);
        bucket.cover(at);
        if let Some(rcode) = rcode {
            bucket.rcodes[usize::from(rcode).min(RCODES)] += 1;
        }
        while self.buckets.len() > MOST {
            let merged = merged(self.buckets.iter(), 2);
            self.buckets = merged;
            self.width_ns *= 2;
        }
    }

    /// Returns the period of nearly all messages. At most one message in a hundred is left out, but
    /// always up to one of five or more messages. Those left out are further away from the others
    /// than the others are from each other.
    pub(super) fn bulk(&self) -> Bulk {
        let buckets: Vec<_> = self.buckets.iter().collect();
        let Some(core) = core(&buckets) else {
            return Bulk::default();
        };
        let (mut from, mut to) = core;
        // Buckets near the period belong to it, too.
        loop {
            let (first, last) = (*buckets[from].0, *buckets[to].0);
            let reach = (last - first + 1).max(NEAR / self.width_ns);
            if from > 0 && first - buckets[from - 1].0 <= reach {
                from -= 1;
            } else if to + 1 < buckets.len() && buckets[to + 1].0 - last <= reach {
                to += 1;
            } else {
                break;
            }
        }
        let (first, last) = (*buckets[from].0, *buckets[to].0);
        let mut factor = 1;
        while last / factor - first / factor >= SHOWN {
            factor *= 2;
        }
        let width_ns = self.width_ns.saturating_mul(factor);
        let mut shown = merged(buckets[from..=to].iter().copied(), factor);
        let all = first / factor..=last / factor;
        Bulk {
            width_ns,
            buckets: all
                .map(|number| {
                    let bucket = shown.remove(&number).unwrap_or_default();
                    (number.saturating_mul(width_ns), bucket)
                })
                .collect(),
            outside: [&buckets[..from], &buckets[to + 1..]]
                .into_iter()
                .filter_map(together)
                .collect(),
        }
    }
}

/// Returns the shortest run of buckets that has enough of all messages, as the indices of its first
/// and last bucket.
fn core(buckets: &[(&u64, &Bucket)]) -> Option<(usize, usize)> {
    let count = |place: usize| buckets[place].1.kinds.total();
    let total: u64 = (0..buckets.len()).map(count).sum();
    let spare = if total < 5 { 0 } else { (total / 100).max(1) };
    let (mut from, mut within) = (0, 0);
    let mut best: Option<(usize, usize)> = None;
    for to in 0..buckets.len() {
        within += count(to);
        while from < to && within - count(from) + spare >= total {
            within -= count(from);
            from += 1;
        }
        let length = |(from, to): (usize, usize)| buckets[to].0 - buckets[from].0;
        if within + spare >= total && best.is_none_or(|best| length((from, to)) < length(best)) {
            best = Some((from, to));
        }
    }
    best
}

/// Merges buckets into ones that are `factor` times as long.
fn merged<'b>(
    buckets: impl Iterator<Item = (&'b u64, &'b Bucket)>,
    factor: u64,
) -> BTreeMap<u64, Bucket> {
    let mut merged = BTreeMap::<_, Bucket>::new();
    for (number, bucket) in buckets {
        merged.entry(number / factor).or_default().add(bucket);
    }
    merged
}

/// Returns the number of messages in the buckets, and the times of the first and the last.
fn together(buckets: &[(&u64, &Bucket)]) -> Option<(u64, u64, u64)> {
    let mut sum = Bucket::default();
    for (_, bucket) in buckets {
        sum.add(bucket);
    }
    sum.span
        .map(|(first, last)| (sum.kinds.total(), first, last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn timeline(times: impl IntoIterator<Item = u64>) -> Timeline {
        let mut timeline = Timeline::default();
        for at in times {
            timeline.count(at, Type::ClientResponse, Some(3));
        }
        timeline
    }

    /// Returns the seconds that have messages, with their numbers.
    fn seconds(bulk: &Bulk) -> Vec<(u64, u64)> {
        let all = bulk.buckets.iter();
        all.map(|(begin, bucket)| (begin / SECOND, bucket.kinds.total()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn all_is_counted_whatever_the_times_and_memory_is_bounded(times in prop::collection::vec(any::<u64>(), 1..2_000)) {
            let timeline = timeline(times.iter().copied());
            prop_assert!(timeline.buckets.len() <= MOST);
            let bulk = timeline.bulk();
            prop_assert!(bulk.buckets.len() as u64 <= SHOWN);
            let of = |bucket: &Bucket| (bucket.kinds.total(), bucket.rcodes[3]);
            let shown = bulk.buckets.iter().map(|(_, bucket)| of(bucket));
            let shown = shown.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            prop_assert_eq!(shown.0, shown.1);
            let outside: u64 = bulk.outside.iter().map(|(count, ..)| count).sum();
            prop_assert_eq!(shown.0 + outside, times.len() as u64);
            prop_assert!(outside <= (times.len() as u64 / 100).max(1));
            for (begin, bucket) in &bulk.buckets {
                if let Some((first, last)) = bucket.span {
                    prop_assert!(first >= *begin && last - begin < bulk.width_ns);
                }
            }
        }
    }

    #[test]
    fn a_message_is_in_the_bucket_of_its_time_after_buckets_were_merged() {
        let bulk = timeline([100, 100, 101, 90, 150].map(|at| at * SECOND)).bulk();
        assert_eq!(bulk.width_ns, SHORTEST << 8);
        let begin = |at: u64| at * SECOND / bulk.width_ns * bulk.width_ns / SECOND;
        assert_eq!(
            seconds(&bulk),
            [
                (begin(90), 1),
                (begin(100), 2),
                (begin(101), 1),
                (begin(150), 1)
            ]
        );
        assert_eq!(bulk.outside, []);
    }

    #[test]
    fn wrong_times_do_not_stretch_the_others_and_are_told() {
        const BEGIN: u64 = 1_800_000_000;
        const YEAR: u64 = 31_536_000;
        let usual = (0..1_000).map(|nth| (BEGIN + nth / 10) * SECOND);
        let alone = timeline(usual.clone()).bulk();
        let wrong = [0, 7, (BEGIN + YEAR) * SECOND + 5, u64::MAX];
        let bulk = timeline(wrong.into_iter().chain(usual)).bulk();
        assert_eq!(seconds(&bulk), seconds(&alone));
        assert_eq!(
            (bulk.width_ns, bulk.buckets.len()),
            (alone.width_ns, alone.buckets.len())
        );
        let later = (BEGIN + YEAR) * SECOND + 5;
        assert_eq!(bulk.outside, [(2, 0, 7), (2, later, u64::MAX)]);
    }

    #[test]
    fn one_of_five_may_be_wrong_and_one_of_four_may_not() {
        let far = 1_000_000 * SECOND;
        for (right, outside) in [(3, vec![]), (4, vec![(1, far, far)])] {
            let times = (0..right).map(|nth| nth * SECOND).chain([far]);
            assert_eq!(timeline(times).bulk().outside, outside);
        }
    }

    #[test]
    fn who_is_near_belongs_to_the_others_and_two_files_are_one_plot() {
        let burst = std::iter::repeat_n(SECOND, 1_000);
        let bulk = timeline(burst.clone().chain([60 * SECOND])).bulk();
        assert_eq!(bulk.outside, []);
        let files = burst.chain(std::iter::repeat_n(86_400 * SECOND, 20));
        assert_eq!(timeline(files).bulk().outside, []);
    }

    #[test]
    fn rcodes_without_a_place_of_their_own_count_together() {
        let mut timeline = Timeline::default();
        for rcode in [24, 4095, u16::MAX, 23] {
            timeline.count(1, Type::AuthResponse, Some(rcode));
        }
        let bulk = timeline.bulk();
        assert_eq!(bulk.buckets[0].1.rcodes[23..], [1, 3]);
    }
}
