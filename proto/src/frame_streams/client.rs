//! The sending side of a connection: which control frames to send, and which ones the receiver may answer. No IO: bytes
//! in, bytes out.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    ControlError, ControlFrame, HandshakeError, Malformed, be32,
    decode::{Control, peek_control},
};

/// State of a connection, seen from the sender.
///
/// ```text
///   connect: READY                ACCEPT: START           stop: STOP                FINISH
///  ───────────────► AwaitAccept ───────────────► Open ───────────────► AwaitFinish ───────► Finished
///                                                 ▲ │                                         ▲
///   unidirectional: START                         │ │  stop: STOP (unidirectional)            │
///  ───────────────────────────────────────────────┘ └─────────────────────────────────────────┘
/// ```
///
/// A frame that arrives in any other state is an error, and the connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// READY was sent; the receiver must answer with the content types that it takes. No data frames yet.
    AwaitAccept,
    /// START was sent: data frames may follow.
    Open,
    /// STOP was sent; the receiver must confirm that it has received everything.
    AwaitFinish,
    /// Neither side sends anything more. In the unidirectional form, this does not confirm that the data has arrived.
    Finished,
}

/// The sender of one stream over a connection.
///
/// It writes the control frames. The caller writes the data frames, between [`ClientState::Open`] and [`Client::stop`].
///
/// ```
/// use bytes::BytesMut;
/// use dnstap_proto::frame_streams::{Client, ClientState, Server, DNSTAP_CONTENT_TYPE};
///
/// // Two buffers stand for the connection: `to` the receiver, `from` the receiver.
/// let (mut to, mut from) = (Vec::new(), Vec::new());
/// let mut client = Client::connect(DNSTAP_CONTENT_TYPE, &mut to)?;
/// let mut server = Server::new(DNSTAP_CONTENT_TYPE)?;
///
/// server.decode(&mut BytesMut::from(&to[..]), &mut from)?; // READY: ACCEPT
/// to.clear();
/// let state = client.receive(&mut BytesMut::from(&from[..]), &mut to)?; // ACCEPT: START
/// assert_eq!(state, ClientState::Open);
///
/// to.extend_from_slice(b"\0\0\0\x05frame");
/// client.stop(&mut to);
/// from.clear();
/// let mut input = BytesMut::from(&to[..]);
/// let frames = server.decode(&mut input, &mut from)?.expect("one");
/// assert_eq!((&frames.bytes[..], frames.count), (&b"\0\0\0\x05frame"[..], 1));
/// server.decode(&mut input, &mut from)?; // STOP: FINISH
/// assert_eq!(client.receive(&mut BytesMut::from(&from[..]), &mut to)?, ClientState::Finished);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    content_type: Bytes,
    bidirectional: bool,
    state: ClientState,
}

impl Client {
    /// Begins a connection with a handshake, as on sockets: appends READY to `out`. The content type has at most 256
    /// bytes.
    pub fn connect(content_type: &[u8], out: &mut Vec<u8>) -> Result<Self, ControlError> {
        let content_type = Bytes::copy_from_slice(content_type);
        let content_types = vec![content_type.clone()];
        ControlFrame::Ready { content_types }.encode(out)?;
        Ok(Self {
            content_type,
            bidirectional: true,
            state: ClientState::AwaitAccept,
        })
    }

    /// Begins a connection without a handshake, for receivers that do not answer: appends START to `out`. The content
    /// type has at most 256 bytes.
    pub fn unidirectional(content_type: &[u8], out: &mut Vec<u8>) -> Result<Self, ControlError> {
        let content_type = Bytes::copy_from_slice(content_type);
        start(&content_type).encode(out)?;
        Ok(Self {
            content_type,
            bidirectional: false,
            state: ClientState::Open,
        })
    }

    /// Returns the state of the connection.
    #[must_use]
    pub const fn state(&self) -> ClientState {
        self.state
    }

    /// Takes all whole frames of the receiver off `input`, and appends the answer to `out`: START when the receiver has
    /// accepted. Returns the new state.
    ///
    /// `input` never needs to hold more than 520 bytes: an unfinished frame is never longer. After an error, `input`
    /// begins with the wrong frame, and the state is that after the frames before it.
    pub fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Result<ClientState, HandshakeError> {
        loop {
            match be32(input, 0) {
                None => return Ok(self.state),
                Some(0) => {}
                Some(_) => return Err(HandshakeError::Data),
            }
            let Some((control, len)) = peek_control(input)? else {
                return Ok(self.state);
            };
            let Control::Known(control) = control else {
                input.advance(len); // a frame of a later version
                continue;
            };
            self.state = match (self.state, control) {
                (ClientState::AwaitAccept, ControlFrame::Accept { content_types }) => {
                    if !takes(&content_types, &self.content_type) {
                        return Err(HandshakeError::NoCommonContentType {
                            theirs: content_types,
                            ours: self.content_type.clone(),
                        });
                    }
                    start(&self.content_type)
                        .encode(out)
                        .map_err(Malformed::from)?;
                    ClientState::Open
                }
                (ClientState::AwaitFinish, ControlFrame::Finish) => ClientState::Finished,
                (_, other) => {
                    let frame = other.name();
                    return Err(Malformed::UnexpectedControl { frame }.into());
                }
            };
            input.advance(len);
        }
    }

    /// Ends the stream: appends STOP to `out`, after the last data frame. Returns the new state. Does nothing if no
    /// stream is open.
    pub fn stop(&mut self, out: &mut Vec<u8>) -> ClientState {
        if self.state == ClientState::Open && ControlFrame::Stop.encode(out).is_ok() {
            self.state = if self.bidirectional {
                ClientState::AwaitFinish
            } else {
                ClientState::Finished
            };
        }
        self.state
    }
}

/// Returns whether a peer that lists these content types takes `wanted`. A peer that lists none takes any, as in fstrm.
pub(super) fn takes(content_types: &[Bytes], wanted: &Bytes) -> bool {
    content_types.is_empty() || content_types.contains(wanted)
}

fn start(content_type: &Bytes) -> ControlFrame {
    let content_type = Some(content_type.clone());
    ControlFrame::Start { content_type }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::frame_streams::DNSTAP_CONTENT_TYPE;

    proptest! {
        #[test]
        fn any_answer_is_taken_within_the_bound_or_refused(
            bytes in vec(prop_oneof![6 => Just(0), 3 => 0..8_u8, 1 => any::<u8>()], 0..600),
            stopped in any::<bool>(),
        ) {
            let mut out = Vec::new();
            let mut client = Client::connect(DNSTAP_CONTENT_TYPE, &mut out).unwrap();
            if stopped {
                client.receive(&mut BytesMut::from(ACCEPT_ANY), &mut out).unwrap();
                client.stop(&mut out);
            }
            let mut input = BytesMut::from(&bytes[..]);
            if client.receive(&mut input, &mut out).is_ok() {
                prop_assert!(input.len() < 520);
            }
            prop_assert!(out.len() < 200);
        }
    }

    const ACCEPT_ANY: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x01";
    const FINISH: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x05";

    #[test]
    fn an_answer_may_come_byte_by_byte() {
        let mut out = Vec::new();
        let mut client = Client::connect(DNSTAP_CONTENT_TYPE, &mut out).unwrap();
        let mut input = BytesMut::new();
        for (at, byte) in ACCEPT_ANY.iter().enumerate() {
            assert_eq!(client.state(), ClientState::AwaitAccept, "after {at} bytes");
            input.extend_from_slice(&[*byte]);
            client.receive(&mut input, &mut out).unwrap();
        }
        assert_eq!(
            (client.state(), input.is_empty()),
            (ClientState::Open, true)
        );
    }

    #[test]
    fn what_does_not_belong_is_refused_and_changes_nothing() {
        let answered = |open: bool, answer: &[u8]| {
            let mut out = Vec::new();
            let mut client = Client::connect(DNSTAP_CONTENT_TYPE, &mut out).unwrap();
            if open {
                let accept = &mut BytesMut::from(ACCEPT_ANY);
                client.receive(accept, &mut out).unwrap();
            }
            let before = (client.state(), out.len());
            let refused = client.receive(&mut BytesMut::from(answer), &mut out);
            assert_eq!((client.state(), out.len()), before);
            refused.unwrap_err()
        };
        let unexpected = |frame| Malformed::UnexpectedControl { frame }.into();

        assert_eq!(answered(false, FINISH), unexpected("FINISH"));
        assert_eq!(answered(true, ACCEPT_ANY), unexpected("ACCEPT"));
        assert_eq!(answered(true, FINISH), unexpected("FINISH"));
        assert_eq!(answered(false, b"HTTP/1.1 400"), HandshakeError::Data);
        assert_eq!(
            answered(false, b"\0\0\0\0\0\0\x02\x01"),
            Malformed::from(ControlError::TooLong { len: 513 }).into()
        );
        let other = b"\0\0\0\0\0\0\0\x0d\0\0\0\x01\0\0\0\x01\0\0\0\x01x";
        assert_eq!(
            answered(false, other),
            HandshakeError::NoCommonContentType {
                theirs: vec!["x".into()],
                ours: DNSTAP_CONTENT_TYPE.into()
            }
        );
    }

    #[test]
    fn without_a_handshake_nothing_is_waited_for() {
        let mut out = Vec::new();
        let mut client = Client::unidirectional(b"x", &mut out).unwrap();
        assert_eq!(client.state(), ClientState::Open);
        assert_eq!(client.stop(&mut out), ClientState::Finished);
        assert_eq!(
            out,
            b"\0\0\0\0\0\0\0\x0d\0\0\0\x02\0\0\0\x01\0\0\0\x01x\0\0\0\0\0\0\0\x04\0\0\0\x03"
        );
        assert_eq!(client.stop(&mut out), ClientState::Finished);
        assert_eq!(out.len(), 33, "STOP is said once");
    }
}
