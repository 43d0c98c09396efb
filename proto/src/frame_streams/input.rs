//! Bytes that a source has given and that are not decoded yet. Owns how much is asked of the source at once.

use std::io::{self, Read};

use bytes::BytesMut;

/// Largest piece asked of the source at once: few system calls, and still in the cache when it is decoded.
pub(super) const MAX_READ: usize = 256 * 1024;

/// Smallest piece asked of the source at once, for sources that give little at a time.
const MIN_READ: usize = 8 * 1024;

#[derive(Debug)]
pub(super) struct Input {
    pub(super) bytes: BytesMut,
    /// Bytes to ask of the source next time.
    read_len: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            read_len: MAX_READ,
        }
    }

    /// Adds bytes of the source; 0 at the source's end.
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
        // The room asked for must be zeroed each time; do not zero much more than the source fills.
        self.read_len = if read == self.read_len {
            self.read_len * 2
        } else {
            read.next_power_of_two()
        }
        .clamp(MIN_READ, MAX_READ);
        Ok(read)
    }
}
