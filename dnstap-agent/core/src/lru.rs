//! A bounded table of sockets that drops the one used least recently.
//!
//! Entries live in one vector and are linked by index in order of use. A look-up that moves an
//! entry to the front costs a few stores, and a full table neither allocates nor frees.

use std::collections::HashMap;

use foldhash::fast::RandomState;

const NONE: u32 = u32::MAX;

/// Table from socket to `V` with a fixed capacity.
#[derive(Debug)]
pub struct Lru<V> {
    index: HashMap<u64, u32, RandomState>,
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    capacity: usize,
}

#[derive(Debug)]
struct Slot<V> {
    key: u64,
    newer: u32,
    older: u32,
    value: Option<V>,
}

impl<V> Lru<V> {
    /// Creates a table of at most `capacity` entries (at least 1).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, NONE as usize - 1);
        Self {
            index: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            capacity,
        }
    }

    /// Returns the number of entries.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns whether a new entry would displace another one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Returns the entry for `key` and makes it the newest.
    pub fn get(&mut self, key: u64) -> Option<&mut V> {
        let slot = *self.index.get(&key)?;
        self.touch(slot);
        self.slots[slot as usize].value.as_mut()
    }

    /// Returns the entry for `key` without making it the newest.
    pub fn peek(&mut self, key: u64) -> Option<&mut V> {
        let slot = *self.index.get(&key)?;
        self.slots[slot as usize].value.as_mut()
    }

    /// Adds an entry as the newest. Returns what it displaced: the previous value of `key` or the
    /// oldest entry.
    pub fn insert(&mut self, key: u64, value: V) -> Option<(u64, V)> {
        let displaced = match self.remove(key) {
            Some(previous) => Some((key, previous)),
            None if self.is_full() => self.pop_oldest(),
            None => None,
        };
        let entry = Slot {
            key,
            newer: NONE,
            older: NONE,
            value: Some(value),
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = entry;
            slot
        } else {
            self.slots.push(entry);
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        };
        self.index.insert(key, slot);
        self.link(slot);
        displaced
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: u64) -> Option<V> {
        let slot = self.index.remove(&key)?;
        self.unlink(slot);
        self.free.push(slot);
        self.slots[slot as usize].value.take()
    }

    /// Returns all values in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Removes the entries for which `is_out` is true. Returns them in no particular order.
    pub fn extract(&mut self, is_out: impl Fn(&V) -> bool) -> Vec<V> {
        let is_out = |slot: &&Slot<V>| slot.value.as_ref().is_some_and(&is_out);
        let keys: Vec<u64> = self
            .slots
            .iter()
            .filter(is_out)
            .map(|slot| slot.key)
            .collect();
        keys.into_iter()
            .filter_map(|key| self.remove(key))
            .collect()
    }

    /// Returns the entry used least recently.
    #[must_use]
    pub fn oldest(&self) -> Option<(u64, &V)> {
        let slot = self.slots.get(self.oldest as usize)?;
        slot.value.as_ref().map(|value| (slot.key, value))
    }

    /// Removes the entry used least recently.
    pub fn pop_oldest(&mut self) -> Option<(u64, V)> {
        let key = self.oldest()?.0;
        self.remove(key).map(|value| (key, value))
    }

    fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.unlink(slot);
            self.link(slot);
        }
    }

    fn link(&mut self, slot: u32) {
        let previous = self.newest;
        self.slots[slot as usize].older = previous;
        self.slots[slot as usize].newer = NONE;
        match self.slots.get_mut(previous as usize) {
            Some(entry) => entry.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { newer, older, .. } = self.slots[slot as usize];
        match self.slots.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn least_recently_used_entry_makes_room() {
        let mut table = Lru::new(2);
        table.insert(1, "one");
        table.insert(2, "two");
        table.get(1);
        assert_eq!(table.insert(3, "three"), Some((2, "two")));
        assert_eq!(table.insert(3, "drei"), Some((3, "three")));
        assert_eq!(table.pop_oldest(), Some((1, "one")));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn extracted_entries_are_gone() {
        let mut table = Lru::new(3);
        for key in 1..=3 {
            table.insert(key, key);
        }
        let mut odd = table.extract(|value| value % 2 == 1);
        odd.sort_unstable();
        assert_eq!((odd, table.len()), (vec![1, 3], 1));
        assert_eq!(table.extract(|_| true), [2]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_in_order_of_use(steps in proptest::collection::vec((0..3u8, 0..12u64), 0..200)) {
            let mut table = Lru::new(5);
            let mut model: Vec<u64> = Vec::new();
            for (step, key) in steps {
                let known = model.iter().position(|k| *k == key);
                match step {
                    0 => {
                        if let Some(at) = known { model.remove(at); } else if model.len() == 5 { model.remove(0); }
                        model.push(key);
                        table.insert(key, key);
                    }
                    1 => {
                        prop_assert_eq!(table.get(key).copied(), known.map(|_| key));
                        if let Some(at) = known { model.remove(at); model.push(key); }
                    }
                    _ => {
                        prop_assert_eq!(table.remove(key), known.map(|_| key));
                        if let Some(at) = known { model.remove(at); }
                    }
                }
                prop_assert_eq!(table.oldest().map(|(key, _)| key), model.first().copied());
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
