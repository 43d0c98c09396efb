//! One record of the kernel's ring, decoded.
//!
//! Decodes raw bytes into typed values. The kernel side wrote the record, so decoding is total: any
//! byte string gives a [`Record`] or a [`RecordError`], and nothing is transmuted. Records that the
//! ABI ([`dnstap_ebpf::EventHeader`]) does not allow are refused, so later stages need not check
//! again.
//!
//! `AF_INET6` sockets show IPv4 peers as IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2).
//! These become IPv4 here. Wildcard addresses become "unknown".

pub mod fixture;
mod recent;
mod remark;

pub(crate) use self::recent::Recent;
pub use self::remark::{Remark, prefix_of};

use std::mem::{offset_of, size_of};

use crate::model::{Direction, Endpoint, Envelope, Family, Origin, Protocol};
use dnstap_ebpf::{
    AF_INET, AF_INET6, DIRECTION_RECEIVED, DIRECTION_SENT, EVENT_UNCONNECTED, EVENT_UNSURE,
    EventHeader, IPPROTO_TCP, IPPROTO_UDP, MAX_DNS_MESSAGE, PROTOCOL_DOH, PROTOCOL_DOT, RecordKind,
};

/// Bytes of the header before the payload.
pub const HEADER: usize = size_of::<EventHeader>();

/// Most bytes that one call on a TCP socket may move. A larger distance counts as a jump of the
/// stream. The kernel side gives up calls with too many records, which happens long before.
pub const MAX_PIECE: usize = (1 << 24) - 1;

impl Origin {
    /// Reads the origin of a record of any kind. Returns `None` if the record is too short.
    #[must_use]
    pub fn of_record(record: &[u8]) -> Option<Self> {
        record.first_chunk().map(Self::of)
    }

    fn of(header: &[u8; HEADER]) -> Self {
        Self {
            tgid: u32_at(header, offset_of!(EventHeader, tgid)),
            tid: u32_at(header, offset_of!(EventHeader, tid)),
            hook: header[offset_of!(EventHeader, hook)],
            program_id: u32_at(header, offset_of!(EventHeader, program_id)),
        }
    }
}

/// A record, by its kind ([`RecordKind`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A chunk of the bytes that one socket call transferred.
    Chunk(Chunk<'a>),
    /// The connection of a socket has ended; only the time and the socket are known.
    ConnectionEnd(Envelope),
    /// A whole message.
    Message(Envelope, &'a [u8]),
    /// A whole message over TCP that is encrypted, or that the socket shows, too
    /// ([`EVENT_UNSURE`]).
    Unsure(Envelope, &'a [u8]),
    /// Content of a probe's record that is no message.
    Notice(Envelope, &'a [u8]),
    /// What the server says about a message ([`Remark`]); of the envelope the time, direction, peer, local port and origin are set.
    Remark(Envelope, &'a [u8]),
}

/// One chunk of a message as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Time, socket, addresses, direction.
    pub envelope: Envelope,
    /// Bytes of the whole message (UDP) or of the whole call (TCP).
    pub message_len: u32,
    /// Position of the payload within those bytes.
    pub chunk_offset: u32,
    /// For TCP, sequence number of the first byte of the *payload* (that of the call's first byte,
    /// plus `chunk_offset`).
    pub sequence: u32,
    /// Messages of this socket that the kernel side dropped so far; wraps.
    pub lost: u32,
    /// `EVENT_*` bits ([`EventHeader::flags`]).
    pub flags: u8,
    /// Bytes of each datagram except the last, if one call moved several; otherwise 0.
    pub segment: u16,
    /// Least number of bytes that arrived, including those that found no room; 0 if unknown
    /// ([`EventHeader::arrived_len`]).
    pub arrived_len: u32,
    /// The chunk's bytes.
    pub payload: &'a [u8],
}

/// Violations of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is shorter than the header.
    #[error("record of {0} bytes is shorter than its header of {HEADER} bytes")]
    Short(usize),
    /// The kind is not in [`RecordKind`].
    #[error("record of kind {0}")]
    Kind(u8),
    /// The chunk length points past the record's end.
    #[error("chunk of {chunk} bytes in a record with {held} bytes of payload")]
    Chunk {
        /// Bytes announced.
        chunk: u32,
        /// Bytes present.
        held: usize,
    },
    /// The chunk lies outside its message, is empty without need, or is only a part of a message
    /// that must come in one piece.
    #[error("chunk of {chunk} bytes at {offset} of a message of {message} bytes")]
    Extent {
        /// `chunk_len`.
        chunk: u32,
        /// `chunk_offset`.
        offset: u32,
        /// `message_len`.
        message: u32,
    },
    /// The message is larger than its transport allows.
    #[error("message of {0} bytes")]
    Length(u32),
    /// The family is neither IPv4 nor IPv6.
    #[error("address family {0}")]
    Family(u8),
    /// The protocol is neither UDP nor TCP.
    #[error("protocol {0}")]
    Protocol(u8),
    /// The direction is neither received nor sent.
    #[error("direction {0}")]
    Direction(u8),
}

/// Reads the kernel time of a record without decoding the rest.
#[must_use]
pub fn ktime_ns(record: &[u8]) -> Option<u64> {
    let bytes = record.get(offset_of!(EventHeader, ktime_ns)..)?;
    bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

impl<'a> Record<'a> {
    /// Decodes one record. Bytes after the payload are padding and ignored.
    #[inline]
    pub fn parse(record: &'a [u8]) -> Result<Self, RecordError> {
        let Some((header, rest)) = record.split_first_chunk::<HEADER>() else {
            return Err(RecordError::Short(record.len()));
        };
        let number = header[offset_of!(EventHeader, kind)];
        let kind = RecordKind::of(number).ok_or(RecordError::Kind(number))?;
        let family = header[offset_of!(EventHeader, family)];
        if family != AF_INET && family != AF_INET6 {
            return Err(RecordError::Family(family));
        }
        let protocol = protocol(kind, header[offset_of!(EventHeader, protocol)])?;
        let direction = match header[offset_of!(EventHeader, direction)] {
            DIRECTION_RECEIVED => Direction::Received,
            DIRECTION_SENT => Direction::Sent,
            other => return Err(RecordError::Direction(other)),
        };
        let message = u32_at(header, offset_of!(EventHeader, message_len));
        let offset = u32_at(header, offset_of!(EventHeader, chunk_offset));
        let chunk = u32_at(header, offset_of!(EventHeader, chunk_len));
        let is_piece = (kind, protocol) == (RecordKind::Chunk, Protocol::Tcp);
        let limit = if is_piece { MAX_PIECE } else { MAX_DNS_MESSAGE };
        if message as usize > limit {
            return Err(RecordError::Length(message));
        }
        let outside = RecordError::Extent {
            chunk,
            offset,
            message,
        };
        let inside = offset.checked_add(chunk).is_some_and(|end| end <= message);
        if !inside || (chunk == 0 && (message != 0 || is_piece)) {
            return Err(outside);
        }
        let Some(payload) = rest.get(..chunk as usize) else {
            return Err(RecordError::Chunk {
                chunk,
                held: rest.len(),
            });
        };

        let endpoint = |address, port| {
            Endpoint::from_abi(
                family,
                field(header, address),
                u16::from_ne_bytes(field(header, port)),
            )
        };
        let peer = endpoint(
            offset_of!(EventHeader, peer_addr),
            offset_of!(EventHeader, peer_port),
        );
        let mut local = endpoint(
            offset_of!(EventHeader, local_addr),
            offset_of!(EventHeader, local_port),
        );
        if peer.length != 0 && local.length != peer.length {
            local = local.without_address();
        }
        let family = match (peer.length.max(local.length), family) {
            (4, _) | (0, AF_INET) => Family::Inet,
            _ => Family::Inet6,
        };
        let flags = header[offset_of!(EventHeader, flags)];
        let chunk = Chunk {
            envelope: Envelope {
                ktime_ns: u64::from_ne_bytes(field(header, offset_of!(EventHeader, ktime_ns))),
                socket: u64::from_ne_bytes(field(header, offset_of!(EventHeader, socket))),
                protocol,
                direction,
                family,
                local,
                peer,
                origin: Origin::of(header),
                proxied: None,
                unconnected: flags & EVENT_UNCONNECTED != 0,
            },
            message_len: message,
            chunk_offset: offset,
            sequence: u32_at(header, offset_of!(EventHeader, tcp_seq)).wrapping_add(offset),
            lost: u32_at(header, offset_of!(EventHeader, lost)),
            flags,
            segment: u16::from_ne_bytes(field(header, offset_of!(EventHeader, segment))),
            arrived_len: u32_at(header, offset_of!(EventHeader, arrived_len)),
            payload,
        };
        match (kind, protocol) {
            (RecordKind::Chunk, _) => Ok(Self::Chunk(chunk)),
            (RecordKind::ConnectionEnd, Protocol::Tcp) if message != 0 => Err(outside),
            (RecordKind::ConnectionEnd, Protocol::Tcp) => Ok(Self::ConnectionEnd(chunk.envelope)),
            (RecordKind::ConnectionEnd, _) => Err(RecordError::Protocol(IPPROTO_UDP)),
            _ if !chunk.is_whole() => Err(outside),
            (RecordKind::Message, Protocol::Tcp) if flags & EVENT_UNSURE != 0 => {
                Ok(Self::Unsure(chunk.envelope, payload))
            }
            (RecordKind::Message, _) => Ok(Self::Message(chunk.envelope, payload)),
            (RecordKind::Notice, _) => Ok(Self::Notice(chunk.envelope, payload)),
            (RecordKind::Remark, _) => Ok(Self::Remark(chunk.envelope, payload)),
        }
    }
}

impl Chunk<'_> {
    /// Returns whether this chunk is the whole message.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.payload.len() == self.message_len as usize
    }

    /// Returns whether this chunk ends the message.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.chunk_offset as usize + self.payload.len() == self.message_len as usize
    }
}

/// Returns the protocol with this number in a record of this kind.
#[inline]
fn protocol(kind: RecordKind, number: u8) -> Result<Protocol, RecordError> {
    Ok(match number {
        IPPROTO_UDP => Protocol::Udp,
        IPPROTO_TCP => Protocol::Tcp,
        PROTOCOL_DOT if kind == RecordKind::Message => Protocol::Dot,
        PROTOCOL_DOH if kind == RecordKind::Message => Protocol::Doh,
        other => return Err(RecordError::Protocol(other)),
    })
}

fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_ne_bytes(field(header, at))
}

fn field<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use std::net::IpAddr;

    use super::{fixture::*, *};

    #[test]
    fn every_field_survives() {
        let mut header = header();
        header.tcp_seq = u32::MAX;
        header.protocol = IPPROTO_TCP;
        header.direction = DIRECTION_SENT;
        header.lost = 3;
        header.message_len = 10;
        header.chunk_offset = 4;
        let mut record = chunk(header, b"abcdef");
        record.extend_from_slice(&[0xee; 7]);
        let event = parsed(&record);
        assert_eq!(event.payload, b"abcdef");
        assert_eq!(
            (event.message_len, event.chunk_offset, event.lost),
            (10, 4, 3)
        );
        assert_eq!(event.sequence, 3);
        assert!(event.is_last() && !event.is_whole());
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(
            event.envelope,
            Envelope {
                ktime_ns: 1_000,
                socket: 7,
                protocol: Protocol::Tcp,
                direction: Direction::Sent,
                family: Family::Inet,
                local: (loopback, 53).into(),
                peer: (loopback, 40_000).into(),
                origin: Origin {
                    tgid: 10,
                    tid: 11,
                    hook: 2,
                    program_id: 0,
                },
                proxied: None,
                unconnected: false,
            }
        );
    }

    #[test]
    fn mapped_addresses_become_ipv4_and_wildcards_unknown() {
        let mut header = header();
        header.family = AF_INET6;
        header.peer_addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        header.local_addr = [0; 16];
        let record = whole(header, b"x");
        let envelope = parsed(&record).envelope;
        assert_eq!(envelope.family, Family::Inet);
        assert_eq!(envelope.peer.address(), Some(&[192, 0, 2, 1][..]));
        assert_eq!((envelope.local.address(), envelope.local.port), (None, 53));
    }

    #[test]
    fn each_kind_is_what_its_number_says_and_no_other_is_guessed() {
        let of_kind = |kind: u8, protocol: u8, payload: &[u8]| {
            let header = EventHeader {
                kind,
                protocol,
                ..header()
            };
            let record = whole(header, payload);
            let name = |record| match record {
                Record::Chunk(chunk) => ("chunk", chunk.payload.len()),
                Record::ConnectionEnd(_) => ("end", 0),
                Record::Message(_, bytes) => ("message", bytes.len()),
                Record::Unsure(_, bytes) => ("unsure", bytes.len()),
                Record::Notice(_, bytes) => ("notice", bytes.len()),
                Record::Remark(_, bytes) => ("remark", bytes.len()),
            };
            Record::parse(&record).map(name)
        };
        let outside = |chunk| {
            Err(RecordError::Extent {
                chunk,
                offset: 0,
                message: chunk,
            })
        };
        let (tcp, udp) = (IPPROTO_TCP, IPPROTO_UDP);
        assert_eq!(of_kind(1, udp, b"x"), Ok(("chunk", 1)));
        assert_eq!(of_kind(1, tcp, b""), outside(0), "no end of a connection");
        assert_eq!(of_kind(2, tcp, b""), Ok(("end", 0)));
        assert_eq!(of_kind(2, tcp, b"x"), outside(1));
        assert_eq!(of_kind(2, udp, b""), Err(RecordError::Protocol(udp)));
        assert_eq!(of_kind(3, tcp, b"xy"), Ok(("message", 2)));
        assert_eq!(
            of_kind(3, tcp, &vec![0; 65_536]),
            Err(RecordError::Length(65_536))
        );
        for encrypted in [PROTOCOL_DOT, PROTOCOL_DOH] {
            assert_eq!(of_kind(3, encrypted, b"xy"), Ok(("message", 2)));
            for kind in [1, 2, 4, 5] {
                let refused = Err(RecordError::Protocol(encrypted));
                assert_eq!(of_kind(kind, encrypted, b"x"), refused, "kind {kind}");
            }
        }
        let unsure = EventHeader {
            kind: RecordKind::Message as u8,
            protocol: tcp,
            flags: EVENT_UNSURE,
            ..header()
        };
        let record = whole(unsure, b"xy");
        assert!(matches!(
            Record::parse(&record),
            Ok(Record::Unsure(_, b"xy"))
        ));
        assert_eq!(of_kind(4, udp, b"xyz"), Ok(("notice", 3)));
        assert_eq!(of_kind(5, udp, b"wxyz"), Ok(("remark", 4)));
        for unknown in [0, 6, u8::MAX] {
            assert_eq!(of_kind(unknown, udp, b"x"), Err(RecordError::Kind(unknown)));
        }
        for kind in [RecordKind::Message, RecordKind::Notice, RecordKind::Remark] {
            let header = EventHeader {
                kind: kind as u8,
                message_len: 2,
                ..header()
            };
            let part = RecordError::Extent {
                chunk: 1,
                offset: 0,
                message: 2,
            };
            assert_eq!(Record::parse(&chunk(header, b"x")), Err(part));
        }
    }

    #[rstest]
    #[case::family(|h: &mut EventHeader| h.family = 1, RecordError::Family(1))]
    #[case::protocol(|h: &mut EventHeader| h.protocol = 132, RecordError::Protocol(132))]
    #[case::direction(|h: &mut EventHeader| h.direction = 2, RecordError::Direction(2))]
    #[case::too_long_for_udp(|h: &mut EventHeader| h.message_len = 65_536, RecordError::Length(65_536))]
    #[case::outside(|h: &mut EventHeader| h.chunk_offset = 1, RecordError::Extent { chunk: 1, offset: 1, message: 1 })]
    #[case::wrapping(
        |h: &mut EventHeader| h.chunk_offset = u32::MAX,
        RecordError::Extent { chunk: 1, offset: u32::MAX, message: 1 }
    )]
    fn what_the_abi_forbids_is_refused(
        #[case] spoil: fn(&mut EventHeader),
        #[case] expected: RecordError,
    ) {
        let mut header = header();
        header.message_len = 1;
        spoil(&mut header);
        assert_eq!(Record::parse(&chunk(header, b"x")), Err(expected));
    }

    #[test]
    fn empty_chunk_is_an_event_only_if_the_datagram_is_empty() {
        assert!(parsed(&whole(header(), b"")).is_whole());
        let header = EventHeader {
            message_len: 1,
            ..header()
        };
        let refused = RecordError::Extent {
            chunk: 0,
            offset: 0,
            message: 1,
        };
        assert_eq!(Record::parse(&chunk(header, b"")), Err(refused));
    }

    #[test]
    fn every_truncation_is_refused() {
        let record = whole(header(), b"payload");
        for length in 0..record.len() {
            assert!(Record::parse(&record[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_event_or_an_error(record in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Record::Chunk(event)) = Record::parse(&record) {
                prop_assert!(event.payload.len() <= record.len() - HEADER);
            }
        }
    }
}
