//! The toy's process: its sockets, its loop, and how each pair of calls receives and sends.

use std::{
    io::{self, BufRead as _, ErrorKind, IoSlice, IoSliceMut, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Calls, Family, Sort,
    calls::{self, Peer},
};
use crate::wire;

/// Elements of a batch.
const BATCH: usize = 8;
/// Room for any datagram.
const ROOM: usize = 65_536;
/// Bytes that one element of a batch takes from a TCP stream, in two segments: less than most messages.
const STREAM_PIECE: [usize; 2] = [40, 60];
/// A datagram that no socket sends: `EMSGSIZE` in the middle of a batch.
const TOO_LONG: usize = 70_000;

/// Runs the toy server until its input ends.
pub(crate) fn serve(calls: Calls) -> Result<()> {
    let mut server = Server::bind(calls)?;
    for command in io::stdin().lock().lines() {
        let command = command?;
        let count: usize = command
            .strip_prefix("serve ")
            .context("unknown command")?
            .parse()?;
        let batch = server.serve(count)?;
        say(&format!("served {count} batch {batch}"))?;
    }
    Ok(())
}

struct Server {
    calls: Calls,
    sockets: Vec<Socket>,
}

enum Socket {
    Listener(TcpListener),
    Stream {
        stream: TcpStream,
        received: Vec<u8>,
    },
    Udp {
        socket: UdpSocket,
        connect_first: bool,
        connected: bool,
    },
}

impl Server {
    fn bind(calls: Calls) -> Result<Self> {
        let mut sockets = Vec::new();
        for (family, address) in [
            (Family::V4, "127.0.0.1:0"),
            (Family::V6, "[::1]:0"),
            (Family::Mapped, "[::ffff:127.0.0.1]:0"),
        ] {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            announce(Sort::Tcp, family, listener.local_addr()?)?;
            sockets.push(Socket::Listener(listener));
            // `read` and `readv` do not say who sent a datagram.
            let unconnected = !matches!(calls, Calls::Plain | Calls::Vector);
            for connect_first in [true].into_iter().chain(unconnected.then_some(false)) {
                let socket = UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                calls::set_option(
                    socket.as_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    4 << 20,
                )?;
                calls::set_option(
                    socket.as_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_SNDBUFFORCE,
                    4 << 20,
                )?;
                announce(
                    if connect_first {
                        Sort::UdpConnected
                    } else {
                        Sort::Udp
                    },
                    family,
                    socket.local_addr()?,
                )?;
                sockets.push(Socket::Udp {
                    socket,
                    connect_first,
                    connected: false,
                });
            }
        }
        say("ready")?;
        Ok(Self { calls, sockets })
    }

    /// Answers `count` queries; returns how many messages the fullest call received.
    fn serve(&mut self, count: usize) -> Result<usize> {
        let (mut served, mut fullest) = (0, 0);
        while served < count {
            let mut descriptors: Vec<_> = self
                .sockets
                .iter()
                .map(|socket| wait(socket.fd(), libc::POLLIN))
                .collect();
            calls::poll(&mut descriptors)?;
            let mut sockets = Vec::new();
            for (mut socket, descriptor) in self.sockets.drain(..).zip(descriptors) {
                let turn = if descriptor.revents == 0 {
                    Turn::Idle
                } else {
                    socket.turn(self.calls)?
                };
                match turn {
                    Turn::Idle => {}
                    Turn::Accepted(stream) => sockets.push(Socket::Stream {
                        stream,
                        received: Vec::new(),
                    }),
                    Turn::Answered { messages, pieces } => {
                        served += messages;
                        fullest = fullest.max(pieces);
                    }
                    Turn::Closed => continue,
                }
                sockets.push(socket);
            }
            self.sockets = sockets;
        }
        Ok(fullest)
    }
}

/// What came of a socket that was readable.
enum Turn {
    Idle,
    Accepted(TcpStream),
    /// `pieces`: elements that the call received; `messages`: queries answered.
    Answered {
        messages: usize,
        pieces: usize,
    },
    Closed,
}

impl Socket {
    /// One call to receive, and the answers.
    fn turn(&mut self, calls: Calls) -> Result<Turn> {
        Ok(match self {
            Self::Listener(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                // Small, so that large answers are written in parts.
                calls::set_option(stream.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 8_192)?;
                Turn::Accepted(stream)
            }
            Self::Stream { stream, received } => {
                match read_stream(calls, stream.as_fd(), received)? {
                    0 => Turn::Closed,
                    pieces => Turn::Answered {
                        messages: answer_stream(calls, stream.as_fd(), received)?,
                        pieces,
                    },
                }
            }
            Self::Udp {
                socket,
                connect_first,
                connected,
            } => {
                if *connect_first && !*connected {
                    calls::connect_to_sender(socket.as_fd())?;
                    *connected = true;
                }
                let queries = receive(calls, socket.as_fd(), !*connected)?;
                let pieces = queries.len();
                Turn::Answered {
                    messages: answer(calls, socket.as_fd(), queries)?,
                    pieces,
                }
            }
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(listener) => listener.as_fd(),
            Self::Stream { stream, .. } => stream.as_fd(),
            Self::Udp { socket, .. } => socket.as_fd(),
        }
    }
}

type Datagram = (Vec<u8>, Option<Peer>);

/// One call's worth of datagrams; those without a byte are left in, as real servers get them too.
fn receive(calls: Calls, fd: BorrowedFd<'_>, want_peer: bool) -> io::Result<Vec<Datagram>> {
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

/// Answers each datagram; returns how many there were.
fn answer(calls: Calls, fd: BorrowedFd<'_>, queries: Vec<Datagram>) -> Result<usize> {
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

/// Sends all answers with as few calls as there are, with a datagram that is refused in the midst of a long batch.
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

/// One call's worth of a TCP stream (two for the calls that read length and message separately); returns the number of
/// pieces, 0 at the stream's end.
fn read_stream(calls: Calls, fd: BorrowedFd<'_>, received: &mut Vec<u8>) -> io::Result<usize> {
    let mut space = vec![0; ROOM];
    let length = match calls {
        Calls::Plain => calls::read(fd, &mut space)?,
        Calls::Vector => calls::readv(fd, &mut segments(&mut space[..5_000], &[2, 100]))?,
        Calls::Address => {
            // Like dnsdist, looks before it reads; like unbound, reads no more than it needs.
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

/// Bytes missing until the length, or else the message, is complete.
fn wanted(received: &[u8]) -> usize {
    match received {
        [] => 2,
        [_] => 1,
        [high, low, rest @ ..] => usize::from(u16::from_be_bytes([*high, *low])) - rest.len(),
    }
}

/// Answers all complete messages in `received` and takes them out; returns how many there were.
fn answer_stream(calls: Calls, fd: BorrowedFd<'_>, received: &mut Vec<u8>) -> Result<usize> {
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
                    // Every second answer's length is written by itself.
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

/// Sends the answers as the elements of batches, each in two segments, going on where a short call left off.
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

/// `space` in segments: the lengths given, then the rest.
fn segments<'a>(mut space: &'a mut [u8], lengths: &[usize]) -> Vec<IoSliceMut<'a>> {
    let mut segments = Vec::new();
    for length in lengths {
        let (segment, rest) = space.split_at_mut((*length).min(space.len()));
        segments.push(IoSliceMut::new(segment));
        space = rest;
    }
    segments.push(IoSliceMut::new(space));
    segments
}

/// `bytes` in segments, as [`segments`].
fn slices<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<IoSlice<'a>> {
    let mut slices = Vec::new();
    for length in lengths {
        let (slice, rest) = bytes.split_at((*length).min(bytes.len()));
        slices.push(IoSlice::new(slice));
        bytes = rest;
    }
    slices.push(IoSlice::new(bytes));
    slices
}

fn wait(fd: BorrowedFd<'_>, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }
}

fn announce(sort: Sort, family: Family, address: std::net::SocketAddr) -> io::Result<()> {
    say(&format!("endpoint {sort:?} {family:?} {address}"))
}

/// One line on standard output, which is the control channel.
fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
