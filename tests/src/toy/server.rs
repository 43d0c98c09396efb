//! The toy's process: its sockets and its loop.

use std::{
    io::{self, BufRead as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result};

use super::{
    Calls, Family, Sort, calls,
    datagrams::{answer, receive},
    streams::{answer_stream, read_stream, wait},
};

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
            // `read` and `readv` do not return the sender of a datagram.
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

    /// Answers `count` queries. Returns the largest number of messages that one call received.
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

/// Result of handling a readable socket.
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
    /// Makes one call to receive, and sends the responses.
    fn turn(&mut self, calls: Calls) -> Result<Turn> {
        Ok(match self {
            Self::Listener(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                // The buffer is small, so that large responses are written in parts.
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

fn announce(sort: Sort, family: Family, address: SocketAddr) -> io::Result<()> {
    say(&format!("endpoint {sort:?} {family:?} {address}"))
}

/// Writes one line to standard output, which is the control channel.
fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
