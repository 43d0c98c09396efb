//! Tests both sides of a connection against bytes of fstrm 0.6.1, recorded on a unix socket: what `fstrm_replay` sends
//! (and `named`, which links the same library) and what `fstrm_capture` answers.

use bytes::BytesMut;
use dnstap_proto::frame_streams::{Client, ClientState, DNSTAP_CONTENT_TYPE, Server, ServerState};

const READY: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x04\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
const ACCEPT: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x01\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
const FINISH: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x05";

/// START, three data frames, STOP: the same in a file and on a socket.
const STREAM: &[u8] = include_bytes!("fixtures/fstrm_capture.fstrm");

#[test]
fn the_client_says_what_fstrm_replay_says() {
    let mut said = Vec::new();
    let mut client = Client::connect(DNSTAP_CONTENT_TYPE, &mut said).unwrap();
    assert_eq!(said, READY);

    said.clear();
    let state = client.receive(&mut BytesMut::from(ACCEPT), &mut said);
    assert_eq!(state, Ok(ClientState::Open));
    said.extend_from_slice(&STREAM[42..STREAM.len() - 12]);
    assert_eq!(client.stop(&mut said), ClientState::AwaitFinish);
    assert_eq!(said, STREAM);

    let state = client.receive(&mut BytesMut::from(FINISH), &mut said);
    assert_eq!(state, Ok(ClientState::Finished));
}

#[test]
fn the_server_answers_what_fstrm_capture_answers() {
    let mut server = Server::new(DNSTAP_CONTENT_TYPE).unwrap();
    let mut answer = Vec::new();
    let mut input = BytesMut::from(READY);
    assert_eq!(server.decode(&mut input, &mut answer), Ok(None));
    assert_eq!(
        (&answer[..], server.state()),
        (ACCEPT, ServerState::AwaitStart)
    );

    answer.clear();
    input.extend_from_slice(STREAM);
    let frames = server.decode(&mut input, &mut answer).unwrap().unwrap();
    assert_eq!(frames.bytes, STREAM[42..STREAM.len() - 12]);
    assert_eq!((frames.count, server.state()), (3, ServerState::Data));
    assert!(answer.is_empty());
    assert_eq!(server.decode(&mut input, &mut answer), Ok(None));
    assert_eq!(
        (&answer[..], server.state()),
        (FINISH, ServerState::Stopped)
    );
}

#[test]
fn a_sender_without_a_handshake_is_received_and_not_answered() {
    let mut server = Server::new(DNSTAP_CONTENT_TYPE).unwrap();
    let mut answer = Vec::new();
    let mut input = BytesMut::from(STREAM);
    let frames = server.decode(&mut input, &mut answer).unwrap().unwrap();
    assert_eq!(frames.count, 3);
    assert_eq!(server.decode(&mut input, &mut answer), Ok(None));
    assert_eq!(server.state(), ServerState::Stopped);
    assert!(answer.is_empty());
}
