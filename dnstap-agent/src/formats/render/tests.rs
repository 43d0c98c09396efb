//! Tests of whole lines, and of properties that hold for any bytes.

use std::{
    collections::HashMap,
    fs,
    sync::{LazyLock, Mutex},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use dnstap_proto::{Dnstap, Message, Policy, SocketFamily, SocketProtocol, message::Type};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::Value;

use super::Renderer;
use crate::formats::content::Content;

/// `example.com. IN A`, RD and AD set, ID 4711.
const QUERY: &[u8] = b"\x12\x67\x01\x20\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
/// Answer to this query: AA, RD, RA; one A record under a compressed name; OPT with DO and 1232
/// bytes.
const ANSWER: &[u8] = b"\x12\x67\x85\x80\0\x01\0\x01\0\0\0\x01\x07example\x03com\0\0\x01\0\x01\
    \xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x07\
    \0\0\x29\x04\xd0\0\0\x80\0\0\0";

#[test]
fn a_query_is_one_readable_line() {
    assert_eq!(
        text(&query()),
        "2026-11-23T15:33:24.123456Z CQ 192.0.2.1:40000 -> 192.0.2.53:53 UDP 29b example.com. IN A rd ad\n"
    );
}

#[test]
fn a_response_has_rcode_flags_counts_and_latency() {
    assert_eq!(
        text(&response()),
        "2026-11-23T15:33:25.000001Z CR [2001:db8::1]:40000 -> [2001:db8::53]:53 TCP 56b example.com. IN A NOERROR aa rd ra \
         an=1 au=0 ad=1 876.544ms\n"
    );
}

#[test]
fn what_is_missing_is_a_dash() {
    let empty = with(Message {
        r#type: 5,
        ..Message::default()
    });
    assert_eq!(text(&empty), "- CQ -:- -> -:- - - no DNS message\n");
    let unknown = with(Message {
        r#type: 99,
        query_message: Some(QUERY.into()),
        ..Message::default()
    });
    assert_eq!(
        text(&unknown),
        "- type99 -:- -> -:- - 29b example.com. IN A rd ad\n"
    );
}

#[test]
fn an_update_names_its_opcode_and_a_message_without_question_has_dashes() {
    let update = with(Message {
        r#type: 13,
        query_message: Some(b"\0\0\x28\0\0\0\0\0\0\0\0\0"[..].into()),
        ..Message::default()
    });
    assert_eq!(text(&update), "- UQ -:- -> -:- - 12b - - - UPDATE\n");
}

#[test]
fn malformed_messages_are_shown_with_size_and_error() {
    let mut short = query();
    inner(&mut short).query_message = Some(QUERY[..7].into());
    assert!(
        text(&short).ends_with(" UDP 7b malformed: shorter than a DNS header (12 bytes)\n"),
        "{}",
        text(&short)
    );
    inner(&mut short).query_message = Some(QUERY[..20].into());
    assert!(
        text(&short).ends_with(" UDP 20b - - - rd ad malformed: cut short at byte 20\n"),
        "{}",
        text(&short)
    );
    let mut line = Vec::new();
    Renderer::new(Content::Text, false).line(Bytes::from_static(b"\xff\xff"), &mut line);
    assert!(
        line.starts_with(b"- - malformed: 2b that are not a dnstap message: "),
        "{}",
        line.escape_ascii()
    );
}

#[test]
fn extra_is_an_object_if_this_agent_wrote_it_and_else_exact_text() {
    let mut dnstap = query();
    dnstap.extra = Some(br#"{"pid":7,"hook":"fentry"}"#[..].into());
    assert_eq!(
        parsed(&dnstap)["extra"],
        serde_json::json!({"pid": 7, "hook": "fentry"})
    );
    assert!(text(&dnstap).ends_with(" rd ad extra={\"pid\":7,\"hook\":\"fentry\"}\n"));
    for others in [
        "[1]",
        "",
        "{}",
        r#"{"a":1"#,
        r#"{"a":123456789012345678901234567890}"#,
        r#"{"pid":"seven"}"#,
        r#"{"pid":7,"pid":8}"#,
        r#"{"tid":8,"pid":7}"#,
        r#"{"pid":7 }"#,
        r#"{"pid":4294967296}"#,
        r#"{"waited_ns":9223372036854775808}"#,
        r#"{"event":"\u00e4"}"#,
        "\u{e4}\n\\",
    ] {
        dnstap.extra = Some(others.into());
        let json = parsed(&dnstap);
        assert_eq!(json["extra_text"], others);
        assert_eq!((json.get("extra"), json.get("extra_hex")), (None, None));
    }
    dnstap.extra = Some(b"\x1b[2J\\\n\xff"[..].into());
    let json = parsed(&dnstap);
    assert_eq!(json["extra_hex"], "1b5b324a5c0aff");
    assert_eq!((json.get("extra"), json.get("extra_text")), (None, None));
    assert!(text(&dnstap).ends_with(" extra=\\x1b[2J\\\\\\x0a\\xff\n"));
}

#[test]
fn numbers_without_a_word_are_strings_as_words_are() {
    let mut odd = query();
    let message = inner(&mut odd);
    message.r#type = 42;
    message.socket_family = Some(-1);
    message.socket_protocol = Some(42);
    message.http_protocol = Some(42);
    message.policy = Some(Policy {
        action: Some(42),
        r#match: Some(i32::MAX),
        ..Policy::default()
    });
    let json = parsed(&odd);
    assert_eq!(json["type"], "TYPE42");
    assert_eq!(json["socket_family"], "FAMILY-1");
    assert_eq!(json["socket_protocol"], "PROTOCOL42");
    assert_eq!(json["http_protocol"], "PROTOCOL42");
    let policy = serde_json::json!({ "action": "ACTION42", "match": "MATCH2147483647" });
    assert_eq!(json["policy"], policy);
    inner(&mut odd).policy = Some(Policy::default());
    assert_eq!(parsed(&odd).get("policy"), None);
}

#[test]
fn json_has_the_documented_fields() {
    let json = json(&response());
    let expected = serde_json::json!({
        "time": "2026-11-23T15:33:25.000001000Z",
        "type": "CLIENT_RESPONSE",
        "identity": "ns1\u{1b}\u{9b}\u{e9}",
        "version": "named",
        "socket_family": "INET6",
        "socket_protocol": "TCP",
        "query_address": "2001:db8::1",
        "query_port": 40000,
        "response_address": "2001:db8::53",
        "response_port": 53,
        "query_time": "2026-11-23T15:33:24.123456789Z",
        "response_time": "2026-11-23T15:33:25.000001000Z",
        "latency_ns": 876_544_211,
        "query_zone": "com.",
        "size": 56,
        "message": {
            "id": 4711,
            "opcode": "QUERY",
            "rcode": "NOERROR",
            "flags": { "qr": true, "aa": true, "tc": false, "rd": true, "ra": true, "ad": false, "cd": false },
            "qname": "example.com.",
            "qclass": "IN",
            "qtype": "A",
            "counts": { "qd": 1, "an": 1, "ns": 0, "ar": 1 },
            "answers": [{ "name": "example.com.", "class": "IN", "type": "A", "ttl": 3600, "rdata": "192.0.2.7" }],
            "edns": { "udp_size": 1232, "version": 0, "do": true, "co": false },
        },
    });
    assert_eq!(
        serde_json::from_str::<Value>(&json).expect("JSON"),
        expected
    );
    assert!(
        json.starts_with(r#"{"time":"2026-11-23T15:33:25.000001000Z","type":"CLIENT_RESPONSE","identity":"ns1\u001b\u009b\u00e9","#),
        "{json}"
    );
}

#[test]
fn json_says_what_is_malformed_and_keeps_what_was_read() {
    let mut cut = response();
    inner(&mut cut).response_message = Some(ANSWER[..50].into());
    let value: Value = serde_json::from_str(&json(&cut)).expect("JSON");
    assert_eq!(value["message"]["malformed"], "cut short at byte 50");
    assert_eq!(value["message"]["bytes"], hexadecimal(&ANSWER[..50]));
    assert_eq!(value["message"]["answers"][0]["rdata"], "192.0.2.7");
    let mut line = Vec::new();
    Renderer::new(Content::Json, false).line(Bytes::from_static(b"\xff\xff"), &mut line);
    let value: Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!(value["size"], 2);
    assert!(
        value["malformed"]
            .as_str()
            .is_some_and(|error| error.starts_with("not a dnstap message")),
        "{value}"
    );
}

#[test]
fn what_can_be_read_of_a_malformed_message_is_told_and_all_its_bytes() {
    let mut cut = query();
    inner(&mut cut).query_message = Some(QUERY[..27].into());
    assert!(
        text(&cut).ends_with(" UDP 27b example.com. - - rd ad malformed: cut short at byte 27\n"),
        "{}",
        text(&cut)
    );
    let bytes = hexadecimal(&QUERY[..27]);
    let below = format!("  malformed: cut short at byte 27\n  bytes {bytes}\n");
    assert_eq!(render(Content::Full, &cut), text(&cut) + &below);
    let message = &parsed(&cut)["message"];
    assert_eq!(message["qname"], "example.com.");
    assert_eq!(message["bytes"], bytes);
    // Too short for a header.
    inner(&mut cut).query_message = Some(QUERY[..3].into());
    assert_eq!(parsed(&cut)["message"]["bytes"], "126701");
    assert_eq!(
        parsed(&cut)["malformed"],
        "shorter than a DNS header (12 bytes)"
    );
    assert!(render(Content::Full, &cut).ends_with("\n  bytes 126701\n"));
    assert!(render(Content::Yaml, &cut).contains("\n  bytes: \"126701\"\n"));
}

#[test]
fn both_messages_of_a_frame_are_shown() {
    let mut both = response();
    inner(&mut both).query_message = Some(QUERY.into());
    let json = parsed(&both);
    assert_eq!(json["message"]["counts"]["an"], 1);
    assert_eq!(json["query_message"]["flags"]["ad"], true);
    assert_eq!(json.get("response_message"), None);
    let full = render(Content::Full, &both);
    assert!(
        full.ends_with(
            "  with query 29b example.com. IN A rd ad\n    question example.com. IN A\n"
        ),
        "{full}"
    );
    inner(&mut both).r#type = Type::ClientQuery as i32;
    let json = parsed(&both);
    assert_eq!(json["message"]["flags"]["ad"], true);
    assert_eq!(json["response_message"]["counts"]["an"], 1);
    assert_eq!(json["time"], json["query_time"]);
    assert!(
        render(Content::Full, &both).contains("\n    answer example.com. 3600 IN A 192.0.2.7\n")
    );
    inner(&mut both).response_message = Some(ANSWER[..50].into());
    assert!(
        render(Content::Full, &both).contains("\n    malformed: cut short at byte 50\n    bytes ")
    );
}

#[test]
fn every_question_and_what_is_behind_the_last_record_are_told() {
    let question = &QUERY[12..];
    let two = [
        &QUERY[..5],
        &[2],
        &QUERY[6..],
        &question[..13],
        &[0, 28, 0, 3],
        b"xyz",
    ]
    .concat();
    let mut query = query();
    inner(&mut query).query_message = Some(two.into());
    let message = &parsed(&query)["message"];
    let named = |class: &str, kind: &str| serde_json::json!({ "qname": "example.com.", "qclass": class, "qtype": kind });
    assert_eq!(
        message["questions"],
        serde_json::json!([named("IN", "A"), named("CH", "AAAA")])
    );
    assert_eq!(message["trailing_bytes"], 3);
    assert!(render(Content::Full, &query).ends_with("  trailing 3 bytes\n"));
}

#[test]
fn a_time_in_json_is_a_time_or_not_there() {
    for (seconds, nanoseconds) in [
        (1_767_323_045, 1_500_000_000),
        (1_767_323_045_000, 0),
        (u64::MAX, 0),
        (9_223_372_036, 854_775_808),
    ] {
        let mut odd = response();
        inner(&mut odd).query_time_sec = Some(seconds);
        inner(&mut odd).query_time_nsec = Some(nanoseconds);
        let json = parsed(&odd);
        assert_eq!(
            (json.get("query_time"), json.get("latency_ns")),
            (None, None)
        );
        assert_eq!(json["time"], json["response_time"]);
        assert_eq!(
            json["malformed"],
            format!("query time of {seconds} s and {nanoseconds} ns is no time up to 2262-04-11")
        );
    }
    let mut last = response();
    inner(&mut last).query_time_sec = Some(9_223_372_036);
    inner(&mut last).query_time_nsec = Some(854_775_807);
    let json = parsed(&last);
    assert_eq!(json["query_time"], "2262-04-11T23:47:16.854775807Z");
}

#[test]
fn bytes_that_are_no_text_are_told_from_text_that_looks_like_them() {
    for (bytes, shown) in [
        (&b"ns1\xff\xc3\xa4"[..], "ns1\\xff\u{e4}"),
        (b"ns1\\xff", r"ns1\\xff"),
        (b"ns1", "ns1"),
    ] {
        let mut dnstap = query();
        dnstap.identity = Some(bytes.into());
        assert_eq!(parsed(&dnstap)["identity"], shown);
    }
}

#[test]
fn an_identity_puts_no_field_into_text() {
    let mut forged = query();
    forged.identity = Some(b"x extra={}"[..].into());
    let mut out = Vec::new();
    Renderer::new(Content::Text, false)
        .with_identity()
        .message(&forged, &mut out);
    assert!(
        out.ends_with(b" identity=x\\x20extra={}\n"),
        "{}",
        out.escape_ascii()
    );
}

#[test]
fn the_time_of_a_response_is_never_its_query_s_when_its_own_is_none() {
    let mut odd = response();
    inner(&mut odd).response_time_nsec = Some(1_000_000_000);
    assert_eq!(parsed(&odd).get("time"), None);
    inner(&mut odd).response_time_sec = None;
    assert_eq!(parsed(&odd)["time"], parsed(&odd)["query_time"]);
}

#[test]
fn text_tells_the_identity_if_it_is_asked_for() {
    let mut out = Vec::new();
    let mut renderer = Renderer::new(Content::Text, false).with_identity();
    renderer.message(&response(), &mut out);
    renderer.message(&query(), &mut out);
    let with = text(&response()).replace('\n', " identity=ns1\\x1b\\xc2\\x9b\\xc3\\xa9\n");
    assert_eq!(out, (with + &text(&query())).into_bytes());
}

#[test]
fn yaml_has_the_same_fields_in_a_document_of_its_own() {
    let expected = r#"---
time: "2026-11-23T15:33:25.000001000Z"
type: CLIENT_RESPONSE
identity: "ns1\x1b\x9b\xe9"
version: named
socket_family: INET6
socket_protocol: TCP
query_address: "2001:db8::1"
query_port: 40000
response_address: "2001:db8::53"
response_port: 53
query_time: "2026-11-23T15:33:24.123456789Z"
response_time: "2026-11-23T15:33:25.000001000Z"
latency_ns: 876544211
query_zone: com.
size: 56
message:
  id: 4711
  opcode: QUERY
  rcode: NOERROR
  flags:
    qr: true
    aa: true
    tc: false
    rd: true
    ra: true
    ad: false
    cd: false
  qname: example.com.
  qclass: IN
  qtype: A
  counts:
    qd: 1
    an: 1
    ns: 0
    ar: 1
  answers:
    - name: example.com.
      class: IN
      type: A
      ttl: 3600
      rdata: "192.0.2.7"
  edns:
    udp_size: 1232
    version: 0
    do: true
    co: false
"#;
    assert_eq!(render(Content::Yaml, &response()), expected);
}

#[test]
fn full_has_every_record_below_the_line() {
    let expected = format!(
        "{}  question example.com. IN A\n  answer example.com. 3600 IN A 192.0.2.7\n  edns version 0, udp 1232, do\n",
        text(&response())
    );
    assert_eq!(render(Content::Full, &response()), expected);
}

/// Builds a response without a question, with these records in the answer and additional sections.
fn answer(answers: &[&[u8]], additionals: &[&[u8]]) -> Dnstap {
    let counts = [answers.len(), additionals.len()].map(|count| u8::try_from(count).expect("few"));
    let header = [0, 7, 0x80, 3, 0, 0, 0, counts[0], 0, 0, 0, counts[1]];
    let mut message = response();
    inner(&mut message).response_message = Some(
        [&header[..], &answers.concat(), &additionals.concat()]
            .concat()
            .into(),
    );
    message
}

#[test]
fn edns_is_told_with_its_options_in_every_form() {
    let first = b"\0\0\x29\x04\xd0\x01\x02\xc0\x01\0\x2d\
        \0\x08\0\x07\0\x01\x18\0\xc6\x33\x64\
        \0\x0f\0\x07\0\x12\"\xc3\xbc\x1b!\
        \0\x05\0\x02\x08\x0d\
        \0\x0e\0\x02\x4f\x66\
        \xfd\xe9\0\x02\xde\xad\
        \0\x0a\0\x01\x01";
    let second = b"\x01a\0\0\x29\x02\0\0\0\0\0\0\x03\0\x08\0";
    let message = answer(&[], &[first, second]);
    let parsed = &parsed(&message)["message"];
    assert_eq!(parsed["rcode"], "BADMODE");
    assert_eq!(
        parsed["edns"],
        serde_json::json!({
            "udp_size": 1232, "version": 2, "do": true, "co": true, "z": 1, "extended_rcode": 1,
            "options": [
                { "code": 8, "name": "ECS", "family": 1, "source": 24, "scope": 0, "subnet": "198.51.100.0/24" },
                { "code": 15, "name": "EDE", "info_code": 18, "purpose": "Prohibited", "text": "\"\u{fc}\u{1b}!" },
                { "code": 5, "name": "DAU", "algorithms": [8, 13] },
                { "code": 14, "name": "KEY-TAG", "tags": [20326] },
                { "code": 65001, "hex": "dead" },
                { "code": 10, "name": "COOKIE", "hex": "01", "malformed": "not as its code says" },
            ],
        })
    );
    assert_eq!(
        parsed["more_edns"],
        serde_json::json!([{
            "udp_size": 512, "version": 0, "do": false, "co": false, "name": "a.",
            "options": [{ "hex": "000800", "malformed": "cut within code and length" }],
        }])
    );
    let full = render(Content::Full, &message);
    let lines: Vec<_> = full.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "  edns version 2, udp 1232, do, co, z 1, extended rcode 1",
            "    option 8 ECS: family 1, source 24, scope 0, subnet 198.51.100.0/24",
            r#"    option 15 EDE: info_code 18, purpose Prohibited, text "\"\195\188\027!""#,
            "    option 5 DAU: algorithms 8 13",
            "    option 14 KEY-TAG: tags 20326",
            "    option 65001: hex dead",
            "    option 10 COOKIE: malformed (not as its code says), hex 01",
            "  edns version 0, udp 512, name a.",
            "    option: malformed (cut within code and length), hex 000800",
        ]
    );
    assert!(
        render(Content::Yaml, &message)
            .contains("\n      - code: 8\n        name: ECS\n        family: 1\n")
    );
}

#[test]
fn data_is_in_presentation_form_in_every_form() {
    let mail = b"\x02mx\0\0\x0f\0\x01\0\0\0\x3c\0\x04\0\x0a\xc0\x0c";
    let text = b"\0\0\x10\0\x01\0\0\0\0\0\x04\x03\"\\\xff";
    let unknown = b"\0\xff\0\0\x01\0\0\0\0\0\x02\xab\xcd";
    let message = answer(&[mail, text, unknown], &[]);
    let expected = ["10 mx.", r#""\"\\\255""#, r"\# 2 ABCD"];
    let json = &parsed(&message)["message"]["answers"];
    let full = render(Content::Full, &message);
    for (nth, data) in expected.iter().enumerate() {
        assert_eq!(json[nth]["rdata"], *data);
        let line = full.lines().nth(1 + nth).expect("a line of each");
        assert!(line.ends_with(&format!(" {data}")), "{line}");
    }
}

#[test]
fn colours_are_added_and_nothing_is_changed() {
    let mut out = Vec::new();
    Renderer::new(Content::Text, true).message(&response(), &mut out);
    let coloured = String::from_utf8(out).expect("ASCII");
    assert!(coloured.contains("\x1b["), "{coloured:?}");
    let mut plain = coloured;
    while let Some(start) = plain.find('\x1b') {
        let end = plain[start..].find('m').expect("the end of a sequence");
        plain.replace_range(start..=start + end, "");
    }
    assert_eq!(plain, text(&response()));
}

proptest! {
    #[test]
    fn any_payload_becomes_one_printable_line(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&payload)?;
    }

    #[test]
    fn a_mutated_frame_becomes_one_printable_line(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut payload = response().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        check(&payload)?;
    }

    #[test]
    fn options_and_times_of_any_kind_become_one_printable_line(
        options in prop::collection::vec((prop_oneof![0..20_u16, any::<u16>()], prop::collection::vec(any::<u8>(), 0..24)), 0..4),
        time in any::<(u64, u32)>(),
        identity in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let data: Vec<u8> = options
            .iter()
            .flat_map(|(code, data)| {
                let length = u16::try_from(data.len()).expect("short");
                [&code.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
            })
            .collect();
        let length = u16::try_from(data.len()).expect("short").to_be_bytes();
        let answer = [&ANSWER[..ANSWER.len() - 2], &length, &data].concat();
        let mut both = response();
        both.identity = Some(identity.into());
        inner(&mut both).query_time_sec = Some(time.0);
        inner(&mut both).query_time_nsec = Some(time.1);
        inner(&mut both).query_message = Some(QUERY.into());
        inner(&mut both).response_message = Some(answer.into());
        check(&both.encode_to_vec())?;
    }

    #[test]
    fn every_field_of_dnstap_has_one_type_whatever_is_in_it(
        numbers in any::<[Option<i32>; 5]>(),
        kind in -1..50_i32,
        ports in any::<[Option<u32>; 2]>(),
        seconds in any::<[Option<u64>; 2]>(),
        texts in prop::collection::vec(prop::option::of(prop_oneof!["\\PC*", "[0-9]{1,19}", "true|null|2026-01-02"]), 4..=4),
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        extra in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            any::<(u32, i64)>().prop_map(|(pid, ns)| format!("{{\"pid\":{pid},\"waited_ns\":{ns}}}").into()),
            any::<(i128, u64)>().prop_map(|(pid, ns)| format!("{{\"pid\":{pid},\"waited_ns\":{ns}}}").into()),
            "\\{\"(pid|hook|event|unsolicited|other)\":(1|1.5|true|null|\"7\"|\\[\\]|\\{\\})\\}".prop_map(String::into_bytes),
        ],
        is_response in any::<bool>(),
    ) {
        let [identity, version, r#type, rule] = [0, 1, 2, 3].map(|nth| texts[nth].clone());
        let bytes = Bytes::from(bytes);
        let message = Message {
            r#type: kind,
            socket_family: numbers[0],
            socket_protocol: numbers[1],
            http_protocol: numbers[2],
            query_address: Some(bytes.clone()),
            query_port: ports[0],
            response_port: ports[1],
            query_time_sec: seconds[0],
            response_time_sec: seconds[1],
            query_message: (!is_response).then(|| bytes.clone()),
            response_message: is_response.then(|| bytes.clone()),
            query_zone: Some(bytes.clone()),
            policy: Some(Policy {
                r#type,
                action: numbers[3],
                r#match: numbers[4],
                rule: rule.map(Into::into),
                value: Some(bytes),
            }),
            ..Message::default()
        };
        let dnstap = Dnstap {
            identity: identity.map(Into::into),
            version: version.map(Into::into),
            extra: Some(extra.into()),
            ..with(message)
        };
        check(&dnstap.encode_to_vec())?;
    }

    #[test]
    fn a_mutated_dns_message_becomes_one_printable_line(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        kind in any::<u16>(),
    ) {
        let mut dns = ANSWER.to_vec();
        dns[31..33].copy_from_slice(&(kind % 300).to_be_bytes());
        for (at, byte) in changes {
            let at = at.index(dns.len());
            dns[at] = byte;
        }
        dns.truncate(dns.len() - cut.index(dns.len()) / 2);
        let mut message = response();
        inner(&mut message).response_message = Some(dns.into());
        check(&message.encode_to_vec())?;
    }
}

#[test]
fn every_seed_of_the_fuzz_target_becomes_printable_lines() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/dnstap");
    let seeds = fs::read_dir(folder).expect("seeds");
    let checked = seeds.map(|seed| {
        let payload = fs::read(seed.expect("one").path()).expect("a file");
        check(&payload).expect("printable, and as the schema says");
    });
    assert!(checked.count() > 10);
}

/// Schema of the JSON, as `docs/` promises it.
const SCHEMA_TEXT: &str = include_str!("../../../../docs/dnstap-json.schema.json");

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(SCHEMA_TEXT).expect("JSON");
    let options = jsonschema::options().should_validate_formats(true);
    options.build(&schema).expect("a schema")
});

fn check(payload: &[u8]) -> Result<(), TestCaseError> {
    for content in [Content::Text, Content::Full, Content::Json, Content::Yaml] {
        let mut out = b"before".to_vec();
        Renderer::new(content, false).line(Bytes::copy_from_slice(payload), &mut out);
        let lines = out.strip_prefix(b"before").expect("appended");
        let (end, lines) = lines.split_last().expect("a line");
        prop_assert_eq!(*end, b'\n');
        let one = matches!(content, Content::Text | Content::Json);
        prop_assert!(
            lines
                .iter()
                .all(|byte| matches!(byte, b' '..=b'~') || *byte == b'\n' && !one),
            "{}",
            lines.escape_ascii()
        );
        if content == Content::Json {
            let value = serde_json::from_slice(lines);
            prop_assert!(value.is_ok(), "{}", lines.escape_ascii());
            let value: Value = value.unwrap_or_default();
            let against = SCHEMA.validate(&value);
            prop_assert!(
                against.is_ok(),
                "{:?} {}",
                against.map_err(|error| error.to_string()),
                lines.escape_ascii()
            );
            check_types("", &value)?;
        }
    }
    Ok(())
}

/// JSON type of each path in all lines checked. An array's elements have the path of the array and
/// `[]`.
static TYPES: LazyLock<Mutex<HashMap<String, &'static str>>> = LazyLock::new(Mutex::default);

/// Checks that each path has one type in all lines and that integers fit into 64 bits. Databases
/// refuse other files.
fn check_types(path: &str, value: &Value) -> Result<(), TestCaseError> {
    let kind = match value {
        Value::Object(members) => {
            for (name, member) in members {
                check_types(&format!("{path}.{name}"), member)?;
            }
            prop_assert!(!members.is_empty(), "{path} is empty");
            "object"
        }
        Value::Array(items) => {
            for item in items {
                check_types(&format!("{path}[]"), item)?;
            }
            "array"
        }
        Value::Number(number) => {
            prop_assert!(number.is_i64(), "{path} is {number}");
            "integer"
        }
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    let mut types = TYPES.lock().expect("no panic while it is held");
    let before = *types.entry(path.to_owned()).or_insert(kind);
    drop(types);
    prop_assert_eq!(before, kind, "{}", path);
    Ok(())
}

/// A field must have the same type wherever the schema has it.
#[test]
fn the_schema_promises_one_type_for_each_field() {
    fn check(schema: &Value, path: &str) {
        match schema {
            Value::Object(members) => {
                for (name, member) in members {
                    let is_list = name == "type" && member.is_array();
                    assert!(!is_list, "{path} has several types");
                    check(member, &format!("{path}/{name}"));
                }
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, path)),
            _ => {}
        }
    }
    check(&serde_json::from_str(SCHEMA_TEXT).expect("JSON"), "");
}

fn hexadecimal(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn query() -> Dnstap {
    with(Message {
        r#type: Type::ClientQuery as i32,
        socket_family: Some(SocketFamily::Inet as i32),
        socket_protocol: Some(SocketProtocol::Udp as i32),
        query_address: Some(Bytes::from_static(&[192, 0, 2, 1])),
        response_address: Some(Bytes::from_static(&[192, 0, 2, 53])),
        query_port: Some(40_000),
        response_port: Some(53),
        query_time_sec: Some(1_795_448_004),
        query_time_nsec: Some(123_456_789),
        query_message: Some(QUERY.into()),
        ..Message::default()
    })
}

fn response() -> Dnstap {
    let address = |last| Bytes::from([&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[last]].concat());
    let message = Message {
        r#type: Type::ClientResponse as i32,
        socket_family: Some(SocketFamily::Inet6 as i32),
        socket_protocol: Some(SocketProtocol::Tcp as i32),
        query_address: Some(address(1)),
        response_address: Some(address(0x53)),
        response_time_sec: Some(1_795_448_005),
        response_time_nsec: Some(1000),
        query_message: None,
        response_message: Some(ANSWER.into()),
        query_zone: Some(b"\x03com\0"[..].into()),
        ..query().message.expect("it has one")
    };
    Dnstap {
        identity: Some("ns1\u{1b}\u{9b}\u{e9}".into()),
        version: Some("named".into()),
        ..with(message)
    }
}

fn with(message: Message) -> Dnstap {
    Dnstap {
        r#type: 1,
        message: Some(message),
        ..Dnstap::default()
    }
}

fn inner(dnstap: &mut Dnstap) -> &mut Message {
    dnstap.message.as_mut().expect("it has one")
}

fn text(dnstap: &Dnstap) -> String {
    render(Content::Text, dnstap)
}

fn parsed(dnstap: &Dnstap) -> Value {
    serde_json::from_str(&json(dnstap)).expect("JSON")
}

fn json(dnstap: &Dnstap) -> String {
    render(Content::Json, dnstap)
}

fn render(content: Content, dnstap: &Dnstap) -> String {
    let mut out = Vec::new();
    Renderer::new(content, false).line(dnstap.encode_to_vec().into(), &mut out);
    String::from_utf8(out).expect("ASCII")
}
