//! Accessors for a dnstap message's own fields: its DNS message, addresses, times.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dnstap_core::{dns::Name, model};
use dnstap_proto::{Message, SocketProtocol, Timestamp, View, message::Type};

/// Returns the message's type, if it is known. (prost's own accessor would return the first type
/// for an unknown one.)
pub(crate) fn kind(message: &Message) -> Option<Type> {
    Type::try_from(message.r#type).ok()
}

/// Returns whether the dnstap message is for a response. If its type is unknown, it is if it
/// contains a response.
pub(crate) fn is_response(message: &Message) -> bool {
    kind(message).map_or(message.response_message.is_some(), model::is_response)
}

/// Returns the DNS message that matches the type: the query or the response. If only the other one
/// is present, returns that.
pub(crate) fn dns(message: &Message) -> Option<&[u8]> {
    own(
        kind(message),
        message.query_message.as_deref(),
        message.response_message.as_deref(),
    )
}

/// Like [`dns()`], for a view.
pub(crate) fn dns_of<'a>(view: &View<'a>) -> Option<&'a [u8]> {
    own(view.kind(), view.query_message, view.response_message)
}

/// Returns the zone of the query, if it is present and a valid name.
pub(crate) fn zone(message: &Message) -> Option<Name<'_>> {
    let zone = Name::parse(message.query_zone.as_deref()?, 0).ok();
    zone.map(|(name, _)| name)
}

/// Returns the other DNS message, if a query and a response are present: the one that does not
/// match the type.
pub(crate) fn other_dns(message: &Message) -> Option<&[u8]> {
    let query = message.query_message.as_deref()?;
    let response = message.response_message.as_deref()?;
    Some(if is_response(message) {
        query
    } else {
        response
    })
}

/// Returns the query's or the response's value, whichever matches the type; the other one if that
/// is missing.
fn own<T>(kind: Option<Type>, query: Option<T>, response: Option<T>) -> Option<T> {
    match kind {
        Some(kind) if !model::is_response(kind) => query.or(response),
        _ => response.or(query),
    }
}

/// Seconds and nanoseconds since 1970.
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

/// Returns the time of the DNS message itself, or else of the other one of the pair.
pub(crate) fn own_time(message: &Message) -> Option<Time> {
    own(kind(message), query_time(message), response_time(message))
}

/// Like [`own_time`], for a view.
pub(crate) fn own_time_of(view: &View<'_>) -> Option<Time> {
    own(view.kind(), view.query_time(), view.response_time()).map(time)
}

fn time(timestamp: Timestamp) -> Time {
    (timestamp.seconds, timestamp.nanoseconds)
}

/// Returns the nanoseconds from query to response; negative if a clock was set back between them.
pub(crate) fn latency(message: &Message) -> Option<i64> {
    between(query_time(message)?, response_time(message)?)
}

/// Like [`latency`], for a view.
pub(crate) fn latency_of(view: &View<'_>) -> Option<i64> {
    between(time(view.query_time()?), time(view.response_time()?))
}

fn between((q_sec, q_nsec): Time, (r_sec, r_nsec): Time) -> Option<i64> {
    let nanoseconds = (i128::from(r_sec) - i128::from(q_sec)) * 1_000_000_000 + i128::from(r_nsec)
        - i128::from(q_nsec);
    i64::try_from(nanoseconds).ok()
}

/// Converts 4 or 16 bytes to an address. Returns `None` for other lengths.
pub(crate) fn address(bytes: Option<&[u8]>) -> Option<IpAddr> {
    let bytes = bytes?;
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

/// Returns the usual name of the transport.
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
