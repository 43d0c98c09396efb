//! Store on disk: the sightings of each RRset, and the index that finds the RRsets.
//!
//! A store is a folder with a database of fjall (sorted keys, atomic batches). It has three keyspaces: `rrsets` and
//! `index`, whose keys `key` describes, and `meta`. Each [`Store::add`] is atomic: if the process or the machine dies,
//! either everything of it is in the store or nothing. The data is on disk when the call returns. The position in the
//! file that the data comes from ([`Mark`]) is written with it. So what was written is never counted a second time.
//!
//! Only one process at a time can open a store.

mod check;
mod key;
mod retention;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::{BlockSizePolicy, FilterPolicy},
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub(crate) use self::key::{
    DATA, NAME, NAME_FORWARD, OWNER_FORWARD, V4, V6, forward, short_hash, split_reversed, write,
};
use self::key::{Value, is_hashed, pull, push};
pub use self::{
    key::{Rrset, Seen},
    retention::{Removed, Retention},
};

/// Number of the layout of keys and values. Another layout gets another number.
const FORMAT: &[u8] = b"1";

/// Size of the memtable of a keyspace, in bytes. A full memtable is written to a file.
const MEMTABLE: u64 = 8 << 20;

/// Size of the cache for blocks, in bytes.
const CACHE: u64 = 16 << 20;

/// Largest size of the journal, in bytes. fjall accepts no smaller value.
const JOURNAL: u64 = 64 << 20;

/// Reason why a store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder does not exist or is empty.
    #[error("there is no store in {}; `pdns collect` makes one", .0.display())]
    None(PathBuf),
    /// The folder has other files.
    #[error("{} is no store of passive DNS, and not empty; name another folder", .0.display())]
    Foreign(PathBuf),
    /// Another process has the store open.
    #[error("the store in {} is open in another process; one at a time can use it", .0.display())]
    InUse(PathBuf),
    /// The store has a format that this version does not know.
    #[error("the store in {} has format {format:?}, which this version does not know", .0.display(), format = .1)]
    Format(PathBuf, String),
    /// A part of the store is missing, or is not as it was written.
    #[error("the store in {} is damaged ({what}); bring back a copy, or collect into a new one", .0.display(), what = .1)]
    Damaged(PathBuf, String),
    /// The operating system reports an error.
    #[error("cannot use the store in {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// Position up to which a file of messages was collected: a number of frames, and their hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// SHA-256 of the first frame, which identifies the file.
    pub first: [u8; 32],
    /// Number of frames that are in the store.
    pub frames: u64,
    /// SHA-256 of all these frames.
    pub digest: [u8; 32],
}

/// Sightings of an RRset by one origin.
pub type Counted = (Rrset, Seen, [u8; 16]);

/// Sightings to write: the key, the data that is too long for the key, and the times and count.
pub(crate) type Sightings<'a> = [(&'a [u8], &'a [u8], Seen)];

/// An open store.
pub struct Store {
    folder: PathBuf,
    database: Database,
    rrsets: Keyspace,
    index: Keyspace,
    meta: Keyspace,
    /// Unique id of the store.
    id: [u8; 16],
}

/// Figures of a store, as `pdns stats` prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Number of RRsets.
    pub rrsets: u64,
    /// Number of sightings of all RRsets.
    pub count: u64,
    /// Time of the first sighting, in seconds since 1970.
    pub first: Option<u64>,
    /// Time of the last sighting, in seconds since 1970.
    pub last: Option<u64>,
    /// Number of owners.
    pub owners: u64,
    /// Number of entries of the index.
    pub index: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes of the journal, which is as large for a small store as for a large one. They are part of `bytes`.
    pub journal_bytes: u64,
    /// Number of files of messages whose position is known.
    pub files: u64,
    /// Number of RRsets of each type, largest first.
    pub types: Vec<(String, u64)>,
}

impl Store {
    /// Opens a store. If the folder does not exist or is empty, creates the store first.
    pub fn create(folder: &Path) -> Result<Self, StoreError> {
        let io = |error| StoreError::Io(folder.to_path_buf(), error);
        fs::create_dir_all(folder).map_err(io)?;
        clear_unfinished(folder).map_err(io)?;
        match check::is_there(folder) {
            Ok(()) | Err(StoreError::None(_)) => Self::begin(folder),
            Err(error) => Err(error),
        }
    }

    /// Opens an existing store.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::is_there(folder)?;
        Self::begin(folder)
    }

    /// Returns `Ok` if the folder has a store, or else the reason why not. Does not open the store.
    pub fn is_there(folder: &Path) -> Result<(), StoreError> {
        check::is_there(folder)
    }

    fn begin(folder: &Path) -> Result<Self, StoreError> {
        let io = |error| StoreError::Io(folder.to_path_buf(), error);
        if folder.join(check::COMPLETE).try_exists().map_err(io)?
            && let Some(what) = check::missing(folder).map_err(io)?
        {
            return Err(StoreError::Damaged(folder.to_path_buf(), what.to_owned()));
        }
        let failed = |error| failed(folder, error);
        let database = Database::builder(folder)
            .cache_size(CACHE)
            .max_journaling_size(JOURNAL)
            .worker_threads(2)
            .open()
            .map_err(failed)?;
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE)
                .data_block_size_policy(BlockSizePolicy::all(16 << 10))
        };
        let rrsets = database.keyspace("rrsets", options).map_err(failed)?;
        // The index is only scanned. No single key is looked up, so a filter would not help.
        let unfiltered = || options().filter_policy(FilterPolicy::disabled());
        let index = database.keyspace("index", unfiltered).map_err(failed)?;
        let meta = database.keyspace("meta", options).map_err(failed)?;
        let mut store = Self {
            folder: folder.to_path_buf(),
            database,
            rrsets,
            index,
            meta,
            id: [0; 16],
        };
        store.introduce()?;
        Ok(store)
    }

    /// Checks the format and reads the id of the store. A new store gets both.
    fn introduce(&mut self) -> Result<(), StoreError> {
        if let Some(format) = self
            .meta
            .get("format")
            .map_err(|error| self.failed(error))?
        {
            if *format != *FORMAT {
                let format = String::from_utf8_lossy(&format).into_owned();
                return Err(StoreError::Format(self.folder.clone(), format));
            }
            let id = self.meta.get("id").map_err(|error| self.failed(error))?;
            let id = id.and_then(|id| <[u8; 16]>::try_from(&*id).ok());
            self.id = id.ok_or_else(|| self.damaged("it has no name"))?;
            return Ok(());
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let folder = self.folder.as_os_str().as_encoded_bytes();
        let boot = fs::read("/proc/sys/kernel/random/uuid").unwrap_or_default();
        let hash: [u8; 32] = Sha256::new()
            .chain_update(folder)
            .chain_update(now.as_nanos().to_be_bytes())
            .chain_update(boot)
            .finalize()
            .into();
        self.id.copy_from_slice(&hash[..16]);
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "format", FORMAT);
        batch.insert(&self.meta, "id", self.id);
        batch.commit().map_err(|error| self.failed(error))
    }

    /// Returns the unique id of the store.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Adds sightings, and the position in their file, in one atomic batch. After all is on disk, passes the RRsets
    /// that were not there before to `new`, in the order of their keys. Returns the number of these RRsets.
    pub(crate) fn add(
        &self,
        sightings: &Sightings<'_>,
        mark: Option<&Mark>,
        new: &mut dyn FnMut(Rrset, Seen),
    ) -> Result<u64, StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        let mut fresh = Vec::new();
        for &(key, body, seen) in sightings {
            let is_hashed = is_hashed(key);
            let value = if let Some(mut value) = self.value(key)? {
                value.first = value.first.min(seen.first);
                value.last = value.last.max(seen.last);
                value.own = value.own.saturating_add(seen.count);
                value
            } else {
                let set = self.read_key(key, body)?;
                set.index(|entry| batch.insert(&self.index, entry, ""));
                fresh.push((set, seen));
                Value {
                    first: seen.first,
                    last: seen.last,
                    own: seen.count,
                    others: Vec::new(),
                    body: body.to_vec(),
                }
            };
            batch.insert(&self.rrsets, key, value.write(is_hashed));
        }
        if let Some(mark) = mark {
            let mut value = Vec::with_capacity(44);
            push(mark.frames, &mut value);
            value.extend(mark.digest);
            batch.insert(&self.meta, [&b"file/"[..], &mark.first].concat(), value);
        }
        batch.commit().map_err(|error| self.failed(error))?;
        let count = fresh.len() as u64;
        for (set, seen) in fresh {
            new(set, seen);
        }
        Ok(count)
    }

    /// Returns the position up to which the file with this first frame was collected.
    pub fn mark(&self, first: [u8; 32]) -> Result<Option<Mark>, StoreError> {
        let key = [&b"file/"[..], &first].concat();
        let Some(value) = self.meta.get(key).map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        let mut rest = &value[..];
        let frames = pull(&mut rest);
        let mark = frames.zip(rest.try_into().ok());
        let mark = mark.map(|(frames, digest)| Mark {
            first,
            frames,
            digest,
        });
        mark.ok_or_else(|| self.damaged("a file's place cannot be read"))
            .map(Some)
    }

    /// Returns the RRsets whose keys begin with `prefix`, in the order of their keys.
    pub(crate) fn rrsets(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Rrset, Seen), StoreError>> + use<'_> {
        self.values(prefix)
            .map(|item| item.map(|(set, value)| (set, value.seen())))
    }

    fn values(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Rrset, Value), StoreError>> + use<'_> {
        self.rrsets.prefix(prefix).map(|item| {
            let (key, value) = item.into_inner().map_err(|error| self.failed(error))?;
            let value = self.read_value(&key, &value)?;
            Ok((self.read_key(&key, &value.body)?, value))
        })
    }

    /// Returns the entries of the index between `from` and `to`, both included, and those that begin with `to`.
    pub(crate) fn index(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> + use<'_> {
        let end = to.to_vec();
        self.index
            .range(from..)
            .map(|item| item.key().map_err(|error| self.failed(error)))
            .map(|key| key.map(|key| key.to_vec()))
            .take_while(move |key| {
                let shared = |key: &[u8]| key[..end.len().min(key.len())].to_vec();
                key.as_ref().map_or(true, |key| shared(key) <= end)
            })
    }

    /// Merges sightings of any origins. For each RRset and origin, the store keeps the largest count that was ever
    /// merged.
    ///
    /// The origin is the id of a store or of a file; the store's own sightings have its [`id`](Self::id). Sightings
    /// that arrive twice, or over another path, change nothing.
    pub fn merge(&self, sets: &[Counted]) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        let mut changed: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
        // Read once, not for each origin: every line of a file may name another origin.
        let mut numbers = self.numbers()?;
        for (set, seen, origin) in sets {
            let (key, body) = set.key();
            let number = if *origin == self.id {
                None
            } else {
                Some(number_of(*origin, &mut numbers, |key| {
                    batch.insert(&self.meta, key, *origin);
                }))
            };
            if !changed.contains_key(&key) {
                let value = if let Some(value) = self.value(&key)? {
                    value
                } else {
                    set.index(|entry| batch.insert(&self.index, entry, ""));
                    Value {
                        first: seen.first,
                        last: seen.last,
                        own: 0,
                        others: Vec::new(),
                        body,
                    }
                };
                changed.insert(key.clone(), value);
            }
            let Some(value) = changed.get_mut(&key) else {
                continue;
            };
            value.first = value.first.min(seen.first);
            value.last = value.last.max(seen.last);
            match number {
                None => value.own = value.own.max(seen.count),
                Some(number) => value.count_of(number, seen.count),
            }
        }
        for (key, value) in changed {
            let is_hashed = is_hashed(&key);
            batch.insert(&self.rrsets, key, value.write(is_hashed));
        }
        batch.commit().map_err(|error| self.failed(error))
    }

    /// Returns the numbers that stand for other origins in values, and the next free number.
    fn numbers(&self) -> Result<Numbers, StoreError> {
        let origins = self.origins()?;
        let next = origins.last_key_value().map_or(0, |(last, _)| last + 1);
        let numbers = origins.into_iter().map(|(number, origin)| (origin, number));
        Ok((numbers.collect(), next))
    }

    fn origins(&self) -> Result<BTreeMap<u64, [u8; 16]>, StoreError> {
        let items = self.meta.prefix("origin/").map(|item| {
            let (key, value) = item.into_inner().map_err(|error| self.failed(error))?;
            let number = key.last_chunk().map(|number| u64::from_be_bytes(*number));
            let origin = number.zip(<[u8; 16]>::try_from(&*value).ok());
            origin.ok_or_else(|| self.damaged("an origin cannot be read"))
        });
        items.collect()
    }

    /// Returns every RRset with the sightings of each origin.
    pub fn sightings(
        &self,
    ) -> Result<impl Iterator<Item = Result<Counted, StoreError>> + use<'_>, StoreError> {
        let origins = self.origins()?;
        let each = self.values(&[]).flat_map(move |item| {
            let (set, value) = match item {
                Ok(item) => item,
                Err(error) => return vec![Err(error)],
            };
            let mut counts = vec![(self.id, value.own)];
            for (number, count) in &value.others {
                match origins.get(number) {
                    Some(origin) => counts.push((*origin, *count)),
                    None => return vec![Err(self.damaged("an origin is missing"))],
                }
            }
            let (first, last) = (value.first, value.last);
            counts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(origin, count)| Ok((set.clone(), Seen { first, last, count }, origin)))
                .collect()
        });
        Ok(each)
    }

    /// Counts everything. This reads the whole store.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let mut stats = Stats::default();
        let mut types: BTreeMap<u16, u64> = BTreeMap::new();
        let mut owner = None;
        for item in self.rrsets(&[]) {
            let (set, seen) = item?;
            stats.rrsets += 1;
            stats.count = stats.count.saturating_add(seen.count);
            stats.first = Some(
                stats
                    .first
                    .map_or(seen.first, |first| first.min(seen.first)),
            );
            stats.last = Some(stats.last.map_or(seen.last, |last| last.max(seen.last)));
            *types.entry(set.kind).or_default() += 1;
            if owner.as_ref() != Some(&set.owner) {
                stats.owners += 1;
                owner = Some(set.owner);
            }
        }
        let mut types: Vec<_> = types.into_iter().collect();
        types.sort_by_key(|(_, count)| u64::MAX - count);
        let named = |(kind, count)| (dnstap_core::dns::Type(kind).to_string(), count);
        stats.types = types.into_iter().map(named).collect();
        stats.index = self.index.len().map_err(|error| self.failed(error))? as u64;
        stats.files = self.meta.prefix("file/").count() as u64;
        stats.bytes = self.bytes()?;
        let journal = self.database.journal_disk_space();
        stats.journal_bytes = journal.map_err(|error| self.failed(error))?;
        Ok(stats)
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        self.database
            .disk_space()
            .map_err(|error| self.failed(error))
    }

    fn value(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        let value = self.rrsets.get(key).map_err(|error| self.failed(error))?;
        value.map(|value| self.read_value(key, &value)).transpose()
    }

    fn read_value(&self, key: &[u8], value: &[u8]) -> Result<Value, StoreError> {
        let value = Value::read(is_hashed(key), value);
        value.ok_or_else(|| self.damaged("an RRset cannot be read"))
    }

    fn read_key(&self, key: &[u8], body: &[u8]) -> Result<Rrset, StoreError> {
        Rrset::read(key, body).ok_or_else(|| self.damaged("the key of an RRset cannot be read"))
    }

    pub(crate) fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged(self.folder.clone(), what.to_owned())
    }

    fn failed(&self, error: fjall::Error) -> StoreError {
        failed(&self.folder, error)
    }
}

type Numbers = (HashMap<[u8; 16], u64>, u64);

/// Returns the number of an origin. For a new origin, calls `write` with the key under which the origin must be stored.
fn number_of(origin: [u8; 16], (numbers, next): &mut Numbers, write: impl FnOnce(Vec<u8>)) -> u64 {
    *numbers.entry(origin).or_insert_with(|| {
        let number = *next;
        *next += 1;
        write([&b"origin/"[..], &number.to_be_bytes()].concat());
        number
    })
}

/// Files and folders that fjall creates before a store is complete.
const UNFINISHED: [&str; 3] = ["0.jnl", "keyspaces", "lock"];

/// Removes the remains of a process that died while it created a store. Only remains without data are removed: fjall
/// writes no data before the store is complete.
fn clear_unfinished(folder: &Path) -> io::Result<()> {
    let files: io::Result<Vec<_>> = fs::read_dir(folder)?.collect();
    let mut names = files?.into_iter().map(|file| file.file_name());
    let is_unfinished = names.all(|name| UNFINISHED.iter().any(|known| name == *known));
    if !is_unfinished || !folder.join("lock").exists() || !holds_nothing(folder)? {
        return Ok(());
    }
    let lock = fs::File::options().write(true).open(folder.join("lock"))?;
    // Another process is creating the store.
    if lock.try_lock().is_err() {
        return Ok(());
    }
    let absent_is_fine = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    absent_is_fine(fs::remove_file(folder.join("0.jnl")))?;
    absent_is_fine(fs::remove_dir_all(folder.join("keyspaces")))?;
    absent_is_fine(fs::remove_file(folder.join("lock")))
}

/// Returns whether the remains of an unfinished store have no data: the lock is empty, there is no keyspace, and the
/// journal has only the zeroes of its allocation.
fn holds_nothing(folder: &Path) -> io::Result<bool> {
    let lock = fs::metadata(folder.join("lock"))?;
    if !lock.is_file() || lock.len() > 0 {
        return Ok(false);
    }
    match fs::read_dir(folder.join("keyspaces")) {
        Ok(mut keyspaces) => {
            if keyspaces.next().is_some() {
                return Ok(false);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match fs::read(folder.join("0.jnl")) {
        Ok(journal) => Ok(journal.iter().all(|byte| *byte == 0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn failed(folder: &Path, error: fjall::Error) -> StoreError {
    let folder = folder.to_path_buf();
    match error {
        fjall::Error::Locked => StoreError::InUse(folder),
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                    StoreError::Damaged(folder, error.to_string())
                }
                _ => StoreError::Io(folder, error),
            }
        }
        fjall::Error::Poisoned => StoreError::Io(
            folder,
            io::Error::other("an earlier write has failed, as the log says; is the disk full?"),
        ),
        error => StoreError::Damaged(folder, error.to_string()),
    }
}

#[cfg(test)]
mod tests;
