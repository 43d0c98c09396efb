//! Makes seeds from a dnstap file: `cargo run -p dnstap-fuzz --example seeds -- CAPTURE [FOLDER]`.
//!
//! It takes the first messages of each type and makes the inputs of the fuzz targets, in as few files as show each kind
//! once.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use dnstap_proto::{
    Dnstap, SocketProtocol,
    frame_streams::{DNSTAP_CONTENT_TYPE, Reader, Writer},
};
use prost::Message as _;

/// Number of messages of each type that are used.
const EACH: usize = 2;

/// A message: its frame's payload and its content.
struct Message {
    payload: Bytes,
    sent: bool,
    tcp: bool,
    dns: Bytes,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let capture = arguments.next().context("which dnstap file?")?;
    let folder = arguments.next().map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds"),
        PathBuf::from,
    );
    let messages = messages(&capture)?;
    let put = |target: &str, name: &str, bytes: &[u8]| -> Result<()> {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE)?;
    for (number, message) in messages.iter().enumerate() {
        let name = format!("capture-{number:02}");
        put("dnstap", &name, &message.payload)?;
        put("read", &name, &[&[0], &message.payload[..]].concat())?;
        put("event", &name, &event(&messages[number..], 1)?)?;
        put("classify", &name, &classify(&messages[number..], 1)?)?;
        writer.write_frame(&message.payload)?;
    }
    put("event", "capture-all", &event(&messages, messages.len())?)?;
    put(
        "event",
        "capture-all-bind",
        &[&[1], &event(&messages, messages.len())?[1..]].concat(),
    )?;
    put(
        "classify",
        "capture-all",
        &classify(&messages, messages.len())?,
    )?;
    let file = writer.finish()?;
    let (start, rest) = file.split_at(42);
    put(
        "frame_streams",
        "file",
        &[&[0, 1, 7, 200], &file[..]].concat(),
    )?;
    put(
        "frame_streams",
        "server-one-way",
        &[&[1, 1, 7, 200], &file[..]].concat(),
    )?;
    // READY has START's content type; a client receives ACCEPT and FINISH.
    let control = |kind: u8| [&start[..11], &[kind], &start[12..]].concat();
    put(
        "frame_streams",
        "server",
        &[&[1, 3, 5, 255], &control(4)[..], start, rest].concat(),
    )?;
    let finish = [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5];
    put(
        "frame_streams",
        "client",
        &[&[130, 1, 2, 3], &control(1)[..], &finish[..]].concat(),
    )?;
    put("stream", "whole", &stream(0, &messages)?)?;
    put(
        "stream",
        "torn",
        &[
            &[1, 1],
            &[
                0x12, 0x34, 3, 0x81, 7, 2, 0, 1, 1, 9, 0, 0, 2, 0x80, 40, 7, 0, 3,
            ][..],
        ]
        .concat(),
    )?;
    put("stream", "wild", &wild(&messages)?)?;
    options(&put)
}

/// Writes texts for each parser of operators' input.
fn options(put: &impl Fn(&str, &str, &[u8]) -> Result<()>) -> Result<()> {
    let options: [(u8, &str); 18] = [
        (0, "-"),
        (0, "json:-"),
        (0, "file:/var/log/named.fstrm"),
        (
            0,
            "tls:[2001:db8::1]:6000,ca=ca.pem,cert=a.pem,key=a.key,name=collector.test",
        ),
        (1, "unix:/run/dnstap.sock"),
        (1, "tcp:localhost:6000"),
        (1, "tls:192.0.2.1:853,name=a"),
        (2, "unbound"),
        (2, "auto"),
        (3, "bind:9.18.49"),
        (4, "client-query"),
        (5, "xfr"),
        (6, "netns"),
        (7, "BIND 9.18.49-1~deb12u3-Debian"),
        (
            8,
            "attach\n--pid\n1\n--ring-size\n8M\n--only\nclient,auth-query\n--exclude\nxfr\n--extra\npid,tid\n--duration\n1.5",
        ),
        (
            8,
            "receive\n--listen\nunix:/run/a\n-o\nfile:a.fstrm\n--socket-mode\n660\n--max-frame\n262144",
        ),
        (8, "read\n--format\njson\na.fstrm"),
        (8, "check\n--pid\n1"),
    ];
    for (number, (choice, text)) in options.into_iter().enumerate() {
        put(
            "options",
            &format!("{number:02}"),
            &[&[choice], text.as_bytes()].concat(),
        )?;
    }
    Ok(())
}

/// Returns the first messages of each type.
fn messages(capture: &str) -> Result<Vec<Message>> {
    let file = File::open(capture).with_context(|| format!("cannot open {capture}"))?;
    let mut taken: BTreeMap<_, usize> = BTreeMap::new();
    let mut messages = Vec::new();
    for frame in Reader::new(file, DNSTAP_CONTENT_TYPE)? {
        let payload = frame?.payload;
        let message = Dnstap::decode(payload.clone())?.message.unwrap_or_default();
        let count = taken
            .entry((message.r#type, message.socket_protocol))
            .or_default();
        *count += 1;
        if *count > EACH {
            continue;
        }
        let tcp = message.socket_protocol == Some(SocketProtocol::Tcp as i32);
        let response = message.response_message.is_some();
        // Queries that a resolver, a forwarder or a stub sends itself.
        let initiator = matches!(message.r#type, 3 | 4 | 7..=12);
        let dns = message.query_message.or(message.response_message);
        messages.push(Message {
            payload: Bytes::copy_from_slice(&payload),
            sent: response != initiator,
            tcp,
            dns: dns.context("a frame without a message")?,
        });
    }
    Ok(messages)
}

/// Encodes messages for the target `event`.
fn event(messages: &[Message], count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0];
    for message in &messages[..count] {
        let shape = u8::from(message.tcp) * 0b1001 + u8::from(message.sent) * 0b10;
        // Socket 2 is UDP and socket 3 is TCP; the ports are 53 and 40000.
        bytes.extend([0, shape, 2 + u8::from(message.tcp), 1]);
        string(&message.dns, &mut bytes)?;
    }
    bytes.extend([5, 0, 255]);
    Ok(bytes)
}

/// Encodes messages for the target `classify`.
fn classify(messages: &[Message], count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0];
    for message in &messages[..count] {
        let shape = u8::from(message.tcp) * 0b10 + u8::from(message.sent) * 0b100;
        bytes.extend([shape, 0b0100, 0, 1]);
        string(&message.dns, &mut bytes)?;
    }
    Ok(bytes)
}

/// Makes lines for the target `stream`: the first and the second direction of the first connection.
fn stream(choice: u8, messages: &[Message]) -> Result<Vec<u8>> {
    let mut bytes = vec![choice];
    for sent in [false, true] {
        let dns: Vec<_> = messages
            .iter()
            .filter(|message| message.sent == sent)
            .take(4)
            .collect();
        bytes.extend([0xff, 0xff, 1 + u8::try_from(dns.len())?]);
        bytes.extend([if sent { 0x81 } else { 0x01 }, 7, 1, 0, 9]);
        for message in dns {
            string(&message.dns, &mut bytes)?;
        }
    }
    bytes.extend([0, 0, 0].repeat(4));
    bytes.extend([2, 40, 0x12, 3, 9, 1, 0x0e, 50, 3, 0, 200, 0x13, 1, 0]);
    Ok(bytes)
}

/// Makes pieces for the target `stream` without changes.
fn wild(messages: &[Message]) -> Result<Vec<u8>> {
    let mut bytes = vec![2];
    let mut sequence = 0_usize;
    for message in messages {
        let framed = [
            &u16::try_from(message.dns.len())?.to_be_bytes(),
            &message.dns[..],
        ]
        .concat();
        bytes.push(8);
        bytes.extend(u16::try_from(sequence)?.to_be_bytes());
        bytes.push(0);
        string(&framed, &mut bytes)?;
        sequence += framed.len();
    }
    Ok(bytes)
}

fn string(text: &[u8], bytes: &mut Vec<u8>) -> Result<()> {
    bytes.extend(u16::try_from(text.len())?.to_be_bytes());
    bytes.extend_from_slice(text);
    Ok(())
}
