//! A mixture of all kinds of traffic of a server: bulk, single queries with all flags, responses of all sizes, split
//! and pipelined TCP, transfers in both directions, updates, notifications and recursion.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::{
    client::{Cut, TcpClient},
    dnsperf::{self, Load},
    tools::{dig, nsupdate},
};
use crate::{
    lab::{AUTH_HOSTS, Lab},
    wire,
};

/// Queries per second of the bulk part: enough to fill batches, too few for named's own dnstap to lose any.
const RATE: u32 = 2_000;

/// Queries that `dnsperf` sends over UDP and TCP, IPv4 and IPv6.
pub(crate) const BULK: [(bool, bool, usize); 4] = [
    (false, false, 2_000),
    (false, true, 1_000),
    (true, false, 1_000),
    (true, true, 500),
];

/// Sends everything and returns when all queries are answered.
pub(crate) fn run(lab: &mut Lab) -> Result<()> {
    for (tcp, ipv6, queries) in BULK {
        let load = Load {
            queries,
            rate: Some(RATE),
            tcp,
            recursive: true,
        };
        dnsperf::run(lab.folder(), lab.server(ipv6), &load)?;
    }
    for ipv6 in [false, true] {
        let server = lab.server(ipv6);
        singles(server)?;
        own_framing(server)?;
        updates(server, ipv6)?;
        transfer_out(server)?;
    }
    transfer_in(lab)
}

/// Sends single queries by `dig`.
fn singles(server: SocketAddr) -> Result<()> {
    // Responses over UDP up to 4,096 bytes, over TCP up to 60,000, truncated with a retry, and from the upstream.
    for question in [
        &["h1.auth.lab", "A"][..],
        &["H2.AUTH.lab", "AAAA", "+norecurse"],
        &["alias.auth.lab", "A", "+dnssec"],
        &["mail.auth.lab", "MX", "+noedns"],
        &["none.auth.lab", "A", "+nocookie"],
        &["auth.lab", "SOA", "+tcp"],
        &["t3500.auth.lab", "TXT", "+bufsize=4096", "+ignore"],
        &["t6000.auth.lab", "TXT", "+bufsize=4096"],
        &["t20000.auth.lab", "TXT", "+tcp"],
        &["t60000.auth.lab", "TXT", "+tcp", "+norecurse"],
        &["chain.up.lab", "A"],
        &["big.up.lab", "TXT", "+tcp"],
        &["nothing.up.lab", "A"],
        &["version.bind", "TXT", "CH"],
        &["nowhere.test", "A"],
    ] {
        dig(server, question)?;
    }
    Ok(())
}

/// Sends queries over TCP in ways that no tool uses.
fn own_framing(server: SocketAddr) -> Result<()> {
    let mut client = TcpClient::connect(server)?;
    let pipelined: Vec<_> = (0..60)
        .map(|id| wire::query(id, &format!("h{id}.auth.lab"), wire::TYPE_A, id % 2 == 0))
        .collect();
    client.send_together(&pipelined)?;
    for _ in &pipelined {
        client.receive()?;
    }
    for (id, cut) in (100..).zip([Cut::Prefix, Cut::Bytes, Cut::Halves, Cut::Whole].repeat(5)) {
        let name = format!("h{}.auth.lab", usize::from(id) % AUTH_HOSTS);
        client.send(&wire::query(id, &name, wire::TYPE_A, true), cut)?;
        client.receive()?;
    }
    // The end of one query and the start of the next are in one write.
    let queries = [
        wire::query(200, "h7.auth.lab", wire::TYPE_A, true),
        wire::query(201, "t6000.auth.lab", wire::TYPE_TXT, true),
    ];
    let bytes: Vec<u8> = queries
        .iter()
        .flat_map(|query| wire::framed(query))
        .collect();
    client.send_raw(&bytes[..20])?;
    client.send_raw(&bytes[20..40])?;
    client.send_raw(&bytes[40..])?;
    for _ in &queries {
        let answer = client.receive()?;
        ensure!(
            wire::is_response(&answer),
            "not an answer: {}",
            wire::describe(&answer)
        );
    }
    Ok(())
}

/// Sends UPDATE (RFC 2136) over UDP and TCP.
fn updates(server: SocketAddr, ipv6: bool) -> Result<()> {
    for (tcp, host) in [(false, "udp"), (true, "tcp")] {
        let name = format!("{host}{}.dyn.lab", if ipv6 { 6 } else { 4 });
        nsupdate(
            server,
            tcp,
            "dyn.lab",
            &format!("update add {name} 60 A 192.0.2.1"),
            &[],
        )?;
    }
    Ok(())
}

/// Requests an AXFR of a zone that needs many messages.
fn transfer_out(server: SocketAddr) -> Result<()> {
    dig(server, &["big.lab", "AXFR"])?;
    Ok(())
}

/// Changes a zone of the upstream, which sends NOTIFY to the tapped server. That server then asks for the SOA and
/// transfers the change.
fn transfer_in(lab: &mut Lab) -> Result<()> {
    let upstream = lab.upstream_server();
    nsupdate(
        upstream,
        false,
        "moving.lab",
        "update add changed.moving.lab 60 A 192.0.2.2",
        &[],
    )?;
    lab.tapped.wait_for_transfer()
}
