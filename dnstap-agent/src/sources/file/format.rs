//! Compression formats, recognised by a file's first bytes, never by its name.

use std::io::{self, ErrorKind, Read};

use super::input::Input;

/// Most memory for decompressing a file: the window of zstd (`--ultra --long=27`), the dictionary
/// of xz (`-9`: 64 MiB). Files that need more are refused. They are rare, and a file must not be
/// able to use all memory.
pub(super) const MEMORY: usize = 128 << 20;

/// Compression format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Not compressed, or in an unknown format.
    Plain,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
    /// The .xz file format, version 1.2.1.
    Xz,
    /// `bzip2`, which has no specification.
    Bzip2,
    /// The LZ4 frame format, version 1.6.3, and the older one.
    Lz4,
}

/// First bytes of each format.
const MAGICS: [(&[u8], Format); 6] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], Format::Zstd),
    (&[0x1f, 0x8b], Format::Gzip),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Format::Xz),
    (b"BZh", Format::Bzip2),
    (&[0x04, 0x22, 0x4d, 0x18], Format::Lz4),
    (&[0x02, 0x21, 0x4c, 0x18], Format::Lz4),
];

/// Bytes that identify a format. For a skippable frame: magic number and length.
const HEAD: usize = 8;

impl Format {
    /// Returns the name for messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "nothing",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
        }
    }

    /// Recognises the format of these bytes; `None` if there are too few.
    pub(super) fn of(bytes: impl Read) -> io::Result<Option<Self>> {
        let mut input = Input::new(bytes);
        match skip_frames(&mut input) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Ok(Some(Self::Plain)) if input.peek(HEAD)?.len() < HEAD => Ok(None),
            format => format,
        }
    }
}

/// Skips skippable frames, which zstd and lz4 share. Returns the format of the following bytes;
/// `None` at the end.
pub(super) fn skip_frames(input: &mut Input<impl Read>) -> io::Result<Option<Format>> {
    loop {
        let head = input.peek(HEAD)?;
        if head.is_empty() {
            return Ok(None);
        }
        let &[0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, ..] = head else {
            let known = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
            return Ok(Some(known.map_or(Format::Plain, |(_, format)| *format)));
        };
        if !input.skip(8 + u64::from(u32::from_le_bytes([a, b, c, d])))? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}
