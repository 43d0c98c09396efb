//! Decides about the messages of servers that do not tell whether a connection is encrypted.
//!
//! BIND 9.18 says only that a message came over TCP. If the connection is encrypted, only the copy
//! that the probe made shows the message. If not, the socket shows it, too, and the copy is left
//! out. What the connection carries is known from its pieces ([`Streams`]). A connection that was
//! open at attach may show it only with the server's next response; its copies wait until then.

use std::{collections::HashMap, hash::BuildHasher as _};

use foldhash::fast::RandomState;

use crate::{
    lru::Lru,
    model::{Endpoint, Envelope, Protocol},
    reassemble::tcp::{Carried, Streams},
};

/// Most connections of which the decision is remembered.
const DECISIONS: usize = 65_536;

/// Most copies that wait, and most bytes of them.
const ENTRIES: usize = 4_096;
const BYTES: usize = 8 << 20;

/// Ports of DNS over TLS (RFC 7858) and HTTPS.
const DOT: u16 = 853;
const HTTPS: u16 = 443;

/// A connection, by program id, local port and peer.
type Connection = (u32, u16, Endpoint);

/// Decision about a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The connection is encrypted: the copy is the message, over this transport.
    Deliver(Protocol),
    /// The socket shows the message, too.
    Plain,
    /// Nothing shows what the connection carries.
    Unclear,
}

/// A copy of a message.
pub(super) type Copied = (Envelope, Vec<u8>);

/// Decisions about connections, and the copies that wait for one.
#[derive(Debug)]
pub(super) struct Copies {
    hasher: RandomState,
    /// Decisions by connection. The kernel side does not report encrypted connections any more
    /// after a while, so [`Streams`] may have forgotten them.
    decisions: Lru<Decision>,
    /// Transport by local port, of connections whose first message was seen.
    ports: HashMap<u16, Protocol>,
    waiting: HashMap<Connection, Vec<Copied>, RandomState>,
    count: usize,
    bytes: usize,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            decisions: Lru::new(DECISIONS),
            ports: HashMap::new(),
            waiting: HashMap::default(),
            count: 0,
            bytes: 0,
        }
    }
}

impl Copies {
    /// Returns the decision about the copies of a connection; `None` if it is not known yet.
    /// `envelope`: that of one of the copies.
    pub(super) fn decide(
        &mut self,
        streams: &mut Streams,
        envelope: &Envelope,
    ) -> Option<Decision> {
        let connection = connection(envelope);
        let key = self.hasher.hash_one(connection);
        let (program_id, port, peer) = connection;
        let decision = match streams.carried(program_id, port, peer) {
            Carried::Unseen => return self.decisions.get(key).copied(),
            Carried::Undecided => return None,
            Carried::Dns => Decision::Plain,
            Carried::Other => {
                self.ports.entry(port).or_insert(Protocol::Doh);
                Decision::Deliver(Protocol::Doh)
            }
            Carried::Tls { is_http: None } => Decision::Deliver(self.likely(port)),
            Carried::Tls {
                is_http: Some(is_http),
            } => {
                // A client may offer HTTP/2 to a server that does not have it. A client that does not offer it gets
                // nothing but DNS over TLS.
                let protocol = if is_http {
                    self.ports.entry(port).or_insert(Protocol::Doh);
                    Protocol::Doh
                } else {
                    self.ports.insert(port, Protocol::Dot);
                    Protocol::Dot
                };
                Decision::Deliver(protocol)
            }
        };
        self.decisions.insert(key, decision);
        Some(decision)
    }

    /// Returns the transport of an encrypted connection whose first message was not seen.
    fn likely(&self, port: u16) -> Protocol {
        match self.ports.get(&port) {
            Some(&protocol) => protocol,
            None if port == HTTPS => Protocol::Doh,
            None => Protocol::Dot,
        }
    }

    /// Stores a copy until [`Self::decide`] knows the decision. Returns the stored copies if there
    /// are too many.
    pub(super) fn put(&mut self, envelope: &Envelope, bytes: &[u8]) -> Vec<Copied> {
        let place = self.waiting.entry(connection(envelope)).or_default();
        place.push((*envelope, bytes.to_vec()));
        self.count += 1;
        self.bytes += bytes.len();
        if self.count <= ENTRIES && self.bytes <= BYTES {
            return Vec::new();
        }
        (self.count, self.bytes) = (0, 0);
        self.waiting
            .drain()
            .flat_map(|(_, copies)| copies)
            .collect()
    }

    /// Removes and returns the stored copies of a connection, oldest first.
    pub(super) fn take(&mut self, envelope: &Envelope) -> Vec<Copied> {
        if self.count == 0 {
            return Vec::new();
        }
        let copies = self.waiting.remove(&connection(envelope));
        let copies = copies.unwrap_or_default();
        self.count -= copies.len();
        self.bytes -= copies.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        copies
    }

    /// Returns the envelope of the oldest copy of each connection.
    pub(super) fn oldest(&self) -> Vec<Envelope> {
        let first = |copies: &Vec<Copied>| copies.first().map(|(envelope, _)| *envelope);
        self.waiting.values().filter_map(first).collect()
    }

    /// Returns the decision about a copy that cannot wait any longer. The connection is taken for
    /// encrypted if its port is known for that.
    pub(super) fn give_up(&self, envelope: &Envelope) -> Decision {
        let port = envelope.local.port;
        if [DOT, HTTPS].contains(&port) || self.ports.contains_key(&port) {
            Decision::Deliver(self.likely(port))
        } else {
            Decision::Unclear
        }
    }

    /// Returns the number of stored copies.
    pub(super) fn waiting(&self) -> u64 {
        self.count as u64
    }
}

fn connection(envelope: &Envelope) -> Connection {
    (
        envelope.origin.program_id,
        envelope.local.port,
        envelope.peer,
    )
}
