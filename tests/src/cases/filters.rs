//! Filters of the kernel side by port, subnet, role and sample: they leave out exactly the unwanted messages, keep
//! exchanges whole, and count every message.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, ensure};
use dnstap_proto::{SocketProtocol, message::Type};
use libtest_mimic::Trial;

use super::{comparison::asks_for_serial, expect_records, for_each_hook_in_turn, note};
use crate::{
    environment::{self, Combination},
    lab::{self, Lab, Wanted},
    load::{
        client::{Cut, TcpClient, UdpClient},
        dnsperf::{self, Load},
    },
    record::Record,
    tap::{Tap, Tapped},
    toy::{By, Puppet},
    wire,
};

/// Number of queries of one client in the tests that count single messages.
const EACH: u16 = 20;
/// Number of connections in the test of the sample over TCP.
const CONNECTIONS: usize = 48;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_hook_in_turn(
        "filter by sample: one query in four is there with its response, and all others are counted",
        sample,
    );
    trials.extend(for_each_hook_in_turn(
        "filter by sample: of TCP, one connection in two is there with all its messages",
        sample_of_connections,
    ));
    trials.extend(for_each_hook_in_turn(
        "filter by sample: exchanges stay together on wildcard sockets and behind a PROXY header",
        sample_of_the_hidden,
    ));
    trials.extend(for_each_hook_in_turn(
        "filter by port: only messages of the one that was asked for are there",
        ports,
    ));
    trials.extend(for_each_hook_in_turn(
        "filter by subnet: only messages of those that were asked for are there",
        nets,
    ));
    trials.extend(for_each_hook_in_turn(
        "filter by role: only datagrams of those that were asked for leave the kernel",
        roles,
    ));
    trials
}

/// Tests the sample with the load of the steady rate, a fifth as long.
fn sample(how: &Combination) -> Result<()> {
    let (queries, rate) = environment::steady_load()?;
    let queries = queries / 5;
    let lab = Lab::start(Wanted::default())?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &["--sample", "4"])?;
    let load = Load {
        queries,
        rate: Some(rate / 2),
        tcp: false,
        recursive: false,
    };
    dnsperf::run(lab.folder(), lab.server(false), &load)?;
    let tapped = tap.stop()?;
    let summary = &tapped.summary;
    let missed = summary.missed()?;
    let seen = summary.kernel("seen")?;
    ensure!(
        seen <= 2 * queries as u64 && seen + missed >= 2 * queries as u64,
        "seen {seen} of {queries} queries and their answers"
    );
    let emitted = summary.kernel("emitted")?;
    ensure!(
        emitted + summary.kernel("sampled_out")? == seen,
        "what was left out is not what is missing\n{summary}"
    );
    // The tolerance is eight standard deviations at 20,000 queries.
    let expected = seen / 4;
    ensure!(
        emitted.abs_diff(expected) <= expected / 8,
        "{emitted} of {seen} are no quarter"
    );
    if missed == 0 {
        expect_whole_exchanges(&tapped.records()?)?;
        ensure!(
            summary.pipeline("responses_paired")? == emitted / 2,
            "not all are paired\n{summary}"
        );
    }
    note(format!(
        "{how}: a sample of one in four has {emitted} of {seen} messages"
    ));
    summary.expect_nothing_dropped()?;
    summary.expect_written(usize::try_from(emitted)?)
}

fn sample_of_connections(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &["--sample", "2"])?;
    let mut passed = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut client = TcpClient::connect(lab.server(connection % 2 == 0))?;
        for (id, cut) in (0..).zip([Cut::Whole, Cut::Bytes, Cut::Prefix, Cut::Halves]) {
            client.send(&query(id), cut)?;
            client.receive()?;
        }
        passed.push(client.passed);
    }
    let tapped = tap.stop()?;
    let kept: BTreeSet<_> = tapped.records()?.iter().map(client_of).collect();
    passed.retain(|messages| kept.contains(&client_of(&messages[0])));
    // Chance gives fewer than eight or more than forty of 48 once in a million runs.
    ensure!(
        (8..=40).contains(&kept.len()),
        "{} of {CONNECTIONS} connections",
        kept.len()
    );
    expect_records(&tapped, &passed.concat())?;
    ensure!(
        tapped.summary.pipeline("stream_gaps")? == 0,
        "a stream has gaps\n{}",
        tapped.summary
    );
    tapped.summary.expect_nothing_dropped()
}

fn sample_of_the_hidden(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let mut sockets = Vec::new();
    for (bound, asked) in [
        ("0.0.0.0:0", "127.0.0.1"),
        ("[::]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
    ] {
        let (socket, address) = puppet.udp(bound)?;
        sockets.push((socket, SocketAddr::new(asked.parse()?, address.port())));
    }
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &["--sample", "2"])?;
    // PROXY header, version 2: a client at 192.0.2.1, port 1,000, of a server at 192.0.2.2, port 53.
    let proxy_header =
        *b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x03\xe8\0\x35";
    for (socket, server) in sockets {
        let mut client = UdpClient::connect(server)?;
        for id in 0..3 * EACH {
            let proxy_header = if id % 3 == 0 { &proxy_header[..] } else { &[] };
            client.send_behind(proxy_header, &query(id))?;
            puppet.receive(socket, By::Recvfrom, 512, 0)?;
            puppet.send(socket, By::Recvfrom, &wire::answer(&query(id)))?;
            client.receive()?;
        }
    }
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    expect_whole_exchanges(&records)?;
    let proxied: IpAddr = [192, 0, 2, 1].into();
    let of_proxy = records
        .iter()
        .filter(|record| record.query_address == Some(proxied))
        .count();
    let all = usize::from(3 * 3 * EACH) * 2;
    ensure!(
        (all / 4..=all * 3 / 4).contains(&records.len()) && of_proxy > 0,
        "{} of {all}, {of_proxy} of them behind a proxy",
        records.len()
    );
    super::expect_counters(&tapped, &[("seen", all), ("emitted", records.len())])?;
    tapped.summary.expect_nothing_dropped()
}

fn ports(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let port = lab.second_server().port().to_string();
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &["--port", &port])?;
    let loopback = lab.second_server().ip();
    let expected = ask(loopback, lab.second_server())?;
    let mut others = ask(loopback, lab.server(false))?;
    others.extend(ask(lab.server(true).ip(), lab.server(true))?);
    let tapped = tap.stop()?;
    expect_filtered(&tapped, "filtered_port", &expected, &others)
}

fn nets(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let nets = ["--net", "127.0.1.0/25,127.0.2.7,::/0"];
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &nets)?;
    let (mut expected, mut others) = (Vec::new(), Vec::new());
    for (address, wanted) in [
        ("127.0.0.1", false),
        ("127.0.1.0", true),
        ("127.0.1.127", true),
        ("127.0.1.128", false),
        ("127.0.2.6", false),
        ("127.0.2.7", true),
        ("::1", true),
    ] {
        let address: IpAddr = address.parse()?;
        let passed = ask(address, lab.server(address.is_ipv6()))?;
        if wanted { &mut expected } else { &mut others }.extend(passed);
    }
    let tapped = tap.stop()?;
    expect_filtered(&tapped, "filtered_net", &expected, &others)
}

/// Tests the filter by role. The server's own dnstap is the reference for what its resolver sent and received.
fn roles(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted {
        upstream: true,
        reference: true,
        ..Wanted::default()
    })?;
    let mut taps = Vec::new();
    for only in ["client", "resolver"] {
        let (file, summary) = (
            lab.folder().join(format!("{only}.fstrm")),
            lab.folder().join(format!("{only}.json")),
        );
        let more = ["--only", only];
        taps.push(Tap::attach_with(
            &file,
            &summary,
            lab.tapped.pid(),
            how,
            &more,
        )?);
    }
    let queries = 1_000;
    let load = Load {
        queries,
        rate: Some(1_000),
        tcp: false,
        recursive: true,
    };
    dnsperf::run(lab.folder(), lab.server(false), &load)?;
    let mut outcomes = Vec::new();
    for tap in taps {
        let tapped = tap.stop()?;
        outcomes.push((tapped.records()?, tapped.summary));
    }
    let reference = lab.finish()?;
    let asked_above = |record: &&Record| {
        matches!(record.kind, Type::ResolverQuery | Type::ResolverResponse)
            && record.protocol == SocketProtocol::Udp
    };
    let above = reference.iter().filter(asked_above).count();
    ensure!(above > 0, "named asked nobody");
    // Refreshes are not in the reference.
    let refreshes = |(records, _): &(Vec<Record>, _)| {
        records
            .iter()
            .filter(|record| asks_for_serial(record))
            .count()
    };
    let above = above + outcomes.iter().map(refreshes).sum::<usize>();
    let counts = [(2 * queries, above), (above, 2 * queries)];
    for ((records, summary), (delivered, left_out)) in outcomes.into_iter().zip(counts) {
        let missed = summary.missed()?;
        let filtered = summary.kernel("filtered_role")?;
        ensure!(
            records.len().abs_diff(delivered) as u64 <= missed
                && filtered.abs_diff(left_out as u64) <= missed,
            "{} delivered of {delivered}, {filtered} left out of {left_out}\n{summary}",
            records.len()
        );
        if missed == 0 {
            expect_whole_exchanges(&records)?;
        }
        summary.expect_nothing_dropped()?;
    }
    Ok(())
}

fn query(id: u16) -> Vec<u8> {
    let name = format!("h{}.auth.lab", usize::from(id) % lab::AUTH_HOSTS);
    wire::query(id, &name, wire::TYPE_A, true)
}

/// Sends queries over UDP and TCP. Returns the messages that passed.
fn ask(from: IpAddr, server: SocketAddr) -> Result<Vec<Record>> {
    let mut udp = UdpClient::connect_from(from, server)?;
    let mut tcp = TcpClient::connect_from(from, server)?;
    for id in 0..EACH {
        udp.send(&query(id))?;
        udp.receive()?;
        tcp.send(&query(id), Cut::Whole)?;
        tcp.receive()?;
    }
    Ok([udp.passed, tcp.passed].concat())
}

/// Checks that the expected messages are there and that the others are counted: datagrams one by one, TCP at least one
/// call per message.
fn expect_filtered(
    tapped: &Tapped,
    counter: &str,
    expected: &[Record],
    others: &[Record],
) -> Result<()> {
    expect_records(tapped, expected)?;
    let filtered = tapped.summary.kernel(counter)?;
    let missed = tapped.summary.missed()?;
    ensure!(
        filtered + missed >= others.len() as u64 && tapped.summary.left_out()? == filtered,
        "{filtered} left out of {}\n{}",
        others.len(),
        tapped.summary
    );
    tapped.summary.expect_nothing_dropped()
}

/// Checks that every query has its response and every response its query.
fn expect_whole_exchanges(records: &[Record]) -> Result<()> {
    let mut open: BTreeMap<_, i64> = BTreeMap::new();
    for record in records {
        let key = (
            client_of(record),
            record.message.get(..2).map(<[u8]>::to_vec),
        );
        *open.entry(key).or_default() += if record.is_response() { -1 } else { 1 };
    }
    let broken = open.values().filter(|count| **count != 0).count();
    ensure!(broken == 0, "{broken} exchanges are not whole");
    Ok(())
}

/// Returns the client of a record.
fn client_of(record: &Record) -> (Option<IpAddr>, u16) {
    (record.query_address, record.query_port)
}
