//! What is known about UDP sockets and about ports: whether they carry DNS.
//!
//! A port carries DNS if it is 53, if the configuration says so, or if the process received a well-formed query on it or sent one to it. On such a port
//! everything is delivered, malformed or not. Elsewhere a socket has to show one well-formed message first; a socket
//! that shows [`PATIENCE`] datagrams and not one of them is DNS gets the verdict that it carries something else. For a while: the datagrams
//! may have been anybody's.

use crate::{
    event::{Direction, Envelope},
    pipeline::{SocketCounts, lru::Lru},
};

/// Datagrams that are not DNS after which a socket on an unknown port is given up.
const PATIENCE: u8 = 8;

/// Nanoseconds after which sockets that were given up are looked at again.
const GIVEN_UP_NS: u64 = 60_000_000_000;

/// Verdicts that may wait to be collected; a socket whose verdict finds no room is judged again later.
const VERDICTS: usize = 65_536;

/// What the kernel side is told about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It carries DNS after all, or is to be looked at again; only said of sockets that were [`Verdict::NotDns`].
    Dns,
    /// It carries something else: its messages need not be copied any more.
    NotDns,
}

impl Verdict {
    /// The value for [`dnstap_ebpf::SocketState::verdict`].
    #[must_use]
    pub fn to_abi(self) -> u32 {
        match self {
            Self::Dns => dnstap_ebpf::VERDICT_DNS,
            Self::NotDns => dnstap_ebpf::VERDICT_NOT_DNS,
        }
    }
}

/// Ports that carry DNS: one bit each.
#[derive(Debug)]
pub(super) struct Ports(Box<[u64; 1_024]>);

impl Ports {
    /// Port 53 and `known` ones.
    pub(super) fn new(known: &[u16]) -> Self {
        let mut ports = Self(Box::new([0; 1_024]));
        for port in known.iter().copied().chain([53]) {
            ports.add(port);
        }
        ports
    }

    /// Whether one end's port is known for DNS.
    pub(super) fn know(&self, envelope: &Envelope) -> bool {
        self.contains(envelope.local.port) || self.contains(envelope.peer.port)
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// Notes the responder's port of a well-formed query. Responses teach nothing: anybody can send one anywhere.
    pub(super) fn learn_from_query(&mut self, envelope: &Envelope) {
        let port = match envelope.direction {
            Direction::Received => envelope.local.port,
            Direction::Sent => envelope.peer.port,
        };
        if port != 0 {
            self.add(port);
        }
    }

    fn add(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }
}

/// Whether a datagram is encrypted DNS: on port 853 and a DTLS record (RFC 8094, RFC 9147) or a QUIC packet (RFC 9250,
/// RFC 9000 section 17: the fixed bit).
pub(super) fn is_encrypted(envelope: &Envelope, datagram: &[u8]) -> bool {
    (envelope.local.port == 853 || envelope.peer.port == 853)
        && match datagram {
            [0x14..=0x19, 0xfe, 0xfd | 0xff, ..] => true,
            [first, ..] => first & 0x40 != 0,
            [] => false,
        }
}

/// UDP sockets on ports that are not known for DNS.
#[derive(Debug)]
pub(super) struct Sockets {
    table: Lru<Socket>,
    verdicts: Vec<(u64, Verdict)>,
    /// Sockets that are given up, and the kernel time of the last look at them.
    given_up: Vec<u64>,
    looked_ktime_ns: u64,
}

#[derive(Debug, Default)]
struct Socket {
    dns: bool,
    condemned: bool,
    strange: u8,
}

impl Sockets {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            table: Lru::new(capacity),
            verdicts: Vec::new(),
            given_up: Vec::new(),
            looked_ktime_ns: 0,
        }
    }

    /// Has the sockets that were given up looked at again from time to time: of some, it was not their own traffic that was strange.
    pub(super) fn tick(&mut self, now_ktime_ns: u64) {
        if now_ktime_ns < self.looked_ktime_ns.saturating_add(GIVEN_UP_NS) {
            return;
        }
        self.looked_ktime_ns = now_ktime_ns;
        for socket in self.given_up.drain(..) {
            let entry = self.table.peek(socket).filter(|entry| entry.condemned);
            if let Some(entry) = entry {
                *entry = Socket::default();
                self.verdicts.push((socket, Verdict::Dns));
            }
        }
    }

    /// Whether a datagram of `socket` is DNS, given whether it is well-formed.
    pub(super) fn accept(&mut self, socket: u64, well_formed: bool) -> bool {
        if self.table.get(socket).is_none() {
            self.table.insert(socket, Socket::default());
        }
        let Some(entry) = self.table.peek(socket) else {
            return well_formed;
        };
        let room = self.verdicts.len().max(self.given_up.len()) < VERDICTS;
        if well_formed {
            entry.dns = true;
            if entry.condemned && room {
                entry.condemned = false;
                self.verdicts.push((socket, Verdict::Dns));
            }
        } else if !entry.dns {
            entry.strange = entry.strange.saturating_add(1);
            if entry.strange >= PATIENCE && !entry.condemned && room {
                entry.condemned = true;
                self.given_up.push(socket);
                self.verdicts.push((socket, Verdict::NotDns));
            }
        }
        entry.dns
    }

    pub(super) fn count(&self, counts: &mut SocketCounts) {
        for socket in self.table.values() {
            *match socket {
                Socket { dns: true, .. } => &mut counts.udp_dns,
                Socket {
                    condemned: true, ..
                } => &mut counts.udp_not_dns,
                _ => &mut counts.udp_unknown,
            } += 1;
        }
    }

    pub(super) fn take_verdicts(&mut self) -> impl Iterator<Item = (u64, Verdict)> + '_ {
        self.verdicts.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_without_dns_is_condemned_once_and_pardoned_when_it_shows_some() {
        let mut sockets = Sockets::new(4);
        for _ in 0..20 {
            assert!(!sockets.accept(1, false));
        }
        assert_eq!(
            sockets.take_verdicts().collect::<Vec<_>>(),
            [(1, Verdict::NotDns)]
        );
        assert!(sockets.accept(1, true));
        assert!(sockets.accept(1, false));
        assert_eq!(
            sockets.take_verdicts().collect::<Vec<_>>(),
            [(1, Verdict::Dns)]
        );
    }

    #[test]
    fn a_socket_that_was_given_up_is_judged_anew_a_minute_later() {
        let mut sockets = Sockets::new(4);
        sockets.tick(GIVEN_UP_NS);
        for _ in 0..20 {
            sockets.accept(1, false);
        }
        sockets.tick(2 * GIVEN_UP_NS - 1);
        assert_eq!(
            sockets.take_verdicts().collect::<Vec<_>>(),
            [(1, Verdict::NotDns)]
        );
        sockets.tick(2 * GIVEN_UP_NS);
        assert_eq!(
            sockets.take_verdicts().collect::<Vec<_>>(),
            [(1, Verdict::Dns)]
        );
        for _ in 0..7 {
            assert!(!sockets.accept(1, false));
        }
        assert!(sockets.accept(1, true), "it carries DNS after all");
        sockets.tick(3 * GIVEN_UP_NS);
        assert_eq!(sockets.take_verdicts().count(), 0);
    }

    #[test]
    fn seven_strange_datagrams_are_not_enough() {
        let mut sockets = Sockets::new(4);
        for _ in 0..7 {
            sockets.accept(1, false);
        }
        assert!(sockets.accept(1, true));
        for _ in 0..20 {
            assert!(sockets.accept(1, false));
        }
        assert_eq!(sockets.take_verdicts().count(), 0);
    }
}
