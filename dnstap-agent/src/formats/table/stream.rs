//! A table that is written as one stream of bytes, without going back.

use dnstap_proto::Dnstap;

use super::{Directory, Group, HEAD, Limits, Table};
use crate::formats::render::socket;

/// Longest step of the time between two messages, in nanoseconds: the time that a query waits.
const STEP_NS: u64 = 15_000_000_000;

/// Messages may be so much out of order, in nanoseconds. A larger step back is another time, not disorder.
const LATE_NS: u64 = 1_000_000_000;

/// Rows of a Parquet file that is written from its beginning to its end.
#[derive(Debug)]
pub struct Rows {
    table: Table,
    directory: Directory,
    /// Bytes of the file so far.
    offset: u64,
    /// Time by which queries wait for their responses, in nanoseconds. It goes with the times of the messages.
    now: u64,
    /// Time of the last message; 0: none had a time.
    seen: u64,
}

impl Default for Rows {
    fn default() -> Self {
        let table = Table::new(Limits::default());
        Self {
            directory: table.directory(),
            table,
            offset: HEAD.len() as u64,
            now: 0,
            seen: 0,
        }
    }
}

impl Rows {
    /// Takes a message, and appends a row group if there are enough rows. Returns false if the frame has no message.
    pub(in crate::formats) fn message(&mut self, dnstap: &Dnstap, out: &mut Vec<u8>) -> bool {
        let time = dnstap.message.as_ref().and_then(socket::own_time);
        let time = time.map_or(0, |(seconds, nanoseconds)| {
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds.into())
        });
        self.advance(time);
        let is_taken = self.table.take(dnstap, self.now);
        if self.table.is_full() {
            self.group(out);
        }
        is_taken
    }

    /// Advances the time. One message with a wrong time must not end the wait of all others, nor stop the time.
    fn advance(&mut self, time: u64) {
        if time == 0 {
            return;
        }
        let ahead = time.saturating_sub(self.seen);
        if ahead > 0 || self.seen - time > LATE_NS {
            self.seen = time;
        }
        self.now = self.now.saturating_add(ahead.min(STEP_NS));
    }

    /// Returns the rest of the file.
    pub(in crate::formats) fn end(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.table.end();
        self.group(&mut out);
        let foot = self.directory.foot();
        out.extend(foot.unwrap_or_else(|error| unreachable!("memory takes every byte: {error}")));
        out
    }

    fn group(&mut self, out: &mut Vec<u8>) {
        let encoded = self.table.encode().and_then(|group: Option<Group>| {
            if let Some(group) = group {
                self.directory.push(&group, self.offset)?;
                self.offset += group.bytes.len() as u64;
                out.extend(group.bytes);
            }
            Ok(())
        });
        encoded.unwrap_or_else(|error| unreachable!("memory takes every byte: {error}"));
        self.table.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_time_does_not_end_the_wait_of_others() {
        let second = 1_000_000_000;
        for wrong in [u64::MAX, 4_000_000_000 * second, 1] {
            let mut rows = Rows::default();
            rows.advance(1_700_000_000 * second);
            let before = rows.now;
            for time in [wrong, 1_700_000_001 * second, 1_700_000_002 * second] {
                rows.advance(time);
            }
            let passed = rows.now - before;
            assert!(
                (second..=3 * STEP_NS).contains(&passed),
                "{wrong}: {passed}"
            );
        }
    }
}
