//! Encodes a message and its context as a dnstap frame.
//!
//! This module decides which dnstap fields are set. `query_address` is always the initiator's and
//! `response_address` the responder's, whichever of them is the tapped process. An unknown address
//! or port is left out. A response has the time of its query if that is known. If a PROXY header
//! names the client's ends, these are used.
//!
//! Every message of a tap passes here, so the code is written for few instructions: identity and
//! version are encoded once, each second is encoded once, and a short field is stored at a fixed
//! width. The bytes are those of [`dnstap_proto::DnstapRef`], and the tests compare them.

mod extra;
mod field;

use dnstap_proto::{HttpProtocol, SocketFamily, dnstap};

pub use self::extra::{Extra, ExtraField};
use self::field::{Field, Memory, Room, Second};
use crate::model::{Envelope, Family, Finding, Protocol, Role};

/// Bytes of the frame's length, big-endian.
const LENGTH: usize = 4;

/// End of a frame: the type of the `Dnstap`, which is a message.
const END: [u8; 2] = [field::varint_key(15), dnstap::Type::Message as u8];

/// Field `http_protocol` (16, so its key takes two bytes): HTTP/2.
const HTTP2: [u8; 3] = [0x80, 0x01, HttpProtocol::Http2 as u8];

/// Encoder for the frames of one server.
#[derive(Debug)]
pub struct Encoder {
    /// Start of each frame: its length, identity and version.
    start: Vec<u8>,
    /// Buffer for the bytes in front of the DNS message.
    memory: Memory,
    second: Second,
}

impl Encoder {
    /// Creates an encoder for a server named `identity` that runs `version`; an empty value is left
    /// out.
    #[must_use]
    pub fn new(identity: &[u8], version: &[u8]) -> Self {
        let mut start = vec![0; LENGTH];
        append_bytes(1, identity, &mut start);
        append_bytes(2, version, &mut start);
        Self {
            start,
            memory: Room::EMPTY,
            second: Second::default(),
        }
    }

    /// Appends a message as a Frame Streams data frame; an empty `extra` is left out.
    ///
    /// # Panics
    ///
    /// Panics if the frame is longer than its length field allows (4 GiB).
    #[inline]
    pub fn append(
        &mut self,
        extra: &[u8],
        envelope: &Envelope,
        finding: &Finding,
        message: &[u8],
        out: &mut Vec<u8>,
    ) {
        if envelope.protocol == Protocol::Doh {
            return self.append_slowly(extra, envelope, finding, (&[], message), out);
        }
        let Self {
            start,
            memory,
            second,
        } = self;
        let mut room = Room::new(memory);
        put_context(&mut room, envelope, finding, second);
        let content = if finding.response {
            if let Some(time) = finding.response_time_ns {
                room.put_time(12, time, second);
            }
            14
        } else {
            10
        };
        room.put(Field::length(content, message.len()));
        let head = room.behind_length(14, message.len());
        begin(start, extra, head.len() + message.len(), out);
        out.extend_from_slice(head);
        out.extend_from_slice(message);
        out.extend_from_slice(&END);
    }

    /// Appends a message like [`Self::append`], with its `zone` (`query_zone`), a name in wire
    /// format. An empty zone is left out.
    ///
    /// # Panics
    ///
    /// Panics if the frame is longer than its length field allows (4 GiB).
    pub fn append_with_zone(
        &mut self,
        extra: &[u8],
        envelope: &Envelope,
        finding: &Finding,
        (zone, message): (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) {
        if zone.is_empty() {
            return self.append(extra, envelope, finding, message, out);
        }
        self.append_slowly(extra, envelope, finding, (zone, message), out);
    }

    /// Appends a message that has a zone or an `http_protocol`.
    fn append_slowly(
        &mut self,
        extra: &[u8],
        envelope: &Envelope,
        finding: &Finding,
        (zone, message): (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) {
        let http: &[u8] = match envelope.protocol {
            Protocol::Doh => &HTTP2,
            _ => &[],
        };
        let Self {
            start,
            memory,
            second,
        } = self;
        let mut room = Room::new(memory);
        put_context(&mut room, envelope, finding, second);
        // Fields are in the order of their numbers. The zone (11) is between a query (10) and a
        // response (14) with its time (12).
        let mut behind = Room::EMPTY;
        let mut behind = Room::new(&mut behind);
        if finding.response {
            if let Some(time) = finding.response_time_ns {
                behind.put_time(12, time, second);
            }
            behind.put(Field::length(14, message.len()));
        } else {
            room.put(Field::length(10, message.len()));
        }
        let behind = behind.bytes();
        let zone_len = match zone.len() {
            0 => 0,
            len => Field::length(11, len).len + len,
        };
        let more = zone_len + behind.len() + message.len() + http.len();
        let head = room.behind_length(14, more);
        begin(start, extra, head.len() + more, out);
        out.extend_from_slice(head);
        if !finding.response {
            out.extend_from_slice(message);
        }
        append_bytes(11, zone, out);
        if finding.response {
            out.extend_from_slice(behind);
            out.extend_from_slice(message);
        }
        out.extend_from_slice(http);
        out.extend_from_slice(&END);
    }
}

/// Writes the fields that queries and responses have in common: type, ends, and time of the query.
#[expect(
    clippy::inline_always,
    reason = "every message passes here; a call costs more than what it does"
)]
#[inline(always)]
fn put_context(room: &mut Room<'_>, envelope: &Envelope, finding: &Finding, second: &mut Second) {
    let (family, local, peer) = match &envelope.proxied {
        Some(ends) => (ends.family, &ends.local, &ends.peer),
        None => (envelope.family, &envelope.local, &envelope.peer),
    };
    let (initiator, responder) = match finding.role {
        Role::Responder => (peer, local),
        Role::Initiator => (local, peer),
    };
    let family = match family {
        Family::Inet => SocketFamily::Inet,
        Family::Inet6 => SocketFamily::Inet6,
    };
    let protocol = envelope.protocol.in_dnstap();
    let kind = finding.number();
    room.put(Field::enums([kind, family as u8, protocol as u8]));
    room.put_address(4, initiator);
    room.put_address(5, responder);
    room.put(Field::port(6, initiator.port));
    room.put(Field::port(7, responder.port));
    if let Some(time) = finding.query_time_ns {
        room.put_time(8, time, second);
    }
}

/// Begins a frame: writes its length, identity, version and `extra`. `more`: number of bytes that
/// follow, without [`END`].
#[expect(
    clippy::inline_always,
    reason = "every message passes here; a call costs more than what it does"
)]
#[inline(always)]
fn begin(start: &mut [u8], extra: &[u8], more: usize, out: &mut Vec<u8>) {
    let rest = extra_len(extra) + more + END.len();
    let length = u32::try_from(start.len() - LENGTH + rest);
    let length = length.expect("a dnstap payload is below 4 GiB");
    if let Some(place) = start.first_chunk_mut() {
        *place = length.to_be_bytes();
    }
    out.reserve(start.len() + rest);
    out.extend_from_slice(start);
    append_bytes(3, extra, out);
}

/// Appends a byte string as a field, unless it is empty.
fn append_bytes(number: u8, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        let field = Field::length(number, value.len());
        out.extend_from_slice(&field.bytes.to_le_bytes()[..field.len]);
        out.extend_from_slice(value);
    }
}

/// Returns the number of bytes that [`append_bytes`] appends for `extra`.
fn extra_len(extra: &[u8]) -> usize {
    match extra.len() {
        0 => 0,
        len => Field::length(3, len).len + len,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use dnstap_proto::{Dnstap, DnstapRef, MessageRef, SocketProtocol, Timestamp};
    use proptest::{collection::vec, option, prelude::*};
    use prost::Message as _;

    use super::*;
    use crate::model::{Direction, Endpoint, Kind, Origin, Proxied};

    /// Encodes the frame with the format's own crate.
    fn reference(
        [identity, version, extra]: [&[u8]; 3],
        envelope: &Envelope,
        finding: &Finding,
        (zone, message): (&[u8], &[u8]),
    ) -> Vec<u8> {
        let (family, local, peer) = envelope
            .proxied
            .map_or((envelope.family, envelope.local, envelope.peer), |ends| {
                (ends.family, ends.local, ends.peer)
            });
        let (initiator, responder) = match finding.role {
            Role::Responder => (peer, local),
            Role::Initiator => (local, peer),
        };
        let present = |field: &'_ [u8]| (!field.is_empty()).then(|| field.to_vec());
        let port = |port: u16| (port != 0).then_some(port);
        let time = |time: u64| Timestamp {
            seconds: time / 1_000_000_000,
            nanoseconds: u32::try_from(time % 1_000_000_000).unwrap(),
        };
        let fields = [identity, version, extra].map(present);
        let mut frame = Vec::new();
        DnstapRef {
            identity: fields[0].as_deref(),
            version: fields[1].as_deref(),
            extra: fields[2].as_deref(),
            message: MessageRef {
                socket_family: Some(match family {
                    Family::Inet => SocketFamily::Inet,
                    Family::Inet6 => SocketFamily::Inet6,
                }),
                socket_protocol: Some(match envelope.protocol {
                    Protocol::Udp => SocketProtocol::Udp,
                    Protocol::Tcp => SocketProtocol::Tcp,
                    Protocol::Dot => SocketProtocol::Dot,
                    Protocol::Doh => SocketProtocol::Doh,
                }),
                query_address: initiator.address(),
                response_address: responder.address(),
                query_port: port(initiator.port),
                response_port: port(responder.port),
                query_time: finding.query_time_ns.map(time),
                query_message: (!finding.response).then_some(message),
                query_zone: (!zone.is_empty()).then_some(zone),
                response_time: finding.response_time_ns.map(time),
                response_message: finding.response.then_some(message),
                ..MessageRef::new(finding.kind.message_type(finding.response))
            },
        }
        .append_frame(&mut frame);
        if envelope.protocol == Protocol::Doh {
            return with_http(&frame);
        }
        frame
    }

    /// Adds `http_protocol` to a frame, which `DnstapRef` does not have.
    fn with_http(frame: &[u8]) -> Vec<u8> {
        let mut dnstap = Dnstap::decode(&frame[4..]).unwrap();
        let message = dnstap.message.as_mut().unwrap();
        message.http_protocol = Some(HttpProtocol::Http2 as i32);
        let bytes = dnstap.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], &bytes].concat()
    }

    /// Lengths around those at which a varint gets one more byte.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![0..150_usize, 16_200..16_400_usize, 65_400..65_536_usize];
        length.prop_flat_map(|length| vec(any::<u8>(), length))
    }

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let port = prop_oneof![0..200_u16, 16_380..16_390_u16, any::<u16>()];
        let known = (any::<IpAddr>(), port).prop_map(Endpoint::from);
        let unknown = known.clone().prop_map(Endpoint::without_address);
        prop_oneof![known, unknown]
    }

    fn family() -> impl Strategy<Value = Family> {
        prop_oneof![Just(Family::Inet), Just(Family::Inet6)]
    }

    /// Times at the start of 1970, now, a second later, and any.
    fn time() -> impl Strategy<Value = u64> {
        let now = 1_790_000_000_000_000_000..1_790_000_002_000_000_000_u64;
        prop_oneof![0..300_000_000_000_u64, now, any::<u64>()]
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        let ends = || (family(), endpoint(), endpoint());
        let proxied = option::weighted(0.2, ends()).prop_map(|ends| {
            ends.map(|(family, local, peer)| Proxied {
                family,
                local,
                peer,
            })
        });
        let protocol = prop::sample::select(vec![
            Protocol::Udp,
            Protocol::Tcp,
            Protocol::Dot,
            Protocol::Doh,
        ]);
        (ends(), proxied, protocol).prop_map(|((family, local, peer), proxied, protocol)| {
            Envelope {
                ktime_ns: 0,
                socket: 0,
                protocol,
                direction: Direction::Received,
                family,
                local,
                peer,
                origin: Origin::default(),
                proxied,
                unconnected: false,
            }
        })
    }

    fn finding() -> impl Strategy<Value = Finding> {
        let kinds = [
            Kind::Auth,
            Kind::Resolver,
            Kind::Client,
            Kind::Forwarder,
            Kind::Stub,
            Kind::Tool,
            Kind::Update,
        ];
        let times = (option::of(time()), option::of(time()));
        let kind = prop::sample::select(kinds.to_vec());
        (any::<[bool; 2]>(), kind, times).prop_map(|([asks, response], kind, times)| Finding {
            role: if asks {
                Role::Initiator
            } else {
                Role::Responder
            },
            kind,
            response,
            query_time_ns: times.0,
            response_time_ns: times.1.filter(|_| response),
        })
    }

    proptest! {
        #[test]
        fn frames_are_those_of_the_formats_own_crate(
            names in [bytes(), bytes()],
            messages in vec((envelope(), finding(), bytes(), prop_oneof![Just(Vec::new()), bytes()]), 1..4),
        ) {
            let [identity, version] = &names;
            let mut encoder = Encoder::new(identity, version);
            for (envelope, finding, message, extra) in &messages {
                let mut frame = b"before".to_vec();
                encoder.append(extra, envelope, finding, message, &mut frame);
                let expected = reference([identity, version, extra], envelope, finding, (&[], message));
                prop_assert_eq!(&frame[6..], &expected[..]);
                frame.clear();
                let zone = &extra[..extra.len().min(255)];
                encoder.append_with_zone(extra, envelope, finding, (zone, message), &mut frame);
                let expected = reference([identity, version, extra], envelope, finding, (zone, message));
                prop_assert_eq!(frame, expected);
            }
        }
    }
}
