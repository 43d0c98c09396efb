//! What a server says about its messages (`event::Remark`), joined with the messages that its sockets move.
//!
//! ```text
//! message of one who asks ──► queue ──┬─ its remark has come, or comes ─────────► out, in the order of the queue
//!                                     └─ PATIENCE_NS are over ──────────────────► out, without
//! answer to a client      ──► its remark has come before it, or never will ─────► out
//! query of a client       ──► out, or held back by its owner; its remark names it, if it comes within PATIENCE_NS
//! remark                  ──► a message waits for it, or it waits PATIENCE_NS ──► gone
//! ```
//!
//! The two are of one message if process, direction, peer, length and first bytes ([`REMARK_PREFIX`](dnstap_ebpf::REMARK_PREFIX): id, flags and
//! question among them) are the same, and no more than [`PATIENCE_NS`] lie between them. The local port has to be the same, too, unless the
//! server does not know it, as of its own queries over TCP. Of several the one of the same thread comes first, then the oldest.
//!
//! A thread tells of an answer to a client before it sends it, so such an answer never waits. It tells of what it asks, and of the answers that
//! it gets, behind the system call. So these wait, all of a server in one queue, whether they can have a remark or not: the messages of
//! a socket stay in their order. None waits longer than [`PATIENCE_NS`] of the kernel's time, and none is lost.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher as _,
};

use foldhash::fast::RandomState;

use crate::{
    event::{Remark, prefix_of},
    model::Envelope,
};

/// Nanoseconds for which a message waits for its remark, and a remark for its message.
pub(super) const PATIENCE_NS: u64 = 50_000_000;

/// Messages that wait, and remarks that wait; no more than these of either.
const ENTRIES: usize = 65_536;
/// Bytes of messages that wait.
const BYTES: usize = 16 << 20;

/// What is left of a remark when it has found its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The server's own type of the message: a bit of `SERVER_*` in the ABI.
    pub(super) message_type: u32,
    /// The zone that the server has in mind, in wire format; empty if it has none.
    pub(super) zone: Box<[u8]>,
}

/// How a message leaves the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With what the server says about it.
    Joined(Said),
    /// No remark has come.
    Missing,
    /// It could not have any.
    Without,
}

/// What a remark was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A message in the queue, which may go now.
    Queued,
    /// A query of a client, which its owner may hold back under this ticket.
    Names(Option<u64>, Said),
    /// Nothing yet.
    Kept,
}

/// Where a message and its remark meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meeting {
    /// Hash of all that has to be the same.
    key: u64,
    ktime_ns: u64,
    /// 0: not known.
    port: u16,
    tid: u32,
}

/// Both sides.
#[derive(Debug)]
pub(super) struct Remarks<M> {
    hasher: RandomState,
    said: Table<Said>,
    /// Messages in the queue that wait, by their ticket.
    expected: Table<u64>,
    /// Queries of clients that are to be named, by the ticket of their owner, if they are held back.
    unnamed: Table<Option<u64>>,
    queue: VecDeque<Queued<M>>,
    /// Ticket of the first one.
    first: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Queued<M> {
    message: M,
    bytes: usize,
    ktime_ns: u64,
    /// Nothing yet, while it waits.
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
    /// Takes a remark; what it was for.
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

    /// Expects a remark about a query of a client, which its owner may hold back under this ticket.
    pub(super) fn expect(&mut self, envelope: &Envelope, bytes: &[u8], ticket: Option<u64>) {
        let meeting = self.meeting(envelope, bytes.len(), &bytes[..prefix_of(bytes.len())]);
        self.unnamed.put(meeting, ticket);
    }

    /// The remark about a message, if it has come before.
    pub(super) fn about(&mut self, envelope: &Envelope, bytes: &[u8]) -> Option<Said> {
        let meeting = self.meeting(envelope, bytes.len(), &bytes[..prefix_of(bytes.len())]);
        self.said.take(&meeting)
    }

    /// Whether a message may go at once, without being out of order.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether nothing waits at all.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.said.entries.is_empty() && self.unnamed.entries.is_empty()
    }

    /// Puts a message at the end of the queue; with an outcome it waits for its turn alone.
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

    /// The first of the queue, if it may go: it waits for nothing, or since before kernel time `before`, or there are too many.
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

    /// Forgets the remarks from before kernel time `before`, and those that are too many; how many.
    pub(super) fn forget(&mut self, before: u64) -> u64 {
        self.said.forget(before)
    }

    /// Expects no remarks any more about queries of clients from before kernel time `before`, or that are too many; how many.
    pub(super) fn forget_unnamed(&mut self, before: u64) -> u64 {
        self.unnamed.forget(before)
    }

    /// Remarks that wait.
    pub(super) fn remarks(&self) -> u64 {
        self.said.entries.len() as u64
    }

    /// Messages in the queue.
    pub(super) fn messages(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Messages that wait for a remark.
    pub(super) fn expected(&self) -> u64 {
        (self.expected.entries.len() + self.unnamed.entries.len()) as u64
    }

    fn queued(&mut self, ticket: u64) -> Option<&mut Queued<M>> {
        let at = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.queue.get_mut(at)
    }

    fn meeting(&self, envelope: &Envelope, length: usize, prefix: &[u8]) -> Meeting {
        // A server that believes a proxy takes the client for its peer, and where the client connected to for its own end.
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

/// What waits at its meetings.
#[derive(Debug)]
struct Table<T> {
    /// By key and number.
    entries: BTreeMap<(u64, u64), (Meeting, T)>,
    /// Keys and numbers in the order of arrival; of those that have gone, too.
    order: VecDeque<(u64, u64)>,
    /// The next number.
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

    /// Takes what fits `meeting` best.
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

    /// Forgets the oldest from before kernel time `before`, and those that are too many; how many.
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

    /// Drops the places in front whose entries have gone.
    fn trim(&mut self) {
        while let Some(place) = self.order.front()
            && !self.entries.contains_key(place)
        {
            self.order.pop_front();
        }
    }
}

impl Table<u64> {
    /// Removes the oldest entry, which has this ticket: tickets leave in the order in which they came.
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
