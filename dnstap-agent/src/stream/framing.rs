//! One direction of one TCP connection: bytes with sequence numbers in, whole DNS messages out.
//!
//! RFC 7766 section 8: each message is preceded by its length in two bytes. Reads and writes may split the stream
//! anywhere. As long as no byte is missing the framing is certain; after a loss it is found again, from the length that
//! the cut message had announced if the loss lies within it, else by search.
//!
//! ```text
//!             judged by its first bytes
//!  Opening ──┬─ fits, or DNS is expected ───────────► Framed ◄─── CONFIRMATIONS messages ──┐
//!  (new)     └─ does not fit ─► foreign                 │                                  │
//!                                            loss past the message's end                   │
//!                                                       ▼                                  │
//!  Opening ──┬─ fits ───────────────────────────────────┼────────────────────────────► Trial
//!  (midway)  └─ does not fit ─► Searching ◄─────────────┼──── a message that does not fit ─┤▲
//!                                   │                   │                                  ││
//!                                   └── a whole message that fits, and what follows it ────┼┘
//!                                                  Opening (midway) ◄── loss ──────────────┘
//! ```
//!
//! In `Trial` and `Searching` only messages that [`fit`] to the last byte leave; what does not is skipped and counted.

use crate::{
    event::Envelope,
    stream::{
        StreamCounters,
        wire::{Fit, PREFIX, fit},
    },
};

/// Largest length and message.
const LARGEST: usize = 2 + 65_535;

/// Messages that must fit after a search before the framing counts as certain.
const CONFIRMATIONS: u8 = 4;

/// Bytes searched in vain after which a stream that never showed DNS is given up: four of the largest messages.
const GIVE_UP: usize = 4 * LARGEST;

/// Pieces and bytes that arrived ahead of their turn and wait for those before them.
const HELD_PIECES: usize = 32;
const HELD_BYTES: usize = 128 * 1024;

/// Nanoseconds of kernel time for which they wait. Pieces overtake each other only as long as the reader takes to visit
/// all rings, which is milliseconds.
pub(super) const HOLD_NS: u64 = 200_000_000;

/// A jump of the sequence number further than this is not a matter of order.
const FAR: u32 = 1 << 24;

/// What a stream carries if not DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Something else in the clear: control channel, HTTP.
    NotDns,
    /// TLS records.
    Encrypted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening { midway: bool },
    Framed,
    Trial(u8),
    Searching,
}

/// The buffers of streams that have none in use.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Vec<u8>>);

impl Pool {
    const SPARE: usize = 32;

    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn spare(&self) -> usize {
        self.0.len()
    }

    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < Self::SPARE && buffer.capacity() != 0 {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// What a stream needs of the world while it works.
pub(super) struct Work<'w, F> {
    /// Of the piece at hand.
    pub(super) envelope: Envelope,
    /// DNS was seen on this connection.
    pub(super) dns_seen: bool,
    /// The connection's port is known for DNS.
    pub(super) dns_port: bool,
    pub(super) counters: &'w mut StreamCounters,
    pub(super) pool: &'w mut Pool,
    pub(super) emit: &'w mut F,
}

impl<F: FnMut(&Envelope, &[u8])> Work<'_, F> {
    fn expects_dns(&self) -> bool {
        self.dns_seen || self.dns_port
    }

    fn message(&mut self, framed: &[u8]) {
        self.body(&framed[2..]);
    }

    fn body(&mut self, message: &[u8]) {
        self.counters.stream_framed_bytes += 2 + message.len() as u64;
        if message.is_empty() {
            self.counters.stream_empty_messages += 1;
        } else {
            self.counters.stream_messages += 1;
            self.dns_seen = true;
            (self.emit)(&self.envelope, message);
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.counters.stream_skipped_bytes += bytes as u64;
    }
}

/// A piece that waits for those before it.
#[derive(Debug)]
struct Held {
    sequence: u32,
    envelope: Envelope,
    bytes: Vec<u8>,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    state: State,
    started: bool,
    /// Sequence number of the next byte.
    next: u32,
    /// Bytes still to come of a message that lost some.
    skip: usize,
    /// Bytes searched in vain since the framing was lost.
    searched: usize,
    /// While searching: bytes in the buffer at which looking again is worth while.
    look_at: usize,
    /// Start of a message, from its length on; while searching, what may be one.
    buffer: Vec<u8>,
    held: Vec<Held>,
}

/// The stream turned out not to be DNS; the rest was not looked at.
type Halt<'p> = (Foreign, &'p [u8]);

impl Stream {
    /// A stream of which nothing was seen. `midway`: earlier bytes may have passed unseen.
    pub(super) fn new(midway: bool) -> Self {
        Self {
            state: State::Opening { midway },
            started: false,
            next: 0,
            skip: 0,
            searched: 0,
            look_at: 0,
            buffer: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Tells a stream that has not begun that bytes were lost before.
    pub(super) fn join_midway(&mut self) {
        if !self.started {
            self.state = State::Opening { midway: true };
        }
    }

    /// Takes a piece. After `Err` the stream is to be abandoned with [`Self::abandon`].
    pub(super) fn push<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        sequence: u32,
        payload: &[u8],
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        if !self.started {
            self.started = true;
            self.next = sequence;
        }
        let now = work.envelope.ktime_ns;
        let ahead = sequence.wrapping_sub(self.next).cast_signed();
        if ahead > 0 && ahead.unsigned_abs() < FAR {
            self.hold(sequence, payload, work);
            return self.release(now, work);
        }
        if ahead.unsigned_abs() >= FAR {
            self.release(u64::MAX, work)?;
            work.counters.stream_gaps += 1;
            self.lose(usize::MAX, work);
            self.next = sequence;
        }
        self.take(sequence, payload, work)?;
        self.catch_up(work)?;
        self.release(now, work)
    }

    /// Goes on without what is missing once the pieces behind it have waited long enough at kernel time `now`.
    pub(super) fn release<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        now: u64,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        while let Some(first) = self.held.first() {
            let bytes: usize = self.held.iter().map(|held| held.bytes.len()).sum();
            let overdue = self
                .held
                .iter()
                .any(|held| held.envelope.ktime_ns.saturating_add(HOLD_NS) < now);
            if !overdue && self.held.len() <= HELD_PIECES && bytes <= HELD_BYTES {
                break;
            }
            let missing = first.sequence.wrapping_sub(self.next);
            work.counters.stream_gaps += 1;
            work.counters.stream_missing_bytes += u64::from(missing);
            self.next = first.sequence;
            self.lose(missing as usize, work);
            self.catch_up(work)?;
        }
        Ok(())
    }

    /// Envelope of the first piece that waits for earlier ones.
    pub(super) fn held_envelope(&self) -> Option<Envelope> {
        self.held.first().map(|held| held.envelope)
    }

    /// Whether pieces wait for earlier ones.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes taken and not yet accounted for.
    pub(super) fn pending_bytes(&self) -> usize {
        self.buffer.len() + self.held.iter().map(|held| held.bytes.len()).sum::<usize>()
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        self.buffer.capacity()
            + self
                .held
                .iter()
                .map(|held| held.bytes.capacity())
                .sum::<usize>()
    }

    /// Gives up the buffers; the number of bytes that they held.
    pub(super) fn abandon(&mut self, pool: &mut Pool) -> usize {
        let bytes = self.pending_bytes();
        pool.give(std::mem::take(&mut self.buffer));
        for held in self.held.drain(..) {
            pool.give(held.bytes);
        }
        bytes
    }

    fn hold<F>(&mut self, sequence: u32, payload: &[u8], work: &mut Work<'_, F>) {
        work.counters.stream_held_pieces += 1;
        let mut bytes = work.pool.take();
        bytes.extend_from_slice(payload);
        let distance = |sequence: u32| sequence.wrapping_sub(self.next);
        let at = self
            .held
            .partition_point(|held| distance(held.sequence) <= distance(sequence));
        self.held.insert(
            at,
            Held {
                sequence,
                envelope: work.envelope,
                bytes,
            },
        );
    }

    /// Takes the held pieces whose turn it is.
    fn catch_up<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        while self
            .held
            .first()
            .is_some_and(|held| held.sequence.wrapping_sub(self.next).cast_signed() <= 0)
        {
            let held = self.held.remove(0);
            let envelope = std::mem::replace(&mut work.envelope, held.envelope);
            let taken = self.take(held.sequence, &held.bytes, work);
            work.envelope = envelope;
            work.pool.give(held.bytes);
            taken?;
        }
        Ok(())
    }

    /// Takes a piece that starts at or before the next byte.
    fn take<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        sequence: u32,
        payload: &[u8],
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        let stale = (self.next.wrapping_sub(sequence) as usize).min(payload.len());
        work.counters.stream_duplicate_bytes += stale as u64;
        let piece = &payload[stale..];
        // A piece is at most 1 MiB.
        self.next = self
            .next
            .wrapping_add(u32::try_from(piece.len()).unwrap_or(0));
        self.accept(piece, work)
    }

    /// The next `missing` bytes will never come.
    fn lose<F: FnMut(&Envelope, &[u8])>(&mut self, missing: usize, work: &mut Work<'_, F>) {
        let certain = matches!(self.state, State::Framed | State::Trial(_));
        let rest = match length(&self.buffer) {
            Some(total) if certain => total - self.buffer.len(),
            _ => self.skip,
        };
        if !self.buffer.is_empty() || self.skip > 0 {
            work.skip(self.buffer.len());
            work.pool.give(std::mem::take(&mut self.buffer));
        }
        if rest > 0 && missing <= rest {
            self.skip = rest - missing;
        } else {
            self.skip = 0;
            self.searched = 0;
            self.state = State::Opening { midway: true };
        }
    }

    /// Takes the next bytes of the stream.
    fn accept<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        mut piece: &[u8],
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        loop {
            let skipped = self.skip.min(piece.len());
            work.skip(skipped);
            self.skip -= skipped;
            piece = &piece[skipped..];
            if piece.is_empty() {
                return Ok(());
            }
            let step = match self.state {
                State::Opening { midway } => self.open(piece, midway, work),
                State::Framed | State::Trial(_) => Ok(self.cut(piece, work)),
                State::Searching => self.search(piece, work),
            };
            match step {
                Ok(rest) => piece = rest,
                Err((foreign, rest)) => {
                    work.counters.foreign(foreign, rest.len());
                    return Err(foreign);
                }
            }
        }
    }

    /// Judges the first bytes. Leaves them where they are: in the piece, or in the buffer.
    fn open<'p, F: FnMut(&Envelope, &[u8])>(
        &mut self,
        mut piece: &'p [u8],
        midway: bool,
        work: &mut Work<'_, F>,
    ) -> Result<&'p [u8], Halt<'p>> {
        if !self.buffer.is_empty() || piece.len() < judged_by(piece) {
            while self.buffer.len() < judged_by(&self.buffer) {
                if piece.is_empty() {
                    return Ok(piece);
                }
                piece = self.buffer_up_to(judged_by(&self.buffer), piece, work.pool);
            }
        }
        let view = if self.buffer.is_empty() {
            piece
        } else {
            &self.buffer
        };
        let fits = fit(view) != Fit::Not;
        self.state = if fits && midway {
            State::Trial(0)
        } else if fits {
            State::Framed
        } else if let Some(foreign) = foreign(view).filter(|_| !work.dns_seen) {
            return Err((foreign, piece));
        } else if midway {
            work.counters.stream_searches += 1;
            self.look_at = 0;
            State::Searching
        } else if work.expects_dns() {
            State::Framed
        } else {
            return Err((Foreign::NotDns, piece));
        };
        if length(&self.buffer) == Some(self.buffer.len()) && self.state == State::Framed {
            let whole = std::mem::take(&mut self.buffer);
            work.message(&whole);
            work.pool.give(whole);
        }
        Ok(piece)
    }

    /// Cuts messages off; buffers the start of the one that is not whole.
    fn cut<'p, F: FnMut(&Envelope, &[u8])>(
        &mut self,
        mut piece: &'p [u8],
        work: &mut Work<'_, F>,
    ) -> &'p [u8] {
        if !self.buffer.is_empty() {
            if self.buffer.len() < 2 {
                piece = self.buffer_up_to(2, piece, work.pool);
            }
            let Some(total) = length(&self.buffer) else {
                return piece;
            };
            // Servers read the length by itself and then the message: no need to copy that.
            if self.buffer.len() == 2 && piece.len() >= total - 2 && self.state == State::Framed {
                let (message, rest) = piece.split_at(total - 2);
                work.body(message);
                work.pool.give(std::mem::take(&mut self.buffer));
                return rest;
            }
            piece = self.buffer_up_to(total, piece, work.pool);
            if self.buffer.len() == total {
                let whole = std::mem::take(&mut self.buffer);
                if self.confirm(&whole, work) {
                    work.message(&whole);
                    work.pool.give(whole);
                } else {
                    self.buffer = whole;
                }
            }
            return piece;
        }
        while let Some(total) = length(piece).filter(|total| *total <= piece.len()) {
            let (whole, rest) = piece.split_at(total);
            if !self.confirm(whole, work) {
                return piece;
            }
            work.message(whole);
            piece = rest;
        }
        if matches!(self.state, State::Trial(_)) && fit(piece) == Fit::Not {
            self.doubt(work);
            return piece;
        }
        self.buffer_up_to(usize::MAX, piece, work.pool)
    }

    /// Whether a framed message may leave. In `Trial` it has to fit, and brings the stream nearer to `Framed`.
    fn confirm<F>(&mut self, whole: &[u8], work: &mut Work<'_, F>) -> bool {
        let State::Trial(confirmed) = self.state else {
            return true;
        };
        if fit(whole) != Fit::Whole(whole.len()) {
            self.doubt(work);
            return false;
        }
        self.state = if confirmed + 1 < CONFIRMATIONS {
            State::Trial(confirmed + 1)
        } else {
            State::Framed
        };
        true
    }

    fn doubt<F>(&mut self, work: &mut Work<'_, F>) {
        work.counters.stream_searches += 1;
        self.state = State::Searching;
        self.look_at = 0;
    }

    /// Looks for a whole message that fits and is followed by one, or by nothing yet.
    fn search<'p, F: FnMut(&Envelope, &[u8])>(
        &mut self,
        mut piece: &'p [u8],
        work: &mut Work<'_, F>,
    ) -> Result<&'p [u8], Halt<'p>> {
        if self.buffer.is_empty() {
            return match scan(piece) {
                Scan::Found { start, end } => {
                    self.found(start, &piece[start..end], work);
                    Ok(&piece[end..])
                }
                Scan::Wait { start } => {
                    self.buffer_up_to(usize::MAX, &piece[start..], work.pool);
                    self.vain(start, work)
                        .map_err(|foreign| (foreign, &[][..]))?;
                    Ok(&[])
                }
            };
        }
        piece = self.buffer_up_to(LARGEST, piece, work.pool);
        if self.buffer.len() < self.look_at {
            return Ok(piece);
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        match scan(&bytes) {
            Scan::Found { start, end } => {
                self.found(start, &bytes[start..end], work);
                let accepted = self.accept(&bytes[end..], work);
                work.pool.give(bytes);
                accepted.map_err(|foreign| (foreign, piece))?;
            }
            Scan::Wait { start } => {
                bytes.drain(..start);
                self.buffer = bytes;
                self.vain(start, work).map_err(|foreign| (foreign, piece))?;
            }
        }
        Ok(piece)
    }

    fn found<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        skipped: usize,
        whole: &[u8],
        work: &mut Work<'_, F>,
    ) {
        work.skip(skipped);
        work.counters.stream_resyncs += 1;
        self.searched = 0;
        self.state = State::Trial(1);
        work.message(whole);
    }

    /// `skipped` more bytes are no message; decides when to look again, or that there is nothing to find.
    fn vain<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        skipped: usize,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        work.skip(skipped);
        self.searched = self.searched.saturating_add(skipped);
        let held = self.buffer.len();
        // Looking again at each byte that arrives would take quadratic time.
        self.look_at = if held < PREFIX {
            0
        } else {
            length(&self.buffer).unwrap_or(0).min(2 * held)
        };
        if self.searched > GIVE_UP && !work.expects_dns() {
            Err(Foreign::NotDns)
        } else {
            Ok(())
        }
    }

    /// Moves bytes of the piece into the buffer until that holds `target`; the rest of the piece.
    fn buffer_up_to<'p>(&mut self, target: usize, piece: &'p [u8], pool: &mut Pool) -> &'p [u8] {
        if self.buffer.capacity() == 0 && !piece.is_empty() {
            self.buffer = pool.take();
        }
        let (taken, rest) = piece.split_at((target - self.buffer.len()).min(piece.len()));
        self.buffer.extend_from_slice(taken);
        rest
    }
}

/// Bytes from the length on, if the length is there.
fn length(bytes: &[u8]) -> Option<usize> {
    bytes
        .first_chunk::<2>()
        .map(|length| 2 + usize::from(u16::from_be_bytes(*length)))
}

/// Bytes that [`Stream::open`] wants to see, given those that are there.
fn judged_by(bytes: &[u8]) -> usize {
    length(bytes).map_or(2, |total| total.min(PREFIX))
}

enum Scan {
    /// A message and its length at these bytes.
    Found { start: usize, end: usize },
    /// Nothing; a message may start at `start`, which may be the end.
    Wait { start: usize },
}

fn scan(bytes: &[u8]) -> Scan {
    for start in 0..bytes.len() {
        match fit(&bytes[start..]) {
            Fit::Whole(total) if fit(&bytes[start + total..]) != Fit::Not => {
                return Scan::Found {
                    start,
                    end: start + total,
                };
            }
            Fit::Partly => return Scan::Wait { start },
            Fit::Whole(_) | Fit::Not => {}
        }
    }
    Scan::Wait { start: bytes.len() }
}

/// Recognises what else listens in a DNS server, by its first bytes.
fn foreign(bytes: &[u8]) -> Option<Foreign> {
    const HTTP: [&[u8]; 8] = [
        b"GET ", b"POST", b"PUT ", b"HEAD", b"HTTP", b"PRI ", b"OPTI", b"DELE",
    ];
    match bytes {
        // TLS record (RFC 8446 section 5.1): content type, legacy version.
        [0x14..=0x17, 3, 0..=4, ..] => Some(Foreign::Encrypted),
        // BIND's control channel: length of four bytes, version 1.
        [0, 0, _, _, 0, 0, 0, 1, ..] => Some(Foreign::NotDns),
        _ if HTTP.iter().any(|start| bytes.starts_with(start)) => Some(Foreign::NotDns),
        _ => None,
    }
}
