//! Datagrams from unknown hosts and the behaviour of other servers: no real message may be hidden,
//! and no false one delivered.

use dnstap_ebpf::EVENT_UNCONNECTED;
use rstest::rstest;

use super::*;
use crate::{
    classify::{bind::BindRules, profile::ProfileChoice},
    dns::fixture::asking,
    encode::ExtraField,
    model::Subject,
};

const RECEIVED: u8 = 0;
const SENT: u8 = DIRECTION_SENT;

/// Time in nanoseconds at which a server has been tapped for long.
const LONG: u64 = 100 * SECOND.unsigned_abs();

/// Header of a datagram through an unconnected socket of the process, between its port and a
/// peer's.
fn datagram(ktime_ns: u64, direction: u8, port: u16, peer: u16) -> EventHeader {
    EventHeader {
        local_port: port,
        peer_port: peer,
        flags: EVENT_UNCONNECTED,
        socket: u64::from(port),
        ..at(ktime_ns, direction)
    }
}

fn nameless(header: EventHeader) -> EventHeader {
    EventHeader {
        peer_addr: [0; 16],
        peer_port: 0,
        ..header
    }
}

fn query(id: u16) -> Vec<u8> {
    message(id, 0x0100, "a", 0)
}

fn answer(id: u16) -> Vec<u8> {
    message(id, 0x8180, "a", 1)
}

/// Returns a pipeline that has known the server since long before [`LONG`].
fn settled(config: PipelineConfig) -> Pipeline {
    let mut pipeline = Pipeline::new(config);
    let records = [
        whole(at(1, RECEIVED), &query(9)),
        whole(at(2, SENT), &answer(9)),
    ];
    assert_eq!(run(&mut pipeline, &records).len(), 2);
    pipeline
}

/// Ends the pipeline, so that all waiting responses are judged. Returns the messages delivered.
fn end(pipeline: &mut Pipeline) -> Vec<dnstap_proto::Message> {
    let mut batch = Batch::default();
    pipeline.finish(&mut batch);
    check(pipeline);
    decoded(&batch)
}

#[test]
fn a_port_is_known_when_the_process_has_answered_there_and_not_before() {
    let mut pipeline = pipeline();
    let garbage = b"no dns, but on a port";
    let mut delivered =
        |header, payload: &[u8]| run(&mut pipeline, &[whole(header, payload)]).len();
    let received = |peer| datagram(1, RECEIVED, 5_301, peer);
    assert_eq!(delivered(received(1), &query(1)), 1);
    assert_eq!(delivered(received(2), garbage), 0, "anybody may ask");
    assert_eq!(delivered(datagram(2, SENT, 5_301, 1), &answer(1)), 1);
    let sibling = EventHeader {
        socket: 77,
        ..received(2)
    };
    assert_eq!(delivered(sibling, garbage), 1);
}

#[test]
fn of_another_server_its_own_end_is_learned_and_not_the_port_of_all() {
    let mut pipeline = pipeline();
    let garbage = b"no dns, but on a port";
    let connected = |direction, local_port, peer_addr| EventHeader {
        local_port,
        peer_port: 5_301,
        socket: local_port.into(),
        peer_addr,
        ..at(1, direction)
    };
    let (upstream, other) = ([1; 16], [2; 16]);
    let mut delivered =
        |header, payload: &[u8]| run(&mut pipeline, &[whole(header, payload)]).len();
    assert_eq!(delivered(connected(SENT, 40_001, upstream), &query(1)), 1);
    assert_eq!(delivered(connected(RECEIVED, 40_002, upstream), garbage), 0);
    assert_eq!(
        delivered(connected(RECEIVED, 40_001, upstream), &answer(1)),
        1
    );
    assert_eq!(delivered(connected(RECEIVED, 40_003, upstream), garbage), 1);
    assert_eq!(delivered(connected(RECEIVED, 40_004, other), garbage), 0);
}

#[test]
fn a_plain_query_does_not_make_dns_of_what_is_encrypted() {
    let mut pipeline = pipeline();
    let received = |peer| datagram(1, RECEIVED, 853, peer);
    let quic = [&[0x45][..], &[7; 60]].concat();
    let records = [
        whole(received(1), &query(1)),
        whole(datagram(2, SENT, 853, 1), &answer(1)),
        whole(received(2), &quic),
        whole(datagram(3, SENT, 853, 2), &quic),
        whole(received(3), &query(0x4001)),
    ];
    assert_eq!(run(&mut pipeline, &records).len(), 3);
    assert_eq!(pipeline.counters().intake.udp_encrypted, 2);
}

#[test]
fn garbage_on_a_port_that_only_waits_hides_nobody() {
    let mut pipeline = pipeline();
    let garbage: Vec<_> = (0..500)
        .map(|peer| {
            let header = datagram(1, RECEIVED, 5_301, 10_000 + peer);
            whole(header, b"nothing that anybody could read")
        })
        .collect();
    assert_eq!(run(&mut pipeline, &garbage).len(), 0);
    assert_eq!(pipeline.verdicts().count(), 0);
    assert_eq!(pipeline.counters().intake.udp_not_dns, 500);
    let pair = [
        whole(datagram(2, RECEIVED, 5_301, 7), &query(1)),
        whole(datagram(3, SENT, 5_301, 7), &answer(1)),
    ];
    assert_eq!(run(&mut pipeline, &pair).len(), 2);
}

#[rstest]
#[case::generic("generic")]
#[case::recursive("recursive")]
#[case::authoritative("authoritative")]
#[case::forwarder("forwarder")]
fn what_comes_unasked_to_a_port_that_waits_is_no_response(#[case] profile: ProfileChoice) {
    let mut pipeline = Pipeline::new(named(Naming::Profile(profile.choose("", true).profile())));
    let forged = message(7, 0x8180, "bank", 1);
    let records = [
        whole(datagram(1, RECEIVED, 53, 1), &query(1)),
        whole(datagram(2, SENT, 53, 1), &answer(1)),
        whole(datagram(3, RECEIVED, 53, 2), &forged),
        // The process asks from the same port, and is answered twice.
        whole(datagram(4, SENT, 53, 53), &query(2)),
        whole(datagram(5, RECEIVED, 53, 53), &answer(2)),
        whole(datagram(6, RECEIVED, 53, 53), &answer(2)),
        // Too short for a header, and garbage with a QR bit.
        whole(datagram(7, RECEIVED, 53, 2), &[0, 1, 0x80]),
        whole(datagram(8, RECEIVED, 53, 2), &[0xff; 40]),
        whole(datagram(9, RECEIVED, 53, 2), &[0; 5]),
    ];
    assert_eq!(run(&mut pipeline, &records).len(), 5);
    assert_eq!(end(&mut pipeline), []);
    let counters = pipeline.counters();
    assert_eq!(counters.deliver.unsolicited, 4);
    assert_eq!(
        (
            counters.pair.responses_paired,
            counters.pair.responses_unmatched
        ),
        (2, 3)
    );
}

#[test]
fn on_request_it_is_delivered_and_says_that_nobody_asked() {
    let config = |naming| PipelineConfig {
        unsolicited: true,
        extra: Extra {
            fields: vec![ExtraField::Pid],
        },
        ..named(naming)
    };
    let forged = whole(datagram(3, RECEIVED, 53, 2), &answer(7));
    let mut pipeline = Pipeline::new(config(Naming::default()));
    let mut batch = Batch::default();
    pipeline.push(&forged, &mut batch);
    pipeline.tick(2 * SECOND.unsigned_abs(), &mut batch);
    check(&pipeline);
    let dnstap = Dnstap::decode(&batch.messages.bytes[4..]).unwrap();
    assert_eq!(dnstap.extra(), br#"{"pid":10,"unsolicited":true}"#);
    let shown = dnstap.message.unwrap();
    assert_eq!(shown.r#type(), Type::ForwarderResponse);
    assert_eq!(shown.query_time_sec, None);
    let counters = pipeline.counters().deliver;
    assert_eq!(
        (counters.unsolicited, counters.unsolicited_delivered),
        (0, 1)
    );

    let bind = Naming::Bind(BindRules::of_version("9.20.20"));
    let mut pipeline = Pipeline::new(config(bind));
    assert_eq!(run(&mut pipeline, std::slice::from_ref(&forged)), []);
    assert_eq!(end(&mut pipeline), []);
    assert_eq!(pipeline.counters().deliver.excluded_mimic, 1);
}

#[test]
fn nothing_is_judged_from_before_the_tap_where_the_process_only_asks() {
    let late = |ktime_ns| whole(datagram(ktime_ns, RECEIVED, 40_000, 53), &answer(1));
    let mut fresh = pipeline();
    assert_eq!(run(&mut fresh, &[late(5)]).len(), 1);
    let mut old = settled(config());
    assert_eq!(run(&mut old, &[late(LONG)]).len(), 0);
    assert_eq!(end(&mut old), []);
    assert_eq!(old.counters().deliver.unsolicited, 1);
}

#[test]
fn connected_sockets_and_streams_keep_what_their_peer_says() {
    let mut pipeline = settled(config());
    let connected = EventHeader {
        flags: 0,
        ..datagram(LONG, RECEIVED, 40_000, 53)
    };
    let stream = EventHeader {
        protocol: IPPROTO_TCP,
        flags: 0,
        ..datagram(LONG, RECEIVED, 40_001, 53)
    };
    let records = [
        whole(connected, &answer(1)),
        whole(stream, &framed(&answer(2))),
    ];
    assert_eq!(run(&mut pipeline, &records).len(), 2);
}

#[test]
fn where_the_query_may_have_been_lost_nobody_is_accused() {
    let mut pipeline = settled(config());
    let with_losses = |lost, ktime_ns| EventHeader {
        lost,
        ..datagram(ktime_ns, RECEIVED, 40_000, 53)
    };
    let later = LONG + 20 * SECOND.unsigned_abs();
    let records = [
        whole(with_losses(3, LONG), &answer(1)),
        whole(with_losses(3, LONG + 1), &answer(2)),
        whole(with_losses(3, later), &answer(3)),
        whole(with_losses(4, later + 1), &answer(4)),
    ];
    assert_eq!(run(&mut pipeline, &records).len(), 3);
    let other = datagram(later + 2, RECEIVED, 40_001, 53);
    assert_eq!(run(&mut pipeline, &[whole(other, &answer(5))]).len(), 0);
    pipeline.set_filter(Filter::default());
    let after = datagram(later + 3, RECEIVED, 40_001, 53);
    assert_eq!(run(&mut pipeline, &[whole(after, &answer(6))]).len(), 1);
    assert_eq!(end(&mut pipeline), []);
    assert_eq!(pipeline.counters().deliver.unsolicited, 2);
}

#[test]
fn a_flood_of_queries_does_not_push_out_what_the_process_has_asked() {
    let mut pipeline = settled(config());
    let asked = whole(datagram(LONG, SENT, 40_000, 53), &query(1));
    assert_eq!(run(&mut pipeline, &[asked]).len(), 1);
    let flood: Vec<_> = (0..500)
        .map(|id| whole(datagram(LONG + 1, RECEIVED, 53, 1_000 + id), &query(id)))
        .collect();
    run(&mut pipeline, &flood);
    assert!(pipeline.counters().pair.queries_evicted > 400);
    let answered = whole(datagram(LONG + 9, RECEIVED, 40_000, 53), &answer(1));
    let messages = run(&mut pipeline, &[answered]);
    assert_eq!(messages[0].query_time_nsec, Some(0));
    let forged = whole(datagram(LONG + 10, RECEIVED, 53, 66), &answer(1));
    assert_eq!(run(&mut pipeline, &[forged]).len(), 0);
    assert_eq!(end(&mut pipeline), []);
    assert_eq!(pipeline.counters().deliver.unsolicited, 1);
}

#[test]
fn a_response_that_is_seen_before_its_query_waits_for_it() {
    let mut pipeline = settled(config());
    let asked = whole(datagram(LONG + 500, SENT, 40_000, 53), &query(1));
    let mut answered = datagram(LONG + 100, RECEIVED, 40_000, 53);
    answered.tid += 1;
    assert_eq!(run(&mut pipeline, &[whole(answered, &answer(1))]), []);
    assert_eq!(pipeline.pending().held, 1);
    let messages = run(&mut pipeline, &[asked]);
    assert_eq!(messages.len(), 2);
    let response = &messages[1];
    assert_eq!(response.response_message(), answer(1));
    assert_eq!(response.query_time_nsec, response.response_time_nsec);
    assert_eq!(end(&mut pipeline), []);
    assert_eq!(pipeline.counters().pair.responses_paired, 2);
}

/// A forged response could otherwise wait for any later query.
#[rstest]
#[case::by_the_same_thread(0, 500)]
#[case::long_before(1, 21_000_000)]
fn a_response_that_was_there_before_its_query_is_none(
    #[case] other_thread: u32,
    #[case] later: u64,
) {
    let mut pipeline = settled(config());
    let mut forged = datagram(LONG, RECEIVED, 40_000, 53);
    forged.tid += other_thread;
    assert_eq!(run(&mut pipeline, &[whole(forged, &answer(1))]), []);
    let asked = whole(datagram(LONG + later, SENT, 40_000, 53), &query(1));
    assert_eq!(run(&mut pipeline, &[asked]).len(), 1);
    let answered = whole(datagram(LONG + later + 9, RECEIVED, 40_000, 53), &answer(1));
    let messages = run(&mut pipeline, &[answered]);
    assert!(messages[0].query_time_nsec.is_some());
    end(&mut pipeline);
    assert_eq!(pipeline.counters().deliver.unsolicited, 1);
}

#[test]
fn a_late_answer_is_delivered_though_its_query_counts_as_unanswered() {
    let mut limited = config();
    limited.pair_limits.age_ns = SECOND.unsigned_abs();
    let mut pipeline = settled(limited);
    let asked = whole(datagram(LONG, SENT, 40_000, 53), &query(1));
    run(&mut pipeline, &[asked]);
    let mut batch = Batch::default();
    pipeline.tick(LONG + 3 * SECOND.unsigned_abs(), &mut batch);
    assert_eq!(pipeline.counters().pair.queries_unanswered, 1);
    let late = |ns| datagram(LONG + 3 * SECOND.unsigned_abs() + ns, RECEIVED, 40_000, 53);
    let messages = run(
        &mut pipeline,
        &[whole(late(1), &answer(1)), whole(late(2), &answer(1))],
    );
    assert_eq!(messages.len(), 1, "once");
    assert_eq!(messages[0].query_time_sec, None);
    assert_eq!(end(&mut pipeline), []);
    assert_eq!(pipeline.counters().deliver.unsolicited, 1);
}

#[test]
fn a_response_from_nobody_takes_time_and_server_from_its_query() {
    let mut pipeline = settled(config());
    let asked = datagram(LONG, SENT, 40_000, 53);
    let answered = nameless(datagram(LONG + 5, RECEIVED, 40_000, 53));
    let records = [
        whole(asked, &query(1)),
        whole(asked, &query(2)),
        whole(answered, &answer(2)),
        whole(answered, &answer(2)),
        whole(answered, &answer(3)),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[2].response_address(), [127, 0, 0, 1]);
    assert_eq!(messages[2].response_port, Some(53));
    assert!(messages[2].query_time_sec.is_some());
    assert_eq!(end(&mut pipeline), []);
    assert_eq!(pipeline.counters().deliver.unsolicited, 2);
}

#[test]
fn who_was_asked_may_answer_something_else() {
    let mut pipeline = settled(config());
    let strange = message(1, 0x8180, "other", 1);
    let records = [
        whole(datagram(LONG, SENT, 40_000, 53), &query(1)),
        whole(datagram(LONG + 1, RECEIVED, 40_000, 53), &strange),
        whole(datagram(LONG + 2, RECEIVED, 40_000, 54), &strange),
        whole(datagram(LONG + 3, RECEIVED, 40_000, 53), &answer(1)),
    ];
    let messages = run(&mut pipeline, &records);
    let timed: Vec<_> = messages
        .iter()
        .map(|message| message.query_time_sec.is_some())
        .collect();
    assert_eq!(timed, [true, false, true]);
    assert_eq!(end(&mut pipeline), []);
    assert_eq!(pipeline.counters().deliver.unsolicited, 1);
}

#[test]
fn where_the_kernel_samples_by_peers_a_response_from_nobody_is_not_judged() {
    let mut pipeline = settled(PipelineConfig {
        filter: Filter {
            sampled: true,
            ..Filter::default()
        },
        ..config()
    });
    let answered = datagram(LONG, RECEIVED, 40_000, 53);
    assert_eq!(
        run(&mut pipeline, &[whole(nameless(answered), &answer(1))]).len(),
        1
    );
    assert_eq!(run(&mut pipeline, &[whole(answered, &answer(1))]).len(), 0);
}

#[test]
fn the_answer_to_a_query_from_nobody_has_its_time() {
    let mut pipeline = pipeline();
    let records = [
        whole(nameless(datagram(1, RECEIVED, 53, 1)), &query(1)),
        whole(datagram(2, RECEIVED, 53, 4_001), &query(1)),
        whole(datagram(3, SENT, 53, 4_001), &answer(1)),
        whole(datagram(4, SENT, 53, 4_002), &answer(1)),
        whole(datagram(5, SENT, 53, 4_003), &answer(1)),
    ];
    let messages = run(&mut pipeline, &records);
    let times: Vec<_> = messages[2..]
        .iter()
        .map(|message| message.query_time_nsec)
        .collect();
    assert_eq!(times, [Some(2), Some(1), None], "the peer's own goes first");
}

#[test]
fn an_answer_leaves_through_another_socket_of_the_same_port() {
    let mut pipeline = pipeline();
    let by = |header, socket, program_id| EventHeader {
        socket,
        program_id,
        ..header
    };
    let (received, sent) = (datagram(1, RECEIVED, 53, 7), datagram(2, SENT, 53, 7));
    let records = [
        whole(by(received, 1, 5), &query(1)),
        whole(by(sent, 2, 6), &answer(1)),
        whole(by(sent, 2, 5), &answer(1)),
        whole(by(received, 3, 5), &query(2)),
        whole(by(received, 4, 5), &query(2)),
        whole(by(sent, 4, 5), &answer(2)),
    ];
    let messages = run(&mut pipeline, &records);
    let paired: Vec<_> = [1, 2, 5]
        .map(|at: usize| messages[at].query_time_nsec.is_some())
        .into();
    assert_eq!(paired, [false, true, true], "another program is no family");
    assert_eq!(pipeline.pending().queries, 1);
}

#[test]
fn two_local_addresses_do_not_swap_the_times_of_one_question() {
    let mut pipeline = pipeline();
    let on = |address: u8, header| EventHeader {
        local_addr: [192, 0, 2, address, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ..header
    };
    let (first, second) = (datagram(1, RECEIVED, 53, 7), datagram(2, RECEIVED, 53, 7));
    let records = [
        whole(on(1, first), &query(1)),
        whole(on(2, second), &query(1)),
        whole(on(2, datagram(3, SENT, 53, 7)), &answer(1)),
        whole(on(1, datagram(4, SENT, 53, 7)), &answer(1)),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(messages[2].query_time_nsec, Some(2));
    assert_eq!(messages[3].query_time_nsec, Some(1));
}

#[rstest]
#[case::to_the_root_in_the_header(b"\x04zone\xc0\x04")]
#[case::to_nowhere(b"\x04zone\xff\xff")]
fn a_transfer_is_one_however_its_name_is_written(#[case] name: &[u8]) {
    let compressed = [&asking(252, 0x0100)[..12], name, &[0, 252, 0, 1]].concat();
    let tcp = |ktime_ns, direction, tcp_seq| EventHeader {
        protocol: IPPROTO_TCP,
        tcp_seq,
        ..at(ktime_ns, direction)
    };
    let data = framed(&asking(252, 0x8500));
    let next = u32::try_from(data.len()).unwrap();
    let records = [
        whole(tcp(1, RECEIVED, 0), &framed(&compressed)),
        whole(tcp(2, SENT, 0), &data),
        whole(tcp(3, SENT, next), &data),
    ];
    let messages = run(
        &mut Pipeline::new(PipelineConfig {
            filter: Filter {
                exclude: vec![Subject::Query],
                ..Filter::default()
            },
            ..config()
        }),
        &records,
    );
    let kinds: Vec<_> = messages.iter().map(dnstap_proto::Message::r#type).collect();
    assert_eq!(
        kinds,
        [Type::AuthQuery, Type::AuthResponse, Type::AuthResponse]
    );
    assert_eq!(messages[2].query_time_nsec, Some(1));
}

#[test]
fn a_forwarder_has_no_zones_to_refresh() {
    let choice: ProfileChoice = "forwarder".parse().unwrap();
    let mut pipeline = Pipeline::new(PipelineConfig {
        filter: Filter {
            exclude: vec![Subject::Refresh],
            ..Filter::default()
        },
        ..named(Naming::Profile(choice.choose("", true).profile()))
    });
    let records = [
        whole(datagram(1, SENT, 40_000, 53), &asking(6, 0)),
        whole(datagram(2, RECEIVED, 40_000, 53), &asking(6, 0x8400)),
    ];
    let kinds: Vec<_> = run(&mut pipeline, &records)
        .iter()
        .map(dnstap_proto::Message::r#type)
        .collect();
    assert_eq!(kinds, [Type::ForwarderQuery, Type::ForwarderResponse]);
}
