//! The messages in a stream of bytes, which come in order.
//!
//! RFC 7766 section 8: each message is preceded by its length in two bytes. Reads and writes may split the stream
//! anywhere. As long as no byte is missing the framing is certain; after a loss it is found again, from the length that
//! the cut message had announced if the loss lies within it, else by search.
//!
//! ```text
//!              first bytes judged
//!  Opening ─┬─ from the start: they fit, or DNS is expected ──► Framed
//!           ├─ midway: they fit ──────────────────────────────► Trial
//!           ├─ midway: they do not ───────────────────────────► Searching
//!           └─ else ──► foreign: the connection is abandoned
//!
//!  Searching ── a whole message fits, and so does what follows it ──► Trial
//!  Trial ────── CONFIRMATIONS messages have fitted ─────────────────► Framed
//!  Trial ────── a message does not fit ─────────────────────────────► Searching
//!  all ──────── a loss reaches past the message that it hits ───────► Opening (midway)
//! ```
//!
//! A stream may begin with what a proxy says about it (`proxy`): `Opening` takes that off first.
//!
//! In `Trial` and `Searching` only messages that [`fit`] to the last byte leave; what does not is skipped and counted.

use crate::{
    event::Envelope,
    stream::{
        proxy::{self, Preface},
        search::{Foreign, Scan, foreign, scan},
        wire::{Fit, PREFIX, fit},
        work::{Pool, Work},
    },
};

/// Largest length and message.
const LARGEST: usize = 2 + 65_535;

/// Messages that must fit after a search before the framing counts as certain.
const CONFIRMATIONS: u8 = 4;

/// Bytes searched in vain after which a stream that never showed DNS is given up: four of the largest messages.
const GIVE_UP: usize = 4 * LARGEST;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening { midway: bool },
    Framed,
    Trial(u8),
    Searching,
}

/// Cuts messages out of one direction of a connection.
#[derive(Debug)]
pub(super) struct Framer {
    state: State,
    /// Bytes still to come of a message that lost some.
    skip: usize,
    /// Bytes searched in vain since the framing was lost.
    searched: usize,
    /// While searching: bytes in the buffer at which looking again is worth while.
    look_at: usize,
    /// Start of a message, from its length on; while searching, what may be one.
    buffer: Vec<u8>,
}

/// The stream turned out not to be DNS; the rest was not looked at.
type Halt<'p> = (Foreign, &'p [u8]);

impl Framer {
    /// A stream of which nothing was seen. `midway`: earlier bytes may have passed unseen.
    pub(super) fn new(midway: bool) -> Self {
        Self {
            state: State::Opening { midway },
            skip: 0,
            searched: 0,
            look_at: 0,
            buffer: Vec::new(),
        }
    }

    /// Tells a stream that has not begun that bytes were lost before.
    pub(super) fn join_midway(&mut self) {
        self.state = State::Opening { midway: true };
    }

    /// Bytes taken and not yet accounted for.
    pub(super) fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the next byte begins a message for certain, or the stream has not begun.
    pub(super) fn is_between_messages(&self) -> bool {
        let is_certain = matches!(self.state, State::Framed | State::Opening { midway: false });
        is_certain && self.skip == 0 && self.buffer.is_empty()
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Gives up the buffer.
    pub(super) fn abandon(&mut self, pool: &mut Pool) {
        pool.give(std::mem::take(&mut self.buffer));
    }

    /// The next `missing` bytes will never come.
    pub(super) fn lose<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        missing: usize,
        work: &mut Work<'_, F>,
    ) {
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

    /// Takes the next bytes of the stream. After `Err` the stream is to be abandoned with [`Self::abandon`].
    pub(super) fn accept<F: FnMut(&Envelope, &[u8])>(
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
        let may_have_preface = !midway && work.proxies.vouch_for(&work.envelope);
        if !self.buffer.is_empty() || piece.len() < judged_by(piece, may_have_preface) {
            while self.buffer.len() < judged_by(&self.buffer, may_have_preface) {
                if piece.is_empty() {
                    return Ok(piece);
                }
                let wanted = judged_by(&self.buffer, may_have_preface);
                piece = self.buffer_up_to(wanted, piece, work.pool);
            }
        }
        let view = if self.buffer.is_empty() {
            piece
        } else {
            &self.buffer
        };
        if !midway && !may_have_preface && proxy::has_signature(view) {
            work.counters.prefaces_refused_tcp += 1;
        }
        if may_have_preface && let Preface::Whole { length, proxied } = proxy::preface(view) {
            work.preface(length, proxied);
            if self.buffer.is_empty() {
                return Ok(&piece[length..]);
            }
            // The buffer ends where the preface does, since `judged_by` asked for no more.
            work.pool.give(std::mem::take(&mut self.buffer));
            return Ok(piece);
        }
        let fits = fit(view) != Fit::Not;
        self.state = if fits && midway {
            State::Trial(0)
        } else if fits {
            State::Framed
        } else if let Some(foreign) = foreign(view).filter(|_| work.may_be_foreign()) {
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
        if !self.buffer.is_empty() {
            // It may hold much more than a message, if it looked like a preface up to its end.
            let bytes = std::mem::take(&mut self.buffer);
            let accepted = self.accept(&bytes, work);
            work.pool.give(bytes);
            accepted.map_err(|foreign| (foreign, piece))?;
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
        debug_assert!(self.buffer.len() <= target, "the buffer is too full");
        let missing = target.saturating_sub(self.buffer.len());
        let (taken, rest) = piece.split_at(missing.min(piece.len()));
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

/// Bytes that [`Framer::open`] wants to see, given those that are there: a message's header, or a proxy's preface.
fn judged_by(bytes: &[u8], may_have_preface: bool) -> usize {
    if may_have_preface && let Some(wanted) = proxy::wanted(bytes) {
        return wanted;
    }
    length(bytes).map_or(2, |total| total.min(PREFIX))
}
