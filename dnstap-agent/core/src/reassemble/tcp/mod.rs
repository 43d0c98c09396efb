//! TCP: turns pieces of byte streams into whole DNS messages, for all connections.
//!
//! Owns the table of connections (by socket), their memory and the verdicts on them. `order` puts
//! the pieces of one direction in order, `framing` cuts messages out of them, `dns` knows what a
//! DNS message looks like.
//!
//! Order: pieces of a stream should arrive in the order in which the kernel saw them. A reader of
//! several rings merges the rings by time. Small inversions are repaired by sequence number, except
//! before the first piece of a stream, whose sequence number is taken as the start.
//!
//! A connection is joined midway if its beginning was not seen: it was open at attach, was dropped
//! from this table, or lost messages before the first piece. Its framing has to be found, see
//! `framing`.
//!
//! A connection leaves the table soon after the kernel side has reported its end, or when it has
//! been idle for long.
//!
//! Bounds: connections, bytes of all buffers, and per direction one message and the held pieces.
//! Above the number of connections, the one used least recently is dropped. Above the number of
//! bytes, the one that has held bytes for longest is dropped, because a connection without bytes
//! would free none. The bytes and messages of a dropped connection are counted.
//!
//! Lost messages are counted as the least number that is certain, and each connection with losses
//! is counted once: `docs/architecture.md`.

pub(crate) mod alpn;
mod framing;
mod kept;
mod order;
pub(crate) mod proxy;
mod search;

#[cfg(test)]
mod tests;

pub use self::proxy::Proxies;

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher as _,
};

use foldhash::fast::RandomState;
use framing::work::{Pool, Turn, Work};
use order::{Piece, Stream};
use search::Foreign;

use crate::{
    counters::counters,
    lru::Lru,
    model::{Direction, Endpoint, Envelope, Proxied, SocketCounts},
    record::Chunk,
};

/// Nanoseconds without a piece after which an ended connection is dropped. Bytes that arrived
/// before the end may still be read.
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
        /// PROXY headers of connections.
        stream_proxy_headers,
        /// Bytes of those.
        stream_proxy_header_bytes,
        /// PROXY headers of peers that are not trusted (`--proxy-from`).
        proxy_headers_refused_tcp,
        /// Losses: places where bytes are missing.
        stream_gaps,
        /// Bytes missing there. These never arrived, so they are no part of `tcp_bytes`.
        stream_missing_bytes,
        /// Times that the framing was lost and a search began.
        stream_searches,
        /// Times that a search found a message.
        stream_resyncs,
        /// Bytes that were not searched to their end, because that would have cost too much. They are among the skipped.
        stream_search_given_up_bytes,
        /// Messages that are missing at least: cut by a loss, lost with it, searched in vain, dropped when half of them had come.
        stream_messages_lost_at_least,
        /// Connections of which such are missing.
        stream_connections_with_loss,
        /// Messages of which the rest had not come when the connection or the tap ended. Nothing was lost here.
        stream_incomplete_messages,
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
    /// Counts a connection that was found to be foreign, and the bytes that it held.
    fn condemned(&mut self, foreign: Foreign, bytes: usize) {
        self.foreign(foreign, bytes);
        *match foreign {
            Foreign::NotDns => &mut self.tcp_sockets_not_dns,
            Foreign::Encrypted => &mut self.tcp_sockets_encrypted,
        } += 1;
    }

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

/// Reassembles all TCP connections.
#[derive(Debug)]
pub struct Streams {
    connections: Lru<Connection>,
    midway: Midway,
    proxies: Proxies,
    pool: Pool,
    limits: StreamLimits,
    /// Bytes of all buffers in use.
    memory: usize,
    /// Sockets that hold bytes and the time since when, earliest first. Some may have released
    /// their bytes since.
    heavy: VecDeque<(u64, u64)>,
    /// Sockets with pieces held back.
    holding: Vec<u64>,
    /// Kernel times at which connections ended, and their sockets, earliest first.
    ended: VecDeque<(u64, u64)>,
    not_dns: Vec<u64>,
    /// Sockets by the ends of their connections; `None` if nobody asks.
    ends: Option<Ends>,
    counters: StreamCounters,
}

/// Sockets by local port and peer. A socket may have another connection by now.
#[derive(Debug)]
struct Ends {
    sockets: Lru<u64>,
    hasher: RandomState,
}

impl Ends {
    fn key(&self, program_id: u32, local_port: u16, peer: Endpoint) -> u64 {
        self.hasher.hash_one((program_id, local_port, peer))
    }
}

/// Content of a connection, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The connection has not been seen, or is forgotten.
    Unseen,
    /// Nothing shows yet what it carries.
    Undecided,
    /// DNS in the clear.
    Dns,
    /// TLS; `is_http`: whether the client has asked for HTTP/2 (ALPN), if its first message was
    /// seen.
    Tls {
        /// See above.
        is_http: Option<bool>,
    },
    /// Another protocol in the clear, such as HTTP/2.
    Other,
}

#[derive(Debug)]
struct Connection {
    local_port: u16,
    peer: Endpoint,
    opened_ktime_ns: u64,
    seen_ktime_ns: u64,
    /// Time at which it began to hold bytes, if it is in `heavy`.
    heavy_ktime_ns: Option<u64>,
    /// Time of its end.
    ended_ktime_ns: Option<u64>,
    /// Count of losses in its last piece.
    lost: u32,
    /// Whether messages of it were lost.
    lossy: bool,
    dns: bool,
    dns_port: bool,
    foreign: Option<Foreign>,
    /// Whether the client asked for HTTP/2, if the connection is encrypted and this was seen.
    is_http: Option<bool>,
    /// Ends that the PROXY header at the start named.
    proxied: Option<Proxied>,
    streams: [Stream; 2],
}

/// State that all connections share.
struct Shared<'s> {
    proxies: &'s Proxies,
    pool: &'s mut Pool,
    counters: &'s mut StreamCounters,
}

/// Reasons why a connection leaves the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// The connection or the tap has ended, or the socket has a new connection.
    Over,
    /// The table needed room.
    Evicted,
}

impl Connection {
    fn memory(&self) -> usize {
        self.streams.iter().map(Stream::memory).sum()
    }

    fn is_holding(&self) -> bool {
        self.streams.iter().any(Stream::is_holding)
    }

    fn is_between_messages(&self) -> bool {
        self.streams.iter().all(Stream::is_between_messages)
    }

    fn abandon(&mut self, pool: &mut Pool) -> usize {
        self.streams
            .iter_mut()
            .map(|stream| stream.abandon(pool))
            .sum()
    }

    /// Runs an operation on one direction, for a piece with this envelope.
    #[inline]
    fn work<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        envelope: &Envelope,
        shared: &mut Shared<'_>,
        emit: &mut F,
        act: impl FnOnce(&mut Stream, &mut Work<'_, F>) -> Result<(), Foreign>,
    ) -> Result<(), Foreign> {
        let [received, sent] = &mut self.streams;
        let (stream, other) = match envelope.direction {
            Direction::Received => (received, sent),
            Direction::Sent => (sent, received),
        };
        let sends = envelope.direction == Direction::Sent;
        let mut work = Work {
            envelope: *envelope,
            // Undecided bytes need the sent ones as evidence, so those must not wait.
            turn: if sends && other.is_holding() && !other.framer().is_undecided() {
                Turn::Later
            } else {
                Turn::Now
            },
            dns_seen: self.dns,
            other: (!self.dns || other.framer().is_undecided()).then_some(other.framer_mut()),
            lossy: self.lossy,
            dns_port: self.dns_port,
            proxies: shared.proxies,
            proxied: self.proxied,
            counters: shared.counters,
            pool: shared.pool,
            emit,
        };
        let done = act(stream, &mut work);
        let (dns, lossy) = (work.dns_seen, work.lossy);
        self.proxied = work.proxied;
        shared.counters.tcp_sockets_dns += u64::from(dns && !self.dns);
        shared.counters.stream_connections_with_loss += u64::from(lossy && !self.lossy);
        (self.dns, self.lossy) = (dns, lossy);
        done
    }

    /// Delivers held messages, and counts what is left: incomplete messages and bytes that belong
    /// to none.
    fn leave<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        leaving: Leaving,
        shared: &mut Shared<'_>,
        emit: &mut F,
    ) {
        // A TLS alert is shorter than the bytes by which a stream is judged.
        let sent = self.streams[Direction::Sent as usize].framer();
        if let Some(foreign) = sent.begins_as().filter(|_| !self.dns) {
            let bytes = self.abandon(shared.pool);
            shared.counters.condemned(foreign, bytes);
            self.foreign = Some(foreign);
        }
        for direction in [Direction::Received, Direction::Sent] {
            let Some(envelope) = self.streams[direction as usize].waiting_envelope() else {
                continue;
            };
            let flushed = self.work(&envelope, shared, emit, Stream::flush);
            if let Err(foreign) = flushed {
                let bytes = self.abandon(shared.pool);
                shared.counters.condemned(foreign, bytes);
                self.foreign = Some(foreign);
            }
        }
        if self.foreign.is_some() {
            return;
        }
        let mut lost = 0;
        for stream in &mut self.streams {
            let framer = stream.framer();
            let undecided = framer.is_undecided();
            let uncharged = u64::from(!framer.has_counted());
            let expects_dns = self.dns || self.dns_port;
            let amid = framer.is_amid_message() || expects_dns && framer.has_just_begun();
            if amid && leaving == Leaving::Over {
                shared.counters.stream_incomplete_messages += uncharged;
            } else if amid || expects_dns && framer.is_in_doubt() {
                lost += uncharged;
            }
            let bytes = stream.abandon(shared.pool);
            if undecided {
                shared.counters.foreign(Foreign::NotDns, bytes);
            } else {
                shared.counters.stream_skipped_bytes += bytes as u64;
            }
        }
        shared.counters.stream_messages_lost_at_least += lost;
        shared.counters.stream_connections_with_loss += u64::from(lost > 0 && !self.lossy);
        self.lossy |= lost > 0;
    }
}

impl Streams {
    /// Creates an empty table. Connections on `existing` sockets are joined midway. PROXY headers
    /// of `proxies` are believed.
    pub fn new(
        limits: StreamLimits,
        existing: impl IntoIterator<Item = u64>,
        proxies: Proxies,
    ) -> Self {
        Self {
            connections: Lru::new(limits.connections),
            midway: Midway {
                recent: existing
                    .into_iter()
                    .map(|socket| (socket, Past::default()))
                    .collect(),
                earlier: HashMap::default(),
            },
            proxies,
            pool: Pool::default(),
            limits,
            memory: 0,
            heavy: VecDeque::new(),
            holding: Vec::new(),
            ended: VecDeque::new(),
            not_dns: Vec::new(),
            ends: None,
            counters: StreamCounters::default(),
        }
    }

    /// Remembers the connections by their ends from now on, so that [`Self::carried`] finds them.
    pub fn remember_ends(&mut self) {
        self.ends.get_or_insert_with(|| Ends {
            sockets: Lru::new(self.limits.connections),
            hasher: RandomState::default(),
        });
    }

    /// Returns what is known about the connection with these ends.
    pub fn carried(&mut self, program_id: u32, local_port: u16, peer: Endpoint) -> Carried {
        let Some(ends) = &mut self.ends else {
            return Carried::Unseen;
        };
        let key = ends.key(program_id, local_port, peer);
        let socket = ends.sockets.peek(key).copied();
        let connection = socket.and_then(|socket| self.connections.peek(socket));
        match connection {
            Some(known) if known.local_port == local_port && known.peer == peer => {
                match known.foreign {
                    Some(Foreign::Encrypted) => Carried::Tls {
                        is_http: known.is_http,
                    },
                    Some(Foreign::NotDns) => Carried::Other,
                    None if known.dns => Carried::Dns,
                    None => Carried::Undecided,
                }
            }
            _ => Carried::Unseen,
        }
    }

    /// Marks connections on these sockets to be joined midway, except for those already in the
    /// table.
    pub fn midway(&mut self, sockets: impl IntoIterator<Item = u64>) {
        for socket in sockets {
            self.midway.insert(socket, Past::default());
        }
    }

    /// Takes a piece and calls `emit` with every message that it completes. `dns_port`: the
    /// connection's port is known for DNS, so unreadable bytes are malformed DNS rather than
    /// another protocol.
    pub fn push(
        &mut self,
        chunk: &Chunk<'_>,
        dns_port: bool,
        emit: &mut impl FnMut(&Envelope, &[u8]),
    ) {
        let socket = chunk.envelope.socket;
        let stream = chunk.envelope.direction as usize;
        let known = self.connections.get(socket).is_some_and(|connection| {
            // A socket may connect to the same peer again, from the same port.
            let anew = connection.ended_ktime_ns.is_some()
                && connection.streams[stream].is_far(chunk.sequence);
            connection.peer == chunk.envelope.peer
                && connection.local_port == chunk.envelope.local.port
                && !anew
        });
        if !known {
            self.open(chunk, emit);
        }
        let Some(connection) = self.connections.peek(socket) else {
            return;
        };
        connection.seen_ktime_ns = connection.seen_ktime_ns.max(chunk.envelope.ktime_ns);
        connection.dns_port = dns_port;
        if let Some(foreign) = connection.foreign {
            self.counters.foreign(foreign, chunk.payload.len());
            return;
        }
        connection.lost = chunk.lost;
        let before = (connection.memory(), connection.is_holding());
        if chunk.lost != 0 {
            connection.streams[stream].join_midway();
        }
        let piece = Piece {
            sequence: chunk.sequence,
            lost: chunk.lost,
            flags: chunk.flags,
            payload: chunk.payload,
        };
        let mut shared = Shared {
            proxies: &self.proxies,
            pool: &mut self.pool,
            counters: &mut self.counters,
        };
        let pushed = connection.work(&chunk.envelope, &mut shared, emit, |stream, work| {
            stream.push(piece, work)
        });
        if let Err(foreign) = pushed {
            self.condemn(socket, foreign);
        }
        self.settle(socket, before, emit);
    }

    /// Notes the end of a connection. Bytes that arrived before may still be read; then no more
    /// come.
    pub fn end(&mut self, end: &Envelope, emit: &mut impl FnMut(&Envelope, &[u8])) {
        if let Some(connection) = self.connections.peek(end.socket) {
            connection.ended_ktime_ns = Some(end.ktime_ns);
        }
        self.ended.push_back((end.ktime_ns, end.socket));
        if self.ended.len() > self.limits.connections {
            self.forget_ended(u64::MAX, emit);
        }
    }

    /// Drops the connection that ended first, if that was before kernel time `before_ktime_ns` and
    /// no piece has come since.
    fn forget_ended(
        &mut self,
        before_ktime_ns: u64,
        emit: &mut impl FnMut(&Envelope, &[u8]),
    ) -> bool {
        let Some((ended, socket)) = self.ended.pop_front_if(|(at, _)| *at < before_ktime_ns) else {
            return false;
        };
        match self.connections.peek(socket) {
            // The socket has a new connection.
            Some(connection) if connection.opened_ktime_ns > ended => {}
            Some(connection) if connection.seen_ktime_ns > ended => {
                let seen = connection.seen_ktime_ns;
                self.ended.push_back((seen, socket));
            }
            _ => self.forget(socket, emit),
        }
        true
    }

    /// Delivers held pieces, counts incomplete messages, and drops the connection.
    fn forget(&mut self, socket: u64, emit: &mut impl FnMut(&Envelope, &[u8])) {
        self.release(socket, u64::MAX, emit);
        let Some(connection) = self.connections.remove(socket) else {
            return;
        };
        self.counters.stream_ended += 1;
        if !connection.is_between_messages() {
            // If more bytes come after all, they are not the beginning of a stream.
            self.midway
                .insert(socket, Past::of(&connection, Leaving::Over));
        }
        self.retire(connection, Leaving::Over, emit);
    }

    /// Skips bytes that are overdue and drops idle connections, at kernel time `now_ktime_ns`.
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
            self.drop_oldest(Leaving::Over, emit);
        }
    }

    /// Delivers held pieces and counts incomplete messages.
    pub fn finish(&mut self, emit: &mut impl FnMut(&Envelope, &[u8])) {
        for socket in std::mem::take(&mut self.holding) {
            self.release(socket, u64::MAX, emit);
        }
        while self.forget_ended(u64::MAX, emit) {}
        while self.connections.len() > 0 {
            self.drop_oldest(Leaving::Over, emit);
        }
    }

    /// Returns the sockets that were found not to carry DNS since the last call.
    pub fn take_not_dns(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.not_dns.drain(..)
    }

    /// Bytes in buffers that are neither delivered nor counted as lost.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.connections
            .values()
            .flat_map(|connection| &connection.streams)
            .map(|s| s.pending_bytes() as u64)
            .sum()
    }

    /// Counts the connections by their verdicts.
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

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> &StreamCounters {
        &self.counters
    }

    /// Adds a connection: a new socket, or one that changed its peer.
    fn open(&mut self, chunk: &Chunk<'_>, emit: &mut impl FnMut(&Envelope, &[u8])) {
        let socket = chunk.envelope.socket;
        let past = self.midway.take(socket);
        let before = self.connections.peek(socket).map(|before| before.lost);
        // If the socket was known, the beginning of the new connection was seen, unless something
        // was lost since.
        let midway = match before {
            Some(lost) => chunk.lost != lost,
            None => past.is_some() || chunk.lost != 0,
        };
        let past = past.filter(|_| midway).unwrap_or_default();
        self.counters.stream_joined_midway += u64::from(midway);
        let mut connection = Connection {
            local_port: chunk.envelope.local.port,
            peer: chunk.envelope.peer,
            opened_ktime_ns: chunk.envelope.ktime_ns,
            seen_ktime_ns: chunk.envelope.ktime_ns,
            heavy_ktime_ns: None,
            ended_ktime_ns: None,
            lost: chunk.lost,
            lossy: false,
            dns: past.dns,
            dns_port: false,
            foreign: None,
            is_http: None,
            proxied: None,
            streams: [Stream::new(midway), Stream::new(midway)],
        };
        for (stream, paid) in connection.streams.iter_mut().zip(past.paid) {
            if paid {
                stream.is_paid();
            }
        }
        if let Some(ends) = &mut self.ends {
            let Envelope {
                origin,
                local,
                peer,
                ..
            } = &chunk.envelope;
            let key = ends.key(origin.program_id, local.port, *peer);
            ends.sockets.insert(key, socket);
        }
        if let Some((displaced, connection)) = self.connections.insert(socket, connection) {
            let leaving = if displaced == socket {
                Leaving::Over
            } else {
                self.counters.stream_evicted += 1;
                self.midway
                    .insert(displaced, Past::of(&connection, Leaving::Evicted));
                Leaving::Evicted
            };
            self.retire(connection, leaving, emit);
        }
    }

    fn release(&mut self, socket: u64, now: u64, emit: &mut impl FnMut(&Envelope, &[u8])) {
        let Some(connection) = self.connections.peek(socket) else {
            return;
        };
        let before = (connection.memory(), false);
        let mut shared = Shared {
            proxies: &self.proxies,
            pool: &mut self.pool,
            counters: &mut self.counters,
        };
        let mut condemned = None;
        for direction in [Direction::Received, Direction::Sent] {
            let stream = &connection.streams[direction as usize];
            let Some(envelope) = stream.waiting_envelope().filter(|_| stream.is_holding()) else {
                continue;
            };
            let released = connection.work(&envelope, &mut shared, emit, |stream, work| {
                stream.release(now, work)
            });
            condemned = released.err().or(condemned);
        }
        if let Some(foreign) = condemned {
            self.condemn(socket, foreign);
        }
        self.settle(socket, before, emit);
    }

    /// Marks the connection as foreign, unless it has shown DNS.
    fn condemn(&mut self, socket: u64, foreign: Foreign) {
        let Some(connection) = self.connections.peek(socket) else {
            return;
        };
        if foreign == Foreign::Encrypted {
            let received = connection.streams[Direction::Received as usize].framer();
            connection.is_http = alpn::asks_for_http(received.buffered());
        }
        let bytes = connection.abandon(&mut self.pool);
        self.counters.condemned(foreign, bytes);
        connection.foreign = Some(foreign);
        // A verdict that finds no room costs the kernel only a few copies.
        if self.not_dns.len() < VERDICTS {
            self.not_dns.push(socket);
        }
    }

    /// Updates the accounts of memory and held pieces after work on a connection, and enforces the
    /// bound on memory.
    fn settle(
        &mut self,
        socket: u64,
        (memory, holding): (usize, bool),
        emit: &mut impl FnMut(&Envelope, &[u8]),
    ) {
        if let Some(connection) = self.connections.peek(socket) {
            let now = connection.memory();
            self.memory = self.memory - memory + now;
            if connection.is_holding() && !holding {
                self.holding.push(socket);
            }
            if now > 0 && memory == 0 {
                let since = connection.seen_ktime_ns;
                if connection.heavy_ktime_ns.replace(since).is_none() {
                    self.heavy.push_back((socket, since));
                    self.tidy_heavy();
                }
            }
        }
        while self.memory > self.limits.bytes && self.connections.len() > 1 {
            self.drop_heaviest(emit);
        }
    }

    /// Removes dropped connections from `heavy` when there are many.
    fn tidy_heavy(&mut self) {
        if self.heavy.len() > 2 * self.connections.len() + 64 {
            let connections = &mut self.connections;
            self.heavy.retain(|(socket, _)| {
                connections
                    .peek(*socket)
                    .is_some_and(|c| c.heavy_ktime_ns.is_some())
            });
        }
    }

    /// Drops the connection that has held bytes for longest. A connection that fills up slowly and
    /// keeps its bytes goes before those that release them soon.
    fn drop_heaviest(&mut self, emit: &mut impl FnMut(&Envelope, &[u8])) {
        while let Some((socket, since)) = self.heavy.pop_front() {
            let Some(connection) = self.connections.peek(socket) else {
                continue;
            };
            let heavy = connection
                .heavy_ktime_ns
                .filter(|_| connection.memory() > 0);
            connection.heavy_ktime_ns = heavy;
            let Some(latest) = heavy else {
                continue;
            };
            if latest > since {
                self.heavy.push_back((socket, latest));
            } else if let Some(connection) = self.connections.remove(socket) {
                self.counters.stream_evicted += 1;
                self.midway
                    .insert(socket, Past::of(&connection, Leaving::Evicted));
                return self.retire(connection, Leaving::Evicted, emit);
            }
        }
        self.counters.stream_evicted += 1;
        self.drop_oldest(Leaving::Evicted, emit);
    }

    fn drop_oldest(&mut self, leaving: Leaving, emit: &mut impl FnMut(&Envelope, &[u8])) {
        if let Some((socket, connection)) = self.connections.pop_oldest() {
            self.midway.insert(socket, Past::of(&connection, leaving));
            self.retire(connection, leaving, emit);
        }
    }

    /// Releases the memory of a connection that has left the table.
    fn retire(
        &mut self,
        mut connection: Connection,
        leaving: Leaving,
        emit: &mut impl FnMut(&Envelope, &[u8]),
    ) {
        self.memory -= connection.memory();
        let mut shared = Shared {
            proxies: &self.proxies,
            pool: &mut self.pool,
            counters: &mut self.counters,
        };
        connection.leave(leaving, &mut shared, emit);
    }
}

/// What is remembered about a dropped connection.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    /// Whether it showed DNS, so that nothing makes it foreign.
    dns: bool,
    /// For each direction, whether its incomplete message was counted as lost.
    paid: [bool; 2],
}

impl Past {
    /// Builds the record. `leaving`: incomplete messages of an evicted connection are counted as
    /// lost.
    fn of(connection: &Connection, leaving: Leaving) -> Self {
        let streams = connection.streams.each_ref();
        let evicted = leaving == Leaving::Evicted;
        let expects_dns = connection.dns || connection.dns_port;
        let paid = |stream: &Stream| {
            let framer = stream.framer();
            let is_doubtful = framer.has_just_begun() || framer.is_in_doubt();
            evicted && (framer.is_amid_message() || expects_dns && is_doubtful)
        };
        Self {
            dns: connection.dns,
            paid: streams.map(paid),
        }
    }
}

/// Sockets whose streams must be joined midway: open at attach, or dropped from the table. There
/// are two generations; the earlier one is discarded when the recent one is full.
#[derive(Debug)]
struct Midway {
    recent: HashMap<u64, Past, RandomState>,
    earlier: HashMap<u64, Past, RandomState>,
}

impl Midway {
    const GENERATION: usize = 262_144;

    fn take(&mut self, socket: u64) -> Option<Past> {
        let recent = self.recent.remove(&socket);
        recent.or_else(|| self.earlier.remove(&socket))
    }

    fn insert(&mut self, socket: u64, past: Past) {
        if self.recent.len() >= Self::GENERATION {
            self.earlier = std::mem::take(&mut self.recent);
        }
        self.recent.insert(socket, past);
    }
}
