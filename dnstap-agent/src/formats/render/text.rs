//! The line of text:
//!
//! ```text
//! 2026-11-23T15:53:24.123456Z CQ 192.0.2.1:40000 -> 192.0.2.53:53 UDP 40b example.com. IN A rd ad
//! 2026-11-23T15:53:24.124001Z CR 192.0.2.1:40000 -> 192.0.2.53:53 UDP 56b example.com. IN A NOERROR rd ra an=1 au=0 ad=0 0.545ms
//! 2026-11-23T15:53:24.130000Z AQ [2001:db8::1]:40001 -> [2001:db8::53]:53 TCP 7b malformed: shorter than a DNS header (12 bytes)
//! ```
//!
//! The fields are: time (of this message, UTC), type, client and server, transport, size in bytes,
//! question. A query then has its opcode (unless QUERY) and flags. A response has its opcode
//! (unless QUERY), rcode, flags, the number of records in answer, authority and additional section,
//! and the milliseconds since its query. `identity=` follows if it is asked for. At the end comes
//! `extra=` with the content that the recording program added; bytes other than printable ASCII are
//! written as `\xNN`. `-` stands for an unknown value.

use std::{
    fmt,
    io::{self, Write as _},
    net::IpAddr,
};

use dnstap_core::dns::{Dns, FLAGS, Opcode, WireError};
use dnstap_proto::{Dnstap, Message, SocketProtocol};

use super::{colour::Colours, extra, socket, time::Clock};

/// Appends the line of a message, with the identity of the recording server if it is asked for and
/// present.
pub(super) fn message(
    dnstap: &Dnstap,
    identity: bool,
    clock: &mut Clock,
    colours: Colours,
    out: &mut Vec<u8>,
) {
    match &dnstap.message {
        Some(message) => write_message(message, clock, colours, out),
        None => write!(out, "- - malformed: a dnstap frame without a message"),
    }
    .and_then(|()| match &dnstap.identity {
        // Escape spaces: a hostile name must not be able to add a field.
        Some(bytes) if identity => {
            write!(
                out,
                " identity={}",
                extra::escaped(bytes).replace(' ', "\\x20")
            )
        }
        _ => Ok(()),
    })
    .and_then(|()| match &dnstap.extra {
        Some(bytes) => write!(out, " extra={}", extra::escaped(bytes)),
        None => Ok(()),
    })
    .unwrap_or_else(|_| unreachable!("a Vec takes all"));
    out.push(b'\n');
}

/// Appends the line of something that is not a dnstap message.
pub(super) fn broken(size: usize, error: &impl fmt::Display, out: &mut Vec<u8>) {
    let error = error.to_string();
    writeln!(
        out,
        "- - malformed: {size}b that are not a dnstap message: {}",
        error.escape_default()
    )
    .unwrap_or_else(|_| unreachable!("a Vec takes all"));
}

fn write_message(
    message: &Message,
    clock: &mut Clock,
    colours: Colours,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    match socket::own_time(message) {
        Some((seconds, nanoseconds)) => clock.write(seconds, nanoseconds, 6, out),
        None => out.push(b'-'),
    }
    match socket::kind(message) {
        Some(kind) => write!(out, " {} ", colours.kind(kind))?,
        None if message.r#type == 0 => out.extend_from_slice(b" - "),
        None => write!(out, " type{} ", message.r#type)?,
    }
    write_endpoint(
        socket::address(message.query_address.as_deref()),
        message.query_port,
        out,
    )?;
    out.extend_from_slice(b" -> ");
    write_endpoint(
        socket::address(message.response_address.as_deref()),
        message.response_port,
        out,
    )?;
    out.push(b' ');
    match message
        .socket_protocol
        .map(|number| (SocketProtocol::try_from(number), number))
    {
        Some((Ok(protocol), _)) => {
            out.extend_from_slice(socket::protocol_name(protocol).as_bytes());
        }
        Some((Err(_), number)) => write!(out, "protocol{number}")?,
        None => out.push(b'-'),
    }
    match socket::dns(message) {
        None => out.extend_from_slice(b" - no DNS message"),
        Some(bytes) => {
            write!(out, " {}b ", bytes.len())?;
            match Dns::parse(bytes) {
                Ok(dns) => write_dns(&dns, colours, out)?,
                Err(error) => write!(out, "malformed: {error}")?,
            }
        }
    }
    match socket::latency(message) {
        Some(nanoseconds) => write_latency(nanoseconds, out),
        None => Ok(()),
    }
}

fn write_endpoint(address: Option<IpAddr>, port: Option<u32>, out: &mut Vec<u8>) -> io::Result<()> {
    match address {
        Some(IpAddr::V4(v4)) => write!(out, "{v4}:")?,
        Some(IpAddr::V6(v6)) => write!(out, "[{v6}]:")?,
        None => out.extend_from_slice(b"-:"),
    }
    match port {
        Some(port) => write!(out, "{port}"),
        None => out.write_all(b"-"),
    }
}

/// Writes question, opcode, response code, flags and counts.
pub(super) fn write_dns(dns: &Dns<'_>, colours: Colours, out: &mut Vec<u8>) -> io::Result<()> {
    let mut malformed: Option<WireError> = None;
    match dns.question() {
        Ok(Some(question)) => write!(
            out,
            "{} {} {}",
            colours.name(&question.name),
            question.class,
            question.kind
        )?,
        Ok(None) => out.extend_from_slice(b"- - -"),
        Err(error) => {
            match dns.first_name() {
                Some(name) => write!(out, "{} - -", colours.name(&name))?,
                None => out.extend_from_slice(b"- - -"),
            }
            malformed = Some(error);
        }
    }
    if dns.opcode() != Opcode(0) {
        write!(out, " {}", dns.opcode())?;
    }
    let [(_, qr), flags @ ..] = FLAGS;
    if dns.has(qr) {
        write!(out, " {}", colours.rcode(dns.full_rcode()))?;
    }
    for (name, flag) in flags {
        if dns.has(flag) {
            write!(out, " {name}")?;
        }
    }
    if dns.has(qr) {
        write!(
            out,
            " an={} au={} ad={}",
            dns.count(1),
            dns.count(2),
            dns.count(3)
        )?;
    }
    match malformed {
        Some(error) => write!(out, " malformed: {error}"),
        None => Ok(()),
    }
}

/// Writes milliseconds with three decimals, `0.545ms`.
fn write_latency(nanoseconds: i64, out: &mut Vec<u8>) -> io::Result<()> {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let microseconds = nanoseconds.unsigned_abs() / 1000;
    write!(
        out,
        " {sign}{}.{:03}ms",
        microseconds / 1000,
        microseconds % 1000
    )
}
