//! Several threads that send on one connection without a lock. A message's position is read after
//! the call, so other messages may have come between.

use super::*;

/// Pseudo-random numbers; the sequence is always the same.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Number of threads that send at the same time. A call may be reported up to this many calls
/// later.
const THREADS: usize = 4;

/// Returns what the kernel side would report of calls in this order: thread, sequence number,
/// bytes.
fn told(calls: &[Vec<u8>], noise: &mut Noise) -> Vec<(u32, u32, Vec<u8>)> {
    let ends: Vec<usize> = calls
        .iter()
        .scan(0, |end, call| {
            *end += call.len();
            Some(*end)
        })
        .collect();
    let mut told: Vec<_> = (0..calls.len())
        .map(|number| {
            let last = calls.len() - 1;
            let when = (number + noise.below(THREADS)).min(last);
            (when, noise.below(THREADS), number)
        })
        .collect();
    told.sort_unstable();
    told.into_iter()
        .map(|(when, _, number)| {
            let place = sequence(0u32.wrapping_sub(70_000), ends[when] - calls[number].len());
            (
                u32::try_from(number % THREADS).unwrap(),
                place,
                calls[number].clone(),
            )
        })
        .collect()
}

fn sorted<T: AsRef<[u8]>>(messages: &[T]) -> Vec<&[u8]> {
    let mut messages: Vec<&[u8]> = messages.iter().map(AsRef::as_ref).collect();
    messages.sort_unstable();
    messages
}

fn answers(count: u32) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| {
            let id = u16::try_from(number & 0xffff).unwrap();
            message(
                id,
                0x8180,
                &format!("name-{number}"),
                u16::try_from(number % 3).unwrap(),
            )
        })
        .collect()
}

#[test]
fn what_threads_send_at_the_same_time_is_all_delivered_once() {
    for seed in 1..4 {
        let messages = answers(20_000);
        let calls: Vec<_> = messages.iter().map(|message| framed(message)).collect();
        let mut tap = Tap::new(&[]);
        for (thread, place, bytes) in told(&calls, &mut Noise(seed)) {
            tap.thread = thread;
            let before = tap.out.len();
            tap.directed(Direction::Sent, SOCKET, place, &bytes);
            assert_eq!(tap.out.len(), before + 1, "none waits");
        }
        assert_eq!(sorted(&tap.of(SOCKET)), sorted(&messages));
        tap.finish();
        let c = tap.streams.counters();
        assert_eq!(
            (
                c.stream_gaps,
                c.stream_skipped_bytes,
                c.stream_duplicate_bytes
            ),
            (0, 0, 0)
        );
        assert_eq!(c.stream_connections_with_loss, 0);
    }
}

#[test]
fn what_is_dropped_of_such_messages_is_counted() {
    let messages = answers(4_000);
    let calls: Vec<_> = messages.iter().map(|message| framed(message)).collect();
    let mut tap = Tap::new(&[]);
    let mut dropped = Vec::new();
    let mut missing = 0;
    for (number, (thread, place, bytes)) in told(&calls, &mut Noise(5)).into_iter().enumerate() {
        tap.thread = thread;
        tap.now += 400_000;
        if number % 700 == 300 {
            tap.lost += 1;
            missing += bytes.len() as u64;
            dropped.push(bytes);
        } else {
            tap.directed(Direction::Sent, SOCKET, place, &bytes);
        }
    }
    tap.finish();
    assert_eq!(tap.out.len() + dropped.len(), messages.len());
    let c = tap.streams.counters();
    assert_eq!(c.stream_missing_bytes, missing);
    assert_eq!(c.stream_connections_with_loss, 1);
    let lost = c.stream_messages_lost_at_least;
    assert!((1..=dropped.len() as u64).contains(&lost), "{lost} {c:?}");
}

/// The rest of a message seems to be behind another thread's message, which was reported before.
#[test]
fn the_rest_of_a_message_is_told_by_the_number_of_bytes() {
    let long = message(1, 0x8180, "long", 100);
    let short = message(2, 0x8180, "short", 1);
    let next = message(3, 0x8180, "next", 1);
    let [bytes, other] = [framed(&long), framed(&short)];
    let half = 5_000;
    let mut tap = Tap::new(&[]);
    tap.directed(Direction::Sent, SOCKET, 0, &bytes[..half]);
    tap.thread = 1;
    tap.directed(Direction::Sent, SOCKET, sequence(0, bytes.len()), &other);
    tap.thread = 0;
    tap.directed(
        Direction::Sent,
        SOCKET,
        sequence(0, half + other.len()),
        &bytes[half..],
    );
    assert_eq!(tap.of(SOCKET), [&short[..], &long]);
    tap.directed(
        Direction::Sent,
        SOCKET,
        sequence(0, bytes.len() + other.len()),
        &framed(&next),
    );
    assert_eq!(tap.of(SOCKET).len(), 3);
    tap.finish();
    assert_eq!(tap.streams.counters().stream_gaps, 0);
}

/// One message in three calls of one thread, reported in the wrong order. The second call looks
/// like a message but is none.
#[test]
fn part_of_a_message_does_not_stand_for_itself() {
    let inner = framed(&message(0xbeef, 0x8180, "inner", 0));
    let mut outer = message(1, 0x8180, "outer", 2);
    let at = 2 + outer.len() - 99;
    outer[at - 2..at - 2 + inner.len()].copy_from_slice(&inner);
    let stream = framed(&outer);
    let end = at + inner.len();
    let mut tap = Tap::new(&[]);
    for (from, to) in [(0, at - 5), (at, end), (at - 5, at), (end, stream.len())] {
        tap.directed(
            Direction::Sent,
            SOCKET,
            sequence(0, from),
            &stream[from..to],
        );
    }
    assert_eq!(tap.of(SOCKET), [outer]);
}

/// The body of a message comes long after it was given up.
#[test]
fn a_part_whose_place_is_taken_is_counted_and_the_stream_recovers() {
    let messages = answers(40);
    let mut tap = Tap::new(&[]);
    let (mut at, mut late) = (0, None);
    for (number, message) in messages.iter().enumerate() {
        let bytes = framed(message);
        tap.thread = u32::from(number != 10);
        tap.now += 100_000_000;
        if number == 10 {
            tap.directed(Direction::Sent, SOCKET, sequence(0, at), &bytes[..2]);
            late = Some((sequence(0, at + 2), bytes[2..].to_vec()));
        } else {
            tap.directed(Direction::Sent, SOCKET, sequence(0, at), &bytes);
        }
        at += bytes.len();
        if number == 30 {
            let (at, body) = late.take().unwrap();
            tap.directed(Direction::Sent, SOCKET, at, &body);
        }
    }
    let out = tap.of(SOCKET);
    assert!(is_in_order(&out, &messages));
    assert_eq!(out.len(), 39);
    let c = tap.streams.counters();
    assert_eq!(c.stream_connections_with_loss, 1);
    assert!(c.stream_messages_lost_at_least >= 1 && c.stream_gaps >= 1);
}

/// Another process, which is not tapped, wrote three bytes of a message. Messages that other
/// threads send later cannot be in that gap.
#[test]
fn bytes_beside_the_stream_do_not_stand_for_a_gap_amid_a_message() {
    let long = message(1, 0x8180, "long", 100);
    let bytes = framed(&long);
    let (unseen, rest) = (1_000, 1_003);
    let mut tap = Tap::new(&[]);
    tap.directed(Direction::Sent, SOCKET, 0, &bytes[..unseen]);
    tap.directed(Direction::Sent, SOCKET, sequence(0, rest), &bytes[rest..]);
    let [early, late] = [2, 3].map(|id| message(id, 0x8180, "other", 1));
    tap.thread = 1;
    let place = sequence(0, bytes.len() + 2 + early.len());
    tap.directed(Direction::Sent, SOCKET, place, &framed(&late));
    tap.tick(tap.now + HOLD_NS + 1);
    tap.thread = 2;
    let place = sequence(0, bytes.len());
    tap.directed(Direction::Sent, SOCKET, place, &framed(&early));
    let others = [late, early];
    tap.finish();
    assert_eq!(sorted(&tap.of(SOCKET)), sorted(&others));
    let c = tap.streams.counters();
    assert_eq!(c.stream_missing_bytes, 3);
    assert_eq!(c.stream_messages_lost_at_least, 1);
}

/// A message comes so late that its position was given up. It has as many bytes as are missing in
/// the middle of another message.
#[test]
fn late_bytes_do_not_stand_for_what_was_dropped_amid_a_message() {
    let messages = answers(3);
    let [late, other, cut] = [0, 1, 2].map(|at: usize| framed(&messages[at]));
    let mut tap = Tap::new(&[]);
    tap.thread = 1;
    let other_at = u32::try_from(late.len()).unwrap();
    tap.directed(Direction::Sent, SOCKET, other_at, &other);
    tap.now += 2_000_000_000;
    tap.tick(tap.now);
    let cut_at = late.len() + other.len();
    tap.thread = 2;
    tap.directed(Direction::Sent, SOCKET, sequence(0, cut_at), &cut[..20]);
    tap.lost += 1;
    let rest = 20 + 9;
    tap.directed(
        Direction::Sent,
        SOCKET,
        sequence(0, cut_at + rest),
        &cut[rest..],
    );
    tap.thread = 1;
    tap.directed(Direction::Sent, SOCKET, 0, &late);
    // The following bytes would fill up the message that was cut.
    tap.thread = 2;
    let after = cut_at + cut.len();
    tap.directed(Direction::Sent, SOCKET, sequence(0, after), &other[..20]);
    tap.finish();
    let delivered = tap.of(SOCKET);
    assert_eq!(sorted(&delivered), sorted(&[&messages[0], &messages[1]]));
    assert!(tap.streams.counters().stream_messages_lost_at_least > 0);
}

/// Too little of the stream's first message has come to judge it.
#[test]
fn whole_messages_do_not_stand_for_what_was_dropped_amid_the_first_one() {
    let messages = answers(3);
    let [first, other, _] = [0, 1, 2].map(|at: usize| framed(&messages[at]));
    let mut tap = Tap::new(&[]);
    tap.thread = 1;
    tap.directed(Direction::Sent, SOCKET, 0, &first[..7]);
    tap.lost += 1;
    let behind = 7 + 9;
    tap.directed(
        Direction::Sent,
        SOCKET,
        sequence(0, behind),
        &first[behind..],
    );
    tap.thread = 2;
    tap.directed(Direction::Sent, SOCKET, sequence(0, first.len()), &other);
    tap.thread = 1;
    // As many bytes as are missing.
    let end = first.len() + other.len();
    tap.directed(Direction::Sent, SOCKET, sequence(0, end), &other[..9]);
    tap.finish();
    assert_eq!(tap.of(SOCKET), [&messages[1][..]]);
    assert!(tap.streams.counters().stream_messages_lost_at_least > 0);
}
