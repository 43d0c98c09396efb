//! Queries through a proxy that names the client: a PROXY header, version 2, before each datagram and at the start of
//! each connection.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use super::client::{Cut, TcpClient, UdpClient};
use crate::wire;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A TLV without a meaning (`PP2_TYPE_NOOP`).
const NOOP: [u8; 7] = [4, 0, 4, 0, 0, 0, 0];
/// Number of queries of each client over each transport.
const EACH: u16 = 3;

/// Clients behind the proxy. Each uses UDP and TCP, whatever the proxy itself uses.
pub(crate) const CLIENTS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)), 1_007),
    SocketAddr::new(
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
        1_008,
    ),
];

/// Sends queries to a server that accepts PROXY headers at each of `servers`. `asked` are the server addresses that the
/// clients used, one of each family. Returns the number of queries of each client.
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
        // The proxy sends a query of its own.
        let query = wire::query(9, name, wire::TYPE_A, false);
        let mut udp = UdpClient::connect(*server)?;
        udp.send_behind(&proxy_header(false, None), &query)?;
        expect_answer(9, &udp.receive()?)?;
        through_tcp(*server, None, name)?;
        questions += 2 * usize::from(EACH);
    }
    Ok(questions)
}

/// Sends queries over one connection. The PROXY header is in one write, as proxies send it: `named` gives up on a
/// header whose first bytes arrive alone.
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

/// Makes the PROXY header of a client's query to a server, or of the proxy's own query.
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
