//! Owns where the bytes come from: a file or standard input, decompressed if it is zstd.

use std::io::{self, Chain, Cursor, ErrorKind, Read};

use super::unzstd::{MAGIC, Place, Unzstd};

/// Bytes of Frame Streams.
pub(super) enum Source<R> {
    Plain(R),
    Zstd(Box<Unzstd<R>>),
}

impl<R: Read> Source<Chain<Cursor<Vec<u8>>, R>> {
    /// From its beginning, whatever it is.
    pub(super) fn open(mut bytes: R) -> io::Result<Self> {
        let mut head = Vec::new();
        while head.len() < MAGIC.len() {
            let mut rest = [0; MAGIC.len()];
            let wanted = &mut rest[head.len()..];
            match bytes.read(wanted) {
                Ok(0) => break,
                Ok(read) => head.extend_from_slice(&wanted[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let zstd = head == MAGIC;
        let bytes = Cursor::new(head).chain(bytes);
        Ok(if zstd {
            Self::Zstd(Box::new(Unzstd::new(bytes, Place::default())?))
        } else {
            Self::Plain(bytes)
        })
    }
}

impl<R> Source<R> {
    /// Whether offsets are those of what it decompresses to.
    pub(super) fn is_compressed(&self) -> bool {
        matches!(self, Self::Zstd(_))
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(bytes) => bytes.read(buffer),
            Self::Zstd(unzstd) => unzstd.read(buffer),
        }
    }
}
