//! Changes of name servers, told from the responses that the process receives to its own queries.
//!
//! A response *offers* NS RRsets; the process may refuse them. An RRset counts if its owner is the name in question or above
//! it, and not above the zone that was asked, if that is known. The case of names does not matter (RFC 4343).
//!
//! A zone's NS RRset exists twice: in the parent zone (the delegation) and in the zone itself. The two often differ, and
//! a resolver sees them in turn. So they are remembered apart, by owner and by side: a delegation is an RRset in the authority
//! section of a response without AA; everything else is the zone's own. Only a change on one side is a change.
//!
//! The memory is bounded, in RRsets and in bytes of their names: the RRset that was not seen for longest is forgotten and
//! counted.

use std::hash::{BuildHasher as _, Hasher as _};

use dnstap_proto::{
    NsChange,
    event::{Kind as Content, Phase},
    ns_change::Certainty,
    prost::bytes::Bytes,
};
use foldhash::fast::RandomState;

use super::{Output, address, are_equal, wire};
use crate::{
    dns::{Class, Dns, Name, Record, Type},
    lru::Lru,
    model::Envelope,
};

/// Most NS RRsets that are remembered; about 100 bytes each without the names, allocated as needed.
const SETS: usize = 100_000;

/// Most bytes of names of servers that are remembered. An RRset may have 16 KiB.
const BYTES: usize = 32 << 20;

/// Most name servers of an RRset that are looked at.
const SERVERS: usize = 64;

/// Most RRsets of a response that are looked at.
const OWNERS: usize = 8;

/// Memory of NS RRsets.
#[derive(Debug)]
pub(crate) struct NsChanges {
    sets: Lru<Set>,
    /// Bytes of names in `sets`.
    bytes: usize,
    hasher: RandomState,
    evicted: u64,
}

/// An NS RRset.
#[derive(Debug)]
struct Set {
    /// Sorted names in wire format, one behind the other.
    servers: Box<[u8]>,
    /// Hash of the servers before the last change; 0 before the first one.
    before: u64,
}

/// Side of a zone cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    /// The delegation in the parent zone.
    Parent,
    /// The zone itself.
    Child,
}

/// An NS RRset in a response.
struct Offer<'a> {
    owner: Name<'a>,
    class: Class,
    side: Side,
    ttl: u32,
    servers: Vec<Bytes>,
}

impl Default for NsChanges {
    fn default() -> Self {
        Self {
            sets: Lru::new(SETS),
            bytes: 0,
            hasher: RandomState::default(),
            evicted: 0,
        }
    }
}

impl NsChanges {
    /// Returns the number of RRsets that were forgotten to make room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes a response to a query of the process. `zone`: wire format of the zone that was asked;
    /// empty if it is not known.
    pub(crate) fn response(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        zone: &[u8],
        output: &mut Output<'_>,
    ) {
        let Ok(dns) = Dns::parse(bytes) else {
            return;
        };
        // Most responses have none. A truncated RRset may lack servers.
        let has_ns = || {
            let records = usize::from(dns.count(1)) + usize::from(dns.count(2));
            dns.places().take(records).any(|(kind, _)| kind == Type::NS)
        };
        if dns.has(0x200) || !has_ns() {
            return;
        }
        let Ok(Some(question)) = dns.question() else {
            return;
        };
        let zone = Name::parse(zone, 0).ok().map(|(zone, _)| zone);
        for offer in offers(&dns) {
            let is_within = zone.is_none_or(|zone| is_at_or_below(offer.owner, zone));
            if is_within && is_at_or_below(question.name, offer.owner) {
                self.take(envelope, offer, output);
            }
        }
    }

    fn take(&mut self, envelope: &Envelope, offer: Offer<'_>, output: &mut Output<'_>) {
        let key = self.key(envelope.origin.program_id, &offer);
        let servers = offer.servers.concat();
        let Some(known) = self.sets.get(key) else {
            let set = Set {
                servers: servers.into(),
                before: 0,
            };
            self.bytes += set.servers.len();
            if let Some((_, forgotten)) = self.sets.insert(key, set) {
                self.bytes -= forgotten.servers.len();
                self.evicted += 1;
            }
            return self.shrink();
        };
        if known.servers.eq_ignore_ascii_case(&servers) {
            return;
        }
        let [old, new] = [&known.servers[..], &servers].map(|servers| hash(&self.hasher, servers));
        let moved_back = known.before == new;
        known.before = old;
        let old_servers = names(&known.servers);
        self.bytes = self.bytes + servers.len() - known.servers.len();
        known.servers = servers.into();
        self.shrink();
        let change = NsChange {
            name: Some(wire(offer.owner)),
            class: Some(offer.class.0.into()),
            old_servers,
            new_servers: offer.servers,
            sender_address: address(envelope.peer),
            sender_port: (envelope.peer.port != 0).then_some(envelope.peer.port.into()),
            certainty: Some(Certainty::Offered as i32),
            moved_back: Some(moved_back),
            ttl: Some(offer.ttl),
            ..NsChange::default()
        };
        let content = Content::NsChange(change);
        output.emit(
            envelope.ktime_ns,
            Phase::Point,
            envelope.origin.tgid,
            content,
        );
    }

    /// Forgets RRsets until the names fit.
    fn shrink(&mut self) {
        while self.bytes > BYTES
            && let Some((_, forgotten)) = self.sets.pop_oldest()
        {
            self.bytes -= forgotten.servers.len();
            self.evicted += 1;
        }
    }

    fn key(&self, program_id: u32, offer: &Offer<'_>) -> u64 {
        let owner = hash(&self.hasher, &wire(offer.owner));
        let Offer { class, side, .. } = offer;
        self.hasher.hash_one((owner, class.0, side, program_id))
    }
}

/// Returns the NS RRsets in the answer and authority sections.
fn offers<'a>(dns: &Dns<'a>) -> Vec<Offer<'a>> {
    let is_authoritative = dns.has(0x400);
    let mut offers: Vec<Offer<'a>> = Vec::new();
    for (section, record) in dns.records().map_while(Result::ok) {
        if section > 2 {
            break;
        }
        if record.kind != Type::NS {
            continue;
        }
        let side = if section == 2 && !is_authoritative {
            Side::Parent
        } else {
            Side::Child
        };
        let Some(server) = server(dns, &record) else {
            continue;
        };
        let same = |offer: &&mut Offer<'_>| {
            offer.side == side && offer.class == record.class && are_equal(offer.owner, record.name)
        };
        if let Some(offer) = offers.iter_mut().find(same) {
            if offer.servers.len() < SERVERS {
                offer.servers.push(server);
            }
        } else if offers.len() < OWNERS {
            offers.push(Offer {
                owner: record.name,
                class: record.class,
                side,
                ttl: record.ttl,
                servers: vec![server],
            });
        }
    }
    for offer in &mut offers {
        offer
            .servers
            .sort_by_cached_key(|server| server.to_ascii_lowercase());
        offer
            .servers
            .dedup_by(|one, other| one.eq_ignore_ascii_case(other));
    }
    offers
}

fn server(dns: &Dns<'_>, record: &Record<'_>) -> Option<Bytes> {
    let (name, behind) = Name::parse(dns.bytes(), record.data).ok()?;
    (behind == record.data + usize::from(record.length)).then(|| wire(name))
}

/// Splits names in wire format, one behind the other.
fn names(mut servers: &[u8]) -> Vec<Bytes> {
    let mut names = Vec::new();
    while let Ok((name, behind)) = Name::parse(servers, 0) {
        names.push(wire(name));
        servers = &servers[behind..];
    }
    names
}

/// Hashes names without regard to case. The result is never 0.
fn hash(hasher: &RandomState, names: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(&names.to_ascii_lowercase());
    state.finish().max(1)
}

/// Returns whether `name` is `ancestor` or below it.
fn is_at_or_below(name: Name<'_>, ancestor: Name<'_>) -> bool {
    let (labels, above) = (name.labels().count(), ancestor.labels().count());
    let Some(skipped) = labels.checked_sub(above) else {
        return false;
    };
    name.labels()
        .skip(skipped)
        .zip(ancestor.labels())
        .all(|(one, other)| one.eq_ignore_ascii_case(other))
}
