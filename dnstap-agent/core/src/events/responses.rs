//! The last responses to the process's own queries. They tell which server sent an RRset that the process puts into its
//! cache, and which zone was asked: the probe of the cache does not know.
//!
//! A response counts only if it holds the RRset: the owner, the type and all records that the probe has shown, or for a
//! negative entry the question, without answers. If several responses hold it, the newest one counts.
//!
//! The memory has [`MESSAGES`] responses and [`BYTES`] of them. The oldest ones go first.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher as _,
};

use dnstap_proto::{event::Kind as Content, prost::bytes::Bytes};
use foldhash::fast::RandomState;

use super::{address, are_equal, wire};
use crate::{
    dns::{Class, Dns, LONGEST_NAME, Name, Rcode, Record, Type},
    model::{Endpoint, Envelope},
};

/// Most responses that are remembered.
const MESSAGES: usize = 4_096;

/// Most bytes of responses that are remembered.
const BYTES: usize = 8 << 20;

/// Most RRsets of a response that can be found.
const RRSETS: usize = 64;

/// Longest time from the response to the cache, in nanoseconds: the server may have to fetch keys first (RFC 4035).
const PATIENCE_NS: u64 = 30_000_000_000;

/// Flag TC of the header.
const TRUNCATED: u16 = 0x200;

const TYPE_ANY: u16 = 255;

/// An RRset to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Owner in wire format.
    pub(super) owner: &'a [u8],
    pub(super) class: u16,
    /// Type; for a negative entry the type that does not exist, or ANY if the name does not exist.
    pub(super) record_type: u16,
    /// Whether it does not exist.
    pub(super) is_negative: bool,
    /// Data of records, without compression.
    pub(super) rdata: &'a [&'a [u8]],
}

/// A response, and where it came from.
#[derive(Debug)]
pub(super) struct Response {
    process_id: u32,
    ktime_ns: u64,
    /// The server that sent it.
    peer: Endpoint,
    /// Wire format of the zone that was asked; empty if it is not known.
    zone: Box<[u8]>,
    bytes: Box<[u8]>,
    /// Keys under which it was stored.
    keys: Vec<u64>,
}

/// Memory of responses.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    /// Responses in the order in which they came. The first one has the number `first`.
    messages: VecDeque<Response>,
    first: u64,
    /// Numbers of the newest responses by process, owner and type.
    index: HashMap<u64, u64, RandomState>,
    bytes: usize,
    hasher: RandomState,
}

impl Responses {
    /// Takes a response to a query of the process. `zone`: wire format of the zone that was asked; empty if it is not
    /// known.
    pub(crate) fn take(&mut self, envelope: &Envelope, bytes: &[u8], zone: &[u8]) {
        let Ok(dns) = Dns::parse(bytes) else {
            return;
        };
        // A server does not put a truncated response into its cache.
        if dns.has(TRUNCATED) {
            return;
        }
        let process_id = envelope.origin.tgid;
        let keys = self.keys(process_id, &dns);
        if keys.is_empty() {
            return;
        }
        let number = self.first + self.messages.len() as u64;
        self.index.extend(keys.iter().map(|key| (*key, number)));
        self.bytes += bytes.len();
        self.messages.push_back(Response {
            process_id,
            ktime_ns: envelope.ktime_ns,
            peer: envelope.peer,
            zone: zone.into(),
            bytes: bytes.into(),
            keys,
        });
        while self.messages.len() > MESSAGES || self.bytes > BYTES {
            self.forget_oldest();
        }
    }

    /// Returns the newest response that holds the RRset, from the last [`PATIENCE_NS`] before `ktime_ns`.
    pub(super) fn find(
        &self,
        ktime_ns: u64,
        process_id: u32,
        wanted: Wanted<'_>,
    ) -> Option<&Response> {
        let (owner, _) = Name::parse(wanted.owner, 0).ok()?;
        let Wanted {
            class, record_type, ..
        } = wanted;
        let key = self.key(process_id, owner, class, record_type, wanted.is_negative);
        let nth = self.index.get(&key)?.checked_sub(self.first)?;
        let response = self.messages.get(usize::try_from(nth).ok()?)?;
        let is_recent = response.ktime_ns.saturating_add(PATIENCE_NS) >= ktime_ns;
        (is_recent && response.process_id == process_id && response.holds(owner, wanted))
            .then_some(response)
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.messages.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes.len();
        for key in oldest.keys {
            if self.index.get(&key) == Some(&self.first) {
                self.index.remove(&key);
            }
        }
        self.first += 1;
    }

    /// Returns the keys of everything that a response tells.
    fn keys(&self, process_id: u32, dns: &Dns<'_>) -> Vec<u64> {
        let mut keys = Vec::new();
        if let Some((name, class, record_type)) = absence(dns) {
            keys.push(self.key(process_id, name, class, record_type, true));
        }
        for (_, record) in dns.records().map_while(Result::ok) {
            if record.is_opt() {
                continue;
            }
            let key = self.key(
                process_id,
                record.name,
                record.class.0,
                record.kind.0,
                false,
            );
            if !keys.contains(&key) {
                keys.push(key);
            }
            if keys.len() == RRSETS {
                break;
            }
        }
        keys
    }

    fn key(&self, process_id: u32, name: Name<'_>, class: u16, kind: u16, is_absent: bool) -> u64 {
        let name = wire(name).to_ascii_lowercase();
        self.hasher
            .hash_one((process_id, name, class, kind, is_absent))
    }
}

impl Response {
    /// Adds to an event who sent the RRset, and which zone was asked.
    pub(super) fn name_sender(&self, content: &mut Content) {
        let address = address(self.peer);
        let port = (self.peer.port != 0).then_some(self.peer.port.into());
        match content {
            Content::Cache(cache) => {
                let is_known = !self.zone.is_empty();
                cache.bailiwick = is_known.then(|| Bytes::copy_from_slice(&self.zone));
                (cache.responder_address, cache.responder_port) = (address, port);
            }
            Content::NsChange(change) => {
                (change.sender_address, change.sender_port) = (address, port);
            }
            _ => {}
        }
    }

    /// Returns whether the response holds the RRset.
    fn holds(&self, owner: Name<'_>, wanted: Wanted<'_>) -> bool {
        let Ok(dns) = Dns::parse(&self.bytes) else {
            return false;
        };
        if wanted.is_negative {
            return absence(&dns).is_some_and(|(name, class, record_type)| {
                are_equal(name, owner) && (class, record_type) == (wanted.class, wanted.record_type)
            });
        }
        let records: Vec<_> = dns
            .records()
            .map_while(Result::ok)
            .map(|(_, record)| record)
            .filter(|record| record.kind == Type(wanted.record_type))
            .filter(|record| record.class == Class(wanted.class) && are_equal(record.name, owner))
            .filter_map(|record| plain_data(&record))
            .collect();
        let is_there = |data: &&[u8]| {
            records
                .iter()
                .any(|(names, other)| is_equal(*names, other, data))
        };
        !records.is_empty() && wanted.rdata.iter().all(is_there)
    }
}

/// Returns the question of a response that says that there is no such name (type ANY) or no such RRset (RFC 2308
/// section 2). Answers before it, such as a CNAME, mean that the absence is of another name.
fn absence<'a>(dns: &Dns<'a>) -> Option<(Name<'a>, u16, u16)> {
    let question = dns.question().ok()??;
    let record_type = match dns.rcode() {
        Rcode(0) => question.kind.0,
        Rcode(3) => TYPE_ANY,
        _ => return None,
    };
    (dns.count(1) == 0).then_some((question.name, question.class.0, record_type))
}

/// Compares data, of which `names` holds the bytes of names. These are compared without regard to case.
fn is_equal((from, to): (usize, usize), data: &[u8], other: &[u8]) -> bool {
    data.len() == other.len()
        && data[..from] == other[..from]
        && data[from..to].eq_ignore_ascii_case(&other[from..to])
        && data[to..] == other[to..]
}

/// Returns the data of a record without compression, and where names are in it. Only names in the types of RFC 1035 may be
/// compressed (RFC 3597 section 4).
fn plain_data(record: &Record<'_>) -> Option<((usize, usize), Vec<u8>)> {
    let (before, names) = match record.kind {
        Type::NS | Type::CNAME | Type::PTR => (0, 1),
        Type::MX => (2, 1),
        Type::SOA => (0, 2),
        _ => return Some(((0, 0), record.bytes().to_vec())),
    };
    let message = record.name.message();
    let end = record.data + usize::from(record.length);
    let mut at = record.data + before;
    let mut plain = message.get(record.data..at)?.to_vec();
    for _ in 0..names {
        let (name, behind) = Name::parse(message, at).ok()?;
        let mut wire = [0; LONGEST_NAME];
        let length = name.write_wire(&mut wire);
        plain.extend(&wire[..length]);
        at = behind;
    }
    let place = (before, plain.len());
    plain.extend(message.get(at..end)?);
    Some((place, plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::fixture::{header, parsed, whole};

    /// A response for `www.lab. A`: CNAME to `x.LAB.`, whose address is 192.0.2.1, and the SOA of `lab.`, with
    /// compression.
    const ALIAS: &[u8] = b"\0\x07\x84\0\0\x01\0\x02\0\x01\0\0\
        \x03www\x03lab\0\0\x01\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01x\xc0\x10\
        \x01X\x03lab\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01\
        \xc0\x10\0\x06\0\x01\0\0\0\x3c\0\x1a\xc0\x0c\x01r\xc0\x10\0\0\0\x41\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01";

    /// A response that says that there is no `no.lab.`.
    const NXDOMAIN: &[u8] = b"\0\x08\x84\x03\0\x01\0\0\0\0\0\0\x02no\x03lab\0\0\x1c\0\x01";

    const SOA: &[u8] = b"\x03WWW\x03lab\0\x01r\x03lab\0\
        \0\0\0\x41\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01";

    fn envelope(ktime_ns: u64) -> Envelope {
        let record = whole(header(), b"");
        Envelope {
            ktime_ns,
            ..parsed(&record).envelope
        }
    }

    fn filled() -> Responses {
        let mut responses = Responses::default();
        responses.take(&envelope(1), ALIAS, b"\x03lab\0");
        responses.take(&envelope(1), NXDOMAIN, b"");
        responses
    }

    fn finds(responses: &Responses, owner: &[u8], record_type: u16, rdata: &[&[u8]]) -> bool {
        let wanted = Wanted {
            owner,
            class: 1,
            record_type,
            is_negative: false,
            rdata,
        };
        let process_id = envelope(1).origin.tgid;
        responses.find(2, process_id, wanted).is_some()
    }

    #[test]
    fn a_response_is_found_by_each_rrset_that_it_holds_and_by_no_other() {
        let responses = filled();
        let address: &[u8] = &[192, 0, 2, 1];
        for (owner, record_type, data, is_held) in [
            (&b"\x03wWw\x03lab\0"[..], 5, &b"\x01X\x03lab\0"[..], true),
            (b"\x01x\x03lab\0", 1, address, true),
            (b"\x03lab\0", 6, SOA, true),
            (b"\x01x\x03lab\0", 1, &[192, 0, 2, 2], false),
            (b"\x03www\x03lab\0", 1, address, false),
            (b"\x01x\x03lab\0", 28, address, false),
            // The serial has another case, so to speak.
            (
                b"\x03lab\0",
                6,
                &[&SOA[..19], b"\x61", &SOA[20..]].concat(),
                false,
            ),
        ] {
            let found = finds(&responses, owner, record_type, &[data]);
            assert_eq!(found, is_held, "{owner:?} {record_type} {data:?}");
        }
        // One record of two is not enough.
        let more: &[&[u8]] = &[address, &[192, 0, 2, 9]];
        assert!(!finds(&responses, b"\x01x\x03lab\0", 1, more));
    }

    #[test]
    fn absence_is_found_by_the_question() {
        let responses = filled();
        let process_id = envelope(1).origin.tgid;
        for (owner, record_type, is_found) in [
            (&b"\x02NO\x03lab\0"[..], TYPE_ANY, true),
            (b"\x02no\x03lab\0", 28, false),
            (b"\x03www\x03lab\0", TYPE_ANY, false),
        ] {
            let wanted = Wanted {
                owner,
                class: 1,
                record_type,
                is_negative: true,
                rdata: &[],
            };
            let found = responses.find(2, process_id, wanted).is_some();
            assert_eq!(found, is_found, "{owner:?}");
        }
    }

    #[test]
    fn responses_of_others_of_long_ago_and_truncated_ones_do_not_count() {
        let wanted = Wanted {
            owner: b"\x01x\x03lab\0",
            class: 1,
            record_type: 1,
            is_negative: false,
            rdata: &[],
        };
        let process_id = envelope(1).origin.tgid;
        let responses = filled();
        assert!(
            responses
                .find(PATIENCE_NS + 1, process_id, wanted)
                .is_some()
        );
        assert!(
            responses
                .find(PATIENCE_NS + 2, process_id, wanted)
                .is_none()
        );
        assert!(responses.find(2, process_id + 1, wanted).is_none());
        let mut truncated = ALIAS.to_vec();
        truncated[2] |= 2;
        let mut responses = Responses::default();
        responses.take(&envelope(1), &truncated, b"");
        assert!(responses.find(2, process_id, wanted).is_none());
    }

    #[test]
    fn the_newest_one_counts_and_memory_is_bounded() {
        let mut responses = filled();
        let mut newer = envelope(2);
        newer.peer.port = 5_353;
        responses.take(&newer, ALIAS, b"");
        let wanted = Wanted {
            owner: b"\x01x\x03lab\0",
            class: 1,
            record_type: 1,
            is_negative: false,
            rdata: &[],
        };
        let process_id = newer.origin.tgid;
        let found = responses.find(2, process_id, wanted).expect("held");
        assert_eq!(found.peer.port, 5_353);
        for number in 0..MESSAGES as u64 {
            let name = format!("{number:04}");
            let question = [&b"\x04"[..], name.as_bytes(), b"\0\0\x01\0\x01"].concat();
            let message = [&NXDOMAIN[..12], &question].concat();
            responses.take(&envelope(3), &message, b"");
        }
        assert_eq!(responses.messages.len(), MESSAGES);
        assert_eq!(responses.index.len(), MESSAGES);
        assert!(responses.find(3, process_id, wanted).is_none());
        let long = [ALIAS, &vec![0; BYTES / 2]].concat();
        for _ in 0..3 {
            responses.take(&envelope(3), &long, b"");
        }
        assert!(responses.bytes <= BYTES && responses.messages.len() == 1);
        assert_eq!(responses.index.len(), 3);
    }

    #[test]
    fn an_event_gets_the_sender_and_the_zone() {
        let mut responses = Responses::default();
        responses.take(&envelope(1), ALIAS, b"\x03lab\0");
        let mut content = Content::Cache(dnstap_proto::Cache::default());
        responses.messages[0].name_sender(&mut content);
        let Content::Cache(cache) = content else {
            panic!("another kind");
        };
        let peer = envelope(1).peer;
        assert_eq!(cache.bailiwick.as_deref(), Some(&b"\x03lab\0"[..]));
        assert_eq!(cache.responder_address.as_deref(), peer.address());
        assert_eq!(cache.responder_port, Some(peer.port.into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(at in 0_usize..100, value in any::<u8>(), cut in 0_usize..100) {
            let mut bytes = ALIAS.to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut.max(12));
            let mut responses = Responses::default();
            responses.take(&envelope(1), &bytes, b"");
            let _found = finds(&responses, b"\x01x\x03lab\0", 1, &[]);
            let _found = finds(&responses, b"\x03lab\0", 6, &[SOA]);
        }
    }
}
