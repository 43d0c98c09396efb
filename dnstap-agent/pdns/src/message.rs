//! Splits a response into its RRsets: those of all three sections, in canonical form (RFC 4034 section 6), each RRset
//! once.
//!
//! A response is used completely or not at all. If a byte cannot be read, or if bytes follow the last record, no record
//! counts. TTLs are dropped. Signatures are one RRset for each type that they cover.

use std::ops::Range;

use dnstap_core::dns::{Dns, LONGEST_NAME, Type};

use crate::rdata::{canonical, is_meta, kind};

/// Class IN (RFC 1035 section 3.2.4), the only class that is stored.
const IN: u16 = 1;

/// Records of a message, in buffers that the next message reuses.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    records: Vec<Record>,
}

#[derive(Debug, Clone)]
struct Record {
    owner: Range<usize>,
    kind: u16,
    /// Type that a signature covers; 0 for other records.
    covered: u16,
    section: usize,
    data: Range<usize>,
}

/// Records of one section with the same owner and type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set<'a> {
    records: &'a Records,
    members: &'a [Record],
}

impl<'a> Set<'a> {
    /// Returns the owner in wire form and lower case.
    pub(crate) fn owner(self) -> &'a [u8] {
        let first = self.members.first();
        first.map_or(&[0], |first| &self.records.bytes[first.owner.clone()])
    }

    pub(crate) fn kind(self) -> u16 {
        self.members.first().map_or(0, |first| first.kind)
    }

    /// Returns the data of each record, in canonical order.
    pub(crate) fn data(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.members
            .iter()
            .map(move |record| &self.records.bytes[record.data.clone()])
    }

    /// Returns whether both sets have the same owner and type, and for signatures the same covered type.
    fn is_kin(self, other: Self) -> bool {
        let covered = |set: Self| set.members.first().map(|first| first.covered);
        self.kind() == other.kind()
            && covered(self) == covered(other)
            && self.owner() == other.owner()
    }

    fn is_same(self, other: Self) -> bool {
        self.is_kin(other) && self.data().eq(other.data())
    }
}

impl Records {
    /// Reads all records. Returns `None` if the message is shorter or longer than the records that its header counts,
    /// or if the data of a record does not fit its type.
    pub(crate) fn read(&mut self, dns: Dns<'_>) -> Option<()> {
        self.bytes.clear();
        self.records.clear();
        let message = dns.bytes();
        let mut records = dns.records();
        for record in records.by_ref() {
            let (section, record) = record.ok()?;
            if is_meta(record.kind.0) || record.class.0 != IN {
                continue;
            }
            let end = record.data + usize::from(record.length);
            let covered = match record.kind.0 {
                kind::SIG | kind::RRSIG => covered(record.bytes()),
                _ => 0,
            };
            // SIG(0) signs the message (RFC 2931 section 3), so it is not data of a zone.
            if record.kind == Type(kind::SIG) && covered == 0 {
                continue;
            }
            let owner = self.owner(record.name);
            let start = self.bytes.len();
            canonical(record.kind.0, message, record.data, end, &mut self.bytes)?;
            self.records.push(Record {
                owner,
                kind: record.kind.0,
                covered,
                section,
                data: start..self.bytes.len(),
            });
        }
        if !records.rest().is_empty() {
            return None;
        }
        let bytes = &self.bytes;
        self.records.sort_by(|one, other| {
            let key = |record: &Record| (record.kind, record.covered);
            let owner = |record: &Record| &bytes[record.owner.clone()];
            let data = |record: &Record| &bytes[record.data.clone()];
            owner(one)
                .cmp(owner(other))
                .then_with(|| key(one).cmp(&key(other)))
                .then_with(|| one.section.cmp(&other.section))
                .then_with(|| data(one).cmp(data(other)))
        });
        self.records.dedup_by(|later, first| {
            later.section == first.section
                && later.kind == first.kind
                && bytes[later.owner.clone()] == bytes[first.owner.clone()]
                && bytes[later.data.clone()] == bytes[first.data.clone()]
        });
        Some(())
    }

    /// Returns the position of the owner in `bytes`. Most records have the same owner as the record before.
    fn owner(&mut self, name: dnstap_core::dns::Name<'_>) -> Range<usize> {
        let mut wire = [0; LONGEST_NAME];
        let length = name.write_wire(&mut wire);
        let wire = &mut wire[..length];
        wire.make_ascii_lowercase();
        if let Some(last) = self.records.last()
            && self.bytes[last.owner.clone()] == *wire
        {
            return last.owner.clone();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(wire);
        start..self.bytes.len()
    }

    /// Returns the RRsets. An RRset that is in several sections is returned once.
    pub(crate) fn sets(&self) -> impl Iterator<Item = Set<'_>> {
        let groups = self.records.chunk_by(|one, other| {
            one.kind == other.kind
                && one.covered == other.covered
                && one.section == other.section
                && self.bytes[one.owner.clone()] == self.bytes[other.owner.clone()]
        });
        // Sets with the same owner and type are adjacent, one for each section.
        let mut before: Vec<Set<'_>> = Vec::with_capacity(3);
        groups
            .map(|members| Set {
                records: self,
                members,
            })
            .filter(move |set| {
                if before.first().is_some_and(|first| !first.is_kin(*set)) {
                    before.clear();
                }
                let is_again = before.iter().any(|before| before.is_same(*set));
                before.push(*set);
                !is_again
            })
    }
}

fn covered(data: &[u8]) -> u16 {
    data.first_chunk()
        .map_or(0, |kind| u16::from_be_bytes(*kind))
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Messages for tests.

    use crate::name::Name;

    /// A record: owner, type, data in wire form.
    pub(crate) type Rr<'a> = (&'a str, u16, &'a [u8]);

    /// Returns a name in wire form.
    pub(crate) fn wire(name: &str) -> Vec<u8> {
        name.parse::<Name>().expect("a name").wire().to_vec()
    }

    /// Returns a message of class IN.
    pub(crate) fn message(
        id: u16,
        flags: u16,
        question: (&str, u16),
        sections: [&[Rr<'_>]; 3],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let word = |bytes: &mut Vec<u8>, word: usize| {
            bytes.extend(u16::try_from(word).expect("a word").to_be_bytes());
        };
        word(&mut bytes, id.into());
        word(&mut bytes, flags.into());
        word(&mut bytes, 1);
        for section in sections {
            word(&mut bytes, section.len());
        }
        bytes.extend(wire(question.0));
        word(&mut bytes, question.1.into());
        word(&mut bytes, 1);
        for (owner, kind, data) in sections.into_iter().flatten() {
            bytes.extend(wire(owner));
            word(&mut bytes, (*kind).into());
            word(&mut bytes, 1);
            bytes.extend([0, 0, 1, 44]);
            word(&mut bytes, data.len());
            bytes.extend(*data);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{fixture::*, *};

    type Told = (Vec<u8>, u16, Vec<Vec<u8>>);

    fn sets(message: &[u8]) -> Option<Vec<Told>> {
        let mut records = Records::default();
        records.read(Dns::parse(message).ok()?)?;
        let of = |set: Set<'_>| {
            let data = set.data().map(<[u8]>::to_vec).collect();
            (set.owner().to_vec(), set.kind(), data)
        };
        Some(records.sets().map(of).collect())
    }

    #[test]
    fn sets_are_put_together_sorted_and_told_once() {
        let (one, two): (&[u8], &[u8]) = (&[192, 0, 2, 1], &[192, 0, 2, 2]);
        let ns = wire("NS.b");
        let message = message(
            1,
            0x8400,
            ("a.b", 1),
            [
                &[("a.b", 1, two), ("A.b", 1, one), ("a.B", 1, two)],
                &[("b", 2, &ns)],
                &[("a.b", 1, one), ("a.b", 1, two), ("ns.b", 1, one)],
            ],
        );
        let expected = vec![
            (wire("a.b"), 1, vec![one.to_vec(), two.to_vec()]),
            (wire("b"), 2, vec![wire("ns.b")]),
            (wire("ns.b"), 1, vec![one.to_vec()]),
        ];
        assert_eq!(sets(&message), Some(expected));
    }

    #[test]
    fn a_signature_is_a_set_for_each_type_that_it_covers() {
        let signature = |covered: u8| [&[0, covered][..], &[0; 16], b"\0sig"].concat();
        let (a, ns) = (signature(1), signature(2));
        let message = message(
            1,
            0x8400,
            ("b", 1),
            [&[("b", 46, &a), ("b", 46, &ns)], &[], &[]],
        );
        assert_eq!(sets(&message).expect("sound").len(), 2);
    }

    #[test]
    fn a_message_is_whole_or_nothing() {
        let message = message(1, 0x8400, ("b", 1), [&[("b", 1, &[1, 2, 3, 4])], &[], &[]]);
        assert!(sets(&message).is_some());
        assert!(sets(&message[..message.len() - 1]).is_none());
        assert!(sets(&[&message[..], b"x"].concat()).is_none());
        let misfit = fixture::message(1, 0x8400, ("b", 1), [&[("b", 1, &[1, 2, 3])], &[], &[]]);
        assert!(sets(&misfit).is_none());
    }

    #[test]
    fn what_belongs_to_the_transaction_is_left_out() {
        let message = message(
            1,
            0x8400,
            ("b", 1),
            [
                &[],
                &[],
                &[("", 41, b""), ("b", 250, b"x"), ("b", 24, b"\0\0")],
            ],
        );
        assert_eq!(sets(&message), Some(vec![]));
    }
}
