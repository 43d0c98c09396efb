//! Counts of missing messages.

use super::*;

fn account(tap: &Tap) -> (u64, u64, u64) {
    let c = tap.streams.counters();
    (
        c.stream_connections_with_loss,
        c.stream_messages_lost_at_least,
        c.stream_incomplete_messages,
    )
}

#[test]
fn a_message_that_the_peer_never_completed_is_not_lost() {
    let stream = stream_of(&messages(4, 1));
    for at in [1, 2, 20] {
        let mut tap = Tap::new(&[]);
        tap.dns_port = true;
        tap.piece(SOCKET, 0, &stream[..at]);
        tap.end(SOCKET);
        tap.tick(tap.now + 2 * ENDED_NS);
        assert_eq!(account(&tap), (0, 0, 1), "{at}");
    }
}

#[test]
fn each_gap_counts_what_is_missing_at_least() {
    // Each message has 28 bytes and a length.
    let messages: Vec<_> = (0..20)
        .map(|id| message(id, 0x0100, "12345678901", 0))
        .collect();
    let stream = stream_of(&messages);
    let size = messages[0].len() + 2;
    for (from, to, lost) in [
        (size, 2 * size, 1),         // a whole message
        (size + 5, size + 9, 1),     // within a message
        (size + 5, 3 * size + 5, 2), // from one message into another
        (size - 5, 2 * size, 2),     // the end of a message, and a whole one
        (size, size + 1, 1),         // the start of a message
    ] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..from]);
        tap.piece(SOCKET, sequence(0, to), &stream[to..]);
        tap.tick(tap.now + HOLD_NS + 1);
        assert_eq!(account(&tap), (1, lost, 0), "{from}..{to}");
        let out = tap.of(SOCKET);
        assert!(is_in_order(&out, &messages));
        assert!(messages.len() - out.len() >= usize::try_from(lost).unwrap());
        tap.finish();
        assert_eq!(account(&tap), (1, lost, 0), "{from}..{to}");
    }
}

#[test]
fn a_message_that_was_under_way_when_the_tap_came_is_lost() {
    let messages = messages(4, 8);
    let mut tap = Tap::new(&[SOCKET]);
    tap.piece(SOCKET, 0, &stream_of(&messages)[40..]);
    tap.finish();
    assert_eq!((account(&tap), tap.out.len()), ((1, 1, 0), 7));
    // At a boundary no message is missing.
    let mut tap = Tap::new(&[SOCKET]);
    tap.piece(SOCKET, 0, &stream_of(&messages));
    tap.finish();
    assert_eq!((account(&tap), tap.out.len()), ((0, 0, 0), 8));
}

#[test]
fn a_connection_dropped_amid_a_message_has_lost_it() {
    let stream = stream_of(&messages(4, 8));
    let limits = StreamLimits {
        connections: 4,
        ..StreamLimits::default()
    };
    let mut tap = Tap::with(limits, &[]);
    let boundary = 2 + messages(4, 1)[0].len();
    for (socket, end) in [(1, 100), (2, boundary)] {
        tap.piece(socket, 0, &stream[..end]);
    }
    for socket in 10..14 {
        tap.piece(socket, 0, &stream[..boundary]);
    }
    assert_eq!(account(&tap), (1, 1, 0));
    // The rest of the message is not counted as another one.
    tap.piece(1, 100, &stream[100..]);
    tap.finish();
    assert_eq!(account(&tap), (1, 1, 0));
}

#[test]
fn the_rest_of_a_message_that_comes_after_all_is_a_loss() {
    let stream = stream_of(&messages(4, 8));
    let limits = StreamLimits {
        idle_ns: 1_000_000,
        ..StreamLimits::default()
    };
    let mut tap = Tap::with(limits, &[]);
    tap.piece(SOCKET, 0, &stream[..100]);
    tap.tick(tap.now + 1_000_001);
    assert_eq!(account(&tap), (0, 0, 1));
    tap.piece(SOCKET, 100, &stream[100..]);
    tap.finish();
    assert_eq!(account(&tap), (1, 1, 1));
}

#[test]
fn what_is_searched_in_vain_counts_as_a_message() {
    let messages = messages(1, 12);
    let mut stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    let at = 2 + messages[0].len();
    // The bytes behind the gap do not fit.
    stream[at + 12] = 0xff;
    tap.piece(SOCKET, 0, &stream[..at]);
    tap.lost = 1;
    tap.piece(SOCKET, sequence(0, at + 10), &stream[at + 10..]);
    tap.finish();
    let (connections, lost, incomplete) = account(&tap);
    assert_eq!((connections, incomplete), (1, 0));
    assert!((1..=2).contains(&lost), "{lost}");
}

#[test]
fn a_socket_that_connects_to_the_same_peer_again_begins_anew() {
    let first = vec![0xee; 30];
    let mut tap = Tap::new(&[]);
    tap.dns_port = true;
    tap.piece(SOCKET, 0, &framed(&message(1, 0x0100, "one", 0)));
    tap.end(SOCKET);
    tap.piece(SOCKET, 1 << 30, &framed(&first));
    tap.tick(tap.now + 2 * ENDED_NS);
    tap.piece(SOCKET, (1 << 30) + 32, &framed(&first));
    assert_eq!(
        tap.out.len(),
        3,
        "what does not fit is believed at the start of a connection only"
    );
    assert_eq!(account(&tap), (0, 0, 0));
    assert_eq!(tap.streams.counters().stream_gaps, 0);
}

/// An earlier piece may still be on its way. Messages sent meanwhile may answer those that wait.
#[test]
fn questions_that_wait_behind_a_gap_come_before_their_answers() {
    let queries: Vec<_> = (0..6).map(|id| message(id, 0x0100, "name", 0)).collect();
    let answers: Vec<_> = (0..6).map(|id| message(id, 0x8180, "name", 0)).collect();
    let size = queries[0].len() + 2;
    for comes in [false, true] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &framed(&queries[0]));
        tap.directed(Direction::Sent, SOCKET, 0, &framed(&answers[0]));
        for id in 2..6 {
            tap.piece(SOCKET, sequence(0, id * size), &framed(&queries[id]));
            let at = sequence(0, (id - 1) * size);
            tap.directed(Direction::Sent, SOCKET, at, &framed(&answers[id]));
        }
        assert_eq!(tap.out.len(), 2);
        if comes {
            tap.piece(SOCKET, sequence(0, size), &framed(&queries[1]));
            tap.tick(tap.now + 1);
        } else {
            tap.tick(tap.now + HOLD_NS + 1);
        }
        let mut expected = vec![&queries[0][..], &answers[0]];
        let come = if comes { &queries[1..] } else { &queries[2..] };
        expected.extend(come.iter().chain(&answers[2..]).map(|message| &message[..]));
        assert_eq!(tap.of(SOCKET), expected);
        assert_eq!(account(&tap).1, u64::from(!comes));
        tap.finish();
    }
}

#[test]
fn answers_that_wait_for_questions_are_bounded() {
    let query = message(1, 0x0100, "name", 0);
    let answer = framed(&message(1, 0x8180, "name", 100));
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &framed(&query));
    tap.piece(SOCKET, 1_000, &framed(&query));
    for number in 0..1_000 {
        let at = sequence(0, number * answer.len());
        tap.directed(Direction::Sent, SOCKET, at, &answer);
        assert!(tap.streams.memory < 300_000);
    }
    tap.finish();
    assert_eq!(tap.out.len(), 1_002);
}

/// Bytes sent behind a gap may begin with the length of a record, and look like an error message
/// after that.
#[test]
fn the_tail_of_a_record_behind_a_gap_is_no_error() {
    let mut tap = Tap::new(&[]);
    let first = message(1, 0x8180, "first", 0);
    tap.directed(Direction::Sent, SOCKET, 0, &framed(&first));
    tap.lost += 1;
    let record = [&[0, 100, 99][..], &[0xff; 99]].concat();
    tap.directed(Direction::Sent, SOCKET, 3_691, &record);
    tap.finish();
    assert_eq!(tap.of(SOCKET), [first]);
}

/// Another process, which is not tapped, has read a query and sent the length of an answer.
#[test]
fn what_is_sent_first_beside_another_process_is_no_beginning() {
    let queries = [1, 2, 3].map(|id| message(id, 0x0100, "name", 0));
    let answers = [1, 2, 3].map(|id| message(id, 0x8180, "name", 0));
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &framed(&queries[0]));
    let size = queries[0].len() + 2;
    tap.piece(SOCKET, sequence(0, 2 * size), &framed(&queries[2]));
    tap.tick(tap.now + HOLD_NS + 1);
    let sent = &stream_of(&answers)[2..];
    tap.directed(Direction::Sent, SOCKET, 2, sent);
    tap.finish();
    let expected = [&queries[0], &queries[2], &answers[1], &answers[2]];
    assert_eq!(tap.of(SOCKET), expected);
    assert_eq!(account(&tap).1, 2);
}

/// The tail of an answer looks like a message of one byte.
#[test]
fn the_tail_of_what_was_sent_before_is_no_message() {
    let answers = [1, 2].map(|id| message(id, 0x8180, "name", 0));
    let sent = [&[0, 1, 0], &stream_of(&answers)[..]].concat();
    for cut in [1, 3, 9_000] {
        let mut tap = Tap::new(&[SOCKET]);
        for (at, piece) in pieces(&sent, &[cut, 9_000]) {
            tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
        }
        tap.finish();
        assert_eq!(tap.of(SOCKET), answers, "in pieces of {cut}");
    }
}
