//! Output for frames from other programs. Text is always printable ASCII: one line; JSON is one object, YAML one
//! document; the full format is the same line with others below it. Packets are complete, and their lengths agree with
//! the headers.
//!
//! The input is a byte that tells what follows: a frame's payload as it is, or a DNS message that is put into a valid
//! frame.

use bytes::Bytes;
use dnstap_agent::formats::{Content, pcap, render::Renderer};
use dnstap_proto::{Dnstap, DnstapRef, MessageRef, Timestamp, lenient, message::Type};

/// Runs the target.
///
/// # Panics
///
/// If a check fails.
pub fn run(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let payload = match choice % 3 {
        0 => Bytes::copy_from_slice(rest),
        1 => around(rest, false),
        _ => around(rest, true),
    };
    let text = lines(Content::Text, &payload);
    one_line(&text);
    let full = lines(Content::Full, &payload);
    assert!(full.starts_with(&text));
    printable(&full);
    let json = lines(Content::Json, &payload);
    one_line(&json);
    let object: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert!(object.is_object());
    let yaml = lines(Content::Yaml, &payload);
    printable(&yaml);
    let ends = yaml.split(|byte| *byte == b'\n');
    assert_eq!(ends.filter(|line| *line == b"---").count(), 1);
    if let Ok(dnstap) = lenient::decode(payload) {
        packets(&dnstap);
    }
}

fn lines(content: Content, payload: &Bytes) -> Vec<u8> {
    let mut renderer = Renderer::new(content, false);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    renderer.line(payload.clone(), &mut first);
    // State that a renderer keeps from earlier messages does not change the output.
    renderer.line(payload.clone(), &mut second);
    assert_eq!(first, second);
    if let Ok(dnstap) = lenient::decode(payload.clone()) {
        let mut decoded = Vec::new();
        renderer.message(&dnstap, &mut decoded);
        assert_eq!(first, decoded);
    }
    first
}

fn one_line(line: &[u8]) {
    printable(line);
    assert_eq!(line.split(|byte| *byte == b'\n').count(), 2);
}

fn printable(text: &[u8]) {
    assert_eq!(text.last(), Some(&b'\n'));
    let is_strange = |byte: &&u8| **byte != b'\n' && !(b' '..=b'~').contains(*byte);
    let strange = text.iter().find(is_strange);
    assert_eq!(strange, None, "{}", text.escape_ascii());
}

fn packets(dnstap: &Dnstap) {
    /// Seconds, nanoseconds, length here, length on the wire.
    const RECORD: usize = 16;
    let mut written = Vec::new();
    let is_shown = pcap::Writer::default().message(dnstap, &mut written);
    assert_eq!(is_shown, !written.is_empty());
    let mut rest = &*written;
    while let Some((record, behind)) = rest.split_at_checked(RECORD) {
        assert_eq!(record[8..12], record[12..16]);
        let length = u32::from_be_bytes(record[8..12].try_into().expect("four bytes")) as usize;
        let (packet, next) = behind.split_at(length);
        let half = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        match packet[0] >> 4 {
            4 => assert_eq!(half(2), length),
            6 => assert_eq!(half(4) + 40, length),
            version => panic!("IP version {version}"),
        }
        rest = next;
    }
    assert!(rest.is_empty());
}

fn around(dns: &[u8], response: bool) -> Bytes {
    let time = Some(Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 5,
    });
    let mut message = MessageRef::new(if response {
        Type::ClientResponse
    } else {
        Type::ClientQuery
    });
    message.query_time = time;
    if response {
        (message.response_time, message.response_message) = (time, Some(dns));
    } else {
        message.query_message = Some(dns);
    }
    let mut payload = Vec::new();
    DnstapRef {
        identity: None,
        version: None,
        extra: None,
        message,
    }
    .encode(&mut payload);
    payload.into()
}
