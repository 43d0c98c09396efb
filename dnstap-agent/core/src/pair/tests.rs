use std::net::IpAddr;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::{
    dns::{Type, fixture::message},
    model::{Direction, Family, Origin, Subject},
};

const SECOND: u64 = 1_000_000_000;

fn envelope(ktime_ns: u64, port: u16, protocol: Protocol) -> Envelope {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    Envelope {
        ktime_ns,
        socket: 3,
        protocol,
        direction: Direction::Received,
        family: Family::Inet,
        local: (loopback, 53).into(),
        peer: (loopback, port).into(),
        origin: Origin::default(),
        proxied: None,
        unconnected: false,
    }
}

fn pairs(entries: usize) -> Pairs {
    Pairs::new(PairLimits {
        entries,
        age_ns: 10 * SECOND,
    })
}

fn ask(pairs: &mut Pairs, envelope: &Envelope, bytes: &[u8]) {
    let query = Query {
        ktime_ns: envelope.ktime_ns,
        offset_ns: 5,
        family: envelope.family,
        kind: Kind::Client,
        subject: Subject::Query,
        wanted: true,
        ticket: None,
    };
    pairs.query(envelope, &Message::parse(bytes).unwrap(), query, None);
}

/// Returns the time of the query that the response finds. The response goes the other way.
fn answer(pairs: &mut Pairs, envelope: &Envelope, bytes: &[u8]) -> Option<u64> {
    let back = Envelope {
        direction: Direction::Sent,
        ..*envelope
    };
    respond(pairs, &back, bytes)
}

/// Returns the time of the query that the response finds.
fn respond(pairs: &mut Pairs, envelope: &Envelope, bytes: &[u8]) -> Option<u64> {
    match pairs.response(envelope, &Message::parse(bytes).unwrap()) {
        Found::Query(slot) => Some(pairs.found(slot).0.ktime_ns),
        Found::Forgotten | Found::Nothing => {
            pairs.unmatched();
            None
        }
    }
}

/// Builds a message with a question of this type.
fn typed(id: u16, flags: u16, kind: u16) -> Vec<u8> {
    let mut bytes = message(id, flags, "zone", 0);
    let at = bytes.len() - 4;
    bytes[at..at + 2].copy_from_slice(&kind.to_be_bytes());
    bytes
}

/// Builds a header alone, as in terse errors.
fn terse(id: u16) -> [u8; 12] {
    let [high, low] = id.to_be_bytes();
    [high, low, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[test]
fn response_takes_its_query_whatever_the_case_of_the_name() {
    let mut pairs = pairs(8);
    ask(
        &mut pairs,
        &envelope(10, 1, Protocol::Udp),
        &message(1, 0x0100, "eXaMpLe", 0),
    );
    let response = message(1, 0x8180, "example", 1);
    assert_eq!(
        answer(&mut pairs, &envelope(20, 2, Protocol::Udp), &response),
        None,
        "another peer"
    );
    assert_eq!(
        answer(&mut pairs, &envelope(20, 1, Protocol::Tcp), &response),
        None,
        "another transport"
    );
    assert_eq!(
        answer(
            &mut pairs,
            &envelope(20, 1, Protocol::Udp),
            &message(1, 0x8180, "other", 0)
        ),
        None
    );
    assert_eq!(
        answer(&mut pairs, &envelope(20, 1, Protocol::Udp), &response),
        Some(10)
    );
    assert_eq!(
        answer(&mut pairs, &envelope(21, 1, Protocol::Udp), &response),
        None,
        "taken once"
    );
}

#[test]
fn a_response_from_who_asked_answers_nothing() {
    let mut pairs = pairs(8);
    let asked = envelope(10, 1, Protocol::Udp);
    ask(&mut pairs, &asked, &message(1, 0x0100, "example", 0));
    let response = message(1, 0x8180, "example", 1);
    let back = |ktime_ns| Envelope {
        ktime_ns,
        direction: Direction::Received,
        ..asked
    };
    assert_eq!(respond(&mut pairs, &back(20), &response), None);
    assert_eq!(
        answer(&mut pairs, &envelope(30, 1, Protocol::Udp), &response),
        Some(10)
    );
}

#[test]
fn retransmissions_are_answered_in_their_order() {
    let mut pairs = pairs(8);
    for time in [10, 20, 30] {
        ask(
            &mut pairs,
            &envelope(time, 1, Protocol::Udp),
            &message(1, 0x0100, "example", 0),
        );
    }
    let response = message(1, 0x8180, "example", 1);
    for time in [10, 20, 30] {
        assert_eq!(
            answer(&mut pairs, &envelope(40, 1, Protocol::Udp), &response),
            Some(time)
        );
    }
}

#[test]
fn pipelined_queries_may_be_answered_in_any_order() {
    let mut pairs = pairs(64);
    for id in 0..32 {
        ask(
            &mut pairs,
            &envelope(u64::from(id), 1, Protocol::Tcp),
            &message(id, 0x0100, "example", 0),
        );
    }
    for id in (0..32).rev() {
        let response = message(id, 0x8180, "example", 1);
        assert_eq!(
            answer(&mut pairs, &envelope(99, 1, Protocol::Tcp), &response),
            Some(u64::from(id))
        );
    }
}

#[test]
fn response_without_a_question_matches_by_id() {
    let mut pairs = pairs(8);
    ask(
        &mut pairs,
        &envelope(10, 1, Protocol::Udp),
        &message(7, 0x0100, "example", 0),
    );
    assert_eq!(
        answer(&mut pairs, &envelope(20, 1, Protocol::Udp), &terse(8)),
        None
    );
    assert_eq!(
        answer(&mut pairs, &envelope(20, 1, Protocol::Udp), &terse(7)),
        Some(10)
    );
}

#[test]
fn every_message_of_a_transfer_finds_the_query() {
    let mut pairs = pairs(8);
    ask(
        &mut pairs,
        &envelope(10, 1, Protocol::Tcp),
        &typed(1, 0, Type::AXFR.0),
    );
    for time in (1..100).map(|time| time * SECOND) {
        pairs.tick(time);
        assert_eq!(
            answer(
                &mut pairs,
                &envelope(time, 1, Protocol::Tcp),
                &typed(1, 0x8400, Type::AXFR.0)
            ),
            Some(10)
        );
    }
    pairs.tick(120 * SECOND);
    assert_eq!(
        (
            pairs.counters().queries_answered,
            pairs.counters().queries_unanswered
        ),
        (1, 0)
    );
}

#[test]
fn response_is_never_older_than_its_query() {
    let mut pairs = pairs(8);
    ask(
        &mut pairs,
        &envelope(50, 1, Protocol::Udp),
        &message(1, 0x0100, "example", 0),
    );
    let response = message(1, 0x8180, "example", 1);
    assert_eq!(
        answer(&mut pairs, &envelope(49, 1, Protocol::Udp), &response),
        None
    );
    assert_eq!(
        answer(&mut pairs, &envelope(50, 1, Protocol::Udp), &response),
        Some(50)
    );
}

#[test]
fn queries_age() {
    let mut pairs = pairs(8);
    ask(
        &mut pairs,
        &envelope(0, 1, Protocol::Udp),
        &message(1, 0x0100, "example", 0),
    );
    ask(
        &mut pairs,
        &envelope(5 * SECOND, 1, Protocol::Udp),
        &message(2, 0x0100, "example", 0),
    );
    pairs.tick(10 * SECOND);
    assert_eq!(pairs.waiting(), 2);
    pairs.tick(10 * SECOND + 1);
    assert_eq!(
        (pairs.waiting(), pairs.counters().queries_unanswered),
        (1, 1)
    );
}

#[test]
fn full_table_gives_up_the_oldest() {
    let mut pairs = pairs(100);
    for id in 0..300 {
        ask(
            &mut pairs,
            &envelope(u64::from(id), 1, Protocol::Udp),
            &message(id, 0x0100, "example", 0),
        );
    }
    assert_eq!(
        (
            pairs.waiting(),
            pairs.counters().queries_evicted,
            pairs.entries.len()
        ),
        (100, 200, 100)
    );
    assert_eq!(
        answer(
            &mut pairs,
            &envelope(999, 1, Protocol::Udp),
            &message(199, 0x8180, "example", 0)
        ),
        None
    );
    assert_eq!(
        answer(
            &mut pairs,
            &envelope(999, 1, Protocol::Udp),
            &message(200, 0x8180, "example", 0)
        ),
        Some(200)
    );
}

#[test]
fn peer_that_repeats_one_id_displaces_its_own_queries_only() {
    let mut pairs = pairs(1_000);
    ask(
        &mut pairs,
        &envelope(1, 2, Protocol::Udp),
        &message(1, 0x0100, "other", 0),
    );
    for time in 0..500 {
        ask(
            &mut pairs,
            &envelope(time, 1, Protocol::Udp),
            &message(1, 0x0100, &format!("name{time}"), 0),
        );
    }
    assert_eq!(
        (pairs.waiting(), pairs.counters().queries_displaced),
        (17, 484)
    );
    assert_eq!(
        answer(
            &mut pairs,
            &envelope(999, 2, Protocol::Udp),
            &message(1, 0x8180, "other", 0)
        ),
        Some(1)
    );
}

/// Model of the table: a plain list.
#[derive(Default)]
struct Model(Vec<(u64, u16, u16, String)>);

impl Model {
    fn ask(&mut self, time: u64, port: u16, id: u16, name: &str, entries: usize) {
        let same: Vec<usize> = (0..self.0.len())
            .filter(|at| (self.0[*at].1, self.0[*at].2) == (port, id))
            .collect();
        if same.len() >= SAME_KEY {
            self.0.remove(same[0]);
        }
        if self.0.len() >= entries {
            self.0.remove(0);
        }
        self.0.push((time, port, id, name.to_owned()));
    }

    fn answer(&mut self, port: u16, id: u16, name: Option<&str>) -> Option<u64> {
        let at = self.0.iter().position(|entry| {
            entry.1 == port && entry.2 == id && name.is_none_or(|name| name == entry.3)
        })?;
        Some(self.0.remove(at).0)
    }
}

proptest! {
    #[test]
    fn behaves_like_a_list_in_order_of_arrival(
        steps in proptest::collection::vec((0..5u8, 0..3u16, 0..4u16, 0..3usize), 0..400),
        entries in 1..40usize,
    ) {
        const NAMES: [&str; 3] = ["a", "bc", "def"];
        let (mut pairs, mut model) = (pairs(entries), Model::default());
        for (time, (step, port, id, name)) in (0u64..).zip(steps) {
            let envelope = envelope(time, port, Protocol::Udp);
            let name = NAMES[name];
            match step {
                0..=2 => {
                    ask(&mut pairs, &envelope, &message(id, 0x0100, name, 0));
                    model.ask(time, port, id, name, entries);
                }
                3 => {
                    let found = answer(&mut pairs, &envelope, &message(id, 0x8180, name, 0));
                    prop_assert_eq!(found, model.answer(port, id, Some(name)));
                }
                _ => {
                    let found = answer(&mut pairs, &envelope, &terse(id));
                    prop_assert_eq!(found, model.answer(port, id, None));
                }
            }
            prop_assert_eq!(pairs.waiting(), model.0.len() as u64);
            let c = pairs.counters();
            let ended = c.queries_answered + c.queries_unanswered + c.queries_displaced + c.queries_evicted;
            prop_assert_eq!(c.queries, ended + pairs.waiting());
            prop_assert_eq!(c.responses, c.responses_paired + c.responses_unmatched);
        }
        pairs.finish();
        prop_assert_eq!(pairs.waiting(), 0);
    }
}

/// Envelope of a query sent from an unconnected socket.
fn sent(ktime_ns: u64, peer: &str) -> Envelope {
    Envelope {
        direction: Direction::Sent,
        unconnected: true,
        peer: (peer.parse::<IpAddr>().unwrap(), 5353).into(),
        ..envelope(ktime_ns, 1, Protocol::Udp)
    }
}

fn look_up(pairs: &mut Pairs, ktime_ns: u64, peer: Endpoint, bytes: &[u8]) -> Found {
    let back = Envelope {
        direction: Direction::Received,
        peer,
        ..sent(ktime_ns, "192.0.2.1")
    };
    pairs.response(&back, &Message::parse(bytes).unwrap())
}

#[rstest]
#[case::multicast_dns("224.0.0.251", true)]
#[case::multicast_dns_over_ipv6("ff02::fb", true)]
#[case::one_host("192.0.2.9", false)]
fn whoever_answers_a_question_to_a_group_may_have_been_asked(
    #[case] asked: &str,
    #[case] is_group: bool,
) {
    let mut pairs = pairs(8);
    let host = (IpAddr::from([192, 0, 2, 77]), 5353).into();
    let response = message(1, 0x8180, "example", 1);
    assert_eq!(look_up(&mut pairs, 5, host, &response), Found::Nothing);
    ask(
        &mut pairs,
        &sent(10, asked),
        &message(1, 0x0100, "example", 0),
    );
    let expected = if is_group {
        Found::Forgotten
    } else {
        Found::Nothing
    };
    assert_eq!(look_up(&mut pairs, 20, host, &response), expected);
    // This lasts as long as a response is expected.
    let late = 11 + EXPECTED_NS;
    assert_eq!(look_up(&mut pairs, late, host, &response), Found::Nothing);
}

#[test]
fn a_hint_that_made_room_is_remembered_for_responses_without_a_peer() {
    let mut pairs = pairs(8);
    let nobody = Endpoint::default();
    let host = (IpAddr::from([192, 0, 2, 77]), 5353).into();
    let ask = |pairs: &mut Pairs, ktime_ns, peer| {
        ask(
            pairs,
            &sent(ktime_ns, peer),
            &message(1, 0x0100, "example", 0),
        );
    };
    let other = message(2, 0x8180, "example", 1);
    ask(&mut pairs, 10, "192.0.2.9");
    assert_eq!(look_up(&mut pairs, 20, nobody, &other), Found::Nothing);
    // A query with the same id and port goes to another peer, so the first one can no longer be
    // found without its peer.
    ask(&mut pairs, 30, "192.0.2.10");
    assert_eq!(look_up(&mut pairs, 40, nobody, &other), Found::Forgotten);
    assert_eq!(look_up(&mut pairs, 40, host, &other), Found::Nothing);
    let late = 31 + EXPECTED_NS;
    assert_eq!(look_up(&mut pairs, late, nobody, &other), Found::Nothing);
}

#[test]
fn the_hint_of_a_query_that_has_its_answer_makes_no_room() {
    let mut pairs = pairs(8);
    let nobody = Endpoint::default();
    let (query, response) = (
        message(1, 0x0100, "example", 0),
        message(1, 0x8180, "example", 1),
    );
    for round in [10, 110] {
        ask(&mut pairs, &sent(round, "192.0.2.9"), &query);
        let found = look_up(&mut pairs, round + 1, nobody, &response);
        assert!(matches!(found, Found::Query(_)), "{found:?}");
    }
    let other = message(2, 0x8180, "example", 1);
    assert_eq!(look_up(&mut pairs, 120, nobody, &other), Found::Nothing);
}

#[test]
fn ends_that_a_proxy_told_do_not_stay_for_the_next_query_in_their_place() {
    let mut pairs = pairs(8);
    let end = |port| Endpoint::from((IpAddr::from([192, 0, 2, 1]), port));
    let told = Proxied {
        family: Family::Inet,
        local: end(53),
        peer: end(7),
    };
    for (port, proxied) in [(1_000, Some(told)), (2_000, None)] {
        let query = Envelope {
            proxied,
            ..envelope(SECOND, port, Protocol::Udp)
        };
        ask(&mut pairs, &query, &message(1, 0x0100, "a", 0));
        let response = Envelope {
            direction: Direction::Sent,
            ..envelope(SECOND, port, Protocol::Udp)
        };
        let answer = message(1, 0x8180, "a", 0);
        let found = pairs.response(&response, &Message::parse(&answer).unwrap());
        let Found::Query(slot) = found else {
            panic!("{found:?}");
        };
        assert_eq!(pairs.proxied(slot).copied(), proxied);
    }
}
