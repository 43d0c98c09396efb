//! Events that are made of messages: transfers, name servers, queries without a response.

use dnstap_ebpf::IPPROTO_UDP;
use dnstap_proto::{
    Event, NsChange, RateLimit, Transfer,
    event::{Kind as Content, Phase, Source},
    ns_change::Certainty,
    prost::Message as _,
    transfer::Direction as Way,
};

use super::*;
use crate::{
    events::EventKinds, model::Subject, pipeline::Filter, reassemble::tcp::proxy::fixture::client,
};

const RECEIVED: u8 = 0;
const SENT: u8 = DIRECTION_SENT;
const QUERY: u16 = 0;
const ANSWER: u16 = 0x8400;
const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const IXFR: u16 = 251;
const AXFR: u16 = 252;

/// A record: owner, type, rdata.
type Rr = (&'static str, u16, Vec<u8>);

fn name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

fn soa(serial: u32) -> Rr {
    let numbers = [serial, 1, 1, 1, 1].map(u32::to_be_bytes).concat();
    (
        "zone",
        SOA,
        [name("ns.zone"), name("root.zone"), numbers].concat(),
    )
}

fn a(last: u8) -> Rr {
    ("a.zone", A, vec![192, 0, 2, last])
}

fn ns(owner: &'static str, server: &str) -> Rr {
    (owner, NS, name(server))
}

/// Builds a message. `asked`: question. Sections: answer, authority, additional.
fn dns(id: u16, flags: u16, asked: Option<(&str, u16)>, sections: [&[Rr]; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let counts = sections.map(|section| section.len() as u16);
    for word in [
        id,
        flags,
        u16::from(asked.is_some()),
        counts[0],
        counts[1],
        counts[2],
    ] {
        bytes.extend(word.to_be_bytes());
    }
    if let Some((asked, kind)) = asked {
        bytes.extend(name(asked));
        bytes.extend(kind.to_be_bytes());
        bytes.extend(1_u16.to_be_bytes());
    }
    for (owner, kind, data) in sections.into_iter().flatten() {
        bytes.extend(name(owner));
        bytes.extend([kind.to_be_bytes(), 1_u16.to_be_bytes()].concat());
        bytes.extend(60_u32.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

/// Bytes that passed a connection or a socket, in order.
struct Traffic {
    pipeline: Pipeline,
    batch: Batch,
    header: EventHeader,
    /// Bytes of each direction so far.
    passed: [u32; 2],
    ktime_ns: u64,
    /// RD of the queries and responses of a flood, and RA of its responses.
    flags: u16,
}

impl Traffic {
    fn new(protocol: u8) -> Self {
        let pipeline = Pipeline::new(PipelineConfig {
            events: EventKinds::ALL,
            ..config()
        });
        Self::of(pipeline, protocol)
    }

    fn of(pipeline: Pipeline, protocol: u8) -> Self {
        Self {
            pipeline,
            batch: Batch::default(),
            header: EventHeader {
                protocol,
                ..header()
            },
            passed: [1_000; 2],
            ktime_ns: 1_000_000_000,
            flags: 0,
        }
    }

    /// Lets a message pass.
    fn pass(&mut self, direction: u8, message: &[u8]) {
        self.ktime_ns += 1_000_000;
        let mut header = EventHeader {
            ktime_ns: self.ktime_ns,
            direction,
            ..self.header
        };
        let record = if header.protocol == IPPROTO_TCP {
            let passed = &mut self.passed[usize::from(direction)];
            header.tcp_seq = *passed;
            let framed = framed(message);
            *passed += framed.len() as u32;
            whole(header, &framed)
        } else {
            whole(header, message)
        };
        self.pipeline.push(&record, &mut self.batch);
        check(&self.pipeline);
    }

    /// Ends the connection.
    fn close(&mut self) {
        self.ktime_ns += 1_000_000;
        let end = EventHeader {
            ktime_ns: self.ktime_ns,
            kind: RecordKind::ConnectionEnd as u8,
            tgid: 0,
            ..self.header
        };
        self.pipeline.push(&whole(end, b""), &mut self.batch);
    }

    fn events(&mut self) -> Vec<Event> {
        events(&mut self.pipeline, &mut self.batch)
    }

    fn transfers(&mut self) -> Vec<(Phase, Transfer)> {
        let events = self.events().into_iter();
        let transfers = events.filter_map(|event| match event.kind {
            Some(Content::Transfer(ref transfer)) => Some((event.phase(), transfer.clone())),
            _ => None,
        });
        transfers.collect()
    }

    /// Returns the ends of transfers, as status, form, messages and records.
    fn ends(&mut self) -> Vec<(String, Option<u32>, u64, u64)> {
        let ends = self.transfers().into_iter();
        ends.filter(|(phase, _)| *phase == Phase::End)
            .map(|(_, end)| {
                (
                    end.status().to_owned(),
                    end.answered,
                    end.messages(),
                    end.records(),
                )
            })
            .collect()
    }
}

/// Returns the events of a batch, and checks that all were counted.
fn events(pipeline: &mut Pipeline, batch: &mut Batch) -> Vec<Event> {
    let mut rest = &batch.events.bytes[..];
    let mut events = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        events.push(Event::decode(frame).unwrap());
        rest = tail;
    }
    assert_eq!(batch.events.count, events.len() as u64);
    assert_eq!(pipeline.counters().events.total(), events.len() as u64);
    events
}

fn request(id: u16, kind: u16, old: Option<u32>) -> Vec<u8> {
    let authority: Vec<_> = old.map(soa).into_iter().collect();
    dns(id, QUERY, Some(("zone", kind)), [&[], &authority, &[]])
}

fn first(id: u16, kind: u16, answers: &[Rr]) -> Vec<u8> {
    dns(id, ANSWER, Some(("zone", kind)), [answers, &[], &[]])
}

fn later(id: u16, answers: &[Rr]) -> Vec<u8> {
    dns(id, ANSWER, None, [answers, &[], &[]])
}

#[test]
fn a_transfer_goes_from_its_request_to_the_second_soa() {
    let mut traffic = Traffic::new(IPPROTO_TCP);
    let tsig = ("key", 250, Vec::new());
    let request = dns(7, QUERY, Some(("zone", AXFR)), [&[], &[], &[tsig]]);
    let answers = [
        first(7, AXFR, &[soa(3), a(1)]),
        later(7, &[a(2)]),
        later(7, &[a(3), soa(3)]),
    ];
    traffic.pass(RECEIVED, &request);
    for answer in &answers {
        traffic.pass(SENT, answer);
    }
    let events = traffic.events();
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!((event.source(), event.process_id()), (Source::Socket, 10));
        assert_eq!(event.identity(), b"ns1");
    }
    let transfers = traffic.transfers();
    let start = Transfer {
        direction: Some(Way::Out as i32),
        zone: Some(name("zone").into()),
        class: Some(1),
        peer_address: Some(vec![127, 0, 0, 1].into()),
        peer_port: Some(40_000),
        requested: Some(AXFR.into()),
        tsig_key: Some(name("key").into()),
        ..Transfer::default()
    };
    let end = Transfer {
        answered: Some(AXFR.into()),
        new_serial: Some(3),
        messages: Some(3),
        records: Some(5),
        bytes: Some(answers.iter().map(|answer| answer.len() as u64).sum()),
        duration_ns: Some(3_000_000),
        status: Some("success".to_owned()),
        ..start.clone()
    };
    assert_eq!(transfers, [(Phase::Start, start), (Phase::End, end)]);
}

#[test]
fn the_process_may_be_the_one_that_gets_the_zone() {
    let mut traffic = Traffic::new(IPPROTO_TCP);
    traffic.pass(SENT, &request(7, AXFR, None));
    traffic.pass(RECEIVED, &first(7, AXFR, &[soa(3), soa(3)]));
    let ways: Vec<_> = traffic
        .transfers()
        .iter()
        .map(|(_, one)| one.direction())
        .collect();
    assert_eq!(ways, [Way::In, Way::In]);
}

#[test]
fn an_incremental_transfer_ends_where_a_difference_could_begin() {
    // Two differences: from 1 to 2 and from 2 to 3. The SOA of version 3 comes three times.
    let records = [
        soa(3),
        soa(1),
        a(1),
        soa(2),
        a(2),
        soa(2),
        soa(3),
        a(3),
        soa(3),
    ];
    for size in 1..=records.len() {
        let mut traffic = Traffic::new(IPPROTO_TCP);
        traffic.pass(RECEIVED, &request(7, IXFR, Some(1)));
        for (nth, answers) in records.chunks(size).enumerate() {
            let message = if nth == 0 {
                first(7, IXFR, answers)
            } else {
                later(7, answers)
            };
            traffic.pass(SENT, &message);
        }
        let messages = records.len().div_ceil(size) as u64;
        let form = Some(u32::from(IXFR));
        assert_eq!(
            traffic.ends(),
            [("success".to_owned(), form, messages, 9)],
            "{size}"
        );
        let (_, end) = traffic.transfers().pop().unwrap();
        assert_eq!((end.old_serial, end.new_serial), (Some(1), Some(3)));
    }
}

#[test]
fn an_incremental_request_may_get_the_whole_zone_one_record_or_nothing_new() {
    let run = |answers: &[&[Rr]], protocol| {
        let mut traffic = Traffic::new(protocol);
        traffic.pass(RECEIVED, &request(7, IXFR, Some(5)));
        for answers in answers {
            traffic.pass(SENT, &first(7, IXFR, answers));
        }
        traffic.ends()
    };
    let axfr = Some(u32::from(AXFR));
    let end =
        |status: &str, form, messages, records| [(status.to_owned(), form, messages, records)];
    let whole = run(&[&[soa(6), a(1)], &[a(2), soa(6)]], IPPROTO_TCP);
    assert_eq!(whole, end("success", axfr, 2, 4));
    let slowly = run(&[&[soa(6)], &[a(1)], &[soa(6)]], IPPROTO_TCP);
    assert_eq!(slowly, end("success", axfr, 3, 3));
    for serial in [5, 4, u32::MAX] {
        let nothing = run(&[&[soa(serial)]], IPPROTO_TCP);
        assert_eq!(nothing, end("up to date", None, 1, 1), "{serial}");
    }
    let too_large = run(&[&[soa(6)]], IPPROTO_UDP);
    assert_eq!(too_large, end("does not fit UDP", None, 1, 1));
    let small = run(&[&[soa(6), soa(5), a(1), soa(6), soa(6)]], IPPROTO_UDP);
    assert_eq!(small, end("success", Some(IXFR.into()), 1, 5));
}

#[test]
fn a_refusal_ends_it_with_the_response_code_and_the_tsig_error() {
    // Algorithm, time and fudge, no MAC, original id, BADKEY, no other data.
    let tsig = [
        name("hmac"),
        vec![0; 8],
        vec![0, 0],
        vec![0, 7],
        vec![0, 17],
        vec![0, 0],
    ]
    .concat();
    let additional: [&[Rr]; 2] = [&[], &[("key", 250, tsig)]];
    for (rcode, additional, status) in [
        (5, additional[0], "REFUSED"),
        (9, additional[1], "NOTAUTH (BADKEY)"),
        (2, additional[0], "SERVFAIL"),
    ] {
        let mut traffic = Traffic::new(IPPROTO_TCP);
        traffic.pass(RECEIVED, &request(7, AXFR, None));
        let answer = dns(
            7,
            0x8000 | rcode,
            Some(("zone", AXFR)),
            [&[], &[], additional],
        );
        traffic.pass(SENT, &answer);
        assert_eq!(traffic.ends(), [(status.to_owned(), None, 1, 0)]);
    }
}

#[test]
fn a_connection_that_ends_too_early_ends_its_transfers() {
    let mut traffic = Traffic::new(IPPROTO_TCP);
    traffic.pass(RECEIVED, &request(7, AXFR, None));
    traffic.pass(RECEIVED, &request(8, AXFR, None));
    traffic.pass(SENT, &first(7, AXFR, &[soa(3), a(1)]));
    traffic.close();
    let closed = traffic.ktime_ns;
    traffic
        .pipeline
        .tick(closed + 900_000_000, &mut traffic.batch);
    assert_eq!(traffic.ends(), [], "what came before may still be read");
    traffic
        .pipeline
        .tick(closed + 1_100_000_000, &mut traffic.batch);
    let status = "connection closed".to_owned();
    let axfr = Some(u32::from(AXFR));
    assert_eq!(
        traffic.ends(),
        [(status.clone(), axfr, 1, 2), (status, None, 0, 0)]
    );
    let (_, end) = traffic.transfers().pop().unwrap();
    assert_eq!(end.duration_ns(), 2_000_000, "not until it was found");
}

#[test]
fn several_transfers_share_a_connection() {
    let mut traffic = Traffic::new(IPPROTO_TCP);
    traffic.pass(RECEIVED, &request(7, AXFR, None));
    traffic.pass(RECEIVED, &request(8, IXFR, Some(1)));
    traffic.pass(SENT, &first(7, AXFR, &[soa(3), a(1)]));
    traffic.pass(SENT, &first(8, IXFR, &[soa(3), soa(1), a(1)]));
    traffic.pass(SENT, &later(7, &[soa(3)]));
    traffic.pass(SENT, &later(8, &[soa(3), soa(3)]));
    let forms: Vec<_> = traffic
        .ends()
        .into_iter()
        .map(|(_, form, ..)| form)
        .collect();
    assert_eq!(forms, [Some(AXFR.into()), Some(IXFR.into())]);
}

#[test]
fn a_transfer_that_began_before_the_tap_ends_with_an_soa_and_silence() {
    let mut traffic = Traffic::new(IPPROTO_TCP);
    traffic.header.socket = 1_000; // it existed before
    for answers in [&[a(1), a(2)][..], &[a(3)], &[a(4), soa(3)]] {
        traffic.pass(SENT, &later(7, answers));
    }
    let last = traffic.ktime_ns;
    assert_eq!(traffic.ends(), []);
    traffic
        .pipeline
        .tick(last + 1_100_000_000, &mut traffic.batch);
    let (phase, end) = traffic.transfers().pop().unwrap();
    assert_eq!(
        (phase, end.midway, end.requested),
        (Phase::End, Some(true), None)
    );
    assert_eq!(end.zone.as_deref(), Some(&name("zone")[..]));
    assert_eq!((end.new_serial(), end.status()), (3, "success"));
    assert_eq!(end.duration_ns(), last - 1_001_000_000);
    // The first message may be the one by which the framing was found.
    assert!(end.messages() <= 3 && end.records() <= 5, "{end:?}");
}

#[test]
fn a_request_over_udp_without_a_response_is_given_up() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    for _ in 0..2 {
        traffic.pass(RECEIVED, &request(7, IXFR, Some(1)));
    }
    traffic
        .pipeline
        .tick(traffic.ktime_ns + 16_000_000_000, &mut traffic.batch);
    assert_eq!(traffic.ends(), [("no response".to_owned(), None, 0, 0)]);
}

#[test]
fn transfers_beyond_the_bound_are_counted() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    for id in 0..4_100 {
        traffic.pass(RECEIVED, &request(id, AXFR, None));
    }
    assert_eq!(traffic.pipeline.counters().watch.transfers_forgotten, 4);
}

/// Lets the process ask and get these NS records.
fn ask(traffic: &mut Traffic, asked: &str, flags: u16, sections: [&[Rr]; 3]) {
    traffic.header.local_port = 40_000;
    traffic.header.peer_port = 53;
    traffic.pass(SENT, &dns(7, QUERY, Some((asked, A)), [&[], &[], &[]]));
    traffic.pass(RECEIVED, &dns(7, flags, Some((asked, A)), sections));
}

fn changes(traffic: &mut Traffic) -> Vec<NsChange> {
    let events = traffic.events().into_iter();
    let changes = events.filter_map(|event| match event.kind {
        Some(Content::NsChange(change)) => Some(change),
        _ => None,
    });
    changes.collect()
}

#[test]
fn new_name_servers_are_a_change_and_their_order_and_case_are_not() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    let [one, two] = [ns("Zone", "a.old"), ns("zone", "B.old")];
    ask(&mut traffic, "www.zone", 0x8000, [&[], &[one, two], &[]]);
    let [one, two] = [ns("zone", "b.OLD"), ns("zone", "A.old")];
    ask(&mut traffic, "WWW.zone", 0x8000, [&[], &[one, two], &[]]);
    assert_eq!(changes(&mut traffic), []);
    let new = || ns("zone", "ns.New");
    ask(&mut traffic, "www.zone", 0x8000, [&[], &[new()], &[]]);
    let [change] = &changes(&mut traffic)[..] else {
        panic!("not one change")
    };
    let expected = NsChange {
        name: Some(name("zone").into()),
        class: Some(1),
        old_servers: vec![name("a.old").into(), name("B.old").into()],
        new_servers: vec![name("ns.New").into()],
        sender_address: Some(vec![127, 0, 0, 1].into()),
        sender_port: Some(53),
        certainty: Some(Certainty::Offered as i32),
        moved_back: Some(false),
        ttl: Some(60),
        ..NsChange::default()
    };
    assert_eq!(*change, expected);
    let [one, two] = [ns("zone", "a.old"), ns("zone", "b.old")];
    ask(&mut traffic, "www.zone", 0x8000, [&[], &[one, two], &[]]);
    ask(
        &mut traffic,
        "www.zone",
        0x8000,
        [&[], &[ns("zone", "third")], &[]],
    );
    let back: Vec<_> = changes(&mut traffic)
        .iter()
        .map(NsChange::moved_back)
        .collect();
    assert_eq!(back, [false, true, false]);
}

#[test]
fn the_delegation_and_the_zones_own_servers_may_differ() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    for _ in 0..3 {
        ask(
            &mut traffic,
            "www.zone",
            0x8000,
            [&[], &[ns("zone", "parent")], &[]],
        );
        ask(
            &mut traffic,
            "www.zone",
            0x8400,
            [&[a(1)], &[ns("zone", "child")], &[]],
        );
    }
    assert_eq!(changes(&mut traffic), []);
}

#[test]
fn only_answers_to_the_processs_own_queries_and_names_above_them_count() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    for server in ["one", "two"] {
        // Beside and below the name in question.
        let wrong = [ns("other", server), ns("below.www.zone", server)];
        ask(&mut traffic, "www.zone", 0x8000, [&[], &wrong, &[]]);
        // Truncated, in the additional section, and not asked for.
        ask(
            &mut traffic,
            "www.zone",
            0x8200,
            [&[], &[ns("zone", server)], &[]],
        );
        ask(
            &mut traffic,
            "www.zone",
            0x8000,
            [&[], &[], &[ns("zone", server)]],
        );
        let unasked = dns(
            9,
            0x8000,
            Some(("www.zone", A)),
            [&[], &[ns("zone", server)], &[]],
        );
        traffic.pass(RECEIVED, &unasked);
        // What the process sends itself.
        let own = dns(
            8,
            0x8000,
            Some(("www.zone", A)),
            [&[], &[ns("zone", server)], &[]],
        );
        traffic.pass(
            RECEIVED,
            &dns(8, QUERY, Some(("www.zone", A)), [&[], &[], &[]]),
        );
        traffic.pass(SENT, &own);
    }
    assert_eq!(changes(&mut traffic), []);
}

#[test]
fn queries_without_a_response_are_events() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    traffic.pass(
        RECEIVED,
        &dns(7, 0x0100, Some(("lost.zone", A)), [&[], &[], &[]]),
    );
    traffic
        .pipeline
        .tick(traffic.ktime_ns + 16_000_000_000, &mut traffic.batch);
    check(&traffic.pipeline);
    let [event] = &traffic.events()[..] else {
        panic!("not one event")
    };
    let Some(Content::Unanswered(query)) = &event.kind else {
        panic!("{event:?}")
    };
    assert_eq!(query.name.as_deref(), Some(&name("lost.zone")[..]));
    assert_eq!((query.client_port(), query.server_port()), (40_000, 53));
    assert_eq!((query.message_type(), query.r#type()), (5, 1));
    assert!(query.waited_ns() >= 15_000_000_000);
    assert_eq!(traffic.batch.notices.count, 0, "no output shows notices");
}

#[test]
fn nothing_is_an_event_that_is_not_asked_for() {
    let mut traffic = Traffic::of(pipeline(), IPPROTO_TCP);
    traffic.pass(RECEIVED, &request(7, AXFR, None));
    traffic.pass(SENT, &first(7, AXFR, &[soa(3), soa(3)]));
    traffic.pipeline.finish(&mut traffic.batch);
    assert_eq!(traffic.events(), []);
}

const SECOND_NS: u64 = 1_000_000_000;

/// What becomes of a query.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Slipped,
    Dropped,
}

/// Sends queries of a block of clients for a name within a second.
fn flood(traffic: &mut Traffic, second: u64, asked: &str, block: u8, fates: &[Fate]) {
    traffic.ktime_ns = second * SECOND_NS;
    for (client, fate) in (0_u8..).zip(fates) {
        let id = (second as u16) << 8 | u16::from(client);
        traffic.header.peer_addr[..4].copy_from_slice(&[192, 0, block, client]);
        let question = Some((asked, A));
        let (asks, answers) = (traffic.flags & 0x0100, ANSWER | traffic.flags);
        traffic.pass(RECEIVED, &dns(id, QUERY | asks, question, [&[]; 3]));
        let response = match fate {
            Answered => dns(id, answers, question, [&[a(1)], &[], &[]]),
            Slipped => dns(id, answers | 0x200, question, [&[]; 3]),
            Dropped => continue,
        };
        traffic.pass(SENT, &response);
    }
}

fn limits(traffic: &mut Traffic) -> Vec<(Phase, RateLimit)> {
    let events = traffic.events().into_iter();
    let limits = events.filter_map(|event| match event.kind {
        Some(Content::RateLimit(ref limit)) => Some((event.phase(), limit.clone())),
        _ => None,
    });
    limits.collect()
}

fn tick(traffic: &mut Traffic, second: u64) {
    let now = second * SECOND_NS;
    traffic.pipeline.tick(now, &mut traffic.batch);
}

use Fate::{Answered, Dropped, Slipped};

#[test]
fn a_limit_begins_with_queries_without_answer_and_ends_after_silence() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    let limited = [Answered, Dropped, Slipped, Dropped, Slipped, Dropped];
    flood(&mut traffic, 100, "a.zone", 1, &limited);
    flood(&mut traffic, 101, "A.zone", 1, &[Dropped, Slipped]);
    tick(&mut traffic, 103);
    assert_eq!(limits(&mut traffic), [], "a response may still come");
    tick(&mut traffic, 105);
    let block = RateLimit {
        client_address: Some(vec![192, 0, 1, 0].into()),
        client_prefix_length: Some(24),
        name: Some(name("a.zone").into()),
        class: Some(1),
        r#type: Some(1),
        ..RateLimit::default()
    };
    assert_eq!(limits(&mut traffic), [(Phase::Start, block.clone())]);
    flood(&mut traffic, 106, "a.zone", 1, &[Dropped]);
    tick(&mut traffic, 124);
    assert_eq!(limits(&mut traffic).len(), 1);
    tick(&mut traffic, 125);
    let end = RateLimit {
        dropped: Some(5),
        slipped: Some(3),
        duration_ns: Some(7 * SECOND_NS),
        ..block
    };
    assert_eq!(limits(&mut traffic).pop(), Some((Phase::End, end)));
}

#[rstest::rstest]
#[case::others_are_answered(&[Answered, Dropped, Dropped, Dropped, Dropped, Dropped], Some(Answered), 1)]
#[case::others_are_not_answered(&[Answered, Dropped, Dropped, Dropped, Dropped, Dropped], Some(Dropped), 0)]
#[case::nobody_else_asks(&[Answered, Dropped, Dropped, Dropped, Dropped, Dropped], None, 0)]
#[case::never_answered(&[Dropped; 9], Some(Answered), 0)]
#[case::too_few(&[Answered, Answered, Dropped, Dropped, Dropped, Dropped], Some(Answered), 0)]
#[case::answers_do_not_fit(&[Answered, Slipped, Slipped, Slipped, Slipped, Slipped], Some(Answered), 0)]
fn only_what_cannot_be_a_slow_server_is_a_limit(
    #[case] fates: &[Fate],
    #[case] others: Option<Fate>,
    #[case] expected: usize,
) {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    flood(&mut traffic, 100, "a.zone", 1, fates);
    if let Some(fate) = others {
        flood(&mut traffic, 100, "b.zone", 2, &[fate; 12]);
    }
    tick(&mut traffic, 105);
    assert_eq!(limits(&mut traffic).len(), expected);
}

#[test]
fn what_the_tap_has_lost_is_no_limit() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    let limited = [Answered, Dropped, Slipped, Dropped, Slipped, Dropped];
    flood(&mut traffic, 100, "a.zone", 1, &limited);
    traffic.header.lost = 3;
    flood(&mut traffic, 100, "b.zone", 2, &[Answered]);
    tick(&mut traffic, 105);
    assert_eq!(limits(&mut traffic), []);
}

#[test]
fn each_second_of_a_limit_counts_once() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    let limited = [Answered, Dropped, Slipped, Dropped, Slipped, Dropped];
    flood(&mut traffic, 100, "a.zone", 1, &limited);
    tick(&mut traffic, 104);
    // The limit becomes known within this second.
    flood(&mut traffic, 104, "a.zone", 1, &[Dropped; 3]);
    tick(&mut traffic, 105);
    flood(&mut traffic, 104, "a.zone", 1, &[Dropped; 3]);
    flood(&mut traffic, 106, "a.zone", 1, &[Dropped; 6]);
    tick(&mut traffic, 125);
    let ends = limits(&mut traffic).pop();
    let (phase, end) = ends.expect("an end");
    assert_eq!(
        (phase, end.dropped, end.slipped),
        (Phase::End, Some(3 + 6 + 6), Some(2))
    );
}

/// Upstreams do not answer for one popular name.
#[test]
fn a_resolver_that_waits_for_one_name_does_not_limit() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    traffic.flags = 0x0180;
    flood(&mut traffic, 99, "a.zone", 1, &[Answered]);
    flood(&mut traffic, 100, "a.zone", 1, &[Dropped; 8]);
    flood(&mut traffic, 100, "b.zone", 2, &[Answered; 12]);
    tick(&mut traffic, 105);
    assert_eq!(limits(&mut traffic), []);
    // It does not recurse for other clients, so the next query may seem to be one without recursion.
    traffic.flags = 0x0100;
    flood(&mut traffic, 106, "b.zone", 3, &[Answered]);
    traffic.flags = 0x0180;
    flood(&mut traffic, 106, "a.zone", 1, &[Answered]);
    traffic.flags = 0x0100;
    flood(&mut traffic, 106, "b.zone", 3, &[Answered]);
    flood(&mut traffic, 106, "a.zone", 1, &[Dropped; 8]);
    flood(&mut traffic, 106, "b.zone", 3, &[Answered; 12]);
    tick(&mut traffic, 111);
    assert_eq!(limits(&mut traffic), []);
}

#[test]
fn a_late_response_leaves_the_counts_of_later_seconds() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    let limited = [Answered, Dropped, Slipped, Dropped, Slipped, Dropped];
    flood(&mut traffic, 100, "a.zone", 1, &[Dropped]);
    flood(&mut traffic, 108, "a.zone", 1, &limited);
    let late = dns(100 << 8, ANSWER, Some(("a.zone", A)), [&[]; 3]);
    traffic.header.peer_addr[..4].copy_from_slice(&[192, 0, 1, 0]);
    traffic.pass(SENT, &late);
    tick(&mut traffic, 113);
    assert_eq!(limits(&mut traffic).len(), 1);
}

/// Lets the next messages pass at another server.
fn at_server(traffic: &mut Traffic, program_id: u32) {
    traffic.header.program_id = program_id;
    traffic.header.tgid = program_id;
    traffic.header.socket = program_id.into();
}

#[test]
fn servers_are_watched_apart() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    // One has answered the question before, the other one never does.
    flood(&mut traffic, 100, "a.zone", 1, &[Answered; 2]);
    at_server(&mut traffic, 21);
    let fates = [Slipped, Dropped, Dropped, Dropped, Dropped];
    flood(&mut traffic, 100, "a.zone", 1, &fates);
    tick(&mut traffic, 105);
    assert_eq!(limits(&mut traffic), []);
    // One does not answer any longer, the other one works.
    flood(&mut traffic, 110, "c.zone", 1, &[Answered]);
    flood(&mut traffic, 110, "c.zone", 1, &[Dropped; 6]);
    at_server(&mut traffic, 20);
    flood(&mut traffic, 110, "b.zone", 2, &[Answered; 12]);
    tick(&mut traffic, 115);
    assert_eq!(limits(&mut traffic), []);
    for (server, program_id) in [("one", 20), ("two", 21)] {
        at_server(&mut traffic, program_id);
        let own = [ns("zone", server)];
        ask(&mut traffic, "www.zone", 0x8000, [&[], &own, &[]]);
    }
    assert_eq!(changes(&mut traffic), []);
}

#[test]
fn a_limit_of_clients_behind_a_proxy_names_the_clients() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    traffic.ktime_ns = 100 * SECOND_NS;
    for id in 0..6 {
        let question = Some(("a.zone", A));
        let query = dns(id, QUERY, question, [&[]; 3]);
        traffic.pass(RECEIVED, &[client(), query].concat());
        match id {
            0 => traffic.pass(SENT, &dns(id, ANSWER, question, [&[a(1)], &[], &[]])),
            1 => traffic.pass(SENT, &dns(id, ANSWER | 0x200, question, [&[]; 3])),
            _ => {}
        }
    }
    tick(&mut traffic, 105);
    let blocks: Vec<_> = limits(&mut traffic)
        .iter()
        .map(|(_, limit)| limit.client_address().to_vec())
        .collect();
    assert_eq!(blocks, [[192, 0, 2, 0]]);
}

#[test]
fn seconds_that_cannot_be_judged_are_counted() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    // One for each question, and two more.
    for second in 100..100 + 16_384 + 2 {
        flood(&mut traffic, second, "a.zone", 1, &[Dropped; 5]);
    }
    let counters = traffic.pipeline.counters().watch;
    assert_eq!(counters.limit_questions_forgotten, 2);
}

#[test]
fn large_sets_of_name_servers_are_forgotten_to_stay_within_the_memory() {
    let mut traffic = Traffic::new(IPPROTO_UDP);
    let label = "x".repeat(63);
    let servers: Vec<_> = (10..74)
        .map(|server| format!("{server}{0}.{label}.{label}.{label}", "x".repeat(59)))
        .collect();
    for zone in 0..2_100 {
        let zone: &'static str = format!("zone{zone}").leak();
        let sets: Vec<_> = servers.iter().map(|server| ns(zone, server)).collect();
        ask(&mut traffic, zone, 0x8000, [&[], &sets, &[]]);
    }
    // 64 names of 255 bytes each: 2,056 RRsets fit into 32 MiB.
    let counters = traffic.pipeline.counters().watch;
    assert_eq!(counters.name_server_sets_forgotten, 2_100 - 2_056);
}

#[test]
fn filters_of_messages_leave_the_events_of_queries_without_a_response() {
    let mut traffic = Traffic::of(
        Pipeline::new(PipelineConfig {
            events: EventKinds::ALL,
            report_unanswered: true,
            filter: Filter {
                exclude: vec![Subject::Query],
                ..Filter::default()
            },
            ..config()
        }),
        IPPROTO_UDP,
    );
    traffic.pass(RECEIVED, &dns(7, QUERY, Some(("lost.zone", A)), [&[]; 3]));
    traffic
        .pipeline
        .tick(traffic.ktime_ns + 16_000_000_000, &mut traffic.batch);
    check(&traffic.pipeline);
    let events = traffic.events();
    assert!(
        matches!(&events[..], [event] if matches!(event.kind, Some(Content::Unanswered(_)))),
        "{events:?}"
    );
    assert_eq!(traffic.batch.notices.count, 0, "it is excluded");
}
