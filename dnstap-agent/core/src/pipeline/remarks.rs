//! Joins the remarks of probed servers ([`Remark`]) with the messages that pass their sockets.
//!
//! ```text
//! own query, or response to it ─► queue ──┬─ its remark comes in time ─► out, in the queue's order
//!                                         └─ PATIENCE_NS are over ─────► out, without a remark
//! response to a client         ─► out; its remark has come before it, or never comes
//! query of a client            ─► out; or held back, then a remark within PATIENCE_NS sets its type
//! remark                       ─► joined with a message that waits, or waits PATIENCE_NS
//!                                 and is dropped
//! ```
//!
//! A remark and a message belong together if process, direction, peer, length and first bytes
//! ([`REMARK_PREFIX`](dnstap_ebpf::REMARK_PREFIX); they include id, flags and question) are the
//! same, and at most [`PATIENCE_NS`] lie between them. The local port must be the same, too, unless
//! it is unknown: a server does not know it for its own queries over TCP. If several entries match,
//! one of the same thread comes first, then the oldest.
//!
//! A thread reports a response to a client before it sends it, so such a response never waits. A
//! thread reports its own queries and the responses to them after the system call, so these wait.
//! All of them wait in one queue, even if they cannot have a remark, so that the messages of a
//! socket stay in order. A message waits at most [`PATIENCE_NS`] of kernel time. No message is
//! lost.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher as _,
};

use foldhash::fast::RandomState;

use crate::{
    model::Envelope,
    record::{Remark, prefix_of},
};

/// Longest time that a message waits for its remark, and a remark for its message, in nanoseconds.
pub(super) const PATIENCE_NS: u64 = 50_000_000;

/// Most messages in the queue, most remarks that wait, and most client queries without a remark.
const ENTRIES: usize = 65_536;
/// Most bytes of messages in the queue.
const BYTES: usize = 16 << 20;

/// Part of a remark that is needed once its message is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Server's own type of the message: a `SERVER_*` bit of the ABI.
    pub(super) message_type: u32,
    /// Zone of the message (`query_zone`) in wire format; empty if the server names none.
    pub(super) zone: Box<[u8]>,
}

/// Result of a message's wait in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its remark has come.
    Joined(Said),
    /// No remark has come in time.
    Missing,
    /// The message cannot have a remark.
    Without,
}

/// Use of a remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// For a message in the queue, which may be sent now.
    Queued,
    /// For a query of a client. The ticket is that under which the query is held back, if it is.
    Names(Option<u64>, Said),
    /// No message has been found, so the remark waits.
    Kept,
}

/// Properties by which a remark and its message are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meeting {
    /// Hash of all properties that must be the same.
    key: u64,
    ktime_ns: u64,
    /// Local port; 0 if unknown.
    port: u16,
    tid: u32,
}

/// Remarks and messages that wait for each other.
#[derive(Debug)]
pub(super) struct Remarks<M> {
    hasher: RandomState,
    said: Table<Said>,
    /// Queued messages that wait for a remark, by their ticket.
    expected: Table<u64>,
    /// Queries of clients that wait for a remark: the ticket under which the query is held back, if
    /// it is.
    unnamed: Table<Option<u64>>,
    queue: VecDeque<Queued<M>>,
    /// Ticket of the first message in the queue.
    first: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Queued<M> {
    message: M,
    bytes: usize,
    ktime_ns: u64,
    /// `None` while the message waits for its remark.
    outcome: Option<Outcome>,
}

impl<M> Default for Remarks<M> {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            said: Table::default(),
            expected: Table::default(),
            unnamed: Table::default(),
            queue: VecDeque::new(),
            first: 0,
            bytes: 0,
        }
    }
}

impl<M> Remarks<M> {
    /// Takes a remark. Returns its use.
    pub(super) fn say(&mut self, envelope: &Envelope, remark: &Remark<'_>) -> Use {
        let meeting = self.meeting(envelope, remark.message_len, remark.prefix);
        let said = Said {
            message_type: remark.message_type,
            zone: remark.zone.into(),
        };
        if let Some(ticket) = self.unnamed.take(&meeting) {
            return Use::Names(ticket, said);
        }
        let Some(ticket) = self.expected.take(&meeting) else {
            self.said.put(meeting, said);
            return Use::Kept;
        };
        if let Some(queued) = self.queued(ticket) {
            queued.outcome = Some(Outcome::Joined(said));
        }
        Use::Queued
    }

    /// Registers a query of a client, so that its remark is found. `ticket`: the query is held back
    /// under this ticket.
    pub(super) fn expect(&mut self, envelope: &Envelope, bytes: &[u8], ticket: Option<u64>) {
        let meeting = self.meeting(envelope, bytes.len(), &bytes[..prefix_of(bytes.len())]);
        self.unnamed.put(meeting, ticket);
    }

    /// Removes and returns the remark about a message, if it has come.
    pub(super) fn about(&mut self, envelope: &Envelope, bytes: &[u8]) -> Option<Said> {
        let meeting = self.meeting(envelope, bytes.len(), &bytes[..prefix_of(bytes.len())]);
        self.said.take(&meeting)
    }

    /// Returns whether the queue is empty, so that a message can be sent at once without changing
    /// the order.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns whether no message and no remark waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.said.entries.is_empty() && self.unnamed.entries.is_empty()
    }

    /// Appends a message to the queue. A message with an `outcome` only waits for the messages in
    /// front of it.
    pub(super) fn put(
        &mut self,
        message: M,
        envelope: &Envelope,
        bytes: &[u8],
        outcome: Option<Outcome>,
    ) {
        if outcome.is_none() {
            let meeting = self.meeting(envelope, bytes.len(), &bytes[..prefix_of(bytes.len())]);
            let ticket = self.first + self.queue.len() as u64;
            self.expected.put(meeting, ticket);
        }
        self.bytes += bytes.len();
        self.queue.push_back(Queued {
            message,
            bytes: bytes.len(),
            ktime_ns: envelope.ktime_ns,
            outcome,
        });
    }

    /// Removes and returns the first message of the queue, if it may be sent: its outcome is known,
    /// it came before kernel time `before`, or the queue is too long.
    pub(super) fn next(&mut self, before: u64) -> Option<(M, Outcome)> {
        let front = self.queue.front()?;
        let is_full = self.queue.len() > ENTRIES || self.bytes > BYTES;
        if front.outcome.is_none() && front.ktime_ns >= before && !is_full {
            return None;
        }
        let front = self.queue.pop_front()?;
        if front.outcome.is_none() {
            self.expected.remove(self.first);
        }
        self.first += 1;
        self.bytes -= front.bytes;
        Some((front.message, front.outcome.unwrap_or(Outcome::Missing)))
    }

    /// Drops the remarks from before kernel time `before`, and those above the limit. Returns their
    /// number.
    pub(super) fn forget(&mut self, before: u64) -> u64 {
        self.said.forget(before)
    }

    /// Drops the registered queries of clients from before kernel time `before`, and those above
    /// the limit. Returns their number.
    pub(super) fn forget_unnamed(&mut self, before: u64) -> u64 {
        self.unnamed.forget(before)
    }

    /// Returns the number of remarks that wait.
    pub(super) fn remarks(&self) -> u64 {
        self.said.entries.len() as u64
    }

    /// Returns the number of messages in the queue.
    pub(super) fn messages(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Returns the number of messages whose remark may still come.
    pub(super) fn expected(&self) -> u64 {
        (self.expected.entries.len() + self.unnamed.entries.len()) as u64
    }

    fn queued(&mut self, ticket: u64) -> Option<&mut Queued<M>> {
        let at = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(at)
    }

    fn meeting(&self, envelope: &Envelope, length: usize, prefix: &[u8]) -> Meeting {
        // A server that trusts a PROXY header uses its addresses: that of the client as its peer,
        // and that which the client connected to as its own.
        let ends = envelope.proxied.map(|ends| (ends.local, ends.peer));
        let (local, peer) = ends.unwrap_or((envelope.local, envelope.peer));
        let key = (
            envelope.origin.tgid,
            envelope.direction,
            peer,
            length,
            prefix,
        );
        Meeting {
            key: self.hasher.hash_one(key),
            ktime_ns: envelope.ktime_ns,
            port: local.port,
            tid: envelope.origin.tid,
        }
    }
}

/// Entries that wait for their counterpart.
#[derive(Debug)]
struct Table<T> {
    /// Entries by key and sequence number.
    entries: BTreeMap<(u64, u64), (Meeting, T)>,
    /// Keys and sequence numbers in order of arrival. Entries that were taken may still be listed.
    order: VecDeque<(u64, u64)>,
    /// Sequence number of the next entry.
    next: u64,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            next: 0,
        }
    }
}

impl<T> Table<T> {
    fn put(&mut self, meeting: Meeting, value: T) {
        let place = (meeting.key, self.next);
        self.next += 1;
        self.entries.insert(place, (meeting, value));
        self.order.push_back(place);
    }

    /// Removes and returns the entry that fits `meeting` best.
    fn take(&mut self, meeting: &Meeting) -> Option<T> {
        let at_key = self
            .entries
            .range((meeting.key, 0)..=(meeting.key, u64::MAX));
        let fits = |there: &Meeting| {
            (there.port == meeting.port || there.port == 0 || meeting.port == 0)
                && there.ktime_ns.abs_diff(meeting.ktime_ns) <= PATIENCE_NS
        };
        let best = at_key
            .filter(|(_, (there, _))| fits(there))
            .min_by_key(|(place, (there, _))| (there.tid != meeting.tid, place.1));
        let place = *best?.0;
        let (_, value) = self.entries.remove(&place)?;
        self.trim();
        Some(value)
    }

    /// Drops the oldest entries: those from before kernel time `before`, and those above the limit.
    /// Returns their number.
    fn forget(&mut self, before: u64) -> u64 {
        let mut forgotten = 0;
        while let Some(place) = self.order.front() {
            match self.entries.get(place) {
                Some((meeting, _))
                    if meeting.ktime_ns >= before && self.entries.len() <= ENTRIES =>
                {
                    break;
                }
                Some(_) => {
                    self.entries.remove(place);
                    forgotten += 1;
                }
                None => {}
            }
            self.order.pop_front();
        }
        forgotten
    }

    /// Removes the places of taken entries from the front of `order`.
    fn trim(&mut self) {
        while let Some(place) = self.order.front()
            && !self.entries.contains_key(place)
        {
            self.order.pop_front();
        }
    }
}

impl Table<u64> {
    /// Removes the oldest entry if it has this ticket. Tickets leave in the order in which they
    /// came.
    fn remove(&mut self, ticket: u64) {
        self.trim();
        if let Some(place) = self.order.front()
            && self
                .entries
                .get(place)
                .is_some_and(|(_, known)| *known == ticket)
        {
            self.entries.remove(place);
            self.order.pop_front();
        }
    }
}
