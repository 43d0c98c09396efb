//! TCP: pieces of byte streams in, whole DNS messages out, for all connections.
//!
//! Owns the table of connections (by socket), their memory and the verdicts on them. `order` puts the pieces of one
//! direction in order, `framing` cuts messages out of them, `wire` knows what a DNS message looks like.
//!
//! Order: pieces of a stream should arrive in the order in which the kernel saw them; a reader of several rings merges
//! them by time. Small inversions are repaired by sequence number, except before the first piece of a stream, whose
//! sequence number is taken as the start.
//!
//! A connection whose beginning was not seen (open at attach, dropped from this table, messages lost before the first
//! piece) is joined midway: its framing has to be found, see `framing`.
//!
//! A connection is forgotten soon after it has ended, of which the kernel side tells by a piece without bytes, or when it has been
//! idle for long.
//!
//! Bounds: connections, bytes of all buffers, and per direction one message and the pieces held back. Beyond them the
//! connection used least recently is dropped, its bytes counted.

mod framing;
mod order;
pub(crate) mod proxy;
mod search;
pub(crate) mod wire;
mod work;

#[cfg(test)]
mod tests;

pub use self::proxy::Proxies;

use std::collections::{HashSet, VecDeque};

use foldhash::fast::RandomState;
use order::Stream;
use search::Foreign;
use work::{Pool, Work};

use crate::{
    event::{Direction, Endpoint, Envelope, Event, Proxied},
    pipeline::{SocketCounts, counters::counters, lru::Lru},
};

/// How long nothing may have come before a connection that has ended is forgotten. What had arrived before may still be read.
const ENDED_NS: u64 = 1_000_000_000;

/// Verdicts that may wait to be collected.
const VERDICTS: usize = 65_536;

counters! {
    /// What became of the bytes of TCP streams.
    pub struct StreamCounters {
        /// Messages cut out and handed on.
        stream_messages,
        /// Lengths of zero, which carry no message.
        stream_empty_messages,
        /// Bytes of those messages and their lengths.
        stream_framed_bytes,
        /// Bytes that belong to no message that could be told: cut by a loss, searched, left at the end.
        stream_skipped_bytes,
        /// Bytes that had been seen before.
        stream_duplicate_bytes,
        /// Bytes of streams in the clear that are not DNS.
        stream_not_dns_bytes,
        /// Bytes of encrypted streams.
        stream_encrypted_bytes,
        /// Prefaces of proxies.
        stream_prefaces,
        /// Bytes of those.
        stream_preface_bytes,
        /// Prefaces of peers of whom none is believed (`--proxy-from`).
        prefaces_refused_tcp,
        /// Losses: places where bytes are missing.
        stream_gaps,
        /// Bytes missing there. These never arrived, so they are no part of `tcp_bytes`.
        stream_missing_bytes,
        /// Times that the framing was lost and a search began.
        stream_searches,
        /// Times that a search found a message.
        stream_resyncs,
        /// Pieces that arrived before their turn.
        stream_held_pieces,
        /// Connections that showed DNS.
        tcp_sockets_dns,
        /// Connections found to be encrypted.
        tcp_sockets_encrypted,
        /// Connections found to carry something else in the clear.
        tcp_sockets_not_dns,
        /// Connections joined midway.
        stream_joined_midway,
        /// Connections dropped to stay within the bounds.
        stream_evicted,
        /// Connections forgotten because they were idle.
        stream_expired,
        /// Connections forgotten because they had ended.
        stream_ended,
    }
}

impl StreamCounters {
    fn foreign(&mut self, foreign: Foreign, bytes: usize) {
        *match foreign {
            Foreign::NotDns => &mut self.stream_not_dns_bytes,
            Foreign::Encrypted => &mut self.stream_encrypted_bytes,
        } += bytes as u64;
    }
}

/// Bounds of the stage.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Connections.
    pub connections: usize,
    /// Bytes of all buffers.
    pub bytes: usize,
    /// Nanoseconds without a piece after which a connection is forgotten.
    pub idle_ns: u64,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            bytes: 64 << 20,
            idle_ns: 600_000_000_000,
        }
    }
}

/// All TCP connections.
#[derive(Debug)]
pub struct Streams {
    connections: Lru<Connection>,
    midway: Midway,
    proxies: Proxies,
    pool: Pool,
    limits: StreamLimits,
    /// Bytes of all buffers in use.
    memory: usize,
    /// Sockets with pieces held back.
    holding: Vec<u64>,
    /// Kernel times at which connections ended and their sockets, the first in front.
    ended: VecDeque<(u64, u64)>,
    not_dns: Vec<u64>,
    counters: StreamCounters,
}

#[derive(Debug)]
struct Connection {
    local_port: u16,
    peer: Endpoint,
    opened_ktime_ns: u64,
    seen_ktime_ns: u64,
    dns: bool,
    dns_port: bool,
    foreign: Option<Foreign>,
    /// The ends that a proxy told at the start.
    proxied: Option<Proxied>,
    streams: [Stream; 2],
}

impl Connection {
    fn memory(&self) -> usize {
        self.streams.iter().map(Stream::memory).sum()
    }

    fn is_holding(&self) -> bool {
        self.streams.iter().any(Stream::is_holding)
    }

    fn abandon(&mut self, pool: &mut Pool) -> usize {
        self.streams
            .iter_mut()
            .map(|stream| stream.abandon(pool))
            .sum()
    }
}

impl Streams {
    /// No connections yet; those on `existing` sockets will be joined midway, and prefaces of `proxies` are believed.
    pub fn new(
        limits: StreamLimits,
        existing: impl IntoIterator<Item = u64>,
        proxies: Proxies,
    ) -> Self {
        Self {
            connections: Lru::new(limits.connections),
            midway: Midway {
                recent: existing.into_iter().collect(),
                earlier: HashSet::default(),
            },
            proxies,
            pool: Pool::default(),
            limits,
            memory: 0,
            holding: Vec::new(),
            ended: VecDeque::new(),
            not_dns: Vec::new(),
            counters: StreamCounters::default(),
        }
    }

    /// Connections on these sockets will be joined midway, too, but for those that it knows already.
    pub fn midway(&mut self, sockets: impl IntoIterator<Item = u64>) {
        for socket in sockets {
            self.midway.insert(socket);
        }
    }

    /// Takes a piece and calls `emit` with every message that it completes. `dns_port`: the connection's port is known
    /// for DNS, so what cannot be read is malformed DNS rather than something else.
    pub fn push(
        &mut self,
        event: &Event<'_>,
        dns_port: bool,
        emit: &mut impl FnMut(&Envelope, &[u8]),
    ) {
        let socket = event.envelope.socket;
        if event.message_len == 0 {
            return self.end(&event.envelope, emit);
        }
        let known = self.connections.get(socket).is_some_and(|connection| {
            connection.peer == event.envelope.peer
                && connection.local_port == event.envelope.local.port
        });
        if !known {
            self.open(event);
        }
        let Some(connection) = self.connections.peek(socket) else {
            return;
        };
        connection.seen_ktime_ns = connection.seen_ktime_ns.max(event.envelope.ktime_ns);
        connection.dns_port = dns_port;
        if let Some(foreign) = connection.foreign {
            self.counters.foreign(foreign, event.payload.len());
            return;
        }
        let before = (connection.memory(), connection.is_holding());
        let mut work = Work {
            envelope: event.envelope,
            dns_seen: connection.dns,
            dns_port,
            proxies: &self.proxies,
            proxied: connection.proxied,
            counters: &mut self.counters,
            pool: &mut self.pool,
            emit,
        };
        let stream = &mut connection.streams[event.envelope.direction as usize];
        if event.lost != 0 {
            stream.join_midway();
        }
        let pushed = stream.push(event.sequence, event.payload, &mut work);
        let shown = work.dns_seen && !connection.dns;
        (connection.dns, connection.proxied) = (work.dns_seen, work.proxied);
        self.counters.tcp_sockets_dns += u64::from(shown);
        if let Err(foreign) = pushed {
            self.condemn(socket, foreign);
        }
        self.settle(socket, before);
    }

    /// A connection has ended: what had arrived may still be read, and soon nothing more will come.
    fn end(&mut self, end: &Envelope, emit: &mut impl FnMut(&Envelope, &[u8])) {
        self.ended.push_back((end.ktime_ns, end.socket));
        if self.ended.len() > self.limits.connections {
            self.forget_ended(u64::MAX, emit);
        }
    }

    /// Forgets the connection that ended first, if that was before kernel time `before_ktime_ns` and nothing has come since.
    fn forget_ended(
        &mut self,
        before_ktime_ns: u64,
        emit: &mut impl FnMut(&Envelope, &[u8]),
    ) -> bool {
        let Some((ended, socket)) = self.ended.pop_front_if(|(at, _)| *at < before_ktime_ns) else {
            return false;
        };
        match self.connections.peek(socket) {
            // The socket has been connected anew.
            Some(connection) if connection.opened_ktime_ns > ended => {}
            Some(connection) if connection.seen_ktime_ns > ended => {
                let seen = connection.seen_ktime_ns;
                self.ended.push_back((seen, socket));
            }
            _ => self.forget(socket, emit),
        }
        true
    }

    /// Delivers what was held back, counts what is left incomplete, and forgets the connection.
    fn forget(&mut self, socket: u64, emit: &mut impl FnMut(&Envelope, &[u8])) {
        self.release(socket, u64::MAX, emit);
        let Some(connection) = self.connections.remove(socket) else {
            return;
        };
        self.counters.stream_ended += 1;
        if !connection.streams.iter().all(Stream::is_between_messages) {
            // Should more come after all, it is not a beginning.
            self.midway.insert(socket);
        }
        self.retire(connection);
    }

    /// Goes on without pieces that are overdue and forgets idle connections, at kernel time `now_ktime_ns`.
    pub fn tick(&mut self, now_ktime_ns: u64, emit: &mut impl FnMut(&Envelope, &[u8])) {
        for socket in std::mem::take(&mut self.holding) {
            self.release(socket, now_ktime_ns, emit);
        }
        while self.forget_ended(now_ktime_ns.saturating_sub(ENDED_NS), emit) {}
        while let Some((_, oldest)) = self.connections.oldest() {
            if oldest.seen_ktime_ns.saturating_add(self.limits.idle_ns) >= now_ktime_ns {
                break;
            }
            self.counters.stream_expired += 1;
            self.drop_oldest();
        }
    }

    /// Delivers what was held back and counts what is left incomplete.
    pub fn finish(&mut self, emit: &mut impl FnMut(&Envelope, &[u8])) {
        for socket in std::mem::take(&mut self.holding) {
            self.release(socket, u64::MAX, emit);
        }
        while self.forget_ended(u64::MAX, emit) {}
        while self.connections.len() > 0 {
            self.drop_oldest();
        }
    }

    /// Sockets found not to carry DNS since the last call.
    pub fn take_not_dns(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.not_dns.drain(..)
    }

    /// Bytes held in buffers that are neither delivered nor counted as lost.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.connections
            .values()
            .flat_map(|connection| &connection.streams)
            .map(|s| s.pending_bytes() as u64)
            .sum()
    }

    /// Counts the connections by what was found out about them.
    pub(crate) fn count_sockets(&self, counts: &mut SocketCounts) {
        for connection in self.connections.values() {
            *match connection.foreign {
                Some(Foreign::NotDns) => &mut counts.tcp_not_dns,
                Some(Foreign::Encrypted) => &mut counts.tcp_encrypted,
                None if connection.dns => &mut counts.tcp_dns,
                None => &mut counts.tcp_unknown,
            } += 1;
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &StreamCounters {
        &self.counters
    }

    /// A connection not seen before, or a socket that changed its peer.
    fn open(&mut self, event: &Event<'_>) {
        let socket = event.envelope.socket;
        let midway = self.connections.peek(socket).is_some()
            || self.midway.contains(socket)
            || event.lost != 0;
        self.counters.stream_joined_midway += u64::from(midway);
        let connection = Connection {
            local_port: event.envelope.local.port,
            peer: event.envelope.peer,
            opened_ktime_ns: event.envelope.ktime_ns,
            seen_ktime_ns: event.envelope.ktime_ns,
            dns: false,
            dns_port: false,
            foreign: None,
            proxied: None,
            streams: [Stream::new(midway), Stream::new(midway)],
        };
        if let Some((displaced, connection)) = self.connections.insert(socket, connection) {
            self.counters.stream_evicted += u64::from(displaced != socket);
            self.retire(connection);
            self.midway.insert(displaced);
        }
    }

    fn release(&mut self, socket: u64, now: u64, emit: &mut impl FnMut(&Envelope, &[u8])) {
        let Some(connection) = self.connections.peek(socket) else {
            return;
        };
        let before = (connection.memory(), false);
        let mut condemned = None;
        for direction in [Direction::Received, Direction::Sent] {
            let stream = &mut connection.streams[direction as usize];
            let Some(envelope) = stream.held_envelope() else {
                continue;
            };
            let mut work = Work {
                envelope,
                dns_seen: connection.dns,
                dns_port: connection.dns_port,
                proxies: &self.proxies,
                proxied: connection.proxied,
                counters: &mut self.counters,
                pool: &mut self.pool,
                emit,
            };
            if let Err(foreign) = stream.release(now, &mut work) {
                condemned = Some(foreign);
            }
            let shown = work.dns_seen && !connection.dns;
            (connection.dns, connection.proxied) = (work.dns_seen, work.proxied);
            self.counters.tcp_sockets_dns += u64::from(shown);
        }
        if let Some(foreign) = condemned {
            self.condemn(socket, foreign);
        }
        self.settle(socket, before);
    }

    /// The connection does not carry DNS, unless it already has.
    fn condemn(&mut self, socket: u64, foreign: Foreign) {
        let Some(connection) = self.connections.peek(socket) else {
            return;
        };
        let bytes = connection.abandon(&mut self.pool);
        self.counters.foreign(foreign, bytes);
        *match foreign {
            Foreign::NotDns => &mut self.counters.tcp_sockets_not_dns,
            Foreign::Encrypted => &mut self.counters.tcp_sockets_encrypted,
        } += 1;
        connection.foreign = Some(foreign);
        // A verdict that finds no room costs the kernel a few copies, no more.
        if self.not_dns.len() < VERDICTS {
            self.not_dns.push(socket);
        }
    }

    /// Keeps the books of memory and held pieces after work on a connection, and the bound on memory.
    fn settle(&mut self, socket: u64, (memory, holding): (usize, bool)) {
        if let Some(connection) = self.connections.peek(socket) {
            self.memory = self.memory - memory + connection.memory();
            if connection.is_holding() && !holding {
                self.holding.push(socket);
            }
        }
        while self.memory > self.limits.bytes && self.connections.len() > 1 {
            self.counters.stream_evicted += 1;
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((socket, connection)) = self.connections.pop_oldest() {
            self.retire(connection);
            self.midway.insert(socket);
        }
    }

    /// Gives up the memory of a connection that is out of the table.
    fn retire(&mut self, mut connection: Connection) {
        self.memory -= connection.memory();
        self.counters.stream_skipped_bytes += connection.abandon(&mut self.pool) as u64;
    }
}

/// Sockets whose streams must be joined midway: open at attach, or dropped from the table. Two generations, of which
/// the earlier is forgotten when the recent one is full.
#[derive(Debug)]
struct Midway {
    recent: HashSet<u64, RandomState>,
    earlier: HashSet<u64, RandomState>,
}

impl Midway {
    const GENERATION: usize = 262_144;

    fn contains(&self, socket: u64) -> bool {
        self.recent.contains(&socket) || self.earlier.contains(&socket)
    }

    fn insert(&mut self, socket: u64) {
        if self.recent.len() >= Self::GENERATION {
            self.earlier = std::mem::take(&mut self.recent);
        }
        self.recent.insert(socket);
    }
}
