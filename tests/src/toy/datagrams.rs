//! The toy's UDP: it receives datagrams with one call and sends the responses with the matching call.

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
};

use anyhow::{Result, bail};

use super::{
    Calls,
    calls::{self, Peer},
    segments::{segments, slices},
};
use crate::wire;

/// Number of elements of a batch.
const BATCH: usize = 8;
/// Buffer size that is enough for any datagram.
const ROOM: usize = 65_536;
/// Size of a datagram that no socket sends: it gives `EMSGSIZE` in the middle of a batch.
const TOO_LONG: usize = 70_000;

pub(super) type Datagram = (Vec<u8>, Option<Peer>);

/// Receives datagrams with one call. Empty ones are included, because real servers get them, too.
pub(super) fn receive(
    calls: Calls,
    fd: BorrowedFd<'_>,
    want_peer: bool,
) -> io::Result<Vec<Datagram>> {
    let mut space = vec![0; ROOM];
    let (length, peer) = match calls {
        Calls::Plain => (calls::read(fd, &mut space)?, None),
        Calls::Vector => (
            calls::readv(fd, &mut segments(&mut space, &[12, 100]))?,
            None,
        ),
        Calls::Address => calls::recvfrom(fd, &mut space, 0, want_peer)?,
        Calls::Message => calls::recvmsg(fd, &mut segments(&mut space, &[2, 500]), want_peer)?,
        Calls::Batch => {
            let mut spaces = vec![vec![0; ROOM]; BATCH];
            let mut messages: Vec<_> = spaces
                .iter_mut()
                .map(|space| segments(space, &[100]))
                .collect();
            let received = calls::recvmmsg(fd, &mut messages, want_peer)?;
            let datagrams = spaces.into_iter().zip(received);
            return Ok(datagrams
                .map(|(space, (length, peer))| (space[..length].to_vec(), peer))
                .collect());
        }
    };
    space.truncate(length);
    Ok(vec![(space, peer)])
}

/// Answers each datagram. Returns their number.
pub(super) fn answer(calls: Calls, fd: BorrowedFd<'_>, queries: Vec<Datagram>) -> Result<usize> {
    let answers: Vec<Datagram> = queries
        .into_iter()
        .filter(|(query, _)| !query.is_empty())
        .map(|(query, peer)| (wire::answer(&query), peer))
        .collect();
    if calls == Calls::Batch {
        send_batches(fd, &answers)?;
    } else {
        for (answer, peer) in &answers {
            let sent = match calls {
                Calls::Plain => calls::write(fd, answer)?,
                Calls::Vector => calls::writev(fd, &slices(answer, &[7, 12]))?,
                Calls::Address => calls::sendto(fd, answer, peer.as_ref())?,
                Calls::Message | Calls::Batch => {
                    calls::sendmsg(fd, &slices(answer, &[12]), peer.as_ref())?
                }
            };
            if sent != answer.len() {
                bail!("sent {sent} of {} bytes", answer.len());
            }
        }
    }
    Ok(answers.len())
}

/// Sends all responses with as few calls as possible. A long batch has a datagram in its middle that the kernel
/// refuses.
fn send_batches(fd: BorrowedFd<'_>, answers: &[Datagram]) -> Result<()> {
    let too_long = vec![0; TOO_LONG];
    let mut messages: Vec<_> = answers
        .iter()
        .map(|(answer, peer)| (slices(answer, &[12, 30]), *peer))
        .collect();
    if messages.len() > 3 {
        let peer = messages[0].1;
        messages.insert(2, (vec![IoSlice::new(&too_long)], peer));
    }
    let mut done = 0;
    while done < messages.len() {
        match calls::sendmmsg(fd, &messages[done..]) {
            Ok(sent) => done += sent.len(),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => done += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
