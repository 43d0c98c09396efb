//! Streams of messages that are cut, mixed, damaged and lost. The messages delivered must be those
//! that were sent.

mod ends;
mod hiding;
mod hunt;
mod losses;
mod writers;

use proptest::prelude::*;

use super::{order::HOLD_NS, *};
use crate::dns::fixture::{framed, message};
use crate::model::{Family, Origin, Protocol};

const SOCKET: u64 = 7;

/// A tap of one or more sockets, and its output.
struct Tap {
    streams: Streams,
    out: Vec<(u64, Vec<u8>)>,
    bytes: u64,
    dns_port: bool,
    now: u64,
    lost: u32,
    flags: u8,
    thread: u32,
    server_port: u16,
    peer_port: u16,
}

impl Tap {
    fn new(existing: &[u64]) -> Self {
        Self::with(StreamLimits::default(), existing)
    }

    fn with(limits: StreamLimits, existing: &[u64]) -> Self {
        let streams = Streams::new(limits, existing.iter().copied(), Proxies::default());
        Self {
            streams,
            out: Vec::new(),
            bytes: 0,
            dns_port: false,
            now: 1_000,
            lost: 0,
            flags: 0,
            thread: 0,
            server_port: 5_300,
            peer_port: 40_000,
        }
    }

    fn piece(&mut self, socket: u64, sequence: u32, payload: &[u8]) {
        self.directed(Direction::Received, socket, sequence, payload);
    }

    fn directed(&mut self, direction: Direction, socket: u64, sequence: u32, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        let dns_port = self.dns_port;
        self.chunk(direction, socket, sequence, payload, |chunk, streams| {
            streams.push(&chunk, dns_port, &mut |envelope, bytes| {
                out.push((envelope.socket, bytes.to_vec()));
            });
        });
        self.out = out;
        self.check();
    }

    /// Passes a chunk to `take`.
    fn chunk<R>(
        &mut self,
        direction: Direction,
        socket: u64,
        sequence: u32,
        payload: &[u8],
        take: impl FnOnce(Chunk<'_>, &mut Streams) -> R,
    ) -> R {
        self.now += 1_000;
        self.bytes += payload.len() as u64;
        let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
        let chunk = Chunk {
            envelope: Envelope {
                ktime_ns: self.now,
                socket,
                protocol: Protocol::Tcp,
                direction,
                family: Family::Inet,
                local: (loopback, self.server_port).into(),
                peer: (loopback, self.peer_port).into(),
                origin: Origin {
                    tid: self.thread,
                    ..Origin::default()
                },
                proxied: None,
                unconnected: false,
            },
            message_len: u32::try_from(payload.len()).unwrap(),
            chunk_offset: 0,
            sequence,
            lost: self.lost,
            flags: self.flags,
            segment: 0,
            arrived_len: 0,
            payload,
        };
        take(chunk, &mut self.streams)
    }

    fn end(&mut self, socket: u64) {
        let out = &mut self.out;
        let end = Envelope {
            ktime_ns: self.now,
            socket,
            protocol: Protocol::Tcp,
            direction: Direction::Sent,
            family: Family::Inet,
            local: Endpoint::default(),
            peer: Endpoint::default(),
            origin: Origin::default(),
            proxied: None,
            unconnected: false,
        };
        self.streams.end(&end, &mut |envelope, bytes| {
            out.push((envelope.socket, bytes.to_vec()));
        });
        self.check();
    }

    fn tick(&mut self, now: u64) {
        let out = &mut self.out;
        self.streams.tick(now, &mut |envelope, bytes| {
            out.push((envelope.socket, bytes.to_vec()));
        });
        self.check();
    }

    fn finish(&mut self) {
        let out = &mut self.out;
        self.streams
            .finish(&mut |envelope, bytes| out.push((envelope.socket, bytes.to_vec())));
        self.check();
        assert_eq!(self.streams.pending_bytes(), 0);
        assert_eq!(self.streams.memory, 0);
    }

    /// Checks the conservation of bytes.
    fn check(&self) {
        let c = self.streams.counters();
        assert_eq!(
            self.bytes,
            c.stream_framed_bytes
                + c.stream_skipped_bytes
                + c.stream_duplicate_bytes
                + c.stream_not_dns_bytes
                + c.stream_encrypted_bytes
                + c.stream_proxy_header_bytes
                + self.streams.pending_bytes(),
            "{c:?}"
        );
        let delivered: usize = self.out.iter().map(|(_, bytes)| bytes.len() + 2).sum();
        assert_eq!(
            c.stream_framed_bytes,
            delivered as u64 + 2 * c.stream_empty_messages
        );
        assert_eq!(c.stream_messages, self.out.len() as u64);
    }

    fn of(&self, socket: u64) -> Vec<&[u8]> {
        self.out
            .iter()
            .filter(|(from, _)| *from == socket)
            .map(|(_, bytes)| &bytes[..])
            .collect()
    }

    fn condemned(&mut self) -> Vec<u64> {
        self.streams.take_not_dns().collect()
    }
}

/// Builds distinct messages: queries, responses, and large ones as in a transfer.
fn messages(salt: u16, count: u16) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| {
            let answers = [0, 1, 3, 0, 140, 20][usize::from(number + salt) % 6];
            let flags = if answers == 0 { 0x0100 } else { 0x8180 };
            message(
                number * 257 + salt,
                flags,
                &format!("name-{salt}-{number}"),
                answers,
            )
        })
        .collect()
}

fn stream_of(messages: &[Vec<u8>]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| framed(message))
        .collect()
}

/// Cuts a stream into pieces. Returns them with their offsets.
fn pieces<'s>(stream: &'s [u8], sizes: &[usize]) -> Vec<(usize, &'s [u8])> {
    let mut sizes = sizes.iter().cycle();
    let (mut at, mut pieces) = (0, Vec::new());
    while at < stream.len() {
        let size = (*sizes.next().unwrap()).min(stream.len() - at);
        pieces.push((at, &stream[at..at + size]));
        at += size;
    }
    pieces
}

fn sequence(start: u32, at: usize) -> u32 {
    start.wrapping_add(u32::try_from(at).unwrap())
}

/// Returns whether `part` is `whole` with some messages left out.
fn is_in_order(part: &[&[u8]], whole: &[Vec<u8>]) -> bool {
    let mut rest = whole.iter();
    part.iter()
        .all(|message| rest.any(|original| original == message))
}

/// Sizes of pieces as servers and networks produce them: single bytes, two bytes and then the rest,
/// full buffers.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![2, 30]),
        Just(vec![65_536]),
        proptest::collection::vec(
            prop_oneof![1..4usize, 1..200usize, 1_000..40_000usize],
            1..40
        ),
    ]
}

/// The bytes have the signature of a PROXY header, an unknown version or transport, and the largest
/// length. They must be cut by their lengths. The second case is buffered to its end, together with
/// messages.
#[test]
fn what_only_begins_like_a_proxy_header_is_cut_by_its_lengths() {
    let first = 0x0d0a;
    for [command, transport] in [[0x66, 0x11], [0x21, 0x66]] {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([command, transport, 0xff, 0xff]);
        bytes.resize(70_000, 0xff);
        for pieces in [1, 7, 1_000, 70_000] {
            let mut tap = Tap::new(&[]);
            tap.dns_port = true;
            for (number, piece) in bytes.chunks(pieces).enumerate() {
                tap.piece(SOCKET, u32::try_from(number * pieces).unwrap(), piece);
            }
            let messages: Vec<_> = tap.out.iter().map(|(_, message)| message.len()).collect();
            assert_eq!(messages, [first, 0xffff], "in pieces of {pieces}");
            let pending = 70_000 - (2 + first) - (2 + 0xffff);
            assert_eq!(tap.streams.pending_bytes(), pending as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_split_gives_every_message(sizes in sizes(), start: u32, salt in 0..6u16, count in 1..12u16) {
        let messages = messages(salt, count);
        let mut tap = Tap::new(&[]);
        for (at, piece) in pieces(&stream_of(&messages), &sizes) {
            tap.piece(SOCKET, sequence(start, at), piece);
        }
        prop_assert_eq!(tap.of(SOCKET), messages);
        prop_assert_eq!(tap.streams.pending_bytes(), 0);
    }

    #[test]
    fn streams_do_not_disturb_each_other(
        sizes in proptest::collection::vec(1..400usize, 1..40),
        order in proptest::collection::vec(0..4usize, 1..60),
    ) {
        let all: Vec<_> = (0..4).map(|salt| messages(salt, 8)).collect();
        let streams: Vec<_> = all.iter().map(|messages| stream_of(messages)).collect();
        let mut queues: Vec<_> =
            streams.iter().map(|stream| VecDeque::from(pieces(stream, &sizes))).collect();
        let mut tap = Tap::new(&[]);
        let mut order = order.into_iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let first = order.next().unwrap();
            // Take the chosen socket, or the next one that has pieces left.
            let chosen = (first..first + 4).map(|n| n % 4).find(|n| !queues[*n].is_empty()).unwrap();
            let (at, piece) = queues[chosen].pop_front().unwrap();
            tap.piece(chosen as u64, sequence(9, at), piece);
        }
        for (socket, messages) in all.iter().enumerate() {
            prop_assert_eq!(&tap.of(socket as u64), messages);
        }
    }

    #[test]
    fn losses_cost_messages_but_never_make_any(
        sizes in sizes(),
        start: u32,
        salt in 0..6u16,
        lost in proptest::collection::vec(0..200usize, 1..6),
        midway: bool,
    ) {
        let messages = messages(salt, 24);
        let stream = stream_of(&messages);
        let mut tap = Tap::new(if midway { &[SOCKET] } else { &[] });
        let pieces = pieces(&stream, &sizes);
        for (number, (at, piece)) in pieces.iter().enumerate() {
            // The kernel reports what a socket has lost before its first piece.
            tap.lost += u32::from(lost.contains(&number));
            if !lost.contains(&number) {
                tap.piece(SOCKET, sequence(start, *at), piece);
            }
        }
        tap.finish();
        prop_assert!(is_in_order(&tap.of(SOCKET), &messages));
    }

    #[test]
    fn socket_that_connects_elsewhere_shows_all_of_its_next_connection(
        sizes in sizes(),
        cut in 1..30_000usize,
        starts: (u32, u32),
        salt in 0..6u16,
    ) {
        let (before, after) = (messages(salt, 8), messages(salt + 1, 8));
        let stream = stream_of(&before);
        let stream = &stream[..cut.min(stream.len())];
        let mut tap = Tap::new(&[]);
        for (at, piece) in pieces(stream, &sizes) {
            tap.piece(SOCKET, sequence(starts.0, at), piece);
        }
        let whole = tap.out.len();
        prop_assert_eq!(tap.of(SOCKET), &before[..whole]);
        tap.peer_port += 1;
        for (at, piece) in pieces(&stream_of(&after), &sizes) {
            tap.piece(SOCKET, sequence(starts.1, at), piece);
        }
        prop_assert_eq!(&tap.of(SOCKET)[whole..], after);
        let left = stream.len() - stream_of(&before[..whole]).len();
        prop_assert_eq!(tap.streams.counters().stream_skipped_bytes, left as u64);
    }

    #[test]
    fn pieces_out_of_order_and_repeated_are_put_right(
        sizes in proptest::collection::vec(1..300usize, 1..40),
        swaps in proptest::collection::vec(1..200usize, 0..20),
        start: u32,
    ) {
        let messages = messages(1, 10);
        let stream = stream_of(&messages);
        let mut pieces = pieces(&stream, &sizes);
        for at in swaps {
            if at + 1 < pieces.len() {
                pieces.swap(at, at + 1);
                pieces.push(pieces[at]);
            }
        }
        let mut tap = Tap::new(&[]);
        for (at, piece) in pieces {
            tap.piece(SOCKET, sequence(start, at), piece);
        }
        prop_assert_eq!(tap.of(SOCKET), messages);
    }

    #[test]
    fn damage_neither_panics_nor_breaks_the_books(
        sizes in sizes(),
        damage in proptest::collection::vec((0..20_000usize, any::<u8>()), 0..40),
        jumps in proptest::collection::vec((0..200usize, any::<u32>()), 0..4),
        dns_port: bool,
    ) {
        let mut stream = stream_of(&messages(2, 20));
        let length = stream.len();
        for (at, byte) in damage {
            stream[at % length] = byte;
        }
        let mut tap = Tap::new(&[]);
        tap.dns_port = dns_port;
        for (number, (at, piece)) in pieces(&stream, &sizes).into_iter().enumerate() {
            let jump = jumps.iter().find(|(which, _)| *which == number).map_or(0, |(_, jump)| *jump);
            tap.piece(SOCKET, sequence(5, at).wrapping_add(jump), piece);
        }
        tap.finish();
    }
}

#[test]
fn loss_within_a_message_costs_only_that_message() {
    let messages = messages(4, 5);
    let stream = stream_of(&messages);
    assert!(messages[0].len() > 10_000);
    let mut tap = Tap::new(&[]);
    // 100 bytes are missing in the middle of the first message, whose length is known.
    tap.piece(SOCKET, 0, &stream[..50]);
    tap.piece(SOCKET, 150, &stream[150..]);
    assert!(
        tap.out.is_empty(),
        "held back while the missing piece may still come"
    );
    tap.tick(tap.now + HOLD_NS + 1);
    assert_eq!(tap.of(SOCKET), messages[1..]);
    let counters = tap.streams.counters();
    assert_eq!(
        (
            counters.stream_gaps,
            counters.stream_missing_bytes,
            counters.stream_searches
        ),
        (1, 100, 0)
    );
}

#[test]
fn attach_midway_at_a_boundary_loses_nothing() {
    let messages = messages(0, 6);
    let mut tap = Tap::new(&[SOCKET]);
    for (at, piece) in pieces(&stream_of(&messages), &[3_000]) {
        tap.piece(SOCKET, sequence(77, at), piece);
    }
    assert_eq!(tap.of(SOCKET), messages);
    assert_eq!(tap.streams.counters().stream_joined_midway, 1);
}

#[test]
fn attach_in_the_middle_of_a_message_finds_the_next() {
    let messages = messages(4, 8);
    let stream = stream_of(&messages);
    for cut in [1, 2, 3, 13, 40, 500] {
        let mut tap = Tap::new(&[SOCKET]);
        for (at, piece) in pieces(&stream[cut..], &[700]) {
            tap.piece(SOCKET, sequence(0, at), piece);
        }
        tap.finish();
        assert_eq!(tap.of(SOCKET), messages[1..], "cut at {cut}");
        assert_eq!(tap.streams.counters().stream_resyncs, 1);
    }
}

#[test]
fn message_inside_a_message_is_not_taken_for_one_after_a_loss_inside() {
    // The text of the first answer is itself a length and a query.
    let inner = framed(&message(0xbeef, 0x0100, "inner", 0));
    let mut outer = message(1, 0x8180, "outer", 2);
    let at = outer.len() - 99;
    outer[at..at + inner.len()].copy_from_slice(&inner);
    let messages = [outer, message(2, 0x8180, "next", 1)];
    let stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..30]);
    tap.piece(SOCKET, 60, &stream[60..]);
    tap.tick(tap.now + HOLD_NS + 1);
    assert_eq!(tap.of(SOCKET), messages[1..]);
}

#[test]
fn message_inside_a_message_is_not_taken_for_one_by_the_search() {
    // The text behind the inner message cannot be a length.
    let inner = framed(&message(0xbeef, 0x0100, "inner", 0));
    let mut outer = message(1, 0x8180, "outer", 2);
    let at = outer.len() - 99;
    outer[at..at + inner.len()].copy_from_slice(&inner);
    let messages = [outer, message(2, 0x8180, "next", 1)];
    let mut tap = Tap::new(&[SOCKET]);
    tap.piece(SOCKET, 0, &stream_of(&messages)[60..]);
    tap.finish();
    assert_eq!(tap.of(SOCKET), messages[1..]);
}

#[test]
fn message_that_only_starts_well_is_not_trusted_midway() {
    let mut wrong = message(9, 0x0100, "wrong", 0);
    wrong.push(0);
    let messages = messages(0, 4);
    let stream = [framed(&wrong), stream_of(&messages)].concat();
    let mut tap = Tap::new(&[SOCKET]);
    for (at, piece) in pieces(&stream, &[14, 1_000]) {
        tap.piece(SOCKET, sequence(0, at), piece);
    }
    tap.finish();
    assert_eq!(tap.of(SOCKET), messages);
    assert_eq!(
        (
            tap.streams.counters().stream_searches,
            tap.streams.counters().stream_resyncs
        ),
        (1, 1)
    );
}

#[test]
fn other_protocols_are_condemned_by_what_the_process_answers() {
    let cases: [(&[u8], &[u8], bool); 6] = [
        (
            b"\x00\x00\x00\xc5\x00\x00\x00\x01\x05_auth\x02\x00\x00\x00\x00",
            b"\x00\x00\x00\xc5\x00\x00\x00\x01\x05_auth",
            false,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            false,
        ),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64",
            false,
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xaa\xbb\xcc\xdd\xee",
            b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03\xaa\xbb\xcc\xdd",
            true,
        ),
        (
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
            false,
        ),
        (b"what is this", b"I do not know that", false),
    ];
    for (bytes, answer, encrypted) in cases {
        for cut in [1, 4, 100] {
            let mut tap = Tap::new(&[]);
            for (at, piece) in pieces(bytes, &[cut]) {
                tap.piece(SOCKET, sequence(0, at), piece);
            }
            assert_eq!(tap.condemned(), [0; 0], "by what a peer says");
            for (at, piece) in pieces(answer, &[cut]) {
                tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
            }
            tap.piece(SOCKET, sequence(0, bytes.len()), b"more");
            assert_eq!(tap.condemned(), [SOCKET]);
            let counters = tap.streams.counters();
            let total = (bytes.len() + answer.len() + 4) as u64;
            let expected = if encrypted { (0, total) } else { (total, 0) };
            assert_eq!(
                (
                    counters.stream_not_dns_bytes,
                    counters.stream_encrypted_bytes
                ),
                expected
            );
            assert_eq!(counters.stream_connections_with_loss, 0);
        }
    }
}

/// Answer of a server that cannot read a question.
const REFUSAL: [u8; 12] = [0, 9, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];

/// A query of 5,635 bytes whose id makes it begin like a TLS record, and a query behind an empty
/// message that begins like a control channel. Neither fits, because a bit is set that servers
/// ignore.
#[test]
fn no_client_of_a_dns_port_hides_what_it_asks_next() {
    let mut padded = message(0x0101, 0x0180, "padded", 0);
    padded.resize(0x1603, 0);
    let odd = message(0, 0x0001, "odd", 0);
    let next = message(2, 0x0100, "next", 0);
    for (first, second) in [(padded, vec![]), (vec![], odd)] {
        let messages = [first, second, next.clone()];
        for cut in [1, 7, 9_000] {
            let mut tap = Tap::new(&[]);
            tap.dns_port = true;
            for (at, piece) in pieces(&stream_of(&messages), &[cut]) {
                tap.piece(SOCKET, sequence(0, at), piece);
            }
            tap.directed(Direction::Sent, SOCKET, 0, &framed(&REFUSAL));
            let all = messages.iter().filter(|message| !message.is_empty());
            let out = tap.of(SOCKET);
            let (answer, asked) = out.split_last().unwrap();
            assert!(asked.iter().eq(all), "in pieces of {cut}");
            assert_eq!(*answer, &REFUSAL[..]);
            assert!(tap.condemned().is_empty());
        }
    }
}

#[test]
fn what_the_process_sends_on_a_dns_port_may_be_another_protocol() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xaa\xbb\xcc\xdd\xee";
    let answers: [(&[u8], &[u8]); 2] = [
        (
            hello,
            b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03\xaa\xbb\xcc\xdd\xee",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ),
    ];
    for (asked, answered) in answers {
        let mut tap = Tap::new(&[]);
        tap.dns_port = true;
        tap.piece(SOCKET, 0, asked);
        assert!(tap.condemned().is_empty());
        tap.directed(Direction::Sent, SOCKET, 0, answered);
        assert_eq!(tap.condemned(), [SOCKET]);
        let counters = tap.streams.counters();
        assert_eq!(
            counters.stream_not_dns_bytes + counters.stream_encrypted_bytes,
            (asked.len() + answered.len()) as u64
        );
        assert_eq!(tap.of(SOCKET), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn malformed_messages_on_a_dns_connection_are_delivered() {
    let messages = [
        message(1, 0x0100, "good", 0),
        vec![0xff; 20],
        vec![1, 2, 3],
        message(2, 0x0100, "good", 0),
    ];
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream_of(&messages));
    assert_eq!(tap.of(SOCKET), messages);

    let mut tap = Tap::new(&[]);
    tap.dns_port = true;
    for (at, piece) in pieces(&stream_of(&messages[1..3]), &[1]) {
        tap.piece(SOCKET, sequence(0, at), piece);
    }
    assert_eq!(
        tap.of(SOCKET),
        messages[1..3],
        "also as the first ones, on a port known for DNS"
    );
}

#[test]
fn lengths_of_zero_carry_no_message() {
    let mut tap = Tap::new(&[]);
    tap.dns_port = true;
    tap.piece(SOCKET, 0, &[0; 9]);
    tap.piece(SOCKET, 9, &[0]);
    tap.piece(SOCKET, 10, &framed(&message(1, 0x0100, "good", 0)));
    assert_eq!(
        (tap.out.len(), tap.streams.counters().stream_empty_messages),
        (1, 5)
    );
}

#[test]
fn connections_and_their_memory_are_bounded() {
    let limits = StreamLimits {
        connections: 100,
        bytes: 200_000,
        idle_ns: u64::MAX,
    };
    let mut tap = Tap::with(limits, &[]);
    let large = framed(&message(1, 0x8180, "large", 500));
    for socket in 0..1_000 {
        tap.piece(socket, 0, &large[..20_000]);
        assert!(tap.streams.memory <= 200_000 && tap.streams.connections.len() <= 100);
    }
    assert!(tap.streams.counters().stream_evicted > 900);
    assert!(tap.streams.pool.spare() <= 32);
}

#[test]
fn forgotten_connection_is_joined_midway() {
    let messages = messages(4, 8);
    let stream = stream_of(&messages);
    let mut tap = Tap::with(
        StreamLimits {
            idle_ns: 1_000_000,
            ..StreamLimits::default()
        },
        &[],
    );
    tap.piece(SOCKET, 0, &stream[..100]);
    tap.tick(tap.now + 1_000_001);
    assert_eq!(tap.streams.counters().stream_expired, 1);
    tap.piece(SOCKET, 100, &stream[100..]);
    tap.finish();
    assert_eq!(tap.of(SOCKET), messages[1..]);
}

#[test]
fn ended_connection_is_forgotten_with_its_memory() {
    let stream = stream_of(&messages(4, 8));
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..100]);
    // Comes before its turn; it is delivered as far as possible.
    tap.piece(SOCKET, 200, &stream[200..300]);
    assert!(tap.streams.pending_bytes() > 0);
    for _ in 0..2 {
        tap.end(SOCKET);
        tap.tick(tap.now + 2 * ENDED_NS);
        let counters = tap.streams.counters();
        assert_eq!((counters.stream_ended, counters.stream_evicted), (1, 0));
        assert_eq!((tap.streams.pending_bytes(), tap.streams.memory), (0, 0));
        assert_eq!(tap.streams.connections.len(), 0);
    }
}

#[test]
fn what_had_arrived_before_the_end_may_still_be_read_for_a_while() {
    let messages = messages(4, 8);
    let stream = stream_of(&messages);
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..100]);
    tap.end(SOCKET);
    for (at, piece) in pieces(&stream[100..], &[100]) {
        tap.now += ENDED_NS / 2;
        tap.tick(tap.now);
        tap.piece(SOCKET, sequence(100, at), piece);
    }
    assert_eq!(tap.of(SOCKET), messages);
    tap.tick(tap.now + 2 * ENDED_NS);
    assert_eq!(tap.streams.counters().stream_ended, 1);
}

#[test]
fn rest_of_a_message_that_comes_after_all_is_not_taken_for_a_beginning() {
    let messages = messages(4, 8);
    let stream = stream_of(&messages);
    for (end, midway) in [(2 + messages[0].len(), 0), (100, 1)] {
        let mut tap = Tap::new(&[]);
        tap.piece(SOCKET, 0, &stream[..end]);
        let before = tap.out.len();
        tap.end(SOCKET);
        tap.tick(tap.now + 2 * ENDED_NS);
        tap.piece(SOCKET, sequence(0, end), &stream[end..]);
        assert_eq!(tap.streams.counters().stream_joined_midway, midway);
        tap.finish();
        let lost = usize::try_from(midway).unwrap();
        assert_eq!(tap.of(SOCKET)[before..], messages[before + lost..]);
    }
}

#[test]
fn socket_that_was_connected_anew_is_not_forgotten() {
    let stream = stream_of(&messages(4, 8));
    let mut tap = Tap::new(&[]);
    tap.piece(SOCKET, 0, &stream[..100]);
    tap.end(SOCKET);
    tap.peer_port += 1;
    tap.piece(SOCKET, 7_000, &stream[..100]);
    tap.tick(tap.now + 2 * ENDED_NS);
    let counters = tap.streams.counters();
    assert_eq!(
        (counters.stream_ended, tap.streams.connections.len()),
        (0, 1)
    );
}

#[test]
fn ends_that_wait_are_no_more_than_connections() {
    let limits = StreamLimits {
        connections: 10,
        ..StreamLimits::default()
    };
    let stream = stream_of(&messages(4, 1));
    let mut tap = Tap::with(limits, &[]);
    for socket in 0..100 {
        tap.piece(socket, 0, &stream[..9]);
        tap.end(socket);
        assert!(tap.streams.ended.len() <= 10);
    }
    tap.tick(tap.now + 2 * ENDED_NS);
    assert!(tap.streams.ended.is_empty());
    assert_eq!(tap.streams.connections.len(), 0);
}

#[test]
fn idle_streams_keep_no_buffers() {
    let mut tap = Tap::new(&[]);
    let stream = stream_of(&messages(4, 3));
    for socket in 0..500 {
        for (at, piece) in pieces(&stream, &[1_000]) {
            tap.piece(socket, sequence(0, at), piece);
        }
    }
    assert_eq!((tap.out.len(), tap.streams.memory), (1_500, 0));
}

#[test]
fn stream_that_never_shows_dns_is_given_up_after_a_while() {
    let mut tap = Tap::new(&[SOCKET]);
    let noise: Vec<u8> = (0..30_000u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1] | 0x80)
        .collect();
    let mut at = 0;
    while tap.condemned().is_empty() {
        tap.directed(Direction::Sent, SOCKET, sequence(0, at), &noise);
        at += noise.len();
        assert!(at < 1 << 20);
    }
    assert!(tap.out.is_empty());
}
