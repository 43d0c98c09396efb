//! A DNS client that controls how its bytes reach the socket: many queries in one write, or one query in many writes.
//! It stores the messages that passed, as the records that a tap should have written.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::SocketProtocol;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{process::PATIENCE, record::Record, wire};

/// Receive buffer of a narrow connection, in bytes; the kernel doubles it.
const NARROW: usize = 2_048;

/// Way in which a query and its length are cut into writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// One write.
    Whole,
    /// The length, then the message.
    Prefix,
    /// Byte by byte.
    Bytes,
    /// Two halves of the message; the first one has the length, too.
    Halves,
}

/// A TCP connection to a server.
pub(crate) struct TcpClient {
    stream: TcpStream,
    client: SocketAddr,
    server: SocketAddr,
    /// Queries sent and responses received, in the order of this side.
    pub(crate) passed: Vec<Record>,
}

impl TcpClient {
    /// Connects.
    pub(crate) fn connect(server: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
        Self::over(stream, server)
    }

    /// Connects from an address of this host.
    pub(crate) fn connect_from(local: IpAddr, server: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
        socket.connect(&server.into())?;
        Self::over(socket.into(), server)
    }

    /// Connects with a receive window of at most a few kilobytes, so that the server has to send large responses in
    /// small parts.
    pub(crate) fn connect_narrowly(server: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.set_recv_buffer_size(NARROW)?;
        socket.connect(&server.into())?;
        Self::over(socket.into(), server)
    }

    /// Connects by Multipath TCP (RFC 8684), or by plain TCP if the server does not support it.
    pub(crate) fn connect_multipath(server: SocketAddr) -> Result<Self> {
        let protocol = Protocol::from(libc::IPPROTO_MPTCP);
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(protocol))?;
        socket.connect(&server.into())?;
        Self::over(socket.into(), server)
    }

    fn over(stream: TcpStream, server: SocketAddr) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let client = stream.local_addr()?;
        Ok(Self {
            stream,
            client,
            server,
            passed: Vec::new(),
        })
    }

    /// Sends one query, cut as `cut` says.
    pub(crate) fn send(&mut self, query: &[u8], cut: Cut) -> Result<()> {
        let framed = wire::framed(query);
        let pieces: Vec<&[u8]> = match cut {
            Cut::Whole => vec![&framed],
            Cut::Prefix => vec![&framed[..2], &framed[2..]],
            Cut::Bytes => framed.chunks(1).collect(),
            Cut::Halves => vec![&framed[..framed.len() / 2], &framed[framed.len() / 2..]],
        };
        for piece in pieces {
            self.stream.write_all(piece)?;
        }
        self.note(query.to_vec());
        Ok(())
    }

    /// Sends several queries in one write.
    pub(crate) fn send_together(&mut self, queries: &[Vec<u8>]) -> Result<()> {
        let bytes: Vec<u8> = queries
            .iter()
            .flat_map(|query| wire::framed(query))
            .collect();
        self.stream.write_all(&bytes)?;
        for query in queries {
            self.note(query.clone());
        }
        Ok(())
    }

    /// Sends bytes as they are, without adding a record.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Receives the next response.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 2];
        self.stream
            .read_exact(&mut length)
            .context("waiting for an answer")?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        self.stream.read_exact(&mut answer)?;
        self.note(answer.clone());
        Ok(answer)
    }

    fn note(&mut self, message: Vec<u8>) {
        self.passed.push(Record::expected(
            SocketProtocol::Tcp,
            self.client,
            self.server,
            message,
        ));
    }
}

/// A UDP socket that talks to one server.
pub(crate) struct UdpClient {
    socket: UdpSocket,
    client: SocketAddr,
    server: SocketAddr,
    /// Queries sent and responses received.
    pub(crate) passed: Vec<Record>,
}

impl UdpClient {
    /// Makes a socket with a port of its own, connected to `server`.
    pub(crate) fn connect(server: SocketAddr) -> Result<Self> {
        let local: IpAddr = if server.is_ipv6() {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        Self::connect_from(local, server)
    }

    /// Does the same from an address of this host.
    pub(crate) fn connect_from(local: IpAddr, server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let client = socket.local_addr()?;
        Ok(Self {
            socket,
            client,
            server,
            passed: Vec::new(),
        })
    }

    /// Returns the address of this side.
    pub(crate) fn address(&self) -> SocketAddr {
        self.client
    }

    /// Sends one query.
    pub(crate) fn send(&mut self, query: &[u8]) -> Result<()> {
        let sent = self.socket.send(query)?;
        ensure!(sent == query.len(), "sent {sent} of {} bytes", query.len());
        self.note(query.to_vec());
        Ok(())
    }

    /// Sends one query after a PROXY header.
    pub(crate) fn send_behind(&mut self, proxy_header: &[u8], query: &[u8]) -> Result<()> {
        self.socket.send(&[proxy_header, query].concat())?;
        self.note(query.to_vec());
        Ok(())
    }

    /// Sends an empty datagram, which is not a message.
    pub(crate) fn send_nothing(&self) -> Result<()> {
        self.socket.send(&[])?;
        Ok(())
    }

    /// Receives the next response.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let length = loop {
            match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.context("waiting for an answer")?,
            }
        };
        buffer.truncate(length);
        self.note(buffer.clone());
        Ok(buffer)
    }

    fn note(&mut self, message: Vec<u8>) {
        self.passed.push(Record::expected(
            SocketProtocol::Udp,
            self.client,
            self.server,
            message,
        ));
    }
}

/// Sends one query after the other to `server`, with a pause after each, until told to stop. Returns the number of
/// responses. A missing response is an error.
pub(crate) fn ask_until(server: SocketAddr, pause: Duration, stop: &AtomicBool) -> Result<u64> {
    let mut client = UdpClient::connect(server)?;
    let mut answered: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = u16::try_from(answered % 65_536).unwrap_or(0);
        client.send(&wire::query(id, "h1.auth.lab", wire::TYPE_A, true))?;
        let answer = client.receive()?;
        ensure!(
            answer.starts_with(&id.to_be_bytes()),
            "an answer to another question"
        );
        client.passed.clear();
        answered += 1;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Ok(answered)
}
