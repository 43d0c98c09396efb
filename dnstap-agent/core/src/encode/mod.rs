//! A message and its context as a dnstap frame.
//!
//! Owns which fields of dnstap are set: `query_address` is always the initiator's and `response_address` the
//! responder's, whichever of them is the tapped process; an unknown address or port is left out; a response carries
//! the time of its query when that is known. Behind a proxy that says so the ends are the client's.

mod extra;

use dnstap_proto::{DnstapRef, MessageRef, SocketFamily, SocketProtocol, Timestamp};

pub use self::extra::{Extra, ExtraField};
use crate::model::{Envelope, Family, Finding, Protocol, Role};

/// Appends one Frame Streams data frame.
#[inline]
pub fn append_frame(
    identity: Option<&[u8]>,
    version: Option<&[u8]>,
    extra: Option<&[u8]>,
    envelope: &Envelope,
    finding: &Finding,
    message: &[u8],
    out: &mut Vec<u8>,
) {
    let (family, local, peer) = match &envelope.proxied {
        Some(ends) => (ends.family, &ends.local, &ends.peer),
        None => (envelope.family, &envelope.local, &envelope.peer),
    };
    let (initiator, responder) = match finding.role {
        Role::Responder => (peer, local),
        Role::Initiator => (local, peer),
    };
    let port = |port: u16| (port != 0).then_some(port);
    let message = MessageRef {
        socket_family: Some(match family {
            Family::Inet => SocketFamily::Inet,
            Family::Inet6 => SocketFamily::Inet6,
        }),
        socket_protocol: Some(match envelope.protocol {
            Protocol::Udp => SocketProtocol::Udp,
            Protocol::Tcp => SocketProtocol::Tcp,
        }),
        query_address: initiator.address(),
        response_address: responder.address(),
        query_port: port(initiator.port),
        response_port: port(responder.port),
        query_time: finding.query_time_ns.map(timestamp),
        query_message: (!finding.response).then_some(message),
        response_time: finding.response_time_ns.map(timestamp),
        response_message: finding.response.then_some(message),
        ..MessageRef::new(finding.kind.message_type(finding.response))
    };
    DnstapRef {
        identity,
        version,
        extra,
        message,
    }
    .append_frame(out);
}

fn timestamp(nanoseconds: u64) -> Timestamp {
    const SECOND: u64 = 1_000_000_000;
    Timestamp {
        seconds: nanoseconds / SECOND,
        nanoseconds: u32::try_from(nanoseconds % SECOND).unwrap_or_default(),
    }
}
