//! Counts the most frequent keys among more keys than fit into memory (Misra and Gries, "Finding
//! repeated elements", 1982).
//!
//! At most [`MOST`] keys are stored. When there are more, the count of the [`KEPT`]th most frequent
//! key is subtracted from every count, and keys with nothing left are removed. So a flood of names
//! that occur once each cannot push out frequent ones. Until the first such reduction the counts
//! are exact. Afterwards a count may be too low by the sum of the subtracted amounts, never too
//! high. This sum is at most the number of all counted occurrences divided by [`KEPT`].

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use foldhash::fast::RandomState;

/// Most keys that remain after a reduction.
pub(crate) const KEPT: usize = 512;

/// Most keys stored.
pub(crate) const MOST: usize = 2 * KEPT;

/// Counts by key.
#[derive(Debug)]
pub(crate) struct Frequent<K> {
    counts: HashMap<K, u64, RandomState>,
    total: u64,
    taken: u64,
}

impl<K> Default for Frequent<K> {
    fn default() -> Self {
        Self {
            counts: HashMap::default(),
            total: 0,
            taken: 0,
        }
    }
}

impl<K: Hash + Eq + Ord> Frequent<K> {
    /// Counts an occurrence. An owned key is made only if the key is new.
    pub(crate) fn count<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
    {
        self.total += 1;
        if let Some(count) = self.counts.get_mut(key) {
            *count += 1;
            return;
        }
        self.counts.insert(key.to_owned(), 1);
        if self.counts.len() > MOST {
            self.reduce();
        }
    }

    fn reduce(&mut self) {
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let (_, &mut kept, _) = counts.select_nth_unstable_by(KEPT, |one, other| other.cmp(one));
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(kept);
            *count > 0
        });
        self.taken += kept;
    }

    /// Returns the combined counts as text, the most frequent first, at most `most` of them.
    pub(crate) fn ranking<'a>(
        all: impl Iterator<Item = &'a Self>,
        most: usize,
        shown: impl Fn(&K) -> String,
    ) -> Ranking
    where
        K: 'a,
    {
        let mut sums: HashMap<&K, u64, RandomState> = HashMap::default();
        let (mut total, mut short_by) = (0, 0);
        for one in all {
            total += one.total;
            short_by += one.taken;
            for (key, count) in &one.counts {
                *sums.entry(key).or_default() += count;
            }
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        // Order equal counts by key; otherwise rows would change places at each update.
        let order = |one: &(&K, u64), other: &(&K, u64)| {
            other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0))
        };
        if sums.len() > most {
            sums.select_nth_unstable_by(most, order);
            sums.truncate(most);
        }
        sums.sort_unstable_by(order);
        Ranking {
            rows: sums
                .into_iter()
                .map(|(key, count)| (shown(key), count))
                .collect(),
            total,
            short_by,
        }
    }
}

/// The most frequent keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranking {
    /// Keys with their counts, the largest first.
    pub(crate) rows: Vec<(String, u64)>,
    /// Number of all counted occurrences, including those without a row.
    pub(crate) total: u64,
    /// Amount by which each count may be too low.
    pub(crate) short_by: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_keys_are_counted_exactly_and_ranked() {
        let (mut one, mut other) = (Frequent::<String>::default(), Frequent::default());
        for name in ["b", "a", "c", "c"] {
            one.count(name);
        }
        other.count("c");
        let ranking = Frequent::ranking([&one, &other].into_iter(), 2, String::clone);
        let expected = Ranking {
            rows: vec![("c".to_owned(), 3), ("a".to_owned(), 1)],
            total: 5,
            short_by: 0,
        };
        assert_eq!(ranking, expected);
    }

    #[test]
    fn a_flood_of_keys_takes_bounded_memory_and_cannot_hide_a_frequent_one() {
        let mut counts = Frequent::<u32>::default();
        let (flood, often) = (100_000_u32, 1_000_u64);
        for nth in 0..flood {
            counts.count(&(nth + 1));
            if nth % 100 == 0 {
                counts.count(&0);
            }
            assert!(counts.counts.len() <= MOST);
        }
        let ranking = Frequent::ranking([&counts].into_iter(), 1, u32::to_string);
        let [(key, count)] = &ranking.rows[..] else {
            panic!("{ranking:?}")
        };
        assert_eq!(key, "0");
        assert_eq!(ranking.total, u64::from(flood) + often);
        assert!(
            *count <= often && count + ranking.short_by >= often,
            "{ranking:?}"
        );
        assert!(
            ranking.short_by <= ranking.total / KEPT as u64,
            "{ranking:?}"
        );
    }
}
