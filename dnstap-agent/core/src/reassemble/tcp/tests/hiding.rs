//! Attempts of peers to hide messages from the tap.

use super::*;

const TLS: u16 = 0x1603;

/// Builds a query that no check of ours accepts, but that a server may answer. It begins like a TLS
/// record.
fn like_tls() -> Vec<u8> {
    let mut query = message(0x0101, 0x0180, "padded", 0);
    query.resize(usize::from(TLS), 0x80);
    query[5] = 9;
    query
}

/// Builds such a query that begins with `GET `.
fn like_http() -> Vec<u8> {
    let mut query = message(u16::from_be_bytes(*b"T "), 0x0100, "padded", 0);
    query.resize(usize::from(u16::from_be_bytes(*b"GE")), 0x80);
    query[5] = 9;
    query
}

fn odd() -> Vec<u8> {
    let mut query = message(1, 0x7b7f, "odd", 0);
    let end = query.len();
    query[end - 1] = 0xee;
    query
}

#[test]
fn what_a_client_begins_with_never_hides_what_it_asks() {
    for first in [like_tls(), like_http(), odd(), vec![0xff; 40], vec![7]] {
        for (dns_port, cut) in [(false, 1), (false, 700), (true, 1), (true, 700)] {
            let messages = [
                first.clone(),
                message(2, 0x0100, "two", 0),
                message(3, 0x0100, "three", 0),
            ];
            let stream = stream_of(&messages);
            let answer = message(1, 0x8185, "padded", 0);
            let mut tap = Tap::new(&[]);
            tap.dns_port = dns_port;
            let split = stream.len() - 20;
            for (at, piece) in pieces(&stream[..split], &[cut]) {
                tap.piece(SOCKET, sequence(0, at), piece);
            }
            tap.directed(Direction::Sent, SOCKET, 0, &framed(&answer));
            tap.piece(SOCKET, sequence(0, split), &stream[split..]);
            let [one, two, three] = &messages;
            let expected = [one, two, &answer, three];
            assert!(
                tap.of(SOCKET).iter().eq(expected),
                "{dns_port} {cut}: {:?}",
                tap.of(SOCKET).iter().map(|m| m.len()).collect::<Vec<_>>()
            );
            assert!(tap.condemned().is_empty());
            assert_eq!(tap.streams.counters().tcp_sockets_dns, 1);
        }
    }
}

#[test]
fn what_was_kept_has_the_times_at_which_it_was_read() {
    let mut tap = Tap::new(&[]);
    let messages = [vec![0xff; 40], vec![0xfe; 50]];
    let mut times = Vec::new();
    let mut at = 0;
    for message in &messages {
        tap.now += 5_000_000;
        tap.piece(SOCKET, sequence(0, at), &framed(message));
        times.push(tap.now);
        at += message.len() + 2;
    }
    let mut seen = Vec::new();
    let event = tap.chunk(
        Direction::Sent,
        SOCKET,
        0,
        &framed(&REFUSAL),
        |event, streams| {
            streams.push(&event, false, &mut |envelope, bytes| {
                seen.push((envelope.ktime_ns, envelope.direction, bytes.len()));
            });
            event.envelope.ktime_ns
        },
    );
    let expected = [
        (times[0], Direction::Received, 40),
        (times[1], Direction::Received, 50),
        (event, Direction::Sent, 12),
    ];
    assert_eq!(seen, expected);
}

/// The peer can choose what the process sends: the answer to a query of this size and id begins
/// like a TLS record.
#[test]
fn an_answer_that_looks_like_another_protocol_makes_no_connection_foreign() {
    let mut answer = like_tls();
    (answer[0], answer[1], answer[2]) = (3, 3, 0x81);
    for dns_port in [false, true] {
        let mut tap = Tap::new(&[]);
        tap.dns_port = dns_port;
        let query = message(0x0303, 0x0100, "large", 0);
        tap.piece(SOCKET, 0, &framed(&query));
        for (at, piece) in pieces(&framed(&answer), &[1_000]) {
            tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
        }
        assert_eq!(tap.of(SOCKET), [&query[..], &answer]);
        assert!(tap.condemned().is_empty());
    }
}

#[test]
fn http_2_in_clear_on_a_dns_port_is_no_dns() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    for cut in [1, 9, 100] {
        let mut tap = Tap::new(&[]);
        tap.dns_port = true;
        for (at, piece) in pieces(preface, &[cut]) {
            tap.piece(SOCKET, sequence(0, at), piece);
        }
        for (at, piece) in pieces(settings, &[cut]) {
            tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
        }
        for round in 0..9 {
            tap.piece(
                SOCKET,
                sequence(0, preface.len() + round * 9_000),
                &[0x55; 9_000],
            );
        }
        assert_eq!(tap.condemned(), [SOCKET]);
        tap.finish();
        assert!(tap.out.is_empty());
    }
}

/// A DNS server reads other protocols by their lengths, like any other bytes.
#[test]
fn what_a_dns_server_makes_of_another_protocol_is_recorded_if_it_answers() {
    let mut asked = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    asked.resize(2 + usize::from(u16::from_be_bytes(*b"PR")), 0);
    let mut tap = Tap::new(&[]);
    tap.dns_port = true;
    tap.piece(SOCKET, 0, &asked);
    tap.directed(Direction::Sent, SOCKET, 0, &framed(&REFUSAL));
    assert_eq!(tap.of(SOCKET), [&asked[2..], &REFUSAL]);
}

/// If more comes than is kept, the framing goes on, and missing messages are counted.
#[test]
fn beyond_what_is_kept_only_the_framing_is_known() {
    let first = vec![0xff; 40_000];
    let messages = [first.clone(), first, vec![0xfe; 10_000], vec![0xfd; 10_000]];
    let next = message(5, 0x0100, "next", 0);
    let stream = stream_of(&messages);
    for (cut, left) in [
        (1_000, 0),
        (7, 0),
        (65_537, 0),
        (9_000, 1),
        (9_000, 2),
        (9_000, 500),
    ] {
        let mut tap = Tap::new(&[]);
        let end = stream.len() - left;
        for (at, piece) in pieces(&stream[..end], &[cut]) {
            tap.piece(SOCKET, sequence(0, at), piece);
        }
        assert!(tap.streams.memory < 200_000);
        tap.directed(Direction::Sent, SOCKET, 0, &framed(&REFUSAL));
        tap.piece(SOCKET, sequence(0, end), &stream[end..]);
        tap.piece(SOCKET, sequence(0, stream.len()), &framed(&next));
        assert_eq!(tap.of(SOCKET), [&messages[0][..], &REFUSAL, &next]);
        let c = tap.streams.counters();
        assert_eq!(
            (
                c.stream_messages_lost_at_least,
                c.stream_connections_with_loss
            ),
            (3, 1),
            "{left}"
        );
    }
}

#[test]
fn half_a_length_is_kept_beyond_too() {
    let first = vec![0xff; 65_534];
    let next = message(5, 0x0100, "next", 0);
    let stream = [framed(&first), framed(&next)].concat();
    for end in 65_536..65_541 {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..end]);
        tap.directed(Direction::Sent, SOCKET, 0, &framed(&REFUSAL));
        tap.piece(SOCKET, sequence(0, end), &stream[end..]);
        let expected = if end > 65_537 { 2 } else { 3 };
        assert_eq!(tap.out.len(), expected, "{end}");
        assert_eq!(
            tap.streams.counters().stream_messages_lost_at_least,
            u64::from(end > 65_537)
        );
    }
}

/// Nothing is answered, but the server has read the messages.
#[test]
fn undecided_messages_on_a_dns_port_are_delivered_at_the_end() {
    for (dns_port, expected) in [(true, 2), (false, 0)] {
        let mut tap = Tap::new(&[]);
        tap.dns_port = dns_port;
        let next = message(5, 0x0100, "next", 0);
        tap.piece(SOCKET, 0, &stream_of(&[like_tls(), next]));
        assert!(tap.out.is_empty());
        tap.end(SOCKET);
        tap.tick(tap.now + 2 * ENDED_NS);
        assert_eq!(tap.out.len(), expected);
        let c = tap.streams.counters();
        assert_eq!(
            (c.stream_not_dns_bytes > 0, c.stream_skipped_bytes),
            (!dns_port, 0)
        );
        tap.finish();
    }
}

#[test]
fn an_alert_of_tls_tells_what_was_received() {
    let mut tap = Tap::new(&[]);
    tap.dns_port = true;
    tap.piece(
        SOCKET,
        0,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xaa\xbb\xcc\xdd\xee",
    );
    tap.directed(Direction::Sent, SOCKET, 0, b"\x15\x03\x03\0\x02\x02\x28");
    tap.finish();
    let c = tap.streams.counters();
    assert_eq!(
        (
            c.stream_encrypted_bytes,
            c.tcp_sockets_encrypted,
            tap.out.len()
        ),
        (23, 1, 0)
    );
}

/// A flood makes the table drop a connection in the middle of an answer. The rest of the answer
/// begins with bytes that the peer has chosen.
#[test]
fn a_connection_that_showed_dns_is_never_foreign_again() {
    let limits = StreamLimits {
        connections: 10,
        ..StreamLimits::default()
    };
    let mut tap = Tap::with(limits, &[]);
    let query = message(1, 0x0100, "query", 0);
    let answer = framed(&message(1, 0x8180, "query", 3));
    tap.piece(SOCKET, 0, &framed(&query));
    tap.directed(Direction::Sent, SOCKET, 0, &answer[..30]);
    for other in 100..120 {
        tap.piece(other, 0, &framed(&query)[..9]);
    }
    let counted = tap.streams.counters().stream_messages_lost_at_least;
    assert!(counted >= 1);
    let rest = [b"\x17\x03\x03\0\x40".as_slice(), &[0x99; 40]].concat();
    tap.directed(Direction::Sent, SOCKET, 30, &rest);
    tap.piece(SOCKET, sequence(0, query.len() + 2), &framed(&query));
    assert!(tap.condemned().is_empty());
    assert_eq!(tap.of(SOCKET).len(), 2);
    assert_eq!(tap.streams.counters().tcp_sockets_dns, 1);
}

#[test]
fn connections_that_hold_for_long_make_room_for_those_that_come_and_go() {
    let limits = StreamLimits {
        bytes: 400_000,
        ..StreamLimits::default()
    };
    let mut tap = Tap::with(limits, &[]);
    let large = framed(&message(1, 0x8180, "large", 300));
    let (mut at, mut whole) = (0, 0);
    for slow in 100..400 {
        tap.piece(slow, 0, &large[..20_000]);
        // A busy connection, which always used the table before the slow one did.
        for piece in [&large[..20_000], &large[20_000..]] {
            tap.piece(SOCKET, sequence(0, at), piece);
            at += piece.len();
        }
        whole += 1;
    }
    assert_eq!(tap.of(SOCKET).len(), whole);
    assert!(tap.streams.counters().stream_evicted > 200);
    assert!(tap.streams.heavy.len() <= 2 * tap.streams.connections.len() + 65);
}

/// Returns messages that do not fit, but that servers answer.
fn unusual() -> Vec<Vec<u8>> {
    let base = message(0x4444, 0x0100, "unusual", 0);
    let spoils: [fn(&mut Vec<u8>); 6] = [
        |query| {
            let end = query.len();
            query[end - 4..].fill(0);
        },
        |query| query[12] = 0x40,
        |query| {
            let question = query[12..].to_vec();
            query[5] = 5;
            query.extend(question.repeat(4));
        },
        |query| {
            query.truncate(12);
            query[5] = 0;
        },
        |query| {
            (query[2], query[7]) = (0x78, 1);
            query.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0]);
        },
        |query| query.truncate(3),
    ];
    let spoil = |spoil: fn(&mut Vec<u8>)| {
        let mut query = base.clone();
        spoil(&mut query);
        query
    };
    spoils.into_iter().map(spoil).collect()
}

/// Some servers send back a query that they cannot read, with the QR bit and an error code.
#[test]
fn a_query_that_is_sent_back_as_an_error_makes_no_connection_foreign() {
    for query in unusual() {
        let mut answer = query.clone();
        if let Some(flags) = answer.get_mut(2..4) {
            flags[0] |= 0x80;
            flags[1] |= 1;
        }
        let next = message(9, 0x0100, "next", 0);
        let next_answer = message(9, 0x8180, "next", 1);
        for cut in [1, 2, 9_000] {
            if cut == 1 && answer.len() > 3 {
                // It is unknown whether the message ends with the call.
                continue;
            }
            let mut tap = Tap::new(&[]);
            tap.piece(SOCKET, 0, &framed(&query));
            for (at, piece) in pieces(&framed(&answer), &[cut, 9_000]) {
                tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
            }
            let (asked, answered) = (query.len() + 2, answer.len() + 2);
            tap.piece(SOCKET, sequence(0, asked), &framed(&next));
            tap.directed(
                Direction::Sent,
                SOCKET,
                sequence(0, answered),
                &framed(&next_answer),
            );
            assert!(tap.condemned().is_empty(), "{query:x?}");
            let mut out = tap.of(SOCKET);
            let mut all = [&query[..], &answer, &next, &next_answer];
            out.sort_unstable();
            all.sort_unstable();
            assert_eq!(out, all, "in pieces of {cut}");
            tap.finish();
        }
    }
}

#[test]
fn what_is_not_sent_back_as_an_error_makes_a_connection_foreign() {
    let query = message(0x4444, 0x7900, "unusual", 9);
    let mut answer = query.clone();
    answer[2] |= 0x80;
    answer[6] = 0xff;
    let with_code = {
        let mut answer = answer.clone();
        answer[3] |= 1;
        answer
    };
    for (sent, cut) in [
        (&query, 9_000),     // no response
        (&answer, 9_000),    // counts that lie, and no error
        (&with_code, 1_000), // goes on behind the call
    ] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &framed(&query));
        for (at, piece) in pieces(&framed(sent), &[cut]) {
            tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
        }
        assert_eq!(tap.condemned(), [SOCKET], "{:x?}", &sent[..12]);
    }
}

#[test]
fn nothing_but_short_messages_is_judged_in_the_end() {
    let short = framed(&[1, 2, 3]).repeat(2_000);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &short);
    for (at, piece) in pieces(&short, &[5]) {
        tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
    }
    assert_eq!(tap.condemned(), [SOCKET]);
}

/// Returns two queries, each behind its length.
fn hidden() -> Vec<u8> {
    stream_of(&[
        message(0x9901, 0x0100, "hidden", 0),
        message(0x9902, 0x0100, "hidden", 0),
    ])
}

/// Returns unusual messages that contain others.
fn enclosing() -> Vec<Vec<u8>> {
    let with_hidden = |mut query: Vec<u8>| {
        query.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0]);
        query.extend(u16::try_from(hidden().len()).unwrap().to_be_bytes());
        query.extend(hidden());
        query
    };
    let unusual = unusual().into_iter().filter(|query| query.len() > 12);
    unusual.map(with_hidden).collect()
}

#[test]
fn an_unusual_message_is_believed_midway_once_it_is_answered() {
    let next = message(7, 0x0100, "next", 0);
    let answers = [
        message(0x4444, 0x8181, "unusual", 0),
        REFUSAL_OF_UNUSUAL.to_vec(),
    ];
    for query in [unusual(), enclosing()].concat() {
        // A server does not send back a name that it cannot read.
        let sends_back = |answer: &&Vec<u8>| {
            let name = &answer[12..answer.len().saturating_sub(4).max(12)];
            query.get(12..).unwrap_or_default().starts_with(name)
        };
        for answer in answers.iter().filter(sends_back) {
            for (cut, rest_of_another) in [(9_000, 0), (20, 0), (1, 0), (9_000, 7), (20, 300)] {
                let mut tap = Tap::new(&[SOCKET]);
                tap.dns_port = cut == 20;
                let tail = vec![0x9e; rest_of_another];
                tap.piece(SOCKET, 0, &tail);
                let mut answer = answer.clone();
                answer[..2].copy_from_slice(&query[..2]);
                // The answer to an earlier query.
                let earlier = message(1, 0x8180, "earlier", 0);
                tap.directed(Direction::Sent, SOCKET, 0, &framed(&earlier));
                for (at, piece) in pieces(&stream_of(&[query.clone(), next.clone()]), &[cut]) {
                    tap.piece(SOCKET, sequence(0, tail.len() + at), piece);
                }
                let at = sequence(0, earlier.len() + 2);
                tap.directed(Direction::Sent, SOCKET, at, &framed(&answer));
                let expected = [&earlier[..], &query, &next, &answer];
                assert_eq!(tap.of(SOCKET), expected, "{cut} {rest_of_another}");
                let lost = u64::from(rest_of_another > 0);
                assert_eq!(tap.streams.counters().stream_messages_lost_at_least, lost);
                tap.finish();
            }
        }
    }
}

const REFUSAL_OF_UNUSUAL: [u8; 12] = [0x44, 0x44, 0x80, 4, 0, 0, 0, 0, 0, 0, 0, 0];

/// Tested while the stream joined midway is on trial, and before.
#[test]
fn what_an_unusual_message_encloses_is_not_delivered_and_counted() {
    let usual = message(7, 0x0100, "usual", 0);
    for query in enclosing() {
        for before in 0..3 {
            for answered in [false, true] {
                let mut tap = Tap::new(&[SOCKET]);
                tap.dns_port = true;
                let mut at = 0;
                for message in &[&usual, &usual, &query][2 - before..] {
                    tap.piece(SOCKET, sequence(0, at), &framed(message));
                    at += message.len() + 2;
                }
                // An answer with this id was sent for an earlier query; it is no evidence.
                if answered {
                    let answer = message(0x9901, 0x8180, "hidden", 0);
                    tap.directed(Direction::Sent, SOCKET, 0, &framed(&answer));
                }
                tap.piece(SOCKET, sequence(0, at), &framed(&usual));
                tap.finish();
                let out = tap.of(SOCKET);
                let asked = out.iter().filter(|message| message[2] & 0x80 == 0);
                let asked: Vec<_> = asked.collect();
                assert!(asked.iter().all(|message| **message == &usual[..]));
                assert_eq!(asked.len(), before + 1);
                let c = tap.streams.counters();
                assert_eq!(
                    (
                        c.stream_messages_lost_at_least,
                        c.stream_connections_with_loss
                    ),
                    (1, 1)
                );
            }
        }
    }
}

/// Queries of the process are no evidence about what it receives.
#[test]
fn a_process_that_asks_waits_for_nothing() {
    let answers = [
        message(1, 0x8180, "one", 2),
        message(2, 0x8180, "two", 2),
        message(3, 0x8180, "three", 2),
    ];
    let mut tap = Tap::new(&[SOCKET]);
    tap.piece(SOCKET, 0, &stream_of(&answers)[9..]);
    assert!(tap.out.is_empty());
    let query = message(4, 0x0100, "four", 0);
    tap.directed(Direction::Sent, SOCKET, 0, &framed(&query));
    assert_eq!(tap.of(SOCKET), [&answers[1][..], &answers[2], &query]);
}

/// A connection that never shows DNS has lost no messages.
#[test]
fn another_protocol_that_is_joined_midway_has_lost_no_message() {
    let mut tap = Tap::new(&[SOCKET]);
    tap.piece(SOCKET, 0, &vec![0x55; 200_000]);
    tap.directed(Direction::Sent, SOCKET, 0, &[0x55; 1_000]);
    tap.finish();
    let c = tap.streams.counters();
    assert_eq!((c.stream_connections_with_loss, tap.out.len()), (0, 0));
}

#[test]
fn more_than_is_kept_midway_is_searched() {
    let next: Vec<_> = (0..9).map(|id| message(id, 0x0100, "next", 0)).collect();
    let mut tap = Tap::new(&[SOCKET]);
    tap.dns_port = true;
    tap.piece(SOCKET, 0, &vec![0xee; 70_000]);
    tap.piece(SOCKET, 70_000, &stream_of(&next));
    assert_eq!(tap.of(SOCKET), next);
    assert_eq!(tap.streams.counters().stream_messages_lost_at_least, 1);
}

/// There may be any number of answers to earlier queries, such as those of a transfer.
#[test]
fn weighing_what_is_kept_costs_no_more_than_its_bytes_pay_for() {
    let next = message(7, 0x0100, "next", 0);
    let earlier = framed(&message(1, 0x8180, "earlier", 0));
    let mut tap = Tap::new(&[SOCKET]);
    tap.piece(SOCKET, 0, &[&[0x9e; 9][..], &framed(&next)].concat());
    for number in 0..20_000 {
        let at = sequence(0, number * earlier.len());
        tap.directed(Direction::Sent, SOCKET, at, &earlier);
    }
    assert!(tap.out.iter().any(|(_, message)| *message == next));
    assert_eq!(tap.streams.counters().stream_search_given_up_bytes, 0);
}

/// A gap makes answers wait, but not if the stream needs them as evidence.
#[test]
fn an_answer_tells_of_an_unusual_query_before_a_gap() {
    let mut tap = Tap::new(&[]);
    let [first, later] = [vec![0xff; 40], message(3, 0x0100, "three", 0)];
    let answer = message(0xffff, 0x8185, "odd", 0);
    tap.piece(SOCKET, 0, &framed(&first));
    tap.lost += 1;
    tap.piece(SOCKET, sequence(0, first.len() + 100), &framed(&later));
    tap.directed(Direction::Sent, SOCKET, 0, &framed(&answer));
    tap.tick(tap.now + HOLD_NS + 1);
    assert_eq!(tap.of(SOCKET), [&first[..], &answer, &later]);
    tap.finish();
    assert_eq!(tap.streams.counters().stream_messages_lost_at_least, 1);
}

/// A server reads many queries at once behind a gap, and answers them one by one.
#[test]
fn as_many_answers_wait_for_a_gap_as_a_server_may_send_at_once() {
    let queries: Vec<_> = (0..100).map(|id| message(id, 0x0100, "many", 0)).collect();
    let answers: Vec<_> = (1..100).map(|id| message(id, 0x8180, "many", 0)).collect();
    let stream = stream_of(&queries);
    let length = 2 + queries[0].len();
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..5]);
    tap.lost += 1;
    tap.piece(SOCKET, sequence(0, length), &stream[length..]);
    for (number, answer) in answers.iter().enumerate() {
        let place = sequence(0, number * (2 + answer.len()));
        tap.directed(Direction::Sent, SOCKET, place, &framed(answer));
    }
    tap.tick(tap.now + 2 * HOLD_NS);
    let expected: Vec<_> = queries[1..].iter().chain(&answers).cloned().collect();
    assert_eq!(tap.of(SOCKET), expected);
}

/// When one gap is given up, the next one exists already.
#[test]
fn an_answer_does_not_wait_for_one_gap_after_the_other() {
    let mut tap = Tap::new(&[]);
    let queries = [1, 3, 5].map(|id| message(id, 0x0100, "gaps", 0));
    let answers = [1, 3].map(|id| message(id, 0x8180, "gaps", 0));
    let length = 2 + queries[0].len();
    tap.piece(SOCKET, 0, &framed(&queries[0]));
    tap.directed(Direction::Sent, SOCKET, 0, &framed(&answers[0]));
    tap.lost += 1;
    tap.piece(SOCKET, sequence(0, 2 * length), &framed(&queries[1]));
    let place = sequence(0, 2 + answers[0].len());
    tap.directed(Direction::Sent, SOCKET, place, &framed(&answers[1]));
    tap.now += HOLD_NS - 10_000;
    tap.lost += 1;
    tap.piece(SOCKET, sequence(0, 4 * length), &framed(&queries[2]));
    tap.tick(tap.now + 20_000);
    let expected = [&queries[0], &answers[0], &queries[1], &answers[1]];
    assert!(tap.of(SOCKET).iter().eq(expected));
}

/// The tail of a message that was in progress at attach may begin with two bytes that look like a
/// length.
#[test]
fn a_record_that_begins_with_a_call_is_no_message() {
    let mut tap = Tap::new(&[SOCKET]);
    let record = [&[0, 100, 99][..], &[0xff; 99]].concat();
    let query = message(7, 0x0100, "behind", 0);
    let answer = message(7, 0x8180, "behind", 1);
    tap.piece(SOCKET, 0, &record);
    tap.piece(SOCKET, sequence(0, record.len()), &framed(&query));
    tap.directed(Direction::Sent, SOCKET, 0, &framed(&answer));
    tap.finish();
    assert_eq!(tap.of(SOCKET), [query, answer]);
    assert_eq!(tap.streams.counters().stream_messages_lost_at_least, 1);
}
