//! Joins queries with their responses: each message waits for the other one.
//!
//! A query and its response have the same family of types, transport, peer and id, and ask the same. The peer is the end
//! that is not the recording server; its own address is often unknown in one of the two. A response without a question
//! (a terse error) matches without it. Of several queries that match, a response takes the one whose time it repeats,
//! or else the oldest.
//!
//! Threads of a server may write a response before its query, so a response waits, too, but only [`RESPONSE_WAITS`].
//!
//! The number of waiting messages and their memory are bounded. The one that has waited longest makes room.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher as _,
    time::Duration,
};

use foldhash::fast::RandomState;

use super::exchange::Exchange;

/// Time for which a response without a query waits for it.
const RESPONSE_WAITS: Duration = Duration::from_secs(1);

/// Most messages that wait with one key. Look-ups stay fast if a peer repeats one id.
const SAME_KEY: u64 = 16;

/// Most messages that wait.
pub(super) const MOST: usize = 1 << 16;

/// Messages that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Entries by their key. Those with the same key follow each other: key, key + 1, ..., oldest first.
    entries: HashMap<u64, Entry, RandomState>,
    /// Times of arrival, numbers and keys of waiting queries and responses, and of some that no longer wait.
    order: [VecDeque<(u64, u64, u64)>; 2],
    waits: [u64; 2],
    number: u64,
    /// Most bytes of the entries.
    room: usize,
    /// Bytes of the entries.
    size: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    is_response: bool,
    exchange: Exchange,
}

/// Messages that wait no longer, and whether the bound is the reason.
pub(super) type Out<'a> = dyn FnMut(Exchange, bool) + 'a;

impl Waiting {
    /// Creates a table of so many bytes in which a query waits for so long.
    pub(super) fn new(room: usize, query_waits: Duration) -> Self {
        Self {
            entries: HashMap::default(),
            order: [VecDeque::new(), VecDeque::new()],
            waits: [query_waits, RESPONSE_WAITS]
                .map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            number: 0,
            room,
            size: 0,
        }
    }

    /// Returns the number of messages that wait.
    pub(super) fn messages(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns the bytes of memory that they take, about.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Takes a message at the time `now`, in nanoseconds. Hands over the exchange that it completes, and what makes room.
    pub(super) fn take(
        &mut self,
        mut message: Exchange,
        is_response: bool,
        now: u64,
        out: &mut Out<'_>,
    ) {
        let first = self.key(&message);
        let mut end = first;
        let mut partner = None;
        let mut is_exact = false;
        while let Some(entry) = self.entries.get(&end) {
            let is_other = entry.is_response != is_response && entry.fits(&message);
            if is_other && !is_exact {
                is_exact =
                    message.times[0].is_some() && entry.exchange.times[0] == message.times[0];
                if is_exact || partner.is_none() {
                    partner = Some(end);
                }
            }
            end = end.wrapping_add(1);
        }
        if let Some(partner) = partner
            && let Some(entry) = self.remove(partner)
        {
            if is_response {
                let mut query = entry.exchange;
                query.answer(message);
                return out(query, false);
            }
            message.answer(entry.exchange);
            return out(message, false);
        }
        if end.wrapping_sub(first) >= SAME_KEY
            && let Some(oldest) = self.remove(first)
        {
            out(oldest.exchange, true);
            end = end.wrapping_sub(1);
        }
        self.number += 1;
        self.size += message.size();
        self.order[usize::from(is_response)].push_back((now, self.number, end));
        let entry = Entry {
            number: self.number,
            is_response,
            exchange: message,
        };
        self.entries.insert(end, entry);
        self.give_up(now, out);
    }

    /// Hands over the messages that have waited long enough at the time `now`, and the oldest if there are too many.
    pub(super) fn give_up(&mut self, now: u64, out: &mut Out<'_>) {
        for side in 0..2 {
            if self.order[side].len() > 2 * MOST {
                // Most of these no longer wait.
                let mut order = std::mem::take(&mut self.order[side]);
                order.retain(|&(_, number, key)| self.place(key, number).is_some());
                self.order[side] = order;
            }
            while let Some(&(since, number, key)) = self.order[side].front() {
                let is_over = since.saturating_add(self.waits[side]) <= now;
                let is_full = self.entries.len() > MOST || self.size > self.room;
                if !is_over && !is_full {
                    break;
                }
                self.order[side].pop_front();
                let place = self.place(key, number);
                if let Some(entry) = place.and_then(|key| self.remove(key)) {
                    out(entry.exchange, !is_over);
                }
            }
        }
    }

    /// Hands over all messages.
    pub(super) fn end(&mut self, out: &mut Out<'_>) {
        for (_, entry) in self.entries.drain() {
            out(entry.exchange, false);
        }
        self.order = [VecDeque::new(), VecDeque::new()];
        self.size = 0;
    }

    fn key(&self, message: &Exchange) -> u64 {
        let peer = message.peer();
        let id = message.asked().map(|header| header.id);
        let kind = message.kind.map(|kind| kind as i32);
        // The last byte is free for entries with the same key.
        self.entries
            .hasher()
            .hash_one((kind, message.protocol, peer.address, peer.port, id))
            << 8
    }

    /// Returns the key of the entry with that number. It can be lower than the one at which it was added.
    fn place(&self, mut key: u64, number: u64) -> Option<u64> {
        loop {
            match self.entries.get(&key) {
                Some(entry) if entry.number == number => return Some(key),
                _ if key.trailing_zeros() >= 8 => return None,
                _ => key -= 1,
            }
        }
    }

    /// Removes an entry, and moves those behind it.
    fn remove(&mut self, mut key: u64) -> Option<Entry> {
        let removed = self.entries.remove(&key)?;
        self.size = self.size.saturating_sub(removed.exchange.size());
        while let Some(next) = self.entries.remove(&key.wrapping_add(1)) {
            self.entries.insert(key, next);
            key = key.wrapping_add(1);
        }
        Some(removed)
    }
}

impl Entry {
    /// Returns whether the message can be the other one of this exchange.
    fn fits(&self, message: &Exchange) -> bool {
        let questions = [&self.exchange.question, &message.question];
        match questions {
            [Some(one), Some(other)] => one.is_same(other),
            _ => true,
        }
    }
}
