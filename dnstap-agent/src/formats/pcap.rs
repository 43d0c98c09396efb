//! Packets made of dnstap messages, for Wireshark, tshark and others: pcap with nanoseconds, raw
//! IP, and made-up headers.
//!
//! The DNS message, its time, addresses and ports are real. The rest is the minimum that is valid:
//!
//! - A frame with a query and a response becomes packets of both, at their times.
//! - A query goes from the query address to the response address, a response the other way.
//! - UDP: one datagram with a correct checksum. A message too large for a datagram is written as
//!   TCP.
//! - TCP, DNS over TLS and HTTPS (written without encryption): a length in front of the message, in
//!   segments of at most 32 KiB. Sequence numbers continue from message to message of a connection;
//!   there is no handshake.
//! - DNS over QUIC and DNSCrypt over UDP: written as UDP.
//! - An unknown address is `0.0.0.0` or `::`, an unknown port 0.
//!
//! Layouts: `draft-ietf-opsawg-pcap`, RFC 791, RFC 8200, RFC 768, RFC 9293.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dnstap_core::lru::Lru;
use dnstap_proto::{Dnstap, Message, SocketFamily, SocketProtocol};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TransportHeader, UdpHeader};
use foldhash::fast::FixedState;

use crate::formats::render::socket;

/// Nanosecond magic, version 2.4, longest packet 262,144 bytes, link type 101 (`LINKTYPE_RAW`: an IP header comes first).
pub const FILE_HEADER: [u8; 24] = [
    0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 101,
];

/// Longest part of a TCP stream in one packet; far below the limit of an IP packet.
const SEGMENT: usize = 32 * 1024;

/// Largest payload of a UDP datagram over IPv4: 65,535 less the headers of IP and UDP. The larger
/// limit of IPv6 is not needed.
const DATAGRAM: usize = 65_535 - 20 - 8;

/// Connections whose sequence numbers are remembered.
const CONNECTIONS: usize = 65_536;

/// Time to live and hop limit.
const HOPS: u8 = 64;

/// Converts messages to packets, one after the other.
#[derive(Debug)]
pub struct Writer {
    /// Next sequence numbers of both sides; the side with the lower address and port comes first.
    connections: Lru<[u32; 2]>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            connections: Lru::new(CONNECTIONS),
        }
    }
}

/// One side of a packet.
type Side = (IpAddr, u16);

/// Fields of a segment's header besides its ports.
#[derive(Clone, Copy)]
struct Place {
    sequence: u32,
    acknowledged: u32,
    /// Whether the message ends here.
    push: bool,
}

impl Writer {
    /// Appends the packets of a frame's query and response, as far as it has them. Returns false if
    /// it has neither.
    pub fn message(&mut self, dnstap: &Dnstap, out: &mut Vec<u8>) -> bool {
        let Some(message) = &dnstap.message else {
            return false;
        };
        let (asking, answering) = sides(message);
        let query = (&message.query_message, socket::query_time(message));
        let response = (&message.response_message, socket::response_time(message));
        let mut is_shown = false;
        for ((dns, time), from, to) in [(query, asking, answering), (response, answering, asking)] {
            if let Some(dns) = dns
                .as_deref()
                .filter(|dns| u16::try_from(dns.len()).is_ok())
            {
                let time = time.or_else(|| socket::own_time(message));
                self.packets(message, time.unwrap_or_default(), from, to, dns, out);
                is_shown = true;
            }
        }
        is_shown
    }

    /// Appends the packets of one DNS message.
    fn packets(
        &mut self,
        message: &Message,
        time: socket::Time,
        from: Side,
        to: Side,
        dns: &[u8],
        out: &mut Vec<u8>,
    ) {
        let datagram = matches!(
            message.socket_protocol(),
            SocketProtocol::Udp | SocketProtocol::DnsCryptUdp | SocketProtocol::Doq
        );
        if datagram && dns.len() <= DATAGRAM {
            packet(time, from, to, None, dns, out);
        } else {
            self.stream(time, from, to, dns, out);
        }
    }

    /// Appends the segments of a message.
    fn stream(&mut self, time: socket::Time, from: Side, to: Side, dns: &[u8], out: &mut Vec<u8>) {
        let length = u16::try_from(dns.len()).unwrap_or(u16::MAX);
        let data = [&length.to_be_bytes(), dns].concat();
        let (mine, other) = if from <= to { (0, 1) } else { (1, 0) };
        let key = {
            use std::hash::BuildHasher as _;
            FixedState::default().hash_one(if from <= to { (from, to) } else { (to, from) })
        };
        if self.connections.get(key).is_none() {
            // The initial number follows the clock, as in RFC 9293 section 3.4.1. If a connection
            // was removed from the table, its numbers continue higher, never lower.
            let start = time
                .0
                .wrapping_mul(250_000)
                .wrapping_add(u64::from(time.1 / 4000));
            let start = u32::try_from(start & u64::from(u32::MAX)).unwrap_or_default();
            self.connections.insert(key, [start; 2]);
        }
        let Some(next) = self.connections.get(key) else {
            return;
        };
        let mut segments = data.chunks(SEGMENT).peekable();
        while let Some(segment) = segments.next() {
            let place = Place {
                sequence: next[mine],
                acknowledged: next[other],
                push: segments.peek().is_none(),
            };
            next[mine] = next[mine].wrapping_add(u32::try_from(segment.len()).unwrap_or_default());
            packet(time, from, to, Some(place), segment, out);
        }
    }
}

/// Returns the asking and the answering side, both with the same address family.
fn sides(message: &Message) -> (Side, Side) {
    let address = |bytes: &Option<bytes::Bytes>| socket::address(bytes.as_deref());
    let (query, response) = (
        address(&message.query_address),
        address(&message.response_address),
    );
    let v6 = match (query, response) {
        (None, None) => {
            message.socket_family() == SocketFamily::Inet6 && message.socket_family.is_some()
        }
        (query, response) => [query, response]
            .into_iter()
            .flatten()
            .any(|known| known.is_ipv6()),
    };
    let fit = |known: Option<IpAddr>| match known {
        Some(IpAddr::V4(v4)) if v6 => v4.to_ipv6_mapped().into(),
        Some(known) => known,
        None if v6 => Ipv6Addr::UNSPECIFIED.into(),
        None => Ipv4Addr::UNSPECIFIED.into(),
    };
    let port = |port: Option<u32>| port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    (
        (fit(query), port(message.query_port)),
        (fit(response), port(message.response_port)),
    )
}

/// Appends the record of a packet: its header, then a datagram, or a segment if there is a `place`.
fn packet(
    (seconds, nanoseconds): socket::Time,
    from: Side,
    to: Side,
    place: Option<Place>,
    data: &[u8],
    out: &mut Vec<u8>,
) {
    // The 32-bit field lasts until 2106.
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    let start = out.len();
    for field in [seconds, nanoseconds.min(999_999_999), 0, 0] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    let header = out.len();
    if headers(from, to, place, data, out).is_none() {
        out.truncate(start);
        return;
    }
    out.extend_from_slice(data);
    let size = u32::try_from(out.len() - header).unwrap_or(u32::MAX);
    for at in [header - 8, header - 4] {
        out[at..at + 4].copy_from_slice(&size.to_be_bytes());
    }
}

/// Appends the headers of IP and of the transport. Returns `None` if the data is too long for a
/// packet, which [`DATAGRAM`] and [`SEGMENT`] prevent.
fn headers(
    from: Side,
    to: Side,
    place: Option<Place>,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    // etherparse's builder is not used, because it takes half as long again for each packet.
    let (protocol, mut transport) = match place {
        None => {
            let udp = UdpHeader::without_ipv4_checksum(from.1, to.1, data.len()).ok()?;
            (IpNumber::UDP, TransportHeader::Udp(udp))
        }
        Some(place) => {
            let mut tcp = TcpHeader::new(from.1, to.1, place.sequence, u16::MAX);
            tcp.ack = true;
            tcp.acknowledgment_number = place.acknowledged;
            tcp.psh = place.push;
            (IpNumber::TCP, TransportHeader::Tcp(tcp))
        }
    };
    let carried = u16::try_from(transport.header_len() + data.len()).ok()?;
    match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip =
                Ipv4Header::new(carried, HOPS, protocol, from.octets(), to.octets()).ok()?;
            ip.header_checksum = ip.calc_header_checksum();
            transport.update_checksum_ipv4(&ip, data).ok()?;
            out.extend_from_slice(&ip.to_bytes());
        }
        (from, to) => {
            let ip = Ipv6Header {
                payload_length: carried,
                next_header: protocol,
                hop_limit: HOPS,
                source: v6(from).octets(),
                destination: v6(to).octets(),
                ..Ipv6Header::default()
            };
            transport.update_checksum_ipv6(&ip, data).ok()?;
            out.extend_from_slice(&ip.to_bytes());
        }
    }
    match transport {
        TransportHeader::Udp(udp) => out.extend_from_slice(&udp.to_bytes()),
        TransportHeader::Tcp(tcp) => out.extend_from_slice(&tcp.to_bytes()),
        _ => unreachable!("one of both"),
    }
    Some(())
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dnstap_core::model::is_response;
    use dnstap_proto::message::Type;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_over_udp_is_this_packet() {
        let mut out = Vec::new();
        assert!(Writer::default().message(
            &message(SocketProtocol::Udp, 4, Type::ClientQuery, b"dns!"),
            &mut out
        ));
        let expected = [
            &[0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 32, 0, 0, 0, 32][..],
            &[
                0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0xb6, 0x96, 192, 0, 2, 1, 192, 0, 2, 53,
            ],
            &[0x9c, 0x40, 0, 53, 0, 12, 0x0e, 0x60],
            b"dns!",
        ];
        assert_eq!(out[..36], expected[..2].concat(), "record and IP header");
        assert_eq!(out[36..42], expected[2][..6], "ports and length");
        assert_eq!(out[44..], *expected[3]);
        check(&out);
    }

    #[test]
    fn a_response_goes_the_other_way_and_continues_the_connection() {
        let mut writer = Writer::default();
        let mut out = Vec::new();
        for kind in [Type::ClientQuery, Type::ClientResponse, Type::ClientQuery] {
            assert!(writer.message(&message(SocketProtocol::Tcp, 6, kind, &[7; 100]), &mut out));
        }
        let packets = check(&out);
        assert_eq!(packets.len(), 3);
        let numbers: Vec<_> = packets
            .iter()
            .map(|packet| (word(packet, 44), word(packet, 48)))
            .collect();
        let start = numbers[0].0;
        assert_eq!(
            numbers,
            [
                (start, start),
                (start, start + 102),
                (start + 102, start + 102)
            ]
        );
        assert_eq!(
            packets[1][8..24],
            packets[0][24..40],
            "from where the query went"
        );
    }

    #[test]
    fn a_query_and_a_response_in_one_frame_are_two_packets() {
        let mut both = message(SocketProtocol::Udp, 4, Type::AuthResponse, b"response");
        let inner = both.message.as_mut().expect("it has one");
        inner.query_message = Some(Bytes::from_static(b"query"));
        (inner.response_time_sec, inner.response_time_nsec) = (Some(8), Some(6));
        let mut out = Vec::new();
        assert!(Writer::default().message(&both, &mut out));
        let packets = check(&out);
        assert_eq!(
            (&packets[0][28..], &packets[1][28..]),
            (&b"query"[..], &b"response"[..])
        );
        assert_eq!(packets[1][12..16], packets[0][16..20], "the other way");
        let behind = 16 + packets[0].len();
        assert_eq!((word(&out, 0), word(&out, 4)), (7, 5));
        assert_eq!((word(&out, behind), word(&out, behind + 4)), (8, 6));
    }

    #[test]
    fn without_addresses_the_placeholder_is_used_and_without_dns_there_is_no_packet() {
        let mut known = message(SocketProtocol::Udp, 4, Type::AuthQuery, b"dns!");
        let inner = known.message.as_mut().expect("it has one");
        (inner.query_address, inner.query_port) = (None, None);
        let mut out = Vec::new();
        assert!(Writer::default().message(&known, &mut out));
        assert_eq!(check(&out)[0][12..22], [0, 0, 0, 0, 192, 0, 2, 53, 0, 0]);
        let inner = known.message.as_mut().expect("it has one");
        (inner.query_message, inner.response_message) = (None, None);
        out.clear();
        assert!(!Writer::default().message(&known, &mut out));
        assert!(!Writer::default().message(&Dnstap::default(), &mut out));
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn any_message_becomes_valid_packets_with_all_its_bytes(
            size in prop_oneof![0..3000_usize, 65_400..65_536_usize],
            byte in any::<u8>(),
            protocol in 1..=7_i32,
            lengths in (0..18_usize, 0..18_usize),
            response in any::<bool>(),
        ) {
            let kind = if response { Type::AuthResponse } else { Type::AuthQuery };
            let protocol = SocketProtocol::try_from(protocol).expect("known");
            let mut dnstap = message(protocol, 4, kind, &vec![byte; size]);
            let inner = dnstap.message.as_mut().expect("it has one");
            inner.query_address = Some(vec![1; lengths.0].into());
            inner.response_address = Some(vec![2; lengths.1].into());
            let mut out = Vec::new();
            prop_assert!(Writer::default().message(&dnstap, &mut out));
            let carried: usize = check(&out)
                .iter()
                .map(|packet| {
                    let (header, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
                    packet.len() - header - if protocol == 17 { 8 } else { 20 }
                })
                .sum();
            prop_assert!(carried == size || carried == size + 2);
        }
    }

    /// Returns the packets, after checking the lengths and checksums.
    fn check(mut records: &[u8]) -> Vec<&[u8]> {
        let mut packets = Vec::new();
        while !records.is_empty() {
            let size = word(records, 8) as usize;
            assert_eq!(word(records, 12) as usize, size);
            let (record, rest) = records.split_at(16 + size);
            let packet = &record[16..];
            let (pseudo, carried) = if packet[0] >> 4 == 4 {
                assert_eq!(
                    usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                    size
                );
                assert_eq!(sum(&[&packet[..20]]), 0xffff, "IP checksum");
                ([&packet[12..20], &[0, packet[9]]].concat(), &packet[20..])
            } else {
                assert_eq!(
                    usize::from(u16::from_be_bytes([packet[4], packet[5]])),
                    size - 40
                );
                ([&packet[8..40], &[0, packet[6]]].concat(), &packet[40..])
            };
            let length = u32::try_from(carried.len()).expect("small").to_be_bytes();
            assert_eq!(sum(&[&pseudo, &length, carried]), 0xffff, "checksum");
            packets.push(packet);
            records = rest;
        }
        packets
    }

    /// Returns the one's complement sum of 16-bit words: all ones if the checksum is correct (RFC
    /// 1071).
    fn sum(parts: &[&[u8]]) -> u64 {
        let words = parts.iter().flat_map(|part| part.chunks(2));
        let mut sum: u64 = words
            .map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |byte| u64::from(*byte)))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"))
    }

    fn message(protocol: SocketProtocol, version: u8, kind: Type, dns: &[u8]) -> Dnstap {
        let address = |last: u8| match version {
            4 => Bytes::from(vec![192, 0, 2, last]),
            _ => Bytes::from([&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[last]].concat()),
        };
        Dnstap {
            r#type: 1,
            message: Some(Message {
                r#type: kind as i32,
                socket_protocol: Some(protocol as i32),
                query_address: Some(address(1)),
                response_address: Some(address(53)),
                query_port: Some(40_000),
                response_port: Some(53),
                query_time_sec: Some(7),
                query_time_nsec: Some(5),
                query_message: (!is_response(kind)).then(|| Bytes::copy_from_slice(dns)),
                response_message: is_response(kind).then(|| Bytes::copy_from_slice(dns)),
                ..Message::default()
            }),
            ..Dnstap::default()
        }
    }
}
