//! Reads Frame Streams files (or pipes): the IO around [`Decoder`].

use std::io::Read;

use bytes::{Buf as _, Bytes};

use super::{DEFAULT_MAX_DATA_FRAME, Decoder, Frame, Frames, ReadError, State, be32, input::Input};

/// A data frame and its offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFrame {
    /// Offset of the frame (of its length field), in bytes from the beginning of the stream.
    pub offset: u64,
    /// Payload of the frame; never empty. It keeps the whole piece in memory that was read with it: up to 256 KiB and
    /// one frame. Copy the payload to keep it for long.
    pub payload: Bytes,
}

/// Data frames that follow each other, and the offset of the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Offset of the first frame (of its length field), in bytes from the beginning of the stream.
    pub offset: u64,
    /// The frames.
    pub frames: Frames,
}

impl Row {
    /// Returns the payload of each frame, with the frame's offset in the stream.
    pub fn payloads(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let offset = self.offset + at as u64;
            let (length, rest) = self.frames.bytes.get(at..)?.split_first_chunk()?;
            let payload = rest.get(..u32::from_be_bytes(*length) as usize)?;
            at += length.len() + payload.len();
            Some((offset, payload))
        })
    }
}

/// Reads the data frames of a stream, START to STOP, and of the streams after it.
///
/// The source needs no buffering of its own. For any input, the reader uses at most twice the sum of the longest data
/// frame and 256 KiB of memory.
///
/// ```
/// use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, ReadError, Reader, Writer};
///
/// let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE)?;
/// writer.write_frame(b"one")?;
/// writer.write_frame(b"two")?;
/// let mut file = writer.finish()?;
///
/// let frames = Reader::new(&file[..], DNSTAP_CONTENT_TYPE)?.count();
/// assert_eq!(frames, 2);
///
/// // A cut file: whole frames first, then where it was cut.
/// file.truncate(file.len() - 13);
/// let mut reader = Reader::new(&file[..], DNSTAP_CONTENT_TYPE)?;
/// assert_eq!(reader.next_frame()?.map(|frame| frame.payload), Some("one".into()));
/// assert!(matches!(reader.next_frame(), Err(ReadError::Unfinished { offset: 49, partial: 6 })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    decoder: Decoder,
    input: Input,
    /// Whether the iterator has ended or returned an error.
    done: bool,
}

impl<R: Read> Reader<R> {
    /// Reads START and checks its content type. Accepts data frames of up to [`DEFAULT_MAX_DATA_FRAME`].
    pub fn new(source: R, content_type: &[u8]) -> Result<Self, ReadError> {
        Self::with_max_data_frame(source, content_type, DEFAULT_MAX_DATA_FRAME)
    }

    /// Reads START and checks its content type. Accepts data frames of up to `bytes`.
    pub fn with_max_data_frame(
        source: R,
        content_type: &[u8],
        bytes: u32,
    ) -> Result<Self, ReadError> {
        let decoder = Decoder::new(content_type).max_data_frame(bytes);
        Self::with_decoder(source, decoder)
    }

    /// Reads START by this decoder, which knows the content types and the limit.
    pub fn with_decoder(source: R, decoder: Decoder) -> Result<Self, ReadError> {
        let mut reader = Self {
            source,
            decoder,
            input: Input::new(),
            done: false,
        };
        while reader.decoder.state() == State::AwaitStart {
            if reader.decoder.decode(&mut reader.input.bytes)?.is_none() && reader.fill()? == 0 {
                return Err(reader.unfinished());
            }
        }
        Ok(reader)
    }

    /// Starts in the middle of a stream: `source` gives its bytes from `offset` on. A frame must begin there, behind
    /// START.
    pub fn resume(source: R, content_type: &[u8], offset: u64) -> Self {
        Self {
            source,
            decoder: Decoder::resume(content_type, offset),
            input: Input::new(),
            done: false,
        }
    }

    /// Accepts data frames of up to `bytes` from now on.
    #[must_use]
    pub fn max_data_frame(mut self, bytes: u32) -> Self {
        self.decoder = self.decoder.max_data_frame(bytes);
        self
    }

    /// Returns the source. It is ahead of the frames that were returned.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Returns the next data frame; `None` after STOP, at the end of the source.
    ///
    /// The reader can be used after an error. After [`ReadError::Unfinished`] the next call reads more bytes, so a
    /// caller can follow a file that is still being written. [`ReadError::Malformed`] is returned again by each call.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<DataFrame>, ReadError> {
        loop {
            match self.decoder.decode(&mut self.input.bytes)? {
                Some(Frame::Data(payload)) => {
                    // The offset is computed here, because control frames may have been skipped before the frame.
                    let offset = self.decoder.offset() - (4 + payload.len() as u64);
                    return Ok(Some(DataFrame { offset, payload }));
                }
                Some(Frame::Control(_)) => {}
                None if self.fill()? > 0 => {}
                None if self.is_complete() => return Ok(None),
                None => return Err(self.unfinished()),
            }
        }
    }

    /// Returns all data frames that are available without waiting for the source, or else the next ones, together.
    /// Otherwise like [`next_frame`](Self::next_frame).
    #[inline]
    pub fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        loop {
            let offset = self.decoder.offset();
            if let Some(frames) = self.decoder.decode_row(&mut self.input.bytes) {
                return Ok(Some(Row { offset, frames }));
            }
            match self.decoder.decode_control(&mut self.input.bytes)? {
                Some(_) => {}
                None if self.fill()? > 0 => {}
                None if self.is_complete() => return Ok(None),
                None => return Err(self.unfinished()),
            }
        }
    }

    /// Skips the data frame that was refused as too long ([`Malformed::DataTooLong`](super::Malformed::DataTooLong)),
    /// so that the frames after it can be read. Returns `false` if the source ends within it: its length is most likely
    /// damaged.
    pub fn skip_frame(&mut self) -> Result<bool, ReadError> {
        let length = be32(&self.input.bytes, 0).filter(|_| self.decoder.state() == State::Data);
        let Some(length @ 1..) = length else {
            return Ok(false);
        };
        let mut left = 4 + length as usize;
        loop {
            let passed = left.min(self.input.bytes.len());
            self.input.bytes.advance(passed);
            self.decoder.pass_over(passed as u64);
            left -= passed;
            if left == 0 {
                return Ok(true);
            }
            if self.fill()? == 0 {
                return Ok(false);
            }
        }
    }

    /// Returns the offset of the next frame, in bytes from the beginning of the stream; after an error, the end of the
    /// valid part.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.decoder.offset()
    }

    /// Returns the content type of the frame or row that was returned last; see [`Decoder::content_type`].
    #[must_use]
    pub fn content_type(&self) -> &[u8] {
        self.decoder.content_type()
    }

    /// Returns the state of the stream.
    #[must_use]
    pub const fn state(&self) -> State {
        self.decoder.state()
    }

    /// Reads more bytes from the source to the input. Returns their number; 0 at the end of the source.
    fn fill(&mut self) -> Result<usize, ReadError> {
        let read = self.input.fill(&mut self.source);
        read.map_err(|source| ReadError::Io {
            offset: self.decoder.offset(),
            source,
        })
    }

    /// Returns whether the source may end here.
    fn is_complete(&self) -> bool {
        self.decoder.state() == State::Stopped && self.input.bytes.is_empty()
    }

    fn unfinished(&self) -> ReadError {
        ReadError::Unfinished {
            offset: self.decoder.offset(),
            partial: self.input.bytes.len() as u64,
        }
    }
}

/// Ends after STOP or after the first error.
impl<R: Read> Iterator for Reader<R> {
    type Item = Result<DataFrame, ReadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.next_frame().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl<R: Read> std::iter::FusedIterator for Reader<R> {}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::frame_streams::{
        DNSTAP_CONTENT_TYPE, DecodeError, EVENT_CONTENT_TYPE, Malformed, Writer, input::MAX_READ,
    };

    proptest! {
        #[test]
        fn a_written_file_reads_back_whatever_the_source_gives_at_a_time(
            payloads in vec(vec(any::<u8>(), 1..400), 0..30),
            sizes in vec(1..500_usize, 1..20),
        ) {
            let file = file(&payloads);
            let mut reader = Reader::new(Pieces::new(&file, sizes), DNSTAP_CONTENT_TYPE).unwrap();
            let mut read = Vec::new();
            while let Some(frame) = reader.next_frame().unwrap() {
                let at = usize::try_from(frame.offset).unwrap() + 4;
                prop_assert_eq!(&frame.payload[..], &file[at..at + frame.payload.len()]);
                read.push(frame.payload.to_vec());
            }
            prop_assert_eq!(read, payloads);
            prop_assert_eq!(reader.offset(), file.len() as u64);
        }

        #[test]
        fn any_file_is_read_within_the_bound_on_memory(
            bytes in vec(prop_oneof![4 => Just(0), 2 => 0..8_u8, 1 => any::<u8>()], 0..3_000),
            sizes in vec(1..2_000_usize, 1..5),
        ) {
            let limit = 2_000;
            let bytes = [&file(&[])[..42], &bytes].concat();
            let source = Pieces::new(&bytes, sizes);
            let mut reader = Reader::with_max_data_frame(source, DNSTAP_CONTENT_TYPE, limit).unwrap();
            while let Ok(Some(_)) = reader.next_frame() {
                prop_assert!(reader.input.bytes.capacity() <= 2 * (limit as usize + MAX_READ));
            }
            prop_assert!(reader.offset() <= bytes.len() as u64);
        }
    }

    #[test]
    fn rows_are_all_the_frames_whatever_stands_between_them() {
        let one = file(&[b"one".to_vec()]);
        let unknown = b"\0\0\0\0\0\0\0\x04\0\0\0\x63";
        let bytes = [&one[..49], unknown, unknown, &one[42..49], &one].concat();
        for size in 1..bytes.len() {
            let source = Pieces::new(&bytes, vec![size]);
            let mut reader = Reader::new(source, DNSTAP_CONTENT_TYPE).unwrap();
            let mut count = 0;
            while let Some(row) = reader.next_row().unwrap() {
                count += row.frames.count;
            }
            assert_eq!(count, 3, "in pieces of {size}");
        }
    }

    #[test]
    fn streams_of_two_content_types_are_told_apart() {
        let stream = |content_type, payload: &[u8]| {
            let mut writer = Writer::new(Vec::new(), content_type).unwrap();
            writer.write_frame(payload).unwrap();
            writer.finish().unwrap()
        };
        let [events, messages] = [EVENT_CONTENT_TYPE, DNSTAP_CONTENT_TYPE];
        let bytes = [
            stream(events, b"e"),
            stream(messages, b"m"),
            stream(events, b"e"),
        ]
        .concat();
        assert!(Reader::new(&bytes[..], messages).is_err());
        let decoder = Decoder::new(messages).or_content_type(events);
        let mut reader = Reader::with_decoder(&bytes[..], decoder).unwrap();
        let mut found = Vec::new();
        while let Some(row) = reader.next_row().unwrap() {
            let (_, payload) = row.payloads().next().unwrap();
            found.push((reader.content_type() == events, payload.to_vec()));
        }
        assert_eq!(
            found,
            [
                (true, b"e".to_vec()),
                (false, b"m".to_vec()),
                (true, b"e".to_vec())
            ]
        );
    }

    #[test]
    fn rows_are_the_frames_and_a_reader_goes_on_where_another_was() {
        let payloads = [&b"a"[..], b"four", b"0123456789"].map(<[u8]>::to_vec);
        let file = file(&payloads);
        let mut reader = Reader::new(&file[..60], DNSTAP_CONTENT_TYPE).unwrap();
        let row = reader.next_row().unwrap().unwrap();
        assert_eq!((row.offset, row.frames.count), (42, 2));
        assert_eq!(row.frames.bytes, file[42..55]);
        let payloads: Vec<_> = row.payloads().collect();
        assert_eq!(payloads, [(42, &b"a"[..]), (47, &b"four"[..])]);
        assert!(matches!(
            reader.next_row(),
            Err(ReadError::Unfinished {
                offset: 55,
                partial: 5
            })
        ));
        let mut reader = Reader::resume(&file[55..], DNSTAP_CONTENT_TYPE, 55);
        let row = reader.next_row().unwrap().unwrap();
        assert_eq!((row.offset, row.frames.count), (55, 1));
        assert_eq!(reader.next_row().unwrap(), None);
    }

    #[test]
    fn a_file_cut_anywhere_gives_its_whole_frames_and_says_where_it_was_cut() {
        let payloads = [&b"a"[..], b"four", b"0123456789"].map(<[u8]>::to_vec);
        let file = file(&payloads);
        // End of START, and end of each frame.
        let ends = [42, 47, 55, 69];
        for cut in 0..file.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let sound = whole.checked_sub(1).map_or(0, |last| ends[last]);
            let read = match Reader::new(&file[..cut], DNSTAP_CONTENT_TYPE) {
                Ok(reader) => reader.collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            };

            let (last, frames) = read.split_last().unwrap();
            let frames: Vec<_> = frames
                .iter()
                .map(|frame| frame.as_ref().unwrap().payload.to_vec())
                .collect();
            assert_eq!(frames, payloads[..whole.saturating_sub(1)], "cut at {cut}");
            let Err(ReadError::Unfinished { offset, partial }) = last else {
                panic!("cut at {cut}: {last:?}");
            };
            assert_eq!((*offset, *partial), (sound as u64, (cut - sound) as u64));
        }
    }

    #[test]
    fn a_length_alone_makes_no_memory() {
        let mut bytes = file(&[])[..42].to_vec();
        bytes.extend_from_slice(&0xffff_fff0_u32.to_be_bytes());
        bytes.extend_from_slice(b"few");
        let mut reader =
            Reader::with_max_data_frame(&bytes[..], DNSTAP_CONTENT_TYPE, u32::MAX).unwrap();
        let unfinished = reader.next_frame();
        assert!(matches!(
            unfinished,
            Err(ReadError::Unfinished {
                offset: 42,
                partial: 7
            })
        ));
        assert!(reader.input.bytes.capacity() <= 2 * MAX_READ);
    }

    #[test]
    fn a_file_that_grows_is_read_on_after_its_end() {
        let file = file(&[b"first".to_vec(), b"second".to_vec()]);
        let source = Growing {
            parts: vec![&file[..53], &[], &file[53..]].into_iter(),
        };
        let mut reader = Reader::new(source, DNSTAP_CONTENT_TYPE).unwrap();
        let payload = |reader: &mut Reader<_>| reader.next_frame().map(|f| f.map(|f| f.payload));
        assert_eq!(payload(&mut reader).unwrap(), Some("first".into()));
        assert!(matches!(
            payload(&mut reader),
            Err(ReadError::Unfinished {
                offset: 51,
                partial: 2
            })
        ));
        assert_eq!(payload(&mut reader).unwrap(), Some("second".into()));
        assert_eq!(payload(&mut reader).unwrap(), None);
    }

    #[test]
    fn streams_behind_each_other_are_all_read_and_other_bytes_are_told() {
        let one = file(&[b"one".to_vec()]);
        let bytes = [&one[..], &one, &one[..45]].concat();
        let mut reader = Reader::new(&bytes[..], DNSTAP_CONTENT_TYPE).unwrap();
        assert_eq!(reader.by_ref().flatten().count(), 2);
        let end = 2 * one.len() as u64 + 42;
        assert!(matches!(
            reader.next_frame(),
            Err(ReadError::Unfinished { offset, partial: 3 }) if offset == end
        ));

        let bytes = [&one[..], b"else"].concat();
        let mut reader = Reader::new(&bytes[..], DNSTAP_CONTENT_TYPE).unwrap();
        assert!(reader.next().unwrap().is_ok());
        let Some(Err(ReadError::Malformed(DecodeError { offset, kind }))) = reader.next() else {
            panic!("no error");
        };
        assert_eq!((offset, kind), (one.len() as u64, Malformed::AfterStop));
        assert!(reader.next().is_none());
    }

    #[test]
    fn a_frame_that_is_too_long_can_be_passed_over() {
        let file = file(&[b"a".to_vec(), vec![7; 600_000], b"b".to_vec(), vec![7; 9]]);
        let read = |file: &[u8]| {
            let mut reader = Reader::with_max_data_frame(file, DNSTAP_CONTENT_TYPE, 8).unwrap();
            let mut seen = Vec::new();
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => seen.push((frame.offset, frame.payload.len())),
                    Ok(None) => return (seen, true),
                    Err(ReadError::Malformed(error)) => {
                        assert!(matches!(error.kind, Malformed::DataTooLong { .. }));
                        if !reader.skip_frame().unwrap() {
                            return (seen, false);
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let both = vec![(42, 1), (600_051, 1)];
        assert_eq!(read(&file), (both.clone(), true));
        let end = file.len() - 13;
        assert_eq!(read(&file[..end]), (both, false), "cut within the last one");
    }

    #[test]
    fn a_frame_begins_behind_what_is_passed_over() {
        let unknown = b"\0\0\0\0\0\0\0\x04\0\0\0\x63";
        let bytes = [&file(&[])[..42], unknown, b"\0\0\0\x02hi"].concat();
        let mut reader = Reader::new(&bytes[..], DNSTAP_CONTENT_TYPE).unwrap();
        let frame = reader.next_frame().unwrap().unwrap();
        assert_eq!((frame.offset, &frame.payload[..]), (54, &b"hi"[..]));
    }

    #[test]
    fn a_frame_longer_than_any_piece_is_read() {
        let long = vec![7; 1 << 20];
        let file = file(std::slice::from_ref(&long));
        let mut reader = Reader::new(&file[..], DNSTAP_CONTENT_TYPE).unwrap();
        assert_eq!(reader.next_frame().unwrap().unwrap().payload, long);
        assert!(reader.next_frame().unwrap().is_none());
    }

    fn file(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).unwrap();
        for payload in payloads {
            writer.write_frame(payload).unwrap();
        }
        writer.finish().unwrap()
    }

    /// Source that returns its bytes in pieces of the given sizes, again and again, interrupted by a signal before
    /// each.
    #[derive(Debug)]
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
        interrupted: bool,
    }

    impl<'a> Pieces<'a> {
        fn new(bytes: &'a [u8], sizes: Vec<usize>) -> Self {
            Self {
                bytes,
                sizes: sizes.into_iter().cycle(),
                interrupted: false,
            }
        }
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let size = self.sizes.next().unwrap().min(into.len());
            self.bytes.read(&mut into[..size])
        }
    }

    /// Source that returns one part for each read; an empty one looks like the end.
    #[derive(Debug)]
    struct Growing<'a> {
        parts: std::vec::IntoIter<&'a [u8]>,
    }

    impl Read for Growing<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.parts.next().map_or(Ok(0), |mut part| part.read(into))
        }
    }
}
