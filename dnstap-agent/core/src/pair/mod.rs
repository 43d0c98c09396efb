//! Queries that wait for their responses.
//!
//! Owns a table of queries keyed by peer, transport, DNS id and the process's end, with a hash of the question (name without
//! compression and without regard to case, RFC 4343; type; class) to tell apart what shares an id. A response takes its oldest
//! matching query: retransmissions are answered in their order. A response without a question (terse errors, later messages of a zone
//! transfer) matches by key alone. The query of a zone transfer over TCP stays, since many messages answer it (RFC 5936
//! section 2.2), and ages from the last of them.
//!
//! The process's end is the socket for TCP. For UDP it is the local port: an answer may leave through another socket with that port
//! (`SO_REUSEPORT`, another thread, another process of the family), as long as it is the same socket or the same program. The same socket
//! goes first. The local address counts where query and response both have one.
//!
//! The peer may be unknown on one side (`recv` and `read` on an unconnected socket name no sender):
//! - a response without a peer takes a query from its port with its id, which `hints` finds; the query says who was asked;
//! - a response to a known peer takes a query without a peer that the very socket received, if there is none of that peer.
//!
//! Bounded: entries; age; and queries with one key, so that a peer that repeats one id cannot make look-ups slow.
//! Within those the oldest goes first; but what was received goes before what was sent, so that no stranger's flood makes the tap forget
//! what the process has asked. Entries live in one vector and are linked by index, in order of arrival
//! and in hash chains: nothing is allocated once the vector has grown. Only queries that are to be reported when they stay
//! without answer (`Asked`), and those that came through a proxy, hold memory of their own.
//!
//! A response that finds nothing may be one without a query. `Found::Forgotten` says when that cannot be told.

use std::hash::{BuildHasher as _, Hasher as _};

// Peers choose ids, ports and names, so the hash must be seeded; this one is, and takes a few nanoseconds.
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

/// Queries with the same peer, transport, id and socket or local port.
const SAME_KEY: usize = 16;

/// Slots of [`Pairs::hints`].
const HINTS: usize = 65_536;

/// Nanoseconds for which a response to what the process asked is still expected, even if it counts as unanswered before.
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

/// What a response needs to know of its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Kernel time.
    pub ktime_ns: u64,
    /// The clock's offset then, so that both times of a pair follow one clock.
    pub offset_ns: i64,
    /// Address family of both ends.
    pub family: Family,
    /// Family of types.
    pub kind: Kind,
    /// What it is about.
    pub subject: Subject,
    /// Whether it is delivered, and not left out on purpose.
    pub wanted: bool,
    /// Names the query while it is held back until its answer.
    pub ticket: Option<u64>,
}

/// Where a query is that was found. It can be seen there until the next query comes, even if it has left the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

/// What a response finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its query, to be seen by [`Pairs::found`].
    Query(Slot),
    /// Nothing, but it may have been asked for: its query has counted as unanswered since, or was given up to make room; or one with its
    /// key waits, and asks something else.
    Forgotten,
    /// Nothing.
    Nothing,
}

/// The table.
#[derive(Debug)]
pub struct Pairs {
    limits: PairLimits,
    hasher: RandomState,
    /// Heads of the hash chains; a power of two of them.
    buckets: Vec<u32>,
    /// By local port and id: the latest query sent from an unconnected socket. It may have gone: each look-up compares. Empty before
    /// the first one.
    hints: Vec<u32>,
    entries: Vec<Entry>,
    free: u32,
    waiting: usize,
    /// Queries that count as unanswered and are still here.
    late: usize,
    lists: [List; Age::ALL.len()],
    /// Queries that were received without their peer.
    without_peer: usize,
    /// When a query that the process had sent was last given up to make room.
    evicted_ktime_ns: Option<u64>,
    /// When the hint of a query that waits last made room for another one.
    hint_lost_ktime_ns: Option<u64>,
    /// When a query was last sent to a multicast address.
    multicast_ktime_ns: Option<u64>,
    /// The latest kernel time that was seen.
    now_ktime_ns: u64,
    /// By slot: queries to be reported; shorter than `entries` if there are none.
    asked: Vec<Option<Asked>>,
    /// By slot: the ends that a proxy told; shorter than `entries` if there are none.
    proxied: Vec<Option<Proxied>>,
    /// Queries to be reported that stayed without answer.
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

/// The lists, in the order in which their entries make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    /// Sent queries that count as unanswered, and whose response is still expected.
    Late,
    /// Received queries.
    Received,
    /// Sent queries.
    Sent,
}

impl Age {
    /// In the order in which they make room.
    const ALL: [Self; 3] = [Self::Received, Self::Late, Self::Sent];
}

/// What has answered a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// Nothing; the first response will be the only one.
    One,
    /// Nothing; many responses will be.
    Many,
    /// Some of many.
    Some,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    socket: u64,
    /// What the process runs.
    program_id: u32,
    local: Endpoint,
    peer: Endpoint,
    protocol: Protocol,
    id: u16,
    /// Who asks whom: a response answers what went the other way.
    role: Role,
}

impl Key {
    /// Whether a response with key `other` may answer a query with this one.
    fn admits(&self, other: &Self) -> bool {
        let same_end = match self.protocol {
            Protocol::Tcp => self.socket == other.socket,
            Protocol::Udp => {
                self.local.port == other.local.port
                    && (self.socket == other.socket || self.program_id == other.program_id)
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
    /// Of a query sent from an unconnected socket, its question letter by letter.
    exact: Option<u64>,
    query: Query,
    answers: Answers,
    /// The socket was not connected.
    unconnected: bool,
    /// Which of the lists it is in.
    list: Age,
    /// Kernel time from which it ages.
    used_ktime_ns: u64,
    /// Next in the hash chain, from the newest on; the next free entry if this one is free.
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

    /// Remembers a query; `asked` if it is to be reported when it stays without answer.
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
            // Who answers a question to a group of hosts (RFC 4795, RFC 6762) does it by his own address.
            if key.peer.ip().is_some_and(|address| address.is_multicast()) {
                self.multicast_ktime_ns = Some(self.now_ktime_ns);
            }
        }
        self.without_peer += usize::from(list == Age::Received && !key.has_peer());
    }

    /// The query that a response answers. The response counts if there is one; else it is for the caller to judge it, and then to
    /// say that it stays [`Self::unmatched`].
    #[inline]
    pub(crate) fn response(&mut self, envelope: &Envelope, message: &Message<'_>) -> Found {
        self.now_ktime_ns = self.now_ktime_ns.max(envelope.ktime_ns);
        let question = self.question(message);
        // Any host can send to a socket that is not connected, and the process may reject what differs in the least: then it goes on waiting.
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

    /// The query that [`Self::search`] would come upon, if no other one waits that it would have to look at: as nearly always.
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

    /// The query that a response answers; or what is known where there is none.
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
            // As little as possible is guessed: the very socket, and the same question.
            let same = |slot: &u32| {
                let entry = &self.entries[*slot as usize];
                entry.key.socket == key.socket && entry.question.is_some()
            };
            sought.slot = found.slot.filter(same).filter(|_| question.is_some());
        }
        sought.slot.ok_or_else(|| {
            // Where its sender is not known, a query sent later may stand in the way of the one that it answers.
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

    /// The query that a response has found, and the ends that it showed: the process's and the peer's.
    #[inline]
    pub(crate) fn found(&self, slot: Slot) -> (&Query, &Endpoint, &Endpoint) {
        let Entry { query, key, .. } = &self.entries[slot.0 as usize];
        (query, &key.local, &key.peer)
    }

    /// The ends that a proxy told with the query that a response has found.
    #[inline]
    pub(crate) fn proxied(&self, slot: Slot) -> Option<&Proxied> {
        self.proxied.get(slot.0 as usize)?.as_ref()
    }

    /// A response that was looked up for in vain stays so.
    pub(crate) fn unmatched(&mut self) {
        self.counters.responses += 1;
        self.counters.responses_unmatched += 1;
    }

    /// What a response and the query that it may answer have in common, as far as both tell it; 0 for a message that is no concern of
    /// this. One without a peer has it in common with those of all peers.
    pub(crate) fn meeting(&self, envelope: &Envelope, message: &Message<'_>) -> u64 {
        let key = key(envelope, message);
        if key.has_peer() {
            self.hash(&key)
        } else {
            self.hash_of_hint(&key)
        }
    }

    /// As [`Self::meeting`], of a query that meets a response without a peer.
    pub(crate) fn meeting_without_peer(&self, envelope: &Envelope, message: &Message<'_>) -> u64 {
        self.hash_of_hint(&key(envelope, message))
    }

    /// Nanoseconds for which a response is expected.
    pub(crate) fn expected_ns(&self) -> u64 {
        self.limits.age_ns.max(EXPECTED_NS)
    }

    /// The latest kernel time that was seen.
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

    /// Queries to be reported that stayed without answer since the last call.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
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

    /// What all messages with the same key have in common: not the process's address and program, and not its socket over UDP.
    #[inline]
    fn hash(&self, key: &Key) -> u64 {
        let end = match key.protocol {
            Protocol::Tcp => key.socket,
            Protocol::Udp => key.local.port.into(),
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

    /// A hash of the question, without regard to case and compression.
    #[inline]
    fn question(&self, message: &Message<'_>) -> Option<u64> {
        let step = |folded, block| {
            let mut hasher = self.hasher.build_hasher();
            hasher.write_u128(block ^ u128::from(folded));
            hasher.finish()
        };
        message.fold_question(0, step)
    }

    /// A hash of the question letter by letter, of what passes between the process that asks from an unconnected socket and whom it asks.
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

    /// Notes where the query in `slot` can be found without its peer.
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

    /// The query in `slot` has gone.
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

    /// The peer of the latest query with this id that was sent from this port.
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

    /// The oldest query that a response with this key and question at kernel time `ktime_ns` answers; those of the same socket go
    /// first, those that count as unanswered last.
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

    /// Gives up what stands in the way of one more query with this hash of its key.
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

    /// Takes out an entry that has not been answered; a late one was counted before.
    fn give_up(&mut self, slot: u32, end: End) {
        if self.entries[slot as usize].list == Age::Late {
            self.forget(slot);
        } else {
            self.remove(slot, end);
        }
    }

    /// The time of an entry is over. What was sent stays in the table while a response is still expected.
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

    /// A free entry, which nothing leads to any more.
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

    /// Takes an entry out of the order of age.
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

    /// Takes out a query, and counts what became of it.
    #[inline]
    fn remove(&mut self, slot: u32, end: End) {
        self.settle(slot, end);
        self.take(slot);
    }

    /// Takes out a query that was counted before.
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
        // No hint may take it for a query that waits.
        entry.unconnected = false;
        entry.chain = self.free;
        self.free = slot;
    }

    /// Counts what became of a query, which waits no longer.
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

/// What [`Pairs::find`] came upon.
struct Sought {
    slot: Option<u32>,
    /// A query with its key waits; its question may be another one.
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

/// Sets what few slots have, in a vector that is as long as the last of them needs. What the slot had before goes.
#[inline]
fn set<T>(by_slot: &mut Vec<Option<T>>, at: usize, value: Option<T>) {
    if value.is_some() || at < by_slot.len() {
        by_slot.resize_with(by_slot.len().max(at + 1), || None);
        by_slot[at] = value;
    }
}

/// Whether two questions are the same, as far as both are there.
fn agree(one: Option<u64>, other: Option<u64>) -> bool {
    one.is_none() || other.is_none() || one == other
}

#[cfg(test)]
mod tests;
