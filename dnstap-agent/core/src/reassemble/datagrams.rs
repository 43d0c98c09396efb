//! Joins the chunks of a datagram into one message.
//!
//! A record of the perf ring holds at most 32 KiB of payload, so a larger datagram arrives as
//! several chunks. So may one that the process gathers from several segments. Nearly always a
//! message is whole in one chunk and does not pass this stage. TCP chunks do not pass it either:
//! they are pieces of a byte stream, which `tcp` puts in order.
//!
//! The chunks of one message are written by one thread on one CPU, so they arrive in order. Chunks
//! of other threads may lie between. If a chunk is missing, its message is given up: all its chunks
//! are counted and none is delivered.
//!
//! Conservation: every chunk pushed is joined, discarded or still pending.

use crate::{counters::counters, model::Direction, record::Chunk};

/// Most messages that may be in progress at once. Each tapped thread has at most one; above the
/// limit the oldest is given up.
const PENDING: usize = 64;

/// Nanoseconds of kernel time after which a message in progress is given up. Its chunks are written
/// microseconds apart, and the reader polls far more often.
const PATIENCE_NS: u64 = 2_000_000_000;

counters! {
    /// What became of the chunks of datagrams that travelled in several.
    pub struct AssembleCounters {
        /// Messages put together from several chunks.
        assembled_messages,
        /// Chunks that made up those.
        assembled_chunks,
        /// Messages given up because a chunk was missing.
        incomplete_messages,
        /// Chunks of those.
        incomplete_chunks,
    }
}

/// Puts chunks of datagrams together.
#[derive(Debug, Default)]
pub struct Assembler {
    pending: Vec<Partial>,
    spare: Vec<Vec<u8>>,
    done: Vec<u8>,
    counters: AssembleCounters,
}

/// Fields that all chunks of one message share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    ktime_ns: u64,
    socket: u64,
    tid: u32,
    message_len: u32,
    direction: Direction,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    bytes: Vec<u8>,
    chunks: u64,
    condemned: bool,
}

impl Assembler {
    /// Takes a chunk. Returns the message if this was the last one; it stays valid until the next
    /// call.
    pub fn push(&mut self, chunk: &Chunk<'_>) -> Option<&[u8]> {
        let key = Key {
            ktime_ns: chunk.envelope.ktime_ns,
            socket: chunk.envelope.socket,
            tid: chunk.envelope.origin.tid,
            message_len: chunk.message_len,
            direction: chunk.envelope.direction,
        };
        let at = match self.pending.iter().position(|partial| partial.key == key) {
            Some(at) => at,
            None => self.begin(key),
        };
        let partial = &mut self.pending[at];
        partial.chunks += 1;
        if !partial.condemned && partial.bytes.len() == chunk.chunk_offset as usize {
            partial.bytes.extend_from_slice(chunk.payload);
        } else if !partial.condemned {
            partial.condemned = true;
            partial.bytes.clear();
        }
        if !chunk.is_last() {
            return None;
        }
        if partial.condemned {
            self.give_up(at);
            return None;
        }
        let partial = self.pending.remove(at);
        self.counters.assembled_messages += 1;
        self.counters.assembled_chunks += partial.chunks;
        let spare = std::mem::replace(&mut self.done, partial.bytes);
        self.keep(spare);
        Some(&self.done)
    }

    /// Gives up messages that have waited too long at kernel time `now_ktime_ns`.
    pub fn tick(&mut self, now_ktime_ns: u64) {
        while self
            .pending
            .first()
            .is_some_and(|oldest| oldest.key.ktime_ns.saturating_add(PATIENCE_NS) < now_ktime_ns)
        {
            self.give_up(0);
        }
    }

    /// Gives up all messages in progress.
    pub fn finish(&mut self) {
        while !self.pending.is_empty() {
            self.give_up(0);
        }
    }

    /// Number of chunks of messages in progress.
    #[must_use]
    pub fn pending_chunks(&self) -> u64 {
        self.pending.iter().map(|partial| partial.chunks).sum()
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> &AssembleCounters {
        &self.counters
    }

    fn begin(&mut self, key: Key) -> usize {
        if self.pending.len() == PENDING {
            self.give_up(0);
        }
        let bytes = self.spare.pop().unwrap_or_default();
        self.pending.push(Partial {
            key,
            bytes,
            chunks: 0,
            condemned: false,
        });
        self.pending.len() - 1
    }

    fn give_up(&mut self, at: usize) {
        let partial = self.pending.remove(at);
        self.counters.incomplete_messages += 1;
        self.counters.incomplete_chunks += partial.chunks;
        self.keep(partial.bytes);
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < 4 && buffer.capacity() != 0 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::fixture::{chunk, header, parsed};

    fn records(tid: u32, message: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut header = header();
        header.tid = tid;
        header.message_len = u32::try_from(message.len()).unwrap();
        let mut records = Vec::new();
        for part in message.chunks(size) {
            records.push(chunk(header, part));
            header.chunk_offset += u32::try_from(part.len()).unwrap();
        }
        records
    }

    fn push(assembler: &mut Assembler, record: &[u8]) -> Option<Vec<u8>> {
        assembler.push(&parsed(record)).map(<[u8]>::to_vec)
    }

    #[test]
    fn interleaved_chunks_of_two_threads_give_both_messages() {
        let (first, second) = (vec![1; 70], vec![2; 50]);
        let (a, b) = (records(1, &first, 25), records(2, &second, 30));
        let mut assembler = Assembler::default();
        assert_eq!(push(&mut assembler, &a[0]), None);
        assert_eq!(push(&mut assembler, &b[0]), None);
        assert_eq!(push(&mut assembler, &a[1]), None);
        assert_eq!(push(&mut assembler, &b[1]), Some(second));
        assert_eq!(push(&mut assembler, &a[2]), Some(first));
        assert_eq!(assembler.counters().assembled_chunks, 5);
        assert_eq!(assembler.pending_chunks(), 0);
    }

    #[test]
    fn message_with_any_chunk_missing_is_counted_once_and_not_delivered() {
        for missing in 0..3 {
            let mut assembler = Assembler::default();
            for (number, record) in records(1, &[7; 90], 30).iter().enumerate() {
                if number != missing {
                    assert_eq!(push(&mut assembler, record), None);
                }
            }
            assembler.tick(1_000 + PATIENCE_NS + 1);
            assert_eq!(
                (
                    assembler.counters().incomplete_messages,
                    assembler.counters().incomplete_chunks
                ),
                (1, 2)
            );
        }
    }

    #[test]
    fn messages_in_progress_are_bounded() {
        let mut assembler = Assembler::default();
        for tid in 0..1_000 {
            push(&mut assembler, &records(tid, &[7; 90], 30)[0]);
        }
        assert_eq!(assembler.pending_chunks(), PENDING as u64);
        assembler.finish();
        assert_eq!(assembler.counters().incomplete_messages, 1_000);
    }
}
