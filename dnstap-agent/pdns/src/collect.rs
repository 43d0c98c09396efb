//! Owns the way of a frame into the store: judged, cut into RRsets, each with its bailiwick, folded, written.
//!
//! It keeps no address: neither of clients, whose messages are not looked at, nor of the resolver, nor of the server that answered.

use dnstap_proto::{Dnstap, Message};

use crate::{
    accept::{Accepted, Acceptor, Discard, Judged, Pairing},
    bailiwick::{Budget, Servers, address},
    front::Front,
    message::Records,
    name::{Name, is_within, labels},
    store::{self, Mark, Rrset, Seen, Store, StoreError},
};

/// How to collect.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Bytes in front of the store.
    pub memory: usize,
    /// Who has seen to it that responses belong to queries.
    pub pairing: Pairing,
    /// Addresses of the root's servers, instead of the real ones.
    pub roots: Vec<std::net::IpAddr>,
}

/// What became of the frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames with a message.
    pub messages: u64,
    /// Of these: queries of the resolver, which were noted.
    pub queries: u64,
    /// Of these: messages that passive DNS is not about, such as those of clients.
    pub other: u64,
    /// Of these: responses that were taken.
    pub responses: u64,
    /// RRsets of the responses that were taken.
    pub rrsets: u64,
    /// Of these: sightings that are in the store, on disk.
    pub stored: u64,
    /// Of these: RRsets that were not in the store before.
    pub new: u64,
    /// Of the responses that were taken: those of whose RRsets none was.
    fruitless: u64,
    /// What was left out, in the order of [`Discard::ALL`]: messages, and RRsets of responses that were taken.
    discards: [u64; Discard::ALL.len()],
}

impl Counts {
    /// How often something was left out for that reason.
    #[must_use]
    pub fn discarded(&self, why: Discard) -> u64 {
        self.discards[why as usize]
    }

    /// Why nearly all responses are left out, and what can be done; `None` if that is not so, or there are fewer than `least`.
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

    /// Messages and RRsets each add up: what came is what was taken, passed over or left out.
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

/// Collects into a store. What has been taken is in memory until [`write`](Self::write) has returned.
pub struct Collector {
    store: Store,
    acceptor: Acceptor,
    servers: Servers,
    records: Records,
    front: Front,
    /// Sightings in the memory in front.
    unwritten: u64,
    counts: Counts,
    key: Vec<u8>,
    body: Vec<u8>,
}

impl Collector {
    /// Collects into that store.
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

    /// What became of all frames so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes a frame. After it, [`is_full`](Self::is_full) may say that it is time to write.
    pub fn take(&mut self, dnstap: &Dnstap) {
        self.message(dnstap, true);
    }

    /// Looks at a frame that is in the store already: for what it says of the queries that wait and of name servers. It is not counted.
    pub fn look(&mut self, dnstap: &Dnstap) {
        self.message(dnstap, false);
    }

    /// Whether the memory in front is used up.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.front.is_full()
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.front.bytes()
    }

    /// Writes everything that was taken, and how far the file is that it came from: all of it or nothing. RRsets that were not there before
    /// go to `new`, once they are on disk.
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
        // After all of them: a response cannot vouch for itself.
        for set in learnt {
            self.servers.learn(set);
        }
        Ok(())
    }
}

/// The zone that the resolver had in mind: one that its question could be in.
fn zone_of(zone: &[u8], accepted: Accepted<'_>) -> Result<Name, Discard> {
    let zone = Name::from_wire(zone).ok_or(Discard::WrongZone)?;
    let question = accepted.dns.question().ok().flatten();
    let asked = question.map(|question| Name::of(question.name));
    let fits = asked.is_some_and(|name| name.is_within(&zone)) && labels(zone.wire()).count() < 128;
    fits.then_some(zone).ok_or(Discard::WrongZone)
}

#[cfg(test)]
mod tests;
