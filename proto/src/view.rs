//! Reads dnstap messages in place, without building a [`Dnstap`], for programs that look at millions of messages to
//! keep a few.
//!
//! [`View`] has the fields that distinguish messages. It accepts exactly the messages that [`lenient`](crate::lenient)
//! accepts, and reads the same values. All other fields are skipped.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::{Dnstap, Timestamp, message};

/// Parts of a dnstap message, borrowed from its bytes; `None` for missing fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View<'a> {
    /// Name of the recording server ([`Dnstap::identity`]).
    pub identity: Option<&'a [u8]>,
    /// Whether it contains a [`Message`](crate::Message). If not, all fields below are missing.
    pub has_message: bool,
    /// [`message::Type`] as a number; 0 (not a valid type) if it is missing.
    kind: i32,
    /// [`SocketProtocol`](crate::SocketProtocol), as a number.
    pub protocol: Option<i32>,
    /// Address of the side that sends the query.
    pub query_address: Option<&'a [u8]>,
    /// Address of the side that sends the response.
    pub response_address: Option<&'a [u8]>,
    /// Port of the side that sends the query.
    pub query_port: Option<u32>,
    /// Port of the side that sends the response.
    pub response_port: Option<u32>,
    query_time: Time,
    response_time: Time,
    /// The query in wire format.
    pub query_message: Option<&'a [u8]>,
    /// The response in wire format.
    pub response_message: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Time {
    seconds: Option<u64>,
    nanoseconds: u32,
}

impl Time {
    fn get(self) -> Option<Timestamp> {
        self.seconds.map(|seconds| Timestamp {
            seconds,
            nanoseconds: self.nanoseconds,
        })
    }
}

impl<'a> View<'a> {
    /// Reads a frame's payload. Returns `None` if and only if [`lenient::decode`](crate::lenient::decode) fails; that
    /// function tells the reason.
    #[inline]
    #[must_use]
    pub fn parse(mut payload: &'a [u8]) -> Option<Self> {
        let mut view = Self::default();
        while !payload.is_empty() {
            match key(&mut payload)? {
                (1, WireType::LengthDelimited) => view.identity = Some(bytes(&mut payload)?),
                (2 | 3, WireType::LengthDelimited) => {
                    bytes(&mut payload)?;
                }
                (14, WireType::LengthDelimited) => {
                    view.has_message = true;
                    view.message(bytes(&mut payload)?)?;
                }
                (15, WireType::Varint) => {
                    varint(&mut payload)?;
                }
                (field, kind) => skip(&mut payload, field, kind)?,
            }
        }
        Some(view)
    }

    /// Returns the message's type, if there is a message and its type is known.
    #[must_use]
    pub fn kind(&self) -> Option<message::Type> {
        message::Type::try_from(self.kind).ok()
    }

    /// Returns the time when the query was sent or received.
    #[must_use]
    pub fn query_time(&self) -> Option<Timestamp> {
        self.query_time.get()
    }

    /// Returns the time when the response was sent or received.
    #[must_use]
    pub fn response_time(&self) -> Option<Timestamp> {
        self.response_time.get()
    }

    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "protobuf cuts numbers to the width of their field"
    )]
    fn message(&mut self, mut message: &'a [u8]) -> Option<()> {
        let rest = &mut message;
        while !rest.is_empty() {
            match key(rest)? {
                (1, WireType::Varint) => self.kind = varint(rest)? as i32,
                (2 | 16, WireType::Varint) => {
                    varint(rest)?;
                }
                (3, WireType::Varint) => self.protocol = Some(varint(rest)? as i32),
                (4, WireType::LengthDelimited) => self.query_address = Some(bytes(rest)?),
                (5, WireType::LengthDelimited) => self.response_address = Some(bytes(rest)?),
                (6, WireType::Varint) => self.query_port = Some(varint(rest)? as u32),
                (7, WireType::Varint) => self.response_port = Some(varint(rest)? as u32),
                (8, WireType::Varint) => self.query_time.seconds = Some(varint(rest)?),
                (9, WireType::ThirtyTwoBit) => self.query_time.nanoseconds = fixed32(rest)?,
                (10, WireType::LengthDelimited) => self.query_message = Some(bytes(rest)?),
                (11 | 15, WireType::LengthDelimited) => {
                    bytes(rest)?;
                }
                (12, WireType::Varint) => self.response_time.seconds = Some(varint(rest)?),
                (13, WireType::ThirtyTwoBit) => self.response_time.nanoseconds = fixed32(rest)?,
                (14, WireType::LengthDelimited) => self.response_message = Some(bytes(rest)?),
                (field, kind) => skip(rest, field, kind)?,
            }
        }
        Some(())
    }
}

/// Takes the same parts from a message that prost has decoded.
impl<'a> From<&'a Dnstap> for View<'a> {
    fn from(dnstap: &'a Dnstap) -> Self {
        let identity = dnstap.identity.as_deref();
        let Some(message) = &dnstap.message else {
            return Self {
                identity,
                ..Self::default()
            };
        };
        let time = |seconds, nanoseconds: Option<u32>| Time {
            seconds,
            nanoseconds: nanoseconds.unwrap_or_default(),
        };
        Self {
            identity,
            has_message: true,
            kind: message.r#type,
            protocol: message.socket_protocol,
            query_address: message.query_address.as_deref(),
            response_address: message.response_address.as_deref(),
            query_port: message.query_port,
            response_port: message.response_port,
            query_time: time(message.query_time_sec, message.query_time_nsec),
            response_time: time(message.response_time_sec, message.response_time_nsec),
            query_message: message.query_message.as_deref(),
            response_message: message.response_message.as_deref(),
        }
    }
}

/// Reads the number and the wire type of the next field.
#[expect(
    clippy::inline_always,
    reason = "called for each field; with two callers the compiler leaves it out of line, which costs a tenth"
)]
#[inline(always)]
pub(crate) fn key(rest: &mut &[u8]) -> Option<(u32, WireType)> {
    let (first, behind) = rest.split_first()?;
    if (8..0x80).contains(first) {
        *rest = behind;
        let kind = WireType::try_from(u64::from(first & 7)).ok()?;
        return Some((u32::from(first >> 3), kind));
    }
    decode_key(rest).ok()
}

#[inline]
pub(crate) fn varint(rest: &mut &[u8]) -> Option<u64> {
    match rest.split_first()? {
        (&first @ 0..0x80, behind) => {
            *rest = behind;
            Some(first.into())
        }
        _ => decode_varint(rest).ok(),
    }
}

#[inline]
pub(crate) fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(rest)?).ok()?;
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

#[inline]
pub(crate) fn fixed32(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u32::from_le_bytes(*bytes))
}

#[cold]
pub(crate) fn skip(rest: &mut &[u8], field: u32, kind: WireType) -> Option<()> {
    skip_field(kind, field, rest, DecodeContext::default()).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::{collection::vec, option, prelude::*, sample::Index};
    use prost::Message as _;

    use super::*;
    use crate::{Message, Policy, lenient};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn it_reads_what_the_decoder_reads(dnstap in dnstap(), damage in option::of((any::<Index>(), any::<u8>())), rest in vec(any::<u8>(), 0..4)) {
            let mut payload = dnstap.encode_to_vec();
            if let Some((at, byte)) = damage && !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
                payload.extend(rest);
            }
            same(&payload)?;
        }

        #[test]
        fn it_takes_any_bytes_as_the_decoder_does(fields in vec(field(), 0..6), nested in any::<bool>()) {
            let mut payload: Vec<u8> = fields.concat();
            if nested {
                payload.insert(0, u8::try_from(payload.len()).unwrap());
                payload.insert(0, 0x72);
            }
            same(&payload)?;
        }
    }

    fn same(payload: &[u8]) -> Result<(), TestCaseError> {
        let decoded = lenient::decode(Bytes::copy_from_slice(payload)).ok();
        prop_assert_eq!(View::parse(payload), decoded.as_ref().map(View::from));
        Ok(())
    }

    /// Generates a field of any number and wire type, right or wrong.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        (0..20_u8, 0..8_u8, vec(any::<u8>(), 0..12)).prop_map(|(field, kind, value)| {
            let key = field << 3 | kind;
            let mut bytes = match key {
                ..0x80 => vec![key],
                _ => vec![key, 1],
            };
            if kind == 2 {
                bytes.push(u8::try_from(value.len()).unwrap());
            }
            bytes.extend(value);
            bytes
        })
    }

    prop_compose! {
        fn dnstap()(
            identity in option::of(vec(any::<u8>(), 0..200)),
            message in option::of(message()),
        ) -> Dnstap {
            Dnstap { identity: identity.map(Into::into), message, r#type: 1, ..Dnstap::default() }
        }
    }

    prop_compose! {
        fn message()(
            numbers in (0..20_i32, option::of(any::<i32>()), option::of(any::<i32>()), option::of(any::<u32>())),
            times in (option::of(any::<u64>()), option::of(any::<u32>()), option::of(any::<u64>()), option::of(any::<u32>())),
            parts in vec(option::of(vec(any::<u8>(), 0..300)), 5),
            policy in option::of(option::of("[a-zä]{0,4}")),
        ) -> Message {
            let part = |at: usize| parts[at].clone().map(Into::into);
            Message {
                r#type: numbers.0,
                socket_family: numbers.1,
                socket_protocol: numbers.2,
                query_address: part(0),
                response_address: part(1),
                query_port: numbers.3,
                response_port: numbers.3.map(|port| port / 2),
                query_time_sec: times.0,
                query_time_nsec: times.1,
                query_message: part(2),
                query_zone: part(3),
                response_time_sec: times.2,
                response_time_nsec: times.3,
                response_message: part(4),
                policy: policy.map(|kind| Policy { r#type: kind, ..Policy::default() }),
                http_protocol: numbers.1,
            }
        }
    }
}
