//! Decompression of gzip, bzip2, lz4 and xz, with a library for each. A file has one or more
//! members (streams, frames) in sequence, and each may have another format. Skippable frames and
//! zeros between them are skipped.

use std::io::{self, BufRead as _, Error, ErrorKind, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::{Action, Status, XzStream};

use super::{
    format::{Format, MEMORY, skip_frames},
    input::Input,
};

/// Decompresses members, one after the other. If the file ends within a member, an error of kind
/// `UnexpectedEof` follows after all readable bytes. The exception is lz4, which cannot tell an end
/// between two blocks from an end between members.
pub(crate) struct Members<R: Read> {
    /// Current member; `None` after an error.
    member: Option<Member<R>>,
}

enum Member<R: Read> {
    Gzip(Box<GzDecoder<Input<R>>>),
    Bzip2(BzDecoder<Input<R>>),
    Lz4(Box<FrameDecoder<Input<R>>>),
    Xz(Box<Unxz<R>>),
}

impl<R: Read> Members<R> {
    /// Starts with a member of this format. Returns the input if it has none of the formats handled
    /// here.
    pub(super) fn new(format: Format, input: Input<R>) -> Result<Self, Input<R>> {
        Member::new(format, input).map(|member| Self {
            member: Some(member),
        })
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(mut member) = self.member.take() else {
                return Ok(0);
            };
            let read = member.read(out)?;
            if read > 0 || out.is_empty() {
                self.member = Some(member);
                return Ok(read);
            }
            let mut input = member.into_input();
            skip_zeros(&mut input)?;
            let Some(format) = skip_frames(&mut input)? else {
                return Ok(0);
            };
            let next = Member::new(format, input).map_err(|_other| {
                let text = "what follows is not compressed by gzip, xz, bzip2 or lz4";
                Error::new(ErrorKind::InvalidData, text)
            })?;
            self.member = Some(next);
        }
    }
}

fn skip_zeros(input: &mut Input<impl Read>) -> io::Result<()> {
    loop {
        let next = input.fill_buf()?;
        let zeros = next.iter().take_while(|byte| **byte == 0).count();
        if zeros == 0 {
            return Ok(());
        }
        input.consume(zeros);
    }
}

impl<R: Read> Member<R> {
    fn new(format: Format, input: Input<R>) -> Result<Self, Input<R>> {
        Ok(match format {
            Format::Gzip => Self::Gzip(Box::new(GzDecoder::new(input))),
            Format::Bzip2 => Self::Bzip2(BzDecoder::new(input)),
            Format::Lz4 => Self::Lz4(Box::new(FrameDecoder::new(input))),
            Format::Xz => Self::Xz(Box::new(Unxz::new(input))),
            Format::Plain | Format::Zstd => return Err(input),
        })
    }

    /// Returns the bytes behind the member.
    fn into_input(self) -> Input<R> {
        match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Bzip2(decoder) => decoder.into_inner(),
            Self::Lz4(decoder) => decoder.into_inner(),
            Self::Xz(decoder) => decoder.input,
        }
    }
}

impl<R: Read> Read for Member<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(out),
            Self::Bzip2(decoder) => decoder.read(out),
            Self::Lz4(decoder) => decoder.read(out),
            Self::Xz(decoder) => decoder.read(out),
        }
    }
}

/// IO for the decoder of one xz stream. The library's own reader loses the bytes in front of a cut.
struct Unxz<R> {
    input: Input<R>,
    decoder: XzStream,
}

impl<R: Read> Unxz<R> {
    fn new(input: Input<R>) -> Self {
        let kibibytes = u32::try_from(MEMORY >> 10).unwrap_or(u32::MAX);
        Self {
            input,
            decoder: XzStream::new_mem_limit(false, kibibytes),
        }
    }
}

impl<R: Read> Read for Unxz<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.input.fill_buf()?;
            let ended = input.is_empty();
            let done = self.decoder.process(input, out, Action::Run)?;
            self.input.consume(done.bytes_consumed);
            if done.bytes_produced > 0 || done.status == Status::StreamEnd || out.is_empty() {
                return Ok(done.bytes_produced);
            }
            if ended {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
