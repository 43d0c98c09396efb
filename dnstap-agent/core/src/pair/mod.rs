//! Queries that wait for their responses.
//!
//! [`Pairs`] is a table of queries. Its key is the peer, the transport, the DNS id and the
//! process's end. A hash of the question tells queries with the same key apart. The hash covers the
//! name (uncompressed and without regard to case, RFC 4343), the type and the class. A response
//! takes the oldest query that matches, so retransmissions are answered in their order. A response
//! without a question (a terse error, or a later message of a zone transfer) matches by the key
//! alone. Many messages answer the query of a zone transfer over TCP (RFC 5936 section 2.2). Such a
//! query therefore stays in the table and ages from its last response.
//!
//! Over TCP the process's end is the socket. Over UDP it is the local port, because a response may
//! leave through another socket with the same port (`SO_REUSEPORT`, another thread, another process
//! of the family). That socket must be the same one or belong to the same program. A query of the
//! same socket is preferred. The local address is compared if query and response both have one.
//!
//! The peer may be unknown on one side, because `recv` and `read` on an unconnected socket name no
//! sender:
//! - A response without a peer takes a query with the same local port and id. `hints` finds that
//!   query, and the query names the peer.
//! - A response to a known peer takes a query without a peer if the same socket received it and no
//!   query of that peer matches.
//!
//! The table is bounded in three ways: entries, age, and queries with one key. The last bound keeps
//! look-ups fast when a peer repeats one id. The oldest query goes first, but received queries go
//! before sent ones. A flood from outside therefore cannot push out the queries that the process
//! has sent. Entries live in one vector. They are linked by index, in order of arrival and in hash
//! chains, so nothing is allocated once the vector has grown. Only two kinds of queries own memory:
//! those that are reported when they stay unanswered (`Asked`), and those that came through a
//! proxy.
//!
//! A response without a match may be one that nobody asked for. `Found::Forgotten` says that this
//! is not certain.

use std::hash::{BuildHasher as _, Hasher as _};

// Peers choose ids, ports and names, so the hash must be seeded. This hasher is seeded and takes a
// few nanoseconds.
use foldhash::fast::RandomState;

use crate::{
    counters::counters,
    dns::Message,
    model::{
        Asked, Direction, Endpoint, Envelope, Family, Kind, Notice, Protocol, Proxied, Role,
        Subject,
    },
};

const NONE: u32 = u32::MAX;

/// Most queries with the same peer, transport, id, and socket or local port.
const SAME_KEY: usize = 16;

/// Slots of [`Pairs::hints`].
const HINTS: usize = 65_536;

/// Nanoseconds for which a response to a sent query is expected, even if the query already counts
/// as unanswered.
pub(crate) const EXPECTED_NS: u64 = 15_000_000_000;

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
    /// Returns the counter of unanswered queries of a family.
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
    /// Queries remembered; about 160 bytes each, allocated as needed.
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

/// What the table stores about a query, for its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Kernel time.
    pub ktime_ns: u64,
    /// Offset of the clock when the query was seen. Both times of a pair use this offset.
    pub offset_ns: i64,
    /// Address family of both ends.
    pub family: Family,
    /// Family of dnstap message types.
    pub kind: Kind,
    /// Subject of the exchange.
    pub subject: Subject,
    /// Whether the query is delivered (false if it is left out on purpose).
    pub wanted: bool,
    /// Identifies the query while it is held back until its response.
    pub ticket: Option<u64>,
}

/// Index of a query that was found. The entry can be read until the next query is added, even if it
/// has left the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

/// Result of looking for a response's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A query was found; [`Pairs::found`] returns it.
    Query(Slot),
    /// No query was found, but there may have been one: it already counted as unanswered, or was
    /// given up to make room, or a query with the same key but another question waits.
    Forgotten,
    /// No query was found, and there was none.
    Nothing,
}

/// Table of queries that wait for their responses.
#[derive(Debug)]
pub struct Pairs {
    limits: PairLimits,
    hasher: RandomState,
    /// Heads of the hash chains; a power of two of them.
    buckets: Vec<u32>,
    /// Latest query that was sent from an unconnected socket, by local port and id. The query may
    /// have left the table, so each look-up compares. Empty before the first such query.
    hints: Vec<u32>,
    entries: Vec<Entry>,
    free: u32,
    waiting: usize,
    /// Queries that count as unanswered but are still in the table.
    late: usize,
    lists: [List; Age::ALL.len()],
    /// Received queries whose peer is unknown.
    without_peer: usize,
    /// When a sent query was last given up to make room.
    evicted_ktime_ns: Option<u64>,
    /// When the hint of a waiting query was last overwritten by another hint.
    hint_lost_ktime_ns: Option<u64>,
    /// When a query was last sent to a multicast address.
    multicast_ktime_ns: Option<u64>,
    /// Latest kernel time seen.
    now_ktime_ns: u64,
    /// Queries to be reported, by slot. Shorter than `entries` if there are none.
    asked: Vec<Option<Asked>>,
    /// Ends from PROXY headers, by slot. Shorter than `entries` if there are none.
    proxied: Vec<Option<Proxied>>,
    /// Queries to be reported that stayed unanswered.
    notices: Vec<Notice>,
    counters: PairCounters,
}

/// Entries in order of age.
#[derive(Clone, Copy, Debug)]
struct List {
    oldest: u32,
    newest: u32,
}

impl List {
    const EMPTY: Self = Self {
        oldest: NONE,
        newest: NONE,
    };
}

/// Lists of entries by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    /// Sent queries that count as unanswered but whose response is still expected.
    Late,
    /// Received queries.
    Received,
    /// Sent queries.
    Sent,
}

impl Age {
    /// Order in which the lists make room.
    const ALL: [Self; 3] = [Self::Received, Self::Late, Self::Sent];
}

/// Responses that a query has and expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// No response yet; one is expected.
    One,
    /// No response yet; many are expected.
    Many,
    /// Some of many responses have come.
    Some,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    socket: u64,
    /// Program id of the process.
    program_id: u32,
    local: Endpoint,
    peer: Endpoint,
    protocol: Protocol,
    id: u16,
    /// Role of the process. A response answers a query with the same role.
    role: Role,
}

impl Key {
    /// Returns whether a response with key `other` may answer a query with this one.
    fn admits(&self, other: &Self) -> bool {
        let same_end = match self.protocol {
            Protocol::Tcp => self.socket == other.socket,
            Protocol::Udp => {
                self.local.port == other.local.port
                    && (self.socket == other.socket || self.program_id == other.program_id)
            }
            Protocol::Dot | Protocol::Doh => {
                self.local.port == other.local.port && self.program_id == other.program_id
            }
        };
        self.id == other.id
            && self.role == other.role
            && self.protocol == other.protocol
            && self.peer == other.peer
            && same_end
            && self.local.may_be_at(&other.local)
    }

    fn has_peer(&self) -> bool {
        self.peer.is_known()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    hash: u64,
    question: Option<u64>,
    /// Hash of the question letter by letter, for a query from an unconnected socket.
    exact: Option<u64>,
    query: Query,
    answers: Answers,
    /// Whether the socket was not connected.
    unconnected: bool,
    /// List that the entry is in.
    list: Age,
    /// Kernel time from which the entry ages.
    used_ktime_ns: u64,
    /// Next entry in the hash chain, which runs from new to old. If this entry is free: the next
    /// free entry.
    chain: u32,
    older: u32,
    newer: u32,
}

impl Entry {
    const UNUSED: Self = Self {
        key: Key {
            socket: 0,
            program_id: 0,
            local: Endpoint::UNKNOWN,
            peer: Endpoint::UNKNOWN,
            protocol: Protocol::Udp,
            id: 0,
            role: Role::Responder,
        },
        hash: 0,
        question: None,
        exact: None,
        query: Query {
            ktime_ns: 0,
            offset_ns: 0,
            family: Family::Inet,
            kind: Kind::Auth,
            subject: Subject::Query,
            wanted: false,
            ticket: None,
        },
        answers: Answers::One,
        unconnected: false,
        list: Age::Received,
        used_ktime_ns: 0,
        chain: NONE,
        older: NONE,
        newer: NONE,
    };
}

#[derive(Clone, Copy)]
enum End {
    Answered,
    Unanswered,
    Displaced,
    Evicted,
}

impl Pairs {
    /// Creates an empty table.
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
            hints: Vec::new(),
            entries: Vec::new(),
            free: NONE,
            waiting: 0,
            late: 0,
            lists: [List::EMPTY; Age::ALL.len()],
            without_peer: 0,
            evicted_ktime_ns: None,
            hint_lost_ktime_ns: None,
            multicast_ktime_ns: None,
            now_ktime_ns: 0,
            asked: Vec::new(),
            proxied: Vec::new(),
            notices: Vec::new(),
            counters: PairCounters::default(),
        }
    }

    /// Adds a query. `asked` is set if the query is reported when it stays unanswered.
    #[inline]
    pub(crate) fn query(
        &mut self,
        envelope: &Envelope,
        message: &Message<'_>,
        query: Query,
        asked: Option<Asked>,
    ) {
        self.counters.queries += 1;
        self.now_ktime_ns = self.now_ktime_ns.max(envelope.ktime_ns);
        let key = key(envelope, message);
        let hash = self.hash(&key);
        self.make_room(hash, envelope.ktime_ns);
        let bucket = self.bucket(hash);
        let answers = match message.question_type() {
            Some(asked) if asked.is_transfer() && key.protocol == Protocol::Tcp => Answers::Many,
            _ => Answers::One,
        };
        let list = match envelope.direction {
            Direction::Received => Age::Received,
            Direction::Sent => Age::Sent,
        };
        let (question, exact) = (self.question(message), self.exact(envelope, message));
        let chain = self.buckets[bucket];
        let slot = self.vacant();
        let at = slot as usize;
        self.entries[at] = Entry {
            key,
            hash,
            question,
            exact,
            query,
            answers,
            unconnected: envelope.unconnected,
            list,
            used_ktime_ns: envelope.ktime_ns,
            chain,
            older: NONE,
            newer: NONE,
        };
        set(&mut self.asked, at, asked);
        set(&mut self.proxied, at, envelope.proxied);
        self.buckets[bucket] = slot;
        self.link(slot);
        self.waiting += 1;
        if list == Age::Sent && envelope.unconnected {
            self.hint(&key, slot);
            // A host that answers a question to a multicast group (RFC 4795, RFC 6762) uses its own
            // address.
            if key.peer.ip().is_some_and(|address| address.is_multicast()) {
                self.multicast_ktime_ns = Some(self.now_ktime_ns);
            }
        }
        self.without_peer += usize::from(list == Age::Received && !key.has_peer());
    }

    /// Finds the query that a response answers, and counts the response if there is one. If there
    /// is none, the caller judges the response and calls [`Self::unmatched`] if it stays without a
    /// query.
    #[inline]
    pub(crate) fn response(&mut self, envelope: &Envelope, message: &Message<'_>) -> Found {
        self.now_ktime_ns = self.now_ktime_ns.max(envelope.ktime_ns);
        let question = self.question(message);
        // Any host can send to an unconnected socket. The process may reject a response that
        // differs in one letter and go on waiting.
        let exact = self.exact(envelope, message);
        let (key, ktime_ns) = (key(envelope, message), envelope.ktime_ns);
        let slot = match self.sole(&key, question, ktime_ns) {
            Some(slot) => {
                debug_assert_eq!(self.search(key, question, ktime_ns), Ok(slot));
                slot
            }
            None => match self.search(key, question, ktime_ns) {
                Ok(slot) => slot,
                Err(found) => return found,
            },
        };
        let entry = &mut self.entries[slot as usize];
        if entry.list == Age::Late {
            self.forget(slot);
            return Found::Forgotten;
        }
        self.counters.responses += 1;
        self.counters.responses_paired += 1;
        if entry.answers == Answers::One && (!entry.unconnected || entry.exact == exact) {
            self.remove(slot, End::Answered);
        } else {
            entry.answers = Answers::Some;
            entry.used_ktime_ns = envelope.ktime_ns;
            self.unlink(slot);
            self.link(slot);
        }
        Found::Query(Slot(slot))
    }

    /// Returns the query that [`Self::search`] would find, if it is alone in its hash chain (which
    /// is nearly always so).
    #[inline]
    fn sole(&self, key: &Key, question: Option<u64>, ktime_ns: u64) -> Option<u32> {
        let hash = self.hash(key);
        let slot = self.buckets[self.bucket(hash)];
        let entry = self.entries.get(slot as usize)?;
        let is_found = entry.chain == NONE
            && entry.hash == hash
            && entry.key.admits(key)
            && key.has_peer()
            && entry.query.ktime_ns <= ktime_ns
            && agree(question, entry.question);
        is_found.then_some(slot)
    }

    /// Finds the query that a response answers, or says why there is none.
    fn search(&self, mut key: Key, question: Option<u64>, ktime_ns: u64) -> Result<u32, Found> {
        if key.role == Role::Initiator
            && !key.has_peer()
            && let Some(asked) = self.hinted(&key, question)
        {
            key.peer = asked;
        }
        let mut sought = self.find(&key, question, ktime_ns);
        if sought.slot.is_none() && key.role == Role::Responder && self.without_peer > 0 {
            let nobody = Key {
                peer: Endpoint::default(),
                ..key
            };
            let found = self.find(&nobody, question, ktime_ns);
            // Guess as little as possible: require the same socket and the same question.
            let same = |slot: &u32| {
                let entry = &self.entries[*slot as usize];
                entry.key.socket == key.socket && entry.question.is_some()
            };
            sought.slot = found.slot.filter(same).filter(|_| question.is_some());
        }
        sought.slot.ok_or_else(|| {
            // If the sender is unknown, the hint of a later query may hide the query that this
            // response answers.
            let hint_lost = self.hint_lost_ktime_ns.filter(|_| !key.has_peer());
            let evicted = self
                .evicted_ktime_ns
                .max(hint_lost)
                .max(self.multicast_ktime_ns)
                .is_some_and(|at| ktime_ns <= at.saturating_add(self.expected_ns()));
            if sought.same_key || evicted {
                Found::Forgotten
            } else {
                Found::Nothing
            }
        })
    }

    /// Returns the query that a response has found, with the process's end and the peer's end as
    /// the query showed them.
    #[inline]
    pub(crate) fn found(&self, slot: Slot) -> (&Query, &Endpoint, &Endpoint) {
        let Entry { query, key, .. } = &self.entries[slot.0 as usize];
        (query, &key.local, &key.peer)
    }

    /// Returns the ends that the PROXY header of the query named.
    #[inline]
    pub(crate) fn proxied(&self, slot: Slot) -> Option<&Proxied> {
        self.proxied.get(slot.0 as usize)?.as_ref()
    }

    /// Counts a response for which no query was found.
    pub(crate) fn unmatched(&mut self) {
        self.counters.responses += 1;
        self.counters.responses_unmatched += 1;
    }

    /// Returns a hash that a response shares with the query that it may answer, from the fields
    /// that both have. A response without a peer shares it with the queries to all peers. 0 if the
    /// message needs no such hash.
    pub(crate) fn meeting(&self, envelope: &Envelope, message: &Message<'_>) -> u64 {
        let key = key(envelope, message);
        if key.has_peer() {
            self.hash(&key)
        } else {
            self.hash_of_hint(&key)
        }
    }

    /// Like [`Self::meeting`], for a query that meets a response without a peer.
    pub(crate) fn meeting_without_peer(&self, envelope: &Envelope, message: &Message<'_>) -> u64 {
        self.hash_of_hint(&key(envelope, message))
    }

    /// Returns the nanoseconds for which a response is expected.
    pub(crate) fn expected_ns(&self) -> u64 {
        self.limits.age_ns.max(EXPECTED_NS)
    }

    /// Returns the latest kernel time seen.
    pub(crate) fn now_ktime_ns(&self) -> u64 {
        self.now_ktime_ns
    }

    /// Gives up queries that are too old at kernel time `now_ktime_ns`.
    pub fn tick(&mut self, now_ktime_ns: u64) {
        self.now_ktime_ns = self.now_ktime_ns.max(now_ktime_ns);
        for (list, age_ns) in [
            (Age::Late, self.expected_ns()),
            (Age::Received, self.limits.age_ns),
            (Age::Sent, self.limits.age_ns),
        ] {
            while let Some(entry) = self.oldest(list) {
                if entry.used_ktime_ns.saturating_add(age_ns) >= now_ktime_ns {
                    break;
                }
                self.expire(self.lists[list as usize].oldest, now_ktime_ns);
            }
        }
    }

    /// Gives up all queries.
    pub fn finish(&mut self) {
        for list in Age::ALL {
            while self.oldest(list).is_some() {
                self.expire(self.lists[list as usize].oldest, u64::MAX);
            }
        }
    }

    /// Returns the queries to be reported that stayed unanswered since the last call.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Number of queries in the table.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting as u64
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> &PairCounters {
        &self.counters
    }

    /// Hashes the part of a key that all matching messages share. The process's address and program
    /// are not part of it, nor is the socket over UDP.
    #[inline]
    fn hash(&self, key: &Key) -> u64 {
        let end = match key.protocol {
            Protocol::Tcp => key.socket,
            Protocol::Udp | Protocol::Dot | Protocol::Doh => key.local.port.into(),
        };
        let rest = u64::from(key.id) << 48
            | u64::from(key.peer.port) << 32
            | u64::from(key.peer.length) << 16
            | (key.role as u64) << 8
            | key.protocol as u64;
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u128(u128::from_le_bytes(*key.peer.octets()));
        hasher.write_u128(u128::from(end) << 64 | u128::from(rest));
        hasher.finish()
    }

    fn hash_of_hint(&self, key: &Key) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(u32::from(key.id) << 16 | u32::from(key.local.port));
        hasher.finish()
    }

    /// Hashes the question without regard to case and compression.
    #[inline]
    fn question(&self, message: &Message<'_>) -> Option<u64> {
        let step = |folded, block| {
            let mut hasher = self.hasher.build_hasher();
            hasher.write_u128(block ^ u128::from(folded));
            hasher.finish()
        };
        message.fold_question(0, step)
    }

    /// Hashes the question letter by letter, for messages between a process that asks from an
    /// unconnected socket and its peer.
    #[inline]
    fn exact(&self, envelope: &Envelope, message: &Message<'_>) -> Option<u64> {
        let role = Role::of(envelope.direction, message.flags.response());
        if !envelope.unconnected || role != Role::Initiator || !message.well_formed {
            return None;
        }
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u16(message.flags.opcode().0);
        hasher.write(message.question?);
        Some(hasher.finish())
    }

    /// Stores a hint so that the query in `slot` can be found without its peer.
    fn hint(&mut self, key: &Key, slot: u32) {
        if self.hints.is_empty() {
            self.hints = vec![NONE; HINTS];
        }
        let at = self.hint_of(key);
        let before = std::mem::replace(&mut self.hints[at], slot);
        if before != NONE {
            self.hint_lost_ktime_ns = Some(self.now_ktime_ns);
        }
    }

    /// Removes the hint of the query in `slot`, which leaves the table.
    fn forget_hint(&mut self, slot: u32) {
        let entry = &self.entries[slot as usize];
        if !entry.unconnected || entry.key.role != Role::Initiator || self.hints.is_empty() {
            return;
        }
        let at = self.hint_of(&entry.key);
        if self.hints[at] == slot {
            self.hints[at] = NONE;
        }
    }

    /// Returns the peer of the latest query with this id that was sent from this port.
    fn hinted(&self, key: &Key, question: Option<u64>) -> Option<Endpoint> {
        let slot = *self.hints.get(self.hint_of(key))?;
        let entry = self.entries.get(slot as usize)?;
        let peer = entry.key.peer;
        let found = entry.unconnected
            && agree(question, entry.question)
            && entry.key.admits(&Key { peer, ..*key });
        found.then_some(peer)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low bits of the hash select the slot"
    )]
    fn hint_of(&self, key: &Key) -> usize {
        self.hash_of_hint(key) as usize % HINTS
    }

    /// Finds the oldest query that a response with this key and question at kernel time `ktime_ns`
    /// answers. Queries of the same socket are preferred; queries that count as unanswered come
    /// last.
    #[inline]
    fn find(&self, key: &Key, question: Option<u64>, ktime_ns: u64) -> Sought {
        let hash = self.hash(key);
        let (mut same, mut other, mut late, mut same_key) = (None, None, None, false);
        let mut slot = self.buckets[self.bucket(hash)];
        while let Some(entry) = self.entries.get(slot as usize) {
            if entry.hash == hash && entry.key.admits(key) && entry.query.ktime_ns <= ktime_ns {
                same_key = true;
                // The chain runs from new to old: the last match is the oldest.
                if agree(question, entry.question) {
                    let place = if entry.list == Age::Late {
                        &mut late
                    } else if entry.key.socket == key.socket {
                        &mut same
                    } else {
                        &mut other
                    };
                    *place = Some(slot);
                }
            }
            slot = entry.chain;
        }
        Sought {
            slot: same.or(other).or(late),
            same_key,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low bits of the hash select the bucket"
    )]
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Gives up queries so that one more with this hash of its key has room.
    #[inline]
    fn make_room(&mut self, hash: u64, now_ktime_ns: u64) {
        let (mut same, mut oldest_same) = (0, NONE);
        let mut slot = self.buckets[self.bucket(hash)];
        while let Some(entry) = self.entries.get(slot as usize) {
            if entry.hash == hash {
                same += 1;
                oldest_same = slot;
            }
            slot = entry.chain;
        }
        if same >= SAME_KEY {
            self.give_up(oldest_same, End::Displaced);
        }
        if self.is_full() {
            self.tick(now_ktime_ns);
        }
        if self.is_full() {
            let list = Age::ALL
                .into_iter()
                .find(|&list| self.oldest(list).is_some());
            let list = list.unwrap_or(Age::Sent);
            if list != Age::Received {
                self.evicted_ktime_ns = Some(now_ktime_ns);
            }
            self.give_up(self.lists[list as usize].oldest, End::Evicted);
        }
    }

    fn is_full(&self) -> bool {
        self.waiting + self.late >= self.limits.entries
    }

    /// Removes an unanswered entry. A late one was counted before.
    fn give_up(&mut self, slot: u32, end: End) {
        if self.entries[slot as usize].list == Age::Late {
            self.forget(slot);
        } else {
            self.remove(slot, end);
        }
    }

    /// Ends the wait of an entry. A sent query stays in the table while a response is still
    /// expected.
    fn expire(&mut self, slot: u32, now_ktime_ns: u64) {
        let Entry {
            list,
            unconnected,
            answers,
            used_ktime_ns,
            ..
        } = self.entries[slot as usize];
        match list {
            Age::Late => self.forget(slot),
            Age::Sent
                if unconnected
                    && answers != Answers::Some
                    && used_ktime_ns.saturating_add(self.expected_ns()) >= now_ktime_ns =>
            {
                self.settle(slot, End::Unanswered);
                self.unlink(slot);
                self.entries[slot as usize].list = Age::Late;
                self.link(slot);
                self.late += 1;
            }
            _ => self.remove(slot, End::Unanswered),
        }
    }

    fn oldest(&self, list: Age) -> Option<&Entry> {
        self.entries.get(self.lists[list as usize].oldest as usize)
    }

    /// Returns a free entry that nothing links to.
    #[inline]
    fn vacant(&mut self) -> u32 {
        if let Some(free) = self.entries.get(self.free as usize) {
            return std::mem::replace(&mut self.free, free.chain);
        }
        self.entries.push(Entry::UNUSED);
        // The number of entries is clamped to 2^28.
        u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
    }

    /// Makes an entry the newest of its list.
    fn link(&mut self, slot: u32) {
        let list = &mut self.lists[self.entries[slot as usize].list as usize];
        let previous = std::mem::replace(&mut list.newest, slot);
        if previous == NONE {
            list.oldest = slot;
        } else {
            self.entries[previous as usize].newer = slot;
        }
        let entry = &mut self.entries[slot as usize];
        (entry.older, entry.newer) = (previous, NONE);
    }

    /// Removes an entry from the order of age.
    fn unlink(&mut self, slot: u32) {
        let Entry {
            older, newer, list, ..
        } = self.entries[slot as usize];
        let list = &mut self.lists[list as usize];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => list.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => list.newest = older,
        }
    }

    /// Removes a query and counts its outcome.
    #[inline]
    fn remove(&mut self, slot: u32, end: End) {
        self.settle(slot, end);
        self.take(slot);
    }

    /// Removes a query that was counted before.
    fn forget(&mut self, slot: u32) {
        self.late -= 1;
        self.take(slot);
    }

    #[inline]
    fn take(&mut self, slot: u32) {
        let Entry {
            key,
            hash,
            chain,
            list,
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
        self.forget_hint(slot);
        self.without_peer -= usize::from(list == Age::Received && !key.has_peer());
        let entry = &mut self.entries[slot as usize];
        // A hint that still points here must not match.
        entry.unconnected = false;
        entry.chain = self.free;
        self.free = slot;
    }

    /// Counts the outcome of a query that no longer waits.
    #[inline]
    fn settle(&mut self, slot: u32, end: End) {
        let Entry {
            answers,
            query:
                Query {
                    ktime_ns,
                    kind,
                    wanted,
                    ..
                },
            ..
        } = self.entries[slot as usize];
        let answered = answers == Answers::Some;
        self.waiting -= 1;
        let asked = self.asked.get_mut(slot as usize).and_then(Option::take);
        if matches!(end, End::Unanswered) && !answered {
            if wanted {
                *self.counters.unanswered(kind) += 1;
            } else {
                self.counters.unanswered_excluded += 1;
            }
            self.notices.extend(asked.map(|query| Notice::Unanswered {
                query,
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

/// Result of [`Pairs::find`].
struct Sought {
    slot: Option<u32>,
    /// Whether a query with the same key waits, perhaps with another question.
    same_key: bool,
}

fn key(envelope: &Envelope, message: &Message<'_>) -> Key {
    Key {
        socket: envelope.socket,
        program_id: envelope.origin.program_id,
        local: envelope.local,
        peer: envelope.peer,
        protocol: envelope.protocol,
        id: message.id,
        role: Role::of(envelope.direction, message.flags.response()),
    }
}

/// Sets a value that few slots have, in a vector that is only as long as its last value needs. The
/// previous value of the slot is dropped.
#[inline]
fn set<T>(by_slot: &mut Vec<Option<T>>, at: usize, value: Option<T>) {
    if value.is_some() || at < by_slot.len() {
        by_slot.resize_with(by_slot.len().max(at + 1), || None);
        by_slot[at] = value;
    }
}

/// Returns whether two questions are equal. A missing question equals every other one.
fn agree(one: Option<u64>, other: Option<u64>) -> bool {
    one.is_none() || other.is_none() || one == other
}

#[cfg(test)]
mod tests;
