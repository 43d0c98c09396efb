//! Owns the way from files of gzip, bzip2, lz4 and xz back to what was compressed, by a library each. Such a file has one or more members
//! (streams, frames) behind each other, and each may be of another format; skippable frames and zeros between them are passed over.

use std::io::{self, BufRead as _, Error, ErrorKind, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::{Action, Status, XzStream};

use super::{
    format::{Format, MEMORY, skip_frames},
    input::Input,
};

/// Decompresses members, one after the other. The end of the file within a member is an error of kind `UnexpectedEof`, after everything
/// that could be read; only lz4 cannot tell it from an end between members if it is between two blocks.
pub(crate) struct Members<R: Read> {
    /// None once an error has come.
    member: Option<Member<R>>,
}

enum Member<R: Read> {
    Gzip(Box<GzDecoder<Input<R>>>),
    Bzip2(BzDecoder<Input<R>>),
    Lz4(Box<FrameDecoder<Input<R>>>),
    Xz(Box<Unxz<R>>),
}

impl<R: Read> Members<R> {
    /// From a member of this format on; the input again if it is none of those that are read here.
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

    /// What comes behind it.
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

/// The IO around the decoder of one xz stream, whose own reader loses what stands before a cut.
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
