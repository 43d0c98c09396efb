//! Bytes that were read from a source and are not decoded yet. This module decides how much is read at once.

use std::io::{self, Read};

use bytes::BytesMut;

/// Largest piece read at once: it needs few system calls, and is still in the CPU's cache when it is decoded.
pub(super) const MAX_READ: usize = 256 * 1024;

/// Smallest piece read at once, for sources that return little at a time.
const MIN_READ: usize = 8 * 1024;

#[derive(Debug)]
pub(super) struct Input {
    pub(super) bytes: BytesMut,
    /// Number of bytes to read next time.
    read_len: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            read_len: MAX_READ,
        }
    }

    /// Reads more bytes from the source. Returns their number; 0 at the end of the source.
    pub(super) fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        let have = self.bytes.len();
        self.bytes.resize(have + self.read_len, 0);
        let read = loop {
            match source.read(&mut self.bytes[have..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(have + *read.as_ref().unwrap_or(&0));
        let read = read?;
        // The buffer for a read must be zeroed each time, so it should not be much larger than what the source fills.
        self.read_len = if read == self.read_len {
            self.read_len * 2
        } else {
            read.next_power_of_two()
        }
        .clamp(MIN_READ, MAX_READ);
        Ok(read)
    }
}
