//! The receiving side of a connection: decodes the sender's bytes to data frames, and makes the answers. No IO.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    ControlError, ControlFrame, Decoder, Frames, HandshakeError, Malformed, State,
    client::takes,
    decode::{Control, peek_control},
};

/// State of a connection, seen from the receiver.
///
/// ```text
///              READY: ACCEPT               START             STOP: FINISH
///  AwaitReady ───────────────► AwaitStart ───────► Data ──────────────────► Stopped
///      │                                           ▲  ▲ │                      ▲
///      │               START (unidirectional)      │  └─┘ data frames          │
///      └───────────────────────────────────────────┘    STOP (unidirectional)  │
///                                                  └───────────────────────────┘
/// ```
///
/// A sender that begins with START gets no answer: it does not read. After STOP another START may come. Control frames
/// without a meaning at their place are ignored, and so are those of unknown types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Nothing has arrived yet; READY or START must come.
    AwaitReady,
    /// READY has been answered; START must come.
    AwaitStart,
    /// START has arrived; data frames follow.
    Data,
    /// STOP has arrived: the stream is complete. Another one may follow.
    Stopped,
}

/// The receiver of one stream over a connection, or of several, one after the other.
#[derive(Clone, Debug)]
pub struct Server {
    content_type: Bytes,
    accept: Vec<u8>,
    /// Whether the sender began with READY and gets answers; `None` while nothing has arrived.
    bidirectional: Option<bool>,
    decoder: Decoder,
}

impl Server {
    /// Accepts streams of this content type, which has at most 256 bytes, and streams without a content type.
    pub fn new(content_type: &[u8]) -> Result<Self, ControlError> {
        let mut accept = Vec::new();
        let content_types = vec![Bytes::copy_from_slice(content_type)];
        ControlFrame::Accept { content_types }.encode(&mut accept)?;
        Ok(Self {
            content_type: Bytes::copy_from_slice(content_type),
            accept,
            bidirectional: None,
            decoder: Decoder::new(content_type),
        })
    }

    /// Accepts data frames of up to `bytes` instead of [`DEFAULT_MAX_DATA_FRAME`](super::DEFAULT_MAX_DATA_FRAME).
    #[must_use]
    pub fn max_data_frame(mut self, bytes: u32) -> Self {
        self.decoder = self.decoder.max_data_frame(bytes);
        self
    }

    /// Returns the state of the connection.
    #[must_use]
    pub const fn state(&self) -> ServerState {
        match (self.decoder.state(), self.bidirectional) {
            (State::AwaitStart, None) => ServerState::AwaitReady,
            (State::AwaitStart, Some(_)) => ServerState::AwaitStart,
            (State::Data, _) => ServerState::Data,
            (State::Stopped, _) => ServerState::Stopped,
        }
    }

    /// Takes all whole data frames off the beginning of `input`, up to the next control frame. Control frames before
    /// them are taken, too, and their answers are appended to `out`. `None` if more bytes are needed, or if a stream
    /// has just stopped; [`state`](Self::state) tells which. The next call reads the rest of `input`.
    ///
    /// Nothing is copied: the frames share the memory of `input`. An unfinished frame that stays in `input` is not
    /// longer than the limit and its length field. After an error, `input` begins with the wrong frame, and the state
    /// is that after the frames before it.
    pub fn decode(
        &mut self,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Result<Option<Frames>, HandshakeError> {
        if self.bidirectional.is_none() && !self.greet(input, out)? {
            return Ok(None);
        }
        loop {
            if let Some(frames) = self.decoder.decode_row(input) {
                return Ok(Some(frames));
            }
            let open = self.decoder.state() == State::Data;
            let control = self.decoder.decode_control(input);
            match control.map_err(|error| error.kind)? {
                None => return Ok(None),
                Some(Control::Known(ControlFrame::Stop)) if open => {
                    if self.bidirectional == Some(true) {
                        ControlFrame::Finish.encode(out).map_err(Malformed::from)?;
                    }
                    return Ok(None);
                }
                Some(_) => {}
            }
        }
    }

    /// Handles the first frame with a meaning: READY, which it answers, or START, which it leaves to the decoder.
    /// Returns `false` if the frame is not complete yet.
    fn greet(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        loop {
            // Any non-zero byte of the first length shows that this is not a stream.
            if input.iter().take(4).any(|&byte| byte != 0) {
                return Err(HandshakeError::Data);
            }
            let Some((control, len)) = peek_control(input)? else {
                return Ok(false);
            };
            match control {
                Control::Known(ControlFrame::Ready { content_types }) => {
                    if !takes(&content_types, &self.content_type) {
                        return Err(HandshakeError::NoCommonContentType {
                            theirs: content_types,
                            ours: self.content_type.clone(),
                        });
                    }
                    input.advance(len);
                    out.extend_from_slice(&self.accept);
                    self.bidirectional = Some(true);
                    return Ok(true);
                }
                Control::Known(ControlFrame::Start { .. }) => {
                    self.bidirectional = Some(false);
                    return Ok(true);
                }
                _ => input.advance(len),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::frame_streams::{Client, ClientState, DNSTAP_CONTENT_TYPE, be32};

    proptest! {
        /// Runs a client against a server; each gets the other's bytes in pieces of any size.
        #[test]
        fn all_frames_arrive_and_both_sides_finish_however_the_bytes_are_split(
            payloads in vec(vec(any::<u8>(), 1..300), 0..20),
            sizes in vec(1..200_usize, 1..20),
            bidirectional in any::<bool>(),
        ) {
            let frames = frames(&payloads);
            let (mut to, mut from) = (Vec::new(), Vec::new());
            let mut client = if bidirectional {
                Client::connect(DNSTAP_CONTENT_TYPE, &mut to).unwrap()
            } else {
                Client::unidirectional(DNSTAP_CONTENT_TYPE, &mut to).unwrap()
            };
            let mut server = Server::new(DNSTAP_CONTENT_TYPE).unwrap();
            let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
            let (mut received, mut count) = (Vec::new(), 0);
            let mut said_all = false;
            for size in sizes.iter().cycle().take(20_000) {
                if client.state() == ClientState::Open && !said_all {
                    to.extend_from_slice(&frames);
                    client.stop(&mut to);
                    said_all = true;
                }
                to_server.extend(to.drain(..(*size).min(to.len())));
                while let Some(frames) = server.decode(&mut to_server, &mut from).unwrap() {
                    count += frames.count;
                    received.extend_from_slice(&frames.bytes);
                }
                to_client.extend(from.drain(..(*size).min(from.len())));
                client.receive(&mut to_client, &mut to).unwrap();
                if said_all && to.is_empty() && from.is_empty() {
                    break;
                }
            }
            prop_assert_eq!((received, count), (frames, payloads.len() as u64));
            prop_assert_eq!((client.state(), server.state()), (ClientState::Finished, ServerState::Stopped));
            prop_assert!(from.is_empty() && to_client.is_empty() && to_server.is_empty());
        }

        #[test]
        fn any_bytes_give_whole_frames_within_the_limit_or_an_error(
            beginning in prop_oneof![Just(&b""[..]), Just(START), Just(READY_ANY)],
            bytes in vec(prop_oneof![6 => Just(0), 2 => 0..8_u8, 1 => any::<u8>()], 0..700),
            cut in any::<Index>(),
        ) {
            let all = [beginning, &bytes].concat();
            let (first, second) = all.split_at(cut.index(all.len() + 1));
            let mut server = Server::new(DNSTAP_CONTENT_TYPE).unwrap().max_data_frame(64);
            let (mut input, mut out) = (BytesMut::new(), Vec::new());
            for piece in [first, second] {
                input.extend_from_slice(piece);
                let end = loop {
                    let before = input.len();
                    match server.decode(&mut input, &mut out) {
                        // After STOP the server continues.
                        Ok(None) if input.len() < before => {}
                        Ok(Some(frames)) => {
                            let mut rest = &frames.bytes[..];
                            for _ in 0..frames.count {
                                let len = be32(rest, 0).unwrap() as usize;
                                prop_assert!((1..=64).contains(&len));
                                rest = &rest[4 + len..];
                            }
                            prop_assert!(rest.is_empty());
                        }
                        end => break end,
                    }
                };
                if end.is_ok() {
                    prop_assert!(input.len() < 520, "no more is waited for");
                }
                let left = input.len();
                prop_assert_eq!(server.decode(&mut input, &mut out), end, "what was said is said again");
                prop_assert_eq!(input.len(), left);
            }
            prop_assert!(out.len() <= 42 + 12 * (1 + bytes.len() / 24), "at most ACCEPT, and FINISH for each START and STOP");
        }
    }

    const START: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x02";
    const READY_ANY: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x04";

    #[test]
    fn rows_of_frames_share_the_memory_of_the_input() {
        let mut input = BytesMut::from(&[START, b"\0\0\0\x02hi\0\0\0\x01!\0\0"].concat()[..]);
        let row = &raw const input[START.len()];
        let mut server = Server::new(DNSTAP_CONTENT_TYPE).unwrap();
        let frames = server.decode(&mut input, &mut Vec::new()).unwrap().unwrap();
        assert_eq!((frames.bytes.as_ptr(), frames.bytes.len()), (row, 11));
        assert_eq!((frames.count, &input[..]), (2, &b"\0\0"[..]));
    }

    const STOP: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x03";

    #[test]
    fn a_stream_behind_the_first_is_taken_and_control_frames_that_mean_nothing_are_not_answered() {
        let unknown: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x09";
        let data: &[u8] = b"\0\0\0\x01x";
        let stream = [
            unknown, READY_ANY, READY_ANY, START, data, READY_ANY, unknown, data, STOP, STOP,
            unknown, START, data, STOP,
        ]
        .concat();
        let mut server = Server::new(DNSTAP_CONTENT_TYPE).unwrap();
        let (mut input, mut out) = (BytesMut::from(&stream[..]), Vec::new());
        let mut count = 0;
        while !input.is_empty() {
            let frames = server.decode(&mut input, &mut out).unwrap();
            count += frames.map_or(0, |frames| frames.count);
        }
        assert_eq!((count, server.state()), (3, ServerState::Stopped));
        assert_eq!(out.len(), 42 + 2 * 12, "ACCEPT, and FINISH for each STOP");
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let broken = |bytes: &[u8]| {
            let mut server = Server::new(DNSTAP_CONTENT_TYPE).unwrap().max_data_frame(64);
            let mut input = BytesMut::from(bytes);
            loop {
                match server.decode(&mut input, &mut Vec::new()) {
                    Ok(frames) => assert!(frames.is_some(), "incomplete"),
                    Err(error) => return error,
                }
            }
        };
        assert_eq!(broken(b"GET / HTTP/1.1"), HandshakeError::Data);
        assert_eq!(broken(b"\0\x01"), HandshakeError::Data);
        assert_eq!(
            broken(&[STOP, b"\0\0\0\x01x"].concat()),
            HandshakeError::Data
        );
        assert_eq!(
            broken(&[READY_ANY, b"\0\0\0\x01x"].concat()),
            Malformed::NoStart.into()
        );
        assert_eq!(
            broken(&[START, b"\0\0\0\x41"].concat()),
            Malformed::DataTooLong { len: 65, limit: 64 }.into()
        );
        let other = b"\0\0\0\0\0\0\0\x0d\0\0\0\x04\0\0\0\x01\0\0\0\x01x";
        assert_eq!(
            broken(other),
            HandshakeError::NoCommonContentType {
                theirs: vec!["x".into()],
                ours: DNSTAP_CONTENT_TYPE.into()
            }
        );
    }

    fn frames(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut frames = Vec::new();
        for payload in payloads {
            frames.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            frames.extend_from_slice(payload);
        }
        frames
    }
}
