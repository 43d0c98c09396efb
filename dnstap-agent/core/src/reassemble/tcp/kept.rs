//! Received bytes that wait until the process's answer tells what they are.
//!
//! If the framing is unknown, several readings of the same bytes may make sense: a message may
//! contain others, and an incomplete one may look like one. The peer chooses the bytes, but not
//! which of them the process answers. So a reading counts if the process has answered a message in
//! it. Readings that follow the lengths from the start of a call come before those that the search
//! finds: the search knows only the usual messages, and these may lie inside an unusual one.

use crate::{
    dns::{Fit, HEADER, Message, PREFIX, fit_in, frame},
    model::Envelope,
    reassemble::tcp::search::Budget,
};

/// Position of the QR bit (RFC 1035 section 4.1.1), behind the length.
const QR: usize = 4;

/// Bytes of a question's type and class.
const TYPE_AND_CLASS: usize = 4;

/// Most pieces that are stored. Further pieces extend the last one, which gets their time.
const KEPT_PIECES: usize = 64;

/// An undecided stream: the pieces in the buffer, and the framing of the bytes that found no room
/// there.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Position in the buffer at which each piece ends.
    pub(super) pieces: Vec<(usize, Envelope)>,
    pub(super) beyond: Option<Beyond>,
    /// Ends of pieces behind which bytes may be missing. With each: bytes still to come of a
    /// message whose length is known. Only the process's answer can tell that no bytes are missing.
    holes: Vec<(usize, usize)>,
    /// Steps that weighing may still take, apart from the search.
    budget: Budget,
}

/// What an answer of the process says about the kept bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The lengths from this piece on lead to the message that was answered.
    Framed(usize),
    /// The search has to decide.
    Search,
    /// The answer says nothing; wait for another one.
    Wait,
}

impl Kept {
    /// Notes a piece that ends here.
    pub(super) fn add(&mut self, end: usize, envelope: Envelope) {
        let before = self.pieces.last().map_or(0, |(before, _)| *before);
        self.budget.earn(end.saturating_sub(before));
        let is_full = self.pieces.len() >= KEPT_PIECES;
        match self.pieces.last_mut() {
            Some(last) if last.0 == end => {}
            Some(last) if is_full => *last = (end, envelope),
            _ => self.pieces.push((end, envelope)),
        }
    }

    /// Notes that bytes may be missing behind the last piece, which ends here in the middle of a
    /// message with `rest` bytes still to come. Returns false if there is no room for the note.
    pub(super) fn add_hole(&mut self, end: usize, rest: usize) -> bool {
        let has_room = self.pieces.len() < KEPT_PIECES;
        let before = self.holes.last().copied();
        if has_room && end > 0 && before.is_none_or(|(before, _)| before != end) {
            let of_before = before.map_or(0, |(at, rest)| rest.saturating_sub(end - at));
            self.holes.push((end, rest.max(of_before)));
        }
        has_room
    }

    /// Returns whether bytes may be missing behind the piece that ends here, and how many bytes of
    /// a message are then still to come.
    pub(super) fn hole(&self, end: usize) -> Option<usize> {
        let hole = self.holes.iter().find(|(at, _)| *at == end);
        hole.map(|(_, rest)| *rest)
    }

    /// Bytes of memory in use.
    pub(super) fn memory(&self) -> usize {
        let holes = self.holes.capacity() * size_of::<(usize, usize)>();
        size_of::<Self>() + self.pieces.capacity() * size_of::<(usize, Envelope)>() + holes
    }

    /// Positions at which the pieces begin.
    fn starts(&self) -> impl Iterator<Item = usize> + '_ {
        let ends = self.pieces.iter().map(|(end, _)| *end);
        std::iter::once(0).chain(ends)
    }

    /// Returns the end of a message that begins at `start`, if the piece with the bytes behind its
    /// length ends there, too. Then it is a message, unless the peer made it look so, and a search
    /// must not look inside. A message shorter than a header has no inside.
    pub(super) fn closed(&self, bytes: &[u8], start: usize) -> Option<usize> {
        let total = frame(bytes.get(start..)?)?;
        let end = start + (total >= PREFIX).then_some(total)?;
        let mut ends = self.pieces.iter().map(|(end, _)| *end);
        (ends.find(|piece| *piece > start + 2) == Some(end)).then_some(end)
    }

    /// Weighs the kept bytes by a message that the process has sent.
    pub(super) fn weigh(&mut self, bytes: &[u8], message: &[u8]) -> Verdict {
        let Some(id) = message.first_chunk() else {
            return Verdict::Wait;
        };
        let mut budget = self.budget;
        let framed = self.framed_from(bytes, message, &mut budget);
        // If the process asks, what it receives does not depend on what it asks next.
        let asks = message.get(2).is_some_and(|flags| flags & 0x80 == 0);
        let verdict = match framed {
            Some(start) => Verdict::Framed(start),
            None if asks || self.holds(bytes, *id, &mut budget) || !budget.pay(0) => {
                Verdict::Search
            }
            None => Verdict::Wait,
        };
        self.budget = budget;
        verdict
    }

    /// Returns the start of a piece from which the lengths lead to a query that this message may
    /// answer. All messages on the way must be queries, because a process that answers receives no
    /// responses there.
    fn framed_from(&self, bytes: &[u8], message: &[u8], budget: &mut Budget) -> Option<usize> {
        self.starts().find(|start| {
            let mut rest = &bytes[*start..];
            while let Some(total) = frame(rest).filter(|total| *total <= rest.len())
                && budget.pay(1)
            {
                let (whole, behind) = rest.split_at(total);
                if whole.get(QR).is_some_and(|flags| flags & 0x80 != 0) {
                    return false;
                }
                if answers(message, &whole[2..]) {
                    return true;
                }
                rest = behind;
            }
            false
        })
    }

    /// Returns whether a search may find a message with this id.
    fn holds(&self, bytes: &[u8], id: [u8; 2], budget: &mut Budget) -> bool {
        let closed: Vec<_> = self
            .starts()
            .filter_map(|start| Some((start, self.closed(bytes, start)?)))
            .collect();
        budget.moved(bytes.len());
        let ids = bytes.windows(2).enumerate().skip(2);
        ids.filter(|(_, word)| **word == id).any(|(at, _)| {
            let start = at - 2;
            let mut steps = 0;
            let fits = matches!(fit_in(&bytes[start..], &mut steps), Fit::Whole(_));
            let is_inside = |(from, to): &(usize, usize)| *from < start && start < *to;
            budget.pay(steps) && fits && !closed.iter().any(is_inside)
        })
    }
}

/// Returns whether a message may answer a query: it has the same id, and the same name if it has a
/// question. A server may not send back the other parts of an unusual query.
fn answers(message: &[u8], query: &[u8]) -> bool {
    let question = Message::parse(message).and_then(|message| message.question);
    message.get(..2) == query.get(..2)
        && question.is_none_or(|question| {
            let name = &question[..question.len().saturating_sub(TYPE_AND_CLASS)];
            let asked = query.get(HEADER..HEADER + name.len());
            asked.is_some_and(|asked| asked.eq_ignore_ascii_case(name))
        })
}

/// Framing of bytes that are not kept.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    /// Bytes still to come of the current message.
    pub(super) rest: usize,
    /// First byte of its length, if the second has not come yet.
    pub(super) half: Option<u8>,
    /// Messages that began in these bytes.
    pub(super) messages: u64,
}

impl Beyond {
    /// Starts behind bytes that are kept.
    pub(super) fn behind(kept: &[u8]) -> Self {
        let mut beyond = Self::default();
        beyond.pass(kept);
        beyond.messages = 0;
        beyond
    }

    /// Continues with bytes that begin with a length.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&first, behind)) = bytes.split_first() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len());
                self.rest -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            match self.half.take() {
                None => self.half = Some(first),
                Some(high) => {
                    self.rest = usize::from(u16::from_be_bytes([high, first]));
                    self.messages += u64::from(self.rest > 0);
                }
            }
            bytes = behind;
        }
    }
}
