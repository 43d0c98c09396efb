//! Events from probes are the decisions of the server: they are compared with its own log and with a dump of its cache.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{for_each_hook, for_each_hook_in_turn};
use crate::{
    environment::{Combination, Skip},
    lab::{
        self, Lab, Wanted,
        named::{self, Named},
    },
    load::client::UdpClient,
    tap::{Summary, Tap},
    wire,
};

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_hook_in_turn("rate limits are those of named's own log", rate_limits),
        for_each_hook(
            "transfers have the counts and the status of named's own log",
            transfers,
        ),
        for_each_hook("what is flushed is reported with name and scope", flushes),
        for_each_hook_in_turn("what a cache accepts is in its dump", cached),
        for_each_hook(
            "name servers that replace others are a change",
            name_servers,
        ),
        for_each_hook("data from outside of the zone is not accepted", poisoned),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Returns the events in a file, those of probes alone.
fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).context("the events")?;
    let events: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let is_probes = |event: &Value| event["source"] == "probe";
    Ok(events.into_iter().filter(is_probes).collect())
}

/// Returns a member of an event as text; empty if there is none.
fn text(event: &Value, member: &str) -> String {
    match &event[member] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Checks that no call of a probe was unreadable and no line or notice was not understood. The kernel may miss calls; the
/// test cannot tell anything then.
fn expect_understood(summary: &Summary) -> Result<()> {
    let missed = summary.member("probes_missed");
    if *missed != 0 {
        return Err(Skip(format!("the kernel missed {missed} calls of probes")).into());
    }
    let not = [
        summary.kernel("probe_fault")?,
        summary.kernel("probe_ring_full")?,
        summary.pipeline("probed_malformed")?,
        summary.pipeline("probed_lines_unknown")?,
    ];
    ensure!(not == [0; 4], "not understood: {not:?}\n{summary}");
    Ok(())
}

/// Asks a question and takes any answer.
fn ask(server: SocketAddr, name: &str, record_type: u16, id: u16) -> Result<()> {
    let mut client = UdpClient::connect(server)?;
    client.send(&wire::query(id, name, record_type, true))?;
    client.receive()?;
    Ok(())
}

fn rate_limits(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let port = lab::free_port()?;
    let zone = lab::write(
        folder,
        "zone",
        "@ 60 SOA . . 1 1 1 1 1\n@ NS .\nwww A 192.0.2.1\n",
    )?;
    let configuration = format!(
        "controls {{ }};\n\
         options {{ {}listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
         recursion no; dnssec-validation no; rate-limit {{ responses-per-second 5; slip 2; }}; }};\n\
         zone \"limit.lab\" {{ type primary; file \"{}\"; }};\n",
        named::basics(folder)?,
        zone.display(),
    );
    let server = named::start(folder, "limited", &configuration, None, &[named::RUNNING])?;
    let events = folder.join("events.json");
    let output = format!("json:{}", events.display());
    let options = ["--events", "rate-limit", "--events-output", &output];
    let tap = Tap::attach(folder, server.pid(), how, &options)?;
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    for name in ["www.limit.lab", "none.limit.lab", "limit.lab"] {
        for id in 0..30 {
            let query = wire::query(id, name, wire::TYPE_A, false);
            socket.send_to(&query, ("127.0.0.1", port))?;
        }
    }
    // It is answered when those before it were: all queries of one socket of a client reach the same worker.
    let last = 1_000_u16;
    let query = wire::query(last, "limit.lab", wire::TYPE_SOA, false);
    socket.send_to(&query, ("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut answer = [0; 512];
    while !answer.starts_with(&last.to_be_bytes()) {
        socket.recv(&mut answer).context("the last answer")?;
    }
    let log = server.stop_with_log()?;
    let summary = tap.summary().to_owned();
    tap.finish()?;
    let summary = Summary::read(&summary)?;
    summary.expect_accounted()?;
    expect_understood(&summary)?;
    let (mut expected, mut limited) = (Vec::new(), [0, 0]);
    for line in &log {
        let line = line.splitn(3, ' ').nth(2).unwrap_or_default();
        if let Some((_, line)) = line.split_once(": rate limit ") {
            limited[usize::from(line.starts_with("slip "))] += 1;
        } else if line.contains(" responses to ") {
            let line = line.split("  (").next().unwrap_or_default();
            expected.push(line.trim_start_matches('*').to_owned());
        }
    }
    let events = read(&events)?;
    let said: Vec<_> = events.iter().map(as_line).collect();
    ensure!(said == expected, "{said:#?}\nbut the log: {expected:#?}");
    ensure!(
        expected.len() >= 6,
        "three limits with their ends: {expected:#?}"
    );
    let sum = |member| {
        events
            .iter()
            .filter_map(|event| event[member].as_u64())
            .sum::<u64>()
    };
    let counted = [sum("dropped"), sum("slipped")];
    ensure!(counted == limited, "{counted:?}, but the log: {limited:?}");
    Ok(())
}

/// Returns named's own line for an event of a rate limit, without the hash.
fn as_line(event: &Value) -> String {
    let action = if event["phase"] == "start" {
        "limit"
    } else {
        "stop limiting"
    };
    let category = match text(event, "category").as_str() {
        "response" => String::new(),
        other => format!("{} ", other.to_ascii_uppercase()),
    };
    let client = text(event, "client_address");
    let name = text(event, "name");
    let mut line = format!(
        "{action} {category}responses to {client}/{} for {}",
        text(event, "client_prefix_length"),
        name.trim_end_matches('.')
    );
    for member in ["class", "type"] {
        // The line about NXDOMAIN has the zone alone, and the one about NODATA no type.
        if !event[member].is_null() {
            line.push(' ');
            line.push_str(&text(event, member));
        }
    }
    line
}

fn transfers(how: &Combination) -> Result<()> {
    let mut lab = Lab::start(Wanted {
        upstream: true,
        ..Wanted::default()
    })?;
    let folder = lab.folder().to_owned();
    let primary = lab.upstream.as_ref().context("the primary")?.pid();
    let attach = |pid: u32, name: &str| {
        let events = folder.join(format!("{name}.events"));
        let output = format!("json:{}", events.display());
        let options = ["--events", "transfer", "--events-output", &output];
        let at = |end: &str| folder.join(format!("{name}.{end}"));
        let tap = Tap::attach_with(&at("fstrm"), &at("json"), pid, how, &options)?;
        anyhow::Ok((tap, events))
    };
    let secondary = attach(lab.tapped.pid(), "secondary")?;
    let primary = attach(primary, "primary")?;
    lab.tapped.rndc(&["retransfer", "moving.lab"])?;
    let completed = next_line(&mut lab.tapped, "Transfer completed: ")?;
    let port = lab.upstream_server().port().to_string();
    for ((tap, path), direction) in [(secondary, "in"), (primary, "out")] {
        let tapped = tap.stop()?;
        expect_understood(&tapped.summary)?;
        let events = read(&path)?;
        let phases: Vec<_> = events.iter().map(|event| text(event, "phase")).collect();
        ensure!(phases == ["start", "end"], "{direction}: {events:#?}");
        for event in &events {
            ensure!(
                (
                    text(event, "direction").as_str(),
                    text(event, "zone").as_str()
                ) == (direction, "moving.lab."),
                "{event}"
            );
            let is_primarys = text(event, "peer_port") == port;
            ensure!(is_primarys == (direction == "in"), "{event}");
        }
        let end = &events[1];
        ensure!(end["status"] == "success", "{end}");
        let counts = format!(
            "{} messages, {} records, ",
            text(end, "messages"),
            text(end, "records")
        );
        ensure!(
            completed.contains(&counts),
            "{counts}, but the log: {completed}"
        );
    }
    Ok(())
}

/// Returns the next line of a server's log that contains `words`.
fn next_line(server: &mut Named, words: &str) -> Result<String> {
    let found = std::cell::RefCell::new(String::new());
    server.wait_for(words, |line| {
        let is_it = line.contains(words);
        if is_it {
            line.clone_into(&mut found.borrow_mut());
        }
        is_it
    })?;
    Ok(found.into_inner())
}

fn flushes(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted {
        upstream: true,
        ..Wanted::default()
    })?;
    let events = lab.folder().join("events.json");
    let output = format!("json:{}", events.display());
    let options = ["--events", "purge", "--events-output", &output];
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &options)?;
    for arguments in [
        &["flushname", "w1.up.lab", "_default"][..],
        &["flushtree", "up.lab", "_default"],
        &["flush", "_default"],
    ] {
        lab.tapped.rndc(arguments)?;
    }
    let tapped = tap.stop()?;
    expect_understood(&tapped.summary)?;
    let said: Vec<_> = read(&events)?
        .iter()
        .map(|event| ["scope", "name", "view"].map(|member| text(event, member)))
        .collect();
    let expected = [
        ["name", "w1.up.lab.", "_default"],
        ["tree", "up.lab.", "_default"],
        ["cache", "", "_default"],
    ];
    ensure!(said == expected, "{said:#?}");
    Ok(())
}

/// RRsets by name and type. A type behind `\-` does not exist.
type Contents = BTreeMap<(String, String), BTreeSet<String>>;

fn cached(how: &Combination) -> Result<()> {
    let mut lab = Lab::start(Wanted {
        upstream: true,
        ..Wanted::default()
    })?;
    let events = lab.folder().join("events.json");
    let output = format!("json:{}", events.display());
    let options = [
        "--events",
        "cache,expiry,purge",
        "--events-output",
        &output,
        "--probe",
        "zone",
    ];
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &options)?;
    let server = lab.server(false);
    for (id, (name, record_type)) in (0..).zip([
        ("w1.up.lab", wire::TYPE_A),
        ("w2.up.lab", wire::TYPE_A),
        ("w2.up.lab", wire::TYPE_TXT),
        ("none.up.lab", wire::TYPE_A),
        ("chain.up.lab", wire::TYPE_A),
        ("up.lab", wire::TYPE_SOA),
        ("w3.up.lab", wire::TYPE_A),
        ("w4.up.lab", wire::TYPE_A),
    ]) {
        ask(server, name, record_type, id)?;
    }
    lab.tapped.rndc(&["flushname", "w4.up.lab"])?;
    for number in 10..60 {
        ask(server, &format!("w{number}.up.lab"), wire::TYPE_A, number)?;
    }
    lab.tapped.rndc(&["dumpdb", "-cache"])?;
    next_line(&mut lab.tapped, "dumpdb complete")?;
    let tapped = tap.stop()?;
    expect_understood(&tapped.summary)?;
    let events = read(&events)?;
    expect_senders(&lab, &events)?;
    let accepted = accepted(&events);
    ensure!(accepted.len() > 50, "few: {accepted:#?}");
    let dump = fs::read_to_string(lab.folder().join("named_dump.db")).context("the dump")?;
    let dump = contents(&dump);
    for ((name, record_type), data) in &accepted {
        let key = (name.clone(), record_type.clone());
        ensure!(
            dump.get(&key) == Some(data),
            "{key:?} is {data:?}, but in the dump {:?}",
            dump.get(&key)
        );
    }
    for (name, record_type) in [
        ("w1.up.lab.", "A"),
        ("none.up.lab.", r"\-ANY"),
        ("w2.up.lab.", r"\-TXT"),
        ("chain.up.lab.", "CNAME"),
    ] {
        let key = (name.to_owned(), record_type.to_owned());
        ensure!(accepted.contains_key(&key), "not accepted: {key:?}");
    }
    let flushed = ("w4.up.lab.".to_owned(), "A".to_owned());
    ensure!(
        !dump.contains_key(&flushed) && !accepted.contains_key(&flushed),
        "it was flushed"
    );
    Ok(())
}

/// Checks that each RRset has the server that sent it, and the zone that was asked: the parent gives glue, all else
/// comes from the zone.
fn expect_senders(lab: &Lab, events: &[Value]) -> Result<()> {
    let port = lab.upstream_server().port();
    let is_asked = |event: &&Value| {
        let name = text(event, "name");
        event["kind"] == "cache" && (name.starts_with('w') || name.starts_with("none."))
    };
    let asked: Vec<_> = events.iter().filter(is_asked).collect();
    ensure!(asked.len() > 50, "few: {asked:#?}");
    for event in asked {
        let is_local = ["127.0.0.1", "::1"].contains(&text(event, "responder_address").as_str());
        let is_right =
            is_local && event["responder_port"] == port && event["bailiwick"] == "up.lab.";
        ensure!(is_right, "{event}");
    }
    let is_glue = |event: &&Value| event["kind"] == "cache" && event["trust"] == "glue";
    for event in events.iter().filter(is_glue) {
        ensure!(event["bailiwick"] == ".", "{event}");
    }
    Ok(())
}

/// Returns what the caches have according to the events.
fn accepted(events: &[Value]) -> Contents {
    let mut contents = Contents::new();
    for event in events {
        let (name, record_type) = (text(event, "name"), text(event, "type"));
        match text(event, "kind").as_str() {
            "cache" if event["outcome"] == "refused" => {}
            "cache" if event["outcome"] == "negative" => {
                if record_type == "ANY" {
                    contents.retain(|(known, _), _| *known != name);
                }
                contents.remove(&(name.clone(), record_type.clone()));
                let none = format!(r"\-{record_type}");
                contents.insert((name, none), BTreeSet::new());
            }
            "cache" => {
                for none in [r"\-ANY".to_owned(), format!(r"\-{record_type}")] {
                    contents.remove(&(name.clone(), none));
                }
                let rdata = event["rdata"].as_array().into_iter().flatten();
                let rdata = rdata.filter_map(Value::as_str).map(str::to_owned);
                contents.insert((name, record_type), rdata.collect());
            }
            "expiry" => drop(contents.remove(&(name, record_type))),
            "purge" => contents.retain(|(known, _), _| *known != name),
            _ => {}
        }
    }
    contents
}

/// Reads the dump of a cache: `[NAME] TTL [CLASS] TYPE DATA`. A line that begins with a space has the name of the line
/// before it.
fn contents(dump: &str) -> Contents {
    let mut contents = Contents::new();
    let mut name = String::new();
    for line in in_one_line(dump).lines() {
        if line.starts_with("; Address database dump") {
            break;
        }
        if line.starts_with([';', '$']) {
            continue;
        }
        let mut words = line.split_whitespace();
        if !line.starts_with(char::is_whitespace) {
            words.next().unwrap_or_default().clone_into(&mut name);
        }
        let mut words = words.skip_while(|word| word.parse::<u32>().is_ok() || *word == "IN");
        let Some(record_type) = words.next() else {
            continue;
        };
        let data = contents
            .entry((name.to_ascii_lowercase(), record_type.to_owned()))
            .or_default();
        if !record_type.starts_with('\\') {
            data.insert(words.collect::<Vec<_>>().join(" "));
        }
    }
    contents
}

/// Puts the data between parentheses into one line, without comments.
fn in_one_line(dump: &str) -> String {
    let (mut joined, mut is_open) = (String::new(), false);
    for line in dump.lines() {
        let (data, comment) = line.split_once(';').unwrap_or((line, ""));
        if data.is_empty() {
            joined.extend([";", comment, "\n"]);
            continue;
        }
        is_open = (is_open || data.contains('(')) && !data.contains(')');
        joined += &data.replace(['(', ')'], " ");
        joined.push(if is_open { ' ' } else { '\n' });
    }
    joined
}

/// A forwarder whose answers have data of another zone, too. Such data must not be accepted.
fn poisoned(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let forwarder = UdpSocket::bind(("127.0.0.1", 0))?;
    forwarder.set_read_timeout(Some(Duration::from_millis(100)))?;
    let port = lab::free_port()?;
    let configuration = format!(
        "controls {{ }};\noptions {{ {}listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
         recursion yes; }};\n\
         zone \".\" {{ type hint; file \"{}\"; }};\n\
         zone \"poison.lab\" {{ type forward; forward only; forwarders {{ 127.0.0.1 port {}; }}; }};\n",
        named::common(folder, forwarder.local_addr()?.port())?,
        lab::write(
            folder,
            "hint",
            ". 60 NS ns.root.lab.\nns.root.lab. 60 A 127.0.0.1\n"
        )?
        .display(),
        forwarder.local_addr()?.port(),
    );
    let server = named::start(
        folder,
        "forwarding",
        &configuration,
        None,
        &[named::RUNNING],
    )?;
    let events = folder.join("events.json");
    let output = format!("json:{}", events.display());
    let options = ["--events", "cache,ns-change", "--events-output", &output];
    let tap = Tap::attach(folder, server.pid(), how, &options)?;
    let is_over = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let answers = scope.spawn(|| answer_with_poison(&forwarder, &is_over));
        let asked = ask(
            ([127, 0, 0, 1], port).into(),
            "www.poison.lab",
            wire::TYPE_A,
            7,
        );
        is_over.store(true, Ordering::Relaxed);
        let answered = answers.join();
        answered.map_err(|_panic| anyhow::anyhow!("the forwarder panicked"))??;
        asked
    });
    asked?;
    let tapped = tap.stop()?;
    expect_understood(&tapped.summary)?;
    let events = read(&events)?;
    let names: BTreeSet<_> = events.iter().map(|event| text(event, "name")).collect();
    ensure!(names.contains("www.poison.lab."), "{events:#?}");
    ensure!(
        !names.iter().any(|name| name.contains("victim")),
        "{events:#?}"
    );
    server.stop()
}

/// Answers each query with an address, and with an address and a name server for another zone.
fn answer_with_poison(socket: &UdpSocket, is_over: &AtomicBool) -> Result<()> {
    let mut query = [0; 512];
    while !is_over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut query) else {
            continue;
        };
        let question = 12
            + query[12..]
                .iter()
                .position(|byte| *byte == 0)
                .context("no name")?
            + 5;
        ensure!(question <= length, "a query without a question");
        let mut response = query[..2].to_vec();
        response.extend([0x84, 0, 0, 1, 0, 1, 0, 1, 0, 1]);
        response.extend(&query[12..question]);
        let address = [&[0, 1, 0, 1, 0, 0, 1, 0, 0, 4][..], &[192, 0, 2, 66]].concat();
        let victim = b"\x06victim\x03lab\0";
        let server = b"\x02ns\x06victim\x03lab\0";
        response.extend([&[0xc0, 12][..], &address].concat());
        response.extend([&victim[..], &[0, 2, 0, 1, 0, 0, 1, 0, 0, 15], server].concat());
        response.extend([&server[..], &address].concat());
        socket.send_to(&response, from)?;
    }
    Ok(())
}

/// The parent says that `ns1` serves `move.lab`, the child says that `ns2` does. The cache believes the child.
fn name_servers(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let parent = UdpSocket::bind(("127.0.0.1", 0))?;
    let servers = parent.local_addr()?.port();
    let child = UdpSocket::bind(("127.0.0.2", servers))?;
    let port = lab::free_port()?;
    let configuration = format!(
        "controls {{ }};\noptions {{ {}listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
         recursion yes; qname-minimization off; }};\n\
         server 127.0.0.0/8 {{ edns no; }};\n\
         zone \".\" {{ type hint; file \"{}\"; }};\n",
        named::common(folder, servers)?,
        lab::write(
            folder,
            "hint",
            ". 60 NS ns.root.lab.\nns.root.lab. 60 A 127.0.0.1\n"
        )?
        .display(),
    );
    let server = named::start(folder, "recursive", &configuration, None, &[named::RUNNING])?;
    let events = folder.join("events.json");
    let output = format!("json:{}", events.display());
    let options = ["--events", "ns-change,cache", "--events-output", &output];
    let tap = Tap::attach(folder, server.pid(), how, &options)?;
    let is_over = AtomicBool::new(false);
    let delegated = [
        (
            Section::Authority,
            "move.lab",
            TYPE_NS,
            wire_name("ns1.move.lab"),
        ),
        (
            Section::Additional,
            "ns1.move.lab",
            wire::TYPE_A,
            vec![127, 0, 0, 2],
        ),
    ];
    let address = [(
        Section::Answer,
        "www.move.lab",
        wire::TYPE_A,
        vec![192, 0, 2, 7],
    )];
    let moved = [(
        Section::Answer,
        "move.lab",
        TYPE_NS,
        wire_name("ns2.move.lab"),
    )];
    let root = [(Section::Answer, "", TYPE_NS, wire_name("ns.root.lab"))];
    let of_parent = |name: &str, _| {
        if name.ends_with("move.lab") {
            &delegated[..]
        } else {
            &root[..]
        }
    };
    let of_child = |_: &str, record_type| {
        if record_type == TYPE_NS {
            &moved[..]
        } else {
            &address[..]
        }
    };
    let asked = thread::scope(|scope| {
        let answering = [
            scope.spawn(|| serve(&parent, &is_over, of_parent)),
            scope.spawn(|| serve(&child, &is_over, of_child)),
        ];
        let server = ([127, 0, 0, 1], port).into();
        let asked = ask(server, "www.move.lab", wire::TYPE_A, 1)
            .and_then(|()| ask(server, "move.lab", TYPE_NS, 2));
        is_over.store(true, Ordering::Relaxed);
        for answering in answering {
            let ended = answering.join();
            ended.map_err(|_panic| anyhow::anyhow!("a server panicked"))??;
        }
        asked
    });
    asked?;
    let tapped = tap.stop()?;
    expect_understood(&tapped.summary)?;
    expect_one_change(&read(&events)?)?;
    server.stop()
}

/// Checks that the only change is that of the child, and that the cache accepted it.
fn expect_one_change(events: &[Value]) -> Result<()> {
    let changes: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "ns-change")
        .collect();
    ensure!(changes.len() == 1, "{events:#?}");
    let said = [
        "name",
        "old_servers",
        "new_servers",
        "old_trust",
        "certainty",
        "sender_address",
    ]
    .map(|member| text(changes[0], member));
    let expected = [
        "move.lab.",
        "[\"ns1.move.lab.\"]",
        "[\"ns2.move.lab.\"]",
        "glue",
        "accepted",
        "127.0.0.2",
    ];
    ensure!(said == expected, "{}", changes[0]);
    Ok(())
}

const TYPE_NS: u16 = 2;

/// Section of a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Answer,
    Authority,
    Additional,
}

/// Record of a response: where, name, type and data.
type Served<'n> = (Section, &'n str, u16, Vec<u8>);

/// Returns a name in wire format.
fn wire_name(name: &str) -> Vec<u8> {
    let query = wire::query(0, name, wire::TYPE_A, false);
    query[12..query.len() - 4].to_vec()
}

/// Answers each query with the records that `records` has for its name and type.
fn serve<'s>(
    socket: &UdpSocket,
    is_over: &AtomicBool,
    records: impl Fn(&str, u16) -> &'s [Served<'s>],
) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut query = [0; 512];
    while !is_over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut query) else {
            continue;
        };
        let (name, record_type) = wire::question(&query[..length]).context("no question")?;
        let question = 12 + wire_name(&name).len() + 4;
        let records = records(&name, record_type);
        let mut response = query[..question].to_vec();
        let is_answer = records.iter().any(|record| record.0 == Section::Answer);
        response[2] = if is_answer { 0x84 } else { 0x80 };
        response[3] = 0;
        for (at, section) in [
            (6, Section::Answer),
            (8, Section::Authority),
            (10, Section::Additional),
        ] {
            response[at] = 0;
            let records = records.iter().filter(|record| record.0 == section);
            response[at + 1] = u8::try_from(records.count())?;
        }
        for (_, name, record_type, data) in records {
            response.extend(wire_name(name));
            response.extend(record_type.to_be_bytes());
            response.extend([0, 1, 0, 0, 1, 0]);
            response.extend(u16::try_from(data.len())?.to_be_bytes());
            response.extend(data);
        }
        socket.send_to(&response, from)?;
    }
    Ok(())
}
