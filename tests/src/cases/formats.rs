//! The output of `read` has the same content as that of third-party programs: packets by tshark, YAML by golang-dnstap.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::SocketProtocol;
use libtest_mimic::Trial;

use super::trial;
use crate::{
    environment::{agent, combinations, tool},
    lab::{Lab, Wanted},
    load::mixed,
    process::output,
    record::Record,
    tap::Tap,
};

pub(super) fn trials() -> Vec<Trial> {
    let name =
        "tshark finds our messages in our packets, and our YAML says what golang-dnstap's says";
    combinations()
        .into_iter()
        .take(1)
        .map(|how| {
            trial(format!("{how}: {name}"), move || {
                let mut lab = Lab::start(Wanted {
                    upstream: true,
                    ..Wanted::default()
                })?;
                let ports = [lab.server(false), lab.upstream_server()].map(|server| server.port());
                let tap = Tap::attach(lab.folder(), lab.tapped.pid(), &how, &[])?;
                mixed::run(&mut lab)?;
                let tapped = tap.stop()?;
                let records = tapped.records()?;
                ensure!(records.len() > 9_000, "only {} frames", records.len());
                packets(&records, &tapped.file, &ports)?;
                yaml(&records, &tapped.file)
            })
        })
        .collect()
}

/// Fields of tshark, in the order of its output.
const FIELDS: [&str; 15] = [
    "frame.time_epoch",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "udp.srcport",
    "tcp.srcport",
    "udp.dstport",
    "tcp.dstport",
    "udp.payload",
    "tcp.payload",
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
    "dns.id",
];

/// Value with which tshark says that a checksum is right.
const GOOD: &str = "1";

fn packets(records: &[Record], file: &Path, ports: &[u16]) -> Result<()> {
    let pcap = file.with_extension("pcap");
    let mut read = Command::new(agent()?);
    read.args(["read", "--format", "pcap"]).arg(file);
    read.stdout(fs::File::create(&pcap)?);
    ensure!(read.status()?.success());
    let mut tshark = Command::new(tool("tshark")?);
    tshark.arg("-r").arg(&pcap).args(["-n", "-T", "fields"]);
    for protocol in ["ip", "udp", "tcp"] {
        tshark.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    for port in ports {
        for over in ["udp", "tcp"] {
            tshark.args(["-d", &format!("{over}.port=={port},dns")]);
        }
    }
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    let (text, _) = output(tshark)?;
    let mut lines = text.lines();
    let mut dissected = 0;
    for (at, record) in records.iter().enumerate() {
        let wanted = record.message.len();
        let mut message = Vec::new();
        let stream = record.protocol != SocketProtocol::Udp;
        while message.len() < wanted + if stream { 2 } else { 0 } {
            let line = lines
                .next()
                .with_context(|| format!("record {at} is missing"))?;
            let fields: Vec<_> = line.split('\t').collect();
            expect_headers(record, &fields).with_context(|| format!("record {at}: {line}"))?;
            message.extend(bytes(fields[if stream { 10 } else { 9 }])?);
            dissected += usize::from(!fields[14].is_empty());
        }
        let message = if stream {
            let (length, message) = message.split_first_chunk().context("a length")?;
            ensure!(
                usize::from(u16::from_be_bytes(*length)) == wanted,
                "record {at}"
            );
            message
        } else {
            &message[..]
        };
        ensure!(message == record.message, "record {at} has other bytes");
    }
    ensure!(lines.next().is_none(), "more packets than messages");
    ensure!(
        dissected >= records.len() * 99 / 100,
        "tshark finds DNS in {dissected} packets of {} messages",
        records.len()
    );
    Ok(())
}

fn expect_headers(record: &Record, fields: &[&str]) -> Result<()> {
    ensure!(fields.len() == FIELDS.len(), "{} fields", fields.len());
    let time = format!(
        "{}.{:09}",
        record.time.as_secs(),
        record.time.subsec_nanos()
    );
    ensure!(fields[0] == time, "the time is {time}");
    let either = |at: usize| [fields[at], fields[at + 1]].concat();
    let (asking, answering) = (
        (record.query_address, record.query_port),
        (record.response_address, record.response_port),
    );
    let (from, to) = if record.is_response() {
        (answering, asking)
    } else {
        (asking, answering)
    };
    for ((address, port), at) in [(from, 1), (to, 3)] {
        let found: IpAddr = either(at).parse()?;
        ensure!(
            address.map_or(found.is_unspecified(), |address| address == found),
            "not {address:?}"
        );
        ensure!(either(at + 4).parse::<u16>()? == port, "not port {port}");
    }
    let checked = if record.protocol == SocketProtocol::Udp {
        12
    } else {
        13
    };
    ensure!(fields[checked] == GOOD, "wrong checksum");
    ensure!(
        fields[1].is_empty() || fields[11] == GOOD,
        "wrong checksum of IP"
    );
    Ok(())
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| {
        Ok(u8::from_str_radix(
            hex.get(at..at + 2).context("half a byte")?,
            16,
        )?)
    };
    (0..hex.len()).step_by(2).map(pair).collect()
}

/// Facts about a message that both programs print, by our names.
type Facts = BTreeMap<&'static str, String>;

fn yaml(records: &[Record], file: &Path) -> Result<()> {
    let mut ours = Command::new(agent()?);
    ours.args(["read", "--format", "yaml"]).arg(file);
    let (ours, _) = output(ours)?;
    let mut theirs = Command::new(tool("dnstap")?);
    theirs.args(["-y", "-r"]).arg(file);
    let (theirs, _) = output(theirs)?;
    let (mut ours, mut theirs) = (documents(&ours), documents(&theirs));
    ensure!(
        (ours.len(), theirs.len()) == (records.len(), records.len()),
        "{} and {} documents of {} messages",
        ours.len(),
        theirs.len(),
        records.len()
    );
    let mut compared = 0;
    for (at, (ours, theirs)) in ours.drain(..).zip(theirs.drain(..)).enumerate() {
        let (our_facts, their_facts) = (our_facts(&ours), their_facts(&theirs));
        for (name, fact) in &their_facts {
            ensure!(
                our_facts.get(name) == Some(fact),
                "record {at}: {name} is {:?}, theirs {fact:?}\n{ours}\n{theirs}",
                our_facts.get(name)
            );
            compared += 1;
        }
    }
    ensure!(
        compared > 12 * records.len(),
        "only {compared} facts compared"
    );
    Ok(())
}

fn documents(text: &str) -> Vec<String> {
    let mut documents = Vec::new();
    let mut document = String::new();
    for line in text.lines() {
        if line == "---" {
            documents.push(std::mem::take(&mut document));
        } else {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.push(document);
    documents.retain(|document| !document.is_empty());
    documents
}

/// Parses our output: lines are `key: value`; those of the DNS message are indented further.
fn our_facts(document: &str) -> Facts {
    let mut facts = Facts::new();
    let mut flags = Vec::new();
    let mut section = "";
    for line in document.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        let depth = key.len() - key.trim_start().len();
        let key = key.trim_start();
        if value.is_empty() {
            section = key;
        }
        if (depth, section, value) == (4, "flags", "true") {
            flags.push(key);
        }
        for name in PLAIN
            .into_iter()
            .chain(["id", "opcode", "rcode", "qname", "qtype", "qclass"])
        {
            if key == name && depth <= 2 {
                facts.insert(name, value.to_owned());
            }
        }
        for name in ["qd", "an", "ns", "ar"] {
            if (depth, section, key) == (4, "counts", name) {
                facts.insert(name, value.to_owned());
            }
        }
    }
    for time in ["query_time", "response_time"] {
        if let Some(text) = facts.get_mut(time) {
            *text = shortened(text.trim_end_matches('Z'));
        }
    }
    facts.insert("flags", flags.join(" "));
    facts
}

/// Names that are the same in both programs.
const PLAIN: [&str; 10] = [
    "type",
    "identity",
    "socket_family",
    "socket_protocol",
    "query_address",
    "response_address",
    "query_port",
    "response_port",
    "query_time",
    "response_time",
];

/// Parses their output: lines are `  key: value`, and the DNS message has dig's format.
fn their_facts(document: &str) -> Facts {
    let mut facts = Facts::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix(";; opcode: ") {
            let words: Vec<_> = rest.split(", ").collect();
            let [opcode, rcode, id] = words[..] else {
                continue;
            };
            facts.insert("opcode", opcode.to_owned());
            facts.insert("rcode", rcode.trim_start_matches("status: ").to_owned());
            facts.insert("id", id.trim_start_matches("id: ").to_owned());
        } else if let Some((flags, counts)) = line
            .strip_prefix(";; flags: ")
            .and_then(|rest| rest.split_once("; "))
        {
            facts.insert("flags", flags.trim_end_matches(';').to_owned());
            let names = ["QUERY", "ANSWER", "AUTHORITY", "ADDITIONAL"];
            for (count, (theirs, ours)) in counts
                .split(", ")
                .zip(names.into_iter().zip(["qd", "an", "ns", "ar"]))
            {
                if let Some(number) = count
                    .strip_prefix(theirs)
                    .and_then(|rest| rest.strip_prefix(": "))
                {
                    facts.insert(ours, number.to_owned());
                }
            }
        } else if line.starts_with(";; QUESTION SECTION") {
            let question: Vec<_> = lines
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            if let [name, class, kind] = question[..] {
                facts.insert("qname", name.trim_start_matches(';').to_owned());
                facts.insert("qclass", class.to_owned());
                facts.insert("qtype", kind.to_owned());
            }
        } else if let Some((key, value)) = line.split_once(": ")
            && let Some(name) = PLAIN.into_iter().find(|name| *name == key)
            && !(name == "type" && value == "MESSAGE")
        {
            facts.insert(name, value.trim_matches('"').to_owned());
        }
    }
    for time in ["query_time", "response_time"] {
        if let Some(text) = facts.get_mut(time) {
            *text = shortened(&text.replace("!!timestamp ", "").replacen(' ', "T", 1));
        }
    }
    facts
}

/// Removes the zeros at the end of a time, which only one of the programs writes.
fn shortened(time: &str) -> String {
    time.trim_end_matches('0').trim_end_matches('.').to_owned()
}
