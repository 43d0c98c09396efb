//! Queries that wait for their responses.
//!
//! Owns a table of queries keyed by socket, peer, transport and DNS id, with a hash of the question (name without
//! regard to case, RFC 4343; type; class) to tell apart what shares an id. A response takes its oldest matching query:
//! retransmissions are answered in their order. A response without a question (terse errors, later messages of a zone
//! transfer) matches by key alone. The query of a zone transfer over TCP stays, since many messages answer it (RFC 5936
//! section 2.2), and ages from the last of them.
//!
//! Bounded: entries; age; and queries with one key, so that a peer that repeats one id cannot make look-ups slow.
//! Within those the oldest goes first. Entries live in one vector and are linked by index, in order of arrival
//! and in hash chains: nothing is allocated once the vector has grown. Only queries that are to be reported when they stay
//! without answer (`Asked`) hold memory of their own.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

// Peers choose ids, ports and names, so the hash must be seeded; this one is, and takes a few nanoseconds.
use foldhash::fast::RandomState;

use crate::{
    classify::{Kind, Matter, Role},
    encode::Finding,
    event::{Endpoint, Envelope, Protocol, Proxied},
    pipeline::counters::counters,
    stream::wire::Message,
};

const NONE: u32 = u32::MAX;

/// Queries with the same socket, peer, transport and id.
const SAME_KEY: usize = 16;

const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;

counters! {
    /// What became of queries and responses.
    pub struct PairCounters {
        /// Queries remembered.
        queries,
        /// Responses looked up.
        responses,
        /// Responses whose query was known.
        responses_paired,
        /// Responses whose query was not.
        responses_unmatched,
        /// Queries that got at least one response.
        queries_answered,
        /// Queries that got none in time.
        queries_unanswered,
        /// Of the unanswered: AUTH.
        unanswered_auth,
        /// Of the unanswered: RESOLVER.
        unanswered_resolver,
        /// Of the unanswered: CLIENT.
        unanswered_client,
        /// Of the unanswered: FORWARDER.
        unanswered_forwarder,
        /// Of the unanswered: STUB.
        unanswered_stub,
        /// Of the unanswered: TOOL.
        unanswered_tool,
        /// Of the unanswered: UPDATE.
        unanswered_update,
        /// Of the unanswered: queries that are left out on purpose.
        unanswered_excluded,
        /// Queries given up because their peer had too many with the same id.
        queries_displaced,
        /// Queries given up because the table was full.
        queries_evicted,
    }
}

impl PairCounters {
    /// The queries without answer of a family.
    pub fn unanswered(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Auth => &mut self.unanswered_auth,
            Kind::Resolver => &mut self.unanswered_resolver,
            Kind::Client => &mut self.unanswered_client,
            Kind::Forwarder => &mut self.unanswered_forwarder,
            Kind::Stub => &mut self.unanswered_stub,
            Kind::Tool => &mut self.unanswered_tool,
            Kind::Update => &mut self.unanswered_update,
        }
    }
}

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct PairLimits {
    /// Queries remembered; about 200 bytes each, allocated as needed.
    pub entries: usize,
    /// Nanoseconds for which a query waits.
    pub age_ns: u64,
}

impl Default for PairLimits {
    fn default() -> Self {
        Self {
            entries: 262_144,
            age_ns: 15_000_000_000,
        }
    }
}

/// What a response needs to know of its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Kernel time.
    pub ktime_ns: u64,
    /// The clock's offset then, so that both times of a pair follow one clock.
    pub offset_ns: i64,
    /// The process's end, as the query showed it.
    pub local: Endpoint,
    /// The ends that a proxy told.
    pub proxied: Option<Proxied>,
    /// Family of types.
    pub kind: Kind,
    /// What it is about.
    pub matter: Matter,
    /// Whether it is delivered, and not left out on purpose.
    pub wanted: bool,
    /// Names the query while it is held back until its answer.
    pub ticket: Option<u64>,
}

/// A query as it is reported when it stays without answer.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Its context.
    pub(crate) envelope: Envelope,
    /// What was found out about it.
    pub(crate) finding: Finding,
    /// Its first bytes.
    pub(crate) message: Vec<u8>,
}

/// A query that stayed without answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// The query.
    pub(crate) asked: Asked,
    /// Nanoseconds for which it waited.
    pub(crate) waited_ns: u64,
}

/// The table.
#[derive(Debug)]
pub struct Pairs {
    limits: PairLimits,
    hasher: RandomState,
    /// Heads of the hash chains; a power of two of them.
    buckets: Vec<u32>,
    entries: Vec<Entry>,
    free: u32,
    waiting: usize,
    oldest: u32,
    newest: u32,
    /// The latest kernel time that was seen.
    now_ktime_ns: u64,
    /// By slot: queries to be reported; shorter than `entries` if there are none.
    asked: Vec<Option<Asked>>,
    unanswered: Vec<Unanswered>,
    counters: PairCounters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    socket: u64,
    peer: Endpoint,
    protocol: Protocol,
    id: u16,
    /// Who asks whom: a response answers what went the other way.
    role: Role,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    hash: u64,
    question: Option<u64>,
    query: Query,
    transfer: bool,
    answered: bool,
    /// Kernel time from which it ages.
    used_ktime_ns: u64,
    /// Next in the hash chain, from the newest on; the next free entry if this one is free.
    chain: u32,
    older: u32,
    newer: u32,
}

#[derive(Clone, Copy)]
enum End {
    Answered,
    Unanswered,
    Displaced,
    Evicted,
}

impl Pairs {
    /// An empty table.
    #[must_use]
    pub fn new(limits: PairLimits) -> Self {
        let limits = PairLimits {
            entries: limits.entries.clamp(1, 1 << 28),
            ..limits
        };
        Self {
            limits,
            hasher: RandomState::default(),
            buckets: vec![NONE; limits.entries.next_power_of_two()],
            entries: Vec::new(),
            free: NONE,
            waiting: 0,
            oldest: NONE,
            newest: NONE,
            now_ktime_ns: 0,
            asked: Vec::new(),
            unanswered: Vec::new(),
            counters: PairCounters::default(),
        }
    }

    /// Remembers a query; `asked` if it is to be reported when it stays without answer.
    pub(crate) fn query(
        &mut self,
        envelope: &Envelope,
        message: &Message<'_>,
        query: Query,
        asked: Option<Asked>,
    ) {
        self.counters.queries += 1;
        self.now_ktime_ns = self.now_ktime_ns.max(envelope.ktime_ns);
        let (key, hash) = self.key(envelope, message);
        self.make_room(hash, &key, envelope.ktime_ns);
        let bucket = self.bucket(hash);
        let transfer = key.protocol == Protocol::Tcp
            && matches!(message.question_type(), Some(TYPE_IXFR | TYPE_AXFR));
        let entry = Entry {
            key,
            hash,
            question: self.question(message),
            query,
            transfer,
            answered: false,
            used_ktime_ns: envelope.ktime_ns,
            chain: self.buckets[bucket],
            older: NONE,
            newer: NONE,
        };
        let slot = self.place(entry);
        if asked.is_some() {
            let needed = self.asked.len().max(slot as usize + 1);
            self.asked.resize(needed, None);
            self.asked[slot as usize] = asked;
        }
        self.buckets[bucket] = slot;
        self.link(slot);
        self.waiting += 1;
    }

    /// The query that a response answers.
    pub(crate) fn response(&mut self, envelope: &Envelope, message: &Message<'_>) -> Option<Query> {
        self.counters.responses += 1;
        let (key, hash) = self.key(envelope, message);
        let question = self.question(message);
        let mut found = None;
        let mut slot = self.buckets[self.bucket(hash)];
        while let Some(entry) = self.entries.get(slot as usize) {
            let answers = entry.hash == hash
                && entry.key == key
                && (question.is_none() || entry.question.is_none() || question == entry.question)
                && entry.query.ktime_ns <= envelope.ktime_ns;
            if answers {
                // The chain runs from new to old: the last match is the oldest.
                found = Some(slot);
            }
            slot = entry.chain;
        }
        let Some(slot) = found else {
            self.counters.responses_unmatched += 1;
            return None;
        };
        self.counters.responses_paired += 1;
        let entry = &mut self.entries[slot as usize];
        let query = entry.query;
        if entry.transfer {
            entry.answered = true;
            entry.used_ktime_ns = envelope.ktime_ns;
            self.unlink(slot);
            self.link(slot);
        } else {
            self.remove(slot, End::Answered);
        }
        Some(query)
    }

    /// Gives up queries that are too old at kernel time `now_ktime_ns`.
    pub fn tick(&mut self, now_ktime_ns: u64) {
        self.now_ktime_ns = self.now_ktime_ns.max(now_ktime_ns);
        while let Some(entry) = self.entries.get(self.oldest as usize) {
            if entry.used_ktime_ns.saturating_add(self.limits.age_ns) >= now_ktime_ns {
                break;
            }
            self.remove(self.oldest, End::Unanswered);
        }
    }

    /// Gives up all queries.
    pub fn finish(&mut self) {
        while self.waiting > 0 {
            self.remove(self.oldest, End::Unanswered);
        }
    }

    /// Queries to be reported that stayed without answer since the last call.
    pub(crate) fn take_unanswered(&mut self) -> Vec<Unanswered> {
        std::mem::take(&mut self.unanswered)
    }

    /// Queries in the table.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting as u64
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &PairCounters {
        &self.counters
    }

    fn key(&self, envelope: &Envelope, message: &Message<'_>) -> (Key, u64) {
        let key = Key {
            socket: envelope.socket,
            peer: envelope.peer,
            protocol: envelope.protocol,
            id: message.id,
            role: Role::of(envelope.direction, message.flags.response()),
        };
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(key.socket);
        hasher.write_u64(
            u64::from(key.id) << 24 | u64::from(key.peer.port) << 8 | key.protocol as u64,
        );
        key.peer.hash(&mut hasher);
        (key, hasher.finish())
    }

    fn question(&self, message: &Message<'_>) -> Option<u64> {
        let question = message.question?;
        let (name, rest) = question.split_at(question.len() - 4);
        // Lengths of labels are below 64, so lower case leaves them alone.
        let mut folded = [0; 255];
        let folded = folded.get_mut(..name.len())?;
        folded.copy_from_slice(name);
        folded.make_ascii_lowercase();
        let mut hasher = self.hasher.build_hasher();
        hasher.write(folded);
        hasher.write(rest);
        Some(hasher.finish())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low bits of the hash select the bucket"
    )]
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Gives up what stands in the way of one more query with `key`.
    fn make_room(&mut self, hash: u64, key: &Key, now_ktime_ns: u64) {
        let (mut same, mut oldest_same) = (0, NONE);
        let mut slot = self.buckets[self.bucket(hash)];
        while let Some(entry) = self.entries.get(slot as usize) {
            if entry.hash == hash && entry.key == *key {
                same += 1;
                oldest_same = slot;
            }
            slot = entry.chain;
        }
        if same >= SAME_KEY {
            self.remove(oldest_same, End::Displaced);
        }
        if self.waiting >= self.limits.entries {
            self.tick(now_ktime_ns);
        }
        if self.waiting >= self.limits.entries {
            self.remove(self.oldest, End::Evicted);
        }
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if let Some(free) = self.entries.get_mut(self.free as usize) {
            let slot = self.free;
            self.free = free.chain;
            *free = entry;
            return slot;
        }
        self.entries.push(entry);
        // The number of entries is clamped to 2^28.
        u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
    }

    /// Makes an entry the newest.
    fn link(&mut self, slot: u32) {
        let previous = std::mem::replace(&mut self.newest, slot);
        let entry = &mut self.entries[slot as usize];
        (entry.older, entry.newer) = (previous, NONE);
        match self.entries.get_mut(previous as usize) {
            Some(entry) => entry.newer = slot,
            None => self.oldest = slot,
        }
    }

    /// Takes an entry out of the order of age.
    fn unlink(&mut self, slot: u32) {
        let Entry { older, newer, .. } = self.entries[slot as usize];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    fn remove(&mut self, slot: u32, end: End) {
        let Entry {
            hash,
            chain,
            answered,
            query:
                Query {
                    ktime_ns,
                    kind,
                    wanted,
                    ..
                },
            ..
        } = self.entries[slot as usize];
        let bucket = self.bucket(hash);
        if self.buckets[bucket] == slot {
            self.buckets[bucket] = chain;
        } else {
            let mut before = self.buckets[bucket];
            while let Some(entry) = self.entries.get_mut(before as usize) {
                if entry.chain == slot {
                    entry.chain = chain;
                    break;
                }
                before = entry.chain;
            }
        }
        self.unlink(slot);
        self.entries[slot as usize].chain = self.free;
        self.free = slot;
        self.waiting -= 1;
        let asked = self.asked.get_mut(slot as usize).and_then(Option::take);
        if matches!(end, End::Unanswered) && !answered {
            if wanted {
                *self.counters.unanswered(kind) += 1;
            } else {
                self.counters.unanswered_excluded += 1;
            }
            self.unanswered.extend(asked.map(|asked| Unanswered {
                asked,
                waited_ns: self.now_ktime_ns.saturating_sub(ktime_ns),
            }));
        }
        *match end {
            _ if answered => &mut self.counters.queries_answered,
            End::Answered => &mut self.counters.queries_answered,
            End::Unanswered => &mut self.counters.queries_unanswered,
            End::Displaced => &mut self.counters.queries_displaced,
            End::Evicted => &mut self.counters.queries_evicted,
        } += 1;
    }
}

#[cfg(test)]
mod tests;
