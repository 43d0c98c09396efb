//! Makes the messages and PROXY headers of the traffic, and sends data and the end of the stream in one packet.

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
};

use socket2::SockRef;

const TYPE_OPT: u8 = 41;
/// The option of EDNS for padding (RFC 7830).
const PADDING: u16 = 12;

/// Returns the query with an OPT record that announces `size` and contains padding.
pub(super) fn with_edns(query: &[u8], size: u16, padding: &[u8]) -> Vec<u8> {
    let mut message = query.to_vec();
    message[11] = 1;
    message.extend([0, 0, TYPE_OPT]);
    message.extend(size.to_be_bytes());
    message.extend([0; 4]);
    if padding.is_empty() {
        message.extend([0; 2]);
    } else {
        let length = u16::try_from(padding.len()).unwrap_or(0);
        message.extend((length + 4).to_be_bytes());
        message.extend([PADDING.to_be_bytes(), length.to_be_bytes()].concat());
        message.extend(padding);
    }
    message
}

/// Makes a PROXY header, version 2 (section 2.2 of its specification), for a query of `client` to `server`.
pub(super) fn proxy_header(client: SocketAddr, server: SocketAddr, tcp: bool) -> Vec<u8> {
    let mut body = Vec::new();
    for end in [client, server] {
        match end.ip() {
            IpAddr::V4(address) => body.extend(address.octets()),
            IpAddr::V6(address) => body.extend(address.octets()),
        }
    }
    for end in [client, server] {
        body.extend(end.port().to_be_bytes());
    }
    let family = if client.is_ipv6() { 0x20 } else { 0x10 };
    let mut proxy_header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    proxy_header.push(family | if tcp { 1 } else { 2 });
    proxy_header.extend(u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    proxy_header.extend(body);
    proxy_header
}

/// Sends `bytes` so that their last part and the end of the stream are in one packet. Nothing can be sent after that.
pub(super) fn last_words(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_cork(true)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = socket.send(rest)?;
        rest = &rest[sent..];
    }
    stream.shutdown(Shutdown::Write)
}
