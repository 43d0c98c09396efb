//! Owns the reading of a dnstap message's own fields: which DNS message it is about, addresses, times.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dnstap_core::{dns::Name, model};
use dnstap_proto::{Message, SocketProtocol, Timestamp, View, message::Type};

/// The message's type, if it has a known one. (prost's own accessor would take an unknown one for the first.)
pub(crate) fn kind(message: &Message) -> Option<Type> {
    Type::try_from(message.r#type).ok()
}

/// Whether it is about a response. An unknown type is, if there is a response in it.
pub(crate) fn is_response(message: &Message) -> bool {
    kind(message).map_or(message.response_message.is_some(), model::is_response)
}

/// The DNS message that this is about: a query's own, a response's own; the other one if only that is there.
pub(crate) fn dns(message: &Message) -> Option<&[u8]> {
    own(
        kind(message),
        message.query_message.as_deref(),
        message.response_message.as_deref(),
    )
}

/// The same of a view.
pub(crate) fn dns_of<'a>(view: &View<'a>) -> Option<&'a [u8]> {
    own(view.kind(), view.query_message, view.response_message)
}

/// The zone that the query is about, if it is there and a name.
pub(crate) fn zone(message: &Message) -> Option<Name<'_>> {
    let zone = Name::parse(message.query_zone.as_deref()?, 0).ok();
    zone.map(|(name, _)| name)
}

/// The other DNS message, if a query and a response are there: the one that this is not about.
pub(crate) fn other_dns(message: &Message) -> Option<&[u8]> {
    let query = message.query_message.as_deref()?;
    let response = message.response_message.as_deref()?;
    Some(if is_response(message) {
        query
    } else {
        response
    })
}

/// What a message of this type is about, of what a query and a response have; the other's if it has none.
fn own<T>(kind: Option<Type>, query: Option<T>, response: Option<T>) -> Option<T> {
    match kind {
        Some(kind) if !model::is_response(kind) => query.or(response),
        _ => response.or(query),
    }
}

/// Seconds and nanoseconds since 1970, if the seconds are there.
pub(crate) type Time = (u64, u32);

pub(crate) fn query_time(message: &Message) -> Option<Time> {
    message
        .query_time_sec
        .map(|seconds| (seconds, message.query_time_nsec.unwrap_or(0)))
}

pub(crate) fn response_time(message: &Message) -> Option<Time> {
    message
        .response_time_sec
        .map(|seconds| (seconds, message.response_time_nsec.unwrap_or(0)))
}

/// When the DNS message itself was seen, or else the other of the pair.
pub(crate) fn own_time(message: &Message) -> Option<Time> {
    own(kind(message), query_time(message), response_time(message))
}

/// The same of a view.
pub(crate) fn own_time_of(view: &View<'_>) -> Option<Time> {
    own(view.kind(), view.query_time(), view.response_time()).map(time)
}

fn time(timestamp: Timestamp) -> Time {
    (timestamp.seconds, timestamp.nanoseconds)
}

/// Nanoseconds from query to response; negative if a clock was set back between them.
pub(crate) fn latency(message: &Message) -> Option<i64> {
    between(query_time(message)?, response_time(message)?)
}

/// The same of a view.
pub(crate) fn latency_of(view: &View<'_>) -> Option<i64> {
    between(time(view.query_time()?), time(view.response_time()?))
}

fn between((q_sec, q_nsec): Time, (r_sec, r_nsec): Time) -> Option<i64> {
    let nanoseconds = (i128::from(r_sec) - i128::from(q_sec)) * 1_000_000_000 + i128::from(r_nsec)
        - i128::from(q_nsec);
    i64::try_from(nanoseconds).ok()
}

/// An address of 4 or 16 bytes; any other length is none.
pub(crate) fn address(bytes: Option<&[u8]>) -> Option<IpAddr> {
    let bytes = bytes?;
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

/// The transport as everybody writes it.
pub(crate) fn protocol_name(protocol: SocketProtocol) -> &'static str {
    match protocol {
        SocketProtocol::Udp => "UDP",
        SocketProtocol::Tcp => "TCP",
        SocketProtocol::Dot => "DOT",
        SocketProtocol::Doh => "DOH",
        SocketProtocol::DnsCryptUdp => "DNSCryptUDP",
        SocketProtocol::DnsCryptTcp => "DNSCryptTCP",
        SocketProtocol::Doq => "DOQ",
    }
}
