//! Owns what keys and values look like, after dnstable's (`dnstable-encoding(5)`): reversed owner, type, bailiwick, data.
//!
//! ```text
//! rrsets   reversed owner │ type u16 │ labels of the bailiwick u8 │ for each record: varint length, data
//!              ─► varint first │ varint last - first │ varint count │ for each other origin: varint number, varint count
//!          of long data instead: ff ff ff ff │ SHA-256 of it      ─► varint length of the data, data │ first ... as above
//! index    4 │ address │ reversed owner │ type u16          which owners have this address (6: IPv6)
//!          1 │ reversed name in data │ type u16 │ reversed owner
//!          2 │ 8 bytes of SHA-256 of data │ type u16 │ reversed owner     of types without address or name
//!          3 │ owner                    for names with a wildcard at their end
//!          5 │ name in data             as 3
//! ```
//!
//! Numbers of two bytes are big-endian. A bailiwick is the owner or above it, so the number of its labels is enough; [`NO_BAILIWICK`] stands
//! for one that is not known. Entries of the index have no value: writing them again changes nothing.

use sha2::{Digest as _, Sha256};

use crate::{
    name::{Name, reverse},
    rdata::{self, kind},
};

/// In the place of the number of labels.
pub(crate) const NO_BAILIWICK: u8 = 0xff;

/// Longest data that is in the key itself.
const LONGEST: usize = 1024;

/// In front of a hash; no record has data of this length.
const HASHED: [u8; 4] = [0xff; 4];

/// Kinds of entries of the index.
pub(crate) const NAME: u8 = 1;
pub(crate) const DATA: u8 = 2;
pub(crate) const OWNER_FORWARD: u8 = 3;
pub(crate) const V4: u8 = 4;
pub(crate) const NAME_FORWARD: u8 = 5;
pub(crate) const V6: u8 = 6;

/// Which records, of whom, on whose word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rrset {
    /// Whose records they are.
    pub owner: Name,
    /// Their type.
    pub kind: u16,
    /// The zone on whose word they were taken.
    pub bailiwick: Option<Name>,
    /// The data of each record in canonical form and order.
    pub data: Vec<Box<[u8]>>,
}

/// When an RRset was seen, in seconds since 1970, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The first time.
    pub first: u64,
    /// The last time.
    pub last: u64,
    /// How often.
    pub count: u64,
}

impl Seen {
    /// Both together.
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
    /// Its key, and its data if that is too long for the key.
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

    /// What a key and its data mean.
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

    /// Where each of its records is to be found in the index, and its owner.
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

/// The labels of a name in their order, without the root's, so that names that begin alike stand together.
pub(crate) fn forward(entry: u8, name: &[u8]) -> Vec<u8> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    [&[entry][..], name].concat()
}

/// What stands for data in the index.
pub(crate) fn short_hash(data: &[u8]) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(data).into();
    let mut short = [0; 8];
    short.copy_from_slice(&hash[..8]);
    short
}

/// The reversed name at the beginning, and what is behind it.
pub(crate) fn split_reversed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return bytes.split_at_checked(at + 1),
            length => at += 1 + usize::from(length),
        }
    }
}

/// What the store has of an RRset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// How often this store has seen it itself.
    pub(crate) own: u64,
    /// How often others have, by their numbers, in this order.
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

    /// Of all origins together.
    pub(crate) fn seen(&self) -> Seen {
        let others = self.others.iter().map(|(_, count)| *count);
        Seen {
            first: self.first,
            last: self.last,
            count: others.fold(self.own, u64::saturating_add),
        }
    }

    /// Takes what an origin has counted: the most that it ever said.
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

/// Whether the data is not in the key, but with the value.
pub(crate) fn is_hashed(key: &[u8]) -> bool {
    let rest = split_reversed(key).and_then(|(_, rest)| rest.get(3..));
    rest.is_some_and(|rest| rest.starts_with(&HASHED))
}

/// Appends a number, seven bits in each byte, the low ones first.
pub(crate) fn push(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Takes a number off the front.
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
