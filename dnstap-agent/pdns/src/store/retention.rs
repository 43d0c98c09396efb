//! Removes old RRsets from a store, as the limits of age and size require.

use std::collections::{BTreeMap, BTreeSet};

use fjall::PersistMode;

use super::{
    NAME, NAME_FORWARD, Rrset, Store, StoreError,
    key::{Value, forward},
};
use crate::name::{Name, reverse};

/// Number of removals after which a batch is written.
const BATCH: usize = 10_000;

/// Seconds in an hour. Retention by size removes whole hours, except in the newest hour.
const HOUR: u64 = 3600;

/// Largest number of times that the size is checked again: the size of an RRset on disk is only an estimate.
const ROUNDS: usize = 4;

/// Limits for what stays in a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// RRsets that were last seen before this time (seconds since 1970) are removed.
    pub since: Option<u64>,
    /// If the store without its journal takes more bytes on disk than this, the RRsets that were seen longest ago are
    /// removed.
    pub bytes: Option<u64>,
}

/// Result of [`Store::compact`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Number of RRsets that were removed.
    pub rrsets: u64,
    /// Bytes on disk before and after.
    pub bytes: (u64, u64),
}

impl Store {
    /// Removes the RRsets beyond the limits, and compacts the files of the store.
    pub fn compact(&self, retention: Retention) -> Result<Removed, StoreError> {
        let mut removed = Removed {
            bytes: (self.bytes()?, 0),
            ..Removed::default()
        };
        if let Some(since) = retention.since {
            removed.rrsets += self.remove_before(since)?;
        }
        self.squeeze()?;
        for _ in 0..ROUNDS {
            let journal = self.database.journal_disk_space();
            let journal = journal.map_err(|error| self.failed(error))?;
            let files = self.bytes()?.saturating_sub(journal);
            let Some(most) = retention.bytes.filter(|most| files > *most) else {
                break;
            };
            let Some(since) = self.time_that_leaves(most, files)? else {
                break;
            };
            removed.rrsets += self.remove_before(since)?;
            self.squeeze()?;
        }
        removed.bytes.1 = self.bytes()?;
        Ok(removed)
    }

    fn squeeze(&self) -> Result<(), StoreError> {
        for keyspace in [&self.rrsets, &self.index, &self.meta] {
            let done = keyspace.rotate_memtable_and_wait();
            done.and_then(|()| keyspace.major_compact())
                .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Returns a time: the RRsets that were last seen since then take about `most` bytes, if all RRsets take `all`
    /// bytes. The time is the start of an hour, or in the newest hour a second. RRsets that were seen in the newest
    /// second always stay.
    fn time_that_leaves(&self, most: u64, all: u64) -> Result<Option<u64>, StoreError> {
        let hours = self.sizes_by(HOUR, 0)?;
        let Some((&newest, &size_of_newest)) = hours.last_key_value() else {
            return Ok(None);
        };
        let total: u64 = hours.values().sum();
        let allowed = u128::from(total) * u128::from(most) / u128::from(all.max(1));
        let mut left = u128::from(total);
        // The whole newest hour stays if there is room for it. Only otherwise are its seconds of interest.
        let seconds = if u128::from(size_of_newest) > allowed {
            self.sizes_by(1, newest)?
        } else {
            BTreeMap::from([(newest, size_of_newest)])
        };
        let older = hours.range(..newest).chain(&seconds);
        let mut since = newest;
        for (time, size) in older {
            since = *time;
            if left <= allowed {
                break;
            }
            left = left.saturating_sub(u128::from(*size));
        }
        Ok(Some(since))
    }

    /// Returns the estimated bytes of the RRsets that were last seen in each span of `step` seconds, from time `since` on.
    fn sizes_by(&self, step: u64, since: u64) -> Result<BTreeMap<u64, u64>, StoreError> {
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        for item in self.values(&[]) {
            let (set, value) = item?;
            if value.last < since {
                continue;
            }
            let size = set.data.iter().map(|data| data.len() + 3).sum::<usize>();
            let size = (size + set.owner.wire().len() + 20) as u64;
            *sizes.entry(value.last / step * step).or_default() += size;
        }
        Ok(sizes)
    }

    /// Removes the RRsets that were last seen before `since`, and the index entries that they alone had. Returns the
    /// number of removed RRsets.
    fn remove_before(&self, since: u64) -> Result<u64, StoreError> {
        let mut batch = self.database.batch();
        let mut removed = 0;
        let mut names = BTreeSet::new();
        let mut of_owner: Vec<(Rrset, Value)> = Vec::new();
        let mut values = self.values(&[]);
        loop {
            let next = values.next().transpose()?;
            let is_same = next.as_ref().is_some_and(|(set, _)| {
                of_owner
                    .last()
                    .is_none_or(|(last, _)| last.owner == set.owner)
            });
            if !is_same {
                removed += self.remove_of(&of_owner, since, &mut batch, &mut names);
                of_owner.clear();
            }
            if batch.len() >= BATCH || next.is_none() {
                let full = std::mem::replace(&mut batch, self.database.batch());
                full.durability(Some(PersistMode::SyncAll))
                    .commit()
                    .map_err(|error| self.failed(error))?;
                self.forget_names(&std::mem::take(&mut names))?;
            }
            match next {
                Some(item) => of_owner.push(item),
                None => break,
            }
        }
        Ok(removed)
    }

    /// Removes the old RRsets of an owner, and the index entries that none of its other RRsets has. `sets` are all
    /// RRsets of the owner. Returns the number of removed RRsets.
    fn remove_of(
        &self,
        sets: &[(Rrset, Value)],
        since: u64,
        batch: &mut fjall::OwnedWriteBatch,
        names: &mut BTreeSet<Vec<u8>>,
    ) -> u64 {
        let (old, kept): (Vec<_>, Vec<_>) = sets.iter().partition(|(_, value)| value.last < since);
        if old.is_empty() {
            return 0;
        }
        let mut stays = BTreeSet::new();
        for (set, _) in kept {
            set.index(|entry| {
                stays.insert(entry);
            });
        }
        for (set, _) in &old {
            batch.remove(&self.rrsets, set.key().0);
            set.index(|entry| match entry.first() {
                // This entry does not contain the owner, so another owner may still need it.
                Some(&NAME_FORWARD) => {
                    names.insert(entry);
                }
                _ if stays.contains(&entry) => {}
                _ => batch.remove(&self.index, entry),
            });
        }
        old.len() as u64
    }

    /// Removes names from the index that are in no data any more.
    fn forget_names(&self, names: &BTreeSet<Vec<u8>>) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for entry in names {
            let name = Name::from_wire(&[&entry[1..], &[0]].concat());
            let Some(name) = name else { continue };
            let mut backward = vec![NAME];
            reverse(name.wire(), &mut backward);
            let is_used = self.index.prefix(backward).next();
            if is_used
                .map(fjall::Guard::key)
                .transpose()
                .map_err(|error| self.failed(error))?
                .is_none()
            {
                batch.remove(&self.index, forward(NAME_FORWARD, name.wire()));
            }
        }
        batch.commit().map_err(|error| self.failed(error))
    }
}
