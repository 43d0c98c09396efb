//! Decodes the frames that the pipeline passes to outputs: every frame must be a dnstap message that readers accept.

use dnstap_core::pipeline::Batch;
use dnstap_proto::{Dnstap, Message, SocketFamily, dnstap, message::Type};
use prost::Message as _;

/// Returns the messages of a batch.
///
/// # Panics
///
/// If a frame is cut, or is not a complete dnstap message.
#[must_use]
pub fn decoded(batch: &Batch) -> Vec<Message> {
    let mut rest = &batch.messages.bytes[..];
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>().expect("a length");
        let length = u32::from_be_bytes(*length) as usize;
        assert!(
            length > 0 && length <= tail.len(),
            "a frame of {length} bytes"
        );
        let (frame, tail) = tail.split_at(length);
        let dnstap = Dnstap::decode(frame).expect("a frame that can be decoded");
        assert_eq!(dnstap.r#type, dnstap::Type::Message as i32);
        let message = dnstap.message.expect("a message");
        check(&message);
        messages.push(message);
        rest = tail;
    }
    assert_eq!(
        batch.messages.count,
        messages.len() as u64,
        "count of frames"
    );
    messages
}

/// Returns the DNS message of a dnstap message.
///
/// # Panics
///
/// If it has none, or has the message of the other direction.
#[must_use]
pub fn dns(message: &Message) -> &[u8] {
    let (own, other) = if is_response(message) {
        (&message.response_message, &message.query_message)
    } else {
        (&message.query_message, &message.response_message)
    };
    assert_eq!(other, &None);
    own.as_deref().expect("a DNS message")
}

/// Returns whether its type is that of a response.
///
/// # Panics
///
/// If it has no known type.
#[must_use]
pub fn is_response(message: &Message) -> bool {
    Type::try_from(message.r#type).expect("a known type") as i32 % 2 == 0
}

fn check(message: &Message) {
    let family = SocketFamily::try_from(message.socket_family.expect("a family"));
    let length = match family.expect("a known family") {
        SocketFamily::Inet => 4,
        SocketFamily::Inet6 => 16,
    };
    for address in [&message.query_address, &message.response_address] {
        let unfit = address.as_ref().filter(|address| address.len() != length);
        assert_eq!(unfit, None, "an address of the family");
    }
    for port in [message.query_port, message.response_port] {
        assert!(port.is_none_or(|port| port <= u16::MAX.into()));
    }
    let times = [
        (message.query_time_sec, message.query_time_nsec),
        (message.response_time_sec, message.response_time_nsec),
    ];
    for (seconds, nanoseconds) in times {
        assert_eq!(seconds.is_some(), nanoseconds.is_some());
        assert!(nanoseconds.is_none_or(|nanoseconds| nanoseconds < 1_000_000_000));
    }
    let own = times[usize::from(is_response(message))];
    assert!(own.0.is_some(), "the time of the message itself");
    assert!(u16::try_from(dns(message).len()).is_ok());
}
