//! One direction of one connection: takes pieces with sequence numbers and passes their bytes in
//! order to the [`Framer`].
//!
//! Sequence numbers are those of TCP: 32 bits, wrapping (RFC 9293 section 3.4). The kernel side
//! reads the socket's position *after* the call and subtracts the bytes that the call moved. The
//! result is the position of the bytes, with these exceptions:
//!
//! - The end of a stream has a sequence number of its own. So has an urgent byte, which no read
//!   returns. Both leave gaps in which nothing is missing. The kernel side marks pieces that may
//!   lie behind one. A gap of this kind without a dropped piece is no gap.
//! - When several threads send at the same time, another send may have come between. The position
//!   is then too high, never too low.
//!
//! Received pieces are put in order. Bytes that were seen before are dropped, also if they are a
//! part of a piece. A piece that comes too early waits for those before it, for a bounded time and
//! in a bounded buffer. After that the bytes between are given up as lost.
//!
//! Sent pieces are put in order, too, except for pieces out of order that consist of whole
//! messages. Such pieces are delivered at once; only their bytes are counted, until all bytes up to
//! the furthest position are accounted for ([`Beside`]). A piece that holds a part of a message
//! waits for its turn. If its position has been taken, its message cannot be determined, and it is
//! counted as lost.
//!
//! While received pieces wait for earlier ones, sent pieces wait as well: they may be answers, and
//! queries are delivered first.

use std::collections::VecDeque;

use dnstap_ebpf::{EVENT_SHUT_DOWN, EVENT_URGENT, EVENT_URGENT_NEXT};

use crate::{
    dns,
    model::{Direction, Envelope},
    reassemble::tcp::{
        framing::{
            Framer,
            work::{Pool, Turn, Work},
        },
        search::Foreign,
    },
};

/// Pieces and bytes that came too early and wait for those before them.
const HELD_PIECES: usize = 32;
const HELD_BYTES: usize = 128 * 1024;

/// Pieces that wait for the other direction; a server may answer many queries at once.
const PARKED_PIECES: usize = 256;

/// Nanoseconds of kernel time for which pieces wait. Pieces overtake each other only within the
/// time that the reader takes to visit all rings, which is milliseconds.
pub(super) const HOLD_NS: u64 = 200_000_000;

/// A larger jump of the sequence number is not a matter of order.
const FAR: u32 = 1 << 24;

/// Nanoseconds for which some bytes must be outstanding at every moment before they count as lost.
/// No piece waits for this.
const OUTSTANDING_NS: u64 = 1_000_000_000;

/// Bytes delivered out of order after which the stream's position is moved past them.
const MANY_BESIDE: u32 = 1 << 20;

/// Bytes that a call on the socket moved, or a part of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'p> {
    pub(super) sequence: u32,
    /// Messages of the socket that the kernel side dropped so far.
    pub(super) lost: u32,
    /// `EVENT_*` bits.
    pub(super) flags: u8,
    pub(super) payload: &'p [u8],
}

/// A piece that waits for those before it, or for the other direction.
#[derive(Debug)]
struct Held {
    sequence: u32,
    lost: u32,
    /// Flags of the piece; none if something was dropped before it.
    flags: u8,
    envelope: Envelope,
    bytes: Vec<u8>,
}

impl Held {
    fn of<F>(piece: Piece<'_>, work: &mut Work<'_, F>) -> Self {
        let mut bytes = work.pool.take();
        bytes.extend_from_slice(piece.payload);
        Self {
            sequence: piece.sequence,
            lost: piece.lost,
            flags: piece.flags,
            envelope: work.envelope,
            bytes,
        }
    }
}

/// Whole messages that were sent at the same time as others and delivered out of order.
///
/// Each position is right or too high, and each byte comes once. So if as many bytes have come as
/// lie before the furthest position, all of them have come, even if some positions were too high.
#[derive(Debug)]
struct Beside {
    /// Whether bytes up to `end` are outstanding.
    open: bool,
    /// Bytes that were delivered or given up behind the stream's position.
    bytes: u32,
    /// Furthest position behind such a piece.
    end: u32,
    /// Kernel time since which `least` is measured.
    since: u64,
    /// Least number of outstanding bytes since then. Some bytes are on their way at most times, but
    /// never the same ones for long.
    least: u32,
    /// Envelope of the last piece.
    envelope: Envelope,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    framer: Framer,
    started: bool,
    /// Sequence number of the next byte.
    next: u32,
    /// Count of losses in the last piece.
    lost: u32,
    /// Whether something was dropped since the pieces were last in order.
    lossy: bool,
    /// Thread of the last piece that was taken in order.
    thread: u32,
    /// Start and end of the last gap in which nothing was missing.
    hole: Option<(u32, u32)>,
    /// Pieces that wait, in the order of their sequence numbers.
    held: Vec<Held>,
    /// Pieces that wait for the other direction, in the order in which they came.
    parked: VecDeque<Held>,
    /// Bytes of the parked pieces.
    parked_bytes: usize,
    /// Allocated when it is first needed.
    beside: Option<Box<Beside>>,
}

impl Stream {
    /// Creates a stream of which nothing was seen. `midway`: earlier bytes may have passed unseen.
    pub(super) fn new(midway: bool) -> Self {
        Self {
            framer: Framer::new(midway),
            started: false,
            next: 0,
            lost: 0,
            lossy: false,
            thread: 0,
            hole: None,
            held: Vec::new(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            beside: None,
        }
    }

    /// Marks a stream as dropped in the middle of a message that was counted as lost.
    pub(super) fn is_paid(&mut self) {
        self.framer.is_paid();
    }

    /// Marks a stream that has not begun: bytes were lost before its first one.
    pub(super) fn join_midway(&mut self) {
        if !self.started {
            self.framer.join_midway();
        }
    }

    /// Returns whether a piece with this sequence number cannot belong to this stream.
    pub(super) fn is_far(&self, sequence: u32) -> bool {
        self.started && self.ahead(sequence).unsigned_abs() >= FAR
    }

    /// Takes a piece. After `Err` the caller must abandon the stream with [`Self::abandon`].
    #[inline]
    pub(super) fn push<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        piece: Piece<'_>,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        if work.turn == Turn::Later && self.park(piece, work) {
            return Ok(());
        }
        if !self.parked.is_empty()
            && let Err(foreign) = self.unpark(work)
        {
            work.counters.foreign(foreign, piece.payload.len());
            return Err(foreign);
        }
        self.place(piece, work)
    }

    #[inline]
    fn place<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        piece: Piece<'_>,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        let Piece {
            sequence, payload, ..
        } = piece;
        if !self.started {
            if work.lossy {
                // Another process also reads from the connection and may have sent the first bytes.
                self.framer.join_midway();
            }
            self.started = true;
            self.next = sequence;
            self.lost = piece.lost;
        }
        let dropped = piece.lost != self.lost;
        let flags = if dropped { 0 } else { piece.flags };
        self.lost = piece.lost;
        let ahead = self.ahead(sequence);
        self.lossy = dropped || self.lossy && self.is_out_of_order();
        if ahead == 0 && !self.is_out_of_order() {
            return self.take(sequence, payload, work);
        }
        let now = work.envelope.ktime_ns;
        if ahead.unsigned_abs() >= FAR {
            if let Err(foreign) = self.overtake(u64::MAX, work) {
                work.counters.foreign(foreign, payload.len());
                return Err(foreign);
            }
            work.counters.stream_gaps += 1;
            self.framer.lose(usize::MAX, work);
            self.next = sequence;
            self.take(sequence, payload, work)?;
        } else if ahead != 0 && self.stands_for_itself(payload, work) {
            self.take_beside(sequence, payload, work);
        } else if ahead <= 0 || self.leap(sequence, flags, work) {
            self.take(sequence, payload, work)?;
            self.catch_up(work)?;
        } else {
            self.hold(Piece { flags, ..piece }, work);
        }
        self.balance(work)?;
        self.overtake(now, work)
    }

    /// Makes a piece wait for the other direction. Returns false if there is no room.
    fn park<F>(&mut self, piece: Piece<'_>, work: &mut Work<'_, F>) -> bool {
        let bytes = self.parked_bytes + piece.payload.len();
        let has_room = self.parked.len() < PARKED_PIECES && bytes <= HELD_BYTES;
        if has_room {
            self.parked_bytes += piece.payload.len();
            self.parked.push_back(Held::of(piece, work));
        }
        has_room
    }

    /// Takes the pieces that have waited for the other direction.
    fn unpark<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        let envelope = work.envelope;
        let mut taken = Ok(());
        while taken.is_ok()
            && let Some(held) = self.parked.pop_front()
        {
            self.parked_bytes -= held.bytes.len();
            work.envelope = held.envelope;
            let piece = Piece {
                sequence: held.sequence,
                lost: held.lost,
                flags: held.flags,
                payload: &held.bytes,
            };
            taken = self.place(piece, work);
            work.pool.give(held.bytes);
        }
        work.envelope = envelope;
        taken
    }

    /// Skips missing bytes once the pieces behind them have waited long enough at kernel time
    /// `now`.
    pub(super) fn release<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        now: u64,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        let is_overdue = |held: &Held| held.envelope.ktime_ns.saturating_add(HOLD_NS) < now;
        if work.turn == Turn::Now || self.parked.front().is_some_and(is_overdue) {
            self.unpark(work)?;
        }
        self.overtake(now, work)
    }

    fn overtake<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        now: u64,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        while let Some(first) = self.held.first() {
            let overdue = self
                .held
                .iter()
                .any(|held| held.envelope.ktime_ns.saturating_add(HOLD_NS) < now);
            if !overdue && self.held.len() <= HELD_PIECES && self.held_bytes() <= HELD_BYTES {
                break;
            }
            let sequence = first.sequence;
            let gap = sequence.wrapping_sub(self.next);
            // A gap in the middle of a message, or smaller than the smallest message, cannot be
            // filled by whole messages.
            let missing = if self.framer.is_amid_message() || (gap as usize) < dns::PREFIX {
                gap
            } else {
                self.pay(gap)
            };
            self.next = sequence;
            self.lose(missing, missing as usize, work);
            self.catch_up(work)?;
            self.balance(work)?;
        }
        self.give_up_beside(now, work)
    }

    /// Ends the stream: skips missing bytes and decides about undecided ones.
    pub(super) fn flush<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        self.release(u64::MAX, work)?;
        self.framer.conclude(work);
        Ok(())
    }

    /// Returns the envelope of a waiting piece, if there is one.
    pub(super) fn waiting_envelope(&self) -> Option<Envelope> {
        let beside = self.beside.as_ref().filter(|beside| beside.open);
        let held = self.parked.front().or(self.held.first());
        let held = held.map(|held| held.envelope);
        held.or_else(|| beside.map(|beside| beside.envelope))
            .or_else(|| self.framer.kept_envelope())
    }

    /// Returns whether pieces wait for others.
    pub(super) fn is_holding(&self) -> bool {
        !self.parked.is_empty() || self.is_out_of_order()
    }

    fn is_out_of_order(&self) -> bool {
        !self.held.is_empty() || self.beside.as_ref().is_some_and(|beside| beside.open)
    }

    /// Returns the state of the message framing in this direction.
    pub(super) fn framer(&self) -> &Framer {
        &self.framer
    }

    /// Like [`Self::framer`], to pass on what the process has sent.
    pub(super) fn framer_mut(&mut self) -> &mut Framer {
        &mut self.framer
    }

    /// Returns whether the next byte certainly begins a message, or the stream has not begun.
    pub(super) fn is_between_messages(&self) -> bool {
        !self.is_holding() && self.framer.is_between_messages()
    }

    /// Bytes that were taken but not yet accounted for.
    pub(super) fn pending_bytes(&self) -> usize {
        self.framer.pending_bytes() + self.held_bytes() + self.parked_bytes
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        let mut memory = self.framer.memory();
        if self.is_holding() {
            let held = self.held.iter().chain(&self.parked);
            memory += held.map(|held| held.bytes.capacity()).sum::<usize>();
        }
        memory
    }

    /// Drops the buffers. Returns the number of bytes that they held.
    pub(super) fn abandon(&mut self, pool: &mut Pool) -> usize {
        let bytes = self.pending_bytes();
        self.framer.abandon(pool);
        for held in self.held.drain(..).chain(self.parked.drain(..)) {
            pool.give(held.bytes);
        }
        self.parked_bytes = 0;
        self.beside = None;
        bytes
    }

    /// Returns how far a position is ahead of the next byte.
    fn ahead(&self, sequence: u32) -> i32 {
        sequence.wrapping_sub(self.next).cast_signed()
    }

    fn held_bytes(&self) -> usize {
        self.held.iter().map(|held| held.bytes.len()).sum()
    }

    /// Goes on at a position before which certainly nothing is missing. Returns false if it is no
    /// such position.
    fn leap<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        sequence: u32,
        flags: u8,
        work: &mut Work<'_, F>,
    ) -> bool {
        let ahead = self.ahead(sequence);
        let gap = Gap::of(ahead, flags, work.envelope.direction);
        let waits = self.held.first();
        let is_first = waits.is_none_or(|first| self.ahead(first.sequence) > ahead);
        let leaps = is_first && gap != Gap::Missing;
        if leaps {
            self.pass(sequence, gap, work);
        }
        leaps
    }

    /// Goes on behind a gap in which certainly nothing is missing.
    fn pass<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        sequence: u32,
        gap: Gap,
        work: &mut Work<'_, F>,
    ) {
        if gap == Gap::Doubtful {
            self.framer
                .question(self.ahead(sequence).unsigned_abs() as usize, work);
        }
        self.hole = Some((self.next, sequence));
        self.next = sequence;
    }

    fn hold<F>(&mut self, piece: Piece<'_>, work: &mut Work<'_, F>) {
        work.counters.stream_held_pieces += 1;
        let ahead = self.ahead(piece.sequence);
        let at = self
            .held
            .partition_point(|held| held.sequence.wrapping_sub(self.next).cast_signed() <= ahead);
        self.held.insert(at, Held::of(piece, work));
    }

    /// Takes the held pieces that are next in order.
    fn catch_up<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        while let Some(first) = self.held.first() {
            let ahead = self.ahead(first.sequence);
            if ahead > 0 {
                let gap = Gap::of(ahead, first.flags, first.envelope.direction);
                if gap == Gap::Missing {
                    break;
                }
                self.pass(first.sequence, gap, work);
            }
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
        if stale > 0 && work.envelope.direction == Direction::Sent {
            self.collide(sequence, payload, work);
            return Ok(());
        }
        if stale > 0 && self.fills_hole(sequence, stale) {
            // Bytes were missing there after all.
            work.counters.stream_gaps += 1;
            self.framer.lose(usize::MAX, work);
        }
        work.counters.stream_duplicate_bytes += stale as u64;
        let piece = &payload[stale..];
        self.thread = work.envelope.origin.tid;
        self.next = self.next.wrapping_add(length(piece));
        self.framer.accept(piece, work)
    }

    /// Returns whether late bytes belong to a gap in which nothing seemed to be missing.
    fn fills_hole(&mut self, sequence: u32, stale: usize) -> bool {
        let hits = self.hole.is_some_and(|(start, end)| {
            let last = sequence.wrapping_add(u32::try_from(stale).unwrap_or(u32::MAX));
            self.next.wrapping_sub(end) < FAR
                && end.wrapping_sub(sequence).cast_signed() > 0
                && last.wrapping_sub(start).cast_signed() > 0
        });
        if hits {
            self.hole = None;
        }
        hits
    }

    /// Counts a sent part of a message whose position has been taken: its message cannot be
    /// determined.
    fn collide<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        sequence: u32,
        payload: &[u8],
        work: &mut Work<'_, F>,
    ) {
        work.counters.stream_gaps += 1;
        work.skip(payload.len());
        self.framer.lose(usize::MAX, work);
        let end = sequence.wrapping_add(length(payload));
        if self.ahead(end) > 0 {
            self.next = end;
        }
    }

    /// Returns whether a sent piece consists of whole messages, so that its position does not
    /// matter. Returns false if the thread is in the middle of a message: the piece may be a part
    /// of that message.
    fn stands_for_itself<F>(&self, payload: &[u8], work: &Work<'_, F>) -> bool {
        let envelope = &work.envelope;
        let is_rest = self.framer.is_amid_message() && self.thread == envelope.origin.tid;
        envelope.direction == Direction::Sent && !is_rest && dns::are_messages(payload)
    }

    /// Delivers whole messages out of order.
    fn take_beside<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        sequence: u32,
        payload: &[u8],
        work: &mut Work<'_, F>,
    ) {
        let next = self.next;
        let beside = self.beside.get_or_insert_with(|| {
            Box::new(Beside {
                open: false,
                bytes: 0,
                end: next,
                since: 0,
                least: u32::MAX,
                envelope: work.envelope,
            })
        });
        if !beside.open {
            beside.open = true;
            beside.bytes = 0;
            beside.end = next;
            beside.since = work.envelope.ktime_ns;
            beside.least = u32::MAX;
        }
        let end = sequence.wrapping_add(length(payload));
        if end.wrapping_sub(beside.end).cast_signed() > 0 {
            beside.end = end;
        }
        beside.bytes = beside.bytes.saturating_add(length(payload));
        beside.envelope = work.envelope;
        if beside.bytes > MANY_BESIDE && self.held.is_empty() {
            let span = beside.end.wrapping_sub(next);
            self.next = next.wrapping_add(beside.bytes.min(span));
            beside.bytes = 0;
        }
        self.framer.delivered();
        let mut rest = payload;
        while let Some((total, message)) = dns::split(rest) {
            work.body(message);
            rest = &rest[total..];
        }
    }

    /// Returns the number of bytes between the stream's position and the furthest one that have not
    /// come.
    fn outstanding(&self) -> u32 {
        let Some(beside) = self.beside.as_ref().filter(|beside| beside.open) else {
            return 0;
        };
        let come = beside.bytes as usize + self.held_bytes();
        let come = u32::try_from(come).unwrap_or(u32::MAX);
        self.furthest(beside.end).saturating_sub(come)
    }

    /// Returns the distance from the stream's position to the furthest byte seen.
    fn furthest(&self, end: u32) -> u32 {
        let held = self.held.last().map_or(0, |last| {
            self.ahead(last.sequence.wrapping_add(length(&last.bytes)))
        });
        self.ahead(end).max(held).max(0).unsigned_abs()
    }

    /// Moves on to the furthest position if all bytes up to there have come.
    fn balance<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        while let Some(end) = self.beside.as_ref().filter(|b| b.open).map(|b| b.end)
            && self.outstanding() == 0
        {
            let Some(first) = self.held.first() else {
                self.next = self.next.wrapping_add(self.furthest(end));
                if let Some(beside) = &mut self.beside {
                    beside.open = false;
                }
                break;
            };
            let sequence = first.sequence;
            let gap = sequence.wrapping_sub(self.next);
            // The dropped bytes may be the part of a message. Bytes delivered out of order cannot
            // stand for them.
            if self.lossy && self.framer.is_amid_message() {
                self.lose(gap, gap as usize, work);
            } else {
                self.pay(gap);
            }
            self.next = sequence;
            self.catch_up(work)?;
        }
        Ok(())
    }

    /// Counts missing bytes, if there are any. `gap`: number of bytes that the framing has lost, or
    /// `usize::MAX` if their position is unknown.
    fn lose<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        missing: u32,
        gap: usize,
        work: &mut Work<'_, F>,
    ) {
        if missing > 0 {
            work.counters.stream_gaps += 1;
            work.counters.stream_missing_bytes += u64::from(missing);
            self.framer.lose(gap, work);
        }
    }

    /// Accounts for a gap with bytes that were delivered out of order. Returns the number of bytes
    /// that are missing then.
    fn pay(&mut self, gap: u32) -> u32 {
        let Some(beside) = self.beside.as_mut().filter(|beside| beside.open) else {
            return gap;
        };
        let paid = gap.min(beside.bytes);
        beside.bytes -= paid;
        gap - paid
    }

    /// Goes on without bytes that have been outstanding for too long.
    fn give_up_beside<F: FnMut(&Envelope, &[u8])>(
        &mut self,
        now: u64,
        work: &mut Work<'_, F>,
    ) -> Result<(), Foreign> {
        let outstanding = self.outstanding();
        let Some(beside) = self.beside.as_mut().filter(|beside| beside.open) else {
            return Ok(());
        };
        beside.least = beside.least.min(outstanding);
        if now <= beside.since.saturating_add(OUTSTANDING_NS) {
            return Ok(());
        }
        let missing = if now == u64::MAX {
            outstanding
        } else {
            beside.least
        };
        beside.since = now;
        beside.least = u32::MAX;
        beside.bytes = beside.bytes.saturating_add(missing);
        self.lose(missing, usize::MAX, work);
        self.balance(work)
    }
}

/// Most urgent bytes in a row: the process had read all other bytes before the next urgent one
/// came. Larger gaps come from another process that reads the same connection.
const URGENT_IN_A_ROW: i32 = 64;

/// Kinds of gaps before a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// The end of the stream, one urgent byte, or both: nothing is missing.
    Nothing,
    /// Urgent bytes, or bytes that another process has read.
    Doubtful,
    /// Bytes are missing.
    Missing,
}

impl Gap {
    fn of(ahead: i32, flags: u8, direction: Direction) -> Self {
        let received = direction == Direction::Received;
        let has = |flag| flags & flag != 0;
        // There is at most one of each.
        let ends = i32::from(has(EVENT_SHUT_DOWN));
        let urgent = i32::from(received && has(EVENT_URGENT));
        if (1..=ends + urgent).contains(&ahead) {
            Self::Nothing
        } else if (1..=URGENT_IN_A_ROW).contains(&ahead)
            && received
            && has(EVENT_URGENT | EVENT_URGENT_NEXT)
        {
            Self::Doubtful
        } else {
            Self::Missing
        }
    }
}

/// Returns the length of a piece, which is at most 1 MiB.
fn length(piece: &[u8]) -> u32 {
    u32::try_from(piece.len()).unwrap_or(0)
}
