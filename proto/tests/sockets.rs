//! Tests [`SocketWriter`] and [`SocketReader`] against a peer with fixed bytes, as fstrm 0.6.1 sends them, and against
//! a peer that ends too early.

use std::io::{self, Read, Write};

use dnstap_proto::frame_streams::{
    DNSTAP_CONTENT_TYPE, HandshakeError, SocketError, SocketReader, SocketWriter,
};

const READY: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x04\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
const ACCEPT: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x01\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
const FINISH: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x05";
const STREAM: &[u8] = include_bytes!("fixtures/fstrm_capture.fstrm");

#[test]
fn the_writer_says_what_fstrm_replay_says() {
    let peer = Peer::saying(&[ACCEPT, FINISH]);
    let mut writer = SocketWriter::new(peer, DNSTAP_CONTENT_TYPE).unwrap();
    assert_eq!(writer.get_ref().heard, [READY, &STREAM[..42]].concat());
    let frames = &STREAM[42..STREAM.len() - 12];
    assert_eq!(writer.write_frames(frames).unwrap(), 3);
    let peer = writer.finish().unwrap();
    assert_eq!(peer.heard, [READY, STREAM].concat());
}

#[test]
fn the_reader_answers_what_fstrm_capture_answers() {
    let peer = Peer::saying(&[READY, STREAM]);
    let mut reader = SocketReader::new(peer, DNSTAP_CONTENT_TYPE).unwrap();
    assert_eq!(reader.get_ref().heard, ACCEPT);
    let mut offsets = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        let at = usize::try_from(frame.offset).unwrap() - READY.len() + 4;
        assert_eq!(frame.payload, STREAM[at..at + frame.payload.len()]);
        assert_eq!(reader.get_ref().heard, ACCEPT, "FINISH before the frames");
        offsets.push(frame.offset);
    }
    assert_eq!(offsets, [84, 84 + 97, 84 + 97 + 171]);
    assert_eq!(reader.get_ref().heard, [ACCEPT, FINISH].concat());
    assert_eq!(reader.next_frame().unwrap(), None);
}

#[test]
fn a_stream_behind_the_first_is_received_and_answered_too() {
    let peer = Peer::saying(&[READY, STREAM, FINISH, STREAM]);
    let mut reader = SocketReader::new(peer, DNSTAP_CONTENT_TYPE).unwrap();
    let mut before = 0;
    for streams in 1..=2 {
        while let Some(frame) = reader.next_frame().unwrap() {
            assert!(frame.offset > before);
            before = frame.offset;
            assert_eq!(reader.get_ref().heard.len(), 42 + 12 * (streams - 1));
        }
        assert!(!reader.is_closed());
        assert_eq!(reader.get_ref().heard.len(), 42 + 12 * streams);
    }
    assert_eq!(reader.next_frame().unwrap(), None);
    assert!(reader.is_closed());
    assert_eq!(reader.get_ref().heard, [ACCEPT, FINISH, FINISH].concat());
    // The next stream is cut or is not a stream.
    let behind = |what: &'static [u8]| {
        let peer = Peer::saying(&[READY, STREAM, what]);
        let mut reader = SocketReader::new(peer, DNSTAP_CONTENT_TYPE).unwrap();
        assert_eq!(reader.by_ref().map(Result::unwrap).count(), 3);
        reader.next_frame().map(|_frame| ())
    };
    assert_eq!(awaited(behind(&STREAM[..20])), "START");
    let refused = behind(b"more").unwrap_err();
    assert!(refused.to_string().contains("after STOP"), "{refused}");
}

/// Some senders wait for the receiver to close.
#[test]
fn a_sender_that_stays_behind_stop_is_not_waited_for() {
    use std::{os::unix::net::UnixStream, time::Duration};

    let (mut sender, receiver) = UnixStream::pair().unwrap();
    sender.write_all(STREAM).unwrap();
    let mut reader = SocketReader::new(&receiver, DNSTAP_CONTENT_TYPE).unwrap();
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 3);
    receiver
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    assert_eq!(reader.next_frame().unwrap(), None);
    assert!(reader.is_closed());
}

#[test]
fn a_sender_without_a_handshake_is_received_and_not_answered() {
    let peer = Peer::saying(&[STREAM]);
    let mut reader = SocketReader::new(peer, DNSTAP_CONTENT_TYPE).unwrap();
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 3);
    assert_eq!(reader.get_ref().heard, b"");
}

#[test]
fn a_sender_that_is_gone_already_has_sent_what_it_sent() {
    use std::os::unix::net::UnixStream;

    let unknown: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x63";
    let (mut sender, receiver) = UnixStream::pair().unwrap();
    sender
        .write_all(&[unknown, READY, STREAM].concat())
        .unwrap();
    drop(sender);
    let mut reader = SocketReader::new(receiver, DNSTAP_CONTENT_TYPE).unwrap();
    assert_eq!(reader.by_ref().map(Result::unwrap).count(), 3);
}

#[test]
fn a_receiver_that_ends_too_early_is_an_error_that_names_what_was_to_come() {
    let refused = SocketWriter::new(Peer::saying(&[&ACCEPT[..41]]), DNSTAP_CONTENT_TYPE);
    assert_eq!(awaited(refused), "ACCEPT");
    let peer = Peer::saying(&[ACCEPT, &FINISH[..11]]);
    let writer = SocketWriter::new(peer, DNSTAP_CONTENT_TYPE).unwrap();
    assert_eq!(awaited(writer.finish()), "FINISH");
}

#[test]
fn a_sender_that_ends_too_early_is_an_error_that_names_what_was_to_come() {
    for (said, before) in [
        (&READY[..41], "READY"),
        (READY, "START"),
        (&[READY, &STREAM[..20]].concat()[..], "START"),
    ] {
        let refused = SocketReader::new(Peer::saying(&[said]), DNSTAP_CONTENT_TYPE);
        assert_eq!(awaited(refused), before, "after {} bytes", said.len());
    }
    let peer = Peer::saying(&[READY, &STREAM[..STREAM.len() - 12]]);
    let mut reader = SocketReader::new(peer, DNSTAP_CONTENT_TYPE).unwrap();
    for _ in 0..3 {
        reader.next_frame().unwrap().unwrap();
    }
    assert_eq!(awaited(reader.next().unwrap()), "STOP");
    assert!(reader.next().is_none());
}

#[test]
fn a_peer_of_another_content_type_or_protocol_is_refused() {
    let refused = SocketWriter::new(Peer::saying(&[ACCEPT]), b"text").unwrap_err();
    assert!(matches!(
        refused,
        SocketError::Handshake(HandshakeError::NoCommonContentType { .. })
    ));
    let refused = SocketReader::new(Peer::saying(&[READY]), b"text").unwrap_err();
    assert!(matches!(
        refused,
        SocketError::Handshake(HandshakeError::NoCommonContentType { .. })
    ));
    let peer = Peer::saying(&[b"GET / HTTP/1.1\r\n"]);
    let refused = SocketReader::new(peer, DNSTAP_CONTENT_TYPE).unwrap_err();
    assert!(matches!(
        refused,
        SocketError::Handshake(HandshakeError::Data)
    ));
}

#[test]
fn a_data_frame_over_the_limit_is_refused() {
    let peer = Peer::saying(&[READY, STREAM]);
    let mut reader = SocketReader::with_max_data_frame(peer, DNSTAP_CONTENT_TYPE, 100).unwrap();
    assert!(reader.next().unwrap().is_ok(), "93 bytes");
    let refused = reader.next().unwrap().unwrap_err();
    assert!(refused.to_string().contains("limit of 100"), "{refused}");
}

fn awaited<T>(result: Result<T, SocketError>) -> &'static str {
    match result {
        Err(SocketError::Closed { awaited }) => awaited,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("no error"),
    }
}

/// Peer that sends the given bytes in pieces of 7, interrupted by a signal before each, and then closes.
#[derive(Debug)]
struct Peer {
    words: Vec<u8>,
    said: usize,
    interrupted: bool,
    heard: Vec<u8>,
}

impl Peer {
    fn saying(words: &[&[u8]]) -> Self {
        Self {
            words: words.concat(),
            said: 0,
            interrupted: false,
            heard: Vec::new(),
        }
    }
}

impl Read for Peer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let rest = &self.words[self.said..];
        let len = rest.len().min(into.len()).min(7);
        into[..len].copy_from_slice(&rest[..len]);
        self.said += len;
        Ok(len)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
