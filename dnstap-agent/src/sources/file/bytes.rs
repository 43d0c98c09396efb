//! Bytes of a file or a pipe, decompressed if they are zstd, gzip, xz, bzip2 or lz4. `format`
//! recognises the compression by the first bytes.

use std::io::{self, Error, ErrorKind, Read};

use dnstap_proto::frame_streams::{DecodeError, Malformed, ReadError, Reader};

use super::{
    format::{Format, MEMORY, skip_frames},
    input::Input,
    members::Members,
    unzstd::{Place, Unzstd},
};

/// Bytes of Frame Streams.
pub(super) enum Bytes<R: Read> {
    /// Uncompressed.
    Plain(Input<R>),
    /// Decompressed; can start in the middle of the file.
    Zstd(Box<Unzstd<Input<R>>>),
    /// Decompressed.
    Others(Members<R>),
}

impl<R: Read> Bytes<R> {
    /// Opens the bytes from their beginning, in any of the formats.
    pub(super) fn open(bytes: R) -> io::Result<Self> {
        let mut input = Input::new(bytes);
        let format = match skip_frames(&mut input) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            format => format?,
        };
        Self::new(format.unwrap_or(Format::Plain), input, Place::default())
    }

    /// Continues at that position. In a zstd file, a zstd frame must begin there. Files with
    /// another compression can only be read from their beginning.
    pub(super) fn resume(bytes: R, format: Format, from: Place) -> io::Result<Self> {
        Self::new(format, Input::new(bytes), from)
    }

    fn new(format: Format, input: Input<R>, from: Place) -> io::Result<Self> {
        Ok(match format {
            Format::Zstd => Self::Zstd(Box::new(Unzstd::new(input, from)?)),
            other => match Members::new(other, input) {
                Ok(members) => Self::Others(members),
                Err(plain) => Self::Plain(plain),
            },
        })
    }

    /// Returns whether offsets refer to decompressed bytes.
    pub(super) const fn is_compressed(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Returns the last position before that of the plain bytes from which reading can be resumed;
    /// `None` if none is known.
    pub(super) fn last_before(&self, plain: u64) -> Option<Place> {
        match self {
            Self::Plain(_) => Some(Place { file: plain, plain }),
            Self::Zstd(unzstd) => unzstd.last_before(plain),
            Self::Others(_) => None,
        }
    }
}

/// Bytes that cannot be decompressed give an error of kind `InvalidData`. Compressed bytes that end
/// too early give `UnexpectedEof`.
impl<R: Read> Read for Bytes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(bytes) => bytes.read(buffer),
            Self::Zstd(unzstd) => unzstd.read(buffer).map_err(damaged),
            Self::Others(members) => members.read(buffer).map_err(damaged),
        }
    }
}

/// Skips the frame that could not be read because it is longer than the limit. Returns false if the
/// error is another one, or the frame is not complete.
pub(super) fn skip_long<R: Read>(reader: &mut Reader<R>, error: &ReadError) -> bool {
    let ReadError::Malformed(DecodeError { kind, .. }) = error else {
        return false;
    };
    matches!(kind, Malformed::DataTooLong { .. }) && reader.skip_frame().is_ok_and(|whole| whole)
}

/// Unifies the libraries' error kinds. Errors of the system have a number and stay.
fn damaged(error: Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::Interrupted => error,
        _ if error.raw_os_error().is_some() => error,
        ErrorKind::OutOfMemory => too_large(),
        _ => Error::new(ErrorKind::InvalidData, error),
    }
}

/// Error for a file that needs more than [`MEMORY`].
fn too_large() -> Error {
    let limit = MEMORY >> 20;
    Error::new(
        ErrorKind::InvalidData,
        format!(
            "this takes more than {limit} MiB of memory; decompress it by the program that compressed it, and pipe it to standard input"
        ),
    )
}

#[cfg(test)]
mod tests;
