//! Layout of keys and values, based on that of dnstable (`dnstable-encoding(5)`): reversed owner, type, bailiwick,
//! data.
//!
//! ```text
//! rrsets   reversed owner │ type u16 │ labels of the bailiwick u8 │ for each record: varint length, data
//!              ─► varint first │ varint last - first │ varint count │ for each other origin: varint number, varint count
//!          long data is replaced: ff ff ff ff │ its SHA-256      ─► varint length of the data, data │ first ... as above
//! index    4 │ address │ reversed owner │ type u16          owners with this address (6: IPv6)
//!          1 │ reversed name in data │ type u16 │ reversed owner
//!          2 │ 8 bytes of SHA-256 of data │ type u16 │ reversed owner     data of types without address or name
//!          3 │ owner                    for queries with a wildcard at the end of the name
//!          5 │ name in data             same as 3
//! ```
//!
//! Numbers of two bytes are big-endian. A bailiwick is the owner or a name above it, so the number of its labels is
//! enough. [`NO_BAILIWICK`] stands for an unknown bailiwick. Index entries have no value, so writing one again changes
//! nothing.

use sha2::{Digest as _, Sha256};

use crate::{
    name::{Name, reverse},
    rdata::{self, kind},
};

/// Number of labels that stands for an unknown bailiwick.
pub(crate) const NO_BAILIWICK: u8 = 0xff;

/// Longest data that is stored in the key, in bytes.
const LONGEST: usize = 1024;

/// Marks a hash in the place of the data. No length of a record's data is written with these bytes.
const HASHED: [u8; 4] = [0xff; 4];

/// First byte of an entry of the index: its kind.
pub(crate) const NAME: u8 = 1;
pub(crate) const DATA: u8 = 2;
pub(crate) const OWNER_FORWARD: u8 = 3;
pub(crate) const V4: u8 = 4;
pub(crate) const NAME_FORWARD: u8 = 5;
pub(crate) const V6: u8 = 6;

/// An RRset, with the zone that vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rrset {
    /// Owner of the records.
    pub owner: Name,
    /// Type of the records.
    pub kind: u16,
    /// Zone that vouches for the records; `None` if it is unknown, or if this is a single record of several RRsets.
    pub bailiwick: Option<Name>,
    /// Data of each record, in canonical form and order.
    pub data: Vec<Box<[u8]>>,
}

/// Times of the first and the last sighting of an RRset, in seconds since 1970, and the number of sightings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Time of the first sighting.
    pub first: u64,
    /// Time of the last sighting.
    pub last: u64,
    /// Number of sightings.
    pub count: u64,
}

impl Seen {
    /// Returns the sightings of both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            count: self.count.saturating_add(other.count),
        }
    }
}

/// Writes the key of an RRset. Long data goes into `body`, which is empty otherwise.
pub(crate) fn write<'a>(
    owner: &[u8],
    kind: u16,
    bailiwick: u8,
    data: impl Iterator<Item = &'a [u8]>,
    key: &mut Vec<u8>,
    body: &mut Vec<u8>,
) {
    key.clear();
    body.clear();
    reverse(owner, key);
    key.extend(kind.to_be_bytes());
    key.push(bailiwick);
    let start = key.len();
    for data in data {
        push(data.len() as u64, key);
        key.extend_from_slice(data);
    }
    if key.len() - start > LONGEST {
        body.extend_from_slice(&key[start..]);
        key.truncate(start);
        key.extend(HASHED);
        key.extend(Sha256::digest(&body[..]));
    }
}

impl Rrset {
    /// Returns the key, and the data if it is too long for the key.
    pub(crate) fn key(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut key, mut body) = (Vec::new(), Vec::new());
        let labels = self.bailiwick.as_ref().map(Name::labels);
        let bailiwick = labels.and_then(|labels| u8::try_from(labels).ok());
        write(
            self.owner.wire(),
            self.kind,
            bailiwick.unwrap_or(NO_BAILIWICK),
            self.data.iter().map(|data| &**data),
            &mut key,
            &mut body,
        );
        (key, body)
    }

    /// Reads an RRset from a key, and from the data if that is too long for the key. Returns `None` if they are
    /// invalid.
    pub(crate) fn read(key: &[u8], body: &[u8]) -> Option<Self> {
        let (owner, rest) = split_reversed(key)?;
        let ([high, low, bailiwick], rest) = rest.split_first_chunk()?;
        let mut rest = if rest.starts_with(&HASHED) {
            body
        } else {
            rest
        };
        let mut data = Vec::new();
        while !rest.is_empty() {
            let length = usize::try_from(pull(&mut rest)?).ok()?;
            let (one, behind) = rest.split_at_checked(length)?;
            data.push(one.into());
            rest = behind;
        }
        let owner = Name::from_reversed(owner)?;
        let bailiwick = match *bailiwick {
            NO_BAILIWICK => None,
            labels => Some(owner.suffix(labels.into())),
        };
        Some(Self {
            owner,
            kind: u16::from_be_bytes([*high, *low]),
            bailiwick,
            data,
        })
    }

    /// Passes the index entries of the RRset to `take`: one for its owner, and those for its records.
    pub(crate) fn index(&self, mut take: impl FnMut(Vec<u8>)) {
        let mut owner = Vec::new();
        reverse(self.owner.wire(), &mut owner);
        take(forward(OWNER_FORWARD, self.owner.wire()));
        for data in &self.data {
            let kind = self.kind.to_be_bytes();
            match self.kind {
                kind::A => take([&[V4][..], data, &owner, &kind].concat()),
                kind::AAAA => take([&[V6][..], data, &owner, &kind].concat()),
                kind if rdata::is_of_dnssec(kind) => {}
                other if rdata::has_names(other) => rdata::names(other, data, |name| {
                    take(forward(NAME_FORWARD, name));
                    let mut entry = vec![NAME];
                    reverse(name, &mut entry);
                    take([&entry[..], &kind, &owner].concat());
                }),
                _ => take([&[DATA][..], &short_hash(data), &kind, &owner].concat()),
            }
        }
    }
}

/// Returns an index entry with the labels of a name in their normal order, without the label of the root. So names that
/// begin with the same labels are adjacent.
pub(crate) fn forward(entry: u8, name: &[u8]) -> Vec<u8> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    [&[entry][..], name].concat()
}

/// Returns the hash that stands for data in the index: the first 8 bytes of its SHA-256.
pub(crate) fn short_hash(data: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(data).into();
    let mut short = [0; 8];
    short.copy_from_slice(&hash[..8]);
    short
}

/// Splits bytes into the reversed name at the beginning, and the bytes after it.
pub(crate) fn split_reversed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return bytes.split_at_checked(at + 1),
            length => at += 1 + usize::from(length),
        }
    }
}

/// Value of an RRset in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Number of sightings by this store itself.
    pub(crate) own: u64,
    /// Counts of other origins. Each entry is the number of the origin and its number of sightings; the entries are
    /// sorted.
    pub(crate) others: Vec<(u64, u64)>,
    /// Data that is too long for the key.
    pub(crate) body: Vec<u8>,
}

impl Value {
    pub(crate) fn write(&self, is_hashed: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.body.len());
        if is_hashed {
            push(self.body.len() as u64, &mut out);
            out.extend_from_slice(&self.body);
        }
        push(self.first, &mut out);
        push(self.last.saturating_sub(self.first), &mut out);
        push(self.own, &mut out);
        for (origin, count) in &self.others {
            push(*origin, &mut out);
            push(*count, &mut out);
        }
        out
    }

    pub(crate) fn read(is_hashed: bool, mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        let mut body = Vec::new();
        if is_hashed {
            let length = usize::try_from(pull(rest)?).ok()?;
            let (own, behind) = rest.split_at_checked(length)?;
            body.extend_from_slice(own);
            *rest = behind;
        }
        let first = pull(rest)?;
        let last = first.checked_add(pull(rest)?)?;
        let own = pull(rest)?;
        let mut others = Vec::new();
        while !rest.is_empty() {
            others.push((pull(rest)?, pull(rest)?));
        }
        Some(Self {
            first,
            last,
            own,
            others,
            body,
        })
    }

    /// Returns the sightings of all origins together.
    pub(crate) fn seen(&self) -> Seen {
        let others = self.others.iter().map(|(_, count)| *count);
        Seen {
            first: self.first,
            last: self.last,
            count: others.fold(self.own, u64::saturating_add),
        }
    }

    /// Sets the count of an origin, unless a larger count is already there.
    pub(crate) fn count_of(&mut self, origin: u64, count: u64) {
        match self
            .others
            .binary_search_by_key(&origin, |(origin, _)| *origin)
        {
            Ok(at) => self.others[at].1 = self.others[at].1.max(count),
            Err(at) => self.others.insert(at, (origin, count)),
        }
    }
}

/// Returns whether the data is not in the key, but in the value.
pub(crate) fn is_hashed(key: &[u8]) -> bool {
    let rest = split_reversed(key).and_then(|(_, rest)| rest.get(3..));
    rest.is_some_and(|rest| rest.starts_with(&HASHED))
}

/// Appends a number as a varint: seven bits in each byte, the low bits first.
pub(crate) fn push(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Removes a varint from the front, and returns its number; `None` if it is incomplete or longer than 64 bits.
pub(crate) fn pull(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::name::tests::any_name;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            owner in any_name(),
            kind in any::<u16>(),
            zone in any::<Option<prop::sample::Index>>(),
            data in vec(vec(any::<u8>(), 0..400).prop_map(Box::from), 0..6),
            numbers in (any::<u32>(), any::<u32>(), any::<u64>()),
            others in vec((any::<u64>(), any::<u64>()), 0..3),
        ) {
            let bailiwick = zone.map(|zone| owner.suffix(zone.index(owner.labels() + 1)));
            let set = Rrset { owner, kind, bailiwick, data };
            let (key, body) = set.key();
            prop_assert_eq!(Rrset::read(&key, &body), Some(set));
            prop_assert_eq!(is_hashed(&key), !body.is_empty());
            let first = u64::from(numbers.0);
            let value = Value { first, last: first.saturating_add(u64::from(numbers.1)), own: numbers.2, others, body };
            prop_assert_eq!(Value::read(is_hashed(&key), &value.write(is_hashed(&key))), Some(value));
        }

        #[test]
        fn any_bytes_are_read_without_panic(key in vec(any::<u8>(), 0..60), value in vec(any::<u8>(), 0..40)) {
            let _any = Rrset::read(&key, &value);
            let _any = Value::read(is_hashed(&key), &value);
        }
    }

    #[test]
    fn keys_of_a_zone_stand_together() {
        let key = |owner: &str, kind, zone: &str| {
            let set = Rrset {
                owner: owner.parse().expect("a name"),
                kind,
                bailiwick: Some(zone.parse().expect("a name")),
                data: vec![Box::from(*b"data")],
            };
            set.key().0
        };
        let mut keys = [
            key("example.org", 1, "org"),
            key("www.example.com", 1, "example.com"),
            key("example.com", 2, "com"),
            key("example.com", 2, "example.com"),
            key("com", 2, "."),
        ];
        keys.sort();
        let owners = keys.map(|key| {
            let set = Rrset::read(&key, &[]).expect("a key");
            format!("{} {}", set.owner, set.bailiwick.expect("known"))
        });
        let expected = [
            "com. .",
            "example.com. com.",
            "example.com. example.com.",
            "www.example.com. example.com.",
            "example.org. org.",
        ];
        assert_eq!(owners, expected);
    }
}
