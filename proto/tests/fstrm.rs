//! Reads a file of the reference implementation, and writes it again with both encoders, byte for byte the same.
//! `fixtures/README.md` tells the origin of the file.

use std::net::Ipv6Addr;

use dnstap_proto::{
    Dnstap, DnstapRef, HttpProtocol, MessageRef, SocketFamily, SocketProtocol, Timestamp,
    frame_streams::{DNSTAP_CONTENT_TYPE, Reader, State, Writer},
    message, policy,
    prost::Message as _,
};

const FILE: &[u8] = include_bytes!("fixtures/fstrm_capture.fstrm");

#[test]
fn the_file_of_fstrm_capture_is_read_with_every_field() {
    let mut reader = Reader::new(FILE, DNSTAP_CONTENT_TYPE).unwrap();
    let mut messages = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        let dnstap = Dnstap::decode(frame.payload).unwrap();
        assert_eq!(dnstap.identity(), b"ns.example");
        assert_eq!(dnstap.version(), b"fixture 1");
        messages.push((frame.offset, dnstap.message.unwrap()));
    }
    assert_eq!(reader.state(), State::Stopped);
    assert_eq!(reader.offset(), FILE.len() as u64);

    let offsets: Vec<_> = messages.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [42, 42 + 4 + 93, 42 + 4 + 93 + 4 + 167]);

    let (_, query) = &messages[0];
    assert_eq!(query.r#type(), message::Type::ClientQuery);
    assert_eq!(query.socket_family(), SocketFamily::Inet);
    assert_eq!(query.query_address(), [192, 0, 2, 1]);
    assert_eq!(query.response_address(), [192, 0, 2, 53]);
    assert_eq!((query.query_port(), query.response_port()), (40_000, 53));
    assert_eq!(query.query_time_sec(), 1_700_000_000);
    assert_eq!(query.query_time_nsec(), 123_456_789);
    assert_eq!(query.query_message().len(), 29);
    assert_eq!(query.response_message, None);

    let (_, response) = &messages[1];
    assert_eq!(response.r#type(), message::Type::ClientResponse);
    assert_eq!(response.response_time_nsec(), 234_567_890);
    assert_eq!(response.response_message().len(), 57);
    let applied = response.policy.as_ref().unwrap();
    assert_eq!(applied.r#type(), "RPZ");
    assert_eq!(applied.rule(), b"\x04rule\0");
    assert_eq!(applied.action(), policy::Action::LocalData);
    assert_eq!(applied.r#match(), policy::Match::Qname);
    assert_eq!(applied.value(), b"\x03www\x07example\0");

    let (_, upstream) = &messages[2];
    assert_eq!(upstream.r#type(), message::Type::ResolverQuery);
    assert_eq!(upstream.socket_protocol(), SocketProtocol::Tcp);
    let asker: Ipv6Addr = "2001:db8::1".parse().unwrap();
    assert_eq!(upstream.query_address(), asker.octets());
    assert_eq!(upstream.query_zone(), b"\x07example\0");
    assert_eq!(upstream.http_protocol(), HttpProtocol::Http2);
}

#[test]
fn prost_and_the_writer_make_the_same_file_again() {
    let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).unwrap();
    for frame in Reader::new(FILE, DNSTAP_CONTENT_TYPE).unwrap() {
        let dnstap = Dnstap::decode(frame.unwrap().payload).unwrap();
        writer.write_frame(&dnstap.encode_to_vec()).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), FILE);
}

#[test]
fn the_borrowed_encoder_writes_the_same_frame() {
    let message = MessageRef {
        socket_family: Some(SocketFamily::Inet),
        socket_protocol: Some(SocketProtocol::Udp),
        query_address: Some(&[192, 0, 2, 1]),
        response_address: Some(&[192, 0, 2, 53]),
        query_port: Some(40_000),
        response_port: Some(53),
        query_time: Some(Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 123_456_789,
        }),
        query_message: Some(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x1c\0\x01"),
        ..MessageRef::new(message::Type::ClientQuery)
    };
    let mut frame = Vec::new();
    DnstapRef {
        identity: Some(b"ns.example"),
        version: Some(b"fixture 1"),
        extra: None,
        message,
    }
    .append_frame(&mut frame);
    assert_eq!(frame, FILE[42..42 + 4 + 93]);
}
