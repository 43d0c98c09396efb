//! Frame Streams from other programs. For any cutting of the bytes into pieces, the frames, the answers and the error
//! are the same. Frames that were read are written again to the same frames.
//!
//! The input is a byte that selects the part to test, three bytes for the sizes of the pieces, then the stream.

use std::io::{self, Read};

use bytes::BytesMut;
use dnstap_proto::frame_streams::{
    Client, ClientState, DNSTAP_CONTENT_TYPE, DecodeError, Decoder, Frame, HandshakeError,
    ReadError, Reader, Server, ServerState, Writer,
};

use crate::input::{Input, bit};

/// Longest data frame: it is small, so that the fuzzer soon finds a frame that is too long.
const LIMIT: u32 = 2_000;

/// Runs the target.
///
/// # Panics
///
/// If a check fails.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let cuts = Cuts([input.byte(), input.byte(), input.byte()]);
    let stream = input.rest();
    match choice % 3 {
        0 => files(stream, cuts),
        1 => servers(stream, cuts),
        _ => clients(stream, cuts, bit(choice, 7)),
    }
}

/// Sizes of the pieces, used in turn.
#[derive(Clone, Copy)]
struct Cuts([u8; 3]);

impl Cuts {
    fn of(self, stream: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = stream;
        let mut sizes = self.0.into_iter().cycle();
        std::iter::from_fn(move || {
            let size = usize::from(sizes.next()?).max(1).min(rest.len());
            let (piece, tail) = rest.split_at(size);
            rest = tail;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

fn files(stream: &[u8], cuts: Cuts) {
    let at_once = decode([stream].into_iter());
    let (frames, state, error) = &at_once;
    assert_eq!(&decode(cuts.of(stream)), &at_once);
    let whole: usize = frames.iter().map(|frame| frame.1.len()).sum();
    assert!(whole <= stream.len());

    for source in [Cuts([255; 3]), cuts] {
        let mut pieces = source.of(stream);
        let reader =
            Reader::with_max_data_frame(Pieces(&mut pieces, &[]), DNSTAP_CONTENT_TYPE, LIMIT);
        let (read, end) = match reader {
            Ok(mut reader) => {
                let mut read = Vec::new();
                let end = loop {
                    match reader.next_frame() {
                        Ok(Some(frame)) => read.push((frame.offset, frame.payload.to_vec())),
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                };
                (read, end)
            }
            Err(error) => (Vec::new(), Some(error)),
        };
        assert_eq!(&read, frames);
        match (error, &end) {
            (Some(error), Some(ReadError::Malformed(read))) => assert_eq!(read, error),
            (None, None) => assert_eq!(*state, dnstap_proto::frame_streams::State::Stopped),
            (None, Some(ReadError::Unfinished { partial, .. })) => {
                assert!(*state != dnstap_proto::frame_streams::State::Stopped || *partial > 0);
            }
            _ => panic!("decoder: {error:?}, reader: {end:?}"),
        }
    }
    written(frames);
}

type Decoded = (
    Vec<(u64, Vec<u8>)>,
    dnstap_proto::frame_streams::State,
    Option<DecodeError>,
);

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE).max_data_frame(LIMIT);
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(Frame::Data(payload))) => {
                    let offset = decoder.offset() - (4 + payload.len() as u64);
                    frames.push((offset, payload.to_vec()));
                }
                Ok(Some(Frame::Control(_))) => {}
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.decode(&mut input), Err(error.clone()), "said again");
                    return (frames, decoder.state(), Some(error));
                }
            }
        }
        assert!(input.len() <= 4 + LIMIT as usize + piece.len());
    }
    (frames, decoder.state(), None)
}

/// Checks that frames that are written again are read as the same frames.
fn written(frames: &[(u64, Vec<u8>)]) {
    let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).expect("a vector takes all");
    for (_, payload) in frames {
        writer.write_frame(payload).expect("a frame that was read");
    }
    let file = writer.finish().expect("a vector takes all");
    let reader = Reader::new(&file[..], DNSTAP_CONTENT_TYPE).expect("START");
    let read: Vec<_> = reader
        .map(|frame| frame.expect("a frame").payload.to_vec())
        .collect();
    let payloads: Vec<_> = frames.iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(read, payloads);
}

fn servers(stream: &[u8], cuts: Cuts) {
    let at_once = serve([stream].into_iter());
    assert_eq!(serve(cuts.of(stream)), at_once);
}

/// Result of a server: frames, their number, the answers, the state and the error.
type Served = (Vec<u8>, u64, Vec<u8>, ServerState, Option<HandshakeError>);

fn serve<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Served {
    let mut server = Server::new(DNSTAP_CONTENT_TYPE)
        .expect("a short content type")
        .max_data_frame(LIMIT);
    let mut input = BytesMut::new();
    let (mut frames, mut count, mut out) = (Vec::new(), 0, Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            match server.decode(&mut input, &mut out) {
                Ok(None) if input.len() < before => {} // after STOP
                Ok(Some(row)) => {
                    assert!(row.count > 0);
                    count += row.count;
                    frames.extend_from_slice(&row.bytes);
                }
                Ok(None) => break,
                Err(error) => return (frames, count, out, server.state(), Some(error)),
            }
        }
        assert!(input.len() <= 4 + LIMIT as usize + piece.len());
    }
    (frames, count, out, server.state(), None)
}

fn clients(stream: &[u8], cuts: Cuts, stops: bool) {
    let at_once = ask([stream].into_iter(), stops);
    assert_eq!(ask(cuts.of(stream), stops), at_once);
}

/// Result of a client: the bytes that it sent, its state and the error.
type Asked = (Vec<u8>, ClientState, Option<HandshakeError>);

/// Runs a client. If `stops`, it stops as soon as it is allowed.
fn ask<'a>(pieces: impl Iterator<Item = &'a [u8]>, stops: bool) -> Asked {
    let mut out = Vec::new();
    let mut client = Client::connect(DNSTAP_CONTENT_TYPE, &mut out).expect("a short content type");
    let mut input = BytesMut::new();
    for piece in pieces {
        // The receiver's answers arrive one at a time, because it waits for the client in between.
        for byte in piece {
            input.extend_from_slice(&[*byte]);
            if let Err(error) = client.receive(&mut input, &mut out) {
                return (out, client.state(), Some(error));
            }
            if stops {
                client.stop(&mut out);
            }
            assert!(input.len() <= 520);
        }
    }
    (out, client.state(), None)
}

/// A source that returns one piece at a time.
struct Pieces<'p, 'a, I>(&'p mut I, &'a [u8]);

impl<'a, I: Iterator<Item = &'a [u8]>> Read for Pieces<'_, 'a, I> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.1.is_empty() {
            self.1 = self.0.next().unwrap_or_default();
        }
        let length = self.1.len().min(room.len());
        room[..length].copy_from_slice(&self.1[..length]);
        self.1 = &self.1[length..];
        Ok(length)
    }
}
