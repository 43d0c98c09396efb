//! Types, selection and ends: messages that BIND would log, filters, `extra`, and clients behind
//! proxies.

use rstest::rstest;

use super::*;
use crate::{
    classify::{Naming, bind::BindRules},
    dns::fixture::asking,
    encode::{Extra, ExtraField},
    events::probed::line_notice,
    model::Subject,
    reassemble::tcp::proxy::fixture::{client, header},
};

const SENT: u8 = DIRECTION_SENT;

fn mimic(version: &str) -> Pipeline {
    Pipeline::new(named(Naming::Bind(BindRules::of_version(version))))
}

fn types(messages: &[dnstap_proto::Message]) -> Vec<Type> {
    messages.iter().map(dnstap_proto::Message::r#type).collect()
}

#[rstest]
#[case::recursion_available(0x8180, Type::ClientQuery)]
#[case::not_available(0x8500, Type::AuthQuery)]
fn bind_names_a_query_by_its_answer_and_sends_it_first(#[case] flags: u16, #[case] named: Type) {
    let mut pipeline = mimic("9.18.49");
    let query = message(1, 0x0100, "a", 0);
    assert_eq!(run(&mut pipeline, &[whole(at(5, 0), &query)]), []);
    assert_eq!(pipeline.pending().held, 1);
    let messages = run(
        &mut pipeline,
        &[whole(at(9, SENT), &message(1, flags, "a", 0))],
    );
    assert_eq!(types(&messages), [named, Type::ClientResponse]);
    assert_eq!(messages[0].query_message(), query);
    assert_eq!(messages[0].query_time_nsec, Some(5));
    assert_eq!(
        messages[1].query_time_nsec, None,
        "9.18 leaves it out of answers"
    );
    assert_eq!(pipeline.pending().held, 0);
}

#[test]
fn bind_from_9_20_20_on_has_forwarders_and_query_times() {
    let mut pipeline = mimic("9.20.20");
    let upstream = |ktime_ns, direction| EventHeader {
        local_port: 33_333,
        peer_port: 53,
        ..at(ktime_ns, direction)
    };
    let records = [
        whole(upstream(1, SENT), &message(1, 0x0100, "a", 0)),
        whole(upstream(2, 0), &message(1, 0x8180, "a", 1)),
        whole(at(3, 0), &message(2, 0, "a", 0)),
        whole(at(4, SENT), &message(2, 0x8400, "a", 0)),
    ];
    let expected = [
        Type::ForwarderQuery,
        Type::ForwarderResponse,
        Type::AuthQuery,
        Type::AuthResponse,
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(types(&messages), expected);
    assert!(
        messages
            .iter()
            .all(|message| message.query_time_nsec.is_some())
    );
    let messages = run(&mut mimic("9.18.49"), &records);
    assert_eq!(
        types(&messages)[..2],
        [Type::ResolverQuery, Type::ResolverResponse]
    );
}

#[test]
fn unanswered_query_of_bind_leaves_in_time_or_at_the_end() {
    let mut pipeline = mimic("9.18.49");
    let mut batch = Batch::default();
    pipeline.push(&whole(at(5, 0), &message(1, 0x0100, "a", 0)), &mut batch);
    pipeline.tick(14 * SECOND.unsigned_abs(), &mut batch);
    assert_eq!(batch.messages.count, 0);
    pipeline.tick(16 * SECOND.unsigned_abs(), &mut batch);
    assert_eq!(types(&decoded(&batch)), [Type::ClientQuery]);
    pipeline.push(&whole(at(6, 0), &message(2, 0x0100, "a", 0)), &mut batch);
    pipeline.finish(&mut batch);
    assert_eq!(batch.messages.count, 2);
    check(&pipeline);
    assert_eq!(pipeline.counters().pair.unanswered_auth, 0);
    assert_eq!(pipeline.counters().pair.unanswered_client, 2);
}

#[test]
fn bind_leaves_the_upkeep_of_zones_out() {
    let mut pipeline = mimic("9.18.49");
    let records = [
        whole(at(1, 0), &asking(6, 0x2400)),
        whole(at(2, SENT), &asking(6, 0xa400)),
        whole(at(3, SENT), &asking(6, 0)),
        whole(at(4, SENT), &asking(6, 0x2800)),
        whole(at(5, 0), &asking(6, 0x1000)),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(
        types(&messages),
        [Type::AuthResponse],
        "the answer to NOTIFY"
    );
    assert_eq!(pipeline.counters().deliver.excluded_mimic, 4);
}

#[test]
fn excluded_transfers_are_counted_with_all_their_answers() {
    let mut pipeline = Pipeline::new(PipelineConfig {
        filter: Filter {
            exclude: vec![Subject::Transfer, Subject::Notify],
            ..Filter::default()
        },
        ..config()
    });
    let tcp = |ktime_ns, direction, tcp_seq| EventHeader {
        protocol: IPPROTO_TCP,
        tcp_seq,
        ..at(ktime_ns, direction)
    };
    // The second answer leaves the question out (RFC 5936 section 2.2.1).
    let mut later = message(7, 0x8400, "zone", 1);
    later.drain(12..12 + 10);
    later[5] = 0;
    let mut question = asking(252, 0x8400);
    question[7] = 0;
    let records = [
        whole(tcp(1, 0, 0), &framed(&asking(252, 0))),
        whole(tcp(2, SENT, 0), &framed(&question)),
        whole(
            tcp(3, SENT, u32::try_from(question.len()).unwrap() + 2),
            &framed(&later),
        ),
        whole(at(4, 0), &asking(6, 0x2400)),
        whole(at(5, 0), &message(9, 0, "a", 0)),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(types(&messages), [Type::AuthQuery]);
    let counters = pipeline.counters().deliver;
    assert_eq!((counters.excluded_xfr, counters.excluded_notify), (3, 1));
}

#[test]
fn only_some_types_are_delivered_and_pairs_stay_pairs() {
    let mut pipeline = Pipeline::new(PipelineConfig {
        filter: Filter {
            only: "client-response".parse().unwrap(),
            ..Filter::default()
        },
        ..config()
    });
    let records = [
        whole(at(1, 0), &message(1, 0x0100, "a", 0)),
        whole(at(2, SENT), &message(1, 0x8180, "a", 0)),
        whole(at(3, 0), &message(2, 0, "a", 0)),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(types(&messages), [Type::ClientResponse]);
    assert_eq!(messages[0].query_time_nsec, Some(1));
    assert_eq!(pipeline.counters().deliver.excluded_type, 2);
}

#[test]
fn extra_tells_process_thread_and_hook() {
    let mut pipeline = Pipeline::new(PipelineConfig {
        extra: Extra {
            fields: vec![ExtraField::Pid, ExtraField::Hook],
        },
        ..config()
    });
    let mut batch = Batch::default();
    pipeline.push(&whole(at(1, 0), &message(1, 0, "a", 0)), &mut batch);
    let dnstap = Dnstap::decode(&batch.messages.bytes[4..]).unwrap();
    assert_eq!(dnstap.extra(), br#"{"pid":10,"hook":"socket"}"#);
}

fn assert_client(messages: &[dnstap_proto::Message]) {
    assert_eq!(types(messages), [Type::ClientQuery, Type::ClientResponse]);
    for message in messages {
        assert_eq!(
            (message.query_address(), message.query_port),
            (&[192, 0, 2, 1][..], Some(0x1234))
        );
        assert_eq!(
            (message.response_address(), message.response_port),
            (&[192, 0, 2, 53][..], Some(53))
        );
    }
}

#[test]
fn datagrams_behind_a_proxy_show_the_client_and_the_message() {
    let mut pipeline = pipeline();
    let (query, answer) = (message(1, 0x0100, "a", 0), message(1, 0x8180, "a", 1));
    let records = [
        whole(at(1, 0), &[client(), query.clone()].concat()),
        whole(at(2, SENT), &answer),
    ];
    let messages = run(&mut pipeline, &records);
    assert_client(&messages);
    assert_eq!(messages[0].query_message(), query);
    assert_eq!(pipeline.counters().intake.udp_proxy_headers, 1);
    assert_eq!(pipeline.counters().deliver.malformed, 0);
}

#[test]
fn proxy_that_asks_for_itself_keeps_its_address_and_a_broken_proxy_header_is_malformed() {
    let mut pipeline = pipeline();
    let query = message(1, 0x0100, "a", 0);
    let broken = [header(0x31, 0x12, &[0; 12]), query.clone()].concat();
    let records = [
        whole(at(1, 0), &[header(0x20, 0, &[]), query.clone()].concat()),
        whole(at(2, 0), &broken),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(messages[0].query_address(), [127, 0, 0, 1]);
    assert_eq!(messages[0].query_message(), query);
    assert_eq!(messages[1].query_message(), broken);
    assert_eq!(pipeline.counters().deliver.malformed, 1);
}

#[test]
fn nobody_but_a_proxy_says_who_asks() {
    let query = message(1, 0x0100, "a", 0);
    let behind_proxy = [client(), query.clone()].concat();
    let tcp = EventHeader {
        protocol: IPPROTO_TCP,
        ..at(2, 0)
    };
    let records = [
        whole(at(1, 0), &behind_proxy),
        whole(tcp, &[client(), framed(&query)].concat()),
    ];
    let mut pipeline = Pipeline::new(PipelineConfig {
        proxies: "192.0.2.0/24".parse().expect("a subnet"),
        ..config()
    });
    let messages = run(&mut pipeline, &records);
    assert_eq!(messages.len(), 1, "the stream's first message is not whole");
    assert_eq!(messages[0].query_address(), [127, 0, 0, 1]);
    assert_eq!(messages[0].query_message(), behind_proxy);
    let counters = pipeline.counters();
    assert_eq!(
        (
            counters.intake.proxy_headers_refused_udp,
            counters.stream.proxy_headers_refused_tcp
        ),
        (1, 1)
    );
    assert_eq!(
        (
            counters.intake.udp_proxy_headers,
            counters.stream.stream_proxy_headers
        ),
        (0, 0)
    );
}

proptest! {
    #[test]
    fn streams_behind_a_proxy_show_the_client_however_they_are_split(
        cuts in proptest::collection::vec(1..200usize, 0..12),
    ) {
        let mut pipeline = pipeline();
        let tcp = |ktime_ns, direction, tcp_seq| EventHeader {
            protocol: IPPROTO_TCP,
            tcp_seq,
            ..at(ktime_ns, direction)
        };
        let stream = [client(), framed(&message(1, 0x0100, "a", 0))].concat();
        let mut records = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let to = from.max(cut.min(stream.len()));
            if to > from {
                records.push(whole(tcp(from as u64, 0, from as u32), &stream[from..to]));
            }
            from = to;
        }
        records.push(whole(tcp(900, SENT, 0), &framed(&message(1, 0x8180, "a", 1))));
        let messages = run(&mut pipeline, &records);
        assert_client(&messages);
        let counters = pipeline.counters().stream;
        prop_assert_eq!((counters.stream_proxy_headers, counters.stream_proxy_header_bytes), (1, 33));
        prop_assert_eq!(counters.stream_skipped_bytes, 0);
    }
}

#[test]
fn queries_without_answer_are_reported_unless_left_out() {
    let mut pipeline = Pipeline::new(PipelineConfig {
        report_unanswered: true,
        filter: Filter {
            exclude: vec![Subject::Notify],
            ..Filter::default()
        },
        ..config()
    });
    let (lost, answered, notify) = (
        message(1, 0x0100, "lost", 0),
        message(2, 0x0100, "answered", 0),
        asking(6, 0x2000),
    );
    let mut long = message(9, 0x0100, "long", 0);
    long.resize(600, 0);
    let records = [
        whole(at(1_000, 0), &lost),
        whole(at(2_000, 0), &answered),
        whole(at(3_000, 0), &notify),
        whole(at(4_000, SENT), &message(2, 0x8180, "answered", 1)),
        whole(at(20_000_000_000, 0), &long),
    ];
    assert_eq!(run(&mut pipeline, &records).len(), 4);

    let mut batch = Batch::default();
    pipeline.tick(16_000_000_000, &mut batch);
    assert_eq!(batch.notices.count, 1);
    pipeline.finish(&mut batch);
    check(&pipeline);
    let counters = pipeline.counters();
    assert_eq!((batch.notices.count, counters.deliver.events), (2, 2));
    assert_eq!(
        (
            counters.pair.unanswered_client,
            counters.pair.unanswered_excluded
        ),
        (2, 1)
    );

    let mut rest = &batch.notices.bytes[..];
    let mut reports = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        reports.push(Dnstap::decode(frame).unwrap());
        rest = tail;
    }
    let said: Vec<_> = reports
        .iter()
        .map(|report| {
            let message = report.message.as_ref().unwrap();
            assert_eq!(
                (message.r#type(), message.query_port),
                (Type::ClientQuery, Some(40_000))
            );
            (
                message.query_message().to_vec(),
                String::from_utf8(report.extra().to_vec()).unwrap(),
            )
        })
        .collect();
    let waited = |ns: u64| format!(r#"{{"event":"unanswered","waited_ns":{ns}}}"#);
    // The latest time seen is that of the last query.
    assert_eq!(
        said,
        [
            (lost, waited(19_999_999_000)),
            (message(9, 0x0100, "long", 0), waited(0))
        ]
    );
    assert_eq!(
        batch.messages.count, 0,
        "nothing of it is for readers of dnstap"
    );
}

/// Messages from a probe of the server skip the stages that only sockets need, whatever their ports
/// are.
#[test]
fn each_kind_of_record_has_a_door_with_counters_of_its_own() {
    let mut pipeline = pipeline();
    let of_kind = |kind: u8, ktime_ns, direction| EventHeader {
        kind,
        local_port: 8_053,
        ..at(ktime_ns, direction)
    };
    let records = [
        whole(of_kind(3, 1_000, 0), &message(1, 0x0100, "a", 0)),
        whole(of_kind(3, 2_000, SENT), &message(1, 0x8180, "a", 1)),
        whole(of_kind(4, 3_000, 0), b"?"),
        whole(of_kind(9, 4_000, 0), b"?"),
        whole(at(5_000, 0), &message(2, 0x0100, "b", 0)),
    ];
    let types: Vec<_> = run(&mut pipeline, &records)
        .iter()
        .map(dnstap_proto::Message::r#type)
        .collect();
    assert_eq!(
        types,
        [Type::ClientQuery, Type::ClientResponse, Type::ClientQuery]
    );
    let counters = pipeline.counters();
    let intake = &counters.intake;
    assert_eq!(
        (intake.records, intake.event_errors, intake.udp_records),
        (5, 1, 1)
    );
    assert_eq!((intake.message_records, intake.whole_messages), (2, 2));
    assert_eq!(counters.pair.responses_paired, 1);
    assert_eq!((intake.notice_records, intake.notices), (1, 1));
    let probed = &counters.probed;
    assert_eq!(
        (counters.deliver.notices_probed, probed.probed_malformed),
        (1, 1)
    );
}

#[test]
fn a_transfer_in_the_log_that_waits_for_its_counts_ends_with_the_pipeline() {
    let mut pipeline = Pipeline::new(PipelineConfig {
        events: crate::events::EventKind::ALL.into_iter().collect(),
        ..PipelineConfig::default()
    });
    let status = "transfer of 'a/IN' from 127.0.0.1#53: Transfer status: timed out";
    let notice = line_notice(dnstap_ebpf::LOG_TRANSFER, "%s", &[Err(status)]);
    let header = EventHeader {
        kind: 4,
        ..at(3_000, 0)
    };
    let mut batch = Batch::default();
    pipeline.push(&whole(header, &notice), &mut batch);
    assert_eq!(pipeline.counters().probed.probed_lines, 1);
    assert_eq!(batch.events.count, 0);
    pipeline.finish(&mut batch);
    assert_eq!(batch.events.count, 1);
}
