//! Decodes dnstap messages of senders that do not fully follow the schema: a wrong field is left out, and the rest of
//! the message is kept.
//!
//! [`prost`] refuses a whole message because of one string that is not UTF-8 or one field of another wire type, and it
//! treats a message without a type as one of the first type. Other programs read such messages: golang-dnstap does not
//! check strings, and protobuf tells readers to ignore an unknown value of an enum. Here:
//!
//! - a field with a wire type other than the schema's is skipped, and so is a string that is not UTF-8;
//! - a missing type is 0, which is not a valid type; this includes the type of [`Dnstap`];
//! - bytes that are not fields (they end too early, or a number is too long) are an error. Only within a policy they
//!   are not: the rest of the policy is missing then.
//!
//! A message that prost accepts is decoded to the same values, except for missing types. Nothing is copied: byte
//! strings share the memory of the payload.

use bytes::Bytes;
use prost::{DecodeError, Message as _, encoding::WireType};

use crate::{
    Dnstap, Message, Policy,
    view::{bytes, fixed32, key, skip, varint},
};

/// Decodes a frame's payload, and leaves wrong fields out. Fails only if [`Dnstap::decode`](prost::Message::decode)
/// fails, with the same error.
///
/// ```
/// use dnstap_proto::{lenient, message::Type};
///
/// // A message of type CLIENT_QUERY whose policy has the type "\xe9".
/// let payload = b"\x72\x07\x08\x05\x7a\x03\x0a\x01\xe9\x78\x01";
/// let message = lenient::decode(payload[..].into())?.message.unwrap();
/// assert_eq!(message.r#type(), Type::ClientQuery);
/// assert_eq!(message.policy.unwrap().r#type, None);
/// # Ok::<(), dnstap_proto::prost::DecodeError>(())
/// ```
pub fn decode(payload: Bytes) -> Result<Dnstap, DecodeError> {
    match dnstap(&payload) {
        Some(dnstap) => Ok(dnstap),
        None => Dnstap::decode(payload),
    }
}

fn dnstap(payload: &Bytes) -> Option<Dnstap> {
    let mut dnstap = Dnstap {
        r#type: 0,
        ..Dnstap::default()
    };
    let mut rest = &payload[..];
    while !rest.is_empty() {
        match key(&mut rest)? {
            (1, WireType::LengthDelimited) => {
                dnstap.identity = Some(payload.slice_ref(bytes(&mut rest)?));
            }
            (2, WireType::LengthDelimited) => {
                dnstap.version = Some(payload.slice_ref(bytes(&mut rest)?));
            }
            (3, WireType::LengthDelimited) => {
                dnstap.extra = Some(payload.slice_ref(bytes(&mut rest)?));
            }
            (14, WireType::LengthDelimited) => {
                // A second message field is merged into the first one.
                let message = dnstap.message.get_or_insert_with(|| Message {
                    r#type: 0,
                    ..Message::default()
                });
                merge(message, bytes(&mut rest)?, payload)?;
            }
            (15, WireType::Varint) => dnstap.r#type = number(&mut rest)?,
            (field, kind) => skip(&mut rest, field, kind)?,
        }
    }
    Some(dnstap)
}

fn merge(message: &mut Message, mut fields: &[u8], payload: &Bytes) -> Option<()> {
    let rest = &mut fields;
    let shared = |bytes: &[u8]| payload.slice_ref(bytes);
    while !rest.is_empty() {
        match key(rest)? {
            (1, WireType::Varint) => message.r#type = number(rest)?,
            (2, WireType::Varint) => message.socket_family = Some(number(rest)?),
            (3, WireType::Varint) => message.socket_protocol = Some(number(rest)?),
            (4, WireType::LengthDelimited) => message.query_address = Some(shared(bytes(rest)?)),
            (5, WireType::LengthDelimited) => message.response_address = Some(shared(bytes(rest)?)),
            (6, WireType::Varint) => message.query_port = Some(unsigned(rest)?),
            (7, WireType::Varint) => message.response_port = Some(unsigned(rest)?),
            (8, WireType::Varint) => message.query_time_sec = Some(varint(rest)?),
            (9, WireType::ThirtyTwoBit) => message.query_time_nsec = Some(fixed32(rest)?),
            (10, WireType::LengthDelimited) => message.query_message = Some(shared(bytes(rest)?)),
            (11, WireType::LengthDelimited) => message.query_zone = Some(shared(bytes(rest)?)),
            (12, WireType::Varint) => message.response_time_sec = Some(varint(rest)?),
            (13, WireType::ThirtyTwoBit) => message.response_time_nsec = Some(fixed32(rest)?),
            (14, WireType::LengthDelimited) => {
                message.response_message = Some(shared(bytes(rest)?));
            }
            (15, WireType::LengthDelimited) => {
                let policy = message.policy.get_or_insert_default();
                // The unreadable part of the policy is left out, so that the message is not lost.
                let _unread = merge_policy(policy, bytes(rest)?, payload);
            }
            (16, WireType::Varint) => message.http_protocol = Some(number(rest)?),
            (field, kind) => skip(rest, field, kind)?,
        }
    }
    Some(())
}

fn merge_policy(policy: &mut Policy, mut fields: &[u8], payload: &Bytes) -> Option<()> {
    let rest = &mut fields;
    while !rest.is_empty() {
        match key(rest)? {
            (1, WireType::LengthDelimited) => {
                if let Ok(text) = str::from_utf8(bytes(rest)?) {
                    policy.r#type = Some(text.to_owned());
                }
            }
            (2, WireType::LengthDelimited) => policy.rule = Some(payload.slice_ref(bytes(rest)?)),
            (3, WireType::Varint) => policy.action = Some(number(rest)?),
            (4, WireType::Varint) => policy.r#match = Some(number(rest)?),
            (5, WireType::LengthDelimited) => policy.value = Some(payload.slice_ref(bytes(rest)?)),
            (field, kind) => skip(rest, field, kind)?,
        }
    }
    Some(())
}

/// Reads the number of an enum.
#[expect(
    clippy::cast_possible_truncation,
    reason = "protobuf cuts numbers to the width of their field"
)]
fn number(rest: &mut &[u8]) -> Option<i32> {
    varint(rest).map(|number| number as i32)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "protobuf cuts numbers to the width of their field"
)]
fn unsigned(rest: &mut &[u8]) -> Option<u32> {
    varint(rest).map(|number| number as u32)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::Index};

    use super::*;
    use crate::message::Type;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_prost_takes_is_decoded_to_the_same(
            dnstap in whole(),
            damage in option::of((any::<Index>(), any::<u8>())),
        ) {
            let mut payload = dnstap.encode_to_vec();
            if let Some((at, byte)) = damage {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            if let Ok(mut expected) = Dnstap::decode(&payload[..]) {
                let read = decode(payload.into()).unwrap();
                // A missing type is not decoded as the first type.
                if read.r#type == 0 {
                    expected.r#type = 0;
                }
                if let (Some(expected), Some(read)) = (&mut expected.message, &read.message)
                    && read.r#type == 0
                {
                    expected.r#type = 0;
                }
                prop_assert_eq!(read, expected);
            }
        }

        #[test]
        fn one_field_of_another_wire_type_costs_that_field_alone(dnstap in whole(), field in 1..17_u32) {
            // Add the field again at the end of the message, as a 64-bit number, which the schema uses nowhere.
            let mut message = dnstap.message.clone().unwrap().encode_to_vec();
            prost::encoding::encode_key(field, WireType::SixtyFourBit, &mut message);
            message.extend([7; 8]);
            let mut payload = vec![0x78, 1];
            prost::encoding::bytes::encode(14, &message, &mut payload);
            prop_assert!(Dnstap::decode(&payload[..]).is_err());
            let read = decode(payload.into()).unwrap();
            prop_assert_eq!(read.message, dnstap.message);
        }
    }

    #[test]
    fn what_is_missing_is_not_made_up() {
        let dnstap = decode(Bytes::from_static(b"\x72\x00")).unwrap();
        assert_eq!(dnstap.r#type, 0);
        let message = dnstap.message.unwrap();
        assert_eq!(
            message,
            Message {
                r#type: 0,
                ..Message::default()
            }
        );
        assert!(Type::try_from(message.r#type).is_err());
        let without = decode(Bytes::from_static(b"\x70\x01\x78\x01")).unwrap();
        assert_eq!((without.message, without.r#type), (None, 1));
    }

    #[test]
    fn a_policy_that_ends_too_early_is_read_up_to_there_and_a_message_is_refused() {
        let payload = Bytes::from_static(b"\x72\x09\x08\x05\x7a\x05\x18\x02\x0a\x09x");
        let message = decode(payload).unwrap().message.unwrap();
        let policy = message.policy.unwrap();
        assert_eq!(
            (message.r#type, policy.action, policy.r#type),
            (5, Some(2), None)
        );
        decode(Bytes::from_static(b"\x72\x03\x52\x09x")).unwrap_err();
    }

    prop_compose! {
        fn whole()(
            numbers in (1..16_i32, 1..3_i32, 1..9_i32, 0..65_536_u32, any::<u64>(), any::<u32>()),
            parts in vec(option::of(vec(any::<u8>(), 0..90)), 5),
            policy in option::of("[a-zä]{0,4}"),
        ) -> Dnstap {
            let part = |at: usize| parts[at].clone().map(Into::into);
            let message = Message {
                r#type: numbers.0,
                socket_family: Some(numbers.1),
                socket_protocol: Some(numbers.2),
                query_address: part(0),
                response_address: part(1),
                query_port: Some(numbers.3),
                response_port: Some(numbers.3 / 2),
                query_time_sec: Some(numbers.4),
                query_time_nsec: Some(numbers.5),
                query_message: part(2),
                query_zone: part(3),
                response_time_sec: Some(numbers.4 / 3),
                response_time_nsec: Some(numbers.5 / 3),
                response_message: part(4),
                policy: policy.map(|kind| Policy {
                    r#type: Some(kind),
                    rule: part(0),
                    action: Some(numbers.1),
                    r#match: Some(numbers.2),
                    value: part(1),
                }),
                http_protocol: Some(numbers.1),
            };
            Dnstap { identity: part(2), version: part(3), extra: part(4), r#type: 1, message: Some(message) }
        }
    }
}
