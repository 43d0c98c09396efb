//! Writes dnstap messages from borrowed parts, without building a [`Dnstap`](crate::Dnstap) first.
//!
//! The hot path of a tap already has every part of a message in some buffer; owned protobuf types would copy and
//! allocate for each of them. [`DnstapRef`] writes the same bytes that prost writes for the same values (fields in the
//! order of their numbers). It writes into a buffer that the caller reuses, and reserves memory once per message.
//!
//! It supports the fields that a tap can observe. For `policy` and `http_protocol` use prost
//! ([`Dnstap::encode`](prost::Message::encode)).

use std::time::{SystemTime, SystemTimeError};

use prost::encoding::{WireType, encode_varint, encoded_len_varint};

use crate::{SocketFamily, SocketProtocol, dnstap, message};

/// A point in time: seconds and nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: u64,
    /// Nanoseconds within the second, below 1,000,000,000. The value is encoded as it is and not normalised.
    pub nanoseconds: u32,
}

/// Fails for times before 1970.
///
/// ```
/// use std::time::SystemTime;
///
/// use dnstap_proto::Timestamp;
///
/// let now: Timestamp = SystemTime::now().try_into()?;
/// assert!(now.seconds > 1_700_000_000 && now.nanoseconds < 1_000_000_000);
/// # Ok::<(), std::time::SystemTimeError>(())
/// ```
impl TryFrom<SystemTime> for Timestamp {
    type Error = SystemTimeError;

    fn try_from(time: SystemTime) -> Result<Self, SystemTimeError> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(Self {
            seconds: since.as_secs(),
            nanoseconds: since.subsec_nanos(),
        })
    }
}

/// [`Message`](crate::Message) with borrowed parts; `None` leaves the field out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRef<'a> {
    /// Type of the message: between which roles it passes, and whether it is a query or a response.
    pub r#type: message::Type,
    /// Family of both addresses.
    pub socket_family: Option<SocketFamily>,
    /// Transport of the message.
    pub socket_protocol: Option<SocketProtocol>,
    /// Address of the side that sends the query, in network byte order: 4 or 16 bytes.
    pub query_address: Option<&'a [u8]>,
    /// Address of the side that sends the response, in network byte order: 4 or 16 bytes.
    pub response_address: Option<&'a [u8]>,
    /// Port of the side that sends the query.
    pub query_port: Option<u16>,
    /// Port of the side that sends the response.
    pub response_port: Option<u16>,
    /// Time when the query was sent or received.
    pub query_time: Option<Timestamp>,
    /// The query in wire format (RFC 1035 section 4.1), without the length prefix of TCP.
    pub query_message: Option<&'a [u8]>,
    /// Zone of the server that gets the query: a name in uncompressed wire format (RFC 1035 section 3.1).
    pub query_zone: Option<&'a [u8]>,
    /// Time when the response was sent or received.
    pub response_time: Option<Timestamp>,
    /// The response in wire format (RFC 1035 section 4.1), without the length prefix of TCP.
    pub response_message: Option<&'a [u8]>,
}

impl MessageRef<'_> {
    /// Makes a message of this type without any other field.
    #[must_use]
    pub const fn new(r#type: message::Type) -> Self {
        Self {
            r#type,
            socket_family: None,
            socket_protocol: None,
            query_address: None,
            response_address: None,
            query_port: None,
            response_port: None,
            query_time: None,
            query_message: None,
            query_zone: None,
            response_time: None,
            response_message: None,
        }
    }

    #[inline]
    fn encoded_len(&self) -> usize {
        // Every value of the three enums is below 128, so each takes one byte for the key and one for the value.
        2 + self.socket_family.map_or(0, |_| 2)
            + self.socket_protocol.map_or(0, |_| 2)
            + bytes_len(self.query_address)
            + bytes_len(self.response_address)
            + port_len(self.query_port)
            + port_len(self.response_port)
            + time_len(self.query_time)
            + bytes_len(self.query_message)
            + bytes_len(self.query_zone)
            + time_len(self.response_time)
            + bytes_len(self.response_message)
    }

    #[inline]
    fn write(&self, room: &mut Room<'_>) {
        room.array([const { varint_key(1) }, self.r#type as u8]);
        if let Some(family) = self.socket_family {
            room.array([const { varint_key(2) }, family as u8]);
        }
        if let Some(protocol) = self.socket_protocol {
            room.array([const { varint_key(3) }, protocol as u8]);
        }
        room.bytes::<4>(self.query_address);
        room.bytes::<5>(self.response_address);
        room.port::<6>(self.query_port);
        room.port::<7>(self.response_port);
        room.time::<8>(self.query_time);
        room.bytes::<10>(self.query_message);
        room.bytes::<11>(self.query_zone);
        room.time::<12>(self.response_time);
        room.bytes::<14>(self.response_message);
    }
}

/// [`Dnstap`](crate::Dnstap) with borrowed parts; `None` leaves the field out. Its type is always `MESSAGE`.
///
/// ```
/// use dnstap_proto::{Dnstap, DnstapRef, MessageRef, message};
/// use prost::Message as _;
///
/// let mut message = MessageRef::new(message::Type::ClientQuery);
/// message.query_port = Some(53_000);
/// let dnstap = DnstapRef { identity: Some(b"ns1"), version: None, extra: None, message };
///
/// let mut payload = Vec::new();
/// dnstap.encode(&mut payload);
///
/// let read = Dnstap::decode(&payload[..])?;
/// assert_eq!(read.identity(), b"ns1");
/// assert_eq!(read.message.unwrap_or_default().query_port(), 53_000);
/// # Ok::<(), prost::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnstapRef<'a> {
    /// Name of the recording server.
    pub identity: Option<&'a [u8]>,
    /// Software and version of the recording server.
    pub version: Option<&'a [u8]>,
    /// Any additional data.
    pub extra: Option<&'a [u8]>,
    /// The payload.
    pub message: MessageRef<'a>,
}

impl<'a> DnstapRef<'a> {
    /// Makes a dnstap message without identity, version and extra.
    #[must_use]
    pub const fn new(message: MessageRef<'a>) -> Self {
        Self {
            identity: None,
            version: None,
            extra: None,
            message,
        }
    }
}

impl DnstapRef<'_> {
    /// Returns the number of bytes that [`encode`](Self::encode) appends.
    #[must_use]
    #[inline]
    pub fn encoded_len(&self) -> usize {
        self.len_around(self.message.encoded_len())
    }

    /// Appends the protobuf encoding to `out`, which grows at most once.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let message_len = self.message.encoded_len();
        let mut room = Room::at_end(out, self.len_around(message_len));
        self.write(message_len, &mut room);
    }

    /// Returns the protobuf encoding without a frame: the payload of one data frame, as
    /// [`Writer::write_frame`](crate::frame_streams::Writer::write_frame) takes it. Allocates once; callers that reuse
    /// a buffer use [`append_frame`](Self::append_frame).
    #[must_use]
    pub fn encode_to_vec(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        self.encode(&mut payload);
        payload
    }

    /// Appends a Frame Streams data frame to `out`, which grows at most once: the payload's length as four bytes,
    /// big-endian, then the payload as [`encode`](Self::encode) writes it.
    ///
    /// # Panics
    ///
    /// If the payload is longer than the length field of a frame can express (4 GiB).
    #[inline]
    pub fn append_frame(&self, out: &mut Vec<u8>) {
        let message_len = self.message.encoded_len();
        let payload_len = self.len_around(message_len);
        let frame_len = u32::try_from(payload_len).expect("a dnstap payload is below 4 GiB");
        let mut room = Room::at_end(out, 4 + payload_len);
        room.array(frame_len.to_be_bytes());
        self.write(message_len, &mut room);
    }

    #[inline]
    fn len_around(&self, message_len: usize) -> usize {
        bytes_len(self.identity)
            + bytes_len(self.version)
            + bytes_len(self.extra)
            + delimited_len(message_len)
            + 2
    }

    #[inline]
    fn write(&self, message_len: usize, room: &mut Room<'_>) {
        room.bytes::<1>(self.identity);
        room.bytes::<2>(self.version);
        room.bytes::<3>(self.extra);
        room.array([const { bytes_key(14) }]);
        room.varint(message_len as u64);
        self.message.write(room);
        room.array([const { varint_key(15) }, dnstap::Type::Message as u8]);
        debug_assert!(room.0.is_empty(), "the length was computed too large");
    }
}

/// Returns the key of a field, always evaluated at compile time. All fields written here have numbers up to 15, so a
/// key is one byte.
const fn key(field: u8, wire_type: WireType) -> u8 {
    assert!(field < 16);
    field << 3 | wire_type as u8
}

const fn varint_key(field: u8) -> u8 {
    key(field, WireType::Varint)
}

const fn bytes_key(field: u8) -> u8 {
    key(field, WireType::LengthDelimited)
}

#[inline]
const fn delimited_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

#[inline]
fn bytes_len(value: Option<&[u8]>) -> usize {
    value.map_or(0, |bytes| delimited_len(bytes.len()))
}

#[inline]
fn port_len(value: Option<u16>) -> usize {
    value.map_or(0, |port| 1 + encoded_len_varint(u64::from(port)))
}

/// Returns the length of a time: seconds as a varint, then nanoseconds as a fixed32, each with its key.
#[inline]
fn time_len(value: Option<Timestamp>) -> usize {
    value.map_or(0, |time| 1 + encoded_len_varint(time.seconds) + 1 + 4)
}

/// The unused rest of the memory reserved for a message. Writing into reserved memory costs half of pushing onto a
/// `Vec`, which checks its capacity for each byte.
struct Room<'a>(&'a mut [u8]);

impl<'a> Room<'a> {
    #[inline]
    fn at_end(out: &'a mut Vec<u8>, len: usize) -> Self {
        let end = out.len();
        out.resize(end + len, 0);
        Self(&mut out[end..])
    }

    #[inline]
    fn array<const N: usize>(&mut self, bytes: [u8; N]) {
        self.slice(&bytes);
    }

    #[inline]
    fn slice(&mut self, bytes: &[u8]) {
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.0 = tail;
    }

    /// Writes a varint. Lengths and ports below 128 are one byte; the loop is for larger ones.
    #[inline]
    fn varint(&mut self, value: u64) {
        match u8::try_from(value) {
            Ok(byte @ 0..0x80) => self.array([byte]),
            _ => encode_varint(value, &mut self.0),
        }
    }

    #[inline]
    fn bytes<const FIELD: u8>(&mut self, value: Option<&[u8]>) {
        let Some(bytes) = value else { return };
        self.array([const { bytes_key(FIELD) }]);
        self.varint(bytes.len() as u64);
        // Addresses are copied as arrays of fixed size, without a function call.
        if let Ok(inet) = <[u8; 4]>::try_from(bytes) {
            self.array(inet);
        } else if let Ok(inet6) = <[u8; 16]>::try_from(bytes) {
            self.array(inet6);
        } else {
            self.slice(bytes);
        }
    }

    #[inline]
    fn port<const FIELD: u8>(&mut self, value: Option<u16>) {
        if let Some(port) = value {
            self.array([const { varint_key(FIELD) }]);
            self.varint(u64::from(port));
        }
    }

    /// Writes a time: seconds in `FIELD`, nanoseconds in the field after it.
    #[inline]
    fn time<const FIELD: u8>(&mut self, value: Option<Timestamp>) {
        if let Some(time) = value {
            self.array([const { varint_key(FIELD) }]);
            self.varint(time.seconds);
            self.array([const { key(FIELD + 1, WireType::ThirtyTwoBit) }]);
            self.array(time.nanoseconds.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use prost::Message as _;

    use super::*;
    use crate::{Dnstap, Message};

    proptest! {
        #[test]
        fn the_encoding_is_the_one_of_prost((parts, r#type, family, protocol) in (parts(), 1..=14, option::of(1..=2), option::of(1..=7))) {
            let message = MessageRef {
                r#type: message::Type::try_from(r#type).unwrap(),
                socket_family: family.map(|family| SocketFamily::try_from(family).unwrap()),
                socket_protocol: protocol.map(|protocol| SocketProtocol::try_from(protocol).unwrap()),
                query_address: parts.bytes[0].as_deref(),
                response_address: parts.bytes[1].as_deref(),
                query_port: parts.ports[0],
                response_port: parts.ports[1],
                query_time: parts.times[0],
                query_message: parts.bytes[2].as_deref(),
                query_zone: parts.bytes[3].as_deref(),
                response_time: parts.times[1],
                response_message: parts.bytes[4].as_deref(),
            };
            let dnstap = DnstapRef {
                identity: parts.bytes[5].as_deref(),
                version: parts.bytes[6].as_deref(),
                extra: parts.bytes[7].as_deref(),
                message,
            };
            let owned = owned(&dnstap);

            let mut payload = Vec::new();
            dnstap.encode(&mut payload);
            prop_assert_eq!(&payload, &owned.encode_to_vec());
            prop_assert_eq!(payload.len(), dnstap.encoded_len());
            prop_assert_eq!(Dnstap::decode(&payload[..]).unwrap(), owned);

            let mut frames = b"before".to_vec();
            dnstap.append_frame(&mut frames);
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            prop_assert_eq!(frames, [&b"before"[..], &length, &payload].concat());
        }
    }

    #[test]
    fn a_reused_buffer_with_room_is_not_reallocated() {
        let mut message = MessageRef::new(message::Type::AuthResponse);
        message.response_message = Some(&[7; 512]);
        let dnstap = DnstapRef {
            identity: None,
            version: None,
            extra: None,
            message,
        };
        let mut out = Vec::with_capacity(4 + dnstap.encoded_len());
        let before = out.as_ptr();
        dnstap.append_frame(&mut out);
        assert_eq!(out.as_ptr(), before);
        assert_eq!(out.len(), out.capacity());
    }

    #[derive(Debug)]
    struct Parts {
        bytes: Vec<Option<Vec<u8>>>,
        ports: [Option<u16>; 2],
        times: [Option<Timestamp>; 2],
    }

    /// Generates lengths around the borders of one, two and three bytes of varint, any port, any time.
    fn parts() -> impl Strategy<Value = Parts> {
        let length = prop_oneof![0..40_usize, 126..130_usize, 16_382..16_386_usize];
        let bytes = option::of(length.prop_flat_map(|length| vec(any::<u8>(), length)));
        let seconds = prop_oneof![any::<u64>(), 0..300_u64, Just(1_700_000_000)];
        let time = option::of((seconds, any::<u32>())).prop_map(|time| {
            time.map(|(seconds, nanoseconds)| Timestamp {
                seconds,
                nanoseconds,
            })
        });
        let port = option::of(prop_oneof![any::<u16>(), 0..200_u16, 16_380..16_390_u16]);
        (vec(bytes, 8), [port.clone(), port], [time.clone(), time]).prop_map(
            |(bytes, ports, times)| Parts {
                bytes,
                ports,
                times,
            },
        )
    }

    fn owned(dnstap: &DnstapRef<'_>) -> Dnstap {
        let bytes = |part: Option<&[u8]>| part.map(bytes::Bytes::copy_from_slice);
        let message = &dnstap.message;
        Dnstap {
            identity: bytes(dnstap.identity),
            version: bytes(dnstap.version),
            extra: bytes(dnstap.extra),
            message: Some(Message {
                r#type: message.r#type.into(),
                socket_family: message.socket_family.map(Into::into),
                socket_protocol: message.socket_protocol.map(Into::into),
                query_address: bytes(message.query_address),
                response_address: bytes(message.response_address),
                query_port: message.query_port.map(Into::into),
                response_port: message.response_port.map(Into::into),
                query_time_sec: message.query_time.map(|time| time.seconds),
                query_time_nsec: message.query_time.map(|time| time.nanoseconds),
                query_message: bytes(message.query_message),
                query_zone: bytes(message.query_zone),
                response_time_sec: message.response_time.map(|time| time.seconds),
                response_time_nsec: message.response_time.map(|time| time.nanoseconds),
                response_message: bytes(message.response_message),
                policy: None,
                http_protocol: None,
            }),
            r#type: dnstap::Type::Message.into(),
        }
    }
}
