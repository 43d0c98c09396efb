//! Takes a frame into the store: judges it, splits it into RRsets, finds the bailiwick of each, combines repeated
//! sightings, and writes them.
//!
//! It stores no address of a client (messages of clients are ignored), of the resolver, or of the server that answered.

use dnstap_proto::{Dnstap, Message};

use crate::{
    accept::{Accepted, Acceptor, Discard, Judged, Pairing},
    bailiwick::{Budget, Servers, address},
    front::Front,
    message::Records,
    name::{Name, is_within, labels},
    store::{self, Mark, Rrset, Seen, Store, StoreError},
};

/// Settings of a [`Collector`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Memory limit for RRsets in front of the store, in bytes.
    pub memory: usize,
    /// Rule that decides whether a response belongs to a query.
    pub pairing: Pairing,
    /// Addresses of the root servers. If there are none, the real root servers are used.
    pub roots: Vec<std::net::IpAddr>,
}

/// Numbers of messages and RRsets by result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames with a message.
    pub messages: u64,
    /// Messages that are queries of the resolver.
    pub queries: u64,
    /// Messages that are not for passive DNS, such as those of clients.
    pub other: u64,
    /// Responses that were accepted.
    pub responses: u64,
    /// RRsets in the accepted responses.
    pub rrsets: u64,
    /// Sightings of these RRsets that are in the store, on disk.
    pub stored: u64,
    /// RRsets that were not in the store before.
    pub new: u64,
    /// Accepted responses that had RRsets, but all of them were discarded.
    fruitless: u64,
    /// Discarded messages, and discarded RRsets of accepted responses, by reason in the order of [`Discard::ALL`].
    discards: [u64; Discard::ALL.len()],
}

impl Counts {
    /// Returns how many messages or RRsets were discarded for this reason.
    #[must_use]
    pub fn discarded(&self, why: Discard) -> u64 {
        self.discards[why as usize]
    }

    /// Returns the main reason why nearly all responses (at least 95 %) gave no RRset, and what the operator can do
    /// about it. Returns `None` if fewer were without result, or if there were fewer than `least` responses.
    #[must_use]
    pub fn nearly_all_left_out(&self, least: u64) -> Option<(Discard, &'static str)> {
        let of_rrset = |of_rrset: bool| {
            let these = Discard::ALL.into_iter();
            these.filter(move |why| why.is_of_rrset() == of_rrset)
        };
        let most = |of| of_rrset(of).max_by_key(|why| self.discarded(*why));
        let left_out: u64 = of_rrset(false).map(|why| self.discarded(why)).sum();
        let all = self.responses + left_out;
        let left_out = left_out + self.fruitless;
        if all < least.max(1) || left_out.saturating_mul(20) < all.saturating_mul(19) {
            return None;
        }
        let of_messages = most(false).filter(|why| self.discarded(*why) >= self.fruitless);
        let why = of_messages.or_else(|| most(true))?;
        let remedy = match why {
            Discard::Forwarder => "collect from the resolver that it forwards to",
            Discard::Unmatched => {
                "the resolver's queries (RESOLVER_QUERY) have to be there as well; if the resolver itself wrote the frames, say \
                 `paired-by` `writer`"
            }
            Discard::UnknownServer => {
                "delegations have to be seen first, for which a resolver with a warm cache needs as long as their TTLs; in a private tree, \
                 give the addresses of its root's servers as `root`"
            }
            Discard::Malformed
            | Discard::Truncated
            | Discard::Refused
            | Discard::WrongZone
            | Discard::OutOfBailiwick
            | Discard::TooCostly => "docs/passive-dns.md says what counts",
        };
        Some((why, remedy))
    }

    /// Returns whether the numbers add up: each message is a query, of another kind, accepted or discarded; and the
    /// stored and the discarded RRsets are not more than all RRsets.
    #[must_use]
    pub fn are_balanced(&self) -> bool {
        let left_out = |of_rrset: bool| -> u64 {
            let these = Discard::ALL.into_iter();
            let these = these.filter(|why| why.is_of_rrset() == of_rrset);
            these.map(|why| self.discarded(why)).sum()
        };
        self.messages == self.queries + self.other + self.responses + left_out(false)
            && self.stored + left_out(true) <= self.rrsets
    }
}

/// Collects frames into a store. What it takes is only in memory until [`write`](Self::write) has returned.
pub struct Collector {
    store: Store,
    acceptor: Acceptor,
    servers: Servers,
    records: Records,
    front: Front,
    /// Number of sightings that are in memory and not written yet.
    unwritten: u64,
    counts: Counts,
    key: Vec<u8>,
    body: Vec<u8>,
}

impl Collector {
    /// Creates a collector for a store.
    #[must_use]
    pub fn new(store: Store, options: &Options) -> Self {
        Self {
            store,
            acceptor: Acceptor::new(options.pairing),
            servers: Servers::new(&options.roots),
            records: Records::default(),
            front: Front::new(options.memory),
            unwritten: 0,
            counts: Counts::default(),
            key: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Returns the numbers for all frames so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes a frame. Afterwards, [`is_full`](Self::is_full) returns whether it is time to write.
    pub fn take(&mut self, dnstap: &Dnstap) {
        self.message(dnstap, true);
    }

    /// Looks at a frame that is already in the store, to learn about waiting queries and name servers. Does not count
    /// it.
    pub fn look(&mut self, dnstap: &Dnstap) {
        self.message(dnstap, false);
    }

    /// Returns whether the memory limit is nearly reached, so that it is time to write.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.front.is_full()
    }

    /// Returns the bytes of memory that RRsets in front of the store use.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.front.bytes()
    }

    /// Writes all sightings in memory, and the position in their source file, in one atomic step. Passes the RRsets
    /// that were not in the store before to `new`, after they are on disk.
    pub fn write(
        &mut self,
        mark: Option<&Mark>,
        new: &mut dyn FnMut(Rrset, Seen),
    ) -> Result<(), StoreError> {
        let sightings = self.front.unwritten();
        if sightings.is_empty() && mark.is_none() {
            return Ok(());
        }
        self.counts.new += self.store.add(&sightings, mark, new)?;
        drop(sightings);
        self.front.settle();
        self.counts.stored += std::mem::take(&mut self.unwritten);
        Ok(())
    }

    fn message(&mut self, dnstap: &Dnstap, counts: bool) {
        let Some(message) = &dnstap.message else {
            return;
        };
        let judged = self.acceptor.judge(message);
        let done = match judged {
            Judged::Response(accepted) => self.response(message, accepted, counts),
            Judged::Discarded(why) => Err(why),
            Judged::Query | Judged::Other => Ok(()),
        };
        if !counts {
            return;
        }
        self.counts.messages += 1;
        match (done, judged) {
            (Err(why), _) => self.counts.discards[why as usize] += 1,
            (Ok(()), Judged::Query) => self.counts.queries += 1,
            (Ok(()), Judged::Response(_)) => self.counts.responses += 1,
            (Ok(()), _) => self.counts.other += 1,
        }
    }

    fn response(
        &mut self,
        message: &Message,
        accepted: Accepted<'_>,
        counts: bool,
    ) -> Result<(), Discard> {
        let zone = match message.query_zone.as_deref() {
            None | Some([]) => None,
            Some(zone) => Some(zone_of(zone, accepted)?),
        };
        self.records.read(accepted.dns).ok_or(Discard::Malformed)?;
        let server = message.response_address.as_deref().and_then(address);
        let mut learnt = Vec::new();
        let mut budget = Budget::new();
        let before = (self.counts.rrsets, self.unwritten);
        for set in self.records.sets() {
            let labels = match (&zone, server) {
                (Some(zone), _) => {
                    let is_within = is_within(set.owner(), zone.wire());
                    is_within
                        .then(|| zone.labels())
                        .ok_or(Discard::OutOfBailiwick)
                }
                (None, Some(server)) => {
                    let zone = self.servers.zone_of(set.owner(), server, &mut budget);
                    learnt.extend(zone.is_ok().then_some(set));
                    zone
                }
                (None, None) => Err(Discard::UnknownServer),
            };
            if !counts {
                continue;
            }
            self.counts.rrsets += 1;
            let bailiwick = labels.map(u8::try_from);
            match bailiwick {
                Ok(Ok(bailiwick)) => {
                    let (key, body) = (&mut self.key, &mut self.body);
                    store::write(set.owner(), set.kind(), bailiwick, set.data(), key, body);
                    self.front.note(key, body, accepted.time);
                    self.unwritten += 1;
                }
                Ok(Err(_)) => unreachable!("a name has 127 labels at most"),
                Err(why) => self.counts.discards[why as usize] += 1,
            }
        }
        if self.counts.rrsets > before.0 && self.unwritten == before.1 {
            self.counts.fruitless += 1;
        }
        // Learn only after the last RRset, because a response cannot vouch for itself.
        for set in learnt {
            self.servers.learn(set);
        }
        Ok(())
    }
}

/// Returns the zone that the resolver assumed. The question must be in it.
fn zone_of(zone: &[u8], accepted: Accepted<'_>) -> Result<Name, Discard> {
    let zone = Name::from_wire(zone).ok_or(Discard::WrongZone)?;
    let question = accepted.dns.question().ok().flatten();
    let asked = question.map(|question| Name::of(question.name));
    let fits = asked.is_some_and(|name| name.is_within(&zone)) && labels(zone.wire()).count() < 128;
    fits.then_some(zone).ok_or(Discard::WrongZone)
}

#[cfg(test)]
mod tests;
