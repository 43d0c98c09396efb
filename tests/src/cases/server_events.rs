//! Events that are told from the messages of real servers: zone transfers in both directions, compared with the lines of
//! named's own log, and name servers that move.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{for_each_hook, note};
use crate::{
    environment::{self, Combination},
    lab::{
        self, Lab, Wanted,
        named::{self, Named},
    },
    load::{
        client::{TcpClient, UdpClient},
        tools::{dig, nsupdate},
    },
    process::PATIENCE,
    tap::{Tap, Tapped},
    wire,
};

/// Type of an AXFR query.
const AXFR: u16 = 252;

/// Key of the zone `keyed.lab`, as `dig -y` and `named.conf` have it.
const KEY: &str = "hmac-sha256:transfer.key:a2V5LWtleS1rZXkta2V5LWtleS1rZXkta2V5LWtleQ==";
const WRONG_KEY: &str = "hmac-sha256:transfer.key:d3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3Jv";
const UNKNOWN_KEY: &str = "hmac-sha256:other.key:a2V5LWtleS1rZXkta2V5LWtleS1rZXkta2V5LWtleQ==";

/// Hosts of `huge.lab`: enough that no socket buffers hold a transfer of the zone.
const HUGE: usize = 120_000;

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_hook(
            "transfers out are events with the figures of named's log",
            transfers_out,
        ),
        for_each_hook(
            "transfers in are events with the figures of named's log",
            transfers_in,
        ),
        for_each_hook(
            "a transfer that the client cuts off ends with its connection",
            cut_off,
        ),
        for_each_hook(
            "of a transfer under way at the attach, the rest is counted",
            midway,
        ),
        for_each_hook(
            "name servers that move and move back are changes, and those of parent and child are none",
            moved,
        ),
        for_each_hook(
            "a rate limit of named is told from its responses",
            limited,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Attaches with events of these kinds, to JSON and to Frame Streams.
fn attach(folder: &Path, pid: u32, how: &Combination, kinds: &str) -> Result<Tap> {
    let (json, frames) = (folder.join("events.json"), folder.join("events.fstrm"));
    let json = format!("json:{}", json.display());
    let frames = format!("file:{}", frames.display());
    let more = [
        "--events",
        kinds,
        "--events-output",
        &json,
        "--events-output",
        &frames,
    ];
    Tap::attach(folder, pid, how, &more)
}

/// Ends the tap and returns the events. Both outputs must have the same ones, and the schema must describe them.
fn events(tap: Tap, folder: &Path) -> Result<(Tapped, Vec<Value>)> {
    let tapped = tap.stop()?;
    tapped.summary.expect_nothing_dropped()?;
    let text = fs::read_to_string(folder.join("events.json"))?;
    let mut read = Command::new(environment::agent()?);
    read.args(["read", "--format", "json"])
        .arg(folder.join("events.fstrm"));
    let (again, _) = crate::process::output(read)?;
    ensure!(text == again, "the outputs differ:\n{text}\n{again}");
    let events = parsed(&text)?;
    let written = &tapped.summary.member("event_outputs")[0]["written"];
    ensure!(
        written == events.len(),
        "{written} written, {} there",
        events.len()
    );
    Ok((tapped, events))
}

/// Returns the events that are told from sockets. Probes tell of the same things in `named`: see `decisions.rs`.
fn of_sockets(events: Vec<Value>) -> Vec<Value> {
    let is_of_sockets = |event: &Value| event["source"] == "socket";
    events.into_iter().filter(is_of_sockets).collect()
}

fn parsed(text: &str) -> Result<Vec<Value>> {
    let schema = include_str!("../../../docs/dnstap-event.schema.json");
    let schema = serde_json::from_str(schema)?;
    let options = jsonschema::options().should_validate_formats(true);
    let schema = options.build(&schema)?;
    let lines = text.lines().map(|line| {
        let event: Value = serde_json::from_str(line)?;
        if let Err(error) = schema.validate(&event) {
            bail!("{error}: {line}");
        }
        Ok(event)
    });
    lines.collect()
}

/// Returns the ends of transfers.
fn ends(events: &[Value]) -> Vec<&Value> {
    events
        .iter()
        .filter(|event| event["phase"] == "end")
        .collect()
}

/// Figures of a transfer: zone, messages, records, bytes, serial.
type Figures = (String, u64, u64, u64, u64);

fn figures(end: &Value) -> Result<Figures> {
    let number = |member: &str| {
        end[member]
            .as_u64()
            .with_context(|| format!("no {member}: {end}"))
    };
    Ok((
        end["zone"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('.')
            .to_owned(),
        number("messages")?,
        number("records")?,
        number("bytes")?,
        number("new_serial")?,
    ))
}

/// Returns the figures in a line of named's log, such as "transfer of 'a/IN': AXFR ended: 6 messages, 3014 records, 66289
/// bytes, 0.015 secs (4419266 bytes/sec) (serial 1)".
fn logged(line: &str) -> Option<Figures> {
    let zone = line.split_once("ransfer of '")?.1.split_once("/IN")?.0;
    let (_, figures) = line
        .split_once(" ended: ")
        .or_else(|| line.split_once("Transfer completed: "))?;
    let mut numbers = figures
        .split(|c: char| !c.is_ascii_digit())
        .filter(|word| !word.is_empty());
    let mut number = || numbers.next()?.parse().ok();
    let (messages, records, bytes) = (number()?, number()?, number()?);
    let serial = figures
        .rsplit_once("serial ")?
        .1
        .trim_end_matches(')')
        .parse()
        .ok()?;
    Some((zone.to_owned(), messages, records, bytes, serial))
}

/// Starts an authoritative server with transfers of all kinds. Returns it with its address.
fn primary(folder: &Path, hosts: usize) -> Result<(Named, SocketAddr)> {
    let port = lab::free_port()?;
    let mut big =
        String::from("$TTL 3600\n@ SOA ns root 7 3600 900 86400 60\n@ NS ns\nns A 127.0.0.1\n");
    for host in 0..hosts {
        writeln!(
            big,
            "h{host} TXT \"record {host} of a zone that takes several messages to transfer\""
        )?;
    }
    let small = "$TTL 3600\n@ SOA ns root 1 3600 900 86400 60\n@ NS ns\nns A 127.0.0.1\n";
    let secret = KEY.rsplit(':').next().unwrap_or_default();
    let mut text = format!(
        "key transfer.key {{ algorithm hmac-sha256; secret \"{secret}\"; }};\ncontrols {{ }};\n\
         options {{\n{}listen-on port {port} {{ 127.0.0.1; }};\nlisten-on-v6 {{ none; }};\nrecursion no;\n\
         allow-transfer {{ any; }};\nnotify no;\nmax-records 0;\n}};\n",
        named::common(folder, port)?
    );
    for (zone, records, more) in [
        ("big.lab", &big[..], ""),
        ("keyed.lab", small, "allow-transfer { key transfer.key; };"),
        ("closed.lab", small, "allow-transfer { none; };"),
        (
            "dyn.lab",
            small,
            "allow-update { any; }; max-ixfr-ratio unlimited;",
        ),
    ] {
        let file = lab::write(folder, zone, records)?;
        writeln!(
            text,
            "zone \"{zone}\" {{ type primary; file \"{}\"; {more} }};",
            file.display()
        )?;
    }
    let named = named::start(folder, "primary", &text, None, &[named::RUNNING])?;
    Ok((named, (Ipv4Addr::LOCALHOST, port).into()))
}

fn transfers_out(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let (server, address) = primary(folder, 3_000)?;
    let tap = attach(folder, server.pid(), how, "transfer")?;
    for host in 0..3 {
        let update = format!("update add h{host}.dyn.lab 60 A 192.0.2.1");
        nsupdate(address, true, "dyn.lab", &update, &[])?;
    }
    for question in [
        &["big.lab", "AXFR"][..],
        &["keyed.lab", "AXFR", "-y", KEY],
        &["dyn.lab", "IXFR=1"],
        &["dyn.lab", "IXFR=4"],
        &["big.lab", "IXFR=3"],
        &["closed.lab", "AXFR"],
        &["keyed.lab", "AXFR"],
        &["keyed.lab", "AXFR", "-y", WRONG_KEY],
        &["keyed.lab", "AXFR", "-y", UNKNOWN_KEY],
        &["none.lab", "AXFR"],
    ] {
        transfer(address, question)?;
    }
    let log = server.stop_with_log()?;
    let (_, events) = events(tap, folder)?;
    let events = of_sockets(events);
    let ends = ends(&events);
    let found: Vec<_> = ends
        .iter()
        .map(|end| {
            let word = |member: &str| end[member].as_str().unwrap_or("-").to_owned();
            let [zone, asked, form, status, key] =
                ["zone", "requested", "answered", "status", "tsig_key"].map(word);
            format!("{zone} {asked} {form} {status} {key}")
        })
        .collect();
    let expected = [
        "big.lab. AXFR AXFR success -",
        "keyed.lab. AXFR AXFR success transfer.key.",
        "dyn.lab. IXFR IXFR success -",
        "dyn.lab. IXFR - up to date -",
        "big.lab. IXFR AXFR success -",
        "closed.lab. AXFR - REFUSED -",
        "keyed.lab. AXFR - REFUSED -",
        "keyed.lab. AXFR - NOTAUTH (BADSIG) transfer.key.",
        "keyed.lab. AXFR - NOTAUTH (BADKEY) other.key.",
        "none.lab. AXFR - NOTAUTH -",
    ];
    ensure!(found == expected, "{found:#?}");
    ensure!(
        events.len() == 2 * expected.len(),
        "{} events",
        events.len()
    );
    for event in &events {
        ensure!(
            event["kind"] == "transfer"
                && event["direction"] == "out"
                && event["source"] == "socket"
                && event["peer_address"] == "127.0.0.1",
            "{event}"
        );
    }
    let serials = (&ends[2]["old_serial"], &ends[2]["new_serial"]);
    ensure!(serials == (&1.into(), &4.into()), "{}", ends[2]);
    same_figures(&ends, &log)
}

/// Runs a transfer by `dig`, which may fail.
fn transfer(server: SocketAddr, question: &[&str]) -> Result<()> {
    let mut command = Command::new(environment::tool("dig")?);
    command.args([
        "-r",
        "@127.0.0.1",
        "-p",
        &server.port().to_string(),
        "+time=30",
        "+tries=1",
    ]);
    let output = command.args(question).output()?;
    ensure!(output.status.code().is_some(), "{command:?} was killed");
    Ok(())
}

/// Compares the transfers that have succeeded with the lines of named's log, in their order.
fn same_figures(ends: &[&Value], log: &[String]) -> Result<()> {
    let successful = ends.iter().filter(|end| end["status"] == "success");
    let ours = successful
        .map(|end| figures(end))
        .collect::<Result<Vec<_>>>()?;
    let theirs: Vec<_> = log.iter().filter_map(|line| logged(line)).collect();
    ensure!(ours == theirs, "{ours:?}\nnamed: {theirs:?}");
    note(format!("transfers as named's log has them: {ours:?}"));
    Ok(())
}

fn transfers_in(how: &Combination) -> Result<()> {
    let mut lab = Lab::start(Wanted {
        upstream: true,
        ..Wanted::default()
    })?;
    let folder = lab.folder().to_path_buf();
    let tap = attach(&folder, lab.tapped.pid(), how, "transfer")?;
    lab.tapped.rndc(&["retransfer", "moving.lab"])?;
    lab.tapped.wait_for_transfer()?;
    let upstream = lab.upstream_server();
    for host in 0..2 {
        let update = format!("update add h{host}.moving.lab 60 A 192.0.2.2");
        nsupdate(upstream, false, "moving.lab", &update, &[])?;
        lab.tapped.wait_for_transfer()?;
    }
    let port = upstream.port();
    let log = lab.tapped.stop_with_log()?;
    let (_, events) = events(tap, &folder)?;
    let events = of_sockets(events);
    let ends = ends(&events);
    ensure!(ends.len() == 3, "{events:#?}");
    for end in &ends {
        ensure!(
            end["direction"] == "in" && end["status"] == "success" && end["peer_port"] == port,
            "{end}"
        );
    }
    let forms: Vec<_> = ends.iter().map(|end| end["answered"].as_str()).collect();
    ensure!(
        forms == [Some("AXFR"), Some("IXFR"), Some("IXFR")],
        "{forms:?}"
    );
    // The first transfer came before the tap.
    let completed = log
        .iter()
        .filter(|line| line.contains("Transfer completed: "));
    let log: Vec<_> = completed.skip(1).cloned().collect();
    same_figures(&ends, &log)
}

fn cut_off(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let (mut server, address) = primary(folder, HUGE)?;
    let tap = attach(folder, server.pid(), how, "transfer")?;
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(&wire::framed(&wire::query(7, "big.lab", AXFR, false)))?;
    client.read_exact(&mut [0; 1_000])?;
    drop(client); // unread bytes make this a reset
    server.wait_for("the end of the transfer", |line| {
        line.contains("big.lab/IN") && line.contains("send: ")
    })?;
    server.stop()?;
    let (_, events) = events(tap, folder)?;
    let events = of_sockets(events);
    let ends = ends(&events);
    let [end] = ends[..] else {
        bail!("{events:#?}")
    };
    ensure!(
        end["status"] == "connection closed" && end["new_serial"] == 7,
        "{end}"
    );
    let records = end["records"].as_u64().unwrap_or_default();
    ensure!((1..HUGE as u64).contains(&records), "{end}");
    Ok(())
}

fn midway(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let (server, address) = primary(folder, HUGE)?;
    let mut client = TcpClient::connect_narrowly(address)?;
    client.send_raw(&wire::framed(&wire::query(7, "big.lab", AXFR, false)))?;
    let mut message = client.receive()?;
    let tap = attach(folder, server.pid(), how, "transfer")?;
    let mut records = wire::answers(&message);
    while !ends_with_soa(&message) {
        message = client.receive()?;
        records += wire::answers(&message);
        ensure!(wire::answers(&message) > 0, "{}", wire::describe(&message));
    }
    // SOA twice, NS and A.
    ensure!(records == HUGE + 4, "{records} records");
    drop(client);
    let log = server.stop_with_log()?;
    let (_, events) = events(tap, folder)?;
    let events = of_sockets(events);
    let [end] = &events[..] else {
        bail!("{events:#?}\n{}", log.join("\n"))
    };
    ensure!(
        end["phase"] == "end"
            && end["midway"] == true
            && end["zone"] == "big.lab."
            && end["new_serial"] == 7
            && end["status"] == "success",
        "{end}"
    );
    let counted = end["records"].as_u64().unwrap_or_default();
    ensure!((1..HUGE as u64).contains(&counted), "{end}");
    note(format!(
        "{how}: of a transfer under way, {counted} of {records} records were counted"
    ));
    Ok(())
}

/// Returns whether the last record of a message is an SOA record: its data ends in the five numbers of the zone.
fn ends_with_soa(message: &[u8]) -> bool {
    let numbers = [7_u32, 3_600, 900, 86_400, 60]
        .map(u32::to_be_bytes)
        .concat();
    message.ends_with(&numbers)
}

/// Starts the server of the root, which delegates `move.lab`.
fn parent(folder: &Path, port: u16, control: u16) -> Result<Named> {
    let (mut text, rndc) = named::control(folder, "127.0.0.1", control)?;
    write!(
        text,
        "options {{\n{}listen-on port {port} {{ 127.0.0.1; }};\nlisten-on-v6 {{ none; }};\nrecursion no;\nnotify no;\n\
         minimal-responses no;\n}};\nzone \".\" {{ type primary; file \"{}\"; }};\n",
        named::common(folder, port)?,
        folder.join("root").display(),
    )?;
    named::start(folder, "parent", &text, Some(rndc), &[named::RUNNING])
}

/// Writes the root zone with this delegation.
fn delegate(folder: &Path, serial: u32, servers: &[&str]) -> Result<()> {
    let mut root = format!(
        "$TTL 3600\n@ SOA ns.lab. root.lab. {serial} 3600 900 86400 60\n@ NS ns.lab.\nns.lab. A 127.0.0.1\n"
    );
    for server in servers {
        writeln!(root, "move.lab. NS {server}.\n{server}. AAAA ::1")?;
    }
    lab::write(folder, "root", &root)?;
    Ok(())
}

/// Starts the server of `move.lab`, which has an NS RRset of its own. It has another address, because the resolver asks
/// all servers on one port.
fn child(folder: &Path, port: u16) -> Result<Named> {
    let zone = "$TTL 3600\n@ SOA ns.lab. root.lab. 1 3600 900 86400 60\n@ NS own.move.lab.\nown AAAA ::1\n*.www A 192.0.2.1\n";
    let file = lab::write(folder, "move.lab", zone)?;
    let text = format!(
        "controls {{ }};\noptions {{\n{}listen-on {{ none; }};\nlisten-on-v6 port {port} {{ ::1; }};\nrecursion no;\n\
         notify no;\nminimal-responses no;\n}};\nzone \"move.lab\" {{ type primary; file \"{}\"; }};\n",
        named::common(folder, port)?,
        file.display(),
    );
    named::start(folder, "child", &text, None, &[named::RUNNING])
}

/// Starts the resolver, which asks the others on `port`.
fn resolver(folder: &Path, port: u16, own: u16, control: u16) -> Result<Named> {
    let (mut text, rndc) = named::control(folder, "127.0.0.1", control)?;
    let hint = lab::write(
        folder,
        "root.hint",
        ". 3600 NS ns.lab.\nns.lab. 3600 A 127.0.0.1\n",
    )?;
    write!(
        text,
        "options {{\n{}listen-on port {own} {{ 127.0.0.1; }};\nlisten-on-v6 {{ none; }};\nrecursion yes;\n\
         allow-recursion {{ any; }};\nqname-minimization off;\n}};\nzone \".\" {{ type hint; file \"{}\"; }};\n",
        named::common(folder, port)?,
        hint.display(),
    )?;
    named::start(folder, "resolver", &text, Some(rndc), &[named::RUNNING])
}

fn moved(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let folders = ["parent", "child", "resolver"].map(|name| folder.join(name));
    for folder in &folders {
        fs::create_dir(folder)?;
    }
    let [port, own, first, second] = [(); 4].map(|()| lab::free_port());
    let (port, own) = (port?, own?);
    let (old, new) = (["ns1.old.lab", "ns2.old.lab"], ["ns1.new.lab"]);
    delegate(&folders[0], 1, &old)?;
    let parent = parent(&folders[0], port, first?)?;
    let child = child(&folders[1], port)?;
    let resolver = resolver(&folders[2], port, own, second?)?;
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, own).into();
    let tap = attach(folder, resolver.pid(), how, "ns-change")?;
    // The same servers in another order and case are no change, nor is the child's own RRset.
    for (serial, servers) in [
        (2, &["NS2.old.lab", "ns1.OLD.lab"][..]),
        (3, &new),
        (4, &new),
        (5, &old),
    ] {
        ask(address, serial)?;
        delegate(&folders[0], serial, servers)?;
        parent.rndc(&["reload", "."])?;
        wait_for_serial((Ipv4Addr::LOCALHOST, port).into(), serial)?;
        resolver.rndc(&["flush"])?;
    }
    ask(address, 6)?;
    resolver.stop()?;
    let (_, events) = events(tap, folder)?;
    let events = of_sockets(events);
    for server in [parent, child] {
        server.stop()?;
    }
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            let list = |member: &str| {
                let names = event[member].as_array().into_iter().flatten();
                let names: Vec<_> = names
                    .filter_map(Value::as_str)
                    .map(str::to_lowercase)
                    .collect();
                names.join(" ")
            };
            let (from, to) = (list("old_servers"), list("new_servers"));
            format!(
                "{} {from} -> {to} {} {}",
                event["name"], event["moved_back"], event["certainty"]
            )
        })
        .collect();
    let [old, new] = [&old[..], &new].map(|names| {
        let names: Vec<_> = names.iter().map(|name| format!("{name}.")).collect();
        names.join(" ")
    });
    let expected = [
        format!("\"move.lab.\" {old} -> {new} false \"offered\""),
        format!("\"move.lab.\" {new} -> {old} true \"offered\""),
    ];
    ensure!(found == expected, "{found:#?}");
    for event in &events {
        ensure!(
            event["sender_address"] == "127.0.0.1"
                && event["sender_port"] == port
                && event["ttl"] == 3_600,
            "{event}"
        );
    }
    Ok(())
}

/// Asks the resolver for a name that it has not in its cache.
fn ask(resolver: SocketAddr, number: u32) -> Result<()> {
    let name = format!("a{number}.www.move.lab");
    let answer = dig(resolver, &[&name, "A"])?;
    ensure!(answer.contains("192.0.2.1"), "{answer}");
    Ok(())
}

/// Waits until the server of the root has loaded it with this serial.
fn wait_for_serial(server: SocketAddr, serial: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = dig(server, &[".", "SOA"])?;
        if answer.contains(&format!(" {serial} 3600 900 ")) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{answer}");
    }
}

/// Sends the same query many times to a server that limits, and other queries.
fn limited(how: &Combination) -> Result<()> {
    const QUERIES: u16 = 60;
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let port = lab::free_port()?;
    let zone =
        "$TTL 3600\n@ SOA ns root 1 3600 900 86400 60\n@ NS ns\nns A 127.0.0.1\n* A 192.0.2.1\n";
    let file = lab::write(folder, "limit.lab", zone)?;
    let text = format!(
        "controls {{ }};\noptions {{\n{}listen-on port {port} {{ 127.0.0.1; }};\nlisten-on-v6 {{ none; }};\nrecursion no;\n\
         rate-limit {{ responses-per-second 5; slip 2; }};\n}};\nzone \"limit.lab\" {{ type primary; file \"{}\"; }};\n",
        named::common(folder, port)?,
        file.display(),
    );
    let mut server = named::start(folder, "limits", &text, None, &[named::RUNNING])?;
    let tap = attach(folder, server.pid(), how, "rate-limit")?;
    let mut client = UdpClient::connect((Ipv4Addr::LOCALHOST, port).into())?;
    for id in 0..QUERIES {
        client.send(&wire::query(id, "www.limit.lab", wire::TYPE_A, false))?;
    }
    server.wait_for("the limit", |line| {
        line.contains("limit responses to 127.0.0.0/24 for www.limit.lab")
    })?;
    let deadline = Instant::now() + PATIENCE;
    let path = folder.join("events.json");
    while fs::read_to_string(&path)?.is_empty() {
        ensure!(Instant::now() < deadline, "no event");
        std::thread::sleep(std::time::Duration::from_millis(50)); // until the responses must have come
    }
    server.stop()?;
    let (_, events) = events(tap, folder)?;
    // A server that is probed tells of its limits itself. Then they are not told from its sockets.
    let Some(start) = events.first() else {
        bail!("no event")
    };
    ensure!(
        events
            .iter()
            .all(|event| event["source"] == start["source"]),
        "two sources: {events:#?}"
    );
    ensure!(
        start["kind"] == "rate-limit"
            && start["phase"] == "start"
            && start["client_address"] == "127.0.0.0"
            && start["client_prefix_length"] == 24
            && start["name"] == "www.limit.lab."
            && start["type"] == "A",
        "{start}"
    );
    Ok(())
}
