//! The toy's TCP: it reads pieces of the stream with one call, and sends framed responses with the matching call,
//! however little the socket accepts at a time.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use anyhow::Result;

use super::{
    Calls, calls,
    segments::{segments, slices},
};
use crate::wire;

/// Number of elements of a batch.
const BATCH: usize = 8;
/// Largest number of bytes that are read at once.
const ROOM: usize = 65_536;
/// Bytes that one element of a batch takes from a TCP stream, in two segments: less than most messages.
const STREAM_PIECE: [usize; 2] = [40, 60];

/// Reads from a TCP stream with one call (two for the calls that read length and message separately). Returns the
/// number of pieces; 0 at the end of the stream.
pub(super) fn read_stream(
    calls: Calls,
    fd: BorrowedFd<'_>,
    received: &mut Vec<u8>,
) -> io::Result<usize> {
    let mut space = vec![0; ROOM];
    let length = match calls {
        Calls::Plain => calls::read(fd, &mut space)?,
        Calls::Vector => calls::readv(fd, &mut segments(&mut space[..5_000], &[2, 100]))?,
        Calls::Address => {
            // It peeks before it reads, like dnsdist, and reads no more than it needs, like unbound.
            calls::recvfrom(fd, &mut space[..1], libc::MSG_PEEK, false)?;
            let wanted = wanted(received);
            calls::recvfrom(fd, &mut space[..wanted], 0, false)?.0
        }
        Calls::Message => {
            let wanted = wanted(received);
            calls::recvmsg(fd, &mut segments(&mut space[..wanted], &[1]), false)?.0
        }
        Calls::Batch => {
            let piece = STREAM_PIECE.iter().sum();
            let mut spaces = vec![vec![0; piece]; BATCH];
            let mut messages: Vec<_> = spaces
                .iter_mut()
                .map(|space| segments(space, &STREAM_PIECE[..1]))
                .collect();
            let lengths = calls::recvmmsg(fd, &mut messages, false)?;
            let pieces = lengths.iter().filter(|(length, _)| *length > 0).count();
            for (space, (length, _)) in spaces.iter().zip(lengths) {
                received.extend(&space[..length]);
            }
            return Ok(pieces);
        }
    };
    received.extend(&space[..length]);
    Ok(usize::from(length > 0))
}

/// Returns the number of missing bytes of the length, or else of the message.
fn wanted(received: &[u8]) -> usize {
    match received {
        [] => 2,
        [_] => 1,
        [high, low, rest @ ..] => usize::from(u16::from_be_bytes([*high, *low])) - rest.len(),
    }
}

/// Answers all complete messages in `received` and removes them. Returns their number.
pub(super) fn answer_stream(
    calls: Calls,
    fd: BorrowedFd<'_>,
    received: &mut Vec<u8>,
) -> Result<usize> {
    let mut answers = Vec::new();
    while let Some((length, rest)) = received.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(query) = rest.get(..length) else {
            break;
        };
        answers.push(wire::framed(&wire::answer(query)));
        received.drain(..2 + length);
    }
    if calls == Calls::Batch {
        send_stream_batches(fd, &answers)?;
    } else {
        for (index, answer) in answers.iter().enumerate() {
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                let sent = retry(fd, || match calls {
                    // The length of every second response is written separately.
                    Calls::Plain if index % 2 == 1 && rest.len() == answer.len() => {
                        calls::write(fd, &rest[..2])
                    }
                    Calls::Plain => calls::write(fd, rest),
                    Calls::Vector => calls::writev(fd, &slices(rest, &[2, 12])),
                    Calls::Address => calls::sendto(fd, rest, None),
                    Calls::Message | Calls::Batch => calls::sendmsg(fd, &slices(rest, &[2]), None),
                })?;
                rest = &rest[sent..];
            }
        }
    }
    Ok(answers.len())
}

/// Sends the responses as the elements of batches, each in two segments, and continues after a short call.
fn send_stream_batches(fd: BorrowedFd<'_>, answers: &[Vec<u8>]) -> Result<()> {
    let mut rest: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
    while !rest.is_empty() {
        let messages: Vec<_> = rest
            .iter()
            .map(|bytes| (slices(bytes, &[2]), None))
            .collect();
        let sent = retry(fd, || calls::sendmmsg(fd, &messages))?;
        for (bytes, sent) in rest.iter_mut().zip(sent) {
            *bytes = &bytes[sent..];
        }
        rest.retain(|bytes| !bytes.is_empty());
    }
    Ok(())
}

/// Makes the call again when the socket has room.
fn retry<T>(fd: BorrowedFd<'_>, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                calls::poll(&mut [wait(fd, libc::POLLOUT)])?;
            }
            result => return result,
        }
    }
}

/// Returns what to wait for on a descriptor.
pub(super) fn wait(fd: BorrowedFd<'_>, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }
}
