//! One direction of one connection: pieces with sequence numbers in, their bytes in order to the [`Framer`].
//!
//! Sequence numbers are TCP's, 32 bits and wrapping (RFC 9293 section 3.4). A piece that was seen before is dropped,
//! also in part. One that comes too early waits for those before it, for a bounded time and in a bounded buffer; after
//! that the bytes between are given up as lost.

use crate::{
    event::Envelope,
    stream::{
        framing::Framer,
        search::Foreign,
        work::{Pool, Work},
    },
};

/// Pieces and bytes that arrived ahead of their turn and wait for those before them.
const HELD_PIECES: usize = 32;
const HELD_BYTES: usize = 128 * 1024;

/// Nanoseconds of kernel time for which they wait. Pieces overtake each other only as long as the reader takes to visit
/// all rings, which is milliseconds.
pub(super) const HOLD_NS: u64 = 200_000_000;

/// A jump of the sequence number further than this is not a matter of order.
const FAR: u32 = 1 << 24;

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
    framer: Framer,
    started: bool,
    /// Sequence number of the next byte.
    next: u32,
    /// Pieces that wait, in the order of their sequence numbers.
    held: Vec<Held>,
}

impl Stream {
    /// A stream of which nothing was seen. `midway`: earlier bytes may have passed unseen.
    pub(super) fn new(midway: bool) -> Self {
        Self {
            framer: Framer::new(midway),
            started: false,
            next: 0,
            held: Vec::new(),
        }
    }

    /// Tells a stream that has not begun that bytes were lost before.
    pub(super) fn join_midway(&mut self) {
        if !self.started {
            self.framer.join_midway();
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
            self.framer.lose(usize::MAX, work);
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
            self.framer.lose(missing as usize, work);
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

    /// Whether the next byte begins a message for certain, or the stream has not begun.
    pub(super) fn is_between_messages(&self) -> bool {
        self.held.is_empty() && self.framer.is_between_messages()
    }

    /// Bytes taken and not yet accounted for.
    pub(super) fn pending_bytes(&self) -> usize {
        self.framer.pending_bytes() + self.held.iter().map(|held| held.bytes.len()).sum::<usize>()
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        self.framer.memory()
            + self
                .held
                .iter()
                .map(|held| held.bytes.capacity())
                .sum::<usize>()
    }

    /// Gives up the buffers; the number of bytes that they held.
    pub(super) fn abandon(&mut self, pool: &mut Pool) -> usize {
        let bytes = self.pending_bytes();
        self.framer.abandon(pool);
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
        self.framer.accept(piece, work)
    }
}
