//! Decompression of zstd files, with the positions of their zstd frames, at which reading can be
//! resumed.

use std::io::{self, Error, ErrorKind, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::format::MEMORY;

/// Bytes that are requested from the file at once.
const PIECE: usize = 128 * 1024;

/// Position at which a zstd frame begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Position in the file.
    pub(crate) file: u64,
    /// Position in the decompressed bytes.
    pub(crate) plain: u64,
}

/// Decompresses zstd frames, one after the other. If the file ends within a frame, an error of kind
/// `UnexpectedEof` follows after all readable bytes. Bytes that are no zstd give an error of kind
/// `InvalidData`.
pub(crate) struct Unzstd<R> {
    source: R,
    decoder: Decoder<'static>,
    input: Box<[u8]>,
    /// Range of `input` that is still to be decompressed.
    at: usize,
    end: usize,
    here: Place,
    /// Positions of the frames begun so far.
    frames: Vec<Place>,
    within_frame: bool,
    /// Whether the decoder may have more output without more input.
    has_more: bool,
}

impl<R: Read> Unzstd<R> {
    /// Starts at that position, where a frame must begin.
    pub(super) fn new(source: R, from: Place) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MEMORY.ilog2()))?;
        Ok(Self {
            source,
            decoder,
            input: vec![0; PIECE].into(),
            at: 0,
            end: 0,
            here: from,
            frames: Vec::new(),
            within_frame: false,
            has_more: false,
        })
    }

    /// Returns the position of the last frame that begins at or before this position of the plain
    /// bytes.
    pub(super) fn last_before(&self, plain: u64) -> Option<Place> {
        let begin = |place: &&Place| place.plain <= plain;
        self.frames.iter().rev().find(begin).copied()
    }
}

impl<R: Read> Read for Unzstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at == self.end && !self.has_more {
                self.end = self.source.read(&mut self.input)?;
                self.at = 0;
                if self.end == 0 && self.within_frame {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if self.end == 0 {
                    return Ok(0);
                }
            }
            if !self.within_frame {
                self.frames.push(self.here);
                self.within_frame = true;
            }
            let mut input = InBuffer::around(&self.input[self.at..self.end]);
            let mut output = OutBuffer::around(out);
            let left = self
                .decoder
                .run(&mut input, &mut output)
                .map_err(explained)?;
            let (taken, given) = (input.pos(), output.pos());
            self.at += taken;
            self.here.file += taken as u64;
            self.here.plain += given as u64;
            self.has_more = left > 0 && given == out.len();
            if left == 0 {
                self.within_frame = false;
                self.decoder.reinit()?;
            }
            if given > 0 {
                return Ok(given);
            }
        }
    }
}

/// The library reports a too large window only in the error's text.
fn explained(error: Error) -> Error {
    if error.to_string().contains("too much memory") {
        return ErrorKind::OutOfMemory.into();
    }
    Error::new(ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_one_after_the_other_and_their_places_are_known() {
        let parts = [vec![1; 1_000_000], vec![], vec![2; 10]];
        let frames = parts
            .clone()
            .map(|part| zstd::encode_all(&part[..], 1).expect("memory"));
        let file = frames.concat();
        let mut unzstd = Unzstd::new(&file[..], Place::default()).expect("memory");
        let mut plain = Vec::new();
        unzstd.read_to_end(&mut plain).expect("whole");
        assert!(plain == parts.concat());
        let third = Place {
            file: (frames[0].len() + frames[1].len()) as u64,
            plain: 1_000_000,
        };
        assert_eq!(unzstd.last_before(999_999), Some(Place::default()));
        assert_eq!(unzstd.last_before(1_000_000), Some(third));

        let from = usize::try_from(third.file).expect("small");
        let mut again = Unzstd::new(&file[from..], third).expect("memory");
        let mut plain = Vec::new();
        again.read_to_end(&mut plain).expect("whole");
        assert_eq!(plain, parts[2]);
    }

    #[test]
    fn a_cut_file_gives_what_is_there_and_says_that_it_is_cut() {
        let part: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let file = zstd::encode_all(&part[..], 1).expect("memory");
        let mut unzstd = Unzstd::new(&file[..file.len() / 2], Place::default()).expect("memory");
        let mut plain = Vec::new();
        let error = unzstd.read_to_end(&mut plain).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(plain.len() > part.len() / 4 && part.starts_with(&plain));
    }

    #[test]
    fn what_is_no_zstd_is_told() {
        let mut unzstd = Unzstd::new(&b"zone file"[..], Place::default()).expect("memory");
        let error = unzstd.read(&mut [0; 10]).expect_err("no zstd");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
