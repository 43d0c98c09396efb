//! All stages together: the output for known records, and the laws of the counters for any records.

#![expect(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to size"
)]

use dnstap_ebpf::{AF_INET6, DIRECTION_SENT, EventHeader, IPPROTO_TCP, RecordKind};
use dnstap_proto::{Dnstap, SocketFamily, SocketProtocol, message::Type};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    account::stages,
    classify::Naming,
    dns::fixture::{framed, message},
    pipeline::MAX_LABEL,
    privacy::{Method, Prefixes},
    record::fixture::{chunk, header, whole},
};

mod copies;
mod mutations;
mod remarks;
mod roles;
mod strangers;
mod watch;

const SECOND: i64 = 1_000_000_000;

fn pipeline() -> Pipeline {
    Pipeline::new(config())
}

fn config() -> PipelineConfig {
    PipelineConfig {
        identity: b"ns1".to_vec(),
        server: Server {
            version: b"tap".to_vec(),
            ..Server::default()
        },
        existing_sockets: vec![1_000],
        pair_limits: PairLimits {
            entries: 64,
            ..PairLimits::default()
        },
        stream_limits: StreamLimits {
            connections: 16,
            ..StreamLimits::default()
        },
        udp_sockets: 16,
        ..PipelineConfig::default()
    }
}

fn named(naming: Naming) -> PipelineConfig {
    let mut config = config();
    config.server.naming = naming;
    config
}

/// Splits a batch's frames and decodes them with prost.
fn decoded(batch: &Batch) -> Vec<dnstap_proto::Message> {
    let mut rest = &batch.messages.bytes[..];
    let mut messages = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        let dnstap = Dnstap::decode(frame).unwrap();
        assert_eq!(
            (dnstap.identity(), dnstap.version()),
            (&b"ns1"[..], &b"tap"[..])
        );
        messages.push(dnstap.message.unwrap());
        rest = tail;
    }
    assert!(rest.is_empty());
    assert_eq!(batch.messages.count, messages.len() as u64);
    messages
}

fn run(pipeline: &mut Pipeline, records: &[Vec<u8>]) -> Vec<dnstap_proto::Message> {
    let mut batch = Batch::default();
    for record in records {
        pipeline.push(record, &mut batch);
        check(pipeline);
    }
    decoded(&batch)
}

fn at(ktime_ns: u64, direction: u8) -> EventHeader {
    EventHeader {
        ktime_ns,
        direction,
        ..header()
    }
}

/// Checks the laws of the counters.
fn check(pipeline: &Pipeline) {
    for hop in stages(&pipeline.counters(), pipeline.pending()) {
        assert_eq!(hop.unaccounted, 0, "{hop}: {:?}", pipeline.counters());
    }
}

/// 96 KiB is the smallest known limit of a receiver, that of golang-dnstap; see
/// [`dnstap_proto::frame_streams`].
#[test]
fn longest_message_with_the_longest_texts_fits_every_receiver() {
    let text = vec![b'x'; MAX_LABEL];
    let mut pipeline = Pipeline::new(PipelineConfig {
        identity: text.clone(),
        server: Server {
            version: text,
            netns: Some(u64::MAX),
            ..Server::default()
        },
        extra: Extra {
            fields: ["pid", "tid", "hook", "netns"]
                .map(|field| field.parse().unwrap())
                .into(),
        },
        ..config()
    });
    let mut header = EventHeader {
        family: AF_INET6,
        protocol: IPPROTO_TCP,
        ..at(u64::MAX / 2, DIRECTION_SENT)
    };
    header.peer_addr = [0xfd; 16];
    let mut longest = message(1, 0x8180, "example", 0);
    longest.resize(65_535, 0);
    let mut batch = Batch::default();
    pipeline.push(&whole(header, &framed(&longest)), &mut batch);
    assert_eq!(batch.messages.count, 1);
    assert!(
        (65_535 + 2 * MAX_LABEL..96 * 1024).contains(&batch.messages.bytes.len()),
        "{}",
        batch.messages.bytes.len()
    );
}

#[test]
fn a_clients_address_is_hidden_in_query_and_answer_and_their_pairing_is_not_disturbed() {
    let mut pipeline = Pipeline::new(PipelineConfig {
        privacy: Privacy {
            addresses: Some(Method::Truncate(Prefixes { v4: 8, v6: 0 })),
            no_names: true,
        },
        ..config()
    });
    let (query, answer) = (
        message(1, 0x0100, "secret", 0),
        message(1, 0x8180, "secret", 2),
    );
    let records = [
        whole(at(1_000, 0), &query),
        whole(at(2_000, DIRECTION_SENT), &answer),
    ];
    let shown = decoded(&{
        let mut batch = Batch::default();
        for record in &records {
            pipeline.push(record, &mut batch);
        }
        batch
    });
    let peer = header().peer_addr[0];
    for one in &shown {
        assert_eq!(one.query_address(), [peer, 0, 0, 0]);
        assert_eq!(one.response_address(), &header().local_addr[..4]);
    }
    assert_eq!(
        shown[0].query_message(),
        [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(shown[1].response_message().len(), 12);
    assert_eq!(shown[1].query_time_nsec, shown[0].query_time_nsec);
    assert_eq!(pipeline.counters().pair.responses_paired, 1);
    check(&pipeline);
}

#[test]
fn query_and_answer_become_a_pair() {
    let mut pipeline = pipeline();
    pipeline.set_clock_offset(1_700_000_000 * SECOND);
    let (query, answer) = (
        message(1, 0x0100, "example", 0),
        message(1, 0x8180, "example", 2),
    );
    let records = [
        whole(at(1_000, 0), &query),
        whole(at(251_000, DIRECTION_SENT), &answer),
    ];
    let [first, second] = run(&mut pipeline, &records).try_into().unwrap();

    assert_eq!(
        (first.r#type(), second.r#type()),
        (Type::ClientQuery, Type::ClientResponse)
    );
    for message in [&first, &second] {
        assert_eq!(message.socket_family(), SocketFamily::Inet);
        assert_eq!(message.socket_protocol(), SocketProtocol::Udp);
        assert_eq!(
            (message.query_address(), message.response_address()),
            (&[127, 0, 0, 1][..], &[127, 0, 0, 1][..])
        );
        assert_eq!(
            (message.query_port, message.response_port),
            (Some(40_000), Some(53))
        );
        assert_eq!(
            (message.query_time_sec, message.query_time_nsec),
            (Some(1_700_000_000), Some(1_000))
        );
    }
    assert_eq!(
        (
            first.query_message(),
            &first.response_message,
            first.response_time_sec
        ),
        (&query[..], &None, None)
    );
    assert_eq!(
        (second.response_message(), &second.query_message),
        (&answer[..], &None)
    );
    assert_eq!(
        (second.response_time_sec, second.response_time_nsec),
        (Some(1_700_000_000), Some(251_000))
    );
}

#[test]
fn clock_that_steps_back_between_query_and_answer_does_not_turn_time_around() {
    let mut pipeline = pipeline();
    pipeline.set_clock_offset(1_700_000_000 * SECOND);
    let mut messages = run(
        &mut pipeline,
        &[whole(at(1_000, 0), &message(1, 0, "example", 0))],
    );
    pipeline.set_clock_offset(1_600_000_000 * SECOND);
    messages.extend(run(
        &mut pipeline,
        &[whole(
            at(3_000, DIRECTION_SENT),
            &message(1, 0x8400, "example", 0),
        )],
    ));
    assert_eq!(messages[1].query_time_sec, messages[0].query_time_sec);
    assert_eq!(
        (
            messages[1].response_time_sec,
            messages[1].response_time_nsec
        ),
        (Some(1_700_000_000), Some(3_000))
    );
}

#[test]
fn sent_queries_are_the_resolvers_and_addresses_follow_the_initiator() {
    let mut pipeline = pipeline();
    let upstream = |ktime_ns, direction| EventHeader {
        local_port: 33_333,
        peer_port: 53,
        ..at(ktime_ns, direction)
    };
    let records = [
        whole(upstream(1, DIRECTION_SENT), &message(1, 0, "a", 0)),
        whole(upstream(2, 0), &message(1, 0x8000, "a", 1)),
        whole(upstream(3, DIRECTION_SENT), &message(2, 0x0100, "b", 0)),
        // The answer has no RD bit, and stays in the family of its query.
        whole(upstream(4, 0), &message(2, 0x8080, "b", 1)),
        whole(upstream(5, DIRECTION_SENT), &message(3, 0x2800, "c", 0)),
    ];
    let messages = run(&mut pipeline, &records);
    let types: Vec<Type> = messages.iter().map(dnstap_proto::Message::r#type).collect();
    let expected = [
        Type::ResolverQuery,
        Type::ResolverResponse,
        Type::ForwarderQuery,
        Type::ForwarderResponse,
        Type::UpdateQuery,
    ];
    assert_eq!(types, expected);
    assert!(
        messages
            .iter()
            .all(|m| (m.query_port, m.response_port) == (Some(33_333), Some(53)))
    );
}

#[test]
fn answer_of_a_wildcard_socket_takes_the_local_address_of_its_query() {
    let mut pipeline = pipeline();
    let mut query = at(1, 0);
    query.family = AF_INET6;
    query.peer_addr = [0x20; 16];
    query.local_addr = [0x30; 16];
    let answer = EventHeader {
        ktime_ns: 2,
        direction: DIRECTION_SENT,
        local_addr: [0; 16],
        ..query
    };
    let lonely = EventHeader {
        peer_port: 1,
        ..answer
    };
    let records = [
        whole(query, &message(1, 0, "a", 0)),
        whole(answer, &message(1, 0x8000, "a", 0)),
        whole(lonely, &message(2, 0x8000, "a", 0)),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(messages[1].socket_family(), SocketFamily::Inet6);
    assert_eq!(messages[1].response_address(), [0x30; 16]);
    assert_eq!(
        (
            messages[2].response_address.as_ref(),
            messages[2].response_port
        ),
        (None, Some(53))
    );
}

#[test]
fn malformed_datagrams_are_delivered_on_dns_ports_and_sockets_only() {
    let mut pipeline = pipeline();
    let on = |port, socket| EventHeader {
        local_port: port,
        socket,
        ..header()
    };
    assert_eq!(
        run(
            &mut pipeline,
            &[whole(on(53, 1), b"x"), whole(on(53, 1), b"")]
        )
        .len(),
        2
    );
    assert_eq!(
        run(&mut pipeline, &[whole(on(9_999, 2), b"garbage garbage")]).len(),
        0
    );
    let asked = whole(on(9_999, 3), &message(1, 0, "a", 0));
    let answered = EventHeader {
        direction: DIRECTION_SENT,
        ..on(9_999, 3)
    };
    let answered = whole(answered, &message(1, 0x8400, "a", 0));
    assert_eq!(
        run(
            &mut pipeline,
            &[asked, answered, whole(on(9_999, 2), b"garbage garbage")]
        )
        .len(),
        3,
        "the process has answered there"
    );
    assert_eq!(pipeline.counters().deliver.malformed, 3);

    let strange: Vec<_> = (0..20)
        .map(|_| whole(on(8_888, 4), b"not dns at all, and long enough"))
        .collect();
    assert_eq!(run(&mut pipeline, &strange).len(), 0);
    assert_eq!(
        pipeline.verdicts().collect::<Vec<_>>(),
        [(4, Verdict::NotDns)]
    );
    assert_eq!(pipeline.counters().intake.udp_sockets_not_dns, 1);
}

#[test]
fn stream_of_a_process_that_was_running_when_it_joined_is_not_read_from_its_start() {
    let messages = [1, 2].map(|id| message(id, 0x0100, "example", 0));
    let stream = [framed(&messages[0]), framed(&messages[1])].concat();
    let tcp = |socket| EventHeader {
        protocol: IPPROTO_TCP,
        socket,
        ..header()
    };
    for (joined, expected) in [(vec![5, 6], &messages[1..]), (vec![6], &[])] {
        let mut pipeline = pipeline();
        pipeline.join_midway(joined);
        // In the middle of the first message.
        let answer = EventHeader {
            direction: DIRECTION_SENT,
            ..tcp(5)
        };
        let records = [
            whole(tcp(5), &stream[20..]),
            whole(answer, &framed(&message(2, 0x8180, "example", 0))),
        ];
        let delivered = run(&mut pipeline, &records);
        let queries = delivered.iter().map(dnstap_proto::Message::query_message);
        let queries: Vec<_> = queries.filter(|query| !query.is_empty()).collect();
        assert_eq!(queries, expected);
    }
}

#[test]
fn control_channel_is_condemned_by_its_answer_and_dns_over_tcp_is_not() {
    let mut pipeline = pipeline();
    let tcp = |port, socket, tcp_seq| EventHeader {
        protocol: IPPROTO_TCP,
        local_port: port,
        socket,
        tcp_seq,
        ..header()
    };
    let query = framed(&message(1, 0x0100, "example", 0));
    let answer = EventHeader {
        direction: DIRECTION_SENT,
        ..tcp(953, 5, 0)
    };
    let records = [
        whole(tcp(953, 5, 0), b"\0\0\0\xc5\0\0\0\x01\x05_auth\x02\0\0\0"),
        whole(answer, b"\0\0\0\xc5\0\0\0\x01\x05_auth\x02\0\0\0"),
        whole(tcp(5_300, 6, 100), &query[..2]),
        whole(tcp(5_300, 6, 102), &query[2..]),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(
        (messages.len(), messages[0].socket_protocol()),
        (1, SocketProtocol::Tcp)
    );
    assert_eq!(messages[0].query_message(), &query[2..]);
    assert_eq!(
        pipeline.verdicts().collect::<Vec<_>>(),
        [(5, Verdict::NotDns)]
    );
}

#[test]
fn every_counter_has_one_name() {
    let table: Vec<_> = PipelineCounters::default().table().collect();
    let names: std::collections::BTreeSet<_> = table.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), table.len());
    assert_eq!(size_of::<PipelineCounters>(), 8 * table.len());
}

/// Records that are mostly valid. There are few sockets, ports and ids, so that records match.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let fields = (
        0..6u64,
        0..2u8,
        any::<bool>(),
        0..4u16,
        0..3u16,
        prop_oneof![Just(0u16), Just(3), Just(40)],
    );
    (
        fields,
        0..8u8,
        any::<u32>(),
        proptest::collection::vec(any::<u8>(), 0..80),
    )
        .prop_map(
            |((socket, direction, tcp, id, place, answers), shape, noise, garbage)| {
                let mut header = header();
                header.socket = if socket == 5 { 1_000 } else { socket };
                header.direction = direction;
                header.protocol = if tcp { IPPROTO_TCP } else { header.protocol };
                header.local_port = [53, 5_300, 953][usize::from(place)];
                header.ktime_ns = u64::from(noise) << 4;
                header.tcp_seq = noise % 2_000;
                header.tid = noise % 3;
                header.lost = u32::from(noise % 50 == 0);
                header.flags = u8::from(noise % 4 != 0);
                if noise % 5 == 0 {
                    header.kind = (noise >> 8) as u8 % 7;
                }
                if noise % 7 == 0 {
                    (header.peer_addr, header.peer_port) = ([0; 16], 0);
                }
                let response = if (direction == 0) == (id % 2 == 0) {
                    0
                } else {
                    0x8000
                };
                let mut payload =
                    message(id, response | 0x0100 & (noise as u16), "example", answers);
                if tcp {
                    payload = framed(&payload);
                }
                if header.kind == RecordKind::ConnectionEnd as u8 {
                    payload.clear();
                }
                match shape {
                    0 => whole(header, &garbage),
                    1 => {
                        header.message_len = u32::try_from(payload.len()).unwrap();
                        header.ktime_ns = 9;
                        header.chunk_offset = if noise % 2 == 0 {
                            0
                        } else {
                            header.message_len / 2
                        };
                        let half = payload.len() / 2;
                        let part = if noise % 2 == 0 {
                            &payload[..half]
                        } else {
                            &payload[half..]
                        };
                        chunk(header, part)
                    }
                    2 => {
                        let mut record = whole(header, &payload);
                        let at = noise as usize % record.len();
                        record[at] ^= garbage.first().copied().unwrap_or(1);
                        record
                    }
                    3 => garbage,
                    _ => whole(header, &payload),
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn counters_obey_their_laws_for_any_records(
        records in proptest::collection::vec(record(), 0..120),
        ticks in proptest::collection::vec((0..120usize, any::<u64>()), 0..4),
    ) {
        let mut pipeline = pipeline();
        let mut batch = Batch::default();
        for (number, record) in records.iter().enumerate() {
            pipeline.push(record, &mut batch);
            for (_, now) in ticks.iter().filter(|(at, _)| *at == number) {
                pipeline.tick(*now, &mut batch);
            }
            check(&pipeline);
        }
        pipeline.finish(&mut batch);
        check(&pipeline);
        prop_assert_eq!(pipeline.pending(), Pending::default());
        prop_assert_eq!(decoded(&batch).len() as u64, pipeline.counters().deliver.messages);
        let bytes: usize = decoded(&batch).iter().map(|m| m.query_message().len() + m.response_message().len()).sum();
        prop_assert_eq!(bytes as u64, pipeline.counters().deliver.message_bytes);
    }
}
