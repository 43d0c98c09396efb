//! The header of the PROXY protocol, version 2, which a proxy sends before a connection's bytes or
//! in front of a datagram (section 2.2 of `proxy-protocol.txt`, which comes with `haproxy`). BIND
//! 9.20, Unbound, Knot and dnsdist understand it.
//!
//! ```text
//! signature: 12 bytes | version 2, command | family, transport | length: 2 bytes | addresses, ports | TLVs
//! ```
//!
//! Parsing is strict, because the bytes that follow are taken for DNS and the addresses for the
//! client's: version, command, family and transport must be known, and addresses and TLVs must fill
//! the length to the byte. No DNS message begins with the signature: it would have 3,338 questions.

use std::{net::IpAddr, str::FromStr};

use crate::model::{Direction, Endpoint, Envelope, Family, Net, Proxied};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

/// Version 2, with command LOCAL (the proxy's own connection) or PROXY (a client's connection).
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const COMMANDS: [u8; 2] = [LOCAL, PROXY];

/// Peers whose PROXY headers are believed. From other peers a PROXY header is ordinary bytes: a
/// client could name any address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies(Vec<Net>);

impl Proxies {
    /// Returns whether a PROXY header in a message of this envelope is believed: it comes from one
    /// of these peers, or the process itself sent it.
    pub(crate) fn vouch_for(&self, envelope: &Envelope) -> bool {
        envelope.direction == Direction::Sent || self.have(&envelope.peer)
    }

    /// Returns whether a peer is among them. An unknown peer is not.
    fn have(&self, peer: &Endpoint) -> bool {
        peer.ip()
            .is_some_and(|address| self.0.iter().any(|net| net.contains(address)))
    }
}

/// Loopback, private (RFC 1918, RFC 4193) and link-local (RFC 3927, RFC 4291) addresses, which hosts
/// of other networks do not have.
const PRIVATE: [&str; 8] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1",
    "fc00::/7",
    "fe80::/10",
];

impl Default for Proxies {
    fn default() -> Self {
        let nets = PRIVATE.iter().map(|net| net.parse());
        Self(nets.collect::<Result<_, _>>().expect("constants"))
    }
}

impl FromStr for Proxies {
    type Err = String;

    /// Parses subnets and addresses, separated by commas. `private` stands for those of
    /// [`Proxies::default`]; `none` alone for no peers.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let mut nets = Vec::new();
        for net in text.split(',') {
            match net {
                "private" => nets.extend(Self::default().0),
                net => nets.push(
                    net.parse()
                        .map_err(|error| format!("{error}, and neither `private` nor `none`"))?,
                ),
            }
        }
        Ok(Self(nets))
    }
}

/// Result of looking for a PROXY header at the start of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// There is one, with this length and these ends. A proxy's own connection (LOCAL) has no ends.
    Whole {
        length: usize,
        proxied: Option<Proxied>,
    },
    /// There is none, or it is incomplete.
    Not,
}

/// Returns the number of bytes needed to judge a PROXY header, if `bytes` can be the start of one.
/// Ask again when that many bytes have come.
pub(crate) fn wanted(bytes: &[u8]) -> Option<usize> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes.is_empty() || bytes[..known] != SIGNATURE[..known] {
        return None;
    }
    // Do not wait for bytes that can no longer be a header.
    if let Some(command) = bytes.get(SIGNATURE.len())
        && !COMMANDS.contains(command)
    {
        return None;
    }
    match bytes {
        [_, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, ..] => {
            Some(FIXED + usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => Some(FIXED),
    }
}

/// Returns whether bytes begin with the signature of a PROXY header, as no DNS message does.
#[inline]
pub(crate) fn has_signature(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE)
}

/// Reads the PROXY header at the start of `bytes`.
pub(crate) fn header(bytes: &[u8]) -> ProxyHeader {
    read(bytes).unwrap_or(ProxyHeader::Not)
}

fn read(bytes: &[u8]) -> Option<ProxyHeader> {
    let fixed = bytes.strip_prefix(SIGNATURE)?;
    let (&[command, transport, high, low], rest) = fixed.split_first_chunk::<4>()?;
    let body = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    if !COMMANDS.contains(&command) {
        return None;
    }
    // TCP or UDP over IPv4 or IPv6; unspecified; UNIX sockets.
    let (proxied, tlvs) = match transport {
        0x11 | 0x12 => ends::<4>(body)?,
        0x21 | 0x22 => ends::<16>(body)?,
        0x00 => (None, body),
        0x31 | 0x32 => (None, body.get(216..)?),
        _ => return None,
    };
    // A header with unspecified addresses need not contain valid TLVs: its body is skipped.
    if transport != 0 && !are_tlvs(tlvs) {
        return None;
    }
    Some(ProxyHeader::Whole {
        length: FIXED + body.len(),
        proxied: proxied.filter(|_| command == PROXY),
    })
}

/// Reads source and destination address, then source and destination port.
fn ends<const N: usize>(body: &[u8]) -> Option<(Option<Proxied>, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (&[a, b, c, d], rest) = rest.split_first_chunk::<4>()?;
    let source = IpAddr::from(*source).to_canonical();
    let destination = IpAddr::from(*destination).to_canonical();
    let proxied = Proxied {
        family: if source.is_ipv4() {
            Family::Inet
        } else {
            Family::Inet6
        },
        peer: (source, u16::from_be_bytes([a, b])).into(),
        local: (destination, u16::from_be_bytes([c, d])).into(),
    };
    // If only one end is IPv4-mapped, the pair is dropped: no dnstap message can have both
    // families.
    let both = source.is_ipv4() == destination.is_ipv4();
    Some((both.then_some(proxied), rest))
}

fn are_tlvs(mut bytes: &[u8]) -> bool {
    while let Some(([_, high, low], rest)) = bytes.split_first_chunk::<3>() {
        let Some(after) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else {
            return false;
        };
        bytes = after;
    }
    bytes.is_empty()
}

/// PROXY headers for the tests of this and other stages.
#[cfg(test)]
pub(crate) mod fixture {
    /// Builds a PROXY header with this command, transport and body.
    pub(crate) fn header(command: u8, transport: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = super::SIGNATURE.to_vec();
        bytes.extend_from_slice(&[command, transport]);
        bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Builds the header for a client at 192.0.2.1:4660 that connected to 192.0.2.53:53, with a
    /// TLV.
    pub(crate) fn client() -> Vec<u8> {
        let body = [
            192, 0, 2, 1, 192, 0, 2, 53, 0x12, 0x34, 0, 53, 4, 0, 2, 9, 9,
        ];
        header(0x21, 0x12, &body)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("private", "127.9.9.9", true)]
    #[case("private", "10.255.0.1", true)]
    #[case("private", "::ffff:192.168.3.4", true)]
    #[case("private", "fd00::1", true)]
    #[case("private", "192.0.2.1", false)]
    #[case("private", "2001:db8::1", false)]
    #[case("192.0.2.1,private", "192.0.2.1", true)]
    #[case("192.0.2.1,private", "::1", true)]
    #[case("192.0.2.0/24", "127.0.0.1", false)]
    #[case("0.0.0.0/0,::/0", "2001:db8::1", true)]
    #[case("none", "127.0.0.1", false)]
    fn proxies_are_told_by_their_addresses(
        #[case] proxies: Proxies,
        #[case] peer: IpAddr,
        #[case] trusted: bool,
    ) {
        assert_eq!(proxies.have(&(peer, 1).into()), trusted);
    }

    #[rstest]
    #[case("")]
    #[case("localhost")]
    #[case("private,none")]
    #[case("192.0.2.1/24")]
    fn what_is_no_subnet_is_refused(#[case] text: &str) {
        text.parse::<Proxies>().expect_err(text);
    }

    #[test]
    fn a_peer_that_is_not_known_is_no_proxy() {
        assert!(!Proxies::default().have(&Endpoint::default()));
    }

    #[test]
    fn ends_of_the_client_are_read() {
        let bytes = [fixture::client(), b"rest".to_vec()].concat();
        let client = Proxied {
            family: Family::Inet,
            peer: (IpAddr::from([192, 0, 2, 1]), 0x1234).into(),
            local: (IpAddr::from([192, 0, 2, 53]), 53).into(),
        };
        let expected = ProxyHeader::Whole {
            length: 33,
            proxied: Some(client),
        };
        assert_eq!(header(&bytes), expected);
    }

    #[rstest]
    #[case::speaks_for_itself(0x20, 0x11, 12, true)]
    #[case::unknown_transport(0x21, 0x00, 5, true)]
    #[case::ipv6(0x21, 0x21, 36, true)]
    #[case::unix(0x21, 0x31, 216, true)]
    #[case::version_1(0x11, 0x11, 12, false)]
    #[case::unknown_command(0x22, 0x11, 12, false)]
    #[case::unknown_family(0x21, 0x41, 12, false)]
    #[case::unspecified_transport_of_ipv4(0x21, 0x10, 12, false)]
    #[case::short_addresses(0x21, 0x11, 11, false)]
    #[case::short_ipv6(0x21, 0x21, 35, false)]
    #[case::cut_tlv(0x21, 0x11, 14, false)]
    fn form_is_checked(
        #[case] command: u8,
        #[case] transport: u8,
        #[case] body: usize,
        #[case] expected: bool,
    ) {
        let bytes = fixture::header(command, transport, &vec![0; body]);
        assert_eq!(header(&bytes) != ProxyHeader::Not, expected);
    }

    #[test]
    fn no_part_of_a_proxy_header_is_one_and_each_asks_for_more() {
        let bytes = fixture::client();
        for length in 1..bytes.len() {
            assert_eq!(header(&bytes[..length]), ProxyHeader::Not);
            assert!(wanted(&bytes[..length]).is_some_and(|wanted| wanted > length));
        }
        assert_eq!(wanted(&bytes), Some(bytes.len()));
    }

    proptest! {
        #[test]
        fn one_wrong_byte_of_the_signature_makes_none(at in 0..12usize, change in 1..=255u8) {
            let mut bytes = fixture::client();
            bytes[at] ^= change;
            prop_assert_eq!(header(&bytes), ProxyHeader::Not);
            prop_assert_eq!(wanted(&bytes), None);
        }

        #[test]
        fn any_body_is_judged_without_panic(
            command in 0x1f..0x23u8,
            transport in 0..0x34u8,
            body in proptest::collection::vec(any::<u8>(), 0..260),
            cut in 0..300usize,
        ) {
            let bytes = fixture::header(command, transport, &body);
            let bytes = &bytes[..cut.min(bytes.len())];
            if let ProxyHeader::Whole { length, .. } = header(bytes) {
                prop_assert_eq!(length, bytes.len());
            }
        }
    }
}
