//! Other services of a DNS server: each connection is recognised by its first bytes, counted by its protocol, and from
//! then on not even copied. Malformed messages on a DNS port are delivered.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{expect_records, for_each_hook_in_turn};
use crate::{
    environment::{self, Combination},
    lab::services::Services,
    load::client::{Cut, TcpClient, UdpClient},
    process::{self, PATIENCE},
    tap::Tap,
    wire,
};

/// Number of connections of each kind, except for web pages over HTTP, which have one.
const CONNECTIONS: usize = 2;
/// Requests on that connection after the verdict.
const REQUESTS: usize = 20;

pub(super) fn trials() -> Vec<Trial> {
    for_each_hook_in_turn(
        "other services of the process are told from DNS, counted, and skipped by the kernel",
        other_services,
    )
}

fn other_services(how: &Combination) -> Result<()> {
    let services = Services::start()?;
    let ports = &services.ports;
    let mut tap = Tap::attach_talking(services.folder(), services.named.pid(), how)?;
    let mut expected = Vec::new();
    for id in 0..CONNECTIONS {
        let query = wire::query(u16::try_from(id)?, "ns.services.lab", wire::TYPE_A, false);
        let mut udp = UdpClient::connect(Services::at(ports.dns))?;
        // Two bytes of a header get no response.
        udp.send(&query[..2])?;
        udp.send(&query)?;
        udp.receive()?;
        let mut tcp = TcpClient::connect(Services::at(ports.dns))?;
        tcp.send(&query, Cut::Whole)?;
        tcp.receive()?;
        expected.extend([udp.passed, tcp.passed].concat());
        services.named.rndc(&["status"])?;
        for (port, over) in [
            (ports.tls, "+tls"),
            (ports.https, "+https"),
            (ports.http, "+http-plain"),
        ] {
            dig(port, over)?;
        }
    }
    let mut page = TcpStream::connect(Services::at(ports.statistics))?;
    page.set_read_timeout(Some(PATIENCE))?;
    request(&mut page)?;
    tap.wait_for_verdicts(CONNECTIONS * 4 + 1)?;
    for _ in 0..REQUESTS {
        request(&mut page)?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    let summary = &tapped.summary;
    summary.expect_nothing_dropped()?;
    for (counter, expected) in [
        ("tcp_sockets_dns", CONNECTIONS),
        ("tcp_sockets_encrypted", 2 * CONNECTIONS),
        ("tcp_sockets_not_dns", 2 * CONNECTIONS + 1),
        ("udp_sockets_not_dns", 0),
        ("stream_skipped_bytes", 0),
        ("malformed", CONNECTIONS),
    ] {
        let counted = summary.pipeline(counter)?;
        ensure!(
            counted == expected as u64,
            "{counter}: {counted}, expected {expected}\n{summary}"
        );
    }
    // A request and its response need at least one call each.
    let skipped = summary.kernel("not_dns")? + summary.missed()?;
    ensure!(
        skipped >= 2 * REQUESTS as u64,
        "{skipped} messages skipped of {REQUESTS} requests\n{summary}"
    );
    Ok(())
}

/// Sends one query over an encrypted transport, or over HTTP.
fn dig(port: u16, over: &str) -> Result<()> {
    let mut command = Command::new(environment::tool("dig")?);
    command.args(["-r", "@127.0.0.1", "-p", &port.to_string(), over]);
    command.args(["+time=30", "+tries=1", "+norecurse", "ns.services.lab", "A"]);
    let (answer, _) = process::output(command)?;
    ensure!(answer.contains("status: NOERROR"), "{over}: {answer}");
    Ok(())
}

/// Requests a page and reads all of it.
fn request(page: &mut TcpStream) -> Result<()> {
    let host: SocketAddr = page.peer_addr()?;
    write!(
        page,
        "GET /json/v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    loop {
        let length = page.read(&mut part).context("waiting for a page")?;
        ensure!(length > 0, "the page ends early");
        answer.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let announced = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .context("no length of the page")?;
        if body.len() >= announced.trim().parse()? {
            return Ok(());
        }
    }
}
