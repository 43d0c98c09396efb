//! Memory in front of the store. It combines repeated sightings of an RRset, so that one write stores many sightings.
//! It has a hard limit in bytes.
//!
//! An RRset that was seen twice between two writes stays in memory after the write, with no sightings to write, so that
//! its entry need not be created again. An RRset that was seen once, or not at all, is removed with the write.

use foldhash::{HashMap, HashMapExt as _};

use crate::store::Seen;

/// Estimated bytes that an entry needs besides its key and data: a slot in the map, and two allocations.
const OVERHEAD: usize = 120;

/// RRsets with sightings that are not written yet, and RRsets that are seen often.
#[derive(Debug)]
pub(crate) struct Front {
    entries: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
    /// Bytes of the entries that were added since the last write. At most half of the limit, because new RRsets take
    /// far more memory while they are written.
    fresh: usize,
    limit: usize,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// Sightings since the last write.
    pub(crate) seen: Option<Seen>,
    /// Data that is too long for the key.
    pub(crate) body: Box<[u8]>,
}

impl Front {
    /// Creates the memory with this limit in bytes.
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

    /// Returns whether the longest message could exceed the limit, so that it is time to write.
    pub(crate) fn is_full(&self) -> bool {
        // The RRsets of a message of 64 KiB can take far more than 64 KiB: a record of eleven bytes can have an owner
        // of 255 bytes, which its key contains.
        const MESSAGE: usize = 1 << 20;
        let half = self.limit / 2;
        let message = MESSAGE.min(half / 2);
        self.bytes + message > self.limit || self.fresh + message > half
    }

    /// Returns the sightings to write, in the order of their keys.
    pub(crate) fn unwritten(&self) -> Vec<(&[u8], &[u8], Seen)> {
        let entries = self.entries.iter();
        let mut unwritten: Vec<_> = entries
            .filter_map(|(key, entry)| Some((&**key, &*entry.body, entry.seen?)))
            .collect();
        unwritten.sort_unstable_by_key(|(key, ..)| *key);
        unwritten
    }

    /// Marks all sightings as written. Keeps the RRsets that are seen often, up to half of the limit.
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

    /// Returns the bytes that the entries take.
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
