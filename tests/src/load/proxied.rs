//! Questions through a proxy that says who asks: PROXY protocol, version 2, in front of each datagram and each connection.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use super::client::{Cut, TcpClient, UdpClient};
use crate::wire;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A TLV that says nothing (`PP2_TYPE_NOOP`).
const NOOP: [u8; 7] = [4, 0, 4, 0, 0, 0, 0];
/// Questions of each client over each transport.
const EACH: u16 = 3;

/// Who asks, behind the proxy: each over UDP and TCP, whatever the proxy itself speaks.
pub(crate) const CLIENTS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)), 1_007),
    SocketAddr::new(
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
        1_008,
    ),
];

/// Asks a server that listens for a proxy at each of `servers`; the clients asked `asked`, the one of their own family. Returns
/// how many questions each client asked.
pub(crate) fn ask(servers: &[SocketAddr], asked: [SocketAddr; 2], name: &str) -> Result<usize> {
    let mut questions = 0;
    for server in servers {
        for (client, asked) in CLIENTS.into_iter().zip(asked) {
            let ends = Some((client, asked));
            let mut udp = UdpClient::connect(*server)?;
            for id in 0..EACH {
                let query = wire::query(id, name, wire::TYPE_A, id % 2 == 0);
                udp.send_behind(&proxy_header(false, ends), &query)?;
                expect_answer(id, &udp.receive()?)?;
            }
            through_tcp(*server, ends, name)?;
        }
        // The proxy asks for itself.
        let query = wire::query(9, name, wire::TYPE_A, false);
        let mut udp = UdpClient::connect(*server)?;
        udp.send_behind(&proxy_header(false, None), &query)?;
        expect_answer(9, &udp.receive()?)?;
        through_tcp(*server, None, name)?;
        questions += 2 * usize::from(EACH);
    }
    Ok(questions)
}

/// One connection. The PROXY header goes in one write, as proxies send it: `named` gives up on one whose first bytes come alone.
fn through_tcp(
    server: SocketAddr,
    ends: Option<(SocketAddr, SocketAddr)>,
    name: &str,
) -> Result<()> {
    let mut tcp = TcpClient::connect(server)?;
    tcp.send_raw(&proxy_header(true, ends))?;
    for id in 0..EACH {
        let query = wire::query(id, name, wire::TYPE_A, id % 2 == 0);
        tcp.send(&query, Cut::Halves)?;
        expect_answer(id, &tcp.receive()?)?;
    }
    Ok(())
}

fn expect_answer(id: u16, answer: &[u8]) -> Result<()> {
    ensure!(
        answer.starts_with(&id.to_be_bytes())
            && wire::is_response(answer)
            && wire::answers(answer) > 0,
        "no answer to question {id}: {}",
        wire::describe(answer)
    );
    Ok(())
}

/// The PROXY header of a client's question to a server, or of the proxy's own.
fn proxy_header(tcp: bool, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((client, server)) = ends else {
        return [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let family = if client.is_ipv4() { 0x10 } else { 0x20 };
    let body = [
        octets(client.ip()),
        octets(server.ip()),
        client.port().to_be_bytes().to_vec(),
        server.port().to_be_bytes().to_vec(),
        NOOP.to_vec(),
    ]
    .concat();
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    let fixed = [0x21, family + if tcp { 1 } else { 2 }, 0, length];
    [&SIGNATURE[..], &fixed, &body].concat()
}
