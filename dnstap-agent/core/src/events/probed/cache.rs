//! Memory of what servers have put into their caches. It tells what an RRset does to a cache, because the call that
//! adds it does not tell.
//!
//! The memory follows BIND's rules (`add` in lib/dns/rbtdb.c and lib/dns/qpcache.c):
//!
//! - Data is refused if the cache has data of the same type with more trust, or the knowledge with more trust that there
//!   is none, and if neither its TTL has ended nor the new data is forced.
//! - NXDOMAIN replaces all data of a name. NODATA replaces the data of its type, and the other way round.
//! - New name servers get no longer TTL than those that they replace. Data that comes again keeps the shorter TTL.
//!
//! The memory has [`ENTRIES`] entries, and [`SERVER_BYTES`] for name servers. It gives up the entries that were used least
//! recently. It does not see what the server removes because memory is needed (LRU). So each outcome is marked as
//! inferred.

use std::{borrow::Cow, collections::BTreeMap, hash::BuildHasher as _, sync::Arc};

use dnstap_proto::{
    Cache, Expiry, NsChange,
    cache::Outcome,
    event::{Kind as Content, Phase},
    ns_change::Certainty,
};
use foldhash::fast::RandomState;

use super::{Report, flush::Flush, names, rrset::Rrset};

/// Most RRsets that are remembered.
const ENTRIES: usize = 65_536;

/// Most bytes for name servers of all entries.
const SERVER_BYTES: usize = 32 << 20;

/// Most ends of TTLs that one tick reports. The next tick reports the rest.
const ENDS: usize = 4_096;

const TYPE_NS: u16 = 2;
const TYPE_ANY: u16 = 255;

/// Identity of an RRset. Those of one name are beside each other, and behind them those of the names below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    process_id: u32,
    database: u64,
    /// See [`names::sortable`].
    owner: Box<[u8]>,
    /// 0: there are no records of the type `covers`.
    record_type: u16,
    covers: u16,
}

#[derive(Debug)]
struct Entry {
    /// Owner as the server has it.
    name: Box<[u8]>,
    class: u16,
    ttl: u32,
    trust: u16,
    /// Hash of the data; see [`Caches::hash`].
    data: u64,
    /// Whether records of it are not known.
    is_partial: bool,
    /// Names of the name servers, if it is an NS RRset.
    servers: Servers,
    /// Hash of the name servers before the last change.
    servers_before: Option<u64>,
    expires_ktime_ns: u64,
    /// Serial number of the last use.
    used: u64,
    has_ended: bool,
}

/// What the memory has that decides about an RRset.
struct Before<'c> {
    /// The same RRset, even if its TTL has ended.
    known: Option<&'c Entry>,
    /// The same RRset, if its TTL has not ended.
    live: Option<&'c Entry>,
    /// Largest trust in it, or in the knowledge that it does not exist.
    trust: Option<u16>,
}

impl Key {
    fn of(process_id: u32, rrset: &Rrset<'_>) -> Option<Self> {
        Some(Self {
            process_id,
            database: rrset.database,
            owner: names::sortable(rrset.owner)?,
            record_type: rrset.record_type,
            covers: rrset.covers,
        })
    }
}

impl Entry {
    fn new(ktime_ns: u64, rrset: &Rrset<'_>, data: u64) -> Self {
        Self {
            name: rrset.owner.into(),
            class: rrset.class,
            ttl: rrset.ttl,
            trust: rrset.trust,
            data,
            is_partial: rrset.omitted != 0,
            servers: servers(rrset),
            servers_before: None,
            expires_ktime_ns: ktime_ns.saturating_add(u64::from(rrset.ttl) * 1_000_000_000),
            used: 0,
            has_ended: false,
        }
    }
}

impl Before<'_> {
    /// Returns what becomes of the RRset, by BIND's rules.
    fn outcome(&self, rrset: &Rrset<'_>, fresh: &Entry) -> Outcome {
        let is_refused = !rrset.is_forced
            && !rrset.is_nxdomain
            && self.trust.is_some_and(|old| old > rrset.trust);
        // BIND gives the records in any order, so the known ones of a long RRset are not always the same.
        let is_same = |old: &Entry| old.is_partial || fresh.is_partial || old.data == fresh.data;
        match self.live {
            _ if is_refused => Outcome::Refused,
            _ if rrset.is_negative => Outcome::Negative,
            None => Outcome::Added,
            Some(old) if !is_same(old) => Outcome::Changed,
            Some(old) if old.trust < rrset.trust => Outcome::TrustRaised,
            Some(_) => Outcome::Refreshed,
        }
    }

    /// Returns the event.
    fn event(&self, rrset: &Rrset<'_>, outcome: Outcome) -> Cache {
        let record_type = if rrset.is_negative {
            rrset.covers
        } else {
            rrset.record_type
        };
        Cache {
            outcome: Some(outcome as i32),
            inferred: Some(true),
            known_before: Some(self.known.is_some() || self.trust.is_some()),
            name: Some(rrset.owner.to_vec().into()),
            class: Some(rrset.class.into()),
            r#type: Some(record_type.into()),
            covers: (!rrset.is_negative && rrset.covers != 0).then(|| rrset.covers.into()),
            ttl: Some(rrset.ttl),
            trust: Some(rrset.trust.into()),
            old_trust: self.trust.map(i32::from),
            rdata: rrset
                .rdata
                .iter()
                .map(|data| data.to_vec().into())
                .collect(),
            rdata_omitted: (rrset.omitted != 0).then(|| rrset.omitted.into()),
            ..Cache::default()
        }
    }
}

/// Names of name servers, sorted.
type Servers = Vec<Box<[u8]>>;

/// Memory of all caches.
#[derive(Debug, Default)]
pub(super) struct Caches {
    entries: BTreeMap<Arc<Key>, Entry>,
    /// Keys by serial number of their last use.
    uses: BTreeMap<u64, Arc<Key>>,
    /// Keys by the end of their TTL and serial number of their last use.
    ends: BTreeMap<(u64, u64), Arc<Key>>,
    /// Bytes of the name servers of all entries.
    server_bytes: usize,
    next_use: u64,
    forgotten: u64,
    hasher: RandomState,
}

impl Caches {
    /// Returns the number of entries that were given up.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Takes an RRset that a server puts into a cache.
    pub(super) fn add(
        &mut self,
        ktime_ns: u64,
        process_id: u32,
        rrset: &Rrset<'_>,
        reports: &mut Vec<Report>,
    ) {
        let Some(key) = Key::of(process_id, rrset) else {
            return;
        };
        let mut report = |content| {
            reports.push(Report {
                ktime_ns,
                process_id,
                phase: Phase::Point,
                view: None,
                content,
            });
        };
        let mut fresh = Entry::new(ktime_ns, rrset, self.hash(rrset));
        let opposites = self.opposites(&key);
        let before = self.before(ktime_ns, &key, &opposites);
        let outcome = before.outcome(rrset, &fresh);
        report(Content::Cache(before.event(rrset, outcome)));
        if outcome == Outcome::Refused {
            return;
        }
        fresh.servers_before = before.known.and_then(|known| known.servers_before);
        if let Some(old) = before.live {
            let replaces_servers = rrset.record_type == TYPE_NS && !rrset.is_negative;
            if replaces_servers || outcome == Outcome::Refreshed {
                fresh.expires_ktime_ns = fresh.expires_ktime_ns.min(old.expires_ktime_ns);
            }
            if replaces_servers && outcome == Outcome::Changed {
                report(Content::NsChange(change(rrset, old, &fresh)));
                fresh.servers_before = Some(old.data);
            }
        }
        if rrset.is_nxdomain {
            self.remove_name(process_id, &[rrset.database], &key.owner, false);
        }
        for key in opposites {
            self.remove(&key);
        }
        self.insert(key, fresh);
    }

    /// Returns what the memory has that decides about an RRset.
    fn before(&self, ktime_ns: u64, key: &Key, opposites: &[Key]) -> Before<'_> {
        let is_live = |entry: &&Entry| !entry.has_ended && entry.expires_ktime_ns > ktime_ns;
        let known = self.entries.get(key);
        let live = known.filter(is_live);
        let opposites = opposites.iter().filter_map(|key| self.entries.get(key));
        let trusts = live.into_iter().chain(opposites.filter(is_live));
        Before {
            known,
            live,
            trust: trusts.map(|entry| entry.trust).max(),
        }
    }

    /// Returns the keys of what the cache cannot have together with this key: data and the knowledge that there is none.
    fn opposites(&self, key: &Key) -> Vec<Key> {
        let with = |record_type, covers| Key {
            record_type,
            covers,
            ..key.clone()
        };
        let opposites = if key.record_type == 0 {
            vec![with(key.covers, 0)]
        } else if key.covers == 0 {
            vec![with(0, key.record_type), with(0, TYPE_ANY)]
        } else {
            Vec::new()
        };
        opposites
            .into_iter()
            .filter(|key| self.entries.contains_key(key))
            .collect()
    }

    /// Takes a removal.
    pub(super) fn flush(&mut self, process_id: u32, flush: &Flush<'_>) {
        let is_known = |database: &u64| self.of(process_id, *database).next().is_some();
        let databases: Vec<u64> = flush.databases.into_iter().filter(is_known).collect();
        match flush.name.map(names::sortable) {
            Some(Some(name)) => self.remove_name(process_id, &databases, &name, flush.tree),
            Some(None) => {}
            None => self.remove_name(process_id, &databases, &[], true),
        }
    }

    /// Forgets the caches of a process.
    pub(super) fn process_ended(&mut self, process_id: u32) {
        let gone: Vec<_> = self
            .entries
            .keys()
            .filter(|key| key.process_id == process_id)
            .map(Arc::clone)
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// Returns the keys of a cache.
    fn of(&self, process_id: u32, database: u64) -> impl Iterator<Item = &Arc<Key>> {
        let first = Key {
            process_id,
            database,
            owner: Box::default(),
            record_type: 0,
            covers: 0,
        };
        self.entries
            .range(Arc::new(first)..)
            .map(|(key, _)| key)
            .take_while(move |key| (key.process_id, key.database) == (process_id, database))
    }

    /// Removes all RRsets of a name, with `tree` also those of the names below it.
    fn remove_name(&mut self, process_id: u32, databases: &[u64], owner: &[u8], tree: bool) {
        for &database in databases {
            let first = Key {
                process_id,
                database,
                owner: owner.into(),
                record_type: 0,
                covers: 0,
            };
            let gone: Vec<_> = self
                .entries
                .range(Arc::new(first)..)
                .map(|(key, _)| key)
                .take_while(|key| {
                    (key.process_id, key.database) == (process_id, database)
                        && if tree {
                            key.owner.starts_with(owner)
                        } else {
                            *key.owner == *owner
                        }
                })
                .map(Arc::clone)
                .collect();
            for key in gone {
                self.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.server_bytes -= size(&entry.servers);
            self.uses.remove(&entry.used);
            self.ends.remove(&(entry.expires_ktime_ns, entry.used));
        }
    }

    fn insert(&mut self, key: Key, mut entry: Entry) {
        self.remove(&key);
        self.next_use += 1;
        entry.used = self.next_use;
        self.server_bytes += size(&entry.servers);
        let key = Arc::new(key);
        self.uses.insert(entry.used, Arc::clone(&key));
        self.ends
            .insert((entry.expires_ktime_ns, entry.used), Arc::clone(&key));
        self.entries.insert(key, entry);
        while (self.entries.len() > ENTRIES || self.server_bytes > SERVER_BYTES)
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.remove(&oldest);
            self.forgotten += 1;
        }
    }

    /// Reports the RRsets whose TTL has ended at kernel time `now_ktime_ns`. They stay in the memory, so that it is known
    /// what came before.
    pub(super) fn tick(&mut self, now_ktime_ns: u64, reports: &mut Vec<Report>) {
        for _ in 0..ENDS {
            let Some(first) = self.ends.first_entry() else {
                return;
            };
            if first.key().0 > now_ktime_ns {
                return;
            }
            let ((ktime_ns, _), key) = first.remove_entry();
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.has_ended = true;
            let is_negative = key.record_type == 0;
            reports.push(Report {
                ktime_ns,
                process_id: key.process_id,
                phase: Phase::Point,
                view: None,
                content: Content::Expiry(Expiry {
                    name: Some(entry.name.to_vec().into()),
                    class: Some(entry.class.into()),
                    r#type: Some(
                        if is_negative {
                            key.covers
                        } else {
                            key.record_type
                        }
                        .into(),
                    ),
                    covers: (!is_negative && key.covers != 0).then(|| key.covers.into()),
                    ttl: Some(entry.ttl),
                    trust: Some(entry.trust.into()),
                    inferred: Some(true),
                }),
            });
        }
    }

    /// Returns a hash of the data. The order of the records does not count, nor the case of name servers.
    fn hash(&self, rrset: &Rrset<'_>) -> u64 {
        let is_ns = rrset.record_type == TYPE_NS;
        let folded = |data: &&[u8]| is_ns.then(|| names::sortable(data)).flatten();
        let mut rdata: Vec<Cow<'_, [u8]>> = rrset
            .rdata
            .iter()
            .map(|data| folded(data).map_or(Cow::Borrowed(*data), |name| name.into_vec().into()))
            .collect();
        rdata.sort_unstable();
        self.hasher.hash_one(rdata)
    }
}

/// Returns the name servers of an NS RRset; of another one nothing.
fn servers(rrset: &Rrset<'_>) -> Servers {
    if rrset.record_type != TYPE_NS {
        return Servers::new();
    }
    let is_name = |data: &&&[u8]| names::is_name(data);
    let mut servers: Servers = rrset
        .rdata
        .iter()
        .filter(is_name)
        .map(|data| Box::from(*data))
        .collect();
    servers.sort_by_cached_key(|server| names::sortable(server));
    servers
}

/// Returns about how many bytes these names take, with their places in the list and on the heap.
fn size(servers: &Servers) -> usize {
    servers.iter().map(|server| server.len() + 32).sum()
}

/// Returns the event of a change of name servers.
fn change(rrset: &Rrset<'_>, old: &Entry, fresh: &Entry) -> NsChange {
    let list = |servers: &Servers| {
        servers
            .iter()
            .map(|server| server.to_vec().into())
            .collect()
    };
    let moved_back = fresh.servers_before == Some(fresh.data);
    NsChange {
        name: Some(rrset.owner.to_vec().into()),
        class: Some(rrset.class.into()),
        old_servers: list(&old.servers),
        new_servers: list(&fresh.servers),
        old_trust: Some(old.trust.into()),
        new_trust: Some(rrset.trust.into()),
        forced: Some(rrset.is_forced && rrset.trust < old.trust),
        certainty: Some(Certainty::Accepted as i32),
        moved_back: Some(moved_back),
        ttl: Some(rrset.ttl),
        ..NsChange::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::probed::rrset::fixture::address;

    const OWNER: &[u8] = b"\x01a\x04test\0";
    const SECOND: u64 = 1_000_000_000;

    fn add(caches: &mut Caches, at: u64, rrset: &Rrset<'_>) -> (Outcome, Cache, Option<NsChange>) {
        let mut reports = Vec::new();
        caches.add(at * SECOND, 7, rrset, &mut reports);
        let mut contents = reports.into_iter().map(|report| report.content);
        let Some(Content::Cache(cache)) = contents.next() else {
            panic!("no event");
        };
        let change = contents.next().map(|content| match content {
            Content::NsChange(change) => change,
            other => panic!("{other:?}"),
        });
        (cache.outcome(), cache, change)
    }

    fn outcome(caches: &mut Caches, at: u64, rrset: &Rrset<'_>) -> Outcome {
        add(caches, at, rrset).0
    }

    fn trusted(trust: u16, last: &[u8]) -> Rrset<'_> {
        Rrset {
            trust,
            ..address(OWNER, vec![last])
        }
    }

    fn negative(covers: u16, trust: u16) -> Rrset<'static> {
        Rrset {
            record_type: 0,
            covers,
            trust,
            is_negative: true,
            is_nxdomain: covers == TYPE_ANY,
            ..address(OWNER, vec![])
        }
    }

    fn delegation<'a>(trust: u16, servers: &[&'a [u8]]) -> Rrset<'a> {
        Rrset {
            record_type: TYPE_NS,
            trust,
            ..address(OWNER, servers.to_vec())
        }
    }

    fn ended(caches: &mut Caches, at: u64) -> Vec<(u64, u32)> {
        let mut reports = Vec::new();
        caches.tick(at * SECOND, &mut reports);
        let of = |report: Report| match report.content {
            Content::Expiry(expiry) => (report.ktime_ns / SECOND, expiry.r#type()),
            other => panic!("{other:?}"),
        };
        reports.into_iter().map(of).collect()
    }

    #[test]
    fn the_outcome_follows_from_what_came_before() {
        let mut caches = Caches::default();
        let (one, two) = (&[192, 0, 2, 1][..], &[192, 0, 2, 2][..]);
        let (first, event, _) = add(&mut caches, 0, &trusted(5, one));
        assert_eq!(
            (first, event.known_before, event.old_trust),
            (Outcome::Added, Some(false), None)
        );
        let (again, event, _) = add(&mut caches, 1, &trusted(5, one));
        assert_eq!(
            (again, event.known_before, event.old_trust),
            (Outcome::Refreshed, Some(true), Some(5))
        );
        assert_eq!(
            outcome(&mut caches, 2, &trusted(8, one)),
            Outcome::TrustRaised
        );
        assert_eq!(outcome(&mut caches, 3, &trusted(5, two)), Outcome::Refused);
        let forced = Rrset {
            is_forced: true,
            ..trusted(5, two)
        };
        assert_eq!(outcome(&mut caches, 4, &forced), Outcome::Changed);
        let (late, event, _) = add(&mut caches, 70, &trusted(4, one));
        assert_eq!(
            (late, event.known_before, event.old_trust),
            (Outcome::Added, Some(true), None),
            "the TTL has ended"
        );
        let elsewhere = Rrset {
            database: 2,
            ..trusted(4, one)
        };
        assert_eq!(outcome(&mut caches, 70, &elsewhere), Outcome::Added);
    }

    #[test]
    fn the_order_of_the_records_does_not_count() {
        let mut caches = Caches::default();
        let (one, two) = (&[192, 0, 2, 1][..], &[192, 0, 2, 2][..]);
        add(&mut caches, 0, &address(OWNER, vec![one, two]));
        assert_eq!(
            outcome(&mut caches, 1, &address(OWNER, vec![two, one])),
            Outcome::Refreshed
        );
        let upper = Rrset {
            owner: b"\x01A\x04TEST\0",
            ..address(OWNER, vec![two, one])
        };
        assert_eq!(outcome(&mut caches, 2, &upper), Outcome::Refreshed);
    }

    #[test]
    fn an_rrset_with_unknown_records_is_never_taken_for_a_change() {
        let (one, two) = (&b"\x03ns1\0"[..], &b"\x03ns2\0"[..]);
        for record_type in [1, TYPE_NS] {
            let rrset = |omitted, data| Rrset {
                record_type,
                omitted,
                ..address(OWNER, vec![data])
            };
            let mut caches = Caches::default();
            add(&mut caches, 0, &rrset(8, one));
            for (omitted, data) in [(8, two), (7, one), (0, two), (8, one)] {
                let (outcome, _, change) = add(&mut caches, 1, &rrset(omitted, data));
                assert_eq!((outcome, change), (Outcome::Refreshed, None), "{omitted}");
            }
            add(&mut caches, 2, &rrset(0, one));
            let (outcome, _, change) = add(&mut caches, 3, &rrset(0, two));
            assert_eq!(outcome, Outcome::Changed);
            assert_eq!(change.is_some(), record_type == TYPE_NS);
        }
    }

    #[test]
    fn data_and_its_absence_replace_each_other_by_trust() {
        let mut caches = Caches::default();
        let data = &[192, 0, 2, 1][..];
        assert_eq!(outcome(&mut caches, 0, &trusted(8, data)), Outcome::Added);
        assert_eq!(outcome(&mut caches, 1, &negative(1, 5)), Outcome::Refused);
        assert_eq!(outcome(&mut caches, 2, &negative(1, 8)), Outcome::Negative);
        assert_eq!(outcome(&mut caches, 3, &trusted(5, data)), Outcome::Refused);
        assert_eq!(outcome(&mut caches, 4, &trusted(8, data)), Outcome::Added);
        assert_eq!(
            outcome(&mut caches, 5, &negative(TYPE_ANY, 2)),
            Outcome::Negative
        );
        assert_eq!(caches.entries.len(), 1, "the name does not exist");
        assert_eq!(outcome(&mut caches, 6, &trusted(1, data)), Outcome::Refused);
        assert_eq!(outcome(&mut caches, 7, &trusted(2, data)), Outcome::Added);
        assert_eq!(caches.entries.len(), 1);
    }

    #[test]
    fn new_name_servers_are_a_change_with_both_sides() {
        let mut caches = Caches::default();
        let (one, two) = (&b"\x03ns1\0"[..], &b"\x03ns2\0"[..]);
        assert_eq!(add(&mut caches, 0, &delegation(6, &[one])).2, None);
        assert_eq!(
            add(&mut caches, 1, &delegation(6, &[b"\x03NS1\0"])).2,
            None,
            "case does not count"
        );
        let forced = Rrset {
            is_forced: true,
            ..delegation(4, &[two, one])
        };
        let (outcome, _, change) = add(&mut caches, 2, &forced);
        let change = change.expect("a change");
        assert_eq!(outcome, Outcome::Changed);
        assert_eq!(change.new_servers, [one, two]);
        assert_eq!(change.old_servers.len(), 1);
        assert_eq!(
            (change.old_trust, change.new_trust, change.forced),
            (Some(6), Some(4), Some(true))
        );
        assert_eq!(
            (change.moved_back, change.certainty()),
            (Some(false), Certainty::Accepted)
        );
        let (_, _, change) = add(&mut caches, 3, &delegation(6, &[one]));
        let change = change.expect("a change");
        assert_eq!(
            (change.moved_back, change.forced),
            (Some(true), Some(false))
        );
        assert_eq!(
            add(&mut caches, 4, &delegation(3, &[two])).2,
            None,
            "refused"
        );
        assert_eq!(ended(&mut caches, 59), []);
        assert_eq!(
            ended(&mut caches, 60),
            [(60, 2)],
            "no longer than the first"
        );
    }

    #[test]
    fn the_bytes_of_name_servers_are_bounded() {
        let long: Vec<u8> = [&[63; 64][..], &[63; 64], &[63; 64], &[0]].concat();
        let delegation = delegation(6, &[&long[..]; 32]);
        let mut caches = Caches::default();
        let owner = |number: u32| format!("\x04{number:04}\0").into_bytes();
        for number in 0..6_000 {
            let owner = owner(number);
            let rrset = Rrset {
                owner: &owner,
                ..delegation.clone()
            };
            caches.add(0, 7, &rrset, &mut Vec::new());
        }
        let each = 32 * (long.len() + 32);
        let kept = SERVER_BYTES / each;
        assert_eq!(caches.entries.len(), kept);
        assert_eq!(caches.server_bytes, kept * each);
        assert_eq!(caches.forgotten(), 6_000 - kept as u64);
        let known = |caches: &mut Caches, number| {
            let owner = owner(number);
            let rrset = address(&owner, Vec::new());
            let key = Key {
                record_type: TYPE_NS,
                ..Key::of(7, &rrset).expect("a name")
            };
            caches.entries.contains_key(&key)
        };
        assert!(!known(&mut caches, 0) && known(&mut caches, 5_999));
        caches.process_ended(7);
        assert_eq!(caches.server_bytes, 0);
    }

    #[test]
    fn the_end_of_a_ttl_is_reported_once() {
        let mut caches = Caches::default();
        add(&mut caches, 0, &trusted(5, &[192, 0, 2, 1]));
        add(&mut caches, 5, &negative(28, 5));
        add(&mut caches, 10, &trusted(8, &[192, 0, 2, 1]));
        assert_eq!(ended(&mut caches, 64), []);
        assert_eq!(ended(&mut caches, 100), [(65, 28), (70, 1)]);
        assert_eq!(ended(&mut caches, 200), []);
    }

    #[test]
    fn what_is_flushed_is_forgotten() {
        let flush = |name, tree| Flush::of(name, tree, [1, 99]);
        let (owner, below) = (OWNER, &b"\x01b\x01a\x04test\0"[..]);
        let data = &[192, 0, 2, 1][..];
        for (name, tree, left) in [
            (Some(owner), false, 2),
            (Some(owner), true, 1),
            (Some(&b"\x04test\0"[..]), false, 3),
            (Some(b"\x04test\0"), true, 1),
            (Some(b"\x01x\0"), true, 3),
            (None, false, 1),
        ] {
            let mut caches = Caches::default();
            add(&mut caches, 0, &address(owner, vec![data]));
            add(&mut caches, 0, &address(below, vec![data]));
            add(
                &mut caches,
                0,
                &Rrset {
                    database: 2,
                    ..address(owner, vec![data])
                },
            );
            caches.flush(7, &flush(name, tree));
            assert_eq!(caches.entries.len(), left, "{name:?} {tree}");
            caches.flush(8, &flush(None, false));
            caches.process_ended(8);
            assert_eq!(caches.entries.len(), left, "of another process");
            caches.process_ended(7);
            assert_eq!(
                caches.entries.len() + caches.ends.len() + caches.uses.len(),
                0
            );
        }
    }

    proptest! {
        #[test]
        fn the_three_indices_agree(steps in proptest::collection::vec((0_u8..4, 0_u8..3, 0_u16..3, 0_u64..100, any::<bool>()), 0..60)) {
            let mut caches = Caches::default();
            let mut now = 0;
            for (name, data, kind, wait, flag) in steps {
                now += wait;
                let owner = [1, b'a' + name, 0];
                let data = [192, 0, 2, data];
                let rrset = match kind {
                    0 => Rrset { trust: u16::from(name), is_forced: flag, ..address(&owner, vec![&data]) },
                    1 => Rrset { owner: &owner, ..negative(if flag { TYPE_ANY } else { 1 }, 3) },
                    _ => {
                        caches.flush(7, &Flush::of(flag.then_some(&owner[..]), false, [1, 1]));
                        continue;
                    }
                };
                caches.add(now * SECOND, 7, &rrset, &mut Vec::new());
                caches.tick(now * SECOND, &mut Vec::new());
                prop_assert_eq!(caches.entries.len(), caches.uses.len());
                let live = caches.entries.values().filter(|entry| !entry.has_ended).count();
                prop_assert_eq!(live, caches.ends.len());
            }
        }
    }
}
