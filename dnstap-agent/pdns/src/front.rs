//! Owns the memory in front of the store, which folds what is seen again and again: a hard limit of bytes, and one write for many sightings.
//!
//! What has been seen twice between two writes stays, with nothing to write, so that it need not be made new; what has been seen once, or
//! not again, goes with the write.

use foldhash::{HashMap, HashMapExt as _};

use crate::store::Seen;

/// What an entry takes besides its key and data: the map's slot, two allocations.
const OVERHEAD: usize = 120;

/// Sightings that are not written yet.
#[derive(Debug)]
pub(crate) struct Front {
    entries: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
    /// Of what came since the last write. Half of the limit at most: new RRsets take far more memory while they are written.
    fresh: usize,
    limit: usize,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// Since the last write.
    pub(crate) seen: Option<Seen>,
    /// Data that is too long for the key.
    pub(crate) body: Box<[u8]>,
}

impl Front {
    /// Of so many bytes at most.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            bytes: 0,
            fresh: 0,
            limit,
        }
    }

    /// Notes a sighting.
    pub(crate) fn note(&mut self, key: &[u8], body: &[u8], time: u64) {
        let one = Seen {
            first: time,
            last: time,
            count: 1,
        };
        if let Some(entry) = self.entries.get_mut(key) {
            entry.seen = Some(entry.seen.map_or(one, |seen| seen.and(one)));
            return;
        }
        self.bytes += size(key, body);
        self.fresh += size(key, body);
        let entry = Entry {
            seen: Some(one),
            body: body.into(),
        };
        self.entries.insert(key.into(), entry);
    }

    /// Whether a message of the longest kind could go beyond the limit: it is time to write.
    pub(crate) fn is_full(&self) -> bool {
        // Keys have an owner of up to 255 bytes for a record of eleven bytes and more.
        const MESSAGE: usize = 1 << 20;
        let half = self.limit / 2;
        let message = MESSAGE.min(half / 2);
        self.bytes + message > self.limit || self.fresh + message > half
    }

    /// What is to be written, in the order of the keys.
    pub(crate) fn unwritten(&self) -> Vec<(&[u8], &[u8], Seen)> {
        let entries = self.entries.iter();
        let mut unwritten: Vec<_> = entries
            .filter_map(|(key, entry)| Some((&**key, &*entry.body, entry.seen?)))
            .collect();
        unwritten.sort_unstable_by_key(|(key, ..)| *key);
        unwritten
    }

    /// All is written: keeps what is seen often, up to half of the limit.
    pub(crate) fn settle(&mut self) {
        let half = self.limit / 2;
        let mut bytes = 0;
        self.entries.retain(|key, entry| {
            let size = size(key, &entry.body);
            let stays = entry.seen.is_some_and(|seen| seen.count > 1) && bytes + size <= half;
            entry.seen = None;
            bytes += if stays { size } else { 0 };
            stays
        });
        (self.bytes, self.fresh) = (bytes, 0);
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn size(key: &[u8], body: &[u8]) -> usize {
    key.len() + body.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sightings_are_folded_and_what_was_written_does_not_come_again() {
        let mut front = Front::new(10_000);
        for (key, time) in [(b"b", 5), (b"a", 7), (b"b", 3), (b"b", 9)] {
            front.note(key, b"", time);
        }
        let seen = |first, last, count| Seen { first, last, count };
        let expected: Vec<(&[u8], &[u8], Seen)> =
            vec![(b"a", b"", seen(7, 7, 1)), (b"b", b"", seen(3, 9, 3))];
        assert_eq!(front.unwritten(), expected);
        front.settle();
        assert_eq!(front.unwritten(), vec![]);
        assert_eq!((front.entries.len(), front.bytes()), (1, size(b"b", b"")));
        front.note(b"b", b"", 20);
        assert_eq!(
            front.unwritten(),
            vec![(&b"b"[..], &b""[..], seen(20, 20, 1))]
        );
    }

    #[test]
    fn the_limit_holds() {
        let mut front = Front::new(100_000);
        let mut writes = 0;
        for nth in 0..10_000_u32 {
            let key = (nth % 900).to_be_bytes();
            front.note(&key, b"", nth.into());
            assert!(front.bytes() <= 100_000 && front.fresh <= 50_000);
            if front.is_full() {
                front.settle();
                assert!(front.bytes() <= 50_000);
                writes += 1;
            }
        }
        assert!(writes > 10, "{writes}");
    }
}
