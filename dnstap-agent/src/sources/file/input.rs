//! A reader with look-ahead for the bytes of a file or a pipe.

use std::io::{self, BufRead, ErrorKind, Read};

/// Bytes that are requested from the source at once.
const PIECE: usize = 64 * 1024;

/// Requests of at least this size are read without a copy.
const MANY: usize = 4 * 1024;

/// A source with look-ahead.
#[derive(Debug)]
pub(crate) struct Input<R> {
    source: R,
    /// Buffered bytes; those from `at` on are not yet consumed.
    bytes: Vec<u8>,
    at: usize,
}

impl<R: Read> Input<R> {
    pub(super) const fn new(source: R) -> Self {
        Self {
            source,
            bytes: Vec::new(),
            at: 0,
        }
    }

    /// Returns the next bytes without consuming them: at least `count`, unless the source ends
    /// before.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.bytes.len() - self.at < count && self.fill()? > 0 {}
        Ok(&self.bytes[self.at..])
    }

    /// Skips bytes. Returns false if the source ends before.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<bool> {
        Ok(io::copy(&mut self.take(count), &mut io::sink())? == count)
    }

    /// Reads more bytes into the buffer. Returns 0 at the end of the source.
    fn fill(&mut self) -> io::Result<usize> {
        self.bytes.drain(..self.at);
        self.at = 0;
        let have = self.bytes.len();
        self.bytes.resize(have + PIECE, 0);
        let read = loop {
            match self.source.read(&mut self.bytes[have..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(have + *read.as_ref().unwrap_or(&0));
        read
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.bytes.len() && out.len() >= MANY {
            return self.source.read(out);
        }
        let taken = self.fill_buf()?.read(out)?;
        self.consume(taken);
        Ok(taken)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}
