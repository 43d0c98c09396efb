//! Queries of a store, and how their answers are found.
//!
//! - By owner: RRsets as they were seen, each with its bailiwick.
//! - By data (a name in it, an address, or its bytes): single records. Each has the sightings of all RRsets of its
//!   owner that contain it, of all bailiwicks.
//!
//! Answers come one by one, in the order of the keys in the store. Only the RRsets of one owner and type are in memory
//! at a time.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use crate::{
    name::{Name, reverse},
    rdata::{self, kind},
    store::{
        DATA, NAME, NAME_FORWARD, OWNER_FORWARD, Rrset, Seen, Store, StoreError, V4, V6, forward,
        short_hash, split_reversed,
    },
};

/// A query of the store.
#[derive(Debug, Clone)]
pub struct Query {
    /// Owners or data to look for.
    pub what: What,
    /// Types to look for.
    pub kinds: Kinds,
    /// Zone that must vouch for an RRset; only for queries of owners.
    pub bailiwick: Option<Name>,
    /// Times of the sightings.
    pub fence: Fence,
}

/// Owners or data to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// RRsets of these owners.
    Owner(Names),
    /// Records with one of these names in their data.
    DataName(Names),
    /// A and AAAA records with an address in this range. Both ends belong to it, and are of the same family.
    Address(RangeInclusive<IpAddr>),
    /// Records with exactly this data, in canonical wire form.
    Data(Vec<u8>),
}

/// One or more names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Only this name.
    Exactly(Name),
    /// This name and all names below it: `*.name`.
    Below(Name),
    /// Names that begin with these labels, and have more labels: `name.*`.
    Beginning(Name),
}

/// A set of types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Kinds {
    /// All types except those of DNSSEC.
    #[default]
    Any,
    /// The types of DNSSEC.
    AnyDnssec,
    /// Only these types.
    These(Vec<u16>),
}

/// Limits for the times of the sightings, in seconds since 1970. Each limit is inclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fence {
    /// First seen at or after this time.
    pub first_after: Option<u64>,
    /// First seen at or before this time.
    pub first_before: Option<u64>,
    /// Last seen at or after this time.
    pub last_after: Option<u64>,
    /// Last seen at or before this time.
    pub last_before: Option<u64>,
}

/// An RRset, or a single record with all of its sightings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The RRset or record. A single record can be in several RRsets, so it has no bailiwick.
    pub set: Rrset,
    /// Times and number of the sightings.
    pub seen: Seen,
    /// Whether the query was for data.
    pub by_data: bool,
}

/// Iterator over the answers of a query.
pub type Answers<'a> = Box<dyn Iterator<Item = Result<Answer, StoreError>> + 'a>;

impl Names {
    fn has(&self, name: &Name) -> bool {
        match self {
            Self::Exactly(exact) => name == exact,
            Self::Below(zone) => name.is_within(zone),
            Self::Beginning(start) => {
                let prefix = forward(0, start.wire());
                let name = forward(0, name.wire());
                name.len() > prefix.len() && name.starts_with(&prefix)
            }
        }
    }
}

impl Kinds {
    /// Returns whether the type is in the set.
    #[must_use]
    pub fn has(&self, kind: u16) -> bool {
        // SIG KEY NXT DS RRSIG NSEC DNSKEY NSEC3 NSEC3PARAM CDS CDNSKEY TA DLV
        const DNSSEC: [u16; 13] = [24, 25, 30, 43, 46, 47, 48, 50, 51, 59, 60, 32768, 32769];
        match self {
            Self::Any => !DNSSEC.contains(&kind),
            Self::AnyDnssec => DNSSEC.contains(&kind),
            Self::These(kinds) => kinds.contains(&kind),
        }
    }
}

impl Fence {
    /// Creates limits for a period. If `complete`, the first and the last sighting must be in the period. Otherwise it
    /// is enough that the time between them overlaps with it.
    #[must_use]
    pub fn new(after: Option<u64>, before: Option<u64>, complete: bool) -> Self {
        if complete {
            Self {
                first_after: after,
                last_before: before,
                ..Self::default()
            }
        } else {
            Self {
                last_after: after,
                first_before: before,
                ..Self::default()
            }
        }
    }

    /// Returns whether the sightings are within the limits.
    #[must_use]
    pub fn has(&self, seen: Seen) -> bool {
        self.first_after.is_none_or(|time| seen.first >= time)
            && self.first_before.is_none_or(|time| seen.first <= time)
            && self.last_after.is_none_or(|time| seen.last >= time)
            && self.last_before.is_none_or(|time| seen.last <= time)
    }
}

impl Store {
    /// Returns the answers of a query.
    #[must_use]
    pub fn ask<'a>(&'a self, query: &Query) -> Answers<'a> {
        self.ask_while(query, || true)
    }

    /// Like [`Self::ask`], but stops when `is_wanted` returns false. It is called for each entry of the index, also for
    /// those that are no answers.
    #[must_use]
    pub fn ask_while<'a>(
        &'a self,
        query: &Query,
        is_wanted: impl Fn() -> bool + 'a,
    ) -> Answers<'a> {
        let (kinds, fence, bailiwick) = (query.kinds.clone(), query.fence, query.bailiwick.clone());
        let found: Answers<'a> = match &query.what {
            What::Owner(names) => {
                let of_zone = move |answer: &Answer| {
                    bailiwick
                        .as_ref()
                        .is_none_or(|zone| answer.set.bailiwick.as_ref() == Some(zone))
                };
                let found = self.by_owner(names).take_while(move |_| is_wanted());
                Box::new(found.filter(move |answer| answer.as_ref().map_or(true, &of_zone)))
            }
            What::DataName(names) => {
                Box::new(self.by_name(names.clone()).take_while(move |_| is_wanted()))
            }
            What::Address(range) => {
                Box::new(self.by_address(range).take_while(move |_| is_wanted()))
            }
            What::Data(data) => {
                Box::new(self.by_data(data.clone()).take_while(move |_| is_wanted()))
            }
        };
        let is_meant = move |answer: &Answer| kinds.has(answer.set.kind) && fence.has(answer.seen);
        Box::new(found.filter(move |answer| answer.as_ref().map_or(true, &is_meant)))
    }

    fn by_owner(&self, names: &Names) -> Answers<'_> {
        let mut prefix = Vec::new();
        match names {
            Names::Exactly(name) => reverse(name.wire(), &mut prefix),
            Names::Below(name) => {
                reverse(name.wire(), &mut prefix);
                prefix.pop();
            }
            Names::Beginning(name) => {
                let owners = self.forward_names(OWNER_FORWARD, name);
                return Box::new(owners.flat_map(|owner| match owner {
                    Ok(owner) => self.by_owner(&Names::Exactly(owner)),
                    Err(error) => Box::new(std::iter::once(Err(error))),
                }));
            }
        }
        Box::new(self.rrsets(&prefix).map(|item| {
            item.map(|(set, seen)| Answer {
                set,
                seen,
                by_data: false,
            })
        }))
    }

    /// Returns the names in the index that begin with these labels and have more labels.
    fn forward_names(
        &self,
        entry: u8,
        name: &Name,
    ) -> impl Iterator<Item = Result<Name, StoreError>> + use<'_> {
        let prefix = forward(entry, name.wire());
        let length = prefix.len();
        let items = self
            .index(&prefix, &prefix)
            .filter_map(move |key| match key {
                Ok(key) if key.len() == length => None,
                Ok(key) => Name::from_wire(&[&key[1..], &[0]].concat()).map(Ok),
                Err(error) => Some(Err(error)),
            });
        items.into_iter()
    }

    fn by_name(&self, names: Names) -> Answers<'_> {
        let mut prefix = vec![NAME];
        match &names {
            Names::Exactly(name) => reverse(name.wire(), &mut prefix),
            Names::Below(name) => {
                reverse(name.wire(), &mut prefix);
                prefix.pop();
            }
            Names::Beginning(name) => {
                let found = self.forward_names(NAME_FORWARD, name);
                return Box::new(found.flat_map(move |found| match found {
                    Ok(name) => {
                        let mut prefix = vec![NAME];
                        reverse(name.wire(), &mut prefix);
                        self.by_names_at(&prefix, names.clone())
                    }
                    Err(error) => Box::new(std::iter::once(Err(error))),
                }));
            }
        }
        self.by_names_at(&prefix, names)
    }

    /// Returns the records of the index entries with this prefix. A record with several matching names comes only with
    /// the first of them.
    fn by_names_at(&self, prefix: &[u8], names: Names) -> Answers<'_> {
        let entries = self.index(prefix, prefix);
        Box::new(entries.flat_map(move |entry| {
            self.entry(
                entry,
                |entry| {
                    let (name, rest) = split_reversed(&entry[1..])?;
                    let (kind, owner) = rest.split_first_chunk::<2>()?;
                    Some((
                        Name::from_reversed(name)?,
                        u16::from_be_bytes(*kind),
                        owner.to_vec(),
                    ))
                },
                |(name, kind, owner)| {
                    let is_meant = |data: &[u8]| {
                        let mut first = None;
                        rdata::names(kind, data, |wire| {
                            if first.is_none() {
                                first = Name::from_wire(wire).filter(|name| names.has(name));
                            }
                        });
                        first.as_ref() == Some(&name)
                    };
                    self.records(&owner, kind, is_meant)
                },
            )
        }))
    }

    fn by_address(&self, range: &RangeInclusive<IpAddr>) -> Answers<'_> {
        let key = |address: &IpAddr| match address {
            IpAddr::V4(address) => [&[V4][..], &address.octets()].concat(),
            IpAddr::V6(address) => [&[V6][..], &address.octets()].concat(),
        };
        let entries = self.index(&key(range.start()), &key(range.end()));
        Box::new(entries.flat_map(move |entry| {
            self.entry(
                entry,
                |entry| {
                    let (kind, length) = match entry.first()? {
                        &V4 => (kind::A, 4),
                        _ => (kind::AAAA, 16),
                    };
                    let (address, rest) = entry[1..].split_at_checked(length)?;
                    let (owner, _) = split_reversed(rest)?;
                    Some((address.to_vec(), kind, owner.to_vec()))
                },
                |(address, kind, owner)| self.records(&owner, kind, |data| data == address),
            )
        }))
    }

    /// Returns the records with these bytes as their data. The index may have them as a hash, as an address, or by the
    /// first name in them, so all of these are tried.
    fn by_data(&self, data: Vec<u8>) -> Answers<'_> {
        let mut prefixes = vec![[&[DATA][..], &short_hash(&data)].concat()];
        match data.len() {
            4 => prefixes.push([&[V4][..], &data].concat()),
            16 => prefixes.push([&[V6][..], &data].concat()),
            _ => {}
        }
        for kind in (1..=u16::MAX).filter(|kind| rdata::has_names(*kind)) {
            let mut first = None;
            rdata::names(kind, &data, |name| {
                if first.is_none() {
                    let mut prefix = vec![NAME];
                    reverse(name, &mut prefix);
                    prefix.extend(kind.to_be_bytes());
                    first = Some(prefix);
                }
            });
            prefixes.extend(first);
        }
        Box::new(prefixes.into_iter().flat_map(move |prefix| {
            let data = data.clone();
            self.index(&prefix, &prefix).flat_map(move |entry| {
                self.entry(
                    entry,
                    |entry| {
                        let (kind, owner) = match *entry.first()? {
                            V4 => (kind::A, entry.get(5..)?),
                            V6 => (kind::AAAA, entry.get(17..)?),
                            DATA => (kind_at(entry, 9)?, entry.get(11..)?),
                            _ => {
                                let (_, rest) = split_reversed(&entry[1..])?;
                                (kind_at(rest, 0)?, rest.get(2..)?)
                            }
                        };
                        Some((kind, split_reversed(owner)?.0.to_vec()))
                    },
                    |(kind, owner)| self.records(&owner, kind, |other| other == data),
                )
            })
        }))
    }

    /// Returns the answers for an entry of the index.
    fn entry<'a, T>(
        &self,
        entry: Result<Vec<u8>, StoreError>,
        read: impl FnOnce(&[u8]) -> Option<T>,
        records: impl FnOnce(T) -> Vec<Result<Answer, StoreError>> + 'a,
    ) -> Vec<Result<Answer, StoreError>> {
        match entry {
            Ok(entry) => match read(&entry) {
                Some(read) => records(read),
                None => vec![Err(self.damaged("an entry of the index cannot be read"))],
            },
            Err(error) => vec![Err(error)],
        }
    }

    /// Returns the records of this owner and type whose data matches, each with all of its sightings.
    fn records(
        &self,
        owner: &[u8],
        kind: u16,
        is_meant: impl Fn(&[u8]) -> bool,
    ) -> Vec<Result<Answer, StoreError>> {
        let mut records: BTreeMap<Box<[u8]>, (Name, Seen)> = BTreeMap::new();
        for item in self.rrsets(&[owner, &kind.to_be_bytes()].concat()) {
            let (set, seen) = match item {
                Ok(item) => item,
                Err(error) => return vec![Err(error)],
            };
            for data in set.data.into_iter().filter(|data| is_meant(data)) {
                let entry = records.entry(data).or_insert_with(|| {
                    let none = Seen { count: 0, ..seen };
                    (set.owner.clone(), none)
                });
                entry.1 = entry.1.and(seen);
            }
        }
        let answer = |(data, (owner, seen))| {
            Ok(Answer {
                set: Rrset {
                    owner,
                    kind,
                    bailiwick: None,
                    data: vec![data],
                },
                seen,
                by_data: true,
            })
        };
        records.into_iter().map(answer).collect()
    }
}

fn kind_at(bytes: &[u8], at: usize) -> Option<u16> {
    let kind = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*kind))
}

/// Key by which answers are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// Time of the first sighting.
    First,
    /// Time of the last sighting.
    Last,
    /// Time between the first and the last sighting.
    Duration,
    /// Number of sightings.
    Count,
    /// Owner, compared label by label from the right.
    Name,
    /// Name of the type.
    Type,
    /// Data: names label by label from the right, addresses and other data by their bytes.
    Data,
}

impl SortKey {
    /// All keys. Keys that a sort does not name are appended in this order.
    pub const ALL: [Self; 7] = [
        Self::First,
        Self::Last,
        Self::Duration,
        Self::Count,
        Self::Name,
        Self::Type,
        Self::Data,
    ];

    /// Returns the name of the key on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::Duration => "duration",
            Self::Count => "count",
            Self::Name => "name",
            Self::Type => "type",
            Self::Data => "data",
        }
    }

    fn compare(self, one: &Answer, other: &Answer) -> std::cmp::Ordering {
        let both = |of: fn(&Answer) -> u64| of(one).cmp(&of(other));
        match self {
            Self::First => both(|answer| answer.seen.first),
            Self::Last => both(|answer| answer.seen.last),
            Self::Duration => both(|answer| answer.seen.last.saturating_sub(answer.seen.first)),
            Self::Count => both(|answer| answer.seen.count),
            Self::Name => from_right(&one.set.owner).cmp(&from_right(&other.set.owner)),
            Self::Type => word(one).cmp(&word(other)),
            Self::Data => sortable(&one.set).cmp(&sortable(&other.set)),
        }
    }
}

/// Sorts by these keys, each in its direction (`true`: largest first), and then by the other keys in the direction
/// `falling`.
pub fn sort(answers: &mut [Answer], keys: &[(SortKey, bool)], falling: bool) {
    let others = SortKey::ALL.into_iter();
    let others = others.filter(|key| keys.iter().all(|(named, _)| named != key));
    let keys: Vec<_> = keys
        .iter()
        .copied()
        .chain(others.map(|key| (key, falling)))
        .collect();
    answers.sort_by(|one, other| {
        let compared = keys.iter().map(|(key, falling)| {
            let order = key.compare(one, other);
            if *falling { order.reverse() } else { order }
        });
        compared.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
}

fn word(answer: &Answer) -> String {
    dnstap_core::dns::Type(answer.set.kind).to_string()
}

/// Returns the labels from right to left.
fn from_right(name: &Name) -> Vec<Vec<u8>> {
    let labels = crate::name::labels(name.wire());
    let mut labels: Vec<_> = labels.map(|label| label[1..].to_vec()).collect();
    labels.reverse();
    labels
}

fn sortable(set: &Rrset) -> Vec<Vec<Vec<u8>>> {
    let of = |data: &[u8]| {
        let mut names = Vec::new();
        rdata::names(set.kind, data, |name| {
            names.extend(Name::from_wire(name).iter().flat_map(from_right));
        });
        if names.is_empty() {
            vec![data.to_vec()]
        } else {
            names
        }
    };
    set.data.iter().map(|data| of(data)).collect()
}

/// Reads an address, a network, or a range (`FIRST-LAST`), and returns its first and last address. Returns `None` if
/// the text is none of these, or if the ends of a range are of two families or in the wrong order.
#[must_use]
pub fn addresses(text: &str) -> Option<RangeInclusive<IpAddr>> {
    if let Ok(address) = text.parse() {
        return Some(address..=address);
    }
    if let Some((from, to)) = text.split_once('-') {
        let (from, to): (IpAddr, IpAddr) = (from.parse().ok()?, to.parse().ok()?);
        return (from <= to && from.is_ipv4() == to.is_ipv4()).then_some(from..=to);
    }
    let network: ipnet::IpNet = text.replacen(',', "/", 1).parse().ok()?;
    Some(network.network()..=network.broadcast())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Some(5), None, false, true)]
    #[case(Some(9), None, false, true)]
    #[case(Some(10), None, false, false)]
    #[case(Some(4), None, true, true)]
    #[case(Some(5), None, true, false)]
    #[case(None, Some(4), false, true)]
    #[case(None, Some(3), false, false)]
    #[case(None, Some(9), true, true)]
    #[case(None, Some(8), true, false)]
    #[case(Some(5), Some(6), false, true)]
    #[case(Some(5), Some(6), true, false)]
    fn a_fence_is_about_a_part_or_the_whole(
        #[case] after: Option<u64>,
        #[case] before: Option<u64>,
        #[case] complete: bool,
        #[case] has: bool,
    ) {
        let seen = Seen {
            first: 4,
            last: 9,
            count: 1,
        };
        assert_eq!(Fence::new(after, before, complete).has(seen), has);
    }

    #[test]
    fn answers_are_sorted_by_the_keys_that_are_named_and_then_by_the_others() {
        let answer = |owner: &str, count, last| Answer {
            set: Rrset {
                owner: owner.parse().expect("a name"),
                kind: 1,
                bailiwick: None,
                data: vec![Box::from([192, 0, 2, 1])],
            },
            seen: Seen {
                first: 1,
                last,
                count,
            },
            by_data: false,
        };
        let mut answers = vec![
            answer("b.a", 2, 9),
            answer("a.b", 2, 5),
            answer("c.a", 3, 5),
        ];
        let owners = |answers: &[Answer]| {
            let owners: Vec<_> = answers
                .iter()
                .map(|answer| answer.set.owner.undotted())
                .collect();
            owners.join(" ")
        };
        sort(&mut answers, &[(SortKey::Count, false)], false);
        assert_eq!(owners(&answers), "a.b b.a c.a");
        sort(&mut answers, &[(SortKey::Count, true)], true);
        assert_eq!(owners(&answers), "c.a b.a a.b");
        sort(&mut answers, &[(SortKey::Name, false)], false);
        assert_eq!(owners(&answers), "b.a c.a a.b");
    }
}
