//! Sequence numbers without a byte: the end of a stream, and urgent bytes.

use dnstap_ebpf::{EVENT_SHUT_DOWN, EVENT_URGENT, EVENT_URGENT_NEXT};

use super::*;
use crate::dns::fixture::with_opt;

/// Checks that nothing counted as a loss and no piece was held.
fn expect_no_messages_lost(tap: &Tap) {
    let c = tap.streams.counters();
    assert_eq!(
        (
            c.stream_gaps,
            c.stream_skipped_bytes,
            c.stream_connections_with_loss
        ),
        (0, 0, 0)
    );
}

fn expect_no_loss(tap: &Tap) {
    let c = tap.streams.counters();
    assert_eq!(
        (
            c.stream_gaps,
            c.stream_skipped_bytes,
            c.stream_held_pieces,
            c.stream_searches,
            c.stream_connections_with_loss,
        ),
        (0, 0, 0, 0, 0),
        "{c:?}"
    );
}

#[test]
fn the_last_message_before_the_end_is_delivered_at_once() {
    let messages = messages(1, 5);
    let stream = stream_of(&messages);
    for direction in [Direction::Received, Direction::Sent] {
        for cut in [&[1][..], &[2, 30], &[20], &[65_536], &[40, 7]] {
            let mut tap = Tap::new(&[]);
            let pieces = pieces(&stream, cut);
            for (number, (at, piece)) in pieces.iter().enumerate() {
                let last = number + 1 == pieces.len();
                tap.flags = if last { EVENT_SHUT_DOWN } else { 0 };
                let place = sequence(u32::MAX - 9, at + usize::from(last));
                tap.directed(direction, SOCKET, place, piece);
            }
            assert_eq!(tap.of(SOCKET), messages);
            expect_no_loss(&tap);
        }
    }
}

/// The kernel side sends one call in chunks, whose positions are all too high by one.
#[test]
fn the_last_call_may_come_in_chunks() {
    let messages = messages(4, 4);
    let stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..2]);
    tap.flags = EVENT_SHUT_DOWN;
    for (at, piece) in pieces(&stream[2..], &[5_000]) {
        tap.piece(SOCKET, sequence(3, at), piece);
    }
    assert_eq!(tap.of(SOCKET), messages);
    expect_no_loss(&tap);
}

#[test]
fn a_gap_before_the_end_is_one_if_something_was_dropped_or_it_is_larger() {
    let stream = stream_of(&messages(1, 3));
    for (lost, missing) in [(1, 1), (0, 2)] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..20]);
        tap.flags = EVENT_SHUT_DOWN;
        tap.lost += lost;
        tap.piece(SOCKET, 20 + missing, &stream[20 + missing as usize..]);
        tap.finish();
        let c = tap.streams.counters();
        assert_eq!((c.stream_gaps, c.stream_missing_bytes), (1, missing.into()));
        assert_eq!(c.stream_connections_with_loss, 1);
    }
}

/// The last two reads come in the wrong order. The end of the stream is included in the one that
/// comes first.
#[test]
fn the_end_may_be_told_before_its_turn() {
    let messages = messages(1, 3);
    let stream = stream_of(&messages);
    let (at, last) = (stream.len() - 30, stream.len() - 10);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..at]);
    tap.flags = EVENT_SHUT_DOWN;
    tap.piece(SOCKET, sequence(1, last), &stream[last..]);
    tap.flags = 0;
    tap.piece(SOCKET, sequence(0, at), &stream[at..last]);
    assert_eq!(tap.of(SOCKET), messages);
    assert_eq!(tap.streams.counters().stream_gaps, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A read ends at an urgent byte, and the next begins behind it.
    #[test]
    fn urgent_bytes_hide_nothing_and_make_nothing_up(
        sizes in sizes(),
        holes in proptest::collection::vec(1..3_000usize, 1..20),
        start: u32,
        salt in 0..6u16,
    ) {
        let messages = messages(salt, 12);
        let stream = stream_of(&messages);
        let mut places: Vec<_> = holes.iter().scan(0, |at, step| {
            *at += step;
            Some(*at)
        }).collect();
        places.retain(|at| *at < stream.len());
        let mut tap = Tap::new(&[]);
        let (mut at, mut shift) = (0, 0);
        for size in sizes.into_iter().cycle() {
            if at == stream.len() {
                break;
            }
            let hole = places.first().copied().filter(|place| *place == at);
            if hole.is_some() {
                shift += 1;
                places.remove(0);
            }
            let next = places.first().copied().unwrap_or(stream.len());
            let end = (at + size).min(next);
            tap.flags = if hole.is_some() { EVENT_URGENT } else if end == next { EVENT_URGENT_NEXT } else { 0 };
            tap.piece(SOCKET, sequence(start, at).wrapping_add(shift), &stream[at..end]);
            at = end;
        }
        prop_assert_eq!(tap.of(SOCKET), messages);
        expect_no_loss(&tap);
    }
}

#[test]
fn urgent_data_excuses_no_gap_in_which_something_was_dropped() {
    let messages = messages(1, 8);
    let stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..40]);
    (tap.flags, tap.lost) = (EVENT_URGENT, 1);
    tap.piece(SOCKET, 50, &stream[50..]);
    tap.finish();
    assert!(is_in_order(&tap.of(SOCKET), &messages));
    let c = tap.streams.counters();
    assert_eq!((c.stream_gaps, c.stream_missing_bytes), (1, 10));
}

/// Both have a sequence number. The position of the last read is counted back from behind both.
#[test]
fn an_urgent_byte_and_the_end_of_the_stream_make_one_gap() {
    let messages = messages(1, 3);
    let stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..100]);
    tap.flags = EVENT_URGENT | EVENT_SHUT_DOWN;
    tap.piece(SOCKET, 102, &stream[100..]);
    assert_eq!(tap.of(SOCKET), messages);
    expect_no_loss(&tap);
}

/// Urgent bytes in a row, in the middle of a query. Other bytes may be missing as well, but the
/// process answers what it has read.
#[test]
fn what_the_process_answers_tells_that_nothing_is_missing_between_urgent_bytes() {
    let queries: Vec<_> = (0..3).map(|id| message(id, 0x0100, "name", 1)).collect();
    let stream = stream_of(&queries);
    for (at, size) in [(1, 2), (2, 3), (9, 2), (40, 64)] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..at]);
        tap.flags = EVENT_URGENT;
        tap.piece(SOCKET, sequence(size, at), &stream[at..]);
        tap.flags = 0;
        let answer = framed(&message(1, 0x8180, "name", 1));
        tap.directed(Direction::Sent, SOCKET, 0, &answer);
        let received: Vec<_> = tap.of(SOCKET);
        assert_eq!(received[..3], queries[..], "{at}");
        tap.finish();
        expect_no_messages_lost(&tap);
    }
}

/// Another process has read a few bytes, up to an urgent one. The answer of the tapped process
/// shows that the framing is another one.
#[test]
fn a_message_is_not_made_of_what_stands_around_doubtful_gaps() {
    let messages = messages(2, 12);
    let stream = stream_of(&messages);
    for (at, gap) in [(5, 2), (5, 30), (1, 17), (60, 64), (200, 9)] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..at]);
        tap.flags = EVENT_URGENT;
        tap.piece(SOCKET, sequence(0, at + gap), &stream[at + gap..]);
        tap.finish();
        let out = tap.of(SOCKET);
        assert!(is_in_order(&out, &messages) && out.len() > 8, "{at} {gap}");
        assert_eq!(tap.streams.counters().stream_connections_with_loss, 1);
    }
}

/// A message still fits if bytes of its padding (RFC 7830) are missing and the same number of
/// following bytes take their place.
#[test]
fn a_message_that_fits_across_a_doubtful_gap_is_not_believed_without_an_answer() {
    const PADDING: [u8; 2] = 300_u16.to_be_bytes();
    const OPTION: [u8; 4] = [0, 12, 0x01, 0x28];
    let mut padded = with_opt(message(7, 0x0100, "padded", 0), 0);
    let end = padded.len();
    padded[end - 2..].copy_from_slice(&PADDING);
    padded.extend(OPTION);
    padded.resize(end + 300, 0);
    let next = message(8, 0x0100, "next", 0);
    let stream = stream_of(&[next.clone(), padded.clone(), next.clone()]);
    let whole = 2 + next.len() + 2 + padded.len();
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..120]);
    tap.flags = EVENT_URGENT;
    tap.piece(SOCKET, 129, &stream[129..whole + 9]);
    tap.finish();
    assert_eq!(tap.of(SOCKET), [next]);
    assert_eq!(tap.streams.counters().stream_connections_with_loss, 1);
}

/// Urgent bytes in a row, in the middle of a response that contains queries. These are not
/// delivered, nor is the response.
#[test]
fn what_lies_behind_a_doubtful_gap_in_the_same_message_is_not_looked_at() {
    let inside = framed(&message(5, 0x0100, "inside", 0));
    let mut carrier = message(7, 0x8180, "carrier", 0);
    carrier[11] = 1;
    carrier.extend([0, 0, 16, 0, 1, 0, 0, 0, 0]);
    carrier.extend(u16::try_from(4 * inside.len()).unwrap().to_be_bytes());
    carrier.extend(inside.repeat(4));
    let next = message(8, 0x8180, "next", 1);
    let stream = stream_of(&[next.clone(), carrier.clone(), next.clone(), next.clone()]);
    let start = 2 + next.len();
    for at in [start + 10, start + 40, start + 60] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..at]);
        tap.flags = EVENT_URGENT;
        tap.piece(SOCKET, sequence(2, at), &stream[at..]);
        tap.finish();
        assert_eq!(tap.of(SOCKET), [&next[..], &next, &next], "{at}");
        assert_eq!(tap.streams.counters().stream_messages_lost_at_least, 1);
    }
}

/// Another process has read the missing bytes, up to an urgent byte.
#[test]
fn urgent_data_excuses_no_gap_larger_than_urgent_bytes_make() {
    let messages = messages(1, 8);
    let stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..40]);
    tap.flags = EVENT_URGENT;
    tap.piece(SOCKET, 140, &stream[140..]);
    tap.finish();
    assert!(is_in_order(&tap.of(SOCKET), &messages));
    let c = tap.streams.counters();
    assert_eq!((c.stream_gaps, c.stream_missing_bytes), (1, 100));
}

/// The gap was no gap of urgent bytes: its bytes come late. The framing found in the meantime is
/// not trusted any more.
#[test]
fn bytes_that_come_late_into_such_a_gap_end_the_trust_in_the_framing() {
    let messages = messages(1, 12);
    let stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..40]);
    tap.flags = EVENT_URGENT;
    tap.piece(SOCKET, 60, &stream[60..90]);
    tap.flags = 0;
    tap.piece(SOCKET, 40, &stream[40..60]);
    tap.piece(SOCKET, 90, &stream[90..]);
    tap.finish();
    let out = tap.of(SOCKET);
    assert!(
        is_in_order(&out, &messages) && out.len() > 8,
        "{}",
        out.len()
    );
    assert_eq!(tap.streams.counters().stream_connections_with_loss, 1);
}

/// Another process reads from the same connection, so bytes are missing here. The known length
/// belongs to a message of which more than the gap is missing.
#[test]
fn the_old_length_is_not_believed_after_a_gap() {
    let messages = messages(2, 12);
    let stream = stream_of(&messages);
    for at in 1..messages[0].len() {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..at]);
        // This many bytes are missing without a trace in the sequence number.
        tap.piece(SOCKET, sequence(1, at), &stream[at + 9..]);
        tap.finish();
        assert!(is_in_order(&tap.of(SOCKET), &messages), "{at}");
    }
}
