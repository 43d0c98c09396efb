//! Messages that wait for others: queries for their responses ([`bind`](crate::classify::bind)),
//! and responses for a query that may come later ([`unasked`](super::unasked)).
//!
//! The queue is bounded by number, bytes and age. The oldest message is released first, with what
//! is known then. A ticket finds a message when the awaited one comes.

use std::collections::VecDeque;

use crate::{
    dns::Flags,
    model::{Envelope, Finding, Subject},
};

const ENTRIES: usize = 65_536;
const BYTES: usize = 16 << 20;

/// A message that can wait.
pub(super) trait Waits {
    /// Returns its size in bytes.
    fn bytes(&self) -> usize;
    /// Returns the kernel time since which it waits.
    fn ktime_ns(&self) -> u64;
}

/// A query that is not classified yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) envelope: Envelope,
    pub(super) finding: Finding,
    pub(super) flags: Flags,
    pub(super) subject: Subject,
    pub(super) bytes: Vec<u8>,
}

impl Waits for Waiting {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn ktime_ns(&self) -> u64 {
        self.envelope.ktime_ns
    }
}

/// Queue of waiting messages, in order of arrival.
#[derive(Debug)]
pub(super) struct Held<W> {
    queue: VecDeque<Option<W>>,
    /// Ticket of the queue's first slot.
    first: u64,
    waiting: u64,
    bytes: usize,
}

impl<W> Default for Held<W> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            first: 0,
            waiting: 0,
            bytes: 0,
        }
    }
}

impl<W: Waits> Held<W> {
    /// Adds a message. Returns its ticket.
    pub(super) fn put(&mut self, waiting: W) -> u64 {
        self.waiting += 1;
        self.bytes += waiting.bytes();
        self.queue.push_back(Some(waiting));
        self.first + self.queue.len() as u64 - 1
    }

    /// Returns the message of a ticket, if it still waits.
    pub(super) fn get(&self, ticket: u64) -> Option<&W> {
        let at = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.queue.get(at)?.as_ref()
    }

    /// Removes and returns the message of a ticket, if it still waits.
    pub(super) fn take(&mut self, ticket: u64) -> Option<W> {
        let at = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        let waiting = self.queue.get_mut(at)?.take()?;
        self.gone(&waiting);
        self.trim();
        Some(waiting)
    }

    /// Removes and returns the oldest message if there are too many, or if it is older than kernel
    /// time `before`.
    pub(super) fn overdue(&mut self, before: u64) -> Option<W> {
        let oldest = self.queue.front()?.as_ref()?;
        let full = self.queue.len() > ENTRIES || self.bytes > BYTES;
        if !full && oldest.ktime_ns() >= before {
            return None;
        }
        let waiting = self.queue.pop_front()??;
        self.first += 1;
        self.gone(&waiting);
        self.trim();
        Some(waiting)
    }

    /// Returns the number of waiting messages.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    fn gone(&mut self, waiting: &W) {
        self.waiting -= 1;
        self.bytes -= waiting.bytes();
    }

    /// Removes empty slots at the front, so that the first slot, if any, has a message.
    fn trim(&mut self) {
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Kind, Role},
        record::fixture,
    };

    fn waiting(ktime_ns: u64, length: usize) -> Waiting {
        let mut header = fixture::header();
        header.ktime_ns = ktime_ns;
        Waiting {
            envelope: fixture::parsed(&fixture::whole(header, b"x")).envelope,
            finding: Finding {
                role: Role::Responder,
                kind: Kind::Client,
                response: false,
                query_time_ns: None,
                response_time_ns: None,
            },
            flags: Flags(0x0100),
            subject: Subject::Query,
            bytes: vec![0; length],
        }
    }

    #[test]
    fn a_ticket_gives_its_query_once() {
        let mut held = Held::default();
        let tickets: Vec<_> = (0..4).map(|at| held.put(waiting(at, 10))).collect();
        for at in [2, 0, 1, 3] {
            let taken = held.take(tickets[at]).unwrap();
            assert_eq!(taken.envelope.ktime_ns, at as u64);
            assert!(held.take(tickets[at]).is_none());
        }
        assert_eq!((held.waiting(), held.bytes, held.queue.len()), (0, 0, 0));
        let next = held.put(waiting(9, 1));
        assert!(held.take(next).is_some());
    }

    #[test]
    fn the_old_and_those_beyond_the_bounds_go() {
        let mut held = Held::default();
        let tickets: Vec<_> = (0..10).map(|at| held.put(waiting(at, 1))).collect();
        assert_eq!(std::iter::from_fn(|| held.overdue(4)).count(), 4);
        assert!(held.take(tickets[3]).is_none(), "it has gone");
        assert_eq!(held.take(tickets[5]).unwrap().envelope.ktime_ns, 5);
        for at in 0..300 {
            held.put(waiting(100 + at, 65_535));
        }
        while held.overdue(0).is_some() {}
        assert!(held.bytes <= BYTES && held.waiting() > 200);
        for _ in 0..ENTRIES + 5 {
            held.put(waiting(1_000, 0));
            while held.overdue(0).is_some() {}
        }
        assert!(held.queue.len() <= ENTRIES);
    }
}
