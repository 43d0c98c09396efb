//! Decides whether UDP sockets and ports carry DNS.
//!
//! A local port carries DNS if it is 53, if the configuration says so, or if the process has
//! answered a query on it. So does port 53 of other servers, and an address and port from which an
//! answer to the process's own query has come. A query alone proves nothing, because any host can
//! send one, and the process may ask any server. On such ports every datagram is delivered,
//! malformed or not.
//!
//! On other ports a well-formed message is delivered. A malformed one is delivered only if the
//! process has sent a well-formed one through the same socket. A socket gets the verdict that it
//! carries something else if it shows [`PATIENCE`] datagrams, none of which is DNS. The verdict is
//! temporary, because the datagrams may have come from any host. On an unconnected socket only
//! datagrams that the process itself has sent are counted, so that other hosts cannot affect the
//! verdict. A sent datagram that may be an answer is not counted either: some servers send back
//! what they could not read.
//!
//! Datagrams that are certainly encrypted are never delivered, unless the port carries DNS by
//! number or configuration.

use crate::{
    dns::Message,
    lru::Lru,
    model::{Direction, Envelope, SocketCounts},
};

/// Number of datagrams without DNS after which a socket on an unknown port is given up.
const PATIENCE: u8 = 8;

/// Nanoseconds after which given-up sockets are checked again.
const GIVEN_UP_NS: u64 = 60_000_000_000;

/// Port of encrypted DNS: over TLS (RFC 7858), DTLS (RFC 8094) and QUIC (RFC 9250).
const ENCRYPTED: u16 = 853;

/// Most verdicts that wait to be collected. A socket whose verdict finds no room is judged again
/// later.
const VERDICTS: usize = 65_536;

/// Verdict about a socket, for the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The socket carries DNS after all, or has to be checked again. Only for sockets that were
    /// [`Verdict::NotDns`].
    Dns,
    /// The socket carries something else, so its messages need not be copied any more.
    NotDns,
}

impl Verdict {
    /// Returns the value for [`dnstap_ebpf::SocketState::verdict`].
    #[must_use]
    pub fn to_abi(self) -> u32 {
        match self {
            Self::Dns => dnstap_ebpf::VERDICT_DNS,
            Self::NotDns => dnstap_ebpf::VERDICT_NOT_DNS,
        }
    }
}

/// A set of ports, with one bit per port.
#[derive(Debug)]
struct PortSet(Box<[u64; 1_024]>);

impl PortSet {
    fn new() -> Self {
        Self(Box::new([0; 1_024]))
    }

    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    fn add(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }
}

/// Local ports of a server that carry DNS.
#[derive(Debug)]
pub(super) struct Ports {
    /// Ports by number or configuration.
    given: PortSet,
    /// Ports on which the process has answered a query.
    learned: PortSet,
}

impl Ports {
    /// Starts with port 53 and the `known` ports.
    pub(super) fn new(known: &[u16]) -> Self {
        let mut given = PortSet::new();
        for port in known.iter().copied().chain([53]) {
            if port != ENCRYPTED {
                given.add(port);
            }
        }
        Self {
            given,
            learned: PortSet::new(),
        }
    }

    /// Returns whether one of the two ports carries DNS by number or configuration.
    pub(super) fn are_given(&self, envelope: &Envelope) -> bool {
        self.given.contains(envelope.local.port) || envelope.peer.port == 53
    }

    /// Returns whether the local port carries DNS by number or configuration. The peer's port
    /// proves nothing about what the peer sends, because the peer chooses it.
    pub(super) fn is_given(&self, envelope: &Envelope) -> bool {
        self.given.contains(envelope.local.port)
    }

    /// Returns whether a local port is known for DNS, so that the process expects queries there.
    pub(super) fn contains(&self, port: u16) -> bool {
        self.given.contains(port) || self.learned.contains(port)
    }

    /// Notes that the process has answered a query on a local port.
    pub(super) fn learn(&mut self, port: u16) {
        // On port 853 each datagram may be encrypted or not.
        if port != 0 && port != ENCRYPTED {
            self.learned.add(port);
        }
    }
}

/// Returns whether a datagram that is no well-formed message is encrypted. It is if it is a DTLS
/// record (RFC 9147 section 4, RFC 6347 section 4.1), or a QUIC packet with a long header and a
/// known version (RFC 9000 section 17.2, RFC 9369). On port 853 any QUIC packet counts (the fixed
/// bit). No well-formed message begins like the first two.
pub(super) fn is_encrypted(envelope: &Envelope, datagram: &[u8]) -> bool {
    let any_quic = envelope.local.port == ENCRYPTED || envelope.peer.port == ENCRYPTED;
    match *datagram {
        // Type, version, epoch and sequence number in 8 bytes, length.
        [
            0x14..=0x1a,
            0xfe,
            0xfd | 0xff,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            high,
            low,
            ..,
        ] => any_quic || 13 + usize::from(u16::from_be_bytes([high, low])) <= datagram.len(),
        [0xc0..=0xff, 0, 0, 0, 1, ..]
        | [0xc0..=0xff, 0x6b, 0x33, 0x43, 0xcf, ..]
        | [0xc0..=0xff, 0xff, 0, 0, 0x11..=0x22, ..] => true,
        [0x14..=0x1a, 0xfe, 0xfd | 0xff, ..] => any_quic,
        [first, ..] => any_quic && first & 0x40 != 0,
        [] => false,
    }
}

/// UDP sockets on ports that are not known for DNS.
#[derive(Debug)]
pub(super) struct Sockets {
    table: Lru<Socket>,
    verdicts: Vec<(u64, Verdict)>,
    /// Sockets that are given up, and the kernel time of the last check.
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

    /// Has given-up sockets checked again from time to time. For some of them, the datagrams
    /// without DNS came from other hosts.
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

    /// Returns whether a datagram on an unknown port is DNS; `message` is the result of
    /// [`Message::parse`].
    pub(super) fn accept(&mut self, envelope: &Envelope, message: Option<&Message<'_>>) -> bool {
        let socket = envelope.socket;
        let well_formed = message.is_some_and(|message| message.well_formed);
        let own = envelope.direction == Direction::Sent;
        if self.table.get(socket).is_none() {
            // Datagrams from any host leave no trace.
            if envelope.unconnected && !own {
                return well_formed;
            }
            self.table.insert(socket, Socket::default());
        }
        let Some(entry) = self.table.peek(socket) else {
            return well_formed;
        };
        let room = self.verdicts.len().max(self.given_up.len()) < VERDICTS;
        if well_formed {
            if own || !envelope.unconnected {
                entry.dns = true;
            }
            if entry.condemned && room {
                entry.condemned = false;
                self.verdicts.push((socket, Verdict::Dns));
            }
            return true;
        }
        let counts = if own {
            !message.is_some_and(Message::may_answer)
        } else {
            !envelope.unconnected
        };
        if !entry.dns && counts {
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
    use rstest::rstest;

    use super::*;
    use crate::{dns::fixture::message, record::fixture};

    /// Builds an envelope; `own`: the process sent the datagram.
    fn envelope(unconnected: bool, own: bool, port: u16) -> Envelope {
        let mut header = fixture::header();
        header.local_port = port;
        header.direction = u8::from(own);
        header.flags = u8::from(unconnected);
        fixture::parsed(&fixture::whole(header, b"x")).envelope
    }

    /// Returns whether a datagram is delivered.
    fn show(sockets: &mut Sockets, envelope: &Envelope, datagram: &[u8]) -> bool {
        sockets.accept(envelope, Message::parse(datagram).as_ref())
    }

    fn verdicts(sockets: &mut Sockets) -> Vec<Verdict> {
        sockets
            .take_verdicts()
            .map(|(_, verdict)| verdict)
            .collect()
    }

    const STRANGE: &[u8] = b"no message of DNS, and long enough for a header";

    fn query() -> Vec<u8> {
        message(1, 0x0100, "a", 0)
    }

    #[test]
    fn socket_without_dns_is_condemned_once_and_pardoned_when_it_shows_some() {
        let mut sockets = Sockets::new(4);
        let connected = envelope(false, false, 9_999);
        for _ in 0..20 {
            assert!(!show(&mut sockets, &connected, STRANGE));
        }
        assert_eq!(verdicts(&mut sockets), [Verdict::NotDns]);
        assert!(show(&mut sockets, &connected, &query()));
        assert!(show(&mut sockets, &connected, STRANGE));
        assert_eq!(verdicts(&mut sockets), [Verdict::Dns]);
    }

    #[test]
    fn strangers_do_not_decide_about_a_socket_on_which_the_process_waits() {
        let mut sockets = Sockets::new(4);
        let [received, sent] = [false, true].map(|own| envelope(true, own, 9_999));
        for _ in 0..200 {
            assert!(!show(&mut sockets, &received, STRANGE));
            assert!(show(&mut sockets, &received, &query()));
        }
        assert!(!show(&mut sockets, &received, STRANGE), "not by a query");
        assert!(show(&mut sockets, &sent, &message(1, 0x8180, "a", 0)));
        assert!(show(&mut sockets, &received, STRANGE), "it serves");
        assert_eq!(verdicts(&mut sockets), []);
    }

    #[test]
    fn what_the_process_sends_itself_condemns_its_socket() {
        let mut sockets = Sockets::new(4);
        let sent = envelope(true, true, 9_999);
        for _ in 0..7 {
            assert!(!show(&mut sockets, &sent, STRANGE));
        }
        assert_eq!(verdicts(&mut sockets), []);
        assert!(!show(&mut sockets, &sent, STRANGE));
        assert_eq!(verdicts(&mut sockets), [Verdict::NotDns]);
    }

    /// Servers answer unreadable queries in different ways. Unbound sends the bytes back, with QR
    /// and an error code.
    #[test]
    fn a_server_that_sends_garbage_back_is_not_condemned_for_it() {
        let mut sockets = Sockets::new(4);
        let sent = envelope(true, true, 9_999);
        let mut mirrored = STRANGE.to_vec();
        (mirrored[2], mirrored[3]) = (mirrored[2] | 0x80, mirrored[3] & 0xf0 | 1);
        let unknown_opcode = message(1, 0xf804, "a", 0);
        for _ in 0..50 {
            assert!(!show(&mut sockets, &sent, &mirrored));
            assert!(!show(&mut sockets, &sent, &unknown_opcode));
        }
        assert_eq!(verdicts(&mut sockets), []);
    }

    #[test]
    fn an_upstream_server_cannot_have_the_socket_that_asked_it_given_up() {
        let mut sockets = Sockets::new(4);
        let [received, sent] = [false, true].map(|own| envelope(false, own, 9_999));
        assert!(show(&mut sockets, &sent, &query()));
        for _ in 0..50 {
            assert!(show(&mut sockets, &received, STRANGE));
        }
        assert_eq!(verdicts(&mut sockets), []);
    }

    #[test]
    fn a_socket_that_was_given_up_is_judged_anew_a_minute_later() {
        let mut sockets = Sockets::new(4);
        let connected = envelope(false, false, 9_999);
        sockets.tick(GIVEN_UP_NS);
        for _ in 0..20 {
            show(&mut sockets, &connected, STRANGE);
        }
        sockets.tick(2 * GIVEN_UP_NS - 1);
        assert_eq!(verdicts(&mut sockets), [Verdict::NotDns]);
        sockets.tick(2 * GIVEN_UP_NS);
        assert_eq!(verdicts(&mut sockets), [Verdict::Dns]);
        for _ in 0..7 {
            assert!(!show(&mut sockets, &connected, STRANGE));
        }
        assert!(
            show(&mut sockets, &connected, &query()),
            "it carries DNS after all"
        );
        sockets.tick(3 * GIVEN_UP_NS);
        assert_eq!(verdicts(&mut sockets), []);
    }

    const QUIC: &[u8] = &[0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    const QUIC_2: &[u8] = &[0xd3, 0x6b, 0x33, 0x43, 0xcf, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    const SHORT: &[u8] = &[0x41, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3];
    const DTLS: &[u8] = &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0];
    const CUT: &[u8] = &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0];

    #[rstest]
    #[case::quic(QUIC, [true, true])]
    #[case::second_version(QUIC_2, [true, true])]
    #[case::short_header(SHORT, [true, false])]
    #[case::dtls(DTLS, [true, true])]
    #[case::longer_than_the_datagram(CUT, [true, false])]
    #[case::text(b"\x13 something else", [false, false])]
    fn encryption_is_told_by_its_first_bytes(#[case] datagram: &[u8], #[case] expected: [bool; 2]) {
        let found = [853, 5_300].map(|port| is_encrypted(&envelope(true, false, port), datagram));
        assert_eq!(found, expected);
        assert!(!Message::parse(datagram).is_some_and(|message| message.well_formed));
    }

    #[test]
    fn no_answer_makes_port_853_one_of_plain_dns() {
        let mut ports = Ports::new(&[853, 5_300]);
        ports.learn(853);
        ports.learn(5_301);
        let known = [853, 5_300, 5_301].map(|port| ports.contains(port));
        assert_eq!(known, [false, true, true]);
        let given = [53, 5_300, 5_301].map(|port| ports.are_given(&envelope(true, false, port)));
        assert_eq!(given, [true, true, false]);
    }
}
