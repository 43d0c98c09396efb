//! Tests `--probe encrypted`: messages over TLS and HTTPS in the clear, each once, as the server's own dnstap has them.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::{SocketProtocol, message::Type};
use libtest_mimic::Trial;

use super::{for_each_hook, for_each_hook_in_turn, note};
use crate::{
    compare::{Rules, compare},
    environment::{self, Combination, Skip},
    lab::{self, named, services::Services},
    load::{
        client::{Cut, TcpClient, UdpClient},
        dnsperf,
    },
    process,
    record::Record,
    tap::{Tap, Tapped},
    wire,
};

/// Queries of each run of dnsperf.
const LOAD: usize = 500;

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_hook_in_turn(
            "messages over tls and https are those that named records, and no message is there twice",
            same_as_named,
        ),
        for_each_hook(
            "a tls connection that was open at attach shows its messages",
            open_before,
        ),
        for_each_hook("messages over tls have their zone", zones),
        for_each_hook("queries to other servers over tls are in clear", forwarded),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs a client program. Its output must contain the answer.
fn client(program: &str, arguments: &[&str], port: u16, answer: &str) -> Result<()> {
    let mut command = Command::new(environment::tool(program)?);
    command.args(["@127.0.0.1", "-p", &port.to_string()]);
    command.args(arguments);
    let (output, _) = process::output(command)?;
    ensure!(output.contains(answer), "{program} {arguments:?}: {output}");
    Ok(())
}

fn dig(arguments: &[&str], port: u16, answer: &str) -> Result<()> {
    let all = [&["-r", "+time=30", "+tries=1", "+norecurse"], arguments].concat();
    client("dig", &all, port, answer)
}

fn same_as_named(how: &Combination) -> Result<()> {
    let services = Services::start_recorded()?;
    let folder = services.folder();
    let ports = [
        (services.ports.tls, "+tls", "dot"),
        (services.ports.https, "+https", "doh"),
    ];
    let options = ["--probe", "encrypted", "--mimic", "bind"];
    let tap = Tap::attach(folder, services.named.pid(), how, &options)?;
    for (port, over, _) in ports {
        dig(&[over, "ns.services.lab", "A"], port, "127.0.0.1")?;
        dig(&[over, "none.ns.services.lab", "A"], port, "NXDOMAIN")?;
        dig(&[over, "big.services.lab", "TXT"], port, "xxxx")?;
        if environment::tool("kdig").is_ok() {
            // Two queries over one connection.
            let two = [over, "+keepopen", "a.services.lab", "b.services.lab"];
            client("kdig", &two, port, "192.0.2.1")?;
        }
        // Connections that end at once, before and after the first byte of TLS.
        drop(TcpStream::connect(Services::at(port))?);
        TcpStream::connect(Services::at(port))?.write_all(&[22, 3, 1])?;
    }
    let plain = services.ports.http;
    dig(&["+http-plain", "c.services.lab", "A"], plain, "192.0.2.1")?;
    let mut names = String::new();
    for number in 0..LOAD {
        writeln!(names, "n{number}.services.lab A")?;
    }
    let names = lab::write(folder, "names", &names)?;
    for (port, _, mode) in ports {
        dnsperf::send_encrypted(&names, Services::at(port), mode)?.finish(LOAD)?;
    }
    let address = Services::at(services.ports.dns);
    let query = wire::query(7, "d.services.lab", wire::TYPE_A, false);
    let mut udp = UdpClient::connect(address)?;
    udp.send(&query)?;
    udp.receive()?;
    let mut tcp = TcpClient::connect(address)?;
    for _ in 0..3 {
        tcp.send(&query, Cut::Whole)?;
        tcp.receive()?;
    }
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    expect_balance(&tapped, &records)?;
    let Services { ports, .. } = &services;
    let over = [
        (ports.tls, SocketProtocol::Dot),
        (ports.https, SocketProtocol::Doh),
        (ports.http, SocketProtocol::Doh),
    ];
    let mut reference = services.finish()?;
    let tells_transport = environment::named_version()? >= (9, 20);
    for record in &mut reference {
        // BIND 9.18 records TCP.
        if let Some((_, protocol)) = over.iter().find(|(port, _)| *port == record.response_port)
            && !tells_transport
        {
            ensure!(record.protocol == SocketProtocol::Tcp, "{record}");
            record.protocol = *protocol;
        }
    }
    let rules = Rules {
        outside: &|_| None,
        unknown: &|_| None,
        only_ours: &|_| None,
    };
    let comparison = compare(&reference, &records, &rules);
    ensure!(
        comparison.unexplained.is_empty() && comparison.missing.is_empty(),
        "{comparison}\n{}",
        tapped.summary
    );
    note(format!("{how}: {comparison}"));
    let longest = records.iter().map(|record| record.message.len()).max();
    ensure!(
        longest > Some(16_384),
        "the longest message has {longest:?} bytes"
    );
    for (_, protocol) in &over[..2] {
        let of = records.iter().filter(|record| record.protocol == *protocol);
        let count = of.count();
        ensure!(count > 2 * LOAD, "{count} messages over {protocol:?}");
    }
    let encrypted = tapped.summary.pipeline("stream_encrypted_bytes")?;
    ensure!(encrypted > 0, "no ciphertext was counted");
    Ok(())
}

/// A forwarder asks the server over TLS.
fn forwarded(how: &Combination) -> Result<()> {
    if environment::named_version()? < (9, 20) {
        return Err(Skip("BIND before 9.20 asks no server over TLS".into()).into());
    }
    let services = Services::start()?;
    let folder = lab::scratch()?;
    let (folder, port) = (folder.path(), lab::free_port()?);
    let upstream = services.ports.tls;
    let text = format!(
        "controls {{ }};\ntls outgoing {{ }};\noptions {{\n{}listen-on port {port} {{ 127.0.0.1; }};\n\
         listen-on-v6 {{ none; }};\nrecursion yes;\nforward only;\n\
         forwarders {{ 127.0.0.1 port {upstream} tls outgoing; }};\n}};\n",
        named::common(folder, port)?
    );
    let forwarder = named::start(folder, "forwarder", &text, None, &[named::RUNNING])?;
    let options = ["--probe", "zone,encrypted", "--mimic", "bind"];
    let tap = Tap::attach(folder, forwarder.pid(), how, &options)?;
    let arguments = ["-r", "+time=30", "+tries=1", "a.services.lab", "A"];
    client("dig", &arguments, port, "192.0.2.1")?;
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    expect_balance(&tapped, &records)?;
    let found: Vec<_> = records
        .iter()
        .map(|record| (record.kind, record.protocol, record.response_port))
        .collect();
    ensure!(
        found
            == [
                (Type::ClientQuery, SocketProtocol::Udp, port),
                (Type::ForwarderQuery, SocketProtocol::Dot, upstream),
                (Type::ForwarderResponse, SocketProtocol::Dot, upstream),
                (Type::ClientResponse, SocketProtocol::Udp, port),
            ],
        "{found:?}\n{}",
        tapped.summary
    );
    let root = Some(&b"\x00"[..]);
    ensure!(records[1].zone.as_deref() == root && records[2].zone.as_deref() == root);
    Ok(())
}

/// Checks that each call of the probe is accounted for, and nothing is lost.
fn expect_balance(tapped: &Tapped, records: &[Record]) -> Result<()> {
    let summary = &tapped.summary;
    summary.expect_nothing_dropped()?;
    summary.expect_written(records.len())?;
    let copied = records
        .iter()
        .filter(|record| [SocketProtocol::Dot, SocketProtocol::Doh].contains(&record.protocol));
    let (copied, delivered) = (copied.count() as u64, summary.pipeline("copies_delivered")?);
    ensure!(
        copied == delivered && summary.pipeline("copies_unclear")? == 0,
        "{copied} messages of {delivered} copies: {summary}"
    );
    let faults = summary.kernel("probe_fault")? + summary.kernel("probe_ring_full")?;
    ensure!(faults == 0, "{summary}");
    let calls = summary.kernel("probe_calls")? + summary.kernel("probe_twice")?;
    let records = summary.pipeline("message_records")? + summary.pipeline("remark_records")?;
    ensure!(
        calls == records + summary.kernel("probe_unwanted")?,
        "calls of the probe: {summary}"
    );
    Ok(())
}

/// A TLS connection by `openssl s_client`.
struct Tls(Child);

impl Tls {
    fn open(port: u16) -> Result<Self> {
        let mut command = Command::new(environment::tool("openssl")?);
        command.args([
            "s_client",
            "-quiet",
            "-connect",
            &Services::at(port).to_string(),
        ]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    /// Sends a query and waits for the response.
    fn ask(&mut self, query: &[u8]) -> Result<Vec<u8>> {
        let input = self.0.stdin.as_mut().context("no input")?;
        input.write_all(&wire::framed(query))?;
        input.flush()?;
        let output = self.0.stdout.as_mut().context("no output")?;
        let mut length = [0; 2];
        output.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        output.read_exact(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn open_before(how: &Combination) -> Result<()> {
    let services = Services::start()?;
    let mut tls = Tls::open(services.ports.tls)?;
    let query = |id| wire::query(id, "ns.services.lab", wire::TYPE_A, false);
    tls.ask(&query(1))?;
    let mut plain = TcpClient::connect(Services::at(services.ports.dns))?;
    plain.send(&query(2), Cut::Whole)?;
    plain.receive()?;
    let options = ["--probe", "encrypted"];
    let tap = Tap::attach(services.folder(), services.named.pid(), how, &options)?;
    let mut expected = Vec::new();
    for id in 3..6 {
        expected.push((SocketProtocol::Dot, query(id)));
        expected.push((SocketProtocol::Dot, tls.ask(&query(id))?));
    }
    for id in 6..8 {
        plain.send(&query(id), Cut::Whole)?;
        expected.push((SocketProtocol::Tcp, query(id)));
        expected.push((SocketProtocol::Tcp, plain.receive()?));
    }
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    expect_balance(&tapped, &records)?;
    let found: Vec<_> = records
        .into_iter()
        .map(|record| (record.protocol, record.message))
        .collect();
    ensure!(found == expected, "{found:?}\n{}", tapped.summary);
    Ok(())
}

fn zones(how: &Combination) -> Result<()> {
    let services = Services::start()?;
    let options = ["--probe", "zone,encrypted", "--mimic", "bind"];
    let tap = Tap::attach(services.folder(), services.named.pid(), how, &options)?;
    for (port, over) in [(services.ports.tls, "+tls"), (services.ports.dns, "+tcp")] {
        dig(&[over, "ns.services.lab", "A"], port, "127.0.0.1")?;
    }
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    expect_balance(&tapped, &records)?;
    let found: Vec<_> = records
        .iter()
        .map(|record| (record.kind, record.protocol, record.zone.as_deref()))
        .collect();
    let zone = Some(&b"\x08services\x03lab\x00"[..]);
    ensure!(
        found
            == [
                (Type::AuthQuery, SocketProtocol::Dot, None),
                (Type::AuthResponse, SocketProtocol::Dot, zone),
                (Type::AuthQuery, SocketProtocol::Tcp, None),
                (Type::AuthResponse, SocketProtocol::Tcp, zone),
            ],
        "{found:?}\n{}",
        tapped.summary
    );
    for counter in ["remarks_missing", "remarks_unjoined"] {
        ensure!(tapped.summary.pipeline(counter)? == 0, "{}", tapped.summary);
    }
    Ok(())
}
