//! dnstap messages from other programs. [`lenient`] and [`View`] either both decode the bytes, to the same values, or
//! both refuse them. They accept every message that prost accepts, with the same values. prost and [`DnstapRef`] encode
//! a message that prost has decoded to the same bytes, which decode to the same message again.

use dnstap_proto::{
    Dnstap, DnstapRef, Message, MessageRef, SocketFamily, SocketProtocol, Timestamp, View, dnstap,
    lenient, message::Type,
};
use prost::Message as _;

/// Runs the target.
///
/// # Panics
///
/// If a check fails.
pub fn run(bytes: &[u8]) {
    let read = lenient::decode(bytes.to_vec().into()).ok();
    assert_eq!(View::parse(bytes), read.as_ref().map(View::from));
    let Ok(decoded) = Dnstap::decode(bytes) else {
        return;
    };
    assert_eq!(read.map(typed), Some(typed(decoded.clone())));
    let encoded = decoded.encode_to_vec();
    assert_eq!(Dnstap::decode(&encoded[..]).as_ref(), Ok(&decoded));
    let Some(borrowed) = borrowed(&decoded) else {
        return;
    };
    let mut again = Vec::new();
    borrowed.encode(&mut again);
    assert_eq!(again, encoded);
    assert_eq!(borrowed.encoded_len(), encoded.len());
}

/// Sets missing types to the values that prost uses for them.
fn typed(mut dnstap: Dnstap) -> Dnstap {
    if dnstap.r#type == 0 {
        dnstap.r#type = Dnstap::default().r#type;
    }
    if let Some(message) = &mut dnstap.message
        && message.r#type == 0
    {
        message.r#type = Message::default().r#type;
    }
    dnstap
}

/// Makes the message from its parts, if [`DnstapRef`] supports all of them.
fn borrowed(dnstap: &Dnstap) -> Option<DnstapRef<'_>> {
    if dnstap.r#type != dnstap::Type::Message as i32 {
        return None;
    }
    let message = dnstap.message.as_ref()?;
    if message.policy.is_some() || message.http_protocol.is_some() {
        return None;
    }
    Some(DnstapRef {
        identity: dnstap.identity.as_deref(),
        version: dnstap.version.as_deref(),
        extra: dnstap.extra.as_deref(),
        message: parts(message)?,
    })
}

fn parts(message: &Message) -> Option<MessageRef<'_>> {
    let port = |port: Option<u32>| port.map(u16::try_from).transpose().ok();
    Some(MessageRef {
        socket_family: known::<SocketFamily>(message.socket_family)?,
        socket_protocol: known::<SocketProtocol>(message.socket_protocol)?,
        query_address: message.query_address.as_deref(),
        response_address: message.response_address.as_deref(),
        query_port: port(message.query_port)?,
        response_port: port(message.response_port)?,
        query_time: time(message.query_time_sec, message.query_time_nsec)?,
        query_message: message.query_message.as_deref(),
        query_zone: message.query_zone.as_deref(),
        response_time: time(message.response_time_sec, message.response_time_nsec)?,
        response_message: message.response_message.as_deref(),
        ..MessageRef::new(Type::try_from(message.r#type).ok()?)
    })
}

/// A value that may be present, missing, or (outer `None`) wrong.
type Known<T> = Option<Option<T>>;

/// Returns a value of an enum; `None` if the enum does not have it.
fn known<E: TryFrom<i32>>(value: Option<i32>) -> Known<E> {
    value.map(E::try_from).transpose().ok()
}

/// Returns a complete time or no time; `None` if half of it is missing.
fn time(seconds: Option<u64>, nanoseconds: Option<u32>) -> Known<Timestamp> {
    match (seconds, nanoseconds) {
        (Some(seconds), Some(nanoseconds)) => Some(Some(Timestamp {
            seconds,
            nanoseconds,
        })),
        (None, None) => Some(None),
        _ => None,
    }
}
