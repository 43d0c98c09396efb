//! Whole messages that a probe has copied: over TLS, over HTTPS, and over connections of which the
//! server does not say whether they are encrypted.

use dnstap_ebpf::{EVENT_UNSURE, PROTOCOL_DOH, PROTOCOL_DOT, SERVER_AUTH_RESPONSE};
use dnstap_proto::HttpProtocol;
use rstest::rstest;

use super::*;
use crate::{
    classify::bind::BindRules, reassemble::tcp::alpn::tests::hello, record::fixture::remark,
};

/// First message of a TLS server, and a later record of either side.
const SERVER_HELLO: &[u8] = b"\x16\x03\x03\x00\x5a\x02\x00\x00\x56\x03\x03 and more";
const TLS_DATA: &[u8] = b"\x17\x03\x03\x00\x20some ciphertext of 32 bytes, now";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";

const PORT: u16 = 8_853;
const AGE: u64 = 60_000_000_000;

fn unsure() -> Pipeline {
    let mut config = config();
    config.pair_limits.age_ns = AGE;
    Pipeline::new(PipelineConfig {
        unsure: true,
        ..config
    })
}

/// Returns the record of a piece of the client's connection.
fn piece(ktime_ns: u64, direction: u8, sequence: u32, bytes: &[u8]) -> Vec<u8> {
    let header = EventHeader {
        protocol: IPPROTO_TCP,
        local_port: PORT,
        tcp_seq: sequence,
        socket: 8,
        ..at(ktime_ns, direction)
    };
    whole(header, bytes)
}

/// Returns the record of a message that a probe has copied.
fn copy(ktime_ns: u64, direction: u8, protocol: u8, message: &[u8]) -> Vec<u8> {
    let flags = if protocol == IPPROTO_TCP {
        EVENT_UNSURE
    } else {
        0
    };
    let header = EventHeader {
        kind: RecordKind::Message as u8,
        protocol,
        flags,
        local_port: PORT,
        socket: 0,
        hook: 0,
        ..at(ktime_ns, direction)
    };
    whole(header, message)
}

fn protocols(messages: &[dnstap_proto::Message]) -> Vec<SocketProtocol> {
    messages
        .iter()
        .map(dnstap_proto::Message::socket_protocol)
        .collect()
}

fn exchange() -> (Vec<u8>, Vec<u8>) {
    (message(1, 0, "a", 0), message(1, 0x8400, "a", 1))
}

#[rstest]
#[case::tls(PROTOCOL_DOT, SocketProtocol::Dot, None)]
#[case::https(PROTOCOL_DOH, SocketProtocol::Doh, Some(HttpProtocol::Http2 as i32))]
fn a_message_has_the_transport_that_the_server_names(
    #[case] number: u8,
    #[case] protocol: SocketProtocol,
    #[case] http: Option<i32>,
) {
    let (query, response) = exchange();
    let mut pipeline = pipeline();
    let records = [
        copy(10, 0, number, &query),
        copy(20, DIRECTION_SENT, number, &response),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(protocols(&messages), [protocol; 2]);
    assert_eq!(messages[0].query_message(), query);
    assert_eq!(messages[1].response_message(), response);
    assert_eq!(messages[1].query_time_nsec(), 10, "they are paired");
    assert_eq!(
        (messages[1].query_port(), messages[1].response_port()),
        (40_000, u32::from(PORT))
    );
    assert!(messages.iter().all(|message| message.http_protocol == http));
    // The port stays one of an encrypted connection.
    let records = [
        piece(30, 0, 1, &hello(&[b"dot"])),
        piece(31, DIRECTION_SENT, 1, SERVER_HELLO),
    ];
    assert_eq!(run(&mut pipeline, &records), []);
    assert_eq!(pipeline.counters().stream.tcp_sockets_encrypted, 1);
}

#[rstest]
#[case::tls(&hello(&[b"dot"]), SERVER_HELLO, SocketProtocol::Dot)]
#[case::tls_without_a_name(&hello(&[]), SERVER_HELLO, SocketProtocol::Dot)]
#[case::https(&hello(&[b"h2"]), SERVER_HELLO, SocketProtocol::Doh)]
#[case::http(PREFACE, SETTINGS, SocketProtocol::Doh)]
fn what_the_server_calls_tcp_is_what_the_connection_shows(
    #[case] client: &[u8],
    #[case] server: &[u8],
    #[case] protocol: SocketProtocol,
) {
    let (query, response) = exchange();
    let mut pipeline = unsure();
    let records = [
        piece(1, 0, 1, client),
        piece(2, DIRECTION_SENT, 1, server),
        copy(10, 0, IPPROTO_TCP, &query),
        copy(20, DIRECTION_SENT, IPPROTO_TCP, &response),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(protocols(&messages), [protocol; 2]);
    assert_eq!(messages[1].query_time_nsec(), 10);
}

#[test]
fn a_transfer_over_tls_is_a_query_that_waits_for_nothing() {
    let mut query = message(1, 0, "a", 0);
    // The type is in front of the class at the end: AXFR.
    let at = query.len() - 4;
    query[at..at + 2].copy_from_slice(&252_u16.to_be_bytes());
    let mut pipeline = Pipeline::new(PipelineConfig {
        report_unanswered: true,
        events: crate::events::EventKind::ALL.into_iter().collect(),
        ..config()
    });
    let mut batch = Batch::default();
    pipeline.push(&copy(10, 0, PROTOCOL_DOT, &query), &mut batch);
    pipeline.tick(10 * AGE, &mut batch);
    pipeline.finish(&mut batch);
    let counts = [&batch.messages, &batch.notices, &batch.events].map(|frames| frames.count);
    assert_eq!(counts, [1, 0, 0]);
}

#[test]
fn a_message_in_the_clear_is_delivered_once() {
    let (query, response) = exchange();
    let mut pipeline = unsure();
    let records = [
        piece(1, 0, 1, &framed(&query)),
        copy(2, 0, IPPROTO_TCP, &query),
        copy(3, DIRECTION_SENT, IPPROTO_TCP, &response),
        piece(4, DIRECTION_SENT, 1, &framed(&response)),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(protocols(&messages), [SocketProtocol::Tcp; 2]);
    assert_eq!(pipeline.counters().intake.copies_plain, 2);
}

/// The pieces are those of a connection that was open at attach: socket 1,000.
fn midway(record: Vec<u8>) -> Vec<u8> {
    let mut record = record;
    let at = std::mem::offset_of!(EventHeader, socket);
    record[at..at + 8].copy_from_slice(&1_000_u64.to_ne_bytes());
    record
}

#[test]
fn messages_before_the_verdict_wait_for_it_in_their_order() {
    let (query, response) = exchange();
    let mut pipeline = unsure();
    let records = [
        midway(piece(1, 0, 100, TLS_DATA)),
        copy(10, 0, IPPROTO_TCP, &query),
        copy(20, DIRECTION_SENT, IPPROTO_TCP, &response),
    ];
    assert_eq!(run(&mut pipeline, &records), []);
    assert_eq!(pipeline.pending().copies, 2);
    let verdict = midway(piece(21, DIRECTION_SENT, 900, TLS_DATA));
    assert_eq!(run(&mut pipeline, &[verdict]), []);
    let mut batch = Batch::default();
    pipeline.tick(30, &mut batch);
    check(&pipeline);
    let messages = decoded(&batch);
    assert_eq!(protocols(&messages), [SocketProtocol::Dot; 2]);
    assert_eq!(messages[0].query_message(), query);
    assert_eq!(messages[1].query_time_nsec(), 10);
    // The kernel does not report the connection any more, and the table forgets it.
    pipeline.tick(700_000_000_000, &mut batch);
    let later = run(
        &mut pipeline,
        &[copy(700_000_000_001, 0, IPPROTO_TCP, &query)],
    );
    assert_eq!(protocols(&later), [SocketProtocol::Dot]);
}

#[test]
fn a_verdict_that_never_comes_loses_the_message_and_counts_it() {
    let (query, _) = exchange();
    let mut pipeline = unsure();
    let records = [
        midway(piece(1, 0, 100, TLS_DATA)),
        copy(10, 0, IPPROTO_TCP, &query),
    ];
    assert_eq!(run(&mut pipeline, &records), []);
    let mut batch = Batch::default();
    pipeline.tick(10 + AGE, &mut batch);
    assert_eq!(pipeline.pending().copies, 1, "it may still come");
    pipeline.tick(11 + AGE, &mut batch);
    check(&pipeline);
    assert_eq!(decoded(&batch), []);
    assert_eq!(pipeline.counters().intake.copies_unclear, 1);
}

#[test]
fn waiting_copies_are_bounded() {
    let (query, _) = exchange();
    let mut pipeline = unsure();
    for number in 0..5_000 {
        run(&mut pipeline, &[copy(number, 0, IPPROTO_TCP, &query)]);
        assert!(pipeline.pending().copies <= 4_096);
    }
    assert_eq!(pipeline.counters().intake.copies_unclear, 4_097);
    pipeline.finish(&mut Batch::default());
    check(&pipeline);
    assert_eq!(pipeline.pending().copies, 0);
}

/// The probe makes its remark before it copies the message.
#[test]
fn a_copied_message_has_its_zone_and_the_servers_type() {
    let (_, response) = exchange();
    let mut pipeline = Pipeline::new(named(Naming::Bind(BindRules::of_version("9.20.23"))));
    let server = config().server;
    let naming = Naming::Bind(BindRules::of_version("9.20.23"));
    pipeline.register_server(7, Server { naming, ..server });
    pipeline.probe(7, true, &mut Batch::default());
    let record = |kind: RecordKind, ktime_ns, direction, protocol, bytes: &[u8]| {
        let header = EventHeader {
            kind: kind as u8,
            protocol,
            program_id: 7,
            local_port: PORT,
            socket: 0,
            ..at(ktime_ns, direction)
        };
        whole(header, bytes)
    };
    let asked = message(1, 0x100, "a", 0);
    let records = [
        // The server has decided that this client may not use recursion.
        record(RecordKind::Remark, 10, 0, 17, &remark(0x10, &asked, b"")),
        record(RecordKind::Message, 10, 0, PROTOCOL_DOT, &asked),
        record(
            RecordKind::Remark,
            20,
            DIRECTION_SENT,
            17,
            &remark(SERVER_AUTH_RESPONSE, &response, b"\x01a\x00"),
        ),
        record(
            RecordKind::Message,
            20,
            DIRECTION_SENT,
            PROTOCOL_DOT,
            &response,
        ),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(messages.len(), 2, "nothing is held back");
    assert_eq!(messages[0].r#type(), Type::AuthQuery);
    assert_eq!(messages[1].query_zone(), b"\x01a\x00");
}
