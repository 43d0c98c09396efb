//! Tests with probed servers: remarks find their messages, and no message is lost, late or out of
//! order.

use dnstap_ebpf::{
    SERVER_AUTH_RESPONSE, SERVER_RESOLVER_QUERY as ASKED, SERVER_RESOLVER_RESPONSE as ANSWERED,
};
use proptest::collection::vec;
use rstest::rstest;

use super::*;
use crate::{
    classify::bind::BindRules, reassemble::tcp::proxy::fixture::client, record::fixture::remark,
};

const SENT: u8 = DIRECTION_SENT;
const ZONE: &[u8] = b"\x04test\x00";
const PATIENCE: u64 = REMARK_PATIENCE_NS;

fn probed() -> Pipeline {
    let mut pipeline = pipeline();
    pipeline.register_server(
        7,
        Server {
            version: b"tap".to_vec(),
            ..Server::default()
        },
    );
    pipeline.probe(7, true, &mut Batch::default());
    pipeline
}

/// Returns the header of a message between a resolver, which asks from `local_port`, and a server.
fn asking(ktime_ns: u64, direction: u8, local_port: u16) -> EventHeader {
    EventHeader {
        program_id: 7,
        socket: local_port.into(),
        local_port,
        peer_port: 53,
        ..at(ktime_ns, direction)
    }
}

/// Returns the header of a message between a server and the client that asks it.
fn asked(ktime_ns: u64, direction: u8) -> EventHeader {
    EventHeader {
        program_id: 7,
        ..at(ktime_ns, direction)
    }
}

/// Returns a record with the server's remark about a message; `header` is that of the message.
fn said(header: EventHeader, message_type: u32, message: &[u8], zone: &[u8]) -> Vec<u8> {
    let header = EventHeader {
        kind: RecordKind::Remark as u8,
        socket: 0,
        local_addr: [0; 16],
        protocol: 17,
        hook: 0,
        ..header
    };
    whole(header, &remark(message_type, message, zone))
}

fn zones(messages: &[dnstap_proto::Message]) -> Vec<Option<&[u8]>> {
    messages
        .iter()
        .map(|message| message.query_zone.as_deref())
        .collect()
}

#[test]
fn what_a_server_asks_and_is_answered_has_its_zone_whichever_comes_first() {
    let mut pipeline = probed();
    let (query, response) = (message(1, 0, "a", 0), message(1, 0x8000, "a", 1));
    assert_eq!(
        run(&mut pipeline, &[whole(asking(10, SENT, 4_000), &query)]),
        []
    );
    assert_eq!(
        (pipeline.pending().held, pipeline.pending().unremarked),
        (1, 1)
    );
    let messages = run(
        &mut pipeline,
        &[
            said(asking(11, SENT, 4_000), ASKED, &query, ZONE),
            said(asking(19, 0, 4_000), ANSWERED, &response, ZONE),
            whole(asking(20, 0, 4_000), &response),
        ],
    );
    assert_eq!(zones(&messages), [Some(ZONE), Some(ZONE)]);
    assert_eq!(messages[0].r#type(), Type::ResolverQuery);
    assert_eq!(messages[1].r#type(), Type::ResolverResponse);
    assert_eq!(messages[1].response_message(), response);
    assert_eq!(pipeline.counters().deliver.zones, 2);
}

#[test]
fn an_answer_to_a_client_never_waits() {
    let mut pipeline = probed();
    let (query, response) = (message(1, 0, "a", 0), message(1, 0x8400, "a", 1));
    let records = [
        whole(asked(1, 0), &query),
        said(asked(2, SENT), SERVER_AUTH_RESPONSE, &response, ZONE),
        whole(asked(3, SENT), &response),
        whole(asked(4, 0), &query),
        whole(asked(5, SENT), &response),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(zones(&messages), [None, Some(ZONE), None, None]);
    let counters = pipeline.counters().deliver;
    assert_eq!(
        (counters.remarks_expected, counters.remarks_missing),
        (2, 1)
    );
}

/// The PROXY header comes with the query. The server answers to the proxy, but its remark has the
/// client's address.
#[test]
fn an_answer_through_a_proxy_is_known_by_the_client() {
    let mut pipeline = probed();
    let (query, response) = (message(1, 0, "a", 0), message(1, 0x8400, "a", 1));
    let at_proxy = |ktime_ns, direction| EventHeader {
        local_port: 5_300,
        ..asked(ktime_ns, direction)
    };
    let mut of_client = asked(2, SENT);
    of_client.peer_addr[..4].copy_from_slice(&[192, 0, 2, 1]);
    of_client.peer_port = 4_660;
    let records = [
        whole(at_proxy(1, 0), &[client(), query].concat()),
        said(of_client, SERVER_AUTH_RESPONSE, &response, ZONE),
        whole(at_proxy(3, SENT), &response),
    ];
    assert_eq!(zones(&run(&mut pipeline, &records)), [None, Some(ZONE)]);
}

#[test]
fn a_server_that_has_no_zone_in_mind_says_so() {
    let mut pipeline = probed();
    let response = message(1, 0x8405, "a", 0);
    let records = [
        said(asked(2, SENT), SERVER_AUTH_RESPONSE, &response, b""),
        whole(asked(3, SENT), &response),
    ];
    assert_eq!(zones(&run(&mut pipeline, &records)), [None]);
    let counters = pipeline.counters().deliver;
    assert_eq!((counters.remarks_joined, counters.zones), (1, 0));
}

#[rstest]
#[case::another_port(|header: &mut EventHeader| header.local_port = 4_001)]
#[case::another_peer(|header: &mut EventHeader| header.peer_addr[3] = 9)]
#[case::another_port_of_the_peer(|header: &mut EventHeader| header.peer_port = 54)]
#[case::another_process(|header: &mut EventHeader| header.tgid += 1)]
#[case::another_direction(|header: &mut EventHeader| header.direction = 0)]
#[case::too_late(|header: &mut EventHeader| header.ktime_ns += PATIENCE)]
fn a_remark_about_another_message_is_left(#[case] change: fn(&mut EventHeader)) {
    let mut pipeline = probed();
    let query = message(1, 0, "a", 0);
    let mut header = asking(10, SENT, 4_000);
    let mut batch = Batch::default();
    pipeline.push(&whole(header, &query), &mut batch);
    header.ktime_ns += 1;
    change(&mut header);
    pipeline.push(&said(header, ASKED, &query, ZONE), &mut batch);
    let pending = pipeline.pending();
    assert_eq!((pending.unremarked, pending.remarks), (1, 1));
    pipeline.finish(&mut batch);
    check(&pipeline);
    assert_eq!(zones(&decoded(&batch)), [None]);
    let counters = pipeline.counters().deliver;
    assert_eq!(
        (counters.remarks_missing, counters.remarks_unjoined),
        (1, 1)
    );
}

#[test]
fn other_bytes_are_another_message() {
    let query = message(1, 0, "a", 0);
    for other in [
        message(2, 0, "a", 0),
        message(1, 0, "b", 0),
        message(1, 0, "a", 1),
    ] {
        let mut pipeline = probed();
        let records = [
            whole(asking(10, SENT, 4_000), &query),
            said(asking(11, SENT, 4_000), ASKED, &other, ZONE),
        ];
        assert_eq!(run(&mut pipeline, &records), []);
    }
}

#[test]
fn without_a_port_the_thread_decides() {
    let mut pipeline = probed();
    let query = message(1, 0, "a", 0);
    let of = |header: EventHeader, tid| EventHeader { tid, ..header };
    let records = [
        whole(of(asking(10, SENT, 4_000), 1), &query),
        whole(of(asking(10, SENT, 4_001), 2), &query),
        said(of(asking(11, SENT, 0), 2), ASKED, &query, b"\x00"),
        said(of(asking(11, SENT, 0), 1), ASKED, &query, ZONE),
    ];
    let messages = run(&mut pipeline, &records);
    let ports: Vec<_> = messages
        .iter()
        .map(dnstap_proto::Message::query_port)
        .collect();
    assert_eq!(ports, [4_000, 4_001], "the order of the messages");
    assert_eq!(zones(&messages), [Some(ZONE), Some(&b"\x00"[..])]);
}

#[test]
fn no_message_waits_longer_than_it_may() {
    let mut pipeline = probed();
    let mut batch = Batch::default();
    let (early, late) = (message(1, 0, "a", 0), message(2, 0, "b", 0));
    pipeline.push(&whole(asking(10, SENT, 4_000), &early), &mut batch);
    pipeline.push(&whole(asking(20, SENT, 4_001), &late), &mut batch);
    pipeline.push(
        &said(asking(21, SENT, 4_001), ASKED, &late, ZONE),
        &mut batch,
    );
    pipeline.settle(10 + PATIENCE, &mut batch);
    assert_eq!(batch.messages.count, 0, "the first may wait");
    pipeline.settle(11 + PATIENCE, &mut batch);
    assert_eq!(zones(&decoded(&batch)), [None, Some(ZONE)]);
    assert_eq!(pipeline.pending().held, 0);
    check(&pipeline);
}

#[test]
fn what_is_not_probed_does_not_wait_and_what_is_no_more_is_let_go() {
    let query = message(1, 0, "a", 0);
    let record = whole(asking(10, SENT, 4_000), &query);
    assert_eq!(run(&mut pipeline(), std::slice::from_ref(&record)).len(), 1);
    let mut pipeline = probed();
    assert_eq!(run(&mut pipeline, std::slice::from_ref(&record)), []);
    let mut batch = Batch::default();
    pipeline.probe(7, false, &mut batch);
    assert_eq!(batch.messages.count, 1, "it goes first");
    check(&pipeline);
    assert_eq!(run(&mut pipeline, &[record]).len(), 1);
}

#[test]
fn a_server_that_is_told_of_later_is_probed_from_the_beginning() {
    let mut pipeline = pipeline();
    pipeline.probe(7, true, &mut Batch::default());
    pipeline.register_server(7, Server::default());
    let query = whole(asking(10, SENT, 4_000), &message(1, 0, "a", 0));
    assert_eq!(run(&mut pipeline, &[query]), []);
}

#[test]
fn what_cannot_have_a_remark_keeps_its_place_and_expects_none() {
    let mut pipeline = probed();
    let query = message(1, 0, "a", 0);
    let notify = message(2, 0x2400, "a", 0);
    let records = [
        whole(asking(10, SENT, 4_000), &query),
        whole(asking(11, SENT, 4_000), &notify),
        said(asking(12, SENT, 4_000), ASKED, &query, ZONE),
    ];
    let messages = run(&mut pipeline, &records);
    assert_eq!(messages[1].query_message(), notify);
    assert_eq!(zones(&messages), [Some(ZONE), None]);
    assert_eq!(pipeline.counters().deliver.remarks_expected, 1);
}

#[test]
fn no_zone_is_shown_where_names_are_hidden() {
    let mut pipeline = Pipeline::new(PipelineConfig {
        privacy: Privacy {
            addresses: None,
            no_names: true,
        },
        ..config()
    });
    pipeline.register_server(
        7,
        Server {
            version: b"tap".to_vec(),
            ..Server::default()
        },
    );
    pipeline.probe(7, true, &mut Batch::default());
    let query = message(1, 0, "a", 0);
    let records = [
        whole(asking(10, SENT, 4_000), &query),
        said(asking(11, SENT, 4_000), ASKED, &query, ZONE),
    ];
    assert_eq!(zones(&run(&mut pipeline, &records)), [None]);
    assert_eq!(pipeline.counters().deliver.zones, 0);
}

#[rstest]
#[case::wanted(0x100, 1)]
#[case::not_wanted(ASKED, 0)]
fn the_servers_own_type_is_filtered(#[case] message_type: u32, #[case] delivered: usize) {
    let mut pipeline = Pipeline::new(PipelineConfig {
        filter: Filter {
            only: "forwarder".parse().unwrap(),
            ..Filter::default()
        },
        ..config()
    });
    pipeline.register_server(
        7,
        Server {
            version: b"tap".to_vec(),
            naming: Naming::Bind(BindRules::of_version("9.18.49")),
            ..Server::default()
        },
    );
    pipeline.probe(7, true, &mut Batch::default());
    let query = message(1, 0x0100, "a", 0);
    let records = [
        whole(asking(10, SENT, 4_000), &query),
        said(asking(11, SENT, 4_000), message_type, &query, ZONE),
    ];
    assert_eq!(run(&mut pipeline, &records).len(), delivered);
    let excluded = pipeline.counters().deliver.excluded_type;
    assert_eq!(excluded, 1 - delivered as u64);
}

#[test]
fn a_remark_that_contradicts_itself_is_counted() {
    let mut pipeline = probed();
    let header = EventHeader {
        kind: RecordKind::Remark as u8,
        ..asking(1, SENT, 4_000)
    };
    assert_eq!(run(&mut pipeline, &[whole(header, b"?")]), []);
    assert_eq!(pipeline.counters().deliver.remarks_malformed, 1);
}

#[rstest]
#[case::recursion_is_not_for_this_client(0x10, Type::AuthQuery)]
#[case::recursion_is(0x4, Type::ClientQuery)]
fn a_server_that_is_mimicked_names_a_query_before_its_answer_comes(
    #[case] message_type: u32,
    #[case] expected: Type,
) {
    let mut pipeline = pipeline();
    pipeline.register_server(
        7,
        Server {
            version: b"tap".to_vec(),
            naming: Naming::Bind(BindRules::of_version("9.18.49")),
            ..Server::default()
        },
    );
    pipeline.probe(7, true, &mut Batch::default());
    let query = message(1, 0x0100, "a", 0);
    assert_eq!(run(&mut pipeline, &[whole(asked(1, 0), &query)]), []);
    let records = [
        said(asked(2, 0), message_type, &query, b""),
        // A query without RD has one possible type only. There is a remark about it, too.
        whole(asked(3, 0), &message(2, 0, "b", 0)),
        said(asked(4, 0), 0x10, &message(2, 0, "b", 0), b""),
        whole(asked(5, SENT), &message(1, 0x8180, "a", 1)),
    ];
    let messages = run(&mut pipeline, &records);
    let types: Vec<_> = messages.iter().map(dnstap_proto::Message::r#type).collect();
    assert_eq!(types, [expected, Type::AuthQuery, Type::ClientResponse]);
    let counters = pipeline.counters().deliver;
    assert_eq!((counters.remarks_expected, counters.remarks_joined), (2, 2));
}

#[test]
fn a_query_that_the_server_does_not_name_waits_for_its_answer() {
    let mut pipeline = pipeline();
    pipeline.register_server(
        7,
        Server {
            version: b"tap".to_vec(),
            naming: Naming::Bind(BindRules::of_version("9.18.49")),
            ..Server::default()
        },
    );
    pipeline.probe(7, true, &mut Batch::default());
    let mut batch = Batch::default();
    pipeline.push(&whole(asked(1, 0), &message(1, 0x0100, "a", 0)), &mut batch);
    pipeline.settle(2 + PATIENCE, &mut batch);
    check(&pipeline);
    assert_eq!((batch.messages.count, pipeline.pending().held), (0, 1));
    assert_eq!(pipeline.counters().deliver.remarks_missing, 1);
    let answer = whole(asked(5, SENT), &message(1, 0x8180, "a", 1));
    let messages = run(&mut pipeline, &[answer]);
    assert_eq!(messages[0].r#type(), Type::ClientQuery);
}

/// A message or a remark. There are few ports and ids, so that remarks often match, and may match
/// the wrong message.
#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
#[derive(Clone, Debug)]
struct Event {
    port: u16,
    id: u16,
    response: bool,
    is_remark: bool,
    without_port: bool,
    after_ns: u64,
    settles: bool,
}

fn event() -> impl Strategy<Value = Event> {
    let after = prop_oneof![0..3_u64, Just(PATIENCE / 3), Just(2 * PATIENCE)];
    (4_000..4_003_u16, 0..3_u16, any::<[bool; 4]>(), after).prop_map(
        |(port, id, flags, after_ns)| {
            let [response, is_remark, without_port, settles] = flags;
            Event {
                port,
                id,
                response,
                is_remark,
                without_port,
                after_ns,
                settles,
            }
        },
    )
}

proptest! {
    #[test]
    fn every_message_comes_once_in_order_and_in_time(events in vec(event(), 0..60)) {
        let mut pipeline = probed();
        let mut batch = Batch::default();
        let mut now = 1;
        let mut sent = Vec::new();
        for event in &events {
            now += event.after_ns;
            let (direction, flags, kind) = if event.response { (0, 0x8000, ANSWERED) } else { (SENT, 0, ASKED) };
            let mut header = asking(now, direction, event.port);
            let dns = message(event.id, flags, "a", 0);
            if event.is_remark {
                if event.without_port {
                    header.local_port = 0;
                }
                pipeline.push(&said(header, kind, &dns, ZONE), &mut batch);
            } else {
                sent.push((event.port, now, dns.clone()));
                pipeline.push(&whole(header, &dns), &mut batch);
            }
            check(&pipeline);
            if event.settles {
                pipeline.settle(now, &mut batch);
                check(&pipeline);
                let late = sent.iter().filter(|(_, at, _)| at + PATIENCE < now).count() as u64;
                prop_assert!(batch.messages.count >= late, "{} of {late}", batch.messages.count);
            }
        }
        pipeline.finish(&mut batch);
        check(&pipeline);
        prop_assert_eq!(pipeline.pending(), Pending::default());
        let came: Vec<_> = decoded(&batch).iter().map(|out| {
            let dns = if out.query_message.is_some() { out.query_message() } else { out.response_message() };
            (out.query_port() as u16, dns.to_vec())
        }).collect();
        let sent: Vec<_> = sent.into_iter().map(|(port, _, dns)| (port, dns)).collect();
        prop_assert_eq!(came, sent);
        let counters = pipeline.counters().deliver;
        prop_assert_eq!(counters.zones, counters.remarks_joined);
    }
}
