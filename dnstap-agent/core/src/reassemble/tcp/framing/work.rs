//! What the streams of a connection share while one of them works on a piece: counters, buffers and
//! the output.

use crate::{
    model::{Direction, Envelope, Proxied},
    reassemble::tcp::{Proxies, StreamCounters, framing::Framer},
};

/// Spare buffers, for streams that have none.
#[derive(Debug, Default)]
pub(in crate::reassemble::tcp) struct Pool(Vec<Vec<u8>>);

impl Pool {
    const SPARE: usize = 32;

    /// Returns an empty buffer, with memory if there is a spare one.
    pub(in crate::reassemble::tcp) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    #[cfg(test)]
    pub(in crate::reassemble::tcp) fn spare(&self) -> usize {
        self.0.len()
    }

    /// Takes a buffer back.
    pub(in crate::reassemble::tcp) fn give(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < Self::SPARE && buffer.capacity() != 0 {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// When a piece may be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reassemble::tcp) enum Turn {
    Now,
    /// After what was received before it: the piece was sent and may answer bytes that still wait
    /// for earlier ones.
    Later,
}

/// Context of a stream while it works on a piece.
pub(in crate::reassemble::tcp) struct Work<'w, F> {
    /// Envelope of the current piece.
    pub(in crate::reassemble::tcp) envelope: Envelope,
    /// Whether DNS was seen on this connection.
    pub(in crate::reassemble::tcp) dns_seen: bool,
    /// The other direction, as long as a delivered message may decide what its bytes are.
    pub(in crate::reassemble::tcp) other: Option<&'w mut Framer>,
    pub(in crate::reassemble::tcp) turn: Turn,
    /// Whether messages of this connection were lost.
    pub(in crate::reassemble::tcp) lossy: bool,
    /// Whether the connection's port is known for DNS.
    pub(in crate::reassemble::tcp) dns_port: bool,
    /// Peers whose PROXY headers are believed.
    pub(in crate::reassemble::tcp) proxies: &'w Proxies,
    /// Ends that the PROXY header named.
    pub(in crate::reassemble::tcp) proxied: Option<Proxied>,
    pub(in crate::reassemble::tcp) counters: &'w mut StreamCounters,
    pub(in crate::reassemble::tcp) pool: &'w mut Pool,
    pub(in crate::reassemble::tcp) emit: &'w mut F,
}

impl<F: FnMut(&Envelope, &[u8])> Work<'_, F> {
    /// Returns whether unreadable bytes are malformed DNS rather than another protocol.
    pub(in crate::reassemble::tcp) fn expects_dns(&self) -> bool {
        self.dns_seen || self.dns_port
    }

    /// Delivers a message; `framed` begins with its length.
    pub(in crate::reassemble::tcp) fn message(&mut self, framed: &[u8]) {
        self.body(&framed[2..]);
    }

    /// Delivers a message without its length.
    pub(in crate::reassemble::tcp) fn body(&mut self, message: &[u8]) {
        self.counters.stream_framed_bytes += 2 + message.len() as u64;
        if message.is_empty() {
            self.counters.stream_empty_messages += 1;
        } else {
            self.dns_seen = true;
            // Queries are delivered before their answer.
            if let Some(other) = self.other.take() {
                other.testify(message, self);
                self.other = Some(other).filter(|other| other.is_undecided());
            }
            self.counters.stream_messages += 1;
            let envelope = Envelope {
                proxied: self.proxied,
                ..self.envelope
            };
            (self.emit)(&envelope, message);
        }
    }

    /// Stores the ends that a PROXY header at the start of the stream names. A header that the
    /// process sends describes its own connection, whose ends are known.
    pub(in crate::reassemble::tcp) fn proxy_header(
        &mut self,
        bytes: usize,
        proxied: Option<Proxied>,
    ) {
        self.counters.stream_proxy_headers += 1;
        self.counters.stream_proxy_header_bytes += bytes as u64;
        if self.envelope.direction == Direction::Received {
            self.proxied = proxied;
        }
    }

    /// Counts messages that are missing.
    pub(in crate::reassemble::tcp) fn lose_messages(&mut self, at_least: u64) {
        self.counters.stream_messages_lost_at_least += at_least;
        self.lossy |= at_least > 0;
    }

    /// Counts bytes that belong to no message.
    pub(in crate::reassemble::tcp) fn skip(&mut self, bytes: usize) {
        self.counters.stream_skipped_bytes += bytes as u64;
    }
}
