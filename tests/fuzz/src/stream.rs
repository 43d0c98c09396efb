//! TCP streams: the messages that are cut out of them are the messages that were put in.
//!
//! The input is a byte that selects one of four tests, then the test's input:
//!
//! - *whole*: messages of any content (the first of each direction is DNS) on three connections, both directions, cut
//!   into pieces anywhere and interleaved. Some received pieces arrive twice or too early. Exactly the messages come
//!   out;
//! - *torn*: the same, with messages that contain nothing that looks like another message. Pieces are missing, some
//!   sent pieces arrive too early, too, and connections are joined midway. Some of the messages come out, each once;
//!   received ones in order;
//! - *writers*: threads send whole messages at the same time, so that their positions are too high: each comes out
//!   once;
//! - *wild*: any bytes at any sequence number.
//!
//! In all of them every byte is accounted for and the memory is bounded.

use std::collections::VecDeque;

use dnstap_core::{
    model::Envelope,
    reassemble::tcp::{Proxies, StreamLimits, Streams},
    record::{Record, fixture},
};
use dnstap_ebpf::{IPPROTO_TCP, RecordKind};

use crate::{
    input::{Input, bit},
    laws,
};

/// Number of connections.
const SOCKETS: usize = 3;
/// Pieces and bytes that may overtake a piece, twice, or arrive late with it: half of what the stage holds back for it.
const AHEAD_PIECES: usize = 16;
const AHEAD_BYTES: usize = 64 << 10;
/// Bytes that the streams may hold in these tests, and bytes that one connection may hold in addition.
const BYTES: usize = 1 << 20;
const ONE_CONNECTION: u64 = 2 * (2 * 128 * 1024 + 65_537 + 1_048_704);

/// Runs the target.
///
/// # Panics
///
/// If a check fails.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => whole(&mut input),
        1 => torn(&mut input),
        2 => writers(&mut input),
        _ => wild(&mut input),
    }
}

fn whole(input: &mut Input<'_>) {
    let lines = lines(input, |first, input| {
        if first {
            dns(input)
        } else {
            input.string().to_vec()
        }
    });
    let mut stage = Stage::new(Vec::new());
    stage.play(&lines, input, false);
    for (number, line) in lines.iter().enumerate() {
        let sent: Vec<_> = line.messages.iter().filter(|m| !m.is_empty()).collect();
        assert_eq!(stage.out[number].iter().collect::<Vec<_>>(), sent);
    }
    let counters = stage.streams.counters();
    assert_eq!(
        (counters.stream_framed_bytes, counters.stream_gaps),
        (lines.iter().map(|line| line.bytes.len() as u64).sum(), 0)
    );
}

fn torn(input: &mut Input<'_>) {
    let existing = if bit(input.byte(), 0) {
        vec![0]
    } else {
        Vec::new()
    };
    let lines = lines(input, |_, input| dns(input));
    let mut stage = Stage::new(existing);
    stage.play(&lines, input, true);
    for (number, line) in lines.iter().enumerate() {
        let mut all: Vec<_> = line.messages.iter().collect();
        let mut from = 0;
        for message in &stage.out[number] {
            let place = all[from..].iter().position(|one| *one == message);
            let Some(place) = place else {
                panic!(
                    "not one of those, or out of order: {}",
                    message.escape_ascii()
                );
            };
            all.remove(from + place);
            // Whole messages that were sent are not held back for their turn.
            if number % 2 == 0 {
                from += place;
            }
        }
    }
}

/// Tests sends of several threads: each call is reported up to three calls later, with the position that the stream has
/// reached by then.
fn writers(input: &mut Input<'_>) {
    let messages: Vec<_> = (0..input.byte()).map(|_| dns(input)).collect();
    let mut end = 0;
    let ends: Vec<_> = messages
        .iter()
        .map(|message| {
            end += 2 + message.len();
            end
        })
        .collect();
    let mut told: Vec<_> = (0..messages.len())
        .map(|number| {
            let choice = usize::from(input.byte());
            let when = (number + choice % 4).min(messages.len() - 1);
            (when, choice / 4 % 4, number)
        })
        .collect();
    told.sort_unstable();
    let mut stage = Stage::new(Vec::new());
    for (when, _, number) in told {
        let bytes = framed(&messages[number]);
        let place = u32::try_from(ends[when] - bytes.len()).unwrap_or_default();
        stage.push(1, place, 0, &bytes, true);
    }
    let mut out = stage.out[1].clone();
    let mut sent = messages;
    out.sort_unstable();
    sent.sort_unstable();
    assert_eq!(out, sent);
    stage.finish();
    assert_eq!(stage.streams.counters().stream_connections_with_loss, 0);
}

fn wild(input: &mut Input<'_>) {
    let mut stage = Stage::new(vec![1]);
    while !input.is_empty() {
        let shape = input.byte();
        let sequence = u32::from(input.word()) << (shape >> 4 & 7);
        stage.now += u64::from(input.byte()) << 20;
        let payload = input.string();
        stage.push(
            usize::from(shape & 7) % (2 * SOCKETS),
            sequence,
            u32::from(shape >> 7),
            payload,
            bit(shape, 3),
        );
        if bit(shape, 6) {
            stage.tick();
        }
    }
    stage.finish();
}

/// One direction of a connection: 2 * socket + direction is its number.
struct Line {
    messages: Vec<Vec<u8>>,
    /// The messages with their lengths before them.
    bytes: Vec<u8>,
    start: u32,
}

/// Makes the lines, each with a few messages.
fn lines(
    input: &mut Input<'_>,
    mut message: impl FnMut(bool, &mut Input<'_>) -> Vec<u8>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for _ in 0..2 * SOCKETS {
        let start = u32::from(input.word()) << 16;
        let messages: Vec<_> = (0..input.byte() & 7)
            .map(|number| message(number == 0, input))
            .collect();
        let bytes = messages
            .iter()
            .flat_map(|message| framed(message))
            .collect();
        lines.push(Line {
            messages,
            bytes,
            start,
        });
    }
    lines
}

/// Makes a message that contains nothing that looks like a message: bytes at the places of a length, or of the flags
/// behind it, do not fit.
fn dns(input: &mut Input<'_>) -> Vec<u8> {
    let (flags, name, answers) = (input.byte(), input.byte() & 63, input.byte() & 7);
    let response = bit(flags, 7);
    let mut message = input.word().to_be_bytes().to_vec();
    message.extend([flags & 0x87, if response { flags & 0x0f } else { 0 }]);
    if response && flags & 0x0f > 10 {
        message[3] = 0;
    }
    message.extend([0, 1, 0, if response { answers } else { 0 }, 0, 0, 0, 0]);
    message.push(name.max(1));
    message.resize(message.len() + usize::from(name.max(1)), b'x');
    message.extend([0, 0, 16, 0, 1]);
    for _ in 0..if response { answers } else { 0 } {
        message.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, 100, 99]);
        message.resize(message.len() + 99, 0xff);
    }
    message
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or_default();
    [&length.to_be_bytes(), message].concat()
}

/// The stage, and the output of each line.
struct Stage {
    streams: Streams,
    out: Vec<Vec<Vec<u8>>>,
    received: u64,
    now: u64,
}

impl Stage {
    fn new(existing: Vec<u64>) -> Self {
        let limits = StreamLimits {
            connections: SOCKETS,
            bytes: BYTES,
            ..StreamLimits::default()
        };
        Self {
            streams: Streams::new(limits, existing, Proxies::default()),
            out: vec![Vec::new(); 2 * SOCKETS],
            received: 0,
            now: 1,
        }
    }

    /// Plays all lines to their ends. The input tells which line continues, with how many bytes, and what goes wrong.
    fn play(&mut self, lines: &[Line], input: &mut Input<'_>, losing: bool) {
        let mut at = vec![0; lines.len()];
        // Pieces that arrive after those behind them.
        let mut late: VecDeque<(usize, usize, usize)> = VecDeque::new();
        let (mut ahead, mut ahead_bytes) = (0, 0);
        let mut lost = [0; SOCKETS];
        while (0..lines.len()).any(|line| at[line] < lines[line].bytes.len()) {
            let choice = input.byte();
            let mut number = usize::from(choice >> 4) % lines.len();
            while at[number] >= lines[number].bytes.len() {
                number = (number + 1) % lines.len();
            }
            let start = at[number];
            // At the end of the input, the rest of the line is one piece.
            let length = match choice & 3 {
                0 => usize::MAX,
                1 => 1,
                2 => usize::from(input.byte()).max(1),
                _ => usize::from(input.word()).max(1),
            };
            let end = start.saturating_add(length).min(lines[number].bytes.len());
            at[number] = end;
            // Sent bytes are reported once. Out of order, a part of them could be whole messages by itself.
            let in_turn = start == 0 || number % 2 == 1 && !losing;
            match choice >> 2 & 3 {
                1 if losing => {
                    lost[number / 2] += 1;
                    continue;
                }
                2 if !in_turn => late.push_back((number, start, end)),
                twice => {
                    for _ in 0..if twice == 3 && number.is_multiple_of(2) {
                        2
                    } else {
                        1
                    } {
                        self.piece(lines, number, (start, end), lost[number / 2]);
                    }
                }
            }
            // Late pieces overtake each other, too.
            ahead += 2;
            ahead_bytes += 2 * (end - start);
            if bit(choice, 3) || ahead >= AHEAD_PIECES || ahead_bytes >= AHEAD_BYTES {
                (ahead, ahead_bytes) = (0, 0);
                while let Some((number, start, end)) = late.pop_back() {
                    self.piece(lines, number, (start, end), lost[number / 2]);
                }
            }
            if losing && choice == 0xff {
                self.now += 1 << 28;
                self.tick();
            }
        }
        while let Some((number, start, end)) = late.pop_front() {
            self.piece(lines, number, (start, end), lost[number / 2]);
        }
        self.finish();
    }

    fn piece(&mut self, lines: &[Line], number: usize, (start, end): (usize, usize), lost: u32) {
        let line = &lines[number];
        let offset = u32::try_from(start).unwrap_or_default();
        let sequence = line.start.wrapping_add(offset);
        self.push(number, sequence, lost, &line.bytes[start..end], true);
    }

    fn push(&mut self, number: usize, sequence: u32, lost: u32, payload: &[u8], dns_port: bool) {
        let (socket, direction) = (number / 2, number % 2);
        let mut header = fixture::header();
        header.protocol = IPPROTO_TCP;
        header.socket = socket as u64;
        header.direction = u8::from(direction == 1);
        header.tcp_seq = sequence;
        header.lost = lost;
        header.ktime_ns = self.now;
        if payload.is_empty() {
            header.kind = RecordKind::ConnectionEnd as u8;
        }
        let record = fixture::whole(header, payload);
        self.received += payload.len() as u64;
        let out = &mut self.out;
        let mut emit = |envelope: &Envelope, message: &[u8]| note(out, envelope, message);
        match Record::parse(&record).expect("a sound record") {
            Record::Chunk(chunk) => self.streams.push(&chunk, dns_port, &mut emit),
            Record::ConnectionEnd(end) => self.streams.end(&end, &mut emit),
            other => panic!("of another kind: {other:?}"),
        }
        self.check();
    }

    fn tick(&mut self) {
        let out = &mut self.out;
        self.streams.tick(self.now, &mut |envelope, message| {
            note(out, envelope, message);
        });
        self.check();
    }

    fn finish(&mut self) {
        let out = &mut self.out;
        self.streams
            .finish(&mut |envelope, message| note(out, envelope, message));
        self.check();
        assert_eq!(self.streams.pending_bytes(), 0);
    }

    fn check(&self) {
        let pending = self.streams.pending_bytes();
        laws::stream_bytes(self.received, self.streams.counters(), pending);
        assert!(pending <= BYTES as u64 + ONE_CONNECTION);
    }
}

fn note(out: &mut [Vec<Vec<u8>>], envelope: &Envelope, message: &[u8]) {
    let socket = usize::try_from(envelope.socket).unwrap_or_default();
    out[2 * socket + envelope.direction as usize].push(message.to_vec());
}
