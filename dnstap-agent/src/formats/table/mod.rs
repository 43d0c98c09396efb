//! Messages as a table: one row for each exchange, in Parquet.
//!
//! ```text
//! message ─► exchange ─► waiting: joined with its query or response ─► rows ─► group: sorted, column by column
//! ```
//!
//! This module takes messages with times, and returns bytes. `columns` has the schema, which `docs/parquet.md` describes
//! for users. Memory is bounded.

mod columns;
mod exchange;
mod group;
mod stream;
mod waiting;

use std::time::Duration;

use dnstap_proto::Dnstap;
use parquet::errors::Result;

pub(crate) use self::group::{Directory, Group, HEAD};
pub use self::stream::Rows;
use self::{
    columns::Layout,
    exchange::{Exchange, Known},
    waiting::Waiting,
};

/// Most rows of a row group.
const ROWS: usize = 1 << 17;

/// Bounds of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of memory for rows and waiting messages. Encoding a row group takes up to twice as much in addition.
    pub(crate) memory: usize,
    /// Time for which a query waits for its response.
    pub(crate) unanswered: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 32 << 20,
            unanswered: Duration::from_secs(15),
        }
    }
}

/// Rows that are not written yet.
#[derive(Debug)]
pub(crate) struct Table {
    limits: Limits,
    layout: Layout,
    waiting: Waiting,
    known: Known,
    rows: Pending,
}

/// Rows of the next row group.
#[derive(Debug, Default)]
struct Pending {
    exchanges: Vec<Exchange>,
    /// Bytes of memory that they take.
    size: usize,
    messages: u64,
    /// Messages that became rows because too many waited, since the start.
    evicted: u64,
}

impl Pending {
    fn push(&mut self, exchange: Exchange, is_evicted: bool) {
        self.size += exchange.size();
        self.messages += u64::from(exchange.messages);
        self.evicted += u64::from(is_evicted);
        self.exchanges.push(exchange);
    }
}

impl Table {
    /// Creates an empty table.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            layout: Layout::new(),
            waiting: Waiting::new(limits.memory / 2, limits.unanswered),
            known: Known::default(),
            rows: Pending::default(),
        }
    }

    /// Takes a message that came at the time `now`, in nanoseconds since any moment. Returns false if the frame has none.
    pub(crate) fn take(&mut self, dnstap: &Dnstap, now: u64) -> bool {
        let Some((message, is_response)) = Exchange::of(dnstap, &mut self.known) else {
            return false;
        };
        let rows = &mut self.rows;
        let out = &mut |exchange, is_evicted| rows.push(exchange, is_evicted);
        self.waiting.take(message, is_response, now, out);
        true
    }

    /// Makes rows of the messages that have waited long enough at the time `now`.
    pub(crate) fn give_up(&mut self, now: u64) {
        let rows = &mut self.rows;
        let out = &mut |exchange, is_evicted| rows.push(exchange, is_evicted);
        self.waiting.give_up(now, out);
    }

    /// Makes rows of all messages that wait.
    pub(crate) fn end(&mut self) {
        let rows = &mut self.rows;
        let out = &mut |exchange, is_evicted| rows.push(exchange, is_evicted);
        self.waiting.end(out);
    }

    /// Returns whether the rows should be written before more messages are taken.
    pub(crate) fn is_full(&self) -> bool {
        let size = self.rows.size + self.waiting.size();
        self.rows.exchanges.len() >= ROWS
            || (size >= self.limits.memory && !self.rows.exchanges.is_empty())
    }

    /// Returns the number of messages in the table.
    pub(crate) fn messages(&self) -> u64 {
        self.rows.messages + self.waiting.messages()
    }

    /// Returns the number of messages that became rows without their partner because too many waited.
    pub(crate) fn evicted(&self) -> u64 {
        self.rows.evicted
    }

    /// Returns a directory without row groups, for a new file.
    pub(crate) fn directory(&self) -> Directory {
        self.layout.directory()
    }

    /// Encodes the rows as a row group. They stay until [`Self::clear`]. Returns `None` if there are none.
    pub(crate) fn encode(&self) -> Result<Option<Group>> {
        if self.rows.exchanges.is_empty() {
            return Ok(None);
        }
        self.layout.encode(&self.rows.exchanges).map(Some)
    }

    /// Forgets the rows, which are written.
    pub(crate) fn clear(&mut self) {
        self.rows = Pending {
            exchanges: std::mem::take(&mut self.rows.exchanges),
            evicted: self.rows.evicted,
            ..Pending::default()
        };
        self.rows.exchanges.clear();
        self.known.clear();
    }
}

#[cfg(test)]
mod tests;
