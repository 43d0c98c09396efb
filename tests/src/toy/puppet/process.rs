//! The puppet's process: its sockets, and one call for each line of its input.

use std::{
    io::{self, BufRead as _, ErrorKind, IoSlice, IoSliceMut, Write as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    str::FromStr,
};

use anyhow::Result;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{By, Way, ring::Ring, ways};
use crate::toy::{
    calls::{self, Peer},
    segments::slices,
    streams::wait,
};

/// Lengths of the segments of a message that is written in parts; the rest is the last one.
const PARTS: [usize; 4] = [2, 12, 1_000, 20_000];

/// `TCP_FASTOPEN_NO_COOKIE` (`include/uapi/linux/tcp.h`): the first segment carries data without the server's consent.
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

/// Runs commands until the input ends.
pub(crate) fn obey() -> Result<()> {
    let mut process = Process::default();
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        match process.obey(&line?) {
            Ok(words) => writeln!(output, "ok {words}")?,
            Err(error) => match error.raw_os_error() {
                Some(number) => writeln!(output, "error {number}")?,
                None => return Err(error.into()),
            },
        }
        output.flush()?;
    }
    Ok(())
}

#[derive(Default)]
struct Process {
    sockets: Vec<Socket>,
    ring: Option<Ring>,
    /// A ring whose work a kernel thread takes.
    polled: Option<Ring>,
    /// Sender of the last received datagram.
    peer: Option<Peer>,
}

impl Process {
    fn obey(&mut self, line: &str) -> io::Result<String> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["ring"] => {
                self.ring = Some(Ring::new()?);
                Ok(String::new())
            }
            ["udp", address] => self.bind(Type::DGRAM, None, parse(address)?),
            ["listen", address] => self.bind(Type::STREAM, None, parse(address)?),
            ["listen-multipath", address] => {
                let protocol = Protocol::from(libc::IPPROTO_MPTCP);
                self.bind(Type::STREAM, Some(protocol), parse(address)?)
            }
            ["accept", socket] => {
                let stream = self.socket(socket)?.accept()?.0;
                self.keep(stream)
            }
            ["connect", server] => {
                let server: SocketAddr = parse(server)?;
                let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
                socket.connect(&server.into())?;
                self.keep(socket)
            }
            ["again", socket, server] => {
                let socket = self.socket(socket)?;
                calls::disconnect(socket.as_fd())?;
                socket.connect(&parse::<SocketAddr>(server)?.into())?;
                address(socket).map(|address| address.to_string())
            }
            ["begin", socket, size] => {
                let number: usize = parse(socket)?;
                self.socket(socket)?;
                let ring = self.ring.as_mut();
                let ring = ring.ok_or_else(|| io::Error::other("no ring"))?;
                ring.begin_recv(self.sockets[number].as_fd(), parse(size)?)?;
                Ok(String::new())
            }
            ["collect"] => {
                let ring = self.ring.as_mut();
                let ring = ring.ok_or_else(|| io::Error::other("no ring"))?;
                Ok(ring.collect()?.to_string())
            }
            ["join", socket, peer] => {
                let socket = self.socket(socket)?;
                socket.connect(&parse::<SocketAddr>(peer)?.into())?;
                Ok(String::new())
            }
            ["fetch", pid, descriptor] => {
                let fd = ways::descriptor_of(parse(pid)?, parse(descriptor)?)?;
                self.keep(Socket::from(fd))
            }
            ["raw", address] => {
                let sort = Type::from(libc::SOCK_RAW);
                self.bind(sort, Some(Protocol::UDP), parse(address)?)
            }
            ["take", socket, way, size] => {
                let (way, size) = (parse(way)?, parse(size)?);
                Ok(self.take(parse(socket)?, way, size)?.to_string())
            }
            ["put", socket, way, bytes] => {
                let bytes = unhex(bytes)?;
                Ok(self.put(parse(socket)?, parse(way)?, &bytes)?.to_string())
            }
            ["receive", socket, by, size, flags] => {
                let length = self.receive(socket, parse(by)?, parse(size)?, parse(flags)?)?;
                Ok(length.to_string())
            }
            ["send", socket, by, bytes] => {
                let sent = self.send(socket, parse(by)?, &unhex(bytes)?)?;
                Ok(sent.to_string())
            }
            ["two", socket, first, bytes] => {
                let socket = self.socket(socket)?;
                let bytes = unhex(bytes)?;
                let sent = calls::writev(socket.as_fd(), &slices(&bytes, &[parse(first)?]))?;
                Ok(sent.to_string())
            }
            ["parts", socket, buffer, bytes] => {
                let socket = self.socket(socket)?;
                socket.set_send_buffer_size(parse(buffer)?)?;
                socket.set_nonblocking(true)?;
                let calls = write_in_parts(socket, &unhex(bytes)?)?;
                socket.set_nonblocking(false)?;
                Ok(calls.to_string())
            }
            ["fastopen", server, cookie, bytes] => {
                let server: SocketAddr = parse(server)?;
                let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
                if cookie == "without" {
                    calls::set_option(
                        socket.as_fd(),
                        libc::IPPROTO_TCP,
                        TCP_FASTOPEN_NO_COOKIE,
                        1,
                    )?;
                }
                let calls = fast_open(&socket, &server.into(), &unhex(bytes)?)?;
                Ok(format!("{} {calls}", self.keep(socket)?))
            }
            _ => Err(io::Error::other(format!("unknown command: {line}"))),
        }
    }

    fn bind(
        &mut self,
        sort: Type,
        protocol: Option<Protocol>,
        address: SocketAddr,
    ) -> io::Result<String> {
        let socket = Socket::new(Domain::for_address(address), sort, protocol)?;
        socket.bind(&address.into())?;
        if sort == Type::STREAM {
            socket.listen(8)?;
        }
        self.keep(socket)
    }

    /// Stores the socket. Returns its number and its local address.
    fn keep(&mut self, socket: Socket) -> io::Result<String> {
        let address = address(&socket)?;
        self.sockets.push(socket);
        Ok(format!("{} {address}", self.sockets.len() - 1))
    }

    fn socket(&self, number: &str) -> io::Result<&Socket> {
        let number: usize = parse(number)?;
        let socket = self.sockets.get(number);
        socket.ok_or_else(|| io::Error::other("no such socket"))
    }

    /// Receives in a way that is no socket call. Returns the number of bytes.
    fn take(&mut self, number: usize, way: Way, size: usize) -> io::Result<usize> {
        let missing = || io::Error::other("no such socket");
        let mut buffer = vec![0; size];
        if way.is_of_ring() {
            let ring = ring_for(&mut self.ring, &mut self.polled, way)?;
            let fd = self.sockets.get(number).ok_or_else(missing)?.as_fd();
            return ring.take(fd, way, &mut buffer);
        }
        let fd = self.sockets.get(number).ok_or_else(missing)?.as_fd();
        ways::take(fd, way, &mut buffer)
    }

    /// Sends in a way that is no socket call. Returns the number of bytes.
    fn put(&mut self, number: usize, way: Way, bytes: &[u8]) -> io::Result<usize> {
        let missing = || io::Error::other("no such socket");
        if way.is_of_ring() {
            let ring = ring_for(&mut self.ring, &mut self.polled, way)?;
            let fd = self.sockets.get(number).ok_or_else(missing)?.as_fd();
            return ring.put(fd, way, bytes);
        }
        let fd = self.sockets.get(number).ok_or_else(missing)?.as_fd();
        ways::put(fd, way, bytes)
    }

    fn receive(&mut self, socket: &str, by: By, size: usize, flags: i32) -> io::Result<usize> {
        let mut buffer = vec![0; size];
        let number: usize = parse(socket)?;
        self.socket(socket)?;
        let socket = &self.sockets[number];
        let fd = socket.as_fd();
        let (received, peer) = match by {
            By::Read => (calls::read(fd, &mut buffer)?, None),
            By::Recv => calls::recvfrom(fd, &mut buffer, flags, false)?,
            By::Recvfrom => calls::recvfrom(fd, &mut buffer, flags, true)?,
            By::Recvmsg => calls::recvmsg(fd, &mut [IoSliceMut::new(&mut buffer)], false)?,
            By::Ring => {
                let ring = self.ring.as_mut();
                let ring = ring.ok_or_else(|| io::Error::other("no ring"))?;
                if socket.r#type()? == Type::STREAM {
                    (ring.recv(fd, &mut buffer)?, None)
                } else {
                    let (received, peer) = ring.recvmsg(fd, &mut buffer)?;
                    (received, Some(peer))
                }
            }
        };
        self.peer = peer.or(self.peer);
        Ok(received)
    }

    fn send(&mut self, socket: &str, by: By, bytes: &[u8]) -> io::Result<usize> {
        let number: usize = parse(socket)?;
        self.socket(socket)?;
        let socket = &self.sockets[number];
        let fd = socket.as_fd();
        let stream = socket.r#type()? == Type::STREAM;
        let peer = self.peer.as_ref().filter(|_| !stream);
        match by {
            By::Read => calls::write(fd, bytes),
            By::Recv => calls::sendto(fd, bytes, None),
            By::Recvfrom => calls::sendto(fd, bytes, peer),
            By::Recvmsg => calls::sendmsg(fd, &[IoSlice::new(bytes)], peer),
            By::Ring => {
                let ring = self.ring.as_mut();
                let ring = ring.ok_or_else(|| io::Error::other("no ring"))?;
                if stream {
                    ring.send(fd, bytes)
                } else {
                    ring.sendmsg(fd, bytes, peer)
                }
            }
        }
    }
}

/// Returns the ring of the way. One that a kernel thread serves is made when it is first needed.
fn ring_for<'a>(
    ring: &'a mut Option<Ring>,
    polled: &'a mut Option<Ring>,
    way: Way,
) -> io::Result<&'a mut Ring> {
    if way == Way::RingPolled {
        if polled.is_none() {
            *polled = Some(Ring::polled()?);
        }
        return polled.as_mut().ok_or_else(|| io::Error::other("no ring"));
    }
    ring.as_mut().ok_or_else(|| io::Error::other("no ring"))
}

fn address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::Error::other("no IP address"))
}

/// Writes all bytes with `writev` of several segments, and continues after a short call. Returns the number of calls
/// that wrote something.
fn write_in_parts(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    let (mut written, mut calls) = (0, 0);
    while written < bytes.len() {
        // The borders of the segments in the message stay the same, however much of it has been written.
        let mut cut = Vec::new();
        let mut end = 0;
        for part in PARTS {
            end += part;
            if end > written {
                cut.push(end - written - cut.iter().sum::<usize>());
            }
        }
        match calls::writev(socket.as_fd(), &slices(&bytes[written..], &cut)) {
            Ok(length) => {
                written += length;
                calls += 1;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                calls::poll(&mut [wait(socket.as_fd(), libc::POLLOUT)])?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(calls)
}

/// Connects with `sendmsg(MSG_FASTOPEN)`. If the kernel only connects (it has no cookie of the server), the same bytes
/// are sent again, as Unbound does. Returns the number of calls.
fn fast_open(socket: &Socket, server: &SockAddr, bytes: &[u8]) -> io::Result<usize> {
    socket.set_nonblocking(true)?;
    let (start, rest) = bytes.split_at(2);
    let segments = [IoSlice::new(start), IoSlice::new(rest)];
    let mut sent = 0;
    let mut calls = 1;
    match socket.send_to_vectored_with_flags(&segments, server, libc::MSG_FASTOPEN) {
        Ok(length) => sent = length,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    calls::poll(&mut [wait(socket.as_fd(), libc::POLLOUT)])?;
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.set_nonblocking(false)?;
    while sent < bytes.len() {
        sent += calls::writev(socket.as_fd(), &slices(&bytes[sent..], &[2]))?;
        calls += 1;
    }
    Ok(calls)
}

fn parse<T: FromStr>(word: &str) -> io::Result<T> {
    word.parse()
        .map_err(|_error| io::Error::other(format!("bad word `{word}`")))
}

fn unhex(text: &str) -> io::Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = str::from_utf8(pair).map_err(io::Error::other)?;
            u8::from_str_radix(pair, 16).map_err(io::Error::other)
        })
        .collect()
}
