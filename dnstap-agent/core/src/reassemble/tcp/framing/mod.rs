//! Cuts an ordered stream of bytes into messages.
//!
//! RFC 7766 section 8: each message is preceded by its length in two bytes. Reads and writes may
//! split the stream anywhere. As long as no byte is missing, the framing is certain. After a loss
//! the framing has to be found again.
//!
//! ```text
//!              first bytes judged
//!  Opening ─┬─ from the start: they fit, or DNS is expected ────► Framed
//!           ├─ midway: they fit ────────────────────────────────► Trial
//!           ├─ received: they do not fit ───────────────────────► Undecided
//!           ├─ sent: they do not fit, but may be an answer ─────► Framed
//!           ├─ from the start, sent: neither ───────────────────► foreign: the connection is abandoned
//!           └─ midway, sent: neither ───────────────────────────► Searching, or foreign if another protocol's
//!
//!  Undecided ── from the start: what the process sends is DNS ──► Framed
//!  Undecided ── what the process sends is not DNS ──────────────► foreign
//!  Undecided ── midway: it answers a message at a boundary ─────► Framed
//!  Undecided ── midway: it answers another, or nothing at all ──► Searching
//!
//!  Searching ── a whole message fits, and so does what follows ─► Trial
//!  Trial ────── CONFIRMATIONS messages have fitted ─────────────► Framed
//!  Trial ────── received: a message does not fit ───────────────► Undecided (midway)
//!  Trial ────── sent: a message does not fit ───────────────────► Searching, or Framed if it may be an answer
//!  Framed, Trial: bytes are missing, or none (urgent data) ─────► Undecided (midway), from the message that has begun
//!  all ──────── bytes are missing ──────────────────────────────► Opening (midway), behind the rest of the message that was hit
//! ```
//!
//! Only bytes that the process itself sends make a connection foreign. Otherwise a peer could hide
//! messages: it could begin with bytes that look like another protocol to us and like a query to
//! the server. Bytes received meanwhile are kept and are delivered when the process has answered.
//! Midway the answer also tells which of several readings is right: see `kept`.
//!
//! A stream may begin with a PROXY header (`proxy`). `Opening` removes it first.
//!
//! In `Trial` and `Searching` only messages that [`fit`] to the last byte are delivered. Other
//! bytes are skipped and counted.

pub(super) mod work;

use crate::{
    dns::{Fit, Message, PREFIX, fit, frame as length},
    model::{Direction, Envelope},
    reassemble::tcp::{
        framing::work::{Pool, Work},
        kept::{Beyond, Kept, Verdict},
        proxy::{self, ProxyHeader},
        search::{Budget, Foreign, Scan, foreign, scan},
    },
};

/// Largest length and message.
const LARGEST: usize = 2 + 65_535;

/// Messages that must fit after a search before the framing is certain.
const CONFIRMATIONS: u8 = 4;

/// Bytes of messages too short to judge, after which the stream is judged anyway.
const SHORT: usize = 4_096;

/// Bytes searched without success after which a stream that never showed DNS is given up: four of
/// the largest messages.
const GIVE_UP: usize = 4 * LARGEST;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening {
        midway: bool,
    },
    /// Received bytes are kept until the process has sent something.
    Undecided {
        midway: bool,
    },
    Framed,
    Trial(u8),
    Searching,
}

/// Cuts messages out of one direction of a connection.
#[derive(Debug)]
pub(in crate::reassemble::tcp) struct Framer {
    state: State,
    /// Bytes still to come of a message that lost some bytes.
    skip: usize,
    /// Whether the missing bytes have been counted as a lost message, and no message has been found
    /// since.
    charged: bool,
    /// Whether bytes were skipped that count as a lost message if the stream turns out to be DNS.
    owing: bool,
    /// Whether the kept bytes are searched because no more can be learnt about them.
    alone: bool,
    /// Steps that the search may still take.
    budget: Budget,
    /// Bytes searched without success since the framing was lost.
    searched: usize,
    /// While searching: length of the buffer at which the next search is worth while.
    look_at: usize,
    /// Start of a message, with its length. While searching: bytes that may be one.
    buffer: Vec<u8>,
    /// While undecided: what else is needed to go on.
    kept: Option<Box<Kept>>,
}

/// Returns whether bytes begin with a message that ends at `available` bytes and may be an answer,
/// with any records.
fn may_answer(bytes: &[u8], available: usize) -> bool {
    let message = bytes.get(2..).and_then(Message::parse);
    length(bytes) == Some(available) && message.is_some_and(|message| message.may_answer())
}

/// The stream turned out not to be DNS; the remaining bytes were not looked at.
type Halt<'p> = (Foreign, &'p [u8]);

impl Framer {
    /// Creates a stream of which nothing was seen. `midway`: earlier bytes may have passed unseen.
    pub(in crate::reassemble::tcp) fn new(midway: bool) -> Self {
        Self {
            state: State::Opening { midway },
            skip: 0,
            charged: false,
            owing: false,
            alone: false,
            budget: Budget::new(),
            searched: 0,
            look_at: 0,
            buffer: Vec::new(),
            kept: None,
        }
    }

    /// Marks a stream as dropped in the middle of a message that was counted as lost.
    pub(in crate::reassemble::tcp) fn is_paid(&mut self) {
        self.charged = true;
    }

    /// Marks a stream that has not begun: bytes were lost before its first one.
    pub(in crate::reassemble::tcp) fn join_midway(&mut self) {
        self.state = State::Opening { midway: true };
    }

    /// Notes that a message was delivered out of order, so that bytes missing from now on are
    /// another loss.
    pub(in crate::reassemble::tcp) fn delivered(&mut self) {
        let certain = matches!(self.state, State::Framed | State::Opening { .. });
        if certain && self.skip == 0 && self.buffer.is_empty() {
            self.charged = false;
        }
    }

    /// Returns the foreign protocol of a stream that ended before enough bytes had come to judge
    /// it.
    pub(in crate::reassemble::tcp) fn begins_as(&self) -> Option<Foreign> {
        let opening = matches!(self.state, State::Opening { .. });
        opening.then(|| foreign(&self.buffer)).flatten()
    }

    /// Returns whether received bytes wait for what the process sends.
    pub(in crate::reassemble::tcp) fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided { .. })
    }

    /// Returns whether the next byte belongs to a message that has begun.
    pub(in crate::reassemble::tcp) fn is_amid_message(&self) -> bool {
        let cuts = matches!(
            self.state,
            State::Opening { .. } | State::Framed | State::Trial(_)
        );
        self.skip > 0 || cuts && !self.buffer.is_empty()
    }

    /// Returns whether the first bytes of the stream have come, but too few to judge them.
    pub(in crate::reassemble::tcp) fn has_just_begun(&self) -> bool {
        self.state == State::Opening { midway: false } && !self.buffer.is_empty()
    }

    /// Returns whether the stream holds bytes that may contain a message, or has skipped bytes that
    /// are not counted.
    pub(in crate::reassemble::tcp) fn is_in_doubt(&self) -> bool {
        let midway = matches!(
            self.state,
            State::Searching | State::Opening { midway: true }
        );
        self.owing || midway && !self.buffer.is_empty()
    }

    /// Returns whether the loss of the current message, or of the searched bytes, has been counted.
    pub(in crate::reassemble::tcp) fn has_counted(&self) -> bool {
        self.charged && !self.owing
    }

    /// Returns the envelope of the first kept piece.
    pub(in crate::reassemble::tcp) fn kept_envelope(&self) -> Option<Envelope> {
        let pieces = self.kept.as_ref().map(|kept| &kept.pieces)?;
        pieces.first().map(|(_, envelope)| *envelope)
    }

    /// Returns the bytes that wait.
    pub(in crate::reassemble::tcp) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Bytes that were accepted but not yet accounted for.
    pub(in crate::reassemble::tcp) fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Returns whether the next byte certainly begins a message, or the stream has not begun.
    pub(in crate::reassemble::tcp) fn is_between_messages(&self) -> bool {
        let is_certain = matches!(self.state, State::Framed | State::Opening { midway: false });
        is_certain && self.skip == 0 && self.buffer.is_empty()
    }

    /// Bytes of memory in use.
    pub(in crate::reassemble::tcp) fn memory(&self) -> usize {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.memory());
        self.buffer.capacity() + kept
    }

    /// Drops the buffered bytes.
    pub(in crate::reassemble::tcp) fn abandon(&mut self, pool: &mut Pool) {
        pool.give(std::mem::take(&mut self.buffer));
        self.kept = None;
    }

    /// Goes on without the next `missing` bytes, which will never come.
    pub(in crate::reassemble::tcp) fn lose<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        missing: usize,
        work: &mut Work<'_, F>,
    ) {
        self.conclude(work);
        if self.is_undecided() {
            // Nothing has shown that the stream is DNS, so none of it counts as lost.
            work.counters.stream_not_dns_bytes += self.buffer.len() as u64;
            work.pool.give(std::mem::take(&mut self.buffer));
            self.kept = None;
            self.charged = true;
        }
        let rest = self.rest().unwrap_or(self.skip);
        let midway = matches!(
            self.state,
            State::Searching | State::Opening { midway: true }
        );
        if midway && self.skip == 0 && !work.expects_dns() {
            // Nothing has shown that the stream is DNS.
            self.owing = true;
            self.charged = true;
        }
        // Two messages may be affected: the one that is cut, and the one whose beginning is
        // missing.
        let amid = !self.buffer.is_empty() || self.skip > 0;
        let cut = u64::from(!self.charged && amid);
        let beyond = if rest > 0 {
            missing > rest && missing != usize::MAX
        } else {
            !amid && !self.charged && missing > 0
        };
        let beyond = u64::from(beyond);
        work.lose_messages(cut + beyond);
        self.charged = true;
        work.skip(self.buffer.len());
        work.pool.give(std::mem::take(&mut self.buffer));
        self.kept = None;
        // The rest of a message of known length is not searched.
        self.skip = rest.saturating_sub(missing);
        self.searched = 0;
        self.state = State::Opening { midway: true };
    }

    /// Returns the bytes still to come of the current message, if its length is certain.
    fn rest(&self) -> Option<usize> {
        let certain = matches!(self.state, State::Framed | State::Trial(_));
        let total = length(&self.buffer).filter(|_| certain)?;
        Some(total - self.buffer.len())
    }

    /// Marks a gap that may be no gap: some of the next `missing` bytes may never come, or none are
    /// missing. The answer of the process will tell.
    pub(in crate::reassemble::tcp) fn question<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        missing: usize,
        work: &mut Work<'_, F>,
    ) {
        let rest = self.rest().unwrap_or(0);
        match self.state {
            _ if self.skip > 0 => return self.lose(missing, work),
            State::Opening { midway: false } | State::Framed | State::Trial(_) => self.doubt(work),
            State::Undecided { midway: true } => {}
            _ => return self.lose(missing, work),
        }
        let end = self.buffer.len();
        if !self.kept.get_or_insert_default().add_hole(end, rest) {
            self.lose(missing, work);
        }
    }

    /// Uses a message that the process has sent as evidence about what was received before.
    pub(in crate::reassemble::tcp) fn testify<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        message: &[u8],
        work: &mut Work<'_, F>,
    ) {
        if self.state != (State::Undecided { midway: true }) {
            return self.believe(work);
        }
        let Some(kept) = &mut self.kept else {
            return;
        };
        match kept.weigh(&self.buffer, message) {
            Verdict::Framed(start) => self.frame_kept(start, work),
            Verdict::Search => self.search_kept(work),
            Verdict::Wait => {}
        }
    }

    /// Decides about undecided bytes when no more can be learnt. From the start of a stream they
    /// are DNS if DNS is expected.
    pub(in crate::reassemble::tcp) fn conclude<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        work: &mut Work<'_, F>,
    ) {
        if self.state != (State::Undecided { midway: false }) || work.expects_dns() {
            self.believe(work);
        }
    }

    /// Treats undecided bytes as DNS.
    pub(in crate::reassemble::tcp) fn believe<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        work: &mut Work<'_, F>,
    ) {
        match self.state {
            State::Undecided { midway: false } => self.frame_kept(0, work),
            State::Undecided { midway: true } => self.search_kept(work),
            _ => {}
        }
    }

    /// Searches the kept bytes.
    fn search_kept<F: FnMut(&Envelope, &[u8])>(&mut self, work: &mut Work<'_, F>) {
        let bytes = std::mem::take(&mut self.buffer);
        let kept = self.kept.take().unwrap_or_default();
        self.search_up_to(bytes.len(), &bytes, &kept, work);
        work.pool.give(bytes);
    }

    /// Searches the kept bytes up to the end of a piece.
    fn search_up_to<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        end: usize,
        bytes: &[u8],
        kept: &Kept,
        work: &mut Work<'_, F>,
    ) {
        self.state = State::Searching;
        self.look_at = 0;
        self.alone = true;
        let envelope = work.envelope;
        let mut from = 0;
        for (piece, of_piece) in kept.pieces.iter().filter(|(piece, _)| *piece <= end) {
            if *piece <= from {
                continue;
            }
            work.envelope = *of_piece;
            // The search may already have begun a message before, and a message may go on behind
            // the end. Neither is closed.
            let start = from.saturating_sub(self.buffer.len());
            let closed = kept.closed(bytes, from).filter(|closed| {
                *closed <= end
                    && self.state == State::Searching
                    && !matches!(fit(&bytes[from..]), Fit::Whole(_))
                    && !matches!(fit(&bytes[start..]), Fit::Whole(_))
            });
            if let Some(closed) = closed {
                // Bytes inside a closed message are not searched.
                self.search_behind(closed - from, work);
                from = closed;
            } else {
                // Received bytes alone never make a stream foreign.
                let _searched = self.go_on(&bytes[from..*piece], work);
                from = *piece;
            }
            if let Some(rest) = kept.hole(from) {
                // No message is searched for across a hole, nor in the rest of a message of known
                // length.
                self.skip = rest;
                self.search_behind(0, work);
                self.state = State::Searching;
            }
        }
        work.envelope = envelope;
        self.alone = false;
    }

    /// Skips the bytes that the search has begun to read, and `bytes` more behind them.
    fn search_behind<F: FnMut(&Envelope, &[u8])>(&mut self, bytes: usize, work: &mut Work<'_, F>) {
        self.pass_over(self.buffer.len() + bytes, work);
        self.buffer.clear();
        self.look_at = 0;
    }

    /// Follows the lengths from the start of a kept piece. Bytes before that are searched.
    fn frame_kept<F: FnMut(&Envelope, &[u8])>(&mut self, start: usize, work: &mut Work<'_, F>) {
        let Some(kept) = self.kept.take() else {
            self.state = State::Framed;
            return;
        };
        let bytes = std::mem::take(&mut self.buffer);
        if start > 0 {
            self.search_up_to(start, &bytes, &kept, work);
            self.skip = 0;
            self.pass_over(self.buffer.len(), work);
            work.pool.give(std::mem::take(&mut self.buffer));
        }
        self.state = State::Framed;
        self.settle_debt(work);
        let envelope = work.envelope;
        let mut from = start;
        for (end, of_piece) in kept.pieces.iter().filter(|(end, _)| *end > start) {
            work.envelope = *of_piece;
            // A framed stream is never foreign.
            let _framed = self.go_on(&bytes[from..*end], work);
            from = *end;
        }
        work.envelope = envelope;
        work.pool.give(bytes);
        let Some(beyond) = kept.beyond else {
            return;
        };
        // Of bytes that found no room only the framing is known. If only half a length is kept,
        // that message began beyond.
        let cut = u64::from(self.buffer.len() >= 2);
        work.skip(self.buffer.len());
        work.pool.give(std::mem::take(&mut self.buffer));
        work.lose_messages(beyond.messages + cut);
        self.skip = beyond.rest;
        self.charged = self.skip > 0;
        if let Some(half) = beyond.half {
            // The byte was counted when it came.
            work.counters.stream_not_dns_bytes -= 1;
            self.buffer_up_to(usize::MAX, &[half], work.pool);
        }
    }

    /// Keeps received bytes as far as there is room. Midway the rest is returned, to be searched.
    fn keep<'p, F: FnMut(&Envelope, &[u8])>(
        &mut self,
        piece: &'p [u8],
        midway: bool,
        work: &mut Work<'_, F>,
    ) -> &'p [u8] {
        let mut kept = self.kept.take().unwrap_or_default();
        let beyond = self.buffer_up_to(LARGEST, piece, work.pool);
        kept.add(self.buffer.len(), work.envelope);
        if !beyond.is_empty() && !midway {
            let buffer = &self.buffer;
            kept.beyond
                .get_or_insert_with(|| Beyond::behind(buffer))
                .pass(beyond);
            work.counters.stream_not_dns_bytes += beyond.len() as u64;
        }
        self.kept = Some(kept);
        if beyond.is_empty() || !midway {
            return &[];
        }
        self.search_kept(work);
        beyond
    }

    /// Takes the next bytes of the stream. After `Err` the caller must abandon the stream with
    /// [`Self::abandon`].
    pub(in crate::reassemble::tcp) fn accept<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        piece: &[u8],
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        if self.state != State::Framed {
            self.budget.earn(piece.len());
            if self.state == (State::Undecided { midway: false }) && self.is_decided(work) {
                self.believe(work);
            }
        }
        self.go_on(piece, work)
    }

    fn go_on<F: FnMut(&Envelope, &[u8])>(
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
                State::Undecided { midway } => Ok(self.keep(piece, midway, work)),
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

    /// Returns whether the stream has become certain to be DNS in the meantime.
    fn is_decided<F: FnMut(&Envelope, &[u8])>(&self, work: &Work<'_, F>) -> bool {
        work.dns_seen || work.dns_port && foreign(&self.buffer).is_none()
    }

    /// Judges the first bytes. They stay where they are: in the piece, or in the buffer.
    fn open<'p, F: FnMut(&Envelope, &[u8])>(
        &mut self,
        mut piece: &'p [u8],
        midway: bool,
        work: &mut Work<'_, F>,
    ) -> Result<&'p [u8], Halt<'p>> {
        let may_have_proxy_header = !midway && work.proxies.vouch_for(&work.envelope);
        let sent = work.envelope.direction == Direction::Sent;
        let judged_from = |bytes: &[u8]| {
            // Midway these bytes may also be the tail of a message.
            if sent && !midway && !work.dns_seen && !work.dns_port {
                too_short(bytes)
            } else {
                0
            }
        };
        let wanted = |bytes: &[u8]| {
            let from = judged_from(bytes);
            from + judged_by(&bytes[from..], may_have_proxy_header)
        };
        if !self.buffer.is_empty() || piece.len() < wanted(piece) {
            while self.buffer.len() < wanted(&self.buffer) {
                if piece.is_empty() {
                    if midway && !sent {
                        let kept = self.kept.get_or_insert_default();
                        kept.add(self.buffer.len(), work.envelope);
                    }
                    return Ok(piece);
                }
                piece = self.buffer_up_to(wanted(&self.buffer), piece, work.pool);
            }
        }
        let view = if self.buffer.is_empty() {
            piece
        } else {
            &self.buffer
        };
        if !midway && !may_have_proxy_header && proxy::has_signature(view) {
            work.counters.proxy_headers_refused_tcp += 1;
        }
        if may_have_proxy_header && let ProxyHeader::Whole { length, proxied } = proxy::header(view)
        {
            work.proxy_header(length, proxied);
            if self.buffer.is_empty() {
                return Ok(&piece[length..]);
            }
            // The buffer ends where the PROXY header does, since `judged_by` asked for no more.
            work.pool.give(std::mem::take(&mut self.buffer));
            return Ok(piece);
        }
        let short = judged_from(view);
        let judged = &view[short..];
        let fits = fit(judged) != Fit::Not;
        let other = foreign(view);
        let rest = if self.buffer.is_empty() {
            judged.len()
        } else {
            judged.len() + piece.len()
        };
        self.state = if fits && midway {
            State::Trial(0)
        } else if fits || work.dns_seen && !midway {
            // The short bytes are messages, because a message follows them.
            State::Framed
        } else if let Some(foreign) = other.filter(|_| sent && !work.dns_seen) {
            return Err((foreign, piece));
        } else if !midway && work.dns_port && (sent || other.is_none()) {
            State::Framed
        } else if sent && !midway && may_answer(judged, rest) {
            // Some servers send back a query that they could not read, marked as an error. Midway
            // such bytes may be the tail of a record.
            State::Framed
        } else if sent && !midway {
            return Err((Foreign::NotDns, piece));
        } else {
            work.counters.stream_searches += u64::from(midway);
            self.look_at = 0;
            if sent {
                State::Searching
            } else {
                State::Undecided { midway }
            }
        };
        if self.state == (State::Undecided { midway: true }) {
            return Ok(self.keep(piece, midway, work));
        }
        self.kept = None;
        if !self.buffer.is_empty() {
            // The buffer may hold much more than a message, if all of it looked like a PROXY
            // header.
            let bytes = std::mem::take(&mut self.buffer);
            let accepted = self.go_on(&bytes, work);
            work.pool.give(bytes);
            accepted.map_err(|foreign| (foreign, piece))?;
        }
        Ok(piece)
    }

    /// Cuts off whole messages and buffers the start of an incomplete one.
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
            // Servers read the length by itself and then the message: such a message need not be
            // copied.
            if self.buffer.len() == 2 && piece.len() >= total - 2 && self.state == State::Framed {
                let (message, rest) = piece.split_at(total - 2);
                self.charged = false;
                work.body(message);
                work.pool.give(std::mem::take(&mut self.buffer));
                return rest;
            }
            piece = self.buffer_up_to(total, piece, work.pool);
            if self.buffer.len() == total {
                let whole = std::mem::take(&mut self.buffer);
                if self.confirm(&whole, piece.is_empty(), work) {
                    self.deliver(&whole, work);
                    work.pool.give(whole);
                } else {
                    self.buffer = whole;
                    self.doubt(work);
                }
            }
            return piece;
        }
        while let Some(total) = length(piece).filter(|total| *total <= piece.len()) {
            let (whole, rest) = piece.split_at(total);
            if !self.confirm(whole, rest.is_empty(), work) {
                self.doubt(work);
                return piece;
            }
            self.deliver(whole, work);
            piece = rest;
        }
        if piece.is_empty() {
            return piece;
        }
        if matches!(self.state, State::Trial(_)) && fit(piece) == Fit::Not {
            self.doubt(work);
            return piece;
        }
        self.buffer_up_to(usize::MAX, piece, work.pool)
    }

    fn deliver<F: FnMut(&Envelope, &[u8])>(&mut self, whole: &[u8], work: &mut Work<'_, F>) {
        self.settle_debt(work);
        self.charged = false;
        work.message(whole);
    }

    /// Returns whether a framed message may be delivered. In `Trial` it has to fit, and then brings
    /// the stream nearer to `Framed`. `ends`: the piece ends with this message.
    fn confirm<F>(&mut self, whole: &[u8], ends: bool, work: &Work<'_, F>) -> bool {
        let State::Trial(confirmed) = self.state else {
            return true;
        };
        let sent = work.envelope.direction == Direction::Sent;
        self.state = if fit(whole) == Fit::Whole(whole.len()) {
            match confirmed + 1 {
                ..CONFIRMATIONS => State::Trial(confirmed + 1),
                _ => State::Framed,
            }
        } else if sent && ends && may_answer(whole, whole.len()) {
            State::Framed
        } else {
            return false;
        };
        true
    }

    /// Handles a current message that does not fit. Received bytes are not searched before the
    /// process had a chance to answer them.
    fn doubt<F>(&mut self, work: &mut Work<'_, F>) {
        work.counters.stream_searches += 1;
        self.look_at = 0;
        self.state = State::Searching;
        if work.envelope.direction == Direction::Received && !self.alone {
            self.state = State::Undecided { midway: true };
            let mut kept = Kept::default();
            if !self.buffer.is_empty() {
                kept.add(self.buffer.len(), work.envelope);
            }
            self.kept = Some(Box::new(kept));
        }
    }

    /// Looks for a whole message that fits and is followed by another one, or by nothing yet.
    fn search<'p, F: FnMut(&Envelope, &[u8])>(
        &mut self,
        mut piece: &'p [u8],
        work: &mut Work<'_, F>,
    ) -> Result<&'p [u8], Halt<'p>> {
        if self.buffer.is_empty() {
            return match scan(piece, &mut self.budget) {
                Scan::Spent => {
                    let spent = self.spend(piece.len(), work);
                    spent
                        .map(|()| &[][..])
                        .map_err(|foreign| (foreign, &[][..]))
                }
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
        self.budget.moved(bytes.len());
        match scan(&bytes, &mut self.budget) {
            Scan::Spent => {
                let spent = self.spend(bytes.len(), work);
                work.pool.give(bytes);
                spent.map_err(|foreign| (foreign, piece))?;
            }
            Scan::Found { start, end } => {
                self.found(start, &bytes[start..end], work);
                let accepted = self.go_on(&bytes[end..], work);
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
        self.pass_over(skipped, work);
        work.counters.stream_resyncs += 1;
        self.searched = 0;
        self.state = State::Trial(1);
        self.deliver(whole, work);
    }

    /// Skips bytes that are no message. Decides when to search again, or that the stream has no
    /// messages.
    fn vain<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        skipped: usize,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        self.pass_over(skipped, work);
        self.searched = self.searched.saturating_add(skipped);
        let held = self.buffer.len();
        // Looking again at each byte that arrives would take quadratic time.
        self.look_at = if held < PREFIX {
            0
        } else {
            length(&self.buffer).unwrap_or(0).min(2 * held)
        };
        let sent = work.envelope.direction == Direction::Sent;
        if self.searched > GIVE_UP && sent && !work.expects_dns() {
            Err(Foreign::NotDns)
        } else {
            Ok(())
        }
    }

    /// Skips bytes that are not searched to their end because the budget is used up.
    fn spend<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        bytes: usize,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        work.counters.stream_search_given_up_bytes += bytes as u64;
        self.vain(bytes, work)
    }

    /// Skips bytes that were searched without success. They were part of at least one message.
    fn pass_over<F: FnMut(&Envelope, &[u8])>(&mut self, bytes: usize, work: &mut Work<'_, F>) {
        work.skip(bytes);
        if bytes > 0 && !self.charged {
            self.charged = true;
            self.owing = true;
        }
        if work.expects_dns() {
            self.settle_debt(work);
        }
    }

    /// Counts the skipped bytes as a lost message, now that the stream is known to be DNS.
    fn settle_debt<F: FnMut(&Envelope, &[u8])>(&mut self, work: &mut Work<'_, F>) {
        work.lose_messages(u64::from(self.owing));
        self.owing = false;
    }

    /// Moves bytes of the piece into the buffer until it holds `target` bytes. Returns the rest of
    /// the piece.
    fn buffer_up_to<'p>(&mut self, target: usize, piece: &'p [u8], pool: &mut Pool) -> &'p [u8] {
        if self.buffer.capacity() == 0 && !piece.is_empty() {
            self.buffer = pool.take();
        }
        debug_assert!(self.buffer.len() <= target, "the buffer is too full");
        let missing = target.saturating_sub(self.buffer.len());
        let (taken, rest) = piece.split_at(missing.min(piece.len()));
        self.buffer.extend_from_slice(taken);
        rest
    }
}

/// Returns the bytes of whole messages at the start that are too short to be judged. Some servers
/// send such messages back unchanged.
fn too_short(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < SHORT
        && let Some(total) = bytes.get(at..).and_then(length)
        && (3..PREFIX).contains(&total)
        && at + total <= bytes.len()
    {
        at += total;
    }
    at
}

/// Returns the bytes that [`Framer::open`] needs to judge the stream: a message's header, or a
/// PROXY header.
fn judged_by(bytes: &[u8], may_have_proxy_header: bool) -> usize {
    if may_have_proxy_header && let Some(wanted) = proxy::wanted(bytes) {
        return wanted;
    }
    match length(bytes) {
        // This length alone is no message. With the bytes behind it, it may be the start of another
        // protocol.
        Some(2) => PREFIX,
        total => total.map_or(2, |total| total.min(PREFIX)),
    }
}
