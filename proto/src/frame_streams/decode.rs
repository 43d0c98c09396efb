//! Decodes bytes to frames, and checks the order of the frames. No IO: bytes in, frames out.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    ControlError, ControlFrame, DEFAULT_MAX_DATA_FRAME, DecodeError, MAX_CONTROL_FRAME, Malformed,
    be32,
};

/// One frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The bytes after a length other than zero; never empty.
    Data(Bytes),
    /// The control frame after the length zero.
    Control(ControlFrame),
}

/// Whole data frames as they are in the stream, one after the other, each with its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// The frames, in the form that [`Writer::write_frames`](super::Writer::write_frames) takes.
    pub bytes: Bytes,
    /// Number of frames; never 0.
    pub count: u64,
}

/// Splits the first frame off `input`, at any place in a stream; `None` if `input` does not hold all of it yet.
///
/// Control frames of unknown types are skipped. Nothing is copied: the frame shares the memory of `input`. After an
/// error `input` begins with the wrong frame.
///
/// ```
/// use bytes::BytesMut;
/// use dnstap_proto::frame_streams::{Frame, split_frame};
///
/// let mut input = BytesMut::from(&b"\0\0\0\x02hi\0\0"[..]);
/// assert_eq!(split_frame(&mut input, 512), Ok(Some(Frame::Data("hi".into()))));
/// assert_eq!(split_frame(&mut input, 512), Ok(None));
/// assert_eq!(&input[..], b"\0\0");
/// ```
#[inline]
pub fn split_frame(input: &mut BytesMut, max_data_frame: u32) -> Result<Option<Frame>, Malformed> {
    loop {
        return match be32(input, 0) {
            None => Ok(None),
            Some(0) => match peek_control(input)? {
                None => Ok(None),
                Some((control, len)) => {
                    input.advance(len);
                    match control {
                        Control::Known(control) => Ok(Some(Frame::Control(control))),
                        Control::Unknown => continue,
                    }
                }
            },
            Some(len) if len > max_data_frame => Err(Malformed::DataTooLong {
                len,
                limit: max_data_frame,
            }),
            Some(len) if input.len() - 4 < len as usize => Ok(None),
            Some(len) => {
                input.advance(4);
                Ok(Some(Frame::Data(input.split_to(len as usize).freeze())))
            }
        };
    }
}

/// A control frame of any type.
#[derive(Debug)]
pub(super) enum Control {
    Known(ControlFrame),
    /// A control frame of an unknown type.
    Unknown,
}

/// Reads the control frame at the beginning of `input`, whose escape has been seen, and its length including everything
/// before it; `None` if the frame is not complete yet.
pub(super) fn peek_control(input: &[u8]) -> Result<Option<(Control, usize)>, Malformed> {
    let Some(len) = be32(input, 4) else {
        return Ok(None);
    };
    if len > MAX_CONTROL_FRAME {
        let len = u64::from(len);
        return Err(ControlError::TooLong { len }.into());
    }
    let whole = 8 + len as usize;
    let Some(frame) = input.get(8..whole) else {
        return Ok(None);
    };
    // The frame (at most 512 bytes) is copied: this is rare, and `input` must stay complete until the frame has proved
    // valid.
    let control = match ControlFrame::decode(Bytes::copy_from_slice(frame)) {
        Ok(control) => Control::Known(control),
        Err(ControlError::UnknownType(_)) => Control::Unknown,
        Err(error) => return Err(error.into()),
    };
    Ok(Some((control, whole)))
}

/// State of a stream.
///
/// ```text
///                START                 STOP
///  AwaitStart ──────────► Data ──────────────────► Stopped
///                         │  ▲                        │
///                         └──┘ data frame, START      │
///                          ▲          START           │
///                          └──────────────────────────┘
/// ```
///
/// Data frames are allowed only in `Data`. A START in `Data` comes from a writer that began again without an end. A
/// START after STOP begins the next stream. Every other control frame is ignored where it has no meaning, and so are
/// frames of unknown types: the frames after them can still be read.
///
/// The handshake of sockets takes place before `AwaitStart` (READY, ACCEPT) and after `Stopped` (FINISH):
/// [`Client`](super::Client) and [`Server`](super::Server) implement it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No frame has arrived yet.
    AwaitStart,
    /// START has arrived.
    Data,
    /// STOP has arrived. The stream is complete; another one may follow.
    Stopped,
}

/// Decodes streams from START to STOP, one after the other, from pieces of any size.
#[derive(Clone, Debug)]
pub struct Decoder {
    content_type: Bytes,
    /// A second content type that is accepted.
    other_content_type: Option<Bytes>,
    /// Whether the current stream has the second content type.
    is_other: bool,
    max_data_frame: u32,
    state: State,
    offset: u64,
}

impl Decoder {
    /// Makes a decoder for streams of this content type. A START without content type is accepted, as in fstrm.
    #[must_use]
    pub fn new(content_type: &[u8]) -> Self {
        Self {
            content_type: Bytes::copy_from_slice(content_type),
            other_content_type: None,
            is_other: false,
            max_data_frame: DEFAULT_MAX_DATA_FRAME,
            state: State::AwaitStart,
            offset: 0,
        }
    }

    /// Makes a decoder that starts in the middle of a stream, `offset` bytes from its beginning. A frame must begin
    /// there, behind START.
    #[must_use]
    pub fn resume(content_type: &[u8], offset: u64) -> Self {
        Self {
            state: State::Data,
            offset,
            ..Self::new(content_type)
        }
    }

    /// Also accepts streams of this content type. [`content_type`](Self::content_type) tells them apart.
    #[must_use]
    pub fn or_content_type(mut self, content_type: &[u8]) -> Self {
        self.other_content_type = Some(Bytes::copy_from_slice(content_type));
        self
    }

    /// Returns the content type of the current stream. A stream without one counts as one of the first content type.
    #[must_use]
    pub fn content_type(&self) -> &[u8] {
        match &self.other_content_type {
            Some(other) if self.is_other => other,
            _ => &self.content_type,
        }
    }

    /// Accepts data frames of up to `bytes` instead of [`DEFAULT_MAX_DATA_FRAME`].
    #[must_use]
    pub const fn max_data_frame(mut self, bytes: u32) -> Self {
        self.max_data_frame = bytes;
        self
    }

    /// Returns the state of the stream.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Returns the offset of the next frame, in bytes from the beginning of the stream.
    #[must_use]
    #[inline]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next frame off the beginning of `input`; `None` if the frame is not complete yet. A control frame is
    /// returned even if it has no meaning at its place, but not if its type is unknown.
    ///
    /// Nothing is copied: a data frame shares the memory of `input`. After an error `input` begins with the wrong
    /// frame, so that the next call reports it again.
    #[inline]
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        loop {
            if self.state == State::Data && be32(input, 0) != Some(0) {
                let before = input.len();
                let frame = split_frame(input, self.max_data_frame);
                self.offset += (before - input.len()) as u64;
                return frame.map_err(|kind| self.error(kind));
            }
            match self.decode_control(input)? {
                None => return Ok(None),
                Some(Control::Unknown) => {}
                Some(Control::Known(control)) => return Ok(Some(Frame::Control(control))),
            }
        }
    }

    /// Takes the next control frame off `input`. `None` if the next frame is not complete yet, or is a data frame that
    /// is not complete. Fails if neither a control frame nor a data frame may follow.
    #[cold]
    pub(super) fn decode_control(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<Option<Control>, DecodeError> {
        let before = input.len();
        let control = self.take_control(input);
        self.offset += (before - input.len()) as u64;
        control.map_err(|kind| self.error(kind))
    }

    const fn error(&self, kind: Malformed) -> DecodeError {
        DecodeError {
            offset: self.offset,
            kind,
        }
    }

    /// Counts `bytes` of the input that were skipped.
    pub(super) const fn pass_over(&mut self, bytes: u64) {
        self.offset += bytes;
    }

    /// Takes all whole data frames off the beginning of `input`; `None` if there are none, for any reason.
    pub(super) fn decode_row(&mut self, input: &mut BytesMut) -> Option<Frames> {
        if self.state != State::Data {
            return None;
        }
        let (mut end, mut count) = (0, 0);
        while let Some(len) = be32(input, end).filter(|len| (1..=self.max_data_frame).contains(len))
            && let whole = end + 4 + len as usize
            && whole <= input.len()
        {
            end = whole;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        self.offset += end as u64;
        let bytes = input.split_to(end).freeze();
        Some(Frames { bytes, count })
    }

    fn take_control(&mut self, input: &mut BytesMut) -> Result<Option<Control>, Malformed> {
        // Any non-zero byte of the first length shows that this is not a stream.
        if input.iter().take(4).any(|&byte| byte != 0) {
            return match (self.state, be32(input, 0)) {
                (State::AwaitStart, _) => Err(Malformed::NoStart),
                (State::Stopped, _) => Err(Malformed::AfterStop),
                (State::Data, Some(len)) if len > self.max_data_frame => {
                    let limit = self.max_data_frame;
                    Err(Malformed::DataTooLong { len, limit })
                }
                (State::Data, _) => Ok(None),
            };
        }
        let peeked = peek_control(input).map_err(|error| self.placed(error))?;
        let Some((control, len)) = peeked else {
            return Ok(None);
        };
        match &control {
            Control::Known(ControlFrame::Start { content_type }) => {
                self.check_content_type(content_type.as_ref())?;
                self.state = State::Data;
            }
            Control::Known(ControlFrame::Stop) if self.state == State::Data => {
                self.state = State::Stopped;
            }
            _ => {}
        }
        input.advance(len);
        Ok(Some(control))
    }

    /// Replaces an error after STOP: malformed bytes there (zeros, for example) are most likely not a stream at all.
    fn placed(&self, error: Malformed) -> Malformed {
        match self.state {
            State::Stopped => Malformed::AfterStop,
            State::AwaitStart | State::Data => error,
        }
    }

    fn check_content_type(&mut self, found: Option<&Bytes>) -> Result<(), Malformed> {
        self.is_other = found.is_some() && found == self.other_content_type.as_ref();
        match found {
            Some(found) if !self.is_other && *found != self.content_type => {
                Err(Malformed::ContentType {
                    found: found.clone(),
                    expected: self.content_type.clone(),
                })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::frame_streams::DNSTAP_CONTENT_TYPE;

    const START: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x02\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
    const STOP: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x03";

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_bytes_are_split(
            payloads in vec(vec(any::<u8>(), 1..300), 0..20),
            cuts in vec(any::<Index>(), 0..40),
        ) {
            let stream = stream(&payloads);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();

            let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE);
            let mut input = BytesMut::new();
            let mut frames = Vec::new();
            for piece in cuts.windows(2) {
                input.extend_from_slice(&stream[piece[0]..piece[1]]);
                while let Some(frame) = decoder.decode(&mut input).unwrap() {
                    if let Frame::Data(payload) = frame {
                        frames.push(payload.to_vec());
                    }
                }
            }
            prop_assert_eq!(frames, payloads);
            prop_assert_eq!(decoder.state(), State::Stopped);
            prop_assert_eq!(decoder.offset(), stream.len() as u64);
        }

        #[test]
        fn any_bytes_give_frames_within_them_or_an_error(
            started in any::<bool>(),
            bytes in vec(prop_oneof![4 => Just(0), 2 => 0..8_u8, 1 => any::<u8>()], 0..400),
        ) {
            let mut input = BytesMut::new();
            if started {
                input.extend_from_slice(START);
            }
            input.extend_from_slice(&bytes);
            let total = input.len();
            let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE).max_data_frame(64);
            let end = loop {
                match decoder.decode(&mut input) {
                    Ok(Some(Frame::Data(payload))) => prop_assert!((1..=64).contains(&payload.len())),
                    Ok(Some(Frame::Control(_))) => {}
                    end => break end,
                }
            };
            prop_assert_eq!(decoder.offset() + input.len() as u64, total as u64);
            // Nothing changes after the last frame: the decoder returns the same result again.
            prop_assert_eq!(decoder.decode(&mut input), end);
        }
    }

    #[test]
    fn data_frames_share_the_memory_of_the_input() {
        let mut input = BytesMut::from(&[START, b"\0\0\0\x02hi"].concat()[..]);
        let hi = &raw const input[START.len() + 4];
        let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE);
        decoder.decode(&mut input).unwrap();
        let Some(Frame::Data(payload)) = decoder.decode(&mut input).unwrap() else {
            panic!("no data frame");
        };
        assert_eq!(payload.as_ptr(), hi);
    }

    #[test]
    fn what_breaks_the_order_is_named_with_its_offset() {
        let at = START.len() as u64;
        let broken = |bytes: &[&[u8]]| {
            let mut input = BytesMut::from(&bytes.concat()[..]);
            let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE);
            loop {
                match decoder.decode(&mut input) {
                    Ok(frame) => assert!(frame.is_some(), "incomplete"),
                    Err(error) => return (error.offset, error.kind),
                }
            }
        };
        assert_eq!(broken(&[b"\xa1"]), (0, Malformed::NoStart));
        assert_eq!(broken(&[STOP, b"\0\0\0\x01x"]), (12, Malformed::NoStart));
        for rest in [&b"\x01"[..], &[0; 8]] {
            assert_eq!(
                broken(&[START, STOP, rest]),
                (at + STOP.len() as u64, Malformed::AfterStop)
            );
        }
        assert_eq!(
            broken(&[START, b"\0\0\0\x01x", b"\0\x10\0\x01"]),
            (
                at + 5,
                Malformed::DataTooLong {
                    len: (1 << 20) + 1,
                    limit: 1 << 20
                }
            )
        );
        assert_eq!(
            broken(&[START, b"\0\0\0\0\0\0\x02\x01"]),
            (at, ControlError::TooLong { len: 513 }.into())
        );
        let other = b"\0\0\0\0\0\0\0\x0d\0\0\0\x02\0\0\0\x01\0\0\0\x01x";
        assert_eq!(
            broken(&[other]),
            (
                0,
                Malformed::ContentType {
                    found: "x".into(),
                    expected: DNSTAP_CONTENT_TYPE.into()
                }
            )
        );
    }

    #[test]
    fn control_frames_where_they_mean_nothing_are_passed_over() {
        let unknown: &[u8] = b"\0\0\0\0\0\0\0\x09\0\0\0\x4dlater";
        let of = |code: u8| [&b"\0\0\0\0\0\0\0\x04\0\0\0"[..], &[code]].concat();
        let data: &[u8] = b"\0\0\0\x02hi";
        // ACCEPT, STOP, READY, FINISH and an unknown one.
        let odd = [&of(1)[..], &of(4), &of(5), unknown].concat();
        let stream = [
            &odd, STOP, START, data, &odd, START, data, &odd, data, STOP, &odd, STOP, START, data,
            STOP,
        ]
        .concat();

        let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE);
        let mut input = BytesMut::from(&stream[..]);
        let mut frames = 0;
        while let Some(frame) = decoder.decode(&mut input).unwrap() {
            frames += u32::from(frame == Frame::Data("hi".into()));
        }
        assert_eq!((frames, decoder.state()), (4, State::Stopped));
        assert_eq!(decoder.offset(), stream.len() as u64);
    }

    #[test]
    fn a_start_without_content_type_is_taken() {
        let mut input = BytesMut::from(&b"\0\0\0\0\0\0\0\x04\0\0\0\x02"[..]);
        let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE);
        assert!(decoder.decode(&mut input).unwrap().is_some());
        assert_eq!(decoder.state(), State::Data);
    }

    fn stream(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = START.to_vec();
        for payload in payloads {
            stream.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            stream.extend_from_slice(payload);
        }
        stream.extend_from_slice(STOP);
        stream
    }
}
