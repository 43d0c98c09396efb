//! dnstap messages of others: any bytes decode or are refused, by [`lenient`] and by [`View`] alike, which read the same from them; they
//! take what prost takes, and read that the same. What prost has decoded is encoded by prost and by [`DnstapRef`] to the same bytes, and decodes to the same again.

use dnstap_proto::{
    Dnstap, DnstapRef, Message, MessageRef, SocketFamily, SocketProtocol, Timestamp, View, dnstap,
    lenient, message::Type,
};
use prost::Message as _;

/// Runs the target.
///
/// # Panics
///
/// If something does not hold.
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

/// With the types that prost takes for those that are missing.
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

/// The message from its parts, if [`DnstapRef`] has all of them.
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

/// What may be there or not, or be wrong.
type Known<T> = Option<Option<T>>;

/// A value that its enum knows; `None` for one that it does not.
fn known<E: TryFrom<i32>>(value: Option<i32>) -> Known<E> {
    value.map(E::try_from).transpose().ok()
}

/// A whole time or none; `None` for half of one.
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
