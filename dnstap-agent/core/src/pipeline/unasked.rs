//! Detects unsolicited responses.
//!
//! Any host can send a datagram with the QR bit to an unconnected socket. It is a response to the
//! process only if the process has sent a query with that id from that port to that peer
//! ([`pair`](crate::pair)). A second answer to a query does not count and may well be forged.
//! Messages over TCP, or over a socket that the process has connected, come from a peer that the
//! process has chosen.
//!
//! A response that may have been asked for is never treated as unsolicited. The tap cannot be
//! certain in these cases:
//! - Messages of the socket were lost in the kernel, the table of queries was full, or the filters
//!   have changed. This holds for as long as a response is expected.
//! - A server has been tapped for only a few seconds, and the port is one from which it only asks:
//!   it may have asked before it was tapped. On a port on which it expects queries, datagrams from
//!   any host are normal, so there is no such exception.
//! - The kernel's sample depends on the peer, and the response has none.
//!
//! A thread may receive a response before the thread that has sent the query reaches its hook. So a
//! response waits [`PATIENCE_NS`] for its query before it is judged.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::{
    lru::Lru,
    model::{Direction, Envelope, Protocol},
    pair::Found,
    pipeline::{
        held::{Held, Waits},
        servers::Known,
    },
    record::Chunk,
};

/// Nanoseconds for which a response waits for its query.
pub(super) const PATIENCE_NS: u64 = 1_000_000_000;

/// Nanoseconds by which a response may be seen before its query was sent, because a thread was
/// delayed on the way to its hook. Within one thread the order is always right.
const OVERTAKES_NS: u64 = 20_000_000;

/// Most sockets with losses that are remembered.
const SOCKETS: usize = 4_096;

/// A response that seems to be unsolicited.
#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) envelope: Envelope,
    pub(super) bytes: Vec<u8>,
    /// Hash that the response shares with its query.
    meeting: u64,
    /// Whether a query finds it. Of several responses to one query, the process used the first.
    is_found: bool,
}

impl Waits for Doubt {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn ktime_ns(&self) -> u64 {
        self.envelope.ktime_ns
    }
}

/// Losses of a socket's messages in the kernel.
#[derive(Debug)]
struct Losses {
    /// Count of the losses from the kernel side.
    count: u32,
    ktime_ns: u64,
}

/// The waiting responses, and the facts needed to judge them.
#[derive(Debug)]
pub(super) struct Unasked {
    held: Held<Doubt>,
    tickets: HashMap<u64, u64, RandomState>,
    losses: Lru<Losses>,
    /// Last time at which queries may have been missed, on any socket.
    blind_ktime_ns: Option<u64>,
}

impl Default for Unasked {
    fn default() -> Self {
        Self {
            held: Held::default(),
            tickets: HashMap::default(),
            losses: Lru::new(SOCKETS),
            blind_ktime_ns: None,
        }
    }
}

impl Unasked {
    /// Notes the count of losses in a record. Returns whether there are new ones.
    #[inline]
    pub(super) fn note_losses(&mut self, chunk: &Chunk<'_>) -> bool {
        chunk.lost != 0 && self.note_lost(chunk)
    }

    fn note_lost(&mut self, chunk: &Chunk<'_>) -> bool {
        let Envelope {
            socket, ktime_ns, ..
        } = chunk.envelope;
        match self.losses.get(socket) {
            Some(losses) if losses.count == chunk.lost => false,
            _ => {
                let losses = Losses {
                    count: chunk.lost,
                    ktime_ns,
                };
                if self
                    .losses
                    .insert(socket, losses)
                    .is_some_and(|(gone, _)| gone != socket)
                {
                    self.note_blindness(ktime_ns);
                }
                true
            }
        }
    }

    /// Notes that queries may have been missed at this time.
    pub(super) fn note_blindness(&mut self, ktime_ns: u64) {
        self.blind_ktime_ns = self.blind_ktime_ns.max(Some(ktime_ns));
    }

    /// Returns whether a response that found no query is unsolicited. `expected_ns`: time after a
    /// query in which its response may come. `sampled`: the kernel side leaves out queries by their
    /// peer.
    pub(super) fn suspects(
        &mut self,
        envelope: &Envelope,
        found: Found,
        server: &Known,
        expected_ns: u64,
        sampled: bool,
    ) -> bool {
        let anybody = envelope.protocol == Protocol::Udp
            && envelope.direction == Direction::Received
            && envelope.unconnected;
        if !anybody || found == Found::Forgotten {
            return false;
        }
        let recent = |at: Option<u64>| {
            at.is_some_and(|at| envelope.ktime_ns <= at.saturating_add(expected_ns))
        };
        let lost = self.losses.peek(envelope.socket);
        let only_asks = !server.ports.contains(envelope.local.port);
        let is_new = only_asks && recent(server.since_ktime_ns);
        let is_alone = sampled && envelope.peer.address().is_none();
        !recent(self.blind_ktime_ns)
            && !recent(lost.map(|losses| losses.ktime_ns))
            && !is_new
            && !is_alone
    }

    /// Holds a response back; `meeting` is the hash that it shares with its query.
    pub(super) fn put(&mut self, envelope: &Envelope, bytes: &[u8], meeting: u64) {
        let is_found = !self.tickets.contains_key(&meeting);
        let ticket = self.held.put(Doubt {
            envelope: *envelope,
            bytes: bytes.to_vec(),
            meeting,
            is_found,
        });
        if is_found {
            self.tickets.insert(meeting, ticket);
        }
    }

    /// Returns the waiting response to a query with this envelope and `meeting`, if there is one,
    /// and its ticket.
    pub(super) fn meets(&self, meeting: u64, query: &Envelope) -> Option<(u64, &Doubt)> {
        let ticket = *self.tickets.get(&meeting)?;
        let doubt = self.held.get(ticket)?;
        let early_ns = query.ktime_ns.saturating_sub(doubt.envelope.ktime_ns);
        let same_thread = doubt.envelope.origin.tid == query.origin.tid;
        let overtakes = early_ns == 0 || (!same_thread && early_ns <= OVERTAKES_NS);
        overtakes.then_some((ticket, doubt))
    }

    /// Removes and returns the response of a ticket.
    pub(super) fn take(&mut self, ticket: u64) -> Option<Doubt> {
        let doubt = self.held.take(ticket)?;
        self.gone(&doubt);
        Some(doubt)
    }

    /// Removes and returns a response whose query has not come by kernel time `before`, or that
    /// finds no room.
    pub(super) fn overdue(&mut self, before: u64) -> Option<Doubt> {
        let doubt = self.held.overdue(before)?;
        self.gone(&doubt);
        Some(doubt)
    }

    /// Returns the number of waiting responses.
    pub(super) fn waiting(&self) -> u64 {
        self.held.waiting()
    }

    fn gone(&mut self, doubt: &Doubt) {
        if doubt.is_found {
            self.tickets.remove(&doubt.meeting);
        }
    }
}
