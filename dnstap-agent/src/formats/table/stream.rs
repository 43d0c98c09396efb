//! A table that is written as one stream of bytes, without going back.

use dnstap_proto::Dnstap;

use super::{Directory, Group, HEAD, Limits, Table};
use crate::formats::render::socket;

/// Rows of a Parquet file that is written from its beginning to its end.
#[derive(Debug)]
pub struct Rows {
    table: Table,
    directory: Directory,
    /// Bytes of the file so far.
    offset: u64,
    /// Latest time of a message, by which queries wait for their responses.
    now: u64,
}

impl Default for Rows {
    fn default() -> Self {
        let table = Table::new(Limits::default());
        Self {
            directory: table.directory(),
            table,
            offset: HEAD.len() as u64,
            now: 0,
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
        self.now = self.now.max(time);
        let is_taken = self.table.take(dnstap, self.now);
        if self.table.is_full() {
            self.group(out);
        }
        is_taken
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
                self.directory = self.directory.with(&group, self.offset)?;
                self.offset += group.bytes.len() as u64;
                out.extend(group.bytes);
            }
            Ok(())
        });
        encoded.unwrap_or_else(|error| unreachable!("memory takes every byte: {error}"));
        self.table.clear();
    }
}
